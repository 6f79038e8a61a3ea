/* crew.c: one OpenMP region for the life of a crew, and how its threads wait for each other in it.
 *
 * OpenMP's own waiting spins for milliseconds, and yielding on a core that others want can cost as long. So a wait has
 * three parts: it spins for some microseconds, then yields, then sleeps until it is woken; where a yield shows that
 * others want the core, the next waits go to sleep without yielding. */
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "chipline/util.h"
#include "crew.h"

/* So many waits sleep after a yield that took long; twice as many each time, half as many after each wait whose
 * yields were short. */
enum { SPINS = 1000, SPINS_CROWDED = 100, CROWDED_LEAST = 8, CROWDED_MOST = 512 };
/* cores that nobody else wants: as long as waking a thread is far from free */
static const uint64_t YIELD_NS = 1000000;

/* Words that threads wait for; each on its own line, so that who arrives does not disturb who waits. */
typedef struct crew_barrier {
    _Atomic unsigned arrived;
    char apart[60];
    _Atomic unsigned phase;
    char end[60];
    _Atomic int sleepers;     /* waiting threads that must be woken */
    _Atomic int crowded;      /* so many waits go to sleep soon, since others want the cores */
    _Atomic int crowded_next; /* as many the next time that this is seen */
} crew_barrier;

struct cl_crew {
    _Alignas(64) crew_barrier barrier;
    _Atomic unsigned turn; /* jobs begun */
    crew_job job;          /* NULL: the end */
    void *ctx;
    int n;
};

/* --- waiting --- */

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
static void yield_while(crew_barrier *b, _Atomic unsigned *word, unsigned value)
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
static void wait_long(crew_barrier *b, _Atomic unsigned *word, unsigned value)
{
    int crowded = atomic_load_explicit(&b->crowded, memory_order_relaxed);
    if (crowded) atomic_store_explicit(&b->crowded, crowded - 1, memory_order_relaxed);
    else yield_while(b, word, value);
    if (atomic_load_explicit(word, memory_order_acquire) != value) return;
    atomic_fetch_add(&b->sleepers, 1);
    while (atomic_load(word) == value) sleep_while(word, value);
    atomic_fetch_sub(&b->sleepers, 1);
}

static void wait_while(crew_barrier *b, _Atomic unsigned *word, unsigned value)
{
    const int spins = atomic_load_explicit(&b->crowded, memory_order_relaxed) ? SPINS_CROWDED : SPINS;
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        cl_spin();
    }
    wait_long(b, word, value);
}

/* After *word was changed, sequentially consistent. */
static void wake(crew_barrier *b, _Atomic unsigned *word)
{
#if defined(__linux__)
    if (atomic_load(&b->sleepers)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
}

static void end_phase(crew_barrier *b, unsigned phase)
{
    atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
    atomic_store(&b->phase, phase + 1);
    wake(b, &b->phase);
}

void crew_wait(const crew_member *m)
{
    crew_barrier *b = m->barrier;
    if (m->n == 1) return;
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) == (unsigned)m->n - 1) end_phase(b, phase);
    else wait_while(b, &b->phase, phase);
}

bool crew_assemble(const crew_member *m)
{
    crew_barrier *b = m->barrier;
    if (m->n == 1) return true;
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_relaxed);
    if (m->id) {
        atomic_fetch_add(&b->arrived, 1);
        wake(b, &b->arrived);
        wait_while(b, &b->phase, phase);
        return false;
    }
    for (unsigned here; (here = atomic_load_explicit(&b->arrived, memory_order_acquire)) != (unsigned)m->n - 1;)
        wait_while(b, &b->arrived, here);
    return true;
}

void crew_release(const crew_member *m)
{
    if (m->n > 1) end_phase(m->barrier, atomic_load_explicit(&m->barrier->phase, memory_order_relaxed));
}

/* --- jobs --- */

static void begin(cl_crew *c, crew_job job, void *ctx)
{
    if (c->n == 1) return;
    c->job = job;
    c->ctx = ctx;
    atomic_fetch_add(&c->turn, 1);
    wake(&c->barrier, &c->turn);
}

void crew_run(cl_crew *c, crew_job job, void *ctx)
{
    const crew_member caller = {0, c->n, &c->barrier};
    begin(c, job, ctx);
    job(&caller, ctx);
    crew_wait(&caller);
}

static void work_until_the_end(cl_crew *c, int id)
{
    const crew_member me = {id, c->n, &c->barrier};
    for (unsigned turn = 0;; turn++) {
        wait_while(&c->barrier, &c->turn, turn);
        if (!c->job) return;
        c->job(&me, c->ctx);
        crew_wait(&me);
    }
}

/* --- the region --- */

static void *stay(void *lock)
{
    pthread_mutex_lock(lock);
    pthread_mutex_unlock(lock);
    return NULL;
}

/* Can so many threads be had at once? OpenMP ends the process where they cannot. */
static cl_code try_threads(int n, cl_err *err)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *threads = cl_malloc((size_t)n, sizeof *threads, "the threads", err);
    int made = 0, failed = 0;
    if (!threads) return err->code;
    pthread_mutex_lock(&lock);
    while (!failed && made < n - 1) {
        failed = pthread_create(&threads[made], NULL, stay, &lock);
        made += !failed;
    }
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < made; i++) pthread_join(threads[i], NULL);
    free(threads);
    return failed ? cl_fail(err, CL_E_FIT, "thread %d of %d cannot be started: %s (fewer --threads)", made + 2, n,
                            strerror(failed))
                  : CL_OK;
}

static cl_code fewer(int got, int n, cl_err *err)
{
    if (omp_get_thread_limit() < n)
        return cl_fail(err, CL_E_FIT, "OMP_THREAD_LIMIT: allows %d threads of %d (raise it, or fewer --threads)",
                       omp_get_thread_limit(), n);
    return cl_fail(err, CL_E_FIT,
                   "OpenMP: gives %d threads of %d (unset OMP_DYNAMIC and OMP_MAX_ACTIVE_LEVELS, or "
                   "fewer --threads)",
                   got, n);
}

/* Signals are held back while the threads are made, who inherit that; the caller has its own mask again inside. */
static cl_code region(cl_crew *crew, cl_code (*body)(void *, cl_crew *, cl_err *), void *ctx, cl_err *err)
{
    cl_code code = CL_OK;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
#pragma omp parallel num_threads(crew->n)
    {
        const int id = omp_get_thread_num(), got = omp_get_num_threads();
        if (id && got == crew->n) work_until_the_end(crew, id);
        if (!id) {
            pthread_sigmask(SIG_SETMASK, &before, NULL);
            code = got == crew->n ? body(ctx, crew, err) : fewer(got, crew->n, err);
            if (got == crew->n) begin(crew, NULL, NULL);
        }
    }
    return code;
}

cl_code cl_crew_run(int threads, cl_code (*body)(void *ctx, cl_crew *crew, cl_err *err), void *ctx, cl_err *err)
{
    cl_err local;
    cl_crew crew = {.n = threads};
    if (!err) err = &local;
    if (threads < 1) CL_BUG("a crew of %d", threads);
    cl_code code = omp_get_thread_limit() < threads ? fewer(0, threads, err) : try_threads(threads, err);
    if (code) return code;
    code = region(&crew, body, ctx, err);
    omp_pause_resource(omp_pause_soft, omp_get_initial_device()); /* its threads end now, they would spin for a while */
    return code;
}

int cl_crew_threads(const cl_crew *crew) { return crew->n; }
