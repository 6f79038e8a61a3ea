/* fam_mixtral.c: Mixtral: every layer a mixture, router weights renormalised. GGUF files call it llama, with experts.
 * Sources: transformers' configuration_mixtral.py, modeling_mixtral.py. */
#include <limits.h>

#include "family.h"

static const cl_ffn expert = {.kind = CL_FFN_MOE, .experts = 8, .top_k = 2, .renormalise = true, .weight_scale = 1};

static cl_code mixtral_config(const json_t *config, cl_spec *s, cl_err *err)
{
    cl_ffn f = expert;
    int64_t window = 0;
    cl_code c = cl_json_int(config, "sliding_window", false, 1, INT_MAX, &window, err);
    if (c == CL_OK) c = cl_config_windows(config, window, 0, s, err);
    if (c == CL_OK) c = cl_config_experts(config, &f, err);
    cl_spec_experts(s, f);
    return c;
}

static cl_code mixtral_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    return cl_metadata_experts(g, arch, &expert, s, err);
}

/* w1 is the gate, w3 up, w2 down. */
static const cl_name names[] = {
    {CL_T_ROUTER, "model.layers.%L.block_sparse_moe.gate.weight"},
    {CL_T_EXPERT_GATE, "model.layers.%L.block_sparse_moe.experts.%E.w1.weight"},
    {CL_T_EXPERT_UP, "model.layers.%L.block_sparse_moe.experts.%E.w3.weight"},
    {CL_T_EXPERT_DOWN, "model.layers.%L.block_sparse_moe.experts.%E.w2.weight"},
    {CL_ROLES, NULL},
};

const cl_family cl_fam_mixtral = {
    .name = "mixtral",
    .architectures = {"MixtralForCausalLM"},
    .gguf_arch = "llama",
    .experts = true,
    .gguf_pairs = true,
    .defaults = {.kv_heads = 8, .eps = 1e-5, .theta = 1e6},
    .hf_names = names,
    .config = mixtral_config,
    .metadata = mixtral_metadata,
};
