/* fam_olmoe.c: OLMoE: q and k are normalised over all heads at once, then clipped; router weights are not
 * renormalised unless the configuration asks. Sources: transformers' configuration_olmoe.py, modeling_olmoe.py. */
#include "family.h"

static const cl_ffn expert = {.kind = CL_FFN_MOE, .experts = 64, .top_k = 8, .weight_scale = 1};

static cl_code olmoe_config(const json_t *config, cl_spec *s, cl_err *err)
{
    cl_ffn f = expert;
    double clip = 0;
    cl_code c = cl_config_attention_bias(config, false, true, s, err);
    if (c == CL_OK) c = cl_config_experts(config, &f, err);
    if (c == CL_OK) c = cl_json_bool(config, "norm_topk_prob", false, &f.renormalise, err);
    if (c == CL_OK) c = cl_json_double(config, "clip_qkv", false, 1e-6, 1e30, &clip, err);
    cl_spec_qk_norm(s, CL_QK_NORM_FULL);
    cl_spec_experts(s, f);
    for (int i = 0; i < s->n_layers; i++) s->layers[i].attn.clip = clip;
    return c;
}

static cl_code olmoe_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    cl_spec_qk_norm(s, CL_QK_NORM_FULL);
    return cl_metadata_experts(g, arch, &expert, s, err);
}

const cl_family cl_fam_olmoe = {
    .name = "olmoe",
    .architectures = {"OlmoeForCausalLM"},
    .gguf_arch = "olmoe",
    .experts = true,
    .defaults = {.eps = 1e-5, .theta = 10000},
    .config = olmoe_config,
    .metadata = olmoe_metadata,
};
