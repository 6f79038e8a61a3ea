/* sample.h: from logits to the next id. Pure: the draw at a position depends on logits, options and (seed, position)
 * alone, so a sequence gives the same ids in every layout and batch. Inside chip/. */
#ifndef CHIPLINE_CHIP_SAMPLE_H
#define CHIPLINE_CHIP_SAMPLE_H

#include <stddef.h>

#include "chipline/microbatch.h"
#include "chipline/status.h"

/* Working memory for one vocabulary; local, owned by the caller. */
typedef struct cl_sampler cl_sampler;
cl_code cl_sampler_create(cl_sampler **out, int vocab, cl_err *err);
void cl_sampler_free(cl_sampler *s);
size_t cl_sampler_bytes(int vocab); /* that it allocates */

/* logits [vocab]; ids >= allowed are never chosen (rows that pad the vocabulary). recent: the last tokens of the
 * sequence, for the repeat penalty. Order of the steps: repeat penalty, temperature 0 -> argmax (ties to the lower
 * id); else temperature, top-k, top-p, min-p, draw. position: index of the token being drawn. */
int32_t cl_sample(cl_sampler *s, const float *logits, int allowed, const cl_sampling *opt, const int32_t *recent,
                  int n_recent, int64_t position);

/* --- the same from several parts of a vocabulary: each gives its best candidates, and the id is drawn from all of
 * them --- */

enum { CL_CANDIDATES = 64 };
typedef struct cl_candidate {
    int32_t id;  /* -1: none */
    float logit; /* after the repeat penalty */
} cl_candidate;
/* How many candidates of each part are enough: 1 if greedy, top_k if that is at most CL_CANDIDATES; else 0: all
 * logits are needed. */
int cl_sample_candidates_needed(const cl_sampling *opt, int allowed);
/* The best k candidates among ids first .. first + n - 1, best first; logits [n]. Missing ones have id -1. */
void cl_sample_candidates(cl_sampler *s, const float *logits, int first, int n, int allowed, const cl_sampling *opt,
                          const int32_t *recent, int n_recent, int k, cl_candidate *out);
/* What cl_sample gives with all logits. c: the parts' candidates, n of them in any order, sorted here; at least the
 * best ones needed. */
int32_t cl_sample_merged(cl_sampler *s, cl_candidate *c, int n, const cl_sampling *opt, int64_t position);

#endif
