/* How the chips of a stage share rows and heads, over many sizes; slices of all kinds of specs, row by row. */
#include "chipline/plan.h"
#include "plan/slices.h"
#include "specs.h"
#include "suite.h"

static void test_split(void)
{
    for (int64_t n = 0; n < 200; n += n < 40 ? 1 : 7)
        for (int members = 1; members <= 40; members++)
            for (int unit = 1; unit <= 16; unit += 5) {
                int64_t end = 0, longest = cl_split(n, unit, members, 0).n, shortest = longest;
                for (int k = 0; k < members; k++) {
                    cl_range s = cl_split(n, unit, members, k);
                    CU_ASSERT_EQUAL_FATAL(s.first, end);
                    CU_ASSERT_TRUE_FATAL(s.n >= 0 && (s.first % unit == 0 || s.n == 0));
                    CU_ASSERT_TRUE(s.n <= shortest); /* the first runs are the longer ones */
                    shortest = s.n;
                    end += s.n;
                }
                CU_ASSERT_EQUAL(end, n);
                CU_ASSERT_TRUE(longest - shortest <= 2 * unit - 1); /* a unit, and the last may be short */
            }
    cl_range s = cl_split(100, 16, 3, 2); /* 7 runs: 3, 2, 2, and the last of them is short */
    CU_ASSERT_TRUE(s.first == 80 && s.n == 20);
    s = cl_split(30, 16, 4, 3);
    CU_ASSERT_EQUAL(s.n, 0);
    /* rows of narrow matrices one by one, where there would not be a run for every chip */
    CU_ASSERT_EQUAL(cl_split_rows(128, 9, 0).n, 15);
    CU_ASSERT_EQUAL(cl_split_rows(129, 9, 0).n, 16);
    CU_ASSERT_EQUAL(cl_split_rows(128, 8, 0).n, 16);
    CU_ASSERT_EQUAL(cl_split_rows(120, 8, 7).n, 15);
}

/* The busiest chip's heads, by kv heads or by query heads. */
static int busiest(const cl_attention *a, int members, bool by_query)
{
    int most = 0, group = a->heads / a->kv_heads;
    for (int k = 0; k < members; k++) {
        cl_range s = cl_split(by_query ? a->heads : a->kv_heads, 1, members, k);
        int q = by_query ? (int)s.n : (int)s.n * group, kv = (int)s.n;
        if (by_query && q) kv = (int)((s.first + q - 1) / group - s.first / group + 1);
        most = q + kv > most ? q + kv : most;
    }
    return most;
}

static void check_heads(int heads, int kv_heads, int members)
{
    cl_attention a = {.heads = heads, .kv_heads = kv_heads, .head_dim = 8};
    int q_end = 0, kv_end = 0, most = 0, group = heads / kv_heads;
    bool shared = false;
    for (int k = 0; k < members; k++) {
        cl_heads h = cl_split_heads(&a, members, k);
        if (h.q) {
            CU_ASSERT_EQUAL_FATAL(h.q0, q_end);
            CU_ASSERT_EQUAL(h.kv0, h.q0 / group);
            CU_ASSERT_EQUAL(h.kv0 + h.kv - 1, (h.q0 + h.q - 1) / group);
            CU_ASSERT_TRUE(h.kv0 <= kv_end);
            shared = shared || h.kv0 < kv_end;
            q_end += h.q;
            kv_end = h.kv0 + h.kv;
        } else CU_ASSERT_EQUAL(h.kv, 0);
        most = h.q + h.kv > most ? h.q + h.kv : most;
    }
    CU_ASSERT_EQUAL(q_end, heads);
    CU_ASSERT_EQUAL(kv_end, kv_heads);
    int by_kv = busiest(&a, members, false), by_query = busiest(&a, members, true);
    CU_ASSERT_EQUAL(most, by_kv < by_query ? by_kv : by_query);
    if (by_kv <= by_query) CU_ASSERT_FALSE(shared);
}

static void test_heads(void)
{
    for (int members = 1; members <= 70; members++) {
        check_heads(9, 3, members);
        check_heads(25, 5, members);
        check_heads(64, 4, members);
        check_heads(8, 8, members);
        check_heads(64, 8, members);
        check_heads(7, 1, members);
        check_heads(48, 8, members);
    }
    check_heads(32, 4, 100);
    cl_attention a = {.heads = 9, .kv_heads = 3, .head_dim = 64};
    cl_heads h = cl_split_heads(&a, 3, 1); /* by kv heads */
    CU_ASSERT_TRUE(h.q0 == 3 && h.q == 3 && h.kv0 == 1 && h.kv == 1);
    h = cl_split_heads(&a, 2, 1); /* 6 and 3, or 5 and 4 */
    CU_ASSERT_TRUE(h.q0 == 5 && h.q == 4 && h.kv0 == 1 && h.kv == 2);
    a = (cl_attention){.heads = 64, .kv_heads = 8, .head_dim = 64};
    h = cl_split_heads(&a, 3, 1);
    CU_ASSERT_TRUE(h.q0 == 22 && h.q == 21 && h.kv0 == 2 && h.kv == 4);
    a = (cl_attention){.kind = CL_ATTN_LATENT, .heads = 5, .kv_heads = 1, .head_dim = 30};
    for (int k = 0; k < 7; k++) {
        h = cl_split_heads(&a, 7, k);
        CU_ASSERT_TRUE(h.q == (k < 5) && h.kv == (k < 5) && h.kv0 == 0 && (k >= 5 || h.q0 == k));
    }
}

static cl_range rows_of(const cl_model *m, cl_role r, int layer, bool whole, int members, int member)
{
    const cl_tensor *t = cl_model_find(m, r, layer);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    return cl_tensor_rows_of(&m->spec, t, &(cl_stage){.n_ranks = members}, whole, member);
}

/* Shared out where each chip is spared more than it reads meanwhile, or as said; the widest router counts. */
static void test_routers(void)
{
    cl_layer layers[] = {{.ffn = {.kind = CL_FFN_DENSE, .experts = 4096}},
                         {.ffn = {.kind = CL_FFN_MOE, .experts = 1024}},
                         {.ffn = {.kind = CL_FFN_MOE, .experts = 8}}};
    const cl_spec s = {.n_layers = 3, .hidden = 1000, .layers = layers};
    const double all = 2 * 1000 * 1024;
    cl_place_options o = {.gather_reads = all / 2 - 1};
    CU_ASSERT_TRUE(cl_split_routers(&s, &o, 2));
    o.gather_reads = all / 2;
    CU_ASSERT_FALSE(cl_split_routers(&s, &o, 2));
    o.gather_reads = all * 4 / 5 / 3 - 1; /* of 5, in 3 rounds */
    CU_ASSERT_TRUE(cl_split_routers(&s, &o, 5));
    o.gather_reads += 2;
    CU_ASSERT_FALSE(cl_split_routers(&s, &o, 5));
    o.routers = CL_ROUTERS_SPLIT;
    CU_ASSERT_TRUE(cl_split_routers(&s, &o, 5));
    CU_ASSERT_FALSE(cl_split_routers(&s, &o, 1));
    o = (cl_place_options){.routers = CL_ROUTERS_COPIED, .gather_reads = 1};
    CU_ASSERT_FALSE(cl_split_routers(&s, &o, 64));
    layers[1].ffn.kind = layers[2].ffn.kind = CL_FFN_DENSE;
    o.routers = CL_ROUTERS_SPLIT;
    CU_ASSERT_FALSE(cl_split_routers(&s, &o, 2));
}

/* What CPUs read meanwhile, in memory and by messages. */
static void test_routers_of_cpus(void)
{
    cl_layer layer = {.ffn = {.kind = CL_FFN_MOE, .experts = 250}};
    const cl_spec some = {.n_layers = 1, .hidden = 1000, .layers = &layer},
                  more = {.n_layers = 1, .hidden = 1001, .layers = &layer},
                  messages = {.n_layers = 1, .hidden = 2001, .layers = &layer};
    cl_place_options o = {.shared_memory = true};
    CU_ASSERT_FALSE(cl_split_routers(&some, &o, 2));
    CU_ASSERT_TRUE(cl_split_routers(&more, &o, 2));
    o.shared_memory = false;
    CU_ASSERT_TRUE(cl_split_routers(&messages, &o, 2));
    layer.ffn.experts = 249;
    CU_ASSERT_FALSE(cl_split_routers(&messages, &o, 2));
}

/* Where scales are shared by rows, heads that begin inside a run of 16 take the whole run. */
static void test_rows(void)
{
    cl_err err = {0};
    cl_spec s = test_spec_sinks(); /* 6 heads of 20, 2 kv heads; hidden 100; experts of width 42 */
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_BF16, &m, &err), CL_OK);
    cl_range x = rows_of(&m, CL_T_Q, 0, false, 2, 1);
    CU_ASSERT_TRUE(x.first == 60 && x.n == 60);
    x = rows_of(&m, CL_T_K, 0, false, 2, 1);
    CU_ASSERT_TRUE(x.first == 20 && x.n == 20);
    x = rows_of(&m, CL_T_Q_BIAS, 0, false, 2, 1);
    CU_ASSERT_TRUE(x.first == 0 && x.n == 120);
    x = rows_of(&m, CL_T_SINKS, 0, false, 2, 1);
    CU_ASSERT_TRUE(x.first == 0 && x.n == 6);
    x = rows_of(&m, CL_T_O_BIAS, 0, false, 2, 1);
    CU_ASSERT_TRUE(x.first == 64 && x.n == 36);
    x = rows_of(&m, CL_T_EXPERT_UP, 0, false, 2, 1);
    CU_ASSERT_TRUE(x.first == 32 && x.n == 10);
    x = rows_of(&m, CL_T_EXPERT_UP_BIAS, 0, true, 2, 1);
    CU_ASSERT_TRUE(x.first == 0 && x.n == 42);
    x = rows_of(&m, CL_T_EMBED, -1, true, 2, 0);
    CU_ASSERT_TRUE(x.first == 0 && x.n == 48);
    const cl_tensor *router = cl_model_find(&m, CL_T_ROUTER, 0);
    const cl_stage split = {.n_ranks = 2, .split_routers = true};
    x = cl_tensor_rows_of(&m.spec, router, &split, true, 1);
    CU_ASSERT_TRUE(x.first == cl_split_rows(router->rows, 2, 1).first && x.n == cl_split_rows(router->rows, 2, 1).n);
    x = rows_of(&m, CL_T_ROUTER, 0, true, 2, 1);
    CU_ASSERT_TRUE(x.first == 0 && x.n == router->rows);
    cl_model_free(&m);
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_FP8, &m, &err), CL_OK);
    x = rows_of(&m, CL_T_Q, 0, false, 2, 1); /* 60 .. 119 */
    CU_ASSERT_TRUE(x.first == 48 && x.n == 72);
    x = rows_of(&m, CL_T_K, 0, false, 2, 1); /* 20 .. 39 of 40 */
    CU_ASSERT_TRUE(x.first == 16 && x.n == 24);
    x = rows_of(&m, CL_T_O, 0, false, 2, 1);
    CU_ASSERT_TRUE(x.first == 64 && x.n == 36);
    cl_model_free(&m);
    cl_spec_free(&s);
}

static void check_slices(cl_spec s, cl_format f)
{
    static const int shapes[][4] = {{1, 0}, {2, 0}, {3, 0}, {7, 0}, {1, 2, 0}, {3, 1, 2, 0}, {2, 5, 0}, {6, 4, 0}};
    cl_err err = {0};
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, f, &m, &err), CL_OK);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int whole = 0; whole < 2; whole++) {
            int chips[4], n = 0;
            for (; shapes[i][n]; n++) chips[n] = shapes[i][n];
            cl_layout l = {n, chips, NULL};
            cl_place_options o = {.layout = &l,
                                  .experts = whole ? CL_EXPERTS_WHOLE : CL_EXPERTS_SLICED,
                                  .kv = CL_KV_Q8,
                                  .slots = 2,
                                  .context = 64,
                                  .chunk = 8};
            cl_placement p;
            CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
            CU_ASSERT_EQUAL(p.experts != NULL, whole);
            test_slices(&m, &o, &p);
            cl_placement_free(&p);
        }
    cl_model_free(&m);
    cl_spec_free(&s);
}

static void test_all_slices(void)
{
    static const cl_format formats[] = {CL_F32, CL_Q4_0, CL_FP8};
    for (int f = 0; f < 3; f++) {
        check_slices(test_spec_sinks(), formats[f]);
        check_slices(test_spec_latent(), formats[f]);
        check_slices(test_spec_chunked(), formats[f]);
        check_slices(test_spec((test_geometry){75, 100, 4, 9, 3, 16, 50, 0, 0, true, CL_QK_NORM_HEAD}), formats[f]);
        check_slices(test_spec((test_geometry){75, 100, 4, 8, 2, 16, 50, 11, 3, true, CL_QK_NORM_FULL}), formats[f]);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"runs", test_split},      {"heads", test_heads},
                           {"routers", test_routers}, {"routers of CPUs", test_routers_of_cpus},
                           {"rows", test_rows},       {"slices", test_all_slices},
                           CU_TEST_INFO_NULL};
    return run_suite("split", tests);
}
