/* sample.h: from logits to the next id. Pure: the draw at a position depends on logits, options and (seed, position) alone, so a
 * sequence gives the same ids in every layout and batch. */
#ifndef CHIPLINE_SAMPLE_H
#define CHIPLINE_SAMPLE_H

#include "chipline/microbatch.h"
#include "chipline/status.h"

enum { CL_REPEAT_WINDOW = 64 };

/* Working memory for one vocabulary; local, owned by the caller. */
typedef struct cl_sampler cl_sampler;
cl_code cl_sampler_create(cl_sampler **out, int vocab, cl_err *err);
void cl_sampler_free(cl_sampler *s);

/* logits [vocab]; ids >= allowed are never chosen (rows that pad the vocabulary). recent: the last tokens of the sequence, for the
 * repeat penalty. Order of the steps: repeat penalty, temperature 0 -> argmax (ties to the lower id); else temperature, top-k,
 * top-p, min-p, draw. position: index of the token being drawn. */
int32_t cl_sample(cl_sampler *s, const float *logits, int allowed, const cl_sampling *opt, const int32_t *recent, int n_recent,
                  int64_t position);

#endif
