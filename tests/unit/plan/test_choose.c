/* The layout that is chosen, under rates that make the answer plain; the list of all; large lines. */
#include <string.h>

#include "chipline/plan.h"
#include "specs.h"
#include "suite.h"

static cl_model make_model(cl_format f)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){1024, 512, 8, 8, 8, 64, 1024, 0, 0, false, CL_QK_NORM_NONE});
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, f, &m, &err), CL_OK);
    cl_spec_free(&s);
    return m;
}

static const cl_rates free_links = {.read_bytes_per_s = 1e9, .hop_s = 1e-9};
static const cl_rates slow_gathers = {.read_bytes_per_s = 1e9, .gather_s = 1, .hop_s = 1e-9};

static void test_goals(void)
{
    cl_err err = {0};
    cl_model m = make_model(CL_BF16);
    cl_place_options o = {.ranks = 8, .slots = 1, .context = 64, .chunk = 8};
    cl_layout l;
    CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &free_links, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_OK);
    CU_ASSERT_TRUE(l.n_stages == 1 && l.chips[0] == 8 && !l.layers);
    cl_layout_free(&l);
    CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_OK);
    CU_ASSERT_TRUE(l.n_stages == 8 && l.chips[0] == 1);
    cl_layout_free(&l);
    o.slots = 8;
    CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_THROUGHPUT, &l, NULL, NULL, &err), CL_OK);
    CU_ASSERT_EQUAL(l.n_stages, 8);
    cl_layout_free(&l);
    o.ranks = 7; /* prime */
    CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_OK);
    CU_ASSERT_TRUE(l.n_stages == 7 && l.chips[0] == 1);
    cl_layout_free(&l);
    cl_model_free(&m);
}

/* Exactly as good: fewer stages. A gather of two takes a second and there are 34, a hop takes 17 and there are two. */
static void test_ties(void)
{
    cl_err err = {0};
    cl_model m = make_model(CL_BF16);
    const cl_place_options o = {.ranks = 2, .slots = 1, .context = 64, .chunk = 8};
    const cl_rates r = {.read_bytes_per_s = 1e300, .gather_s = 1, .hop_s = 17};
    for (int goal = 0; goal < 2; goal++) {
        cl_layout l;
        cl_alternative *list;
        int n;
        CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &r, (cl_goal)goal, &l, &list, &n, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(n, 2);
        CU_ASSERT_TRUE(list[0].predicted.token_s == 34 && list[1].predicted.token_s == 34);
        CU_ASSERT_TRUE(list[0].predicted.tokens_per_s == list[1].predicted.tokens_per_s);
        CU_ASSERT_TRUE(list[0].stages == 1 && list[1].stages == 2 && l.n_stages == 1 && l.chips[0] == 2);
        free(list);
        cl_layout_free(&l);
    }
    cl_model_free(&m);
}

/* Everything is in the list once: possible ones best first, and as placing and predicting them says. */
static void test_list(void)
{
    cl_err err = {0};
    cl_model m = make_model(CL_Q8_0);
    cl_place_options o = {.ranks = 24, .slots = 4, .context = 64, .chunk = 8};
    const cl_rates r = {.read_bytes_per_s = 30e9,
                        .gather_s = 2e-6,
                        .gather_bytes_per_s = 10e9,
                        .hop_s = 5e-6,
                        .hop_bytes_per_s = 10e9};
    for (int goal = 0; goal < 2; goal++) {
        cl_layout l;
        cl_alternative *list, *again;
        int n, n_again, possible = 0, seen = 0;
        CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &r, (cl_goal)goal, &l, &list, &n, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(n, 8); /* as many as layers */
        CU_ASSERT_TRUE(l.n_stages == list[0].stages && l.chips[0] == list[0].chips);
        CU_ASSERT_TRUE(l.chips[l.n_stages - 1] == list[0].chips + (list[0].larger > 0));
        cl_layout_free(&l);
        for (int i = 0; i < n; i++) {
            CU_ASSERT_EQUAL(list[i].stages * list[i].chips + list[i].larger, 24);
            CU_ASSERT_TRUE(list[i].larger >= 0 && list[i].larger < list[i].stages && list[i].code == CL_OK);
            seen += list[i].stages;
            CU_ASSERT_EQUAL(possible++, i);
            cl_layout one;
            cl_placement p;
            cl_prediction x;
            cl_place_options with = o;
            CU_ASSERT_EQUAL_FATAL(cl_layout_share(list[i].stages, 24, &one, &err), CL_OK);
            with.layout = &one;
            CU_ASSERT_EQUAL_FATAL(cl_place(&m, &with, &p, &err), CL_OK);
            CU_ASSERT_EQUAL_FATAL(cl_predict(&m, &with, &p, &r, &x, &err), CL_OK);
            CU_ASSERT_EQUAL(memcmp(&x, &list[i].predicted, sizeof x), 0);
            if (i && goal == CL_GOAL_LATENCY) CU_ASSERT_TRUE(x.token_s >= list[i - 1].predicted.token_s);
            if (i && goal == CL_GOAL_THROUGHPUT) CU_ASSERT_TRUE(x.tokens_per_s <= list[i - 1].predicted.tokens_per_s);
            cl_placement_free(&p);
            cl_layout_free(&one);
        }
        CU_ASSERT_EQUAL(possible, 8);
        CU_ASSERT_EQUAL(seen, 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8);
        CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &r, (cl_goal)goal, &l, &again, &n_again, &err), CL_OK);
        CU_ASSERT_TRUE(n_again == n && memcmp(list, again, (size_t)n * sizeof *list) == 0);
        cl_layout_free(&l);
        free(list);
        free(again);
    }
    cl_model_free(&m);
}

static void test_budgets(void)
{
    cl_err err = {0};
    cl_model m = make_model(CL_BF16); /* a layer is 5.2 MB and 0.3 of cache, a table 1 */
    cl_place_options o = {.ranks = 8, .slots = 1, .context = 64, .chunk = 8, .chip_bytes = 6100000};
    cl_layout l;
    cl_alternative *list;
    int n;
    CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, &list, &n, &err), CL_OK);
    /* a layer and a table are too much for one chip, half of two layers and a table is not */
    CU_ASSERT_EQUAL(l.n_stages, 4);
    CU_ASSERT_TRUE(n == 8 && list[7].stages == 8 && list[7].code == CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(list[7].why, "bytes more than a chip's"));
    cl_layout_free(&l);
    free(list);
    o.chip_bytes = 1000000;
    CU_ASSERT_EQUAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, &list, &n, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "no layout of 8 chips is possible; 8x1: chip"));
    o.ranks = 32; /* told of the most stages that there are layers for */
    CU_ASSERT_EQUAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, &list, &n, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "no layout of 32 chips is possible; 8x4: chip"));
    o.ranks = 0;
    CU_ASSERT_EQUAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_E_USAGE);
    o.ranks = 2, o.slots = 0;
    CU_ASSERT_EQUAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_E_USAGE);
    CU_ASSERT_STRING_EQUAL(err.msg, "plan: 0 slots (at least 1)"); /* no layout's fault */
    cl_model_free(&m);
}

/* Thousands of chips: all of them get something. */
static void test_large(void)
{
    cl_err err = {0};
    cl_spec s = test_spec(QWEN3_30B_A3B);
    cl_model m;
    cl_layout l;
    cl_placement p;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_Q8_0, &m, &err), CL_OK);
    cl_place_options o = {.ranks = 4096, .slots = 1, .context = 1024, .chunk = 8};
    CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &slow_gathers, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_OK);
    CU_ASSERT_EQUAL(l.n_stages, 32);
    o.layout = &l;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    CU_ASSERT_EQUAL(p.n_ranks, 4096);
    for (int rank = 0; rank < 4096; rank += 31) {
        cl_chip_cost c;
        CU_ASSERT_EQUAL_FATAL(cl_placement_cost(&m, &o, &p, rank, &c, &err), CL_OK);
        CU_ASSERT_TRUE(c.token_bytes > 0);
    }
    cl_placement_free(&p);
    cl_layout_free(&l);
    cl_model_free(&m);
    cl_spec_free(&s);
}

/* More chips than there is work for: some are left over, and more of them where gathers are dear. */
static void test_at_most(void)
{
    cl_err err = {0};
    cl_model m = make_model(CL_BF16);
    cl_place_options o = {.ranks = 4000, .slots = 1, .context = 64, .chunk = 8, .at_most = true};
    const cl_rates rates[] = {free_links, {.read_bytes_per_s = 1e9, .gather_s = 1e-4, .hop_s = 1e-9}, slow_gathers};
    const int chips[] = {64, 8, 1}; /* of one stage: its 1024 rows are cut no finer than 16 */
    for (int i = 0; i < 3; i++) {
        cl_layout l;
        cl_alternative *list, best = {0};
        int n;
        CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &rates[i], CL_GOAL_LATENCY, &l, &list, &n, &err), CL_OK);
        CU_ASSERT_TRUE(n == 8 && l.n_stages == list[0].stages && cl_layout_chips(&l) == l.n_stages * list[0].chips);
        cl_layout_free(&l);
        for (int k = 0; k < n; k++) {
            CU_ASSERT_TRUE(list[k].code == CL_OK && list[k].larger == 0);
            if (list[k].stages == 1) best = list[k];
        }
        free(list);
        CU_ASSERT_EQUAL(best.chips, chips[i]);
        for (int most = 64; most; most /= 2) { /* none of so many is better */
            const cl_place_options all = {.ranks = most, .slots = 1, .context = 64, .chunk = 8};
            CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &all, &rates[i], CL_GOAL_LATENCY, &l, &list, &n, &err), CL_OK);
            for (int k = 0; k < n; k++)
                if (list[k].stages == 1) CU_ASSERT_TRUE(list[k].predicted.token_s >= best.predicted.token_s);
            cl_layout_free(&l);
            free(list);
        }
    }
    cl_layout l;
    o.at_most = false;
    CU_ASSERT_EQUAL(cl_choose_layout(&m, &o, &free_links, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_E_FIT);
    cl_model_free(&m);
}

/* Fewest chips against all S x G that there can be. */
static void test_fewest(void)
{
    for (int which = 0; which < 4; which++) {
        cl_spec s = which == 0   ? test_spec(SMOLLM2_135M)
                    : which == 1 ? test_spec_latent()
                    : which == 2 ? test_spec_sinks()
                                 : test_spec_chunked();
        cl_model m;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_F32, &m, &err), CL_OK);
        cl_place_options o = {.kv = CL_KV_F32,
                              .slots = 2,
                              .context = 64,
                              .chunk = 16,
                              .experts = which % 2 ? CL_EXPERTS_WHOLE : CL_EXPERTS_SLICED};
        uint64_t all = 0;
        for (int i = 0; i < m.n_tensors; i++) all += cl_tensor_bytes(&m.tensors[i]);
        for (int part = 1; part < 12; part += 2) {
            int best = 0, best_stages = 0;
            o.chip_bytes = all / (uint64_t)part + all / 50;
            for (int stages = 1; stages <= s.n_layers; stages++)
                for (int chips = 1; chips <= 40 && (!best || stages * chips <= best); chips++) {
                    cl_layout l;
                    cl_placement p;
                    CU_ASSERT_EQUAL_FATAL(cl_layout_make(stages, chips, &l, &err), CL_OK);
                    o.layout = &l;
                    if (cl_place(&m, &o, &p, NULL) == CL_OK) {
                        best = stages * chips;
                        best_stages = stages; /* of equal totals the one with the smaller stages comes later */
                        cl_placement_free(&p);
                    }
                    cl_layout_free(&l);
                }
            cl_layout found;
            cl_code c = cl_fewest_chips(&m, &o, &found, &err);
            CU_ASSERT_EQUAL(c, best ? CL_OK : CL_E_FIT);
            if (c != CL_OK) continue;
            CU_ASSERT_EQUAL(cl_layout_chips(&found), best);
            CU_ASSERT_EQUAL(found.n_stages, best_stages);
            cl_layout_free(&found);
        }
        cl_model_free(&m);
        cl_spec_free(&s);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"goals", test_goals},
                           {"ties", test_ties},
                           {"list", test_list},
                           {"budgets", test_budgets},
                           {"large lines", test_large},
                           {"fewest chips", test_fewest},
                           {"chips left over", test_at_most},
                           CU_TEST_INFO_NULL};
    return run_suite("choose", tests);
}
