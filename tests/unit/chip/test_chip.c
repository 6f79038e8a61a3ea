/* test_chip.c: the same bits from every way of running a chip; events, probe, damaged files. */
#include "aborts.h"
#include "chipline/kernels.h"
#include "chipline/probe.h"
#include "chipline/util.h"
#include "tiny.h"

enum { N = 60 };
static tiny_rows want, got;

static bool same_rows(int slot, int n)
{
    for (int i = 0; i < n; i++)
        if (memcmp(want.row[slot][i], got.row[slot][i], sizeof want.row[0][0])) return false;
    return true;
}

static void clear(tiny_rows *r)
{
    memset(r, 0xff, sizeof *r);
    r->calls = 0;
}

static bool same_run(const tiny *m, int stages, const cl_chip_options *opt, int chunk)
{
    tiny_line l = tiny_chips(m, stages, opt, NULL);
    clear(&got);
    tiny_run(&l, N, chunk, &got);
    tiny_line_free(&l);
    CU_ASSERT_EQUAL(got.calls, N);
    return same_rows(0, N);
}

/* Threads, chunks, kernel sets and stages, for one model and one kind of arithmetic. The reference: one thread, one
 * token at a time. */
static void check_bits(const tiny *m, cl_activations act, cl_kv_format kv)
{
    cl_chip_options base = tiny_options(1, N, NULL);
    base.activations = act;
    base.kv = kv;
    tiny_line l = tiny_chips(m, 1, &base, NULL);
    clear(&want);
    tiny_run(&l, N, 1, &want);
    tiny_line_free(&l);
    CU_ASSERT(same_run(m, 1, &base, 5));
    CU_ASSERT(same_run(m, 1, &base, N));
    for (int threads = 2; threads <= 3; threads++) {
        cl_chip_options o = base;
        o.crew = crew_of(threads);
        CU_ASSERT(same_run(m, 1, &o, threads == 2 ? N : 7));
    }
    cl_chip_options many = base; /* more threads than panels of most matrices */
    many.crew = crew_of(9);
    CU_ASSERT(same_run(m, 1, &many, 17));
    for (int stages = 2; stages <= TINY_LAYERS + 1; stages++)
        CU_ASSERT(same_run(m, stages, &base, stages == 2 ? N : 9));
    for (const char *const *name = cl_kernels_available(); *name; name++) {
        cl_chip_options o = base;
        o.kernels = *name;
        bool same = same_run(m, 1, &o, 11);
        CU_ASSERT(same);
        if (!same) printf("kernels %s differ\n", *name);
    }
    base.limits.chunk = 3; /* the smallest rings */
    CU_ASSERT(same_run(m, 1, &base, 3));
}

static void check_model(int which)
{
    static const struct {
        cl_activations act;
        cl_kv_format kv;
    } arithmetic[] = {{CL_ACT_F32, CL_KV_F32}, {CL_ACT_Q16, CL_KV_Q8}, {CL_ACT_MIXED, CL_KV_BF16}};
    tiny_outlier = 40;
    tiny m = tiny_make(tiny_any(which), CL_F32, true);
    tiny_outlier = 1;
    for (int i = 0; i < 3; i++) check_bits(&m, arithmetic[i].act, arithmetic[i].kv);
    cl_chip_options q8 = tiny_options(1, N, NULL);
    q8.activations = CL_ACT_Q8;
    q8.kv = CL_KV_BF16;
    CU_ASSERT_FALSE(same_run(&m, 1, &q8, N)); /* some blocks did have a second plane */
    tiny_free(&m);
}

static void test_bits_dense(void) { check_model(TINY_DENSE); }
static void test_bits_moe(void) { check_model(TINY_MOE); }
static void test_bits_sinks(void) { check_model(TINY_SINKS); }
static void test_bits_latent(void) { check_model(TINY_LATENT); }
static void test_bits_chunked(void) { check_model(TINY_CHUNKED); }

static void check_tiles(cl_spec s)
{
    tiny m = tiny_make(s, CL_Q4_0, false);
    char path[160];
    snprintf(path, sizeof path, "%s/part", m.dir);
    cl_chip_options o = tiny_options(2, N, NULL);
    o.activations = CL_ACT_AUTO;
    tiny_line l = tiny_chips(&m, 1, &o, NULL);
    clear(&want);
    tiny_run(&l, N, 1, &want);
    tiny_line_free(&l);
    cl_trace *trace;
    CU_ASSERT_EQUAL_FATAL(cl_trace_open(&trace, path, 0, CL_TRACE_KERNEL, NULL), CL_OK);
    l = tiny_chips(&m, 1, &o, trace);
    clear(&got);
    tiny_run(&l, N, N, &got);
    tiny_line_free(&l);
    CU_ASSERT(same_rows(0, N));
    /* embed, 4 heads with their samples, 4 layers; per tile 4 events of each layer and one more where there are
     * experts */
    uint64_t events = cl_trace_count(trace), tiles = (events - 13) / 19;
    CU_ASSERT(tiles > 1 && events == 13 + 19 * tiles);
    cl_trace_close(trace);
    unlink(path);
    tiny_free(&m);
}

/* So many choices or heads per token that a chunk goes through the layers in several tiles: they see each other's
 * keys all the same. */
static void test_tiles(void)
{
    cl_spec s = tiny_spec(true);
    s.layers[1].ffn.experts = s.layers[1].ffn.top_k = 700;
    check_tiles(s);
    s = test_spec_chunked(); /* all experts' inputs weighted, a shared expert next to them */
    s.layers[1].ffn.experts = s.layers[1].ffn.top_k = 700;
    check_tiles(s);
    s = test_spec_latent();
    s.layers[1].attn.heads = 900;
    check_tiles(s);
}

/* Four sequences, each alone and then all in one line, at different speeds and beginning at different times. */
static void check_batch(int which)
{
    tiny m = tiny_make(tiny_any(which), CL_Q4_0, false);
    cl_chip_options o = tiny_options(2, 40, NULL);
    o.activations = CL_ACT_AUTO;
    tiny_line l = tiny_chips(&m, 1, &o, NULL);
    clear(&want);
    for (int slot = 0; slot < 4; slot++) {
        int at[4] = {0}, take[4] = {0};
        for (take[slot] = 6; at[slot] < 36;) tiny_step(&l, at, take, CL_PART_ROWS, &want);
    }
    /* the same slots again, without clearing anything: what they held is forgotten */
    clear(&got);
    int at[4] = {0}, first[4] = {20, 1, 0, 7}, then[4] = {1, 1, 12, 5}, last[4] = {0};
    tiny_step(&l, at, first, CL_PART_ROWS | CL_PART_BEGIN, &got);
    for (int i = 0; i < 3; i++) tiny_step(&l, at, then, CL_PART_ROWS, &got);
    for (int slot = 0; slot < 4; slot++) last[slot] = 36 - at[slot] < 10 ? 36 - at[slot] : 10;
    tiny_step(&l, at, last, CL_PART_ROWS, &got);
    for (int slot = 0; slot < 4; slot++) {
        CU_ASSERT(at[slot] >= 14);
        CU_ASSERT(same_rows(slot, at[slot]));
    }
    tiny_line_free(&l);
    tiny_free(&m);
}

static void test_batch(void)
{
    for (int which = TINY_MOE; which < TINY_SPECS; which++) check_batch(which);
}

static int32_t best(const float *row)
{
    int best = 0;
    for (int i = 1; i < TINY_VOCAB; i++) best = row[i] > row[best] ? i : best;
    return best;
}

/* Which rows are shown, and which ids are drawn. */
static void test_head(void)
{
    tiny m = tiny_make(tiny_spec(false), CL_F32, false);
    cl_chip_options o = tiny_options(1, 64, NULL);
    tiny_line l = tiny_chips(&m, 1, &o, NULL);
    int at[4] = {0}, take[4] = {10, 7, 0, 3}, one[4] = {1, 0, 1, 0};
    clear(&want);
    tiny_step(&l, at, take, CL_PART_ROWS | TINY_SAMPLE | CL_PART_BEGIN, &want);
    CU_ASSERT_EQUAL(want.calls, 20);
    memset(at, 0, sizeof at);
    clear(&got);
    tiny_step(&l, at, take, TINY_SAMPLE | CL_PART_BEGIN, &got);
    CU_ASSERT(got.calls == 0 && got.samples.n_parts == 3 && got.samples.n_ids == 3);
    for (int i = 0; i < 3; i++) {
        const cl_sampled *p = &got.parts[i];
        CU_ASSERT(p->n == 1 && p->digest == 0 && want.parts[i].digest != 0 && !p->is_void);
        CU_ASSERT(p->slot == want.parts[i].slot && p->slot == (i ? 2 - i : 3));
        CU_ASSERT_EQUAL(got.ids[p->first], best(want.row[p->slot][take[p->slot] - 1]));
        CU_ASSERT_EQUAL(want.ids[want.parts[i].first], got.ids[p->first]);
    }
    tiny_step(&l, at, one, 0, &got);
    CU_ASSERT(got.calls == 0 && got.samples.n_ids == 0 && got.samples.n_parts == 2 && got.parts[0].n == 0);
    tiny_line_free(&l);
    tiny_free(&m);
}

/* A slot that held numbers gone wrong gives the next request the same bits as a new one. */
static void check_broken_slot(int which)
{
    tiny m = tiny_make(tiny_any(which), CL_F32, false);
    cl_chip_options o = tiny_options(1, 64, NULL);
    for (int kv = CL_KV_F32; kv <= CL_KV_Q8; kv++) {
        o.kv = (cl_kv_format)kv;
        tiny_line l = tiny_chips(&m, 3, &o, NULL);
        clear(&want);
        tiny_run(&l, 21, 21, &want);
        static float x[40 * 100];
        for (int chip = 1; chip < 3; chip++) { /* the first starts from ids */
            for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = i % 3 ? NAN : INFINITY;
            cl_part part = {.slot = 0, .pos = 0, .n_tokens = 40, .fork = -1, .flags = CL_PART_BEGIN};
            int32_t ids[40] = {0};
            l.chips[chip].step(l.chips[chip].ctx,
                               &(cl_microbatch){.n_parts = 1, .n_tokens = 40, .parts = &part, .ids = ids}, x);
        }
        clear(&got);
        tiny_run(&l, 21, 21, &got);
        CU_ASSERT(same_rows(0, 21));
        CU_ASSERT(isfinite(got.row[0][20][0]));
        tiny_line_free(&l);
    }
    tiny_free(&m);
}

static void test_broken_slot(void)
{
    for (int which = TINY_MOE; which < TINY_SPECS; which++) check_broken_slot(which);
}

static void count_poll(void *ctx) { ++*(int *)ctx; }

/* Loading looks after the line: long files would else make a rank that others take for dead. */
static void test_loading_polls(void)
{
    tiny m = tiny_make(tiny_spec(true), CL_Q8_0, false);
    cl_chip_options o = tiny_options(1, 64, NULL);
    int polls = 0;
    o.poll = count_poll;
    o.poll_ctx = &polls;
    tiny_line l = tiny_chips(&m, 1, &o, NULL);
    CU_ASSERT(polls >= TINY_LAYERS);
    tiny_line_free(&l);
    tiny_free(&m);
}

static uint64_t matrix_bytes(const tiny *m, const cl_kernels *k, bool experts)
{
    uint64_t bytes = 0;
    for (int i = 0; i < m->model->n_tensors; i++) {
        const cl_tensor *t = &m->model->tensors[i];
        if (t->cols == 1 || t->role == CL_T_EMBED || (t->experts && !experts)) continue;
        bytes += (uint64_t)(t->experts ? t->experts : 1) * (uint64_t)((t->rows + 15) / 16) *
                 k->panel_bytes(t->format, t->cols);
    }
    return bytes;
}

/* Events of one step of 50 tokens: kinds, counts, and bytes that add up to the slice. */
static void test_events(void)
{
    tiny m = tiny_make(tiny_spec(true), CL_Q8_0, false);
    char path[160];
    snprintf(path, sizeof path, "%s/part", m.dir);
    cl_chip_options o = tiny_options(2, 64, NULL);
    int polls = 0, rank;
    o.poll = count_poll;
    o.poll_ctx = &polls;
    cl_trace *trace;
    CU_ASSERT_EQUAL_FATAL(cl_trace_open(&trace, path, 0, CL_TRACE_KERNEL, NULL), CL_OK);
    tiny_line l = tiny_chips(&m, 1, &o, trace);
    polls = 0; /* loading polls, too, now and then */
    clear(&got);
    polls = 0; /* loading polls as often as this thread happened to read a piece */
    tiny_run(&l, 50, 50, &got);
    CU_ASSERT_EQUAL(polls, TINY_LAYERS);

    static cl_event e[64];
    uint64_t n, weights = 0, kernel_weights = 0, kv = 0, kernel_kv = 0, last_ns = 0, kernel_ns = 0;
    double share = 0; /* of a layer that its kernels take: of the one that was least disturbed */
    int count[CL_EV_KINDS] = {0};
    cl_trace_close(trace);
    cl_event_log *f;
    CU_ASSERT_EQUAL_FATAL(cl_event_log_open(&f, path, &rank, &n, NULL), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_event_log_read(f, 0, 64, e, &n, NULL), CL_OK);
    cl_event_log_close(f);
    unlink(path);
    for (uint64_t i = 0; i < n; i++) {
        bool outer = cl_event_level(e[i].kind) == CL_TRACE_LAYER;
        count[e[i].kind]++;
        *(outer ? &weights : &kernel_weights) += e[i].kind == CL_EV_EMBED ? 0 : e[i].weight_bytes;
        *(outer ? &kv : &kernel_kv) += e[i].kv_bytes;
        CU_ASSERT(e[i].end_ns >= e[i].start_ns && e[i].end_ns >= last_ns); /* in the order in which they ended */
        if (!outer) CU_ASSERT(e[i].start_ns >= last_ns);                   /* and one after the other */
        if (!outer) kernel_ns += e[i].end_ns - e[i].start_ns;
        if (e[i].kind == CL_EV_LAYER) {
            CU_ASSERT(kernel_ns <= e[i].end_ns - e[i].start_ns);
            share = fmax(share, (double)kernel_ns / (double)(e[i].end_ns - e[i].start_ns));
            kernel_ns = 0;
        }
        last_ns = e[i].end_ns;
        CU_ASSERT_EQUAL(e[i].tokens, e[i].kind != CL_EV_HEAD && e[i].kind != CL_EV_SAMPLE ? 50
                                     : count[CL_EV_HEAD] == 4                             ? 2
                                                                                          : 16);
        CU_ASSERT_EQUAL(e[i].parts, 1);
        CU_ASSERT_EQUAL(e[i].peer, -1);
        if (e[i].kind == CL_EV_LAYER) CU_ASSERT_EQUAL(e[i].experts, e[i].layer == 2 ? 0 : 6);
        if (e[i].kind == CL_EV_EMBED) CU_ASSERT_EQUAL(e[i].weight_bytes, 50 * cl_row_bytes(CL_Q8_0, 100));
    }
    const cl_kernels *k;
    CU_ASSERT_EQUAL_FATAL(cl_kernels_choose(NULL, &k, NULL), CL_OK);
    CU_ASSERT(share > 0.5);
    CU_ASSERT_EQUAL(count[CL_EV_EMBED], 1);
    CU_ASSERT_EQUAL(count[CL_EV_LAYER], TINY_LAYERS);
    CU_ASSERT_EQUAL(count[CL_EV_QKV], TINY_LAYERS);
    CU_ASSERT_EQUAL(count[CL_EV_ATTEND], TINY_LAYERS);
    CU_ASSERT_EQUAL(count[CL_EV_ATTN_OUT], TINY_LAYERS);
    CU_ASSERT_EQUAL(count[CL_EV_ROUTE], TINY_LAYERS - 1);
    CU_ASSERT_EQUAL(count[CL_EV_FFN], TINY_LAYERS);
    CU_ASSERT(count[CL_EV_HEAD] == 4 && count[CL_EV_SAMPLE] == 4); /* 50 rows, 16 at a time */
    uint64_t head = (uint64_t)((TINY_VOCAB + 15) / 16) * k->panel_bytes(CL_Q8_0, 100);
    CU_ASSERT_EQUAL(weights, matrix_bytes(&m, k, true) + 3 * head); /* 50 tokens touch all experts */
    CU_ASSERT_EQUAL(kernel_weights, weights - 4 * head);
    CU_ASSERT_EQUAL(kv, kernel_kv);
    const cl_traffic all = l.chips[0].traffic(l.chips[0].ctx);
    CU_ASSERT_EQUAL(all.weight_bytes, weights + 50 * cl_row_bytes(CL_Q8_0, 100)); /* a row of the table per token */
    CU_ASSERT_EQUAL(all.kv_bytes, kv);
    CU_ASSERT(kv > 0);
    tiny_line_free(&l);
    tiny_free(&m);
}

/* What one layer's step of n tokens at positions 0 .. n - 1 must read, counted from the tensors and, position by
 * position, from the comments in model.h. experts: of each stack of experts, so many were touched. */
static uint64_t layer_weights(const tiny *m, const cl_kernels *k, int layer, int experts)
{
    uint64_t bytes = 0;
    for (int i = 0; i < m->model->n_tensors; i++) {
        const cl_tensor *t = &m->model->tensors[i];
        if (t->layer != layer || cl_role_is_vector(t->role)) continue;
        uint64_t matrices = cl_role_is_expert(t->role) ? (uint64_t)experts : t->experts ? (uint64_t)t->experts : 1;
        bytes += matrices * (uint64_t)((t->rows + 15) / 16) * k->panel_bytes(t->format, t->cols);
    }
    return bytes;
}

static uint64_t layer_cache(const cl_attention *a, int n)
{
    uint64_t positions = 0;
    for (int pos = 0; pos < n; pos++)
        for (int j = 0; j <= pos; j++)
            positions += !a->window || (a->chunked ? j / a->window == pos / a->window : pos - j < a->window);
    int numbers = a->kind == CL_ATTN_LATENT ? a->kv_rank + a->rope_dim : 2 * a->kv_heads * a->head_dim;
    return positions * (uint64_t)numbers * sizeof(float);
}

static void check_traffic(int which)
{
    enum { TOKENS = 37 };
    tiny m = tiny_make(tiny_any(which), CL_F32, true);
    char path[160];
    snprintf(path, sizeof path, "%s/part", m.dir);
    cl_chip_options o = tiny_options(2, 64, NULL);
    cl_trace *trace;
    CU_ASSERT_EQUAL_FATAL(cl_trace_open(&trace, path, 0, CL_TRACE_KERNEL, NULL), CL_OK);
    tiny_line l = tiny_chips(&m, 1, &o, trace);
    tiny_run(&l, TOKENS, TOKENS, &got);
    cl_trace_close(trace);
    static cl_event e[64];
    uint64_t n, weights[TINY_LAYERS] = {0}, kv[TINY_LAYERS] = {0};
    int rank, layers = 0;
    cl_event_log *f;
    CU_ASSERT_EQUAL_FATAL(cl_event_log_open(&f, path, &rank, &n, NULL), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_event_log_read(f, 0, 64, e, &n, NULL), CL_OK);
    cl_event_log_close(f);
    unlink(path);
    const cl_kernels *k;
    CU_ASSERT_EQUAL_FATAL(cl_kernels_choose(NULL, &k, NULL), CL_OK);
    for (uint64_t i = 0; i < n; i++) {
        if (e[i].layer < 0) continue;
        if (e[i].kind != CL_EV_LAYER) { /* the parts come before the whole */
            weights[e[i].layer] += e[i].weight_bytes;
            kv[e[i].layer] += e[i].kv_bytes;
            continue;
        }
        const cl_layer *spec = &m.spec.layers[e[i].layer];
        CU_ASSERT_EQUAL(e[i].weight_bytes, layer_weights(&m, k, e[i].layer, e[i].experts));
        CU_ASSERT_EQUAL(e[i].kv_bytes, layer_cache(&spec->attn, TOKENS));
        CU_ASSERT_EQUAL(weights[e[i].layer], e[i].weight_bytes);
        CU_ASSERT_EQUAL(kv[e[i].layer], e[i].kv_bytes);
        CU_ASSERT(e[i].experts >= spec->ffn.top_k && e[i].experts <= spec->ffn.experts);
        layers++;
    }
    CU_ASSERT_EQUAL(layers, TINY_LAYERS);
    tiny_line_free(&l);
    tiny_free(&m);
}

static void test_traffic(void)
{
    for (int which = 0; which < TINY_SPECS; which++) check_traffic(which);
}

static void check_cache_size(int which)
{
    tiny m = tiny_make(tiny_any(which), CL_Q8_0, false);
    for (int f = 0; f < 3; f++) {
        cl_chip_options o = tiny_options(1, 16, NULL);
        o.kv = (cl_kv_format)f;
        tiny_line l = tiny_chips(&m, 1, &o, NULL);
        uint64_t kv = 0;
        for (int i = 0; i < TINY_LAYERS; i++) kv += 4 * cl_kv_layer_bytes(&m.spec.layers[i].attn, o.kv, TINY_MAX, 16);
        CU_ASSERT_EQUAL(l.chips[0].sizes(l.chips[0].ctx).kv_bytes, kv);
        tiny_line_free(&l);
    }
    tiny_free(&m);
}

static void test_sizes(void)
{
    for (int which = 0; which < TINY_SPECS; which++) check_cache_size(which);
    tiny m = tiny_make(tiny_spec(false), CL_Q8_0, false);
    cl_chip_options o = tiny_options(2, 16, NULL);
    tiny_line l = tiny_chips(&m, 1, &o, NULL), two = tiny_chips(&m, 2, &o, NULL);
    const cl_kernels *k;
    CU_ASSERT_EQUAL_FATAL(cl_kernels_choose(NULL, &k, NULL), CL_OK);
    CU_ASSERT_STRING_EQUAL(l.chips[0].kernels, k->name);
    /* a tied table is there once on one chip, and on both ends of a longer line */
    uint64_t table = (uint64_t)((TINY_VOCAB + 15) / 16) * k->panel_bytes(CL_Q8_0, 100);
    uint64_t one = l.chips[0].sizes(l.chips[0].ctx).slice_bytes,
             sum = two.chips[0].sizes(two.chips[0].ctx).slice_bytes + two.chips[1].sizes(two.chips[1].ctx).slice_bytes;
    CU_ASSERT(one >= matrix_bytes(&m, k, true) + table);
    CU_ASSERT(one <= matrix_bytes(&m, k, true) + table + 40000);
    CU_ASSERT_EQUAL(sum, one + table);
    double speed = l.chips[0].probe(l.chips[0].ctx);
    CU_ASSERT(speed > 1e8 && speed < 1e13);
    tiny_line_free(&l);
    tiny_line_free(&two);
    tiny_free(&m);
}

/* Flips one byte of tensor i's last row in the file. */
static void damage(const tiny *m, int i)
{
    const cl_tensor *t = &m->model->tensors[i];
    size_t n = cl_row_bytes(t->format, t->cols);
    unsigned char *row = malloc(n);
    CU_ASSERT_EQUAL_FATAL(cl_model_file_read(m->file, i, t->experts ? t->experts - 1 : 0, t->rows - 1, 1, row, NULL),
                          CL_OK);
    cl_buf b = {0};
    CU_ASSERT_EQUAL_FATAL(cl_read_file(m->path, 1 << 28, &b, NULL), CL_OK);
    char *at = memmem(b.data, b.len, row, n);
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    at[n - 1] ^= 1;
    FILE *f = fopen(m->path, "r+b");
    CU_ASSERT_EQUAL(fwrite(b.data, 1, b.len, f), b.len);
    fclose(f);
    free(row);
    cl_buf_free(&b);
}

static void test_damage(void)
{
    static const cl_role roles[] = {CL_T_EMBED, CL_T_EXPERT_DOWN, CL_T_ROUTER, CL_T_FFN_NORM};
    for (int i = 0; i < 4; i++) {
        tiny m = tiny_make(tiny_spec(true), CL_Q8_0, false);
        int index = 0;
        while (m.model->tensors[index].role != roles[i]) index++;
        /* a norm's last number alone would be found elsewhere too: take all of it as one row */
        if (roles[i] != CL_T_FFN_NORM) damage(&m, index);
        else {
            FILE *f = fopen(m.path, "r+b");
            cl_buf b = {0};
            CU_ASSERT_EQUAL_FATAL(cl_read_file(m.path, 1 << 28, &b, NULL), CL_OK);
            char *at = memmem(b.data, b.len, m.w[index], 400);
            CU_ASSERT_PTR_NOT_NULL_FATAL(at);
            at[0] ^= 1;
            CU_ASSERT_EQUAL(fwrite(b.data, 1, b.len, f), b.len);
            fclose(f);
            cl_buf_free(&b);
        }
        cl_stage s = {.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = 1};
        cl_extent parts[256];
        int n = tiny_parts(&m, &s, parts);
        cl_chip_options o = tiny_options(1, 16, NULL);
        cl_chip_table c = {0};
        cl_err err = {0};
        CU_ASSERT_EQUAL(cl_chip_create(&c, m.model, &m.reader, &s, parts, n, &o, NULL, &err), CL_E_INPUT);
        CU_ASSERT_PTR_NULL(c.ctx);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, m.model->tensors[index].name));
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "checksum"));
        tiny_free(&m);
    }
}

/* What a chip is made from. */
typedef struct making {
    const tiny *m;
    const cl_stage *stage;
    const cl_extent *parts;
    int n;
    const cl_chip_options *o;
} making;

static void make(void *ctx)
{
    const making *w = ctx;
    cl_chip_table c = {0};
    (void)cl_chip_create(&c, w->m->model, &w->m->reader, w->stage, w->parts, w->n, w->o, NULL, NULL);
}

/* A slice that a placement would not make: without one of its tensors, or with a row less of it. */
static void test_slices_that_lack_something(void)
{
    const cl_spec specs[] = {tiny_any(0), tiny_any(1), tiny_any(2), tiny_any(3), tiny_any(4)};
    for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
        tiny m = tiny_make(specs[k], CL_F32, false);
        cl_stage s = {.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = 1};
        cl_extent parts[256], less[256];
        int n = tiny_parts(&m, &s, parts);
        cl_chip_options o = tiny_options(1, 16, NULL);
        CU_ASSERT_FALSE(aborts(make, &(making){&m, &s, parts, n, &o}));
        for (int i = 0; i < n; i++) {
            memcpy(less, parts, sizeof less);
            memmove(less + i, less + i + 1, (size_t)(n - i - 1) * sizeof *less);
            CU_ASSERT_TRUE(aborts(make, &(making){&m, &s, less, n - 1, &o}));
            memcpy(less, parts, sizeof less);
            less[i].rows--;
            CU_ASSERT_TRUE(less[i].rows == 0 || aborts(make, &(making){&m, &s, less, n, &o}));
        }
        tiny_free(&m);
    }
}

static void test_refusals(void)
{
    tiny m = tiny_make(tiny_spec(false), CL_F32, false);
    cl_stage s = {.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = 1};
    cl_extent parts[256];
    int n = tiny_parts(&m, &s, parts);
    cl_chip_options o = tiny_options(1, 16, "avx9");
    cl_chip_table c = {0};
    cl_err err = {0};
    CU_ASSERT_EQUAL(cl_chip_create(&c, m.model, &m.reader, &s, parts, n, &o, NULL, &err), CL_E_USAGE);
    o.kernels = NULL;
    o.limits.slots = 1 << 30;
    o.limits.context = 1 << 30;
    CU_ASSERT_EQUAL(cl_chip_create(&c, m.model, &m.reader, &s, parts, n, &o, NULL, &err), CL_E_FIT);
    CU_ASSERT_PTR_NULL(c.ctx);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "KV cache"));
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"same bits, dense", test_bits_dense},
                           {"same bits, moe", test_bits_moe},
                           {"same bits, sinks", test_bits_sinks},
                           {"same bits, latent", test_bits_latent},
                           {"same bits, chunked", test_bits_chunked},
                           {"tiles", test_tiles},
                           {"batch", test_batch},
                           {"head", test_head},
                           {"broken slot", test_broken_slot},
                           {"loading polls", test_loading_polls},
                           {"events", test_events},
                           {"traffic", test_traffic},
                           {"sizes", test_sizes},
                           {"damage", test_damage},
                           {"slices that lack something", test_slices_that_lack_something},
                           {"refusals", test_refusals},
                           CU_TEST_INFO_NULL};
    return run_suite("chip", tests);
}
