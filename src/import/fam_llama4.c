/* fam_llama4.c: Llama 4's language model, alone or inside the multimodal checkpoint. Layers with positions see their
 * own chunk and may normalise q and k without weights; every fourth layer has no positions, sees everything, and
 * sharpens its queries with the distance. A router's sigmoid scales an expert's input; a shared expert is always added.
 * Sources: transformers' configuration_llama4.py, modeling_llama4.py; what GGUF files leave to their readers
 * (which layers have positions, the temperature of those that have none) is as in the configuration's defaults. */
#include <limits.h>
#include <stdlib.h>

#include "chipline/util.h"
#include "family.h"
#include "sizes.h"

enum { CHUNK = 8192, INTERVAL = 4, NO_NORM_EXPERTS = 128 };
static const double temperature = 0.1, temperature_floor = 8192;
static const cl_ffn expert = {
    .kind = CL_FFN_MOE,
    .experts = 16,
    .top_k = 1,
    .scoring = CL_SCORE_SIGMOID,
    .weight_scale = 1,
    .weight_input = true,
};

/* no_rope_layers: 1 where positions are encoded, despite its name; empty or absent: all but every
 * no_rope_layer_interval-th. */
static cl_code encoded_layers(const json_t *config, cl_spec *s, bool *encoded, cl_err *err)
{
    const json_t *list = NULL;
    int64_t interval = INTERVAL;
    cl_code c = cl_json_int(config, "no_rope_layer_interval", false, 1, INT_MAX, &interval, err);
    if (c == CL_OK) c = cl_json_array(config, "no_rope_layers", false, &list, err);
    if (c != CL_OK) return c;
    size_t n = json_array_size(list);
    if (n > 0 && n < (size_t)s->n_layers)
        return cl_fail(err, CL_E_INPUT, "no_rope_layers: has %zu entries, num_hidden_layers is %d", n, s->n_layers);
    for (int i = 0; i < s->n_layers; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        encoded[i] = n ? json_integer_value(v) == 1 : (i + 1) % interval != 0;
        if (n && !(json_is_integer(v) && (json_integer_value(v) == 0 || json_integer_value(v) == 1)))
            return cl_fail(err, CL_E_INPUT, "no_rope_layers: entry %d is neither 0 nor 1", i);
    }
    return CL_OK;
}

/* Older configurations have a number here; only whether it is 0 was ever looked at. */
static cl_code tuning(const json_t *config, bool *on, cl_err *err)
{
    const json_t *v = json_object_get(config, "attn_temperature_tuning");
    if (!json_is_integer(v)) return cl_json_bool(config, "attn_temperature_tuning", false, on, err);
    *on = json_integer_value(v) != 0;
    return CL_OK;
}

static void unencoded(cl_attention *a, double t, double floor)
{
    a->rope = -1;
    a->temperature = t;
    a->temperature_floor = t > 0 ? floor : 0;
}

static cl_code attention(const json_t *config, cl_spec *s, bool *encoded, cl_err *err)
{
    bool norm = true, tuned = true;
    double t = temperature, floor = temperature_floor;
    int64_t chunk = json_object_get(config, "attention_chunk_size") ? 0 : CHUNK; /* null: none */
    cl_code c = encoded_layers(config, s, encoded, err);
    if (c == CL_OK) c = cl_config_attention_bias(config, false, true, s, err);
    if (c == CL_OK) c = cl_json_bool(config, "use_qk_norm", false, &norm, err);
    if (c == CL_OK) c = tuning(config, &tuned, err);
    if (c == CL_OK) c = cl_json_double(config, "attn_scale", false, 0, 1e6, &t, err);
    if (c == CL_OK) c = cl_json_double(config, "floor_scale", false, 1, 1e12, &floor, err);
    if (c == CL_OK) c = cl_json_int(config, "attention_chunk_size", false, 1, INT_MAX, &chunk, err);
    if (c == CL_OK) c = cl_config_layer_windows(config, "chunked_attention", chunk, encoded, s, err);
    for (int i = 0; i < s->n_layers && c == CL_OK; i++) {
        cl_attention *a = &s->layers[i].attn;
        a->chunked = a->window > 0;
        if (!encoded[i]) unencoded(a, tuned ? t : 0, floor);
        else if (norm) a->qk_norm = CL_QK_NORM_UNIT;
    }
    return c;
}

/* moe_layers lists the mixtures; without it every interleave_moe_layer_step-th layer is one. */
static cl_code mixtures(const json_t *config, cl_spec *s, cl_err *err)
{
    const json_t *list = NULL;
    cl_ffn f = expert;
    int64_t step = 1, dense = 16384;
    cl_code c = cl_config_experts(config, &f, err);
    if (c == CL_OK) c = cl_json_int(config, "intermediate_size_mlp", false, 1, CL_MAX_SIZE, &dense, err);
    if (c == CL_OK) c = cl_json_int(config, "interleave_moe_layer_step", false, 1, INT_MAX, &step, err);
    if (c == CL_OK) c = cl_json_array(config, "moe_layers", false, &list, err);
    if (c != CL_OK) return c;
    f.width = f.shared_width = s->layers[0].ffn.width;
    for (int i = 0; i < s->n_layers; i++) {
        s->layers[i].ffn.width = (int)dense;
        if (!list && (i + 1) % step == 0) s->layers[i].ffn = f;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        int layer;
        if ((c = cl_config_layer(list, i, "moe_layers", s, &layer, err)) != CL_OK) return c;
        s->layers[layer].ffn = f;
    }
    return CL_OK;
}

static cl_code llama4_config(const json_t *config, cl_spec *s, cl_err *err)
{
    bool *encoded = cl_calloc((size_t)s->n_layers, sizeof *encoded, "layers", err);
    if (!encoded) return CL_E_FIT;
    cl_code c = attention(config, s, encoded, err);
    free(encoded);
    return c == CL_OK ? mixtures(config, s, err) : c;
}

/* Files do not say which layers have no positions, nor whether q and k are normalised (all are but those of 128
 * experts). */
static cl_code llama4_metadata(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err)
{
    double t = temperature, floor = temperature_floor;
    int64_t experts = 0;
    cl_code c = cl_metadata_windows(g, arch, CHUNK, INTERVAL, s, err);
    if (c == CL_OK) c = cl_metadata_double(g, arch, "attention.temperature_scale", false, 0, 1e6, &t, err);
    if (c == CL_OK) c = cl_metadata_double(g, arch, "attention.temperature_length", false, 1, 1e12, &floor, err);
    if (c == CL_OK) c = cl_metadata_experts(g, arch, &expert, s, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "expert_count", -1, true, 1, CL_MAX_EXPERTS, &experts, err);
    for (int i = 0; i < s->n_layers && c == CL_OK; i++) {
        cl_attention *a = &s->layers[i].attn;
        a->chunked = a->window > 0;
        if (!a->chunked) unencoded(a, t, floor);
        else if (experts != NO_NORM_EXPERTS) a->qk_norm = CL_QK_NORM_UNIT;
    }
    return c;
}

/* Experts are [expert, in, out], gate and up one after the other. */
static const cl_name names[] = {
    {CL_T_GATE, "model.layers.%L.feed_forward.gate_proj.weight"},
    {CL_T_UP, "model.layers.%L.feed_forward.up_proj.weight"},
    {CL_T_DOWN, "model.layers.%L.feed_forward.down_proj.weight"},
    {CL_T_ROUTER, "model.layers.%L.feed_forward.router.weight"},
    {CL_T_EXPERT_GATE, "model.layers.%L.feed_forward.experts.gate_up_proj", CL_TAKE_FIRST, true},
    {CL_T_EXPERT_UP, "model.layers.%L.feed_forward.experts.gate_up_proj", CL_TAKE_SECOND, true},
    {CL_T_EXPERT_DOWN, "model.layers.%L.feed_forward.experts.down_proj", CL_TAKE_ALL, true},
    {CL_T_SHARED_GATE, "model.layers.%L.feed_forward.shared_expert.gate_proj.weight"},
    {CL_T_SHARED_UP, "model.layers.%L.feed_forward.shared_expert.up_proj.weight"},
    {CL_T_SHARED_DOWN, "model.layers.%L.feed_forward.shared_expert.down_proj.weight"},
    {CL_ROLES, NULL},
};

const cl_family cl_fam_llama4 = {
    .name = "llama4",
    .types = {"llama4_text"},
    .architectures = {"Llama4ForCausalLM", "Llama4ForConditionalGeneration"},
    .gguf_arch = "llama4",
    .experts = true,
    .defaults = {.kv_heads = 8, .head_dim = 128, .eps = 1e-5, .theta = 500000, .pairing = CL_ROPE_INTERLEAVED},
    .hf_names = names,
    .config = llama4_config,
    .metadata = llama4_metadata,
};
