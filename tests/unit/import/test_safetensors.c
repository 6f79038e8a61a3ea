/* Safetensors headers and indexes: what is read, what is refused. */
#include "files.h"
#include "safetensors.h"
#include "suite.h"

static void write_raw(const folder *f, const char *name, const char *head, size_t data)
{
    cl_buf b = {0};
    place p = in(f, name);
    g_u64(&b, strlen(head));
    put(&b, head, strlen(head));
    for (size_t i = 0; i < data; i++) put(&b, "\1", 1);
    write_file(p.path, b.data, b.len);
    cl_buf_free(&b);
}

static void test_single(void)
{
    folder f = folder_new();
    cl_source s;
    cl_err err;
    write_raw(
        &f, "model.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
        "\"a\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},\"z\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_"
        "offsets\":[4,4]}}   ",
        16);
    CU_ASSERT_EQUAL_FATAL(cl_safetensors_open(&s, f.path, &err), CL_OK);
    CU_ASSERT_EQUAL(s.n_tensors, 3);
    const cl_src_tensor *t = &s.tensors[cl_source_find(&s, "b")];
    CU_ASSERT(t->format == CL_BF16 && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3 && t->bytes == 12);
    t = &s.tensors[cl_source_find(&s, "a")];
    CU_ASSERT(t->format == -1 && t->n_dims == 0 && strcmp(t->type, "I32") == 0);
    cl_source_free(&s);
    folder_remove(&f);
}

static void refused(const char *head, size_t data, const char *part)
{
    folder f = folder_new();
    cl_source s;
    cl_err err = {0};
    write_raw(&f, "model.safetensors", head, data);
    CU_ASSERT_EQUAL(cl_safetensors_open(&s, f.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "/model.safetensors: ") && says(&err, part));
    CU_ASSERT_EQUAL(s.n_files, 0);
    folder_remove(&f);
}

#define T(dtype, shape, from, to) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static void test_lies(void)
{
    refused("[]", 0, "not an object");
    refused("{", 0, "not valid JSON");
    refused("{\"a\":" T("F32", "[1]", 0, 4) ",\"a\":" T("F32", "[1]", 4, 8) "}", 8, "not valid JSON");
    refused("{\"a\":1}", 0, "tensor a");
    refused("{\"a\":" T("F4", "[8]", 0, 4) "}", 4, "dtype F4 is unknown");
    refused("{\"a\":" T("F32", "[-1]", 0, 4) "}", 4, "impossible shape");
    refused("{\"a\":" T("F32", "[4294967296,4294967296]", 0, 4) "}", 4, "impossible shape");
    refused("{\"a\":" T("F32", "[4611686018427387904]", 0, 0) "}", 0, "impossible shape"); /* times 4 wraps to 0 */
    refused("{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "dimensions");
    refused("{\"a\":" T("F32", "\"x\"", 0, 4) "}", 4, "shape");
    refused("{\"a\":" T("F32", "[1.5]", 0, 4) "}", 4, "impossible shape");
    refused("{\"a\":" T("F32", "[1]", 4, 0) "}", 4, "data_offsets");
    refused("{\"a\":" T("F32", "[1]", 0, 8) "}", 4, "data_offsets");
    refused("{\"a\":" T("F32", "[1]", -4, 0) "}", 4, "data_offsets");
    refused("{\"a\":" T("F32", "[1]", 0, 3) "}", 4, "span 3 bytes");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets");
    refused("{\"a\":" T("F32", "[1]", 0, 4) "}", 5, "its tensors make 4 bytes"); /* more data than tensors */
    refused("{\"a\":" T("F32", "[1]", 4, 8) "}", 8, "its tensors make 4 bytes"); /* a hole */
    refused("{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 0, 4) "}", 8, "overlap");
    refused("{\"a b\":" T("F32", "[1]", 0, 4) "}", 4, "readable name");

    folder f = folder_new();
    place p = in(&f, "model.safetensors");
    cl_source s;
    cl_err err;
    write_text(p.path, "short");
    CU_ASSERT_EQUAL(cl_safetensors_open(&s, f.path, &err), CL_E_INPUT);
    write_file(p.path, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    CU_ASSERT_EQUAL(cl_safetensors_open(&s, f.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "does not fit"));
    unlink(p.path);
    CU_ASSERT_EQUAL(cl_safetensors_open(&s, f.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "has neither"));
    folder_remove(&f);
}

/* Lengths and names at their bounds. */
static void test_bounds(void)
{
    folder f = folder_new();
    place p = in(&f, "model.safetensors");
    cl_source s;
    cl_err err = {0};
    for (int n = 0; n < 12; n++) { /* the file has 10 bytes: 2 of header */
        unsigned char file[10] = {(unsigned char)n, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        write_file(p.path, file, sizeof file);
        cl_code c = cl_safetensors_open(&s, f.path, &err);
        CU_ASSERT_EQUAL(c, n == 2 ? CL_OK : CL_E_INPUT);
        if (c == CL_OK) cl_source_free(&s);
        else CU_ASSERT(says(&err, n > 2 ? "does not fit the file of 10" : "header"));
    }
    for (size_t n = 1; n < 12; n++) {
        write_file(p.path, "\2\0\0\0\0\0\0\0{}", n < 10 ? n : 10);
        cl_code c = cl_safetensors_open(&s, f.path, &err);
        CU_ASSERT_EQUAL(c, n >= 10 ? CL_OK : CL_E_INPUT);
        if (c == CL_OK) cl_source_free(&s);
        else CU_ASSERT(says(&err, ""));
    }
    for (size_t n = CL_SRC_NAME - 1; n <= CL_SRC_NAME + 1; n++) {
        char head[CL_SRC_NAME + 100], name[CL_SRC_NAME + 2];
        memset(name, 'n', n);
        name[n] = 0;
        snprintf(head, sizeof head, "{\"%s\":" T("F32", "[1]", 0, 4) "}", name);
        write_raw(&f, "model.safetensors", head, 4);
        cl_code c = cl_safetensors_open(&s, f.path, &err);
        CU_ASSERT_EQUAL(c, n <= CL_SRC_NAME ? CL_OK : CL_E_INPUT);
        if (c == CL_OK) cl_source_free(&s);
        else CU_ASSERT(says(&err, "readable name"));
    }
    static const char *const names[] = {"!", "~", "\x7f", "a\x7f", " ", "\xc3\xa4", "a/b", "\\u0001", "\\u001f", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char head[128];
        snprintf(head, sizeof head, "{\"%s\":" T("F32", "[1]", 0, 4) "}", names[i]);
        write_raw(&f, "model.safetensors", head, 4);
        cl_code c = cl_safetensors_open(&s, f.path, &err);
        CU_ASSERT_EQUAL(c, i < 2 || i == 5 || i == 6 ? CL_OK : CL_E_INPUT);
        if (c == CL_OK) cl_source_free(&s);
        else CU_ASSERT(says(&err, "readable name"));
    }
    folder_remove(&f);
}

/* Every type: its bytes, and the format that it is. */
static void test_types(void)
{
    static const struct {
        const char *name;
        int bytes, format;
    } types[] = {{"F32", 4, CL_F32}, {"F16", 2, CL_F16}, {"BF16", 2, CL_BF16}, {"F64", 8, -1},     {"I64", 8, -1},
                 {"I32", 4, -1},     {"I16", 2, -1},     {"I8", 1, -1},        {"U64", 8, -1},     {"U32", 4, -1},
                 {"U16", 2, -1},     {"U8", 1, -1},      {"BOOL", 1, -1},      {"F8_E4M3", 1, -1}, {"F8_E5M2", 1, -1},
                 {"F8_E8M0", 1, -1}, {"C64", 8, -1}};
    folder f = folder_new();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int more = -1; more < 2; more++) {
            char head[128];
            cl_source s;
            cl_err err = {0};
            const int n = 6 * types[i].bytes + more;
            snprintf(head, sizeof head, "{\"a\":{\"dtype\":\"%s\",\"shape\":[2,3],\"data_offsets\":[0,%d]}}",
                     types[i].name, n);
            write_raw(&f, "model.safetensors", head, (size_t)n);
            cl_code c = cl_safetensors_open(&s, f.path, &err);
            CU_ASSERT_EQUAL(c, more ? CL_E_INPUT : CL_OK);
            if (c != CL_OK) CU_ASSERT(says(&err, "its data_offsets span"));
            if (c != CL_OK) continue;
            CU_ASSERT(s.tensors[0].format == types[i].format && strcmp(s.tensors[0].type, types[i].name) == 0);
            CU_ASSERT(s.tensors[0].bytes == (uint64_t)n && s.tensors[0].offset == 8 + strlen(head));
            cl_source_free(&s);
        }
    folder_remove(&f);
}

static void index_refused(const folder *f, const char *index, const char *part)
{
    place p = in(f, "model.safetensors.index.json");
    cl_source s;
    cl_err err = {0};
    write_text(p.path, index);
    CU_ASSERT_EQUAL(cl_safetensors_open(&s, f->path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, part));
}

static void test_index(void)
{
    folder f = folder_new();
    place p = in(&f, "model.safetensors.index.json");
    cl_source s;
    cl_err err;
    write_raw(&f, "m-1.safetensors", "{\"a\":" T("F32", "[1]", 0, 4) "}", 4);
    write_raw(&f, "m-2.safetensors", "{\"b\":" T("F32", "[2]", 0, 8) "}", 8);
    write_text(
        p.path,
        "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    CU_ASSERT_EQUAL_FATAL(cl_safetensors_open(&s, f.path, &err), CL_OK);
    CU_ASSERT(s.n_files == 2 && s.n_tensors == 2);
    cl_source_free(&s);
    index_refused(&f, "{\"weight_map\":{\"a\":\"m-2.safetensors\"}}", "tensor a is not in m-2.safetensors");
    index_refused(&f, "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\"}}",
                  "tensor b is not in m-1.safetensors");
    index_refused(&f, "{\"weight_map\":{\"a\":\"m-3.safetensors\"}}", "m-3.safetensors: cannot open");
    index_refused(&f, "{\"weight_map\":{\"a\":\"../m-1.safetensors\"}}", "not the name of a file in this folder");
    index_refused(&f, "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "not the name of a file in this folder");
    index_refused(&f, "{\"weight_map\":{\"a\":\"..\"}}", "not the name of a file in this folder");
    index_refused(&f, "{\"weight_map\":{\"a\":7}}", "not the name of a file in this folder");
    index_refused(&f, "{\"weight_map\":[]}", "weight_map");
    index_refused(&f, "[]", "not an object");
    write_raw(&f, "m-2.safetensors", "{\"a\":" T("F32", "[2]", 0, 8) "}", 8);
    index_refused(&f, "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}",
                  "tensor a is there twice");
    folder_remove(&f);
}

static void test_said(void) { said_is(0x73b7b8d8); }

int main(void)
{
    CU_TestInfo tests[] = {{"a single file", test_single},
                           {"lies are refused and named", test_lies},
                           {"bounds", test_bounds},
                           {"types", test_types},
                           {"index and shards", test_index},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("safetensors", tests);
}
