/* tok_added.c: added and control tokens are found in text before anything else happens to it.
 *
 * As in tokenizers: the leftmost token wins, the longest among those at one place; a token that is not wanted (a
 * control token when specials are off, a single-word token inside a word) is passed over as a whole. The tokens are
 * kept sorted, and a match is found by narrowing the range of those that go on like the text, byte by byte. */
#include "tok_internal.h"

#include <stdlib.h>
#include <utf8proc.h>

static bool is_added(uint8_t type) { return type == CL_TOK_CONTROL || type == CL_TOK_UNKNOWN || type == CL_TOK_USER; }

static int by_bytes(const void *a, const void *b, void *data)
{
    const cl_tokenizer_data *d = data;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    size_t nx = cl_tok_len(d, x), ny = cl_tok_len(d, y);
    int c = memcmp(cl_tok_bytes(d, x), cl_tok_bytes(d, y), nx < ny ? nx : ny);
    return c ? c : nx != ny ? (nx > ny) - (nx < ny) : (x > y) - (x < y);
}

cl_code cl_tok_added_build(cl_tok_added *a, const cl_tokenizer_data *d, bool normalized, cl_err *err)
{
    a->d = d;
    a->n = 0;
    for (int32_t id = 0; id < d->n_tokens; id++)
        a->n += is_added(d->type[id]) && !(d->flags[id] & CL_TOK_NORMALIZED) != normalized;
    a->id = cl_malloc((size_t)a->n, sizeof *a->id, "added tokens", err);
    if (!a->id) return CL_E_FIT;
    int n = 0;
    for (int32_t id = 0; id < d->n_tokens; id++)
        if (is_added(d->type[id]) && !(d->flags[id] & CL_TOK_NORMALIZED) != normalized) a->id[n++] = id;
    qsort_r(a->id, (size_t)n, sizeof *a->id, by_bytes, (void *)(uintptr_t)d);
    for (int i = 1; i < n; i++)
        if (cl_tok_len(d, a->id[i - 1]) == cl_tok_len(d, a->id[i]) &&
            memcmp(cl_tok_bytes(d, a->id[i - 1]), cl_tok_bytes(d, a->id[i]), cl_tok_len(d, a->id[i])) == 0)
            return cl_fail(err, CL_E_INPUT, "vocabulary: added tokens %d and %d are the same text", (int)a->id[i - 1],
                           (int)a->id[i]);
    for (int b = 0, i = 0; b <= 256; b++) {
        while (i < n && (unsigned char)*cl_tok_bytes(d, a->id[i]) < b) i++;
        a->first[b] = i;
    }
    return CL_OK;
}

/* First of id[lo..hi) whose byte at depth k is at least b (all are longer than k). */
static int lower_bound(const cl_tok_added *a, int lo, int hi, size_t k, int b)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((unsigned char)cl_tok_bytes(a->d, a->id[mid])[k] < b) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* The longest token that s[0..n) begins with, or -1. */
static int32_t longest(const cl_tok_added *a, const char *s, size_t n)
{
    int lo = 0, hi = a->n;
    int32_t best = -1;
    for (size_t k = 0; k < n; k++) {
        unsigned char b = (unsigned char)s[k];
        int from = lo;
        lo = k ? lower_bound(a, from, hi, k, b) : a->first[b];
        hi = k ? lower_bound(a, lo, hi, k, b + 1) : a->first[b + 1];
        if (lo < hi && cl_tok_len(a->d, a->id[lo]) == k + 1) best = a->id[lo++]; /* the shortest sorts first */
        if (lo == hi) break;
    }
    return best;
}

int32_t cl_tok_added_find(const cl_tok_added *a, const char *s, size_t n)
{
    int32_t id = longest(a, s, n);
    return id >= 0 && cl_tok_len(a->d, id) == n ? id : -1;
}

/* Regex \w as Oniguruma reads it: letters, marks, decimal digits, connector punctuation. */
static bool is_word(utf8proc_int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return false;
    }
}

/* Unicode's White_Space. */
static bool is_space(utf8proc_int32_t c)
{
    if ((c >= 9 && c <= 13) || c == 0x85) return true;
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_ZS || k == UTF8PROC_CATEGORY_ZL || k == UTF8PROC_CATEGORY_ZP;
}

/* The character that ends before s[at], its start in *start. */
static utf8proc_int32_t char_before(const char *s, size_t at, size_t *start)
{
    utf8proc_int32_t c;
    size_t i = at - 1;
    while (i > 0 && ((unsigned char)s[i] & 0xc0) == 0x80) i--;
    utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(at - i), &c);
    *start = i;
    return c;
}

static utf8proc_int32_t char_at(const char *s, size_t n, size_t at, size_t *end)
{
    utf8proc_int32_t c;
    *end = at + (size_t)utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &c);
    return c;
}

bool cl_tok_added_next(const cl_tok_added *a, const char *s, size_t n, size_t *from, size_t done, bool specials,
                       cl_tok_match *m)
{
    for (size_t i = *from; a->n && i < n;) {
        unsigned char b = (unsigned char)s[i];
        int32_t id = a->first[b] < a->first[b + 1] ? longest(a, s + i, n - i) : -1;
        if (id < 0) {
            i++;
            continue;
        }
        size_t start = i, end = i + cl_tok_len(a->d, id), k;
        uint8_t flags = a->d->flags[id];
        i = end;
        if (start < done || (!specials && a->d->type[id] != CL_TOK_USER)) continue;
        if (flags & CL_TOK_SINGLE_WORD)
            if ((start > 0 && is_word(char_before(s, start, &k))) || (end < n && is_word(char_at(s, n, end, &k))))
                continue;
        if (flags & CL_TOK_LSTRIP)
            while (start > done && is_space(char_before(s, start, &k))) start = k;
        if (flags & CL_TOK_RSTRIP)
            while (end < n && is_space(char_at(s, n, end, &k))) end = k;
        *from = i;
        *m = (cl_tok_match){id, start, end};
        return true;
    }
    *from = n;
    return false;
}
