/* test_sizes.c: what a chip allocates, said before there is one, told by it afterwards, and seen in the memory of this
 * process; what only one chip sees is as wide as what it holds. */
#include "chipline/util.h"
#include "tiny.h"

enum { MOST = 7, NEAR = 8 << 20 };

static uint64_t total(const cl_chip_sizes *s)
{
    return s->slice_bytes + s->kv_bytes + s->work_bytes + s->exchange_bytes + s->other_bytes;
}

/* Chips of one stage, one after the other; none takes a step, so nobody gathers. */
typedef struct chips {
    const tiny *m;
    cl_stage stage;
    cl_placement placement;
    float *memory;
    uint64_t exchange;
    cl_chip_options o;
} chips;

/* Expert e of each layer on chip e % members. */
static void make_maps(cl_placement *p, const cl_spec *spec)
{
    p->experts = calloc((size_t)spec->n_layers, sizeof *p->experts);
    for (int l = 0; l < spec->n_layers; l++) {
        cl_expert_map *map = &p->experts[l];
        map->experts = spec->layers[l].ffn.experts;
        map->first = calloc((size_t)map->experts + 1, sizeof *map->first);
        map->member = calloc((size_t)map->experts + 1, sizeof *map->member);
        for (int e = 0; e < map->experts; e++) {
            map->first[e + 1] = e + 1;
            map->member[e] = e % p->n_ranks;
        }
    }
}

static void chips_make(chips *c, const tiny *m, int members, bool whole, bool ends, const cl_chip_options *o)
{
    *c = (chips){.m = m, .o = *o};
    c->stage = (cl_stage){.first_layer = ends ? 0 : 1,
                          .n_layers = ends ? TINY_LAYERS : 2,
                          .embed = ends,
                          .head = ends,
                          .n_ranks = members};
    c->placement = (cl_placement){.n_ranks = members, .n_stages = 1, .stages = &c->stage};
    if (whole) make_maps(&c->placement, &m->spec);
    c->o.experts = c->placement.experts;
    c->exchange = cl_chip_exchange_bytes(&m->spec, &c->stage, &c->o);
    c->memory = aligned_alloc(64, c->exchange);
    memset(c->memory, 0, c->exchange);
}

static void chips_free(chips *c)
{
    for (int l = 0; c->placement.experts && l < c->m->spec.n_layers; l++) {
        free(c->placement.experts[l].first);
        free(c->placement.experts[l].member);
    }
    free(c->placement.experts);
    free(c->memory);
}

/* Sizes of one of them, before and after it is made; grown: resident memory in between. */
static cl_chip_sizes one(chips *c, int member, int64_t *grown)
{
    cl_err err = {0};
    cl_extent *parts;
    cl_chip_table chip;
    cl_chip_sizes want, got;
    int n;
    const cl_group group = {.member = member, .members = c->stage.n_ranks, .memory = c->memory};
    cl_chip_options o = c->o, before = c->o;
    o.group = &group;
    before.group = &(cl_group){.member = member, .members = c->stage.n_ranks};
    before.crew = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_placement_slice(c->m->model, &c->placement, member, &parts, &n, &err), CL_OK);
    const int threads = cl_crew_threads(o.crew);
    if (cl_chip_size(c->m->model, &c->stage, parts, n, &before, threads, &want, &err)) puts(err.msg);
    CU_ASSERT_EQUAL_FATAL(err.code, CL_OK);
    uint64_t start = cl_rss_bytes();
    CU_ASSERT_EQUAL_FATAL(cl_chip_create(&chip, c->m->model, &c->m->reader, &c->stage, parts, n, &o, NULL, &err),
                          CL_OK);
    *grown = (int64_t)cl_rss_bytes() - (int64_t)start;
    got = chip.sizes(chip.ctx);
    chip.free(chip.ctx);
    free(parts);
    CU_ASSERT_EQUAL(memcmp(&want, &got, sizeof want), 0);
    CU_ASSERT_EQUAL(want.exchange_bytes, c->exchange);
    return got;
}

static void check_model(int which)
{
    static const cl_activations activations[] = {CL_ACT_F32, CL_ACT_Q8, CL_ACT_MIXED, CL_ACT_Q16};
    tiny m = tiny_make(tiny_any(which), CL_F32, true);
    for (int i = 0; i < 4; i++) {
        for (int members = 1; members <= MOST; members += 1 + i) {
            cl_chip_options o = tiny_options(1 + i % 3, 1 << 2 * (members % 5), NULL);
            chips c;
            int64_t grown;
            o.activations = activations[i];
            o.kv = (cl_kv_format)(members % 3);
            o.kernels = i == 1 ? "reference" : NULL;
            chips_make(&c, &m, members, members % 2, i % 2, &o);
            for (int k = 0; k < members; k++) one(&c, k, &grown);
            chips_free(&c);
        }
    }
    tiny_free(&m);
}

static void test_said_before(void)
{
    for (int which = 0; which < TINY_SPECS; which++) check_model(which);
}

/* Caches and buffers of tens of megabytes. */
static void test_resident(void)
{
    for (int which = 0; which < TINY_SPECS; which++) {
        cl_spec s = tiny_any(which);
        if (which == TINY_LATENT) s.layers[1].attn.heads = 900;
        tiny m = tiny_make(s, CL_Q4_0, false);
        for (int members = 1; members <= 3; members += 2) {
            cl_chip_options o = tiny_options(2, 4096, NULL);
            uint64_t most = 0;
            chips c;
            o.activations = CL_ACT_MIXED;
            o.limits.slots = 4000;
            chips_make(&c, &m, members, false, true, &o);
            for (int k = 0; k < members; k++) {
                int64_t grown;
                cl_chip_sizes z = one(&c, k, &grown);
                int64_t off = grown - (int64_t)(total(&z) - z.exchange_bytes);
                CU_ASSERT(off < NEAR && off > -NEAR);
                most = z.kv_bytes + z.work_bytes > most ? z.kv_bytes + z.work_bytes : most;
                if (off >= NEAR || off <= -NEAR)
                    printf("%s, chip %d of %d: %lld bytes more than it says\n", tiny_names[which], k, members,
                           (long long)off);
            }
            CU_ASSERT(most > 3 * NEAR);
            chips_free(&c);
        }
        tiny_free(&m);
    }
}

/* A chip with a quarter of the heads and rows has about a quarter of the buffers that are its own. */
static void test_as_wide_as_held(void)
{
    cl_spec s = test_spec_latent();
    s.layers[1].attn.heads = 900;
    tiny m = tiny_make(s, CL_Q8_0, false);
    chips c;
    int64_t grown;
    cl_chip_options o = tiny_options(1, 64, NULL);
    o.limits.chunk = 8; /* the same tile on all */
    chips_make(&c, &m, 1, false, true, &o);
    const uint64_t alone = one(&c, 0, &grown).work_bytes;
    chips_free(&c);
    chips_make(&c, &m, 5, false, true, &o);
    for (int k = 0; k < 5; k++) {
        uint64_t shared = one(&c, k, &grown).work_bytes;
        CU_ASSERT(shared < alone / 2);
    }
    chips_free(&c);
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"resident", test_resident},
                           {"said before", test_said_before},
                           {"as wide as held", test_as_wide_as_held},
                           CU_TEST_INFO_NULL};
    return run_suite("sizes", tests);
}
