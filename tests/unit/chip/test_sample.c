/* test_sample.c: the sampler against what its options mean, computed here in the plain way. */
#include "sample.h"

#include <math.h>
#include <string.h>

#include "suite.h"

enum { V = 200 };

static const cl_sampling greedy = {.temperature = 0, .top_p = 1, .repeat_penalty = 1};
static const cl_sampling plain = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};

static float logits[V];
static cl_sampler *s;

static int fill(int n)
{
    uint32_t x = 12345;
    for (int i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        logits[i] = (float)(x >> 8) / (float)(1 << 24) * 6 - 3;
    }
    return n;
}

static int32_t draw(int n, const cl_sampling *o, int64_t position)
{
    return cl_sample(s, logits, n, o, NULL, 0, position);
}

static void test_greedy(void)
{
    int n = fill(V);
    logits[7] = logits[50] = logits[120] = 9;
    CU_ASSERT_EQUAL(draw(n, &greedy, 0), 7); /* ties to the lower id */
    CU_ASSERT_EQUAL(draw(n, &greedy, 99), 7);
    logits[199] = 10;
    CU_ASSERT_EQUAL(draw(n, &greedy, 0), 199);
    CU_ASSERT_EQUAL(draw(199, &greedy, 0), 7); /* not allowed: padding rows */
    logits[3] = NAN;
    CU_ASSERT_EQUAL(draw(199, &greedy, 0), 7);
    logits[3] = INFINITY;
    CU_ASSERT_EQUAL(draw(199, &plain, 0), 3);
    for (int i = 0; i < V; i++) logits[i] = NAN;
    CU_ASSERT_EQUAL(draw(n, &plain, 0), 0);
    logits[0] = logits[1] = -INFINITY;
    logits[2] = -5;
    for (int i = 0; i < 50; i++) CU_ASSERT_EQUAL(draw(3, &plain, i), 2);
}

static void test_penalty(void)
{
    cl_sampling o = greedy;
    o.repeat_penalty = 2;
    fill(V);
    for (int i = 0; i < V; i++) logits[i] = -9;
    logits[1] = 4, logits[2] = 3, logits[3] = -1;
    int32_t recent[70] = {1, 1, 1}; /* counts once: 4 -> 2 */
    CU_ASSERT_EQUAL(cl_sample(s, logits, V, &o, recent, 3, 0), 2);
    logits[2] = 1.5f;
    CU_ASSERT_EQUAL(cl_sample(s, logits, V, &o, recent, 3, 0), 1);
    /* negative ones are multiplied: -1 -> -2 */
    logits[1] = logits[2] = -1.5f;
    recent[0] = recent[1] = recent[2] = 3;
    CU_ASSERT_EQUAL(cl_sample(s, logits, V, &o, recent, 3, 0), 1);
    /* only the last 64; ids out of range are ignored */
    logits[1] = 4, logits[2] = 3;
    for (int i = 0; i < 70; i++) recent[i] = i == 10 ? -1 : V + i;
    recent[5] = 1;
    CU_ASSERT_EQUAL(cl_sample(s, logits, V, &o, recent, 70, 0), 1);
    recent[6] = 1;
    CU_ASSERT_EQUAL(cl_sample(s, logits, V, &o, recent, 70, 0), 2);
    CU_ASSERT_EQUAL(logits[1], 4); /* the caller's row is not changed */
}

/* The probabilities that the options mean, by sorting everything. */
static void expected(int n, const cl_sampling *o, double *p)
{
    int order[V];
    double sum = 0, w[V], cum = 0;
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            if (logits[order[j]] > logits[order[i]] || (logits[order[j]] == logits[order[i]] && order[j] < order[i])) {
                int x = order[i];
                order[i] = order[j], order[j] = x;
            }
    int keep = o->top_k > 0 && o->top_k < n ? o->top_k : n;
    for (int i = 0; i < n; i++) {
        p[i] = 0;
        w[i] = exp(((double)logits[order[i]] - logits[order[0]]) / o->temperature);
        if (i < keep) sum += w[i];
    }
    int kept = 0;
    for (; kept < keep; kept++) {
        if (kept && (cum >= o->top_p * sum || w[kept] < o->min_p)) break;
        cum += w[kept];
    }
    for (int i = 0; i < kept; i++) p[order[i]] = w[i] / cum;
}

/* Chi-square over n draws; classes with small expectation are joined. */
static void check_distribution(int n, const cl_sampling *o)
{
    enum { DRAWS = 40000 };
    double p[V], chi = 0, rest = 0;
    int seen[V] = {0}, rest_seen = 0, classes = 0;
    expected(n, o, p);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = draw(n, o, i);
        CU_ASSERT_FATAL(id >= 0 && id < n && p[id] > 0);
        seen[id]++;
    }
    for (int i = 0; i < n; i++) {
        double e = p[i] * DRAWS;
        if (e < 8) {
            rest += e, rest_seen += seen[i];
            continue;
        }
        chi += (seen[i] - e) * (seen[i] - e) / e;
        classes++;
    }
    if (rest >= 8) chi += (rest_seen - rest) * (rest_seen - rest) / rest, classes++;
    /* mean k, deviation sqrt(2 k): 5 deviations */
    double k = classes - 1;
    CU_ASSERT(chi <= k + 5 * sqrt(2 * k) + 1e-9);
    if (k > 20) CU_ASSERT(chi >= k - 5 * sqrt(2 * k)); /* too even is not random either */
}

static void test_distribution(void)
{
    int n = fill(V);
    cl_sampling o = plain;
    o.seed = 42;
    check_distribution(n, &o);
    o.temperature = 0.6f;
    check_distribution(n, &o);
    o.top_k = 5;
    check_distribution(n, &o);
    o.top_k = 1;
    check_distribution(n, &o);
    o.top_k = 0, o.top_p = 0.7f;
    check_distribution(n, &o);
    o.top_p = 0;
    check_distribution(n, &o);
    o.top_p = 1, o.min_p = 0.2f;
    check_distribution(n, &o);
    o.min_p = 1;
    check_distribution(n, &o);
    o.top_k = 50, o.top_p = 0.9f, o.min_p = 0.05f, o.temperature = 1.5f;
    check_distribution(n, &o);
    o.top_k = 1000;
    check_distribution(17, &o);
    /* equal logits: the lower ids are kept */
    for (int i = 0; i < V; i++) logits[i] = 1;
    o = plain, o.top_k = 3;
    check_distribution(n, &o);
    check_distribution(1, &plain);
}

static void test_pure(void)
{
    int n = fill(V), differ = 0;
    cl_sampling a = plain, b = plain;
    a.seed = 1, b.seed = 2;
    cl_sampler *other;
    CU_ASSERT_EQUAL_FATAL(cl_sampler_create(&other, V, NULL), CL_OK);
    for (int i = 0; i < 300; i++) {
        int32_t x = draw(n, &a, i);
        CU_ASSERT_EQUAL(x, draw(n, &a, i));
        CU_ASSERT_EQUAL(x, cl_sample(other, logits, n, &a, NULL, 0, i)); /* no state is carried from draw to draw */
        differ += x != draw(n, &b, i);
    }
    CU_ASSERT(differ > 200);
    cl_sampler_free(other);
    cl_sampler_free(NULL);
}

/* A vocabulary in parts, some of them empty, gives what the whole one gives: ties, NaN, penalties and ids that are
 * not allowed included. */
static void test_parts(void)
{
    uint32_t x = 7;
    int drawn = 0;
    for (int i = 0; i < 20000; i++) {
        cl_sampling o = plain;
        x = x * 1664525u + 1013904223u;
        int allowed = 70 + (int)(x >> 8) % (V - 69), cuts = 1 + (int)(x >> 20) % 6, at = 0, n = 0;
        if (i % 4 == 0) fill(V);
        for (int k = 0; k < V; k++) {
            x = x * 1664525u + 1013904223u;
            if (i % 4) logits[k] = (float)((x >> 16) % 9) - 4; /* many ties */
            if (x >> 26 == 0) logits[k] = i % 8 ? NAN : INFINITY;
        }
        o.temperature = i % 3 ? 0.7f : 0;
        o.top_k = i % 5 ? 1 + (int)(x >> 10) % 80 : 0;
        o.top_p = i % 7 > 2 ? 0.8f : 1;
        o.min_p = i % 11 > 5 ? 0.05f : 0;
        o.repeat_penalty = i % 2 ? 1.3f : 1;
        o.seed = x;
        int32_t recent[5] = {(int32_t)(x % V), (int32_t)(x / 7 % V), (int32_t)(x % V), 150, -4};
        int need = cl_sample_candidates_needed(&o, allowed);
        CU_ASSERT_EQUAL(need, o.temperature == 0                                             ? 1
                              : o.top_k > 0 && o.top_k < allowed && o.top_k <= CL_CANDIDATES ? o.top_k
                                                                                             : 0);
        if (!need) continue;
        cl_candidate all[6 * CL_CANDIDATES];
        for (int c = 0; c < cuts; c++, n += need) {
            int end = c == cuts - 1 ? V : at + (int)((x >> c) % (unsigned)(V - at + 1));
            cl_sample_candidates(s, logits + at, at, end - at, allowed, &o, recent, 5, need, all + n);
            at = end;
        }
        CU_ASSERT_EQUAL(cl_sample_merged(s, all, n, &o, i), cl_sample(s, logits, allowed, &o, recent, 5, i));
        drawn++;
    }
    CU_ASSERT(drawn > 5000);
}

/* Two tokens of a half each: the first of them is top-p 0.5, alone and merged from parts. */
static void test_sum_that_is_top_p(void)
{
    const cl_sampling o = {.temperature = 1, .top_k = 2, .top_p = 0.5, .repeat_penalty = 1, .seed = 5};
    for (int i = 0; i < V; i++) logits[i] = i == 3 || i == 7 ? 2 : -9;
    for (int64_t position = 0; position < 50; position++) {
        cl_candidate c[] = {{7, 2}, {3, 2}};
        CU_ASSERT_EQUAL(cl_sample(s, logits, V, &o, NULL, 0, position), 3);
        CU_ASSERT_EQUAL(cl_sample_merged(s, c, 2, &o, position), 3);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"greedy", test_greedy},
                           {"repeat penalty", test_penalty},
                           {"distribution", test_distribution},
                           {"pure function", test_pure},
                           {"parts of a vocabulary", test_parts},
                           {"a sum that is top-p", test_sum_that_is_top_p},
                           CU_TEST_INFO_NULL};
    if (cl_sampler_create(&s, V, NULL)) return EXIT_FAILURE;
    int rc = run_suite("sample", tests);
    cl_sampler_free(s);
    return rc;
}
