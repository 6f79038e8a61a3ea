/* chat_jinja_expr.c: expressions, evaluated while they are parsed: operators, and what all parts of the interpreter
 * share. */
#include <stdarg.h>

#include "chat_jinja.h"

json_t *cl_jinja_fail(cl_jinja *j, cl_jinja_result r, const char *fmt, ...)
{
    if (j->result == CL_JINJA_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(j->why, CL_JINJA_WHY, fmt, ap);
        va_end(ap);
        j->result = r;
    }
    return NULL;
}

void cl_jinja_spend(cl_jinja *j, size_t bytes)
{
    size_t steps = 1 + bytes / CL_JINJA_STEP_BYTES;
    if (steps > (size_t)(CL_JINJA_STEPS - j->steps)) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "runs too long");
    else j->steps += (int)steps;
}

bool cl_jinja_is(const cl_jinja *j, cl_jinja_kind kind, const char *s)
{
    const cl_jinja_token *t = &j->token[j->at];
    return t->kind == kind && (!s || (t->n == strlen(s) && memcmp(t->s, s, t->n) == 0));
}

bool cl_jinja_take(cl_jinja *j, cl_jinja_kind kind, const char *s)
{
    bool yes = !cl_jinja_failed(j) && cl_jinja_is(j, kind, s);
    j->at += yes;
    return yes;
}

void cl_jinja_expect(cl_jinja *j, cl_jinja_kind kind, const char *s)
{
    if (!cl_jinja_take(j, kind, s))
        cl_jinja_fail(j, CL_JINJA_UNKNOWN, "'%.*s' where %s is expected", (int)j->token[j->at].n, j->token[j->at].s,
                      s ? s : "something else");
}

bool cl_jinja_truth(const json_t *v)
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

void cl_jinja_print(cl_jinja *j, const json_t *v, cl_buf *out)
{
    cl_code c = CL_OK;
    if (!v || cl_jinja_failed(j)) return;
    switch (json_typeof(v)) {
    case JSON_STRING: c = cl_buf_add(out, json_string_value(v), json_string_length(v), NULL); break;
    case JSON_INTEGER: c = cl_buf_printf(out, NULL, "%lld", (long long)json_integer_value(v)); break;
    case JSON_TRUE: c = cl_buf_str(out, "True", NULL); break;
    case JSON_FALSE: c = cl_buf_str(out, "False", NULL); break;
    case JSON_NULL: c = cl_buf_str(out, "None", NULL); break;
    default: cl_jinja_fail(j, CL_JINJA_UNKNOWN, "prints a list, a mapping or a fraction");
    }
    if (c != CL_OK || out->len > CL_JINJA_OUTPUT) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "prints too much");
    cl_jinja_spend(j, json_string_length(v));
}

bool cl_jinja_enter(cl_jinja *j)
{
    if (++j->depth > CL_JINJA_DEPTH) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "nested too deeply");
    cl_jinja_spend(j, 0);
    return !cl_jinja_failed(j);
}

/* --- operators --- */

static json_t *arithmetic(cl_jinja *j, char op, const json_t *a, const json_t *b)
{
    if (a && b && op == '+' && json_is_string(a) && json_is_string(b)) {
        cl_buf s = {0};
        cl_jinja_print(j, a, &s);
        cl_jinja_print(j, b, &s);
        json_t *v = cl_jinja_failed(j) ? NULL : json_stringn_nocheck(s.data ? s.data : "", s.len);
        cl_buf_free(&s);
        return v;
    }
    if (a && b && op == '+' && json_is_array(a) && json_is_array(b)) {
        cl_jinja_spend(j, 16 * (json_array_size(a) + json_array_size(b)));
        if (cl_jinja_failed(j)) return NULL;
        json_t *list = json_copy((json_t *)(uintptr_t)a);
        json_array_extend(list, (json_t *)(uintptr_t)b);
        return list;
    }
    if (!a || !b || !json_is_integer(a) || !json_is_integer(b))
        return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "'%c' of values that it does not fit", op);
    json_int_t x = json_integer_value(a), y = json_integer_value(b), r = 0;
    bool over = op == '+' ? __builtin_add_overflow(x, y, &r) : op == '-' ? __builtin_sub_overflow(x, y, &r) : false;
    if (op == '*') over = __builtin_mul_overflow(x, y, &r);
    if (op == '%') over = y <= 0 || x < 0;
    if (over) return cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a number out of range");
    return json_integer(op == '%' ? x % y : r);
}

static json_t *product(cl_jinja *j)
{
    json_t *a = cl_jinja_unary(j, true);
    while (!cl_jinja_failed(j) && (cl_jinja_is(j, J_OP, "*") || cl_jinja_is(j, J_OP, "%") ||
                                   cl_jinja_is(j, J_OP, "/") || cl_jinja_is(j, J_OP, "//"))) {
        const cl_jinja_token *op = &j->token[j->at++];
        json_t *b = cl_jinja_unary(j, true), *v = NULL;
        if (!j->skip)
            v = *op->s == '/' ? cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a division") : arithmetic(j, *op->s, a, b);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static json_t *joined(cl_jinja *j)
{
    json_t *a = product(j);
    while (!cl_jinja_failed(j) && cl_jinja_take_op(j, "~")) {
        json_t *b = product(j), *v = NULL;
        cl_buf s = {0};
        cl_jinja_print(j, a, &s);
        cl_jinja_print(j, b, &s);
        if (!j->skip && !cl_jinja_failed(j)) v = json_stringn_nocheck(s.data ? s.data : "", s.len);
        cl_buf_free(&s);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static json_t *sum(cl_jinja *j)
{
    json_t *a = joined(j);
    while (!cl_jinja_failed(j) && (cl_jinja_is(j, J_OP, "+") || cl_jinja_is(j, J_OP, "-"))) {
        char op = *j->token[j->at++].s;
        json_t *b = joined(j), *v = j->skip || cl_jinja_failed(j) ? NULL : arithmetic(j, op, a, b);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static bool contains(cl_jinja *j, const json_t *in, const json_t *what)
{
    if (in && json_is_string(in) && what && json_is_string(what))
        return memmem(json_string_value(in), json_string_length(in), json_string_value(what),
                      json_string_length(what)) != NULL;
    if (in && json_is_object(in) && what && json_is_string(what))
        return json_object_getn(in, json_string_value(what), json_string_length(what)) != NULL;
    if (!in || !json_is_array(in)) {
        cl_jinja_fail(j, CL_JINJA_UNKNOWN, "'in' something that holds nothing");
        return false;
    }
    for (size_t i = 0; what && i < json_array_size(in); i++)
        if (json_equal(json_array_get(in, i), what)) return true;
    return false;
}

static bool compared(cl_jinja *j, const cl_jinja_token *op, const json_t *a, const json_t *b)
{
    bool equal = (!a && !b) || (a && b && json_equal(a, b));
    if (op->n == 2 && op->s[1] == '=' && (*op->s == '=' || *op->s == '!')) return equal == (*op->s == '=');
    if (!a || !b || !json_is_integer(a) || !json_is_integer(b)) {
        cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a comparison of values that have no order");
        return false;
    }
    json_int_t x = json_integer_value(a), y = json_integer_value(b);
    bool with_equal = op->n == 2;
    return *op->s == '<' ? (with_equal ? x <= y : x < y) : (with_equal ? x >= y : x > y);
}

static json_t *comparison(cl_jinja *j)
{
    json_t *a = sum(j);
    while (!cl_jinja_failed(j)) {
        const cl_jinja_token *op = &j->token[j->at];
        bool order = op->kind == J_OP && (*op->s == '<' || *op->s == '>' || (op->n == 2 && op->s[1] == '=')),
             in = cl_jinja_is(j, J_NAME, "in");
        bool not_in = cl_jinja_is(j, J_NAME, "not") && j->token[j->at + 1].kind == J_NAME &&
                      j->token[j->at + 1].n == 2 && memcmp(j->token[j->at + 1].s, "in", 2) == 0;
        if (!order && !in && !not_in) break;
        j->at += not_in ? 2 : 1;
        json_t *b = sum(j), *v = NULL;
        if (!j->skip && !cl_jinja_failed(j))
            v = json_boolean(order ? compared(j, op, a, b) : contains(j, b, a) != not_in);
        json_decref(a);
        json_decref(b);
        a = v;
    }
    return a;
}

static json_t *negation(cl_jinja *j)
{
    if (!cl_jinja_take_name(j, "not")) return comparison(j);
    json_t *v = NULL;
    if (cl_jinja_enter(j)) v = negation(j);
    j->depth--;
    bool truth = cl_jinja_truth(v);
    json_decref(v);
    return j->skip ? NULL : json_boolean(!truth);
}

/* a and b, a or b: the value of the last one looked at, b only if it decides. */
static json_t *logic(cl_jinja *j, const char *word, json_t *(*part)(cl_jinja *))
{
    json_t *a = part(j);
    while (!cl_jinja_failed(j) && cl_jinja_take_name(j, word)) {
        bool skip = j->skip, decided = !skip && cl_jinja_truth(a) == (*word == 'o');
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

static json_t *conjunction(cl_jinja *j) { return logic(j, "and", negation); }
json_t *cl_jinja_or(cl_jinja *j) { return logic(j, "or", conjunction); }

/* a if c else b: a is passed over until c is known. */
json_t *cl_jinja_expr(cl_jinja *j)
{
    json_t *v = NULL;
    bool skip = j->skip;
    int start = j->at;
    if (!cl_jinja_enter(j)) return NULL;
    j->skip = true;
    json_decref(cl_jinja_or(j));
    j->skip = skip;
    if (!cl_jinja_take_name(j, "if")) {
        if (!skip && !cl_jinja_failed(j)) {
            j->at = start;
            v = cl_jinja_or(j);
        }
    } else {
        json_t *c = cl_jinja_or(j);
        bool yes = cl_jinja_truth(c);
        int end = j->at;
        json_decref(c);
        if (yes && !skip && !cl_jinja_failed(j)) {
            j->at = start;
            v = cl_jinja_or(j);
            j->at = end;
        }
        if (cl_jinja_take_name(j, "else")) {
            j->skip = skip || yes;
            json_t *b = cl_jinja_expr(j);
            j->skip = skip;
            if (!yes) v = b;
            else json_decref(b);
        }
    }
    j->depth--;
    return v;
}
