/* clock.c: this rank's clock against rank 0's. */
#include "ranks_internal.h"

enum { PINGS = 64 };

static void answer_pings(cl_ranks *r, int from, uint64_t (*now)(void))
{
    for (int i = 0; i < PINGS; i++) {
        wait_recv(r, NULL, 0, from, TAG_CLOCK, "a look at the clock by");
        uint64_t there = now();
        wait_send(r, &there, sizeof there, from, TAG_CLOCK, "the time to reach");
    }
}

void clock_compare(cl_ranks *r, uint64_t (*now)(void), int64_t *offset_ns, int64_t *uncertainty_ns)
{
    *offset_ns = *uncertainty_ns = 0;
    uint64_t there = 0, best = UINT64_MAX;
    for (int rank = 1; r->rank == 0 && rank < r->size; rank++) answer_pings(r, rank, now);
    for (int i = 0; r->rank && i < PINGS; i++) {
        uint64_t t0 = now();
        wait_send(r, NULL, 0, 0, TAG_CLOCK, "a look at the clock of");
        wait_recv(r, &there, sizeof there, 0, TAG_CLOCK, "the time of");
        uint64_t trip = now() - t0;
        if (trip >= best) continue;
        best = trip;
        *offset_ns = (int64_t)there - (int64_t)(t0 + trip / 2);
        *uncertainty_ns = (int64_t)(trip + 1) / 2;
    }
}

void cl_ranks_clock(cl_ranks *r, int64_t *offset_ns, int64_t *uncertainty_ns)
{
    clock_compare(r, cl_now_ns, offset_ns, uncertainty_ns);
}
