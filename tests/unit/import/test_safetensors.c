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

int main(void)
{
    CU_TestInfo tests[] = {{"a single file", test_single},
                           {"lies are refused and named", test_lies},
                           {"index and shards", test_index},
                           CU_TEST_INFO_NULL};
    return run_suite("safetensors", tests);
}
