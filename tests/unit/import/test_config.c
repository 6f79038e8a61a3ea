/* config.json and GGUF metadata to a spec: both dialects, defaults, rotary tables, and what is refused. */
#include <math.h>

#include "chipline/import.h"
#include "configs.h"
#include "family.h"
#include "files.h"
#include "suite.h"

static void test_families(void)
{
    cl_spec s = made("llama", "\"bos_token_id\":1,\"eos_token_id\":[2,3,2]");
    CU_ASSERT_STRING_EQUAL(s.family, "llama");
    CU_ASSERT(s.vocab == 100 && s.hidden == 64 && s.n_layers == 4 && s.context == 512 && s.norm_eps == 1e-5 && !s.tied);
    CU_ASSERT(s.bos == 1 && s.n_eos == 2 && s.eos[0] == 2 && s.eos[1] == 3);
    CU_ASSERT(s.n_ropes == 1 && s.ropes[0].dims == 16 && s.ropes[0].pairing == CL_ROPE_HALF && s.ropes[0].scale == 1);
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[1], pow(10000, -2.0 / 16), 1e-15);
    const cl_attention *a = &s.layers[3].attn;
    CU_ASSERT(a->heads == 4 && a->kv_heads == 2 && a->head_dim == 16 && a->window == 0 && a->rope == 0 &&
              a->qk_norm == CL_QK_NORM_NONE);
    CU_ASSERT(a->scale == 0.25 && a->clip == 0 && !a->qkv_bias && !a->o_bias);
    CU_ASSERT(s.layers[3].ffn.kind == CL_FFN_DENSE && s.layers[3].ffn.width == 48 && !s.layers[3].ffn.bias);
    cl_spec_free(&s);

    s = made("llama", "\"attention_bias\":true,\"mlp_bias\":true,\"head_dim\":20,\"tie_word_embeddings\":true,\"num_"
                      "key_value_heads\":null,"
                      "\"architectures\":[\"LlamaForCausalLM\"],\"layer_types\":null");
    CU_ASSERT(s.layers[0].attn.qkv_bias && s.layers[0].attn.o_bias && s.layers[0].ffn.bias &&
              s.layers[0].attn.head_dim == 20 && s.tied);
    CU_ASSERT(s.layers[0].attn.kv_heads == 4 && s.ropes[0].dims == 20 && s.bos == -1 && s.n_eos == 0);
    cl_spec_free(&s);

    s = made("mistral", "\"sliding_window\":7");
    CU_ASSERT(s.layers[0].attn.window == 7 && s.layers[3].attn.window == 7);
    cl_spec_free(&s);
    s = made("mistral", "");
    CU_ASSERT_EQUAL(s.layers[0].attn.window, 4096); /* the class's default */
    cl_spec_free(&s);
    s = made("mistral", "\"sliding_window\":null");
    CU_ASSERT_EQUAL(s.layers[0].attn.window, 0);
    cl_spec_free(&s);
    s = made("mistral", "\"sliding_window\":9,\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_"
                        "attention\",\"full_attention\"]");
    CU_ASSERT(s.layers[0].attn.window == 0 && s.layers[1].attn.window == 9);
    cl_spec_free(&s);

    s = made("qwen2", "\"use_sliding_window\":false,\"sliding_window\":8,\"max_window_layers\":1");
    CU_ASSERT(s.layers[3].attn.window == 0 && s.layers[0].attn.qkv_bias && !s.layers[0].attn.o_bias);
    cl_spec_free(&s);
    s = made("qwen2", "\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":3");
    CU_ASSERT(s.layers[2].attn.window == 0 && s.layers[3].attn.window == 8);
    cl_spec_free(&s);
    s = made("qwen2", "\"use_sliding_window\":true,\"sliding_window\":8,\"num_hidden_layers\":30");
    CU_ASSERT(s.layers[27].attn.window == 0 && s.layers[28].attn.window == 8); /* the class's default */
    cl_spec_free(&s);
    s = made("qwen3", "");
    CU_ASSERT(s.layers[0].attn.head_dim == 128 && s.layers[0].attn.qk_norm == CL_QK_NORM_HEAD &&
              !s.layers[0].attn.qkv_bias);
    cl_spec_free(&s);

    s = made("mixtral", "\"num_local_experts\":6,\"num_experts_per_tok\":3");
    CU_ASSERT(s.layers[0].ffn.kind == CL_FFN_MOE && s.layers[0].ffn.experts == 6 && s.layers[0].ffn.top_k == 3 &&
              s.layers[0].ffn.width == 48);
    CU_ASSERT(s.layers[0].ffn.renormalise && s.layers[0].attn.window == 0);
    CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[1], pow(1e6, -2.0 / 16), 1e-15); /* this class's default */
    cl_spec_free(&s);
    s = made("olmoe", "\"num_experts\":7,\"num_experts_per_tok\":3,\"clip_qkv\":0.5,\"eos_token_id\":50279");
    CU_ASSERT(s.layers[0].attn.qk_norm == CL_QK_NORM_FULL && s.layers[0].attn.clip == 0.5 &&
              !s.layers[0].ffn.renormalise);
    CU_ASSERT_EQUAL(s.n_eos, 0); /* past the vocabulary: nobody can sample it */
    cl_spec_free(&s);
    s = made("qwen3_moe",
             "\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":12,\"decoder_sparse_step\":2,"
             "\"mlp_only_layers\":[3],\"norm_topk_prob\":true,\"head_dim\":16");
    CU_ASSERT(s.layers[0].ffn.kind == CL_FFN_DENSE && s.layers[2].ffn.kind == CL_FFN_DENSE &&
              s.layers[3].ffn.kind == CL_FFN_DENSE);
    CU_ASSERT(s.layers[1].ffn.kind == CL_FFN_MOE && s.layers[1].ffn.width == 12 && s.layers[1].ffn.renormalise &&
              s.layers[0].ffn.width == 48);
    cl_spec_free(&s);
}

/* Numbers from transformers 5.23's ROPE_INIT_FUNCTIONS in float64, head_dim 64, every fourth. */
static void test_rope(void)
{
    static const struct {
        const char *more;
        double f[8], scale;
    } cases[] = {
        {"\"max_position_embeddings\":131072,\"rope_theta\":1e6,"
         "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32768}",
         {1.0, 0.177827941004, 0.0316227766017, 0.00515479548091, 0.000583333333333, 4.4456985251e-05,
          7.90569415042e-06, 1.40585331298e-06},
         1.138629436111989},
        {"\"max_position_embeddings\":32768,\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"rope_"
         "theta\":1000000}",
         {1.0, 0.177827941004, 0.0316227766017, 0.00515479548091, 0.000583333333333, 4.4456985251e-05,
          7.90569415042e-06, 1.40585331298e-06},
         1.138629436111989},
        {"\"max_position_embeddings\":131072,\"rope_theta\":150000,\"rope_scaling\":{\"rope_type\":\"yarn\","
         "\"factor\":32.0,"
         "\"original_max_position_embeddings\":4096,\"truncate\":false,\"beta_fast\":32,\"beta_slow\":1}",
         {1.0, 0.225418000203, 0.0508132748155, 0.00679495948973, 0.000456483919223, 1.81883366817e-05,
          4.0999784818e-06, 9.24208950243e-07},
         1.3465735902799727},
        {"\"max_position_embeddings\":163840,\"rope_theta\":10000,\"rope_scaling\":{\"rope_type\":\"yarn\","
         "\"factor\":40,"
         "\"original_max_position_embeddings\":4096,\"mscale\":1.0,\"mscale_all_dim\":0.707}",
         {1.0, 0.316227766017, 0.1, 0.0268793601114, 0.0055, 0.000790569415042, 2.5e-05, 7.90569415042e-06},
         1.0857263992561355},
        /* waves so short that the ramp's end lies behind the last dimension, where it is cut off: at 63 of 64 */
        {"\"max_position_embeddings\":524288,\"rope_theta\":100,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
         "\"original_max_position_embeddings\":131072,\"beta_fast\":10000,\"beta_slow\":1}",
         {1, 0.56234132519, 0.303960309577, 0.161731446344, 0.085775862069, 0.0453266499184, 0.0238533875228,
          0.012493945855},
         1.138629436111989},
        {"\"rope_theta\":10000,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}",
         {0.4, 0.126491106407, 0.04, 0.0126491106407, 0.004, 0.00126491106407, 0.0004, 0.000126491106407},
         1.0},
        {"\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,"
         "\"high_freq_"
         "factor\":4.0,"
         "\"original_max_position_embeddings\":8192}",
         {1.0, 0.193922744749, 0.0376060309309, 0.00729266473722, 0.000429556796559, 8.57025548988e-06,
          1.6619674678e-06, 3.22293293038e-07},
         1.0},
        /* what stands inside counts more */
        {"\"rope_theta\":5,\"rope_scaling\":null,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000}",
         {1.0, 0.316227766017, 0.1, 0.0316227766017, 0.01, 0.00316227766017, 0.001, 0.000316227766017},
         1.0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char more[512];
        snprintf(more, sizeof more, "\"head_dim\":64,%s", cases[i].more);
        cl_spec s = made("llama", more);
        CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].scale, cases[i].scale, 1e-12);
        for (int k = 0; k < 8; k++) CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[4 * k] / cases[i].f[k], 1, 1e-11);
        cl_spec_free(&s);
    }
}

/* Without a type there is no scaling, but there may be the rest of what a table needs. */
static void test_untyped_rope(void)
{
    cl_spec a = made("llama", "\"rope_theta\":500"),
            b = made("llama", "\"rope_parameters\":{\"rope_theta\":500,\"factor\":null}"),
            c = made("llama", "\"rope_theta\":500,\"rope_scaling\":{\"partial_rotary_factor\":1.0}");
    for (int k = 0; k < a.ropes[0].dims / 2; k++)
        CU_ASSERT(a.ropes[0].inv_freq[k] == b.ropes[0].inv_freq[k] && a.ropes[0].inv_freq[k] == c.ropes[0].inv_freq[k]);
    cl_spec_free(&a);
    cl_spec_free(&b);
    cl_spec_free(&c);
    a = made("deepseek_v3", "\"architectures\":[\"Kimi_K25ForConditionalGeneration\"],\"num_key_value_heads\":4,"
                            "\"eos_token_id\":-1");
    CU_ASSERT_EQUAL(a.n_eos, 0);
    cl_spec_free(&a);
}

static void test_refused(void)
{
    static const refused cases[] = {
        {"mamba", "",
         "model_type: mamba is not a known family (known: llama, mistral, mixtral, olmoe, qwen2, qwen3, qwen3_moe, "
         "gpt_oss, "},
        {"mamba", "", "deepseek_v2, deepseek_v3, kimi_k2, kimi_k25)"},
        {"llama", "\"model_type\":null", "model_type: missing"},
        {"llama", "\"architectures\":[\"LlamaForSequenceClassification\"]",
         "architectures: is LlamaForSequenceClassification, must be LlamaForCausalLM"},
        {"llama", "\"quantization_config\":{\"quant_method\":\"gptq\"}", "quantization_config: gptq"},
        {"llama", "\"hidden_act\":\"gelu\"", "hidden_act: gelu"},
        {"llama", "\"num_attention_heads\":0", "num_attention_heads: is 0"},
        {"llama", "\"num_attention_heads\":\"4\"", "num_attention_heads: is a text"},
        {"llama", "\"num_key_value_heads\":3", "num_attention_heads: 4 is not a multiple of num_key_value_heads, 3"},
        {"llama", "\"hidden_size\":66", "hidden_size: 66 is not a multiple of num_attention_heads, 4"},
        {"llama", "\"head_dim\":15", "head_dim is 15"},
        {"llama", "\"num_hidden_layers\":-1", "num_hidden_layers: is -1"},
        {"llama", "\"num_hidden_layers\":2000000000", "num_hidden_layers: is 2000000000"},
        {"llama", "\"vocab_size\":1e30", "vocab_size"},
        {"llama", "\"rms_norm_eps\":-1", "rms_norm_eps"},
        {"llama", "\"intermediate_size\":null", "intermediate_size: missing"},
        {"llama", "\"eos_token_id\":\"</s>\"", "eos_token_id"},
        {"llama", "\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "eos_token_id: more than 16"},
        {"llama", "\"rope_theta\":0", "rope_theta"},
        {"llama", "\"rope_theta\":1", "rope_theta is 1"},
        {"llama", "\"partial_rotary_factor\":0.5", "partial_rotary_factor: 0.5"},
        {"llama", "\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}",
         "rope_parameters: partial_rotary_factor: 0.25"},
        {"llama", "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}",
         "rope_scaling: type: dynamic is not supported"},
        {"llama", "\"rope_scaling\":{\"rope_type\":\"longrope\"}", "rope_scaling: rope_type: longrope"},
        {"llama", "\"rope_scaling\":{\"rope_type\":\"linear\"}", "rope_scaling: factor: missing"},
        {"llama", "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":0}", "rope_scaling: factor: is 0"},
        {"llama",
         "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":5,\"high_freq_factor\":4}",
         "rope_scaling: low_freq_factor 5"},
        {"llama", "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4}",
         "low_freq_factor: missing"},
        {"llama", "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":1,\"beta_slow\":2}",
         "rope_scaling: beta_fast 1"},
        {"llama", "\"rope_scaling\":{\"factor\":4}",
         "rope_scaling: has factor, but no rope_type or type (one of default, "},
        {"llama", "\"rope_scaling\":{\"rope_theta\":5,\"beta_fast\":4}",
         "rope_scaling: has beta_fast, but no rope_type"},
        {"llama", "\"rope_parameters\":{\"rope_type\":null,\"short_factor\":[1]}",
         "rope_parameters: has short_factor, but"},
        {"llama", "\"rope_scaling\":{\"rope_type\":null,\"type\":\"linear\"}", "rope_scaling: factor: missing"},
        {"llama", "\"eos_token_id\":1000000000000000", "eos_token_id: is 1000000000000000, must be from -1"},
        {"llama", "\"eos_token_id\":[2,2147483648]", "eos_token_id: is 2147483648, must be from -1"},
        {"llama", "\"eos_token_id\":-2", "eos_token_id: is -2"},
        {"llama", "\"bos_token_id\":2147483648", "bos_token_id: is 2147483648, must be from -1"},
        {"deepseek_v3", "\"n_group\":2,\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"num_key_value_heads\":4",
         "topk_group: is 4"},
        {"llama", "\"rope_scaling\":[1]", "rope_scaling: is a list"},
        {"llama", "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}",
         "full_attention: a rotary table per kind of layer"},
        {"mistral", "\"sliding_window\":0", "sliding_window: is 0"},
        {"mistral", "\"layer_types\":[\"full_attention\"]", "layer_types: has 1 entries"},
        {"mistral", "\"layer_types\":[\"full_attention\",\"full_attention\",\"chunked_attention\",\"full_attention\"]",
         "layer_types: chunked_attention"},
        {"qwen2", "\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]",
         "layer_types: layer 2 is sliding_attention"},
        {"mixtral", "\"num_local_experts\":2,\"num_experts_per_tok\":3",
         "num_experts_per_tok: 3 is more than the 2 experts"},
        {"mixtral", "\"num_local_experts\":0", "num_local_experts: is 0"},
        {"olmoe", "\"clip_qkv\":-1", "clip_qkv"},
        {"qwen3_moe", "\"mlp_only_layers\":[4]", "mlp_only_layers: entry 0"},
        {"qwen3_moe", "\"decoder_sparse_step\":0", "decoder_sparse_step: is 0"},
    };
    all_refused(cases, sizeof cases / sizeof *cases);
}

static char *spec_text(const char *path)
{
    cl_spec s;
    cl_formats f;
    cl_err err;
    json_t *j = NULL;
    if (cl_import_config(path, &s, &f, &err) != CL_OK || cl_spec_to_json(&s, &j, &err) != CL_OK) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    CU_ASSERT(f.tables == CL_F32 && f.linear == CL_F32 && f.experts == CL_F32 && f.routers == CL_F32);
    char *text = json_dumps(j, JSON_SORT_KEYS);
    json_decref(j);
    cl_spec_free(&s);
    return text;
}

static void test_dialects(void)
{
    static const char *const names[] = {"llama_a",     "llama_b",       "llama_c",
                                        "mistral",     "mixtral",       "olmoe",
                                        "olmoe_clip",  "qwen2",         "qwen3",
                                        "qwen3_moe",   "qwen3_moe_b",   "gpt_oss",
                                        "gpt_oss_b",   "llama4",        "llama4_b",
                                        "llama4_c",    "glm4_moe",      "glm4_moe_b",
                                        "minimax_m2",  "deepseek_v2",   "deepseek_v2_lite",
                                        "deepseek_v3", "deepseek_v3_b", "kimi_k2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, CL_FIXTURES "/%s/config.json", names[i]);
        char *ours = spec_text(path);
        snprintf(path, sizeof path, CL_FIXTURES "/%s/config_hub.json", names[i]);
        char *hub = spec_text(path);
        snprintf(path, sizeof path, CL_FIXTURES "/%s", names[i]);
        char *beside = spec_text(path);
        CU_ASSERT_STRING_EQUAL(ours, hub);
        CU_ASSERT_STRING_EQUAL(ours, beside);
        free(ours);
        free(hub);
        free(beside);
    }
}

static void test_import_config(void)
{
    folder f = folder_new();
    place p = in(&f, "config.json"), g = in(&f, "generation_config.json");
    cl_spec s;
    cl_formats dtype;
    cl_err err;
    cl_buf b = {0};
    CU_ASSERT_EQUAL(cl_import_config(p.path, &s, &dtype, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "config.json: "));
    cl_buf_printf(&b, &err, "%s,\"model_type\":\"llama\",\"eos_token_id\":2,\"torch_dtype\":\"float16\"}", base);
    write_text(p.path, b.data);
    write_text(g.path, "{\"eos_token_id\":[5,2],\"bos_token_id\":1}");
    CU_ASSERT_EQUAL_FATAL(cl_import_config(f.path, &s, &dtype, &err), CL_OK);
    CU_ASSERT(dtype.linear == CL_F16 && dtype.routers == CL_F16 && s.n_eos == 2 && s.eos[0] == 2 && s.eos[1] == 5 &&
              s.bos == 1);
    cl_spec_free(&s);
    CU_ASSERT_EQUAL_FATAL(cl_import_config(p.path, &s, &dtype, &err), CL_OK); /* the file alone */
    CU_ASSERT_EQUAL(s.n_eos, 1);
    cl_spec_free(&s);
    write_text(p.path, "{\"vocab_size\": NaN}");
    CU_ASSERT_EQUAL(cl_import_config(f.path, &s, &dtype, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "config.json: vocab_size: line 1: NaN is not a number that JSON has"));
    write_text(p.path, "[]");
    CU_ASSERT_EQUAL(cl_import_config(f.path, &s, &dtype, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "is not an object"));
    cl_buf_free(&b);
    folder_remove(&f);
}

/* --- GGUF metadata --- */

static cl_code metadata(gguf_file *g, cl_spec *s, cl_err *err)
{
    folder f = folder_new();
    place p = in(&f, "m.gguf");
    cl_gguf *r;
    const cl_family *fam;
    g_write(g, p.path);
    cl_code c = cl_gguf_open(&r, p.path, err);
    if (c == CL_OK) {
        c = cl_metadata_spec(r, s, &fam, err);
        if (c == CL_OK && s->vocab == 0) s->vocab = TINY_VOCAB;
        if (c == CL_OK && (c = cl_spec_settle(s, err)) != CL_OK) cl_spec_free(s);
        cl_gguf_close(r);
    }
    folder_remove(&f);
    return c;
}

static void test_metadata(void)
{
    gguf_file g = {0};
    cl_spec s;
    cl_err err;
    float div[8] = {1, 1, 2, 4, 8, 8, 8, 8};
    int64_t n = 8;
    tiny_llama(&g, CL_F32);
    g_kv_f32(&g, "llama.rope.freq_base", 500000);
    g_kv_u32(&g, "llama.rope.dimension_count", TINY_HEAD);
    g_kv_u32(&g, "tokenizer.ggml.bos_token_id", 1);
    g_kv_u32(&g, "tokenizer.ggml.eos_token_id", 2);
    g_kv_u32(&g, "tokenizer.ggml.eot_token_id", 3);
    g_kv_u32(&g, "tokenizer.ggml.eom_token_id", 4000);
    g_tensor(&g, "rope_freqs.weight", 0, 1, &n, div, sizeof div);
    CU_ASSERT_EQUAL_FATAL(metadata(&g, &s, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(s.family, "llama");
    CU_ASSERT(s.tied && s.hidden == TINY_HIDDEN && s.context == 128 && s.bos == 1 && s.n_eos == 2 && s.eos[1] == 3);
    CU_ASSERT(s.layers[0].attn.heads == 2 && s.layers[0].attn.kv_heads == 1 && s.layers[0].attn.head_dim == 16 &&
              !s.layers[0].attn.qkv_bias);
    for (int i = 0; i < 8; i++)
        CU_ASSERT_DOUBLE_EQUAL(s.ropes[0].inv_freq[i] / (pow(500000, -2.0 * i / 16) / (double)div[i]), 1, 1e-12);
    cl_spec_free(&s);

    tiny_llama(&g, CL_F32);
    g_kv_str(&g, "llama.rope.scaling.type", "yarn");
    g_kv_f32(&g, "llama.rope.scaling.factor", 4);
    g_kv_u32(&g, "llama.rope.scaling.original_context_length", 32);
    g_kv_u32(&g, "tokenizer.ggml.eos_token_id", 2);
    g_kv_u32(&g, "tokenizer.ggml.eot_token_id", 3);
    g_kv_u32(&g, "tokenizer.ggml.eom_token_id", 4);
    g_made(&g, "blk.0.attn_q.bias", CL_F32, 0, 32, 0);
    g_made(&g, "output.weight", CL_F32, 0, TINY_VOCAB, TINY_HIDDEN);
    CU_ASSERT_EQUAL_FATAL(metadata(&g, &s, &err), CL_OK);
    cl_spec h = made("llama", "\"hidden_size\":32,\"num_attention_heads\":2,\"max_position_embeddings\":128,\"rope_"
                              "scaling\":{\"type\":\"yarn\","
                              "\"factor\":4,\"original_max_position_embeddings\":32}");
    CU_ASSERT(!s.tied && s.layers[0].attn.qkv_bias && s.ropes[0].scale == h.ropes[0].scale);
    CU_ASSERT(s.n_eos == 3 && s.eos[0] == 2 && s.eos[1] == 3 && s.eos[2] == 4); /* each of the three ends a text */
    for (int i = 0; i < 8; i++) CU_ASSERT_EQUAL(s.ropes[0].inv_freq[i], h.ropes[0].inv_freq[i]);
    cl_spec_free(&s);
    cl_spec_free(&h);

    tiny_llama(&g, CL_F32);
    g_kv_f32(&g, "llama.rope.scaling.factor", 2); /* without a type: linear */
    CU_ASSERT_EQUAL_FATAL(metadata(&g, &s, &err), CL_OK);
    CU_ASSERT_EQUAL(s.ropes[0].inv_freq[0], 0.5);
    cl_spec_free(&s);

    tiny_metadata(&g, 4);
    CU_ASSERT_EQUAL_FATAL(metadata(&g, &s, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(s.family, "mixtral");
    CU_ASSERT(s.layers[0].ffn.kind == CL_FFN_MOE && s.layers[0].ffn.experts == 4 && s.layers[0].ffn.top_k == 2 &&
              s.layers[0].ffn.renormalise);
    cl_spec_free(&s);

    /* dense layers among mixtures, per-layer numbers */
    const uint32_t kv[2] = {1, 2}, widths[2] = {8, 16};
    g_kv_str(&g, "general.architecture", "qwen3moe");
    g_kv_u32(&g, "qwen3moe.embedding_length", 32);
    g_kv_u32(&g, "qwen3moe.block_count", 2);
    g_kv_u32(&g, "qwen3moe.context_length", 64);
    g_kv_array(&g, "qwen3moe.feed_forward_length", CL_GGUF_U32, 2, widths, sizeof widths);
    g_kv_u32(&g, "qwen3moe.expert_feed_forward_length", 4);
    g_kv_u32(&g, "qwen3moe.attention.head_count", 2);
    g_kv_array(&g, "qwen3moe.attention.head_count_kv", CL_GGUF_U32, 2, kv, sizeof kv);
    g_kv_u32(&g, "qwen3moe.attention.key_length", 10);
    g_kv_u32(&g, "qwen3moe.attention.value_length", 10);
    g_kv_f32(&g, "qwen3moe.attention.layer_norm_rms_epsilon", 1e-6f);
    g_kv_u32(&g, "qwen3moe.expert_count", 4);
    g_kv_u32(&g, "qwen3moe.expert_used_count", 2);
    g_kv_bool(&g, "qwen3moe.expert_weights_norm", false);
    g_made(&g, "blk.1.ffn_gate.weight", CL_F32, 0, 16, 32);
    CU_ASSERT_EQUAL_FATAL(metadata(&g, &s, &err), CL_OK);
    CU_ASSERT(s.layers[0].ffn.kind == CL_FFN_MOE && s.layers[0].ffn.width == 4 && !s.layers[0].ffn.renormalise &&
              s.layers[0].attn.kv_heads == 1);
    CU_ASSERT(s.layers[1].ffn.kind == CL_FFN_DENSE && s.layers[1].ffn.width == 16 && s.layers[1].attn.kv_heads == 2);
    CU_ASSERT(s.layers[0].attn.head_dim == 10 && s.layers[0].attn.qk_norm == CL_QK_NORM_HEAD);
    cl_spec_free(&s);
}

static void metadata_refused(gguf_file *g, const char *part)
{
    cl_spec s;
    cl_err err = {0};
    CU_ASSERT_EQUAL(metadata(g, &s, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, part));
}

static void test_metadata_refused(void)
{
    static const struct {
        const char *key;
        float v;
        const char *part;
    } numbers[] = {
        {"llama.attention.scale", 0.1f, "llama.attention.scale: 0.1 is not supported"},
        {"llama.final_logit_softcapping", 30, "final_logit_softcapping"},
        {"llama.expert_weights_scale", 2.5f, "expert_weights_scale"},
        {"llama.rope.scaling.yarn_ext_factor", 0, "yarn_ext_factor"},
        {"llama.rope.freq_base", NAN, "llama.rope.freq_base: is nan"},
        {"llama.rope.scaling.factor", -1, "rope.scaling.factor"},
    };
    static const struct {
        const char *key;
        uint32_t v;
        const char *part;
    } integers[] = {
        {"llama.expert_gating_func", 2, "expert_gating_func"},
        {"llama.expert_shared_count", 1, "expert_shared_count"},
        {"llama.rope.dimension_count", 8, "llama.rope.dimension_count: 8 of the 16"},
        {"llama.attention.value_length", 8, "llama.attention.value_length: 8"},
        {"llama.attention.key_length", 0, "llama.attention.key_length: is 0"},
    };
    gguf_file g = {0};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        tiny_llama(&g, CL_F32);
        g_kv_f32(&g, numbers[i].key, numbers[i].v);
        metadata_refused(&g, numbers[i].part);
    }
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        tiny_llama(&g, CL_F32);
        g_kv_u32(&g, integers[i].key, integers[i].v);
        metadata_refused(&g, integers[i].part);
    }
    metadata_refused(&g, "general.architecture: missing");
    g_kv_str(&g, "general.architecture", "mamba");
    metadata_refused(
        &g,
        "general.architecture: mamba is not a known family (known: llama, olmoe, qwen2, qwen3, qwen3moe, gpt-oss, ");
    g_kv_str(&g, "general.architecture", "llama");
    metadata_refused(&g, "llama.embedding_length: missing");
    tiny_llama(&g, CL_F32);
    g_kv_str(&g, "llama.rope.scaling.type", "longrope");
    metadata_refused(&g, "llama.rope.scaling.type: longrope");
    tiny_metadata(&g, 1); /* two used of one */
    metadata_refused(&g, "llama.expert_used_count: is 2, must be from 1 to 1");
    int64_t n = 7;
    float div[8] = {1, 1, 1, 0};
    tiny_llama(&g, CL_F32);
    g_tensor(&g, "rope_freqs.weight", 0, 1, &n, div, 28);
    metadata_refused(&g, "rope_freqs.weight is not 8 F32 numbers");
    n = 8;
    tiny_llama(&g, CL_F32);
    g_tensor(&g, "rope_freqs.weight", 0, 1, &n, div, 32);
    metadata_refused(&g, "rope_freqs.weight: number 3 is 0");
}

int main(void)
{
    CU_TestInfo tests[] = {{"every family's rules and defaults", test_families},
                           {"rotary tables as transformers makes them", test_rope},
                           {"rotary tables without a type", test_untyped_rope},
                           {"what is refused, by key", test_refused},
                           {"both dialects give the same spec", test_dialects},
                           {"config.json alone and in its folder", test_import_config},
                           {"GGUF metadata", test_metadata},
                           {"GGUF metadata that is refused", test_metadata_refused},
                           CU_TEST_INFO_NULL};
    return run_suite("config", tests);
}
