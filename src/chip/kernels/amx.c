/* amx.c: the AVX-512 set, with 8-bit products of several tokens on AMX tiles (x86-64, Linux). The exact integer sums
 * of 16 rows by up to 16 tokens come from one instruction per block of 32 columns; scales and additions follow in the
 * order of kernels.h.
 *
 * A block of a panel, [8][16 rows][4] signed bytes, is what the instruction takes as its second operand; 4-bit codes
 * become such blocks in a buffer. The tokens are its first operand, in groups of nearly equal size. The columns go by
 * in pieces of PIECE blocks, whose activations are picked once for all groups, and whose weights are made ready once
 * for all groups of a call. */
#include "lanes_avx512.h"
#include "sets.h"

#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Fewer tokens are faster on the lanes, where 4-bit codes need no buffer. The groups of FEWEST tokens and more are
 * never narrower than NARROWEST, once of even width. */
enum { FEWEST = 7, FEWEST_CODES = 12, NARROWEST = 8 };

enum { TOKENS = 16, GROUPS = 8, PIECE = 32, TERMS = 2 * PIECE, STEP = 4, BLOCK = 32, LINE = 64, BATCH_BYTES = 1 << 19 };

/* Activations of one piece for each group: [term][width], a term being one plane of a block, filled up to a multiple
 * of STEP. A block has a second term if one of the group's tokens has a fine plane there; it adds nothing to the
 * others (their sums are not -0). */
typedef struct picked {
    struct group {
        int terms;
        uint8_t block[TERMS];
        float d[TERMS * TOKENS], sum[TERMS * TOKENS];
        _Alignas(64) int8_t q[TERMS * TOKENS * BLOCK];
    } groups[GROUPS];
} picked;

/* Weights of one piece of one panel: signed bytes [block][8][16 rows][4], where the panel itself has them or in the
 * buffer. One block more than a piece has is of no weight. */
typedef struct ready {
    const unsigned char *ints[PIECE + 1];
    _Alignas(64) float scale[PIECE + 1][CL_PANEL], minimum[PIECE + 1][CL_PANEL];
    _Alignas(64) unsigned char buffer[PIECE * PANEL_I8];
} ready;

/* One group over one piece of a panel: y goes on. */
typedef struct pass {
    const ready *w;
    const struct group *x;
    int tokens;
    bool first; /* y begins with 0 */
    __mmask16 rows;
    float *y;
    size_t y_stride;
    /* what to ask for meanwhile: as many lines with each term after the first STEP, so no branch to guess */
    const char *fetch;
    int fetches;
    size_t fetch_step; /* bytes, at most LINE */
} pass;

/* --- tiles: 0, 1, 6, 7 sums [width][16 rows], 2, 3 tokens [width][32 bytes], 4, 5 weights [8][64 bytes] --- */

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} tile_config;

static void configure(int width)
{
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.bytes[i] = i / 2 == 1 ? BLOCK : LINE;
        c.rows[i] = i / 2 == 2 ? 8 : (uint8_t)width;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(c));
}

/* Sums of one block and plane come to be in tile C. */
#define MULTIPLY(C, A, B, q, w)                                                                                  \
    __asm__ volatile("tileloadd (%0,%2,1), %%tmm" #A "\n\ttileloadd (%1,%3,1), %%tmm" #B "\n\ttilezero %%tmm" #C \
                     "\n\ttdpbssd %%tmm" #B ", %%tmm" #A ", %%tmm" #C                                            \
                     :                                                                                           \
                     : "r"(q), "r"(w), "r"((size_t)BLOCK), "r"((size_t)LINE)                                     \
                     : "memory")
#define STORE(C, to) __asm__ volatile("tilestored %%tmm" #C ", (%0,%1,1)" : : "r"(to), "r"((size_t)LINE) : "memory")

#define EACH_TOKEN _Pragma("GCC unroll 16") for (int t = 0; t < width; t++)

INLINE void add_block(bool minimum, int width, const ready *w, int block, const int32_t *s, const float *dx,
                      const float *sum, vf *y)
{
    vf d = vf_load(w->scale[block]);
    EACH_TOKEN
    {
        y[t] = vf_fma(vf_mul(d, vf_set1(dx[t])), vf_from_vi(_mm512_load_si512(s + CL_PANEL * t)), y[t]);
        __asm__ volatile("" : "+v"(y[t])); /* one after the other: else gcc runs out of registers */
    }
    if (!minimum) return;
    vf m = vf_load(w->minimum[block]);
    EACH_TOKEN y[t] = vf_fma(vf_mul(m, vf_set1(dx[t])), vf_set1(sum[t]), y[t]);
}

/* Term K after those that are done, in tile C; the sums of two terms before it leave their tile, those of four before
 * it are added: what the tiles take long for is under way for several terms at a time. */
#define BEGIN(C, X, W, K) MULTIPLY(C, X, W, q + (K)*width * BLOCK, p->w->ints[block[K]])
#define ADD(S, K) add_block(minimum, width, p->w, block[(K)-4], s[S], d + ((K)-4) * width, sum + ((K)-4) * width, y)
#define FETCH \
    for (int k = 0; k < p->fetches; k++, fetch += p->fetch_step) __builtin_prefetch(fetch, 0, 2)

INLINE void run_pass(bool minimum, int width, const pass *p)
{
    _Alignas(64) int32_t s[4][TOKENS * CL_PANEL];
    vf y[TOKENS];
    EACH_TOKEN y[t] = p->first || t >= p->tokens ? vf_set1(0)
                                                 : _mm512_maskz_loadu_ps(p->rows, p->y + (size_t)t * p->y_stride);
    const int8_t *q = p->x->q;
    const uint8_t *block = p->x->block;
    const float *d = p->x->d, *sum = p->x->sum;
    const char *fetch = p->fetch;
    BEGIN(0, 2, 4, 0);
    BEGIN(1, 3, 5, 1);
    STORE(0, s[0]);
    BEGIN(6, 2, 4, 2);
    STORE(1, s[1]);
    BEGIN(7, 3, 5, 3);
    for (int i = 4; i < p->x->terms; i += 4) {
        q += 4 * width * BLOCK;
        block += 4;
        d += 4 * width;
        sum += 4 * width;
        STORE(6, s[2]);
        BEGIN(0, 2, 4, 0);
        ADD(0, 0);
        FETCH;
        STORE(7, s[3]);
        BEGIN(1, 3, 5, 1);
        ADD(1, 1);
        FETCH;
        STORE(0, s[0]);
        BEGIN(6, 2, 4, 2);
        ADD(2, 2);
        FETCH;
        STORE(1, s[1]);
        BEGIN(7, 3, 5, 3);
        ADD(3, 3);
        FETCH;
    }
    block += 4;
    d += 4 * width;
    sum += 4 * width;
    STORE(6, s[2]);
    STORE(7, s[3]);
    ADD(0, 0);
    ADD(1, 1);
    ADD(2, 2);
    ADD(3, 3);
    EACH_TOKEN if (t < p->tokens) _mm512_mask_storeu_ps(p->y + (size_t)t * p->y_stride, p->rows, y[t]);
}

#define PASSES(W)                                                   \
    static void plain_##W(const pass *p) { run_pass(false, W, p); } \
    static void minimum_##W(const pass *p) { run_pass(true, W, p); }
PASSES(8)
PASSES(10)
PASSES(12)
PASSES(14)
PASSES(16)
static void (*const passes[2][(TOKENS - NARROWEST) / 2 + 1])(const pass *) =
    {{plain_8, plain_10, plain_12, plain_14, plain_16}, {minimum_8, minimum_10, minimum_12, minimum_14, minimum_16}};

/* --- what a call makes ready --- */

typedef struct call {
    const cl_matrix *w;
    const cl_acts *x;
    const int32_t *index;
    int t0, n, groups, width; /* tokens of this round, in groups of at most `width` */
    int first, blocks;        /* the piece */
} call;

static int group_start(const call *c, int g) { return c->n * g / c->groups; }
static int64_t token_of(const call *c, int t) { return c->index ? c->index[c->t0 + t] : c->t0 + t; }

/* One plane of block b for a group's tokens; others than those are zeros. */
static void pick_term(const call *c, struct group *to, int t0, int tokens, int b, int plane)
{
    const int64_t all = panel_blocks(c->x->cols), planes = c->x->planes;
    const bool minimum = c->w->format == CL_Q4_1;
    int i = to->terms * c->width;
    to->block[to->terms++] = (uint8_t)b;
    for (int t = 0; t < c->width; t++, i++) {
        const int64_t at = t < tokens ? (token_of(c, t0 + t) * all + c->first + b) * planes + plane : 0;
        if (t < tokens) memcpy(to->q + i * BLOCK, c->x->q + at * BLOCK, BLOCK);
        else memset(to->q + i * BLOCK, 0, BLOCK);
        to->d[i] = t < tokens ? c->x->d[at] : 0;
        to->sum[i] = t < tokens && minimum ? (float)total_of_sum(c->x->sum[at]) : 0;
    }
}

static bool any_fine(const call *c, int t0, int tokens, int b)
{
    for (int t = 0; t < tokens; t++) {
        if (cl_has_fine(c->x, token_of(c, t0 + t), c->first + b)) return true;
    }
    return false;
}

static void pick(const call *c, picked *to)
{
    for (int g = 0; g < c->groups; g++) {
        struct group *x = &to->groups[g];
        const int t0 = group_start(c, g), tokens = group_start(c, g + 1) - t0;
        x->terms = 0;
        for (int b = 0; b < c->blocks; b++) {
            pick_term(c, x, t0, tokens, b, 0);
            if (any_fine(c, t0, tokens, b)) pick_term(c, x, t0, tokens, b, 1);
        }
        while (x->terms % STEP) pick_term(c, x, t0, 0, c->blocks, 0);
    }
}

INLINE void bytes_of_codes(cl_format f, const unsigned char *in, unsigned char *out)
{
    const __m512i eight = _mm512_set1_epi8(8), table = table512(cl_e2m1_doubled);
    for (int v = 0; v < 4; v++) {
        __m512i low = low_half(load512(in + 64 * v)), high = high_half(load512(in + 64 * v));
        if (f == CL_MXFP4) low = _mm512_shuffle_epi8(table, low), high = _mm512_shuffle_epi8(table, high);
        else if (f != CL_Q4_1) low = _mm512_sub_epi8(low, eight), high = _mm512_sub_epi8(high, eight);
        _mm512_store_si512(out + 128 * v, low);
        _mm512_store_si512(out + 128 * v + 64, high);
    }
}

INLINE void make_ready(cl_format f, const call *c, const unsigned char *panel, ready *to)
{
    const int group = panel_group(f);
    for (int i = 0; i < c->blocks; i++) {
        const int b = c->first + i, k = b % group;
        const unsigned char *at = panel + (size_t)(b / group) * panel_group_bytes(f),
                            *scale = at + k * (PANEL_SCALES / group);
        const unsigned char *ints = at + PANEL_SCALES + (size_t)k * panel_integers(f);
        vf_store(to->scale[i], f == CL_MXFP4  ? vf_load_e8m0(scale)
                               : f == CL_INT4 ? vf_load_bf16(scale)
                                              : vf_load_f16(scale));
        if (f == CL_Q4_1) vf_store(to->minimum[i], vf_load_f16(scale + 2 * CL_PANEL));
        to->ints[i] = f == CL_Q8_0 ? ints : to->buffer + i * PANEL_I8;
        if (f != CL_Q8_0) bytes_of_codes(f, ints, to->buffer + i * PANEL_I8);
    }
    to->ints[c->blocks] = to->ints[0];
    vf_store(to->scale[c->blocks], vf_set1(0));
    vf_store(to->minimum[c->blocks], vf_set1(0));
}

static void make_ready_any(const call *c, const unsigned char *panel, ready *to)
{
    switch (c->w->format) {
    case CL_Q8_0: make_ready(CL_Q8_0, c, panel, to); break;
    case CL_Q4_1: make_ready(CL_Q4_1, c, panel, to); break;
    case CL_MXFP4: make_ready(CL_MXFP4, c, panel, to); break;
    case CL_INT4: make_ready(CL_INT4, c, panel, to); break;
    default: make_ready(CL_Q4_0, c, panel, to); break;
    }
}

/* The piece of one panel, for all tokens of the round. Meanwhile the next panel's piece is fetched, a share by each
 * group. */
static void panel_piece(const call *c, int64_t panel, const unsigned char *data, bool last, const picked *x, ready *w,
                        float *y, size_t y_stride)
{
    const cl_format f = c->w->format;
    const int64_t rows = c->w->rows - panel * CL_PANEL;
    const size_t group = (size_t)panel_group(f), bytes = ((size_t)c->blocks + group - 1) / group * panel_group_bytes(f);
    const size_t turns = (size_t)(c->blocks > STEP ? c->blocks - STEP : 0) * (size_t)c->groups;
    pass p = {.w = w, .first = c->first == 0, .y_stride = y_stride};
    p.rows = first_lanes(rows < CL_PANEL ? (int)rows : CL_PANEL);
    p.fetch = (const char *)data + c->w->panel_bytes + (size_t)c->first / group * panel_group_bytes(f);
    if (!last && turns) {
        p.fetches = (int)((bytes / LINE + turns - 1) / turns);
        p.fetch_step = (bytes + turns * (size_t)p.fetches - 1) / (turns * (size_t)p.fetches);
    }
    make_ready_any(c, data, w);
    for (int g = 0; g < c->groups; g++) {
        const int t0 = group_start(c, g);
        p.x = &x->groups[g];
        p.tokens = group_start(c, g + 1) - t0;
        p.y = y + (size_t)t0 * y_stride + panel * CL_PANEL;
        passes[f == CL_Q4_1][(c->width - NARROWEST) / 2](&p);
        p.fetch += (size_t)(c->blocks - STEP) * (size_t)p.fetches * p.fetch_step;
    }
}

/* Tokens of one round by panels p0..p1. */
static void round_of_tokens(call c, int64_t expert, int64_t p0, int64_t p1, float *y, size_t y_stride)
{
    picked x;
    ready w;
    const int blocks = (int)panel_blocks(c.x->cols);
    c.groups = (c.n + TOKENS - 1) / TOKENS;
    c.width = ((c.n + c.groups - 1) / c.groups + 1) / 2 * 2;
    configure(c.width);
    for (c.first = 0; c.first < blocks; c.first += c.blocks) {
        c.blocks = blocks - c.first < PIECE ? blocks - c.first : PIECE;
        pick(&c, &x);
        for (int64_t i = p0; i < p1; i++) {
            const unsigned char *data = c.w->data + (size_t)(expert * c.w->panels + i) * c.w->panel_bytes;
            panel_piece(&c, i, data, i + 1 == p1, &x, &w, y, y_stride);
        }
    }
    __asm__ volatile("tilerelease");
}

void amx_matmul(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const cl_acts *x, const int32_t *index,
                int n_index, float *y, size_t y_stride)
{
    const int n = index ? n_index : x->n, rounds = (n + GROUPS * TOKENS - 1) / (GROUPS * TOKENS);
    if (!x->q8 || !cl_format_integer(w->format) || n < (w->format == CL_Q8_0 ? FEWEST : FEWEST_CODES)) {
        cl_kernels_avx512()->matmul(w, expert, p0, p1, x, index, n_index, y, y_stride);
        return;
    }
    const int64_t fit = (int64_t)(BATCH_BYTES / w->panel_bytes), batch = rounds == 1 ? p1 - p0 : fit > 1 ? fit : 1;
    for (int64_t p = p0, end; p < p1; p = end) {
        end = p1 - p < batch ? p1 : p + batch;
        for (int r = 0; r < rounds; r++) {
            call c = {.w = w, .x = x, .index = index, .t0 = n * r / rounds};
            c.n = n * (r + 1) / rounds - c.t0;
            round_of_tokens(c, expert, p, end, y + (size_t)c.t0 * y_stride, y_stride);
        }
    }
}

/* Linux gives a process the tiles' registers when it asks. */
bool amx_usable(void)
{
#if defined(__linux__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, TILES = 1 << 24, INT8 = 1 << 25 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & TILES) || !(d & INT8)) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}
