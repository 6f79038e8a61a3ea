/* attend_latent.c: latent attention (model.h), absorbed: the cache is asked in its own low-rank numbers and never
 * expanded.
 *
 * Rows are one per own head and token, a head's tokens together, so that a head's part of K_B or V_B meets all its
 * tokens at once. */
#include <string.h>

#include "attend.h"

/* Norm and rotation of what this member's range of the tokens will have in the cache; stored, where there are heads
 * that will look. */
static void store(const pass *p, kv_cache *cache, latent_buffers *b)
{
    const cl_attention *a = &p->spec->attn;
    const cl_kernels *kernels = p->c->k;
    const float *norm = vector_of(p, CL_T_KV_A_NORM);
    int64_t from, to;
    if (!p->cut->heads.q) return;
    crew_range(p->m, p->n, &from, &to);
    for (int64_t tok = from; tok < to; tok++) {
        const float *all = b->all_kv + (size_t)tok * b->cached_stride;
        float *k = b->cached + (size_t)tok * b->cached_stride;
        token_ref ref = p->tokens->ref[p->first + tok];
        cl_kv_head kv = kv_head(cache, p->layer - p->c->stage.first_layer, ref.slot, 0);
        kernels->rmsnorm(all, norm, a->kv_rank, (float)a->latent_eps, k);
        memcpy(k + a->kv_rank, all + a->kv_rank, (size_t)a->rope_dim * sizeof *k);
        attend_rotate(p, p->first + (int)tok, k + a->kv_rank);
        kernels->kv_store(&kv, ref.pos, k, NULL);
    }
}

/* From the queries' low-rank form to the queries; weight bytes read. */
static uint64_t queries_of_low(const pass *p, common_buffers *common, latent_buffers *b)
{
    const cl_attention *a = &p->spec->attn;
    const slice_tensor *q = tensor_of(p, CL_T_Q);
    const float *norm = vector_of(p, CL_T_Q_A_NORM);
    cl_acts low = phase_normed_acts(p->c, &common->forms, b->low, b->low_stride, p->n, a->q_rank,
                                    (const cl_matrix *[]){&q->m}, 1);
    int64_t from, to;
    crew_range(p->m, p->n, &from, &to);
    for (int64_t tok = from; tok < to; tok++)
        p->c->k->rmsnorm(b->all_low + (size_t)tok * b->low_stride, norm, a->q_rank, (float)a->latent_eps,
                         b->low + (size_t)tok * b->low_stride);
    phase_prepare_tokens(p->c->k, &low, b->low, from, to);
    crew_wait(p->m);
    const product queries = product_to(q, NULL, b->q, b->q_stride);
    phase_products(p->c->k, p->m, &queries, 1, &low);
    crew_wait(p->m);
    return slice_expert_bytes(&q->m);
}

/* Products of the normed input: queries, or their low-rank form, which is normed and goes through Q; and the cache's
 * vector. */
static uint64_t project(const pass *p, kv_cache *kv, common_buffers *common, latent_buffers *b, const float *x)
{
    const bool low = p->spec->attn.q_rank != 0;
    const slice_tensor *begin = tensor_of(p, low ? CL_T_Q_A : CL_T_Q), *kv_a = tensor_of(p, CL_T_KV_A);
    cl_acts in = phase_norm(p, common, x, vector_of(p, CL_T_ATTN_NORM), (const cl_matrix *[]){&begin->m, &kv_a->m}, 2);
    crew_wait(p->m);
    const product products[] = {low ? product_into(begin, NULL, b->all_low, b->low_stride)
                                    : product_to(begin, NULL, b->q, b->q_stride),
                                product_into(kv_a, NULL, b->all_kv, b->cached_stride)};
    phase_products(p->c->k, p->m, products, 2, &in);
    gather(p->c, p->m, p->e,
           (cl_region[]){columns(b->all_kv, p->n, b->cached_stride, p->cut->kv_a),
                         columns(b->all_low, p->n, b->low_stride, p->cut->q_a)},
           low ? 2 : 1);
    store(p, kv, b);
    uint64_t bytes = slice_expert_bytes(&begin->m) + slice_expert_bytes(&kv_a->m);
    /* without a low-rank form others may still store: they are waited for after the queries are spread */
    return low ? bytes + queries_of_low(p, common, b) : bytes;
}

/* Every query becomes two rows: its plain numbers as the input of K_B, its rotated ones at the end of the lookup. */
static void spread(const pass *p, latent_buffers *b, cl_acts *plain)
{
    const cl_attention *a = &p->spec->attn;
    size_t stride = padded(cl_attention_cached_dim(a));
    size_t dims = (size_t)(a->head_dim - a->rope_dim), rotated = (size_t)a->rope_dim;
    const int64_t q0 = (int64_t)p->cut->heads.q0 * a->head_dim - tensor_of(p, CL_T_Q)->row0;
    int64_t from, to;
    crew_range(p->m, plain->n, &from, &to);
    for (int64_t row = from; row < to; row++) {
        int64_t head = row / p->n;
        int tok = (int)(row % p->n);
        float *q = b->q + (size_t)tok * b->q_stride + q0 + head * a->head_dim;
        attend_rotate(p, p->first + tok, q + dims);
        attend_temperature(p, p->first + tok, q, a->head_dim);
        memcpy(b->plain + (size_t)row * plain->stride, q, dims * sizeof *q);
        memcpy(b->lookup + (size_t)row * stride + a->kv_rank, q + dims, rotated * sizeof *q);
    }
    phase_prepare_tokens(p->c->k, plain, b->plain, from, to);
}

/* Each head's rows times its matrix of a stack; y of (head, token) is at head * head_stride + token * stride. Members
 * share (head, panel). */
static void stack_product(const pass *p, const cl_matrix *w, const cl_acts *rows, const int32_t *in_order, float *y,
                          size_t head_stride, size_t stride)
{
    int64_t a, b;
    crew_range(p->m, w->experts * w->panels, &a, &b);
    for (int64_t end; a < b; a = end) {
        int64_t head = a / w->panels, first = head * w->panels;
        end = b < first + w->panels ? b : first + w->panels;
        p->c->k->matmul(w, head, a - first, end - first, rows, in_order + head * p->n, p->n,
                        y + (size_t)head * head_stride, stride);
    }
}

uint64_t latent_in(const pass *p, kv_cache *kv, common_buffers *common, latent_buffers *b, const float *x)
{
    const cl_attention *a = &p->spec->attn;
    const cl_matrix *k_b = matrix_of(p, CL_T_K_B);
    size_t stride = padded(cl_attention_cached_dim(a));
    int dims = a->head_dim - a->rope_dim;
    uint64_t bytes = project(p, kv, common, b, x);
    cl_acts plain = phase_acts(p->c, &common->forms, b->plain, padded(dims), p->n * p->cut->heads.q, dims, &k_b, 1);
    spread(p, b, &plain);
    crew_wait(p->m);
    stack_product(p, k_b, &plain, b->in_order, b->lookup, (size_t)p->n * stride, stride);
    crew_wait(p->m);
    return bytes + (uint64_t)k_b->experts * slice_expert_bytes(k_b);
}

static cl_acts found_acts(const pass *p, const common_buffers *common, const latent_buffers *b)
{
    const int rank = p->spec->attn.kv_rank;
    const cl_matrix *v_b = matrix_of(p, CL_T_V_B);
    return phase_acts(p->c, &common->forms, b->found, padded(rank), p->n * p->cut->heads.q, rank, &v_b, 1);
}

/* Heads that go through the cache in one call read a key once. Fewer of them at a time where there would not be
 * enough work for all members. */
static int heads_per_call(int heads, const crew_member *m, int n)
{
    enum { LEAST = 4 };
    int size = CL_LATENT_HEADS;
    while (m->n > 1 && size > LEAST && (int64_t)n * ((heads + size - 1) / size) < 2 * (int64_t)m->n) size /= 2;
    return size;
}

/* Units are groups of heads, then tokens within a group. What a unit found is prepared for V_B at once. */
void latent_attend(const pass *p, const kv_cache *cache, common_buffers *common, latent_buffers *b)
{
    const cl_attention *a = &p->spec->attn;
    const float *sinks = vector_of(p, CL_T_SINKS);
    size_t stride = padded(cl_attention_cached_dim(a)), out = padded(a->kv_rank), n = (size_t)p->n;
    cl_acts found = found_acts(p, common, b);
    const cl_heads own = p->cut->heads;
    int size = heads_per_call(own.q, p->m, p->n);
    int64_t u0, u1;
    crew_range(p->m, (int64_t)((own.q + size - 1) / size) * p->n, &u0, &u1);
    for (int64_t u = u0; u < u1; u++) {
        int head = (int)(u / p->n) * size, tok = (int)(u % p->n), heads = own.q - head < size ? own.q - head : size;
        size_t row = (size_t)head * n + (size_t)tok;
        token_ref ref = p->tokens->ref[p->first + tok];
        cl_kv_head kv = kv_head(cache, p->layer - p->c->stage.first_layer, ref.slot, 0);
        p->c->k->attend_latent(&kv, heads, b->lookup + row * stride, n * stride, a->kv_rank,
                               cl_attention_first(a, ref.pos), ref.pos, (float)a->scale,
                               sinks ? sinks + own.q0 + head : NULL, b->found + row * out, n * out,
                               b->scratch + (size_t)p->m->id * b->scratch_stride);
        for (int64_t h = 0, r = (int64_t)row; h < heads; h++, r += p->n)
            phase_prepare_tokens(p->c->k, &found, b->found, r, r + 1);
    }
}

uint64_t latent_out(const pass *p, const common_buffers *common, const latent_buffers *b, float *seen, size_t stride)
{
    const size_t v_dim = (size_t)p->spec->attn.v_dim;
    const cl_matrix *v_b = matrix_of(p, CL_T_V_B);
    const cl_acts found = found_acts(p, common, b);
    stack_product(p, v_b, &found, b->in_order, seen + (size_t)p->cut->heads.q0 * v_dim, v_dim, stride);
    return (uint64_t)v_b->experts * slice_expert_bytes(v_b);
}
