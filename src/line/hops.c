/* hops.c: the buffers that micro-batches live in, and the messages into and out of them.
 *
 * Why this cannot wait for ever. Only the first stage begins micro-batches, and it has at most stages + 2 of them in
 * the line. Say it waits for a free buffer, and nothing ever moves again. A buffer becomes free when the next stage
 * has received it, so the next stage does not receive: it waits for a free buffer itself, all of its own being on
 * their way to the stage after it; and so on, until the last stage, which sends no hand-overs and can only wait to
 * send results. Then each stage but the last holds as many micro-batches as a sending chip has buffers (HOPS), and
 * the last one holds RESULT_SLOTS results that the first stage has not taken, and one micro-batch more: with S stages
 * HOPS (S - 1) + RESULT_SLOTS + 1 = 4 S + 1, which is more than S + 2 for every S. (Whoever waits inside a gather, or
 * for a micro-batch, waits for a chip that waits for one of these.) So in flight <= stages + 2 needs no more buffers
 * than there are; who lets in_flight grow beyond HOPS (S - 1) + RESULT_SLOTS has to raise HOPS with it. */
#include "line_internal.h"

void *line_alloc(cl_line *l, size_t bytes, const char *what, cl_err *err)
{
    void *p = cl_malloc_aligned(bytes, what, err);
    if (p) l->allocated += bytes;
    return p;
}

void line_record(cl_line *l, cl_mark m, cl_event_kind kind, const cl_microbatch *mb, int peer, size_t bytes)
{
    cl_event e = {.kind = kind,
                  .layer = -1,
                  .microbatch = mb->id,
                  .tokens = mb->n_tokens,
                  .parts = mb->n_parts,
                  .peer = peer,
                  .msg_bytes = bytes};
    cl_trace_end(l->opt.trace, m, &e);
}

/* --- sizes --- */

int hops_count(const cl_line_options *o, int member)
{
    bool several = o->members > 1;
    if (line_is_lone(o) && !several) return 1;                 /* filled, computed on, free again */
    if (member && o->carrier == CL_CARRIER_MESSAGES) return 2; /* received into, computed on: never sent */
    if (o->next >= 0) return HOPS;
    return line_is_lone(o) || !several ? 2 : 3; /* and one that other members still look at */
}

size_t hops_x_offset(int n_parts, int n_ids)
{
    size_t n = sizeof(wire_head) + (size_t)n_parts * sizeof(cl_part) + (size_t)n_ids * sizeof(int32_t);
    return (n + 63) & ~(size_t)63;
}

size_t hops_x_bytes(const cl_limits *m, int tokens) { return (size_t)tokens * (size_t)m->hidden * sizeof(float); }

size_t cl_line_hop_bytes(const cl_limits *m, int parts, int tokens)
{
    return hops_x_offset(parts, tokens) + hops_x_bytes(m, tokens);
}

size_t cl_line_hop_most(const cl_limits *m)
{
    return hops_x_offset(m->slots, m->chunk + m->slots * CL_REPEAT_WINDOW) + hops_x_bytes(m, m->chunk);
}

/* --- free buffers --- */

static int hops_free(cl_line *l)
{
    for (int i = 0; i < l->n_hops; i++)
        if (!l->hops[i].taken && l->posted != i && wait_is_done(l->ranks, &l->hops[i].send) &&
            !(line_is_head(l) && l->carrier->user(l, i)))
            return i;
    return -1;
}

static void wait_sent(cl_line *l, int index)
{
    wait_one(l->ranks, &l->hops[index].send, MPI_STATUS_IGNORE, "a hand-over to reach", l->opt.next);
    if (line_is_head(l)) l->carrier->await_users(l, index);
}

/* Buffers become free in the order in which they were used: the oldest is waited for. */
int hops_wait_free(cl_line *l)
{
    int oldest = -1, i = hops_free(l);
    if (i >= 0) return i;
    for (i = 0; i < l->n_hops; i++)
        if (!l->hops[i].taken && l->posted != i && (oldest < 0 || l->hops[i].used < l->hops[oldest].used)) oldest = i;
    if (oldest < 0) CL_BUG("line: all hand-over buffers are taken");
    wait_sent(l, oldest);
    return oldest;
}

void hops_use(cl_line *l, int index)
{
    l->hops[index].taken = true;
    l->hops[index].used = ++l->uses;
}

/* --- receiving --- */

static void post_into(cl_line *l, int index)
{
    if (l->hop_capacity > INT32_MAX) CL_BUG("line: a hand-over buffer of %zu bytes", l->hop_capacity);
    MPI_TRY(l->ranks, MPI_Irecv(l->hops[index].data, (int)l->hop_capacity, MPI_BYTE, l->source, TAG_HOP, l->ranks->comm,
                                &l->recv));
    l->posted = index;
}

/* Where waiting blocks nobody has looked whether the oldest is free, so that is waited for: it most likely is. */
void hops_post(cl_line *l)
{
    if (l->posted >= 0 || l->source < 0 || !l->receiving) return;
    int i = hops_free(l);
    if (i < 0 && l->ranks->blocks) i = hops_wait_free(l);
    if (i >= 0) post_into(l, i);
}

int hops_received(cl_line *l, int *bytes)
{
    MPI_Status status;
    l->receiving = true;
    hops_post(l);
    if (l->posted < 0) {
        int free = hops_wait_free(l); /* meanwhile a receive may have been posted, into this one or another */
        if (l->posted < 0) post_into(l, free);
    }
    wait_one(l->ranks, &l->recv, &status, "a micro-batch from", l->source);
    MPI_TRY(l->ranks, MPI_Get_count(&status, MPI_BYTE, bytes));
    int i = l->posted;
    l->posted = -1;
    return i;
}

/* --- moving --- */

void hops_move(void *line)
{
    cl_line *l = line;
    int flag;
    for (int i = 0; i < l->n_hops; i++)
        if (wait_is_done(l->ranks, &l->hops[i].send) && line_is_head(l)) (void)l->carrier->user(l, i);
    if (l->posted < 0) hops_post(l);
    else MPI_TRY(l->ranks, MPI_Request_get_status(l->recv, &flag, MPI_STATUS_IGNORE)); /* leaves it to recv */
}

void line_cancel(cl_line *l, MPI_Request *r)
{
    if (*r == MPI_REQUEST_NULL) return;
    MPI_TRY(l->ranks, MPI_Cancel(r));
    MPI_TRY(l->ranks, MPI_Wait(r, MPI_STATUS_IGNORE));
}

void hops_drain(cl_line *l)
{
    l->receiving = false; /* waiting posts receives: none from now on */
    for (int i = 0; i < l->n_hops; i++) wait_sent(l, i);
    line_cancel(l, &l->recv);
    l->posted = -1;
}
