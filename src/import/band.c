/* band.c: reading rectangles of source tensors, and putting codes and scales together as rows (band.h). No code is
 * changed: only their order, and where scales are. */
#include "band.h"

#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"

enum { GROUP = CL_SRC_GROUP, TILE = CL_SRC_TILE };

static size_t scale_size(const cl_src_tensor *t) { return t->scale_format == CL_F32 ? 4 : 2; }

static size_t code_span(const cl_src_tensor *t, int64_t cols)
{
    switch (t->layout) {
    case CL_SRC_ROWS: break;
    case CL_SRC_MXFP4_PAIRS:
    case CL_SRC_INT4_WORDS: return (size_t)cols / 2;
    case CL_SRC_FP8_TILES: return (size_t)cols;
    }
    return cl_row_bytes((cl_format)t->format, cols);
}

static size_t scale_span(const cl_src_tensor *t, int64_t cols)
{
    switch (t->layout) {
    case CL_SRC_ROWS: break;
    case CL_SRC_MXFP4_PAIRS: return (size_t)cols / GROUP;
    case CL_SRC_FP8_TILES: return (size_t)((cols + TILE - 1) / TILE) * scale_size(t);
    case CL_SRC_INT4_WORDS: return (size_t)cols / GROUP * scale_size(t);
    }
    return 0;
}

/* The row of scales that belongs to a row of the tensor; tiles begin anew with each matrix of a stack. */
static int64_t scale_row(const cl_src_tensor *t, int64_t row)
{
    if (t->layout != CL_SRC_FP8_TILES) return row;
    int64_t rows = t->n_dims == 3 ? t->dims[1] : INT64_MAX, per = t->n_dims == 3 ? (rows + TILE - 1) / TILE : 0;
    return row / rows * per + row % rows / TILE;
}

cl_code cl_band_make(cl_band *b, const cl_src_tensor *src, int64_t width, int64_t n, int64_t cols, cl_err *err)
{
    *b = (cl_band){.src = src, .width = width};
    b->codes = cl_malloc((size_t)n, code_span(src, cols), "rows", err);
    if (!b->codes) return CL_E_FIT;
    /* another part's scales may be twice as wide */
    b->scales = cl_malloc((size_t)n, 2 * scale_span(src, cols), "rows", err);
    if (!b->scales) {
        cl_band_free(b);
        return CL_E_FIT;
    }
    return CL_OK;
}

void cl_band_free(cl_band *b)
{
    free(b->codes);
    free(b->scales);
    b->codes = b->scales = NULL;
}

/* n pieces of `bytes` that begin `pitch` apart. */
static cl_code read_pieces(const cl_source *s, int file, uint64_t offset, int64_t n, size_t bytes, size_t pitch,
                           unsigned char *out, cl_err *err)
{
    if (bytes == pitch) return cl_source_read(s, file, offset, (size_t)n * bytes, out, err);
    cl_code c = CL_OK;
    for (int64_t i = 0; i < n && c == CL_OK; i++)
        c = cl_source_read(s, file, offset + (uint64_t)i * pitch, bytes, out + (size_t)i * bytes, err);
    return c;
}

cl_code cl_band_read(cl_band *b, const cl_source *s, const cl_src_tensor *src, int64_t row, int64_t n, int64_t col,
                     int64_t cols, cl_err *err)
{
    b->src = src;
    b->row = row;
    b->n = n;
    b->col = col;
    b->cols = cols;
    b->code_bytes = code_span(src, cols);
    b->scale_bytes = scale_span(src, cols);
    size_t pitch = code_span(src, b->width);
    cl_code c = read_pieces(s, src->file, src->offset + (uint64_t)row * pitch + code_span(src, col), n, b->code_bytes,
                            pitch, b->codes, err);
    if (c != CL_OK || b->scale_bytes == 0) return c;
    int64_t first = scale_row(src, row), end = scale_row(src, row + n - 1) + 1;
    pitch = scale_span(src, b->width);
    return read_pieces(s, src->scale_file, src->scale_offset + (uint64_t)first * pitch + scale_span(src, col),
                       end - first, b->scale_bytes, pitch, b->scales, err);
}

/* --- rows --- */

/* 32 four-bit codes, from neighbours in a byte to 16 apart in a byte. */
static void spread_pairs(const unsigned char *pairs, unsigned char *out)
{
    for (int j = 0; j < 16; j += 2) {
        unsigned lo = pairs[j / 2], hi = pairs[8 + j / 2];
        out[j] = (unsigned char)((lo & 15) | (hi & 15) << 4);
        out[j + 1] = (unsigned char)(lo >> 4 | (hi & 0xf0));
    }
}

static void mxfp4_row(const cl_band *b, int64_t i, unsigned char *out)
{
    const unsigned char *codes = b->codes + (size_t)i * b->code_bytes, *e = b->scales + (size_t)i * b->scale_bytes;
    for (int64_t g = 0; g < b->cols / GROUP; g++, codes += 16, out += 17) {
        out[0] = e[g];
        spread_pairs(codes, out + 1);
    }
}

/* Element g of row i of the scales, exactly. */
static float scale_at(const cl_band *b, int64_t i, int64_t g)
{
    const unsigned char *p = b->scales + (size_t)i * b->scale_bytes + (size_t)g * scale_size(b->src);
    float f;
    cl_decode_row((cl_format)b->src->scale_format, p, 1, &f);
    return f;
}

static bool int4_row(const cl_band *b, int64_t i, unsigned char *out)
{
    const unsigned char *codes = b->codes + (size_t)i * b->code_bytes;
    for (int64_t g = 0; g < b->cols / GROUP; g++, codes += 16, out += 18) {
        float scale = scale_at(b, i, g);
        uint32_t u;
        memcpy(&u, &scale, sizeof u);
        if (u & 0xffff) return false;
        out[0] = (unsigned char)(u >> 16);
        out[1] = (unsigned char)(u >> 24);
        spread_pairs(codes, out + 2);
    }
    return true;
}

float cl_band_scale(const cl_band *b, int64_t i, int64_t c)
{
    return scale_at(b, scale_row(b->src, b->row + i) - scale_row(b->src, b->row), c / TILE);
}

uint8_t cl_band_code(const cl_band *b, int64_t i, int64_t c) { return b->codes[(size_t)i * b->code_bytes + (size_t)c]; }

static void fp8_row(const cl_band *b, int64_t i, unsigned char *out)
{
    for (int64_t c = 0; c < b->cols; c += TILE, out += sizeof(float)) {
        float scale = cl_band_scale(b, i, c);
        memcpy(out, &scale, sizeof scale);
    }
    memcpy(out, b->codes + (size_t)i * b->code_bytes, (size_t)b->cols);
}

const unsigned char *cl_band_row(const cl_band *b, int64_t i, unsigned char *out)
{
    switch (b->src->layout) {
    case CL_SRC_ROWS: return b->codes + (size_t)i * b->code_bytes;
    case CL_SRC_MXFP4_PAIRS: mxfp4_row(b, i, out); break;
    case CL_SRC_FP8_TILES: fp8_row(b, i, out); break;
    case CL_SRC_INT4_WORDS:
        if (!int4_row(b, i, out)) return NULL;
    }
    return out;
}
