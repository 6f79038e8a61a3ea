/* values.c: what stands behind options: numbers, words, names of files, layouts, chips, number formats. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "chipline/json.h"
#include "cli.h"

error_t cli_int(cl_err *err, const char *option, const char *arg, int min, int max, int *out)
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

error_t cli_double(cl_err *err, const char *option, const char *arg, double min, double max, double *out)
{
    double v;
    if (cl_parse_double(arg, min, max, out)) return 0;
    if (cl_parse_double(arg, -1e300, 1e300, &v))
        cl_fail(err, CL_E_USAGE, "%s: %s is not from %g to %g", option, arg, min, max);
    else cl_fail(err, CL_E_USAGE, "%s: '%s' is not a number", option, arg);
    return EINVAL;
}

error_t cli_word(cl_err *err, const char *option, const char *arg, const char *const *words, int *out)
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

error_t cli_layout(cl_err *err, const char *arg, cl_layout *out, bool *is_auto)
{
    json_t *j = NULL;
    *out = (cl_layout){0};
    *is_auto = strcmp(arg, "auto") == 0;
    if (*is_auto) return 0;
    if (cl_layout_is_name(arg)) {
        if (cl_layout_from_name(arg, out, err) == CL_OK) return 0;
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

error_t cli_path(cl_err *err, const char *what, const char *arg, const char **out)
{
    *out = arg;
    if (*arg) return 0;
    cl_fail(err, CL_E_USAGE, "%s: is empty (give the name of a file)", what);
    return EINVAL;
}

error_t cli_argument(cl_err *err, const char *what, const char *arg, const char **out)
{
    if (!*out) return cli_path(err, what, arg, out);
    cl_fail(err, CL_E_USAGE, "%s: one argument too many (quote texts that have spaces)", arg);
    return EINVAL;
}

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

cl_code cli_chip(const char *arg, uint64_t *bytes, cl_rates *rates, cl_err *err)
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

error_t cli_format(cl_err *err, const char *arg, bool *keep, cl_format *format)
{
    const char *words[CL_NATIVE_FORMATS + 2] = {"keep"};
    int i;
    for (i = 0; i < CL_NATIVE_FORMATS; i++) words[i + 1] = cl_format_get((cl_format)i)->name;
    *keep = strcasecmp(arg, "keep") == 0;
    if (*keep || (cl_format_parse(arg, format) && cl_format_native(*format))) return 0;
    return cli_word(err, "--format", arg, words, &i);
}

int cli_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > CLI_JOBS ? CLI_JOBS : n;
}
