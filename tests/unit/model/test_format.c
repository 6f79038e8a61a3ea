/* Number formats: bit for bit the GGUF layouts (fixtures made by gguf's own Python code, values from the formats'
 * definitions),
 * E4M3 as torch has it, any width, and errors of a round trip within half a step. */
#include <math.h>
#include <string.h>

#include "chipline/format.h"
#include "chipline/util.h"
#include "npy.h"
#include "suite.h"

static uint64_t rng_state;

static uint32_t rng(void) /* splitmix64's upper half */
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

static float uniform(void) { return (float)((int64_t)rng() - (int64_t)1 * 0x80000000) * 0x1p-31f; }

static void test_names_and_sizes(void)
{
    static const struct {
        const char *name;
        cl_format f;
        int cols[3];
        size_t bytes[3];
    } rows[] = {
        {"f32", CL_F32, {0, 1, 100}, {0, 4, 400}},         {"f16", CL_F16, {0, 1, 100}, {0, 2, 200}},
        {"bf16", CL_BF16, {0, 1, 100}, {0, 2, 200}},       {"q8_0", CL_Q8_0, {1, 32, 100}, {34, 34, 136}},
        {"q4_0", CL_Q4_0, {1, 32, 33}, {18, 18, 36}},      {"q4_1", CL_Q4_1, {31, 32, 96}, {20, 20, 60}},
        {"mxfp4", CL_MXFP4, {2, 64, 65}, {17, 34, 51}},    {"int4", CL_INT4, {1, 32, 33}, {18, 18, 36}},
        {"fp8", CL_FP8, {1, 128, 129}, {5, 132, 137}},     {"q5_0", CL_Q5_0, {1, 32, 33}, {22, 22, 44}},
        {"q5_1", CL_Q5_1, {1, 32, 33}, {24, 24, 48}},      {"q4_k", CL_Q4_K, {1, 256, 257}, {144, 144, 288}},
        {"q5_k", CL_Q5_K, {1, 256, 257}, {176, 176, 352}}, {"q6_k", CL_Q6_K, {1, 256, 257}, {210, 210, 420}},
    };
    CU_ASSERT_EQUAL_FATAL(sizeof rows / sizeof *rows, CL_FORMATS);
    for (int i = 0; i < CL_FORMATS; i++) {
        cl_format f = CL_FORMATS;
        CU_ASSERT_EQUAL((int)rows[i].f, i);
        CU_ASSERT_STRING_EQUAL(cl_format_get(rows[i].f)->name, rows[i].name);
        CU_ASSERT_TRUE(cl_format_parse(rows[i].name, &f));
        CU_ASSERT_EQUAL(f, rows[i].f);
        CU_ASSERT_EQUAL(cl_format_native(rows[i].f), i <= CL_FP8);
        CU_ASSERT_EQUAL(cl_format_integer(rows[i].f), i >= CL_Q8_0 && i <= CL_INT4);
        CU_ASSERT_EQUAL(cl_format_tile_rows(rows[i].f), i == CL_FP8 ? 128 : 1);
        if (i != CL_FP8) CU_ASSERT_EQUAL(cl_matrix_bytes(rows[i].f, 7, rows[i].cols[2]), 7 * rows[i].bytes[2]);
        for (int k = 0; k < 3; k++) CU_ASSERT_EQUAL(cl_row_bytes(rows[i].f, rows[i].cols[k]), rows[i].bytes[k]);
    }
    cl_format f = CL_BF16;
    CU_ASSERT_TRUE(cl_format_parse("Q8_0", &f));
    CU_ASSERT_EQUAL(f, CL_Q8_0);
    CU_ASSERT_FALSE(cl_format_parse("q8", &f));
    CU_ASSERT_FALSE(cl_format_parse("", &f));
    CU_ASSERT_EQUAL(f, CL_Q8_0);
    CU_ASSERT_EQUAL(cl_row_bytes(CL_Q8_0, (int64_t)1 << 40), (size_t)34 << 35);
    CU_ASSERT_EQUAL(cl_row_bytes(CL_FP8, (int64_t)1 << 40), (size_t)33 << 35);
    CU_ASSERT_EQUAL(cl_matrix_bytes(CL_FP8, 128, 128), 16384 + 4);
    CU_ASSERT_EQUAL(cl_matrix_bytes(CL_FP8, 129, 257), 129 * 257 + 2 * 3 * 4);
    CU_ASSERT_EQUAL(cl_matrix_bytes(CL_FP8, 1, 1), 5);
}

/* TYPE.bin decodes to TYPE.npy; TYPE_src.npy encodes to TYPE.bin. */
static void test_fixtures(void)
{
    static const char *const types[CL_FORMATS] =
        {[CL_F16] = "F16",   [CL_BF16] = "BF16",   [CL_Q8_0] = "Q8_0", [CL_Q4_0] = "Q4_0",
         [CL_Q4_1] = "Q4_1", [CL_MXFP4] = "MXFP4", [CL_Q5_0] = "Q5_0", [CL_Q5_1] = "Q5_1",
         [CL_Q4_K] = "Q4_K", [CL_Q5_K] = "Q5_K",   [CL_Q6_K] = "Q6_K"};
    for (int f = CL_F16; f < CL_FORMATS; f++) {
        char path[512];
        npy want, src;
        size_t size = 0;
        if (!types[f]) continue; /* not GGUF's: tests of their own below */
        snprintf(path, sizeof path, "%s/quant/%s.npy", CL_FIXTURES, types[f]);
        CU_ASSERT_TRUE_FATAL(npy_load(path, &want));
        snprintf(path, sizeof path, "%s/quant/%s.bin", CL_FIXTURES, types[f]);
        unsigned char *raw = npy_read_file(path, &size);
        CU_ASSERT_PTR_NOT_NULL_FATAL(raw);
        size_t row = cl_row_bytes((cl_format)f, want.shape[1]);
        CU_ASSERT_EQUAL_FATAL(row * (size_t)want.shape[0], size);
        float *got = malloc((size_t)want.count * sizeof *got);
        for (int64_t r = 0; r < want.shape[0]; r++)
            cl_decode_row((cl_format)f, raw + (size_t)r * row, want.shape[1], got + r * want.shape[1]);
        CU_ASSERT_EQUAL(memcmp(got, want.data, (size_t)want.count * sizeof *got), 0);
        if (cl_format_native((cl_format)f)) {
            snprintf(path, sizeof path, "%s/quant/%s_src.npy", CL_FIXTURES, types[f]);
            CU_ASSERT_TRUE_FATAL(npy_load(path, &src));
            unsigned char *enc = malloc(size);
            for (int64_t r = 0; r < want.shape[0]; r++)
                cl_encode_row((cl_format)f, src.data + r * want.shape[1], want.shape[1], enc + (size_t)r * row);
            CU_ASSERT_EQUAL(memcmp(enc, raw, size), 0);
            free(enc);
            npy_free(&src);
        }
        free(got);
        free(raw);
        npy_free(&want);
    }
}

/* Blocks written by hand from the layouts' definitions. */
static void test_by_hand(void)
{
    float out[256];
    /* Q8_0: d = 0.5 (0x3800) */
    uint8_t q8[34] = {0x00, 0x38, 0x80, 0x7f, 0xff, 0x01};
    cl_decode_row(CL_Q8_0, q8, 32, out);
    CU_ASSERT_EQUAL(out[0], -64.0f);
    CU_ASSERT_EQUAL(out[1], 63.5f);
    CU_ASSERT_EQUAL(out[2], -0.5f);
    CU_ASSERT_EQUAL(out[3], 0.5f);
    CU_ASSERT_EQUAL(out[4], 0.0f);
    /* Q4_0: d = 1 (0x3c00); low nibbles are elements 0..15, high ones 16..31 */
    uint8_t q4[18] = {0x00, 0x3c, 0xf0};
    cl_decode_row(CL_Q4_0, q4, 32, out);
    CU_ASSERT_EQUAL(out[0], -8.0f);
    CU_ASSERT_EQUAL(out[16], 7.0f);
    /* Q4_1: d = 2 (0x4000), m = -1 (0xbc00) */
    uint8_t q41[20] = {0x00, 0x40, 0x00, 0xbc, 0x3f};
    cl_decode_row(CL_Q4_1, q41, 32, out);
    CU_ASSERT_EQUAL(out[0], 29.0f);
    CU_ASSERT_EQUAL(out[16], 5.0f);
    CU_ASSERT_EQUAL(out[1], -1.0f);
    /* Q5_0: d = 1; bit j of qh is bit 4 of element j */
    uint8_t q5[22] = {0x00, 0x3c, 0x01, 0x00, 0x02, 0x00, 0x0f, 0x20};
    cl_decode_row(CL_Q5_0, q5, 32, out);
    CU_ASSERT_EQUAL(out[0], 15.0f);
    CU_ASSERT_EQUAL(out[16], -16.0f);
    CU_ASSERT_EQUAL(out[17], 2.0f);
    /* MXFP4: e = 128 doubles; codes 7 and 15 are 6 and -6, 1 is 0.5 */
    uint8_t mx[17] = {128, 0xf7, 0x19};
    cl_decode_row(CL_MXFP4, mx, 32, out);
    CU_ASSERT_EQUAL(out[0], 12.0f);
    CU_ASSERT_EQUAL(out[16], -12.0f);
    CU_ASSERT_EQUAL(out[1], -1.0f);
    CU_ASSERT_EQUAL(out[17], 1.0f);
    CU_ASSERT_EQUAL(cl_e8m0_half(0), 0x1p-128f);
    CU_ASSERT_EQUAL(cl_e8m0_half(1), 0x1p-127f);
    CU_ASSERT_EQUAL(cl_e8m0_half(2), 0x1p-126f);
    CU_ASSERT_EQUAL(cl_e8m0_half(128), 1.0f);
    CU_ASSERT_EQUAL(cl_e8m0_half(255), 0x1p127f);
    /* Q4_K: d = 1, dmin = 1; sub-block 5 has scale 0x31, minimum 0x2c: low parts in sc[9], high parts in sc[1] and
     * sc[5] */
    uint8_t q4k[144] = {0x00, 0x3c, 0x00, 0x3c};
    q4k[4 + 9] = 0xc1, q4k[4 + 1] = 0xc0, q4k[4 + 5] = 0x80;
    q4k[16 + 2 * 32 + 3] = 0xa0; /* pair 2, byte 3: element 128 + 32 + 3 */
    cl_decode_row(CL_Q4_K, q4k, 256, out);
    CU_ASSERT_EQUAL(out[163], 10.0f * 0x31 - 0x2c);
    CU_ASSERT_EQUAL(out[162], -(float)0x2c);
    CU_ASSERT_EQUAL(out[131], 0.0f);
    /* Q6_K: d = 1 is the last field; element 128 + 96 + 20, half 1: high nibble of ql[64 + 52], bits 6-7 of qh[32 +
     * 20], sc[8 + 7] */
    uint8_t q6k[210] = {0};
    q6k[209] = 0x3c, q6k[64 + 52] = 0x50, q6k[128 + 52] = 0xc0, q6k[192 + 15] = (uint8_t)-2;
    cl_decode_row(CL_Q6_K, q6k, 256, out);
    CU_ASSERT_EQUAL(out[244], -2.0f * (0x35 - 32));
    CU_ASSERT_EQUAL(out[245], 64.0f);
    CU_ASSERT_EQUAL(out[0], 0.0f);
}

static void test_encode_edges(void)
{
    float x[32] = {0}, out[32];
    uint8_t b[128];
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) { /* zeros are zeros, and no byte is left unwritten */
        memset(b, 0xee, sizeof b);
        memset(out, 0xee, sizeof out);
        cl_encode_row((cl_format)f, x, 7, b);
        cl_decode_row((cl_format)f, b, 7, out);
        for (int i = 0; i < 7; i++) CU_ASSERT_EQUAL(out[i], 0.0f);
        CU_ASSERT_EQUAL(b[cl_row_bytes((cl_format)f, 7)], 0xee);
        uint32_t after;
        memcpy(&after, out + 7, sizeof after);
        CU_ASSERT_EQUAL(after, 0xeeeeeeeeu);
    }
    x[3] = 254, x[4] = 1, x[5] = -1; /* Q8_0: d = 2, halves round away from zero */
    cl_encode_row(CL_Q8_0, x, 32, b);
    CU_ASSERT_EQUAL(b[0] | b[1] << 8, 0x4000);
    CU_ASSERT_EQUAL(b[2 + 3], 127);
    CU_ASSERT_EQUAL(b[2 + 4], 1);
    CU_ASSERT_EQUAL((int8_t)b[2 + 5], -1);
    memset(x, 0, sizeof x);
    x[0] = 6, x[1] = -6, x[2] = 0.25f, x[3] = 2.5f, x[4] = 5; /* MXFP4: ties to the first of the table */
    cl_encode_row(CL_MXFP4, x, 32, b);
    cl_decode_row(CL_MXFP4, b, 32, out);
    CU_ASSERT_EQUAL(b[0], 127);
    CU_ASSERT_EQUAL(out[0], 6.0f);
    CU_ASSERT_EQUAL(out[1], -6.0f);
    CU_ASSERT_EQUAL(out[2], 0.0f);
    CU_ASSERT_EQUAL(out[3], 2.0f);
    CU_ASSERT_EQUAL(out[4], 4.0f);
    x[0] = x[1] = x[3] = x[4] = 0;
    x[2] = 0x1p-149f;
    cl_encode_row(CL_MXFP4, x, 32, b); /* an exponent below the scale's range is the least scale, not a wrapped one */
    CU_ASSERT_EQUAL(b[0], 0);
    for (int i = 0; i < 32; i++) x[i] = i % 2 ? INFINITY : NAN; /* whatever comes, no undefined conversion */
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) cl_encode_row((cl_format)f, x, 32, b);
}

/* Odd widths equal the same numbers followed by zeros; unaligned rows equal aligned ones. */
static void test_odd_widths(void)
{
    static float x[288], got[288], want[288];
    static uint8_t a[2048], u[2048];
    rng_state = 1;
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
        for (int cols = 1; cols <= 100; cols += cols < 40 ? 1 : 7) {
            memset(x, 0, sizeof x);
            for (int i = 0; i < cols; i++) x[i] = uniform();
            int padded = (cols + 31) / 32 * 32;
            cl_encode_row((cl_format)f, x, padded, a);
            cl_encode_row((cl_format)f, x, cols, u + 1);
            CU_ASSERT_EQUAL(memcmp(a, u + 1, cl_row_bytes((cl_format)f, cols)), 0);
            cl_decode_row((cl_format)f, a, padded, want);
            cl_decode_row((cl_format)f, u + 1, cols, got);
            CU_ASSERT_EQUAL(memcmp(got, want, (size_t)cols * sizeof *got), 0);
        }
    }
    for (int f = CL_Q5_0; f < CL_FORMATS; f++) {
        for (size_t i = 0; i < sizeof a; i++) a[i] = (uint8_t)(rng() & 0x3f);
        int block = cl_format_get((cl_format)f)->block;
        cl_decode_row((cl_format)f, a, block, want);
        cl_decode_row((cl_format)f, a, block - 3, got);
        CU_ASSERT_EQUAL(memcmp(got, want, (size_t)(block - 3) * sizeof *got), 0);
    }
}

/* What is lost is at most the format's step (per block), and what a format can hold exactly comes back as it was. */
static void test_round_trip(void)
{
    /* Largest error as a share of the range: half a step, a whole one of q4_0, int4 and mxfp4 at the far end, and the
     * rounding of their own scales to f16 or bf16. */
    static const float bound[CL_NATIVE_FORMATS] = {0,      0x1p-11f, 0x1p-8f, 0.0045f, 0.126f,
                                                   0.069f, 0.251f,   0.129f,  0.0358f};
    float x[96], y[96];
    uint8_t b[512], again[512];
    rng_state = 2;
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
        for (int round = 0; round < 500; round++) {
            float scale = ldexpf(1, (int)(rng() % 13) - 6);
            for (int i = 0; i < 96; i++) x[i] = uniform() * scale;
            cl_encode_row((cl_format)f, x, 96, b);
            cl_decode_row((cl_format)f, b, 96, y);
            float worst = 0;
            for (int i = 0; i < 96; i++) worst = fmaxf(worst, fabsf(x[i] - y[i]) / scale);
            CU_ASSERT_TRUE(worst <= bound[f]);
            if (f > CL_BF16 && f != CL_MXFP4) continue;
            cl_encode_row((cl_format)f, y, 96, again); /* MXFP4: unless the block's maximum was rounded down a binade */
            if (f != CL_MXFP4 || memcmp(b, again, 17) == 0)
                CU_ASSERT_EQUAL(memcmp(b, again, cl_row_bytes((cl_format)f, 32)), 0);
        }
    }
    for (int h = 0; h < 0x10000; h++) { /* every half and bfloat that is a number */
        uint8_t two[2] = {(uint8_t)h, (uint8_t)(h >> 8)}, back[2];
        for (int f = CL_F16; f <= CL_BF16; f++) {
            cl_decode_row((cl_format)f, two, 1, y);
            if (isnan(y[0])) continue;
            cl_encode_row((cl_format)f, y, 1, back);
            CU_ASSERT_EQUAL(memcmp(two, back, 2), 0);
        }
    }
}

/* E4M3's numbers from 0 in units of 2^-9 (torch.float8_e4m3fn); the 128th is NaN. */
static const int e4m3[127] = {0,      1,      2,      3,      4,      5,     6,     7,      8,      9,      10,
                              11,     12,     13,     14,     15,     16,    18,    20,     22,     24,     26,
                              28,     30,     32,     36,     40,     44,    48,    52,     56,     60,     64,
                              72,     80,     88,     96,     104,    112,   120,   128,    144,    160,    176,
                              192,    208,    224,    240,    256,    288,   320,   352,    384,    416,    448,
                              480,    512,    576,    640,    704,    768,   832,   896,    960,    1024,   1152,
                              1280,   1408,   1536,   1664,   1792,   1920,  2048,  2304,   2560,   2816,   3072,
                              3328,   3584,   3840,   4096,   4608,   5120,  5632,  6144,   6656,   7168,   7680,
                              8192,   9216,   10240,  11264,  12288,  13312, 14336, 15360,  16384,  18432,  20480,
                              22528,  24576,  26624,  28672,  30720,  32768, 36864, 40960,  45056,  49152,  53248,
                              57344,  61440,  65536,  73728,  81920,  90112, 98304, 106496, 114688, 122880, 131072,
                              147456, 163840, 180224, 196608, 212992, 229376};

static void test_e4m3(void)
{
    for (int c = 0; c < 127; c++) {
        float x = (float)e4m3[c] / 512;
        CU_ASSERT_EQUAL(cl_e4m3_to_f32((uint8_t)c), x);
        CU_ASSERT_EQUAL(cl_e4m3_to_f32((uint8_t)(c | 0x80)), -x);
        CU_ASSERT_TRUE(signbit(cl_e4m3_to_f32((uint8_t)(c | 0x80))));
        CU_ASSERT_EQUAL(cl_f32_to_e4m3(x), c);
        CU_ASSERT_EQUAL(cl_f32_to_e4m3(-x), c | 0x80);
        if (c == 126) continue;
        /* between this number and the next: the tie, and its neighbours */
        float half = (float)(e4m3[c] + e4m3[c + 1]) / 1024;
        CU_ASSERT_EQUAL(cl_f32_to_e4m3(half), c + (c & 1));
        CU_ASSERT_EQUAL(cl_f32_to_e4m3(-nextafterf(half, 0)), c | 0x80);
        CU_ASSERT_EQUAL(cl_f32_to_e4m3(nextafterf(half, 1e9f)), c + 1);
    }
    CU_ASSERT_TRUE(isnan(cl_e4m3_to_f32(0x7f)) && isnan(cl_e4m3_to_f32(0xff)));
    CU_ASSERT_EQUAL(cl_f32_to_e4m3(NAN) & 0x7f, 0x7f);
    static const float large[] = {448.0001f, 464, 479, 480, 1e30f, INFINITY};
    for (int i = 0; i < 6; i++) CU_ASSERT_EQUAL(cl_f32_to_e4m3(large[i]) | cl_f32_to_e4m3(-large[i]) << 8, 0xfe7e);
    CU_ASSERT_EQUAL(cl_f32_to_e4m3(1e-40f) | cl_f32_to_e4m3(-1e-40f) << 8, 0x8000);
    int last = 0;
    for (uint32_t u = 0; u < 0x7f800000u; u += 0x1357) { /* over all magnitudes: never falls */
        float x;
        memcpy(&x, &u, sizeof x);
        int code = cl_f32_to_e4m3(x);
        if (code < last) CU_FAIL("not monotone");
        last = code;
    }
    CU_ASSERT_EQUAL(last, 0x7e);
}

static void test_int4(void)
{
    float x[32] = {0}, out[32];
    uint8_t b[18], again[18];
    x[5] = -8, x[6] = 7, x[20] = 3.5f, x[21] = -0.5f;
    cl_encode_row(CL_INT4, x, 32, b);
    CU_ASSERT_EQUAL(b[0] | b[1] << 8, 0x3f80); /* d = 1 */
    CU_ASSERT_EQUAL(b[2 + 5], 0x80);           /* -8 and, in the high half, -0.5, which rounds up to 0 */
    CU_ASSERT_EQUAL(b[2 + 4], 0xc8);           /* 3.5 rounds up to 4 */
    CU_ASSERT_EQUAL(b[2 + 6], 0x8f);
    rng_state = 3;
    for (int round = 0; round < 500; round++) {
        for (int i = 0; i < 18; i++) b[i] = (uint8_t)rng();
        b[1] = (uint8_t)(0x3c | (b[1] & 0x83));
        b[2 + round % 16] &= 0xf0; /* a code of -8: the block's scale can be told from its numbers */
        cl_decode_row(CL_INT4, b, 32, x);
        cl_encode_row(CL_INT4, x, 32, again);
        CU_ASSERT_EQUAL(memcmp(b, again, 18), 0);
        for (int i = 0; i < 32; i++) x[i] = uniform();
        cl_encode_row(CL_INT4, x, 32, b);
        cl_decode_row(CL_INT4, b, 32, out);
        float d = cl_bf16_to_f32((uint16_t)(b[0] | b[1] << 8));
        for (int i = 0; i < 32; i++) { /* every code is the nearest for the scale as stored */
            float n = x[i] / d;
            if (n < 7.5f) CU_ASSERT_TRUE(fabsf(out[i] - x[i]) <= fabsf(d) * 0.5001f);
            if (n >= 7.5f) CU_ASSERT_EQUAL(out[i], 7 * d);
        }
    }
}

/* 128 x 200 numbers: scales per tile, each row complete in itself. */
static void test_fp8_tiles(void)
{
    enum { ROWS = 128, COLS = 200, BYTES = 8 + COLS };
    static float x[ROWS * COLS], y[COLS];
    static uint8_t rows[ROWS * BYTES + 1], again[ROWS * BYTES];
    rng_state = 4;
    for (int i = 0; i < ROWS * COLS; i++) x[i] = uniform();
    x[77 * COLS + 100] = -3.5f; /* the two tiles' largest */
    x[5 * COLS + 199] = 448 * 3;
    memset(rows, 0xee, sizeof rows);
    cl_encode_rows(CL_FP8, x, ROWS, COLS, rows);
    CU_ASSERT_EQUAL(rows[ROWS * BYTES], 0xee);
    for (int r = 0; r < ROWS; r++) {
        float scale[2];
        memcpy(scale, rows + r * BYTES, sizeof scale);
        CU_ASSERT_EQUAL(scale[0], 3.5f / 448);
        CU_ASSERT_EQUAL(scale[1], 3.0f);
        cl_decode_row(CL_FP8, rows + r * BYTES, COLS, y);
        for (int c = 0; c < COLS; c++) {
            uint8_t code = rows[r * BYTES + 8 + c];
            CU_ASSERT_EQUAL(code, cl_f32_to_e4m3(x[r * COLS + c] / scale[c / 128]));
            CU_ASSERT_EQUAL(y[c], cl_e4m3_to_f32(code) * scale[c / 128]);
        }
    }
    CU_ASSERT_EQUAL(rows[77 * BYTES + 8 + 100], 0xfe);
    /* Decoded and encoded once more: the same bytes, whether in one call, or from each row alone where it holds the
     * largest. */
    for (int r = 0; r < ROWS; r++) cl_decode_row(CL_FP8, rows + r * BYTES, COLS, x + r * COLS);
    cl_encode_rows(CL_FP8, x, ROWS, COLS, again);
    CU_ASSERT_EQUAL(memcmp(again, rows, sizeof again), 0);
    cl_encode_row(CL_FP8, x + 77 * COLS, 128, again);
    CU_ASSERT_EQUAL(memcmp(again, rows + 77 * BYTES, 4), 0);
    CU_ASSERT_EQUAL(memcmp(again + 4, rows + 77 * BYTES + 8, 128), 0);
    /* All zero: zeros of scale 0. Too small for a scale: zeros as well. */
    for (int tiny = 0; tiny < 2; tiny++) {
        for (int c = 0; c < COLS; c++) x[c] = tiny ? 0x1p-149f : -0.0f;
        cl_encode_rows(CL_FP8, x, 1, COLS, again);
        for (int i = 0; i < BYTES; i++) CU_ASSERT_EQUAL(again[i], 0);
    }
    cl_encode_rows(CL_Q8_0, x, 3, COLS, again); /* other formats: row after row */
    for (int r = 0; r < 3; r++) {
        cl_encode_row(CL_Q8_0, x + r * COLS, COLS, rows);
        CU_ASSERT_EQUAL(memcmp(rows, again + r * 7 * 34, 7 * 34), 0);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"names and sizes", test_names_and_sizes},
                           {"fixtures, both ways", test_fixtures},
                           {"blocks by hand", test_by_hand},
                           {"encoding at the edges", test_encode_edges},
                           {"odd widths", test_odd_widths},
                           {"round trips", test_round_trip},
                           {"e4m3", test_e4m3},
                           {"int4", test_int4},
                           {"fp8 tiles", test_fp8_tiles},
                           CU_TEST_INFO_NULL};
    return run_suite("format", tests);
}
