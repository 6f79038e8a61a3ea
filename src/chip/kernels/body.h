/* body.h: a kernel set, written once over 16 lanes. Each set's file includes its lanes_*.h, defines SET_NAME and
 * SET_FUNCTION, and then includes this. Every result follows kernels.h operation by operation; what differs from
 * reference.c is the order in which independent results are computed.
 *
 * Products: a pass takes one panel (16 rows in 16 lanes) and up to LANES_TOKENS tokens (LANES_Q8_TOKENS with 8-bit
 * activations). `tokens`, `f` and `chains` are constants after inlining. */
#include "panel.h"
#include "sets.h"

/* What one pass with float32 activations reads, token by token, and the 16 results of each token. */
typedef struct pass {
    const unsigned char *panel;
    int64_t blocks;
    const float *x[LANES_TOKENS];
    const float *fsum[LANES_TOKENS];
    /* from this place in the panel on, every fetch_step bytes, the line fetch_ahead bytes further is fetched */
    uintptr_t fetch_from;
    size_t fetch_step, fetch_ahead;
    vf y[LANES_TOKENS];
} pass;

/* 8-bit activations of the tokens of a pass, block after block, the tokens of a block together: a term of a block is
 * one plane of it. A block has a second term if one of the tokens has a fine plane there; it adds nothing to the
 * others (their sums are not -0). */
/* tokens times terms at most; blocks in steps that every panel_group divides */
enum { PICKED_TERMS = 512, PICKED_STEP = 4 };
typedef struct picked {
    int64_t first, blocks; /* which blocks of the tokens */
    int terms;
    uint16_t block[PICKED_TERMS];             /* [terms] a term's block, from `first` on */
    _Alignas(64) int8_t q[PICKED_TERMS * 32]; /* [terms][tokens][32] */
    float d[PICKED_TERMS];                    /* [terms][tokens] */
    int32_t start[PICKED_TERMS];              /* [terms][tokens] q8_start; Q4_1: the sum */
} picked;

/* One pass with them over these blocks of a panel: y goes on, or begins with 0. */
typedef struct q8_pass {
    const unsigned char *panel; /* from block `first` on */
    const picked *x;
    float *y;
    size_t y_stride;
    int rows; /* of the panel, 1 .. 16 */
    uintptr_t fetch_from;
    size_t fetch_step, fetch_ahead;
} q8_pass;

INLINE vf load_some(const float *p, int64_t n) { return n >= 16 ? vf_load(p) : vf_load_part(p, (int)n); }
INLINE void store_some(float *p, vf a, int64_t n)
{
    if (n >= 16) vf_store(p, a);
    else vf_store_part(p, a, (int)n);
}
#define EACH_TOKEN _Pragma("GCC unroll 16") for (int t = 0; t < tokens; t++)

/* Called for each block in turn: asks for the lines that are due before `end`, the end of the block. */
INLINE void fetch(size_t step, size_t ahead, uintptr_t *next, const unsigned char *end)
{
    for (; *next < (uintptr_t)end; *next += step) __builtin_prefetch((const void *)(*next + ahead), 0, 2);
}

/* --- float weights: an even and an odd chain, 32 columns at a time, first the even columns of these, then the odd
 * ones --- */

/* Column c of 32. */
INLINE vf float_column(cl_format f, const unsigned char *w, int c)
{
    switch (f) {
    case CL_F32: return vf_load((const float *)(w + 64 * c));
    case CL_F16: return vf_load_f16(w + 32 * c);
    default: return c % 2 ? vf_bf16_odd(w + 32 * (c - 1)) : vf_bf16_even(w + 32 * c);
    }
}

INLINE void float_step(cl_format f, int tokens, const unsigned char *w, int c, const float *const *x, vf *chain)
{
    vf column = float_column(f, w, c);
    EACH_TOKEN chain[t] = vf_fma(column, vf_set1(x[t][c]), chain[t]);
}

/* Every other column of 32 from `first` on. */
INLINE void float_columns(cl_format f, int tokens, int first, const unsigned char *w, const float *const *x, vf *chain)
{
    for (int c = first; c < 32; c += 8) {
        float_step(f, tokens, w, c, x, chain);
        float_step(f, tokens, w, c + 2, x, chain);
        float_step(f, tokens, w, c + 4, x, chain);
        float_step(f, tokens, w, c + 6, x, chain);
    }
}

INLINE void float_pass(cl_format f, int tokens, pass *to)
{
    const pass p = *to;
    vf even[LANES_TOKENS], odd[LANES_TOKENS];
    EACH_TOKEN even[t] = odd[t] = vf_set1(0);
    const size_t bytes = f == CL_F32 ? 2048 : 1024;
    const unsigned char *w = p.panel;
    uintptr_t next = p.fetch_from;
    for (int64_t b = 0; b < p.blocks; b++, w += bytes) {
        fetch(p.fetch_step, p.fetch_ahead, &next, w + bytes);
        const float *x[LANES_TOKENS];
        EACH_TOKEN x[t] = p.x[t] + b * 32;
        float_columns(f, tokens, 0, w, x, even);
        float_columns(f, tokens, 1, w, x, odd);
    }
    EACH_TOKEN to->y[t] = vf_add(even[t], odd[t]);
}

/* --- quantised weights --- */

typedef struct block {
    const unsigned char *scale, *ints;
} block;

INLINE block block_at(cl_format f, const unsigned char *panel, int64_t blocks, int64_t b)
{
    if (f == CL_FP8) {
        return (block){panel + PANEL_FP8_SCALES + b / 4 * (int64_t)sizeof(float),
                       panel + panel_fp8_codes(blocks) + b * PANEL_I8};
    }
    int64_t group = panel_group(f), k = b % group;
    const unsigned char *at = panel + (size_t)(b / group) * panel_group_bytes(f);
    return (block){at + k * (PANEL_SCALES / group), at + PANEL_SCALES + (size_t)k * panel_integers(f)};
}

INLINE vf block_scale(cl_format f, block b)
{
    switch (f) {
    case CL_MXFP4: return vf_load_e8m0(b.scale);
    case CL_INT4: return vf_load_bf16(b.scale);
    case CL_FP8: return vf_set1(*(const float *)b.scale * 256);
    default: return vf_load_f16(b.scale);
    }
}

/* Columns 4g .. 4g+3 of a block. */
INLINE void block_columns(cl_format f, block b, int g, vf *q)
{
    if (f == CL_FP8) {
        vf_load_e4m3(b.ints + 64 * g, q);
        return;
    }
    const int8_t *table = f == CL_Q4_1 ? cl_q4_1_values : f == CL_MXFP4 ? cl_e2m1_doubled : cl_q4_0_values;
    vg all = f == CL_Q8_0 ? vg_load(b.ints + 64 * g)
             : g % 2      ? vg_high(b.ints + 32 * (g - 1), table)
                          : vg_low(b.ints + 32 * g, table);
    for (int c = 0; c < 4; c++) q[c] = vg_column(all, c);
}

/* `chains` blocks from b on, float32 activations: their sums are independent. */
INLINE void f32_blocks(cl_format f, int tokens, int chains, const pass *p, int64_t b, vf *y)
{
    vf s[LANES_CHAINS > LANES_TOKENS ? LANES_CHAINS : LANES_TOKENS];
    block w[LANES_CHAINS];
    for (int k = 0; k < chains; k++) {
        w[k] = block_at(f, p->panel, p->blocks, b + k);
        EACH_TOKEN s[k * tokens + t] = vf_set1(0);
    }
    for (int g = 0; g < 8; g++) {
        for (int k = 0; k < chains; k++) {
            vf q[4];
            block_columns(f, w[k], g, q);
            for (int c = 0; c < 4; c++) {
                EACH_TOKEN s[k * tokens + t] =
                    vf_fma(q[c], vf_set1(p->x[t][(b + k) * 32 + g * 4 + c]), s[k * tokens + t]);
            }
        }
    }
    for (int k = 0; k < chains; k++) {
        vf d = block_scale(f, w[k]);
        EACH_TOKEN y[t] = vf_fma(d, s[k * tokens + t], y[t]);
        if (f == CL_Q4_1) {
            vf m = vf_load_f16(w[k].scale + 2 * CL_PANEL);
            EACH_TOKEN y[t] = vf_fma(m, vf_set1(p->fsum[t][b + k]), y[t]);
        }
    }
}

INLINE void f32_pass(cl_format f, int tokens, pass *to)
{
    const int chains = LANES_CHAINS / tokens > 1 ? LANES_CHAINS / tokens : 1;
    const pass p = *to;
    vf y[LANES_TOKENS];
    EACH_TOKEN y[t] = f == CL_FP8 ? vf_load((const float *)p.panel) : vf_set1(0);
    int64_t b = 0;
    uintptr_t next = p.fetch_from;
    for (; b + chains <= p.blocks; b += chains) {
        fetch(p.fetch_step, p.fetch_ahead, &next, block_at(f, p.panel, p.blocks, b + chains).ints);
        f32_blocks(f, tokens, chains, &p, b, y);
    }
    for (; b < p.blocks; b++) f32_blocks(f, tokens, 1, &p, b, y);
    EACH_TOKEN to->y[t] = y[t];
}

/* One block, 8-bit activations: the tokens' bytes, scales and starts. */
INLINE void q8_block(cl_format f, int tokens, block w, const int8_t *q, const float *dx, const int32_t *start, vf *y)
{
    vi s[LANES_Q8_TOKENS];
    switch (f) {
    case CL_Q8_0: vi_dot_i8(tokens, w.ints, q, start, s); break;
    case CL_Q4_0:
    case CL_INT4: vi_dot_q4_0(tokens, w.ints, q, start, s); break;
    case CL_Q4_1: vi_dot_q4_1(tokens, w.ints, q, s); break;
    default: vi_dot_mxfp4(tokens, w.ints, q, start, s); break;
    }
    vf d = block_scale(f, w);
    EACH_TOKEN y[t] = vf_fma(vf_mul(d, vf_set1(dx[t])), vf_from_vi(s[t]), y[t]);
    if (f == CL_Q4_1) {
        vf m = vf_load_f16(w.scale + 2 * CL_PANEL);
        EACH_TOKEN y[t] = vf_fma(vf_mul(m, vf_set1(dx[t])), vf_set1((float)start[t]), y[t]);
    }
}

INLINE void q8_blocks(cl_format f, int tokens, const q8_pass *from)
{
    const q8_pass p = *from;
    vf y[LANES_Q8_TOKENS];
    EACH_TOKEN y[t] = p.x->first ? load_some(p.y + (size_t)t * p.y_stride, p.rows) : vf_set1(0);
    uintptr_t next = p.fetch_from;
    const int8_t *q = p.x->q;
    const float *d = p.x->d;
    const int32_t *start = p.x->start;
    for (int i = 0; i < p.x->terms; i++, q += tokens * 32, d += tokens, start += tokens) {
        block w = block_at(f, p.panel, 0, p.x->block[i]);
        fetch(p.fetch_step, p.fetch_ahead, &next, w.ints + panel_integers(f));
        const int half = tokens > LANES_Q8_SUMS ? (tokens + 1) / 2 : tokens;
        q8_block(f, half, w, q, d, start, y);
        if (half == tokens) continue;
        /* or the first half's unpacked weights are kept for the second, in registers that there are not */
        __asm__("" : "+r"(w.ints));
        q8_block(f, tokens - half, w, q + half * 32, d + half, start + half, y + half);
    }
    EACH_TOKEN store_some(p.y + (size_t)t * p.y_stride, y[t], p.rows);
}

/* --- all passes, by format, activations and number of tokens --- */

typedef void (*pass_fn)(pass *p);
typedef void (*q8_fn)(const q8_pass *p);

#define PASSES(T)                                                  \
    static void f32_##T(pass *p) { float_pass(CL_F32, T, p); }     \
    static void f16_##T(pass *p) { float_pass(CL_F16, T, p); }     \
    static void bf16_##T(pass *p) { float_pass(CL_BF16, T, p); }   \
    static void q8_0_f32_##T(pass *p) { f32_pass(CL_Q8_0, T, p); } \
    static void q4_0_f32_##T(pass *p) { f32_pass(CL_Q4_0, T, p); } \
    static void q4_1_f32_##T(pass *p) { f32_pass(CL_Q4_1, T, p); } \
    static void mx_f32_##T(pass *p) { f32_pass(CL_MXFP4, T, p); }  \
    static void int4_f32_##T(pass *p) { f32_pass(CL_INT4, T, p); } \
    static void fp8_##T(pass *p) { f32_pass(CL_FP8, T, p); }
#define Q8_PASSES(T)                                                        \
    static void q8_0_q8_##T(const q8_pass *p) { q8_blocks(CL_Q8_0, T, p); } \
    static void q4_0_q8_##T(const q8_pass *p) { q8_blocks(CL_Q4_0, T, p); } \
    static void q4_1_q8_##T(const q8_pass *p) { q8_blocks(CL_Q4_1, T, p); } \
    static void mx_q8_##T(const q8_pass *p) { q8_blocks(CL_MXFP4, T, p); }  \
    static void int4_q8_##T(const q8_pass *p) { q8_blocks(CL_INT4, T, p); }

/* In the order of cl_format, 8-bit activations from CL_Q8_0 on. */
#define ROW(T) \
    [T] = {f32_##T, f16_##T, bf16_##T, q8_0_f32_##T, q4_0_f32_##T, q4_1_f32_##T, mx_f32_##T, int4_f32_##T, fp8_##T},
#define Q8_ROW(T) [T] = {q8_0_q8_##T, q4_0_q8_##T, q4_1_q8_##T, mx_q8_##T, int4_q8_##T},

EACH_SIZE(PASSES)
EACH_Q8_SIZE(Q8_PASSES)

static const pass_fn passes[LANES_TOKENS + 1][CL_NATIVE_FORMATS] = {EACH_SIZE(ROW)};
static const q8_fn q8_passes[LANES_Q8_TOKENS + 1][CL_FP8 - CL_Q8_0] = {EACH_Q8_SIZE(Q8_ROW)};

/* The first pass over a panel takes it from memory, the others find it in a cache. So a product of one pass fetches a
 * little ahead; one of several passes fetches the next panel, each pass its share of the lines. */
enum { LINE = 64, FETCH_AHEAD = 8192 };

INLINE void plan_fetch(pass *p, int i, int n_passes, size_t panel_size, bool last_panel)
{
    bool never = n_passes > 1 && last_panel;
    p->fetch_from = never ? UINTPTR_MAX : (uintptr_t)p->panel + (size_t)i * LINE;
    p->fetch_step = (size_t)n_passes * LINE;
    p->fetch_ahead = n_passes == 1 ? FETCH_AHEAD : panel_size;
}

static void float_product(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const cl_acts *x,
                          const int32_t *index, int n, float *y, size_t y_stride)
{
    const int n_passes = (n + LANES_TOKENS - 1) / LANES_TOKENS;
    pass p = {.blocks = panel_blocks(w->cols)};
    for (int64_t i = p0; i < p1; i++) {
        p.panel = w->data + (size_t)(expert * w->panels + i) * w->panel_bytes;
        for (int j = 0; j < n_passes; j++) {
            int t0 = n * j / n_passes, tokens = n * (j + 1) / n_passes - t0; /* passes of nearly equal size */
            for (int t = 0; t < tokens; t++) {
                size_t token = (size_t)(index ? index[t0 + t] : t0 + t);
                p.x[t] = x->f32 + token * x->stride;
                if (!x->q8 && x->fsum) p.fsum[t] = x->fsum + token * (size_t)p.blocks;
            }
            plan_fetch(&p, j, n_passes, w->panel_bytes, i + 1 == p1);
            passes[tokens][w->format](&p);
            for (int t = 0; t < tokens; t++)
                store_some(y + (size_t)(t0 + t) * y_stride + i * CL_PANEL, p.y[t], w->rows - i * CL_PANEL);
        }
    }
}

/* --- products with 8-bit activations: tokens in groups, blocks in pieces; what a group and a piece need is picked
 * once for a batch of panels, which stay in a cache for the next group. --- */

enum { BATCH_BYTES = 1 << 19 };

/* The blocks from to->first on that have room, and their terms; plane[i] is the place of term i among a token's
 * blocks and planes. */
static void pick_terms(const cl_acts *x, const int32_t *tokens, int n, picked *to, int64_t *plane)
{
    const int64_t left = panel_blocks(x->cols) - to->first;
    const int most = PICKED_TERMS / n / PICKED_STEP * PICKED_STEP, blocks = left < most ? (int)left : most;
    const int room = PICKED_TERMS / n - PICKED_STEP * x->planes;
    bool fine[PICKED_TERMS] = {false};
    for (int t = 0; x->planes == 2 && t < n; t++) {
        for (int b = 0; b < blocks; b++) fine[b] |= cl_has_fine(x, tokens[t], to->first + b);
    }
    int b = 0;
    to->terms = 0;
    for (; b < blocks && (b % PICKED_STEP != 0 || to->terms <= room); b++) {
        for (int k = 0; k <= fine[b]; k++) {
            plane[to->terms] = (to->first + b) * x->planes + k;
            to->block[to->terms++] = (uint16_t)b;
        }
    }
    to->blocks = b;
}

/* From block to->first on, as many as fit. */
static void pick(cl_format f, const cl_acts *x, const int32_t *tokens, int n, picked *to)
{
    int64_t plane[PICKED_TERMS];
    pick_terms(x, tokens, n, to, plane);
    const int offset = q8_offset(f);
    for (int t = 0; t < n; t++) {
        const int64_t start = tokens[t] * panel_blocks(x->cols) * x->planes;
        for (int i = 0, to_i = t; i < to->terms; i++, to_i += n) {
            const int64_t at = start + plane[i];
            memcpy(to->q + to_i * 32, x->q + at * 32, 32);
            to->d[to_i] = x->d[at];
            to->start[to_i] = f == CL_Q4_1 ? total_of_sum(x->sum[at]) : q8_start(offset, x->sum[at]);
        }
    }
}

/* Panels p0..p1 and the blocks of `x` for the tokens whose rows of results begin at y. */
static void q8_panels(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const picked *x, int tokens,
                      bool ahead, float *y, size_t y_stride)
{
    const int64_t group = panel_group(w->format);
    const bool whole = x->first == 0 && x->blocks == panel_blocks(w->cols);
    const size_t skip = (size_t)(x->first / group) * panel_group_bytes(w->format);
    q8_pass p = {.x = x, .y_stride = y_stride, .fetch_step = LINE};
    for (int64_t i = p0; i < p1; i++) {
        const int64_t rows = w->rows - i * CL_PANEL;
        p.panel = w->data + (size_t)(expert * w->panels + i) * w->panel_bytes + skip;
        p.y = y + i * CL_PANEL;
        p.rows = rows < CL_PANEL ? (int)rows : CL_PANEL;
        p.fetch_from = ahead ? (uintptr_t)p.panel : UINTPTR_MAX;
        p.fetch_ahead = whole ? FETCH_AHEAD : w->panel_bytes; /* pieces: the same piece of the next panel */
        q8_passes[tokens][w->format - CL_Q8_0](&p);
    }
}

static void q8_product(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const cl_acts *x,
                       const int32_t *index, int n, float *y, size_t y_stride)
{
    const int groups = (n + LANES_Q8_TOKENS - 1) / LANES_Q8_TOKENS;
    const int64_t blocks = panel_blocks(w->cols), fit = (int64_t)(BATCH_BYTES / w->panel_bytes),
                  batch = fit > 1 ? fit : 1;
    picked xp;
    for (int64_t p = p0, end; p < p1; p = end) {
        end = groups == 1 || p1 - p < batch ? p1 : p + batch;
        for (int j = 0; j < groups; j++) {
            const int t0 = n * j / groups, tokens = n * (j + 1) / groups - t0; /* groups of nearly equal size */
            int32_t which[LANES_Q8_TOKENS];
            for (int t = 0; t < tokens; t++) which[t] = index ? index[t0 + t] : t0 + t;
            for (xp.first = 0; xp.first < blocks; xp.first += xp.blocks) {
                pick(w->format, x, which, tokens, &xp);
                q8_panels(w, expert, p, end, &xp, tokens, j == 0, y + (size_t)t0 * y_stride, y_stride);
            }
        }
    }
}

static void matmul(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const cl_acts *x, const int32_t *index,
                   int n_index, float *y, size_t y_stride)
{
    const int n = index ? n_index : x->n;
    if (x->q8 && cl_format_integer(w->format)) q8_product(w, expert, p0, p1, x, index, n, y, y_stride);
    else float_product(w, expert, p0, p1, x, index, n, y, y_stride);
}

/* --- activations --- */

INLINE float mean_square(const float *x, int64_t n)
{
    vf lane = vf_set1(0);
    for (int64_t i = 0; i < n; i += 16) {
        vf a = load_some(x + i, n - i);
        lane = vf_fma(a, a, lane);
    }
    return vf_fold_add(lane) / (float)n;
}

/* Both planes of block i; what has no second one is zeros there. */
INLINE void prepare_planes(cl_acts *x, int64_t i, const float *in, float r)
{
    int8_t *q = x->q + i * 64;
    float *d = x->d + i * 2;
    int32_t *sum = x->sum + i * 2;
    d[0] = block_q8(in, q, &sum[0]);
    d[1] = 0;
    sum[1] = 0;
    memset(q + 32, 0, 32);
    if (x->mixed && !(d[0] > CL_MIXED_SCALE * r)) return;
    cl_block_q16(in, q, q + 32, d);
    sum[0] = kept_sum(q);
    sum[1] = kept_sum(q + 32);
}

static void prepare(cl_acts *x, int t0, int t1)
{
    int64_t blocks = panel_blocks(x->cols);
    for (int t = t0; t < t1; t++) {
        const float *in = x->f32 + (size_t)t * x->stride;
        const float r = x->q8 && x->mixed ? sqrtf(mean_square(in, x->cols)) : 0;
        for (int64_t b = 0, at = t * blocks; b < blocks; b++, at++, in += 32) {
            if (x->q8 && x->planes == 2) {
                prepare_planes(x, at, in, r);
            } else if (x->q8) {
                x->d[at] = block_q8(in, x->q + at * 32, &x->sum[at]);
            } else if (x->fsum) {
                x->fsum[at] = 0;
                for (int c = 0; c < 32; c++) x->fsum[at] += in[c];
            }
        }
    }
}

/* --- vectors --- */

INLINE vf lanes_exp(vf x)
{
    x = vf_max(vf_set1(CL_EXP_LO), x);
    x = vf_min(vf_set1(CL_EXP_HI), x);
    vf t = vf_fma(x, vf_set1(CL_EXP_LOG2E), vf_set1(CL_EXP_ROUND)), n = vf_sub(t, vf_set1(CL_EXP_ROUND));
    vf r = vf_fma(n, vf_set1(-CL_EXP_LN2_HI), x);
    r = vf_fma(n, vf_set1(-CL_EXP_LN2_LO), r);
    vf p = vf_set1(CL_EXP_C6);
    p = vf_fma(p, r, vf_set1(CL_EXP_C5));
    p = vf_fma(p, r, vf_set1(CL_EXP_C4));
    p = vf_fma(p, r, vf_set1(CL_EXP_C3));
    p = vf_fma(p, r, vf_set1(CL_EXP_C2));
    p = vf_fma(p, r, vf_set1(1));
    p = vf_fma(p, r, vf_set1(1));
    return vf_scale2(p, t);
}

static void rmsnorm(const float *x, const float *w, int64_t n, float eps, float *y)
{
    vf r = vf_set1(1.0f / sqrtf(mean_square(x, n) + eps));
    for (int64_t i = 0; i < n; i += 16) {
        vf a = vf_mul(load_some(x + i, n - i), r);
        store_some(y + i, w ? vf_mul(a, load_some(w + i, n - i)) : a, n - i);
    }
}

static void silu_mul(const float *g, const float *u, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += 16) {
        vf a = load_some(g + i, n - i), b = load_some(u + i, n - i);
        store_some(y + i, vf_mul(vf_div(a, vf_add(vf_set1(1), lanes_exp(vf_neg(a)))), b), n - i);
    }
}

static void clamped_mul(const float *g, const float *u, int64_t n, float limit, float alpha, float *y)
{
    const vf most = vf_set1(limit), least = vf_set1(-limit), one = vf_set1(1);
    for (int64_t i = 0; i < n; i += 16) {
        vf a = vf_min(most, load_some(g + i, n - i)), b = vf_max(least, vf_min(most, load_some(u + i, n - i)));
        vf gate = vf_div(a, vf_add(one, lanes_exp(vf_neg(vf_mul(vf_set1(alpha), a)))));
        store_some(y + i, vf_mul(vf_add(b, one), gate), n - i);
    }
}

static void add(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16)
        store_some(x + i, vf_add(load_some(x + i, n - i), load_some(y + i, n - i)), n - i);
}

static void axpy(float *x, float a, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        store_some(x + i, vf_fma(vf_set1(a), load_some(y + i, n - i), load_some(x + i, n - i)), n - i);
    }
}

#include "body_attend.h"

#define SET(NAME, MATMUL)                                                                                         \
    {                                                                                                             \
        .name = NAME, .panel_bytes = panel_bytes, .pack = panel_pack, .unpack = panel_unpack, .prepare = prepare, \
        .matmul = MATMUL, .rmsnorm = rmsnorm, .silu_mul = silu_mul, .clamped_mul = clamped_mul, .add = add,       \
        .axpy = axpy, .kv_store = cl_kv_store, .attend = attend, .attend_latent = attend_latent                   \
    }

const cl_kernels *SET_FUNCTION(void)
{
    static const cl_kernels set = SET(SET_NAME, matmul);
    return &set;
}
