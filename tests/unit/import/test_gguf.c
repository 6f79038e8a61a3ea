/* GGUF headers: what is read comes out as it was written; what lies is refused. */
#include "files.h"
#include "suite.h"

static cl_code open_bytes(const folder *f, gguf_file *g, cl_gguf **out, cl_err *err)
{
    place p = in(f, "x.gguf");
    g_write(g, p.path);
    *out = NULL;
    return cl_gguf_open(out, p.path, err);
}

static void test_metadata(void)
{
    folder f = folder_new();
    for (uint32_t version = 2; version <= 3; version++) {
        gguf_file g = {.version = version};
        int8_t i8 = -3;
        uint16_t u16 = 65535;
        int64_t i64 = -5;
        uint64_t u64 = UINT64_MAX;
        double f64 = 0.1;
        const char *const words[] = {"", "a", "b\xc3\xa4", "line\n"};
        const int32_t ints[] = {-1, 2, 3};
        const float floats[] = {0.5f, -2.0f};
        const uint8_t bools[] = {0, 1};
        g_kv(&g, "i8", CL_GGUF_I8, &i8, 1);
        g_kv(&g, "u16", CL_GGUF_U16, &u16, 2);
        g_kv(&g, "i64", CL_GGUF_I64, &i64, 8);
        g_kv(&g, "u64", CL_GGUF_U64, &u64, 8);
        g_kv(&g, "f64", CL_GGUF_F64, &f64, 8);
        g_kv_u32(&g, "u32", 7);
        g_kv_f32(&g, "f32", 1.5f);
        g_kv_bool(&g, "yes", true);
        g_kv_str(&g, "text", "hello");
        g_kv_strings(&g, "words", 4, words);
        g_kv_array(&g, "ints", CL_GGUF_I32, 3, ints, sizeof ints);
        g_kv_array(&g, "floats", CL_GGUF_F32, 2, floats, sizeof floats);
        g_kv_array(&g, "bools", CL_GGUF_BOOL, 2, bools, sizeof bools);
        g_kv_array(&g, "none", CL_GGUF_U8, 0, NULL, 0);
        cl_gguf *r;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(open_bytes(&f, &g, &r, &err), CL_OK);
        uint64_t n;
        uint32_t type;
        int64_t v;
        double d;
        bool b;
        const char *s;
        size_t len;
        CU_ASSERT(!cl_gguf_u64(r, "i8", &n) && !cl_gguf_u64(r, "i64", &n) &&
                  !cl_gguf_u64(r, "u64", &n)); /* negative, too large */
        CU_ASSERT(!cl_gguf_u64(r, "yes", &n) && !cl_gguf_u64(r, "text", &n) && !cl_gguf_u64(r, "ints", &n) &&
                  !cl_gguf_u64(r, "no", &n));
        CU_ASSERT(cl_gguf_u64(r, "u16", &n) && n == 65535);
        CU_ASSERT(cl_gguf_u64(r, "u32", &n) && n == 7);
        CU_ASSERT(cl_gguf_f64(r, "f32", &d) && d == 1.5);
        CU_ASSERT(cl_gguf_f64(r, "f64", &d) && d == 0.1);
        CU_ASSERT(cl_gguf_f64(r, "i64", &d) && d == -5);
        CU_ASSERT(!cl_gguf_f64(r, "yes", &d) && !cl_gguf_f64(r, "text", &d));
        CU_ASSERT(cl_gguf_bool(r, "yes", &b) && b);
        CU_ASSERT(!cl_gguf_bool(r, "u32", &b));
        CU_ASSERT(cl_gguf_str(r, "text", &s, &len) && len == 5 && memcmp(s, "hello", 5) == 0);
        CU_ASSERT(!cl_gguf_str(r, "words", &s, &len));
        CU_ASSERT(cl_gguf_array(r, "words", &type, &n) && type == CL_GGUF_STR && n == 4);
        for (uint64_t i = 0; i < 4; i++)
            CU_ASSERT(cl_gguf_array_str(r, "words", i, &s, &len) && len == strlen(words[i]) &&
                      memcmp(s, words[i], len) == 0);
        CU_ASSERT(!cl_gguf_array_str(r, "words", 4, &s, &len) && !cl_gguf_array_str(r, "ints", 0, &s, &len));
        CU_ASSERT(cl_gguf_array_i64(r, "ints", 0, &v) && v == -1);
        CU_ASSERT(cl_gguf_array_i64(r, "bools", 1, &v) && v == 1);
        CU_ASSERT(!cl_gguf_array_i64(r, "ints", 3, &v) && !cl_gguf_array_i64(r, "words", 0, &v) &&
                  !cl_gguf_array_i64(r, "floats", 0, &v));
        CU_ASSERT(cl_gguf_array_f64(r, "floats", 1, &d) && d == -2);
        CU_ASSERT(cl_gguf_array_f64(r, "ints", 2, &d) && d == 3);
        CU_ASSERT(cl_gguf_array(r, "none", &type, &n) && n == 0);
        CU_ASSERT(!cl_gguf_array_f64(r, "none", 0, &d));
        json_t *j = NULL;
        CU_ASSERT_EQUAL_FATAL(cl_gguf_metadata_json(r, &j, &err), CL_OK);
        CU_ASSERT_EQUAL(json_object_size(j), 14);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(j, "i64")), -5);
        CU_ASSERT_STRING_EQUAL(json_string_value(json_array_get(json_object_get(j, "words"), 2)), "b\xc3\xa4");
        json_decref(j);
        cl_gguf_close(r);
    }
    folder_remove(&f);
}

/* Smallest and largest numbers of every type, read in every way; all of it as JSON. */
static void test_numbers(void)
{
    static const struct {
        uint32_t type;
        size_t size;
        uint64_t bits[4];
    } types[] = {{CL_GGUF_U8, 1, {0, 1, 0x7f, 0xff}},
                 {CL_GGUF_I8, 1, {0, 0x80, 0x7f, 0xff}},
                 {CL_GGUF_U16, 2, {0, 0x8000, 0x7fff, 0xffff}},
                 {CL_GGUF_I16, 2, {0, 0x8000, 0x7fff, 0xffff}},
                 {CL_GGUF_U32, 4, {0, 0x80000000, 0x7fffffff, 0xffffffff}},
                 {CL_GGUF_I32, 4, {0, 0x80000000, 0x7fffffff, 0xffffffff}},
                 {CL_GGUF_U64, 8, {1, UINT64_C(1) << 63, INT64_MAX, UINT64_MAX}},
                 {CL_GGUF_I64, 8, {1, UINT64_C(1) << 63, INT64_MAX, UINT64_MAX}},
                 {CL_GGUF_F32, 4, {0x3fc00000, 0x7fc00000, 0x7f800000, 0xc0000000}},
                 {CL_GGUF_F64, 8, {0x3ff8000000000000, 0x7ff8000000000000, 0x7ff0000000000000, 0xc000000000000000}},
                 {CL_GGUF_BOOL, 1, {0, 1, 2, 0xff}}};
    folder f = folder_new();
    gguf_file g = {0};
    cl_gguf *r;
    cl_err err;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        unsigned char list[32];
        char key[32];
        for (size_t i = 0; i < 4; i++) {
            snprintf(key, sizeof key, "%u.%zu", types[t].type, i);
            g_kv(&g, key, types[t].type, &types[t].bits[i], types[t].size);
            memcpy(list + i * types[t].size, &types[t].bits[i], types[t].size);
        }
        snprintf(key, sizeof key, "%u", types[t].type);
        g_kv_array(&g, key, types[t].type, 4, list, 4 * types[t].size);
    }
    const unsigned char many[66] = {0, 1, 2};
    for (uint64_t n = 63; n <= 66; n++) {
        char key[32];
        snprintf(key, sizeof key, "many %d", (int)n);
        key[4] = '_';
        g_kv_array(&g, key, CL_GGUF_U8, n, many, n);
    }
    g_kv_str(&g, "odd", "a\xff");
    g_kv_str(&g, "empty", "");
    g_kv_strings(&g, "odd_ones", 3, (const char *const[]){"\xc3\xa4", "\xc3", ""});
    CU_ASSERT_EQUAL_FATAL(open_bytes(&f, &g, &r, &err), CL_OK);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (uint64_t i = 0; i < 6; i++) {
            char key[32], text[256];
            uint64_t u = 0;
            int64_t v = 0;
            double d = 0, e = 0;
            bool b = false;
            snprintf(key, sizeof key, "%u.%d", types[t].type, (int)i);
            int got = cl_gguf_u64(r, key, &u) + 2 * cl_gguf_f64(r, key, &d) + 4 * cl_gguf_bool(r, key, &b) +
                      8 * cl_gguf_has(r, key);
            snprintf(key, sizeof key, "%u", types[t].type);
            got += 16 * cl_gguf_array_i64(r, key, i, &v) + 32 * cl_gguf_array_f64(r, key, i, &e);
            snprintf(text, sizeof text, "%u %d: %d %llx %.6g %d %llx %.6g", types[t].type, (int)i, got,
                     (unsigned long long)u, d, b, got & 16 ? (unsigned long long)v : 0, e);
            note_said(text);
        }
    json_t *j = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_gguf_metadata_json(r, &j, &err), CL_OK);
    char *text = json_dumps(j, JSON_SORT_KEYS);
    note_said(text);
    free(text);
    json_decref(j);
    cl_gguf_close(r);
    folder_remove(&f);
}

static void test_tensors(void)
{
    folder f = folder_new();
    for (int a = 0; a < 3; a++) {
        gguf_file g = {.alignment = 8u << (3 * a)};
        g_kv_u32(&g, "general.alignment", g.alignment);
        g_made(&g, "b", CL_Q8_0, 3, 5, 64);
        g_made(&g, "a", CL_F32, 0, 7, 0);
        g_made(&g, "c", CL_Q4_1, 0, 2, 32);
        cl_gguf *r;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(open_bytes(&f, &g, &r, &err), CL_OK);
        const cl_source *s = cl_gguf_source(r);
        CU_ASSERT_EQUAL(s->n_tensors, 3);
        int i = cl_source_find(s, "b");
        CU_ASSERT_FATAL(i >= 0);
        const cl_src_tensor *t = &s->tensors[i];
        CU_ASSERT(t->n_dims == 3 && t->dims[0] == 3 && t->dims[1] == 5 && t->dims[2] == 64 && t->format == CL_Q8_0);
        CU_ASSERT_EQUAL(t->bytes, 15 * 68);
        CU_ASSERT_EQUAL(t->offset % (8u << (3 * a)), 0);
        CU_ASSERT_EQUAL(cl_source_find(s, "d"), -1);
        i = cl_source_find(s, "c");
        unsigned char got[40];
        CU_ASSERT_EQUAL(cl_source_read(s, 0, s->tensors[i].offset, 40, got, &err), CL_OK);
        unsigned char *want = make_rows(7 * 31 + 'c', CL_Q4_1, 2, 32);
        CU_ASSERT(memcmp(got, want, 40) == 0);
        free(want);
        /* the file ends there */
        CU_ASSERT_EQUAL(cl_source_read(s, 0, s->tensors[i].offset, 41, got, &err), CL_E_INPUT);
        cl_gguf_close(r);
    }
    folder_remove(&f);
}

/* Every one of these is a lie about one thing; the message names it. */
static void refused(gguf_file *g, const char *part)
{
    folder f = folder_new();
    cl_gguf *r;
    cl_err err = {0};
    CU_ASSERT_EQUAL(open_bytes(&f, g, &r, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "x.gguf: ") && says(&err, part));
    folder_remove(&f);
}

static void test_lies(void)
{
    int64_t d1 = 8, d0 = 0, huge[4] = {(int64_t)1 << 31, (int64_t)1 << 31, 4, 32}, five[5] = {1, 1, 1, 1, 32}, d33 = 33;
    float x[8] = {0};
    gguf_file g = {.version = 1};
    refused(&g, "version 1");
    g = (gguf_file){.version = 0x03000000};
    refused(&g, "big-endian");
    g = (gguf_file){.n_kv = 1};
    refused(&g, "too short");
    g = (gguf_file){.n_kv = UINT64_MAX};
    refused(&g, "too short");
    g = (gguf_file){.n_tensors = UINT64_MAX / 2};
    refused(&g, "too short");
    g = (gguf_file){0};
    g_kv_u32(&g, "twice", 1);
    g_kv_u32(&g, "twice", 2);
    refused(&g, "twice");
    g = (gguf_file){0};
    g_kv(&g, "odd", 13, x, 4);
    refused(&g, "odd has the unknown type 13");
    g = (gguf_file){0};
    g_kv_array(&g, "nested", CL_GGUF_ARRAY, 1, x, 32);
    refused(&g, "nested has the unknown type 9");
    g = (gguf_file){0};
    g_kv_array(&g, "long", CL_GGUF_F64, (uint64_t)1 << 61, x, 8); /* times 8 wraps to 0 */
    refused(&g, "a value");
    g = (gguf_file){0};
    g_kv_array(&g, "long", CL_GGUF_STR, UINT64_MAX / 4, x, 8);
    refused(&g, "an array of strings");
    g = (gguf_file){0};
    g_kv_str(&g, "bad\x80key", "x");
    refused(&g, "is not a text");
    for (uint32_t a = 0; a <= 48; a += 48) {
        g = (gguf_file){0};
        g_kv_u32(&g, "general.alignment", a);
        refused(&g, "power of two");
    }
    g = (gguf_file){0};
    g_tensor(&g, "t", 0, 1, &d1, x, 32);
    g_tensor(&g, "t", 0, 1, &d1, x, 32);
    refused(&g, "tensor t is there twice");
    g = (gguf_file){0};
    g_tensor(&g, "one", 0, 1, &d1, x, 32);
    g_tensor(&g, "two", 0, 1, &d1, x, 32);
    memset(g.info.data + g.info.len - 8, 0, 8); /* two's offset is one's */
    refused(&g, "overlap");
    g = (gguf_file){0};
    g_tensor(&g, "odd", 0, 1, &d1, x, 32);
    g.info.data[g.info.len - 8] = 4;
    refused(&g, "no multiple of 32");
    g = (gguf_file){0};
    g_tensor(&g, "far", 0, 1, &d1, x, 32);
    g.info.data[g.info.len - 8] = 32;
    refused(&g, "tensor far ends after");
    g = (gguf_file){0};
    g_tensor(&g, "wrap", 0, 1, &d1, x, 32);
    memset(g.info.data + g.info.len - 8, 0xff, 8);
    g.info.data[g.info.len - 8] = (char)0xe0;
    refused(&g, "tensor wrap ends after");
    g = (gguf_file){0};
    g_tensor(&g, "huge", 0, 4, huge, x, 32);
    refused(&g, "impossible shape");
    g = (gguf_file){0};
    g_tensor(&g, "empty", 0, 1, &d0, x, 0);
    refused(&g, "impossible shape");
    g = (gguf_file){0};
    g_tensor(&g, "five", 0, 5, five, x, 32);
    refused(&g, "5 dimensions");
    g = (gguf_file){0};
    g_tensor(&g, "what", 200, 1, &d1, x, 32);
    refused(&g, "tensor what has the unknown type 200");
    g = (gguf_file){0};
    g_tensor(&g, "block", 8, 1, &d33, x, 32);
    refused(&g, "no multiple of the 32");
    g = (gguf_file){0};
    g_tensor(&g, "no name", 0, 1, &d1, x, 32);
    refused(&g, "not a text");

    folder f = folder_new();
    place p = in(&f, "none.gguf");
    cl_gguf *r;
    cl_err err;
    CU_ASSERT_EQUAL(cl_gguf_open(&r, p.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "none.gguf: cannot open"));
    CU_ASSERT_EQUAL(cl_gguf_open(&r, f.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "not a regular file"));
    write_text(p.path, "GGML, or something else");
    CU_ASSERT_EQUAL(cl_gguf_open(&r, p.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "is not a GGUF file"));
    write_text(p.path, "");
    CU_ASSERT_EQUAL(cl_gguf_open(&r, p.path, &err), CL_E_INPUT);
    folder_remove(&f);
}

static void write_part(const folder *f, int no, int count, int said_no, int said_count, int total)
{
    char name[64];
    gguf_file g = {0};
    uint16_t n = (uint16_t)said_no, c = (uint16_t)said_count;
    int32_t t = total;
    g_kv(&g, "split.no", CL_GGUF_U16, &n, 2);
    g_kv(&g, "split.count", CL_GGUF_U16, &c, 2);
    g_kv(&g, "split.tensors.count", CL_GGUF_I32, &t, 4);
    snprintf(name, sizeof name, "tensor.%d", no);
    g_made(&g, name, CL_F32, 0, 2, 4);
    snprintf(name, sizeof name, "m-%05d-of-%05d.gguf", no + 1, count);
    place p = in(f, name);
    g_write(&g, p.path);
}

static void test_split(void)
{
    folder f = folder_new();
    cl_gguf *r = NULL;
    cl_err err;
    place first = in(&f, "m-00001-of-00003.gguf"), second = in(&f, "m-00002-of-00003.gguf"), other = in(&f, "m.gguf");
    for (int i = 0; i < 3; i++) write_part(&f, i, 3, i, 3, 3);
    CU_ASSERT_EQUAL_FATAL(cl_gguf_open(&r, first.path, &err), CL_OK);
    const cl_source *s = cl_gguf_source(r);
    CU_ASSERT(s->n_files == 3 && s->n_tensors == 3);
    CU_ASSERT_EQUAL(s->tensors[cl_source_find(s, "tensor.2")].file, 2);
    CU_ASSERT(cl_source_has_file(s, second.path));
    cl_gguf_close(r);
    CU_ASSERT_EQUAL(cl_gguf_open(&r, second.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "not the first of 3"));
    write_part(&f, 1, 3, 2, 3, 3);
    CU_ASSERT_EQUAL(cl_gguf_open(&r, first.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "m-00002-of-00003.gguf: ") && says(&err, "split.no"));
    write_part(&f, 1, 3, 1, 3, 3);
    write_part(&f, 0, 3, 0, 3, 4);
    CU_ASSERT_EQUAL(cl_gguf_open(&r, first.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "split.tensors.count is 4"));
    write_part(&f, 0, 3, 0, 3, 3);
    CU_ASSERT_EQUAL(rename(first.path, other.path), 0);
    CU_ASSERT_EQUAL(cl_gguf_open(&r, other.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "its name does not end in"));
    CU_ASSERT_EQUAL(rename(other.path, first.path), 0);
    CU_ASSERT_EQUAL(unlink(second.path), 0);
    CU_ASSERT_EQUAL(cl_gguf_open(&r, first.path, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "m-00002-of-00003.gguf: cannot open"));
    folder_remove(&f);
}

static void test_said(void) { said_is(0x91568291); }

int main(void)
{
    CU_TestInfo tests[] = {{"metadata of every type, versions 2 and 3", test_metadata},
                           {"numbers of every type", test_numbers},
                           {"tensors, alignments", test_tensors},
                           {"lies are refused and named", test_lies},
                           {"split files", test_split},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("gguf", tests);
}
