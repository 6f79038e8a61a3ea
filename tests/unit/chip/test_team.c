/* test_team.c: a chip's threads: jobs, waits in their midst, waits so long that threads sleep, more threads than
 * cores. */
#include <time.h>

#include "chip_impl.h"
#include "suite.h"

enum { MOST = 16, ROUNDS = 50 };

typedef struct sums {
    int64_t own[MOST]; /* each thread's, read by all others after a wait */
    int64_t seen[MOST];
    int pauses_us; /* thread 0 lets the others wait so long in each round */
} sums;

static void pause_us(int us) { nanosleep(&(struct timespec){.tv_nsec = us * 1000L}, NULL); }

static void add_all(const team *t, void *ctx)
{
    sums *s = ctx;
    for (int r = 0; r < ROUNDS; r++) {
        if (!t->id && s->pauses_us) pause_us(s->pauses_us);
        s->own[t->id] += t->id + r;
        team_wait(t);
        for (int i = 0; i < t->n; i++) s->seen[t->id] += s->own[i];
        team_wait(t);
    }
}

/* The same without threads. */
static int64_t expected(int n, int jobs)
{
    int64_t own[MOST] = {0}, seen = 0;
    for (int j = 0; j < jobs; j++) {
        for (int r = 0; r < ROUNDS; r++) {
            for (int i = 0; i < n; i++) own[i] += i + r, seen += own[i];
        }
    }
    return seen;
}

static void run(int n, int jobs, int pauses_us, int between_us)
{
    crew *c = NULL;
    cl_err err;
    sums s = {.pauses_us = pauses_us};
    CU_ASSERT_EQUAL_FATAL(team_create(&c, n, true, &err), CL_OK);
    for (int j = 0; j < jobs; j++) {
        team_run(c, add_all, &s);
        if (between_us) pause_us(between_us);
    }
    for (int i = 0; i < n; i++) CU_ASSERT_EQUAL(s.seen[i], expected(n, jobs));
    team_free(c);
}

static void jobs_and_waits(void)
{
    for (int n = 1; n <= 4; n++) run(n, 200, 0, 0);
}

static void waits_that_sleep(void)
{
    for (int n = 2; n <= 4; n++) {
        run(n, 2, 1500, 0);
        run(n, 20, 0, 2000);
    }
}

static void more_threads_than_cores(void) { run(MOST, 20, 0, 0); }

static void never_run(void)
{
    crew *c = NULL;
    CU_ASSERT_EQUAL_FATAL(team_create(&c, 3, false, NULL), CL_OK);
    team_free(c);
    team_free(NULL);
}

int main(void)
{
    CU_TestInfo tests[] = {{"jobs and waits", jobs_and_waits},
                           {"waits that sleep", waits_that_sleep},
                           {"more threads than cores", more_threads_than_cores},
                           {"never run", never_run},
                           CU_TEST_INFO_NULL};
    return run_suite("team", tests);
}
