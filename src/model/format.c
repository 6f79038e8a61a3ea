/* format.c: number formats of weights, one block at a time; whole rows are loops over blocks.
 *
 * Block layouts and the order of operations follow GGUF (ggml's ggml-common.h and ggml-quants.c), so that decoding
 * gives the same float32 bits and encoding the same bytes. INT4 is Q4_0's block with a bf16 scale; FP8, whose rows
 * share scales, is no block format and has functions of its own. Multi-byte fields are little-endian and unaligned. */
#include "chipline/format.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#include "chipline/status.h"
#include "chipline/util.h"

enum { MAX_BLOCK = 256, TILE = 128 }; /* TILE: rows and columns that share an FP8 scale */

const int8_t cl_e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float cl_e8m0_half(uint8_t e)
{
    uint32_t u = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint16_t load16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static inline void store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline float load_half(const uint8_t *p) { return cl_f16_to_f32(load16(p)); }

/* --- E4M3 --- */

float cl_e4m3_to_f32(uint8_t code)
{
    if ((code & 0x7f) == 0x7f) return code & 0x80 ? -NAN : NAN;
    /* The code's exponent and fraction at float32's places: only the exponents' biases differ, 127 - 7, also for
     * subnormals. */
    uint32_t u = (uint32_t)(code & 0x80) << 24 | (uint32_t)(code & 0x7f) << 20;
    float f;
    memcpy(&f, &u, sizeof f);
    return f * 0x1p120f;
}

uint8_t cl_f32_to_e4m3(float x)
{
    uint8_t sign = signbit(x) ? 0x80 : 0;
    float a = fabsf(x), magic = 0x1p14f; /* its unit in the last place is 2^-9, E4M3's least number */
    uint32_t u, base;
    if (isnan(x)) return sign | 0x7f;
    if (a >= 448) return sign | 0x7e;
    if (a < 0x1p-6f) { /* subnormal: the addition rounds */
        a += magic;
        memcpy(&u, &a, sizeof u);
        memcpy(&base, &magic, sizeof base);
        return (uint8_t)(sign | (u - base));
    }
    memcpy(&u, &a, sizeof u);
    u += 0x7ffff + (u >> 20 & 1);
    return (uint8_t)(sign | ((u >> 20) - (120 << 3)));
}

/* --- decoding: one block -> out[block] --- */

static void decode_f32(const uint8_t *b, float *out) { memcpy(out, b, sizeof *out); }
static void decode_f16(const uint8_t *b, float *out) { *out = load_half(b); }
static void decode_bf16(const uint8_t *b, float *out) { *out = cl_bf16_to_f32(load16(b)); }

static void decode_q8_0(const uint8_t *b, float *out)
{
    float d = load_half(b);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)b[2 + i];
}

/* 32 codes in 16 bytes, 8 stands for 0. */
static void decode_u4(float d, const uint8_t *codes, float *out)
{
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((codes[i] & 15) - 8);
        out[i + 16] = d * (float)((codes[i] >> 4) - 8);
    }
}

static void decode_q4_0(const uint8_t *b, float *out) { decode_u4(load_half(b), b + 2, out); }
static void decode_int4(const uint8_t *b, float *out) { decode_u4(cl_bf16_to_f32(load16(b)), b + 2, out); }

static void decode_q4_1(const uint8_t *b, float *out)
{
    float d = load_half(b), m = load_half(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b[4 + i] & 15) + m;
        out[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

static void decode_q5_0(const uint8_t *b, float *out)
{
    float d = load_half(b);
    uint32_t high = load32(b + 2);
    for (int i = 0; i < 16; i++) {
        int lo = (b[6 + i] & 15) | (int)(high >> i & 1) << 4, hi = b[6 + i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        out[i] = d * (float)(lo - 16);
        out[i + 16] = d * (float)(hi - 16);
    }
}

static void decode_q5_1(const uint8_t *b, float *out)
{
    float d = load_half(b), m = load_half(b + 2);
    uint32_t high = load32(b + 4);
    for (int i = 0; i < 16; i++) {
        int lo = (b[8 + i] & 15) | (int)(high >> i & 1) << 4, hi = b[8 + i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        out[i] = d * (float)lo + m;
        out[i + 16] = d * (float)hi + m;
    }
}

static void decode_mxfp4(const uint8_t *b, float *out)
{
    float d = cl_e8m0_half(b[0]);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)cl_e2m1_doubled[b[1 + i] & 15];
        out[i + 16] = d * (float)cl_e2m1_doubled[b[1 + i] >> 4];
    }
}

/* 6-bit scale and minimum of sub-block s of a Q4_K or Q5_K block. */
static void k_scale(const uint8_t *sc, int s, int *scale, int *min)
{
    if (s < 4) {
        *scale = sc[s] & 63;
        *min = sc[s + 4] & 63;
    } else {
        *scale = (sc[s + 4] & 15) | sc[s - 4] >> 6 << 4;
        *min = sc[s + 4] >> 4 | sc[s] >> 6 << 4;
    }
}

/* Q4_K and Q5_K: eight sub-blocks of 32; `high` is NULL or Q5_K's fifth bits. */
static void decode_k(const uint8_t *b, const uint8_t *high, const uint8_t *q, float *out)
{
    float d = load_half(b), dmin = load_half(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, min;
        k_scale(b + 4, s, &scale, &min);
        float ds = d * (float)scale, ms = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int n = (s & 1 ? q[s / 2 * 32 + i] >> 4 : q[s / 2 * 32 + i] & 15) + (high ? (high[i] >> s & 1) << 4 : 0);
            out[s * 32 + i] = ds * (float)n - ms;
        }
    }
}

static void decode_q4_k(const uint8_t *b, float *out) { decode_k(b, NULL, b + 16, out); }
static void decode_q5_k(const uint8_t *b, float *out) { decode_k(b, b + 16, b + 48, out); }

static void decode_q6_k(const uint8_t *b, float *out)
{
    float d = load_half(b + 208);
    for (int u = 0; u < 2; u++) {
        const uint8_t *ql = b + 64 * u, *qh = b + 128 + 32 * u, *sc = b + 192 + 8 * u;
        for (int quarter = 0; quarter < 4; quarter++) {
            for (int i = 0; i < 32; i++) {
                int low = ql[i + 32 * (quarter & 1)] >> (quarter & 2 ? 4 : 0) & 15, high = qh[i] >> 2 * quarter & 3;
                float ds = d * (float)(int8_t)sc[2 * quarter + i / 16];
                out[128 * u + 32 * quarter + i] = ds * (float)((low | high << 4) - 32);
            }
        }
    }
}

/* --- encoding: x[block] -> one block --- */

static void encode_f32(const float *x, uint8_t *b) { memcpy(b, x, sizeof *x); }
static void encode_f16(const float *x, uint8_t *b) { store16(b, cl_f32_to_f16(*x)); }
static void encode_bf16(const float *x, uint8_t *b) { store16(b, cl_f32_to_bf16(*x)); }

static void encode_q8_0(const float *x, uint8_t *b)
{
    float amax = 0;
    for (int i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[i]));
    float d = amax / 127, inv = d != 0 ? 1 / d : 0;
    store16(b, cl_f32_to_f16(d));
    for (int i = 0; i < 32; i++) {
        /* |q| <= 127 for finite x whose inverse scale is finite; the clamp is for the others */
        float q = roundf(x[i] * inv);
        b[2 + i] = (uint8_t)(int8_t)(q > 127 ? 127 : q >= -127 ? q : -127);
    }
}

/* Truncated to 0..15; NaN gives 0. */
static uint8_t code15(double v) { return v >= 15 ? 15 : v >= 0 ? (uint8_t)v : 0; }

/* The scale that maps the number of largest magnitude to -8. */
static float scale_q4(const float *x)
{
    float amax = 0, max = 0;
    for (int i = 0; i < 32; i++) {
        if (fabsf(x[i]) > amax) {
            amax = fabsf(x[i]);
            max = x[i];
        }
    }
    return max / -8;
}

/* In double: the reference's result depends on whether its compiler fuses this; the reference's Python form rounds
 * once. */
static void encode_u4(const float *x, double inv, uint8_t *codes)
{
    for (int i = 0; i < 16; i++) codes[i] = (uint8_t)(code15(x[i] * inv + 8.5) | code15(x[i + 16] * inv + 8.5) << 4);
}

static void encode_q4_0(const float *x, uint8_t *b)
{
    float d = scale_q4(x), inv = d != 0 ? 1 / d : 0;
    store16(b, cl_f32_to_f16(d));
    encode_u4(x, inv, b + 2);
}

/* Codes fit the scale as it is stored: bf16 keeps so few bits of it that codes of the exact one would be off. */
static void encode_int4(const float *x, uint8_t *b)
{
    uint16_t half = cl_f32_to_bf16(scale_q4(x));
    float d = cl_bf16_to_f32(half);
    store16(b, half);
    encode_u4(x, d != 0 ? 1 / (double)d : 0, b + 2);
}

static void encode_q4_1(const float *x, uint8_t *b)
{
    float min = x[0], max = x[0];
    for (int i = 1; i < 32; i++) {
        min = fminf(min, x[i]);
        max = fmaxf(max, x[i]);
    }
    float d = (max - min) / 15, inv = d != 0 ? 1 / d : 0;
    store16(b, cl_f32_to_f16(d));
    store16(b + 2, cl_f32_to_f16(min));
    for (int i = 0; i < 16; i++)
        b[4 + i] = (uint8_t)(code15((x[i] - min) * inv + 0.5f) | code15((x[i + 16] - min) * inv + 0.5f) << 4);
}

static uint8_t nearest_e2m1(float x, float d)
{
    int best = 0;
    float least = INFINITY;
    for (int i = 0; i < 16; i++) {
        float e = fabsf(d * (float)cl_e2m1_doubled[i] - x);
        if (e < least) {
            least = e;
            best = i;
        }
    }
    return (uint8_t)best;
}

static void encode_mxfp4(const float *x, uint8_t *b)
{
    float amax = 0;
    for (int i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[i]));
    /* The scale puts amax into [4, 8): 2^2 is the largest power of two in E2M1. */
    int e = amax > 0 && isfinite(amax) ? ilogbf(amax) - 2 + 127 : 0;
    b[0] = (uint8_t)(e < 0 ? 0 : e);
    float d = cl_e8m0_half(b[0]);
    for (int i = 0; i < 16; i++) b[1 + i] = (uint8_t)(nearest_e2m1(x[i], d) | nearest_e2m1(x[i + 16], d) << 4);
}

/* --- FP8 rows: scales of the row's tiles, then its codes --- */

static int64_t tiles(int64_t n) { return (n + TILE - 1) / TILE; }

static void decode_fp8(const uint8_t *row, int64_t cols, float *out)
{
    const uint8_t *codes = row + (size_t)tiles(cols) * sizeof(float);
    for (int64_t c = 0; c < cols; c++) {
        float scale;
        memcpy(&scale, row + (size_t)(c / TILE) * sizeof scale, sizeof scale);
        out[c] = cl_e4m3_to_f32(codes[c]) * scale;
    }
}

/* One tile: n rows, `cols` columns from column c of x [..][stride]; rows are row_bytes apart. */
static void encode_tile(const float *x, int64_t n, int64_t c, int64_t cols, int64_t stride, uint8_t *rows,
                        size_t row_bytes)
{
    float amax = 0;
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = c; i < c + cols; i++) amax = fmaxf(amax, fabsf(x[r * stride + i]));
    float scale = amax / 448; /* 0: all are zero or too small for any scale, and become zeros */
    for (int64_t r = 0; r < n; r++) {
        uint8_t *row = rows + (size_t)r * row_bytes, *codes = row + (size_t)tiles(stride) * sizeof scale;
        memcpy(row + (size_t)(c / TILE) * sizeof scale, &scale, sizeof scale);
        for (int64_t i = c; i < c + cols; i++) codes[i] = scale != 0 ? cl_f32_to_e4m3(x[r * stride + i] / scale) : 0;
    }
}

static void encode_fp8(const float *x, int64_t n, int64_t cols, uint8_t *rows)
{
    if (n > TILE) CL_BUG("%lld rows are more than a tile", (long long)n);
    for (int64_t c = 0; c < cols; c += TILE)
        encode_tile(x, n, c, cols - c < TILE ? cols - c : TILE, cols, rows, cl_row_bytes(CL_FP8, cols));
}

/* --- the table and whole rows --- */

typedef struct codec {
    cl_format_info info;
    void (*decode)(const uint8_t *b, float *out);
    void (*encode)(const float *x, uint8_t *b);
} codec;

static const codec codecs[CL_FORMATS] = {
    [CL_F32] = {{"f32", 1, 4}, decode_f32, encode_f32},
    [CL_F16] = {{"f16", 1, 2}, decode_f16, encode_f16},
    [CL_BF16] = {{"bf16", 1, 2}, decode_bf16, encode_bf16},
    [CL_Q8_0] = {{"q8_0", 32, 34}, decode_q8_0, encode_q8_0},
    [CL_Q4_0] = {{"q4_0", 32, 18}, decode_q4_0, encode_q4_0},
    [CL_Q4_1] = {{"q4_1", 32, 20}, decode_q4_1, encode_q4_1},
    [CL_MXFP4] = {{"mxfp4", 32, 17}, decode_mxfp4, encode_mxfp4},
    [CL_INT4] = {{"int4", 32, 18}, decode_int4, encode_int4},
    [CL_FP8] = {{"fp8", TILE, TILE + sizeof(float)}, NULL, NULL}, /* as much as a row of one whole tile */
    [CL_Q5_0] = {{"q5_0", 32, 22}, decode_q5_0, NULL},
    [CL_Q5_1] = {{"q5_1", 32, 24}, decode_q5_1, NULL},
    [CL_Q4_K] = {{"q4_k", 256, 144}, decode_q4_k, NULL},
    [CL_Q5_K] = {{"q5_k", 256, 176}, decode_q5_k, NULL},
    [CL_Q6_K] = {{"q6_k", 256, 210}, decode_q6_k, NULL},
};

static const codec *get(cl_format f)
{
    if ((unsigned)f >= CL_FORMATS) CL_BUG("number format %d does not exist", (int)f);
    return &codecs[f];
}

const cl_format_info *cl_format_get(cl_format f) { return &get(f)->info; }

bool cl_format_parse(const char *name, cl_format *out)
{
    for (int f = 0; f < CL_FORMATS; f++) {
        if (strcasecmp(name, codecs[f].info.name) == 0) {
            *out = (cl_format)f;
            return true;
        }
    }
    return false;
}

size_t cl_row_bytes(cl_format f, int64_t cols)
{
    const cl_format_info *i = cl_format_get(f);
    if (f == CL_FP8) return (size_t)tiles(cols) * sizeof(float) + (size_t)cols;
    return (size_t)((cols + i->block - 1) / i->block) * (size_t)i->block_bytes;
}

int64_t cl_format_tile_rows(cl_format f) { return f == CL_FP8 ? TILE : 1; }

uint64_t cl_matrix_bytes(cl_format f, int64_t rows, int64_t cols)
{
    if (f != CL_FP8) return (uint64_t)rows * cl_row_bytes(f, cols);
    return (uint64_t)rows * (uint64_t)cols + (uint64_t)tiles(rows) * (uint64_t)tiles(cols) * sizeof(float);
}

bool cl_format_integer(cl_format f)
{
    return f == CL_Q8_0 || f == CL_Q4_0 || f == CL_Q4_1 || f == CL_MXFP4 || f == CL_INT4;
}

void cl_decode_row(cl_format f, const void *row, int64_t cols, float *out)
{
    const codec *c = get(f);
    const uint8_t *b = row;
    int n = c->info.block;
    if (f == CL_FP8) {
        decode_fp8(b, cols, out);
        return;
    }
    for (; cols >= n; cols -= n, out += n, b += c->info.block_bytes) c->decode(b, out);
    if (cols > 0) {
        float tail[MAX_BLOCK];
        c->decode(b, tail);
        memcpy(out, tail, (size_t)cols * sizeof *out);
    }
}

void cl_encode_row(cl_format f, const float *x, int64_t cols, void *row)
{
    const codec *c = get(f);
    if (f == CL_FP8) {
        encode_fp8(x, 1, cols, row);
        return;
    }
    if (!c->encode) CL_BUG("there is no encoder for %s", c->info.name);
    uint8_t *b = row;
    int n = c->info.block;
    for (; cols >= n; cols -= n, x += n, b += c->info.block_bytes) c->encode(x, b);
    if (cols > 0) {
        float tail[MAX_BLOCK] = {0};
        memcpy(tail, x, (size_t)cols * sizeof *x);
        c->encode(tail, b);
    }
}

void cl_encode_rows(cl_format f, const float *x, int64_t n, int64_t cols, void *rows)
{
    if (f == CL_FP8) {
        encode_fp8(x, n, cols, rows);
        return;
    }
    size_t row_bytes = cl_row_bytes(f, cols);
    for (int64_t r = 0; r < n; r++) cl_encode_row(f, x + r * cols, cols, (uint8_t *)rows + (size_t)r * row_bytes);
}
