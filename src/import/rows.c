/* rows.c: read, check, put in order, encode and write rows (rows.h). Every number is decoded once, also where the
 * bytes are kept: that is how NaN and infinity are found, in scales of blocks too. */
#include "rows.h"

#include <stdlib.h>
#include <string.h>

#include "band.h"
#include "jobs.h"

enum { RUN_BYTES = 4 << 20, TURN_BYTES = 128 << 20, TURN_ROWS = 16 };

/* Rows [first, first + rows) of one matrix on their way. */
typedef struct run {
    const cl_origin *o;
    cl_format from, to;
    bool copy; /* codes and scales stay as they are */
    cl_band band;
    int64_t first, rows, cols;
    int64_t unit;                   /* rows that are encoded together */
    size_t packed_bytes, out_bytes; /* a whole row of the source as a model file has it, and one of the result */
    float *turned;                  /* [band rows][band columns], or NULL */
    unsigned char *out;
    float *scratch; /* [jobs][scratch_len]: numbers, and a packed row in the last packed_len */
    size_t scratch_len, packed_len;
} run;

typedef struct share {
    run *r;
    void (*work)(struct share *s, int64_t i);
    int64_t first, end;
    float *x;
    int64_t bad; /* first row of the band that cannot be used, or -1 */
    bool coarse; /* because of a scale */
} share;

/* --- one thread's work --- */

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

/* Row i of the band into x; its packed form, or NULL if there is something wrong with it. */
static const unsigned char *decode(share *s, int64_t i, float *x, unsigned char *packed)
{
    const unsigned char *row = cl_band_row(&s->r->band, i, packed);
    if (row) cl_decode_row(s->r->from, row, s->r->band.cols, x);
    if (row && all_finite(x, s->r->band.cols)) return row;
    s->bad = i;
    s->coarse = !row;
    return NULL;
}

static unsigned char *packed_row(const share *s)
{
    return (unsigned char *)(s->x + s->r->scratch_len - s->r->packed_len);
}

/* Rows of unit u, from rows of the band. */
static void work_rows(share *s, int64_t u)
{
    const run *r = s->r;
    int64_t row = u * r->unit, n = r->rows - row < r->unit ? r->rows - row : r->unit;
    unsigned char *out = r->out + (size_t)row * r->out_bytes;
    for (int64_t k = 0; k < n; k++) {
        const unsigned char *in =
            decode(s, source_row(row + k, r->o->head_dim) * r->o->step, s->x + k * r->cols, packed_row(s));
        if (!in) return;
        if (r->copy) memcpy(out + (size_t)k * r->out_bytes, in, r->out_bytes);
    }
    if (!r->copy) cl_encode_rows(r->to, s->x, n, r->cols, out);
}

/* Row i of the band, into the numbers to be turned; only to look at it where it is codes that are turned. */
static void work_decode(share *s, int64_t i)
{
    decode(s, i, s->r->turned ? s->r->turned + i * s->r->band.cols : s->x, packed_row(s));
}

/* Column `column` of the band of FP8 tiles becomes a row of them. */
static void turn_fp8(const cl_band *b, int64_t column, unsigned char *out)
{
    int64_t tile = cl_format_tile_rows(CL_FP8);
    for (int64_t i = 0; i < b->n; i += tile, out += sizeof(float)) {
        float scale = cl_band_scale(b, i, column);
        memcpy(out, &scale, sizeof scale);
    }
    for (int64_t i = 0; i < b->n; i++) out[i] = cl_band_code(b, i, column);
}

/* Rows of unit u, from columns of the band. */
static void work_turn(share *s, int64_t u)
{
    const run *r = s->r;
    const cl_band *b = &r->band;
    int64_t row = u * r->unit, n = r->rows - row < r->unit ? r->rows - row : r->unit, step = r->o->step;
    int64_t column = r->o->first + (r->first + row) * step - b->col;
    unsigned char *out = r->out + (size_t)row * r->out_bytes;
    for (int64_t k = 0; r->copy && k < n; k++) turn_fp8(b, column + k * step, out + (size_t)k * r->out_bytes);
    if (r->copy) return;
    for (int64_t c = 0; c < r->cols; c++)
        for (int64_t k = 0; k < n; k++) s->x[k * r->cols + c] = r->turned[c * b->cols + column + k * step];
    cl_encode_rows(r->to, s->x, n, r->cols, out);
}

/* --- threads --- */

static void *run_share(void *arg)
{
    share *s = arg;
    for (int64_t i = s->first; i < s->end && s->bad < 0; i++) s->work(s, i);
    return NULL;
}

/* work(0), ..., work(n - 1), shared among threads. */
static cl_code run_all(run *r, void (*work)(share *, int64_t), int64_t n, int jobs, cl_err *err)
{
    share shares[CL_JOBS_MAX];
    if (jobs > n) jobs = (int)n;
    for (int i = 0; i < jobs; i++)
        shares[i] = (share){.r = r,
                            .work = work,
                            .first = n * i / jobs,
                            .end = n * (i + 1) / jobs,
                            .x = r->scratch + (size_t)i * r->scratch_len,
                            .bad = -1};
    cl_jobs_run(shares, sizeof *shares, jobs, run_share);
    const share *bad = NULL;
    for (int i = 0; i < jobs && !bad; i++)
        if (shares[i].bad >= 0) bad = &shares[i];
    if (!bad) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "tensor %s: a %s in row %lld is %s", r->band.src->name,
                   bad->coarse ? "scale" : "number", (long long)(r->band.row + bad->bad),
                   bad->coarse ? "no bf16 number (int4 is read with scales that bf16 holds exactly)"
                               : "NaN or infinite (the checkpoint is damaged)");
}

/* --- one tensor --- */

typedef struct shape {
    int64_t matrices, rows; /* of the tensor; matrices that lie one below the other may be seen as one */
    int64_t per_run;        /* rows */
    int64_t band_rows, band_cols;
    int jobs;
} shape;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* A multiple of both. */
static int64_t common(int64_t a, int64_t b)
{
    int64_t m = a;
    while (m % b) m += a;
    return m;
}

static shape plan_rows(const cl_stream *st, const cl_tensor *t, const run *r)
{
    shape p = {.matrices = t->experts ? t->experts : 1, .rows = t->rows, .band_cols = t->cols};
    const cl_origin *o = r->o;
    if (o->n_parts == 1 && o->step == 1 && o->stride == t->rows && r->from != CL_FP8 && r->to != CL_FP8) {
        p.rows *= p.matrices;
        p.matrices = 1;
    }
    int64_t unit = common(r->unit, o->head_dim ? o->head_dim : 1);
    size_t in = r->packed_bytes * (size_t)o->step, widest = in > r->out_bytes ? in : r->out_bytes;
    p.per_run = (int64_t)((st->room ? st->room : RUN_BYTES) / widest) / unit * unit;
    p.per_run = least(p.per_run < unit ? unit : p.per_run, p.rows);
    p.band_rows = (p.per_run - 1) * o->step + 1;
    return p;
}

/* A band is as high as the matrix has columns. */
static shape plan_turned(const cl_stream *st, const cl_tensor *t, const run *r)
{
    shape p = {.matrices = t->experts ? t->experts : 1, .rows = t->rows, .band_rows = t->cols};
    const cl_origin *o = r->o;
    int64_t wide = (int64_t)((st->room ? st->room : TURN_BYTES) / sizeof(float)) / t->cols / CL_BAND_COLS *
                   CL_BAND_COLS;
    int64_t need = CL_BAND_COLS + r->unit * o->step; /* a unit wherever it begins */
    p.band_cols = least(wide < need ? round_up(need, CL_BAND_COLS) : wide, o->width);
    p.per_run = least(p.rows, p.band_cols / o->step + 1);
    return p;
}

/* Where run r's columns begin and end; as many of `rows` rows as fit band_cols. */
static void choose_columns(run *r, const shape *p, int64_t rows, int64_t *col, int64_t *cols)
{
    const cl_origin *o = r->o;
    int64_t at = o->first + r->first * o->step;
    *col = at / CL_BAND_COLS * CL_BAND_COLS;
    r->rows = least(rows, (*col + p->band_cols - at - 1) / o->step + 1);
    if (r->rows < rows) r->rows = r->rows / r->unit * r->unit;
    *cols = least(round_up(at + (r->rows - 1) * o->step + 1 - *col, CL_BAND_COLS), o->width - *col);
}

static cl_code one_run(cl_stream *st, run *r, const shape *p, const cl_src_tensor *src, int64_t base, int64_t left,
                       cl_err *err)
{
    const cl_origin *o = r->o;
    cl_code c;
    if (!o->turned) {
        r->rows = least(left, p->per_run);
        c = cl_band_read(&r->band, st->source, src, base + o->first + r->first * o->step, (r->rows - 1) * o->step + 1,
                         0, r->cols, err);
        return c == CL_OK ? run_all(r, work_rows, (r->rows + r->unit - 1) / r->unit, p->jobs, err) : c;
    }
    int64_t col, cols;
    choose_columns(r, p, left, &col, &cols);
    c = cl_band_read(&r->band, st->source, src, base, p->band_rows, col, cols, err);
    if (c == CL_OK) c = run_all(r, work_decode, p->band_rows, p->jobs, err);
    return c == CL_OK ? run_all(r, work_turn, (r->rows + r->unit - 1) / r->unit, p->jobs, err) : c;
}

static cl_code stream_matrices(cl_stream *st, int index, run *r, const shape *p, cl_err *err)
{
    const cl_origin *o = r->o;
    for (int64_t m = 0; m < p->matrices; m++) {
        const cl_src_tensor *src = &st->source->tensors[o->parts[o->n_parts > 1 ? m : 0]];
        for (r->first = 0; r->first < p->rows; r->first += r->rows) {
            cl_code c = one_run(st, r, p, src, o->n_parts > 1 ? 0 : m * o->stride, p->rows - r->first, err);
            if (c == CL_OK) c = cl_model_writer_rows(st->writer, index, r->out, r->rows, err);
            if (c != CL_OK) return c;
            st->done += (uint64_t)r->rows * r->out_bytes;
            if (st->progress) cl_progress_at(st->progress, st->done);
        }
    }
    return CL_OK;
}

static cl_code make_room(run *r, const shape *p, const cl_src_tensor *src, cl_err *err)
{
    cl_code c = cl_band_make(&r->band, src, r->o->width, p->band_rows, p->band_cols, err);
    if (c != CL_OK) return c;
    size_t unit = (size_t)r->unit * (size_t)r->cols, row = (size_t)p->band_cols;
    r->packed_len = r->packed_bytes / sizeof(float) + 1;
    r->scratch_len = (unit > row ? unit : row) + r->packed_len;
    r->scratch = cl_malloc((size_t)p->jobs * r->scratch_len, sizeof *r->scratch, "rows", err);
    r->out = r->scratch ? cl_malloc((size_t)p->per_run, r->out_bytes, "rows", err) : NULL;
    if (!r->out) return CL_E_FIT;
    if (!r->o->turned || r->copy) return CL_OK;
    r->turned = cl_malloc((size_t)p->band_rows * (size_t)p->band_cols, sizeof *r->turned, "rows", err);
    return r->turned ? CL_OK : CL_E_FIT;
}

cl_code cl_stream_tensor(cl_stream *st, int index, const cl_origin *o, cl_err *err)
{
    const cl_tensor *t = &st->model->tensors[index];
    const cl_src_tensor *src = &st->source->tensors[o->parts[0]];
    run r = {.o = o,
             .from = (cl_format)src->format,
             .to = t->format,
             .cols = t->cols,
             .out_bytes = cl_row_bytes(t->format, t->cols)};
    bool blocks = cl_format_get(r.from)->block > 1;
    r.copy = r.from == r.to && cl_origin_keeps(st->source, t, o) && (!o->turned || blocks);
    r.unit = cl_format_tile_rows(r.to) > 1 ? cl_format_tile_rows(r.to) : o->turned ? TURN_ROWS : 1;
    r.packed_bytes = cl_row_bytes(r.from, o->width);
    shape p = o->turned ? plan_turned(st, t, &r) : plan_rows(st, t, &r);
    p.jobs = st->jobs < 1 ? 1 : (int)least(st->jobs, CL_JOBS_MAX);
    cl_code c = make_room(&r, &p, src, err);
    if (c == CL_OK) c = stream_matrices(st, index, &r, &p, err);
    cl_band_free(&r.band);
    free(r.scratch);
    free(r.out);
    free(r.turned);
    return c;
}
