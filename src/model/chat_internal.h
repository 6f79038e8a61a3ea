/* chat_internal.h: a chat format as data, and Python's idea of white space. */
#ifndef CHIPLINE_MODEL_CHAT_INTERNAL_H
#define CHIPLINE_MODEL_CHAT_INTERNAL_H

#include "chipline/chat.h"

enum { CL_CHAT_SYSTEM, CL_CHAT_USER, CL_CHAT_ASSISTANT, CL_CHAT_ROLES };

typedef enum cl_chat_where { /* what becomes of a system message */
    CL_CHAT_OWN_BLOCK,  /* a block like any other, wherever it stands */
    CL_CHAT_FIRST_USER, /* the first message only: goes in front of the first user text, an empty line between */
    CL_CHAT_LAST_USER,  /* the same with the last message, if that is a user's; else it is dropped */
    CL_CHAT_REFUSED
} cl_chat_where;

typedef struct cl_chat_format {
    const char *name;
    const char *bos; /* "": none */
    const char *eos; /* what a template calls eos_token, where the format depends on it */
    const char *open[CL_CHAT_ROLES], *close[CL_CHAT_ROLES]; /* around each content */
    const char *generation;                                 /* the assistant's opening */
    const char *system_lead; /* a system block comes first always, and begins with this */
    cl_chat_where system;
    unsigned trim;           /* 1 << role: content loses white space at both ends */
    bool alternate;          /* user, assistant, user, ... or nothing */
    bool think;              /* <think> parts of earlier answers are dropped (Qwen3) */
    bool may_have_default;   /* a default system message, where the template has one */
    const char *ends[3];
} cl_chat_format;

struct cl_chat {
    const cl_chat_format *f;
    char *default_system; /* or NULL */
    bool always_opens;    /* the assistant's turn is opened at the end whether asked for or not */
};

extern const cl_chat_format cl_chat_formats[];
extern const int cl_chat_n_formats;

/* Python's str.strip(): *s and *n without white space at the start (left) and the end (right). */
void cl_chat_strip(const char **s, size_t *n, bool left, bool right);

#endif
