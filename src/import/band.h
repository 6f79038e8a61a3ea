/* band.h: a rectangle of a source tensor in memory, and its rows in the form that a model file has (format.h),
 * whatever their layout in the source. */
#ifndef CHIPLINE_IMPORT_BAND_H
#define CHIPLINE_IMPORT_BAND_H

#include "source.h"

/* Columns at which a rectangle may begin: a multiple of every format's block. */
enum { CL_BAND_COLS = 256 };

typedef struct cl_band {
    const cl_src_tensor *src;
    int64_t width;                  /* numbers along the source's last dimension */
    int64_t row, n, col, cols;      /* the rectangle, rows counted over the whole tensor */
    size_t code_bytes, scale_bytes; /* per row, and per row of scales */
    unsigned char *codes, *scales;
} cl_band;

/* Room for rectangles of src of up to n rows and cols columns. Free with cl_band_free. */
cl_code cl_band_make(cl_band *b, const cl_src_tensor *src, int64_t width, int64_t n, int64_t cols, cl_err *err);
void cl_band_free(cl_band *b);
/* Reads rows [row, row + n), columns [col, col + cols) of src (of the layout it was made for). */
cl_code cl_band_read(cl_band *b, const cl_source *s, const cl_src_tensor *src, int64_t row, int64_t n, int64_t col,
                     int64_t cols, cl_err *err);
/* Row i of the rectangle in the source's format: in place, or in out [cl_row_bytes]. NULL: a scale the format cannot
 * hold. */
const unsigned char *cl_band_row(const cl_band *b, int64_t i, unsigned char *out);
/* FP8: code and scale at row i, column c of the rectangle. */
uint8_t cl_band_code(const cl_band *b, int64_t i, int64_t c);
float cl_band_scale(const cl_band *b, int64_t i, int64_t c);

#endif
