/* model_file_data.h: what the tests of the model file write: a small model of every kind of tensor, its bytes and a
 * tokenizer. */
#ifndef CHIPLINE_TEST_MODEL_FILE_DATA_H
#define CHIPLINE_TEST_MODEL_FILE_DATA_H

#include <stdio.h>
#include <unistd.h>

#include "chipline/model_file.h"
#include "chipline/tokenizer.h"
#include "specs.h"
#include "suite.h"

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 }; /* its shadow and quarantine count as memory */
#else
enum { SANITIZED = 0 };
#endif

static const char config[] = "{\"hidden_size\": 36, \"note\": \"verbatim \xc3\xa9\"}\n";

static inline cl_model small_model(void)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){50, 36, 3, 6, 2, 10, 140, 0, 0, false, CL_QK_NORM_HEAD});
    s.layers[0].attn.qkv_bias = s.layers[0].attn.o_bias = s.layers[0].ffn.bias = true;
    s.layers[1].attn.sinks = true;
    s.layers[1].ffn = (cl_ffn){.kind = CL_FFN_MOE,
                               .weight_scale = 1,
                               .width = 130,
                               .experts = 5,
                               .top_k = 2,
                               .renormalise = true,
                               .bias = true,
                               .router_bias = true,
                               .select_bias = true,
                               .shared_width = 7};
    s.layers[2].attn = (cl_attention){.kind = CL_ATTN_LATENT,
                                      .heads = 3,
                                      .kv_heads = 1,
                                      .head_dim = 10,
                                      .rope = -1,
                                      .scale = 1,
                                      .q_rank = 12,
                                      .kv_rank = 33,
                                      .rope_dim = 4,
                                      .v_dim = 5,
                                      .latent_eps = 1e-6};
    s.layers[2].ffn.width = 3;
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_BF16, &m, &err), CL_OK);
    cl_spec_free(&s);
    /* fp8: gates of layers 0 and 1 (two row tiles), down of layer 1's experts (two column tiles), v_b of layer 2, and
     * others */
    static const cl_format cycle[] = {CL_Q8_0, CL_F16, CL_Q4_0, CL_F32, CL_MXFP4, CL_FP8, CL_INT4, CL_Q4_1, CL_BF16};
    for (int i = 0, k = 0; i < m.n_tensors; i++) {
        cl_tensor *t = &m.tensors[i];
        if (cl_role_is_matrix(t->role)) t->format = cycle[k++ % 9];
        if (t->role == CL_T_EXPERT_GATE || t->role == CL_T_EXPERT_DOWN || t->role == CL_T_V_B) t->format = CL_FP8;
        if (t->role == CL_T_EXPERT_UP || t->role == CL_T_K_B) t->format = CL_INT4;
    }
    return m;
}

/* All rows, complete: those of one fp8 tile have the same scales. */
static inline unsigned char *tensor_bytes(const cl_tensor *t, uint64_t seed)
{
    size_t row = cl_row_bytes(t->format, t->cols), scales = (size_t)(t->cols + 127) / 128 * 4;
    uint64_t n = (uint64_t)cl_tensor_rows(t) * row;
    uint64_t z = seed * 0x9e3779b97f4a7c15u + (uint64_t)t->role * 77 + (uint64_t)(t->layer + 1) * 1009;
    unsigned char *b = malloc(n);
    for (uint64_t i = 0; i < n; i++) {
        z = z * 6364136223846793005u + 1442695040888963407u;
        b[i] = (unsigned char)(z >> 56);
    }
    for (int64_t r = 0; t->format == CL_FP8 && r < cl_tensor_rows(t); r++)
        if (r % t->rows % 128) memcpy(b + (size_t)r * row, b + (size_t)(r - 1) * row, scales);
    return b;
}

static inline cl_tokenizer_data small_tokenizer(void)
{
    static char bytes[] = "ab ab<s>\xc3\xa9", template[] = "{{ messages }} \xe2\x82\xac", source[] = "a test";
    static uint32_t offset[] = {0, 1, 2, 3, 5, 8, 10};
    static uint8_t type[] = {1, 1, 1, 1, 3, 1}, flags[] = {0, 0, 0, 0, CL_TOK_LSTRIP, 0};
    static float score[] = {0, -1, -2.5f, -3, 0, -1e-9f};
    static int32_t merge[] = {0, 1, 3};
    static char digit[] = "\\p{N}", none[] = "", word[] = " ?\\p{L}+";
    static cl_tok_split splits[] = {{digit}, {none}, {word}};
    return (cl_tokenizer_data){.kind = CL_TOK_BPE_BYTES,
                               .n_tokens = 6,
                               .bytes = bytes,
                               .offset = offset,
                               .type = type,
                               .flags = flags,
                               .score = score,
                               .n_merges = 1,
                               .merge = merge,
                               .n_splits = 3,
                               .splits = splits,
                               .ignore_merges = true,
                               .add_prefix_space = true,
                               .add_bos = true,
                               .bos = 4,
                               .eos = 4,
                               .unk = -1,
                               .pad = -1,
                               .chat_template = template,
                               .source = source};
}

/* Rows in runs of odd lengths, tensors in two interleaved passes. */
static inline cl_code write_rows(cl_model_writer *w, const cl_model *m, uint64_t seed, cl_err *err)
{
    cl_code c = CL_OK;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = m->n_tensors - 1; c == CL_OK && i >= 0; i--) {
            const cl_tensor *t = &m->tensors[i];
            unsigned char *b = tensor_bytes(t, seed);
            int64_t half = cl_tensor_rows(t) / 2, from = pass ? half : 0, to = pass ? cl_tensor_rows(t) : half;
            size_t row = cl_row_bytes(t->format, t->cols);
            for (int64_t r = from, n; c == CL_OK && r < to; r += n) {
                n = 7 < to - r ? 7 : to - r;
                c = cl_model_writer_rows(w, i, b + (size_t)r * row, n, err);
            }
            free(b);
        }
    }
    return c;
}

static inline void write_model(const char *name, bool full, uint64_t seed)
{
    cl_err err = {0};
    cl_model m = small_model();
    cl_tokenizer_data tok = small_tokenizer();
    cl_model_writer *w = NULL;
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, name, &m, "a test", full ? config : NULL, &err), CL_OK);
    if (!w) fprintf(stderr, "%s\n", err.msg);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    bool fresh = access(name, F_OK) != 0;
    if (full) CU_ASSERT_EQUAL(cl_tokenizer_data_write(&tok, cl_model_writer_store(w), &err), CL_OK);
    CU_ASSERT_EQUAL(cl_model_writer_creator(w, "test 1", &err), CL_OK);
    CU_ASSERT_EQUAL(write_rows(w, &m, seed, &err), CL_OK);
    if (fresh) CU_ASSERT_NOT_EQUAL(access(name, F_OK), 0); /* not before it is whole */
    CU_ASSERT_EQUAL(cl_model_writer_commit(w, &err), CL_OK);
    CU_ASSERT_EQUAL(access(name, F_OK), 0);
    cl_model_free(&m);
}

/* Runs the tests with a folder of their own, which they leave empty but for *path. */
static inline int run_in_folder(const char *name, CU_TestInfo *tests, char *dir, size_t dir_size, char *path,
                                size_t path_size)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, dir_size, "%s/chipline-model-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return EXIT_FAILURE;
    snprintf(path, path_size, "%s/model.h5", dir);
    int code = run_suite(name, tests);
    unlink(path);
    rmdir(dir);
    return code;
}

#endif
