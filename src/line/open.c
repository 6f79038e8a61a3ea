/* open.c: the buffers of the line, made before tokens flow; what they take. */
#include <stdlib.h>
#include <sys/statvfs.h>

#include "line_internal.h"

/* --- what is possible --- */

static bool on_one_host(const cl_ranks *r, cl_line_stage s)
{
    for (int m = 1; m < s.members; m++)
        if (r->hosts.of[s.first + m] != r->hosts.of[s.first]) return false;
    return true;
}

/* A large message would not fit an int; memory that several hosts share there is none. */
static cl_code check(const cl_line *l, cl_err *err)
{
    const cl_line_options *o = &l->opt;
    if (l->hop_capacity > INT32_MAX)
        return cl_fail(
            err, CL_E_FIT,
            "line: a micro-batch of %d tokens takes %zu bytes, a message at most 2 GB (use a smaller --chunk)",
            o->limits.chunk, l->hop_capacity);
    if (o->carrier == CL_CARRIER_SHARED && !on_one_host(l->ranks, o->own))
        return cl_fail(
            err, CL_E_FIT,
            "line: the stage of ranks %d to %d is on several hosts, which share no memory (--gather messages, or "
            "stages that fit a host)",
            o->own.first, o->own.first + o->own.members - 1);
    if (o->carrier == CL_CARRIER_SHARED && l->ranks->blocks)
        return cl_fail(err, CL_E_FIT, "line: shared memory cannot be waited for inside MPI (use --gather messages)");
    return CL_OK;
}

/* Is there room for all stages of this host? Asked before, because an MPI library may give out memory that isn't
 * there (a chip would be killed when it writes), and when it refuses it may tell one member and leave the others
 * waiting. Collective. */
static cl_code check_room(cl_line *l, cl_err *err)
{
    struct statvfs fs;
    const int chips = line_domain_size(l);
    uint64_t all = seats_sum(l->ranks, chips > 1 && line_leads(l) ? shared_window_bytes(&l->opt, chips) : 0);
    if (!all || statvfs("/dev/shm", &fs)) return CL_OK;
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (all <= room) return CL_OK;
    return cl_fail(
        err, CL_E_FIT,
        "line: cannot get %llu bytes of shared memory for the stages of %s: /dev/shm has room for %llu (--gather "
        "messages does without)",
        (unsigned long long)all, cl_ranks_host(l->ranks), (unsigned long long)room);
}

/* --- open, close --- */

/* Where waiting blocks nobody can wait for memory. */
static cl_line_options options_for(const cl_ranks *r, const cl_line_options *o)
{
    cl_line_options with = *o;
    if (r->blocks && o->carrier == CL_CARRIER_AUTO) with.carrier = CL_CARRIER_MESSAGES;
    return with;
}

static cl_code begin(cl_line *l, cl_ranks *ranks, const cl_line_options *o, cl_err *err)
{
    int member = ranks->rank - o->own.first;
    if (member < 0 || member >= o->own.members)
        CL_BUG("line: rank %d is not in the stage of ranks %d + %d", ranks->rank, o->own.first, o->own.members);
    l->ranks = ranks;
    l->opt = options_for(ranks, o);
    l->group = (cl_group){.member = member, .members = o->own.members, .gather = line_gather, .ctx = l};
    l->posted = l->result_bytes = -1;
    l->recv = l->result_recv = MPI_REQUEST_NULL;
    l->hop_capacity = cl_line_hop_most(&o->limits);
    for (int i = 0; i < HOPS; i++) l->hops[i].hop.index = i;
    for (int i = 0; i < RESULT_SLOTS; i++) l->result_send[i] = MPI_REQUEST_NULL;
    cl_code c = domains_make(&l->opt, o->own, ranks->hosts.of, &l->domains, err);
    if (c != CL_OK) return c;
    l->domain = l->domains.of[member];
    while (line_rank_here(l, l->index) != ranks->rank) l->index++;
    l->n_hops = hops_count(&l->opt, line_domain_size(l));
    return hops_route(l, err);
}

static cl_code make(cl_line *l, cl_err *err)
{
    cl_code c = CL_OK;
    l->open = true;
    if (line_domain_size(l) > 1) shared_open(l);
    c = hops_open(l, err);
    if (c == CL_OK && line_leads(l) && l->domains.n > 1) c = messages_open(l, err);
    if (c == CL_OK) c = results_open(l, err);
    c = cl_ranks_agree(l->ranks, c, err);
    if (c == CL_OK) l->ranks->move = hops_move, l->ranks->move_ctx = l;
    return c;
}

cl_code cl_line_open(cl_line **out, cl_ranks *ranks, const cl_line_options *opt, cl_err *err)
{
    cl_line *l = cl_calloc(1, sizeof *l, "line", err);
    cl_code c = cl_ranks_agree(ranks, l ? CL_OK : CL_E_FIT, err);
    if (c == CL_OK) c = cl_ranks_agree(ranks, begin(l, ranks, opt, err), err);
    if (c == CL_OK) c = cl_ranks_agree(ranks, check(l, err), err);
    if (c == CL_OK) c = cl_ranks_agree(ranks, check_room(l, err), err);
    if (c == CL_OK) c = make(l, err);
    if (c == CL_OK) *out = l;
    else cl_line_close(l);
    return c;
}

void cl_line_drain(cl_line *l)
{
    hops_drain(l);
    results_drain(l);
}

void cl_line_close(cl_line *l)
{
    if (!l) return;
    if (l->ranks && l->ranks->move_ctx == l) l->ranks->move = NULL, l->ranks->move_ctx = NULL;
    if (l->open) {
        cl_ranks_barrier(l->ranks); /* what a domain shares is given back by all of it at once */
        line_cancel(l, &l->recv);
        line_cancel(l, &l->result_recv);
    }
    messages_close(l);
    hops_close(l);
    if (l->shared.block) shared_close(l);
    domains_free(&l->domains);
    results_close(l);
    free(l);
}

/* --- what it takes --- */

/* Of a chip whose domain has so many chips, one of n of its stage. */
static size_t bytes_of(const cl_line_options *o, int rank, int size, bool leads, int n, int routes)
{
    return (size > 1 ? shared_window_bytes(o, size) : 0) + (leads ? messages_bytes(o, n) : 0) +
           hops_bytes(o, size, leads ? routes : 0) + results_bytes(o, rank);
}

/* Where hosts aren't known: every chip alone in its memory, all of a stage in one, or most of them. */
static size_t most_bytes(const cl_line_options *o, int rank)
{
    const int all = o->own.members, member = rank - o->own.first;
    const int routes = hops_routes(0, all, o->next.members, !o->prev.members);
    size_t alone = bytes_of(o, rank, 1, true, all, routes);
    if (o->carrier == CL_CARRIER_MESSAGES || all == 1) return alone;
    size_t together = bytes_of(o, rank, all, member == 0, 1, routes);
    if (o->carrier == CL_CARRIER_SHARED) return together;
    size_t most = alone > together ? alone : together, mixed = bytes_of(o, rank, all - 1, true, 2, routes);
    return all > 2 && mixed > most ? mixed : most;
}

size_t cl_line_bytes(const cl_ranks *ranks, const cl_line_options *opt, int rank)
{
    if (!ranks) return most_bytes(opt, rank);
    const cl_line_options o = options_for(ranks, opt);
    domains own = {0}, next = {0};
    const int member = rank - o.own.first;
    size_t bytes = SIZE_MAX; /* no memory to find out */
    cl_code c = domains_make(&o, o.own, ranks->hosts.of, &own, NULL);
    if (c == CL_OK && o.next.members) c = domains_make(&o, o.next, ranks->hosts.of, &next, NULL);
    if (c == CL_OK) {
        const int domain = own.of[member], routes = hops_routes(domain, own.n, next.n, !o.prev.members);
        bytes = bytes_of(&o, rank, domains_size(&own, domain), domains_leader(&own, domain) == member, own.n, routes);
    }
    domains_free(&own);
    domains_free(&next);
    return bytes;
}

const cl_group *cl_line_group(const cl_line *l) { return &l->group; }
bool cl_line_shared(const cl_line *l) { return l->domains.n == 1 && l->group.members > 1; }
uint64_t cl_line_wait_ns(const cl_line *l) { return l->wait_ns; }
