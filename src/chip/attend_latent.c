/* attend_latent.c: latent attention (model.h), absorbed: the cache is asked in its own low-rank numbers and never
 * expanded.
 *
 * Rows are one per own head and token, a head's tokens together, so that a head's part of K_B or V_B meets all its
 * tokens at once. */
#include <string.h>

#include "chip_impl.h"

/* Norm and rotation of what this thread's share of the tokens will have in the cache; stored, where there are heads
 * that will look. */
static void store(cl_chip *c, const team *t, int layer, int first, int n)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const work *w = &c->work;
    const float *norm = slice_get(&c->slice, CL_T_KV_A_NORM, layer)->vec;
    int64_t from, to;
    if (!share_of(c, layer)->heads.q) return;
    team_share(t, n, &from, &to);
    for (int64_t tok = from; tok < to; tok++) {
        const float *all = w->all_kv + (size_t)tok * w->kv;
        float *k = w->ks + (size_t)tok * w->kv;
        token_ref ref = w->tokens[first + tok];
        cl_kv_head kv = kv_head(&c->kv, layer - c->stage.first_layer, ref.slot, 0);
        c->k->rmsnorm(all, norm, a->kv_rank, (float)a->latent_eps, k);
        memcpy(k + a->kv_rank, all + a->kv_rank, (size_t)a->rope_dim * sizeof *k);
        attend_rotate(c, a, first + (int)tok, k + a->kv_rank);
        c->k->kv_store(&kv, ref.pos, k, NULL);
    }
}

/* Products of the normed input: queries, or their low-rank form, which is normed and goes through Q; and the cache's
 * vector. */
static uint64_t project(cl_chip *c, const team *t, cl_event *e, int layer, int first, int n, const float *x)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const work *w = &c->work;
    const slice *s = &c->slice;
    const layer_share *share = share_of(c, layer);
    const cl_role begin_role = a->q_rank ? CL_T_Q_A : CL_T_Q;
    const cl_matrix *q = &slice_get(s, CL_T_Q, layer)->m, *begin = &slice_get(s, begin_role, layer)->m;
    const cl_matrix *kv_a = &slice_get(s, CL_T_KV_A, layer)->m;
    uint64_t bytes = slice_expert_bytes(begin) + slice_expert_bytes(kv_a);

    cl_acts in = phase_normed_acts(c, w->norm, w->hidden, n, c->spec.hidden, (const cl_matrix *[]){begin, kv_a}, 2);
    phase_norm(c, t, &in, x, slice_get(s, CL_T_ATTN_NORM, layer)->vec);
    team_wait(t);
    phase_products(c, t,
                   (product[]){product_of(c, begin_role, layer, NULL, false, a->q_rank ? w->all_low : w->qs,
                                          a->q_rank ? w->q_a : w->q),
                               product_of(c, CL_T_KV_A, layer, NULL, false, w->all_kv, w->kv)},
                   2, &in);
    team_gather(c, t, e,
                (cl_region[]){columns(w->all_kv, n, w->kv, share->kv_a), columns(w->all_low, n, w->q_a, share->q_a)},
                a->q_rank ? 2 : 1);
    store(c, t, layer, first, n);
    if (!a->q_rank) return bytes; /* others may still store: they are waited for after the queries are spread */

    const float *norm = slice_get(s, CL_T_Q_A_NORM, layer)->vec;
    cl_acts low = phase_normed_acts(c, w->q_low, w->q_a, n, a->q_rank, &q, 1);
    int64_t from, to;
    team_share(t, n, &from, &to);
    for (int64_t tok = from; tok < to; tok++)
        c->k->rmsnorm(w->all_low + (size_t)tok * w->q_a, norm, a->q_rank, (float)a->latent_eps,
                      w->q_low + (size_t)tok * w->q_a);
    phase_prepare_tokens(c, &low, w->q_low, from, to);
    team_wait(t);
    product queries = product_of(c, CL_T_Q, layer, NULL, false, w->qs, w->q);
    phase_products(c, t, &queries, 1, &low);
    team_wait(t);
    return bytes + slice_expert_bytes(q);
}

/* Every query becomes two rows: its plain numbers as the input of K_B, its rotated ones at the end of the lookup. */
static void spread(cl_chip *c, const team *t, int layer, int first, int n, cl_acts *plain)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const work *w = &c->work;
    size_t stride = padded(cl_attention_cached_dim(a));
    size_t dims = (size_t)(a->head_dim - a->rope_dim), rotated = (size_t)a->rope_dim;
    const int head0 = share_of(c, layer)->heads.q0;
    int64_t from, to;
    team_share(t, plain->n, &from, &to);
    for (int64_t row = from; row < to; row++) {
        int head = head0 + (int)(row / n), tok = (int)(row % n);
        float *q = w->qs + (size_t)tok * w->q + (size_t)head * (size_t)a->head_dim;
        attend_rotate(c, a, first + tok, q + dims);
        attend_temper(c, a, first + tok, q, a->head_dim);
        memcpy(w->plain + (size_t)row * plain->stride, q, dims * sizeof *q);
        memcpy(w->lookup + (size_t)row * stride + a->kv_rank, q + dims, rotated * sizeof *q);
    }
    phase_prepare_tokens(c, plain, w->plain, from, to);
}

/* Each head's rows times its matrix of a stack; y of (head, token) is at head * head_stride + token * stride. Threads
 * share (head, panel). */
static void stack_product(const cl_chip *c, const team *t, const cl_matrix *m, const cl_acts *rows, int n, float *y,
                          size_t head_stride, size_t stride)
{
    int64_t a, b;
    team_share(t, m->experts * m->panels, &a, &b);
    for (int64_t end; a < b; a = end) {
        int64_t head = a / m->panels, first = head * m->panels;
        end = b < first + m->panels ? b : first + m->panels;
        c->k->matmul(m, head, a - first, end - first, rows, c->work.row_self + head * n, n,
                     y + (size_t)head * head_stride, stride);
    }
}

uint64_t latent_in(cl_chip *c, const team *t, cl_event *e, int layer, int first, int n, const float *x)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const work *w = &c->work;
    const cl_matrix *k_b = &slice_get(&c->slice, CL_T_K_B, layer)->m;
    size_t stride = padded(cl_attention_cached_dim(a));
    int dims = a->head_dim - a->rope_dim;
    uint64_t bytes = project(c, t, e, layer, first, n, x);
    cl_acts plain = phase_acts(c, w->plain, padded(dims), n * share_of(c, layer)->heads.q, dims, &k_b, 1);
    spread(c, t, layer, first, n, &plain);
    team_wait(t);
    stack_product(c, t, k_b, &plain, n, w->lookup, (size_t)n * stride, stride);
    team_wait(t);
    return bytes + (uint64_t)k_b->experts * slice_expert_bytes(k_b);
}

static cl_acts found_acts(const cl_chip *c, int layer, int n)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_matrix *v_b = &slice_get(&c->slice, CL_T_V_B, layer)->m;
    return phase_acts(c, c->work.found, padded(a->kv_rank), n * share_of(c, layer)->heads.q, a->kv_rank, &v_b, 1);
}

/* Heads that look together read a key once. Fewer of them at a time where there would not be enough work for all
 * threads. */
static int heads_together(int heads, const team *t, int n)
{
    enum { LEAST = 4 };
    int size = CL_LATENT_HEADS;
    while (t->n > 1 && size > LEAST && (int64_t)n * ((heads + size - 1) / size) < 2 * (int64_t)t->n) size /= 2;
    return size;
}

/* Units are groups of heads, then tokens within a group. What a unit found is prepared for V_B at once. */
void latent_look(cl_chip *c, const team *t, int layer, int first, int n)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const work *w = &c->work;
    const float *sinks = slice_get(&c->slice, CL_T_SINKS, layer)->vec;
    size_t stride = padded(cl_attention_cached_dim(a)), out = padded(a->kv_rank);
    cl_acts found = found_acts(c, layer, n);
    const cl_heads own = share_of(c, layer)->heads;
    int size = heads_together(own.q, t, n);
    int64_t u0, u1;
    team_share(t, (int64_t)((own.q + size - 1) / size) * n, &u0, &u1);
    for (int64_t u = u0; u < u1; u++) {
        int head = (int)(u / n) * size, tok = (int)(u % n), heads = own.q - head < size ? own.q - head : size;
        size_t row = (size_t)head * (size_t)n + (size_t)tok;
        token_ref ref = w->tokens[first + tok];
        cl_kv_head kv = kv_head(&c->kv, layer - c->stage.first_layer, ref.slot, 0);
        c->k->attend_latent(&kv, heads, w->lookup + row * stride, (size_t)n * stride, a->kv_rank,
                            cl_attention_first(a, ref.pos), ref.pos, (float)a->scale,
                            sinks ? sinks + own.q0 + head : NULL, w->found + row * out, (size_t)n * out,
                            w->scratch + (size_t)t->id * w->scratch_stride);
        for (int64_t h = 0, r = (int64_t)row; h < heads; h++, r += n)
            phase_prepare_tokens(c, &found, w->found, r, r + 1);
    }
}

uint64_t latent_out(cl_chip *c, const team *t, int layer, int n)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_matrix *v_b = &slice_get(&c->slice, CL_T_V_B, layer)->m;
    cl_acts found = found_acts(c, layer, n);
    float *att = c->work.att + (size_t)share_of(c, layer)->heads.q0 * (size_t)a->v_dim;
    stack_product(c, t, v_b, &found, n, att, (size_t)a->v_dim, c->work.seen);
    return (uint64_t)v_b->experts * slice_expert_bytes(v_b);
}
