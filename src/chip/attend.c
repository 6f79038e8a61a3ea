/* attend.c: grouped attention, and what both kinds begin and end with. */
#include "attend.h"

#include <string.h>

static void clip(float *x, int n, float limit)
{
    for (int i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

/* What happens to `heads` heads of queries or keys of token tok of the pass after their product: norm (one over all
 * heads has been done), clip, rotation. */
static void finish_heads(const pass *p, float *x, int heads, const float *norm, int tok)
{
    const cl_attention *a = &p->spec->attn;
    const chip_fixed *c = p->c;
    int d = a->head_dim;
    if (a->qk_norm == CL_QK_NORM_HEAD || a->qk_norm == CL_QK_NORM_UNIT) /* unit: norm is NULL */
        for (int h = 0; h < heads; h++) c->k->rmsnorm(x + h * d, norm, d, (float)c->spec.norm_eps, x + h * d);
    if (a->clip > 0) clip(x, heads * d, (float)a->clip);
    for (int h = 0; h < heads; h++) attend_rotate(p, p->first + tok, x + h * d);
}

/* A norm over all heads of a token, of which `n` numbers from number `from` on are this chip's. row: scratch. */
static void norm_all(const pass *p, const float *all, const float *norm, int heads, int from, int n, float *row,
                     float *own)
{
    p->c->k->rmsnorm(all, norm, (int64_t)heads * p->spec->attn.head_dim, (float)p->c->spec.norm_eps, row);
    memcpy(own, row + from, (size_t)n * sizeof *own);
}

static float *scratch_of(const pass *p, const grouped_buffers *b)
{
    return b->scratch + (size_t)p->m->id * b->scratch_stride;
}

/* Where this chip's heads begin among the rows of a tensor that are here: a few rows more may be. */
static size_t first_head(const pass *p, cl_role role, int head)
{
    return (size_t)(head * (int64_t)p->spec->attn.head_dim - tensor_of(p, role)->row0);
}

static void finish_queries(const pass *p, grouped_buffers *b, int tok)
{
    const cl_attention *a = &p->spec->attn;
    const cl_heads h = p->cut->heads;
    const float *norm = vector_of(p, CL_T_Q_NORM);
    const int d = a->head_dim;
    float *q = b->q + (size_t)tok * b->q_stride + first_head(p, CL_T_Q, h.q0);
    if (a->qk_norm == CL_QK_NORM_FULL)
        norm_all(p, b->all_q + (size_t)tok * b->all_q_stride, norm, a->heads, h.q0 * d, h.q * d, scratch_of(p, b), q);
    finish_heads(p, q, h.q, norm, tok);
    attend_temperature(p, p->first + tok, q, h.q * d);
}

static void finish_keys(const pass *p, kv_cache *cache, grouped_buffers *b, int tok)
{
    const cl_attention *a = &p->spec->attn;
    const cl_heads h = p->cut->heads;
    const float *norm = vector_of(p, CL_T_K_NORM);
    const int d = a->head_dim;
    float *k = b->k + (size_t)tok * b->kv_stride + first_head(p, CL_T_K, h.kv0);
    float *v = b->v + (size_t)tok * b->kv_stride + first_head(p, CL_T_V, h.kv0);
    token_ref ref = p->tokens->ref[p->first + tok];
    if (a->qk_norm == CL_QK_NORM_FULL)
        norm_all(p, b->all_k + (size_t)tok * b->all_k_stride, norm, a->kv_heads, h.kv0 * d, h.kv * d, scratch_of(p, b),
                 k);
    finish_heads(p, k, h.kv, norm, tok);
    if (a->clip > 0) clip(v, h.kv * d, (float)a->clip);
    for (int i = 0; i < h.kv; i++) {
        cl_kv_head kv = kv_head(cache, p->layer - p->c->stage.first_layer, ref.slot, i);
        p->c->k->kv_store(&kv, ref.pos, k + i * d, v + i * d);
    }
}

/* From x to queries in b->q and the cache; weight bytes read. A unit of the second part is all heads of one token's
 * queries, or of its keys and values: a norm may span them. */
static uint64_t grouped_in(const pass *p, kv_cache *kv, common_buffers *common, grouped_buffers *b, const float *x)
{
    const slice_tensor *q = tensor_of(p, CL_T_Q), *k = tensor_of(p, CL_T_K), *v = tensor_of(p, CL_T_V);
    const float *q_bias = vector_of(p, CL_T_Q_BIAS), *k_bias = vector_of(p, CL_T_K_BIAS);
    const bool full = p->spec->attn.qk_norm == CL_QK_NORM_FULL;
    cl_acts in = phase_norm(p, common, x, vector_of(p, CL_T_ATTN_NORM), (const cl_matrix *[]){&q->m, &k->m, &v->m}, 3);
    crew_wait(p->m);
    const product products[] = {full ? product_into(q, q_bias, b->all_q, b->all_q_stride)
                                     : product_to(q, q_bias, b->q, b->q_stride),
                                full ? product_into(k, k_bias, b->all_k, b->all_k_stride)
                                     : product_to(k, k_bias, b->k, b->kv_stride),
                                product_to(v, vector_of(p, CL_T_V_BIAS), b->v, b->kv_stride)};
    phase_products(p->c->k, p->m, products, 3, &in);
    if (full)
        gather(p->c, p->m, p->e,
               (cl_region[]){columns(b->all_q, p->n, b->all_q_stride, p->cut->q),
                             columns(b->all_k, p->n, b->all_k_stride, p->cut->k)},
               2);
    else crew_wait(p->m);
    for (int u = p->m->id; u < 2 * p->n; u += p->m->n) {
        if (u % 2) finish_keys(p, kv, b, u / 2);
        else finish_queries(p, b, u / 2);
    }
    crew_wait(p->m);
    return slice_expert_bytes(&q->m) + slice_expert_bytes(&k->m) + slice_expert_bytes(&v->m);
}

/* Queries of `heads` query heads from `head` on, which share a kv head, counted token by token: those from number u
 * on, before number `end`, that go through the cache in one call because their sequence is the same. Returns how many.
 */
static int attend_sequence(const pass *p, const kv_cache *cache, const grouped_buffers *b, int head, int heads,
                           int64_t u, int64_t end, float *seen, size_t stride)
{
    const cl_attention *a = &p->spec->attn;
    const float *sinks = vector_of(p, CL_T_SINKS);
    const int32_t slot = p->tokens->ref[p->first + u / heads].slot;
    const int kv_here = head / (a->heads / a->kv_heads) - p->cut->heads.kv0;
    const size_t q0 = first_head(p, CL_T_Q, head);
    cl_kv_head kv = kv_head(cache, p->layer - p->c->stage.first_layer, slot, kv_here);
    cl_query queries[CL_ATTEND_QUERIES];
    int n = 0;
    for (; n < CL_ATTEND_QUERIES && u < end; n++, u++) {
        size_t tok = (size_t)(u / heads), at = (size_t)(u % heads) * (size_t)a->head_dim,
               of = (size_t)(head + u % heads);
        token_ref ref = p->tokens->ref[(size_t)p->first + tok];
        if (ref.slot != slot) break;
        queries[n] = (cl_query){b->q + tok * b->q_stride + q0 + at, seen + tok * stride + of * (size_t)a->head_dim,
                                sinks ? sinks + of : NULL, cl_attention_first(a, ref.pos), ref.pos};
    }
    p->c->k->attend(&kv, n, queries, (float)a->scale, scratch_of(p, b));
    return n;
}

/* Units are queries, by kv heads, then tokens, then heads: neighbours go through the same cache, and equal numbers of
 * units are nearly equal work. Into this chip's columns of seen. */
static void grouped_attend(const pass *p, const kv_cache *kv, const grouped_buffers *b, float *seen, size_t stride)
{
    const cl_attention *a = &p->spec->attn;
    const cl_heads h = p->cut->heads;
    const int group = a->heads / a->kv_heads;
    int64_t u0, u1;
    crew_range(p->m, (int64_t)h.q * p->n, &u0, &u1);
    for (int head = h.q0, next; head < h.q0 + h.q; head = next) {
        next = (head / group + 1) * group; /* the first of the next kv head */
        if (next > h.q0 + h.q) next = h.q0 + h.q;
        int64_t before = (int64_t)(head - h.q0) * p->n, all = (int64_t)(next - head) * p->n;
        int64_t u = u0 > before ? u0 - before : 0, end = u1 - before < all ? u1 - before : all;
        while (u < end) u += attend_sequence(p, kv, b, head, next - head, u, end, seen, stride);
    }
}

static uint64_t cache_read(const pass *p, cl_kv_format format)
{
    uint64_t bytes = 0;
    for (int i = 0; p->cut->heads.kv && i < p->n; i++)
        bytes += cl_kv_read_bytes(&p->cut->attn, format, (int64_t)p->tokens->ref[p->first + i].pos + 1);
    return bytes;
}

void attend_layer(const pass *p, kv_cache *kv, common_buffers *common, attention_buffers *b, float *x)
{
    const cl_attention *a = &p->spec->attn;
    const cl_matrix *o = matrix_of(p, CL_T_O);
    cl_trace *trace = p->c->trace;
    const bool latent = a->kind == CL_ATTN_LATENT;
    uint64_t in_bytes, out_bytes = slice_expert_bytes(o), kv_bytes = 0;

    cl_mark m = mark(trace, p->m, CL_TRACE_KERNEL);
    in_bytes = latent ? latent_in(p, kv, common, &b->latent, x) : grouped_in(p, kv, common, &b->grouped, x);
    m = record(trace, m, p->e, CL_EV_QKV, in_bytes, 0, 0);

    const cl_region all = columns(b->seen, p->n, b->seen_stride, p->cut->seen);
    if (!p->m->id) kv_bytes = cache_read(p, kv->format);
    if (latent) {
        latent_attend(p, kv, common, &b->latent);
        crew_wait(p->m);
        m = record(trace, m, p->e, CL_EV_ATTEND, 0, kv_bytes, 0);
        out_bytes += latent_out(p, common, &b->latent, b->seen, b->seen_stride);
        gather(p->c, p->m, p->e, &all, 1);
    } else {
        grouped_attend(p, kv, &b->grouped, b->seen, b->seen_stride);
        gather(p->c, p->m, p->e, &all, 1);
        m = record(trace, m, p->e, CL_EV_ATTEND, 0, kv_bytes, 0);
    }

    cl_acts seen = phase_acts(p->c, &common->forms, b->seen, b->seen_stride, p->n,
                              (int64_t)a->heads * cl_attention_v_dim(a), (const cl_matrix *[]){o}, 1);
    phase_prepare(p->c->k, p->m, &seen, b->seen);
    crew_wait(p->m);
    phase_onto_x(p, common, CL_T_O, CL_T_O_BIAS, &seen, x);
    record(trace, m, p->e, CL_EV_ATTN_OUT, out_bytes, 0, 0);
    p->e->weight_bytes += in_bytes + out_bytes;
    p->e->kv_bytes += kv_bytes;
}
