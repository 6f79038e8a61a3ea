/* chat_jinja_expr.c: expressions, evaluated while they are parsed. */
#include <stdarg.h>
#include <stdlib.h>

#include "chat_jinja.h"

json_t *jinja_fail(jinja *j, jinja_result r, const char *fmt, ...)
{
    if (j->result == JINJA_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(j->why, JINJA_WHY, fmt, ap);
        va_end(ap);
        j->result = r;
    }
    return NULL;
}

void jinja_spend(jinja *j, size_t bytes)
{
    size_t steps = 1 + bytes / JINJA_STEP_BYTES;
    if (steps > (size_t)(JINJA_STEPS - j->steps)) jinja_fail(j, JINJA_UNKNOWN, "runs too long");
    else j->steps += (int)steps;
}

bool jinja_is(const jinja *j, jinja_kind kind, const char *s)
{
    const jinja_token *t = &j->token[j->at];
    return t->kind == kind && (!s || (t->n == strlen(s) && memcmp(t->s, s, t->n) == 0));
}

bool jinja_take(jinja *j, jinja_kind kind, const char *s)
{
    bool yes = !jinja_failed(j) && jinja_is(j, kind, s);
    j->at += yes;
    return yes;
}

void jinja_expect(jinja *j, jinja_kind kind, const char *s)
{
    if (!jinja_take(j, kind, s)) jinja_fail(j, JINJA_UNKNOWN, "'%.*s' where %s is expected", (int)j->token[j->at].n, j->token[j->at].s, s ? s : "something else");
}

static bool take_op(jinja *j, const char *s) { return jinja_take(j, J_OP, s); }
static bool take_name(jinja *j, const char *s) { return jinja_take(j, J_NAME, s); }

bool jinja_truth(const json_t *v)
{
    if (!v) return false;
    switch (json_typeof(v)) {
    case JSON_STRING: return json_string_length(v) > 0;
    case JSON_ARRAY: return json_array_size(v) > 0;
    case JSON_OBJECT: return json_object_size(v) > 0;
    case JSON_INTEGER: return json_integer_value(v) != 0;
    case JSON_REAL: return json_real_value(v) != 0;
    default: return json_is_true(v);
    }
}

void jinja_print(jinja *j, const json_t *v, cl_buf *out)
{
    cl_code c = CL_OK;
    if (!v || jinja_failed(j)) return;
    switch (json_typeof(v)) {
    case JSON_STRING: c = cl_buf_add(out, json_string_value(v), json_string_length(v), NULL); break;
    case JSON_INTEGER: c = cl_buf_printf(out, NULL, "%lld", (long long)json_integer_value(v)); break;
    case JSON_TRUE: c = cl_buf_str(out, "True", NULL); break;
    case JSON_FALSE: c = cl_buf_str(out, "False", NULL); break;
    case JSON_NULL: c = cl_buf_str(out, "None", NULL); break;
    default: jinja_fail(j, JINJA_UNKNOWN, "prints a list, a mapping or a fraction");
    }
    if (c != CL_OK || out->len > JINJA_OUTPUT) jinja_fail(j, JINJA_UNKNOWN, "prints too much");
    jinja_spend(j, json_string_length(v));
}

static bool deeper(jinja *j)
{
    if (++j->depth > JINJA_DEPTH) jinja_fail(j, JINJA_UNKNOWN, "expressions nested too deeply");
    jinja_spend(j, 0);
    return !jinja_failed(j);
}

/* --- primaries --- */

static json_t *string_value(jinja *j)
{
    cl_buf b = {0};
    cl_code c = cl_buf_str(&b, "", NULL);
    while (c == CL_OK && jinja_is(j, J_STRING, NULL)) { /* neighbours are joined */
        const jinja_token *t = &j->token[j->at++];
        for (size_t i = 0; c == CL_OK && i < t->n; i++) {
            char k = t->s[i];
            if (k == '\\' && i + 1 < t->n) {
                k = t->s[++i];
                if (k == 'n') k = '\n';
                else if (k == 't') k = '\t';
                else if (k == 'r') k = '\r';
                else if (k != '\\' && k != '\'' && k != '"') jinja_fail(j, JINJA_UNKNOWN, "a string has the escape \\%c", k);
            }
            c = cl_buf_add(&b, &k, 1, NULL);
        }
    }
    json_t *v = c == CL_OK && !j->skip ? json_stringn_nocheck(b.data, b.len) : NULL;
    cl_buf_free(&b);
    return v;
}

static json_t *variable(const jinja *j, const char *name, size_t n)
{
    json_t *v = NULL;
    for (int i = j->n_scopes - 1; !v && i >= 0; i--) v = json_object_getn(j->scope[i], name, n);
    return json_incref(v);
}

/* "(" is taken: arguments up to ")". */
static void arguments(jinja *j, jinja_args *a)
{
    *a = (jinja_args){.names = json_object()};
    while (!jinja_failed(j) && !take_op(j, ")")) {
        jinja_token key = {J_END, "", 0};
        if (jinja_is(j, J_NAME, NULL) && j->token[j->at + 1].kind == J_OP && j->token[j->at + 1].n == 1 && *j->token[j->at + 1].s == '=') {
            key = j->token[j->at];
            j->at += 2;
        }
        json_t *v = jinja_expr(j);
        if (!j->skip && key.n) {
            a->named = true;
            json_object_setn_new_nocheck(a->names, key.s, key.n, v ? v : json_null());
        } else if (!j->skip && a->n < 4) {
            a->v[a->n++] = v;
        } else {
            json_decref(v);
            if (!j->skip) jinja_fail(j, JINJA_UNKNOWN, "a call with more than 4 arguments");
        }
        if (!take_op(j, ",") && !jinja_is(j, J_OP, ")")) jinja_expect(j, J_OP, ")");
    }
}

static void free_arguments(jinja_args *a)
{
    for (int i = 0; i < a->n; i++) json_decref(a->v[i]);
    json_decref(a->names);
}

/* A name of at most 31 letters, for messages and comparisons. */
static const char *short_name(const jinja_token *t, char buf[32])
{
    snprintf(buf, 32, "%.*s", (int)(t->n < 31 ? t->n : 31), t->s);
    return buf;
}

static json_t *list_value(jinja *j, const char *end)
{
    json_t *list = json_array();
    while (!jinja_failed(j) && !take_op(j, end)) {
        json_t *v = jinja_expr(j);
        json_array_append_new(list, v ? v : json_null());
        if (!take_op(j, ",") && !jinja_is(j, J_OP, end)) jinja_expect(j, J_OP, end);
    }
    return list;
}

static json_t *mapping_value(jinja *j)
{
    json_t *map = json_object();
    while (!jinja_failed(j) && !take_op(j, "}")) {
        json_t *k = jinja_expr(j);
        jinja_expect(j, J_OP, ":");
        json_t *v = jinja_expr(j);
        if (k && json_is_string(k)) json_object_set_new_nocheck(map, json_string_value(k), v ? v : json_null());
        else json_decref(v);
        json_decref(k);
        if (!take_op(j, ",") && !jinja_is(j, J_OP, "}")) jinja_expect(j, J_OP, "}");
    }
    return map;
}

static json_t *primary(jinja *j)
{
    const jinja_token *t = &j->token[j->at];
    char name[32];
    if (t->kind == J_STRING) return string_value(j);
    if (take_op(j, "(")) {
        json_t *v = jinja_expr(j);
        if (jinja_is(j, J_OP, ",")) jinja_fail(j, JINJA_UNKNOWN, "a tuple");
        jinja_expect(j, J_OP, ")");
        return v;
    }
    if (take_op(j, "[")) return list_value(j, "]");
    if (take_op(j, "{")) return mapping_value(j);
    if (jinja_take(j, J_NUMBER, NULL)) {
        if (memchr(t->s, '.', t->n)) return j->skip ? NULL : jinja_fail(j, JINJA_UNKNOWN, "a fraction");
        return json_integer(strtoll(t->s, NULL, 10));
    }
    if (!jinja_take(j, J_NAME, NULL)) return jinja_fail(j, JINJA_UNKNOWN, "'%.*s' in an expression", (int)t->n, t->s);
    short_name(t, name);
    if (strcmp(name, "true") == 0 || strcmp(name, "True") == 0) return json_true();
    if (strcmp(name, "false") == 0 || strcmp(name, "False") == 0) return json_false();
    if (strcmp(name, "none") == 0 || strcmp(name, "None") == 0) return json_null();
    if (take_op(j, "(")) {
        jinja_args a;
        arguments(j, &a);
        json_t *v = j->skip || jinja_failed(j) ? NULL : jinja_function(j, name, &a);
        free_arguments(&a);
        return v;
    }
    return j->skip ? NULL : variable(j, t->s, t->n);
}

/* --- what follows a primary --- */

static json_t *member(jinja *j, const json_t *v, const json_t *key)
{
    if (!v) return jinja_fail(j, JINJA_UNKNOWN, "a member of something undefined");
    if (json_is_object(v) && key && json_is_string(key)) return json_incref(json_object_getn(v, json_string_value(key), json_string_length(key)));
    if (json_is_array(v) && key && json_is_integer(key)) {
        json_int_t i = json_integer_value(key), n = (json_int_t)json_array_size(v);
        if (i < 0) i += n;
        return i >= 0 && i < n ? json_incref(json_array_get(v, (size_t)i)) : NULL;
    }
    return json_is_string(v) ? jinja_fail(j, JINJA_UNKNOWN, "a character of a text") : NULL;
}

/* v[from:to:step] of a list, as Python slices. */
static json_t *slice(jinja *j, const json_t *v, json_t *const part[3])
{
    if (!v || !json_is_array(v)) return jinja_fail(j, JINJA_UNKNOWN, "a slice of something that is no list");
    json_int_t n = (json_int_t)json_array_size(v), step = part[2] && json_is_integer(part[2]) ? json_integer_value(part[2]) : 1;
    json_int_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n, at[2] = {step < 0 ? high : low, step < 0 ? low : high};
    if (step == 0) return jinja_fail(j, JINJA_UNKNOWN, "a slice with step 0");
    for (int k = 0; k < 2; k++) {
        if (!part[k] || !json_is_integer(part[k])) continue;
        at[k] = json_integer_value(part[k]);
        if (at[k] < 0) at[k] += n;
        at[k] = at[k] < low ? low : at[k] > high ? high : at[k];
    }
    step = step > n ? n + 1 : step < -n ? -n - 1 : step;
    jinja_spend(j, 16 * (size_t)n);
    json_t *list = json_array();
    for (json_int_t i = at[0]; step > 0 ? i < at[1] : i > at[1]; i += step) json_array_append(list, json_array_get(v, (size_t)i));
    return list;
}

/* "[" is taken. */
static json_t *subscript(jinja *j, const json_t *v)
{
    json_t *part[3] = {NULL, NULL, NULL}, *result = NULL;
    int n = 0;
    bool sliced = false;
    while (!jinja_failed(j) && !take_op(j, "]")) {
        if (take_op(j, ":")) {
            sliced = true;
            if (++n > 2) jinja_fail(j, JINJA_UNKNOWN, "a slice with more than 3 parts");
        } else if (part[n]) jinja_expect(j, J_OP, "]");
        else part[n] = jinja_expr(j);
    }
    if (!j->skip && !jinja_failed(j)) result = sliced ? slice(j, v, part) : member(j, v, part[0]);
    for (int i = 0; i < 3; i++) json_decref(part[i]);
    return result;
}

/* "." is taken. */
static json_t *attribute(jinja *j, const json_t *v)
{
    const jinja_token *t = &j->token[j->at];
    char name[32];
    json_t *result = NULL;
    jinja_expect(j, J_NAME, NULL);
    short_name(t, name);
    if (take_op(j, "(")) {
        jinja_args a;
        arguments(j, &a);
        if (!j->skip && !jinja_failed(j)) result = jinja_method(j, v, name, &a);
        free_arguments(&a);
    } else if (!j->skip && !jinja_failed(j)) {
        json_t *key = json_stringn_nocheck(t->s, t->n);
        result = json_is_string(v) ? NULL : member(j, v, key);
        json_decref(key);
    }
    return result;
}

static json_t *filtered(jinja *j, json_t *v, bool test)
{
    bool not = test && take_name(j, "not");
    const jinja_token *t = &j->token[j->at];
    char name[32];
    jinja_args a = {0};
    jinja_expect(j, J_NAME, NULL);
    short_name(t, name);
    if (take_op(j, "(")) arguments(j, &a);
    json_t *result = NULL;
    if (!j->skip && !jinja_failed(j)) {
        if (test) result = json_boolean(jinja_test(j, name, v, &a) != not);
        else result = jinja_filter(j, name, v, &a);
    }
    free_arguments(&a);
    json_decref(v);
    return result;
}

static json_t *unary(jinja *j, bool with_filters)
{
    json_t *v = NULL;
    if (deeper(j)) {
        if (take_op(j, "-")) {
            json_t *n = unary(j, false);
            if (!j->skip && !jinja_failed(j)) v = n && json_is_integer(n) ? json_integer(-json_integer_value(n)) : jinja_fail(j, JINJA_UNKNOWN, "minus something");
            json_decref(n);
        } else v = primary(j);
    }
    for (bool more = true; more && !jinja_failed(j);) {
        json_t *base = v;
        if (take_op(j, ".")) v = attribute(j, base);
        else if (take_op(j, "[")) v = subscript(j, base);
        else more = false;
        if (more) json_decref(base);
    }
    while (with_filters && !jinja_failed(j)) {
        if (take_op(j, "|")) v = filtered(j, v, false);
        else if (take_name(j, "is")) v = filtered(j, v, true);
        else break;
    }
    j->depth--;
    return v;
}

/* --- operators --- */

static json_t *arithmetic(jinja *j, char op, const json_t *a, const json_t *b)
{
    if (a && b && op == '+' && json_is_string(a) && json_is_string(b)) {
        cl_buf s = {0};
        jinja_print(j, a, &s);
        jinja_print(j, b, &s);
        json_t *v = jinja_failed(j) ? NULL : json_stringn_nocheck(s.data ? s.data : "", s.len);
        cl_buf_free(&s);
        return v;
    }
    if (a && b && op == '+' && json_is_array(a) && json_is_array(b)) {
        jinja_spend(j, 16 * (json_array_size(a) + json_array_size(b)));
        if (jinja_failed(j)) return NULL;
        json_t *list = json_copy((json_t *)(uintptr_t)a);
        json_array_extend(list, (json_t *)(uintptr_t)b);
        return list;
    }
    if (!a || !b || !json_is_integer(a) || !json_is_integer(b)) return jinja_fail(j, JINJA_UNKNOWN, "'%c' of values that it does not fit", op);
    json_int_t x = json_integer_value(a), y = json_integer_value(b), r = 0;
    bool over = op == '+' ? __builtin_add_overflow(x, y, &r) : op == '-' ? __builtin_sub_overflow(x, y, &r) : false;
    if (op == '*') over = __builtin_mul_overflow(x, y, &r);
    if (op == '%') over = y <= 0 || x < 0;
    if (over) return jinja_fail(j, JINJA_UNKNOWN, "a number out of range");
    return json_integer(op == '%' ? x % y : r);
}

static json_t *product(jinja *j)
{
    json_t *a = unary(j, true);
    while (!jinja_failed(j) && (jinja_is(j, J_OP, "*") || jinja_is(j, J_OP, "%") || jinja_is(j, J_OP, "/") || jinja_is(j, J_OP, "//"))) {
        const jinja_token *op = &j->token[j->at++];
        json_t *b = unary(j, true), *v = NULL;
        if (!j->skip) v = *op->s == '/' ? jinja_fail(j, JINJA_UNKNOWN, "a division") : arithmetic(j, *op->s, a, b);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static json_t *joined(jinja *j)
{
    json_t *a = product(j);
    while (!jinja_failed(j) && take_op(j, "~")) {
        json_t *b = product(j), *v = NULL;
        cl_buf s = {0};
        jinja_print(j, a, &s);
        jinja_print(j, b, &s);
        if (!j->skip && !jinja_failed(j)) v = json_stringn_nocheck(s.data ? s.data : "", s.len);
        cl_buf_free(&s);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static json_t *sum(jinja *j)
{
    json_t *a = joined(j);
    while (!jinja_failed(j) && (jinja_is(j, J_OP, "+") || jinja_is(j, J_OP, "-"))) {
        char op = *j->token[j->at++].s;
        json_t *b = joined(j), *v = j->skip || jinja_failed(j) ? NULL : arithmetic(j, op, a, b);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static bool contains(jinja *j, const json_t *in, const json_t *what)
{
    if (in && json_is_string(in) && what && json_is_string(what))
        return memmem(json_string_value(in), json_string_length(in), json_string_value(what), json_string_length(what)) != NULL;
    if (in && json_is_object(in) && what && json_is_string(what)) return json_object_getn(in, json_string_value(what), json_string_length(what)) != NULL;
    if (!in || !json_is_array(in)) {
        jinja_fail(j, JINJA_UNKNOWN, "'in' something that holds nothing");
        return false;
    }
    for (size_t i = 0; what && i < json_array_size(in); i++)
        if (json_equal(json_array_get(in, i), what)) return true;
    return false;
}

static bool compared(jinja *j, const jinja_token *op, const json_t *a, const json_t *b)
{
    bool equal = (!a && !b) || (a && b && json_equal(a, b));
    if (op->n == 2 && op->s[1] == '=' && (*op->s == '=' || *op->s == '!')) return equal == (*op->s == '=');
    if (!a || !b || !json_is_integer(a) || !json_is_integer(b)) {
        jinja_fail(j, JINJA_UNKNOWN, "a comparison of values that have no order");
        return false;
    }
    json_int_t x = json_integer_value(a), y = json_integer_value(b);
    bool with_equal = op->n == 2;
    return *op->s == '<' ? (with_equal ? x <= y : x < y) : (with_equal ? x >= y : x > y);
}

static json_t *comparison(jinja *j)
{
    json_t *a = sum(j);
    while (!jinja_failed(j)) {
        const jinja_token *op = &j->token[j->at];
        bool order = op->kind == J_OP && (*op->s == '<' || *op->s == '>' || (op->n == 2 && op->s[1] == '=')), in = jinja_is(j, J_NAME, "in");
        bool not_in = jinja_is(j, J_NAME, "not") && j->token[j->at + 1].kind == J_NAME && j->token[j->at + 1].n == 2 && memcmp(j->token[j->at + 1].s, "in", 2) == 0;
        if (!order && !in && !not_in) break;
        j->at += not_in ? 2 : 1;
        json_t *b = sum(j), *v = NULL;
        if (!j->skip && !jinja_failed(j)) v = json_boolean(order ? compared(j, op, a, b) : contains(j, b, a) != not_in);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static json_t *negation(jinja *j)
{
    if (!take_name(j, "not")) return comparison(j);
    json_t *v = NULL;
    if (deeper(j)) v = negation(j);
    j->depth--;
    bool truth = jinja_truth(v);
    json_decref(v);
    return j->skip ? NULL : json_boolean(!truth);
}

/* a and b, a or b: the value of the last one looked at, b only if it decides. */
static json_t *logic(jinja *j, const char *word, json_t *(*part)(jinja *))
{
    json_t *a = part(j);
    while (!jinja_failed(j) && take_name(j, word)) {
        bool skip = j->skip, decided = !skip && jinja_truth(a) == (*word == 'o');
        j->skip = skip || decided;
        json_t *b = part(j);
        j->skip = skip;
        if (decided || skip) {
            json_decref(b);
            continue;
        }
        json_decref(a);
        a = b;
    }
    return a;
}

static json_t *conjunction(jinja *j) { return logic(j, "and", negation); }
json_t *jinja_or(jinja *j) { return logic(j, "or", conjunction); }

/* a if c else b: a is passed over until c is known. */
json_t *jinja_expr(jinja *j)
{
    json_t *v = NULL;
    bool skip = j->skip;
    int start = j->at;
    if (!deeper(j)) return NULL;
    j->skip = true;
    json_decref(jinja_or(j));
    j->skip = skip;
    if (!take_name(j, "if")) {
        if (!skip && !jinja_failed(j)) {
            j->at = start;
            v = jinja_or(j);
        }
    } else {
        json_t *c = jinja_or(j);
        bool yes = jinja_truth(c);
        int end = j->at;
        json_decref(c);
        if (yes && !skip && !jinja_failed(j)) {
            j->at = start;
            v = jinja_or(j);
            j->at = end;
        }
        if (take_name(j, "else")) {
            j->skip = skip || yes;
            json_t *b = jinja_expr(j);
            j->skip = skip;
            if (!yes) v = b;
            else json_decref(b);
        }
    }
    j->depth--;
    return v;
}
