/* bench_print.c: what was measured, as a table, as JSON and as CSV. */
#include <math.h>
#include <stdlib.h>

#include "bench_cli.h"
#include "chipline/json.h"
#include "columns.h"

static const char *kind_name(const bench_row *row) { return row->c.kind == CL_BENCH_DECODE ? "decode" : "prompt"; }

/* Median over all runs of all rows, of those with these activations (NULL: any): probe, or peak. 0: there are none. */
static double all_runs(const bench_report *b, const char *activations, bool peak, cl_err *err)
{
    int n = 0;
    double *v = cl_malloc((size_t)b->n_rows * CL_BENCH_MOST, sizeof *v, "a table", err);
    if (!v) return 0;
    for (int i = 0; i < b->n_rows; i++)
        for (int k = 0; k < b->rows[i].c.n_runs && (!activations || strcmp(activations, b->rows[i].activations) == 0);
             k++)
            v[n++] = peak ? b->rows[i].c.runs[k].peak_gop_per_s : b->rows[i].c.runs[k].probe_gb_per_s;
    double median = n ? cl_median(v, n) : 0;
    free(v);
    return median;
}

static const char *plural(int n) { return n > 1 ? "s" : ""; }

void bench_tell(const bench_cli *o, const bench_row *row)
{
    const cl_bench_case *c = &row->c;
    if (o->quiet) return;
    if (row->format)
        fprintf(stderr, "%-6s %s  %4d token%s  ", row->format, row->activations, c->tokens, plural(c->tokens));
    else
        fprintf(stderr, "%s  %d x %d tokens  %.1f tokens/s  ", kind_name(row), c->sequences, c->tokens,
                c->tokens_per_s);
    fprintf(stderr, "%.2f GB/s  (%d runs)\n", c->read_gb_per_s, c->n_runs);
}

/* --- table --- */

static void print_head(const bench_report *b, cl_err *err)
{
    const cl_run_stats *n = b->numbers;
    double read = all_runs(b, NULL, false, err);
    if (!n) {
        printf("kernels     %s, %d thread%s, matrices of %d MB\n", b->kernels, b->o->run.threads,
               plural(b->o->run.threads), b->o->megabytes);
        double q8 = all_runs(b, "q8", true, err), f32 = all_runs(b, "f32", true, err);
        printf("probe       %.2f GB/s read", read);
        if (q8 > 0) printf(", %.0f Gop/s 8-bit", q8);
        if (f32 > 0) printf(", %.0f Gop/s float32", f32);
        printf(" on registers\n\n");
        return;
    }
    int here = 0;
    for (int i = 0; i < n->n_ranks; i++)
        if (strcmp(n->ranks[i].host, n->ranks[0].host) == 0) here += n->ranks[i].threads;
    printf("model       %s\n", b->o->run.model_path);
    printf(
        "line        %s (stages x chips)%s, %d rank%s, %d thread%s in all, kernels %s, activations %s, KV cache %s\n",
        n->layout, n->shared ? " by shared memory" : "", n->n_ranks, plural(n->n_ranks), n->threads_total,
        plural(n->threads_total), n->kernels, n->activations, n->kv);
    printf("probe       %.2f GB/s read, %.0f Gop/s %s on registers\n", read, all_runs(b, NULL, true, err),
           strcmp(n->activations, "f32") ? "8-bit" : "float32");
    if (here > n->cores_here)
        printf("note        rank 0's host has %d cores for %d threads: these times are not those of a core for each\n",
               n->cores_here, here);
    printf("\n");
}

static void print_table(const bench_report *b, cl_err *err)
{
    static const double NOTABLE = 0.1; /* cores */
    double others = 0;
    print_head(b, err);
    if (b->numbers)
        printf("kind    sequences  tokens    tokens/s  spread %%     GB/s  %% of probe     Gop/s  %% of peak\n");
    else printf("format  activations  tokens  spread %%     GB/s  %% of probe     Gop/s  %% of peak\n");
    for (int i = 0; i < b->n_rows; i++) {
        const bench_row *row = &b->rows[i];
        const cl_bench_case *c = &row->c;
        if (b->numbers) printf("%-6s  %9d  %6d  %10.2f", kind_name(row), c->sequences, c->tokens, c->tokens_per_s);
        else printf("%-6s  %-11s  %6d", row->format, row->activations, c->tokens);
        printf("  %8.1f  %7.2f  %10.1f  %8.1f  %9.1f\n", 100 * c->spread, c->read_gb_per_s, 100 * c->share_of_probe,
               c->gop_per_s, 100 * c->share_of_peak);
        others = fmax(others, c->others_cores); /* of NaN and a number the number */
    }
    if (others > NOTABLE)
        printf("\nnote  other processes used up to %.1f cores%s: measure again when they have ended\n", others,
               b->numbers && b->numbers->n_ranks > 1 ? " of rank 0's host" : "");
}

/* --- JSON --- */

static json_t *runs_json(const cl_bench_case *c)
{
    static const cli_column columns[] = {COLUMN(cl_bench_run, tokens_per_s), COLUMN(cl_bench_run, read_gb_per_s),
                                         COLUMN(cl_bench_run, probe_gb_per_s), COLUMN(cl_bench_run, gop_per_s),
                                         COLUMN(cl_bench_run, peak_gop_per_s)};
    json_t *all = json_array();
    for (int i = 0; i < c->n_runs; i++) json_array_append_new(all, CLI_ROW(columns, &c->runs[i]));
    return all;
}

static json_t *row_json(const bench_row *row)
{
    static const cli_column columns[] = {COLUMN(cl_bench_case, tokens),         COLUMN(cl_bench_case, tokens_per_s),
                                         COLUMN(cl_bench_case, spread),         COLUMN(cl_bench_case, read_gb_per_s),
                                         COLUMN(cl_bench_case, probe_gb_per_s), COLUMN(cl_bench_case, share_of_probe),
                                         COLUMN(cl_bench_case, gop_per_s),      COLUMN(cl_bench_case, peak_gop_per_s),
                                         COLUMN(cl_bench_case, share_of_peak)};
    const cl_bench_case *c = &row->c;
    json_t *j = row->format ? json_pack("{s:s, s:s}", "format", row->format, "activations", row->activations)
                            : json_pack("{s:s, s:i}", "kind", kind_name(row), "sequences", c->sequences);
    json_t *rest = CLI_ROW(columns, c);
    json_object_set_new(rest, "runs", runs_json(c));
    json_object_set_new(rest, "others_cores", isnan(c->others_cores) ? json_null() : json_real(c->others_cores));
    json_object_update(j, rest);
    json_decref(rest);
    return j;
}

/* threads: of one rank. */
static json_t *report_json(const bench_report *b, cl_err *err)
{
    const cl_run_stats *n = b->numbers;
    json_t *cases = json_array(), *j;
    double read = all_runs(b, NULL, false, err);
    for (int i = 0; i < b->n_rows; i++) json_array_append_new(cases, row_json(&b->rows[i]));
    if (!n) {
        j = json_pack("{s:f, s:{s:f, s:f}, s:i, s:i, s:s, s:i}", "probe_gb_per_s", read, "peak_gop_per_s", "q8",
                      all_runs(b, "q8", true, err), "f32", all_runs(b, "f32", true, err), "threads", b->o->run.threads,
                      "ranks", 1, "kernels", b->kernels, "megabytes", b->o->megabytes);
    } else {
        char path[4096];
        snprintf(path, sizeof path, "%s", b->o->run.model_path);
        cl_utf8_repair(path);
        j = json_pack("{s:f, s:f, s:i, s:i, s:i, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i}", "probe_gb_per_s", read,
                      "peak_gop_per_s", all_runs(b, NULL, true, err), "threads", n->ranks[0].threads, "threads_total",
                      n->threads_total, "ranks", n->n_ranks, "model", path, "layout", n->layout, "kernels", n->kernels,
                      "activations", n->activations, "kv", n->kv, "slots", n->slots, "context", n->context, "cores",
                      n->cores_here);
    }
    json_object_set_new(j, "cases", cases);
    return j;
}

/* --- CSV --- */

static bool write_rows(const bench_report *b, FILE *f)
{
    const cl_run_stats *n = b->numbers;
    fprintf(f,
            "%s,tokens,tokens_per_s,spread,read_gb_per_s,probe_gb_per_s,share_of_probe,gop_per_s,peak_gop_per_s,share_"
            "of_peak,"
            "runs,layout,ranks,threads,kernels,activations,others_cores\n",
            b->numbers ? "kind,sequences" : "format");
    for (int i = 0; i < b->n_rows; i++) {
        const bench_row *row = &b->rows[i];
        const cl_bench_case *c = &row->c;
        if (b->numbers) fprintf(f, "%s,%d", kind_name(row), c->sequences);
        else fprintf(f, "%s", row->format);
        fprintf(f, ",%d,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%d,", c->tokens, c->tokens_per_s, c->spread,
                c->read_gb_per_s, c->probe_gb_per_s, c->share_of_probe, c->gop_per_s, c->peak_gop_per_s,
                c->share_of_peak, c->n_runs);
        if (n) fprintf(f, "%s,%d,%d,%s,%s", n->layout, n->n_ranks, n->ranks[0].threads, n->kernels, n->activations);
        else fprintf(f, "1x1,1,%d,%s,%s", b->o->run.threads, b->kernels, row->activations);
        if (isnan(c->others_cores)) fprintf(f, ",\n");
        else fprintf(f, ",%.3g\n", c->others_cores);
    }
    return !ferror(f);
}

static cl_code write_csv(const bench_report *b, cl_err *err)
{
    cl_newfile f;
    cl_code c = cl_newfile_open(&f, b->o->csv, err);
    if (c != CL_OK) return c;
    if (write_rows(b, f.f)) return cl_newfile_commit(&f, err);
    cl_newfile_drop(&f);
    return cl_fail(err, CL_E_RUN, "%s: write failed", b->o->csv);
}

cl_code bench_print(const bench_report *b, cl_err *err)
{
    if (b->o->json) {
        json_t *j = report_json(b, err); /* NULL only without memory: its texts are valid UTF-8 */
        if (!j) return cl_fail(err, CL_E_FIT, "bench: out of memory");
        json_dumpf(j, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
        printf("\n");
        json_decref(j);
    } else {
        print_table(b, err);
    }
    return b->o->csv ? write_csv(b, err) : CL_OK;
}
