/* session.c: requests from their coming to their end, whichever line they are in. */
#include "chipline/session.h"

#include <stdlib.h>

#include "flight.h"

struct cl_session {
    cl_session_options opt;
    int32_t *eos;
    cl_source to;
    uint64_t start_ns; /* requests count as arrived then at the earliest */
    cl_schedule *schedule;
    flight *first;    /* all that are in flight, and those that are over but for their samples */
    int *at_line;     /* [lines] requests that each has; [0] is not used */
    int here, active; /* requests in flight: in this line, in all */
    int waiting;      /* of them, sent to a line that has no slot for them yet */
    int prompting;    /* of them, with a slot but without their first id */
    int in_flight;    /* micro-batches */
    int64_t numbers;  /* given out so far */
    int64_t *of_part; /* [slots] numbers of the last micro-batch's requests */
    uint64_t booked;  /* when time was last booked */
    cl_session_stats stats;
    double *ttft; /* [ttft_cap], s */
    int64_t n_ttft, ttft_cap;
};

static uint64_t now(const cl_session *s) { return s->opt.now ? s->opt.now() : cl_now_ns(); }

/* Books the time since the last call: to prompts while any is pending, to decoding while any sequence decodes. Called
 * before anything changes. */
static void book(cl_session *s)
{
    uint64_t t = now(s);
    if (s->prompting) s->stats.prompt_ns += t - s->booked;
    if (s->active > s->waiting + s->prompting) s->stats.decode_ns += t - s->booked;
    s->booked = t;
}

cl_code cl_session_create(cl_session **out, const cl_session_options *opt, cl_err *err)
{
    cl_session *s = cl_calloc(1, sizeof *s, "session", err);
    if (!s) return CL_E_FIT;
    s->opt = *opt;
    cl_code c = cl_schedule_create(&s->schedule, &opt->limits, opt->stages, err);
    if (c == CL_OK && (!(s->eos = cl_malloc((size_t)opt->n_eos, sizeof *s->eos, "session", err)) ||
                       !(s->at_line = cl_calloc((size_t)opt->lines, sizeof *s->at_line, "session", err)) ||
                       !(s->of_part = cl_calloc((size_t)opt->limits.slots, sizeof *s->of_part, "session", err))))
        c = CL_E_FIT;
    if (c != CL_OK) {
        cl_session_free(s);
        return c;
    }
    if (opt->n_eos) memcpy(s->eos, opt->eos, (size_t)opt->n_eos * sizeof *s->eos);
    s->booked = now(s);
    *out = s;
    return CL_OK;
}

void cl_session_free(cl_session *s)
{
    if (!s) return;
    while (s->first) {
        flight *f = s->first;
        s->first = f->next;
        flight_free(f);
    }
    cl_schedule_free(s->schedule);
    free(s->eos);
    free(s->at_line);
    free(s->of_part);
    free(s->ttft);
    free(s);
}

void cl_session_set_source(cl_session *s, const cl_source *source) { s->to = *source; }
void cl_session_set_start(cl_session *s, uint64_t start_ns) { s->start_ns = start_ns; }
int cl_session_active(const cl_session *s) { return s->active; }
int cl_session_here(const cl_session *s) { return s->here; }
int cl_session_in_flight(const cl_session *s) { return s->in_flight; }
const int64_t *cl_session_part_requests(const cl_session *s) { return s->of_part; }

/* --- the end of a request --- */

/* Only while memory lasts: a median of fewer is still one. */
static void keep_ttft(cl_session *s, const cl_request *q, const cl_result *r)
{
    if (!r->first_token_ns) return;
    if (s->n_ttft == s->ttft_cap) {
        int64_t cap = s->ttft_cap ? 2 * s->ttft_cap : 64;
        double *p = cl_realloc(s->ttft, (size_t)cap, sizeof *p, "times", NULL);
        if (!p) return;
        s->ttft = p;
        s->ttft_cap = cap;
    }
    s->ttft[s->n_ttft++] = (double)(r->first_token_ns - q->arrived_ns) * 1e-9;
}

static void count(cl_session *s, const flight *f)
{
    const cl_request *q = f->request;
    s->stats.requests++;
    keep_ttft(s, q, &f->result);
    if (q->error.code != CL_OK) {
        s->stats.failed++;
        return;
    }
    s->stats.prompt_tokens += q->n_prompt + q->n_earlier;
    s->stats.generated_tokens += f->result.n_tokens - q->n_earlier;
    s->stats.first_tokens += f->result.n_tokens > q->n_earlier;
}

static void begin(cl_session *s, flight *f)
{
    book(s);
    f->result.started_ns = now(s);
    s->waiting--;
    s->prompting++;
}

/* A line beside may have been sent more requests than it has slots: the first that waits there has one now. */
static void begin_elsewhere(cl_session *s, int line)
{
    int begun = 0;
    flight *waits = NULL;
    for (flight *f = s->first; f; f = f->next) {
        if (f->line != line) continue;
        if (f->result.started_ns) begun++;
        else if (!waits) waits = f;
    }
    if (waits && begun < s->opt.limits.slots) begin(s, waits);
}

static void forget(cl_session *s, flight *f)
{
    flight **at = &s->first;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    flight_free(f);
}

/* Gives the result out and lets go of the request. Its slot stays taken while samples are on their way to it.
 * stopped: a stop text was found, so that what comes behind it is no text. */
static cl_code end(cl_session *s, flight *f, const char *reason, bool stopped, cl_err *err)
{
    cl_request *q = f->request;
    cl_result *r = &f->result;
    cl_code c = CL_OK;
    book(s);
    r->finished_ns = now(s);
    r->number = f->number;
    if (s->opt.tokenizer && q->error.code == CL_OK && f->seq.tokens) {
        if (!stopped) c = flight_finish_text(f, strcmp(reason, "stop") != 0, &s->to, err);
        if (c == CL_OK && s->to.text && r->text.len > f->shown)
            c = s->to.text(s->to.ctx, q, r->text.data + f->shown, r->text.len - f->shown, err);
    }
    r->finish_reason = q->error.code == CL_OK ? reason : "error";
    count(s, f);
    if (s->to.done) {
        cl_err other;
        cl_code d = s->to.done(s->to.ctx, q, r, c == CL_OK ? err : &other);
        f->request = NULL;
        if (c == CL_OK) c = d;
    }
    s->active--;
    if (!r->started_ns) s->waiting--;
    else s->prompting -= !r->first_token_ns;
    if (f->line) s->at_line[f->line]--;
    else s->here--;
    if (f->slot >= 0 && f->seq.awaits) {
        f->over = true;
        return c;
    }
    if (f->slot >= 0) cl_schedule_leave(s->schedule, f->slot);
    int line = f->line;
    forget(s, f);
    if (line) begin_elsewhere(s, line);
    return c;
}

/* --- requests --- */

/* -1: no line has room. */
static int choose_line(const cl_session *s)
{
    int best = -1, least = s->opt.limits.slots + 1;
    if (cl_schedule_has_room(s->schedule)) best = 0, least = s->here;
    for (int i = 1; i < s->opt.lines; i++)
        if (s->at_line[i] < least) best = i, least = s->at_line[i];
    return best;
}

bool cl_session_has_room(const cl_session *s) { return choose_line(s) >= 0; }

static void append(cl_session *s, flight *f)
{
    flight **at = &s->first;
    while (*at) at = &(*at)->next;
    *at = f;
    f->number = s->opt.number ? s->opt.number(f->request) : s->numbers++;
    s->active++;
    s->waiting++;
    if (f->line) s->at_line[f->line]++;
    else s->here++;
}

static cl_code send(const cl_session *s, const flight *f, cl_err *err)
{
    const cl_sequence *q = &f->seq;
    return s->opt.others.send(s->opt.others.ctx, f->line, f->number, f->request, q->tokens, q->n_tokens,
                              q->capacity - q->n_tokens, err);
}

cl_code cl_session_add(cl_session *s, cl_request *q, cl_err *err)
{
    book(s);
    if (q->arrived_ns < s->start_ns) q->arrived_ns = s->start_ns;
    flight *f = flight_create(q, s->opt.limits.context, s->opt.tokenizer, err);
    if (!f) return CL_E_FIT;
    bool runs = q->error.code == CL_OK;
    f->line = runs ? choose_line(s) : 0;
    if (f->line < 0) CL_BUG("session: no room");
    append(s, f);
    if (!runs) return end(s, f, "error", false, err);
    if (!f->line) {
        begin(s, f);
        f->slot = cl_schedule_admit(s->schedule, &f->seq);
        return CL_OK;
    }
    begin_elsewhere(s, f->line);
    return send(s, f, err);
}

cl_code cl_session_resend(cl_session *s, cl_err *err)
{
    cl_code c = CL_OK;
    for (flight *f = s->first; f && c == CL_OK; f = f->next)
        if (f->line) c = send(s, f, err);
    return c;
}

cl_code cl_session_sweep(cl_session *s, cl_err *err)
{
    cl_code c = CL_OK;
    for (flight *f = s->first, *next; f && c == CL_OK; f = next) {
        next = f->next;
        if (f->over || !f->request->cancelled) continue;
        if (f->line) c = s->opt.others.cancel(s->opt.others.ctx, f->line, f->number, err);
        if (c == CL_OK) c = end(s, f, "cancelled", false, err);
    }
    return c;
}

/* --- ids come back --- */

static bool is_end(const cl_session *s, int32_t id)
{
    for (int i = 0; i < s->opt.n_eos; i++)
        if (s->eos[i] == id) return true;
    return false;
}

/* An id that is in f's sequence already. *reason: why it ends here, NULL if it goes on. */
static cl_code take_id(cl_session *s, flight *f, int32_t id, uint64_t digest, const char **reason, bool *stopped,
                       cl_err *err)
{
    cl_result *r = &f->result;
    r->n_tokens++;
    r->digest = digest;
    if (!r->started_ns) begin(s, f);
    if (!r->first_token_ns) {
        book(s);
        r->first_token_ns = now(s);
        s->prompting--;
    }
    *stopped = false;
    bool ends = !f->request->ignore_eos && is_end(s, id), full = f->seq.n_prompt + r->n_tokens == f->seq.capacity;
    if (s->to.token) s->to.token(s->to.ctx, f->request, id, digest, ends || full);
    cl_code c = ends || !s->opt.tokenizer ? CL_OK : flight_add_text(f, id, &s->to, stopped, err);
    *reason = f->request->error.code != CL_OK ? "error" : ends || *stopped ? "stop" : full ? "length" : NULL;
    return c;
}

static cl_code take_samples(cl_session *s, const cl_sampled *p, const int32_t *ids, cl_err *err)
{
    cl_sequence *q = cl_schedule_sequence(s->schedule, p->slot);
    if (!q) CL_BUG("samples for slot %d, which is free", p->slot);
    flight *f = q->owner;
    cl_schedule_sampled(s->schedule, p->slot, ids, p->n);
    if (f->over) {
        cl_schedule_leave(s->schedule, p->slot);
        forget(s, f);
        return CL_OK;
    }
    const char *reason = NULL;
    bool stopped = false;
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && !reason && i < p->n; i++)
        c = take_id(s, f, ids[i], p->digest, &reason, &stopped, err);
    return c == CL_OK && reason ? end(s, f, reason, stopped, err) : c;
}

cl_code cl_session_samples(cl_session *s, const cl_samples *samples, cl_err *err)
{
    cl_code c = CL_OK;
    s->in_flight--;
    for (int i = 0; c == CL_OK && i < samples->n_parts; i++)
        if (samples->parts[i].n) c = take_samples(s, &samples->parts[i], samples->ids + samples->parts[i].first, err);
    return c;
}

bool cl_session_next(cl_session *s, cl_microbatch *mb)
{
    if (!cl_schedule_next(s->schedule, mb)) return false;
    for (int i = 0; i < mb->n_parts; i++) {
        const flight *f = cl_schedule_sequence(s->schedule, mb->parts[i].slot)->owner;
        s->of_part[i] = f->number;
    }
    s->in_flight++;
    return true;
}

cl_code cl_session_token(cl_session *s, int line, int64_t number, int32_t id, uint64_t digest, bool last,
                         const char *failed, cl_err *err)
{
    flight *f = s->first;
    while (f && (f->number != number || f->line != line)) f = f->next;
    if (!f) return CL_OK; /* it ended here before the line had heard of that */
    if (failed) {
        cl_fail(&f->request->error, CL_E_RUN, "%s", failed);
        return end(s, f, "error", false, err);
    }
    const char *reason;
    bool stopped;
    f->seq.tokens[f->seq.n_tokens++] = id;
    cl_code c = take_id(s, f, id, digest, &reason, &stopped, err);
    if (c != CL_OK || (!reason && !last)) return c;
    if (!last) c = s->opt.others.cancel(s->opt.others.ctx, line, number, err);
    return c == CL_OK ? end(s, f, reason ? reason : "length", stopped, err) : c;
}

/* --- looking --- */

cl_session_stats cl_session_get_stats(cl_session *s)
{
    book(s);
    cl_session_stats stats = s->stats;
    if (s->n_ttft) stats.ttft_s = cl_median(s->ttft, (int)s->n_ttft);
    return stats;
}

cl_session_view cl_session_look(const cl_session *s, int i)
{
    const flight *f = s->first;
    for (; f && (f->over || i > 0); f = f->next) i -= !f->over;
    if (!f) CL_BUG("session: request %d of %d", i, s->active);
    return (cl_session_view){.number = f->number,
                             .request = f->request,
                             .line = f->line,
                             .slot = f->slot,
                             .tokens = f->seq.tokens,
                             .n_tokens = f->seq.n_tokens,
                             .n_prompt = f->seq.n_prompt,
                             .n_cached = f->slot >= 0 ? f->seq.n_sent : 0,
                             .result = &f->result};
}
