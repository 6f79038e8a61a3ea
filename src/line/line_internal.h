/* line_internal.h: what the files of this room share about the line.
 *
 * From below: hops (buffers, and the messages into and out of them), the carriers (shared, messages), notes, handover
 * and results, open, measure. */
#ifndef CHIPLINE_LINE_INTERNAL_H
#define CHIPLINE_LINE_INTERNAL_H

#include "chipline/line.h"
#include "ranks_internal.h"

/* HOPS: one received into, one computed on, one being sent, one that the stage's other chips still look at.
 * RESULT_SLOTS: result messages under way at once */
enum { HOPS = 4, RESULT_SLOTS = 4 };

/* Head of a hop message, in the host's own byte order (one job, one architecture). Then parts, then ids, then, from
 * the next multiple of 64 bytes, the activations. */
typedef struct wire_head {
    uint32_t magic, kind;
    int64_t microbatch;
    int32_t n_parts, n_tokens, n_before, reserved;
} wire_head;
enum { HOP_MAGIC = 0x43484f50 }; /* "CHOP" */

/* Head of a message of samples; parts, then ids follow. */
typedef struct wire_samples {
    int64_t microbatch;
    int32_t n_parts, n_ids;
    cl_sampled parts[];
} wire_samples;

typedef struct hop_slot {
    cl_hop hop;
    unsigned char *data;     /* [hop_capacity]; NULL: this chip needs fewer buffers */
    bool taken;              /* someone computes on it */
    uint64_t used;           /* number of its last use: the smallest becomes free first */
    MPI_Request send;        /* to the next stage; MPI_REQUEST_NULL: not being sent */
    MPI_Request *to_members; /* [members - 1], head chip of a stage that exchanges messages: to its other chips */
    uint64_t given;          /* shared memory: number of the hand-over that it last held */
} hop_slot;

/* What carries numbers and hand-overs between the chips of a stage. */
typedef struct carrier_table {
    /* Of all that it makes on this member. */
    size_t (*bytes)(const cl_line_options *o, int member);
    /* Makes the hop buffers and the exchange memory, sets l->group.memory. Local outcome; collective over the stage.
     * */
    cl_code (*open)(cl_line *l, cl_err *err);
    void (*close)(cl_line *l);
    /* Of cl_group; ctx is the line. */
    uint64_t (*gather)(void *ctx, const cl_region *regions, int n);
    /* Head chip: the other members may have this hop. Activations that are sent have arrived when it returns. */
    void (*give)(cl_line *l, int index, size_t bytes, bool with_x);
    /* Other members: waits for the next hop; its index. */
    int (*next)(cl_line *l, int *bytes);
    /* Other members: this hop isn't looked at any more. */
    void (*finish)(cl_line *l, int index);
    /* Head chip: a member that still has this hop, 0: none. */
    int (*user)(cl_line *l, int index);
    /* Head chip: waits until no other member has this hop. */
    void (*await_users)(cl_line *l, int index);
} carrier_table;
extern const carrier_table carrier_shared, carrier_messages;
size_t shared_window_bytes(const cl_line_options *o); /* that a stage's window takes */

/* A stage that shares memory. */
typedef struct shared_memory {
    MPI_Comm members;
    MPI_Win win;
    struct shared_block *block; /* at the beginning of the window */
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
    cl_ranks *ranks;
    cl_line_options opt;
    const carrier_table *carrier; /* NULL: nothing to close */
    cl_group group;
    size_t allocated; /* bytes of buffers, counted where they are made */
    uint64_t wait_ns;

    size_t hop_capacity;
    hop_slot hops[HOPS];
    int n_hops;
    uint64_t uses;  /* of hops so far */
    int source;     /* the rank that micro-batches come from in messages, -1: none */
    int posted;     /* index of the hop that a receive is posted into, -1: none */
    bool receiving; /* between the first cl_line_recv and CL_HOP_STOP: receives are posted early */
    MPI_Request recv;

    int expected;                         /* first stage's head chip: results that have not come */
    unsigned char *results[RESULT_SLOTS]; /* last: sending; first: [0] receiving, [1] handed out; else NULL */
    MPI_Request result_send[RESULT_SLOTS];
    int result_turn; /* the slot that is used next: the oldest */
    MPI_Request result_recv;
    int result_bytes;    /* that have come, -1: none */
    cl_samples samples;  /* handed out: points into results[1] */
    cl_mark result_mark; /* when the wait for them began */
    bool result_marked;

    shared_memory shared;
    message_buffers messages;
};

static inline bool line_is_head(const cl_line *l) { return l->group.member == 0; }
static inline bool line_is_lone(const cl_line_options *o) { return o->prev < 0 && o->next < 0; }
/* Aligned, zeroed, counted in l->allocated. */
void *line_alloc(cl_line *l, size_t bytes, const char *what, cl_err *err);

/* Records a message of the line. */
void line_record(cl_line *l, cl_mark m, cl_event_kind kind, const cl_microbatch *mb, int peer, size_t bytes);

/* --- hand-over buffers (hops.c) --- */

int hops_count(const cl_line_options *o, int member); /* that this member needs */
int hops_wait_free(cl_line *l);
void hops_use(cl_line *l, int index);      /* it is used from now on */
void hops_post(cl_line *l);                /* a receive, if there is a buffer */
int hops_received(cl_line *l, int *bytes); /* waits for the message that a receive is posted for; its buffer */
void hops_move(void *line);                /* lets messages move: what a cl_ranks calls while it waits */
void hops_drain(cl_line *l);
void line_cancel(cl_line *l, MPI_Request *r); /* a receive that nothing will come for; null: nothing to do */
size_t hops_x_offset(int n_parts, int n_ids); /* bytes before the activations of a message */
size_t hops_x_bytes(const cl_limits *limits, int tokens);

/* --- hand-over (handover.c) --- */

/* Fills s->hop from the message in its buffer; false: the message is wrong. */
bool handover_open(const cl_line *l, hop_slot *s, int bytes);
/* --- results (results.c) --- */

size_t results_bytes(const cl_line_options *o, int rank); /* of the buffers on this rank */
cl_code results_open(cl_line *l, cl_err *err);
void results_close(cl_line *l);
void results_drain(cl_line *l);

/* --- notes (notes.c) --- */

MPI_Request *notes_post(cl_notes *n);                   /* the receive of the next one; null: it has come */
void notes_came(cl_notes *n, const MPI_Status *status); /* the receive is done */

#endif
