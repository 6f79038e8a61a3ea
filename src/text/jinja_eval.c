/* jinja_eval.c: what an expression gives. */
#include <math.h>
#include <stdarg.h>

#include "jinja_inside.h"

json_t *jinja_fail(jinja_run *r, jinja_result result, const char *fmt, ...)
{
    if (r->result == JINJA_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(r->why, JINJA_WHY, fmt, ap);
        va_end(ap);
        r->result = result;
    }
    return NULL;
}

void jinja_spend(jinja_run *r, size_t bytes)
{
    size_t steps = 1 + bytes / JINJA_STEP_BYTES;
    if (steps > (size_t)(JINJA_STEPS - r->steps)) jinja_unknown(r, "it runs too long");
    else r->steps += (int)steps;
}

/* --- names and members --- */

json_t *jinja_lookup(const jinja_run *r, const char *name, size_t n)
{
    json_t *v = NULL;
    for (int i = r->n_scopes - 1; !v && i >= r->base; i--) v = json_object_getn(r->scope[i], name, n);
    if (!v) v = json_object_getn(r->scope[0], name, n);
    return v == r->undefined ? NULL : v;
}

json_t *jinja_member(jinja_run *r, json_t *v, const char *name, size_t n)
{
    if (!v) return jinja_unknown(r, "'%.*s' of something undefined", (int)(n < 60 ? n : 60), name);
    return json_is_object(v) && v != r->method ? json_incref(json_object_getn(v, name, n)) : NULL;
}

bool jinja_is_namespace(const jinja_run *r, const json_t *v)
{
    return v && json_is_object(v) && json_object_getn(v, "", 0) == r->spaces;
}

/* v.name: of a mapping, a method goes before a key. */
static json_t *attribute(jinja_run *r, json_t *v, const jinja_node *e)
{
    bool mapping = v && json_is_object(v) && v != r->method && !jinja_is_namespace(r, v);
    if (mapping && jinja_is_dict_method(e->s, e->n)) return json_incref(r->method);
    return jinja_member(r, v, e->s, e->n);
}

/* v["name"]: of a mapping, a key goes before a method. */
static json_t *item_of_mapping(jinja_run *r, json_t *v, const json_t *key)
{
    size_t n;
    char buf[JINJA_KEY];
    const char *s = jinja_key(key, buf, &n);
    json_t *found = s && v != r->method ? json_object_getn(v, s, n) : NULL;
    return json_incref(found || !s || !jinja_is_dict_method(s, n) ? found : r->method);
}

static json_t *item(jinja_run *r, json_t *v, const json_t *key)
{
    size_t n;
    const char *s = jinja_text(v, &n);
    if (!v) return jinja_unknown(r, "an item of something undefined");
    if (json_is_object(v)) return item_of_mapping(r, v, key);
    if (!key || !json_is_integer(key) || (!s && !json_is_array(v))) return NULL;
    json_int_t i = json_integer_value(key), count = (json_int_t)(s ? jinja_count_chars(s, n) : json_array_size(v));
    if (i < 0) i += count;
    if (i < 0 || i >= count) return NULL;
    if (!s) return json_incref(json_array_get(v, (size_t)i));
    size_t at = jinja_char_at(s, n, (size_t)i);
    jinja_spend(r, n);
    return jinja_string(r, s + at, jinja_char_at(s + at, n - at, 1));
}

/* --- slices, as Python does them --- */

typedef struct slice {
    json_int_t from, to, step;
} slice;

static slice slice_of(jinja_run *r, json_int_t n, json_t *const part[3])
{
    json_int_t step = part[2] && json_is_integer(part[2]) ? json_integer_value(part[2]) : 1;
    json_int_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n,
               at[2] = {step < 0 ? high : low, step < 0 ? low : high};
    if (step == 0) jinja_unknown(r, "a slice with step 0");
    for (int k = 0; k < 2; k++) {
        if (!part[k] || !json_is_integer(part[k])) continue;
        at[k] = json_integer_value(part[k]);
        if (at[k] < 0) at[k] += n;
        at[k] = at[k] < low ? low : at[k] > high ? high : at[k];
    }
    return (slice){at[0], at[1], step > n ? n + 1 : step < -n ? -n - 1 : step};
}

static bool goes_on(const slice *s, json_int_t i) { return s->step > 0 ? i < s->to : i > s->to; }

static json_t *slice_text(jinja_run *r, const char *s, size_t n, json_t *const part[3])
{
    slice k = slice_of(r, (json_int_t)jinja_count_chars(s, n), part);
    jinja_spend(r, 4 * n);
    if (jinja_failed(r)) return NULL;
    if (k.step == 1) {
        size_t from = jinja_char_at(s, n, (size_t)k.from), to = jinja_char_at(s, n, (size_t)k.to);
        return jinja_string(r, s + from, to > from ? to - from : 0);
    }
    cl_buf b = {0};
    for (json_int_t i = k.from; goes_on(&k, i) && !jinja_failed(r); i += k.step) {
        size_t at = jinja_char_at(s, n, (size_t)i);
        jinja_spend(r, at); /* found by counting */
        cl_buf_add(&b, s + at, jinja_char_at(s + at, n - at, 1), NULL);
    }
    json_t *v = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return v;
}

static json_t *slice_value(jinja_run *r, const json_t *v, json_t *const part[3])
{
    size_t n;
    const char *s = jinja_text(v, &n);
    if (s) return slice_text(r, s, n, part);
    if (!v || !json_is_array(v)) return jinja_unknown(r, "a slice of something that has no order");
    slice k = slice_of(r, (json_int_t)json_array_size(v), part);
    jinja_spend(r, 8 * json_array_size(v));
    if (jinja_failed(r)) return NULL;
    json_t *list = json_array();
    for (json_int_t i = k.from; goes_on(&k, i); i += k.step) json_array_append(list, json_array_get(v, (size_t)i));
    return list;
}

/* --- operators --- */

static json_t *repeated(jinja_run *r, const char *s, size_t n, json_int_t times)
{
    cl_buf b = {0};
    for (json_int_t i = 0; i < times && n && !jinja_failed(r); i++) {
        jinja_spend(r, n);
        cl_buf_add(&b, s, n, NULL);
    }
    json_t *v = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return v;
}

static json_t *joined(jinja_run *r, const json_t *a, const json_t *b)
{
    cl_buf s = {0};
    jinja_print(r, a, &s);
    jinja_print(r, b, &s);
    json_t *v = jinja_string(r, s.data ? s.data : "", s.len);
    cl_buf_free(&s);
    return v;
}

static bool whole(const json_t *v) { return v && (json_is_integer(v) || json_is_boolean(v)); }
static json_int_t whole_of(const json_t *v) { return json_is_integer(v) ? json_integer_value(v) : json_is_true(v); }

static json_t *power(jinja_run *r, json_int_t x, json_int_t y)
{
    json_int_t v = 1;
    if (y > 2 && (x == 0 || x == 1 || x == -1)) y = 2 - y % 2; /* the same, soon; all others run out of range soon */
    bool over = y < 0;
    for (; y > 0 && !over; y--) over = __builtin_mul_overflow(v, x, &v);
    return over ? jinja_unknown(r, "a number out of range") : json_integer(v);
}

static json_t *whole_arithmetic(jinja_run *r, const char *op, size_t n_op, json_int_t x, json_int_t y)
{
    json_int_t v = 0;
    if (n_op == 2 && *op == '*') return power(r, x, y);
    if ((*op == '/' || *op == '%') && (y == 0 || (y == -1 && x == INT64_MIN)))
        return jinja_unknown(r, "a division by 0");
    if (*op == '/' && n_op == 1) return json_real((double)x / (double)y);
    bool apart = (*op == '/' || *op == '%') && x % y != 0 && (x % y < 0) != (y < 0), over = false;
    switch (*op) {
    case '+': over = __builtin_add_overflow(x, y, &v); break;
    case '-': over = __builtin_sub_overflow(x, y, &v); break;
    case '*': over = __builtin_mul_overflow(x, y, &v); break;
    case '/': v = x / y - apart; break; /* towards minus infinity */
    default: v = x % y + (apart ? y : 0);
    }
    return over ? jinja_unknown(r, "a number out of range") : json_integer(v);
}

static json_t *real_arithmetic(jinja_run *r, const char *op, size_t n_op, double x, double y)
{
    if (*op == '/' && y == 0) return jinja_unknown(r, "a division by 0");
    double v = *op == '+' ? x + y : *op == '-' ? x - y : *op == '*' && n_op == 1 ? x * y : NAN;
    if (*op == '/') v = n_op == 2 ? floor(x / y) : x / y;
    if (isinf(v)) return jinja_unknown(r, "a number out of range");
    return isfinite(v) ? json_real(v) : jinja_unknown(r, "'%.*s' of fractions", (int)n_op, op);
}

static json_t *binary(jinja_run *r, const char *op, size_t n_op, json_t *a, json_t *b)
{
    size_t n, n_b;
    const char *s = jinja_text(a, &n), *t = jinja_text(b, &n_b);
    if (*op == '~' || (*op == '+' && s && t)) return joined(r, a, b);
    if (*op == '*' && n_op == 1 && s && whole(b)) return repeated(r, s, n, whole_of(b));
    if (*op == '*' && n_op == 1 && t && whole(a)) return repeated(r, t, n_b, whole_of(a));
    if (*op == '+' && a && b && json_is_array(a) && json_is_array(b)) {
        jinja_spend(r, 8 * (json_array_size(a) + json_array_size(b)));
        if (jinja_failed(r)) return NULL;
        json_t *list = json_copy(a);
        json_array_extend(list, b);
        return list;
    }
    if (whole(a) && whole(b)) return whole_arithmetic(r, op, n_op, whole_of(a), whole_of(b));
    if ((whole(a) || json_is_real(a)) && (whole(b) || json_is_real(b)))
        return real_arithmetic(r, op, n_op, json_is_real(a) ? json_real_value(a) : (double)whole_of(a),
                               json_is_real(b) ? json_real_value(b) : (double)whole_of(b));
    return jinja_unknown(r, "'%.*s' of %s", (int)n_op, op,
                         !a || !b ? "something undefined" : "values that it does not fit");
}

static bool compared(jinja_run *r, const jinja_node *op, const json_t *a, const json_t *b)
{
    if (*op->s == 'i') return jinja_contains(r, b, a);
    if (op->n == 6) return !jinja_contains(r, b, a);
    if (op->n == 2 && *op->s != '<' && *op->s != '>') return jinja_equal(r, a, b) == (*op->s == '=');
    int order = jinja_order(r, a, b);
    return (op->n == 2 && order == 0) || (*op->s == '<' ? order < 0 : order > 0);
}

/* a < b <= c ...: each with its neighbour, until one does not hold. */
static json_t *comparison(jinja_run *r, const jinja_node *e)
{
    json_t *a = jinja_eval(r, e->a);
    bool holds = true;
    for (const jinja_node *op = e->b; op && holds && !jinja_failed(r); op = op->next) {
        json_t *b = jinja_eval(r, op->a);
        if (!jinja_failed(r)) holds = compared(r, op, a, b);
        json_decref(a);
        a = b;
    }
    json_decref(a);
    return jinja_failed(r) ? NULL : json_boolean(holds);
}

/* --- calls --- */

json_t *jinja_arg(const jinja_args *a, int i, const char *name)
{
    json_t *v = i >= 0 && i < a->n ? a->v[i] : NULL;
    if (!v && name) v = json_object_get(a->names, name);
    return v == a->undefined ? NULL : v;
}

static void eval_args(jinja_run *r, const jinja_node *list, jinja_args *a)
{
    *a = (jinja_args){.undefined = r->undefined};
    for (; list && !jinja_failed(r); list = list->next) {
        json_t *v = jinja_eval(r, list->kind == N_NAMED ? list->a : list);
        if (list->kind == N_NAMED) {
            if (!a->names) a->names = json_object();
            json_object_setn_new_nocheck(a->names, list->s, list->n, v ? v : json_incref(r->undefined));
        } else if (a->n < JINJA_ARGS) a->v[a->n++] = v;
        else {
            json_decref(v);
            jinja_unknown(r, "a call with more than %d arguments", JINJA_ARGS);
        }
    }
}

static void free_args(jinja_args *a)
{
    for (int i = 0; i < a->n; i++) json_decref(a->v[i]);
    json_decref(a->names);
}

/* The parameters' values into scope: by place, by name, or the default. */
static void bind_parameters(jinja_run *r, const jinja_node *macro, const jinja_args *a, json_t *scope)
{
    int n = 0;
    size_t used = 0;
    for (const jinja_node *p = macro->a; p && !jinja_failed(r); p = p->next, n++) {
        json_t *v = json_object_getn(a->names, p->s, p->n);
        used += v && n >= a->n;
        if (n < a->n) v = a->v[n] ? a->v[n] : r->undefined;
        json_incref(v);
        if (!v && p->a) v = jinja_eval(r, p->a);
        json_object_setn_new_nocheck(scope, p->s, p->n, v ? v : json_incref(r->undefined));
    }
    if (a->n > n || json_object_size(a->names) > used)
        jinja_unknown(r, "the macro %.*s is called with arguments that it does not take",
                      macro->n < 60 ? (int)macro->n : 60, macro->s);
}

/* What the macro prints. */
static json_t *call_macro(jinja_run *r, const jinja_node *macro, const jinja_args *a)
{
    cl_buf text = {0}, *out = r->out;
    int base = r->base;
    jinja_leaving leaving = r->leaving;
    json_t *scope = jinja_scope_push(r), *v = NULL;
    if (!scope) return NULL;
    r->base = r->n_scopes - 1;
    bind_parameters(r, macro, a, scope);
    r->out = &text;
    if (!jinja_failed(r)) jinja_run_body(r, macro->d);
    if (!jinja_failed(r)) v = jinja_string(r, text.data ? text.data : "", text.len);
    r->out = out;
    r->base = base;
    r->leaving = leaving;
    jinja_scope_pop(r);
    cl_buf_free(&text);
    return v;
}

/* A name of at most 31 letters, for messages and comparisons. */
static const char *short_name(const jinja_node *e, char name[32])
{
    snprintf(name, 32, "%.*s", (int)(e->n < 31 ? e->n : 31), e->s);
    return name;
}

static json_t *call(jinja_run *r, const jinja_node *e)
{
    const jinja_node *what = e->a;
    jinja_args a;
    char name[32];
    json_t *v = NULL, *of = what->kind == N_MEMBER ? jinja_eval(r, what->a) : NULL;
    eval_args(r, e->b, &a);
    json_t *value = what->kind == N_NAME ? jinja_lookup(r, what->s, what->n)
                    : of                 ? json_object_getn(of, what->s, what->n)
                                         : NULL;
    int k = r->n_macros - 1;
    while (k >= 0 && (!value || r->macro[k].value != value)) k--;
    if (jinja_failed(r)) v = NULL;
    else if (k >= 0) v = call_macro(r, r->macro[k].node, &a);
    else if (what->kind == N_MEMBER) v = jinja_method(r, of, short_name(what, name), &a);
    else if (what->kind == N_NAME && !value) v = jinja_function(r, short_name(what, name), &a);
    else jinja_unknown(r, "a call of something that is no function");
    free_args(&a);
    json_decref(of);
    return v;
}

static json_t *filter_or_test(jinja_run *r, const jinja_node *e)
{
    jinja_args a;
    char name[32];
    /* functions are defined, but for the clock: templates that can do without it are to */
    if (e->kind == N_TEST && e->a->kind == N_NAME && !jinja_lookup(r, e->a->s, e->a->n) &&
        jinja_is_function(short_name(e->a, name)))
        return json_boolean(e->n == strlen("defined") && memcmp(e->s, "defined", e->n) == 0);
    json_t *v = jinja_eval(r, e->a), *result = NULL;
    eval_args(r, e->b, &a);
    short_name(e, name);
    if (!jinja_failed(r) && e->kind == N_FILTER) result = jinja_filter(r, name, v, &a);
    else if (!jinja_failed(r)) result = json_boolean(jinja_test(r, name, v, &a));
    free_args(&a);
    json_decref(v);
    return result;
}

/* --- the tree --- */

static json_t *list_value(jinja_run *r, const jinja_node *e)
{
    json_t *list = json_array();
    for (const jinja_node *i = e->a; i && !jinja_failed(r); i = i->next) {
        json_t *v = jinja_eval(r, i);
        json_array_append_new(list, v ? v : json_null());
    }
    return list;
}

static json_t *dict_value(jinja_run *r, const jinja_node *e)
{
    json_t *map = json_object();
    for (const jinja_node *i = e->a; i && i->next && !jinja_failed(r); i = i->next->next) {
        size_t n;
        char buf[JINJA_KEY];
        json_t *key = jinja_eval(r, i), *v = jinja_eval(r, i->next);
        const char *s = jinja_key(key, buf, &n);
        if (s) json_object_setn_new_nocheck(map, s, n, v ? v : json_null());
        else {
            json_decref(v);
            jinja_unknown(r, "a mapping with keys that are no texts or numbers");
        }
        json_decref(key);
    }
    return map;
}

static json_t *minus(jinja_run *r, const jinja_node *e)
{
    json_t *v = jinja_eval(r, e->a), *result = NULL;
    if (whole(v) && whole_of(v) == INT64_MIN) jinja_unknown(r, "a number out of range");
    else if (whole(v)) result = json_integer(-whole_of(v));
    else if (json_is_real(v)) result = json_real(-json_real_value(v));
    else jinja_unknown(r, "minus something that is no number");
    json_decref(v);
    return result;
}

/* a and b, a or b: the value of the last one looked at, b only if it decides. */
static json_t *logic(jinja_run *r, const jinja_node *e)
{
    json_t *a = jinja_eval(r, e->a);
    if (jinja_failed(r) || jinja_truth(a) == (e->kind == N_OR)) return a;
    json_decref(a);
    return jinja_eval(r, e->b);
}

/* Nodes of which the values of a, b, c and d are needed first. */
static json_t *of_values(jinja_run *r, const jinja_node *e)
{
    const jinja_node *const part[4] = {e->a, e->b, e->c, e->d};
    json_t *v[4] = {NULL, NULL, NULL, NULL}, *result = NULL;
    for (int i = 0; i < 4 && !jinja_failed(r); i++)
        if (part[i]) v[i] = jinja_eval(r, part[i]);
    if (!jinja_failed(r)) {
        if (e->kind == N_BINARY) result = binary(r, e->s, e->n, v[0], v[1]);
        else if (e->kind == N_MEMBER) result = attribute(r, v[0], e);
        else if (e->kind == N_INDEX) result = item(r, v[0], v[1]);
        else if (e->kind == N_SLICE) result = slice_value(r, v[0], v + 1);
        else result = json_boolean(!jinja_truth(v[0])); /* N_NOT */
    }
    for (int i = 0; i < 4; i++) json_decref(v[i]);
    return result;
}

static json_t *choice(jinja_run *r, const jinja_node *e)
{
    json_t *c = jinja_eval(r, e->b);
    bool yes = jinja_truth(c);
    json_decref(c);
    if (jinja_failed(r)) return NULL;
    return yes ? jinja_eval(r, e->a) : e->c ? jinja_eval(r, e->c) : NULL;
}

json_t *jinja_eval(jinja_run *r, const jinja_node *e)
{
    json_t *v = NULL;
    jinja_spend(r, 0);
    if (++r->depth > JINJA_DEPTH) jinja_unknown(r, "it is nested too deeply");
    if (!jinja_failed(r)) switch (e->kind) {
        case N_CONST: v = json_incref(e->value); break;
        case N_NAME: v = json_incref(jinja_lookup(r, e->s, e->n)); break;
        case N_LIST:
        case N_TUPLE: v = list_value(r, e); break;
        case N_DICT: v = dict_value(r, e); break;
        case N_MINUS: v = minus(r, e); break;
        case N_AND:
        case N_OR: v = logic(r, e); break;
        case N_COMPARE: v = comparison(r, e); break;
        case N_CHOICE: v = choice(r, e); break;
        case N_CALL: v = call(r, e); break;
        case N_FILTER:
        case N_TEST: v = filter_or_test(r, e); break;
        default: v = of_values(r, e);
        }
    r->depth--;
    if (!jinja_failed(r)) return v;
    json_decref(v);
    return NULL;
}
