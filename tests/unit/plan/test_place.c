/* Placements against brute force over all cuts, budgets included; real geometries; what is refused. */
#include <stdint.h>
#include <string.h>

#include "chipline/cost.h"
#include "cut.h"
#include "plan/models.h"
#include "suite.h"

/* Bytes that a stage of layers [first, end) holds and that a token touches there, straight from the definitions. */
static void stage_bytes(const cl_model *m, const cl_place_options *o, int first, int end, uint64_t *held,
                        uint64_t *touched)
{
    bool start = first == 0, last = end == m->spec.n_layers;
    *held = *touched = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        uint64_t all = cl_tensor_bytes(t), row = cl_row_bytes(t->format, t->cols);
        if (t->layer >= first && t->layer < end) {
            *held += all;
            *touched += t->experts ? all / (uint64_t)t->experts * (uint64_t)m->spec.layers[t->layer].ffn.top_k : all;
        }
        if (t->role == CL_T_EMBED && (start || (last && m->spec.tied))) *held += all;
        if (t->role == CL_T_EMBED && start) *touched += row;
        if (t->role == CL_T_EMBED && last && m->spec.tied) *touched += all;
        if ((t->role == CL_T_HEAD || t->role == CL_T_FINAL_NORM) && last) *held += all, *touched += all;
    }
    int64_t seen = o->read_context > 0 ? (int64_t)o->read_context : o->context / 4;
    for (int i = first; i < end; i++) {
        *held += (uint64_t)o->slots * cl_kv_layer_bytes(&m->spec.layers[i].attn, o->kv, o->context, o->chunk);
        *touched += cl_kv_read_bytes(&m->spec.layers[i].attn, o->kv, seen);
    }
}

typedef struct brute {
    uint64_t best;
    double squares;
} brute;

/* The smallest largest share of all cuts, and the smallest sum of squares among those that have it. */
static void try_all(const cl_model *m, const cl_place_options *o, int stage, int first, uint64_t largest,
                    double squares, brute *b)
{
    int n = m->spec.n_layers, rest = o->ranks - stage - 1;
    for (int end = rest ? first + 1 : n; end <= n - rest; end++) {
        uint64_t held, touched;
        stage_bytes(m, o, first, end, &held, &touched);
        if (o->chip_bytes && held > o->chip_bytes) continue;
        uint64_t max = touched > largest ? touched : largest;
        double sum = squares + (double)touched * (double)touched;
        if (rest) try_all(m, o, stage + 1, end, max, sum, b);
        else if (max < b->best || (max == b->best && sum < b->squares)) *b = (brute){max, sum};
    }
}

/* Parts of all ranks: every tensor once (a tied table once or twice), each on the stage that computes with it. */
static void check_slices(const cl_model *m, const cl_placement *p)
{
    cl_err err = {0};
    int *seen = calloc((size_t)m->n_tensors, sizeof *seen);
    for (int r = 0; r < p->n_ranks; r++) {
        cl_extent *parts = NULL;
        int n = 0;
        uint64_t bytes = 0;
        CU_ASSERT_EQUAL_FATAL(cl_placement_slice(m, p, r, &parts, &n, &err), CL_OK);
        for (int i = 0; i < n; i++) {
            const cl_tensor *t = &m->tensors[parts[i].tensor];
            CU_ASSERT_TRUE(i == 0 || parts[i].tensor > parts[i - 1].tensor);
            CU_ASSERT_EQUAL(parts[i].expert0, 0);
            CU_ASSERT_EQUAL(parts[i].experts, t->experts ? t->experts : 1);
            CU_ASSERT_EQUAL(parts[i].row0, 0);
            CU_ASSERT_EQUAL(parts[i].rows, t->rows);
            seen[parts[i].tensor]++;
            bytes += cl_tensor_bytes(t);
        }
        CU_ASSERT_EQUAL(bytes, p->stages[r].weight_bytes);
        free(parts);
    }
    for (int i = 0; i < m->n_tensors; i++) {
        bool twice = m->tensors[i].role == CL_T_EMBED && m->spec.tied && p->n_ranks > 1;
        CU_ASSERT_EQUAL(seen[i], twice ? 2 : 1);
    }
    free(seen);
}

static void check_placement(const cl_model *m, const cl_place_options *o, const cl_placement *p, const brute *b)
{
    uint64_t largest = 0;
    double squares = 0;
    int first = 0;
    CU_ASSERT_EQUAL_FATAL(p->n_stages, o->ranks);
    CU_ASSERT_EQUAL(p->n_ranks, o->ranks);
    for (int i = 0; i < p->n_stages; i++) {
        const cl_stage *s = &p->stages[i];
        uint64_t held, touched;
        CU_ASSERT_EQUAL_FATAL(s->first_layer, first);
        CU_ASSERT_TRUE_FATAL(s->n_layers >= 1);
        first += s->n_layers;
        stage_bytes(m, o, s->first_layer, first, &held, &touched);
        CU_ASSERT_EQUAL(s->embed, i == 0);
        CU_ASSERT_EQUAL(s->head, i == p->n_stages - 1);
        CU_ASSERT_TRUE(s->first_rank == i && s->n_ranks == 1);
        CU_ASSERT_EQUAL(s->weight_bytes + s->kv_bytes, held);
        CU_ASSERT_EQUAL(s->token_bytes + s->token_kv_bytes, touched);
        CU_ASSERT_TRUE(!o->chip_bytes || held <= o->chip_bytes);
        largest = touched > largest ? touched : largest;
        squares += (double)touched * (double)touched;
    }
    CU_ASSERT_EQUAL(first, m->spec.n_layers);
    CU_ASSERT_TRUE(squares <= b->squares * (1 + 1e-12));
    CU_ASSERT_EQUAL(largest, b->best);
    check_slices(m, p);
}

static void test_brute_force(void)
{
    int placed = 0, refused = 0;
    for (int round = 0; round < 600; round++) {
        cl_model m = random_model(pick(1, 9));
        cl_place_options o = {.ranks = pick(1, m.spec.n_layers),
                              .kv = (cl_kv_format)pick(0, 2),
                              .slots = pick(1, 5),
                              .context = pick(4, 300),
                              .chunk = pick(1, 40)};
        o.read_context = pick(0, 1) ? pick(1, o.context) : 0;
        if (pick(0, 1)) { /* a budget near what a balanced share takes */
            uint64_t held, touched;
            stage_bytes(&m, &o, 0, m.spec.n_layers, &held, &touched);
            o.chip_bytes = held / (uint64_t)o.ranks / 100 * (uint64_t)pick(80, 260) + 1;
        }
        brute b = {.best = UINT64_MAX};
        try_all(&m, &o, 0, 0, 0, 0, &b);
        cl_placement p = {0}, again = {0};
        cl_err err = {0};
        cl_code c = cl_place(&m, &o, &p, &err);
        if (b.best == UINT64_MAX) {
            CU_ASSERT_EQUAL(c, CL_E_FIT);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "bytes more than a chip's"));
            refused++;
        } else {
            CU_ASSERT_EQUAL_FATAL(c, CL_OK);
            check_placement(&m, &o, &p, &b);
            CU_ASSERT_EQUAL(cl_place(&m, &o, &again, &err), CL_OK);
            CU_ASSERT_EQUAL(memcmp(p.stages, again.stages, (size_t)p.n_stages * sizeof *p.stages), 0);
            placed++;
        }
        cl_placement_free(&p);
        cl_placement_free(&again);
        cl_model_free(&m);
    }
    CU_ASSERT_TRUE(placed > 200);
    CU_ASSERT_TRUE(refused > 30);
}

/* What the cut goes by, layer by layer: the embedding's row with the first, norm and head with the last. */
static void test_table(void)
{
    for (int round = 0; round < 50; round++) {
        cl_err err = {0};
        cl_model m = random_model(pick(2, 9));
        cl_place_options o = {.slots = 2, .context = 40, .chunk = 8, .read_context = 10};
        cut_table t;
        uint64_t layers[9], held = 0;
        cl_model_token_bytes(&m, layers);
        CU_ASSERT_EQUAL_FATAL(cut_table_make(&m, &o, 1, &t, &err), CL_OK);
        for (int i = 0; i < m.spec.n_layers; i++) {
            uint64_t touched = layers[i] + cl_kv_read_bytes(&m.spec.layers[i].attn, o.kv, 10);
            const cl_tensor *table = &m.tensors[0], *norm = cl_model_find(&m, CL_T_FINAL_NORM, -1);
            const cl_tensor *head = m.spec.tied ? table : cl_model_find(&m, CL_T_HEAD, -1);
            if (i == 0) touched += cl_row_bytes(table->format, table->cols);
            if (i == m.spec.n_layers - 1) touched += cl_tensor_bytes(norm) + cl_tensor_bytes(head);
            CU_ASSERT_EQUAL(t.cost[i].touched, touched);
            held += t.cost[i].held - 2 * cl_kv_layer_bytes(&m.spec.layers[i].attn, o.kv, 40, 8);
        }
        for (int i = 0; i < m.n_tensors; i++)
            held -= cl_tensor_bytes(&m.tensors[i]) * (m.tensors[i].role == CL_T_EMBED && m.spec.tied ? 2 : 1);
        CU_ASSERT_EQUAL(held, 0);
        cut_table_free(&t);
        cl_model_free(&m);
    }
}

/* SmolLM2's tied head is worth more than 7 layers: the last of 4 stages has few of them. */
static void test_real(void)
{
    cl_err err = {0};
    cl_model m = geometry(SMOLLM2_135M, CL_Q8_0);
    cl_place_options o = {.ranks = 4, .kv = CL_KV_BF16, .slots = 4, .context = 2048, .chunk = 64};
    cl_placement p;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    static const int layers[] = {9, 9, 10, 2}; /* 4.15 MB each, 30.1 MB for the head: 37.4, 37.4, 41.5 and 38.4 MB */
    for (int i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL(p.stages[i].n_layers, layers[i]);
        CU_ASSERT_EQUAL(p.stages[i].kv_bytes, 4u * (uint64_t)layers[i] * 2048 * 768);
    }
    cl_placement_free(&p);
    o.ranks = 30;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    for (int i = 0; i < 30; i++) CU_ASSERT_EQUAL(p.stages[i].n_layers, 1);
    cl_placement_free(&p);
    cl_model_free(&m);
    /* experts count by top_k of all, so a layer touches little of what it holds */
    m = geometry(QWEN3_30B_A3B, CL_Q4_0);
    o.ranks = 8;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    uint64_t touched = 0;
    for (int i = 0; i < 8; i++) touched += p.stages[i].token_bytes;
    CU_ASSERT_EQUAL(touched, cl_model_token_bytes(&m, NULL));
    cl_placement_free(&p);
    cl_model_free(&m);
}

static void test_refused(void)
{
    cl_err err = {0};
    cl_model m = geometry(SMOLLM2_135M, CL_BF16);
    const cl_place_options good = {.ranks = 2, .kv = CL_KV_F32, .slots = 1, .context = 128, .chunk = 16};
    cl_placement p;
    cl_place_options o = good;
    o.ranks = 31;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "31 stages for 30 layers"));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "at most 30 stages, for example 1x31"));
    o.ranks = 32;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "for example 16x2"));
    o = good, o.ranks = 0;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_USAGE);
    o = good, o.slots = 0;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_USAGE);
    o = good, o.context = 0;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_USAGE);
    o = good, o.chunk = 0;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_USAGE);
    o = good, o.slots = 0x7fffffff, o.context = 0x7fffffff;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    /* 3 would hold the layers, but the first and the last chip also hold 57 MB of table */
    o = good, o.chip_bytes = 100000000;
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "chip "));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "at least 3 ranks as 1x3"));
    o.ranks = 4;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    for (int i = 0; i < 4; i++) CU_ASSERT_TRUE(p.stages[i].weight_bytes + p.stages[i].kv_bytes <= o.chip_bytes);
    cl_placement_free(&p);
    o.chip_bytes = 50000000; /* smaller than the table: it takes two chips */
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "at least 7 ranks as 1x7"));
    cl_layout l;
    for (int stages = 3; stages <= 4; stages++) {
        CU_ASSERT_EQUAL_FATAL(cl_layout_make(stages, 2, &l, &err), CL_OK);
        o.layout = &l, o.ranks = 2 * stages;
        CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), stages == 4 ? CL_OK : CL_E_FIT);
        cl_layout_free(&l);
    }
    cl_placement_free(&p);
    o = good, o.chip_bytes = 100000; /* the table in 96 runs of rows is larger */
    CU_ASSERT_EQUAL(cl_place(&m, &o, &p, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "larger chips"));
    cl_model_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"brute force", test_brute_force},
                           {"table", test_table},
                           {"real geometries", test_real},
                           {"refused", test_refused},
                           CU_TEST_INFO_NULL};
    return run_suite("place", tests);
}
