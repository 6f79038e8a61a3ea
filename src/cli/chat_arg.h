/* chat_arg.h: --chat-format and --date: the chat format of a model. */
#ifndef CHIPLINE_CHAT_ARG_H
#define CHIPLINE_CHAT_ARG_H

#include "chipline/chat.h"

/* The format named, or the chat of the tokenizer's template (t NULL: none); *out NULL if there is neither. date: the
 * day that prompts which hold one are to have, YYYY-MM-DD; NULL: today. Free with cl_chat_free. */
cl_code cli_chat(const char *name, const char *date, const cl_tokenizer *t, cl_chat **out, cl_err *err);

#endif
