/* chat_jinja_call.c: the filters, tests, methods and functions that chat templates use on plain messages. */
#include <stdlib.h>

#include "chat_internal.h"
#include "chat_jinja.h"

static const char *text_of(const json_t *v, size_t *n)
{
    *n = v && json_is_string(v) ? json_string_length(v) : 0;
    return v && json_is_string(v) ? json_string_value(v) : NULL;
}

/* str.strip(chars): white space without an argument. */
static json_t *strip(const json_t *v, const json_t *chars, bool left, bool right)
{
    size_t n, n_chars;
    const char *s = text_of(v, &n), *set = text_of(chars, &n_chars);
    if (!set) cl_chat_strip(&s, &n, left, right);
    else {
        while (left && n && memchr(set, *s, n_chars)) s++, n--;
        while (right && n && memchr(set, s[n - 1], n_chars)) n--;
    }
    return json_stringn_nocheck(s, n);
}

/* str.split(by, most): at most `most` cuts; all without an argument. */
static json_t *split(cl_jinja *j, const json_t *v, const json_t *by, const json_t *most)
{
    size_t n, n_by;
    const char *s = text_of(v, &n), *sep = text_of(by, &n_by), *hit;
    if (!sep || !n_by || (most && !json_is_integer(most)))
        return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "split() without a separator");
    json_int_t left = most ? json_integer_value(most) : -1;
    json_t *list = json_array();
    while (left-- != 0 && (hit = memmem(s, n, sep, n_by))) {
        json_array_append_new(list, json_stringn_nocheck(s, (size_t)(hit - s)));
        n -= (size_t)(hit - s) + n_by;
        s = hit + n_by;
    }
    json_array_append_new(list, json_stringn_nocheck(s, n));
    return list;
}

static json_t *length(cl_jinja *j, const json_t *v)
{
    size_t n, count = 0;
    const char *s = text_of(v, &n);
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    if (v && json_is_array(v)) count = json_array_size(v);
    else if (v && json_is_object(v)) count = json_object_size(v);
    else if (!s) return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "the length of something without one");
    return json_integer((json_int_t)count);
}

/* selectattr("role", "equalto", "user") */
static json_t *select_by(cl_jinja *j, const json_t *v, const cl_jinja_args *a, bool wanted)
{
    size_t n;
    const char *key = text_of(a->v[0], &n), *test = text_of(a->v[1], &n);
    if (!v || !json_is_array(v) || a->n != 3 || !key || !test ||
        (strcmp(test, "equalto") != 0 && strcmp(test, "eq") != 0 && strcmp(test, "==") != 0))
        return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a selection by something else than equality");
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(v); i++) {
        json_t *m = json_object_get(json_array_get(v, i), key);
        if ((m && a->v[2] && json_equal(m, a->v[2])) == wanted) json_array_append(list, json_array_get(v, i));
    }
    return list;
}

json_t *cl_jinja_filter(cl_jinja *j, const char *name, const json_t *v, const cl_jinja_args *a)
{
    json_t *same = json_incref((json_t *)(uintptr_t)v), *result = NULL;
    bool is_string = v && json_is_string(v), is_list = v && json_is_array(v);
    if (strcmp(name, "trim") == 0 && is_string) result = strip(v, a->v[0], true, true);
    else if (strcmp(name, "length") == 0 || strcmp(name, "count") == 0) result = length(j, v);
    else if ((strcmp(name, "string") == 0 && is_string) || (strcmp(name, "list") == 0 && is_list))
        result = json_incref(same);
    else if (strcmp(name, "first") == 0 && is_list) result = json_incref(json_array_get(v, 0));
    else if (strcmp(name, "last") == 0 && is_list && json_array_size(v))
        result = json_incref(json_array_get(v, json_array_size(v) - 1));
    else if ((strcmp(name, "default") == 0 || strcmp(name, "d") == 0) && a->n == 1)
        result = json_incref(v ? same : a->v[0]);
    else if (strcmp(name, "selectattr") == 0) result = select_by(j, v, a, true);
    else if (strcmp(name, "rejectattr") == 0) result = select_by(j, v, a, false);
    else cl_jinja_fail(j, CL_JINJA_UNKNOWN, "the filter %s", name);
    json_decref(same);
    return result;
}

bool cl_jinja_test(cl_jinja *j, const char *name, const json_t *v, const cl_jinja_args *a)
{
    if (strcmp(name, "defined") == 0) return v != NULL;
    if (strcmp(name, "undefined") == 0) return v == NULL;
    if (strcmp(name, "none") == 0) return v && json_is_null(v);
    if (strcmp(name, "string") == 0) return v && json_is_string(v);
    if (strcmp(name, "mapping") == 0) return v && json_is_object(v);
    if (strcmp(name, "sequence") == 0 || strcmp(name, "iterable") == 0)
        return v && (json_is_string(v) || json_is_array(v) || json_is_object(v));
    if (strcmp(name, "boolean") == 0) return v && json_is_boolean(v);
    if (strcmp(name, "true") == 0) return v && json_is_true(v);
    if (strcmp(name, "false") == 0) return v && json_is_false(v);
    if (strcmp(name, "number") == 0 || strcmp(name, "integer") == 0) return v && json_is_number(v);
    if ((strcmp(name, "equalto") == 0 || strcmp(name, "eq") == 0) && a->n == 1)
        return v && a->v[0] && json_equal(v, a->v[0]);
    cl_jinja_fail(j, CL_JINJA_UNKNOWN, "the test %s", name);
    return false;
}

static json_t *items(const json_t *v)
{
    json_t *list = json_array(), *value;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)v, key, value) json_array_append_new(list, json_pack("[sO]", key, value));
    return list;
}

json_t *cl_jinja_method(cl_jinja *j, const json_t *v, const char *name, const cl_jinja_args *a)
{
    size_t n, n_arg;
    const char *s = text_of(v, &n), *arg = text_of(a->v[0], &n_arg);
    if (a->named) return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "the method %s with keywords", name);
    if (s && strcmp(name, "strip") == 0) return strip(v, a->v[0], true, true);
    if (s && strcmp(name, "lstrip") == 0) return strip(v, a->v[0], true, false);
    if (s && strcmp(name, "rstrip") == 0) return strip(v, a->v[0], false, true);
    if (s && strcmp(name, "split") == 0 && (a->n == 1 || a->n == 2)) return split(j, v, a->v[0], a->v[1]);
    if (s && arg && strcmp(name, "startswith") == 0) return json_boolean(n >= n_arg && memcmp(s, arg, n_arg) == 0);
    if (s && arg && strcmp(name, "endswith") == 0)
        return json_boolean(n >= n_arg && memcmp(s + n - n_arg, arg, n_arg) == 0);
    if (v && json_is_object(v) && strcmp(name, "items") == 0) return items(v);
    if (v && json_is_object(v) && arg && strcmp(name, "get") == 0) {
        json_t *m = json_object_get(v, arg);
        return m ? json_incref(m) : a->n > 1 ? json_incref(a->v[1]) : json_null();
    }
    return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "the method %s", name);
}

json_t *cl_jinja_function(cl_jinja *j, const char *name, const cl_jinja_args *a)
{
    size_t n;
    if (strcmp(name, "raise_exception") == 0) {
        const char *s = text_of(a->v[0], &n);
        return cl_jinja_fail(j, CL_JINJA_RAISED, "%.100s", s ? s : "");
    }
    if (strcmp(name, "strftime_now") == 0 &&
        a->n == 1) { /* not "defined": templates that can do without a clock have none */
        const char *s = text_of(a->v[0], &n);
        return s && strcmp(s, "%Y-%m-%d") == 0
                   ? json_string(CL_CHAT_PROBE_DATE)
                   : cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a date written otherwise than YYYY-MM-DD");
    }
    if (strcmp(name, "namespace") == 0 && a->n == 0) return json_copy(a->names);
    if (strcmp(name, "range") == 0 && a->n >= 1 && a->n <= 3) {
        json_int_t v[3] = {0, 0, 1};
        for (int i = 0; i < a->n; i++) v[a->n == 1 ? 1 : i] = json_integer_value(a->v[i]);
        json_t *list = json_array();
        bool over = v[2] == 0;
        for (json_int_t i = v[0]; !over && (v[2] > 0 ? i < v[1] : i > v[1]) && !cl_jinja_failed(j);
             over = __builtin_add_overflow(i, v[2], &i)) {
            json_array_append_new(list, json_integer(i));
            cl_jinja_spend(j, 0);
        }
        return list;
    }
    return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "the function %s", name);
}
