/* serve.c: the loops of the ranks while tokens flow. Rank 0 takes requests, chooses micro-batches, takes samples back
 * and ends requests; every other rank computes what arrives and passes it on. Where lines stand side by side, rank 0
 * gives requests to the first chips of the others, which do the same for their lines. */
#include <stdlib.h>
#include <time.h>

#include "run_internal.h"

/* One micro-batch through this rank's chip, and through the output on the last stage. */
static void compute(cl_run *r, const cl_microbatch *mb, float *x)
{
    uint64_t t0 = cl_now_ns(), waited = cl_line_wait_ns(r->line), w0, k0, w1, k1;
    cl_chip_traffic(r->chip, &w0, &k0);
    cl_mark m = cl_trace_mark(r->trace, CL_TRACE_STAGE);
    cl_chip_step(r->chip, mb, x);
    if (r->last) cl_output_step(&r->out, r->chip, mb, x);
    cl_chip_traffic(r->chip, &w1, &k1);
    cl_event e = {.kind = CL_EV_STEP,
                  .layer = -1,
                  .microbatch = mb->id,
                  .tokens = mb->n_tokens,
                  .parts = mb->n_parts,
                  .peer = -1,
                  .waits_for = -1,
                  .weight_bytes = w1 - w0,
                  .kv_bytes = k1 - k0,
                  .gather_ns = cl_line_wait_ns(r->line) - waited};
    cl_trace_end(r->trace, m, &e);
    r->busy_ns += cl_now_ns() - t0 - (cl_line_wait_ns(r->line) - waited);
}

/* --- the other ranks --- */

static void follow(cl_run *r)
{
    bool sole = r->placement.n_stages == 1; /* the samples are where they are wanted */
    for (bool stop = false; !stop;) {
        cl_hop *h = cl_line_recv(r->line);
        stop = h->kind == CL_HOP_STOP;
        if (h->kind == CL_HOP_WORK) compute(r, &h->mb, h->x);
        if (h->kind == CL_HOP_WORK && r->last && r->leads && !sole)
            cl_line_send_results(r->line, h->mb.id, r->out.sampled, h->mb.n_parts);
        if (r->last) cl_line_release(r->line, h);
        else cl_line_pass(r->line, h);
    }
}

/* --- rank 0 --- */

/* A request that is in a line. */
typedef struct live {
    struct live *next; /* of those in other lines */
    int64_t number;
    int line; /* 0: this rank's own */
    cl_request *request;
    cl_sequence seq;
    cl_result result;
    cl_reply reply;
    size_t shown, thought; /* bytes of text and reasoning given out */
} live;

typedef struct driver {
    cl_run *run;
    cl_source *source;
    const cl_tokenizer *tokenizer;
    cl_schedule *schedule;
    int *elsewhere; /* [replicas] requests that other lines have; NULL: there are none */
    live *remote;   /* those requests */
    int n_remote;
    int64_t numbers; /* given out so far */
    cl_buf note;
    bool line_failed; /* another line has ended; its own error will say why */
    int in_flight;    /* micro-batches in the line */
    int prompting;    /* requests without their first token */
    uint64_t last;    /* when time was last booked */
    int idle_ms;      /* longest wait for a request with nothing in the line */
    int n_eos;
    int eos[2 * CL_MAX_EOS];
} driver;

/* Books the time since the last call: to prompts while any is pending, to decoding while any sequence decodes. */
static void book(driver *d)
{
    uint64_t now = cl_now_ns();
    if (d->prompting) d->run->prompt_ns += now - d->last;
    if (cl_schedule_active(d->schedule) + d->n_remote > d->prompting) d->run->decode_ns += now - d->last;
    d->last = now;
}

static void free_live(live *v)
{
    if (!v) return;
    cl_request_free(v->request);
    cl_buf_free(&v->result.text);
    cl_buf_free(&v->result.reasoning);
    cl_reply_free(&v->reply);
    free(v->result.tokens);
    free(v->seq.tokens);
    free(v);
}

/* Gives out reasoning that is new. */
static cl_code show_reasoning(driver *d, live *v, cl_err *err)
{
    const cl_buf *text = &v->result.reasoning;
    size_t from = v->thought;
    v->thought = text->len;
    if (!d->source->reasoning || text->len == from) return CL_OK;
    return d->source->reasoning(d->source->ctx, v->request, text->data + from, text->len - from, err);
}

/* stopped: a stop text was found, and what comes behind it is no longer text. */
static cl_code end_request(driver *d, live *v, const char *reason, bool stopped, cl_err *err)
{
    v->result.finish_reason = reason;
    v->result.finished_ns = cl_now_ns();
    cl_code c = CL_OK;
    if (d->tokenizer && v->request->error.code == CL_OK) {
        if (!stopped)
            c = cl_reply_finish(&v->reply, strcmp(reason, "stop") != 0, &v->result.text, &v->result.reasoning, err);
        if (c == CL_OK) c = show_reasoning(d, v, err);
        if (c == CL_OK && d->source->text && v->result.text.len > v->shown)
            c = d->source->text(d->source->ctx, v->request, v->result.text.data + v->shown,
                                v->result.text.len - v->shown, err);
    }
    if (c == CL_OK) c = cl_run_note_request(d->run, v->request, &v->result, err);
    if (c == CL_OK) c = d->source->done(d->source->ctx, v->request, &v->result, err);
    free_live(v);
    return c;
}

static live *new_live(driver *d, cl_request *q, cl_err *err)
{
    live *v = cl_calloc(1, sizeof *v, "request", err);
    if (!v) {
        cl_request_free(q);
        return NULL;
    }
    v->request = q;
    if (q->error.code != CL_OK) return v;
    int64_t room = d->run->limits.context - q->n_prompt;
    v->seq.n_prompt = v->seq.n_tokens = q->n_prompt;
    v->seq.capacity = q->n_prompt + (int)(q->max_tokens < room ? q->max_tokens : room);
    v->seq.rows = q->want_rows;
    v->seq.sampling = q->sampling;
    v->seq.owner = v;
    v->seq.tokens = cl_malloc((size_t)v->seq.capacity, sizeof *v->seq.tokens, "tokens", err);
    v->result.tokens = cl_malloc((size_t)v->seq.capacity, sizeof *v->result.tokens, "tokens", err);
    if (!v->seq.tokens || !v->result.tokens) {
        free_live(v);
        return NULL;
    }
    memcpy(v->seq.tokens, q->prompt, (size_t)q->n_prompt * sizeof *q->prompt);
    if (d->tokenizer) cl_reply_init(&v->reply, q->chat, d->tokenizer);
    v->result.started_ns = cl_now_ns();
    return v;
}

/* The line with the fewest requests that has room, the first of them; -1: none. Another line may have one waiting, so
 * that a slot which becomes free need not wait for rank 0. */
static int choose_line(const driver *d)
{
    int best = cl_schedule_has_room(d->schedule) ? 0 : -1,
        least = best < 0 ? d->run->limits.slots + 1 : cl_schedule_active(d->schedule);
    for (int i = 1; d->elsewhere && i < d->run->opt.replicas; i++)
        if (d->elsewhere[i] < least) best = i, least = d->elsewhere[i];
    return best;
}

static cl_code place_request(driver *d, live *v, cl_err *err)
{
    book(d);
    d->prompting++;
    v->line = choose_line(d);
    if (!v->line) {
        cl_schedule_admit(d->schedule, &v->seq);
        return CL_OK;
    }
    v->number = d->numbers++;
    v->next = d->remote;
    d->remote = v;
    d->n_remote++;
    d->elsewhere[v->line]++;
    return cl_remote_send(d->run, v->line * d->run->placement.n_ranks, v->number, v->request, v->seq.capacity, err);
}

/* Takes what the source has into free slots. */
static cl_code admit(driver *d, bool *ended, cl_err *err)
{
    while (!*ended && choose_line(d) >= 0) {
        bool idle = !d->in_flight && !cl_schedule_active(d->schedule) && !d->n_remote;
        cl_mark m = cl_trace_mark(idle ? d->run->trace : NULL, CL_TRACE_STAGE);
        cl_request *q = d->source->next(d->source->ctx, idle ? d->idle_ms : 0, ended);
        if (idle && m.on) {
            cl_event e = {.kind = CL_EV_IDLE, .layer = -1, .microbatch = -1, .peer = -1, .waits_for = -1};
            cl_trace_end(d->run->trace, m, &e);
        }
        if (!q) break;
        if (q->arrived_ns < d->run->serve_start) q->arrived_ns = d->run->serve_start; /* loading is not waiting */
        live *v = new_live(d, q, err);
        if (!v) return CL_E_FIT;
        if (q->error.code != CL_OK) {
            cl_code c = end_request(d, v, "error", false, err);
            if (c != CL_OK) return c;
            continue;
        }
        cl_code c = place_request(d, v, err);
        if (c != CL_OK) return c;
    }
    return CL_OK;
}

static bool is_end(const driver *d, int32_t id)
{
    for (int i = 0; i < d->n_eos; i++)
        if (d->eos[i] == id) return true;
    return false;
}

/* Where the text first holds a stop, looking only at what is new since `from`; SIZE_MAX: nowhere. */
static size_t find_stop(const cl_request *q, const cl_buf *text, size_t from)
{
    size_t best = SIZE_MAX;
    for (int i = 0; i < q->n_stops; i++) {
        size_t n = strlen(q->stops[i]), start = from >= n ? from - n + 1 : 0;
        const char *at = text->len > start ? memmem(text->data + start, text->len - start, q->stops[i], n) : NULL;
        if (at && (size_t)(at - text->data) < best) best = (size_t)(at - text->data);
    }
    return best;
}

/* Bytes at the end of the text that may be the beginning of a stop. */
static size_t held_back(const cl_request *q, const cl_buf *text)
{
    size_t most = 0;
    for (int i = 0; i < q->n_stops; i++) {
        size_t n = strlen(q->stops[i]);
        for (size_t k = n - 1; k > most; k--)
            if (k <= text->len && memcmp(text->data + text->len - k, q->stops[i], k) == 0) {
                most = k;
                break;
            }
    }
    return most;
}

/* New text of a token; true if a stop ends the request here. */
static cl_code add_text(driver *d, live *v, int32_t id, bool *stop, cl_err *err)
{
    *stop = false;
    if (!d->tokenizer) return CL_OK;
    cl_buf *text = &v->result.text;
    size_t before = text->len;
    cl_code c = cl_reply_add(&v->reply, id, text, &v->result.reasoning, err);
    if (c == CL_OK) c = show_reasoning(d, v, err);
    if (c != CL_OK || text->len == before) return c;
    size_t at = find_stop(v->request, text, before);
    *stop = at != SIZE_MAX;
    if (*stop) {
        text->len = at;
        text->data[at] = 0;
        return CL_OK;
    }
    size_t until = text->len - held_back(v->request, text);
    size_t from = v->shown;
    if (until > v->shown) v->shown = until;
    return d->source->text && until > from
               ? d->source->text(d->source->ctx, v->request, text->data + from, until - from, err)
               : CL_OK;
}

/* A sampled id of a request, whichever line it is in. *reason: why it ends here, NULL if it goes on. */
static cl_code take_token(driver *d, live *v, int32_t id, uint64_t digest, const char **reason, bool *stopped,
                          cl_err *err)
{
    v->result.tokens[v->result.n_tokens++] = id;
    v->result.digest = digest;
    if (v->result.n_tokens == 1) {
        v->result.first_token_ns = cl_now_ns();
        d->prompting--;
    }
    *stopped = false;
    bool end = !v->request->ignore_eos && is_end(d, id), full = v->seq.n_tokens == v->seq.capacity;
    bool wanted = !d->source->token || d->source->token(d->source->ctx, v->request, id, digest, end || full);
    cl_code c = end ? CL_OK : add_text(d, v, id, stopped, err);
    *reason = end || *stopped || !wanted ? "stop" : full ? "length" : NULL;
    return c;
}

static cl_code take_sample(driver *d, const cl_sampled *s, cl_err *err)
{
    cl_sequence *seq = cl_schedule_sequence(d->schedule, s->slot);
    if (!seq) CL_BUG("a sample for slot %d, which is free", s->slot);
    live *v = seq->owner;
    const char *reason;
    bool stopped;
    book(d);
    cl_schedule_sampled(d->schedule, s->slot, s->id);
    cl_code c = take_token(d, v, s->id, s->digest, &reason, &stopped, err);
    if (c != CL_OK || !reason) return c;
    cl_schedule_leave(d->schedule, s->slot);
    return end_request(d, v, reason, stopped, err);
}

/* Tokens from other lines. A line may have sampled on before it heard that a stop text had come: such tokens belong
 * to nothing. */
static cl_code take_remote(driver *d, bool *got, cl_err *err)
{
    cl_remote_token t;
    *got = false;
    while (d->n_remote && !d->line_failed && cl_remote_recv(d->run, &d->note, &t)) {
        *got = true;
        d->line_failed = t.failed;
        live **at = &d->remote, *v;
        while (*at && ((*at)->number != t.number || (*at)->line != t.line)) at = &(*at)->next;
        if (t.failed || !*at) continue;
        v = *at;
        const char *reason;
        bool stopped;
        book(d);
        v->seq.n_tokens++;
        cl_code c = take_token(d, v, t.id, t.digest, &reason, &stopped, err);
        if (c != CL_OK) return c;
        if (!reason != !t.last && !stopped)
            CL_BUG("line %d and rank 0 do not agree about the end of request %lld", t.line, (long long)t.number);
        if (!reason) continue;
        *at = v->next;
        d->n_remote--;
        d->elsewhere[t.line]--;
        if (!t.last && (c = cl_remote_cancel(d->run, t.line * d->run->placement.n_ranks, t.number, err)) != CL_OK)
            return c;
        if ((c = end_request(d, v, reason, stopped, err)) != CL_OK) return c;
    }
    return CL_OK;
}

static cl_code take_samples(driver *d, const cl_sampled *s, int n, cl_err *err)
{
    d->in_flight--;
    for (int i = 0; i < n; i++) {
        if (s[i].id < 0) continue;
        cl_code c = take_sample(d, &s[i], err);
        if (c != CL_OK) return c;
    }
    return CL_OK;
}

/* Sends the next micro-batch into the line, if there is one. */
static cl_code inject(driver *d, bool *sent, cl_err *err)
{
    cl_run *r = d->run;
    cl_hop *h = cl_line_take(r->line);
    cl_mark m = cl_trace_mark(r->trace, CL_TRACE_STAGE);
    *sent = cl_schedule_next(d->schedule, &h->mb);
    if (!*sent) {
        cl_line_release(r->line, h);
        return CL_OK;
    }
    cl_line_seal(r->line, h);
    cl_event e = {.kind = CL_EV_SCHEDULE,
                  .layer = -1,
                  .microbatch = h->mb.id,
                  .tokens = h->mb.n_tokens,
                  .parts = h->mb.n_parts,
                  .peer = -1,
                  .waits_for = -1};
    cl_trace_end(r->trace, m, &e);
    d->in_flight++;
    compute(r, &h->mb, h->x);
    if (!r->last) {
        cl_line_pass(r->line, h);
        return CL_OK;
    }
    cl_code c = take_samples(d, r->out.sampled, h->mb.n_parts, err);
    cl_line_release(r->line, h);
    return c;
}

static void tell(cl_run *r, cl_hop_kind kind)
{
    if (r->placement.n_ranks == 1) return;
    cl_hop *h = cl_line_take(r->line);
    h->kind = kind;
    cl_line_seal(r->line, h);
    if (r->last) cl_line_release(r->line, h);
    else cl_line_pass(r->line, h);
}

static cl_code take_results(driver *d, bool wait, bool *got, cl_err *err)
{
    int64_t id;
    const cl_sampled *s;
    int n;
    *got = cl_line_recv_results(d->run->line, wait, &id, &s, &n);
    return *got ? take_samples(d, s, n, err) : CL_OK;
}

/* Waits for tokens of other lines, with nothing to do for this one. */
static cl_code await_remote(driver *d, cl_err *err)
{
    bool got = false;
    cl_code c = CL_OK;
    for (int turn = 0; !got && c == CL_OK && turn < 1000; turn++) {
        c = take_remote(d, &got, err);
        if (!got) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return c;
}

static cl_code drive(driver *d, cl_err *err)
{
    cl_run *r = d->run;
    bool ended = false, sent, got, sole = r->placement.n_stages == 1;
    uint64_t pinged = cl_now_ns();
    for (cl_code c = CL_OK;;) {
        for (got = !sole; got && d->in_flight && c == CL_OK;) c = take_results(d, false, &got, err);
        if (c == CL_OK) c = take_remote(d, &got, err);
        if (d->line_failed) return c;
        if (c == CL_OK) c = admit(d, &ended, err);
        sent = false;
        if (c == CL_OK && d->in_flight < r->placement.n_stages) c = inject(d, &sent, err);
        if (c == CL_OK && !sent && d->in_flight) c = take_results(d, true, &got, err);
        else if (c == CL_OK && !sent && d->n_remote) c = await_remote(d, err);
        if (c != CL_OK) return c;
        if (ended && !d->in_flight && !cl_schedule_active(d->schedule) && !d->n_remote) return CL_OK;
        if (d->in_flight || cl_schedule_active(d->schedule)) pinged = cl_now_ns();
        else if (r->opt.stall_timeout_s > 0 && (double)(cl_now_ns() - pinged) * 1e-9 > r->opt.stall_timeout_s / 4) {
            tell(r, CL_HOP_PING); /* idle, not dead */
            pinged = cl_now_ns();
        }
    }
}

static void free_driver(driver *d)
{
    for (int i = 0; d->schedule && i < d->run->limits.slots; i++)
        if (cl_schedule_sequence(d->schedule, i)) free_live(cl_schedule_sequence(d->schedule, i)->owner);
    while (d->remote) {
        live *v = d->remote;
        d->remote = v->next;
        free_live(v);
    }
    cl_schedule_free(d->schedule);
    cl_buf_free(&d->note);
    free(d->elsewhere);
}

static cl_code lead(cl_run *r, cl_source *source, cl_err *err)
{
    driver d = {.run = r, .source = source, .tokenizer = r->opt.tokenizer, .last = cl_now_ns(), .idle_ms = 1000};
    const bool all_lines = r->replica == 0 && r->opt.replicas > 1;
    /* pings are due in between */
    if (r->opt.stall_timeout_s > 0 && r->opt.stall_timeout_s < 4) d.idle_ms = (int)(r->opt.stall_timeout_s * 250);
    for (int i = 0; i < r->model.spec.n_eos; i++) d.eos[d.n_eos++] = r->model.spec.eos[i];
    for (int i = 0; i < r->opt.n_eos && i < CL_MAX_EOS; i++) d.eos[d.n_eos++] = r->opt.eos[i];
    cl_code c = cl_schedule_create(&d.schedule, &r->limits, r->placement.n_stages, err);
    if (c == CL_OK && all_lines &&
        !(d.elsewhere = cl_calloc((size_t)r->opt.replicas, sizeof *d.elsewhere, "lines", err)))
        c = CL_E_FIT;
    if (c == CL_OK) c = drive(&d, err);
    /* After a failure (a full disk, say) what is in the line comes back first, then everybody stops. */
    for (; d.in_flight && r->placement.n_stages > 1; d.in_flight--) {
        int64_t id;
        const cl_sampled *s;
        int n;
        cl_line_recv_results(r->line, true, &id, &s, &n);
    }
    if (d.schedule) book(&d);
    cl_err later;
    if (all_lines && cl_remote_end(r, c != CL_OK || d.line_failed, c == CL_OK ? err : &later) && c == CL_OK)
        c = err->code;
    tell(r, CL_HOP_STOP);
    free_driver(&d);
    return c;
}

cl_code cl_run_serve(cl_run *r, cl_source *source, cl_err *err)
{
    cl_line_barrier(r->line);
    r->serve_start = cl_now_ns();
    cl_code c = CL_OK;
    if (cl_line_rank(r->line) == 0) c = lead(r, source, err);
    else if (r->first && r->leads) c = cl_remote_lead(r, lead, err);
    else follow(r);
    cl_line_drain(r->line);
    r->serve_ns = cl_now_ns() - r->serve_start;
    return cl_line_agree(r->line, c, err);
}
