/* lanes_avx512.h: 16 lanes in one AVX-512 register. What each operation means is said in lanes_generic.h. */
#ifndef CHIPLINE_KERNELS_LANES_AVX512_H
#define CHIPLINE_KERNELS_LANES_AVX512_H

#include <stdbool.h>

#include "panel.h"
#include "x86.h"

enum { LANES_TOKENS = 8, LANES_Q8_TOKENS = 16, LANES_CHAINS = 8, LANES_Q8_SUMS = 12 };
#define EACH_SIZE(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#define EACH_Q8_SIZE(X) EACH_SIZE(X) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16)

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vg;

INLINE __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }

INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf vf_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
INLINE void vf_store_part(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }

INLINE vf vf_add(vf x, vf y) { return _mm512_add_ps(x, y); }
INLINE vf vf_sub(vf x, vf y) { return _mm512_sub_ps(x, y); }
INLINE vf vf_mul(vf x, vf y) { return _mm512_mul_ps(x, y); }
INLINE vf vf_div(vf x, vf y) { return _mm512_div_ps(x, y); }
INLINE vf vf_max(vf x, vf y) { return _mm512_max_ps(x, y); }
INLINE vf vf_min(vf x, vf y) { return _mm512_min_ps(x, y); }
INLINE vf vf_fma(vf x, vf y, vf z) { return _mm512_fmadd_ps(x, y, z); }
INLINE vf vf_neg(vf x) { return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f)); }

INLINE float vf_fold_add(vf x)
{
    return fold_add(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
INLINE float vf_fold_max(vf x)
{
    return fold_max(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}

INLINE vf vf_pick(vf x, vf y, int lo, int hi)
{
    return _mm512_mask_blend_ps((__mmask16)(first_lanes(hi + 1) & ~first_lanes(lo)), y, x);
}

INLINE vf vf_scale2(vf x, vf t)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}

INLINE vf vf_from_vi(vi x) { return _mm512_cvtepi32_ps(x); }

INLINE vf vf_load_f16(const unsigned char *p) { return _mm512_cvtph_ps(load256(p)); }
INLINE vf vf_load_bf16_apart(const unsigned char *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(p)), 16));
}
INLINE vf vf_load_bf16(const unsigned char *p) { return vf_load_bf16_apart(p); }
INLINE vf vf_together(vf x) { return x; }
INLINE vf vf_load_i8(const unsigned char *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(p))); }

/* The bits of 2^(e - 128): (e - 1) << 23 where that is a normal number, else (e + 1) << 21 (e = 0, 1), which is the
 * larger there. */
INLINE vf vf_load_e8m0(const unsigned char *p)
{
    __m512i e = _mm512_cvtepu8_epi32(load128(p));
    __m512i normal = _mm512_sub_epi32(_mm512_slli_epi32(e, 23), _mm512_set1_epi32(1 << 23));
    __m512i small = _mm512_add_epi32(_mm512_slli_epi32(e, 21), _mm512_set1_epi32(1 << 21));
    return _mm512_castsi512_ps(_mm512_max_epi32(normal, small));
}

INLINE __m512i load512(const unsigned char *p) { return _mm512_loadu_si512((const void *)p); }
INLINE vf vf_bf16_even(const unsigned char *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(load512(p), 16)); }
INLINE vf vf_bf16_odd(const unsigned char *p)
{
    return _mm512_castsi512_ps(_mm512_and_si512(load512(p), _mm512_set1_epi32((int)0xffff0000)));
}

/* 16 codes, each the high byte of 16 bits (the low byte is anything): moved right by one, with the bit that the sign
 * left behind cleared, they are half-precision numbers 2^8 times too small, subnormals included. */
INLINE vf from_e4m3(__m256i high)
{
    return _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((short)0xbf80)));
}
INLINE void vf_load_e4m3(const unsigned char *p, vf *q)
{
    for (int k = 0; k < 2; k++) {
        __m256i pairs = load256(p + 32 * k);
        q[2 * k] = from_e4m3(_mm256_slli_epi16(pairs, 8));
        q[2 * k + 1] = from_e4m3(pairs);
    }
}

INLINE void vf_transpose(vf *x)
{
    vf t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* x[i + k]: columns k, k + 4, k + 8, k + 12 of rows i .. i+3 */
        x[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        x[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int k = 0; k < 4; k++) { /* quarters of registers: columns, then rows, find their places */
        vf a = _mm512_shuffle_f32x4(x[k], x[k + 4], 0x88), b = _mm512_shuffle_f32x4(x[k + 8], x[k + 12], 0x88),
           c = _mm512_shuffle_f32x4(x[k], x[k + 4], 0xdd), d = _mm512_shuffle_f32x4(x[k + 8], x[k + 12], 0xdd);
        t[k] = _mm512_shuffle_f32x4(a, b, 0x88);
        t[k + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
        t[k + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[k + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++) x[i] = t[i];
}

INLINE vg vg_load(const unsigned char *p) { return load512(p); }
INLINE __m512i low_half(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE __m512i high_half(__m512i x) { return low_half(_mm512_srli_epi16(x, 4)); }
INLINE __m512i table512(const int8_t table[16])
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
}
INLINE vg vg_low(const unsigned char *p, const int8_t table[16])
{
    return _mm512_shuffle_epi8(table512(table), low_half(load512(p)));
}
INLINE vg vg_high(const unsigned char *p, const int8_t table[16])
{
    return _mm512_shuffle_epi8(table512(table), high_half(load512(p)));
}
INLINE vf vg_column(vg x, int c)
{
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, (unsigned)(24 - 8 * c)), 24));
}

/* Weights as unsigned bytes, value = byte - offset, times x in 32 bits, from -offset times the sum of x on. */
INLINE int q8_offset(cl_format f) { return f == CL_Q8_0 ? 128 : f == CL_MXFP4 ? 12 : f == CL_Q4_1 ? 0 : 8; }
INLINE int32_t q8_start(int offset, int32_t sum) { return -offset * total_of_sum(sum); }

/* The instruction by name: with the intrinsic gcc 12 loads the broadcast apart and copies sums. */
INLINE vi dot_quad(vi s, __m512i w, const int8_t *x)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(w), "m"(*(const int8_t(*)[4])x));
    return s;
}
INLINE void quads(int tokens, __m512i w, const int8_t *x, int at, vi *s)
{
    for (int t = 0; t < tokens; t++) s[t] = dot_quad(s[t], w, x + 32 * t + at);
}

INLINE void vi_dot_i8(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    for (int t = 0; t < tokens; t++) s[t] = _mm512_set1_epi32(start[t]);
    for (int g = 0; g < 8; g++)
        quads(tokens, _mm512_xor_si512(load512(w + 64 * g), _mm512_set1_epi8(-128)), x, 4 * g, s);
}

/* 4-bit codes, through the table where there is one. */
INLINE void dot_u4(int tokens, const __m512i *table, const unsigned char *w, const int8_t *x, const int32_t *start,
                   vi *s)
{
    for (int t = 0; t < tokens; t++) s[t] = _mm512_set1_epi32(start ? start[t] : 0);
    for (int v = 0; v < 4; v++) {
        __m512i low = low_half(load512(w + 64 * v)), high = high_half(load512(w + 64 * v));
        quads(tokens, table ? _mm512_shuffle_epi8(*table, low) : low, x, 8 * v, s);
        quads(tokens, table ? _mm512_shuffle_epi8(*table, high) : high, x, 8 * v + 4, s);
    }
}

INLINE void vi_dot_q4_0(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    dot_u4(tokens, NULL, w, x, start, s);
}
INLINE void vi_dot_q4_1(int tokens, const unsigned char *w, const int8_t *x, vi *s)
{
    dot_u4(tokens, NULL, w, x, NULL, s);
}
INLINE void vi_dot_mxfp4(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    const __m512i table = _mm512_add_epi8(table512(cl_e2m1_doubled), _mm512_set1_epi8(12));
    dot_u4(tokens, &table, w, x, start, s);
}

#endif
