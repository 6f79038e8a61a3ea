/* head.h: final norm and output head of a few rows at a time, and what becomes of them. Inside chip/. */
#ifndef CHIPLINE_CHIP_HEAD_H
#define CHIPLINE_CHIP_HEAD_H

#include "phases.h"

/* Rows whose logits are computed together: tokens of a micro-batch. */
typedef struct head_batch {
    int n;
    const float *x[HEAD_ROWS]; /* [hidden] each */
    int part[HEAD_ROWS], token[HEAD_ROWS];
} head_batch;

/* What head_run gives: logits [n of the batch][stride] of ids first .. first + n_ids - 1; valid until the run after the
 * next one. With whole_rows the stage's first chip has them all, and the others nothing (n_ids 0); else every chip has
 * those of its own rows of the vocabulary. */
typedef struct head_logits {
    const float *rows;
    size_t stride;
    int first, n_ids;
} head_logits;

/* Writes common->norm and the head's buffers. Collective over the stage. */
head_logits head_run(const chip_fixed *c, const cl_microbatch *mb, const head_batch *b, bool whole_rows,
                     common_buffers *common, head_buffers *to);
/* Bytes of the weights that a run reads. */
uint64_t head_bytes(const chip_fixed *c);

/* Sampling (sampling.c): created for a stage with the head; else *out is NULL. What was made before a failure is left
 * to free. */
cl_code sampling_create(sampling **out, const chip_fixed *c, cl_err *err);
void sampling_free(sampling *s);
size_t sampling_bytes(const chip_fixed *c); /* that it allocates */

#endif
