/* step.c: one micro-batch through this chip's layers. */
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
        int least = s->n_guesses + 1 < s->n_tokens ? s->n_guesses + 1 : s->n_tokens;
        if (s->n_guesses < 0 || s->n_guesses > s->n_tokens || s->n_outputs > s->n_tokens ||
            s->n_outputs < (s->n_guesses ? least : 0))
            CL_BUG("part %d: %d tokens, %d guesses, %d outputs", p, s->n_tokens, s->n_guesses, s->n_outputs);
        if (s->flags & CL_PART_BEGIN && s->pos && (s->fork < 0 || s->fork >= l->slots))
            CL_BUG("part %d: begins at %d, with what slot %d of %d has", p, s->pos, s->fork, l->slots);
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

/* The cache takes the parts' positions in, before any layer writes there. First, in order of the parts, what slots
 * held from a part's position on is forgotten, or taken over from others; only then are blocks taken. */
static void make_room(cl_chip *c, const cl_microbatch *mb)
{
    for (const cl_seq_part *p = mb->parts; p < mb->parts + mb->n_parts; p++) {
        if (!(p->flags & CL_PART_BEGIN)) kv_back(&c->kv, p->slot, p->pos);
        else if (p->pos) kv_fork(&c->kv, p->slot, p->fork, p->pos);
        else kv_begin(&c->kv, p->slot);
    }
    for (const cl_seq_part *p = mb->parts; p < mb->parts + mb->n_parts; p++)
        kv_extend(&c->kv, p->slot, p->pos, p->n_tokens);
}

void chip_step(cl_chip *c, const cl_microbatch *mb, float *x)
{
    check(c, mb);
    make_room(c, mb);
    token_ref *ref = c->work.tokens;
    for (int p = 0; p < mb->n_parts; p++)
        for (int i = 0; i < mb->parts[p].n_tokens; i++) *ref++ = (token_ref){mb->parts[p].slot, mb->parts[p].pos + i};
    team_run(c->crew, step, &(step_job){c, mb, x});
}
