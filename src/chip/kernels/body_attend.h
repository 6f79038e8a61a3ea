/* body_attend.h: the attention of a kernel set, part of body.h.
 *
 * Lanes are the 16 positions of a block for scores, 16 numbers of the head for values. Queries of one kv head go
 * through the cache in groups: a key or a value is loaded and converted once for a group. `f`, `blocks`, `heads`,
 * `queries` and `width` are constants after inlining. */

enum {
    /* chains at once, and most queries of a group */
    LANES_SCORES = LANES_CHAINS > LANES_TOKENS ? LANES_CHAINS : LANES_TOKENS,
    /* the same for values: two vectors for each weight that is loaded */
    LANES_VALUES = LANES_CHAINS == 8 ? 16 : LANES_SCORES,
    LATENT_CHAINS = 4
};

INLINE int number_bytes(cl_kv_format f) { return f == CL_KV_F32 ? 4 : f == CL_KV_BF16 ? 2 : 1; }

/* Asks for the line that lies `ahead` bytes after p, or nowhere. */
INLINE void fetch_line(const unsigned char *p, size_t ahead)
{
    __builtin_prefetch((const void *)((uintptr_t)p + ahead), 0, 3);
}

/* Number i of the keys of a block, 16 positions; bf16: in the order of vf_load_bf16_apart. */
INLINE vf key_lanes(cl_kv_format f, const unsigned char *numbers, int i)
{
    return f == CL_KV_F32    ? vf_load((const float *)numbers + i * 16)
           : f == CL_KV_BF16 ? vf_load_bf16_apart(numbers + i * 32)
                             : vf_load_i8(numbers + i * 16);
}

/* s[c * heads + t]: scores of `blocks` blocks from b on for `heads` queries, not yet scaled. Number i of query t is
 * q[t * q_stride + i * q_step]. */
INLINE void score_blocks(cl_kv_format f, int blocks, int heads, const cl_kv_head *h, const float *q, size_t q_stride,
                         size_t q_step, int64_t b, vf *s)
{
    const size_t ahead = (size_t)blocks * (size_t)h->head_dim * 32; /* about as far as the next blocks */
    const unsigned char *k[LANES_SCORES], *numbers[LANES_SCORES];
    vf sum[LANES_SCORES];
    for (int c = 0; c < blocks; c++) {
        k[c] = h->keys + cl_kv_block_at(h, b + c);
        numbers[c] = k[c] + (f == CL_KV_Q8 ? cl_kv_scales(h->head_dim) * sizeof(float) : 0);
        for (int t = 0; t < heads; t++) sum[c * heads + t] = vf_set1(0);
    }
    for (int i0 = 0, end; i0 < h->head_dim; i0 = end) {
        end = f == CL_KV_Q8 && h->head_dim - i0 > 32 ? i0 + 32 : h->head_dim;
        vf part[LANES_SCORES];
        for (int c = 0; c < blocks * heads; c++) part[c] = vf_set1(0);
        for (int i = i0; i < end; i++) {
            for (int c = 0; c < blocks; c++) {
                vf key = key_lanes(f, numbers[c], i);
                fetch_line(numbers[c] + i * 16 * number_bytes(f), ahead);
                for (int t = 0; t < heads; t++) {
                    vf x = vf_set1(q[(size_t)t * q_stride + (size_t)i * q_step]);
                    part[c * heads + t] = vf_fma(x, key, part[c * heads + t]);
                }
            }
        }
        for (int c = 0; c < blocks * heads; c++) {
            sum[c] = f == CL_KV_Q8 ? vf_fma(vf_load((const float *)k[c / heads] + i0 / 32 * 16), part[c], sum[c])
                                   : part[c];
        }
    }
    for (int c = 0; c < blocks * heads; c++) s[c] = f == CL_KV_BF16 ? vf_together(sum[c]) : sum[c];
}

/* Positions of a block that are visible. */
typedef struct seen {
    int from, to;
} seen;

INLINE seen seen_of(int64_t lo, int64_t pos, int64_t b)
{
    return (seen){b == lo / CL_KV_BLOCK ? (int)(lo % CL_KV_BLOCK) : 0,
                  b == pos / CL_KV_BLOCK ? (int)(pos % CL_KV_BLOCK) : CL_KV_BLOCK - 1};
}

INLINE bool all_seen(seen s) { return !s.from && s.to == CL_KV_BLOCK - 1; }

/* Lanes of block b that are visible, of x; y elsewhere. */
INLINE vf visible(vf x, vf y, int64_t lo, int64_t pos, int64_t b)
{
    const seen s = seen_of(lo, pos, b);
    return all_seen(s) ? x : vf_pick(x, y, s.from, s.to);
}

/* e [block - first][queries][16]: scores scaled, of all positions of blocks first .. last; and the largest that each
 * query sees. q: [head_dim][queries]. */
INLINE void scores(cl_kv_format f, int queries, const cl_kv_head *h, const float *q, const cl_query *who, int64_t first,
                   int64_t last, float scale, float *e, float *largest)
{
    const int together = LANES_SCORES / queries; /* blocks */
    vf max[LANES_SCORES], s[LANES_SCORES];
    for (int t = 0; t < queries; t++) max[t] = vf_set1(-INFINITY);
    for (int64_t b = first, m; b <= last; b += m) {
        m = last - b + 1 >= together ? together : 1;
        if (m > 1) score_blocks(f, together, queries, h, q, 1, (size_t)queries, b, s);
        else score_blocks(f, 1, queries, h, q, 1, (size_t)queries, b, s);
        for (int c = 0; c < m; c++) {
            for (int t = 0; t < queries; t++, e += CL_KV_BLOCK) {
                const int64_t lo = who[t].lo, pos = who[t].pos;
                vf a = vf_mul(vf_set1(scale), s[c * queries + t]);
                vf_store(e, a);
                if (b + c < lo / CL_KV_BLOCK || b + c > pos / CL_KV_BLOCK) continue;
                max[t] = vf_max(visible(a, vf_set1(-INFINITY), lo, pos, b + c), max[t]);
            }
        }
    }
    for (int t = 0; t < queries; t++) largest[t] = vf_fold_max(max[t]);
}

/* What a query has found in a run, or a tree of runs, beside its sums of values: the largest score and the sum of the
 * weights. */
typedef struct found {
    float max, sum;
} found;

/* More than there are runs in a tree of any cache. */
enum { TREE_LEVELS = 32 };

/* Those of a query that wait for others: of each its found, and its sums of values somewhere else. */
typedef struct waiting {
    int n;
    found of[TREE_LEVELS];
} waiting;

/* When two are joined: of the one that waited, of the other. */
typedef float factors[TREE_LEVELS][2];

/* How many of those that wait, the last ones, are joined with run r of the runs first .. last, which come in order:
 * those of the other halves of the pairs that it completes. */
INLINE int completes(int64_t r, int64_t first, int64_t last, const waiting *w)
{
    if (r == last) return w->n;
    int n = 0;
    for (int64_t i = r, runs = 1; i % 2; i /= 2, runs *= 2) n += i * runs > first;
    return n;
}

/* What some queries, at most 16, have found in a run, x, is joined with the last n of what waits, the last first; then
 * it waits in their place. n < 0: a query that has seen nothing of the run. */
INLINE void join(int queries, waiting *w, found *x, const int *n, factors *f)
{
    float less[16] = {0};
    for (int k = 0;; k++) {
        bool some = false;
        for (int t = 0; t < queries; t++) {
            if (k >= n[t]) continue;
            const float before = w[t].of[w[t].n - 1 - k].max;
            less[t] = before > x[t].max ? x[t].max - before : before - x[t].max;
            some = true;
        }
        if (!some) break;
        vf_store(less, lanes_exp(vf_load(less)));
        for (int t = 0; t < queries; t++) {
            if (k >= n[t]) continue;
            const found y = w[t].of[w[t].n - 1 - k];
            const bool more = y.max > x[t].max;
            const float a = f[t][k][0] = more ? 1 : less[t], b = f[t][k][1] = more ? less[t] : 1;
            x[t] = (found){more ? y.max : x[t].max, fmaf(y.sum, a, x[t].sum * b)};
        }
    }
    for (int t = 0; t < queries; t++) {
        if (n[t] < 0) continue;
        w[t].n -= n[t];
        w[t].of[w[t].n++] = x[t];
    }
}

/* Sums of values o of one that is joined with n: theirs lie before `top`, the last first, `step` numbers apart. */
INLINE vf join_lanes(vf o, int n, const factors f, const float *top, size_t step)
{
    for (int k = 0; k < n; k++) {
        top -= step;
        o = vf_fma(vf_load(top), vf_set1(f[k][0]), vf_mul(o, vf_set1(f[k][1])));
    }
    return o;
}

INLINE float inverse_of(found x, const float *sink) { return 1.0f / (sink ? x.sum + cl_exp(*sink - x.max) : x.sum); }

/* e = cl_exp(e - max), 0 where a position of the run is not visible; max is that of the scores. e begins at the block
 * of lo, the next block's are `step` numbers further. */
INLINE found weights(int64_t lo, int64_t pos, float max, const float *sink, float *e, size_t step)
{
    if (sink && *sink > max) max = *sink;
    vf lane = vf_set1(0);
    int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = first; b <= last; b++, e += step) {
        vf a = visible(lanes_exp(vf_sub(vf_load(e), vf_set1(max))), vf_set1(0), lo, pos, b);
        lane = vf_add(lane, a);
        vf_store(e, a);
    }
    return (found){max, vf_fold_add(lane)};
}

/* The 16 numbers from `at` on of a block of values, n of them at the end of a head; bf16: in the order of
 * vf_load_bf16_apart. */
INLINE vf value_lanes(cl_kv_format f, const unsigned char *v, size_t at, int n)
{
    _Alignas(64) unsigned char part[64] = {0};
    v += at * (size_t)number_bytes(f);
    if (n < 16) v = memcpy(part, v, (size_t)(n * number_bytes(f)));
    return f == CL_KV_F32 ? vf_load((const float *)v) : f == CL_KV_BF16 ? vf_load_bf16_apart(v) : vf_load_i8(v);
}

/* sums [queries][stride]: numbers i .. i + 16 * width - 1 of a head (n of them in the last lanes) go on over the
 * positions j .. end - 1 of a block of values, ascending; e: [queries][16] weights of the block. */
INLINE void mix_block(cl_kv_format f, int queries, int width, int n, int head_dim, const unsigned char *v, int j,
                      int end, const float *e, int i, float *sums, size_t stride)
{
    vf o[LANES_VALUES];
    float scaled[2][LANES_SCORES * 16]; /* q8: weights times scales; a scale is of 32 numbers */
    if (f == CL_KV_Q8) {
        for (int g = 0; g < (width + 1) / 2; g++) {
            vf d = vf_load((const float *)v + (i / 32 + g) * CL_KV_BLOCK);
            for (int t = 0; t < queries; t++) vf_store(scaled[g] + t * 16, vf_mul(vf_load(e + t * 16), d));
        }
        v += cl_kv_scales(head_dim) * sizeof(float);
    }
    for (int k = 0; k < width; k++) {
        for (int t = 0; t < queries; t++) o[k * queries + t] = vf_load(sums + (size_t)t * stride + i + 16 * k);
    }
    for (; j < end; j++) {
        /* about the next block */
        if (queries > 1) fetch_line(v + (j * head_dim + i) * number_bytes(f), (size_t)head_dim * 32);
        for (int k = 0; k < width; k++) {
            const float *a = (f == CL_KV_Q8 ? scaled[k / 2] : e) + j;
            vf x = value_lanes(f, v, (size_t)(j * head_dim + i + 16 * k), n);
            for (int t = 0; t < queries; t++) o[k * queries + t] = vf_fma(vf_set1(a[t * 16]), x, o[k * queries + t]);
        }
    }
    for (int k = 0; k < width; k++) {
        for (int t = 0; t < queries; t++) vf_store(sums + (size_t)t * stride + i + 16 * k, o[k * queries + t]);
    }
}

/* sums [queries][stride] go on over the positions lo .. pos, ascending, block by block, so that values are read in
 * order. e: [queries][16] weights of the block of lo, those of the next block are `step` numbers further. */
INLINE void mix(cl_kv_format f, int queries, const cl_kv_head *h, int64_t lo, int64_t pos, const float *e, size_t step,
                float *sums, size_t stride)
{
    const int width = LANES_VALUES / queries < 4 ? LANES_VALUES / queries : 4, d = h->head_dim;
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = first; b <= last; b++, e += step) {
        const unsigned char *v = h->values + cl_kv_block_at(h, b);
        const int j = b == first ? (int)(lo % CL_KV_BLOCK) : 0,
                  end = b == last ? (int)(pos % CL_KV_BLOCK) + 1 : CL_KV_BLOCK;
        int i = 0;
        for (; i + 16 * width <= d; i += 16 * width) mix_block(f, queries, width, 16, d, v, j, end, e, i, sums, stride);
        for (; i + 16 <= d; i += 16) mix_block(f, queries, 1, 16, d, v, j, end, e, i, sums, stride);
        if (i < d) mix_block(f, queries, 1, d - i, d, v, j, end, e, i, sums, stride);
    }
}

/* The same for one query of a group. */
static void mix_alone(const cl_kv_head *h, int64_t lo, int64_t pos, const float *e, size_t step, float *sums)
{
    e += (size_t)(lo % CL_KV_RUN / CL_KV_BLOCK) * step;
    switch (h->format) {
    case CL_KV_F32: mix(CL_KV_F32, 1, h, lo, pos, e, step, sums, 0); break;
    case CL_KV_BF16: mix(CL_KV_BF16, 1, h, lo, pos, e, step, sums, 0); break;
    case CL_KV_Q8: mix(CL_KV_Q8, 1, h, lo, pos, e, step, sums, 0); break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
}

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* What the queries see of a run, each some of it; e: of the run's first block. Values go into the sums of those queries
 * alone that see their position: jointly where all do, one by one before and after. */
INLINE void mix_run(cl_kv_format f, int queries, const cl_kv_head *h, const cl_query *who, const float *e, float *sums,
                    size_t stride)
{
    const size_t step = (size_t)queries * CL_KV_BLOCK;
    int64_t lo = who->lo, pos = who->pos;
    for (int t = 1; t < queries; t++) lo = larger(who[t].lo, lo), pos = smaller(who[t].pos, pos);
    const bool some = lo <= pos;
    memset(sums, 0, (size_t)queries * stride * sizeof *sums);
    for (int t = 0; t < queries; t++) {
        const int64_t end = some ? lo - 1 : who[t].pos;
        if (who[t].lo <= end) mix_alone(h, who[t].lo, end, e + t * CL_KV_BLOCK, step, sums + (size_t)t * stride);
    }
    if (!some) return;
    mix(f, queries, h, lo, pos, e + (size_t)(lo % CL_KV_RUN / CL_KV_BLOCK) * step, step, sums, stride);
    for (int t = 0; t < queries; t++)
        if (pos < who[t].pos) mix_alone(h, pos + 1, who[t].pos, e + t * CL_KV_BLOCK, step, sums + (size_t)t * stride);
}

/* The part of a query's positions that lies in run r; of one that sees nothing of it lo > pos. */
INLINE cl_query in_run(cl_query q, int64_t r)
{
    q.lo = larger(q.lo, r * CL_KV_RUN);
    q.pos = smaller(q.pos, r * CL_KV_RUN + CL_KV_RUN - 1);
    return q;
}

/* Run by run from the first that one of them sees to the last. */
INLINE void attend_group(cl_kv_format f, int queries, const cl_kv_head *h, const cl_query *who, float scale,
                         float *scratch)
{
    const size_t d = (size_t)h->head_dim, stride = (d + 15) / 16 * 16, step = (size_t)queries * CL_KV_BLOCK;
    int64_t lo = who->lo, pos = who->pos;
    for (int t = 1; t < queries; t++) lo = smaller(who[t].lo, lo), pos = larger(who[t].pos, pos);
    const size_t rows = (size_t)cl_pending_runs(pos - lo + 1) * stride;
    waiting w[LANES_SCORES];
    float largest[LANES_SCORES], *e = scratch, *sums = e + (size_t)queries * CL_KV_RUN,
                                 *q = sums + (size_t)queries * stride, *wait = q + (size_t)queries * stride;
    for (size_t i = 0; i < d; i++) {
        for (int t = 0; t < queries; t++) q[i * (size_t)queries + (size_t)t] = who[t].q[i];
    }
    for (int t = 0; t < queries; t++) w[t].n = 0;
    for (int64_t r = lo / CL_KV_RUN; r <= pos / CL_KV_RUN; r++) {
        cl_query part[LANES_SCORES];
        found now[LANES_SCORES];
        factors f_of[LANES_SCORES];
        float *top[LANES_SCORES];
        int n[LANES_SCORES];
        const int64_t from = larger(lo, r * CL_KV_RUN), to = smaller(pos, r * CL_KV_RUN + CL_KV_RUN - 1);
        float *begin = e + (size_t)(from % CL_KV_RUN / CL_KV_BLOCK) * step;
        for (int t = 0; t < queries; t++) part[t] = in_run(who[t], r);
        scores(f, queries, h, q, part, from / CL_KV_BLOCK, to / CL_KV_BLOCK, scale, begin, largest);
        for (int t = 0; t < queries; t++) {
            const cl_query *p = &part[t];
            top[t] = wait + (size_t)t * rows + (size_t)w[t].n * stride;
            n[t] = -1;
            if (p->lo > p->pos) continue;
            n[t] = completes(r, who[t].lo / CL_KV_RUN, who[t].pos / CL_KV_RUN, &w[t]);
            now[t] = weights(p->lo, p->pos, largest[t], p->sink,
                             e + t * CL_KV_BLOCK + (size_t)(p->lo % CL_KV_RUN / CL_KV_BLOCK) * step, step);
        }
        join(queries, w, now, n, f_of);
        mix_run(f, queries, h, part, e, sums, stride);
        for (int t = 0; t < queries; t++) {
            if (n[t] < 0) continue;
            const bool last = r == who[t].pos / CL_KV_RUN;
            const float *mine = sums + (size_t)t * stride, inverse = last ? inverse_of(now[t], who[t].sink) : 0;
            for (size_t i = 0; i < d; i += 16) {
                vf o = join_lanes(vf_load(mine + i), n[t], f_of[t], top[t] + i, stride);
                if (!last) vf_store(top[t] - (size_t)n[t] * stride + i, o);
                else
                    store_some(who[t].out + i, vf_mul(f == CL_KV_BF16 ? vf_together(o) : o, vf_set1(inverse)),
                               (int64_t)(d - i));
            }
        }
    }
}

/* Groups are of 8 (where the set takes so many), 4, 2 or 1; one that is not full repeats its last query. */
INLINE void attend_format(cl_kv_format f, const cl_kv_head *h, int n, const cl_query *queries, float scale,
                          float *scratch)
{
    for (int m; n > 0; n -= m, queries += m) {
        cl_query who[LANES_SCORES];
        m = n < LANES_SCORES ? n : LANES_SCORES;
        for (int t = 0; t < LANES_SCORES; t++) who[t] = queries[t < m ? t : m - 1];
        if (m > 4 && LANES_SCORES >= 8) attend_group(f, LANES_SCORES >= 8 ? 8 : 1, h, who, scale, scratch);
        else if (m > 2 && LANES_SCORES >= 4) attend_group(f, LANES_SCORES >= 4 ? 4 : 1, h, who, scale, scratch);
        else if (m > 1) attend_group(f, 2, h, who, scale, scratch);
        else attend_group(f, 1, h, who, scale, scratch);
    }
}

static void attend(const cl_kv_head *h, int n, const cl_query *queries, float scale, float *scratch)
{
    switch (h->format) {
    case CL_KV_F32: attend_format(CL_KV_F32, h, n, queries, scale, scratch); break;
    case CL_KV_BF16: attend_format(CL_KV_BF16, h, n, queries, scale, scratch); break;
    case CL_KV_Q8: attend_format(CL_KV_Q8, h, n, queries, scale, scratch); break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
}

/* --- latent attention: heads share the keys, which hold the values too. Blocks are taken once for scores and once
 * for values, all heads while a block is in a cache. --- */

/* e[head * stride + 16 * (block - first)], and the largest of each head. */
INLINE void latent_scores(cl_kv_format f, const cl_kv_head *h, int n, const float *q, size_t q_stride, int64_t lo,
                          int64_t pos, float scale, float *e, size_t stride, float *largest)
{
    enum { HALF = LANES_TOKENS / 2 };
    /* fewer would be too few chains: they go head by head, several blocks at once */
    const int together = n / HALF * HALF;
    vf max[CL_LATENT_HEADS], s[LANES_TOKENS];
    for (int k = 0; k < together; k++) max[k] = vf_set1(-INFINITY);
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = together ? first : last + 1; b <= last; b++) {
        for (int k = 0, m; k < together; k += m) {
            m = together - k >= LANES_TOKENS ? LANES_TOKENS : HALF;
            if (m > HALF) score_blocks(f, 1, LANES_TOKENS, h, q + (size_t)k * q_stride, q_stride, 1, b, s);
            else score_blocks(f, 1, HALF, h, q + (size_t)k * q_stride, q_stride, 1, b, s);
            for (int t = 0; t < m; t++) {
                vf a = visible(vf_mul(vf_set1(scale), s[t]), vf_set1(-INFINITY), lo, pos, b);
                max[k + t] = vf_max(a, max[k + t]);
                vf_store(e + (size_t)(k + t) * stride + (b - first) * CL_KV_BLOCK, a);
            }
        }
    }
    for (int k = 0; k < together; k++) largest[k] = vf_fold_max(max[k]);
    for (int k = together; k < n; k++) {
        const cl_query who = {.lo = lo, .pos = pos};
        scores(f, 1, h, q + (size_t)k * q_stride, &who, first, last, scale, e + (size_t)k * stride, &largest[k]);
    }
}

/* v[j]: numbers i .. i+15 of position j of block b, zeros past the head. A position that is not visible is -0, so
 * that with a weight of 0 it changes no bit of a sum: fma(0, -0, o) is o. */
INLINE void latent_values(cl_kv_format f, const cl_kv_head *h, seen s, int64_t b, int i, vf *v)
{
    const unsigned char *numbers = h->keys + cl_kv_block_at(h, b) +
                                   (f == CL_KV_Q8 ? cl_kv_scales(h->head_dim) * sizeof(float) : 0);
    for (int r = 0; r < 16; r++) {
        vf key = i + r < h->head_dim ? key_lanes(f, numbers, i + r) : vf_set1(0);
        v[r] = f == CL_KV_BF16 ? vf_together(key) : key;
    }
    if (!all_seen(s)) {
        for (int r = 0; r < 16; r++) v[r] = vf_pick(v[r], vf_set1(-0.0f), s.from, s.to);
    }
    vf_transpose(v);
}

/* out[i .. i+16) of `heads` heads, n of these numbers, goes on over the 16 positions of a block: weights e, q8: times
 * d. */
INLINE void latent_mix(cl_kv_format f, int heads, const vf *v, vf d, const float *e, size_t stride, float *out,
                       size_t out_stride, int n)
{
    vf o[LATENT_CHAINS];
    float scaled[LATENT_CHAINS][16];
    const float *a[LATENT_CHAINS];
    for (int t = 0; t < heads; t++) {
        o[t] = load_some(out + (size_t)t * out_stride, n);
        a[t] = e + (size_t)t * stride;
        if (f != CL_KV_Q8) continue;
        vf_store(scaled[t], vf_mul(vf_load(a[t]), d));
        a[t] = scaled[t];
    }
    for (int j = 0; j < 16; j++) {
        for (int t = 0; t < heads; t++) o[t] = vf_fma(vf_set1(a[t][j]), v[j], o[t]);
    }
    for (int t = 0; t < heads; t++) store_some(out + (size_t)t * out_stride, o[t], n);
}

/* What positions lo .. pos of a run hold for n heads: out [n][out_stride] their sums of values; now [n]; e
 * [n][CL_KV_RUN]. */
INLINE void latent_run(cl_kv_format f, const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim,
                       int64_t lo, int64_t pos, float scale, const float *sinks, float *out, size_t out_stride,
                       found *now, float *e)
{
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    float largest[CL_LATENT_HEADS];
    latent_scores(f, h, n, q, q_stride, lo, pos, scale, e, CL_KV_RUN, largest);
    for (int k = 0; k < n; k++) {
        now[k] = weights(lo, pos, largest[k], sinks ? &sinks[k] : NULL, e + (size_t)k * CL_KV_RUN, CL_KV_BLOCK);
        memset(out + (size_t)k * out_stride, 0, (size_t)v_dim * sizeof *out);
    }
    for (int64_t b = first; b <= last; b++, e += CL_KV_BLOCK) {
        const seen s = seen_of(lo, pos, b);
        for (int i = 0; i < v_dim; i += 16) {
            vf v[16], d = vf_set1(0);
            latent_values(f, h, s, b, i, v);
            if (f == CL_KV_Q8) {
                d = visible(vf_load((const float *)(h->keys + cl_kv_block_at(h, b)) + i / 32 * CL_KV_BLOCK), d, lo, pos,
                            b);
            }
            for (int k = 0, m; k < n; k += m) {
                const float *a = e + (size_t)k * CL_KV_RUN;
                float *o = out + (size_t)k * out_stride + i;
                m = n - k >= LATENT_CHAINS ? LATENT_CHAINS : 1;
                if (m > 1) latent_mix(f, LATENT_CHAINS, v, d, a, CL_KV_RUN, o, out_stride, v_dim - i);
                else latent_mix(f, 1, v, d, a, CL_KV_RUN, o, out_stride, v_dim - i);
            }
        }
    }
}

INLINE void latent_format(cl_kv_format f, const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim,
                          int64_t lo, int64_t pos, float scale, const float *sinks, float *out, size_t out_stride,
                          float *e)
{
    const int64_t first = lo / CL_KV_RUN, last = pos / CL_KV_RUN;
    const size_t stride = (size_t)(v_dim + 15) / 16 * 16, rows = (size_t)cl_pending_runs(pos - lo + 1) * stride;
    float *wait = e + (size_t)n * CL_KV_RUN;
    waiting w[CL_LATENT_HEADS];
    for (int k = 0; k < n; k++) w[k].n = 0;
    for (int64_t r = first; r <= last; r++) {
        found now[CL_LATENT_HEADS];
        factors f_of[CL_LATENT_HEADS];
        latent_run(f, h, n, q, q_stride, v_dim, larger(lo, r * CL_KV_RUN), smaller(pos, r * CL_KV_RUN + CL_KV_RUN - 1),
                   scale, sinks, out, out_stride, now, e);
        const int m = completes(r, first, last, w), before = w->n;
        int all[CL_LATENT_HEADS];
        for (int k = 0; k < n; k++) all[k] = m;
        join(n, w, now, all, f_of);
        for (int k = 0; k < n; k++) {
            float *y = out + (size_t)k * out_stride, *top = wait + (size_t)k * rows + (size_t)before * stride;
            const float inverse = r < last ? 0 : inverse_of(now[k], sinks ? &sinks[k] : NULL);
            for (int i = 0; i < v_dim; i += 16) {
                vf o = join_lanes(load_some(y + i, v_dim - i), m, f_of[k], top + i, stride);
                if (r < last) vf_store(top - (size_t)m * stride + i, o);
                else store_some(y + i, vf_mul(o, vf_set1(inverse)), v_dim - i);
            }
        }
    }
}

static void attend_latent(const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim, int64_t lo,
                          int64_t pos, float scale, const float *sinks, float *out, size_t out_stride, float *scratch)
{
    switch (h->format) {
    case CL_KV_F32:
        latent_format(CL_KV_F32, h, n, q, q_stride, v_dim, lo, pos, scale, sinks, out, out_stride, scratch);
        break;
    case CL_KV_BF16:
        latent_format(CL_KV_BF16, h, n, q, q_stride, v_dim, lo, pos, scale, sinks, out, out_stride, scratch);
        break;
    case CL_KV_Q8:
        latent_format(CL_KV_Q8, h, n, q, q_stride, v_dim, lo, pos, scale, sinks, out, out_stride, scratch);
        break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
}
