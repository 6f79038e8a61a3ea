/* chat_jinja.h: enough of Jinja to run a chat template on a few messages, so that a format can be compared with it.
 *
 * The environment is the one that transformers gives to templates: trim_blocks, lstrip_blocks, loop controls,
 * raise_exception. What is not run need not be known (tools); what is run and not known ends the rendering, so
 * nothing is guessed. Values are jansson's; NULL is Jinja's undefined. Local, pure; templates are not trusted: depth,
 * steps and output are bounded. */
#ifndef CHIPLINE_MODEL_CHAT_JINJA_H
#define CHIPLINE_MODEL_CHAT_JINJA_H

#include <jansson.h>

#include "chipline/util.h"

typedef enum cl_jinja_result {
    CL_JINJA_OK,
    CL_JINJA_RAISED, /* the template refuses the messages */
    CL_JINJA_UNKNOWN /* it does what is not known here, or has an error */
} cl_jinja_result;

/* vars: an object. Appends to *out; on CL_JINJA_RAISED and CL_JINJA_UNKNOWN, why[] says what happened. */
enum { CL_JINJA_WHY = 160 };
cl_jinja_result cl_jinja_render(const char *text, const json_t *vars, cl_buf *out, char why[CL_JINJA_WHY]);

/* --- inside --- */

typedef enum cl_jinja_kind {
    J_TEXT,
    J_BLOCK,
    J_BLOCK_END,
    J_OUT,
    J_OUT_END,
    J_NAME,
    J_STRING,
    J_NUMBER,
    J_OP,
    J_END
} cl_jinja_kind;

typedef struct cl_jinja_token {
    cl_jinja_kind kind;
    const char *s; /* into the text; a string without its quotes */
    size_t n;
} cl_jinja_token;

enum { CL_JINJA_DEPTH = 64, CL_JINJA_STEPS = 200000, CL_JINJA_STEP_BYTES = 256, CL_JINJA_OUTPUT = 1 << 20 };

enum { CL_JINJA_MACROS = 32 };

typedef struct cl_jinja_macro {
    cl_jinja_token name;
    int at; /* its parameters */
} cl_jinja_macro;

typedef struct cl_jinja {
    cl_jinja_token *token; /* the last is J_END */
    int at;
    bool skip;            /* parse, do nothing */
    bool leaving, broken; /* a loop's round, the loop: until the end of its body */
    int depth, steps;
    json_t *scope[CL_JINJA_DEPTH]; /* innermost last */
    int n_scopes;
    int base; /* a macro sees its own scopes, which begin here, and the first */
    cl_jinja_macro macro[CL_JINJA_MACROS];
    int n_macros;
    cl_buf *out;
    cl_jinja_result result;
    char *why;
} cl_jinja;

/* Tokens of text, malloced; NULL if it is not lexed (why) or memory is out. */
cl_jinja_token *cl_jinja_lex(const char *text, char why[CL_JINJA_WHY]);

/* Ends the rendering (the first cause counts) and returns NULL. */
json_t *cl_jinja_fail(cl_jinja *j, cl_jinja_result r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Counts work: one step, and one for each CL_JINJA_STEP_BYTES copied. */
void cl_jinja_spend(cl_jinja *j, size_t bytes);
static inline bool cl_jinja_failed(const cl_jinja *j) { return j->result != CL_JINJA_OK; }
bool cl_jinja_is(const cl_jinja *j, cl_jinja_kind kind, const char *s); /* the token at hand */
bool cl_jinja_take(cl_jinja *j, cl_jinja_kind kind, const char *s);     /* the same, and goes on if so */
static inline bool cl_jinja_take_op(cl_jinja *j, const char *s) { return cl_jinja_take(j, J_OP, s); }
static inline bool cl_jinja_take_name(cl_jinja *j, const char *s) { return cl_jinja_take(j, J_NAME, s); }
void cl_jinja_expect(cl_jinja *j, cl_jinja_kind kind, const char *s);
/* One level deeper (undone by j->depth--); false once the rendering has failed. */
bool cl_jinja_enter(cl_jinja *j);
/* An expression at j->at: its value (owned, NULL: undefined or skipped). */
json_t *cl_jinja_expr(cl_jinja *j);
json_t *cl_jinja_or(cl_jinja *j);                       /* without "a if b else c" */
json_t *cl_jinja_unary(cl_jinja *j, bool with_filters); /* one value with its sign */
bool cl_jinja_truth(const json_t *v);
/* Appends str(v). */
void cl_jinja_print(cl_jinja *j, const json_t *v, cl_buf *out);

/* Called values (chat_jinja_call.c); v and args are borrowed. */
typedef struct cl_jinja_args {
    json_t *v[4];
    int n;
    bool named; /* there were keyword arguments: into `names` */
    json_t *names;
} cl_jinja_args;
json_t *cl_jinja_filter(cl_jinja *j, const char *name, const json_t *v, const cl_jinja_args *a);
bool cl_jinja_test(cl_jinja *j, const char *name, const json_t *v, const cl_jinja_args *a);
json_t *cl_jinja_method(cl_jinja *j, const json_t *v, const char *name, const cl_jinja_args *a);
json_t *cl_jinja_function(cl_jinja *j, const char *name, const cl_jinja_args *a);
/* If there is a macro of this name (chat_jinja.c): true, and *v what it prints. */
bool cl_jinja_call_macro(cl_jinja *j, const cl_jinja_token *name, const cl_jinja_args *a, json_t **v);
/* A variable's value (borrowed), or NULL. */
json_t *cl_jinja_lookup(const cl_jinja *j, const char *name, size_t n);

#endif
