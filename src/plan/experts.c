/* experts.c: whole experts given out to the chips of a stage, by turns or by how often they were chosen, and copies
 * of the hottest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"
#include "bytes.h"
#include "experts.h"

static const uint64_t *chosen_in(const cl_routing *r, int layer)
{
    return r ? r->chosen + (size_t)layer * (size_t)r->experts : NULL;
}

/* Numbers of a layer that nobody counted in say nothing: its experts are then alike. */
static bool counted(const cl_routing *r, int layer)
{
    const uint64_t *chosen = chosen_in(r, layer);
    for (int e = 0; chosen && e < r->experts; e++)
        if (chosen[e]) return true;
    return false;
}

/* How often this expert is chosen, beside the layer's others: their sum is weights(). */
static double weight(const cl_routing *r, int layer, int expert)
{
    return counted(r, layer) ? (double)chosen_in(r, layer)[expert] : 1;
}

static double weights(const cl_routing *r, int layer, int experts)
{
    double all = 0;
    for (int e = 0; e < experts; e++) all += weight(r, layer, e);
    return all;
}

double expert_reads(const cl_expert_map *map, const cl_routing *r, int layer, int top_k, int member, double tokens)
{
    double sum = 0, all = weights(r, layer, map->experts);
    for (int e = 0; e < map->experts; e++) {
        int holders = map->first[e + 1] - map->first[e];
        if (!cl_expert_held(map, e, member)) continue;
        double own = weight(r, layer, e) / holders;
        if (tokens > 1) sum += 1 - pow(1 - fmin(top_k * own / all, 1), tokens);
        else sum += own;
    }
    return tokens > 1 ? sum : top_k * sum / all;
}

/* An expert of one of a stage's layers. */
typedef struct hot {
    double weight;
    int layer, expert;
} hot;

static int hotter(const void *a, const void *b)
{
    const hot *x = a, *y = b;
    if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->expert < y->expert ? -1 : x->expert > y->expert;
}

/* Heaviest first, each to the chip with the least load that may take one more. */
static cl_code spread(const cl_place_options *o, int layer, int experts, int members, int32_t *owner, cl_err *err)
{
    int most = (experts + members - 1) / members;
    hot *list = cl_malloc((size_t)experts, sizeof *list, "placement", err);
    double *load = cl_calloc((size_t)members, sizeof *load, "placement", err);
    int *n = cl_calloc((size_t)members, sizeof *n, "placement", err);
    if (list && load && n) {
        for (int e = 0; e < experts; e++) list[e] = (hot){weight(o->routing, layer, e), layer, e};
        qsort(list, (size_t)experts, sizeof *list, hotter);
        for (int i = 0; i < experts; i++) {
            int to = -1;
            for (int k = 0; k < members; k++)
                if (n[k] < most && (to < 0 || load[k] < load[to] || (load[k] == load[to] && n[k] < n[to]))) to = k;
            owner[list[i].expert] = to;
            load[to] += list[i].weight;
            n[to]++;
        }
    }
    cl_code c = list && load && n ? CL_OK : CL_E_FIT;
    free(list);
    free(load);
    free(n);
    return c;
}

cl_code expert_map_make(const cl_model *m, const cl_place_options *o, int layer, int members, cl_expert_map *out,
                        cl_err *err)
{
    int experts = m->spec.layers[layer].ffn.experts;
    cl_expert_map map = {.experts = experts};
    *out = map;
    if (!experts) return CL_OK;
    map.first = cl_malloc((size_t)experts + 1, sizeof *map.first, "placement", err);
    map.member = cl_malloc((size_t)experts, sizeof *map.member, "placement", err);
    cl_code c = map.first && map.member ? CL_OK : CL_E_FIT;
    for (int e = 0; c == CL_OK && e <= experts; e++) map.first[e] = e;
    for (int e = 0; c == CL_OK && e < experts; e++) map.member[e] = e % members;
    if (c == CL_OK && counted(o->routing, layer)) c = spread(o, layer, experts, members, map.member, err);
    if (c == CL_OK) *out = map;
    else expert_map_free(&map);
    return c;
}

void expert_map_free(cl_expert_map *map)
{
    free(map->first);
    free(map->member);
    *map = (cl_expert_map){0};
}

/* Copies for one stage while they are given out. */
typedef struct copier {
    const cl_stage *s;
    int chips, experts; /* experts: the most of a layer */
    uint64_t *room;     /* [chips], bytes */
    double *load;       /* [n_layers][chips], expected bytes per token */
    bool *has;          /* [n_layers][experts][chips] */
    uint64_t *bytes;    /* [n_layers], of one expert */
    hot *list;
    int n;
} copier;

static bool *holders(const copier *k, int layer, int expert)
{
    return k->has + ((size_t)(layer - k->s->first_layer) * (size_t)k->experts + (size_t)expert) * (size_t)k->chips;
}

static double *loads(const copier *k, int layer)
{
    return k->load + (size_t)(layer - k->s->first_layer) * (size_t)k->chips;
}

/* One more holder for this expert, if that makes its busiest holder less busy and nobody busier than that. */
static bool copy_one(const copier *k, const hot *h)
{
    bool *has = holders(k, h->layer, h->expert);
    double *load = loads(k, h->layer), busiest = 0;
    uint64_t bytes = k->bytes[h->layer - k->s->first_layer];
    int n = 0, to = -1;
    for (int i = 0; i < k->chips; i++) {
        if (has[i]) {
            n++;
            busiest = load[i] > busiest ? load[i] : busiest;
        } else if (k->room[i] >= bytes && (to < 0 || load[i] < load[to])) to = i;
    }
    if (to < 0 || load[to] + h->weight / (n + 1) >= busiest) return false;
    for (int i = 0; i < k->chips; i++)
        if (has[i]) load[i] -= h->weight / n - h->weight / (n + 1);
    load[to] += h->weight / (n + 1);
    has[to] = true;
    k->room[to] -= bytes;
    return true;
}

static uint64_t expert_bytes(const cl_model *m, int layer)
{
    uint64_t bytes = 0;
    for (int i = 0; i < m->n_tensors; i++)
        if (m->tensors[i].layer == layer && cl_role_is_expert(m->tensors[i].role))
            bytes += bytes_of_rows(&m->tensors[i], 0, m->tensors[i].rows);
    return bytes;
}

/* The stage as it is without copies. */
static cl_code copier_fill(copier *k, const cl_model *m, const cl_place_options *o, const cl_placement *p, cl_err *err)
{
    for (int i = 0; i < k->chips; i++) {
        cl_chip_cost c;
        cl_code code = cl_placement_cost(m, o, p, k->s->first_rank + i, &c, err);
        if (code != CL_OK) return code;
        k->room[i] = o->chip_bytes - c.weight_bytes - c.kv_bytes - k->s->buffer_bytes;
    }
    for (int layer = k->s->first_layer; layer < k->s->first_layer + k->s->n_layers; layer++) {
        const cl_expert_map *map = &p->experts[layer];
        if (!map->experts || !counted(o->routing, layer)) continue;
        uint64_t bytes = k->bytes[layer - k->s->first_layer] = expert_bytes(m, layer);
        double unit = m->spec.layers[layer].ffn.top_k * (double)bytes / weights(o->routing, layer, map->experts);
        for (int e = 0; e < map->experts; e++) {
            hot h = {weight(o->routing, layer, e) * unit, layer, e};
            holders(k, layer, e)[map->member[e]] = true;
            loads(k, layer)[map->member[e]] += h.weight;
            if (h.weight > 0) k->list[k->n++] = h;
        }
    }
    return CL_OK;
}

/* The holders as a map again. */
static cl_code copier_store(const copier *k, int layer, cl_expert_map *map, cl_err *err)
{
    int32_t *member = cl_malloc((size_t)map->experts, (size_t)k->chips * sizeof *member, "placement", err);
    if (!member) return CL_E_FIT;
    int32_t n = 0;
    for (int e = 0; e < map->experts; e++) {
        map->first[e] = n;
        for (int i = 0; i < k->chips; i++)
            if (holders(k, layer, e)[i]) member[n++] = i;
    }
    map->first[map->experts] = n;
    free(map->member);
    int32_t *fitted = realloc(member, (size_t)n * sizeof *member);
    map->member = fitted ? fitted : member;
    return CL_OK;
}

static cl_code stage_copies(const cl_model *m, const cl_place_options *o, cl_placement *p, const cl_stage *s,
                            cl_err *err)
{
    copier k = {.s = s, .chips = s->n_ranks};
    for (int i = 0; i < s->n_layers; i++)
        k.experts = p->experts[s->first_layer + i].experts > k.experts ? p->experts[s->first_layer + i].experts
                                                                       : k.experts;
    size_t layers = (size_t)s->n_layers, chips = (size_t)k.chips, all = layers * (size_t)k.experts;
    k.room = cl_calloc(chips, sizeof *k.room, "placement", err);
    k.load = cl_calloc(layers * chips, sizeof *k.load, "placement", err);
    k.has = cl_calloc(all, chips, "placement", err);
    k.bytes = cl_calloc(layers, sizeof *k.bytes, "placement", err);
    k.list = cl_calloc(all, sizeof *k.list, "placement", err);
    cl_code c = k.room && k.load && k.has && k.bytes && k.list ? copier_fill(&k, m, o, p, err) : CL_E_FIT;
    if (c == CL_OK) {
        bool more = k.n > 0;
        qsort(k.list, (size_t)k.n, sizeof *k.list, hotter);
        while (more) {
            more = false;
            for (int i = 0; i < k.n; i++) more = copy_one(&k, &k.list[i]) || more;
        }
        for (int layer = s->first_layer; c == CL_OK && layer < s->first_layer + s->n_layers; layer++)
            if (p->experts[layer].experts && counted(o->routing, layer))
                c = copier_store(&k, layer, &p->experts[layer], err);
    }
    free(k.room);
    free(k.load);
    free(k.has);
    free(k.bytes);
    free(k.list);
    return c;
}

cl_code expert_copies(const cl_model *m, const cl_place_options *o, cl_placement *p, cl_err *err)
{
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < p->n_stages; i++)
        if (p->stages[i].n_ranks > 1) c = stage_copies(m, o, p, &p->stages[i], err);
    return c;
}
