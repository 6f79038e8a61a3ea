/* step.c: one micro-batch through this chip's layers. */
#include "attend.h"
#include "ffn.h"

/* What the decoder relies on; run/ has checked every number that comes from outside. */
static void check(const chip_fixed *c, const cl_microbatch *mb)
{
    const cl_limits *l = &c->opt.limits;
    int n = 0;
    for (int p = 0; p < mb->n_parts; p++) {
        const cl_part *s = &mb->parts[p];
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
static void embed(const chip_fixed *c, const crew_member *m, cl_event *e, const cl_microbatch *mb, int32_t *owner,
                  float *x)
{
    const slice_tensor *table = slice_get(&c->slice, CL_T_EMBED, -1);
    const cl_matrix *w = &table->m;
    const int64_t hidden = c->spec.hidden;
    int64_t a, b;
    crew_range(m, mb->n_tokens, &a, &b);
    for (int64_t i = a; i < b; i++) {
        owner[i] = 0;
        while (mb->ids[i] >= c->cuts.vocab[owner[i] + 1]) owner[i]++;
        if (owner[i] != c->group.member) continue;
        int64_t row = mb->ids[i] - table->row0;
        c->k->unpack(w->format, hidden, w->data + (size_t)(row / CL_PANEL) * w->panel_bytes, (int)(row % CL_PANEL),
                     x + i * hidden);
    }
    cl_region all =
        {.data = x, .rows = mb->n_tokens, .stride = (size_t)hidden, .owner = owner, .width = (int)hidden, .to = -1};
    gather(c, m, e, &all, 1);
}

/* Bytes that this chip reads for the micro-batch's embedding rows. */
static uint64_t embed_bytes(const chip_fixed *c, const cl_microbatch *mb, const int32_t *owner)
{
    const cl_matrix *table = &slice_get(&c->slice, CL_T_EMBED, -1)->m;
    uint64_t rows = 0;
    for (int i = 0; i < mb->n_tokens; i++) rows += owner[i] == c->group.member;
    return rows ? rows * cl_row_bytes(table->format, table->cols) : 0;
}

typedef struct step_job {
    cl_chip *chip;
    const cl_microbatch *mb;
    float *x;
} step_job;

/* Tokens of a tile: equal ones, in whole eights. */
static int tile_of(int n, int most)
{
    int tiles = (n + most - 1) / most, step = ((n + tiles - 1) / tiles + CL_X_TOKENS - 1) / CL_X_TOKENS * CL_X_TOKENS;
    return step < most ? step : most;
}

/* One layer, tile by tile; e: the layer's event. */
static void layer(const step_job *j, const crew_member *m, int i, cl_event *e)
{
    const chip_fixed *c = &j->chip->fixed;
    work *w = &j->chip->work;
    const int n = j->mb->n_tokens, step = tile_of(n, w->tile);
    pass p = {.c = c,
              .m = m,
              .tokens = &w->tokens,
              .layer = c->stage.first_layer + i,
              .spec = &c->spec.layers[c->stage.first_layer + i],
              .cut = &c->cuts.layers[i],
              .e = e};
    for (int first = 0; first < n; first += step) {
        float *x = j->x + (size_t)first * (size_t)c->spec.hidden;
        p.first = first;
        p.n = e->tokens = n - first < step ? n - first : step;
        attend_layer(&p, &j->chip->kv, &w->common, &w->attention, x);
        ffn_layer(&p, &w->common, &w->ffn, &w->router, &w->rows, j->chip->chosen_of[i], x);
    }
    e->tokens = n;
}

/* begun: the moment at which the first layer begins. A layer's event includes the poll at its end. */
static void layers(const step_job *j, const crew_member *m, cl_mark begun)
{
    cl_chip *chip = j->chip;
    const chip_fixed *c = &chip->fixed;
    for (int i = 0; i < c->stage.n_layers; i++) {
        cl_event e = event_of(j->mb, c->stage.first_layer + i, j->mb->n_tokens);
        layer(j, m, i, &e);
        if (m->id) continue;
        chip->weight_bytes += e.weight_bytes;
        chip->kv_bytes += e.kv_bytes;
        if (c->opt.poll) c->opt.poll(c->opt.poll_ctx);
        begun = record(c->trace, begun, &e, CL_EV_LAYER, e.weight_bytes, e.kv_bytes, e.experts);
    }
}

static void step(const crew_member *m, void *ctx)
{
    const step_job *j = ctx;
    const chip_fixed *c = &j->chip->fixed;
    token_buffers *tokens = &j->chip->work.tokens;
    cl_event e = event_of(j->mb, -1, j->mb->n_tokens);
    cl_mark begun = mark(c->trace, m, CL_TRACE_LAYER);
    attend_angles(c, m, tokens, j->mb->n_tokens);
    if (c->stage.embed) embed(c, m, &e, j->mb, tokens->owner, j->x);
    else crew_wait(m);
    if (c->stage.embed && !m->id) {
        uint64_t bytes = embed_bytes(c, j->mb, tokens->owner);
        j->chip->weight_bytes += bytes;
        begun = record(c->trace, begun, &e, CL_EV_EMBED, bytes, 0, 0);
    }
    layers(j, m, begun);
}

/* The cache takes the parts' positions in, before any layer writes there. First, in order of the parts, what slots
 * held from a part's position on is forgotten, or taken over from others; only then are blocks taken. */
static void make_room(cl_chip *c, const cl_microbatch *mb)
{
    for (const cl_part *p = mb->parts; p < mb->parts + mb->n_parts; p++) {
        if (!(p->flags & CL_PART_BEGIN)) kv_back(&c->kv, p->slot, p->pos);
        else if (p->pos) kv_fork(&c->kv, p->slot, p->fork, p->pos);
        else kv_begin(&c->kv, p->slot);
    }
    for (const cl_part *p = mb->parts; p < mb->parts + mb->n_parts; p++)
        kv_extend(&c->kv, p->slot, p->pos, p->n_tokens);
}

void chip_step(cl_chip *c, const cl_microbatch *mb, float *x)
{
    check(&c->fixed, mb);
    make_room(c, mb);
    token_ref *ref = c->work.tokens.ref;
    for (int p = 0; p < mb->n_parts; p++)
        for (int i = 0; i < mb->parts[p].n_tokens; i++) *ref++ = (token_ref){mb->parts[p].slot, mb->parts[p].pos + i};
    crew_run(c->fixed.opt.crew, step, &(step_job){c, mb, x});
}
