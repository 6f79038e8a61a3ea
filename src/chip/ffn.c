/* ffn.c: the second half of a layer: down( glu(gate x, up x) ), dense or by experts. */
#include <string.h>

#include "chip_impl.h"

/* gate and up of one MLP, or of a stack of equal ones; biases [experts][rows] or NULL. */
typedef struct gate_up {
    const cl_matrix *w[2];
    const float *bias[2];
    size_t stride; /* of their results */
} gate_up;

static gate_up gate_up_of(const cl_chip *c, int layer, cl_role gate, cl_role up, bool bias, cl_role gate_bias, cl_role up_bias)
{
    const slice *s = &c->slice;
    gate_up gu = {.w = {&slice_get(s, gate, layer)->m, &slice_get(s, up, layer)->m}};
    if (bias) gu.bias[0] = slice_get(s, gate_bias, layer)->vec;
    if (bias) gu.bias[1] = slice_get(s, up_bias, layer)->vec;
    gu.stride = padded(gu.w[0]->rows);
    return gu;
}

/* gate, up and their product for panels p0 .. p1 - 1 of one expert. rows of x: index[0 .. n_index), or all of acts if index is
 * NULL. */
static void gated(const cl_chip *c, const cl_ffn *f, const gate_up *gu, int64_t expert, int64_t p0, int64_t p1, const cl_acts *in,
                  const int32_t *index, int n_index, float *gate, float *up)
{
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
    const slice *s = &c->slice;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const gate_up gu = gate_up_of(c, layer, CL_T_GATE, CL_T_UP, f->bias, CL_T_GATE_BIAS, CL_T_UP_BIAS);
    const cl_matrix *down = &slice_get(s, CL_T_DOWN, layer)->m;
    int64_t p0, p1;

    cl_mark m = mark(c, t, CL_TRACE_KERNEL);
    cl_acts in = phase_acts(c, w->norm, w->hidden, n, c->spec.hidden, gu.w, 2);
    phase_norm(c, t, &in, x, slice_get(s, CL_T_FFN_NORM, layer)->vec);
    team_wait(t);
    team_share(t, gu.w[0]->panels, &p0, &p1);
    if (p0 < p1) gated(c, f, &gu, 0, p0, p1, &in, NULL, 0, w->gate, w->up);
    team_wait(t);
    cl_acts mid = phase_acts(c, w->gate, gu.stride, n, f->width, &down, 1);
    phase_prepare(c, t, &mid, w->gate);
    team_wait(t);
    product out = {down, slice_get(s, CL_T_DOWN_BIAS, layer)->vec, w->out, w->hidden, x, (size_t)c->spec.hidden};
    phase_products(c, t, &out, 1, &mid);
    team_wait(t);
    uint64_t bytes = slice_expert_bytes(gu.w[0]) + slice_expert_bytes(gu.w[1]) + slice_expert_bytes(down);
    record(c, m, e, CL_EV_FFN, bytes, 0, 0);
    e->weight_bytes += bytes;
}

/* --- experts --- */

/* All weights of one layer of experts. The shared expert's are there where f->shared_width is not 0. */
typedef struct moe_weights {
    const cl_matrix *router, *down, *shared_down;
    const float *router_bias, *select_bias, *down_bias; /* or NULL */
    gate_up gu, shared;
} moe_weights;

static moe_weights moe_weights_of(const cl_chip *c, int layer)
{
    const slice *s = &c->slice;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    return (moe_weights){.router = &slice_get(s, CL_T_ROUTER, layer)->m, .down = &slice_get(s, CL_T_EXPERT_DOWN, layer)->m,
                         .shared_down = &slice_get(s, CL_T_SHARED_DOWN, layer)->m,
                         .router_bias = slice_get(s, CL_T_ROUTER_BIAS, layer)->vec,
                         .select_bias = slice_get(s, CL_T_SELECT_BIAS, layer)->vec,
                         .down_bias = slice_get(s, CL_T_EXPERT_DOWN_BIAS, layer)->vec,
                         .gu = gate_up_of(c, layer, CL_T_EXPERT_GATE, CL_T_EXPERT_UP, f->bias, CL_T_EXPERT_GATE_BIAS,
                                          CL_T_EXPERT_UP_BIAS),
                         .shared = gate_up_of(c, layer, CL_T_SHARED_GATE, CL_T_SHARED_UP, false, CL_ROLES, CL_ROLES)};
}

/* Gives every (token, choice) its row, rows of one expert together and in order of tokens. One thread. */
static void group(work *w, const cl_ffn *f, int n)
{
    memset(w->first_row, 0, ((size_t)f->experts + 1) * sizeof *w->first_row);
    for (int i = 0; i < n * f->top_k; i++) w->first_row[w->choices[i].expert + 1]++;
    w->n_touched = 0;
    for (int e = 0; e < f->experts; e++) {
        if (w->first_row[e + 1]) w->touched[w->n_touched++] = e;
        w->first_row[e + 1] += w->first_row[e];
    }
    /* first_row[e] moves to the end of e's rows while they are given out, then one place on gives the beginnings back */
    for (int i = 0; i < n * f->top_k; i++) {
        choice *ch = &w->choices[i];
        ch->row = w->first_row[ch->expert]++;
        w->row_token[ch->row] = i / f->top_k;
        w->row_weight[ch->row] = ch->weight;
    }
    memmove(w->first_row + 1, w->first_row, (size_t)f->experts * sizeof *w->first_row);
    w->first_row[0] = 0;
}

/* The next run of panels of one touched expert that is this thread's: shares are equal in estimated time, a panel costing its
 * bytes once and some arithmetic per row. *i: place in touched, begin with -1. */
static bool next_run(const work *w, const team *t, int64_t panels, int *i, int64_t *cum, int64_t *p0, int64_t *p1)
{
    enum { READ = 3 }; /* reading a panel takes about as long as computing 3 rows with it */
    int64_t total = panels * ((int64_t)READ * w->n_touched + w->first_row[w->touched[w->n_touched - 1] + 1]), a, b;
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

/* The shared expert's result in 8-bit form has its own place: it waits there while the experts' inputs are prepared. */
static cl_acts shared_acts(const cl_chip *c, const moe_weights *mw, int n)
{
    const work *w = &c->work;
    cl_acts a = phase_acts(c, w->shared_gate, mw->shared.stride, n, mw->shared.w[0]->rows, &mw->shared_down, 1);
    if (a.q) {
        a.q += w->shared_x8;
        a.d += w->shared_x8 / 32;
        a.sum += w->shared_x8 / 32;
    }
    if (a.fsum) a.fsum += w->shared_x8 / 32;
    return a;
}

/* From x to choices and rows. The shared expert, if there is one, gets as far as its prepared gate in the same phases. */
static void route(cl_chip *c, const team *t, const moe_weights *mw, int layer, const cl_acts *in)
{
    work *w = &c->work;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const size_t stride = w->router_stride, mine = 2 * (size_t)t->id * stride;
    const route_scratch scratch = {w->select + mine, w->select + mine + stride,
                                   w->select_list + mine, w->select_list + mine + stride};
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
    if (f->shared_width) {
        cl_acts shared = shared_acts(c, mw, in->n);
        phase_prepare(c, t, &shared, w->shared_gate);
    }
    team_wait(t);
    if (!t->id) group(w, f, in->n);
    team_wait(t);
}

/* The input of every row of gate and up, times its weight. They lie where the rows of down will: nothing is there yet. */
static cl_acts weighted_input(cl_chip *c, const team *t, const moe_weights *mw, int rows)
{
    const work *w = &c->work;
    int64_t hidden = c->spec.hidden, a, b;
    cl_acts acts = phase_acts(c, w->down, w->hidden, rows, hidden, mw->gu.w, 2);
    team_share(t, rows, &a, &b);
    for (int64_t row = a; row < b; row++) {
        const float *from = w->norm + (size_t)w->row_token[row] * w->hidden;
        float *to = w->down + (size_t)row * w->hidden, weight = w->row_weight[row];
        for (int64_t i = 0; i < hidden; i++) to[i] = weight * from[i];
    }
    phase_prepare_tokens(c, &acts, w->down, a, b);
    team_wait(t);
    return acts;
}

/* Gate, up and down of all rows, biases included; the shared expert's down goes to work.out. index: rows of `in`. */
static void experts(cl_chip *c, const team *t, const moe_weights *mw, const cl_ffn *f, int n, const cl_acts *in,
                    const int32_t *index)
{
    const work *w = &c->work;
    const int64_t hidden = c->spec.hidden;
    int64_t cum, p0, p1;
    int i;
    for (i = -1, cum = 0; next_run(w, t, mw->gu.w[0]->panels, &i, &cum, &p0, &p1);) {
        int first = w->first_row[w->touched[i]], mine = w->first_row[w->touched[i] + 1] - first;
        size_t at = (size_t)first * mw->gu.stride;
        gated(c, f, &mw->gu, w->touched[i], p0, p1, in, index + first, mine, w->gate + at, w->up + at);
    }
    team_wait(t);
    cl_acts mid = phase_acts(c, w->gate, mw->gu.stride, n * f->top_k, f->width, &mw->down, 1);
    phase_prepare(c, t, &mid, w->gate);
    team_wait(t);
    for (i = -1, cum = 0; next_run(w, t, mw->down->panels, &i, &cum, &p0, &p1);) {
        int64_t e = w->touched[i], first = w->first_row[e], mine = w->first_row[e + 1] - first, r0 = p0 * CL_PANEL;
        float *y = w->down + (size_t)first * w->hidden;
        c->k->matmul(mw->down, e, p0, p1, &mid, w->row_self + first, (int)mine, y, w->hidden);
        int64_t width = (p1 * CL_PANEL < hidden ? p1 * CL_PANEL : hidden) - r0;
        for (int64_t r = 0; mw->down_bias && r < mine; r++)
            c->k->add(y + (size_t)r * w->hidden + r0, mw->down_bias + e * hidden + r0, width);
    }
    if (f->shared_width) {
        cl_acts shared = shared_acts(c, mw, n);
        phase_products(c, t, &(product){mw->shared_down, NULL, w->out, w->hidden, NULL, 0}, 1, &shared);
    }
    team_wait(t);
}

/* x += the shared expert's result + the sum over a token's choices, in order of choice; this thread's share of the columns. */
static void combine(const cl_chip *c, const team *t, const cl_ffn *f, int n, float *x)
{
    const work *w = &c->work;
    int64_t hidden = c->spec.hidden, a, b;
    team_share(t, (hidden + CL_PANEL - 1) / CL_PANEL, &a, &b);
    a *= CL_PANEL;
    b = b * CL_PANEL < hidden ? b * CL_PANEL : hidden;
    if (a >= b) return;
    for (int tok = 0; tok < n; tok++) {
        float *acc = w->out + (size_t)tok * w->hidden + a;
        if (!f->shared_width) memset(acc, 0, (size_t)(b - a) * sizeof *acc);
        for (int j = 0; j < f->top_k; j++) {
            const choice *ch = &w->choices[tok * f->top_k + j];
            c->k->axpy(acc, f->weight_input ? 1 : ch->weight, w->down + (size_t)ch->row * w->hidden + a, b - a);
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
    cl_acts in = phase_acts(c, w->norm, w->hidden, n, c->spec.hidden, readers, f->shared_width ? 5 : 3);
    phase_norm(c, t, &in, x, slice_get(&c->slice, CL_T_FFN_NORM, layer)->vec);
    team_wait(t);
    route(c, t, &mw, layer, &in);
    uint64_t routing = slice_expert_bytes(mw.router), down = slice_expert_bytes(mw.down);
    if (f->shared_width) routing += slice_expert_bytes(mw.shared.w[0]) + slice_expert_bytes(mw.shared.w[1]);
    m = record(c, m, e, CL_EV_ROUTE, routing, 0, 0);

    if (f->weight_input) in = weighted_input(c, t, &mw, n * f->top_k);
    experts(c, t, &mw, f, n, &in, f->weight_input ? w->row_self : w->row_token);
    combine(c, t, f, n, x);
    team_wait(t);
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
