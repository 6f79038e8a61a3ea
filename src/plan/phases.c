/* phases.c: the phases that one chip goes through with a micro-batch: bytes, operations, exchanges. */
#include <math.h>
#include <string.h>

#include "bytes.h"
#include "experts.h"
#include "walk.h"

enum { HEAD_ROWS = 16 };

const char *cl_phase_name(cl_phase_kind k)
{
    static const char *const names[CL_PHASES] = {"embed", "project", "query", "attend",  "value", "attn_out",
                                                 "route", "gate_up", "down",  "combine", "head",  "sample"};
    if ((unsigned)k >= CL_PHASES) CL_BUG("phase %d does not exist", (int)k);
    return names[k];
}

/* --- tokens --- */

static double count_tokens(const cl_cost_step *s)
{
    double n = 0;
    for (int i = 0; i < s->n_parts; i++) n += s->parts[i].n * s->parts[i].tokens;
    return n;
}

/* Positions that the cache is asked for. */
typedef struct looks {
    double traffic, distinct;
} looks;

/* Of n parts of `tokens` tokens from pos on. */
static void add_looks(looks *l, const cl_attention *a, double n, int64_t tokens, int64_t pos)
{
    double sum = 0;
    if (tokens <= 0) return;
    l->distinct += n * (double)(pos + tokens - cl_attention_first(a, pos));
    while (tokens > 0) { /* runs in which each token sees one position more than the one before, or as many */
        int64_t seen = pos + 1 - cl_attention_first(a, pos), run = tokens;
        if (a->window && (a->chunked || seen < a->window)) run = a->window - seen + 1;
        run = run < tokens ? run : tokens;
        double first = (double)seen, r = (double)run;
        sum += a->window && !a->chunked && seen == a->window ? r * first : r * first + r * (r - 1) / 2;
        tokens -= run;
        pos += run;
    }
    l->traffic += n * sum;
}

/* Of the tokens at hand. A tile may begin and end within a part. */
static looks looks_of(const walk *w, const cl_attention *a)
{
    looks l = {0};
    int64_t first = 0;
    for (int i = 0; i < w->s->n_parts; i++) {
        const cl_cost_part *p = &w->s->parts[i];
        if (w->all) {
            add_looks(&l, a, p->n, p->tokens, p->pos);
            continue;
        }
        int64_t count = llround(p->n) * p->tokens, lo = w->from - first, hi = w->to - first;
        first += count;
        lo = lo > 0 ? lo : 0;
        hi = hi < count ? hi : count;
        while (lo < hi) {
            int64_t at = lo % p->tokens, end = lo - at + p->tokens < hi ? lo - at + p->tokens : hi;
            add_looks(&l, a, 1, end - lo, p->pos + at);
            lo = end;
        }
    }
    return l;
}

/* --- weights --- */

/* The phase of a layer that a tensor is read in. */
static cl_phase_kind phase_of(const cl_layer *l, cl_role r)
{
    bool full = l->attn.qk_norm == CL_QK_NORM_FULL, low = l->attn.q_rank > 0;
    switch (r) {
    case CL_T_Q: return low ? CL_PHASE_QUERY : CL_PHASE_PROJECT;
    case CL_T_Q_NORM:
    case CL_T_K_NORM: return full ? CL_PHASE_QUERY : CL_PHASE_PROJECT;
    case CL_T_Q_A_NORM:
    case CL_T_KV_A_NORM:
    case CL_T_K_B: return CL_PHASE_QUERY;
    case CL_T_SINKS: return CL_PHASE_ATTEND;
    case CL_T_V_B: return CL_PHASE_VALUE;
    case CL_T_O:
    case CL_T_O_BIAS: return CL_PHASE_ATTN_OUT;
    case CL_T_FFN_NORM: return l->ffn.kind == CL_FFN_MOE ? CL_PHASE_ROUTE : CL_PHASE_GATE_UP;
    case CL_T_ROUTER:
    case CL_T_ROUTER_BIAS:
    case CL_T_SELECT_BIAS:
    case CL_T_SHARED_GATE:
    case CL_T_SHARED_UP: return CL_PHASE_ROUTE;
    case CL_T_GATE:
    case CL_T_UP:
    case CL_T_GATE_BIAS:
    case CL_T_UP_BIAS:
    case CL_T_EXPERT_GATE:
    case CL_T_EXPERT_UP:
    case CL_T_EXPERT_GATE_BIAS:
    case CL_T_EXPERT_UP_BIAS: return CL_PHASE_GATE_UP;
    case CL_T_DOWN:
    case CL_T_DOWN_BIAS:
    case CL_T_EXPERT_DOWN:
    case CL_T_EXPERT_DOWN_BIAS:
    case CL_T_SHARED_DOWN: return CL_PHASE_DOWN;
    default: return CL_PHASE_PROJECT;
    }
}

/* A tensor of this chip, met by so many tokens: the whole of a matrix is read, or as many of a stack as are needed. */
static void read_tensor(const walk *w, const cl_tensor *t, double tokens, cl_phase *p)
{
    cl_range rows = cl_tensor_rows_of(w->spec, t, w->c->stage, w->c->experts != NULL, w->c->member);
    double matrices = 1;
    if (cl_role_is_expert(t->role)) {
        matrices = w->experts;
        tokens = w->rows;
    } else if (t->experts) {
        matrices = cl_split_heads(&w->spec->layers[t->layer].attn, w->members, w->c->member).q;
        tokens *= matrices;
    }
    uint64_t bytes = bytes_times(matrices, bytes_of_rows(t, rows.first, rows.n));
    p->weight_bytes = bytes_sum(p->weight_bytes, bytes);
    if (cl_role_is_vector(t->role)) p->vector_bytes = bytes_sum(p->vector_bytes, bytes);
    else if (cl_format_integer(t->format) && !w->c->float_activations)
        p->ops_int8 += 2 * tokens * (double)rows.n * (double)t->cols;
    else p->ops_f32 += 2 * tokens * (double)rows.n * (double)t->cols;
}

/* Canonical order: the embedding, the layers, what is after them. */
static int layer_of(const cl_model *m, int i)
{
    const cl_tensor *t = &m->tensors[i];
    return t->layer >= 0 ? t->layer : t->role == CL_T_EMBED ? -1 : m->spec.n_layers;
}

static int first_tensor(const cl_model *m, int layer)
{
    int low = 0, high = m->n_tensors;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (layer_of(m, mid) < layer) low = mid + 1;
        else high = mid;
    }
    return low;
}

/* --- the walk --- */

static void ask_cache(const walk *w, const cl_attention *a, cl_phase *p)
{
    cl_heads own = cl_split_heads(a, w->members, w->c->member);
    bool latent = a->kind == CL_ATTN_LATENT;
    looks l = looks_of(w, a);
    uint64_t row = (uint64_t)own.kv * cl_kv_row_bytes(a, w->c->kv);
    p->kv_bytes = bytes_times(l.traffic, row);
    p->kv_distinct_bytes = bytes_times(l.distinct, row);
    /* scores, and values: of a latent vector its first kv_rank numbers */
    double numbers = latent ? 2 * a->kv_rank + a->rope_dim : 2 * a->head_dim;
    p->ops_attention = 2 * l.traffic * own.q * numbers;
}

static void choose_experts(walk *w, int layer)
{
    const cl_ffn *f = &w->spec->layers[layer].ffn;
    w->experts = w->rows = 0;
    if (f->kind != CL_FFN_MOE) return;
    if (w->s->routed) {
        w->experts = w->s->routed[layer].experts;
        w->rows = w->s->routed[layer].rows;
    } else if (w->c->experts) {
        const cl_expert_map *map = &w->c->experts[layer];
        w->experts = expert_reads(map, w->c->routing, layer, f->top_k, w->c->member, w->tokens);
        w->rows = w->tokens * expert_reads(map, w->c->routing, layer, f->top_k, w->c->member, 1);
    } else { /* of E experts n tokens choose E (1 - (1 - k/E)^n) different ones */
        double none = pow(1 - (double)f->top_k / f->experts, w->tokens);
        w->experts = w->tokens <= 1 ? f->top_k : f->experts * (1 - none);
        w->rows = w->tokens * f->top_k;
    }
}

static void emit(const walk *w, cl_phase *p)
{
    if (w->c->shared_memory) p->exchange.sent_bytes = 0, p->exchange.got = p->exchange.sent = 0;
    w->phase(w->ctx, p);
}

static void walk_layer(walk *w, int layer, int first, int end)
{
    const cl_layer *l = &w->spec->layers[layer];
    bool latent = l->attn.kind == CL_ATTN_LATENT, moe = l->ffn.kind == CL_FFN_MOE;
    const bool happens[CL_PHASES] = {[CL_PHASE_PROJECT] = true,
                                     [CL_PHASE_QUERY] = latent || l->attn.qk_norm == CL_QK_NORM_FULL,
                                     [CL_PHASE_ATTEND] = true,
                                     [CL_PHASE_VALUE] = latent,
                                     [CL_PHASE_ATTN_OUT] = true,
                                     [CL_PHASE_ROUTE] = moe,
                                     [CL_PHASE_GATE_UP] = true,
                                     [CL_PHASE_DOWN] = true,
                                     [CL_PHASE_COMBINE] = moe && w->c->experts};
    cl_phase p[CL_PHASES];
    for (int k = 0; k < CL_PHASES; k++)
        p[k] = (cl_phase){.kind = (cl_phase_kind)k, .layer = layer, .tokens = w->tokens};
    choose_experts(w, layer);
    for (int i = first; i < end; i++)
        read_tensor(w, &w->c->model->tensors[i], w->tokens, &p[phase_of(l, w->c->model->tensors[i].role)]);
    ask_cache(w, &l->attn, &p[CL_PHASE_ATTEND]);
    p[CL_PHASE_GATE_UP].experts = w->experts;
    if (w->members > 1) {
        exchange_attention(w, &l->attn, p);
        exchange_ffn(w, layer, p);
    }
    for (int k = 0; k < CL_PHASES; k++)
        if (happens[k]) emit(w, &p[k]);
}

/* As chip/ cuts a long chunk: tiles of nearly equal length, multiples of 8. */
static void walk_layers(walk *w)
{
    enum { MULTIPLE = 8 };
    const cl_model *m = w->c->model;
    const cl_stage *stage = w->c->stage;
    double all = w->tokens;
    int64_t n = llround(all), tile = w->s->tile, step = n;
    if (tile && all > (double)tile) {
        int64_t tiles = (n + tile - 1) / tile;
        step = ((n + tiles - 1) / tiles + MULTIPLE - 1) / MULTIPLE * MULTIPLE;
        step = step < tile ? step : tile;
        w->all = false;
    }
    int end, first = first_tensor(m, stage->first_layer);
    for (int layer = stage->first_layer; layer < stage->first_layer + stage->n_layers; layer++, first = end) {
        for (end = first; end < m->n_tensors && layer_of(m, end) == layer;) end++;
        if (w->all) walk_layer(w, layer, first, end);
        for (w->from = 0; !w->all && w->from < n; w->from = w->to) {
            w->to = n - w->from < step ? n : w->from + step;
            w->tokens = (double)(w->to - w->from);
            walk_layer(w, layer, first, end);
        }
    }
    w->tokens = all;
    w->all = true;
}

/* Every token's row of the table, which one chip holds: expected bytes and messages, ids being alike. */
static void walk_embed(walk *w)
{
    const cl_tensor *t = &w->c->model->tensors[0];
    cl_phase p = {.kind = CL_PHASE_EMBED, .layer = -1, .tokens = w->tokens};
    double own = (double)walk_rows(w, w->spec->vocab).n / w->spec->vocab;
    p.weight_bytes = bytes_times(w->tokens * own, cl_row_bytes(t->format, t->cols));
    if (w->members > 1) p.exchange = exchange_embedded(w);
    emit(w, &p);
}

/* The head's rows in batches, then the candidates. */
static void walk_head(walk *w)
{
    const cl_model *m = w->c->model;
    const cl_tensor *norm = &m->tensors[first_tensor(m, w->spec->n_layers)],
                    *head = w->spec->tied ? m->tensors : norm + 1;
    double outputs = 0, batch = w->s->head_rows ? w->s->head_rows : HEAD_ROWS;
    for (int i = 0; i < w->s->n_parts; i++) outputs += w->s->parts[i].n * w->s->parts[i].outputs;
    if (!(outputs > 0)) return;
    for (double left = outputs; left > 0; left -= batch) {
        double rows = left < batch ? left : batch;
        cl_phase p = {.kind = CL_PHASE_HEAD, .layer = -1, .tokens = rows};
        read_tensor(w, norm, rows, &p);
        read_tensor(w, head, rows, &p);
        if (w->s->rows && w->members > 1) p.exchange = exchange_rows_to_first(w, w->spec->vocab, rows);
        emit(w, &p);
    }
    cl_phase p = {.kind = CL_PHASE_SAMPLE, .layer = -1, .tokens = outputs};
    double candidates = w->s->candidates ? w->s->candidates : 1, numbers = 2 * candidates * outputs; /* id and logit */
    if (!w->s->rows && w->members > 1) p.exchange = exchange_numbers_to_first(w, numbers);
    emit(w, &p);
}

void cl_cost_phases(const cl_cost_chip *c, const cl_cost_step *s, void (*phase)(void *ctx, const cl_phase *p),
                    void *ctx)
{
    walk w = {.c = c,
              .s = s,
              .spec = &c->model->spec,
              .members = c->stage->n_ranks,
              .phase = phase,
              .ctx = ctx,
              .tokens = count_tokens(s),
              .all = true};
    if (c->stage->embed) walk_embed(&w);
    walk_layers(&w);
    if (c->stage->head) walk_head(&w);
}

void cl_cost_add(cl_cost_sum *sum, const cl_phase *p)
{
    cl_phase *all = &sum->all;
    const cl_exchange *x = &p->exchange;
    all->weight_bytes = bytes_sum(all->weight_bytes, p->weight_bytes);
    all->vector_bytes = bytes_sum(all->vector_bytes, p->vector_bytes);
    all->kv_bytes = bytes_sum(all->kv_bytes, p->kv_bytes);
    all->kv_distinct_bytes = bytes_sum(all->kv_distinct_bytes, p->kv_distinct_bytes);
    all->experts += p->experts;
    all->ops_int8 += p->ops_int8;
    all->ops_f32 += p->ops_f32;
    all->ops_attention += p->ops_attention;
    all->exchange.got_bytes = bytes_sum(all->exchange.got_bytes, x->got_bytes);
    all->exchange.sent_bytes = bytes_sum(all->exchange.sent_bytes, x->sent_bytes);
    all->exchange.got += x->got;
    all->exchange.sent += x->sent;
    sum->phases++;
    sum->gathers += x->kind != CL_EXCHANGE_NONE;
}

static void add(void *ctx, const cl_phase *p) { cl_cost_add(ctx, p); }

cl_cost_sum cl_cost_of_step(const cl_cost_chip *c, const cl_cost_step *s)
{
    cl_cost_sum sum = {.all = {.layer = -1, .tokens = count_tokens(s)}};
    cl_cost_phases(c, s, add, &sum);
    return sum;
}

typedef struct reads {
    uint64_t all, *layers;
} reads;

static void add_read(void *ctx, const cl_phase *p)
{
    reads *r = ctx;
    r->all += p->weight_bytes;
    if (r->layers && p->layer >= 0) r->layers[p->layer] += p->weight_bytes;
}

uint64_t cl_model_token_bytes(const cl_model *m, uint64_t *layers)
{
    const cl_stage stage = cl_whole_stage(m);
    const cl_cost_chip c = {.model = m, .stage = &stage};
    const cl_cost_part one = {.n = 1, .tokens = 1, .outputs = 1};
    reads r = {.layers = layers};
    if (layers) memset(layers, 0, (size_t)m->spec.n_layers * sizeof *layers);
    cl_cost_phases(&c, &(cl_cost_step){.n_parts = 1, .parts = &one}, add_read, &r);
    return r.all;
}
