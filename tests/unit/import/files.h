/* files.h: what the import tests write: temporary folders, GGUF and safetensors files, small models in them. */
#ifndef CHIPLINE_TEST_IMPORT_FILES_H
#define CHIPLINE_TEST_IMPORT_FILES_H

#include <CUnit/CUnit.h>
#include <dirent.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chipline/format.h"
#include "chipline/util.h"
#include "gguf.h"

/* --- temporary folder --- */

typedef struct folder {
    char path[256];
} folder;

static inline folder folder_new(void)
{
    folder f;
    const char *tmp = getenv("TMPDIR");
    snprintf(f.path, sizeof f.path, "%s/chipline-import-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(f.path)) abort();
    return f;
}

typedef struct place {
    char path[600];
} place;
static inline place in(const folder *f, const char *name)
{
    place p;
    snprintf(p.path, sizeof p.path, "%s/%s", f->path, name);
    return p;
}

/* Number of entries; also removes them when told so. */
static inline int folder_entries(const folder *f, bool remove_them)
{
    int n = 0;
    DIR *d = opendir(f->path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        n++;
        place p = in(f, e->d_name);
        if (remove_them && unlink(p.path) != 0) rmdir(p.path);
    }
    if (d) closedir(d);
    return n;
}

static inline void folder_remove(const folder *f)
{
    folder_entries(f, true);
    rmdir(f->path);
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
}

static inline void write_text(const char *path, const char *text) { write_file(path, text, strlen(text)); }

static inline cl_buf read_all(const char *path)
{
    cl_buf b = {0};
    cl_err err;
    if (cl_read_file(path, (size_t)1 << 30, &b, &err) != CL_OK) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    return b;
}

static inline void put(cl_buf *b, const void *data, size_t n)
{
    cl_err err;
    if (cl_buf_add(b, data, n, &err) != CL_OK) abort();
}

/* --- messages --- */

/* All that were looked at, without the folders of one run: said_is compares them word by word. */
static cl_buf said;

static inline void note_said(const char *msg)
{
    static const char mark[] = "/chipline-import-";
    cl_err err;
    const char *at = msg, *hit;
    while ((hit = strstr(at, mark)) && strlen(hit) >= sizeof mark + 5) {
        const char *start = hit;
        while (start > at && !strchr(" '", start[-1])) start--;
        put(&said, at, (size_t)(start - at));
        cl_buf_str(&said, "FOLDER", &err);
        at = hit + sizeof mark + 5;
    }
    cl_buf_printf(&said, &err, "%s\n", at);
}

static inline void said_is(uint32_t want)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < said.len; i++) h = (h ^ (unsigned char)said.data[i]) * 16777619u;
    if (h != want) fprintf(stderr, "%smessages: 0x%08x\n", said.len ? said.data : "", h);
    CU_ASSERT_EQUAL(h, want);
    cl_buf_free(&said);
}

static inline bool says(const cl_err *err, const char *part)
{
    note_said(err->msg);
    if (strstr(err->msg, part) && !strchr(err->msg, '\n')) return true;
    fprintf(stderr, "message is: %s\n", err->msg);
    return false;
}

/* --- numbers that repeat --- */

static inline uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* rows x cols numbers in about [-1, 1] in any native format; malloced. */
static inline unsigned char *make_rows(uint64_t seed, cl_format f, int64_t rows, int64_t cols)
{
    size_t row_bytes = cl_row_bytes(f, cols);
    unsigned char *out = malloc((size_t)rows * row_bytes);
    float *x = malloc((size_t)cols * sizeof *x);
    if (!out || !x) abort();
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) x[i] = (float)(int64_t)(next(&seed) >> 11) * 0x1p-52f - 1;
        cl_encode_row(f, x, cols, out + (size_t)r * row_bytes);
    }
    free(x);
    return out;
}

/* --- GGUF --- */

typedef struct gguf_file {
    cl_buf kv, info, data;
    uint64_t n_kv, n_tensors;
    uint32_t version, alignment; /* 0: 3 and 32 */
} gguf_file;

static inline void g_u32(cl_buf *b, uint32_t v) { put(b, &v, 4); }
static inline void g_u64(cl_buf *b, uint64_t v) { put(b, &v, 8); }
static inline void g_text(cl_buf *b, const char *s)
{
    g_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static inline void g_kv(gguf_file *g, const char *key, uint32_t type, const void *v, size_t n)
{
    g_text(&g->kv, key);
    g_u32(&g->kv, type);
    put(&g->kv, v, n);
    g->n_kv++;
}
static inline void g_kv_u32(gguf_file *g, const char *key, uint32_t v) { g_kv(g, key, CL_GGUF_U32, &v, 4); }
static inline void g_kv_f32(gguf_file *g, const char *key, float v) { g_kv(g, key, CL_GGUF_F32, &v, 4); }
static inline void g_kv_bool(gguf_file *g, const char *key, bool v) { g_kv(g, key, CL_GGUF_BOOL, &v, 1); }
static inline void g_kv_str(gguf_file *g, const char *key, const char *v)
{
    g_kv(g, key, CL_GGUF_STR, NULL, 0);
    g_text(&g->kv, v);
}
/* Elements of a fixed size. */
static inline void g_kv_array(gguf_file *g, const char *key, uint32_t elem, uint64_t n, const void *v, size_t bytes)
{
    g_kv(g, key, CL_GGUF_ARRAY, &elem, 4);
    g_u64(&g->kv, n);
    put(&g->kv, v, bytes);
}
static inline void g_kv_strings(gguf_file *g, const char *key, uint64_t n, const char *const *v)
{
    g_kv_array(g, key, CL_GGUF_STR, n, NULL, 0);
    for (uint64_t i = 0; i < n; i++) g_text(&g->kv, v[i]);
}

static inline void g_pad(cl_buf *b, size_t to)
{
    while (b->len % to) put(b, "", 1);
}

/* dims outermost first, as everywhere but in the file. */
static inline void g_tensor(gguf_file *g, const char *name, uint32_t type, int n_dims, const int64_t *dims,
                            const void *data, size_t bytes)
{
    g_pad(&g->data, g->alignment ? g->alignment : 32);
    g_text(&g->info, name);
    g_u32(&g->info, (uint32_t)n_dims);
    for (int i = n_dims - 1; i >= 0; i--) g_u64(&g->info, (uint64_t)dims[i]);
    g_u32(&g->info, type);
    g_u64(&g->info, g->data.len);
    put(&g->data, data, bytes);
    g->n_tensors++;
}

/* The whole file; ends the object. */
static inline cl_buf g_bytes(gguf_file *g)
{
    cl_buf b = {0};
    put(&b, "GGUF", 4);
    g_u32(&b, g->version ? g->version : 3);
    g_u64(&b, g->n_tensors);
    g_u64(&b, g->n_kv);
    put(&b, g->kv.data, g->kv.len);
    put(&b, g->info.data, g->info.len);
    g_pad(&b, g->alignment ? g->alignment : 32);
    put(&b, g->data.data, g->data.len);
    cl_buf_free(&g->kv);
    cl_buf_free(&g->info);
    cl_buf_free(&g->data);
    *g = (gguf_file){0};
    return b;
}

static inline void g_write(gguf_file *g, const char *path)
{
    cl_buf b = g_bytes(g);
    write_file(path, b.data, b.len);
    cl_buf_free(&b);
}

static inline uint32_t ggml_id(cl_format f)
{
    static const uint32_t ids[CL_FORMATS] =
        {[CL_F32] = 0,    [CL_F16] = 1,  [CL_BF16] = 30, [CL_Q8_0] = 8,  [CL_Q4_0] = 2,  [CL_Q4_1] = 3,
         [CL_MXFP4] = 39, [CL_Q5_0] = 6, [CL_Q5_1] = 7,  [CL_Q4_K] = 12, [CL_Q5_K] = 13, [CL_Q6_K] = 14};
    return ids[f];
}

/* A matrix or, with experts > 0, a stack of them, of made-up numbers; cols = 0: a vector of F32. */
static inline void g_made(gguf_file *g, const char *name, cl_format f, int64_t experts, int64_t rows, int64_t cols)
{
    uint64_t seed = 7;
    for (const char *p = name; *p; p++) seed = seed * 31 + (unsigned char)*p;
    int64_t dims[3] = {experts, rows, cols};
    int64_t n = (experts ? experts : 1) * rows;
    if (!cols) f = CL_F32;
    unsigned char *data = make_rows(seed, f, n, cols ? cols : 1);
    int skip = experts ? 0 : 1;
    g_tensor(g, name, ggml_id(f), 3 - skip - (cols ? 0 : 1), dims + skip, data,
             (size_t)n * cl_row_bytes(f, cols ? cols : 1));
    free(data);
}

/* One layer of a small Llama: hidden 32, 2 heads of 16 on 1, width 64, vocabulary 40; experts > 0: a small Mixtral. */
enum { TINY_HIDDEN = 32, TINY_HEAD = 16, TINY_WIDTH = 64, TINY_VOCAB = 40 };

static inline void tiny_metadata(gguf_file *g, int experts)
{
    g_kv_str(g, "general.architecture", "llama");
    g_kv_u32(g, "llama.embedding_length", TINY_HIDDEN);
    g_kv_u32(g, "llama.block_count", 1);
    g_kv_u32(g, "llama.context_length", 128);
    g_kv_u32(g, "llama.feed_forward_length", TINY_WIDTH);
    g_kv_u32(g, "llama.attention.head_count", 2);
    g_kv_u32(g, "llama.attention.head_count_kv", 1);
    g_kv_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (experts) {
        g_kv_u32(g, "llama.expert_count", (uint32_t)experts);
        g_kv_u32(g, "llama.expert_used_count", 2);
    }
}

static inline void tiny_tensors(gguf_file *g, cl_format f)
{
    g_made(g, "token_embd.weight", f, 0, TINY_VOCAB, TINY_HIDDEN);
    g_made(g, "blk.0.attn_norm.weight", f, 0, TINY_HIDDEN, 0);
    g_made(g, "blk.0.attn_q.weight", f, 0, 2 * TINY_HEAD, TINY_HIDDEN);
    g_made(g, "blk.0.attn_k.weight", f, 0, TINY_HEAD, TINY_HIDDEN);
    g_made(g, "blk.0.attn_v.weight", f, 0, TINY_HEAD, TINY_HIDDEN);
    g_made(g, "blk.0.attn_output.weight", f, 0, TINY_HIDDEN, 2 * TINY_HEAD);
    g_made(g, "blk.0.ffn_norm.weight", f, 0, TINY_HIDDEN, 0);
    g_made(g, "output_norm.weight", f, 0, TINY_HIDDEN, 0);
}

static inline void tiny_mlp(gguf_file *g, cl_format f)
{
    g_made(g, "blk.0.ffn_gate.weight", f, 0, TINY_WIDTH, TINY_HIDDEN);
    g_made(g, "blk.0.ffn_up.weight", f, 0, TINY_WIDTH, TINY_HIDDEN);
    g_made(g, "blk.0.ffn_down.weight", f, 0, TINY_HIDDEN, TINY_WIDTH);
}

static inline void tiny_llama(gguf_file *g, cl_format f)
{
    tiny_metadata(g, 0);
    tiny_tensors(g, f);
    tiny_mlp(g, f);
}

/* --- safetensors --- */

typedef struct st_file {
    cl_buf head, data;
} st_file;

static inline void st_tensor(st_file *s, const char *name, const char *dtype, int n_dims, const int64_t *dims,
                             const void *data, size_t bytes)
{
    cl_err err;
    cl_buf_printf(&s->head, &err, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", s->head.len ? "," : "{", name, dtype);
    for (int i = 0; i < n_dims; i++) cl_buf_printf(&s->head, &err, "%s%lld", i ? "," : "", (long long)dims[i]);
    cl_buf_printf(&s->head, &err, "],\"data_offsets\":[%zu,%zu]}", s->data.len, s->data.len + bytes);
    put(&s->data, data, bytes);
}

static inline void st_write(st_file *s, const char *path)
{
    cl_buf b = {0};
    put(&s->head, s->head.len ? "}" : "{}", s->head.len ? 1 : 2);
    g_u64(&b, s->head.len);
    put(&b, s->head.data, s->head.len);
    put(&b, s->data.data, s->data.len);
    write_file(path, b.data, b.len);
    cl_buf_free(&b);
    cl_buf_free(&s->head);
    cl_buf_free(&s->data);
}

#endif
