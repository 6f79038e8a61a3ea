/* fam_llama.c: Llama 2 and 3, SmolLM2, and Mistral, which is Llama with a sliding window.
 * Sources: transformers' configuration_llama.py, modeling_llama.py, configuration_mistral.py, modeling_mistral.py. */
#include <limits.h>

#include "family.h"

static cl_code llama_config(const json_t *config, cl_spec *s, cl_err *err)
{
    bool bias = false;
    cl_code c = cl_config_attention_bias(config, false, true, s, err);
    if (c == CL_OK) c = cl_json_bool(config, "mlp_bias", false, &bias, err);
    for (int i = 0; i < s->n_layers; i++) s->layers[i].ffn.bias = bias;
    return c;
}

const cl_family cl_fam_llama = {
    .name = "llama",
    .architectures = {"LlamaForCausalLM"},
    .gguf_arch = "llama",
    .gguf_pairs = true,
    .defaults = {.eps = 1e-6, .theta = 10000},
    .config = llama_config,
};

/* The class assumes a window of 4096 keys where the key is absent; null means none. The token's own key is one of them
 * (masking_utils.py: kv_idx > q_idx - sliding_window). */
static cl_code mistral_config(const json_t *config, cl_spec *s, cl_err *err)
{
    int64_t window = json_object_get(config, "sliding_window") ? 0 : 4096;
    cl_code c = cl_json_int(config, "sliding_window", false, 1, INT_MAX, &window, err);
    return c == CL_OK ? cl_config_windows(config, window, 0, s, err) : c;
}

const cl_family cl_fam_mistral = {
    .name = "mistral",
    .architectures = {"MistralForCausalLM"},
    .defaults = {.kv_heads = 8, .eps = 1e-6, .theta = 10000},
    .config = mistral_config,
};
