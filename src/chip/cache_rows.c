/* cache_rows.c: rows of the cache, out and in: one form for every layout, kernel set and chunk. */
#include <string.h>

#include "kernels/sets.h"
#include "kv.h"

size_t kv_row_bytes(const kv_cache *kv, int layer)
{
    const cl_attention *a = kv->layers[layer].attn;
    return a->kv_heads ? (size_t)cl_kv_read_bytes(a, kv->format, 1) / (size_t)a->kv_heads : 0;
}

/* One position of one half of a block: number i of it lies at data + i * step, the scale of its numbers 32 i ..
 * 32 i + 31 at scales + 16 i. */
typedef struct vector {
    unsigned char *data;
    float *scales; /* NULL: none */
    size_t step;   /* numbers */
} vector;

static vector vector_at(const cl_kv_head *h, bool value, int pos)
{
    unsigned char *block = (value ? h->values : h->keys) + cl_kv_block_at(h, pos / CL_KV_BLOCK);
    vector v = {.step = value ? 1 : CL_KV_BLOCK};
    const size_t j = (size_t)(pos % CL_KV_BLOCK), at = value ? j * (size_t)h->head_dim : j;
    switch (h->format) {
    case CL_KV_F32: v.data = block + at * sizeof(float); break;
    case CL_KV_BF16: v.data = block + at * sizeof(uint16_t); break;
    case CL_KV_Q8:
        v.scales = (float *)block + j;
        v.data = block + cl_kv_scales(h->head_dim) * sizeof(float) + at;
        break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
    return v;
}

/* n things of `size` bytes between the cache, where they are `step` of them apart, and a row. `size` is a constant
 * after inlining. */
static inline void move(bool in, unsigned char *cache, size_t step, unsigned char *row, int n, size_t size)
{
    for (size_t i = 0; i < (size_t)n; i++) {
        unsigned char *c = cache + i * step * size, *r = row + i * size;
        memcpy(in ? c : r, in ? r : c, size);
    }
}

/* Returns the row's bytes. */
static size_t move_vector(bool in, const cl_kv_head *h, bool value, int pos, unsigned char *row)
{
    const vector v = vector_at(h, value, pos);
    const int n = h->head_dim;
    const size_t scales = v.scales ? (size_t)(n + 31) / 32 * sizeof(float) : 0;
    if (scales) move(in, (unsigned char *)v.scales, CL_KV_BLOCK, row, (n + 31) / 32, sizeof(float));
    switch (h->format) {
    case CL_KV_F32: move(in, v.data, v.step, row, n, sizeof(float)); return (size_t)n * sizeof(float);
    case CL_KV_BF16: move(in, v.data, v.step, row, n, sizeof(uint16_t)); return (size_t)n * sizeof(uint16_t);
    default: move(in, v.data, v.step, row + scales, n, 1); return scales + (size_t)n;
    }
}

static void move_rows(bool in, const kv_cache *kv, int layer, int slot, int head, int pos, int n, unsigned char *rows)
{
    if (pos < kv_first(kv, layer, slot) || n > kv->end[slot] - pos)
        CL_BUG("rows %d .. %d of a cache that holds %d .. %d", pos, pos + n - 1, kv_first(kv, layer, slot),
               kv->end[slot] - 1);
    const cl_kv_head h = kv_head(kv, layer, slot, head);
    for (int i = pos; i < pos + n; i++) {
        rows += move_vector(in, &h, false, i, rows);
        if (h.values) rows += move_vector(in, &h, true, i, rows);
    }
}

void kv_rows_out(const kv_cache *kv, int layer, int slot, int head, int pos, int n, unsigned char *rows)
{
    move_rows(false, kv, layer, slot, head, pos, n, rows);
}

void kv_rows_in(kv_cache *kv, int layer, int slot, int head, int pos, int n, const unsigned char *rows)
{
    move_rows(true, kv, layer, slot, head, pos, n, (unsigned char *)(uintptr_t)rows);
}
