/* convert.c: `chipline convert`: a checkpoint becomes a model file. */
#include "chipline/import.h"
#include "options.h"

static const struct argp_option options[] = {ROW_OUTPUT,
                                             ROW_FORMAT(""),
                                             ROW_JOBS("encode"),
                                             ROW_QUIET('q', "no progress, no notes", 0),
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
    case 'o': return cli_path(o->err, "-o", arg, &o->out);
    case 'f': return cli_format(o->err, arg, &o->opt.keep, &o->opt.format);
    case 'j': return cli_int(o->err, "--jobs", arg, 1, CLI_JOBS, &o->opt.jobs);
    case 'q': o->opt.quiet = true; break;
    case ARGP_KEY_ARG: return cli_argument(o->err, "SRC", arg, &o->src);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static cl_code check(void *own, const cli_call *call)
{
    const convert_cli *o = own;
    if (!o->src) return cl_fail(o->err, CL_E_USAGE, "SRC: missing (a GGUF file or a folder; %s --help)", call->argv[0]);
    return o->out ? CL_OK : cl_fail(o->err, CL_E_USAGE, "-o: missing (where shall the model file go?)");
}

static cl_code run(void *own, const cli_call *call)
{
    convert_cli *o = own;
    o->opt.creator = cli_creator();
    if (!o->opt.jobs) o->opt.jobs = cli_cores();
    cl_code c = cli_drop_when_stopped(o->out, o->err);
    return c == CL_OK ? cl_convert(o->src, o->out, &o->opt, o->err) : c;
}

const cli_command command_convert = {
    .name = "convert",
    .args = "SRC -o MODEL.h5",
    .what = "a GGUF file or a Hugging Face folder to a model file",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "SRC",
             .doc = "A checkpoint becomes a model file. SRC is a GGUF file (the first of several works) or a Hugging "
                    "Face folder with "
                    "config.json, safetensors and a tokenizer."
                    "\vNumber formats are kept as they are; those that are only read (Q5_0, Q5_1, Q4_K, Q5_K, Q6_K) "
                    "become q8_0. Norms "
                    "and biases are float32 in every model file, routers are never quantised.\n\nExamples:\n"
                    "  chipline convert SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2.h5\n"
                    "  chipline convert Qwen3-0.6B/ -o qwen3.h5 --format q8_0\n"},
    .size = sizeof(convert_cli),
    .defaults = &(const convert_cli){.opt = {.keep = true, .progress = true}},
    .check = check,
    .run = run,
};
