/* jinja_parse.h: what the two files of the parser share. */
#ifndef CHIPLINE_TEXT_JINJA_PARSE_H
#define CHIPLINE_TEXT_JINJA_PARSE_H

#include "jinja_inside.h"

typedef struct jinja_parser {
    jinja *t;
    const jinja_token *token;
    int at, depth;
    int loops; /* around what is at hand */
    bool failed;
    char *why;
    jinja_node spare;
} jinja_parser;

/* Ends the parsing (the first cause counts) and returns NULL. */
void *jinja_parse_fail(jinja_parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Never NULL. */
jinja_node *jinja_node_new(jinja_parser *p, jinja_node_kind kind);
jinja_node *jinja_node_of(jinja_parser *p, jinja_node_kind kind, const jinja_token *name, jinja_node *a, jinja_node *b);
bool jinja_at(const jinja_parser *p, jinja_token_kind kind, const char *s); /* the token at hand; s NULL: any */
bool jinja_take(jinja_parser *p, jinja_token_kind kind, const char *s);     /* the same, and goes on if so */
const jinja_token *jinja_expect(jinja_parser *p, jinja_token_kind kind, const char *s); /* else fails */
/* One level deeper (undone by p->depth--); false once the parsing has failed. */
bool jinja_deeper(jinja_parser *p);

/* --- expressions (jinja_parse_expr.c); NULL only where the parsing has failed --- */
jinja_node *jinja_parse_expr(jinja_parser *p);
/* a, b without brackets too; with_choice: as jinja_parse_expr does, else as jinja_parse_or */
jinja_node *jinja_parse_tuple(jinja_parser *p, bool with_choice);
jinja_node *jinja_parse_or(jinja_parser *p); /* without "a if b else c" */
/* `of` with the filters and tests that follow, each after its "|" or "is". */
jinja_node *jinja_parse_filters(jinja_parser *p, jinja_node *of);
/* One filter, whose "|" is taken. */
jinja_node *jinja_parse_filter(jinja_parser *p, jinja_node *of);

#endif
