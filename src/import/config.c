/* config.c: config.json to cl_spec: the keys that families share. The hub's dialect and transformers 5's; a
 * multimodal model's text_config is what counts. Defaults and precedence follow transformers' configuration classes. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"
#include "family.h"
#include "sizes.h"

const json_t *cl_config_text(const json_t *config)
{
    const json_t *text = json_object_get(config, "text_config");
    return json_is_object(text) ? text : config;
}

/* --- special ids --- */

static cl_code add_eos(cl_spec *s, const json_t *v, cl_err *err)
{
    if (!json_is_integer(v)) return cl_fail(err, CL_E_INPUT, "eos_token_id: must be an id or a list of ids");
    json_int_t id = json_integer_value(v);
    if (id < -1 || id > INT_MAX)
        return cl_fail(err, CL_E_INPUT, "eos_token_id: is %lld, must be from -1 to %d", (long long)id, INT_MAX);
    if (id == -1) return CL_OK; /* some say "none" that way */
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
        s->layers[i].attn = (cl_attention){.heads = (int)heads,
                                           .kv_heads = (int)kv_heads,
                                           .head_dim = (int)head_dim,
                                           .scale = 1 / sqrt((double)head_dim)};
        s->layers[i].ffn = (cl_ffn){.kind = CL_FFN_DENSE, .width = (int)width};
    }
    return CL_OK;
}

/* Grouped attention: kv_heads and head_dim, and the rotary table. */
static cl_code config_heads(const json_t *config, const cl_family *f, int64_t heads, int64_t width, cl_spec *s,
                            cl_err *err)
{
    const cl_defaults *d = &f->defaults;
    int64_t kv_heads = d->kv_heads && !json_object_get(config, "num_key_value_heads") ? d->kv_heads : heads,
            head_dim = 0, dims;
    cl_code c = cl_json_int(config, "num_key_value_heads", false, 1, CL_MAX_HEADS, &kv_heads, err);
    if (c == CL_OK) c = cl_json_int(config, "head_dim", false, 1, CL_MAX_HEADS, &head_dim, err);
    if (c != CL_OK) return c;
    if (heads % kv_heads)
        return cl_fail(err, CL_E_INPUT, "num_attention_heads: %lld is not a multiple of num_key_value_heads, %lld",
                       (long long)heads, (long long)kv_heads);
    if (head_dim == 0) head_dim = d->head_dim;
    if (head_dim == 0) {
        if (s->hidden % heads)
            return cl_fail(err, CL_E_INPUT,
                           "hidden_size: %d is not a multiple of num_attention_heads, %lld, and there is no head_dim",
                           s->hidden, (long long)heads);
        head_dim = s->hidden / heads;
    }
    c = cl_spec_layers(s, heads, kv_heads, head_dim, width, err);
    if (c == CL_OK) c = cl_config_rotary_dims(config, f, head_dim, &dims, err);
    return c == CL_OK ? cl_config_rope(config, f, dims, s, NULL, err) : c;
}

static cl_code config_sizes(const json_t *config, const cl_family *f, cl_spec *s, cl_err *err)
{
    int64_t vocab, hidden, layers, heads, width, context;
    s->norm_eps = f->defaults.eps;
    cl_code c = cl_json_int(config, "vocab_size", true, 1, CL_MAX_SIZE, &vocab, err);
    if (c == CL_OK) c = cl_json_int(config, "hidden_size", true, 1, CL_MAX_SIZE, &hidden, err);
    if (c == CL_OK) c = cl_json_int(config, "num_hidden_layers", true, 1, CL_MAX_LAYERS, &layers, err);
    if (c == CL_OK) c = cl_json_int(config, "num_attention_heads", true, 1, CL_MAX_HEADS, &heads, err);
    if (c == CL_OK) c = cl_json_int(config, "intermediate_size", true, 1, CL_MAX_SIZE, &width, err);
    if (c == CL_OK) c = cl_json_int(config, "max_position_embeddings", true, 1, INT_MAX, &context, err);
    if (c == CL_OK) c = cl_json_double(config, "rms_norm_eps", false, 0, 1, &s->norm_eps, err);
    if (c == CL_OK) c = cl_json_bool(config, "tie_word_embeddings", false, &s->tied, err);
    if (c != CL_OK) return c;
    s->vocab = (int)vocab;
    s->hidden = (int)hidden;
    s->n_layers = (int)layers;
    s->context = (int)context;
    return f->own_attention ? cl_spec_layers(s, heads, 1, 1, width, err)
                            : config_heads(config, f, heads, width, s, err);
}

static cl_code config_activation(const json_t *config, cl_err *err)
{
    const char *act = "silu";
    cl_code c = cl_json_str(config, "hidden_act", false, &act, err);
    if (c == CL_OK && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        c = cl_fail(err, CL_E_INPUT, "hidden_act: %.60s is not supported (only silu)", act);
    return c;
}

/* text is config, or the text_config inside. */
static cl_code config_parts(const json_t *config, const json_t *text, const json_t *generation, cl_spec *s,
                            const cl_family *f, cl_err *err)
{
    cl_code c = config_activation(text, err);
    if (c == CL_OK) c = cl_json_bool(config, "tie_word_embeddings", false, &s->tied, err);
    if (c == CL_OK) c = config_sizes(text, f, s, err);
    if (c == CL_OK && f->config) c = f->config(text, s, err);
    if (c == CL_OK && text != config && !json_object_get(text, "eos_token_id")) c = config_ids(config, s, err);
    if (c == CL_OK) c = config_ids(text, s, err);
    if (c == CL_OK && json_is_object(generation)) c = config_ids(generation, s, err);
    return c;
}

cl_code cl_config_spec(const json_t *config, const json_t *generation, cl_spec *s, const cl_family **f, cl_err *err)
{
    *s = (cl_spec){.bos = -1};
    if (!json_is_object(config)) return cl_fail(err, CL_E_INPUT, "is not an object");
    cl_code c = cl_family_of_config(config, f, err);
    if (c == CL_OK) c = cl_config_quant_known(config, err);
    if (c == CL_OK) c = config_parts(config, cl_config_text(config), generation, s, *f, err);
    if (c == CL_OK) strncpy(s->family, (*f)->name, sizeof s->family - 1);
    else cl_spec_free(s);
    return c;
}

/* --- helpers for families --- */

cl_code cl_config_only(const json_t *config, const char *key, double only, cl_err *err)
{
    double v = only;
    cl_code c = cl_json_double(config, key, false, -INFINITY, INFINITY, &v, err);
    if (c == CL_OK && v != only) c = cl_fail(err, CL_E_INPUT, "%s: %g is not supported (only %g)", key, v, only);
    return c;
}

cl_code cl_config_only_text(const json_t *config, const char *key, const char *only, cl_err *err)
{
    const char *is = only;
    cl_code c = cl_json_str(config, key, false, &is, err);
    if (c == CL_OK && strcmp(is, only) != 0)
        c = cl_fail(err, CL_E_INPUT, "%s: %.60s is not supported (only %s)", key, is, only);
    return c;
}

cl_code cl_config_layer_windows(const json_t *config, const char *kind, int64_t window, const bool *slides, cl_spec *s,
                                cl_err *err)
{
    const json_t *types = NULL;
    cl_code c = cl_json_array(config, "layer_types", false, &types, err);
    if (c != CL_OK) return c;
    if (types && json_array_size(types) != (size_t)s->n_layers)
        return cl_fail(err, CL_E_INPUT, "layer_types: has %zu entries, num_hidden_layers is %d", json_array_size(types),
                       s->n_layers);
    for (int i = 0; i < s->n_layers; i++) {
        bool narrow = slides[i];
        if (types) {
            const char *t = json_string_value(json_array_get(types, (size_t)i));
            narrow = t && strcmp(t, kind) == 0;
            if (!narrow && !(t && strcmp(t, "full_attention") == 0))
                return cl_fail(err, CL_E_INPUT, "layer_types: %.60s is not supported (known: full_attention, %s)",
                               t ? t : "what is not a text", kind);
            if (narrow && window == 0)
                return cl_fail(err, CL_E_INPUT, "layer_types: layer %d is %s, but the configuration has no window", i,
                               kind);
        }
        s->layers[i].attn.window = narrow ? (int)window : 0;
    }
    return CL_OK;
}

cl_code cl_config_windows(const json_t *config, int64_t window, int64_t from, cl_spec *s, cl_err *err)
{
    bool *slides = cl_calloc((size_t)s->n_layers, sizeof *slides, "layers", err);
    if (!slides) return CL_E_FIT;
    for (int i = 0; i < s->n_layers; i++) slides[i] = i >= from;
    cl_code c = cl_config_layer_windows(config, "sliding_attention", window, slides, s, err);
    free(slides);
    return c;
}

cl_code cl_config_attention_bias(const json_t *config, bool bias, bool o, cl_spec *s, cl_err *err)
{
    cl_code c = cl_json_bool(config, "attention_bias", false, &bias, err);
    for (int i = 0; i < s->n_layers; i++) {
        s->layers[i].attn.qkv_bias = bias;
        s->layers[i].attn.o_bias = bias && o;
    }
    return c;
}

static cl_code enough_experts(int64_t top_k, int64_t experts, cl_err *err)
{
    if (top_k <= experts) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "num_experts_per_tok: %lld is more than the %lld experts", (long long)top_k,
                   (long long)experts);
}

cl_code cl_config_experts(const json_t *config, cl_ffn *f, cl_err *err)
{
    int64_t experts = f->experts, top_k = f->top_k;
    cl_code c = cl_json_int(config, "num_local_experts", false, 1, CL_MAX_EXPERTS, &experts, err);
    if (c == CL_OK) c = cl_json_int(config, "num_experts", false, 1, CL_MAX_EXPERTS, &experts, err);
    if (c == CL_OK) c = cl_json_int(config, "num_experts_per_tok", false, 1, CL_MAX_EXPERTS, &top_k, err);
    if (c == CL_OK) c = enough_experts(top_k, experts, err);
    f->experts = (int)experts;
    f->top_k = (int)top_k;
    return c;
}

cl_code cl_config_layer(const json_t *list, size_t i, const char *key, const cl_spec *s, int *layer, cl_err *err)
{
    const json_t *v = json_array_get(list, i);
    json_int_t at = json_integer_value(v);
    if (!json_is_integer(v) || at < 0 || at >= s->n_layers)
        return cl_fail(err, CL_E_INPUT, "%s: entry %zu is not a layer of this model", key, i);
    *layer = (int)at;
    return CL_OK;
}

/* Fills in f's groups; f->group_best and the numbers of experts are set. */
static cl_code config_groups(const json_t *config, cl_ffn *f, cl_err *err)
{
    int64_t groups = f->groups, top = f->top_groups, best = f->group_best;
    f->groups = f->top_groups = f->group_best = 0;
    if (best == 0) return CL_OK;
    cl_code c = cl_json_int(config, "n_group", false, 1, CL_MAX_EXPERTS, &groups, err);
    if (c != CL_OK || groups <= 1) return c;
    if (f->experts % groups)
        return cl_fail(err, CL_E_INPUT, "n_group: %lld does not divide n_routed_experts, %d", (long long)groups,
                       f->experts);
    int64_t each = f->experts / groups;
    if (top == 0) top = groups;
    c = cl_json_int(config, "topk_group", false, 1, groups, &top, err);
    if (c == CL_OK && top > groups)
        c = cl_fail(err, CL_E_INPUT,
                    "topk_group: is %lld where the configuration has none, must be from 1 to n_group, %lld",
                    (long long)top, (long long)groups);
    if (c == CL_OK && (best > each || f->top_k > top * each))
        c = cl_fail(err, CL_E_INPUT,
                    "n_group: %lld groups of %lld experts are too small (num_experts_per_tok %d, topk_group %lld)",
                    (long long)groups, (long long)each, f->top_k, (long long)top);
    f->groups = (int)groups;
    f->top_groups = (int)top;
    f->group_best = (int)best;
    return c;
}

cl_code cl_config_routed(const json_t *config, cl_ffn f, int64_t dense, cl_spec *s, cl_err *err)
{
    int64_t experts = f.experts, top_k = f.top_k, width = f.width, shared = f.shared_width;
    if (json_is_null(json_object_get(config, "n_shared_experts"))) shared = 0;
    cl_code c = cl_json_int(config, "n_routed_experts", false, 1, CL_MAX_EXPERTS, &experts, err);
    if (c == CL_OK) c = cl_json_int(config, "num_experts_per_tok", top_k == 0, 1, CL_MAX_EXPERTS, &top_k, err);
    if (c == CL_OK) c = enough_experts(top_k, experts, err);
    if (c == CL_OK) c = cl_json_int(config, "moe_intermediate_size", width == 0, 1, CL_MAX_SIZE, &width, err);
    if (c == CL_OK) c = cl_json_int(config, "n_shared_experts", false, 0, CL_MAX_SIZE / width, &shared, err);
    if (c == CL_OK) c = cl_json_int(config, "first_k_dense_replace", false, 0, INT_MAX, &dense, err);
    if (c == CL_OK) c = cl_json_double(config, "routed_scaling_factor", false, 1e-6, 1e6, &f.weight_scale, err);
    if (c == CL_OK) c = cl_json_bool(config, "norm_topk_prob", false, &f.renormalise, err);
    if (c != CL_OK) return c;
    f.kind = CL_FFN_MOE;
    f.experts = (int)experts;
    f.top_k = (int)top_k;
    f.width = (int)width;
    f.shared_width = (int)(shared * width);
    c = config_groups(config, &f, err);
    for (int i = 0; i < s->n_layers && c == CL_OK; i++)
        if (i >= dense) s->layers[i].ffn = f;
    return c;
}
