/* fam_deepseek.c: DeepSeek-V2, V3 and R1, and Kimi K2, which is a V3: latent attention, shared experts,
 * routers that choose groups first. Sources: transformers' configuration_deepseek_v2.py, configuration_deepseek_v3.py
 * and their modeling files; gguf-py's constants for both generations of GGUF. */
#include <math.h>
#include <string.h>

#include "family.h"
#include "sizes.h"

/* The norms of both latents are made without the configuration's epsilon. */
static const double latent_eps = 1e-6;

/* --- attention --- */

/* Every layer is `a`; its sizes are set, and the rotary table is made of p. */
static void latent_layers(cl_spec *s, cl_attention a, const cl_rope_params *p)
{
    double m = p->mscale_all != 0 ? cl_rope_mscale(p->factor, p->mscale_all) : 1;
    a.kind = CL_ATTN_LATENT;
    a.kv_heads = 1;
    a.scale = m * m / sqrt((double)a.head_dim);
    a.latent_eps = latent_eps;
    for (int i = 0; i < s->n_layers; i++) {
        a.heads = s->layers[i].attn.heads;
        s->layers[i].attn = a;
    }
}

static cl_code config_refuse(const json_t *config, const cl_spec *s, cl_err *err)
{
    bool bias = false;
    int64_t heads = s->layers[0].attn.heads, kv_heads = heads;
    cl_code c = cl_json_bool(config, "attention_bias", false, &bias, err);
    if (c == CL_OK && bias) c = cl_fail(err, CL_E_INPUT, "attention_bias: true is not supported with latent attention");
    if (c == CL_OK) c = cl_json_int(config, "num_key_value_heads", false, 1, CL_MAX_HEADS, &kv_heads, err);
    if (c == CL_OK && kv_heads != heads)
        c = cl_fail(err, CL_E_INPUT,
                    "num_key_value_heads: %lld is not supported (only as many as num_attention_heads, %lld)",
                    (long long)kv_heads, (long long)heads);
    return c == CL_OK ? cl_config_only(config, "moe_layer_freq", 1, err) : c;
}

static cl_code config_attention(const json_t *config, const cl_family *f, cl_spec *s, cl_err *err)
{
    int64_t nope = 128, rope = 64, value = 128, kv_rank = 512, q_rank = 1536;
    if (json_is_null(json_object_get(config, "q_lora_rank"))) q_rank = 0; /* that is how it says "none" */
    cl_rope_params p;
    cl_code c = config_refuse(config, s, err);
    if (c == CL_OK) c = cl_json_int(config, "qk_nope_head_dim", false, 1, CL_MAX_HEADS, &nope, err);
    if (c == CL_OK) c = cl_json_int(config, "qk_rope_head_dim", false, 2, CL_MAX_HEADS, &rope, err);
    if (c == CL_OK) c = cl_json_int(config, "v_head_dim", false, 1, CL_MAX_HEADS, &value, err);
    if (c == CL_OK) c = cl_json_int(config, "kv_lora_rank", false, 1, CL_MAX_SIZE, &kv_rank, err);
    if (c == CL_OK) c = cl_json_int(config, "q_lora_rank", false, 1, CL_MAX_SIZE, &q_rank, err);
    if (c == CL_OK && rope % 2)
        c = cl_fail(err, CL_E_INPUT, "qk_rope_head_dim: is %lld, must be even", (long long)rope);
    if (c == CL_OK) c = cl_config_rope(config, f, rope, s, &p, err);
    if (c != CL_OK) return c;
    cl_attention a = {.head_dim = (int)(nope + rope),
                      .q_rank = (int)q_rank,
                      .kv_rank = (int)kv_rank,
                      .rope_dim = (int)rope,
                      .v_dim = (int)value};
    latent_layers(s, a, &p);
    return CL_OK;
}

/* Files from before 2025 give a head's sizes as those of keys and values; newer ones, whose keys and values are the
 * latent's, in keys of their own. */
static cl_code metadata_attention(const cl_gguf *g, const char *arch, const cl_family *f, cl_spec *s, cl_err *err)
{
    int64_t head = 0, value = 0, kv_rank, q_rank = 0, rope, kv_heads = 0;
    cl_rope_params p;
    cl_code c = cl_metadata_int(g, arch, "attention.kv_lora_rank", -1, true, 1, CL_MAX_SIZE, &kv_rank, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "attention.q_lora_rank", -1, false, 0, CL_MAX_SIZE, &q_rank, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "rope.dimension_count", -1, true, 2, CL_MAX_HEADS, &rope, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "attention.key_length_mla", -1, false, 1, CL_MAX_HEADS, &head, err);
    if (c == CL_OK)
        c = cl_metadata_int(g, arch, "attention.value_length_mla", -1, head != 0, 1, CL_MAX_HEADS, &value, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "attention.head_count_kv", 0, false, 1, CL_MAX_HEADS, &kv_heads, err);
    if (c == CL_OK && head == 0 && kv_heads == 1 && s->layers[0].attn.heads > 1)
        c = cl_fail(err, CL_E_INPUT, "%s.attention.key_length_mla: missing (files with a head_count_kv of 1 have it)",
                    arch);
    if (c == CL_OK && head == 0) {
        c = cl_metadata_int(g, arch, "attention.key_length", -1, true, 1, CL_MAX_HEADS, &head, err);
        if (c == CL_OK) c = cl_metadata_int(g, arch, "attention.value_length", -1, true, 1, CL_MAX_HEADS, &value, err);
    }
    if (c == CL_OK && (rope >= head || rope % 2))
        c = cl_fail(err, CL_E_INPUT, "%s.rope.dimension_count: is %lld, must be even and less than a key's %lld", arch,
                    (long long)rope, (long long)head);
    if (c == CL_OK) c = cl_metadata_rope(g, f, rope, s, &p, err);
    if (c != CL_OK) return c;
    cl_attention a = {.head_dim = (int)head,
                      .q_rank = (int)q_rank,
                      .kv_rank = (int)kv_rank,
                      .rope_dim = (int)rope,
                      .v_dim = (int)value};
    latent_layers(s, a, &p);
    return CL_OK;
}

/* --- experts --- */

static const cl_ffn v2_expert = {
    .width = 1407,
    .experts = 64,
    .scoring = CL_SCORE_SOFTMAX,
    .weight_scale = 1,
    .shared_width = 2,
};

static const cl_ffn v3_expert = {
    .width = 2048,
    .experts = 256,
    .top_k = 8,
    .scoring = CL_SCORE_SIGMOID,
    .select_bias = true,
    .groups = 8,
    .top_groups = 4,
    .group_best = 2,
    .renormalise = true,
    .weight_scale = 2.5,
    .shared_width = 1,
};

/* Groups count only where the method says so; a run of experts is then as good as its best one. */
static cl_code v2_config(const json_t *config, cl_spec *s, cl_err *err)
{
    static const char limited[] = "group_limited_greedy";
    cl_ffn f = v2_expert;
    const char *method = "greedy";
    bool renormalise = false;
    cl_code c = config_attention(config, &cl_fam_deepseek_v2, s, err);
    if (c == CL_OK) c = cl_config_only_text(config, "scoring_func", "softmax", err);
    if (c == CL_OK) c = cl_json_str(config, "topk_method", false, &method, err);
    if (c == CL_OK) c = cl_json_bool(config, "norm_topk_prob", false, &renormalise, err);
    if (c != CL_OK) return c;
    if (strcmp(method, limited) == 0) f.group_best = 1;
    else if (strcmp(method, "greedy") != 0)
        return cl_fail(err, CL_E_INPUT, "topk_method: %.60s is not supported (known: greedy, %s)", method, limited);
    if (renormalise)
        return cl_fail(err, CL_E_INPUT,
                       "norm_topk_prob: true is not supported for deepseek_v2 (implementations disagree on it)");
    return cl_config_routed(config, f, 0, s, err);
}

static cl_code v3_config(const json_t *config, cl_spec *s, cl_err *err)
{
    bool interleave = true;
    cl_code c = config_attention(config, &cl_fam_deepseek_v3, s, err);
    if (c == CL_OK) c = cl_config_only_text(config, "scoring_func", "sigmoid", err);
    if (c == CL_OK) c = cl_config_only_text(config, "topk_method", "noaux_tc", err);
    if (c == CL_OK) c = cl_json_bool(config, "rope_interleave", false, &interleave, err);
    if (c != CL_OK) return c;
    if (!interleave) s->ropes[0].pairing = CL_ROPE_HALF;
    return cl_config_routed(config, v3_expert, 3, s, err);
}

/* V2 and V3 have one architecture; they differ by their router. Files without expert_gating_func are V2's. */
static cl_code metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    int64_t gating = 0;
    cl_ffn f = {.scoring = CL_SCORE_SOFTMAX, .weight_scale = 1};
    cl_code c = metadata_attention(g, arch, &cl_fam_deepseek_v3, s, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "expert_gating_func", -1, false, 0, INT32_MAX, &gating, err);
    if (c != CL_OK) return c;
    f.group_best = gating == 2 ? 2 : 1;
    if (gating != 2) strncpy(s->family, cl_fam_deepseek_v2.name, sizeof s->family - 1);
    return cl_metadata_experts(g, arch, &f, s, err);
}

/* --- names --- */

static const cl_name hf[] = {
    {CL_T_Q_A, "model.layers.%L.self_attn.q_a_proj.weight"},
    {CL_T_Q_A_NORM, "model.layers.%L.self_attn.q_a_layernorm.weight"},
    {CL_T_Q, "model.layers.%L.self_attn.q_b_proj.weight"},
    {CL_T_Q, "model.layers.%L.self_attn.q_proj.weight"},
    {CL_T_KV_A, "model.layers.%L.self_attn.kv_a_proj_with_mqa.weight"},
    {CL_T_KV_A_NORM, "model.layers.%L.self_attn.kv_a_layernorm.weight"},
    {CL_T_K_B, "model.layers.%L.self_attn.kv_b_proj.weight", .take = CL_TAKE_K_UP},
    {CL_T_V_B, "model.layers.%L.self_attn.kv_b_proj.weight", .take = CL_TAKE_V_UP},
    {CL_ROLES, NULL},
};

static const cl_name gguf[] = {
    {CL_T_Q_A, "blk.%L.attn_q_a.weight"},
    {CL_T_Q_A_NORM, "blk.%L.attn_q_a_norm.weight"},
    {CL_T_Q, "blk.%L.attn_q_b.weight"},
    {CL_T_Q, "blk.%L.attn_q.weight"},
    {CL_T_KV_A, "blk.%L.attn_kv_a_mqa.weight"},
    {CL_T_KV_A_NORM, "blk.%L.attn_kv_a_norm.weight"},
    {CL_T_K_B, "blk.%L.attn_k_b.weight"},
    {CL_T_K_B, "blk.%L.attn_kv_b.weight", .take = CL_TAKE_K_UP},
    {CL_T_V_B, "blk.%L.attn_v_b.weight"},
    {CL_T_V_B, "blk.%L.attn_kv_b.weight", .take = CL_TAKE_V_UP},
    {CL_ROLES, NULL},
};

const cl_family cl_fam_deepseek_v2 = {
    .name = "deepseek_v2",
    .architectures = {"DeepseekV2ForCausalLM"},
    .experts = true,
    .own_attention = true,
    .extra_layers = true,
    .defaults = {.eps = 1e-6, .theta = 10000, .pairing = CL_ROPE_INTERLEAVED},
    .hf_names = hf,
    .config = v2_config,
};

const cl_family cl_fam_deepseek_v3 = {
    .name = "deepseek_v3",
    .types = {"kimi_k2", "kimi_k25"},
    .architectures = {"DeepseekV3ForCausalLM", "KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"},
    .gguf_arch = "deepseek2",
    .experts = true,
    .own_attention = true,
    .extra_layers = true,
    .defaults = {.eps = 1e-6, .theta = 10000, .pairing = CL_ROPE_INTERLEAVED},
    .hf_names = hf,
    .gguf_names = gguf,
    .config = v3_config,
    .metadata = metadata,
};
