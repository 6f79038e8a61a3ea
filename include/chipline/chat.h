/* chat.h: messages to the prompt text a model was tuned on.
 *
 * A format is data: pieces of text around roles, and a default system message. Formats have names ("chatml", "llama3",
 * "mistral", ...); cl_chat_detect runs a checkpoint's Jinja template on a few conversations and finds the format that writes the
 * same prompts, byte for byte. Local, pure. */
#ifndef CHIPLINE_CHAT_H
#define CHIPLINE_CHAT_H

#include "chipline/tokenizer.h"

typedef struct cl_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
} cl_message;

typedef struct cl_chat cl_chat; /* a format together with what the template changed in it (default system message) */

/* Names of all formats, NULL-terminated. */
const char *const *cl_chat_names(void);
/* By name: unknown is CL_E_USAGE and suggests the nearest. By template: CL_E_INPUT if no format fits (the remedy names
 * --chat-format). Free with cl_chat_free. */
cl_code cl_chat_by_name(const char *name, cl_chat **out, cl_err *err);
cl_code cl_chat_detect(const char *jinja, cl_chat **out, cl_err *err);
void cl_chat_free(cl_chat *c);
const char *cl_chat_name(const cl_chat *c);

/* Appends the rendered prompt for messages[0..n) to *out, with the assistant's opening at the end if add_generation.
 * Unknown roles, an order the format does not allow: CL_E_INPUT. */
cl_code cl_chat_render(const cl_chat *c, const cl_message *messages, int n, bool add_generation, cl_buf *out, cl_err *err);
/* Texts that end an assistant's turn in this format ("<|im_end|>"), NULL-terminated: their ids are further EOS ids. */
const char *const *cl_chat_ends(const cl_chat *c);

#endif
