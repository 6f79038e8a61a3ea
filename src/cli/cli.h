/* cli.h: what the subcommands share. One file per subcommand; each is `int cl_cmd_NAME(int argc, char **argv)`, where
 * argv[0] is the name to show in help ("chipline convert"), and returns an exit code of status.h.
 *
 * Options are argp tables. Parsers get a pointer to their own struct as input, put errors into its cl_err and return
 * EINVAL:
 *
 *     typedef struct options { cl_err *err; const char *src; ... } options;
 *     static error_t parse(int key, char *arg, struct argp_state *st) { options *o = st->input; switch (key) { ...
 *         case 'j': return cl_cli_int(o->err, "--jobs", arg, 1, 1024, &o->jobs); ...
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

/* Parses argv. Unknown options (no abbreviations) and missing values are CL_E_USAGE and suggest the nearest. `--help`
 * and `-h` (unless the table has an -h) set *help and parse nothing: the caller prints cl_cli_help and returns 0. */
cl_code cl_cli_parse(const struct argp *argp, int argc, char **argv, void *input, bool *help, cl_err *err);
void cl_cli_help(const struct argp *argp, const char *name);

/* Option values: fill *out, or fill err (CL_E_USAGE) and return EINVAL. */
error_t cl_cli_int(cl_err *err, const char *option, const char *arg, int min, int max, int *out);
error_t cl_cli_double(cl_err *err, const char *option, const char *arg, double min, double max, double *out);
error_t cl_cli_bytes(cl_err *err, const char *option, const char *arg, uint64_t *out);
/* arg must be one of words (NULL-terminated): *out its index. */
error_t cl_cli_word(cl_err *err, const char *option, const char *arg, const char *const *words, int *out);
/* "auto": *is_auto, *out is empty; "2x4"; or the name of a layout file (plan.h). The caller frees *out. A bad file is
 * CL_E_INPUT. */
error_t cl_cli_layout(cl_err *err, const char *arg, cl_layout *out, bool *is_auto);
/* The name of a file or folder: not empty. */
error_t cl_cli_path(cl_err *err, const char *what, const char *arg, const char **out);
/* A further argument that nobody takes. */
error_t cl_cli_extra(cl_err *err, const char *arg);

/* Prints "chipline: MESSAGE" on stderr and returns the code. */
int cl_cli_fail(const cl_err *err);
/* "chipline 0.1.0 (revision)": for what files say of their maker. */
const char *cl_cli_creator(void);
const char *cl_cli_revision(void);
const char *cl_cli_build_flags(void);

/* --chip FILE|BYTES: memory of one chip in bytes; FILE is a configs/chips/NAME.json (its memory_bytes). rates may be
 * NULL; else it gets read_bytes_per_s, hop_s and link_bytes_per_s (these two for hops and gathers alike), 0 where
 * nothing says them. */
cl_code cl_cli_chip(const char *arg, uint64_t *bytes, cl_rates *rates, cl_err *err);

/* --format: "keep", or a native format by name. */
error_t cl_cli_format(cl_err *err, const char *arg, bool *keep, cl_format *format);
/* Cores that this process may use, at most CL_CLI_JOBS: the default of --jobs. */
enum { CL_CLI_JOBS = 256 };
int cl_cli_cores(void);

/* From now on SIGINT, SIGTERM and SIGHUP remove the file that is being written for path (util.h: cl_tmp_name), say so
 * and end the program with CL_E_RUN. Signals that are ignored stay so. Once in a process. */
cl_code cl_cli_drop_when_stopped(const char *path, cl_err *err);
/* From now on a first SIGINT or SIGTERM is only noted, and cl_cli_stop_came tells of it; a second one ends the
 * program. */
void cl_cli_hold_stop(void);
bool cl_cli_stop_came(void);

int cl_cmd_bench(int argc, char **argv);
int cl_cmd_collect(int argc, char **argv);
int cl_cmd_convert(int argc, char **argv);
int cl_cmd_synth(int argc, char **argv);
int cl_cmd_inspect(int argc, char **argv);
int cl_cmd_plan(int argc, char **argv);
int cl_cmd_run(int argc, char **argv);
int cl_cmd_tokenize(int argc, char **argv);
int cl_cmd_verify(int argc, char **argv);

#endif
