/* hops.c: the buffers that micro-batches live in, and the messages into and out of them.
 *
 * Why this cannot wait for ever. Only the first stage begins micro-batches, and it has at most stages + 2 of them in
 * the line. Say it waits for a free buffer, and nothing ever moves again. A buffer becomes free when the next stage
 * has received it, so a chip of the next stage does not receive: it waits for a free buffer itself, all of its own
 * being on their way to the stage after it; and so on, until the last stage, which sends no hand-overs and can only
 * wait to send results. Then each stage but the last holds as many micro-batches as a sending chip has buffers (HOPS,
 * or one less where it is alone in its memory), and the last one holds RESULT_SLOTS results that the first stage has
 * not taken, and one micro-batch more: with S stages at least (HOPS - 1) (S - 1) + RESULT_SLOTS + 1 = 3 S + 2, which
 * is more than S + 2 for every S. (Whoever waits inside a gather, or for a micro-batch, waits for a chip that waits
 * for one of these. What the first stage's chips get of its head they pass on at once.) So in flight <= stages + 2
 * needs no more buffers than there are; who lets in_flight grow beyond (HOPS - 1) (S - 1) + RESULT_SLOTS has to raise
 * HOPS with it. */
#include <stdlib.h>

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

int hops_count(const cl_line_options *o, int domain_size)
{
    const bool alone = domain_size == 1;
    if (line_is_lone(o) && o->own.members == 1) return 1; /* filled, computed on, free again */
    if (o->next.members) return alone ? HOPS - 1 : HOPS;
    return line_is_lone(o) || alone ? 2 : 3; /* received into, computed on; and one that others still look at */
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

/* --- who sends to whom --- */

int hops_routes(int domain, int n, int of_next, bool begins)
{
    int within = 0;
    for (int step = 1; begins && step < tree_span(domain, n); step *= 2) within++;
    return within + cl_handovers(domain, n, of_next);
}

/* Leaders of a neighbouring stage. */
static cl_code neighbours(const cl_line *l, cl_line_stage s, domains *out, cl_err *err)
{
    *out = (domains){0};
    return s.members ? domains_make(&l->opt, s, l->ranks->hosts.of, out, err) : CL_OK;
}

/* Inside the first stage hand-overs go down a tree of domains, whose larger branches come first. */
static void route_leader(cl_line *l, const domains *prev, const domains *next)
{
    const int n = l->domains.n, span = tree_span(l->domain, n);
    hop_routes *r = &l->routes;
    if (prev->n) r->source = l->opt.prev.first + domains_leader(prev, cl_handover_giver(prev->n, n, l->domain));
    else if (l->domain) r->source = line_rank_leading(l, tree_parent(l->domain));
    int step = 1;
    while (step < span) step *= 2;
    for (step /= 2; !prev->n && step; step /= 2) r->to[r->n_within++] = line_rank_leading(l, l->domain + step);
    r->n = r->n_within;
    for (int d = 0; d < next->n; d++)
        if (cl_handover_giver(n, next->n, d) == l->domain) r->to[r->n++] = l->opt.next.first + domains_leader(next, d);
}

cl_code hops_route(cl_line *l, cl_err *err)
{
    domains prev = {0}, next = {0};
    l->routes = (hop_routes){.source = -1};
    if (!line_leads(l)) return CL_OK;
    cl_code c = neighbours(l, l->opt.prev, &prev, err);
    if (c == CL_OK) c = neighbours(l, l->opt.next, &next, err);
    const size_t n = c == CL_OK ? (size_t)hops_routes(l->domain, l->domains.n, next.n, !prev.n) : 0;
    if (n && !(l->routes.to = cl_malloc(n, sizeof *l->routes.to, "ranks to hand over to", err))) c = CL_E_FIT;
    if (c == CL_OK) route_leader(l, &prev, &next);
    domains_free(&prev);
    domains_free(&next);
    return c;
}

/* --- buffers --- */

size_t hops_bytes(const cl_line_options *o, int domain_size, int routes)
{
    const size_t n = (size_t)hops_count(o, domain_size), sends = n * (size_t)routes * sizeof(MPI_Request);
    return sends + (domain_size == 1 ? n * cl_line_hop_most(&o->limits) + o->exchange_bytes : 0);
}

cl_code hops_open(cl_line *l, cl_err *err)
{
    const size_t routes = (size_t)l->routes.n, n = (size_t)l->n_hops * routes;
    if (n && !(l->sends = cl_malloc(n, sizeof *l->sends, "requests", err))) return CL_E_FIT;
    l->allocated += n * sizeof *l->sends;
    for (size_t i = 0; i < n; i++) l->sends[i] = MPI_REQUEST_NULL;
    for (int i = 0; n && i < l->n_hops; i++) l->hops[i].sends = l->sends + (size_t)i * routes;
    if (line_domain_size(l) > 1) return CL_OK;
    for (int i = 0; i < l->n_hops; i++)
        if (!(l->hops[i].data = line_alloc(l, l->hop_capacity, "hand-over buffer", err))) return CL_E_FIT;
    l->group.memory = line_alloc(l, l->opt.exchange_bytes, "exchange memory", err);
    return l->group.memory ? CL_OK : CL_E_FIT;
}

void hops_close(cl_line *l)
{
    for (int i = 0; !l->shared.block && i < l->n_hops; i++) cl_free_aligned(l->hops[i].data, l->hop_capacity);
    if (!l->shared.block) cl_free_aligned(l->group.memory, l->opt.exchange_bytes);
    free(l->sends);
    free(l->routes.to);
}

/* --- free buffers --- */

static bool is_sent(cl_line *l, int index)
{
    bool all = true;
    for (int i = 0; i < l->routes.n; i++) all = wait_is_done(l->ranks, &l->hops[index].sends[i]) && all;
    return all;
}

static int hops_free(cl_line *l)
{
    for (int i = 0; i < l->n_hops; i++)
        if (!l->hops[i].taken && l->posted != i && is_sent(l, i) && !shared_user(l, i)) return i;
    return -1;
}

static void wait_sent(cl_line *l, int index)
{
    for (int i = 0; i < l->routes.n; i++)
        wait_one(l->ranks, &l->hops[index].sends[i], MPI_STATUS_IGNORE, "a hand-over to reach", l->routes.to[i]);
    shared_await_users(l, index);
}

void hops_send(cl_line *l, int index, int route, size_t bytes)
{
    const hop_slot *s = &l->hops[index];
    MPI_TRY(l->ranks,
            MPI_Isend(s->data, (int)bytes, MPI_BYTE, l->routes.to[route], TAG_HOP, l->ranks->comm, &s->sends[route]));
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
    MPI_TRY(l->ranks, MPI_Irecv(l->hops[index].data, (int)l->hop_capacity, MPI_BYTE, l->routes.source, TAG_HOP,
                                l->ranks->comm, &l->recv));
    l->posted = index;
}

/* Where waiting blocks nobody has looked whether the oldest is free, so that is waited for: it most likely is. */
void hops_post(cl_line *l)
{
    if (l->posted >= 0 || l->routes.source < 0 || !l->receiving) return;
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
    wait_one(l->ranks, &l->recv, &status, "a micro-batch from", l->routes.source);
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
    for (int i = 0; i < l->n_hops; i++) (void)is_sent(l, i);
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
