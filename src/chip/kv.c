/* kv.c: which block of the cache is whose: tables, forks, going back; and where blocks lie. */
#include "kv.h"

#include <stdlib.h>
#include <string.h>

/* --- sizes --- */

static cl_code too_large(cl_err *err)
{
    return cl_fail(err, CL_E_FIT, "the KV cache: larger than any memory (use fewer slots or a shorter context)");
}

/* Blocks of a slot in this layer, and the bytes of its pools. */
static cl_code size_layer(const cl_attention *a, cl_kv_format format, const cl_limits *limits, int64_t *blocks,
                          size_t *bytes, cl_err *err)
{
    uint64_t slot = cl_kv_layer_bytes(a, format, limits->context, limits->chunk);
    *blocks = cl_kv_blocks(a, limits->context, limits->chunk);
    *bytes = 0;
    if (slot == UINT64_MAX || __builtin_mul_overflow(slot, (uint64_t)limits->slots, bytes)) return too_large(err);
    return *blocks > INT32_MAX / limits->slots ? too_large(err) : CL_OK;
}

static size_t class_bytes(int64_t blocks, size_t slots) { return (2 * (size_t)blocks + 1) * slots * sizeof(int32_t); }

static size_t layer_table_bytes(size_t n, size_t slots)
{
    return n * (sizeof(kv_layer) + sizeof(kv_class)) + (n + 1) * slots * sizeof(int32_t);
}

cl_code kv_size(const cl_attention *const *attn, int n, cl_kv_format format, const cl_limits *limits, size_t *bytes,
                size_t *table_bytes, cl_err *err)
{
    const size_t slots = (size_t)limits->slots;
    *bytes = 0;
    *table_bytes = layer_table_bytes((size_t)n, slots);
    for (int i = 0; i < n; i++) {
        int64_t blocks, other;
        size_t layer;
        if (!attn[i]->kv_heads) continue;
        cl_code c = size_layer(attn[i], format, limits, &blocks, &layer, err);
        if (c != CL_OK || __builtin_add_overflow(*bytes, layer, bytes)) return c != CL_OK ? c : too_large(err);
        bool known = false;
        for (int k = 0; k < i && !known; k++)
            known = attn[k]->kv_heads && size_layer(attn[k], format, limits, &other, &layer, err) == CL_OK &&
                    other == blocks;
        *table_bytes += known ? 0 : class_bytes(blocks, slots);
    }
    return CL_OK;
}

/* The class with so many blocks, which is made if there is none yet. */
static cl_code class_of(kv_cache *kv, int64_t blocks, kv_class **out, cl_err *err)
{
    int64_t slots = kv->limits.slots;
    for (int i = 0; i < kv->n_classes; i++) {
        *out = &kv->classes[i];
        if ((*out)->blocks == blocks) return CL_OK;
    }
    kv_class *c = *out = &kv->classes[kv->n_classes++];
    *c = (kv_class){.blocks = blocks, .pool = (int32_t)(slots * blocks)};
    c->table = cl_malloc((size_t)c->pool, sizeof *c->table, "the tables of cache blocks", err);
    c->users = cl_calloc((size_t)c->pool, sizeof *c->users, "the tables of cache blocks", err);
    c->first = cl_calloc((size_t)slots, sizeof *c->first, "the tables of cache blocks", err);
    if (!c->table || !c->users || !c->first) return err->code;
    memset(c->table, 0xff, (size_t)c->pool * sizeof *c->table);
    kv->table_bytes += class_bytes(blocks, (size_t)slots);
    return CL_OK;
}

/* *bytes grows by those of this layer's pools. */
static cl_code open_layer(kv_cache *kv, kv_layer *l, size_t *bytes, cl_err *err)
{
    int64_t blocks;
    size_t own;
    cl_code c = size_layer(l->attn, kv->format, &kv->limits, &blocks, &own, err);
    if (c != CL_OK || __builtin_add_overflow(*bytes, own, bytes)) return c != CL_OK ? c : too_large(err);
    l->block = cl_kv_block_bytes(kv->format, cl_attention_cached_dim(l->attn));
    return class_of(kv, blocks, &l->class, err);
}

static cl_code create(kv_cache *kv, const cl_attention *const *attn, cl_err *err)
{
    const size_t n = (size_t)kv->n_layers, slots = (size_t)kv->limits.slots;
    kv->layers = cl_calloc(n, sizeof *kv->layers, "the table of caches", err);
    kv->classes = cl_calloc(n, sizeof *kv->classes, "the table of caches", err);
    kv->from = cl_calloc(n * slots, sizeof *kv->from, "the table of caches", err);
    kv->end = cl_calloc(slots, sizeof *kv->end, "the table of caches", err);
    if (!kv->layers || !kv->classes || !kv->from || !kv->end) return err->code;
    kv->table_bytes = layer_table_bytes(n, slots);
    size_t bytes = 0;
    cl_code code = CL_OK;
    for (size_t i = 0; i < n && code == CL_OK; i++) {
        kv->layers[i] = (kv_layer){.attn = attn[i], .from = kv->from + i * slots};
        if (attn[i]->kv_heads) code = open_layer(kv, &kv->layers[i], &bytes, err);
    }
    if (code) return code;
    if (!(kv->data = cl_malloc_aligned(bytes, "the KV cache", err))) return err->code;
    kv->bytes = bytes;
    unsigned char *at = kv->data;
    for (size_t i = 0; i < n; i++) {
        kv_layer *l = &kv->layers[i];
        l->data = at;
        if (l->class) at += (size_t)cl_attention_cached(l->attn) * (size_t)l->class->pool * l->block;
    }
    return CL_OK;
}

cl_code kv_create(kv_cache *kv, const cl_attention *const *attn, int n, cl_kv_format format, const cl_limits *limits,
                  cl_err *err)
{
    *kv = (kv_cache){.format = format, .limits = *limits, .n_layers = n};
    cl_code code = create(kv, attn, err);
    if (code) kv_free(kv);
    return code;
}

void kv_free(kv_cache *kv)
{
    if (kv->data) cl_free_aligned(kv->data, kv->bytes);
    for (int i = 0; i < kv->n_classes; i++) {
        free(kv->classes[i].table);
        free(kv->classes[i].users);
        free(kv->classes[i].first);
    }
    free(kv->layers);
    free(kv->classes);
    free(kv->from);
    free(kv->end);
    *kv = (kv_cache){0};
}

cl_kv_head kv_head(const kv_cache *kv, int layer, int slot, int head)
{
    const kv_layer *l = &kv->layers[layer];
    const size_t pool = (size_t)l->class->pool * l->block;
    unsigned char *keys = l->data + 2 * (size_t)head * pool;
    return (cl_kv_head){.format = kv->format,
                        .head_dim = cl_attention_cached_dim(l->attn),
                        .blocks = l->class->blocks,
                        .block_bytes = l->block,
                        .table = l->class->table + (int64_t)slot * l->class->blocks,
                        .keys = keys,
                        .values = l->attn->kind == CL_ATTN_LATENT ? NULL : keys + pool};
}

/* --- blocks --- */

/* The number of a block's place in all tables. */
static int64_t place_of(const kv_class *c, int slot, int64_t block)
{
    return (int64_t)slot * c->blocks + block % c->blocks;
}

static void take(kv_class *c, int64_t place)
{
    int32_t block = (int32_t)place;
    if (c->users[block]) {
        while (c->lowest < c->pool && c->users[c->lowest]) c->lowest++;
        block = c->lowest;
    }
    if (block == c->pool) CL_BUG("all %d blocks of a cache are in use", c->pool);
    c->users[block] = 1;
    c->table[place] = block;
}

static void give_back(kv_class *c, int64_t place)
{
    int32_t block = c->table[place];
    if (block < 0) return;
    if (!--c->users[block] && block < c->lowest) c->lowest = block;
    c->table[place] = -1;
}

/* Forgets the positions from pos on of the slot, whose end is `end`. The block of pos stays where it holds something
 * before it. */
static void forget(kv_class *c, int slot, int pos, int end)
{
    const bool all = c->first[slot] >= pos;
    int64_t block = all ? c->first[slot] / CL_KV_BLOCK : (pos - 1) / CL_KV_BLOCK + 1;
    for (; block * CL_KV_BLOCK < end; block++) give_back(c, place_of(c, slot, block));
    if (all) c->first[slot] = pos;
}

/* What is in a block goes to another one, in all layers of the class. */
static void copy_block(kv_cache *kv, const kv_class *c, int32_t from, int32_t to)
{
    for (kv_layer *l = kv->layers; l < kv->layers + kv->n_layers; l++) {
        if (l->class != c) continue;
        unsigned char *pool = l->data;
        for (int64_t i = 0; i < cl_attention_cached(l->attn); i++, pool += (size_t)c->pool * l->block)
            memcpy(pool + (size_t)to * l->block, pool + (size_t)from * l->block, l->block);
    }
}

/* The block in a place becomes the slot's alone. keep: with what is in it, if there is one. */
static void own(kv_cache *kv, kv_class *c, int64_t place, bool keep)
{
    const int32_t before = c->table[place];
    if (before >= 0 && c->users[before] == 1) return;
    give_back(c, place);
    take(c, place);
    if (keep && before >= 0) copy_block(kv, c, before, c->table[place]);
}

/* --- slots --- */

int kv_first(const kv_cache *kv, int layer, int slot)
{
    const kv_layer *l = &kv->layers[layer];
    int32_t end = kv->end[slot], first = l->class ? l->class->first[slot] : end;
    if (first < l->from[slot]) first = l->from[slot];
    return first < end ? first : end;
}

bool kv_holds(const kv_cache *kv, int slot, int pos)
{
    if (pos > kv->end[slot]) return false;
    for (int i = 0; i < kv->n_layers; i++) {
        const kv_layer *l = &kv->layers[i];
        int64_t seen = cl_attention_first(l->attn, pos);
        if (l->class && seen < pos && seen < kv_first(kv, i, slot)) return false;
    }
    return true;
}

static void check_holds(const kv_cache *kv, int slot, int pos)
{
    if (!kv_holds(kv, slot, pos))
        CL_BUG("slot %d cannot go on at position %d: what is seen from there is not in its cache of %d", slot, pos,
               kv->end[slot]);
}

void kv_back(kv_cache *kv, int slot, int pos)
{
    if (pos == kv->end[slot]) return;
    check_holds(kv, slot, pos);
    for (int i = 0; i < kv->n_classes; i++) forget(&kv->classes[i], slot, pos, kv->end[slot]);
    for (int i = 0; i < kv->n_layers; i++) {
        int32_t *from = &kv->layers[i].from[slot];
        if (*from > pos) *from = pos;
    }
    kv->end[slot] = pos;
}

void kv_begin(kv_cache *kv, int slot) { kv_back(kv, slot, 0); }

void kv_fork(kv_cache *kv, int slot, int from, int pos)
{
    if (slot == from) {
        kv_back(kv, slot, pos);
        return;
    }
    check_holds(kv, from, pos);
    kv_begin(kv, slot);
    for (kv_class *c = kv->classes; c < kv->classes + kv->n_classes; c++) {
        c->first[slot] = c->first[from] < pos ? c->first[from] : pos;
        for (int64_t block = c->first[slot] / CL_KV_BLOCK; block * CL_KV_BLOCK < pos && c->first[from] < pos; block++) {
            int32_t shared = c->table[place_of(c, slot, block)] = c->table[place_of(c, from, block)];
            c->users[shared]++;
        }
    }
    for (int i = 0; i < kv->n_layers; i++) {
        int32_t *here = kv->layers[i].from;
        here[slot] = here[from] < pos ? here[from] : pos;
    }
    kv->end[slot] = pos;
}

/* Positions pos .. end - 1. The first block may hold earlier ones; a new one may come in the place of one that leaves
 * the ring. */
static void extend(kv_cache *kv, kv_class *c, int slot, int pos, int end)
{
    const int64_t last = (end - 1) / CL_KV_BLOCK, left = (last - c->blocks + 1) * CL_KV_BLOCK;
    for (int64_t block = pos / CL_KV_BLOCK; block <= last; block++)
        own(kv, c, place_of(c, slot, block), block * CL_KV_BLOCK < pos);
    if (left > c->first[slot]) c->first[slot] = (int32_t)left;
}

void kv_extend(kv_cache *kv, int slot, int pos, int n)
{
    if (pos != kv->end[slot] || n > kv->limits.chunk || n > kv->limits.context - pos)
        CL_BUG("slot %d ends at %d of %d: no %d positions can follow from %d on", slot, kv->end[slot],
               kv->limits.context, n, pos);
    for (int i = 0; i < kv->n_classes; i++) extend(kv, &kv->classes[i], slot, pos, pos + n);
    kv->end[slot] = pos + n;
}

void kv_expect(kv_cache *kv, int slot, const int *first, int end)
{
    kv_begin(kv, slot);
    if (end < 0 || end > kv->limits.context) CL_BUG("%d positions of %d", end, kv->limits.context);
    for (kv_class *c = kv->classes; end && c < kv->classes + kv->n_classes; c++) {
        int64_t left = ((end - 1) / CL_KV_BLOCK - c->blocks + 1) * CL_KV_BLOCK;
        extend(kv, c, slot, left > 0 ? (int)left : 0, end);
    }
    kv->end[slot] = end;
    for (int i = 0; first && i < kv->n_layers; i++) kv->layers[i].from[slot] = first[i] < end ? first[i] : end;
    check_holds(kv, slot, end);
}
