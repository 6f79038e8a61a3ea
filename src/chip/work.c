/* work.c: the buffers of a step: how large, and where in one block of memory. */
#include "work.h"

#include "inside.h"
#include "sample.h"

enum {
    TILE_BYTES = 17 << 20, /* tiles are as long as this allows, */
    TILE_MIN = 8,          /* but not shorter */
    LOGITS_BYTES = 14 << 20,
    PART = 64 /* either at most this part of a chip's memory */
};

static size_t at_most(size_t bytes, const cl_chip_options *o)
{
    return o->memory_bytes && o->memory_bytes / PART < bytes ? (size_t)(o->memory_bytes / PART) : bytes;
}

/* The rows of a layer's matrices that count: all, or those of one chip. */
typedef struct layer_rows {
    size_t q, kv, heads, width, shared, out;
    bool whole_experts; /* their outputs are exchanged, they need no place here */
} layer_rows;

/* The most that a layer of this stage needs: numbers per token, unless said otherwise. */
typedef struct widths {
    size_t hidden, out;
    size_t q, kv, seen;                                        /* grouped attention; seen: both kinds */
    size_t latent_q, low, cached, heads, plain, lookup, found; /* latent attention; heads: rows */
    size_t all_q, all_k, all_low, all_kv;                      /* exchanged before a norm */
    size_t rows, up, input, down, shared_up;                   /* feed-forward */
    size_t gate, shared_gate, results;                         /* exchanged */
    size_t x8, x8_normed; /* numbers in 8-bit form that live at once, the shared expert's apart; made by norms */
    size_t experts, top_k, rope, head_dim, kv_rank; /* not per token */
    bool weighted;                                  /* the inputs of experts are weighted, next to gate and up */
} widths;

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static void grow(size_t *to, size_t n) { *to = max_size(*to, n); }

static int planes_of(cl_activations a) { return a == CL_ACT_Q16 || a == CL_ACT_MIXED ? 2 : 1; }

/* Parts of the logits. */
static int turns_of(int members) { return members > 1 ? 2 : 1; }

/* --- widths --- */

static layer_rows all_rows(const chip_fixed *c, int i)
{
    const cl_layer *l = &c->spec.layers[c->stage.first_layer + i];
    return (layer_rows){.q = (size_t)l->attn.heads * (size_t)l->attn.head_dim,
                        .kv = (size_t)l->attn.kv_heads * (size_t)l->attn.head_dim,
                        .heads = (size_t)l->attn.heads,
                        .width = (size_t)l->ffn.width,
                        .shared = (size_t)l->ffn.shared_width,
                        .out = (size_t)c->spec.hidden};
}

static layer_rows own_rows(const chip_fixed *c, int i)
{
    const slice *s = &c->slice;
    const int layer = c->stage.first_layer + i, member = c->group.member;
    const layer_cut *cut = &c->cuts.layers[i];
    const bool moe = c->spec.layers[layer].ffn.kind == CL_FFN_MOE;
    const cl_role gate = moe ? CL_T_EXPERT_GATE : CL_T_GATE;
    return (layer_rows){.q = (size_t)slice_get(s, CL_T_Q, layer)->m.rows,
                        .kv = max_size((size_t)slice_get(s, CL_T_K, layer)->m.rows,
                                       (size_t)slice_get(s, CL_T_V, layer)->m.rows),
                        .heads = (size_t)cut->heads.q,
                        .width = (size_t)slice_get(s, gate, layer)->m.rows,
                        .shared = (size_t)slice_get(s, CL_T_SHARED_GATE, layer)->m.rows,
                        .out = (size_t)(c->cuts.hidden[member + 1] - c->cuts.hidden[member]),
                        .whole_experts = cut->map != NULL};
}

static void size_attention(widths *w, const cl_attention *a, const layer_rows *r)
{
    size_t all_q = padded((int64_t)a->heads * a->head_dim), cached = padded(cl_attention_cached_dim(a));
    grow(&w->seen, padded((int64_t)a->heads * cl_attention_v_dim(a)));
    grow(&w->x8, w->seen);
    if (a->kind == CL_ATTN_GROUPED) {
        bool full = a->qk_norm == CL_QK_NORM_FULL;
        grow(&w->head_dim, (size_t)a->head_dim);
        grow(&w->q, padded((int64_t)r->q));
        grow(&w->kv, padded((int64_t)r->kv));
        grow(&w->all_q, full ? all_q : 0);
        grow(&w->all_k, full ? padded((int64_t)a->kv_heads * a->head_dim) : 0);
        return;
    }
    size_t plain = r->heads * padded(a->head_dim - a->rope_dim), found = r->heads * padded(a->kv_rank);
    grow(&w->latent_q, padded((int64_t)r->q));
    grow(&w->low, padded(a->q_rank));
    grow(&w->x8_normed, w->low);
    grow(&w->cached, cached);
    grow(&w->all_low, w->low);
    grow(&w->all_kv, cached);
    grow(&w->heads, r->heads);
    grow(&w->kv_rank, (size_t)a->kv_rank);
    grow(&w->plain, plain);
    grow(&w->lookup, r->heads * cached);
    grow(&w->found, found);
    grow(&w->x8, max_size(plain, found));
}

static void size_ffn(widths *w, const cl_ffn *f, const layer_rows *r)
{
    size_t rows = f->kind == CL_FFN_MOE ? (size_t)f->top_k : 1;
    grow(&w->rows, rows);
    grow(&w->gate, rows * padded(f->width));
    grow(&w->up, rows * padded((int64_t)r->width));
    grow(&w->x8, rows * padded(f->width));
    if (f->kind == CL_FFN_DENSE) return;
    grow(&w->results, rows * w->hidden);
    grow(&w->down, r->whole_experts ? 0 : rows * padded((int64_t)r->out));
    if (f->weight_input) grow(&w->x8_normed, rows * w->hidden);
    if (f->weight_input) grow(&w->input, rows * w->hidden);
    w->weighted |= f->weight_input;
    grow(&w->shared_gate, padded(f->shared_width));
    grow(&w->shared_up, padded((int64_t)r->shared));
    grow(&w->top_k, rows);
    grow(&w->experts, (size_t)f->experts);
}

/* Of the widest of the stage's layers. */
static widths size_layers(const chip_fixed *c, bool own)
{
    widths w = {.rows = 1, .hidden = padded(c->spec.hidden)};
    w.x8_normed = w.hidden;
    for (int i = 0; i < c->stage.n_layers; i++) {
        const cl_layer *l = &c->spec.layers[c->stage.first_layer + i];
        const layer_rows rows = own ? own_rows(c, i) : all_rows(c, i);
        grow(&w.out, padded((int64_t)rows.out));
        size_attention(&w, &l->attn, &rows);
        size_ffn(&w, &l->ffn, &rows);
    }
    for (int i = 0; i < c->spec.n_ropes; i++) grow(&w.rope, (size_t)c->spec.ropes[i].dims);
    return w;
}

/* 8-bit numbers of one token: all planes of what lives at once, the shared expert's apart. */
static size_t x8_numbers(const widths *w, cl_activations a)
{
    return max_size(w->x8_normed * (size_t)planes_of(a), a == CL_ACT_Q16 ? 2 * w->x8 : w->x8);
}

static size_t shared_x8_numbers(const widths *w, cl_activations a)
{
    return a == CL_ACT_Q16 ? 2 * w->shared_gate : w->shared_gate;
}

/* Bytes of the buffers that grow with the tile, for one token of it and all chips' columns. */
static size_t token_bytes(const widths *w, cl_activations a)
{
    size_t attention = max_size(w->q, w->latent_q) + w->seen + 2 * max_size(w->kv, w->cached) + w->low + w->plain +
                       w->lookup + w->found;
    attention += w->all_q + w->all_k + w->all_kv + w->all_low;
    size_t ffn = w->gate + (w->weighted ? w->up + w->down : max_size(w->up, w->down)) + 2 * w->shared_gate;
    size_t x8 = x8_numbers(w, a) + shared_x8_numbers(w, a);
    return (2 * w->hidden + max_size(attention, ffn)) * sizeof(float) + x8 + x8 / 32 * 12;
}

/* --- places --- */

/* Memory that is laid out: counted first, then pointed into. */
typedef struct arena {
    unsigned char *data; /* NULL: only count */
    size_t at;
} arena;

static void *take(arena *a, size_t n, size_t size)
{
    void *p = a->data ? a->data + a->at : NULL;
    a->at += round_up(n * size, 64);
    return p;
}

static float *take_floats(arena *a, size_t n) { return take(a, n, sizeof(float)); }

/* Only sums where the arithmetic knows no 8-bit numbers. */
static input_forms take_forms(arena *a, size_t numbers, cl_activations act)
{
    size_t q = act == CL_ACT_F32 ? 0 : numbers;
    return (input_forms){.q = take(a, q, 1),
                         .d = take_floats(a, q / 32),
                         .fsum = take_floats(a, numbers / 32),
                         .sum = take(a, q / 32, sizeof(int32_t))};
}

/* The two halves of a layer: what they hold is never alive at the same time; nor are the two kinds of attention. */
static void lay_out_grouped(grouped_buffers *b, const widths *w, size_t tile, arena *a)
{
    b->q_stride = w->q;
    b->kv_stride = w->kv;
    b->q = take_floats(a, tile * w->q);
    b->k = take_floats(a, tile * w->kv);
    b->v = take_floats(a, tile * w->kv);
}

static void lay_out_latent(latent_buffers *b, const widths *w, size_t tile, arena *a)
{
    b->q_stride = w->latent_q;
    b->low_stride = w->low;
    b->cached_stride = w->cached;
    b->q = take_floats(a, tile * w->latent_q);
    b->low = take_floats(a, tile * w->low);
    b->cached = take_floats(a, tile * w->cached);
    b->plain = take_floats(a, tile * w->plain);
    b->lookup = take_floats(a, tile * w->lookup);
    b->found = take_floats(a, tile * w->found);
}

static void lay_out_ffn(ffn_buffers *b, const widths *w, size_t tile, arena *a)
{
    if (w->weighted) { /* gate and up read the inputs, down writes where they were */
        b->up = take_floats(a, tile * w->up);
        b->input = b->down = take_floats(a, tile * max_size(w->input, w->down));
    } else { /* up is done with when down begins */
        b->up = b->down = take_floats(a, tile * max_size(w->up, w->down));
    }
    b->shared_up = take_floats(a, tile * w->shared_up);
}

static size_t scores_stride(const widths *w) { return round_up(w->experts, 16); }

static void lay_out_routing(work *k, const chip_fixed *c, const widths *w, size_t threads, arena *a)
{
    size_t tile = (size_t)k->tile, rows = tile * w->rows, stride = scores_stride(w);
    router_buffers *r = &k->router;
    expert_rows *e = &k->rows;
    r->stride = stride;
    if (!c->stage.split_routers) r->scores = take_floats(a, tile * stride);
    r->numbers = take_floats(a, ROUTE_NUMBERS * threads * stride);
    r->lists = take(a, ROUTE_LISTS * threads * stride, sizeof *r->lists);
    r->choices = take(a, tile * w->top_k, sizeof *r->choices);
    if (!w->experts) return;
    e->token = take(a, rows, sizeof *e->token);
    e->weight = take(a, rows, sizeof *e->weight);
    e->owner = take(a, rows, sizeof *e->owner);
    e->own = take(a, rows, sizeof *e->own);
    e->first = take(a, w->experts + 1, sizeof *e->first);
    e->touched = take(a, w->experts, sizeof *e->touched);
    e->load = take(a, (size_t)c->group.members, sizeof *e->load);
}

/* Numbers of scratch of one thread: attend's, or a row of queries or keys that a norm spans. */
static void lay_out_scratch(work *k, const chip_fixed *c, const widths *w, size_t threads, arena *a)
{
    size_t grouped = 0, latent = w->heads ? cl_latent_scratch(c->opt.limits.context, (int)w->kv_rank) : 0;
    if (w->head_dim) grouped = cl_attend_scratch(c->opt.limits.context, (int)w->head_dim);
    grouped = round_up(max_size(grouped, max_size(w->all_q, w->all_k)), 16);
    k->attention.grouped.scratch_stride = k->attention.latent.scratch_stride = max_size(grouped, latent);
    k->attention.grouped.scratch = k->attention.latent.scratch = take_floats(a, threads * max_size(grouped, latent));
}

static size_t in_order_numbers(const work *k, const widths *w)
{
    return w->experts || w->heads ? (size_t)k->tile * max_size(w->rows, w->heads) : 0;
}

/* Places every buffer that only this chip sees. Returns the numbers in order, to be filled. */
static int32_t *lay_out(work *k, const chip_fixed *c, const widths *w, int threads, arena *a)
{
    const size_t tile = (size_t)k->tile, chunk = (size_t)c->opt.limits.chunk, members = (size_t)c->group.members;
    const size_t tile8 = round_up(tile, CL_X_TOKENS), rope = round_up(w->rope, 16);
    const cl_activations act = c->opt.activations;
    k->tokens = (token_buffers){.rope_stride = rope, .chunk = c->opt.limits.chunk};
    k->tokens.ref = take(a, chunk, sizeof *k->tokens.ref);
    k->tokens.cos_sin = take_floats(a, (size_t)c->spec.n_ropes * chunk * rope);
    k->tokens.owner = take(a, c->stage.embed ? chunk : 0, sizeof *k->tokens.owner);
    k->common.norm_stride = w->hidden;
    k->common.out_stride = w->out;
    k->common.norm = take_floats(a, tile * w->hidden);
    k->common.out = take_floats(a, tile * w->out);
    arena latent = *a, ffn = *a;
    lay_out_grouped(&k->attention.grouped, w, tile, a);
    lay_out_latent(&k->attention.latent, w, tile, &latent);
    lay_out_ffn(&k->ffn, w, tile, &ffn);
    a->at = max_size(a->at, max_size(latent.at, ffn.at));
    k->common.forms = take_forms(a, tile8 * x8_numbers(w, act), act);
    k->ffn.shared_forms = take_forms(a, tile8 * shared_x8_numbers(w, act), act);
    lay_out_scratch(k, c, w, (size_t)threads, a);
    lay_out_routing(k, c, w, (size_t)threads, a);
    int32_t *in_order = take(a, in_order_numbers(k, w), sizeof *in_order);
    k->attention.latent.in_order = k->rows.in_order = in_order;
    k->head.candidate_cut = take(a, c->stage.head ? members + 1 : 0, sizeof *k->head.candidate_cut);
    return in_order;
}

/* Places what the chips of the stage exchange; the same on all of them. */
static void lay_out_exchange(work *k, const chip_fixed *c, const widths *w, arena *a)
{
    const size_t tile = (size_t)k->tile;
    arena ffn = *a;
    grouped_buffers *g = &k->attention.grouped;
    k->attention.seen_stride = w->seen;
    k->attention.seen = take_floats(a, tile * w->seen);
    g->all_q_stride = w->all_q;
    g->all_k_stride = w->all_k;
    g->all_q = take_floats(a, tile * w->all_q);
    g->all_k = take_floats(a, tile * w->all_k);
    k->attention.latent.all_low = take_floats(a, tile * w->all_low);
    k->attention.latent.all_kv = take_floats(a, tile * w->all_kv);
    k->ffn.gate = take_floats(&ffn, tile * w->gate);
    k->ffn.shared_gate = take_floats(&ffn, tile * w->shared_gate);
    k->ffn.results = take_floats(&ffn, c->opt.experts ? tile * w->results : 0);
    if (c->stage.split_routers) k->router.scores = take_floats(&ffn, tile * scores_stride(w));
    a->at = max_size(a->at, ffn.at);
    head_buffers *h = &k->head;
    const size_t members = (size_t)c->stage.n_ranks, chunk = (size_t)c->opt.limits.chunk;
    const size_t candidates = c->stage.head && members > 1 ? chunk * members * CL_CANDIDATES : 0;
    h->logits = take_floats(a, (size_t)h->turns * (size_t)h->rows * h->stride);
    h->candidate_id = take(a, candidates, sizeof *h->candidate_id);
    h->candidate_logit = take_floats(a, candidates);
}

/* The tile and the head's rows are the same on all chips of the stage: they go by all of its columns. Returns what is
 * exchanged. */
static widths size_exchange(work *k, const chip_fixed *c)
{
    const widths all = size_layers(c, false);
    size_t chunk = (size_t)c->opt.limits.chunk,
           tile = at_most(TILE_BYTES, &c->opt) / token_bytes(&all, c->opt.activations) / CL_X_TOKENS * CL_X_TOKENS;
    tile = tile < TILE_MIN ? TILE_MIN : tile;
    k->tile = (int)(tile < chunk ? tile : chunk);
    if (c->stage.head) {
        head_buffers *h = &k->head;
        h->turns = turns_of(c->stage.n_ranks);
        h->stride = round_up((size_t)c->spec.vocab, 16);
        size_t rows = at_most(LOGITS_BYTES, &c->opt) / ((size_t)h->turns * h->stride * sizeof(float));
        rows = rows < 1 ? 1 : rows > HEAD_ROWS ? HEAD_ROWS : rows;
        h->rows = rows < (size_t)k->tile ? (int)rows : k->tile;
    }
    arena count = {0};
    lay_out_exchange(k, c, &all, &count);
    k->exchange_bytes = count.at;
    return all;
}

size_t cl_chip_exchange_bytes(const cl_spec *spec, const cl_stage *stage, const cl_chip_options *o)
{
    const chip_fixed c = {.spec = *spec, .stage = *stage, .opt = *o};
    work k = {0};
    size_exchange(&k, &c);
    return k.exchange_bytes;
}

void work_size(work *k, const chip_fixed *c, int threads)
{
    *k = (work){0};
    size_exchange(k, c);
    const widths own = size_layers(c, true);
    arena count = {0};
    lay_out(k, c, &own, threads, &count);
    k->own_bytes = count.at;
}

cl_code work_create(work *k, const chip_fixed *c, int threads, cl_err *err)
{
    work_size(k, c, threads);
    const widths all = size_exchange(k, c), own = size_layers(c, true);
    k->bytes = k->own_bytes + (c->group.memory ? 0 : k->exchange_bytes);
    if (!(k->data = cl_malloc_aligned(k->bytes, "the work buffers", err))) return err->code;
    arena a = {.data = k->data}, exchange = {.data = (unsigned char *)c->group.memory};
    if (!exchange.data) exchange.data = k->data + k->own_bytes;
    int32_t *in_order = lay_out(k, c, &own, threads, &a);
    lay_out_exchange(k, c, &all, &exchange);
    for (size_t i = 0; i < in_order_numbers(k, &own); i++) in_order[i] = (int32_t)i;
    return CL_OK;
}

void work_free(work *k)
{
    if (k->data) cl_free_aligned(k->data, k->bytes);
    *k = (work){0};
}
