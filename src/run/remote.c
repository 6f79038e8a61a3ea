/* remote.c: requests that other lines (replicas) serve. Rank 0 has all requests; it gives some to the first chips of
 * the other lines, which answer with tokens as they are sampled. Text, stop texts and results are rank 0's business,
 * so a line that gets its requests from there needs neither tokenizer nor files. */
#include <stdlib.h>
#include <time.h>

#include "run_internal.h"

enum { NOTE_REQUEST, NOTE_CANCEL, NOTE_END, NOTE_TOKEN, NOTE_FAILED };

typedef struct note_head {
    int32_t kind;
    int32_t id;                   /* token: what was sampled */
    int64_t number;               /* of the request */
    uint64_t digest;              /* token */
    int32_t n_prompt, max_tokens; /* request */
    uint8_t ignore_eos, rows;     /* request */
    uint8_t last;                 /* token: the line has finished with this request; end: and drop what you have */
    uint8_t unused;
    cl_sampling sampling; /* request */
} note_head;

/* --- rank 0 --- */

cl_code cl_remote_send(cl_run *r, int to, int64_t number, const cl_request *q, int capacity, cl_err *err)
{
    note_head h = {.kind = NOTE_REQUEST,
                   .number = number,
                   .n_prompt = q->n_prompt,
                   .max_tokens = capacity - q->n_prompt,
                   .ignore_eos = q->ignore_eos,
                   .rows = q->want_rows,
                   .sampling = q->sampling};
    cl_buf b = {0};
    cl_code c = cl_buf_add(&b, &h, sizeof h, err);
    if (c == CL_OK) c = cl_buf_add(&b, q->prompt, (size_t)q->n_prompt * sizeof *q->prompt, err);
    if (c == CL_OK) c = cl_line_send_note(r->line, to, b.data, b.len, err);
    cl_buf_free(&b);
    return c;
}

cl_code cl_remote_cancel(cl_run *r, int to, int64_t number, cl_err *err)
{
    const note_head h = {.kind = NOTE_CANCEL, .number = number};
    return cl_line_send_note(r->line, to, &h, sizeof h, err);
}

cl_code cl_remote_end(cl_run *r, bool drop, cl_err *err)
{
    const note_head h = {.kind = NOTE_END, .last = drop};
    cl_code c = CL_OK;
    for (int i = 1; i < r->opt.replicas && c == CL_OK; i++)
        c = cl_line_send_note(r->line, i * r->placement.n_ranks, &h, sizeof h, err);
    return c;
}

bool cl_remote_recv(cl_run *r, cl_buf *note, cl_remote_token *t)
{
    int from;
    if (!cl_line_recv_note(r->line, &from, note)) return false;
    const note_head *h = (const note_head *)(const void *)note->data;
    if (note->len != sizeof *h || (h->kind != NOTE_TOKEN && h->kind != NOTE_FAILED))
        cl_line_abort(r->line, CL_E_RUN, "rank 0: a note of rank %d makes no sense (a bug: please report it)", from);
    *t = (cl_remote_token){.line = from / r->placement.n_ranks,
                           .failed = h->kind == NOTE_FAILED,
                           .number = h->number,
                           .id = h->id,
                           .last = h->last,
                           .digest = h->digest};
    return true;
}

/* --- the first chip of another line: a source of requests --- */

typedef struct pending {
    struct pending *next;
    cl_request *request;
    int64_t number;
    bool cancelled;
} pending;

typedef struct remote_source {
    cl_run *run;
    pending *waiting, *serving;
    cl_buf note;
    bool ended, drop;
} remote_source;

static void free_pending(pending *p, bool request)
{
    if (request) cl_request_free(p->request);
    free(p);
}

static cl_request *make_request(const note_head *h, const char *ids, cl_err *err)
{
    cl_request *q = cl_calloc(1, sizeof *q, "request", err);
    if (!q) return NULL;
    q->prompt = cl_malloc((size_t)h->n_prompt, sizeof *q->prompt, "tokens", err);
    q->id = cl_strdup("", err);
    if (!q->prompt || !q->id) {
        cl_request_free(q);
        return NULL;
    }
    memcpy(q->prompt, ids, (size_t)h->n_prompt * sizeof *q->prompt);
    q->n_prompt = h->n_prompt;
    q->max_tokens = h->max_tokens;
    q->ignore_eos = h->ignore_eos;
    q->want_rows = h->rows;
    q->sampling = h->sampling;
    return q;
}

static void add_pending(remote_source *s, const note_head *h, const char *ids)
{
    cl_err err;
    pending *p = cl_calloc(1, sizeof *p, "request", &err), **at = &s->waiting;
    if (p && !(p->request = make_request(h, ids, &err))) free_pending(p, false), p = NULL;
    if (!p) cl_line_abort(s->run->line, CL_E_FIT, "rank %d: %s", cl_line_rank(s->run->line), err.msg);
    p->number = h->number;
    while (*at) at = &(*at)->next;
    *at = p;
}

static void cancel(pending *list, int64_t number)
{
    for (; list; list = list->next) list->cancelled |= list->number == number;
}

/* Takes all notes that are there. */
static void take_notes(remote_source *s)
{
    int from;
    while (!s->ended && cl_line_recv_note(s->run->line, &from, &s->note)) {
        const note_head *h = (const note_head *)(const void *)s->note.data;
        bool good = from == 0 && s->note.len >= sizeof *h;
        if (good && h->kind == NOTE_REQUEST) {
            good = h->n_prompt > 0 && h->max_tokens > 0 &&
                   s->note.len == sizeof *h + (size_t)h->n_prompt * sizeof(int32_t);
            if (good) add_pending(s, h, s->note.data + sizeof *h);
        } else if (good && h->kind == NOTE_CANCEL) {
            cancel(s->waiting, h->number);
            cancel(s->serving, h->number);
        } else if (good && h->kind == NOTE_END) {
            s->ended = true;
            s->drop = h->last;
        } else good = false;
        if (!good)
            cl_line_abort(s->run->line, CL_E_RUN, "rank %d: a note of rank %d makes no sense (a bug: please report it)",
                          cl_line_rank(s->run->line), from);
    }
}

static cl_request *next(void *ctx, int wait_ms, bool *ended)
{
    remote_source *s = ctx;
    uint64_t until = cl_now_ns() + (uint64_t)wait_ms * 1000000;
    for (uint64_t turn = 0;; turn++) {
        take_notes(s);
        while (s->waiting && (s->waiting->cancelled || s->drop)) {
            pending *p = s->waiting;
            s->waiting = p->next;
            free_pending(p, true);
        }
        if (s->waiting || s->ended || cl_now_ns() >= until) break;
        nanosleep(&(struct timespec){.tv_nsec = turn < 100 ? 10000 : 500000}, NULL);
    }
    pending *p = s->waiting;
    *ended = s->ended && !p;
    if (!p) return NULL;
    s->waiting = p->next;
    p->next = s->serving;
    s->serving = p;
    p->request->arrived_ns = cl_now_ns();
    return p->request;
}

static pending **find(remote_source *s, const cl_request *q)
{
    pending **at = &s->serving;
    while ((*at)->request != q) at = &(*at)->next;
    return at;
}

static bool token(void *ctx, const cl_request *q, int32_t id, uint64_t digest, bool last)
{
    remote_source *s = ctx;
    cl_err err;
    take_notes(s);
    const pending *p = *find(s, q);
    if (p->cancelled || s->drop) return false;
    const note_head h = {.kind = NOTE_TOKEN, .number = p->number, .id = id, .digest = digest, .last = last};
    if (cl_line_send_note(s->run->line, 0, &h, sizeof h, &err))
        cl_line_abort(s->run->line, err.code, "rank %d: %s", cl_line_rank(s->run->line), err.msg);
    return true;
}

static cl_code done(void *ctx, const cl_request *q, const cl_result *result, cl_err *err)
{
    pending **at = find(ctx, q), *p = *at;
    *at = p->next;
    free_pending(p, false); /* the request is freed by who calls */
    return CL_OK;
}

cl_code cl_remote_lead(cl_run *r, cl_code (*lead)(cl_run *r, cl_source *source, cl_err *err), cl_err *err)
{
    remote_source s = {.run = r};
    cl_source source = {.ctx = &s, .next = next, .token = token, .done = done};
    cl_code c = lead(r, &source, err);
    /* rank 0 must not wait for tokens of this line; and this line reads notes until rank 0 has ended it */
    if (c != CL_OK) {
        const note_head h = {.kind = NOTE_FAILED};
        cl_err later;
        if (cl_line_send_note(r->line, 0, &h, sizeof h, &later)) cl_line_abort(r->line, c, "%s", err->msg);
        for (bool ended = false; !ended;) cl_request_free(next(&s, 1000, &ended));
    }
    while (s.serving) { /* of a run that failed */
        pending *p = s.serving;
        s.serving = p->next;
        free_pending(p, false);
    }
    cl_buf_free(&s.note);
    return c;
}
