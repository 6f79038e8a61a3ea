/* config.c: config.json to cl_spec: the keys that families share. Two dialects: the hub's (rope_theta, rope_scaling with type or
 * rope_type) and transformers 5's (rope_parameters). Defaults and precedence follow transformers' configuration classes. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "family.h"
#include "sizes.h"
#include "rope.h"

/* --- rotary table --- */

static const double max = 1e12; /* of any number here */

/* Anything of these names changes the maths in a way that the engine does not know. */
static cl_code refuse_other_than(const json_t *obj, const char *key, double only, cl_err *err)
{
    double v = only;
    cl_code c = cl_json_double(obj, key, false, -INFINITY, INFINITY, &v, err);
    if (c == CL_OK && v != only) c = cl_fail(err, CL_E_INPUT, "%s: %g is not supported (only %g)", key, v, only);
    return c;
}

static cl_code rope_kind(const json_t *params, cl_rope_kind *kind, cl_err *err)
{
    static const struct { const char *name; cl_rope_kind kind; } kinds[] = {
        {"default", CL_ROPE_PLAIN}, {"linear", CL_ROPE_LINEAR}, {"llama3", CL_ROPE_LLAMA3}, {"yarn", CL_ROPE_YARN}};
    const char *key = json_object_get(params, "rope_type") ? "rope_type" : "type", *name = "default";
    cl_code c = cl_json_str(params, key, false, &name, err);
    if (c != CL_OK) return c;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            *kind = kinds[i].kind;
            return CL_OK;
        }
    }
    return cl_fail(err, CL_E_INPUT, "%s: %.60s is not supported (known: default, linear, llama3, yarn)", key, name);
}

/* params: rope_scaling or rope_parameters. */
static cl_code rope_params(const json_t *config, const json_t *params, int64_t context, cl_rope_params *p, cl_err *err)
{
    const char *name;
    json_t *v;
    double original = (double)context, implied = 0;
    json_object_foreach((json_t *)params, name, v)
        if (json_is_object(v)) return cl_fail(err, CL_E_INPUT, "%.60s: a rotary table per kind of layer is not supported", name);
    cl_code c = rope_kind(params, &p->kind, err);
    if (c == CL_OK) c = cl_json_double(params, "rope_theta", false, 1, max, &p->theta, err);
    if (c == CL_OK) c = refuse_other_than(params, "partial_rotary_factor", 1, err);
    if (c != CL_OK || p->kind == CL_ROPE_PLAIN) return c;
    /* transformers: a value beside rope_scaling counts more than the one inside. */
    c = cl_json_double(params, "original_max_position_embeddings", false, 1, max, &original, err);
    if (c == CL_OK) c = cl_json_double(config, "original_max_position_embeddings", false, 1, max, &original, err);
    p->original_context = original;
    if (p->kind == CL_ROPE_YARN) implied = (double)context / original;
    p->factor = implied;
    if (c == CL_OK) c = cl_json_double(params, "factor", implied == 0, 1e-6, max, &p->factor, err);
    if (c == CL_OK && p->kind == CL_ROPE_LLAMA3) {
        c = cl_json_double(params, "low_freq_factor", true, 1e-6, max, &p->low_freq, err);
        if (c == CL_OK) c = cl_json_double(params, "high_freq_factor", true, 1e-6, max, &p->high_freq, err);
    }
    if (c != CL_OK || p->kind != CL_ROPE_YARN) return c;
    p->beta_fast = 32;
    p->beta_slow = 1;
    p->truncate = true;
    c = cl_json_double(params, "beta_fast", false, 1e-6, max, &p->beta_fast, err);
    if (c == CL_OK) c = cl_json_double(params, "beta_slow", false, 1e-6, max, &p->beta_slow, err);
    if (c == CL_OK) c = cl_json_double(params, "attention_factor", false, 1e-6, max, &p->attention_factor, err);
    if (c == CL_OK) c = cl_json_double(params, "mscale", false, 0, max, &p->mscale, err);
    if (c == CL_OK) c = cl_json_double(params, "mscale_all_dim", false, 0, max, &p->mscale_all, err);
    if (c == CL_OK) c = cl_json_bool(params, "truncate", false, &p->truncate, err);
    return c;
}

static cl_code config_rope(const json_t *config, const cl_family *f, int64_t head_dim, cl_spec *s, cl_err *err)
{
    const char *key = "rope_scaling"; /* the hub's; where both are there, it counts */
    const json_t *params = NULL;
    cl_code c = cl_json_object(config, key, false, &params, err);
    if (c == CL_OK && json_object_size(params) == 0) c = cl_json_object(config, key = "rope_parameters", false, &params, err);
    if (c != CL_OK) return c;
    cl_rope_params p = {.dims = (int)head_dim, .theta = f->defaults.theta};
    c = cl_json_double(config, "rope_theta", false, 1, max, &p.theta, err);
    if (c == CL_OK) c = refuse_other_than(config, "partial_rotary_factor", 1, err);
    if (c == CL_OK && params && (c = rope_params(config, params, s->context, &p, err)) != CL_OK) cl_fail_prefix(err, "%s", key);
    if (c != CL_OK) return c;
    s->ropes = cl_calloc(1, sizeof *s->ropes, "rotary table", err);
    if (!s->ropes) return CL_E_FIT;
    s->n_ropes = 1;
    return cl_rope_make(&p, &s->ropes[0], err);
}

/* --- special ids --- */

static cl_code add_eos(cl_spec *s, const json_t *v, cl_err *err)
{
    if (!json_is_integer(v)) return cl_fail(err, CL_E_INPUT, "eos_token_id: must be an id or a list of ids");
    json_int_t id = json_integer_value(v);
    if (id < 0 || id > INT_MAX) return CL_OK; /* -1: some say "none" that way */
    for (int i = 0; i < s->n_eos; i++)
        if (s->eos[i] == id) return CL_OK;
    if (s->n_eos == CL_MAX_EOS) return cl_fail(err, CL_E_INPUT, "eos_token_id: more than %d ids", CL_MAX_EOS);
    s->eos[s->n_eos++] = (int)id;
    return CL_OK;
}

static cl_code config_ids(const json_t *config, cl_spec *s, cl_err *err)
{
    const json_t *eos = json_object_get(config, "eos_token_id");
    cl_code c = CL_OK;
    if (json_is_array(eos)) {
        for (size_t i = 0; i < json_array_size(eos) && c == CL_OK; i++) c = add_eos(s, json_array_get(eos, i), err);
    } else if (eos && !json_is_null(eos)) {
        c = add_eos(s, eos, err);
    }
    int64_t bos = s->bos;
    if (c == CL_OK) c = cl_json_int(config, "bos_token_id", false, -1, INT_MAX, &bos, err);
    if (c == CL_OK) s->bos = (int)bos;
    return c;
}

cl_code cl_spec_settle(cl_spec *s, cl_err *err)
{
    int n = 0;
    for (int i = 0; i < s->n_eos; i++)
        if (s->eos[i] < s->vocab) s->eos[n++] = s->eos[i];
    s->n_eos = n;
    if (s->bos >= s->vocab) s->bos = -1;
    return cl_spec_check(s, err);
}

/* --- sizes and layers --- */

cl_code cl_spec_layers(cl_spec *s, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t width, cl_err *err)
{
    s->layers = cl_calloc((size_t)s->n_layers, sizeof *s->layers, "layers", err);
    if (!s->layers) return CL_E_FIT;
    for (int i = 0; i < s->n_layers; i++) {
        s->layers[i].attn = (cl_attention){.heads = (int)heads, .kv_heads = (int)kv_heads, .head_dim = (int)head_dim,
                                           .scale = 1 / sqrt((double)head_dim)};
        s->layers[i].ffn = (cl_ffn){.kind = CL_FFN_DENSE, .width = (int)width};
    }
    return CL_OK;
}

static cl_code config_sizes(const json_t *config, const cl_family *f, cl_spec *s, cl_err *err)
{
    const cl_defaults *d = &f->defaults;
    int64_t vocab, hidden, layers, heads, width, context, kv_heads, head_dim = 0;
    s->norm_eps = d->eps;
    cl_code c = cl_json_int(config, "vocab_size", true, 1, CL_MAX_SIZE, &vocab, err);
    if (c == CL_OK) c = cl_json_int(config, "hidden_size", true, 1, CL_MAX_SIZE, &hidden, err);
    if (c == CL_OK) c = cl_json_int(config, "num_hidden_layers", true, 1, CL_MAX_LAYERS, &layers, err);
    if (c == CL_OK) c = cl_json_int(config, "num_attention_heads", true, 1, CL_MAX_HEADS, &heads, err);
    if (c == CL_OK) c = cl_json_int(config, "intermediate_size", true, 1, CL_MAX_SIZE, &width, err);
    if (c == CL_OK) c = cl_json_int(config, "max_position_embeddings", true, 1, INT_MAX, &context, err);
    if (c == CL_OK) c = cl_json_double(config, "rms_norm_eps", false, 0, 1, &s->norm_eps, err);
    if (c == CL_OK) c = cl_json_bool(config, "tie_word_embeddings", false, &s->tied, err);
    if (c != CL_OK) return c;
    kv_heads = d->kv_heads && !json_object_get(config, "num_key_value_heads") ? d->kv_heads : heads;
    c = cl_json_int(config, "num_key_value_heads", false, 1, CL_MAX_HEADS, &kv_heads, err);
    if (c == CL_OK) c = cl_json_int(config, "head_dim", false, 1, CL_MAX_HEADS, &head_dim, err);
    if (c != CL_OK) return c;
    if (heads % kv_heads)
        return cl_fail(err, CL_E_INPUT, "num_attention_heads: %lld is not a multiple of num_key_value_heads, %lld",
                       (long long)heads, (long long)kv_heads);
    if (head_dim == 0) head_dim = d->head_dim;
    if (head_dim == 0) {
        if (hidden % heads)
            return cl_fail(err, CL_E_INPUT,
                           "hidden_size: %lld is not a multiple of num_attention_heads, %lld, and there is no head_dim",
                           (long long)hidden, (long long)heads);
        head_dim = hidden / heads;
    }
    s->vocab = (int)vocab;
    s->hidden = (int)hidden;
    s->n_layers = (int)layers;
    s->context = (int)context;
    c = cl_spec_layers(s, heads, kv_heads, head_dim, width, err);
    return c == CL_OK ? config_rope(config, f, head_dim, s, err) : c;
}

static cl_code config_refuse(const json_t *config, cl_err *err)
{
    const char *act = "silu";
    const json_t *quant = json_object_get(config, "quantization_config");
    if (quant && !json_is_null(quant)) {
        const char *method = json_string_value(json_object_get(quant, "quant_method"));
        return cl_fail(err, CL_E_INPUT,
                       "quantization_config: %.60s is not supported (convert the unquantised checkpoint, or a GGUF)",
                       method ? method : "this way of quantising");
    }
    cl_code c = cl_json_str(config, "hidden_act", false, &act, err);
    if (c == CL_OK && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        c = cl_fail(err, CL_E_INPUT, "hidden_act: %.60s is not supported (only silu)", act);
    return c;
}

cl_code cl_config_spec(const json_t *config, const json_t *generation, cl_spec *s, const cl_family **f, cl_err *err)
{
    *s = (cl_spec){.bos = -1};
    if (!json_is_object(config)) return cl_fail(err, CL_E_INPUT, "is not an object");
    cl_code c = cl_family_of_config(config, f, err);
    if (c == CL_OK) c = config_refuse(config, err);
    if (c == CL_OK) c = config_sizes(config, *f, s, err);
    if (c == CL_OK && (*f)->config) c = (*f)->config(config, s, err);
    if (c == CL_OK) c = config_ids(config, s, err);
    if (c == CL_OK && json_is_object(generation)) c = config_ids(generation, s, err);
    if (c == CL_OK) strncpy(s->family, (*f)->name, sizeof s->family - 1);
    else cl_spec_free(s);
    return c;
}

/* --- helpers for families --- */

cl_code cl_config_windows(const json_t *config, int64_t window, int64_t from, cl_spec *s, cl_err *err)
{
    const json_t *types = NULL;
    cl_code c = cl_json_array(config, "layer_types", false, &types, err);
    if (c != CL_OK) return c;
    if (types && json_array_size(types) != (size_t)s->n_layers)
        return cl_fail(err, CL_E_INPUT, "layer_types: has %zu entries, num_hidden_layers is %d", json_array_size(types),
                       s->n_layers);
    for (int i = 0; i < s->n_layers; i++) {
        bool slides = i >= from;
        if (types) {
            const char *t = json_string_value(json_array_get(types, (size_t)i));
            slides = t && strcmp(t, "sliding_attention") == 0;
            if (!slides && !(t && strcmp(t, "full_attention") == 0))
                return cl_fail(err, CL_E_INPUT, "layer_types: %.60s is not supported (known: full_attention, sliding_attention)",
                               t ? t : "what is not a text");
            if (slides && window == 0)
                return cl_fail(err, CL_E_INPUT, "layer_types: layer %d slides, but there is no sliding_window", i);
        }
        s->layers[i].attn.window = slides ? (int)window : 0;
    }
    return CL_OK;
}

cl_code cl_config_attention_bias(const json_t *config, cl_spec *s, cl_err *err)
{
    bool bias = false;
    cl_code c = cl_json_bool(config, "attention_bias", false, &bias, err);
    for (int i = 0; i < s->n_layers; i++) s->layers[i].attn.qkv_bias = s->layers[i].attn.o_bias = bias;
    return c;
}

cl_code cl_config_experts(const json_t *config, int64_t *experts, int64_t *top_k, cl_err *err)
{
    cl_code c = cl_json_int(config, "num_local_experts", false, 1, CL_MAX_EXPERTS, experts, err);
    if (c == CL_OK) c = cl_json_int(config, "num_experts", false, 1, CL_MAX_EXPERTS, experts, err);
    if (c == CL_OK) c = cl_json_int(config, "num_experts_per_tok", false, 1, CL_MAX_EXPERTS, top_k, err);
    if (c == CL_OK && *top_k > *experts)
        c = cl_fail(err, CL_E_INPUT, "num_experts_per_tok: %lld is more than the %lld experts", (long long)*top_k,
                    (long long)*experts);
    return c;
}
