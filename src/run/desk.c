/* desk.c: the thread between a source and a session. */
#include "desk.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum {
    IDLE_MS = 200,  /* longest wait for a request while nothing runs */
    BUSY_MS = 10,   /* between looks for a request while something runs */
    FULL = 64 << 20 /* bytes that are not delivered yet */
};
/* Requests that come together begin together: so long the first one waits for those that are read after it. */
static const uint64_t TOGETHER_NS = 5000000;

typedef enum letter_kind { TEXT, REASONING, TOKEN, DONE } letter_kind;

/* Something for the source. */
typedef struct letter {
    struct letter *next;
    letter_kind kind;
    cl_request *request;
    char *text; /* [n] */
    size_t n;
    int32_t id;
    uint64_t digest;
    bool last;
    cl_result result; /* DONE: a copy */
} letter;

struct desk {
    cl_source source;
    cl_source face; /* what the session calls */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    letter *first, **end;
    _Atomic size_t waiting; /* bytes in the queue */
    cl_request **ahead;     /* [most_ahead] read ahead: n_ahead of them, in a ring, the next one at first_ahead */
    int most_ahead, n_ahead, first_ahead;
    uint64_t ahead_since; /* when there was nothing ahead of the first */
    bool announced;       /* the line may take what is ahead though it has nothing else to do */
    bool ended, closing;
    int running;        /* requests that the line has */
    _Atomic bool calls; /* see desk_calls */
    cl_err failed;      /* code CL_OK: nothing */
};

static size_t bytes_of(const letter *l) { return sizeof *l + l->n + l->result.text.len + l->result.reasoning.len; }

static void free_letter(letter *l)
{
    free(l->text);
    cl_buf_free(&l->result.text);
    cl_buf_free(&l->result.reasoning);
    free((void *)(uintptr_t)l->result.tokens);
    free(l);
}

/* --- the desk's thread --- */

static cl_code deliver(const cl_source *to, letter *l, cl_err *err)
{
    switch (l->kind) {
    case TEXT: return to->text(to->ctx, l->request, l->text, l->n, err);
    case REASONING: return to->reasoning(to->ctx, l->request, l->text, l->n, err);
    case TOKEN: to->token(to->ctx, l->request, l->id, l->digest, l->last); return CL_OK;
    case DONE: return to->done(to->ctx, l->request, &l->result, err);
    }
    return CL_OK;
}

/* After a failure only what has ended is still told, so that nothing is lost that could be kept. */
static void deliver_first(desk *d)
{
    letter *l = d->first;
    cl_err err = {.code = CL_OK};
    if (!(d->first = l->next)) d->end = &d->first;
    bool wanted = d->failed.code == CL_OK || l->kind == DONE;
    pthread_mutex_unlock(&d->lock);
    cl_code c = wanted ? deliver(&d->source, l, &err) : CL_OK;
    atomic_fetch_sub(&d->waiting, bytes_of(l));
    bool done = l->kind == DONE;
    free_letter(l);
    pthread_mutex_lock(&d->lock);
    d->running -= done;
    if (c == CL_OK || d->failed.code != CL_OK) return;
    d->failed = err;
    d->failed.code = c;
    d->calls = true;
}

/* False: there is none now. */
static bool read_ahead(desk *d)
{
    bool ended = false;
    int wait = d->running || d->n_ahead ? 0 : IDLE_MS;
    pthread_mutex_unlock(&d->lock);
    cl_request *r = d->source.next(d->source.ctx, wait, &ended);
    pthread_mutex_lock(&d->lock);
    if (r && d->n_ahead == 0) d->ahead_since = cl_now_ns();
    if (r) d->ahead[(d->first_ahead + d->n_ahead++) % d->most_ahead] = r;
    d->ended = ended;
    bool waited = !r || d->n_ahead == d->most_ahead || cl_now_ns() - d->ahead_since > TOGETHER_NS;
    if (ended || (d->n_ahead && waited)) d->announced = d->calls = true;
    return r != NULL;
}

static void pause_for(desk *d, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&d->changed, &d->lock, &until);
}

static void *work(void *arg)
{
    desk *d = arg;
    pthread_mutex_lock(&d->lock);
    while (!d->closing || d->first) {
        bool reads = !d->closing && d->n_ahead < d->most_ahead && !d->ended && d->failed.code == CL_OK;
        if (d->first) deliver_first(d);
        else if (!reads) pthread_cond_wait(&d->changed, &d->lock);
        else if (!read_ahead(d) && !d->ended && !d->first && !d->closing && (d->running || d->n_ahead))
            pause_for(d, BUSY_MS);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* --- the line's thread --- */

static cl_code post(desk *d, letter *l, cl_err *err)
{
    atomic_fetch_add(&d->waiting, bytes_of(l));
    pthread_mutex_lock(&d->lock);
    *d->end = l;
    d->end = &l->next;
    cl_code c = d->failed.code;
    if (c != CL_OK) *err = d->failed;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    return c;
}

static cl_request *next(void *ctx, int wait_ms, bool *ended)
{
    desk *d = ctx;
    pthread_mutex_lock(&d->lock);
    cl_request *r = NULL;
    if (d->n_ahead && (d->announced || d->running)) {
        r = d->ahead[d->first_ahead];
        d->first_ahead = (d->first_ahead + 1) % d->most_ahead;
        d->announced = --d->n_ahead > 0;
        d->running++;
        pthread_cond_signal(&d->changed);
    }
    *ended = (d->ended && !d->n_ahead) || d->failed.code != CL_OK;
    d->calls = d->n_ahead || d->failed.code != CL_OK;
    pthread_mutex_unlock(&d->lock);
    return r;
}

static cl_code post_text(desk *d, letter_kind kind, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    letter *l = cl_calloc(1, sizeof *l, "text", err);
    if (!l) return CL_E_FIT;
    *l = (letter){.kind = kind, .request = (cl_request *)(uintptr_t)r, .n = n};
    if (!(l->text = cl_malloc(n, 1, "text", err))) {
        free(l);
        return CL_E_FIT;
    }
    memcpy(l->text, s, n);
    return post(d, l, err);
}

static cl_code text(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    return post_text(ctx, TEXT, r, s, n, err);
}

static cl_code reasoning(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    return post_text(ctx, REASONING, r, s, n, err);
}

static void token(void *ctx, const cl_request *r, int32_t id, uint64_t digest, bool last)
{
    cl_err err;
    letter *l = cl_calloc(1, sizeof *l, "token", &err);
    if (!l) return; /* the result will have it */
    *l = (letter){.kind = TOKEN, .request = (cl_request *)(uintptr_t)r, .id = id, .digest = digest, .last = last};
    post(ctx, l, &err);
}

static cl_code copy_result(const cl_result *r, cl_result *to, cl_err *err)
{
    *to = *r;
    to->text = to->reasoning = (cl_buf){0};
    int32_t *ids = cl_malloc((size_t)r->n_tokens, sizeof *ids, "result", err);
    to->tokens = ids;
    if (!ids) return CL_E_FIT;
    if (r->n_tokens) memcpy(ids, r->tokens, (size_t)r->n_tokens * sizeof *ids);
    cl_code c = r->text.len ? cl_buf_add(&to->text, r->text.data, r->text.len, err) : CL_OK;
    return c == CL_OK && r->reasoning.len ? cl_buf_add(&to->reasoning, r->reasoning.data, r->reasoning.len, err) : c;
}

static cl_code done(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    letter *l = cl_calloc(1, sizeof *l, "result", err);
    if (!l) return CL_E_FIT;
    l->kind = DONE;
    l->request = r;
    cl_code c = copy_result(result, &l->result, err);
    if (c == CL_OK) return post(ctx, l, err);
    free_letter(l);
    return c;
}

/* --- its life --- */

cl_code desk_open(desk **out, const cl_source *source, int most_ahead, cl_err *err)
{
    desk *d = cl_calloc(1, sizeof *d, "desk", err);
    if (!d || !(d->ahead = cl_calloc((size_t)most_ahead, sizeof *d->ahead, "desk", err))) {
        free(d);
        return CL_E_FIT;
    }
    d->most_ahead = most_ahead;
    d->source = *source;
    d->end = &d->first;
    d->face = (cl_source){.ctx = d,
                          .next = next,
                          .text = source->text ? text : NULL,
                          .reasoning = source->reasoning ? reasoning : NULL,
                          .token = source->token ? token : NULL,
                          .done = done};
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the line's thread */
    int failed = pthread_create(&d->thread, NULL, work, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(d->ahead);
        free(d);
        return cl_fail(err, CL_E_FIT, "the thread that reads requests cannot be started: %s (fewer --threads)",
                       strerror(failed));
    }
    *out = d;
    return CL_OK;
}

cl_source desk_source(desk *d) { return d->face; }
bool desk_calls(void *d) { return ((desk *)d)->calls; }
bool desk_is_full(const desk *d) { return d->waiting > FULL; }

cl_code desk_outcome(desk *d, cl_err *err)
{
    pthread_mutex_lock(&d->lock);
    cl_code c = d->failed.code;
    if (c != CL_OK) *err = d->failed;
    pthread_mutex_unlock(&d->lock);
    return c;
}

cl_code desk_close(desk *d, cl_err *err)
{
    if (!d) return CL_OK;
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    cl_code c = d->failed.code;
    if (c != CL_OK) *err = d->failed;
    while (d->n_ahead > 0) {
        cl_request *r = d->ahead[(d->first_ahead + --d->n_ahead) % d->most_ahead];
        if (d->source.back) d->source.back(d->source.ctx, r);
        else cl_request_free(r);
    }
    free(d->ahead);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->changed);
    free(d);
    return c;
}
