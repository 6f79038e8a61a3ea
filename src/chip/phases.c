/* phases.c: the pieces of work that attention, feed-forward and head have in common. */
#include <string.h>

#include "chip_impl.h"

cl_acts phase_acts(const cl_chip *c, const float *x, size_t stride, int tokens, int64_t cols, const cl_matrix *const *w,
                   int n)
{
    bool quantised = false, sums = false;
    for (int i = 0; i < n; i++) {
        quantised |= cl_format_integer(w[i]->format);
        sums |= w[i]->format == CL_Q4_1;
    }
    bool q8 = quantised && c->opt.activations != CL_ACT_F32;
    const work *wk = &c->work;
    return (cl_acts){.n = tokens,
                     .cols = cols,
                     .q8 = q8,
                     .planes = c->opt.activations == CL_ACT_Q16 ? 2 : 1,
                     .f32 = x,
                     .stride = stride,
                     .q = q8 ? wk->x8 : NULL,
                     .d = q8 ? wk->x8_scale : NULL,
                     .sum = q8 ? wk->x8_sum : NULL,
                     .fsum = sums && !q8 ? wk->x_sum : NULL};
}

cl_acts phase_normed_acts(const cl_chip *c, const float *x, size_t stride, int tokens, int64_t cols,
                          const cl_matrix *const *w, int n)
{
    cl_acts acts = phase_acts(c, x, stride, tokens, cols, w, n);
    acts.mixed = acts.q8 && c->opt.activations == CL_ACT_MIXED;
    if (acts.mixed) acts.planes = 2;
    return acts;
}

void phase_prepare_tokens(const cl_chip *c, cl_acts *acts, float *x, int64_t a, int64_t b)
{
    size_t cols = (size_t)acts->cols, pad = padded(acts->cols) - cols;
    if (a == b) return;
    for (int64_t i = a; pad && i < b; i++) memset(x + (size_t)i * acts->stride + cols, 0, pad * sizeof *x);
    c->k->prepare(acts, (int)a, (int)b);
}

void phase_prepare(const cl_chip *c, const team *t, cl_acts *acts, float *x)
{
    int64_t a, b;
    team_share(t, acts->n, &a, &b);
    phase_prepare_tokens(c, acts, x, a, b);
}

void phase_norm(const cl_chip *c, const team *t, cl_acts *acts, const float *x, const float *weight)
{
    int64_t a, b;
    team_share(t, acts->n, &a, &b);
    for (int64_t i = a; i < b; i++)
        c->k->rmsnorm(x + i * acts->cols, weight, acts->cols, (float)c->spec.norm_eps,
                      c->work.norm + (size_t)i * acts->stride);
    phase_prepare(c, t, acts, c->work.norm);
}

void phase_products(const cl_chip *c, const team *t, const product *p, int n, const cl_acts *acts)
{
    int64_t panels = 0, a, b;
    for (int i = 0; i < n; i++) panels += p[i].w->panels;
    team_share(t, panels, &a, &b);
    for (int i = 0; i < n; i++) {
        const cl_matrix *w = p[i].w;
        int64_t p0 = a < 0 ? 0 : a, p1 = b < w->panels ? b : w->panels;
        a -= w->panels;
        b -= w->panels;
        if (p0 >= p1) continue;
        c->k->matmul(w, 0, p0, p1, acts, NULL, 0, p[i].y, p[i].y_stride);
        int64_t r0 = p0 * CL_PANEL, rows = (p1 * CL_PANEL < w->rows ? p1 * CL_PANEL : w->rows) - r0;
        for (int tok = 0; tok < acts->n; tok++) {
            float *y = p[i].y + (size_t)tok * p[i].y_stride + r0;
            if (p[i].bias) c->k->add(y, p[i].bias + r0, rows);
            if (p[i].to) c->k->add(p[i].to + (size_t)tok * p[i].to_stride + r0, y, rows);
        }
    }
}

void finish_half(cl_chip *c, const team *t, cl_event *e, cl_role role, cl_role bias, int layer, const cl_acts *acts,
                 float *x)
{
    const work *w = &c->work;
    product out = product_of(c, role, layer, slice_get(&c->slice, bias, layer)->vec, false, w->out, w->hidden);
    out.to = x + slice_get(&c->slice, role, layer)->row0;
    out.to_stride = (size_t)c->spec.hidden;
    phase_products(c, t, &out, 1, acts);
    cl_region whole = columns(x, acts->n, (size_t)c->spec.hidden, c->cut_hidden);
    team_gather(c, t, e, &whole, 1);
}
