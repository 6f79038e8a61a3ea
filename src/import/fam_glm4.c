/* fam_glm4.c: GLM-4.5 and 4.6 (glm4_moe): a part of each head is rotated, q and k may be normalised per head,
 * DeepSeek-V3's router and shared expert. Sources: transformers' configuration_glm4_moe.py, modeling_glm4_moe.py;
 * gguf-py's constants. */
#include "family.h"

static const cl_ffn expert = {
    .width = 1408,
    .experts = 128,
    .top_k = 8,
    .scoring = CL_SCORE_SIGMOID,
    .select_bias = true,
    .group_best = 2,
    .renormalise = true,
    .weight_scale = 1,
    .shared_width = 1,
};

static cl_code glm4_config(const json_t *config, cl_spec *s, cl_err *err)
{
    bool norm = false;
    cl_code c = cl_config_attention_bias(config, false, false, s, err);
    if (c == CL_OK) c = cl_json_bool(config, "use_qk_norm", false, &norm, err);
    if (norm) cl_spec_qk_norm(s, CL_QK_NORM_HEAD);
    return c == CL_OK ? cl_config_routed(config, expert, 1, s, err) : c;
}

static cl_code glm4_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    if (cl_metadata_tensor(g, "blk.%L.attn_q_norm.weight", 0)) cl_spec_qk_norm(s, CL_QK_NORM_HEAD);
    return cl_metadata_experts(g, arch, &expert, s, err);
}

static const cl_name gguf[] = {
    {CL_T_FFN_NORM, "blk.%L.post_attention_norm.weight"},
    {CL_ROLES, NULL},
};

const cl_family cl_fam_glm4_moe = {
    .name = "glm4_moe",
    .architectures = {"Glm4MoeForCausalLM"},
    .gguf_arch = "glm4moe",
    .experts = true,
    .extra_layers = true,
    .defaults = {.kv_heads = 8, .eps = 1e-5, .theta = 10000, .rotary = 0.5},
    .gguf_names = gguf,
    .config = glm4_config,
    .metadata = glm4_metadata,
};
