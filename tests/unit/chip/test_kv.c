/* test_kv.c: tables, forks and going back against a model that copies everything; rows out and in, byte by byte. */
#include <stdio.h>

#include "aborts.h"
#include "kernels/sets.h"
#include "kernels_data.h"
#include "kv.h"

enum { SLOTS = 5, CONTEXT = 100, LAYERS = 8 };

static cl_attention attention(int kv_heads, int head_dim, int window, bool chunked)
{
    return (cl_attention){.heads = 6, .kv_heads = kv_heads, .head_dim = head_dim, .window = window, .chunked = chunked};
}

static cl_attention latent(int rank, int rope_dim, int window)
{
    return (cl_attention){.kind = CL_ATTN_LATENT,
                          .heads = 6,
                          .kv_heads = 1,
                          .head_dim = 8,
                          .kv_rank = rank,
                          .rope_dim = rope_dim,
                          .v_dim = 4,
                          .window = window};
}

/* Every kind of layer; `nothing` of the second are cached here. */
static void make_layers(cl_attention a[LAYERS], bool nothing)
{
    a[0] = attention(2, 2, 0, false);
    a[1] = attention(nothing ? 0 : 1, 1, 5, false);
    a[2] = attention(1, 3, 21, false);
    a[3] = attention(1, 1, 16, true);
    a[4] = attention(1, 1, 11, true);
    a[5] = latent(2, 1, 0);
    a[6] = latent(1, 1, 9);
    a[7] = attention(1, 1, 60, false);
}

static kv_cache make_kv(const cl_attention *a, int n, cl_kv_format f, int slots, int context, int chunk)
{
    kv_cache kv;
    const cl_attention *list[LAYERS];
    for (int i = 0; i < n; i++) list[i] = &a[i];
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(kv_create(&kv, list, n, f, &(cl_limits){.slots = slots, .context = context, .chunk = chunk},
                                    &err),
                          CL_OK);
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++)
        if (a[i].kv_heads) bytes += (uint64_t)slots * cl_kv_layer_bytes(&a[i], f, context, chunk);
    CU_ASSERT_EQUAL(kv.bytes, bytes);
    return kv;
}

/* --- the model: every slot has its own ids --- */

typedef struct model {
    int end[SLOTS], furthest[SLOTS], id[SLOTS][CONTEXT], ids;
} model;

/* Number i of key or value of what `id` has in a layer and head: exact in float32. */
static float number(int id, int layer, int head, int i) { return (float)(((id * LAYERS + layer) * 2 + head) * 8 + i); }

static void store(const kv_cache *kv, int slot, int pos, int id)
{
    for (int l = 0; l < kv->n_layers; l++) {
        for (int head = 0; head < kv->layers[l].attn->kv_heads; head++) {
            cl_kv_head h = kv_head(kv, l, slot, head);
            float k[4], v[4];
            for (int i = 0; i < h.head_dim; i++) k[i] = number(id, l, head, i), v[i] = number(id, l, head, i + 4);
            cl_kernels_reference()->kv_store(&h, pos, k, v);
        }
    }
}

/* All that a slot holds in a layer is what was written there. */
static bool holds(const kv_cache *kv, const model *m, int slot, int l)
{
    const cl_attention *a = kv->layers[l].attn;
    bool same = true;
    for (int head = 0; head < a->kv_heads; head++) {
        cl_kv_head h = kv_head(kv, l, slot, head);
        for (int pos = kv_first(kv, l, slot); pos < m->end[slot]; pos++) {
            const size_t at = cl_kv_block_at(&h, pos / 16), j = (size_t)pos % 16, n = (size_t)h.head_dim;
            for (size_t i = 0; i < n; i++) {
                same &= ((float *)(h.keys + at))[i * 16 + j] == number(m->id[slot][pos], l, head, (int)i);
                if (h.values)
                    same &= ((float *)(h.values + at))[j * n + i] == number(m->id[slot][pos], l, head, (int)i + 4);
            }
        }
    }
    return same;
}

/* As many places hold a block as it has users; so no more blocks are in use than there are. */
static bool counted(const kv_cache *kv)
{
    bool right = true;
    for (const kv_class *c = kv->classes; c < kv->classes + kv->n_classes; c++) {
        int users[SLOTS * CONTEXT] = {0};
        for (int32_t i = 0; i < c->pool; i++) {
            right &= c->table[i] >= -1 && c->table[i] < c->pool;
            if (c->table[i] >= 0) users[c->table[i]]++;
        }
        for (int32_t i = 0; i < c->pool; i++) right &= users[i] == c->users[i] && (i >= c->lowest || users[i]);
    }
    return right;
}

static bool right(const kv_cache *kv, const model *m)
{
    bool ok = counted(kv);
    for (int slot = 0; slot < kv->limits.slots; slot++) {
        ok &= kv->end[slot] == m->end[slot];
        for (int l = 0; l < kv->n_layers; l++)
            ok &= holds(kv, m, slot, l) && (kv->layers[l].attn->window || kv_first(kv, l, slot) == 0);
        int nearest = m->furthest[slot] - kv->limits.chunk;
        for (int pos = nearest > 0 ? nearest : 0; pos <= m->end[slot]; pos++) ok &= kv_holds(kv, slot, pos);
        ok &= kv_holds(kv, slot, 0) && !kv_holds(kv, slot, m->end[slot] + 1);
    }
    return ok;
}

/* --- random micro-batches --- */

typedef struct part {
    int slot, from, pos, n; /* from -1: goes on, or back, in its own */
} part;

/* Where slot may go on: mostly within a chunk behind the furthest, sometimes anywhere that is held. */
static int some_pos(const kv_cache *kv, const model *m, int slot, uint64_t *seed)
{
    int chunk = kv->limits.chunk, end = m->end[slot], least = m->furthest[slot] - chunk;
    if (below(seed, 30) == 0) return 0;
    if (below(seed, 3) == 0)
        for (int tries = 0; tries < 5; tries++) {
            int pos = below(seed, end + 1);
            if (kv_holds(kv, slot, pos)) return pos;
        }
    least = least < 0 ? 0 : least > end ? end : least;
    return least + below(seed, end - least + 1);
}

static part some_part(const kv_cache *kv, const model *m, int slot, uint64_t *seed)
{
    part p = {.slot = slot, .from = -1, .pos = m->end[slot]};
    int kind = below(seed, 16);
    if (kind < 2) p.from = below(seed, kv->limits.slots);
    if (p.from >= 0) p.pos = some_pos(kv, m, p.from, seed);
    else if (kind < 6 || p.pos == kv->limits.context) p.pos = some_pos(kv, m, slot, seed);
    return p;
}

static void apply(kv_cache *kv, const part *p)
{
    if (p->from >= 0) kv_fork(kv, p->slot, p->from, p->pos);
    else if (!p->pos) kv_begin(kv, p->slot);
    else kv_back(kv, p->slot, p->pos);
}

static void apply_model(model *m, const part *p)
{
    const int from = p->from >= 0 ? p->from : p->slot;
    memmove(m->id[p->slot], m->id[from], sizeof m->id[0]);
    m->furthest[p->slot] = p->pos ? m->furthest[from] : 0;
    m->end[p->slot] = p->pos;
}

/* One micro-batch of some slots, in two caches alike: `other` has fewer layers here. */
static bool some_step(kv_cache *kv, kv_cache *other, model *m, uint64_t *seed)
{
    part parts[SLOTS];
    int n = 0, left = kv->limits.chunk;
    for (int slot = 0; slot < kv->limits.slots; slot++) {
        if (below(seed, 2)) continue;
        part *p = &parts[n++];
        *p = some_part(kv, m, slot, seed);
        apply(kv, p);
        apply(other, p);
        apply_model(m, p);
    }
    bool ok = right(kv, m);
    for (part *p = parts; p < parts + n; p++) {
        p->n = below(seed, left + 1);
        if (p->n > kv->limits.context - p->pos) p->n = kv->limits.context - p->pos;
        left -= p->n;
        if (!p->n) continue;
        kv_extend(kv, p->slot, p->pos, p->n);
        kv_extend(other, p->slot, p->pos, p->n);
    }
    for (const part *p = parts; p < parts + n; p++) {
        for (int pos = p->pos; pos < p->pos + p->n; pos++) {
            store(kv, p->slot, pos, m->id[p->slot][pos] = m->ids = (m->ids + 1) % 100000);
            for (int i = 0; i < kv->n_classes; i++) {
                const kv_class *c = &kv->classes[i];
                ok &= c->users[c->table[p->slot * c->blocks + pos / 16 % c->blocks]] == 1;
            }
        }
        m->end[p->slot] = p->pos + p->n;
        if (m->end[p->slot] > m->furthest[p->slot]) m->furthest[p->slot] = m->end[p->slot];
    }
    return ok;
}

/* The tables of classes with as many blocks. */
static bool same_tables(const kv_cache *a, const kv_cache *b)
{
    int n = 0;
    for (int i = 0; i < a->n_classes; i++)
        for (int j = 0; j < b->n_classes; j++)
            if (a->classes[i].blocks == b->classes[j].blocks) {
                n++;
                if (memcmp(a->classes[i].table, b->classes[j].table, (size_t)a->classes[i].pool * sizeof(int32_t)))
                    return false;
            }
    return n == b->n_classes;
}

static void test_random(void)
{
    static const struct {
        int slots, context, chunk;
    } sizes[] = {{5, 100, 7}, {2, 100, 1}, {3, 97, 16}, {4, 64, 33}, {1, 40, 5}, {5, 100, 100}};
    cl_attention a[LAYERS], b[LAYERS];
    make_layers(a, false);
    make_layers(b, true);
    for (int i = 0; i < 6; i++) {
        uint64_t seed = (uint64_t)i;
        kv_cache kv = make_kv(a, LAYERS, CL_KV_F32, sizes[i].slots, sizes[i].context, sizes[i].chunk);
        kv_cache other = make_kv(b, LAYERS, CL_KV_BF16, sizes[i].slots, sizes[i].context, sizes[i].chunk);
        model m = {0};
        bool ok = true;
        int step = 0;
        for (; step < 3000 && ok; step++)
            ok = some_step(&kv, &other, &m, &seed) && right(&kv, &m) && same_tables(&kv, &other);
        CU_ASSERT_TRUE(ok);
        if (!ok)
            printf("slots %d, context %d, chunk %d: wrong after %d steps\n", sizes[i].slots, sizes[i].context,
                   sizes[i].chunk, step);
        for (int slot = 0; slot < sizes[i].slots; slot++) kv_begin(&kv, slot);
        for (const kv_class *c = kv.classes; c < kv.classes + kv.n_classes; c++)
            for (int32_t k = 0; k < c->pool; k++) CU_ASSERT(c->users[k] == 0 && c->table[k] == -1);
        kv_free(&kv);
        kv_free(&other);
    }
}

/* --- known cases --- */

static void fill(kv_cache *kv, int slot, int end, int chunk)
{
    for (int n; kv->end[slot] < end; kv_extend(kv, slot, kv->end[slot], n))
        n = end - kv->end[slot] < chunk ? end - kv->end[slot] : chunk;
}

/* Without forks every slot has its own run of blocks, also where they grow side by side or go round a ring. */
static void test_neighbours(void)
{
    cl_attention a[2] = {attention(1, 1, 0, false), attention(1, 1, 16, false)};
    kv_cache kv = make_kv(a, 2, CL_KV_F32, 3, 100, 4);
    CU_ASSERT_FATAL(kv.n_classes == 2 && kv.classes[0].blocks == 7 && kv.classes[1].blocks == 3);
    CU_ASSERT_EQUAL(kv.table_bytes, 2 * (sizeof(kv_layer) + sizeof(kv_class)) + 4 * (2 * 21 + 3 + 2 * 9 + 3 + 3 * 3));
    for (int end = 4; end <= 100; end += 4)
        for (int slot = 2; slot >= 0; slot--) fill(&kv, slot, end, 4);
    for (int c = 0; c < 2; c++)
        for (int32_t i = 0; i < kv.classes[c].pool; i++) CU_ASSERT_EQUAL(kv.classes[c].table[i], i);
    kv_free(&kv);
}

static bool same_places(const kv_class *c, int slot, int other)
{
    bool same = true;
    for (int64_t i = 0; i < c->blocks; i++) same &= c->table[slot * c->blocks + i] == c->table[other * c->blocks + i];
    return same;
}

/* Whole blocks stay shared, one that is written into is copied, once; the last one to write keeps it. */
static void test_sharing(void)
{
    cl_attention a[1] = {attention(1, 1, 0, false)};
    kv_cache kv = make_kv(a, 1, CL_KV_F32, 3, 100, 20);
    const kv_class *c = kv.classes;
    const int32_t *table = c->table;
    fill(&kv, 0, 40, 20);
    for (int pos = 0; pos < 40; pos++) store(&kv, 0, pos, pos);
    kv_fork(&kv, 1, 0, 40);
    kv_fork(&kv, 2, 1, 35);
    CU_ASSERT(same_places(c, 0, 1) && same_places(c, 0, 2));
    CU_ASSERT(c->users[0] == 3 && c->users[1] == 3 && c->users[2] == 3);
    kv_extend(&kv, 2, 35, 20);
    CU_ASSERT(c->users[0] == 3 && c->users[1] == 3 && c->users[2] == 2 && table[16] == 16 && table[17] == 17);
    cl_kv_head h = kv_head(&kv, 0, 2, 0);
    CU_ASSERT_EQUAL(((float *)(h.keys + cl_kv_block_at(&h, 2)))[2], number(34, 0, 0, 0));
    kv_extend(&kv, 0, 40, 1);
    CU_ASSERT(table[2] == 3 && c->users[2] == 1 && table[9] == 2); /* its own is slot 1's now: the lowest free one */
    kv_extend(&kv, 1, 40, 1);
    CU_ASSERT_EQUAL(table[9], 2);
    kv_begin(&kv, 0);
    CU_ASSERT(c->users[0] == 2 && c->users[3] == 0);
    fill(&kv, 0, 70, 20); /* what others have of its run, it finds elsewhere */
    CU_ASSERT(table[0] == 3 && table[1] == 4 && table[2] == 5 && table[3] == 6 && table[4] == 7);
    kv_free(&kv);
}

static void back_too_far(void *kv) { kv_back(kv, 0, 50); }
static void fork_too_far(void *kv) { kv_fork(kv, 1, 0, 50); }
static void fork_past_end(void *kv) { kv_fork(kv, 1, 0, 71); }
static void leave_a_gap(void *kv) { kv_extend(kv, 0, 71, 1); }
static void extend_too_far(void *kv) { kv_extend(kv, 0, 70, 9); }
static void rows_too_early(void *kv) { kv_rows_out(kv, 1, 0, 0, 47, 1, (unsigned char[64]){0}); }
static void rows_too_late(void *kv) { kv_rows_out(kv, 1, 0, 0, 69, 2, (unsigned char[64]){0}); }

static void test_too_far(void)
{
    cl_attention a[2] = {attention(1, 1, 0, false), attention(1, 1, 16, false)};
    kv_cache kv = make_kv(a, 2, CL_KV_F32, 2, 100, 8);
    fill(&kv, 0, 70, 8);
    CU_ASSERT(kv_first(&kv, 0, 0) == 0 && kv_first(&kv, 1, 0) == 32);
    CU_ASSERT(kv_holds(&kv, 0, 62) && kv_holds(&kv, 0, 47) && !kv_holds(&kv, 0, 46) && kv_holds(&kv, 0, 0));
    kv_back(&kv, 0, 0);
    fill(&kv, 0, 70, 8);
    kv_back(&kv, 0, 70);
    fill(&kv, 0, 90, 8);
    kv_back(&kv, 0, 82);
    CU_ASSERT(kv_first(&kv, 1, 0) == 48 && !kv_holds(&kv, 0, 50));
    CU_ASSERT_TRUE(aborts(back_too_far, &kv));
    CU_ASSERT_TRUE(aborts(fork_too_far, &kv));
    kv_back(&kv, 0, 70);
    CU_ASSERT_TRUE(aborts(fork_past_end, &kv));
    CU_ASSERT_TRUE(aborts(leave_a_gap, &kv));
    CU_ASSERT_TRUE(aborts(extend_too_far, &kv));
    CU_ASSERT_TRUE(aborts(rows_too_early, &kv));
    CU_ASSERT_TRUE(aborts(rows_too_late, &kv));
    kv_free(&kv);
}

static void test_create(void)
{
    kv_cache kv;
    cl_err err = {0};
    cl_attention a = attention(1 << 10, 1 << 10, 0, false);
    cl_limits limits = {.slots = 1 << 30, .context = 1 << 30, .chunk = 1};
    CU_ASSERT_EQUAL(kv_create(&kv, (const cl_attention *[]){&a}, 1, CL_KV_F32, &limits, &err), CL_E_FIT);
    a = attention(1, 1, 0, false); /* blocks that cannot be counted */
    limits = (cl_limits){.slots = 1 << 10, .context = 1 << 30, .chunk = 1};
    CU_ASSERT_EQUAL(kv_create(&kv, (const cl_attention *[]){&a}, 1, CL_KV_F32, &limits, &err), CL_E_FIT);
}

/* --- rows --- */

enum { HEADS = 3, ROW_LAYERS = 5, ROW_MOST = 2 * (96 + 3) * 4 };

static void make_row_layers(cl_attention a[ROW_LAYERS], int kv_heads)
{
    a[0] = attention(kv_heads, 20, 0, false);
    a[1] = attention(kv_heads, 64, 21, false);
    a[2] = attention(kv_heads, 33, 16, true);
    a[3] = latent(64, 32, 0);
    a[4] = latent(40, 8, 9);
}

/* Key or value of a position, as it comes to the cache. */
static void fill_vector(int layer, int head, int pos, bool value, float *x)
{
    uint64_t seed = (uint64_t)(((pos * ROW_LAYERS + layer) * HEADS + head) * 2 + value);
    for (int i = 0; i < 96; i++) x[i] = uniform(&seed) * (i == 5 ? 30 : 1);
}

static void store_rows(const kv_cache *kv, const cl_kernels *k, int slot, int first, int end)
{
    for (int l = 0; l < kv->n_layers; l++) {
        for (int head = 0; head < kv->layers[l].attn->kv_heads; head++) {
            cl_kv_head h = kv_head(kv, l, slot, head);
            for (int pos = first; pos < end; pos++) {
                float key[96], value[96];
                fill_vector(l, head, pos, false, key);
                fill_vector(l, head, pos, true, value);
                k->kv_store(&h, pos, key, value);
            }
        }
    }
}

/* What a vector's row must be, by the formats' definitions; its bytes. */
static size_t direct_vector(cl_kv_format f, int n, const float *x, unsigned char *row)
{
    size_t scales = (size_t)(n + 31) / 32 * sizeof(float);
    for (int i = 0; f == CL_KV_F32 && i < n; i++) memcpy(row + 4 * i, &x[i], 4);
    for (int i = 0; f == CL_KV_BF16 && i < n; i++) memcpy(row + 2 * i, &(uint16_t){cl_f32_to_bf16(x[i])}, 2);
    for (int i = 0; f == CL_KV_Q8 && i < n; i += 32) {
        float scale = cl_block_q8(x + i, n - i < 32 ? n - i : 32, (int8_t *)row + scales + i);
        memcpy(row + i / 32 * 4, &scale, 4);
    }
    return f == CL_KV_F32 ? 4 * (size_t)n : f == CL_KV_BF16 ? 2 * (size_t)n : scales + (size_t)n;
}

static bool right_rows(const kv_cache *kv, int slot)
{
    bool same = true;
    for (int l = 0; l < kv->n_layers; l++) {
        const cl_attention *a = kv->layers[l].attn;
        for (int head = 0; head < a->kv_heads; head++) {
            for (int pos = kv_first(kv, l, slot); pos < kv->end[slot]; pos++) {
                unsigned char got[ROW_MOST + 1], want[ROW_MOST];
                float x[96];
                got[kv_row_bytes(kv, l)] = 0x5a;
                fill_vector(l, head, pos, false, x);
                size_t n = direct_vector(kv->format, cl_attention_cached_dim(a), x, want);
                fill_vector(l, head, pos, true, x);
                if (a->kind != CL_ATTN_LATENT) n += direct_vector(kv->format, a->head_dim, x, want + n);
                kv_rows_out(kv, l, slot, head, pos, 1, got);
                same &= n == kv_row_bytes(kv, l) && memcmp(got, want, n) == 0 && got[n] == 0x5a;
            }
        }
    }
    return same;
}

/* A slot of `to`, which has heads kv0 and on of the grouped layers, gets what one of `from` holds. */
static void move_slot(const kv_cache *from, int slot, kv_cache *to, int other, int kv0)
{
    int first[ROW_LAYERS];
    for (int l = 0; l < ROW_LAYERS; l++) first[l] = kv_first(from, l, slot);
    kv_expect(to, other, first, from->end[slot]);
    for (int l = 0; l < ROW_LAYERS; l++) {
        const cl_attention *a = to->layers[l].attn;
        const int at = kv_first(to, l, other), n = to->end[other] - at;
        CU_ASSERT(at >= first[l] && at <= cl_attention_first(a, to->end[other]));
        for (int head = 0; head < a->kv_heads; head++) {
            unsigned char *rows = need((size_t)n, kv_row_bytes(to, l));
            kv_rows_out(from, l, slot, a->kind == CL_ATTN_LATENT ? 0 : kv0 + head, at, n, rows);
            kv_rows_in(to, l, other, head, at, n / 2, rows);
            kv_rows_in(to, l, other, head, at + n / 2, n - n / 2, rows + (size_t)(n / 2) * kv_row_bytes(to, l));
            free(rows);
        }
    }
}

/* What a query at the last position finds, with two kernel sets. */
static bool same_attention(const kv_cache *a, int slot, const kv_cache *b, int other, int kv0, const cl_kernels *k)
{
    const cl_kernels *ref = cl_kernels_reference();
    bool same = true;
    const int pos = a->end[slot] - 1;
    float *scratch = need(cl_attend_scratch(CONTEXT, 96) + cl_latent_scratch(CONTEXT, 96), sizeof *scratch), q[96],
          x[96], y[96];
    fill_vector(0, 0, 12345, false, q);
    for (int l = 0; l < ROW_LAYERS; l++) {
        const cl_attention *at = b->layers[l].attn;
        const bool is_latent = at->kind == CL_ATTN_LATENT;
        const int64_t lo = cl_attention_first(at, pos);
        const size_t n = (size_t)(is_latent ? at->kv_rank : at->head_dim);
        for (int head = 0; head < at->kv_heads; head++) {
            cl_kv_head ha = kv_head(a, l, slot, is_latent ? 0 : kv0 + head), hb = kv_head(b, l, other, head);
            if (is_latent) {
                ref->attend_latent(&ha, 1, q, 96, at->kv_rank, lo, pos, 0.2f, NULL, x, 96, scratch);
                k->attend_latent(&hb, 1, q, 96, at->kv_rank, lo, pos, 0.2f, NULL, y, 96, scratch);
            } else {
                ref->attend(&ha, 1, &(cl_query){q, x, NULL, lo, pos}, 0.2f, scratch);
                k->attend(&hb, 1, &(cl_query){q, y, NULL, lo, pos}, 0.2f, scratch);
            }
            same &= isfinite(x[0]) && memcmp(x, y, n * sizeof *x) == 0;
        }
    }
    free(scratch);
    return same;
}

/* From one chip with all heads, whose slot went back and was forked, to two with some of them and other chunks, and
 * back into a third; then on from there. */
static void check_rows(cl_kv_format f, const cl_kernels *k, int end)
{
    cl_attention all[ROW_LAYERS], two[ROW_LAYERS], one[ROW_LAYERS];
    make_row_layers(all, HEADS);
    make_row_layers(two, 2);
    make_row_layers(one, 1);
    kv_cache a = make_kv(all, ROW_LAYERS, f, 3, CONTEXT, 12), b[2], c = make_kv(all, ROW_LAYERS, f, 2, CONTEXT, 30);
    b[0] = make_kv(two, ROW_LAYERS, f, 2, CONTEXT, 3);
    b[1] = make_kv(one, ROW_LAYERS, f, 4, CONTEXT, 50);
    const cl_kernels *ref = cl_kernels_reference();
    for (int at = 0, n; at < end; at += n) {
        n = end - at < 12 ? end - at : 12;
        kv_extend(&a, 1, at, n);
        store_rows(&a, ref, 1, at, at + n);
        if (at != 24) continue;
        kv_fork(&a, 0, 1, 30);
        kv_back(&a, 1, 27);
        n = 3;
    }
    CU_ASSERT_TRUE(right_rows(&a, 1));
    kv_extend(&b[0], 0, 0, 3); /* the other's slots hold something */
    kv_extend(&b[0], 1, 0, 3);
    for (int i = 0; i < 2; i++) move_slot(&a, 1, &b[i], 1, 2 * i);
    CU_ASSERT_TRUE(same_attention(&a, 1, &b[0], 1, 0, k) && same_attention(&a, 1, &b[1], 1, 2, k));
    move_slot(&a, 1, &c, 0, 0);
    CU_ASSERT_TRUE(right_rows(&c, 0) && same_attention(&a, 1, &c, 0, 0, k));
    if (end < CONTEXT - 2) {
        kv_extend(&a, 1, end, 2);
        kv_extend(&c, 0, end, 2);
        store_rows(&a, ref, 1, end, end + 2);
        store_rows(&c, k, 0, end, end + 2);
        CU_ASSERT_TRUE(right_rows(&c, 0) && same_attention(&a, 1, &c, 0, 0, k));
    }
    kv_free(&a);
    kv_free(&b[0]);
    kv_free(&b[1]);
    kv_free(&c);
}

static void test_rows(void)
{
    static const int ends[] = {1, 16, 31, 40, 77, CONTEXT};
    for (const char *const *name = cl_kernels_available(); *name; name++)
        for (int f = 0; f < 3; f++)
            for (int i = 0; i < 6; i++) check_rows(cache_formats[f], set_named(*name), ends[i]);
}

/* What never came is not there to go back to. */
static void test_expect(void)
{
    cl_attention a[2] = {attention(1, 1, 0, false), attention(1, 1, 16, false)};
    kv_cache kv = make_kv(a, 2, CL_KV_F32, 2, 100, 8);
    kv_expect(&kv, 0, (int[]){0, 60}, 75);
    CU_ASSERT(kv.end[0] == 75 && kv_first(&kv, 0, 0) == 0 && kv_first(&kv, 1, 0) == 60);
    CU_ASSERT(kv_holds(&kv, 0, 75) && !kv_holds(&kv, 0, 74));
    kv_fork(&kv, 1, 0, 75);
    CU_ASSERT(kv_first(&kv, 1, 1) == 60 && !kv_holds(&kv, 1, 74));
    kv_begin(&kv, 1);
    CU_ASSERT_EQUAL(kv_first(&kv, 1, 1), 0);
    kv_expect(&kv, 0, NULL, 75);
    CU_ASSERT(kv_first(&kv, 1, 0) == 32 && kv_holds(&kv, 0, 67) && kv_holds(&kv, 0, 47) && !kv_holds(&kv, 0, 46));
    kv_expect(&kv, 0, NULL, 0);
    CU_ASSERT_EQUAL(kv.end[0], 0);
    kv_free(&kv);
}

int main(void)
{
    CU_TestInfo tests[] = {{"random micro-batches", test_random},
                           {"neighbours", test_neighbours},
                           {"sharing", test_sharing},
                           {"too far", test_too_far},
                           {"larger than any memory", test_create},
                           {"rows", test_rows},
                           {"rows that never came", test_expect},
                           CU_TEST_INFO_NULL};
    return run_suite("kv", tests);
}
