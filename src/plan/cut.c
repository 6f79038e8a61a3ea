/* cut.c: the line cut into stages: contiguous runs of layers, the bytes that the busiest chip touches per token as
 * few as they can be among all cuts whose slices fit a chip, the other stages as even as that allows. */
#include "cut.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const cut_cost *layer_of(const cut_table *t, int layer) { return t->cost + (size_t)layer * (size_t)t->columns; }

/* One more layer on top of sum, if no chip is over the limit then. Totals are known to be far from wrapping. */
static bool take(const cut_table *t, int layer, cut_cost limit, cut_cost *sum)
{
    const cut_cost *c = layer_of(t, layer);
    for (int k = 0; k < t->columns; k++)
        if (sum[k].held + c[k].held > limit.held || sum[k].touched + c[k].touched > limit.touched) return false;
    for (int k = 0; k < t->columns; k++) sum[k] = (cut_cost){sum[k].held + c[k].held, sum[k].touched + c[k].touched};
    return true;
}

static void give_back(const cut_table *t, int layer, cut_cost *sum)
{
    const cut_cost *c = layer_of(t, layer);
    for (int k = 0; k < t->columns; k++) sum[k] = (cut_cost){sum[k].held - c[k].held, sum[k].touched - c[k].touched};
}

/* far[i]: the end of the longest run from layer i that one stage holds within both limits; i where even one layer is
 * over. Every part of a run within the limits is within them too. */
static void farthest(const cut_table *t, cut_cost limit, cut_cost *sum, int *far)
{
    memset(sum, 0, (size_t)t->columns * sizeof *sum);
    for (int i = 0, end = 0; i < t->layers; i++) {
        end = end < i ? i : end;
        while (end < t->layers && take(t, end, limit, sum)) end++;
        far[i] = end;
        if (end > i) give_back(t, i, sum);
    }
}

cl_code cut_fewest(const cut_table *t, uint64_t held, int *stages, cl_err *err)
{
    cut_cost *sum = cl_malloc((size_t)t->columns, sizeof *sum, "placement", err);
    int *far = cl_malloc((size_t)t->layers, sizeof *far, "placement", err);
    cl_code c = sum && far ? CL_OK : CL_E_FIT;
    if (c == CL_OK) {
        farthest(t, (cut_cost){held, UINT64_MAX}, sum, far);
        *stages = 0;
        for (int i = 0; i < t->layers; i = far[i], ++*stages)
            if (far[i] == i) {
                *stages = t->layers + 1;
                break;
            }
    }
    free(sum);
    free(far);
    return c;
}

/* Can the stages, in their order, hold all layers? Stages differ, so taking as many layers as fit may leave the next
 * stage one that is too large for it: all ends that a stage can have are followed. */
static bool possible(const cut_line *c, cut_cost limit)
{
    int n = c->n_layers;
    bool *from = c->from, *to = c->to;
    for (int i = 0; i < c->n_tables; i++) farthest(&c->tables[i], limit, c->sum, c->far + (size_t)i * (size_t)n);
    memset(from, 0, (size_t)n + 1);
    from[0] = true;
    for (int s = 0; s < c->n_stages; s++) {
        const int *far = c->far + (size_t)c->table[s] * (size_t)n;
        int reached = 0; /* ends up to here are possible: far never decreases */
        memset(to, 0, (size_t)n + 1);
        for (int i = 0; i < n; i++) {
            if (!from[i]) continue;
            for (reached = reached > i ? reached : i; reached < far[i]; reached++) to[reached + 1] = true;
        }
        bool *swap = from;
        from = to;
        to = swap;
    }
    return from[n];
}

bool cut_least(const cut_line *c, uint64_t held, cut_cost *limit)
{
    uint64_t low = 0, high = 0;
    for (int t = 0; t < c->n_tables; t++)
        for (int k = 0; k < c->tables[t].columns; k++) {
            uint64_t all = 0;
            for (int i = 0; i < c->n_layers; i++) all += layer_of(&c->tables[t], i)[k].touched;
            high = all > high ? all : high;
        }
    if (!possible(c, (cut_cost){held, high})) return false;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        if (possible(c, (cut_cost){held, mid})) high = mid;
        else low = mid + 1;
    }
    *limit = (cut_cost){held, high};
    return true;
}

uint64_t cut_least_held(const cut_line *c)
{
    uint64_t low = 0, high = 0;
    for (int t = 0; t < c->n_tables; t++)
        for (int k = 0; k < c->tables[t].columns; k++) {
            uint64_t all = 0;
            for (int i = 0; i < c->n_layers; i++) all += layer_of(&c->tables[t], i)[k].held;
            high = all > high ? all : high;
        }
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        if (possible(c, (cut_cost){mid, UINT64_MAX})) high = mid;
        else low = mid + 1;
    }
    return high;
}

static double busiest(const cut_cost *sum, int columns)
{
    uint64_t most = 0;
    for (int k = 0; k < columns; k++) most = sum[k].touched > most ? sum[k].touched : most;
    return (double)most;
}

/* Dynamic programming from the last stage: sum[i] is the best for layers i .. n-1 on the stages left, ends[s][i - s]
 * where stage s then ends. Every stage has a layer, so stage s starts at one of the layers s .. n - stages + s. */
cl_code cut_even(const cut_line *c, cut_cost limit, int *end_of, cl_err *err)
{
    int n = c->n_layers, stages = c->n_stages, band = n - stages + 1;
    double *sum = cl_malloc((size_t)n + 1, sizeof *sum, "placement", err);
    int *ends = cl_malloc((size_t)stages, (size_t)band * sizeof *ends, "placement", err);
    if (!sum || !ends) {
        free(sum);
        free(ends);
        return CL_E_FIT;
    }
    for (int i = 0; i <= n; i++) sum[i] = i == n ? 0 : INFINITY;
    for (int s = stages - 1; s >= 0; s--) {
        const cut_table *t = &c->tables[c->table[s]];
        for (int i = s; i < s + band; i++) { /* sum[i + 1 ..] are still those of stage s + 1 */
            double best = INFINITY;
            memset(c->sum, 0, (size_t)t->columns * sizeof *c->sum);
            for (int end = i + 1; end <= s + band && take(t, end - 1, limit, c->sum); end++) {
                double touched = busiest(c->sum, t->columns), squares = touched * touched + sum[end];
                if (squares < best) {
                    best = squares;
                    ends[(size_t)s * (size_t)band + (size_t)(i - s)] = end;
                }
            }
            sum[i] = best;
        }
        sum[s + band] = INFINITY; /* too few layers for the stages before */
    }
    if (sum[0] == INFINITY) CL_BUG("no cut into %d stages keeps within its limits", stages);
    for (int s = 0, first = 0; s < stages; first = end_of[s++])
        end_of[s] = ends[(size_t)s * (size_t)band + (size_t)(first - s)];
    free(ends);
    free(sum);
    return CL_OK;
}

static int find_table(const cut_line *c, int chips)
{
    int i = 0;
    while (i < c->n_tables && c->tables[i].chips != chips) i++;
    return i;
}

cl_code cut_line_make(const cl_model *m, const cl_place_options *o, const cl_layout *l, cut_line *out, cl_err *err)
{
    size_t n = (size_t)m->spec.n_layers, most = 1;
    cut_line c = {.n_layers = m->spec.n_layers, .n_stages = l->n_stages};
    c.tables = cl_calloc((size_t)l->n_stages, sizeof *c.tables, "placement", err);
    c.table = cl_malloc((size_t)l->n_stages, sizeof *c.table, "placement", err);
    cl_code code = c.tables && c.table ? CL_OK : CL_E_FIT;
    for (int s = 0; code == CL_OK && s < l->n_stages; s++) {
        c.table[s] = find_table(&c, l->chips[s]);
        if (c.table[s] < c.n_tables) continue;
        cut_table *t = &c.tables[c.n_tables];
        code = cut_table_make(m, o, l->chips[s], t, err);
        if (code != CL_OK) break;
        c.n_tables++;
        most = (size_t)t->columns > most ? (size_t)t->columns : most;
    }
    if (code == CL_OK) {
        c.sum = cl_malloc(most, sizeof *c.sum, "placement", err);
        c.far = cl_malloc((size_t)c.n_tables, n * sizeof *c.far, "placement", err);
        c.from = cl_malloc(n + 1, sizeof *c.from, "placement", err);
        c.to = cl_malloc(n + 1, sizeof *c.to, "placement", err);
        if (!c.sum || !c.far || !c.from || !c.to) code = CL_E_FIT;
    }
    if (code == CL_OK) *out = c;
    else cut_line_free(&c);
    return code;
}

void cut_line_free(cut_line *c)
{
    for (int i = 0; i < c->n_tables; i++) cut_table_free(&c->tables[i]);
    free(c->tables);
    free(c->table);
    free(c->sum);
    free(c->far);
    free(c->from);
    free(c->to);
    *c = (cut_line){0};
}
