/* tok_split.c: cuts text into pieces with regular expressions (PCRE2, compiled to machine code where it can be).
 *
 * Tokenizers' expressions are written for Oniguruma (Ruby syntax, Unicode). What both engines read alike passes; \s is
 * rewritten, because PCRE2's takes U+180E for a space, which is none in today's Unicode; ^ and $ get PCRE2_MULTILINE,
 * because Ruby's match at every line; \p{Han} and other scripts become \p{sc:Han}, because PCRE2's plain name means
 * script extensions; [A&&[^B]] becomes one plain class, where A is made of general categories. What the two read
 * differently (\w, \h, `.` with (?m), other nested classes, {n,m}+, bare \xHH) is refused rather than matched
 * wrongly. Characters that are younger than PCRE2's Unicode tables (10.42: Unicode 14) may be cut otherwise than by a
 * younger Oniguruma. */
#include "tok_internal.h"

#include <ctype.h>
#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { MATCH_LIMIT = 10000000, HEAP_LIMIT_KIB = 256 * 1024, JIT_STACK = 1 << 20, MAX_REGEX = 1 << 16 };

/* Unicode's White_Space is category Z and these. */
#define SPACES "\\p{Z}\\t-\\r\\x{85}"

struct cl_tok_regex {
    pcre2_code *code;
};

struct cl_tok_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static cl_code refuse(const char *regex, const char *part, int n, cl_err *err)
{
    return cl_fail(err, CL_E_INPUT, "split regex %.200s: %.*s is not understood", regex, n, part);
}

/* Copies the escape at p (in a class or not) into out, p moved behind it. */
static cl_code copy_escape(const char *regex, const char **p, bool in_class, cl_buf *out, cl_err *err)
{
    const char *s = *p, *end;
    size_t n = 2;
    if (s[1] == 's') {
        *p += n;
        return cl_buf_str(out, in_class ? SPACES : "[" SPACES "]", err);
    }
    if (s[1] == 'S' && !in_class) {
        *p += n;
        return cl_buf_str(out, "[^" SPACES "]", err);
    }
    /* \p{Lu}, \p{Han}, \x{4e00}: categories, scripts and code points only */
    if (s[1] == 'p' || s[1] == 'P' || s[1] == 'x') {
        end = s[2] == '{' ? strchr(s, '}') : NULL;
        n = end ? (size_t)(end - s) + 1 : 2;
        bool ok = end && n > 4 && n < 32;
        for (size_t i = 3; ok && i < n - 1; i++)
            ok = s[1] == 'x' ? isxdigit((unsigned char)s[i]) : isalpha((unsigned char)s[i]);
        if (!ok) return refuse(regex, s, (int)(end ? n : 2), err);
        if (s[1] != 'x' && n > 6) {
            *p += n;
            return cl_buf_printf(out, err, "\\%c{sc:%.*s", s[1], (int)n - 3, s + 3);
        }
    } else if (!s[1] || (isalnum((unsigned char)s[1]) && !strchr("drnt", s[1]))) {
        return refuse(regex, s, s[1] ? 2 : 1, err);
    }
    *p += n;
    return cl_buf_add(out, s, n, err);
}

static const char categories[][3] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                     "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                     "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
enum { N_CATEGORIES = sizeof categories / sizeof *categories };

/* The class at p, if it is [A&&[^B]] with general categories \p{..} for A: as [^...], of the categories that A leaves
 * out and of B. Every code point has one category, so both are the same set. False, and nothing done, if it is
 * another class. */
static bool copy_without(const char *regex, const char **p, cl_buf *out, cl_code *c, cl_err *err)
{
    bool in[N_CATEGORIES] = {false};
    const char *s = *p + 1;
    while (s[0] == '\\' && s[1] == 'p' && s[2] == '{' && s[3] && s[4] && (s[4] == '}' || s[5] == '}')) {
        for (int i = 0; i < N_CATEGORIES; i++)
            in[i] = in[i] || (categories[i][0] == s[3] && (s[4] == '}' || categories[i][1] == s[4]));
        s += s[4] == '}' ? 5 : 6;
    }
    if (s == *p + 1 || strncmp(s, "&&[^", 4) != 0) return false;
    *c = cl_buf_str(out, "[^", err);
    for (int i = 0; *c == CL_OK && i < N_CATEGORIES; i++)
        if (!in[i]) *c = cl_buf_printf(out, err, "\\p{%s}", categories[i]);
    s += 4;
    while (*c == CL_OK && *s && *s != ']') {
        if (*s == '[' || strncmp(s, "&&", 2) == 0) *c = refuse(regex, s, 2, err);
        else if (*s == '\\') *c = copy_escape(regex, &s, true, out, err);
        else *c = cl_buf_add(out, s++, 1, err);
    }
    if (*c == CL_OK && strncmp(s, "]]", 2) != 0) *c = refuse(regex, *p, 1, err);
    if (*c == CL_OK) *c = cl_buf_str(out, "]", err);
    *p = s + 2;
    return true;
}

/* Copies the class at p. */
static cl_code copy_class(const char *regex, const char **p, cl_buf *out, cl_err *err)
{
    cl_code c = CL_OK;
    const char *s = *p + 1;
    if (copy_without(regex, p, out, &c, err)) return c;
    if (*s == '^') s++;
    if (*s == ']') return refuse(regex, *p, (int)(s - *p) + 1, err);
    c = cl_buf_add(out, *p, (size_t)(s - *p), err);
    while (c == CL_OK && *s && *s != ']') {
        if (*s == '[' || strncmp(s, "&&", 2) == 0) return refuse(regex, s, 2, err);
        if (*s == '\\') c = copy_escape(regex, &s, true, out, err);
        else c = cl_buf_add(out, s++, 1, err);
    }
    if (c == CL_OK && !*s) return refuse(regex, *p, 1, err);
    *p = s + 1;
    return c == CL_OK ? cl_buf_str(out, "]", err) : c;
}

static cl_code translate(const char *regex, cl_buf *out, cl_err *err)
{
    static const char *const groups[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    cl_code c = cl_buf_str(out, "", err);
    for (const char *p = regex; c == CL_OK && *p;) {
        size_t n = 1;
        if (*p == '\\') c = copy_escape(regex, &p, false, out, err);
        else if (*p == '[') c = copy_class(regex, &p, out, err);
        else {
            if (*p == '(' && p[1] == '?') {
                n = 0;
                for (size_t i = 0; !n && i < sizeof groups / sizeof *groups; i++)
                    if (strncmp(p, groups[i], strlen(groups[i])) == 0) n = strlen(groups[i]);
                if (!n) return refuse(regex, p, 4, err);
            } else if (*p == '{') {
                const char *end = strchr(p, '}');
                n = end ? (size_t)(end - p) + 1 : 0;
                if (!end || strspn(p + 1, "0123456789,") != n - 2 || end[1] == '+')
                    return refuse(regex, p, (int)(end ? n + 1 : 1), err);
            }
            c = cl_buf_add(out, p, n, err);
            p += n;
        }
    }
    return c;
}

cl_code cl_tok_regex_compile(cl_tok_regex **out, const char *regex, cl_err *err)
{
    *out = NULL;
    size_t bad;
    if (strlen(regex) > MAX_REGEX) return cl_fail(err, CL_E_INPUT, "split regex: longer than %d bytes", MAX_REGEX);
    if (!cl_utf8_valid(regex, strlen(regex), &bad))
        return cl_fail(err, CL_E_INPUT, "split regex: byte %zu is not UTF-8", bad);
    cl_buf b = {0};
    cl_code c = translate(regex, &b, err);
    cl_tok_regex *r = c == CL_OK ? cl_calloc(1, sizeof *r, "split regex", err) : NULL;
    pcre2_compile_context *ctx = r ? pcre2_compile_context_create(NULL) : NULL;
    if (c == CL_OK && !r) c = CL_E_FIT;
    else if (r && !ctx) c = cl_fail(err, CL_E_FIT, "split regex: no memory");
    if (c == CL_OK) {
        int code;
        PCRE2_SIZE at;
        pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
        r->code = pcre2_compile((PCRE2_SPTR)b.data, b.len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, ctx);
        if (!r->code) {
            char why[128];
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            c = cl_fail(err, CL_E_INPUT, "split regex %.200s: %s", regex, why);
        } else {
            /* where it fails, the interpreter matches: slower, the same */
            pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
        }
    }
    pcre2_compile_context_free(ctx);
    cl_buf_free(&b);
    if (c == CL_OK) *out = r;
    else cl_tok_regex_free(r);
    return c;
}

void cl_tok_regex_free(cl_tok_regex *r)
{
    if (r) pcre2_code_free(r->code);
    free(r);
}

cl_code cl_tok_matcher_create(cl_tok_matcher **out, cl_err *err)
{
    cl_tok_matcher *m = cl_calloc(1, sizeof *m, "regex matcher", err);
    *out = m;
    if (!m) return CL_E_FIT;
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK, NULL); /* NULL without JIT */
    if (!m->data || !m->context) {
        cl_tok_matcher_free(m);
        *out = NULL;
        return cl_fail(err, CL_E_FIT, "regex matcher: no memory");
    }
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_set_heap_limit(m->context, HEAP_LIMIT_KIB);
    if (m->stack) pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return CL_OK;
}

void cl_tok_matcher_free(cl_tok_matcher *m)
{
    if (!m) return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    free(m);
}

cl_code cl_tok_split_text(cl_tok_regex *const *r, int n_regex, cl_tok_matcher *m, const char *s, size_t n,
                          cl_tok_piece_fn *fn, void *ctx, cl_err *err)
{
    if (n_regex == 0) return n ? fn(ctx, s, n) : CL_OK;
    cl_code c = CL_OK;
    size_t done = 0;
    while (c == CL_OK && done < n) {
        int found =
            pcre2_match(r[0]->code, (PCRE2_SPTR)s, n, done, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, m->data, m->context);
        size_t start = n, end = n;
        if (found >= 0) {
            const PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data);
            start = o[0];
            end = o[1];
        } else if (found != PCRE2_ERROR_NOMATCH) {
            char why[128];
            pcre2_get_error_message(found, (PCRE2_UCHAR *)why, sizeof why);
            return cl_fail(err, CL_E_INPUT, "text: the split regex gave up near byte %zu of a piece of %zu: %s", done,
                           n, why);
        }
        if (start > done) c = cl_tok_split_text(r + 1, n_regex - 1, m, s + done, start - done, fn, ctx, err);
        if (c == CL_OK && end > start)
            c = cl_tok_split_text(r + 1, n_regex - 1, m, s + start, end - start, fn, ctx, err);
        done = end;
    }
    return c;
}
