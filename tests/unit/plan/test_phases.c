/* The phases of a step: worked out by hand; against counting token by token and message by message; what one chip does
 * against what all of a stage do. */
#include <math.h>
#include <string.h>

#include "chipline/cost.h"
#include "chipline/group.h"
#include "plan/models.h"

/* --- what a walk gives --- */

typedef struct list {
    int n;
    cl_phase p[4000];
} list;

static void keep(void *ctx, const cl_phase *p)
{
    list *l = ctx;
    CU_ASSERT_TRUE_FATAL(l->n < 4000);
    l->p[l->n++] = *p;
}

static list *phases(const cl_cost_chip *c, const cl_cost_step *s)
{
    static list l;
    l.n = 0;
    cl_cost_phases(c, s, keep, &l);
    return &l;
}

static const cl_phase *find(const list *l, cl_phase_kind k, int layer)
{
    for (int i = 0; i < l->n; i++)
        if (l->p[i].kind == k && l->p[i].layer == layer) return &l->p[i];
    CU_FAIL_FATAL("no such phase");
    return NULL;
}

static cl_model model_of(cl_spec s, cl_format f)
{
    cl_err err = {0};
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, f, &m, &err), CL_OK);
    cl_spec_free(&s);
    return m;
}

static cl_cost_step step_of(const cl_cost_part *parts, int n) { return (cl_cost_step){.n_parts = n, .parts = parts}; }

static bool order_is(const list *l, const cl_phase_kind *want, int n)
{
    bool same = l->n == n;
    for (int i = 0; i < n && same; i++) same = l->p[i].kind == want[i];
    return same;
}

/* --- by hand --- */

static void test_names(void)
{
    CU_ASSERT_STRING_EQUAL(cl_phase_name(CL_PHASE_EMBED), "embed");
    CU_ASSERT_STRING_EQUAL(cl_phase_name(CL_PHASE_ATTN_OUT), "attn_out");
    CU_ASSERT_STRING_EQUAL(cl_phase_name(CL_PHASE_SAMPLE), "sample");
}

/* The middle one of three chips with a dense layer: 3 tokens of one sequence at 5, 6, 7 and one of another at 9. */
static void test_dense(void)
{
    cl_model m = model_of(test_spec((test_geometry){96, 96, 1, 6, 3, 16, 144, 0, 0, false, CL_QK_NORM_HEAD}), CL_Q8_0);
    const cl_stage stage = {.n_layers = 1, .embed = true, .head = true, .n_ranks = 3};
    const cl_cost_part parts[] = {{1, 3, 5, 1}, {1, 1, 9, 1}};
    const cl_cost_step s = step_of(parts, 2);
    cl_cost_chip c = {.model = &m, .stage = &stage, .member = 1, .kv = CL_KV_BF16};
    const list *l = phases(&c, &s);
    static const cl_phase_kind order[] = {CL_PHASE_EMBED,   CL_PHASE_PROJECT, CL_PHASE_ATTEND, CL_PHASE_ATTN_OUT,
                                          CL_PHASE_GATE_UP, CL_PHASE_DOWN,    CL_PHASE_HEAD,   CL_PHASE_SAMPLE};
    CU_ASSERT_TRUE_FATAL(order_is(l, order, 8));
    const uint64_t row = 96 / 32 * 34, wide = (144 + 31) / 32 * 34, x = 4 * 4 * 32; /* x: a third of 4 tokens' hidden */
    /* 32 of 96 rows of every table and of hidden, 2 of 6 heads, 1 of 3 kv heads, 48 of 144 */
    const cl_phase *p = find(l, CL_PHASE_EMBED, -1);
    CU_ASSERT_TRUE(p->weight_bytes == (uint64_t)llround(4 * (double)row / 3) && p->vector_bytes == 0 && p->tokens == 4);
    CU_ASSERT_TRUE(p->exchange.kind == CL_EXCHANGE_OWNER && p->exchange.got_bytes == 2 * x &&
                   p->exchange.sent_bytes == 2 * x);
    CU_ASSERT_DOUBLE_EQUAL(p->exchange.sent, 2 * (1 - pow(2.0 / 3, 4)), 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(p->exchange.got, 2 * (1 - pow(2.0 / 3, 4)), 1e-12);
    p = find(l, CL_PHASE_PROJECT, 0);
    CU_ASSERT_EQUAL(p->vector_bytes, 4 * (96 + 16 + 16));
    CU_ASSERT_EQUAL(p->weight_bytes, 4 * (96 + 16 + 16) + (32 + 16 + 16) * row);
    CU_ASSERT_TRUE(p->ops_int8 == 2.0 * 4 * 64 * 96 && p->ops_f32 == 0 && p->ops_attention == 0);
    CU_ASSERT_EQUAL(p->exchange.kind, CL_EXCHANGE_NONE);
    p = find(l, CL_PHASE_ATTEND, 0);
    /* they see 6, 7, 8 and 10 positions; of 8 and 10 different ones; a row is 16 numbers twice */
    CU_ASSERT_TRUE(p->weight_bytes == 0 && p->kv_bytes == 31 * 64 && p->kv_distinct_bytes == 18 * 64);
    CU_ASSERT_EQUAL(p->ops_attention, 31.0 * 2 * 2 * 2 * 16); /* 2 heads, scores and values, multiply and add */
    CU_ASSERT_TRUE(p->exchange.kind == CL_EXCHANGE_ALL && p->exchange.got_bytes == 2 * x &&
                   p->exchange.sent_bytes == 2 * x);
    CU_ASSERT_TRUE(p->exchange.got == 2 && p->exchange.sent == 2);
    p = find(l, CL_PHASE_ATTN_OUT, 0);
    CU_ASSERT_TRUE(p->weight_bytes == 32 * row && p->exchange.got_bytes == 2 * x &&
                   p->exchange.kind == CL_EXCHANGE_ALL);
    p = find(l, CL_PHASE_GATE_UP, 0);
    CU_ASSERT_TRUE(p->vector_bytes == 4 * 96 && p->weight_bytes == 4 * 96 + 2 * 48 * row && p->experts == 0);
    CU_ASSERT_EQUAL(p->exchange.got_bytes, 4u * 4 * 96);
    p = find(l, CL_PHASE_DOWN, 0);
    CU_ASSERT_TRUE(p->weight_bytes == 32 * wide && p->exchange.got_bytes == 2 * x && p->ops_int8 == 2.0 * 4 * 32 * 144);
    p = find(l, CL_PHASE_HEAD, -1);
    CU_ASSERT_TRUE(p->weight_bytes == 4 * 96 + 32 * row && p->vector_bytes == 4 * 96 && p->tokens == 2);
    CU_ASSERT_TRUE(p->ops_int8 == 2.0 * 2 * 32 * 96 && p->exchange.kind == CL_EXCHANGE_NONE);
    p = find(l, CL_PHASE_SAMPLE, -1);
    CU_ASSERT_TRUE(p->exchange.kind == CL_EXCHANGE_ONE && p->exchange.got_bytes == 0 && p->exchange.sent_bytes == 16);
    CU_ASSERT_TRUE(p->exchange.got == 0 && p->exchange.sent == 1 && p->tokens == 2);

    cl_cost_sum sum = cl_cost_of_step(&c, &s);
    CU_ASSERT_TRUE(sum.phases == 8 && sum.gathers == 6 && sum.all.tokens == 4 && sum.all.kv_bytes == 31 * 64);
    CU_ASSERT_TRUE(sum.all.kv_distinct_bytes == 18 * 64 && sum.all.vector_bytes == 4 * (3 * 96 + 32));
    CU_ASSERT_TRUE(sum.all.ops_attention == 31.0 * 128 && sum.all.exchange.got_bytes == 2 * x * 4 + 1536);
    CU_ASSERT_TRUE(sum.all.exchange.sent_bytes == 2 * x * 4 + 1536 + 16);
    c.float_activations = true;
    CU_ASSERT_TRUE(find(phases(&c, &s), CL_PHASE_DOWN, 0)->ops_f32 == 2.0 * 4 * 32 * 144);
    CU_ASSERT_TRUE(find(phases(&c, &s), CL_PHASE_DOWN, 0)->ops_int8 == 0);
    c.member = 0;
    p = find(phases(&c, &s), CL_PHASE_SAMPLE, -1);
    CU_ASSERT_TRUE(p->exchange.got_bytes == 2 * 16 && p->exchange.got == 2 && p->exchange.sent_bytes == 0);
    CU_ASSERT_TRUE(p->exchange.sent == 0);
    CU_ASSERT_EQUAL(cl_handover_bytes(&m.spec, 4), 4 * 4 * 96);
    cl_model_free(&m);
}

/* Whole rows; several candidates; nothing to sample; the head's rows in batches. */
static void test_head(void)
{
    cl_model m = model_of(test_spec((test_geometry){100, 64, 1, 4, 2, 16, 64, 0, 0, true, CL_QK_NORM_NONE}), CL_BF16);
    const cl_stage stage = {.n_layers = 1, .head = true, .n_ranks = 2};
    cl_cost_part part = {.n = 1, .tokens = 40, .pos = 0, .outputs = 40};
    cl_cost_step s = step_of(&part, 1);
    cl_cost_chip c = {.model = &m, .stage = &stage, .kv = CL_KV_F32};
    s.rows = true;
    const list *l = phases(&c, &s); /* 64 rows of 100 here, then 36; batches of 16, 16, 8 */
    int n = 0;
    for (int i = 0; i < l->n; i++) {
        if (l->p[i].kind != CL_PHASE_HEAD) continue;
        CU_ASSERT_EQUAL(l->p[i].tokens, n < 2 ? 16 : 8);
        CU_ASSERT_EQUAL(l->p[i].weight_bytes, 4 * 64 + 64 * 128);
        CU_ASSERT_TRUE(l->p[i].exchange.kind == CL_EXCHANGE_ONE && l->p[i].exchange.got == 1);
        CU_ASSERT_EQUAL(l->p[i].exchange.got_bytes, (n < 2 ? 16u : 8u) * 36 * 4);
        n++;
    }
    CU_ASSERT_EQUAL(n, 3);
    CU_ASSERT_EQUAL(find(l, CL_PHASE_SAMPLE, -1)->exchange.kind, CL_EXCHANGE_NONE);
    c.member = 1;
    CU_ASSERT_EQUAL(find(phases(&c, &s), CL_PHASE_HEAD, -1)->exchange.sent_bytes, 16 * 36 * 4);
    CU_ASSERT_EQUAL(find(phases(&c, &s), CL_PHASE_HEAD, -1)->exchange.got_bytes, 0);
    s.rows = false, s.head_rows = 7, s.candidates = 5;
    CU_ASSERT_EQUAL(cl_cost_of_step(&c, &s).phases, 5 + 6 + 1);
    CU_ASSERT_EQUAL(find(phases(&c, &s), CL_PHASE_SAMPLE, -1)->exchange.sent_bytes, 40 * 5 * 8);
    part.outputs = 0;
    CU_ASSERT_EQUAL(cl_cost_of_step(&c, &s).phases, 5);
    cl_model_free(&m);
}

/* Latent attention, a shared expert, whole experts. */
static void test_latent(void)
{
    cl_model m = model_of(test_spec_latent(), CL_BF16);
    const cl_spec *s = &m.spec;
    const cl_stage one = cl_whole_stage(&m), two = {.n_layers = s->n_layers, .n_ranks = 2};
    const cl_cost_part part = {.n = 2, .tokens = 3, .pos = 20, .outputs = 1};
    const cl_cost_step step = step_of(&part, 1);
    cl_cost_chip c = {.model = &m, .stage = &one, .kv = CL_KV_F32};
    for (int layer = 0; layer < s->n_layers; layer++) {
        const cl_attention *a = &s->layers[layer].attn;
        const cl_ffn *f = &s->layers[layer].ffn;
        const list *l = phases(&c, &step);
        double h = s->hidden, q = a->heads * a->head_dim, dims = a->head_dim - a->rope_dim, n = 6;
        double kv = a->kv_rank + a->rope_dim, low = a->q_rank ? a->q_rank : q;
        CU_ASSERT_EQUAL(find(l, CL_PHASE_PROJECT, layer)->ops_f32, 2 * n * h * (low + kv));
        CU_ASSERT_EQUAL(find(l, CL_PHASE_QUERY, layer)->ops_f32,
                        2 * n * (a->heads * a->kv_rank * dims + (a->q_rank ? q * a->q_rank : 0)));
        CU_ASSERT_EQUAL(find(l, CL_PHASE_VALUE, layer)->ops_f32, 2 * n * a->heads * a->v_dim * a->kv_rank);
        double looks = 0;
        for (int t = 0; t < 3; t++) looks += 2.0 * (double)(21 + t - cl_attention_first(a, 20 + t));
        CU_ASSERT_EQUAL(find(l, CL_PHASE_ATTEND, layer)->ops_attention, 2 * looks * a->heads * (kv + a->kv_rank));
        CU_ASSERT_EQUAL(find(l, CL_PHASE_ATTEND, layer)->kv_bytes, (uint64_t)(looks * 4 * kv));
        if (f->kind == CL_FFN_MOE) {
            CU_ASSERT_EQUAL(find(l, CL_PHASE_ROUTE, layer)->ops_f32, 2 * n * h * (f->experts + 2 * f->shared_width));
            CU_ASSERT_EQUAL(find(l, CL_PHASE_GATE_UP, layer)->ops_f32, 2 * n * f->top_k * 2 * h * f->width);
            CU_ASSERT_EQUAL(find(l, CL_PHASE_DOWN, layer)->ops_f32,
                            2 * n * h * (f->top_k * f->width + f->shared_width));
            CU_ASSERT_DOUBLE_EQUAL(find(l, CL_PHASE_GATE_UP, layer)->experts,
                                   f->experts * (1 - pow(1 - (double)f->top_k / f->experts, 6)), 1e-9);
        }
    }
    /* what the router chose is known: of layer 2's two chips the second has 4 rows with 2 experts */
    cl_layout line = {1, (int[]){2}, NULL};
    cl_place_options o = {.layout = &line, .slots = 1, .context = 64, .chunk = 8, .experts = CL_EXPERTS_WHOLE};
    cl_placement p;
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    cl_cost_routed routed[16] = {{0, 0}};
    routed[2] = (cl_cost_routed){.experts = 2, .rows = 4};
    cl_cost_step known = step;
    known.routed = routed;
    c = (cl_cost_chip){.model = &m, .stage = &two, .member = 1, .experts = p.experts, .kv = CL_KV_F32};
    const list *l = phases(&c, &known);
    const cl_ffn *f = &s->layers[2].ffn;
    uint64_t expert = 2 * (uint64_t)f->width * cl_row_bytes(CL_BF16, s->hidden);
    int64_t own = cl_split_rows(s->hidden, 2, 1).n;
    CU_ASSERT_EQUAL(find(l, CL_PHASE_GATE_UP, 2)->weight_bytes, 2 * expert);
    CU_ASSERT_EQUAL(find(l, CL_PHASE_GATE_UP, 2)->ops_f32, 2.0 * 4 * 2 * f->width * s->hidden);
    CU_ASSERT_EQUAL(find(l, CL_PHASE_GATE_UP, 2)->exchange.got_bytes,
                    4 * 6 * (uint64_t)cl_split_rows(f->shared_width, 2, 0).n);
    const cl_exchange *x = &find(l, CL_PHASE_DOWN, 2)->exchange;
    CU_ASSERT_TRUE(x->kind == CL_EXCHANGE_OWNER && x->got == 1 && x->sent == 1);
    CU_ASSERT_EQUAL(x->got_bytes, 4 * (6 * (uint64_t)f->top_k - 4) * (uint64_t)own);
    CU_ASSERT_EQUAL(x->sent_bytes, 4 * 4 * (uint64_t)(s->hidden - own));
    x = &find(l, CL_PHASE_COMBINE, 2)->exchange;
    CU_ASSERT_TRUE(x->kind == CL_EXCHANGE_ALL && x->got_bytes == 4 * 6 * (uint64_t)(s->hidden - own));
    routed[2].rows = 0; /* nothing to send */
    CU_ASSERT_EQUAL(find(phases(&c, &known), CL_PHASE_DOWN, 2)->exchange.sent, 0);
    cl_placement_free(&p);
    cl_model_free(&m);
}

/* Norms, biases and sinks are read with what they belong to. */
static void test_vectors(void)
{
    cl_model m = model_of(test_spec_sinks(), CL_Q8_0);
    const cl_spec *s = &m.spec;
    const cl_stage stage = cl_whole_stage(&m);
    const cl_cost_part part = {.n = 1, .tokens = 1};
    const cl_cost_step step = step_of(&part, 1);
    const cl_cost_chip c = {.model = &m, .stage = &stage};
    const list *l = phases(&c, &step);
    for (int layer = 0; layer < s->n_layers; layer++) {
        const cl_attention *a = &s->layers[layer].attn;
        const cl_ffn *f = &s->layers[layer].ffn;
        uint64_t hidden = (uint64_t)s->hidden, bias = f->bias, moe = f->kind == CL_FFN_MOE;
        uint64_t qkv = a->qkv_bias ? (uint64_t)(a->heads + 2 * a->kv_heads) * (uint64_t)a->head_dim : 0;
        uint64_t of = moe ? (uint64_t)f->top_k : 1; /* an expert's biases */
        CU_ASSERT_TRUE(a->kind == CL_ATTN_GROUPED && a->qk_norm == CL_QK_NORM_NONE);
        CU_ASSERT_EQUAL(find(l, CL_PHASE_PROJECT, layer)->vector_bytes, 4 * (hidden + qkv));
        CU_ASSERT_EQUAL(find(l, CL_PHASE_ATTEND, layer)->vector_bytes, a->sinks ? 4 * (uint64_t)a->heads : 0);
        CU_ASSERT_EQUAL(find(l, CL_PHASE_ATTN_OUT, layer)->vector_bytes, a->o_bias ? 4 * hidden : 0);
        if (moe)
            CU_ASSERT_EQUAL(find(l, CL_PHASE_ROUTE, layer)->vector_bytes,
                            4 * (hidden + (uint64_t)(f->router_bias + f->select_bias) * (uint64_t)f->experts));
        CU_ASSERT_EQUAL(find(l, CL_PHASE_GATE_UP, layer)->vector_bytes,
                        4 * (2 * bias * of * (uint64_t)f->width + (moe ? 0 : hidden)));
        CU_ASSERT_EQUAL(find(l, CL_PHASE_DOWN, layer)->vector_bytes, 4 * bias * of * hidden);
    }
    cl_model_free(&m);
    /* a norm of all heads waits for all of them */
    m = model_of(test_spec((test_geometry){75, 100, 1, 8, 2, 16, 150, 0, 0, true, CL_QK_NORM_FULL}), CL_Q8_0);
    const cl_cost_chip full = {.model = &m, .stage = &(cl_stage){.n_layers = 1, .n_ranks = 3}, .member = 2};
    l = phases(&full, &step);
    CU_ASSERT_EQUAL(find(l, CL_PHASE_PROJECT, 0)->vector_bytes, 4 * 100);
    CU_ASSERT_EQUAL(find(l, CL_PHASE_PROJECT, 0)->exchange.kind, CL_EXCHANGE_ALL);
    CU_ASSERT_EQUAL(find(l, CL_PHASE_QUERY, 0)->vector_bytes, 4 * (8 + 2) * 16);
    CU_ASSERT_EQUAL(find(l, CL_PHASE_QUERY, 0)->exchange.kind, CL_EXCHANGE_NONE);
    cl_model_free(&m);
}

/* --- against counting --- */

/* Cache bytes token by token, in one go and in tiles; a cut within a sequence reads what it has seen again. */
static void test_cache(void)
{
    cl_model m = model_of(test_spec_chunked(), CL_Q8_0);
    const cl_stage stage = cl_whole_stage(&m);
    for (int round = 0; round < 300; round++) {
        cl_cost_part parts[5];
        int n = pick(1, 5), tokens = 0;
        for (int i = 0; i < n; i++) {
            parts[i] = (cl_cost_part){.n = pick(1, 3), .tokens = pick(1, 40), .pos = pick(0, 60)};
            tokens += (int)parts[i].n * parts[i].tokens;
        }
        cl_cost_step s = step_of(parts, n);
        cl_cost_chip c = {.model = &m, .stage = &stage, .kv = (cl_kv_format)pick(0, 2)};
        s.tile = pick(0, 2) ? pick(8, 50) : 0;
        int tiles = s.tile ? (tokens + s.tile - 1) / s.tile : 1, step = ((tokens + tiles - 1) / tiles + 7) / 8 * 8;
        if (tiles == 1) step = tokens;
        else if (step > s.tile) step = s.tile;
        const list *l = phases(&c, &s);
        for (int layer = 0; layer < m.spec.n_layers; layer++) {
            const cl_attention *a = &m.spec.layers[layer].attn;
            const uint64_t row = (uint64_t)a->kv_heads * cl_kv_row_bytes(a, c.kv);
            uint64_t bytes = 0, distinct = 0, got = 0, got_distinct = 0, seen_to = 0;
            int at = 0, found = 0;
            for (int i = 0; i < n; i++)
                for (int k = 0; k < parts[i].n; k++) {
                    seen_to = 0;
                    for (int t = 0; t < parts[i].tokens; t++, at++) {
                        int64_t pos = parts[i].pos + t, first = cl_attention_first(a, pos);
                        bytes += cl_kv_read_bytes(a, c.kv, pos + 1);
                        if (at % step == 0) seen_to = 0;
                        if ((int64_t)seen_to < first) seen_to = (uint64_t)first;
                        distinct += ((uint64_t)pos + 1 - seen_to) * row;
                        seen_to = (uint64_t)pos + 1;
                    }
                }
            for (int i = 0; i < l->n; i++)
                if (l->p[i].kind == CL_PHASE_ATTEND && l->p[i].layer == layer) {
                    got += l->p[i].kv_bytes, got_distinct += l->p[i].kv_distinct_bytes;
                    CU_ASSERT_EQUAL(l->p[i].tokens, tokens - found * step < step ? tokens - found * step : step);
                    found++;
                }
            CU_ASSERT_EQUAL_FATAL(found, (tokens + step - 1) / step);
            CU_ASSERT_EQUAL(got, bytes);
            CU_ASSERT_EQUAL(got_distinct, distinct);
        }
    }
    cl_model_free(&m);
}

/* What chip k makes for an all-gather. */
static int64_t made(const cl_spec *s, const cl_phase *p, int members, int k)
{
    const cl_layer *l = &s->layers[p->layer];
    const cl_attention *a = &l->attn;
    int64_t heads = cl_split_heads(a, members, k).q, hidden = cl_split_rows(s->hidden, members, k).n;
    switch (p->kind) {
    case CL_PHASE_PROJECT:
        if (a->kind != CL_ATTN_LATENT) return heads;
        return cl_split_rows(a->q_rank, members, k).n + cl_split_rows(a->kv_rank + a->rope_dim, members, k).n;
    case CL_PHASE_ATTEND:
    case CL_PHASE_VALUE: return heads;
    case CL_PHASE_GATE_UP:
        return cl_split_rows(l->ffn.width, members, k).n + cl_split_rows(l->ffn.shared_width, members, k).n;
    default: return hidden;
    }
}

/* Rounds played with all that each chip has: who sends how many messages and numbers, and gets how many messages. */
typedef struct played {
    int got[20], sent[20];
    int64_t numbers[20];
} played;

static void play_rounds(const int64_t *makes, int g, played *out)
{
    bool has[20][20] = {{false}}, then[20][20];
    memset(out, 0, sizeof *out);
    for (int k = 0; k < g; k++) has[k][k] = true;
    for (int step = 1; step < g; step *= 2) {
        memcpy(then, has, sizeof then);
        for (int k = 0; k < g; k++) {
            const int to = (k - step + g) % g;
            int64_t numbers = 0;
            for (int j = 0; j < g; j++) /* what the other one will have anyway is not sent again */
                if (has[k][j] && !has[to][j]) then[to][j] = true, numbers += makes[j];
            out->sent[k] += numbers > 0, out->got[to] += numbers > 0, out->numbers[k] += numbers;
        }
        memcpy(has, then, sizeof has);
    }
    for (int k = 0; k < g; k++)
        for (int j = 0; j < g; j++) CU_ASSERT_TRUE(has[k][j]);
}

/* All chips of a stage: what is sent is got, rounds go as they do when played, and the operations are those of one chip
 * alone, but for routers, which all have, and keys that several make. */
static void check_stage(cl_spec spec, cl_format f)
{
    cl_model m = model_of(spec, f);
    const cl_spec *s = &m.spec;
    const cl_cost_part part = {.n = 1, .tokens = 2, .pos = 3, .outputs = 1};
    const cl_cost_step step = step_of(&part, 1);
    const cl_stage alone = cl_whole_stage(&m);
    const cl_cost_chip one = {.model = &m, .stage = &alone, .kv = CL_KV_Q8};
    const cl_cost_sum all = cl_cost_of_step(&one, &step);
    CU_ASSERT_TRUE(all.gathers == 0 && all.all.exchange.got_bytes == 0 && all.all.exchange.sent == 0);
    for (int g = 2; g <= 20; g++) {
        const cl_stage stage = {.n_layers = s->n_layers, .embed = true, .head = true, .n_ranks = g};
        uint64_t got = 0, sent = 0;
        double got_messages = 0, sent_messages = 0, attention = 0;
        for (int k = 0; k < g; k++) {
            const cl_cost_chip c = {.model = &m, .stage = &stage, .member = k, .kv = CL_KV_Q8};
            const list *l = phases(&c, &step);
            const cl_cost_sum sum = cl_cost_of_step(&c, &step);
            got_messages += sum.all.exchange.got, sent_messages += sum.all.exchange.sent;
            attention += sum.all.ops_attention;
            for (int i = 0; i < l->n; i++) {
                const cl_phase *p = &l->p[i];
                int64_t makes[20];
                played game;
                /* on the way to one chip what is passed on is sent more often */
                if (p->exchange.kind != CL_EXCHANGE_ONE) got += p->exchange.got_bytes, sent += p->exchange.sent_bytes;
                if (p->exchange.kind != CL_EXCHANGE_ALL) continue;
                for (int j = 0; j < g; j++) makes[j] = made(s, p, g, j);
                play_rounds(makes, g, &game);
                CU_ASSERT_EQUAL(p->exchange.got, game.got[k]);
                CU_ASSERT_EQUAL(p->exchange.sent, game.sent[k]);
                if (p->kind == CL_PHASE_ATTN_OUT)
                    CU_ASSERT_EQUAL(p->exchange.sent_bytes, 4 * 2 * (uint64_t)game.numbers[k]);
            }
        }
        CU_ASSERT_TRUE(llabs((long long)(got - sent)) <= 2 * g); /* rounded where expected */
        CU_ASSERT_DOUBLE_EQUAL(got_messages, sent_messages, 1e-6);
        CU_ASSERT_DOUBLE_EQUAL(attention, all.all.ops_attention, 1e-6);
    }
    cl_model_free(&m);
}

static void test_stages(void)
{
    check_stage(test_spec_sinks(), CL_Q4_0);
    check_stage(test_spec_latent(), CL_BF16);
    check_stage(test_spec_chunked(), CL_FP8);
    check_stage(test_spec((test_geometry){75, 100, 4, 8, 2, 16, 150, 11, 3, true, CL_QK_NORM_FULL}), CL_Q8_0);
    check_stage(test_spec((test_geometry){300, 130, 3, 9, 3, 16, 50, 0, 0, true, CL_QK_NORM_NONE}), CL_F32);
}

/* --- real models: weight bytes that a token reads --- */

static uint64_t token_bytes(test_geometry g, cl_format f)
{
    cl_model m = model_of(test_spec(g), f);
    uint64_t layers[64], sum = 0, bytes = cl_model_token_bytes(&m, layers);
    for (int i = 0; i < m.spec.n_layers; i++) sum += layers[i];
    cl_cost_chip c = {.model = &m, .stage = &(cl_stage){.n_layers = m.spec.n_layers, .n_ranks = 1}};
    const cl_cost_part one = {.n = 1, .tokens = 1};
    const cl_cost_step s = step_of(&one, 1);
    CU_ASSERT_EQUAL(cl_cost_of_step(&c, &s).all.weight_bytes, sum);
    CU_ASSERT_EQUAL(cl_model_token_bytes(&m, NULL), bytes);
    cl_model_free(&m);
    return bytes;
}

static bool near(uint64_t got, double want) { return fabs((double)got / want - 1) < 0.005; }

static void test_real(void)
{
    CU_ASSERT_EQUAL(token_bytes(SMOLLM2_135M, CL_BF16), (134515008 - 61 * 576) * 2 + 61 * 576 * 4 + 576 * 2);
    CU_ASSERT_TRUE(near(token_bytes(QWEN3_30B_A3B, CL_BF16), 6.084e9));
    CU_ASSERT_TRUE(near(token_bytes(MIXTRAL_8X7B, CL_BF16), 25.50e9));
    CU_ASSERT_TRUE(near(token_bytes(OLMOE_1B_7B, CL_BF16), 2.358e9));
}

/* A quarter of the context, or what is asked for, as far as there are positions. */
static void test_typical(void)
{
    cl_place_options o = {.context = 400};
    CU_ASSERT_EQUAL(cl_cost_typical(&o, 1).pos, 99);
    o.context = 2;
    CU_ASSERT_EQUAL(cl_cost_typical(&o, 1).pos, 0);
    o.read_context = 1.9;
    CU_ASSERT_EQUAL(cl_cost_typical(&o, 1).pos, 0);
    o.read_context = 3;
    CU_ASSERT_EQUAL(cl_cost_typical(&o, 1).pos, 1);
    const cl_cost_part p = cl_cost_typical(&o, 2.5);
    CU_ASSERT_TRUE(p.n == 2.5 && p.tokens == 1 && p.outputs == 1);
}

/* More of the positions and tokens than any number holds: as much as can be said. */
static void test_overflow(void)
{
    cl_model m = model_of(test_spec((test_geometry){64, 64, 1, 4, 2, 16, 96, 0, 0, false, CL_QK_NORM_NONE}), CL_F32);
    const cl_stage stage = cl_whole_stage(&m);
    cl_cost_part part = {.n = 1e9, .tokens = 1, .pos = (int64_t)1 << 50};
    const cl_cost_step s = step_of(&part, 1);
    CU_ASSERT_EQUAL(cl_cost_of_step(&(cl_cost_chip){.model = &m, .stage = &stage}, &s).all.kv_bytes, UINT64_MAX);
    part.n = 35; /* 35 * 2^50 * 256 */
    CU_ASSERT_EQUAL(cl_cost_of_step(&(cl_cost_chip){.model = &m, .stage = &stage}, &s).all.kv_bytes, UINT64_MAX);
    part.n = 30;
    CU_ASSERT_TRUE(cl_cost_of_step(&(cl_cost_chip){.model = &m, .stage = &stage}, &s).all.kv_bytes < UINT64_MAX / 2);
    cl_model_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"names", test_names},
                           {"a dense layer", test_dense},
                           {"head", test_head},
                           {"latent attention and experts", test_latent},
                           {"norms, biases and sinks", test_vectors},
                           {"cache by tokens and tiles", test_cache},
                           {"stages", test_stages},
                           {"real models", test_real},
                           {"typical tokens", test_typical},
                           {"overflow", test_overflow},
                           CU_TEST_INFO_NULL};
    return run_suite("phases", tests);
}
