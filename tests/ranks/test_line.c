/* The line with chips that only count, each a stage of its own: every micro-batch visits every rank once, in order,
 * unharmed; samples come back; errors and clocks are agreed on. Run with 1 to 4 ranks. */
#include <stdlib.h>
#include <unistd.h>

#include "chipline/line.h"
#include "chipline/util.h"
#include "suite.h"

enum { SLOTS = 5, CHUNK = 7, HIDDEN = 33, STEPS = 300 };

/* CUnit's tests take no argument. */
static cl_line *the_line;

static void agreement(void)
{
    cl_line *l = the_line;
    int rank = cl_line_rank(l), size = cl_line_size(l);
    cl_err err = {.code = CL_OK};
    CU_ASSERT_EQUAL(cl_line_agree(l, CL_OK, &err), CL_OK);
    /* ranks from `bad` on fail, each in its own way: the first one's word counts */
    for (int bad = 0; bad < size; bad++) {
        cl_code mine = rank >= bad ? cl_fail(&err, rank == bad ? CL_E_FIT : CL_E_INPUT, "rank %d says", rank) : CL_OK;
        CU_ASSERT_EQUAL(cl_line_agree(l, mine, &err), CL_E_FIT);
        char want[32];
        snprintf(want, sizeof want, "rank %d says", bad);
        CU_ASSERT_STRING_EQUAL(err.msg, want);
    }
}

static void moving_data(void)
{
    cl_line *l = the_line;
    int rank = cl_line_rank(l), size = cl_line_size(l), word = rank == 0 ? 77 : 0, mine = 10 + rank, all[64] = {0};
    cl_line_bcast(l, &word, sizeof word);
    CU_ASSERT_EQUAL(word, 77);
    cl_line_gather(l, &mine, sizeof mine, all);
    for (int r = 0; rank == 0 && r < size; r++) CU_ASSERT_EQUAL(all[r], 10 + r);
    enum { BULK = 300000 };
    int *data = malloc(BULK * sizeof *data);
    for (int i = 0; i < BULK; i++) data[i] = rank * BULK + i;
    if (rank) cl_line_send_bulk(l, data, BULK * sizeof *data);
    for (int r = 1; rank == 0 && r < size; r++) {
        cl_line_recv_bulk(l, r, data, BULK * sizeof *data);
        CU_ASSERT_TRUE(data[0] == r * BULK && data[BULK - 1] == r * BULK + BULK - 1);
    }
    free(data);
}

static void clocks(void)
{
    int64_t offset, uncertainty;
    cl_line_clock(the_line, &offset, &uncertainty);
    /* one host, one clock: the truth is 0 and must be within what is said to be certain */
    if (cl_line_ranks_here(the_line) == cl_line_size(the_line)) CU_ASSERT_TRUE(llabs((long long)offset) <= uncertainty);
    CU_ASSERT_TRUE(cl_line_rank(the_line) ? uncertainty > 0 && uncertainty < 1000000000
                                          : offset == 0 && uncertainty == 0);
}

/* What micro-batch `id` looks like at the beginning. */
static void fill(cl_hop *h, int64_t id)
{
    unsigned seed = (unsigned)id;
    h->mb.id = id;
    int n = 1 + (int)(id % SLOTS), tokens = 0;
    for (int p = 0; p < n; p++) {
        int k = p == 0 ? 1 + (int)(id % (CHUNK - SLOTS + 1)) : 1;
        h->mb.parts[p] = (cl_seq_part){.slot = p,
                                       .pos = (int)(id % 50),
                                       .n_tokens = k,
                                       .n_outputs = 1,
                                       .fork = -1,
                                       .sampling = {.seed = (uint64_t)id}};
        for (int t = 0; t < k; t++) h->mb.ids[tokens++] = (int)(rand_r(&seed) % 1000);
    }
    h->mb.n_parts = n;
    h->mb.n_tokens = tokens;
}

static void check_hop(const cl_hop *h, int64_t id, int visits)
{
    unsigned seed = (unsigned)id;
    CU_ASSERT_EQUAL_FATAL(h->kind, CL_HOP_WORK);
    CU_ASSERT_EQUAL_FATAL(h->mb.id, id);
    CU_ASSERT_EQUAL_FATAL(h->mb.n_parts, 1 + id % SLOTS);
    CU_ASSERT_EQUAL(h->mb.parts[0].pos, id % 50);
    CU_ASSERT_EQUAL(h->mb.parts[h->mb.n_parts - 1].sampling.seed, (uint64_t)id);
    CU_ASSERT_EQUAL((uintptr_t)h->x % 64, 0);
    bool right = true;
    for (int t = 0; t < h->mb.n_tokens; t++) {
        right = right && h->mb.ids[t] == (int)(rand_r(&seed) % 1000);
        for (int i = 0; i < HIDDEN; i++) right = right && h->x[t * HIDDEN + i] == (float)(1000 * t + i + visits);
    }
    CU_ASSERT_TRUE(right);
}

static void count_visit(cl_hop *h, bool first)
{
    for (int t = 0; t < h->mb.n_tokens; t++)
        for (int i = 0; i < HIDDEN; i++)
            h->x[t * HIDDEN + i] = first ? (float)(1000 * t + i + 1) : h->x[t * HIDDEN + i] + 1;
}

static void hand_over(void)
{
    cl_line *l = the_line;
    int rank = cl_line_rank(l), size = cl_line_size(l), last = size - 1, in_flight = 0;
    cl_err err;
    cl_line_options o = {.limits = {.slots = SLOTS, .context = 64, .chunk = CHUNK, .hidden = HIDDEN, .vocab = 1000},
                         .stage_first = rank,
                         .members = 1,
                         .prev = rank ? rank - 1 : -1,
                         .next = rank < last ? rank + 1 : -1,
                         .last = last,
                         .threads = 1,
                         .exchange_bytes = 100,
                         .stall_timeout_s = 30};
    CU_ASSERT_EQUAL_FATAL(cl_line_open(l, &o, &err), CL_OK);
    const cl_group *g = cl_line_group(l);
    cl_region r = {.data = g->memory, .rows = 1, .stride = 25, .cut = (int32_t[]){0, 25}, .to = -1};
    CU_ASSERT_TRUE(g->member == 0 && g->members == 1 && g->memory && !cl_line_shared(l));
    CU_ASSERT_EQUAL(g->gather(g->ctx, &r, 1), 0);
    cl_sampled parts[SLOTS];
    int32_t ids[SLOTS];
    int64_t done = 0;
    for (int64_t sent = 0; rank == 0 && (sent < STEPS || in_flight);) {
        const cl_samples *got;
        if (sent < STEPS && in_flight < size) {
            cl_hop *h = cl_line_take(l);
            fill(h, sent++);
            cl_line_seal(l, h);
            count_visit(h, true);
            check_hop(h, h->mb.id, 1);
            if (size == 1) {
                cl_line_release(l, h);
                done++;
                continue;
            }
            cl_line_pass(l, h);
            in_flight++;
        }
        if (in_flight && cl_line_recv_samples(l, in_flight == size || sent == STEPS, &got)) {
            int64_t id = got->microbatch;
            CU_ASSERT_EQUAL_FATAL(id, done++);
            CU_ASSERT_EQUAL_FATAL(got->n_parts, 1 + id % SLOTS);
            const cl_sampled *p = &got->parts[got->n_parts - 1];
            CU_ASSERT_TRUE(p->slot == got->n_parts - 1 && got->ids[p->first] == (int)id + p->slot);
            in_flight--;
        }
    }
    for (int64_t k = 0; rank && k < STEPS; k++) {
        cl_hop *h = cl_line_recv(l);
        check_hop(h, k, rank);
        count_visit(h, false);
        cl_line_poll(l);
        if (rank < last) {
            cl_line_pass(l, h);
            continue;
        }
        cl_samples s = {.microbatch = k, .n_parts = h->mb.n_parts, .n_ids = h->mb.n_parts, .parts = parts, .ids = ids};
        for (int p = 0; p < h->mb.n_parts; p++) {
            parts[p] = (cl_sampled){.slot = p, .n = 1, .first = p};
            ids[p] = (int)k + p;
        }
        cl_line_send_samples(l, &s);
        cl_line_release(l, h);
    }
    if (rank == 0) CU_ASSERT_EQUAL(done, STEPS);
    cl_line_drain(l);
}

int main(int argc, char **argv)
{
    cl_err err;
    if (cl_line_start(&the_line, &argc, &argv, &err) != CL_OK) return EXIT_FAILURE;
    if (cl_line_rank(the_line) && !freopen("/dev/null", "w", stdout)) return EXIT_FAILURE; /* one report is enough */
    CU_TestInfo tests[] = {{"agreement", agreement},
                           {"moving data", moving_data},
                           {"clocks", clocks},
                           {"hand-over", hand_over},
                           CU_TEST_INFO_NULL};
    int rc = run_suite("line", tests);
    if (rc) cl_line_abort(the_line, CL_E_RUN, "rank %d: tests failed", cl_line_rank(the_line));
    cl_line_end(the_line);
    return rc;
}
