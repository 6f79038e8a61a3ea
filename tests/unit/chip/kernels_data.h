/* kernels_data.h: random inputs for the tests of kernels: weights with awkward scales, activations with awkward
 * blocks. */
#ifndef CHIPLINE_TEST_KERNELS_DATA_H
#define CHIPLINE_TEST_KERNELS_DATA_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/kernels.h"
#include "chipline/util.h"
#include "suite.h"

/* splitmix64 (Steele, Lea, Flood 2014) */
static inline uint64_t next_u64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static inline int below(uint64_t *state, int n) { return (int)(next_u64(state) % (uint64_t)n); }
static inline float uniform(uint64_t *state) { return (float)(next_u64(state) >> 40) * 0x1p-23f - 1.0f; } /* -1 .. 1 */

static inline void *need(size_t n, size_t size)
{
    void *p = aligned_alloc(64, (n * size + 127) / 64 * 64);
    if (!p) abort();
    memset(p, 0xa5, n * size);
    return p;
}

/* Half-precision scales: usual sizes of either sign, zero, subnormal, the largest. */
static inline uint16_t awkward_f16(uint64_t *r)
{
    switch (below(r, 8)) {
    case 0: return 0;
    case 1: return 0x8000;
    case 2: return (uint16_t)(1 + below(r, 0x3ff));
    case 3: return below(r, 2) ? 0x7bff : 0xfbff;
    default: return (uint16_t)(0x1c00 + below(r, 0x1000) + below(r, 2) * 0x8000);
    }
}

/* The same as bfloat16, whose largest would overflow every sum. */
static inline uint16_t awkward_bf16(uint64_t *r)
{
    switch (below(r, 8)) {
    case 0: return 0;
    case 1: return 0x8000;
    case 2: return (uint16_t)(1 + below(r, 0x7f));
    case 3: return below(r, 2) ? 0x5f00 : 0xdf00;
    default: return (uint16_t)(0x3a00 + below(r, 0x600) + below(r, 2) * 0x8000);
    }
}

static inline void put_u16(unsigned char *p, uint16_t v) { memcpy(p, &v, 2); }

/* One block (one number of a float format) at p. Bytes of integers are random, often the extremes. */
static inline void awkward_block(cl_format f, uint64_t *r, unsigned char *p)
{
    int bytes = cl_format_get(f)->block_bytes, scales = 0;
    switch (f) {
    case CL_F32: {
        float v = uniform(r) * (below(r, 16) ? 1.0f : 1e-38f);
        memcpy(p, &v, 4);
        return;
    }
    case CL_F16: put_u16(p, below(r, 16) ? cl_f32_to_f16(uniform(r)) : awkward_f16(r)); return;
    case CL_BF16: put_u16(p, cl_f32_to_bf16(uniform(r) * (below(r, 16) ? 1.0f : 1e-39f))); return;
    case CL_MXFP4:
        p[0] = (uint8_t)(below(r, 8) ? 110 + below(r, 20) : below(r, 2) ? below(r, 4) : 180);
        scales = 1;
        break;
    case CL_INT4:
        put_u16(p, awkward_bf16(r));
        scales = 2;
        break;
    case CL_Q4_1: put_u16(p + 2, awkward_f16(r)); /* fallthrough */
    default: put_u16(p, awkward_f16(r)); scales = f == CL_Q4_1 ? 4 : 2;
    }
    int fill = below(r, 8);
    for (int i = scales; i < bytes; i++) {
        p[i] = (unsigned char)(fill == 0 ? 0x80 : fill == 1 ? 0x7f : fill == 2 ? 0xff : fill == 3 ? 0 : next_u64(r));
    }
}

/* One fp8 matrix: scales of tiles of 128 x 128, repeated by their rows; codes but for the two NaNs, often the
 * extremes. */
static inline void awkward_fp8(int64_t rows, int64_t cols, uint64_t *r, unsigned char *p)
{
    static const float sizes[8] = {1, 1, 1, 1e-4f, 0, 1e-39f, -1, 1e20f};
    size_t scales = (size_t)(cols + 127) / 128 * sizeof(float), bytes = scales + (size_t)cols;
    for (int64_t i = 0; i < rows; i++) {
        unsigned char *row = p + (size_t)i * bytes;
        if (i % 128) memcpy(row, row - bytes, scales);
        for (size_t t = 0; i % 128 == 0 && t < scales; t += sizeof(float)) {
            float d = sizes[below(r, 8)] * (1.5f + uniform(r));
            memcpy(row + t, &d, sizeof d);
        }
        /* +-448, the smallest, the smallest normal */
        static const unsigned char extremes[4] = {0x7e, 0xfe, 0x01, 0x88};
        int fill = below(r, 8);
        for (size_t c = scales; c < bytes; c++) {
            row[c] = fill < 4 ? extremes[fill] : (unsigned char)next_u64(r);
            if ((row[c] & 0x7f) == 0x7f) row[c] ^= 1;
        }
    }
}

/* Canonical rows of `experts` matrices; numbers past `cols` in the last block are whatever the random bytes say (x is
 * 0 there). */
static inline unsigned char *awkward_rows(cl_format f, int64_t experts, int64_t rows, int64_t cols, uint64_t seed)
{
    size_t bytes = (size_t)rows * cl_row_bytes(f, cols), step = (size_t)cl_format_get(f)->block_bytes;
    unsigned char *p = need((size_t)experts, bytes);
    for (int64_t e = 0; f == CL_FP8 && e < experts; e++) awkward_fp8(rows, cols, &seed, p + (size_t)e * bytes);
    for (size_t i = 0; f != CL_FP8 && i < (size_t)experts * bytes; i += step) awkward_block(f, &seed, p + i);
    return p;
}

static inline cl_matrix pack_matrix(const cl_kernels *k, cl_format f, int64_t experts, int64_t rows, int64_t cols,
                                    const unsigned char *data)
{
    cl_matrix m = {.format = f,
                   .experts = experts,
                   .rows = rows,
                   .cols = cols,
                   .panels = (rows + 15) / 16,
                   .panel_bytes = k->panel_bytes(f, cols)};
    CU_ASSERT_EQUAL_FATAL(m.panel_bytes % 64, 0);
    m.data = need((size_t)(experts * m.panels), m.panel_bytes);
    for (int64_t e = 0; e < experts; e++) {
        k->pack(f, cols, data + (size_t)(e * rows) * cl_row_bytes(f, cols), rows,
                m.data + (size_t)(e * m.panels) * m.panel_bytes);
    }
    return m;
}

/* Activations of n tokens: usual ones, tokens with zero blocks, tiny, huge, one-spike and constant blocks, rows with
 * one outlier. */
typedef struct acts {
    cl_acts x;
    float *f32;
} acts;

/* planes: of 8-bit numbers; 0: float32 alone; 3: mixed. */
static inline acts make_acts(int n, int64_t cols, int planes, uint64_t seed)
{
    size_t blocks = (size_t)(cols + 31) / 32, count = (size_t)n * blocks;
    acts a = {.x = {.n = n,
                    .cols = cols,
                    .q8 = planes > 0,
                    .planes = planes > 1 ? 2 : 1,
                    .mixed = planes == 3,
                    .stride = blocks * 32 + 32}};
    a.f32 = need((size_t)n * a.x.stride, sizeof(float));
    for (size_t t = 0; t < (size_t)n; t++) {
        for (size_t c = 0; c < blocks * 32; c++) {
            static const float sizes[8] = {1, 1, 1, 0, 1e-30f, 1e-39f, 1e4f, 1};
            float v = uniform(&seed) * sizes[(t * 5 + c / 32 * 3) % 8];
            if ((t + c / 32) % 8 == 7 && c % 32 == 5) v = 1000;
            if ((t + c / 32) % 5 == 4) v = t % 2 ? -3 : 3; /* 8-bit: all 127 or all -127 */
            if (t % 3 == 1 && c % 512 == 70) v = -1e6f;    /* one large number of a row */
            a.f32[t * a.x.stride + c] = c < (size_t)cols ? v : 0;
        }
    }
    a.x.f32 = a.f32;
    a.x.q = need(2 * count, 32);
    a.x.d = need(2 * count, sizeof(float));
    a.x.sum = need(2 * count, sizeof(int32_t));
    a.x.fsum = need(count, sizeof(float));
    return a;
}

static inline void free_acts(acts *a)
{
    free(a->f32);
    free(a->x.q);
    free(a->x.d);
    free(a->x.sum);
    free(a->x.fsum);
}

static inline const cl_kernels *set_named(const char *name)
{
    const cl_kernels *k = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_kernels_choose(name, &k, NULL), CL_OK);
    return k;
}

/* Calls check(k, reference) for every set but the reference. */
static inline void each_set(void (*check)(const cl_kernels *k, const cl_kernels *ref))
{
    for (const char *const *name = cl_kernels_available(); *name; name++)
        check(set_named(*name), cl_kernels_reference());
}

static inline float *random_floats(size_t n, float size, uint64_t seed)
{
    float *p = need(n, sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = size * uniform(&seed);
    return p;
}

enum { POSITIONS = 600 }; /* that tests of attention store */

/* A ring of `blocks` blocks, scattered over a pool of more, whose memory holds NaN before anything is stored. No two
 * are alike. */
static inline cl_kv_head make_cache(cl_kv_format f, int head_dim, int64_t blocks)
{
    static uint64_t seed;
    const size_t bytes = cl_kv_block_bytes(f, head_dim), pool = (size_t)blocks + 3;
    int32_t *table = need(pool, sizeof *table);
    CU_ASSERT_EQUAL_FATAL(bytes % 64, 0);
    for (size_t i = 0; i < pool; i++) { /* inside out (Durstenfeld) */
        size_t j = (size_t)below(&seed, (int)i + 1);
        table[i] = table[j];
        table[j] = (int32_t)i;
    }
    cl_kv_head h = {.format = f,
                    .head_dim = head_dim,
                    .block_bytes = bytes,
                    .blocks = blocks,
                    .table = table,
                    .keys = need(pool, bytes),
                    .values = need(pool, bytes)};
    memset(h.keys, 0xff, pool * bytes);
    memset(h.values, 0xff, pool * bytes);
    return h;
}

static inline void free_cache(cl_kv_head *h)
{
    free((void *)(uintptr_t)h->table);
    free(h->keys);
    free(h->values);
}

/* How far q8 and bf16 caches may be from the numbers before they were stored. */
static const float cache_tolerance[] = {[CL_KV_F32] = 2e-6f, [CL_KV_BF16] = 2e-2f, [CL_KV_Q8] = 2e-2f};
static const cl_kv_format cache_formats[] = {CL_KV_F32, CL_KV_BF16, CL_KV_Q8};

/* softmax(scale q.k) v over lo..pos in double, of the numbers before they were stored ([position][n] each, the first
 * v_dim of v); returns the scale of the values. */
static inline double attend_direct(const float *k, const float *v, int n, int v_dim, const float *q, int64_t lo,
                                   int64_t pos, double scale, const float *sink, double *out)
{
    double e[POSITIONS], max = sink ? *sink : -INFINITY, sum = 0, size = 0;
    for (int64_t j = lo; j <= pos; j++) {
        e[j] = 0;
        for (int i = 0; i < n; i++) e[j] += scale * q[i] * k[j * n + i];
        max = fmax(max, e[j]);
    }
    for (int64_t j = lo; j <= pos; j++) sum += e[j] = exp(e[j] - max);
    if (sink) sum += exp(*sink - max);
    for (int i = 0; i < v_dim; i++) {
        out[i] = 0;
        for (int64_t j = lo; j <= pos; j++) {
            out[i] += e[j] / sum * v[j * n + i];
            size = fmax(size, fabs(v[j * n + i]));
        }
    }
    return size;
}

#endif
