/* planning.c: from the options to a placement that is the same on every rank. */
#include <stdlib.h>

#include "run_internal.h"

/* What the budget counts besides slice and cache. */
static void count_buffers(cl_run *r)
{
    run_plan *p = &r->plan;
    const bool one_host = p->most_ranks_apart == 0;
    p->buffers =
        (cl_buffer_count){.model = &p->model,
                          .activations = p->activations,
                          .kv = p->kv,
                          .limits = p->limits,
                          .threads = p->most_threads,
                          .kernels = r->opt.kernels,
                          .carrier = r->opt.carrier == CL_CARRIER_AUTO && one_host ? CL_CARRIER_SHARED : r->opt.carrier,
                          .trace_bytes = trace_wanted(r) ? cl_trace_bytes() : 0,
                          .chip_bytes = r->opt.chip_bytes};
}

/* A chip has a few buffers for the activations of a chunk: all together at most a 32nd of it. */
static int usual_chunk(const cl_spec *s, uint64_t chip_bytes)
{
    enum { BUFFERS = 4, PART = 32 };
    int chunk = CL_DEFAULT_CHUNK;
    while (chip_bytes && chunk > CL_LEAST_CHUNK &&
           (uint64_t)(BUFFERS * chunk) * (uint64_t)s->hidden * sizeof(float) > chip_bytes / PART)
        chunk /= 2;
    return chunk;
}

cl_code cl_find_limits(const cl_run_options *o, const cl_spec *s, int slots, uint64_t chip_bytes, cl_limits *out,
                       cl_err *err)
{
    int context = o->context ? o->context : s->context < CL_DEFAULT_CONTEXT ? s->context : CL_DEFAULT_CONTEXT;
    if (context > s->context)
        return cl_fail(err, CL_E_FIT,
                       "--context: %d is over the %d positions the model was made for (use at most that)", context,
                       s->context);
    int chunk = o->chunk ? o->chunk : usual_chunk(s, chip_bytes);
    *out = (cl_limits){.slots = o->slots ? o->slots : slots,
                       .context = context,
                       .chunk = chunk < context ? chunk : context,
                       .hidden = s->hidden,
                       .vocab = s->vocab};
    return CL_OK;
}

static cl_code choose_limits(cl_run *r, int stages, cl_err *err)
{
    cl_code c = cl_find_limits(&r->opt, &r->plan.model.spec, 4 * stages, r->opt.chip_bytes, &r->plan.limits, err);
    if (c == CL_OK) count_buffers(r);
    return c;
}

/* auto: mixed 8-bit where most of the weights are quantised. */
void cl_find_arithmetic(const cl_run_options *o, const cl_model *m, cl_activations *activations, cl_kv_format *kv)
{
    *activations = o->activations;
    if (*activations == CL_ACT_AUTO) *activations = cl_model_quantised(m) ? CL_ACT_MIXED : CL_ACT_F32;
    *kv = !o->kv_auto ? o->kv : *activations == CL_ACT_F32 ? CL_KV_F32 : CL_KV_BF16;
}

/* Rank 0 reads what the file says of itself; the others take its word where their file is the same. */
static cl_code open_model(cl_run *r, cl_err *err)
{
    const bool root = cl_ranks_rank(r->ranks) == 0;
    void *described = NULL;
    size_t bytes = 0;
    cl_code c = root ? cl_model_file_open(&r->file, r->opt.model_path, err) : CL_OK;
    if (root && c == CL_OK) c = cl_model_file_describe(r->file, &described, &bytes, err);
    if ((c = cl_ranks_agree(r->ranks, c, err)) == CL_OK) c = cl_ranks_bcast_bytes(r->ranks, &described, &bytes, err);
    if (c == CL_OK && !root) c = cl_model_file_open_described(&r->file, r->opt.model_path, described, bytes, err);
    free(described);
    return c;
}

static cl_code read_model(cl_run *r, cl_err *err)
{
    int size = cl_ranks_size(r->ranks);
    if (size % r->opt.replicas)
        return cl_fail(err, CL_E_FIT, "--replicas: %d ranks are not %d equal lines (start a multiple of %d)", size,
                       r->opt.replicas, r->opt.replicas);
    cl_code c = open_model(r, err);
    if (c != CL_OK) return c;
    r->plan.checksum = cl_model_file_checksum(r->file);
    if (!(r->plan.source = cl_strdup(cl_model_file_source(r->file), err))) return CL_E_FIT;
    c = cl_model_copy(cl_model_file_model(r->file), &r->plan.model, err);
    if (c == CL_OK) cl_find_arithmetic(&r->opt, &r->plan.model, &r->plan.activations, &r->plan.kv);
    return c;
}

/* A stale copy on one node would mix two models. */
static cl_code same_model(cl_run *r, cl_err *err)
{
    char what[256];
    snprintf(what, sizeof what, "%.200s: the model", r->opt.model_path);
    return cl_ranks_same(r->ranks, r->plan.checksum, what, err);
}

/* Rank 0 reads which experts are hot, all know it then. */
static cl_code read_routing(cl_run *r, cl_err *err)
{
    bool root = cl_ranks_rank(r->ranks) == 0;
    run_plan *p = &r->plan;
    cl_routing *t = &p->routing;
    cl_code c = root ? cl_trace_routing_read(r->opt.routing_path, &p->chosen, &t->n_layers, &t->experts, err) : CL_OK;
    if (c != CL_OK) cl_fail_prefix(err, "--routing");
    if ((c = cl_ranks_agree(r->ranks, c, err)) != CL_OK) return c;
    cl_ranks_bcast(r->ranks, &t->n_layers, sizeof t->n_layers);
    cl_ranks_bcast(r->ranks, &t->experts, sizeof t->experts);
    size_t n = (size_t)t->n_layers * (size_t)t->experts;
    if (!root) p->chosen = cl_malloc(n, sizeof *p->chosen, "routing", err);
    if ((c = cl_ranks_agree(r->ranks, p->chosen ? CL_OK : CL_E_FIT, err)) != CL_OK) return c;
    for (int i = 0; i < t->n_layers; i++)
        cl_ranks_bcast(r->ranks, p->chosen + (size_t)i * (size_t)t->experts, (size_t)t->experts * sizeof *p->chosen);
    t->chosen = p->chosen;
    return CL_OK;
}

/* Read rate of the slowest rank, and link costs: the same numbers everywhere. */
static cl_code measure(cl_run *r, cl_err *err)
{
    enum { MOST = 256 << 20, LEAST = 1 << 20 };
    cl_model_counts n;
    cl_model_count(&r->plan.model, &n);
    uint64_t bytes = 0, size = (uint64_t)cl_ranks_size(r->ranks);
    for (int f = 0; f < CL_FORMATS; f++) bytes += n.bytes[f] / size;
    bytes = bytes > MOST ? MOST : bytes < LEAST ? LEAST : bytes;
    cl_rates *rates = &r->plan.rates;
    double *all = cl_calloc(size, sizeof *all, "rates", err);
    cl_code c = cl_ranks_agree(r->ranks, all ? CL_OK : CL_E_FIT, err);
    if (c == CL_OK) c = cl_line_measure(r->ranks, r->opt.carrier, rates, err);
    if (c == CL_OK) {
        cl_ranks_barrier(r->ranks); /* all ranks of a host read at once, as they will */
        double mine = cl_probe_memory(r->opt.crew, (size_t)bytes);
        cl_ranks_gather(r->ranks, &mine, sizeof mine, all);
        if (cl_ranks_rank(r->ranks) == 0) rates->read_bytes_per_s = cl_least(all, (int)size);
        cl_ranks_bcast(r->ranks, rates, sizeof *rates);
    }
    free(all);
    if (c != CL_OK || rates->read_bytes_per_s > 0) return c;
    return cl_fail(err, CL_E_FIT, "memory: a rank has none to spare for a probe (use more nodes)");
}

static bool has_routing(const cl_run *r) { return r->opt.routing_path != NULL; }

static bool must_choose(const cl_run *r)
{
    return !r->opt.layout &&
           (r->opt.layout_auto || cl_ranks_size(r->ranks) / r->opt.replicas > r->plan.model.spec.n_layers);
}

/* Which stages; limits are then those of that many stages. */
static cl_code choose_layout(cl_run *r, cl_err *err)
{
    run_plan *p = &r->plan;
    int ranks = cl_ranks_size(r->ranks) / r->opt.replicas;
    cl_code c = CL_OK;
    if (r->opt.layout && r->opt.replicas > 1 && cl_layout_chips(r->opt.layout) != ranks)
        return cl_fail(
            err, CL_E_FIT,
            "--replicas: %d lines of %d chips need %d ranks, there are %d (start that many, or leave --layout out)",
            r->opt.replicas, cl_layout_chips(r->opt.layout), r->opt.replicas * cl_layout_chips(r->opt.layout),
            cl_ranks_size(r->ranks));
    if (!r->opt.layout && !must_choose(r)) c = cl_layout_make(ranks, 1, &p->layout, err);
    else if (!r->opt.layout) {
        if ((c = choose_limits(r, ranks, err)) != CL_OK) return c;
        cl_place_options o = options_of_place(r);
        cl_goal goal = p->limits.slots == 1 ? CL_GOAL_LATENCY : CL_GOAL_THROUGHPUT;
        int stages = 0; /* predictions are floating point: rank 0's choice counts */
        if (cl_ranks_rank(r->ranks) == 0) {
            c = cl_choose_layout(&p->model, &o, &p->rates, goal, &p->layout, NULL, NULL, err);
            if (c == CL_OK) stages = p->layout.n_stages;
        }
        if ((c = cl_ranks_agree(r->ranks, c, err)) != CL_OK) return c;
        cl_ranks_bcast(r->ranks, &stages, sizeof stages);
        if (cl_ranks_rank(r->ranks)) c = cl_layout_share(stages, ranks, &p->layout, err);
    }
    return c == CL_OK ? choose_limits(r, p->layout.n_stages, err) : c;
}

static cl_code place(cl_run *r, cl_err *err)
{
    cl_place_options o = options_of_place(r);
    cl_placement *p = &r->plan.placement;
    cl_code c = cl_place(&r->plan.model, &o, p, err);
    if (c != CL_OK) return c;
    int n = p->n_ranks, rank = cl_ranks_rank(r->ranks);
    run_seat *s = &r->seat;
    s->replica = rank / n;
    s->line_rank0 = s->replica * n;
    s->stage = cl_placement_stage(p, rank - s->line_rank0);
    s->at = &p->stages[s->stage];
    s->member = rank - s->line_rank0 - s->at->first_rank;
    s->first = s->stage == 0;
    s->last = s->stage == p->n_stages - 1;
    s->leads = s->member == 0;
    return CL_OK;
}

/* Every rank has placed by itself: what they say to each other from now on must fit together. */
static cl_code same_placement(cl_run *r, cl_err *err)
{
    return cl_ranks_same(r->ranks, cl_placement_hash(&r->plan.placement), "the placement", err);
}

const phase plan_phases[PLAN_PHASES] = {{"reading the model's description", read_model, NULL},
                                        {"comparing models", same_model, NULL},
                                        {"reading the routing", read_routing, has_routing},
                                        {"measuring links and memory", measure, must_choose},
                                        {"choosing a layout", choose_layout, NULL},
                                        {"placing the model", place, NULL},
                                        {"comparing placements", same_placement, NULL}};
