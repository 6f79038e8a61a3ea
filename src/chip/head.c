/* head.c: final norm and output head. */
#include "head.h"

static const slice_tensor *head_of(const chip_fixed *c)
{
    return slice_get(&c->slice, c->spec.tied ? CL_T_EMBED : CL_T_HEAD, -1);
}

uint64_t head_bytes(const chip_fixed *c) { return slice_expert_bytes(&head_of(c)->m); }

typedef struct head_job {
    const chip_fixed *c;
    const cl_microbatch *mb;
    const head_batch *b;
    common_buffers *common;
    float *logits; /* [n of the batch][stride], all of the stage's columns */
    size_t stride;
    bool whole_rows;
} head_job;

static void run(const crew_member *m, void *ctx)
{
    const head_job *j = ctx;
    const chip_fixed *c = j->c;
    const slice_tensor *head = head_of(c);
    const float *norm = slice_get(&c->slice, CL_T_FINAL_NORM, -1)->vec;
    const int n = j->b->n;
    float *x = j->common->norm;
    const size_t stride = j->common->norm_stride;
    int64_t a, b;
    cl_event e = event_of(j->mb, -1, n);
    cl_mark begun = mark(c->trace, m, CL_TRACE_LAYER);
    cl_acts in =
        phase_normed_acts(c, &j->common->forms, x, stride, n, c->spec.hidden, (const cl_matrix *[]){&head->m}, 1);
    crew_range(m, n, &a, &b);
    for (int64_t i = a; i < b; i++)
        c->k->rmsnorm(j->b->x[i], norm, c->spec.hidden, (float)c->spec.norm_eps, x + (size_t)i * stride);
    phase_prepare_tokens(c->k, &in, x, a, b);
    crew_wait(m);
    const product out = product_into(head, NULL, j->logits, j->stride);
    phase_products(c->k, m, &out, 1, &in);
    cl_region all = columns(j->logits, n, j->stride, c->cuts.vocab);
    all.to = 0;
    if (j->whole_rows) gather(c, m, &e, &all, 1);
    else crew_wait(m);
    record(c->trace, begun, &e, CL_EV_HEAD, head_bytes(c), 0, 0);
}

head_logits head_run(const chip_fixed *c, const cl_microbatch *mb, const head_batch *b, bool whole_rows,
                     common_buffers *common, head_buffers *to)
{
    const int member = c->group.member, first = c->cuts.vocab[member];
    float *logits = to->logits + (size_t)to->turn * (size_t)to->rows * to->stride;
    to->turn = (to->turn + 1) % to->turns;
    crew_run(c->opt.crew, run, &(head_job){c, mb, b, common, logits, to->stride, whole_rows});
    if (whole_rows) return (head_logits){logits, to->stride, 0, member ? 0 : c->spec.vocab};
    return (head_logits){logits + first, to->stride, first, c->cuts.vocab[member + 1] - first};
}
