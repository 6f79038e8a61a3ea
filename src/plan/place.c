/* place.c: the line cut into stages: contiguous runs of layers, the largest share of a token's bytes as small as it can be among
 * all cuts whose slices fit a chip, the other shares as even as that allows. */
#include <math.h>
#include <stdlib.h>

#include "chipline/plan.h"
#include "chipline/util.h"

/* What one layer adds to its stage; embedding and head are added to the first and last layer's stage. Sums saturate instead of
 * wrapping. */
typedef struct cost {
    uint64_t held;    /* weights and cache */
    uint64_t touched; /* by one token */
} cost;

static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t r;
    return __builtin_mul_overflow(a, b, &r) ? UINT64_MAX : r;
}

static int64_t typical_context(const cl_place_options *o)
{
    double p = o->read_context > 0 ? o->read_context : o->context / 4.0;
    return p < 1 ? 1 : p > o->context ? o->context : (int64_t)p;
}

/* A stage of these layers, everything but its ranks filled in. */
static cl_stage make_stage(const cl_model *m, const cl_place_options *o, int first, int n)
{
    cl_stage s = {.first_layer = first, .n_layers = n, .embed = first == 0, .head = first + n == m->spec.n_layers};
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        bool layer = t->layer >= first && t->layer < first + n;
        bool head = s.head && (t->role == CL_T_FINAL_NORM || t->role == CL_T_HEAD);
        bool table = t->role == CL_T_EMBED && s.embed, tied = t->role == CL_T_EMBED && s.head && m->spec.tied;
        if (layer || head || table || tied) s.weight_bytes = add(s.weight_bytes, cl_tensor_bytes(t));
        if (layer || head || table) s.token_bytes = add(s.token_bytes, cl_tensor_token_bytes(m, t));
        if (tied) s.token_bytes = add(s.token_bytes, cl_tensor_bytes(t)); /* as the head: all of it */
    }
    for (int i = first; i < first + n; i++) {
        const cl_attention *a = &m->spec.layers[i].attn;
        s.kv_bytes = add(s.kv_bytes, times(cl_kv_layer_bytes(a, o->kv, o->context, o->chunk), (uint64_t)o->slots));
        s.token_kv_bytes = add(s.token_kv_bytes, cl_kv_read_bytes(a, o->kv, typical_context(o)));
    }
    return s;
}

/* The same sums per layer, in one pass over the tensors. */
static cost *layer_costs(const cl_model *m, const cl_place_options *o, cl_err *err)
{
    const cl_spec *s = &m->spec;
    int last = s->n_layers - 1;
    cost *c = cl_calloc((size_t)s->n_layers, sizeof *c, "placement", err);
    if (!c) return NULL;
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        int layer = t->role == CL_T_EMBED ? 0 : t->layer < 0 ? last : t->layer;
        c[layer].held = add(c[layer].held, cl_tensor_bytes(t));
        c[layer].touched = add(c[layer].touched, cl_tensor_token_bytes(m, t));
        if (t->role == CL_T_EMBED && s->tied) {
            if (o->ranks > 1) c[last].held = add(c[last].held, cl_tensor_bytes(t)); /* the last stage's own copy */
            c[last].touched = add(c[last].touched, cl_tensor_bytes(t));
        }
    }
    for (int i = 0; i <= last; i++) {
        const cl_attention *a = &s->layers[i].attn;
        c[i].held = add(c[i].held, times(cl_kv_layer_bytes(a, o->kv, o->context, o->chunk), (uint64_t)o->slots));
        c[i].touched = add(c[i].touched, cl_kv_read_bytes(a, o->kv, typical_context(o)));
    }
    return c;
}

/* need[i]: fewest stages that hold layers i .. n-1 within both limits, n + 1 where even one layer alone is over. Every part of a
 * run within the limits is within them too, so taking as many layers as fit is optimal. */
static void fewest_stages(const cost *c, int n, cost limit, int *need)
{
    cost sum = {0};
    need[n] = 0;
    for (int i = n - 1, end = n; i >= 0; i--) {
        sum.held = add(sum.held, c[i].held);
        sum.touched = add(sum.touched, c[i].touched);
        while (end > i && (sum.held > limit.held || sum.touched > limit.touched)) {
            end--; /* the whole sum is known not to be saturated, so subtracting is exact */
            sum.held -= c[end].held;
            sum.touched -= c[end].touched;
        }
        need[i] = end == i || need[end] > n ? n + 1 : need[end] + 1;
    }
}

/* The smallest limit on a token's bytes with which `stages` stages are enough; false if memory alone asks for more. */
static bool least_limit(const cost *c, int n, int stages, uint64_t held, int *need, cost *out)
{
    uint64_t low = 0, high = 0;
    for (int i = 0; i < n; i++) high = add(high, c[i].touched);
    fewest_stages(c, n, (cost){held, high}, need);
    if (need[0] > stages) return false;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        fewest_stages(c, n, (cost){held, mid}, need);
        if (need[0] <= stages) high = mid;
        else low = mid + 1;
    }
    *out = (cost){held, high};
    return true;
}

/* Among the cuts within the limits the one with the smallest sum of squared shares: a stage that needs much (the head's) does not
 * leave the others uneven. Dynamic programming from the last stage: sum[i] is the best for layers i .. n-1 on the stages left,
 * ends[s][i - s] where stage s then ends. Every stage has a layer, so stage s starts at one of the layers s .. n - stages + s. */
static cl_code even_cut(const cost *c, int n, int stages, cost limit, int *end_of, cl_err *err)
{
    int band = n - stages + 1;
    double *sum = cl_malloc((size_t)n + 1, sizeof *sum, "placement", err);
    int *ends = cl_malloc((size_t)stages, (size_t)band * sizeof *ends, "placement", err);
    if (!sum || !ends) {
        free(sum);
        free(ends);
        return CL_E_FIT;
    }
    for (int i = 0; i <= n; i++) sum[i] = i == n ? 0 : INFINITY;
    for (int s = stages - 1; s >= 0; s--) {
        for (int i = s; i < s + band; i++) { /* sum[i + 1 ..] are still those of stage s + 1 */
            cost share = {0};
            double best = INFINITY;
            for (int end = i + 1; end <= s + band; end++) {
                share = (cost){share.held + c[end - 1].held, share.touched + c[end - 1].touched};
                if (share.held > limit.held || share.touched > limit.touched) break;
                double squares = (double)share.touched * (double)share.touched + sum[end];
                if (squares < best) {
                    best = squares;
                    ends[(size_t)s * (size_t)band + (size_t)(i - s)] = end;
                }
            }
            sum[i] = best;
        }
        sum[s + band] = INFINITY; /* too few layers for the stages before */
    }
    for (int s = 0, first = 0; s < stages; first = end_of[s++]) end_of[s] = ends[(size_t)s * (size_t)band + (size_t)(first - s)];
    free(ends);
    free(sum);
    return CL_OK;
}

static cl_code cut(const cl_model *m, const cl_place_options *o, const cost *c, cost limit, cl_placement *out, cl_err *err)
{
    int *end = cl_malloc((size_t)o->ranks, sizeof *end, "placement", err);
    cl_stage *stages = end ? cl_calloc((size_t)o->ranks, sizeof *stages, "placement", err) : NULL;
    cl_code code = stages ? even_cut(c, m->spec.n_layers, o->ranks, limit, end, err) : CL_E_FIT;
    for (int s = 0, first = 0; code == CL_OK && s < o->ranks; first = end[s++]) {
        stages[s] = make_stage(m, o, first, end[s] - first);
        stages[s].first_rank = s;
        stages[s].n_ranks = 1;
    }
    free(end);
    if (code == CL_OK) *out = (cl_placement){.n_ranks = o->ranks, .n_stages = o->ranks, .stages = stages};
    else free(stages);
    return code;
}

static cl_code check_options(const cl_model *m, const cl_place_options *o, cl_err *err)
{
    if (o->ranks < 1) return cl_fail(err, CL_E_USAGE, "plan: %d ranks (at least 1)", o->ranks);
    if (o->slots < 1) return cl_fail(err, CL_E_USAGE, "plan: %d slots (at least 1)", o->slots);
    if (o->context < 1) return cl_fail(err, CL_E_USAGE, "plan: a context of %d positions (at least 1)", o->context);
    if (o->chunk < 1) return cl_fail(err, CL_E_USAGE, "plan: micro-batches of %d tokens (at least 1)", o->chunk);
    if (o->ranks > m->spec.n_layers)
        return cl_fail(err, CL_E_FIT, "plan: %d ranks for %d layers, and every chip needs a layer (use at most %d ranks)",
                       o->ranks, m->spec.n_layers, m->spec.n_layers);
    return CL_OK;
}

/* Which chip is over its memory in the balanced placement, by how much, and how many ranks would do. */
static cl_code too_big(const cl_model *m, const cl_place_options *o, const cost *c, int *need, cl_err *err)
{
    cl_place_options more = *o;
    cl_placement p;
    cost limit;
    int n = m->spec.n_layers, worst = 0;
    least_limit(c, n, o->ranks, UINT64_MAX, need, &limit);
    cl_code code = cut(m, o, c, limit, &p, err);
    if (code != CL_OK) return code;
    for (int i = 1; i < p.n_stages; i++)
        if (add(p.stages[i].weight_bytes, p.stages[i].kv_bytes) > add(p.stages[worst].weight_bytes, p.stages[worst].kv_bytes))
            worst = i;
    uint64_t weights = p.stages[worst].weight_bytes, kv = p.stages[worst].kv_bytes;
    free(p.stages);
    char remedy[128] = "use larger chips, fewer slots, a shorter context or a smaller number format", a[32], b[32];
    more.ranks = 2; /* any number over one: a tied table is then held twice */
    cost *split = layer_costs(m, &more, err);
    if (!split) return CL_E_FIT;
    fewest_stages(split, n, (cost){o->chip_bytes, UINT64_MAX}, need);
    if (need[0] <= n) snprintf(remedy, sizeof remedy, "use at least %d ranks, fewer slots or a shorter context", need[0]);
    free(split);
    return cl_fail(err, CL_E_FIT,
                   "plan: chip %d of %d: weights of %s and a cache of %s are %llu bytes more than a chip's %llu (%s)", worst,
                   o->ranks, cl_human_bytes((double)weights, a), cl_human_bytes((double)kv, b),
                   (unsigned long long)(add(weights, kv) - o->chip_bytes), (unsigned long long)o->chip_bytes, remedy);
}

cl_code cl_place(const cl_model *m, const cl_place_options *opt, cl_placement *out, cl_err *err)
{
    int n = m->spec.n_layers;
    cl_code code = check_options(m, opt, err);
    if (code != CL_OK) return code;
    cost *c = layer_costs(m, opt, err), limit;
    int *need = c ? cl_malloc((size_t)n + 1, sizeof *need, "placement", err) : NULL;
    if (!need) {
        free(c);
        return CL_E_FIT;
    }
    uint64_t all = 0;
    for (int i = 0; i < n; i++) all = add(all, add(c[i].held, c[i].touched));
    if (all == UINT64_MAX)
        code = cl_fail(err, CL_E_FIT, "plan: the cache is larger than any address space (use fewer slots or a shorter context)");
    else if (least_limit(c, n, opt->ranks, opt->chip_bytes ? opt->chip_bytes : UINT64_MAX, need, &limit))
        code = cut(m, opt, c, limit, out, err);
    else code = too_big(m, opt, c, need, err);
    free(need);
    free(c);
    return code;
}

void cl_placement_free(cl_placement *p)
{
    free(p->stages);
    *p = (cl_placement){0};
}

cl_code cl_placement_slice(const cl_model *m, const cl_placement *p, int rank, cl_part **parts, int *n, cl_err *err)
{
    const cl_stage *s = NULL;
    for (int i = 0; i < p->n_stages; i++)
        if (rank >= p->stages[i].first_rank && rank < p->stages[i].first_rank + p->stages[i].n_ranks) s = &p->stages[i];
    if (!s || s->n_ranks != 1) CL_BUG("rank %d has no stage of its own", rank);
    cl_part *list = cl_malloc((size_t)m->n_tensors, sizeof *list, "placement", err);
    if (!list) return CL_E_FIT;
    *n = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        bool mine = t->layer >= s->first_layer && t->layer < s->first_layer + s->n_layers;
        if (t->role == CL_T_EMBED) mine = s->embed || (s->head && m->spec.tied);
        else if (t->layer < 0) mine = s->head;
        if (mine) list[(*n)++] = (cl_part){.tensor = i, .experts = t->experts ? t->experts : 1, .rows = t->rows};
    }
    *parts = list;
    return CL_OK;
}
