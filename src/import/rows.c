/* rows.c: read, check, put in order, encode and write rows (rows.h). Every number is decoded once, also where the bytes are kept:
 * that is how NaN and infinity are found, in scales of blocks too. */
#include "rows.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RUN_BYTES = 4 << 20, MAX_JOBS = 256 };

/* A run of rows on its way. */
typedef struct run {
    cl_format from, to;
    int64_t rows, cols;
    size_t in_bytes, out_bytes; /* per row */
    int head_dim;
    const unsigned char *in;
    unsigned char *out;
} run;

typedef struct share {
    const run *r;
    int64_t first, end;
    float *x;     /* [cols] */
    int64_t bad;  /* first source row with a number that is none, or -1 */
} share;

/* Canonical row i + j d/2 of a head (halves rotate together) is row 2i + j of the source (neighbours do). */
static int64_t source_row(int64_t row, int head_dim)
{
    if (!head_dim) return row;
    int64_t half = head_dim / 2, in_head = row % head_dim;
    return row - in_head + 2 * (in_head % half) + in_head / half;
}

static bool all_finite(const float *x, int64_t n)
{
    uint32_t bad = 0, u;
    for (int64_t i = 0; i < n; i++) {
        memcpy(&u, &x[i], sizeof u);
        bad |= (u & 0x7f800000u) == 0x7f800000u; /* exponent all ones: NaN or infinity */
    }
    return !bad;
}

static void *work(void *arg)
{
    share *s = arg;
    const run *r = s->r;
    for (int64_t row = s->first; row < s->end; row++) {
        int64_t from = source_row(row, r->head_dim);
        const unsigned char *in = r->in + (size_t)from * r->in_bytes;
        unsigned char *out = r->out + (size_t)row * r->out_bytes;
        cl_decode_row(r->from, in, r->cols, s->x);
        if (!all_finite(s->x, r->cols)) {
            s->bad = from;
            return NULL;
        }
        if (r->from == r->to) memcpy(out, in, r->in_bytes);
        else cl_encode_row(r->to, s->x, r->cols, out);
    }
    return NULL;
}

/* Splits the run among threads; returns the first bad source row or -1. */
static int64_t run_all(const run *r, float *scratch, int jobs)
{
    share shares[MAX_JOBS];
    pthread_t threads[MAX_JOBS];
    bool started[MAX_JOBS] = {false};
    if (jobs > r->rows) jobs = (int)r->rows;
    for (int i = 0; i < jobs; i++) {
        shares[i] =
            (share){.r = r, .first = r->rows * i / jobs, .end = r->rows * (i + 1) / jobs, .x = scratch + i * r->cols, .bad = -1};
        started[i] = i > 0 && pthread_create(&threads[i], NULL, work, &shares[i]) == 0;
    }
    for (int i = 0; i < jobs; i++)
        if (!started[i]) work(&shares[i]);
    int64_t bad = -1;
    for (int i = 0; i < jobs; i++) {
        if (started[i]) pthread_join(threads[i], NULL);
        if (bad < 0) bad = shares[i].bad;
    }
    return bad;
}

/* Rows [0, rows) of one source tensor. */
static cl_code stream_part(cl_stream *st, int index, const cl_src_tensor *src, run r, int64_t rows, unsigned char *in,
                           float *scratch, int64_t per_run, cl_err *err)
{
    for (int64_t row = 0; row < rows; row += r.rows) {
        r.rows = rows - row < per_run ? rows - row : per_run;
        size_t bytes = (size_t)r.rows * r.in_bytes;
        cl_code c = cl_source_read(st->source, src->file, src->offset + (uint64_t)row * r.in_bytes, bytes, in, err);
        if (c != CL_OK) return c;
        int64_t bad = run_all(&r, scratch, st->jobs);
        if (bad >= 0)
            return cl_fail(err, CL_E_INPUT, "tensor %s: a number in row %lld is NaN or infinite (the checkpoint is damaged)",
                           src->name, (long long)(row + bad));
        if ((c = cl_model_writer_rows(st->writer, index, r.out, r.rows, err)) != CL_OK) return c;
        cl_progress_at(st->progress, st->done += bytes);
    }
    return CL_OK;
}

cl_code cl_stream_tensor(cl_stream *st, int index, const cl_origin *o, cl_err *err)
{
    const cl_tensor *t = &st->model->tensors[index];
    cl_format from = (cl_format)st->source->tensors[o->parts[0]].format;
    run r = {.from = from, .to = t->format, .cols = t->cols, .in_bytes = cl_row_bytes(from, t->cols),
             .out_bytes = cl_row_bytes(t->format, t->cols), .head_dim = o->head_dim};
    int64_t rows = cl_tensor_rows(t) / o->n_parts, unit = o->head_dim ? o->head_dim : 1;
    size_t widest = r.in_bytes > r.out_bytes ? r.in_bytes : r.out_bytes;
    int64_t per_run = (int64_t)(RUN_BYTES / widest) / unit * unit;
    if (per_run < unit) per_run = unit;
    if (per_run > rows) per_run = rows;
    int jobs = st->jobs < 1 ? 1 : st->jobs > MAX_JOBS ? MAX_JOBS : st->jobs;
    if (jobs > per_run) jobs = (int)per_run;
    unsigned char *in = cl_malloc((size_t)per_run, r.in_bytes, "rows", err);
    r.in = in;
    r.out = in ? cl_malloc((size_t)per_run, r.out_bytes, "rows", err) : NULL;
    float *scratch = r.out ? cl_malloc((size_t)jobs, sizeof *scratch * (size_t)t->cols, "rows", err) : NULL;
    cl_code c = scratch ? CL_OK : CL_E_FIT;
    for (int i = 0; i < o->n_parts && c == CL_OK; i++)
        c = stream_part(st, index, &st->source->tensors[o->parts[i]], r, rows, in, scratch, per_run, err);
    free(in);
    free(r.out);
    free(scratch);
    return c;
}
