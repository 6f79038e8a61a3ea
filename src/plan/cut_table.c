/* cut_table.c: what each layer costs each chip of a stage of a given size. */
#include <stdlib.h>

#include "cut.h"
#include "share.h"

static void put(cut_cost *c, uint64_t held, uint64_t touched)
{
    c->held = sum_of(c->held, held);
    c->touched = sum_of(c->touched, touched);
}

static void fill_member(const chip_view *v, const cut_table *t)
{
    const cl_model *m = v->m;
    cut_cost *first = t->cost + v->member, *last = first + (size_t)(t->layers - 1) * (size_t)t->chips;
    uint64_t held, read;
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *x = &m->tensors[i];
        if (x->role == CL_T_EMBED) {
            embed_share(v, x, &held, &read);
            put(first, held, read);
            if (m->spec.tied) /* as the head: all of it; a line of one stage has one cut, whatever that costs */
                put(last, held, held);
        } else {
            tensor_share(v, x, &held, &read);
            put(x->layer < 0 ? last : first + (size_t)x->layer * (size_t)t->chips, held, read);
        }
    }
    for (int layer = 0; layer < t->layers; layer++) {
        cache_share(v, layer, &held, &read);
        put(first + (size_t)layer * (size_t)t->chips, held, read);
    }
}

static cl_code check_sums(const cut_table *t, cl_err *err)
{
    for (int k = 0; k < t->chips; k++) {
        uint64_t all = 0;
        for (int i = 0; i < t->layers; i++) {
            cut_cost c = t->cost[(size_t)i * (size_t)t->chips + (size_t)k];
            all = sum_of(all, sum_of(c.held, c.touched));
        }
        if (all == UINT64_MAX)
            return cl_fail(err, CL_E_FIT,
                           "plan: the cache is larger than any address space (use fewer slots or a shorter context)");
    }
    return CL_OK;
}

cl_code cut_table_make(const cl_model *m, const cl_place_options *o, int chips, cut_table *out, cl_err *err)
{
    int n = m->spec.n_layers;
    cut_table t = {.chips = chips,
                   .layers = n,
                   .cost = cl_calloc((size_t)n, (size_t)chips * sizeof *t.cost, "placement", err)};
    cl_expert_map *maps = o->experts == CL_EXPERTS_WHOLE ? cl_calloc((size_t)n, sizeof *maps, "placement", err) : NULL;
    cl_code c = t.cost && (maps || o->experts != CL_EXPERTS_WHOLE) ? CL_OK : CL_E_FIT;
    for (int i = 0; c == CL_OK && maps && i < n; i++) c = expert_map_make(m, o, i, chips, &maps[i], err);
    for (int k = 0; c == CL_OK && k < chips; k++) {
        chip_view v = {.m = m, .o = o, .maps = maps, .members = chips, .member = k, .tokens = 1};
        fill_member(&v, &t);
    }
    if (c == CL_OK) c = check_sums(&t, err);
    for (int i = 0; maps && i < n; i++) expert_map_free(&maps[i]);
    free(maps);
    if (c == CL_OK) *out = t;
    else cut_table_free(&t);
    return c;
}

void cut_table_free(cut_table *t)
{
    free(t->cost);
    *t = (cut_table){0};
}
