/* bytes.c: bytes that one chip of a stage holds. */
#include "bytes.h"

#include <math.h>

static int runs(int64_t rows) { return (int)(rows <= CL_SPLIT_NARROW ? rows : (rows + CL_SPLIT - 1) / CL_SPLIT); }

int layer_most_chips(const cl_spec *s, int layer, cl_expert_mode mode)
{
    const cl_ffn *f = &s->layers[layer].ffn;
    int most = runs(s->hidden), heads = s->layers[layer].attn.heads;
    int ffn = f->experts && mode == CL_EXPERTS_WHOLE ? f->experts : runs(f->width);
    most = heads > most ? heads : most;
    return ffn > most ? ffn : most;
}

int layers_most_chips(const cl_spec *s, cl_expert_mode mode, int first, int n)
{
    int least = layer_most_chips(s, first, mode);
    for (int i = first + 1; i < first + n; i++) {
        int most = layer_most_chips(s, i, mode);
        least = most < least ? most : least;
    }
    return least;
}

uint64_t bytes_times(double n, uint64_t bytes)
{
    double all = n * (double)bytes;
    if (n == 1) return bytes;
    return all < 9e18 ? (uint64_t)llround(all) : UINT64_MAX;
}

uint64_t bytes_of_rows(const cl_tensor *t, int64_t row0, int64_t rows)
{
    int64_t tile = cl_format_tile_rows(t->format);
    if (!rows) return 0;
    if (tile == 1) return cl_matrix_bytes(t->format, rows, t->cols);
    uint64_t first = cl_matrix_bytes(t->format, 1, t->cols), next = cl_matrix_bytes(t->format, 2, t->cols) - first;
    int64_t tiles = (row0 + rows + tile - 1) / tile - row0 / tile;
    return (uint64_t)rows * next + (uint64_t)tiles * (first - next);
}

bool bytes_in_stage(const cl_model *m, const cl_stage *s, const cl_tensor *t)
{
    if (t->role == CL_T_EMBED) return s->embed || (s->head && m->spec.tied);
    return t->layer < 0 ? s->head : t->layer >= s->first_layer && t->layer < s->first_layer + s->n_layers;
}

/* Matrices of the stack that are here. */
static uint64_t matrices_held(const cl_cost_chip *c, const cl_tensor *t)
{
    if (!t->experts) return 1;
    if (!cl_role_is_expert(t->role))
        return (uint64_t)cl_split_heads(&c->model->spec.layers[t->layer].attn, c->stage->n_ranks, c->member).q;
    if (!c->experts) return (uint64_t)t->experts;
    const cl_expert_map *map = &c->experts[t->layer];
    uint64_t n = 0;
    for (int i = 0; i < map->first[map->experts]; i++) n += map->member[i] == c->member;
    return n;
}

uint64_t bytes_held(const cl_cost_chip *c, const cl_tensor *t)
{
    cl_range rows = cl_tensor_rows_of(&c->model->spec, t, c->stage, c->experts != NULL, c->member);
    return matrices_held(c, t) * bytes_of_rows(t, rows.first, rows.n);
}

uint64_t bytes_of_cache(const cl_cost_chip *c, const cl_place_options *o, int layer)
{
    cl_attention a = c->model->spec.layers[layer].attn;
    a.kv_heads = cl_split_heads(&a, c->stage->n_ranks, c->member).kv;
    if (!a.kv_heads) return 0;
    return bytes_product(cl_kv_layer_bytes(&a, c->kv, o->context, o->chunk), (uint64_t)o->slots);
}
