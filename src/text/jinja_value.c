/* jinja_value.c: what values are worth, and how they are written: as Python's str() and repr(), and as JSON. */
#include <math.h>
#include <stdlib.h>

#include "jinja_inside.h"

enum { VALUE_DEPTH = 64 };

bool jinja_truth(const json_t *v)
{
    if (!v) return false;
    switch (json_typeof(v)) {
    case JSON_STRING: return json_string_length(v) > 0;
    case JSON_ARRAY: return json_array_size(v) > 0;
    case JSON_OBJECT: return json_object_size(v) > 0;
    case JSON_INTEGER: return json_integer_value(v) != 0;
    case JSON_REAL: return json_real_value(v) != 0;
    default: return json_is_true(v);
    }
}

const char *jinja_text(const json_t *v, size_t *n)
{
    *n = v && json_is_string(v) ? json_string_length(v) : 0;
    return v && json_is_string(v) ? json_string_value(v) : NULL;
}

json_t *jinja_string(jinja_run *r, const char *s, size_t n)
{
    jinja_spend(r, n);
    return jinja_failed(r) ? NULL : json_stringn_nocheck(s, n);
}

/* A mapping's key: a text, or a number, which is kept as a text that begins with this. */
enum { NUMBER_KEY = 1 };

const char *jinja_key(const json_t *key, char buf[JINJA_KEY], size_t *n)
{
    if (!key || !json_is_integer(key)) return jinja_text(key, n);
    *n = (size_t)snprintf(buf, JINJA_KEY, "%c%lld", NUMBER_KEY, (long long)json_integer_value(key));
    return buf;
}

json_t *jinja_key_value(const char *key, size_t n)
{
    return n > 1 && *key == NUMBER_KEY ? json_integer(strtoll(key + 1, NULL, 10)) : json_stringn_nocheck(key, n);
}

/* --- comparing --- */

static bool is_number(const json_t *v) { return v && (json_is_number(v) || json_is_boolean(v)); }
static double number_of(const json_t *v) { return json_is_boolean(v) ? json_is_true(v) : json_number_value(v); }

static bool same(jinja_run *r, const json_t *a, const json_t *b, int depth)
{
    jinja_spend(r, 0);
    if (a == b || !a || !b || depth > VALUE_DEPTH || jinja_failed(r)) return a == b;
    if (json_is_integer(a) && json_is_integer(b)) return json_integer_value(a) == json_integer_value(b);
    if (is_number(a) && is_number(b)) return number_of(a) == number_of(b); /* True is 1, 1 is 1.0 */
    if (json_typeof(a) != json_typeof(b)) return false;
    bool equal = true;
    if (json_is_array(a)) {
        equal = json_array_size(a) == json_array_size(b);
        for (size_t i = 0; equal && i < json_array_size(a); i++)
            equal = same(r, json_array_get(a, i), json_array_get(b, i), depth + 1);
    } else if (json_is_object(a)) {
        const char *key;
        size_t n;
        json_t *v;
        equal = json_object_size(a) == json_object_size(b);
        json_object_keylen_foreach((json_t *)(uintptr_t)a, key, n, v)
        {
            json_t *other = json_object_getn(b, key, n);
            equal = equal && other && same(r, v, other, depth + 1);
        }
    } else equal = json_equal(a, b);
    return equal;
}

bool jinja_equal(jinja_run *r, const json_t *a, const json_t *b) { return same(r, a, b, 0); }

int jinja_order(jinja_run *r, const json_t *a, const json_t *b)
{
    size_t n, n_b;
    const char *s = jinja_text(a, &n), *t = jinja_text(b, &n_b);
    if (s && t) {
        int order = memcmp(s, t, n < n_b ? n : n_b); /* UTF-8's order is that of characters */
        return order ? order : (n > n_b) - (n < n_b);
    }
    if (!is_number(a) || !is_number(b)) {
        jinja_unknown(r, "a comparison of values that have no order");
        return 0;
    }
    if (json_is_integer(a) && json_is_integer(b))
        return (json_integer_value(a) > json_integer_value(b)) - (json_integer_value(a) < json_integer_value(b));
    return (number_of(a) > number_of(b)) - (number_of(a) < number_of(b));
}

bool jinja_contains(jinja_run *r, const json_t *in, const json_t *what)
{
    size_t n, n_what;
    const char *s = jinja_text(in, &n), *t = jinja_text(what, &n_what);
    jinja_spend(r, n);
    if (s && t) return memmem(s, n, t, n_what) != NULL;
    char buf[JINJA_KEY];
    const char *key = jinja_key(what, buf, &n_what);
    if (in && json_is_object(in) && in != r->method && key) return json_object_getn(in, key, n_what) != NULL;
    if (in && !json_is_array(in) && !json_is_object(in)) jinja_unknown(r, "'in' something that holds nothing");
    for (size_t i = 0; what && i < json_array_size(in) && !jinja_failed(r); i++)
        if (jinja_equal(r, json_array_get(in, i), what)) return true;
    return false;
}

json_t *jinja_items_of(jinja_run *r, json_t *v)
{
    size_t n, n_key;
    const char *s = jinja_text(v, &n), *key;
    json_t *value;
    if (v && json_is_array(v)) return json_incref(v);
    if (v && !s && (!json_is_object(v) || v == r->method))
        return jinja_unknown(r, "a loop over something that is no list");
    json_t *list = json_array(); /* what is undefined is empty */
    jinja_spend(r, JINJA_STEP_BYTES * n + JINJA_STEP_BYTES * json_object_size(v));
    for (size_t at = 0; at < n && !jinja_failed(r);) {
        size_t len = jinja_char_at(s + at, n - at, 1);
        json_array_append_new(list, json_stringn_nocheck(s + at, len));
        at += len;
    }
    json_object_keylen_foreach(v, key, n_key, value) json_array_append_new(list, jinja_key_value(key, n_key));
    return list;
}

/* --- writing --- */

/* The shortest digits that are this number again, as Python's repr() lays them out. */
static void write_real(double v, cl_buf *out)
{
    char digits[40], plain[32];
    int p = 1;
    while (p < 17 && (snprintf(digits, sizeof digits, "%.*e", p - 1, v), strtod(digits, NULL) != v)) p++;
    snprintf(digits, sizeof digits, "%.*e", p - 1, v);
    char *e = strchr(digits, 'e');
    int exponent = atoi(e + 1);
    if (exponent < -4 || exponent >= 16) {
        *e = 0;
        cl_buf_printf(out, NULL, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
    } else {
        int behind = p - 1 - exponent;
        snprintf(plain, sizeof plain, "%.*f", behind > 1 ? behind : 1, v);
        cl_buf_str(out, plain, NULL);
    }
}

typedef struct writer {
    jinja_run *r;
    cl_buf *out;
    bool json;          /* else Python's repr() */
    bool ascii, sorted; /* json only */
    const char *between, *colon, *indent;
    size_t n_between, n_colon, n_indent;
} writer;

static void put(writer *w, const char *s, size_t n)
{
    jinja_spend(w->r, n);
    if (!jinja_failed(w->r) && cl_buf_add(w->out, s, n, NULL) != CL_OK) jinja_unknown(w->r, "no memory");
}

/* A character outside ASCII as \uXXXX, by two of them if need be. */
static void put_escaped(writer *w, const unsigned char *s, size_t n)
{
    unsigned c = n == 2 ? s[0] & 31u : n == 3 ? s[0] & 15u : s[0] & 7u;
    for (size_t i = 1; i < n; i++) c = c << 6 | (s[i] & 63u);
    if (c < 0x10000) cl_buf_printf(w->out, NULL, "\\u%04x", c);
    else cl_buf_printf(w->out, NULL, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 1023));
}

static void put_string(writer *w, const char *s, size_t n)
{
    bool single = !w->json && !(memchr(s, '\'', n) && !memchr(s, '"', n));
    char quote = single ? '\'' : '"';
    put(w, &quote, 1);
    for (size_t i = 0, len; i < n && !jinja_failed(w->r); i += len) {
        unsigned char c = (unsigned char)s[i];
        static const char letters[] = "\n\r\t\b\f", names[] = "nrtbf";
        const char *at = c ? strchr(letters, c) : NULL;
        len = jinja_char_at(s + i, n - i, 1);
        if (c == (unsigned char)quote || c == '\\') cl_buf_printf(w->out, NULL, "\\%c", c);
        else if (at && (w->json || at - letters < 3)) cl_buf_printf(w->out, NULL, "\\%c", names[at - letters]);
        else if (c < 32 || (c == 127 && (!w->json || w->ascii)))
            cl_buf_printf(w->out, NULL, w->json ? "\\u%04x" : "\\x%02x", c);
        else if (!w->json && c == 0xc2 && (unsigned char)s[i + 1] <= 0xa0)
            cl_buf_printf(w->out, NULL, "\\x%02x", (unsigned char)s[i + 1]);
        else if (w->ascii && len > 1) put_escaped(w, (const unsigned char *)s + i, len);
        else cl_buf_add(w->out, s + i, len, NULL);
    }
    jinja_spend(w->r, n);
    put(w, &quote, 1);
}

static void put_line(writer *w, int depth)
{
    if (!w->indent) return;
    put(w, "\n", 1);
    for (int i = 0; i < depth; i++) put(w, w->indent, w->n_indent);
}

static void put_value(writer *w, const json_t *v, int depth);

typedef struct member {
    const char *key;
    size_t n; /* a key may hold a zero */
    const json_t *value;
} member;

static int by_key(const void *a, const void *b)
{
    const member *x = a, *y = b;
    int order = memcmp(x->key, y->key, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static void put_key(writer *w, const member *m)
{
    if (m->n == 0 || *m->key != NUMBER_KEY) put_string(w, m->key, m->n);
    else cl_buf_printf(w->out, NULL, w->json ? "\"%s\"" : "%s", m->key + 1);
}

static void put_object(writer *w, const json_t *v, int depth)
{
    size_t n = 0, n_key;
    member *members = cl_calloc(json_object_size(v), sizeof *members, "keys", NULL);
    const char *key;
    json_t *value;
    if (!members) return;
    json_object_keylen_foreach((json_t *)(uintptr_t)v, key, n_key, value) members[n++] = (member){key, n_key, value};
    if (w->sorted) qsort(members, n, sizeof *members, by_key);
    put(w, "{", 1);
    for (size_t i = 0; i < n && !jinja_failed(w->r); i++) {
        if (i) put(w, w->between, w->n_between);
        put_line(w, depth + 1);
        put_key(w, &members[i]);
        put(w, w->colon, w->n_colon);
        put_value(w, members[i].value, depth + 1);
    }
    if (n) put_line(w, depth);
    put(w, "}", 1);
    free(members);
}

static void put_array(writer *w, const json_t *v, int depth)
{
    put(w, "[", 1);
    for (size_t i = 0; i < json_array_size(v) && !jinja_failed(w->r); i++) {
        if (i) put(w, w->between, w->n_between);
        put_line(w, depth + 1);
        put_value(w, json_array_get(v, i), depth + 1);
    }
    if (json_array_size(v)) put_line(w, depth);
    put(w, "]", 1);
}

static void put_value(writer *w, const json_t *v, int depth)
{
    static const char *const words[2][3] = {{"True", "False", "None"}, {"true", "false", "null"}};
    if (depth > VALUE_DEPTH) jinja_unknown(w->r, "a value is nested too deeply");
    if (v == w->r->method || jinja_is_namespace(w->r, v)) jinja_unknown(w->r, "prints a method or a namespace");
    if (jinja_failed(w->r)) return;
    switch (json_typeof(v)) {
    case JSON_STRING: put_string(w, json_string_value(v), json_string_length(v)); break;
    case JSON_INTEGER: cl_buf_printf(w->out, NULL, "%lld", (long long)json_integer_value(v)); break;
    case JSON_REAL: write_real(json_real_value(v), w->out); break;
    case JSON_ARRAY: put_array(w, v, depth); break;
    case JSON_OBJECT: put_object(w, v, depth); break;
    default: cl_buf_str(w->out, words[w->json][json_is_true(v) ? 0 : json_is_false(v) ? 1 : 2], NULL);
    }
    jinja_spend(w->r, 0);
}

void jinja_print(jinja_run *r, const json_t *v, cl_buf *out)
{
    writer w = {.r = r, .out = out, .between = ", ", .n_between = 2, .colon = ": ", .n_colon = 2};
    if (!v || jinja_failed(r)) return;
    if (json_is_string(v)) put(&w, json_string_value(v), json_string_length(v));
    else put_value(&w, v, 0);
}

json_t *jinja_str(jinja_run *r, const json_t *v)
{
    if (v && json_is_string(v)) return json_incref((json_t *)(uintptr_t)v);
    cl_buf b = {0};
    jinja_print(r, v, &b);
    json_t *s = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return s;
}

json_t *jinja_to_json(jinja_run *r, const json_t *v, const jinja_args *a)
{
    static const char blanks[] = "                ";
    const json_t *indent = jinja_arg(a, 1, "indent"), *separators = jinja_arg(a, 2, "separators");
    cl_buf b = {0};
    writer w = {.r = r, .out = &b, .json = true, .between = ", ", .n_between = 2, .colon = ": ", .n_colon = 2};
    if (!v) return jinja_unknown(r, "tojson of something undefined");
    w.ascii = jinja_truth(jinja_arg(a, 0, "ensure_ascii"));
    w.sorted = jinja_truth(jinja_arg(a, 3, "sort_keys"));
    if (indent && !json_is_null(indent)) {
        w.n_between = 1;
        w.indent = jinja_text(indent, &w.n_indent);
        if (!w.indent) {
            json_int_t n = json_integer_value(indent);
            w.indent = blanks;
            w.n_indent = n < 0 ? 0 : (size_t)n;
            if (n > (json_int_t)sizeof blanks - 1)
                return jinja_unknown(r, "tojson with an indent of %lld", (long long)n);
        }
    }
    if (separators && json_array_size(separators) == 2) {
        w.between = jinja_text(json_array_get(separators, 0), &w.n_between);
        w.colon = jinja_text(json_array_get(separators, 1), &w.n_colon);
        if (!w.between || !w.colon) return jinja_unknown(r, "tojson with separators that are no texts");
    }
    put_value(&w, v, 0);
    json_t *s = jinja_string(r, b.data ? b.data : "", b.len);
    cl_buf_free(&b);
    return s;
}
