/* run_options.h: options that `chipline run` and `chipline bench` have in common. */
#ifndef CHIPLINE_RUN_OPTIONS_H
#define CHIPLINE_RUN_OPTIONS_H

#include "chipline/run.h"
#include "cli.h"

enum {
    OPT_THREADS = 512,
    OPT_ACTIVATIONS,
    OPT_KV,
    OPT_LAYOUT,
    OPT_EXPERTS,
    OPT_GATHER,
    OPT_WAIT,
    OPT_CHUNK,
    OPT_STALL
};

/* One of them; ARGP_ERR_UNKNOWN: it is another. *layout is the caller's to free and to point to. */
error_t cl_cli_run_option(int key, const char *arg, cl_run_options *run, cl_layout *layout, cl_err *err);

/* Calls body on every rank with this rank's crew in run->crew: as many threads as rank 0's run->threads says, or as
 * fit this rank's share of the cores. Collective: where a rank cannot have its threads, no rank's body is called, and all return its error. */
cl_code cl_cli_on_crew(cl_run_options *run, cl_ranks *ranks, cl_code (*body)(void *o, cl_ranks *ranks), void *o,
                       cl_err *err);

#endif
