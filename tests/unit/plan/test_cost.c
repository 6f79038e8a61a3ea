/* What a token costs a chip: worked out by hand; gathers against the bytes of the exchanges themselves; predicted
 * seconds. */
#include <math.h>
#include <string.h>

#include "chipline/group.h"
#include "chipline/plan.h"
#include "specs.h"
#include "suite.h"

static cl_model model_of(cl_spec s, cl_format f)
{
    cl_err err = {0};
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, f, &m, &err), CL_OK);
    cl_spec_free(&s);
    return m;
}

static cl_placement place(const cl_model *m, const cl_place_options *o)
{
    cl_err err = {0};
    cl_placement p = {0};
    CU_ASSERT_EQUAL_FATAL(cl_place(m, o, &p, &err), CL_OK);
    return p;
}

static cl_chip_cost cost_of(const cl_model *m, const cl_place_options *o, const cl_placement *p, int rank)
{
    cl_err err = {0};
    cl_chip_cost c = {0};
    CU_ASSERT_EQUAL_FATAL(cl_placement_cost(m, o, p, rank, &c, &err), CL_OK);
    return c;
}

/* Two layers on two chips: of everything half, norms twice. */
static void test_by_hand(void)
{
    cl_model m = model_of(test_spec((test_geometry){64, 64, 2, 4, 2, 16, 96, 0, 0, false, CL_QK_NORM_NONE}), CL_BF16);
    int chips[] = {2};
    cl_layout l = {1, chips, NULL};
    cl_place_options o = {.layout = &l, .kv = CL_KV_F32, .slots = 3, .context = 64, .chunk = 8, .read_context = 10};
    cl_placement p = place(&m, &o);
    /* norms 2 * 256, q 32 rows, k and v 16, o 32, each of 64 numbers; gate and up 48 rows of 64, down 32 of 96 */
    const uint64_t layer = 2 * 256 + (32 + 16 + 16 + 32) * 128 + 2 * 48 * 128 + 32 * 192, table = 32 * 128, norm = 256;
    for (int k = 0; k < 2; k++) {
        cl_chip_cost c = cost_of(&m, &o, &p, k);
        CU_ASSERT_EQUAL(c.weight_bytes, 2 * layer + 2 * table + norm);
        CU_ASSERT_EQUAL(c.token_bytes, 2 * layer + table + norm + 64); /* a row of the embedding is here or there */
        CU_ASSERT_EQUAL(c.kv_bytes, 2 * 3 * 4 * 2 * 1024);             /* layers, slots, blocks of 16, key and value */
        CU_ASSERT_EQUAL(c.token_kv_bytes, 2 * 10 * 2 * 64);
        CU_ASSERT_EQUAL(c.gathers, 1 + 2 * 4 + 1);
        /* attention, hidden twice: 32 numbers from the other; width: 48; the embedding's row half of the times; one
         * candidate */
        CU_ASSERT_EQUAL(c.gather_bytes, 128 + 2 * (3 * 128 + 192) + (k ? 0u : 8u));
    }
    cl_placement_free(&p);
    chips[0] = 1;
    p = place(&m, &o);
    cl_chip_cost c = cost_of(&m, &o, &p, 0);
    CU_ASSERT_TRUE(c.gathers == 0 && c.gather_bytes == 0);
    cl_placement_free(&p);
    cl_model_free(&m);
}

/* Bytes of a gather of n numbers that are cut by `end`: the number made by members 0 .. k. */
typedef int64_t (*ends_fn)(const cl_attention *a, int64_t n, int members, int k);

static int64_t row_ends(const cl_attention *a, int64_t n, int members, int k)
{
    cl_range s = cl_split_rows(n, members, k);
    return s.first + s.n;
}

static int64_t query_ends(const cl_attention *a, int64_t n, int members, int k)
{
    int end = 0;
    for (int i = 0; i <= k; i++) end += cl_split_heads(a, members, i).q;
    return end * (n / a->heads);
}

static int64_t key_ends(const cl_attention *a, int64_t n, int members, int k)
{
    int end = 0;
    for (int i = 0; i <= k; i++) {
        cl_heads h = cl_split_heads(a, members, i);
        end = h.kv && h.kv0 + h.kv > end ? h.kv0 + h.kv : end;
    }
    return end * (n / a->kv_heads);
}

static uint64_t region(const cl_attention *a, ends_fn ends, int64_t n, int rows, int members, int k)
{
    int32_t cut[16] = {0};
    for (int i = 0; i < members; i++) cut[i + 1] = (int32_t)ends(a, n, members, i);
    CU_ASSERT_EQUAL(cut[members], n);
    cl_region r = {.rows = rows, .cut = cut, .to = -1};
    return cl_region_bytes(&r, k, members);
}

/* Every exchange of every layer, as the header lists them. */
static void exchanges(const cl_spec *s, int members, int k, int *count, uint64_t *bytes)
{
    for (int i = 0; i < s->n_layers; i++) {
        const cl_attention *a = &s->layers[i].attn;
        const cl_ffn *f = &s->layers[i].ffn;
        int top = f->experts ? f->top_k : 1;
        *bytes += region(a, query_ends, (int64_t)a->heads * cl_attention_v_dim(a), 1, members, k);
        *bytes += 2 * region(a, row_ends, s->hidden, 1, members, k);
        *bytes += region(a, row_ends, f->width, top, members, k) + region(a, row_ends, f->shared_width, 1, members, k);
        *count += 4;
        if (a->qk_norm == CL_QK_NORM_FULL) {
            *bytes += region(a, query_ends, (int64_t)a->heads * a->head_dim, 1, members, k);
            *bytes += region(a, key_ends, (int64_t)a->kv_heads * a->head_dim, 1, members, k);
            ++*count;
        }
        if (a->kind == CL_ATTN_LATENT) {
            *bytes += region(a, row_ends, a->q_rank, 1, members, k) +
                      region(a, row_ends, a->kv_rank + a->rope_dim, 1, members, k);
            ++*count;
        }
    }
}

static void check_gathers(cl_spec spec)
{
    cl_model m = model_of(spec, CL_Q8_0);
    const cl_spec *s = &m.spec;
    for (int g = 2; g <= 12; g++) {
        cl_layout l = {1, &g, NULL};
        cl_place_options o = {.layout = &l, .slots = 1, .context = 64, .chunk = 8};
        cl_placement p = place(&m, &o);
        for (int k = 0; k < g; k++) {
            cl_chip_cost c = cost_of(&m, &o, &p, k);
            int count = 2;
            cl_range rows = cl_split_rows(s->vocab, g, k);
            uint64_t bytes = (uint64_t)llround(4.0 * s->hidden * (1 - (double)rows.n / s->vocab)) +
                             (k ? 0u : 8u * (unsigned)(g - 1));
            exchanges(s, g, k, &count, &bytes);
            CU_ASSERT_EQUAL(c.gathers, count);
            CU_ASSERT_EQUAL(c.gather_bytes, bytes);
        }
        cl_placement_free(&p);
    }
    cl_model_free(&m);
}

static void test_gathers(void)
{
    check_gathers(test_spec_sinks());
    check_gathers(test_spec_latent());
    check_gathers(test_spec_chunked());
    /* kv heads held twice */
    check_gathers(test_spec((test_geometry){75, 100, 4, 8, 2, 16, 150, 11, 3, true, CL_QK_NORM_FULL}));
    check_gathers(test_spec((test_geometry){300, 130, 3, 9, 3, 16, 50, 0, 0, true, CL_QK_NORM_NONE}));
}

/* Whole experts: what a chip reads and gets is expected over the choices. */
static void test_whole(void)
{
    cl_model m = model_of(test_spec((test_geometry){64, 64, 1, 4, 2, 16, 48, 6, 2, false, CL_QK_NORM_NONE}), CL_BF16);
    int chips[] = {2};
    cl_layout l = {1, chips, NULL};
    cl_place_options o = {.layout = &l, .slots = 1, .context = 16, .chunk = 8, .experts = CL_EXPERTS_WHOLE}, sliced = o;
    sliced.experts = CL_EXPERTS_SLICED;
    cl_placement p = place(&m, &o), q = place(&m, &sliced);
    cl_chip_cost c = cost_of(&m, &o, &p, 1), d = cost_of(&m, &sliced, &q, 1);
    /* three each; sliced: the middle run of 16 rows of gate and up is the first chip's */
    const uint64_t expert = 3 * 48 * 128;
    CU_ASSERT_EQUAL(c.weight_bytes - 3 * expert, d.weight_bytes - 6 * (2 * 16 * 128 + 32 * 96));
    CU_ASSERT_EQUAL(c.token_bytes - expert, d.token_bytes - 2 * (2 * 16 * 128 + 32 * 96)); /* one of two expected */
    CU_ASSERT_EQUAL(c.gathers, d.gathers);
    /* top 2: the others' width, or one result in our columns */
    CU_ASSERT_EQUAL(d.gather_bytes - c.gather_bytes, 2 * 32 * 4 - 32 * 4);
    cl_placement_free(&p);
    cl_placement_free(&q);
    uint64_t chosen[] = {90, 10, 0, 0, 0, 0};
    cl_routing r = {1, 6, chosen};
    o.routing = &r;
    p = place(&m, &o);
    uint64_t both = cost_of(&m, &o, &p, 0).token_bytes + cost_of(&m, &o, &p, 1).token_bytes,
             rest = c.token_bytes - expert;
    CU_ASSERT_EQUAL(both, 2 * rest + 2 * expert); /* all that is chosen is somewhere */
    CU_ASSERT_EQUAL(cost_of(&m, &o, &p, 0).token_bytes - rest, expert * 2 * 9 / 10);
    cl_placement_free(&p);
    cl_model_free(&m);
    m = model_of(test_spec_latent(), CL_BF16); /* three layers with a shared expert: a gather of its own in each */
    sliced.routing = o.routing = NULL;
    p = place(&m, &o);
    q = place(&m, &sliced);
    CU_ASSERT_EQUAL(cost_of(&m, &sliced, &q, 0).gathers, 2 + 4 * 5);
    CU_ASSERT_EQUAL(cost_of(&m, &o, &p, 0).gathers, 2 + 4 * 5 + 3);
    cl_placement_free(&p);
    cl_placement_free(&q);
    cl_model_free(&m);
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-12 * fabs(b); }

static void test_predicted(void)
{
    cl_err err = {0};
    cl_model m = model_of(test_spec((test_geometry){64, 64, 2, 4, 2, 16, 96, 0, 0, false, CL_QK_NORM_NONE}), CL_BF16);
    int chips[] = {2, 1};
    cl_layout l = {1, chips, NULL};
    cl_place_options o = {.layout = &l, .kv = CL_KV_F32, .slots = 3, .context = 64, .chunk = 8, .read_context = 10};
    cl_rates r = {.read_bytes_per_s = 1e6,
                  .gather_s = 0.1,
                  .gather_bytes_per_s = 1e4,
                  .hop_s = 0.5,
                  .hop_bytes_per_s = 1e3};
    cl_prediction x;
    cl_placement p = place(&m, &o);
    CU_ASSERT_EQUAL_FATAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_OK);
    cl_chip_cost c = cost_of(&m, &o, &p, 0); /* one stage: no hops */
    double gathers = c.gathers * 0.1;
    CU_ASSERT_TRUE(
        near(x.token_s, (double)(c.token_bytes + c.token_kv_bytes) / 1e6 + gathers + (double)c.gather_bytes / 1e4));
    double step = (double)(c.token_bytes + 2 * 64 + 3 * c.token_kv_bytes) / 1e6 + gathers +
                  3 * (double)c.gather_bytes / 1e4;
    CU_ASSERT_TRUE(near(x.step_s, step));
    CU_ASSERT_TRUE(near(x.tokens_per_s, 3 / step));
    cl_placement_free(&p);

    l.n_stages = 2; /* two chips, then one */
    o.slots = 1;
    p = place(&m, &o);
    CU_ASSERT_EQUAL_FATAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_OK);
    c = cost_of(&m, &o, &p, 0);
    cl_chip_cost d = cost_of(&m, &o, &p, 2);
    double first = (double)(c.token_bytes + c.token_kv_bytes) / 1e6 + c.gathers * 0.1 + (double)c.gather_bytes / 1e4 +
                   0.5 + 4 * 64 / 1e3;
    double second = (double)(d.token_bytes + d.token_kv_bytes) / 1e6 + 0.5;
    CU_ASSERT_TRUE(near(x.token_s, first + second));
    CU_ASSERT_TRUE(near(x.step_s, first > second ? first : second));
    CU_ASSERT_TRUE(near(x.tokens_per_s, 1 / x.token_s)); /* one sequence: its next token waits for this one */
    o.slots = 2;
    CU_ASSERT_EQUAL_FATAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_OK);
    CU_ASSERT_TRUE(near(x.tokens_per_s, 2 / fmax(2 * x.step_s, x.token_s)));
    cl_placement_free(&p);
    chips[0] = 3;
    l.n_stages = 1;
    p = place(&m, &o);
    r.gather_s = 1e6;
    CU_ASSERT_EQUAL_FATAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_OK);
    CU_ASSERT_TRUE(fabs(x.token_s - 10 * 2 * 1e6) < 10);
    r.read_bytes_per_s = 0;
    CU_ASSERT_EQUAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_E_INPUT);
    r = (cl_rates){.read_bytes_per_s = 1e6, .gather_s = -1};
    CU_ASSERT_EQUAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_E_INPUT);
    cl_placement_free(&p);
    cl_model_free(&m);
}

/* Gathers and hops at the pace of the farthest links between the ranks that take part: within a node, between nodes of
 * `node` chips, between racks of `rack`. */
static void check_far(int stages, const int *chips_of, int node, int rack, const int *gather_links,
                      const int *hop_links)
{
    cl_err err = {0};
    cl_model m = model_of(test_spec((test_geometry){64, 64, 3, 4, 2, 16, 96, 0, 0, false, CL_QK_NORM_NONE}), CL_BF16);
    int chips[3];
    cl_layout l = {stages, chips, NULL};
    cl_place_options o = {.layout = &l, .kv = CL_KV_F32, .slots = 1, .context = 64, .chunk = 8};
    const cl_rates r = {.read_bytes_per_s = 1e300,
                        .gather_s = 1,
                        .gather_bytes_per_s = 1e3,
                        .hop_s = 7,
                        .hop_bytes_per_s = 1e4,
                        .far = {{node, 10, 2e3}, {rack, 100, 3e3}}};
    const double gather_s[] = {1, 10, 100}, hop_s[] = {7, 10, 100}, gather_rate[] = {1e3, 2e3, 3e3},
                 hop_rate[] = {1e4, 2e3, 3e3};
    double want = 0;
    cl_prediction x;
    for (int i = 0; i < stages; i++) chips[i] = chips_of[i];
    cl_placement p = place(&m, &o);
    CU_ASSERT_EQUAL_FATAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_OK);
    for (int i = 0; i < stages; i++) {
        const int rounds = chips[i] > 2 ? 2 : chips[i] > 1;
        double most = 0;
        for (int k = 0; k < chips[i]; k++) {
            const cl_chip_cost c = cost_of(&m, &o, &p, p.stages[i].first_rank + k);
            most = fmax(most, c.gathers * rounds * gather_s[gather_links[i]] +
                                  (double)c.gather_bytes / gather_rate[gather_links[i]]);
        }
        want += most;
        if (stages > 1) want += hop_s[hop_links[i]] + (i + 1 < stages ? 4 * 64 / hop_rate[hop_links[i]] : 0);
    }
    CU_ASSERT_TRUE(near(x.token_s, want));
    cl_placement_free(&p);
    cl_model_free(&m);
}

static void test_far_links(void)
{
    check_far(1, (int[]){4}, 0, 0, (int[]){0}, NULL);
    check_far(1, (int[]){4}, 4, 0, (int[]){0}, NULL);
    check_far(1, (int[]){4}, 3, 0, (int[]){1}, NULL);
    check_far(1, (int[]){4}, 3, 4, (int[]){1}, NULL);
    check_far(1, (int[]){4}, 1, 2, (int[]){2}, NULL);
    check_far(3, (int[]){2, 2, 2}, 4, 8, (int[]){0, 0, 0}, (int[]){0, 1, 1});
    check_far(3, (int[]){2, 2, 2}, 2, 4, (int[]){0, 0, 0}, (int[]){1, 2, 2});
    check_far(3, (int[]){1, 2, 3}, 2, 0, (int[]){0, 1, 1}, (int[]){1, 1, 1});
    check_far(3, (int[]){1, 1, 1}, 0, 2, (int[]){0, 0, 0}, (int[]){0, 2, 2});
    cl_err err = {0};
    cl_model m = model_of(test_spec((test_geometry){64, 64, 1, 4, 2, 16, 96, 0, 0, false, CL_QK_NORM_NONE}), CL_BF16);
    int chips[] = {2};
    cl_layout l = {1, chips, NULL};
    cl_place_options o = {.layout = &l, .slots = 1, .context = 64, .chunk = 8};
    cl_prediction x;
    cl_placement p = place(&m, &o);
    for (int i = 0; i < CL_FAR_LINKS; i++) {
        cl_rates r = {.read_bytes_per_s = 1};
        r.far[i] = (cl_far_link){1, -1, 1};
        CU_ASSERT_EQUAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_E_INPUT);
        r.far[i] = (cl_far_link){1, 1, NAN};
        CU_ASSERT_EQUAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_E_INPUT);
    }
    cl_placement_free(&p);
    cl_model_free(&m);
}

/* Of E experts n tokens read E (1 - (1 - k/E)^n), not n k. */
static void test_experts_in_a_step(void)
{
    cl_err err = {0};
    cl_model m = model_of(test_spec((test_geometry){64, 64, 1, 4, 2, 16, 48, 8, 2, false, CL_QK_NORM_NONE}), CL_BF16);
    int chips[] = {1};
    cl_layout l = {1, chips, NULL};
    cl_rates r = {.read_bytes_per_s = 1};
    const double expert = 3 * 48 * 128;
    for (int turn = 0; turn < 4; turn++) {
        const bool whole = turn % 2;
        const int tokens = turn < 2 ? 4 : 2;
        cl_place_options o = {.layout = &l,
                              .slots = tokens,
                              .context = 16,
                              .chunk = 8,
                              .experts = whole ? CL_EXPERTS_WHOLE : CL_EXPERTS_SLICED};
        cl_placement p = place(&m, &o);
        cl_prediction x;
        cl_chip_cost c = cost_of(&m, &o, &p, 0);
        CU_ASSERT_EQUAL_FATAL(cl_predict(&m, &o, &p, &r, &x, &err), CL_OK);
        double rest = (double)c.token_bytes - 2 * expert + (tokens - 1) * 128 + tokens * (double)c.token_kv_bytes;
        CU_ASSERT_TRUE(fabs(x.step_s - (rest + 8 * (1 - pow(0.75, tokens)) * expert)) < 2); /* bytes are whole */
        cl_placement_free(&p);
    }
    cl_model_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"by hand", test_by_hand},
                           {"gathers", test_gathers},
                           {"whole experts", test_whole},
                           {"predictions", test_predicted},
                           {"links between nodes and racks", test_far_links},
                           {"experts in a step", test_experts_in_a_step},
                           CU_TEST_INFO_NULL};
    return run_suite("cost", tests);
}
