/* kernels.h: the arithmetic of a chip. One reference, one set per instruction set, chosen once; all agree bit for bit.
 *
 * Boundary: chip/ only. No allocation, no threads, no globals: callers split the work (by panels, heads, tokens) and
 * own all memory. A result depends on its own inputs alone: not on how many tokens travel together, which thread
 * computes it, or the vector width. That is a definition, so here it is, operation by operation; fma is the fused one
 * (one rounding), every other operation rounds to float32; compile with -ffp-contract=off, never -ffast-math.
 *
 * PRODUCT y = W x, one row, n columns in blocks of 32 (in every format, float ones too; a padded tail multiplies
 * zeros, which changes no bit except that -0 may become +0):
 *   f32, f16, bf16 weights (x is always float32): e = o = 0; over even columns ascending e = fma(w, x, e); over odd
 *     columns ascending o = fma(w, x, o); y = e + o.
 *   quantised weights, float32 x: y = 0; per block ascending: s = 0; over its columns ascending s = fma(q, x, s);
 *     y = fma(d, s, y). Q4_1 adds y = fma(m, t, y) after it, t = the block's x summed ascending with float32 adds.
 *     q is the integer (Q8_0: q; Q4_0, INT4: n - 8; Q4_1: n; MXFP4: cl_e2m1_doubled; FP8: the E4M3 number times
 *     2^-8), d the block's scale (MXFP4: cl_e8m0_half; FP8: 2^8 times that of the 128-column tile the block of 32
 *     lies in; a half-precision number gives the first without a multiplication).
 *   quantised weights other than FP8, 8-bit x: per block isum = exact integer sum of q * xq; y = fma(d * dx,
 *     (float)isum, y). Q4_1 adds y = fma(m * dx, (float)(sum of xq), y).
 *   The same with two planes of 8-bit x: per block first y = fma(d * d1, (float)isum1, y) with the coarse one, then,
 *     where the block has a fine one, y = fma(d * d2, (float)isum2, y) with it, Q4_1's term after each. (Weights
 *     whose scale is infinite or NaN give infinity or NaN; which of the two is not defined here.)
 * 16-BIT BLOCKS: v = x * (32258 / amax), rounded to nearest even as an integer (all 0 as below); coarse = rne(v * (1
 *   / 254)), fine = v - 254 * coarse, both in -127 .. 127; d2 = amax / 32258, d1 = 254 * d2.
 * MIXED x: a block is a 16-bit block if amax / 127 > (8 / 127) * r, r = sqrtf(lane[0] / n) of its row of n columns,
 *   lanes as in RMSNORM: one that a few large numbers would leave with few steps for the others. Else it is an 8-bit
 *   block, without a fine plane.
 * 8-BIT BLOCKS of x (32 columns): amax = max |x|, where NaN counts as the largest; dx = amax / 127; xq =
 *   round-to-nearest-even(x * (127 / amax)), all 0 if amax or 127 / amax is not finite (so NaN and infinity reach
 *   every product through dx); |xq| <= 127.
 * RMSNORM: 16 lanes: lane[i % 16] = fma(x, x, lane[i % 16]) ascending; fold lane[i] += lane[i + 8], then 4, 2, 1;
 *   r = 1 / sqrtf(lane[0] / n + eps); y = (x * r) * w.
 * EXP: cl_exp below. SILU-GATED: (g / (1 + cl_exp(-g))) * u.
 * CLAMPED (gpt-oss): g = g > L ? L : g; u = u > L ? L : u < -L ? -L : u; (u + 1) * (g / (1 + cl_exp(-(alpha * g)))).
 * ATTENTION of one query head at position p over visible positions lo..p, in runs of CL_KV_RUN positions: run r has
 *   those with j / CL_KV_RUN = r. s_j = scale * (q.k_j), q.k_j = one fma chain over the head's numbers ascending (from
 *   0). Of each run: m = max s_j, or the sink S if that is larger; e_j = cl_exp(s_j - m); sum z: 16 lanes, lane[j %
 *   16] += e_j for j ascending, folded as above; o_i = one chain over j ascending o_i = fma(e_j, v_ji, o_i). Two of
 *   them, x before y, are joined: m = the larger of both, a = cl_exp(mx - m), b = cl_exp(my - m), of which one is 1; z
 *   = fma(zx, a, zy * b), o_i = fma(ox_i, a, oy_i * b). That is done as a binary tree: runs 2k and 2k + 1, then such
 *   pairs, and so on; where one of two sees nothing, the other stands for both. So several chips can each have runs of
 *   a sequence. At last z = z + cl_exp(S - m) if there is a sink; out_i = o_i * (1 / z).
 *   LATENT: the same with values v_j = the first v_dim numbers of key j.
 *   (positions of a block that are not visible take no part, whatever their memory holds.) Cache bf16: k, v are
 *   rounded to nearest even when stored. Cache q8: per position, head and block of 32 numbers d = amax / 127 and
 *   rounded integers, as above; the chain for q.k is per block t = fma(q, kq, t) from 0, s = fma(d, t, s); for values
 *   o_i = fma(e_j * d, (float)vq, o_i). */
#ifndef CHIPLINE_KERNELS_H
#define CHIPLINE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chipline/format.h"
#include "chipline/status.h"

/* exp(x) in float32, 2 ulp, defined by its operations so that every instruction set gives the same bits: clamp x to
 * [-87.3, 88.7] (NaN passes); n = fma(x, log2e, 1.5 * 2^23) - 1.5 * 2^23, the nearest integer; r = fma(n, -ln2_hi,
 * x); r = fma(n, -ln2_lo, r); a fixed fma polynomial in r; times 2^n. */
float cl_exp(float x);

enum {
    CL_PANEL = 16,         /* rows per panel: one row is one lane */
    CL_KV_RUN = 256,       /* positions that attention sums one after the other */
    CL_X_TOKENS = 8,       /* preferred multiple of tokens per call */
    CL_ATTEND_QUERIES = 8, /* most queries per call of attend */
    CL_LATENT_HEADS = 16   /* most heads per call of attend_latent */
};
/* Most runs or trees of them that wait for others at once: of m runs before one, those of the ones in m's binary
 * digits. */
static inline int cl_pending_runs(int64_t positions)
{
    int n = 0;
    for (int64_t before = (positions + CL_KV_RUN - 2) / CL_KV_RUN; before > 0; before /= 2) n++;
    return n;
}
/* Floats of scratch for n queries that see up to `positions` positions: the scores of a run, the query and its results,
 * of v_dim numbers, of what waits. */
static inline size_t cl_scratch_of_queries(int n, int64_t positions, int v_dim)
{
    return (size_t)n * (size_t)(CL_KV_RUN + (3 + cl_pending_runs(positions)) * ((v_dim + 15) / 16 * 16 + 16));
}
/* For attend; for attend_latent. */
static inline size_t cl_attend_scratch(int64_t positions, int head_dim)
{
    return cl_scratch_of_queries(CL_ATTEND_QUERIES, positions, head_dim);
}
static inline size_t cl_latent_scratch(int64_t positions, int v_dim)
{
    return cl_scratch_of_queries(CL_LATENT_HEADS, positions, v_dim);
}

/* A matrix (or experts of equal shape) in panels: opaque bytes that only a kernel set reads; the layout is the set's
 * own. Panel p holds rows 16p .. 16p+15, missing rows are zeros. */
typedef struct cl_matrix {
    cl_format format;
    int64_t experts; /* >= 1 */
    int64_t rows, cols;
    int64_t panels; /* ceil(rows / 16) */
    size_t panel_bytes;
    unsigned char *data; /* [experts][panels][panel_bytes], 64-byte aligned */
} cl_matrix;

/* Tokens' activations, prepared for products. Filled by cl_kernels.prepare; buffers are the caller's. */
typedef struct cl_acts {
    int n; /* tokens */
    int64_t cols;
    bool q8;          /* 8-bit forms are there too: products with integer formats use them */
    int planes;       /* of these: 1, or 2 for 16-bit numbers */
    bool mixed;       /* two planes, but only some blocks have the second; d and q of the others' are 0 */
    const float *f32; /* [n][stride], padded with zeros to a multiple of 32 columns */
    size_t stride;    /* floats between tokens */
    int8_t *q;        /* 8-bit: [n][blocks][planes][32] */
    float *d;         /* [n][blocks][planes] */
    int32_t *sum;     /* [n][blocks][planes] sums of q, or what the set keeps of them */
    float *fsum;      /* [n][blocks] sums of float32 x, for Q4_1 with float32 x */
} cl_acts;

/* One layer's cache of one sequence and one kv head: block b of positions 16b .. 16b+15 is block table[b % blocks] of
 * the keys and of the values, which may hold other sequences' blocks too. Keys are stored dimension-major inside a
 * block ([head_dim][16]), values position-major; q8 has float32 scales [ceil(head_dim / 32)][16] in front of either. */
typedef struct cl_kv_head {
    cl_kv_format format;
    int head_dim;
    size_t block_bytes;   /* cl_kv_block_bytes */
    int64_t blocks;       /* of the table */
    const int32_t *table; /* [blocks] */
    /* [][block_bytes], 64-byte aligned; values NULL: latent, they are in the keys */
    unsigned char *keys, *values;
} cl_kv_head;

/* One query head of one token: it sees positions lo .. pos. */
typedef struct cl_query {
    const float *q;    /* [head_dim] */
    float *out;        /* [head_dim] */
    const float *sink; /* its logit, or NULL */
    int64_t lo, pos;
} cl_query;

typedef struct cl_kernels {
    const char *name; /* "reference", "generic", "neon", "avx2", "avx512", "amx" */

    /* Packing. panel_bytes for one panel of `cols` columns; pack writes panel(s) from n_rows consecutive canonical
     * rows starting at a panel boundary (n_rows a multiple of 16, or the matrix's last rows: the rest becomes zeros).
     * */
    size_t (*panel_bytes)(cl_format f, int64_t cols);
    void (*pack)(cl_format f, int64_t cols, const unsigned char *rows, int64_t n_rows, unsigned char *panels);
    /* Decodes row `row` (0..15) of one panel into cols float32 numbers, exactly (the bits cl_decode_row gives):
     * embedding rows. */
    void (*unpack)(cl_format f, int64_t cols, const unsigned char *panel, int row, float *out);

    /* Fills x's derived buffers for tokens t0..t1 from x->f32 (8-bit blocks and sums when x->q8, fsum otherwise when
     * wanted). */
    void (*prepare)(cl_acts *x, int t0, int t1);

    /* y[t * y_stride + r] = row r of (expert) times token t, for panels p0..p1 and all n tokens of x; rows past
     * w->rows are not written. If index is not NULL, token t of the product is token index[t] of x, for n_index
     * tokens (grouped experts): y row is then t. */
    void (*matmul)(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const cl_acts *x, const int32_t *index,
                   int n_index, float *y, size_t y_stride);

    /* w may be NULL (weightless); x may be y */
    void (*rmsnorm)(const float *x, const float *w, int64_t n, float eps, float *y);
    void (*silu_mul)(const float *g, const float *u, int64_t n, float *y); /* y may be g or u */
    /* y may be g or u */
    void (*clamped_mul)(const float *g, const float *u, int64_t n, float limit, float alpha, float *y);
    void (*add)(float *x, const float *y, int64_t n);           /* x += y */
    void (*axpy)(float *x, float a, const float *y, int64_t n); /* x = fma(a, y, x) */

    /* Stores k, v [head_dim] of position pos; v is not looked at where h->values is NULL. */
    void (*kv_store)(const cl_kv_head *h, int64_t pos, const float *k, const float *v);
    /* Attention of n <= CL_ATTEND_QUERIES queries that share a kv head and a sequence: what is read for one serves
     * all. They may see different positions. scratch: cl_attend_scratch floats. */
    void (*attend)(const cl_kv_head *h, int n, const cl_query *queries, float scale, float *scratch);
    /* Latent attention of n <= CL_LATENT_HEADS query heads of one token: q [n][q_stride] (head_dim numbers each), out
     * [n][out_stride] (v_dim each), sinks [n] or NULL; scratch: cl_latent_scratch floats. */
    void (*attend_latent)(const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim, int64_t lo,
                          int64_t pos, float scale, const float *sinks, float *out, size_t out_stride, float *scratch);
} cl_kernels;

/* The plain scalar definition above, kept forever. */
const cl_kernels *cl_kernels_reference(void);
/* The best set for this CPU, or the one named ("reference", "generic", "neon", "avx2", "avx512", "amx"); CL_E_USAGE
 * if unknown, CL_E_FIT if this CPU lacks it. */
cl_code cl_kernels_choose(const char *name, const cl_kernels **out, cl_err *err);
/* Names of the sets this CPU can run, NULL-terminated, best first. */
const char *const *cl_kernels_available(void);

#endif
