/* The newer families: what their configurations and GGUF metadata mean, what is refused, and that both say the same
 * of a model.
 */
#include <math.h>
#include <string.h>

#include "chipline/import.h"
#include "configs.h"
#include "family.h"
#include "files.h"
#include "suite.h"

/* --- config.json --- */

static void test_gpt_oss(void)
{
    cl_spec s = made("gpt_oss", "");
    const cl_attention *a = s.layers[0].attn.window ? &s.layers[0].attn : NULL;
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT(a->window == 128 && !a->chunked && a->sinks && a->qkv_bias && a->o_bias && a->head_dim == 64 &&
              a->rope == 0);
    CU_ASSERT(a->scale == 0.125 && a->qk_norm == CL_QK_NORM_NONE && a->temperature == 0 && a->kind == CL_ATTN_GROUPED);
    CU_ASSERT(s.layers[1].attn.window == 0 && s.layers[2].attn.window == 128 && s.layers[3].attn.window == 0 &&
              s.layers[3].attn.sinks);
    const cl_ffn *f = &s.layers[1].ffn;
    CU_ASSERT(f->kind == CL_FFN_MOE && f->width == 48 && f->bias && f->glu == CL_GLU_CLAMPED && f->glu_limit == 7 &&
              f->glu_alpha == 1.702);
    CU_ASSERT(f->experts == 128 && f->top_k == 4 && f->scoring == CL_SCORE_CHOSEN_SOFTMAX && f->router_bias &&
              !f->select_bias);
    CU_ASSERT(!f->renormalise && f->weight_scale == 1 && !f->weight_input && f->shared_width == 0 && f->groups == 0);
    /* the class's own yarn: base 150000, ramp ends not rounded */
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].scale, 1.3465736, 1e-7);
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[9] / 0.0317056962, 1, 1e-8);
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[31] / 3.02351143e-07, 1, 1e-8);
    cl_spec_free(&s);

    s = made(
        "gpt_oss",
        "\"num_local_experts\":6,\"num_experts_per_tok\":3,\"swiglu_limit\":5,\"swiglu_alpha\":2,\"sliding_window\":9,"
        "\"attention_bias\":false,\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\","
        "\"full_attention\"],\"rope_theta\":1000,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,"
        "\"original_max_position_embeddings\":64},\"architectures\":[\"GptOssForCausalLM\"]");
    CU_ASSERT(s.layers[0].attn.window == 0 && s.layers[2].attn.window == 9 && !s.layers[0].attn.qkv_bias &&
              !s.layers[0].attn.o_bias);
    CU_ASSERT(s.layers[0].ffn.glu_limit == 5 && s.layers[0].ffn.glu_alpha == 2 && s.layers[0].ffn.top_k == 3);
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].scale, 0.1 * log(8) + 1, 1e-12);
    cl_spec_free(&s);
}

static void test_llama4(void)
{
    cl_spec s = made("llama4_text", "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":16,\"low_freq_factor\":1,"
                                    "\"high_freq_factor\":1,\"original_max_position_embeddings\":8192}");
    CU_ASSERT_STRING_EQUAL(s.family, "llama4");
    for (int i = 0; i < 4; i++) {
        const cl_attention *a = &s.layers[i].attn;
        bool encoded = i != 3;
        CU_ASSERT(a->window == (encoded ? 8192 : 0) && a->chunked == encoded && a->rope == (encoded ? 0 : -1));
        CU_ASSERT(a->qk_norm == (encoded ? CL_QK_NORM_UNIT : CL_QK_NORM_NONE) && a->temperature == (encoded ? 0 : 0.1));
        CU_ASSERT(a->temperature_floor == (encoded ? 0 : 8192) && a->head_dim == 128 && !a->qkv_bias && !a->sinks);
    }
    const cl_ffn *f = &s.layers[0].ffn;
    CU_ASSERT(f->kind == CL_FFN_MOE && f->experts == 16 && f->top_k == 1 && f->width == 48 && f->shared_width == 48 &&
              f->weight_input);
    CU_ASSERT(f->scoring == CL_SCORE_SIGMOID && !f->renormalise && f->weight_scale == 1 && !f->bias &&
              f->glu == CL_GLU_SILU);
    /* no ramp: wave lengths over 8192 positions are divided by 16 */
    CU_ASSERT_EQUAL(s.ropes[0].pairing, CL_ROPE_INTERLEAVED);
    for (int i = 0; i < 64; i++)
        CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[i] / pow(500000, -i / 64.0) * (i < 35 ? 1 : 16), 1, 1e-12);
    cl_spec_free(&s);

    s = made("llama4_text",
             "\"interleave_moe_layer_step\":2,\"intermediate_size_mlp\":70,\"use_qk_norm\":false,\"attn_scale\":0.3,"
             "\"floor_scale\":5,\"attention_chunk_size\":11,\"no_rope_layers\":[0,1,1,0],\"num_experts_per_tok\":2");
    CU_ASSERT(s.layers[0].ffn.kind == CL_FFN_DENSE && s.layers[0].ffn.width == 70 && s.layers[0].ffn.weight_scale == 0);
    CU_ASSERT(s.layers[1].ffn.kind == CL_FFN_MOE && s.layers[2].ffn.kind == CL_FFN_DENSE && s.layers[3].ffn.top_k == 2);
    CU_ASSERT(s.layers[0].attn.rope == -1 && s.layers[0].attn.window == 0 && s.layers[0].attn.temperature == 0.3 &&
              s.layers[0].attn.temperature_floor == 5);
    CU_ASSERT(s.layers[1].attn.rope == 0 && s.layers[1].attn.window == 11 &&
              s.layers[1].attn.qk_norm == CL_QK_NORM_NONE);
    cl_spec_free(&s);

    s = made("llama4_text",
             "\"moe_layers\":[2],\"attn_temperature_tuning\":false,\"attention_chunk_size\":null,\"no_rope_layers\":[],"
             "\"no_rope_layer_interval\":2,\"attention_bias\":true");
    CU_ASSERT(s.layers[1].ffn.kind == CL_FFN_DENSE && s.layers[1].ffn.width == 16384 &&
              s.layers[2].ffn.kind == CL_FFN_MOE);
    CU_ASSERT(s.layers[0].attn.rope == 0 && s.layers[1].attn.rope == -1 && s.layers[1].attn.temperature == 0);
    CU_ASSERT(s.layers[0].attn.window == 0 && !s.layers[0].attn.chunked && s.layers[0].attn.qkv_bias &&
              s.layers[0].attn.o_bias);
    cl_spec_free(&s);
    s = made("llama4_text", "\"attn_temperature_tuning\":4"); /* as older configurations have it */
    CU_ASSERT_EQUAL(s.layers[3].attn.temperature, 0.1);
    cl_spec_free(&s);

    /* the language model of a multimodal one: its own numbers count, and its ids */
    s = made(
        "llama4",
        "\"hidden_size\":8,\"architectures\":[\"Llama4ForConditionalGeneration\"],\"eos_token_id\":9,\"text_config\":{"
        "\"model_type\":\"llama4_text\",\"vocab_size\":50,\"hidden_size\":32,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":1,\"intermediate_size\":6,\"max_position_embeddings\":64,"
        "\"eos_token_id\":[3,4]},\"vision_config\":{\"hidden_size\":7}");
    CU_ASSERT(s.hidden == 32 && s.vocab == 50 && s.n_layers == 2 && s.n_eos == 2 && s.eos[0] == 3 &&
              s.layers[0].attn.kv_heads == 1);
    cl_spec_free(&s);
    s = made("llama4",
             "\"eos_token_id\":9,\"tie_word_embeddings\":true,\"text_config\":{\"vocab_size\":50,\"hidden_size\":32,"
             "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":1,\"intermediate_size\":6,"
             "\"max_position_embeddings\":64}");
    CU_ASSERT(s.n_eos == 1 && s.eos[0] == 9 && s.tied); /* inside it says neither */
    cl_spec_free(&s);
}

/* A latent family inside a multimodal model (Kimi K2.5): the outer type and class are its alternatives. */
static void test_wrapped_latent(void)
{
    cl_spec s =
        made("kimi_k25",
             "\"architectures\":[\"KimiK25ForConditionalGeneration\"],\"text_config\":{\"model_type\":\"kimi_k2\","
             "\"architectures\":[\"DeepseekV3ForCausalLM\"],\"vocab_size\":50,\"hidden_size\":30,"
             "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"intermediate_size\":6,"
             "\"max_position_embeddings\":64,\"n_group\":1,\"rms_norm_eps\":1e-5}");
    CU_ASSERT_STRING_EQUAL(s.family, "deepseek_v3");
    CU_ASSERT(s.hidden == 30 && s.layers[0].attn.kind == CL_ATTN_LATENT && s.norm_eps == 1e-5);
    CU_ASSERT_EQUAL(s.layers[0].attn.latent_eps, 1e-6);
    CU_ASSERT(s.layers[2].ffn.kind == CL_FFN_DENSE && s.layers[3].ffn.kind == CL_FFN_MOE &&
              s.layers[3].ffn.groups == 0);
    cl_spec_free(&s);
}

static void test_glm4_moe(void)
{
    cl_spec s = made("glm4_moe", "\"head_dim\":24,\"rope_theta\":1e6,\"num_nextn_predict_layers\":1");
    const cl_attention *a = &s.layers[0].attn;
    CU_ASSERT(s.ropes[0].dims == 12 && s.ropes[0].pairing == CL_ROPE_HALF && a->head_dim == 24 &&
              a->qk_norm == CL_QK_NORM_NONE);
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[1], pow(1e6, -2.0 / 12), 1e-15);
    CU_ASSERT(s.n_layers == 4 && s.layers[0].ffn.kind == CL_FFN_DENSE && s.layers[0].ffn.width == 48 && !a->qkv_bias &&
              !a->o_bias);
    const cl_ffn *f = &s.layers[1].ffn;
    CU_ASSERT(f->kind == CL_FFN_MOE && f->experts == 128 && f->top_k == 8 && f->width == 1408 &&
              f->shared_width == 1408);
    CU_ASSERT(f->scoring == CL_SCORE_SIGMOID && f->select_bias && f->renormalise && f->weight_scale == 1 &&
              f->groups == 0 && f->top_groups == 0 && f->group_best == 0 && !f->router_bias && !f->weight_input);
    cl_spec_free(&s);
    s = made(
        "glm4_moe",
        "\"use_qk_norm\":true,\"attention_bias\":true,\"partial_rotary_factor\":0.25,\"n_routed_experts\":12,"
        "\"num_experts_per_tok\":3,\"n_group\":4,\"topk_group\":2,\"n_shared_experts\":2,\"moe_intermediate_size\":5,"
        "\"first_k_dense_replace\":3,\"routed_scaling_factor\":1.5,\"norm_topk_prob\":false");
    CU_ASSERT(s.ropes[0].dims == 4 && s.layers[0].attn.qk_norm == CL_QK_NORM_HEAD && s.layers[0].attn.qkv_bias &&
              !s.layers[0].attn.o_bias);
    f = &s.layers[3].ffn;
    CU_ASSERT(s.layers[2].ffn.kind == CL_FFN_DENSE && f->experts == 12 && f->groups == 4 && f->top_groups == 2 &&
              f->group_best == 2);
    CU_ASSERT(f->shared_width == 10 && f->width == 5 && f->weight_scale == 1.5 && !f->renormalise);
    cl_spec_free(&s);
    s = made("glm4_moe",
             "\"n_shared_experts\":null,\"first_k_dense_replace\":0,\"rope_parameters\":{\"rope_type\":\"default\","
             "\"rope_theta\":100,\"partial_rotary_factor\":1.0}");
    CU_ASSERT(s.layers[0].ffn.kind == CL_FFN_MOE && s.layers[0].ffn.shared_width == 0 && s.ropes[0].dims == 16);
    cl_spec_free(&s);
}

static void test_minimax_m2(void)
{
    cl_spec s = made("minimax_m2",
                     "\"rotary_dim\":6,\"head_dim\":14,\"use_routing_bias\":true,\"scoring_func\":\"sigmoid\","
                     "\"attn_type_list\":[1,1,1,1],\"shared_intermediate_size\":0");
    const cl_ffn *f = &s.layers[0].ffn;
    CU_ASSERT(s.ropes[0].dims == 6 && s.layers[0].attn.qk_norm == CL_QK_NORM_FULL && s.layers[0].attn.head_dim == 14);
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[1], pow(5e6, -2.0 / 6), 1e-15);
    CU_ASSERT(f->kind == CL_FFN_MOE && f->experts == 256 && f->top_k == 8 && f->width == 48 &&
              f->scoring == CL_SCORE_SIGMOID);
    CU_ASSERT(f->select_bias && f->renormalise && f->weight_scale == 1 && f->shared_width == 0 && f->groups == 0 &&
              !f->bias);
    cl_spec_free(&s);
    s = made("minimax_m2",
             "\"num_local_experts\":6,\"num_experts_per_tok\":2,\"rotary_dim\":6,\"rope_parameters\":{\"rope_type\":"
             "\"default\",\"rope_theta\":5000000,\"partial_rotary_factor\":0.5}");
    CU_ASSERT(s.ropes[0].dims == 64 && s.layers[0].attn.head_dim == 128 &&
              s.layers[0].ffn.experts == 6); /* what is inside counts more */
    cl_spec_free(&s);
    s = made("minimax_m2", "");
    CU_ASSERT_EQUAL(s.ropes[0].dims, 128);
    cl_spec_free(&s);
}

static void test_refused(void)
{
    static const refused cases[] = {
        {"gpt_oss", "\"architectures\":[\"GptOssForSequenceClassification\"]", "must be GptOssForCausalLM"},
        {"gpt_oss", "\"num_local_experts\":0", "num_local_experts: is 0"},
        {"gpt_oss", "\"num_local_experts\":2,\"num_experts_per_tok\":3",
         "num_experts_per_tok: 3 is more than the 2 experts"},
        {"gpt_oss", "\"num_experts_per_tok\":0", "num_experts_per_tok: is 0"},
        {"gpt_oss", "\"sliding_window\":0", "sliding_window: is 0"},
        {"gpt_oss", "\"sliding_window\":-5", "sliding_window: is -5"},
        {"gpt_oss", "\"layer_types\":[\"full_attention\"]", "layer_types: has 1 entries, num_hidden_layers is 4"},
        {"gpt_oss", "\"layer_types\":[1,2,3,4]", "layer_types: what is not a text"},
        {"gpt_oss",
         "\"sliding_window\":null,\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
         "\"sliding_attention\"]",
         "layer_types: layer 3 is sliding_attention"},
        {"gpt_oss", "\"swiglu_limit\":0", "swiglu_limit"},
        {"gpt_oss", "\"swiglu_alpha\":-1", "swiglu_alpha"},
        {"gpt_oss", "\"num_key_value_heads\":3", "num_attention_heads: 4 is not a multiple"},
        {"gpt_oss", "\"hidden_act\":\"relu\"", "hidden_act: relu"},
        {"gpt_oss", "\"rope_scaling\":{\"rope_type\":\"ntk\"}", "rope_type: ntk is not supported"},
        {"llama4_text", "\"attention_chunk_size\":0", "attention_chunk_size: is 0"},
        {"llama4_text", "\"no_rope_layers\":[1,1]", "no_rope_layers: has 2 entries, num_hidden_layers is 4"},
        {"llama4_text", "\"no_rope_layers\":[1,1,2,0]", "no_rope_layers: entry 2 is neither"},
        {"llama4_text", "\"no_rope_layer_interval\":0", "no_rope_layer_interval: is 0"},
        {"llama4_text", "\"moe_layers\":[4]", "moe_layers: entry 0 is not a layer"},
        {"llama4_text", "\"moe_layers\":[0,-1]", "moe_layers: entry 1 is not a layer"},
        {"llama4_text", "\"interleave_moe_layer_step\":0", "interleave_moe_layer_step: is 0"},
        {"llama4_text", "\"intermediate_size_mlp\":-3", "intermediate_size_mlp: is -3"},
        {"llama4_text", "\"floor_scale\":0", "floor_scale: is 0"},
        {"llama4_text", "\"attn_temperature_tuning\":\"yes\"", "attn_temperature_tuning: is a text"},
        {"llama4_text",
         "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\",\"full_attention\"]",
         "layer_types: sliding_attention is not supported (known: full_attention, chunked_attention)"},
        {"llama4", "\"text_config\":{\"model_type\":\"qwen2\"}", "model_type: llama4 is not a known family"},
        {"llava", "\"text_config\":{\"model_type\":\"llama\"}", "model_type: llava is not a known family"},
        {"llama4", "\"architectures\":[\"LlavaForConditionalGeneration\"],\"text_config\":{}",
         "architectures: is LlavaFor"},
        {"llama4", "\"text_config\":{\"model_type\":\"llama4_text\"}", "vocab_size: missing"},
        {"glm4_moe", "\"n_routed_experts\":0", "n_routed_experts: is 0"},
        {"glm4_moe", "\"n_routed_experts\":4,\"num_experts_per_tok\":5",
         "num_experts_per_tok: 5 is more than the 4 experts"},
        {"glm4_moe", "\"n_routed_experts\":10,\"num_experts_per_tok\":2,\"n_group\":4",
         "n_group: 4 does not divide n_routed_experts, 10"},
        {"glm4_moe", "\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"n_group\":4,\"topk_group\":5",
         "topk_group: is 5"},
        {"glm4_moe", "\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"n_group\":8,\"topk_group\":4",
         "n_group: 8 groups of 1 experts"},
        {"glm4_moe", "\"n_routed_experts\":8,\"num_experts_per_tok\":3,\"n_group\":4,\"topk_group\":1",
         "n_group: 4 groups of 2 experts"},
        {"glm4_moe", "\"n_shared_experts\":-1", "n_shared_experts: is -1"},
        {"glm4_moe", "\"moe_intermediate_size\":0", "moe_intermediate_size: is 0"},
        {"glm4_moe", "\"first_k_dense_replace\":-1", "first_k_dense_replace: is -1"},
        {"glm4_moe", "\"routed_scaling_factor\":0", "routed_scaling_factor: is 0"},
        {"glm4_moe", "\"partial_rotary_factor\":0.2", "partial_rotary_factor: 0.2 rotates 3 of the 16"},
        {"glm4_moe", "\"partial_rotary_factor\":1.5", "partial_rotary_factor: is 1.5"},
        {"glm4_moe", "\"rope_parameters\":{\"partial_rotary_factor\":-1}",
         "rope_parameters: partial_rotary_factor: is -1"},
        {"minimax_m2", "\"rotary_dim\":0", "rotary_dim: is 0"},
        {"minimax_m2", "\"rotary_dim\":200", "rotary_dim: is 200"},
        {"minimax_m2", "\"rotary_dim\":7,\"head_dim\":14", "rotates 7 of the 14"},
        {"minimax_m2", "\"scoring_func\":\"softmax\"", "scoring_func: softmax"},
        {"minimax_m2", "\"use_qk_norm\":false", "use_qk_norm: false"},
        {"minimax_m2", "\"qk_norm_type\":\"per_head\"", "qk_norm_type: per_head"},
        {"minimax_m2", "\"use_routing_bias\":false", "use_routing_bias: false"},
        {"minimax_m2", "\"attn_type_list\":[1,0,1,1]", "attn_type_list: entry 1"},
        {"minimax_m2", "\"shared_intermediate_size\":8", "shared_intermediate_size: 8"},
    };
    all_refused(cases, sizeof cases / sizeof *cases);
}

/* --- GGUF --- */

static cl_code metadata_of(const char *path, cl_spec *s, cl_err *err)
{
    cl_gguf *g;
    const cl_family *f;
    cl_code c = cl_gguf_open(&g, path, err);
    if (c != CL_OK) return c;
    c = cl_metadata_spec(g, s, &f, err);
    if (c == CL_OK && s->vocab == 0) s->vocab = 1000;
    if (c == CL_OK && (c = cl_spec_settle(s, err)) != CL_OK) cl_spec_free(s);
    cl_gguf_close(g);
    return c;
}

static cl_code written(gguf_file *g, cl_spec *s, cl_err *err)
{
    folder f = folder_new();
    place p = in(&f, "m.gguf");
    g_write(g, p.path);
    cl_code c = metadata_of(p.path, s, err);
    folder_remove(&f);
    return c;
}

/* Equal but for the float32 numbers of one side. */
static bool alike(const json_t *a, const json_t *b, const char *where)
{
    const char *key;
    json_t *v;
    bool same = json_typeof(a) == json_typeof(b);
    if (json_is_number(a) && json_is_number(b)) {
        double x = json_number_value(a), y = json_number_value(b);
        same = fabs(x - y) <= 1e-6 * fabs(x);
    } else if (same && json_is_object(a)) {
        same = json_object_size(a) == json_object_size(b);
        json_object_foreach((json_t *)a, key, v)
        {
            const json_t *w = json_object_get(b, key);
            same = w && alike(v, w, key) && same;
        }
    } else if (same && json_is_array(a)) {
        same = json_array_size(a) == json_array_size(b);
        for (size_t i = 0; same && i < json_array_size(a); i++)
            same = alike(json_array_get(a, i), json_array_get(b, i), where);
    } else if (same) {
        same = json_equal((json_t *)a, (json_t *)b) == 1;
    }
    if (!same) fprintf(stderr, "differs: %s\n", where);
    return same;
}

static void test_gguf_fixtures(void)
{
    static const struct {
        const char *name, *file;
    } pairs[] = {{"gpt_oss", "model.gguf"},
                 {"gpt_oss_mxfp4", "model.gguf"},
                 {"llama4_c", "model.gguf"},
                 {"deepseek_v2_lite", "model.gguf"},
                 {"deepseek_v2_lite", "model_new.gguf"},
                 {"deepseek_v3", "model.gguf"},
                 {"deepseek_v3", "model_old.gguf"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char path[512];
        cl_spec ours, theirs;
        cl_formats formats;
        cl_err err = {0};
        json_t *a, *b;
        snprintf(path, sizeof path, CL_FIXTURES "/%s/config.json", pairs[i].name);
        CU_ASSERT_EQUAL_FATAL(cl_import_config(path, &ours, &formats, &err), CL_OK);
        snprintf(path, sizeof path, CL_FIXTURES "/%s/%s", pairs[i].name, pairs[i].file);
        cl_code c = metadata_of(path, &theirs, &err);
        if (c != CL_OK) fprintf(stderr, "%s: %s\n", path, err.msg);
        CU_ASSERT_EQUAL_FATAL(c, CL_OK);
        theirs.vocab = ours.vocab;
        CU_ASSERT(cl_spec_to_json(&ours, &a, &err) == CL_OK && cl_spec_to_json(&theirs, &b, &err) == CL_OK);
        for (int k = 0; k < 2; k++) { /* ids are the tokenizer's, which these files do not have */
            json_object_del(k ? a : b, "bos_id");
            json_object_del(k ? a : b, "eos_ids");
        }
        CU_ASSERT(alike(a, b, path));
        json_decref(a);
        json_decref(b);
        cl_spec_free(&ours);
        cl_spec_free(&theirs);
    }
}

enum { HIDDEN = 16 };

static void keys(gguf_file *g, const char *arch, int layers, int experts)
{
    static const struct {
        const char *key;
        uint32_t v;
    } all[] = {{"embedding_length", HIDDEN}, {"context_length", 64},
               {"attention.head_count", 4},  {"attention.head_count_kv", 2},
               {"attention.key_length", 8},  {"attention.value_length", 8},
               {"feed_forward_length", 24},  {"expert_feed_forward_length", 6},
               {"expert_used_count", 2}};
    char k[96];
    g_kv_str(g, "general.architecture", arch);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        snprintf(k, sizeof k, "%s.%s", arch, all[i].key);
        g_kv_u32(g, k, all[i].v);
    }
    snprintf(k, sizeof k, "%s.block_count", arch);
    g_kv_u32(g, k, (uint32_t)layers);
    snprintf(k, sizeof k, "%s.expert_count", arch);
    g_kv_u32(g, k, (uint32_t)experts);
    snprintf(k, sizeof k, "%s.attention.layer_norm_rms_epsilon", arch);
    g_kv_f32(g, k, 1e-5f);
    g_made(g, "output.weight", CL_F32, 0, 40, HIDDEN);
}

static void test_gguf_made(void)
{
    gguf_file g = {0};
    cl_spec s;
    cl_err err = {0};
    keys(&g, "glm4moe", 4, 8);
    g_kv_u32(&g, "glm4moe.nextn_predict_layers", 1);
    g_kv_u32(&g, "glm4moe.rope.dimension_count", 4);
    g_kv_u32(&g, "glm4moe.expert_shared_count", 2);
    g_kv_u32(&g, "glm4moe.expert_gating_func", 2);
    g_kv_u32(&g, "glm4moe.expert_group_count", 2);
    g_kv_u32(&g, "glm4moe.expert_group_used_count", 1);
    g_kv_f32(&g, "glm4moe.expert_weights_scale", 1.5f);
    g_kv_bool(&g, "glm4moe.expert_weights_norm", true);
    g_made(&g, "blk.0.ffn_gate.weight", CL_F32, 0, 24, HIDDEN);
    g_made(&g, "blk.0.attn_q_norm.weight", CL_F32, 0, 8, 0);
    CU_ASSERT_EQUAL_FATAL(written(&g, &s, &err), CL_OK);
    const cl_ffn *f = &s.layers[1].ffn;
    CU_ASSERT_STRING_EQUAL(s.family, "glm4_moe");
    CU_ASSERT(s.n_layers == 3 && !s.tied && s.layers[0].ffn.kind == CL_FFN_DENSE && s.layers[0].ffn.width == 24 &&
              s.ropes[0].dims == 4);
    CU_ASSERT(s.layers[2].attn.qk_norm == CL_QK_NORM_HEAD && s.layers[2].attn.head_dim == 8 &&
              s.ropes[0].pairing == CL_ROPE_HALF);
    CU_ASSERT(f->kind == CL_FFN_MOE && f->shared_width == 12 && f->groups == 2 && f->top_groups == 1 &&
              f->group_best == 2);
    CU_ASSERT(f->scoring == CL_SCORE_SIGMOID && f->select_bias && f->weight_scale == 1.5 && f->renormalise &&
              f->width == 6);
    cl_spec_free(&s);

    keys(&g, "minimax-m2", 2, 4);
    g_kv_u32(&g, "minimax-m2.rope.dimension_count", 6);
    g_kv_u32(&g, "minimax-m2.expert_gating_func", 2);
    CU_ASSERT_EQUAL_FATAL(written(&g, &s, &err), CL_OK);
    f = &s.layers[0].ffn;
    CU_ASSERT(s.ropes[0].dims == 6 && s.layers[0].attn.qk_norm == CL_QK_NORM_FULL && f->scoring == CL_SCORE_SIGMOID &&
              f->select_bias && f->renormalise && f->weight_scale == 1 && f->shared_width == 0 && f->experts == 4);
    cl_spec_free(&s);

    /* what newer files of these architectures say counts; 128 experts mean no norm */
    const uint8_t narrow[4] = {1, 0, 0, 1};
    keys(&g, "llama4", 4, 128);
    g_kv_u32(&g, "llama4.attention.sliding_window", 32);
    g_kv_f32(&g, "llama4.attention.temperature_scale", 0.25f);
    g_kv_u32(&g, "llama4.attention.temperature_length", 16);
    g_kv_array(&g, "llama4.attention.sliding_window_pattern", CL_GGUF_BOOL, 4, narrow, sizeof narrow);
    g_made(&g, "blk.1.ffn_gate_shexp.weight", CL_F32, 0, 10, HIDDEN);
    CU_ASSERT_EQUAL_FATAL(written(&g, &s, &err), CL_OK);
    CU_ASSERT(s.layers[0].attn.window == 32 && s.layers[0].attn.chunked && s.layers[0].attn.qk_norm == CL_QK_NORM_NONE);
    CU_ASSERT(s.layers[1].attn.rope == -1 && s.layers[1].attn.temperature == 0.25 &&
              s.layers[1].attn.temperature_floor == 16);
    CU_ASSERT(s.layers[2].attn.window == 0 && s.layers[3].attn.window == 32 && s.layers[3].attn.rope == 0);
    CU_ASSERT(s.layers[1].ffn.shared_width == 10 && s.layers[1].ffn.weight_input && s.layers[0].ffn.shared_width == 0);
    cl_spec_free(&s);

    keys(&g, "gpt-oss", 4, 4);
    g_kv_u32(&g, "gpt-oss.attention.sliding_window", 6);
    CU_ASSERT_EQUAL_FATAL(written(&g, &s, &err), CL_OK);
    CU_ASSERT(s.layers[0].attn.window == 6 && s.layers[1].attn.window == 0 && s.layers[2].attn.window == 6 &&
              s.layers[0].attn.sinks && s.layers[0].attn.qkv_bias && s.layers[0].attn.o_bias && s.layers[0].ffn.bias &&
              s.layers[0].ffn.router_bias);
    cl_spec_free(&s);
}

static void gguf_refused(gguf_file *g, const char *part)
{
    cl_spec s;
    cl_err err = {0};
    CU_ASSERT_EQUAL(written(g, &s, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, part));
}

static void test_gguf_refused(void)
{
    static const struct {
        const char *key;
        uint32_t v;
        const char *part;
    } cases[] = {
        {"nextn_predict_layers", 3, "glm4moe.nextn_predict_layers: is 3"},
        {"rope.dimension_count", 5, "glm4moe.rope.dimension_count: 5 of the 8"},
        {"rope.dimension_count", 10, "glm4moe.rope.dimension_count: 10 of the 8"},
        {"expert_gating_func", 4, "glm4moe.expert_gating_func: 4 is not supported"},
        {"expert_group_count", 3, "glm4moe.expert_group_count: 3 does not divide glm4moe.expert_count, 8"},
        {"expert_group_count", 2, "glm4moe.expert_group_used_count: missing"},
        {"expert_shared_count", 100000000, "glm4moe.expert_shared_count: is 100000000"},
        {"rope.scaling.yarn_log_multiplier", 1, "glm4moe.rope.scaling.yarn_log_multiplier"},
    };
    gguf_file g = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char k[96];
        keys(&g, "glm4moe", 3, 8);
        snprintf(k, sizeof k, "glm4moe.%s", cases[i].key);
        g_kv_u32(&g, k, cases[i].v);
        gguf_refused(&g, cases[i].part);
    }
    keys(&g, "gpt-oss", 2, 4);
    gguf_refused(&g, "gpt-oss.attention.sliding_window: missing");
    keys(&g, "llama4", 2, 4);
    g_kv_u32(&g, "llama4.attention.sliding_window", 0);
    gguf_refused(&g, "llama4.attention.sliding_window: is 0");
    keys(&g, "gpt-oss", 2, 1);
    g_kv_u32(&g, "gpt-oss.attention.sliding_window", 4);
    gguf_refused(&g, "gpt-oss.expert_used_count: is 2, must be from 1 to 1");
}

int main(void)
{
    CU_TestInfo tests[] = {{"gpt-oss", test_gpt_oss},
                           {"Llama 4, alone and inside a multimodal model", test_llama4},
                           {"a latent family inside a multimodal model", test_wrapped_latent},
                           {"GLM-4.5", test_glm4_moe},
                           {"MiniMax-M2", test_minimax_m2},
                           {"impossible numbers, by key", test_refused},
                           {"GGUF says what config.json says", test_gguf_fixtures},
                           {"GGUF metadata of architectures without fixtures", test_gguf_made},
                           {"GGUF metadata that is refused", test_gguf_refused},
                           CU_TEST_INFO_NULL};
    return run_suite("families", tests);
}
