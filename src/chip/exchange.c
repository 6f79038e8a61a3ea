/* exchange.c: what this chip makes of each layer, what the others of its stage make, and the gathers between them. */
#include <stdlib.h>

#include "chip_impl.h"

void group_gather(cl_chip *c, cl_event *e, const cl_region *regions, int n)
{
    cl_mark m = cl_trace_mark(c->trace, CL_TRACE_KERNEL);
    uint64_t start = c->trace ? cl_now_ns() : 0, bytes = c->group.gather(c->group.ctx, regions, n);
    e->gather_ns += c->trace ? cl_now_ns() - start : 0;
    if (m.on) {
        cl_event out = *e;
        out.kind = CL_EV_GATHER;
        out.weight_bytes = out.kv_bytes = 0;
        out.experts = 0;
        out.msg_bytes = bytes;
        out.gathers = 1;
        out.gather_ns = cl_now_ns() - start;
        cl_trace_end(c->trace, m, &out);
    }
    e->msg_bytes += bytes;
    e->gathers++;
}

void team_gather(cl_chip *c, const team *t, cl_event *e, const cl_region *regions, int n)
{
    barrier *b = t->barrier;
    if (c->group.members == 1) {
        team_wait(t);
        return;
    }
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_relaxed);
    if (t->id) { /* as in team_wait, but it is always thread 0 that ends the phase */
        atomic_fetch_add(&b->arrived, 1);
        team_wake(b, &b->arrived);
        team_wait_while(b, &b->phase, phase);
        return;
    }
    for (unsigned here; (here = atomic_load_explicit(&b->arrived, memory_order_acquire)) != (unsigned)t->n - 1;)
        team_wait_while(b, &b->arrived, here);
    atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
    group_gather(c, e, regions, n);
    atomic_store(&b->phase, phase + 1);
    team_wake(b, &b->phase);
}

/* --- cuts: numbers are taken from one block, counted first --- */

typedef struct cutter {
    int32_t *at; /* NULL: only count */
    size_t used;
    int members;
} cutter;

static int32_t *take(cutter *k, size_t n)
{
    int32_t *p = k->at ? k->at + k->used : NULL;
    k->used += n;
    return p;
}

static int32_t *cut_rows(cutter *k, int64_t n)
{
    int32_t *cut = take(k, (size_t)k->members + 1);
    if (!cut) return NULL;
    for (int i = 0; i < k->members; i++) cut[i] = (int32_t)cl_split_rows(n, k->members, i).first;
    cut[k->members] = (int32_t)n;
    return cut;
}

/* By heads of `dim` numbers. Keys and values that several chips need are made by each; the first of them counts as
 * the maker. */
static int32_t *cut_heads(cutter *k, const cl_attention *a, bool kv, int dim)
{
    int32_t *cut = take(k, (size_t)k->members + 1);
    if (!cut) return NULL;
    cut[0] = 0;
    for (int i = 0; i < k->members; i++) {
        cl_heads h = cl_split_heads(a, k->members, i);
        int32_t end = (kv ? h.kv0 + h.kv : h.q0 + h.q) * dim;
        cut[i + 1] = (kv ? h.kv : h.q) && end > cut[i] ? end : cut[i];
    }
    return cut;
}

/* Places of the experts that are here, in the order of the slice. */
static int32_t *local_experts(cutter *k, const cl_expert_map *map, int member)
{
    int32_t *local = take(k, (size_t)map->experts), here = 0;
    if (!local) return NULL;
    for (int e = 0; e < map->experts; e++) local[e] = cl_expert_held(map, e, member) ? here++ : -1;
    return local;
}

static void share_layer(cl_chip *c, cutter *k, int i)
{
    layer_share *s = &c->shares[i];
    int layer = c->stage.first_layer + i;
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    s->heads = cl_split_heads(a, k->members, c->group.member);
    s->attn = *a;
    s->attn.kv_heads = s->heads.kv;
    s->att = cut_heads(k, a, false, cl_attention_v_dim(a));
    if (a->kind == CL_ATTN_LATENT) {
        if (a->q_rank) s->q_a = cut_rows(k, a->q_rank);
        s->kv_a = cut_rows(k, (int64_t)a->kv_rank + a->rope_dim);
    } else if (a->qk_norm == CL_QK_NORM_FULL) {
        s->q = cut_heads(k, a, false, a->head_dim);
        s->k = cut_heads(k, a, true, a->head_dim);
    }
    s->mid = cut_rows(k, f->width);
    if (f->shared_width) s->shared = cut_rows(k, f->shared_width);
    if (f->kind != CL_FFN_MOE || !c->opt.experts) return;
    s->map = &c->opt.experts[layer];
    s->local = local_experts(k, s->map, c->group.member);
}

static void cut_all(cl_chip *c, cutter *k)
{
    c->cut_hidden = cut_rows(k, c->spec.hidden);
    c->cut_vocab = cut_rows(k, c->spec.vocab);
    for (int i = 0; i < c->stage.n_layers; i++) share_layer(c, k, i);
}

/* Counters of the experts that each layer chooses. */
static cl_code count_choices(cl_chip *c, cl_err *err)
{
    size_t n = 0;
    const cl_layer *layers = c->spec.layers + c->stage.first_layer;
    for (int i = 0; i < c->stage.n_layers; i++) n += (size_t)layers[i].ffn.experts;
    if (!(c->chosen = cl_calloc(n + 1, sizeof *c->chosen, "counts of experts", err))) return err->code;
    uint64_t *at = c->chosen;
    for (int i = 0; i < c->stage.n_layers; i++) {
        if (layers[i].ffn.kind == CL_FFN_MOE) c->shares[i].chosen = at;
        at += layers[i].ffn.experts;
    }
    return CL_OK;
}

cl_code exchange_create(cl_chip *c, cl_err *err)
{
    cutter k = {.members = c->group.members};
    c->shares = cl_calloc((size_t)c->stage.n_layers, sizeof *c->shares, "the shares of a stage", err);
    if (!c->shares) return err->code;
    cut_all(c, &k);
    if (!(c->cuts = cl_malloc(k.used, sizeof *c->cuts, "the shares of a stage", err))) return err->code;
    k = (cutter){.at = c->cuts, .members = c->group.members};
    cut_all(c, &k);
    return count_choices(c, err);
}

void exchange_free(cl_chip *c)
{
    free(c->chosen);
    free(c->shares);
    free(c->cuts);
}
