/* ffn.c: the second half of a layer: down( glu(gate x, up x) ), dense or by experts. */
#include <string.h>

#include "chip_impl.h"

/* gate and up of one MLP, or of a stack of equal ones: the rows that are here; biases [experts][rows] or NULL. */
typedef struct gate_up {
    const cl_matrix *w[2];
    const float *bias[2];
    int64_t row0;
    size_t stride; /* of their results, which have all columns */
} gate_up;

static gate_up gate_up_of(const cl_chip *c, int layer, int width, cl_role gate, cl_role up, bool bias,
                          cl_role gate_bias, cl_role up_bias)
{
    const slice *s = &c->slice;
    gate_up gu = {.w = {&slice_get(s, gate, layer)->m, &slice_get(s, up, layer)->m},
                  .row0 = slice_get(s, gate, layer)->row0};
    if (bias) gu.bias[0] = slice_get(s, gate_bias, layer)->vec;
    if (bias) gu.bias[1] = slice_get(s, up_bias, layer)->vec;
    gu.stride = padded(width);
    return gu;
}

/* gate, up and their product for panels p0 .. p1 - 1 of one expert. rows of x: index[0 .. n_index), or all of acts if
 * index is NULL. */
static void gated(const cl_chip *c, const cl_ffn *f, const gate_up *gu, int64_t expert, int64_t p0, int64_t p1,
                  const cl_acts *in, const int32_t *index, int n_index, float *gate, float *up)
{
    gate += gu->row0;
    up += gu->row0;
    c->k->matmul(gu->w[0], expert, p0, p1, in, index, n_index, gate, gu->stride);
    c->k->matmul(gu->w[1], expert, p0, p1, in, index, n_index, up, gu->stride);
    int64_t all = gu->w[0]->rows, r0 = p0 * CL_PANEL, rows = (p1 * CL_PANEL < all ? p1 * CL_PANEL : all) - r0;
    int n = index ? n_index : in->n;
    for (int i = 0; i < n; i++) {
        float *g = gate + (size_t)i * gu->stride + r0, *u = up + (size_t)i * gu->stride + r0;
        if (gu->bias[0]) c->k->add(g, gu->bias[0] + expert * all + r0, rows);
        if (gu->bias[1]) c->k->add(u, gu->bias[1] + expert * all + r0, rows);
        if (f->glu == CL_GLU_CLAMPED) c->k->clamped_mul(g, u, rows, (float)f->glu_limit, (float)f->glu_alpha, g);
        else c->k->silu_mul(g, u, rows, g);
    }
}

static void dense(cl_chip *c, const team *t, cl_event *e, int layer, int n, float *x)
{
    const work *w = &c->work;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const gate_up gu = gate_up_of(c, layer, f->width, CL_T_GATE, CL_T_UP, f->bias, CL_T_GATE_BIAS, CL_T_UP_BIAS);
    const cl_matrix *down = &slice_get(&c->slice, CL_T_DOWN, layer)->m;
    int64_t p0, p1;

    cl_mark m = mark(c, t, CL_TRACE_KERNEL);
    cl_acts in = phase_normed_acts(c, w->norm, w->hidden, n, c->spec.hidden, gu.w, 2);
    phase_norm(c, t, &in, x, slice_get(&c->slice, CL_T_FFN_NORM, layer)->vec);
    team_wait(t);
    team_share(t, gu.w[0]->panels, &p0, &p1);
    if (p0 < p1) gated(c, f, &gu, 0, p0, p1, &in, NULL, 0, w->gate, w->up);
    const cl_region all = columns(w->gate, n, gu.stride, share_of(c, layer)->mid);
    team_gather(c, t, e, &all, 1);
    cl_acts mid = phase_acts(c, w->gate, gu.stride, n, f->width, &down, 1);
    phase_prepare(c, t, &mid, w->gate);
    team_wait(t);
    finish_half(c, t, e, CL_T_DOWN, CL_T_DOWN_BIAS, layer, &mid, x);
    uint64_t bytes = slice_expert_bytes(gu.w[0]) + slice_expert_bytes(gu.w[1]) + slice_expert_bytes(down);
    record(c, m, e, CL_EV_FFN, bytes, 0, 0);
    e->weight_bytes += bytes;
}

/* --- experts --- */

enum { READ = 3 }; /* reading a panel takes about as long as computing 3 rows with it */

/* All weights of one layer of experts that are here. The shared expert's are there where f->shared_width is not 0. */
typedef struct moe_weights {
    const cl_matrix *router, *down, *shared_down;
    const float *router_bias, *select_bias, *down_bias; /* or NULL */
    gate_up gu, shared;
    int64_t down0, shared_down0; /* first rows of down and shared_down */
} moe_weights;

static moe_weights moe_weights_of(const cl_chip *c, int layer)
{
    const slice *s = &c->slice;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const slice_tensor *down = slice_get(s, CL_T_EXPERT_DOWN, layer),
                       *shared_down = slice_get(s, CL_T_SHARED_DOWN, layer);
    return (moe_weights){.router = &slice_get(s, CL_T_ROUTER, layer)->m,
                         .down = &down->m,
                         .down0 = down->row0,
                         .shared_down = &shared_down->m,
                         .shared_down0 = shared_down->row0,
                         .router_bias = slice_get(s, CL_T_ROUTER_BIAS, layer)->vec,
                         .select_bias = slice_get(s, CL_T_SELECT_BIAS, layer)->vec,
                         .down_bias = slice_get(s, CL_T_EXPERT_DOWN_BIAS, layer)->vec,
                         .gu = gate_up_of(c, layer, f->width, CL_T_EXPERT_GATE, CL_T_EXPERT_UP, f->bias,
                                          CL_T_EXPERT_GATE_BIAS, CL_T_EXPERT_UP_BIAS),
                         .shared = gate_up_of(c, layer, f->shared_width, CL_T_SHARED_GATE, CL_T_SHARED_UP, false,
                                              CL_ROLES, CL_ROLES)};
}

/* Gives every (token, choice) its row, rows of one expert together and in order of tokens. chosen: counts of the run.
 * One thread. */
static void group(work *w, const cl_ffn *f, int n, uint64_t *chosen)
{
    memset(w->first_row, 0, ((size_t)f->experts + 1) * sizeof *w->first_row);
    for (int i = 0; i < n * f->top_k; i++) {
        w->first_row[w->choices[i].expert + 1]++;
        chosen[w->choices[i].expert]++;
    }
    w->n_touched = 0;
    for (int e = 0; e < f->experts; e++) {
        if (w->first_row[e + 1]) w->touched[w->n_touched++] = e;
        w->first_row[e + 1] += w->first_row[e];
    }
    /* first_row[e] moves to the end of e's rows while they are given out, then one place on gives the beginnings back
     * */
    for (int i = 0; i < n * f->top_k; i++) {
        choice *ch = &w->choices[i];
        ch->row = w->first_row[ch->expert]++;
        w->row_token[ch->row] = i / f->top_k;
        w->row_weight[ch->row] = ch->weight;
    }
    memmove(w->first_row + 1, w->first_row, (size_t)f->experts * sizeof *w->first_row);
    w->first_row[0] = 0;
    w->n_own_rows = n * f->top_k;
}

/* Whole experts: who computes which of the touched ones. One that several chips hold goes to the one that has least
 * to do so far; all chips see the same choices and come to the same end. Only this chip's own stay in `touched`. One
 * thread. */
static void deal(work *w, const cl_expert_map *map, int member, int members)
{
    int mine = 0;
    memset(w->load, 0, (size_t)members * sizeof *w->load);
    w->n_own_rows = 0;
    for (int i = 0; i < w->n_touched; i++) {
        int e = w->touched[i];
        int32_t best = map->member[map->first[e]];
        for (int32_t k = map->first[e] + 1; k < map->first[e + 1]; k++)
            if (w->load[map->member[k]] < w->load[best]) best = map->member[k];
        w->load[best] += READ + w->first_row[e + 1] - w->first_row[e];
        for (int32_t row = w->first_row[e]; row < w->first_row[e + 1]; row++) {
            w->row_owner[row] = best;
            if (best == member) w->own_rows[w->n_own_rows++] = row;
        }
        if (best == member) w->touched[mine++] = e;
    }
    w->n_touched = mine;
}

/* The next run of panels of one touched expert that is this thread's: shares are equal in estimated time, a panel
 * costing its bytes once and some arithmetic per row. *i: place in touched, begin with -1. */
static bool next_run(const work *w, const team *t, int64_t panels, int *i, int64_t *cum, int64_t *p0, int64_t *p1)
{
    int64_t total = panels * ((int64_t)READ * w->n_touched + w->n_own_rows), a, b;
    team_share(t, total, &a, &b);
    while (++*i < w->n_touched) {
        int e = w->touched[*i];
        int64_t cost = READ + w->first_row[e + 1] - w->first_row[e], from = a - *cum, to = b - *cum;
        *cum += cost * panels;
        *p0 = from <= 0 ? 0 : (from + cost - 1) / cost;
        *p1 = to <= 0 ? 0 : (to + cost - 1) / cost;
        if (*p1 > panels) *p1 = panels;
        if (*p0 < *p1) return true;
    }
    return false;
}

/* Prepares this thread's share of the rows that this chip computes. */
static void prepare_rows(const cl_chip *c, const team *t, cl_acts *acts, float *x, bool whole)
{
    const work *w = &c->work;
    int64_t a, b;
    team_share(t, w->n_own_rows, &a, &b);
    if (!whole) phase_prepare_tokens(c, acts, x, a, b);
    for (int64_t i = a; whole && i < b; i++) phase_prepare_tokens(c, acts, x, w->own_rows[i], w->own_rows[i] + 1);
}

/* The shared expert's result in 8-bit form has its own place: it waits there while the experts' inputs are prepared. */
static cl_acts shared_acts(const cl_chip *c, const moe_weights *mw, int width, int n)
{
    const work *w = &c->work;
    cl_acts a = phase_acts(c, w->shared_gate, mw->shared.stride, n, width, &mw->shared_down, 1);
    if (a.q) {
        a.q += w->shared_x8;
        a.d += w->shared_x8 / 32;
        a.sum += w->shared_x8 / 32;
    }
    if (a.fsum) a.fsum += w->shared_x8 / 32;
    return a;
}

/* From x to choices and rows. The shared expert's gate and up, if there is one, are computed in the same phase as the
 * router. */
static void route(cl_chip *c, const team *t, const moe_weights *mw, int layer, const cl_acts *in)
{
    work *w = &c->work;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const cl_expert_map *map = share_of(c, layer)->map;
    const size_t stride = w->router_stride, mine = 2 * (size_t)t->id * stride;
    const route_scratch scratch = {w->select + mine, w->select + mine + stride, w->select_list + mine,
                                   w->select_list + mine + stride};
    int64_t a, b;
    phase_products(c, t, &(product){mw->router, mw->router_bias, w->router, stride, NULL, 0}, 1, in);
    if (f->shared_width) {
        team_share(t, mw->shared.w[0]->panels, &a, &b);
        if (a < b) gated(c, f, &mw->shared, 0, a, b, in, NULL, 0, w->shared_gate, w->shared_up);
    }
    team_wait(t);
    team_share(t, in->n, &a, &b);
    for (int64_t tok = a; tok < b; tok++)
        route_choose(f, w->router + (size_t)tok * stride, mw->select_bias, &scratch, w->choices + tok * f->top_k);
    team_wait(t);
    if (!t->id) group(w, f, in->n, share_of(c, layer)->chosen);
    if (!t->id && map) deal(w, map, c->group.member, c->group.members);
    team_wait(t);
}

/* The input of every row of gate and up, times its weight. They lie where the rows of down will: nothing is there
 * yet. */
static cl_acts weighted_input(cl_chip *c, const team *t, const moe_weights *mw, int rows, bool whole)
{
    const work *w = &c->work;
    int64_t hidden = c->spec.hidden, a, b;
    cl_acts acts = phase_normed_acts(c, w->down, w->hidden, rows, hidden, mw->gu.w, 2);
    team_share(t, w->n_own_rows, &a, &b);
    for (int64_t k = a; k < b; k++) {
        int64_t row = whole ? w->own_rows[k] : k;
        const float *from = w->norm + (size_t)w->row_token[row] * w->hidden;
        float *to = w->down + (size_t)row * w->hidden, weight = w->row_weight[row];
        for (int64_t i = 0; i < hidden; i++) to[i] = weight * from[i];
    }
    prepare_rows(c, t, &acts, w->down, whole);
    team_wait(t);
    return acts;
}

/* Where the experts' outputs lie: with whole experts the other chips take theirs from there. */
static float *outputs(const cl_chip *c, int layer) { return share_of(c, layer)->map ? c->work.results : c->work.down; }

/* Gate, up and down of all rows, biases included; the shared expert's down goes to work.out. index: rows of `in`. */
static void experts(cl_chip *c, const team *t, cl_event *ev, const moe_weights *mw, int layer, int n, const cl_acts *in,
                    const int32_t *index)
{
    const work *w = &c->work;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const layer_share *share = share_of(c, layer);
    const bool whole = share->map != NULL;
    const int64_t rows = mw->down->rows;
    int64_t cum, p0, p1;
    int i;
    for (i = -1, cum = 0; next_run(w, t, mw->gu.w[0]->panels, &i, &cum, &p0, &p1);) {
        int e = w->touched[i], first = w->first_row[e], mine = w->first_row[e + 1] - first;
        size_t at = (size_t)first * mw->gu.stride;
        gated(c, f, &mw->gu, whole ? share->local[e] : e, p0, p1, in, index + first, mine, w->gate + at, w->up + at);
    }
    const cl_region mids[] = {columns(w->shared_gate, n, mw->shared.stride, share->shared),
                              columns(w->gate, n * f->top_k, mw->gu.stride, share->mid)};
    const int skip = f->shared_width ? 0 : 1, parts = (whole ? 1 : 2) - skip;
    if (parts) team_gather(c, t, ev, mids + skip, parts);
    else team_wait(t);
    cl_acts mid = phase_acts(c, w->gate, mw->gu.stride, n * f->top_k, f->width, &mw->down, 1), shared = {0};
    prepare_rows(c, t, &mid, w->gate, whole);
    if (f->shared_width) {
        shared = shared_acts(c, mw, f->shared_width, n);
        phase_prepare(c, t, &shared, w->shared_gate);
    }
    team_wait(t);
    for (i = -1, cum = 0; next_run(w, t, mw->down->panels, &i, &cum, &p0, &p1);) {
        int64_t e = w->touched[i], first = w->first_row[e], mine = w->first_row[e + 1] - first, r0 = p0 * CL_PANEL;
        int64_t here = whole ? share->local[e] : e;
        float *y = outputs(c, layer) + (size_t)first * w->hidden + mw->down0;
        c->k->matmul(mw->down, here, p0, p1, &mid, w->row_self + first, (int)mine, y, w->hidden);
        int64_t width = (p1 * CL_PANEL < rows ? p1 * CL_PANEL : rows) - r0;
        for (int64_t r = 0; mw->down_bias && r < mine; r++)
            c->k->add(y + (size_t)r * w->hidden + r0, mw->down_bias + here * rows + r0, width);
    }
    if (f->shared_width)
        phase_products(c, t, &(product){mw->shared_down, NULL, w->out + mw->shared_down0, w->hidden, NULL, 0}, 1,
                       &shared);
    const cl_region all = {.data = w->results,
                           .rows = n * f->top_k,
                           .stride = w->hidden,
                           .cut = c->cut_hidden,
                           .owner = w->row_owner,
                           .to = -1};
    if (whole) team_gather(c, t, ev, &all, 1);
    else team_wait(t);
}

/* x += the shared expert's result + the sum over a token's choices, in order of choice, in this chip's columns; this
 * thread's share of them. */
static void combine(const cl_chip *c, const team *t, int layer, int n, float *x)
{
    const work *w = &c->work;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const float *from = outputs(c, layer);
    int64_t hidden = c->spec.hidden, first = c->cut_hidden[c->group.member], end = c->cut_hidden[c->group.member + 1],
            a, b;
    team_share(t, (end - first + CL_PANEL - 1) / CL_PANEL, &a, &b);
    a = first + a * CL_PANEL;
    b = first + b * CL_PANEL < end ? first + b * CL_PANEL : end;
    for (int tok = 0; a < b && tok < n; tok++) {
        float *acc = w->out + (size_t)tok * w->hidden + a;
        if (!f->shared_width) memset(acc, 0, (size_t)(b - a) * sizeof *acc);
        for (int j = 0; j < f->top_k; j++) {
            const choice *ch = &w->choices[tok * f->top_k + j];
            c->k->axpy(acc, f->weight_input ? 1 : ch->weight, from + (size_t)ch->row * w->hidden + a, b - a);
        }
        c->k->add(x + tok * hidden + a, acc, b - a);
    }
}

static void moe(cl_chip *c, const team *t, cl_event *e, int layer, int n, float *x)
{
    work *w = &c->work;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const moe_weights mw = moe_weights_of(c, layer);
    const cl_matrix *readers[] = {mw.router, mw.gu.w[0], mw.gu.w[1], mw.shared.w[0], mw.shared.w[1]};

    cl_mark m = mark(c, t, CL_TRACE_KERNEL);
    cl_acts in = phase_normed_acts(c, w->norm, w->hidden, n, c->spec.hidden, readers, f->shared_width ? 5 : 3);
    phase_norm(c, t, &in, x, slice_get(&c->slice, CL_T_FFN_NORM, layer)->vec);
    team_wait(t);
    route(c, t, &mw, layer, &in);
    uint64_t routing = slice_expert_bytes(mw.router), down = slice_expert_bytes(mw.down);
    if (f->shared_width) routing += slice_expert_bytes(mw.shared.w[0]) + slice_expert_bytes(mw.shared.w[1]);
    m = record(c, m, e, CL_EV_ROUTE, routing, 0, 0);

    if (f->weight_input) in = weighted_input(c, t, &mw, n * f->top_k, share_of(c, layer)->map != NULL);
    experts(c, t, e, &mw, layer, n, &in, f->weight_input ? w->row_self : w->row_token);
    combine(c, t, layer, n, x);
    const cl_region all = columns(x, n, (size_t)c->spec.hidden, c->cut_hidden);
    team_gather(c, t, e, &all, 1);
    uint64_t bytes = (uint64_t)w->n_touched * (slice_expert_bytes(mw.gu.w[0]) + slice_expert_bytes(mw.gu.w[1]) + down);
    if (f->shared_width) bytes += slice_expert_bytes(mw.shared_down);
    record(c, m, e, CL_EV_FFN, bytes, 0, w->n_touched);
    e->weight_bytes += routing + bytes;
    e->experts += w->n_touched;
}

void ffn_layer(cl_chip *c, const team *t, cl_event *e, int layer, int n, float *x)
{
    if (c->spec.layers[layer].ffn.kind == CL_FFN_MOE) moe(c, t, e, layer, n, x);
    else dense(c, t, e, layer, n, x);
}
