/* chat.h: messages to the prompt text a model was tuned on, and its reply to thoughts and an answer.
 *
 * A format is data: pieces of text around roles, and a default system message. Formats have names ("chatml", "llama3",
 * "mistral", ...); cl_chat_detect runs a checkpoint's Jinja template on a few conversations and finds the format that
 * writes the same prompts, byte for byte. Local, pure. */
#ifndef CHIPLINE_CHAT_H
#define CHIPLINE_CHAT_H

#include <jansson.h>

#include "chipline/tokenizer.h"

typedef struct cl_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
} cl_message;

/* A JSON list of {"role", "content"}, neither empty nor with other keys (CL_E_INPUT). *out is malloced, the caller
 * frees it; its texts stay the list's. */
cl_code cl_messages_read(const json_t *list, cl_message **out, int *n, cl_err *err);

typedef struct cl_chat cl_chat; /* a format together with what the template changed in it (default system message) */

/* Names of all formats, NULL-terminated. */
const char *const *cl_chat_names(void);
/* By name: unknown is CL_E_USAGE and suggests the nearest. By template: CL_E_INPUT if no format fits (the remedy names
 * --chat-format). Free with cl_chat_free. */
cl_code cl_chat_by_name(const char *name, cl_chat **out, cl_err *err);
cl_code cl_chat_detect(const char *jinja, cl_chat **out, cl_err *err);
void cl_chat_free(cl_chat *c);
const char *cl_chat_name(const cl_chat *c);

/* Formats whose prompts hold today's date leave it out until it is set (YYYY-MM-DD, else CL_E_USAGE); others take no
 * notice. */
bool cl_chat_has_date(const cl_chat *c);
cl_code cl_chat_set_date(cl_chat *c, const char *date, cl_err *err);

/* CL_E_INPUT if the vocabulary has marks of turns as tokens ("<|im_start|>"), but not all those of this format: the
 * model was tuned on another one. Without any the marks are text, and any format will do. */
cl_code cl_chat_check(const cl_chat *c, const cl_tokenizer *t, cl_err *err);

/* Appends the rendered prompt for messages[0..n) to *out, with the assistant's opening at the end if add_generation.
 * Unknown roles, an order the format does not allow: CL_E_INPUT. */
cl_code cl_chat_render(const cl_chat *c, const cl_message *messages, int n, bool add_generation, cl_buf *out,
                       cl_err *err);
/* Texts that end an assistant's turn in this format ("<|im_end|>"), NULL-terminated: their ids are further EOS ids. */
const char *const *cl_chat_ends(const cl_chat *c);

/* A reply as it comes, token by token, taken apart: reasoning (a <think> part at the start, which the prompt may have
 * opened; in harmony every channel but final) and answer, without the marks between. Marks may be control tokens or
 * text, in one token or several; the text around them loses its line ends. chat NULL: all is answer. Pure. */
typedef struct cl_reply {
    const cl_chat *chat;
    cl_detok detok;
    int state, headers;
    bool began, apart; /* this part has a word; another part was before it */
    cl_buf held;       /* what may yet become a mark */
} cl_reply;
/* both must outlive r; t NULL: text only */
void cl_reply_init(cl_reply *r, const cl_chat *chat, const cl_tokenizer *t);
/* Append what is known now to *answer and *reasoning. */
cl_code cl_reply_add(cl_reply *r, int32_t id, cl_buf *answer, cl_buf *reasoning, cl_err *err);
cl_code cl_reply_text(cl_reply *r, const char *s, size_t n, cl_buf *answer, cl_buf *reasoning, cl_err *err);
/* The rest. cut: the reply broke off, so that half a character is shown as U+FFFD. */
cl_code cl_reply_finish(cl_reply *r, bool cut, cl_buf *answer, cl_buf *reasoning, cl_err *err);
void cl_reply_free(cl_reply *r);

#endif
