/* test_bugs.c: mistakes of the program end it, and it says which: slices in which something is missing, micro-batches
 * that no schedule makes, caches asked for what they cannot hold. */
#include "inside.h"
#include "says.h"
#include "tiny.h"

static void expect(void (*act)(void *ctx), void *ctx, const char *want)
{
    const char *got = says(act, ctx);
    CU_ASSERT_STRING_EQUAL(got, want);
    if (strcmp(got, want) != 0) fprintf(stderr, "said: %s\nwant: %s\n", got, want);
}

/* --- slices --- */

static void act_check(void *ctx) { check_slice(ctx); }

/* A chip as far as check_slice looks, with these parts of these tensors. */
static void planned(chip_fixed *c, const cl_model *m, const cl_placement *p, int member, const cl_extent *parts, int n)
{
    cl_err err = {0};
    *c = (chip_fixed){.spec = m->spec, .stage = p->stages[0], .k = cl_kernels_reference()};
    c->group = (cl_group){.member = member, .members = p->n_ranks};
    CU_ASSERT_EQUAL_FATAL(cuts_create(&c->cuts, &c->spec, &c->stage, p->experts, member, p->n_ranks, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(slice_plan(&c->slice, m, &c->stage, parts, n, c->k, &err), CL_OK);
}

static void check_bad(const cl_model *m, const cl_placement *p, int member, const cl_extent *parts, int n,
                      const cl_tensor *bad)
{
    chip_fixed c;
    char want[128];
    snprintf(want, sizeof want, "role %d of layer %d: not in the slice, or not all that should be", (int)bad->role,
             bad->layer);
    planned(&c, m, p, member, parts, n);
    expect(act_check, &c, want);
    slice_free(&c.slice);
    cuts_free(&c.cuts);
}

/* All parts but those of one tensor; all with a row less of it; its rows a number longer. */
static void check_without(cl_model *m, const cl_placement *p, int member, const cl_extent *parts, int n, int tensor)
{
    cl_extent some[256];
    int left = 0, rows = 0;
    cl_tensor *t = &m->tensors[tensor];
    for (int i = 0; i < n; i++)
        if (parts[i].tensor != tensor) some[left++] = parts[i];
    check_bad(m, p, member, some, left, t);
    memcpy(some, parts, (size_t)n * sizeof *some);
    for (int i = 0; i < n; i++)
        if (some[i].tensor == tensor) rows += (int)--some[i].rows;
    if (rows) check_bad(m, p, member, some, n, t);
    t->cols++;
    check_bad(m, p, member, parts, n, t);
    t->cols--;
}

static void check_slices(int which, int members)
{
    cl_err err = {0};
    cl_spec s = tiny_any(which);
    cl_model m;
    cl_stage stage = {.n_layers = TINY_LAYERS, .embed = true, .head = true, .n_ranks = members};
    const cl_placement p = {.n_ranks = members, .n_stages = 1, .stages = &stage};
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, CL_F32, &m, &err), CL_OK);
    for (int member = members - 1; member < members; member++) {
        cl_extent *parts;
        int n;
        chip_fixed c;
        CU_ASSERT_EQUAL_FATAL(cl_placement_slice(&m, &p, member, &parts, &n, &err), CL_OK);
        planned(&c, &m, &p, member, parts, n);
        CU_ASSERT_STRING_EQUAL(says(act_check, &c), "");
        slice_free(&c.slice);
        cuts_free(&c.cuts);
        for (int i = 0; i < n; i++)
            if (parts[i].rows && (!i || parts[i].tensor != parts[i - 1].tensor))
                check_without(&m, &p, member, parts, n, parts[i].tensor);
        free(parts);
    }
    cl_model_free(&m);
    cl_spec_free(&s);
}

static void test_slices(void)
{
    for (int which = 0; which < TINY_SPECS; which++) check_slices(which, which % 2 ? 1 : 2);
}

/* --- micro-batches --- */

typedef struct trying {
    cl_chip_table *chip;
    cl_microbatch mb;
    cl_part parts[4];
    int32_t ids[64];
} trying;

static void act_step(void *ctx)
{
    static float x[64 * 100];
    trying *t = ctx;
    t->mb.parts = t->parts;
    t->mb.ids = t->ids;
    t->chip->step(t->chip->ctx, &t->mb, x);
}

/* Two parts, of 3 tokens and of 4, of which 2 are guesses; one change. */
#define STEP(WANT, CHANGE)                                                                    \
    do {                                                                                      \
        trying t = {.chip = &l.chips[0], .mb = {.n_parts = 2, .n_tokens = 7}};                \
        t.parts[0] = (cl_part){.slot = 0, .n_tokens = 3, .fork = -1, .flags = CL_PART_BEGIN}; \
        t.parts[1] = (cl_part){.slot = 3, .n_tokens = 4, .fork = -1, .flags = CL_PART_BEGIN}; \
        t.parts[1].n_guesses = 2, t.parts[1].n_outputs = 3;                                   \
        CHANGE;                                                                               \
        expect(act_step, &t, WANT);                                                           \
    } while (0)

static void test_microbatches(void)
{
    tiny m = tiny_make(tiny_spec(false), CL_F32, false);
    cl_chip_options o = tiny_options(1, 8, "reference");
    tiny_line l = tiny_chips(&m, 1, &o, NULL);
    STEP("", (void)0);
    STEP("part 0: slot -1, positions 0 + 3 of 64", t.parts[0].slot = -1);
    STEP("part 1: slot 4, positions 0 + 4 of 64", t.parts[1].slot = 4);
    STEP("part 0: slot 0, positions 0 + 0 of 64", t.parts[0].n_tokens = 0);
    STEP("part 0: slot 0, positions -1 + 3 of 64", t.parts[0].pos = -1);
    STEP("part 1: slot 3, positions 61 + 4 of 64", t.parts[1].pos = 61);
    STEP("part 1: begins at 60, with what slot -1 of 4 has", t.parts[1].pos = 60);
    STEP("part 1: begins at 1, with what slot 4 of 4 has", (t.parts[1].pos = 1, t.parts[1].fork = 4));
    STEP("part 1: 4 tokens, -1 guesses, 3 outputs", t.parts[1].n_guesses = -1);
    STEP("part 1: 4 tokens, 5 guesses, 3 outputs", t.parts[1].n_guesses = 5);
    STEP("part 1: 4 tokens, 2 guesses, 5 outputs", t.parts[1].n_outputs = 5);
    STEP("part 1: 4 tokens, 2 guesses, 2 outputs", t.parts[1].n_outputs = 2);
    STEP("part 1: 4 tokens, 3 guesses, 3 outputs", t.parts[1].n_guesses = 3);
    STEP("part 1: 4 tokens, 4 guesses, 3 outputs", t.parts[1].n_guesses = 4);
    STEP("", (t.parts[1].n_guesses = 4, t.parts[1].n_outputs = 4));
    STEP("", (t.parts[1].n_guesses = 3, t.parts[1].n_outputs = 4));
    STEP("part 0: 3 tokens, 0 guesses, -1 outputs", t.parts[0].n_outputs = -1);
    STEP("part 0: 3 tokens, 0 guesses, 4 outputs", t.parts[0].n_outputs = 4);
    STEP("", t.parts[0].n_outputs = 3);
    STEP("7 tokens in the parts, 8 in the micro-batch of 8", t.mb.n_tokens = 8);
    STEP("9 tokens in the parts, 9 in the micro-batch of 8", (t.parts[0].n_tokens = 5, t.mb.n_tokens = 9));
    STEP("", (t.parts[0].n_tokens = 4, t.mb.n_tokens = 8));
    STEP("", (t.parts[0].n_tokens = 1, t.mb.n_tokens = 5));
    STEP("id -1 of 75", t.ids[6] = -1);
    STEP("id 75 of 75", t.ids[0] = 75);
    STEP("", t.ids[0] = 74);
    STEP("slot 3 cannot go on at position 1: what is seen from there is not in its cache of 0",
         (t.parts[1].flags = 0, t.parts[1].pos = 1));
    tiny_line_free(&l);
    tiny_free(&m);
}

/* --- caches --- */

typedef struct extending {
    kv_cache *kv;
    int pos, n, end;
} extending;

static void act_extend(void *ctx)
{
    const extending *e = ctx;
    kv_extend(e->kv, 1, e->pos, e->n);
}

static void act_expect(void *ctx)
{
    const extending *e = ctx;
    kv_expect(e->kv, 1, NULL, e->end);
}

static void act_back(void *ctx)
{
    const extending *e = ctx;
    kv_back(e->kv, 1, e->pos);
}

/* The window is the first layer's, or the second's. */
static void check_cache(int windowed)
{
    cl_err err = {0};
    cl_attention a[2] = {{.heads = 1, .kv_heads = 1, .head_dim = 4}, {.heads = 1, .kv_heads = 1, .head_dim = 4}};
    const cl_limits limits = {.slots = 2, .context = 256, .chunk = 8, .hidden = 4, .vocab = 4};
    kv_cache kv;
    a[windowed].window = 4;
    CU_ASSERT_EQUAL_FATAL(kv_create(&kv, (const cl_attention *[]){&a[0], &a[1]}, 2, CL_KV_F32, &limits, &err), CL_OK);
    kv_begin(&kv, 1);
    expect(act_extend, &(extending){&kv, 1, 2, 0}, "slot 1 ends at 0 of 256: no 2 positions can follow from 1 on");
    expect(act_extend, &(extending){&kv, 0, 9, 0}, "slot 1 ends at 0 of 256: no 9 positions can follow from 0 on");
    expect(act_extend, &(extending){&kv, 0, 8, 0}, "");
    expect(act_expect, &(extending){.kv = &kv, .end = 257}, "257 positions of 256");
    expect(act_expect, &(extending){.kv = &kv, .end = -1}, "-1 positions of 256");
    expect(act_expect, &(extending){.kv = &kv, .end = 256}, "");
    for (int pos = 0; pos < 256; pos += 8) kv_extend(&kv, 1, pos, 8);
    expect(act_extend, &(extending){&kv, 256, 1, 0},
           "slot 1 ends at 256 of 256: no 1 positions can follow from 256 on");
    expect(act_back, &(extending){.kv = &kv, .pos = 100},
           "slot 1 cannot go on at position 100: what is seen from there is not in its cache of 256");
    expect(act_back, &(extending){.kv = &kv, .pos = 257},
           "slot 1 cannot go on at position 257: what is seen from there is not in its cache of 256");
    expect(act_back, &(extending){.kv = &kv, .pos = 248}, "");
    CU_ASSERT(!kv_holds(&kv, 1, 100) && kv_holds(&kv, 1, 248) && !kv_holds(&kv, 1, 1) && kv_holds(&kv, 1, 0));
    kv_free(&kv);
}

static void test_caches(void)
{
    for (int windowed = 0; windowed < 2; windowed++) check_cache(windowed);
}

int main(void)
{
    CU_TestInfo tests[] = {{"slices", test_slices},
                           {"micro-batches", test_microbatches},
                           {"caches", test_caches},
                           CU_TEST_INFO_NULL};
    return run_suite("bugs", tests);
}
