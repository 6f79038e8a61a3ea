/* fam_qwen.c: Qwen2 and 2.5 (biases on q, k, v), Qwen3 (q and k normalised per head) and Qwen3-MoE.
 * Sources: transformers' configuration_qwen2.py, configuration_qwen3.py, configuration_qwen3_moe.py and their
 * modeling files. */
#include <limits.h>

#include "family.h"
#include "sizes.h"

/* sliding_window counts only with use_sliding_window; without layer_types, layers from `from` on slide. */
static cl_code qwen_windows(const json_t *config, int64_t from, cl_spec *s, cl_err *err)
{
    bool use = false;
    int64_t window = json_object_get(config, "sliding_window") ? 0 : 4096;
    cl_code c = cl_json_bool(config, "use_sliding_window", false, &use, err);
    if (c == CL_OK && use) c = cl_json_int(config, "sliding_window", false, 1, INT_MAX, &window, err);
    return c == CL_OK ? cl_config_windows(config, use ? window : 0, from, s, err) : c;
}

static cl_code qwen_dense_windows(const json_t *config, cl_spec *s, cl_err *err)
{
    int64_t from = 28;
    cl_code c = cl_json_int(config, "max_window_layers", false, 0, INT_MAX, &from, err);
    return c == CL_OK ? qwen_windows(config, from, s, err) : c;
}

static cl_code qwen2_config(const json_t *config, cl_spec *s, cl_err *err)
{
    for (int i = 0; i < s->n_layers; i++) s->layers[i].attn.qkv_bias = true;
    return qwen_dense_windows(config, s, err);
}

const cl_family cl_fam_qwen2 = {
    .name = "qwen2",
    .architectures = {"Qwen2ForCausalLM"},
    .gguf_arch = "qwen2",
    .defaults = {.kv_heads = 32, .eps = 1e-6, .theta = 10000},
    .config = qwen2_config,
};

static cl_code qwen3_config(const json_t *config, cl_spec *s, cl_err *err)
{
    cl_spec_qk_norm(s, CL_QK_NORM_HEAD);
    cl_code c = cl_config_attention_bias(config, false, true, s, err);
    return c == CL_OK ? qwen_dense_windows(config, s, err) : c;
}

static cl_code qwen3_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    cl_spec_qk_norm(s, CL_QK_NORM_HEAD);
    return CL_OK;
}

const cl_family cl_fam_qwen3 = {
    .name = "qwen3",
    .architectures = {"Qwen3ForCausalLM"},
    .gguf_arch = "qwen3",
    .defaults = {.kv_heads = 32, .head_dim = 128, .eps = 1e-6, .theta = 10000},
    .config = qwen3_config,
    .metadata = qwen3_metadata,
};

static const cl_ffn expert = {.kind = CL_FFN_MOE, .width = 768, .experts = 128, .top_k = 8, .weight_scale = 1};

/* Layers of mlp_only_layers and those that decoder_sparse_step skips stay dense. */
static cl_code qwen3_moe_layers(const json_t *config, cl_spec *s, cl_err *err)
{
    cl_ffn f = expert;
    int64_t width = f.width, step = 1;
    const json_t *dense = NULL;
    cl_code c = cl_config_experts(config, &f, err);
    if (c == CL_OK) c = cl_json_int(config, "moe_intermediate_size", false, 1, CL_MAX_SIZE, &width, err);
    if (c == CL_OK) c = cl_json_int(config, "decoder_sparse_step", false, 1, INT_MAX, &step, err);
    if (c == CL_OK) c = cl_json_bool(config, "norm_topk_prob", false, &f.renormalise, err);
    if (c == CL_OK) c = cl_json_array(config, "mlp_only_layers", false, &dense, err);
    if (c != CL_OK) return c;
    for (int i = 0; i < s->n_layers; i++)
        if ((i + 1) % step == 0) s->layers[i].ffn.kind = CL_FFN_MOE;
    for (size_t i = 0; i < json_array_size(dense); i++) {
        int layer;
        if ((c = cl_config_layer(dense, i, "mlp_only_layers", s, &layer, err)) != CL_OK) return c;
        s->layers[layer].ffn.kind = CL_FFN_DENSE;
    }
    f.width = (int)width;
    for (int i = 0; i < s->n_layers; i++)
        if (s->layers[i].ffn.kind == CL_FFN_MOE) s->layers[i].ffn = f;
    return CL_OK;
}

static cl_code qwen3_moe_config(const json_t *config, cl_spec *s, cl_err *err)
{
    cl_spec_qk_norm(s, CL_QK_NORM_HEAD);
    cl_code c = cl_config_attention_bias(config, false, true, s, err);
    if (c == CL_OK) c = qwen_windows(config, 0, s, err);
    return c == CL_OK ? qwen3_moe_layers(config, s, err) : c;
}

/* Real files have no expert_weights_norm: their readers renormalise, and every released Qwen3-MoE wants it. */
static cl_code qwen3_moe_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    cl_spec_qk_norm(s, CL_QK_NORM_HEAD);
    return cl_metadata_experts(g, arch, &(cl_ffn){.renormalise = true, .weight_scale = 1}, s, err);
}

const cl_family cl_fam_qwen3_moe = {
    .name = "qwen3_moe",
    .architectures = {"Qwen3MoeForCausalLM"},
    .gguf_arch = "qwen3moe",
    .experts = true,
    .defaults = {.kv_heads = 4, .eps = 1e-6, .theta = 10000},
    .config = qwen3_moe_config,
    .metadata = qwen3_moe_metadata,
};
