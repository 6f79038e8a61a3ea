/* messages.c: the domains of a stage send each other their numbers: what group.h says goes in rounds, up a tree, or
 * straight. Leaders do it. What a message holds follows from the regions, which all know: none is empty, none says how
 * long it is. */
#include <stdlib.h>

#include "line_internal.h"
#include "pack.h"

/* One call under way. */
typedef struct exchange {
    cl_line *l;
    packing p;
    int n, me;         /* domains; this one */
    float *packed;     /* [capacity] */
    size_t used;       /* numbers there */
    int n_sends;       /* requests[0 .. n_sends - 1]; receives come behind [n] */
    uint32_t messages; /* that have come */
    uint64_t t0;       /* the first wait; 0: none yet */
} exchange;

static int after(const exchange *e, int domain, int steps) { return (int)(((int64_t)domain + steps) % e->n); }
static int ahead(const exchange *e, int domain, int steps) { return after(e, domain, e->n - steps); }

/* Room for so many numbers more. */
static float *room(exchange *e, size_t numbers)
{
    if (numbers > e->l->messages.capacity - e->used)
        CL_BUG("line: a gather of more numbers than the exchange memory has");
    float *at = e->packed + e->used;
    e->used += numbers;
    return at;
}

static void send(exchange *e, const float *numbers, size_t n, int domain)
{
    const int rank = line_rank_leading(e->l, domain);
    if (!n) return;
    e->l->messages.peers[e->n_sends] = rank;
    MPI_TRY(e->l->ranks, MPI_Isend(numbers, (int)n, MPI_FLOAT, rank, TAG_GATHER, e->l->ranks->comm,
                                   &e->l->messages.requests[e->n_sends++]));
}

static MPI_Request post(exchange *e, float *numbers, size_t n, int domain)
{
    MPI_Request r = MPI_REQUEST_NULL;
    if (n)
        MPI_TRY(e->l->ranks, MPI_Irecv(numbers, (int)n, MPI_FLOAT, line_rank_leading(e->l, domain), TAG_GATHER,
                                       e->l->ranks->comm, &r));
    return r;
}

static void await(exchange *e, MPI_Request *r, size_t n, int domain)
{
    MPI_Status status;
    const int rank = line_rank_leading(e->l, domain);
    int got = 0;
    if (!n) return;
    if (!e->t0) e->t0 = cl_now_ns();
    wait_one(e->l->ranks, r, &status, "numbers of", rank);
    MPI_TRY(e->l->ranks, MPI_Get_count(&status, MPI_FLOAT, &got));
    if (n != (size_t)got)
        cl_ranks_abort(e->l->ranks, CL_E_RUN,
                       "rank %d: %d numbers of rank %d in a gather, not %zu (a bug: please report it)",
                       e->l->ranks->rank, got, rank, n);
    e->messages++;
}

/* All that was sent has left; the packed numbers are of no use any more. */
static void finish(exchange *e)
{
    message_buffers *b = &e->l->messages;
    if (e->n_sends && !e->t0) e->t0 = cl_now_ns();
    for (int i = 0; i < e->n_sends; i++)
        wait_one(e->l->ranks, &b->requests[i], MPI_STATUS_IGNORE, "numbers to reach", b->peers[i]);
    e->n_sends = 0;
    e->used = 0;
}

/* --- what all need: Bruck's rounds --- */

/* The packed numbers are the blocks of this domain, of the one after it, and so on: what is passed on is always their
 * beginning. */
static void share_all(exchange *e)
{
    size_t *of = e->l->messages.numbers, all = 0;
    for (int d = 0; d < e->n; d++) all += of[d] = pack_count(&e->p, d, -1);
    if (!all) return;
    pack(&e->p, e->me, -1, room(e, of[e->me]));
    for (int step = 1; step < e->n; step *= 2) {
        const int blocks = step < e->n - step ? step : e->n - step, from = after(e, e->me, step);
        size_t out = 0, in = 0;
        for (int j = 0; j < blocks; j++) out += of[after(e, e->me, j)], in += of[after(e, from, j)];
        MPI_Request r = post(e, room(e, in), in, from);
        send(e, e->packed, out, ahead(e, e->me, step));
        await(e, &r, in, from);
    }
    const float *at = e->packed + of[e->me];
    for (int j = 1; j < e->n; j++) at += unpack(&e->p, after(e, e->me, j), -1, at);
    finish(e);
}

/* --- what one chip needs: up a binomial tree --- */

/* A domain's subtree are the domains behind it, counted from the one whose chip it is for. */
static void bring_to(exchange *e, int member)
{
    size_t *of = e->l->messages.numbers;
    e->p.to = member;
    const int root = e->p.domains->of[member], place = ahead(e, e->me, root);
    for (int d = 0; d < e->n; d++) of[d] = d == root ? 0 : pack_count(&e->p, d, -1);
    if (place) pack(&e->p, e->me, -1, room(e, of[e->me]));
    for (int step = 1; step < e->n; step *= 2) {
        if (place & step) {
            send(e, e->packed, e->used, ahead(e, e->me, step));
            break;
        }
        size_t in = 0;
        for (int j = step; j < 2 * step && place + j < e->n; j++) in += of[after(e, e->me, j)];
        MPI_Request r = post(e, room(e, in), in, after(e, e->me, step));
        await(e, &r, in, after(e, e->me, step));
    }
    const float *at = e->packed;
    for (int j = 1; !place && j < e->n; j++) at += unpack(&e->p, after(e, e->me, j), -1, at);
    finish(e);
}

/* Regions for the same member go together. */
static void bring_each(exchange *e)
{
    for (int k = 0; k < e->p.n; k++) {
        bool first = e->p.regions[k].to >= 0;
        for (int i = 0; first && i < k; i++) first = e->p.regions[i].to != e->p.regions[k].to;
        if (first) bring_to(e, e->p.regions[k].to);
    }
}

/* --- rows of which each chip needs its columns --- */

static void send_straight(exchange *e)
{
    MPI_Request *in = e->l->messages.requests + e->n;
    size_t *of = e->l->messages.numbers;
    for (int j = 1; j < e->n; j++) {
        const int from = ahead(e, e->me, j);
        of[from] = pack_count(&e->p, from, e->me);
        in[from] = post(e, room(e, of[from]), of[from], from);
    }
    for (int j = 1; j < e->n; j++) {
        const int to = after(e, e->me, j);
        float *at = room(e, pack_count(&e->p, e->me, to));
        send(e, at, pack(&e->p, e->me, to, at), to);
    }
    const float *at = e->packed;
    for (int j = 1; j < e->n; j++) {
        const int from = ahead(e, e->me, j);
        await(e, &in[from], of[from], from);
        at += unpack(&e->p, from, e->me, at);
    }
    finish(e);
}

/* Block j goes j domains on, by 2^k in round k if j has that bit. Before the round the block j that is here has come
 * from as many domains back as the bits below say. */
static size_t block_numbers(const exchange *e, int here, int j, int step)
{
    const int from = ahead(e, here, j & (step - 1));
    return pack_count(&e->p, from, after(e, from, j));
}

static void send_in_rounds(exchange *e)
{
    size_t *of = e->l->messages.numbers, *place = e->l->messages.places;
    for (int j = 1; j < e->n; j++) {
        const int to = after(e, e->me, j);
        of[j] = pack_count(&e->p, e->me, to);
        place[j] = e->used;
        pack(&e->p, e->me, to, room(e, of[j]));
    }
    for (int step = 1; step < e->n; step *= 2) {
        const int from = ahead(e, e->me, step);
        const float *out = e->packed + e->used;
        size_t n_out = 0, n_in = 0;
        for (int j = 1; j < e->n; j++) {
            if (!(j & step)) continue;
            memcpy(room(e, of[j]), e->packed + place[j], of[j] * sizeof *out);
            n_out += of[j];
        }
        const size_t came = e->used;
        for (int j = 1; j < e->n; j++) {
            if (!(j & step)) continue;
            of[j] = block_numbers(e, from, j, step);
            place[j] = came + n_in;
            n_in += of[j];
        }
        MPI_Request r = post(e, room(e, n_in), n_in, from);
        send(e, out, n_out, after(e, e->me, step));
        await(e, &r, n_in, from);
    }
    for (int j = 1; j < e->n; j++) unpack(&e->p, ahead(e, e->me, j), e->me, e->packed + place[j]);
    finish(e);
}

static void share_own(exchange *e)
{
    uint64_t numbers = 0;
    for (int k = 0; k < e->p.n; k++) {
        const cl_region *r = &e->p.regions[k];
        if (r->to < 0 && r->owner && r->cut)
            numbers += (uint64_t)r->rows * (uint64_t)(r->cut[e->l->group.members] - r->cut[0]);
    }
    if (!numbers) return;
    /* each round has at most all of them coming, and those that go are packed once more */
    const uint64_t most = (2 * (uint64_t)cl_exchange_rounds(e->n) + 1) * numbers;
    if (cl_exchange_in_rounds(e->n, 4 * numbers) && most <= e->l->messages.capacity) send_in_rounds(e);
    else send_straight(e);
}

uint32_t messages_exchange(cl_line *l, const cl_region *regions, int n)
{
    message_buffers *b = &l->messages;
    if (n > CL_REGIONS_MOST) CL_BUG("line: a gather of %d regions", n);
    exchange e = {.l = l,
                  .p = {.domains = &l->domains, .regions = regions, .n = n, .rows = b->rows},
                  .n = l->domains.n,
                  .me = l->domain,
                  .packed = b->packed};
    pack_count_rows(&e.p, b->rows);
    e.p.sort = PACK_ALL;
    share_all(&e);
    e.p.sort = PACK_ONE;
    bring_each(&e);
    e.p.sort = PACK_OWN;
    share_own(&e);
    if (e.t0) l->wait_ns += cl_now_ns() - e.t0;
    return e.messages;
}

/* --- buffers --- */

/* Numbers. */
static size_t capacity_of(const cl_line_options *o)
{
    return o->exchange_bytes / sizeof(float) + (size_t)o->limits.chunk * (size_t)o->limits.hidden;
}

static size_t n_requests(int n) { return 2 * (size_t)n; }

static size_t other_bytes(int n)
{
    return n_requests(n) * sizeof(MPI_Request) +
           (size_t)n * (2 * sizeof(size_t) + (1 + CL_REGIONS_MOST) * sizeof(int32_t));
}

size_t messages_bytes(const cl_line_options *o, int n)
{
    return n > 1 ? capacity_of(o) * sizeof(float) + other_bytes(n) : 0;
}

cl_code messages_open(cl_line *l, cl_err *err)
{
    message_buffers *b = &l->messages;
    const size_t n = (size_t)l->domains.n;
    b->capacity = capacity_of(&l->opt);
    if (b->capacity > INT32_MAX / sizeof(float))
        return cl_fail(
            err, CL_E_FIT,
            "line: the chips of a stage exchange up to %zu bytes at once, a message holds at most 2 GB (use a smaller "
            "--chunk)",
            b->capacity * sizeof(float));
    b->packed = line_alloc(l, b->capacity * sizeof(float), "buffer for numbers of other chips", err);
    if (!b->packed) return CL_E_FIT;
    b->requests = cl_malloc(n_requests(l->domains.n), sizeof *b->requests, "requests", err);
    b->numbers = cl_malloc(n, sizeof *b->numbers, "sizes of messages", err);
    b->places = cl_malloc(n, sizeof *b->places, "places of messages", err);
    b->peers = cl_malloc(n, sizeof *b->peers, "requests", err);
    b->rows = cl_malloc(CL_REGIONS_MOST * n, sizeof *b->rows, "sizes of messages", err);
    if (!b->requests || !b->numbers || !b->places || !b->peers || !b->rows) return CL_E_FIT;
    l->allocated += other_bytes(l->domains.n);
    for (size_t i = 0; i < n_requests(l->domains.n); i++) b->requests[i] = MPI_REQUEST_NULL;
    return CL_OK;
}

void messages_close(cl_line *l)
{
    message_buffers *b = &l->messages;
    cl_free_aligned(b->packed, b->capacity * sizeof(float));
    free(b->requests);
    free(b->numbers);
    free(b->places);
    free(b->peers);
    free(b->rows);
}
