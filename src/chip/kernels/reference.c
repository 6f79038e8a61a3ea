/* reference.c: the definition of kernels.h as plain scalar loops, one number at a time. Kept forever; the fast sets
 * are tested against it by memcmp. A panel is simply 16 canonical rows, one after the other. */
#include <math.h>
#include <string.h>

#include "chipline/util.h"
#include "sets.h"

float cl_exp(float x)
{
    x = CL_EXP_LO > x ? CL_EXP_LO : x;
    x = CL_EXP_HI < x ? CL_EXP_HI : x;
    float t = fmaf(x, CL_EXP_LOG2E, CL_EXP_ROUND), n = t - CL_EXP_ROUND;
    float r = fmaf(n, -CL_EXP_LN2_HI, x);
    r = fmaf(n, -CL_EXP_LN2_LO, r);
    float p = CL_EXP_C6;
    p = fmaf(p, r, CL_EXP_C5);
    p = fmaf(p, r, CL_EXP_C4);
    p = fmaf(p, r, CL_EXP_C3);
    p = fmaf(p, r, CL_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits, power;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&power, &t, sizeof power);
    bits += power << 23; /* times 2^n: the result is a normal number */
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* --- panels: 16 rows as they are --- */

static size_t panel_bytes(cl_format f, int64_t cols) { return (CL_PANEL * cl_row_bytes(f, cols) + 63) / 64 * 64; }

static void pack(cl_format f, int64_t cols, const unsigned char *rows, int64_t n_rows, unsigned char *panels)
{
    size_t row = cl_row_bytes(f, cols), panel = panel_bytes(f, cols);
    for (int64_t r = 0; r < n_rows; r += CL_PANEL) {
        size_t n = (size_t)(n_rows - r < CL_PANEL ? n_rows - r : CL_PANEL);
        memset(panels, 0, panel);
        memcpy(panels, rows + (size_t)r * row, n * row);
        panels += panel;
    }
}

static void unpack(cl_format f, int64_t cols, const unsigned char *panel, int row, float *out)
{
    cl_decode_row(f, panel + (size_t)row * cl_row_bytes(f, cols), cols, out);
}

/* --- activations: tokens one after the other --- */

static int64_t blocks_of(int64_t cols) { return (cols + 31) / 32; }

static float fold(float lane[16])
{
    for (int width = 8; width >= 1; width /= 2) {
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    }
    return lane[0];
}

static float mean_square(const float *x, int64_t n)
{
    float lane[16] = {0};
    for (int64_t i = 0; i < n; i++) lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    return fold(lane) / (float)n;
}

static int32_t total(const int8_t *q)
{
    int32_t sum = 0;
    for (int c = 0; c < 32; c++) sum += q[c];
    return sum;
}

/* Both planes of block i: the second is zeros where mixed numbers need none. */
static void prepare_planes(cl_acts *x, int64_t i, const float *in, float r)
{
    int8_t *q = x->q + i * 64;
    float *d = x->d + i * 2;
    d[0] = cl_block_q8(in, 32, q);
    d[1] = 0;
    memset(q + 32, 0, 32);
    if (!x->mixed || d[0] > CL_MIXED_SCALE * r) cl_block_q16(in, q, q + 32, d);
    for (int k = 0; k < 2; k++) x->sum[i * 2 + k] = total(q + k * 32);
}

static void prepare(cl_acts *x, int t0, int t1)
{
    int64_t blocks = blocks_of(x->cols);
    for (int t = t0; t < t1; t++) {
        const float *in = x->f32 + (size_t)t * x->stride;
        const float r = x->q8 && x->mixed ? sqrtf(mean_square(in, x->cols)) : 0;
        for (int64_t i = t * blocks; i < (t + 1) * blocks; i++, in += 32) {
            if (x->q8 && x->planes == 2) {
                prepare_planes(x, i, in, r);
            } else if (x->q8) {
                x->d[i] = cl_block_q8(in, 32, x->q + i * 32);
                x->sum[i] = total(x->q + i * 32);
            } else if (x->fsum) {
                x->fsum[i] = 0;
                for (int c = 0; c < 32; c++) x->fsum[i] += in[c];
            }
        }
    }
}

/* --- products --- */

static uint16_t u16_at(const unsigned char *p) { return (uint16_t)(p[0] | p[1] << 8); }

static float weight_at(cl_format f, const unsigned char *row, int64_t c)
{
    float w;
    switch (f) {
    case CL_F32: memcpy(&w, row + c * 4, sizeof w); return w;
    case CL_F16: return cl_f16_to_f32(u16_at(row + c * 2));
    case CL_BF16: return cl_bf16_to_f32(u16_at(row + c * 2));
    default: CL_BUG("format %d has blocks", (int)f);
    }
}

/* Columns past the end are zeros up to a multiple of 32. */
static float dot_float(cl_format f, const unsigned char *row, int64_t cols, const float *x)
{
    float chain[2] = {0, 0};
    for (int64_t c = 0; c < blocks_of(cols) * 32; c++) {
        chain[c % 2] = fmaf(c < cols ? weight_at(f, row, c) : 0.0f, x[c], chain[c % 2]);
    }
    return chain[0] + chain[1];
}

typedef struct block {
    float d, m; /* m: Q4_1 only */
    int q[32];
} block;

static void read_nibbles(const unsigned char *b, block *out)
{
    for (int i = 0; i < 16; i++) {
        out->q[i] = b[i] & 15;
        out->q[i + 16] = b[i] >> 4;
    }
}

static block read_block(cl_format f, const unsigned char *b)
{
    block out = {0};
    switch (f) {
    case CL_Q8_0:
        out.d = cl_f16_to_f32(u16_at(b));
        for (int i = 0; i < 32; i++) out.q[i] = (int8_t)b[2 + i];
        break;
    case CL_Q4_0:
        out.d = cl_f16_to_f32(u16_at(b));
        read_nibbles(b + 2, &out);
        for (int i = 0; i < 32; i++) out.q[i] -= 8;
        break;
    case CL_Q4_1:
        out.d = cl_f16_to_f32(u16_at(b));
        out.m = cl_f16_to_f32(u16_at(b + 2));
        read_nibbles(b + 4, &out);
        break;
    case CL_INT4:
        out.d = cl_bf16_to_f32(u16_at(b));
        read_nibbles(b + 2, &out);
        for (int i = 0; i < 32; i++) out.q[i] -= 8;
        break;
    case CL_MXFP4:
        out.d = cl_e8m0_half(b[0]);
        read_nibbles(b + 1, &out);
        for (int i = 0; i < 32; i++) out.q[i] = cl_e2m1_doubled[out.q[i]];
        break;
    default: CL_BUG("format %d has no blocks of 32", (int)f);
    }
    return out;
}

static float dot_quantised(cl_format f, const unsigned char *row, const cl_acts *x, int token)
{
    int64_t blocks = blocks_of(x->cols);
    int bytes = cl_format_get(f)->block_bytes;
    float y = 0;
    for (int64_t b = 0; b < blocks; b++) {
        block w = read_block(f, row + b * bytes);
        int64_t at = token * blocks + b;
        for (int64_t p = at * x->planes; x->q8 && p < (at + 1) * x->planes; p++) {
            int32_t isum = 0;
            if (p % 2 && x->planes == 2 && x->d[p] == 0) continue; /* no fine plane */
            for (int c = 0; c < 32; c++) isum += w.q[c] * x->q[p * 32 + c];
            y = fmaf(w.d * x->d[p], (float)isum, y);
            if (f == CL_Q4_1) y = fmaf(w.m * x->d[p], (float)x->sum[p], y);
        }
        if (!x->q8) {
            const float *in = x->f32 + (size_t)token * x->stride + b * 32;
            float s = 0;
            for (int c = 0; c < 32; c++) s = fmaf((float)w.q[c], in[c], s);
            y = fmaf(w.d, s, y);
            if (f == CL_Q4_1) y = fmaf(w.m, x->fsum[at], y);
        }
    }
    return y;
}

/* Tiles of 128 columns share a scale; columns past the end are zeros. */
static float dot_fp8(const unsigned char *row, int64_t cols, const float *x)
{
    const unsigned char *codes = row + (cols + 127) / 128 * (int64_t)sizeof(float);
    float y = 0;
    for (int64_t b = 0; b < blocks_of(cols); b++) {
        float d, s = 0;
        memcpy(&d, row + b / 4 * (int64_t)sizeof d, sizeof d);
        for (int64_t c = b * 32; c < b * 32 + 32; c++)
            s = fmaf(c < cols ? cl_e4m3_to_f32(codes[c]) * 0x1p-8f : 0.0f, x[c], s);
        y = fmaf(d * 0x1p8f, s, y);
    }
    return y;
}

static float dot(const cl_matrix *w, const unsigned char *row, const cl_acts *x, int token)
{
    const float *in = x->f32 + (size_t)token * x->stride;
    if (w->format <= CL_BF16) return dot_float(w->format, row, w->cols, in);
    return w->format == CL_FP8 ? dot_fp8(row, w->cols, in) : dot_quantised(w->format, row, x, token);
}

static void matmul(const cl_matrix *w, int64_t expert, int64_t p0, int64_t p1, const cl_acts *x, const int32_t *index,
                   int n_index, float *y, size_t y_stride)
{
    size_t row_bytes = cl_row_bytes(w->format, w->cols);
    int n = index ? n_index : x->n;
    for (int64_t r = p0 * CL_PANEL; r < p1 * CL_PANEL && r < w->rows; r++) {
        const unsigned char *row = w->data + (size_t)(expert * w->panels + r / CL_PANEL) * w->panel_bytes +
                                   (size_t)(r % CL_PANEL) * row_bytes;
        for (int t = 0; t < n; t++) {
            int token = index ? index[t] : t;
            y[(size_t)t * y_stride + (size_t)r] = dot(w, row, x, token);
        }
    }
}

/* --- vectors --- */

static void rmsnorm(const float *x, const float *w, int64_t n, float eps, float *y)
{
    float r = 1.0f / sqrtf(mean_square(x, n) + eps);
    for (int64_t i = 0; i < n; i++) y[i] = w ? x[i] * r * w[i] : x[i] * r;
}

static void silu_mul(const float *g, const float *u, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = g[i] / (1.0f + cl_exp(-g[i])) * u[i];
}

static void clamped_mul(const float *g, const float *u, int64_t n, float limit, float alpha, float *y)
{
    for (int64_t i = 0; i < n; i++) {
        float a = g[i] > limit ? limit : g[i], b = u[i] > limit ? limit : u[i] < -limit ? -limit : u[i];
        y[i] = (b + 1.0f) * (a / (1.0f + cl_exp(-(alpha * a))));
    }
}

static void add(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

static void axpy(float *x, float a, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = fmaf(a, y[i], x[i]);
}

/* --- attention --- */

typedef struct cached {
    float scale; /* q8: of its 32 numbers; otherwise 1 */
    float value;
} cached;

/* Number i of position pos; `at` is its place in the half of the block. */
static cached cache_at(const cl_kv_head *h, const unsigned char *half, int64_t pos, int i, size_t at)
{
    const unsigned char *b = half + cl_kv_block_at(h, pos / CL_KV_BLOCK);
    switch (h->format) {
    case CL_KV_F32: return (cached){1, ((const float *)b)[at]};
    case CL_KV_BF16: return (cached){1, cl_bf16_to_f32(((const uint16_t *)b)[at])};
    case CL_KV_Q8: {
        const float *scales = (const float *)b;
        return (cached){scales[i / 32 * CL_KV_BLOCK + pos % CL_KV_BLOCK],
                        ((const int8_t *)(scales + cl_kv_scales(h->head_dim)))[at]};
    }
    default: CL_BUG("cache format %d", (int)h->format);
    }
}

static float score(const cl_kv_head *h, const float *q, int64_t pos)
{
    float s = 0, t = 0;
    for (int i = 0; i < h->head_dim; i++) {
        cached k = cache_at(h, h->keys, pos, i, (size_t)(i * CL_KV_BLOCK + pos % CL_KV_BLOCK));
        t = fmaf(q[i], k.value, t);
        if (h->format == CL_KV_Q8 && (i % 32 == 31 || i == h->head_dim - 1)) {
            s = fmaf(k.scale, t, s);
            t = 0;
        }
    }
    return h->format == CL_KV_Q8 ? s : t;
}

/* Number i of the value of position pos; latent: of its key. */
static cached value_at(const cl_kv_head *h, int64_t pos, int i)
{
    if (h->values) return cache_at(h, h->values, pos, i, (size_t)(pos % CL_KV_BLOCK * h->head_dim + i));
    return cache_at(h, h->keys, pos, i, (size_t)(i * CL_KV_BLOCK + pos % CL_KV_BLOCK));
}

/* One query head, and the first v_dim numbers of the values. A node is what it has found in a run or a tree of runs:
 * the largest score, the sum of the weights, v_dim sums. */
typedef struct asking {
    const cl_kv_head *h;
    const float *q, *sink;
    int v_dim;
    int64_t lo, pos;
    float scale, *e; /* [CL_KV_RUN] */
} asking;

static void attend_run(const asking *k, int64_t run, float *node)
{
    const int64_t begin = run * CL_KV_RUN, end = begin + CL_KV_RUN;
    const int64_t lo = k->lo > begin ? k->lo : begin, to = k->pos < end ? k->pos + 1 : end;
    float max = k->sink ? *k->sink : -INFINITY, lane[16] = {0};
    for (int64_t j = lo; j < to; j++) {
        float s = k->e[j - begin] = k->scale * score(k->h, k->q, j);
        max = s > max ? s : max;
    }
    for (int64_t j = lo; j < to; j++) {
        k->e[j - begin] = cl_exp(k->e[j - begin] - max);
        lane[j % 16] += k->e[j - begin];
    }
    node[0] = max;
    node[1] = fold(lane);
    for (int i = 0; i < k->v_dim; i++) {
        float o = 0;
        for (int64_t j = lo; j < to; j++) {
            cached v = value_at(k->h, j, i);
            float e = k->e[j - begin];
            o = fmaf(k->h->format == CL_KV_Q8 ? e * v.scale : e, v.value, o);
        }
        node[2 + i] = o;
    }
}

/* Of the 2^level runs from run index * 2^level on, some of which are seen. nodes: room for one, and for those that wait
 * meanwhile. */
static void attend_tree(const asking *k, int level, int64_t index, float *nodes)
{
    if (!level) {
        attend_run(k, index, nodes);
        return;
    }
    const int64_t middle = (2 * index + 1) * ((int64_t)CL_KV_RUN << (level - 1));
    const bool left = k->lo < middle, right = k->pos >= middle;
    float *other = left ? nodes + 2 + k->v_dim : nodes;
    if (left) attend_tree(k, level - 1, 2 * index, nodes);
    if (right) attend_tree(k, level - 1, 2 * index + 1, other);
    if (!left || !right) return;
    const bool more = nodes[0] > other[0];
    const float less = cl_exp(more ? other[0] - nodes[0] : nodes[0] - other[0]), a = more ? 1 : less,
                b = more ? less : 1;
    nodes[0] = more ? nodes[0] : other[0];
    for (int i = 1; i < 2 + k->v_dim; i++) nodes[i] = fmaf(nodes[i], a, other[i] * b);
}

static void attend_head(const cl_kv_head *h, const float *q, int v_dim, int64_t lo, int64_t pos, float scale,
                        const float *sink, float *out, float *scratch)
{
    const asking k = {h, q, sink, v_dim, lo, pos, scale, scratch};
    float *node = scratch + CL_KV_RUN;
    int level = 0;
    while (pos >= (int64_t)CL_KV_RUN << level) level++;
    attend_tree(&k, level, 0, node);
    const float inverse = 1.0f / (sink ? node[1] + cl_exp(*sink - node[0]) : node[1]);
    for (int i = 0; i < v_dim; i++) out[i] = node[2 + i] * inverse;
}

static void attend(const cl_kv_head *h, int n, const cl_query *queries, float scale, float *scratch)
{
    for (const cl_query *q = queries; q < queries + n; q++) {
        attend_head(h, q->q, h->head_dim, q->lo, q->pos, scale, q->sink, q->out, scratch);
    }
}

static void attend_latent(const cl_kv_head *h, int n, const float *q, size_t q_stride, int v_dim, int64_t lo,
                          int64_t pos, float scale, const float *sinks, float *out, size_t out_stride, float *scratch)
{
    for (int i = 0; i < n; i++, q += q_stride, out += out_stride) {
        attend_head(h, q, v_dim, lo, pos, scale, sinks ? &sinks[i] : NULL, out, scratch);
    }
}

const cl_kernels *cl_kernels_reference(void)
{
    static const cl_kernels set = {.name = "reference",
                                   .panel_bytes = panel_bytes,
                                   .pack = pack,
                                   .unpack = unpack,
                                   .prepare = prepare,
                                   .matmul = matmul,
                                   .rmsnorm = rmsnorm,
                                   .silu_mul = silu_mul,
                                   .clamped_mul = clamped_mul,
                                   .add = add,
                                   .axpy = axpy,
                                   .kv_store = cl_kv_store,
                                   .attend = attend,
                                   .attend_latent = attend_latent};
    return &set;
}
