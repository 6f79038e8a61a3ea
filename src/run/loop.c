/* loop.c: the loops of the ranks while tokens flow. The first chip of a line takes micro-batches from a session,
 * computes and passes them on, and takes samples back to it; every other rank computes what arrives and passes it on.
 * */
#include "chipline/schedule.h"
#include "desk.h"
#include "run_internal.h"

/* One micro-batch through this rank's chip, and through the head on the last stage. */
static void compute(cl_run *r, const cl_microbatch *mb, float *x)
{
    const cl_chip_table *c = &r->chip;
    uint64_t t0 = cl_now_ns(), waited = cl_line_wait_ns(r->line);
    cl_traffic before = c->traffic(c->ctx);
    cl_mark m = cl_trace_mark(r->trace.recorder, CL_TRACE_STAGE);
    cl_ranks_phase(r->ranks, mb->n_tokens > mb->n_parts ? "reading a prompt" : "decoding");
    c->step(c->ctx, mb, x);
    if (r->seat.last) c->sample(c->ctx, mb, x, &r->samples);
    cl_traffic after = c->traffic(c->ctx);
    uint64_t gathering = cl_line_wait_ns(r->line) - waited;
    cl_event e = {.kind = CL_EV_STEP,
                  .layer = -1,
                  .microbatch = mb->id,
                  .tokens = mb->n_tokens,
                  .parts = mb->n_parts,
                  .peer = -1,
                  .weight_bytes = after.weight_bytes - before.weight_bytes,
                  .kv_bytes = after.kv_bytes - before.kv_bytes,
                  .gather_ns = gathering};
    cl_trace_end(r->trace.recorder, m, &e);
    r->busy_ns += cl_now_ns() - t0 - gathering;
}

/* --- the other ranks --- */

static void follow(cl_run *r)
{
    const run_seat *s = &r->seat;
    const bool answers = s->last && s->leads &&
                         r->plan.placement.n_stages > 1; /* else samples are where they should be */
    for (bool stop = false; !stop;) {
        cl_hop *h = cl_line_recv(r->line);
        stop = h->kind == CL_HOP_STOP;
        if (h->kind == CL_HOP_WORK) compute(r, &h->mb, h->x);
        if (h->kind == CL_HOP_WORK && answers) cl_line_send_samples(r->line, &r->samples);
        if (s->last) cl_line_release(r->line, h);
        else cl_line_pass(r->line, h);
    }
}

/* --- the first chip --- */

typedef struct loop {
    cl_run *run;
    cl_session *session;
    cl_source *source;
    const desk *desk; /* NULL: the source is called by this thread */
    bool (*stop)(void);
    bool ended;       /* no further requests */
    bool stopping;    /* stop said so */
    bool line_failed; /* another line has ended; its own error will say why */
    bool other_lines;
    cl_buf note;
} loop;

static bool idle(const loop *l) { return !cl_session_in_flight(l->session) && !cl_session_active(l->session); }

/* Takes what the source has into free slots; waits a little for it where there is nothing else to do. */
static cl_code admit(loop *l, cl_err *err)
{
    enum { IDLE_MS = 200 };
    cl_run *r = l->run;
    cl_code c = CL_OK;
    while (c == CL_OK && !l->ended && cl_session_has_room(l->session)) {
        bool waits = idle(l);
        cl_mark m = cl_trace_mark(waits ? r->trace.recorder : NULL, CL_TRACE_STAGE);
        cl_request *q = l->source->next(l->source->ctx, waits && !l->desk ? IDLE_MS : 0, &l->ended);
        if (waits && m.on) {
            cl_event e = {.kind = CL_EV_IDLE, .layer = -1, .microbatch = -1, .peer = -1};
            cl_trace_end(r->trace.recorder, m, &e);
        }
        if (!q) break;
        c = cl_session_add(l->session, q, err);
    }
    return c;
}

/* What the trace cannot know otherwise: whose tokens a micro-batch carries. */
static void record_parts(const loop *l, const cl_microbatch *mb)
{
    cl_trace *t = l->run->trace.recorder;
    const int64_t *requests = cl_session_part_requests(l->session);
    for (int i = 0; t && i < mb->n_parts; i++) {
        const cl_part *p = &mb->parts[i];
        const cl_trace_part row = {.microbatch = mb->id,
                                   .request = (int32_t)requests[i],
                                   .slot = p->slot,
                                   .position = p->pos,
                                   .tokens = p->n_tokens,
                                   .outputs = p->n_outputs,
                                   .guesses = p->n_guesses,
                                   .forked_from = p->fork,
                                   .flags = (int32_t)p->flags};
        cl_trace_add_part(t, &row);
    }
}

/* Sends the next micro-batch into the line, if there is one. */
static cl_code inject(loop *l, bool *sent, cl_err *err)
{
    cl_run *r = l->run;
    cl_hop *h = cl_line_take(r->line);
    cl_mark m = cl_trace_mark(r->trace.recorder, CL_TRACE_STAGE);
    *sent = cl_session_next(l->session, &h->mb);
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
                  .peer = -1};
    cl_trace_end(r->trace.recorder, m, &e);
    record_parts(l, &h->mb);
    compute(r, &h->mb, h->x);
    if (!r->seat.last) {
        cl_line_pass(r->line, h);
        return CL_OK;
    }
    cl_code c = cl_session_samples(l->session, &r->samples, err);
    cl_line_release(r->line, h);
    return c;
}

static void pass_stop(cl_run *r)
{
    if (r->plan.placement.n_ranks == 1) return;
    cl_hop *h = cl_line_take(r->line);
    h->kind = CL_HOP_STOP;
    cl_line_seal(r->line, h);
    if (r->seat.last) cl_line_release(r->line, h);
    else cl_line_pass(r->line, h);
}

/* Samples that are there, or the next ones after waiting for them. */
static cl_code take_samples(loop *l, bool wait, cl_err *err)
{
    cl_code c = CL_OK;
    const cl_samples *s;
    while (c == CL_OK && cl_session_in_flight(l->session) && cl_line_recv_samples(l->run->line, wait, &s)) {
        c = cl_session_samples(l->session, s, err);
        wait = false;
    }
    return c;
}

/* The line has all that there is to do. A request that comes meanwhile begins before the samples are here. */
static cl_code await_samples(loop *l, cl_err *err)
{
    cl_run *r = l->run;
    void *caller = (void *)(uintptr_t)l->desk;
    const bool takes = caller && !l->ended && !l->stopping && cl_session_has_room(l->session);
    if (takes &&
        cl_line_await(r->line, l->other_lines ? r->notes : NULL, desk_calls, caller, 0.2) != CL_AWAITED_SAMPLES)
        return CL_OK;
    return take_samples(l, true, err);
}

/* Nothing can be done now but wait: for a request, or for tokens of other lines. */
static void doze(const loop *l)
{
    enum { SOURCE_MS = 20 }; /* a source without a desk is asked again then */
    cl_run *r = l->run;
    void *caller = (void *)(uintptr_t)l->desk;
    if (caller) cl_line_await(r->line, l->other_lines ? r->notes : NULL, desk_calls, caller, 0.2);
    else if (l->other_lines && cl_session_active(l->session))
        cl_line_await(r->line, r->notes, NULL, NULL, SOURCE_MS * 1e-3);
}

/* One turn. *done: everything is through, or stopped. */
static cl_code turn(loop *l, bool *done, cl_err *err)
{
    cl_run *r = l->run;
    const bool alone = r->plan.placement.n_stages == 1;
    bool sent = false, waiting = false;
    lines_news news = {0};
    cl_code c = alone ? CL_OK : take_samples(l, false, err);
    if (c == CL_OK && l->other_lines) c = lines_take(r, l->session, &l->note, &news, err);
    l->line_failed |= news.failed;
    if (c == CL_OK) c = cl_session_sweep(l->session, err);
    if (c == CL_OK && !l->stopping) c = admit(l, err);
    if (c != CL_OK || l->line_failed) return c;
    l->stopping = l->stopping || (l->stop && l->stop());
    const int most = cl_microbatches_of(r->plan.placement.n_stages);
    bool ready = cl_session_in_flight(l->session) < most && !l->stopping;
    if (ready && !(l->desk && desk_is_full(l->desk))) c = inject(l, &sent, err);
    if (c != CL_OK || sent) return c;
    if (!alone && cl_session_in_flight(l->session)) return await_samples(l, err);
    waiting = cl_session_active(l->session) > 0 || !l->ended;
    *done = l->stopping || !waiting;
    if (!*done && !news.got) doze(l);
    return CL_OK;
}

/* After a failure (a full disk, say) what is in the line comes back first, then everybody stops. */
static void drain(loop *l)
{
    const cl_samples *s;
    cl_err later;
    while (cl_session_in_flight(l->session) && l->run->plan.placement.n_stages > 1) {
        cl_line_recv_samples(l->run->line, true, &s);
        cl_session_samples(l->session, s, &later);
    }
}

/* Leads until the source has ended, or somebody stops it. */
static cl_code lead(loop *l, cl_err *err)
{
    static const cl_source nobody = {0};
    cl_run *r = l->run;
    cl_err later;
    cl_session_set_source(l->session, l->source);
    cl_session_set_start(l->session, r->serve_start);
    cl_code c = cl_session_resend(l->session, err);
    for (bool done = false; c == CL_OK && !done && !l->line_failed;) {
        c = turn(l, &done, err);
        cl_line_poll(r->line); /* idle, not dead */
    }
    if (c != CL_OK || l->line_failed) cl_session_set_source(l->session, &nobody);
    drain(l);
    if (l->other_lines) {
        bool drop = c != CL_OK || l->line_failed || l->stopping;
        cl_code ended = lines_end(r, l->session, drop, &l->note, c == CL_OK ? err : &later);
        if (c == CL_OK) c = ended;
    }
    pass_stop(r);
    cl_buf_free(&l->note);
    return c == CL_OK && l->stopping ? cl_fail(err, CL_E_STOPPED, "run: stopped on request") : c;
}

cl_code loop_lead(cl_run *r, cl_session *s, cl_source *source, cl_err *err)
{
    loop l = {.run = r, .session = s, .source = source};
    return lead(&l, err);
}

/* --- serving --- */

/* The trace keeps what it needs of each request that ends. */
typedef struct noting {
    cl_run *run;
    cl_source inner;
} noting;

static cl_request *noting_next(void *ctx, int wait_ms, bool *ended)
{
    const noting *n = ctx;
    return n->inner.next(n->inner.ctx, wait_ms, ended);
}

static cl_code noting_text(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    const noting *to = ctx;
    return to->inner.text(to->inner.ctx, r, s, n, err);
}

static cl_code noting_reasoning(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    const noting *to = ctx;
    return to->inner.reasoning(to->inner.ctx, r, s, n, err);
}

static void noting_token(void *ctx, const cl_request *r, int32_t id, uint64_t digest, bool last)
{
    const noting *to = ctx;
    to->inner.token(to->inner.ctx, r, id, digest, last);
}

static cl_code noting_done(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    const noting *n = ctx;
    cl_err other;
    cl_code c = trace_note_request(n->run, r, result, err);
    cl_code d = n->inner.done(n->inner.ctx, r, result, c == CL_OK ? err : &other);
    return c == CL_OK ? d : c;
}

static cl_code serve(cl_run *r, const cl_serve_options *o, cl_err *err)
{
    desk *d = NULL;
    cl_source source = *o->source;
    cl_code c = o->desk ? desk_open(&d, o->source, r->plan.limits.slots * r->opt.replicas, err) : CL_OK;
    if (d) source = desk_source(d);
    noting n = {r, source};
    if (r->trace.recorder)
        source = (cl_source){.ctx = &n,
                             .next = noting_next,
                             .text = source.text ? noting_text : NULL,
                             .reasoning = source.reasoning ? noting_reasoning : NULL,
                             .token = source.token ? noting_token : NULL,
                             .done = noting_done};
    loop l = {.run = r, .session = o->session, .source = &source, .desk = d, .stop = o->stop};
    l.other_lines = r->opt.replicas > 1;
    if (c == CL_OK) c = lead(&l, err);
    else pass_stop(r);
    cl_err first;
    cl_code kept = desk_close(d, &first);
    if (kept == CL_OK || (c != CL_OK && c != CL_E_STOPPED)) return c;
    *err = first;
    return kept;
}

cl_code cl_run_session(cl_run *r, cl_session **out, cl_err *err)
{
    int32_t eos[2 * CL_MAX_EOS];
    const cl_spec *s = &r->plan.model.spec;
    bool root = r->seat.replica == 0;
    cl_session_options o = {.limits = r->plan.limits,
                            .stages = r->plan.placement.n_stages,
                            .lines = root ? r->opt.replicas : 1,
                            .others = {r, lines_send, lines_cancel},
                            .tokenizer = root ? r->opt.tokenizer : NULL,
                            .eos = eos,
                            .number = root ? NULL : lines_number};
    for (int i = 0; i < s->n_eos; i++) eos[o.n_eos++] = s->eos[i];
    for (int i = 0; i < r->opt.n_eos && i < CL_MAX_EOS; i++) eos[o.n_eos++] = r->opt.eos[i];
    return cl_session_create(out, &o, err);
}

cl_code cl_run_serve(cl_run *r, const cl_serve_options *opt, cl_err *err)
{
    cl_ranks_barrier(r->ranks);
    cl_ranks_phase(r->ranks, "waiting for requests");
    r->serve_start = cl_now_ns();
    cl_code c = CL_OK;
    if (cl_ranks_rank(r->ranks) == 0) c = serve(r, opt, err);
    else if (r->seat.first && r->seat.leads) c = lines_serve(r, err);
    else follow(r);
    cl_line_drain(r->line);
    r->serve_ns = cl_now_ns() - r->serve_start;
    return cl_ranks_agree(r->ranks, c, err);
}
