/* jinja_call.c: tests, functions, and the methods of mappings. */
#include <time.h>

#include "jinja_inside.h"

/* --- tests --- */

static bool is_list(const json_t *v) { return v && json_is_array(v); }

/* x is NAME without an argument; false in *known where there is no such test. */
static bool plain_test(const jinja_run *r, const char *name, const json_t *v, bool *known)
{
    bool mapping = v && json_is_object(v) && v != r->method, text = v && json_is_string(v);
    json_int_t whole = v && json_is_integer(v) ? json_integer_value(v) : v && json_is_true(v);
    *known = true;
    if (strcmp(name, "defined") == 0) return v != NULL;
    if (strcmp(name, "undefined") == 0) return v == NULL;
    if (strcmp(name, "none") == 0) return v && json_is_null(v);
    if (strcmp(name, "string") == 0) return text;
    if (strcmp(name, "mapping") == 0) return mapping;
    if (strcmp(name, "sequence") == 0) return text || mapping || is_list(v);
    if (strcmp(name, "iterable") == 0) return !v || text || mapping || is_list(v);
    if (strcmp(name, "boolean") == 0) return v && json_is_boolean(v);
    if (strcmp(name, "true") == 0) return v && json_is_true(v);
    if (strcmp(name, "false") == 0) return v && json_is_false(v);
    if (strcmp(name, "number") == 0) return v && (json_is_number(v) || json_is_boolean(v));
    if (strcmp(name, "integer") == 0) return v && json_is_integer(v);
    if (strcmp(name, "float") == 0) return v && json_is_real(v);
    if (strcmp(name, "callable") == 0) return v == r->method;
    *known = (strcmp(name, "odd") == 0 || strcmp(name, "even") == 0) && v && (json_is_integer(v) || json_is_boolean(v));
    return *known && (whole % 2 != 0) == (*name == 'o');
}

bool jinja_test(jinja_run *r, const char *name, json_t *v, const jinja_args *a)
{
    static const struct {
        const char *names[4];
        bool less, equal, more;
    } orders[] = {{{"lt", "<", "lessthan"}, true, false, false},
                  {{"le", "<="}, true, true, false},
                  {{"gt", ">", "greaterthan"}, false, false, true},
                  {{"ge", ">="}, false, true, true}};
    bool known, yes = plain_test(r, name, v, &known);
    const json_t *other = jinja_arg(a, 0, NULL);
    if (known) return yes;
    if (a->n == 1) {
        if (strcmp(name, "equalto") == 0 || strcmp(name, "eq") == 0 || strcmp(name, "==") == 0)
            return jinja_equal(r, v, other);
        if (strcmp(name, "ne") == 0 || strcmp(name, "!=") == 0) return !jinja_equal(r, v, other);
        if (strcmp(name, "in") == 0) return jinja_contains(r, other, v);
        if (strcmp(name, "divisibleby") == 0 && json_is_integer(v) && json_integer_value(other) > 0)
            return json_integer_value(v) % json_integer_value(other) == 0;
        for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
            for (int k = 0; k < 4 && orders[i].names[k]; k++)
                if (strcmp(name, orders[i].names[k]) == 0) {
                    int order = jinja_order(r, v, other);
                    return order < 0 ? orders[i].less : order > 0 ? orders[i].more : orders[i].equal;
                }
    }
    jinja_unknown(r, "the test %s", name);
    return false;
}

/* --- methods --- */

static const char *const dict_methods[] = {"items",      "keys",   "values", "get",   "pop",      "popitem",
                                           "setdefault", "update", "copy",   "clear", "fromkeys", NULL};

bool jinja_is_dict_method(const char *name, size_t n)
{
    for (const char *const *m = dict_methods; *m; m++)
        if (strlen(*m) == n && memcmp(*m, name, n) == 0) return true;
    return false;
}

static json_t *dict_method(jinja_run *r, json_t *v, const char *name, const jinja_args *a)
{
    size_t n;
    char buf[JINJA_KEY];
    const char *key = jinja_key(jinja_arg(a, 0, "key"), buf, &n);
    json_t *value, *other = jinja_arg(a, 1, "default");
    if (key && strcmp(name, "get") == 0) {
        value = json_object_getn(v, key, n);
        return value ? json_incref(value) : other ? json_incref(other) : json_null();
    }
    bool keys = strcmp(name, "keys") == 0, values = strcmp(name, "values") == 0;
    if (strcmp(name, "copy") == 0) return json_copy(v);
    if (!keys && !values && strcmp(name, "items") != 0) return jinja_unknown(r, "the method %s of a mapping", name);
    json_t *list = json_array();
    jinja_spend(r, 4 * JINJA_STEP_BYTES * json_object_size(v));
    json_object_keylen_foreach(v, key, n, value)
    {
        if (keys) json_array_append_new(list, jinja_key_value(key, n));
        else if (values) json_array_append(list, value);
        else json_array_append_new(list, json_pack("[oO]", jinja_key_value(key, n), value));
    }
    return list;
}

json_t *jinja_method(jinja_run *r, json_t *v, const char *name, const jinja_args *a)
{
    if (!v) return jinja_unknown(r, "the method %s of something undefined", name);
    if (json_is_string(v)) return jinja_text_method(r, v, name, a);
    if (!json_is_object(v) || v == r->method) return jinja_unknown(r, "the method %s", name);
    json_t *index = json_object_get(v, "index0");
    if (strcmp(name, "cycle") == 0 && json_integer_value(index) >= 0 && index && a->n) /* of a loop */
        return json_incref(a->v[json_integer_value(index) % a->n]);
    return dict_method(r, v, name, a);
}

/* --- functions --- */

static json_t *range(jinja_run *r, const jinja_args *a)
{
    json_int_t v[3] = {0, 0, 1};
    for (int i = 0; i < a->n; i++) {
        if (!json_is_integer(a->v[i])) return jinja_unknown(r, "range() of something that is no number");
        v[a->n == 1 ? 1 : i] = json_integer_value(a->v[i]);
    }
    if (!v[2]) return jinja_unknown(r, "range() with a step of 0");
    double n = ((double)v[1] - (double)v[0]) / (double)v[2];
    if (n > JINJA_RANGE) return jinja_unknown(r, "range() of more than %d numbers", JINJA_RANGE);
    json_t *list = json_array();
    for (json_int_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1];) {
        json_array_append_new(list, json_integer(i));
        if (__builtin_add_overflow(i, v[2], &i)) break;
    }
    jinja_spend(r, JINJA_STEP_BYTES * json_array_size(list));
    return list;
}

/* The day of the rendering, written as strftime() does; nothing where it has none. */
static json_t *day(jinja_run *r, const json_t *shape)
{
    size_t n;
    const char *s = jinja_text(shape, &n);
    struct tm tm = {0};
    char text[256];
    if (!s) return jinja_unknown(r, "strftime_now() of something that is no text");
    if (!*r->date || !n) return json_string("");
    if (sscanf(r->date, "%d-%d-%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday) != 3)
        return jinja_unknown(r, "strftime_now() of the day %s", r->date);
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    timegm(&tm); /* the day of the week and of the year too */
    size_t len = strftime(text, sizeof text, s, &tm);
    return len ? jinja_string(r, text, len) : jinja_unknown(r, "strftime_now('%.60s')", s);
}

static json_t *namespace(jinja_run *r, const jinja_args *a)
{
    json_t *first = jinja_arg(a, 0, NULL), *space = json_object();
    if (first && json_is_object(first)) json_object_update(space, first);
    if (a->names) json_object_update(space, a->names);
    const char *key;
    json_t *v;
    void *next;
    json_object_foreach_safe(space, next, key, v) if (v == a->undefined) json_object_del(space, key);
    json_object_set_nocheck(space, "", r->spaces);
    json_array_append(r->spaces, space);
    jinja_spend(r, JINJA_STEP_BYTES * (1 + json_object_size(space)));
    return space;
}

bool jinja_is_function(const char *name)
{
    static const char *const names[] = {"range", "namespace", "dict", "raise_exception", NULL};
    for (const char *const *f = names; *f; f++)
        if (strcmp(*f, name) == 0) return true;
    return false;
}

json_t *jinja_function(jinja_run *r, const char *name, const jinja_args *a)
{
    if (strcmp(name, "raise_exception") == 0) {
        json_t *text = a->n == 1 || a->names ? jinja_str(r, jinja_arg(a, 0, "message")) : NULL;
        if (text) jinja_fail(r, JINJA_RAISED, "%.300s", json_string_value(text));
        else jinja_unknown(r, "raise_exception() without a text");
        json_decref(text);
        return NULL;
    }
    if (strcmp(name, "strftime_now") == 0 && a->n == 1) return day(r, a->v[0]);
    if (strcmp(name, "namespace") == 0 && a->n <= 1) return namespace(r, a);
    if (strcmp(name, "dict") == 0 && a->n == 0) return a->names ? json_copy(a->names) : json_object();
    if (strcmp(name, "range") == 0 && a->n >= 1 && a->n <= 3) return range(r, a);
    return jinja_unknown(r, "the function %s", name);
}
