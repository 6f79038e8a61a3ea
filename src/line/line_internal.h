/* line_internal.h: what the files of this room share. */
#ifndef CHIPLINE_LINE_INTERNAL_H
#define CHIPLINE_LINE_INTERNAL_H

#include <mpi.h>

#include "chipline/line.h"
#include "chipline/util.h"

/* Every message tag of the program. */
enum tag { TAG_HOP = 1, TAG_RESULTS, TAG_CLOCK, TAG_BULK };

enum { HOPS = 3,        /* one received into, one computed on, one being sent */
       RESULT_SLOTS = 4 /* result messages under way at once */ };

/* Head of a hop message, in the host's own byte order (one job, one architecture). Then parts, then ids, then, from the next
 * multiple of 64 bytes, the activations. */
typedef struct wire_head {
    uint32_t magic, kind;
    int64_t microbatch;
    int32_t n_parts, n_tokens;
} wire_head;

typedef struct wire_results {
    int64_t microbatch;
    int32_t n, reserved;
    cl_sampled sampled[];
} wire_results;

typedef struct hop_slot {
    cl_hop hop;
    unsigned char *data; /* [hop_capacity] */
    bool taken;          /* someone computes on it */
    MPI_Request send;    /* MPI_REQUEST_NULL: not being sent */
} hop_slot;

struct cl_line {
    MPI_Comm comm;
    int rank, size, ranks_here, cores_here, cores_mine, sharers; /* sharers: ranks of this host with the same cores, this one too */
    char host[64];
    uint64_t baseline;

    cl_line_options opt;
    bool yields;
    uint64_t wait_ns;
    size_t hop_capacity, result_capacity;
    hop_slot hops[HOPS];
    int posted;          /* index of the hop that a receive is posted into, -1: none */
    MPI_Request recv;
    unsigned char *results[RESULT_SLOTS]; /* last: sending; first: [0] receiving, [1] handed out */
    MPI_Request result_send[RESULT_SLOTS];
    MPI_Request result_recv;
};

#define MPI_TRY(l, call)                                                                                                       \
    do {                                                                                                                       \
        int try_ = (call);                                                                                                     \
        if (try_ != MPI_SUCCESS) cl_line_mpi_failed(l, try_, #call);                                                           \
    } while (0)
_Noreturn void cl_line_mpi_failed(cl_line *l, int code, const char *call);

/* Waits for one request, letting others run when cores are scarce; ends the job after the stall time-out. what names the wait. */
void cl_line_wait(cl_line *l, MPI_Request *r, MPI_Status *status, const char *what, int peer);

#endif
