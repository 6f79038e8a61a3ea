/* fam_gpt_oss.c: gpt-oss: every second layer sees a window, attention has sinks, everything has biases, experts clamp
 * their activations and are chosen by the router's outputs before the softmax.
 * Sources: transformers' configuration_gpt_oss.py, modeling_gpt_oss.py; gguf-py's constants. */
#include <limits.h>
#include <stdlib.h>

#include "chipline/util.h"
#include "family.h"

static const cl_ffn expert = {
    .kind = CL_FFN_MOE,
    .bias = true,
    .glu = CL_GLU_CLAMPED,
    .glu_limit = 7,
    .glu_alpha = 1.702,
    .experts = 128,
    .top_k = 4,
    .scoring = CL_SCORE_CHOSEN_SOFTMAX,
    .router_bias = true,
    .weight_scale = 1,
};

static cl_code windows(const json_t *config, cl_spec *s, cl_err *err)
{
    int64_t window = json_object_get(config, "sliding_window") ? 0 : 128;
    bool *slides = cl_calloc((size_t)s->n_layers, sizeof *slides, "layers", err);
    if (!slides) return CL_E_FIT;
    for (int i = 0; i < s->n_layers; i++) slides[i] = i % 2 == 0;
    cl_code c = cl_json_int(config, "sliding_window", false, 1, INT_MAX, &window, err);
    if (c == CL_OK) c = cl_config_layer_windows(config, "sliding_attention", window, slides, s, err);
    free(slides);
    return c;
}

static cl_code gpt_oss_config(const json_t *config, cl_spec *s, cl_err *err)
{
    cl_ffn f = expert;
    cl_code c = windows(config, s, err);
    if (c == CL_OK) c = cl_config_attention_bias(config, true, true, s, err);
    if (c == CL_OK) c = cl_config_experts(config, &f, err);
    if (c == CL_OK) c = cl_json_double(config, "swiglu_limit", false, 1e-6, 1e30, &f.glu_limit, err);
    if (c == CL_OK) c = cl_json_double(config, "swiglu_alpha", false, 1e-6, 1e30, &f.glu_alpha, err);
    cl_spec_experts(s, f);
    for (int i = 0; i < s->n_layers; i++) s->layers[i].attn.sinks = true;
    return c;
}

/* Biases and sinks must be there: what is missing is reported when tensors are looked for. */
static cl_code gpt_oss_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    cl_code c = cl_metadata_windows(g, arch, 0, 2, s, err);
    if (c == CL_OK) c = cl_metadata_experts(g, arch, &expert, s, err);
    for (int i = 0; i < s->n_layers; i++) {
        cl_attention *a = &s->layers[i].attn;
        a->sinks = a->qkv_bias = a->o_bias = true;
    }
    return c;
}

/* Gate and up lie row by row in one tensor; experts that are not quantised are [expert, in, out]. */
static const cl_name hf[] = {
    {CL_T_SINKS, "model.layers.%L.self_attn.sinks"},
    {CL_T_ROUTER, "model.layers.%L.mlp.router.weight"},
    {CL_T_ROUTER_BIAS, "model.layers.%L.mlp.router.bias"},
    {CL_T_EXPERT_GATE, "model.layers.%L.mlp.experts.gate_up_proj", CL_TAKE_EVEN, true},
    {CL_T_EXPERT_UP, "model.layers.%L.mlp.experts.gate_up_proj", CL_TAKE_ODD, true},
    {CL_T_EXPERT_DOWN, "model.layers.%L.mlp.experts.down_proj", CL_TAKE_ALL, true},
    {CL_T_EXPERT_GATE_BIAS, "model.layers.%L.mlp.experts.gate_up_proj_bias", CL_TAKE_EVEN, false},
    {CL_T_EXPERT_UP_BIAS, "model.layers.%L.mlp.experts.gate_up_proj_bias", CL_TAKE_ODD, false},
    {CL_T_EXPERT_DOWN_BIAS, "model.layers.%L.mlp.experts.down_proj_bias"},
    {CL_ROLES, NULL},
};

static const cl_name gguf[] = {
    {CL_T_FFN_NORM, "blk.%L.post_attention_norm.weight"},
    {CL_ROLES, NULL},
};

static const cl_rope_params rope =
    {.kind = CL_ROPE_YARN, .factor = 32, .original_context = 4096, .beta_fast = 32, .beta_slow = 1, .truncate = false};

const cl_family cl_fam_gpt_oss = {
    .name = "gpt_oss",
    .architectures = {"GptOssForCausalLM"},
    .gguf_arch = "gpt-oss",
    .experts = true,
    .defaults = {.kv_heads = 8, .head_dim = 64, .eps = 1e-5, .theta = 150000, .rope = &rope},
    .hf_names = hf,
    .gguf_names = gguf,
    .config = gpt_oss_config,
    .metadata = gpt_oss_metadata,
};
