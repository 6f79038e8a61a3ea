/* jinja_filter.c: filters, but for those of texts. */
#include <math.h>

#include "jinja_inside.h"

static json_t *length(jinja_run *r, const json_t *v)
{
    size_t n, count = 0;
    const char *s = jinja_text(v, &n);
    if (s) count = jinja_count_chars(s, n);
    else if (v && json_is_array(v)) count = json_array_size(v);
    else if (v && json_is_object(v) && v != r->method) count = json_object_size(v);
    else if (v) return jinja_unknown(r, "the length of something without one");
    return json_integer((json_int_t)count);
}

/* --- of each item of a list --- */

/* An item's member by a path: "a", "a.b", 0. Owned. */
static json_t *member_by_path(jinja_run *r, json_t *v, const json_t *path)
{
    size_t n;
    const char *s = jinja_text(path, &n);
    if (!s) return json_incref(json_array_get(v, (size_t)json_integer_value(path)));
    json_incref(v);
    while (v && *s) {
        size_t k = strcspn(s, ".");
        json_t *next = jinja_member(r, v, s, k);
        json_decref(v);
        v = next;
        s += k + (s[k] == '.');
    }
    return v;
}

/* The arguments behind the first n, for a filter or test that is applied to each item. */
static jinja_args rest_of(const jinja_args *a, int n)
{
    jinja_args rest = {.names = a->names, .undefined = a->undefined};
    for (int i = n; i < a->n; i++) rest.v[rest.n++] = a->v[i];
    return rest;
}

/* Selections and map() take what is false for an empty list. */
static json_t *items_or_none(jinja_run *r, json_t *v) { return jinja_truth(v) ? jinja_items_of(r, v) : json_array(); }

/* select, reject (by_attribute: selectattr, rejectattr): the items, or their attribute, that pass a test or are true.
 * */
static json_t *select_items(jinja_run *r, json_t *v, const jinja_args *a, bool by_attribute, bool wanted)
{
    const json_t *path = by_attribute ? jinja_arg(a, 0, NULL) : NULL;
    size_t n;
    const char *test = jinja_text(jinja_arg(a, by_attribute, NULL), &n);
    jinja_args rest = rest_of(a, by_attribute + 1);
    if ((by_attribute && !path) || a->n < by_attribute || (a->n > by_attribute && !test))
        return jinja_unknown(r, "a selection by something that is no name");
    json_t *from = items_or_none(r, v), *list = json_array();
    for (size_t i = 0; i < json_array_size(from) && !jinja_failed(r); i++) {
        json_t *item = json_array_get(from, i),
               *value = by_attribute ? member_by_path(r, item, path) : json_incref(item);
        bool passes = test ? jinja_test(r, test, value, &rest) : jinja_truth(value);
        if (passes == wanted) json_array_append(list, item);
        json_decref(value);
        jinja_spend(r, 8);
    }
    json_decref(from);
    return list;
}

/* map(attribute="name", default=x), map("filter", arguments) */
static json_t *map(jinja_run *r, json_t *v, const jinja_args *a)
{
    const json_t *path = json_object_get(a->names, "attribute");
    json_t *other = jinja_arg(a, -1, "default");
    size_t n;
    const char *filter = jinja_text(jinja_arg(a, 0, NULL), &n);
    jinja_args rest = rest_of(a, 1);
    if (!path && !filter) return jinja_unknown(r, "map() without a filter or an attribute");
    json_t *from = items_or_none(r, v), *list = json_array();
    for (size_t i = 0; i < json_array_size(from) && !jinja_failed(r); i++) {
        json_t *item = json_array_get(from, i),
               *value = path ? member_by_path(r, item, path) : jinja_filter(r, filter, item, &rest);
        if (!value && path && !jinja_failed(r)) value = other ? json_incref(other) : NULL;
        if (!value) jinja_unknown(r, "map() to something undefined");
        else json_array_append_new(list, value);
        jinja_spend(r, 8);
    }
    json_decref(from);
    return list;
}

static json_t *join(jinja_run *r, json_t *v, const jinja_args *a)
{
    const json_t *path = jinja_arg(a, 1, "attribute");
    json_t *from = jinja_items_of(r, v);
    cl_buf b = {0};
    for (size_t i = 0; i < json_array_size(from) && !jinja_failed(r); i++) {
        json_t *item = json_array_get(from, i), *value = path ? member_by_path(r, item, path) : json_incref(item);
        if (i) jinja_print(r, jinja_arg(a, 0, "d"), &b);
        jinja_print(r, value, &b);
        json_decref(value);
    }
    json_t *result = jinja_string(r, b.data ? b.data : "", b.len);
    json_decref(from);
    cl_buf_free(&b);
    return result;
}

/* --- order --- */

/* What a value is sorted by: without regard to the case of ASCII's letters unless asked for. Owned. */
static json_t *sort_key(jinja_run *r, json_t *v, const json_t *path, bool exact)
{
    static const jinja_args none = {.n = 0};
    json_t *key = path ? member_by_path(r, v, path) : json_incref(v);
    if (exact || !key || !json_is_string(key)) return key;
    json_t *lower = jinja_text_filter(r, "lower", key, &none);
    json_decref(key);
    return lower;
}

/* A list's items in the order of `keys`; equal ones stay as they are. */
static json_t *sorted(jinja_run *r, json_t *list, json_t *keys, bool downwards)
{
    size_t n = json_array_size(list);
    json_t *out = json_array(), *out_keys = json_array();
    for (size_t i = 0; i < n && !jinja_failed(r); i++) {
        json_t *key = json_array_get(keys, i);
        size_t at = i;
        while (at > 0 && !jinja_failed(r)) {
            int order = jinja_order(r, key, json_array_get(out_keys, at - 1));
            if (downwards ? order <= 0 : order >= 0) break;
            at--;
            jinja_spend(r, 0);
        }
        json_array_insert(out, at, json_array_get(list, i));
        json_array_insert(out_keys, at, key);
        jinja_spend(r, 16 * (i - at));
    }
    json_decref(out_keys);
    return out;
}

static json_t *sort(jinja_run *r, json_t *v, const jinja_args *a, bool pairs)
{
    const json_t *path = pairs ? NULL : jinja_arg(a, 2, "attribute"), *by = pairs ? jinja_arg(a, 1, "by") : NULL;
    size_t n;
    const char *what = jinja_text(by, &n);
    json_t *at = json_integer(what && strcmp(what, "value") == 0);
    bool downwards = jinja_truth(jinja_arg(a, pairs ? 2 : 0, "reverse")),
         exact = jinja_truth(jinja_arg(a, pairs ? 0 : 1, "case_sensitive"));
    json_t *from = pairs ? jinja_method(r, v, "items", &(jinja_args){.n = 0}) : jinja_items_of(r, v),
           *keys = json_array();
    for (size_t i = 0; i < json_array_size(from) && !jinja_failed(r); i++) {
        json_t *key = sort_key(r, json_array_get(from, i), pairs ? at : path, exact);
        json_array_append_new(keys, key ? key : json_null());
    }
    json_t *list = jinja_failed(r) ? NULL : sorted(r, from, keys, downwards);
    json_decref(at);
    json_decref(from);
    json_decref(keys);
    return list;
}

static json_t *unique(jinja_run *r, json_t *v, const jinja_args *a)
{
    bool exact = jinja_truth(jinja_arg(a, 0, "case_sensitive"));
    json_t *from = jinja_items_of(r, v), *list = json_array(), *keys = json_array();
    for (size_t i = 0; i < json_array_size(from) && !jinja_failed(r); i++) {
        json_t *item = json_array_get(from, i), *key = sort_key(r, item, jinja_arg(a, 1, "attribute"), exact);
        if (!jinja_contains(r, keys, key)) {
            json_array_append(list, item);
            json_array_append(keys, key);
        }
        json_decref(key);
    }
    json_decref(from);
    json_decref(keys);
    return list;
}

static json_t *reversed(jinja_run *r, json_t *v)
{
    size_t n;
    json_t *from = jinja_items_of(r, v), *list = json_array();
    jinja_spend(r, 8 * json_array_size(from));
    for (size_t i = json_array_size(from); i > 0 && !jinja_failed(r); i--)
        json_array_append(list, json_array_get(from, i - 1));
    json_decref(from);
    if (!jinja_text(v, &n)) return list;
    json_t *text = join(r, list, &(jinja_args){.n = 0});
    json_decref(list);
    return text;
}

/* min (sign -1), max (1) */
static json_t *most(jinja_run *r, json_t *v, const jinja_args *a, int sign)
{
    const json_t *path = jinja_arg(a, 1, "attribute");
    bool exact = jinja_truth(jinja_arg(a, 0, "case_sensitive"));
    json_t *from = jinja_items_of(r, v), *best = json_array_get(from, 0), *best_key = NULL;
    if (best) best_key = sort_key(r, best, path, exact);
    for (size_t i = 1; i < json_array_size(from) && !jinja_failed(r); i++) {
        json_t *key = sort_key(r, json_array_get(from, i), path, exact);
        if (jinja_failed(r) || jinja_order(r, key, best_key) * sign <= 0) {
            json_decref(key);
            continue;
        }
        json_decref(best_key);
        best_key = key;
        best = json_array_get(from, i);
    }
    json_incref(best);
    json_decref(best_key);
    json_decref(from);
    return best;
}

/* --- one value --- */

static json_t *first_or_last(jinja_run *r, json_t *v, bool first)
{
    json_t *from = jinja_items_of(r, v);
    size_t n = json_array_size(from);
    json_t *item = n ? json_incref(json_array_get(from, first ? 0 : n - 1)) : NULL;
    json_decref(from);
    return item;
}

static json_t *with_default(json_t *v, const jinja_args *a)
{
    json_t *other = jinja_arg(a, 0, "default_value");
    if (v && (jinja_truth(v) || !jinja_truth(jinja_arg(a, 1, "boolean")))) return json_incref(v);
    return other || a->n ? json_incref(other) : json_string("");
}

/* The number, as a whole one if asked for: towards 0. */
static json_t *whole_or_real(jinja_run *r, double v, bool whole)
{
    if (!whole) return json_real(v);
    return v > -9e18 && v < 9e18 ? json_integer((json_int_t)v) : jinja_unknown(r, "a number out of range");
}

static json_t *number(jinja_run *r, const char *name, json_t *v)
{
    size_t n;
    int64_t whole;
    double real;
    const char *s = jinja_text(v, &n);
    const bool to_int = strcmp(name, "int") == 0, absolute = strcmp(name, "abs") == 0;
    const bool boolean = v && json_is_boolean(v);
    if (!v || (absolute && !json_is_number(v) && !boolean)) return jinja_unknown(r, "the filter %s of no number", name);
    if (s && to_int && cl_parse_int(s, INT64_MIN, INT64_MAX, &whole)) return json_integer(whole);
    if (s && cl_parse_double(s, -1e300, 1e300, &real)) return whole_or_real(r, real, to_int);
    if (json_is_integer(v) && (to_int || absolute)) {
        whole = json_integer_value(v);
        if (absolute && whole == INT64_MIN) return jinja_unknown(r, "a number out of range");
        return json_integer(absolute && whole < 0 ? -whole : whole);
    }
    real = boolean ? json_is_true(v) : json_number_value(v); /* of what is no number: 0 */
    return whole_or_real(r, absolute ? fabs(real) : real, to_int || (absolute && boolean));
}

json_t *jinja_filter(jinja_run *r, const char *name, json_t *v, const jinja_args *a)
{
    if (jinja_is_text_filter(name)) return jinja_text_filter(r, name, v, a);
    if (strcmp(name, "length") == 0 || strcmp(name, "count") == 0) return length(r, v);
    if (strcmp(name, "tojson") == 0) return jinja_to_json(r, v, a);
    if (strcmp(name, "list") == 0) return jinja_items_of(r, v);
    if (strcmp(name, "first") == 0) return first_or_last(r, v, true);
    if (strcmp(name, "last") == 0) return first_or_last(r, v, false);
    if (strcmp(name, "default") == 0 || strcmp(name, "d") == 0) return with_default(v, a);
    if (strcmp(name, "selectattr") == 0) return select_items(r, v, a, true, true);
    if (strcmp(name, "rejectattr") == 0) return select_items(r, v, a, true, false);
    if (strcmp(name, "select") == 0) return select_items(r, v, a, false, true);
    if (strcmp(name, "reject") == 0) return select_items(r, v, a, false, false);
    if (strcmp(name, "map") == 0) return map(r, v, a);
    if (strcmp(name, "join") == 0) return join(r, v, a);
    if (strcmp(name, "items") == 0) return v ? jinja_method(r, v, "items", &(jinja_args){.n = 0}) : json_array();
    if (strcmp(name, "dictsort") == 0) return sort(r, v, a, true);
    if (strcmp(name, "sort") == 0) return sort(r, v, a, false);
    if (strcmp(name, "unique") == 0) return unique(r, v, a);
    if (strcmp(name, "reverse") == 0) return reversed(r, v);
    if (strcmp(name, "min") == 0) return most(r, v, a, -1);
    if (strcmp(name, "max") == 0) return most(r, v, a, 1);
    if (strcmp(name, "int") == 0 || strcmp(name, "float") == 0 || strcmp(name, "abs") == 0) return number(r, name, v);
    return jinja_unknown(r, "the filter %s", name);
}
