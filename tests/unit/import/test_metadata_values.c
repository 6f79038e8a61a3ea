/* GGUF metadata key by key, like test_config_values.c: whole specs, whole messages. */
#include "digests.h"
#include "family.h"
#include "files.h"

typedef struct setting {
    const char *arch, *key;
    /* i an integer, f a fraction, s a text that means nothing, n l y kinds of scaling, b true, a a list of two
     * integers, 0 nothing: without the key */
    char kind;
    double v;
} setting;

static bool has(const setting *s, int n, const char *key)
{
    for (int i = 0; i < n && s[i].key; i++)
        if (strcmp(s[i].key, key) == 0) return true;
    return false;
}

/* The keys of a small model of any architecture, without those that are set otherwise. */
static void keys_but(gguf_file *g, const char *arch, const setting *s, int n)
{
    static const struct {
        const char *arch, *key; /* arch NULL: all */
        uint32_t v;
    } all[] = {{NULL, "embedding_length", 16},
               {NULL, "block_count", 3},
               {NULL, "context_length", 64},
               {NULL, "attention.head_count", 4},
               {NULL, "attention.head_count_kv", 2},
               {NULL, "attention.key_length", 8},
               {NULL, "attention.value_length", 8},
               {NULL, "feed_forward_length", 24},
               {NULL, "expert_count", 8},
               {NULL, "expert_used_count", 2},
               {NULL, "expert_feed_forward_length", 6},
               {"glm4moe", "rope.dimension_count", 4},
               {"gpt-oss", "attention.sliding_window", 6},
               {"deepseek2", "rope.dimension_count", 4},
               {"deepseek2", "attention.kv_lora_rank", 10}};
    char k[96];
    g_kv_str(g, "general.architecture", arch);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(arch, "qwen3") == 0 && strncmp(all[i].key, "expert", 6) == 0) continue; /* dense */
        if ((all[i].arch && strcmp(all[i].arch, arch) != 0) || has(s, n, all[i].key)) continue;
        snprintf(k, sizeof k, "%s.%s", arch, all[i].key);
        g_kv_u32(g, k, all[i].v);
    }
    snprintf(k, sizeof k, "%s.attention.layer_norm_rms_epsilon", arch);
    if (!has(s, n, "attention.layer_norm_rms_epsilon")) g_kv_f32(g, k, 1e-5f);
}

static void set(gguf_file *g, const setting *s)
{
    char k[96];
    snprintf(k, sizeof k, "%s.%s", s->arch, s->key);
    const int32_t list[2] = {(int32_t)s->v, (int32_t)s->v};
    const int64_t i = (int64_t)s->v;
    if (s->kind == 'i') g_kv(g, k, CL_GGUF_I64, &i, 8);
    if (s->kind == 'f') g_kv_f32(g, k, (float)s->v);
    if (s->kind == 's') g_kv_str(g, k, "what");
    if (s->kind == 'n') g_kv_str(g, k, "none");
    if (s->kind == 'l') g_kv_str(g, k, "linear");
    if (s->kind == 'y') g_kv_str(g, k, "yarn");
    if (s->kind == 'b') g_kv_bool(g, k, true);
    if (s->kind == 'a') g_kv_array(g, k, CL_GGUF_I32, 2, list, sizeof list);
}

static cl_code read_spec(gguf_file *g, cl_spec *s, cl_err *err)
{
    folder f = folder_new();
    place p = in(&f, "m.gguf");
    cl_gguf *r = NULL;
    const cl_family *family;
    g_write(g, p.path);
    cl_code c = cl_gguf_open(&r, p.path, err);
    if (c == CL_OK) c = cl_metadata_spec(r, s, &family, err);
    if (c == CL_OK && s->vocab && (c = cl_spec_settle(s, err)) != CL_OK) cl_spec_free(s);
    cl_gguf_close(r);
    folder_remove(&f);
    return c;
}

/* A model with up to four settings, and with these tensors ("a.weight b.weight") in layer 1. */
static cl_code spec_with(const char *arch, const setting with[4], const char *tensors, cl_spec *s, cl_err *err)
{
    gguf_file g = {0};
    char names[128], *rest = NULL;
    keys_but(&g, arch, with, 4);
    for (int i = 0; i < 4 && with[i].key; i++) set(&g, &with[i]);
    snprintf(names, sizeof names, "%s", tensors);
    for (char *t = strtok_r(names, " ", &rest); t; t = strtok_r(NULL, " ", &rest)) {
        char name[64];
        snprintf(name, sizeof name, "blk.1.%s", t);
        g_made(&g, name, CL_F32, 0, 10, strstr(t, "bias") || strstr(t, "norm") ? 0 : 16);
    }
    const char *const tokens[] = {"a", "b", "c", "d", "e", "f", "g"};
    g_kv_strings(&g, "tokenizer.ggml.tokens", 7, tokens);
    return read_spec(&g, s, err);
}

static void test_specs(void)
{
    static const struct {
        const char *arch;
        setting with[4];
        const char *tensors;
        uint32_t digest;
    } cases[] = {
        {"llama", {{0}}, "", 0xb301a0f6},
        {"olmoe", {{0}}, "", 0x5b9b1600},
        {"qwen3", {{0}}, "", 0xf7ce70ed},
        {"qwen3moe", {{0}}, "", 0xdba822b6},
        {"gpt-oss", {{0}}, "", 0x9dd9929e},
        {"llama4", {{0}}, "", 0x368d1055},
        {"glm4moe", {{0}}, "", 0x3487edf6},
        {"minimax-m2", {{0}}, "", 0x4cd260a1},
        {"deepseek2", {{0}}, "", 0x3e590b0f},
        {"llama", {{0}}, "attn_q.bias", 0x6b5c1092},
        {"qwen3moe", {{0}}, "attn_q.bias", 0xeda4cfca},
        {"llama", {{0}}, "attn_output.bias", 0xd93376db},
        {"qwen3moe", {{0}}, "attn_output.bias", 0xb46fa4bf},
        {"llama", {{0}}, "attn_sinks.weight", 0xe71fad4e},
        {"qwen3moe", {{0}}, "attn_sinks.weight", 0xeea3effc},
        {"llama", {{0}}, "ffn_gate.bias", 0xb301a0f6},
        {"qwen3moe", {{0}}, "ffn_gate.bias", 0xdba822b6},
        {"llama", {{0}}, "ffn_down_exps.bias", 0x6c1314a5},
        {"qwen3moe", {{0}}, "ffn_down_exps.bias", 0x93a26de3},
        {"llama", {{0}}, "ffn_gate_inp.bias", 0x142fa5f3},
        {"qwen3moe", {{0}}, "ffn_gate_inp.bias", 0x4adee6bb},
        {"llama", {{0}}, "exp_probs_b.bias", 0x969e7958},
        {"qwen3moe", {{0}}, "exp_probs_b.bias", 0x791268e2},
        {"llama", {{0}}, "ffn_gate.weight", 0x8de6cdbb},
        {"qwen3moe", {{0}}, "ffn_gate.weight", 0x6194f8eb},
        {"llama", {{0}}, "ffn_gate_shexp.weight", 0x77993fab},
        {"qwen3moe", {{0}}, "ffn_gate_shexp.weight", 0xd0119be1},
        {"glm4moe", {{0}}, "attn_q_norm.weight", 0x3487edf6},
        {"qwen3moe", {{0}}, "ffn_gate.weight ffn_gate_inp.weight", 0xdba822b6},
        {"qwen3", {{"qwen3", "rope.scale_linear", 'f', 4}}, "", 0x0616ab71},
        {"qwen3", {{"qwen3", "rope.scale_linear", 'f', 4}, {"qwen3", "rope.scaling.factor", 'f', 2}}, "", 0xb1576a91},
        {"qwen3",
         {{"qwen3", "rope.freq_base", 'f', 500},
          {"qwen3", "vocab_size", 'i', 77},
          {"qwen3", "attention.sliding_window", 'i', 5}},
         "",
         0xb1dbd823},
        {"qwen3",
         {{"qwen3", "attention.key_length", 0, 0},
          {"qwen3", "attention.value_length", 0, 0},
          {"qwen3", "attention.head_count_kv", 0, 0}},
         "",
         0x9385e310},
        {"qwen3",
         {{"qwen3", "attention.key_length", 'i', 2},
          {"qwen3", "attention.value_length", 'i', 2},
          {"qwen3", "block_count", 'i', 1}},
         "",
         0x44b471a0},
        {"qwen3", {{"qwen3", "nextn_predict_layers", 'i', 2}}, "", 0xd4c0f447},
        {"qwen3",
         {{"qwen3", "rope.scaling.type", 'y', 0},
          {"qwen3", "rope.scaling.factor", 'f', 4},
          {"qwen3", "rope.scaling.original_context_length", 'i', 16},
          {"qwen3", "rope.scaling.yarn_beta_fast", 'f', 8}},
         "",
         0x55de1cc4},
        {"qwen3",
         {{"qwen3", "rope.scaling.type", 'y', 0},
          {"qwen3", "rope.scaling.factor", 'f', 4},
          {"qwen3", "rope.scaling.yarn_beta_slow", 'f', 2}},
         "",
         0x55de1cc4},
        {"qwen3", {{"qwen3", "rope.scaling.type", 'y', 0}, {"qwen3", "rope.scaling.factor", 'f', 4}}, "", 0xeb8e14b8},
        {"qwen3", {{"qwen3", "rope.scaling.type", 'n', 0}, {"qwen3", "rope.scaling.factor", 'f', 4}}, "", 0xf7ce70ed},
        {"qwen3", {{"qwen3", "rope.scaling.type", 'l', 0}, {"qwen3", "rope.scaling.factor", 'f', 4}}, "", 0x0616ab71},
        {"qwen3",
         {{"qwen3", "attention.scale", 'f', 0},
          {"qwen3", "logit_scale", 'f', 1},
          {"qwen3", "attention.value_scale", 'f', 0},
          {"qwen3", "rope.scaling.attn_factor", 'f', 1}},
         "",
         0xf7ce70ed},
        {"gpt-oss",
         {{"gpt-oss", "rope.scaling.type", 'y', 0}, {"gpt-oss", "rope.scaling.factor", 'f', 32}},
         "",
         0xdcea2a68},
        {"gpt-oss",
         {{"gpt-oss", "attention.sliding_window_pattern", 'i', 3}, {"gpt-oss", "attention.sliding_window", 'i', 1}},
         "",
         0x287f5712},
        {"llama4",
         {{"llama4", "attention.sliding_window", 'i', 9},
          {"llama4", "attention.temperature_scale", 'f', 0.5},
          {"llama4", "attention.temperature_length", 'f', 4}},
         "",
         0xe3d6294e},
        {"llama4", {{"llama4", "expert_count", 'i', 16}}, "", 0x3bd1a6b8},
        {"llama4", {{"llama4", "expert_count", 'i', 128}}, "", 0xe77cd8db},
        {"llama4", {{"llama4", "rope.freq_base", 'f', 500}}, "", 0xdf41b9e2},
        {"glm4moe",
         {{"glm4moe", "expert_group_count", 'i', 2},
          {"glm4moe", "expert_group_used_count", 'i', 1},
          {"glm4moe", "expert_weights_scale", 'f', 1.5},
          {"glm4moe", "expert_gating_func", 'i', 2}},
         "",
         0x54fc0126},
        {"glm4moe", {{"glm4moe", "expert_gating_func", 'i', 1}}, "", 0x746c1463},
        {"glm4moe", {{"glm4moe", "expert_gating_func", 'i', 2}}, "", 0x3487edf6},
        {"glm4moe", {{"glm4moe", "expert_gating_func", 'i', 3}}, "", 0x6f6dc94f},
        {"glm4moe",
         {{"glm4moe", "expert_shared_count", 'i', 2}, {"glm4moe", "expert_weights_norm", 'b', 1}},
         "",
         0x2a7a16c3},
        {"glm4moe",
         {{"glm4moe", "expert_shared_count", 'i', 2}, {"glm4moe", "expert_shared_feed_forward_length", 'i', 9}},
         "",
         0x1be8374f},
        {"glm4moe",
         {{"glm4moe", "rope.dimension_count", 'i', 8},
          {"glm4moe", "expert_used_count", 'i', 1},
          {"glm4moe", "expert_feed_forward_length", 0, 0}},
         "",
         0x2200f2d7},
        {"glm4moe",
         {{"glm4moe", "expert_weights_scale", 'f', 0}, {"glm4moe", "expert_group_count", 'i', 1}},
         "",
         0x3487edf6},
        {"deepseek2", {{"deepseek2", "expert_gating_func", 'i', 1}}, "", 0x3e590b0f},
        {"deepseek2", {{"deepseek2", "expert_gating_func", 'i', 2}}, "", 0x9b4ab13d},
        {"deepseek2",
         {{"deepseek2", "expert_group_count", 'i', 4},
          {"deepseek2", "expert_group_used_count", 'i', 2},
          {"deepseek2", "expert_gating_func", 'i', 2},
          {"deepseek2", "attention.q_lora_rank", 'i', 12}},
         "",
         0x6067aa44},
        {"deepseek2",
         {{"deepseek2", "attention.key_length_mla", 'i', 12},
          {"deepseek2", "attention.value_length_mla", 'i', 6},
          {"deepseek2", "attention.head_count_kv", 'i', 1}},
         "",
         0xffdd9a20},
        {"deepseek2",
         {{"deepseek2", "rope.scaling.type", 'y', 0},
          {"deepseek2", "rope.scaling.factor", 'f', 40},
          {"deepseek2", "rope.scaling.yarn_log_multiplier", 'f', 0.1}},
         "",
         0x4fa58d16},
        {"deepseek2",
         {{"deepseek2", "rope.scaling.type", 'y', 0}, {"deepseek2", "rope.scaling.factor", 'f', 40}},
         "",
         0xa5cf7cab},
        {"minimax-m2", {{"minimax-m2", "rope.dimension_count", 'i', 6}}, "", 0x218aa764},
        {"deepseek2", {{"deepseek2", "attention.head_count_kv", 'i', 4}}, "", 0x3e590b0f},
        {"deepseek2", {{"deepseek2", "attention.head_count_kv", 0, 0}}, "", 0x3e590b0f},
        {"deepseek2",
         {{"deepseek2", "attention.head_count", 'i', 1}, {"deepseek2", "attention.head_count_kv", 'i', 1}},
         "",
         0x98a713e0},
        {"qwen3",
         {{"tokenizer.ggml", "bos_token_id", 'i', 5}, {"tokenizer.ggml", "eos_token_id", 'i', 6}},
         "",
         0x599ba27a},
        {"qwen3",
         {{"tokenizer.ggml", "bos_token_id", 'i', 2147483647}, {"tokenizer.ggml", "eos_token_id", 'i', 2147483647}},
         "",
         0xf7ce70ed},
        {"qwen3",
         {{"tokenizer.ggml", "bos_token_id", 'i', 2147483648},
          {"tokenizer.ggml", "eos_token_id", 'i', 2147483648},
          {"tokenizer.ggml", "eot_token_id", 'i', 0}},
         "",
         0xd53530df},
        {"qwen3",
         {{"tokenizer.ggml", "eos_token_id", 'i', 2},
          {"tokenizer.ggml", "eot_token_id", 'i', 2},
          {"tokenizer.ggml", "eom_token_id", 'i', 3}},
         "",
         0xfd8aa32e},
        {"qwen3",
         {{"tokenizer.ggml", "eos_token_id", 'i', 2},
          {"tokenizer.ggml", "eot_token_id", 'i', 3},
          {"tokenizer.ggml", "eom_token_id", 'i', 2}},
         "",
         0xfd8aa32e},
        {"qwen3", {{"tokenizer.ggml", "bos_token_id", 'i', 0}}, "", 0x9d5972f3},
        {"qwen3",
         {{"qwen3", "attention.head_count", 'i', 3}, {"qwen3", "attention.head_count_kv", 'i', 1}},
         "",
         0xa0339543},
        {"qwen3",
         {{"qwen3", "attention.head_count", 'i', 3},
          {"qwen3", "attention.head_count_kv", 'i', 3},
          {"qwen3", "attention.key_length", 'i', 6},
          {"qwen3", "attention.value_length", 'i', 6}},
         "",
         0x58fae244},
        {"glm4moe",
         {{"glm4moe", "expert_group_count", 'i', 4}, {"glm4moe", "expert_group_used_count", 'i', 1}},
         "",
         0x8741db09},
        {"glm4moe",
         {{"glm4moe", "expert_group_count", 'i', 4}, {"glm4moe", "expert_group_used_count", 'i', 4}},
         "",
         0xc31bf172},
        {"deepseek2",
         {{"deepseek2", "expert_group_count", 'i', 8}, {"deepseek2", "expert_group_used_count", 'i', 2}},
         "",
         0x3b151716},
        {"gpt-oss", {{"gpt-oss", "attention.sliding_window_pattern", 'i', 1}}, "", 0xc4db6244},
        {"llama",
         {{"llama", "expert_count", 'i', 2},
          {"llama", "expert_used_count", 'i', 1},
          {"llama", "expert_feed_forward_length", 0, 0}},
         "",
         0xd49b9c37},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char what[64];
        cl_spec s;
        cl_err err = {0};
        CU_ASSERT_EQUAL_FATAL(spec_with(cases[i].arch, cases[i].with, cases[i].tensors, &s, &err), CL_OK);
        snprintf(what, sizeof what, "case %zu: %s", i, cases[i].arch);
        digest_is(&s, cases[i].digest, what);
        cl_spec_free(&s);
    }
}

static void test_messages(void)
{
    static const struct {
        setting with[4];
        const char *message;
    } cases[] = {
        {{{"qwen3", "embedding_length", 'i', 1099511627776}},
         "qwen3.embedding_length: is 1099511627776, must be from 1 to 134217728"},
        {{{"qwen3", "block_count", 'i', 1099511627776}},
         "qwen3.block_count: is 1099511627776, must be from 1 to 10000"},
        {{{"qwen3", "nextn_predict_layers", 'i', 1099511627776}},
         "qwen3.nextn_predict_layers: is 1099511627776, must be from 0 to 2"},
        {{{"qwen3", "context_length", 'i', 1099511627776}},
         "qwen3.context_length: is 1099511627776, must be from 1 to 2147483647"},
        {{{"qwen3", "attention.head_count", 'i', 1099511627776}},
         "qwen3.attention.head_count: is 1099511627776, must be from 1 to 65536"},
        {{{"qwen3", "attention.head_count_kv", 'i', 1099511627776}},
         "qwen3.attention.head_count_kv: is 1099511627776, must be from 1 to 65536"},
        {{{"qwen3", "feed_forward_length", 'i', 1099511627776}},
         "qwen3.feed_forward_length: is 1099511627776, must be from 1 to 134217728"},
        {{{"qwen3", "attention.sliding_window", 'i', 1099511627776}},
         "qwen3.attention.sliding_window: is 1099511627776, must be from 0 to 2147483647"},
        {{{"qwen3", "vocab_size", 'i', 1099511627776}},
         "qwen3.vocab_size: is 1099511627776, must be from 1 to 134217728"},
        {{{"qwen3", "attention.key_length", 'i', 1099511627776}},
         "qwen3.attention.key_length: is 1099511627776, must be from 1 to 65536"},
        {{{"qwen3", "attention.value_length", 'i', 1099511627776}},
         "qwen3.attention.value_length: is 1099511627776, must be from 1 to 65536"},
        {{{"qwen3", "rope.dimension_count", 'i', 1099511627776}},
         "qwen3.rope.dimension_count: is 1099511627776, must be from 1 to 2147483647"},
        {{{"qwen3", "attention.layer_norm_rms_epsilon", 'f', -7}},
         "qwen3.attention.layer_norm_rms_epsilon: is -7, must be from 0 to 1"},
        {{{"qwen3", "rope.freq_base", 'f', -7}}, "qwen3.rope.freq_base: is -7, must be from 1 to 1e+12"},
        {{{"qwen3", "rope.scale_linear", 'f', -7}}, "qwen3.rope.scale_linear: is -7, must be from 1e-06 to 1e+06"},
        {{{"qwen3", "rope.scaling.factor", 'f', -7}}, "qwen3.rope.scaling.factor: is -7, must be from 1e-06 to 1e+06"},
        {{{"qwen3", "rope.scaling.original_context_length", 'f', -7}},
         "qwen3.rope.scaling.original_context_length: is -7, must be from 1 to 1e+12"},
        {{{"qwen3", "rope.scaling.yarn_beta_fast", 'f', -7}},
         "qwen3.rope.scaling.yarn_beta_fast: is -7, must be from 1e-06 to 1e+06"},
        {{{"qwen3", "rope.scaling.yarn_beta_slow", 'f', -7}},
         "qwen3.rope.scaling.yarn_beta_slow: is -7, must be from 1e-06 to 1e+06"},
        {{{"qwen3", "rope.scaling.yarn_log_multiplier", 'f', -7}},
         "qwen3.rope.scaling.yarn_log_multiplier: -7 is not supported (only 0)"},
        {{{"qwen3", "attention.scale", 'f', -7}}, "qwen3.attention.scale: -7 is not supported (only 0)"},
        {{{"qwen3", "attention.value_scale", 'f', -7}}, "qwen3.attention.value_scale: -7 is not supported (only 1)"},
        {{{"qwen3", "attention.max_alibi_bias", 'f', -7}},
         "qwen3.attention.max_alibi_bias: -7 is not supported (only 0)"},
        {{{"qwen3", "attention.clamp_kqv", 'f', -7}}, "qwen3.attention.clamp_kqv: -7 is not supported (only 0)"},
        {{{"qwen3", "attn_logit_softcapping", 'f', -7}}, "qwen3.attn_logit_softcapping: -7 is not supported (only 0)"},
        {{{"qwen3", "final_logit_softcapping", 'f', -7}},
         "qwen3.final_logit_softcapping: -7 is not supported (only 0)"},
        {{{"qwen3", "router_logit_softcapping", 'f', -7}},
         "qwen3.router_logit_softcapping: -7 is not supported (only 0)"},
        {{{"qwen3", "logit_scale", 'f', -7}}, "qwen3.logit_scale: -7 is not supported (only 1)"},
        {{{"qwen3", "embedding_scale", 'f', -7}}, "qwen3.embedding_scale: -7 is not supported (only 1)"},
        {{{"qwen3", "residual_scale", 'f', -7}}, "qwen3.residual_scale: -7 is not supported (only 1)"},
        {{{"qwen3", "rope.scaling.attn_factor", 'f', -7}},
         "qwen3.rope.scaling.attn_factor: -7 is not supported (only 1)"},
        {{{"qwen3", "rope.scaling.yarn_attn_factor", 'f', -7}},
         "qwen3.rope.scaling.yarn_attn_factor: -7 is not supported (only 1)"},
        {{{"qwen3", "rope.scaling.yarn_ext_factor", 'f', -7}},
         "qwen3.rope.scaling.yarn_ext_factor: -7 is not supported (only 1)"},
        {{{"qwen3", "rope.scaling.alpha", 'f', -7}}, "qwen3.rope.scaling.alpha: -7 is not supported (only 0)"},
        {{{"qwen3", "expert_weights_scale", 'f', -7}}, "qwen3.expert_weights_scale: -7 is not supported (only 1)"},
        {{{"qwen3", "expert_gating_func", 'f', -7}}, "qwen3.expert_gating_func: -7 is not supported (only 1)"},
        {{{"qwen3", "expert_shared_count", 'f', -7}}, "qwen3.expert_shared_count: -7 is not supported (only 0)"},
        {{{"qwen3", "expert_group_count", 'f', -7}}, "qwen3.expert_group_count: -7 is not supported (only 1)"},
        {{{"qwen3", "embedding_length", 0, 0}}, "qwen3.embedding_length: missing"},
        {{{"qwen3", "block_count", 0, 0}}, "qwen3.block_count: missing"},
        {{{"qwen3", "context_length", 0, 0}}, "qwen3.context_length: missing"},
        {{{"qwen3", "attention.head_count", 0, 0}}, "qwen3.attention.head_count: missing"},
        {{{"qwen3", "feed_forward_length", 0, 0}}, "qwen3.feed_forward_length: missing"},
        {{{"qwen3", "attention.layer_norm_rms_epsilon", 0, 0}}, "qwen3.attention.layer_norm_rms_epsilon: missing"},
        {{{"qwen3", "attention.head_count", 'i', 3}},
         "qwen3.attention.head_count: 3 is not a multiple of qwen3.attention.head_count_kv, 2"},
        {{{"qwen3", "attention.head_count_kv", 'i', 3}},
         "qwen3.attention.head_count: 4 is not a multiple of qwen3.attention.head_count_kv, 3"},
        {{{"qwen3", "attention.value_length", 'i', 9}},
         "qwen3.attention.value_length: 9 is not supported beside a key_length of 8"},
        {{{"qwen3", "rope.dimension_count", 'i', 4}},
         "qwen3.rope.dimension_count: 4 of the 8 numbers of a head is not supported (only all)"},
        {{{"qwen3", "rope.scaling.type", 's', 0}},
         "qwen3.rope.scaling.type: what is not supported (known: none, linear, yarn)"},
        {{{"qwen3", "rope.scaling.type", 'i', 3}}, "qwen3.rope.scaling.type: is not a text"},
        {{{"qwen3", "attention.head_count", 's', 0}},
         "qwen3.attention.head_count: is not a whole number, or a list of one per layer"},
        {{{"qwen3", "attention.head_count", 'a', 4}},
         "qwen3.attention.head_count: is not a whole number, or a list of one per layer"},
        {{{"qwen3", "attention.head_count", 'f', 4}},
         "qwen3.attention.head_count: is not a whole number, or a list of one per layer"},
        {{{"qwen3", "embedding_length", 'a', 4}},
         "qwen3.embedding_length: is not a whole number, or a list of one per layer"},
        {{{"qwen3", "rope.freq_base", 's', 0}}, "qwen3.rope.freq_base: is not a number"},
        {{{"qwen3", "rope.freq_base", 'f', 1}}, "rope_theta is 1, must be over 1"},
        {{{"qwen3", "nextn_predict_layers", 'i', 3}}, "qwen3.nextn_predict_layers: is 3, must be from 0 to 2"},
        {{{"qwen3", "rope.scale_linear", 's', 0}}, "qwen3.rope.scale_linear: is not a number"},
        {{{"glm4moe", "expert_count", 'i', 1099511627776}},
         "glm4moe.expert_count: is 1099511627776, must be from 1 to 65536"},
        {{{"glm4moe", "expert_used_count", 'i', 1099511627776}},
         "glm4moe.expert_used_count: is 1099511627776, must be from 1 to 8"},
        {{{"glm4moe", "expert_feed_forward_length", 'i', 1099511627776}},
         "glm4moe.expert_feed_forward_length: is 1099511627776, must be from 1 to 134217728"},
        {{{"glm4moe", "expert_shared_count", 'i', 1099511627776}},
         "glm4moe.expert_shared_count: is 1099511627776, must be from 0 to 22369621"},
        {{{"glm4moe", "expert_shared_feed_forward_length", 'i', 1099511627776}},
         "glm4moe.expert_shared_feed_forward_length: is 1099511627776, must be from 0 to 134217728"},
        {{{"glm4moe", "expert_gating_func", 'i', 1099511627776}},
         "glm4moe.expert_gating_func: is 1099511627776, must be from 0 to 2147483647"},
        {{{"glm4moe", "expert_group_count", 'i', 1099511627776}},
         "glm4moe.expert_group_count: is 1099511627776, must be from 0 to 8"},
        {{{"glm4moe", "rope.dimension_count", 'i', 1099511627776}},
         "glm4moe.rope.dimension_count: is 1099511627776, must be from 1 to 2147483647"},
        {{{"glm4moe", "expert_weights_scale", 'f', -7}},
         "glm4moe.expert_weights_scale: is -7, must be from 0 to 1e+06"},
        {{{"glm4moe", "expert_weights_norm", 'i', 1}}, "glm4moe.expert_weights_norm: is neither true nor false"},
        {{{"glm4moe", "expert_gating_func", 'i', 4}},
         "glm4moe.expert_gating_func: 4 is not supported (only 1, 2 and 3: softmax, sigmoid, softmax over the chosen)"},
        {{{"glm4moe", "expert_group_count", 'i', 3}},
         "glm4moe.expert_group_count: 3 does not divide glm4moe.expert_count, 8"},
        {{{"glm4moe", "expert_group_count", 'i', 2}}, "glm4moe.expert_group_used_count: missing"},
        {{{"glm4moe", "expert_group_count", 'i', 9}}, "glm4moe.expert_group_count: is 9, must be from 0 to 8"},
        {{{"glm4moe", "expert_used_count", 'i', 9}}, "glm4moe.expert_used_count: is 9, must be from 1 to 8"},
        {{{"glm4moe", "rope.dimension_count", 'i', 5}},
         "glm4moe.rope.dimension_count: 5 of the 8 numbers of a head is not supported (an even part, or all)"},
        {{{"glm4moe", "rope.dimension_count", 'i', 10}},
         "glm4moe.rope.dimension_count: 10 of the 8 numbers of a head is not supported (an even part, or all)"},
        {{{"qwen3moe", "expert_group_count", 'i', 2}}, "qwen3moe.expert_group_count: 2 is not supported (only 1)"},
        {{{"qwen3moe", "expert_feed_forward_length", 'i', 1099511627776}},
         "qwen3moe.expert_feed_forward_length: is 1099511627776, must be from 1 to 134217728"},
        {{{"glm4moe", "expert_count", 0, 0}},
         "general.architecture: glm4moe is not a known family (known: llama, olmoe, qwen2, qwen3, qwen3moe, gpt-oss, "
         "llama4, glm4moe, minimax-m2, deepseek2)"},
        {{{"glm4moe", "expert_used_count", 0, 0}}, "glm4moe.expert_used_count: missing"},
        {{{"glm4moe", "rope.scaling.yarn_log_multiplier", 'f', 1}},
         "glm4moe.rope.scaling.yarn_log_multiplier: 1 is not supported (only 0)"},
        {{{"gpt-oss", "attention.sliding_window", 'i', 1099511627776}},
         "gpt-oss.attention.sliding_window: is 1099511627776, must be from 0 to 2147483647"},
        {{{"gpt-oss", "attention.sliding_window", 0, 0}}, "gpt-oss.attention.sliding_window: missing"},
        {{{"gpt-oss", "attention.sliding_window_pattern", 'i', 1099511627776}},
         "gpt-oss.attention.sliding_window_pattern: is 1099511627776, must be from 1 to 2147483647"},
        {{{"gpt-oss", "attention.sliding_window_pattern", 'a', 2}},
         "gpt-oss.attention.sliding_window_pattern: is 2, must be from 0 to 1"},
        {{{"gpt-oss", "attention.sliding_window_pattern", 'a', 1}},
         "gpt-oss.attention.sliding_window_pattern: is not a whole number, or a list of one per layer"},
        {{{"llama4", "attention.sliding_window", 'i', 1099511627776}},
         "llama4.attention.sliding_window: is 1099511627776, must be from 0 to 2147483647"},
        {{{"llama4", "attention.temperature_scale", 'f', -7}},
         "llama4.attention.temperature_scale: is -7, must be from 0 to 1e+06"},
        {{{"llama4", "attention.temperature_length", 'f', -7}},
         "llama4.attention.temperature_length: is -7, must be from 1 to 1e+12"},
        {{{"llama4", "expert_count", 'i', 1099511627776}},
         "llama4.expert_count: is 1099511627776, must be from 1 to 65536"},
        {{{"deepseek2", "attention.kv_lora_rank", 'i', 1099511627776}},
         "deepseek2.attention.kv_lora_rank: is 1099511627776, must be from 1 to 134217728"},
        {{{"deepseek2", "attention.q_lora_rank", 'i', 1099511627776}},
         "deepseek2.attention.q_lora_rank: is 1099511627776, must be from 0 to 134217728"},
        {{{"deepseek2", "rope.dimension_count", 'i', 1099511627776}},
         "deepseek2.rope.dimension_count: is 1099511627776, must be from 2 to 65536"},
        {{{"deepseek2", "attention.key_length_mla", 'i', 1099511627776}},
         "deepseek2.attention.key_length_mla: is 1099511627776, must be from 1 to 65536"},
        {{{"deepseek2", "attention.head_count_kv", 'i', 1099511627776}},
         "deepseek2.attention.head_count_kv: is 1099511627776, must be from 1 to 65536"},
        {{{"deepseek2", "attention.key_length", 'i', 1099511627776}},
         "deepseek2.attention.key_length: is 1099511627776, must be from 1 to 65536"},
        {{{"deepseek2", "attention.value_length", 'i', 1099511627776}},
         "deepseek2.attention.value_length: is 1099511627776, must be from 1 to 65536"},
        {{{"deepseek2", "expert_gating_func", 'i', 1099511627776}},
         "deepseek2.expert_gating_func: is 1099511627776, must be from 0 to 2147483647"},
        {{{"deepseek2", "attention.kv_lora_rank", 0, 0}}, "deepseek2.attention.kv_lora_rank: missing"},
        {{{"deepseek2", "rope.dimension_count", 0, 0}}, "deepseek2.rope.dimension_count: missing"},
        {{{"deepseek2", "attention.key_length", 0, 0}}, "deepseek2.attention.key_length: missing"},
        {{{"deepseek2", "attention.value_length", 0, 0}}, "deepseek2.attention.value_length: missing"},
        {{{"deepseek2", "attention.key_length_mla", 'i', 8}}, "deepseek2.attention.value_length_mla: missing"},
        {{{"deepseek2", "attention.key_length", 'i', 4}},
         "deepseek2.rope.dimension_count: is 4, must be even and less than a key's 4"},
        {{{"deepseek2", "attention.head_count_kv", 'i', 3}},
         "deepseek2.attention.head_count: 4 is not a multiple of deepseek2.attention.head_count_kv, 3"},
        {{{"deepseek2", "rope.dimension_count", 'i', 9}},
         "deepseek2.rope.dimension_count: is 9, must be even and less than a key's 8"},
        {{{"deepseek2", "rope.dimension_count", 'i', 3}},
         "deepseek2.rope.dimension_count: is 3, must be even and less than a key's 8"},
        {{{"deepseek2", "rope.scaling.yarn_log_multiplier", 'f', -7}},
         "deepseek2.rope.scaling.yarn_log_multiplier: is -7, must be from 0 to 1000"},
        {{{"glm4moe", "expert_group_count", 'i', 8}, {"glm4moe", "expert_group_used_count", 'i', 2}},
         "glm4moe.expert_group_count: 8 groups of 1 experts are too small"},
        {{{"glm4moe", "expert_group_count", 'i', 4},
          {"glm4moe", "expert_group_used_count", 'i', 1},
          {"glm4moe", "expert_used_count", 'i', 3}},
         "glm4moe.expert_group_count: 4 groups of 2 experts are too small"},
        {{{"glm4moe", "expert_group_count", 'i', 4}, {"glm4moe", "expert_group_used_count", 'i', 5}},
         "glm4moe.expert_group_used_count: is 5, must be from 1 to 4"},
        {{{"glm4moe", "expert_group_count", 'i', 4}, {"glm4moe", "expert_group_used_count", 'i', 0}},
         "glm4moe.expert_group_used_count: is 0, must be from 1 to 4"},
        {{{"qwen3", "attention.key_length", 0, 0},
          {"qwen3", "attention.value_length", 0, 0},
          {"qwen3", "attention.head_count", 'i', 3},
          {"qwen3", "attention.head_count_kv", 'i', 3}},
         "qwen3.attention.key_length: missing"},
        {{{"qwen3", "attention.key_length", 'i', 15}, {"qwen3", "attention.value_length", 'i', 15}},
         "head_dim is 15: rotary embedding needs an even number"},
        {{{"gpt-oss", "rope.dimension_count", 'i', 4}},
         "gpt-oss.rope.dimension_count: 4 of the 8 numbers of a head is not supported (only all)"},
        {{{"gpt-oss", "expert_count", 'i', 1}}, "gpt-oss.expert_used_count: is 2, must be from 1 to 1"},
        {{{"qwen3", "rope.scaling.type", 'y', 0},
          {"qwen3", "rope.scaling.yarn_beta_fast", 'f', 1},
          {"qwen3", "rope.scaling.yarn_beta_slow", 'f', 2}},
         "beta_fast 1 and beta_slow 2: the first must not be smaller, both over 0"},
        {{{"deepseek2", "attention.key_length_mla", 'i', 8},
          {"deepseek2", "attention.value_length_mla", 'i', 1099511627776}},
         "deepseek2.attention.value_length_mla: is 1099511627776, must be from 1 to 65536"},
        {{{"deepseek2", "attention.key_length_mla", 'i', 8}, {"deepseek2", "attention.value_length_mla", 'i', 0}},
         "deepseek2.attention.value_length_mla: is 0, must be from 1 to 65536"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_file g = {0};
        cl_spec s;
        cl_err err = {0};
        keys_but(&g, cases[i].with[0].arch, cases[i].with, 4);
        for (int k = 0; k < 4 && cases[i].with[k].key; k++) set(&g, &cases[i].with[k]);
        CU_ASSERT_EQUAL_FATAL(read_spec(&g, &s, &err), CL_E_INPUT);
        CU_ASSERT_STRING_EQUAL(err.msg, cases[i].message);
        if (strcmp(err.msg, cases[i].message) != 0) fprintf(stderr, "case %zu: %s\n", i, err.msg);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"specs", test_specs}, {"messages", test_messages}, CU_TEST_INFO_NULL};
    return run_suite("metadata values", tests);
}
