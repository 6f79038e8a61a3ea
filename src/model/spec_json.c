/* spec_json.c: the model spec as JSON, the form in which a model file keeps it.
 *
 * Reading is strict: a key that is not known is an error, since ignoring it would compute another model. */
#include <stdlib.h>
#include <string.h>

#include "chipline/model.h"

static const char *const pairing_names[] = {"half", "interleaved"};
static const char *const qk_norm_names[] = {"none", "head", "full"};
static const char *const kind_names[] = {"dense", "moe"};

/* --- writing --- */

static json_t *rope_to_json(const cl_rope *r)
{
    json_t *freq = json_array();
    for (int i = 0; freq && i < r->dims / 2; i++) {
        if (json_array_append_new(freq, json_real(r->inv_freq[i])) != 0) {
            json_decref(freq);
            return NULL;
        }
    }
    return json_pack("{s:i, s:s, s:f, s:o}", "dims", r->dims, "pairing", pairing_names[r->pairing], "scale", r->scale,
                     "inv_freq_rad_per_position", freq);
}

static json_t *layer_to_json(const cl_layer *l)
{
    const cl_attention *a = &l->attn;
    json_t *attn =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:b, s:b}", "heads", a->heads, "kv_heads", a->kv_heads, "head_dim",
                  a->head_dim, "window_positions", a->window, "rope", a->rope, "qk_norm", qk_norm_names[a->qk_norm], "clip",
                  a->clip, "scale", a->scale, "qkv_bias", (int)a->qkv_bias, "o_bias", (int)a->o_bias);
    const cl_ffn *f = &l->ffn;
    json_t *ffn = f->kind == CL_FFN_DENSE
                      ? json_pack("{s:s, s:i, s:b}", "kind", kind_names[f->kind], "width", f->width, "bias", (int)f->bias)
                      : json_pack("{s:s, s:i, s:i, s:i, s:b}", "kind", kind_names[f->kind], "width", f->width, "experts",
                                  f->experts, "top_k", f->top_k, "renormalise", (int)f->renormalise);
    return json_pack("{s:o, s:o}", "attention", attn, "ffn", ffn);
}

cl_code cl_spec_to_json(const cl_spec *s, json_t **out, cl_err *err)
{
    *out = NULL;
    cl_code c = cl_spec_check(s, err);
    if (c != CL_OK) return c;
    json_t *ropes = json_array(), *layers = json_array(), *eos = json_array();
    int bad = !ropes || !layers || !eos;
    for (int i = 0; !bad && i < s->n_ropes; i++) bad = json_array_append_new(ropes, rope_to_json(&s->ropes[i])) != 0;
    for (int i = 0; !bad && i < s->n_layers; i++) bad = json_array_append_new(layers, layer_to_json(&s->layers[i])) != 0;
    for (int i = 0; !bad && i < s->n_eos; i++) bad = json_array_append_new(eos, json_integer(s->eos[i])) != 0;
    *out = json_pack("{s:s, s:i, s:i, s:i, s:f, s:b, s:i, s:o, s:o, s:o}", "family", s->family, "vocab", s->vocab, "hidden",
                     s->hidden, "context_positions", s->context, "norm_eps", s->norm_eps, "tied_head", (int)s->tied, "bos_id",
                     s->bos, "eos_ids", eos, "ropes", ropes, "layers", layers);
    if (*out && !bad) return CL_OK;
    json_decref(*out);
    *out = NULL;
    return cl_fail(err, CL_E_FIT, "spec: no memory for its JSON");
}

/* --- reading --- */

static cl_code known_keys(const json_t *obj, const char *const *keys, cl_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)obj, key, value) {
        int i = 0;
        while (keys[i] && strcmp(keys[i], key) != 0) i++;
        if (!keys[i]) return cl_fail(err, CL_E_INPUT, "%s: unknown key (made by a newer chipline?)", key);
    }
    return CL_OK;
}

static cl_code get_int(const json_t *obj, const char *key, int *out, cl_err *err)
{
    int64_t n = 0;
    cl_code c = cl_json_int(obj, key, true, INT32_MIN, INT32_MAX, &n, err);
    *out = (int)n;
    return c;
}

static cl_code get_name(const json_t *obj, const char *key, const char *const *names, int n_names, int *out, cl_err *err)
{
    const char *s = NULL;
    cl_code c = cl_json_str(obj, key, true, &s, err);
    if (c != CL_OK) return c;
    for (*out = 0; *out < n_names; ++*out)
        if (strcmp(s, names[*out]) == 0) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: \"%s\" is not known", key, s);
}

static const double HUGE_NUMBER = 1e300; /* real limits are cl_spec_check's */

static cl_code rope_from_json(const json_t *j, cl_rope *r, cl_err *err)
{
    static const char *const keys[] = {"dims", "pairing", "scale", "inv_freq_rad_per_position", NULL};
    const json_t *freq = NULL;
    int pairing = 0;
    cl_code c = known_keys(j, keys, err);
    if (c == CL_OK) c = get_int(j, "dims", &r->dims, err);
    if (c == CL_OK) c = get_name(j, "pairing", pairing_names, 2, &pairing, err);
    if (c == CL_OK) c = cl_json_double(j, "scale", true, -HUGE_NUMBER, HUGE_NUMBER, &r->scale, err);
    if (c == CL_OK) c = cl_json_array(j, "inv_freq_rad_per_position", true, &freq, err);
    if (c != CL_OK) return c;
    r->pairing = (cl_rope_pairing)pairing;
    if (r->dims < 0 || r->dims % 2 || json_array_size(freq) != (size_t)r->dims / 2)
        return cl_fail(err, CL_E_INPUT, "inv_freq_rad_per_position: has %zu numbers, must have dims / 2 (dims: %d)",
                       json_array_size(freq), r->dims);
    r->inv_freq = cl_malloc((size_t)r->dims / 2, sizeof *r->inv_freq, "spec", err);
    if (!r->inv_freq) return CL_E_FIT;
    for (int i = 0; i < r->dims / 2; i++) {
        const json_t *v = json_array_get(freq, (size_t)i);
        if (!json_is_number(v)) return cl_fail(err, CL_E_INPUT, "inv_freq_rad_per_position: entry %d is not a number", i);
        r->inv_freq[i] = json_number_value(v);
    }
    return CL_OK;
}

static cl_code attention_from_json(const json_t *j, cl_attention *a, cl_err *err)
{
    static const char *const keys[] = {"heads", "kv_heads", "head_dim", "window_positions", "rope",  "qk_norm",
                                       "clip",  "scale",    "qkv_bias", "o_bias",           NULL};
    int norm = 0;
    cl_code c = known_keys(j, keys, err);
    if (c == CL_OK) c = get_int(j, "heads", &a->heads, err);
    if (c == CL_OK) c = get_int(j, "kv_heads", &a->kv_heads, err);
    if (c == CL_OK) c = get_int(j, "head_dim", &a->head_dim, err);
    if (c == CL_OK) c = get_int(j, "window_positions", &a->window, err);
    if (c == CL_OK) c = get_int(j, "rope", &a->rope, err);
    if (c == CL_OK) c = get_name(j, "qk_norm", qk_norm_names, 3, &norm, err);
    if (c == CL_OK) c = cl_json_double(j, "clip", true, -HUGE_NUMBER, HUGE_NUMBER, &a->clip, err);
    if (c == CL_OK) c = cl_json_double(j, "scale", true, -HUGE_NUMBER, HUGE_NUMBER, &a->scale, err);
    if (c == CL_OK) c = cl_json_bool(j, "qkv_bias", true, &a->qkv_bias, err);
    if (c == CL_OK) c = cl_json_bool(j, "o_bias", true, &a->o_bias, err);
    a->qk_norm = (cl_qk_norm)norm;
    return c;
}

static cl_code ffn_from_json(const json_t *j, cl_ffn *f, cl_err *err)
{
    static const char *const dense[] = {"kind", "width", "bias", NULL};
    static const char *const moe[] = {"kind", "width", "experts", "top_k", "renormalise", NULL};
    int kind = 0;
    cl_code c = get_name(j, "kind", kind_names, 2, &kind, err);
    f->kind = (cl_ffn_kind)kind;
    if (c == CL_OK) c = known_keys(j, f->kind == CL_FFN_DENSE ? dense : moe, err);
    if (c == CL_OK) c = get_int(j, "width", &f->width, err);
    if (c == CL_OK && f->kind == CL_FFN_DENSE) c = cl_json_bool(j, "bias", true, &f->bias, err);
    if (c == CL_OK && f->kind == CL_FFN_MOE) c = get_int(j, "experts", &f->experts, err);
    if (c == CL_OK && f->kind == CL_FFN_MOE) c = get_int(j, "top_k", &f->top_k, err);
    if (c == CL_OK && f->kind == CL_FFN_MOE) c = cl_json_bool(j, "renormalise", true, &f->renormalise, err);
    return c;
}

static cl_code layer_from_json(const json_t *j, cl_layer *l, cl_err *err)
{
    static const char *const keys[] = {"attention", "ffn", NULL};
    const json_t *attn = NULL, *ffn = NULL;
    cl_code c = known_keys(j, keys, err);
    if (c == CL_OK) c = cl_json_object(j, "attention", true, &attn, err);
    if (c == CL_OK) c = cl_json_object(j, "ffn", true, &ffn, err);
    if (c == CL_OK && (c = attention_from_json(attn, &l->attn, err)) != CL_OK) cl_fail_prefix(err, "attention");
    if (c == CL_OK && (c = ffn_from_json(ffn, &l->ffn, err)) != CL_OK) cl_fail_prefix(err, "ffn");
    return c;
}

static cl_code head_from_json(const json_t *j, cl_spec *s, cl_err *err)
{
    static const char *const keys[] = {"family",    "vocab",  "hidden",  "context_positions", "norm_eps",
                                       "tied_head", "bos_id", "eos_ids", "ropes",             "layers",  NULL};
    const char *family = NULL;
    const json_t *eos = NULL;
    cl_code c = known_keys(j, keys, err);
    if (c == CL_OK) c = cl_json_str(j, "family", true, &family, err);
    if (c == CL_OK && strlen(family) >= sizeof s->family)
        c = cl_fail(err, CL_E_INPUT, "family: over %zu bytes", sizeof s->family - 1);
    if (c == CL_OK) memcpy(s->family, family, strlen(family) + 1);
    if (c == CL_OK) c = get_int(j, "vocab", &s->vocab, err);
    if (c == CL_OK) c = get_int(j, "hidden", &s->hidden, err);
    if (c == CL_OK) c = get_int(j, "context_positions", &s->context, err);
    if (c == CL_OK) c = cl_json_double(j, "norm_eps", true, -HUGE_NUMBER, HUGE_NUMBER, &s->norm_eps, err);
    if (c == CL_OK) c = cl_json_bool(j, "tied_head", true, &s->tied, err);
    if (c == CL_OK) c = get_int(j, "bos_id", &s->bos, err);
    if (c == CL_OK) c = cl_json_array(j, "eos_ids", true, &eos, err);
    if (c != CL_OK) return c;
    if (json_array_size(eos) > CL_MAX_EOS) return cl_fail(err, CL_E_INPUT, "eos_ids: more than %d", CL_MAX_EOS);
    s->n_eos = (int)json_array_size(eos);
    for (int i = 0; i < s->n_eos; i++) {
        json_int_t id = json_is_integer(json_array_get(eos, (size_t)i)) ? json_integer_value(json_array_get(eos, (size_t)i)) : -1;
        if (id < 0 || id >= s->vocab) return cl_fail(err, CL_E_INPUT, "eos_ids: entry %d is not an id of the vocabulary", i);
        s->eos[i] = (int)id;
    }
    return CL_OK;
}

cl_code cl_spec_from_json(const json_t *j, cl_spec *out, cl_err *err)
{
    cl_spec s = {0};
    const json_t *ropes = NULL, *layers = NULL;
    cl_code c = json_is_object(j) ? head_from_json(j, &s, err) : cl_fail(err, CL_E_INPUT, "spec: not a JSON object");
    if (c == CL_OK) c = cl_json_array(j, "ropes", true, &ropes, err);
    if (c == CL_OK) c = cl_json_array(j, "layers", true, &layers, err);
    if (c == CL_OK && (json_array_size(ropes) > INT32_MAX || json_array_size(layers) > INT32_MAX))
        c = cl_fail(err, CL_E_INPUT, "layers: too many");
    if (c == CL_OK) {
        s.n_ropes = (int)json_array_size(ropes);
        s.n_layers = (int)json_array_size(layers);
        s.ropes = cl_calloc((size_t)s.n_ropes, sizeof *s.ropes, "spec", err);
        s.layers = cl_calloc((size_t)s.n_layers, sizeof *s.layers, "spec", err);
        if (!s.ropes || !s.layers) c = CL_E_FIT;
    }
    for (int i = 0; c == CL_OK && i < s.n_ropes; i++) {
        c = rope_from_json(json_array_get(ropes, (size_t)i), &s.ropes[i], err);
        if (c != CL_OK) cl_fail_prefix(err, "rope %d", i);
    }
    for (int i = 0; c == CL_OK && i < s.n_layers; i++) {
        c = layer_from_json(json_array_get(layers, (size_t)i), &s.layers[i], err);
        if (c != CL_OK) cl_fail_prefix(err, "layer %d", i);
    }
    if (c == CL_OK) c = cl_spec_check(&s, err);
    if (c != CL_OK) cl_spec_free(&s);
    else *out = s;
    return c;
}
