/* chat.h: messages to the prompt text a model was tuned on, and its reply to thoughts and an answer.
 *
 * A chat is a Jinja template: the checkpoint's own, which renders what transformers renders with it, tools and all; or,
 * for models without one, that of a format by its name ("chatml", "llama3", "mistral", ...). What replies need (marks
 * of thoughts and channels, the texts that end a turn) and what a template has no place for is found by looking at
 * what it writes for a few conversations. Local, pure. */
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

typedef struct cl_chat cl_chat;

/* Names of all formats, NULL-terminated. */
const char *const *cl_chat_names(void);
/* By name: unknown is CL_E_USAGE and suggests the nearest. Free with cl_chat_free. */
cl_code cl_chat_by_name(const char *name, cl_chat **out, cl_err *err);
/* By template, with what it calls bos_token and eos_token ("": none). CL_E_INPUT if it is no template, or does not
 * write what a user says (the remedy names --chat-format). Free with cl_chat_free. */
cl_code cl_chat_from_template(const char *template, const char *bos, const char *eos, cl_chat **out, cl_err *err);
/* By the vocabulary's template and tokens; *out NULL if it has no template. */
cl_code cl_chat_from_tokenizer(const cl_tokenizer *t, cl_chat **out, cl_err *err);
void cl_chat_free(cl_chat *c);

/* Prompts that hold today's date leave it out until it is set (YYYY-MM-DD, else CL_E_USAGE); others take no notice. A
 * template that can do without a clock is given none, so that its prompts do not depend on the day. */
cl_code cl_chat_set_date(cl_chat *c, const char *date, cl_err *err);

/* CL_E_INPUT if the vocabulary has marks of turns as tokens ("<|im_start|>"), but not all those of this chat: the
 * model was tuned on another one. Without any the marks are text, and any format will do. */
cl_code cl_chat_check(const cl_chat *c, const cl_tokenizer *t, cl_err *err);

/* Appends the rendered prompt to *out, with the assistant's opening at the end if add_generation. messages: a list of
 * objects with a role and what else the template looks at, as transformers takes them (content: a text or a list of
 * parts; reasoning_content; tool_calls, whose arguments are objects; tool_call_id, ...). tools: a list of
 * {"type": "function", "function": {...}}, or NULL. variables: an object of further ones (enable_thinking, documents,
 * ...), or NULL. CL_E_INPUT, with *out as it was: what the template refuses, with its own words; what it would leave
 * out without a word (system messages, tools); what it does that is not known here. */
cl_code cl_chat_render(const cl_chat *c, const json_t *messages, const json_t *tools, const json_t *variables,
                       bool add_generation, cl_buf *out, cl_err *err);
/* The same for plain messages, whose roles are system, user and assistant only. */
cl_code cl_chat_render_messages(const cl_chat *c, const cl_message *messages, int n, bool add_generation, cl_buf *out,
                                cl_err *err);
/* Texts that end an assistant's turn ("<|im_end|>"), NULL-terminated: their ids are further EOS ids. */
const char *const *cl_chat_ends(const cl_chat *c);
/* Does a prompt end with the mark that opens thoughts? */
bool cl_chat_opens_thoughts(const cl_chat *c, const char *prompt);

/* A reply as it comes, token by token, taken apart: reasoning (a <think> part at the start, which the prompt may have
 * opened; in messages with channels all but final) and answer, without the marks between. Marks may be control tokens
 * or text, in one token or several; the text around them loses its line ends. chat NULL: all is answer. Pure. */
typedef struct cl_reply {
    const cl_chat *chat;
    cl_detok detok;
    int state, headers;
    bool began, apart; /* this part has a word; another part was before it */
    cl_buf held;       /* what may yet become a mark */
} cl_reply;
/* both must outlive r; t NULL: text only */
void cl_reply_init(cl_reply *r, const cl_chat *chat, const cl_tokenizer *t);
/* The reply follows a prompt that was rendered with variables of its own, which may open thoughts or not; before any
 * text of it. Without, the prompt is taken to be one that was rendered without. */
void cl_reply_after(cl_reply *r, const char *prompt);
/* Append what is known now to *answer and *reasoning. */
cl_code cl_reply_add(cl_reply *r, int32_t id, cl_buf *answer, cl_buf *reasoning, cl_err *err);
cl_code cl_reply_text(cl_reply *r, const char *s, size_t n, cl_buf *answer, cl_buf *reasoning, cl_err *err);
/* The rest. cut: the reply broke off, so that half a character is shown as U+FFFD. */
cl_code cl_reply_finish(cl_reply *r, bool cut, cl_buf *answer, cl_buf *reasoning, cl_err *err);
void cl_reply_free(cl_reply *r);

#endif
