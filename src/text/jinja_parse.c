/* jinja_parse.c: tokens to the tree: statements. */
#include <stdarg.h>
#include <stdlib.h>

#include "jinja_parse.h"

static jinja_node *body(jinja_parser *p);

void *jinja_parse_fail(jinja_parser *p, const char *fmt, ...)
{
    if (p->failed) return NULL;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->why, JINJA_WHY, fmt, ap);
    va_end(ap);
    p->failed = true;
    return NULL;
}

jinja_node *jinja_node_new(jinja_parser *p, jinja_node_kind kind)
{
    jinja_node *node = cl_calloc(1, sizeof *node, "chat template", NULL);
    if (!node) {
        jinja_parse_fail(p, "no memory");
        return &p->spare; /* nothing is made of it any more */
    }
    node->kind = kind;
    node->made = p->t->last;
    p->t->last = node;
    return node;
}

jinja_node *jinja_node_of(jinja_parser *p, jinja_node_kind kind, const jinja_token *name, jinja_node *a, jinja_node *b)
{
    jinja_node *node = jinja_node_new(p, kind);
    if (name) node->s = name->s, node->n = name->n;
    node->a = a;
    node->b = b;
    return node;
}

bool jinja_at(const jinja_parser *p, jinja_token_kind kind, const char *s)
{
    const jinja_token *t = &p->token[p->at];
    return t->kind == kind && (!s || (t->n == strlen(s) && memcmp(t->s, s, t->n) == 0));
}

bool jinja_take(jinja_parser *p, jinja_token_kind kind, const char *s)
{
    bool yes = !p->failed && jinja_at(p, kind, s);
    p->at += yes;
    return yes;
}

const jinja_token *jinja_expect(jinja_parser *p, jinja_token_kind kind, const char *s)
{
    const jinja_token *t = &p->token[p->at];
    if (!jinja_take(p, kind, s))
        jinja_parse_fail(p, "'%.*s' where %s is expected", (int)(t->n < 40 ? t->n : 40), t->s,
                         s ? s : "something else");
    return t;
}

bool jinja_deeper(jinja_parser *p)
{
    if (++p->depth > JINJA_NESTING) jinja_parse_fail(p, "nested too deeply");
    return !p->failed;
}

/* --- statements --- */

/* The tag at hand is {% word. */
static bool tag_is(const jinja_parser *p, const char *word)
{
    const jinja_token *t = &p->token[p->at];
    return t[0].kind == J_BLOCK && t[1].kind == J_NAME && t[1].n == strlen(word) && memcmp(t[1].s, word, t[1].n) == 0;
}

/* {% word %} */
static void closing(jinja_parser *p, const char *word)
{
    jinja_expect(p, J_BLOCK, NULL);
    jinja_expect(p, J_NAME, word);
    jinja_expect(p, J_BLOCK_END, NULL);
}

/* ... %} body */
static jinja_node *block(jinja_parser *p)
{
    jinja_expect(p, J_BLOCK_END, NULL);
    return body(p);
}

static jinja_node *if_statement(jinja_parser *p)
{
    jinja_node *first = NULL, **end = &first;
    do {
        jinja_node *node = jinja_node_new(p, N_IF);
        node->a = jinja_parse_expr(p);
        node->b = block(p);
        *end = node;
        end = &node->c;
        if (!tag_is(p, "elif")) break;
        p->at += 2;
    } while (!p->failed);
    if (!p->failed && tag_is(p, "else")) {
        p->at += 2;
        *end = block(p);
    }
    closing(p, "endif");
    return first;
}

/* x, or x, y, or (x, y); with_members: ns.x too. */
static jinja_node *targets(jinja_parser *p, bool with_members)
{
    jinja_node *first = NULL, **end = &first;
    bool round = jinja_take(p, J_OP, "(");
    do {
        *end = jinja_node_of(p, N_NAME, jinja_expect(p, J_NAME, NULL), NULL, NULL);
        if (with_members && jinja_take(p, J_OP, ".")) {
            jinja_node *member = jinja_node_of(p, N_MEMBER, jinja_expect(p, J_NAME, NULL), *end, NULL);
            *end = member;
        }
        end = &(*end)->next;
    } while (jinja_take(p, J_OP, ","));
    if (round) jinja_expect(p, J_OP, ")");
    return first;
}

static jinja_node *for_statement(jinja_parser *p)
{
    jinja_node *node = jinja_node_new(p, N_FOR);
    node->a = targets(p, false);
    jinja_expect(p, J_NAME, "in");
    node->b = jinja_parse_tuple(p, false); /* "if" belongs to the loop here */
    if (jinja_take(p, J_NAME, "if")) node->c = jinja_parse_expr(p);
    p->loops++;
    node->d = block(p);
    p->loops--;
    if (!p->failed && tag_is(p, "else")) {
        p->at += 2;
        node->e = block(p);
    }
    closing(p, "endfor");
    return node;
}

/* x = value */
static jinja_node *assignment(jinja_parser *p)
{
    jinja_node *node = jinja_node_new(p, N_SET);
    node->a = targets(p, true);
    jinja_expect(p, J_OP, "=");
    node->b = jinja_parse_tuple(p, true);
    return node;
}

/* What a block's filters are applied to. */
static const jinja_token no_name = {J_NAME, "", 0};

static jinja_node *set_statement(jinja_parser *p)
{
    int start = p->at;
    jinja_node *target = targets(p, true), *node;
    if (jinja_at(p, J_OP, "=")) {
        p->at = start;
        node = assignment(p);
        jinja_expect(p, J_BLOCK_END, NULL);
        return node;
    }
    node = jinja_node_of(p, N_SET, NULL, target, NULL); /* {% set x | filter %} text {% endset %} */
    if (target->next) jinja_expect(p, J_OP, "=");
    jinja_node *text = jinja_node_of(p, N_NAME, &no_name, NULL, NULL);
    node->c = jinja_parse_filters(p, text);
    if (node->c == text) node->c = NULL;
    node->d = block(p);
    closing(p, "endset");
    return node;
}

static jinja_node *with_statement(jinja_parser *p)
{
    jinja_node *node = jinja_node_new(p, N_WITH), **end = &node->a;
    while (!p->failed && !jinja_at(p, J_BLOCK_END, NULL)) {
        jinja_node *set = jinja_node_of(p, N_SET, NULL, NULL, NULL);
        set->a = jinja_node_of(p, N_NAME, jinja_expect(p, J_NAME, NULL), NULL, NULL);
        jinja_expect(p, J_OP, "=");
        set->b = jinja_parse_expr(p);
        *end = set;
        end = &set->next;
        if (!jinja_take(p, J_OP, ",")) break;
    }
    node->d = block(p);
    closing(p, "endwith");
    return node;
}

static jinja_node *macro_statement(jinja_parser *p)
{
    jinja_node *node = jinja_node_of(p, N_MACRO, jinja_expect(p, J_NAME, NULL), NULL, NULL), **end = &node->a;
    int loops = p->loops;
    jinja_expect(p, J_OP, "(");
    while (!p->failed && !jinja_take(p, J_OP, ")")) {
        *end = jinja_node_of(p, N_NAMED, jinja_expect(p, J_NAME, NULL), NULL, NULL);
        if (jinja_take(p, J_OP, "=")) (*end)->a = jinja_parse_expr(p);
        end = &(*end)->next;
        if (!jinja_take(p, J_OP, ",") && !jinja_at(p, J_OP, ")")) jinja_expect(p, J_OP, ")");
    }
    p->loops = 0;
    node->d = block(p);
    p->loops = loops;
    closing(p, "endmacro");
    return node;
}

/* {% filter name %} text {% endfilter %}: as if it were set and printed. */
static jinja_node *filter_statement(jinja_parser *p)
{
    jinja_node *node = jinja_node_new(p, N_SET);
    node->c = jinja_parse_filter(p, jinja_node_of(p, N_NAME, &no_name, NULL, NULL));
    node->d = block(p);
    closing(p, "endfilter");
    return node;
}

static jinja_node *leave_statement(jinja_parser *p, jinja_node_kind kind)
{
    jinja_expect(p, J_BLOCK_END, NULL);
    if (!p->loops) jinja_parse_fail(p, "leaves a loop outside of one");
    return jinja_node_new(p, kind);
}

/* Marks of what was generated, for training: only their body counts. */
static jinja_node *generation_statement(jinja_parser *p)
{
    jinja_node *node = jinja_node_new(p, N_WITH);
    node->d = block(p);
    closing(p, "endgeneration");
    return node;
}

static jinja_node *statement(jinja_parser *p)
{
    const jinja_token *t = &p->token[++p->at];
    if (jinja_take(p, J_NAME, "if")) return if_statement(p);
    if (jinja_take(p, J_NAME, "for")) return for_statement(p);
    if (jinja_take(p, J_NAME, "set")) return set_statement(p);
    if (jinja_take(p, J_NAME, "with")) return with_statement(p);
    if (jinja_take(p, J_NAME, "macro")) return macro_statement(p);
    if (jinja_take(p, J_NAME, "filter")) return filter_statement(p);
    if (jinja_take(p, J_NAME, "generation")) return generation_statement(p);
    if (jinja_take(p, J_NAME, "break")) return leave_statement(p, N_BREAK);
    if (jinja_take(p, J_NAME, "continue")) return leave_statement(p, N_CONTINUE);
    return jinja_parse_fail(p, "the statement %.*s is not known", (int)(t->n < 40 ? t->n : 40), t->s);
}

static jinja_node *print_or_text(jinja_parser *p)
{
    const jinja_token *t = &p->token[p->at];
    if (t->kind == J_TEXT) {
        p->at++;
        return jinja_node_of(p, N_TEXT, t, NULL, NULL);
    }
    if (!jinja_take(p, J_OUT, NULL)) return statement(p);
    jinja_node *node = jinja_node_new(p, N_PRINT);
    node->a = jinja_parse_expr(p);
    jinja_expect(p, J_OUT_END, NULL);
    return node;
}

/* Up to a tag that ends or divides a block (not taken), or the end. */
static jinja_node *body(jinja_parser *p)
{
    static const char *const ends[] = {"elif",    "else",     "endif",     "endfor",       "endset",
                                       "endwith", "endmacro", "endfilter", "endgeneration"};
    jinja_node *first = NULL, **end = &first;
    if (jinja_deeper(p))
        while (!p->failed && !jinja_at(p, J_END, NULL)) {
            for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
                if (tag_is(p, ends[i])) goto done;
            jinja_node *node = print_or_text(p);
            if (p->failed) break;
            *end = node;
            end = &node->next;
        }
done:
    p->depth--;
    return first;
}

void jinja_free(jinja *t)
{
    if (!t) return;
    for (jinja_node *node = t->last, *before; node; node = before) {
        before = node->made;
        json_decref(node->value);
        free(node);
    }
    free(t->text);
    free(t);
}

/* As Jinja does: every kind of line end is \n. */
static char *copy_of(const char *text)
{
    char *copy = cl_strdup(text, NULL), *to = copy;
    if (!copy) return NULL;
    for (const char *s = copy; *s; s++) {
        if (*s == '\r' && s[1] == '\n') continue;
        *to++ = *s == '\r' ? '\n' : *s;
    }
    *to = 0;
    return copy;
}

jinja *jinja_compile(const char *text, char why[JINJA_WHY])
{
    snprintf(why, JINJA_WHY, "no memory");
    jinja *t = cl_calloc(1, sizeof *t, "chat template", NULL);
    if (!t) return NULL;
    t->text = copy_of(text);
    jinja_token *token = t->text ? jinja_lex(t->text, why) : NULL;
    jinja_parser p = {.t = t, .token = token, .why = why, .failed = !token};
    if (token) {
        t->body = body(&p);
        if (!jinja_at(&p, J_END, NULL)) jinja_parse_fail(&p, "a block ends that did not begin");
    }
    free(token);
    if (!p.failed) return t;
    jinja_free(t);
    return NULL;
}
