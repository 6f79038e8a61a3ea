/* Ranks: agreement, moving data over the tree, clocks, seats, notes. */
#include "dying.h"

#define RANK cl_ranks_rank(the_ranks)
#define SIZE cl_ranks_size(the_ranks)

static void tree(void)
{
    for (int size = 1; size < 70; size++)
        for (int rank = 0; rank < size; rank++) {
            int sum = 1; /* a rank and the subtrees of its children are its own */
            for (int child = rank + 1; child < size; child++)
                if (tree_parent(child) == rank) {
                    CU_ASSERT_EQUAL(child, rank + sum);
                    sum += tree_span(child, size);
                }
            CU_ASSERT_EQUAL(sum, tree_span(rank, size));
            CU_ASSERT_TRUE(rank == 0 || tree_parent(rank) < rank);
        }
}

static void agreement(void)
{
    cl_err err = {.code = CL_OK};
    CU_ASSERT_EQUAL(cl_ranks_agree(the_ranks, CL_OK, &err), CL_OK);
    /* ranks from `bad` on fail, each in its own way: the first one's word counts */
    for (int bad = 0; bad < SIZE; bad++) {
        cl_code mine = RANK >= bad ? cl_fail(&err, RANK == bad ? CL_E_FIT : CL_E_INPUT, "rank %d says", RANK) : CL_OK;
        CU_ASSERT_EQUAL(cl_ranks_agree(the_ranks, mine, &err), CL_E_FIT);
        char want[32];
        snprintf(want, sizeof want, "rank %d says", bad);
        CU_ASSERT_STRING_EQUAL(err.msg, want);
        CU_ASSERT_EQUAL(err.code, CL_E_FIT);
    }
    memset(err.msg, 'x', sizeof err.msg - 1);
    err.msg[sizeof err.msg - 1] = 0;
    CU_ASSERT_EQUAL(cl_ranks_agree(the_ranks, RANK == SIZE - 1 ? CL_E_RUN : CL_OK, &err), CL_E_RUN);
    CU_ASSERT_EQUAL(strlen(err.msg), sizeof err.msg - 1);
}

static void sameness(void)
{
    cl_err err = {.code = CL_OK};
    char host[80];
    CU_ASSERT_EQUAL(cl_ranks_same(the_ranks, 7, "m.h5", &err), CL_OK);
    for (int odd = 1; odd < SIZE; odd++) {
        char want[32];
        CU_ASSERT_EQUAL(cl_ranks_same(the_ranks, RANK >= odd ? 1ull << 60 : 7, "m.h5", &err), CL_E_INPUT);
        snprintf(want, sizeof want, "m.h5: rank %d on", odd);
        snprintf(host, sizeof host, "on %s has", cl_ranks_host_of(the_ranks, odd));
        CU_ASSERT_TRUE(strstr(err.msg, want) == err.msg && strstr(err.msg, host));
    }
}

static void moving_data(void)
{
    cl_ranks *r = the_ranks;
    int word = RANK == 0 ? 77 : 0, mine[3] = {10 + RANK, RANK, -RANK}, all[3 * 64] = {0};
    cl_ranks_bcast(r, &word, sizeof word);
    CU_ASSERT_EQUAL(word, 77);
    cl_ranks_gather(r, mine, sizeof mine, RANK ? NULL : all);
    for (int i = 0; RANK == 0 && i < SIZE; i++)
        CU_ASSERT_TRUE(all[3 * i] == 10 + i && all[3 * i + 1] == i && all[3 * i + 2] == -i);
    uint64_t sum[2] = {(uint64_t)RANK + 1, 1ull << 40}, n = (uint64_t)SIZE;
    cl_ranks_sum(r, sum, 2);
    CU_ASSERT_TRUE(RANK ? sum[0] == (uint64_t)RANK + 1 && sum[1] == 1ull << 40
                        : sum[0] == n * (n + 1) / 2 && sum[1] == n << 40);
    double most[2] = {RANK, -RANK};
    cl_ranks_max(r, most, 2);
    CU_ASSERT_TRUE(most[0] == SIZE - 1 && most[1] == 0);
    CU_ASSERT_EQUAL(seats_sum(r, (uint64_t)RANK + 1), n * (n + 1) / 2); /* one host */
    for (int i = 0; i < 20; i++) cl_ranks_barrier(r);
    enum { BULK = 300000 };
    int *data = malloc(BULK * sizeof *data);
    for (int i = 0; i < BULK; i++) data[i] = RANK * BULK + i;
    if (RANK) cl_ranks_send_bulk(r, data, BULK * sizeof *data);
    for (int from = 1; RANK == 0 && from < SIZE; from++) {
        cl_ranks_recv_bulk(r, from, data, BULK * sizeof *data);
        CU_ASSERT_TRUE(data[0] == from * BULK && data[BULK - 1] == from * BULK + BULK - 1);
    }
    free(data);
}

static void blocks_of_bytes(void)
{
    static const size_t sizes[] = {0, 1, 100000, ((size_t)1 << 26) + 5};
    cl_err err;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bytes = RANK ? 1 : sizes[i];
        void *data = RANK ? &err : malloc(sizes[i] + 1);
        if (RANK == 0) memset(data, 17 + (int)i, sizes[i]);
        CU_ASSERT_EQUAL_FATAL(cl_ranks_bcast_bytes(the_ranks, &data, &bytes, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(bytes, sizes[i]);
        const char *got = data;
        if (bytes) CU_ASSERT_TRUE(got[0] == 17 + (int)i && got[bytes - 1] == 17 + (int)i);
        if (!bytes && RANK) CU_ASSERT_PTR_NULL(data);
        free(data);
    }
}

/* --- clocks --- */

enum { SKEW = 1000000000 };

static uint64_t early(void) { return cl_now_ns() - (RANK ? SKEW : 0); }
static uint64_t late(void) { return cl_now_ns() + (RANK ? 3ull * SKEW : 0); }

static void clocks(void)
{
    int64_t offset, uncertainty;
    cl_ranks_clock(the_ranks, &offset, &uncertainty);
    /* one host, one clock: the truth is 0 and must be within what is said to be certain */
    CU_ASSERT_TRUE(llabs((long long)offset) <= uncertainty);
    CU_ASSERT_TRUE(RANK ? uncertainty > 0 && uncertainty < SKEW : offset == 0 && uncertainty == 0);
    /* a clock that is behind needs something added */
    clock_compare(the_ranks, early, &offset, &uncertainty);
    CU_ASSERT_TRUE(llabs((long long)offset - (RANK ? SKEW : 0)) <= uncertainty);
    clock_compare(the_ranks, late, &offset, &uncertainty);
    CU_ASSERT_TRUE(llabs((long long)offset + (RANK ? 3ll * SKEW : 0)) <= uncertainty);
}

/* --- seats --- */

static rank_cores cores(int from, int n)
{
    rank_cores c;
    memset(&c, 0, sizeof c);
    for (int i = from; i < from + n; i++) CPU_SET((size_t)i, &c.cores);
    return c;
}

static void seats(void)
{
    /* 0 and 1 share eight cores, 2 and 3 have two each of their own, 4 to 6 share two */
    const rank_cores all[] = {cores(0, 8),  cores(0, 8),  cores(8, 2), cores(10, 2),
                              cores(12, 2), cores(12, 2), cores(12, 2)};
    static const int fit[] = {4, 4, 2, 2, 1, 1, 1};
    for (int i = 0; i < 7; i++) {
        cl_seat s = seats_of(all, 7, i);
        CU_ASSERT_TRUE(s.ranks_here == 7 && s.cores_here == 14 && s.threads_fit == fit[i]);
    }
    char full[HOST_NAME + 8], name[HOST_NAME + 1], other[HOST_NAME];
    for (size_t n = HOST_NAME - 2; n < HOST_NAME + 2; n++) {
        memset(full, 'a', n);
        full[n] = 0;
        name[HOST_NAME] = '!';
        seats_name(full, name);
        CU_ASSERT_TRUE(name[HOST_NAME] == '!' && strlen(name) < HOST_NAME);
        CU_ASSERT_EQUAL(!strcmp(name, full), n < HOST_NAME);
        full[n - 1] = 'b';
        seats_name(full, other);
        CU_ASSERT_STRING_NOT_EQUAL(name, other);
    }
    cpu_set_t own;
    cl_seat s = cl_ranks_seat(the_ranks);
    CU_ASSERT_EQUAL_FATAL(sched_getaffinity(0, sizeof own, &own), 0);
    int share = CPU_COUNT(&own) / SIZE; /* ranks here are not bound */
    CU_ASSERT_TRUE(s.ranks_here == SIZE && s.cores_here == CPU_COUNT(&own));
    CU_ASSERT_EQUAL(s.threads_fit, share > 1 ? share : 1);
    for (int i = 0; i < SIZE; i++) CU_ASSERT_STRING_EQUAL(cl_ranks_host_of(the_ranks, i), cl_ranks_host(the_ranks));
}

/* --- notes --- */

/* Every rank sends every other one notes of many lengths; each pair's come in order. */
static void notes(void)
{
    enum { NOTES = 40 };
    cl_notes *n;
    cl_err err;
    cl_buf got = {0};
    int from, came[64] = {0}, expected = NOTES * (SIZE - 1);
    CU_ASSERT_EQUAL_FATAL(cl_notes_open(&n, the_ranks, &err), CL_OK);
    static unsigned char data[100000];
    for (int i = 0; i < NOTES; i++)
        for (int to = 0; to < SIZE; to++) {
            size_t bytes = i < 30 ? (size_t)(i * 17) : (size_t)(i * i * 60);
            memset(data, RANK + i, bytes);
            if (to != RANK) CU_ASSERT_EQUAL_FATAL(cl_notes_send(n, to, data, bytes, &err), CL_OK);
        }
    while (expected) {
        MPI_Request *next_one = notes_post(n);
        MPI_Status status;
        if (blocking && *next_one != MPI_REQUEST_NULL) {
            wait_one(the_ranks, next_one, &status, "a note of", -1);
            notes_came(n, &status);
        }
        if (!cl_notes_recv(n, &from, &got)) continue;
        int i = came[from]++;
        size_t bytes = i < 30 ? (size_t)(i * 17) : (size_t)(i * i * 60);
        CU_ASSERT_EQUAL_FATAL(got.len, bytes);
        for (size_t k = 0; k < bytes; k += 1 + bytes / 7) CU_ASSERT_EQUAL((unsigned char)got.data[k], from + i);
        if (bytes) CU_ASSERT_EQUAL((unsigned char)got.data[bytes - 1], from + i);
        expected--;
    }
    cl_notes_close(n);
    cl_buf_free(&got);
    cl_ranks_barrier(the_ranks);
}

/* --- the end of all ranks --- */

/* As they were started. */
static void beginning(void)
{
    char full[MPI_MAX_PROCESSOR_NAME], name[HOST_NAME];
    int n;
    CU_ASSERT_STRING_EQUAL(the_ranks->life.phase, "starting");
    CU_ASSERT(the_ranks->life.watch.peer == -1 && the_ranks->look == life_look);
    CU_ASSERT(the_ranks->waiting.threads == 1 && the_ranks->waiting.stall_timeout_s == 60);
    CU_ASSERT_EQUAL(the_ranks->waiting.how, blocking ? CL_WAIT_BLOCK : CL_WAIT_AUTO);
    CU_ASSERT_EQUAL(MPI_Get_processor_name(full, &n), MPI_SUCCESS);
    seats_name(full, name);
    CU_ASSERT_STRING_EQUAL(cl_ranks_host(the_ranks), name);
    CU_ASSERT_EQUAL(cl_ranks_baseline_bytes(the_ranks) > 1 << 20, true);
}

static void abort_it(void *words) { cl_ranks_abort(the_ranks, CL_E_INPUT, "%s %d", (const char *)words, 5); }
static void fail_call(void *call) { ranks_mpi_failed(the_ranks, MPI_ERR_TAG, call); }
static void recv_seven(void *data) { wait_recv(the_ranks, data, 7, rank_before(), TAG_BULK, "a test of"); }

static void aborting(void)
{
    char want[300], text[MPI_MAX_ERROR_STRING], data[7] = "";
    int n;
    last_words(abort_it, (void *)(uintptr_t) "as it is", CL_E_INPUT, "as it is 5");
    MPI_Error_string(MPI_ERR_TAG, text, &n);
    snprintf(want, sizeof want, "rank %d: %.40s failed: %.200s (a rank or a link is gone)", RANK,
             "MPI_Isend(of forty letters and then more)", text);
    last_words(fail_call, (void *)(uintptr_t) "MPI_Isend(of forty letters and then more)", CL_E_RUN, want);
    snprintf(want, sizeof want, "rank %d: 5 bytes of rank %d, not 7 (a bug: please report it)", RANK, rank_before());
    send_round(data, 5, TAG_BULK, recv_seven, data, CL_E_RUN, want);
    send_round(data, 7, TAG_BULK, recv_seven, data, CL_OK, "");
}

/* --- life and death --- */

enum { LIFE_ASK = 1, LIFE_ANSWER, LIFE_DEAD };
static const uint64_t AT = 1000000000000, S = 1000000000;

static void look_now(void *ctx)
{
    for (uint64_t end = cl_now_ns() + 10 * S; cl_now_ns() < end && !the_ranks->life.watch.phase[0];) {
        the_ranks->life.looked = AT - S;
        life_look(the_ranks, AT);
    }
}

static void life_notes(void)
{
    life_note n = {.kind = LIFE_DEAD, .waits_for = -1, .text = "rank 9 is gone"};
    const size_t bytes = offsetof(life_note, text) + strlen(n.text) + 1;
    const int rank = RANK;
    the_ranks->life.watch = (watch){.peer = rank, .what = "nothing", .asked = AT};
    sent(rank, &n, bytes, TAG_LIFE, look_now, NULL, CL_E_RUN, "rank 9 is gone");
    /* one that asks is told what this rank does: cut, and by the one that is waited for */
    cl_ranks_phase(the_ranks, "doing something with a name of many letters");
    n.kind = LIFE_ASK;
    the_ranks->life.watch = (watch){.peer = rank, .what = "nothing", .asked = AT, .accused = 5};
    sent(rank, &n, bytes, TAG_LIFE, look_now, NULL, CL_OK, "");
    CU_ASSERT_STRING_EQUAL(the_ranks->life.watch.phase, "doing something with a name of ");
    CU_ASSERT(the_ranks->life.watch.heard == AT && the_ranks->life.watch.accused == 0);
    /* asks every five seconds */
    the_ranks->life.watch = (watch){.peer = rank, .what = "nothing", .since = 1, .heard = AT, .asked = AT - 5 * S + 1};
    the_ranks->life.looked = AT - S;
    life_look(the_ranks, AT);
    CU_ASSERT_EQUAL(the_ranks->life.watch.asked, AT - 5 * S + 1);
    the_ranks->life.watch.asked--;
    look_now(NULL);
    CU_ASSERT(the_ranks->life.watch.asked == AT && the_ranks->life.watch.phase[0] == 'd');
    the_ranks->life.watch = (watch){.peer = -1};
    cl_ranks_phase(the_ranks, "starting");
}

static void look_at(void *ctx) { life_look(the_ranks, AT); }

/* Rank 0 speaks of others at once; whoever has told it speaks itself when nothing happens, lower ranks sooner. */
static void accusing(void)
{
    const int peer = RANK ? 0 : 1, rank = RANK;
    const uint64_t told = RANK ? AT - S - (uint64_t)RANK * S / 20 : 0;
    char want[400];
    if (SIZE == 1 || RANK > 16) return;
    const watch w = {.peer = peer,
                     .what = "numbers of",
                     .since = AT - 75 * S,
                     .heard = AT - 60 * S - 1,
                     .asked = AT,
                     .accused = told};
    static const char says[] = "rank %d on %s stands still or its link is gone: rank %d waited 75 s for numbers of it "
                               "while %s (look at that host; where a step takes longer, raise --stall-timeout)";
    for (int k = 0; k < 6; k++) {
        the_ranks->life.looked = AT - (k == 4 ? 2 * S : k == 5 ? 19999999 : S);
        the_ranks->life.watch = w;
        if (k == 1) strcpy(the_ranks->life.watch.phase, "asleep");
        if (k == 2) the_ranks->life.watch.heard++; /* not longer than the time-out */
        if (k == 3) the_ranks->life.watch.accused = RANK ? told + 1 : 0;
        snprintf(want, sizeof want, says, peer, cl_ranks_host(the_ranks), rank, k == 1 ? "asleep" : "starting");
        bool quiet = k == 2 || (k == 3 && rank) || k > 3; /* 4: was away itself; 5: has just looked */
        last_words(look_at, NULL, quiet ? CL_OK : CL_E_RUN, want);
    }
    the_ranks->life.watch = (watch){.peer = -1};
}

/* --- notes that make no sense --- */

static void take_note(void *notes)
{
    MPI_Status status;
    for (MPI_Request *r; *(r = notes_post(notes)) != MPI_REQUEST_NULL;) {
        if (!blocking) continue;
        wait_one(the_ranks, r, &status, "a note of", -1);
        notes_came(notes, &status);
        return;
    }
}

static void wrong_notes(void)
{
    static const struct {
        uint64_t says;
        size_t bytes;
        bool good;
    } cases[] = {{0, 8, true},     {0, 9, false},     {5, 13, true},          {5, 12, false},
                 {5, 14, false},   {247, 255, true},  {247, 256, false},      {248, 256, true},
                 {249, 256, true}, {249, 255, false}, {INT32_MAX, 256, true}, {(uint64_t)INT32_MAX + 1, 256, false}};
    char want[200];
    cl_err err;
    snprintf(want, sizeof want, "rank %d: a note of rank %d makes no sense (a bug: please report it)", RANK,
             rank_before());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static uint64_t data[32];
        cl_notes *n;
        data[0] = cases[i].says;
        CU_ASSERT_EQUAL_FATAL(cl_notes_open(&n, the_ranks, &err), CL_OK);
        send_round(data, cases[i].bytes, TAG_NOTE, take_note, n, cases[i].good ? CL_OK : CL_E_RUN, want);
        cl_notes_close(n);
    }
    cl_notes_close(NULL);
}

int main(int argc, char **argv)
{
    CU_TestInfo tests[] = {{"beginning", beginning},
                           {"aborting", aborting},
                           {"life notes", life_notes},
                           {"accusing", accusing},
                           {"wrong notes", wrong_notes},
                           {"tree", tree},
                           {"agreement", agreement},
                           {"sameness", sameness},
                           {"moving data", moving_data},
                           {"blocks of bytes", blocks_of_bytes},
                           {"clocks", clocks},
                           {"seats", seats},
                           {"notes", notes},
                           CU_TEST_INFO_NULL};
    return run_on_ranks(argc, argv, "ranks", tests);
}
