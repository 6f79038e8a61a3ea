/* test_crew.c: a chip's threads: jobs, waits in their midst, waits so long that threads sleep, more threads than
 * cores, threads that cannot be had. A wait that lets somebody through too early shows in the numbers; one that never
 * ends is ended by an alarm. */
#include "crew.h"

#include <omp.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "suite.h"

enum { MOST = 16, ROUNDS = 50, PATIENCE_S = 60 };

static void too_long(int sig)
{
    static const char text[] = "crew: a wait did not end\n";
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)n;
    _exit(EXIT_FAILURE);
}

typedef struct sums {
    int64_t own[MOST]; /* each thread's, read by all others after a wait */
    int64_t seen[MOST];
    int at[MOST];       /* the wait that each thread comes to next */
    _Atomic int early;  /* a thread was seen at another wait than the one that all have just left */
    int pauses_us;      /* thread 0 lets the others wait so long in each round */
    int alone, between; /* of the caller between assemble and release; must never be read in the midst of it */
    int jobs, between_us;
} sums;

static void pause_us(int us) { nanosleep(&(struct timespec){.tv_nsec = us * 1000L}, NULL); }

/* Between two waits all threads' numbers stay as they were before the first. */
static void look(const crew_member *m, sums *s, int at)
{
    for (int i = 0; i < m->n; i++) s->early += s->at[i] != at;
}

static void add_all(const crew_member *m, void *ctx)
{
    sums *s = ctx;
    const int first = s->at[m->id];
    for (int r = 0; r < ROUNDS; r++) {
        if (!m->id && s->pauses_us) pause_us(s->pauses_us);
        s->own[m->id] += m->id + r;
        s->at[m->id] = first + r + 1;
        crew_wait(m);
        for (int i = 0; i < m->n; i++) s->seen[m->id] += s->own[i];
        look(m, s, first + r + 1);
        if (crew_assemble(m)) {
            s->alone = 1;
            if (s->pauses_us) pause_us(s->pauses_us);
            s->between++;
            s->alone = 0;
            crew_release(m);
        }
        s->early += s->alone;
        crew_wait(m); /* before anybody may be alone again */
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

static cl_code run_jobs(void *ctx, cl_crew *crew, cl_err *err)
{
    sums *s = ctx;
    for (int j = 0; j < s->jobs; j++) {
        crew_run(crew, add_all, s);
        if (s->between_us) pause_us(s->between_us);
    }
    return CL_OK;
}

static void run(int n, int jobs, int pauses_us, int between_us)
{
    sums s = {.pauses_us = pauses_us, .jobs = jobs, .between_us = between_us};
    alarm(PATIENCE_S);
    CU_ASSERT_EQUAL_FATAL(cl_crew_run(n, run_jobs, &s, NULL), CL_OK);
    alarm(0);
    CU_ASSERT_EQUAL(s.early, 0);
    CU_ASSERT_EQUAL(s.between, jobs * ROUNDS);
    for (int i = 0; i < n; i++) CU_ASSERT_EQUAL(s.seen[i], expected(n, jobs));
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

/* --- the region --- */

static cl_code count(void *ctx, cl_crew *crew, cl_err *err)
{
    ++*(int *)ctx;
    return cl_fail(err, CL_E_RUN, "%d threads", cl_crew_threads(crew));
}

static void body_and_code(void)
{
    int calls = 0;
    cl_err err;
    CU_ASSERT_EQUAL(cl_crew_run(3, count, &calls, &err), CL_E_RUN);
    CU_ASSERT_STRING_EQUAL(err.msg, "3 threads");
    CU_ASSERT_EQUAL(cl_crew_run(1, count, &calls, NULL), CL_E_RUN);
    CU_ASSERT_EQUAL(calls, 2);
}

typedef struct masks {
    bool blocked[MOST];
} masks;

static void look_at_mask(const crew_member *m, void *ctx)
{
    masks *k = ctx;
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    k->blocked[m->id] = sigismember(&now, SIGTERM) == 1 && sigismember(&now, SIGINT) == 1;
}

static cl_code run_masks(void *ctx, cl_crew *crew, cl_err *err)
{
    crew_run(crew, look_at_mask, ctx);
    return CL_OK;
}

static void signals_are_the_callers(void)
{
    masks k = {{false}};
    sigset_t now;
    CU_ASSERT_EQUAL(cl_crew_run(4, run_masks, &k, NULL), CL_OK);
    for (int i = 0; i < 4; i++) CU_ASSERT_EQUAL(k.blocked[i], i > 0);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    CU_ASSERT_EQUAL(sigismember(&now, SIGTERM), 0);
}

/* What this process has used of the cores. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void nothing_spins_afterwards(void)
{
    int calls = 0;
    cl_crew_run(4, count, &calls, NULL);
    pause_us(20000);
    uint64_t before = cpu_ns();
    pause_us(200000);
    CU_ASSERT(cpu_ns() - before < 20000000);
}

/* Runs this program anew: OpenMP reads its environment once. */
static int child(const char *self, const char *what, const char *name, const char *value, char *text, size_t size)
{
    int out[2], status;
    CU_ASSERT_EQUAL_FATAL(pipe(out), 0);
    pid_t pid = fork();
    if (!pid) {
        dup2(out[1], STDOUT_FILENO);
        if (name) setenv(name, value, 1);
        execl(self, self, what, (char *)NULL);
        _exit(99);
    }
    close(out[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(out[0], text + n, size - 1 - n)) > 0;) n += (size_t)got;
    text[n] = 0;
    close(out[0]);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *self;

static void threads_that_cannot_be_had(void)
{
    char text[2048];
#ifndef __SANITIZE_ADDRESS__ /* which itself ends where it cannot map memory for one more */
    CU_ASSERT_EQUAL(child(self, "many", NULL, NULL, text, sizeof text), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "cannot be started"));
#endif
    CU_ASSERT_EQUAL(child(self, "four", "OMP_THREAD_LIMIT", "3", text, sizeof text), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "OMP_THREAD_LIMIT: allows 3 threads of 4"));
    CU_ASSERT_EQUAL(child(self, "four", "OMP_MAX_ACTIVE_LEVELS", "0", text, sizeof text), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "OpenMP: gives 1 threads of 4"));
    CU_ASSERT_EQUAL(child(self, "four", "OMP_PROC_BIND", "true", text, sizeof text), CL_E_RUN);
    CU_ASSERT_STRING_EQUAL(text, "4 threads\n");
}

/* What a child does. */
static int begin_and_say(const char *what)
{
    int calls = 0;
    cl_err err = {0};
    if (strcmp(what, "many") == 0) { /* no room for so many stacks */
        struct rlimit small = {(rlim_t)1 << 30, (rlim_t)1 << 30};
        setrlimit(RLIMIT_AS, &small);
    }
    cl_code c = cl_crew_run(strcmp(what, "many") == 0 ? 1000 : 4, count, &calls, &err);
    puts(err.msg);
    return (int)c;
}

int main(int argc, char **argv)
{
    CU_TestInfo tests[] = {{"jobs and waits", jobs_and_waits},
                           {"waits that sleep", waits_that_sleep},
                           {"more threads than cores", more_threads_than_cores},
                           {"body and code", body_and_code},
                           {"signals are the caller's", signals_are_the_callers},
                           {"nothing spins afterwards", nothing_spins_afterwards},
                           {"threads that cannot be had", threads_that_cannot_be_had},
                           CU_TEST_INFO_NULL};
    if (argc > 1) return begin_and_say(argv[1]);
    self = argv[0];
    signal(SIGALRM, too_long);
    return run_suite("crew", tests);
}
