/* attend.c: the first half of a layer: norm, queries, keys and values, rotation, cache, attention, output. */
#include <math.h>

#include "chip_impl.h"

/* Angles are computed in double and rounded once, so that late positions are as exact as early ones. */
void attend_angles(cl_chip *c, const team *t, int n)
{
    const work *w = &c->work;
    int64_t a, b;
    team_share(t, n, &a, &b);
    for (int r = 0; r < c->spec.n_ropes; r++) {
        const cl_rope *rope = &c->spec.ropes[r];
        int half = rope->dims / 2;
        for (int64_t i = a; i < b; i++) {
            float *cs = w->cos_sin + ((size_t)r * (size_t)c->opt.limits.chunk + (size_t)i) * w->rope_stride;
            for (int j = 0; j < half; j++) {
                double angle = (double)w->tokens[i].pos * rope->inv_freq[j];
                cs[j] = (float)(cos(angle) * rope->scale);
                cs[half + j] = (float)(sin(angle) * rope->scale);
            }
        }
    }
}

void attend_rotate(const cl_chip *c, const cl_attention *a, int tok, float *x)
{
    if (a->rope < 0) return;
    const cl_rope *rope = &c->spec.ropes[a->rope];
    const float *cs = c->work.cos_sin +
                      ((size_t)a->rope * (size_t)c->opt.limits.chunk + (size_t)tok) * c->work.rope_stride;
    int half = rope->dims / 2, step = rope->pairing == CL_ROPE_HALF ? 1 : 2,
        other = rope->pairing == CL_ROPE_HALF ? half : 1;
    for (int j = 0; j < half; j++) {
        float p = x[j * step], q = x[j * step + other];
        x[j * step] = p * cs[j] - q * cs[half + j];
        x[j * step + other] = q * cs[j] + p * cs[half + j];
    }
}

void attend_temper(const cl_chip *c, const cl_attention *a, int tok, float *q, int n)
{
    if (a->temperature == 0) return;
    double run = floor(((double)c->work.tokens[tok].pos + 1) / a->temperature_floor);
    float by = (float)(1 + a->temperature * log(1 + run));
    for (int i = 0; i < n; i++) q[i] *= by;
}

static void clip(float *x, int n, float limit)
{
    for (int i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

/* What happens to `heads` heads of queries or keys of token tok after their product: norm (one over all heads has
 * been done), clip, rotation. */
static void finish_heads(const cl_chip *c, const cl_attention *a, float *x, int heads, const float *norm, int tok)
{
    int d = a->head_dim;
    if (a->qk_norm == CL_QK_NORM_HEAD || a->qk_norm == CL_QK_NORM_UNIT) /* unit: norm is NULL */
        for (int h = 0; h < heads; h++) c->k->rmsnorm(x + h * d, norm, d, (float)c->spec.norm_eps, x + h * d);
    if (a->clip > 0) clip(x, heads * d, (float)a->clip);
    for (int h = 0; h < heads; h++) attend_rotate(c, a, tok, x + h * d);
}

static void finish_queries(const cl_chip *c, int layer, int first, int tok)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_heads h = share_of(c, layer)->heads;
    const work *w = &c->work;
    const float *norm = slice_get(&c->slice, CL_T_Q_NORM, layer)->vec;
    float *q = w->qs + (size_t)tok * w->q;
    if (a->qk_norm == CL_QK_NORM_FULL)
        c->k->rmsnorm(w->all_q + (size_t)tok * w->q, norm, (int64_t)a->heads * a->head_dim, (float)c->spec.norm_eps, q);
    q += (size_t)h.q0 * (size_t)a->head_dim;
    finish_heads(c, a, q, h.q, norm, first + tok);
    attend_temper(c, a, first + tok, q, h.q * a->head_dim);
}

static void finish_keys(const cl_chip *c, int layer, int first, int tok)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_heads h = share_of(c, layer)->heads;
    const work *w = &c->work;
    const float *norm = slice_get(&c->slice, CL_T_K_NORM, layer)->vec;
    const size_t at = (size_t)tok * w->kv, mine = at + (size_t)h.kv0 * (size_t)a->head_dim;
    float *k = w->ks + mine, *v = w->vs + mine;
    token_ref ref = w->tokens[first + tok];
    if (a->qk_norm == CL_QK_NORM_FULL)
        c->k->rmsnorm(w->all_k + at, norm, (int64_t)a->kv_heads * a->head_dim, (float)c->spec.norm_eps, w->ks + at);
    finish_heads(c, a, k, h.kv, norm, first + tok);
    if (a->clip > 0) clip(v, h.kv * a->head_dim, (float)a->clip);
    for (int i = 0; i < h.kv; i++) {
        cl_kv_head kv = kv_head(&c->kv, layer - c->stage.first_layer, ref.slot, i);
        c->k->kv_store(&kv, ref.pos, k + i * a->head_dim, v + i * a->head_dim);
    }
}

/* From x to queries in work.qs and the cache; weight bytes read. A unit of the second half is all heads of one
 * token's queries, or of its keys and values: a norm may span them. */
static uint64_t grouped_in(cl_chip *c, const team *t, cl_event *e, int layer, int first, int n, const float *x)
{
    const work *w = &c->work;
    const slice *s = &c->slice;
    const cl_matrix *q = &slice_get(s, CL_T_Q, layer)->m, *k = &slice_get(s, CL_T_K, layer)->m;
    const cl_matrix *v = &slice_get(s, CL_T_V, layer)->m;
    const bool full = c->spec.layers[layer].attn.qk_norm == CL_QK_NORM_FULL;
    const layer_share *share = share_of(c, layer);
    cl_acts in = phase_normed_acts(c, w->norm, w->hidden, n, c->spec.hidden, (const cl_matrix *[]){q, k, v}, 3);
    phase_norm(c, t, &in, x, slice_get(s, CL_T_ATTN_NORM, layer)->vec);
    team_wait(t);
    phase_products(c, t,
                   (product[]){product_of(c, CL_T_Q, layer, slice_get(s, CL_T_Q_BIAS, layer)->vec, true,
                                          full ? w->all_q : w->qs, w->q),
                               product_of(c, CL_T_K, layer, slice_get(s, CL_T_K_BIAS, layer)->vec, true,
                                          full ? w->all_k : w->ks, w->kv),
                               product_of(c, CL_T_V, layer, slice_get(s, CL_T_V_BIAS, layer)->vec, true, w->vs, w->kv)},
                   3, &in);
    if (full)
        team_gather(c, t, e, (cl_region[]){columns(w->all_q, n, w->q, share->q), columns(w->all_k, n, w->kv, share->k)},
                    2);
    else team_wait(t);
    for (int u = t->id; u < 2 * n; u += t->n) {
        if (u % 2) finish_keys(c, layer, first, u / 2);
        else finish_queries(c, layer, first, u / 2);
    }
    team_wait(t);
    return slice_expert_bytes(q) + slice_expert_bytes(k) + slice_expert_bytes(v);
}

/* Queries of `heads` query heads from `head` on, which share a kv head, counted token by token: those from number u
 * on, before number `end`, that go through the cache together because their sequence is the same. Returns how many. */
static int look_together(cl_chip *c, int layer, int first, int head, int heads, int64_t u, int64_t end, float *scratch)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const work *w = &c->work;
    const float *sinks = slice_get(&c->slice, CL_T_SINKS, layer)->vec;
    const int32_t slot = w->tokens[first + u / heads].slot;
    const int kv_here = head / (a->heads / a->kv_heads) - share_of(c, layer)->heads.kv0;
    cl_kv_head kv = kv_head(&c->kv, layer - c->stage.first_layer, slot, kv_here);
    cl_query queries[CL_ATTEND_QUERIES];
    int n = 0;
    for (; n < CL_ATTEND_QUERIES && u < end; n++, u++) {
        size_t tok = (size_t)(u / heads), of = (size_t)(head + u % heads), at = of * (size_t)a->head_dim;
        token_ref ref = w->tokens[(size_t)first + tok];
        if (ref.slot != slot) break;
        queries[n] = (cl_query){w->qs + tok * w->q + at, w->att + tok * w->seen + at, sinks ? sinks + of : NULL,
                                cl_attention_first(a, ref.pos), ref.pos};
    }
    c->k->attend(&kv, n, queries, (float)a->scale, scratch);
    return n;
}

/* Units are queries, by kv heads, then tokens, then heads: neighbours go through the same cache, and equal numbers of
 * units are nearly equal work. */
static void grouped_look(cl_chip *c, const team *t, int layer, int first, int n)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_heads h = share_of(c, layer)->heads;
    const int group = a->heads / a->kv_heads;
    float *scratch = c->work.scratch + (size_t)t->id * c->work.scratch_stride;
    int64_t u0, u1;
    team_share(t, (int64_t)h.q * n, &u0, &u1);
    for (int head = h.q0, next; head < h.q0 + h.q; head = next) {
        next = (head / group + 1) * group; /* the first of the next kv head */
        if (next > h.q0 + h.q) next = h.q0 + h.q;
        int64_t before = (int64_t)(head - h.q0) * n, all = (int64_t)(next - head) * n;
        int64_t u = u0 > before ? u0 - before : 0, end = u1 - before < all ? u1 - before : all;
        while (u < end) u += look_together(c, layer, first, head, next - head, u, end, scratch);
    }
}

static uint64_t cache_read(const cl_chip *c, int layer, int first, int n)
{
    const layer_share *s = share_of(c, layer);
    uint64_t bytes = 0;
    for (int i = 0; s->heads.kv && i < n; i++)
        bytes += cl_kv_read_bytes(&s->attn, c->kv.format, (int64_t)c->work.tokens[first + i].pos + 1);
    return bytes;
}

void attend_layer(cl_chip *c, const team *t, cl_event *e, int layer, int first, int n, float *x)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const work *w = &c->work;
    const cl_matrix *o = &slice_get(&c->slice, CL_T_O, layer)->m;
    const bool latent = a->kind == CL_ATTN_LATENT;
    uint64_t in_bytes, out_bytes = slice_expert_bytes(o), kv_bytes = 0;

    cl_mark m = mark(c, t, CL_TRACE_KERNEL);
    in_bytes = latent ? latent_in(c, t, e, layer, first, n, x) : grouped_in(c, t, e, layer, first, n, x);
    m = record(c, m, e, CL_EV_QKV, in_bytes, 0, 0);

    const cl_region all = columns(w->att, n, w->seen, share_of(c, layer)->att);
    if (!t->id) kv_bytes = cache_read(c, layer, first, n);
    if (latent) {
        latent_look(c, t, layer, first, n);
        team_wait(t);
        m = record(c, m, e, CL_EV_ATTEND, 0, kv_bytes, 0);
        out_bytes += latent_out(c, t, layer, n);
        team_gather(c, t, e, &all, 1);
    } else {
        grouped_look(c, t, layer, first, n);
        team_gather(c, t, e, &all, 1);
        m = record(c, m, e, CL_EV_ATTEND, 0, kv_bytes, 0);
    }

    cl_acts seen =
        phase_acts(c, w->att, w->seen, n, (int64_t)a->heads * cl_attention_v_dim(a), (const cl_matrix *[]){o}, 1);
    phase_prepare(c, t, &seen, w->att);
    team_wait(t);
    finish_half(c, t, e, CL_T_O, CL_T_O_BIAS, layer, &seen, x);
    record(c, m, e, CL_EV_ATTN_OUT, out_bytes, 0, 0);
    e->weight_bytes += in_bytes + out_bytes;
    e->kv_bytes += kv_bytes;
}
