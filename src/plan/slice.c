/* slice.c: the parts that one chip holds. */
#include <stdlib.h>

#include "share.h"

int cl_placement_stage(const cl_placement *p, int rank)
{
    for (int i = 0; i < p->n_stages; i++)
        if (rank >= p->stages[i].first_rank && rank < p->stages[i].first_rank + p->stages[i].n_ranks) return i;
    CL_BUG("rank %d of %d has no stage", rank, p->n_ranks);
}

bool in_stage(const cl_model *m, const cl_stage *s, const cl_tensor *t)
{
    if (t->role == CL_T_EMBED) return s->embed || (s->head && m->spec.tied);
    return t->layer < 0 ? s->head : t->layer >= s->first_layer && t->layer < s->first_layer + s->n_layers;
}

/* Runs of experts that follow each other: into list, or counted where that is NULL. */
static int expert_parts(const cl_expert_map *map, int member, cl_part part, cl_part *list)
{
    int n = 0;
    for (int e = 0, end; e < map->experts; e = end + 1) {
        for (end = e; end < map->experts && cl_expert_held(map, end, member);) end++;
        if (end == e) continue;
        part.expert0 = e;
        part.experts = end - e;
        if (list) list[n] = part;
        n++;
    }
    return n;
}

static int tensor_parts(const cl_model *m, const cl_placement *p, const cl_stage *s, int member, int tensor,
                        cl_part *list)
{
    const cl_tensor *t = &m->tensors[tensor];
    bool whole = p->experts != NULL;
    cl_share rows = cl_tensor_rows_of(&m->spec, t, whole, s->n_ranks, member);
    cl_part part = {.tensor = tensor, .experts = t->experts ? t->experts : 1, .row0 = rows.first, .rows = rows.n};
    if (!rows.n) return 0;
    if (whole && cl_role_is_expert(t->role)) return expert_parts(&p->experts[t->layer], member, part, list);
    if (t->experts && !cl_role_is_expert(t->role)) {
        cl_heads h = cl_split_heads(&m->spec.layers[t->layer].attn, s->n_ranks, member);
        part.expert0 = h.q0;
        part.experts = h.q;
    }
    if (list) *list = part;
    return 1;
}

cl_code cl_placement_slice(const cl_model *m, const cl_placement *p, int rank, cl_part **parts, int *n, cl_err *err)
{
    const cl_stage *s = &p->stages[cl_placement_stage(p, rank)];
    cl_part *list = NULL;
    int count = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (pass && !(list = cl_malloc((size_t)count, sizeof *list, "placement", err))) return CL_E_FIT;
        count = 0;
        for (int i = 0; i < m->n_tensors; i++)
            if (in_stage(m, s, &m->tensors[i]))
                count += tensor_parts(m, p, s, rank - s->first_rank, i, list ? list + count : NULL);
    }
    *parts = list;
    *n = count;
    return CL_OK;
}
