/* The slice: what the chip keeps of a model file is what the file holds: every role and format, whole or in part;
 * damage is found while it is read. */
#include <fcntl.h>

#include "chipline/kernels.h"
#include "crews.h"
#include "model/model_file_data.h"
#include "npy.h"
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

int main(void)
{
    CU_TestInfo tests[] = {{"whole and in part", test_parts}, {"damage", test_damage}, CU_TEST_INFO_NULL};
    return run_in_folder("slice", tests, dir, sizeof dir, path, sizeof path);
}
