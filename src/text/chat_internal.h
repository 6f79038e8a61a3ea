/* chat_internal.h: a chat: its template, and what its replies need to be read. */
#ifndef CHIPLINE_TEXT_CHAT_INTERNAL_H
#define CHIPLINE_TEXT_CHAT_INTERNAL_H

#include "chipline/chat.h"
#include "jinja.h"

enum { CHAT_DATE = 10, /* YYYY-MM-DD */ CHAT_ENDS = 4, CHAT_MARK = 64 };

/* What a template writes nothing of, though it does not refuse it. */
enum {
    CHAT_NO_SYSTEM = 1,
    CHAT_NO_LATER_SYSTEM = 2, /* only where it is not the first message */
    CHAT_NO_TOOLS = 4,        /* the list of tools */
    CHAT_NO_CALLS = 8,        /* an assistant's tool_calls */
    CHAT_NO_ANSWERS = 16      /* of tools */
};

/* The marks around what a model thinks. */
typedef struct chat_think {
    const char *open, *close;
} chat_think;

struct cl_chat {
    jinja *template;
    const char *name; /* of a format; NULL: the template is a checkpoint's own */
    char *bos, *eos;
    char date[CHAT_DATE + 1]; /* "": none */
    /* found by looking at what the template writes */
    unsigned leaves_out; /* CHAT_NO_* */
    const chat_think *think;
    bool thinking; /* a prompt ends with think->open */
    bool channels; /* an answer's messages have channels */
    char *ends[CHAT_ENDS + 1];
    char *turns; /* a conversation without BOS: has the marks of turns in it */
};

/* A format that has a name: for models without a template of their own. */
typedef struct chat_format {
    const char *name, *bos, *eos, *template;
} chat_format;
extern const chat_format chat_formats[];
extern const int chat_n_formats;

/* The template on these messages; not checked, errors without a remedy. */
jinja_result chat_run(const cl_chat *c, const json_t *messages, const json_t *tools, const json_t *variables,
                      bool add_generation, cl_buf *out, char why[JINJA_WHY]);
/* Fills what is found by looking. CL_E_INPUT if the template does not write what a user says. */
cl_code chat_look(cl_chat *c, const char *template, cl_err *err);
/* "chat format NAME" or "chat template" */
const char *chat_what(const cl_chat *c, char buf[CHAT_MARK]);

#endif
