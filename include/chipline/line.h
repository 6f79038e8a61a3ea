/* line.h: the ranks as a line of stages, over MPI: start and end, agreement on errors, hand-over of micro-batches,
 * gathers inside a stage, clocks.
 *
 * Boundary: no weights and no model here; MPI stays behind this header. A rank owns one cl_line; everything hangs on
 * it (no globals). Buffers are made in cl_line_open; after that nothing is allocated. Hand-over uses plain
 * non-blocking sends and receives. A rank that waits longer than the stall time-out ends the whole job (CL_E_RUN), so
 * a dead peer never hangs it.
 *
 * "Collective" means that every rank must call it, in the same order. */
#ifndef CHIPLINE_LINE_H
#define CHIPLINE_LINE_H

#include <stdbool.h>

#include "chipline/group.h"
#include "chipline/microbatch.h"
#include "chipline/plan.h" /* cl_rates */
#include "chipline/status.h"
#include "chipline/trace.h"
#include "chipline/util.h"

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
const char *cl_line_host(const cl_line *l); /* this rank's host name */
int cl_line_ranks_here(const cl_line *l);   /* ranks on this host */
int cl_line_cores_here(const cl_line *l);   /* cores of this host that its ranks may use together */
/* cores this rank may use as its own: its binding, shared with the ranks that have the same */
int cl_line_threads_fit(const cl_line *l);
uint64_t cl_line_baseline_bytes(const cl_line *l); /* resident memory right after MPI_Init */

/* --- agreement, collective --- */
/* Every rank brings its own outcome; all return the same code: CL_OK if all are, else that of the lowest failing
 * rank, whose message is then in *err everywhere. */
cl_code cl_line_agree(cl_line *l, cl_code mine, cl_err *err);
void cl_line_bcast(cl_line *l, void *data, size_t bytes); /* from rank 0 */
/* to rank 0: all is [size][bytes] there */
void cl_line_gather(cl_line *l, const void *mine, size_t bytes, void *all);
void cl_line_sum(cl_line *l, uint64_t *values, int n); /* element by element, into rank 0's values */
void cl_line_barrier(cl_line *l);
/* What to add to this rank's CLOCK_MONOTONIC to get rank 0's, by ping-pong: the round trip with the least time
 * counts, half of it is the uncertainty. ns. 0 and 0 on rank 0. */
void cl_line_clock(cl_line *l, int64_t *offset_ns, int64_t *uncertainty_ns);
/* Bulk bytes from `from` to rank 0 after the run (trace parts); both call it. */
void cl_line_send_bulk(cl_line *l, const void *data, size_t bytes);
void cl_line_recv_bulk(cl_line *l, int from, void *data, size_t bytes);

/* --- the line while tokens flow --- */
/* How the chips of one stage exchange numbers: through memory that all see (only on one host), or by messages. */
/* auto: shared where it can be */
typedef enum cl_carrier { CL_CARRIER_AUTO, CL_CARRIER_SHARED, CL_CARRIER_MESSAGES } cl_carrier;
/* How a rank waits: it keeps its core; it lets others have it; auto: spins where every thread has a core of its own. */
typedef enum cl_wait { CL_WAIT_AUTO, CL_WAIT_SPIN, CL_WAIT_YIELD } cl_wait;

/* Each stage's first chip (its head chip) receives, hands over and returns samples for all of them; ranks here count
 * over the whole job. */
typedef struct cl_line_options {
    cl_limits limits;
    int stage_first, members; /* this stage's chips: ranks stage_first .. stage_first + members - 1 */
    int prev, next, first,
        last;    /* head chips of the stages before and after, of the first and of the last stage; prev -1 on the first
                                    stage, next -1 on the last */
    int threads; /* of this rank: with more threads than cores on the host, waiting yields */
    size_t exchange_bytes; /* of cl_group.memory; the same on all members */
    cl_carrier carrier;
    cl_wait wait;
    double stall_timeout_s; /* 0: wait for ever */
    cl_trace *trace;        /* borrowed, may be NULL */
} cl_line_options;
/* Makes the buffers. Collective over all ranks of the job (all must bring good options: agree first); every rank then
 * has the same outcome. CL_CARRIER_SHARED for a stage on several hosts is CL_E_FIT. Called again, after drain, it
 * makes them anew. */
cl_code cl_line_open(cl_line *l, const cl_line_options *opt, cl_err *err);
/* Collective: what gathers and hand-overs cost between neighbouring ranks, all at once; the worst pair counts
 * (out->read_bytes_per_s is left alone). Of `how` threads, carrier, wait and the stall time-out are looked at. Before
 * cl_line_open. */
cl_code cl_line_measure(cl_line *l, const cl_line_options *how, cl_rates *out, cl_err *err);
/* The chips of this stage; valid from open to end. Its gather waits like everything here. */
const cl_group *cl_line_group(const cl_line *l);
bool cl_line_shared(const cl_line *l); /* this stage exchanges through shared memory (false for a stage of one chip) */
/* Bytes of a hand-over of so many sequences' tokens (none of them taken up in the middle), the most that one can have,
 * and of the samples that come back. */
size_t cl_line_hop_bytes(const cl_limits *limits, int parts, int tokens);
size_t cl_line_hop_most(const cl_limits *limits);
size_t cl_line_samples_bytes(int parts, int ids);

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
/* First stage's head chip: parts, ids, n_parts and n_tokens are final; x gets its place behind them, and the other
 * chips of the stage get the message too. */
void cl_line_seal(cl_line *l, cl_hop *h);
/* All other chips: the next message (waits), checked: a head chip has it from the stage before and gives it to the
 * others of its stage. Where they share memory they share parts, ids and x too: nobody may write there but through
 * the group's rules. */
cl_hop *cl_line_recv(cl_line *l);
/* Head chip: to the next stage (not on the last); the buffer frees itself when sent. Other chips: as release. */
void cl_line_pass(cl_line *l, cl_hop *h);
/* Back to the line without sending. All chips of a stage have finished with a hop when its head chip has taken part
 * in the last gather of its step: call this or pass only after that. */
void cl_line_release(cl_line *l, cl_hop *h);
/* Lets messages move; cheap. `line` is a cl_line *. */
void cl_line_poll(void *line);

/* Last stage to first: what was sampled. Not used when they are the same rank. */
void cl_line_send_samples(cl_line *l, const cl_samples *samples);
/* First stage: the next samples if they are there, or after waiting for them. False if not (wait false only). *samples
 * is valid until the next call. */
bool cl_line_recv_samples(cl_line *l, bool wait, const cl_samples **samples);

/* --- notes between any two ranks, as they come up; local calls, in order between the same two --- */
/* The bytes are copied; returns at once. */
cl_code cl_line_send_note(cl_line *l, int to, const void *data, size_t bytes, cl_err *err);
/* The next note if there is one: its bytes become *note (reused), which starts as {0} and is the caller's. */
bool cl_line_recv_note(cl_line *l, int *from, cl_buf *note);

/* All sends complete. */
void cl_line_drain(cl_line *l);

/* Nanoseconds this rank has spent waiting for messages since open. */
uint64_t cl_line_wait_ns(const cl_line *l);

#endif
