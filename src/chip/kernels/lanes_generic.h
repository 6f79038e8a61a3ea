/* lanes_generic.h: 16 lanes as plain arrays. The operations every lanes_*.h gives to body.h are listed here once:
 *   vf 16 float32, vi 16 int32, vg 16 rows x 4 signed bytes; operations round as kernels.h says and touch lanes alone.
 *   block_q8: the 8-bit block of x[0..32), its scale returned; *sum is what the set keeps of the sum of q (kept_sum),
 *   total_of_sum the sum itself. vi_dot_*: exact sums over one block of 32 columns of weights times the tokens' bytes
 *     x[32 * t ..], from start[t] on: where weights are unsigned bytes that are q8_offset more than their values,
 *     q8_start makes it of that and of what was kept of the sum.
 * LANES_TOKENS: most tokens of one pass over a panel, EACH_SIZE: 1 up to that; LANES_Q8_TOKENS, EACH_Q8_SIZE: with
 * 8-bit activations; LANES_CHAINS: independent sums that hide the latency of fma. */
#ifndef CHIPLINE_KERNELS_LANES_GENERIC_H
#define CHIPLINE_KERNELS_LANES_GENERIC_H

#include <math.h>
#include <string.h>

#include "chipline/util.h"
#include "panel.h"
#include "sets.h"

enum { LANES_TOKENS = 2, LANES_Q8_TOKENS = 2, LANES_CHAINS = 1, LANES_Q8_SUMS = 2 };
#define EACH_SIZE(X) X(1) X(2)
#define EACH_Q8_SIZE(X) EACH_SIZE(X)

#define INLINE static inline __attribute__((always_inline))
#define EACH_LANE for (int i = 0; i < 16; i++)

typedef struct vf {
    float v[16];
} vf;
typedef struct vi {
    int32_t v[16];
} vi;
typedef struct vg {
    int8_t v[64];
} vg;

INLINE vf vf_set1(float a)
{
    vf r;
    EACH_LANE r.v[i] = a;
    return r;
}
INLINE vf vf_load(const float *p)
{
    vf r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
INLINE void vf_store(float *p, vf a) { memcpy(p, a.v, sizeof a.v); }
/* The first n lanes, 1 <= n <= 16; the others are 0. */
INLINE vf vf_load_part(const float *p, int n)
{
    vf r = {{0}};
    memcpy(r.v, p, (size_t)n * sizeof *p);
    return r;
}
INLINE void vf_store_part(float *p, vf a, int n) { memcpy(p, a.v, (size_t)n * sizeof *p); }

INLINE vf vf_add(vf a, vf b)
{
    EACH_LANE a.v[i] += b.v[i];
    return a;
}
INLINE vf vf_sub(vf a, vf b)
{
    EACH_LANE a.v[i] -= b.v[i];
    return a;
}
INLINE vf vf_mul(vf a, vf b)
{
    EACH_LANE a.v[i] *= b.v[i];
    return a;
}
INLINE vf vf_div(vf a, vf b)
{
    EACH_LANE a.v[i] /= b.v[i];
    return a;
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    EACH_LANE c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}
INLINE vf vf_neg(vf a)
{
    EACH_LANE a.v[i] = -a.v[i];
    return a;
}
INLINE vf vf_max(vf a, vf b)
{
    EACH_LANE a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
} /* a > b ? a : b */
INLINE vf vf_min(vf a, vf b)
{
    EACH_LANE a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}

/* lane[i] += lane[i + 8], then 4, 2, 1 */
INLINE float vf_fold_add(vf a)
{
    for (int w = 8; w >= 1; w /= 2) {
        for (int i = 0; i < w; i++) a.v[i] += a.v[i + w];
    }
    return a.v[0];
}

INLINE float vf_fold_max(vf a)
{
    for (int i = 1; i < 16; i++) a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
    return a.v[0];
}

/* Lanes lo..hi of a, b elsewhere. */
INLINE vf vf_pick(vf a, vf b, int lo, int hi)
{
    EACH_LANE b.v[i] = i >= lo && i <= hi ? a.v[i] : b.v[i];
    return b;
}

/* The bits of a plus those of t shifted left by 23: a times 2^(low bits of t). */
INLINE vf vf_scale2(vf a, vf t)
{
    EACH_LANE
    {
        uint32_t x, y;
        memcpy(&x, &a.v[i], sizeof x);
        memcpy(&y, &t.v[i], sizeof y);
        x += y << 23;
        memcpy(&a.v[i], &x, sizeof x);
    }
    return a;
}

INLINE vf vf_from_vi(vi a)
{
    vf r;
    EACH_LANE r.v[i] = (float)a.v[i];
    return r;
}

INLINE uint16_t u16_at(const unsigned char *p) { return (uint16_t)(p[0] | p[1] << 8); }
INLINE vf vf_load_f16(const unsigned char *p)
{
    vf r;
    EACH_LANE r.v[i] = cl_f16_to_f32(u16_at(p + 2 * i));
    return r;
}
/* 16 numbers in an order of the set's choice, which vf_together makes the usual one. */
INLINE vf vf_load_bf16_apart(const unsigned char *p)
{
    vf r;
    EACH_LANE r.v[i] = cl_bf16_to_f32(u16_at(p + 2 * i));
    return r;
}
INLINE vf vf_together(vf a) { return a; }
INLINE vf vf_load_bf16(const unsigned char *p) { return vf_load_bf16_apart(p); }
INLINE vf vf_load_i8(const unsigned char *p)
{
    vf r;
    EACH_LANE r.v[i] = (float)(int8_t)p[i];
    return r;
}
/* Scales 2^(e - 128). */
INLINE vf vf_load_e8m0(const unsigned char *p)
{
    vf r;
    EACH_LANE r.v[i] = cl_e8m0_half(p[i]);
    return r;
}
/* From 16 rows x 2 columns of bf16: the even and the odd column. */
INLINE vf vf_bf16_even(const unsigned char *p)
{
    vf r;
    EACH_LANE r.v[i] = cl_bf16_to_f32(u16_at(p + 4 * i));
    return r;
}
INLINE vf vf_bf16_odd(const unsigned char *p)
{
    vf r;
    EACH_LANE r.v[i] = cl_bf16_to_f32(u16_at(p + 4 * i + 2));
    return r;
}

INLINE vg vg_load(const unsigned char *p)
{
    vg r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
/* table[low halves of the bytes], table[high halves] */
INLINE vg vg_low(const unsigned char *p, const int8_t table[16])
{
    vg r;
    for (int i = 0; i < 64; i++) r.v[i] = table[p[i] & 15];
    return r;
}
INLINE vg vg_high(const unsigned char *p, const int8_t table[16])
{
    vg r;
    for (int i = 0; i < 64; i++) r.v[i] = table[p[i] >> 4];
    return r;
}
/* Column c (0..3) of each row. */
INLINE vf vg_column(vg a, int c)
{
    vf r;
    EACH_LANE r.v[i] = (float)a.v[4 * i + c];
    return r;
}

/* From 2 x 16 rows x 2 columns of E4M3 codes: the four columns, times 2^-8. NaN codes may come as
 * numbers: the panel tells which rows have any. */
INLINE void vf_load_e4m3(const unsigned char *p, vf *q)
{
    for (int c = 0; c < 4; c++) {
        EACH_LANE q[c].v[i] = cl_e4m3_to_f32(p[c / 2 * 32 + 2 * i + c % 2]) * 0x1p-8f;
    }
}

/* Rows become columns. */
INLINE void vf_transpose(vf *a)
{
    for (int r = 0; r < 16; r++) {
        for (int c = 0; c < r; c++) {
            float t = a[r].v[c];
            a[r].v[c] = a[c].v[r];
            a[c].v[r] = t;
        }
    }
}

INLINE void generic_dot(int tokens, vg w, const int8_t *x, int at, vi *s)
{
    for (int t = 0; t < tokens; t++) {
        EACH_LANE
        {
            for (int e = 0; e < 4; e++) s[t].v[i] += w.v[4 * i + e] * x[32 * t + at + e];
        }
    }
}

INLINE void vi_dot_i8(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    for (int t = 0; t < tokens; t++) s[t] = (vi){{0}};
    for (int g = 0; g < 8; g++) generic_dot(tokens, vg_load(w + 64 * g), x, 4 * g, s);
}

/* 4-bit codes through a table of the integers they stand for. */
INLINE void vi_dot_4bit(int tokens, const unsigned char *w, const int8_t table[16], const int8_t *x, vi *s)
{
    for (int t = 0; t < tokens; t++) s[t] = (vi){{0}};
    for (int v = 0; v < 4; v++) {
        generic_dot(tokens, vg_low(w + 64 * v, table), x, 8 * v, s);
        generic_dot(tokens, vg_high(w + 64 * v, table), x, 8 * v + 4, s);
    }
}

INLINE void vi_dot_q4_0(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    vi_dot_4bit(tokens, w, cl_q4_0_values, x, s);
}
INLINE void vi_dot_q4_1(int tokens, const unsigned char *w, const int8_t *x, vi *s)
{
    vi_dot_4bit(tokens, w, cl_q4_1_values, x, s);
}
INLINE void vi_dot_mxfp4(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    vi_dot_4bit(tokens, w, cl_e2m1_doubled, x, s);
}

INLINE int32_t total_of_sum(int32_t sum) { return sum; }
INLINE int32_t kept_sum(const int8_t *q)
{
    int32_t sum = 0;
    for (int i = 0; i < 32; i++) sum += q[i];
    return sum;
}
INLINE int q8_offset(cl_format f) { return 0; }
INLINE int32_t q8_start(int offset, int32_t sum) { return 0; }
INLINE float block_q8(const float *x, int8_t *q, int32_t *sum)
{
    float d = cl_block_q8(x, 32, q);
    *sum = kept_sum(q);
    return d;
}

#endif
