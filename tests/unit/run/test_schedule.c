/* The schedule, alone: every token once and in order, every stage busy, slots refilled at once. */
#include <stdlib.h>

#include "chipline/schedule.h"
#include "chipline/util.h"
#include "suite.h"

enum { MAX = 128 };

typedef struct bench {
    cl_schedule *s;
    cl_limits limits;
    cl_part parts[MAX];
    int32_t ids[256], before[MAX * CL_REPEAT_WINDOW];
    cl_microbatch mb;
} bench;

static void start(bench *b, int slots, int chunk, int stages)
{
    cl_err err;
    *b = (bench){.limits = {.slots = slots, .context = 4096, .chunk = chunk, .hidden = 8, .vocab = 10}};
    CU_ASSERT_EQUAL_FATAL(cl_schedule_create(&b->s, &b->limits, stages, &err), CL_OK);
}

static bool next(bench *b)
{
    b->mb.parts = b->parts;
    b->mb.ids = b->ids;
    b->mb.before = b->before;
    return cl_schedule_next(b->s, &b->mb);
}

static cl_sequence make(int n_prompt, int max_new, int first_id)
{
    cl_sequence q = {.n_prompt = n_prompt, .n_tokens = n_prompt, .capacity = n_prompt + max_new, .fork = -1};
    q.tokens = calloc((size_t)q.capacity, sizeof *q.tokens);
    for (int i = 0; i < n_prompt; i++) q.tokens[i] = first_id + i;
    return q;
}

static void prompt_in_chunks(void)
{
    bench b;
    start(&b, 2, 4, 2);
    cl_sequence q = make(10, 3, 100);
    CU_ASSERT_EQUAL(cl_schedule_admit(b.s, &q), 0);
    int sizes[] = {4, 4, 2};
    for (int k = 0; k < 3; k++) { /* chunks follow each other without waiting for anything */
        CU_ASSERT_TRUE_FATAL(next(&b));
        CU_ASSERT_EQUAL(b.mb.id, k);
        CU_ASSERT_EQUAL(b.mb.n_tokens, sizes[k]);
        CU_ASSERT_EQUAL(b.parts[0].pos, 4 * k);
        CU_ASSERT_EQUAL(b.ids[0], 100 + 4 * k);
        CU_ASSERT_TRUE(b.parts[0].n_outputs == (k == 2) && b.parts[0].flags == (k == 0 ? CL_PART_BEGIN : 0u));
    }
    CU_ASSERT_FALSE(next(&b)); /* waits for its sample */
    cl_schedule_sampled(b.s, 0, (int32_t[]){7}, 1);
    CU_ASSERT_TRUE(next(&b));
    CU_ASSERT_TRUE(b.mb.n_tokens == 1 && b.ids[0] == 7 && b.parts[0].pos == 10 && b.parts[0].n_outputs == 1);
    cl_schedule_sampled(b.s, 0, (int32_t[]){8}, 1);
    cl_schedule_leave(b.s, 0);
    CU_ASSERT_EQUAL(cl_schedule_active(b.s), 0);
    cl_schedule_free(b.s);
    free(q.tokens);
}

/* Guesses leave room for the token that follows when all of them are right. */
static void guesses_at_the_end(void)
{
    bench b;
    start(&b, 1, 8, 1);
    cl_sequence q = make(2, 4, 5);
    CU_ASSERT_EQUAL(cl_schedule_admit(b.s, &q), 0);
    CU_ASSERT_TRUE_FATAL(next(&b));
    cl_schedule_sampled(b.s, 0, (int32_t[]){7}, 1); /* 3 of 6 */
    for (int i = 3; i < 6; i++) q.tokens[i] = i;
    q.n_guesses = 3;
    CU_ASSERT_TRUE_FATAL(next(&b));
    CU_ASSERT(b.parts[0].n_guesses == 2 && b.parts[0].n_outputs == 3 && b.mb.n_tokens == 3);
    CU_ASSERT(b.ids[0] == 7 && b.ids[1] == 3 && b.ids[2] == 4 && b.parts[0].fork == -1);
    cl_schedule_sampled(b.s, 0, (int32_t[]){3, 4, 9}, 3);
    CU_ASSERT(q.n_tokens == 6 && q.tokens[5] == 9);
    cl_schedule_leave(b.s, 0);
    cl_schedule_free(b.s);
    free(q.tokens);
}

/* Sequences that begin in the middle: what their penalty looks at goes along once, and the slot that they take over. */
static void forks(void)
{
    bench b;
    start(&b, 3, 8, 1);
    cl_sequence q[3] = {make(5, 9, 10), make(5, 9, 10), make(6, 9, 10)};
    for (int i = 0; i < 3; i++) {
        if (i) q[i].fork = 0, q[i].n_sent = 4;
        CU_ASSERT_EQUAL(cl_schedule_admit(b.s, &q[i]), i);
        CU_ASSERT_TRUE_FATAL(next(&b));
        const cl_part *p = &b.parts[b.mb.n_parts - 1];
        CU_ASSERT(p->slot == i && p->fork == (i ? 0 : -1) && p->n_before == (i ? 4 : 0) &&
                  b.mb.n_before == p->n_before);
        CU_ASSERT((p->flags & CL_PART_BEGIN) && p->pos == (i ? 4 : 0) && p->n_tokens == (i == 2 ? 2 : i ? 1 : 5));
        for (int t = 0; t < b.mb.n_before; t++) CU_ASSERT_EQUAL(b.before[t], 10 + t);
        for (int k = 0; k <= i; k++)
            if (q[k].awaits) cl_schedule_sampled(b.s, k, (int32_t[]){7}, 1);
    }
    CU_ASSERT_TRUE_FATAL(next(&b));
    for (int k = 0; k < b.mb.n_parts; k++)
        CU_ASSERT(b.parts[k].fork == -1 && !(b.parts[k].flags & CL_PART_BEGIN) && b.parts[k].n_before == 0);
    cl_schedule_free(b.s);
    for (int i = 0; i < 3; i++) free(q[i].tokens);
}

static void prompts_fill_the_stages(void)
{
    bench b;
    start(&b, 1, 128, 4);
    cl_sequence q = make(100, 3, 0);
    cl_schedule_admit(b.s, &q);
    for (int k = 0; k < 4; k++) {
        CU_ASSERT_TRUE_FATAL(next(&b));
        CU_ASSERT_EQUAL(b.mb.n_tokens, 25);
    }
    CU_ASSERT_FALSE(next(&b));
    cl_schedule_free(b.s);
    free(q.tokens);
}

static void prompts_never_starve(void)
{
    bench b;
    start(&b, 3, 2, 1);
    cl_sequence q[3] = {make(1, 50, 1), make(1, 50, 2), make(5, 5, 3)};
    cl_schedule_admit(b.s, &q[0]);
    cl_schedule_admit(b.s, &q[1]);
    CU_ASSERT_TRUE(next(&b));
    CU_ASSERT_EQUAL(b.mb.n_parts, 2);
    cl_schedule_sampled(b.s, 0, (int32_t[]){7}, 1);
    cl_schedule_sampled(b.s, 1, (int32_t[]){7}, 1);
    cl_schedule_admit(b.s, &q[2]);
    CU_ASSERT_TRUE(next(&b)); /* one decodes, the prompt gets the other place */
    CU_ASSERT_EQUAL(b.mb.n_parts, 2);
    CU_ASSERT_EQUAL(b.parts[1].slot, 2);
    cl_schedule_free(b.s);
    for (int i = 0; i < 3; i++) free(q[i].tokens);
}

static void every_stage_has_work(void)
{
    bench b;
    start(&b, 8, 32, 4);
    cl_sequence q[8];
    for (int i = 0; i < 8; i++) {
        q[i] = make(1, 100, i);
        cl_schedule_admit(b.s, &q[i]);
    }
    CU_ASSERT_TRUE(next(&b));
    CU_ASSERT_EQUAL(b.mb.n_parts, 8); /* prompts of one token go together */
    for (int i = 0; i < 8; i++) cl_schedule_sampled(b.s, i, (int32_t[]){5}, 1);
    int served[8] = {0};
    for (int k = 0; k < 4; k++) { /* then decoding splits over the four stages */
        CU_ASSERT_TRUE_FATAL(next(&b));
        CU_ASSERT_EQUAL(b.mb.n_parts, 2);
        for (int p = 0; p < b.mb.n_parts; p++) served[b.parts[p].slot]++;
    }
    for (int i = 0; i < 8; i++) CU_ASSERT_EQUAL(served[i], 1);
    CU_ASSERT_FALSE(next(&b));
    cl_schedule_free(b.s);
    for (int i = 0; i < 8; i++) free(q[i].tokens);
}

/* 64 sequences in a line of 61 stages, 7 in one of 3, ...: shares differ by one, all are served once in a round. */
static void shares_are_even(void)
{
    static const struct {
        int sequences, stages, round, least;
    } cases[] = {{64, 61, 63, 1},  {7, 3, 3, 2},  {5, 8, 5, 1},   {16, 2, 2, 8},
                 {128, 61, 63, 2}, {30, 8, 9, 3}, {40, 16, 18, 2}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        bench b;
        const int n = cases[c].sequences;
        start(&b, n, 256, cases[c].stages);
        cl_sequence *q = calloc((size_t)n, sizeof *q);
        for (int i = 0; i < n; i++) {
            q[i] = make(1, 100, i);
            cl_schedule_admit(b.s, &q[i]);
        }
        while (next(&b)) {
        }
        for (int i = 0; i < n; i++) cl_schedule_sampled(b.s, i, (int32_t[]){5}, 1);
        int served[MAX] = {0}, rounds = 0;
        while (next(&b)) {
            rounds++;
            CU_ASSERT_TRUE(b.mb.n_parts == cases[c].least || b.mb.n_parts == cases[c].least + 1);
            for (int p = 0; p < b.mb.n_parts; p++) served[b.parts[p].slot]++;
        }
        CU_ASSERT_EQUAL(rounds, cases[c].round);
        for (int i = 0; i < n; i++) CU_ASSERT_EQUAL(served[i], 1);
        cl_schedule_free(b.s);
        for (int i = 0; i < n; i++) free(q[i].tokens);
        free(q);
    }
}

static void prompts_mix_with_decoding(void)
{
    bench b;
    start(&b, 2, 8, 1);
    cl_sequence a = make(1, 50, 1), c = make(20, 5, 50);
    cl_schedule_admit(b.s, &a);
    CU_ASSERT_TRUE(next(&b));
    cl_schedule_sampled(b.s, 0, (int32_t[]){2}, 1);
    cl_schedule_admit(b.s, &c);
    CU_ASSERT_TRUE(next(&b));
    CU_ASSERT_EQUAL(b.mb.n_parts, 2);
    CU_ASSERT_TRUE(b.parts[0].slot == 0 && b.parts[0].n_tokens == 1);
    CU_ASSERT_TRUE(b.parts[1].slot == 1 && b.parts[1].n_tokens == 7); /* what is left of the chunk */
    cl_schedule_free(b.s);
    free(a.tokens);
    free(c.tokens);
}

/* A random line: micro-batches come back in order after some time; every token must have gone once, in order of
 * positions. */
static void random_lines(void)
{
    unsigned seed = 1;
    for (int round = 0; round < 200; round++) {
        int stages = 1 + (int)(rand_r(&seed) % 5), slots = 1 + (int)(rand_r(&seed) % 9),
            chunk = 1 + (int)(rand_r(&seed) % 12), todo = 12;
        bench b;
        start(&b, slots, chunk, stages);
        cl_sequence q[12], *in_slot[MAX] = {0};
        int sent[12] = {0}, started = 0, ended = 0, generated[12] = {0};
        struct {
            int n, slot[MAX], sample[MAX];
        } line[8];
        int head = 0, flying = 0;
        for (int i = 0; i < todo; i++)
            q[i] = make(1 + (int)(rand_r(&seed) % 30), 1 + (int)(rand_r(&seed) % 10), 1000 * i);
        for (int steps = 0; ended < todo && steps < 100000; steps++) {
            while (started < todo && cl_schedule_has_room(b.s)) {
                int s = cl_schedule_admit(b.s, &q[started]);
                CU_ASSERT_PTR_NULL(in_slot[s]);
                in_slot[s] = &q[started++];
            }
            if (flying < stages && next(&b)) {
                int at = (head + flying++) % 8, t = 0;
                CU_ASSERT_TRUE_FATAL(b.mb.n_tokens <= chunk && b.mb.n_parts <= slots && b.mb.n_tokens > 0);
                line[at].n = b.mb.n_parts;
                for (int p = 0; p < b.mb.n_parts; p++) {
                    cl_sequence *x = in_slot[b.parts[p].slot];
                    int i = (int)(x - q);
                    CU_ASSERT_EQUAL_FATAL(b.parts[p].pos, sent[i]);
                    for (int k = 0; k < b.parts[p].n_tokens; k++)
                        CU_ASSERT_EQUAL_FATAL(b.ids[t++], x->tokens[sent[i]++]);
                    line[at].slot[p] = b.parts[p].slot;
                    line[at].sample[p] = b.parts[p].n_outputs == 1;
                }
                CU_ASSERT_EQUAL(t, b.mb.n_tokens);
                if (rand_r(&seed) & 1) continue;
            }
            if (!flying) continue;
            for (int p = 0; p < line[head].n; p++) {
                if (!line[head].sample[p]) continue;
                int s = line[head].slot[p], i = (int)(in_slot[s] - q);
                cl_schedule_sampled(b.s, s, (int32_t[]){7 * i + generated[i]++}, 1);
                if (q[i].n_tokens < q[i].capacity) continue;
                cl_schedule_leave(b.s, s);
                in_slot[s] = NULL;
                ended++;
            }
            head = (head + 1) % 8;
            flying--;
        }
        CU_ASSERT_EQUAL(ended, todo);
        for (int i = 0; i < todo; i++) {
            CU_ASSERT_EQUAL(sent[i], q[i].capacity - 1); /* all but the last sampled token */
            free(q[i].tokens);
        }
        cl_schedule_free(b.s);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"prompt in chunks", prompt_in_chunks},
                           {"guesses at the end", guesses_at_the_end},
                           {"forks", forks},
                           {"prompts fill the stages", prompts_fill_the_stages},
                           {"shares are even", shares_are_even},
                           {"prompts never starve", prompts_never_starve},
                           {"every stage has work", every_stage_has_work},
                           {"prompts mix with decoding", prompts_mix_with_decoding},
                           {"random lines", random_lines},
                           CU_TEST_INFO_NULL};
    return run_suite("schedule", tests);
}
