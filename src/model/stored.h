/* stored.h: how a tensor rests in a model file, for its writer and its reader. Private to model/. */
#ifndef CHIPLINE_MODEL_STORED_H
#define CHIPLINE_MODEL_STORED_H

#include "chipline/model_file.h"
#include "chipline/store.h"

/* Where a tensor's rows and its scales lie. */
typedef struct stored_place {
    cl_store_array rows, scales;
} stored_place;

struct cl_model_file {
    cl_store *store;
    char *source;
    cl_model model;
    stored_place *places; /* [n_tensors] */
    uint64_t checksum;
};

/* The checksum of a model: its spec's and its tensors' checksums, in canonical order. */
uint64_t stored_checksum(uint64_t spec_xxh3, const cl_tensor *tensors, int n);
/* Tensors whose rows share scales (fp8) rest in two arrays: the rows' codes and, once per tile, the scales. */
static inline bool stored_has_scales(const cl_tensor *t) { return cl_format_tile_rows(t->format) > 1; }
/* Bytes of the scales in a complete row, 0 if it has none, and of what the tensor's own array holds of a row. */
static inline size_t stored_scale_bytes(const cl_tensor *t)
{
    return stored_has_scales(t) ? cl_row_bytes(t->format, t->cols) - (size_t)t->cols : 0;
}
static inline size_t stored_row_bytes(const cl_tensor *t)
{
    return cl_row_bytes(t->format, t->cols) - stored_scale_bytes(t);
}
/* Rows of scales of one matrix. */
static inline int64_t stored_tile_rows(const cl_tensor *t)
{
    return (t->rows + cl_format_tile_rows(t->format) - 1) / cl_format_tile_rows(t->format);
}
/* Shapes of the two: the leading dimension is that of the experts, where there are some. */
static inline cl_store_array stored_shape(cl_store_type type, const cl_tensor *t, int64_t rows, uint64_t width)
{
    cl_store_array a = {.type = type, .rank = t->experts ? 3 : 2};
    uint64_t dims[3] = {(uint64_t)t->experts, (uint64_t)rows, width};
    for (int i = 0; i < a.rank; i++) a.dims[i] = dims[3 - a.rank + i];
    return a;
}
static inline cl_store_array stored_rows(const cl_tensor *t)
{
    return stored_shape(CL_STORE_U8, t, t->rows, stored_row_bytes(t));
}
static inline cl_store_array stored_scales(const cl_tensor *t)
{
    return stored_shape(CL_STORE_F32, t, stored_tile_rows(t), stored_scale_bytes(t) / sizeof(float));
}

#endif
