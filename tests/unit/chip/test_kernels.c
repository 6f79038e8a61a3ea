/* test_kernels.c: products: the definition against double precision, and every set of this CPU against the
 * definition, bit by bit. */
#include <stdio.h>

#include "aborts.h"
#include "kernels_data.h"

static const int64_t widths[] = {1, 5, 16, 33, 100, 128, 300, 576}, heights[] = {1, 5, 16, 33, 150};
static const int counts[] = {1, 2, 3, 5, 8, 17, 64};
enum { WIDTHS = 8, HEIGHTS = 5, COUNTS = 7, MOST = 64 };
enum { KINDS = 4 }; /* float32, 8-bit, two planes of it */

/* All tokens of all rows, [n][rows + 3]; the gaps keep a mark that must survive. */
static float *product(const cl_kernels *k, const cl_matrix *m, int64_t expert, const cl_acts *x, const int32_t *index,
                      int n)
{
    size_t stride = (size_t)m->rows + 3;
    float *y = need((size_t)n * stride, sizeof(float));
    k->matmul(m, expert, 0, m->panels, x, index, n, y, stride);
    return y;
}

static void compare(const char *set, cl_format f, int q8, int64_t rows, int64_t cols, int n, const float *y,
                    const float *ref)
{
    bool equal = memcmp(y, ref, (size_t)n * ((size_t)rows + 3) * sizeof *y) == 0;
    CU_ASSERT_TRUE(equal);
    if (!equal) {
        fprintf(stderr, "\n%s differs: %s, %s, %lld x %lld, %d tokens", set, cl_format_get(f)->name,
                q8 == 2 ? "q16"
                : q8    ? "q8"
                        : "f32",
                (long long)rows, (long long)cols, n);
    }
}

/* --- the definition itself --- */

/* The value a row times x must have, in double, from the decoded numbers; *size is the sum of magnitudes. 8-bit: x is
 * what its blocks say. */
static double direct(const float *w, const cl_acts *x, int t, double *size)
{
    double y = 0;
    int64_t blocks = (x->cols + 31) / 32;
    *size = 0;
    for (int64_t c = 0; c < x->cols; c++) {
        int64_t at = t * blocks + c / 32;
        double v = x->q8 ? 0 : (double)x->f32[(size_t)t * x->stride + (size_t)c];
        for (int64_t p = at * x->planes; x->q8 && p < (at + 1) * x->planes; p++)
            v += (double)x->d[p] * x->q[p * 32 + c % 32];
        y += w[c] * v;
        *size += fabs(w[c] * v);
    }
    return y;
}

static void test_definition(void)
{
    const cl_kernels *k = cl_kernels_reference();
    enum { ROWS = 21, COLS = 300, N = 3 };
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
        for (int q8 = 0; q8 < 3; q8++) {
            unsigned char *rows = awkward_rows((cl_format)f, 1, ROWS, COLS, 7 + (uint64_t)f);
            cl_matrix m = pack_matrix(k, (cl_format)f, 1, ROWS, COLS, rows);
            acts a = make_acts(N, COLS, q8, 11);
            k->prepare(&a.x, 0, N);
            float *y = product(k, &m, 0, &a.x, NULL, N), w[COLS];
            bool was = a.x.q8;
            a.x.q8 = q8 && cl_format_integer((cl_format)f);
            for (int r = 0; r < ROWS; r++) {
                cl_decode_row((cl_format)f, rows + (size_t)r * cl_row_bytes((cl_format)f, COLS), COLS, w);
                for (int t = 0; t < N; t++) {
                    double size, want = direct(w, &a.x, t, &size);
                    CU_ASSERT_DOUBLE_EQUAL(y[t * (ROWS + 3) + r], want, 1e-5 * size + 1e-37);
                }
            }
            a.x.q8 = was;
            free(y);
            free(rows);
            free(m.data);
            free_acts(&a);
        }
    }
}

/* 8-bit blocks are the nearest integers at the scale of the largest number. */
static void test_blocks(void)
{
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        acts a = make_acts(MOST, 100, 1, 3);
        for (int c = 0; c < 32; c++) a.f32[32 + c] = c < 31 ? (float)c - 15.5f : 127; /* halves, at scale 1: to even */
        k->prepare(&a.x, 0, 20);
        k->prepare(&a.x, 20, MOST);
        for (int i = 0; i < MOST * 4; i++) {
            const float *x = a.f32 + (size_t)(i / 4) * a.x.stride + i % 4 * 32;
            float amax = 0;
            int32_t sum = 0;
            for (int c = 0; c < 32; c++) amax = fmaxf(amax, fabsf(x[c]));
            CU_ASSERT_EQUAL(a.x.d[i], amax / 127);
            for (int c = 0; c < 32; c++) {
                int q = amax > 1e-36f ? (int)rintf(x[c] * (127 / amax)) : 0;
                CU_ASSERT_EQUAL(a.x.q[i * 32 + c], q);
                sum += q;
            }
            /* other sets keep what they like of it */
            if (k == cl_kernels_reference()) CU_ASSERT_EQUAL(a.x.sum[i], sum);
        }
        /* a broken number is not hidden */
        a.f32[0] = NAN;
        a.f32[a.x.stride + 40] = -INFINITY;
        k->prepare(&a.x, 0, 2);
        CU_ASSERT_TRUE(isnan(a.x.d[0]) && isinf(a.x.d[5]) && a.x.q[0] == 0 && a.x.q[5 * 32 + 8] == 0);
        a.x.q8 = false;
        k->prepare(&a.x, 3, 5);
        float sum = 0;
        for (int c = 0; c < 32; c++) sum += a.f32[3 * a.x.stride + 64 + (size_t)c];
        CU_ASSERT_EQUAL(a.x.fsum[14], sum);
        free_acts(&a);
    }
}

/* Two planes hold a number to 1 part in 64,000 of the block's largest, and broken numbers are not hidden. */
static void test_planes(void)
{
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        acts a = make_acts(MOST, 100, 2, 3);
        k->prepare(&a.x, 0, MOST);
        for (int i = 0; i < MOST * 4; i++) {
            const float *x = a.f32 + (size_t)(i / 4) * a.x.stride + i % 4 * 32;
            float amax = 0;
            for (int c = 0; c < 32; c++) amax = fmaxf(amax, fabsf(x[c]));
            CU_ASSERT_EQUAL(a.x.d[2 * i + 1], amax / 32258);
            CU_ASSERT_EQUAL(a.x.d[2 * i], 254 * a.x.d[2 * i + 1]);
            for (int c = 0; c < 32; c++) {
                int coarse = a.x.q[i * 64 + c], fine = a.x.q[i * 64 + 32 + c];
                double held = (double)a.x.d[2 * i + 1] * (254 * coarse + fine);
                CU_ASSERT(abs(coarse) <= 127 && abs(fine) <= 127);
                if (amax > 1e-33f) CU_ASSERT_DOUBLE_EQUAL(held, x[c], 1.0001 * amax / 32258 / 2);
            }
        }
        a.f32[0] = NAN;
        a.f32[a.x.stride + 40] = -INFINITY;
        k->prepare(&a.x, 0, 2);
        CU_ASSERT_TRUE(isnan(a.x.d[0]) && isnan(a.x.d[1]) && isinf(a.x.d[10]) && isinf(a.x.d[11]) && a.x.q[0] == 0 &&
                       a.x.q[5 * 64 + 40] == 0);
        free_acts(&a);
    }
}

/* A block has a second plane if its largest number is over 8 times its row's rms; else it is the 8-bit block. */
static void test_mixed(void)
{
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        acts mixed = make_acts(MOST, 1000, 3, 3), one = make_acts(MOST, 1000, 1, 3), two = make_acts(MOST, 1000, 2, 3);
        k->prepare(&mixed.x, 0, MOST);
        k->prepare(&one.x, 0, MOST);
        k->prepare(&two.x, 0, MOST);
        int fine = 0;
        for (int t = 0; t < MOST; t++) {
            double squares = 0;
            for (int c = 0; c < 1000; c++)
                squares += (double)mixed.f32[t * mixed.x.stride + c] * mixed.f32[t * mixed.x.stride + c];
            for (int b = 0; b < 32; b++) {
                const float *x = mixed.f32 + t * mixed.x.stride + b * 32;
                int i = t * 32 + b;
                float amax = 0;
                for (int c = 0; c < 32; c++) amax = fmaxf(amax, fabsf(x[c]));
                double over = squares > 0 ? amax / (8 * sqrt(squares / 1000)) : 0;
                bool has = mixed.x.d[2 * i + 1] != 0;
                if (over > 1.0001 || over < 0.9999) CU_ASSERT_EQUAL(has, over > 1);
                fine += has;
                if (has) {
                    CU_ASSERT(memcmp(mixed.x.q + i * 64, two.x.q + i * 64, 64) == 0 &&
                              memcmp(mixed.x.d + 2 * i, two.x.d + 2 * i, 8) == 0);
                    CU_ASSERT_EQUAL(memcmp(mixed.x.sum + 2 * i, two.x.sum + 2 * i, 8), 0);
                } else {
                    CU_ASSERT(memcmp(mixed.x.q + i * 64, one.x.q + i * 32, 32) == 0 && mixed.x.d[2 * i] == one.x.d[i]);
                    CU_ASSERT(mixed.x.sum[2 * i] == one.x.sum[i] && mixed.x.sum[2 * i + 1] == 0 &&
                              mixed.x.q[i * 64 + 32] == 0);
                }
            }
        }
        CU_ASSERT(fine > 0 && fine < MOST * 32 / 2);
        free_acts(&mixed);
        free_acts(&one);
        free_acts(&two);
    }
}

/* --- sets against the definition --- */

static void check_count(const cl_kernels *k, const cl_kernels *ref, const cl_matrix *m, const cl_matrix *mr, int q8,
                        int n)
{
    acts a = make_acts(n, m->cols, q8, 5), ar = make_acts(n, m->cols, q8, 5);
    k->prepare(&a.x, 0, n);
    ref->prepare(&ar.x, 0, n);
    float *y = product(k, m, 0, &a.x, NULL, n), *yr = product(ref, mr, 0, &ar.x, NULL, n);
    compare(k->name, m->format, q8, m->rows, m->cols, n, y, yr);
    free(y);
    free(yr);
    free_acts(&a);
    free_acts(&ar);
}

static void check_shape(const cl_kernels *k, const cl_kernels *ref, cl_format f, int q8, int64_t rows, int64_t cols)
{
    unsigned char *data = awkward_rows(f, 1, rows, cols, (uint64_t)(rows * 1000 + cols) * 16 + (uint64_t)f);
    cl_matrix m = pack_matrix(k, f, 1, rows, cols, data), mr = pack_matrix(ref, f, 1, rows, cols, data);
    for (int i = 0; i < COUNTS; i++) {
        if (rows <= 16 || counts[i] <= 17) check_count(k, ref, &m, &mr, q8, counts[i]);
    }
    for (int n = 1; n <= 20 && rows == 33 && cols == 33; n++) check_count(k, ref, &m, &mr, q8, n);
    free(data);
    free(m.data);
    free(mr.data);
}

static void test_sets(void)
{
    const cl_kernels *ref = cl_kernels_reference();
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        if (k == ref) continue;
        for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
            for (int i = 0; i < WIDTHS * HEIGHTS * KINDS; i++) {
                check_shape(k, ref, (cl_format)f, i % KINDS, heights[i / KINDS % HEIGHTS], widths[i / KINDS / HEIGHTS]);
            }
        }
    }
}

/* Rows so long that a set may take them in pieces, and so many of them that it may take panels in batches. */
static void test_long(void)
{
    const cl_kernels *ref = cl_kernels_reference();
    enum { ROWS = 470, COLS = 2100 };
    for (int f = CL_Q8_0; f < CL_NATIVE_FORMATS; f++) {
        unsigned char *data = awkward_rows((cl_format)f, 1, ROWS, COLS, 77);
        cl_matrix mr = pack_matrix(ref, (cl_format)f, 1, ROWS, COLS, data);
        for (const char *const *name = cl_kernels_available(); *name; name++) {
            cl_matrix m = pack_matrix(set_named(*name), (cl_format)f, 1, ROWS, COLS, data), part = m, part_ref = mr;
            part.rows = part_ref.rows = 21;
            part.panels = part_ref.panels = 2;
            if (set_named(*name) != ref) {
                check_count(set_named(*name), ref, &m, &mr, true, 17);
                check_count(set_named(*name), ref, &part, &part_ref, true, 16);
                check_count(set_named(*name), ref, &part, &part_ref, true, 3);
                check_count(set_named(*name), ref, &part, &part_ref, 2, 14);
                check_count(set_named(*name), ref, &part, &part_ref, 3, 14);
                check_count(set_named(*name), ref, &part, &part_ref, 3, 40);
                check_count(set_named(*name), ref, &part, &part_ref, true, 150);
            }
            free(m.data);
        }
        free(data);
        free(mr.data);
    }
}

/* Experts with gathered tokens, panels in any order and in pieces, and tokens alone: all the same bits. */
static void check_ways(const cl_kernels *k, cl_format f, int q8)
{
    enum { EXPERTS = 3, ROWS = 83, COLS = 160, N = 19, PICKS = 14 };
    static const int32_t index[PICKS] = {18, 0, 3, 3, 7, 1, 12, 17, 2, 9, 18, 5, 5, 11};
    unsigned char *data = awkward_rows(f, EXPERTS, ROWS, COLS, 99);
    cl_matrix m = pack_matrix(k, f, EXPERTS, ROWS, COLS, data);
    acts a = make_acts(N, COLS, q8, 21);
    k->prepare(&a.x, 0, N);
    for (int64_t e = 0; e < EXPERTS; e++) {
        float *all = product(k, &m, e, &a.x, NULL, N), *some = product(k, &m, e, &a.x, index, PICKS), y[ROWS + 3];
        for (int i = 0; i < PICKS; i++) {
            CU_ASSERT_EQUAL(memcmp(some + i * (ROWS + 3), all + index[i] * (ROWS + 3), ROWS * sizeof *y), 0);
        }
        float *pieces = need(N * (ROWS + 3), sizeof *pieces);
        static const int64_t cuts[][2] = {{4, 6}, {0, 1}, {2, 4}, {1, 2}};
        for (int i = 0; i < 4; i++) k->matmul(&m, e, cuts[i][0], cuts[i][1], &a.x, NULL, 0, pieces, ROWS + 3);
        CU_ASSERT_EQUAL(memcmp(pieces, all, N * (ROWS + 3) * sizeof *all), 0);
        for (int32_t t = 0; t < N; t++) {
            acts one = make_acts(1, COLS, q8, 1);
            memcpy(one.f32, a.f32 + (size_t)t * a.x.stride, a.x.stride * sizeof(float));
            k->prepare(&one.x, 0, 1);
            k->matmul(&m, e, 0, m.panels, &one.x, NULL, 0, y, ROWS + 3);
            CU_ASSERT_EQUAL(memcmp(y, all + t * (ROWS + 3), ROWS * sizeof *y), 0);
            free_acts(&one);
        }
        free(all);
        free(some);
        free(pieces);
    }
    free(data);
    free(m.data);
    free_acts(&a);
}

static void test_ways(void)
{
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
            for (int kind = 0; kind < KINDS; kind++) check_ways(set_named(*name), (cl_format)f, kind);
        }
    }
}

/* Rows come back bit for bit; missing rows are zeros even where memory was not. */
static void test_unpack(void)
{
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        for (int f = 0; f < CL_NATIVE_FORMATS; f++) {
            for (int i = 0; i < WIDTHS; i++) {
                enum { ROWS = 37 };
                float got[576], want[576];
                size_t row_bytes = cl_row_bytes((cl_format)f, widths[i]);
                unsigned char *data = awkward_rows((cl_format)f, 1, ROWS, widths[i], 5);
                cl_matrix m = pack_matrix(k, (cl_format)f, 1, ROWS, widths[i], data);
                for (int64_t r = 0; r < 48; r++) {
                    k->unpack(m.format, m.cols, m.data + (size_t)(r / 16) * m.panel_bytes, (int)(r % 16), got);
                    if (r < ROWS) {
                        cl_decode_row(m.format, data + (size_t)r * row_bytes, m.cols, want);
                        CU_ASSERT_EQUAL(memcmp(got, want, (size_t)m.cols * sizeof *got), 0);
                    } else {
                        for (int64_t c = 0; c < m.cols; c++) CU_ASSERT_EQUAL(got[c], 0);
                    }
                }
                free(data);
                free(m.data);
            }
        }
    }
}

/* --- fp8 --- */

/* Every code but the NaNs, picked out by tokens that are 1 at one column: d times the number, by the formula of E4M3.
 * A row with a NaN is NaN, the others are not. */
static void test_codes(void)
{
    enum { COLS = 256, ROW = 2 * 4 + COLS, ROWS = 17, NANS = 5 };
    static const float scales[2] = {0.5f, -3};
    unsigned char rows[ROWS * ROW];
    for (int r = 0; r < ROWS; r++) {
        memcpy(rows + r * ROW, scales, sizeof scales);
        for (int c = 0; c < COLS; c++) rows[r * ROW + 8 + c] = (unsigned char)((c & 0x7f) != 0x7f ? c : 0);
    }
    rows[NANS * ROW + 8 + 130] = 0x7f;
    rows[16 * ROW + 8 + 3] = 0xff;
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        cl_matrix m = pack_matrix(k, CL_FP8, 1, ROWS, COLS, rows);
        acts a = make_acts(COLS, COLS, 0, 1);
        for (size_t t = 0; t < COLS; t++) {
            for (size_t c = 0; c < COLS; c++) a.f32[t * a.x.stride + c] = t == c;
        }
        k->prepare(&a.x, 0, COLS);
        float *y = product(k, &m, 0, &a.x, NULL, COLS);
        for (int t = 0; t < COLS; t++) {
            int e = t >> 3 & 15, mantissa = t & 7;
            double value = e ? ldexp(8 + mantissa, e - 10) : ldexp(mantissa, -9);
            if ((t & 0x7f) == 0x7f) value = 0;
            for (int r = 0; r < ROWS; r++) {
                float got = y[t * (ROWS + 3) + r];
                bool right = r == NANS || r == 16 ? isnan(got) : got == scales[t / 128] * (t & 0x80 ? -value : value);
                CU_ASSERT_TRUE(right);
            }
        }
        free(y);
        free(m.data);
        free_acts(&a);
    }
}

typedef struct packing {
    const cl_kernels *k;
    const unsigned char *rows;
    unsigned char *panel;
} packing;

static void pack_two(void *ctx)
{
    const packing *p = ctx;
    p->k->pack(CL_FP8, 2, p->rows, 2, p->panel);
}

/* Rows of a panel that disagree about a scale are a bug of the caller, which the sets that keep one scale per panel
 * find. */
static void test_disagree(void)
{
    unsigned char rows[2 * 6] = {0, 0, 0x80, 0x3f, 1, 2, 1, 0, 0x80, 0x3f, 1, 2};
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        if (k == cl_kernels_reference()) continue;
        unsigned char *panel = need(1, k->panel_bytes(CL_FP8, 2));
        CU_ASSERT_TRUE(aborts(pack_two, &(packing){k, rows, panel}));
        free(panel);
    }
}

static void test_choose(void)
{
    const cl_kernels *k = NULL;
    cl_err err;
    CU_ASSERT_EQUAL(cl_kernels_choose(NULL, &k, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(k->name, cl_kernels_available()[0]);
    int n = 0;
    for (const char *const *name = cl_kernels_available(); *name; name++, n++)
        CU_ASSERT_STRING_EQUAL(set_named(*name)->name, *name);
    CU_ASSERT_STRING_EQUAL(cl_kernels_available()[n - 1], "reference");
    CU_ASSERT_STRING_EQUAL(cl_kernels_available()[n - 2], "generic");
    k = NULL;
    CU_ASSERT_EQUAL(cl_kernels_choose("generik", &k, &err), CL_E_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "did you mean generic"));
    CU_ASSERT_EQUAL(cl_kernels_choose("", &k, &err), CL_E_USAGE);
    CU_ASSERT_PTR_NULL(k);
    static const char *const all[] = {"amx", "avx512", "avx2", "neon"};
    for (int i = 0; i < 4; i++) {
        bool here = false;
        for (const char *const *name = cl_kernels_available(); *name; name++) here |= strcmp(*name, all[i]) == 0;
        CU_ASSERT_EQUAL(cl_kernels_choose(all[i], &k, &err), here ? CL_OK : CL_E_FIT);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"the definition agrees with double precision", test_definition},
                           {"8-bit blocks of activations", test_blocks},
                           {"two planes", test_planes},
                           {"a second plane where it is needed", test_mixed},
                           {"every set has the reference's bits", test_sets},
                           {"long rows, many panels", test_long},
                           {"gathered, in pieces, one by one", test_ways},
                           {"rows come back from panels", test_unpack},
                           {"every E4M3 code", test_codes},
                           {"a panel has one fp8 scale per tile", test_disagree},
                           {"choosing a set", test_choose},
                           CU_TEST_INFO_NULL};
    return run_suite("kernels: products", tests);
}
