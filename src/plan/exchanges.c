/* exchanges.c: what the chips of a stage exchange at the end of a phase: bytes, and messages where messages carry them.
 */
#include <math.h>

#include "walk.h"

static uint64_t float_bytes(double numbers) { return (uint64_t)llround(4 * numbers); }

/* Chips that have some of n rows, or query heads: the first ones. */
int exchange_makers(const walk *w, int64_t n)
{
    int64_t unit = n <= CL_SPLIT_NARROW && n < (int64_t)CL_SPLIT * w->members ? 1 : CL_SPLIT,
            units = (n + unit - 1) / unit;
    return units < w->members ? (int)units : w->members;
}

static int head_makers(const walk *w, const cl_attention *a)
{
    int heads = a->heads < w->members ? a->heads : w->members;
    if (a->kind == CL_ATTN_LATENT || w->members <= a->kv_heads) return heads;
    return cl_split_heads(a, w->members, a->kv_heads).q ? heads : a->kv_heads;
}

/* Of `all` numbers per token this chip has made `own`; the others' are got, its own go to each of them. */
static cl_exchange all_gather(const walk *w, double all, double own, int makers)
{
    int others = w->members - 1;
    bool maker = w->c->member < makers;
    return (cl_exchange){.kind = CL_EXCHANGE_ALL,
                         .got_bytes = float_bytes(w->tokens * (all - own)),
                         .sent_bytes = float_bytes(w->tokens * own * others),
                         .got = makers - maker,
                         .sent = maker ? others : 0};
}

static cl_exchange rows_gather(const walk *w, int64_t n)
{
    return all_gather(w, (double)n, (double)walk_rows(w, n).n, exchange_makers(w, n));
}

/* To the first chip; bytes are of what each chip has made. */
cl_exchange exchange_to_first(const walk *w, double all, double own, int makers)
{
    bool first = !w->c->member, maker = w->c->member < makers;
    return (cl_exchange){.kind = CL_EXCHANGE_ONE,
                         .got_bytes = first ? float_bytes(all - own) : 0,
                         .sent_bytes = first ? 0 : float_bytes(own),
                         .got = first ? makers - 1 : 0,
                         .sent = !first && maker};
}

/* Kv heads whose keys count as this chip's: of one that several chips hold the first one's. */
static int own_keys(const walk *w, const cl_attention *a)
{
    cl_heads mine = cl_split_heads(a, w->members, w->c->member), before = {0};
    if (w->c->member) before = cl_split_heads(a, w->members, w->c->member - 1);
    return mine.kv0 + mine.kv - (before.kv0 + before.kv);
}

void exchange_attention(const walk *w, const cl_attention *a, cl_phase p[CL_PHASES])
{
    double own = cl_split_heads(a, w->members, w->c->member).q, v = cl_attention_v_dim(a);
    if (a->qk_norm == CL_QK_NORM_FULL)
        p[CL_PHASE_PROJECT].exchange = all_gather(w, (double)(a->heads + a->kv_heads) * a->head_dim,
                                                  (own + own_keys(w, a)) * a->head_dim, head_makers(w, a));
    if (a->kind == CL_ATTN_LATENT) {
        int64_t kv = (int64_t)a->kv_rank + a->rope_dim;
        int low = exchange_makers(w, a->q_rank), makers = exchange_makers(w, kv);
        p[CL_PHASE_PROJECT].exchange = all_gather(w, (double)(a->q_rank + kv),
                                                  (double)(walk_rows(w, a->q_rank).n + walk_rows(w, kv).n),
                                                  low > makers ? low : makers);
    }
    p[a->kind == CL_ATTN_LATENT ? CL_PHASE_VALUE : CL_PHASE_ATTEND].exchange =
        all_gather(w, a->heads * v, own * v, head_makers(w, a));
    p[CL_PHASE_ATTN_OUT].exchange = rows_gather(w, w->spec->hidden);
}

/* Whole experts' results: each chip gets its own columns of what the others computed. No chip is without an expert
 * where there are enough. */
static cl_exchange results(const walk *w, int layer)
{
    const cl_ffn *f = &w->spec->layers[layer].ffn;
    double hidden = w->spec->hidden, columns = (double)walk_rows(w, w->spec->hidden).n;
    int takers = exchange_makers(w, w->spec->hidden), makers = f->experts < w->members ? f->experts : w->members;
    bool maker = w->rows > 0, taker = columns > 0;
    return (cl_exchange){.kind = CL_EXCHANGE_OWNER,
                         .got_bytes = float_bytes((w->tokens * f->top_k - w->rows) * columns),
                         .sent_bytes = float_bytes(w->rows * (hidden - columns)),
                         .got = taker ? makers - maker : 0,
                         .sent = maker ? takers - taker : 0};
}

void exchange_ffn(const walk *w, int layer, cl_phase p[CL_PHASES])
{
    const cl_ffn *f = &w->spec->layers[layer].ffn;
    cl_exchange whole = rows_gather(w, w->spec->hidden);
    if (f->kind == CL_FFN_MOE && w->c->experts) {
        if (f->shared_width) p[CL_PHASE_GATE_UP].exchange = rows_gather(w, f->shared_width);
        p[CL_PHASE_DOWN].exchange = results(w, layer);
        p[CL_PHASE_COMBINE].exchange = whole;
        return;
    }
    double times = f->kind == CL_FFN_MOE ? f->top_k : 1;
    int makers = exchange_makers(w, f->width), shared = exchange_makers(w, f->shared_width);
    p[CL_PHASE_GATE_UP].exchange =
        all_gather(w, times * f->width + f->shared_width,
                   times * (double)walk_rows(w, f->width).n + (double)walk_rows(w, f->shared_width).n,
                   shared > makers ? shared : makers);
    p[CL_PHASE_DOWN].exchange = whole;
}

/* Each row from the chip that holds it. */
cl_exchange exchange_embedded(const walk *w)
{
    double vocab = w->spec->vocab, all = w->tokens * w->spec->hidden,
           own = (double)walk_rows(w, w->spec->vocab).n / vocab;
    int others = w->members - 1;
    cl_exchange x = {.kind = CL_EXCHANGE_OWNER,
                     .got_bytes = float_bytes(all * (1 - own)),
                     .sent_bytes = float_bytes(all * own * others),
                     .sent = others * (1 - pow(1 - own, w->tokens))};
    int64_t before = -1;
    double odds = 0; /* that a chip has one of the rows; most have equal parts of the table */
    for (int k = 0; k < w->members; k++) {
        int64_t rows = cl_split_rows(w->spec->vocab, w->members, k).n;
        if (rows != before) odds = 1 - pow(1 - (double)rows / vocab, w->tokens);
        before = rows;
        if (k != w->c->member) x.got += odds;
    }
    return x;
}
