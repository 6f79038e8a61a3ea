/* bench_products.c: `chipline bench --kernels [NAME]` without a model: one matrix times some tokens, for
 * every number format. */
#include <stdlib.h>

#include "bench_cli.h"
#include "chipline/probe.h"

static double peak(const cl_kernels *k, const bench_cli *o, bool q8)
{
    return cl_probe_peak(o->run.crew, k->name, q8, true) * 1e-9;
}

/* Until the median is steady, or the time is over. */
static void repeat(cl_trial *t, const cl_kernels *k, const bench_cli *o, bool q8, bench_row *row)
{
    double bytes = (double)cl_trial_bytes(t) * 1e-9, ops = cl_trial_ops(t) * 1e-9;
    cl_bench_case *c = &row->c;
    uint64_t start = cl_now_ns();
    cl_trial_product(t);
    double read = bytes / cl_trial_read(t), top = peak(k, o, q8);
    const cl_others others = cl_others_begin(cl_process_cpu_ns());
    for (bool enough = false; !enough && !cli_stop_came();) {
        double s = cl_trial_product(t), next_read = bytes / cl_trial_read(t), next_top = peak(k, o, q8);
        const cl_bench_run run = {.tokens_per_s = c->tokens / s,
                                  .read_gb_per_s = bytes / s,
                                  .gop_per_s = ops / s,
                                  .probe_gb_per_s = (read + next_read) / 2,
                                  .peak_gop_per_s = (top + next_top) / 2};
        enough = cl_bench_add(c, &run);
        enough |= c->n_runs >= CL_BENCH_LEAST && (double)(cl_now_ns() - start) * 1e-9 >= o->seconds;
        read = next_read;
        top = next_top;
    }
    c->others_cores = cl_others_cores(&others, cl_process_cpu_ns());
}

static cl_code measure(const cl_kernels *k, const bench_cli *o, cl_format f, bool q8, int tokens, bench_row *row,
                       cl_err *err)
{
    cl_trial *t;
    cl_code c = cl_trial_create(&t, o->run.crew, k->name, f, q8, tokens, (size_t)o->megabytes * 1000000, err);
    if (c != CL_OK) return c;
    *row = (bench_row){.format = cl_format_get(f)->name,
                       .activations = q8 ? "q8" : "f32",
                       .c = {.sequences = 1, .tokens = tokens}};
    repeat(t, k, o, q8, row);
    cl_trial_free(t);
    if (cli_stop_came()) return cl_fail(err, CL_E_STOPPED, "bench: stopped by a signal; what is complete was shown");
    bench_tell(o, row);
    return CL_OK;
}

cl_code bench_products(bench_cli *o, cl_err *err)
{
    const bench_list usual = {4, {1, 4, 16, 128}}, *tokens = o->tokens.n ? &o->tokens : &usual;
    const cl_kernels *k;
    if (!o->megabytes) o->megabytes = 128;
    for (int i = 0; i < tokens->n; i++)
        if (tokens->values[i] > 1 << 14)
            return cl_fail(err, CL_E_USAGE, "--tokens: %d are over the %d of a product", tokens->values[i], 1 << 14);
    cl_code c = cl_kernels_choose(o->run.kernels, &k, err);
    if (c == CL_OK && o->csv) c = cl_check_new(o->csv, err);
    if (c != CL_OK) return c;
    int n = 0;
    bench_row *rows = cl_calloc(CL_NATIVE_FORMATS * BENCH_LIST, sizeof *rows, "rows", err);
    if (!rows) return CL_E_FIT;
    cli_hold_stop();
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
        /* the others always take float32 */
        bool q8 = cl_format_integer((cl_format)f) && o->run.activations != CL_ACT_F32;
        if (o->one_format && o->format != (cl_format)f) continue;
        for (int i = 0; c == CL_OK && i < tokens->n; i++) {
            c = measure(k, o, (cl_format)f, q8, tokens->values[i], &rows[n], err);
            n += c == CL_OK;
        }
    }
    const bench_report report = {.o = o, .kernels = k->name, .n_rows = n, .rows = rows};
    cl_code printed = n && (c == CL_OK || c == CL_E_STOPPED) ? bench_print(&report, err) : CL_OK;
    free(rows);
    return printed != CL_OK ? printed : c;
}
