/* The desk: a source on a thread of its own, seen from the line's. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "desk.h"
#include "suite.h"

enum { REQUESTS = 20, AHEAD = 4 };

typedef struct tray {
    _Atomic int given;
    int requests, told;
    int waits[REQUESTS + 1]; /* the so many-th could be waited for so long, ms */
    int slow_ms;             /* every call of next takes so long */
    int fails_at;            /* the so many-th result cannot be kept; 0: none */
    pthread_t thread;        /* that called first */
    bool called, wrong;
    char said[REQUESTS][64];
    int ids[REQUESTS], thoughts[REQUESTS];
    bool done[REQUESTS];
    bool takes_back;
    int back[REQUESTS], n_back;
} tray;

static int number_of(const cl_request *r) { return atoi(r->id); }

/* All of a source is called by one thread, which is not the line's and hears no signals. */
static void check_thread(tray *t)
{
    sigset_t deaf;
    pthread_sigmask(SIG_SETMASK, NULL, &deaf);
    t->wrong |= !sigismember(&deaf, SIGINT) || !sigismember(&deaf, SIGTERM);
    if (!t->called) t->thread = pthread_self();
    t->called = true;
    t->wrong |= !pthread_equal(t->thread, pthread_self());
}

static cl_request *next(void *ctx, int wait_ms, bool *ended)
{
    tray *t = ctx;
    check_thread(t);
    t->waits[t->given] = wait_ms;
    if (t->slow_ms) usleep((useconds_t)t->slow_ms * 1000);
    *ended = t->given == t->requests;
    if (*ended) return NULL;
    cl_request *r = calloc(1, sizeof *r);
    r->id = malloc(16);
    snprintf(r->id, 16, "%d", t->given++);
    return r;
}

static cl_code text(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    tray *t = ctx;
    check_thread(t);
    strncat(t->said[number_of(r)], s, n);
    return CL_OK;
}

static cl_code reasoning(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    tray *t = ctx;
    t->thoughts[number_of(r)] += (int)n;
    return CL_OK;
}

static void token(void *ctx, const cl_request *r, int32_t id, uint64_t digest, bool last)
{
    tray *t = ctx;
    int i = number_of(r);
    t->wrong |= id != 100 + t->ids[i]++ || digest != 7 || last != (t->ids[i] == 3);
}

static cl_code done(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    tray *t = ctx;
    int i = number_of(r);
    check_thread(t);
    t->done[i] = true;
    t->wrong |= strcmp(t->said[i], "one two ") || t->ids[i] != 3 || result->n_tokens != 3 || result->tokens[2] != 102;
    t->wrong |= strcmp(result->text.data, "one two ") || strcmp(result->reasoning.data, "hm") || t->thoughts[i] != 2;
    cl_request_free(r);
    return ++t->told == t->fails_at ? cl_fail(err, CL_E_RUN, "disk full") : CL_OK;
}

static void back(void *ctx, cl_request *r)
{
    tray *t = ctx;
    t->back[t->n_back++] = number_of(r);
    cl_request_free(r);
}

/* What a session would say of a request. */
static cl_code run(const cl_source *to, cl_request *r, cl_err *err)
{
    int32_t ids[] = {100, 101, 102};
    cl_result result = {.tokens = ids, .n_tokens = 3, .finish_reason = "stop"};
    cl_code c = cl_buf_str(&result.text, "one two ", err);
    cl_buf_str(&result.reasoning, "hm", err);
    for (int i = 0; i < 3; i++) to->token(to->ctx, r, ids[i], 7, i == 2);
    if (c == CL_OK) c = to->reasoning(to->ctx, r, "hm", 2, err);
    if (c == CL_OK) c = to->text(to->ctx, r, "one ", 4, err);
    if (c == CL_OK) c = to->text(to->ctx, r, "two ", 4, err);
    cl_err later;
    cl_code d = to->done(to->ctx, r, &result, c == CL_OK ? err : &later);
    cl_buf_free(&result.text);
    cl_buf_free(&result.reasoning);
    return c == CL_OK ? d : c;
}

static void await_call(desk *d)
{
    for (int i = 0; !desk_calls(d) && i < 20000; i++) usleep(100);
    CU_ASSERT_TRUE(desk_calls(d));
}

static desk *open(tray *t)
{
    desk *d = NULL;
    cl_err err;
    const cl_source s = {.ctx = t,
                         .next = next,
                         .text = text,
                         .reasoning = reasoning,
                         .token = token,
                         .done = done,
                         .back = t->takes_back ? back : NULL};
    CU_ASSERT_EQUAL_FATAL(desk_open(&d, &s, AHEAD, &err), CL_OK);
    return d;
}

static void passes_all_on(void)
{
    tray t = {.requests = REQUESTS};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err;
    int n = 0;
    for (bool ended = false; !ended;) {
        await_call(d);
        cl_request *r = face.next(face.ctx, 1000, &ended);
        if (!r) continue;
        CU_ASSERT_EQUAL(number_of(r), n++);
        CU_ASSERT_EQUAL(run(&face, r, &err), CL_OK);
    }
    CU_ASSERT_EQUAL(n, REQUESTS);
    CU_ASSERT_EQUAL(desk_outcome(d, &err), CL_OK);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
    CU_ASSERT(t.told == REQUESTS && !t.wrong && !pthread_equal(t.thread, pthread_self()));
}

/* What may be in the line at once is there at once, in order, and no more is read before that; what was not taken is
 * nobody's. */
static void reads_ahead(void)
{
    tray t = {.requests = REQUESTS, .takes_back = true};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err;
    bool ended = false;
    for (int i = 0; t.given < AHEAD && i < 20000; i++) usleep(100);
    await_call(d);
    usleep(20000);
    CU_ASSERT_EQUAL(t.given, AHEAD);
    for (int i = 0; i < AHEAD; i++) {
        CU_ASSERT_EQUAL(t.waits[i], i ? 0 : 200); /* long only while there is nothing at all */
        cl_request *r = face.next(face.ctx, 0, &ended);
        CU_ASSERT_FATAL(r && !ended);
        CU_ASSERT_EQUAL(number_of(r), i);
        CU_ASSERT_EQUAL(run(&face, r, &err), CL_OK);
    }
    for (int i = 0; t.given < 2 * AHEAD && i < 20000; i++) usleep(100);
    usleep(20000);
    CU_ASSERT_EQUAL(t.given, 2 * AHEAD);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
    CU_ASSERT(t.told == AHEAD && !t.wrong && t.n_back == AHEAD);
    for (int i = 0; i < AHEAD; i++) CU_ASSERT_EQUAL(t.back[i], 2 * AHEAD - 1 - i); /* could be put back in order */
}

/* Where one was taken there is room for the next, before anything is said of it. */
static void reads_on(void)
{
    tray t = {.requests = REQUESTS, .takes_back = true};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err;
    cl_request *taken[3];
    bool ended = false;
    for (int i = 0; t.given < AHEAD && i < 20000; i++) usleep(100);
    usleep(20000); /* it sleeps by then */
    for (int k = 0; k < 3; k++) {
        taken[k] = face.next(face.ctx, 0, &ended);
        CU_ASSERT_FATAL(taken[k] && !ended);
        for (int i = 0; t.given < AHEAD + 1 + k && i < 20000; i++) usleep(100);
        CU_ASSERT_EQUAL(t.given, AHEAD + 1 + k);
        CU_ASSERT_EQUAL(t.waits[AHEAD + k], 0);
        usleep(20000);
    }
    for (int k = 0; k < 3; k++) CU_ASSERT_EQUAL(run(&face, taken[k], &err), CL_OK);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
    CU_ASSERT(t.told == 3 && !t.wrong && t.n_back == AHEAD);
}

/* What a source does not want to hear, the session does not say. */
static void of_few_words(void)
{
    tray t = {.requests = 0};
    desk *d = NULL;
    cl_err err;
    sigset_t before, after;
    const cl_source s = {.ctx = &t, .next = next, .done = done};
    sigemptyset(&before);
    sigemptyset(&after);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    CU_ASSERT_EQUAL_FATAL(desk_open(&d, &s, AHEAD, &err), CL_OK);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int sig = 1; sig < 32; sig++) CU_ASSERT_EQUAL(sigismember(&before, sig), sigismember(&after, sig));
    const cl_source face = desk_source(d);
    CU_ASSERT(face.next && face.done && !face.text && !face.reasoning && !face.token && !face.back);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
}

/* All requests of a source that has ended are taken before the line hears of the end. */
static void ends_after_the_last(void)
{
    tray t = {.requests = AHEAD - 1};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err;
    bool ended = false;
    await_call(d);
    usleep(20000);
    for (int i = 0; i < AHEAD - 1; i++) {
        CU_ASSERT_FALSE(ended);
        cl_request *r = face.next(face.ctx, 0, &ended);
        CU_ASSERT_FATAL(r != NULL);
        CU_ASSERT_EQUAL(run(&face, r, &err), CL_OK);
    }
    CU_ASSERT_TRUE(ended);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
}

/* The first request of a slow source need not wait until as many have come as there is room for. */
static void first_of_a_slow_source(void)
{
    tray t = {.requests = REQUESTS, .slow_ms = 50};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err;
    bool ended;
    await_call(d);
    CU_ASSERT(t.given < AHEAD);
    cl_request *r = face.next(face.ctx, 0, &ended);
    CU_ASSERT_FATAL(r != NULL);
    CU_ASSERT_EQUAL(run(&face, r, &err), CL_OK);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
}

/* A source that takes its time does not take the line's. */
static void slow_source(void)
{
    tray t = {.requests = 3, .slow_ms = 50};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err;
    int got = 0, looks = 0;
    uint64_t longest = 0;
    for (bool ended = false; !ended; looks++) {
        uint64_t t0 = cl_now_ns();
        cl_request *r = face.next(face.ctx, 1000, &ended);
        if (r) {
            got++;
            CU_ASSERT_EQUAL(run(&face, r, &err), CL_OK);
        }
        uint64_t took = cl_now_ns() - t0;
        longest = took > longest ? took : longest;
        usleep(500);
    }
    CU_ASSERT(got == 3 && looks > 20 && longest < 45000000);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
    CU_ASSERT(t.told == 3 && !t.wrong);
}

/* The line hears of a result that could not be kept, gets no further requests, and what had ended is told all the
 * same. */
static void failing_source(void)
{
    tray t = {.requests = REQUESTS, .fails_at = 2};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err = {.code = CL_OK};
    int n = 0;
    for (bool ended = false; !ended && n < REQUESTS;) {
        await_call(d);
        cl_request *r = face.next(face.ctx, 0, &ended);
        if (r) n++, run(&face, r, &err);
        usleep(2000);
    }
    CU_ASSERT(n >= 2 && n < REQUESTS);
    cl_err told[3] = {0};
    const cl_request late = {.id = "0"};
    CU_ASSERT_EQUAL(desk_outcome(d, &told[0]), CL_E_RUN);
    CU_ASSERT_EQUAL(face.text(face.ctx, &late, "more", 4, &told[1]), CL_E_RUN); /* nobody hears it */
    CU_ASSERT_EQUAL(desk_close(d, &told[2]), CL_E_RUN);
    for (int i = 0; i < 3; i++) CU_ASSERT(told[i].code == CL_E_RUN && !strcmp(told[i].msg, "disk full"));
    CU_ASSERT_STRING_EQUAL(t.said[0], "one two ");
    for (int i = 0; i < n; i++) CU_ASSERT_TRUE(t.done[i]);
}

/* So much text that nobody has read yet: the line is told to wait. */
static void full(void)
{
    tray t = {.requests = 1, .slow_ms = 300};
    desk *d = open(&t);
    cl_source face = desk_source(d);
    cl_err err;
    size_t n = 8 << 20;
    char *much = calloc(n, 1);
    cl_request r = {.id = "0"};
    int posts = 0;
    while (!desk_is_full(d) && posts < 20) {
        posts++;
        CU_ASSERT_EQUAL(face.text(face.ctx, &r, much, n, &err), CL_OK);
    }
    CU_ASSERT(desk_is_full(d) && posts >= 8 && posts <= 9); /* the first may be read already */
    for (int i = 0; desk_is_full(d) && i < 20000; i++) usleep(100);
    CU_ASSERT_FALSE(desk_is_full(d));
    free(much);
    CU_ASSERT_EQUAL(desk_close(d, &err), CL_OK);
    CU_ASSERT_EQUAL(desk_close(NULL, &err), CL_OK);
}

int main(void)
{
    CU_TestInfo tests[] = {{"passes all on", passes_all_on},
                           {"reads ahead", reads_ahead},
                           {"reads on", reads_on},
                           {"of few words", of_few_words},
                           {"ends after the last", ends_after_the_last},
                           {"first of a slow source", first_of_a_slow_source},
                           {"slow source", slow_source},
                           {"failing source", failing_source},
                           {"full", full},
                           CU_TEST_INFO_NULL};
    return run_suite("desk", tests);
}
