/* experts.c: the second half of a layer of experts: router, experts, the shared expert, and their sum. */
#include <string.h>

#include "ffn.h"

/* All weights of one layer of experts that are here. The shared expert's are there where f->shared_width is not 0. */
typedef struct moe_weights {
    const slice_tensor *router;
    const cl_matrix *down, *shared_down;
    const float *router_bias, *select_bias, *down_bias; /* or NULL */
    gate_up gu, shared;
} moe_weights;

static moe_weights moe_weights_of(const pass *p)
{
    const cl_ffn *f = &p->spec->ffn;
    return (moe_weights){.router = tensor_of(p, CL_T_ROUTER),
                         .down = matrix_of(p, CL_T_EXPERT_DOWN),
                         .shared_down = matrix_of(p, CL_T_SHARED_DOWN),
                         .router_bias = vector_of(p, CL_T_ROUTER_BIAS),
                         .select_bias = vector_of(p, CL_T_SELECT_BIAS),
                         .down_bias = vector_of(p, CL_T_EXPERT_DOWN_BIAS),
                         .gu = gate_up_of(p, f->width, CL_T_EXPERT_GATE, CL_T_EXPERT_UP, f->bias, CL_T_EXPERT_GATE_BIAS,
                                          CL_T_EXPERT_UP_BIAS),
                         .shared = gate_up_of(p, f->shared_width, CL_T_SHARED_GATE, CL_T_SHARED_UP, false, CL_ROLES,
                                              CL_ROLES)};
}

/* Where the experts' outputs lie: with whole experts the other chips take theirs from there, all columns of a row;
 * else they are this chip's columns. */
typedef struct expert_outputs {
    float *y;
    size_t stride;
} expert_outputs;

static expert_outputs outputs_of(const pass *p, const common_buffers *common, const ffn_buffers *b)
{
    return p->cut->map ? (expert_outputs){b->results, common->norm_stride}
                       : (expert_outputs){b->down, common->out_stride};
}

/* Prepares this member's range of the rows that this chip computes. */
static void prepare_rows(const pass *p, const expert_rows *rows, cl_acts *acts, float *x)
{
    const cl_kernels *k = p->c->k;
    const bool whole = p->cut->map != NULL;
    int64_t a, b;
    crew_range(p->m, rows->n_own, &a, &b);
    if (!whole) phase_prepare_tokens(k, acts, x, a, b);
    for (int64_t i = a; whole && i < b; i++) phase_prepare_tokens(k, acts, x, rows->own[i], rows->own[i] + 1);
}

/* From the normed input to choices and rows. The shared expert's gate and up, if there is one, are computed in the
 * same phase as the router. */
static void route(const pass *p, const moe_weights *mw, const cl_acts *in, ffn_buffers *buffers, router_buffers *r,
                  expert_rows *rows, uint64_t *chosen)
{
    const cl_ffn *f = &p->spec->ffn;
    const size_t stride = r->stride;
    float *numbers = r->numbers + ROUTE_NUMBERS * (size_t)p->m->id * stride;
    int32_t *lists = r->lists + ROUTE_LISTS * (size_t)p->m->id * stride;
    const route_scratch scratch = {numbers, numbers + stride, numbers + 2 * stride, lists, lists + stride};
    const product scores = product_into(mw->router, mw->router_bias, r->scores, stride);
    int64_t a, b;
    phase_products(p->c->k, p->m, &scores, 1, in);
    if (f->shared_width) {
        crew_range(p->m, mw->shared.w[0]->panels, &a, &b);
        if (a < b) gated(p, &mw->shared, 0, a, b, in, NULL, 0, buffers->shared_gate, buffers->shared_up);
    }
    const cl_region all = columns(r->scores, p->n, stride, p->cut->router);
    if (p->cut->router) gather(p->c, p->m, p->e, &all, 1);
    else crew_wait(p->m);
    crew_range(p->m, in->n, &a, &b);
    for (int64_t tok = a; tok < b; tok++)
        route_choose(f, r->scores + (size_t)tok * stride, mw->select_bias, &scratch, r->choices + tok * f->top_k);
    crew_wait(p->m);
    if (!p->m->id) rows_group(rows, f, in->n, r->choices, chosen);
    if (!p->m->id && p->cut->map) rows_deal(rows, p->cut->map, p->c->group.member, p->c->group.members);
    crew_wait(p->m);
}

/* The input of every row of gate and up, times its weight. */
static cl_acts weighted_input(const pass *p, const moe_weights *mw, const expert_rows *rows, common_buffers *common,
                              float *input)
{
    const bool whole = p->cut->map != NULL;
    int64_t hidden = p->c->spec.hidden, a, b;
    const size_t stride = common->norm_stride;
    cl_acts acts =
        phase_normed_acts(p->c, &common->forms, input, stride, p->n * p->spec->ffn.top_k, hidden, mw->gu.w, 2);
    crew_range(p->m, rows->n_own, &a, &b);
    for (int64_t k = a; k < b; k++) {
        int64_t row = whole ? rows->own[k] : k;
        const float *from = common->norm + (size_t)rows->token[row] * stride;
        float *to = input + (size_t)row * stride, weight = rows->weight[row];
        for (int64_t i = 0; i < hidden; i++) to[i] = weight * from[i];
    }
    prepare_rows(p, rows, &acts, input);
    crew_wait(p->m);
    return acts;
}

/* Gate and up of all rows, biases included, and of the shared expert what it needs: then the gated products are
 * complete here, as far as this chip needs them. index: rows of `in`. */
static void gate_experts(const pass *p, const moe_weights *mw, const expert_rows *rows, const cl_acts *in,
                         const int32_t *index, ffn_buffers *b)
{
    const cl_ffn *f = &p->spec->ffn;
    const bool whole = p->cut->map != NULL;
    for (expert_run r = {.i = -1}; rows_next(rows, p->m, mw->gu.w[0]->panels, &r);)
        gated(p, &mw->gu, whole ? p->cut->local[r.expert] : r.expert, r.p0, r.p1, in, index + r.first, r.n,
              b->gate + (size_t)r.first * mw->gu.stride, b->up + (size_t)r.first * mw->gu.up_stride);
    const cl_region mids[] = {columns(b->shared_gate, p->n, mw->shared.stride, p->cut->shared),
                              columns(b->gate, p->n * f->top_k, mw->gu.stride, p->cut->mid)};
    const int skip = f->shared_width ? 0 : 1, parts = (whole ? 1 : 2) - skip;
    if (parts) gather(p->c, p->m, p->e, mids + skip, parts);
    else crew_wait(p->m);
}

/* Down of all rows, biases included; the shared expert's goes to common->out. */
static void down_experts(const pass *p, const moe_weights *mw, const expert_rows *rows, common_buffers *common,
                         ffn_buffers *b)
{
    const chip_fixed *c = p->c;
    const cl_ffn *f = &p->spec->ffn;
    const bool whole = p->cut->map != NULL;
    const int n_rows = p->n * f->top_k;
    const int64_t all = mw->down->rows;
    const expert_outputs out = outputs_of(p, common, b);
    cl_acts mid = phase_acts(c, &common->forms, b->gate, mw->gu.stride, n_rows, f->width, &mw->down, 1), shared = {0};
    prepare_rows(p, rows, &mid, b->gate);
    if (f->shared_width) {
        shared = phase_acts(c, &b->shared_forms, b->shared_gate, mw->shared.stride, p->n, f->shared_width,
                            &mw->shared_down, 1);
        phase_prepare(c->k, p->m, &shared, b->shared_gate);
    }
    crew_wait(p->m);
    for (expert_run r = {.i = -1}; rows_next(rows, p->m, mw->down->panels, &r);) {
        int64_t here = whole ? p->cut->local[r.expert] : r.expert, r0 = r.p0 * CL_PANEL;
        float *y = out.y + (size_t)r.first * out.stride;
        c->k->matmul(mw->down, here, r.p0, r.p1, &mid, rows->in_order + r.first, r.n, y, out.stride);
        int64_t width = (r.p1 * CL_PANEL < all ? r.p1 * CL_PANEL : all) - r0;
        for (int64_t i = 0; mw->down_bias && i < r.n; i++)
            c->k->add(y + (size_t)i * out.stride + r0, mw->down_bias + here * all + r0, width);
    }
    if (f->shared_width)
        phase_products(c->k, p->m, &(product){mw->shared_down, NULL, common->out, common->out_stride, NULL, 0}, 1,
                       &shared);
    const cl_region results = {.data = b->results,
                               .rows = n_rows,
                               .stride = common->norm_stride,
                               .cut = c->cuts.hidden,
                               .owner = rows->owner,
                               .to = -1};
    if (whole) gather(c, p->m, p->e, &results, 1);
    else crew_wait(p->m);
}

/* x += the shared expert's result + the sum over a token's choices, in order of choice, in this chip's columns; this
 * member's range of them. Then x is complete on all chips. */
static void combine(const pass *p, const choice *choices, common_buffers *common, const ffn_buffers *b, float *x)
{
    const chip_fixed *c = p->c;
    const cl_ffn *f = &p->spec->ffn;
    const expert_outputs out = outputs_of(p, common, b);
    const int32_t *cut = c->cuts.hidden;
    const int64_t hidden = c->spec.hidden, first = cut[c->group.member], end = cut[c->group.member + 1];
    const float *from = p->cut->map ? out.y + first : out.y; /* this chip's columns */
    int64_t a0, a1;
    crew_range(p->m, (end - first + CL_PANEL - 1) / CL_PANEL, &a0, &a1);
    a0 *= CL_PANEL;
    a1 = a1 * CL_PANEL < end - first ? a1 * CL_PANEL : end - first;
    for (int tok = 0; a0 < a1 && tok < p->n; tok++) {
        float *acc = common->out + (size_t)tok * common->out_stride + a0;
        if (!f->shared_width) memset(acc, 0, (size_t)(a1 - a0) * sizeof *acc);
        for (int j = 0; j < f->top_k; j++) {
            const choice *ch = &choices[tok * f->top_k + j];
            c->k->axpy(acc, f->weight_input ? 1 : ch->weight, from + (size_t)ch->row * out.stride + a0, a1 - a0);
        }
        c->k->add(x + tok * hidden + first + a0, acc, a1 - a0);
    }
    const cl_region all = columns(x, p->n, (size_t)hidden, cut);
    gather(c, p->m, p->e, &all, 1);
}

void experts_layer(const pass *p, common_buffers *common, ffn_buffers *b, router_buffers *router, expert_rows *rows,
                   uint64_t *chosen, float *x)
{
    const cl_ffn *f = &p->spec->ffn;
    cl_trace *trace = p->c->trace;
    const moe_weights mw = moe_weights_of(p);
    const cl_matrix *readers[] = {&mw.router->m, mw.gu.w[0], mw.gu.w[1], mw.shared.w[0], mw.shared.w[1]};

    cl_mark m = mark(trace, p->m, CL_TRACE_KERNEL);
    cl_acts in = phase_norm(p, common, x, vector_of(p, CL_T_FFN_NORM), readers, f->shared_width ? 5 : 3);
    crew_wait(p->m);
    route(p, &mw, &in, b, router, rows, chosen);
    uint64_t routing = slice_expert_bytes(&mw.router->m), down = slice_expert_bytes(mw.down);
    if (f->shared_width) routing += slice_expert_bytes(mw.shared.w[0]) + slice_expert_bytes(mw.shared.w[1]);
    m = record(trace, m, p->e, CL_EV_ROUTE, routing, 0, 0);

    if (f->weight_input) in = weighted_input(p, &mw, rows, common, b->input);
    gate_experts(p, &mw, rows, &in, f->weight_input ? rows->in_order : rows->token, b);
    down_experts(p, &mw, rows, common, b);
    combine(p, router->choices, common, b, x);
    uint64_t bytes = (uint64_t)rows->n_touched *
                     (slice_expert_bytes(mw.gu.w[0]) + slice_expert_bytes(mw.gu.w[1]) + down);
    if (f->shared_width) bytes += slice_expert_bytes(mw.shared_down);
    record(trace, m, p->e, CL_EV_FFN, bytes, 0, rows->n_touched);
    p->e->weight_bytes += routing + bytes;
    p->e->experts += rows->n_touched;
}
