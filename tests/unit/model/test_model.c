/* Tensor lists and counts against numbers worked out by hand (and the totals that model cards give). */
#include <math.h>

#include "chipline/model.h"
#include "specs.h"
#include "suite.h"

static void test_tensor_list(void)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){100, 36, 2, 6, 2, 10, 50, 0, 0, false, CL_QK_NORM_NONE});
    s.layers[0].attn.qkv_bias = s.layers[0].attn.o_bias = s.layers[0].ffn.bias = true;
    s.layers[0].attn.qk_norm = CL_QK_NORM_HEAD;
    s.layers[1].attn.qk_norm = CL_QK_NORM_FULL;
    s.layers[1].ffn = (cl_ffn){.kind = CL_FFN_MOE, .weight_scale = 1, .width = 9, .experts = 5, .top_k = 2};
    static const struct {
        const char *name;
        cl_role role;
        int layer, experts, rows, cols;
        bool matrix;
    } want[] = {
        {"embed.weight", CL_T_EMBED, -1, 0, 100, 36, true},
        {"layers.0.attn.norm.weight", CL_T_ATTN_NORM, 0, 0, 36, 1, false},
        {"layers.0.attn.q.weight", CL_T_Q, 0, 0, 60, 36, true},
        {"layers.0.attn.k.weight", CL_T_K, 0, 0, 20, 36, true},
        {"layers.0.attn.v.weight", CL_T_V, 0, 0, 20, 36, true},
        {"layers.0.attn.o.weight", CL_T_O, 0, 0, 36, 60, true},
        {"layers.0.attn.q.bias", CL_T_Q_BIAS, 0, 0, 60, 1, false},
        {"layers.0.attn.k.bias", CL_T_K_BIAS, 0, 0, 20, 1, false},
        {"layers.0.attn.v.bias", CL_T_V_BIAS, 0, 0, 20, 1, false},
        {"layers.0.attn.o.bias", CL_T_O_BIAS, 0, 0, 36, 1, false},
        {"layers.0.attn.q_norm.weight", CL_T_Q_NORM, 0, 0, 10, 1, false},
        {"layers.0.attn.k_norm.weight", CL_T_K_NORM, 0, 0, 10, 1, false},
        {"layers.0.ffn.norm.weight", CL_T_FFN_NORM, 0, 0, 36, 1, false},
        {"layers.0.ffn.gate.weight", CL_T_GATE, 0, 0, 50, 36, true},
        {"layers.0.ffn.up.weight", CL_T_UP, 0, 0, 50, 36, true},
        {"layers.0.ffn.down.weight", CL_T_DOWN, 0, 0, 36, 50, true},
        {"layers.0.ffn.gate.bias", CL_T_GATE_BIAS, 0, 0, 50, 1, false},
        {"layers.0.ffn.up.bias", CL_T_UP_BIAS, 0, 0, 50, 1, false},
        {"layers.0.ffn.down.bias", CL_T_DOWN_BIAS, 0, 0, 36, 1, false},
        {"layers.1.attn.norm.weight", CL_T_ATTN_NORM, 1, 0, 36, 1, false},
        {"layers.1.attn.q.weight", CL_T_Q, 1, 0, 60, 36, true},
        {"layers.1.attn.k.weight", CL_T_K, 1, 0, 20, 36, true},
        {"layers.1.attn.v.weight", CL_T_V, 1, 0, 20, 36, true},
        {"layers.1.attn.o.weight", CL_T_O, 1, 0, 36, 60, true},
        {"layers.1.attn.q_norm.weight", CL_T_Q_NORM, 1, 0, 60, 1, false},
        {"layers.1.attn.k_norm.weight", CL_T_K_NORM, 1, 0, 20, 1, false},
        {"layers.1.ffn.norm.weight", CL_T_FFN_NORM, 1, 0, 36, 1, false},
        {"layers.1.ffn.router.weight", CL_T_ROUTER, 1, 0, 5, 36, false},
        {"layers.1.ffn.experts.gate.weight", CL_T_EXPERT_GATE, 1, 5, 9, 36, true},
        {"layers.1.ffn.experts.up.weight", CL_T_EXPERT_UP, 1, 5, 9, 36, true},
        {"layers.1.ffn.experts.down.weight", CL_T_EXPERT_DOWN, 1, 5, 36, 9, true},
        {"final_norm.weight", CL_T_FINAL_NORM, -1, 0, 36, 1, false},
        {"head.weight", CL_T_HEAD, -1, 0, 100, 36, true},
    };
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_Q4_0, &m, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(m.n_tensors, (int)(sizeof want / sizeof *want));
    for (int i = 0; i < m.n_tensors; i++) {
        const cl_tensor *t = &m.tensors[i];
        CU_ASSERT_STRING_EQUAL(t->name, want[i].name);
        CU_ASSERT_EQUAL(t->role, want[i].role);
        CU_ASSERT_EQUAL(t->layer, want[i].layer);
        CU_ASSERT_EQUAL(t->experts, want[i].experts);
        CU_ASSERT_EQUAL(t->rows, want[i].rows);
        CU_ASSERT_EQUAL(t->cols, want[i].cols);
        CU_ASSERT_EQUAL(t->format, want[i].matrix ? CL_Q4_0 : t->role == CL_T_ROUTER ? CL_BF16 : CL_F32);
        CU_ASSERT_EQUAL(cl_role_is_matrix(t->role), want[i].matrix);
        CU_ASSERT_EQUAL(t->xxh3, 0);
        CU_ASSERT_PTR_EQUAL(cl_model_find(&m, t->role, t->layer), t);
    }
    CU_ASSERT_PTR_NULL(cl_model_find(&m, CL_T_ROUTER, 0));
    CU_ASSERT_PTR_NULL(cl_model_find(&m, CL_T_Q, 2));
    CU_ASSERT_EQUAL(cl_tensor_bytes(cl_model_find(&m, CL_T_EXPERT_DOWN, 1)), 5 * 36 * 18);
    CU_ASSERT_TRUE(cl_model_quantised(&m));
    cl_model_free(&m);
    s.tied = true;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_F32, &m, &err), CL_OK);
    CU_ASSERT_PTR_NULL(cl_model_find(&m, CL_T_HEAD, -1));
    CU_ASSERT_FALSE(cl_model_quantised(&m));
    cl_model_free(&m);
    CU_ASSERT_EQUAL(test_model_of(&s, CL_Q4_K, &m, &err), CL_E_INPUT); /* not a format of model files */
    s.hidden = -1;
    CU_ASSERT_EQUAL(test_model_of(&s, CL_F32, &m, &err), CL_E_INPUT);
    cl_spec_free(&s);
}

static cl_model_counts count(test_geometry g, cl_format f)
{
    cl_err err = {0};
    cl_spec s = test_spec(g);
    cl_model m;
    cl_model_counts n;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, f, &m, &err), CL_OK);
    cl_model_count(&m, &n);
    cl_model_free(&m);
    cl_spec_free(&s);
    return n;
}

static void near(uint64_t got, double want)
{
    CU_ASSERT_TRUE(fabs((double)got / want - 1) < 0.005);
    if (!(fabs((double)got / want - 1) < 0.005))
        fprintf(stderr, "got %llu, want %.0f\n", (unsigned long long)got, want);
}

static void test_real_geometries(void)
{
    /* SmolLM2-135M: V h + L (h (q + 2 kv) + q h + 3 f h + 2 h) + h
     *             = 49152*576 + 30 (576*960 + 576*576 + 3*1536*576 + 1152) + 576 */
    cl_model_counts n = count(SMOLLM2_135M, CL_BF16);
    CU_ASSERT_EQUAL(n.parameters, 134515008);
    CU_ASSERT_EQUAL(n.active_parameters, 134515008);
    CU_ASSERT_EQUAL(n.active_without_tables, 134515008); /* one table, which is the head */
    CU_ASSERT_EQUAL(n.bytes[CL_F32], 61 * 576 * 4);
    CU_ASSERT_EQUAL(n.bytes[CL_BF16], (134515008 - 61 * 576) * 2);
    CU_ASSERT_EQUAL(n.kv_values * 2, 23040);
    n = count(SMOLLM2_135M, CL_Q8_0); /* 576 and 1536 are multiples of 32 */
    CU_ASSERT_EQUAL(n.bytes[CL_Q8_0], (134515008 - 61 * 576) / 32 * 34);

    n = count(QWEN3_30B_A3B, CL_BF16);
    CU_ASSERT_EQUAL(n.parameters, 30532122624);
    near(n.active_parameters, 3.353e9); /* 3.042e9 read, 0.311e9 embedding */
    CU_ASSERT_EQUAL(n.active_parameters - n.active_without_tables, (uint64_t)151936 * 2048);
    CU_ASSERT_EQUAL(n.kv_values * 2, 98304);

    n = count(MIXTRAL_8X7B, CL_BF16);
    CU_ASSERT_EQUAL(n.parameters, 46702792704);
    near(n.active_parameters, 12.88e9);
    CU_ASSERT_EQUAL(n.kv_values * 2, 131072);

    n = count(OLMOE_1B_7B, CL_BF16);
    CU_ASSERT_EQUAL(n.parameters, 6919161856);
    near(n.active_parameters, 1.282e9);
    CU_ASSERT_EQUAL(n.kv_values * 2, 131072);
}

/* More than half of the bytes, however little more. */
static void test_quantised(void)
{
    static const struct {
        int percent; /* of bytes in block formats */
        bool quantised;
    } cases[] = {{10, false}, {40, false}, {48, false}, {52, true}, {60, true}, {90, true}};
    const cl_formats f = {.tables = CL_BF16, .linear = CL_Q8_0, .experts = CL_Q8_0, .routers = CL_BF16};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_err err = {0};
        cl_model m;
        cl_model_counts n;
        const int layers = 34 * 2 * (4 * 64 + 3 * 64), floats = layers * (100 - cases[i].percent) / cases[i].percent;
        cl_spec s =
            test_spec((test_geometry){(floats - 4 * 3 * 64) / 256, 64, 1, 4, 4, 16, 64, 0, 0, false, CL_QK_NORM_NONE});
        CU_ASSERT_EQUAL_FATAL(cl_model_from_spec(&s, &f, &m, &err), CL_OK);
        cl_model_count(&m, &n);
        double all = (double)(n.bytes[CL_Q8_0] + n.bytes[CL_BF16] + n.bytes[CL_F32]);
        CU_ASSERT_DOUBLE_EQUAL(100 * (double)n.bytes[CL_Q8_0] / all, cases[i].percent, 0.8);
        CU_ASSERT_EQUAL(cl_model_quantised(&m), cases[i].quantised);
        cl_model_free(&m);
        cl_spec_free(&s);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"tensor list", test_tensor_list},
                           {"parameters and bytes of real models", test_real_geometries},
                           {"quantised", test_quantised},
                           CU_TEST_INFO_NULL};
    return run_suite("model", tests);
}
