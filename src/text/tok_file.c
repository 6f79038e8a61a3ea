/* tok_file.c: a vocabulary in a file: arrays under /tokenizer, single numbers as its attributes. */
#include <stdlib.h>
#include <string.h>

#include "chipline/store.h"
#include "chipline/tokenizer.h"

static const char *const kind_names[] = {[CL_TOK_BPE_BYTES] = "bpe_bytes", [CL_TOK_SPM] = "spm"};

/* Attributes of the group. Numbers and flags go through one table so that reading and writing cannot differ. */
typedef struct number {
    const char *name;
    int *i;
    bool *b;
} number;
enum { N_NUMBERS = 12 };

static void numbers_of(cl_tokenizer_data *d, number out[N_NUMBERS])
{
    const number list[N_NUMBERS] = {
        {"ignore_merges", NULL, &d->ignore_merges},
        {"nfc", NULL, &d->nfc},
        {"add_prefix_space", NULL, &d->add_prefix_space},
        {"prefix_start_only", NULL, &d->prefix_start_only},
        {"prefix_unless_space", NULL, &d->prefix_unless_space},
        {"byte_fallback", NULL, &d->byte_fallback},
        {"add_bos", NULL, &d->add_bos},
        {"add_eos", NULL, &d->add_eos},
        {"bos_id", &d->bos, NULL},
        {"eos_id", &d->eos, NULL},
        {"unk_id", &d->unk, NULL},
        {"pad_id", &d->pad, NULL},
    };
    memcpy(out, list, sizeof list);
}

/* --- writing --- */

typedef struct array {
    const char *name;
    cl_store_type type;
    int rank;
    uint64_t dims[2];
    const char *description, *unit;
    const void *data; /* NULL: not there */
} array;

static cl_code put_list(cl_store_node g, const array *list, size_t n, cl_err *err)
{
    cl_code c = CL_OK;
    for (size_t i = 0; c == CL_OK && i < n; i++) {
        cl_store_array a = {list[i].type, list[i].rank, {list[i].dims[0], list[i].dims[1]}, 0};
        if (list[i].data)
            c = cl_store_put_array(g, list[i].name, &a, list[i].description, list[i].unit, list[i].data, err);
    }
    return c;
}

static cl_code put_splits(cl_store_node g, const cl_tokenizer_data *d, cl_err *err)
{
    cl_buf text = {0};
    uint32_t *offset = cl_calloc((size_t)d->n_splits + 1, sizeof *offset, "tokenizer", err);
    cl_code c = offset ? cl_buf_add(&text, "", 0, err) : CL_E_FIT;
    for (int i = 0; c == CL_OK && i < d->n_splits; i++) {
        c = cl_buf_str(&text, d->splits[i].regex, err);
        if (c == CL_OK && text.len > UINT32_MAX) c = cl_fail(err, CL_E_INPUT, "tokenizer: its regexes are over 4 GB");
        offset[i + 1] = (uint32_t)text.len;
    }
    const array list[] = {
        {"split_regex",
         CL_STORE_U8,
         1,
         {text.len},
         "the pre-tokenizer's regexes (PCRE2), one after the other, UTF-8",
         NULL,
         text.data},
        {"split_offset",
         CL_STORE_U32,
         1,
         {(uint64_t)d->n_splits + 1},
         "regex i is bytes [i] to [i + 1] of split_regex",
         "bytes",
         offset},
    };
    if (c == CL_OK) c = put_list(g, list, 2, err);
    cl_buf_free(&text);
    free(offset);
    return c;
}

static cl_code put_arrays(cl_store_node g, const cl_tokenizer_data *d, cl_err *err)
{
    uint64_t n = (uint64_t)d->n_tokens;
    const array list[] = {
        {"token_bytes",
         CL_STORE_U8,
         1,
         {d->offset[d->n_tokens]},
         "all tokens' bytes, one after the other",
         NULL,
         d->bytes},
        {"token_offset",
         CL_STORE_U32,
         1,
         {n + 1},
         "token i is bytes [i] to [i + 1] of token_bytes",
         "bytes",
         d->offset},
        {"token_type",
         CL_STORE_U8,
         1,
         {n},
         "1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte",
         NULL,
         d->type},
        {"token_flags",
         CL_STORE_U8,
         1,
         {n},
         "of added tokens: 1 strips left, 2 strips right, 4 single word, 8 normalized",
         NULL,
         d->flags},
        {"token_score", CL_STORE_F32, 1, {n}, "higher merges first", NULL, d->score},
        {"merges",
         CL_STORE_I32,
         2,
         {(uint64_t)d->n_merges, 3},
         "left id, right id, result id; the row is the rank",
         NULL,
         d->merge},
        {"chat_template",
         CL_STORE_U8,
         1,
         {d->chat_template ? strlen(d->chat_template) : 0},
         "the checkpoint's Jinja text",
         NULL,
         d->chat_template},
    };
    return put_list(g, list, sizeof list / sizeof *list, err);
}

static cl_code put_all(cl_store_node file, const cl_tokenizer_data *d, cl_err *err)
{
    cl_store_node g;
    cl_code c = cl_tokenizer_data_check(d, err);
    if (c == CL_OK)
        c = cl_store_make_group(file, "tokenizer", "text to ids and back; *_id are ids or -1, other numbers are 0 or 1",
                                &g, err);
    if (c != CL_OK) return c;
    cl_tokenizer_data copy = *d; /* numbers_of points into what it is given; nothing is changed through it here */
    number num[N_NUMBERS];
    numbers_of(&copy, num);
    c = cl_store_put_text(g, "kind", kind_names[d->kind], err);
    if (c == CL_OK) c = cl_store_put_text(g, "source", d->source ? d->source : "", err);
    for (int i = 0; c == CL_OK && i < N_NUMBERS; i++)
        c = cl_store_put_int(g, num[i].name, num[i].i ? *num[i].i : *num[i].b, err);
    if (c == CL_OK) c = put_arrays(g, d, err);
    if (c == CL_OK) c = put_splits(g, d, err);
    cl_store_release(&g);
    return c;
}

cl_code cl_tokenizer_data_write(const cl_tokenizer_data *d, cl_store *into, cl_err *err)
{
    cl_code c = put_all(cl_store_root(into), d, err);
    if (c != CL_OK) cl_fail_prefix(err, "%s", cl_store_path(into));
    return c;
}

/* --- reading --- */

/* A list, malloced; its length goes to *n. */
static cl_code get_list(cl_store_node g, const char *name, cl_store_type type, uint64_t *n, void **data, cl_err *err)
{
    cl_store_array a = {.type = type, .rank = 1};
    cl_code c = cl_store_get_array(g, name, &a, data, NULL, err);
    *n = a.dims[0];
    return c;
}

/* One of exactly n entries; *out NULL where an optional one is missing. */
static cl_code get(cl_store_node g, const char *name, cl_store_type type, uint64_t n, bool required, void *out,
                   cl_err *err)
{
    uint64_t has = 0;
    void *data = NULL;
    bool there = true;
    cl_code c = required ? CL_OK : cl_store_has(g, name, &there, err);
    if (c == CL_OK && there) c = get_list(g, name, type, &has, &data, err);
    if (c != CL_OK || !there) return c;
    if (has != n) {
        free(data);
        return cl_fail(err, CL_E_INPUT, "%s: has %llu entries, must have %llu", name, (unsigned long long)has,
                       (unsigned long long)n);
    }
    memcpy(out, &data, sizeof data);
    return CL_OK;
}

/* Offsets that rise from 0 to total. */
static bool rising(const uint32_t *offset, uint64_t n, uint64_t total)
{
    if (offset[0] != 0 || offset[n] != total) return false;
    for (uint64_t i = 0; i < n; i++)
        if (offset[i] > offset[i + 1]) return false;
    return true;
}

/* bytes and offset: the entries of a list of byte strings. */
static cl_code get_strings(cl_store_node g, const char *bytes_name, const char *offset_name, char **bytes,
                           uint32_t **offset, int *n, cl_err *err)
{
    uint64_t total = 0, count = 0;
    void *b = NULL, *o = NULL;
    cl_code c = get_list(g, bytes_name, CL_STORE_U8, &total, &b, err);
    if (c == CL_OK) c = get_list(g, offset_name, CL_STORE_U32, &count, &o, err);
    if (c == CL_OK && (count < 1 || count > INT32_MAX || !rising(o, count - 1, total)))
        c = cl_fail(err, CL_E_INPUT, "%s: does not fit %s", offset_name, bytes_name);
    if (c != CL_OK) {
        free(b);
        free(o);
        return c;
    }
    *bytes = b;
    *offset = o;
    *n = (int)count - 1;
    return CL_OK;
}

static cl_code get_splits(cl_store_node g, cl_tokenizer_data *d, cl_err *err)
{
    char *text = NULL;
    uint32_t *offset = NULL;
    int n = 0;
    cl_code c = get_strings(g, "split_regex", "split_offset", &text, &offset, &n, err);
    if (c != CL_OK) return c;
    d->splits = cl_calloc((size_t)n, sizeof *d->splits, "tokenizer", err);
    if (!d->splits) c = CL_E_FIT;
    for (int i = 0; c == CL_OK && i < n; i++, d->n_splits = i) {
        size_t len = offset[i + 1] - offset[i];
        if (memchr(text + offset[i], 0, len))
            c = cl_fail(err, CL_E_INPUT, "split_regex: regex %d holds a zero byte", i);
        else if (!(d->splits[i].regex = cl_malloc(len + 1, 1, "tokenizer", err))) c = CL_E_FIT;
        else {
            memcpy(d->splits[i].regex, text + offset[i], len);
            d->splits[i].regex[len] = 0;
        }
    }
    free(text);
    free(offset);
    return c;
}

static cl_code get_merges(cl_store_node g, cl_tokenizer_data *d, cl_err *err)
{
    cl_store_array a = {.type = CL_STORE_I32, .rank = 2};
    void *data = NULL;
    bool there;
    cl_code c = cl_store_has(g, "merges", &there, err);
    if (c == CL_OK && there) c = cl_store_get_array(g, "merges", &a, &data, NULL, err);
    if (c != CL_OK || !there) return c;
    d->merge = data;
    if (a.dims[0] > INT32_MAX || a.dims[1] != 3) return cl_fail(err, CL_E_INPUT, "merges: must be [merges, 3]");
    d->n_merges = (int)a.dims[0];
    return CL_OK;
}

static cl_code get_template(cl_store_node g, cl_tokenizer_data *d, cl_err *err)
{
    uint64_t n = 0;
    void *data = NULL;
    bool there;
    cl_code c = cl_store_has(g, "chat_template", &there, err);
    if (c == CL_OK && there) c = get_list(g, "chat_template", CL_STORE_U8, &n, &data, err);
    if (c != CL_OK || !there) return c;
    d->chat_template = data;
    size_t bad;
    if (strlen(data) != n || !cl_utf8_valid(data, n, &bad))
        return cl_fail(err, CL_E_INPUT, "chat_template: is not UTF-8 text");
    return CL_OK;
}

static cl_code get_numbers(cl_store_node g, cl_tokenizer_data *d, cl_err *err)
{
    char kind[16], source[CL_STORE_TEXT_MAX + 1];
    number num[N_NUMBERS];
    numbers_of(d, num);
    cl_code c = cl_store_get_text(g, "kind", kind, sizeof kind, err);
    if (c == CL_OK) {
        if (strcmp(kind, kind_names[CL_TOK_BPE_BYTES]) == 0) d->kind = CL_TOK_BPE_BYTES;
        else if (strcmp(kind, kind_names[CL_TOK_SPM]) == 0) d->kind = CL_TOK_SPM;
        else c = cl_fail(err, CL_E_INPUT, "kind: \"%s\" is not known (made by a newer chipline?)", kind);
    }
    if (c == CL_OK) c = cl_store_get_text(g, "source", source, sizeof source, err);
    if (c == CL_OK && !(d->source = cl_strdup(source, err))) c = CL_E_FIT;
    for (int i = 0; c == CL_OK && i < N_NUMBERS; i++) {
        int64_t v = 0;
        c = cl_store_get_ints(g, num[i].name, &v, 0, err);
        if (c == CL_OK && (num[i].b ? v < 0 || v > 1 : v < -1 || v > INT32_MAX))
            c = cl_fail(err, CL_E_INPUT, "%s: is %lld", num[i].name, (long long)v);
        if (num[i].b) *num[i].b = v == 1;
        else *num[i].i = (int)v;
    }
    return c;
}

static cl_code get_all(cl_store_node g, cl_tokenizer_data *d, cl_err *err)
{
    cl_code c = get_numbers(g, d, err);
    if (c == CL_OK) c = get_strings(g, "token_bytes", "token_offset", &d->bytes, &d->offset, &d->n_tokens, err);
    uint64_t n = (uint64_t)d->n_tokens;
    if (c == CL_OK) c = get(g, "token_type", CL_STORE_U8, n, true, &d->type, err);
    if (c == CL_OK) c = get(g, "token_flags", CL_STORE_U8, n, true, &d->flags, err);
    if (c == CL_OK) c = get(g, "token_score", CL_STORE_F32, n, false, &d->score, err);
    if (c == CL_OK) c = get_merges(g, d, err);
    if (c == CL_OK) c = get_splits(g, d, err);
    if (c == CL_OK) c = get_template(g, d, err);
    return c == CL_OK ? cl_tokenizer_data_check(d, err) : c;
}

cl_code cl_tokenizer_data_read(cl_store *from, cl_tokenizer_data **out, cl_err *err)
{
    *out = NULL;
    bool there = false;
    cl_store_node root = cl_store_root(from), g = {from, -1};
    cl_tokenizer_data *d = NULL;
    cl_code c = cl_store_has(root, "tokenizer", &there, err);
    if (c == CL_OK && !there) return CL_OK;
    if (c == CL_OK && !(d = cl_calloc(1, sizeof *d, "tokenizer", err))) return CL_E_FIT;
    if (c == CL_OK) c = cl_store_open_group(root, "tokenizer", &g, err);
    if (c == CL_OK) c = get_all(g, d, err);
    cl_store_release(&g);
    if (c == CL_OK) {
        *out = d;
        return CL_OK;
    }
    cl_fail_prefix(err, "%s: tokenizer", cl_store_path(from));
    cl_tokenizer_data_free(d);
    return c;
}
