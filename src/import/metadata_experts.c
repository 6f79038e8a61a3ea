/* metadata_experts.c: what GGUF metadata and tensors say about expert layers. */
#include "family.h"
#include "sizes.h"

/* expert_gating_func; 0: the file leaves it to its readers. */
static cl_code scoring(const cl_gguf *g, const char *arch, cl_scoring *out, cl_err *err)
{
    int64_t f = 0;
    cl_code c = cl_metadata_int(g, arch, "expert_gating_func", -1, false, 0, INT32_MAX, &f, err);
    if (c != CL_OK || f == 0) return c;
    if (f > 3)
        return cl_fail(err, CL_E_INPUT,
                       "%s.expert_gating_func: %lld is not supported (only 1, 2 and 3: softmax, sigmoid, "
                       "softmax over the chosen)",
                       arch, (long long)f);
    *out = f == 1 ? CL_SCORE_SOFTMAX : f == 2 ? CL_SCORE_SIGMOID : CL_SCORE_CHOSEN_SOFTMAX;
    return CL_OK;
}

static cl_code groups(const cl_gguf *g, const char *arch, cl_ffn *f, cl_err *err)
{
    int64_t n = 0, top = 0, best = f->group_best;
    f->groups = f->top_groups = f->group_best = 0;
    cl_code c = cl_metadata_int(g, arch, "expert_group_count", -1, false, 0, f->experts, &n, err);
    if (c != CL_OK || n <= 1) return c;
    if (best == 0)
        return cl_fail(err, CL_E_INPUT, "%s.expert_group_count: %lld is not supported (only 1)", arch, (long long)n);
    if (f->experts % n)
        return cl_fail(err, CL_E_INPUT, "%s.expert_group_count: %lld does not divide %s.expert_count, %d", arch,
                       (long long)n, arch, f->experts);
    c = cl_metadata_int(g, arch, "expert_group_used_count", -1, true, 1, n, &top, err);
    if (c == CL_OK && (best > f->experts / n || f->top_k > top * (f->experts / n)))
        c = cl_fail(err, CL_E_INPUT, "%s.expert_group_count: %lld groups of %lld experts are too small", arch,
                    (long long)n, (long long)(f->experts / n));
    f->groups = (int)n;
    f->top_groups = (int)top;
    f->group_best = (int)best;
    return c;
}

static cl_code common(const cl_gguf *g, const char *arch, cl_ffn *f, cl_err *err)
{
    char key[192];
    int64_t experts, top_k;
    double scale = 0;
    f->kind = CL_FFN_MOE;
    cl_code c = cl_metadata_int(g, arch, "expert_count", -1, true, 1, CL_MAX_EXPERTS, &experts, err);
    if (c == CL_OK) c = cl_metadata_int(g, arch, "expert_used_count", -1, true, 1, experts, &top_k, err);
    if (c == CL_OK) c = cl_metadata_double(g, arch, "expert_weights_scale", false, 0, 1e6, &scale, err);
    if (c != CL_OK) return c;
    f->experts = (int)experts;
    f->top_k = (int)top_k;
    if (scale > 0) f->weight_scale = scale; /* 0 is written for "none" */
    snprintf(key, sizeof key, "%s.expert_weights_norm", arch);
    if (cl_gguf_has(g, key) && !cl_gguf_bool(g, key, &f->renormalise))
        return cl_fail(err, CL_E_INPUT, "%s: is neither true nor false", key);
    c = scoring(g, arch, &f->scoring, err);
    return c == CL_OK ? groups(g, arch, f, err) : c;
}

/* Outputs of a matrix [out, in]; 0 where there is none. */
static int64_t outputs(const cl_gguf *g, const char *pattern, int layer)
{
    char name[64];
    const cl_source *s = cl_gguf_source(g);
    int i = cl_name_fill(pattern, layer, 0, name, sizeof name) ? cl_source_find(s, name) : -1;
    return i >= 0 && s->tensors[i].n_dims == 2 ? s->tensors[i].dims[0] : 0;
}

/* The shared expert's width: its own key, or as many experts' widths as there are shared ones, or what its tensor
 * has. */
static cl_code shared_width(const cl_gguf *g, const char *arch, int layer, int64_t width, int64_t *out, cl_err *err)
{
    int64_t count = 0;
    *out = outputs(g, "blk.%L.ffn_gate_shexp.weight", layer);
    if (*out > CL_MAX_SIZE) return cl_fail(err, CL_E_INPUT, "tensor blk.%d.ffn_gate_shexp.weight is too large", layer);
    cl_code c = cl_metadata_int(g, arch, "expert_shared_count", -1, false, 0, CL_MAX_SIZE / width, &count, err);
    if (count) *out = count * width;
    return c == CL_OK
               ? cl_metadata_int(g, arch, "expert_shared_feed_forward_length", layer, false, 0, CL_MAX_SIZE, out, err)
               : c;
}

cl_code cl_metadata_experts(const cl_gguf *g, const char *arch, const cl_ffn *like, cl_spec *s, cl_err *err)
{
    cl_ffn f = *like;
    cl_code c = common(g, arch, &f, err);
    for (int i = 0; i < s->n_layers && c == CL_OK; i++) {
        bool dense = cl_metadata_tensor(g, "blk.%L.ffn_gate.weight", i);
        if (dense && !cl_metadata_tensor(g, "blk.%L.ffn_gate_inp.weight", i)) continue;
        int64_t shared = 0, width = s->layers[i].ffn.width; /* where experts have no length of their own */
        c = cl_metadata_int(g, arch, "expert_feed_forward_length", i, width == 0, 1, CL_MAX_SIZE, &width, err);
        if (c == CL_OK) c = shared_width(g, arch, i, width, &shared, err);
        if (c != CL_OK) break;
        f.width = (int)width;
        f.shared_width = (int)shared;
        f.bias = like->bias || cl_metadata_tensor(g, "blk.%L.ffn_down_exps.bias", i);
        f.router_bias = like->router_bias || cl_metadata_tensor(g, "blk.%L.ffn_gate_inp.bias", i);
        f.select_bias = like->select_bias || cl_metadata_tensor(g, "blk.%L.exp_probs_b.bias", i);
        s->layers[i].ffn = f;
    }
    return c;
}
