/* check_slice.c: is all in the slice that the layers of this chip will look for? */
#include "inside.h"

/* Buffers are as wide as the rows that belong here; queries, keys and values may have a few rows more, where a format's
 * scales are shared by rows. */
static void check_rows_of(const chip_fixed *c, cl_role role, int layer, int64_t experts, cl_range rows, int64_t cols,
                          bool more)
{
    const slice_tensor *st = slice_get(&c->slice, role, layer);
    const int64_t here = st->m.rows, want = experts ? rows.n : 0;
    bool ok = more ? here >= want : here == want;
    if (want) {
        ok &= st->row0 <= rows.first && st->row0 + here >= rows.first + want;
        ok &= st->m.experts == experts && st->m.cols == cols;
    }
    if (!ok) CL_BUG("role %d of layer %d: not in the slice, or not all that should be", (int)role, layer);
}

static void check_tensor(const chip_fixed *c, cl_role role, int layer, int64_t experts, cl_range rows, int64_t cols)
{
    check_rows_of(c, role, layer, experts, rows, cols, false);
}

static void check_heads(const chip_fixed *c, cl_role role, int layer, int first, int heads, int64_t cols)
{
    const int64_t d = c->spec.layers[layer].attn.head_dim;
    check_rows_of(c, role, layer, 1, (cl_range){first * d, heads * d}, cols, true);
}

static void check_whole(const chip_fixed *c, cl_role role, int layer, int64_t rows, int64_t cols)
{
    check_tensor(c, role, layer, 1, (cl_range){0, rows}, cols);
}

/* Rows of a matrix that all chips share. */
static void check_rows(const chip_fixed *c, cl_role role, int layer, int64_t rows, int64_t cols)
{
    check_tensor(c, role, layer, 1, cl_split_rows(rows, c->group.members, c->group.member), cols);
}

static void check_latent(const chip_fixed *c, int layer)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_heads h = cut_of(c, layer)->heads;
    int64_t hidden = c->spec.hidden;
    if (a->q_rank) check_rows(c, CL_T_Q_A, layer, a->q_rank, hidden);
    if (a->q_rank) check_whole(c, CL_T_Q_A_NORM, layer, a->q_rank, 1);
    check_heads(c, CL_T_Q, layer, h.q0, h.q, a->q_rank ? a->q_rank : hidden);
    check_rows(c, CL_T_KV_A, layer, (int64_t)a->kv_rank + a->rope_dim, hidden);
    check_whole(c, CL_T_KV_A_NORM, layer, a->kv_rank, 1);
    check_tensor(c, CL_T_K_B, layer, h.q, (cl_range){0, a->kv_rank}, a->head_dim - a->rope_dim);
    check_tensor(c, CL_T_V_B, layer, h.q, (cl_range){0, a->v_dim}, a->kv_rank);
}

static void check_grouped(const chip_fixed *c, int layer)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_heads h = cut_of(c, layer)->heads;
    int64_t hidden = c->spec.hidden, d = a->head_dim, q = a->heads * d, kv = a->kv_heads * d;
    check_heads(c, CL_T_Q, layer, h.q0, h.q, hidden);
    check_heads(c, CL_T_K, layer, h.kv0, h.kv, hidden);
    check_heads(c, CL_T_V, layer, h.kv0, h.kv, hidden);
    if (a->qkv_bias) {
        check_whole(c, CL_T_Q_BIAS, layer, q, 1);
        check_whole(c, CL_T_K_BIAS, layer, kv, 1);
        check_whole(c, CL_T_V_BIAS, layer, kv, 1);
    }
    if (a->qk_norm == CL_QK_NORM_HEAD || a->qk_norm == CL_QK_NORM_FULL) {
        bool head = a->qk_norm == CL_QK_NORM_HEAD;
        check_whole(c, CL_T_Q_NORM, layer, head ? d : q, 1);
        check_whole(c, CL_T_K_NORM, layer, head ? d : kv, 1);
    }
}

static void check_attention(const chip_fixed *c, int layer)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    int64_t hidden = c->spec.hidden;
    check_whole(c, CL_T_ATTN_NORM, layer, hidden, 1);
    if (a->kind == CL_ATTN_LATENT) check_latent(c, layer);
    else check_grouped(c, layer);
    check_rows(c, CL_T_O, layer, hidden, (int64_t)a->heads * cl_attention_v_dim(a));
    if (a->o_bias) check_rows(c, CL_T_O_BIAS, layer, hidden, 1);
    if (a->sinks) check_whole(c, CL_T_SINKS, layer, a->heads, 1);
}

/* Gate, up and down of the dense MLP, of the experts that are here, or of the shared expert: their roles follow each
 * other, biases too. */
static void check_mlp(const chip_fixed *c, int layer, cl_role gate, cl_role gate_bias, bool bias, int64_t experts,
                      bool whole, int64_t width)
{
    int64_t hidden = c->spec.hidden, rows[] = {width, width, hidden}, cols[] = {hidden, hidden, width};
    for (int i = 0; i < 3; i++) {
        cl_range here = whole ? (cl_range){0, rows[i]} : cl_split_rows(rows[i], c->group.members, c->group.member);
        check_tensor(c, (cl_role)((int)gate + i), layer, experts, here, cols[i]);
        if (bias) check_tensor(c, (cl_role)((int)gate_bias + i), layer, experts, here, 1);
    }
}

static void check_ffn(const chip_fixed *c, int layer)
{
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const layer_cut *cut = cut_of(c, layer);
    check_whole(c, CL_T_FFN_NORM, layer, c->spec.hidden, 1);
    if (f->kind == CL_FFN_DENSE) {
        check_mlp(c, layer, CL_T_GATE, CL_T_GATE_BIAS, f->bias, 1, false, f->width);
        return;
    }
    if (cut->router) check_rows(c, CL_T_ROUTER, layer, f->experts, c->spec.hidden);
    else check_whole(c, CL_T_ROUTER, layer, f->experts, c->spec.hidden);
    if (f->router_bias) check_whole(c, CL_T_ROUTER_BIAS, layer, f->experts, 1);
    if (f->select_bias) check_whole(c, CL_T_SELECT_BIAS, layer, f->experts, 1);
    check_mlp(c, layer, CL_T_EXPERT_GATE, CL_T_EXPERT_GATE_BIAS, f->bias, cut->n_local, cut->map != NULL, f->width);
    if (f->shared_width) check_mlp(c, layer, CL_T_SHARED_GATE, CL_ROLES, false, 1, false, f->shared_width);
}

void check_slice(const chip_fixed *c)
{
    int64_t hidden = c->spec.hidden, vocab = c->spec.vocab;
    if (c->stage.embed) check_rows(c, CL_T_EMBED, -1, vocab, hidden);
    if (c->stage.head) check_whole(c, CL_T_FINAL_NORM, -1, hidden, 1);
    if (c->stage.head) check_rows(c, c->spec.tied ? CL_T_EMBED : CL_T_HEAD, -1, vocab, hidden);
    for (int i = 0; i < c->stage.n_layers; i++) {
        check_attention(c, c->stage.first_layer + i);
        check_ffn(c, c->stage.first_layer + i);
    }
}
