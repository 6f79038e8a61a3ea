/* head.c: final norm and output head. */
#include "head.h"

static cl_role head_role(const cl_chip *c) { return c->spec.tied ? CL_T_EMBED : CL_T_HEAD; }

typedef struct head_job {
    cl_chip *c;
    const cl_microbatch *mb;
    const head_batch *b;
    const cl_matrix *head;
    float *logits;
    bool whole_rows;
} head_job;

static void run(const team *t, void *ctx)
{
    const head_job *j = ctx;
    cl_chip *c = j->c;
    const work *w = &c->work;
    const float *norm = slice_get(&c->slice, CL_T_FINAL_NORM, -1)->vec;
    const int n = j->b->n;
    int64_t a, b;
    cl_event e =
        {.microbatch = j->mb->id, .layer = -1, .tokens = n, .parts = j->mb->n_parts, .peer = -1, .waits_for = -1};
    cl_mark m = mark(c, t, CL_TRACE_LAYER);
    cl_acts in = phase_normed_acts(c, w->norm, w->hidden, n, c->spec.hidden, &j->head, 1);
    team_share(t, n, &a, &b);
    for (int64_t i = a; i < b; i++)
        c->k->rmsnorm(j->b->x[i], norm, c->spec.hidden, (float)c->spec.norm_eps, w->norm + (size_t)i * w->hidden);
    phase_prepare(c, t, &in, w->norm);
    team_wait(t);
    product out = product_of(c, head_role(c), -1, NULL, false, j->logits, w->vocab);
    phase_products(c, t, &out, 1, &in);
    cl_region all = columns(j->logits, n, w->vocab, c->cut_vocab);
    all.to = 0;
    if (j->whole_rows) team_gather(c, t, &e, &all, 1);
    else team_wait(t);
    record(c, m, &e, CL_EV_HEAD, slice_expert_bytes(j->head), 0, 0);
}

head_logits head_run(cl_chip *c, const cl_microbatch *mb, const head_batch *b, bool whole_rows)
{
    work *w = &c->work;
    const cl_matrix *head = &slice_get(&c->slice, head_role(c), -1)->m;
    const int member = c->group.member;
    float *logits = w->logits + (size_t)w->logits_turn * (size_t)w->head_rows * w->vocab;
    w->logits_turn = (w->logits_turn + 1) % logits_turns(c->group.members);
    team_run(c->crew, run, &(head_job){c, mb, b, head, logits, whole_rows});
    c->weight_bytes += slice_expert_bytes(head);
    if (whole_rows) return (head_logits){logits, w->vocab, 0, member ? 0 : c->spec.vocab};
    const int first = c->cut_vocab[member];
    return (head_logits){logits + first, w->vocab, first, c->cut_vocab[member + 1] - first};
}
