/* ranks_internal.h: what the files of this room share about ranks and waiting.
 *
 * From below: fail; wait, which calls what a cl_ranks has in `look` and `move`; tree and clock; seats; life (who is
 * dead); ranks. The line stands on these. */
#ifndef CHIPLINE_RANKS_INTERNAL_H
#define CHIPLINE_RANKS_INTERNAL_H

#include <mpi.h>
#include <sched.h>

#include "chipline/ranks.h"
#include "chipline/util.h"

/* Every message tag of the program. */
enum tag {
    TAG_HOP = 1, /* a micro-batch: to the next stage, or inside the first one */
    TAG_RESULTS,
    TAG_GATHER,
    TAG_NOTE,
    TAG_NOTE_REST, /* of a note that is too long for its first message */
    TAG_UP,        /* collectives: towards rank 0 */
    TAG_DOWN,
    TAG_SEAT,
    TAG_CLOCK,
    TAG_BULK,
    TAG_LIFE
};

enum { HOST_NAME = 64 };

/* The names of all hosts, and which ranks are there: a few bytes a rank. */
typedef struct host_table {
    int n;
    char (*names)[HOST_NAME]; /* [n] */
    uint16_t *of;             /* [size] */
    bool known;               /* all of it */
} host_table;

/* How the rank that is waited for is: see life.c. */
typedef struct watch {
    int peer; /* -1: nobody is waited for, or nobody is asked */
    const char *what;
    uint64_t since;   /* ns: waited from */
    uint64_t heard;   /* from then on, or answered last */
    uint64_t asked;   /* last */
    uint64_t accused; /* ns: its death was told to the rank that ends the job; 0: not */
    char phase[32];   /* of the peer, as it answered last; "": it never has */
} watch;

enum { LIFE_TEXT = 512, LIFE_SENDS = 16 };

/* A question, an answer, or that somebody is dead. */
typedef struct life_note {
    int32_t kind, waits_for; /* answer: the rank that it waits for, -1: none */
    char text[LIFE_TEXT];    /* answer: its phase; dead: what is to be said. Only what is used travels */
} life_note;

typedef struct life {
    uint64_t looked;
    watch watch;
    const char *phase;
    life_note notes[LIFE_SENDS]; /* on their way */
    MPI_Request sends[LIFE_SENDS];
} life;

struct cl_ranks {
    MPI_Comm comm;
    int rank, size;
    host_table hosts;
    cl_seat seat;
    uint64_t baseline;

    cl_waiting waiting;
    bool blocks; /* CL_WAIT_BLOCK */
    bool yields;
    int crowded; /* so many turns of waiting are slept */
    uint64_t idle_turns;
    double idled; /* seconds: so long has this rank waited already, in waits that ended because their time was over */
    life life;
    void (*look)(cl_ranks *r, uint64_t now); /* now and then: answers who asks, asks who is waited for */
    void (*move)(void *ctx);                 /* lets the line's messages move; NULL: there is no line */
    void *move_ctx;
};

/* --- the end (fail.c) --- */
#define MPI_TRY(r, call)                                           \
    do {                                                           \
        int try_ = (call);                                         \
        if (try_ != MPI_SUCCESS) ranks_mpi_failed(r, try_, #call); \
    } while (0)
_Noreturn void ranks_mpi_failed(cl_ranks *r, int code, const char *call);
/* Says it on stderr, whatever stderr is, and ends all ranks. */
_Noreturn void ranks_die(cl_ranks *r, cl_code code, const char *message);

/* --- waiting (wait.c): the only place that does --- */

/* What is waited for: the first of these. */
typedef struct wait_set {
    MPI_Request *requests[2]; /* NULL: none. A null request is done: moving messages may have done it */
    bool (*there)(void *ctx); /* NULL: none. Not where waiting blocks */
    void *ctx;
    double seconds;   /* 0: for ever. Not where waiting blocks */
    const char *what; /* "a micro-batch from", for the message if the peer is dead */
    int peer;         /* who must act; -1: nobody, nobody is asked */
} wait_set;
enum { WAIT_THERE = -1, WAIT_TIME = -2 };
/* The index of the request that is done (then null, status is its), WAIT_THERE or WAIT_TIME. */
int wait_any(cl_ranks *r, const wait_set *w, MPI_Status *status);
/* Without waiting: has it just come? Where waiting blocks nobody looks: only what was waited for has come. */
bool wait_look(cl_ranks *r, MPI_Request *request, MPI_Status *status);
/* The same of a send: is its buffer free? */
bool wait_is_done(cl_ranks *r, MPI_Request *request);
/* For one request; at once if it is null. */
void wait_one(cl_ranks *r, MPI_Request *request, MPI_Status *status, const char *what, int peer);
/* Until there(ctx). */
void wait_until(cl_ranks *r, bool (*there)(void *ctx), void *ctx, const char *what, int peer);
/* Sends and receives that wait, of any size; what is received has this size. */
void wait_send(cl_ranks *r, const void *data, size_t bytes, int to, int tag, const char *what);
void wait_recv(cl_ranks *r, void *data, size_t bytes, int from, int tag, const char *what);
/* At most this many bytes; returns how many. */
size_t wait_recv_most(cl_ranks *r, void *data, size_t most, int from, int tag, const char *what);

/* --- who is dead (life.c) --- */
void life_begin(cl_ranks *r);
void life_look(cl_ranks *r, uint64_t now);

/* --- the tree (tree.c) --- */
/* Rank 0 is the root; the subtree of rank r holds ranks r .. r + span - 1. */
int tree_parent(int rank);
int tree_span(int rank, int size);

/* --- seats (seats.c) --- */
typedef struct rank_cores {
    cpu_set_t cores; /* that this rank may run on */
} rank_cores;
/* Of n ranks of one host, the one with index `me`. */
cl_seat seats_of(const rank_cores *all, int n, int me);
/* A host's name as it is kept: a long one ends in its hash, so that it stays different from others. */
void seats_name(const char *full, char name[HOST_NAME]);
/* The host table and this rank's seat. Collective. */
void seats_find(cl_ranks *r);
void seats_free(cl_ranks *r);
/* The sum of what the ranks of this host bring, on each of them. Collective. */
uint64_t seats_sum(cl_ranks *r, uint64_t mine);

/* --- clocks (clock.c) --- */
/* cl_ranks_clock with a clock given. */
void clock_compare(cl_ranks *r, uint64_t (*now)(void), int64_t *offset_ns, int64_t *uncertainty_ns);

#endif
