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
static double message_time(cl_ranks *r, void *data, size_t bytes, int rounds)
{
    const int peer = r->rank ^ 1, first = r->rank < peer;
    uint64_t start = 0;
    for (int i = -1; i < rounds; i++) {
        if (i == 0) start = cl_now_ns();
        if (first) wait_send(r, data, bytes, peer, TAG_CLOCK, "a trial message to reach");
        wait_recv(r, data, bytes, peer, TAG_CLOCK, "a trial message of");
        if (!first) wait_send(r, data, bytes, peer, TAG_CLOCK, "a trial message to reach");
    }
    return (double)(cl_now_ns() - start) * 1e-9 / rounds / 2;
}

static double rate(double bytes, double large_s, double small_s)
{
    return large_s > small_s ? bytes / (large_s - small_s) : 0;
}

cl_code cl_line_measure(cl_ranks *r, cl_carrier carrier, cl_rates *out, cl_err *err)
{
    double worst[4] = {0}; /* gathers and messages, small and large */
    const int first = r->rank & ~1, members = first + 1 < r->size ? 2 : 1;
    const cl_line_options o = {.limits = {.slots = 1, .context = 1, .chunk = 1, .hidden = 16, .vocab = 1},
                               .own = {first, members},
                               .first = first,
                               .last = first,
                               .exchange_bytes = 2 * LARGE * sizeof(float),
                               .carrier = carrier};
    cl_line *l;
    cl_code c = cl_line_open(&l, r, &o, err);
    if (c != CL_OK) return c;
    const cl_group *g = cl_line_group(l);
    memset(g->memory, 0, (size_t)LARGE * sizeof(float));
    if (members == 2) {
        worst[0] = gather_time(g, 16, ROUNDS);
        worst[1] = gather_time(g, LARGE, LARGE_ROUNDS);
        worst[2] = message_time(r, g->memory, 64, ROUNDS);
        worst[3] = message_time(r, g->memory, LARGE * sizeof(float), LARGE_ROUNDS);
    }
    cl_line_close(l);
    cl_ranks_max(r, worst, 4);
    const double bytes = LARGE * sizeof(float);
    out->gather_s = worst[0];
    out->gather_bytes_per_s = rate(bytes, worst[1], worst[0]);
    out->hop_s = worst[2];
    out->hop_bytes_per_s = rate(bytes, worst[3], worst[2]);
    return CL_OK;
}
