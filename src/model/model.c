/* model.c: which tensors a spec has, in what order and shape, and what they add up to. */
#include "chipline/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Canonical order inside a layer is the order of the roles. */
static const struct { const char *name; bool matrix; } roles[CL_ROLES] = {
    [CL_T_EMBED] = {"embed.weight", true},
    [CL_T_ATTN_NORM] = {"attn.norm.weight", false},
    [CL_T_Q] = {"attn.q.weight", true},
    [CL_T_K] = {"attn.k.weight", true},
    [CL_T_V] = {"attn.v.weight", true},
    [CL_T_O] = {"attn.o.weight", true},
    [CL_T_Q_BIAS] = {"attn.q.bias", false},
    [CL_T_K_BIAS] = {"attn.k.bias", false},
    [CL_T_V_BIAS] = {"attn.v.bias", false},
    [CL_T_O_BIAS] = {"attn.o.bias", false},
    [CL_T_Q_NORM] = {"attn.q_norm.weight", false},
    [CL_T_K_NORM] = {"attn.k_norm.weight", false},
    [CL_T_FFN_NORM] = {"ffn.norm.weight", false},
    [CL_T_GATE] = {"ffn.gate.weight", true},
    [CL_T_UP] = {"ffn.up.weight", true},
    [CL_T_DOWN] = {"ffn.down.weight", true},
    [CL_T_GATE_BIAS] = {"ffn.gate.bias", false},
    [CL_T_UP_BIAS] = {"ffn.up.bias", false},
    [CL_T_DOWN_BIAS] = {"ffn.down.bias", false},
    [CL_T_ROUTER] = {"ffn.router.weight", false},
    [CL_T_EXPERT_GATE] = {"ffn.experts.gate.weight", true},
    [CL_T_EXPERT_UP] = {"ffn.experts.up.weight", true},
    [CL_T_EXPERT_DOWN] = {"ffn.experts.down.weight", true},
    [CL_T_FINAL_NORM] = {"final_norm.weight", false},
    [CL_T_HEAD] = {"head.weight", true},
};

const char *cl_role_name(cl_role r)
{
    if ((unsigned)r >= CL_ROLES) CL_BUG("tensor role %d does not exist", (int)r);
    return roles[r].name;
}

bool cl_role_is_matrix(cl_role r)
{
    if ((unsigned)r >= CL_ROLES) CL_BUG("tensor role %d does not exist", (int)r);
    return roles[r].matrix;
}

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
    int64_t h = s->hidden, q = (int64_t)a->heads * a->head_dim, kv = (int64_t)a->kv_heads * a->head_dim, rows = 0, cols = 1;
    bool dense = f->kind == CL_FFN_DENSE, present = true;
    switch (r) {
    case CL_T_ATTN_NORM: case CL_T_FFN_NORM: rows = h; break;
    case CL_T_Q: rows = q, cols = h; break;
    case CL_T_K: case CL_T_V: rows = kv, cols = h; break;
    case CL_T_O: rows = h, cols = q; break;
    case CL_T_Q_BIAS: rows = q, present = a->qkv_bias; break;
    case CL_T_K_BIAS: case CL_T_V_BIAS: rows = kv, present = a->qkv_bias; break;
    case CL_T_O_BIAS: rows = h, present = a->o_bias; break;
    case CL_T_Q_NORM: rows = a->qk_norm == CL_QK_NORM_HEAD ? a->head_dim : q, present = a->qk_norm != CL_QK_NORM_NONE; break;
    case CL_T_K_NORM: rows = a->qk_norm == CL_QK_NORM_HEAD ? a->head_dim : kv, present = a->qk_norm != CL_QK_NORM_NONE; break;
    case CL_T_GATE: case CL_T_UP: rows = f->width, cols = h, present = dense; break;
    case CL_T_DOWN: rows = h, cols = f->width, present = dense; break;
    case CL_T_GATE_BIAS: case CL_T_UP_BIAS: rows = f->width, present = f->bias; break;
    case CL_T_DOWN_BIAS: rows = h, present = f->bias; break;
    case CL_T_ROUTER: rows = f->experts, cols = h, present = !dense; break;
    case CL_T_EXPERT_GATE: case CL_T_EXPERT_UP: t->experts = f->experts, rows = f->width, cols = h, present = !dense; break;
    case CL_T_EXPERT_DOWN: t->experts = f->experts, rows = h, cols = f->width, present = !dense; break;
    default: CL_BUG("tensor role %d does not exist", (int)r);
    }
    t->rows = rows;
    t->cols = cols;
    return present;
}

/* Appends the tensor with this role, if there is one. */
static void add(const cl_spec *s, int layer, cl_role r, cl_format format, cl_tensor *list, int *n)
{
    cl_tensor t = {.role = r, .layer = layer, .format = roles[r].matrix ? format : CL_F32};
    if (!tensor_shape(s, layer, r, &t)) return;
    if (layer < 0) snprintf(t.name, sizeof t.name, "%s", roles[r].name);
    else snprintf(t.name, sizeof t.name, "layers.%d.%s", layer, roles[r].name);
    list[(*n)++] = t;
}

cl_code cl_spec_tensors(const cl_spec *s, cl_format format, cl_tensor **out, int *n, cl_err *err)
{
    cl_code c = cl_spec_check(s, err);
    if (c != CL_OK) return c;
    if (!cl_format_native(format))
        return cl_fail(err, CL_E_INPUT, "format %s: is not kept in model files (use q8_0)", cl_format_get(format)->name);
    cl_tensor *list = cl_malloc((size_t)s->n_layers * CL_ROLES + 3, sizeof *list, "tensor list", err);
    if (!list) return CL_E_FIT;
    int k = 0;
    add(s, -1, CL_T_EMBED, format, list, &k);
    for (int layer = 0; layer < s->n_layers; layer++)
        for (int r = 0; r < CL_ROLES; r++)
            if (!one_per_model((cl_role)r)) add(s, layer, (cl_role)r, format, list, &k);
    add(s, -1, CL_T_FINAL_NORM, format, list, &k);
    add(s, -1, CL_T_HEAD, format, list, &k);
    cl_tensor *fitted = realloc(list, (size_t)k * sizeof *list);
    *out = fitted ? fitted : list;
    *n = k;
    return CL_OK;
}

cl_code cl_model_from_spec(const cl_spec *s, cl_format format, cl_model *out, cl_err *err)
{
    cl_model m = {0};
    cl_code c = cl_spec_tensors(s, format, &m.tensors, &m.n_tensors, err);
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

uint64_t cl_tensor_token_bytes(const cl_model *m, const cl_tensor *t)
{
    uint64_t row = cl_row_bytes(t->format, t->cols);
    if (t->role == CL_T_EMBED) return row;
    return (t->experts ? (uint64_t)m->spec.layers[t->layer].ffn.top_k : 1) * (uint64_t)t->rows * row;
}

void cl_model_count(const cl_model *m, cl_model_counts *out)
{
    *out = (cl_model_counts){0};
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        uint64_t one = (uint64_t)t->rows * (uint64_t)t->cols;
        out->parameters += (t->experts ? (uint64_t)t->experts : 1) * one;
        out->active_parameters += (t->experts ? (uint64_t)m->spec.layers[t->layer].ffn.top_k : 1) * one;
        out->bytes[t->format] += cl_tensor_bytes(t);
        out->read_bytes += cl_tensor_token_bytes(m, t);
        if (t->role == CL_T_EMBED && m->spec.tied) out->read_bytes += cl_tensor_bytes(t);
    }
    for (int i = 0; i < m->spec.n_layers; i++) {
        const cl_attention *a = &m->spec.layers[i].attn;
        out->kv_values += 2 * (uint64_t)a->kv_heads * (uint64_t)a->head_dim;
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
