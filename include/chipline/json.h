/* json.h: typed access to JSON objects, on top of jansson; every error names the key, what was found and what is
 * allowed.
 *
 * Boundary: callers own the json_t they load (json_decref); getters borrow. A getter with `required` false leaves
 * *out alone when the key is missing or null. All errors are CL_E_INPUT. */
#ifndef CHIPLINE_JSON_H
#define CHIPLINE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "chipline/status.h"

/* Parses text[0..n) (UTF-8, duplicates rejected); `what` names it in the message. Numbers that JSON does not have
 * (NaN, beyond 64 bits) are named with their key. */
cl_code cl_json_parse(const char *text, size_t n, const char *what, json_t **out, cl_err *err);
/* The same for files with integers beyond 64 bits: all become fractions. Duplicates are not looked for. */
cl_code cl_json_parse_reals(const char *text, size_t n, const char *what, json_t **out, cl_err *err);
cl_code cl_json_load(const char *path, json_t **out, cl_err *err);

cl_code cl_json_int(const json_t *obj, const char *key, bool required, int64_t min, int64_t max, int64_t *out,
                    cl_err *err);
cl_code cl_json_double(const json_t *obj, const char *key, bool required, double min, double max, double *out,
                       cl_err *err);
cl_code cl_json_bool(const json_t *obj, const char *key, bool required, bool *out, cl_err *err);
/* *out borrows from obj. */
cl_code cl_json_str(const json_t *obj, const char *key, bool required, const char **out, cl_err *err);
/* The member as an array or object; *out NULL when missing or null and not required. Borrowed. */
cl_code cl_json_array(const json_t *obj, const char *key, bool required, const json_t **out, cl_err *err);
cl_code cl_json_object(const json_t *obj, const char *key, bool required, const json_t **out, cl_err *err);

#endif
