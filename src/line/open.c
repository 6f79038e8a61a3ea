/* open.c: the buffers of the line, made before tokens flow. */
#include <stdlib.h>

#include "line_internal.h"

static cl_code open_results(cl_line *l, cl_err *err)
{
    for (int i = 0; i < RESULT_SLOTS; i++)
        if (!(l->results[i] = cl_calloc(1, l->result_capacity, "result buffer", err))) return CL_E_FIT;
    return CL_OK;
}

static cl_code check_sizes(const cl_line *l, cl_err *err)
{
    if (l->hop_capacity <= INT32_MAX) return CL_OK;
    return cl_fail(err, CL_E_FIT,
                   "line: a micro-batch of %d tokens takes %zu bytes, a message at most 2 GB (use a smaller --chunk)",
                   l->opt.limits.chunk, l->hop_capacity);
}

void cl_line_close(cl_line *l)
{
    if (!l->opened) return;
    cl_line_stage_close(l);
    for (int i = 0; i < RESULT_SLOTS; i++) {
        free(l->results[i]);
        l->results[i] = NULL;
    }
    l->opened = false;
}

cl_code cl_line_open(cl_line *l, const cl_line_options *opt, cl_err *err)
{
    cl_line_close(l);
    l->opened = true;
    l->opt = *opt;
    l->yields = opt->wait == CL_WAIT_YIELD ||
                (opt->wait == CL_WAIT_AUTO && l->ranks_here * opt->threads > l->cores_here);
    l->wait_ns = 0;
    l->posted = -1;
    l->recv = l->result_recv = MPI_REQUEST_NULL;
    l->hop_capacity = cl_line_hop_most(&opt->limits);
    l->result_capacity = cl_line_samples_bytes(opt->limits.slots, opt->limits.chunk);
    for (int i = 0; i < HOPS; i++) l->hops[i] = (hop_slot){.send = MPI_REQUEST_NULL, .hop = {.index = i}};
    for (int i = 0; i < RESULT_SLOTS; i++) l->result_send[i] = MPI_REQUEST_NULL;
    cl_code c = cl_line_agree(l, check_sizes(l, err), err);
    if (c == CL_OK) c = cl_line_stage_open(l, err);
    if (c == CL_OK) c = cl_line_agree(l, open_results(l, err), err);
    return c;
}
