/* open.c: the buffers of the line, made before tokens flow; what they take. */
#include <stdlib.h>
#include <sys/statvfs.h>

#include "line_internal.h"

/* --- what carries --- */

static bool on_one_host(const cl_ranks *r, const cl_line_options *o)
{
    for (int m = 1; m < o->members; m++)
        if (r->hosts.of[o->stage_first + m] != r->hosts.of[o->stage_first]) return false;
    return true;
}

cl_carrier cl_line_carrier(const cl_ranks *r, const cl_line_options *o)
{
    if (o->members == 1) return CL_CARRIER_MESSAGES;
    if (o->carrier != CL_CARRIER_AUTO) return o->carrier;
    return on_one_host(r, o) && !r->blocks ? CL_CARRIER_SHARED : CL_CARRIER_MESSAGES;
}

static const carrier_table *carrier_of(const cl_line_options *o)
{
    return o->members > 1 && o->carrier == CL_CARRIER_SHARED ? &carrier_shared : &carrier_messages;
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
    if (o->carrier == CL_CARRIER_SHARED && !on_one_host(l->ranks, o))
        return cl_fail(
            err, CL_E_FIT,
            "line: the stage of ranks %d to %d is on several hosts, which share no memory (--gather messages, or "
            "stages that fit a host)",
            o->stage_first, o->stage_first + o->members - 1);
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
    bool asks = l->carrier == &carrier_shared && line_is_head(l);
    uint64_t all = seats_sum(l->ranks, asks ? shared_window_bytes(&l->opt) : 0);
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

static void begin(cl_line *l, cl_ranks *ranks, const cl_line_options *o)
{
    int member = ranks->rank - o->stage_first;
    if (member < 0 || member >= o->members)
        CL_BUG("line: rank %d is not in the stage of ranks %d + %d", ranks->rank, o->stage_first, o->members);
    l->ranks = ranks;
    l->opt = *o;
    l->opt.carrier = cl_line_carrier(ranks, o);
    l->group = (cl_group){.member = member, .members = o->members, .ctx = l};
    l->posted = l->result_bytes = -1;
    l->source = member ? -1 : o->prev;
    l->recv = l->result_recv = MPI_REQUEST_NULL;
    l->hop_capacity = cl_line_hop_most(&o->limits);
    l->n_hops = hops_count(&l->opt, member);
    for (int i = 0; i < HOPS; i++) l->hops[i] = (hop_slot){.send = MPI_REQUEST_NULL, .hop = {.index = i}};
    for (int i = 0; i < RESULT_SLOTS; i++) l->result_send[i] = MPI_REQUEST_NULL;
}

static cl_code make(cl_line *l, cl_err *err)
{
    cl_code c = cl_ranks_agree(l->ranks, check(l, err), err);
    if (c != CL_OK) return c;
    l->carrier = carrier_of(&l->opt);
    c = cl_ranks_agree(l->ranks, check_room(l, err), err);
    if (c != CL_OK) {
        l->carrier = NULL;
        return c;
    }
    l->group.gather = l->carrier->gather;
    c = l->carrier->open(l, err);
    if (c == CL_OK) c = results_open(l, err);
    c = cl_ranks_agree(l->ranks, c, err);
    if (c == CL_OK) l->ranks->move = hops_move, l->ranks->move_ctx = l;
    return c;
}

cl_code cl_line_open(cl_line **out, cl_ranks *ranks, const cl_line_options *opt, cl_err *err)
{
    cl_line *l = cl_calloc(1, sizeof *l, "line", err);
    cl_code c = cl_ranks_agree(ranks, l ? CL_OK : CL_E_FIT, err);
    if (c == CL_OK) {
        begin(l, ranks, opt);
        c = make(l, err);
    }
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
    if (l->carrier) {
        cl_ranks_barrier(l->ranks); /* what a stage shares is given back by all of it at once */
        line_cancel(l, &l->recv);
        line_cancel(l, &l->result_recv);
        l->carrier->close(l);
    }
    results_close(l);
    free(l);
}

/* --- what it takes --- */

static size_t buffer_bytes(const cl_line_options *opt, int rank, cl_carrier how)
{
    cl_line_options o = *opt;
    o.carrier = how;
    return carrier_of(&o)->bytes(&o, rank - o.stage_first) + results_bytes(&o, rank);
}

size_t cl_line_bytes(const cl_line_options *o, int rank)
{
    size_t shared = buffer_bytes(o, rank, CL_CARRIER_SHARED), messages = buffer_bytes(o, rank, CL_CARRIER_MESSAGES);
    if (o->carrier == CL_CARRIER_AUTO) return shared > messages ? shared : messages;
    return o->carrier == CL_CARRIER_SHARED ? shared : messages;
}

const cl_group *cl_line_group(const cl_line *l) { return &l->group; }
bool cl_line_shared(const cl_line *l) { return l->carrier == &carrier_shared; }
uint64_t cl_line_wait_ns(const cl_line *l) { return l->wait_ns; }
