/* results.c: what was sampled, from the last stage's head chip to the first's; and what the first one waits for. */
#include <math.h>

#include "line_internal.h"

size_t cl_line_samples_bytes(int parts, int ids)
{
    return sizeof(wire_samples) + (size_t)parts * sizeof(cl_sampled) + (size_t)ids * sizeof(int32_t);
}

/* --- buffers --- */

/* The first stage's head chip receives into one while the other is looked at; the last one's sends. */
static int count(const cl_line_options *o, int rank)
{
    if (line_is_lone(o)) return 0;
    return rank == o->first ? 2 : rank == o->last ? RESULT_SLOTS : 0;
}

static size_t capacity(const cl_limits *m) { return cl_line_samples_bytes(m->slots, m->chunk); }

size_t results_bytes(const cl_line_options *o, int rank) { return (size_t)count(o, rank) * capacity(&o->limits); }

cl_code results_open(cl_line *l, cl_err *err)
{
    size_t bytes = capacity(&l->opt.limits);
    for (int i = 0; i < count(&l->opt, l->ranks->rank); i++)
        if (!(l->results[i] = line_alloc(l, bytes, "result buffer", err))) return CL_E_FIT;
    return CL_OK;
}

void results_close(cl_line *l)
{
    for (int i = 0; i < RESULT_SLOTS; i++)
        if (l->results[i]) cl_free_aligned(l->results[i], capacity(&l->opt.limits));
}

/* --- the last stage sends --- */

void cl_line_send_samples(cl_line *l, const cl_samples *s)
{
    int slot = l->result_turn;
    l->result_turn = (slot + 1) % RESULT_SLOTS;
    wait_one(l->ranks, &l->result_send[slot], MPI_STATUS_IGNORE, "samples to reach", l->opt.first);
    wire_samples *w = (wire_samples *)(void *)l->results[slot];
    size_t bytes = cl_line_samples_bytes(s->n_parts, s->n_ids);
    w->microbatch = s->microbatch;
    w->n_parts = s->n_parts;
    w->n_ids = s->n_ids;
    memcpy(w->parts, s->parts, (size_t)s->n_parts * sizeof *s->parts);
    memcpy(w->parts + s->n_parts, s->ids, (size_t)s->n_ids * sizeof *s->ids);
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    MPI_TRY(l->ranks,
            MPI_Isend(w, (int)bytes, MPI_BYTE, l->opt.first, TAG_RESULTS, l->ranks->comm, &l->result_send[slot]));
    cl_microbatch mb = {.id = s->microbatch, .n_parts = s->n_parts};
    line_record(l, m, CL_EV_SEND, &mb, l->opt.first, bytes);
}

/* --- the first stage receives --- */

static void post(cl_line *l)
{
    if (l->result_recv != MPI_REQUEST_NULL || l->result_bytes >= 0) return;
    int room = (int)capacity(&l->opt.limits);
    MPI_TRY(l->ranks,
            MPI_Irecv(l->results[0], room, MPI_BYTE, l->opt.last, TAG_RESULTS, l->ranks->comm, &l->result_recv));
}

static void came(cl_line *l, MPI_Status *status)
{
    MPI_TRY(l->ranks, MPI_Get_count(status, MPI_BYTE, &l->result_bytes));
}

/* Have they come? Waits for them if so told. */
static bool look(cl_line *l, bool wait)
{
    MPI_Status status;
    post(l);
    if (l->result_bytes >= 0) return true;
    if (wait) wait_one(l->ranks, &l->result_recv, &status, "samples from", l->opt.last);
    else if (!wait_look(l->ranks, &l->result_recv, &status)) return false;
    came(l, &status);
    return true;
}

/* A peer of the same job sent this, but its sizes are checked all the same. */
static bool open_samples(cl_line *l, wire_samples *w, int bytes)
{
    const cl_limits *m = &l->opt.limits;
    if (bytes < (int)sizeof *w || w->n_parts < 0 || w->n_parts > m->slots || w->n_ids < 0 || w->n_ids > m->chunk ||
        (size_t)bytes != cl_line_samples_bytes(w->n_parts, w->n_ids))
        return false;
    for (int i = 0; i < w->n_parts; i++) {
        const cl_sampled *p = &w->parts[i];
        if (p->slot < 0 || p->slot >= m->slots || p->n < 0 || p->first < 0 || p->n > w->n_ids - p->first) return false;
    }
    l->samples = (cl_samples){.microbatch = w->microbatch,
                              .n_parts = w->n_parts,
                              .n_ids = w->n_ids,
                              .parts = w->parts,
                              .ids = (int32_t *)(void *)(w->parts + w->n_parts)};
    return true;
}

bool cl_line_recv_samples(cl_line *l, bool wait, const cl_samples **samples)
{
    cl_mark m = l->result_marked ? l->result_mark : cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    uint64_t t0 = cl_now_ns();
    if (!look(l, wait)) return false;
    l->result_marked = false;
    int bytes = l->result_bytes;
    l->result_bytes = -1;
    unsigned char *got = l->results[0];
    l->results[0] = l->results[1];
    l->results[1] = got;
    if (!open_samples(l, (wire_samples *)(void *)got, bytes))
        cl_ranks_abort(l->ranks, CL_E_RUN, "rank %d: samples of rank %d make no sense (a bug: please report it)",
                       l->ranks->rank, l->opt.last);
    l->expected--;
    if (wait) l->wait_ns += cl_now_ns() - t0;
    cl_microbatch mb = {.id = l->samples.microbatch, .n_parts = l->samples.n_parts};
    line_record(l, m, CL_EV_RECV, &mb, l->opt.last, (size_t)bytes);
    *samples = &l->samples;
    return true;
}

/* Who is waited for when nothing is in the line: the last stage, which nobody else asks how it is. */
cl_awaited cl_line_await(cl_line *l, cl_notes *notes, bool (*awake)(void *ctx), void *ctx, double seconds)
{
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    uint64_t t0 = cl_now_ns();
    MPI_Status status;
    if (l->expected && look(l, false)) return CL_AWAITED_SAMPLES;
    MPI_Request *note = notes ? notes_post(notes) : NULL;
    if (note && *note == MPI_REQUEST_NULL) return CL_AWAITED_NOTE;
    if (awake && awake(ctx)) return CL_AWAITED_CALL;
    if (seconds <= 0) return CL_AWAITED_TIME;
    const wait_set w = {.requests = {l->expected ? &l->result_recv : NULL, note},
                        .there = awake,
                        .ctx = ctx,
                        .seconds = isfinite(seconds) ? seconds : 0,
                        .what = "samples from",
                        .peer = line_is_lone(&l->opt) ? -1 : l->opt.last};
    int which = wait_any(l->ranks, &w, &status);
    if (l->expected) l->wait_ns += cl_now_ns() - t0;
    if (which == 0) {
        came(l, &status);
        l->result_mark = m;
        l->result_marked = true;
        return CL_AWAITED_SAMPLES;
    }
    if (which == 1) {
        notes_came(notes, &status);
        return CL_AWAITED_NOTE;
    }
    return which == WAIT_THERE ? CL_AWAITED_CALL : CL_AWAITED_TIME;
}

void results_drain(cl_line *l)
{
    for (int i = 0; i < RESULT_SLOTS; i++)
        wait_one(l->ranks, &l->result_send[i], MPI_STATUS_IGNORE, "samples to reach", l->opt.first);
    line_cancel(l, &l->result_recv);
}
