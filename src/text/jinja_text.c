/* jinja_text.c: the methods and filters of texts, as Python has them. */
#include <ctype.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "jinja_inside.h"

/* --- characters --- */

size_t jinja_space(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    if (n >= 1 && ((p[0] >= 9 && p[0] <= 13) || (p[0] >= 28 && p[0] <= 32))) return 1;
    if (n >= 2 && p[0] == 0xc2 && (p[1] == 0x85 || p[1] == 0xa0)) return 2;
    if (n < 3) return 0;
    unsigned c = (unsigned)(p[0] & 15) << 12 | (unsigned)(p[1] & 63) << 6 | (p[2] & 63);
    bool space = c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
                 c == 0x205f || c == 0x3000;
    return p[0] >= 0xe1 && p[0] <= 0xe3 && space ? 3 : 0;
}

void jinja_strip(const char **s, size_t *n, bool left, bool right)
{
    size_t k;
    while (left && (k = jinja_space(*s, *n)) > 0) *s += k, *n -= k;
    for (bool more = right; more;) {
        more = false;
        for (k = 1; k <= 3 && k <= *n && !more; k++)
            if (jinja_space(*s + *n - k, k) == k) *n -= k, more = true;
    }
}

static bool continues(char c) { return ((unsigned char)c & 0xc0) == 0x80; }

size_t jinja_count_chars(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += !continues(s[i]);
    return count;
}

size_t jinja_char_at(const char *s, size_t n, size_t i)
{
    size_t at = 0;
    for (; i > 0 && at < n; i--)
        for (at++; at < n && continues(s[at]);) at++;
    return at;
}

/* --- cutting --- */

/* str.strip(chars): white space without an argument. */
static json_t *strip(jinja_run *r, const json_t *v, const json_t *chars, bool left, bool right)
{
    size_t n, n_set;
    const char *s = jinja_text(v, &n), *set = jinja_text(chars, &n_set);
    if (!set) jinja_strip(&s, &n, left, right);
    else {
        if (jinja_count_chars(set, n_set) != n_set) return jinja_unknown(r, "strip() of characters outside ASCII");
        while (left && n && memchr(set, *s, n_set)) s++, n--;
        while (right && n && memchr(set, s[n - 1], n_set)) n--;
    }
    return jinja_string(r, s, n);
}

static void append(jinja_run *r, json_t *list, const char *s, size_t n)
{
    jinja_spend(r, n + JINJA_STEP_BYTES);
    if (!jinja_failed(r)) json_array_append_new(list, json_stringn_nocheck(s, n));
}

/* str.split(): at white space, which is not doubled. */
static json_t *split_words(jinja_run *r, const char *s, size_t n, json_int_t left)
{
    json_t *list = json_array();
    for (jinja_strip(&s, &n, true, false); n && !jinja_failed(r); jinja_strip(&s, &n, true, false)) {
        size_t k = 0;
        while (k < n && (left == 0 || !jinja_space(s + k, n - k))) k++;
        append(r, list, s, k);
        s += k, n -= k;
        left -= left > 0;
    }
    return list;
}

/* The last place of t in s. */
static const char *find_last(const char *s, size_t n, const char *t, size_t n_t)
{
    for (size_t i = n + 1; n_t <= n && i-- > 0;)
        if (i + n_t <= n && memcmp(s + i, t, n_t) == 0) return s + i;
    return NULL;
}

/* str.split(by, most), str.rsplit(by, most): at most `most` cuts, from the left or the right. */
static json_t *split(jinja_run *r, const json_t *v, const jinja_args *a, bool from_right)
{
    const json_t *by = jinja_arg(a, 0, "sep"), *most = jinja_arg(a, 1, "maxsplit");
    size_t n, n_by;
    const char *s = jinja_text(v, &n), *sep = jinja_text(by, &n_by), *hit;
    json_int_t left = most && json_is_integer(most) ? json_integer_value(most) : -1;
    if (most && !json_is_integer(most)) return jinja_unknown(r, "split() with a number of cuts that is none");
    if ((!by || json_is_null(by)) && !(from_right && most)) return split_words(r, s, n, left);
    if (!sep || !n_by) return jinja_unknown(r, "split() without a separator");
    json_t *list = json_array();
    while (!from_right && left-- != 0 && !jinja_failed(r) && (hit = memmem(s, n, sep, n_by))) {
        append(r, list, s, (size_t)(hit - s));
        n -= (size_t)(hit - s) + n_by;
        s = hit + n_by;
    }
    while (from_right && left-- != 0 && !jinja_failed(r) && (hit = find_last(s, n, sep, n_by))) {
        jinja_spend(r, n + JINJA_STEP_BYTES);
        json_array_insert_new(list, 0, json_stringn_nocheck(hit + n_by, n - (size_t)(hit - s) - n_by));
        n = (size_t)(hit - s);
    }
    if (from_right) json_array_insert_new(list, 0, json_stringn_nocheck(s, n));
    else append(r, list, s, n);
    return list;
}

/* str.splitlines(), for line ends as they are in texts. */
static json_t *split_lines(jinja_run *r, const json_t *v, bool keep)
{
    size_t n;
    const char *s = jinja_text(v, &n);
    json_t *list = json_array();
    while (n && !jinja_failed(r)) {
        size_t k = 0;
        while (k < n && s[k] != '\n' && s[k] != '\r') k++;
        size_t end = k < n ? k + (s[k] == '\r' && k + 1 < n && s[k + 1] == '\n' ? 2 : 1) : n;
        append(r, list, s, keep ? end : k);
        s += end, n -= end;
    }
    return list;
}

static json_t *replace(jinja_run *r, const json_t *v, const jinja_args *a)
{
    size_t n, n_old, n_new;
    const char *s = jinja_text(v, &n), *old = jinja_text(jinja_arg(a, 0, "old"), &n_old),
               *new = jinja_text(jinja_arg(a, 1, "new"), &n_new), *hit;
    const json_t *most = jinja_arg(a, 2, "count");
    json_int_t left = most && json_is_integer(most) ? json_integer_value(most) : -1;
    if (!old || !n_old || !new) return jinja_unknown(r, "replace() of something that is no text");
    cl_buf b = {0};
    while (left-- != 0 && !jinja_failed(r) && (hit = memmem(s, n, old, n_old))) {
        jinja_spend(r, (size_t)(hit - s) + n_new);
        cl_buf_add(&b, s, (size_t)(hit - s), NULL);
        cl_buf_add(&b, new, n_new, NULL);
        n -= (size_t)(hit - s) + n_old;
        s = hit + n_old;
    }
    cl_buf_add(&b, s, n, NULL);
    json_t *result = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return result;
}

/* --- letters --- */

typedef enum letters { UPPER, LOWER, FIRST_UPPER, WORDS_UPPER, TITLE } letters;

/* Letters of which one becomes several, or another one at the end of a word. */
static bool is_special(utf8proc_int32_t c)
{
    return c == 0xdf || c == 0x130 || c == 0x149 || c == 0x1f0 || c == 0x390 || c == 0x3a3 || c == 0x3b0 ||
           c == 0x587 || (c >= 0x1e96 && c <= 0x1e9e) || (c >= 0x1f50 && c <= 0x1fff) || (c >= 0xfb00 && c <= 0xfb17);
}

/* WORDS_UPPER: str.title(), a word is letters. TITLE: the filter, a word ends at white space and opening brackets. */
static json_t *change_case(jinja_run *r, const json_t *v, letters how)
{
    size_t n;
    const char *s = jinja_text(v, &n);
    cl_buf b = {0};
    bool begins = true;
    jinja_spend(r, n);
    for (size_t i = 0; i < n && !jinja_failed(r);) {
        utf8proc_int32_t c;
        utf8proc_uint8_t out[4];
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
        if (len < 1 || is_special(c)) {
            jinja_unknown(r, "the case of a letter that becomes several");
            break;
        }
        utf8proc_category_t kind = utf8proc_category(c);
        bool letter = kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LT;
        utf8proc_int32_t changed = how == UPPER || (begins && how == TITLE) ? utf8proc_toupper(c)
                                   : begins && how != LOWER                 ? utf8proc_totitle(c)
                                                                            : utf8proc_tolower(c);
        cl_buf_add(&b, out, (size_t)utf8proc_encode_char(changed, out), NULL);
        if (how == TITLE) begins = jinja_space(s + i, n - i) || strchr("-({[<", s[i]);
        else begins = how == WORDS_UPPER && !letter;
        i += (size_t)len;
    }
    json_t *result = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return result;
}

static bool all_are(const json_t *v, int (*is)(int))
{
    size_t n, i = 0;
    const char *s = jinja_text(v, &n);
    while (i < n && is((unsigned char)s[i])) i++;
    return n && i == n;
}

/* --- looking --- */

/* str.startswith(x), str.endswith(x); x may be several. */
static json_t *begins_or_ends(jinja_run *r, const json_t *v, const json_t *what, bool ends)
{
    size_t n, n_what;
    const char *s = jinja_text(v, &n);
    bool yes = false;
    for (size_t i = 0; i < (json_is_array(what) ? json_array_size(what) : 1); i++) {
        const char *t = jinja_text(json_is_array(what) ? json_array_get(what, i) : what, &n_what);
        if (!t) return jinja_unknown(r, "the beginning or end of a text that is no text");
        yes = yes || (n >= n_what && memcmp(ends ? s + n - n_what : s, t, n_what) == 0);
    }
    return json_boolean(yes);
}

static json_t *find(jinja_run *r, const json_t *v, const json_t *what, bool last)
{
    size_t n, n_what;
    const char *s = jinja_text(v, &n), *t = jinja_text(what, &n_what);
    if (!t) return jinja_unknown(r, "find() of something that is no text");
    const char *hit = last ? find_last(s, n, t, n_what) : memmem(s, n, t, n_what);
    jinja_spend(r, n);
    return json_integer(hit ? (json_int_t)jinja_count_chars(s, (size_t)(hit - s)) : -1);
}

static json_t *count(jinja_run *r, const json_t *v, const json_t *what)
{
    size_t n, n_what, times = 0;
    const char *s = jinja_text(v, &n), *t = jinja_text(what, &n_what), *hit;
    if (!t || !n_what) return jinja_unknown(r, "count() of something that is no text");
    jinja_spend(r, n);
    for (; (hit = memmem(s, n, t, n_what)); times++) {
        n -= (size_t)(hit - s) + n_what;
        s = hit + n_what;
    }
    return json_integer((json_int_t)times);
}

static json_t *without(jinja_run *r, const json_t *v, const json_t *what, bool end)
{
    size_t n, n_what;
    const char *s = jinja_text(v, &n);
    json_t *has = begins_or_ends(r, v, what, end);
    bool yes = has && json_is_true(has) && jinja_text(what, &n_what);
    json_decref(has);
    if (jinja_failed(r)) return NULL;
    return yes ? jinja_string(r, end ? s : s + n_what, n - n_what) : json_incref((json_t *)(uintptr_t)v);
}

/* sep.join(list) */
static json_t *join(jinja_run *r, const json_t *v, const json_t *list)
{
    cl_buf b = {0};
    if (!list || !json_is_array(list)) return jinja_unknown(r, "join() of something that is no list");
    for (size_t i = 0; i < json_array_size(list) && !jinja_failed(r); i++) {
        if (!json_is_string(json_array_get(list, i))) jinja_unknown(r, "join() of values that are no texts");
        if (i) jinja_print(r, v, &b);
        jinja_print(r, json_array_get(list, i), &b);
    }
    json_t *result = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return result;
}

/* What "{}", "{0}" or "{name}" stands for (*s is behind its "{", and goes behind its "}"); NULL: it is written
 * otherwise. */
static json_t *field(const char **s, const char *end, const jinja_args *a, int *next)
{
    const char *close = memchr(*s, '}', (size_t)(end - *s)), *name = *s;
    if (!close) return NULL;
    size_t n = (size_t)(close - name);
    *s = close + 1;
    if (!n) return (*next)++ < a->n ? a->v[*next - 1] : NULL;
    if (isdigit((unsigned char)*name)) return n == 1 && *name - '0' < a->n ? a->v[*name - '0'] : NULL;
    return json_object_getn(a->names, name, n);
}

/* str.format(): values as they are, nothing of how they are written. */
static json_t *format(jinja_run *r, const json_t *v, const jinja_args *a)
{
    size_t n;
    const char *s = jinja_text(v, &n), *end = s + n;
    int next = 0;
    cl_buf b = {0};
    while (s < end && !jinja_failed(r)) {
        char c = *s++;
        bool twice = s < end && *s == c;
        if ((c != '{' && c != '}') || twice) {
            cl_buf_add(&b, &c, 1, NULL);
            s += (c == '{' || c == '}') && twice;
            continue;
        }
        json_t *value = c == '{' ? field(&s, end, a, &next) : NULL;
        if (!value) jinja_unknown(r, "format() of fields that are more than a name or number");
        jinja_print(r, value, &b);
    }
    jinja_spend(r, n);
    json_t *result = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return result;
}

json_t *jinja_text_method(jinja_run *r, const json_t *v, const char *name, const jinja_args *a)
{
    const json_t *first = jinja_arg(a, 0, NULL);
    if (strcmp(name, "strip") == 0) return strip(r, v, first, true, true);
    if (strcmp(name, "lstrip") == 0) return strip(r, v, first, true, false);
    if (strcmp(name, "rstrip") == 0) return strip(r, v, first, false, true);
    if (strcmp(name, "split") == 0) return split(r, v, a, false);
    if (strcmp(name, "rsplit") == 0) return split(r, v, a, true);
    if (strcmp(name, "splitlines") == 0) return split_lines(r, v, jinja_truth(jinja_arg(a, 0, "keepends")));
    if (strcmp(name, "replace") == 0) return replace(r, v, a);
    if (strcmp(name, "startswith") == 0 && a->n == 1) return begins_or_ends(r, v, first, false);
    if (strcmp(name, "endswith") == 0 && a->n == 1) return begins_or_ends(r, v, first, true);
    if (strcmp(name, "removeprefix") == 0) return without(r, v, first, false);
    if (strcmp(name, "removesuffix") == 0) return without(r, v, first, true);
    if (strcmp(name, "find") == 0 && a->n == 1) return find(r, v, first, false);
    if (strcmp(name, "rfind") == 0 && a->n == 1) return find(r, v, first, true);
    if (strcmp(name, "count") == 0 && a->n == 1) return count(r, v, first);
    if (strcmp(name, "join") == 0) return join(r, v, first);
    if (strcmp(name, "format") == 0) return format(r, v, a);
    if (strcmp(name, "upper") == 0) return change_case(r, v, UPPER);
    if (strcmp(name, "lower") == 0) return change_case(r, v, LOWER);
    if (strcmp(name, "capitalize") == 0) return change_case(r, v, FIRST_UPPER);
    if (strcmp(name, "title") == 0) return change_case(r, v, WORDS_UPPER);
    if (strcmp(name, "isdigit") == 0) return json_boolean(all_are(v, isdigit));
    if (strcmp(name, "isspace") == 0) return json_boolean(all_are(v, isspace));
    return jinja_unknown(r, "the method %s of a text", name);
}

/* --- filters --- */

/* Every line but the first, and the first if asked for, moved to the right; empty ones if asked for. */
static json_t *indent(jinja_run *r, const json_t *v, const jinja_args *a)
{
    const json_t *width = jinja_arg(a, 0, "width");
    bool first = jinja_truth(jinja_arg(a, 1, "first")), blank = jinja_truth(jinja_arg(a, 2, "blank"));
    json_int_t blanks = width && json_is_integer(width) ? json_integer_value(width) : 4;
    size_t n_own;
    const char *own = jinja_text(width, &n_own);
    cl_buf by = {0}, b = {0};
    if (own) cl_buf_add(&by, own, n_own, NULL);
    for (json_int_t i = 0; !own && i < blanks && i < 256; i++) cl_buf_add(&by, " ", 1, NULL);
    json_t *lines = split_lines(r, v, false);
    size_t n, n_lines = json_array_size(lines);
    const char *s = jinja_text(v, &n);
    if (n && (s[n - 1] == '\n' || s[n - 1] == '\r')) n_lines++; /* an empty one at the end */
    for (size_t i = 0; i < n_lines && !jinja_failed(r); i++) {
        size_t len;
        const char *line = jinja_text(json_array_get(lines, i), &len);
        if (i) cl_buf_add(&b, "\n", 1, NULL);
        if (i ? blank || len : first) cl_buf_add(&b, by.data ? by.data : "", by.len, NULL);
        cl_buf_add(&b, line ? line : "", len, NULL);
        jinja_spend(r, by.len + len);
    }
    if (!n_lines && first) cl_buf_add(&b, by.data ? by.data : "", by.len, NULL);
    json_t *result = jinja_string(r, b.data ? b.data : "", b.len);
    json_decref(lines);
    cl_buf_free(&by);
    cl_buf_free(&b);
    return result;
}

static const char *const text_filters[] = {"trim",    "upper",  "lower",  "capitalize", "title",
                                           "replace", "indent", "string", "safe",       NULL};

bool jinja_is_text_filter(const char *name)
{
    for (const char *const *f = text_filters; *f; f++)
        if (strcmp(*f, name) == 0) return true;
    return false;
}

json_t *jinja_text_filter(jinja_run *r, const char *name, const json_t *v, const jinja_args *a)
{
    json_t *text = jinja_str(r, v), *result = NULL; /* what is no text is written first */
    if (!text) return NULL;
    if (strcmp(name, "trim") == 0) result = strip(r, text, jinja_arg(a, 0, "chars"), true, true);
    else if (strcmp(name, "upper") == 0) result = change_case(r, text, UPPER);
    else if (strcmp(name, "lower") == 0) result = change_case(r, text, LOWER);
    else if (strcmp(name, "capitalize") == 0) result = change_case(r, text, FIRST_UPPER);
    else if (strcmp(name, "title") == 0) result = change_case(r, text, TITLE);
    else if (strcmp(name, "replace") == 0) result = replace(r, text, a);
    else if (strcmp(name, "indent") == 0) result = indent(r, text, a);
    else result = json_incref(text);
    json_decref(text);
    return result;
}
