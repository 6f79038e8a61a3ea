/* chat_internal.h: a chat format as data, and Python's idea of white space. */
#ifndef CHIPLINE_MODEL_CHAT_INTERNAL_H
#define CHIPLINE_MODEL_CHAT_INTERNAL_H

#include "chipline/chat.h"

/* The marks around what a model thinks, in text. */
#define THINK "<think>"
#define THINK_END "</think>"

enum { CL_CHAT_SYSTEM, CL_CHAT_USER, CL_CHAT_ASSISTANT, CL_CHAT_ROLES };

typedef enum cl_chat_where {                    /* what becomes of a system message */
                             CL_CHAT_OWN_BLOCK, /* a block like any other, wherever it stands */
                             /* the same as first message; refused elsewhere, where templates drop it without a word
                              * */
                             CL_CHAT_FIRST_BLOCK,
                             /* the first message only: goes in front of the first user text, an empty line between */
                             CL_CHAT_FIRST_USER,
                             /* the same with the last message, if that is a user's; else it is dropped */
                             CL_CHAT_LAST_USER,
                             CL_CHAT_TOP,      /* all of them go in front of everything, an empty line between */
                             CL_CHAT_TOP_LAST, /* the last of them does; the others are dropped */
                             CL_CHAT_REFUSED
} cl_chat_where;

typedef enum cl_chat_thoughts { /* what becomes of <think> parts in answers */
                                CL_CHAT_KEPT,
                                CL_CHAT_QWEN3,     /* dropped, unless the answer comes after the last question */
                                CL_CHAT_CUT_LAST,  /* what stands before the last </think> is dropped */
                                CL_CHAT_CUT_FIRST, /* what stands before the first one is dropped */
                                /* the messages of gpt-oss, which have channels; not allowed in answers */
                                CL_CHAT_CHANNELS
} cl_chat_thoughts;

typedef enum cl_chat_when { CL_CHAT_ALWAYS, CL_CHAT_AFTER_USER, CL_CHAT_NOT_AFTER_USER } cl_chat_when;

typedef struct cl_chat_format {
    const char *name;
    const char *bos;                     /* "": none */
    const char *eos;                     /* what a template calls eos_token, where the format depends on it */
    const char *head, *date, *head_rest; /* behind bos, always; date: in front of today's date, on a line of its own */
    const char *open[CL_CHAT_ROLES], *close[CL_CHAT_ROLES]; /* around each content */
    const char *last_close;  /* instead, for an answer at the end when no further one is opened */
    const char *generation;  /* the assistant's opening, where it is to go on */
    const char *system_lead; /* a system block comes first always, and begins with this */
    cl_chat_where system;
    cl_chat_thoughts thoughts;
    /* when an answer's opening is written; when `generation` is, by the last message but system */
    cl_chat_when opens, generates;
    unsigned trim;         /* 1 << role: content loses white space at both ends */
    bool any_trim;         /* templates of this format differ in that */
    bool alternate;        /* user, assistant, user, ... or nothing */
    bool may_have_default; /* a block in front where there is no system message, if the template has one */
    const char *ends[4];
} cl_chat_format;

enum { CL_CHAT_DATE = 10 };             /* YYYY-MM-DD */
#define CL_CHAT_PROBE_DATE "2001-02-03" /* today, when templates are looked at */

struct cl_chat {
    const cl_chat_format *f;
    char *default_block; /* or NULL */
    unsigned trim;
    bool always_opens;           /* the assistant's turn is opened at the end whether asked for or not */
    char date[CL_CHAT_DATE + 1]; /* "": none */
};

extern const cl_chat_format cl_chat_formats[];
extern const int cl_chat_n_formats;

/* Python's str.strip(): *s and *n without white space at the start (left) and the end (right). */
void cl_chat_strip(const char **s, size_t *n, bool left, bool right);

#endif
