/* chat_jinja_lex.c: a template's text to tokens, white space around tags taken care of. */
#include <ctype.h>
#include <stdlib.h>

#include "chat_jinja.h"

typedef struct lexer {
    const char *p;
    bool line_start; /* p is at the start of a line, as far as lstrip_blocks cares */
    cl_jinja_token *v;
    int n, cap;
    char *why;
    bool failed;
} lexer;

static void fail(lexer *l, const char *why)
{
    if (!l->failed) snprintf(l->why, CL_JINJA_WHY, "%s", why);
    l->failed = true;
}

static void add(lexer *l, cl_jinja_kind kind, const char *s, size_t n)
{
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 256;
        cl_jinja_token *v = cl_realloc(l->v, (size_t)cap, sizeof *v, "chat template", NULL);
        if (!v) {
            fail(l, "no memory");
            return;
        }
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = (cl_jinja_token){kind, s, n};
}

/* The text up to the tag at `end` (or the template's end), without what the tag swallows on its left. */
static void add_text(lexer *l, const char *end, char tag, char sign)
{
    const char *s = l->p, *e = end;
    if (sign == '-') {
        while (e > s && isspace((unsigned char)e[-1])) e--;
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
    if (strip)
        while (isspace((unsigned char)*l->p)) l->p++;
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

static void lex_tag(lexer *l, char close)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "//", "**"};
    while (!l->failed) {
        while (isspace((unsigned char)*l->p)) l->p++;
        const char *s = l->p;
        bool sign = (*s == '-' || *s == '+') && s[1] == close && s[2] == '}';
        if (sign || (*s == close && s[1] == '}')) {
            add(l, close == '%' ? J_BLOCK_END : J_OUT_END, s, 0);
            l->p += sign ? 3 : 2;
            after_tag(l, sign && *s == '-', close == '%' && !(sign && *s == '+'));
            return;
        }
        if (!*s) fail(l, "a tag does not end");
        else if (isalpha((unsigned char)*s) || *s == '_') {
            while (isalnum((unsigned char)*l->p) || *l->p == '_') l->p++;
            add(l, J_NAME, s, (size_t)(l->p - s));
        } else if (isdigit((unsigned char)*s)) {
            while (isdigit((unsigned char)*l->p) || (*l->p == '.' && isdigit((unsigned char)l->p[1]))) l->p++;
            add(l, J_NUMBER, s, (size_t)(l->p - s));
        } else if (*s == '\'' || *s == '"') lex_string(l);
        else if (ispunct((unsigned char)*s)) {
            size_t n = 1;
            for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
                if (strncmp(s, ops[i], 2) == 0) n = 2;
            l->p += n;
            add(l, J_OP, s, n);
        } else fail(l, "a character that belongs to no expression");
    }
}

cl_jinja_token *cl_jinja_lex(const char *text, char why[CL_JINJA_WHY])
{
    lexer l = {.p = text, .line_start = true, .why = why};
    size_t len = strlen(text);
    if (strchr(text, '\r')) fail(&l, "carriage returns");
    const char *end = text + len - (len && text[len - 1] == '\n'); /* Jinja drops one newline at the end */
    while (!l.failed && l.p < end) {
        const char *tag = l.p;
        while (tag < end && !(*tag == '{' && (tag[1] == '{' || tag[1] == '%' || tag[1] == '#'))) tag++;
        if (tag >= end) {
            add(&l, J_TEXT, l.p, (size_t)(end - l.p));
            break;
        }
        char kind = tag[1], sign = tag[2] == '-' || tag[2] == '+' ? tag[2] : 0;
        add_text(&l, tag, kind, sign);
        l.p = tag + 2 + (sign != 0);
        if (kind == '#') {
            const char *e = strstr(l.p, "#}");
            if (!e) fail(&l, "a comment does not end");
            else {
                l.p = e + 2;
                after_tag(&l, e[-1] == '-', true);
            }
        } else {
            add(&l, kind == '%' ? J_BLOCK : J_OUT, tag, 0);
            lex_tag(&l, kind == '%' ? '%' : '}');
        }
    }
    add(&l, J_END, "", 0);
    if (!l.failed) return l.v;
    free(l.v);
    return NULL;
}
