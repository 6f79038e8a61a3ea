/* body_attend.h: the attention of a kernel set, part of body.h.
 *
 * Lanes are the 16 positions of a block for scores, 16 numbers of the head for values. */

enum { LANES_SCORES = LANES_CHAINS > LANES_TOKENS ? LANES_CHAINS : LANES_TOKENS, LATENT_CHAINS = 4 };

/* Number i of the keys of a block, 16 positions; bf16: in the order of vf_load_bf16_apart. */
INLINE vf key_lanes(cl_kv_format f, const unsigned char *numbers, int i)
{
    return f == CL_KV_F32 ? vf_load((const float *)numbers + i * 16) : f == CL_KV_BF16 ? vf_load_bf16_apart(numbers + i * 32)
                                                                                       : vf_load_i8(numbers + i * 16);
}

/* s[c * heads + t]: scores of `blocks` blocks from b on for `heads` query heads, not yet scaled. Either is 1. */
INLINE void score_blocks(cl_kv_format f, int blocks, int heads, const cl_kv_head *h, const float *q, size_t q_stride, int64_t b,
                         vf *s)
{
    const unsigned char *k[LANES_CHAINS], *numbers[LANES_CHAINS];
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
                for (int t = 0; t < heads; t++) {
                    part[c * heads + t] = vf_fma(vf_set1(q[(size_t)t * q_stride + (size_t)i]), key, part[c * heads + t]);
                }
            }
        }
        for (int c = 0; c < blocks * heads; c++) {
            sum[c] = f == CL_KV_Q8 ? vf_fma(vf_load((const float *)k[c / heads] + i0 / 32 * 16), part[c], sum[c]) : part[c];
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

/* e[16 * (block - first)]: scores scaled; -inf where a position is not visible. Returns the largest. */
INLINE float scores(cl_kv_format f, const cl_kv_head *h, const float *q, int64_t lo, int64_t pos, float scale, float *e)
{
    vf max = vf_set1(-INFINITY), s[LANES_CHAINS];
    int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = first, m; b <= last; b += m) {
        m = last - b + 1 >= LANES_CHAINS ? LANES_CHAINS : 1;
        if (m > 1) score_blocks(f, LANES_CHAINS, 1, h, q, 0, b, s);
        else score_blocks(f, 1, 1, h, q, 0, b, s);
        for (int64_t c = 0; c < m; c++) {
            vf a = visible(vf_mul(vf_set1(scale), s[c]), vf_set1(-INFINITY), lo, pos, b + c);
            max = vf_max(a, max);
            vf_store(e + (b + c - first) * CL_KV_BLOCK, a);
        }
    }
    return vf_fold_max(max);
}

/* e = cl_exp(e - max), 0 where a position is not visible; max is that of the scores. Returns 1 / sum. */
INLINE float weights(int64_t lo, int64_t pos, float max, const float *sink, float *e)
{
    if (sink && *sink > max) max = *sink;
    vf lane = vf_set1(0);
    int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = first; b <= last; b++, e += CL_KV_BLOCK) {
        vf a = visible(lanes_exp(vf_sub(vf_load(e), vf_set1(max))), vf_set1(0), lo, pos, b);
        lane = vf_add(lane, a);
        vf_store(e, a);
    }
    float sum = vf_fold_add(lane);
    return 1.0f / (sink ? sum + cl_exp(*sink - max) : sum);
}

/* The 16 numbers from `at` on of a block of values, n of them at the end of a head; bf16: in the order of vf_load_bf16_apart. */
INLINE vf value_lanes(cl_kv_format f, const unsigned char *v, size_t at, int n)
{
    size_t size = f == CL_KV_F32 ? 4 : f == CL_KV_BF16 ? 2 : 1;
    _Alignas(64) unsigned char part[64] = {0};
    v += at * size;
    if (n < 16) v = memcpy(part, v, (size_t)n * size);
    return f == CL_KV_F32 ? vf_load((const float *)v) : f == CL_KV_BF16 ? vf_load_bf16_apart(v) : vf_load_i8(v);
}

/* out[i .. i + 16 * width) for numbers i on (n of them in the last lanes), all positions ascending. */
INLINE void mix(cl_kv_format f, int width, int n, const cl_kv_head *h, int64_t lo, int64_t pos, const float *e, float inverse,
                int i, float *out)
{
    vf o[4];
    for (int k = 0; k < width; k++) o[k] = vf_set1(0);
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = first; b <= last; b++, e += CL_KV_BLOCK) {
        const unsigned char *v = h->values + cl_kv_block_at(h, b);
        const float *scales = (const float *)v;
        if (f == CL_KV_Q8) v += cl_kv_scales(h->head_dim) * sizeof(float);
        int j = b == first ? (int)(lo % CL_KV_BLOCK) : 0, end = b == last ? (int)(pos % CL_KV_BLOCK) + 1 : CL_KV_BLOCK;
        for (; j < end; j++) {
            for (int k = 0; k < width; k++) {
                float a = f == CL_KV_Q8 ? e[j] * scales[(i + 16 * k) / 32 * CL_KV_BLOCK + j] : e[j];
                vf x = value_lanes(f, v, (size_t)(j * h->head_dim + i + 16 * k), n);
                o[k] = vf_fma(vf_set1(a), x, o[k]);
            }
        }
    }
    for (int k = 0; k < width; k++) {
        store_some(out + i + 16 * k, vf_mul(f == CL_KV_BF16 ? vf_together(o[k]) : o[k], vf_set1(inverse)), n);
    }
}

INLINE void attend_format(cl_kv_format f, const cl_kv_head *h, const float *q, int64_t lo, int64_t pos, float scale,
                          const float *sink, float *out, float *e)
{
    float inverse = weights(lo, pos, scores(f, h, q, lo, pos, scale, e), sink, e);
    int i = 0;
    for (; i + 64 <= h->head_dim; i += 64) mix(f, 4, 16, h, lo, pos, e, inverse, i, out);
    for (; i + 16 <= h->head_dim; i += 16) mix(f, 1, 16, h, lo, pos, e, inverse, i, out);
    if (i < h->head_dim) mix(f, 1, h->head_dim - i, h, lo, pos, e, inverse, i, out);
}

static void attend(const cl_kv_head *h, const float *q, int64_t lo, int64_t pos, float scale, const float *sink, float *out,
                   float *scratch)
{
    switch (h->format) {
    case CL_KV_F32: attend_format(CL_KV_F32, h, q, lo, pos, scale, sink, out, scratch); break;
    case CL_KV_BF16: attend_format(CL_KV_BF16, h, q, lo, pos, scale, sink, out, scratch); break;
    case CL_KV_Q8: attend_format(CL_KV_Q8, h, q, lo, pos, scale, sink, out, scratch); break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
}

/* --- latent attention: heads share the keys, which hold the values too. Blocks are taken once for scores and once for values, all
 * heads while a block is in a cache. --- */

/* e[head * stride + 16 * (block - first)], and the largest of each head. */
INLINE void latent_scores(cl_kv_format f, const cl_kv_head *h, int n, const float *q, size_t q_stride, int64_t lo, int64_t pos,
                          float scale, float *e, size_t stride, float *largest)
{
    enum { HALF = LANES_TOKENS / 2 };
    const int together = n / HALF * HALF; /* fewer would be too few chains: they go head by head, several blocks at once */
    vf max[CL_LATENT_HEADS], s[LANES_TOKENS];
    for (int k = 0; k < together; k++) max[k] = vf_set1(-INFINITY);
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    for (int64_t b = together ? first : last + 1; b <= last; b++) {
        for (int k = 0, m; k < together; k += m) {
            m = together - k >= LANES_TOKENS ? LANES_TOKENS : HALF;
            if (m > HALF) score_blocks(f, 1, LANES_TOKENS, h, q + (size_t)k * q_stride, q_stride, b, s);
            else score_blocks(f, 1, HALF, h, q + (size_t)k * q_stride, q_stride, b, s);
            for (int t = 0; t < m; t++) {
                vf a = visible(vf_mul(vf_set1(scale), s[t]), vf_set1(-INFINITY), lo, pos, b);
                max[k + t] = vf_max(a, max[k + t]);
                vf_store(e + (size_t)(k + t) * stride + (b - first) * CL_KV_BLOCK, a);
            }
        }
    }
    for (int k = 0; k < together; k++) largest[k] = vf_fold_max(max[k]);
    for (int k = together; k < n; k++) {
        largest[k] = scores(f, h, q + (size_t)k * q_stride, lo, pos, scale, e + (size_t)k * stride);
    }
}

/* v[j]: numbers i .. i+15 of position j of block b, zeros past the head. A position that is not visible is -0, so that with a
 * weight of 0 it changes no bit of a sum: fma(0, -0, o) is o. */
INLINE void latent_values(cl_kv_format f, const cl_kv_head *h, int64_t lo, int64_t pos, int64_t b, int i, vf *v)
{
    const unsigned char *numbers = h->keys + cl_kv_block_at(h, b) + (f == CL_KV_Q8 ? cl_kv_scales(h->head_dim) * sizeof(float) : 0);
    for (int r = 0; r < 16; r++) {
        vf key = i + r < h->head_dim ? key_lanes(f, numbers, i + r) : vf_set1(0);
        v[r] = visible(f == CL_KV_BF16 ? vf_together(key) : key, vf_set1(-0.0f), lo, pos, b);
    }
    vf_transpose(v);
}

/* out[i .. i+16) of `heads` heads, n of these numbers, goes on over the 16 positions of a block: weights e, q8: times d. */
INLINE void latent_mix(cl_kv_format f, int heads, const vf *v, vf d, const float *e, size_t stride, float *out, size_t out_stride,
                       int n)
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

INLINE void latent_format(cl_kv_format f, const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim, int64_t lo,
                          int64_t pos, float scale, const float *sinks, float *out, size_t out_stride, float *e)
{
    const int64_t first = lo / CL_KV_BLOCK, last = pos / CL_KV_BLOCK;
    const size_t stride = (size_t)(last - first + 1) * CL_KV_BLOCK;
    float inverse[CL_LATENT_HEADS];
    latent_scores(f, h, n, q, q_stride, lo, pos, scale, e, stride, inverse);
    for (int k = 0; k < n; k++) {
        inverse[k] = weights(lo, pos, inverse[k], sinks ? &sinks[k] : NULL, e + (size_t)k * stride);
        memset(out + (size_t)k * out_stride, 0, (size_t)v_dim * sizeof *out);
    }
    for (int64_t b = first; b <= last; b++, e += CL_KV_BLOCK) {
        for (int i = 0; i < v_dim; i += 16) {
            vf v[16], d = vf_set1(0);
            latent_values(f, h, lo, pos, b, i, v);
            if (f == CL_KV_Q8) {
                d = visible(vf_load((const float *)(h->keys + cl_kv_block_at(h, b)) + i / 32 * CL_KV_BLOCK), d, lo, pos, b);
            }
            for (int k = 0, m; k < n; k += m) {
                const float *a = e + (size_t)k * stride;
                float *o = out + (size_t)k * out_stride + i;
                m = n - k >= LATENT_CHAINS ? LATENT_CHAINS : 1;
                if (m > 1) latent_mix(f, LATENT_CHAINS, v, d, a, stride, o, out_stride, v_dim - i);
                else latent_mix(f, 1, v, d, a, stride, o, out_stride, v_dim - i);
            }
        }
    }
    for (int k = 0; k < n; k++) {
        float *y = out + (size_t)k * out_stride;
        for (int i = 0; i < v_dim; i += 16) store_some(y + i, vf_mul(load_some(y + i, v_dim - i), vf_set1(inverse[k])), v_dim - i);
    }
}

static void attend_latent(const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim, int64_t lo, int64_t pos,
                          float scale, const float *sinks, float *out, size_t out_stride, float *scratch)
{
    switch (h->format) {
    case CL_KV_F32: latent_format(CL_KV_F32, h, n, q, q_stride, v_dim, lo, pos, scale, sinks, out, out_stride, scratch); break;
    case CL_KV_BF16: latent_format(CL_KV_BF16, h, n, q, q_stride, v_dim, lo, pos, scale, sinks, out, out_stride, scratch); break;
    case CL_KV_Q8: latent_format(CL_KV_Q8, h, n, q, q_stride, v_dim, lo, pos, scale, sinks, out, out_stride, scratch); break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
}
