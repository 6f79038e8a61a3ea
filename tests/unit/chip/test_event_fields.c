/* test_event_fields.c: every field of every event of a step, for each kind of layer, in several tiles: alone, and as
 * one chip of three, whose other chips are made up. */
#include "chipline/util.h"
#include "inside.h"
#include "tiny.h"

enum { TOKENS = 19, LAST_TILE = 3, MOST_EVENTS = 512, MICROBATCH = 77, MESSAGES = 3 };

/* A stage of which only one chip is there: whatever it would get is what its memory holds. */
typedef struct lone {
    const tiny *m;
    cl_stage stage;
    cl_placement placement;
    cl_group group;
    cl_chip_table chip;
    int gathers, polls;
    bool rows; /* of all tokens, instead of candidates after the last ones */
} lone;

static uint64_t gather_bytes(int i) { return 1000 + 7 * (uint64_t)i; }

static cl_gathered pretend(void *ctx, const cl_region *regions, int n)
{
    lone *l = ctx;
    CU_ASSERT(regions && n >= 1 && n <= 2);
    for (uint64_t begun = cl_now_ns(); cl_now_ns() - begun < 2000;) cl_spin();
    return (cl_gathered){.bytes = gather_bytes(l->gathers++), .messages = MESSAGES};
}

static void count(void *ctx) { ++*(int *)ctx; }

/* Expert e of each layer on chip e % members. */
static void make_maps(lone *l)
{
    l->placement.experts = calloc(TINY_LAYERS, sizeof *l->placement.experts);
    for (int i = 0; i < TINY_LAYERS; i++) {
        cl_expert_map *map = &l->placement.experts[i];
        map->experts = l->m->spec.layers[i].ffn.experts;
        map->first = calloc((size_t)map->experts + 1, sizeof *map->first);
        map->member = calloc((size_t)map->experts + 1, sizeof *map->member);
        for (int e = 0; e < map->experts; e++) map->first[e + 1] = e + 1, map->member[e] = e % l->stage.n_ranks;
    }
}

static void make(lone *l, const tiny *m, int member, int members, bool whole, cl_trace *trace)
{
    cl_err err = {0};
    cl_extent *parts = NULL;
    int n = 0;
    *l = (lone){.m = m, .stage = {.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = members}};
    l->placement = (cl_placement){.n_ranks = members, .n_stages = 1, .stages = &l->stage};
    if (whole) make_maps(l);
    cl_chip_options o = tiny_options(2, TOKENS, "reference");
    o.experts = l->placement.experts;
    o.memory_bytes = 1; /* tiles as short as they may be: 8 tokens */
    o.poll = count;
    o.poll_ctx = &l->polls;
    size_t bytes = cl_chip_exchange_bytes(&m->spec, &l->stage, &o);
    l->group = (cl_group){.member = member,
                          .members = members,
                          .memory = aligned_alloc(64, bytes),
                          .gather = pretend,
                          .ctx = l};
    memset(l->group.memory, 0, bytes);
    if (members > 1) o.group = &l->group;
    CU_ASSERT_EQUAL_FATAL(cl_placement_slice(m->model, &l->placement, member, &parts, &n, &err), CL_OK);
    if (cl_chip_create(&l->chip, m->model, &m->reader, &l->stage, parts, n, &o, trace, &err)) puts(err.msg);
    CU_ASSERT_EQUAL_FATAL(err.code, CL_OK);
    free(parts);
}

static void lone_free(lone *l)
{
    l->chip.free(l->chip.ctx);
    free(l->group.memory);
    for (int i = 0; l->placement.experts && i < TINY_LAYERS; i++) {
        free(l->placement.experts[i].first);
        free(l->placement.experts[i].member);
    }
    free(l->placement.experts);
}

/* One micro-batch of two sequences; both draw. */
static void run(lone *l)
{
    static float x[TOKENS * 100];
    cl_part parts[2];
    int32_t ids[TOKENS], drawn[TOKENS];
    cl_sampled sampled[2];
    cl_samples out = {.parts = sampled, .ids = drawn};
    for (int i = 0; i < 2; i++)
        parts[i] = (cl_part){.slot = 2 - i,
                             .n_tokens = i ? 8 : 11,
                             .n_outputs = 1,
                             .fork = -1,
                             .flags = CL_PART_BEGIN | (l->rows ? CL_PART_ROWS : 0),
                             .sampling = {.top_p = 1, .repeat_penalty = 1}};
    for (int i = 0; i < TOKENS; i++) ids[i] = tiny_id(i >= 11, i);
    const cl_microbatch mb = {.id = MICROBATCH, .n_parts = 2, .n_tokens = TOKENS, .parts = parts, .ids = ids};
    memset(x, 0, sizeof x);
    l->polls = 0;
    l->chip.step(l->chip.ctx, &mb, x);
    CU_ASSERT_EQUAL(l->polls, TINY_LAYERS);
    l->chip.sample(l->chip.ctx, &mb, x, &out);
    CU_ASSERT_EQUAL(out.microbatch, MICROBATCH);
    CU_ASSERT_EQUAL(out.n_parts, 2);
}

/* --- what they must say --- */

static uint64_t bytes_of(const lone *l, int layer, const cl_role *roles, int n)
{
    const cl_chip *c = (const cl_chip *)l->chip.ctx;
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        const cl_matrix *m = &slice_get(&c->fixed.slice, roles[i], layer)->m;
        bool heads = roles[i] == CL_T_K_B || roles[i] == CL_T_V_B;
        bytes += slice_expert_bytes(m) * (heads ? (uint64_t)m->experts : 1);
    }
    return bytes;
}
#define BYTES_OF(L, LAYER, ...) \
    bytes_of(L, LAYER, (const cl_role[]){__VA_ARGS__}, (int)(sizeof((const cl_role[]){__VA_ARGS__}) / sizeof(cl_role)))

static uint64_t weights(const lone *l, const cl_event *e)
{
    const bool moe = e->layer >= 0 && l->m->spec.layers[e->layer].ffn.kind == CL_FFN_MOE;
    const cl_role head = l->m->spec.tied ? CL_T_EMBED : CL_T_HEAD;
    switch (e->kind) {
    case CL_EV_QKV: return BYTES_OF(l, e->layer, CL_T_Q_A, CL_T_Q, CL_T_K, CL_T_V, CL_T_KV_A, CL_T_K_B);
    case CL_EV_ATTN_OUT: return BYTES_OF(l, e->layer, CL_T_O, CL_T_V_B);
    case CL_EV_ROUTE: return BYTES_OF(l, e->layer, CL_T_ROUTER, CL_T_SHARED_GATE, CL_T_SHARED_UP);
    case CL_EV_FFN:
        if (!moe) return BYTES_OF(l, e->layer, CL_T_GATE, CL_T_UP, CL_T_DOWN);
        return (uint64_t)e->experts * BYTES_OF(l, e->layer, CL_T_EXPERT_GATE, CL_T_EXPERT_UP, CL_T_EXPERT_DOWN) +
               BYTES_OF(l, e->layer, CL_T_SHARED_DOWN);
    case CL_EV_HEAD: return BYTES_OF(l, -1, head);
    default: return 0;
    }
}

/* What a layer's own events, or the exchanges before another outer one, add up to. */
typedef struct sums {
    uint64_t weights, kv, bytes, ns;
    int experts, gathers;
} sums;

static void check_gather(const cl_event *e, int *gathers, sums *s)
{
    CU_ASSERT_EQUAL(e->msg_bytes, gather_bytes(*gathers));
    CU_ASSERT(e->gathers == 1 && e->gather_messages == MESSAGES);
    CU_ASSERT(e->gather_ns >= 2000 && e->gather_ns <= e->end_ns - e->start_ns);
    CU_ASSERT(!e->weight_bytes && !e->kv_bytes && !e->experts);
    s->bytes += e->msg_bytes;
    s->ns += e->gather_ns;
    s->gathers++;
    ++*gathers;
}

static void check_outer(const lone *l, const cl_event *e, sums *s)
{
    const cl_chip *c = (const cl_chip *)l->chip.ctx;
    CU_ASSERT_EQUAL(e->msg_bytes, s->bytes);
    CU_ASSERT_EQUAL(e->gathers, s->gathers);
    CU_ASSERT_EQUAL(e->gather_messages, s->gathers * MESSAGES);
    CU_ASSERT(e->gather_ns >= 2000 * (uint64_t)s->gathers && e->gather_ns <= s->ns);
    if (e->kind == CL_EV_LAYER) {
        CU_ASSERT(e->weight_bytes == s->weights && e->kv_bytes == s->kv && e->experts == s->experts);
        CU_ASSERT(e->kv_bytes > 0 || c->fixed.group.members > 1);
    } else if (e->kind == CL_EV_EMBED) {
        const cl_matrix *table = &slice_get(&c->fixed.slice, CL_T_EMBED, -1)->m;
        CU_ASSERT_EQUAL(e->weight_bytes % cl_row_bytes(table->format, table->cols), 0);
        CU_ASSERT(e->weight_bytes > 0 && e->kv_bytes == 0 && e->experts == 0);
    } else {
        CU_ASSERT(e->weight_bytes == weights(l, e) && e->kv_bytes == 0 && e->experts == 0);
    }
    *s = (sums){0};
}

static void check_inner(const lone *l, const cl_event *e, sums *s)
{
    const bool moe = l->m->spec.layers[e->layer].ffn.kind == CL_FFN_MOE;
    CU_ASSERT(!e->msg_bytes && !e->gathers && !e->gather_messages && !e->gather_ns);
    CU_ASSERT_EQUAL(e->weight_bytes, weights(l, e));
    if (e->weight_bytes != weights(l, e)) fprintf(stderr, "kind %d, layer %d\n", e->kind, e->layer);
    if (e->kind != CL_EV_ATTEND) CU_ASSERT_EQUAL(e->kv_bytes, 0);
    CU_ASSERT(e->kind == CL_EV_FFN && moe ? e->experts >= !l->placement.experts : !e->experts);
    s->weights += e->weight_bytes;
    s->kv += e->kv_bytes;
    s->experts += e->experts;
}

/* Tokens of an event: a tile's, or all, or of the head, which takes one row at a time in so little memory. */
static bool right_tokens(const lone *l, const cl_event *e)
{
    const bool candidates = l->stage.n_ranks > 1 && !l->rows;
    switch (e->kind) {
    case CL_EV_HEAD: return e->tokens == 1;
    case CL_EV_SAMPLE: return e->tokens == 1 || (candidates && e->tokens == 2);
    case CL_EV_LAYER:
    case CL_EV_EMBED: return e->tokens == TOKENS;
    case CL_EV_GATHER:
        if (e->layer < 0) return e->tokens == TOKENS || e->tokens == (candidates ? 2 : 1);
        return e->tokens == 8 || e->tokens == LAST_TILE;
    default: return e->tokens == 8 || e->tokens == LAST_TILE;
    }
}

/* How many there are of each kind, and which turn of the logits is next. */
static void check_counts(const lone *l, const int kinds[CL_EV_KINDS])
{
    static const int inner[] = {CL_EV_QKV, CL_EV_ATTEND, CL_EV_ATTN_OUT, CL_EV_FFN};
    const cl_chip *c = (const cl_chip *)l->chip.ctx;
    const int heads = l->rows ? TOKENS : 2, members = l->stage.n_ranks;
    int samples = heads, moe = 0;
    if (members > 1) samples = !l->rows ? heads + 1 : c->fixed.group.member ? 0 : heads;
    for (int i = 0; i < TINY_LAYERS; i++) moe += l->m->spec.layers[i].ffn.kind == CL_FFN_MOE;
    CU_ASSERT(kinds[CL_EV_EMBED] == 1 && kinds[CL_EV_LAYER] == TINY_LAYERS && kinds[CL_EV_ROUTE] == 3 * moe);
    CU_ASSERT_EQUAL(kinds[CL_EV_HEAD], heads);
    CU_ASSERT_EQUAL(kinds[CL_EV_SAMPLE], samples);
    CU_ASSERT_EQUAL(kinds[CL_EV_GATHER], l->gathers);
    CU_ASSERT(c->work.head.turns == (members > 1 ? 2 : 1) && c->work.head.turn == heads % c->work.head.turns &&
              c->work.head.rows == 1);
    for (int k = 0; k < 4; k++) CU_ASSERT_EQUAL(kinds[inner[k]], 3 * TINY_LAYERS);
}

static void check_events(const lone *l, const cl_event *e, uint64_t n)
{
    int gathers = 0, kinds[CL_EV_KINDS] = {0};
    sums s = {0};
    for (; n; n--, e++) {
        CU_ASSERT(e->microbatch == MICROBATCH && e->parts == 2 && e->peer == -1);
        CU_ASSERT(right_tokens(l, e));
        if (!right_tokens(l, e)) fprintf(stderr, "kind %d: %d tokens\n", e->kind, e->tokens);
        kinds[e->kind]++;
        if (e->kind == CL_EV_GATHER) check_gather(e, &gathers, &s);
        else if (cl_event_level((cl_event_kind)e->kind) == CL_TRACE_KERNEL) check_inner(l, e, &s);
        else check_outer(l, e, &s);
    }
    check_counts(l, kinds);
}

static void check(const tiny *m, int member, int members, bool whole, bool rows)
{
    static cl_event e[MOST_EVENTS];
    char path[160];
    cl_trace *trace;
    cl_event_log *f;
    lone l;
    uint64_t n;
    int rank;
    snprintf(path, sizeof path, "%s/part", m->dir);
    CU_ASSERT_EQUAL_FATAL(cl_trace_open(&trace, path, 0, CL_TRACE_KERNEL, NULL), CL_OK);
    make(&l, m, member, members, whole, trace);
    l.rows = rows;
    run(&l);
    cl_trace_close(trace);
    CU_ASSERT_EQUAL_FATAL(cl_event_log_open(&f, path, &rank, &n, NULL), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_event_log_read(f, 0, MOST_EVENTS, e, &n, NULL), CL_OK);
    CU_ASSERT_FATAL(n < MOST_EVENTS);
    cl_event_log_close(f);
    unlink(path);
    check_events(&l, e, n);
    lone_free(&l);
}

static void test_all(void)
{
    for (int which = 0; which < TINY_SPECS; which++) {
        tiny m = tiny_make(tiny_any(which), CL_F32, true);
        check(&m, 0, 1, false, which % 2);
        for (int i = 0; i < 4; i++) check(&m, i % 3, 3, i % 2, i / 2);
        tiny_free(&m);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"every field", test_all}, CU_TEST_INFO_NULL};
    return run_suite("event fields", tests);
}
