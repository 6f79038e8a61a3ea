/* json_number.c: the number that made parsing fail, and the key it belongs to: Python writes NaN, Infinity and
 * integers of any length, which are no JSON. */
#include "json_number.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 16, KEY = 64 };

/* Where the reader stands: the keys of the objects around. Levels past DEPTH are counted, their keys are not kept. */
typedef struct place {
    int depth, line;
    bool object[DEPTH];
    char keys[DEPTH][KEY];
    char last[KEY]; /* the text that was read last */
} place;

static size_t read_text(const char *s, size_t n, char out[KEY])
{
    size_t i = 1, len = 0;
    for (; i < n && s[i] != '"'; i++) {
        if (s[i] == '\\') i++;
        if (i < n && len < KEY - 1) out[len++] = s[i];
    }
    out[len] = 0;
    return i < n ? i + 1 : n;
}

static void down(place *p, bool object)
{
    if (p->depth < DEPTH) {
        p->object[p->depth] = object;
        p->keys[p->depth][0] = 0;
    }
    p->depth++;
}

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '-' ||
           c == '.';
}

/* What is wrong with the number, NULL if nothing is. */
static const char *fault(const char *word, bool reals)
{
    const char *digits = word + (*word == '-');
    if (strcmp(word, "NaN") == 0 || strcmp(digits, "Infinity") == 0)
        return "is not a number that JSON has (give a finite one)";
    if (*digits < '0' || *digits > '9') return NULL;
    errno = 0;
    if (!reals && digits[strspn(digits, "0123456789")] == 0) {
        (void)strtoll(word, NULL, 10);
        return errno == ERANGE ? "is beyond 64 bits (give a smaller number)" : NULL;
    }
    return isinf(strtod(word, NULL)) ? "is beyond floating point (give a smaller number)" : NULL;
}

static void fail(const place *p, const char *word, const char *fault, cl_err *err)
{
    char path[DEPTH * (KEY + 1)] = "";
    size_t at = 0;
    for (int i = 0; i < p->depth && i < DEPTH; i++)
        if (p->keys[i][0]) at += (size_t)snprintf(path + at, sizeof path - at, "%s%s", at ? "." : "", p->keys[i]);
    const char *rest = strlen(word) > 40 ? ".." : "";
    cl_fail(err, CL_E_INPUT, "%.200s%sline %d: %.40s%s %s", path, at ? ": " : "", p->line, word, rest, fault);
}

bool cl_json_bad_number(const char *text, size_t n, size_t position, bool reals, cl_err *err)
{
    place p = {.line = 1};
    for (size_t i = 0; i < position && i < n;) {
        char c = text[i], word[512];
        int top = p.depth - 1;
        if (c == '"') {
            i += read_text(text + i, n - i, p.last);
            continue;
        }
        if (is_word(c)) {
            size_t len = 0;
            for (; i < n && is_word(text[i]); i++)
                if (len < sizeof word - 1) word[len++] = text[i];
            word[len] = 0;
            const char *what = fault(word, reals);
            if (what) fail(&p, word, what, err);
            if (what) return true;
            continue;
        }
        if (c == '\n') p.line++;
        if (c == '{' || c == '[') down(&p, c == '{');
        if ((c == '}' || c == ']') && p.depth > 0) p.depth--;
        if (c == ':' && top >= 0 && top < DEPTH && p.object[top]) memcpy(p.keys[top], p.last, KEY);
        i++;
    }
    return false;
}
