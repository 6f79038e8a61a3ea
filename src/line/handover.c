/* handover.c: micro-batches from stage to stage. All chips of a stage have the activations after its last gather, so
 * each domain of the next stage has them of another chip, and none has to pass them on. In the first stage, where there
 * are none yet, its head chip's words go down a tree.
 *
 * A message is received into a buffer, computed on there and sent on from there: the head, the parts and the ids
 * travel with the activations and nothing is copied. Chips that share memory share the buffer too. */
#include "line_internal.h"

static void point_into(cl_hop *h, unsigned char *data, int n_parts, int n_tokens, int n_before)
{
    h->mb.parts = (cl_part *)(void *)(data + sizeof(wire_head));
    h->mb.ids = (int32_t *)(void *)(h->mb.parts + n_parts);
    h->mb.before = h->mb.ids + n_tokens;
    h->x = (float *)(void *)(data + hops_x_offset(n_parts, n_tokens + n_before));
}

/* A leader has it: so do the others of its domain, and in the first stage the domains below. */
static void give(cl_line *l, int index, size_t bytes)
{
    for (int i = 0; i < l->routes.n_within; i++) hops_send(l, index, i, bytes);
    if (l->shared.block) shared_give(l, index, bytes);
}

/* --- the first stage's head chip begins --- */

cl_hop *cl_line_take(cl_line *l)
{
    uint64_t t0 = cl_now_ns();
    int i = hops_wait_free(l);
    l->wait_ns += cl_now_ns() - t0;
    hop_slot *s = &l->hops[i];
    hops_use(l, i);
    s->hop.kind = CL_HOP_WORK;
    s->hop.mb = (cl_microbatch){0};
    /* ids behind the largest number of parts, the others behind the largest number of ids; seal moves them up */
    point_into(&s->hop, s->data, l->opt.limits.slots, l->opt.limits.chunk, 0);
    return &s->hop;
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
                      .microbatch = mb.id,
                      .n_parts = mb.n_parts,
                      .n_tokens = mb.n_tokens,
                      .n_before = mb.n_before};
    memcpy(data, &head, sizeof head);
    give(l, h->index, hops_x_offset(mb.n_parts, mb.n_tokens + mb.n_before));
}

/* --- the other chips receive --- */

/* A peer of the same job sent this, but its sizes are checked all the same: a wrong one would write outside a buffer.
 * */
bool handover_open(const cl_line *l, hop_slot *s, int bytes)
{
    const cl_limits *m = &l->opt.limits;
    const wire_head *w = (const wire_head *)(const void *)s->data;
    if (bytes < (int)sizeof *w || w->magic != HOP_MAGIC || w->kind > CL_HOP_STOP) return false;
    if (w->n_parts < 0 || w->n_parts > m->slots || w->n_tokens < 0 || w->n_tokens > m->chunk) return false;
    if (w->n_before < 0 || w->n_before > m->slots * CL_REPEAT_WINDOW) return false;
    size_t want = hops_x_offset(w->n_parts, w->n_tokens + w->n_before) +
                  (l->opt.prev.members ? hops_x_bytes(m, w->n_tokens) : 0);
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
        const cl_part *p = &h->mb.parts[i];
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

cl_hop *cl_line_recv(cl_line *l)
{
    const bool leads = line_leads(l);
    int bytes = 0, from = leads ? l->routes.source : line_rank_here(l, 0);
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    uint64_t t0 = cl_now_ns();
    int i = leads ? hops_received(l, &bytes) : shared_next(l, &bytes);
    hop_slot *s = &l->hops[i];
    if (!handover_open(l, s, bytes))
        cl_ranks_abort(l->ranks, CL_E_RUN, "rank %d: a message of rank %d makes no sense (a bug: please report it)",
                       l->ranks->rank, from);
    hops_use(l, i);
    if (leads) give(l, i, (size_t)bytes);
    if (s->hop.kind == CL_HOP_STOP) l->receiving = false;
    hops_post(l); /* the next one may come while this one is computed */
    l->wait_ns += cl_now_ns() - t0;
    /* What a stage's chips tell each other is no hand-over: no bytes. */
    const bool handed = leads && l->opt.prev.members;
    if (s->hop.kind == CL_HOP_WORK) line_record(l, m, CL_EV_RECV, &s->hop.mb, from, handed ? (size_t)bytes : 0);
    return &s->hop;
}

/* --- and are done with it --- */

void cl_line_pass(cl_line *l, cl_hop *h)
{
    if (l->routes.n == l->routes.n_within) {
        cl_line_release(l, h);
        return;
    }
    size_t bytes = hops_x_offset(h->mb.n_parts, h->mb.n_tokens + h->mb.n_before) +
                   hops_x_bytes(&l->opt.limits, h->mb.n_tokens);
    for (int i = l->routes.n_within; i < l->routes.n; i++) {
        cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
        hops_send(l, h->index, i, bytes);
        if (h->kind == CL_HOP_WORK) line_record(l, m, CL_EV_SEND, &h->mb, l->routes.to[i], bytes);
    }
    l->hops[h->index].taken = false;
    if (!l->opt.prev.members && line_is_head(l) && h->kind == CL_HOP_WORK) l->expected++;
}

void cl_line_release(cl_line *l, cl_hop *h)
{
    l->hops[h->index].taken = false;
    if (!line_leads(l)) shared_finish(l, h->index);
    hops_post(l);
}

void cl_line_poll(void *line)
{
    cl_line *l = line;
    if (l->ranks->blocks) return; /* messages move while it waits */
    hops_move(l);
    cl_ranks_poll(l->ranks);
}
