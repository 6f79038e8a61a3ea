/* spec.c: the model spec as plain data: checking, copying, freeing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/model.h"
#include "chipline/util.h"

/* Bounds that keep every later product inside 64 bits: 2^40 numbers in a tensor, 4 bytes each, 16 tensors in a layer,
 * 2^12 layers. */
enum { MAX_SIZE = 0x7fffffff, MAX_LAYERS = 1 << 12, MAX_ROPES = 1 << 10, MAX_EXPERTS = 1 << 20 };
static const int64_t MAX_TENSOR = (int64_t)1 << 40;

void cl_spec_free(cl_spec *s)
{
    for (int i = 0; s->ropes && i < s->n_ropes; i++) free(s->ropes[i].inv_freq);
    free(s->ropes);
    free(s->layers);
    *s = (cl_spec){0};
}

cl_code cl_spec_copy(const cl_spec *from, cl_spec *to, cl_err *err)
{
    cl_spec s = *from;
    s.ropes = cl_calloc((size_t)s.n_ropes, sizeof *s.ropes, "spec", err);
    s.layers = cl_malloc((size_t)s.n_layers, sizeof *s.layers, "spec", err);
    if (!s.ropes || !s.layers) goto fail;
    for (int i = 0; i < s.n_ropes; i++) {
        const cl_rope *r = &from->ropes[i];
        s.ropes[i] = *r;
        s.ropes[i].inv_freq = cl_malloc((size_t)r->dims / 2, sizeof *r->inv_freq, "spec", err);
        if (!s.ropes[i].inv_freq) goto fail;
        memcpy(s.ropes[i].inv_freq, r->inv_freq, (size_t)r->dims / 2 * sizeof *r->inv_freq);
    }
    if (s.n_layers) memcpy(s.layers, from->layers, (size_t)s.n_layers * sizeof *s.layers);
    *to = s;
    return CL_OK;
fail:
    cl_spec_free(&s);
    return CL_E_FIT;
}

static cl_code check_size(const char *name, int64_t n, int64_t min, int64_t max, cl_err *err)
{
    if (n >= min && n <= max) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: is %lld, must be from %lld to %lld", name, (long long)n, (long long)min,
                   (long long)max);
}

static cl_code check_number(const char *name, double x, bool zero_allowed, cl_err *err)
{
    if (isfinite(x) && (x > 0 || (zero_allowed && x == 0))) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: is %g, must be a finite number %s 0", name, x, zero_allowed ? ">=" : ">");
}

static cl_code check_rope(const cl_rope *r, cl_err *err)
{
    cl_code c = check_size("dims", r->dims, 2, 1 << 20, err);
    if (c == CL_OK && r->dims % 2) c = cl_fail(err, CL_E_INPUT, "dims: is %d, must be even", r->dims);
    if (c == CL_OK && (unsigned)r->pairing > CL_ROPE_INTERLEAVED)
        c = cl_fail(err, CL_E_INPUT, "pairing: is %d", (int)r->pairing);
    if (c == CL_OK) c = check_number("scale", r->scale, false, err);
    for (int i = 0; c == CL_OK && i < r->dims / 2; i++) c = check_number("inv_freq", r->inv_freq[i], true, err);
    return c;
}

static cl_code check_zero(const char *name, bool zero, const char *why, cl_err *err)
{
    return zero ? CL_OK : cl_fail(err, CL_E_INPUT, "%s: %s", name, why);
}

/* Sizes that only one of the two kinds has, and the number of values that a head's rotation may cover. */
static cl_code check_kind(const cl_spec *s, const cl_attention *a, int *rotated, cl_err *err)
{
    *rotated = a->head_dim;
    if (a->kind == CL_ATTN_GROUPED)
        return check_zero("kv_rank", !a->q_rank && !a->kv_rank && !a->rope_dim && !a->v_dim && a->latent_eps == 0,
                          "grouped attention has no latent sizes", err);
    if (a->kind != CL_ATTN_LATENT) return cl_fail(err, CL_E_INPUT, "kind: is %d", (int)a->kind);
    *rotated = a->rope_dim;
    cl_code c = check_size("q_rank", a->q_rank, 0, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("kv_rank", a->kv_rank, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("head_dim", a->head_dim, 2, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("rope_dim", a->rope_dim, 1, a->head_dim - 1, err);
    if (c == CL_OK) c = check_size("v_dim", a->v_dim, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("kv_heads", a->kv_heads, 1, 1, err);
    if (c == CL_OK) c = check_size("kv_rank + rope_dim", (int64_t)a->kv_rank + a->rope_dim, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("heads * v_dim", (int64_t)a->heads * a->v_dim, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("k_b numbers", (int64_t)a->heads * a->head_dim, 1, MAX_TENSOR / a->kv_rank, err);
    if (c == CL_OK) c = check_size("v_b numbers", (int64_t)a->heads * a->v_dim, 1, MAX_TENSOR / a->kv_rank, err);
    if (c == CL_OK) c = check_size("o numbers", (int64_t)a->heads * a->v_dim * s->hidden, 1, MAX_TENSOR, err);
    if (c == CL_OK) c = check_size("kv_a numbers", ((int64_t)a->kv_rank + a->rope_dim) * s->hidden, 1, MAX_TENSOR, err);
    if (c == CL_OK && a->q_rank) c = check_size("q_a numbers", (int64_t)a->q_rank * s->hidden, 1, MAX_TENSOR, err);
    if (c == CL_OK && a->q_rank)
        c = check_size("q numbers", (int64_t)a->heads * a->head_dim * a->q_rank, 1, MAX_TENSOR, err);
    if (c == CL_OK) c = check_number("latent_eps", a->latent_eps, true, err);
    if (c == CL_OK)
        c = check_zero("qk_norm", a->qk_norm == CL_QK_NORM_NONE && a->clip == 0 && !a->qkv_bias,
                       "latent attention has no q and k norm, clip or biases", err);
    return c;
}

static cl_code check_attention(const cl_spec *s, const cl_attention *a, cl_err *err)
{
    int rotated = 0;
    cl_code c = check_size("heads", a->heads, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("kv_heads", a->kv_heads, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("head_dim", a->head_dim, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("heads * head_dim", (int64_t)a->heads * a->head_dim, 1, MAX_SIZE, err);
    if (c == CL_OK && a->heads % a->kv_heads)
        c = cl_fail(err, CL_E_INPUT, "kv_heads: %d does not divide heads (%d)", a->kv_heads, a->heads);
    if (c == CL_OK) c = check_size("q numbers", (int64_t)a->heads * a->head_dim * s->hidden, 1, MAX_TENSOR, err);
    if (c == CL_OK) c = check_kind(s, a, &rotated, err);
    if (c == CL_OK) c = check_size("window", a->window, 0, MAX_SIZE, err);
    if (c == CL_OK) c = check_zero("chunked", a->window || !a->chunked, "needs a window: the length of a chunk", err);
    if (c == CL_OK) c = check_size("rope", a->rope, -1, s->n_ropes - 1, err);
    if (c == CL_OK && a->rope >= 0 && s->ropes[a->rope].dims > rotated)
        c = cl_fail(err, CL_E_INPUT, "rope: rotates %d numbers of heads with %d", s->ropes[a->rope].dims, rotated);
    if (c == CL_OK && (unsigned)a->qk_norm > CL_QK_NORM_UNIT)
        c = cl_fail(err, CL_E_INPUT, "qk_norm: is %d", (int)a->qk_norm);
    if (c == CL_OK) c = check_number("clip", a->clip, true, err);
    if (c == CL_OK) c = check_number("scale", a->scale, false, err);
    if (c == CL_OK) c = check_number("temperature", a->temperature, true, err);
    if (c == CL_OK) c = check_number("temperature_floor", a->temperature_floor, a->temperature == 0, err);
    return c;
}

static cl_code check_groups(const cl_ffn *f, cl_err *err)
{
    if (!f->groups) return check_zero("groups", !f->top_groups && !f->group_best, "there are none to choose from", err);
    cl_code c = check_size("groups", f->groups, 2, f->experts, err);
    if (c == CL_OK && f->experts % f->groups)
        c = cl_fail(err, CL_E_INPUT, "groups: %d does not divide experts (%d)", f->groups, f->experts);
    if (c == CL_OK) c = check_size("top_groups", f->top_groups, 1, f->groups, err);
    if (c == CL_OK) c = check_size("group_best", f->group_best, 1, f->experts / f->groups, err);
    if (c == CL_OK && f->top_k > f->top_groups * (f->experts / f->groups))
        c = cl_fail(err, CL_E_INPUT, "top_k: %d is more than the experts of %d groups", f->top_k, f->top_groups);
    return c;
}

static cl_code check_moe(const cl_spec *s, const cl_ffn *f, cl_err *err)
{
    cl_code c = check_size("experts", f->experts, 1, MAX_EXPERTS, err);
    if (c == CL_OK && (f->top_k < 1 || f->top_k > f->experts))
        c = cl_fail(err, CL_E_INPUT, "top_k: is %d, must be from 1 to the number of experts, %d", f->top_k, f->experts);
    if (c == CL_OK && (unsigned)f->scoring > CL_SCORE_CHOSEN_SOFTMAX)
        c = cl_fail(err, CL_E_INPUT, "scoring: is %d", (int)f->scoring);
    if (c == CL_OK) c = check_groups(f, err);
    if (c == CL_OK) c = check_number("weight_scale", f->weight_scale, false, err);
    if (c == CL_OK) c = check_size("shared_width", f->shared_width, 0, MAX_SIZE, err);
    if (c == CL_OK && f->shared_width)
        c = check_size("shared_width * hidden", (int64_t)f->shared_width * s->hidden, 1, MAX_TENSOR, err);
    return c;
}

static cl_code check_ffn(const cl_spec *s, const cl_ffn *f, cl_err *err)
{
    cl_code c = check_size("width", f->width, 1, MAX_SIZE, err);
    bool clamped = f->glu == CL_GLU_CLAMPED;
    if (c == CL_OK && !clamped && f->glu != CL_GLU_SILU) c = cl_fail(err, CL_E_INPUT, "glu: is %d", (int)f->glu);
    if (c == CL_OK && clamped) c = check_number("glu_limit", f->glu_limit, false, err);
    if (c == CL_OK && clamped) c = check_number("glu_alpha", f->glu_alpha, false, err);
    if (c == CL_OK && !clamped)
        c = check_zero("glu_limit", f->glu_limit == 0 && f->glu_alpha == 0, "silu has none", err);
    if (c != CL_OK) return c;
    if (f->kind == CL_FFN_DENSE) {
        c = check_zero("experts",
                       !f->experts && !f->top_k && !f->scoring && !f->router_bias && !f->select_bias && !f->groups &&
                           !f->top_groups && !f->group_best && !f->renormalise && f->weight_scale == 0 &&
                           !f->weight_input && !f->shared_width,
                       "a dense layer has none, and nothing that goes with them", err);
    } else if (f->kind == CL_FFN_MOE) {
        c = check_moe(s, f, err);
    } else {
        c = cl_fail(err, CL_E_INPUT, "kind: is %d", (int)f->kind);
    }
    int64_t matrix = (int64_t)f->width * s->hidden; /* both below 2^31 */
    if (c == CL_OK) c = check_size("width * hidden", matrix, 1, MAX_TENSOR / (f->experts ? f->experts : 1), err);
    return c;
}

static cl_code check_ids(const cl_spec *s, cl_err *err)
{
    cl_code c = check_size("bos", s->bos, -1, s->vocab - 1, err);
    if (c == CL_OK) c = check_size("n_eos", s->n_eos, 0, CL_MAX_EOS, err);
    for (int i = 0; c == CL_OK && i < s->n_eos; i++) c = check_size("eos", s->eos[i], 0, s->vocab - 1, err);
    return c;
}

cl_code cl_spec_check(const cl_spec *s, cl_err *err)
{
    size_t bad, n = strnlen(s->family, sizeof s->family);
    cl_code c = CL_OK;
    if (n == sizeof s->family || !cl_utf8_valid(s->family, n, &bad))
        c = cl_fail(err, CL_E_INPUT, "family: not a short UTF-8 text");
    if (c == CL_OK) c = check_size("vocab", s->vocab, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("hidden", s->hidden, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_size("vocab * hidden", (int64_t)s->vocab * s->hidden, 1, MAX_TENSOR, err);
    if (c == CL_OK) c = check_size("context", s->context, 1, MAX_SIZE, err);
    if (c == CL_OK) c = check_number("norm_eps", s->norm_eps, true, err);
    if (c == CL_OK) c = check_size("layers", s->n_layers, 1, MAX_LAYERS, err);
    if (c == CL_OK) c = check_size("ropes", s->n_ropes, 0, MAX_ROPES, err);
    if (c == CL_OK) c = check_ids(s, err);
    for (int i = 0; c == CL_OK && i < s->n_ropes; i++) {
        c = check_rope(&s->ropes[i], err);
        if (c != CL_OK) cl_fail_prefix(err, "rope %d", i);
    }
    for (int i = 0; c == CL_OK && i < s->n_layers; i++) {
        c = check_attention(s, &s->layers[i].attn, err);
        if (c != CL_OK) cl_fail_prefix(err, "layer %d: attention", i);
        if (c == CL_OK && (c = check_ffn(s, &s->layers[i].ffn, err)) != CL_OK) cl_fail_prefix(err, "layer %d: ffn", i);
    }
    return c;
}
