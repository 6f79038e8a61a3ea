/* step.c: one micro-batch through this chip's layers, and through the output head. */
#include "chip_impl.h"

/* What the decoder relies on; run/ has checked every number that comes from outside. */
static void check(const cl_chip *c, const cl_microbatch *mb)
{
    const cl_limits *l = &c->opt.limits;
    int n = 0;
    for (int p = 0; p < mb->n_parts; p++) {
        const cl_seq_part *s = &mb->parts[p];
        if (s->slot < 0 || s->slot >= l->slots || s->n_tokens < 1 || s->pos < 0 || s->pos > l->context - s->n_tokens)
            CL_BUG("part %d: slot %d, positions %d + %d of %d", p, s->slot, s->pos, s->n_tokens, l->context);
        n += s->n_tokens;
    }
    if (n != mb->n_tokens || n > l->chunk)
        CL_BUG("%d tokens in the parts, %d in the micro-batch of %d", n, mb->n_tokens, l->chunk);
    for (int i = 0; c->stage.embed && i < n; i++)
        if (mb->ids[i] < 0 || mb->ids[i] >= c->spec.vocab) CL_BUG("id %d of %d", mb->ids[i], c->spec.vocab);
}

/* Each token's row comes from the chip that holds it. */
static void embed(cl_chip *c, const team *t, cl_event *e, const cl_microbatch *mb, float *x)
{
    const slice_tensor *table = slice_get(&c->slice, CL_T_EMBED, -1);
    const cl_matrix *m = &table->m;
    const int64_t hidden = c->spec.hidden;
    int64_t a, b;
    team_share(t, mb->n_tokens, &a, &b);
    for (int64_t i = a; i < b; i++) {
        int owner = 0;
        while (mb->ids[i] >= c->cut_vocab[owner + 1]) owner++;
        c->work.token_owner[i] = owner;
        if (owner != c->group.member) continue;
        int64_t row = mb->ids[i] - table->row0;
        c->k->unpack(m->format, hidden, m->data + (size_t)(row / CL_PANEL) * m->panel_bytes, (int)(row % CL_PANEL),
                     x + i * hidden);
    }
    cl_region all = {.data = x,
                     .rows = mb->n_tokens,
                     .stride = (size_t)hidden,
                     .owner = c->work.token_owner,
                     .width = (int)hidden,
                     .to = -1};
    team_gather(c, t, e, &all, 1);
}

/* m: the moment at which the first layer begins. A layer's event includes the poll at its end. */
static void layers(cl_chip *c, const team *t, const cl_microbatch *mb, float *x, cl_mark m)
{
    int n = mb->n_tokens, tiles = (n + c->work.tile - 1) / c->work.tile;
    int step = ((n + tiles - 1) / tiles + CL_X_TOKENS - 1) / CL_X_TOKENS * CL_X_TOKENS;
    if (step > c->work.tile) step = c->work.tile;
    for (int i = 0; i < c->stage.n_layers; i++) {
        int layer = c->stage.first_layer + i;
        cl_event e = {.microbatch = mb->id, .layer = layer, .parts = mb->n_parts, .peer = -1, .waits_for = -1};
        for (int first = 0; first < n; first += step) {
            float *tile = x + (size_t)first * (size_t)c->spec.hidden;
            e.tokens = n - first < step ? n - first : step;
            attend_layer(c, t, &e, layer, first, e.tokens, tile);
            ffn_layer(c, t, &e, layer, e.tokens, tile);
        }
        e.tokens = n;
        if (t->id) continue;
        c->weight_bytes += e.weight_bytes;
        c->kv_bytes += e.kv_bytes;
        if (c->opt.poll) c->opt.poll(c->opt.poll_ctx);
        m = record(c, m, &e, CL_EV_LAYER, e.weight_bytes, e.kv_bytes, e.experts);
    }
}

typedef struct step_job {
    cl_chip *c;
    const cl_microbatch *mb;
    float *x;
} step_job;

static void step(const team *t, void *ctx)
{
    const step_job *j = ctx;
    cl_chip *c = j->c;
    const cl_microbatch *mb = j->mb;
    cl_event e =
        {.microbatch = mb->id, .layer = -1, .tokens = mb->n_tokens, .parts = mb->n_parts, .peer = -1, .waits_for = -1};
    cl_mark m = mark(c, t, CL_TRACE_LAYER);
    attend_angles(c, t, mb->n_tokens);
    if (c->stage.embed) embed(c, t, &e, mb, j->x);
    else team_wait(t);
    if (c->stage.embed && !t->id) {
        const cl_matrix *table = &slice_get(&c->slice, CL_T_EMBED, -1)->m;
        uint64_t rows = 0;
        for (int i = 0; i < mb->n_tokens; i++) rows += c->work.token_owner[i] == c->group.member;
        uint64_t bytes = rows ? rows * cl_row_bytes(table->format, table->cols) : 0;
        c->weight_bytes += bytes;
        m = record(c, m, &e, CL_EV_EMBED, bytes, 0, 0);
    }
    layers(c, t, mb, j->x, m);
}

void cl_chip_step(cl_chip *c, const cl_microbatch *mb, float *x)
{
    check(c, mb);
    token_ref *ref = c->work.tokens;
    for (int p = 0; p < mb->n_parts; p++)
        for (int i = 0; i < mb->parts[p].n_tokens; i++) *ref++ = (token_ref){mb->parts[p].slot, mb->parts[p].pos + i};
    team_run(c->crew, step, &(step_job){c, mb, x});
}

/* --- head --- */

typedef struct head_group {
    int n;
    const float *x[HEAD_ROWS];
    int part[HEAD_ROWS], token[HEAD_ROWS];
} head_group;

static cl_role head_role(const cl_chip *c) { return c->spec.tied ? CL_T_EMBED : CL_T_HEAD; }

typedef struct head_job {
    cl_chip *c;
    const cl_microbatch *mb;
    const head_group *g;
    const cl_matrix *head;
    float *logits;
    bool whole_rows;
} head_job;

/* Final norm and output of a group's rows. */
static void head_rows(const team *t, void *ctx)
{
    const head_job *j = ctx;
    cl_chip *c = j->c;
    const work *w = &c->work;
    const float *norm = slice_get(&c->slice, CL_T_FINAL_NORM, -1)->vec;
    const int n = j->g->n;
    int64_t a, b;
    cl_event e =
        {.microbatch = j->mb->id, .layer = -1, .tokens = n, .parts = j->mb->n_parts, .peer = -1, .waits_for = -1};
    cl_mark m = mark(c, t, CL_TRACE_LAYER);
    cl_acts in = phase_normed_acts(c, w->norm, w->hidden, n, c->spec.hidden, &j->head, 1);
    team_share(t, n, &a, &b);
    for (int64_t i = a; i < b; i++)
        c->k->rmsnorm(j->g->x[i], norm, c->spec.hidden, (float)c->spec.norm_eps, w->norm + (size_t)i * w->hidden);
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

/* The group's rows, then the reader's row for each; the group is empty again. */
static void finish_group(cl_chip *c, const cl_microbatch *mb, head_group *g, const cl_head_reader *reader)
{
    work *w = &c->work;
    const cl_matrix *head = &slice_get(&c->slice, head_role(c), -1)->m;
    const int member = c->group.member, first = reader->whole_rows ? 0 : c->cut_vocab[member];
    const int end = reader->whole_rows ? c->spec.vocab : c->cut_vocab[member + 1];
    float *logits = w->logits + (size_t)w->logits_turn * (size_t)w->head_rows * w->vocab;
    w->logits_turn = (w->logits_turn + 1) % logits_turns(c->group.members);
    team_run(c->crew, head_rows, &(head_job){c, mb, g, head, logits, reader->whole_rows});
    c->weight_bytes += slice_expert_bytes(head);
    for (int i = 0; i < g->n; i++) {
        const int part = g->part[i];
        float *numbers = w->merge +
                         ((size_t)part * (size_t)c->group.members + (size_t)member) * (size_t)reader->numbers;
        const float *row = logits + (size_t)i * w->vocab + first;
        if (!reader->whole_rows) reader->row(reader->ctx, part, g->token[i], row, first, end - first, numbers);
        else if (member == 0) reader->row(reader->ctx, part, g->token[i], row, 0, end, NULL);
    }
    g->n = 0;
}

/* What the chips passed on for each part goes to the first of them. */
static void merge(cl_chip *c, const cl_microbatch *mb, const cl_head_reader *reader)
{
    const work *w = &c->work;
    const int members = c->group.members;
    const size_t stride = (size_t)members * (size_t)reader->numbers;
    cl_event e =
        {.microbatch = mb->id, .layer = -1, .tokens = mb->n_tokens, .parts = mb->n_parts, .peer = -1, .waits_for = -1};
    barrier nobody = {0};
    const team alone = {0, 1, &nobody};
    cl_mark m = mark(c, &alone, CL_TRACE_STAGE);
    for (int i = 0; i <= members; i++) w->merge_cut[i] = i * reader->numbers;
    cl_region all = columns(w->merge, mb->n_parts, stride, w->merge_cut);
    all.to = 0;
    team_gather(c, &alone, &e, &all, 1);
    for (int p = 0; c->group.member == 0 && p < mb->n_parts; p++)
        if (mb->parts[p].flags & CL_PART_SAMPLE) reader->merged(reader->ctx, p, w->merge + (size_t)p * stride);
    record(c, m, &e, CL_EV_SAMPLE, 0, 0, 0);
}

void cl_chip_head(cl_chip *c, const cl_microbatch *mb, const float *x, const cl_head_reader *reader)
{
    head_group g = {.n = 0};
    bool samples = false;
    if (reader->numbers < 0 || reader->numbers > CL_HEAD_NUMBERS)
        CL_BUG("%d numbers for a candidate list", reader->numbers);
    for (int p = 0; p < mb->n_parts; p++) {
        const cl_seq_part *s = &mb->parts[p];
        int from = s->flags & CL_PART_ROWS ? 0 : s->flags & CL_PART_SAMPLE ? s->n_tokens - 1 : s->n_tokens;
        samples |= s->flags & CL_PART_SAMPLE;
        for (int i = from; i < s->n_tokens; i++) {
            g.x[g.n] = x + (size_t)i * (size_t)c->spec.hidden;
            g.part[g.n] = p;
            g.token[g.n] = i;
            if (++g.n == c->work.head_rows) finish_group(c, mb, &g, reader);
        }
        x += (size_t)s->n_tokens * (size_t)c->spec.hidden;
    }
    if (g.n) finish_group(c, mb, &g, reader);
    if (samples && !reader->whole_rows) merge(c, mb, reader);
}
