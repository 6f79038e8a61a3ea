/* handover.c: micro-batches from stage to stage, and from a stage's head chip to its other chips.
 *
 * A message is received into a buffer, computed on there and sent on from there: the head, the parts and the ids
 * travel with the activations and nothing is copied. Where the chips of a stage share memory they share the buffer
 * too. */
#include "line_internal.h"

enum { HOP_MAGIC = 0x43484f50 }; /* "CHOP" */

static size_t x_offset(int n_parts, int n_ids)
{
    size_t n = sizeof(wire_head) + (size_t)n_parts * sizeof(cl_seq_part) + (size_t)n_ids * sizeof(int32_t);
    return (n + 63) & ~(size_t)63;
}

static size_t x_bytes(const cl_limits *m, int tokens) { return (size_t)tokens * (size_t)m->hidden * sizeof(float); }

size_t cl_line_hop_bytes(const cl_limits *m, int parts, int tokens)
{
    return x_offset(parts, tokens) + x_bytes(m, tokens);
}

size_t cl_line_hop_most(const cl_limits *m)
{
    return x_offset(m->slots, m->chunk + m->slots * CL_REPEAT_WINDOW) + x_bytes(m, m->chunk);
}

void cl_line_record(cl_line *l, cl_mark m, cl_event_kind kind, const cl_microbatch *mb, int peer, size_t bytes)
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

/* --- buffers --- */

static bool send_done(cl_line *l, hop_slot *s)
{
    int done = 1;
    if (s->send != MPI_REQUEST_NULL) MPI_TRY(l, MPI_Test(&s->send, &done, MPI_STATUS_IGNORE));
    return done;
}

/* Head chip: another member that still needs this buffer, 0: none. */
static int user_of(cl_line *l, int index)
{
    if (!cl_line_is_head(l)) return 0;
    return l->shared.block ? cl_line_shared_user(l, index) : cl_line_messages_user(l, index);
}

/* A buffer that nobody uses, or -1. */
static int free_hop(cl_line *l)
{
    for (int i = 0; i < HOPS; i++)
        if (!l->hops[i].taken && l->posted != i && send_done(l, &l->hops[i]) && !user_of(l, i)) return i;
    return -1;
}

/* No buffer is free: says so to the waiting, naming the first that will be. */
static void wait_for_hop(cl_line *l, line_wait *w)
{
    int i = 0, user;
    while (i < HOPS && (l->hops[i].taken || l->posted == i)) i++;
    if (i == HOPS) CL_BUG("line: all hand-over buffers are taken");
    if (!send_done(l, &l->hops[i])) cl_line_wait_more(l, w, "a hand-over to reach", l->opt.next);
    else if ((user = user_of(l, i)))
        cl_line_wait_more(l, w, "a micro-batch to be finished by", l->opt.stage_first + user);
}

/* Head chips have messages from the stage before, the others from their head chip (none if they share its memory). */
static void post_receive(cl_line *l)
{
    bool head = cl_line_is_head(l);
    if (l->posted >= 0 || (head ? l->opt.prev < 0 : l->shared.block != NULL)) return;
    int i = free_hop(l);
    if (i < 0) return;
    MPI_Comm comm = head ? l->comm : l->stage;
    MPI_TRY(l, MPI_Irecv(l->hops[i].data, (int)l->hop_capacity, MPI_BYTE, head ? l->opt.prev : 0, TAG_HOP, comm,
                         &l->recv));
    l->posted = i;
}

static void point_into(cl_hop *h, unsigned char *data, int n_parts, int n_tokens, int n_before)
{
    h->mb.parts = (cl_seq_part *)(void *)(data + sizeof(wire_head));
    h->mb.ids = (int32_t *)(void *)(h->mb.parts + n_parts);
    h->mb.before = h->mb.ids + n_tokens;
    h->x = (float *)(void *)(data + x_offset(n_parts, n_tokens + n_before));
}

/* --- the first stage's head chip begins --- */

cl_hop *cl_line_take(cl_line *l)
{
    uint64_t t0 = cl_now_ns();
    int i;
    for (line_wait w = {0}; (i = free_hop(l)) < 0;) wait_for_hop(l, &w);
    l->wait_ns += cl_now_ns() - t0;
    hop_slot *s = &l->hops[i];
    s->taken = true;
    s->hop.kind = CL_HOP_WORK;
    s->hop.mb = (cl_microbatch){0};
    /* ids behind the largest number of parts, the others behind the largest number of ids; seal moves them up */
    point_into(&s->hop, s->data, l->opt.limits.slots, l->opt.limits.chunk, 0);
    return &s->hop;
}

/* To the other chips of the stage. Activations are computed on in place, so where they are sent they must have
 * arrived before this chip goes on; the others can do nothing without them anyway. */
static void give(cl_line *l, int index, size_t bytes, bool with_x)
{
    if (l->group.members == 1) return;
    if (l->shared.block) {
        cl_line_shared_give(l, index, bytes);
        return;
    }
    cl_line_messages_give(l, index, bytes);
    int user;
    for (line_wait w = {0}; with_x && (user = cl_line_messages_user(l, index));)
        cl_line_wait_more(l, &w, "a micro-batch to reach", l->opt.stage_first + user);
}

void cl_line_seal(cl_line *l, cl_hop *h)
{
    unsigned char *data = l->hops[h->index].data;
    const cl_microbatch mb = h->mb;
    point_into(h, data, mb.n_parts, mb.n_tokens, mb.n_before);
    memmove(h->mb.ids, mb.ids, (size_t)mb.n_tokens * sizeof *mb.ids);
    memmove(h->mb.before, mb.before, (size_t)mb.n_before * sizeof *mb.before);
    wire_head head = {.magic = HOP_MAGIC,
                      .kind = h->kind,
                      .microbatch = h->mb.id,
                      .n_parts = h->mb.n_parts,
                      .n_tokens = mb.n_tokens,
                      .n_before = mb.n_before};
    memcpy(data, &head, sizeof head);
    give(l, h->index, x_offset(mb.n_parts, mb.n_tokens + mb.n_before), false); /* there are no activations yet */
}

/* --- the other chips receive --- */

/* A peer of the same job sent this, but its sizes are checked all the same: a wrong one would write outside a buffer.
 * */
bool cl_line_open_message(const cl_line *l, hop_slot *s, int bytes)
{
    const cl_limits *m = &l->opt.limits;
    const wire_head *w = (const wire_head *)(const void *)s->data;
    if (bytes < (int)sizeof *w || w->magic != HOP_MAGIC || w->kind > CL_HOP_STOP) return false;
    if (w->n_parts < 0 || w->n_parts > m->slots || w->n_tokens < 0 || w->n_tokens > m->chunk) return false;
    if (w->n_before < 0 || w->n_before > m->slots * CL_REPEAT_WINDOW) return false;
    size_t want = x_offset(w->n_parts, w->n_tokens + w->n_before) + (l->opt.prev < 0 ? 0 : x_bytes(m, w->n_tokens));
    if ((size_t)bytes != want) return false;
    cl_hop *h = &s->hop;
    h->kind = (cl_hop_kind)w->kind;
    h->mb.id = w->microbatch;
    h->mb.n_parts = w->n_parts;
    h->mb.n_tokens = w->n_tokens;
    h->mb.n_before = w->n_before;
    point_into(h, s->data, w->n_parts, w->n_tokens, w->n_before);
    int64_t sum = 0, before = 0;
    for (int i = 0; i < w->n_parts; i++) {
        const cl_seq_part *p = &h->mb.parts[i];
        if (p->slot < 0 || p->slot >= m->slots || p->n_tokens < 1 || p->n_tokens > m->chunk) return false;
        if (p->pos < 0 || p->pos > m->context - p->n_tokens) return false;
        if (p->n_outputs < 0 || p->n_outputs > p->n_tokens || p->n_guesses < 0 || p->n_guesses > p->n_tokens)
            return false;
        if (p->fork < -1 || p->fork >= m->slots || p->n_before < 0 || p->n_before > p->pos) return false;
        sum += p->n_tokens;
        before += p->n_before;
    }
    return sum == w->n_tokens && before == w->n_before;
}

/* Waits for the message that a receive is posted for; returns its buffer. */
static int received(cl_line *l, int from, int *bytes)
{
    MPI_Status status;
    for (line_wait w = {0}; l->posted < 0;) {
        post_receive(l);
        if (l->posted < 0) wait_for_hop(l, &w);
    }
    cl_line_wait(l, &l->recv, &status, "a micro-batch from", from);
    MPI_TRY(l, MPI_Get_count(&status, MPI_BYTE, bytes));
    int i = l->posted;
    l->posted = -1;
    return i;
}

cl_hop *cl_line_recv(cl_line *l)
{
    bool head = cl_line_is_head(l);
    int bytes = 0, from = head ? l->opt.prev : l->opt.stage_first;
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    uint64_t t0 = cl_now_ns();
    int i = !head && l->shared.block ? cl_line_shared_next(l, &bytes) : received(l, from, &bytes);
    hop_slot *s = &l->hops[i];
    if (!cl_line_open_message(l, s, bytes))
        cl_line_abort(l, CL_E_RUN, "rank %d: a message of rank %d makes no sense (a bug: please report it)", l->rank,
                      from);
    s->taken = true;
    if (head) give(l, i, (size_t)bytes, true);
    post_receive(l); /* the next one may come while this one is computed */
    l->wait_ns += cl_now_ns() - t0;
    /* What a stage's chips tell each other is no hand-over: no bytes. */
    if (s->hop.kind == CL_HOP_WORK) cl_line_record(l, m, CL_EV_RECV, &s->hop.mb, from, head ? (size_t)bytes : 0);
    return &s->hop;
}

/* --- and are done with it --- */

void cl_line_pass(cl_line *l, cl_hop *h)
{
    if (!cl_line_is_head(l)) {
        cl_line_release(l, h);
        return;
    }
    hop_slot *s = &l->hops[h->index];
    size_t bytes = x_offset(h->mb.n_parts, h->mb.n_tokens + h->mb.n_before) + x_bytes(&l->opt.limits, h->mb.n_tokens);
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    MPI_TRY(l, MPI_Isend(s->data, (int)bytes, MPI_BYTE, l->opt.next, TAG_HOP, l->comm, &s->send));
    s->taken = false;
    if (h->kind == CL_HOP_WORK) cl_line_record(l, m, CL_EV_SEND, &h->mb, l->opt.next, bytes);
}

void cl_line_release(cl_line *l, cl_hop *h)
{
    l->hops[h->index].taken = false;
    if (l->shared.block && !cl_line_is_head(l)) cl_line_shared_finish(l, h->index);
    post_receive(l);
}

void cl_line_poll(void *line)
{
    cl_line *l = line;
    int flag;
    for (int i = 0; i < HOPS; i++)
        if (send_done(l, &l->hops[i]) && !l->shared.block && cl_line_is_head(l)) (void)cl_line_messages_user(l, i);
    if (l->posted < 0) post_receive(l);
    else MPI_TRY(l, MPI_Request_get_status(l->recv, &flag, MPI_STATUS_IGNORE)); /* moves it along, leaves it to recv */
}

static void cancel(cl_line *l, MPI_Request *r)
{
    if (*r == MPI_REQUEST_NULL) return;
    MPI_TRY(l, MPI_Cancel(r));
    MPI_TRY(l, MPI_Wait(r, MPI_STATUS_IGNORE));
}

void cl_line_drain(cl_line *l)
{
    for (int i = 0, user; i < HOPS; i++) {
        cl_line_wait(l, &l->hops[i].send, MPI_STATUS_IGNORE, "a hand-over to reach", l->opt.next);
        for (line_wait w = {0}; (user = user_of(l, i));)
            cl_line_wait_more(l, &w, "a micro-batch to be finished by", l->opt.stage_first + user);
    }
    for (int i = 0; i < RESULT_SLOTS; i++)
        cl_line_wait(l, &l->result_send[i], MPI_STATUS_IGNORE, "results to reach", l->opt.first);
    cl_line_drain_notes(l);
    cancel(l, &l->recv); /* the last: waiting posts receives */
    cancel(l, &l->result_recv);
    l->posted = -1;
}
