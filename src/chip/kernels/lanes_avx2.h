/* lanes_avx2.h: 16 lanes in two AVX2 registers. What each operation means is said in lanes_generic.h. */
#ifndef CHIPLINE_KERNELS_LANES_AVX2_H
#define CHIPLINE_KERNELS_LANES_AVX2_H

#include <stdbool.h>

#include "panel.h"
#include "x86.h"

enum { LANES_TOKENS = 4, LANES_Q8_TOKENS = 4, LANES_CHAINS = 4, LANES_Q8_SUMS = 4 };
#define EACH_SIZE(X) X(1) X(2) X(3) X(4)
#define EACH_Q8_SIZE(X) EACH_SIZE(X)

typedef struct vf {
    __m256 a, b;
} vf;
typedef struct vi {
    __m256i a, b;
} vi;
typedef struct vg {
    __m256i a, b;
} vg;

/* The same operation on both halves. */
#define VF(op, x, y) ((vf){op((x).a, (y).a), op((x).b, (y).b)})

INLINE vf vf_set1(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
INLINE vf vf_load_part(const float *p, int n)
{
    _Alignas(32) float part[16] = {0};
    memcpy(part, p, (size_t)n * sizeof *p);
    return vf_load(part);
}
INLINE void vf_store_part(float *p, vf x, int n)
{
    _Alignas(32) float part[16];
    vf_store(part, x);
    memcpy(p, part, (size_t)n * sizeof *p);
}

INLINE vf vf_add(vf x, vf y) { return VF(_mm256_add_ps, x, y); }
INLINE vf vf_sub(vf x, vf y) { return VF(_mm256_sub_ps, x, y); }
INLINE vf vf_mul(vf x, vf y) { return VF(_mm256_mul_ps, x, y); }
INLINE vf vf_div(vf x, vf y) { return VF(_mm256_div_ps, x, y); }
INLINE vf vf_max(vf x, vf y) { return VF(_mm256_max_ps, x, y); }
INLINE vf vf_min(vf x, vf y) { return VF(_mm256_min_ps, x, y); }
INLINE vf vf_fma(vf x, vf y, vf z) { return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE vf vf_neg(vf x) { return VF(_mm256_xor_ps, x, vf_set1(-0.0f)); }

INLINE float vf_fold_add(vf x) { return fold_add(_mm256_add_ps(x.a, x.b)); }
INLINE float vf_fold_max(vf x) { return fold_max(_mm256_max_ps(x.a, x.b)); }

INLINE __m256 between(__m256 x, __m256 y, __m256i lane, int lo, int hi)
{
    __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo), lane),
                                  _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(hi)));
    return _mm256_blendv_ps(x, y, _mm256_castsi256_ps(out));
}
INLINE vf vf_pick(vf x, vf y, int lo, int hi)
{
    return (vf){between(x.a, y.a, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), lo, hi),
                between(x.b, y.b, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15), lo, hi)};
}

INLINE __m256 scale2(__m256 x, __m256 t)
{
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
INLINE vf vf_scale2(vf x, vf t) { return VF(scale2, x, t); }

INLINE vf vf_from_vi(vi x) { return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

INLINE vf vf_load_f16(const unsigned char *p)
{
    return (vf){_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 16))};
}
INLINE __m256 load_i8(const unsigned char *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load64(p))); }
INLINE vf vf_load_i8(const unsigned char *p) { return (vf){load_i8(p), load_i8(p + 8)}; }

/* The bits of 2^(e - 128): (e - 1) << 23 where that is a normal number, else (e + 1) << 21 (e = 0, 1), which is the
 * larger there. */
INLINE __m256 load_e8m0(const unsigned char *p)
{
    __m256i e = _mm256_cvtepu8_epi32(load64(p));
    __m256i normal = _mm256_sub_epi32(_mm256_slli_epi32(e, 23), _mm256_set1_epi32(1 << 23));
    __m256i small = _mm256_add_epi32(_mm256_slli_epi32(e, 21), _mm256_set1_epi32(1 << 21));
    return _mm256_castsi256_ps(_mm256_max_epi32(normal, small));
}
INLINE vf vf_load_e8m0(const unsigned char *p) { return (vf){load_e8m0(p), load_e8m0(p + 8)}; }

INLINE __m256 bf16_even(const unsigned char *p) { return _mm256_castsi256_ps(_mm256_slli_epi32(load256(p), 16)); }
INLINE __m256 bf16_odd(const unsigned char *p)
{
    return _mm256_castsi256_ps(_mm256_and_si256(load256(p), _mm256_set1_epi32((int)0xffff0000)));
}
INLINE vf vf_bf16_even(const unsigned char *p) { return (vf){bf16_even(p), bf16_even(p + 32)}; }
INLINE vf vf_bf16_odd(const unsigned char *p) { return (vf){bf16_odd(p), bf16_odd(p + 32)}; }
INLINE __m256 load_bf16(const unsigned char *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
}
INLINE vf vf_load_bf16(const unsigned char *p) { return (vf){load_bf16(p), load_bf16(p + 16)}; }
/* Even numbers in one half, odd ones in the other. */
INLINE vf vf_load_bf16_apart(const unsigned char *p) { return (vf){bf16_even(p), bf16_odd(p)}; }
INLINE vf vf_together(vf x)
{
    __m256 low = _mm256_unpacklo_ps(x.a, x.b), high = _mm256_unpackhi_ps(x.a, x.b);
    return (vf){_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}

/* 16 codes, each the high byte of 16 bits (the low byte is anything): moved right by one, with the bit that the sign
 * left behind cleared, they are half-precision numbers 2^8 times too small, subnormals included. */
INLINE vf from_e4m3(__m256i high)
{
    __m256i h = _mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((short)0xbf80));
    return (vf){_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
INLINE void vf_load_e4m3(const unsigned char *p, vf *q)
{
    for (int k = 0; k < 2; k++) {
        __m256i pairs = load256(p + 32 * k);
        q[2 * k] = from_e4m3(_mm256_slli_epi16(pairs, 8));
        q[2 * k + 1] = from_e4m3(pairs);
    }
}

INLINE void transpose8(const __m256 *in, __m256 *out)
{
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(in[i], in[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        out[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}
INLINE void vf_transpose(vf *x)
{
    __m256 in[4][8], out[4][8]; /* quarters: top left, top right, bottom left, bottom right */
    for (int i = 0; i < 8; i++) {
        in[0][i] = x[i].a;
        in[1][i] = x[i].b;
        in[2][i] = x[i + 8].a;
        in[3][i] = x[i + 8].b;
    }
    for (int k = 0; k < 4; k++) transpose8(in[k], out[k]);
    for (int i = 0; i < 8; i++) {
        x[i] = (vf){out[0][i], out[2][i]};
        x[i + 8] = (vf){out[1][i], out[3][i]};
    }
}

INLINE vg vg_load(const unsigned char *p) { return (vg){load256(p), load256(p + 32)}; }
INLINE __m256i low_half(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE __m256i high_half(__m256i x) { return low_half(_mm256_srli_epi16(x, 4)); }
INLINE __m256i table256(const int8_t table[16])
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
}
INLINE vg vg_low(const unsigned char *p, const int8_t table[16])
{
    return (vg){_mm256_shuffle_epi8(table256(table), low_half(load256(p))),
                _mm256_shuffle_epi8(table256(table), low_half(load256(p + 32)))};
}
INLINE vg vg_high(const unsigned char *p, const int8_t table[16])
{
    return (vg){_mm256_shuffle_epi8(table256(table), high_half(load256(p))),
                _mm256_shuffle_epi8(table256(table), high_half(load256(p + 32)))};
}
INLINE __m256 column(__m256i x, int c)
{
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * c), 24));
}
INLINE vf vg_column(vg x, int c) { return (vf){column(x.a, c), column(x.b, c)}; }

/* Ends a step: the compiler may not mix the instructions of several tokens, which would need more registers than
 * there are. */
#define STEP(sum) __asm__ volatile("" : "+x"((sum).a), "+x"((sum).b))

/* 4 bytes of activations in every lane. */
INLINE __m256i quad(const int8_t *x) { return _mm256_set1_epi32(load32(x)); }

/* Signed times signed: |w| times (x with the sign of w). A pair of products is at most 2 * 128 * 127 = 32512: no
 * saturation. */
INLINE __m256i quad_i8(__m256i s, __m256i size, __m256i w, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE void vi_dot_i8(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    for (int t = 0; t < tokens; t++) s[t].a = s[t].b = _mm256_setzero_si256();
    for (int g = 0; g < 8; g++) {
        vg v = vg_load(w + 64 * g);
        __m256i a = _mm256_abs_epi8(v.a), b = _mm256_abs_epi8(v.b);
        for (int t = 0; t < tokens; t++) {
            __m256i q = quad(x + 32 * t + 4 * g);
            s[t].a = quad_i8(s[t].a, a, v.a, q);
            s[t].b = quad_i8(s[t].b, b, v.b, q);
            STEP(s[t]);
        }
    }
}

/* 4-bit weights as unsigned codes, value = code - offset. Sums of two columns per lane stay in 16 bits for the whole
 * block, from -offset times the sums of x on. They may wrap on the way; the result is at most 16 * 12 * 127 and so
 * comes out right. */
INLINE int q8_offset(cl_format f) { return f == CL_Q8_0 || f == CL_Q4_1 ? 0 : f == CL_MXFP4 ? 12 : 8; }
INLINE int32_t q8_start(int offset, int32_t sum)
{
    uint32_t low = (uint32_t)(-offset * (int16_t)sum), high = (uint32_t)(-offset * (sum >> 16));
    return (int32_t)(high << 16 | (low & 0xffff));
}
INLINE void pairs(int tokens, __m256i a, __m256i b, const int8_t *x, int at, vi *s)
{
    for (int t = 0; t < tokens; t++) {
        __m256i q = quad(x + 32 * t + at);
        s[t].a = _mm256_add_epi16(s[t].a, _mm256_maddubs_epi16(a, q));
        s[t].b = _mm256_add_epi16(s[t].b, _mm256_maddubs_epi16(b, q));
        STEP(s[t]);
    }
}

/* 8 columns. */
INLINE void pairs_u4(int tokens, bool mx, const unsigned char *w, const int8_t *x, int at, vi *s)
{
    const __m256i table = _mm256_add_epi8(table256(cl_e2m1_doubled), _mm256_set1_epi8(12));
    vg v = vg_load(w);
    __m256i a = low_half(v.a), b = low_half(v.b);
    pairs(tokens, mx ? _mm256_shuffle_epi8(table, a) : a, mx ? _mm256_shuffle_epi8(table, b) : b, x, at, s);
    a = high_half(v.a);
    b = high_half(v.b);
    pairs(tokens, mx ? _mm256_shuffle_epi8(table, a) : a, mx ? _mm256_shuffle_epi8(table, b) : b, x, at + 4, s);
}

INLINE void dot_u4(int tokens, bool mx, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    for (int t = 0; t < tokens; t++) s[t].a = s[t].b = _mm256_set1_epi32(start ? start[t] : 0);
    pairs_u4(tokens, mx, w, x, 0, s);
    pairs_u4(tokens, mx, w + 64, x, 8, s);
    pairs_u4(tokens, mx, w + 128, x, 16, s);
    pairs_u4(tokens, mx, w + 192, x, 24, s);
    for (int t = 0; t < tokens; t++) {
        s[t].a = _mm256_madd_epi16(s[t].a, _mm256_set1_epi16(1));
        s[t].b = _mm256_madd_epi16(s[t].b, _mm256_set1_epi16(1));
    }
}

INLINE void vi_dot_q4_0(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    dot_u4(tokens, false, w, x, start, s);
}
INLINE void vi_dot_q4_1(int tokens, const unsigned char *w, const int8_t *x, vi *s)
{
    dot_u4(tokens, false, w, x, NULL, s);
}
INLINE void vi_dot_mxfp4(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    dot_u4(tokens, true, w, x, start, s);
}

#endif
