/* jinja.h: the Jinja of chat templates. A template is compiled once and rendered as often as there are conversations.
 *
 * The environment is the one that transformers gives to templates: trim_blocks, lstrip_blocks, loop controls, its own
 * tojson, raise_exception, strftime_now; no auto-escaping. What is not known here ends the rendering where it is run,
 * so nothing is guessed. (One thing is left out on purpose: texts joined to one that is marked "safe" are not
 * escaped.) Values are jansson's; NULL is Jinja's undefined; objects keep the order of their keys. Local, pure;
 * templates are not trusted: depth, steps, memory and output are bounded. */
#ifndef CHIPLINE_TEXT_JINJA_H
#define CHIPLINE_TEXT_JINJA_H

#include <jansson.h>

#include "chipline/util.h"

typedef enum jinja_result {
    JINJA_OK,
    JINJA_RAISED, /* the template refuses the messages: why is its own text */
    JINJA_FAILED  /* it does what is not known here, has an error, or goes beyond the limits */
} jinja_result;

enum { JINJA_WHY = 320 };

typedef struct jinja jinja;
/* NULL if the text is no template; why says what is wrong. Free with jinja_free. */
jinja *jinja_compile(const char *text, char why[JINJA_WHY]);
void jinja_free(jinja *t);

/* Appends to *out, also where it fails. vars: an object, unchanged afterwards. date: what strftime_now writes,
 * YYYY-MM-DD; "": it writes nothing. strftime_now can be called but is not "defined": templates that can do without a
 * clock have none. */
jinja_result jinja_render(const jinja *t, const json_t *vars, const char *date, cl_buf *out, char why[JINJA_WHY]);

#endif
