/* Stages of several chips, of different sizes, against brute force over all cuts; the order of stages; what is
 * refused. */
#include <stdint.h>
#include <string.h>

#include "chipline/plan.h"
#include "plan/models.h"
#include "plan/slices.h"
#include "suite.h"

/* Bytes that one chip of several holds and touches in a stage of layers [first, end); whole experts are dealt out in
 * turns. */
static void member_bytes(const cl_model *m, const cl_place_options *o, int first, int end, int chips, int k,
                         uint64_t *held, uint64_t *touched)
{
    bool start = first == 0, last = end == m->spec.n_layers, whole = o->experts == CL_EXPERTS_WHOLE;
    *held = *touched = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        cl_range rows = cl_tensor_rows_of(&m->spec, t, &(cl_stage){.n_ranks = chips}, whole, k);
        uint64_t all = test_rows_bytes(t, rows.first, rows.n);
        if (t->layer >= first && t->layer < end && cl_role_is_expert(t->role)) {
            int64_t mine = 0;
            for (int64_t e = 0; e < t->experts; e++) mine += !whole || e % chips == k;
            *held += all * (uint64_t)mine;
            *touched +=
                (uint64_t)llround((double)all * m->spec.layers[t->layer].ffn.top_k * (double)mine / (double)t->experts);
        } else if (t->layer >= first && t->layer < end) *held += all, *touched += all;
        if (t->role == CL_T_EMBED && (start || (last && m->spec.tied))) *held += all;
        if (t->role == CL_T_EMBED && start)
            *touched += (uint64_t)llround((double)cl_row_bytes(t->format, t->cols) * (double)rows.n / (double)t->rows);
        if (t->role == CL_T_EMBED && last && m->spec.tied) *touched += all;
        if ((t->role == CL_T_HEAD || t->role == CL_T_FINAL_NORM) && last) *held += all, *touched += all;
    }
    for (int i = first; i < end; i++) {
        cl_attention a = m->spec.layers[i].attn;
        a.kv_heads = cl_split_heads(&a, chips, k).kv;
        *held += (uint64_t)o->slots * cl_kv_layer_bytes(&a, o->kv, o->context, o->chunk);
        *touched += cl_kv_read_bytes(&a, o->kv, o->context / 4);
    }
}

static void busiest_bytes(const cl_model *m, const cl_place_options *o, int first, int end, int chips, uint64_t *held,
                          uint64_t *touched)
{
    *held = *touched = 0;
    for (int k = 0; k < chips; k++) {
        uint64_t h, t;
        member_bytes(m, o, first, end, chips, k, &h, &t);
        *held = h > *held ? h : *held;
        *touched = t > *touched ? t : *touched;
    }
}

typedef struct brute {
    uint64_t best;
    double squares;
} brute;

static void try_groups(const cl_model *m, const cl_place_options *o, int stage, int first, uint64_t largest,
                       double squares, brute *b)
{
    int rest = o->layout->n_stages - stage - 1, n = m->spec.n_layers;
    for (int end = rest ? first + 1 : n; end <= n - rest; end++) {
        uint64_t held, touched;
        busiest_bytes(m, o, first, end, o->layout->chips[stage], &held, &touched);
        if (o->chip_bytes && held > o->chip_bytes) continue;
        uint64_t max = touched > largest ? touched : largest;
        double sum = squares + (double)touched * (double)touched;
        if (rest) try_groups(m, o, stage + 1, end, max, sum, b);
        else if (max < b->best || (max == b->best && sum < b->squares)) *b = (brute){max, sum};
    }
}

/* Chips that every layer has work for. */
static int most_chips(const cl_model *m, bool whole)
{
    int least = 1 << 20;
    for (int i = 0; i < m->spec.n_layers; i++) {
        const cl_layer *l = &m->spec.layers[i];
        int a = (m->spec.hidden + 15) / 16, b = whole && l->ffn.experts ? l->ffn.experts : (l->ffn.width + 15) / 16,
            c = l->attn.heads;
        int most = a > b ? a : b;
        most = c > most ? c : most;
        least = most < least ? most : least;
    }
    return least;
}

static void check_groups(const cl_model *m, const cl_place_options *o, const cl_placement *p, const brute *b)
{
    uint64_t largest = 0;
    double squares = 0;
    int first = 0, rank = 0;
    CU_ASSERT_EQUAL_FATAL(p->n_stages, o->layout->n_stages);
    CU_ASSERT_EQUAL(p->n_ranks, cl_layout_chips(o->layout));
    for (int i = 0; i < p->n_stages; i++) {
        const cl_stage *s = &p->stages[i];
        uint64_t held, touched;
        CU_ASSERT_TRUE_FATAL(s->first_layer == first && s->n_layers >= 1);
        CU_ASSERT_TRUE_FATAL(s->first_rank == rank && s->n_ranks == o->layout->chips[i]);
        CU_ASSERT_TRUE(s->embed == (i == 0) && s->head == (i == p->n_stages - 1));
        first += s->n_layers;
        rank += s->n_ranks;
        busiest_bytes(m, o, s->first_layer, first, s->n_ranks, &held, &touched);
        CU_ASSERT_TRUE(!o->chip_bytes || held <= o->chip_bytes);
        largest = touched > largest ? touched : largest;
        squares += (double)touched * (double)touched;
        for (int k = 0; k < s->n_ranks; k++) {
            cl_chip_cost c;
            cl_err err = {0};
            member_bytes(m, o, s->first_layer, first, s->n_ranks, k, &held, &touched);
            CU_ASSERT_EQUAL(cl_placement_cost(m, o, p, s->first_rank + k, &c, &err), CL_OK);
            CU_ASSERT_EQUAL(c.weight_bytes + c.kv_bytes, held);
            CU_ASSERT_EQUAL(c.token_bytes + c.token_kv_bytes, touched);
        }
    }
    CU_ASSERT_EQUAL(first, m->spec.n_layers);
    CU_ASSERT_EQUAL(largest, b->best);
    CU_ASSERT_TRUE(squares <= b->squares * (1 + 1e-12));
    test_slices(m, o, p);
}

static void test_groups(void)
{
    int placed = 0, refused = 0, uneven = 0;
    for (int round = 0; round < 500; round++) {
        cl_model m = random_model(pick(1, 7));
        cl_err err = {0};
        cl_layout l;
        cl_place_options o = {.experts = pick(0, 1) ? CL_EXPERTS_WHOLE : CL_EXPERTS_SLICED,
                              .kv = (cl_kv_format)pick(0, 2),
                              .slots = pick(1, 5),
                              .context = pick(4, 300),
                              .chunk = pick(1, 40)};
        int most = most_chips(&m, o.experts == CL_EXPERTS_WHOLE);
        CU_ASSERT_EQUAL_FATAL(cl_layout_make(pick(1, m.spec.n_layers), 1, &l, &err), CL_OK);
        for (int s = 0; s < l.n_stages; s++) l.chips[s] = pick(1, most < 6 ? most : 6);
        for (int s = 1; s < l.n_stages; s++) uneven += l.chips[s] != l.chips[0];
        o.layout = &l;
        if (pick(0, 1)) { /* a budget near what a balanced share takes */
            uint64_t held, touched;
            busiest_bytes(&m, &o, 0, m.spec.n_layers, l.chips[0], &held, &touched);
            o.chip_bytes = held / (uint64_t)l.n_stages / 100 * (uint64_t)pick(90, 300) + 1;
        }
        brute b = {.best = UINT64_MAX};
        try_groups(&m, &o, 0, 0, 0, 0, &b);
        cl_placement p = {0}, again = {0};
        cl_code c = cl_place(&m, &o, &p, &err);
        if (b.best == UINT64_MAX) {
            CU_ASSERT_EQUAL(c, CL_E_FIT);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "bytes more than a chip's"));
            CU_ASSERT_EQUAL(cl_place(&m, &o, &p, NULL), CL_E_FIT);
            refused++;
        } else {
            CU_ASSERT_EQUAL_FATAL(c, CL_OK);
            check_groups(&m, &o, &p, &b);
            CU_ASSERT_EQUAL(cl_place(&m, &o, &again, &err), CL_OK);
            CU_ASSERT_EQUAL(memcmp(p.stages, again.stages, (size_t)p.n_stages * sizeof *p.stages), 0);
            placed++;
        }
        cl_placement_free(&p);
        cl_placement_free(&again);
        cl_layout_free(&l);
        cl_model_free(&m);
    }
    CU_ASSERT_TRUE(placed > 200);
    CU_ASSERT_TRUE(refused > 30);
    CU_ASSERT_TRUE(uneven > 200);
}

/* More chips have larger buffers. */
static uint64_t growing_buffers(void *ctx, const cl_stage *stage, const cl_expert_map *experts)
{
    return *(const uint64_t *)ctx * (uint64_t)stage->n_ranks;
}

/* Where every chip has room beside the largest buffers of its line, a place is found; and no chip is given more than
 * its own leave. */
static void test_groups_and_buffers(void)
{
    int placed = 0, uneven = 0;
    for (int round = 0; round < 1000; round++) {
        cl_model m = random_model(pick(2, 7));
        cl_err err = {0};
        cl_layout l;
        cl_place_options o = {.slots = 1, .context = pick(4, 300), .chunk = pick(1, 40)};
        int most = most_chips(&m, false), largest = 1;
        CU_ASSERT_EQUAL_FATAL(cl_layout_make(pick(2, m.spec.n_layers), 1, &l, &err), CL_OK);
        for (int s = 0; s < l.n_stages; s++) l.chips[s] = pick(1, most < 6 ? most : 6);
        for (int s = 0; s < l.n_stages; s++) largest = l.chips[s] > largest ? l.chips[s] : largest;
        o.layout = &l;
        uint64_t held, touched;
        busiest_bytes(&m, &o, 0, m.spec.n_layers, l.chips[0], &held, &touched);
        uint64_t each = held / (uint64_t)pick(1, 40) + 1;
        o.chip_bytes = held / (uint64_t)l.n_stages / 100 * (uint64_t)pick(80, 200) + 1;
        cl_placement p = {0}, q = {0};
        cl_code without = cl_place(&m, &o, &p, &err);
        o.chip_bytes += each * (uint64_t)largest;
        o.buffers = growing_buffers, o.buffers_ctx = &each;
        cl_code with = cl_place(&m, &o, &q, &err);
        CU_ASSERT(without != CL_OK || with == CL_OK);
        for (int i = 0; with == CL_OK && i < q.n_ranks; i++) {
            cl_chip_cost c;
            int s = 0;
            while (i >= q.stages[s].first_rank + q.stages[s].n_ranks) s++;
            CU_ASSERT_EQUAL(cl_placement_cost(&m, &o, &q, i, &c, &err), CL_OK);
            CU_ASSERT_EQUAL(q.stages[s].buffer_bytes, each * (uint64_t)q.stages[s].n_ranks);
            CU_ASSERT(c.weight_bytes + c.kv_bytes + q.stages[s].buffer_bytes <= o.chip_bytes);
        }
        placed += without == CL_OK;
        uneven += without == CL_OK && l.chips[l.n_stages - 1] < largest;
        cl_placement_free(&p);
        cl_placement_free(&q);
        cl_layout_free(&l);
        cl_model_free(&m);
    }
    CU_ASSERT(placed > 150 && uneven > 50);
}

/* A chip that can hold the small layers only stands where taking all that fits would leave it the large one, whose
 * experts make it the one with the fewest bytes to read. */
static void test_order(void)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){64, 64, 5, 4, 4, 16, 256, 0, 0, false, CL_QK_NORM_NONE});
    int chips[] = {4, 1, 4};
    cl_layout l = {3, chips, NULL};
    s.layers[3].ffn = (cl_ffn){.kind = CL_FFN_MOE, .width = 64, .experts = 16, .top_k = 1, .weight_scale = 1};
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_BF16, &m, &err), CL_OK);
    cl_place_options o = {.layout = &l, .slots = 1, .context = 16, .chunk = 4}, whole = o;
    cl_placement p;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    CU_ASSERT_TRUE(p.stages[1].first_layer == 3 && p.stages[1].n_layers == 1);
    cl_placement_free(&p);
    o.chip_bytes = 160000;
    uint64_t three, touched;
    busiest_bytes(&m, &o, 0, 3, 4, &three, &touched);
    CU_ASSERT_TRUE(three < o.chip_bytes); /* the first stage could have all three before it */
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    CU_ASSERT_TRUE(p.stages[1].first_layer + p.stages[1].n_layers <= 3);
    cl_placement_free(&p);
    int layers[] = {1, 3, 1};
    l.layers = layers;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT); /* as told: the large one is in the middle */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "chip 4 of 9"));
    whole.layout = &l, whole.chip_bytes = 0;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &whole, &p, &err), CL_OK);
    for (int i = 0; i < 3; i++) CU_ASSERT_EQUAL(p.stages[i].n_layers, layers[i]);
    test_slices(&m, &whole, &p);
    cl_placement_free(&p);
    cl_model_free(&m);
    cl_spec_free(&s);
}

/* Layouts that cannot be, and what the messages propose. */
static void test_refused_layouts(void)
{
    cl_err err = {0};
    cl_model m = geometry(SMOLLM2_135M, CL_BF16); /* 30 layers, 9 heads, 36 runs of hidden, 96 of width */
    cl_place_options o = {.kv = CL_KV_F32, .slots = 1, .context = 128, .chunk = 16};
    cl_placement p;
    static const struct {
        int stages, chips, ranks;
        const char *says;
    } cases[] = {
        {2, 3, 4, "--layout 2x3 needs 6 ranks, there are 4 (start 6, or use 2x2)"},
        {3, 2, 5, "--layout 3x2 needs 6 ranks, there are 5 (start 6, or use 1x5)"},
        {31, 2, 0, "31 stages for 30 layers, and every stage needs one (use at most 30 stages, for example 2x31)"},
        {32, 1, 32, "(use at most 30 stages, for example 16x2)"},
        {2, 97, 0, "stage 0 has 97 chips, and there is a layer with work for 96 at most (use for example 2x96)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_layout l;
        CU_ASSERT_EQUAL_FATAL(cl_layout_make(cases[i].stages, cases[i].chips, &l, &err), CL_OK);
        o.layout = &l, o.ranks = cases[i].ranks;
        CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, cases[i].says));
        cl_layout_free(&l);
    }
    int chips[] = {1, 2}, layers[] = {10, 19};
    cl_layout l = {2, chips, layers};
    o.layout = &l, o.ranks = 0;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "layout 1:10+2:19 has 29 layers, the model has 30"));
    layers[1] = 0;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_USAGE);
    layers[1] = 20, chips[0] = 0;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_USAGE);
    chips[0] = 1, o.chip_bytes = 90000000; /* fixed layers: chip 0 has the table and a third of the layers */
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "chip 0 of 3"));
    const uint64_t chosen[30] = {0};
    cl_routing r = {30, 1, chosen};
    o.chip_bytes = 0, o.routing = &r;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "routing of 30 layers with 1 experts"));
    cl_model_free(&m);
    m = geometry(MIXTRAL_8X7B, CL_Q4_0); /* whole experts: 256 runs of hidden, 32 heads, 8 experts */
    CU_ASSERT_EQUAL_FATAL(cl_layout_make(1, 257, &l, &err), CL_OK);
    o = (cl_place_options){.layout = &l, .slots = 1, .context = 16, .chunk = 4, .experts = CL_EXPERTS_WHOLE};
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "1x256"));
    o.experts = CL_EXPERTS_SLICED; /* 896 runs of width */
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    cl_placement_free(&p);
    cl_layout_free(&l);
    cl_model_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"brute force", test_groups},
                           {"buffers", test_groups_and_buffers},
                           {"order of stages", test_order},
                           {"refused", test_refused_layouts},
                           CU_TEST_INFO_NULL};
    return run_suite("groups", tests);
}
