/* match.h: which source tensors a canonical tensor is made of. */
#ifndef CHIPLINE_IMPORT_MATCH_H
#define CHIPLINE_IMPORT_MATCH_H

#include "family.h"
#include "source.h"

typedef struct cl_origin {
    int n_parts;   /* 1, or the number of experts where each has its own source tensor */
    int *parts;    /* [n_parts] indices into the source; their rows follow each other */
    int head_dim;  /* rows are neighbouring rotary pairs within each head of so many rows; 0: they are in place */
} cl_origin;

/* One origin per tensor of m, in m's order; CL_E_INPUT names what is missing, what nobody expects, and what has another shape or
 * a number type that cannot be read. `skip`: a source tensor to leave alone, or NULL. Free with cl_origins_free. */
cl_code cl_match(const cl_source *s, const cl_family *f, bool gguf, const cl_model *m, const char *skip, cl_origin **out,
                 cl_err *err);
void cl_origins_free(cl_origin *o, int n);

#endif
