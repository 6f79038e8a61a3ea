/* format.h: number formats of weights: sizes, names, and conversion of whole rows to and from float32.
 *
 * A row of n columns is ceil(n / block) blocks; the last block is padded with zeros, so any width is allowed in any format.
 * Layouts are bit for bit those of GGUF (models.md section 5 cites them). Decoding is exact; encoding follows the GGUF
 * reference encoders. Pure and local; nothing here allocates. */
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
    const char *name;  /* "q8_0": as in options, model files and reports */
    int block;         /* columns per block */
    int block_bytes;
} cl_format_info;

const cl_format_info *cl_format_get(cl_format f); /* aborts on a value outside the enum */
/* By name, case-insensitive; false if unknown. */
bool cl_format_parse(const char *name, cl_format *out);
static inline bool cl_format_native(cl_format f) { return f < CL_NATIVE_FORMATS; }

/* Bytes of one row of `cols` columns, cols >= 0. */
size_t cl_row_bytes(cl_format f, int64_t cols);

/* row -> out[0..cols) exactly; padding is not written. row needs no alignment. */
void cl_decode_row(cl_format f, const void *row, int64_t cols, float *out);
/* x[0..cols) -> row, padding encoded as zeros. Only native formats (others abort). NaN and infinity encode to whatever the
 * format gives; importers check for them first. */
void cl_encode_row(cl_format f, const float *x, int64_t cols, void *row);

/* The 16 values of E2M1 (fp4) doubled, so that they are integers: 0 1 2 3 4 6 8 12 and their negatives. */
extern const int8_t cl_e2m1_doubled[16];
/* E8M0 scale byte as float32, halved so that it pairs with cl_e2m1_doubled: 2^(e-128), exact, subnormal for e < 2. */
float cl_e8m0_half(uint8_t e);

#endif
