/* match.h: which source tensors a canonical tensor is made of, and which of their numbers in which order. */
#ifndef CHIPLINE_IMPORT_MATCH_H
#define CHIPLINE_IMPORT_MATCH_H

#include "family.h"
#include "source.h"

/* Matrix m of a tensor begins m * stride rows down the source (of its own part, where each has one).
 * Not turned: row r of it is row first + r * step from there.
 * Turned: row r is column first + r * step of the matrix's `cols` rows from there. */
typedef struct cl_origin {
    int n_parts;  /* 1, or the number of experts where each has its own source tensor */
    int *parts;   /* [n_parts] indices into the source */
    int head_dim; /* rows are neighbouring rotary pairs within each head of so many rows; 0: they are in place */
    bool turned;
    int64_t stride, first, step;
    int64_t width; /* numbers along the source's last dimension */
} cl_origin;

/* One origin per tensor of m, in m's order; CL_E_INPUT names what is missing, what nobody expects, and what has
 * another shape or a number type that cannot be read. `skip`: a source tensor to leave alone, or NULL. *extra:
 * tensors of layers past the last one, which the model does not need. Free with cl_origins_free. */
cl_code cl_match(const cl_source *s, const cl_family *f, bool gguf, const cl_model *m, const char *skip,
                 cl_origin **out, int *extra, cl_err *err);
void cl_origins_free(cl_origin *o, int n);

/* The source's bytes can become the tensor's rows as they are: nothing is transposed that lies in blocks, no tile is
 * cut. */
bool cl_origin_keeps(const cl_source *s, const cl_tensor *t, const cl_origin *o);

#endif
