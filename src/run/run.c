/* run.c: a model on a line: from the placement to loaded chips, and the numbers at the end. */
#include <stdlib.h>

#include "run_internal.h"

static cl_code choose_limits(cl_run *r, int stages, cl_err *err)
{
    const cl_run_options *o = &r->opt;
    const cl_spec *s = &r->model.spec;
    int context = o->context ? o->context : s->context < CL_DEFAULT_CONTEXT ? s->context : CL_DEFAULT_CONTEXT;
    if (context > s->context)
        return cl_fail(err, CL_E_FIT,
                       "--context: %d is over the %d positions the model was made for (use at most that)", context,
                       s->context);
    r->limits = (cl_limits){.slots = o->slots ? o->slots : 4 * stages,
                            .context = context,
                            .chunk = o->chunk ? o->chunk : CL_DEFAULT_CHUNK,
                            .hidden = s->hidden,
                            .vocab = s->vocab};
    if (r->limits.chunk > context) r->limits.chunk = context;
    return CL_OK;
}

/* auto: mixed 8-bit where most of the weights are quantised. */
static void choose_arithmetic(cl_run *r)
{
    r->activations = r->opt.activations != CL_ACT_AUTO ? r->opt.activations
                     : cl_model_quantised(&r->model)   ? CL_ACT_MIXED
                                                       : CL_ACT_F32;
    r->kv = !r->opt.kv_auto ? r->opt.kv : r->activations == CL_ACT_F32 ? CL_KV_F32 : CL_KV_BF16;
}

static cl_code open_model(cl_run *r, cl_err *err)
{
    cl_code c = cl_model_file_open(&r->file, r->opt.model_path, err);
    if (c != CL_OK) return c;
    r->checksum = cl_model_file_checksum(r->file);
    if (!(r->source = cl_strdup(cl_model_file_source(r->file), err))) return CL_E_FIT;
    return cl_model_copy(cl_model_file_model(r->file), &r->model, err);
}

/* A stale copy on one node would mix two models. Collective. */
static cl_code same_model(cl_run *r, cl_err *err)
{
    uint64_t first = r->checksum;
    cl_line_bcast(r->line, &first, sizeof first);
    if (first == r->checksum) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: on %s (rank %d) is not the same model as on rank 0 (copy the file again)",
                   r->opt.model_path, cl_line_host(r->line), cl_line_rank(r->line));
}

static cl_place_options place_options(const cl_run *r)
{
    return (cl_place_options){.layout = r->layout.n_stages ? &r->layout : NULL,
                              .ranks = cl_line_size(r->line) / r->opt.replicas,
                              .experts = r->opt.experts,
                              .routing = r->chosen ? &r->routing : NULL,
                              .copies = r->chosen != NULL,
                              .kv = r->kv,
                              .slots = r->limits.slots,
                              .context = r->limits.context,
                              .chunk = r->limits.chunk,
                              .chip_bytes = r->opt.chip_bytes};
}

/* Read rate of the slowest rank, and link costs: the same numbers everywhere. Collective. */
static cl_code measure(cl_run *r, cl_err *err)
{
    enum { MOST = 256 << 20, LEAST = 1 << 20 };
    cl_model_counts n;
    cl_model_count(&r->model, &n);
    uint64_t bytes = 0, size = (uint64_t)cl_line_size(r->line);
    for (int f = 0; f < CL_FORMATS; f++) bytes += n.bytes[f] / size;
    bytes = bytes > MOST ? MOST : bytes < LEAST ? LEAST : bytes;
    const cl_line_options how = {.threads = r->opt.threads,
                                 .carrier = r->opt.carrier,
                                 .wait = r->opt.wait,
                                 .stall_timeout_s = r->opt.stall_timeout_s};
    double *all = cl_calloc(size, sizeof *all, "rates", err);
    cl_code c = cl_line_agree(r->line, all ? CL_OK : CL_E_FIT, err);
    if (c == CL_OK) c = cl_line_measure(r->line, &how, &r->rates, err);
    if (c == CL_OK) {
        cl_line_barrier(r->line); /* all ranks of a host read at once, as they will */
        double mine = cl_chip_probe_memory((size_t)bytes, r->opt.threads);
        cl_line_gather(r->line, &mine, sizeof mine, all);
        r->rates.read_bytes_per_s = all[0];
        for (uint64_t i = 1; i < size && cl_line_rank(r->line) == 0; i++)
            if (all[i] < r->rates.read_bytes_per_s) r->rates.read_bytes_per_s = all[i];
        cl_line_bcast(r->line, &r->rates, sizeof r->rates);
    }
    free(all);
    return c == CL_OK && !(r->rates.read_bytes_per_s > 0)
               ? cl_fail(err, CL_E_FIT, "memory: a rank has none to spare for a probe (use more nodes)")
               : c;
}

/* Rank 0 reads which experts are hot, all know it then. Collective. */
static cl_code read_routing(cl_run *r, cl_err *err)
{
    if (!r->opt.routing_path) return CL_OK;
    bool root = cl_line_rank(r->line) == 0;
    cl_routing *t = &r->routing;
    cl_code c = root ? cl_trace_routing_read(r->opt.routing_path, &r->chosen, &t->n_layers, &t->experts, err) : CL_OK;
    if (c != CL_OK) cl_fail_prefix(err, "--routing");
    if ((c = cl_line_agree(r->line, c, err)) != CL_OK) return c;
    cl_line_bcast(r->line, &t->n_layers, sizeof t->n_layers);
    cl_line_bcast(r->line, &t->experts, sizeof t->experts);
    size_t n = (size_t)t->n_layers * (size_t)t->experts;
    if (!root) r->chosen = cl_malloc(n, sizeof *r->chosen, "routing", err);
    if ((c = cl_line_agree(r->line, r->chosen ? CL_OK : CL_E_FIT, err)) != CL_OK) return c;
    for (int i = 0; i < t->n_layers; i++)
        cl_line_bcast(r->line, r->chosen + (size_t)i * (size_t)t->experts, (size_t)t->experts * sizeof *r->chosen);
    t->chosen = r->chosen;
    return CL_OK;
}

static bool must_choose(const cl_run *r)
{
    return !r->opt.layout && (r->opt.layout_auto || cl_line_size(r->line) / r->opt.replicas > r->model.spec.n_layers);
}

/* Which S x G; limits are then those of that many stages. */
static cl_code choose_layout(cl_run *r, cl_err *err)
{
    int ranks = cl_line_size(r->line) / r->opt.replicas;
    cl_code c = CL_OK;
    if (r->opt.layout && r->opt.replicas > 1 && cl_layout_chips(r->opt.layout) != ranks)
        return cl_fail(
            err, CL_E_FIT,
            "--replicas: %d lines of %d chips need %d ranks, there are %d (start that many, or leave --layout out)",
            r->opt.replicas, cl_layout_chips(r->opt.layout), r->opt.replicas * cl_layout_chips(r->opt.layout),
            cl_line_size(r->line));
    if (r->opt.layout) c = cl_layout_copy(r->opt.layout, &r->layout, err);
    else if (!must_choose(r)) c = cl_layout_make(ranks, 1, &r->layout, err);
    else {
        if ((c = choose_limits(r, ranks, err)) != CL_OK) return c;
        cl_place_options p = place_options(r);
        c = cl_choose_layout(&r->model, &p, &r->rates, r->limits.slots == 1 ? CL_GOAL_LATENCY : CL_GOAL_THROUGHPUT,
                             &r->layout, NULL, NULL, err);
    }
    return c == CL_OK ? choose_limits(r, r->layout.n_stages, err) : c;
}

static cl_code place(cl_run *r, cl_err *err)
{
    cl_place_options p = place_options(r);
    cl_code c = cl_place(&r->model, &p, &r->placement, err);
    if (c != CL_OK) return c;
    int n = r->placement.n_ranks, rank = cl_line_rank(r->line);
    r->replica = rank / n;
    r->line_rank0 = r->replica * n;
    r->stage = cl_placement_stage(&r->placement, rank - r->line_rank0);
    r->member = rank - r->line_rank0 - r->placement.stages[r->stage].first_rank;
    r->first = r->stage == 0;
    r->last = r->stage == r->placement.n_stages - 1;
    r->leads = r->member == 0;
    return CL_OK;
}

static cl_code open_trace(cl_run *r, cl_err *err)
{
    if (!r->opt.trace_path || r->opt.trace_level == CL_TRACE_OFF) return CL_OK;
    cl_code c = cl_line_rank(r->line) == 0 ? cl_check_new(r->opt.trace_path, err) : CL_OK;
    if ((c = cl_line_agree(r->line, c, err)) != CL_OK) return c; /* before a part file stands beside it */
    if (!(r->part_path = cl_part_path(r->opt.trace_path, cl_line_rank(r->line), err))) return CL_E_FIT;
    return cl_trace_open(&r->trace, r->part_path, cl_line_rank(r->line), r->opt.trace_level, err);
}

static cl_chip_options chip_options(const cl_run *r)
{
    return (cl_chip_options){.threads = r->opt.threads,
                             .activations = r->activations,
                             .kv = r->kv,
                             .limits = r->limits,
                             .kernels = r->opt.kernels,
                             .experts = r->placement.experts,
                             .progress = r->opt.progress && cl_line_rank(r->line) == 0,
                             .poll = cl_line_poll,
                             .poll_ctx = r->line};
}

/* Ranks of the first chip of a stage of this rank's line. */
static int head_of(const cl_run *r, int stage) { return r->line_rank0 + r->placement.stages[stage].first_rank; }

/* Collective. */
static cl_code open_line(cl_run *r, cl_err *err)
{
    const cl_stage *stage = &r->placement.stages[r->stage];
    const cl_chip_options chip = chip_options(r);
    cl_line_options o = {.limits = r->limits,
                         .stage_first = head_of(r, r->stage),
                         .members = stage->n_ranks,
                         .prev = r->first ? -1 : head_of(r, r->stage - 1),
                         .next = r->last ? -1 : head_of(r, r->stage + 1),
                         .first = head_of(r, 0),
                         .last = head_of(r, r->placement.n_stages - 1),
                         .threads = r->opt.threads,
                         .exchange_bytes = cl_chip_exchange_bytes(&r->model.spec, stage, &chip),
                         .carrier = r->opt.carrier,
                         .wait = r->opt.wait,
                         .stall_timeout_s = r->opt.stall_timeout_s,
                         .trace = r->trace};
    cl_code c = cl_line_open(r->line, &o, err);
    if (c == CL_OK && r->last)
        c = cl_output_create(&r->out, &r->limits, r->opt.allowed_vocab, stage->n_ranks,
                             r->leads && r->replica == 0 ? r->opt.logits_path : NULL, err);
    return c;
}

/* Weights may take more memory as they are kept than in the file. */
static cl_code check_budget(const cl_run *r, cl_err *err)
{
    char a[32], b[32];
    uint64_t slice = cl_chip_slice_bytes(r->chip), kv = cl_chip_kv_bytes(r->chip);
    if (!r->opt.chip_bytes || slice + kv <= r->opt.chip_bytes) return CL_OK;
    return cl_fail(err, CL_E_FIT,
                   "--chip: rank %d keeps weights of %s and a cache of %s, %llu bytes more than a chip has (use more "
                   "ranks, fewer slots or a "
                   "shorter context)",
                   cl_line_rank(r->line), cl_human_bytes((double)slice, a), cl_human_bytes((double)kv, b),
                   (unsigned long long)(slice + kv - r->opt.chip_bytes));
}

static cl_code open_chip(cl_run *r, cl_err *err)
{
    cl_part *parts = NULL;
    int n = 0;
    cl_code c = cl_placement_slice(&r->model, &r->placement, cl_line_rank(r->line) - r->line_rank0, &parts, &n, err);
    cl_chip_options o = chip_options(r);
    o.group = cl_line_group(r->line);
    uint64_t t0 = cl_now_ns();
    if (c == CL_OK) c = cl_chip_create(&r->chip, r->file, &r->placement.stages[r->stage], parts, n, &o, r->trace, err);
    r->load_s = (double)(cl_now_ns() - t0) * 1e-9;
    free(parts);
    cl_model_file_close(r->file);
    r->file = NULL;
    return c == CL_OK ? check_budget(r, err) : c;
}

static void own_numbers(cl_run *r, cl_rank_numbers *n, cl_trace_rank *t);

/* Clocks, the bandwidth that this rank's slice can be read with, and what a recovery would need. */
static cl_code start_trace(cl_run *r, cl_err *err)
{
    cl_line_clock(r->line, &r->clock_offset, &r->clock_uncertainty);
    cl_line_barrier(r->line); /* all ranks of a host probe at once, as they compute at once */
    cl_mark m = cl_trace_mark(r->trace, CL_TRACE_STAGE);
    r->probe = cl_chip_probe(r->chip);
    cl_event e = {.kind = CL_EV_PROBE, .layer = -1, .microbatch = -1, .peer = -1, .waits_for = -1};
    cl_trace_end(r->trace, m, &e);
    cl_rank_numbers mine;
    cl_trace_rank row;
    own_numbers(r, &mine, &row);
    bool root = cl_line_rank(r->line) == 0;
    r->rank_rows = cl_calloc(root ? (size_t)cl_line_size(r->line) : 1, sizeof row, "rank rows", err);
    cl_code c = cl_line_agree(r->line, r->rank_rows ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    cl_line_gather(r->line, &row, sizeof row, r->rank_rows);
    return cl_line_agree(r->line, root ? cl_run_note_ranks(r, err) : CL_OK, err);
}

cl_code cl_run_open(cl_run **out, cl_line *line, const cl_run_options *opt, cl_err *err)
{
    cl_run *r = cl_calloc(1, sizeof *r, "run", err);
    cl_code c = r ? CL_OK : CL_E_FIT;
    if ((c = cl_line_agree(line, c, err)) != CL_OK) {
        free(r);
        return c;
    }
    r->line = line;
    r->opt = *opt;
    if (!r->opt.replicas) r->opt.replicas = 1;
    if (!r->opt.threads) r->opt.threads = cl_line_threads_fit(line);
    cl_line_bcast(line, &r->opt.allowed_vocab, sizeof r->opt.allowed_vocab);
    cl_line_bcast(line, &r->opt.n_eos, sizeof r->opt.n_eos);
    cl_line_bcast(line, r->opt.eos, sizeof r->opt.eos);
    c = cl_line_size(line) % r->opt.replicas == 0
            ? open_model(r, err)
            : cl_fail(err, CL_E_FIT, "--replicas: %d ranks are not %d equal lines (start a multiple of %d)",
                      cl_line_size(line), r->opt.replicas, r->opt.replicas);
    if (c == CL_OK) choose_arithmetic(r);
    c = cl_line_agree(line, c, err);
    if (c == CL_OK) c = cl_line_agree(line, same_model(r, err), err);
    if (c == CL_OK) c = read_routing(r, err);
    if (c == CL_OK && must_choose(r)) c = cl_line_agree(line, measure(r, err), err);
    if (c == CL_OK) c = choose_layout(r, err);
    if (c == CL_OK) c = place(r, err);
    c = cl_line_agree(line, c, err);
    if (c == CL_OK) *out = r;
    else cl_run_close(r);
    return c;
}

cl_code cl_run_load(cl_run *r, cl_err *err)
{
    cl_code c = cl_line_agree(r->line, open_trace(r, err), err);
    if (c == CL_OK) c = cl_line_agree(r->line, open_line(r, err), err);
    if (c == CL_OK) c = cl_line_agree(r->line, open_chip(r, err), err);
    return c == CL_OK && r->trace ? start_trace(r, err) : c;
}

const cl_model *cl_run_model(const cl_run *r) { return &r->model; }
cl_limits cl_run_limits(const cl_run *r) { return r->limits; }

void cl_run_close(cl_run *r)
{
    if (!r) return;
    cl_output_free(&r->out, r->limits.slots);
    cl_chip_free(r->chip);
    cl_trace_close(r->trace);
    if (r->part_path && !r->numbers) { /* never got to work: nothing in it */
        char *run_path = cl_line_rank(r->line) == 0 ? cl_part_path(r->opt.trace_path, -1, NULL) : NULL;
        remove(r->part_path);
        if (run_path) remove(run_path);
        free(run_path);
    }
    free(r->part_path);
    cl_placement_free(&r->placement);
    cl_layout_free(&r->layout);
    cl_model_free(&r->model);
    cl_model_file_close(r->file);
    free(r->source);
    free(r->chosen);
    free(r->rank_rows);
    free(r->numbers);
    free(r->ttft);
    free(r->request_rows);
    free(r);
}

/* --- numbers --- */

cl_code cl_run_note_request(cl_run *r, const cl_request *q, const cl_result *res, cl_err *err)
{
    if (r->requests == r->ttft_cap) {
        int64_t cap = r->ttft_cap ? 2 * r->ttft_cap : 64;
        double *p = cl_realloc(r->ttft, (size_t)cap, sizeof *p, "request numbers", err);
        if (!p) return CL_E_FIT;
        r->ttft = p;
        cl_trace_request *t = cl_realloc(r->request_rows, (size_t)cap, sizeof *t, "request numbers", err);
        if (!t) return CL_E_FIT;
        r->request_rows = t;
        r->ttft_cap = cap;
    }
    cl_trace_request *t = &r->request_rows[r->requests];
    *t = (cl_trace_request){.prompt_tokens = q->n_prompt,
                            .completion_tokens = res->n_tokens,
                            .arrived_ns = q->arrived_ns,
                            .started_ns = res->started_ns,
                            .first_token_ns = res->first_token_ns,
                            .finished_ns = res->finished_ns};
    snprintf(t->id, sizeof t->id, "%.60s", q->id);
    cl_utf8_repair(t->id);
    snprintf(t->finish_reason, sizeof t->finish_reason, "%s", res->finish_reason);
    r->failed += q->error.code != CL_OK;
    r->ttft[r->requests++] = res->first_token_ns ? (double)(res->first_token_ns - q->arrived_ns) * 1e-9 : -1;
    if (q->error.code != CL_OK) return CL_OK;
    r->prompt_tokens += q->n_prompt;
    r->generated_tokens += res->n_tokens;
    return CL_OK;
}

/* Median of the first tokens' times; requests without one don't count. */
static double median_ttft(cl_run *r)
{
    int n = 0;
    for (int64_t i = 0; i < r->requests; i++)
        if (r->ttft[i] >= 0) r->ttft[n++] = r->ttft[i];
    return n ? cl_median(r->ttft, n) : 0;
}

static void own_numbers(cl_run *r, cl_rank_numbers *n, cl_trace_rank *t)
{
    const cl_stage *stage = &r->placement.stages[r->stage];
    uint64_t weights, cache, slice = cl_chip_slice_bytes(r->chip), kv = cl_chip_kv_bytes(r->chip),
                             peak = cl_rss_peak_bytes();
    uint64_t base = cl_line_baseline_bytes(r->line);
    cl_chip_traffic(r->chip, &weights, &cache);
    double serve = (double)r->serve_ns, busy = (double)r->busy_ns;
    *n = (cl_rank_numbers){.rank = cl_line_rank(r->line),
                           .replica = r->replica,
                           .stage = r->stage,
                           .member = r->member,
                           .threads = r->opt.threads,
                           .first_layer = stage->first_layer,
                           .n_layers = stage->n_layers,
                           .slice_bytes = slice,
                           .kv_bytes = kv,
                           .rss_bytes = peak,
                           .baseline_bytes = base,
                           .over_bytes = (int64_t)peak - (int64_t)(slice + kv + base),
                           .busy = serve > 0 ? busy / serve : 0,
                           .wait = serve > 0 ? (double)cl_line_wait_ns(r->line) / serve : 0,
                           .read_gb_per_s = busy > 0 ? (double)(weights + cache) / busy : 0,
                           .probe_gb_per_s = r->probe * 1e-9};
    snprintf(n->host, sizeof n->host, "%s", cl_line_host(r->line));
    *t = (cl_trace_rank){.rank = n->rank,
                         .replica = n->replica,
                         .stage = n->stage,
                         .member = n->member,
                         .threads = n->threads,
                         .budget_bytes = r->opt.chip_bytes,
                         .host_cores = cl_line_cores_here(r->line),
                         .clock_offset_ns = r->clock_offset,
                         .clock_uncertainty_ns = r->clock_uncertainty,
                         .slice_bytes = slice,
                         .kv_bytes = kv,
                         .baseline_bytes = base,
                         .peak_rss_bytes = peak,
                         .first_layer = n->first_layer,
                         .n_layers = n->n_layers,
                         .probe_bytes_per_s = r->probe,
                         .events = cl_trace_count(r->trace),
                         .dropped = cl_trace_dropped(r->trace)};
    snprintf(t->host, sizeof t->host, "%s", n->host);
    cl_cpu_name(t->cpu, sizeof t->cpu);
}

static void fill_numbers(cl_run *r, cl_run_numbers *out)
{
    double prompt = (double)r->prompt_ns * 1e-9, decode = (double)r->decode_ns * 1e-9;
    int64_t decoded = r->generated_tokens - (r->requests - r->failed);
    *out = (cl_run_numbers){.elapsed_s = (double)r->serve_ns * 1e-9,
                            .load_s = r->load_s,
                            .requests = r->requests,
                            .failed = r->failed,
                            .prompt_tokens = r->prompt_tokens,
                            .generated_tokens = r->generated_tokens,
                            .prompt_tokens_per_s = prompt > 0 ? (double)r->prompt_tokens / prompt : 0,
                            .generation_tokens_per_s = decode > 0 && decoded > 0 ? (double)decoded / decode : 0,
                            .ttft_s = median_ttft(r),
                            .model_checksum = r->checksum,
                            .stages = r->placement.n_stages,
                            .replicas = r->opt.replicas,
                            .shared = cl_line_shared(r->line),
                            .slots = r->limits.slots,
                            .context = r->limits.context,
                            .cores_here = cl_line_cores_here(r->line),
                            .kernels = cl_chip_kernels(r->chip),
                            .activations = cl_activations_name(r->activations),
                            .kv = cl_kv_name(r->kv),
                            .rates = r->rates,
                            .n_ranks = cl_line_size(r->line),
                            .ranks = r->numbers};
    cl_layout_name(&r->layout, out->layout, sizeof out->layout);
    for (int i = 0; i < out->n_ranks; i++) out->threads_total += r->numbers[i].threads;
}

cl_code cl_run_finish(cl_run *r, cl_run_numbers *numbers, cl_err *err)
{
    if (r->trace) {
        int64_t offset, uncertainty;
        cl_line_clock(r->line, &offset, &uncertainty);
        if (uncertainty < r->clock_uncertainty) r->clock_offset = offset, r->clock_uncertainty = uncertainty;
    }
    cl_rank_numbers mine;
    cl_trace_rank row;
    own_numbers(r, &mine, &row);
    cl_code c = CL_OK;
    size_t size = (size_t)cl_line_size(r->line);
    bool root = cl_line_rank(r->line) == 0;
    if (!(r->numbers = cl_calloc(root ? size : 1, sizeof *r->numbers, "rank numbers", err))) c = CL_E_FIT;
    if ((c = cl_line_agree(r->line, c, err)) != CL_OK) return c;
    cl_line_gather(r->line, &mine, sizeof mine, r->numbers);
    if (r->trace) cl_line_gather(r->line, &row, sizeof row, r->rank_rows);
    if (root) fill_numbers(r, numbers);
    c = r->last ? cl_output_finish(&r->out, err) : CL_OK;
    c = cl_line_agree(r->line, c, err);
    return c == CL_OK && r->trace ? cl_run_collect(r, err) : c;
}
