/* wait.c: waiting for messages and for other chips of the stage: spinning, yielding, giving up. */
#include <time.h>

#include "line_internal.h"

static const double SPIN_S = 50e-6; /* a spinning rank yields after this: what it waits for may need the core */
static const double DOZE_S = 0.05;  /* long waits cost no core */

/* Ranks that wait for each other give up at the same time; this lets one of them say why before it ends the others. */
static double patience(const cl_line *l)
{
    enum { TURNS = 12 };
    return l->opt.stall_timeout_s + 0.25 * (l->rank < TURNS ? l->rank : TURNS);
}

/* Where yielding shows that others want the core, a short sleep gets it back sooner than another yield: who yields
 * goes to the end of the queue, who wakes up to its head. */
static void give_way(cl_line *l)
{
    enum { CROWDED_TURNS = 500, SLEEP_NS = 20000 };
    if (l->crowded > 0) {
        l->crowded--;
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
    } else if (cl_yield()) {
        l->crowded = CROWDED_TURNS;
    }
}

void cl_line_wait_more(cl_line *l, line_wait *w, const char *what, int peer)
{
    if (l->yields || w->s > SPIN_S) give_way(l);
    else cl_spin();
    if (++w->tries & 63) return;
    cl_line_poll(l);
    uint64_t now = cl_now_ns();
    if (!w->start) w->start = now;
    w->s = (double)(now - w->start) * 1e-9;
    if (w->s > DOZE_S) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    if (l->opt.stall_timeout_s > 0 && w->s > patience(l))
        cl_line_abort(l, CL_E_RUN,
                      "rank %d: waited %.0f s for %s rank %d (a rank or a link is gone, or a step takes longer: "
                      "--stall-timeout)",
                      l->rank, w->s, what, peer);
}

void cl_line_wait(cl_line *l, MPI_Request *r, MPI_Status *status, const char *what, int peer)
{
    int done = 0;
    for (line_wait w = {0};; cl_line_wait_more(l, &w, what, peer)) {
        MPI_TRY(l, MPI_Test(r, &done, status));
        if (done) return;
    }
}
