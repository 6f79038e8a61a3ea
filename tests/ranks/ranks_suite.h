/* ranks_suite.h: what every program here needs: the ranks, and how they wait ("block", or nothing: as chosen). */
#ifndef CHIPLINE_RANKS_SUITE_H
#define CHIPLINE_RANKS_SUITE_H

#include <stdlib.h>
#include <string.h>

#include "../../src/line/line_internal.h"
#include "suite.h"

/* CUnit's tests take no argument. */
static cl_ranks *the_ranks;
static bool blocking;

static inline int run_on_ranks(int argc, char **argv, const char *name, CU_TestInfo *tests)
{
    cl_err err;
    blocking = argc > 1 && !strcmp(argv[1], "block");
    const cl_waiting waiting = {blocking ? CL_WAIT_BLOCK : CL_WAIT_AUTO, 1, 60};
    if (cl_ranks_start(&the_ranks, &argc, &argv, &waiting, &err) != CL_OK) return EXIT_FAILURE;
    if (cl_ranks_rank(the_ranks) && !freopen("/dev/null", "w", stdout)) return EXIT_FAILURE; /* one report is enough */
    int rc = run_suite(name, tests);
    if (rc) cl_ranks_abort(the_ranks, CL_E_RUN, "rank %d: tests failed", cl_ranks_rank(the_ranks));
    cl_ranks_end(the_ranks);
    return rc;
}

/* --- pseudo-random numbers and delays --- */

static inline unsigned next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*seed >> 33);
}

/* Chips are not equally fast. */
static inline void dawdle(uint64_t *seed)
{
    unsigned n = next(seed) % 64;
    if (n < 2) sched_yield();
    for (volatile unsigned i = 0; n > 40 && i < 40 * n; i++) {
    }
}

#endif
