/* jinja_run.c: a template's statements, run on what is in its variables. */
#include "jinja_inside.h"

json_t *jinja_scope_push(jinja_run *r)
{
    if (r->n_scopes == JINJA_SCOPES) return jinja_unknown(r, "it is nested too deeply");
    return r->scope[r->n_scopes++] = json_object();
}

void jinja_scope_pop(jinja_run *r) { json_decref(r->scope[--r->n_scopes]); }

static void bind(jinja_run *r, const jinja_node *name, json_t *v, json_t *scope)
{
    json_object_setn_nocheck(scope, name->s, name->n, v ? v : r->undefined);
}

/* One value to one target: a name of the scope, or a member of a namespace. */
static void assign_one(jinja_run *r, const jinja_node *target, json_t *v, json_t *scope)
{
    if (target->kind == N_NAME) {
        bind(r, target, v, scope);
        return;
    }
    json_t *space = jinja_lookup(r, target->a->s, target->a->n);
    if (!jinja_is_namespace(r, space)) jinja_unknown(r, "sets a member of something else than a namespace");
    else if (v) json_object_setn_nocheck(space, target->s, target->n, v);
    else json_object_deln(space, target->s, target->n);
}

static void assign(jinja_run *r, const jinja_node *targets, json_t *v, json_t *scope)
{
    size_t n = 0, i = 0;
    for (const jinja_node *t = targets; t; t = t->next) n++;
    if (n == 1) assign_one(r, targets, v, scope);
    else if (json_array_size(v) != n) jinja_unknown(r, "%zu names for something else than %zu values", n, n);
    else
        for (const jinja_node *t = targets; t; t = t->next) assign_one(r, t, json_array_get(v, i++), scope);
}

/* What a body prints. */
static json_t *text_of(jinja_run *r, const jinja_node *body)
{
    cl_buf text = {0}, *out = r->out;
    r->out = &text;
    json_t *scope = jinja_scope_push(r);
    if (scope) {
        jinja_run_body(r, body);
        jinja_scope_pop(r);
    }
    r->out = out;
    json_t *v = jinja_string(r, text.data ? text.data : "", text.len);
    cl_buf_free(&text);
    return v;
}

/* A value through the filters of {% set x | filter %}, where it has the name "". */
static json_t *filtered(jinja_run *r, const jinja_node *filters, json_t *v)
{
    json_t *scope = jinja_failed(r) ? NULL : jinja_scope_push(r), *result = NULL;
    if (scope) {
        json_object_set_nocheck(scope, "", v);
        result = jinja_eval(r, filters);
        jinja_scope_pop(r);
    }
    json_decref(v);
    return result;
}

/* {% set %} of a value or of a text, and {% filter %}. */
static void run_set(jinja_run *r, const jinja_node *e, json_t *scope)
{
    json_t *v = e->b ? jinja_eval(r, e->b) : text_of(r, e->d);
    if (e->c) v = filtered(r, e->c, v);
    if (!jinja_failed(r)) {
        if (e->a) assign(r, e->a, v, scope);
        else jinja_print(r, v, r->out);
    }
    json_decref(v);
}

static void run_if(jinja_run *r, const jinja_node *e)
{
    json_t *v = jinja_eval(r, e->a);
    bool yes = jinja_truth(v);
    json_decref(v);
    if (!jinja_failed(r)) jinja_run_body(r, yes ? e->b : e->c);
}

/* The items for which the loop's condition holds. */
static json_t *chosen(jinja_run *r, const jinja_node *e, const json_t *list)
{
    json_t *out = json_array();
    for (size_t i = 0; !jinja_failed(r) && i < json_array_size(list); i++) {
        json_t *item = json_array_get(list, i), *scope = jinja_scope_push(r);
        if (!scope) break;
        assign(r, e->a, item, scope);
        json_t *v = jinja_failed(r) ? NULL : jinja_eval(r, e->c);
        if (jinja_truth(v)) json_array_append(out, item);
        json_decref(v);
        jinja_scope_pop(r);
    }
    return out;
}

static json_t *loop_variable(const json_t *list, json_int_t i, json_int_t n)
{
    json_t *loop = json_pack("{s:I,s:I,s:I,s:I,s:I,s:b,s:b}", "index", i + 1, "index0", i, "revindex", n - i,
                             "revindex0", n - i - 1, "length", n, "first", i == 0, "last", i == n - 1);
    if (i > 0) json_object_set_nocheck(loop, "previtem", json_array_get(list, (size_t)i - 1));
    if (i + 1 < n) json_object_set_nocheck(loop, "nextitem", json_array_get(list, (size_t)i + 1));
    return loop;
}

static void run_rounds(jinja_run *r, const jinja_node *e, const json_t *list)
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n && r->leaving != BREAKS && !jinja_failed(r); i++) {
        json_t *scope = jinja_scope_push(r);
        if (!scope) break;
        assign(r, e->a, json_array_get(list, i), scope);
        json_object_set_new_nocheck(scope, "loop", loop_variable(list, (json_int_t)i, (json_int_t)n));
        jinja_spend(r, 8 * JINJA_STEP_BYTES);
        if (!jinja_failed(r)) jinja_run_body(r, e->d);
        if (r->leaving == CONTINUES) r->leaving = STAYS;
        jinja_scope_pop(r);
    }
    r->leaving = STAYS;
}

static void run_for(jinja_run *r, const jinja_node *e)
{
    json_t *v = jinja_eval(r, e->b), *list = jinja_failed(r) ? NULL : jinja_items_of(r, v);
    json_decref(v);
    if (e->c && !jinja_failed(r)) {
        json_t *some = chosen(r, e, list);
        json_decref(list);
        list = some;
    }
    if (!jinja_failed(r)) {
        if (json_array_size(list)) run_rounds(r, e, list);
        else jinja_run_body(r, e->e);
    }
    json_decref(list);
}

static void run_with(jinja_run *r, const jinja_node *e)
{
    json_t *scope = jinja_scope_push(r);
    if (!scope) return;
    for (const jinja_node *set = e->a; set && !jinja_failed(r); set = set->next) run_set(r, set, scope);
    jinja_run_body(r, e->d);
    jinja_scope_pop(r);
}

static void run_macro(jinja_run *r, const jinja_node *e)
{
    json_t *v = json_pack("{s:b}", "macro", true);
    if (r->n_macros == JINJA_MACROS || !v) {
        json_decref(v);
        jinja_unknown(r, "more than %d macros", JINJA_MACROS);
        return;
    }
    r->macro[r->n_macros++] = (jinja_macro){v, e};
    bind(r, e, v, r->scope[r->n_scopes - 1]);
}

static void print(jinja_run *r, const jinja_node *e)
{
    if (e->kind == N_TUPLE) {
        jinja_unknown(r, "prints a tuple");
        return;
    }
    json_t *v = jinja_eval(r, e);
    if (!jinja_failed(r)) jinja_print(r, v, r->out);
    json_decref(v);
}

static void print_text(jinja_run *r, const jinja_node *e)
{
    jinja_spend(r, e->n);
    if (!jinja_failed(r) && cl_buf_add(r->out, e->s, e->n, NULL) != CL_OK) jinja_unknown(r, "no memory");
}

void jinja_run_body(jinja_run *r, const jinja_node *e)
{
    if (++r->depth > JINJA_DEPTH) jinja_unknown(r, "it is nested too deeply");
    for (; e && !jinja_failed(r) && r->leaving == STAYS; e = e->next) {
        jinja_spend(r, 0);
        switch (e->kind) {
        case N_TEXT: print_text(r, e); break;
        case N_PRINT: print(r, e->a); break;
        case N_IF: run_if(r, e); break;
        case N_FOR: run_for(r, e); break;
        case N_SET: run_set(r, e, r->scope[r->n_scopes - 1]); break;
        case N_WITH: run_with(r, e); break;
        case N_MACRO: run_macro(r, e); break;
        default: r->leaving = e->kind == N_BREAK ? BREAKS : CONTINUES;
        }
        if (r->out->len > JINJA_OUTPUT) jinja_unknown(r, "it prints too much");
    }
    r->depth--;
}

jinja_result jinja_render(const jinja *t, const json_t *vars, const char *date, cl_buf *out, char why[JINJA_WHY])
{
    jinja_run r = {.out = out, .why = why, .n_scopes = 1, .date = date};
    why[0] = 0;
    r.scope[0] = json_copy((json_t *)(uintptr_t)vars);
    r.spaces = json_array();
    r.undefined = json_pack("{s:b}", "undefined", true);
    r.method = json_pack("{s:b}", "method", true);
    if (r.scope[0] && r.spaces && r.undefined && r.method) jinja_run_body(&r, t->body);
    else jinja_unknown(&r, "no memory");
    for (size_t i = 0; i < json_array_size(r.spaces); i++) /* they may hold each other */
        json_object_clear(json_array_get(r.spaces, i));
    json_decref(r.scope[0]);
    for (int i = 0; i < r.n_macros; i++) json_decref(r.macro[i].value);
    json_decref(r.spaces);
    json_decref(r.undefined);
    json_decref(r.method);
    return r.result;
}
