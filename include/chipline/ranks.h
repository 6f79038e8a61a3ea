/* ranks.h: the ranks of a job, over MPI: start and end, agreement on errors, small collective exchanges, clocks, and
 * where each of them sits.
 *
 * Boundary: MPI stays behind this header and those of line and notes; no model here. Only the thread that started the
 * ranks calls anything in them (MPI_THREAD_FUNNELED). A process has one cl_ranks (no globals).
 *
 * "Collective" means that every rank must call it, in the same order; the others are local. Collectives go over a
 * binomial tree of plain messages, so that a rank which waits always waits for one other rank that it can name.
 *
 * Who is dead? A rank that waits asks now and then the one it waits for how it is. Every rank that waits, or works
 * and polls, answers. One that has not answered for as long as the stall time-out ends the whole job (CL_E_RUN, one
 * message that names it); one that answers is alive and itself waits for somebody, whom it asks. So a rank that works
 * longer than half the stall time-out without waiting must call cl_ranks_poll in between. */
#ifndef CHIPLINE_RANKS_H
#define CHIPLINE_RANKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chipline/status.h"

typedef struct cl_ranks cl_ranks;

/* How a rank waits. SPIN: it keeps its core (and lets others have it when it takes long); YIELD: others have it at
 * once; AUTO: spins where every thread has a core of its own; BLOCK: inside MPI's own waiting calls and nowhere else:
 * no time-out, no memory shared between ranks, nobody asks how others are. */
typedef enum cl_wait { CL_WAIT_AUTO, CL_WAIT_SPIN, CL_WAIT_YIELD, CL_WAIT_BLOCK } cl_wait;

typedef struct cl_waiting {
    cl_wait how;
    int threads;            /* of this rank, by which AUTO decides; 0: not known yet, AUTO yields */
    double stall_timeout_s; /* 0: wait for ever */
} cl_waiting;

/* --- start and end --- */
/* "Open MPI 4.1.4": the MPI library in use; local, may be called before start. */
const char *cl_ranks_library(void);
/* Collective: MPI_Init_thread; without mpirun a job of one. CL_E_RUN: MPI cannot start, or not with threads. */
cl_code cl_ranks_start(cl_ranks **out, int *argc, char ***argv, const cl_waiting *waiting, cl_err *err);
/* Collective: MPI_Finalize and free. NULL is allowed. */
void cl_ranks_end(cl_ranks *r);
/* Local: waits so from now on, the same on all ranks. Ranks that were started with CL_WAIT_BLOCK go on blocking. */
void cl_ranks_set_waiting(cl_ranks *r, const cl_waiting *waiting);
/* Local: ends every rank with this exit code at once: for failures after which ranks can't agree any more. */
_Noreturn void cl_ranks_abort(cl_ranks *r, cl_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* --- who and where: local --- */
int cl_ranks_rank(const cl_ranks *r);
int cl_ranks_size(const cl_ranks *r);
const char *cl_ranks_host(const cl_ranks *r);              /* this rank's host name */
const char *cl_ranks_host_of(const cl_ranks *r, int rank); /* any rank's */
/* Where this rank sits: its host, and the cores there. */
typedef struct cl_seat {
    int ranks_here;  /* on this host */
    int cores_here;  /* of this host that its ranks may use together */
    int threads_fit; /* cores this rank may use as its own: its binding, shared with the ranks that have the same */
} cl_seat;
cl_seat cl_ranks_seat(const cl_ranks *r);
uint64_t cl_ranks_baseline_bytes(const cl_ranks *r); /* resident memory right after MPI_Init */

/* --- alive: local --- */
/* What this rank does now, for the message when it or another stands still: "loading". Borrowed, not copied. */
void cl_ranks_phase(cl_ranks *r, const char *doing);
/* Answers ranks that ask. Looks at the clock first, so that it may be called often. `ranks` is a cl_ranks *. */
void cl_ranks_poll(void *ranks);

/* --- collective --- */
/* Every rank brings its own outcome; all return the same code: CL_OK if all are, else that of the lowest failing
 * rank, whose message is then in *err everywhere. */
cl_code cl_ranks_agree(cl_ranks *r, cl_code mine, cl_err *err);
/* Is it the same as on rank 0? CL_E_INPUT, on all ranks, names the lowest rank where it is not, and its host. `what`:
 * "model.h5: the model". */
cl_code cl_ranks_same(cl_ranks *r, uint64_t hash, const char *what, cl_err *err);
void cl_ranks_bcast(cl_ranks *r, void *data, size_t bytes); /* from rank 0; the same size everywhere */
/* A block of any size: rank 0's *data and *bytes; the others get a copy (malloced, the caller frees; of 0 bytes
 * NULL). CL_E_FIT, on all ranks: one of them has no memory for it. */
cl_code cl_ranks_bcast_bytes(cl_ranks *r, void **data, size_t *bytes, cl_err *err);
/* To rank 0: all is [size][bytes] there, and not looked at on the others. */
void cl_ranks_gather(cl_ranks *r, const void *mine, size_t bytes, void *all);
void cl_ranks_sum(cl_ranks *r, uint64_t *values, int n); /* element by element, into rank 0's values */
void cl_ranks_max(cl_ranks *r, double *values, int n);   /* element by element, the same everywhere */
void cl_ranks_barrier(cl_ranks *r);
/* What to add to this rank's CLOCK_MONOTONIC to get rank 0's, by ping-pong: the round trip with the least time
 * counts, half of it is the uncertainty. ns. 0 and 0 on rank 0. */
void cl_ranks_clock(cl_ranks *r, int64_t *offset_ns, int64_t *uncertainty_ns);

/* --- bulk bytes from one rank to rank 0 (event logs): local to these two, which both call it --- */
void cl_ranks_send_bulk(cl_ranks *r, const void *data, size_t bytes);
void cl_ranks_recv_bulk(cl_ranks *r, int from, void *data, size_t bytes);

#endif
