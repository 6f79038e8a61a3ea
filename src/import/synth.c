/* synth.c: random weights of a real geometry (import.h), so that real sizes can be run and measured without a
 * checkpoint.
 *
 * Every row is drawn from its own seed (seed, tensor, row), so that threads and run lengths change nothing. Numbers
 * are uniform with the standard deviation that keeps activations near unit variance: 1 / sqrt(fan-in), more where a
 * nonlinearity takes some away, less where a layer adds to the residual stream. Routers get 2 / sqrt(fan-in): clear
 * choices that differ from token to token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/import.h"
#include "chipline/model_file.h"
#include "chipline/util.h"
#include "family.h"
#include "jobs.h"
#include "source.h"

enum { RUN_BYTES = 8 << 20 };

typedef struct recipe {
    double mean, std;
} recipe;

static recipe recipe_of(const cl_spec *s, const cl_tensor *t)
{
    double fan_in = 1 / sqrt((double)t->cols), branch = 1 / sqrt(2.0 * s->n_layers);
    switch (t->role) {
    case CL_T_EMBED: return (recipe){0, s->tied ? 2 / sqrt((double)s->hidden) : 1};
    case CL_T_HEAD:
    case CL_T_ROUTER: return (recipe){0, 2 * fan_in};
    case CL_T_O: return (recipe){0, fan_in * branch};
    /* silu(g) u: 0.6 */
    case CL_T_DOWN:
    case CL_T_EXPERT_DOWN:
    case CL_T_SHARED_DOWN: return (recipe){0, 1.6 * fan_in * branch};
    case CL_T_K_B: return (recipe){0, 1 / sqrt((double)t->rows)}; /* held the other way round: see model.h */
    case CL_T_SINKS: return (recipe){0, 1};
    case CL_T_SELECT_BIAS: return (recipe){0, 0.01};
    default: break;
    }
    if (!cl_role_is_vector(t->role)) return (recipe){0, fan_in};
    const char *name = cl_role_name(t->role);
    return strstr(name, "norm") ? (recipe){1, 0.1} : (recipe){0, 0.1};
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Four numbers from each 64 random bits. */
static void draw_row(uint64_t seed, int tensor, int64_t row, recipe r, int64_t n, float *x)
{
    uint64_t state = seed, bits = 0;
    state = next(&state) ^ (uint64_t)tensor;
    state = next(&state) ^ (uint64_t)row;
    float mean = (float)r.mean, step = (float)(r.std * sqrt(12.0) / 65536);
    for (int64_t i = 0; i < n; i++, bits >>= 16) {
        if (i % 4 == 0) bits = next(&state);
        x[i] = mean + step * ((float)(bits & 0xffff) - 32767.5f);
    }
}

/* Tiles [tile0, tile1) of one matrix of a stack: rows first .. of the whole tensor go to `out`. */
typedef struct share {
    const cl_tensor *t;
    int tensor;
    uint64_t seed;
    recipe recipe;
    int64_t first, rows, tile; /* first: of the tensor; a tile begins there */
    float *x;                  /* [tile][cols] */
    unsigned char *out;        /* [rows][row_bytes] */
} share;

static void *work(void *arg)
{
    const share *s = arg;
    size_t bytes = cl_row_bytes(s->t->format, s->t->cols);
    for (int64_t r = 0; r < s->rows; r += s->tile) {
        int64_t n = s->rows - r < s->tile ? s->rows - r : s->tile;
        for (int64_t i = 0; i < n; i++)
            draw_row(s->seed, s->tensor, s->first + r + i, s->recipe, s->t->cols,
                     s->x + (size_t)i * (size_t)s->t->cols);
        cl_encode_rows(s->t->format, s->x, n, s->t->cols, s->out + (size_t)r * bytes);
    }
    return NULL;
}

typedef struct synth {
    const cl_synth_options *opt;
    cl_model model;
    cl_model_writer *writer;
    cl_progress progress;
    uint64_t done;
    int jobs;
} synth;

/* Rows [row, row + n) of one matrix, split among the threads by whole tiles. */
static void run_all(const share *base, int64_t n, int jobs, float *x)
{
    share shares[CL_JOBS_MAX];
    int64_t tiles = (n + base->tile - 1) / base->tile;
    size_t bytes = cl_row_bytes(base->t->format, base->t->cols);
    for (int i = 0; i < jobs; i++) {
        int64_t a = tiles * i / jobs * base->tile, b = tiles * (i + 1) / jobs * base->tile;
        shares[i] = *base;
        shares[i].first += a;
        shares[i].rows = (b < n ? b : n) - a;
        shares[i].x = x + (size_t)i * (size_t)base->tile * (size_t)base->t->cols;
        shares[i].out += (size_t)a * bytes;
    }
    cl_jobs_run(shares, sizeof *shares, jobs, work);
}

static cl_code write_tensor(synth *s, int index, cl_err *err)
{
    const cl_tensor *t = &s->model.tensors[index];
    size_t bytes = cl_row_bytes(t->format, t->cols);
    int64_t tile = cl_format_tile_rows(t->format), matrices = t->experts ? t->experts : 1;
    int64_t unit = tile * s->jobs, per_run = (int64_t)(RUN_BYTES / bytes) / unit * unit;
    if (per_run < unit) per_run = unit;
    float *x = cl_malloc((size_t)unit, (size_t)t->cols * sizeof *x, "rows", err);
    unsigned char *out = x ? cl_malloc((size_t)per_run, bytes, "rows", err) : NULL;
    cl_code c = out ? CL_OK : CL_E_FIT;
    share base = {.t = t,
                  .tensor = index,
                  .seed = s->opt->seed,
                  .recipe = recipe_of(&s->model.spec, t),
                  .tile = tile,
                  .out = out};
    for (int64_t m = 0; c == CL_OK && m < matrices; m++) {
        for (int64_t row = 0; c == CL_OK && row < t->rows; row += per_run) {
            int64_t n = t->rows - row < per_run ? t->rows - row : per_run;
            base.first = m * t->rows + row;
            run_all(&base, n, s->jobs, x);
            c = cl_model_writer_rows(s->writer, index, out, n, err);
            cl_progress_at(&s->progress, s->done += (uint64_t)n * bytes);
        }
    }
    free(x);
    free(out);
    return c;
}

static cl_code write_all(synth *s, const char *out_path, const char *config, cl_err *err)
{
    uint64_t total = 0;
    for (int i = 0; i < s->model.n_tensors; i++)
        total += (uint64_t)cl_tensor_rows(&s->model.tensors[i]) *
                 cl_row_bytes(s->model.tensors[i].format, s->model.tensors[i].cols);
    cl_code c = cl_model_writer_create(&s->writer, out_path, &s->model, "random weights (chipline synth)", config, err);
    if (c != CL_OK) return c;
    if (s->opt->creator) c = cl_model_writer_creator(s->writer, s->opt->creator, err);
    cl_progress_start(&s->progress, s->opt->progress && !s->opt->quiet, "synth", total);
    for (int i = 0; c == CL_OK && i < s->model.n_tensors; i++) c = write_tensor(s, i, err);
    if (c != CL_OK) {
        cl_model_writer_drop(s->writer);
        return c;
    }
    cl_progress_end(&s->progress, s->done);
    return cl_model_writer_commit(s->writer, err);
}

cl_code cl_synth(const char *config_path, const char *out_path, const cl_synth_options *opt, cl_err *err)
{
    synth s = {.opt = opt, .jobs = opt->jobs < 1 ? 1 : opt->jobs > CL_JOBS_MAX ? CL_JOBS_MAX : opt->jobs};
    cl_spec spec = {0};
    cl_formats formats;
    char *text = NULL; /* for the model file */
    if (cl_source_path_has(config_path, out_path))
        return cl_fail(err, CL_E_INPUT, "%s: is a file of the source (give another name after -o)", out_path);
    cl_code c = cl_config_import(config_path, &text, &spec, &formats, err);
    if (c != CL_OK) return c;
    if (!opt->keep) {
        cl_format routers = formats.routers;
        formats = cl_formats_all(opt->format);
        if (cl_format_get(opt->format)->block > 1) formats.routers = routers;
    }
    c = cl_model_from_spec(&spec, &formats, &s.model, err);
    cl_spec_free(&spec);
    if (c == CL_OK) c = write_all(&s, out_path, text, err);
    free(text);
    cl_model_free(&s.model);
    return c;
}
