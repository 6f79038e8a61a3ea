/* The slice: what the chip keeps of a model file is what the file holds: every role and format, whole or in part;
 * damage is found while it is read. */
#include <fcntl.h>

#include "chipline/kernels.h"
#include "crews.h"
#include "model/model_file_data.h"
#include "npy.h"
#include "says.h"
#include "slice.h"

static char dir[256], path[300];
static const cl_stage all_layers = {.first_layer = 0, .n_layers = 3, .embed = true, .head = true};

static cl_model_file *open_model(void)
{
    cl_err err = {0};
    cl_model_file *f = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&f, path, &err), CL_OK);
    return f;
}

/* Numbers of one row as kept, and as the rows that were written say. */
static void check_row(const cl_kernels *k, const slice_tensor *st, const cl_tensor *t, int64_t e, int64_t r,
                      const unsigned char *row)
{
    float got[160], want[160];
    CU_ASSERT_TRUE_FATAL(t->cols <= 160);
    cl_decode_row(t->format, row, t->cols, want);
    if (st->vec) got[0] = st->vec[e * st->m.rows + r];
    else
        k->unpack(t->format, t->cols, st->m.data + (size_t)(e * st->m.panels + r / CL_PANEL) * st->m.panel_bytes,
                  (int)(r % CL_PANEL), got);
    if (memcmp(got, want, (size_t)t->cols * sizeof *got) == 0) return;
    CU_FAIL("a row differs");
    fprintf(stderr, "%s (%s): expert %lld, row %lld\n", t->name, cl_format_get(t->format)->name, (long long)e,
            (long long)r);
}

static void check_parts(const cl_kernels *k, const cl_extent *parts, int n)
{
    cl_err err = {0};
    cl_model_file *f = open_model();
    slice s;
    CU_ASSERT_EQUAL_FATAL(slice_plan(&s, cl_model_file_model(f), &all_layers, parts, n, k, &err), CL_OK);
    const cl_tensor_reader from = cl_model_file_reader(f);
    CU_ASSERT_EQUAL_FATAL(slice_load(&s, cl_model_file_model(f), &from, parts, n, k,
                                     &(cl_chip_options){.crew = crew_of(2)}, &err),
                          CL_OK);
    for (int i = 0; i < n; i++) {
        const cl_tensor *t = &cl_model_file_model(f)->tensors[parts[i].tensor];
        const slice_tensor *st = slice_get(&s, t->role, t->layer);
        unsigned char *b = tensor_bytes(t, 1);
        CU_ASSERT_TRUE_FATAL(cl_role_is_vector(t->role) ? st->vec && !st->m.data : st->m.data && !st->vec);
        for (int64_t e = 0; e < parts[i].experts; e++)
            for (int64_t r = 0; r < parts[i].rows; r++)
                check_row(k, st, t, e, r,
                          b + (size_t)((parts[i].expert0 + e) * t->rows + parts[i].row0 + r) *
                                  cl_row_bytes(t->format, t->cols));
        free(b);
    }
    slice_free(&s);
    cl_model_file_close(f);
}

/* Every tensor, and of the larger ones rows from the second panel on of the middle experts. */
static int list_parts(bool whole, cl_extent *parts)
{
    cl_model m = small_model();
    int n = 0;
    for (int i = 0; i < m.n_tensors; i++) {
        const cl_tensor *t = &m.tensors[i];
        int64_t stack = t->experts ? t->experts : 1, cut = whole || t->rows < 40 ? 0 : 16, from = whole ? 0 : stack / 3;
        parts[n++] =
            (cl_extent){.tensor = i, .expert0 = from, .experts = stack - 2 * from, .row0 = cut, .rows = t->rows - cut};
    }
    cl_model_free(&m);
    return n;
}

static void test_parts(void)
{
    cl_err err = {0};
    cl_extent parts[128];
    write_model(path, true, 1);
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = NULL;
        CU_ASSERT_EQUAL_FATAL(cl_kernels_choose(*name, &k, &err), CL_OK);
        for (int whole = 0; whole < 2; whole++) check_parts(k, parts, list_parts(whole, parts));
    }
}

/* One bit of the last scales of a stack of fp8, then of the biases of the last expert, wherever they are in the file.
 * */
static void test_damage(void)
{
    static const cl_role roles[] = {CL_T_EXPERT_DOWN, CL_T_EXPERT_UP_BIAS};
    cl_err err = {0};
    cl_extent parts[128];
    size_t size = 0;
    int n = list_parts(true, parts), fd = open(path, O_RDWR);
    unsigned char *file = npy_read_file(path, &size);
    cl_model m = small_model();
    for (int i = 0; i < 2; i++) {
        const cl_tensor *t = cl_model_find(&m, roles[i], 1);
        size_t row = cl_row_bytes(t->format, t->cols), rows = i ? 2 : 1;
        unsigned char *b = tensor_bytes(t, 1),
                      *at = memmem(file, size, b + ((size_t)cl_tensor_rows(t) - rows) * row, 8);
        CU_ASSERT_PTR_NOT_NULL_FATAL(at);
        unsigned char bad = *at ^ 4;
        CU_ASSERT_EQUAL(pwrite(fd, &bad, 1, at - file), 1);
        cl_model_file *f = open_model();
        slice s;
        const cl_kernels *k = cl_kernels_reference();
        CU_ASSERT_EQUAL_FATAL(slice_plan(&s, cl_model_file_model(f), &all_layers, parts, n, k, &err), CL_OK);
        const cl_tensor_reader from = cl_model_file_reader(f);
        CU_ASSERT_EQUAL(slice_load(&s, cl_model_file_model(f), &from, parts, n, k,
                                   &(cl_chip_options){.crew = crew_of(1 + i)}, &err),
                        CL_E_INPUT);
        slice_free(&s);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, t->name));
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "checksum"));
        cl_model_file_close(f);
        CU_ASSERT_EQUAL(pwrite(fd, at, 1, at - file), 1);
        free(b);
    }
    cl_model_free(&m);
    free(file);
    close(fd);
}

/* --- plans --- */

typedef struct planning {
    const cl_model *m;
    cl_stage stage;
    cl_extent parts[4];
    int n;
} planning;

static cl_code plan(const planning *p, slice *s, cl_err *err)
{
    return slice_plan(s, p->m, &p->stage, p->parts, p->n, cl_kernels_reference(), err);
}

static void act_plan(void *ctx)
{
    cl_err err = {0};
    slice s;
    if (plan(ctx, &s, &err) == CL_OK) slice_free(&s);
}

static void expect(planning p, const char *want)
{
    const char *got = says(act_plan, &p);
    CU_ASSERT_STRING_EQUAL(got, want);
    if (strcmp(got, want) != 0) fprintf(stderr, "said: %s\nwant: %s\n", got, want);
}

static int index_of(const cl_model *m, cl_role role, int layer)
{
    return (int)(cl_model_find(m, role, layer) - m->tensors);
}

/* Parts that no placement gives. */
static void test_wrong_parts(void)
{
    cl_model m = small_model();
    char want[128];
    const int gate = index_of(&m, CL_T_EXPERT_GATE, 1), norm = index_of(&m, CL_T_ATTN_NORM, 1);
    planning p = {.m = &m, .stage = all_layers, .parts = {{gate, 0, 1, 0, 130}, {gate, 2, 2, 0, 130}}, .n = 2};
    expect(p, "");
    snprintf(want, sizeof want, "tensor %d: parts of other rows", gate);
    p.parts[1] = (cl_extent){gate, 2, 2, 0, 129};
    expect(p, want);
    p.parts[1] = (cl_extent){gate, 2, 2, 1, 130};
    expect(p, want);
    p.parts[0] = (cl_extent){gate, 0, 1, 120, 10};
    p.n = 1;
    expect(p, "tensor layers.1.ffn.experts.gate.weight: a panel from row 120 would mix scales");
    p.parts[0] = (cl_extent){gate, 0, 1, 120, 9};
    expect(p, "tensor layers.1.ffn.experts.gate.weight: a panel from row 120 would mix scales");
    p.parts[0] = (cl_extent){gate, 0, 1, 120, 8};
    expect(p, "");
    p.parts[0] = (cl_extent){gate, 0, 1, 112, 18};
    expect(p, "");
    p = (planning){.m = &m, .stage = all_layers, .n = 3};
    p.parts[0] = p.parts[2] = (cl_extent){norm, 0, 1, 0, 36};
    p.parts[1] = (cl_extent){gate, 0, 1, 0, 130};
    expect(p, "tensor layers.1.attn.norm.weight is in the slice twice");
    p.n = 1;
    p.stage = (cl_stage){.first_layer = 2, .n_layers = 1};
    expect(p, "tensor layers.1.attn.norm.weight does not belong to this stage");
    p.stage = (cl_stage){.first_layer = 0, .n_layers = 1};
    expect(p, "tensor layers.1.attn.norm.weight does not belong to this stage");
    p.stage = (cl_stage){.first_layer = 1, .n_layers = 1};
    expect(p, "");
    cl_model_free(&m);
}

static void refused(const planning *p, cl_code code, const char *want)
{
    cl_err err = {0};
    slice s;
    CU_ASSERT_EQUAL(plan(p, &s, &err), code);
    CU_ASSERT_STRING_EQUAL(err.msg, want);
    if (strcmp(err.msg, want) != 0) fprintf(stderr, "said: %s\n", err.msg);
    CU_ASSERT(!s.tensors && !s.data && !s.bytes);
}

/* Vectors in another format, and sizes past the address space. */
static void test_refused(void)
{
    cl_model m = small_model();
    const int gate = index_of(&m, CL_T_EXPERT_UP, 1), norm = index_of(&m, CL_T_EXPERT_UP_BIAS, 1);
    planning p = {.m = &m, .stage = all_layers, .parts = {{norm, 0, 5, 0, 130}}, .n = 1};
    m.tensors[norm].format = CL_BF16;
    refused(&p, CL_E_INPUT, "tensor layers.1.ffn.experts.up.bias: it must be f32 (convert the model again)");
    m.tensors[norm].format = CL_F32;
    p.parts[0].rows = (int64_t)1 << 62;
    refused(&p, CL_E_FIT, "tensor layers.1.ffn.experts.up.bias: larger than the address space (use more ranks)");
    p.parts[0] = (cl_extent){norm, 0, (int64_t)1 << 60, 0, 130};
    refused(&p, CL_E_FIT, "tensor layers.1.ffn.experts.up.bias: larger than the address space (use more ranks)");
    p.parts[0] = (cl_extent){gate, 0, 1, 0, INT64_MAX - 16};
    refused(&p, CL_E_FIT, "tensor layers.1.ffn.experts.up.weight: larger than the address space (use more ranks)");
    p.parts[0] = (cl_extent){gate, 0, (int64_t)1 << 58, 0, 130};
    refused(&p, CL_E_FIT, "tensor layers.1.ffn.experts.up.weight: larger than the address space (use more ranks)");
    cl_model_free(&m);
}

/* Where all lies: one after the other from cache line to cache line; parts behind the last are not looked at. */
static void test_places(void)
{
    cl_err err = {0};
    cl_model m = small_model();
    const cl_kernels *k = cl_kernels_reference();
    const int gate = index_of(&m, CL_T_EXPERT_GATE, 1), norm = index_of(&m, CL_T_ATTN_NORM, 1);
    const planning p =
        {.m = &m,
         .stage = all_layers,
         .n = 3,
         .parts = {{norm, 0, 1, 0, 36}, {gate, 0, 1, 112, 18}, {gate, 2, 1, 112, 18}, {gate, 3, 1, 112, 18}}};
    slice s;
    CU_ASSERT_EQUAL_FATAL(plan(&p, &s, &err), CL_OK);
    const slice_tensor *v = slice_get(&s, CL_T_ATTN_NORM, 1), *w = slice_get(&s, CL_T_EXPERT_GATE, 1);
    const size_t panel = k->panel_bytes(CL_FP8, 36), row = cl_row_bytes(CL_FP8, 36);
    CU_ASSERT(v->at == 0 && v->row0 == 0 && v->m.rows == 36 && v->m.experts == 1 && v->m.cols == 1 && !v->m.panels);
    CU_ASSERT(w->at == 192 && w->row0 == 112 && w->m.rows == 18 && w->m.experts == 2 && w->m.cols == 36);
    CU_ASSERT(w->m.format == CL_FP8 && w->m.panels == 2 && w->m.panel_bytes == panel &&
              slice_expert_bytes(&w->m) == 2 * panel);
    CU_ASSERT_EQUAL(s.bytes, 192 + (4 * panel + 63) / 64 * 64);
    CU_ASSERT_EQUAL(s.file_bytes, 36 * 4 + 2 * 18 * row);
    CU_ASSERT_EQUAL(s.table_bytes, 4 * CL_ROLES * sizeof(slice_tensor));
    CU_ASSERT_EQUAL(s.staging_bytes, (size_t)((1 << 20) / row / 16 * 16) * row);
    slice_free(&s);
    CU_ASSERT(!s.tensors && !s.bytes);
    cl_model_free(&m);
}

/* --- a reader that fails --- */

typedef struct failing {
    int at, rows_read, polls; /* the call that fails */
} failing;

static cl_code fail_rows(void *ctx, int tensor, int64_t expert, int64_t row, int64_t n, void *rows, cl_err *err)
{
    failing *f = ctx;
    (void)expert, (void)row, (void)n, (void)rows;
    if (f->rows_read++ == f->at) return cl_fail(err, CL_E_RUN, "tensor %d cannot be read", tensor);
    memset(rows, 0, 16);
    return CL_OK;
}

static void count_poll(void *ctx) { ((failing *)ctx)->polls++; }

/* Every row that was read is polled after; the first failure is told, and nothing is read after it. */
static void test_failing(void)
{
    cl_model m = small_model();
    const int up = index_of(&m, CL_T_EXPERT_UP, 1), bias = index_of(&m, CL_T_EXPERT_UP_BIAS, 1);
    const planning p = {.m = &m, .stage = all_layers, .n = 2, .parts = {{up, 1, 3, 0, 130}, {bias, 1, 3, 0, 130}}};
    for (int at = 0; at <= 6; at++) {
        cl_err err = {0};
        failing f = {.at = at};
        slice s;
        char want[64];
        const cl_tensor_reader from = {.ctx = &f, .rows = fail_rows, .name = "nothing"};
        const cl_chip_options o = {.crew = crew_of(1), .poll = count_poll, .poll_ctx = &f};
        CU_ASSERT_EQUAL_FATAL(plan(&p, &s, &err), CL_OK);
        CU_ASSERT_EQUAL(slice_load(&s, &m, &from, p.parts, p.n, cl_kernels_reference(), &o, &err),
                        at == 6 ? CL_OK : CL_E_RUN);
        snprintf(want, sizeof want, "tensor %d cannot be read", at < 3 ? up : bias);
        CU_ASSERT_STRING_EQUAL(err.msg, at == 6 ? "" : want);
        CU_ASSERT(f.rows_read == (at < 6 ? at + 1 : 6) && f.polls == at);
        slice_free(&s);
    }
    cl_model_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"whole and in part", test_parts},
                           {"damage", test_damage},
                           {"wrong parts", test_wrong_parts},
                           {"refused", test_refused},
                           {"places", test_places},
                           {"a reader that fails", test_failing},
                           CU_TEST_INFO_NULL};
    return run_in_folder("slice", tests, dir, sizeof dir, path, sizeof path);
}
