/* line.h: the ranks as a line of stages: hand-over of micro-batches, samples on their way back, exchanges between the
 * chips of a stage.
 *
 * Boundary: no weights and no model here; MPI stays behind this header. A cl_line is made from a cl_ranks, which it
 * borrows; everything hangs on it (no globals). Buffers are made in cl_line_open; after that nothing is allocated.
 * Hand-over uses plain non-blocking sends and receives. A rank that waits for one that is dead ends the whole job
 * (ranks.h), so a dead peer never hangs it.
 *
 * "Collective" means that every rank of the job must call it, in the same order; the others are local, and meet their
 * counterpart on another rank. Ranks here count over the whole job. */
#ifndef CHIPLINE_LINE_H
#define CHIPLINE_LINE_H

#include <stdbool.h>

#include "chipline/group.h"
#include "chipline/microbatch.h"
#include "chipline/notes.h"
#include "chipline/plan.h" /* cl_rates */
#include "chipline/ranks.h"
#include "chipline/status.h"
#include "chipline/trace.h"
#include "chipline/util.h"

typedef struct cl_line cl_line;

/* How the chips of one stage exchange numbers: through memory that all see (only on one host), by messages, or auto:
 * those of a host through memory, their first chip for them by messages with those of other hosts. */
typedef enum cl_carrier { CL_CARRIER_AUTO, CL_CARRIER_SHARED, CL_CARRIER_MESSAGES } cl_carrier;

/* A stage's chips: ranks first .. first + members - 1. No members: there is no such stage. */
typedef struct cl_line_stage {
    int first, members;
} cl_line_stage;

/* A stage's first chip is its head chip: the first stage's begins micro-batches, the last one's returns samples. */
typedef struct cl_line_options {
    cl_limits limits;
    cl_line_stage prev, own, next; /* neighbours: none before the first stage and behind the last */
    int first, last;               /* head chips of the first and of the last stage */
    size_t exchange_bytes;         /* of cl_group.memory; the same on all members */
    cl_carrier carrier;            /* the same on all ranks, like `together` */
    int together;                  /* most chips that share one memory; 0: all of a host */
    cl_trace *trace;               /* borrowed, may be NULL */
} cl_line_options;

/* --- sizes: local, pure --- */
/* Bytes of a hand-over of so many sequences' tokens (none of them taken up in the middle), the most that one can have,
 * and of the samples that come back. */
size_t cl_line_hop_bytes(const cl_limits *limits, int parts, int tokens);
size_t cl_line_hop_most(const cl_limits *limits);
size_t cl_line_samples_bytes(int parts, int ids);
/* Exactly what cl_line_open allocates for buffers on this rank: hand-overs, results, exchange and staging. Memory that
 * chips share is counted on each of them, as their resident memory counts it. ranks NULL: it isn't known where they
 * are; with CL_CARRIER_AUTO then the most that it can come to. */
size_t cl_line_bytes(const cl_ranks *ranks, const cl_line_options *opt, int rank);

/* --- open and close: collective --- */
/* Makes the buffers. All ranks must bring good options (agree first); every rank then has the same outcome. CL_E_FIT:
 * a micro-batch is too large for a message, there is no memory, or CL_CARRIER_SHARED is asked for where a stage is on
 * several hosts or waiting blocks. */
cl_code cl_line_open(cl_line **out, cl_ranks *ranks, const cl_line_options *opt, cl_err *err);
void cl_line_close(cl_line *l); /* NULL is allowed */
/* What gathers and hand-overs cost between neighbouring ranks, all at once; the worst pair counts
 * (out->read_bytes_per_s is left alone). Makes a line of its own meanwhile. */
cl_code cl_line_measure(cl_ranks *ranks, cl_carrier carrier, cl_rates *out, cl_err *err);

/* --- the stage --- */
/* The chips of this stage; valid from open to close. Its gather waits like everything here. */
const cl_group *cl_line_group(const cl_line *l);
bool cl_line_shared(const cl_line *l); /* this stage exchanges by shared memory alone (false for a stage of one chip) */

/* --- hand-over --- */
typedef enum cl_hop_kind { CL_HOP_WORK, CL_HOP_STOP } cl_hop_kind;

/* A message of the line and the buffer it lives in: received, computed on in place, passed on. */
typedef struct cl_hop {
    cl_hop_kind kind;
    cl_microbatch mb; /* points into the buffer */
    float *x;         /* [n_tokens, hidden], 64-byte aligned, in the buffer */
    int index;        /* the line's own */
} cl_hop;

/* First stage: a buffer to fill; parts has room for limits.slots, ids for limits.chunk. Waits until one is free.
 *
 * At most so many micro-batches may be in flight as there are stages, and two more: then neither this nor
 * cl_line_send_samples can wait for ever (handover.c says why). */
cl_hop *cl_line_take(cl_line *l);
/* First stage's head chip: parts, ids, n_parts and n_tokens are final; x gets its place behind them, and the other
 * chips of the stage get the message too. */
void cl_line_seal(cl_line *l, cl_hop *h);
/* All other chips: the next message (waits), checked. It comes from a chip of the stage before, all of which have the
 * activations, to one chip of each memory. Where chips share memory they share parts, ids and x too: nobody may write
 * there but through the group's rules. Nothing comes after CL_HOP_STOP until cl_line_drain. */
cl_hop *cl_line_recv(cl_line *l);
/* To the next stage (not on the last), where it is this chip that sends it there; the buffer frees itself when sent.
 * Else as release. */
void cl_line_pass(cl_line *l, cl_hop *h);
/* Back to the line without sending. Call this or pass only when the last gather of its step has returned: then all
 * chips of the stage have finished with it. */
void cl_line_release(cl_line *l, cl_hop *h);
/* Lets messages move and answers ranks that ask (as cl_ranks_poll); cheap. `line` is a cl_line *. */
void cl_line_poll(void *line);

/* --- samples --- */
/* Last stage's head chip to the first's: what was sampled. Not used when they are the same rank. Every micro-batch is
 * answered, also one without samples. */
void cl_line_send_samples(cl_line *l, const cl_samples *samples);
/* First stage's head chip: the next samples if they are there, or after waiting for them. False if not (wait false
 * only; where waiting blocks only cl_line_await sees that they are there). *samples is valid until the next call. */
bool cl_line_recv_samples(cl_line *l, bool wait, const cl_samples **samples);

/* What cl_line_await has waited for. */
typedef enum cl_awaited { CL_AWAITED_SAMPLES, CL_AWAITED_NOTE, CL_AWAITED_CALL, CL_AWAITED_TIME } cl_awaited;
/* First stage's head chip: waits until samples have come (cl_line_recv_samples has them), a note has come
 * (cl_notes_recv has it; notes may be NULL), awake(ctx) is true (may be NULL; it must be cheap, and true until what
 * it speaks of is done), or `seconds` have passed (0 or less: only looks). A long wait costs next to nothing and ends
 * within two milliseconds. Where waiting blocks, awake must be NULL and seconds infinite. */
cl_awaited cl_line_await(cl_line *l, cl_notes *notes, bool (*awake)(void *ctx), void *ctx, double seconds);

/* All sends complete; then the line may be used again, from its first micro-batch on. */
void cl_line_drain(cl_line *l);

/* Nanoseconds this rank has spent waiting for messages since open. */
uint64_t cl_line_wait_ns(const cl_line *l);

#endif
