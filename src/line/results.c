/* results.c: what was sampled, from the last stage's head chip to the first's. */
#include "line_internal.h"

size_t cl_line_samples_bytes(int parts, int ids)
{
    return sizeof(wire_samples) + (size_t)parts * sizeof(cl_sampled) + (size_t)ids * sizeof(int32_t);
}

/* A message buffer that is not under way. */
static int free_slot(cl_line *l)
{
    for (int i = 0, done = 0; i < RESULT_SLOTS; i++) {
        if (l->result_send[i] == MPI_REQUEST_NULL) return i;
        MPI_TRY(l, MPI_Test(&l->result_send[i], &done, MPI_STATUS_IGNORE));
        if (done) return i;
    }
    cl_line_wait(l, &l->result_send[0], MPI_STATUS_IGNORE, "samples to reach", l->opt.first);
    return 0;
}

void cl_line_send_samples(cl_line *l, const cl_samples *s)
{
    int slot = free_slot(l);
    wire_samples *w = (wire_samples *)(void *)l->results[slot];
    size_t bytes = cl_line_samples_bytes(s->n_parts, s->n_ids);
    w->microbatch = s->microbatch;
    w->n_parts = s->n_parts;
    w->n_ids = s->n_ids;
    memcpy(w->parts, s->parts, (size_t)s->n_parts * sizeof *s->parts);
    memcpy(w->parts + s->n_parts, s->ids, (size_t)s->n_ids * sizeof *s->ids);
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    MPI_TRY(l, MPI_Isend(w, (int)bytes, MPI_BYTE, l->opt.first, TAG_RESULTS, l->comm, &l->result_send[slot]));
    cl_microbatch mb = {.id = s->microbatch, .n_parts = s->n_parts};
    cl_line_record(l, m, CL_EV_SEND, &mb, l->opt.first, bytes);
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
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    uint64_t t0 = cl_now_ns();
    MPI_Status status;
    int bytes = 0, done = 1;
    if (l->result_recv == MPI_REQUEST_NULL) {
        int room = (int)l->result_capacity;
        MPI_TRY(l, MPI_Irecv(l->results[0], room, MPI_BYTE, l->opt.last, TAG_RESULTS, l->comm, &l->result_recv));
    }
    if (wait) cl_line_wait(l, &l->result_recv, &status, "samples from", l->opt.last);
    else MPI_TRY(l, MPI_Test(&l->result_recv, &done, &status));
    if (!done) return false;
    MPI_TRY(l, MPI_Get_count(&status, MPI_BYTE, &bytes));
    unsigned char *got = l->results[0];
    l->results[0] = l->results[1];
    l->results[1] = got;
    if (!open_samples(l, (wire_samples *)(void *)got, bytes))
        cl_line_abort(l, CL_E_RUN, "rank %d: samples of rank %d make no sense (a bug: please report it)", l->rank,
                      l->opt.last);
    if (wait) l->wait_ns += cl_now_ns() - t0;
    cl_microbatch mb = {.id = l->samples.microbatch, .n_parts = l->samples.n_parts};
    cl_line_record(l, m, CL_EV_RECV, &mb, l->opt.last, (size_t)bytes);
    *samples = &l->samples;
    return true;
}
