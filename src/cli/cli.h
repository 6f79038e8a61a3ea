/* cli.h: what the subcommands share. One file per subcommand, which gives a cli_command: its argp table, its options'
 * struct, and what it does with them. cli_main is the way of every one of them, from its words to its exit code.
 *
 * A parser gets a pointer to the command's own struct as input, puts errors into its err and returns EINVAL:
 *
 *     typedef struct options { cl_err *err; const char *src; ... } options;
 *     static error_t parse(int key, char *arg, struct argp_state *st) { options *o = st->input; switch (key) { ...
 *         case 'j': return cli_int(o->err, "--jobs", arg, 1, 1024, &o->jobs); ...
 *         case ARGP_KEY_ARG: ...; default: return ARGP_ERR_UNKNOWN; } }
 */
#ifndef CHIPLINE_CLI_H
#define CHIPLINE_CLI_H

#include <argp.h>
#include <stdbool.h>

#include "chipline/format.h"
#include "chipline/plan.h"
#include "chipline/status.h"
#include "chipline/util.h"

struct cl_ranks;

/* The words of a call; argv[0] is the name to show in help ("chipline convert"). */
typedef struct cli_call {
    int argc;
    char **argv;
    struct cl_ranks *ranks; /* NULL: a command of one process */
} cli_call;

typedef struct cli_command {
    const char *name, *args, *what; /* its line in `chipline --help` */
    struct argp argp;               /* its options and its own help; the parser sees options and arguments only */
    size_t size;                    /* of its options' struct, whose first member is a `cl_err *` */
    const void *defaults;           /* such a struct as it is before the first option; NULL: zeros */
    bool on_ranks;                  /* MPI is started before its words are read; both steps below are collective then */
    cl_code (*check)(void *own, const cli_call *call); /* what options can't mean together; local; may be NULL */
    cl_code (*run)(void *own, const cli_call *call);
    void (*end)(void *own); /* frees what options point to, whatever came before; may be NULL */
} cli_command;

/* Reads the words, checks, runs; an error's message goes to stderr once, from rank 0. Unknown options (no
 * abbreviations) and missing values are CL_E_USAGE and suggest the nearest. A value that may lack (OPTION_ARG_OPTIONAL)
 * is the next word unless that begins with a dash. `--help` and `-h` (unless the table has an -h) print the help. */
int cli_main(const cli_command *k, int argc, char **argv);

/* Seconds that a rank is waited for, until --stall-timeout says otherwise. */
enum { CLI_STALL_S = 120 };

extern const cli_command command_bench, command_collect, command_convert, command_inspect, command_plan, command_run,
    command_synth, command_tokenize, command_verify;

/* Prints "chipline: MESSAGE" on stderr and returns the code. */
int cli_fail(const cl_err *err);
/* "chipline 0.1.0 (revision)": for what files say of their maker. */
const char *cli_creator(void);
const char *cli_revision(void);
const char *cli_build_flags(void);

/* --- values of options (values.c): fill *out, or fill err (CL_E_USAGE) and return EINVAL --- */

error_t cli_int(cl_err *err, const char *option, const char *arg, int min, int max, int *out);
error_t cli_double(cl_err *err, const char *option, const char *arg, double min, double max, double *out);
/* arg must be one of words (NULL-terminated): *out its index. */
error_t cli_word(cl_err *err, const char *option, const char *arg, const char *const *words, int *out);
/* "auto": *is_auto, *out is empty; "2x4"; or the name of a layout file (plan.h). The caller frees *out. A bad file is
 * CL_E_INPUT. */
error_t cli_layout(cl_err *err, const char *arg, cl_layout *out, bool *is_auto);
/* The name of a file or folder: not empty. */
error_t cli_path(cl_err *err, const char *what, const char *arg, const char **out);
/* The one argument of a command, for the first time; a further one is an error. */
error_t cli_argument(cl_err *err, const char *what, const char *arg, const char **out);
/* --format: "keep", or a native format by name. */
error_t cli_format(cl_err *err, const char *arg, bool *keep, cl_format *format);

/* --chip FILE|BYTES: memory of one chip in bytes; FILE is a configs/chips/NAME.json (its memory_bytes). rates may be
 * NULL; else it gets read_bytes_per_s, hop_s and link_bytes_per_s (these two for hops and gathers alike), 0 where
 * nothing says them. */
cl_code cli_chip(const char *arg, uint64_t *bytes, cl_rates *rates, cl_err *err);

/* Cores that this process may use, at most CLI_JOBS: the default of --jobs. */
enum { CLI_JOBS = 256 };
int cli_cores(void);

/* --- signals (stopped.c) --- */

/* From now on SIGINT, SIGTERM and SIGHUP remove the file that is being written for path (util.h: cl_tmp_name), say so
 * and end the program with CL_E_RUN. Signals that are ignored stay so. Once in a process. */
cl_code cli_drop_when_stopped(const char *path, cl_err *err);
/* From now on a first SIGINT or SIGTERM is only noted, and cli_stop_came tells of it; a second one ends the
 * program. */
void cli_hold_stop(void);
bool cli_stop_came(void);

#endif
