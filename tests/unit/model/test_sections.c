/* test_sections.c: what a model file says of itself, in full, and that a flipped bit of any tensor or any section of
 * another room is found by a check of the file; counts at their limits. */
#include <fcntl.h>
#include <hdf5.h>

#include "model_file_data.h"
#include "npy.h"

static char dir[256], path[300];

/* --- descriptions --- */

/* Of the roles that the small model has, in their order. */
static const struct {
    cl_role role;
    const char *text;
} descriptions[] = {
    {CL_T_EMBED, "embedding table: row i is token i"},
    {CL_T_ATTN_NORM, "RMSNorm before attention"},
    {CL_T_Q_A, "queries' first half: down to their latent"},
    {CL_T_Q_A_NORM, "RMSNorm of the queries' latent"},
    {CL_T_Q, "queries; rows are head-major, a head's rotated part last if it has two"},
    {CL_T_K, "keys; rows are head-major"},
    {CL_T_V, "values; rows are head-major"},
    {CL_T_O, "attention's output"},
    {CL_T_KV_A, "the latent of keys and values, then the rotated part that all heads' keys share"},
    {CL_T_KV_A_NORM, "RMSNorm of the latent of keys and values"},
    {CL_T_K_B, "per head: the plain part of its query to the latent of keys and values"},
    {CL_T_V_B, "per head: the latent to its value"},
    {CL_T_Q_BIAS, "bias of the queries"},
    {CL_T_K_BIAS, "bias of the keys"},
    {CL_T_V_BIAS, "bias of the values"},
    {CL_T_O_BIAS, "bias of attention's output"},
    {CL_T_Q_NORM, "RMSNorm of the queries"},
    {CL_T_K_NORM, "RMSNorm of the keys"},
    {CL_T_SINKS, "per query head: the logit of a key without a value"},
    {CL_T_FFN_NORM, "RMSNorm before the feed-forward part"},
    {CL_T_GATE, "gate: goes through the activation"},
    {CL_T_UP, "up: multiplied by the gate"},
    {CL_T_DOWN, "down: back to the hidden width"},
    {CL_T_GATE_BIAS, "bias of gate"},
    {CL_T_UP_BIAS, "bias of up"},
    {CL_T_DOWN_BIAS, "bias of down"},
    {CL_T_ROUTER, "router: one row per expert"},
    {CL_T_ROUTER_BIAS, "bias of the router's outputs"},
    {CL_T_SELECT_BIAS, "per expert: added to its score for the choice, not for its weight"},
    {CL_T_EXPERT_GATE, "gate of every expert"},
    {CL_T_EXPERT_UP, "up of every expert"},
    {CL_T_EXPERT_DOWN, "down of every expert"},
    {CL_T_EXPERT_GATE_BIAS, "bias of every expert's gate"},
    {CL_T_EXPERT_UP_BIAS, "bias of every expert's up"},
    {CL_T_EXPERT_DOWN_BIAS, "bias of every expert's down"},
    {CL_T_SHARED_GATE, "gate of the expert that all tokens share"},
    {CL_T_SHARED_UP, "up of the shared expert"},
    {CL_T_SHARED_DOWN, "down of the shared expert"},
    {CL_T_FINAL_NORM, "RMSNorm before the head"},
    {CL_T_HEAD, "output head: row i gives the logit of token i"},
};

static void expect_text(hid_t f, const char *object, const char *attribute, const char *want)
{
    hid_t a = H5Aopen_by_name(f, object, attribute, H5P_DEFAULT, H5P_DEFAULT);
    CU_ASSERT_FATAL(a >= 0);
    hid_t t = H5Aget_type(a);
    char fixed[1024] = "", *text = fixed;
    const bool variable = H5Tis_variable_str(t) > 0;
    CU_ASSERT_FATAL(variable || H5Tget_size(t) < sizeof fixed);
    CU_ASSERT(H5Aread(a, t, variable ? (void *)&text : (void *)fixed) >= 0);
    CU_ASSERT_STRING_EQUAL(text, want);
    if (strcmp(text, want) != 0) fprintf(stderr, "%s: %s\n", object, text);
    if (variable) H5free_memory(text);
    H5Tclose(t);
    H5Aclose(a);
}

static void check_tensor(hid_t f, const cl_tensor *t)
{
    char name[128];
    size_t i = 0;
    while (descriptions[i].role != t->role) i++;
    snprintf(name, sizeof name, "tensors/%s", t->name);
    expect_text(f, name, "description", descriptions[i].text);
    expect_text(f, name, "role", cl_role_name(t->role));
    expect_text(f, name, "format", cl_format_get(t->format)->name);
    if (t->format != CL_FP8) return;
    snprintf(name, sizeof name, "scales/%s", t->name);
    expect_text(f, name, "description", "factors of the tensor of this name, one per tile");
}

static void test_descriptions(void)
{
    write_model(path, true, 1);
    cl_model m = small_model();
    bool seen[CL_ROLES] = {false};
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    CU_ASSERT_FATAL(f >= 0);
    for (int i = 0; i < m.n_tensors; i++) {
        check_tensor(f, &m.tensors[i]);
        seen[m.tensors[i].role] = true;
    }
    for (int r = 0; r < CL_ROLES; r++) CU_ASSERT_TRUE(seen[r]);
    CU_ASSERT_EQUAL(sizeof descriptions / sizeof *descriptions, CL_ROLES);
    expect_text(
        f, "tensors", "description",
        "one dataset per tensor: rows of bytes, [rows, bytes per row] or [experts, rows, bytes per row]. "
        "Attributes: shape in numbers, the number format of each row (little-endian, GGUF's block layouts; fp8: "
        "E4M3 codes, see /scales), xxh3: XXH3-64 of all bytes (fp8: of all rows, each with its tiles' scales "
        "before its codes), layer: -1 outside the layers");
    expect_text(f, "scales", "description",
                "scales of the fp8 tensors: one dataset for each, [row tiles, column tiles] or [experts, row tiles, "
                "column tiles]: the factors of tiles of 128 x 128 numbers of one matrix");
    H5Fclose(f);
    cl_model_free(&m);
}

/* --- damage --- */

static cl_code verify(cl_err *err)
{
    cl_model_file *f = NULL;
    cl_code c = cl_model_file_open(&f, path, err);
    if (c == CL_OK) c = cl_model_file_verify(f, false, err);
    cl_model_file_close(f);
    return c;
}

/* The byte at this place is another one while the file is checked. */
static void flipped(off_t at, const char *named, const char *why)
{
    cl_err err = {0};
    int fd = open(path, O_RDWR);
    unsigned char was, now;
    CU_ASSERT_EQUAL(pread(fd, &was, 1, at), 1);
    now = was ^ 4;
    CU_ASSERT_EQUAL(pwrite(fd, &now, 1, at), 1);
    CU_ASSERT_EQUAL(verify(&err), CL_E_INPUT);
    if (!strstr(err.msg, path) || !strstr(err.msg, named) || !strstr(err.msg, why)) {
        CU_FAIL("another message");
        fprintf(stderr, "%s: %s\n", named, err.msg);
    }
    CU_ASSERT_EQUAL(pwrite(fd, &was, 1, at), 1);
    close(fd);
}

/* The last byte of every tensor. */
static void test_every_tensor(void)
{
    cl_err err = {0};
    cl_model m = small_model();
    CU_ASSERT_EQUAL_FATAL(verify(&err), CL_OK);
    for (int i = 0; i < m.n_tensors; i++) {
        char name[128], said[160];
        snprintf(name, sizeof name, "tensors/%s", m.tensors[i].name);
        hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), d = H5Dopen2(f, name, H5P_DEFAULT);
        CU_ASSERT_FATAL(d >= 0);
        const off_t at = (off_t)(H5Dget_offset(d) + H5Dget_storage_size(d)) - 1;
        H5Dclose(d);
        H5Fclose(f);
        snprintf(said, sizeof said, "tensor %s: its checksum does not match", m.tensors[i].name);
        flipped(at, said, "(the file is damaged: copy it again)");
    }
    cl_model_free(&m);
}

/* The text of a configuration, a tokenizer's ids. */
static void test_sections(void)
{
    size_t n = 0;
    unsigned char *file = npy_read_file(path, &n);
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    const unsigned char *note = memmem(file, n, "verbatim", 8), *chat = memmem(file, n, "{{ messages }}", 14);
    CU_ASSERT_FATAL(note && chat);
    flipped(note - file, "config", "");
    flipped(chat - file, "tokenizer", "");
    free(file);
}

/* --- counts --- */

/* Layers behind the last one do not count. */
static void test_counted_layers(void)
{
    cl_model m = small_model();
    cl_model_counts n;
    const int k = m.n_tensors;
    uint64_t values = 0;
    m.n_tensors = 0;
    for (m.spec.n_layers = 0; m.spec.n_layers <= 3; m.spec.n_layers++) {
        cl_model_count(&m, &n);
        CU_ASSERT_EQUAL(n.kv_values, values);
        if (m.spec.n_layers == 3) break;
        const cl_attention *a = &m.spec.layers[m.spec.n_layers].attn;
        values += a->kind == CL_ATTN_LATENT ? 33 + 4 : 2 * 2 * 10;
    }
    m.n_tensors = k;
    cl_model_free(&m);
}

/* Half of the bytes are not more than half; one more is. */
static void test_half_quantised(void)
{
    cl_tensor t[3] = {{.role = CL_T_Q, .format = CL_Q8_0, .rows = 1, .cols = 32},
                      {.role = CL_T_K, .format = CL_F16, .rows = 1, .cols = 17},
                      {.role = CL_T_V, .format = CL_F16, .rows = 1, .cols = 2}};
    cl_model m = {.tensors = t, .n_tensors = 2};
    CU_ASSERT_EQUAL(cl_tensor_bytes(&t[0]), 34);
    CU_ASSERT_EQUAL(cl_tensor_bytes(&t[1]), 34);
    CU_ASSERT_FALSE(cl_model_quantised(&m));
    t[1].cols = 16;
    CU_ASSERT_TRUE(cl_model_quantised(&m));
    t[0] = (cl_tensor){.role = CL_T_Q, .format = CL_FP8, .rows = 1, .cols = 1}; /* 5 of 9 bytes */
    t[1].cols = 2;
    CU_ASSERT_EQUAL(cl_tensor_bytes(&t[0]), 5);
    CU_ASSERT_TRUE(cl_model_quantised(&m));
    m.n_tensors = 3;
    CU_ASSERT_FALSE(cl_model_quantised(&m));
    m.n_tensors = 0;
    CU_ASSERT_FALSE(cl_model_quantised(&m));
}

static void test_no_memory(void)
{
    cl_err err = {0};
    cl_model m = small_model(), copy;
    const int n = m.n_tensors;
    m.n_tensors = -1;
    CU_ASSERT_EQUAL(cl_model_copy(&m, &copy, &err), CL_E_FIT);
    CU_ASSERT_EQUAL(strncmp(err.msg, "tensor list: ", 13), 0);
    m.n_tensors = n;
    CU_ASSERT_EQUAL_FATAL(cl_model_copy(&m, &copy, &err), CL_OK);
    CU_ASSERT(copy.n_tensors == n && !memcmp(copy.tensors, m.tensors, (size_t)n * sizeof *m.tensors));
    cl_model_free(&copy);
    CU_ASSERT(!copy.tensors && !copy.n_tensors);
    cl_model_free(&m);
}

/* No rows, before the first ones and after the last. */
static void test_no_rows(void)
{
    cl_err err = {0};
    cl_model m = small_model();
    cl_model_writer *w = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, path, &m, "a test", config, &err), CL_OK);
    for (int i = 0; i < m.n_tensors; i++) CU_ASSERT_EQUAL(cl_model_writer_rows(w, i, NULL, 0, &err), CL_OK);
    CU_ASSERT_EQUAL(write_rows(w, &m, 1, &err), CL_OK);
    for (int i = 0; i < m.n_tensors; i++) CU_ASSERT_EQUAL(cl_model_writer_rows(w, i, NULL, 0, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_commit(w, &err), CL_OK);
    CU_ASSERT_EQUAL(verify(&err), CL_OK);
    cl_model_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"descriptions", test_descriptions},
                           {"every tensor", test_every_tensor},
                           {"sections", test_sections},
                           {"counted layers", test_counted_layers},
                           {"half quantised", test_half_quantised},
                           {"no memory", test_no_memory},
                           {"no rows", test_no_rows},
                           CU_TEST_INFO_NULL};
    return run_in_folder("sections", tests, dir, sizeof dir, path, sizeof path);
}
