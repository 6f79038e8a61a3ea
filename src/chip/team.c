/* team.c: the threads of a chip, and how they wait for each other.
 *
 * OpenMP's own threads spin for milliseconds after a region, and yielding on a core that others want can cost as
 * long. So a chip has threads of its own, each where OpenMP would put it, and a wait has three parts: it spins for
 * some microseconds, then yields, then sleeps until it is woken; where a yield shows that others want the core, the
 * next waits go to sleep without yielding. */
#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
typedef cpu_set_t cores; /* that a thread may use */
#else
typedef char cores;
#endif

#include "chip_impl.h"

/* So many waits sleep after a yield that took long; twice as many each time, half as many after each wait whose
 * yields were short. */
enum { SPINS = 1000, SPINS_CROWDED = 100, CROWDED_LEAST = 8, CROWDED_MOST = 512 };
/* cores that nobody else wants: as long as waking a thread is far from free */
static const uint64_t YIELD_NS = 1000000;

/* Sleeps unless *word has changed; may return early. */
static void sleep_while(_Atomic unsigned *word, unsigned value)
{
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
    if (atomic_load(word) == value) nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
#endif
}

/* Yields until the word has changed, others are seen to want the core, or it is time to sleep. */
static void yield_while(barrier *b, _Atomic unsigned *word, unsigned value)
{
    const uint64_t start = cl_now_ns();
    int next = atomic_load_explicit(&b->crowded_next, memory_order_relaxed);
    bool crowded = false;
    while (!crowded && atomic_load_explicit(word, memory_order_acquire) == value && cl_now_ns() - start < YIELD_NS)
        crowded = cl_yield();
    if (crowded) atomic_store_explicit(&b->crowded, next, memory_order_relaxed);
    next = crowded ? 2 * next : next / 2;
    next = next < CROWDED_LEAST ? CROWDED_LEAST : next > CROWDED_MOST ? CROWDED_MOST : next;
    atomic_store_explicit(&b->crowded_next, next, memory_order_relaxed);
}

/* Who waits counts itself and then looks at the word; who changes the word then looks at the count. Sequentially
 * consistent, so one of them sees the other. */
static void wait_long(barrier *b, _Atomic unsigned *word, unsigned value)
{
    int crowded = atomic_load_explicit(&b->crowded, memory_order_relaxed);
    if (crowded) atomic_store_explicit(&b->crowded, crowded - 1, memory_order_relaxed);
    else yield_while(b, word, value);
    if (atomic_load_explicit(word, memory_order_acquire) != value) return;
    atomic_fetch_add(&b->sleepers, 1);
    while (atomic_load(word) == value) sleep_while(word, value);
    atomic_fetch_sub(&b->sleepers, 1);
}

void team_wait_while(barrier *b, _Atomic unsigned *word, unsigned value)
{
    const int spins = atomic_load_explicit(&b->crowded, memory_order_relaxed) ? SPINS_CROWDED : SPINS;
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        cl_spin();
    }
    wait_long(b, word, value);
}

void team_wake(barrier *b, _Atomic unsigned *word)
{
#if defined(__linux__)
    if (atomic_load(&b->sleepers)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
}

void team_wait(const team *t)
{
    barrier *b = t->barrier;
    if (t->n == 1) return;
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) == (unsigned)t->n - 1) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        atomic_store(&b->phase, phase + 1);
        team_wake(b, &b->phase);
    } else {
        team_wait_while(b, &b->phase, phase);
    }
}

/* --- threads --- */

typedef struct worker {
    crew *crew;
    pthread_t thread;
    team team;
} worker;

struct crew {
    barrier barrier;
    _Atomic unsigned turn; /* jobs begun */
    team_job job;          /* NULL: the end */
    void *ctx;
    int n;            /* threads, the caller's included */
    int started;      /* workers: threads 1 .. started */
    worker workers[]; /* [n] */
};

static void *work_on(void *arg)
{
    worker *me = arg;
    crew *c = me->crew;
    for (unsigned turn = 0;; turn++) {
        team_wait_while(&c->barrier, &c->turn, turn);
        if (!c->job) return NULL;
        c->job(&me->team, c->ctx);
        team_wait(&me->team);
    }
}

/* The cores that each thread of OpenMP's team may use: what OMP_PLACES and OMP_PROC_BIND say, and where the slice's
 * pages are. */
static void places_of(cores *places, int n)
{
#if defined(__linux__)
    for (int i = 0; i < n; i++) sched_getaffinity(0, sizeof *places, &places[i]);
#pragma omp parallel num_threads(n)
    sched_getaffinity(0, sizeof *places, &places[omp_get_thread_num()]);
#endif
}

void team_rest_openmp(void) { omp_pause_resource_all(omp_pause_soft); }

static int start(crew *c, int id, const cores *place)
{
    worker *w = &c->workers[id];
    pthread_attr_t attr;
    int failed = pthread_attr_init(&attr);
    if (failed) return failed;
#if defined(__linux__)
    if (place) pthread_attr_setaffinity_np(&attr, sizeof *place, place);
#endif
    *w = (worker){.crew = c, .team = {id, c->n, &c->barrier}};
    failed = pthread_create(&w->thread, &attr, work_on, w);
    pthread_attr_destroy(&attr);
    return failed;
}

cl_code team_create(crew **out, int n, bool placed, cl_err *err)
{
    crew *c = cl_calloc(1, sizeof *c + (size_t)n * sizeof *c->workers, "the threads", err);
    if (!c) return err->code;
    c->n = n;
    *out = c;
    cores *places = cl_malloc((size_t)n, sizeof *places, "the threads", err);
    if (!places) return err->code;
    if (placed) places_of(places, n);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the caller's thread */
    int failed = 0;
    while (!failed && c->started < n - 1) {
        failed = start(c, c->started + 1, placed ? &places[c->started + 1] : NULL);
        if (!failed) c->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    free(places);
    return failed ? cl_fail(err, CL_E_FIT, "thread %d of %d cannot be started: %s (fewer --threads)", c->started + 2, n,
                            strerror(failed))
                  : CL_OK;
}

cl_code team_try(int n, cl_err *err)
{
    crew *c = NULL;
    cl_code code = team_create(&c, n, false, err);
    team_free(c);
    return code;
}

static void begin(crew *c, team_job job, void *ctx)
{
    c->job = job;
    c->ctx = ctx;
    atomic_fetch_add(&c->turn, 1);
    team_wake(&c->barrier, &c->turn);
}

void team_run(crew *c, team_job job, void *ctx)
{
    const team t = {0, c->n, &c->barrier};
    if (c->n > 1) begin(c, job, ctx);
    job(&t, ctx);
    team_wait(&t);
}

void team_free(crew *c)
{
    if (!c) return;
    if (c->started) begin(c, NULL, NULL);
    for (int i = 1; i <= c->started; i++) pthread_join(c->workers[i].thread, NULL);
    free(c);
}
