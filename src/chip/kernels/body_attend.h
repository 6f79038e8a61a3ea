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

/* Lanes of block b that are visible, of x; y elsewhere. */
INLINE vf visible(vf x, vf y, int64_t lo, int64_t pos, int64_t b)
{
    const bool first = b == lo / CL_KV_BLOCK, last = b == pos / CL_KV_BLOCK;
    if (!first && !last) return x;
    return vf_pick(x, y, first ? (int)(lo % CL_KV_BLOCK) : 0, last ? (int)(pos % CL_KV_BLOCK) : CL_KV_BLOCK - 1);
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

/* How many of `pending` sums of runs, the last ones, are added to that of run r of the runs first .. last, which are
 * added in order: those of the other halves of the pairs that it completes. */
INLINE int completes(int64_t r, int64_t first, int64_t last, int pending)
{
    if (r == last) return pending;
    int n = 0;
    for (int64_t i = r, runs = 1; i % 2; i /= 2, runs *= 2) n += i * runs > first;
    return n;
}

INLINE bool ends_run(int64_t b) { return (b + 1) % (CL_KV_RUN / CL_KV_BLOCK) == 0; }

/* e = cl_exp(e - max), 0 where a position is not visible; max is that of the scores. e begins at the block of lo, the
 * next block's are `step` numbers further. Returns 1 / sum. */
INLINE float weights(int64_t lo, int64_t pos, float max, const float *sink, float *e, size_t step)
{
    if (sink && *sink > max) max = *sink;
    vf lane = vf_set1(0);
    float sum = 0, runs[64];
    int pending = 0;
    int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = first; b <= last; b++, e += step) {
        vf a = visible(lanes_exp(vf_sub(vf_load(e), vf_set1(max))), vf_set1(0), lo, pos, b);
        lane = vf_add(lane, a);
        vf_store(e, a);
        if (b < last && !ends_run(b)) continue;
        sum = vf_fold_add(lane);
        lane = vf_set1(0);
        for (int n = completes(b * CL_KV_BLOCK / CL_KV_RUN, lo / CL_KV_RUN, pos / CL_KV_RUN, pending); n > 0; n--)
            sum = runs[--pending] + sum;
        runs[pending++] = sum;
    }
    return 1.0f / (sink ? sum + cl_exp(*sink - max) : sum);
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

/* The same for one query of a group. e: of the block `first`. */
static void mix_alone(const cl_kv_head *h, int64_t lo, int64_t pos, int64_t first, const float *e, size_t step,
                      float *sums)
{
    e += (size_t)(lo / CL_KV_BLOCK - first) * step;
    switch (h->format) {
    case CL_KV_F32: mix(CL_KV_F32, 1, h, lo, pos, e, step, sums, 0); break;
    case CL_KV_BF16: mix(CL_KV_BF16, 1, h, lo, pos, e, step, sums, 0); break;
    case CL_KV_Q8: mix(CL_KV_Q8, 1, h, lo, pos, e, step, sums, 0); break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
}

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* sums [queries][stride] of the positions of run r that each query sees. Values go into the sums of those queries alone
 * that see their position: jointly where all do (all_lo .. all_pos), one by one before and after. */
INLINE void mix_run(cl_kv_format f, int queries, const cl_kv_head *h, const cl_query *who, int64_t r, int64_t all_lo,
                    int64_t all_pos, int64_t first, const float *e, float *sums, size_t stride)
{
    const size_t step = (size_t)queries * CL_KV_BLOCK;
    const int64_t from = r * CL_KV_RUN, to = from + CL_KV_RUN - 1;
    all_lo = larger(all_lo, from), all_pos = smaller(all_pos, to);
    const bool some = all_lo <= all_pos;
    memset(sums, 0, (size_t)queries * stride * sizeof *sums);
    for (int t = 0; t < queries; t++) {
        const int64_t lo = larger(who[t].lo, from), pos = some ? all_lo - 1 : smaller(who[t].pos, to);
        if (lo <= pos) mix_alone(h, lo, pos, first, e + t * CL_KV_BLOCK, step, sums + (size_t)t * stride);
    }
    if (!some) return;
    mix(f, queries, h, all_lo, all_pos, e + (size_t)(all_lo / CL_KV_BLOCK - first) * step, step, sums, stride);
    for (int t = 0; t < queries; t++) {
        const int64_t pos = smaller(who[t].pos, to);
        if (all_pos < pos) mix_alone(h, all_pos + 1, pos, first, e + t * CL_KV_BLOCK, step, sums + (size_t)t * stride);
    }
}

/* Scores are computed from the first position that a query sees to the last, values are summed run by run. */
INLINE void attend_group(cl_kv_format f, int queries, const cl_kv_head *h, const cl_query *who, float scale,
                         float *scratch)
{
    const size_t d = (size_t)h->head_dim, stride = (d + 15) / 16 * 16;
    int64_t lo = who->lo, pos = who->pos, all_lo = lo, all_pos = pos;
    for (int t = 1; t < queries; t++) {
        lo = smaller(who[t].lo, lo);
        pos = larger(who[t].pos, pos);
        all_lo = larger(who[t].lo, all_lo);
        all_pos = smaller(who[t].pos, all_pos);
    }
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    const size_t waiting = (size_t)cl_pending_runs(pos - lo + 1) * stride;
    int pending[LANES_SCORES] = {0};
    float inverse[LANES_SCORES], *sums = scratch, *q = sums + (size_t)queries * stride,
                                 *runs = q + (size_t)queries * stride, *e = runs + (size_t)queries * waiting;
    for (size_t i = 0; i < d; i++) {
        for (int t = 0; t < queries; t++) q[i * (size_t)queries + (size_t)t] = who[t].q[i];
    }
    scores(f, queries, h, q, who, first, last, scale, e, inverse);
    for (int t = 0; t < queries; t++) {
        float *begin = e + t * CL_KV_BLOCK + (size_t)((who[t].lo / CL_KV_BLOCK - first) * queries * CL_KV_BLOCK);
        inverse[t] = weights(who[t].lo, who[t].pos, inverse[t], who[t].sink, begin, (size_t)queries * CL_KV_BLOCK);
    }
    for (int64_t r = lo / CL_KV_RUN; r <= pos / CL_KV_RUN; r++) {
        mix_run(f, queries, h, who, r, all_lo, all_pos, first, e, sums, stride);
        for (int t = 0; t < queries; t++) {
            const int64_t begin = who[t].lo / CL_KV_RUN, end = who[t].pos / CL_KV_RUN;
            if (r < begin || r > end) continue;
            const int n = completes(r, begin, end, pending[t]);
            float *mine = sums + (size_t)t * stride, *top = runs + (size_t)t * waiting + (size_t)pending[t] * stride;
            for (size_t i = 0; i < d; i += 16) {
                vf o = vf_load(mine + i);
                for (int k = 1; k <= n; k++) o = vf_add(vf_load(top - (size_t)k * stride + i), o);
                if (r < end) vf_store(top - (size_t)n * stride + i, o);
                else
                    store_some(who[t].out + i, vf_mul(f == CL_KV_BF16 ? vf_together(o) : o, vf_set1(inverse[t])),
                               (int64_t)(d - i));
            }
            pending[t] += 1 - n;
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
INLINE void latent_values(cl_kv_format f, const cl_kv_head *h, int64_t lo, int64_t pos, int64_t b, int i, vf *v)
{
    const unsigned char *numbers = h->keys + cl_kv_block_at(h, b) +
                                   (f == CL_KV_Q8 ? cl_kv_scales(h->head_dim) * sizeof(float) : 0);
    for (int r = 0; r < 16; r++) {
        vf key = i + r < h->head_dim ? key_lanes(f, numbers, i + r) : vf_set1(0);
        v[r] = visible(f == CL_KV_BF16 ? vf_together(key) : key, vf_set1(-0.0f), lo, pos, b);
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

/* sums [v_dim] of a run, with those of the m that it completes, which lie at `at`, `step` numbers from each other:
 * into sums at last, else to `at`, and sums are zeros. */
static void latent_pend(int m, int v_dim, float *at, size_t step, float *sums, bool last)
{
    for (int i = 0; i < v_dim; i += 16) {
        vf o = load_some(sums + i, v_dim - i);
        for (int k = m - 1; k >= 0; k--) o = vf_add(vf_load(at + (size_t)k * step + i), o);
        store_some(sums + i, last ? o : vf_set1(0), v_dim - i);
        if (!last) vf_store(at + i, o);
    }
}

INLINE void latent_format(cl_kv_format f, const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim,
                          int64_t lo, int64_t pos, float scale, const float *sinks, float *out, size_t out_stride,
                          float *e)
{
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    const size_t stride = (size_t)(last - first + 1) * CL_KV_BLOCK, width = (size_t)(v_dim + 15) / 16 * 16;
    float inverse[CL_LATENT_HEADS], *top = e + (size_t)n * stride; /* [pending][n][width] sums of runs */
    int pending = 0;
    latent_scores(f, h, n, q, q_stride, lo, pos, scale, e, stride, inverse);
    for (int k = 0; k < n; k++) {
        inverse[k] = weights(lo, pos, inverse[k], sinks ? &sinks[k] : NULL, e + (size_t)k * stride, CL_KV_BLOCK);
        memset(out + (size_t)k * out_stride, 0, (size_t)v_dim * sizeof *out);
    }
    for (int64_t b = first; b <= last; b++, e += CL_KV_BLOCK) {
        for (int i = 0; i < v_dim; i += 16) {
            vf v[16], d = vf_set1(0);
            latent_values(f, h, lo, pos, b, i, v);
            if (f == CL_KV_Q8) {
                d = visible(vf_load((const float *)(h->keys + cl_kv_block_at(h, b)) + i / 32 * CL_KV_BLOCK), d, lo, pos,
                            b);
            }
            for (int k = 0, m; k < n; k += m) {
                const float *a = e + (size_t)k * stride;
                float *o = out + (size_t)k * out_stride + i;
                m = n - k >= LATENT_CHAINS ? LATENT_CHAINS : 1;
                if (m > 1) latent_mix(f, LATENT_CHAINS, v, d, a, stride, o, out_stride, v_dim - i);
                else latent_mix(f, 1, v, d, a, stride, o, out_stride, v_dim - i);
            }
        }
        if (b < last && !ends_run(b)) continue;
        const int m = completes(b * CL_KV_BLOCK / CL_KV_RUN, lo / CL_KV_RUN, pos / CL_KV_RUN, pending);
        top -= (size_t)m * (size_t)n * width;
        for (int k = 0; k < n; k++)
            latent_pend(m, v_dim, top + (size_t)k * width, (size_t)n * width, out + (size_t)k * out_stride, b == last);
        top += (size_t)n * width;
        pending += 1 - m;
    }
    for (int k = 0; k < n; k++) {
        float *y = out + (size_t)k * out_stride;
        for (int i = 0; i < v_dim; i += 16)
            store_some(y + i, vf_mul(load_some(y + i, v_dim - i), vf_set1(inverse[k])), v_dim - i);
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
