/* shared.c: chips of a stage that share memory: each writes its part where all can read it, and a gather is a
 * barrier. Nothing is copied.
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
        for (line_wait w = {0}; atomic_load_explicit(&of[m].arrived, memory_order_acquire) < now;)
            cl_line_wait_more(l, &w, "numbers of", l->opt.stage_first + m);
    }
    if (t0) l->wait_ns += cl_now_ns() - t0;
    return bytes;
}

/* --- memory --- */

static size_t rounded(size_t bytes) { return (bytes + APART - 1) & ~(size_t)(APART - 1); }

static size_t block_bytes(const cl_line *l)
{
    return sizeof(shared_block) + (size_t)l->group.members * sizeof(member_counters);
}

static void set_up(cl_line *l, unsigned char *data)
{
    size_t at = rounded(block_bytes(l));
    l->shared.block = (shared_block *)(void *)data;
    if (cl_line_is_head(l)) memset(data, 0, at);
    for (int i = 0; i < HOPS; i++, at += rounded(l->hop_capacity)) l->hops[i].data = data + at;
    l->group.memory = (float *)(void *)(data + at);
    l->group.gather = gather;
    l->shared.bytes = at + l->opt.exchange_bytes;
}

/* The last: pages are aligned alike on all members, the window may be less. */
size_t cl_line_shared_bytes(const cl_line *l)
{
    return rounded(block_bytes(l)) + HOPS * rounded(l->hop_capacity) + rounded(l->opt.exchange_bytes) + APART;
}

cl_code cl_line_shared_open(cl_line *l, cl_err *err)
{
    size_t bytes = cl_line_shared_bytes(l);
    unsigned char *data = NULL;
    MPI_Aint own = cl_line_is_head(l) ? (MPI_Aint)bytes : 0, size = 0;
    int unit = 0, n = 0, code = MPI_Win_allocate_shared(own, 1, MPI_INFO_NULL, l->stage, &data, &l->shared.win);
    if (code != MPI_SUCCESS) { /* perhaps on this member alone, so that nothing can be agreed on */
        char text[MPI_MAX_ERROR_STRING] = "";
        MPI_Error_string(code, text, &n);
        cl_line_abort(l, CL_E_FIT,
                      "line: cannot get %zu bytes of shared memory for a stage: %s (--gather messages does without)",
                      bytes, text);
    }
    MPI_TRY(l, MPI_Win_set_errhandler(l->shared.win, MPI_ERRORS_RETURN));
    MPI_TRY(l, MPI_Win_shared_query(l->shared.win, 0, &size, &unit, &data));
    MPI_TRY(l, MPI_Win_lock_all(MPI_MODE_NOCHECK, l->shared.win));
    set_up(l, data + (APART - (uintptr_t)data % APART) % APART);
    MPI_TRY(l, MPI_Barrier(l->stage)); /* the counters are 0 */
    return CL_OK;
}

void cl_line_shared_close(cl_line *l)
{
    MPI_TRY(l, MPI_Win_unlock_all(l->shared.win));
    MPI_TRY(l, MPI_Win_free(&l->shared.win)); /* waits for all members */
    l->shared = (shared_memory){0};
    for (int i = 0; i < HOPS; i++) l->hops[i].data = NULL;
}

/* --- hand-overs --- */

void cl_line_shared_give(cl_line *l, int index, size_t bytes)
{
    shared_block *b = l->shared.block;
    uint64_t n = ++l->shared.given;
    l->hops[index].given = n;
    b->order[n % HOPS].index = index;
    b->order[n % HOPS].bytes = (int32_t)bytes;
    atomic_store_explicit(&b->given, n, memory_order_release);
}

int cl_line_shared_next(cl_line *l, int *bytes)
{
    const shared_block *b = l->shared.block;
    uint64_t n = ++l->shared.given;
    for (line_wait w = {0}; atomic_load_explicit(&b->given, memory_order_acquire) < n;)
        cl_line_wait_more(l, &w, "a micro-batch from", l->opt.stage_first);
    int index = b->order[n % HOPS].index;
    if (index < 0 || index >= HOPS) CL_BUG("line: hop buffer %d of %d", index, HOPS);
    *bytes = b->order[n % HOPS].bytes;
    l->hops[index].given = n;
    return index;
}

void cl_line_shared_finish(cl_line *l, int index)
{
    member_counters *mine = &l->shared.block->members[l->group.member];
    atomic_store_explicit(&mine->finished[index], l->hops[index].given, memory_order_release);
}

int cl_line_shared_user(const cl_line *l, int index)
{
    const member_counters *of = l->shared.block->members;
    for (int m = 1; m < l->group.members; m++)
        if (atomic_load_explicit(&of[m].finished[index], memory_order_acquire) != l->hops[index].given) return m;
    return 0;
}
