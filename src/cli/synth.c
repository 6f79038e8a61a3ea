/* synth.c: `chipline synth`: a model of random weights with the geometry of a config.json. */
#include "chipline/import.h"
#include "cli.h"

static const struct argp_option options[] = {{"output", 'o', "MODEL.h5", 0, "the model file to write (required)", 0},
                                             {"format", 'f', "F", 0,
                                              "number format of matrices: keep (default: the config's own), f32, f16, "
                                              "bf16, q8_0, q4_0, q4_1, mxfp4, int4 or fp8",
                                              0},
                                             {"seed", 's', "N", 0,
                                              "of the random numbers (default: 1); same seed, same bytes", 0},
                                             {"jobs", 'j', "N", 0,
                                              "threads that draw and encode (default: the cores it may use)", 0},
                                             {"quiet", 'q', NULL, 0, "no progress", 0},
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
    case 'o': return cl_cli_path(o->err, "-o", arg, &o->out);
    case 'f': return cl_cli_format(o->err, arg, &o->opt.keep, &o->opt.format);
    case 's': return cl_cli_int(o->err, "--seed", arg, 0, INT32_MAX, &o->seed);
    case 'j': return cl_cli_int(o->err, "--jobs", arg, 1, CL_CLI_JOBS, &o->opt.jobs);
    case 'q': o->opt.quiet = true; break;
    case ARGP_KEY_ARG:
        if (o->config) return cl_cli_extra(o->err, arg);
        return cl_cli_path(o->err, "CONFIG.json", arg, &o->config);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp argp =
    {options,
     parse,
     "CONFIG.json",
     "A model of random weights with the geometry of CONFIG.json (a checkpoint's own config.json, or a folder that "
     "holds one), so "
     "that real sizes can be run and measured without their weights."
     "\vActivations keep about unit variance from layer to layer and routers spread their choices, so that speed, "
     "traffic and expert "
     "loads are those of a model of this size; what it writes is noise. It has no tokenizer: give prompts as ids "
     "(run --tokens 5,17,9 --ignore-eos).\n\nExamples:\n"
     "  chipline synth configs/models/gpt-oss-20b.json -o gpt-oss-20b.h5\n"
     "  chipline synth configs/models/qwen3-30b-a3b.json -o qwen3.h5 --format q4_0 --seed 7\n",
     NULL,
     NULL,
     NULL};

int cl_cmd_synth(int argc, char **argv)
{
    cl_err err;
    synth_cli o = {.err = &err,
                   .seed = 1,
                   .opt = {.keep = true, .progress = true, .jobs = cl_cli_cores(), .creator = cl_cli_creator()}};
    bool help;
    cl_code c = cl_cli_parse(&argp, argc, argv, &o, &help, &err);
    if (help) {
        cl_cli_help(&argp, argv[0]);
        return CL_OK;
    }
    if (c == CL_OK && !o.config)
        c = cl_fail(&err, CL_E_USAGE, "CONFIG.json: missing (a file or a folder; %s --help)", argv[0]);
    if (c == CL_OK && !o.out) c = cl_fail(&err, CL_E_USAGE, "-o: missing (where shall the model file go?)");
    o.opt.seed = (uint64_t)o.seed;
    if (c == CL_OK) c = cl_cli_drop_when_stopped(o.out, &err);
    if (c == CL_OK) c = cl_synth(o.config, o.out, &o.opt, &err);
    return c == CL_OK ? CL_OK : cl_cli_fail(&err);
}
