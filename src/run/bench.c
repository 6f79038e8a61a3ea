/* bench.c: a loaded run serves requests of its own, again and again, and is measured against the read bandwidth of
 * its slices and the arithmetic of its cores, which are probed in between. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "chipline/cost.h"
#include "run_internal.h"

/* --- statistics --- */

/* Of sorted values, 0 <= q <= 1, between two of them where need be. */
static double quantile(const double *v, int n, double q)
{
    double at = q * (n - 1);
    int i = (int)at;
    return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[n - 1];
}

/* Half the 95 % interval of a median, by the median absolute deviation as for normal noise: sigma is 1.4826 times
 * that, and a median's standard error 1.2533 times the mean's. */
static double half_interval(const double *values, int n, double median)
{
    double off[CL_BENCH_MOST];
    for (int i = 0; i < n; i++) off[i] = fabs(values[i] - median);
    return 1.96 * 1.2533 * 1.4826 * cl_median(off, n) / sqrt(n);
}

static double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

bool cl_bench_add(cl_bench_case *c, const cl_bench_run *run)
{
    static const double STEADY = 0.02;
    double v[7][CL_BENCH_MOST];
    c->runs[c->n_runs++] = *run;
    int n = c->n_runs;
    for (int i = 0; i < n; i++) {
        const cl_bench_run *k = &c->runs[i];
        const double of[7] = {k->tokens_per_s,
                              k->read_gb_per_s,
                              k->probe_gb_per_s,
                              k->gop_per_s,
                              k->peak_gop_per_s,
                              share(k->read_gb_per_s, k->probe_gb_per_s),
                              share(k->gop_per_s, k->peak_gop_per_s)};
        for (int m = 0; m < 7; m++) v[m][i] = of[m];
    }
    c->tokens_per_s = cl_median(v[0], n);
    c->spread = share(quantile(v[0], n, 0.75) - quantile(v[0], n, 0.25), c->tokens_per_s);
    c->read_gb_per_s = cl_median(v[1], n);
    c->probe_gb_per_s = cl_median(v[2], n);
    c->gop_per_s = cl_median(v[3], n);
    c->peak_gop_per_s = cl_median(v[4], n);
    c->share_of_probe = cl_median(v[5], n);
    c->share_of_peak = cl_median(v[6], n);
    return n == CL_BENCH_MOST ||
           (n >= CL_BENCH_LEAST && half_interval(v[0], n, c->tokens_per_s) <= STEADY * c->tokens_per_s);
}

/* --- requests --- */

/* What rank 0 gives to the line and sees of it. */
typedef struct feed {
    cl_request_defaults defaults;
    int sequences, n_prompt; /* of one round */
    int32_t *prompt;         /* [n_prompt] */
    bool *begun;             /* [sequences] its first token is there */
    int given, n_begun;
    int64_t after;                           /* tokens since all have begun */
    uint64_t random, start, all_begun, last; /* ns: the first request was asked for; ...; the last token was there */
} feed;

/* splitmix64: any ids will do, but the same in every round. */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static cl_request *next(void *ctx, int wait_ms, bool *ended)
{
    feed *f = ctx;
    char id[16];
    if (!f->given) f->start = cl_now_ns();
    for (int i = 0; i < f->n_prompt; i++) f->prompt[i] = (int32_t)(draw(&f->random) % (uint64_t)f->defaults.vocab);
    snprintf(id, sizeof id, "%d", f->given);
    cl_request *q = cl_request_from_ids(&f->defaults, id, f->prompt, f->n_prompt);
    if (q) q->owner = &f->begun[f->given];
    *ended = ++f->given >= f->sequences;
    return q;
}

static void token(void *ctx, const cl_request *q, int32_t id, uint64_t digest, bool last)
{
    feed *f = ctx;
    bool *begun = q->owner;
    f->last = cl_now_ns();
    if (f->n_begun == f->sequences) f->after++;
    else if (!*begun) {
        *begun = true;
        f->n_begun++;
        f->all_begun = f->last;
    }
}

static cl_code done(void *ctx, cl_request *q, const cl_result *result, cl_err *err)
{
    cl_code c = q->error.code;
    if (c != CL_OK) *err = q->error;
    cl_request_free(q);
    return c;
}

static cl_code open_feed(const cl_run *r, const cl_bench_case *c, feed *f, cl_err *err)
{
    int decode = c->kind == CL_BENCH_DECODE, n_prompt = decode ? 1 : c->tokens;
    *f = (feed){.sequences = c->sequences, .n_prompt = n_prompt};
    f->defaults = (cl_request_defaults){.sampling = {.repeat_penalty = 1},
                                        .ignore_eos = true,
                                        .context = r->plan.limits.context,
                                        .vocab = r->plan.limits.vocab};
    f->prompt = cl_malloc((size_t)n_prompt, sizeof *f->prompt, "prompt", err);
    f->begun = cl_calloc((size_t)c->sequences, sizeof *f->begun, "sequences", err);
    return f->prompt && f->begun ? CL_OK : CL_E_FIT;
}

/* --- measuring --- */

/* Bytes read by all ranks since they began, on rank 0. Collective. */
static uint64_t traffic(cl_run *r)
{
    const cl_traffic t = r->chip.traffic(r->chip.ctx);
    uint64_t mine[2] = {t.weight_bytes, t.kv_bytes};
    cl_ranks_sum(r->ranks, mine, 2);
    return mine[0] + mine[1];
}

/* All ranks at once, as they compute at once: GB/s of reading slices and Gop/s, summed, on rank 0. Collective. */
static void probe(cl_run *r, double *all, double sum[2])
{
    cl_ranks_barrier(r->ranks);
    double mine[2] = {r->chip.probe(r->chip.ctx)};
    cl_ranks_barrier(r->ranks);
    mine[1] = cl_probe_peak(r->opt.crew, r->chip.kernels, r->plan.activations != CL_ACT_F32, false);
    cl_ranks_gather(r->ranks, mine, sizeof mine, all);
    sum[0] = sum[1] = 0;
    for (int i = 0; cl_ranks_rank(r->ranks) == 0 && i < cl_ranks_size(r->ranks); i++)
        for (int k = 0; k < 2; k++) sum[k] += all[2 * i + k] * 1e-9;
}

/* Multiplies and adds of one token's products: with the weights of the layers (routers too; of experts the chosen ones)
 * and, for each output, of the head. Attention's own products with the cache are not counted. */
static double token_ops(const cl_model *m, const cl_bench_case *c)
{
    bool decode = c->kind == CL_BENCH_DECODE;
    const cl_stage stage = cl_whole_stage(m);
    const cl_cost_chip chip = {.model = m, .stage = &stage};
    const cl_cost_part part = {.n = 1, .tokens = decode ? 1 : c->tokens, .outputs = 1};
    const cl_phase all = cl_cost_of_step(&chip, &(cl_cost_step){.n_parts = 1, .parts = &part}).all;
    return (all.ops_int8 + all.ops_f32) / part.tokens;
}

/* Serves one round; *read: bytes that all ranks read in it, on rank 0. Collective. */
static cl_code serve(cl_run *r, feed *f, int max_tokens, uint64_t *read, cl_err *err)
{
    cl_source source = {.ctx = f, .next = next, .token = token, .done = done};
    f->defaults.max_tokens = max_tokens;
    f->given = f->n_begun = 0;
    f->after = 0;
    f->random = 1;
    for (int i = 0; f->begun && i < f->sequences; i++) f->begun[i] = false;
    uint64_t before = traffic(r);
    cl_session *session = NULL;
    cl_code c = cl_ranks_rank(r->ranks) == 0 ? cl_run_session(r, &session, err) : CL_OK;
    c = cl_ranks_agree(r->ranks, c, err);
    if (c == CL_OK) c = cl_run_serve(r, &(cl_serve_options){.session = session, .source = &source}, err);
    cl_session_free(session);
    *read = traffic(r) - before;
    return c;
}

/* PROMPT: all tokens and bytes of the round, from the first request to the last first token. DECODE: prompts are one
 * token long, so that they cost little; speed is counted from when every sequence has its first token, and a token's
 * bytes are those of the round without `first`, what the first tokens read, by the tokens after them. A line of
 * stages fills and drains once in that time. */
static cl_bench_run evaluate(const cl_run *r, const cl_bench_case *c, const feed *f, uint64_t first, uint64_t read)
{
    bool decode = c->kind == CL_BENCH_DECODE;
    double tokens = (double)c->sequences * c->tokens, bytes = (double)(read - (decode ? first : 0));
    double s = (double)(decode ? f->last - f->all_begun : f->all_begun - f->start) * 1e-9;
    double rate = s > 0 ? (decode ? (double)f->after : tokens) / s : 0;
    return (cl_bench_run){.tokens_per_s = rate,
                          .read_gb_per_s = bytes / tokens * rate * 1e-9,
                          .gop_per_s = token_ops(&r->plan.model, c) * rate * 1e-9};
}

cl_others cl_others_begin(uint64_t own_ns) { return (cl_others){cl_now_ns(), cl_host_cpu_ns(), own_ns}; }

double cl_others_cores(const cl_others *begin, uint64_t own_ns)
{
    uint64_t host = cl_host_cpu_ns(), now = cl_now_ns();
    if (!host || !begin->host_ns || now <= begin->at_ns) return NAN;
    double used = (double)(host - begin->host_ns) - (double)(own_ns - begin->own_ns);
    return used > 0 ? used / (double)(now - begin->at_ns) : 0;
}

/* CPU time of the ranks on rank 0's host, there. Collective. */
static uint64_t own_cpu_ns(cl_run *r)
{
    char mine[64] = "", first[64];
    gethostname(mine, sizeof mine - 1);
    memcpy(first, mine, sizeof first);
    cl_ranks_bcast(r->ranks, first, sizeof first);
    uint64_t own = strcmp(mine, first) == 0 ? cl_process_cpu_ns() : 0;
    cl_ranks_sum(r->ranks, &own, 1);
    return own;
}

static cl_code measure(cl_run *r, cl_bench_case *c, feed *f, double *all, double seconds, bool (*stop)(void),
                       cl_err *err)
{
    bool root = cl_ranks_rank(r->ranks) == 0, decode = c->kind == CL_BENCH_DECODE, enough = false;
    double before[2], after[2];
    uint64_t first, read, start = cl_now_ns();
    cl_code code = serve(r, f, 1, &first, err); /* the traffic of first tokens, and caches and clocks are warm */
    probe(r, all, before);
    const cl_others others = cl_others_begin(own_cpu_ns(r));
    while (code == CL_OK) {
        if ((code = serve(r, f, decode ? 1 + c->tokens : 1, &read, err)) != CL_OK) break;
        probe(r, all, after);
        if (root) {
            cl_bench_run run = evaluate(r, c, f, first, read);
            run.probe_gb_per_s = (before[0] + after[0]) / 2;
            run.peak_gop_per_s = (before[1] + after[1]) / 2;
            enough = cl_bench_add(c, &run) ||
                     (c->n_runs >= CL_BENCH_LEAST && (double)(cl_now_ns() - start) * 1e-9 >= seconds);
        }
        cl_ranks_bcast(r->ranks, &enough, sizeof enough);
        memcpy(before, after, sizeof before);
        if (enough) break;
        code = cl_ranks_agree(r->ranks,
                              stop && stop()
                                  ? cl_fail(err, CL_E_STOPPED, "bench: stopped by a signal; what is complete was shown")
                                  : CL_OK,
                              err);
    }
    uint64_t own = own_cpu_ns(r);
    c->others_cores = cl_others_cores(&others, own);
    return code;
}

cl_code cl_run_bench(cl_run *r, cl_bench_case *c, double seconds, bool (*stop)(void), cl_err *err)
{
    feed f = {.sequences = c->sequences};
    double *all = cl_calloc((size_t)cl_ranks_size(r->ranks), 2 * sizeof *all, "probes", err);
    cl_code code = !all ? CL_E_FIT : cl_ranks_rank(r->ranks) == 0 ? open_feed(r, c, &f, err) : CL_OK;
    c->n_runs = 0;
    code = cl_ranks_agree(r->ranks, code, err);
    if (code == CL_OK) code = measure(r, c, &f, all, seconds, stop, err);
    free(f.prompt);
    free(f.begun);
    free(all);
    return code;
}
