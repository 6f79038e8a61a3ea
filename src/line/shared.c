/* shared.c: a carrier: chips of a stage that share memory: each writes its part where all can read it, and a gather
 * is a barrier. Nothing is copied.
 *
 * One window holds a block of counters, the hop buffers of the stage and the exchange memory. Counters only go up,
 * each has one writer: nothing is ever reset. Pages belong to whoever writes them first. */
#include <stdatomic.h>

#include "line_internal.h"

/* bytes: counters of different writers are not in one cache line, nor in a pair that is fetched together */
enum { APART = 128 };

typedef struct member_counters {
    _Alignas(APART) _Atomic uint64_t arrived; /* gathers that this member has come to */
    /* by hop buffer: the hand-over there that it has last finished with */
    _Alignas(APART) _Atomic uint64_t finished[HOPS];
} member_counters;

typedef struct shared_block {
    _Alignas(APART) _Atomic uint64_t given; /* hand-overs that the head chip has given to the others */
    struct {
        int32_t index, bytes;
    } order
        [HOPS]; /* hand-over number n, from 1, is at [n % HOPS]: all that are not finished are in different buffers */
    member_counters members[];
} shared_block;

/* --- the gather --- */

/* A region outside the window would not be seen by the others. */
static void check_place(const cl_line *l, const cl_region *r)
{
    const unsigned char *at = (const unsigned char *)r->data, *from = (const unsigned char *)l->shared.block;
    if (r->rows && (at < from || at > from + l->shared.bytes))
        CL_BUG("line: a gather of numbers outside the stage's memory");
}

/* A counter of another member that is waited for. */
typedef struct awaited_counter {
    const _Atomic uint64_t *counter;
    uint64_t value; /* it has come when it is at least that */
} awaited_counter;

static bool is_there(void *ctx)
{
    const awaited_counter *a = ctx;
    return atomic_load_explicit(a->counter, memory_order_acquire) >= a->value;
}

static void wait_for(cl_line *l, const _Atomic uint64_t *counter, uint64_t value, const char *what, int member)
{
    awaited_counter a = {counter, value};
    wait_until(l->ranks, is_there, &a, what, l->opt.stage_first + member);
}

/* All come before anyone goes. So a member that goes on knows that every other one is done with all that it does
 * before this gather: numbers that the others read only until now may be written over. */
static uint64_t gather(void *ctx, const cl_region *regions, int n)
{
    cl_line *l = ctx;
    member_counters *of = l->shared.block->members;
    uint64_t now = ++l->shared.arrived, bytes = 0, t0 = 0;
    int me = l->group.member, members = l->group.members;
    atomic_store_explicit(&of[me].arrived, now, memory_order_release);
    for (int i = 0; i < n; i++) {
        check_place(l, &regions[i]);
        bytes += cl_region_bytes(&regions[i], me, members);
    }
    for (int m = 0; m < members; m++) {
        if (m == me || atomic_load_explicit(&of[m].arrived, memory_order_acquire) >= now) continue;
        if (!t0) t0 = cl_now_ns();
        wait_for(l, &of[m].arrived, now, "numbers of", m);
    }
    if (t0) l->wait_ns += cl_now_ns() - t0;
    return bytes;
}

/* --- memory --- */

static size_t rounded(size_t bytes) { return (bytes + APART - 1) & ~(size_t)(APART - 1); }

static size_t block_bytes(const cl_line_options *o)
{
    return sizeof(shared_block) + (size_t)o->members * sizeof(member_counters);
}

static void set_up(cl_line *l, unsigned char *data)
{
    size_t at = rounded(block_bytes(&l->opt));
    l->shared.block = (shared_block *)(void *)data;
    if (line_is_head(l)) memset(data, 0, at);
    for (int i = 0; i < l->n_hops; i++, at += rounded(l->hop_capacity)) l->hops[i].data = data + at;
    l->group.memory = (float *)(void *)(data + at);
    l->shared.bytes = at + l->opt.exchange_bytes;
}

/* APART more: pages are aligned alike on all members, the window may be less. */
size_t shared_window_bytes(const cl_line_options *o)
{
    return rounded(block_bytes(o)) + (size_t)hops_count(o, 0) * rounded(cl_line_hop_most(&o->limits)) +
           rounded(o->exchange_bytes) + APART;
}

static size_t bytes(const cl_line_options *o, int member) { return shared_window_bytes(o); }

/* MPI makes a window for the ranks of a communicator: those of this stage. All ranks have agreed just before that
 * there is room for it. */
static void find_members(cl_line *l)
{
    MPI_Group all, stage;
    int first = l->opt.stage_first, range[1][3] = {{first, first + l->opt.members - 1, 1}};
    MPI_TRY(l->ranks, MPI_Comm_group(l->ranks->comm, &all));
    MPI_TRY(l->ranks, MPI_Group_range_incl(all, 1, range, &stage));
    MPI_TRY(l->ranks, MPI_Comm_create_group(l->ranks->comm, stage, 0, &l->shared.members));
    MPI_TRY(l->ranks, MPI_Comm_set_errhandler(l->shared.members, MPI_ERRORS_RETURN));
    MPI_TRY(l->ranks, MPI_Group_free(&stage));
    MPI_TRY(l->ranks, MPI_Group_free(&all));
}

static cl_code open(cl_line *l, cl_err *err)
{
    size_t bytes = shared_window_bytes(&l->opt);
    unsigned char *data = NULL;
    find_members(l);
    MPI_Aint own = line_is_head(l) ? (MPI_Aint)bytes : 0, size = 0;
    int unit = 0, n = 0;
    int code = MPI_Win_allocate_shared(own, 1, MPI_INFO_NULL, l->shared.members, &data, &l->shared.win);
    if (code != MPI_SUCCESS) { /* perhaps on this member alone, so that nothing can be agreed on */
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
    return CL_OK; /* the counters are 0 on the head chip; all ranks agree before anyone looks */
}

static void close(cl_line *l)
{
    MPI_TRY(l->ranks, MPI_Win_unlock_all(l->shared.win));
    MPI_TRY(l->ranks, MPI_Win_free(&l->shared.win)); /* waits for all members */
    MPI_TRY(l->ranks, MPI_Comm_free(&l->shared.members));
}

/* --- hand-overs --- */

static void give(cl_line *l, int index, size_t n_bytes, bool with_x)
{
    shared_block *b = l->shared.block;
    uint64_t n = ++l->shared.given;
    l->hops[index].given = n;
    b->order[n % HOPS].index = index;
    b->order[n % HOPS].bytes = (int32_t)n_bytes;
    atomic_store_explicit(&b->given, n, memory_order_release);
}

static int next(cl_line *l, int *n_bytes)
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

static void finish(cl_line *l, int index)
{
    member_counters *mine = &l->shared.block->members[l->group.member];
    atomic_store_explicit(&mine->finished[index], l->hops[index].given, memory_order_release);
}

static int user(cl_line *l, int index)
{
    const member_counters *of = l->shared.block->members;
    for (int m = 1; m < l->group.members; m++)
        if (atomic_load_explicit(&of[m].finished[index], memory_order_acquire) != l->hops[index].given) return m;
    return 0;
}

static void await_users(cl_line *l, int index)
{
    for (int m = 1; m < l->group.members; m++)
        wait_for(l, &l->shared.block->members[m].finished[index], l->hops[index].given,
                 "a micro-batch to be finished by", m);
}

const carrier_table carrier_shared = {.bytes = bytes,
                                      .open = open,
                                      .close = close,
                                      .gather = gather,
                                      .give = give,
                                      .next = next,
                                      .finish = finish,
                                      .user = user,
                                      .await_users = await_users};
