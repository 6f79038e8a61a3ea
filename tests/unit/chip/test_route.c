/* test_route.c: the choice of experts against a plain one in double precision; ties, groups, numbers gone wrong. */
#include "naive_route.h"
#include "route.h"
#include "suite.h"

static uint64_t state;

static double uniform(void) /* in [-1, 1) */
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-52 - 1;
}

static void run(const cl_ffn *f, const double *l, const double *bias, choice *out)
{
    static float score[NAIVE_EXPERTS], made[NAIVE_EXPERTS], select_bias[NAIVE_EXPERTS], select[NAIVE_EXPERTS],
        runs[NAIVE_EXPERTS];
    static int32_t list[NAIVE_EXPERTS], run_list[NAIVE_EXPERTS];
    const route_scratch s = {made, select, runs, list, run_list};
    for (int e = 0; e < f->experts; e++) {
        score[e] = (float)l[e];
        select_bias[e] = bias ? (float)bias[e] : 0;
    }
    route_choose(f, score, bias ? select_bias : NULL, &s, out);
}

static void check(const cl_ffn *f, const double *l, const double *bias)
{
    choice got[NAIVE_EXPERTS];
    int chosen[NAIVE_EXPERTS];
    double weight[NAIVE_EXPERTS];
    run(f, l, bias, got);
    naive_route(f, l, bias, chosen, weight);
    for (int j = 0; j < f->top_k; j++) {
        CU_ASSERT_EQUAL(got[j].expert, chosen[j]);
        CU_ASSERT(fabs((double)got[j].weight - weight[j]) <= 1e-5 * fabs(weight[j]));
    }
}

/* Every way of scoring, with and without groups, bias, renormalisation; several sizes. step: outputs and biases are
 * multiples of it, so that ties are common where it is coarse. */
static void check_all(double step, double largest)
{
    static const struct {
        int experts, top_k, groups, top_groups, group_best;
    } shapes[] = {{1, 1, 0, 0, 0},   {8, 2, 0, 0, 0},  {60, 4, 0, 0, 0},  {256, 8, 8, 4, 2}, {384, 8, 0, 0, 0},
                  {160, 6, 8, 3, 1}, {12, 6, 4, 2, 3}, {16, 16, 2, 2, 8}, {30, 3, 30, 5, 1}, {9, 9, 0, 0, 0}};
    for (int i = 0; i < 10; i++)
        for (int kind = 0; kind < 12; kind++)
            for (int repeat = 0; repeat < 20; repeat++) {
                cl_ffn f = {.kind = CL_FFN_MOE,
                            .experts = shapes[i].experts,
                            .top_k = shapes[i].top_k,
                            .groups = shapes[i].groups,
                            .top_groups = shapes[i].top_groups,
                            .group_best = shapes[i].group_best,
                            .scoring = (cl_scoring)(kind % 3),
                            .renormalise = kind / 3 % 2,
                            .weight_scale = kind % 2 ? 1 : 2.5};
                double l[NAIVE_EXPERTS], bias[NAIVE_EXPERTS];
                for (int e = 0; e < f.experts; e++) {
                    l[e] = step * rint(uniform() * largest / step);
                    bias[e] = (double)(float)(step * rint(uniform() / step));
                }
                /* sums with rounded scores may tie in one precision only: biases go with coarse steps only where
                 * scores are exact */
                bool exact = f.scoring == CL_SCORE_CHOSEN_SOFTMAX || step < 1e-3;
                check(&f, l, kind / 6 && exact ? bias : NULL);
            }
}

static void test_random(void)
{
    state = 1;
    check_all(0x1p-20, 4);
}

static void test_ties(void)
{
    state = 2;
    check_all(0.25, 1);
    cl_ffn f = {.kind = CL_FFN_MOE,
                .experts = 12,
                .top_k = 4,
                .groups = 4,
                .top_groups = 2,
                .group_best = 2,
                .weight_scale = 1};
    double same[12] = {0};
    choice out[12];
    for (int s = 0; s < 3; s++) {
        f.scoring = (cl_scoring)s;
        run(&f, same, NULL, out);
        for (int j = 0; j < 4; j++) CU_ASSERT_EQUAL(out[j].expert, j);
    }
}

/* Worked out by hand: run 1 has the largest expert, but the two best of run 2 are more together; the bias only
 * chooses. */
static void test_by_hand(void)
{
    cl_ffn f = {.kind = CL_FFN_MOE,
                .experts = 6,
                .top_k = 2,
                .groups = 3,
                .top_groups = 1,
                .group_best = 2,
                .weight_scale = 3,
                .scoring = CL_SCORE_SIGMOID,
                .renormalise = true};
    const double third = log(0.5), l[6] = {-9, -9, 9, -9, 0, third}, bias[6] = {0, 0, 0, 0, 0.25, 0.5};
    choice out[2];
    run(&f, l, bias, out); /* scores 0.5 and 1/3, chosen as 0.75 and 0.8333 */
    CU_ASSERT_EQUAL(out[0].expert, 5);
    CU_ASSERT_EQUAL(out[1].expert, 4);
    CU_ASSERT_DOUBLE_EQUAL(out[0].weight, 1.2, 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(out[1].weight, 1.8, 1e-6);
    f.groups = f.top_groups = f.group_best = 0;
    f.renormalise = false;
    run(&f, l, NULL, out);
    CU_ASSERT_EQUAL(out[0].expert, 2);
    CU_ASSERT_EQUAL(out[1].expert, 4);
    CU_ASSERT_DOUBLE_EQUAL(out[1].weight, 1.5, 1e-6);
    f.scoring = CL_SCORE_CHOSEN_SOFTMAX;
    const double big[6] = {0, 1000, 1000 + log(3), 0, 0, 0}; /* no overflow */
    run(&f, big, NULL, out);
    CU_ASSERT_EQUAL(out[0].expert, 2);
    CU_ASSERT_EQUAL(out[1].expert, 1);
    CU_ASSERT_DOUBLE_EQUAL(out[0].weight, 2.25, 1e-3);
    CU_ASSERT_DOUBLE_EQUAL(out[1].weight, 0.75, 1e-3);
}

/* NaN and infinity anywhere: the choices are experts all the same, each once. */
static void test_wrong_numbers(void)
{
    static const double odd[] = {NAN, INFINITY, -INFINITY, 0};
    state = 3;
    for (int i = 0; i < 3000; i++) {
        cl_ffn f = {.kind = CL_FFN_MOE,
                    .experts = 24,
                    .top_k = 6,
                    .scoring = (cl_scoring)(i % 3),
                    .renormalise = i % 2,
                    .weight_scale = 1};
        if (i % 5) f.groups = 6, f.top_groups = 2, f.group_best = 2;
        double l[24], bias[24];
        for (int e = 0; e < 24; e++) {
            l[e] = uniform() < (i % 7) / 3.0 - 1 ? odd[(int)(2 + 2 * uniform())] : uniform();
            bias[e] = uniform() < (i % 11) / 5.0 - 1 ? odd[(int)(2 + 2 * uniform())] : uniform();
        }
        choice out[6];
        bool seen[24] = {false};
        run(&f, l, i % 4 ? bias : NULL, out);
        for (int j = 0; j < 6; j++) {
            CU_ASSERT_FATAL(out[j].expert >= 0 && out[j].expert < 24);
            CU_ASSERT(!seen[out[j].expert]);
            seen[out[j].expert] = true;
        }
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"random", test_random},
                           {"ties", test_ties},
                           {"by hand", test_by_hand},
                           {"wrong numbers", test_wrong_numbers},
                           CU_TEST_INFO_NULL};
    return run_suite("route", tests);
}
