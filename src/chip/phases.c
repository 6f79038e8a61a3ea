/* phases.c: inputs, norms and products. */
#include "phases.h"

#include <string.h>

cl_acts phase_acts(const chip_fixed *c, const input_forms *forms, const float *x, size_t stride, int tokens,
                   int64_t cols, const cl_matrix *const *w, int n)
{
    bool quantised = false, sums = false;
    for (int i = 0; i < n; i++) {
        quantised |= cl_format_integer(w[i]->format);
        sums |= w[i]->format == CL_Q4_1;
    }
    bool q8 = quantised && c->opt.activations != CL_ACT_F32;
    return (cl_acts){.n = tokens,
                     .cols = cols,
                     .q8 = q8,
                     .planes = c->opt.activations == CL_ACT_Q16 ? 2 : 1,
                     .f32 = x,
                     .stride = stride,
                     .q = q8 ? forms->q : NULL,
                     .d = q8 ? forms->d : NULL,
                     .sum = q8 ? forms->sum : NULL,
                     .fsum = sums && !q8 ? forms->fsum : NULL};
}

cl_acts phase_normed_acts(const chip_fixed *c, const input_forms *forms, const float *x, size_t stride, int tokens,
                          int64_t cols, const cl_matrix *const *w, int n)
{
    cl_acts acts = phase_acts(c, forms, x, stride, tokens, cols, w, n);
    acts.mixed = acts.q8 && c->opt.activations == CL_ACT_MIXED;
    if (acts.mixed) acts.planes = 2;
    return acts;
}

void phase_prepare_tokens(const cl_kernels *k, cl_acts *acts, float *x, int64_t a, int64_t b)
{
    size_t cols = (size_t)acts->cols, pad = padded(acts->cols) - cols;
    if (a == b) return;
    for (int64_t i = a; pad && i < b; i++) memset(x + (size_t)i * acts->stride + cols, 0, pad * sizeof *x);
    k->prepare(acts, (int)a, (int)b);
}

void phase_prepare(const cl_kernels *k, const crew_member *m, cl_acts *acts, float *x)
{
    int64_t a, b;
    crew_range(m, acts->n, &a, &b);
    phase_prepare_tokens(k, acts, x, a, b);
}

cl_acts phase_norm(const pass *p, common_buffers *to, const float *x, const float *weight, const cl_matrix *const *w,
                   int n)
{
    const chip_fixed *c = p->c;
    const int64_t hidden = c->spec.hidden;
    cl_acts acts = phase_normed_acts(c, &to->forms, to->norm, to->norm_stride, p->n, hidden, w, n);
    int64_t a, b;
    crew_range(p->m, p->n, &a, &b);
    for (int64_t i = a; i < b; i++)
        c->k->rmsnorm(x + i * hidden, weight, hidden, (float)c->spec.norm_eps, to->norm + (size_t)i * acts.stride);
    phase_prepare_tokens(c->k, &acts, to->norm, a, b);
    return acts;
}

void phase_products(const cl_kernels *k, const crew_member *m, const product *p, int n, const cl_acts *acts)
{
    int64_t panels = 0, a, b;
    for (int i = 0; i < n; i++) panels += p[i].w->panels;
    crew_range(m, panels, &a, &b);
    for (int i = 0; i < n; i++) {
        const cl_matrix *w = p[i].w;
        int64_t p0 = a < 0 ? 0 : a, p1 = b < w->panels ? b : w->panels;
        a -= w->panels;
        b -= w->panels;
        if (p0 >= p1) continue;
        k->matmul(w, 0, p0, p1, acts, NULL, 0, p[i].y, p[i].y_stride);
        int64_t r0 = p0 * CL_PANEL, rows = (p1 * CL_PANEL < w->rows ? p1 * CL_PANEL : w->rows) - r0;
        for (int tok = 0; tok < acts->n; tok++) {
            float *y = p[i].y + (size_t)tok * p[i].y_stride + r0;
            if (p[i].bias) k->add(y, p[i].bias + r0, rows);
            if (p[i].to) k->add(p[i].to + (size_t)tok * p[i].to_stride + r0, y, rows);
        }
    }
}

void phase_onto_x(const pass *p, common_buffers *to, cl_role role, cl_role bias, const cl_acts *acts, float *x)
{
    const chip_fixed *c = p->c;
    const slice_tensor *w = tensor_of(p, role);
    product out = product_to(w, NULL, to->out, to->out_stride);
    out.bias = vector_of(p, bias); /* of the same rows */
    out.to = x + w->row0;
    out.to_stride = (size_t)c->spec.hidden;
    phase_products(c->k, p->m, &out, 1, acts);
    cl_region whole = columns(x, p->n, (size_t)c->spec.hidden, c->cuts.hidden);
    gather(c, p->m, p->e, &whole, 1);
}
