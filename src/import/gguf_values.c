/* gguf_values.c: metadata of a GGUF by key, as numbers, texts, arrays, or all of it as JSON (gguf.h). */
#include <string.h>

#include "gguf_head.h"

/* --- one value of any number type --- */

static bool as_i64(const unsigned char *p, uint32_t type, int64_t *v)
{
    switch (type) {
    case CL_GGUF_U8: *v = p[0]; return true;
    case CL_GGUF_BOOL: *v = p[0] != 0; return true;
    case CL_GGUF_I8: *v = (int8_t)p[0]; return true;
    case CL_GGUF_U16: {
        uint16_t x;
        memcpy(&x, p, 2);
        *v = x;
        return true;
    }
    case CL_GGUF_I16: {
        int16_t x;
        memcpy(&x, p, 2);
        *v = x;
        return true;
    }
    case CL_GGUF_U32: {
        uint32_t x;
        memcpy(&x, p, 4);
        *v = x;
        return true;
    }
    case CL_GGUF_I32: {
        int32_t x;
        memcpy(&x, p, 4);
        *v = x;
        return true;
    }
    case CL_GGUF_U64: {
        uint64_t x;
        memcpy(&x, p, 8);
        *v = (int64_t)x;
        return x <= INT64_MAX;
    }
    case CL_GGUF_I64: memcpy(v, p, 8); return true;
    default: return false;
    }
}

static bool as_f64(const unsigned char *p, uint32_t type, double *v)
{
    float f;
    int64_t i;
    if (type == CL_GGUF_F32) {
        memcpy(&f, p, 4);
        *v = (double)f;
    } else if (type == CL_GGUF_F64) {
        memcpy(v, p, 8);
    } else {
        if (type == CL_GGUF_BOOL || !as_i64(p, type, &i)) return false;
        *v = (double)i;
    }
    return true;
}

bool cl_head_u64(const cl_head *h, const char *key, uint64_t *out)
{
    const cl_kv *kv = cl_head_find(h, key);
    int64_t v;
    if (!kv || kv->type == CL_GGUF_BOOL || !as_i64(h->bytes + kv->at, kv->type, &v) || v < 0) return false;
    *out = (uint64_t)v;
    return true;
}

bool cl_gguf_has(const cl_gguf *g, const char *key) { return cl_head_find(&g->head, key) != NULL; }
bool cl_gguf_u64(const cl_gguf *g, const char *key, uint64_t *out) { return cl_head_u64(&g->head, key, out); }

bool cl_gguf_f64(const cl_gguf *g, const char *key, double *out)
{
    const cl_kv *kv = cl_head_find(&g->head, key);
    return kv && as_f64(g->head.bytes + kv->at, kv->type, out);
}

bool cl_gguf_bool(const cl_gguf *g, const char *key, bool *out)
{
    const cl_kv *kv = cl_head_find(&g->head, key);
    if (!kv || kv->type != CL_GGUF_BOOL) return false;
    *out = g->head.bytes[kv->at] != 0;
    return true;
}

bool cl_gguf_str(const cl_gguf *g, const char *key, const char **s, size_t *n)
{
    const cl_kv *kv = cl_head_find(&g->head, key);
    if (!kv || kv->type != CL_GGUF_STR) return false;
    *s = (const char *)g->head.bytes + kv->at;
    *n = kv->n;
    return true;
}

static const cl_kv *array(const cl_gguf *g, const char *key)
{
    const cl_kv *kv = cl_head_find(&g->head, key);
    return kv && kv->type == CL_GGUF_ARRAY ? kv : NULL;
}

bool cl_gguf_array(const cl_gguf *g, const char *key, uint32_t *elem_type, uint64_t *n)
{
    const cl_kv *kv = array(g, key);
    if (!kv) return false;
    *elem_type = kv->elem;
    *n = kv->n;
    return true;
}

static void string_at(const cl_head *h, const cl_kv *kv, uint64_t i, const char **s, size_t *n)
{
    size_t at = h->strings[kv->at + i];
    uint64_t len;
    memcpy(&len, h->bytes + at, 8);
    *s = (const char *)h->bytes + at + 8;
    *n = len;
}

bool cl_gguf_array_str(const cl_gguf *g, const char *key, uint64_t i, const char **s, size_t *n)
{
    const cl_kv *kv = array(g, key);
    if (!kv || kv->elem != CL_GGUF_STR || i >= kv->n) return false;
    string_at(&g->head, kv, i, s, n);
    return true;
}

bool cl_gguf_array_i64(const cl_gguf *g, const char *key, uint64_t i, int64_t *v)
{
    const cl_kv *kv = array(g, key);
    return kv && i < kv->n && as_i64(g->head.bytes + kv->at + i * cl_gguf_value_size[kv->elem], kv->elem, v);
}

bool cl_gguf_array_f64(const cl_gguf *g, const char *key, uint64_t i, double *v)
{
    const cl_kv *kv = array(g, key);
    return kv && i < kv->n && as_f64(g->head.bytes + kv->at + i * cl_gguf_value_size[kv->elem], kv->elem, v);
}

/* --- metadata as JSON --- */

static json_t *json_of_text(const char *s, size_t n)
{
    json_t *j = json_stringn(s, n);
    return j ? j : json_sprintf("(%zu bytes that are not UTF-8)", n);
}

static json_t *json_of_number(const unsigned char *p, uint32_t type)
{
    int64_t i;
    double d;
    if (type == CL_GGUF_BOOL) return json_boolean(p[0]);
    if (as_i64(p, type, &i)) return json_integer(i);
    json_t *j = as_f64(p, type, &d) ? json_real(d) : NULL;
    return j ? j : json_null(); /* NaN, infinity, over 2^63 */
}

static json_t *json_of_value(const cl_head *h, const cl_kv *kv)
{
    if (kv->type == CL_GGUF_STR) return json_of_text((const char *)h->bytes + kv->at, kv->n);
    if (kv->type != CL_GGUF_ARRAY) return json_of_number(h->bytes + kv->at, kv->type);
    if (kv->n > 64) return json_sprintf("(%llu elements)", (unsigned long long)kv->n);
    json_t *list = json_array();
    for (uint64_t i = 0; list && i < kv->n; i++) {
        json_t *v;
        if (kv->elem == CL_GGUF_STR) {
            const char *s;
            size_t n;
            string_at(h, kv, i, &s, &n);
            v = json_of_text(s, n);
        } else {
            v = json_of_number(h->bytes + kv->at + i * cl_gguf_value_size[kv->elem], kv->elem);
        }
        json_array_append_new(list, v);
    }
    return list;
}

cl_code cl_gguf_metadata_json(const cl_gguf *g, json_t **out, cl_err *err)
{
    json_t *all = json_object();
    for (size_t i = 0; all && i < g->head.n_kv; i++) {
        const cl_kv *kv = &g->head.kv[i];
        json_object_setn_new(all, (const char *)g->head.bytes + kv->key, kv->key_len, json_of_value(&g->head, kv));
    }
    *out = all;
    return all ? CL_OK : cl_fail(err, CL_E_FIT, "no memory for the metadata");
}
