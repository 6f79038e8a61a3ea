/* test_group.c: a stage of several chips in one process, a thread each, gives the bits of one chip: rows of
 * everything or whole experts, in shared memory or in copies, whatever the threads and chunks. */
#include <pthread.h>

#include "tiny.h"

enum { N = 40, MOST = 7 };
static tiny_rows want;

/* --- a stage --- */

typedef struct stage {
    int members;
    bool copies; /* every chip has its own memory */
    pthread_barrier_t barrier;
    float *memory[MOST], *x[MOST];
    const cl_region *regions[MOST];
    cl_placement placement;
    cl_stage plan;
    cl_chip *chips[MOST];
    cl_group groups[MOST];
    struct seat {
        struct stage *stage;
        int member;
    } seats[MOST];
    uint64_t gathers[MOST], bytes[MOST];
} stage;

/* Takes member `from`'s part of a region into one's own copy. */
static void copy_part(const cl_region *to, const cl_region *part, int member, int from)
{
    for (int r = 0; r < to->rows; r++) {
        size_t at = (size_t)r * to->stride;
        int first = 0, n = to->width;
        if (to->owner && to->owner[r] != from) continue;
        if (to->cut) {
            int whose = to->owner ? member : from;
            first = to->cut[whose];
            n = to->cut[whose + 1] - first;
        }
        memcpy(to->data + at + first, part->data + at + first, (size_t)n * sizeof(float));
    }
}

static uint64_t gather(void *ctx, const cl_region *regions, int n)
{
    struct seat *seat = ctx;
    stage *s = seat->stage;
    uint64_t bytes = 0;
    s->regions[seat->member] = regions;
    pthread_barrier_wait(&s->barrier);
    for (int i = 0; i < n; i++) {
        bytes += cl_region_bytes(&regions[i], seat->member, s->members);
        if (!s->copies || (regions[i].to >= 0 && regions[i].to != seat->member)) continue;
        for (int from = 0; from < s->members; from++)
            if (from != seat->member) copy_part(&regions[i], &s->regions[from][i], seat->member, from);
    }
    if (s->copies) pthread_barrier_wait(&s->barrier); /* others may write theirs again */
    s->gathers[seat->member]++;
    s->bytes[seat->member] += bytes;
    return bytes;
}

typedef struct call {
    stage *s;
    int member;
    const cl_microbatch *mb;
    const cl_head_reader *reader;
} call;

static void *one_chip(void *arg)
{
    call *c = arg;
    cl_chip_step(c->s->chips[c->member], c->mb, c->s->x[c->member]);
    cl_chip_head(c->s->chips[c->member], c->mb, c->s->x[c->member], c->reader);
    return NULL;
}

static void stage_step(stage *s, const cl_microbatch *mb, const cl_head_reader *reader)
{
    pthread_t threads[MOST];
    call calls[MOST];
    for (int i = 0; i < s->members; i++) {
        calls[i] = (call){s, i, mb, reader};
        for (int k = 0; k < N * 100; k++) s->x[i][k] = NAN;
    }
    for (int i = 1; i < s->members; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, one_chip, &calls[i]), 0);
    one_chip(&calls[0]);
    for (int i = 1; i < s->members; i++) pthread_join(threads[i], NULL);
}

/* Expert e of each layer on chip e % members; copied: every third one on the next chip too. */
static void make_maps(cl_placement *p, const cl_spec *spec, int members, bool copied)
{
    p->experts = calloc((size_t)spec->n_layers, sizeof *p->experts);
    for (int l = 0; l < spec->n_layers; l++) {
        cl_expert_map *map = &p->experts[l];
        map->experts = spec->layers[l].ffn.experts;
        map->first = calloc((size_t)map->experts + 1, sizeof *map->first);
        map->member = calloc(2 * (size_t)map->experts + 1, sizeof *map->member);
        for (int e = 0; e < map->experts; e++) {
            int a = e % members, b = (a + 1) % members, n = map->first[e];
            bool twice = copied && e % 3 == 0 && a != b;
            map->member[n] = twice && b < a ? b : a;
            if (twice) map->member[n + 1] = b < a ? a : b;
            map->first[e + 1] = n + (twice ? 2 : 1);
        }
    }
}

typedef enum experts { SLICED, WHOLE, COPIED } experts;

static void stage_make(stage *s, const tiny *m, int members, experts mode, bool copies, const cl_chip_options *opt)
{
    cl_err err = {0};
    *s = (stage){.members = members, .copies = copies};
    pthread_barrier_init(&s->barrier, NULL, (unsigned)members);
    s->plan = (cl_stage){.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = members};
    s->placement = (cl_placement){.n_ranks = members, .n_stages = 1, .stages = &s->plan};
    if (mode != SLICED) make_maps(&s->placement, &m->spec, members, mode == COPIED);
    cl_chip_options o = *opt;
    o.experts = s->placement.experts;
    size_t bytes = cl_chip_exchange_bytes(&m->spec, &s->plan, &o), n = 0;
    for (int i = 0; i < members; i++) {
        bool own = copies || i == 0;
        s->memory[i] = own ? aligned_alloc(64, bytes) : s->memory[0];
        s->x[i] = own ? calloc(N * 100, sizeof(float)) : s->x[0];
        if (own) memset(s->memory[i], 0xff, bytes);
    }
    for (int i = 0; i < members; i++) {
        cl_part *parts;
        int n_parts;
        s->seats[i] = (struct seat){s, i};
        s->groups[i] =
            (cl_group){.member = i, .members = members, .memory = s->memory[i], .gather = gather, .ctx = &s->seats[i]};
        o.group = &s->groups[i];
        CU_ASSERT_EQUAL_FATAL(cl_placement_slice(m->model, &s->placement, i, &parts, &n_parts, &err), CL_OK);
        if (cl_chip_create(&s->chips[i], m->file, &s->plan, parts, n_parts, &o, NULL, &err)) puts(err.msg);
        CU_ASSERT_EQUAL_FATAL(err.code, CL_OK);
        n += cl_chip_slice_bytes(s->chips[i]);
        free(parts);
    }
    CU_ASSERT(n > 0);
}

static void stage_free(stage *s)
{
    for (int l = 0; s->placement.experts && l < TINY_LAYERS; l++) {
        free(s->placement.experts[l].first);
        free(s->placement.experts[l].member);
    }
    free(s->placement.experts);
    for (int i = 0; i < s->members; i++) {
        cl_chip_free(s->chips[i]);
        if (!s->copies && i) continue;
        free(s->memory[i]);
        free(s->x[i]);
    }
    pthread_barrier_destroy(&s->barrier);
}

/* --- the same rows --- */

static void run(stage *s, int chunk, tiny_rows *out)
{
    const cl_head_reader reader = {.whole_rows = true, .row = tiny_keep, .ctx = out};
    for (int at = 0, n; at < N; at += n) {
        n = N - at < chunk ? N - at : chunk;
        cl_seq_part part = {.slot = 0, .pos = at, .n_tokens = n, .flags = CL_PART_ROWS};
        int32_t ids[N];
        for (int i = 0; i < n; i++) ids[i] = tiny_id(0, at + i);
        const cl_microbatch mb = {.n_parts = 1, .n_tokens = n, .parts = &part, .ids = ids};
        out->mb = &mb;
        stage_step(s, &mb, &reader);
        out->mb = NULL;
    }
}

static bool same(const tiny *m, int members, experts mode, bool copies, int chunk, const cl_chip_options *o)
{
    static tiny_rows got;
    stage s;
    memset(&got, 0xff, sizeof got);
    got.calls = 0;
    stage_make(&s, m, members, mode, copies, o);
    run(&s, chunk, &got);
    for (int i = 1; i < members; i++) CU_ASSERT(s.gathers[i] == s.gathers[0] && s.gathers[i] > 0);
    stage_free(&s);
    bool ok = got.calls == N && memcmp(want.row[0], got.row[0], N * sizeof got.row[0][0]) == 0;
    if (!ok)
        printf("%d chips, experts %d, copies %d, chunk %d, threads %d: other bits\n", members, mode, copies, chunk,
               o->threads);
    return ok;
}

static void check(int which)
{
    static const struct {
        cl_activations act;
        cl_kv_format kv;
    } arithmetic[] = {{CL_ACT_Q16, CL_KV_F32}, {CL_ACT_MIXED, CL_KV_BF16}};
    tiny_outlier = 40;
    tiny m = tiny_make(tiny_any(which), CL_F32, true);
    tiny_outlier = 1;
    for (int i = 0; i < 2; i++) {
        cl_chip_options o = tiny_options(1, N, NULL);
        o.activations = arithmetic[i].act;
        o.kv = arithmetic[i].kv;
        tiny_line l = tiny_chips(&m, 1, &o, NULL);
        memset(&want, 0xff, sizeof want);
        tiny_run(&l, N, 1, &want);
        tiny_line_free(&l);
        for (int members = 2; members <= MOST; members++) {
            CU_ASSERT(same(&m, members, SLICED, members % 2, members == 2 ? 1 : N, &o));
            CU_ASSERT(same(&m, members, WHOLE, members % 2 == 0, members == 3 ? 1 : N, &o));
            CU_ASSERT(same(&m, members, COPIED, members % 2, 7, &o));
        }
        o.threads = 2;
        for (int copies = 0; copies < 2; copies++) {
            CU_ASSERT(same(&m, 3, SLICED, copies, 9, &o));
            CU_ASSERT(same(&m, 2, COPIED, copies, N, &o));
        }
    }
    tiny_free(&m);
}

static void test_dense(void) { check(TINY_DENSE); }
static void test_moe(void) { check(TINY_MOE); }
static void test_sinks(void) { check(TINY_SINKS); }
static void test_latent(void) { check(TINY_LATENT); }
static void test_chunked(void) { check(TINY_CHUNKED); }

/* --- a few numbers of each chip instead of whole rows --- */

typedef struct seen {
    const cl_microbatch *mb;
    pthread_mutex_t lock;
    int rows, merged, members;
    bool wrong;
} seen;

/* What a chip passes on: where its rows begin, how many, and its logit of the first. */
static void pass_on(void *ctx, int part, int token, const float *logits, int first, int n, float *numbers)
{
    seen *s = ctx;
    const cl_seq_part *p = &s->mb->parts[part];
    pthread_mutex_lock(&s->lock);
    s->rows++;
    s->wrong |= n && memcmp(logits, want.row[p->slot][p->pos + token] + first, (size_t)n * sizeof *logits);
    pthread_mutex_unlock(&s->lock);
    numbers[0] = (float)first;
    numbers[1] = (float)n;
    numbers[2] = n ? logits[0] : 0;
}

static void merged(void *ctx, int part, const float *numbers)
{
    seen *s = ctx;
    const cl_seq_part *p = &s->mb->parts[part];
    int next = 0;
    for (int i = 0; i < s->members; i++, numbers += 3) {
        int first = (int)numbers[0], n = (int)numbers[1];
        s->wrong |= n && (first != next || numbers[2] != want.row[p->slot][p->pos + p->n_tokens - 1][first]);
        next = n ? first + n : next;
    }
    s->wrong |= next != TINY_VOCAB;
    s->merged++;
}

static void test_candidates(void)
{
    tiny m = tiny_make(tiny_any(TINY_DENSE), CL_Q8_0, false);
    cl_chip_options o = tiny_options(1, N, NULL);
    tiny_line l = tiny_chips(&m, 1, &o, NULL);
    int at[4] = {0}, take[4] = {4, 0, 9, 1};
    memset(&want, 0xff, sizeof want);
    tiny_step(&l, at, take, CL_PART_ROWS, &want);
    tiny_line_free(&l);
    for (int members = 2; members <= MOST; members++) {
        stage s;
        stage_make(&s, &m, members, SLICED, members % 2, &o);
        cl_seq_part parts[3] = {{.slot = 2, .n_tokens = 9, .flags = CL_PART_SAMPLE},
                                {.slot = 0, .n_tokens = 4},
                                {.slot = 3, .n_tokens = 1, .flags = CL_PART_SAMPLE}};
        int32_t ids[14];
        int n = 0;
        for (int p = 0; p < 3; p++)
            for (int i = 0; i < parts[p].n_tokens; i++) ids[n++] = tiny_id(parts[p].slot, i);
        const cl_microbatch mb = {.n_parts = 3, .n_tokens = n, .parts = parts, .ids = ids};
        seen got = {.mb = &mb, .lock = PTHREAD_MUTEX_INITIALIZER, .members = members};
        stage_step(&s, &mb, &(cl_head_reader){.numbers = 3, .row = pass_on, .merged = merged, .ctx = &got});
        CU_ASSERT(!got.wrong && got.rows == 2 * members && got.merged == 2);
        stage_free(&s);
    }
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"dense", test_dense},   {"moe", test_moe},         {"sinks", test_sinks},
                           {"latent", test_latent}, {"chunked", test_chunked}, {"candidates", test_candidates},
                           CU_TEST_INFO_NULL};
    return run_suite("group", tests);
}
