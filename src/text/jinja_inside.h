/* jinja_inside.h: what the interpreter's files share: tokens, the tree, a rendering. */
#ifndef CHIPLINE_TEXT_JINJA_INSIDE_H
#define CHIPLINE_TEXT_JINJA_INSIDE_H

#include "jinja.h"

/* --- limits --- */
enum {
    JINJA_NESTING = 100,   /* of blocks and brackets in the text */
    JINJA_DEPTH = 400,     /* of what is being evaluated, calls of macros included */
    JINJA_STEPS = 2000000, /* nodes evaluated, and one for each JINJA_STEP_BYTES copied */
    JINJA_STEP_BYTES = 64,
    JINJA_OUTPUT = 32 << 20, /* bytes printed */
    JINJA_RANGE = 100000,    /* what range() gives at most, as in Jinja's sandbox */
    JINJA_ARGS = 8,          /* of a call, without names */
    JINJA_SCOPES = 128,
    JINJA_MACROS = 64
};

/* --- tokens (jinja_lex.c) --- */
typedef enum jinja_token_kind {
    J_TEXT,
    J_BLOCK,     /* {% */
    J_BLOCK_END, /* %} */
    J_OUT,       /* {{ */
    J_OUT_END,   /* }} */
    J_NAME,
    J_STRING, /* without its quotes, escapes as written */
    J_NUMBER,
    J_OP,
    J_END
} jinja_token_kind;

typedef struct jinja_token {
    jinja_token_kind kind;
    const char *s; /* into the text */
    size_t n;
} jinja_token;

/* Malloced, the last is J_END; NULL if the text has no tokens (why) or memory is out. */
jinja_token *jinja_lex(const char *text, char why[JINJA_WHY]);

/* --- the tree (jinja_parse.c) --- */
typedef enum jinja_node_kind {
    N_CONST,   /* value */
    N_NAME,    /* s */
    N_LIST,    /* a: items */
    N_TUPLE,   /* the same in round brackets */
    N_DICT,    /* a: keys and values in turn */
    N_MINUS,   /* -a */
    N_BINARY,  /* a OP b; s is the operator */
    N_NOT,     /* not a */
    N_AND,     /* a and b */
    N_OR,      /* a or b */
    N_COMPARE, /* a, then b: operands, each an N_COMPARE with s and its value in a */
    N_CHOICE,  /* a if b else c */
    N_MEMBER,  /* a.s */
    N_INDEX,   /* a[b] */
    N_SLICE,   /* a[b:c:d], any of which may be NULL */
    N_CALL,    /* a(b) */
    N_FILTER,  /* a|s(b) */
    N_TEST,    /* a is s(b) */
    N_NAMED,   /* an argument or parameter: s=a, a NULL: a parameter without default */
    N_TEXT,    /* s */
    N_PRINT,   /* {{ a }} */
    N_IF,      /* if a then b else c */
    N_FOR,     /* a: targets, b: iterated, c: condition or NULL, d: body, e: else */
    N_SET,     /* a: targets, NULL: it is printed; b: value, or d: body whose text it is, c: filters on "" or NULL */
    N_WITH,    /* a: assignments (N_SET), d: body */
    N_MACRO,   /* s; a: parameters, d: body */
    N_BREAK,
    N_CONTINUE
} jinja_node_kind;

typedef struct jinja_node {
    jinja_node_kind kind;
    const char *s; /* a name, an operator, text */
    size_t n;
    json_t *value;
    struct jinja_node *a, *b, *c, *d, *e;
    struct jinja_node *next; /* in a list of items, arguments, statements */
    struct jinja_node *made; /* the one made before this one */
} jinja_node;

struct jinja {
    char *text;
    jinja_node *body;
    jinja_node *last; /* all nodes, by `made` */
};

/* --- a rendering (jinja_run.c) --- */
typedef struct jinja_macro {
    json_t *value; /* what its name is bound to */
    const jinja_node *node;
} jinja_macro;

typedef enum jinja_leaving { STAYS, CONTINUES, BREAKS } jinja_leaving;

typedef struct jinja_run {
    json_t *scope[JINJA_SCOPES]; /* innermost last; objects */
    int n_scopes;
    int base; /* a macro sees its own scopes, which begin here, and the first */
    jinja_macro macro[JINJA_MACROS];
    int n_macros;
    json_t *spaces;    /* all namespaces; each holds this list under "", so that it is known as one */
    json_t *undefined; /* what a name is bound to whose value is undefined */
    json_t *method;    /* what a method is that is not called */
    const char *date;
    jinja_leaving leaving; /* a loop's round, the loop: until the end of its body */
    int depth, steps;
    cl_buf *out;
    jinja_result result;
    char *why;
} jinja_run;

/* Ends the rendering (the first cause counts) and returns NULL. */
json_t *jinja_fail(jinja_run *r, jinja_result result, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define jinja_unknown(r, ...) jinja_fail(r, JINJA_FAILED, __VA_ARGS__)
static inline bool jinja_failed(const jinja_run *r) { return r->result != JINJA_OK; }
/* Counts work: one step, and one for each JINJA_STEP_BYTES of memory. */
void jinja_spend(jinja_run *r, size_t bytes);
void jinja_run_body(jinja_run *r, const jinja_node *body);
json_t *jinja_scope_push(jinja_run *r); /* borrowed; NULL once the rendering has failed */
void jinja_scope_pop(jinja_run *r);

/* --- expressions (jinja_eval.c) --- */
/* Owned; NULL: undefined, or failed. */
json_t *jinja_eval(jinja_run *r, const jinja_node *e);
json_t *jinja_lookup(const jinja_run *r, const char *name, size_t n);      /* borrowed; NULL: undefined */
json_t *jinja_member(jinja_run *r, json_t *v, const char *name, size_t n); /* owned */
bool jinja_is_namespace(const jinja_run *r, const json_t *v);

typedef struct jinja_args {
    json_t *v[JINJA_ARGS]; /* NULL: undefined */
    int n;
    json_t *names;           /* keyword arguments, or NULL */
    const json_t *undefined; /* what stands for an undefined one there */
} jinja_args;
/* The i-th argument, or the one of that name; NULL: not given, or undefined. Borrowed. */
json_t *jinja_arg(const jinja_args *a, int i, const char *name);

/* --- filters, tests, methods, functions (jinja_filter.c, jinja_call.c); values and arguments are borrowed --- */
json_t *jinja_filter(jinja_run *r, const char *name, json_t *v, const jinja_args *a);
bool jinja_test(jinja_run *r, const char *name, json_t *v, const jinja_args *a);
json_t *jinja_method(jinja_run *r, json_t *v, const char *name, const jinja_args *a);
json_t *jinja_function(jinja_run *r, const char *name, const jinja_args *a);
bool jinja_is_function(const char *name);
bool jinja_is_dict_method(const char *name, size_t n);

/* --- values (jinja_value.c) --- */
bool jinja_truth(const json_t *v);
bool jinja_equal(jinja_run *r, const json_t *a, const json_t *b);
/* < 0, 0, > 0; fails where the two have no order. */
int jinja_order(jinja_run *r, const json_t *a, const json_t *b);
bool jinja_contains(jinja_run *r, const json_t *in, const json_t *what);
json_t *jinja_string(jinja_run *r, const char *s, size_t n);
/* str(v), appended. */
void jinja_print(jinja_run *r, const json_t *v, cl_buf *out);
json_t *jinja_str(jinja_run *r, const json_t *v);
/* A mapping's key by its value (NULL: no value of that kind is a key), and back. */
enum { JINJA_KEY = 32 };
const char *jinja_key(const json_t *key, char buf[JINJA_KEY], size_t *n);
json_t *jinja_key_value(const char *key, size_t n);
/* What a loop goes over: a list as it is, the keys of an object, the characters of a string. Owned. */
json_t *jinja_items_of(jinja_run *r, json_t *v);
/* tojson's arguments as transformers defines them. */
json_t *jinja_to_json(jinja_run *r, const json_t *v, const jinja_args *a);
/* NULL unless v is a string. */
const char *jinja_text(const json_t *v, size_t *n);

/* --- texts (jinja_text.c) --- */
json_t *jinja_text_method(jinja_run *r, const json_t *v, const char *name, const jinja_args *a);
/* Filters that take a text: NULL if `name` is none of them, or failed. */
json_t *jinja_text_filter(jinja_run *r, const char *name, const json_t *v, const jinja_args *a);
bool jinja_is_text_filter(const char *name);
/* Python's str.strip(): *s and *n without white space at the start (left) and the end (right). */
void jinja_strip(const char **s, size_t *n, bool left, bool right);
/* Bytes of the white-space character that s[0..n) begins with, or 0 (what Python's str.isspace says). */
size_t jinja_space(const char *s, size_t n);
/* Where character i of s[0..n) begins (n: there are not so many). */
size_t jinja_char_at(const char *s, size_t n, size_t i);
size_t jinja_count_chars(const char *s, size_t n);

#endif
