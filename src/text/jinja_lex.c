/* jinja_lex.c: a template's text to tokens, white space around tags taken care of. */
#include <ctype.h>
#include <stdlib.h>

#include "jinja_inside.h"

typedef struct lexer {
    const char *p, *end;
    bool line_start; /* p is at the start of a line, as far as lstrip_blocks cares */
    jinja_token *v;
    int n, cap;
    char *why;
    bool failed;
} lexer;

static void fail(lexer *l, const char *why)
{
    if (!l->failed) snprintf(l->why, JINJA_WHY, "%s", why);
    l->failed = true;
}

static void add(lexer *l, jinja_token_kind kind, const char *s, size_t n)
{
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 256;
        jinja_token *v = cl_realloc(l->v, (size_t)cap, sizeof *v, "chat template", NULL);
        if (!v) {
            fail(l, "no memory");
            return;
        }
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = (jinja_token){kind, s, n};
}

/* The text up to the tag at `end` (or the template's end), without what the tag swallows on its left. */
static void add_text(lexer *l, const char *end, char tag, char sign)
{
    const char *s = l->p, *e = end;
    size_t n = (size_t)(e - s);
    if (sign == '-') {
        jinja_strip(&s, &n, false, true);
        e = s + n;
    } else if ((tag == '%' || tag == '#') && sign != '+') { /* lstrip_blocks */
        const char *b = e;
        while (b > s && (b[-1] == ' ' || b[-1] == '\t')) b--;
        if (b > s ? b[-1] == '\n' : l->line_start) e = b;
    }
    if (e > s) add(l, J_TEXT, s, (size_t)(e - s));
}

/* Behind a tag's end: "-" swallows all white space; trim_blocks the first newline behind a block or comment. */
static void after_tag(lexer *l, bool strip, bool block)
{
    const char *s = l->p;
    size_t n = strlen(l->p);
    if (strip) jinja_strip(&l->p, &n, true, false);
    else if (block && *l->p == '\n') l->p++;
    l->line_start = l->p > s && l->p[-1] == '\n';
}

static void lex_string(lexer *l)
{
    char quote = *l->p;
    const char *s = ++l->p;
    while (*l->p && *l->p != quote) l->p += l->p[0] == '\\' && l->p[1] ? 2 : 1;
    if (!*l->p) {
        fail(l, "a string does not end");
        return;
    }
    add(l, J_STRING, s, (size_t)(l->p - s));
    l->p++;
}

static void lex_number(lexer *l)
{
    const char *s = l->p;
    while (isdigit((unsigned char)*l->p) || *l->p == '_') l->p++;
    if (*l->p == '.' && isdigit((unsigned char)l->p[1]))
        for (l->p++; isdigit((unsigned char)*l->p);) l->p++;
    size_t sign = l->p[0] && (l->p[1] == '-' || l->p[1] == '+');
    if ((*l->p == 'e' || *l->p == 'E') && isdigit((unsigned char)l->p[1 + sign]))
        for (l->p += 1 + sign; isdigit((unsigned char)*l->p);) l->p++;
    add(l, J_NUMBER, s, (size_t)(l->p - s));
}

static void lex_operator(lexer *l)
{
    static const char *const pairs[] = {"==", "!=", "<=", ">=", "//", "**"};
    size_t n = 1;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strncmp(l->p, pairs[i], 2) == 0) n = 2;
    add(l, J_OP, l->p, n);
    l->p += n;
}

/* Up to the tag's end. In brackets a brace closes a mapping, as in {{ {'a': {}} }}. */
static void lex_tag(lexer *l, char close)
{
    for (int braces = 0; !l->failed;) {
        while (isspace((unsigned char)*l->p)) l->p++;
        const char *s = l->p;
        bool sign = (*s == '-' || *s == '+') && s[1] == close && s[2] == '}';
        if (!braces && (sign || (*s == close && s[1] == '}'))) {
            add(l, close == '%' ? J_BLOCK_END : J_OUT_END, s, 0);
            l->p += sign ? 3 : 2;
            after_tag(l, sign && *s == '-', close == '%' && !(sign && *s == '+'));
            return;
        }
        braces += *s == '{' ? 1 : *s == '}' ? -1 : 0;
        if (!*s) fail(l, "a tag does not end");
        else if (isalpha((unsigned char)*s) || *s == '_') {
            while (isalnum((unsigned char)*l->p) || *l->p == '_') l->p++;
            add(l, J_NAME, s, (size_t)(l->p - s));
        } else if (isdigit((unsigned char)*s)) lex_number(l);
        else if (*s == '\'' || *s == '"') lex_string(l);
        else if (ispunct((unsigned char)*s)) lex_operator(l);
        else fail(l, "a character that belongs to no expression");
    }
}

static void lex_comment(lexer *l)
{
    const char *s = l->p, *e = strstr(s, "#}");
    if (!e) fail(l, "a comment does not end");
    else {
        l->p = e + 2;
        after_tag(l, e > s && e[-1] == '-', true);
    }
}

/* The tag {% word %} at p: its end, else NULL. *before, *after: it swallows the white space there. */
static const char *simple_tag(const char *p, const char *word, bool *before, bool *after)
{
    if (strncmp(p, "{%", 2) != 0) return NULL;
    p += 2;
    *before = *p == '-';
    p += *p == '-' || *p == '+';
    p += strspn(p, " \t\n");
    if (strncmp(p, word, strlen(word)) != 0) return NULL;
    p += strlen(word);
    p += strspn(p, " \t\n");
    *after = *p == '-';
    p += *p == '-' || *p == '+';
    return strncmp(p, "%}", 2) == 0 ? p + 2 : NULL;
}

/* {% raw %} at p: what follows up to {% endraw %} is text. False if there is no such tag. */
static bool lex_raw(lexer *l)
{
    bool before, after, last_before = false, last_after = false;
    const char *s = simple_tag(l->p, "raw", &before, &after), *e = s, *next = NULL;
    if (!s) return false;
    while (*e && !(next = simple_tag(e, "endraw", &last_before, &last_after))) e++;
    if (!next) fail(l, "{% raw %} does not end");
    else {
        l->p = s;
        after_tag(l, after, false);
        add_text(l, e, '%', last_before ? '-' : 0);
        l->p = next;
        after_tag(l, last_after, true);
    }
    return true;
}

static void lex_text_and_tag(lexer *l)
{
    const char *tag = l->p;
    while (tag < l->end && !(*tag == '{' && (tag[1] == '{' || tag[1] == '%' || tag[1] == '#'))) tag++;
    if (tag >= l->end) {
        add(l, J_TEXT, l->p, (size_t)(l->end - l->p));
        l->p = l->end;
        return;
    }
    char kind = tag[1], sign = tag[2] == '-' || tag[2] == '+' ? tag[2] : 0;
    add_text(l, tag, kind, sign);
    l->p = tag;
    if (kind == '%' && lex_raw(l)) return;
    l->p = tag + 2 + (sign != 0);
    if (kind == '#') {
        lex_comment(l);
        return;
    }
    add(l, kind == '%' ? J_BLOCK : J_OUT, tag, 0);
    lex_tag(l, kind == '%' ? '%' : '}');
}

jinja_token *jinja_lex(const char *text, char why[JINJA_WHY])
{
    size_t len = strlen(text);
    lexer l = {.p = text, .line_start = true, .why = why};
    l.end = text + len - (len && text[len - 1] == '\n'); /* Jinja drops one newline at the end */
    while (!l.failed && l.p < l.end) lex_text_and_tag(&l);
    add(&l, J_END, "", 0);
    if (!l.failed) return l.v;
    free(l.v);
    return NULL;
}
