/* lanes_neon.h: 16 lanes in four NEON registers. What each operation means is said in lanes_generic.h. */
#ifndef CHIPLINE_KERNELS_LANES_NEON_H
#define CHIPLINE_KERNELS_LANES_NEON_H

#include <arm_neon.h>
#include <float.h>
#include <stdint.h>
#include <string.h>

#include "panel.h"
#include "sets.h"

enum { LANES_TOKENS = 4, LANES_Q8_TOKENS = 4, LANES_CHAINS = 4, LANES_Q8_SUMS = 4 };
#define EACH_SIZE(X) X(1) X(2) X(3) X(4)
#define EACH_Q8_SIZE(X) EACH_SIZE(X)

#define INLINE static inline __attribute__((always_inline))

typedef struct vf {
    float32x4_t a, b, c, d;
} vf;
typedef struct vi {
    int32x4_t a, b, c, d;
} vi;
typedef struct vg {
    int8x16_t a, b, c, d;
} vg;

/* The same operation on all quarters. */
#define VF1(op, x) ((vf){op((x).a), op((x).b), op((x).c), op((x).d)})
#define VF(op, x, y) ((vf){op((x).a, (y).a), op((x).b, (y).b), op((x).c, (y).c), op((x).d, (y).d)})

INLINE vf vf_set1(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return (vf){v, v, v, v};
}
INLINE vf vf_load(const float *p) { return (vf){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
INLINE void vf_store(float *p, vf x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
INLINE vf vf_load_part(const float *p, int n)
{
    float part[16] = {0};
    memcpy(part, p, (size_t)n * sizeof *p);
    return vf_load(part);
}
INLINE void vf_store_part(float *p, vf x, int n)
{
    float part[16];
    vf_store(part, x);
    memcpy(p, part, (size_t)n * sizeof *p);
}

/* NEON's own maximum and minimum give NaN where either number is NaN. */
INLINE float32x4_t larger(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
INLINE float32x4_t smaller(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }

INLINE vf vf_add(vf x, vf y) { return VF(vaddq_f32, x, y); }
INLINE vf vf_sub(vf x, vf y) { return VF(vsubq_f32, x, y); }
INLINE vf vf_mul(vf x, vf y) { return VF(vmulq_f32, x, y); }
INLINE vf vf_div(vf x, vf y) { return VF(vdivq_f32, x, y); }
INLINE vf vf_max(vf x, vf y) { return VF(larger, x, y); }
INLINE vf vf_min(vf x, vf y) { return VF(smaller, x, y); }
INLINE vf vf_fma(vf x, vf y, vf z)
{
    return (vf){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
INLINE vf vf_neg(vf x) { return VF1(vnegq_f32, x); }

INLINE float vf_fold_add(vf x)
{
    float32x4_t q = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    float32x2_t h = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
INLINE float vf_fold_max(vf x)
{
    float lane[4];
    vst1q_f32(lane, larger(larger(x.a, x.b), larger(x.c, x.d)));
    for (int i = 1; i < 4; i++) lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
    return lane[0];
}

INLINE float32x4_t between(float32x4_t x, float32x4_t y, int first, int lo, int hi)
{
    const int32x4_t lane = vaddq_s32((int32x4_t){0, 1, 2, 3}, vdupq_n_s32(first));
    return vbslq_f32(vandq_u32(vcgeq_s32(lane, vdupq_n_s32(lo)), vcleq_s32(lane, vdupq_n_s32(hi))), x, y);
}
INLINE vf vf_pick(vf x, vf y, int lo, int hi)
{
    return (vf){between(x.a, y.a, 0, lo, hi), between(x.b, y.b, 4, lo, hi), between(x.c, y.c, 8, lo, hi),
                between(x.d, y.d, 12, lo, hi)};
}

INLINE float32x4_t scale2(float32x4_t x, float32x4_t t)
{
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vreinterpretq_s32_f32(t), 23)));
}
INLINE vf vf_scale2(vf x, vf t) { return VF(scale2, x, t); }

INLINE vf vf_from_vi(vi x) { return VF1(vcvtq_f32_s32, x); }

/* 8 half-precision numbers. */
INLINE float32x4_t low_f16(uint16x8_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h))); }
INLINE float32x4_t high_f16(uint16x8_t h) { return vcvt_high_f32_f16(vreinterpretq_f16_u16(h)); }
INLINE vf from_f16(uint16x8_t x, uint16x8_t y) { return (vf){low_f16(x), high_f16(x), low_f16(y), high_f16(y)}; }
INLINE uint16x8_t load_u16(const unsigned char *p) { return vreinterpretq_u16_u8(vld1q_u8(p)); }
INLINE vf vf_load_f16(const unsigned char *p) { return from_f16(load_u16(p), load_u16(p + 16)); }

INLINE float32x4_t low_bf16(uint16x8_t h) { return vreinterpretq_f32_u16(vzip1q_u16(vdupq_n_u16(0), h)); }
INLINE float32x4_t high_bf16(uint16x8_t h) { return vreinterpretq_f32_u16(vzip2q_u16(vdupq_n_u16(0), h)); }
INLINE vf vf_load_bf16(const unsigned char *p)
{
    uint16x8_t x = load_u16(p), y = load_u16(p + 16);
    return (vf){low_bf16(x), high_bf16(x), low_bf16(y), high_bf16(y)};
}
INLINE vf vf_load_bf16_apart(const unsigned char *p) { return vf_load_bf16(p); }
INLINE vf vf_together(vf x) { return x; }

INLINE float32x4_t bf16_even(const unsigned char *p)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(vld1q_u8(p)), 16));
}
INLINE float32x4_t bf16_odd(const unsigned char *p)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(vld1q_u8(p)), vdupq_n_u32(0xffff0000)));
}
INLINE vf vf_bf16_even(const unsigned char *p)
{
    return (vf){bf16_even(p), bf16_even(p + 16), bf16_even(p + 32), bf16_even(p + 48)};
}
INLINE vf vf_bf16_odd(const unsigned char *p)
{
    return (vf){bf16_odd(p), bf16_odd(p + 16), bf16_odd(p + 32), bf16_odd(p + 48)};
}

INLINE vf vf_load_i8(const unsigned char *p)
{
    int8x16_t q = vreinterpretq_s8_u8(vld1q_u8(p));
    int16x8_t x = vmovl_s8(vget_low_s8(q)), y = vmovl_high_s8(q);
    vi all = {vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x), vmovl_s16(vget_low_s16(y)), vmovl_high_s16(y)};
    return vf_from_vi(all);
}

/* The bits of 2^(e - 128): (e - 1) << 23 where that is a normal number, else (e + 1) << 21 (e = 0, 1), which is the
 * larger there. */
INLINE float32x4_t from_e8m0(uint32x4_t u)
{
    int32x4_t e = vreinterpretq_s32_u32(u);
    int32x4_t normal = vsubq_s32(vshlq_n_s32(e, 23), vdupq_n_s32(1 << 23));
    int32x4_t small = vaddq_s32(vshlq_n_s32(e, 21), vdupq_n_s32(1 << 21));
    return vreinterpretq_f32_s32(vmaxq_s32(normal, small));
}
INLINE vf vf_load_e8m0(const unsigned char *p)
{
    uint8x16_t e = vld1q_u8(p);
    uint16x8_t x = vmovl_u8(vget_low_u8(e)), y = vmovl_high_u8(e);
    return (vf){from_e8m0(vmovl_u16(vget_low_u16(x))), from_e8m0(vmovl_high_u16(x)),
                from_e8m0(vmovl_u16(vget_low_u16(y))), from_e8m0(vmovl_high_u16(y))};
}

/* 8 codes, each the high byte of 16 bits (the low byte is anything): moved right by one, with the bit that the sign
 * left behind cleared, they are half-precision numbers 2^8 times too small, subnormals included. */
INLINE uint16x8_t half_e4m3(uint16x8_t high)
{
    return vandq_u16(vreinterpretq_u16_s16(vshrq_n_s16(vreinterpretq_s16_u16(high), 1)), vdupq_n_u16(0xbf80));
}
INLINE vf from_e4m3(uint16x8_t x, uint16x8_t y) { return from_f16(half_e4m3(x), half_e4m3(y)); }
INLINE void vf_load_e4m3(const unsigned char *p, vf *q)
{
    for (int k = 0; k < 2; k++) {
        uint16x8_t x = load_u16(p + 32 * k), y = load_u16(p + 32 * k + 16);
        q[2 * k] = from_e4m3(vshlq_n_u16(x, 8), vshlq_n_u16(y, 8));
        q[2 * k + 1] = from_e4m3(x, y);
    }
}

/* Rows of 4 become columns. */
INLINE void transpose4(float32x4_t *w, float32x4_t *x, float32x4_t *y, float32x4_t *z)
{
    float64x2_t t = vreinterpretq_f64_f32(vtrn1q_f32(*w, *x)), u = vreinterpretq_f64_f32(vtrn2q_f32(*w, *x));
    float64x2_t v = vreinterpretq_f64_f32(vtrn1q_f32(*y, *z)), s = vreinterpretq_f64_f32(vtrn2q_f32(*y, *z));
    *w = vreinterpretq_f32_f64(vtrn1q_f64(t, v));
    *x = vreinterpretq_f32_f64(vtrn1q_f64(u, s));
    *y = vreinterpretq_f32_f64(vtrn2q_f64(t, v));
    *z = vreinterpretq_f32_f64(vtrn2q_f64(u, s));
}
INLINE void vf_transpose(vf *x)
{
    vf t[16]; /* tiles of 4 x 4, transposed where they are */
    for (int i = 0; i < 16; i++) t[i] = x[i];
    for (int i = 0; i < 16; i += 4) {
        transpose4(&t[i].a, &t[i + 1].a, &t[i + 2].a, &t[i + 3].a);
        transpose4(&t[i].b, &t[i + 1].b, &t[i + 2].b, &t[i + 3].b);
        transpose4(&t[i].c, &t[i + 1].c, &t[i + 2].c, &t[i + 3].c);
        transpose4(&t[i].d, &t[i + 1].d, &t[i + 2].d, &t[i + 3].d);
    }
    for (int i = 0; i < 4; i++) {
        x[i] = (vf){t[i].a, t[i + 4].a, t[i + 8].a, t[i + 12].a};
        x[i + 4] = (vf){t[i].b, t[i + 4].b, t[i + 8].b, t[i + 12].b};
        x[i + 8] = (vf){t[i].c, t[i + 4].c, t[i + 8].c, t[i + 12].c};
        x[i + 12] = (vf){t[i].d, t[i + 4].d, t[i + 8].d, t[i + 12].d};
    }
}

typedef struct codes {
    uint8x16_t a, b, c, d;
} codes; /* 64 bytes */
INLINE codes load_codes(const unsigned char *p)
{
    return (codes){vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
INLINE uint8x16_t low_half(uint8x16_t x) { return vandq_u8(x, vdupq_n_u8(15)); }
INLINE uint8x16_t high_half(uint8x16_t x) { return vshrq_n_u8(x, 4); }
#define CODES(op, x) ((codes){op((x).a), op((x).b), op((x).c), op((x).d)})
INLINE vg as_signed(codes x)
{
    return (vg){vreinterpretq_s8_u8(x.a), vreinterpretq_s8_u8(x.b), vreinterpretq_s8_u8(x.c), vreinterpretq_s8_u8(x.d)};
}
INLINE vg look_up(const int8_t table[16], codes x)
{
    int8x16_t t = vld1q_s8(table);
    return (vg){vqtbl1q_s8(t, x.a), vqtbl1q_s8(t, x.b), vqtbl1q_s8(t, x.c), vqtbl1q_s8(t, x.d)};
}
INLINE vg vg_load(const unsigned char *p) { return as_signed(load_codes(p)); }
INLINE vg vg_low(const unsigned char *p, const int8_t table[16])
{
    return look_up(table, CODES(low_half, load_codes(p)));
}
INLINE vg vg_high(const unsigned char *p, const int8_t table[16])
{
    return look_up(table, CODES(high_half, load_codes(p)));
}

/* Byte c of every four goes to the top of 32 bits, zeros below: the integer times 2^24, which the conversion divides
 * by. */
INLINE float32x4_t column(int8x16_t x, int c)
{
    uint32x4_t from =
        vaddq_u32((uint32x4_t){0x00ffffff, 0x04ffffff, 0x08ffffff, 0x0cffffff}, vdupq_n_u32((uint32_t)c << 24));
    return vcvtq_n_f32_s32(vreinterpretq_s32_s8(vqtbl1q_s8(x, vreinterpretq_u8_u32(from))), 24);
}
INLINE vf vg_column(vg x, int c) { return (vf){column(x.a, c), column(x.b, c), column(x.c, c), column(x.d, c)}; }

/* --- 8-bit activations: signed by signed, so the sum kept is the sum itself. 4-bit codes go in as they are, Q4_0's
 * and INT4's 8 more than their values: from -8 times the sum of x on. --- */

INLINE int32_t total_of_sum(int32_t sum) { return sum; }
INLINE int32_t kept_sum(const int8_t *q) { return vaddlvq_s8(vld1q_s8(q)) + vaddlvq_s8(vld1q_s8(q + 16)); }
INLINE int q8_offset(cl_format f) { return f == CL_Q4_0 || f == CL_INT4 ? 8 : 0; }
INLINE int32_t q8_start(int offset, int32_t sum) { return -offset * sum; }

INLINE uint32x4_t magnitude(const float *x)
{
    return vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x)), vdupq_n_u32(0x7fffffff));
}
/* 8 numbers times `scale`, rounded. */
INLINE int16x8_t rounded(const float *x, float32x4_t scale)
{
    return vcombine_s16(vmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x), scale))),
                        vmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + 4), scale))));
}
INLINE float block_q8(const float *x, int8_t *q, int32_t *sum)
{
    uint32x4_t most = magnitude(x);
    for (int i = 4; i < 32; i += 4) most = vmaxq_u32(most, magnitude(x + i));
    uint32_t bits = vmaxvq_u32(most);
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    float inverse = 127.0f / amax;
    int8x16_t first = vdupq_n_s8(0), second = first;
    if (amax <= FLT_MAX && inverse <= FLT_MAX) {
        float32x4_t scale = vdupq_n_f32(inverse);
        first = vcombine_s8(vmovn_s16(rounded(x, scale)), vmovn_s16(rounded(x + 8, scale)));
        second = vcombine_s8(vmovn_s16(rounded(x + 16, scale)), vmovn_s16(rounded(x + 24, scale)));
    }
    vst1q_s8(q, first);
    vst1q_s8(q + 16, second);
    *sum = vaddlvq_s8(first) + vaddlvq_s8(second);
    return amax / 127.0f;
}

/* Ends a step: the compiler may not mix the instructions of several tokens, which would need more registers than
 * there are. */
#define STEP(sum) __asm__ volatile("" : "+w"((sum).a), "+w"((sum).b), "+w"((sum).c), "+w"((sum).d))
/* Nor may it keep what it read at p for the other plane of 16-bit activations, for the same reason. */
#define READ_ANEW(p) __asm__ volatile("" : "+r"(p))

/* Columns `at` .. at+3 of the tokens, the same 4 bytes in every lane. */
INLINE void dot(int tokens, vg w, const int8_t *x, int at, vi *s)
{
    for (int t = 0; t < tokens; t++) {
        int32_t four;
        memcpy(&four, x + 32 * t + at, sizeof four);
        int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(four));
        s[t].a = vdotq_s32(s[t].a, w.a, q);
        s[t].b = vdotq_s32(s[t].b, w.b, q);
        s[t].c = vdotq_s32(s[t].c, w.c, q);
        s[t].d = vdotq_s32(s[t].d, w.d, q);
        STEP(s[t]);
    }
}
INLINE vi vi_set1(int32_t x)
{
    int32x4_t v = vdupq_n_s32(x);
    return (vi){v, v, v, v};
}

INLINE void vi_dot_i8(int tokens, const unsigned char *w, const int8_t *x, const int32_t *start, vi *s)
{
    READ_ANEW(w);
    for (int t = 0; t < tokens; t++) s[t] = vi_set1(0);
    for (int g = 0; g < 8; g++) dot(tokens, vg_load(w + 64 * g), x, 4 * g, s);
}

/* 4-bit codes as they are, or through a table. */
INLINE void dot_u4(int tokens, const int8_t *table, const unsigned char *w, const int8_t *x, const int32_t *start,
                   vi *s)
{
    READ_ANEW(w);
    for (int t = 0; t < tokens; t++) s[t] = vi_set1(start ? start[t] : 0);
    for (int v = 0; v < 4; v++) {
        codes all = load_codes(w + 64 * v), low = CODES(low_half, all), high = CODES(high_half, all);
        dot(tokens, table ? look_up(table, low) : as_signed(low), x, 8 * v, s);
        dot(tokens, table ? look_up(table, high) : as_signed(high), x, 8 * v + 4, s);
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
    dot_u4(tokens, cl_e2m1_doubled, w, x, NULL, s);
}

#endif
