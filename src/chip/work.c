/* work.c: the buffers of a step: how large, and where in one block of memory. */
#include "chip_impl.h"

enum {
    TILE_BYTES = 17 << 20, /* tiles are as long as this allows, */
    TILE_MIN = 8,          /* but not shorter */
    LOGITS_BYTES = 14 << 20
};

/* The most that a layer of this stage needs, per token unless said otherwise. */
typedef struct widths {
    size_t rows, gate, down, shared;      /* rows of the feed-forward half; floats */
    size_t heads, plain, lookup, found;   /* own rows of latent attention; floats */
    size_t all_q, all_k, all_kv, all_low; /* what is exchanged before its norm; floats */
    /* numbers in 8-bit form that live at once, the shared expert's apart; what norms made */
    size_t x8, x8_normed;
    size_t experts, top_k, rope; /* not per token */
    bool weighted;               /* the inputs of experts lie where the results of down will */
    int grouped;                 /* numbers of a head of grouped attention; 0: there is none */
} widths;

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static void grow(size_t *to, size_t n) { *to = max_size(*to, n); }

/* Sizes are those of the whole layer, not of this chip's part: they must be the same for all chips of the stage. */
static void measure_attention(const cl_attention *a, work *w, widths *m)
{
    size_t heads = (size_t)a->heads;
    grow(&w->q, padded((int64_t)a->heads * a->head_dim));
    grow(&w->seen, padded((int64_t)a->heads * cl_attention_v_dim(a)));
    grow(&m->x8, w->seen);
    if (a->kind == CL_ATTN_GROUPED) {
        size_t kv = padded((int64_t)a->kv_heads * a->head_dim);
        bool full = a->qk_norm == CL_QK_NORM_FULL;
        m->grouped = a->head_dim > m->grouped ? a->head_dim : m->grouped;
        grow(&w->kv, kv);
        grow(&m->all_q, full ? padded((int64_t)a->heads * a->head_dim) : 0);
        grow(&m->all_k, full ? kv : 0);
        return;
    }
    size_t plain = heads * padded(a->head_dim - a->rope_dim), found = heads * padded(a->kv_rank);
    size_t cached = padded(cl_attention_cached_dim(a));
    grow(&w->kv, cached);
    grow(&w->q_a, padded(a->q_rank));
    grow(&m->x8_normed, w->q_a);
    grow(&m->all_low, w->q_a);
    grow(&m->all_kv, cached);
    grow(&m->heads, heads);
    grow(&m->plain, plain);
    grow(&m->lookup, heads * cached);
    grow(&m->found, found);
    grow(&m->x8, max_size(plain, found));
}

static void measure_ffn(const cl_ffn *f, work *w, widths *m)
{
    size_t rows = f->kind == CL_FFN_MOE ? (size_t)f->top_k : 1, gate = rows * padded(f->width);
    grow(&m->rows, rows);
    grow(&m->gate, gate);
    grow(&m->x8, gate);
    if (f->kind == CL_FFN_DENSE) return;
    grow(&m->down, rows * w->hidden);
    if (f->weight_input) grow(&m->x8_normed, rows * w->hidden);
    m->weighted |= f->weight_input;
    grow(&m->shared, padded(f->shared_width));
    grow(&m->top_k, rows);
    grow(&m->experts, (size_t)f->experts);
}

/* Strides and counts of the widest of the stage's layers. */
static widths measure(const cl_spec *spec, const cl_stage *stage, work *w)
{
    widths m = {.rows = 1};
    w->hidden = padded(spec->hidden);
    m.x8_normed = w->hidden;
    for (int i = 0; i < stage->n_layers; i++) {
        const cl_layer *l = &spec->layers[stage->first_layer + i];
        measure_attention(&l->attn, w, &m);
        measure_ffn(&l->ffn, w, &m);
    }
    for (int i = 0; i < spec->n_ropes; i++) grow(&m.rope, (size_t)spec->ropes[i].dims);
    w->rope_stride = round_up(m.rope, 16);
    w->router_stride = round_up(m.experts, 16);
    w->vocab = stage->head ? round_up((size_t)spec->vocab, 16) : 0;
    return m;
}

/* 8-bit numbers of one token: all planes of what lives at once, the shared expert's apart. */
static size_t x8_numbers(const widths *m, cl_activations a)
{
    size_t normed = m->x8_normed * (size_t)planes_of(a);
    return max_size(normed, a == CL_ACT_Q16 ? 2 * m->x8 : m->x8);
}

static size_t shared_x8_numbers(const widths *m, cl_activations a)
{
    return a == CL_ACT_Q16 ? 2 * m->shared : m->shared;
}

/* Bytes of the buffers that grow with the tile, for one token of it. */
static size_t token_bytes(const work *w, const widths *m, cl_activations a)
{
    size_t attention = w->q + w->seen + 2 * w->kv + w->q_a + m->plain + m->lookup + m->found;
    attention += m->all_q + m->all_k + m->all_kv + m->all_low;
    size_t ffn = m->gate + (m->weighted ? m->gate + m->down : max_size(m->gate, m->down)) + 2 * m->shared;
    size_t x8 = x8_numbers(m, a) + shared_x8_numbers(m, a);
    return (2 * w->hidden + max_size(attention, ffn)) * sizeof(float) + x8 + x8 / 32 * 12;
}

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

/* The two halves of a layer: what they hold is never alive at the same time. */
static void lay_out_attention(work *w, const widths *m, arena *a)
{
    size_t tile = (size_t)w->tile, f = sizeof(float);
    w->qs = take(a, tile * w->q, f);
    w->ks = take(a, tile * w->kv, f);
    w->vs = take(a, tile * w->kv, f);
    w->q_low = take(a, tile * w->q_a, f);
    w->plain = take(a, tile * m->plain, f);
    w->lookup = take(a, tile * m->lookup, f);
    w->found = take(a, tile * m->found, f);
}

static void lay_out_ffn(work *w, const widths *m, arena *a)
{
    size_t tile = (size_t)w->tile, f = sizeof(float);
    w->up = take(a, tile * (m->weighted ? m->gate : max_size(m->gate, m->down)), f);
    w->down = m->weighted ? take(a, tile * m->down, f) : w->up; /* up is done with when down begins */
    w->shared_up = take(a, tile * m->shared, f);
}

/* Places every buffer that only this chip sees. */
static void lay_out(const cl_chip *c, work *w, const widths *m, arena *a)
{
    size_t tile = (size_t)w->tile, rows = tile * m->rows, chunk = (size_t)c->opt.limits.chunk, f = sizeof(float);
    size_t threads = (size_t)c->opt.threads, tile8 = round_up(tile, CL_X_TOKENS);
    size_t own8 = tile8 * x8_numbers(m, c->opt.activations),
           x8 = own8 + tile8 * shared_x8_numbers(m, c->opt.activations);
    size_t members = (size_t)c->group.members;
    w->tokens = take(a, chunk, sizeof *w->tokens);
    w->cos_sin = take(a, (size_t)c->spec.n_ropes * chunk * w->rope_stride, f);
    w->norm = take(a, tile * w->hidden, f);
    w->out = take(a, tile * w->hidden, f);
    arena ffn = *a;
    lay_out_attention(w, m, a);
    lay_out_ffn(w, m, &ffn);
    a->at = max_size(a->at, ffn.at);
    w->x8 = take(a, x8, 1);
    w->x8_scale = take(a, x8 / 32, f);
    w->x_sum = take(a, x8 / 32, f);
    w->x8_sum = take(a, x8 / 32, sizeof *w->x8_sum);
    w->shared_x8 = own8;
    w->scratch = take(a, threads * w->scratch_stride, f);
    w->router = take(a, tile * w->router_stride, f);
    w->select = take(a, 2 * threads * w->router_stride, f);
    w->select_list = take(a, 2 * threads * w->router_stride, sizeof *w->select_list);
    w->choices = take(a, tile * m->top_k, sizeof *w->choices);
    w->row_token = take(a, rows, sizeof *w->row_token);
    w->row_weight = take(a, rows, sizeof *w->row_weight);
    w->row_self = take(a, max_size(rows, tile * m->heads), sizeof *w->row_self);
    w->row_owner = take(a, rows, sizeof *w->row_owner);
    w->own_rows = take(a, rows, sizeof *w->own_rows);
    w->first_row = take(a, m->experts + 1, sizeof *w->first_row);
    w->touched = take(a, m->experts, sizeof *w->touched);
    w->load = take(a, members, sizeof *w->load);
    w->token_owner = take(a, chunk, sizeof *w->token_owner);
    w->candidate_cut = take(a, members + 1, sizeof *w->candidate_cut);
}

/* Places what the chips of the stage exchange. */
static void lay_out_exchange(work *w, const widths *m, int members, const cl_chip_options *o, arena *a)
{
    size_t tile = (size_t)w->tile, f = sizeof(float);
    arena ffn = *a;
    w->att = take(a, tile * w->seen, f);
    w->all_q = take(a, m->all_q ? tile * w->q : 0, f);
    w->all_k = take(a, m->all_k ? tile * w->kv : 0, f);
    w->all_low = take(a, m->all_low ? tile * w->q_a : 0, f);
    w->all_kv = take(a, m->all_kv ? tile * w->kv : 0, f);
    w->gate = take(&ffn, tile * m->gate, f);
    w->shared_gate = take(&ffn, tile * m->shared, f);
    w->results = take(&ffn, o->experts ? tile * m->down : 0, f);
    a->at = max_size(a->at, ffn.at);
    w->logits = take(a, (size_t)logits_turns(members) * (size_t)w->head_rows * w->vocab, f);
    size_t candidates = w->vocab && members > 1 ? (size_t)o->limits.chunk * (size_t)members * CL_CANDIDATES : 0;
    w->candidate_id = take(a, candidates, sizeof *w->candidate_id);
    w->candidate_logit = take(a, candidates, f);
}

/* All sizes, and the bytes of what is exchanged. */
static widths plan_work(work *w, const cl_spec *spec, const cl_stage *stage, const cl_chip_options *o)
{
    widths m = measure(spec, stage, w);
    size_t chunk = (size_t)o->limits.chunk,
           tile = TILE_BYTES / token_bytes(w, &m, o->activations) / CL_X_TOKENS * CL_X_TOKENS;
    tile = tile < TILE_MIN ? TILE_MIN : tile;
    w->tile = (int)(tile < chunk ? tile : chunk);
    if (stage->head) {
        size_t rows = LOGITS_BYTES / ((size_t)logits_turns(stage->n_ranks) * w->vocab * sizeof(float));
        rows = rows < 1 ? 1 : rows > HEAD_ROWS ? HEAD_ROWS : rows;
        w->head_rows = rows < (size_t)w->tile ? (int)rows : w->tile;
    }
    if (m.grouped) w->scratch_stride = round_up(cl_attend_scratch(o->limits.context, m.grouped), 16);
    if (m.heads) grow(&w->scratch_stride, cl_latent_scratch(o->limits.context));
    arena count = {0};
    lay_out_exchange(w, &m, stage->n_ranks, o, &count);
    w->exchange_bytes = count.at;
    return m;
}

size_t cl_chip_exchange_bytes(const cl_spec *spec, const cl_stage *stage, const cl_chip_options *o)
{
    work w = {0};
    plan_work(&w, spec, stage, o);
    return w.exchange_bytes;
}

cl_code work_create(cl_chip *c, cl_err *err)
{
    work *w = &c->work;
    widths m = plan_work(w, &c->spec, &c->stage, &c->opt);
    arena a = {0}, exchange = {.data = (unsigned char *)c->group.memory};
    lay_out(c, w, &m, &a);
    w->bytes = a.at + (c->group.memory ? 0 : w->exchange_bytes);
    if (!(w->data = cl_malloc_aligned(w->bytes, "the work buffers", err))) return err->code;
    if (!exchange.data) exchange.data = w->data + a.at;
    a = (arena){.data = w->data};
    lay_out(c, w, &m, &a);
    lay_out_exchange(w, &m, c->stage.n_ranks, &c->opt, &exchange);
    for (size_t i = 0; i < (size_t)w->tile * max_size(m.rows, m.heads); i++) w->row_self[i] = (int32_t)i;
    return CL_OK;
}

void work_free(work *w)
{
    if (w->data) cl_free_aligned(w->data, w->bytes);
    *w = (work){0};
}
