/* line_internal.h: what the files of this room share about the line.
 *
 * From below: domains (who shares memory with whom), hops (buffers, and the messages into and out of them), shared (the
 * memory of a domain), pack and messages (between domains), gather (both), notes, handover and results, open, measure.
 */
#ifndef CHIPLINE_LINE_INTERNAL_H
#define CHIPLINE_LINE_INTERNAL_H

#include "chipline/line.h"
#include "domains.h"
#include "ranks_internal.h"

/* HOPS: one received into, one computed on, one being sent, one that other chips of the domain still look at.
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
    unsigned char *data; /* [hop_capacity]; NULL: this chip needs fewer buffers */
    bool taken;          /* someone computes on it */
    uint64_t used;       /* number of its last use: the smallest becomes free first */
    MPI_Request *sends;  /* [routes.n] */
    uint64_t given;      /* shared memory: number of the hand-over that it last held */
} hop_slot;

/* Ranks that hand-overs come from and go to. */
typedef struct hop_routes {
    int source;   /* that they come from in messages; -1: none */
    int n;        /* of the others */
    int n_within; /* of them leaders of this stage, which get micro-batches before they are computed: the first ones.
                     (Only the first stage's have not been there yet.) The others are leaders of the next stage */
    int *to;      /* [n]; owned */
} hop_routes;

/* What a domain shares, if it is of several chips. */
typedef struct shared_memory {
    MPI_Comm members;
    MPI_Win win;
    struct shared_block *block; /* at the beginning of the window; NULL: a chip alone */
    size_t bytes;               /* of all of it */
    uint64_t arrived;           /* gathers that this chip has come to */
    uint64_t given;             /* hand-overs inside the domain: given so far (leader), taken so far (others) */
} shared_memory;

/* A leader's, where there are other domains. */
typedef struct message_buffers {
    float *packed;         /* [capacity] numbers that come and go in one gather */
    size_t capacity;       /* numbers */
    MPI_Request *requests; /* [2 * domains] */
    size_t *numbers;       /* [domains] */
    size_t *places;        /* [domains] */
    int32_t *peers;        /* [domains] ranks that sends go to */
    int32_t *rows;         /* [CL_REGIONS_MOST][domains] of each region, that a domain has made */
} message_buffers;

struct cl_line {
    cl_ranks *ranks;
    cl_line_options opt;
    bool open; /* there is something to close */
    cl_group group;
    domains domains;  /* of this stage */
    int domain;       /* this chip's */
    int index;        /* of this chip in it; 0: it leads */
    size_t allocated; /* bytes of buffers, counted where they are made */
    uint64_t wait_ns;

    size_t hop_capacity;
    hop_slot hops[HOPS];
    int n_hops;
    hop_routes routes;
    MPI_Request *sends; /* dealt out to the hop slots */
    uint64_t uses;      /* of hops so far */
    int posted;         /* index of the hop that a receive is posted into, -1: none */
    bool receiving;     /* between the first cl_line_recv and CL_HOP_STOP: receives are posted early */
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
static inline bool line_leads(const cl_line *l) { return l->index == 0; }
static inline int line_domain_size(const cl_line *l) { return domains_size(&l->domains, l->domain); }
/* The rank of a member of this stage; of another chip of this domain; of a domain's leader. */
static inline int line_rank(const cl_line *l, int member) { return l->opt.own.first + member; }
static inline int line_rank_here(const cl_line *l, int index)
{
    return line_rank(l, l->domains.member[l->domains.start[l->domain] + index]);
}
static inline int line_rank_leading(const cl_line *l, int domain)
{
    return line_rank(l, domains_leader(&l->domains, domain));
}
static inline bool line_is_lone(const cl_line_options *o) { return !o->prev.members && !o->next.members; }
/* Aligned, zeroed, counted in l->allocated. */
void *line_alloc(cl_line *l, size_t bytes, const char *what, cl_err *err);

/* Records a message of the line. */
void line_record(cl_line *l, cl_mark m, cl_event_kind kind, const cl_microbatch *mb, int peer, size_t bytes);

/* --- hand-over buffers (hops.c) --- */

/* Who sends to whom: of this chip. */
cl_code hops_route(cl_line *l, cl_err *err);
int hops_routes(int domain, int n, int of_next, bool begins);             /* that a leader sends to */
size_t hops_bytes(const cl_line_options *o, int domain_size, int routes); /* of a chip alone its buffers too */
cl_code hops_open(cl_line *l, cl_err *err);
void hops_close(cl_line *l);
void hops_send(cl_line *l, int index, int route, size_t bytes);

int hops_count(const cl_line_options *o, int domain_size); /* that each of so many chips needs */
int hops_wait_free(cl_line *l);
void hops_use(cl_line *l, int index);      /* it is used from now on */
void hops_post(cl_line *l);                /* a receive, if there is a buffer */
int hops_received(cl_line *l, int *bytes); /* waits for the message that a receive is posted for; its buffer */
void hops_move(void *line);                /* lets messages move: what a cl_ranks calls while it waits */
void hops_drain(cl_line *l);
void line_cancel(cl_line *l, MPI_Request *r); /* a receive that nothing will come for; null: nothing to do */
size_t hops_x_offset(int n_parts, int n_ids); /* bytes before the activations of a message */
size_t hops_x_bytes(const cl_limits *limits, int tokens);

/* --- the memory of a domain (shared.c): a chip alone has nothing to do with it --- */

size_t shared_window_bytes(const cl_line_options *o, int domain_size);
/* Makes it, with the hop buffers and the exchange memory in it. Collective over the domain. */
void shared_open(cl_line *l);
void shared_close(cl_line *l);
/* Come to a gather: each chip until all of the domain have come; a leader's word lets the others go on. */
void shared_arrive(cl_line *l);
void shared_await_arrived(cl_line *l);
void shared_let_go(cl_line *l);
void shared_await_leader(cl_line *l);
void shared_check_place(const cl_line *l, const cl_region *r);
/* Leader: the others may have this hop. */
void shared_give(cl_line *l, int index, size_t bytes);
/* Others: waits for the next hop; its index. Then: it isn't looked at any more. */
int shared_next(cl_line *l, int *bytes);
void shared_finish(cl_line *l, int index);
/* Leader: a chip that still has this hop, 0: none. Waits until there is none. */
int shared_user(const cl_line *l, int index);
void shared_await_users(cl_line *l, int index);

cl_gathered line_gather(void *line, const cl_region *regions, int n); /* gather.c */

/* --- messages between domains (messages.c), of leaders --- */

size_t messages_bytes(const cl_line_options *o, int n); /* of all buffers; 1: none */
cl_code messages_open(cl_line *l, cl_err *err);
void messages_close(cl_line *l);
/* Every leader has what its domain needs of the others'. Returns the messages that came. */
uint32_t messages_exchange(cl_line *l, const cl_region *regions, int n);

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
