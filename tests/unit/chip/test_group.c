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
    cl_chip_table chips[MOST];
    held_crew *crews[MOST];
    tiny_rows *rows; /* where rows of logits go now */
    cl_samples samples;
    cl_sampled sampled[MOST][4];
    int32_t ids[MOST][N];
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
        memcpy((float *)to->data + at + first, (float *)part->data + at + first, (size_t)n * sizeof(float));
    }
}

static cl_gathered gather(void *ctx, const cl_region *regions, int n)
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
    return (cl_gathered){.bytes = bytes};
}

typedef struct call {
    stage *s;
    int member;
    const cl_microbatch *mb;
} call;

static void *one_chip(void *arg)
{
    call *c = arg;
    const cl_chip_table *chip = &c->s->chips[c->member];
    cl_samples out = {.parts = c->s->sampled[c->member], .ids = c->s->ids[c->member]};
    chip->step(chip->ctx, c->mb, c->s->x[c->member]);
    chip->sample(chip->ctx, c->mb, c->s->x[c->member], &out);
    if (c->member == 0) c->s->samples = out;
    return NULL;
}

static void stage_step(stage *s, const cl_microbatch *mb)
{
    pthread_t threads[MOST];
    call calls[MOST];
    for (int i = 0; i < s->members; i++) {
        calls[i] = (call){s, i, mb};
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
        cl_extent *parts;
        int n_parts;
        s->seats[i] = (struct seat){s, i};
        s->groups[i] =
            (cl_group){.member = i, .members = members, .memory = s->memory[i], .gather = gather, .ctx = &s->seats[i]};
        o.group = &s->groups[i];
        s->crews[i] = crew_hold(cl_crew_threads(opt->crew));
        o.crew = s->crews[i]->crew;
        CU_ASSERT_EQUAL_FATAL(cl_placement_slice(m->model, &s->placement, i, &parts, &n_parts, &err), CL_OK);
        o.rows = (cl_row_observer){&s->rows, tiny_keep};
        if (cl_chip_create(&s->chips[i], m->model, &m->reader, &s->plan, parts, n_parts, &o, NULL, &err)) puts(err.msg);
        CU_ASSERT_EQUAL_FATAL(err.code, CL_OK);
        n += s->chips[i].sizes(s->chips[i].ctx).slice_bytes;
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
        s->chips[i].free(s->chips[i].ctx);
        crew_let_go(s->crews[i]);
        if (!s->copies && i) continue;
        free(s->memory[i]);
        free(s->x[i]);
    }
    pthread_barrier_destroy(&s->barrier);
}

/* --- the same rows --- */

/* Positions at .. end - 1 of slot 0, which holds those before. */
static void run(stage *s, int at, int end, int chunk, tiny_rows *out)
{
    const int first = at;
    for (int n; at < end; at += n) {
        n = end - at < chunk ? end - at : chunk;
        cl_part part = {.slot = 0,
                        .pos = at,
                        .n_tokens = n,
                        .fork = at ? 0 : -1,
                        .flags = CL_PART_ROWS | (at > first ? 0 : CL_PART_BEGIN)};
        int32_t ids[N];
        for (int i = 0; i < n; i++) ids[i] = tiny_id(0, at + i);
        const cl_microbatch mb = {.n_parts = 1, .n_tokens = n, .parts = &part, .ids = ids};
        s->rows = out;
        stage_step(s, &mb);
        s->rows = NULL;
    }
}

static bool same(const tiny *m, int members, experts mode, bool copies, int chunk, const cl_chip_options *o)
{
    static tiny_rows got;
    stage s;
    memset(&got, 0xff, sizeof got);
    got.calls = 0;
    stage_make(&s, m, members, mode, copies, o);
    run(&s, 0, N, chunk, &got);
    for (int i = 1; i < members; i++) CU_ASSERT(s.gathers[i] == s.gathers[0] && s.gathers[i] > 0);
    stage_free(&s);
    bool ok = got.calls == N && memcmp(want.row[0], got.row[0], N * sizeof got.row[0][0]) == 0;
    if (!ok)
        printf("%d chips, experts %d, copies %d, chunk %d, threads %d: other bits\n", members, mode, copies, chunk,
               cl_crew_threads(o->crew));
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
        o.crew = crew_of(2);
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

/* --- caches that move --- */

/* Slot 0 of `to` gets what that of `from` holds, end positions: of every head from the first chip that has it. */
static void move_cache(const tiny *m, const stage *from, stage *to, int end)
{
    unsigned char rows[N * 2 * 100 * sizeof(float)];
    const cl_chip_table *some = &from->chips[0];
    int first[TINY_LAYERS];
    for (int l = 0; l < TINY_LAYERS; l++) first[l] = some->cache_first(some->ctx, l, 0);
    for (int i = 0; i < to->members; i++) {
        const cl_chip_table *in = &to->chips[i];
        in->cache_expect(in->ctx, 0, first, end);
        for (int l = 0; l < TINY_LAYERS; l++) {
            const cl_attention *a = &m->spec.layers[l].attn;
            const cl_heads own = cl_split_heads(a, to->members, i);
            for (int head = own.kv0; own.q && head < own.kv0 + own.kv; head++) {
                int whose = 0, at = in->cache_first(in->ctx, l, 0);
                cl_heads h = cl_split_heads(a, from->members, 0);
                while (!h.q || head < h.kv0 || head >= h.kv0 + h.kv) h = cl_split_heads(a, from->members, ++whose);
                CU_ASSERT_FATAL(whose < from->members);
                some = &from->chips[whose];
                some->cache_out(some->ctx, l, 0, head, at, end - at, rows);
                in->cache_in(in->ctx, l, 0, head, at, end - at, rows);
            }
        }
    }
}

/* A prompt read by `members` chips, continued by `then`, with other rings. */
static void check_move(int which, cl_kv_format kv, int members, int then)
{
    static tiny_rows got;
    stage a, b;
    tiny m = tiny_make(tiny_any(which), CL_F32, true);
    cl_chip_options o = tiny_options(1, 9, NULL), other = o;
    o.kv = other.kv = kv;
    other.limits.chunk = N;
    other.limits.slots = 2;
    stage_make(&a, &m, members, SLICED, true, &o);
    stage_make(&b, &m, then, WHOLE, false, &other);
    memset(&want, 0xff, sizeof want);
    memset(&got, 0xff, sizeof got);
    run(&a, 0, 29, 9, &want);
    run(&b, 0, 3, 3, &got);
    move_cache(&m, &a, &b, 29);
    run(&a, 29, N, 9, &want);
    run(&b, 29, N, 4, &got);
    CU_ASSERT_EQUAL(memcmp(want.row[0][29], got.row[0][29], (N - 29) * sizeof got.row[0][0]), 0);
    stage_free(&a);
    stage_free(&b);
    tiny_free(&m);
}

static void test_move(void)
{
    for (int which = 0; which < TINY_SPECS; which++) {
        check_move(which, CL_KV_F32, 1, 3);
        check_move(which, CL_KV_BF16, 3, 2);
        check_move(which, CL_KV_Q8, 2, 5);
    }
}

/* --- the best candidates of each chip instead of whole rows --- */

/* Three sequences of one micro-batch, two of them drawing: each with options of its own. */
static void sample_once(stage *s, const cl_sampling *first, const cl_sampling *second)
{
    cl_part parts[3] = {{.slot = 2, .n_tokens = 9, .n_outputs = 1, .sampling = *first},
                        {.slot = 0, .n_tokens = 4},
                        {.slot = 3, .n_tokens = 2, .n_outputs = 1, .sampling = *second}};
    int32_t ids[15];
    int n = 0;
    for (int p = 0; p < 3; p++) {
        parts[p].fork = -1;
        parts[p].flags = CL_PART_BEGIN;
        for (int i = 0; i < parts[p].n_tokens; i++) ids[n++] = tiny_id(parts[p].slot, i);
    }
    const cl_microbatch mb = {.n_parts = 3, .n_tokens = n, .parts = parts, .ids = ids};
    stage_step(s, &mb);
}

static void test_candidates(void)
{
    static const cl_sampling options[] = {{.top_p = 1, .repeat_penalty = 1},
                                          {.top_p = 1, .repeat_penalty = 5},
                                          {.temperature = 2, .top_k = 40, .top_p = 1, .repeat_penalty = 1, .seed = 3},
                                          {.temperature = 1, .top_k = 5, .top_p = 0.9f, .repeat_penalty = 1, .seed = 4},
                                          {.temperature = 3, .top_p = 1, .repeat_penalty = 1.5f, .seed = 5}};
    enum { OPTIONS = sizeof options / sizeof *options };
    tiny m = tiny_make(tiny_any(TINY_DENSE), CL_Q8_0, false);
    cl_chip_options o = tiny_options(1, N, NULL);
    int32_t truth[OPTIONS][2];
    for (int members = 1; members <= MOST; members++) {
        stage s;
        stage_make(&s, &m, members, SLICED, members % 2, &o);
        for (int i = 0; i < OPTIONS; i++) {
            uint64_t before = s.bytes[0];
            sample_once(&s, &options[i], &options[(i + 2) % OPTIONS]);
            CU_ASSERT(s.samples.n_ids == 2 && s.samples.parts[1].n == 0);
            for (int k = 0; k < 2; k++) {
                int32_t id = s.samples.ids[s.samples.parts[2 * k].first];
                if (members == 1) truth[i][k] = id;
                else CU_ASSERT_EQUAL(id, truth[i][k]);
            }
            CU_ASSERT((s.bytes[0] > before) == (members > 1));
        }
        stage_free(&s);
    }
    CU_ASSERT(truth[0][0] != truth[1][0] || truth[2][0] != truth[0][0]);
    tiny_free(&m);
}

/* --- guesses --- */

/* What a sequence generates, token by token and with guesses that are right and wrong: the same ids and digest. */
typedef struct run_of {
    int n;
    int32_t ids[N];
    uint64_t digest;
} run_of;

static run_of generate(stage *s, const cl_sampling *o, uint32_t flags, int guesses, unsigned *seed, const run_of *truth)
{
    enum { PROMPT = 5, END = 30 };
    run_of r = {0};
    int32_t all[N + 8];
    int known = PROMPT, sent = 0;
    for (int i = 0; i < PROMPT; i++) all[i] = tiny_id(1, i);
    while (known < END) {
        int n = known - sent, g = guesses ? (int)(rand_r(seed) % (unsigned)(guesses + 1)) : 0;
        if (known == PROMPT || known + g >= END) g = 0;
        for (int i = 0; i < g; i++) { /* now and then one is wrong, and what follows it is what would have followed */
            all[known + i] = truth->ids[known - PROMPT + i];
            if (rand_r(seed) % 3 == 0) all[known + i] = (all[known + i] + 1) % TINY_VOCAB;
        }
        cl_part part = {.slot = 1,
                        .pos = sent,
                        .n_tokens = n + g,
                        .n_outputs = g + 1,
                        .n_guesses = g,
                        .fork = -1,
                        .flags = flags | (sent ? 0 : CL_PART_BEGIN),
                        .sampling = *o};
        const cl_microbatch mb = {.n_parts = 1, .n_tokens = n + g, .parts = &part, .ids = all + sent};
        stage_step(s, &mb);
        const cl_sampled *got = &s->samples.parts[0];
        int good = 0;
        while (good < g && all[known + good] == truth->ids[known - PROMPT + good]) good++;
        CU_ASSERT_FATAL(got->n == good + 1 && !got->is_void);
        for (int i = 0; i < got->n; i++) all[known++] = s->samples.ids[got->first + i];
        sent = known - 1;
        r.digest = got->digest;
    }
    r.n = known - PROMPT;
    memcpy(r.ids, all + PROMPT, (size_t)r.n * sizeof *r.ids);
    return r;
}

static void test_guesses(void)
{
    static const cl_sampling options[] = {{.top_p = 1, .repeat_penalty = 1},
                                          {.temperature = 1, .top_k = 9, .top_p = 1, .repeat_penalty = 3, .seed = 3},
                                          {.temperature = 1, .top_p = 0.9f, .repeat_penalty = 1.2f, .seed = 5}};
    unsigned seed = 1;
    for (int which = 0; which < TINY_SPECS; which++) {
        tiny m = tiny_make(tiny_any(which), CL_F32, false);
        cl_chip_options o = tiny_options(1, N, NULL);
        for (int i = 0; i < 6; i++) {
            const cl_sampling *of = &options[i / 2];
            uint32_t flags = i % 2 ? CL_PART_ROWS : 0;
            static tiny_rows rows;
            run_of truth = {0};
            for (int members = 1; members <= 3; members++) {
                stage s;
                stage_make(&s, &m, members, SLICED, members % 2, &o);
                s.rows = &rows;
                rows.calls = 0;
                if (members == 1) truth = generate(&s, of, flags, 0, &seed, NULL);
                int plain = rows.calls;
                run_of r = generate(&s, of, flags, 6, &seed, &truth);
                bool same = r.n == truth.n && memcmp(r.ids, truth.ids, (size_t)truth.n * sizeof *r.ids) == 0;
                CU_ASSERT(same && r.digest == truth.digest && (r.digest != 0) == (flags != 0));
                if (members == 1) CU_ASSERT_EQUAL(rows.calls, 2 * plain); /* rows that do not hold are not shown */
                stage_free(&s);
            }
        }
        tiny_free(&m);
    }
}

/* Guesses that follow each other in parts of their own, sent before the samples of the ones before are known. */
static void test_guesses_in_flight(void)
{
    static const cl_sampling greedy = {.top_p = 1, .repeat_penalty = 1};
    tiny m = tiny_make(tiny_any(TINY_DENSE), CL_F32, false);
    cl_chip_options o = tiny_options(1, N, NULL);
    unsigned seed = 2;
    for (int members = 1; members <= 2; members++) {
        stage s;
        stage_make(&s, &m, members, SLICED, false, &o);
        run_of truth = generate(&s, &greedy, 0, 0, &seed, NULL);
        int32_t prompt[5];
        for (int i = 0; i < 5; i++) prompt[i] = tiny_id(1, i);
        /* the prompt, a right guess, a wrong one, one behind it that is void, the right id, a right guess */
        const struct {
            int pos, n, guess;
            int32_t id;
            int samples, is_void;
        } parts[] = {{0, 5, 0, 0, 1, 0},
                     {5, 1, 1, truth.ids[0], 1, 0},
                     {6, 1, 1, (truth.ids[1] + 1) % TINY_VOCAB, 0, 1},
                     {7, 1, 1, truth.ids[2], 0, 1},
                     {6, 1, 0, truth.ids[1], 1, 0},
                     {7, 1, 1, truth.ids[2], 1, 0}};
        int next = 0;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            cl_part part = {.slot = 1,
                            .pos = parts[i].pos,
                            .n_tokens = parts[i].n,
                            .n_outputs = 1,
                            .n_guesses = parts[i].guess,
                            .fork = -1,
                            .flags = i ? 0 : CL_PART_BEGIN,
                            .sampling = greedy};
            int32_t id = parts[i].id;
            const cl_microbatch mb = {.n_parts = 1, .n_tokens = parts[i].n, .parts = &part, .ids = i ? &id : prompt};
            stage_step(&s, &mb);
            const cl_sampled *got = &s.samples.parts[0];
            CU_ASSERT(got->n == parts[i].samples && got->is_void == parts[i].is_void);
            if (got->n) CU_ASSERT_EQUAL(s.samples.ids[got->first], truth.ids[next++]);
        }
        CU_ASSERT_EQUAL(next, 4);
        stage_free(&s);
    }
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"dense", test_dense},
                           {"moe", test_moe},
                           {"sinks", test_sinks},
                           {"latent", test_latent},
                           {"chunked", test_chunked},
                           {"caches that move", test_move},
                           {"candidates", test_candidates},
                           {"guesses", test_guesses},
                           {"guesses in flight", test_guesses_in_flight},
                           CU_TEST_INFO_NULL};
    return run_suite("group", tests);
}
