/* place.c: a placement: which stage has which layers, which chip which experts; and why there is none. */
#include <stdlib.h>
#include <string.h>

#include "room.h"
#include "chipline/util.h"
#include "bytes.h"
#include "classes.h"
#include "cut.h"
#include "experts.h"

static cl_code check_numbers(const cl_model *m, const cl_place_options *o, cl_err *err)
{
    const cl_routing *r = o->routing;
    int experts = 0;
    if (o->slots < 1) return cl_fail(err, CL_E_USAGE, "plan: %d slots (at least 1)", o->slots);
    if (o->context < 1) return cl_fail(err, CL_E_USAGE, "plan: a context of %d positions (at least 1)", o->context);
    if (o->chunk < 1) return cl_fail(err, CL_E_USAGE, "plan: micro-batches of %d tokens (at least 1)", o->chunk);
    for (int i = 0; i < m->spec.n_layers; i++)
        experts = m->spec.layers[i].ffn.experts > experts ? m->spec.layers[i].ffn.experts : experts;
    if (r && (r->n_layers != m->spec.n_layers || r->experts != experts))
        return cl_fail(
            err, CL_E_INPUT,
            "plan: routing of %d layers with %d experts, the model has %d with %d (count it in a run of this model)",
            r->n_layers, r->experts, m->spec.n_layers, experts);
    return CL_OK;
}

/* The largest number of stages, at most `most`, that so many chips can be shared out to evenly. */
static int divisor(int chips, int most)
{
    int s = most < chips ? most : chips;
    while (chips % s) s--;
    return s;
}

/* With layers of its own a stage has to find work for its chips in those; else in any. */
static cl_code check_stages(const cl_model *m, const cl_place_options *o, const cl_layout *l, cl_err *err)
{
    int n = m->spec.n_layers, first = 0;
    for (int s = 0; s < l->n_stages; s++) {
        int from = l->layers ? first : 0, count = l->layers ? l->layers[s] : n;
        int most = layers_most_chips(&m->spec, o->experts, from, count);
        if (l->chips[s] > most)
            return cl_fail(
                err, CL_E_FIT,
                "plan: stage %d has %d chips, and there is a layer with work for %d at most (use for example %dx%d)", s,
                l->chips[s], most, l->n_stages, most);
        first += count;
    }
    return CL_OK;
}

static cl_code check_layers(const cl_model *m, const cl_layout *l, cl_err *err)
{
    int64_t all = 0;
    char name[64];
    for (int s = 0; l->layers && s < l->n_stages; s++) {
        if (l->layers[s] < 1)
            return cl_fail(err, CL_E_USAGE, "plan: stage %d has %d layers (at least 1)", s, l->layers[s]);
        all += l->layers[s];
    }
    if (!l->layers || all == m->spec.n_layers) return CL_OK;
    return cl_fail(
        err, CL_E_FIT,
        "plan: layout %s has %lld layers, the model has %d (give all of them out, or leave layers out of the layout)",
        cl_layout_name(l, name, sizeof name), (long long)all, m->spec.n_layers);
}

static cl_code check_layout(const cl_model *m, const cl_place_options *o, const cl_layout *l, cl_err *err)
{
    int n = m->spec.n_layers;
    int64_t chips = 0;
    char name[64];
    if (l->n_stages < 1) return cl_fail(err, CL_E_USAGE, "plan: %d stages (at least 1)", l->n_stages);
    for (int s = 0; s < l->n_stages; s++) {
        if (l->chips[s] < 1)
            return cl_fail(err, CL_E_USAGE, "plan: stage %d has %d chips (at least 1)", s, l->chips[s]);
        chips += l->chips[s];
    }
    if (chips > 1 << 20) return cl_fail(err, CL_E_USAGE, "plan: %lld chips (at most %d)", (long long)chips, 1 << 20);
    if (l->n_stages > n) {
        int s = divisor((int)chips, n);
        return cl_fail(
            err, CL_E_FIT,
            "plan: %d stages for %d layers, and every stage needs one (use at most %d stages, for example %dx%d)",
            l->n_stages, n, n, s, (int)chips / s);
    }
    cl_code c = check_layers(m, l, err);
    if (c == CL_OK) c = check_stages(m, o, l, err);
    if (c == CL_OK && o->ranks && o->ranks != chips) {
        int stages = divisor(o->ranks, l->n_stages < n ? l->n_stages : n);
        return cl_fail(err, CL_E_FIT, "--layout %s needs %lld ranks, there are %d (start %lld, or use %dx%d)",
                       cl_layout_name(l, name, sizeof name), (long long)chips, o->ranks, (long long)chips, stages,
                       o->ranks / stages);
    }
    return c;
}

/* Which chip is over its memory, by how much, and what would do. */
static cl_code too_big(const cl_model *m, const cl_place_options *o, const cl_placement *p, int rank,
                       const cl_chip_cost *c, cl_err *err)
{
    char remedy[160] = "use larger chips, fewer slots, a shorter context or a smaller number format", a[32], b[32],
         d[32], name[64];
    cl_layout enough;
    cl_err none;
    if (!err) return CL_E_FIT;
    if (!o->brief && cl_fewest_chips(m, o, &enough, &none) == CL_OK) {
        snprintf(remedy, sizeof remedy, "use at least %d ranks as %s, fewer slots or a shorter context",
                 cl_layout_chips(&enough), cl_layout_name(&enough, name, sizeof name));
        cl_layout_free(&enough);
    }
    const uint64_t buffers = p->stages[cl_placement_stage(p, rank)].buffer_bytes;
    unsigned long long limit = o->chip_bytes;
    unsigned long long over = bytes_sum(bytes_sum(c->weight_bytes, c->kv_bytes), buffers) - limit;
    cl_human_bytes((double)c->weight_bytes, a);
    cl_human_bytes((double)c->kv_bytes, b);
    if (buffers)
        return cl_fail(err, CL_E_FIT,
                       "plan: chip %d of %d: weights of %s, a cache of %s and buffers of %s are %llu bytes more than a "
                       "chip's %llu (%s)",
                       rank, p->n_ranks, a, b, cl_human_bytes((double)buffers, d), over, limit, remedy);
    return cl_fail(err, CL_E_FIT,
                   "plan: chip %d of %d: weights of %s and a cache of %s are %llu bytes more than a chip's %llu (%s)",
                   rank, p->n_ranks, a, b, over, limit, remedy);
}

/* Sums over the chips of each stage; *worst: the chip that holds most, *most_held bytes with its buffers. */
static cl_code add_up(const cl_model *m, const cl_place_options *o, cl_placement *p, int *worst, cl_chip_cost *most,
                      uint64_t *most_held, cl_err *err)
{
    *worst = 0;
    *most_held = 0;
    *most = (cl_chip_cost){0};
    for (int i = 0; i < p->n_stages; i++) {
        cl_stage *s = &p->stages[i];
        s->weight_bytes = s->kv_bytes = s->token_bytes = s->token_kv_bytes = 0;
        s->buffer_bytes = buffers_of(o, s, p->experts);
        chip_classes classes;
        cl_code code = classes_make(m, s, p->experts, &classes, err);
        if (code != CL_OK) return code;
        for (int k = 0; code == CL_OK && k < classes.n; k++) {
            const int rank = s->first_rank + classes.member[k];
            const uint64_t n = (uint64_t)classes.chips[k];
            cl_chip_cost c;
            if ((code = cl_placement_cost(m, o, p, rank, &c, err)) != CL_OK) break;
            s->weight_bytes = bytes_sum(s->weight_bytes, bytes_product(n, c.weight_bytes));
            s->kv_bytes = bytes_sum(s->kv_bytes, bytes_product(n, c.kv_bytes));
            s->token_bytes = bytes_sum(s->token_bytes, bytes_product(n, c.token_bytes));
            s->token_kv_bytes = bytes_sum(s->token_kv_bytes, bytes_product(n, c.token_kv_bytes));
            uint64_t held = bytes_sum(bytes_sum(c.weight_bytes, c.kv_bytes), s->buffer_bytes);
            if (held > *most_held) {
                *most_held = held;
                *worst = rank;
                *most = c;
            }
        }
        classes_free(&classes);
        if (code != CL_OK) return code;
    }
    return CL_OK;
}

static cl_code give_experts(const cl_model *m, const cl_place_options *o, cl_placement *p, cl_err *err)
{
    if (o->experts != CL_EXPERTS_WHOLE) return CL_OK;
    p->experts = cl_calloc((size_t)m->spec.n_layers, sizeof *p->experts, "placement", err);
    cl_code c = p->experts ? CL_OK : CL_E_FIT;
    for (int i = 0; i < p->n_stages; i++) {
        const cl_stage *s = &p->stages[i];
        for (int layer = s->first_layer; c == CL_OK && layer < s->first_layer + s->n_layers; layer++)
            c = expert_map_make(m, o, layer, s->n_ranks, &p->experts[layer], err);
    }
    return c;
}

/* Stages whose ends are known. */
static cl_code build(const cl_model *m, const cl_place_options *o, const cl_layout *l, const int *end, cl_placement *p,
                     cl_err *err)
{
    cl_chip_cost most;
    uint64_t held;
    int rank = 0, worst;
    *p = (cl_placement){.n_stages = l->n_stages};
    p->stages = cl_calloc((size_t)l->n_stages, sizeof *p->stages, "placement", err);
    if (!p->stages) return CL_E_FIT;
    for (int i = 0, first = 0; i < l->n_stages; first = end[i++]) {
        p->stages[i] = (cl_stage){.first_layer = first,
                                  .n_layers = end[i] - first,
                                  .embed = i == 0,
                                  .head = i == l->n_stages - 1,
                                  .first_rank = rank,
                                  .n_ranks = l->chips[i],
                                  .split_routers = cl_split_routers(&m->spec, o, l->chips[i])};
        rank += l->chips[i];
    }
    p->n_ranks = rank;
    cl_code c = give_experts(m, o, p, err);
    if (c == CL_OK) c = add_up(m, o, p, &worst, &most, &held, err);
    if (c == CL_OK && o->chip_bytes && held > o->chip_bytes) c = too_big(m, o, p, worst, &most, err);
    if (c == CL_OK && p->experts && o->copies && o->routing && o->chip_bytes) {
        c = expert_copies(m, o, p, err);
        if (c == CL_OK) c = add_up(m, o, p, &worst, &most, &held, err);
    }
    return c;
}

static cl_code find_ends(const cl_model *m, const cl_place_options *o, const cl_layout *l, int *end, cl_err *err)
{
    cut_line line;
    cut_cost limit;
    cl_code c = cut_line_make(m, o, l, &line, err);
    if (c != CL_OK) return c;
    if (l->layers) {
        for (int s = 0, first = 0; s < l->n_stages; s++) end[s] = first += l->layers[s];
    } else { /* where no cut fits, the one that needs the least memory shows how much is missing */
        uint64_t room = UINT64_MAX;
        for (int s = 0; s < l->n_stages; s++) {
            if (s && l->chips[s] == l->chips[s - 1]) continue;
            uint64_t of = room_at_least(m, o, l->chips[s]);
            room = of < room ? of : room;
        }
        if (!cut_least(&line, room, &limit)) cut_least(&line, cut_least_held(&line), &limit);
        c = cut_even(&line, limit, end, err);
    }
    cut_line_free(&line);
    return c;
}

static cl_code place(const cl_model *m, const cl_place_options *o, const cl_layout *l, cl_placement *out, cl_err *err)
{
    cl_placement p = {0};
    cl_code c = check_layout(m, o, l, err);
    if (c != CL_OK) return c;
    int *end = cl_malloc((size_t)l->n_stages, sizeof *end, "placement", err);
    if (!end) return CL_E_FIT;
    c = find_ends(m, o, l, end, err);
    if (c == CL_OK) c = build(m, o, l, end, &p, err);
    free(end);
    if (c == CL_OK) *out = p;
    else cl_placement_free(&p);
    return c;
}

cl_code cl_place(const cl_model *m, const cl_place_options *opt, cl_placement *out, cl_err *err)
{
    cl_layout line;
    cl_code c = check_numbers(m, opt, err);
    if (c != CL_OK) return c;
    if (opt->layout) return place(m, opt, opt->layout, out, err);
    if (opt->ranks < 1) return cl_fail(err, CL_E_USAGE, "plan: %d ranks (at least 1)", opt->ranks);
    c = cl_layout_make(opt->ranks, 1, &line, err);
    if (c != CL_OK) return c;
    c = place(m, opt, &line, out, err);
    cl_layout_free(&line);
    return c;
}

static int placed_layers(const cl_placement *p)
{
    return p->n_stages && p->stages ? p->stages[p->n_stages - 1].first_layer + p->stages[p->n_stages - 1].n_layers : 0;
}

void cl_placement_free(cl_placement *p)
{
    int layers = placed_layers(p);
    for (int i = 0; p->experts && i < layers; i++) expert_map_free(&p->experts[i]);
    free(p->experts);
    free(p->stages);
    *p = (cl_placement){0};
}

/* FNV-1a over the number's bytes, lowest first. */
static uint64_t hash_number(uint64_t hash, int64_t number)
{
    for (int i = 0; i < 64; i += 8) hash = (hash ^ ((uint64_t)number >> i & 0xff)) * UINT64_C(0x100000001b3);
    return hash;
}

uint64_t cl_placement_hash(const cl_placement *p)
{
    uint64_t h = hash_number(UINT64_C(0xcbf29ce484222325), p->n_ranks);
    h = hash_number(h, p->n_stages);
    for (int i = 0; i < p->n_stages; i++) {
        const cl_stage *s = &p->stages[i];
        const int numbers[] = {s->first_layer, s->n_layers, s->embed,        s->head,
                               s->first_rank,  s->n_ranks,  s->split_routers};
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) h = hash_number(h, numbers[k]);
    }
    h = hash_number(h, p->experts != NULL);
    for (int layer = 0; p->experts && layer < placed_layers(p); layer++) {
        const cl_expert_map *map = &p->experts[layer];
        h = hash_number(h, map->experts);
        for (int e = 0; e < map->experts; e++) {
            h = hash_number(h, map->first[e + 1]);
            for (int32_t i = map->first[e]; i < map->first[e + 1]; i++) h = hash_number(h, map->member[i]);
        }
    }
    return h;
}
