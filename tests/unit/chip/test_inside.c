/* test_inside.c: what a chip is made of, number by number: who makes which columns, the forms of a product's input, how
 * large the buffers are, and what is given back. */
#include "head.h"
#include "inside.h"
#include "model/heap.h"
#include "phases.h"
#include "sample.h"
#include "says.h"
#include "tiny.h"

/* --- cuts --- */

static size_t numbers; /* of the cuts looked at */

static void check_cut(const int32_t *cut, int64_t n, int members)
{
    if (!n) {
        CU_ASSERT_PTR_NULL(cut);
        return;
    }
    CU_ASSERT_PTR_NOT_NULL_FATAL(cut);
    for (int i = 0; i < members; i++) CU_ASSERT_EQUAL(cut[i], cl_split_rows(n, members, i).first);
    CU_ASSERT_EQUAL(cut[members], n);
    numbers += (size_t)members + 1;
}

/* Every chip's columns begin where those of the one before it end. */
static void check_heads(const int32_t *cut, const cl_attention *a, bool kv, int dim, int members)
{
    CU_ASSERT_PTR_NOT_NULL_FATAL(cut);
    CU_ASSERT_EQUAL(cut[0], 0);
    for (int i = 0; i < members; i++) {
        const cl_heads h = cl_split_heads(a, members, i);
        const int n = kv ? h.kv : h.q, end = (kv ? h.kv0 : h.q0) + n;
        CU_ASSERT_EQUAL(cut[i + 1], n && end * dim > cut[i] ? end * dim : cut[i]);
    }
    CU_ASSERT_EQUAL(cut[members], (kv ? a->kv_heads : a->heads) * dim);
    numbers += (size_t)members + 1;
}

static void check_layer(const layer_cut *c, const cl_layer *l, int member, int members, const cl_expert_map *map)
{
    const cl_attention *a = &l->attn;
    const cl_ffn *f = &l->ffn;
    const cl_heads h = cl_split_heads(a, members, member);
    const bool latent = a->kind == CL_ATTN_LATENT, full = a->qk_norm == CL_QK_NORM_FULL && !latent;
    CU_ASSERT_EQUAL(memcmp(&c->heads, &h, sizeof h), 0);
    CU_ASSERT(c->attn.kv_heads == h.kv && c->attn.heads == a->heads && c->attn.window == a->window);
    check_heads(c->seen, a, false, latent ? a->v_dim : a->head_dim, members);
    check_cut(c->q_a, latent ? a->q_rank : 0, members);
    check_cut(c->kv_a, latent ? a->kv_rank + a->rope_dim : 0, members);
    if (full) check_heads(c->q, a, false, a->head_dim, members);
    if (full) check_heads(c->k, a, true, a->head_dim, members);
    CU_ASSERT((c->q != NULL) == full && (c->k != NULL) == full);
    check_cut(c->mid, f->width, members);
    check_cut(c->shared, f->shared_width, members);
    if (f->kind != CL_FFN_MOE || !map) {
        CU_ASSERT(!c->map && !c->local && c->n_local == f->experts);
        return;
    }
    CU_ASSERT_PTR_EQUAL(c->map, map);
    int here = 0;
    for (int e = 0; e < f->experts; e++) CU_ASSERT_EQUAL(c->local[e], cl_expert_held(map, e, member) ? here++ : -1);
    CU_ASSERT_EQUAL(c->n_local, here);
    numbers += (size_t)f->experts;
}

static void check_cuts(const cl_spec *s, int member, int members, bool whole)
{
    cl_err err = {0};
    stage_cuts cuts;
    int32_t first[] = {0, 1, 2, 3, 4, 5, 6, 7, 8}, owner[8];
    cl_expert_map maps[TINY_LAYERS];
    const cl_stage stage = {.first_layer = 1, .n_layers = 3, .n_ranks = members};
    for (int e = 0; e < 8; e++) owner[e] = (e + 1) % members;
    for (int l = 0; l < TINY_LAYERS; l++)
        maps[l] = (cl_expert_map){.experts = s->layers[l].ffn.experts, .first = first, .member = owner};
    CU_ASSERT_EQUAL_FATAL(cuts_create(&cuts, s, &stage, whole ? maps : NULL, member, members, &err), CL_OK);
    numbers = 0;
    check_cut(cuts.hidden, s->hidden, members);
    check_cut(cuts.vocab, s->vocab, members);
    for (int l = 0; l < 3; l++) {
        check_layer(&cuts.layers[l], &s->layers[1 + l], member, members, whole ? &maps[1 + l] : NULL);
        CU_ASSERT_PTR_EQUAL(cuts.attn[l], &cuts.layers[l].attn);
    }
    CU_ASSERT_EQUAL(cuts.bytes, 3 * (sizeof(layer_cut) + sizeof(cl_attention *)) + numbers * sizeof(int32_t));
    cuts_free(&cuts);
    CU_ASSERT(!cuts.layers && !cuts.attn && !cuts.memory && !cuts.bytes);
}

static void test_cuts(void)
{
    for (int which = 0; which < TINY_SPECS; which++) {
        cl_spec s = tiny_any(which);
        for (int members = 1; members <= 8; members++)
            for (int member = 0; member < members; member++) check_cuts(&s, member, members, (member + which) % 2);
        cl_spec_free(&s);
    }
}

/* --- inputs --- */

static void check_acts(cl_activations a, cl_format first, cl_format second, bool normed)
{
    int8_t q[1];
    float d[1], fsum[1], x[1] = {0};
    int32_t sum[1];
    const chip_fixed c = {.opt = {.activations = a}};
    const input_forms forms = {.q = q, .d = d, .fsum = fsum, .sum = sum};
    const cl_matrix one = {.format = first}, two = {.format = second};
    const cl_matrix *w[] = {&one, &two};
    const cl_acts got = (normed ? phase_normed_acts : phase_acts)(&c, &forms, x, 96, 5, 70, w, 2);
    const bool q8 = a != CL_ACT_F32 && (cl_format_integer(first) || cl_format_integer(second));
    const bool sums = !q8 && (first == CL_Q4_1 || second == CL_Q4_1), mixed = normed && q8 && a == CL_ACT_MIXED;
    CU_ASSERT(got.n == 5 && got.cols == 70 && got.stride == 96 && got.f32 == x);
    CU_ASSERT(got.q8 == q8 && got.mixed == mixed && got.planes == (a == CL_ACT_Q16 || mixed ? 2 : 1));
    CU_ASSERT(got.q == (q8 ? q : NULL) && got.d == (q8 ? d : NULL) && got.sum == (q8 ? sum : NULL));
    CU_ASSERT_PTR_EQUAL(got.fsum, sums ? fsum : NULL);
}

static void test_inputs(void)
{
    for (int a = CL_ACT_F32; a <= CL_ACT_Q16; a++)
        for (int f = 0; f < CL_NATIVE_FORMATS * CL_NATIVE_FORMATS * 2; f++)
            check_acts((cl_activations)a, (cl_format)(f / 2 / CL_NATIVE_FORMATS),
                       (cl_format)(f / 2 % CL_NATIVE_FORMATS), f % 2);
}

/* --- sizes --- */

/* Of all chips of a stage together: the bytes of the buffers that are their own, and of what one exchanges, as they
 * were once. Whoever changes the buffers changes these. */
static const struct {
    int which, members;
    cl_activations act;
    bool whole, ends;
    uint64_t own, exchange, kv, slice;  /* with chunks of 29 tokens; */
    uint64_t large_own, large_exchange; /* of 4096, in little memory: as many tokens at once as that allows */
} sizes[] = {
    {TINY_DENSE, 1, CL_ACT_F32, false, false, 110720, 37120, 118784, 186944, 6004864, 3020800},
    {TINY_DENSE, 3, CL_ACT_Q8, false, true, 277696, 91904, 413696, 443200, 13438528, 9322496},
    {TINY_DENSE, 2, CL_ACT_MIXED, false, true, 202240, 77056, 303104, 404032, 9988224, 7112704},
    {TINY_DENSE, 5, CL_ACT_Q16, false, false, 479744, 37120, 389120, 280512, 22470784, 2846720},
    {TINY_MOE, 3, CL_ACT_F32, true, false, 272512, 44544, 192512, 294784, 12982784, 3674112},
    {TINY_MOE, 2, CL_ACT_Q8, false, true, 219776, 77056, 303104, 671040, 11410048, 7184384},
    {TINY_MOE, 5, CL_ACT_MIXED, true, true, 544960, 151296, 757760, 849984, 27520960, 15730688},
    {TINY_MOE, 1, CL_ACT_Q16, false, false, 126336, 37120, 118784, 255744, 6869120, 2908160},
    {TINY_SINKS, 2, CL_ACT_F32, false, true, 193280, 62208, 327680, 679104, 8719744, 5992448},
    {TINY_SINKS, 5, CL_ACT_Q8, true, true, 503040, 151296, 819200, 864000, 23103040, 15859712},
    {TINY_SINKS, 1, CL_ACT_MIXED, false, false, 136640, 22272, 163840, 359552, 7318656, 1744896},
    {TINY_SINKS, 3, CL_ACT_Q16, true, true, 330880, 121600, 327680, 697728, 14977024, 11296768},
    {TINY_LATENT, 5, CL_ACT_F32, true, true, 1185856, 158720, 1081344, 1011584, 12766144, 11642880},
    {TINY_LATENT, 1, CL_ACT_Q8, false, true, 613248, 42240, 245760, 911168, 8283328, 578560},
    {TINY_LATENT, 3, CL_ACT_MIXED, true, false, 929600, 74240, 393216, 533952, 10905472, 1146880},
    {TINY_LATENT, 2, CL_ACT_Q16, false, true, 832768, 77056, 491520, 927296, 9825280, 4737024},
    {TINY_CHUNKED, 1, CL_ACT_F32, false, true, 135104, 27392, 442368, 691264, 6824384, 1602560},
    {TINY_CHUNKED, 3, CL_ACT_Q8, true, false, 402304, 51968, 221184, 424320, 19991168, 3727360},
    {TINY_CHUNKED, 2, CL_ACT_MIXED, false, true, 281216, 62208, 589824, 748416, 13074432, 5672960},
    {TINY_CHUNKED, 5, CL_ACT_Q16, true, true, 735680, 136448, 442368, 807168, 34088640, 13850624},
};

static void add_sizes(const cl_model *m, const cl_placement *p, int member, const cl_chip_options *o,
                      cl_chip_sizes *sum)
{
    cl_err err = {0};
    cl_extent *parts;
    cl_chip_sizes z;
    int n;
    cl_chip_options own = *o;
    const cl_group group = {.member = member, .members = p->n_ranks};
    own.group = &group;
    CU_ASSERT_EQUAL_FATAL(cl_placement_slice(m, p, member, &parts, &n, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_chip_size(m, &p->stages[0], parts, n, &own, 3, &z, &err), CL_OK);
    sum->work_bytes += z.work_bytes;
    sum->kv_bytes += z.kv_bytes;
    sum->slice_bytes += z.slice_bytes;
    sum->exchange_bytes = z.exchange_bytes;
    free(parts);
}

static void check_size(size_t i)
{
    cl_err err = {0};
    cl_chip_sizes z = {0}, large = {0};
    cl_spec s = tiny_any(sizes[i].which);
    cl_model m;
    int32_t first[] = {0, 1, 2, 3, 4, 5, 6, 7, 8}, owner[8];
    cl_expert_map maps[TINY_LAYERS];
    const int members = sizes[i].members;
    cl_stage stage = {.first_layer = !sizes[i].ends,
                      .n_layers = sizes[i].ends ? 4 : 2,
                      .embed = sizes[i].ends,
                      .head = sizes[i].ends,
                      .n_ranks = members};
    for (int e = 0; e < 8; e++) owner[e] = e % members;
    for (int l = 0; l < TINY_LAYERS; l++)
        maps[l] = (cl_expert_map){.experts = s.layers[l].ffn.experts, .first = first, .member = owner};
    const cl_placement p = {.n_ranks = members,
                            .n_stages = 1,
                            .stages = &stage,
                            .experts = sizes[i].whole ? maps : NULL};
    cl_chip_options o = tiny_options(1, 29, "reference");
    o.activations = sizes[i].act;
    o.experts = p.experts;
    o.crew = NULL;
    if (sizes[i].which == TINY_CHUNKED) s.layers[3].ffn.weight_input = false; /* not in all layers */
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_Q8_0, &m, &err), CL_OK);
    for (int k = 0; k < members; k++) add_sizes(&m, &p, k, &o, &z);
    o.limits.chunk = 4096;
    o.memory_bytes = 1 << 29;
    for (int k = 0; k < members; k++) add_sizes(&m, &p, k, &o, &large);
    const uint64_t got[] = {z.work_bytes,  z.exchange_bytes, z.kv_bytes,
                            z.slice_bytes, large.work_bytes, large.exchange_bytes};
    bool same = memcmp(got, &sizes[i].own, sizeof got) == 0;
    CU_ASSERT_TRUE(same);
    if (!same) fprintf(stderr, "%zu:", i);
    for (int k = 0; k < 6 && !same; k++) fprintf(stderr, " %llu%s", (unsigned long long)got[k], k < 5 ? "," : "\n");
    cl_model_free(&m);
    cl_spec_free(&s);
}

static void test_sizes(void)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_size(i);
}

/* All that is neither weights, cache nor buffers. */
static void check_other(int which, int threads, bool head)
{
    tiny m = tiny_make(tiny_any(which), CL_F32, false);
    cl_err err = {0};
    cl_extent parts[256];
    const cl_stage stage = {.first_layer = 1, .n_layers = 3, .embed = true, .head = head, .n_ranks = 1};
    const int n = tiny_parts(&m, &stage, parts);
    const cl_chip_options o = tiny_options(threads, 8, NULL);
    cl_chip_table chip;
    size_t cache, want = sizeof(cl_chip);
    CU_ASSERT_EQUAL_FATAL(cl_chip_create(&chip, m.model, &m.reader, &stage, parts, n, &o, NULL, &err), CL_OK);
    const chip_fixed *c = &((const cl_chip *)chip.ctx)->fixed;
    size_t tables;
    CU_ASSERT_EQUAL_FATAL(kv_size(c->cuts.attn, 3, o.kv, &o.limits, &cache, &tables, &err), CL_OK);
    want += 4 * sizeof(cl_layer) + 3 * sizeof(uint64_t *) + tables + c->cuts.bytes + c->slice.table_bytes;
    for (int i = 0; i < m.spec.n_ropes; i++) want += sizeof(cl_rope) + (size_t)m.spec.ropes[i].dims / 2 * 8;
    for (int i = 1; i < 4; i++) want += (size_t)m.spec.layers[i].ffn.experts * 8;
    want += (size_t)threads * c->slice.staging_bytes;
    const size_t other = chip.sizes(chip.ctx).other_bytes;
    const size_t draws = sampling_bytes(c), rings = 4 * (CL_REPEAT_WINDOW + 8) * sizeof(int32_t);
    CU_ASSERT_EQUAL(other, want + draws);
    CU_ASSERT_EQUAL(((const cl_chip *)chip.ctx)->sampling != NULL, head);
    CU_ASSERT(head ? draws > rings && draws < rings + 20000 : !draws);
    chip.free(chip.ctx);
    tiny_free(&m);
}

static void test_other(void)
{
    for (int which = 0; which < TINY_SPECS; which++) check_other(which, 1 + which % 3, which % 2);
    check_other(TINY_MOE, 2, false);
}

/* What draws the ids: a fixed part, and so much for each token, chip and slot. */
static void test_draws(void)
{
    enum { CANDIDATE = 8, OUTPUT = 8, SLOT = 56 + sizeof(int32_t *) + 640 };
    static const int cases[][4] = {{1, 1, 1, 1}, {7, 64, 1, 75}, {7, 64, 5, 75}, {3, 500, 5, 4000}};
    for (int i = 0; i < 4; i++) {
        const size_t slots = (size_t)cases[i][0], chunk = (size_t)cases[i][1], members = (size_t)cases[i][2];
        chip_fixed c = {.stage = {.head = true}, .group = {.members = cases[i][2]}};
        c.opt.limits = (cl_limits){.slots = cases[i][0], .chunk = cases[i][1], .vocab = cases[i][3]};
        size_t growing = cl_sampler_bytes(cases[i][3]) + chunk * OUTPUT + members * CL_CANDIDATES * CANDIDATE +
                         slots * (SLOT + (CL_REPEAT_WINDOW + chunk) * sizeof(int32_t));
        const size_t fixed = sampling_bytes(&c) - growing;
        CU_ASSERT(fixed > 64 && fixed < 256);
        c.stage.head = false;
        CU_ASSERT_EQUAL(sampling_bytes(&c), 0);
    }
}

/* --- failures, and the end --- */

typedef struct sizing {
    const tiny *m;
    cl_chip_options o;
    int members;
} sizing;

static void act_size(void *ctx)
{
    const sizing *s = ctx;
    cl_extent parts[256];
    cl_chip_sizes z;
    const cl_stage stage = {.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = s->members};
    cl_chip_size(s->m->model, &stage, parts, tiny_parts(s->m, &stage, parts), &s->o, 1, &z, NULL);
}

static void act_name(void *ctx) { cl_activations_name(*(cl_activations *)ctx); }

static void test_bugs(void)
{
    static const char *const names[] = {"auto", "f32", "q8", "mixed", "q16"};
    tiny m = tiny_make(tiny_any(TINY_DENSE), CL_F32, false);
    sizing s = {&m, tiny_options(1, 1, NULL), 2};
    const cl_group group = {.members = 3};
    CU_ASSERT_STRING_EQUAL(says(act_size, &s), "1 chips in the group, 2 in the stage");
    s.o.group = &group;
    CU_ASSERT_STRING_EQUAL(says(act_size, &s), "3 chips in the group, 2 in the stage");
    s = (sizing){&m, tiny_options(1, 1, NULL), 1};
    s.o.limits.slots = s.o.limits.context = 1;
    CU_ASSERT_STRING_EQUAL(says(act_size, &s), "");
    s.o.limits.slots = 0;
    CU_ASSERT_STRING_EQUAL(says(act_size, &s), "slots 0, context 1, chunk 1");
    s.o.limits.slots = 1, s.o.limits.context = 0;
    CU_ASSERT_STRING_EQUAL(says(act_size, &s), "slots 1, context 0, chunk 1");
    s.o.limits.context = 1, s.o.limits.chunk = 0;
    CU_ASSERT_STRING_EQUAL(says(act_size, &s), "slots 1, context 1, chunk 0");
    for (int a = 0; a < 5; a++) CU_ASSERT_STRING_EQUAL(cl_activations_name((cl_activations)a), names[a]);
    cl_activations none = (cl_activations)5;
    CU_ASSERT_STRING_EQUAL(says(act_name, &none), "activations 5");
    tiny_free(&m);
}

static void test_refused(void)
{
    cl_err err = {0};
    tiny m = tiny_make(tiny_spec(true), CL_F32, false);
    const cl_stage stage = {.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = 1};
    cl_extent parts[256];
    const int n = tiny_parts(&m, &stage, parts);
    cl_chip_options o = tiny_options(1, 8, "none such");
    cl_chip_sizes z;
    cl_chip_table chip = {0};
    CU_ASSERT_EQUAL(cl_chip_size(m.model, &stage, parts, n, &o, 1, &z, &err), CL_E_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "none such"));
    CU_ASSERT_EQUAL(cl_chip_size(m.model, &stage, parts, n, &o, 1, &z, NULL), CL_E_USAGE);
    err = (cl_err){0};
    CU_ASSERT_EQUAL(cl_chip_create(&chip, m.model, &m.reader, &stage, parts, n, &o, NULL, &err), CL_E_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "none such"));
    CU_ASSERT_EQUAL(cl_chip_create(&chip, m.model, &m.reader, &stage, parts, n, &o, NULL, NULL), CL_E_USAGE);
    o.kernels = "reference";
    CU_ASSERT_EQUAL(cl_chip_size(m.model, &stage, parts, n, &o, 1, &z, NULL), CL_OK);
    tiny_free(&m);
}

/* Chips that are made, run and freed leave nothing: what else the C library and HDF5 keep does not grow every time. */
static void test_given_back(void)
{
    static tiny_rows rows;
    for (int which = 0; which < TINY_SPECS; which++) {
        tiny m = tiny_make(tiny_any(which), CL_Q8_0, false);
        const cl_chip_options o = tiny_options(1, 8, NULL);
        bool steady = false;
        size_t before = 0;
        for (int i = 0; i < 8 && !steady; i++) {
            tiny_line l = tiny_chips(&m, 2, &o, NULL);
            tiny_run(&l, 8, 8, &rows);
            tiny_line_free(&l);
            steady = i && heap_in_use() <= before;
            before = heap_in_use();
        }
        CU_ASSERT_TRUE(steady);
        tiny_free(&m);
    }
}

/* Buffers that were freed are gone. */
static void test_buffers(void)
{
    tiny m = tiny_make(tiny_spec(true), CL_F32, false);
    const cl_chip_options o = tiny_options(1, 8, NULL);
    tiny_line l = tiny_chips(&m, 1, &o, NULL);
    const cl_chip *c = (const cl_chip *)l.chips[0].ctx;
    work k, none = {0};
    CU_ASSERT_EQUAL_FATAL(work_create(&k, &c->fixed, 1, NULL), CL_OK);
    CU_ASSERT_EQUAL(k.bytes, k.own_bytes + k.exchange_bytes);
    for (int i = 0; i < k.tile * 3; i++) CU_ASSERT_EQUAL(k.rows.in_order[i], i); /* the most rows of a layer */
    work_free(&k);
    CU_ASSERT_EQUAL(memcmp(&k, &none, sizeof k), 0);
    tiny_line_free(&l);
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"cuts", test_cuts},       {"inputs", test_inputs},
                           {"sizes", test_sizes},     {"other bytes", test_other},
                           {"draws", test_draws},     {"bugs", test_bugs},
                           {"refused", test_refused}, {"given back", test_given_back},
                           {"buffers", test_buffers}, CU_TEST_INFO_NULL};
    return run_suite("inside", tests);
}
