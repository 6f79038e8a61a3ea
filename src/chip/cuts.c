/* cuts.c: columns and experts of each layer, member by member. Numbers are taken from one block, counted first. */
#include "cuts.h"

#include <stdlib.h>

typedef struct cutter {
    int32_t *at; /* NULL: only count */
    size_t used;
    int member, members;
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
static int32_t *local_experts(cutter *k, const cl_expert_map *map, int *n_local)
{
    int32_t *local = take(k, (size_t)map->experts), here = 0;
    if (!local) return NULL;
    for (int e = 0; e < map->experts; e++) local[e] = cl_expert_held(map, e, k->member) ? here++ : -1;
    *n_local = here;
    return local;
}

static void cut_layer(layer_cut *cut, cutter *k, const cl_layer *layer, bool split_routers, const cl_expert_map *map)
{
    const cl_attention *a = &layer->attn;
    const cl_ffn *f = &layer->ffn;
    cut->heads = cl_split_heads(a, k->members, k->member);
    cut->attn = *a;
    cut->attn.kv_heads = cut->heads.kv;
    cut->seen = cut_heads(k, a, false, cl_attention_v_dim(a));
    if (a->kind == CL_ATTN_LATENT) {
        if (a->q_rank) cut->q_a = cut_rows(k, a->q_rank);
        cut->kv_a = cut_rows(k, (int64_t)a->kv_rank + a->rope_dim);
    } else if (a->qk_norm == CL_QK_NORM_FULL) {
        cut->q = cut_heads(k, a, false, a->head_dim);
        cut->k = cut_heads(k, a, true, a->head_dim);
    }
    if (f->kind == CL_FFN_MOE && split_routers) cut->router = cut_rows(k, f->experts);
    cut->mid = cut_rows(k, f->width);
    if (f->shared_width) cut->shared = cut_rows(k, f->shared_width);
    cut->n_local = f->experts;
    if (f->kind != CL_FFN_MOE || !map) return;
    cut->map = map;
    cut->local = local_experts(k, map, &cut->n_local);
}

static void cut_all(stage_cuts *cuts, cutter *k, const cl_spec *spec, const cl_stage *stage, const cl_expert_map *maps)
{
    cuts->hidden = cut_rows(k, spec->hidden);
    cuts->vocab = cut_rows(k, spec->vocab);
    for (int i = 0; i < stage->n_layers; i++) {
        int layer = stage->first_layer + i;
        cut_layer(&cuts->layers[i], k, &spec->layers[layer], stage->split_routers, maps ? &maps[layer] : NULL);
    }
}

cl_code cuts_create(stage_cuts *cuts, const cl_spec *spec, const cl_stage *stage, const cl_expert_map *experts,
                    int member, int members, cl_err *err)
{
    cutter k = {.member = member, .members = members};
    *cuts = (stage_cuts){0};
    cuts->layers = cl_calloc((size_t)stage->n_layers, sizeof *cuts->layers, "the cuts of a stage", err);
    cuts->attn = cl_malloc((size_t)stage->n_layers, sizeof *cuts->attn, "the cuts of a stage", err);
    if (!cuts->layers || !cuts->attn) {
        cuts_free(cuts);
        return err->code;
    }
    cut_all(cuts, &k, spec, stage, experts);
    if (!(cuts->memory = cl_malloc(k.used, sizeof *cuts->memory, "the cuts of a stage", err))) {
        cuts_free(cuts);
        return err->code;
    }
    cuts->bytes = (size_t)stage->n_layers * (sizeof *cuts->layers + sizeof *cuts->attn) + k.used * sizeof *cuts->memory;
    k.at = cuts->memory;
    k.used = 0;
    cut_all(cuts, &k, spec, stage, experts);
    for (int i = 0; i < stage->n_layers; i++) cuts->attn[i] = &cuts->layers[i].attn;
    return CL_OK;
}

void cuts_free(stage_cuts *cuts)
{
    free(cuts->layers);
    free(cuts->attn);
    free(cuts->memory);
    *cuts = (stage_cuts){0};
}
