/* sets.h: what the files of this folder share: the sets' names, the cache's layout, the rule of 8-bit blocks. Inside
 * kernels/ only, but for the layout, which cache_rows.c knows too. */
#ifndef CHIPLINE_KERNELS_SETS_H
#define CHIPLINE_KERNELS_SETS_H

#include <math.h>

#include "chipline/kernels.h"

const cl_kernels *cl_kernels_generic(void);
#if defined(__x86_64__)
const cl_kernels *cl_kernels_avx2(void);
const cl_kernels *cl_kernels_avx512(void);
const cl_kernels *cl_kernels_amx(void);
/* What the amx set has besides the avx512 set; usable asks the system for the tiles' registers. */
bool amx_usable(void);
void amx_matmul(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const cl_acts *x, const int32_t *index,
                int n_index, float *y, size_t y_stride);
#elif defined(__aarch64__)
const cl_kernels *cl_kernels_neon(void);
#endif

/* A half of one cache block. Numbers: keys [head_dim][16], values [16][head_dim]. q8 puts scales [ceil(head_dim /
 * 32)][16] (float32) in front of them, one per 32 numbers and position. */
static inline size_t cl_kv_scales(int head_dim) { return (size_t)(head_dim + 31) / 32 * CL_KV_BLOCK; }
static inline size_t cl_kv_block_at(const cl_kv_head *h, int64_t block)
{
    return (size_t)h->table[block < h->blocks ? block : block % h->blocks] * h->block_bytes;
}
void cl_kv_store(const cl_kv_head *h, int64_t pos, const float *k, const float *v);

/* 8-bit block of n <= 32 numbers: integers into q[0..n), scale returned. NaN and infinity make the scale NaN or
 * infinity and the integers zero, so that a broken number is seen in every product it takes part in. */
float cl_block_q8(const float *x, int n, int8_t *q);
/* Mixed: an 8-bit block of a row whose rms is r gets a second plane if its scale is over this times r. */
#define CL_MIXED_SCALE (8.0f / 127)
/* Has block b of a token a fine plane? */
static inline bool cl_has_fine(const cl_acts *x, int64_t token, int64_t b)
{
    return x->planes == 2 && x->d[(token * ((x->cols + 31) / 32) + b) * 2 + 1] != 0;
}
/* The 16-bit block of x[0..32): both planes, and both scales. */
void cl_block_q16(const float *x, int8_t *coarse, int8_t *fine, float d[2]);

/* Coefficients of cl_exp. With n = round(x / ln 2), r = x - n ln 2 and |r| <= ln(2) / 2: e^r = 1 + r + r^2 (C2 + C3 r
 * + ...), fitted by Lawson's algorithm for the least largest relative error, 3.2e-9. ROUND, added to a number below
 * 2^22, leaves its nearest integer in the low bits. */
#define CL_EXP_LO (-87.3f)
#define CL_EXP_HI 88.7f
#define CL_EXP_LOG2E 0x1.715476p+0f
#define CL_EXP_LN2_HI 0x1.62e43p-1f
#define CL_EXP_LN2_LO (-0x1.05c61p-29f)
#define CL_EXP_ROUND 0x1.8p+23f
#define CL_EXP_C2 0x1.fffffcp-2f
#define CL_EXP_C3 0x1.555492p-3f
#define CL_EXP_C4 0x1.5558bcp-5f
#define CL_EXP_C5 0x1.1239c6p-7f
#define CL_EXP_C6 0x1.6a4154p-10f

#endif
