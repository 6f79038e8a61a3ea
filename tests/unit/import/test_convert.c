/* Whole conversions: fixtures in both containers give the same model; formats, names, shapes; what is refused leaves
 * nothing behind. */
#include <math.h>

#include "chipline/import.h"
#include "chipline/model_file.h"
#include "files.h"
#include "suite.h"

static const cl_convert_options keep = {.keep = true, .jobs = 2, .quiet = true, .creator = "test"};

static cl_model_file *convert_to(const char *src, const char *out, const cl_convert_options *opt)
{
    cl_model_file *f = NULL;
    cl_err err;
    if (cl_convert(src, out, opt, &err) != CL_OK || cl_model_file_open(&f, out, &err) != CL_OK ||
        cl_model_file_verify(f, false, &err) != CL_OK) {
        fprintf(stderr, "%s: %s\n", src, err.msg);
        CU_FAIL_FATAL("not converted");
    }
    return f;
}

/* All rows of a tensor; malloced. */
static unsigned char *rows_of(const cl_model_file *f, int i)
{
    const cl_tensor *t = &cl_model_file_model(f)->tensors[i];
    size_t one = (size_t)t->rows * cl_row_bytes(t->format, t->cols);
    int64_t n = t->experts ? t->experts : 1;
    unsigned char *p = malloc((size_t)n * one);
    cl_err err;
    for (int64_t e = 0; e < n; e++)
        if (!p || cl_model_file_read(f, i, e, 0, t->rows, p + (size_t)e * one, &err) != CL_OK) abort();
    return p;
}

static int index_of(const cl_model_file *f, const char *name)
{
    const cl_model *m = cl_model_file_model(f);
    for (int i = 0; i < m->n_tensors; i++)
        if (strcmp(m->tensors[i].name, name) == 0) return i;
    fprintf(stderr, "no tensor %s\n", name);
    abort();
}

/* --- the same checkpoint in two containers --- */

static void same_layer(const cl_layer *a, const cl_layer *b)
{
    CU_ASSERT(a->attn.heads == b->attn.heads && a->attn.kv_heads == b->attn.kv_heads &&
              a->attn.head_dim == b->attn.head_dim);
    CU_ASSERT(a->attn.window == b->attn.window && a->attn.rope == b->attn.rope && a->attn.qk_norm == b->attn.qk_norm);
    CU_ASSERT(a->attn.clip == b->attn.clip && a->attn.kind == b->attn.kind && a->attn.sinks == b->attn.sinks);
    CU_ASSERT_DOUBLE_EQUAL(a->attn.scale / b->attn.scale, 1, 1e-6);
    CU_ASSERT(a->attn.q_rank == b->attn.q_rank && a->attn.kv_rank == b->attn.kv_rank &&
              a->attn.rope_dim == b->attn.rope_dim && a->attn.v_dim == b->attn.v_dim &&
              a->attn.latent_eps == b->attn.latent_eps);
    CU_ASSERT(a->attn.qkv_bias == b->attn.qkv_bias && a->attn.o_bias == b->attn.o_bias);
    CU_ASSERT(a->ffn.kind == b->ffn.kind && a->ffn.width == b->ffn.width && a->ffn.experts == b->ffn.experts &&
              a->ffn.top_k == b->ffn.top_k);
    CU_ASSERT(a->ffn.renormalise == b->ffn.renormalise && a->ffn.bias == b->ffn.bias);
    CU_ASSERT(a->ffn.shared_width == b->ffn.shared_width && a->ffn.scoring == b->ffn.scoring);
    CU_ASSERT((float)a->ffn.weight_scale == (float)b->ffn.weight_scale);
    CU_ASSERT(a->ffn.router_bias == b->ffn.router_bias && a->ffn.select_bias == b->ffn.select_bias);
    CU_ASSERT(a->ffn.groups == b->ffn.groups && a->ffn.top_groups == b->ffn.top_groups &&
              a->ffn.group_best == b->ffn.group_best);
}

/* GGUF keeps eps and rope divisors in float32, and ids only beside a tokenizer. */
static void same_model(const cl_model_file *fa, const cl_model_file *fb)
{
    const cl_model *a = cl_model_file_model(fa), *b = cl_model_file_model(fb);
    const cl_spec *s = &a->spec, *t = &b->spec;
    CU_ASSERT_STRING_EQUAL(s->family, t->family);
    CU_ASSERT(s->vocab == t->vocab && s->hidden == t->hidden && s->n_layers == t->n_layers &&
              s->context == t->context && s->tied == t->tied);
    CU_ASSERT((float)s->norm_eps == (float)t->norm_eps);
    CU_ASSERT(s->n_ropes == 1 && t->n_ropes == 1 && s->ropes[0].dims == t->ropes[0].dims &&
              s->ropes[0].scale == t->ropes[0].scale);
    for (int i = 0; i < s->ropes[0].dims / 2; i++)
        CU_ASSERT_DOUBLE_EQUAL(s->ropes[0].inv_freq[i] / t->ropes[0].inv_freq[i], 1, 1e-7);
    for (int i = 0; i < s->n_layers; i++) same_layer(&s->layers[i], &t->layers[i]);
    CU_ASSERT_EQUAL_FATAL(a->n_tensors, b->n_tensors);
    for (int i = 0; i < a->n_tensors; i++) {
        CU_ASSERT_STRING_EQUAL(a->tensors[i].name, b->tensors[i].name);
        CU_ASSERT(a->tensors[i].format == CL_F32 && b->tensors[i].format == CL_F32);
        CU_ASSERT_EQUAL(cl_tensor_bytes(&a->tensors[i]), cl_tensor_bytes(&b->tensors[i]));
        unsigned char *x = rows_of(fa, i), *y = rows_of(fb, i);
        CU_ASSERT(memcmp(x, y, cl_tensor_bytes(&a->tensors[i])) == 0);
        free(x);
        free(y);
    }
}

static void test_pairs(void)
{
    static const struct {
        const char *folder, *file;
    } pairs[] = {{"llama_a", "model.gguf"},
                 {"llama_b", "model.gguf"},
                 {"deepseek_v2_lite", "model.gguf"},     /* kv_b as a whole */
                 {"deepseek_v2_lite", "model_new.gguf"}, /* its two parts */
                 {"deepseek_v3", "model.gguf"},
                 {"deepseek_v3", "model_old.gguf"},
                 {"gpt_oss", "model.gguf"},
                 {"mixtral", "model.gguf"},
                 {"olmoe", "model.gguf"},
                 {"qwen2", "model.gguf"},
                 {"qwen2", "model_v2.gguf"},
                 {"qwen2", "model-00001-of-00002.gguf"},
                 {"qwen3", "model.gguf"},
                 {"qwen3_moe_b", "model.gguf"}};
    folder f = folder_new();
    place a = in(&f, "a.h5"), b = in(&f, "b.h5");
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char src[512];
        snprintf(src, sizeof src, CL_FIXTURES "/%s", pairs[i].folder);
        cl_model_file *x = convert_to(src, a.path, &keep);
        snprintf(src, sizeof src, CL_FIXTURES "/%s/%s", pairs[i].folder, pairs[i].file);
        cl_model_file *y = convert_to(src, b.path, &keep);
        same_model(x, y);
        CU_ASSERT_STRING_EQUAL(cl_model_file_source(x), pairs[i].folder);
        CU_ASSERT_STRING_EQUAL(cl_model_file_source(y), pairs[i].file);
        cl_model_file_close(x);
        cl_model_file_close(y);
    }
    cl_model_file *z = convert_to(CL_FIXTURES "/qwen3//", a.path, &keep);
    CU_ASSERT_STRING_EQUAL(cl_model_file_source(z), "qwen3"); /* however it was written */
    cl_model_file_close(z);
    CU_ASSERT_EQUAL(folder_entries(&f, false), 2);
    folder_remove(&f);
}

/* Folders without a GGUF beside them convert, the source's own config is kept, numbers are the source's. */
static void test_folders(void)
{
    static const char *const names[] = {"llama_c", "mistral", "olmoe_clip", "qwen3_moe"};
    folder f = folder_new();
    place out = in(&f, "m.h5");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char src[512], *kept = NULL;
        cl_err err;
        snprintf(src, sizeof src, CL_FIXTURES "/%s", names[i]);
        cl_model_file *m = convert_to(src, out.path, &keep);
        CU_ASSERT_EQUAL(cl_model_file_source_config(m, &kept, &err), CL_OK);
        strcat(src, "/config.json");
        cl_buf config = read_all(src);
        CU_ASSERT_STRING_EQUAL(kept, config.data);
        cl_buf_free(&config);
        free(kept);
        cl_model_file_close(m);
    }
    folder_remove(&f);
}

/* --- formats --- */

/* Canonical row r of q and k, by definition: rotary pairs are neighbours in GGUF, half a head apart here. */
static int64_t gguf_row(const char *name, int64_t r)
{
    if (!strstr(name, "attn.q.") && !strstr(name, "attn.k.")) return r;
    int64_t head = r / TINY_HEAD, j = r % TINY_HEAD;
    return head * TINY_HEAD + (j < TINY_HEAD / 2 ? 2 * j : 2 * (j - TINY_HEAD / 2) + 1);
}

/* Source rows in canonical order, in format `to`: as they are, or encoded as format.h says, tile by tile of each
 * matrix. */
static unsigned char *want_rows(const cl_tensor *t, const unsigned char *raw, cl_format from, cl_format to)
{
    int64_t tile = cl_format_tile_rows(to), n = cl_tensor_rows(t);
    size_t in_bytes = cl_row_bytes(from, t->cols), out_bytes = cl_row_bytes(to, t->cols);
    unsigned char *want = malloc((size_t)n * out_bytes);
    float *x = malloc((size_t)(tile * t->cols) * sizeof *x);
    if (!want || !x) abort();
    for (int64_t r = 0, k; r < n; r += k) {
        int64_t left = t->rows - r % t->rows;
        for (k = 0; k < tile && k < left; k++) {
            const unsigned char *row = raw + (size_t)gguf_row(t->name, r + k) * in_bytes;
            cl_decode_row(from, row, t->cols, x + k * t->cols);
            if (from == to) memcpy(want + (size_t)(r + k) * out_bytes, row, in_bytes);
        }
        if (from != to) cl_encode_rows(to, x, k, t->cols, want + (size_t)r * out_bytes);
    }
    free(x);
    return want;
}

static void check_rows(const cl_model_file *m, const cl_source *s, const char *canonical, const char *source,
                       cl_format to)
{
    int i = index_of(m, canonical);
    const cl_tensor *t = &cl_model_file_model(m)->tensors[i];
    const cl_src_tensor *src = &s->tensors[cl_source_find(s, source)];
    unsigned char *got = rows_of(m, i), *raw = malloc(src->bytes);
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(t->format, to);
    CU_ASSERT_FATAL(raw && cl_source_read(s, src->file, src->offset, src->bytes, raw, &err) == CL_OK);
    unsigned char *want = want_rows(t, raw, (cl_format)src->format, to);
    CU_ASSERT(memcmp(want, got, (size_t)cl_tensor_rows(t) * cl_row_bytes(to, t->cols)) == 0);
    free(got);
    free(raw);
    free(want);
}

static void check_layer(const cl_model_file *m, const char *path, cl_format matrices)
{
    static const char *const names[][2] = {{"layers.0.attn.q.weight", "blk.0.attn_q.weight"},
                                           {"layers.0.attn.k.weight", "blk.0.attn_k.weight"},
                                           {"layers.0.attn.v.weight", "blk.0.attn_v.weight"},
                                           {"layers.0.attn.o.weight", "blk.0.attn_output.weight"},
                                           {"layers.0.ffn.gate.weight", "blk.0.ffn_gate.weight"},
                                           {"layers.0.ffn.up.weight", "blk.0.ffn_up.weight"},
                                           {"layers.0.ffn.down.weight", "blk.0.ffn_down.weight"},
                                           {"embed.weight", "token_embd.weight"}};
    cl_gguf *g;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_gguf_open(&g, path, &err), CL_OK);
    const cl_source *s = cl_gguf_source(g);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cl_format from = (cl_format)s->tensors[cl_source_find(s, names[i][1])].format;
        check_rows(m, s, names[i][0], names[i][1],
                   matrices != CL_FORMATS   ? matrices
                   : cl_format_native(from) ? from
                                            : CL_Q8_0);
    }
    check_rows(m, s, "layers.0.attn.norm.weight", "blk.0.attn_norm.weight", CL_F32);
    cl_gguf_close(g);
}

/* Every format that files have, kept and re-encoded, with one thread and with several. */
static void test_formats(void)
{
    static const char *const quant[] = {"Q8_0", "Q4_0", "Q4_1", "MXFP4", "Q4_K", "Q6_K"};
    static const cl_format made[] = {CL_F32, CL_F16, CL_BF16, CL_Q8_0, CL_Q4_0, CL_Q4_1, CL_MXFP4};
    folder f = folder_new();
    place gguf = in(&f, "m.gguf"), out = in(&f, "m.h5"), again = in(&f, "n.h5");
    for (size_t i = 0; i < sizeof quant / sizeof *quant; i++) {
        char src[512];
        snprintf(src, sizeof src, CL_FIXTURES "/quant/model_%s.gguf", quant[i]);
        cl_model_file *m = convert_to(src, out.path, &keep);
        check_layer(m, src, CL_FORMATS);
        cl_model_file_close(m);
    }
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        gguf_file g = {0};
        tiny_llama(&g, made[i]);
        g_write(&g, gguf.path);
        cl_model_file *m = convert_to(gguf.path, out.path, &keep);
        check_layer(m, gguf.path, CL_FORMATS);
        cl_model_file_close(m);
        for (int to = 0; to < CL_NATIVE_FORMATS; to++) {
            cl_convert_options opt = {.format = (cl_format)to, .jobs = 1, .quiet = true};
            m = convert_to(gguf.path, out.path, &opt);
            check_layer(m, gguf.path, (cl_format)to);
            uint64_t sum = cl_model_file_checksum(m);
            cl_model_file_close(m);
            opt.jobs = 5;
            m = convert_to(gguf.path, again.path, &opt);
            CU_ASSERT_EQUAL(cl_model_file_checksum(m), sum);
            cl_model_file_close(m);
        }
    }
    folder_remove(&f);
}

/* --- names --- */

static void test_expert_names(void)
{
    folder f = folder_new();
    place stacked = in(&f, "stacked.gguf"), each = in(&f, "each.gguf"), a = in(&f, "a.h5"), b = in(&f, "b.h5");
    enum { E = 3 };
    gguf_file g = {0}, h = {0};
    tiny_metadata(&g, E);
    tiny_tensors(&g, CL_Q8_0);
    tiny_metadata(&h, E);
    tiny_tensors(&h, CL_Q8_0);
    unsigned char *router = make_rows(1, CL_F16, E, TINY_HIDDEN);
    int64_t rd[2] = {E, TINY_HIDDEN};
    g_tensor(&g, "blk.0.ffn_gate_inp.weight", 1, 2, rd, router, E * TINY_HIDDEN * 2);
    g_tensor(&h, "blk.0.ffn_gate_inp.weight", 1, 2, rd, router, E * TINY_HIDDEN * 2);
    static const char *const parts[] = {"gate", "up", "down"};
    for (int p = 0; p < 3; p++) {
        char name[64];
        int64_t d[3] = {E, p < 2 ? TINY_WIDTH : TINY_HIDDEN, p < 2 ? TINY_HIDDEN : TINY_WIDTH};
        size_t one = (size_t)d[1] * cl_row_bytes(CL_Q4_1, d[2]);
        unsigned char *data = make_rows((uint64_t)p, CL_Q4_1, E * d[1], d[2]);
        snprintf(name, sizeof name, "blk.0.ffn_%s_exps.weight", parts[p]);
        g_tensor(&g, name, ggml_id(CL_Q4_1), 3, d, data, E * one);
        for (int e = 0; e < E; e++) {
            snprintf(name, sizeof name, "blk.0.ffn_%s.%d.weight", parts[p], e);
            g_tensor(&h, name, ggml_id(CL_Q4_1), 2, d + 1, data + (size_t)e * one, one);
        }
        free(data);
    }
    g_write(&g, stacked.path);
    g_write(&h, each.path);
    cl_model_file *x = convert_to(stacked.path, a.path, &keep), *y = convert_to(each.path, b.path, &keep);
    CU_ASSERT_EQUAL(cl_model_file_checksum(x), cl_model_file_checksum(y));
    int r = index_of(x, "layers.0.ffn.router.weight");
    unsigned char *got = rows_of(x, r);
    CU_ASSERT(cl_model_file_model(x)->tensors[r].format == CL_F16 && memcmp(got, router, E * TINY_HIDDEN * 2) == 0);
    free(got);
    free(router);
    cl_model_file_close(x);
    cl_model_file_close(y);
    folder_remove(&f);
}

/* Of three experts one by one, the gate of expert `odd` in another format, or (other_format < 0) left out. */
static void experts_refused(int odd, int other_format, const char *part)
{
    enum { E = 3 };
    folder f = folder_new();
    place gguf = in(&f, "m.gguf"), out = in(&f, "m.h5");
    gguf_file g = {0};
    cl_err err;
    tiny_metadata(&g, E);
    tiny_tensors(&g, CL_Q8_0);
    g_made(&g, "blk.0.ffn_gate_inp.weight", CL_F32, 0, E, TINY_HIDDEN);
    static const char *const parts[] = {"gate", "up", "down"};
    for (int p = 0; p < 3; p++) {
        for (int e = 0; e < E; e++) {
            char name[64];
            cl_format format = CL_Q4_1;
            snprintf(name, sizeof name, "blk.0.ffn_%s.%d.weight", parts[p], e);
            if (!p && e == odd && other_format < 0) continue;
            if (!p && e == odd) format = (cl_format)other_format;
            g_made(&g, name, format, 0, p < 2 ? TINY_WIDTH : TINY_HIDDEN, p < 2 ? TINY_HIDDEN : TINY_WIDTH);
        }
    }
    g_write(&g, gguf.path);
    CU_ASSERT_EQUAL(cl_convert(gguf.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, part));
    folder_remove(&f);
}

static void test_experts_alike(void)
{
#define ALIKE " (experts of a layer must be alike)"
    experts_refused(0, CL_F16, "tensor blk.0.ffn_gate.1.weight is Q4_1, the first expert is F16" ALIKE);
    experts_refused(1, CL_F16, "tensor blk.0.ffn_gate.1.weight is F16, the first expert is Q4_1" ALIKE);
    experts_refused(2, CL_Q8_0, "tensor blk.0.ffn_gate.2.weight is Q8_0, the first expert is Q4_1" ALIKE);
    experts_refused(
        0, -1, "1 tensor is missing for a mixtral model: blk.0.ffn_gate_exps.weight; not expected: blk.0.ffn_gate.1");
    experts_refused(2, -1, "blk.0.ffn_gate.2.weight");
}

/* Rows of q's bias are in pairs, too. */
static void test_bias_pairs(void)
{
    folder f = folder_new();
    place gguf = in(&f, "m.gguf"), out = in(&f, "m.h5");
    gguf_file g = {0};
    tiny_llama(&g, CL_F32);
    g_made(&g, "blk.0.attn_q.bias", CL_F32, 0, 32, 0);
    g_made(&g, "blk.0.attn_k.bias", CL_F32, 0, 16, 0);
    g_made(&g, "blk.0.attn_v.bias", CL_F32, 0, 16, 0);
    g_write(&g, gguf.path);
    cl_model_file *m = convert_to(gguf.path, out.path, &keep);
    cl_gguf *r;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_gguf_open(&r, gguf.path, &err), CL_OK);
    check_rows(m, cl_gguf_source(r), "layers.0.attn.q.bias", "blk.0.attn_q.bias", CL_F32);
    check_rows(m, cl_gguf_source(r), "layers.0.attn.k.bias", "blk.0.attn_k.bias", CL_F32);
    check_rows(m, cl_gguf_source(r), "layers.0.attn.v.bias", "blk.0.attn_v.bias", CL_F32);
    cl_gguf_close(r);
    cl_model_file_close(m);
    folder_remove(&f);
}

/* --- a folder with changes --- */

typedef struct edit {
    const char *config; /* further members of config.json */
    const char *drop, *rename, *to;
    const char *spoil; /* tensor that gets a NaN */
    const char *retype, *dtype;
    const char *reshape;   /* matrix that loses a row */
    const char *extra;     /* further tensor */
    const char *copy, *as; /* a tensor once more under another name */
} edit;

static const char tiny_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":8,\"num_"
    "hidden_"
    "layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"intermediate_size\":6,\"max_position_embeddings\":64%s%s}";

static void write_folder(const folder *f, const edit *e)
{
    static const struct {
        const char *name;
        int64_t rows, cols;
    } tensors[] = {{"model.embed_tokens.weight", 10, 8},
                   {"lm_head.weight", 10, 8},
                   {"model.norm.weight", 8, 0},
                   {"model.layers.0.input_layernorm.weight", 8, 0},
                   {"model.layers.0.post_attention_layernorm.weight", 8, 0},
                   {"model.layers.0.self_attn.q_proj.weight", 8, 8},
                   {"model.layers.0.self_attn.k_proj.weight", 4, 8},
                   {"model.layers.0.self_attn.v_proj.weight", 4, 8},
                   {"model.layers.0.self_attn.o_proj.weight", 8, 8},
                   {"model.layers.0.mlp.gate_proj.weight", 6, 8},
                   {"model.layers.0.mlp.up_proj.weight", 6, 8},
                   {"model.layers.0.mlp.down_proj.weight", 8, 6},
                   {"model.layers.0.self_attn.rotary_emb.inv_freq", 2, 0}};
    char text[1024];
    st_file s = {0};
    place config = in(f, "config.json"), weights = in(f, "model.safetensors");
    snprintf(text, sizeof text, tiny_config, e->config ? "," : "", e->config ? e->config : "");
    write_text(config.path, text);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        const char *name = tensors[i].name;
        int64_t d[2] = {tensors[i].rows, tensors[i].cols};
        if (e->drop && strcmp(e->drop, name) == 0) continue;
        if (e->reshape && strcmp(e->reshape, name) == 0) d[0]--;
        size_t n = (size_t)(d[0] * (d[1] ? d[1] : 1));
        float *x = (float *)make_rows(i, CL_F32, 1, (int64_t)n);
        if (e->spoil && strcmp(e->spoil, name) == 0) x[n - 1] = i % 2 ? NAN : -INFINITY;
        const char *dtype = e->retype && strcmp(e->retype, name) == 0 ? e->dtype : "F32";
        st_tensor(&s, e->rename && strcmp(e->rename, name) == 0 ? e->to : name, dtype, d[1] ? 2 : 1, d, x, n * 4);
        if (e->copy && strcmp(e->copy, name) == 0) st_tensor(&s, e->as, "F32", d[1] ? 2 : 1, d, x, n * 4);
        free(x);
    }
    int64_t one = 1;
    if (e->extra) st_tensor(&s, e->extra, "F32", 1, &one, &(float){1}, 4);
    st_write(&s, weights.path);
}

static void folder_refused(const edit *e, cl_code code, const char *part)
{
    folder f = folder_new(), o = folder_new();
    place out = in(&o, "m.h5");
    cl_err err = {0};
    write_folder(&f, e);
    CU_ASSERT_EQUAL(cl_convert(f.path, out.path, &keep, &err), code);
    CU_ASSERT(says(&err, part) && says(&err, f.path));
    CU_ASSERT_EQUAL(folder_entries(&o, false), 0); /* nothing is left behind */
    folder_remove(&f);
    folder_remove(&o);
}

static void test_refused(void)
{
    folder_refused(&(edit){.drop = "model.layers.0.mlp.up_proj.weight"}, CL_E_INPUT,
                   "1 tensor is missing for a llama model: model.layers.0.mlp.up_proj.weight");
    folder_refused(&(edit){.config = "\"tie_word_embeddings\":false", .drop = "lm_head.weight"}, CL_E_INPUT,
                   "missing for a llama model: lm_head.weight");
    folder_refused(&(edit){.rename = "model.norm.weight", .to = "model.normal.weight"}, CL_E_INPUT,
                   "missing for a llama model: model.norm.weight; not expected: model.normal.weight");
    /* twice: rejected */
    folder_refused(&(edit){.config = "\"num_hidden_layers\":2"}, CL_E_INPUT, "config.json: not valid JSON");
    folder_refused(&(edit){.extra = "model.layers.0.self_attn.sinks"}, CL_E_INPUT,
                   "1 tensor has no place in a llama model with this configuration: model.layers.0.self_attn.sinks");
    folder_refused(
        &(edit){.reshape = "model.layers.0.self_attn.k_proj.weight"}, CL_E_INPUT,
        "tensor model.layers.0.self_attn.k_proj.weight has the shape [3, 8], the configuration makes it [4, 8]");
    folder_refused(&(edit){.reshape = "lm_head.weight"}, CL_E_INPUT, "tensor lm_head.weight has the shape [9, 8]");
    folder_refused(&(edit){.config = "\"attention_bias\":true"}, CL_E_INPUT, "4 tensors are missing");
    folder_refused(&(edit){.retype = "model.norm.weight", .dtype = "I32"}, CL_E_INPUT,
                   "tensor model.norm.weight is I32, which cannot be read");
    folder_refused(&(edit){.spoil = "lm_head.weight"}, CL_E_INPUT,
                   "tensor lm_head.weight: a number in row 9 is NaN or infinite");
    folder_refused(&(edit){.spoil = "model.norm.weight"}, CL_E_INPUT,
                   "tensor model.norm.weight: a number in row 7 is NaN or infinite");
    folder_refused(&(edit){.config = "\"hidden_act\":\"relu\""}, CL_E_INPUT, "config.json: hidden_act: relu");
    folder_refused(&(edit){.config = "\"eos_token_id\":2.5"}, CL_E_INPUT, "eos_token_id");
}

/* A configuration that promises two thousand million experts is refused at once. */
static void test_promises(void)
{
    folder f = folder_new();
    place config = in(&f, "config.json"), out = in(&f, "m.h5");
    cl_err err;
    write_folder(&f, &(edit){0});
    write_text(config.path, "{\"model_type\":\"mixtral\",\"vocab_size\":10,\"hidden_size\":8,\"num_hidden_layers\":"
                            "4000,\"num_attention_heads\":2,"
                            "\"num_key_value_heads\":1,\"intermediate_size\":6,\"max_position_embeddings\":64,\"num_"
                            "local_experts\":65536}");
    uint64_t start = cl_now_ns();
    CU_ASSERT_EQUAL(cl_convert(f.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(
        says(&err, "over 1000 tensors are missing for a mixtral model: model.layers.0.block_sparse_moe.gate.weight"));
    CU_ASSERT(cl_now_ns() - start < 5000000000u);
    folder_remove(&f);
}

static const cl_spec *spec_of(const cl_model_file *m) { return &cl_model_file_model(m)->spec; }

static void test_heads(void)
{
    static const struct {
        edit e;
        bool tied;
    } cases[] = {{{.config = NULL}, false},
                 {{.config = "\"tie_word_embeddings\":true"}, false}, /* they differ: both are kept */
                 {{.config = "\"tie_word_embeddings\":true", .drop = "lm_head.weight"}, true},
                 {{.config = NULL, .drop = "lm_head.weight"}, true}, /* nothing said, no head */
                 {{.config = "\"tie_word_embeddings\":true",
                   .drop = "lm_head.weight",
                   .copy = "model.embed_tokens.weight",
                   .as = "lm_head.weight"},
                  true}};
    folder f = folder_new();
    place out = in(&f, "m.h5");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_folder(&f, &cases[i].e);
        cl_model_file *m = convert_to(f.path, out.path, &keep);
        CU_ASSERT_EQUAL(spec_of(m)->tied, cases[i].tied);
        CU_ASSERT_EQUAL(cl_model_find(cl_model_file_model(m), CL_T_HEAD, -1) == NULL, cases[i].tied);
        cl_model_file_close(m);
    }
    /* The embedding's rows are the vocabulary. */
    write_folder(&f, &(edit){.config = "\"tie_word_embeddings\":true,\"eos_token_id\":9",
                             .drop = "lm_head.weight",
                             .reshape = "model.embed_tokens.weight"});
    cl_model_file *m = convert_to(f.path, out.path, &keep);
    CU_ASSERT(spec_of(m)->vocab == 9 && spec_of(m)->n_eos == 0);
    cl_model_file_close(m);
    folder_remove(&f);
}

static void test_places(void)
{
    folder f = folder_new();
    place gguf = in(&f, "m.gguf"), link_ = in(&f, "link"), deep = in(&f, "none/m.h5"), none = in(&f, "none.gguf"),
          out = in(&f, "m.h5");
    cl_err err;
    gguf_file g = {0};
    tiny_llama(&g, CL_F32);
    g_write(&g, gguf.path);
    CU_ASSERT_EQUAL(cl_convert(gguf.path, gguf.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "m.gguf: is a file of the source"));
    CU_ASSERT_EQUAL(symlink(gguf.path, link_.path), 0);
    CU_ASSERT_EQUAL(cl_convert(gguf.path, link_.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT_EQUAL(cl_convert(gguf.path, deep.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "none/m.h5: cannot be written"));
    CU_ASSERT_EQUAL(cl_convert(gguf.path, f.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "is a folder"));
    CU_ASSERT_EQUAL(cl_convert(none.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "none.gguf: "));
    unlink(link_.path);
    CU_ASSERT_EQUAL(folder_entries(&f, false), 1); /* the source alone, and whole */
    cl_model_file *m = convert_to(gguf.path, out.path, &keep);
    cl_model_file_close(m);
    unlink(gguf.path);
    CU_ASSERT_EQUAL(cl_convert(f.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "has no config.json"));
    write_folder(&f, &(edit){0});
    place config = in(&f, "config.json"), weights = in(&f, "model.safetensors");
    CU_ASSERT_EQUAL(cl_convert(f.path, config.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT_EQUAL(cl_convert(f.path, weights.path, &keep, &err), CL_E_INPUT);
    unlink(weights.path);
    CU_ASSERT_EQUAL(cl_convert(f.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "has neither model.safetensors"));
    m = NULL;
    CU_ASSERT_EQUAL(cl_model_file_open(&m, out.path, &err), CL_OK); /* the old output is as it was */
    cl_model_file_close(m);
    folder_remove(&f);
}

static void test_unreadable_types(void)
{
    folder f = folder_new();
    place gguf = in(&f, "m.gguf"), out = in(&f, "m.h5");
    cl_err err;
    gguf_file g = {0};
    int64_t d[2] = {TINY_VOCAB, TINY_HIDDEN}, n = TINY_HIDDEN;
    unsigned char zeros[TINY_VOCAB * 40] = {0};
    tiny_metadata(&g, 0);
    g_tensor(&g, "token_embd.weight", 9, 2, d, zeros, sizeof zeros); /* Q8_1 */
    g_write(&g, gguf.path);
    CU_ASSERT_EQUAL(cl_convert(gguf.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "tensor token_embd.weight is Q8_1, which cannot be read"));
    tiny_metadata(&g, 0);
    g_made(&g, "token_embd.weight", CL_F32, 0, TINY_VOCAB, TINY_HIDDEN);
    g_tensor(&g, "blk.0.attn_norm.weight", 8, 1, &n, zeros, 34);
    g_write(&g, gguf.path);
    CU_ASSERT_EQUAL(cl_convert(gguf.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "tensor blk.0.attn_norm.weight is Q8_0; a vector must be"));
    /* An infinite scale in a block is an infinite weight. */
    tiny_llama(&g, CL_Q8_0);
    g.data.data[0] = 0;
    g.data.data[1] = 0x7c;
    g_write(&g, gguf.path);
    CU_ASSERT_EQUAL(cl_convert(gguf.path, out.path, &keep, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "tensor token_embd.weight: a number in row 0 is NaN or infinite"));
    CU_ASSERT_EQUAL(folder_entries(&f, false), 1);
    folder_remove(&f);
}

static void test_said(void) { said_is(0x239e88e2); }

int main(void)
{
    CU_TestInfo tests[] = {{"GGUF and safetensors give the same model", test_pairs},
                           {"folders", test_folders},
                           {"every format, kept and re-encoded", test_formats},
                           {"experts stacked and one by one", test_expert_names},
                           {"experts that are not alike", test_experts_alike},
                           {"biases of q and k", test_bias_pairs},
                           {"missing, unexpected, misshapen, not numbers", test_refused},
                           {"more promised than there is", test_promises},
                           {"tied heads and grown vocabularies", test_heads},
                           {"sources and outputs that cannot be", test_places},
                           {"types that cannot be read", test_unreadable_types},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("convert", tests);
}
