/* model_tok.c: the tokenizer's section of a model file: arrays as datasets under /tokenizer, single numbers as
 * attributes. */
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"
#include "model_h5.h"

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

static cl_code put_splits(hid_t g, const cl_tokenizer_data *d, cl_err *err)
{
    cl_buf text = {0};
    uint32_t *offset = cl_calloc((size_t)d->n_splits + 1, sizeof *offset, "tokenizer", err);
    cl_code c = offset ? cl_buf_add(&text, "", 0, err) : CL_E_FIT;
    for (int i = 0; c == CL_OK && i < d->n_splits; i++) {
        c = cl_buf_str(&text, d->splits[i].regex, err);
        if (c == CL_OK && text.len > UINT32_MAX) c = cl_fail(err, CL_E_INPUT, "tokenizer: its regexes are over 4 GB");
        offset[i + 1] = (uint32_t)text.len;
    }
    h5_array regex =
        {"split_regex", H5_U8, 1, {text.len}, "the pre-tokenizer's regexes (PCRE2), one after the other, UTF-8", NULL};
    h5_array offsets = {"split_offset",
                        H5_U32,
                        1,
                        {(hsize_t)d->n_splits + 1},
                        "regex i is bytes [i] to [i + 1] of split_regex",
                        "bytes"};
    if (c == CL_OK) c = h5_put_array(g, &regex, text.data, err);
    if (c == CL_OK) c = h5_put_array(g, &offsets, offset, err);
    cl_buf_free(&text);
    free(offset);
    return c;
}

static cl_code put_arrays(hid_t g, const cl_tokenizer_data *d, cl_err *err)
{
    hsize_t n = (hsize_t)d->n_tokens;
    const struct {
        h5_array a;
        const void *data;
    } list[] = {
        {{"token_bytes", H5_U8, 1, {d->offset[d->n_tokens]}, "all tokens' bytes, one after the other", NULL}, d->bytes},
        {{"token_offset", H5_U32, 1, {n + 1}, "token i is bytes [i] to [i + 1] of token_bytes", "bytes"}, d->offset},
        {{"token_type", H5_U8, 1, {n}, "1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte", NULL},
         d->type},
        {{"token_flags",
          H5_U8,
          1,
          {n},
          "of added tokens: 1 strips left, 2 strips right, 4 single word, 8 normalized",
          NULL},
         d->flags},
        {{"token_score", H5_F32, 1, {n}, "higher merges first", NULL}, d->score},
        {{"merges", H5_I32, 2, {(hsize_t)d->n_merges, 3}, "left id, right id, result id; the row is the rank", NULL},
         d->merge},
        {{"chat_template",
          H5_U8,
          1,
          {d->chat_template ? strlen(d->chat_template) : 0},
          "the checkpoint's Jinja text",
          NULL},
         d->chat_template},
    };
    cl_code c = CL_OK;
    for (size_t i = 0; c == CL_OK && i < sizeof list / sizeof *list; i++)
        if (list[i].data) c = h5_put_array(g, &list[i].a, list[i].data, err);
    return c;
}

cl_code model_put_tokenizer(hid_t file, const cl_tokenizer_data *d, cl_err *err)
{
    cl_code c = cl_tokenizer_data_check(d, err);
    if (c != CL_OK) return c;
    hid_t g =
        h5_put_group(file, "tokenizer", "text to ids and back; *_id are ids or -1, other numbers are 0 or 1", err);
    if (g < 0) return CL_E_RUN;
    cl_tokenizer_data copy = *d; /* numbers_of points into what it is given; nothing is changed through it here */
    number num[N_NUMBERS];
    numbers_of(&copy, num);
    c = h5_put_text(g, "kind", kind_names[d->kind], err);
    if (c == CL_OK) c = h5_put_text(g, "source", d->source ? d->source : "", err);
    for (int i = 0; c == CL_OK && i < N_NUMBERS; i++)
        c = h5_put_int(g, num[i].name, num[i].i ? *num[i].i : *num[i].b, err);
    if (c == CL_OK) c = put_arrays(g, d, err);
    if (c == CL_OK) c = put_splits(g, d, err);
    H5Gclose(g);
    return c;
}

/* --- reading --- */

/* Array of exactly n rows; *out NULL where an optional one is missing. */
static cl_code get(hid_t g, const char *name, h5_kind kind, hsize_t n, bool required, void *out, cl_err *err)
{
    hsize_t dims[2] = {0};
    void *data = NULL;
    bool there = true;
    cl_code c = required ? CL_OK : h5_exists(g, name, &there, err);
    if (c == CL_OK && there) c = h5_get_array(g, name, kind, 1, dims, &data, NULL, err);
    if (c != CL_OK || !there) return c;
    if (dims[0] != n) {
        free(data);
        return cl_fail(err, CL_E_INPUT, "%s: has %llu entries, must have %llu", name, (unsigned long long)dims[0],
                       (unsigned long long)n);
    }
    memcpy(out, &data, sizeof data);
    return CL_OK;
}

/* Offsets that rise from 0 to total. */
static bool rising(const uint32_t *offset, hsize_t n, hsize_t total)
{
    if (offset[0] != 0 || offset[n] != total) return false;
    for (hsize_t i = 0; i < n; i++)
        if (offset[i] > offset[i + 1]) return false;
    return true;
}

/* bytes and offset: the entries of a list of byte strings. */
static cl_code get_strings(hid_t g, const char *bytes_name, const char *offset_name, char **bytes, uint32_t **offset,
                           int *n, cl_err *err)
{
    hsize_t total = 0, count = 0;
    void *b = NULL, *o = NULL;
    cl_code c = h5_get_array(g, bytes_name, H5_U8, 1, &total, &b, NULL, err);
    if (c == CL_OK) c = h5_get_array(g, offset_name, H5_U32, 1, &count, &o, NULL, err);
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

static cl_code get_splits(hid_t g, cl_tokenizer_data *d, cl_err *err)
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

static cl_code get_merges(hid_t g, cl_tokenizer_data *d, cl_err *err)
{
    hsize_t dims[2] = {0};
    void *data = NULL;
    bool there;
    cl_code c = h5_exists(g, "merges", &there, err);
    if (c == CL_OK && there) c = h5_get_array(g, "merges", H5_I32, 2, dims, &data, NULL, err);
    if (c != CL_OK || !there) return c;
    d->merge = data;
    if (dims[0] > INT32_MAX || dims[1] != 3) return cl_fail(err, CL_E_INPUT, "merges: must be [merges, 3]");
    d->n_merges = (int)dims[0];
    return CL_OK;
}

static cl_code get_template(hid_t g, cl_tokenizer_data *d, cl_err *err)
{
    hsize_t n = 0;
    void *data = NULL;
    bool there;
    cl_code c = h5_exists(g, "chat_template", &there, err);
    if (c == CL_OK && there) c = h5_get_array(g, "chat_template", H5_U8, 1, &n, &data, NULL, err);
    if (c != CL_OK || !there) return c;
    d->chat_template = data;
    size_t bad;
    if (strlen(data) != n || !cl_utf8_valid(data, n, &bad))
        return cl_fail(err, CL_E_INPUT, "chat_template: is not UTF-8 text");
    return CL_OK;
}

static cl_code get_numbers(hid_t g, cl_tokenizer_data *d, cl_err *err)
{
    char kind[16], source[H5_TEXT_MAX + 1];
    number num[N_NUMBERS];
    numbers_of(d, num);
    cl_code c = h5_get_text(g, "kind", kind, sizeof kind, err);
    if (c == CL_OK) {
        if (strcmp(kind, kind_names[CL_TOK_BPE_BYTES]) == 0) d->kind = CL_TOK_BPE_BYTES;
        else if (strcmp(kind, kind_names[CL_TOK_SPM]) == 0) d->kind = CL_TOK_SPM;
        else c = cl_fail(err, CL_E_INPUT, "kind: \"%s\" is not known (made by a newer chipline?)", kind);
    }
    if (c == CL_OK) c = h5_get_text(g, "source", source, sizeof source, err);
    if (c == CL_OK && !(d->source = cl_strdup(source, err))) c = CL_E_FIT;
    for (int i = 0; c == CL_OK && i < N_NUMBERS; i++) {
        int64_t v = 0;
        c = h5_get_ints(g, num[i].name, &v, 0, err);
        if (c == CL_OK && (num[i].b ? v < 0 || v > 1 : v < -1 || v > INT32_MAX))
            c = cl_fail(err, CL_E_INPUT, "%s: is %lld", num[i].name, (long long)v);
        if (num[i].b) *num[i].b = v == 1;
        else *num[i].i = (int)v;
    }
    return c;
}

cl_code model_get_tokenizer(hid_t file, cl_tokenizer_data **out, cl_err *err)
{
    *out = NULL;
    bool there;
    cl_code c = h5_exists(file, "tokenizer", &there, err);
    if (c != CL_OK || !there) return c;
    cl_tokenizer_data *d = cl_calloc(1, sizeof *d, "tokenizer", err);
    if (!d) return CL_E_FIT;
    hid_t g = h5_get_group(file, "tokenizer", err);
    c = g >= 0 ? get_numbers(g, d, err) : CL_E_INPUT;
    if (c == CL_OK) c = get_strings(g, "token_bytes", "token_offset", &d->bytes, &d->offset, &d->n_tokens, err);
    hsize_t n = (hsize_t)d->n_tokens;
    if (c == CL_OK) c = get(g, "token_type", H5_U8, n, true, &d->type, err);
    if (c == CL_OK) c = get(g, "token_flags", H5_U8, n, true, &d->flags, err);
    if (c == CL_OK) c = get(g, "token_score", H5_F32, n, false, &d->score, err);
    if (c == CL_OK) c = get_merges(g, d, err);
    if (c == CL_OK) c = get_splits(g, d, err);
    if (c == CL_OK) c = get_template(g, d, err);
    if (c == CL_OK) c = cl_tokenizer_data_check(d, err);
    if (g >= 0) H5Gclose(g);
    if (c != CL_OK) {
        cl_fail_prefix(err, "tokenizer");
        cl_tokenizer_data_free(d);
        return c;
    }
    *out = d;
    return CL_OK;
}
