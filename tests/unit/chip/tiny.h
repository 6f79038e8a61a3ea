/* tiny.h: tiny models with random weights, chips made from them, and a plain double-precision forward pass to compare
 * with. */
#ifndef CHIPLINE_TEST_TINY_H
#define CHIPLINE_TEST_TINY_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chipline/chip.h"
#include "chipline/model_file.h"
#include "crews.h"
#include "specs.h"
#include "suite.h"

enum { TINY_LAYERS = 4, TINY_VOCAB = 75, TINY_MAX = 64 /* positions in a test */ };

typedef struct tiny {
    char dir[96], path[128];
    cl_spec spec;
    cl_model_file *file;
    const cl_model *model;
    cl_tensor_reader reader;
    float **w; /* [n_tensors] exactly what the file holds, as float32 */
} tiny;

static uint64_t tiny_state;
static double tiny_router = 2;   /* size of router weights */
static float tiny_outlier = 1;   /* the 8th number of the norms in front of products, times this */
static double tiny_uniform(void) /* in [-1, 1) */
{
    tiny_state = tiny_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(tiny_state >> 11) * 0x1p-52 - 1;
}

/* --- specs --- */
static double *tiny_freq(int dims, double base)
{
    double *f = malloc((size_t)dims / 2 * sizeof *f);
    for (int i = 0; i < dims / 2; i++) f[i] = pow(base, -2.0 * i / dims);
    return f;
}

/* Hidden 100, 7 query heads on 1 kv head, every kind of norm, bias, window, clip and rotation; moe: experts in all
 * layers but one. */
static cl_spec tiny_spec(bool moe)
{
    cl_spec s = {.family = "tiny",
                 .vocab = TINY_VOCAB,
                 .hidden = 100,
                 .n_layers = TINY_LAYERS,
                 .context = TINY_MAX,
                 .norm_eps = 1e-5,
                 .tied = !moe,
                 .n_ropes = 2,
                 .bos = -1};
    s.ropes = calloc(2, sizeof *s.ropes);
    s.ropes[0] = (cl_rope){.dims = 18, .pairing = CL_ROPE_HALF, .scale = 1, .inv_freq = tiny_freq(18, 10000)};
    s.ropes[1] = (cl_rope){.dims = 12, .pairing = CL_ROPE_INTERLEAVED, .scale = 1.2, .inv_freq = tiny_freq(12, 100)};
    s.layers = calloc(TINY_LAYERS, sizeof *s.layers);
    for (int i = 0; i < TINY_LAYERS; i++) {
        cl_attention *a = &s.layers[i].attn;
        *a = (cl_attention){.heads = 7, .kv_heads = 1, .head_dim = 18, .rope = i % 3 - 1, .scale = 1 / sqrt(18)};
        if (i == 1) *a = (cl_attention){.heads = 6, .kv_heads = 2, .head_dim = 20, .rope = 1, .scale = 0.3};
        a->qk_norm = i == 0 ? CL_QK_NORM_HEAD : i == 1 ? CL_QK_NORM_FULL : CL_QK_NORM_NONE;
        a->window = i == 1 ? 5 : i == 2 ? 21 : 0;
        a->qkv_bias = i % 2 == 0;
        a->o_bias = i == 2;
        a->clip = i == 1 ? 0.9 : i == 3 ? 0.5 : 0;
        cl_ffn *f = &s.layers[i].ffn;
        *f = (cl_ffn){.kind = CL_FFN_DENSE, .width = i == 1 ? 130 : 90, .bias = i == 3 && !moe};
        if (moe && i != 2)
            *f = (cl_ffn){.kind = CL_FFN_MOE,
                          .weight_scale = 1,
                          .width = 42,
                          .experts = 6,
                          .top_k = i == 3 ? 3 : 2,
                          .renormalise = i == 1};
    }
    return s;
}

/* Every spec there is for these tests. */
enum { TINY_DENSE, TINY_MOE, TINY_SINKS, TINY_LATENT, TINY_CHUNKED, TINY_SPECS };
static const char *const tiny_names[] = {"dense", "moe", "sinks", "latent", "chunked"};
static cl_spec tiny_any(int which)
{
    return which == TINY_SINKS     ? test_spec_sinks()
           : which == TINY_LATENT  ? test_spec_latent()
           : which == TINY_CHUNKED ? test_spec_chunked()
                                   : tiny_spec(which == TINY_MOE);
}

/* --- building --- */
static float tiny_value(const cl_tensor *t)
{
    double r = tiny_uniform();
    if (t->role == CL_T_ATTN_NORM || t->role == CL_T_FFN_NORM || t->role == CL_T_FINAL_NORM || t->role == CL_T_Q_NORM ||
        t->role == CL_T_K_NORM || t->role == CL_T_Q_A_NORM || t->role == CL_T_KV_A_NORM)
        return (float)(1 + 0.3 * r);
    if (t->role == CL_T_SINKS) return (float)(2 * r);
    if (t->cols == 1) return (float)(0.2 * r);
    return (float)(r * sqrt(3.0 / (double)t->cols) *
                   (t->role == CL_T_EMBED    ? 3
                    : t->role == CL_T_ROUTER ? tiny_router
                                             : 1));
}

static void tiny_write(tiny *m, cl_model_writer *w, int i)
{
    const cl_tensor *t = &m->model->tensors[i];
    size_t bytes = cl_row_bytes(t->format, t->cols);
    int64_t rows = cl_tensor_rows(t);
    unsigned char *data = malloc((size_t)rows * bytes);
    m->w[i] = malloc((size_t)(rows * t->cols) * sizeof(float));
    for (int64_t c = 0; c < rows * t->cols; c++) m->w[i][c] = tiny_value(t);
    if (t->role == CL_T_ATTN_NORM || t->role == CL_T_FFN_NORM || t->role == CL_T_FINAL_NORM) m->w[i][7] *= tiny_outlier;
    for (int64_t r = 0, n; r < rows; r += n) { /* tiles begin anew in every matrix of a stack */
        n = cl_format_tile_rows(t->format) < t->rows - r % t->rows ? cl_format_tile_rows(t->format)
                                                                   : t->rows - r % t->rows;
        cl_encode_rows(t->format, m->w[i] + r * t->cols, n, t->cols, data + (size_t)r * bytes);
    }
    for (int64_t r = 0; r < rows; r++)
        cl_decode_row(t->format, data + (size_t)r * bytes, t->cols, m->w[i] + r * t->cols);
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_rows(w, i, data, rows, NULL), CL_OK);
    free(data);
}

/* mixed: the matrices take the native formats in turn; otherwise all have `format`. The spec is taken over. */
static tiny tiny_make(cl_spec spec, cl_format format, bool mixed)
{
    tiny m = {.spec = spec};
    cl_model model;
    cl_err err = {0};
    const char *tmp = getenv("TMPDIR");
    snprintf(m.dir, sizeof m.dir, "%s/chipline-test-XXXXXX", tmp ? tmp : "/tmp");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(m.dir));
    snprintf(m.path, sizeof m.path, "%s/tiny.h5", m.dir);
    if (test_model_of(&m.spec, format, &model, &err)) puts(err.msg);
    for (int i = 0, turn = 0; mixed && i < model.n_tensors; i++)
        if (cl_role_is_matrix(model.tensors[i].role)) model.tensors[i].format = (cl_format)(turn++ % CL_NATIVE_FORMATS);
    m.model = &model;
    m.w = calloc((size_t)model.n_tensors, sizeof *m.w);
    tiny_state = 99;
    cl_model_writer *w;
    if (cl_model_writer_create(&w, m.path, &model, "test", NULL, &err)) puts(err.msg);
    for (int i = 0; i < model.n_tensors; i++) tiny_write(&m, w, i);
    if (cl_model_writer_commit(w, &err)) puts(err.msg);
    cl_model_free(&model);
    if (cl_model_file_open(&m.file, m.path, &err)) puts(err.msg);
    CU_ASSERT_EQUAL_FATAL(err.code, CL_OK);
    m.model = cl_model_file_model(m.file);
    m.reader = cl_model_file_reader(m.file);
    return m;
}

static void tiny_free(tiny *m)
{
    for (int i = 0; i < m->model->n_tensors; i++) free(m->w[i]);
    free(m->w);
    cl_model_file_close(m->file);
    unlink(m->path);
    rmdir(m->dir);
    cl_spec_free(&m->spec);
}

/* --- chips --- */
typedef struct tiny_line {
    int n;
    cl_chip_table chips[TINY_LAYERS + 1];
    struct tiny_rows **rows; /* where rows of logits go now */
} tiny_line;

static int tiny_parts(const tiny *m, const cl_stage *s, cl_extent *parts)
{
    int n = 0;
    for (int i = 0; i < m->model->n_tensors; i++) {
        const cl_tensor *t = &m->model->tensors[i];
        bool mine = t->layer >= s->first_layer && t->layer < s->first_layer + s->n_layers;
        if (t->role == CL_T_EMBED) mine = s->embed || (s->head && m->spec.tied);
        if (t->role == CL_T_HEAD || t->role == CL_T_FINAL_NORM) mine = s->head;
        if (mine) parts[n++] = (cl_extent){i, 0, t->experts ? t->experts : 1, 0, t->rows};
    }
    return n;
}

static cl_chip_options tiny_options(int threads, int chunk, const char *kernels)
{
    return (cl_chip_options){.crew = crew_of(threads),
                             .activations = CL_ACT_F32,
                             .kv = CL_KV_F32,
                             .kernels = kernels,
                             .limits =
                                 {.slots = 4, .context = TINY_MAX, .chunk = chunk, .hidden = 100, .vocab = TINY_VOCAB}};
}

/* Rows of logits by slot and position, and what was sampled last. */
typedef struct tiny_rows {
    float row[4][TINY_MAX][TINY_VOCAB];
    int calls;
    cl_samples samples;
    cl_sampled parts[4];
    int32_t ids[4 * TINY_MAX];
} tiny_rows;

static void tiny_keep(void *ctx, int32_t slot, int64_t pos, const float *logits, int n)
{
    tiny_rows *r = *(tiny_rows **)ctx;
    CU_ASSERT(n == TINY_VOCAB);
    memcpy(r->row[slot][pos], logits, sizeof r->row[0][0]);
    r->calls++;
}

/* A line of `stages` chips of about equal numbers of layers (the last may have only the head: stages = TINY_LAYERS +
 * 1). */
static inline tiny_line tiny_chips(const tiny *m, int stages, const cl_chip_options *opt, cl_trace *trace)
{
    tiny_line line = {.n = stages, .rows = calloc(1, sizeof *line.rows)};
    cl_chip_options o = *opt;
    o.rows = (cl_row_observer){line.rows, tiny_keep};
    for (int i = 0; i < stages; i++) {
        cl_extent parts[256];
        int first = TINY_LAYERS * i / stages, last = TINY_LAYERS * (i + 1) / stages;
        cl_stage s = {.first_layer = first,
                      .n_layers = last - first,
                      .embed = i == 0,
                      .head = i == stages - 1,
                      .n_ranks = 1};
        cl_err err = {0};
        int n = tiny_parts(m, &s, parts);
        if (cl_chip_create(&line.chips[i], m->model, &m->reader, &s, parts, n, &o, trace, &err)) puts(err.msg);
        CU_ASSERT_EQUAL_FATAL(err.code, CL_OK);
    }
    return line;
}

static inline void tiny_line_free(tiny_line *l)
{
    for (int i = 0; i < l->n; i++) l->chips[i].free(l->chips[i].ctx);
    free(l->rows);
}

static int32_t tiny_id(int slot, int pos)
{
    return (int32_t)((uint32_t)(pos * 31 + slot * 17 + pos * pos * 7) % TINY_VOCAB);
}

enum { TINY_SAMPLE = 1 << 16 }; /* among a part's flags: it has an output */

/* One micro-batch through the line; rows and samples go to out. */
static void tiny_compute(const tiny_line *l, const cl_microbatch *mb, tiny_rows *out)
{
    static float x[4 * TINY_MAX * 100];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = NAN; /* the first chip does not look at what x holds */
    for (int i = 0; i < l->n; i++) l->chips[i].step(l->chips[i].ctx, mb, x);
    *l->rows = out;
    out->samples = (cl_samples){.parts = out->parts, .ids = out->ids};
    l->chips[l->n - 1].sample(l->chips[l->n - 1].ctx, mb, x, &out->samples);
    *l->rows = NULL;
}

/* One micro-batch: take[slot] tokens of each slot from at[slot] on, which moves. Logits of all of them go to out. */
static void tiny_step(const tiny_line *l, int at[4], const int take[4], uint32_t flags, tiny_rows *out)
{
    cl_part parts[4];
    int32_t ids[4 * TINY_MAX];
    cl_microbatch mb = {.parts = parts, .ids = ids};
    for (int s = 3; s >= 0; s--) { /* slots in no special order */
        if (!take[s]) continue;
        parts[mb.n_parts++] = (cl_part){.slot = s,
                                        .pos = at[s],
                                        .n_tokens = take[s],
                                        .n_outputs = (flags & TINY_SAMPLE) != 0,
                                        .fork = -1,
                                        .flags = flags & (TINY_SAMPLE - 1),
                                        .sampling = {.top_p = 1, .repeat_penalty = 1}};
        for (int i = 0; i < take[s]; i++) ids[mb.n_tokens++] = tiny_id(s, at[s] + i);
        at[s] += take[s];
    }
    tiny_compute(l, &mb, out);
}

/* n tokens of slot 0 in chunks. */
static inline void tiny_run(const tiny_line *l, int n, int chunk, tiny_rows *out)
{
    int at[4] = {0};
    while (at[0] < n) {
        int take[4] = {n - at[0] < chunk ? n - at[0] : chunk};
        tiny_step(l, at, take, CL_PART_ROWS | (at[0] ? 0 : CL_PART_BEGIN), out);
    }
}

#endif
