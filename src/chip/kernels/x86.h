/* x86.h: what the AVX2 and AVX-512 lanes share. */
#ifndef CHIPLINE_KERNELS_X86_H
#define CHIPLINE_KERNELS_X86_H

#include <float.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE int32_t load32(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE __m128i load64(const unsigned char *p) { return _mm_loadl_epi64((const __m128i *)p); }
INLINE __m128i load128(const unsigned char *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE __m256i load256(const unsigned char *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* lane[i] += lane[i + 4], then 2, 1 */
INLINE float fold_add(__m256 e)
{
    __m128 f = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    f = _mm_add_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_add_ss(f, _mm_movehdup_ps(f)));
}
INLINE float fold_max(__m256 e)
{
    __m128 f = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    f = _mm_max_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_max_ss(f, _mm_movehdup_ps(f)));
}

/* --- 8-bit blocks. Of the sum of the bytes two 16-bit sums are kept: of columns 0, 1 and of columns 2, 3 of every
 * four. --- */

INLINE int32_t total_of_sum(int32_t sum) { return (int16_t)sum + (sum >> 16); }

INLINE int32_t kept_sum(const int8_t *q)
{
    int32_t first = 0, second = 0;
    for (int i = 0; i < 32; i += 4) {
        first += q[i] + q[i + 1];
        second += q[i + 2] + q[i + 3];
    }
    return (int32_t)((uint32_t)(uint16_t)first | (uint32_t)second << 16);
}

/* 8 numbers times `scale`, rounded. */
INLINE __m256i rounded(__m256 x, __m256 scale) { return _mm256_cvtps_epi32(_mm256_mul_ps(x, scale)); }
INLINE float block_q8(const float *x, int8_t *q, int32_t *sum)
{
    __m256 v[4];
    __m256i most = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(v[i]), _mm256_set1_epi32(0x7fffffff)));
    }
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    float amax = _mm_cvtss_f32(_mm_castsi128_ps(m)), inverse = 127.0f / amax;
    __m256i all = _mm256_setzero_si256();
    if (amax <= FLT_MAX && inverse <= FLT_MAX) {
        __m256 scale = _mm256_set1_ps(inverse);
        all = _mm256_packs_epi16(_mm256_packs_epi32(rounded(v[0], scale), rounded(v[1], scale)),
                                 _mm256_packs_epi32(rounded(v[2], scale), rounded(v[3], scale)));
        /* packs worked within halves */
        all = _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    }
    _mm256_storeu_si256((__m256i *)q, all);
    __m256i pair = _mm256_maddubs_epi16(_mm256_set1_epi8(1), all);
    __m128i p = _mm_add_epi16(_mm256_castsi256_si128(pair), _mm256_extracti128_si256(pair, 1));
    p = _mm_add_epi16(p, _mm_shuffle_epi32(p, 0x4e));
    p = _mm_add_epi16(p, _mm_shuffle_epi32(p, 0xb1));
    *sum = _mm_cvtsi128_si32(p);
    return amax / 127.0f;
}

#endif
