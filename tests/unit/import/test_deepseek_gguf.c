/* DeepSeek as GGUF: files with kv_b as a whole, with its two parts, with all three; quantised ones; metadata that
 * cannot be. */
#include <math.h>

#include "chipline/import.h"
#include "chipline/model_file.h"
#include "files.h"
#include "suite.h"

enum { HIDDEN = 32, HEADS = 2, NOPE = 32, ROPE = 8, V = 16, RANK = 64, EXPERTS = 4, WIDTH = 32, VOCAB = 40 };
typedef enum parts { WHOLE = 1, SPLIT = 2, FLAT = 4 } parts; /* FLAT: the parts of SPLIT in two dimensions */

static const cl_convert_options keep = {.keep = true, .jobs = 2, .quiet = true};

typedef enum generation { OLD, NEW, HALF_NEW /* without the keys that say what a head is */ } generation;

static void metadata(gguf_file *g, generation newer)
{
    g_kv_str(g, "general.architecture", "deepseek2");
    g_kv_u32(g, "deepseek2.embedding_length", HIDDEN);
    g_kv_u32(g, "deepseek2.block_count", 1);
    g_kv_u32(g, "deepseek2.context_length", 128);
    g_kv_u32(g, "deepseek2.attention.head_count", HEADS);
    g_kv_f32(g, "deepseek2.attention.layer_norm_rms_epsilon", 1e-6f);
    g_kv_u32(g, "deepseek2.attention.kv_lora_rank", RANK);
    g_kv_u32(g, "deepseek2.rope.dimension_count", ROPE);
    g_kv_u32(g, "deepseek2.attention.head_count_kv", newer ? 1 : HEADS);
    g_kv_u32(g, "deepseek2.attention.key_length", newer ? RANK + ROPE : NOPE + ROPE);
    g_kv_u32(g, "deepseek2.attention.value_length", newer ? RANK : V);
    if (newer == NEW) {
        g_kv_u32(g, "deepseek2.attention.key_length_mla", NOPE + ROPE);
        g_kv_u32(g, "deepseek2.attention.value_length_mla", V);
    }
    g_kv_u32(g, "deepseek2.expert_count", EXPERTS);
    g_kv_u32(g, "deepseek2.expert_used_count", 2);
    g_kv_u32(g, "deepseek2.expert_feed_forward_length", WIDTH);
}

/* Everything but kv_b. */
static void tensors(gguf_file *g, cl_format f, cl_format router)
{
    g_made(g, "token_embd.weight", f, 0, VOCAB, HIDDEN);
    g_made(g, "output_norm.weight", f, 0, HIDDEN, 0);
    g_made(g, "output.weight", f, 0, VOCAB, HIDDEN);
    g_made(g, "blk.0.attn_norm.weight", f, 0, HIDDEN, 0);
    g_made(g, "blk.0.attn_q.weight", f, 0, HEADS * (NOPE + ROPE), HIDDEN);
    g_made(g, "blk.0.attn_kv_a_mqa.weight", f, 0, RANK + ROPE, HIDDEN);
    g_made(g, "blk.0.attn_kv_a_norm.weight", f, 0, RANK, 0);
    g_made(g, "blk.0.attn_output.weight", f, 0, HIDDEN, HEADS * V);
    g_made(g, "blk.0.ffn_norm.weight", f, 0, HIDDEN, 0);
    g_made(g, "blk.0.ffn_gate_inp.weight", router, 0, EXPERTS, HIDDEN);
    g_made(g, "blk.0.ffn_gate_exps.weight", f, EXPERTS, WIDTH, HIDDEN);
    g_made(g, "blk.0.ffn_up_exps.weight", f, EXPERTS, WIDTH, HIDDEN);
    g_made(g, "blk.0.ffn_down_exps.weight", f, EXPERTS, HIDDEN, WIDTH);
}

static void put_rows(gguf_file *g, const char *name, cl_format f, int n_dims, const int64_t *dims, const float *x)
{
    int64_t cols = dims[n_dims - 1], rows = n_dims == 3 ? dims[0] * dims[1] : dims[0];
    size_t row_bytes = cl_row_bytes(f, cols);
    unsigned char *data = malloc((size_t)rows * row_bytes);
    if (!data) abort();
    for (int64_t r = 0; r < rows; r++) cl_encode_row(f, x + r * cols, cols, data + (size_t)r * row_bytes);
    g_tensor(g, name, ggml_id(f), n_dims, dims, data, (size_t)rows * row_bytes);
    free(data);
}

/* kv_b [HEADS][NOPE + V][RANK] as it decodes from format f. */
static void kv_b(cl_format f, float *x)
{
    unsigned char *rows = make_rows(99, f, HEADS * (NOPE + V), RANK);
    for (int r = 0; r < HEADS * (NOPE + V); r++)
        cl_decode_row(f, rows + (size_t)r * cl_row_bytes(f, RANK), RANK, x + r * RANK);
    free(rows);
}

static void up(gguf_file *g, cl_format f, int which)
{
    static float x[HEADS][NOPE + V][RANK], k[HEADS][RANK][NOPE], v[HEADS][V][RANK];
    kv_b(f, x[0][0]);
    for (int h = 0; h < HEADS; h++)
        for (int c = 0; c < RANK; c++) {
            for (int r = 0; r < NOPE; r++) k[h][c][r] = x[h][r][c];
            for (int r = 0; r < V; r++) v[h][r][c] = x[h][NOPE + r][c];
        }
    if (which & WHOLE) put_rows(g, "blk.0.attn_kv_b.weight", f, 2, (int64_t[]){HEADS * (NOPE + V), RANK}, x[0][0]);
    if (which & SPLIT) {
        put_rows(g, "blk.0.attn_k_b.weight", f, 3, (int64_t[]){HEADS, RANK, NOPE}, k[0][0]);
        put_rows(g, "blk.0.attn_v_b.weight", f, 3, (int64_t[]){HEADS, V, RANK}, v[0][0]);
    }
    if (which & FLAT) {
        put_rows(g, "blk.0.attn_k_b.weight", f, 2, (int64_t[]){HEADS * RANK, NOPE}, k[0][0]);
        put_rows(g, "blk.0.attn_v_b.weight", f, 2, (int64_t[]){HEADS * V, RANK}, v[0][0]);
    }
}

static cl_model_file *convert(gguf_file *g, const folder *f, const cl_convert_options *opt)
{
    place gguf = in(f, "m.gguf"), out = in(f, "m.h5");
    cl_model_file *m = NULL;
    cl_err err;
    g_write(g, gguf.path);
    if (cl_convert(gguf.path, out.path, opt, &err) == CL_OK && cl_model_file_open(&m, out.path, &err) == CL_OK)
        return m;
    fprintf(stderr, "%s\n", err.msg);
    abort();
}

static const cl_tensor *tensor(const cl_model_file *m, cl_role role)
{
    return cl_model_find(cl_model_file_model(m), role, role == CL_T_EMBED ? -1 : 0);
}

static void test_generations(void)
{
    folder f = folder_new();
    uint64_t sums[4];
    static const int which[] = {WHOLE, SPLIT, WHOLE | SPLIT, WHOLE | FLAT};
    for (int i = 0; i < 4; i++) {
        gguf_file g = {0};
        metadata(&g, i ? NEW : OLD);
        tensors(&g, CL_F32, CL_F32);
        up(&g, CL_F32, which[i]);
        cl_model_file *m = convert(&g, &f, &keep);
        sums[i] = cl_model_file_checksum(m);
        const cl_spec *s = &cl_model_file_model(m)->spec;
        const cl_attention *a = &s->layers[0].attn;
        CU_ASSERT_STRING_EQUAL(s->family, "deepseek_v2"); /* without expert_gating_func */
        CU_ASSERT(a->head_dim == NOPE + ROPE && a->v_dim == V && a->kv_heads == 1 && a->q_rank == 0 &&
                  a->kind == CL_ATTN_LATENT);
        CU_ASSERT(s->layers[0].ffn.scoring == CL_SCORE_SOFTMAX && s->layers[0].ffn.shared_width == 0);
        CU_ASSERT_EQUAL(sums[i], sums[0]);
        cl_model_file_close(m);
    }
    folder_remove(&f);
}

/* Whole and quantised: the values' rows are as they were, the transposed keys' blocks cannot be. */
static void test_quantised(void)
{
    static const cl_format formats[] = {CL_Q8_0, CL_Q4_0, CL_MXFP4};
    static float x[HEADS][NOPE + V][RANK];
    folder f = folder_new();
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        gguf_file g = {0};
        metadata(&g, OLD);
        tensors(&g, formats[i], CL_Q8_0);
        up(&g, formats[i], WHOLE);
        cl_model_file *m = convert(&g, &f, &keep);
        const cl_tensor *k = tensor(m, CL_T_K_B), *v = tensor(m, CL_T_V_B);
        CU_ASSERT(k->format == CL_BF16 && v->format == formats[i] && tensor(m, CL_T_Q)->format == formats[i]);
        CU_ASSERT_EQUAL(tensor(m, CL_T_ROUTER)->format, CL_F32); /* a quantised one is decoded */
        /* What the file holds: make_rows' numbers, encoded once more as put_rows does. */
        kv_b(formats[i], x[0][0]);
        int at = (int)(k - cl_model_file_model(m)->tensors), bad = 0;
        uint16_t row[NOPE];
        unsigned char block[128];
        float y[RANK];
        cl_err err;
        for (int h = 0; h < HEADS; h++)
            for (int r = 0; r < NOPE; r++) {
                cl_encode_row(formats[i], x[h][r], RANK, block);
                cl_decode_row(formats[i], block, RANK, y);
                memcpy(x[h][r], y, sizeof y);
            }
        for (int h = 0; h < HEADS; h++)
            for (int c = 0; c < RANK; c++) {
                if (cl_model_file_read(m, at, h, c, 1, row, &err) != CL_OK) abort();
                for (int r = 0; r < NOPE; r++) bad += row[r] != cl_f32_to_bf16(x[h][r][c]);
            }
        CU_ASSERT_EQUAL(bad, 0);
        cl_model_file_close(m);
    }
    folder_remove(&f);
}

/* What --format does to routers: they take a float format, and keep their own beside a quantised one. */
static void test_routers(void)
{
    static const struct {
        cl_format source, asked, router;
    } cases[] = {{CL_F16, CL_Q8_0, CL_F16},  {CL_BF16, CL_FP8, CL_BF16}, {CL_F16, CL_F32, CL_F32},
                 {CL_F32, CL_BF16, CL_BF16}, {CL_F32, CL_INT4, CL_F32},  {CL_Q8_0, CL_MXFP4, CL_F32}};
    folder f = folder_new();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_file g = {0};
        metadata(&g, NEW);
        tensors(&g, CL_BF16, cases[i].source);
        up(&g, CL_BF16, SPLIT);
        cl_convert_options opt = {.format = cases[i].asked, .jobs = 1, .quiet = true};
        cl_model_file *m = convert(&g, &f, &opt);
        cl_err err;
        CU_ASSERT(tensor(m, CL_T_ROUTER)->format == cases[i].router && tensor(m, CL_T_K_B)->format == cases[i].asked);
        CU_ASSERT(tensor(m, CL_T_EXPERT_UP)->format == cases[i].asked && tensor(m, CL_T_FFN_NORM)->format == CL_F32);
        CU_ASSERT_EQUAL(cl_model_file_verify(m, false, &err), CL_OK);
        cl_model_file_close(m);
    }
    folder_remove(&f);
}

typedef struct edit {
    const char *key;
    uint32_t value;
    generation newer;
    const char *part;
} edit;

static void test_refused(void)
{
    static const edit cases[] = {
        {"deepseek2.attention.kv_lora_rank_", 1, NEW, NULL}, /* an unknown key: nothing happens */
        {"deepseek2.expert_gating_func", 4, NEW, "deepseek2.expert_gating_func: 4 is not supported"},
        {"deepseek2.expert_group_count", 3, NEW,
         "deepseek2.expert_group_count: 3 does not divide deepseek2.expert_count, 4"},
        {"deepseek2.expert_group_count", 2, NEW, "deepseek2.expert_group_used_count: missing"},
        {"deepseek2.attention.q_lora_rank", 16, NEW, "tensor blk.0.attn_q.weight has the shape [80, 32]"},
        {"deepseek2.expert_shared_count", 1, NEW, "3 tensors are missing"},
        {"deepseek2.attention.q_lora_rank_", 1, HALF_NEW, "deepseek2.attention.key_length_mla: missing"},
    };
    folder f = folder_new();
    place gguf = in(&f, "m.gguf"), out = in(&f, "m.h5");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_file g = {0};
        cl_err err = {0};
        metadata(&g, cases[i].newer);
        g_kv_u32(&g, cases[i].key, cases[i].value);
        tensors(&g, CL_F32, CL_F32);
        up(&g, CL_F32, SPLIT);
        g_write(&g, gguf.path);
        cl_code c = cl_convert(gguf.path, out.path, &keep, &err);
        CU_ASSERT_EQUAL(c, cases[i].part ? CL_E_INPUT : CL_OK);
        if (cases[i].part) CU_ASSERT(says(&err, cases[i].part));
    }
    folder_remove(&f);
}

int main(void)
{
    CU_TestInfo tests[] = {{"both generations, and all three tensors", test_generations},
                           {"kv_b in blocks", test_quantised},
                           {"formats of routers", test_routers},
                           {"what is refused", test_refused},
                           CU_TEST_INFO_NULL};
    return run_suite("deepseek_gguf", tests);
}
