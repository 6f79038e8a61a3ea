/* work.c: the buffers of a step: how large, and where in one block of memory. */
#include "chip_impl.h"

enum {
    TILE_BYTES = 10 << 20, /* tiles are as long as this allows, */
    TILE_MIN = 8,          /* but not shorter */
    LOGITS_BYTES = 8 << 20
};

typedef struct widths {
    size_t rows_per_token, experts, top_k, rope, pairs_hidden;
} widths;

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Strides and counts of the widest of this stage's layers. */
static widths measure(const cl_chip *c, work *w)
{
    widths m = {.rows_per_token = 1};
    w->hidden = round_up((size_t)c->spec.hidden, 32);
    for (int i = 0; i < c->stage.n_layers; i++) {
        const cl_layer *l = &c->spec.layers[c->stage.first_layer + i];
        w->q = max_size(w->q, round_up((size_t)l->attn.heads * (size_t)l->attn.head_dim, 32));
        w->kv = max_size(w->kv, round_up((size_t)l->attn.kv_heads * (size_t)l->attn.head_dim, 32));
        w->ffn = max_size(w->ffn, round_up((size_t)l->ffn.width, 32));
        if (l->ffn.kind != CL_FFN_MOE) continue;
        m.rows_per_token = max_size(m.rows_per_token, (size_t)l->ffn.top_k);
        m.top_k = max_size(m.top_k, (size_t)l->ffn.top_k);
        m.experts = max_size(m.experts, (size_t)l->ffn.experts);
        m.pairs_hidden = w->hidden;
    }
    for (int i = 0; i < c->spec.n_ropes; i++) m.rope = max_size(m.rope, (size_t)c->spec.ropes[i].dims);
    w->rope_stride = round_up(m.rope, 16);
    w->router_stride = round_up(m.experts, 16);
    w->vocab = c->stage.head ? round_up((size_t)c->spec.vocab, 16) : 0;
    return m;
}

/* Bytes of the buffers that grow with the tile, for one token of it. */
static size_t token_bytes(const work *w, const widths *m)
{
    size_t floats = 2 * w->hidden + 2 * w->q + 2 * w->kv + m->rows_per_token * (2 * w->ffn + m->pairs_hidden);
    size_t widest = max_size(w->hidden, max_size(w->q, m->rows_per_token * w->ffn));
    return floats * sizeof(float) + widest + widest / 32 * 12;
}

static void *take(const work *w, size_t *at, size_t n, size_t size)
{
    void *p = w->data ? w->data + *at : NULL;
    *at += round_up(n * size, 64);
    return p;
}

/* Places every buffer; called once to count and once, with data, to point. */
static size_t lay_out(const cl_chip *c, work *w, const widths *m)
{
    size_t at = 0, tile = (size_t)w->tile, rows = (size_t)w->rows, chunk = (size_t)c->opt.limits.chunk, f = sizeof(float);
    size_t threads = (size_t)c->opt.threads, tiles8 = round_up(tile, CL_X_TOKENS), rows8 = round_up(rows, CL_X_TOKENS);
    size_t x8 = max_size(tiles8 * max_size(w->hidden, w->q), rows8 * w->ffn);
    w->tokens = take(w, &at, chunk, sizeof *w->tokens);
    w->cos_sin = take(w, &at, (size_t)c->spec.n_ropes * chunk * w->rope_stride, f);
    w->norm = take(w, &at, tile * w->hidden, f);
    w->qs = take(w, &at, tile * w->q, f);
    w->att = take(w, &at, tile * w->q, f);
    w->ks = take(w, &at, tile * w->kv, f);
    w->vs = take(w, &at, tile * w->kv, f);
    w->gate = take(w, &at, rows * w->ffn, f);
    w->up = take(w, &at, rows * w->ffn, f);
    w->down = take(w, &at, rows * m->pairs_hidden, f);
    w->out = take(w, &at, tile * w->hidden, f);
    w->logits = take(w, &at, (size_t)w->head_rows * w->vocab, f);
    w->x8 = take(w, &at, x8, 1);
    w->x8_scale = take(w, &at, x8 / 32, f);
    w->x_sum = take(w, &at, x8 / 32, f);
    w->x8_sum = take(w, &at, x8 / 32, sizeof *w->x8_sum);
    w->scratch = take(w, &at, threads * w->scratch_stride, f);
    w->router = take(w, &at, tile * w->router_stride, f);
    w->choices = take(w, &at, tile * m->top_k, sizeof *w->choices);
    w->row_token = take(w, &at, rows, sizeof *w->row_token);
    w->row_self = take(w, &at, rows, sizeof *w->row_self);
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
    w->rows = w->tile * (int)m.rows_per_token;
    if (c->stage.head) {
        size_t rows = LOGITS_BYTES / (w->vocab * sizeof(float));
        rows = rows < 1 ? 1 : rows > HEAD_ROWS ? HEAD_ROWS : rows;
        w->head_rows = rows < (size_t)w->tile ? (int)rows : w->tile;
    }
    /* attend: one number per position of every block it sees, the first and the last perhaps in part */
    w->scratch_stride = round_up((size_t)c->opt.limits.context + 2 * CL_KV_BLOCK, 16);
    w->bytes = lay_out(c, w, &m);
    if (!(w->data = cl_malloc_aligned(w->bytes, "the work buffers", err))) return err->code;
    lay_out(c, w, &m);
    for (int i = 0; i < w->rows; i++) w->row_self[i] = i;
    return CL_OK;
}

void work_free(work *w)
{
    if (w->data) cl_free_aligned(w->data, w->bytes);
    *w = (work){0};
}
