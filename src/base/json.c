/* json.c: typed access to JSON objects; every error names the key. */
#include "chipline/json.h"

#include <math.h>
#include <string.h>

#include "chipline/util.h"
#include "json_number.h"

enum { MAX_JSON = 1 << 30 };

static cl_code parse(const char *text, size_t n, size_t flags, const char *what, json_t **out, cl_err *err)
{
    json_error_t e;
    *out = json_loadb(text, n, flags, &e);
    if (*out) return CL_OK;
    if (e.position > 0 && cl_json_bad_number(text, n, (size_t)e.position, flags & JSON_DECODE_INT_AS_REAL, err))
        return cl_fail_prefix(err, "%s", what);
    return cl_fail(err, CL_E_INPUT, "%s: not valid JSON: %s at line %d, column %d", what, e.text, e.line, e.column);
}

cl_code cl_json_parse(const char *text, size_t n, const char *what, json_t **out, cl_err *err)
{
    return parse(text, n, JSON_REJECT_DUPLICATES, what, out, err);
}

cl_code cl_json_parse_reals(const char *text, size_t n, const char *what, json_t **out, cl_err *err)
{
    return parse(text, n, JSON_DECODE_INT_AS_REAL, what, out, err);
}

cl_code cl_json_load(const char *path, json_t **out, cl_err *err)
{
    cl_buf b = {0};
    cl_code c = cl_read_file(path, MAX_JSON, &b, err);
    if (c == CL_OK) c = cl_json_parse(b.data, b.len, path, out, err);
    cl_buf_free(&b);
    return c;
}

static const char *type_name(const json_t *v)
{
    static const char *const names[] = {"an object", "a list", "a text", "an integer",
                                        "a number",  "true",   "false",  "null"};
    return names[json_typeof(v)];
}

/* The member, or NULL: then *c says whether that is an error. */
static const json_t *member(const json_t *obj, const char *key, bool required, cl_code *c, cl_err *err)
{
    const json_t *v = json_object_get(obj, key);
    *c = CL_OK;
    if (v && !json_is_null(v)) return v;
    if (required) *c = cl_fail(err, CL_E_INPUT, "%s: missing", key);
    return NULL;
}

cl_code cl_json_int(const json_t *obj, const char *key, bool required, int64_t min, int64_t max, int64_t *out,
                    cl_err *err)
{
    cl_code c;
    const json_t *v = member(obj, key, required, &c, err);
    if (!v) return c;
    int64_t n;
    if (json_is_integer(v)) n = json_integer_value(v);
    else if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) && fabs(json_real_value(v)) < 0x1p53)
        n = (int64_t)json_real_value(v);
    else return cl_fail(err, CL_E_INPUT, "%s: is %s, must be an integer", key, type_name(v));
    if (n < min || n > max)
        return cl_fail(err, CL_E_INPUT, "%s: is %lld, must be from %lld to %lld", key, (long long)n, (long long)min,
                       (long long)max);
    *out = n;
    return CL_OK;
}

cl_code cl_json_double(const json_t *obj, const char *key, bool required, double min, double max, double *out,
                       cl_err *err)
{
    cl_code c;
    const json_t *v = member(obj, key, required, &c, err);
    if (!v) return c;
    if (!json_is_number(v)) return cl_fail(err, CL_E_INPUT, "%s: is %s, must be a number", key, type_name(v));
    double x = json_number_value(v);
    if (!(x >= min && x <= max)) return cl_fail(err, CL_E_INPUT, "%s: is %g, must be from %g to %g", key, x, min, max);
    *out = x;
    return CL_OK;
}

cl_code cl_json_bool(const json_t *obj, const char *key, bool required, bool *out, cl_err *err)
{
    cl_code c;
    const json_t *v = member(obj, key, required, &c, err);
    if (!v) return c;
    if (!json_is_boolean(v)) return cl_fail(err, CL_E_INPUT, "%s: is %s, must be true or false", key, type_name(v));
    *out = json_is_true(v);
    return CL_OK;
}

cl_code cl_json_str(const json_t *obj, const char *key, bool required, const char **out, cl_err *err)
{
    cl_code c;
    const json_t *v = member(obj, key, required, &c, err);
    if (!v) return c;
    if (!json_is_string(v)) return cl_fail(err, CL_E_INPUT, "%s: is %s, must be a text", key, type_name(v));
    if (strlen(json_string_value(v)) != json_string_length(v))
        return cl_fail(err, CL_E_INPUT, "%s: holds a zero byte", key);
    *out = json_string_value(v);
    return CL_OK;
}

cl_code cl_json_array(const json_t *obj, const char *key, bool required, const json_t **out, cl_err *err)
{
    cl_code c;
    const json_t *v = member(obj, key, required, &c, err);
    if (v && !json_is_array(v)) return cl_fail(err, CL_E_INPUT, "%s: is %s, must be a list", key, type_name(v));
    if (c == CL_OK) *out = v;
    return c;
}

cl_code cl_json_object(const json_t *obj, const char *key, bool required, const json_t **out, cl_err *err)
{
    cl_code c;
    const json_t *v = member(obj, key, required, &c, err);
    if (v && !json_is_object(v)) return cl_fail(err, CL_E_INPUT, "%s: is %s, must be an object", key, type_name(v));
    if (c == CL_OK) *out = v;
    return c;
}
