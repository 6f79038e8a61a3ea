/* handover.c: micro-batches from stage to stage, samples from the last to the first.
 *
 * A message is received into a buffer, computed on there and sent on from there: the head, the parts and the ids travel with the
 * activations and nothing is copied. Three buffers a rank: one receives, one is computed on, one is being sent. */
#include "line_internal.h"

#include <stdlib.h>

enum { HOP_MAGIC = 0x43484f50 }; /* "CHOP" */

static size_t x_offset(int n_parts, int n_tokens)
{
    size_t n = sizeof(wire_head) + (size_t)n_parts * sizeof(cl_seq_part) + (size_t)n_tokens * sizeof(int32_t);
    return (n + 63) & ~(size_t)63;
}

static size_t hop_bytes(const cl_limits *m, int n_parts, int n_tokens)
{
    return x_offset(n_parts, n_tokens) + (size_t)n_tokens * (size_t)m->hidden * sizeof(float);
}

cl_code cl_line_open(cl_line *l, const cl_line_options *opt, cl_err *err)
{
    l->opt = *opt;
    l->yields = l->ranks_here * opt->threads > l->cores_here;
    l->recv = l->result_recv = MPI_REQUEST_NULL;
    l->hop_capacity = hop_bytes(&opt->limits, opt->limits.slots, opt->limits.chunk);
    l->result_capacity = sizeof(wire_results) + (size_t)opt->limits.slots * sizeof(cl_sampled);
    if (l->hop_capacity > INT32_MAX)
        return cl_fail(err, CL_E_FIT, "line: a micro-batch of %d tokens takes %zu bytes, a message at most 2 GB (use a smaller --chunk)",
                       opt->limits.chunk, l->hop_capacity);
    for (int i = 0; i < HOPS; i++) {
        l->hops[i].send = MPI_REQUEST_NULL;
        l->hops[i].hop.index = i;
        if (!(l->hops[i].data = cl_malloc_aligned(l->hop_capacity, "hand-over buffer", err))) return CL_E_FIT;
    }
    for (int i = 0; i < RESULT_SLOTS; i++) {
        l->result_send[i] = MPI_REQUEST_NULL;
        if (!(l->results[i] = cl_calloc(1, l->result_capacity, "result buffer", err))) return CL_E_FIT;
    }
    return CL_OK;
}

static void record(cl_line *l, cl_mark m, cl_event_kind kind, const cl_microbatch *mb, int peer, size_t bytes)
{
    cl_event e = {.kind = kind, .layer = -1, .microbatch = mb->id, .tokens = mb->n_tokens, .parts = mb->n_parts, .peer = peer,
                  .waits_for = kind == CL_EV_RECV ? peer : -1, .msg_bytes = bytes};
    cl_trace_end(l->opt.trace, m, &e);
}

/* --- buffers --- */

static bool send_done(cl_line *l, hop_slot *s)
{
    int done = 1;
    if (s->send != MPI_REQUEST_NULL) MPI_TRY(l, MPI_Test(&s->send, &done, MPI_STATUS_IGNORE));
    return done;
}

/* A buffer that nobody uses, or -1. */
static int free_hop(cl_line *l)
{
    for (int i = 0; i < HOPS; i++)
        if (!l->hops[i].taken && l->posted != i && send_done(l, &l->hops[i])) return i;
    return -1;
}

/* A free buffer, waiting for a send to end if need be. */
static int need_hop(cl_line *l)
{
    uint64_t t0 = cl_now_ns();
    int i = free_hop(l);
    for (int k = 0; i < 0 && k < HOPS; k++) {
        if (l->hops[k].taken || l->posted == k) continue;
        cl_line_wait(l, &l->hops[k].send, MPI_STATUS_IGNORE, "a hand-over to reach", l->opt.next);
        i = k;
    }
    if (i < 0) CL_BUG("line: all hand-over buffers are taken");
    l->wait_ns += cl_now_ns() - t0;
    return i;
}

static void post_receive(cl_line *l)
{
    if (l->posted >= 0 || l->opt.prev < 0) return;
    int i = free_hop(l);
    if (i < 0) return;
    MPI_TRY(l, MPI_Irecv(l->hops[i].data, (int)l->hop_capacity, MPI_BYTE, l->opt.prev, TAG_HOP, l->comm, &l->recv));
    l->posted = i;
}

static void point_into(cl_hop *h, unsigned char *data, int n_parts, int n_tokens)
{
    h->mb.parts = (cl_seq_part *)(void *)(data + sizeof(wire_head));
    h->mb.ids = (int32_t *)(void *)(h->mb.parts + n_parts);
    h->x = (float *)(void *)(data + x_offset(n_parts, n_tokens));
}

cl_hop *cl_line_take(cl_line *l)
{
    hop_slot *s = &l->hops[need_hop(l)];
    s->taken = true;
    s->hop.kind = CL_HOP_WORK;
    s->hop.mb = (cl_microbatch){0};
    point_into(&s->hop, s->data, l->opt.limits.slots, 0); /* ids behind the largest number of parts; seal moves them up */
    return &s->hop;
}

void cl_line_seal(cl_line *l, cl_hop *h)
{
    unsigned char *data = l->hops[h->index].data;
    const int32_t *ids = h->mb.ids;
    point_into(h, data, h->mb.n_parts, h->mb.n_tokens);
    memmove(h->mb.ids, ids, (size_t)h->mb.n_tokens * sizeof *ids);
    *(wire_head *)(void *)data = (wire_head){.magic = HOP_MAGIC, .kind = h->kind, .microbatch = h->mb.id, .n_parts = h->mb.n_parts, .n_tokens = h->mb.n_tokens};
}

/* A peer of the same job sent this, but its sizes are checked all the same: a wrong one would write outside a buffer. */
static bool open_message(const cl_line *l, hop_slot *s, int bytes)
{
    const cl_limits *m = &l->opt.limits;
    const wire_head *w = (const wire_head *)(const void *)s->data;
    if (bytes < (int)sizeof *w || w->magic != HOP_MAGIC || w->kind > CL_HOP_STOP) return false;
    if (w->n_parts < 0 || w->n_parts > m->slots || w->n_tokens < 0 || w->n_tokens > m->chunk) return false;
    if ((size_t)bytes != hop_bytes(m, w->n_parts, w->n_tokens)) return false;
    cl_hop *h = &s->hop;
    h->kind = (cl_hop_kind)w->kind;
    h->mb.id = w->microbatch;
    h->mb.n_parts = w->n_parts;
    h->mb.n_tokens = w->n_tokens;
    point_into(h, s->data, w->n_parts, w->n_tokens);
    int64_t sum = 0;
    for (int i = 0; i < w->n_parts; i++) {
        const cl_seq_part *p = &h->mb.parts[i];
        if (p->slot < 0 || p->slot >= m->slots || p->n_tokens < 1 || p->n_tokens > m->chunk || p->pos < 0 || p->pos > m->context - p->n_tokens)
            return false;
        sum += p->n_tokens;
    }
    return sum == w->n_tokens;
}

cl_hop *cl_line_recv(cl_line *l)
{
    MPI_Status status;
    int bytes = 0;
    if (l->posted < 0) {
        (void)need_hop(l);
        post_receive(l);
    }
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    uint64_t t0 = cl_now_ns();
    cl_line_wait(l, &l->recv, &status, "a micro-batch from", l->opt.prev);
    MPI_TRY(l, MPI_Get_count(&status, MPI_BYTE, &bytes));
    hop_slot *s = &l->hops[l->posted];
    l->posted = -1;
    if (!open_message(l, s, bytes)) cl_line_abort(l, CL_E_RUN, "rank %d: a message of rank %d makes no sense (a bug: please report it)", l->rank, l->opt.prev);
    s->taken = true;
    post_receive(l); /* the next one may come while this one is computed */
    l->wait_ns += cl_now_ns() - t0;
    if (s->hop.kind == CL_HOP_WORK) record(l, m, CL_EV_RECV, &s->hop.mb, l->opt.prev, (size_t)bytes);
    return &s->hop;
}

void cl_line_pass(cl_line *l, cl_hop *h)
{
    hop_slot *s = &l->hops[h->index];
    size_t bytes = hop_bytes(&l->opt.limits, h->mb.n_parts, h->mb.n_tokens);
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    MPI_TRY(l, MPI_Isend(s->data, (int)bytes, MPI_BYTE, l->opt.next, TAG_HOP, l->comm, &s->send));
    s->taken = false;
    if (h->kind == CL_HOP_WORK) record(l, m, CL_EV_SEND, &h->mb, l->opt.next, bytes);
}

void cl_line_release(cl_line *l, cl_hop *h)
{
    l->hops[h->index].taken = false;
    post_receive(l);
}

void cl_line_poll(void *line)
{
    cl_line *l = line;
    int flag;
    for (int i = 0; i < HOPS; i++)
        if (l->hops[i].send != MPI_REQUEST_NULL) (void)send_done(l, &l->hops[i]);
    if (l->posted < 0) post_receive(l);
    else MPI_TRY(l, MPI_Request_get_status(l->recv, &flag, MPI_STATUS_IGNORE)); /* moves it along, leaves it to recv */
}

/* --- results --- */

void cl_line_send_results(cl_line *l, int64_t microbatch, const cl_sampled *results, int n)
{
    int slot = 0;
    for (int done = 0; slot < RESULT_SLOTS; slot++) {
        if (l->result_send[slot] == MPI_REQUEST_NULL) break;
        MPI_TRY(l, MPI_Test(&l->result_send[slot], &done, MPI_STATUS_IGNORE));
        if (done) break;
    }
    if (slot == RESULT_SLOTS) {
        slot = 0;
        cl_line_wait(l, &l->result_send[slot], MPI_STATUS_IGNORE, "results to reach", l->opt.first);
    }
    wire_results *w = (wire_results *)(void *)l->results[slot];
    size_t bytes = sizeof *w + (size_t)n * sizeof *results;
    w->microbatch = microbatch;
    w->n = n;
    memcpy(w->sampled, results, (size_t)n * sizeof *results);
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    MPI_TRY(l, MPI_Isend(w, (int)bytes, MPI_BYTE, l->opt.first, TAG_RESULTS, l->comm, &l->result_send[slot]));
    cl_microbatch mb = {.id = microbatch, .n_parts = n};
    record(l, m, CL_EV_SEND, &mb, l->opt.first, bytes);
}

bool cl_line_recv_results(cl_line *l, bool wait, int64_t *microbatch, const cl_sampled **results, int *n)
{
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    uint64_t t0 = cl_now_ns();
    MPI_Status status;
    int bytes = 0, done = 1;
    if (l->result_recv == MPI_REQUEST_NULL)
        MPI_TRY(l, MPI_Irecv(l->results[0], (int)l->result_capacity, MPI_BYTE, l->opt.last, TAG_RESULTS, l->comm, &l->result_recv));
    if (wait) cl_line_wait(l, &l->result_recv, &status, "samples from", l->opt.last);
    else MPI_TRY(l, MPI_Test(&l->result_recv, &done, &status));
    if (!done) return false;
    MPI_TRY(l, MPI_Get_count(&status, MPI_BYTE, &bytes));
    unsigned char *got = l->results[0];
    l->results[0] = l->results[1];
    l->results[1] = got;
    const wire_results *w = (const wire_results *)(const void *)got;
    if (bytes < (int)sizeof *w || w->n < 0 || w->n > l->opt.limits.slots || (size_t)bytes != sizeof *w + (size_t)w->n * sizeof *w->sampled)
        cl_line_abort(l, CL_E_RUN, "rank %d: a result of rank %d makes no sense (a bug: please report it)", l->rank, l->opt.last);
    for (int i = 0; i < w->n; i++)
        if (w->sampled[i].slot < 0 || w->sampled[i].slot >= l->opt.limits.slots) cl_line_abort(l, CL_E_RUN, "rank %d: a result names slot %d (a bug: please report it)", l->rank, w->sampled[i].slot);
    *microbatch = w->microbatch;
    *results = w->sampled;
    *n = w->n;
    if (wait) l->wait_ns += cl_now_ns() - t0;
    cl_microbatch mb = {.id = w->microbatch, .n_parts = w->n};
    record(l, m, CL_EV_RECV, &mb, l->opt.last, (size_t)bytes);
    return true;
}

void cl_line_drain(cl_line *l)
{
    for (int i = 0; i < HOPS; i++)
        if (l->hops[i].send != MPI_REQUEST_NULL) cl_line_wait(l, &l->hops[i].send, MPI_STATUS_IGNORE, "a hand-over to reach", l->opt.next);
    for (int i = 0; i < RESULT_SLOTS; i++)
        if (l->result_send[i] != MPI_REQUEST_NULL) cl_line_wait(l, &l->result_send[i], MPI_STATUS_IGNORE, "results to reach", l->opt.first);
    if (l->posted >= 0) {
        MPI_TRY(l, MPI_Cancel(&l->recv));
        MPI_TRY(l, MPI_Wait(&l->recv, MPI_STATUS_IGNORE));
        l->posted = -1;
    }
    if (l->result_recv != MPI_REQUEST_NULL) {
        MPI_TRY(l, MPI_Cancel(&l->result_recv));
        MPI_TRY(l, MPI_Wait(&l->result_recv, MPI_STATUS_IGNORE));
    }
}
