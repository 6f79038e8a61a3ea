/* slice.h: the weights that this chip holds, in one block of memory that is filled once and only read afterwards.
 *
 * Inside chip/. Matrices and routers are kept in the kernel set's panels, norms, biases and sinks as float32. The
 * embedding table is kept in panels too, so that a chip with a tied head holds it once; rows are decoded by
 * cl_kernels.unpack. */
#ifndef CHIPLINE_CHIP_SLICE_H
#define CHIPLINE_CHIP_SLICE_H

#include "chipline/chip.h"
#include "chipline/kernels.h"
#include "chipline/model.h"
#include "chipline/plan.h"
#include "crew.h"

/* What is here of one tensor: rows row0 .. row0 + m.rows - 1 of m.experts experts (or heads), in ascending order. All
 * zeros: nothing. */
typedef struct slice_tensor {
    int64_t row0;
    size_t at;   /* offset in the slice's block */
    cl_matrix m; /* m.data is NULL when nothing is here, or for a vector */
    float *vec;  /* m.experts x m.rows numbers; NULL for a matrix */
} slice_tensor;

typedef struct slice {
    int first_layer, n_layers;
    slice_tensor *tensors; /* [1 + n_layers][CL_ROLES]: first the tensors that belong to no layer */
    unsigned char *data;   /* NULL: only planned */
    size_t bytes;
    size_t table_bytes, staging_bytes; /* of the table; of one thread while it loads */
    uint64_t file_bytes;               /* as the extents are in the file */
} slice;

/* Where everything will lie, nothing of it there yet: the table, shapes, offsets and bytes. Each tensor must
 * belong to the stage. err is not NULL. On failure nothing is left to free. */
cl_code slice_plan(slice *s, const cl_model *model, const cl_stage *stage, const cl_extent *extents, int n_extents,
                   const cl_kernels *k, cl_err *err);
/* Reads, checks and packs the planned extents with the options' crew; polls meanwhile. err is not NULL. On failure it
 * is still to be freed. */
cl_code slice_load(slice *s, const cl_model *model, const cl_tensor_reader *from, const cl_extent *extents,
                   int n_extents, const cl_kernels *k, const cl_chip_options *o, cl_err *err);
void slice_free(slice *s);

/* The tensor of this role; layer counts over the whole model, -1 for none. */
static inline slice_tensor *slice_get(const slice *s, cl_role role, int layer)
{
    return &s->tensors[(layer < 0 ? 0 : layer - s->first_layer + 1) * CL_ROLES + (int)role];
}

/* Bytes of one expert (or of the whole matrix) as kept. */
static inline uint64_t slice_expert_bytes(const cl_matrix *m) { return (uint64_t)m->panels * m->panel_bytes; }

#endif
