/* text.c: UTF-8 checking, near words, growing byte strings. */
#include "chipline/util.h"

#include <stdlib.h>
#include <strings.h>

bool cl_utf8_valid(const char *s, size_t n, size_t *bad)
{
    const unsigned char *p = (const unsigned char *)s;
    for (size_t i = 0; i < n;) {
        unsigned char c = p[i];
        size_t len = c < 0x80                 ? 1
                     : c >= 0xc2 && c <= 0xdf ? 2
                     : c >= 0xe0 && c <= 0xef ? 3
                     : c >= 0xf0 && c <= 0xf4 ? 4
                                              : 0;
        bool ok = len && i + len <= n;
        for (size_t k = 1; ok && k < len; k++) ok = (p[i + k] & 0xc0) == 0x80;
        if (ok && len == 3) ok = !(c == 0xe0 && p[i + 1] < 0xa0) && !(c == 0xed && p[i + 1] > 0x9f);
        if (ok && len == 4) ok = !(c == 0xf0 && p[i + 1] < 0x90) && !(c == 0xf4 && p[i + 1] > 0x8f);
        if (!ok) {
            if (bad) *bad = i;
            return false;
        }
        i += len;
    }
    return true;
}

void cl_utf8_repair(char *s)
{
    for (size_t bad; !cl_utf8_valid(s, strlen(s), &bad);) s[bad] = '?';
}

/* Levenshtein distance of words up to 63 letters. */
static int distance(const char *a, const char *b)
{
    int prev[64], cur[64], n = (int)strlen(b);
    if (n > 63 || strlen(a) > 63) return 64;
    for (int j = 0; j <= n; j++) prev[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        cur[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = prev[j - 1] + (a[i - 1] != b[j - 1]);
            if (prev[j] + 1 < best) best = prev[j] + 1;
            if (cur[j - 1] + 1 < best) best = cur[j - 1] + 1;
            cur[j] = best;
        }
        memcpy(prev, cur, sizeof prev);
    }
    return prev[n];
}

const char *cl_nearest(const char *word, const char *const *words, int n)
{
    const char *best = NULL;
    int least = (int)strlen(word) / 3 + 2;
    for (int i = 0; i < n; i++) {
        int d = distance(word, words[i]);
        if (d < least) least = d, best = words[i];
    }
    return best;
}

cl_code cl_buf_add(cl_buf *b, const void *data, size_t n, cl_err *err)
{
    if (n >= (size_t)PTRDIFF_MAX - b->len) return cl_fail(err, CL_E_FIT, "text: over the address space");
    size_t need = b->len + n + 1;
    if (need > b->cap) {
        size_t cap = b->cap < 128 ? 256 : b->cap + b->cap / 2;
        if (cap < need) cap = need;
        char *p = cl_realloc(b->data, cap, 1, "text", err);
        if (!p) return CL_E_FIT;
        b->data = p;
        b->cap = cap;
    }
    if (n) memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
    return CL_OK;
}

cl_code cl_buf_str(cl_buf *b, const char *s, cl_err *err) { return cl_buf_add(b, s, strlen(s), err); }

cl_code cl_buf_printf(cl_buf *b, cl_err *err, const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0) return cl_fail(err, CL_E_FIT, "text: out of memory");
    cl_code c = cl_buf_add(b, s, (size_t)n, err);
    free(s);
    return c;
}

void cl_buf_free(cl_buf *b)
{
    free(b->data);
    *b = (cl_buf){0};
}
