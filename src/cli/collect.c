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
    return cli_argument(o->err, "TRACE", arg, &o->trace);
}

static const struct argp_option options[] = {{0}};
static cl_code check(void *own, const cli_call *call)
{
    const collect_cli *o = own;
    if (!o->trace) return cl_fail(o->err, CL_E_USAGE, "collect: needs the trace's name (chipline collect TRACE.h5)");
    return cl_check_new(o->trace, o->err);
}

static cl_code run(void *own, const cli_call *call)
{
    const collect_cli *o = own;
    cl_trace_recovered found;
    cl_code c = cl_trace_recover(o->trace, &found, o->err);
    if (c != CL_OK) return c;
    printf("%s: %llu events of %d of %d ranks (the run did not end: requests and totals are unknown)\n", o->trace,
           (unsigned long long)found.events, found.logs, found.ranks);
    return CL_OK;
}

const cli_command command_collect = {
    .name = "collect",
    .args = "TRACE.h5",
    .what = "a trace from what a run left that died",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "TRACE.h5",
             .doc = "Makes TRACE.h5 from the files that a traced run left when a rank or the job was killed: "
                    "TRACE.h5.run.part and "
                    "TRACE.h5.rankNNNN.part. "
                    "Requests that had ended are in the results file, not in this trace. These files stay."},
    .size = sizeof(collect_cli),
    .check = check,
    .run = run,
};
