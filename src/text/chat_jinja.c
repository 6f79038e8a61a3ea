/* chat_jinja.c: a template's statements. A body is run by going through its tokens; a branch that is not taken is
 * parsed with j->skip set. */
#include "chat_jinja.h"

#include <stdlib.h>

static void body(cl_jinja *j);

/* The tag at hand is {% word. */
static bool tag_is(const cl_jinja *j, const char *word)
{
    return j->token[j->at].kind == J_BLOCK && j->token[j->at + 1].kind == J_NAME &&
           j->token[j->at + 1].n == strlen(word) && memcmp(j->token[j->at + 1].s, word, j->token[j->at + 1].n) == 0;
}

/* {% word %} */
static void closing(cl_jinja *j, const char *word)
{
    cl_jinja_expect(j, J_BLOCK, NULL);
    cl_jinja_expect(j, J_NAME, word);
    cl_jinja_expect(j, J_BLOCK_END, NULL);
}

/* A body that runs only if `run`. */
static void body_if(cl_jinja *j, bool run)
{
    bool skip = j->skip;
    j->skip = skip || !run;
    body(j);
    j->skip = skip || j->leaving;
}

static void if_statement(cl_jinja *j)
{
    bool taken = false, yes;
    do {
        bool skip = j->skip;
        j->skip = skip || taken;
        json_t *v = cl_jinja_expr(j);
        yes = !j->skip && cl_jinja_truth(v);
        json_decref(v);
        j->skip = skip;
        cl_jinja_expect(j, J_BLOCK_END, NULL);
        body_if(j, yes);
        taken = taken || yes;
        if (!tag_is(j, "elif")) break;
        j->at += 2;
    } while (!cl_jinja_failed(j));
    if (!cl_jinja_failed(j) && tag_is(j, "else")) {
        closing(j, "else");
        body_if(j, !taken);
    }
    closing(j, "endif");
}

static json_t *loop_variable(json_int_t i, json_int_t n)
{
    return json_pack("{s:I,s:I,s:I,s:b,s:b}", "index", i + 1, "index0", i, "length", n, "first", i == 0, "last",
                     i == n - 1);
}

/* The names that a loop binds: x, or x and y. */
typedef struct targets {
    cl_jinja_token name[2];
    int n;
} targets;

static json_t *push_scope(cl_jinja *j)
{
    json_t *scope = json_object();
    if (j->n_scopes == CL_JINJA_DEPTH) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "loops nested too deeply");
    else j->scope[j->n_scopes++] = json_incref(scope);
    return scope;
}

static void pop_scope(cl_jinja *j, json_t *scope)
{
    if (j->scope[j->n_scopes - 1] == scope) json_decref(j->scope[--j->n_scopes]);
    json_decref(scope);
}

static void bind(const targets *t, const json_t *item, json_t *scope)
{
    for (int k = 0; k < t->n; k++)
        json_object_setn_nocheck(scope, t->name[k].s, t->name[k].n,
                                 t->n == 1 ? (json_t *)(uintptr_t)item : json_array_get(item, (size_t)k));
}

/* The items for which the loop's condition (at token `cond`) holds. */
static json_t *chosen(cl_jinja *j, const targets *t, const json_t *list, int cond)
{
    json_t *out = json_array();
    int end = j->at;
    for (size_t i = 0; !cl_jinja_failed(j) && i < json_array_size(list); i++) {
        json_t *scope = push_scope(j);
        bind(t, json_array_get(list, i), scope);
        j->at = cond;
        json_t *v = cl_jinja_expr(j);
        if (cl_jinja_truth(v)) json_array_append(out, json_array_get(list, i));
        json_decref(v);
        pop_scope(j, scope);
    }
    j->at = end;
    return out;
}

static void rounds(cl_jinja *j, const targets *t, const json_t *list)
{
    int start = j->at;
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n && !j->broken && !cl_jinja_failed(j); i++) {
        json_t *scope = push_scope(j);
        bind(t, json_array_get(list, i), scope);
        json_object_set_new_nocheck(scope, "loop", loop_variable((json_int_t)i, (json_int_t)n));
        j->at = start;
        body(j);
        j->leaving = j->skip = false;
        pop_scope(j, scope);
        cl_jinja_spend(j, 0);
    }
}

static void for_statement(cl_jinja *j)
{
    targets t = {.n = 0};
    do {
        t.name[t.n++] = j->token[j->at];
        cl_jinja_expect(j, J_NAME, NULL);
    } while (t.n < 2 && cl_jinja_take(j, J_OP, ","));
    cl_jinja_expect(j, J_NAME, "in");
    json_t *list = cl_jinja_or(j); /* "if" belongs to the loop here; what is undefined is empty */
    if (list && !j->skip && !json_is_array(list))
        cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a loop over something that is no list");
    if (!j->skip && list && t.n == 2)
        for (size_t i = 0; i < json_array_size(list); i++)
            if (json_array_size(json_array_get(list, i)) != 2)
                cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a loop with two names over other things than pairs");
    if (cl_jinja_take(j, J_NAME, "if")) {
        int cond = j->at;
        bool skip = j->skip;
        j->skip = true;
        json_decref(cl_jinja_expr(j));
        j->skip = skip;
        if (!skip && !cl_jinja_failed(j)) {
            json_t *some = chosen(j, &t, list, cond);
            json_decref(list);
            list = some;
        }
    }
    cl_jinja_expect(j, J_BLOCK_END, NULL);
    bool empty = json_array_size(list) == 0;
    if (j->skip || empty) body_if(j, false);
    else if (!cl_jinja_failed(j)) {
        rounds(j, &t, list); /* a round that was left went on to the body's end, passing over the rest */
        j->broken = false;
    }
    if (!cl_jinja_failed(j) && tag_is(j, "else")) {
        closing(j, "else");
        body_if(j, empty);
    }
    closing(j, "endfor");
    json_decref(list);
}

static void set_statement(cl_jinja *j)
{
    cl_jinja_token name = j->token[j->at], attr = {J_END, "", 0};
    cl_jinja_expect(j, J_NAME, NULL);
    if (cl_jinja_take(j, J_OP, ".")) {
        attr = j->token[j->at];
        cl_jinja_expect(j, J_NAME, NULL);
    }
    json_t *v = NULL;
    if (cl_jinja_take(j, J_OP, "=")) {
        v = cl_jinja_expr(j);
        cl_jinja_expect(j, J_BLOCK_END, NULL);
    } else { /* {% set x %} text {% endset %} */
        cl_buf text = {0}, *out = j->out;
        cl_jinja_expect(j, J_BLOCK_END, NULL);
        j->out = &text;
        body(j);
        j->out = out;
        closing(j, "endset");
        v = json_stringn_nocheck(text.data ? text.data : "", text.len);
        cl_buf_free(&text);
    }
    if (j->skip || cl_jinja_failed(j)) {
        json_decref(v);
        return;
    }
    json_t *where = j->scope[j->n_scopes - 1];
    if (attr.n) {
        where = cl_jinja_lookup(j, name.s, name.n);
        name = attr;
    }
    if (!where || !json_is_object(where)) {
        json_decref(v);
        cl_jinja_fail(j, CL_JINJA_UNKNOWN, "sets a member of something else than a namespace");
    } else if (v) json_object_setn_new_nocheck(where, name.s, name.n, v);
    else json_object_deln(where, name.s, name.n);
}

/* Macros are kept as places in the template; what they do is looked at when they are called. */
static void macro_statement(cl_jinja *j)
{
    cl_jinja_macro m = {j->token[j->at], j->at + 1};
    cl_jinja_expect(j, J_NAME, NULL);
    while (!cl_jinja_failed(j) && j->token[j->at].kind != J_BLOCK_END && j->token[j->at].kind != J_END) j->at++;
    cl_jinja_expect(j, J_BLOCK_END, NULL);
    body_if(j, false);
    closing(j, "endmacro");
    if (j->skip || cl_jinja_failed(j)) return;
    if (j->n_macros == CL_JINJA_MACROS) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "more than %d macros", CL_JINJA_MACROS);
    else j->macro[j->n_macros++] = m;
}

/* (a, b=default) %}: values into scope, by place, by name, or the default. */
static void bind_parameters(cl_jinja *j, const cl_jinja_args *a, json_t *scope)
{
    int n = 0;
    size_t n_named = 0;
    cl_jinja_expect(j, J_OP, "(");
    for (; !cl_jinja_failed(j) && !cl_jinja_take_op(j, ")"); n++) {
        cl_jinja_token name = j->token[j->at];
        json_t *v = NULL;
        cl_jinja_expect(j, J_NAME, NULL);
        if (cl_jinja_take_op(j, "=")) v = cl_jinja_expr(j);
        json_t *named = json_object_getn(a->names, name.s, name.n), *given = n < a->n ? a->v[n] : named;
        n_named += named && n >= a->n;
        if (given) {
            json_decref(v);
            v = json_incref(given);
        }
        if (v) json_object_setn_new_nocheck(scope, name.s, name.n, v);
        if (!cl_jinja_take_op(j, ",") && !cl_jinja_is(j, J_OP, ")")) cl_jinja_expect(j, J_OP, ")");
    }
    cl_jinja_expect(j, J_BLOCK_END, NULL);
    if (a->n > n || json_object_size(a->names) > n_named)
        cl_jinja_fail(j, CL_JINJA_UNKNOWN, "a macro called with arguments that it does not take");
}

bool cl_jinja_call_macro(cl_jinja *j, const cl_jinja_token *name, const cl_jinja_args *a, json_t **v)
{
    int k = j->n_macros - 1, back = j->at, base = j->base;
    while (k >= 0 && (j->macro[k].name.n != name->n || memcmp(j->macro[k].name.s, name->s, name->n) != 0)) k--;
    if (k < 0) return false;
    cl_buf text = {0}, *out = j->out;
    json_t *scope = push_scope(j);
    *v = NULL;
    if (!cl_jinja_failed(j)) {
        j->base = j->n_scopes - 1;
        j->at = j->macro[k].at;
        bind_parameters(j, a, scope);
        j->out = &text;
        if (!cl_jinja_failed(j)) body(j);
        if (!cl_jinja_failed(j)) *v = json_stringn_nocheck(text.data ? text.data : "", text.len);
        j->out = out;
        j->at = back;
        j->base = base;
    }
    pop_scope(j, scope);
    cl_buf_free(&text);
    return true;
}

static void statement(cl_jinja *j)
{
    j->at++;
    if (cl_jinja_take(j, J_NAME, "if")) if_statement(j);
    else if (cl_jinja_take(j, J_NAME, "for")) for_statement(j);
    else if (cl_jinja_take(j, J_NAME, "set")) set_statement(j);
    else if (cl_jinja_take(j, J_NAME, "macro")) macro_statement(j);
    else if (cl_jinja_take(j, J_NAME, "generation") || cl_jinja_take(j, J_NAME, "endgeneration"))
        cl_jinja_expect(j, J_BLOCK_END, NULL); /* marks only */
    else if (cl_jinja_is(j, J_NAME, "break") || cl_jinja_is(j, J_NAME, "continue")) {
        bool leave = cl_jinja_is(j, J_NAME, "break");
        j->at++;
        cl_jinja_expect(j, J_BLOCK_END, NULL);
        if (!j->skip) {
            if (j->n_scopes - j->base < 2) cl_jinja_fail(j, CL_JINJA_UNKNOWN, "leaves a loop outside of one");
            j->broken = leave;
            j->leaving = j->skip = true;
        }
    } else
        cl_jinja_fail(j, CL_JINJA_UNKNOWN, "the statement %.*s", (int)(j->token[j->at].n < 40 ? j->token[j->at].n : 40),
                      j->token[j->at].s);
}

/* Up to a tag that ends or divides a block (not taken), or the end. */
static void body(cl_jinja *j)
{
    static const char *const ends[] = {"elif", "else", "endif", "endfor", "endset", "endmacro"};
    if (cl_jinja_enter(j)) {
        while (!cl_jinja_failed(j)) {
            const cl_jinja_token *t = &j->token[j->at];
            bool end = t->kind == J_END;
            for (size_t i = 0; !end && i < sizeof ends / sizeof *ends; i++) end = tag_is(j, ends[i]);
            if (end) break;
            if (t->kind == J_TEXT) {
                j->at++;
                if (!j->skip && (cl_buf_add(j->out, t->s, t->n, NULL) != CL_OK || j->out->len > CL_JINJA_OUTPUT))
                    cl_jinja_fail(j, CL_JINJA_UNKNOWN, "prints too much");
            } else if (cl_jinja_take(j, J_OUT, NULL)) {
                json_t *v = cl_jinja_expr(j);
                cl_jinja_expect(j, J_OUT_END, NULL);
                if (!j->skip) cl_jinja_print(j, v, j->out);
                json_decref(v);
            } else statement(j);
        }
    }
    j->depth--;
}

cl_jinja_result cl_jinja_render(const char *text, const json_t *vars, cl_buf *out, char why[CL_JINJA_WHY])
{
    why[0] = 0;
    cl_jinja j = {.out = out, .why = why, .n_scopes = 1, .token = cl_jinja_lex(text, why)};
    if (!j.token) return CL_JINJA_UNKNOWN;
    j.scope[0] = json_copy((json_t *)(uintptr_t)vars);
    body(&j);
    if (!cl_jinja_failed(&j) && j.token[j.at].kind != J_END)
        cl_jinja_fail(&j, CL_JINJA_UNKNOWN, "a block ends that did not begin");
    json_decref(j.scope[0]);
    free(j.token);
    return j.result;
}
