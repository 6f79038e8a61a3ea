/* tok_merge.c: merges the symbols of one piece, lowest rank first, leftmost first among equals.
 *
 * The symbols are a doubly linked list; the pairs that may merge wait in a binary heap. A pair whose symbols have
 * changed since is dropped when it comes up: symbols only grow, so the pair is the one that was meant exactly if both
 * together still have the length they had. n symbols cost O(n log n). */
#include "tok_internal.h"

#include <stdlib.h>

/* Makes room for one more element; *cap is at least doubled. */
static cl_code grow(void **p, int *cap, int n, size_t size, cl_err *err)
{
    if (n < *cap) return CL_OK;
    if (*cap > INT32_MAX / 2) return cl_fail(err, CL_E_FIT, "text: too long for one piece");
    int more = *cap ? *cap * 2 : 256;
    void *q = cl_realloc(*p, (size_t)more, size, "text being encoded", err);
    if (!q) return CL_E_FIT;
    *p = q;
    *cap = more;
    return CL_OK;
}

cl_code cl_tok_merger_add(cl_tok_merger *m, int32_t id, int32_t len, cl_err *err)
{
    cl_code c = grow((void **)&m->sym, &m->cap_sym, m->n_sym, sizeof *m->sym, err);
    if (c != CL_OK) return c;
    m->sym[m->n_sym] = (cl_tok_sym){id, len, m->n_sym - 1, -1};
    if (m->n_sym) m->sym[m->n_sym - 1].next = m->n_sym;
    m->n_sym++;
    return CL_OK;
}

/* Queues the merge of symbol i with its right neighbour, if there is one. */
static cl_code queue(cl_tok_merger *m, const cl_tok_pairs *p, int32_t i, cl_err *err)
{
    int32_t next = i < 0 ? -1 : m->sym[i].next;
    if (next < 0 || m->sym[i].id < 0 || m->sym[next].id < 0) return CL_OK;
    const cl_tok_pair *pair = cl_tok_pairs_find(p, m->sym[i].id, m->sym[next].id);
    if (!pair) return CL_OK;
    cl_code c = grow((void **)&m->heap, &m->cap_heap, m->n_heap, sizeof *m->heap, err);
    if (c != CL_OK) return c;
    cl_tok_candidate new = {(uint64_t)pair->rank << 32 | (uint32_t)i, m->sym[i].len + m->sym[next].len, pair->result};
    int k = m->n_heap++;
    for (; k > 0 && new.key < m->heap[(k - 1) / 2].key; k = (k - 1) / 2) m->heap[k] = m->heap[(k - 1) / 2];
    m->heap[k] = new;
    return CL_OK;
}

static cl_tok_candidate pop(cl_tok_merger *m)
{
    cl_tok_candidate top = m->heap[0], last = m->heap[--m->n_heap];
    int k = 0;
    for (int child; (child = 2 * k + 1) < m->n_heap; k = child) {
        if (child + 1 < m->n_heap && m->heap[child + 1].key < m->heap[child].key) child++;
        if (last.key <= m->heap[child].key) break;
        m->heap[k] = m->heap[child];
    }
    m->heap[k] = last;
    return top;
}

cl_code cl_tok_merger_run(cl_tok_merger *m, const cl_tok_pairs *p, cl_err *err)
{
    cl_code c = CL_OK;
    m->n_heap = 0;
    for (int32_t i = 0; c == CL_OK && i < m->n_sym; i++) c = queue(m, p, i, err);
    while (c == CL_OK && m->n_heap) {
        cl_tok_candidate top = pop(m);
        int32_t i = (int32_t)(uint32_t)top.key;
        cl_tok_sym *left = &m->sym[i];
        if (!left->len || left->next < 0) continue;
        cl_tok_sym *right = &m->sym[left->next];
        if (left->len + right->len != top.len) continue;
        left->id = top.result;
        left->len = top.len;
        right->len = 0;
        left->next = right->next;
        if (left->next >= 0) m->sym[left->next].prev = i;
        c = queue(m, p, left->prev, err);
        if (c == CL_OK) c = queue(m, p, i, err);
    }
    return c;
}

void cl_tok_merger_free(cl_tok_merger *m)
{
    free(m->sym);
    free(m->heap);
}
