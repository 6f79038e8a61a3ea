/* exchanges.c: what the chips of a stage exchange at the end of a phase: bytes, and messages where no chips share
 * memory (group.h says how they go). */
#include <math.h>

#include "chipline/group.h"
#include "walk.h"

static uint64_t float_bytes(double numbers) { return (uint64_t)llround(4 * numbers); }

/* --- who makes what --- */

/* Numbers per token, split over the chips by rows and by query heads. */
typedef struct made {
    struct {
        int64_t n;
        double times;
    } rows[2];
    const cl_attention *heads; /* NULL: none */
    double per_head, per_kv_head;
    double per_chip;
} made;

/* Kv heads whose keys count as made by the chips before this one: of one that several hold, by the first of them. */
static int keys_before(const walk *w, const cl_attention *a, int member)
{
    if (!member) return 0;
    cl_heads last = cl_split_heads(a, w->members, member - 1);
    return last.kv0 + last.kv;
}

/* What the chips before this one make together. */
static double before(const walk *w, const made *m, int member)
{
    const bool all = member == w->members;
    double sum = m->per_chip * member;
    for (int i = 0; i < 2; i++) {
        const int64_t n = m->rows[i].n;
        if (n) sum += m->rows[i].times * (double)(all ? n : cl_split_rows(n, w->members, member).first);
    }
    if (!m->heads) return sum;
    const cl_attention *a = m->heads;
    sum += m->per_head * (all ? a->heads : cl_split_heads(a, w->members, member).q0);
    return sum + m->per_kv_head * (all ? a->kv_heads : keys_before(w, a, member));
}

/* What `n` chips make from one on; behind the last comes the first. */
static double made_by(const walk *w, const made *m, int first, int n)
{
    first %= w->members;
    const int end = first + n;
    if (end <= w->members) return before(w, m, end) - before(w, m, first);
    return before(w, m, w->members) - before(w, m, first) + before(w, m, end - w->members);
}

static double own_of(const walk *w, const made *m) { return made_by(w, m, w->c->member, 1); }
static made rows_of(int64_t n, double times) { return (made){.rows = {{n, times}}}; }

/* --- how it goes --- */

/* Chips of which a round passes something on. */
static int round_blocks(const walk *w, int step) { return step < w->members - step ? step : w->members - step; }

/* In rounds: all get all. */
static cl_exchange all_gather(const walk *w, const made *m)
{
    cl_exchange x = {.kind = CL_EXCHANGE_ALL};
    const double all = before(w, m, w->members);
    double sent = 0;
    for (int step = 1; step < w->members; step *= 2) {
        const int blocks = round_blocks(w, step);
        const double out = made_by(w, m, w->c->member, blocks);
        sent += out;
        x.sent += out > 0;
        x.got += made_by(w, m, w->c->member + step, blocks) > 0;
    }
    x.got_bytes = float_bytes(w->tokens * (all - own_of(w, m)));
    x.sent_bytes = float_bytes(w->tokens * sent);
    return x;
}

static cl_exchange rows_gather(const walk *w, int64_t n)
{
    const made m = rows_of(n, 1);
    return all_gather(w, &m);
}

/* Up the tree to the first chip; what others pass on it is not theirs and is only sent. */
static cl_exchange to_first(const walk *w, const made *m, double tokens)
{
    cl_exchange x = {.kind = CL_EXCHANGE_ONE};
    const int me = w->c->member;
    int step = 1;
    for (; step < w->members && !(me & step); step *= 2)
        x.got += me + step < w->members && before(w, m, me + step + 1) > before(w, m, me + step);
    const int end = me + step < w->members ? me + step : w->members;
    const double subtree = before(w, m, end) - before(w, m, me);
    if (!me) x.got_bytes = float_bytes(tokens * (subtree - own_of(w, m)));
    if (me) x.sent_bytes = float_bytes(tokens * subtree), x.sent = subtree > 0;
    return x;
}

cl_exchange exchange_rows_to_first(const walk *w, int64_t n, double tokens)
{
    const made m = rows_of(n, 1);
    return to_first(w, &m, tokens);
}

cl_exchange exchange_numbers_to_first(const walk *w, double numbers)
{
    const made m = {.per_chip = numbers};
    return to_first(w, &m, 1);
}

/* --- the phases --- */

void exchange_attention(const walk *w, const cl_attention *a, cl_phase p[CL_PHASES])
{
    const bool latent = a->kind == CL_ATTN_LATENT;
    if (a->qk_norm == CL_QK_NORM_FULL) {
        const made norms = {.heads = a, .per_head = a->head_dim, .per_kv_head = a->head_dim};
        p[CL_PHASE_PROJECT].exchange = all_gather(w, &norms);
    }
    if (latent) {
        const made low = {.rows = {{a->q_rank, 1}, {(int64_t)a->kv_rank + a->rope_dim, 1}}};
        p[CL_PHASE_PROJECT].exchange = all_gather(w, &low);
    }
    const made results = {.heads = a, .per_head = cl_attention_v_dim(a)};
    p[latent ? CL_PHASE_VALUE : CL_PHASE_ATTEND].exchange = all_gather(w, &results);
    p[CL_PHASE_ATTN_OUT].exchange = rows_gather(w, w->spec->hidden);
}

/* The odds that one of so many choices falls on a share of all. */
static double odds(double share, double choices) { return 1 - pow(1 - (share < 1 ? share : 1), choices); }

/* Whole experts' results: each chip gets its own columns of what the others computed. No chip is without an expert
 * where there are enough, and choices are independent. */
static cl_exchange results(const walk *w, int layer)
{
    const cl_ffn *f = &w->spec->layers[layer].ffn;
    const int n = w->members, makers = f->experts < n ? f->experts : n, me = w->c->member;
    const double hidden = w->spec->hidden, columns = (double)walk_rows(w, w->spec->hidden).n;
    const double rows = w->tokens * f->top_k, takes = columns > 0;
    cl_exchange x = {.kind = CL_EXCHANGE_OWNER,
                     .got_bytes = float_bytes((rows - w->rows) * columns),
                     .sent_bytes = float_bytes(w->rows * (hidden - columns))};
    if (!cl_exchange_in_rounds(n, float_bytes(rows * hidden))) {
        int takers = 0;
        for (int m = 0; m < n; m++) takers += cl_split_rows(w->spec->hidden, n, m).n > 0;
        const int others = makers - (me < makers);
        const double has_some = w->s->routed ? w->rows > 0 : odds(1.0 / makers, rows);
        if (others) x.got = takes * others * odds(1.0 / others, rows - w->rows);
        if (me < makers) x.sent = (takers - takes) * has_some;
        return x;
    }
    /* a number goes as often as its way has bits, half of the rounds; in round k it has come from up to 2^k chips */
    x.sent_bytes = float_bytes(rows * hidden / n * (n - 1) / n * cl_exchange_rounds(n) / 2);
    for (int step = 1; step < n; step *= 2) {
        const double round = odds((double)step / n, rows);
        x.got += round;
        x.sent += round;
    }
    return x;
}

void exchange_ffn(const walk *w, int layer, cl_phase p[CL_PHASES])
{
    const cl_ffn *f = &w->spec->layers[layer].ffn;
    cl_exchange whole = rows_gather(w, w->spec->hidden);
    if (f->kind == CL_FFN_MOE && w->c->stage->split_routers) p[CL_PHASE_ROUTE].exchange = rows_gather(w, f->experts);
    if (f->kind == CL_FFN_MOE && w->c->experts) {
        if (f->shared_width) p[CL_PHASE_GATE_UP].exchange = rows_gather(w, f->shared_width);
        p[CL_PHASE_DOWN].exchange = results(w, layer);
        p[CL_PHASE_COMBINE].exchange = whole;
        return;
    }
    const made wide = {.rows = {{f->width, f->kind == CL_FFN_MOE ? f->top_k : 1}, {f->shared_width, 1}}};
    p[CL_PHASE_GATE_UP].exchange = all_gather(w, &wide);
    p[CL_PHASE_DOWN].exchange = whole;
}

/* Each row from the chip that holds it: ids are alike, so a chip has of each token its part of the table's rows. */
cl_exchange exchange_embedded(const walk *w)
{
    const made table = rows_of(w->spec->vocab, 1);
    const double vocab = w->spec->vocab, all = w->tokens * w->spec->hidden;
    cl_exchange x = {.kind = CL_EXCHANGE_OWNER, .got_bytes = float_bytes(all * (1 - own_of(w, &table) / vocab))};
    double sent = 0;
    for (int step = 1; step < w->members; step *= 2) {
        const int blocks = round_blocks(w, step);
        const double out = made_by(w, &table, w->c->member, blocks) / vocab;
        sent += out;
        x.sent += odds(out, w->tokens);
        x.got += odds(made_by(w, &table, w->c->member + step, blocks) / vocab, w->tokens);
    }
    x.sent_bytes = float_bytes(all * sent);
    return x;
}
