/* test_kernels_vectors.c: exp, norms and attention: the definition against double precision, and every set of this
 * CPU against the definition, bit by bit. */
#include "kernels_data.h"

/* --- exp --- */

static double ulps(float got, double want)
{
    int exponent;
    frexp(want, &exponent);
    return fabs(got - want) / ldexp(1, exponent - 24);
}

static void test_exp(void)
{
    double worst = 0;
    for (int i = -87299; i < 88700; i++) {
        float x = (float)i * 0.001f;
        worst = fmax(worst, ulps(cl_exp(x), exp((double)x)));
    }
    uint64_t seed = 1;
    for (int i = 0; i < 300000; i++) {
        float x = uniform(&seed) * (i % 2 ? 87.0f : 1.0f);
        worst = fmax(worst, ulps(cl_exp(x), exp((double)x)));
    }
    CU_ASSERT(worst > 0.4 && worst < 2);
    CU_ASSERT_EQUAL(cl_exp(0.0f), 1.0f);
    CU_ASSERT_EQUAL(cl_exp(-0.0f), 1.0f);
    CU_ASSERT_EQUAL(cl_exp(-INFINITY), cl_exp(-87.3f));
    CU_ASSERT_EQUAL(cl_exp(-1e30f), cl_exp(-87.3f));
    CU_ASSERT_EQUAL(cl_exp(INFINITY), cl_exp(88.7f));
    CU_ASSERT_TRUE(cl_exp(-87.3f) >= 0x1p-126f && isfinite(cl_exp(88.7f)));
    CU_ASSERT_TRUE(isnan(cl_exp(NAN)));
}

/* --- vectors --- */

static const int64_t lengths[] = {1, 5, 15, 16, 17, 31, 32, 33, 100, 576, 2048};
enum { LENGTHS = 11, LONGEST = 2048 };

static void check_vectors(const cl_kernels *k, const cl_kernels *ref)
{
    for (int i = 0; i < LENGTHS; i++) {
        int64_t n = lengths[i];
        size_t bytes = (size_t)n * sizeof(float);
        float *x = random_floats((size_t)n, 3, 1), *w = random_floats((size_t)n, 1, 2),
              *y = random_floats((size_t)n + 1, 1, 3), *yr = random_floats((size_t)n + 1, 1, 3), mark = y[n];
        for (int64_t e = 0; e < n; e += 9) x[e] *= 40; /* far ends of exp */

        k->rmsnorm(x, w, n, 1e-5f, y);
        ref->rmsnorm(x, w, n, 1e-5f, yr);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        double square = 0;
        for (int64_t e = 0; e < n; e++) square += (double)x[e] * x[e];
        for (int64_t e = 0; e < n; e++) {
            double want = x[e] * w[e] / sqrt(square / (double)n + 1e-5);
            CU_ASSERT_DOUBLE_EQUAL(y[e], want, 1e-6 * fabs(want));
        }
        k->rmsnorm(x, NULL, n, 1e-5f, y);
        ref->rmsnorm(x, NULL, n, 1e-5f, yr);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);

        k->silu_mul(x, w, n, y);
        ref->silu_mul(x, w, n, yr);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        for (int64_t e = 0; e < n; e++) {
            double want = x[e] / (1 + exp(-(double)x[e])) * w[e];
            CU_ASSERT_DOUBLE_EQUAL(y[e], want, 1e-6 * fabs(want) + 1e-35);
        }
        for (int small = 0; small < 2; small++) {
            float limit = small ? 0.5f : 7.0f, alpha = 1.702f;
            k->clamped_mul(x, w, n, limit, alpha, y);
            ref->clamped_mul(x, w, n, limit, alpha, yr);
            CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
            for (int64_t e = 0; e < n; e++) {
                double g = fmin(x[e], limit), u = fmax(fmin(w[e], limit), -limit),
                       want = (u + 1) * g / (1 + exp(-alpha * g));
                CU_ASSERT_DOUBLE_EQUAL(y[e], want, (1e-6 + 2e-7 * fabs(alpha * g)) * fabs(want) + 1e-35);
            }
        }
        k->axpy(y, 0.3f, w, n);
        ref->axpy(yr, 0.3f, w, n);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        k->add(y, x, n);
        ref->add(yr, x, n);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        CU_ASSERT_EQUAL(y[n], mark);

        memcpy(y, x, bytes); /* in place */
        k->rmsnorm(y, w, n, 1e-5f, y);
        ref->rmsnorm(x, w, n, 1e-5f, yr);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        memcpy(y, x, bytes);
        k->silu_mul(y, w, n, y);
        ref->silu_mul(x, w, n, yr);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        memcpy(y, w, bytes);
        k->silu_mul(x, y, n, y);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        memcpy(y, x, bytes);
        k->clamped_mul(y, w, n, 7, 1.702f, y);
        ref->clamped_mul(x, w, n, 7, 1.702f, yr);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        memcpy(y, w, bytes);
        k->clamped_mul(x, y, n, 7, 1.702f, y);
        CU_ASSERT_EQUAL(memcmp(y, yr, bytes), 0);
        free(x);
        free(w);
        free(y);
        free(yr);
    }
}

static void test_vectors(void) { each_set(check_vectors); }

/* gpt-oss's activation at known points; NaN is not hidden by the clamps. */
static void test_clamped_known(void)
{
    static const float g[7] = {1, 10, -10, 0.5f, 7, NAN, 1}, u[7] = {1, 0.5f, 2, -9, 7, 1, NAN};
    static const double want[5] = {1.69159153, 10.49992969, -1.2173884e-06, -2.10233062, 55.99962503};
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        float y[7];
        set_named(*name)->clamped_mul(g, u, 7, 7, 1.702f, y);
        for (int i = 0; i < 5; i++) CU_ASSERT_DOUBLE_EQUAL(y[i], want[i], 1e-6 * fabs(want[i]));
        CU_ASSERT_TRUE(isnan(y[5]) && isnan(y[6]));
    }
}

/* --- attention --- */

enum { MAX_HEAD = 200 };
static const int heads[] = {1, 5, 16, 20, 32, 33, 64, 80, 128, 200};
enum { HEADS = 10 };

/* Stores positions in order into a ring with room for `window` of them; after each, attends with the window. */
static void check_cache(const cl_kernels *k, const cl_kernels *ref, cl_kv_format f, int n, int64_t window, int step)
{
    int64_t blocks = window >= POSITIONS ? (POSITIONS + 15) / 16 : (window + 14) / 16 + 1;
    cl_kv_head h = make_cache(f, n, blocks), hr = make_cache(f, n, blocks);
    float *keys = random_floats((size_t)(POSITIONS * n), 1, 5), *values = random_floats((size_t)(POSITIONS * n), 2, 6),
          *q = random_floats((size_t)n, 2, 7), *scratch = need(cl_attend_scratch(POSITIONS, n), sizeof(float)),
          out[MAX_HEAD], outr[MAX_HEAD];
    double want[MAX_HEAD], scale = 1 / sqrt((double)n);
    static const float sinks[] = {0.3f, 80, -1e4f, -2}; /* beside scores of this size, far above, far below */
    bool equal = true, near = true;
    for (int64_t pos = 0; pos < POSITIONS; pos++) {
        k->kv_store(&h, pos, keys + pos * n, values + pos * n);
        ref->kv_store(&hr, pos, keys + pos * n, values + pos * n);
        if (pos % step && pos != POSITIONS - 1) continue;
        int64_t lo = pos - window + 1 > 0 ? pos - window + 1 : 0;
        int which = (int)(pos % 5);
        const float *sink = which < 4 ? &sinks[which] : NULL;
        k->attend(&h, 1, &(cl_query){q, out, sink, lo, pos}, (float)scale, scratch);
        ref->attend(&hr, 1, &(cl_query){q, outr, sink, lo, pos}, (float)scale, scratch);
        equal &= memcmp(out, outr, (size_t)n * sizeof *out) == 0;
        double size = attend_direct(keys, values, n, n, q, lo, pos, (double)(float)scale, sink, want);
        for (int i = 0; i < n; i++) near &= fabs(out[i] - want[i]) <= cache_tolerance[f] * size;
    }
    CU_ASSERT_TRUE(equal);
    CU_ASSERT_TRUE(near);
    free_cache(&h);
    free_cache(&hr);
    free(keys);
    free(values);
    free(q);
    free(scratch);
}

static void check_attention(const cl_kernels *k, const cl_kernels *ref)
{
    static const int64_t windows[] = {1, 7, 16, 40, 300, 1000};
    for (int f = 0; f < 3; f++) {
        for (int i = 0; i < HEADS; i++) {
            for (int w = 0; w < 6; w++)
                check_cache(k, ref, cache_formats[f], heads[i], windows[w], heads[i] > 64 ? 79 : 23);
        }
    }
}

static void test_attention(void) { each_set(check_attention); }

/* --- attention of several queries at once --- */

/* positions that all queries of a call see together: within a run or two, in several */
enum { SPAN = 70, RUNS_SPAN = 5 * CL_KV_RUN };
typedef enum ranges { SAME, TOKENS, WINDOWS, ANY, APART, RANGES } ranges;

static void choose_range(ranges kind, int t, int n, int64_t base, int span, uint64_t *seed, cl_query *q)
{
    static const int64_t window = 25;
    int64_t a = below(seed, span), b = below(seed, span);
    switch (kind) {
    case SAME: a = 3, b = span - 1; break;
    case TOKENS: a = 0, b = span - 30 + t / 3; break;
    case WINDOWS: a = 5 * t, b = a + window - 1; break;
    case APART: a = 8 * (n - 1 - t), b = a + 7 - t % 3; break;
    default: break;
    }
    q->lo = base + (a < b ? a : b);
    q->pos = base + (a < b ? b : a);
}

/* Equal bits, or NaN both. */
static bool same_floats(const float *x, const float *y, int n)
{
    bool same = true;
    for (int i = 0; i < n; i++) same &= memcmp(x + i, y + i, sizeof *x) == 0 || (isnan(x[i]) && isnan(y[i]));
    return same;
}

/* n queries at once, each alone, and by the definition. All memory is NaN but the positions that they see; what only
 * the spoiled one sees is NaN too, which must not reach the others (spoiled = n: there is none). */
static void check_group(const cl_kernels *k, const cl_kernels *ref, cl_kv_format f, int d, int n, ranges kind, int span,
                        uint64_t seed)
{
    static const float sinks[CL_ATTEND_QUERIES] = {0.3f, 80, -1e4f, -2, 1, 0, 5, 3};
    const int64_t base = below(&seed, 3 * CL_KV_RUN), blocks = (span + 14) / 16 + 1;
    const int spoiled = below(&seed, n + 1), row = d + 1; /* a number that stays follows every result */
    cl_kv_head h = make_cache(f, d, blocks), hr = make_cache(f, d, blocks);
    float *keys = random_floats((size_t)(span * d), 1, seed + 1),
          *values = random_floats((size_t)(span * d), 2, seed + 2), *q = random_floats((size_t)(n * d), 2, seed + 3),
          *scratch = need(cl_attend_scratch(span, d), sizeof(float)), *out[3];
    cl_query queries[3][CL_ATTEND_QUERIES]; /* at once, alone, by the definition */
    bool finite = true;
    for (int way = 0; way < 3; way++) out[way] = random_floats((size_t)(n * row), 1, 4);
    for (int t = 0; t < n; t++) {
        cl_query one = {.q = q + t * d, .sink = t % 3 ? &sinks[t] : NULL};
        choose_range(kind, t, n, base, span, &seed, &one);
        for (int way = 0; way < 3; way++) {
            queries[way][t] = one;
            queries[way][t].out = out[way] + t * row;
        }
        for (int64_t pos = one.lo; t != spoiled && pos <= one.pos; pos++) {
            const float *key = keys + (pos - base) * d, *value = values + (pos - base) * d;
            k->kv_store(&h, pos, key, value);
            ref->kv_store(&hr, pos, key, value);
        }
    }
    const float scale = 1 / sqrtf((float)d);
    k->attend(&h, n, queries[0], scale, scratch);
    for (int t = 0; t < n; t++) k->attend(&h, 1, &queries[1][t], scale, scratch);
    ref->attend(&hr, n, queries[2], scale, scratch);
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < d; i++) finite &= t == spoiled || isfinite(queries[0][t].out[i]);
    }
    CU_ASSERT_TRUE(finite);
    CU_ASSERT_TRUE(same_floats(out[0], out[1], n * row));
    CU_ASSERT_TRUE(same_floats(out[0], out[2], n * row));
    for (int way = 0; way < 3; way++) free(out[way]);
    free_cache(&h);
    free_cache(&hr);
    free(keys);
    free(values);
    free(q);
    free(scratch);
}

static void check_groups(const cl_kernels *k, const cl_kernels *ref)
{
    uint64_t seed = 1;
    for (int f = 0; f < 3; f++) {
        for (int i = 0; i < HEADS; i++) {
            for (int n = 1; n <= CL_ATTEND_QUERIES; n++) {
                for (int kind = 0; kind < RANGES; kind++)
                    check_group(k, ref, cache_formats[f], heads[i], n, (ranges)kind, SPAN, seed++);
            }
        }
    }
}

static void test_groups(void) { each_set(check_groups); }

static void check_runs(const cl_kernels *k, const cl_kernels *ref)
{
    uint64_t seed = 1;
    for (int f = 0; f < 3; f++) {
        for (int n = 1; n <= CL_ATTEND_QUERIES; n++) {
            for (int kind = 0; kind < 2 * RANGES; kind++)
                check_group(k, ref, cache_formats[f], 20, n, (ranges)(kind % RANGES), RUNS_SPAN, seed++);
        }
    }
}

static void test_runs(void) { each_set(check_runs); }

/* Equal scores, and one value that is not 0 in each run: a sum of those in the order of the tree. What precedes lo does
 * not count, and a half of a pair that sees nothing changes nothing. */
static void test_tree(void)
{
    static const float v[] = {1e8f, 3, -1e8f, 5, 1e9f, 7, -1e9f};
    enum { RUNS = 7 };
    const struct {
        int first, last;
        float sum; /* 1e8f + 3 is 1e8f, and so on: the order shows */
    } of[] = {{0, 0, v[0]},
              {0, 1, v[0] + v[1]},
              {0, 2, (v[0] + v[1]) + v[2]},
              {0, 3, (v[0] + v[1]) + (v[2] + v[3])},
              {0, 4, ((v[0] + v[1]) + (v[2] + v[3])) + v[4]},
              {0, 6, ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + v[6])},
              {1, 3, v[1] + (v[2] + v[3])},
              {1, 6, (v[1] + (v[2] + v[3])) + ((v[4] + v[5]) + v[6])},
              {2, 6, (v[2] + v[3]) + ((v[4] + v[5]) + v[6])},
              {3, 4, v[3] + v[4]},
              {3, 6, v[3] + ((v[4] + v[5]) + v[6])},
              {5, 6, v[5] + v[6]}};
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        cl_kv_head h = make_cache(CL_KV_F32, 1, RUNS * CL_KV_RUN / CL_KV_BLOCK), latent = h;
        float q = 0, out,
              *scratch = need(cl_attend_scratch(RUNS * CL_KV_RUN, 1) + cl_latent_scratch(RUNS * CL_KV_RUN, 1),
                              sizeof *scratch);
        latent.values = NULL; /* they are the keys */
        for (int64_t j = 0; j < RUNS * CL_KV_RUN; j++) {
            float value = j % CL_KV_RUN == 100 ? v[j / CL_KV_RUN] : 0;
            k->kv_store(&h, j, &value, &value);
        }
        for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
            const int64_t lo = of[i].first * CL_KV_RUN + 100, pos = of[i].last * CL_KV_RUN + 101;
            const float want = of[i].sum * (1 / (float)(pos - lo + 1));
            k->attend(&h, 1, &(cl_query){&q, &out, NULL, lo, pos}, 1, scratch);
            CU_ASSERT_EQUAL(out, want);
            k->attend_latent(&latent, 1, &q, 1, 1, lo, pos, 1, NULL, &out, 1, scratch);
            CU_ASSERT_EQUAL(out, want);
        }
        free_cache(&h);
        free(scratch);
    }
}

/* Equal scores give the mean; scores far apart give the largest's value; stored numbers round as their format says. */
static void test_attention_known(void)
{
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        const cl_kernels *k = set_named(*name);
        cl_kv_head h = make_cache(CL_KV_F32, 2, 2);
        float scratch[CL_ATTEND_QUERIES * 160], out[2], q[2] = {0, 0}; /* as much as 32 positions and 48 numbers need */
        for (int64_t j = 0; j < 20; j++)
            k->kv_store(&h, j, (float[2]){(float)j, 1}, (float[2]){(float)(j % 4), (float)j});
        k->attend(&h, 1, &(cl_query){q, out, NULL, 0, 19}, 1, scratch);
        CU_ASSERT_EQUAL(out[0], 1.5f);
        CU_ASSERT_DOUBLE_EQUAL(out[1], 9.5, 1e-5);
        float sink = logf(20); /* weighs as much as the 20 positions */
        k->attend(&h, 1, &(cl_query){q, out, &sink, 0, 19}, 1, scratch);
        CU_ASSERT_DOUBLE_EQUAL(out[0], 0.75, 1e-6);
        sink = 200; /* leaves nothing */
        k->attend(&h, 1, &(cl_query){q, out, &sink, 0, 19}, 1, scratch);
        CU_ASSERT(out[0] >= 0 && out[0] < 1e-30f);
        q[0] = 100;
        k->attend(&h, 1, &(cl_query){q, out, NULL, 0, 17}, 1, scratch);
        CU_ASSERT_EQUAL(out[0], 1);
        CU_ASSERT_EQUAL(out[1], 17);
        q[0] = -100;
        k->attend(&h, 1, &(cl_query){q, out, NULL, 14, 17}, 1, scratch);
        CU_ASSERT_EQUAL(out[1], 14);
        free_cache(&h);

        cl_kv_head b = make_cache(CL_KV_BF16, 2, 2);
        k->kv_store(&b, 0, (float[2]){0, 0}, (float[2]){0x1.01p0f, 0x1.03p0f}); /* halves go to even */
        k->attend(&b, 1, &(cl_query){q, out, NULL, 0, 0}, 1, scratch);
        CU_ASSERT_EQUAL(out[0], 1);
        CU_ASSERT_EQUAL(out[1], 0x1.04p0f);
        free_cache(&b);

        cl_kv_head e = make_cache(CL_KV_Q8, 40, 2);
        float v[40] = {127, -1.5f, 2.5f, 63}, got[40];
        v[32] = 1;
        v[33] = -0.25f;
        float key[40] = {0};
        k->kv_store(&e, 5, key, v);
        k->attend(&e, 1, &(cl_query){key, got, NULL, 5, 5}, 1, scratch);
        CU_ASSERT(got[0] == 127 && got[1] == -2 && got[2] == 2 && got[3] == 63 && got[4] == 0);
        CU_ASSERT_DOUBLE_EQUAL(got[32], 1, 1e-7);
        CU_ASSERT_DOUBLE_EQUAL(got[33], -32.0 / 127, 1e-7);
        free_cache(&e);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"exp within 2 ulp", test_exp},
                           {"norm, gates, sums", test_vectors},
                           {"clamped gate: known answers", test_clamped_known},
                           {"attention: formats, windows, rings, sinks", test_attention},
                           {"attention: several queries", test_groups},
                           {"attention: several runs", test_runs},
                           {"attention: sums of runs", test_tree},
                           {"attention: known answers", test_attention_known},
                           CU_TEST_INFO_NULL};
    return run_suite("kernels: vectors", tests);
}
