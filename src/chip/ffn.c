/* ffn.c: the second half of a layer: down( silu(gate x) * (up x) ), dense or by experts. */
#include <string.h>

#include "chip_impl.h"

/* gate, up and their product for rows p0*16 .. of one expert. rows of x: index[0 .. n_index), or all of acts if index is NULL. */
static void gated(const cl_chip *c, const cl_matrix *const w[2], const float *const bias[2], int64_t expert, int64_t p0, int64_t p1,
                  const cl_acts *in, const int32_t *index, int n_index, float *gate, float *up)
{
    size_t stride = c->work.ffn;
    c->k->matmul(w[0], expert, p0, p1, in, index, n_index, gate, stride);
    c->k->matmul(w[1], expert, p0, p1, in, index, n_index, up, stride);
    int64_t r0 = p0 * CL_PANEL, rows = (p1 * CL_PANEL < w[0]->rows ? p1 * CL_PANEL : w[0]->rows) - r0;
    int n = index ? n_index : in->n;
    for (int i = 0; i < n; i++) {
        float *g = gate + (size_t)i * stride + r0, *u = up + (size_t)i * stride + r0;
        if (bias[0]) c->k->add(g, bias[0] + r0, rows);
        if (bias[1]) c->k->add(u, bias[1] + r0, rows);
        c->k->silu_mul(g, u, rows, g);
    }
}

static void dense(cl_chip *c, const team *t, cl_event *e, int layer, int n, float *x)
{
    const work *w = &c->work;
    const slice *s = &c->slice;
    const cl_matrix *const gu[2] = {&slice_get(s, CL_T_GATE, layer)->m, &slice_get(s, CL_T_UP, layer)->m};
    const float *const bias[2] = {slice_get(s, CL_T_GATE_BIAS, layer)->vec, slice_get(s, CL_T_UP_BIAS, layer)->vec};
    const cl_matrix *down = &slice_get(s, CL_T_DOWN, layer)->m;
    int64_t p0, p1;

    cl_mark m = mark(c, t, CL_TRACE_KERNEL);
    cl_acts in = phase_acts(c, w->norm, w->hidden, n, c->spec.hidden, gu, 2);
    phase_norm(c, t, &in, x, slice_get(s, CL_T_FFN_NORM, layer)->vec);
    team_wait(t);
    team_share(t, gu[0]->panels, &p0, &p1);
    if (p0 < p1) gated(c, gu, bias, 0, p0, p1, &in, NULL, 0, w->gate, w->up);
    team_wait(t);
    cl_acts mid = phase_acts(c, w->gate, w->ffn, n, c->spec.layers[layer].ffn.width, &down, 1);
    phase_prepare(c, t, &mid, w->gate);
    team_wait(t);
    product out = {down, slice_get(s, CL_T_DOWN_BIAS, layer)->vec, w->out, w->hidden, x, (size_t)c->spec.hidden};
    phase_products(c, t, &out, 1, &mid);
    team_wait(t);
    uint64_t bytes = slice_expert_bytes(gu[0]) + slice_expert_bytes(gu[1]) + slice_expert_bytes(down);
    record(c, m, e, CL_EV_FFN, bytes, 0, 0);
    e->weight_bytes += bytes;
}

/* Softmax of one token's router output in place, then its top_k choices by score, ties to the lower expert. */
static void choose(const cl_ffn *f, float *score, choice *out)
{
    float max = score[0], sum = 0, chosen = 0;
    for (int i = 1; i < f->experts; i++) max = score[i] > max ? score[i] : max;
    for (int i = 0; i < f->experts; i++) sum += score[i] = cl_exp(score[i] - max);
    for (int i = 0; i < f->experts; i++) score[i] = score[i] / sum;
    for (int j = 0; j < f->top_k; j++) {
        int best = 0;
        for (int i = 1; i < f->experts; i++) best = score[i] > score[best] ? i : best;
        out[j] = (choice){.expert = best, .weight = score[best]};
        chosen += score[best];
        score[best] = -1; /* taken: scores are not negative */
    }
    if (f->renormalise)
        for (int j = 0; j < f->top_k; j++) out[j].weight = out[j].weight / chosen;
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

/* x += sum over a token's choices, in order of choice; this thread's share of the columns. */
static void combine(const cl_chip *c, const team *t, int top_k, int n, float *x)
{
    const work *w = &c->work;
    int64_t hidden = c->spec.hidden, a, b;
    team_share(t, (hidden + CL_PANEL - 1) / CL_PANEL, &a, &b);
    a *= CL_PANEL;
    b = b * CL_PANEL < hidden ? b * CL_PANEL : hidden;
    if (a >= b) return;
    for (int tok = 0; tok < n; tok++) {
        float *acc = w->out + (size_t)tok * w->hidden + a;
        memset(acc, 0, (size_t)(b - a) * sizeof *acc);
        for (int j = 0; j < top_k; j++) {
            const choice *ch = &w->choices[tok * top_k + j];
            c->k->axpy(acc, ch->weight, w->down + (size_t)ch->row * w->hidden + a, b - a);
        }
        c->k->add(x + tok * hidden + a, acc, b - a);
    }
}

static void moe(cl_chip *c, const team *t, cl_event *e, int layer, int n, float *x)
{
    work *w = &c->work;
    const slice *s = &c->slice;
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const cl_matrix *const gu[2] = {&slice_get(s, CL_T_EXPERT_GATE, layer)->m, &slice_get(s, CL_T_EXPERT_UP, layer)->m};
    const cl_matrix *down = &slice_get(s, CL_T_EXPERT_DOWN, layer)->m, *router = &slice_get(s, CL_T_ROUTER, layer)->m;
    const float *const no_bias[2] = {NULL, NULL};
    int rows = n * f->top_k, i;
    int64_t a, b, cum, p0, p1;

    cl_mark m = mark(c, t, CL_TRACE_KERNEL);
    cl_acts in = phase_acts(c, w->norm, w->hidden, n, c->spec.hidden, gu, 2);
    phase_norm(c, t, &in, x, slice_get(s, CL_T_FFN_NORM, layer)->vec);
    team_wait(t);
    phase_products(c, t, &(product){router, NULL, w->router, w->router_stride, NULL, 0}, 1, &in);
    team_wait(t);
    team_share(t, n, &a, &b);
    for (int64_t tok = a; tok < b; tok++) choose(f, w->router + (size_t)tok * w->router_stride, w->choices + tok * f->top_k);
    team_wait(t);
    if (!t->id) group(w, f, n);
    team_wait(t);
    m = record(c, m, e, CL_EV_ROUTE, slice_expert_bytes(router), 0, 0);

    for (i = -1, cum = 0; next_run(w, t, gu[0]->panels, &i, &cum, &p0, &p1);) {
        int first = w->first_row[w->touched[i]], mine = w->first_row[w->touched[i] + 1] - first;
        size_t at = (size_t)first * w->ffn;
        gated(c, gu, no_bias, w->touched[i], p0, p1, &in, w->row_token + first, mine, w->gate + at, w->up + at);
    }
    team_wait(t);
    cl_acts mid = phase_acts(c, w->gate, w->ffn, rows, f->width, &down, 1);
    phase_prepare(c, t, &mid, w->gate);
    team_wait(t);
    for (i = -1, cum = 0; next_run(w, t, down->panels, &i, &cum, &p0, &p1);) {
        int first = w->first_row[w->touched[i]], mine = w->first_row[w->touched[i] + 1] - first;
        c->k->matmul(down, w->touched[i], p0, p1, &mid, w->row_self + first, mine, w->down + (size_t)first * w->hidden, w->hidden);
    }
    team_wait(t);
    combine(c, t, f->top_k, n, x);
    team_wait(t);
    uint64_t bytes = (uint64_t)w->n_touched * (slice_expert_bytes(gu[0]) + slice_expert_bytes(gu[1]) + slice_expert_bytes(down));
    record(c, m, e, CL_EV_FFN, bytes, 0, w->n_touched);
    e->weight_bytes += slice_expert_bytes(router) + bytes;
    e->experts += w->n_touched;
}

void ffn_layer(cl_chip *c, const team *t, cl_event *e, int layer, int n, float *x)
{
    if (c->spec.layers[layer].ffn.kind == CL_FFN_MOE) moe(c, t, e, layer, n, x);
    else dense(c, t, e, layer, n, x);
}
