/* describe.c: what a trace file says of its run. */
#include <time.h>

#include "chipline/cost.h"
#include "run_internal.h"

static void put_int(json_t *j, const char *key, int64_t v) { json_object_set_new(j, key, json_integer(v)); }
static void put_real(json_t *j, const char *key, double v) { json_object_set_new(j, key, json_real(v)); }
static void put_bool(json_t *j, const char *key, bool v) { json_object_set_new(j, key, json_boolean(v)); }
static void put_text(json_t *j, const char *key, const char *v)
{
    json_object_set_new(j, key, json_string(v ? v : ""));
}

static json_t *describe_stage(const cl_stage *s)
{
    json_t *j = json_object();
    put_int(j, "first_layer", s->first_layer);
    put_int(j, "layers", s->n_layers);
    put_bool(j, "embed", s->embed);
    put_bool(j, "head", s->head);
    put_bool(j, "split_routers", s->split_routers);
    put_int(j, "first_rank", s->first_rank);
    put_int(j, "ranks", s->n_ranks);
    put_int(j, "weight_bytes", (int64_t)s->weight_bytes);
    put_int(j, "kv_bytes", (int64_t)s->kv_bytes);
    put_int(j, "token_bytes", (int64_t)s->token_bytes);
    put_int(j, "token_kv_bytes", (int64_t)s->token_kv_bytes);
    return j;
}

static void describe_program(const cl_run *r, json_t *j)
{
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    put_text(j, "command", r->opt.command);
    put_text(j, "version", r->opt.version);
    put_text(j, "revision", r->opt.revision);
    put_text(j, "build_flags", r->opt.build_flags);
    put_text(j, "finished_utc", when);
}

static void describe_model(const run_plan *p, json_t *j)
{
    char sum[17];
    cl_model_counts n;
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)p->checksum);
    cl_model_count(&p->model, &n);
    put_text(j, "model", p->source);
    put_text(j, "model_checksum", sum);
    put_text(j, "family", p->model.spec.family);
    put_int(j, "model_layers", p->model.spec.n_layers);
    put_int(j, "parameters", (int64_t)n.parameters);
    put_int(j, "active_parameters", (int64_t)n.active_parameters);
    put_int(j, "model_read_bytes_per_token", (int64_t)cl_model_token_bytes(&p->model, NULL));
    for (int i = 0; i < p->model.spec.n_layers; i++) {
        const cl_ffn *f = &p->model.spec.layers[i].ffn;
        if (f->kind != CL_FFN_MOE) continue;
        put_int(j, "experts", f->experts);
        put_int(j, "experts_per_token", f->top_k);
        break;
    }
}

static void describe_plan(const cl_run *r, json_t *j)
{
    const run_plan *p = &r->plan;
    char layout[64];
    json_t *stages = json_array();
    cl_layout_name(&p->layout, layout, sizeof layout);
    for (int i = 0; i < p->placement.n_stages; i++)
        json_array_append_new(stages, describe_stage(&p->placement.stages[i]));
    json_object_set_new(j, "stages", stages);
    put_text(j, "layout", layout);
    put_int(j, "replicas", r->opt.replicas);
    put_text(j, "expert_mode", p->placement.experts ? "whole" : "sliced");
    put_bool(j, "shared_memory", cl_line_shared(r->line));
    put_int(j, "ranks", cl_ranks_size(r->ranks));
    put_int(j, "cores_of_rank0_host", cl_ranks_seat(r->ranks).cores_here);
    put_int(j, "slots", p->limits.slots);
    put_int(j, "context", p->limits.context);
    put_int(j, "chunk", p->limits.chunk);
    put_text(j, "activations", cl_activations_name(p->activations));
    put_text(j, "kv", cl_kv_name(p->kv));
    put_text(j, "kernels", r->chip.kernels);
    put_int(j, "trace_level", r->opt.trace_level);
    put_text(j, "trace_ranks", r->opt.trace_ranks ? r->opt.trace_ranks : "all");
    if (!(p->rates.read_bytes_per_s > 0)) return;
    json_t *by = json_object();
    put_real(by, "read_bytes_per_s", p->rates.read_bytes_per_s);
    put_real(by, "gather_s", p->rates.gather_s);
    put_real(by, "gather_bytes_per_s", p->rates.gather_bytes_per_s);
    put_real(by, "hop_s", p->rates.hop_s);
    put_real(by, "hop_bytes_per_s", p->rates.hop_bytes_per_s);
    json_object_set_new(j, "layout_chosen_by", by);
}

static void describe_work(const cl_run *r, json_t *j)
{
    const cl_session_stats *s = &r->session;
    put_real(j, "elapsed_s", (double)r->serve_ns * 1e-9);
    put_int(j, "requests", s->requests);
    put_int(j, "prompt_tokens", s->prompt_tokens);
    put_int(j, "generated_tokens", s->generated_tokens);
    put_real(j, "prompt_s", (double)s->prompt_ns * 1e-9);
    put_real(j, "decode_s", (double)s->decode_ns * 1e-9);
    put_real(j, "serve_start_s", (double)r->serve_start * 1e-9);
    put_real(j, "load_s", r->load_s);
}

char *trace_describe(const cl_run *r, bool ended)
{
    json_t *j = json_object();
    describe_program(r, j);
    describe_model(&r->plan, j);
    describe_plan(r, j);
    describe_work(r, j);
    put_bool(j, "ended", ended);
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    return text;
}
