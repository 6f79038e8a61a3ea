/* line.h: the ranks as a line of stages, over MPI: start and end, agreement on errors, hand-over of micro-batches, clocks.
 *
 * Boundary: no weights and no model here; MPI stays behind this header. A rank owns one cl_line; everything hangs on it (no
 * globals). Buffers are made in cl_line_open; after that nothing is allocated. Hand-over uses plain non-blocking sends and
 * receives. A rank that waits longer than the stall time-out ends the whole job (CL_E_RUN), so a dead peer never hangs it.
 *
 * "Collective" means that every rank must call it, in the same order. */
#ifndef CHIPLINE_LINE_H
#define CHIPLINE_LINE_H

#include <stdbool.h>

#include "chipline/microbatch.h"
#include "chipline/status.h"
#include "chipline/trace.h"

typedef struct cl_line cl_line;

/* "Open MPI 4.1.4": the MPI library in use; may be called before start. */
const char *cl_line_library(void);

/* --- start and end, collective --- */
/* MPI_Init; without mpirun a line of one. */
cl_code cl_line_start(cl_line **out, int *argc, char ***argv, cl_err *err);
void cl_line_end(cl_line *l); /* MPI_Finalize and free */
/* Ends every rank with this exit code at once, from any rank: for failures after which ranks can't agree any more. */
_Noreturn void cl_line_abort(cl_line *l, cl_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int cl_line_rank(const cl_line *l);
int cl_line_size(const cl_line *l);
const char *cl_line_host(const cl_line *l);    /* this rank's host name */
int cl_line_ranks_here(const cl_line *l);      /* ranks on this host */
int cl_line_cores_here(const cl_line *l);      /* cores of this host that its ranks may use together */
int cl_line_threads_fit(const cl_line *l);     /* cores this rank may use as its own: its binding, shared with the ranks that have the same */
uint64_t cl_line_baseline_bytes(const cl_line *l); /* resident memory right after MPI_Init */

/* --- agreement, collective --- */
/* Every rank brings its own outcome; all return the same code: CL_OK if all are, else that of the lowest failing rank, whose
 * message is then in *err everywhere. */
cl_code cl_line_agree(cl_line *l, cl_code mine, cl_err *err);
void cl_line_bcast(cl_line *l, void *data, size_t bytes);                          /* from rank 0 */
void cl_line_gather(cl_line *l, const void *mine, size_t bytes, void *all);        /* to rank 0: all is [size][bytes] there */
void cl_line_barrier(cl_line *l);
/* What to add to this rank's CLOCK_MONOTONIC to get rank 0's, by ping-pong: the round trip with the least time counts, half of it
 * is the uncertainty. ns. 0 and 0 on rank 0. */
void cl_line_clock(cl_line *l, int64_t *offset_ns, int64_t *uncertainty_ns);
/* Bulk bytes from `from` to rank 0 after the run (trace parts); both call it. */
void cl_line_send_bulk(cl_line *l, const void *data, size_t bytes);
void cl_line_recv_bulk(cl_line *l, int from, void *data, size_t bytes);

/* --- the line while tokens flow --- */
typedef struct cl_line_options {
    cl_limits limits;
    int prev, next, first, last; /* ranks; prev -1 on the first stage, next -1 on the last */
    int threads;                 /* of this rank: with more threads than cores on the host, waiting yields */
    double stall_timeout_s;      /* 0: wait for ever */
    cl_trace *trace;             /* borrowed, may be NULL */
} cl_line_options;
/* Makes the buffers (local). */
cl_code cl_line_open(cl_line *l, const cl_line_options *opt, cl_err *err);

typedef enum cl_hop_kind { CL_HOP_WORK, CL_HOP_PING, CL_HOP_STOP } cl_hop_kind;

/* A message of the line and the buffer it lives in: received, computed on in place, passed on. */
typedef struct cl_hop {
    cl_hop_kind kind;
    cl_microbatch mb; /* points into the buffer */
    float *x;         /* [n_tokens, hidden], 64-byte aligned, in the buffer */
    int index;        /* the line's own */
} cl_hop;

/* First stage: a buffer to fill; parts has room for limits.slots, ids for limits.chunk. Waits until one is free. */
cl_hop *cl_line_take(cl_line *l);
/* First stage: parts, ids, n_parts and n_tokens are final; x gets its place behind them. */
void cl_line_seal(cl_line *l, cl_hop *h);
/* Other stages: the next message of the previous stage (waits), checked. */
cl_hop *cl_line_recv(cl_line *l);
/* To the next stage (not on the last); the buffer frees itself when sent. */
void cl_line_pass(cl_line *l, cl_hop *h);
/* Back to the line without sending. */
void cl_line_release(cl_line *l, cl_hop *h);
/* Lets messages move; cheap. `line` is a cl_line *. */
void cl_line_poll(void *line);

/* Last stage to first: what was sampled. results[0..n). Not used when they are the same rank. */
void cl_line_send_results(cl_line *l, int64_t microbatch, const cl_sampled *results, int n);
/* First stage: the next results if they are there, or after waiting for them. False if not (wait false only). *results is valid
 * until the next call. */
bool cl_line_recv_results(cl_line *l, bool wait, int64_t *microbatch, const cl_sampled **results, int *n);
/* All sends complete. */
void cl_line_drain(cl_line *l);

/* Nanoseconds this rank has spent waiting for messages since open. */
uint64_t cl_line_wait_ns(const cl_line *l);

#endif
