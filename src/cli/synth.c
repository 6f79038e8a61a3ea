/* synth.c: `chipline synth`: a model of random weights with the geometry of a config.json. */
#include "chipline/import.h"
#include "options.h"

static const struct argp_option options[] = {ROW_OUTPUT,
                                             ROW_FORMAT(": the config's own"),
                                             {"seed", 's', "N", 0,
                                              "of the random numbers (default: 1); same seed, same bytes", 0},
                                             ROW_JOBS("draw and encode"),
                                             ROW_QUIET('q', "no progress", 0),
                                             {0}};

typedef struct synth_cli {
    cl_err *err;
    const char *config, *out;
    int seed;
    cl_synth_options opt;
} synth_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    synth_cli *o = st->input;
    switch (key) {
    case 'o': return cli_path(o->err, "-o", arg, &o->out);
    case 'f': return cli_format(o->err, arg, &o->opt.keep, &o->opt.format);
    case 's': return cli_int(o->err, "--seed", arg, 0, INT32_MAX, &o->seed);
    case 'j': return cli_int(o->err, "--jobs", arg, 1, CLI_JOBS, &o->opt.jobs);
    case 'q': o->opt.quiet = true; break;
    case ARGP_KEY_ARG: return cli_argument(o->err, "CONFIG.json", arg, &o->config);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static cl_code check(void *own, const cli_call *call)
{
    const synth_cli *o = own;
    if (!o->config)
        return cl_fail(o->err, CL_E_USAGE, "CONFIG.json: missing (a file or a folder; %s --help)", call->argv[0]);
    return o->out ? CL_OK : cl_fail(o->err, CL_E_USAGE, "-o: missing (where shall the model file go?)");
}

static cl_code run(void *own, const cli_call *call)
{
    synth_cli *o = own;
    o->opt.seed = (uint64_t)o->seed;
    o->opt.creator = cli_creator();
    if (!o->opt.jobs) o->opt.jobs = cli_cores();
    cl_code c = cli_drop_when_stopped(o->out, o->err);
    return c == CL_OK ? cl_synth(o->config, o->out, &o->opt, o->err) : c;
}

const cli_command command_synth = {
    .name = "synth",
    .args = "CONFIG.json -o MODEL.h5",
    .what = "random weights of a real geometry, from its config.json",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "CONFIG.json",
             .doc = "A model of random weights with the geometry of CONFIG.json (a checkpoint's own config.json, or a "
                    "folder that "
                    "holds one), so "
                    "that real sizes can be run and measured without their weights."
                    "\vActivations keep about unit variance from layer to layer and routers spread their choices, so "
                    "that speed, "
                    "traffic and expert "
                    "loads are those of a model of this size; what it writes is noise. It has no tokenizer: give "
                    "prompts as ids "
                    "(run --tokens 5,17,9 --ignore-eos).\n\nExamples:\n"
                    "  chipline synth configs/models/gpt-oss-20b.json -o gpt-oss-20b.h5\n"
                    "  chipline synth configs/models/qwen3-30b-a3b.json -o qwen3.h5 --format q4_0 --seed 7\n"},
    .size = sizeof(synth_cli),
    .defaults = &(const synth_cli){.seed = 1, .opt = {.keep = true, .progress = true}},
    .check = check,
    .run = run,
};
