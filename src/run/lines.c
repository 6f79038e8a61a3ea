/* lines.c: requests that other lines (replicas) serve. Rank 0 has all requests; its session sends some to the first
 * chips of the other lines, which answer with tokens as they are sampled. Text, stop texts and results are rank 0's
 * business, so a line that gets its requests from there needs neither tokenizer nor files. */
#include <math.h>
#include <stdlib.h>

#include "run_internal.h"

typedef enum note_kind {
    NOTE_REQUEST,
    NOTE_CANCEL,
    NOTE_END,
    NOTE_TOKEN,
    NOTE_ERROR,
    NOTE_FAILED,
    NOTE_ENDED
} note_kind;

typedef struct note_head {
    int32_t kind;                /* note_kind */
    int32_t id;                  /* token: what was sampled */
    int64_t number;              /* of the request */
    uint64_t digest;             /* token */
    int32_t n_prompt, n_earlier; /* request: ids that follow */
    int32_t max_tokens;          /* request: earlier ones included */
    uint8_t ignore_eos, rows;    /* request */
    uint8_t last;                /* token: the line has finished with this request; end: and drop what you have */
    uint8_t unused;
    cl_sampling sampling; /* request */
} note_head;

/* --- rank 0 --- */

/* First chip of a line. */
static int head_of_line(const cl_run *r, int line) { return line * r->plan.placement.n_ranks; }

cl_code lines_send(void *run, int line, int64_t number, const cl_request *q, const int32_t *ids, int n_ids, int most,
                   cl_err *err)
{
    cl_run *r = run;
    note_head h = {.kind = NOTE_REQUEST,
                   .number = number,
                   .n_prompt = q->n_prompt,
                   .n_earlier = n_ids - q->n_prompt,
                   .max_tokens = n_ids - q->n_prompt + most,
                   .ignore_eos = q->ignore_eos,
                   .rows = q->want_rows,
                   .sampling = q->sampling};
    cl_buf b = {0};
    cl_code c = cl_buf_add(&b, &h, sizeof h, err);
    if (c == CL_OK) c = cl_buf_add(&b, ids, (size_t)n_ids * sizeof *ids, err);
    if (c == CL_OK) c = cl_notes_send(r->notes, head_of_line(r, line), b.data, b.len, err);
    cl_buf_free(&b);
    return c;
}

cl_code lines_cancel(void *run, int line, int64_t number, cl_err *err)
{
    cl_run *r = run;
    const note_head h = {.kind = NOTE_CANCEL, .number = number};
    return cl_notes_send(r->notes, head_of_line(r, line), &h, sizeof h, err);
}

_Noreturn static void senseless(cl_run *r, int from)
{
    cl_ranks_abort(r->ranks, CL_E_RUN, "rank %d: a note of rank %d makes no sense (a bug: please report it)",
                   cl_ranks_rank(r->ranks), from);
}

cl_code lines_take(cl_run *r, cl_session *s, cl_buf *note, lines_news *news, cl_err *err)
{
    cl_code c = CL_OK;
    int from;
    news->got = false;
    while (c == CL_OK && !news->failed && cl_notes_recv(r->notes, &from, note)) {
        const note_head *h = (const note_head *)(const void *)note->data;
        if (note->len < sizeof *h || h->kind < NOTE_TOKEN || h->kind > NOTE_ENDED) senseless(r, from);
        news->got = true;
        news->failed = h->kind == NOTE_FAILED;
        news->ended += h->kind == NOTE_ENDED;
        if (h->kind >= NOTE_FAILED) continue;
        /* an error's text, with its end, follows the head */
        const char *why = h->kind == NOTE_ERROR ? note->data + sizeof *h : NULL;
        if (why && (note->len == sizeof *h || note->data[note->len - 1])) senseless(r, from);
        c = cl_session_token(s, from / r->plan.placement.n_ranks, h->number, h->id, h->digest, h->last, why, err);
    }
    return c;
}

cl_code lines_end(cl_run *r, cl_session *s, bool drop, cl_buf *note, cl_err *err)
{
    const note_head h = {.kind = NOTE_END, .last = drop};
    cl_code c = CL_OK;
    cl_err other;
    for (int i = 1; i < r->opt.replicas; i++)
        if (cl_notes_send(r->notes, head_of_line(r, i), &h, sizeof h, &other) != CL_OK)
            cl_ranks_abort(r->ranks, CL_E_FIT, "rank 0: %s", other.msg);
    for (lines_news news = {0}; news.ended < r->opt.replicas - 1;) {
        cl_line_await(r->line, r->notes, NULL, NULL, INFINITY);
        news.failed = false; /* its own error will say why */
        cl_code taken = lines_take(r, s, note, &news, c == CL_OK ? err : &other);
        if (c == CL_OK) c = taken;
    }
    return c;
}

/* --- the first chip of another line: a source of requests --- */

typedef struct order {
    struct order *next;
    cl_request *request; /* its owner is the order */
    int64_t number;
} order;

typedef struct orders {
    cl_run *run;
    order *waiting, *serving;
    cl_buf note;
    bool ended, drop;
} orders;

int64_t lines_number(const cl_request *r) { return ((const order *)r->owner)->number; }

static cl_request *make_request(const note_head *h, const char *ids, cl_err *err)
{
    cl_request *q = cl_calloc(1, sizeof *q, "request", err);
    if (!q) return NULL;
    size_t prompt = (size_t)h->n_prompt, earlier = (size_t)h->n_earlier;
    q->prompt = cl_malloc(prompt, sizeof *q->prompt, "tokens", err);
    q->earlier = cl_malloc(earlier, sizeof *q->earlier, "tokens", err);
    q->id = cl_strdup("", err);
    if (!q->prompt || !q->earlier || !q->id) {
        cl_request_free(q);
        return NULL;
    }
    memcpy(q->prompt, ids, prompt * sizeof *q->prompt);
    memcpy(q->earlier, ids + prompt * sizeof *q->prompt, earlier * sizeof *q->earlier);
    q->n_prompt = h->n_prompt;
    q->n_earlier = h->n_earlier;
    q->max_tokens = h->max_tokens;
    q->ignore_eos = h->ignore_eos;
    q->want_rows = h->rows;
    q->sampling = h->sampling;
    return q;
}

static void add_order(orders *s, const note_head *h, const char *ids)
{
    cl_err err;
    order *o = cl_calloc(1, sizeof *o, "request", &err), **at = &s->waiting;
    if (!o || !(o->request = make_request(h, ids, &err)))
        cl_ranks_abort(s->run->ranks, CL_E_FIT, "rank %d: %s", cl_ranks_rank(s->run->ranks), err.msg);
    o->number = h->number;
    o->request->owner = o;
    while (*at) at = &(*at)->next;
    *at = o;
}

static void cancel(order *list, int64_t number)
{
    for (; list; list = list->next)
        if (list->number == number) list->request->cancelled = true;
}

/* Takes all notes that are there. */
static void take_notes(orders *s)
{
    int from;
    while (!s->ended && cl_notes_recv(s->run->notes, &from, &s->note)) {
        const note_head *h = (const note_head *)(const void *)s->note.data;
        bool good = from == 0 && s->note.len >= sizeof *h;
        if (good && h->kind == NOTE_REQUEST) {
            good = h->n_prompt > 0 && h->n_earlier >= 0 && h->max_tokens > h->n_earlier &&
                   s->note.len == sizeof *h + ((size_t)h->n_prompt + (size_t)h->n_earlier) * sizeof(int32_t);
            if (good) add_order(s, h, s->note.data + sizeof *h);
        } else if (good && h->kind == NOTE_CANCEL) {
            cancel(s->waiting, h->number);
            cancel(s->serving, h->number);
        } else if (good && h->kind == NOTE_END) {
            s->ended = true;
            s->drop = h->last;
            for (order *o = s->serving; s->drop && o; o = o->next) o->request->cancelled = true;
        } else good = false;
        if (!good) senseless(s->run, from);
    }
}

static cl_request *next(void *ctx, int wait_ms, bool *ended)
{
    orders *s = ctx;
    uint64_t until = cl_now_ns() + (uint64_t)wait_ms * 1000000, now;
    for (;;) {
        take_notes(s);
        while (s->waiting && (s->waiting->request->cancelled || s->drop)) {
            order *o = s->waiting;
            s->waiting = o->next;
            cl_request_free(o->request);
            free(o);
        }
        if (s->waiting || s->ended || (now = cl_now_ns()) >= until) break;
        cl_line_await(s->run->line, s->run->notes, NULL, NULL, (double)(until - now) * 1e-9);
    }
    order *o = s->waiting;
    *ended = s->ended && !o;
    if (!o) return NULL;
    s->waiting = o->next;
    o->next = s->serving;
    s->serving = o;
    o->request->arrived_ns = cl_now_ns();
    return o->request;
}

static void answer(const orders *s, const note_head *h, const char *text)
{
    cl_err err;
    cl_buf b = {0};
    cl_code c = cl_buf_add(&b, h, sizeof *h, &err);
    if (c == CL_OK && text) c = cl_buf_add(&b, text, strlen(text) + 1, &err);
    if (c == CL_OK) c = cl_notes_send(s->run->notes, 0, b.data, b.len, &err);
    if (c != CL_OK) cl_ranks_abort(s->run->ranks, c, "rank %d: %s", cl_ranks_rank(s->run->ranks), err.msg);
    cl_buf_free(&b);
}

static void token(void *ctx, const cl_request *q, int32_t id, uint64_t digest, bool last)
{
    orders *s = ctx;
    const order *o = q->owner;
    take_notes(s);
    const note_head h = {.kind = NOTE_TOKEN, .number = o->number, .id = id, .digest = digest, .last = last};
    if (!q->cancelled) answer(s, &h, NULL);
}

static cl_code done(void *ctx, cl_request *q, const cl_result *result, cl_err *err)
{
    orders *s = ctx;
    order *o = q->owner, **at = &s->serving;
    const note_head h = {.kind = NOTE_ERROR, .number = o->number};
    if (q->error.code != CL_OK && !q->cancelled) answer(s, &h, q->error.msg);
    while (*at != o) at = &(*at)->next;
    *at = o->next;
    free(o);
    cl_request_free(q);
    return CL_OK;
}

/* Rank 0 must not wait for tokens of this line, and this line reads notes until rank 0 has ended it. */
static void fail(orders *s)
{
    const note_head h = {.kind = NOTE_FAILED};
    answer(s, &h, NULL);
    for (bool ended = false; !ended;) {
        cl_request *q = next(s, 1000, &ended);
        if (q) done(s, q, NULL, NULL);
    }
}

cl_code lines_serve(cl_run *r, cl_err *err)
{
    orders s = {.run = r};
    cl_source source = {.ctx = &s, .next = next, .token = token, .done = done};
    cl_session *session = NULL;
    cl_code c = cl_run_session(r, &session, err);
    if (c == CL_OK) c = loop_lead(r, session, &source, err);
    if (c != CL_OK) fail(&s);
    const note_head h = {.kind = NOTE_ENDED};
    answer(&s, &h, NULL);
    cl_session_free(session);
    while (s.serving) { /* of a run that failed: the session has freed the requests */
        order *o = s.serving;
        s.serving = o->next;
        free(o);
    }
    cl_buf_free(&s.note);
    return c;
}
