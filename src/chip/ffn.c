/* ffn.c: gate and up, and the dense MLP. */
#include "ffn.h"

gate_up gate_up_of(const pass *p, int width, cl_role gate, cl_role up, bool bias, cl_role gate_bias, cl_role up_bias)
{
    const slice_tensor *g = tensor_of(p, gate);
    gate_up gu = {.w = {&g->m, matrix_of(p, up)}, .row0 = g->row0};
    if (bias) gu.bias[0] = vector_of(p, gate_bias);
    if (bias) gu.bias[1] = vector_of(p, up_bias);
    gu.stride = padded(width);
    gu.up_stride = padded(g->m.rows);
    return gu;
}

void gated(const pass *p, const gate_up *gu, int64_t expert, int64_t p0, int64_t p1, const cl_acts *in,
           const int32_t *index, int n_index, float *gate, float *up)
{
    const cl_kernels *k = p->c->k;
    const cl_ffn *f = &p->spec->ffn;
    gate += gu->row0;
    k->matmul(gu->w[0], expert, p0, p1, in, index, n_index, gate, gu->stride);
    k->matmul(gu->w[1], expert, p0, p1, in, index, n_index, up, gu->up_stride);
    int64_t all = gu->w[0]->rows, r0 = p0 * CL_PANEL, rows = (p1 * CL_PANEL < all ? p1 * CL_PANEL : all) - r0;
    int n = index ? n_index : in->n;
    for (int i = 0; i < n; i++) {
        float *g = gate + (size_t)i * gu->stride + r0, *u = up + (size_t)i * gu->up_stride + r0;
        if (gu->bias[0]) k->add(g, gu->bias[0] + expert * all + r0, rows);
        if (gu->bias[1]) k->add(u, gu->bias[1] + expert * all + r0, rows);
        if (f->glu == CL_GLU_CLAMPED) k->clamped_mul(g, u, rows, (float)f->glu_limit, (float)f->glu_alpha, g);
        else k->silu_mul(g, u, rows, g);
    }
}

static void dense(const pass *p, common_buffers *common, ffn_buffers *b, float *x)
{
    const cl_ffn *f = &p->spec->ffn;
    const gate_up gu = gate_up_of(p, f->width, CL_T_GATE, CL_T_UP, f->bias, CL_T_GATE_BIAS, CL_T_UP_BIAS);
    const cl_matrix *down = matrix_of(p, CL_T_DOWN);
    int64_t p0, p1;

    cl_mark m = mark(p->c->trace, p->m, CL_TRACE_KERNEL);
    cl_acts in = phase_norm(p, common, x, vector_of(p, CL_T_FFN_NORM), gu.w, 2);
    crew_wait(p->m);
    crew_range(p->m, gu.w[0]->panels, &p0, &p1);
    if (p0 < p1) gated(p, &gu, 0, p0, p1, &in, NULL, 0, b->gate, b->up);
    const cl_region all = columns(b->gate, p->n, gu.stride, p->cut->mid);
    gather(p->c, p->m, p->e, &all, 1);
    cl_acts mid = phase_acts(p->c, &common->forms, b->gate, gu.stride, p->n, f->width, &down, 1);
    phase_prepare(p->c->k, p->m, &mid, b->gate);
    crew_wait(p->m);
    phase_onto_x(p, common, CL_T_DOWN, CL_T_DOWN_BIAS, &mid, x);
    uint64_t bytes = slice_expert_bytes(gu.w[0]) + slice_expert_bytes(gu.w[1]) + slice_expert_bytes(down);
    record(p->c->trace, m, p->e, CL_EV_FFN, bytes, 0, 0);
    p->e->weight_bytes += bytes;
}

void ffn_layer(const pass *p, common_buffers *common, ffn_buffers *b, router_buffers *router, expert_rows *rows,
               uint64_t *chosen, float *x)
{
    if (p->spec->ffn.kind == CL_FFN_MOE) experts_layer(p, common, b, router, rows, chosen, x);
    else dense(p, common, b, x);
}
