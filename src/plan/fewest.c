/* fewest.c: how few chips hold a model: stages of equal size, as many and as large as it takes. */
#include <stdlib.h>

#include "room.h"
#include "bytes.h"
#include "cut.h"

/* Stages of `chips`, and the fewest of them that could do if everything divided without rest: a bound. */
typedef struct candidate {
    int chips, stages;
    uint64_t room; /* for slice and cache, of one chip */
} candidate;

static int by_total(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    int64_t d = (int64_t)x->chips * x->stages - (int64_t)y->chips * y->stages;
    return d ? (d > 0) - (d < 0) : x->chips - y->chips;
}

/* One stage holds a tied table once, which the tables of cut.h count twice. */
static bool one_stage_holds(const cl_model *m, const cl_place_options *o, int chips)
{
    cl_place_options p = *o;
    int first = chips;
    cl_placement placement;
    p.layout = &(cl_layout){.n_stages = 1, .chips = &first};
    p.ranks = 0;
    if (cl_place(m, &p, &placement, NULL) != CL_OK) return false;
    cl_placement_free(&placement);
    return true;
}

static cl_code try_all(const cl_model *m, const cl_place_options *o, candidate *list, int n, candidate *best,
                       cl_err *err)
{
    int64_t least = INT64_MAX;
    *best = (candidate){0};
    for (int i = 0; i < n && (int64_t)list[i].chips * list[i].stages <= least; i++) {
        cut_table t;
        int need;
        cl_code c = cut_table_make(m, o, list[i].chips, &t, err);
        if (c != CL_OK) return c;
        c = cut_fewest(&t, list[i].room, &need, err);
        cut_table_free(&t);
        if (c != CL_OK) return c;
        if (list[i].stages == 1 && need > 1 && one_stage_holds(m, o, list[i].chips)) need = 1;
        int64_t total = (int64_t)need * list[i].chips;
        if (need > m->spec.n_layers || total > least || (total == least && list[i].chips > best->chips)) continue;
        least = total;
        *best = (candidate){.chips = list[i].chips, .stages = need};
    }
    return CL_OK;
}

cl_code cl_fewest_chips(const cl_model *m, const cl_place_options *o, cl_layout *out, cl_err *err)
{
    int n = 0, layers = m->spec.n_layers, most = layers_most_chips(&m->spec, o->experts, 0, layers);
    candidate best, *list = cl_malloc((size_t)most, sizeof *list, "plan", err);
    cut_table one;
    if (!list) return CL_E_FIT;
    cl_code c = cut_table_make(m, o, 1, &one, err);
    for (int chips = 1; c == CL_OK && chips <= most; chips++) {
        int stages;
        const uint64_t room = room_at_least(m, o, chips);
        c = cut_fewest(&one, bytes_product(room, (uint64_t)chips), &stages, err);
        if (m->spec.tied && stages == 2) stages = 1; /* perhaps */
        if (c == CL_OK && stages <= layers) list[n++] = (candidate){chips, stages, room};
    }
    if (c == CL_OK) {
        qsort(list, (size_t)n, sizeof *list, by_total);
        c = try_all(m, o, list, n, &best, err);
    }
    cut_table_free(&one);
    free(list);
    if (c == CL_OK && !best.chips)
        c = cl_fail(
            err, CL_E_FIT,
            "plan: no number of chips of %llu bytes holds this (use larger chips, fewer slots, a shorter context or a "
            "smaller number format)",
            (unsigned long long)o->chip_bytes);
    return c == CL_OK ? cl_layout_make(best.stages, best.chips, out, err) : c;
}
