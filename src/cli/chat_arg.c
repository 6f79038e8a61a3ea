/* chat_arg.c: the chat format of a model. */
#include "chat_arg.h"

#include <time.h>

cl_code cli_chat(const char *name, const char *date, const cl_tokenizer *t, cl_chat **out, cl_err *err)
{
    char today[32];
    struct tm tm;
    time_t now = time(NULL);
    *out = NULL;
    cl_code c = name ? cl_chat_by_name(name, out, err) : t ? cl_chat_from_tokenizer(t, out, err) : CL_OK;
    if (c != CL_OK || !*out) return c;
    if (!date && localtime_r(&now, &tm) && strftime(today, sizeof today, "%Y-%m-%d", &tm)) date = today;
    c = date ? cl_chat_set_date(*out, date, err) : CL_OK;
    if (c == CL_OK) return c;
    cl_chat_free(*out);
    *out = NULL;
    return cl_fail_prefix(err, "--date");
}
