/* gguf_head.c: reads a GGUF header forward (gguf_head.h). Nothing is believed before it is compared with what is left
 * of the file. */
#include "gguf_head.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF numbers are read as they are");

enum { MAX_HEADER = 256 << 20, MAX_KEY = 65535, READ_AHEAD = 64 << 10 };

/* Makes the next n bytes of the header present; `what` is being read. */
static cl_code need(cl_head_reader *r, uint64_t n, const char *what)
{
    cl_head *h = r->h;
    uint64_t size = r->s->files[r->file].size;
    if (n > size - h->pos)
        return cl_fail(r->err, CL_E_INPUT,
                       "%s at byte %zu wants %llu bytes, the file has %llu (it is truncated or damaged: copy it again)",
                       what, h->pos, (unsigned long long)n, (unsigned long long)size);
    if (n <= h->have - h->pos) return CL_OK;
    if (n > MAX_HEADER - h->pos)
        return cl_fail(r->err, CL_E_INPUT, "%s at byte %zu: the header is over %d MiB (the file is damaged)", what,
                       h->pos, MAX_HEADER >> 20);
    uint64_t want = h->pos + n, ahead = 2 * (uint64_t)h->have + READ_AHEAD;
    if (want < ahead) want = ahead;
    if (want > size) want = size;
    unsigned char *more = cl_realloc(h->bytes, want, 1, "GGUF header", r->err);
    if (!more) return CL_E_FIT;
    h->bytes = more;
    cl_code c = cl_source_read(r->s, r->file, h->have, want - h->have, h->bytes + h->have, r->err);
    if (c == CL_OK) h->have = want;
    return c;
}

cl_code cl_head_get(cl_head_reader *r, void *dst, size_t n, const char *what)
{
    cl_code c = need(r, n, what);
    if (c != CL_OK) return c;
    memcpy(dst, r->h->bytes + r->h->pos, n);
    r->h->pos += n;
    return CL_OK;
}

cl_code cl_head_get_str(cl_head_reader *r, const char *what, uint64_t max, size_t *at, size_t *n)
{
    uint64_t len;
    cl_code c = cl_head_get(r, &len, 8, what);
    if (c == CL_OK && len > max)
        c = cl_fail(r->err, CL_E_INPUT,
                    "%s at byte %zu is %llu bytes long, at most %llu are allowed (the file is damaged)", what,
                    r->h->pos, (unsigned long long)len, (unsigned long long)max);
    if (c == CL_OK) c = need(r, len, what);
    if (c != CL_OK) return c;
    *at = r->h->pos;
    *n = len;
    r->h->pos += len;
    return CL_OK;
}

/* --- metadata --- */

const uint8_t cl_gguf_value_size[CL_GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static cl_code read_strings(cl_head_reader *r, cl_kv *kv)
{
    cl_head *h = r->h;
    if (kv->n > (r->s->files[r->file].size - h->pos) / 8) return need(r, UINT64_MAX, "an array of strings");
    kv->at = h->n_strings;
    for (uint64_t i = 0; i < kv->n; i++) {
        if (h->n_strings == h->cap_strings) {
            size_t cap = 2 * h->cap_strings + 256;
            size_t *more = cl_realloc(h->strings, cap, sizeof *more, "GGUF strings", r->err);
            if (!more) return CL_E_FIT;
            h->strings = more;
            h->cap_strings = cap;
        }
        size_t at, n;
        h->strings[h->n_strings++] = h->pos;
        cl_code c = cl_head_get_str(r, "a string of an array", UINT64_MAX, &at, &n);
        if (c != CL_OK) return c;
    }
    return CL_OK;
}

static cl_code read_value(cl_head_reader *r, cl_kv *kv)
{
    cl_head *h = r->h;
    cl_code c = cl_head_get(r, &kv->type, 4, "a value's type");
    if (c != CL_OK) return c;
    kv->n = 1;
    uint32_t type = kv->type;
    if (type == CL_GGUF_ARRAY) {
        if ((c = cl_head_get(r, &kv->elem, 4, "an array's type")) != CL_OK ||
            (c = cl_head_get(r, &kv->n, 8, "an array's length")) != CL_OK)
            return c;
        type = kv->elem;
    }
    if (type >= CL_GGUF_TYPES || type == CL_GGUF_ARRAY)
        return cl_fail(r->err, CL_E_INPUT, "%.*s has the unknown type %u", (int)(kv->key_len < 100 ? kv->key_len : 100),
                       (char *)h->bytes + kv->key, type);
    if (type == CL_GGUF_STR) {
        if (kv->type == CL_GGUF_ARRAY) return read_strings(r, kv);
        size_t n;
        c = cl_head_get_str(r, "a string", UINT64_MAX, &kv->at, &n);
        kv->n = n;
        return c;
    }
    uint64_t bytes;
    if (__builtin_mul_overflow(kv->n, cl_gguf_value_size[type], &bytes)) bytes = UINT64_MAX;
    kv->at = h->pos;
    if ((c = need(r, bytes, "a value")) == CL_OK) h->pos += bytes;
    return c;
}

static int cmp_key(const cl_head *h, const cl_kv *kv, const char *key, size_t n)
{
    int c = memcmp(h->bytes + kv->key, key, kv->key_len < n ? kv->key_len : n);
    return c ? c : (kv->key_len > n) - (kv->key_len < n);
}

static int by_key(const void *a, const void *b, void *head)
{
    const cl_kv *y = b;
    return cmp_key(head, a, (const char *)((cl_head *)head)->bytes + y->key, y->key_len);
}

cl_code cl_head_get_metadata(cl_head_reader *r, uint64_t n)
{
    cl_head *h = r->h;
    /* A pair takes 13 bytes or more (key length, type, one byte). */
    if (n > (r->s->files[r->file].size - h->pos) / 13)
        return cl_fail(r->err, CL_E_INPUT, "the file is too short for %llu metadata values (it is damaged)",
                       (unsigned long long)n);
    h->kv = cl_calloc(n, sizeof *h->kv, "GGUF metadata", r->err);
    if (!h->kv) return CL_E_FIT;
    for (; h->n_kv < n; h->n_kv++) {
        cl_kv *kv = &h->kv[h->n_kv];
        cl_code c = cl_head_get_str(r, "a key", MAX_KEY, &kv->key, &kv->key_len);
        if (c != CL_OK) return c;
        if (!cl_readable_name((char *)h->bytes + kv->key, kv->key_len, MAX_KEY))
            return cl_fail(r->err, CL_E_INPUT, "the key at byte %zu is not a text (the file is damaged)", kv->key);
        if ((c = read_value(r, kv)) != CL_OK) return c;
    }
    qsort_r(h->kv, n, sizeof *h->kv, by_key, h);
    for (uint64_t i = 1; i < n; i++)
        if (by_key(&h->kv[i - 1], &h->kv[i], h) == 0)
            return cl_fail(r->err, CL_E_INPUT, "the key at byte %zu is there twice", h->kv[i].key);
    return CL_OK;
}

const cl_kv *cl_head_find(const cl_head *h, const char *key)
{
    size_t n = strlen(key), lo = 0, hi = h->n_kv;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = cmp_key(h, &h->kv[mid], key, n);
        if (c == 0) return &h->kv[mid];
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

void cl_head_free(cl_head *h)
{
    free(h->bytes);
    free(h->kv);
    free(h->strings);
    *h = (cl_head){0};
}
