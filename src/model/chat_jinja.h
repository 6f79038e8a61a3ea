/* chat_jinja.h: enough of Jinja to run a chat template on a few messages, so that a format can be compared with it.
 *
 * The environment is the one that transformers gives to templates: trim_blocks, lstrip_blocks, loop controls, raise_exception.
 * What is not run need not be known (tools, macros); what is run and not known ends the rendering, so that nothing is guessed.
 * Values are jansson's; NULL is Jinja's undefined. Local, pure; templates are not trusted: depth, steps and output are bounded. */
#ifndef CHIPLINE_MODEL_CHAT_JINJA_H
#define CHIPLINE_MODEL_CHAT_JINJA_H

#include <jansson.h>

#include "chipline/util.h"

typedef enum jinja_result {
    JINJA_OK,
    JINJA_RAISED, /* the template refuses the messages */
    JINJA_UNKNOWN /* it does what is not known here, or has an error */
} jinja_result;

/* vars: an object. Appends to *out; on JINJA_RAISED and JINJA_UNKNOWN, why[] says what happened. */
enum { JINJA_WHY = 160 };
jinja_result jinja_render(const char *text, const json_t *vars, cl_buf *out, char why[JINJA_WHY]);

/* --- inside --- */

typedef enum jinja_kind { J_TEXT, J_BLOCK, J_BLOCK_END, J_OUT, J_OUT_END, J_NAME, J_STRING, J_NUMBER, J_OP, J_END } jinja_kind;

typedef struct jinja_token {
    jinja_kind kind;
    const char *s; /* into the text; a string without its quotes */
    size_t n;
} jinja_token;

enum { JINJA_DEPTH = 64, JINJA_STEPS = 200000, JINJA_STEP_BYTES = 256, JINJA_OUTPUT = 1 << 20 };

typedef struct jinja {
    jinja_token *token; /* the last is J_END */
    int at;
    bool skip;             /* parse, do nothing */
    bool leaving, broken;  /* a loop's round, the loop: until the end of its body */
    int depth, steps;
    json_t *scope[JINJA_DEPTH]; /* innermost last */
    int n_scopes;
    cl_buf *out;
    jinja_result result;
    char *why;
} jinja;

/* Tokens of text, malloced; NULL if it is not lexed (why) or memory is out. */
jinja_token *jinja_lex(const char *text, char why[JINJA_WHY]);

/* Ends the rendering (the first cause counts) and returns NULL. */
json_t *jinja_fail(jinja *j, jinja_result r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Counts work: one step, and one for each JINJA_STEP_BYTES copied. */
void jinja_spend(jinja *j, size_t bytes);
static inline bool jinja_failed(const jinja *j) { return j->result != JINJA_OK; }
bool jinja_is(const jinja *j, jinja_kind kind, const char *s); /* the token at hand */
bool jinja_take(jinja *j, jinja_kind kind, const char *s);     /* the same, and goes on if so */
void jinja_expect(jinja *j, jinja_kind kind, const char *s);
/* An expression at j->at: its value (owned, NULL: undefined or skipped). */
json_t *jinja_expr(jinja *j);
json_t *jinja_or(jinja *j); /* without "a if b else c" */
bool jinja_truth(const json_t *v);
/* Appends str(v). */
void jinja_print(jinja *j, const json_t *v, cl_buf *out);

/* Called values (chat_jinja_call.c); v and args are borrowed. */
typedef struct jinja_args {
    json_t *v[4];
    int n;
    bool named; /* there were keyword arguments: into `names` */
    json_t *names;
} jinja_args;
json_t *jinja_filter(jinja *j, const char *name, const json_t *v, const jinja_args *a);
bool jinja_test(jinja *j, const char *name, const json_t *v, const jinja_args *a);
json_t *jinja_method(jinja *j, const json_t *v, const char *name, const jinja_args *a);
json_t *jinja_function(jinja *j, const char *name, const jinja_args *a);

#endif
