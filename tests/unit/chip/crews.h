/* crews.h: crews for tests, each held open by a thread of its own that sleeps meanwhile: whoever calls a chip takes its
 * place. */
#ifndef CHIPLINE_TEST_CREWS_H
#define CHIPLINE_TEST_CREWS_H

#include <pthread.h>
#include <stdlib.h>

#include "chipline/crew.h"
#include "suite.h"

typedef struct held_crew {
    int threads;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    cl_crew *crew; /* there: it may be used */
    int end;
} held_crew;

static inline cl_code held_crew_body(void *ctx, cl_crew *crew, cl_err *err)
{
    held_crew *h = ctx;
    pthread_mutex_lock(&h->lock);
    h->crew = crew;
    pthread_cond_broadcast(&h->changed);
    while (!h->end) pthread_cond_wait(&h->changed, &h->lock);
    pthread_mutex_unlock(&h->lock);
    return CL_OK;
}

static inline void *held_crew_thread(void *ctx)
{
    held_crew *h = ctx;
    if (cl_crew_run(h->threads, held_crew_body, h, NULL)) abort();
    return NULL;
}

static inline held_crew *crew_hold(int threads)
{
    held_crew *h = calloc(1, sizeof *h);
    h->threads = threads;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&h->thread, NULL, held_crew_thread, h), 0);
    pthread_mutex_lock(&h->lock);
    while (!h->crew) pthread_cond_wait(&h->changed, &h->lock);
    pthread_mutex_unlock(&h->lock);
    return h;
}

static inline void crew_let_go(held_crew *h)
{
    pthread_mutex_lock(&h->lock);
    h->end = 1;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

enum { CREW_MOST = 16 };

/* One crew of each size, made when it is first asked for, for tests of one chip at a time. */
static inline cl_crew *crew_of(int threads)
{
    static held_crew *crews[CREW_MOST + 1];
    if (threads < 1 || threads > CREW_MOST) abort();
    if (!crews[threads]) crews[threads] = crew_hold(threads);
    return crews[threads]->crew;
}

#endif
