/* config_rope.c: the rotary table of a config.json. Two dialects: the hub's (rope_theta, rope_scaling with type or
 * rope_type, partial_rotary_factor or rotary_dim beside them) and transformers 5's (all of it in rope_parameters).
 * Defaults and precedence follow transformers' modeling_rope_utils.py (convert_rope_params_to_dict). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"
#include "family.h"

static const double max = 1e12; /* of any number here */

/* Without a type a scaling would be ignored. */
static cl_code untyped(const json_t *params, cl_err *err)
{
    const char *name;
    json_t *v;
    json_object_foreach(
        (json_t *)params, name,
        v) if (!json_is_null(v) && strcmp(name, "rope_theta") != 0 &&
               strcmp(name, "partial_rotary_factor") !=
                   0) return cl_fail(err, CL_E_INPUT,
                                     "has %.60s, but no rope_type or type (one of default, linear, llama3, yarn)",
                                     name);
    return CL_OK;
}

static cl_code rope_kind(const json_t *params, cl_rope_kind *kind, cl_err *err)
{
    static const struct {
        const char *name;
        cl_rope_kind kind;
    } kinds[] = {{"default", CL_ROPE_PLAIN},
                 {"linear", CL_ROPE_LINEAR},
                 {"llama3", CL_ROPE_LLAMA3},
                 {"yarn", CL_ROPE_YARN}};
    const json_t *newer = json_object_get(params, "rope_type");
    const char *key = newer && !json_is_null(newer) ? "rope_type" : "type", *name = NULL;
    cl_code c = cl_json_str(params, key, false, &name, err);
    if (c == CL_OK && !name) {
        name = "default";
        c = untyped(params, err);
    }
    if (c != CL_OK) return c;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            *kind = kinds[i].kind;
            return CL_OK;
        }
    }
    return cl_fail(err, CL_E_INPUT, "%s: %.60s is not supported (known: default, linear, llama3, yarn)", key, name);
}

/* The object that holds the scaling, and its key; NULL where there is none. */
static cl_code rope_object(const json_t *config, const char **key, const json_t **params, cl_err *err)
{
    *key = "rope_scaling"; /* the hub's; where both are there, it counts */
    *params = NULL;
    cl_code c = cl_json_object(config, *key, false, params, err);
    if (c == CL_OK && json_object_size(*params) == 0)
        c = cl_json_object(config, *key = "rope_parameters", false, params, err);
    return c;
}

static cl_code yarn_params(const json_t *params, cl_rope_params *p, cl_err *err)
{
    p->beta_fast = 32;
    p->beta_slow = 1;
    p->truncate = true;
    cl_code c = cl_json_double(params, "beta_fast", false, 1e-6, max, &p->beta_fast, err);
    if (c == CL_OK) c = cl_json_double(params, "beta_slow", false, 1e-6, max, &p->beta_slow, err);
    if (c == CL_OK) c = cl_json_double(params, "attention_factor", false, 1e-6, max, &p->attention_factor, err);
    if (c == CL_OK) c = cl_json_double(params, "mscale", false, 0, max, &p->mscale, err);
    if (c == CL_OK) c = cl_json_double(params, "mscale_all_dim", false, 0, max, &p->mscale_all, err);
    if (c == CL_OK) c = cl_json_bool(params, "truncate", false, &p->truncate, err);
    return c;
}

/* params: rope_scaling or rope_parameters. */
static cl_code rope_params(const json_t *config, const json_t *params, int64_t context, cl_rope_params *p, cl_err *err)
{
    const char *name;
    json_t *v;
    double original = (double)context, implied = 0;
    json_object_foreach((json_t *)params, name, v) if (json_is_object(v)) return cl_fail(
        err, CL_E_INPUT, "%.60s: a rotary table per kind of layer is not supported", name);
    cl_code c = rope_kind(params, &p->kind, err);
    if (c == CL_OK) c = cl_json_double(params, "rope_theta", false, 1, max, &p->theta, err);
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
    return c == CL_OK && p->kind == CL_ROPE_YARN ? yarn_params(params, p, err) : c;
}

cl_code cl_config_rotary_dims(const json_t *config, const cl_family *f, int64_t head_dim, int64_t *dims, cl_err *err)
{
    const char *key;
    const json_t *params;
    double part = f->defaults.rotary;
    *dims = head_dim;
    cl_code c = rope_object(config, &key, &params, err);
    if (c != CL_OK || part == 0) return c;
    int64_t n = 0;
    c = cl_json_int(config, "rotary_dim", false, 1, head_dim, &n, err);
    if (c == CL_OK && n) part = (double)n / (double)head_dim;
    if (c == CL_OK) c = cl_json_double(config, "partial_rotary_factor", false, 0, 1, &part, err);
    if (c == CL_OK && params && (c = cl_json_double(params, "partial_rotary_factor", false, 0, 1, &part, err)) != CL_OK)
        cl_fail_prefix(err, "%s", key);
    if (c != CL_OK) return c;
    *dims = (int64_t)((double)head_dim * part);
    if (*dims < 2 || *dims % 2)
        return cl_fail(err, CL_E_INPUT,
                       "partial_rotary_factor: %g rotates %lld of the %lld numbers of a head, must be an even number",
                       part, (long long)*dims, (long long)head_dim);
    return CL_OK;
}

cl_code cl_config_rope(const json_t *config, const cl_family *f, int64_t dims, cl_spec *s, cl_rope_params *said,
                       cl_err *err)
{
    const char *key;
    const json_t *params;
    cl_rope_params p = {0};
    cl_code c = rope_object(config, &key, &params, err);
    if (c == CL_OK && !params && f->defaults.rope) p = *f->defaults.rope;
    p.dims = (int)dims;
    p.theta = f->defaults.theta;
    if (c == CL_OK) c = cl_json_double(config, "rope_theta", false, 1, max, &p.theta, err);
    if (c == CL_OK && f->defaults.rotary == 0) c = cl_config_only(config, "partial_rotary_factor", 1, err);
    if (c != CL_OK) return c;
    if (params) {
        c = rope_params(config, params, s->context, &p, err);
        if (c == CL_OK && f->defaults.rotary == 0) c = cl_config_only(params, "partial_rotary_factor", 1, err);
        if (c != CL_OK) return cl_fail_prefix(err, "%s", key);
    }
    if (said) *said = p;
    c = cl_spec_rope(s, &p, f->defaults.pairing, err);
    /* else the object is not at fault */
    bool scaling = params && p.kind != CL_ROPE_PLAIN && p.dims % 2 == 0 && p.theta > 1;
    return c == CL_E_INPUT && scaling ? cl_fail_prefix(err, "%s", key) : c;
}

cl_code cl_spec_rope(cl_spec *s, const cl_rope_params *p, cl_rope_pairing pairing, cl_err *err)
{
    cl_rope *more = cl_realloc(s->ropes, (size_t)s->n_ropes + 1, sizeof *more, "rotary table", err);
    if (!more) return CL_E_FIT;
    s->ropes = more;
    cl_code c = cl_rope_make(p, &s->ropes[s->n_ropes], err);
    if (c != CL_OK) return c;
    s->ropes[s->n_ropes++].pairing = pairing;
    return CL_OK;
}
