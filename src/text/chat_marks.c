/* chat_marks.c: does a vocabulary have the marks of a chat format? */
#include <stdlib.h>

#include "chat_internal.h"

enum { MARK = 64 };

/* The next mark in *s: what stands between "<|" and "|>", bars of DeepSeek's kind included; *s moves past it. */
static bool next_mark(const char **s, char mark[MARK])
{
    static const char *const bars[] = {"|", "\xef\xbd\x9c"};
    for (const char *p = *s; (p = strchr(p, '<')); p++) {
        for (int i = 0; i < 2; i++) {
            size_t bar = strlen(bars[i]);
            if (strncmp(p + 1, bars[i], bar) != 0) continue;
            const char *end = strchr(p, '>');
            size_t n = end ? (size_t)(end + 1 - p) : 0;
            if (n < 2 * bar + 2 || n >= MARK || memcmp(end - bar, bars[i], bar) != 0) continue;
            memcpy(mark, p, n);
            mark[n] = 0;
            *s = end + 1;
            return true;
        }
    }
    return false;
}

/* Looks for the marks around turns; the first that the vocabulary lacks goes into `missing` ("": none). True if it
 * has any. */
static bool look(const cl_chat_format *f, const cl_tokenizer *t, char missing[MARK])
{
    char mark[MARK];
    bool any = false;
    missing[0] = 0;
    for (int i = 0; i < 2 * CL_CHAT_ROLES + 1; i++) {
        const char *s = i == 2 * CL_CHAT_ROLES ? f->generation : i % 2 ? f->close[i / 2] : f->open[i / 2];
        while (s && next_mark(&s, mark)) {
            bool has = cl_tokenizer_find(t, mark) >= 0;
            any |= has;
            if (!has && !missing[0]) memcpy(missing, mark, MARK);
        }
    }
    return any;
}

cl_code cl_chat_check(const cl_chat *c, const cl_tokenizer *t, cl_err *err)
{
    char missing[MARK], other[MARK];
    bool tuned = false;
    look(c->f, t, missing);
    for (int i = 0; i < cl_chat_n_formats && !tuned; i++) tuned = look(&cl_chat_formats[i], t, other);
    if (!missing[0] || !tuned) return CL_OK;
    return cl_fail(err, CL_E_INPUT,
                   "chat format %s: the vocabulary has no token %s (name the format that the model was tuned on)",
                   c->f->name, missing);
}
