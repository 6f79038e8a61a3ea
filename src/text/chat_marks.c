/* chat_marks.c: does a vocabulary have the marks of a chat format? */
#include <stdlib.h>

#include "chat_internal.h"

/* The next mark in *s: what stands between "<|" and "|>", bars of DeepSeek's kind included; *s moves past it. */
static bool next_mark(const char **s, char mark[CHAT_MARK])
{
    static const char *const bars[] = {"|", "\xef\xbd\x9c"};
    for (const char *p = *s; (p = strchr(p, '<')); p++) {
        for (int i = 0; i < 2; i++) {
            size_t bar = strlen(bars[i]);
            if (strncmp(p + 1, bars[i], bar) != 0) continue;
            const char *end = strchr(p, '>');
            size_t n = end ? (size_t)(end + 1 - p) : 0;
            if (n < 2 * bar + 2 || n >= CHAT_MARK || memcmp(end - bar, bars[i], bar) != 0) continue;
            memcpy(mark, p, n);
            mark[n] = 0;
            *s = end + 1;
            return true;
        }
    }
    return false;
}

/* Looks for the marks of a chat's turns; the first that the vocabulary lacks goes into `missing` ("": none). True if it
 * has any. */
static bool look(const cl_chat *c, const cl_tokenizer *t, char missing[CHAT_MARK])
{
    char mark[CHAT_MARK];
    bool any = false;
    missing[0] = 0;
    for (const char *s = c->turns; next_mark(&s, mark);) {
        bool has = cl_tokenizer_find(t, mark) >= 0;
        any |= has;
        if (!has && !missing[0]) memcpy(missing, mark, CHAT_MARK);
    }
    return any;
}

/* Does the vocabulary have a mark of any format? */
static cl_code is_tuned(const cl_tokenizer *t, bool *tuned, cl_err *err)
{
    cl_code code = CL_OK;
    *tuned = false;
    for (const char *const *name = cl_chat_names(); *name && code == CL_OK && !*tuned; name++) {
        char missing[CHAT_MARK];
        cl_chat *c;
        code = cl_chat_by_name(*name, &c, err);
        if (code == CL_OK) *tuned = look(c, t, missing);
        cl_chat_free(c);
    }
    return code;
}

cl_code cl_chat_check(const cl_chat *c, const cl_tokenizer *t, cl_err *err)
{
    char missing[CHAT_MARK], what[CHAT_MARK];
    bool tuned = look(c, t, missing);
    if (!missing[0]) return CL_OK;
    cl_code code = tuned ? CL_OK : is_tuned(t, &tuned, err);
    if (code != CL_OK || !tuned) return code;
    return cl_fail(err, CL_E_INPUT, "%s: the vocabulary has no token %s (name the format that the model was tuned on)",
                   chat_what(c, what), missing);
}
