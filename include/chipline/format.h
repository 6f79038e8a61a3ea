/* format.h: number formats of weights (sizes, names, conversion of whole rows to and from float32) and of the cache.
 *
 * A row of n columns is ceil(n / block) blocks; the last block is padded with zeros, so any width is allowed in any
 * format. Layouts are bit for bit those of GGUF (ggml-common.h). Decoding is exact; encoding follows
 * the GGUF reference encoders. Pure and local; nothing here allocates. */
#ifndef CHIPLINE_FORMAT_H
#define CHIPLINE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cl_format {
    /* native: kept in the model file and computed as they are */
    CL_F32,
    CL_F16,
    CL_BF16,
    CL_Q8_0,
    CL_Q4_0,
    CL_Q4_1,
    CL_MXFP4,
    CL_INT4, /* 32 columns: bf16 d; 16 bytes as Q4_0: d * (n - 8) (compressed-tensors' symmetric int4, group 32) */
    CL_FP8,  /* E4M3 codes, a float32 scale per tile of 128 rows x 128 columns (DeepSeek-V3) */
    CL_NATIVE_FORMATS,
    /* read by importers, re-encoded to Q8_0 */
    CL_Q5_0 = CL_NATIVE_FORMATS,
    CL_Q5_1,
    CL_Q4_K,
    CL_Q5_K,
    CL_Q6_K,
    CL_FORMATS
} cl_format;

typedef struct cl_format_info {
    const char *name; /* "q8_0": as in options, model files and reports */
    int block;        /* columns per block */
    int block_bytes;
} cl_format_info;

const cl_format_info *cl_format_get(cl_format f); /* aborts on a value outside the enum */
/* By name, case-insensitive; false if unknown. */
bool cl_format_parse(const char *name, cl_format *out);
static inline bool cl_format_native(cl_format f) { return f < CL_NATIVE_FORMATS; }

/* Bytes of one row of `cols` columns, cols >= 0.
 * FP8: a row is complete in itself: ceil(cols / 128) float32 scales, then cols codes; the 128 rows of a tile repeat
 * its scale. */
size_t cl_row_bytes(cl_format f, int64_t cols);
/* Rows that share scales: 128 for FP8, counted from the first row of each matrix; 1 otherwise. */
int64_t cl_format_tile_rows(cl_format f);
/* Bytes of a matrix as stored: rows * cl_row_bytes, but FP8's scales once per tile. */
uint64_t cl_matrix_bytes(cl_format f, int64_t rows, int64_t cols);
/* Weights are small integers (times scales), so that products with 8-bit activations are exact integer sums; the
 * others always take float32 activations. */
bool cl_format_integer(cl_format f);

/* row -> out[0..cols) exactly; padding is not written. row needs no alignment. */
void cl_decode_row(cl_format f, const void *row, int64_t cols, float *out);
/* x[0..cols) -> row, padding encoded as zeros. Only native formats (others abort). NaN and infinity encode to
 * whatever the format gives; importers check for them first. */
void cl_encode_row(cl_format f, const float *x, int64_t cols, void *row);
/* The same for n rows of x [n][cols] that begin at a multiple of cl_format_tile_rows and are a tile at most (or any
 * number of rows where that is 1): a tile's scale is its amax / 448, its codes the nearest, ties to even.
 * cl_encode_row is one such row. */
void cl_encode_rows(cl_format f, const float *x, int64_t n, int64_t cols, void *rows);

/* --- numbers of the KV cache --- */

typedef enum cl_kv_format {
    CL_KV_F32,
    CL_KV_BF16,
    CL_KV_Q8 /* 8-bit integers, a float32 scale per 32 of a vector */
} cl_kv_format;
enum { CL_KV_BLOCK = 16 };              /* positions that lie together */
const char *cl_kv_name(cl_kv_format f); /* "bf16"; aborts on a value outside the enum */
/* Bytes of one cached vector of dim numbers, without padding. */
size_t cl_kv_vector_bytes(cl_kv_format f, int64_t dim);
/* Bytes of CL_KV_BLOCK such vectors as memory holds them: a multiple of 64. */
size_t cl_kv_block_bytes(cl_kv_format f, int64_t dim);

/* One E4M3 number (e4m3fn: no infinity; 0x7f and 0xff are NaN), exactly. */
float cl_e4m3_to_f32(uint8_t code);
/* Nearest, ties to even; magnitudes over 448 become 448; NaN stays. */
uint8_t cl_f32_to_e4m3(float x);

/* The 16 values of E2M1 (fp4) doubled, so that they are integers: 0 1 2 3 4 6 8 12 and their negatives. */
extern const int8_t cl_e2m1_doubled[16];
/* E8M0 scale byte as float32, halved so that it pairs with cl_e2m1_doubled: 2^(e-128), exact, subnormal for e < 2. */
float cl_e8m0_half(uint8_t e);

#endif
