/* shared.c: the memory that the chips of a domain share: each writes its part where all can read it, and a gather is a
 * barrier. Nothing is copied.
 *
 * One window holds a block of counters, the hop buffers of the domain and the exchange memory. Counters only go up,
 * each has one writer: nothing is ever reset. Pages belong to whoever writes them first. */
#include <stdatomic.h>
#include <stdlib.h>

#include "line_internal.h"

/* bytes: counters of different writers are not in one cache line, nor in a pair that is fetched together */
enum { APART = 128 };

typedef struct chip_counters {
    _Alignas(APART) _Atomic uint64_t arrived; /* gathers that this chip has come to */
    /* by hop buffer: the hand-over there that it has last finished with */
    _Alignas(APART) _Atomic uint64_t finished[HOPS];
} chip_counters;

typedef struct shared_block {
    _Alignas(APART) _Atomic uint64_t given; /* hand-overs that the leader has given to the others */
    struct {
        int32_t index, bytes;
    } order
        [HOPS]; /* hand-over number n, from 1, is at [n % HOPS]: all that are not finished are in different buffers */
    _Alignas(APART) _Atomic uint64_t let_go; /* gathers that the leader has brought to an end */
    chip_counters chips[];                   /* [chips of the domain] */
} shared_block;

/* --- gathers --- */

/* A region outside the window would not be seen by the others. */
void shared_check_place(const cl_line *l, const cl_region *r)
{
    const unsigned char *at = (const unsigned char *)r->data, *from = (const unsigned char *)l->shared.block;
    if (r->rows && (at < from || at > from + l->shared.bytes))
        CL_BUG("line: a gather of numbers outside the stage's memory");
}

/* A counter of another chip that is waited for. */
typedef struct awaited_counter {
    const _Atomic uint64_t *counter;
    uint64_t value; /* it has come when it is at least that */
} awaited_counter;

static bool is_there(void *ctx)
{
    const awaited_counter *a = ctx;
    return atomic_load_explicit(a->counter, memory_order_acquire) >= a->value;
}

static void wait_for(cl_line *l, const _Atomic uint64_t *counter, uint64_t value, const char *what, int index)
{
    awaited_counter a = {counter, value};
    wait_until(l->ranks, is_there, &a, what, line_rank_here(l, index));
}

/* The same, and the time is counted if it takes any. */
static void wait_counting(cl_line *l, const _Atomic uint64_t *counter, uint64_t value, int index, uint64_t *t0)
{
    if (atomic_load_explicit(counter, memory_order_acquire) >= value) return;
    if (!*t0) *t0 = cl_now_ns();
    wait_for(l, counter, value, "numbers of", index);
}

void shared_arrive(cl_line *l)
{
    atomic_store_explicit(&l->shared.block->chips[l->index].arrived, ++l->shared.arrived, memory_order_release);
}

/* All come before anyone goes. So a chip that goes on knows that every other one is done with all that it does before
 * this gather: numbers that the others read only until now may be written over. */
void shared_await_arrived(cl_line *l)
{
    uint64_t t0 = 0;
    for (int i = 0; i < line_domain_size(l); i++)
        if (i != l->index) wait_counting(l, &l->shared.block->chips[i].arrived, l->shared.arrived, i, &t0);
    if (t0) l->wait_ns += cl_now_ns() - t0;
}

void shared_let_go(cl_line *l)
{
    atomic_store_explicit(&l->shared.block->let_go, l->shared.arrived, memory_order_release);
}

void shared_await_leader(cl_line *l)
{
    uint64_t t0 = 0;
    wait_counting(l, &l->shared.block->let_go, l->shared.arrived, 0, &t0);
    if (t0) l->wait_ns += cl_now_ns() - t0;
}

/* --- memory --- */

static size_t rounded(size_t bytes) { return (bytes + APART - 1) & ~(size_t)(APART - 1); }

static size_t block_bytes(int chips) { return sizeof(shared_block) + (size_t)chips * sizeof(chip_counters); }

static void set_up(cl_line *l, unsigned char *data)
{
    size_t at = rounded(block_bytes(line_domain_size(l)));
    l->shared.block = (shared_block *)(void *)data;
    if (line_leads(l)) memset(data, 0, at);
    for (int i = 0; i < l->n_hops; i++, at += rounded(l->hop_capacity)) l->hops[i].data = data + at;
    l->group.memory = (float *)(void *)(data + at);
    l->shared.bytes = at + l->opt.exchange_bytes;
}

/* APART more: pages are aligned alike on all chips, the window may be less. */
size_t shared_window_bytes(const cl_line_options *o, int chips)
{
    return rounded(block_bytes(chips)) + (size_t)hops_count(o, chips) * rounded(cl_line_hop_most(&o->limits)) +
           rounded(o->exchange_bytes) + APART;
}

/* MPI makes a window for the ranks of a communicator: those of this domain. All ranks have agreed just before that
 * there is room for it. */
static void find_members(cl_line *l)
{
    MPI_Group all, domain;
    cl_err err;
    const int n = line_domain_size(l);
    int *ranks = cl_malloc((size_t)n, sizeof *ranks, "chips that share memory", &err);
    if (!ranks) cl_ranks_abort(l->ranks, CL_E_FIT, "rank %d: %s", l->ranks->rank, err.msg);
    for (int i = 0; i < n; i++) ranks[i] = line_rank_here(l, i);
    MPI_TRY(l->ranks, MPI_Comm_group(l->ranks->comm, &all));
    MPI_TRY(l->ranks, MPI_Group_incl(all, n, ranks, &domain));
    MPI_TRY(l->ranks, MPI_Comm_create_group(l->ranks->comm, domain, 0, &l->shared.members));
    MPI_TRY(l->ranks, MPI_Comm_set_errhandler(l->shared.members, MPI_ERRORS_RETURN));
    MPI_TRY(l->ranks, MPI_Group_free(&domain));
    MPI_TRY(l->ranks, MPI_Group_free(&all));
    free(ranks);
}

void shared_open(cl_line *l)
{
    size_t bytes = shared_window_bytes(&l->opt, line_domain_size(l));
    unsigned char *data = NULL;
    find_members(l);
    MPI_Aint own = line_leads(l) ? (MPI_Aint)bytes : 0, size = 0;
    int unit = 0, n = 0;
    int code = MPI_Win_allocate_shared(own, 1, MPI_INFO_NULL, l->shared.members, &data, &l->shared.win);
    if (code != MPI_SUCCESS) { /* perhaps on this chip alone, so that nothing can be agreed on */
        char text[MPI_MAX_ERROR_STRING] = "";
        MPI_Error_string(code, text, &n);
        cl_ranks_abort(l->ranks, CL_E_FIT,
                       "line: cannot get %zu bytes of shared memory for a stage: %s (--gather messages does without)",
                       bytes, text);
    }
    MPI_TRY(l->ranks, MPI_Win_set_errhandler(l->shared.win, MPI_ERRORS_RETURN));
    MPI_TRY(l->ranks, MPI_Win_shared_query(l->shared.win, 0, &size, &unit, &data));
    MPI_TRY(l->ranks, MPI_Win_lock_all(MPI_MODE_NOCHECK, l->shared.win));
    l->allocated += bytes;
    set_up(l, data + (APART - (uintptr_t)data % APART) % APART);
    /* the counters are 0 on the leader; all ranks agree before anyone looks */
}

void shared_close(cl_line *l)
{
    MPI_TRY(l->ranks, MPI_Win_unlock_all(l->shared.win));
    MPI_TRY(l->ranks, MPI_Win_free(&l->shared.win)); /* waits for all of the domain */
    MPI_TRY(l->ranks, MPI_Comm_free(&l->shared.members));
}

/* --- hand-overs --- */

void shared_give(cl_line *l, int index, size_t n_bytes)
{
    shared_block *b = l->shared.block;
    uint64_t n = ++l->shared.given;
    l->hops[index].given = n;
    b->order[n % HOPS].index = index;
    b->order[n % HOPS].bytes = (int32_t)n_bytes;
    atomic_store_explicit(&b->given, n, memory_order_release);
}

int shared_next(cl_line *l, int *n_bytes)
{
    const shared_block *b = l->shared.block;
    uint64_t n = ++l->shared.given;
    wait_for(l, &b->given, n, "a micro-batch from", 0);
    int index = b->order[n % HOPS].index;
    if (index < 0 || index >= l->n_hops) CL_BUG("line: hop buffer %d of %d", index, l->n_hops);
    *n_bytes = b->order[n % HOPS].bytes;
    l->hops[index].given = n;
    return index;
}

void shared_finish(cl_line *l, int index)
{
    chip_counters *mine = &l->shared.block->chips[l->index];
    atomic_store_explicit(&mine->finished[index], l->hops[index].given, memory_order_release);
}

int shared_user(const cl_line *l, int index)
{
    for (int i = 1; line_leads(l) && i < line_domain_size(l); i++)
        if (atomic_load_explicit(&l->shared.block->chips[i].finished[index], memory_order_acquire) !=
            l->hops[index].given)
            return i;
    return 0;
}

void shared_await_users(cl_line *l, int index)
{
    for (int i = 1; line_leads(l) && i < line_domain_size(l); i++)
        wait_for(l, &l->shared.block->chips[i].finished[index], l->hops[index].given, "a micro-batch to be finished by",
                 i);
}
