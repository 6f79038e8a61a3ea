/* line_internal.h: what the files of this room share. */
#ifndef CHIPLINE_LINE_INTERNAL_H
#define CHIPLINE_LINE_INTERNAL_H

#include <mpi.h>

#include "chipline/line.h"
#include "chipline/util.h"

/* Every message tag of the program. */
enum tag { TAG_HOP = 1, TAG_RESULTS, TAG_CLOCK, TAG_BULK, TAG_GATHER, TAG_NOTE };

/* one received into, one computed on, one being sent, one that the stage's other chips still look at */
enum { HOPS = 4, RESULT_SLOTS = 4 /* result messages under way at once */ };

/* Head of a hop message, in the host's own byte order (one job, one architecture). Then parts, then ids, then, from
 * the next multiple of 64 bytes, the activations. */
typedef struct wire_head {
    uint32_t magic, kind;
    int64_t microbatch;
    int32_t n_parts, n_tokens, n_before, reserved;
} wire_head;

/* Head of a message of samples; parts, then ids follow. */
typedef struct wire_samples {
    int64_t microbatch;
    int32_t n_parts, n_ids;
    cl_sampled parts[];
} wire_samples;

typedef struct hop_slot {
    cl_hop hop;
    unsigned char *data;     /* [hop_capacity] */
    bool taken;              /* someone computes on it */
    MPI_Request send;        /* to the next stage; MPI_REQUEST_NULL: not being sent */
    MPI_Request *to_members; /* [members - 1], head chip of a stage that exchanges messages: to its other chips */
    uint64_t given;          /* shared memory: number of the hand-over that it last held */
} hop_slot;

/* A stage that shares memory. */
typedef struct shared_memory {
    MPI_Win win;
    struct shared_block *block; /* at the beginning of the window; NULL: no shared memory */
    size_t bytes;               /* of all of it */
    uint64_t arrived;           /* gathers that this chip has come to */
    uint64_t given;             /* hand-overs inside the stage: given so far (head chip), taken so far (others) */
} shared_memory;

/* A stage that exchanges messages. */
typedef struct message_buffers {
    float *in, *out;         /* [capacity]: packed parts that come and go in one gather */
    size_t capacity;         /* numbers */
    MPI_Request *requests;   /* [4 * (members - 1)]: two messages from and two to every other member at most */
    MPI_Request *to_members; /* [HOPS * (members - 1)], dealt out to the hop slots */
} message_buffers;

struct cl_line {
    MPI_Comm comm;
    int rank, size, ranks_here, cores_here, cores_mine;
    int sharers; /* ranks of this host with the same cores, this one too */
    char host[64];
    uint64_t baseline;

    cl_line_options opt;
    bool opened; /* there is something to close */
    bool yields;
    int crowded; /* so many turns of waiting are slept */
    uint64_t wait_ns;
    size_t hop_capacity, result_capacity;
    hop_slot hops[HOPS];
    int posted; /* index of the hop that a receive is posted into, -1: none */
    MPI_Request recv;
    unsigned char *results[RESULT_SLOTS]; /* last: sending; first: [0] receiving, [1] handed out */
    MPI_Request result_send[RESULT_SLOTS];
    MPI_Request result_recv;
    cl_samples samples; /* handed out: points into results[1] */
    struct note *notes; /* sent, perhaps not yet arrived */

    MPI_Comm stage; /* the chips of this stage, by member; MPI_COMM_NULL before open */
    cl_group group;
    shared_memory shared;
    message_buffers messages;
};

#define MPI_TRY(l, call)                                             \
    do {                                                             \
        int try_ = (call);                                           \
        if (try_ != MPI_SUCCESS) cl_line_mpi_failed(l, try_, #call); \
    } while (0)
_Noreturn void cl_line_mpi_failed(cl_line *l, int code, const char *call);

/* --- waiting (wait.c) --- */

/* A wait for something that is looked at again and again: begin with zeros. */
typedef struct line_wait {
    uint64_t tries, start;
    double s; /* how long, when the clock was last looked at */
} line_wait;
/* Not there yet: spins, or lets others run; now and then lets messages move; ends the job after the stall time-out.
 * `what` and the rank of the peer say what is waited for: "a micro-batch from", 3. */
void cl_line_wait_more(cl_line *l, line_wait *w, const char *what, int peer);
/* Waits for one request. */
void cl_line_wait(cl_line *l, MPI_Request *r, MPI_Status *status, const char *what, int peer);
void cl_line_drain_notes(cl_line *l);

/* --- the line (open.c, handover.c) --- */

void cl_line_close(cl_line *l); /* what open made; collective */
/* Fills s->hop from the message in its buffer; false: the message is wrong. */
bool cl_line_open_message(const cl_line *l, hop_slot *s, int bytes);
void cl_line_record(cl_line *l, cl_mark m, cl_event_kind kind, const cl_microbatch *mb, int peer, size_t bytes);

/* --- the stage (group.c) --- */

/* The communicator, the carrier and the group; hop buffers and exchange memory. Collective over all ranks, which
 * agree. */
cl_code cl_line_stage_open(cl_line *l, cl_err *err);
void cl_line_stage_close(cl_line *l);
static inline bool cl_line_is_head(const cl_line *l) { return l->group.member == 0; }

/* What carries numbers and hand-overs between the chips of a stage: open makes buffers and sets l->group's memory,
 * gather and hop data. Local outcome. */
size_t cl_line_shared_bytes(const cl_line *l); /* that the stage's window takes */
cl_code cl_line_shared_open(cl_line *l, cl_err *err);
void cl_line_shared_close(cl_line *l);
void cl_line_shared_give(cl_line *l, int index, size_t bytes); /* head chip: the other members may have this hop */
int cl_line_shared_next(cl_line *l, int *bytes);               /* other members: index of the next hop (waits) */
void cl_line_shared_finish(cl_line *l, int index);             /* other members: this hop isn't looked at any more */
/* head chip: a member that still has this hop, 0: none */
int cl_line_shared_user(const cl_line *l, int index);

cl_code cl_line_messages_open(cl_line *l, cl_err *err); /* also for a stage of one chip */
void cl_line_messages_close(cl_line *l);
void cl_line_messages_give(cl_line *l, int index, size_t bytes); /* head chip: sends this hop to the other members */
/* head chip: a member that it is still under way to, 0: none */
int cl_line_messages_user(cl_line *l, int index);

#endif
