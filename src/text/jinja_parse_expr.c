/* jinja_parse_expr.c: tokens to the tree: expressions, by the precedence that Jinja gives to operators. */
#include <stdlib.h>

#include "jinja_parse.h"

static jinja_node *unary(jinja_parser *p, bool with_filters);

/* --- literals --- */

/* Bytes of the escape at s (behind its backslash) into b. */
static size_t add_escape(jinja_parser *p, const char *s, size_t n, cl_buf *b)
{
    static const char letters[] = "ntrabfv0\\'\"\n", meant[] = "\n\t\r\a\b\f\v\0\\'\"";
    const char *at = strchr(letters, *s);
    if (at && *at) {
        if (*s != '\n') cl_buf_add(b, &meant[at - letters], 1, NULL); /* a backslash at the end of a line joins lines */
        return 1;
    }
    size_t digits = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
    if (!digits) {
        cl_buf_add(b, "\\", 1, NULL); /* kept as it stands */
        return 0;
    }
    char hex[9] = {0}, *end;
    memcpy(hex, s + 1, digits < n ? digits : n - 1);
    unsigned long c = strtoul(hex, &end, 16);
    if ((size_t)(end - hex) != digits || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        jinja_parse_fail(p, "a string has the escape \\%c%s", *s, hex);
    unsigned char out[4] = {(unsigned char)(0xf0 | c >> 18), (unsigned char)(0x80 | (c >> 12 & 63)),
                            (unsigned char)(0x80 | (c >> 6 & 63)), (unsigned char)(0x80 | (c & 63))};
    int first = c < 0x80 ? 3 : c < 0x800 ? 2 : c < 0x10000 ? 1 : 0;
    if (first == 3) out[3] = (unsigned char)c;
    if (first == 2) out[2] = (unsigned char)(0xc0 | c >> 6);
    if (first == 1) out[1] = (unsigned char)(0xe0 | c >> 12);
    cl_buf_add(b, out + first, (size_t)(4 - first), NULL);
    return 1 + digits;
}

static jinja_node *string_literal(jinja_parser *p)
{
    cl_buf b = {0};
    while (jinja_at(p, J_STRING, NULL) && !p->failed) { /* neighbours are joined */
        const jinja_token *t = &p->token[p->at++];
        for (size_t i = 0; i < t->n;)
            if (t->s[i] == '\\' && i + 1 < t->n) i += 1 + add_escape(p, t->s + i + 1, t->n - i - 1, &b);
            else cl_buf_add(&b, &t->s[i++], 1, NULL);
    }
    jinja_node *node = jinja_node_new(p, N_CONST);
    node->value = json_stringn_nocheck(b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return node;
}

static jinja_node *number_literal(jinja_parser *p, const jinja_token *t)
{
    char digits[64];
    size_t n = 0;
    for (size_t i = 0; i < t->n && n + 1 < sizeof digits; i++)
        if (t->s[i] != '_') digits[n++] = t->s[i];
    digits[n] = 0;
    jinja_node *node = jinja_node_new(p, N_CONST);
    int64_t whole;
    double real;
    if (cl_parse_int(digits, 0, INT64_MAX, &whole)) node->value = json_integer(whole);
    else if (strpbrk(digits, ".eE") && cl_parse_double(digits, 0, 1e308, &real)) node->value = json_real(real);
    else jinja_parse_fail(p, "the number %s", digits);
    return node;
}

/* Items up to `end`; pairs: key: value. */
static jinja_node *items(jinja_parser *p, jinja_node_kind kind, const char *close, bool pairs)
{
    jinja_node *node = jinja_node_new(p, kind), **end = &node->a;
    while (!p->failed && !jinja_take(p, J_OP, close)) {
        for (int k = 0; k < (pairs ? 2 : 1) && !p->failed; k++) {
            if (k) jinja_expect(p, J_OP, ":");
            jinja_node *item = jinja_parse_expr(p);
            if (!item) return NULL;
            *end = item;
            end = &item->next;
        }
        if (!jinja_take(p, J_OP, ",") && !jinja_at(p, J_OP, close)) jinja_expect(p, J_OP, close);
    }
    return node;
}

static jinja_node *constant(jinja_parser *p, json_t *value)
{
    jinja_node *node = jinja_node_new(p, N_CONST);
    node->value = value;
    return node;
}

static jinja_node *in_brackets(jinja_parser *p)
{
    if (jinja_take(p, J_OP, ")")) return jinja_node_new(p, N_TUPLE);
    jinja_node *node = jinja_parse_tuple(p, true);
    jinja_expect(p, J_OP, ")");
    return node;
}

static jinja_node *primary(jinja_parser *p)
{
    const jinja_token *t = &p->token[p->at];
    if (t->kind == J_STRING) return string_literal(p);
    if (jinja_take(p, J_OP, "(")) return in_brackets(p);
    if (jinja_take(p, J_OP, "[")) return items(p, N_LIST, "]", false);
    if (jinja_take(p, J_OP, "{")) return items(p, N_DICT, "}", true);
    if (jinja_take(p, J_NUMBER, NULL)) return number_literal(p, t);
    if (jinja_take(p, J_NAME, "true") || jinja_take(p, J_NAME, "True")) return constant(p, json_true());
    if (jinja_take(p, J_NAME, "false") || jinja_take(p, J_NAME, "False")) return constant(p, json_false());
    if (jinja_take(p, J_NAME, "none") || jinja_take(p, J_NAME, "None")) return constant(p, json_null());
    if (jinja_take(p, J_NAME, NULL)) return jinja_node_of(p, N_NAME, t, NULL, NULL);
    return jinja_parse_fail(p, "'%.*s' in an expression", (int)(t->n < 40 ? t->n : 40), t->s);
}

/* --- what follows a value --- */

/* "(" is taken: arguments up to ")". */
static jinja_node *arguments(jinja_parser *p)
{
    jinja_node *first = NULL, **end = &first;
    while (!p->failed && !jinja_take(p, J_OP, ")")) {
        const jinja_token *t = &p->token[p->at];
        bool named = t[0].kind == J_NAME && t[1].kind == J_OP && t[1].n == 1 && *t[1].s == '=';
        if (named) p->at += 2;
        jinja_node *value = jinja_parse_expr(p);
        if (!value) return NULL;
        *end = named ? jinja_node_of(p, N_NAMED, t, value, NULL) : value;
        end = &(*end)->next;
        if (!jinja_take(p, J_OP, ",") && !jinja_at(p, J_OP, ")")) jinja_expect(p, J_OP, ")");
    }
    return first;
}

/* "[" is taken. */
static jinja_node *subscript(jinja_parser *p, jinja_node *of)
{
    jinja_node *part[3] = {NULL, NULL, NULL};
    int n = 0;
    while (!p->failed && !jinja_take(p, J_OP, "]")) {
        if (jinja_take(p, J_OP, ":")) {
            if (++n > 2) jinja_parse_fail(p, "a slice with more than 3 parts");
        } else if (part[n]) jinja_expect(p, J_OP, "]");
        else part[n] = jinja_parse_expr(p);
    }
    if (!n && !part[0]) return jinja_parse_fail(p, "'[]' behind a value");
    jinja_node *node = jinja_node_of(p, n ? N_SLICE : N_INDEX, NULL, of, part[0]);
    node->c = part[1];
    node->d = part[2];
    return node;
}

static jinja_node *postfix(jinja_parser *p, jinja_node *node)
{
    while (!p->failed) {
        if (jinja_take(p, J_OP, ".")) node = jinja_node_of(p, N_MEMBER, jinja_expect(p, J_NAME, NULL), node, NULL);
        else if (jinja_take(p, J_OP, "[")) node = subscript(p, node);
        else if (jinja_take(p, J_OP, "(")) node = jinja_node_of(p, N_CALL, NULL, node, arguments(p));
        else break;
    }
    return node;
}

jinja_node *jinja_parse_filter(jinja_parser *p, jinja_node *of)
{
    jinja_node *node = jinja_node_of(p, N_FILTER, jinja_expect(p, J_NAME, NULL), of, NULL);
    if (jinja_take(p, J_OP, "(")) node->b = arguments(p);
    return node;
}

/* "is" is taken. A test's one argument may stand without brackets. */
static jinja_node *test(jinja_parser *p, jinja_node *of)
{
    static const char *const words[] = {"else", "or", "and", "is", "if", "in", "not"};
    bool not = jinja_take(p, J_NAME, "not");
    jinja_node *node = jinja_node_of(p, N_TEST, jinja_expect(p, J_NAME, NULL), of, NULL);
    bool value = jinja_at(p, J_NAME, NULL) || jinja_at(p, J_STRING, NULL) || jinja_at(p, J_NUMBER, NULL) ||
                 jinja_at(p, J_OP, "[") || jinja_at(p, J_OP, "{");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) value = value && !jinja_at(p, J_NAME, words[i]);
    if (jinja_take(p, J_OP, "(")) node->b = arguments(p);
    else if (value) node->b = postfix(p, primary(p));
    return not ? jinja_node_of(p, N_NOT, NULL, node, NULL) : node;
}

jinja_node *jinja_parse_filters(jinja_parser *p, jinja_node *of)
{
    while (!p->failed) {
        if (jinja_take(p, J_OP, "|")) of = jinja_parse_filter(p, of);
        else if (jinja_take(p, J_NAME, "is")) of = test(p, of);
        else break;
    }
    return of;
}

static jinja_node *unary(jinja_parser *p, bool with_filters)
{
    jinja_node *node = NULL;
    if (jinja_deeper(p)) {
        if (jinja_take(p, J_OP, "-")) node = jinja_node_of(p, N_MINUS, NULL, unary(p, false), NULL);
        else if (jinja_take(p, J_OP, "+")) node = unary(p, false);
        else node = primary(p);
        node = postfix(p, node);
        if (with_filters) node = jinja_parse_filters(p, node);
    }
    p->depth--;
    return p->failed ? NULL : node;
}

/* --- operators --- */

typedef jinja_node *(*parse)(jinja_parser *);

/* part OP part OP ..., from the left. */
static jinja_node *from_left(jinja_parser *p, const char *const *operators, parse part)
{
    jinja_node *node = part(p);
    for (const char *const *op = operators; *op && !p->failed;) {
        const jinja_token *t = &p->token[p->at];
        if (!jinja_take(p, J_OP, *op)) {
            op++;
            continue;
        }
        node = jinja_node_of(p, N_BINARY, t, node, part(p));
        op = operators;
    }
    return node;
}

static jinja_node *one(jinja_parser *p) { return unary(p, true); }

static jinja_node *power(jinja_parser *p)
{
    static const char *const ops[] = {"**", NULL};
    return from_left(p, ops, one);
}

static jinja_node *product(jinja_parser *p)
{
    static const char *const ops[] = {"*", "/", "//", "%", NULL};
    return from_left(p, ops, power);
}

static jinja_node *joined(jinja_parser *p)
{
    static const char *const ops[] = {"~", NULL};
    return from_left(p, ops, product);
}

static jinja_node *sum(jinja_parser *p)
{
    static const char *const ops[] = {"+", "-", NULL};
    return from_left(p, ops, joined);
}

/* An operand of a comparison with its operator, or NULL if there is none. */
static jinja_node *operand(jinja_parser *p)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">", NULL};
    static const jinja_token not_in = {J_NAME, "not in", 6};
    const jinja_token *t = &p->token[p->at];
    for (const char *const *op = ops; *op; op++)
        if (jinja_take(p, J_OP, *op)) return jinja_node_of(p, N_COMPARE, t, sum(p), NULL);
    if (jinja_take(p, J_NAME, "in")) return jinja_node_of(p, N_COMPARE, t, sum(p), NULL);
    if (!jinja_at(p, J_NAME, "not") || t[1].kind != J_NAME || t[1].n != 2 || memcmp(t[1].s, "in", 2) != 0) return NULL;
    p->at += 2;
    return jinja_node_of(p, N_COMPARE, &not_in, sum(p), NULL);
}

static jinja_node *comparison(jinja_parser *p)
{
    jinja_node *first = sum(p), *list = NULL, **end = &list, *next;
    while (!p->failed && (next = operand(p))) {
        *end = next;
        end = &next->next;
    }
    return list ? jinja_node_of(p, N_COMPARE, NULL, first, list) : first;
}

static jinja_node *negation(jinja_parser *p)
{
    if (!jinja_take(p, J_NAME, "not")) return comparison(p);
    jinja_node *node = NULL;
    if (jinja_deeper(p)) node = jinja_node_of(p, N_NOT, NULL, negation(p), NULL);
    p->depth--;
    return node;
}

static jinja_node *logic(jinja_parser *p, jinja_node_kind kind, const char *word, parse part)
{
    jinja_node *node = part(p);
    while (!p->failed && jinja_take(p, J_NAME, word)) node = jinja_node_of(p, kind, NULL, node, part(p));
    return node;
}

static jinja_node *conjunction(jinja_parser *p) { return logic(p, N_AND, "and", negation); }
jinja_node *jinja_parse_or(jinja_parser *p) { return logic(p, N_OR, "or", conjunction); }

jinja_node *jinja_parse_expr(jinja_parser *p)
{
    jinja_node *node = NULL;
    if (jinja_deeper(p)) {
        node = jinja_parse_or(p);
        while (!p->failed && jinja_take(p, J_NAME, "if")) {
            node = jinja_node_of(p, N_CHOICE, NULL, node, jinja_parse_or(p));
            if (jinja_take(p, J_NAME, "else")) node->c = jinja_parse_expr(p);
        }
    }
    p->depth--;
    return p->failed ? NULL : node;
}

jinja_node *jinja_parse_tuple(jinja_parser *p, bool with_choice)
{
    parse part = with_choice ? jinja_parse_expr : jinja_parse_or;
    jinja_node *first = part(p);
    if (p->failed || !jinja_at(p, J_OP, ",")) return first;
    jinja_node *node = jinja_node_of(p, N_TUPLE, NULL, first, NULL);
    for (jinja_node **end = &first->next; jinja_take(p, J_OP, ",") && !p->failed;) {
        if (jinja_at(p, J_OP, ")") || jinja_at(p, J_BLOCK_END, NULL)) break;
        if (!(*end = part(p))) break;
        end = &(*end)->next;
    }
    return node;
}
