/* test_shared.c: sequences that share a cache, go back in it or take it from another chip get the bits of those that
 * read all their ids. */
#include "chipline/kernels.h"
#include "tiny.h"

enum { N = 60, CHUNK = 8, A = 0, B = 1, C = 2, D = 3 };
static tiny_rows want, got;
static int32_t ids[4][N]; /* of the sequences, each in the slot of its number */

static const struct {
    cl_activations act;
    cl_kv_format kv;
} arithmetic[] = {{CL_ACT_F32, CL_KV_F32}, {CL_ACT_Q16, CL_KV_Q8}, {CL_ACT_MIXED, CL_KV_BF16}};

static tiny_line chips(const tiny *m, int stages, int how, const char *kernels)
{
    cl_chip_options o = tiny_options(1, CHUNK, kernels);
    o.activations = arithmetic[how].act;
    o.kv = arithmetic[how].kv;
    return tiny_chips(m, stages, &o, NULL);
}

/* One micro-batch: take[slot] tokens of each slot from at[slot] on, which moves. fork[slot]: the slot begins there,
 * with what that one has; NULL or -1: it goes on, or back, or from 0 on begins. */
static void step_forked(const tiny_line *l, int at[4], const int take[4], const int *fork, tiny_rows *out)
{
    cl_part parts[4];
    int32_t in[CHUNK];
    cl_microbatch mb = {.parts = parts, .ids = in};
    for (int s = 0; s < 4; s++) {
        if (!take[s]) continue;
        const int from = fork ? fork[s] : -1;
        parts[mb.n_parts++] = (cl_part){.slot = s,
                                        .pos = at[s],
                                        .n_tokens = take[s],
                                        .fork = from,
                                        .flags = CL_PART_ROWS | (at[s] && from < 0 ? 0 : CL_PART_BEGIN)};
        memcpy(in + mb.n_tokens, ids[s] + at[s], (size_t)take[s] * sizeof *in);
        mb.n_tokens += take[s];
        at[s] += take[s];
    }
    tiny_compute(l, &mb, out);
}

static void step(const tiny_line *l, int at[4], const int take[4], tiny_rows *out)
{
    step_forked(l, at, take, NULL, out);
}

/* A slot's ids up to end. */
static void read_to(const tiny_line *l, int slot, int at[4], int end, tiny_rows *out)
{
    while (at[slot] < end) {
        int take[4] = {0};
        take[slot] = end - at[slot] < 5 ? end - at[slot] : 5;
        step(l, at, take, out);
    }
}

/* Random ids; B is A's up to b, C is B's up to c. Each sequence alone, all ids read by a chip of its own. */
static void make_want(const tiny *m, int how, int b, int c)
{
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < N; i++) ids[s][i] = (int32_t)((tiny_uniform() + 1) / 2 * TINY_VOCAB);
    memcpy(ids[B], ids[A], (size_t)b * sizeof **ids);
    memcpy(ids[C], ids[B], (size_t)c * sizeof **ids);
    memset(&want, 0xff, sizeof want);
    memset(&got, 0xff, sizeof got);
    for (int s = 0; s < 4; s++) {
        tiny_line l = chips(m, 1, how, NULL);
        read_to(&l, s, (int[4]){0}, N, &want);
        tiny_line_free(&l);
    }
}

static bool same(int slot, int first, int end)
{
    return !memcmp(want.row[slot][first], got.row[slot][first], (size_t)(end - first) * sizeof want.row[0][0]);
}

/* B goes on from A's cache while A goes on too, C from B's; then A's slot begins anew, and its ids go to another one
 * that is forked from what is left of them. */
static void check_fork(const tiny *m, int how, int b, int c)
{
    make_want(m, how, b, c);
    tiny_line l = chips(m, how + 1, how, NULL);
    int at[4] = {0};
    read_to(&l, D, at, 50, &got);
    read_to(&l, A, at, b + 3, &got);
    at[B] = b;
    step_forked(&l, at, (int[4]){2, 1}, (int[4]){-1, A, -1, -1}, &got); /* both write into the block that they share */
    while (at[B] < c) step(&l, at, (int[4]){at[A] < N, 1}, &got);
    at[C] = c;
    step_forked(&l, at, (int[4]){0, 1, 2}, (int[4]){-1, -1, B, -1}, &got);
    while (at[B] < N - 3) step(&l, at, (int[4]){0, N - 3 - at[B] < 2 ? 1 : 2, at[C] + 2 < N ? 2 : 0}, &got);
    CU_ASSERT(same(A, 0, at[A]) && same(B, b, at[B]) && same(C, c, at[C]) && same(D, 0, 50));
    memcpy(ids[A], ids[D], sizeof ids[A]);
    at[A] = 0;
    read_to(&l, A, at, N, &got);
    CU_ASSERT_EQUAL(memcmp(want.row[D], got.row[A], N * sizeof got.row[0][0]), 0);
    step(&l, at, (int[4]){0, N - at[B], N - at[C]}, &got);
    CU_ASSERT(same(B, b, N) && same(C, c, N));
    memcpy(ids[A], ids[B], sizeof ids[A]); /* the last positions once more, from another one's cache */
    at[A] = N - CHUNK;
    step_forked(&l, at, (int[4]){CHUNK}, (int[4]){B}, &got);
    CU_ASSERT_EQUAL(memcmp(want.row[B][N - CHUNK], got.row[A][N - CHUNK], CHUNK * sizeof got.row[0][0]), 0);
    tiny_line_free(&l);
}

/* Every micro-batch ends with up to a whole one of guesses, which are wrong, and is gone back from. */
static void check_back(const tiny *m, int how)
{
    make_want(m, how, 0, 0);
    tiny_line l = chips(m, 1, how, NULL);
    int at[4] = {0}, turn = 0;
    int32_t right[N];
    memcpy(right, ids[A], sizeof right);
    while (at[A] < N) {
        int good = at[A] + turn * 5 % 4, bad = 1 + turn * 7 % (CHUNK - turn * 5 % 4);
        good = good < N ? good : N;
        for (int i = good; i < N; i++) ids[A][i] = (right[i] + 1) % TINY_VOCAB;
        step(&l, at, (int[4]){good + bad < N ? good + bad - at[A] : N - at[A]}, &got);
        at[A] = good;
        memcpy(ids[A], right, sizeof right);
        turn++;
        if (good < N) step(&l, at, (int[4]){1}, &got);
    }
    CU_ASSERT_TRUE(same(A, 0, N));
    tiny_line_free(&l);
}

/* What a chip of all layers holds of a slot, `end` positions, goes to a line of several, into another slot. */
static void move_cache(const tiny *m, const tiny_line *from, int slot, const tiny_line *to, int other, int end)
{
    const cl_chip_table *out = &from->chips[0];
    static unsigned char rows[N * 2 * 100 * sizeof(float)];
    for (int i = 0; i < to->n; i++) {
        const cl_chip_table *in = &to->chips[i];
        const int l0 = TINY_LAYERS * i / to->n, l1 = TINY_LAYERS * (i + 1) / to->n;
        int first[TINY_LAYERS];
        for (int l = l0; l < l1; l++) first[l - l0] = out->cache_first(out->ctx, l, slot);
        in->cache_expect(in->ctx, other, first, end);
        for (int l = l0; l < l1; l++) {
            int at = in->cache_first(in->ctx, l, other), n = end - at;
            for (int head = 0; head < m->spec.layers[l].attn.kv_heads; head++) {
                out->cache_out(out->ctx, l, slot, head, at, n, rows);
                in->cache_in(in->ctx, l, other, head, at, n, rows);
            }
        }
    }
}

/* C, forked from B, goes on in other lines, with all kernel sets, in B's slot. */
static void check_move(const tiny *m, int how, int b, int c)
{
    make_want(m, how, b, c);
    tiny_line l = chips(m, 1, how, how ? NULL : "reference");
    int at[4] = {0}, stages = 1;
    read_to(&l, B, at, c + 2, &got);
    at[C] = c;
    step_forked(&l, at, (int[4]){0, 0, 3}, (int[4]){-1, -1, B, -1}, &got);
    read_to(&l, C, at, 47, &got);
    for (const char *const *name = cl_kernels_available(); *name; name++, stages = stages % TINY_LAYERS + 1) {
        if (how != 1 && !strcmp(*name, "reference")) continue; /* slow */
        tiny_line to = chips(m, stages, how, *name);
        int there[4] = {0};
        read_to(&to, B, there, 20, &got);
        move_cache(m, &l, C, &to, B, 47);
        memcpy(ids[B], ids[C], sizeof ids[B]);
        there[B] = 47;
        step_forked(&to, there, (int[4]){0, 2}, (int[4]){-1, B, -1, -1}, &got); /* with what it has itself */
        read_to(&to, B, there, N, &got);
        CU_ASSERT_EQUAL(memcmp(want.row[C][47], got.row[B][47], (N - 47) * sizeof got.row[0][0]), 0);
        tiny_line_free(&to);
    }
    read_to(&l, C, at, N, &got);
    CU_ASSERT_TRUE(same(C, c, N));
    tiny_line_free(&l);
}

static void check(int which)
{
    tiny m = tiny_make(tiny_any(which), CL_F32, true);
    for (int how = 0; how < 3; how++) {
        check_fork(&m, how, how == 0 ? 16 : how == 1 ? 21 : 1, how == 0 ? 32 : how == 1 ? 27 : 40);
        check_back(&m, how);
        check_move(&m, how, 10, 30);
    }
    tiny_free(&m);
}

static void test_dense(void) { check(TINY_DENSE); }
static void test_moe(void) { check(TINY_MOE); }
static void test_sinks(void) { check(TINY_SINKS); }
static void test_latent(void) { check(TINY_LATENT); }
static void test_chunked(void) { check(TINY_CHUNKED); }

int main(void)
{
    CU_TestInfo tests[] = {{"dense", test_dense},   {"moe", test_moe},         {"sinks", test_sinks},
                           {"latent", test_latent}, {"chunked", test_chunked}, CU_TEST_INFO_NULL};
    return run_suite("shared caches", tests);
}
