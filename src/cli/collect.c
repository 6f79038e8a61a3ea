/* collect.c: `chipline collect`: a trace from the event logs of a run that died. */
#include "chipline/trace.h"
#include "cli.h"

typedef struct collect_cli {
    cl_err *err;
    const char *trace;
} collect_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    collect_cli *o = st->input;
    if (key != ARGP_KEY_ARG) return ARGP_ERR_UNKNOWN;
    if (o->trace) return cl_cli_extra(o->err, arg);
    o->trace = arg;
    return 0;
}

static const struct argp_option options[] = {{0}};
static const struct argp argp =
    {options,
     parse,
     "TRACE.h5",
     "Makes TRACE.h5 from the files that a traced run left when a rank or the job was killed: TRACE.h5.run.part and "
     "TRACE.h5.rankNNNN.part. "
     "Requests that had ended are in the results file, not in this trace. These files stay.",
     NULL,
     NULL,
     NULL};

int cl_cmd_collect(int argc, char **argv)
{
    cl_err err;
    collect_cli o = {.err = &err};
    bool help;
    cl_trace_recovered found;
    cl_code c = cl_cli_parse(&argp, argc, argv, &o, &help, &err);
    if (c == CL_OK && help) {
        cl_cli_help(&argp, argv[0]);
        return CL_OK;
    }
    if (c == CL_OK && !o.trace)
        c = cl_fail(&err, CL_E_USAGE, "collect: needs the trace's name (chipline collect TRACE.h5)");
    if (c == CL_OK) c = cl_check_new(o.trace, &err);
    if (c == CL_OK) c = cl_trace_recover(o.trace, &found, &err);
    if (c != CL_OK) return cl_cli_fail(&err);
    printf("%s: %llu events of %d of %d ranks (the run did not end: requests and totals are unknown)\n", o.trace,
           (unsigned long long)found.events, found.logs, found.ranks);
    return CL_OK;
}
