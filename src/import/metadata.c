/* metadata.c: GGUF metadata to cl_spec: the keys that families share, named as in gguf-py's constants. What GGUF
 * does not say (biases, dense layers among mixtures) follows from the tensors that are there. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "family.h"
#include "rope.h"
#include "sizes.h"

enum { KEY = 192 };

static const char *full_key(const char *arch, const char *key, char out[KEY])
{
    snprintf(out, KEY, "%s.%s", arch, key);
    return out;
}

cl_code cl_metadata_int(const cl_gguf *g, const char *arch, const char *key, int layer, bool required, int64_t min,
                        int64_t max, int64_t *out, cl_err *err)
{
    char k[KEY];
    uint32_t type;
    uint64_t n, v;
    int64_t x;
    full_key(arch, key, k);
    if (!cl_gguf_has(g, k)) return required ? cl_fail(err, CL_E_INPUT, "%s: missing", k) : CL_OK;
    if (cl_gguf_u64(g, k, &v)) x = v > INT64_MAX ? INT64_MAX : (int64_t)v;
    else if (!cl_gguf_array(g, k, &type, &n) || layer < 0 || !cl_gguf_array_i64(g, k, (uint64_t)layer, &x))
        return cl_fail(err, CL_E_INPUT, "%s: is not a whole number, or a list of one per layer", k);
    if (x < min || x > max)
        return cl_fail(err, CL_E_INPUT, "%s: is %lld, must be from %lld to %lld", k, (long long)x, (long long)min,
                       (long long)max);
    *out = x;
    return CL_OK;
}

cl_code cl_metadata_double(const cl_gguf *g, const char *arch, const char *key, bool required, double min, double max,
                           double *out, cl_err *err)
{
    char k[KEY];
    double x;
    full_key(arch, key, k);
    if (!cl_gguf_has(g, k)) return required ? cl_fail(err, CL_E_INPUT, "%s: missing", k) : CL_OK;
    if (!cl_gguf_f64(g, k, &x)) return cl_fail(err, CL_E_INPUT, "%s: is not a number", k);
    if (!(x >= min && x <= max)) return cl_fail(err, CL_E_INPUT, "%s: is %g, must be from %g to %g", k, x, min, max);
    *out = x;
    return CL_OK;
}

/* Keys that change the maths in a way that the engine does not know, and the values that change nothing. */
static cl_code refuse(const cl_gguf *g, const cl_family *f, cl_err *err)
{
    enum reader { NOBODY, WITH_EXPERTS, OWN_ATTENTION }; /* families that read the key themselves */
    static const struct {
        const char *key;
        double plain, also;
        enum reader reader;
    } keys[] = {
        {"attention.scale", 0, 0},
        {"attention.value_scale", 1, 0},
        {"attention.max_alibi_bias", 0, 0},
        {"attention.clamp_kqv", 0, 0},
        {"attn_logit_softcapping", 0, 0},
        {"final_logit_softcapping", 0, 0},
        {"router_logit_softcapping", 0, 0},
        {"logit_scale", 1, 0},
        {"embedding_scale", 1, 0},
        {"residual_scale", 1, 0},
        {"rope.scaling.attn_factor", 1, 1},
        {"rope.scaling.yarn_attn_factor", 1, 1},
        {"rope.scaling.yarn_ext_factor", 1, 1},
        {"rope.scaling.alpha", 0, 0},
        {"expert_weights_scale", 1, 0, WITH_EXPERTS},
        {"expert_gating_func", 1, 0, WITH_EXPERTS},
        {"expert_shared_count", 0, 0, WITH_EXPERTS},
        {"expert_group_count", 1, 0, WITH_EXPERTS},
        {"rope.scaling.yarn_log_multiplier", 0, 0, OWN_ATTENTION},
    };
    char k[KEY];
    const char *arch = f->gguf_arch;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        double v = keys[i].plain;
        if ((keys[i].reader == WITH_EXPERTS && f->experts) || (keys[i].reader == OWN_ATTENTION && f->own_attention))
            continue;
        cl_code c = cl_metadata_double(g, arch, keys[i].key, false, -INFINITY, INFINITY, &v, err);
        if (c != CL_OK) return c;
        if (v != keys[i].plain && v != keys[i].also)
            return cl_fail(err, CL_E_INPUT, "%s: %g is not supported (only %g)", full_key(arch, keys[i].key, k), v,
                           keys[i].plain);
    }
    return CL_OK;
}

bool cl_metadata_tensor(const cl_gguf *g, const char *pattern, int layer)
{
    char name[64];
    return cl_name_fill(pattern, layer, 0, name, sizeof name) && cl_source_find(cl_gguf_source(g), name) >= 0;
}

/* --- rotary table --- */

/* rope_freqs.weight divides the frequencies: that is how GGUF carries llama3's scaling. */
static cl_code rope_divisors(const cl_gguf *g, cl_rope *r, cl_err *err)
{
    const cl_source *s = cl_gguf_source(g);
    int i = cl_source_find(s, "rope_freqs.weight");
    if (i < 0) return CL_OK;
    const cl_src_tensor *t = &s->tensors[i];
    if (t->format != CL_F32 || t->n_dims != 1 || t->dims[0] != r->dims / 2)
        return cl_fail(err, CL_E_INPUT, "tensor rope_freqs.weight is not %d F32 numbers", r->dims / 2);
    float *div = cl_malloc((size_t)r->dims / 2, sizeof *div, "rope_freqs.weight", err);
    if (!div) return CL_E_FIT;
    cl_code c = cl_source_read(s, t->file, t->offset, t->bytes, div, err);
    for (int j = 0; j < r->dims / 2 && c == CL_OK; j++) {
        if (!(isfinite(div[j]) && div[j] > 0))
            c = cl_fail(err, CL_E_INPUT, "tensor rope_freqs.weight: number %d is %g", j, (double)div[j]);
        r->inv_freq[j] /= (double)div[j];
    }
    free(div);
    return c;
}

static cl_code rope_scaling(const cl_gguf *g, const cl_family *f, int context, cl_rope_params *p, cl_err *err)
{
    const char *arch = f->gguf_arch;
    char k[KEY];
    const char *type = "linear";
    size_t n = 6;
    p->factor = 1;
    p->original_context = context;
    p->beta_fast = 32;
    p->beta_slow = 1;
    p->truncate = f->defaults.rope ? f->defaults.rope->truncate : true;
    /* A factor without a type is linear; scale_linear is its older name. */
    cl_code c = cl_metadata_double(g, arch, "rope.scale_linear", false, 1e-6, 1e6, &p->factor, err);
    if (c == CL_OK) c = cl_metadata_double(g, arch, "rope.scaling.factor", false, 1e-6, 1e6, &p->factor, err);
    if (c == CL_OK)
        c = cl_metadata_double(g, arch, "rope.scaling.original_context_length", false, 1, 1e12, &p->original_context,
                               err);
    if (c == CL_OK)
        c = cl_metadata_double(g, arch, "rope.scaling.yarn_beta_fast", false, 1e-6, 1e6, &p->beta_fast, err);
    if (c == CL_OK)
        c = cl_metadata_double(g, arch, "rope.scaling.yarn_beta_slow", false, 1e-6, 1e6, &p->beta_slow, err);
    double log_multiplier = 0;
    if (c == CL_OK)
        c = cl_metadata_double(g, arch, "rope.scaling.yarn_log_multiplier", false, 0, 1e3, &log_multiplier, err);
    p->mscale = p->mscale_all = 10 * log_multiplier;
    if (c != CL_OK) return c;
    full_key(arch, "rope.scaling.type", k);
    if (cl_gguf_has(g, k) && !cl_gguf_str(g, k, &type, &n)) return cl_fail(err, CL_E_INPUT, "%s: is not a text", k);
    if (n == 4 && memcmp(type, "none", 4) == 0) p->kind = CL_ROPE_PLAIN;
    else if (n == 6 && memcmp(type, "linear", 6) == 0) p->kind = p->factor == 1 ? CL_ROPE_PLAIN : CL_ROPE_LINEAR;
    else if (n == 4 && memcmp(type, "yarn", 4) == 0) p->kind = CL_ROPE_YARN;
    else
        return cl_fail(err, CL_E_INPUT, "%s: %.*s is not supported (known: none, linear, yarn)", k,
                       cl_readable_name(type, n, 60) ? (int)n : 0, type);
    return CL_OK;
}

cl_code cl_metadata_rope(const cl_gguf *g, const cl_family *f, int64_t dims, cl_spec *s, cl_rope_params *said,
                         cl_err *err)
{
    cl_rope_params p = {.dims = (int)dims, .theta = 10000};
    cl_code c = cl_metadata_double(g, f->gguf_arch, "rope.freq_base", false, 1, 1e12, &p.theta, err);
    if (c == CL_OK) c = rope_scaling(g, f, s->context, &p, err);
    if (c == CL_OK) c = cl_spec_rope(s, &p, f->defaults.pairing, err);
    if (said) *said = p;
    return c == CL_OK ? rope_divisors(g, &s->ropes[s->n_ropes - 1], err) : c;
}

/* The numbers of a head that are rotated. */
static cl_code rotary_dims(const cl_gguf *g, const cl_family *f, int64_t head_dim, int64_t *dims, cl_err *err)
{
    *dims = head_dim;
    cl_code c = cl_metadata_int(g, f->gguf_arch, "rope.dimension_count", -1, false, 1, INT_MAX, dims, err);
    bool part = f->defaults.rotary != 0 && *dims < head_dim && *dims % 2 == 0;
    if (c == CL_OK && *dims != head_dim && !part)
        c = cl_fail(err, CL_E_INPUT,
                    "%s.rope.dimension_count: %lld of the %lld numbers of a head is not supported (%s)", f->gguf_arch,
                    (long long)*dims, (long long)head_dim,
                    f->defaults.rotary != 0 ? "an even part, or all" : "only all");
    return c;
}

/* --- sizes and layers --- */

/* Heads, width and biases may differ from layer to layer; head_dim and window do not. */
static cl_code metadata_layer(const cl_gguf *g, const cl_family *f, int i, int64_t window, cl_layer *l, cl_err *err)
{
    const char *arch = f->gguf_arch;
    int64_t heads, kv_heads, width = 0; /* experts may have only their own width */
    cl_code c = cl_metadata_int(g, arch, "attention.head_count", i, true, 1, CL_MAX_HEADS, &heads, err);
    if (c != CL_OK) return c;
    kv_heads = heads;
    c = cl_metadata_int(g, arch, "attention.head_count_kv", i, false, 1, CL_MAX_HEADS, &kv_heads, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "feed_forward_length", i, !f->experts, 1, CL_MAX_SIZE, &width, err);
    if (c != CL_OK) return c;
    if (heads % kv_heads)
        return cl_fail(err, CL_E_INPUT,
                       "%s.attention.head_count: %lld is not a multiple of %s.attention.head_count_kv, %lld", arch,
                       (long long)heads, arch, (long long)kv_heads);
    l->attn.heads = (int)heads;
    l->attn.kv_heads = (int)kv_heads;
    l->attn.window = (int)window;
    l->attn.qkv_bias = cl_metadata_tensor(g, "blk.%L.attn_q.bias", i);
    l->attn.o_bias = cl_metadata_tensor(g, "blk.%L.attn_output.bias", i);
    l->attn.sinks = cl_metadata_tensor(g, "blk.%L.attn_sinks.weight", i);
    l->ffn.width = (int)width;
    l->ffn.bias = cl_metadata_tensor(g, "blk.%L.ffn_gate.bias", i);
    return CL_OK;
}

/* head_dim and the rotary table; layers are made, head_dim is not yet in them. */
static cl_code metadata_heads(const cl_gguf *g, const cl_family *f, int64_t heads, cl_spec *s, cl_err *err)
{
    const char *arch = f->gguf_arch;
    int64_t head_dim = s->hidden % heads ? 0 : s->hidden / heads, value_dim, dims;
    cl_code c = cl_metadata_int(g, arch, "attention.key_length", -1, head_dim == 0, 1, CL_MAX_HEADS, &head_dim, err);
    value_dim = head_dim;
    if (c == CL_OK) c = cl_metadata_int(g, arch, "attention.value_length", -1, false, 1, CL_MAX_HEADS, &value_dim, err);
    if (c == CL_OK && value_dim != head_dim)
        c = cl_fail(err, CL_E_INPUT, "%s.attention.value_length: %lld is not supported beside a key_length of %lld",
                    arch, (long long)value_dim, (long long)head_dim);
    if (c == CL_OK) c = rotary_dims(g, f, head_dim, &dims, err);
    if (c != CL_OK) return c;
    for (int i = 0; i < s->n_layers; i++) {
        s->layers[i].attn.head_dim = (int)head_dim;
        s->layers[i].attn.scale = 1 / sqrt((double)head_dim);
    }
    return cl_metadata_rope(g, f, dims, s, NULL, err);
}

static cl_code metadata_sizes(const cl_gguf *g, const cl_family *f, cl_spec *s, cl_err *err)
{
    const char *arch = f->gguf_arch;
    int64_t hidden, layers, extra = 0, heads, context, window = 0, vocab = 0;
    uint32_t type;
    uint64_t n_tokens = 0;
    cl_code c = cl_metadata_int(g, arch, "embedding_length", -1, true, 1, CL_MAX_SIZE, &hidden, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "block_count", -1, true, 1, CL_MAX_LAYERS, &layers, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "nextn_predict_layers", -1, false, 0, layers - 1, &extra, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "context_length", -1, true, 1, INT_MAX, &context, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "attention.head_count", 0, true, 1, CL_MAX_HEADS, &heads, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "attention.sliding_window", -1, false, 0, INT_MAX, &window, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "vocab_size", -1, false, 1, CL_MAX_SIZE, &vocab, err);
    if (c == CL_OK) c = cl_metadata_double(g, arch, "attention.layer_norm_rms_epsilon", true, 0, 1, &s->norm_eps, err);
    if (c != CL_OK) return c;
    if (vocab == 0 && cl_gguf_array(g, "tokenizer.ggml.tokens", &type, &n_tokens) && n_tokens <= CL_MAX_SIZE)
        vocab = (int64_t)n_tokens;
    s->vocab = (int)vocab; /* 0: only the tensors say */
    s->hidden = (int)hidden;
    s->n_layers = (int)(layers - extra); /* block_count counts those that predict further tokens too */
    s->context = (int)context;
    s->tied = !cl_metadata_tensor(g, "output.weight", 0);
    c = cl_spec_layers(s, 1, 1, 1, 0, err);
    for (int i = 0; i < s->n_layers && c == CL_OK; i++) c = metadata_layer(g, f, i, window, &s->layers[i], err);
    return c == CL_OK && !f->own_attention ? metadata_heads(g, f, heads, s, err) : c;
}

/* eos, end of turn and end of message all end a text. */
static void metadata_ids(const cl_gguf *g, cl_spec *s)
{
    static const char *const keys[] = {"eos_token_id", "eot_token_id", "eom_token_id"};
    char k[KEY];
    uint64_t id;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!cl_gguf_u64(g, full_key("tokenizer.ggml", keys[i], k), &id) || id > INT_MAX) continue;
        bool again = false;
        for (int j = 0; j < s->n_eos; j++) again = again || s->eos[j] == (int)id;
        if (!again) s->eos[s->n_eos++] = (int)id;
    }
    if (cl_gguf_u64(g, "tokenizer.ggml.bos_token_id", &id) && id <= INT_MAX) s->bos = (int)id;
}

cl_code cl_metadata_spec(const cl_gguf *g, cl_spec *s, const cl_family **f, cl_err *err)
{
    *s = (cl_spec){.bos = -1};
    cl_code c = cl_family_of_gguf(g, f, err);
    if (c != CL_OK) return c;
    const char *arch = (*f)->gguf_arch;
    c = refuse(g, *f, err);
    if (c == CL_OK) c = metadata_sizes(g, *f, s, err);
    if (c == CL_OK && (*f)->metadata) c = (*f)->metadata(g, arch, s, err);
    metadata_ids(g, s);
    if (c != CL_OK) cl_spec_free(s);
    else if (!s->family[0]) strncpy(s->family, (*f)->name, sizeof s->family - 1); /* two may share an architecture */
    return c;
}

/* --- helper for families --- */

cl_code cl_metadata_windows(const cl_gguf *g, const char *arch, int64_t window, int64_t period, cl_spec *s, cl_err *err)
{
    static const char pattern[] = "attention.sliding_window_pattern";
    char k[KEY];
    uint32_t type;
    uint64_t n = 0;
    cl_code c = cl_metadata_int(g, arch, "attention.sliding_window", -1, window == 0, 1, INT_MAX, &window, err);
    bool list = cl_gguf_array(g, full_key(arch, pattern, k), &type, &n);
    if (c == CL_OK && !list) c = cl_metadata_int(g, arch, pattern, -1, false, 1, INT_MAX, &period, err);
    for (int i = 0; i < s->n_layers && c == CL_OK; i++) {
        int64_t narrow = (i + 1) % period != 0;
        if (list) c = cl_metadata_int(g, arch, pattern, i, true, 0, 1, &narrow, err);
        s->layers[i].attn.window = narrow ? (int)window : 0;
    }
    return c;
}
