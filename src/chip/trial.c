/* trial.c: a product with random weights and activations, to be timed alone. */
#include <stdlib.h>
#include <string.h>

#include "chipline/kernels.h"
#include "chipline/probe.h"
#include "chipline/util.h"
#include "timing.h"

enum { COLS = 2048, BLOCK = 64 /* panels per call: results of so many rows stay in a cache, as a layer's do */ };

struct cl_trial {
    const cl_kernels *k;
    cl_matrix m;
    cl_acts x;
    float *y; /* [threads][tokens][BLOCK * CL_PANEL] */
    cl_crew *crew;
    size_t bytes; /* of the matrix */
};

static size_t y_numbers(const cl_trial *t) { return (size_t)t->x.n * BLOCK * CL_PANEL; }
static size_t x_numbers(const cl_trial *t) { return (size_t)t->x.n * COLS; }

/* Any integers, under scales near 1: no number is so small or large that arithmetic slows down. */
static void fill_rows(cl_format f, unsigned char *rows, size_t bytes)
{
    size_t row = cl_row_bytes(f, COLS), block = (size_t)cl_format_get(f)->block_bytes;
    for (size_t i = 0; i < bytes; i++) rows[i] = (unsigned char)(i * 2654435761u >> 13);
    for (size_t i = 0; i < bytes; i += f == CL_FP8 ? row : block) {
        if (f == CL_FP8)
            for (size_t c = 0; c < COLS / 128; c++) memcpy(rows + i + c * sizeof(float), &(float){1}, sizeof(float));
        else if (f == CL_MXFP4) rows[i] = 120;
        else rows[i + block - 1] = rows[i + 1] = 0x3c;
        if (f == CL_Q4_1) rows[i + 3] = 0x3c;
    }
}

typedef struct pack_job {
    cl_trial *t;
    const unsigned char *rows; /* of any panel */
} pack_job;

/* The threads fill what they will read, so that its pages are theirs. */
static void pack_range(const crew_member *m, void *ctx)
{
    const pack_job *j = ctx;
    const cl_matrix *w = &j->t->m;
    int64_t a, b;
    crew_range(m, w->panels, &a, &b);
    for (int64_t p = a; p < b; p++)
        j->t->k->pack(w->format, COLS, j->rows, CL_PANEL, w->data + (size_t)p * w->panel_bytes);
}

static cl_code fill_matrix(cl_trial *t, cl_err *err)
{
    cl_matrix *m = &t->m;
    size_t bytes = cl_row_bytes(m->format, COLS) * CL_PANEL;
    unsigned char *rows = cl_malloc_aligned(bytes, "a trial", err);
    if (!rows) return CL_E_FIT;
    fill_rows(m->format, rows, bytes);
    crew_run(t->crew, pack_range, &(pack_job){t, rows});
    cl_free_aligned(rows, bytes);
    return CL_OK;
}

static cl_code create(cl_trial *t, const char *kernels, size_t bytes, cl_err *err)
{
    cl_code c = cl_kernels_choose(kernels, &t->k, err);
    if (c != CL_OK) return c;
    cl_matrix *m = &t->m;
    cl_acts *x = &t->x;
    size_t threads = (size_t)cl_crew_threads(t->crew), per_thread = BLOCK * threads, n = x_numbers(t);
    m->panel_bytes = t->k->panel_bytes(m->format, COLS);
    m->panels = (int64_t)((bytes / m->panel_bytes / per_thread + 1) * per_thread);
    m->rows = m->panels * CL_PANEL;
    t->bytes = (size_t)m->panels * m->panel_bytes;
    float *f = NULL;
    if (!(m->data = cl_malloc_aligned(t->bytes, "the matrix of a trial", err)) ||
        !(t->y = cl_malloc_aligned(y_numbers(t) * threads * sizeof *t->y, "results of a trial", err)) ||
        !(x->f32 = f = cl_malloc_aligned(n * sizeof *f, "a trial", err)) ||
        !(x->q = cl_malloc_aligned(n, "a trial", err)) || !(x->d = cl_malloc_aligned(n / 8, "a trial", err)) ||
        !(x->sum = cl_malloc_aligned(n / 8, "a trial", err)) || !(x->fsum = cl_malloc_aligned(n / 8, "a trial", err)))
        return CL_E_FIT;
    for (size_t i = 0; i < n; i++) f[i] = (float)(int)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
    t->k->prepare(x, 0, x->n);
    return fill_matrix(t, err);
}

cl_code cl_trial_create(cl_trial **out, cl_crew *crew, const char *kernels, cl_format format, bool q8, int tokens,
                        size_t bytes, cl_err *err)
{
    cl_trial *t = cl_calloc(1, sizeof *t, "a trial", err);
    if (!t) return CL_E_FIT;
    t->crew = crew;
    t->m = (cl_matrix){.format = format, .experts = 1, .cols = COLS};
    t->x = (cl_acts){.n = tokens, .cols = COLS, .q8 = q8, .planes = 1, .stride = COLS};
    cl_code c = create(t, kernels, bytes, err);
    if (c == CL_OK) *out = t;
    else cl_trial_free(t);
    return c;
}

void cl_trial_free(cl_trial *t)
{
    if (!t) return;
    size_t n = x_numbers(t);
    if (t->m.data) cl_free_aligned(t->m.data, t->bytes);
    if (t->y) cl_free_aligned(t->y, y_numbers(t) * (size_t)cl_crew_threads(t->crew) * sizeof *t->y);
    if (t->x.f32) cl_free_aligned((void *)(uintptr_t)t->x.f32, n * sizeof(float));
    if (t->x.q) cl_free_aligned(t->x.q, n);
    if (t->x.d) cl_free_aligned(t->x.d, n / 8);
    if (t->x.sum) cl_free_aligned(t->x.sum, n / 8);
    if (t->x.fsum) cl_free_aligned(t->x.fsum, n / 8);
    free(t);
}

size_t cl_trial_bytes(const cl_trial *t) { return t->bytes; }
double cl_trial_ops(const cl_trial *t) { return 2.0 * (double)t->m.rows * COLS * t->x.n; }

double cl_trial_read(cl_trial *t)
{
    double s;
    probe_read(t->crew, t->m.data, t->bytes, 1, &s);
    return s;
}

typedef struct product_job {
    const cl_trial *t;
    _Atomic uint64_t most_ns;
} product_job;

static void product_range(const crew_member *m, void *ctx)
{
    product_job *j = ctx;
    const cl_trial *t = j->t;
    uint64_t begun = cl_thread_cpu_ns();
    cl_matrix part = t->m;
    int64_t a, b;
    part.panels = BLOCK;
    part.rows = BLOCK * CL_PANEL;
    crew_range(m, t->m.panels / BLOCK, &a, &b); /* as many for every thread */
    for (; a < b; a++) {
        part.data = t->m.data + (size_t)a * BLOCK * t->m.panel_bytes;
        t->k->matmul(&part, 0, 0, BLOCK, &t->x, NULL, 0, t->y + (size_t)m->id * y_numbers(t), (size_t)part.rows);
    }
    keep_most(&j->most_ns, cl_thread_cpu_ns() - begun);
}

double cl_trial_product(cl_trial *t)
{
    product_job j = {.t = t};
    crew_run(t->crew, product_range, &j);
    return (double)j.most_ns * 1e-9;
}
