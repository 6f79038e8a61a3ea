/* cut_table.c: what each layer costs each chip of a stage of a given size. */
#include <stdlib.h>

#include "bytes.h"
#include "classes.h"
#include "cut.h"
#include "experts.h"

static void put(cut_cost *c, uint64_t held, uint64_t touched)
{
    c->held = bytes_sum(c->held, held);
    c->touched = bytes_sum(c->touched, touched);
}

/* One column of the table. */
typedef struct column {
    const cut_table *t;
    int at;
} column;

static cut_cost *cell(const column *c, int layer)
{
    return c->t->cost + (size_t)layer * (size_t)c->t->columns + (size_t)c->at;
}

static void put_phase(void *ctx, const cl_phase *p)
{
    const column *c = ctx;
    int layer = p->layer >= 0 ? p->layer : p->kind == CL_PHASE_EMBED ? 0 : c->t->layers - 1;
    put(cell(c, layer), 0, bytes_sum(p->weight_bytes, p->kv_bytes));
}

static void fill(const cl_cost_chip *chip, const cl_place_options *o, const cut_table *t, int at)
{
    const cl_model *m = chip->model;
    const cl_cost_part part = cl_cost_typical(o, 1);
    column c = {t, at};
    cl_cost_phases(chip, &(cl_cost_step){.n_parts = 1, .parts = &part}, put_phase, &c);
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *x = &m->tensors[i];
        uint64_t held = bytes_held(chip, x);
        put(cell(&c, x->layer >= 0 ? x->layer : x->role == CL_T_EMBED ? 0 : t->layers - 1), held, 0);
        /* as the head too: a line of one stage has one cut, whatever that costs */
        if (x->role == CL_T_EMBED && m->spec.tied) put(cell(&c, t->layers - 1), held, 0);
    }
    for (int layer = 0; layer < t->layers; layer++) put(cell(&c, layer), bytes_of_cache(chip, o, layer), 0);
}

static cl_code check_sums(const cut_table *t, cl_err *err)
{
    for (int k = 0; k < t->columns; k++) {
        uint64_t all = 0;
        for (int i = 0; i < t->layers; i++) {
            cut_cost c = t->cost[(size_t)i * (size_t)t->columns + (size_t)k];
            all = bytes_sum(all, bytes_sum(c.held, c.touched));
        }
        if (all == UINT64_MAX)
            return cl_fail(err, CL_E_FIT,
                           "plan: the cache is larger than any address space (use fewer slots or a shorter context)");
    }
    return CL_OK;
}

cl_code cut_table_make(const cl_model *m, const cl_place_options *o, int chips, cut_table *out, cl_err *err)
{
    const int n = m->spec.n_layers;
    const bool whole = o->experts == CL_EXPERTS_WHOLE;
    cl_stage all = {.n_layers = n, .embed = true, .head = true, .n_ranks = chips};
    all.split_routers = cl_split_routers(&m->spec, o, chips);
    cut_table t = {.chips = chips, .layers = n};
    chip_classes classes = {0};
    cl_expert_map *maps = whole ? cl_calloc((size_t)n, sizeof *maps, "placement", err) : NULL;
    cl_code c = maps || !whole ? CL_OK : CL_E_FIT;
    for (int i = 0; c == CL_OK && maps && i < n; i++) c = expert_map_make(m, o, i, chips, &maps[i], err);
    if (c == CL_OK) c = classes_make(m, &all, maps, &classes, err);
    t.columns = classes.n;
    if (c == CL_OK && !(t.cost = cl_calloc((size_t)n, (size_t)t.columns * sizeof *t.cost, "placement", err)))
        c = CL_E_FIT;
    const cl_placement line = {.n_ranks = chips, .n_stages = 1, .stages = &all, .experts = maps};
    for (int k = 0; c == CL_OK && k < classes.n; k++) {
        const cl_cost_chip chip = cl_placed_chip(m, o, &line, 0, classes.member[k]);
        fill(&chip, o, &t, k);
    }
    if (c == CL_OK) c = check_sums(&t, err);
    for (int i = 0; maps && i < n; i++) expert_map_free(&maps[i]);
    free(maps);
    classes_free(&classes);
    if (c == CL_OK) *out = t;
    else cut_table_free(&t);
    return c;
}

void cut_table_free(cut_table *t)
{
    free(t->cost);
    *t = (cut_table){0};
}
