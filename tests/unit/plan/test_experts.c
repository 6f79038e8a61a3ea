/* Whole experts given out by turns and by how often they were chosen, and copies of the hottest. */
#include <math.h>
#include <string.h>

#include "chipline/plan.h"
#include "plan/slices.h"
#include "specs.h"
#include "suite.h"

enum { LAYERS = 3, EXPERTS = 13, CHIPS = 4, TOP = 2 };

static cl_model make_model(void)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){64, 64, LAYERS, 4, 4, 16, 48, EXPERTS, TOP, false, CL_QK_NORM_NONE});
    s.layers[1].ffn = (cl_ffn){.kind = CL_FFN_DENSE, .width = 64};
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_Q8_0, &m, &err), CL_OK);
    cl_spec_free(&s);
    return m;
}

/* Skewed, the hot ones where turns put them on one chip; the last layer was never run. */
static void skewed(uint64_t *chosen)
{
    memset(chosen, 0, LAYERS * EXPERTS * sizeof *chosen);
    for (int e = 0; e < EXPERTS; e++) chosen[e] = e % CHIPS == 1 ? 1000 - 50 * (uint64_t)e : 10 + (uint64_t)e;
}

static double expected_loads(const cl_expert_map *map, const uint64_t *chosen, double *load)
{
    double most = 0;
    memset(load, 0, CHIPS * sizeof *load);
    for (int e = 0; e < map->experts; e++)
        for (int i = map->first[e]; i < map->first[e + 1]; i++)
            load[map->member[i]] += (double)chosen[e] / (map->first[e + 1] - map->first[e]);
    for (int k = 0; k < CHIPS; k++) most = load[k] > most ? load[k] : most;
    return most;
}

static void check_map(const cl_expert_map *map, int experts, int *held)
{
    memset(held, 0, CHIPS * sizeof *held);
    CU_ASSERT_EQUAL_FATAL(map->experts, experts);
    for (int e = 0; e < experts; e++) {
        CU_ASSERT_TRUE_FATAL(map->first[e + 1] > map->first[e]);
        for (int i = map->first[e]; i < map->first[e + 1]; i++) {
            CU_ASSERT_TRUE_FATAL(map->member[i] >= 0 && map->member[i] < CHIPS);
            CU_ASSERT_TRUE(i == map->first[e] || map->member[i] > map->member[i - 1]);
            held[map->member[i]]++;
        }
    }
}

static void test_maps(void)
{
    cl_err err = {0};
    cl_model m = make_model();
    uint64_t chosen[LAYERS * EXPERTS];
    int chips[] = {CHIPS}, held[CHIPS];
    double load[CHIPS];
    cl_layout l = {1, chips, NULL};
    cl_place_options o = {.layout = &l, .experts = CL_EXPERTS_WHOLE, .slots = 1, .context = 32, .chunk = 8};
    cl_placement turns, routed, again;
    skewed(chosen);
    cl_routing r = {LAYERS, EXPERTS, chosen};
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &turns, &err), CL_OK);
    o.routing = &r;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &routed, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &again, &err), CL_OK);
    check_map(&turns.experts[0], EXPERTS, held);
    for (int e = 0; e < EXPERTS; e++) CU_ASSERT_EQUAL(turns.experts[0].member[e], e % CHIPS);
    CU_ASSERT_EQUAL(turns.experts[1].experts, 0);
    check_map(&routed.experts[0], EXPERTS, held);
    for (int k = 0; k < CHIPS; k++) CU_ASSERT_TRUE(held[k] <= (EXPERTS + CHIPS - 1) / CHIPS);
    double by_turns = expected_loads(&turns.experts[0], chosen, load),
           by_routing = expected_loads(&routed.experts[0], chosen, load);
    CU_ASSERT_TRUE(by_routing < 0.5 * by_turns);
    check_map(&routed.experts[2], EXPERTS, held);
    /* nobody counted */
    CU_ASSERT_EQUAL(memcmp(routed.experts[2].member, turns.experts[2].member, EXPERTS * sizeof(int32_t)), 0);
    for (int i = 0; i < LAYERS; i += 2)
        CU_ASSERT_EQUAL(memcmp(routed.experts[i].member, again.experts[i].member, EXPERTS * sizeof(int32_t)), 0);
    o.routing = NULL;
    test_slices(&m, &o, &turns);
    o.routing = &r;
    test_slices(&m, &o, &routed);
    cl_placement_free(&turns);
    cl_placement_free(&routed);
    cl_placement_free(&again);
    cl_model_free(&m);
}

static int copies_in(const cl_placement *p) { return p->experts[0].first[EXPERTS] - EXPERTS; }

/* With chip_bytes grown step by step: no copies without room, then more and more, the budget kept, the busiest chip
 * less busy. */
static void test_copies(void)
{
    cl_err err = {0};
    cl_model m = make_model();
    uint64_t chosen[LAYERS * EXPERTS], largest = 0, before = 0, one = 0;
    int chips[] = {CHIPS}, held[CHIPS], last = -1, most = 0;
    double load[CHIPS], first_load = 0;
    cl_layout l = {1, chips, NULL};
    cl_place_options o =
        {.layout = &l, .experts = CL_EXPERTS_WHOLE, .copies = true, .slots = 1, .context = 32, .chunk = 8};
    cl_placement p;
    skewed(chosen);
    cl_routing r = {LAYERS, EXPERTS, chosen};
    o.routing = &r;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK); /* no limit said: no room that could be known */
    CU_ASSERT_EQUAL(copies_in(&p), 0);
    for (int i = 0; i < m.n_tensors; i++)
        if (m.tensors[i].layer == 0 && cl_role_is_expert(m.tensors[i].role))
            one += cl_tensor_bytes(&m.tensors[i]) / EXPERTS;
    for (int k = 0; k < CHIPS; k++) {
        cl_chip_cost c;
        CU_ASSERT_EQUAL_FATAL(cl_placement_cost(&m, &o, &p, k, &c, &err), CL_OK);
        largest = c.weight_bytes + c.kv_bytes > largest ? c.weight_bytes + c.kv_bytes : largest;
        before += c.token_bytes;
    }
    cl_placement_free(&p);
    for (uint64_t room = 0; room < 8; room++) {
        o.chip_bytes = largest + room * one;
        CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
        check_map(&p.experts[0], EXPERTS, held);
        CU_ASSERT_EQUAL(p.experts[2].first[EXPERTS], EXPERTS); /* nobody knows what is hot there */
        double busiest = expected_loads(&p.experts[0], chosen, load);
        uint64_t bytes = 0, token = 0;
        for (int k = 0; k < CHIPS; k++) {
            cl_chip_cost c;
            CU_ASSERT_EQUAL_FATAL(cl_placement_cost(&m, &o, &p, k, &c, &err), CL_OK);
            CU_ASSERT_TRUE(c.weight_bytes + c.kv_bytes <= o.chip_bytes);
            bytes += c.weight_bytes;
            token += c.token_bytes;
        }
        CU_ASSERT_EQUAL(bytes, p.stages[0].weight_bytes);
        /* somebody else reads it, nobody more of it; bytes are whole */
        CU_ASSERT_TRUE(token + 8 >= before && token <= before + 8);
        CU_ASSERT_TRUE(copies_in(&p) >= last && copies_in(&p) <= (int)((room + 2) * CHIPS));
        last = copies_in(&p);
        most = last > most ? last : most;
        if (!room) first_load = busiest;
        if (room == 7) CU_ASSERT_TRUE(busiest < first_load);
        if (last) CU_ASSERT_TRUE(p.experts[0].first[2] - p.experts[0].first[1] > 1); /* expert 1 is the hottest */
        cl_placement_free(&p);
    }
    CU_ASSERT_TRUE(most > 2);
    o.copies = false; /* room, but nobody asked */
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    CU_ASSERT_EQUAL(copies_in(&p), 0);
    cl_placement_free(&p);
    cl_model_free(&m);
}

static uint64_t large_buffers(void *ctx, const cl_stage *stage, const cl_expert_map *experts) { return 123456; }

/* Copies leave room for buffers: with these, as with a chip so much smaller. */
static void test_copies_and_buffers(void)
{
    cl_err err = {0};
    cl_model m = make_model();
    uint64_t chosen[LAYERS * EXPERTS];
    int chips[] = {CHIPS}, copied = 0;
    cl_layout l = {1, chips, NULL};
    cl_routing r = {LAYERS, EXPERTS, chosen};
    skewed(chosen);
    for (uint64_t bytes = 60000; bytes < 200000; bytes += 5000) {
        cl_place_options o = {.layout = &l,
                              .experts = CL_EXPERTS_WHOLE,
                              .copies = true,
                              .routing = &r,
                              .slots = 1,
                              .context = 32,
                              .chunk = 8,
                              .chip_bytes = bytes},
                         with = o;
        with.chip_bytes += 123456;
        with.buffers = large_buffers;
        cl_placement p = {0}, q = {0};
        cl_code c = cl_place(&m, &o, &p, &err), d = cl_place(&m, &with, &q, &err);
        CU_ASSERT_EQUAL(c, d);
        if (c == CL_OK && d == CL_OK) {
            CU_ASSERT_EQUAL(copies_in(&p), copies_in(&q));
            copied += copies_in(&p) > 0 && copies_in(&p) < EXPERTS;
        }
        cl_placement_free(&p);
        cl_placement_free(&q);
    }
    CU_ASSERT(copied > 3);
    cl_model_free(&m);
}

/* Slices with copies: every chip has what the map says, in runs. */
static void test_slices_with_copies(void)
{
    cl_err err = {0};
    cl_model m = make_model();
    uint64_t chosen[LAYERS * EXPERTS];
    int chips[] = {CHIPS};
    cl_layout l = {1, chips, NULL};
    cl_routing r = {LAYERS, EXPERTS, chosen};
    cl_place_options o = {.layout = &l,
                          .experts = CL_EXPERTS_WHOLE,
                          .copies = true,
                          .routing = &r,
                          .slots = 1,
                          .context = 32,
                          .chunk = 8,
                          .chip_bytes = 10000000};
    cl_placement p;
    skewed(chosen);
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    for (int k = 0; k < CHIPS; k++) {
        cl_extent *parts;
        int n;
        bool has[EXPERTS] = {false};
        CU_ASSERT_EQUAL_FATAL(cl_placement_slice(&m, &p, k, &parts, &n, &err), CL_OK);
        for (int i = 0; i < n; i++) {
            const cl_tensor *t = &m.tensors[parts[i].tensor];
            if (t->layer != 0 || t->role != CL_T_EXPERT_UP) continue;
            CU_ASSERT_TRUE(parts[i].row0 == 0 && parts[i].rows == t->rows);
            for (int64_t e = parts[i].expert0; e < parts[i].expert0 + parts[i].experts; e++) has[e] = true;
        }
        for (int e = 0; e < EXPERTS; e++) {
            bool mapped = false;
            for (int i = p.experts[0].first[e]; i < p.experts[0].first[e + 1]; i++)
                mapped = mapped || p.experts[0].member[i] == k;
            CU_ASSERT_EQUAL(has[e], mapped);
        }
        free(parts);
    }
    cl_placement_free(&p);
    cl_model_free(&m);
}

/* Experts that were never chosen go where there are fewest, whatever the others weigh. */
static void test_never_chosen(void)
{
    cl_err err = {0};
    cl_model m = make_model();
    cl_placement p;
    uint64_t chosen[LAYERS * EXPERTS] = {5, 5, 5, 5};
    const cl_routing r = {LAYERS, EXPERTS, chosen};
    int chips[] = {CHIPS}, held[CHIPS];
    cl_layout l = {1, chips, NULL};
    cl_place_options o =
        {.layout = &l, .slots = 1, .context = 16, .chunk = 8, .experts = CL_EXPERTS_WHOLE, .routing = &r};
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    check_map(&p.experts[0], EXPERTS, held);
    for (int k = 0; k < CHIPS; k++) CU_ASSERT_TRUE(held[k] == 3 || held[k] == 4);
    cl_placement_free(&p);
    cl_model_free(&m);
}

/* Of experts that are as hot those of earlier layers are copied first, while there is memory. */
static void test_earlier_layers_first(void)
{
    cl_err err = {0};
    cl_model m = make_model();
    cl_placement p;
    uint64_t chosen[LAYERS * EXPERTS], most = 0;
    int chips[] = {CHIPS}, more = 0;
    for (int i = 0; i < LAYERS * EXPERTS; i++) chosen[i] = i % EXPERTS ? 10 : 1000;
    const cl_routing r = {LAYERS, EXPERTS, chosen};
    cl_layout l = {1, chips, NULL};
    cl_place_options o =
        {.layout = &l, .slots = 1, .context = 16, .chunk = 8, .experts = CL_EXPERTS_WHOLE, .routing = &r};
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    for (int k = 0; k < CHIPS; k++) {
        cl_chip_cost c;
        CU_ASSERT_EQUAL_FATAL(cl_placement_cost(&m, &o, &p, k, &c, &err), CL_OK);
        most = c.weight_bytes + c.kv_bytes > most ? c.weight_bytes + c.kv_bytes : most;
    }
    cl_placement_free(&p);
    o.copies = true;
    for (int i = 0; i < 24; i++) {
        o.chip_bytes = most + (uint64_t)i * 2448; /* a quarter of an expert */
        CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
        int holders[] = {p.experts[0].first[EXPERTS], p.experts[2].first[EXPERTS]};
        CU_ASSERT_TRUE(holders[0] >= holders[1]);
        more += holders[0] > holders[1];
        cl_placement_free(&p);
    }
    CU_ASSERT_TRUE(more > 0);
    cl_model_free(&m);
}

static uint64_t hash_of(const cl_model *m, const cl_place_options *o)
{
    cl_err err = {0};
    cl_placement p;
    CU_ASSERT_EQUAL_FATAL(cl_place(m, o, &p, &err), CL_OK);
    uint64_t h = cl_placement_hash(&p);
    CU_ASSERT_EQUAL(h, cl_placement_hash(&p));
    cl_placement_free(&p);
    return h;
}

/* What all ranks must agree on changes the number, what is only held or counted there does not. */
static void test_hash(void)
{
    cl_model m = make_model();
    uint64_t chosen[LAYERS * EXPERTS], h[8];
    skewed(chosen);
    const cl_routing r = {LAYERS, EXPERTS, chosen};
    int two[] = {2, 2}, uneven[] = {1, 3}, layers[] = {2, 1}, one[] = {4};
    cl_layout l = {2, two, NULL};
    cl_place_options o = {.layout = &l, .slots = 1, .context = 16, .chunk = 8};
    layers[0] = 1, layers[1] = 2, l.layers = layers;
    h[0] = hash_of(&m, &o);
    o.slots = 7, o.context = 64, o.kv = CL_KV_Q8;
    CU_ASSERT_EQUAL(hash_of(&m, &o), h[0]);
    layers[0] = 2, layers[1] = 1;
    h[1] = hash_of(&m, &o);
    l.chips = uneven;
    h[2] = hash_of(&m, &o);
    l = (cl_layout){1, one, NULL};
    h[3] = hash_of(&m, &o);
    o.experts = CL_EXPERTS_WHOLE;
    h[4] = hash_of(&m, &o);
    o.routing = &r;
    h[5] = hash_of(&m, &o);
    o.copies = true, o.chip_bytes = 1 << 20;
    h[6] = hash_of(&m, &o);
    chosen[0] = 5000;
    h[7] = hash_of(&m, &o);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < i; k++) CU_ASSERT_NOT_EQUAL(h[i], h[k]);
    /* three holders of two experts: two and one, or one and two */
    int32_t first[] = {0, 2, 3}, other[] = {0, 1, 3}, member[] = {0, 1, 2};
    cl_expert_map map = {2, first, member}, bounds = {2, other, member};
    cl_stage stage = {.n_layers = 1, .n_ranks = 3};
    cl_placement p = {3, 1, &stage, &map};
    h[0] = cl_placement_hash(&p);
    p.experts = &bounds;
    CU_ASSERT_NOT_EQUAL(cl_placement_hash(&p), h[0]);
    h[1] = cl_placement_hash(&p);
    stage.split_routers = true;
    CU_ASSERT_NOT_EQUAL(cl_placement_hash(&p), h[1]);
    CU_ASSERT_EQUAL(h[3], UINT64_C(0xc7127f22143fd547)); /* the same on every machine */
    cl_model_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"maps", test_maps},
                           {"copies and buffers", test_copies_and_buffers},
                           {"copies", test_copies},
                           {"slices with copies", test_slices_with_copies},
                           {"never chosen", test_never_chosen},
                           {"earlier layers first", test_earlier_layers_first},
                           {"hash", test_hash},
                           CU_TEST_INFO_NULL};
    return run_suite("experts", tests);
}
