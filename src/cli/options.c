/* options.c: options of arithmetic and placement, which several commands have, into the options of a run. */
#include "options.h"

static error_t numbers(int key, const char *arg, cl_run_options *run, cl_err *err)
{
    switch (key) {
    case OPT_THREADS: return cli_int(err, "--threads", arg, 1, 1024, &run->threads);
    case OPT_CONTEXT: return cli_int(err, "--context", arg, 2, 1 << 28, &run->context);
    case OPT_CHUNK: return cli_int(err, "--chunk", arg, 1, 1 << 14, &run->chunk);
    case OPT_SLOTS: return cli_int(err, "--slots", arg, 1, 1 << 16, &run->slots);
    case OPT_REPLICAS: return cli_int(err, "--replicas", arg, 1, 1 << 20, &run->replicas);
    case OPT_STALL: return cli_double(err, "--stall-timeout", arg, 0, 1e9, &run->stall_timeout_s);
    default: return ARGP_ERR_UNKNOWN;
    }
}

error_t cli_run_option(int key, const char *arg, cl_run_options *run, cl_layout *layout, cl_err *err)
{
    static const char *const
        activations[] = {"auto", "f32", "q8", "mixed", "q16", NULL},
        *const kvs[] = {"auto", "f32", "bf16", "q8", NULL}, *const modes[] = {"sliced", "whole", NULL},
        *const routers[] = {"auto", "copied", "split", NULL}, *const carriers[] = {"auto", "shared", "messages", NULL},
        *const waits[] = {"auto", "spin", "yield", NULL};
    int word = 0;
    error_t e = 0;
    switch (key) {
    case OPT_ACTIVATIONS:
        e = cli_word(err, "--activations", arg, activations, &word);
        run->activations = (cl_activations)word;
        return e;
    case OPT_KV:
        e = cli_word(err, "--kv", arg, kvs, &word);
        run->kv_auto = word == 0;
        if (word) run->kv = (cl_kv_format)(word - 1);
        return e;
    case OPT_LAYOUT: cl_layout_free(layout); return cli_layout(err, arg, layout, &run->layout_auto);
    case OPT_EXPERTS:
        e = cli_word(err, "--experts", arg, modes, &word);
        run->experts = (cl_expert_mode)word;
        return e;
    case OPT_ROUTERS:
        e = cli_word(err, "--routers", arg, routers, &word);
        run->routers = (cl_routers)word;
        return e;
    case OPT_GATHER:
        e = cli_word(err, "--gather", arg, carriers, &word);
        run->carrier = (cl_carrier)word;
        return e;
    case OPT_WAIT:
        e = cli_word(err, "--wait", arg, waits, &word);
        run->wait = (cl_wait)word;
        return e;
    case OPT_ROUTING: run->routing_path = arg; return 0;
    case OPT_CHIP: return cli_chip(arg, &run->chip_bytes, NULL, err) == CL_OK ? 0 : EINVAL;
    case OPT_KERNELS: run->kernels = arg; return 0;
    default: return numbers(key, arg, run, err);
    }
}

typedef struct crew_call {
    cl_run_options *run;
    cl_ranks *ranks;
    cl_code (*body)(void *o, cl_ranks *ranks);
    void *o;
    bool begun;
} crew_call;

static cl_code in_crew(void *ctx, cl_crew *crew, cl_err *err)
{
    crew_call *call = ctx;
    call->begun = true;
    call->run->crew = crew;
    cl_code c = cl_ranks_agree(call->ranks, CL_OK, err);
    return c == CL_OK ? call->body(call->o, call->ranks) : c;
}

cl_code cli_on_crew(cl_run_options *run, cl_ranks *ranks, cl_code (*body)(void *o, cl_ranks *ranks), void *o,
                    cl_err *err)
{
    crew_call call = {run, ranks, body, o, false};
    int threads = run->threads;
    cl_ranks_bcast(ranks, &threads, sizeof threads);
    cl_code c = cl_crew_run(threads ? threads : cl_ranks_seat(ranks).threads_fit, in_crew, &call, err);
    run->crew = NULL;
    return call.begun ? c : cl_ranks_agree(ranks, c, err);
}
