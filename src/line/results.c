/* results.c: what was sampled, from the last stage's head chip to the first's. */
#include "line_internal.h"

size_t cl_line_result_bytes(int parts) { return sizeof(wire_results) + (size_t)parts * sizeof(cl_sampled); }

void cl_line_send_results(cl_line *l, int64_t microbatch, const cl_sampled *results, int n)
{
    int slot = 0;
    for (int done = 0; slot < RESULT_SLOTS; slot++) {
        if (l->result_send[slot] == MPI_REQUEST_NULL) break;
        MPI_TRY(l, MPI_Test(&l->result_send[slot], &done, MPI_STATUS_IGNORE));
        if (done) break;
    }
    if (slot == RESULT_SLOTS) {
        slot = 0;
        cl_line_wait(l, &l->result_send[slot], MPI_STATUS_IGNORE, "results to reach", l->opt.first);
    }
    wire_results *w = (wire_results *)(void *)l->results[slot];
    size_t bytes = cl_line_result_bytes(n);
    w->microbatch = microbatch;
    w->n = n;
    memcpy(w->sampled, results, (size_t)n * sizeof *results);
    cl_mark m = cl_trace_mark(l->opt.trace, CL_TRACE_STAGE);
    MPI_TRY(l, MPI_Isend(w, (int)bytes, MPI_BYTE, l->opt.first, TAG_RESULTS, l->comm, &l->result_send[slot]));
    cl_microbatch mb = {.id = microbatch, .n_parts = n};
    cl_line_record(l, m, CL_EV_SEND, &mb, l->opt.first, bytes);
}

bool cl_line_recv_results(cl_line *l, bool wait, int64_t *microbatch, const cl_sampled **results, int *n)
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
    const wire_results *w = (const wire_results *)(const void *)got;
    if (bytes < (int)sizeof *w || w->n < 0 || w->n > l->opt.limits.slots || (size_t)bytes != cl_line_result_bytes(w->n))
        cl_line_abort(l, CL_E_RUN, "rank %d: a result of rank %d makes no sense (a bug: please report it)", l->rank,
                      l->opt.last);
    for (int i = 0; i < w->n; i++)
        if (w->sampled[i].slot < 0 || w->sampled[i].slot >= l->opt.limits.slots)
            cl_line_abort(l, CL_E_RUN, "rank %d: a result names slot %d (a bug: please report it)", l->rank,
                          w->sampled[i].slot);
    *microbatch = w->microbatch;
    *results = w->sampled;
    *n = w->n;
    if (wait) l->wait_ns += cl_now_ns() - t0;
    cl_microbatch mb = {.id = w->microbatch, .n_parts = w->n};
    cl_line_record(l, m, CL_EV_RECV, &mb, l->opt.last, (size_t)bytes);
    return true;
}
