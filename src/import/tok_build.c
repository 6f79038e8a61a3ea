/* tok_build.c: tokens by id, the byte-level alphabet, merges. */
#include "tok_build.h"

#include <stdlib.h>

enum { MAX_TOKENS = 1 << 26, MAX_MERGES = 1 << 27 };

cl_tokenizer_data *cl_tok_data_new(cl_tok_kind kind, const char *source, cl_err *err)
{
    cl_tokenizer_data *d = cl_calloc(1, sizeof *d, "tokenizer", err);
    if (!d) return NULL;
    d->kind = kind;
    d->bos = d->eos = d->unk = d->pad = -1;
    d->source = cl_strdup(source, err);
    if (d->source) return d;
    cl_tokenizer_data_free(d);
    return NULL;
}

cl_code cl_tok_list_set(cl_tok_list *l, int64_t id, const cl_tok_entry *e, cl_err *err)
{
    if (id < 0 || id >= MAX_TOKENS)
        return cl_fail(err, CL_E_INPUT, "token id %lld (0 to %d are possible)", (long long)id, MAX_TOKENS - 1);
    if (id >= l->cap) {
        int cap = l->cap < 1024 ? 1024 : l->cap;
        while (cap <= id) cap *= 2;
        cl_tok_entry *v = cl_realloc(l->v, (size_t)cap, sizeof *v, "vocabulary", err);
        if (!v) return CL_E_FIT;
        memset(v + l->cap, 0, (size_t)(cap - l->cap) * sizeof *v);
        l->v = v;
        l->cap = cap;
    }
    l->v[id] = *e;
    if (id >= l->n) l->n = (int)id + 1;
    return CL_OK;
}

int cl_tok_list_find(const cl_tok_list *l, const char *s, size_t n)
{
    int normal = -1;
    for (int id = 0; id < l->n; id++) {
        const cl_tok_entry *e = &l->v[id];
        if (!e->type || e->n != n || memcmp(e->s, s, n) != 0) continue;
        if (e->type != CL_TOK_NORMAL) return id;
        if (normal < 0) normal = id;
    }
    return normal;
}

void cl_tok_list_free(cl_tok_list *l)
{
    free(l->v);
    *l = (cl_tok_list){0};
}

bool cl_tok_byte_name(const char *s, size_t n, unsigned char *byte)
{
    static const char hex[] = "0123456789ABCDEFabcdef";
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>' || !s[3] || !s[4] || !strchr(hex, s[3]) || !strchr(hex, s[4]))
        return false;
    *byte = (unsigned char)strtol(s + 3, NULL, 16);
    return true;
}

/* GPT-2's alphabet: bytes that print stand for themselves, the other 68, in order, are written as U+0100, U+0101, ...
 * */
static void make_alphabet(uint8_t byte_of[0x144], bool known[0x144])
{
    int next = 0x100;
    memset(known, 0, 0x144 * sizeof *known);
    for (int b = 0; b < 256; b++) {
        bool prints = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        int c = prints ? b : next++;
        byte_of[c] = (uint8_t)b;
        known[c] = true;
    }
}

/* Appends the bytes that s[0..n) writes; false if a character is not of the alphabet. */
static bool unmap(const uint8_t byte_of[0x144], const bool known[0x144], const char *s, size_t n, char *out,
                  size_t *n_out)
{
    *n_out = 0;
    for (size_t i = 0; i < n;) {
        unsigned char a = (unsigned char)s[i];
        unsigned c = a;
        size_t len = a < 0x80 ? 1 : 2;
        if (len == 2) {
            if (a < 0xc2 || a > 0xc5 || i + 1 >= n) return false; /* up to U+017F */
            c = (unsigned)(a & 0x1f) << 6 | ((unsigned char)s[i + 1] & 0x3f);
        }
        if (c >= 0x144 || !known[c]) return false;
        out[(*n_out)++] = (char)byte_of[c];
        i += len;
    }
    return true;
}

static cl_code store_bytes(const cl_tok_list *l, cl_tokenizer_data *d, cl_err *err)
{
    uint8_t byte_of[0x144];
    bool known[0x144];
    make_alphabet(byte_of, known);
    uint32_t at = 0;
    for (int id = 0; id < l->n; id++) {
        const cl_tok_entry *e = &l->v[id];
        size_t n = e->n;
        char *out = d->bytes + at;
        d->offset[id] = at;
        if (e->type == CL_TOK_BYTE) {
            if (!cl_tok_byte_name(e->s, e->n, (unsigned char *)out))
                return cl_fail(err, CL_E_INPUT, "token %d: %.*s is no byte (<0x00> to <0xFF>)", id,
                               (int)(n < 40 ? n : 40), e->s);
            n = 1;
        } else if (e->type == CL_TOK_NORMAL && d->kind == CL_TOK_BPE_BYTES && !l->raw) {
            if (!unmap(byte_of, known, e->s, e->n, out, &n))
                return cl_fail(err, CL_E_INPUT, "token %d: %.*s is not written in the byte-level alphabet", id,
                               (int)(e->n < 40 ? e->n : 40), e->s);
        } else if (n) {
            memcpy(out, e->s, n);
        }
        at += (uint32_t)n;
        d->type[id] = e->type ? e->type : CL_TOK_UNUSED;
        d->flags[id] = e->flags;
        if (d->score) d->score[id] = e->score;
    }
    d->offset[l->n] = at;
    return CL_OK;
}

cl_code cl_tok_list_store(const cl_tok_list *l, bool scores, cl_tokenizer_data *d, cl_err *err)
{
    size_t total = 0;
    for (int id = 0; id < l->n; id++) {
        total += l->v[id].n;
        if (total > INT32_MAX) return cl_fail(err, CL_E_INPUT, "vocabulary: over 2 GiB of text");
    }
    d->n_tokens = l->n;
    d->bytes = cl_malloc(total, 1, "vocabulary", err);
    d->offset = cl_malloc((size_t)l->n + 1, sizeof *d->offset, "vocabulary", err);
    d->type = cl_malloc((size_t)l->n, 1, "vocabulary", err);
    d->flags = cl_malloc((size_t)l->n, 1, "vocabulary", err);
    if (scores) d->score = cl_malloc((size_t)l->n, sizeof *d->score, "vocabulary", err);
    if (!d->bytes || !d->offset || !d->type || !d->flags || (scores && !d->score)) return CL_E_FIT;
    return store_bytes(l, d, err);
}

cl_code cl_tok_merges_start(cl_tokenizer_data *d, size_t n, cl_err *err)
{
    if (n > MAX_MERGES) return cl_fail(err, CL_E_INPUT, "%zu merges (%d are possible)", n, MAX_MERGES);
    d->merge = cl_malloc(n, 3 * sizeof *d->merge, "merges", err);
    return d->merge ? CL_OK : CL_E_FIT;
}

cl_code cl_tok_merges_add(cl_tokenizer_data *d, const json_t *ids, const char *left, size_t n_left, const char *right,
                          size_t n_right, cl_err *err)
{
    char both[1024];
    const json_t *id[3] = {json_object_getn(ids, left, n_left), json_object_getn(ids, right, n_right), NULL};
    if (n_left + n_right <= sizeof both) {
        memcpy(both, left, n_left);
        memcpy(both + n_left, right, n_right);
        id[2] = json_object_getn(ids, both, n_left + n_right);
    }
    for (int k = 0; k < 3; k++)
        if (!id[k])
            return cl_fail(err, CL_E_INPUT, "merge %d: %.*s and %.*s: %s is no token", d->n_merges,
                           (int)(n_left < 40 ? n_left : 40), left, (int)(n_right < 40 ? n_right : 40), right,
                           k == 0   ? "the first"
                           : k == 1 ? "the second"
                                    : "both together");
    for (int k = 0; k < 3; k++) d->merge[(size_t)3 * d->n_merges + k] = (int32_t)json_integer_value(id[k]);
    d->n_merges++;
    return CL_OK;
}

cl_code cl_tok_add_split(cl_tokenizer_data *d, const char *regex, cl_err *err)
{
    cl_tok_split *s = cl_realloc(d->splits, (size_t)d->n_splits + 1, sizeof *s, "split regexes", err);
    if (!s) return CL_E_FIT;
    d->splits = s;
    s[d->n_splits].regex = cl_strdup(regex, err);
    if (!s[d->n_splits].regex) return CL_E_FIT;
    d->n_splits++;
    return CL_OK;
}
