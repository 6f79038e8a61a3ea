/* spec_json.c: the model spec as JSON, the form in which a model file keeps it.
 *
 * Reading is strict: a key that is not known is an error, since ignoring it would compute another model. */
#include <stdlib.h>
#include <string.h>

#include "chipline/model.h"

static const char *const pairing_names[] = {"half", "interleaved"};
static const char *const qk_norm_names[] = {"none", "head", "full", "unit"};
static const char *const attention_names[] = {"grouped", "latent"};
static const char *const kind_names[] = {"dense", "moe"};
static const char *const glu_names[] = {"silu", "clamped"};
static const char *const scoring_names[] = {"softmax", "sigmoid", "chosen_softmax"};

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

/* What most layers do not have is not written: a key that is absent is zero, false or the first name. */
static int put_int(json_t *o, const char *key, int v) { return v ? json_object_set_new(o, key, json_integer(v)) : 0; }
static int put_real(json_t *o, const char *key, double v)
{
    return v != 0 ? json_object_set_new(o, key, json_real(v)) : 0;
}
static int put_true(json_t *o, const char *key, bool v) { return v ? json_object_set_new(o, key, json_true()) : 0; }
static int put_name(json_t *o, const char *key, const char *const *names, int v)
{
    return v ? json_object_set_new(o, key, json_string(names[v])) : 0;
}

static json_t *attention_to_json(const cl_attention *a)
{
    json_t *o = json_pack("{s:i, s:i, s:i, s:i, s:f}", "heads", a->heads, "kv_heads", a->kv_heads, "head_dim",
                          a->head_dim, "rope", a->rope, "scale", a->scale);
    if (!o) return NULL;
    int bad = put_name(o, "kind", attention_names, a->kind) | put_int(o, "window_positions", a->window) |
              put_true(o, "chunked", a->chunked) | put_name(o, "qk_norm", qk_norm_names, a->qk_norm) |
              put_real(o, "clip", a->clip) | put_true(o, "qkv_bias", a->qkv_bias) | put_true(o, "o_bias", a->o_bias) |
              put_true(o, "sinks", a->sinks) | put_real(o, "temperature", a->temperature) |
              put_real(o, "temperature_floor_positions", a->temperature_floor) | put_int(o, "q_rank", a->q_rank) |
              put_int(o, "kv_rank", a->kv_rank) | put_int(o, "rope_dim", a->rope_dim) | put_int(o, "v_dim", a->v_dim) |
              put_real(o, "latent_eps", a->latent_eps);
    if (!bad) return o;
    json_decref(o);
    return NULL;
}

static json_t *ffn_to_json(const cl_ffn *f)
{
    json_t *o = json_pack("{s:s, s:i}", "kind", kind_names[f->kind], "width", f->width);
    if (!o) return NULL;
    int bad = put_true(o, "bias", f->bias) | put_name(o, "glu", glu_names, f->glu) |
              put_real(o, "glu_limit", f->glu_limit) | put_real(o, "glu_alpha", f->glu_alpha) |
              put_int(o, "experts", f->experts) | put_int(o, "top_k", f->top_k) |
              put_name(o, "scoring", scoring_names, f->scoring) | put_true(o, "router_bias", f->router_bias) |
              put_true(o, "select_bias", f->select_bias) | put_int(o, "groups", f->groups) |
              put_int(o, "top_groups", f->top_groups) | put_int(o, "group_best", f->group_best) |
              put_true(o, "renormalise", f->renormalise) | put_real(o, "weight_scale", f->weight_scale) |
              put_true(o, "weight_input", f->weight_input) | put_int(o, "shared_width", f->shared_width);
    if (!bad) return o;
    json_decref(o);
    return NULL;
}

static json_t *layer_to_json(const cl_layer *l)
{
    json_t *attn = attention_to_json(&l->attn), *ffn = ffn_to_json(&l->ffn);
    return json_pack("{s:o, s:o}", "attention", attn, "ffn", ffn); /* NULL if either is; both references are taken */
}

cl_code cl_spec_to_json(const cl_spec *s, json_t **out, cl_err *err)
{
    *out = NULL;
    cl_code c = cl_spec_check(s, err);
    if (c != CL_OK) return c;
    json_t *ropes = json_array(), *layers = json_array(), *eos = json_array();
    int bad = !ropes || !layers || !eos;
    for (int i = 0; !bad && i < s->n_ropes; i++) bad = json_array_append_new(ropes, rope_to_json(&s->ropes[i])) != 0;
    for (int i = 0; !bad && i < s->n_layers; i++)
        bad = json_array_append_new(layers, layer_to_json(&s->layers[i])) != 0;
    for (int i = 0; !bad && i < s->n_eos; i++) bad = json_array_append_new(eos, json_integer(s->eos[i])) != 0;
    *out = json_pack("{s:s, s:i, s:i, s:i, s:f, s:b, s:i, s:o, s:o, s:o}", "family", s->family, "vocab", s->vocab,
                     "hidden", s->hidden, "context_positions", s->context, "norm_eps", s->norm_eps, "tied_head",
                     (int)s->tied, "bos_id", s->bos, "eos_ids", eos, "ropes", ropes, "layers", layers);
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
    json_object_foreach((json_t *)obj, key, value)
    {
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

static cl_code get_name(const json_t *obj, const char *key, const char *const *names, int n_names, int *out,
                        cl_err *err)
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
        if (!json_is_number(v))
            return cl_fail(err, CL_E_INPUT, "inv_freq_rad_per_position: entry %d is not a number", i);
        r->inv_freq[i] = json_number_value(v);
    }
    return CL_OK;
}

static cl_code maybe_int(const json_t *obj, const char *key, int *out, cl_err *err)
{
    int64_t n = 0;
    cl_code c = cl_json_int(obj, key, false, INT32_MIN, INT32_MAX, &n, err);
    *out = (int)n;
    return c;
}

static cl_code maybe_real(const json_t *obj, const char *key, double *out, cl_err *err)
{
    *out = 0;
    return cl_json_double(obj, key, false, -HUGE_NUMBER, HUGE_NUMBER, out, err);
}

static cl_code maybe_bool(const json_t *obj, const char *key, bool *out, cl_err *err)
{
    *out = false;
    return cl_json_bool(obj, key, false, out, err);
}

static cl_code maybe_name(const json_t *obj, const char *key, const char *const *names, int n_names, int *out,
                          cl_err *err)
{
    *out = 0;
    return json_object_get(obj, key) ? get_name(obj, key, names, n_names, out, err) : CL_OK;
}

static cl_code latent_from_json(const json_t *j, cl_attention *a, cl_err *err)
{
    cl_code c = maybe_int(j, "q_rank", &a->q_rank, err);
    if (c == CL_OK) c = maybe_int(j, "kv_rank", &a->kv_rank, err);
    if (c == CL_OK) c = maybe_int(j, "rope_dim", &a->rope_dim, err);
    if (c == CL_OK) c = maybe_int(j, "v_dim", &a->v_dim, err);
    if (c == CL_OK) c = maybe_real(j, "latent_eps", &a->latent_eps, err);
    return c;
}

static cl_code attention_from_json(const json_t *j, cl_attention *a, cl_err *err)
{
    static const char *const keys[] = {"kind",     "heads",   "kv_heads", "head_dim",    "window_positions",
                                       "chunked",  "rope",    "qk_norm",  "clip",        "scale",
                                       "qkv_bias", "o_bias",  "sinks",    "temperature", "temperature_floor_positions",
                                       "q_rank",   "kv_rank", "rope_dim", "v_dim",       "latent_eps",
                                       NULL};
    int norm = 0, kind = 0;
    cl_code c = known_keys(j, keys, err);
    if (c == CL_OK) c = maybe_name(j, "kind", attention_names, 2, &kind, err);
    if (c == CL_OK) c = get_int(j, "heads", &a->heads, err);
    if (c == CL_OK) c = get_int(j, "kv_heads", &a->kv_heads, err);
    if (c == CL_OK) c = get_int(j, "head_dim", &a->head_dim, err);
    if (c == CL_OK) c = maybe_int(j, "window_positions", &a->window, err);
    if (c == CL_OK) c = maybe_bool(j, "chunked", &a->chunked, err);
    if (c == CL_OK) c = get_int(j, "rope", &a->rope, err);
    if (c == CL_OK) c = maybe_name(j, "qk_norm", qk_norm_names, 4, &norm, err);
    if (c == CL_OK) c = maybe_real(j, "clip", &a->clip, err);
    if (c == CL_OK) c = cl_json_double(j, "scale", true, -HUGE_NUMBER, HUGE_NUMBER, &a->scale, err);
    if (c == CL_OK) c = maybe_bool(j, "qkv_bias", &a->qkv_bias, err);
    if (c == CL_OK) c = maybe_bool(j, "o_bias", &a->o_bias, err);
    if (c == CL_OK) c = maybe_bool(j, "sinks", &a->sinks, err);
    if (c == CL_OK) c = maybe_real(j, "temperature", &a->temperature, err);
    if (c == CL_OK) c = maybe_real(j, "temperature_floor_positions", &a->temperature_floor, err);
    a->kind = (cl_attention_kind)kind;
    a->qk_norm = (cl_qk_norm)norm;
    return c == CL_OK ? latent_from_json(j, a, err) : c;
}

static cl_code router_from_json(const json_t *j, cl_ffn *f, cl_err *err)
{
    int scoring = 0;
    cl_code c = maybe_int(j, "experts", &f->experts, err);
    if (c == CL_OK) c = maybe_int(j, "top_k", &f->top_k, err);
    if (c == CL_OK) c = maybe_name(j, "scoring", scoring_names, 3, &scoring, err);
    if (c == CL_OK) c = maybe_bool(j, "router_bias", &f->router_bias, err);
    if (c == CL_OK) c = maybe_bool(j, "select_bias", &f->select_bias, err);
    if (c == CL_OK) c = maybe_int(j, "groups", &f->groups, err);
    if (c == CL_OK) c = maybe_int(j, "top_groups", &f->top_groups, err);
    if (c == CL_OK) c = maybe_int(j, "group_best", &f->group_best, err);
    if (c == CL_OK) c = maybe_bool(j, "renormalise", &f->renormalise, err);
    if (c == CL_OK) c = maybe_real(j, "weight_scale", &f->weight_scale, err);
    if (c == CL_OK) c = maybe_bool(j, "weight_input", &f->weight_input, err);
    if (c == CL_OK) c = maybe_int(j, "shared_width", &f->shared_width, err);
    f->scoring = (cl_scoring)scoring;
    /* files older than this key have none: their routers' weights are not scaled */
    if (c == CL_OK && f->kind == CL_FFN_MOE && !json_object_get(j, "weight_scale")) f->weight_scale = 1;
    return c;
}

static cl_code ffn_from_json(const json_t *j, cl_ffn *f, cl_err *err)
{
    static const char *const keys[] = {"kind",         "width",        "bias",         "glu",        "glu_limit",
                                       "glu_alpha",    "experts",      "top_k",        "scoring",    "router_bias",
                                       "select_bias",  "groups",       "top_groups",   "group_best", "renormalise",
                                       "weight_scale", "weight_input", "shared_width", NULL};
    int kind = 0, glu = 0;
    cl_code c = known_keys(j, keys, err);
    if (c == CL_OK) c = get_name(j, "kind", kind_names, 2, &kind, err);
    if (c == CL_OK) c = get_int(j, "width", &f->width, err);
    if (c == CL_OK) c = maybe_bool(j, "bias", &f->bias, err);
    if (c == CL_OK) c = maybe_name(j, "glu", glu_names, 2, &glu, err);
    if (c == CL_OK) c = maybe_real(j, "glu_limit", &f->glu_limit, err);
    if (c == CL_OK) c = maybe_real(j, "glu_alpha", &f->glu_alpha, err);
    f->kind = (cl_ffn_kind)kind;
    f->glu = (cl_glu)glu;
    return c == CL_OK ? router_from_json(j, f, err) : c;
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
    static const char *const keys[] = {"family",   "vocab",     "hidden", "context_positions",
                                       "norm_eps", "tied_head", "bos_id", "eos_ids",
                                       "ropes",    "layers",    NULL};
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
        json_int_t id =
            json_is_integer(json_array_get(eos, (size_t)i)) ? json_integer_value(json_array_get(eos, (size_t)i)) : -1;
        if (id < 0 || id >= s->vocab)
            return cl_fail(err, CL_E_INPUT, "eos_ids: entry %d is not an id of the vocabulary", i);
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
