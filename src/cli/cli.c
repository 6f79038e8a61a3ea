/* cli.c: command lines: options, their values, help, the one message. */
#include "cli.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "chipline/json.h"
#include "chipline_version.h"

enum { MAX_WORDS = 128 };

static const struct argp_option *find_long(const struct argp *a, const char *name, size_t n)
{
    for (const struct argp_option *o = a->options; o && (o->name || o->key || o->doc); o++)
        if (o->name && strlen(o->name) == n && strncmp(o->name, name, n) == 0) return o;
    return NULL;
}

static const struct argp_option *find_short(const struct argp *a, int key)
{
    for (const struct argp_option *o = a->options; o && (o->name || o->key || o->doc); o++)
        if (o->key == key && key > ' ' && key < 127) return o;
    return NULL;
}

static cl_code unknown(const struct argp *a, const char *word, size_t n, const char *tool, cl_err *err)
{
    const char *words[MAX_WORDS];
    char name[64];
    int count = 0;
    for (const struct argp_option *o = a->options; o && (o->name || o->key || o->doc) && count < MAX_WORDS; o++)
        if (o->name) words[count++] = o->name;
    snprintf(name, sizeof name, "%.*s", (int)(n < 63 ? n : 63), word);
    const char *near = n > 1 ? cl_nearest(name, words, count) : NULL;
    if (near)
        return cl_fail(err, CL_E_USAGE, "%s%s: unknown option (did you mean --%s?)", n > 1 ? "--" : "-", name, near);
    return cl_fail(err, CL_E_USAGE, "%s%s: unknown option (%s --help lists them)", n > 1 ? "--" : "-", name, tool);
}

/* argp would print and exit in its own way; looking first lets the messages and the exit code be ours. */
static cl_code look(const struct argp *a, int argc, char **argv, bool *help, cl_err *err)
{
    for (int i = 1; i < argc; i++) {
        const char *s = argv[i];
        if (strcmp(s, "--") == 0) return CL_OK;
        if (s[0] != '-' || !s[1]) continue;
        if (strcmp(s, "--help") == 0 || (strcmp(s, "-h") == 0 && !find_short(a, 'h'))) {
            *help = true;
            return CL_OK;
        }
        const struct argp_option *o;
        bool has_value;
        if (s[1] == '-') {
            size_t n = strcspn(s + 2, "=");
            if (!(o = find_long(a, s + 2, n))) return unknown(a, s + 2, n, argv[0], err);
            has_value = s[2 + n] == '=';
            if (has_value && !o->arg) return cl_fail(err, CL_E_USAGE, "--%s: takes no value", o->name);
        } else {
            if (!(o = find_short(a, s[1])))
                return unknown(a, s + 1, strlen(s + 1) > 1 ? strlen(s + 1) : 1, argv[0], err);
            has_value = s[2] != 0;
            if (has_value && !o->arg)
                return cl_fail(err, CL_E_USAGE, "%s: -%c takes no value (write options one by one)", s, s[1]);
        }
        if (!o->arg || has_value) continue;
        if (++i >= argc) return cl_fail(err, CL_E_USAGE, "%s: needs a value: %s", s, o->arg);
    }
    return CL_OK;
}

cl_code cl_cli_parse(const struct argp *argp, int argc, char **argv, void *input, bool *help, cl_err *err)
{
    *help = false;
    err->code = CL_OK;
    cl_code c = look(argp, argc, argv, help, err);
    if (c != CL_OK || *help) return c;
    if (argp_parse(argp, argc, argv, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, input) == 0) return CL_OK;
    if (err->code != CL_OK) return err->code;
    return cl_fail(err, CL_E_USAGE, "%s: wrong arguments (%s --help shows them)", argv[0], argv[0]);
}

void cl_cli_help(const struct argp *argp, const char *name)
{
    argp_help(argp, stdout, ARGP_HELP_STD_HELP & ~(ARGP_HELP_EXIT_OK | ARGP_HELP_EXIT_ERR), (char *)name);
}

error_t cl_cli_int(cl_err *err, const char *option, const char *arg, int min, int max, int *out)
{
    int64_t v;
    if (cl_parse_int(arg, min, max, &v)) {
        *out = (int)v;
        return 0;
    }
    if (cl_parse_int(arg, INT64_MIN, INT64_MAX, &v))
        cl_fail(err, CL_E_USAGE, "%s: %s is not from %d to %d", option, arg, min, max);
    else cl_fail(err, CL_E_USAGE, "%s: '%s' is not a whole number", option, arg);
    return EINVAL;
}

error_t cl_cli_double(cl_err *err, const char *option, const char *arg, double min, double max, double *out)
{
    double v;
    if (cl_parse_double(arg, min, max, out)) return 0;
    if (cl_parse_double(arg, -1e300, 1e300, &v))
        cl_fail(err, CL_E_USAGE, "%s: %s is not from %g to %g", option, arg, min, max);
    else cl_fail(err, CL_E_USAGE, "%s: '%s' is not a number", option, arg);
    return EINVAL;
}

error_t cl_cli_bytes(cl_err *err, const char *option, const char *arg, uint64_t *out)
{
    if (cl_parse_bytes(arg, out)) return 0;
    cl_fail(err, CL_E_USAGE, "%s: '%s' is not a size in bytes (examples: 230MB, 1.5GiB)", option, arg);
    return EINVAL;
}

error_t cl_cli_word(cl_err *err, const char *option, const char *arg, const char *const *words, int *out)
{
    char list[512] = "";
    int n = 0;
    for (; words[n]; n++) {
        if (strcmp(arg, words[n]) == 0) {
            *out = n;
            return 0;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", n ? ", " : "", words[n]);
    }
    const char *near = cl_nearest(arg, words, n);
    cl_fail(err, CL_E_USAGE, "%s: '%s' is none of %s%s%s%s", option, arg, list, near ? " (did you mean " : "",
            near ? near : "", near ? "?)" : "");
    return EINVAL;
}

error_t cl_cli_layout(cl_err *err, const char *arg, cl_layout *out, bool *is_auto)
{
    int s, g, end = 0;
    json_t *j = NULL;
    *out = (cl_layout){0};
    *is_auto = strcmp(arg, "auto") == 0;
    if (*is_auto) return 0;
    if (sscanf(arg, "%7dx%7d%n", &s, &g, &end) == 2 && !arg[end]) {
        if (cl_layout_make(s, g, out, err) == CL_OK) return 0;
        cl_fail_prefix(err, "--layout");
        return EINVAL;
    }
    if (access(arg, R_OK) != 0) {
        cl_fail(err, CL_E_USAGE,
                "--layout: '%s' is neither SxG (stages x chips, for example 4x2) nor auto nor a readable file: %s", arg,
                strerror(errno));
        return EINVAL;
    }
    cl_code c = cl_json_load(arg, &j, err);
    if (c == CL_OK && (c = cl_layout_from_json(j, out, err)) != CL_OK) cl_fail_prefix(err, "%s", arg);
    if (c != CL_OK) cl_fail_prefix(err, "--layout");
    json_decref(j);
    return c == CL_OK ? 0 : EINVAL;
}

error_t cl_cli_path(cl_err *err, const char *what, const char *arg, const char **out)
{
    *out = arg;
    if (*arg) return 0;
    cl_fail(err, CL_E_USAGE, "%s: is empty (give the name of a file)", what);
    return EINVAL;
}

error_t cl_cli_extra(cl_err *err, const char *arg)
{
    cl_fail(err, CL_E_USAGE, "%s: one argument too many (quote texts that have spaces)", arg);
    return EINVAL;
}

int cl_cli_fail(const cl_err *err)
{
    /* Under mpirun or srun every rank that never started MPI fails alike: one of them says so. */
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank) rank = getenv("PMIX_RANK");
    fflush(stdout);
    if (!rank || strcmp(rank, "0") == 0) fprintf(stderr, "chipline: %s\n", err->msg);
    return (int)err->code;
}

const char *cl_cli_creator(void) { return "chipline " CL_VERSION " (" CL_REVISION ")"; }
const char *cl_cli_revision(void) { return CL_REVISION; }
const char *cl_cli_build_flags(void) { return CL_BUILD_FLAGS; }

static cl_code read_chip(const json_t *j, int64_t *bytes, cl_rates *r, cl_err *err)
{
    if (!json_is_object(j)) return cl_fail(err, CL_E_INPUT, "is not a JSON object");
    cl_code c = cl_json_int(j, "memory_bytes", true, 1, INT64_MAX, bytes, err);
    if (c == CL_OK) c = cl_json_double(j, "read_bytes_per_s", false, 1, 1e18, &r->read_bytes_per_s, err);
    if (c == CL_OK) c = cl_json_double(j, "hop_s", false, 0, 1e6, &r->hop_s, err);
    if (c == CL_OK) c = cl_json_double(j, "link_bytes_per_s", false, 1, 1e18, &r->hop_bytes_per_s, err);
    r->gather_s = r->hop_s;
    r->gather_bytes_per_s = r->hop_bytes_per_s;
    return c;
}

cl_code cl_cli_chip(const char *arg, uint64_t *bytes, cl_rates *rates, cl_err *err)
{
    json_t *j = NULL;
    int64_t n = 0;
    cl_rates r = {0};
    if (rates) *rates = r;
    if (cl_parse_bytes(arg, bytes)) {
        if (*bytes) return CL_OK;
        return cl_fail(err, CL_E_USAGE, "--chip: a chip of 0 bytes holds nothing");
    }
    if (access(arg, R_OK) != 0)
        return cl_fail(err, CL_E_USAGE, "--chip: '%s' is neither a size (230MB, 1.5GiB) nor a readable file: %s", arg,
                       strerror(errno));
    cl_code c = cl_json_load(arg, &j, err);
    if (c != CL_OK) return cl_fail_prefix(err, "--chip");
    c = read_chip(j, &n, &r, err);
    if (c != CL_OK) cl_fail_prefix(err, "--chip: %s", arg);
    json_decref(j);
    *bytes = (uint64_t)n;
    if (c == CL_OK && rates) *rates = r;
    return c;
}

error_t cl_cli_format(cl_err *err, const char *arg, bool *keep, cl_format *format)
{
    const char *words[CL_NATIVE_FORMATS + 2] = {"keep"};
    int i;
    for (i = 0; i < CL_NATIVE_FORMATS; i++) words[i + 1] = cl_format_get((cl_format)i)->name;
    *keep = strcasecmp(arg, "keep") == 0;
    if (*keep || (cl_format_parse(arg, format) && cl_format_native(*format))) return 0;
    return cl_cli_word(err, "--format", arg, words, &i);
}

int cl_cli_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > CL_CLI_JOBS ? CL_CLI_JOBS : n;
}
