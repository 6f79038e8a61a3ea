/* sampling.c: from a micro-batch's last activations to ids: which rows of logits are needed, what is drawn from them,
 * and which guesses hold.
 *
 * In a stage of several chips the first one draws. It needs whole rows only where somebody wants to see them, or where
 * an option looks at all of a vocabulary; else each chip passes its best candidates on. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "head.h"
#include "sample.h"

/* What the last stage knows of the sequence in a slot. Ids are kept by position, in a ring that is long enough for the
 * repeat penalty's window after going back by a chunk. */
typedef struct slot_state {
    int32_t *ids;         /* [ring]: the id at position p is ids[p % ring] */
    int64_t begin, end;   /* positions whose ids are here, or were until the ring went round */
    int64_t furthest;     /* the end that it has been at most */
    int64_t good;         /* first chip: the sequence is certain up to here, */
    int32_t next;         /* and this id was drawn for position `good`; -1: none yet */
    XXH3_state_t *digest; /* first chip: of the rows up to `good` */
} slot_state;

/* A token whose logits give a sample. */
struct output {
    int part, token;
};

struct sampling {
    cl_sampler *sampler;
    int allowed;       /* ids below it may be drawn */
    int64_t ring;      /* positions */
    int n_slots;       /* limits.slots */
    slot_state *slots; /* [n_slots] */
    int32_t *ring_ids;
    /* of the micro-batch being worked on */
    const cl_microbatch *mb;
    const int32_t **ids; /* [slots] each part's */
    int candidates;      /* that each chip passes on for every output; 0: rows are read whole */
    int n_outputs;
    struct output *outputs; /* [chunk] */
    cl_candidate *merged;   /* [members * CL_CANDIDATES] */
};

enum { DIGEST_BYTES = 640 }; /* an XXH3_state_t and its alignment */

static int64_t ring_of(const cl_limits *l) { return CL_REPEAT_WINDOW + l->chunk; }

size_t sampling_bytes(const chip_fixed *c)
{
    const cl_limits *l = &c->opt.limits;
    size_t slots = (size_t)l->slots, chunk = (size_t)l->chunk, members = (size_t)c->group.members;
    if (!c->stage.head) return 0;
    return sizeof(sampling) + cl_sampler_bytes(l->vocab) + chunk * sizeof(struct output) +
           members * CL_CANDIDATES * sizeof(cl_candidate) +
           slots * (sizeof(slot_state) + (size_t)ring_of(l) * sizeof(int32_t) + sizeof(int32_t *) + DIGEST_BYTES);
}

cl_code sampling_create(sampling **out, const chip_fixed *c, cl_err *err)
{
    const cl_limits *l = &c->opt.limits;
    if (!c->stage.head) return CL_OK;
    sampling *s = *out = cl_calloc(1, sizeof *s, "sampling", err);
    if (!s) return CL_E_FIT;
    size_t slots = (size_t)l->slots, chunk = (size_t)l->chunk;
    s->n_slots = l->slots;
    s->ring = ring_of(l);
    s->allowed = c->opt.allowed_vocab > 0 && c->opt.allowed_vocab < l->vocab ? c->opt.allowed_vocab : l->vocab;
    if (cl_sampler_create(&s->sampler, l->vocab, err) ||
        !(s->slots = cl_calloc(slots, sizeof *s->slots, "sampling", err)) ||
        !(s->ring_ids = cl_malloc(slots * (size_t)s->ring, sizeof *s->ring_ids, "sampling", err)) ||
        !(s->ids = cl_malloc(slots, sizeof *s->ids, "sampling", err)) ||
        !(s->outputs = cl_malloc(chunk, sizeof *s->outputs, "sampling", err)) ||
        !(s->merged = cl_malloc((size_t)c->group.members * CL_CANDIDATES, sizeof *s->merged, "sampling", err)))
        return err->code;
    memset(s->ring_ids, 0, slots * (size_t)s->ring * sizeof *s->ring_ids); /* its pages come into being now */
    for (size_t i = 0; i < slots; i++) {
        s->slots[i] = (slot_state){.ids = s->ring_ids + i * (size_t)s->ring, .next = -1, .digest = XXH3_createState()};
        if (!s->slots[i].digest) return cl_fail(err, CL_E_FIT, "sampling: out of memory");
        XXH3_64bits_reset(s->slots[i].digest);
    }
    return CL_OK;
}

void sampling_free(sampling *s)
{
    if (!s) return;
    for (int i = 0; s->slots && i < s->n_slots; i++) XXH3_freeState(s->slots[i].digest);
    cl_sampler_free(s->sampler);
    free(s->slots);
    free(s->ring_ids);
    free(s->ids);
    free(s->outputs);
    free(s->merged);
    free(s);
}

/* --- what a part tells --- */

static void append(const sampling *s, slot_state *h, const int32_t *ids, int n)
{
    for (int i = 0; i < n; i++) h->ids[h->end++ % s->ring] = ids[i];
    h->furthest = h->end > h->furthest ? h->end : h->furthest;
}

/* Keeps the ids of a part; false: it is void, because its first token is a guess that does not hold. */
static bool follow(const sampling *s, const cl_part *p, const int32_t *ids, const int32_t *before)
{
    slot_state *h = &s->slots[p->slot];
    if (p->flags & CL_PART_BEGIN) {
        h->begin = h->end = h->furthest = p->pos - p->n_before;
        append(s, h, before, p->n_before);
        h->good = p->pos;
        h->next = -1;
        XXH3_64bits_reset(h->digest);
    }
    if (p->pos > h->end || p->pos < h->furthest - (s->ring - CL_REPEAT_WINDOW))
        CL_BUG("slot %d: a part at position %d of %lld", p->slot, p->pos, (long long)h->end);
    h->end = p->pos;
    append(s, h, ids, p->n_tokens);
    if (p->n_guesses == p->n_tokens) return p->pos == h->good && ids[0] == h->next;
    h->good = p->pos; /* its first token is certain */
    return true;
}

/* The last ids up to and including position pos, into list; how many. */
static int window(const sampling *s, const slot_state *h, int64_t pos, int32_t list[CL_REPEAT_WINDOW])
{
    int64_t from = pos + 1 - CL_REPEAT_WINDOW;
    int n = 0;
    for (int64_t i = from > h->begin ? from : h->begin; i <= pos; i++) list[n++] = h->ids[i % s->ring];
    return n;
}

/* --- rows --- */

static int first_output(const cl_part *p) { return p->n_tokens - p->n_outputs; }

/* Rows must be read whole where one is wanted, or where all of a vocabulary counts for a draw. */
static int candidates_needed(const sampling *s, const cl_microbatch *mb)
{
    int most = 0;
    for (int i = 0; i < mb->n_parts; i++) {
        const cl_part *p = &mb->parts[i];
        int n = p->n_outputs ? cl_sample_candidates_needed(&p->sampling, s->allowed) : most;
        if ((p->flags & CL_PART_ROWS) || (p->n_outputs && !n)) return 0;
        most = n > most ? n : most;
    }
    return most;
}

/* Is this token the sequence's? A guess must be what was drawn for its position; what follows a wrong one is void. */
static bool holds(const cl_part *p, const slot_state *h, int token, const int32_t *ids, cl_sampled *out)
{
    if (out->is_void || h->good != (int64_t)p->pos + token) return false;
    return token < p->n_tokens - p->n_guesses || ids[token] == h->next;
}

static void draw(slot_state *h, int32_t id, cl_sampled *of, cl_samples *out)
{
    if (!of->n) of->first = out->n_ids;
    out->ids[out->n_ids++] = id;
    of->n++;
    h->next = id;
}

/* The first chip of the stage, with whole rows, in order of parts and tokens. */
static void take_row(cl_chip *c, int part, int token, const float *logits, cl_samples *out)
{
    sampling *s = c->sampling;
    const chip_fixed *f = &c->fixed;
    const cl_part *p = &s->mb->parts[part];
    cl_sampled *of = &out->parts[part];
    slot_state *h = &s->slots[p->slot];
    if (!holds(p, h, token, s->ids[part], of)) return;
    h->good++;
    h->next = -1;
    if (p->flags & CL_PART_ROWS) {
        XXH3_64bits_update(h->digest, logits, (size_t)f->spec.vocab * sizeof *logits);
        of->digest = XXH3_64bits_digest(h->digest);
        if (f->opt.rows.row) f->opt.rows.row(f->opt.rows.ctx, p->slot, (int64_t)p->pos + token, logits, f->spec.vocab);
    }
    if (token < first_output(p)) return;
    int32_t recent[CL_REPEAT_WINDOW];
    int n = window(s, h, (int64_t)p->pos + token, recent);
    draw(h, cl_sample(s->sampler, logits, s->allowed, &p->sampling, recent, n, (int64_t)p->pos + token + 1), of, out);
}

/* Every chip: its best candidates for one output. */
static void pass_on(cl_chip *c, int output, const head_logits *l, const float *logits)
{
    sampling *s = c->sampling;
    const chip_fixed *f = &c->fixed;
    head_buffers *to = &c->work.head;
    const struct output *o = &s->outputs[output];
    const cl_part *p = &s->mb->parts[o->part];
    int32_t recent[CL_REPEAT_WINDOW];
    cl_candidate best[CL_CANDIDATES];
    int n = window(s, &s->slots[p->slot], (int64_t)p->pos + o->token, recent), k = s->candidates;
    cl_sample_candidates(s->sampler, logits, l->first, l->n_ids, s->allowed, &p->sampling, recent, n, k, best);
    size_t at = ((size_t)output * (size_t)f->group.members + (size_t)f->group.member) * (size_t)k;
    for (int i = 0; i < k; i++) {
        to->candidate_id[at + (size_t)i] = best[i].id;
        to->candidate_logit[at + (size_t)i] = best[i].logit;
    }
}

/* A batch of rows through the head, and on to whoever wants them; the batch is empty again. */
static void finish_batch(cl_chip *c, head_batch *b, cl_samples *out)
{
    sampling *s = c->sampling;
    const chip_fixed *f = &c->fixed;
    const bool whole = !s->candidates;
    const head_logits l = head_run(f, s->mb, b, whole, &c->work.common, &c->work.head);
    c->weight_bytes += head_bytes(f);
    cl_event e = event_of(s->mb, -1, b->n);
    cl_mark m = cl_trace_mark(f->trace, CL_TRACE_STAGE);
    for (int i = 0; i < b->n; i++) {
        const float *row = l.rows + (size_t)i * l.stride;
        if (!whole) pass_on(c, s->n_outputs - b->n + i, &l, row);
        else if (f->group.member == 0) take_row(c, b->part[i], b->token[i], row, out);
    }
    if (!whole || f->group.member == 0) record(f->trace, m, &e, CL_EV_SAMPLE, 0, 0, 0);
    b->n = 0;
}

/* The candidates of all chips go to the first, which draws. */
static void draw_from_candidates(cl_chip *c, cl_samples *out)
{
    sampling *s = c->sampling;
    const chip_fixed *f = &c->fixed;
    head_buffers *from = &c->work.head;
    cl_event e = event_of(s->mb, -1, s->n_outputs);
    cl_mark m = cl_trace_mark(f->trace, CL_TRACE_STAGE);
    const int members = f->group.members, n = members * s->candidates;
    for (int i = 0; i <= members; i++) from->candidate_cut[i] = i * s->candidates;
    cl_region all[] = {columns(from->candidate_id, s->n_outputs, (size_t)n, from->candidate_cut),
                       columns(from->candidate_logit, s->n_outputs, (size_t)n, from->candidate_cut)};
    all[0].to = all[1].to = 0;
    gather_outside(f, &e, all, 2);
    for (int i = 0; f->group.member == 0 && i < s->n_outputs; i++) {
        const struct output *o = &s->outputs[i];
        const cl_part *p = &s->mb->parts[o->part];
        cl_sampled *of = &out->parts[o->part];
        slot_state *h = &s->slots[p->slot];
        if (!holds(p, h, o->token, s->ids[o->part], of)) continue;
        h->good++;
        for (int k = 0; k < n; k++)
            s->merged[k] = (cl_candidate){from->candidate_id[(size_t)i * (size_t)n + (size_t)k],
                                          from->candidate_logit[(size_t)i * (size_t)n + (size_t)k]};
        draw(h, cl_sample_merged(s->sampler, s->merged, n, &p->sampling, (int64_t)p->pos + o->token + 1), of, out);
    }
    record(f->trace, m, &e, CL_EV_SAMPLE, 0, 0, 0);
}

/* The rows that are needed, batch by batch. Tokens in front of the first of them are certain: the sequence moves on
 * over them without a row. */
static void rows(cl_chip *c, const float *x, cl_samples *out)
{
    sampling *s = c->sampling;
    const chip_fixed *f = &c->fixed;
    head_batch b = {.n = 0};
    for (int i = 0; i < s->mb->n_parts; i++) {
        const cl_part *p = &s->mb->parts[i];
        int from = p->flags & CL_PART_ROWS ? 0 : first_output(p);
        slot_state *h = &s->slots[p->slot];
        if (!out->parts[i].is_void) h->good = (int64_t)p->pos + from;
        for (int k = from; k < p->n_tokens; k++) {
            if (s->candidates) s->outputs[s->n_outputs++] = (struct output){i, k};
            b.x[b.n] = x + (size_t)k * (size_t)f->spec.hidden;
            b.part[b.n] = i;
            b.token[b.n] = k;
            if (++b.n == c->work.head.rows) finish_batch(c, &b, out);
        }
        x += (size_t)p->n_tokens * (size_t)f->spec.hidden;
    }
    if (b.n) finish_batch(c, &b, out);
}

void chip_sample(cl_chip *c, const cl_microbatch *mb, const float *x, cl_samples *out)
{
    sampling *s = c->sampling;
    const chip_fixed *f = &c->fixed;
    const int32_t *ids = mb->ids, *before = mb->before;
    s->mb = mb;
    s->n_outputs = out->n_ids = 0;
    out->microbatch = mb->id;
    out->n_parts = mb->n_parts;
    for (int i = 0; i < mb->n_parts; i++) {
        const cl_part *p = &mb->parts[i];
        bool goes_on = follow(s, p, ids, before);
        out->parts[i] = (cl_sampled){.slot = p->slot, .is_void = !goes_on};
        s->ids[i] = ids;
        ids += p->n_tokens;
        if (p->n_before) before += p->n_before;
    }
    s->candidates = f->group.members > 1 ? candidates_needed(s, mb) : 0;
    rows(c, x, out);
    if (s->n_outputs) draw_from_candidates(c, out);
}
