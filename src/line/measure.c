/* measure.c: what an exchange costs here, for choosing a layout: two neighbouring ranks each, all pairs of the job at
 * once. */
#include "line_internal.h"

enum { ROUNDS = 200, LARGE_ROUNDS = 10, LARGE = 1 << 17 /* numbers */ };

/* Seconds of one gather of so many numbers by each of both. */
static double gather_time(const cl_group *g, int numbers, int rounds)
{
    const int32_t cut[] = {0, numbers, 2 * numbers};
    const cl_region r = {.data = g->memory, .rows = 1, .stride = 2 * (size_t)numbers, .cut = cut, .to = -1};
    g->gather(g->ctx, &r, 1);
    uint64_t start = cl_now_ns();
    for (int i = 0; i < rounds; i++) g->gather(g->ctx, &r, 1);
    return (double)(cl_now_ns() - start) * 1e-9 / rounds;
}

/* Seconds of a message to the other and back, halved. */
static double message_time(cl_line *l, void *data, int bytes, int rounds)
{
    const int peer = l->rank ^ 1, first = l->rank < peer;
    uint64_t start = 0;
    for (int i = -1; i < rounds; i++) {
        if (i == 0) start = cl_now_ns();
        if (first) MPI_TRY(l, MPI_Send(data, bytes, MPI_BYTE, peer, TAG_CLOCK, l->comm));
        MPI_TRY(l, MPI_Recv(data, bytes, MPI_BYTE, peer, TAG_CLOCK, l->comm, MPI_STATUS_IGNORE));
        if (!first) MPI_TRY(l, MPI_Send(data, bytes, MPI_BYTE, peer, TAG_CLOCK, l->comm));
    }
    return (double)(cl_now_ns() - start) * 1e-9 / rounds / 2;
}

static double rate(double bytes, double large_s, double small_s)
{
    return large_s > small_s ? bytes / (large_s - small_s) : 0;
}

cl_code cl_line_measure(cl_line *l, const cl_line_options *how, cl_rates *out, cl_err *err)
{
    double mine[4] = {0}, worst[4]; /* gathers and messages, small and large */
    cl_line_options o = *how;
    const int first = l->rank & ~1;
    o.limits = (cl_limits){.slots = 1, .context = 1, .chunk = 1, .hidden = 16, .vocab = 1};
    o.stage_first = o.first = o.last = first;
    o.members = first + 1 < l->size ? 2 : 1;
    o.prev = o.next = -1;
    o.exchange_bytes = 2 * LARGE * sizeof(float);
    o.trace = NULL;
    cl_code c = cl_line_open(l, &o, err);
    if (c != CL_OK) return c;
    const cl_group *g = cl_line_group(l);
    memset(g->memory, 0, (size_t)LARGE * sizeof(float));
    if (o.members == 2) {
        mine[0] = gather_time(g, 16, ROUNDS);
        mine[1] = gather_time(g, LARGE, LARGE_ROUNDS);
        mine[2] = message_time(l, g->memory, 64, ROUNDS);
        mine[3] = message_time(l, g->memory, LARGE * (int)sizeof(float), LARGE_ROUNDS);
    }
    cl_line_drain(l);
    MPI_TRY(l, MPI_Allreduce(mine, worst, 4, MPI_DOUBLE, MPI_MAX, l->comm));
    const double bytes = LARGE * sizeof(float);
    out->gather_s = worst[0];
    out->gather_bytes_per_s = rate(bytes, worst[1], worst[0]);
    out->hop_s = worst[2];
    out->hop_bytes_per_s = rate(bytes, worst[3], worst[2]);
    return CL_OK;
}
