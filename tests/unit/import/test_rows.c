/* Views of source tensors: parts of kv_b, halves and every other row of gate_up, transposed stacks; in all number
 * formats, in runs of any size, against the definition number by number. */
#include <math.h>

#include "files.h"
#include "match.h"
#include "rows.h"
#include "safetensors.h"
#include "suite.h"

/* A matrix of the checkpoint, its numbers as they count, and its bytes. */
typedef struct made {
    const char *name, *dtype;
    int64_t stack, rows, cols; /* stack 0: a single one */
    float *x;                  /* [stack][rows][cols] */
} made;

static uint64_t seed = 1;
static float some(void) { return (float)(int64_t)(next(&seed) >> 11) * 0x1p-52f - 1; }

/* A tensor of `dtype`; F8_E4M3 with tiles of scales beside it. */
static made add(st_file *st, const char *name, const char *dtype, int64_t stack, int64_t rows, int64_t cols)
{
    made m = {name, dtype, stack, rows, cols, NULL};
    int64_t n = (stack ? stack : 1) * rows * cols, tr = (rows + 127) / 128, tc = (cols + 127) / 128;
    int64_t dims[3] = {stack, rows, cols}, sdims[3] = {stack, tr, tc};
    int skip = stack ? 0 : 1;
    size_t size = strcmp(dtype, "F32") == 0 ? 4 : strcmp(dtype, "BF16") == 0 ? 2 : 1;
    float *scales = calloc((size_t)((stack ? stack : 1) * tr * tc), sizeof *scales);
    unsigned char *raw = malloc((size_t)n * size);
    m.x = malloc((size_t)n * sizeof *m.x);
    if (!scales || !raw || !m.x) abort();
    for (int64_t i = 0; i < (stack ? stack : 1) * tr * tc; i++) scales[i] = 0.01f + fabsf(some());
    for (int64_t i = 0; i < n; i++) {
        int64_t e = i / (rows * cols), r = i / cols % rows, c = i % cols;
        if (size == 4) {
            m.x[i] = some();
            memcpy(raw + 4 * i, &m.x[i], 4);
        } else if (size == 2) {
            uint16_t h = cl_f32_to_bf16(some());
            m.x[i] = cl_bf16_to_f32(h);
            memcpy(raw + 2 * i, &h, 2);
        } else {
            raw[i] = cl_f32_to_e4m3(some() * 400);
            m.x[i] = cl_e4m3_to_f32(raw[i]) * scales[(e * tr + r / 128) * tc + c / 128];
        }
    }
    st_tensor(st, name, dtype, 3 - skip, dims + skip, raw, (size_t)n * size);
    char beside[256];
    snprintf(beside, sizeof beside, "%s_scale_inv", name);
    if (size == 1)
        st_tensor(st, beside, "F32", 3 - skip, sdims + skip, scales, (size_t)((stack ? stack : 1) * tr * tc) * 4);
    free(scales);
    free(raw);
    return m;
}

static float at(const made *m, int64_t e, int64_t r, int64_t c) { return m->x[(e * m->rows + r) * m->cols + c]; }

/* --- converting one tensor of a model --- */

typedef struct bench {
    folder dir;
    cl_source source;
    cl_model model;
    cl_origin origin;
} bench;

/* One tensor [experts, rows, cols] of origin o in the source's only matrix. */
static void bench_open(bench *b, st_file *st, const made *m, cl_tensor t, cl_origin o)
{
    cl_err err;
    int dropped;
    place weights = in(&b->dir, "model.safetensors");
    st_write(st, weights.path);
    if (cl_safetensors_open(&b->source, b->dir.path, &err) != CL_OK) abort();
    if (cl_source_join(&b->source, &dropped, &err) != CL_OK) abort();
    b->model = (cl_model){.n_tensors = 1, .tensors = malloc(sizeof t)};
    b->origin = o;
    b->origin.n_parts = 1;
    b->origin.parts = malloc(sizeof *b->origin.parts);
    if (!b->model.tensors || !b->origin.parts) abort();
    b->origin.parts[0] = cl_source_find(&b->source, m->name);
    b->origin.width = m->cols;
    t.role = CL_T_EXPERT_UP;
    snprintf(t.name, sizeof t.name, "layers.0.ffn.experts.up.weight");
    b->model.tensors[0] = t;
}

static void bench_close(bench *b)
{
    cl_source_free(&b->source);
    free(b->model.tensors);
    free(b->origin.parts);
    folder_remove(&b->dir);
}

/* --- what the writer gets, caught on the way --- */

static unsigned char *caught;
static size_t caught_at;

cl_code cl_model_writer_rows(cl_model_writer *w, int tensor, const void *rows, int64_t n_rows, cl_err *err)
{
    const cl_tensor *t = (const cl_tensor *)w;
    int64_t first = (int64_t)(caught_at / cl_row_bytes(t->format, t->cols)) % t->rows,
            tile = cl_format_tile_rows(t->format);
    size_t n = (size_t)n_rows * cl_row_bytes(t->format, t->cols);
    /* Whole tiles of one matrix at a time. */
    if (tile > 1 && (first % tile || first + n_rows > t->rows || (n_rows % tile && first + n_rows != t->rows)))
        CU_FAIL("a cut tile");
    memcpy(caught + caught_at, rows, n);
    caught_at += n;
    return CL_OK;
}

static float by_definition(const made *m, const cl_origin *o, int64_t e, int64_t r, int64_t c)
{
    int64_t row = o->turned ? c : o->first + r * o->step, col = o->turned ? o->first + r * o->step : c;
    int64_t flat = e * o->stride + row; /* rows of the source, all matrices one below the other */
    return at(m, flat / m->rows, flat % m->rows, col);
}

/* All of it in format `to`: exactly the definition's numbers, or what format.h encodes of them. */
static void check(bench *b, const made *m, cl_format to, bool exact)
{
    cl_tensor *t = &b->model.tensors[0];
    t->format = to;
    int64_t n = cl_tensor_rows(t), tile = cl_format_tile_rows(to);
    size_t row_bytes = cl_row_bytes(to, t->cols);
    unsigned char *want = malloc((size_t)n * row_bytes);
    float *x = malloc((size_t)(tile * t->cols) * sizeof *x), *y = malloc((size_t)t->cols * sizeof *y);
    caught = malloc((size_t)n * row_bytes);
    if (!want || !x || !y || !caught) abort();
    for (int64_t r = 0, k; r < n; r += k) {
        for (k = 0; k < tile && k < t->rows - r % t->rows; k++)
            for (int64_t c = 0; c < t->cols; c++)
                x[k * t->cols + c] = by_definition(m, &b->origin, (r + k) / t->rows, (r + k) % t->rows, c);
        cl_encode_rows(to, x, k, t->cols, want + (size_t)r * row_bytes);
    }
    static const struct {
        int jobs;
        size_t room;
    } ways[] = {{1, 0}, {3, 1}, {2, 5000}, {1, 1 << 20}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        cl_stream st = {.source = &b->source,
                        .model = &b->model,
                        .writer = (cl_model_writer *)t,
                        .jobs = ways[i].jobs,
                        .room = ways[i].room};
        cl_err err;
        caught_at = 0;
        CU_ASSERT_EQUAL_FATAL(cl_stream_tensor(&st, 0, &b->origin, &err), CL_OK);
        CU_ASSERT_EQUAL(caught_at, (size_t)n * row_bytes);
        if (!exact) CU_ASSERT(memcmp(caught, want, (size_t)n * row_bytes) == 0);
        for (int64_t r = 0; exact && r < n; r++) {
            int bad = 0;
            cl_decode_row(to, caught + (size_t)r * row_bytes, t->cols, y);
            for (int64_t c = 0; c < t->cols; c++)
                bad += y[c] != by_definition(m, &b->origin, r / t->rows, r % t->rows, c);
            CU_ASSERT_EQUAL(bad, 0);
        }
    }
    free(want);
    free(x);
    free(y);
    free(caught);
}

/* The format that the source has if it can be kept, and others that must be encoded. */
static void check_view(const char *dtype, int64_t stack, int64_t rows, int64_t cols, cl_tensor t, cl_origin o,
                       bool keeps)
{
    static const cl_format encoded[] = {CL_F32, CL_BF16, CL_Q8_0, CL_FP8, CL_INT4};
    bench b = {.dir = folder_new()};
    st_file st = {0};
    made m = add(&st, "model.w", dtype, stack, rows, cols);
    bench_open(&b, &st, &m, t, o);
    cl_format own = (cl_format)b.source.tensors[b.origin.parts[0]].format;
    CU_ASSERT_EQUAL(cl_origin_keeps(&b.source, &b.model.tensors[0], &b.origin), keeps);
    if (keeps) check(&b, &m, own, true);
    for (size_t i = 0; i < sizeof encoded / sizeof *encoded; i++)
        if (encoded[i] != own || !keeps) check(&b, &m, encoded[i], encoded[i] == CL_F32);
    bench_close(&b);
    free(m.x);
}

/* kv_b's key rows transposed per head, and its value rows. */
static void check_up(const char *dtype, int64_t heads, int64_t nope, int64_t v, int64_t rank, bool keeps_k,
                     bool keeps_v)
{
    int64_t stride = nope + v;
    check_view(dtype, 0, heads * stride, rank, (cl_tensor){.experts = heads, .rows = rank, .cols = nope},
               (cl_origin){.turned = true, .stride = stride, .step = 1}, keeps_k);
    check_view(dtype, 0, heads * stride, rank, (cl_tensor){.experts = heads, .rows = v, .cols = rank},
               (cl_origin){.stride = stride, .first = nope, .step = 1}, keeps_v);
}

static void test_up(void)
{
    check_up("F32", 3, 12, 10, 28, true, true);
    check_up("BF16", 2, 40, 24, 700, true, true); /* several bands */
    check_up("F8_E4M3", 3, 128, 128, 200, true, true);
    check_up("F8_E4M3", 2, 128, 128, 700, true, true);
    check_up("F8_E4M3", 2, 96, 32, 140, true, false); /* heads begin with a tile, values do not */
    check_up("F8_E4M3", 3, 12, 10, 28, false, false);
    check_up("F8_E4M3", 1, 128, 20, 30, true, true); /* one head begins the matrix */
}

/* gate_up: [experts, in, out] and [experts, out, in], interleaved and one after the other. */
static void test_gate_up(void)
{
    enum { E = 2, IN = 40, F = 350 };
    cl_tensor t = {.experts = E, .rows = F, .cols = IN};
    for (int half = 0; half < 2; half++) {
        check_view("BF16", E, IN, 2 * F, t, (cl_origin){.turned = true, .stride = IN, .first = half, .step = 2}, true);
        check_view("F32", E, IN, 2 * F, t, (cl_origin){.turned = true, .stride = IN, .first = half * F, .step = 1},
                   true);
        check_view("F32", E, 2 * F, IN, t, (cl_origin){.stride = 2 * F, .first = half, .step = 2}, true);
        check_view("BF16", E, 2 * F, IN, t, (cl_origin){.stride = 2 * F, .first = half * F, .step = 1}, true);
        check_view("F8_E4M3", E, 2 * F, IN, t, (cl_origin){.stride = 2 * F, .first = half * F, .step = 1}, half == 0);
        check_view("F8_E4M3", E, 2 * F, IN, t, (cl_origin){.stride = 2 * F, .first = half, .step = 2}, false);
    }
    /* The tiles of a stack begin with each matrix, wherever that is. */
    check_view("F8_E4M3", 3, 130, 140, (cl_tensor){.experts = 3, .rows = 130, .cols = 140},
               (cl_origin){.stride = 130, .step = 1}, true);
    check_view("F8_E4M3", 3, 130, 270, (cl_tensor){.experts = 3, .rows = 270, .cols = 130},
               (cl_origin){.turned = true, .stride = 130, .step = 1}, true);
}

/* Numbers that are none are found in what is transposed and in scales, also of blocks that keep their bytes. */
static void refused(const char *name, const char *dtype, size_t size, int64_t scale_size, const char *scale_dtype,
                    const void *raw, const void *scales, const char *part)
{
    bench b = {.dir = folder_new()};
    st_file st = {0};
    bool words = scale_size && strcmp(dtype, "I32") == 0;
    made m = {words ? "model.weight" : "model.w", dtype, 0, 4, 32, NULL};
    int64_t dims[2] = {4, words ? 4 : 32}, sdims[2] = {words ? 4 : 1, 1}, two = 2;
    st_tensor(&st, name, dtype, 2, dims, raw, (size_t)(dims[0] * dims[1]) * size);
    if (scale_size)
        st_tensor(&st, words ? "model.weight_scale" : "model.w_scale_inv", scale_dtype, 2, sdims, scales,
                  (size_t)(sdims[0] * scale_size));
    if (words) st_tensor(&st, "model.weight_shape", "I32", 1, &two, (int32_t[]){4, 32}, 8);
    bool turned = !words;
    bench_open(&b, &st, &m, turned ? (cl_tensor){.rows = 32, .cols = 4} : (cl_tensor){.rows = 4, .cols = 32},
               (cl_origin){.turned = turned, .stride = 4, .step = 1});
    cl_tensor *t = &b.model.tensors[0];
    t->format = (cl_format)b.source.tensors[b.origin.parts[0]].format;
    cl_stream s = {.source = &b.source, .model = &b.model, .writer = (cl_model_writer *)t, .jobs = 2};
    cl_err err = {0};
    caught = malloc((size_t)cl_tensor_rows(t) * cl_row_bytes(t->format, t->cols));
    caught_at = 0;
    CU_ASSERT_EQUAL(cl_stream_tensor(&s, 0, &b.origin, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, part));
    free(caught);
    bench_close(&b);
}

static void test_numbers(void)
{
    static float plain[4 * 32];
    static unsigned char codes[4 * 32];
    static int32_t words[4 * 4];
    float one = 1, bad = INFINITY, scales[4] = {1, 1, 1.001f, 1};
    uint16_t halves[4] = {0x3f80, 0x3f80, 0x7f80, 0x3f80};
    plain[3 * 32 + 5] = NAN;
    refused("model.w", "F32", 4, 0, NULL, plain, NULL, "tensor model.w: a number in row 3 is NaN or infinite");
    codes[2 * 32 + 31] = 0xff;
    refused("model.w", "F8_E4M3", 1, 4, "F32", codes, &one, "tensor model.w: a number in row 2 is NaN or infinite");
    memset(codes, 0x38, sizeof codes);
    refused("model.w", "F8_E4M3", 1, 4, "F32", codes, &bad, "tensor model.w: a number in row 0 is NaN or infinite");
    refused("model.weight_packed", "I32", 4, 4, "F32", words, scales,
            "tensor model.weight: a scale in row 2 is no bf16 number");
    refused("model.weight_packed", "I32", 4, 2, "BF16", words, halves,
            "tensor model.weight: a number in row 2 is NaN or infinite");
}

/* Rows are counted through the whole tensor, over several runs. */
static void test_row_of_a_large_tensor(void)
{
    enum { ROWS = 5000, COLS = 256 }; /* 5.1 MB */
    float *x = calloc(ROWS * COLS, sizeof *x);
    bench b = {.dir = folder_new()};
    st_file st = {0};
    made m = {"model.w", "F32", 0, ROWS, COLS, NULL};
    int64_t dims[2] = {ROWS, COLS};
    x[4321 * COLS + 7] = NAN;
    st_tensor(&st, "model.w", "F32", 2, dims, x, ROWS * COLS * sizeof *x);
    bench_open(&b, &st, &m, (cl_tensor){.rows = ROWS, .cols = COLS}, (cl_origin){.stride = ROWS, .step = 1});
    cl_tensor *t = &b.model.tensors[0];
    t->format = CL_F32;
    cl_stream s = {.source = &b.source, .model = &b.model, .writer = (cl_model_writer *)t, .jobs = 2};
    cl_err err = {0};
    caught = malloc(ROWS * COLS * sizeof *x);
    caught_at = 0;
    CU_ASSERT_EQUAL(cl_stream_tensor(&s, 0, &b.origin, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "tensor model.w: a number in row 4321 is NaN or infinite"));
    free(caught);
    free(x);
    bench_close(&b);
}

int main(void)
{
    CU_TestInfo tests[] = {{"keys and values of a latent", test_up},
                           {"gate and up in one", test_gate_up},
                           {"what is no number", test_numbers},
                           {"row of a large tensor", test_row_of_a_large_tensor},
                           CU_TEST_INFO_NULL};
    return run_suite("rows", tests);
}
