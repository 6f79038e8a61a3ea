/* slice.c: the extents that one chip holds. */
#include <stdlib.h>

#include "bytes.h"

int cl_placement_stage(const cl_placement *p, int rank)
{
    for (int i = 0; i < p->n_stages; i++)
        if (rank >= p->stages[i].first_rank && rank < p->stages[i].first_rank + p->stages[i].n_ranks) return i;
    CL_BUG("rank %d of %d has no stage", rank, p->n_ranks);
}

/* Runs of experts that follow each other: into list, or counted where that is NULL. */
static int expert_extents(const cl_expert_map *map, int member, cl_extent one, cl_extent *list)
{
    int n = 0;
    for (int e = 0, end; e < map->experts; e = end + 1) {
        for (end = e; end < map->experts && cl_expert_held(map, end, member);) end++;
        if (end == e) continue;
        one.expert0 = e;
        one.experts = end - e;
        if (list) list[n] = one;
        n++;
    }
    return n;
}

static int tensor_extents(const cl_model *m, const cl_placement *p, const cl_stage *s, int member, int tensor,
                          cl_extent *list)
{
    const cl_tensor *t = &m->tensors[tensor];
    bool whole = p->experts != NULL;
    cl_range rows = cl_tensor_rows_of(&m->spec, t, s, whole, member);
    cl_extent one = {.tensor = tensor, .experts = t->experts ? t->experts : 1, .row0 = rows.first, .rows = rows.n};
    if (!rows.n) return 0;
    if (whole && cl_role_is_expert(t->role)) return expert_extents(&p->experts[t->layer], member, one, list);
    if (t->experts && !cl_role_is_expert(t->role)) {
        cl_heads h = cl_split_heads(&m->spec.layers[t->layer].attn, s->n_ranks, member);
        one.expert0 = h.q0;
        one.experts = h.q;
    }
    if (list) *list = one;
    return 1;
}

cl_code cl_placement_slice(const cl_model *m, const cl_placement *p, int rank, cl_extent **extents, int *n, cl_err *err)
{
    const cl_stage *s = &p->stages[cl_placement_stage(p, rank)];
    cl_extent *list = NULL;
    int count = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (pass && !(list = cl_malloc((size_t)count, sizeof *list, "placement", err))) return CL_E_FIT;
        count = 0;
        for (int i = 0; i < m->n_tensors; i++)
            if (bytes_in_stage(m, s, &m->tensors[i]))
                count += tensor_extents(m, p, s, rank - s->first_rank, i, list ? list + count : NULL);
    }
    *extents = list;
    *n = count;
    return CL_OK;
}
