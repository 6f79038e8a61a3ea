/* work.c: the buffers of a step: how large, and where in one block of memory. */
#include "chip_impl.h"

enum {
    TILE_BYTES = 10 << 20, /* tiles are as long as this allows, */
    TILE_MIN = 8,          /* but not shorter */
    LOGITS_BYTES = 8 << 20
};

/* The most that a layer of this stage needs, per token unless said otherwise. */
typedef struct widths {
    size_t rows, gate, down, shared;              /* rows of the feed-forward half; floats */
    size_t heads, plain, lookup, found;           /* rows of latent attention; floats */
    size_t x8;                                    /* numbers in 8-bit form that live at once, the shared expert's apart */
    size_t experts, top_k, rope;                  /* not per token */
} widths;

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void grow(size_t *to, size_t n)
{
    *to = max_size(*to, n);
}

static void measure_attention(const cl_attention *a, work *w, widths *m)
{
    size_t heads = (size_t)a->heads;
    grow(&w->q, padded((int64_t)a->heads * a->head_dim));
    grow(&w->seen, padded((int64_t)a->heads * cl_attention_v_dim(a)));
    grow(&m->x8, w->seen);
    if (a->kind == CL_ATTN_GROUPED) {
        grow(&w->kv, padded((int64_t)a->kv_heads * a->head_dim));
        return;
    }
    size_t plain = heads * padded(a->head_dim - a->rope_dim), found = heads * padded(a->kv_rank);
    size_t cached = padded(cl_attention_cached_dim(a));
    grow(&w->kv, cached);
    grow(&w->q_a, padded(a->q_rank));
    grow(&m->heads, heads);
    grow(&m->plain, plain);
    grow(&m->lookup, heads * cached);
    grow(&m->found, found);
    grow(&m->x8, max_size(w->q_a, max_size(plain, found)));
}

static void measure_ffn(const cl_ffn *f, work *w, widths *m)
{
    size_t rows = f->kind == CL_FFN_MOE ? (size_t)f->top_k : 1, gate = rows * padded(f->width);
    grow(&m->rows, rows);
    grow(&m->gate, gate);
    grow(&m->x8, gate);
    if (f->kind == CL_FFN_DENSE) return;
    grow(&m->down, rows * w->hidden);
    if (f->weight_input) grow(&m->x8, rows * w->hidden);
    grow(&m->shared, padded(f->shared_width));
    grow(&m->top_k, rows);
    grow(&m->experts, (size_t)f->experts);
}

/* Strides and counts of the widest of this stage's layers. */
static widths measure(const cl_chip *c, work *w)
{
    widths m = {.rows = 1};
    w->hidden = padded(c->spec.hidden);
    m.x8 = w->hidden;
    for (int i = 0; i < c->stage.n_layers; i++) {
        const cl_layer *l = &c->spec.layers[c->stage.first_layer + i];
        measure_attention(&l->attn, w, &m);
        measure_ffn(&l->ffn, w, &m);
    }
    for (int i = 0; i < c->spec.n_ropes; i++) grow(&m.rope, (size_t)c->spec.ropes[i].dims);
    w->rope_stride = round_up(m.rope, 16);
    w->router_stride = round_up(m.experts, 16);
    w->vocab = c->stage.head ? round_up((size_t)c->spec.vocab, 16) : 0;
    return m;
}

/* Bytes of the buffers that grow with the tile, for one token of it. */
static size_t token_bytes(const work *w, const widths *m)
{
    size_t attention = w->q + w->seen + 2 * w->kv + w->q_a + m->plain + m->lookup + m->found;
    size_t ffn = 2 * m->gate + m->down + 2 * m->shared, x8 = m->x8 + m->shared;
    return (2 * w->hidden + max_size(attention, ffn)) * sizeof(float) + x8 + x8 / 32 * 12;
}

static void *take(const work *w, size_t *at, size_t n, size_t size)
{
    void *p = w->data ? w->data + *at : NULL;
    *at += round_up(n * size, 64);
    return p;
}

/* The two halves of a layer: what they hold is never alive at the same time. Both return where they end. */
static size_t lay_out_attention(work *w, const widths *m, size_t at)
{
    size_t tile = (size_t)w->tile, f = sizeof(float);
    w->qs = take(w, &at, tile * w->q, f);
    w->att = take(w, &at, tile * w->seen, f);
    w->ks = take(w, &at, tile * w->kv, f);
    w->vs = take(w, &at, tile * w->kv, f);
    w->q_low = take(w, &at, tile * w->q_a, f);
    w->plain = take(w, &at, tile * m->plain, f);
    w->lookup = take(w, &at, tile * m->lookup, f);
    w->found = take(w, &at, tile * m->found, f);
    return at;
}

static size_t lay_out_ffn(work *w, const widths *m, size_t at)
{
    size_t tile = (size_t)w->tile, f = sizeof(float);
    w->gate = take(w, &at, tile * m->gate, f);
    w->up = take(w, &at, tile * m->gate, f);
    w->down = take(w, &at, tile * m->down, f);
    w->shared_gate = take(w, &at, tile * m->shared, f);
    w->shared_up = take(w, &at, tile * m->shared, f);
    return at;
}

/* Places every buffer; called once to count and once, with data, to point. */
static size_t lay_out(const cl_chip *c, work *w, const widths *m)
{
    size_t at = 0, tile = (size_t)w->tile, rows = tile * m->rows, chunk = (size_t)c->opt.limits.chunk, f = sizeof(float);
    size_t threads = (size_t)c->opt.threads, tiles8 = round_up(tile, CL_X_TOKENS), x8 = tiles8 * (m->x8 + m->shared);
    w->tokens = take(w, &at, chunk, sizeof *w->tokens);
    w->cos_sin = take(w, &at, (size_t)c->spec.n_ropes * chunk * w->rope_stride, f);
    w->norm = take(w, &at, tile * w->hidden, f);
    w->out = take(w, &at, tile * w->hidden, f);
    at = max_size(lay_out_attention(w, m, at), lay_out_ffn(w, m, at));
    w->logits = take(w, &at, (size_t)w->head_rows * w->vocab, f);
    w->x8 = take(w, &at, x8, 1);
    w->x8_scale = take(w, &at, x8 / 32, f);
    w->x_sum = take(w, &at, x8 / 32, f);
    w->x8_sum = take(w, &at, x8 / 32, sizeof *w->x8_sum);
    w->shared_x8 = tiles8 * m->x8;
    w->scratch = take(w, &at, threads * w->scratch_stride, f);
    w->router = take(w, &at, tile * w->router_stride, f);
    w->select = take(w, &at, 2 * threads * w->router_stride, f);
    w->select_list = take(w, &at, 2 * threads * w->router_stride, sizeof *w->select_list);
    w->choices = take(w, &at, tile * m->top_k, sizeof *w->choices);
    w->row_token = take(w, &at, rows, sizeof *w->row_token);
    w->row_weight = take(w, &at, rows, sizeof *w->row_weight);
    w->row_self = take(w, &at, max_size(rows, tile * m->heads), sizeof *w->row_self);
    w->first_row = take(w, &at, m->experts + 1, sizeof *w->first_row);
    w->touched = take(w, &at, m->experts, sizeof *w->touched);
    return at;
}

cl_code work_create(cl_chip *c, cl_err *err)
{
    work *w = &c->work;
    widths m = measure(c, w);
    size_t chunk = (size_t)c->opt.limits.chunk, tile = TILE_BYTES / token_bytes(w, &m) / CL_X_TOKENS * CL_X_TOKENS;
    tile = tile < TILE_MIN ? TILE_MIN : tile;
    w->tile = (int)(tile < chunk ? tile : chunk);
    if (c->stage.head) {
        size_t rows = LOGITS_BYTES / (w->vocab * sizeof(float));
        rows = rows < 1 ? 1 : rows > HEAD_ROWS ? HEAD_ROWS : rows;
        w->head_rows = rows < (size_t)w->tile ? (int)rows : w->tile;
    }
    /* attend: one number per position of every block it sees, the first and the last perhaps in part */
    w->scratch_stride = round_up((size_t)c->opt.limits.context + 2 * CL_KV_BLOCK, 16);
    if (m.heads) grow(&w->scratch_stride, cl_latent_scratch(c->opt.limits.context));
    w->bytes = lay_out(c, w, &m);
    if (!(w->data = cl_malloc_aligned(w->bytes, "the work buffers", err))) return err->code;
    lay_out(c, w, &m);
    for (size_t i = 0; i < (size_t)w->tile * max_size(m.rows, m.heads); i++) w->row_self[i] = (int32_t)i;
    return CL_OK;
}

void work_free(work *w)
{
    if (w->data) cl_free_aligned(w->data, w->bytes);
    *w = (work){0};
}
