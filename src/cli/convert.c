/* convert.c: `chipline convert`: a checkpoint becomes a model file. */
#include "chipline/import.h"
#include "cli.h"

static const struct argp_option options[] =
    {{"output", 'o', "MODEL.h5", 0, "the model file to write (required)", 0},
     {"format", 'f', "F", 0,
      "number format of matrices: keep (default), f32, f16, bf16, q8_0, q4_0, q4_1, mxfp4, int4 or fp8", 0},
     {"jobs", 'j', "N", 0, "threads that encode (default: the cores it may use)", 0},
     {"quiet", 'q', NULL, 0, "no progress, no notes", 0},
     {0}};

typedef struct convert_cli {
    cl_err *err;
    const char *src, *out;
    cl_convert_options opt;
} convert_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    convert_cli *o = st->input;
    switch (key) {
    case 'o': return cl_cli_path(o->err, "-o", arg, &o->out);
    case 'f': return cl_cli_format(o->err, arg, &o->opt.keep, &o->opt.format);
    case 'j': return cl_cli_int(o->err, "--jobs", arg, 1, CL_CLI_JOBS, &o->opt.jobs);
    case 'q': o->opt.quiet = true; break;
    case ARGP_KEY_ARG:
        if (o->src) return cl_cli_extra(o->err, arg);
        return cl_cli_path(o->err, "SRC", arg, &o->src);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp argp = {
    options,
    parse,
    "SRC",
    "A checkpoint becomes a model file. SRC is a GGUF file (the first of several works) or a Hugging Face folder with "
    "config.json, safetensors and a tokenizer."
    "\vNumber formats are kept as they are; those that are only read (Q5_0, Q5_1, Q4_K, Q5_K, Q6_K) become q8_0. Norms "
    "and biases are float32 in every model file, routers are never quantised.\n\nExamples:\n"
    "  chipline convert SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2.h5\n"
    "  chipline convert Qwen3-0.6B/ -o qwen3.h5 --format q8_0\n",
    NULL,
    NULL,
    NULL};

int cl_cmd_convert(int argc, char **argv)
{
    cl_err err;
    convert_cli o = {.err = &err,
                     .opt = {.keep = true, .progress = true, .jobs = cl_cli_cores(), .creator = cl_cli_creator()}};
    bool help;
    cl_code c = cl_cli_parse(&argp, argc, argv, &o, &help, &err);
    if (help) {
        cl_cli_help(&argp, argv[0]);
        return CL_OK;
    }
    if (c == CL_OK && !o.src)
        c = cl_fail(&err, CL_E_USAGE, "SRC: missing (a GGUF file or a folder; %s --help)", argv[0]);
    if (c == CL_OK && !o.out) c = cl_fail(&err, CL_E_USAGE, "-o: missing (where shall the model file go?)");
    if (c == CL_OK) c = cl_cli_drop_when_stopped(o.out, &err);
    if (c == CL_OK) c = cl_convert(o.src, o.out, &o.opt, &err);
    return c == CL_OK ? CL_OK : cl_cli_fail(&err);
}
