/* fam_minimax.c: MiniMax-M2: a part of each head is rotated, q and k are normalised over all heads at once, experts
 * are chosen by sigmoid and a bias, weights renormalised. Sources: transformers' configuration_minimax_m2.py,
 * modeling_minimax_m2.py. */
#include "family.h"

static const cl_ffn expert = {
    .kind = CL_FFN_MOE,
    .experts = 256,
    .top_k = 8,
    .scoring = CL_SCORE_SIGMOID,
    .select_bias = true,
    .renormalise = true,
    .weight_scale = 1,
};

/* Keys of the checkpoint's own code, with the values that transformers' class stands for. */
static cl_code plain(const json_t *config, cl_err *err)
{
    bool bias = true, qk_norm = true;
    const json_t *types = NULL;
    cl_code c = cl_config_only(config, "shared_intermediate_size", 0, err);
    if (c == CL_OK) c = cl_config_only_text(config, "scoring_func", "sigmoid", err);
    if (c == CL_OK) c = cl_config_only_text(config, "qk_norm_type", "per_layer", err);
    if (c == CL_OK) c = cl_json_bool(config, "use_qk_norm", false, &qk_norm, err);
    if (c == CL_OK) c = cl_json_bool(config, "use_routing_bias", false, &bias, err);
    if (c == CL_OK) c = cl_json_array(config, "attn_type_list", false, &types, err);
    if (c != CL_OK) return c;
    if (!qk_norm) return cl_fail(err, CL_E_INPUT, "use_qk_norm: false is not supported");
    if (!bias) return cl_fail(err, CL_E_INPUT, "use_routing_bias: false is not supported");
    for (size_t i = 0; i < json_array_size(types); i++)
        if (json_integer_value(json_array_get(types, i)) != 1)
            return cl_fail(err, CL_E_INPUT, "attn_type_list: entry %zu is not 1, full attention", i);
    return CL_OK;
}

static cl_code minimax_config(const json_t *config, cl_spec *s, cl_err *err)
{
    cl_ffn f = expert;
    cl_code c = plain(config, err);
    if (c == CL_OK) c = cl_config_experts(config, &f, err);
    cl_spec_qk_norm(s, CL_QK_NORM_FULL);
    cl_spec_experts(s, f);
    return c;
}

static cl_code minimax_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    cl_spec_qk_norm(s, CL_QK_NORM_FULL);
    return cl_metadata_experts(g, arch, &expert, s, err);
}

/* w1 is the gate, w3 up, w2 down. */
static const cl_name names[] = {
    {CL_T_ROUTER, "model.layers.%L.block_sparse_moe.gate.weight"},
    {CL_T_SELECT_BIAS, "model.layers.%L.block_sparse_moe.e_score_correction_bias"},
    {CL_T_EXPERT_GATE, "model.layers.%L.block_sparse_moe.experts.%E.w1.weight"},
    {CL_T_EXPERT_UP, "model.layers.%L.block_sparse_moe.experts.%E.w3.weight"},
    {CL_T_EXPERT_DOWN, "model.layers.%L.block_sparse_moe.experts.%E.w2.weight"},
    {CL_ROLES, NULL},
};

const cl_family cl_fam_minimax_m2 = {
    .name = "minimax_m2",
    .architectures = {"MiniMaxM2ForCausalLM"},
    .gguf_arch = "minimax-m2",
    .experts = true,
    .extra_layers = true,
    .defaults = {.kv_heads = 8, .head_dim = 128, .eps = 1e-6, .theta = 5e6, .rotary = 1},
    .hf_names = names,
    .config = minimax_config,
    .metadata = minimax_metadata,
};
