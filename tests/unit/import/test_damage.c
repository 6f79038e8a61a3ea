/* Damaged checkpoints: headers cut at every length, bytes and words changed at random. Whatever is read, the answer
 * is a valid reading or CL_E_INPUT with a message, soon, and without memory for what a lying header promises. */
#include <fcntl.h>
#include <sys/resource.h>

#include "chipline/import.h"
#include "family.h"
#include "files.h"
#include "safetensors.h"
#include "suite.h"

static const cl_convert_options keep = {.keep = true, .jobs = 1, .quiet = true};

typedef struct victim {
    folder dir;
    place file, out, nowhere; /* nowhere: in no folder; a conversion to it does all but write */
    cl_buf good;              /* the file's bytes */
    size_t header;            /* bytes that are worth changing */
    bool gguf;
} victim;

typedef enum depth { HEADERS, MATCHED, CONVERTED } depth;

static cl_code read_it(const victim *v, depth d, cl_err *err)
{
    if (d != HEADERS)
        return cl_convert(v->gguf ? v->file.path : v->dir.path, d == MATCHED ? v->nowhere.path : v->out.path, &keep,
                          err);
    if (!v->gguf) {
        cl_source s;
        cl_code c = cl_safetensors_open(&s, v->dir.path, err);
        cl_source_free(&s);
        return c;
    }
    cl_gguf *g;
    const cl_family *f;
    cl_spec s = {0};
    json_t *j = NULL;
    cl_code c = cl_gguf_open(&g, v->file.path, err);
    if (c != CL_OK) return c;
    c = cl_gguf_metadata_json(g, &j, err);
    json_decref(j);
    if (c == CL_OK) c = cl_metadata_spec(g, &s, &f, err);
    if (c == CL_OK && s.vocab) c = cl_spec_settle(&s, err);
    cl_spec_free(&s);
    cl_gguf_close(g);
    return c;
}

static void check(const victim *v, depth d, const char *what, uint64_t which)
{
    cl_err err = {0};
    uint64_t start = cl_now_ns();
    cl_code c = read_it(v, d, &err);
    bool soon = cl_now_ns() - start < 5000000000u;
    size_t bad;
    bool fine = c == CL_OK || (c == CL_E_INPUT && err.msg[0] && !strchr(err.msg, '\n') &&
                               cl_utf8_valid(err.msg, strlen(err.msg), &bad));
    if (!fine || !soon) {
        fprintf(stderr, "%s %llu: code %d, %s\n", what, (unsigned long long)which, c, err.msg);
        CU_FAIL("not a clean answer");
    }
}

/* One changed copy: up to four places of the header get another byte, a bit less or more, or a nasty word. */
static void change(cl_buf *b, size_t header, uint64_t *seed)
{
    static const uint64_t words[] = {0,           1,         0xff,       0x7fffffff,        0xffffffff,
                                     0x100000000, INT64_MAX, UINT64_MAX, (uint64_t)1 << 61, (uint64_t)1 << 40};
    for (int n = 1 + (int)(next(seed) % 4); n > 0; n--) {
        size_t at = (size_t)(next(seed) % header);
        uint64_t w = words[next(seed) % (sizeof words / sizeof *words)];
        size_t room = b->len - at, size = next(seed) % 2 ? 8 : 4;
        switch (next(seed) % 4) {
        case 0: b->data[at] = (char)next(seed); break;
        case 1: b->data[at] ^= (char)(1 << next(seed) % 8); break;
        case 2: b->data[at] = (char)(b->data[at] + (next(seed) % 2 ? 1 : -1)); break;
        default: memcpy(b->data + at, &w, size < room ? size : room);
        }
    }
}

static void damage(victim *v, int changes, size_t step)
{
    uint64_t seed = 1;
    cl_buf b = {0};
    cl_err none;
    CU_ASSERT_EQUAL(read_it(v, CONVERTED, &none), CL_OK);
    /* changed in place: truncating and writing anew can mean waiting for the disk */
    int fd = open(v->file.path, O_WRONLY);
    for (size_t n = v->good.len; fd >= 0 && n > 0;) {
        size_t less = n > v->header + step * 64 ? step * 64 : step;
        n -= less < n ? less : n;
        if (ftruncate(fd, (off_t)n) != 0) abort();
        cl_err err = {0};
        cl_code c = read_it(v, HEADERS, &err);
        if (c != CL_E_INPUT || !err.msg[0]) {
            fprintf(stderr, "cut at %zu: code %d, %s\n", n, c, err.msg);
            CU_FAIL("a cut file was taken");
        }
    }
    for (int i = 0; i < changes; i++) {
        b.len = 0;
        put(&b, v->good.data, v->good.len);
        uint64_t was = seed;
        change(&b, v->header, &seed);
        if (pwrite(fd, b.data, b.len, 0) != (ssize_t)b.len) abort();
        check(v, i < 10 ? CONVERTED : i % 4 ? HEADERS : MATCHED, "change", was);
    }
    close(fd);
    cl_buf_free(&b);
    cl_buf_free(&v->good);
    folder_remove(&v->dir);
}

static victim new_victim(const char *name, bool gguf)
{
    victim v = {.dir = folder_new(), .gguf = gguf};
    v.file = in(&v.dir, name);
    v.out = in(&v.dir, "out.h5");
    v.nowhere = in(&v.dir, "none/out.h5");
    return v;
}

static void test_made_gguf(void)
{
    victim v = new_victim("m.gguf", true);
    gguf_file g = {0};
    const char *const words[] = {"a", "bb", "ccc"};
    const uint32_t ints[] = {1, 2, 3};
    tiny_llama(&g, CL_Q4_0);
    g_kv_u32(&g, "general.alignment", 32);
    g_kv_strings(&g, "some.words", 3, words);
    g_kv_array(&g, "some.numbers", CL_GGUF_U32, 3, ints, sizeof ints);
    v.header = 24 + g.kv.len + g.info.len;
    v.good = g_bytes(&g);
    write_file(v.file.path, v.good.data, v.good.len);
    damage(&v, 20000, 1);
}

static void test_fixture_gguf(void)
{
    victim v = new_victim("m.gguf", true);
    v.good = read_all(CL_FIXTURES "/llama_a/model.gguf"); /* with a tokenizer */
    v.header = 12000;
    write_file(v.file.path, v.good.data, v.good.len);
    damage(&v, 4000, 97);
}

static void test_safetensors(void)
{
    victim v = new_victim("model.safetensors", false);
    v.good = read_all(CL_FIXTURES "/qwen2/model.safetensors");
    uint64_t n;
    memcpy(&n, v.good.data, 8);
    v.header = 8 + (size_t)n;
    cl_buf config = read_all(CL_FIXTURES "/qwen2/config.json");
    place p = in(&v.dir, "config.json");
    write_file(p.path, config.data, config.len);
    write_file(v.file.path, v.good.data, v.good.len);
    damage(&v, 8000, 7);
    cl_buf_free(&config);
}

/* A config whose bytes lie: never more than a refusal either. */
static void test_config(void)
{
    folder f = folder_new();
    place p = in(&f, "config.json");
    cl_buf good = read_all(CL_FIXTURES "/qwen3_moe/config.json"), b = {0};
    uint64_t seed = 5;
    int fd = open(p.path, O_WRONLY | O_CREAT, 0600);
    for (int i = 0; i < 4000; i++) {
        cl_spec s;
        cl_formats formats;
        cl_err err = {0};
        b.len = 0;
        put(&b, good.data, good.len);
        for (int n = 1 + (int)(next(&seed) % 3); n > 0; n--)
            b.data[next(&seed) % b.len] = "0123456789-.e{}[],:\"ntf \x80"[next(&seed) % 24];
        if (pwrite(fd, b.data, b.len, 0) != (ssize_t)b.len) abort();
        cl_code c = cl_import_config(p.path, &s, &formats, &err);
        CU_ASSERT(c == CL_OK || (c == CL_E_INPUT && err.msg[0]));
        if (c == CL_OK) cl_spec_free(&s);
    }
    close(fd);
    cl_buf_free(&good);
    cl_buf_free(&b);
    folder_remove(&f);
}

int main(void)
{
#ifndef __SANITIZE_ADDRESS__
    /* A lying size must not become a large allocation: that would be CL_E_FIT here. */
    struct rlimit limit = {.rlim_cur = (rlim_t)512 << 20, .rlim_max = (rlim_t)512 << 20};
    setrlimit(RLIMIT_AS, &limit);
#endif
    CU_TestInfo tests[] = {{"a small GGUF, cut and changed", test_made_gguf},
                           {"a GGUF with a tokenizer, cut and changed", test_fixture_gguf},
                           {"safetensors, cut and changed", test_safetensors},
                           {"config.json, changed", test_config},
                           CU_TEST_INFO_NULL};
    return run_suite("damage", tests);
}
