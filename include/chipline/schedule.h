/* schedule.h: which sequences' next tokens travel together. Pure: no MPI, no clock, no model; the same calls give the
 * same micro-batches.
 *
 * Decoding sequences are spread evenly over as many micro-batches as keep every stage at work; prompts fill what is
 * left of a micro-batch, oldest first, in chunks; they too are spread, at least 16 tokens at a time. A finished
 * sequence's slot is refilled at once. */
#ifndef CHIPLINE_SCHEDULE_H
#define CHIPLINE_SCHEDULE_H

#include <stdbool.h>

#include "chipline/microbatch.h"
#include "chipline/status.h"

/* One sequence, whatever runs it: nothing in it depends on the layout. */
typedef struct cl_sequence {
    int32_t *tokens; /* [capacity]: prompt, then generated; behind them guesses */
    int n_prompt, n_tokens, capacity;
    int n_guesses; /* tokens[n_tokens .. n_tokens + n_guesses - 1] may be what comes next: sent along to be verified */
    int n_sent;    /* tokens already on their way or through: positions 0 .. n_sent - 1 are, or will be, in the cache */
    int fork;      /* slot whose cache has positions 0 .. n_sent - 1 when the sequence is admitted; -1: none */
    bool begun;    /* something of it was sent since it was admitted */
    bool awaits;   /* its last token is in the line, samples will come back */
    bool rows;     /* logits of every position are wanted */
    cl_sampling sampling;
    void *owner; /* the caller's */
} cl_sequence;

/* Micro-batches that keep a line full: one for each stage, and in a long line two more, since some are always between
 * two stages. (In a short one they would be smaller instead, and each reads the weights anew.) */
static inline int cl_microbatches_of(int stages) { return stages + (stages < 16 ? stages / 8 : 2); }

typedef struct cl_schedule cl_schedule;
cl_code cl_schedule_create(cl_schedule **out, const cl_limits *limits, int stages, cl_err *err);
void cl_schedule_free(cl_schedule *s); /* not the sequences */

bool cl_schedule_has_room(const cl_schedule *s);
/* Puts a sequence (borrowed) with tokens that are not sent yet into a free slot; returns it. Room must be there. One
 * with n_sent > 0 forks from another slot, which must hold those positions when the sequence's first part is
 * computed. */
int cl_schedule_admit(cl_schedule *s, cl_sequence *seq);
cl_sequence *cl_schedule_sequence(const cl_schedule *s, int slot); /* NULL: free */
/* Frees a slot; the sequence must not await samples. */
void cl_schedule_leave(cl_schedule *s, int slot);
int cl_schedule_active(const cl_schedule *s); /* occupied slots */

/* Fills mb (parts with room for limits.slots, ids for limits.chunk, before for a repeat window per slot) with what
 * should enter the line now; false if nothing is ready. Marks its tokens as sent. Guesses go along behind a sequence's
 * last token as far as there is room for them. */
bool cl_schedule_next(cl_schedule *s, cl_microbatch *mb);
/* Samples came back for a slot: n >= 1 ids, the first n - 1 of which are the sequence's first guesses. They are
 * appended (room must be there), other guesses are dropped, and the sequence is ready again. */
void cl_schedule_sampled(cl_schedule *s, int slot, const int32_t *ids, int n);

#endif
