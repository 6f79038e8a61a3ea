/* stats.c: the numbers of a run. */
#include "run_internal.h"

cl_rank_stats stats_of_rank(const cl_run *r)
{
    const cl_chip_sizes size = r->chip.sizes(r->chip.ctx);
    const cl_traffic read = r->chip.traffic(r->chip.ctx);
    const uint64_t peak = cl_rss_peak_bytes(), base = cl_ranks_baseline_bytes(r->ranks);
    const double serve = (double)r->serve_ns, busy = (double)r->busy_ns;
    cl_rank_stats s = {.rank = cl_ranks_rank(r->ranks),
                       .replica = r->seat.replica,
                       .stage = r->seat.stage,
                       .member = r->seat.member,
                       .threads = r->opt.threads,
                       .first_layer = r->seat.at->first_layer,
                       .n_layers = r->seat.at->n_layers,
                       .slice_bytes = size.slice_bytes,
                       .kv_bytes = size.kv_bytes,
                       .counted_bytes = r->counted_bytes,
                       .before_bytes = r->before_bytes,
                       .rss_bytes = peak,
                       .baseline_bytes = base,
                       .over_bytes = (int64_t)peak - (int64_t)(size.slice_bytes + size.kv_bytes + base),
                       .busy = serve > 0 ? busy / serve : 0,
                       .wait = serve > 0 ? (double)cl_line_wait_ns(r->line) / serve : 0,
                       .read_gb_per_s = busy > 0 ? (double)(read.weight_bytes + read.kv_bytes) / busy : 0,
                       .probe_gb_per_s = r->trace.probe * 1e-9};
    snprintf(s.host, sizeof s.host, "%s", cl_ranks_host(r->ranks));
    return s;
}

cl_trace_rank trace_row(const cl_run *r, const cl_rank_stats *s)
{
    const run_trace *t = &r->trace;
    cl_trace_rank row = {.rank = s->rank,
                         .replica = s->replica,
                         .stage = s->stage,
                         .member = s->member,
                         .threads = s->threads,
                         .budget_bytes = r->opt.chip_bytes,
                         .host_cores = cl_ranks_seat(r->ranks).cores_here,
                         .clock_offset_ns = t->clock_offset,
                         .clock_uncertainty_ns = t->clock_uncertainty,
                         .slice_bytes = s->slice_bytes,
                         .kv_bytes = s->kv_bytes,
                         .baseline_bytes = s->baseline_bytes,
                         .peak_rss_bytes = s->rss_bytes,
                         .first_layer = s->first_layer,
                         .n_layers = s->n_layers,
                         .probe_bytes_per_s = t->probe,
                         .peak_int8_ops_per_s = t->peak_int8,
                         .peak_f32_ops_per_s = t->peak_f32,
                         .dropped = cl_trace_dropped(t->recorder)};
    snprintf(row.host, sizeof row.host, "%s", s->host);
    cl_cpu_name(row.cpu, sizeof row.cpu);
    return row;
}

static double rate(int64_t tokens, uint64_t ns) { return ns && tokens > 0 ? (double)tokens / ((double)ns * 1e-9) : 0; }

double cl_prompt_rate(const cl_session_stats *s) { return rate(s->prompt_tokens, s->prompt_ns); }

double cl_decode_rate(const cl_session_stats *s) { return rate(s->generated_tokens - s->first_tokens, s->decode_ns); }

cl_run_stats run_stats(const cl_run *r)
{
    const run_plan *p = &r->plan;
    const cl_session_stats *s = &r->session;
    cl_run_stats out = {.elapsed_s = (double)r->serve_ns * 1e-9,
                        .load_s = r->load_s,
                        .requests = s->requests,
                        .failed = s->failed,
                        .prompt_tokens = s->prompt_tokens,
                        .generated_tokens = s->generated_tokens,
                        .prompt_tokens_per_s = cl_prompt_rate(s),
                        .generation_tokens_per_s = cl_decode_rate(s),
                        .ttft_s = s->ttft_s,
                        .model_checksum = p->checksum,
                        .stages = p->placement.n_stages,
                        .replicas = r->opt.replicas,
                        .shared = cl_line_shared(r->line),
                        .slots = p->limits.slots,
                        .context = p->limits.context,
                        .cores_here = cl_ranks_seat(r->ranks).cores_here,
                        .kernels = r->chip.kernels,
                        .activations = cl_activations_name(p->activations),
                        .kv = cl_kv_name(p->kv),
                        .rates = p->rates,
                        .n_ranks = cl_ranks_size(r->ranks),
                        .ranks = r->stats};
    cl_layout_name(&p->layout, out.layout, sizeof out.layout);
    for (int i = 0; i < out.n_ranks; i++) out.threads_total += r->stats[i].threads;
    return out;
}
