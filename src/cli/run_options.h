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

#endif
