/* All numbers of placements, slices, costs and phases of small models in many shapes, as digests: a change in any of
 * them shows. What they are to be is for the other tests; where it is meant to change, the new digest is printed. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "chipline/cost.h"
#include "plan/models.h"

static uint32_t digest;

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (const char *p = text; *p; p++) digest = (digest ^ (unsigned char)*p) * 16777619u;
}

static unsigned long long u(uint64_t n) { return n; }

static void note_placement(const cl_placement *p, int layers)
{
    for (int i = 0; i < p->n_stages; i++) {
        const cl_stage *s = &p->stages[i];
        note("%d %d %d %d %d %d %llu %llu %llu %llu\n", s->first_layer, s->n_layers, s->embed, s->head, s->first_rank,
             s->n_ranks, u(s->weight_bytes), u(s->kv_bytes), u(s->token_bytes), u(s->token_kv_bytes));
    }
    for (int i = 0; p->experts && i < layers; i++) {
        const cl_expert_map *map = &p->experts[i];
        for (int e = 0; e < map->experts; e++)
            for (int k = map->first[e]; k < map->first[e + 1]; k++) note("%d %d %d\n", i, e, map->member[k]);
    }
    note("%llx\n", u(cl_placement_hash(p)));
}

static void note_chips(const cl_model *m, const cl_place_options *o, const cl_placement *p)
{
    for (int rank = 0; rank < p->n_ranks; rank++) {
        cl_extent *x;
        cl_chip_cost c;
        cl_err err;
        int n;
        CU_ASSERT_EQUAL_FATAL(cl_placement_slice(m, p, rank, &x, &n, &err), CL_OK);
        for (int i = 0; i < n; i++)
            note("%d %lld %lld %lld %lld\n", x[i].tensor, (long long)x[i].expert0, (long long)x[i].experts,
                 (long long)x[i].row0, (long long)x[i].rows);
        free(x);
        CU_ASSERT_EQUAL_FATAL(cl_placement_cost(m, o, p, rank, &c, &err), CL_OK);
        note("%llu %llu %llu %llu %d %llu %.6g\n", u(c.weight_bytes), u(c.kv_bytes), u(c.token_bytes),
             u(c.token_kv_bytes), c.gathers, u(c.gather_bytes), c.gather_messages);
    }
}

static void note_phase(void *ctx, const cl_phase *p)
{
    const cl_exchange *x = &p->exchange;
    note("%d %d %.6g %llu %llu %llu %llu %.6g\n", p->kind, p->layer, p->tokens, u(p->weight_bytes), u(p->vector_bytes),
         u(p->kv_bytes), u(p->kv_distinct_bytes), p->experts);
    note("%.6g %.6g %.6g %d %llu %llu %.6g %.6g\n", p->ops_int8, p->ops_f32, p->ops_attention, x->kind, u(x->got_bytes),
         u(x->sent_bytes), x->got, x->sent);
}

static void note_phases(const cl_model *m, const cl_place_options *o, const cl_placement *p)
{
    static const cl_cost_part one[] = {{1, 1, 30, 1}}, mixed[] = {{2, 9, 0, 9}, {1.5, 1, 40, 1}, {1, 30, 5, 2}};
    static const cl_cost_routed routed[4] = {{0, 0}, {2, 3}, {1, 1}, {0, 0}};
    const cl_cost_step steps[] = {{1, one, .candidates = 3},
                                  {3, mixed, .rows = true, .head_rows = 4},
                                  {3, mixed, .tile = 20},
                                  {3, mixed, .tile = 50},
                                  {1, one, .routed = routed}};
    for (int rank = 0; rank < p->n_ranks; rank++) {
        const int stage = cl_placement_stage(p, rank);
        const cl_cost_chip c = cl_placed_chip(m, o, p, stage, rank - p->stages[stage].first_rank);
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
            cl_cost_phases(&c, &steps[i], note_phase, NULL);
            const cl_cost_sum sum = cl_cost_of_step(&c, &steps[i]);
            note_phase(NULL, &sum.all);
            note("%d %d\n", sum.phases, sum.gathers);
        }
    }
}

static void note_prediction(const cl_model *m, const cl_place_options *o, const cl_placement *p)
{
    const cl_rates r = {.read_bytes_per_s = 30e9,
                        .gather_s = 2e-6,
                        .gather_bytes_per_s = 10e9,
                        .hop_s = 5e-6,
                        .hop_bytes_per_s = 8e9};
    cl_prediction x;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_predict(m, o, p, &r, &x, &err), CL_OK);
    note("%.6g %.6g %.6g\n", x.token_s, x.step_s, x.tokens_per_s);
}

static cl_spec spec_of(int which)
{
    switch (which) {
    case 0: return test_spec_sinks();
    case 1: return test_spec_latent();
    case 2: return test_spec_chunked();
    case 3: return test_spec((test_geometry){75, 100, 4, 9, 3, 16, 150, 0, 0, true, CL_QK_NORM_HEAD});
    default: return test_spec((test_geometry){75, 600, 4, 8, 2, 16, 50, 11, 3, false, CL_QK_NORM_FULL});
    }
}

/* Layouts, sliced and whole experts, with and without routing and copies, memory of its own or shared. */
static void note_layouts(const cl_model *m, int chips)
{
    const char *const layouts[] = {"1x1", "1+2", "3x1", "1x7", "2+5", "1x20"};
    uint64_t chosen[4 * 11];
    const int experts = m->spec.layers[1].ffn.experts, most = m->spec.layers[2].ffn.experts;
    const cl_routing r = {4, experts > most ? experts : most, chosen};
    for (int i = 0; i < 4 * 11; i++) chosen[i] = (uint64_t)(i * i % 37);
    for (int way = 0; way < 5; way++) {
        cl_layout l;
        cl_err err = {0};
        cl_placement p;
        CU_ASSERT_EQUAL_FATAL(cl_layout_from_name(layouts[chips], &l, &err), CL_OK);
        const cl_place_options o = {.layout = &l,
                                    .experts = way ? CL_EXPERTS_WHOLE : CL_EXPERTS_SLICED,
                                    .routing = way > 1 ? &r : NULL,
                                    .copies = way == 3,
                                    .kv = (cl_kv_format)(way % 3),
                                    .slots = 3,
                                    .context = 50,
                                    .chunk = 8,
                                    .chip_bytes = way == 3 ? 3000000 : 0,
                                    .shared_memory = way == 4};
        const cl_code c = cl_place(m, &o, &p, &err);
        note("%d %s\n", c, err.msg);
        if (c == CL_OK) {
            note_placement(&p, m->spec.n_layers);
            note_chips(m, &o, &p);
            note_phases(m, &o, &p);
            note_prediction(m, &o, &p);
            cl_placement_free(&p);
        }
        cl_layout_free(&l);
    }
}

static void test_digests(void)
{
    static const cl_format formats[] = {CL_F32, CL_FP8, CL_Q4_0, CL_BF16, CL_Q8_0};
    static const uint32_t want[5][6] = {{0xc8a020db, 0x63296420, 0x7dd7a359, 0x8550a31b, 0xc44e6d2a, 0xf98b12b9},
                                        {0xf467f0cf, 0xecf998ab, 0x04002418, 0x2f28c7d4, 0x3cbf60ac, 0x58be7e5a},
                                        {0xfc60b9c2, 0xd513e4e4, 0x326a82b0, 0xbe0af18c, 0xa745bf9e, 0xd720b7e2},
                                        {0xd0e1a907, 0x25decaee, 0x5c889d70, 0x13e4f9e9, 0xc29ffe72, 0x758a0522},
                                        {0x032d8ecf, 0x237f2df3, 0x1da7f9ed, 0xee0ef8dc, 0xd6dd1262, 0x4d5e628e}};
    for (int which = 0; which < 5; which++)
        for (int chips = 0; chips < 6; chips++) {
            cl_spec s = spec_of(which);
            cl_model m;
            cl_err err;
            CU_ASSERT_EQUAL_FATAL(test_model_of(&s, formats[which], &m, &err), CL_OK);
            digest = 2166136261u;
            note_layouts(&m, chips);
            CU_ASSERT_EQUAL(digest, want[which][chips]);
            if (digest != want[which][chips]) fprintf(stderr, "[%d][%d]: 0x%08x\n", which, chips, digest);
            cl_model_free(&m);
            cl_spec_free(&s);
        }
}

int main(void)
{
    CU_TestInfo tests[] = {{"digests", test_digests}, CU_TEST_INFO_NULL};
    return run_suite("numbers", tests);
}
