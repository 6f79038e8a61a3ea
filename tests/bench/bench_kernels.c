/* bench_kernels.c: how fast the products of a kernel set are, against a plain read of the same bytes taken beside each of them.
 *
 *   bench_kernels [SET [THREADS [MEGABYTES [FORMAT [N,N,...]]]]]
 * One line per format, activations and number of tokens: median and best round in GB/s of weights, the read probe, the median share of
 * it, and Gop/s (2 per weight and token). MEGABYTES (default 96) should be well above the last-level cache; products of many
 * tokens use a 16th. Times are the largest CPU time of a thread: other work on the machine then costs its caches and bandwidth, not its
 * time slices. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/kernels.h"
#include "chipline/util.h"

enum { COLS = 2048, MOST = 128, ROUNDS = 21 };

static volatile uint64_t sink;

static double seconds(void) { return (double)cl_thread_cpu_ns() * 1e-9; }

/* Reads every byte once, all threads, each its own contiguous part. */
static double probe(const unsigned char *p, size_t bytes, int threads)
{
    double most = 0;
#pragma omp parallel num_threads(threads) reduction(max : most)
    {
        double t = seconds();
        size_t n = bytes / 64 / (size_t)threads * 8;
        const uint64_t *w = (const uint64_t *)p + n * (size_t)omp_get_thread_num();
        uint64_t s[8] = {0};
        for (size_t i = 0; i < n; i += 8) {
            __builtin_prefetch((const void *)((uintptr_t)&w[i] + 2048));
            for (int k = 0; k < 8; k++) s[k] ^= w[i + (size_t)k];
        }
        uint64_t all = 0;
        for (int k = 0; k < 8; k++) all ^= s[k];
        if (all == 1) sink = all;
        most = seconds() - t;
    }
    return most;
}

static double product(const cl_kernels *k, const cl_matrix *m, const cl_acts *x, float *y, int threads)
{
    double most = 0;
#pragma omp parallel num_threads(threads) reduction(max : most)
    {
        double t = seconds();
        int64_t i = omp_get_thread_num();
        k->matmul(m, 0, m->panels * i / threads, m->panels * (i + 1) / threads, x, NULL, 0, y, (size_t)m->rows);
        most = seconds() - t;
    }
    return most;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static void *need(size_t bytes)
{
    cl_err err;
    void *p = cl_malloc_aligned(bytes, "benchmark", &err);
    if (!p) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    return p;
}

static cl_acts make_acts(int n, bool q8)
{
    cl_acts x = {.n = n, .cols = COLS, .q8 = q8, .stride = COLS};
    float *f = need((size_t)n * COLS * sizeof *f);
    for (size_t i = 0; i < (size_t)n * COLS; i++) f[i] = (float)(int)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
    x.f32 = f;
    x.q = need((size_t)n * COLS);
    x.d = need((size_t)n * COLS / 8);
    x.sum = need((size_t)n * COLS / 8);
    x.fsum = need((size_t)n * COLS / 8);
    return x;
}

/* Random integers under scales near 1. */
static void fill(cl_matrix *m, const cl_kernels *k)
{
    size_t row = cl_row_bytes(m->format, COLS), step = (size_t)cl_format_get(m->format)->block_bytes;
    unsigned char *rows = need(row * CL_PANEL);
    for (size_t i = 0; i < row * CL_PANEL; i++) rows[i] = (unsigned char)(i * 2654435761u >> 13);
    for (size_t i = 0; i < row * CL_PANEL; i += m->format == CL_FP8 ? row : step) {
        if (m->format == CL_FP8) {
            for (size_t c = 0; c < COLS / 128; c++) memcpy(rows + i + c * sizeof(float), &(float){1}, sizeof(float));
        } else if (m->format == CL_MXFP4) {
            rows[i] = 120;
        } else {
            rows[i + step - 1] = rows[i + 1] = 0x3c;
        }
        if (m->format == CL_Q4_1) rows[i + 3] = 0x3c;
    }
    for (int64_t p = 0; p < m->panels; p++) k->pack(m->format, COLS, rows, CL_PANEL, m->data + (size_t)p * m->panel_bytes);
    cl_free_aligned(rows, row * CL_PANEL);
}

static void measure(const cl_kernels *k, cl_format f, bool q8, int n, int threads, size_t bytes)
{
    cl_matrix m = {.format = f, .experts = 1, .cols = COLS, .panel_bytes = k->panel_bytes(f, COLS)};
    m.panels = (int64_t)((n > 8 ? bytes / 16 : bytes) / m.panel_bytes / (size_t)threads * (size_t)threads);
    m.rows = m.panels * CL_PANEL;
    size_t total = (size_t)m.panels * m.panel_bytes, y_bytes = (size_t)n * (size_t)m.rows * sizeof(float);
    m.data = need(total);
    float *y = need(y_bytes);
    fill(&m, k);
    cl_acts x = make_acts(n, q8);
    k->prepare(&x, 0, n);
    double read[ROUNDS], run[ROUNDS], share[ROUNDS];
    product(k, &m, &x, y, threads);
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = probe(m.data, total, threads);
        run[i] = product(k, &m, &x, y, threads);
        share[i] = read[i] / run[i];
    }
    double t = median(run, ROUNDS);
    printf("%-9s %-6s %-3s %3d %d  %7.2f GB/s  best %7.2f  probe %7.2f  share %5.1f %%  %7.1f Gop/s  best %7.1f\n", k->name, cl_format_get(f)->name,
           q8 ? "q8" : "f32", n, threads, (double)total / t * 1e-9, (double)total / run[0] * 1e-9,
           (double)total / median(read, ROUNDS) * 1e-9, 100 * median(share, ROUNDS), 2e-9 * (double)(m.rows * COLS * n) / t,
           2e-9 * (double)(m.rows * COLS * n) / run[0]);
    fflush(stdout);
    cl_free_aligned(m.data, total);
    cl_free_aligned(y, y_bytes);
    cl_free_aligned((void *)x.f32, (size_t)n * COLS * sizeof(float));
    cl_free_aligned(x.q, (size_t)n * COLS);
    cl_free_aligned(x.d, (size_t)n * COLS / 8);
    cl_free_aligned(x.sum, (size_t)n * COLS / 8);
    cl_free_aligned(x.fsum, (size_t)n * COLS / 8);
}

int main(int argc, char **argv)
{
    const cl_kernels *k;
    cl_err err;
    cl_format only = CL_NATIVE_FORMATS;
    if (cl_kernels_choose(argc > 1 && strcmp(argv[1], "-") != 0 ? argv[1] : NULL, &k, &err) != CL_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 2;
    }
    int threads = argc > 2 ? atoi(argv[2]) : 1, megabytes = argc > 3 ? atoi(argv[3]) : 96;
    if (threads < 1 || megabytes < 16) {
        fprintf(stderr, "at least 1 thread and 16 megabytes\n");
        return 2;
    }
    size_t bytes = (size_t)megabytes * 1000000;
    bool all = argc <= 4 || !cl_format_parse(argv[4], &only);
    const char *list = argc > 5 ? argv[5] : "1,4,16,128";
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
        for (int q8 = cl_format_integer((cl_format)f); q8 >= 0 && (all || f == (int)only); q8--) {
            for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
                int n = atoi(p);
                if (n >= 1 && n <= MOST) measure(k, (cl_format)f, q8, n, threads, bytes);
            }
        }
    }
    return 0;
}
