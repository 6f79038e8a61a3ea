/* chat_jinja_value.c: a value in an expression: a literal, a variable or a call, and what follows it (members,
 * slices, filters, tests). */
#include <stdlib.h>

#include "chat_jinja.h"

/* --- primaries --- */

static json_t *string_value(cl_jinja *j)
{
    cl_buf b = {0};
    cl_code c = cl_buf_str(&b, "", NULL);
    while (c == CL_OK && cl_jinja_is(j, J_STRING, NULL)) { /* neighbours are joined */
        const cl_jinja_token *t = &j->token[j->at++];
        for (size_t i = 0; c == CL_OK && i < t->n; i++) {
            char k = t->s[i];
            if (k == '\\' && i + 1 < t->n) {
                k = t->s[++i];
                if (k == 'n') k = '\n';
                else if (k == 't') k = '\t';
                else if (k == 'r') k = '\r';
                else if (k != '\\' && k != '\'' && k != '"')
                    cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a string has the escape \\%c", k);
            }
            c = cl_buf_add(&b, &k, 1, NULL);
        }
    }
    json_t *v = c == CL_OK && !j->skip ? json_stringn_nocheck(b.data, b.len) : NULL;
    cl_buf_free(&b);
    return v;
}

json_t *cl_jinja_lookup(const cl_jinja *j, const char *name, size_t n)
{
    json_t *v = NULL;
    for (int i = j->n_scopes - 1; !v && i >= j->base; i--) v = json_object_getn(j->scope[i], name, n);
    return v ? v : json_object_getn(j->scope[0], name, n);
}

/* "(" is taken: arguments up to ")". */
static void arguments(cl_jinja *j, cl_jinja_args *a)
{
    *a = (cl_jinja_args){.names = json_object()};
    while (!cl_jinja_failed(j) && !cl_jinja_take_op(j, ")")) {
        cl_jinja_token key = {J_END, "", 0};
        if (cl_jinja_is(j, J_NAME, NULL) && j->token[j->at + 1].kind == J_OP && j->token[j->at + 1].n == 1 &&
            *j->token[j->at + 1].s == '=') {
            key = j->token[j->at];
            j->at += 2;
        }
        json_t *v = cl_jinja_expr(j);
        if (!j->skip && key.n) {
            a->named = true;
            json_object_setn_new_nocheck(a->names, key.s, key.n, v ? v : json_null());
        } else if (!j->skip && a->n < 4) {
            a->v[a->n++] = v;
        } else {
            json_decref(v);
            if (!j->skip) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a call with more than 4 arguments");
        }
        if (!cl_jinja_take_op(j, ",") && !cl_jinja_is(j, J_OP, ")")) cl_jinja_expect(j, J_OP, ")");
    }
}

static void free_arguments(cl_jinja_args *a)
{
    for (int i = 0; i < a->n; i++) json_decref(a->v[i]);
    json_decref(a->names);
}

/* A name of at most 31 letters, for messages and comparisons. */
static const char *short_name(const cl_jinja_token *t, char buf[32])
{
    snprintf(buf, 32, "%.*s", (int)(t->n < 31 ? t->n : 31), t->s);
    return buf;
}

static json_t *list_value(cl_jinja *j, const char *end)
{
    json_t *list = json_array();
    while (!cl_jinja_failed(j) && !cl_jinja_take_op(j, end)) {
        json_t *v = cl_jinja_expr(j);
        json_array_append_new(list, v ? v : json_null());
        if (!cl_jinja_take_op(j, ",") && !cl_jinja_is(j, J_OP, end)) cl_jinja_expect(j, J_OP, end);
    }
    return list;
}

static json_t *mapping_value(cl_jinja *j)
{
    json_t *map = json_object();
    while (!cl_jinja_failed(j) && !cl_jinja_take_op(j, "}")) {
        json_t *k = cl_jinja_expr(j);
        cl_jinja_expect(j, J_OP, ":");
        json_t *v = cl_jinja_expr(j);
        if (k && json_is_string(k)) json_object_set_new_nocheck(map, json_string_value(k), v ? v : json_null());
        else json_decref(v);
        json_decref(k);
        if (!cl_jinja_take_op(j, ",") && !cl_jinja_is(j, J_OP, "}")) cl_jinja_expect(j, J_OP, "}");
    }
    return map;
}

static json_t *primary(cl_jinja *j)
{
    const cl_jinja_token *t = &j->token[j->at];
    char name[32];
    if (t->kind == J_STRING) return string_value(j);
    if (cl_jinja_take_op(j, "(")) {
        json_t *v = cl_jinja_expr(j);
        if (cl_jinja_is(j, J_OP, ",") && !j->skip) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a tuple");
        while (cl_jinja_take_op(j, ",")) json_decref(cl_jinja_expr(j));
        cl_jinja_expect(j, J_OP, ")");
        return v;
    }
    if (cl_jinja_take_op(j, "[")) return list_value(j, "]");
    if (cl_jinja_take_op(j, "{")) return mapping_value(j);
    if (cl_jinja_take(j, J_NUMBER, NULL)) {
        if (memchr(t->s, '.', t->n)) return j->skip ? NULL : cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a fraction");
        return json_integer(strtoll(t->s, NULL, 10));
    }
    if (!cl_jinja_take(j, J_NAME, NULL))
        return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "'%.*s' in an expression", (int)t->n, t->s);
    short_name(t, name);
    if (strcmp(name, "true") == 0 || strcmp(name, "True") == 0) return json_true();
    if (strcmp(name, "false") == 0 || strcmp(name, "False") == 0) return json_false();
    if (strcmp(name, "none") == 0 || strcmp(name, "None") == 0) return json_null();
    if (cl_jinja_take_op(j, "(")) {
        cl_jinja_args a;
        arguments(j, &a);
        json_t *v = NULL;
        if (!j->skip && !cl_jinja_failed(j) && !cl_jinja_call_macro(j, t, &a, &v)) v = cl_jinja_function(j, name, &a);
        free_arguments(&a);
        return v;
    }
    return j->skip ? NULL : json_incref(cl_jinja_lookup(j, t->s, t->n));
}

/* --- what follows a primary --- */

static json_t *member(cl_jinja *j, const json_t *v, const json_t *key)
{
    if (!v) return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a member of something undefined");
    if (json_is_object(v) && key && json_is_string(key))
        return json_incref(json_object_getn(v, json_string_value(key), json_string_length(key)));
    if (json_is_array(v) && key && json_is_integer(key)) {
        json_int_t i = json_integer_value(key), n = (json_int_t)json_array_size(v);
        if (i < 0) i += n;
        return i >= 0 && i < n ? json_incref(json_array_get(v, (size_t)i)) : NULL;
    }
    return json_is_string(v) ? cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a character of a text") : NULL;
}

/* v[from:to:step] of a list, as Python slices. */
static json_t *slice(cl_jinja *j, const json_t *v, json_t *const part[3])
{
    if (!v || !json_is_array(v)) return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a slice of something that is no list");
    json_int_t n = (json_int_t)json_array_size(v),
               step = part[2] && json_is_integer(part[2]) ? json_integer_value(part[2]) : 1;
    json_int_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n,
               at[2] = {step < 0 ? high : low, step < 0 ? low : high};
    if (step == 0) return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a slice with step 0");
    for (int k = 0; k < 2; k++) {
        if (!part[k] || !json_is_integer(part[k])) continue;
        at[k] = json_integer_value(part[k]);
        if (at[k] < 0) at[k] += n;
        at[k] = at[k] < low ? low : at[k] > high ? high : at[k];
    }
    step = step > n ? n + 1 : step < -n ? -n - 1 : step;
    cl_jinja_spend(j, 16 * (size_t)n);
    json_t *list = json_array();
    for (json_int_t i = at[0]; step > 0 ? i < at[1] : i > at[1]; i += step)
        json_array_append(list, json_array_get(v, (size_t)i));
    return list;
}

/* "[" is taken. */
static json_t *subscript(cl_jinja *j, const json_t *v)
{
    json_t *part[3] = {NULL, NULL, NULL}, *result = NULL;
    int n = 0;
    bool sliced = false;
    while (!cl_jinja_failed(j) && !cl_jinja_take_op(j, "]")) {
        if (cl_jinja_take_op(j, ":")) {
            sliced = true;
            if (++n > 2) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a slice with more than 3 parts");
        } else if (part[n]) cl_jinja_expect(j, J_OP, "]");
        else part[n] = cl_jinja_expr(j);
    }
    if (!j->skip && !cl_jinja_failed(j)) result = sliced ? slice(j, v, part) : member(j, v, part[0]);
    for (int i = 0; i < 3; i++) json_decref(part[i]);
    return result;
}

/* "." is taken. */
static json_t *attribute(cl_jinja *j, const json_t *v)
{
    const cl_jinja_token *t = &j->token[j->at];
    char name[32];
    json_t *result = NULL;
    cl_jinja_expect(j, J_NAME, NULL);
    short_name(t, name);
    if (cl_jinja_take_op(j, "(")) {
        cl_jinja_args a;
        arguments(j, &a);
        if (!j->skip && !cl_jinja_failed(j)) result = cl_jinja_method(j, v, name, &a);
        free_arguments(&a);
    } else if (!j->skip && !cl_jinja_failed(j)) {
        json_t *key = json_stringn_nocheck(t->s, t->n);
        result = json_is_string(v) ? NULL : member(j, v, key);
        json_decref(key);
    }
    return result;
}

static json_t *filtered(cl_jinja *j, json_t *v, bool test)
{
    bool not = test && cl_jinja_take_name(j, "not");
    const cl_jinja_token *t = &j->token[j->at];
    char name[32];
    cl_jinja_args a = {0};
    cl_jinja_expect(j, J_NAME, NULL);
    short_name(t, name);
    if (cl_jinja_take_op(j, "(")) arguments(j, &a);
    json_t *result = NULL;
    if (!j->skip && !cl_jinja_failed(j)) {
        if (test) result = json_boolean(cl_jinja_test(j, name, v, &a) != not );
        else result = cl_jinja_filter(j, name, v, &a);
    }
    free_arguments(&a);
    json_decref(v);
    return result;
}

json_t *cl_jinja_unary(cl_jinja *j, bool with_filters)
{
    json_t *v = NULL;
    if (cl_jinja_enter(j)) {
        if (cl_jinja_take_op(j, "-")) {
            json_t *n = cl_jinja_unary(j, false);
            if (!j->skip && !cl_jinja_failed(j))
                v = n && json_is_integer(n) ? json_integer(-json_integer_value(n))
                                            : cl_jinja_fail(j, CL_JINJA_UNKNOWN, "minus something");
            json_decref(n);
        } else v = primary(j);
    }
    for (bool more = true; more && !cl_jinja_failed(j);) {
        json_t *base = v;
        if (cl_jinja_take_op(j, ".")) v = attribute(j, base);
        else if (cl_jinja_take_op(j, "[")) v = subscript(j, base);
        else more = false;
        if (more) json_decref(base);
    }
    while (with_filters && !cl_jinja_failed(j)) {
        if (cl_jinja_take_op(j, "|")) v = filtered(j, v, false);
        else if (cl_jinja_take_name(j, "is")) v = filtered(j, v, true);
        else break;
    }
    j->depth--;
    return v;
}
