/* verify.c: `chipline verify`: every checksum of a model file. */
#include "chipline/model_file.h"
#include "chipline/tokenizer.h"
#include "options.h"

static const struct argp_option options[] = {ROW_QUIET('q', "no progress and no words, only the exit code", 0), {0}};

typedef struct verify_cli {
    cl_err *err;
    const char *model;
    bool quiet;
} verify_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    verify_cli *o = st->input;
    switch (key) {
    case 'q': o->quiet = true; break;
    case ARGP_KEY_ARG: return cli_argument(o->err, "MODEL", arg, &o->model);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static cl_code check(void *own, const cli_call *call)
{
    const verify_cli *o = own;
    return o->model ? CL_OK : cl_fail(o->err, CL_E_USAGE, "verify: needs a model file (chipline verify MODEL.h5)");
}

static cl_code run(void *own, const cli_call *call)
{
    const verify_cli *o = own;
    cl_model_file *f;
    cl_code c = cl_model_file_open(&f, o->model, o->err);
    if (c != CL_OK) return c;
    cl_tokenizer_data *tok = NULL;
    c = cl_tokenizer_data_read(cl_model_file_store(f), &tok, o->err);
    cl_tokenizer_data_free(tok);
    if (c == CL_OK) c = cl_model_file_verify(f, !o->quiet, o->err);
    if (c == CL_OK && !o->quiet)
        printf("%s: all checksums match (%d tensors, model checksum %016llx)\n", o->model,
               cl_model_file_model(f)->n_tensors, (unsigned long long)cl_model_file_checksum(f));
    cl_model_file_close(f);
    return c;
}

const cli_command command_verify = {
    .name = "verify",
    .args = "MODEL.h5",
    .what = "check every checksum of a model file",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "MODEL.h5",
             .doc = "Reads the whole model file and compares every checksum. Exit code 3 and the name of the damaged "
                    "part if one "
                    "does not match."},
    .size = sizeof(verify_cli),
    .check = check,
    .run = run,
};
