/* tree.c: collectives over a binomial tree of plain messages. The root is rank 0; the parent of a rank is the rank
 * without its lowest bit, so that a subtree is a run of ranks: r .. r + span - 1. Whoever waits, waits for its parent
 * or for one child. */
#include <stddef.h>
#include <stdlib.h>

#include "ranks_internal.h"

int tree_parent(int rank) { return rank & (rank - 1); }

int tree_span(int rank, int size)
{
    int low = rank & -rank;
    return !rank || low > size - rank ? size - rank : low;
}

/* A child is at each power of two inside the span. Small subtrees come first on the way up, large ones on the way
 * down: they take longest. */
#define EACH_CHILD_UP(r, step) (int step = 1; step < tree_span((r)->rank, (r)->size); step *= 2)
#define EACH_CHILD_DOWN(r, step) (int step = top_step(r); step; step /= 2)

static int top_step(const cl_ranks *r)
{
    int step = 1;
    while (step < tree_span(r->rank, r->size)) step *= 2;
    return step / 2;
}

static const char FROM[] = "word of", TO[] = "word to reach";

static void *room(cl_ranks *r, size_t n, size_t size)
{
    cl_err err;
    void *p = cl_malloc(n, size, "ranks that agree", &err);
    if (!p) cl_ranks_abort(r, CL_E_FIT, "rank %d: %s", r->rank, err.msg);
    return p;
}

/* --- agreement --- */

/* The lowest rank that fails, and what it says; only what is used travels. */
typedef struct verdict {
    int32_t failing; /* the job's size: none */
    int32_t code;
    char msg[sizeof(((cl_err *)0)->msg)];
} verdict;

static size_t verdict_bytes(const cl_ranks *r, const verdict *v)
{
    return offsetof(verdict, msg) + (v->failing < r->size ? strlen(v->msg) + 1 : 0);
}

static void recv_verdict(cl_ranks *r, verdict *v, int from, int tag)
{
    size_t bytes = wait_recv_most(r, v, sizeof *v, from, tag, FROM);
    if (bytes < offsetof(verdict, msg)) CL_BUG("line: a verdict of %zu bytes", bytes);
    v->msg[bytes == sizeof *v ? sizeof v->msg - 1 : bytes - offsetof(verdict, msg)] = 0;
}

cl_code cl_ranks_agree(cl_ranks *r, cl_code mine, cl_err *err)
{
    verdict v = {.failing = mine == CL_OK ? r->size : r->rank, .code = (int32_t)mine}, other;
    if (mine != CL_OK) snprintf(v.msg, sizeof v.msg, "%s", err->msg);
    for
        EACH_CHILD_UP(r, step)
        {
            recv_verdict(r, &other, r->rank + step, TAG_UP);
            if (other.failing < v.failing) v = other;
        }
    if (r->rank) {
        wait_send(r, &v, verdict_bytes(r, &v), tree_parent(r->rank), TAG_UP, TO);
        recv_verdict(r, &v, tree_parent(r->rank), TAG_DOWN);
    }
    for
        EACH_CHILD_DOWN(r, step) wait_send(r, &v, verdict_bytes(r, &v), r->rank + step, TAG_DOWN, TO);
    if (v.failing == r->size) return CL_OK;
    err->code = (cl_code)v.code;
    memcpy(err->msg, v.msg, sizeof err->msg);
    return err->code;
}

/* --- moving data --- */

void cl_ranks_barrier(cl_ranks *r)
{
    for
        EACH_CHILD_UP(r, step) wait_recv(r, NULL, 0, r->rank + step, TAG_UP, FROM);
    if (r->rank) {
        wait_send(r, NULL, 0, tree_parent(r->rank), TAG_UP, TO);
        wait_recv(r, NULL, 0, tree_parent(r->rank), TAG_DOWN, FROM);
    }
    for
        EACH_CHILD_DOWN(r, step) wait_send(r, NULL, 0, r->rank + step, TAG_DOWN, TO);
}

void cl_ranks_bcast(cl_ranks *r, void *data, size_t bytes)
{
    if (r->rank) wait_recv(r, data, bytes, tree_parent(r->rank), TAG_DOWN, FROM);
    for
        EACH_CHILD_DOWN(r, step) wait_send(r, data, bytes, r->rank + step, TAG_DOWN, TO);
}

cl_code cl_ranks_bcast_bytes(cl_ranks *r, void **data, size_t *bytes, cl_err *err)
{
    uint64_t n = *bytes;
    cl_ranks_bcast(r, &n, sizeof n);
    *bytes = n;
    if (r->rank) *data = n ? cl_malloc(1, n, "what rank 0 sends to all", err) : NULL;
    cl_code c = cl_ranks_agree(r, n && !*data ? CL_E_FIT : CL_OK, err);
    if (c == CL_OK) {
        if (n) cl_ranks_bcast(r, *data, n);
    } else if (r->rank) {
        free(*data);
        *data = NULL;
    }
    return c;
}

void cl_ranks_gather(cl_ranks *r, const void *mine, size_t bytes, void *all)
{
    int span = tree_span(r->rank, r->size);
    char *below = r->rank == 0 ? all : span > 1 ? room(r, (size_t)span, bytes) : NULL;
    if (below) memcpy(below, mine, bytes);
    for
        EACH_CHILD_UP(r, step)
        {
            size_t n = (size_t)tree_span(r->rank + step, r->size);
            wait_recv(r, below + (size_t)step * bytes, n * bytes, r->rank + step, TAG_UP, FROM);
        }
    if (!r->rank) return;
    wait_send(r, below ? below : mine, (size_t)span * bytes, tree_parent(r->rank), TAG_UP, TO);
    free(below);
}

void cl_ranks_sum(cl_ranks *r, uint64_t *values, int n)
{
    size_t bytes = (size_t)n * sizeof *values;
    uint64_t *sum = room(r, (size_t)n, sizeof *sum), *other = room(r, (size_t)n, sizeof *other);
    memcpy(sum, values, bytes);
    for
        EACH_CHILD_UP(r, step)
        {
            wait_recv(r, other, bytes, r->rank + step, TAG_UP, FROM);
            for (int i = 0; i < n; i++) sum[i] += other[i];
        }
    if (r->rank) wait_send(r, sum, bytes, tree_parent(r->rank), TAG_UP, TO);
    else memcpy(values, sum, bytes);
    free(sum);
    free(other);
}

void cl_ranks_max(cl_ranks *r, double *values, int n)
{
    size_t bytes = (size_t)n * sizeof *values;
    double *other = room(r, (size_t)n, sizeof *other);
    for
        EACH_CHILD_UP(r, step)
        {
            wait_recv(r, other, bytes, r->rank + step, TAG_UP, FROM);
            for (int i = 0; i < n; i++)
                if (other[i] > values[i]) values[i] = other[i];
        }
    if (r->rank) wait_send(r, values, bytes, tree_parent(r->rank), TAG_UP, TO);
    free(other);
    cl_ranks_bcast(r, values, bytes);
}

/* --- bulk --- */

void cl_ranks_send_bulk(cl_ranks *r, const void *data, size_t bytes)
{
    wait_send(r, data, bytes, 0, TAG_BULK, "bulk data to reach");
}

void cl_ranks_recv_bulk(cl_ranks *r, int from, void *data, size_t bytes)
{
    wait_recv(r, data, bytes, from, TAG_BULK, "bulk data of");
}
