/* DeepSeek's configurations: numbers of released models, what is refused, and the two dialects. */
#include <jansson.h>
#include <math.h>

#include "chipline/import.h"
#include "family.h"
#include "suite.h"

/* The hub's config.json of V3; `more` replaces members of it. */
static const char v3[] =
    "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\",\"vocab_size\":129280,\"hidden_"
    "size\":7168,"
    "\"intermediate_size\":18432,\"moe_intermediate_size\":2048,\"num_hidden_layers\":61,\"num_attention_heads\":128,"
    "\"num_key_value_heads\":128,\"n_shared_experts\":1,\"n_routed_experts\":256,\"routed_scaling_factor\":2.5,"
    "\"kv_lora_rank\":512,"
    "\"q_lora_rank\":1536,\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"qk_nope_head_dim\":128,\"topk_method\":\"noaux_"
    "tc\","
    "\"n_group\":8,\"topk_group\":4,\"num_experts_per_tok\":8,\"moe_layer_freq\":1,\"first_k_dense_replace\":3,"
    "\"norm_topk_prob\":true,\"scoring_func\":\"sigmoid\",\"num_nextn_predict_layers\":1,\"max_position_embeddings\":"
    "163840,"
    "\"rms_norm_eps\":1e-6,\"rope_theta\":10000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"beta_fast\":32,"
    "\"beta_slow\":1,\"mscale\":1.0,\"mscale_all_dim\":1.0,\"original_max_position_embeddings\":4096},"
    "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\","
    "\"weight_block_size\":[128,128]}}";

static const char v2_lite[] =
    "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"model_type\":\"deepseek_v2\",\"vocab_size\":102400,\"hidden_"
    "size\":2048,"
    "\"intermediate_size\":10944,\"moe_intermediate_size\":1408,\"num_hidden_layers\":27,\"num_attention_heads\":16,"
    "\"num_key_value_heads\":16,\"n_shared_experts\":2,\"n_routed_experts\":64,\"routed_scaling_factor\":1.0,"
    "\"kv_lora_rank\":512,"
    "\"q_lora_rank\":null,\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"qk_nope_head_dim\":128,\"topk_method\":"
    "\"greedy\","
    "\"n_group\":1,\"topk_group\":1,\"num_experts_per_tok\":6,\"first_k_dense_replace\":1,\"norm_topk_prob\":false,"
    "\"scoring_func\":\"softmax\",\"max_position_embeddings\":163840,\"rms_norm_eps\":1e-6,\"rope_theta\":10000,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"beta_fast\":32,\"beta_slow\":1,\"mscale\":0.707,"
    "\"mscale_all_dim\":0.707,"
    "\"original_max_position_embeddings\":4096}}";

static cl_code read(const char *base, const char *more, cl_spec *s, cl_err *err)
{
    json_t *config = json_loads(base, 0, NULL), *other = json_loads(more, 0, NULL);
    const cl_family *f;
    if (!config || !other || json_object_update(config, other) != 0) abort();
    cl_code c = cl_config_spec(config, NULL, s, &f, err);
    if (c == CL_OK) c = cl_spec_settle(s, err);
    json_decref(config);
    json_decref(other);
    return c;
}

static cl_spec good(const char *base, const char *more)
{
    cl_spec s;
    cl_err err;
    if (read(base, more, &s, &err) == CL_OK) return s;
    fprintf(stderr, "%s\n", err.msg);
    abort();
}

static void test_v3(void)
{
    cl_spec s = good(v3, "{}");
    const cl_layer *dense = &s.layers[2], *moe = &s.layers[3];
    const cl_attention *a = &moe->attn;
    const cl_ffn *f = &moe->ffn;
    CU_ASSERT_STRING_EQUAL(s.family, "deepseek_v3");
    CU_ASSERT(s.n_layers == 61 && dense->ffn.kind == CL_FFN_DENSE && dense->ffn.width == 18432 && !s.tied);
    CU_ASSERT(a->kind == CL_ATTN_LATENT && a->heads == 128 && a->kv_heads == 1 && a->head_dim == 192 &&
              a->rope_dim == 64);
    CU_ASSERT(a->q_rank == 1536 && a->kv_rank == 512 && a->v_dim == 128 && a->latent_eps == 1e-6 && a->rope == 0);
    CU_ASSERT_DOUBLE_EQUAL(a->scale, 0.13523378, 1e-8);
    CU_ASSERT(s.n_ropes == 1 && s.ropes[0].dims == 64 && s.ropes[0].pairing == CL_ROPE_INTERLEAVED &&
              s.ropes[0].scale == 1);
    CU_ASSERT(f->kind == CL_FFN_MOE && f->experts == 256 && f->top_k == 8 && f->width == 2048 &&
              f->shared_width == 2048);
    CU_ASSERT(f->scoring == CL_SCORE_SIGMOID && f->select_bias && f->renormalise && f->weight_scale == 2.5);
    CU_ASSERT(f->groups == 8 && f->top_groups == 4 && f->group_best == 2 && !f->router_bias && !f->weight_input);
    cl_spec_free(&s);
    /* The class's own defaults are V3's. */
    cl_spec t =
        good("{\"model_type\":\"deepseek_v3\",\"vocab_size\":129280,\"hidden_size\":7168,\"intermediate_size\":18432,"
             "\"num_hidden_layers\":61,\"num_attention_heads\":128,\"max_position_embeddings\":163840}",
             "{}");
    CU_ASSERT(t.layers[3].ffn.groups == 8 && t.layers[3].ffn.experts == 256 && t.layers[3].ffn.top_k == 8);
    CU_ASSERT(t.layers[2].ffn.kind == CL_FFN_DENSE && t.layers[0].attn.q_rank == 1536 &&
              t.layers[0].attn.head_dim == 192);
    CU_ASSERT_DOUBLE_EQUAL(t.layers[0].attn.scale, 1 / sqrt(192), 1e-15);
    cl_spec_free(&t);
    t = good(v3, "{\"rope_interleave\":false}");
    CU_ASSERT(t.ropes[0].pairing == CL_ROPE_HALF);
    cl_spec_free(&t);
}

static const char kimi[] =
    "{\"model_type\":\"kimi_k2\",\"rope_theta\":50000,\"n_routed_experts\":384,\"n_group\":1,\"topk_group\":1,"
    "\"routed_scaling_factor\":2.827,\"num_attention_heads\":64,\"num_key_value_heads\":64,\"first_k_dense_replace\":1,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":32,\"beta_fast\":1,\"beta_slow\":1,\"mscale\":1.0,\"mscale_all_"
    "dim\":1.0,"
    "\"original_max_position_embeddings\":4096}}";

/* The multimodal K2.5 holds a K2. */
static void test_nested(void)
{
    json_t *text = json_loads(v3, 0, NULL), *more = json_loads(kimi, 0, NULL);
    if (!text || !more || json_object_update(text, more) != 0) abort();
    json_t *config = json_pack("{s:s, s:[s], s:o, s:b}", "model_type", "kimi_k25", "architectures",
                               "KimiK25ForConditionalGeneration", "text_config", text, "tie_word_embeddings", 0);
    const cl_family *f;
    cl_spec s;
    cl_err err = {0};
    if (!config || cl_config_spec(config, NULL, &s, &f, &err) != CL_OK) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    CU_ASSERT(s.n_layers == 61 && s.layers[1].ffn.experts == 384 && s.layers[0].attn.heads == 64);
    CU_ASSERT_DOUBLE_EQUAL(s.layers[0].attn.scale, 0.13086080, 1e-8);
    cl_spec_free(&s);
    json_decref(config);
    json_decref(more);
}

static void test_others(void)
{
    cl_spec s = good(v3, kimi);
    CU_ASSERT_DOUBLE_EQUAL(s.layers[0].attn.scale, 0.13086080, 1e-8);
    CU_ASSERT(s.layers[1].ffn.kind == CL_FFN_MOE && s.layers[1].ffn.groups == 0 && s.layers[1].ffn.group_best == 0);
    cl_spec_free(&s);
    s = good(v2_lite, "{}");
    CU_ASSERT_DOUBLE_EQUAL(s.layers[0].attn.scale, 0.11472139, 1e-8);
    const cl_ffn *f = &s.layers[1].ffn;
    CU_ASSERT(s.layers[0].attn.q_rank == 0 && f->scoring == CL_SCORE_SOFTMAX && !f->select_bias && !f->renormalise);
    CU_ASSERT(f->shared_width == 2816 && f->groups == 0 && f->top_k == 6);
    cl_spec_free(&s);
    s = good(v2_lite,
             "{\"topk_method\":\"group_limited_greedy\",\"n_group\":8,\"topk_group\":3,\"routed_scaling_factor\":16}");
    f = &s.layers[1].ffn;
    CU_ASSERT(f->groups == 8 && f->top_groups == 3 && f->group_best == 1 && f->weight_scale == 16);
    cl_spec_free(&s);
    s = good(v2_lite, "{\"n_group\":8,\"topk_group\":3}"); /* greedy does not look at groups */
    CU_ASSERT(s.layers[1].ffn.groups == 0);
    cl_spec_free(&s);
}

static void test_refused(void)
{
    static const struct {
        const char *base, *more, *part;
    } cases[] = {
        {v3, "{\"n_routed_experts\":0}", "n_routed_experts: is 0"},
        {v3, "{\"num_experts_per_tok\":257}", "num_experts_per_tok: 257 is more than the 256 experts"},
        {v3, "{\"num_experts_per_tok\":33,\"topk_group\":1}", "n_group: 8 groups of 32 experts are too small"},
        {v3, "{\"n_group\":7}", "n_group: 7 does not divide n_routed_experts, 256"},
        {v3, "{\"topk_group\":9}", "topk_group: is 9"},
        {v3, "{\"n_group\":256}", "n_group: 256 groups of 1 experts are too small"},
        {v3, "{\"topk_method\":\"greedy\"}", "topk_method: greedy is not supported (only noaux_tc)"},
        {v3, "{\"scoring_func\":\"softmax\"}", "scoring_func: softmax is not supported (only sigmoid)"},
        {v2_lite, "{\"scoring_func\":\"sigmoid\"}", "scoring_func: sigmoid is not supported (only softmax)"},
        {v2_lite, "{\"topk_method\":\"noaux_tc\"}",
         "topk_method: noaux_tc is not supported (known: greedy, group_limited_greedy)"},
        {v2_lite, "{\"norm_topk_prob\":true}", "norm_topk_prob: true is not supported"},
        {v2_lite, "{\"num_experts_per_tok\":null}", "num_experts_per_tok: missing"},
        {v3, "{\"routed_scaling_factor\":-1}", "routed_scaling_factor"},
        {v3, "{\"qk_rope_head_dim\":63}", "qk_rope_head_dim: is 63, must be even"},
        {v3, "{\"qk_rope_head_dim\":0}", "qk_rope_head_dim: is 0"},
        {v3, "{\"kv_lora_rank\":0}", "kv_lora_rank: is 0"},
        {v3, "{\"q_lora_rank\":-5}", "q_lora_rank: is -5"},
        {v3, "{\"v_head_dim\":\"x\"}", "v_head_dim"},
        {v3, "{\"attention_bias\":true}", "attention_bias: true is not supported"},
        {v3, "{\"num_key_value_heads\":8}", "num_key_value_heads: 8 is not supported"},
        {v3, "{\"moe_layer_freq\":2}", "moe_layer_freq: 2 is not supported (only 1)"},
        {v3, "{\"first_k_dense_replace\":-1}", "first_k_dense_replace: is -1"},
        {v3, "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":0}}", "rope_scaling: factor: is 0"},
        {v3, "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]}}",
         "weight_block_size of [128, 128]"},
        {v3, "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,64]}}",
         "weight_block_size of [128, 128]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_spec s;
        cl_err err = {0};
        CU_ASSERT_EQUAL(read(cases[i].base, cases[i].more, &s, &err), CL_E_INPUT);
        bool there = strstr(err.msg, cases[i].part) != NULL;
        if (!there) fprintf(stderr, "%s: message is: %s\n", cases[i].more, err.msg);
        CU_ASSERT(there);
    }
}

/* The hub's config.json and transformers 5's say the same. */
static void test_dialects(void)
{
    static const char *const names[] = {"deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v3_b", "kimi_k2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cl_spec s[2];
        json_t *j[2];
        for (int k = 0; k < 2; k++) {
            char path[512];
            cl_formats f;
            cl_err err;
            snprintf(path, sizeof path, CL_FIXTURES "/%s/%s", names[i], k ? "config_hub.json" : "config.json");
            if (cl_import_config(path, &s[k], &f, &err) != CL_OK || cl_spec_to_json(&s[k], &j[k], &err) != CL_OK) {
                fprintf(stderr, "%s\n", err.msg);
                abort();
            }
        }
        CU_ASSERT(json_equal(j[0], j[1]));
        for (int k = 0; k < 2; k++) {
            json_decref(j[k]);
            cl_spec_free(&s[k]);
        }
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"V3", test_v3},
                           {"Kimi K2 and V2", test_others},
                           {"K2.5", test_nested},
                           {"what is refused", test_refused},
                           {"two dialects", test_dialects},
                           CU_TEST_INFO_NULL};
    return run_suite("deepseek", tests);
}
