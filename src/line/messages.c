/* messages.c: a carrier: chips of a stage that send each other their numbers, each with a memory of its own: parts
 * are packed, sent and unpacked.
 *
 * What goes to every other member alike is packed once; what is meant for one member (some columns of some rows, or a
 * region that only it needs) is packed for it. So two members send each other two messages at most, none of them
 * empty, and no number is packed twice: a gather carries no more than the exchange memory and a hop's activations
 * hold, and staging has room for that. */
#include <stdlib.h>

#include "line_internal.h"

enum { COMMON, PRIVATE, SORTS };

static int sort_of(const cl_region *r) { return r->to >= 0 || (r->owner && r->cut) ? PRIVATE : COMMON; }

/* The columns of r that `from` has made and `dest` needs. */
static int columns(const cl_region *r, int from, int dest, int *first)
{
    int by = r->owner ? dest : from;
    *first = r->cut ? r->cut[by] : 0;
    if (from == dest || (r->to >= 0 && r->to != dest)) return 0;
    return r->cut ? r->cut[by + 1] - r->cut[by] : r->width;
}

/* Numbers of this sort that `from` sends to `dest`. */
static size_t count(const cl_region *regions, int n, int sort, int from, int dest)
{
    size_t sum = 0;
    for (int k = 0; k < n; k++) {
        const cl_region *r = &regions[k];
        int first, width = sort_of(r) == sort ? columns(r, from, dest, &first) : 0, rows = r->rows;
        for (int i = 0; width && r->owner && i < r->rows; i++) rows -= r->owner[i] != from;
        sum += (size_t)width * (size_t)rows;
    }
    return sum;
}

/* Moves them from the regions into `packed`, or back; returns how many. */
static size_t move(const cl_region *regions, int n, int sort, int from, int dest, float *packed, bool pack)
{
    float *at = packed;
    for (int k = 0; k < n; k++) {
        const cl_region *r = &regions[k];
        int first, width = sort_of(r) == sort ? columns(r, from, dest, &first) : 0;
        for (int i = 0; width && i < r->rows; i++) {
            if (r->owner && r->owner[i] != from) continue;
            float *row = (float *)r->data + (size_t)i * r->stride + first;
            memcpy(pack ? at : row, pack ? row : at, (size_t)width * sizeof *row);
            at += width;
        }
    }
    return (size_t)(at - packed);
}

/* --- the gather --- */

/* One call under way. */
typedef struct exchange {
    cl_line *l;
    const cl_region *regions;
    int n;
    size_t in, out; /* numbers that come and go */
} exchange;

static MPI_Request *request(const cl_line *l, bool out, int sort, int member)
{
    int others = l->group.members - 1, other = member < l->group.member ? member : member - 1;
    return &l->messages.requests[((out ? SORTS : 0) + sort) * others + other];
}

static int rank_of(const cl_line *l, int member) { return l->opt.stage_first + member; }

static void post_receives(exchange *e)
{
    cl_line *l = e->l;
    for (int m = 0; m < l->group.members; m++)
        for (int sort = 0; sort < SORTS && m != l->group.member; sort++) {
            size_t n = count(e->regions, e->n, sort, m, l->group.member);
            if (!n) continue;
            if (n > l->messages.capacity - e->in)
                CL_BUG("line: a gather brings more numbers than the exchange memory has");
            MPI_TRY(l->ranks, MPI_Irecv(l->messages.in + e->in, (int)n, MPI_FLOAT, rank_of(l, m), TAG_GATHER,
                                        l->ranks->comm, request(l, false, sort, m)));
            e->in += n;
        }
}

/* Packs what goes to `dest` (what goes to all: to any of them), after what is packed already; returns its place. */
static float *pack(exchange *e, int sort, int dest, size_t *n)
{
    const cl_line *l = e->l;
    *n = count(e->regions, e->n, sort, l->group.member, dest);
    if (*n > l->messages.capacity - e->out) CL_BUG("line: a gather sends more numbers than the exchange memory has");
    float *at = l->messages.out + e->out;
    move(e->regions, e->n, sort, l->group.member, dest, at, true);
    e->out += *n;
    return at;
}

static void send(cl_line *l, const float *numbers, size_t n, int sort, int member)
{
    MPI_TRY(l->ranks, MPI_Isend(numbers, (int)n, MPI_FLOAT, rank_of(l, member), TAG_GATHER, l->ranks->comm,
                                request(l, true, sort, member)));
}

static void post_sends(exchange *e)
{
    cl_line *l = e->l;
    int me = l->group.member;
    size_t n_common, n_private;
    const float *common = pack(e, COMMON, me ? 0 : 1, &n_common);
    for (int m = 0; m < l->group.members; m++) {
        if (m == me) continue;
        if (n_common) send(l, common, n_common, COMMON, m);
        const float *private = pack(e, PRIVATE, m, &n_private);
        if (n_private) send(l, private, n_private, PRIVATE, m);
    }
}

static void take_in(exchange *e)
{
    cl_line *l = e->l;
    const float *at = l->messages.in;
    for (int m = 0; m < l->group.members; m++)
        for (int sort = 0; sort < SORTS && m != l->group.member; sort++) {
            MPI_Request *r = request(l, false, sort, m);
            if (*r == MPI_REQUEST_NULL) continue;
            MPI_Status status;
            int got = 0;
            wait_one(l->ranks, r, &status, "numbers of", rank_of(l, m));
            MPI_TRY(l->ranks, MPI_Get_count(&status, MPI_FLOAT, &got));
            size_t n = move(e->regions, e->n, sort, m, l->group.member, (float *)at, false);
            if (n != (size_t)got)
                cl_ranks_abort(l->ranks, CL_E_RUN,
                               "rank %d: %d numbers of rank %d in a gather, not %zu (a bug: please report it)",
                               l->ranks->rank, got, rank_of(l, m), n);
            at += n;
        }
}

static uint64_t gather(void *ctx, const cl_region *regions, int n)
{
    cl_line *l = ctx;
    if (l->group.members == 1) return 0;
    exchange e = {.l = l, .regions = regions, .n = n};
    post_receives(&e);
    post_sends(&e);
    uint64_t t0 = cl_now_ns();
    take_in(&e);
    for (int m = 0; m < l->group.members; m++)
        for (int sort = 0; sort < SORTS && m != l->group.member; sort++)
            wait_one(l->ranks, request(l, true, sort, m), MPI_STATUS_IGNORE, "numbers to reach", rank_of(l, m));
    l->wait_ns += cl_now_ns() - t0;
    return e.in * sizeof(float);
}

/* --- buffers --- */

static size_t capacity(const cl_line_options *o)
{
    return o->exchange_bytes / sizeof(float) + (size_t)o->limits.chunk * (size_t)o->limits.hidden;
}

static size_t n_requests(const cl_line_options *o) { return 2 * SORTS * ((size_t)o->members - 1); }

static size_t bytes(const cl_line_options *o, int member)
{
    size_t sum = (size_t)hops_count(o, member) * cl_line_hop_most(&o->limits) + o->exchange_bytes;
    if (o->members == 1) return sum;
    return sum + 2 * capacity(o) * sizeof(float) +
           (n_requests(o) + (member ? 0 : HOPS * ((size_t)o->members - 1))) * sizeof(MPI_Request);
}

static MPI_Request *no_requests(cl_line *l, size_t n, cl_err *err)
{
    MPI_Request *r = cl_malloc(n, sizeof *r, "requests", err);
    for (size_t i = 0; r && i < n; i++) r[i] = MPI_REQUEST_NULL;
    if (r) l->allocated += n * sizeof *r;
    return r;
}

static cl_code open_staging(cl_line *l, cl_err *err)
{
    message_buffers *b = &l->messages;
    size_t others = (size_t)l->group.members - 1;
    b->capacity = capacity(&l->opt);
    if (b->capacity > INT32_MAX / sizeof(float))
        return cl_fail(
            err, CL_E_FIT,
            "line: the chips of a stage exchange up to %zu bytes at once, a message holds at most 2 GB (use a smaller "
            "--chunk)",
            b->capacity * sizeof(float));
    if (!(b->in = line_alloc(l, b->capacity * sizeof(float), "buffer for numbers of other chips", err)))
        return CL_E_FIT;
    if (!(b->out = line_alloc(l, b->capacity * sizeof(float), "buffer for numbers to other chips", err)))
        return CL_E_FIT;
    if (!(b->requests = no_requests(l, n_requests(&l->opt), err))) return CL_E_FIT;
    if (!line_is_head(l)) return CL_OK;
    if (!(b->to_members = no_requests(l, HOPS * others, err))) return CL_E_FIT;
    for (size_t i = 0; i < HOPS; i++) l->hops[i].to_members = b->to_members + i * others;
    return CL_OK;
}

static cl_code open(cl_line *l, cl_err *err)
{
    for (int i = 0; i < l->n_hops; i++)
        if (!(l->hops[i].data = line_alloc(l, l->hop_capacity, "hand-over buffer", err))) return CL_E_FIT;
    if (!(l->group.memory = line_alloc(l, l->opt.exchange_bytes, "exchange memory", err))) return CL_E_FIT;
    if (!line_is_head(l)) l->source = l->opt.stage_first;
    return l->group.members == 1 ? CL_OK : open_staging(l, err);
}

static void close(cl_line *l)
{
    message_buffers *b = &l->messages;
    for (int i = 0; i < l->n_hops; i++) cl_free_aligned(l->hops[i].data, l->hop_capacity);
    cl_free_aligned(l->group.memory, l->opt.exchange_bytes);
    cl_free_aligned(b->in, b->capacity * sizeof(float));
    cl_free_aligned(b->out, b->capacity * sizeof(float));
    free(b->requests);
    free(b->to_members);
}

/* --- hand-overs --- */

static int user(cl_line *l, int index)
{
    for (int m = 1; m < l->group.members; m++)
        if (!wait_is_done(l->ranks, &l->hops[index].to_members[m - 1])) return m;
    return 0;
}

static void await_users(cl_line *l, int index)
{
    for (int m = 1; m < l->group.members; m++)
        wait_one(l->ranks, &l->hops[index].to_members[m - 1], MPI_STATUS_IGNORE, "a micro-batch to reach",
                 rank_of(l, m));
}

/* Activations are computed on in place, so where they are sent they must have arrived before this chip goes on; the
 * others can do nothing without them anyway. */
static void give(cl_line *l, int index, size_t n, bool with_x)
{
    const hop_slot *s = &l->hops[index];
    for (int m = 1; m < l->group.members; m++)
        MPI_TRY(l->ranks,
                MPI_Isend(s->data, (int)n, MPI_BYTE, rank_of(l, m), TAG_HOP, l->ranks->comm, &s->to_members[m - 1]));
    if (with_x) await_users(l, index);
}

static void finish(cl_line *l, int index) {}

const carrier_table carrier_messages = {.bytes = bytes,
                                        .open = open,
                                        .close = close,
                                        .gather = gather,
                                        .give = give,
                                        .next = hops_received,
                                        .finish = finish,
                                        .user = user,
                                        .await_users = await_users};
