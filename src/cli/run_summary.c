/* run_summary.c: the numbers of a run, as lines on stderr and as JSON. */
#include <stdlib.h>

#include "chipline/json.h"
#include "columns.h"
#include "run_cli.h"

static json_t *rank_json(const cl_rank_stats *k)
{
    static const cli_column columns[] =
        {COLUMN(cl_rank_stats, rank),          COLUMN(cl_rank_stats, host),
         COLUMN(cl_rank_stats, replica),       COLUMN(cl_rank_stats, stage),
         COLUMN(cl_rank_stats, member),        COLUMN(cl_rank_stats, threads),
         COLUMN(cl_rank_stats, first_layer),   COLUMN_AS("layers", cl_rank_stats, n_layers),
         COLUMN(cl_rank_stats, slice_bytes),   COLUMN(cl_rank_stats, kv_bytes),
         COLUMN(cl_rank_stats, counted_bytes), COLUMN(cl_rank_stats, before_bytes),
         COLUMN(cl_rank_stats, rss_bytes),     COLUMN(cl_rank_stats, baseline_bytes),
         COLUMN(cl_rank_stats, over_bytes),    COLUMN(cl_rank_stats, busy),
         COLUMN(cl_rank_stats, wait),          COLUMN(cl_rank_stats, read_gb_per_s),
         COLUMN(cl_rank_stats, probe_gb_per_s)};
    json_t *j = CLI_ROW(columns, k);
    if (!(k->probe_gb_per_s > 0)) json_object_set_new(j, "probe_gb_per_s", json_null());
    return j;
}

static json_t *summary_json(const run_cli *o, const cl_run_stats *n)
{
    static const cli_column columns[] = {COLUMN(cl_run_stats, prompt_tokens_per_s),
                                         COLUMN(cl_run_stats, generation_tokens_per_s),
                                         COLUMN(cl_run_stats, ttft_s),
                                         COLUMN(cl_run_stats, requests),
                                         COLUMN_AS("failed_requests", cl_run_stats, failed),
                                         COLUMN(cl_run_stats, prompt_tokens),
                                         COLUMN(cl_run_stats, generated_tokens),
                                         COLUMN(cl_run_stats, elapsed_s),
                                         COLUMN(cl_run_stats, load_s),
                                         COLUMN(cl_run_stats, layout),
                                         COLUMN(cl_run_stats, replicas),
                                         COLUMN(cl_run_stats, slots),
                                         COLUMN(cl_run_stats, context),
                                         COLUMN(cl_run_stats, kernels),
                                         COLUMN(cl_run_stats, activations),
                                         COLUMN(cl_run_stats, kv)};
    char sum[17], path[4096];
    snprintf(path, sizeof path, "%s", o->run.model_path);
    cl_utf8_repair(path);
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)n->model_checksum);
    json_t *j = CLI_ROW(columns, n), *ranks = json_array();
    for (int i = 0; i < n->n_ranks; i++) json_array_append_new(ranks, rank_json(&n->ranks[i]));
    json_object_set_new(j, "ranks", ranks);
    json_object_set_new(j, "model", json_pack("{s:s, s:s}", "checksum", sum, "path", path));
    json_object_set_new(j, "version",
                        json_pack("{s:s, s:s, s:s}", "chipline", o->run.version, "revision", o->run.revision,
                                  "build_flags", o->run.build_flags));
    return j;
}

static cl_code write_json(const run_cli *o, const cl_run_stats *n, cl_err *err)
{
    cl_newfile f;
    cl_code c = cl_newfile_open(&f, o->summary, err);
    if (c != CL_OK) return c;
    json_t *j = summary_json(o, n); /* NULL only without memory: its texts are valid UTF-8 */
    bool ok = j && json_dumpf(j, f.f, JSON_INDENT(1) | JSON_REAL_PRECISION(8)) == 0 && fputc('\n', f.f) != EOF;
    json_decref(j);
    if (ok) return cl_newfile_commit(&f, err);
    cl_newfile_drop(&f);
    return cl_fail(err, CL_E_RUN, "%s: write failed", o->summary);
}

static void print_lines(const cl_run_stats *n)
{
    const cl_rank_stats *most = &n->ranks[0];
    int here = 0; /* threads on rank 0's host */
    double slowest = n->ranks[0].read_gb_per_s, fastest = slowest;
    for (int i = 0; i < n->n_ranks; i++) {
        const cl_rank_stats *k = &n->ranks[i];
        if (strcmp(k->host, n->ranks[0].host) == 0) here += k->threads;
        if (k->rss_bytes > most->rss_bytes) most = k;
        if (k->read_gb_per_s < slowest) slowest = k->read_gb_per_s;
        if (k->read_gb_per_s > fastest) fastest = k->read_gb_per_s;
    }
    char a[32], b[32];
    if (!n->prompt_tokens) return;
    fprintf(stderr, "\nprompt      %lld tokens, %.1f tokens/s, first token after %.3f s%s\n",
            (long long)n->prompt_tokens, n->prompt_tokens_per_s, n->ttft_s, n->requests > 1 ? " (median)" : "");
    fprintf(stderr, "generation  %lld tokens", (long long)n->generated_tokens);
    if (n->generation_tokens_per_s > 0) fprintf(stderr, ", %.1f tokens/s", n->generation_tokens_per_s);
    if (n->requests > 1) fprintf(stderr, " over %lld requests in %.2f s", (long long)n->requests, n->elapsed_s);
    fprintf(stderr, "\nline        %s (stages x chips)%s, %d thread%s, kernels %s, activations %s, KV cache %s\n",
            n->layout, n->shared ? " by shared memory" : "", n->threads_total, n->threads_total > 1 ? "s" : "",
            n->kernels, n->activations, n->kv);
    if (n->rates.read_bytes_per_s > 0)
        fprintf(stderr,
                "chosen by   reading %.3g GB/s per rank, a gather of two %.2g us, a hand-over %.2g us, as measured at "
                "the start\n",
                n->rates.read_bytes_per_s * 1e-9, n->rates.gather_s * 1e6, n->rates.hop_s * 1e6);
    if (n->replicas > 1) fprintf(stderr, "replicas    %d lines side by side\n", n->replicas);
    if (n->n_ranks == 1) fprintf(stderr, "reading     %.2f GB/s while computing\n", fastest);
    else fprintf(stderr, "reading     %.2f to %.2f GB/s per rank while computing\n", slowest, fastest);
    fprintf(stderr, "memory      rank %d is the largest: %s resident", most->rank,
            cl_human_bytes((double)most->rss_bytes, a));
    if (most->over_bytes > 0)
        fprintf(stderr, ", %s over its slice, KV cache and start", cl_human_bytes((double)most->over_bytes, b));
    fprintf(stderr, "\n");
    if (n->n_ranks > 1 && here > n->cores_here)
        fprintf(stderr,
                "note        rank 0's host has %d cores for %d threads: these times are not those of parallel chips\n",
                n->cores_here, here);
}

cl_code cli_summary(run_cli *o, const cl_run_stats *n, cl_err *err)
{
    if (!o->quiet) print_lines(n);
    return o->summary ? write_json(o, n, err) : CL_OK;
}
