/* share.c: bytes that one chip of a stage holds, and reads for the tokens of a step. */
#include "share.h"

#include <math.h>

static int runs(int64_t rows) { return (int)(rows <= CL_SPLIT_NARROW ? rows : (rows + CL_SPLIT - 1) / CL_SPLIT); }

int layer_chips(const cl_spec *s, int layer, cl_expert_mode mode)
{
    const cl_ffn *f = &s->layers[layer].ffn;
    int most = runs(s->hidden), heads = s->layers[layer].attn.heads;
    int ffn = f->experts && mode == CL_EXPERTS_WHOLE ? f->experts : runs(f->width);
    most = heads > most ? heads : most;
    return ffn > most ? ffn : most;
}

uint64_t rows_bytes(const cl_tensor *t, int64_t row0, int64_t rows)
{
    int64_t tile = cl_format_tile_rows(t->format);
    if (!rows) return 0;
    if (tile == 1) return cl_matrix_bytes(t->format, rows, t->cols);
    uint64_t first = cl_matrix_bytes(t->format, 1, t->cols), next = cl_matrix_bytes(t->format, 2, t->cols) - first;
    int64_t tiles = (row0 + rows + tile - 1) / tile - row0 / tile;
    return (uint64_t)rows * next + (uint64_t)tiles * (first - next);
}

static int experts_held(const chip_view *v, int layer)
{
    const cl_expert_map *map = &v->maps[layer];
    int n = 0;
    for (int i = 0; i < map->first[map->experts]; i++) n += map->member[i] == v->member;
    return n;
}

/* Whole experts: the holders of an expert are assumed to take turns. */
static double held_experts_read(const chip_view *v, int layer)
{
    const cl_expert_map *map = &v->maps[layer];
    double sum = 0, all = expert_weights(v->o, layer, map->experts), top_k = v->m->spec.layers[layer].ffn.top_k;
    for (int e = 0; e < map->experts; e++) {
        int holders = map->first[e + 1] - map->first[e];
        if (!cl_expert_held(map, e, v->member)) continue;
        double weight = expert_weight(v->o, layer, e) / holders;
        if (v->tokens > 1) sum += 1 - pow(1 - fmin(top_k * weight / all, 1), v->tokens);
        else sum += weight;
    }
    return v->tokens > 1 ? sum : top_k * sum / all;
}

double experts_read(const chip_view *v, int layer)
{
    const cl_ffn *f = &v->m->spec.layers[layer].ffn;
    if (v->maps) return held_experts_read(v, layer);
    if (v->tokens <= 1) return f->top_k;
    return f->experts * (1 - pow(1 - (double)f->top_k / f->experts, v->tokens));
}

void tensor_share(const chip_view *v, const cl_tensor *t, uint64_t *held, uint64_t *read)
{
    cl_share rows = cl_tensor_rows_of(&v->m->spec, t, v->maps != NULL, v->members, v->member);
    uint64_t one = rows_bytes(t, rows.first, rows.n);
    *held = *read = one;
    if (cl_role_is_expert(t->role)) {
        *held = (uint64_t)(v->maps ? experts_held(v, t->layer) : t->experts) * one;
        *read = (uint64_t)llround(experts_read(v, t->layer) * (double)one);
    } else if (t->experts)
        *held = *read = (uint64_t)cl_split_heads(&v->m->spec.layers[t->layer].attn, v->members, v->member).q * one;
}

void embed_share(const chip_view *v, const cl_tensor *t, uint64_t *held, uint64_t *read)
{
    cl_share rows = cl_tensor_rows_of(&v->m->spec, t, false, v->members, v->member);
    *held = rows_bytes(t, rows.first, rows.n);
    *read = (uint64_t)llround(v->tokens * (double)cl_row_bytes(t->format, t->cols) * (double)rows.n / (double)t->rows);
}

static int64_t typical_context(const cl_place_options *o)
{
    double p = o->read_context > 0 ? o->read_context : o->context / 4.0;
    return p < 1 ? 1 : p > o->context ? o->context : (int64_t)p;
}

void cache_share(const chip_view *v, int layer, uint64_t *held, uint64_t *read)
{
    cl_attention a = v->m->spec.layers[layer].attn;
    *held = *read = 0;
    a.kv_heads = cl_split_heads(&a, v->members, v->member).kv;
    if (!a.kv_heads) return;
    *held = product_of(cl_kv_layer_bytes(&a, v->o->kv, v->o->context, v->o->chunk), (uint64_t)v->o->slots);
    *read = cl_kv_read_bytes(&a, v->o->kv, typical_context(v->o));
}
