/* verify.c: `chipline verify`: every checksum of a model file. */
#include "chipline/model_file.h"
#include "chipline/tokenizer.h"
#include "cli.h"

enum { QUIET = 'q' };

static const struct argp_option options[] = {{"quiet", QUIET, NULL, 0, "no progress and no words, only the exit code",
                                              0},
                                             {0}};

typedef struct verify_cli {
    cl_err *err;
    const char *model;
    bool quiet;
} verify_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    verify_cli *o = st->input;
    switch (key) {
    case QUIET: o->quiet = true; break;
    case ARGP_KEY_ARG:
        if (o->model) return cl_cli_extra(o->err, arg);
        return cl_cli_path(o->err, "MODEL", arg, &o->model);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp argp =
    {options,
     parse,
     "MODEL.h5",
     "Reads the whole model file and compares every checksum. Exit code 3 and the name of the damaged part if one "
     "does not match.",
     NULL,
     NULL,
     NULL};

int cl_cmd_verify(int argc, char **argv)
{
    cl_err err;
    verify_cli o = {.err = &err};
    bool help;
    cl_code c = cl_cli_parse(&argp, argc, argv, &o, &help, &err);
    if (c == CL_OK && help) {
        cl_cli_help(&argp, argv[0]);
        return CL_OK;
    }
    if (c == CL_OK && !o.model) c = cl_fail(&err, CL_E_USAGE, "verify: needs a model file (chipline verify MODEL.h5)");
    cl_model_file *f = NULL;
    if (c == CL_OK) c = cl_model_file_open(&f, o.model, &err);
    cl_tokenizer_data *tok = NULL;
    if (c == CL_OK) c = cl_tokenizer_data_read(cl_model_file_store(f), &tok, &err);
    cl_tokenizer_data_free(tok);
    if (c == CL_OK) c = cl_model_file_verify(f, !o.quiet, &err);
    if (c == CL_OK && !o.quiet)
        printf("%s: all checksums match (%d tensors, model checksum %016llx)\n", o.model,
               cl_model_file_model(f)->n_tensors, (unsigned long long)cl_model_file_checksum(f));
    cl_model_file_close(f);
    return c == CL_OK ? CL_OK : cl_cli_fail(&err);
}
