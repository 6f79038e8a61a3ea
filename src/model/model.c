/* model.c: which tensors a spec has, in what order and shape, and what they add up to. */
#include "chipline/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { TABLE, LINEAR, EXPERT, ROUTER, VECTOR, EXPERT_VECTOR } kind;

/* Canonical order inside a layer is the order of the roles. */
static const struct {
    const char *name;
    kind kind;
} roles[CL_ROLES] = {
    [CL_T_EMBED] = {"embed.weight", TABLE},
    [CL_T_ATTN_NORM] = {"attn.norm.weight", VECTOR},
    [CL_T_Q_A] = {"attn.q_a.weight", LINEAR},
    [CL_T_Q_A_NORM] = {"attn.q_a_norm.weight", VECTOR},
    [CL_T_Q] = {"attn.q.weight", LINEAR},
    [CL_T_K] = {"attn.k.weight", LINEAR},
    [CL_T_V] = {"attn.v.weight", LINEAR},
    [CL_T_O] = {"attn.o.weight", LINEAR},
    [CL_T_KV_A] = {"attn.kv_a.weight", LINEAR},
    [CL_T_KV_A_NORM] = {"attn.kv_a_norm.weight", VECTOR},
    [CL_T_K_B] = {"attn.k_b.weight", LINEAR},
    [CL_T_V_B] = {"attn.v_b.weight", LINEAR},
    [CL_T_Q_BIAS] = {"attn.q.bias", VECTOR},
    [CL_T_K_BIAS] = {"attn.k.bias", VECTOR},
    [CL_T_V_BIAS] = {"attn.v.bias", VECTOR},
    [CL_T_O_BIAS] = {"attn.o.bias", VECTOR},
    [CL_T_Q_NORM] = {"attn.q_norm.weight", VECTOR},
    [CL_T_K_NORM] = {"attn.k_norm.weight", VECTOR},
    [CL_T_SINKS] = {"attn.sinks", VECTOR},
    [CL_T_FFN_NORM] = {"ffn.norm.weight", VECTOR},
    [CL_T_GATE] = {"ffn.gate.weight", LINEAR},
    [CL_T_UP] = {"ffn.up.weight", LINEAR},
    [CL_T_DOWN] = {"ffn.down.weight", LINEAR},
    [CL_T_GATE_BIAS] = {"ffn.gate.bias", VECTOR},
    [CL_T_UP_BIAS] = {"ffn.up.bias", VECTOR},
    [CL_T_DOWN_BIAS] = {"ffn.down.bias", VECTOR},
    [CL_T_ROUTER] = {"ffn.router.weight", ROUTER},
    [CL_T_ROUTER_BIAS] = {"ffn.router.bias", VECTOR},
    [CL_T_SELECT_BIAS] = {"ffn.router.select_bias", VECTOR},
    [CL_T_EXPERT_GATE] = {"ffn.experts.gate.weight", EXPERT},
    [CL_T_EXPERT_UP] = {"ffn.experts.up.weight", EXPERT},
    [CL_T_EXPERT_DOWN] = {"ffn.experts.down.weight", EXPERT},
    [CL_T_EXPERT_GATE_BIAS] = {"ffn.experts.gate.bias", EXPERT_VECTOR},
    [CL_T_EXPERT_UP_BIAS] = {"ffn.experts.up.bias", EXPERT_VECTOR},
    [CL_T_EXPERT_DOWN_BIAS] = {"ffn.experts.down.bias", EXPERT_VECTOR},
    [CL_T_SHARED_GATE] = {"ffn.shared.gate.weight", LINEAR},
    [CL_T_SHARED_UP] = {"ffn.shared.up.weight", LINEAR},
    [CL_T_SHARED_DOWN] = {"ffn.shared.down.weight", LINEAR},
    [CL_T_FINAL_NORM] = {"final_norm.weight", VECTOR},
    [CL_T_HEAD] = {"head.weight", TABLE},
};

static kind kind_of(cl_role r)
{
    if ((unsigned)r >= CL_ROLES) CL_BUG("tensor role %d does not exist", (int)r);
    return roles[r].kind;
}

const char *cl_role_name(cl_role r)
{
    kind_of(r);
    return roles[r].name;
}

bool cl_role_is_matrix(cl_role r) { return kind_of(r) == TABLE || kind_of(r) == LINEAR || kind_of(r) == EXPERT; }
bool cl_role_is_expert(cl_role r) { return kind_of(r) == EXPERT || kind_of(r) == EXPERT_VECTOR; }
bool cl_role_is_vector(cl_role r) { return kind_of(r) == VECTOR || kind_of(r) == EXPERT_VECTOR; }

static bool one_per_model(cl_role r) { return r == CL_T_EMBED || r == CL_T_FINAL_NORM || r == CL_T_HEAD; }

/* Shape of the tensor with this role; false if the spec has none. layer is -1 for roles outside the layers. */
static bool tensor_shape(const cl_spec *s, int layer, cl_role r, cl_tensor *t)
{
    if (one_per_model(r)) {
        t->rows = r == CL_T_FINAL_NORM ? s->hidden : s->vocab;
        t->cols = r == CL_T_FINAL_NORM ? 1 : s->hidden;
        return r != CL_T_HEAD || !s->tied;
    }
    const cl_attention *a = &s->layers[layer].attn;
    const cl_ffn *f = &s->layers[layer].ffn;
    bool latent = a->kind == CL_ATTN_LATENT, normed = a->qk_norm == CL_QK_NORM_HEAD || a->qk_norm == CL_QK_NORM_FULL;
    bool dense = f->kind == CL_FFN_DENSE, shared = f->shared_width > 0, present = true;
    int64_t h = s->hidden, q = (int64_t)a->heads * a->head_dim, kv = (int64_t)a->kv_heads * a->head_dim, rows = 0,
            cols = 1;
    int64_t one = a->qk_norm == CL_QK_NORM_HEAD ? a->head_dim : 0; /* numbers in a norm of heads */
    switch (r) {
    case CL_T_ATTN_NORM:
    case CL_T_FFN_NORM: rows = h; break;
    case CL_T_Q_A: rows = a->q_rank, cols = h, present = latent && a->q_rank; break;
    case CL_T_Q_A_NORM: rows = a->q_rank, present = latent && a->q_rank; break;
    case CL_T_Q: rows = q, cols = latent && a->q_rank ? a->q_rank : h; break;
    case CL_T_K:
    case CL_T_V: rows = kv, cols = h, present = !latent; break;
    case CL_T_O: rows = h, cols = (int64_t)a->heads * cl_attention_v_dim(a); break;
    case CL_T_KV_A: rows = (int64_t)a->kv_rank + a->rope_dim, cols = h, present = latent; break;
    case CL_T_KV_A_NORM: rows = a->kv_rank, present = latent; break;
    case CL_T_K_B: t->experts = a->heads, rows = a->kv_rank, cols = a->head_dim - a->rope_dim, present = latent; break;
    case CL_T_V_B: t->experts = a->heads, rows = a->v_dim, cols = a->kv_rank, present = latent; break;
    case CL_T_Q_BIAS: rows = q, present = a->qkv_bias; break;
    case CL_T_K_BIAS:
    case CL_T_V_BIAS: rows = kv, present = a->qkv_bias; break;
    case CL_T_O_BIAS: rows = h, present = a->o_bias; break;
    case CL_T_Q_NORM: rows = one ? one : q, present = normed; break;
    case CL_T_K_NORM: rows = one ? one : kv, present = normed; break;
    case CL_T_SINKS: rows = a->heads, present = a->sinks; break;
    case CL_T_GATE:
    case CL_T_UP: rows = f->width, cols = h, present = dense; break;
    case CL_T_DOWN: rows = h, cols = f->width, present = dense; break;
    case CL_T_GATE_BIAS:
    case CL_T_UP_BIAS: rows = f->width, present = dense && f->bias; break;
    case CL_T_DOWN_BIAS: rows = h, present = dense && f->bias; break;
    case CL_T_ROUTER: rows = f->experts, cols = h, present = !dense; break;
    case CL_T_ROUTER_BIAS: rows = f->experts, present = f->router_bias; break;
    case CL_T_SELECT_BIAS: rows = f->experts, present = f->select_bias; break;
    case CL_T_EXPERT_GATE:
    case CL_T_EXPERT_UP: t->experts = f->experts, rows = f->width, cols = h, present = !dense; break;
    case CL_T_EXPERT_DOWN: t->experts = f->experts, rows = h, cols = f->width, present = !dense; break;
    case CL_T_EXPERT_GATE_BIAS:
    case CL_T_EXPERT_UP_BIAS: t->experts = f->experts, rows = f->width, present = !dense && f->bias; break;
    case CL_T_EXPERT_DOWN_BIAS: t->experts = f->experts, rows = h, present = !dense && f->bias; break;
    case CL_T_SHARED_GATE:
    case CL_T_SHARED_UP: rows = f->shared_width, cols = h, present = shared; break;
    case CL_T_SHARED_DOWN: rows = h, cols = f->shared_width, present = shared; break;
    default: CL_BUG("tensor role %d does not exist", (int)r);
    }
    t->rows = rows;
    t->cols = cols;
    return present;
}

/* Appends the tensor with this role, if there is one. */
static void add(const cl_spec *s, int layer, cl_role r, const cl_formats *f, cl_tensor *list, int *n)
{
    const cl_format formats[] = {[TABLE] = f->tables,   [LINEAR] = f->linear, [EXPERT] = f->experts,
                                 [ROUTER] = f->routers, [VECTOR] = CL_F32,    [EXPERT_VECTOR] = CL_F32};
    cl_tensor t = {.role = r, .layer = layer, .format = formats[roles[r].kind]};
    if (!tensor_shape(s, layer, r, &t)) return;
    if (layer < 0) snprintf(t.name, sizeof t.name, "%s", roles[r].name);
    else snprintf(t.name, sizeof t.name, "layers.%d.%s", layer, roles[r].name);
    list[(*n)++] = t;
}

static bool float_format(cl_format f) { return f == CL_F32 || f == CL_F16 || f == CL_BF16; }

cl_formats cl_formats_all(cl_format f) { return (cl_formats){f, f, f, float_format(f) ? f : CL_BF16}; }

static cl_code check_formats(const cl_formats *f, cl_err *err)
{
    const cl_format all[] = {f->tables, f->linear, f->experts};
    for (int i = 0; i < 3; i++)
        if (!cl_format_native(all[i]))
            return cl_fail(err, CL_E_INPUT, "format %s: is not kept in model files (use q8_0)",
                           cl_format_get(all[i])->name);
    if (float_format(f->routers)) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "format %s: routers are f32, f16 or bf16", cl_format_get(f->routers)->name);
}

cl_code cl_spec_tensors(const cl_spec *s, const cl_formats *formats, cl_tensor **out, int *n, cl_err *err)
{
    cl_code c = cl_spec_check(s, err);
    if (c == CL_OK) c = check_formats(formats, err);
    if (c != CL_OK) return c;
    cl_tensor *list = cl_malloc((size_t)s->n_layers * CL_ROLES + 3, sizeof *list, "tensor list", err);
    if (!list) return CL_E_FIT;
    int k = 0;
    add(s, -1, CL_T_EMBED, formats, list, &k);
    for (int layer = 0; layer < s->n_layers; layer++)
        for (int r = 0; r < CL_ROLES; r++)
            if (!one_per_model((cl_role)r)) add(s, layer, (cl_role)r, formats, list, &k);
    add(s, -1, CL_T_FINAL_NORM, formats, list, &k);
    add(s, -1, CL_T_HEAD, formats, list, &k);
    cl_tensor *fitted = realloc(list, (size_t)k * sizeof *list);
    *out = fitted ? fitted : list;
    *n = k;
    return CL_OK;
}

cl_code cl_model_from_spec(const cl_spec *s, const cl_formats *formats, cl_model *out, cl_err *err)
{
    cl_model m = {0};
    cl_code c = cl_spec_tensors(s, formats, &m.tensors, &m.n_tensors, err);
    if (c == CL_OK) c = cl_spec_copy(s, &m.spec, err);
    if (c != CL_OK) free(m.tensors);
    else *out = m;
    return c;
}

const cl_tensor *cl_model_find(const cl_model *m, cl_role role, int layer)
{
    for (int i = 0; i < m->n_tensors; i++)
        if (m->tensors[i].role == role && m->tensors[i].layer == layer) return &m->tensors[i];
    return NULL;
}

cl_code cl_model_copy(const cl_model *from, cl_model *to, cl_err *err)
{
    *to = (cl_model){.n_tensors = from->n_tensors};
    to->tensors = cl_malloc((size_t)from->n_tensors, sizeof *to->tensors, "tensor list", err);
    if (!to->tensors) return CL_E_FIT;
    memcpy(to->tensors, from->tensors, (size_t)from->n_tensors * sizeof *to->tensors);
    return cl_spec_copy(&from->spec, &to->spec, err);
}

void cl_model_free(cl_model *m)
{
    cl_spec_free(&m->spec);
    free(m->tensors);
    *m = (cl_model){0};
}

/* Matrices of the stack that one token reads. */
static uint64_t read_matrices(const cl_model *m, const cl_tensor *t)
{
    if (cl_role_is_expert(t->role)) return (uint64_t)m->spec.layers[t->layer].ffn.top_k;
    return t->experts ? (uint64_t)t->experts : 1;
}

void cl_model_count(const cl_model *m, cl_model_counts *out)
{
    uint64_t table = 0;
    *out = (cl_model_counts){0};
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        uint64_t one = (uint64_t)t->rows * (uint64_t)t->cols;
        out->parameters += (t->experts ? (uint64_t)t->experts : 1) * one;
        out->active_parameters += read_matrices(m, t) * one;
        out->bytes[t->format] += cl_tensor_bytes(t);
        if (t->role == CL_T_EMBED && !m->spec.tied) table = one;
    }
    out->active_without_tables = out->active_parameters - table;
    for (int i = 0; i < m->spec.n_layers; i++) {
        const cl_attention *a = &m->spec.layers[i].attn;
        out->kv_values += (uint64_t)cl_attention_cached(a) * (uint64_t)cl_attention_cached_dim(a);
    }
}

bool cl_model_quantised(const cl_model *m)
{
    uint64_t blocks = 0, all = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        uint64_t bytes = cl_tensor_bytes(&m->tensors[i]);
        all += bytes;
        if (cl_format_get(m->tensors[i].format)->block > 1) blocks += bytes;
    }
    return blocks > all / 2;
}
