/* cost.c: what a token costs one chip in bytes read and bytes exchanged, and how long that takes at given rates. */
#include <math.h>

#include "share.h"

static uint64_t float_bytes(double numbers) { return (uint64_t)llround(4 * numbers); }

/* Numbers of n rows that come from the other chips. */
static double others(const chip_view *v, int64_t n) { return (double)(n - cl_split_rows(n, v->members, v->member).n); }

/* Keys that the others made: of a kv head held by several chips the first one's count. */
static double other_keys(const chip_view *v, const cl_attention *a)
{
    cl_heads mine = cl_split_heads(a, v->members, v->member);
    int made = mine.kv0;
    if (v->member) {
        cl_heads before = cl_split_heads(a, v->members, v->member - 1);
        made = before.kv0 + before.kv > made ? before.kv0 + before.kv : made;
    }
    int own = mine.kv0 + mine.kv - made;
    return (double)(a->kv_heads - (own > 0 ? own : 0)) * a->head_dim;
}

static void attention_gathers(const chip_view *v, int layer, cl_chip_cost *c)
{
    const cl_attention *a = &v->m->spec.layers[layer].attn;
    double other_heads = a->heads - cl_split_heads(a, v->members, v->member).q, hidden = others(v, v->m->spec.hidden);
    if (a->qk_norm == CL_QK_NORM_FULL) {
        c->gathers++;
        c->gather_bytes += float_bytes(other_heads * a->head_dim + other_keys(v, a));
    }
    if (a->kind == CL_ATTN_LATENT) {
        c->gathers++;
        c->gather_bytes += float_bytes(others(v, a->q_rank) + others(v, (int64_t)a->kv_rank + a->rope_dim));
    }
    c->gathers += 2;
    c->gather_bytes += float_bytes(other_heads * cl_attention_v_dim(a) + hidden);
}

static void ffn_gathers(const chip_view *v, int layer, cl_chip_cost *c)
{
    const cl_ffn *f = &v->m->spec.layers[layer].ffn;
    double hidden = others(v, v->m->spec.hidden), shared = others(v, f->shared_width);
    c->gathers += 2;
    c->gather_bytes += float_bytes(hidden);
    if (f->kind == CL_FFN_DENSE) c->gather_bytes += float_bytes(others(v, f->width));
    else if (!v->maps) c->gather_bytes += float_bytes(f->top_k * others(v, f->width) + shared);
    else {
        chip_view alone = *v;
        alone.tokens = 1;
        double columns = v->m->spec.hidden - hidden, elsewhere = f->top_k - experts_read(&alone, layer);
        c->gathers += f->shared_width > 0;
        c->gather_bytes += float_bytes(shared) + float_bytes(elsewhere * columns);
    }
}

/* Of one token; what a chip of a stage of several exchanges. */
static void gathers(const chip_view *v, const cl_stage *s, cl_chip_cost *c)
{
    const cl_spec *spec = &v->m->spec;
    if (v->members == 1) return;
    if (s->embed) { /* the row is with one of the chips */
        double elsewhere = others(v, spec->vocab) / spec->vocab;
        c->gathers++;
        c->gather_bytes += float_bytes(elsewhere * spec->hidden);
    }
    for (int layer = s->first_layer; layer < s->first_layer + s->n_layers; layer++) {
        attention_gathers(v, layer, c);
        ffn_gathers(v, layer, c);
    }
    if (s->head) { /* each chip's best: id and logit */
        c->gathers++;
        if (!v->member) c->gather_bytes += 8 * (uint64_t)(v->members - 1);
    }
}

/* Caches are those of one token, whatever the number of tokens in the step. */
static void bytes(const chip_view *v, const cl_stage *s, cl_chip_cost *c)
{
    uint64_t held, read;
    for (int i = 0; i < v->m->n_tensors; i++) {
        const cl_tensor *t = &v->m->tensors[i];
        if (!in_stage(v->m, s, t)) continue;
        if (t->role == CL_T_EMBED) {
            embed_share(v, t, &held, &read);
            read = sum_of(s->embed ? read : 0, s->head && v->m->spec.tied ? held : 0);
        } else tensor_share(v, t, &held, &read);
        c->weight_bytes = sum_of(c->weight_bytes, held);
        c->token_bytes = sum_of(c->token_bytes, read);
    }
    for (int layer = s->first_layer; layer < s->first_layer + s->n_layers; layer++) {
        cache_share(v, layer, &held, &read);
        c->kv_bytes = sum_of(c->kv_bytes, held);
        c->token_kv_bytes = sum_of(c->token_kv_bytes, read);
    }
}

cl_code cl_placement_cost(const cl_model *m, const cl_place_options *opt, const cl_placement *p, int rank,
                          cl_chip_cost *out, cl_err *err)
{
    const cl_stage *s = &p->stages[cl_placement_stage(p, rank)];
    chip_view v =
        {.m = m, .o = opt, .maps = p->experts, .members = s->n_ranks, .member = rank - s->first_rank, .tokens = 1};
    *out = (cl_chip_cost){0};
    bytes(&v, s, out);
    gathers(&v, s, out);
    return CL_OK;
}

static double per(double amount, double rate) { return rate > 0 ? amount / rate : 0; }

/* Seconds of one stage's step with so many tokens, its hand-over included where the line has one. */
static double stage_seconds(const cl_model *m, const cl_place_options *o, const cl_placement *p, int stage,
                            double tokens, const cl_rates *r)
{
    const cl_stage *s = &p->stages[stage];
    double slowest = 0;
    for (int i = 0; i < s->n_ranks; i++) {
        chip_view v = {.m = m, .o = o, .maps = p->experts, .members = s->n_ranks, .member = i, .tokens = tokens};
        cl_chip_cost c = {0};
        bytes(&v, s, &c);
        gathers(&v, s, &c);
        double read = (double)c.token_bytes + tokens * (double)c.token_kv_bytes;
        double t = per(read, r->read_bytes_per_s) + c.gathers * r->gather_s * log2(s->n_ranks) +
                   per(tokens * (double)c.gather_bytes, r->gather_bytes_per_s);
        slowest = t > slowest ? t : slowest;
    }
    bool last = stage == p->n_stages - 1; /* only ids go back to the first stage */
    double hop = p->n_stages == 1 ? 0 : r->hop_s + per(last ? 0 : tokens * 4.0 * m->spec.hidden, r->hop_bytes_per_s);
    return slowest + hop;
}

cl_code cl_predict(const cl_model *m, const cl_place_options *opt, const cl_placement *p, const cl_rates *r,
                   cl_prediction *out, cl_err *err)
{
    const double rates[] = {r->read_bytes_per_s, r->gather_s, r->gather_bytes_per_s, r->hop_s, r->hop_bytes_per_s};
    for (int i = 0; i < 5; i++)
        if (!(rates[i] >= 0) || !isfinite(rates[i]))
            return cl_fail(err, CL_E_INPUT, "plan: a rate of %g (finite numbers from 0)", rates[i]);
    if (r->read_bytes_per_s == 0) return cl_fail(err, CL_E_INPUT, "plan: chips that read 0 bytes per second");
    double stages = p->n_stages, slots = opt->slots, tokens = slots > stages ? slots / stages : 1, batch_s = 0;
    cl_prediction q = {0};
    for (int i = 0; i < p->n_stages; i++) {
        double alone = stage_seconds(m, opt, p, i, 1, r),
               step = tokens > 1 ? stage_seconds(m, opt, p, i, tokens, r) : alone;
        q.token_s += alone;
        batch_s += step;
        q.step_s = step > q.step_s ? step : q.step_s;
    }
    /* Micro-batches follow each other; a sequence's next token needs the one before, and each stage takes one
     * micro-batch at a time. */
    double batches = slots < stages ? slots : stages, round = batches * q.step_s;
    q.tokens_per_s = slots / (round > batch_s ? round : batch_s);
    *out = q;
    return CL_OK;
}
