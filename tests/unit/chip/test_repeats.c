/* test_repeats.c: which ids a draw looks back at, and which guesses hold: the last stage alone, always with the same
 * activations, against a plain account of each sequence. */
#include <xxhash.h>

#include "tiny.h"

enum { CHUNK = 8, CONTEXT = 600, STEPS = 900 };
static const cl_sampling penalty = {.top_p = 1, .repeat_penalty = 20};
static float logits[TINY_VOCAB], x[CHUNK * 100];
static int rows_seen;

static void keep(void *ctx, int32_t slot, int64_t pos, const float *row, int n)
{
    (void)ctx, (void)slot, (void)pos;
    CU_ASSERT_EQUAL_FATAL(n, TINY_VOCAB);
    memcpy(logits, row, sizeof logits);
    rows_seen++;
}

/* What is known of a sequence. */
typedef struct account {
    int32_t ids[CONTEXT];
    int begin, end, furthest;
    int good;  /* certain up to here */
    int next;  /* drawn for there; -1: none */
    int shown; /* rows of it that went into its digest */
} account;

/* The id drawn after position pos: the best one, those of the last 64 ids made smaller. */
static int32_t expected(const account *a, int pos)
{
    int32_t best = 0;
    float l[TINY_VOCAB];
    bool seen[TINY_VOCAB] = {false};
    for (int p = pos - 63 > a->begin ? pos - 63 : a->begin; p <= pos; p++) seen[a->ids[p]] = true;
    for (int i = 0; i < TINY_VOCAB; i++) l[i] = !seen[i] ? logits[i] : logits[i] > 0 ? logits[i] / 20 : logits[i] * 20;
    for (int i = 1; i < TINY_VOCAB; i++) best = l[i] > l[best] ? i : best;
    return best;
}

static uint64_t digest_of(int rows)
{
    XXH3_state_t *s = XXH3_createState();
    XXH3_64bits_reset(s);
    for (int i = 0; i < rows; i++) XXH3_64bits_update(s, logits, sizeof logits);
    uint64_t d = XXH3_64bits_digest(s);
    XXH3_freeState(s);
    return d;
}

static int random_below(int n) { return (int)((tiny_uniform() + 1) / 2 * n); }

typedef struct step {
    cl_part part;
    int32_t ids[CHUNK], before[CL_REPEAT_WINDOW];
} step;

/* A part that a schedule could make: it begins, goes on or goes back, and its last ids may be guesses. */
static step make_step(account *a)
{
    step s = {.part = {.fork = -1, .sampling = penalty, .n_tokens = 1 + random_below(CHUNK)}};
    cl_part *p = &s.part;
    p->flags = random_below(3) ? 0 : CL_PART_ROWS;
    if (!a->end || a->end + CHUNK > CONTEXT || random_below(40) == 0) {
        p->flags |= CL_PART_BEGIN;
        p->pos = random_below(3) * 70;
        p->fork = p->pos ? 0 : -1;
        p->n_before = p->pos ? random_below(CL_REPEAT_WINDOW + 1) : 0;
        for (int i = 0; i < p->n_before; i++) s.before[i] = random_below(TINY_VOCAB);
        *a = (account){.begin = p->pos - p->n_before, .good = p->pos, .next = -1};
        memcpy(a->ids + a->begin, s.before, (size_t)p->n_before * sizeof *s.before);
    } else {
        p->pos = a->good;
        p->n_guesses = a->next >= 0 ? random_below(p->n_tokens + 1) : random_below(p->n_tokens);
    }
    p->n_outputs = p->n_guesses < p->n_tokens ? p->n_guesses + 1 : p->n_tokens;
    if (!p->n_guesses) p->n_outputs = random_below(p->n_tokens + 1);
    for (int i = 0; i < p->n_tokens; i++) s.ids[i] = random_below(TINY_VOCAB);
    return s;
}

/* Its guesses are made right but for some; what must be drawn goes to want. Returns how many. */
static int follow(account *a, step *s, int32_t want[CHUNK], int *rows)
{
    const cl_part *p = &s->part;
    const int certain = p->n_tokens - p->n_guesses, first = p->n_tokens - p->n_outputs;
    int n = 0, i;
    *rows = 0;
    for (i = 0; i < p->n_tokens; i++) {
        if (i >= certain && a->next >= 0 && random_below(5)) s->ids[i] = a->next;
        a->ids[p->pos + i] = s->ids[i];
        if (i >= certain && s->ids[i] != a->next) break;
        a->next = -1;
        ++*rows;
        if (i >= first) want[n++] = a->next = expected(a, p->pos + i);
    }
    a->good = p->pos + i;
    if (i == 0) a->good = p->pos;
    a->end = p->pos + p->n_tokens;
    if (!(p->flags & CL_PART_ROWS)) *rows = 0;
    a->shown += *rows;
    return n;
}

static void one(const cl_chip_table *chip, account *a)
{
    int32_t want[CHUNK], drawn[CHUNK];
    int rows;
    cl_sampled part = {0};
    cl_samples out = {.parts = &part, .ids = drawn};
    step s = make_step(a);
    const int n = follow(a, &s, want, &rows);
    const cl_microbatch mb = {.id = 5,
                              .n_parts = 1,
                              .n_tokens = s.part.n_tokens,
                              .n_before = s.part.n_before,
                              .parts = &s.part,
                              .ids = s.ids,
                              .before = s.before};
    rows_seen = 0;
    chip->sample(chip->ctx, &mb, x, &out);
    bool same = out.n_ids == n && part.n == n && memcmp(drawn, want, (size_t)n * sizeof *want) == 0;
    CU_ASSERT_TRUE(same);
    if (!same)
        fprintf(stderr, "position %d, %d tokens, %d guesses: %d drawn, %d wanted\n", s.part.pos, s.part.n_tokens,
                s.part.n_guesses, out.n_ids, n);
    CU_ASSERT(out.microbatch == 5 && out.n_parts == 1 && part.slot == 0 && (!n || part.first == 0));
    CU_ASSERT_EQUAL(rows_seen, rows);
    CU_ASSERT_EQUAL(part.digest, rows ? digest_of(a->shown) : 0);
    CU_ASSERT(!part.is_void == (a->good > s.part.pos));
}

static void test_account(void)
{
    tiny m = tiny_make(tiny_any(TINY_MOE), CL_F32, false);
    cl_err err = {0};
    const cl_stage stage = {.first_layer = TINY_LAYERS, .head = true, .n_ranks = 1};
    cl_extent parts[256];
    cl_chip_table chip;
    cl_chip_options o = tiny_options(1, CHUNK, NULL);
    static account a;
    o.limits.context = CONTEXT;
    o.rows = (cl_row_observer){NULL, keep};
    const int n = tiny_parts(&m, &stage, parts);
    CU_ASSERT_EQUAL_FATAL(cl_chip_create(&chip, m.model, &m.reader, &stage, parts, n, &o, NULL, &err), CL_OK);
    tiny_state = 5;
    for (int i = 0; i < CHUNK * 100; i++) x[i] = i < 100 ? (float)tiny_uniform() : x[i - 100];
    cl_part first = {.n_tokens = 1, .fork = -1, .flags = CL_PART_BEGIN | CL_PART_ROWS};
    int32_t id = 0;
    cl_sampled sampled;
    chip.sample(chip.ctx, &(cl_microbatch){.n_parts = 1, .n_tokens = 1, .parts = &first, .ids = &id}, x,
                &(cl_samples){.parts = &sampled, .ids = &id});
    CU_ASSERT_EQUAL(rows_seen, 1);
    for (int i = 0; i < STEPS; i++) one(&chip, &a);
    chip.free(chip.ctx);
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"account", test_account}, CU_TEST_INFO_NULL};
    return run_suite("repeats", tests);
}
