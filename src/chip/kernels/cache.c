/* cache.c: writing keys and values into the cache, and 8-bit blocks: plain code that every set uses. */
#include <float.h>
#include <string.h>

#include "chipline/util.h"
#include "sets.h"

/* NaN counts as the largest. */
static float largest(const float *x, int n)
{
    uint32_t bits = 0; /* magnitudes ordered as integers: NaN is above infinity */
    for (int i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffff;
        bits = u > bits ? u : bits;
    }
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    return amax;
}

float cl_block_q8(const float *x, int n, int8_t *q)
{
    float amax = largest(x, n), inverse = 127.0f / amax;
    bool usable = amax <= FLT_MAX && inverse <= FLT_MAX;
    for (int i = 0; i < n; i++) q[i] = (int8_t)(usable ? lrintf(x[i] * inverse) : 0);
    return amax / 127.0f;
}

/* Nearest integer, ties to even, of a number well below 2^22: adding 1.5 * 2^23 leaves it in the low bits. */
static inline int32_t nearest(float x)
{
    float moved = x + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &moved, sizeof bits);
    return bits - 0x4b400000;
}

void cl_block_q16(const float *x, int8_t *coarse, int8_t *fine, float d[2])
{
    enum { MOST = 32258, STEP = 254 };
    float amax = largest(x, 32), inverse = (float)MOST / amax;
    bool usable = amax <= FLT_MAX && inverse <= FLT_MAX;
    d[1] = amax / (float)MOST;
    d[0] = (float)STEP * d[1];
    for (int i = 0; i < 32; i++) {
        int32_t v = usable ? nearest(x[i] * inverse) : 0, c = nearest((float)v * (1.0f / (float)STEP));
        coarse[i] = (int8_t)c;
        fine[i] = (int8_t)(v - STEP * c);
    }
}

static void store_f32(const cl_kv_head *h, int64_t pos, const float *k, const float *v)
{
    size_t at = cl_kv_block_at(h, pos / CL_KV_BLOCK), j = (size_t)(pos % CL_KV_BLOCK), n = (size_t)h->head_dim;
    float *keys = (float *)(h->keys + at);
    for (size_t i = 0; i < n; i++) keys[i * CL_KV_BLOCK + j] = k[i];
    if (h->values) memcpy((float *)(h->values + at) + j * n, v, n * sizeof *v);
}

static void store_bf16(const cl_kv_head *h, int64_t pos, const float *k, const float *v)
{
    size_t at = cl_kv_block_at(h, pos / CL_KV_BLOCK), j = (size_t)(pos % CL_KV_BLOCK), n = (size_t)h->head_dim;
    uint16_t *keys = (uint16_t *)(h->keys + at);
    for (size_t i = 0; i < n; i++) keys[i * CL_KV_BLOCK + j] = cl_f32_to_bf16(k[i]);
    if (!h->values) return;
    uint16_t *values = (uint16_t *)(h->values + at) + j * n;
    for (size_t i = 0; i < n; i++) values[i] = cl_f32_to_bf16(v[i]);
}

static void store_q8(const cl_kv_head *h, int64_t pos, const float *k, const float *v)
{
    size_t at = cl_kv_block_at(h, pos / CL_KV_BLOCK), j = (size_t)(pos % CL_KV_BLOCK),
           scales = cl_kv_scales(h->head_dim);
    float *kd = (float *)(h->keys + at);
    int8_t *kq = (int8_t *)(kd + scales);
    for (int i = 0; i < h->head_dim; i += 32) {
        int n = h->head_dim - i < 32 ? h->head_dim - i : 32;
        int8_t q[32];
        kd[(size_t)i / 32 * CL_KV_BLOCK + j] = cl_block_q8(k + i, n, q);
        for (int e = 0; e < n; e++) kq[(size_t)(i + e) * CL_KV_BLOCK + j] = q[e];
        if (!h->values) continue;
        float *vd = (float *)(h->values + at);
        int8_t *vq = (int8_t *)(vd + scales) + j * (size_t)h->head_dim;
        vd[(size_t)i / 32 * CL_KV_BLOCK + j] = cl_block_q8(v + i, n, vq + i);
    }
}

void cl_kv_store(const cl_kv_head *h, int64_t pos, const float *k, const float *v)
{
    switch (h->format) {
    case CL_KV_F32: store_f32(h, pos, k, v); break;
    case CL_KV_BF16: store_bf16(h, pos, k, v); break;
    case CL_KV_Q8: store_q8(h, pos, k, v); break;
    default: CL_BUG("cache format %d", (int)h->format);
    }
}
