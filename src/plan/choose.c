/* choose.c: of all lines of so many chips the one that a token gets through soonest, or that gives most tokens. */
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "chipline/util.h"

static int chips_of(const cl_alternative *a) { return a->stages * a->chips + a->larger; }

static cl_code try_layout(const cl_model *m, const cl_place_options *o, const cl_rates *r, cl_alternative *a,
                          cl_err *err)
{
    cl_layout l;
    cl_placement p;
    cl_place_options with = *o;
    cl_code c = cl_layout_share(a->stages, chips_of(a), &l, err);
    if (c != CL_OK) return c;
    with.layout = &l;
    with.ranks = 0;
    c = cl_place(m, &with, &p, err);
    if (c == CL_OK) {
        c = cl_predict(m, &with, &p, r, &a->predicted, err);
        cl_placement_free(&p);
    }
    cl_layout_free(&l);
    return c;
}

static int fewer_stages(const cl_alternative *a, const cl_alternative *b)
{
    return a->stages < b->stages ? -1 : a->stages > b->stages;
}

/* What can be before what can't; then the smaller number. */
static int order(const cl_alternative *a, const cl_alternative *b, double of_a, double of_b)
{
    if ((a->code == CL_OK) != (b->code == CL_OK)) return a->code == CL_OK ? -1 : 1;
    return of_a < of_b ? -1 : of_a > of_b ? 1 : fewer_stages(a, b);
}

typedef int ordering(const void *x, const void *y);

static int by_latency(const void *x, const void *y)
{
    const cl_alternative *a = x, *b = y;
    return order(a, b, a->predicted.token_s, b->predicted.token_s);
}

static int by_throughput(const void *x, const void *y)
{
    const cl_alternative *a = x, *b = y;
    return order(a, b, -a->predicted.tokens_per_s, -b->predicted.tokens_per_s);
}

static const char *without_prefix(const cl_err *e) { return strncmp(e->msg, "plan: ", 6) == 0 ? e->msg + 6 : e->msg; }

static cl_alternative of_stages(int stages, int chips)
{
    return (cl_alternative){.stages = stages, .chips = chips / stages, .larger = chips % stages};
}

/* All there are, or as many as every layer has work for. */
static int usable(const cl_model *m, const cl_place_options *o, int stages)
{
    const int64_t most = (int64_t)stages * layers_most_chips(&m->spec, o->experts, 0, m->spec.n_layers);
    return o->at_most && most < o->ranks ? (int)most : o->ranks;
}

static cl_code try_one(const cl_model *m, const cl_place_options *o, const cl_rates *r, cl_alternative *a, cl_err *err)
{
    cl_err e = {0};
    a->code = try_layout(m, o, r, a, &e);
    if (a->code != CL_OK && a->code != CL_E_FIT) return cl_fail(err, a->code, "%s", e.msg);
    if (a->code != CL_OK) snprintf(a->why, sizeof a->why, "%.*s", (int)sizeof a->why - 1, without_prefix(&e));
    return CL_OK;
}

/* The same stages of half as many chips each, and so on while they can be: gathers of fewer chips may be worth it. */
static cl_code try_fewer(const cl_model *m, const cl_place_options *o, const cl_rates *r, ordering *better,
                         cl_alternative *best, cl_err *err)
{
    cl_alternative a = {.code = best->code};
    for (int chips = best->chips / 2; chips > 0 && a.code == CL_OK; chips /= 2) {
        a = of_stages(best->stages, best->stages * chips);
        cl_code c = try_one(m, o, r, &a, err);
        if (c != CL_OK) return c;
        if (better(&a, best) < 0) *best = a;
    }
    return CL_OK;
}

/* Each number of stages, with what it comes to. */
static cl_code try_all(const cl_model *m, const cl_place_options *o, const cl_rates *r, ordering *better,
                       cl_alternative *list, int most, cl_err *err)
{
    cl_code c = CL_OK;
    for (int s = 1; c == CL_OK && s <= most; s++) {
        list[s - 1] = of_stages(s, usable(m, o, s));
        c = try_one(m, o, r, &list[s - 1], err);
        if (c == CL_OK && o->at_most) c = try_fewer(m, o, r, better, &list[s - 1], err);
    }
    return c;
}

/* None can be: what is wrong with one of them, and what would do. */
static cl_code none_fits(const cl_model *m, const cl_place_options *o, const cl_rates *r, int stages, cl_err *err)
{
    cl_alternative a = of_stages(stages, usable(m, o, stages));
    cl_layout l = {0};
    cl_err e = {0};
    char name[64];
    cl_place_options with = *o;
    with.brief = !err;
    try_layout(m, &with, r, &a, &e);
    if (cl_layout_share(stages, chips_of(&a), &l, err) != CL_OK) return CL_E_FIT;
    cl_layout_name(&l, name, sizeof name);
    cl_layout_free(&l);
    return cl_fail(err, CL_E_FIT, "plan: no layout of %d chips is possible; %s: %s", o->ranks, name,
                   without_prefix(&e));
}

cl_code cl_choose_layout(const cl_model *m, const cl_place_options *opt, const cl_rates *r, cl_goal goal,
                         cl_layout *out, cl_alternative **list, int *n, cl_err *err)
{
    cl_place_options o = *opt;
    const int most = o.ranks < m->spec.n_layers ? o.ranks : m->spec.n_layers;
    o.layout = NULL;
    o.brief = true;
    if (o.ranks < 1) return cl_fail(err, CL_E_USAGE, "plan: %d ranks (at least 1)", o.ranks);
    cl_alternative *all = cl_malloc((size_t)most, sizeof *all, "placement", err);
    if (!all) return CL_E_FIT;
    ordering *const better = goal == CL_GOAL_LATENCY ? by_latency : by_throughput;
    cl_code c = try_all(m, &o, r, better, all, most, err);
    if (c == CL_OK) {
        qsort(all, (size_t)most, sizeof *all, better);
        c = all[0].code == CL_OK ? cl_layout_share(all[0].stages, chips_of(all), out, err)
                                 : none_fits(m, &o, r, most, err);
    }
    if (c == CL_OK && list) {
        *list = all;
        *n = most;
    } else free(all);
    return c;
}
