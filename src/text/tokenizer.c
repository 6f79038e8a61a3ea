/* tokenizer.c: a vocabulary compiled, and text to ids. */
#include "tok_internal.h"

#include <stdlib.h>
#include <utf8proc.h>

void cl_tokenizer_free(cl_tokenizer *t)
{
    if (!t) return;
    for (int i = 0; t->splits && i < t->d->n_splits; i++) cl_tok_regex_free(t->splits[i]);
    free(t->splits);
    free(t->vocab.slot);
    free(t->pairs.slot);
    free(t->raw.id);
    free(t->normalized.id);
    free(t->shown);
    free(t->shown_offset);
    free(t);
}

const cl_tokenizer_data *cl_tokenizer_get_data(const cl_tokenizer *t) { return t->d; }

/* SPM: what every token looks like in text, and whether words can be merged one by one. */
static cl_code build_shown(cl_tokenizer *t, cl_err *err)
{
    const cl_tokenizer_data *d = t->d;
    t->shown = cl_malloc(d->offset[d->n_tokens], 1, "vocabulary", err);
    t->shown_offset = cl_malloc((size_t)d->n_tokens + 1, sizeof *t->shown_offset, "vocabulary", err);
    if (!t->shown || !t->shown_offset) return CL_E_FIT;
    t->cut_at_spaces = true;
    uint32_t at = 0;
    for (int32_t id = 0; id < d->n_tokens; id++) {
        const char *s = cl_tok_bytes(d, id);
        size_t n = cl_tok_len(d, id);
        bool other = false;
        t->shown_offset[id] = at;
        for (size_t i = 0; i < n;) {
            bool space = n - i >= CL_TOK_SPACE_LEN && memcmp(s + i, CL_TOK_SPACE, CL_TOK_SPACE_LEN) == 0;
            if (space && other && d->type[id] == CL_TOK_NORMAL) t->cut_at_spaces = false;
            other = other || !space;
            t->shown[at++] = space ? ' ' : s[i];
            i += space ? CL_TOK_SPACE_LEN : 1;
        }
    }
    t->shown_offset[d->n_tokens] = at;
    return CL_OK;
}

/* The tokens of single bytes. */
static void find_bytes(cl_tokenizer *t)
{
    const cl_tokenizer_data *d = t->d;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->byte_id[b] = d->kind == CL_TOK_SPM ? -1 : cl_tok_vocab_find(&t->vocab, &byte, 1);
    }
    if (d->kind == CL_TOK_SPM && d->byte_fallback)
        for (int32_t id = 0; id < d->n_tokens; id++)
            if (d->type[id] == CL_TOK_BYTE) t->byte_id[(unsigned char)*cl_tok_bytes(d, id)] = id;
}

cl_code cl_tokenizer_create(cl_tokenizer **out, const cl_tokenizer_data *d, cl_err *err)
{
    *out = NULL;
    cl_code c = cl_tok_data_check(d, err);
    if (c != CL_OK) return c;
    cl_tokenizer *t = cl_calloc(1, sizeof *t, "tokenizer", err);
    if (!t) return CL_E_FIT;
    t->d = d;
    t->splits = cl_calloc((size_t)d->n_splits, sizeof *t->splits, "split regexes", err);
    if (!t->splits) c = CL_E_FIT;
    for (int i = 0; c == CL_OK && i < d->n_splits; i++)
        c = cl_tok_regex_compile(&t->splits[i], d->splits[i].regex, err);
    if (c == CL_OK) c = cl_tok_vocab_build(&t->vocab, d, err);
    if (c == CL_OK) c = cl_tok_pairs_build(&t->pairs, d, &t->vocab, err);
    if (c == CL_OK) c = cl_tok_added_build(&t->raw, d, false, err);
    if (c == CL_OK) c = cl_tok_added_build(&t->normalized, d, true, err);
    if (c == CL_OK && d->kind == CL_TOK_SPM) c = build_shown(t, err);
    if (c == CL_OK) find_bytes(t);
    if (c == CL_OK) *out = t;
    else cl_tokenizer_free(t);
    return c;
}

cl_code cl_tokenizer_data_check(const cl_tokenizer_data *d, cl_err *err)
{
    cl_tokenizer *t;
    cl_code c = cl_tokenizer_create(&t, d, err);
    cl_tokenizer_free(t);
    return c;
}

/* --- encoding --- */

typedef struct work {
    const cl_tokenizer *t;
    bool specials;
    bool unknown; /* the last symbol had no token */
    int32_t *ids;
    int n_ids, cap_ids;
    cl_tok_merger merger;
    cl_tok_matcher *matcher;
    cl_buf text; /* the segment at hand, normalised */
    cl_err *err;
} work;

static cl_code emit(work *w, int32_t id)
{
    if (w->n_ids == w->cap_ids) {
        int cap = w->cap_ids < 64 ? 64 : w->cap_ids > INT32_MAX / 2 ? INT32_MAX : w->cap_ids * 2;
        if (w->n_ids == INT32_MAX) return cl_fail(w->err, CL_E_INPUT, "text: over 2^31 tokens");
        int32_t *p = cl_realloc(w->ids, (size_t)cap, sizeof *p, "token ids", w->err);
        if (!p) return CL_E_FIT;
        w->ids = p;
        w->cap_ids = cap;
    }
    w->ids[w->n_ids++] = id;
    return CL_OK;
}

static cl_code no_byte(work *w, unsigned char b)
{
    return cl_fail(w->err, CL_E_INPUT, "text: this vocabulary has no token for byte 0x%02x (take the character out)",
                   b);
}

/* A symbol of SentencePiece's without a token: its bytes, or the unknown token, once for a run of such symbols. */
static cl_code emit_unknown(work *w, const char *s, int n)
{
    const cl_tokenizer_data *d = w->t->d;
    if (!d->byte_fallback) return w->unknown ? CL_OK : emit(w, d->unk);
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < n; i++) c = emit(w, w->t->byte_id[(unsigned char)s[i]]);
    return c;
}

/* One word: what nothing merges across. */
static cl_code encode_word(work *w, const char *s, size_t n)
{
    const cl_tokenizer *t = w->t;
    cl_code c = CL_OK;
    bool spm = t->d->kind == CL_TOK_SPM;
    if (n > INT32_MAX / 2) return cl_fail(w->err, CL_E_FIT, "text: too long for one piece");
    w->merger.n_sym = 0;
    for (size_t i = 0; c == CL_OK && i < n;) {
        int len = spm ? cl_utf8_len((unsigned char)s[i]) : 1;
        int32_t id = spm ? cl_tok_vocab_find(&t->vocab, s + i, (size_t)len) : t->byte_id[(unsigned char)s[i]];
        if (id < 0 && !spm) return no_byte(w, (unsigned char)s[i]);
        c = cl_tok_merger_add(&w->merger, id, len, w->err);
        i += (size_t)len;
    }
    if (c == CL_OK) c = cl_tok_merger_run(&w->merger, &t->pairs, w->err);
    for (int32_t i = 0; c == CL_OK && i >= 0; i = w->merger.sym[i].next) {
        const cl_tok_sym *sym = &w->merger.sym[i];
        c = sym->id >= 0 ? emit(w, sym->id) : emit_unknown(w, s, sym->len);
        w->unknown = sym->id < 0;
        s += sym->len;
    }
    return c;
}

/* One piece of the splits. Where no token has a space inside, SentencePiece's pieces are taken word by word. */
static cl_code encode_piece(void *ctx, const char *s, size_t n)
{
    work *w = ctx;
    cl_code c = CL_OK;
    bool in_word = false;
    size_t start = 0;
    int32_t id = w->t->d->ignore_merges ? cl_tok_vocab_find(&w->t->vocab, s, n) : -1;
    w->unknown = false;
    if (id >= 0) return emit(w, id);
    for (size_t i = 0; w->t->cut_at_spaces && c == CL_OK && i < n;) {
        bool space = n - i >= CL_TOK_SPACE_LEN && memcmp(s + i, CL_TOK_SPACE, CL_TOK_SPACE_LEN) == 0;
        if (space && in_word) {
            c = encode_word(w, s + start, i - start);
            start = i;
        }
        in_word = !space;
        i += space ? CL_TOK_SPACE_LEN : 1;
    }
    return c == CL_OK ? encode_word(w, s + start, n - start) : c;
}

static cl_code encode_pieces(work *w, const char *s, size_t n)
{
    return cl_tok_split_text(w->t->splits, w->t->d->n_splits, w->matcher, s, n, encode_piece, w, w->err);
}

/* Text may change under NFC only from U+0300 on. */
static bool maybe_not_nfc(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0xcc) return true;
    return false;
}

/* Combining marks in a row are sorted by utf8proc in quadratic time. No text has so many. */
enum { MAX_MARKS = 4096 };
static cl_code check_marks(work *w, const char *s, size_t n)
{
    int marks = 0;
    utf8proc_int32_t c;
    for (size_t i = 0; i < n; i += (size_t)cl_utf8_len((unsigned char)s[i])) {
        if ((unsigned char)s[i] < 0xcc) {
            marks = 0;
            continue;
        }
        utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
        marks = utf8proc_get_property(c)->combining_class ? marks + 1 : 0;
        if (marks > MAX_MARKS)
            return cl_fail(w->err, CL_E_INPUT, "text: more than %d combining marks in a row", MAX_MARKS);
    }
    return CL_OK;
}

/* w->text = s in normal form C. */
static cl_code normalise(work *w, const char *s, size_t n)
{
    utf8proc_uint8_t *p = NULL;
    cl_code c = check_marks(w, s, n);
    if (c != CL_OK) return c;
    w->text.len = 0;
    utf8proc_ssize_t len =
        utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &p, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (len < 0) return cl_fail(w->err, CL_E_INPUT, "text: cannot be normalised: %s", utf8proc_errmsg(len));
    c = cl_buf_add(&w->text, p, (size_t)len, w->err);
    free(p);
    return c;
}

/* w->text = s with U+2581 for spaces, one in front if `prefix`. */
static cl_code escape_spaces(work *w, const char *s, size_t n, bool prefix)
{
    w->text.len = 0;
    cl_code c = cl_buf_str(&w->text, prefix ? CL_TOK_SPACE : "", w->err);
    for (size_t i = 0; c == CL_OK && i < n;) {
        const char *space = memchr(s + i, ' ', n - i);
        size_t len = space ? (size_t)(space - (s + i)) : n - i;
        c = cl_buf_add(&w->text, s + i, len, w->err);
        if (c == CL_OK && space) c = cl_buf_str(&w->text, CL_TOK_SPACE, w->err);
        i += len + (space != NULL);
    }
    return c;
}

/* Whether the space goes in front of a segment. */
static bool wants_prefix(const cl_tokenizer_data *d, const char *s, size_t n, bool at_start)
{
    bool space = n >= 1 && (*s == ' ' || (d->kind == CL_TOK_SPM && n >= CL_TOK_SPACE_LEN &&
                                          memcmp(s, CL_TOK_SPACE, CL_TOK_SPACE_LEN) == 0));
    return n && d->add_prefix_space && (at_start || !d->prefix_start_only) && !(space && d->prefix_unless_space);
}

/* Byte-level BPE: the prefix belongs to the splits, behind the normalised added tokens. */
static cl_code encode_run(work *w, const char *s, size_t n, bool at_start)
{
    const cl_tokenizer_data *d = w->t->d;
    if (d->kind == CL_TOK_SPM || !wants_prefix(d, s, n, at_start)) return encode_pieces(w, s, n);
    cl_buf b = {0};
    cl_code c = cl_buf_str(&b, " ", w->err);
    if (c == CL_OK) c = cl_buf_add(&b, s, n, w->err);
    if (c == CL_OK) c = encode_pieces(w, b.data, b.len);
    cl_buf_free(&b);
    return c;
}

/* What lies between added tokens of the raw text. */
static cl_code encode_segment(work *w, const char *s, size_t n, bool at_start)
{
    const cl_tokenizer_data *d = w->t->d;
    cl_code c = CL_OK;
    if (d->nfc && maybe_not_nfc(s, n)) {
        c = normalise(w, s, n);
        s = w->text.data, n = w->text.len;
    }
    if (d->kind == CL_TOK_SPM) {
        c = escape_spaces(w, s, n, wants_prefix(d, s, n, at_start));
        s = w->text.data, n = w->text.len;
    }
    size_t from = 0, done = 0;
    cl_tok_match m;
    while (c == CL_OK && cl_tok_added_next(&w->t->normalized, s, n, &from, done, w->specials, &m)) {
        if (m.start > done) c = encode_run(w, s + done, m.start - done, at_start && done == 0);
        if (c == CL_OK) c = emit(w, m.id);
        done = m.end;
    }
    return c == CL_OK && done < n ? encode_run(w, s + done, n - done, at_start && done == 0) : c;
}

static cl_code encode(work *w, const char *text, size_t n, bool wrap)
{
    const cl_tokenizer_data *d = w->t->d;
    cl_code c = cl_tok_matcher_create(&w->matcher, w->err);
    if (c == CL_OK && wrap && d->add_bos) c = emit(w, d->bos);
    size_t from = 0, done = 0;
    cl_tok_match m;
    while (c == CL_OK && cl_tok_added_next(&w->t->raw, text, n, &from, done, w->specials, &m)) {
        if (m.start > done) c = encode_segment(w, text + done, m.start - done, done == 0);
        if (c == CL_OK) c = emit(w, m.id);
        done = m.end;
    }
    if (c == CL_OK && done < n) c = encode_segment(w, text + done, n - done, done == 0);
    if (c == CL_OK && wrap && d->add_bos && w->n_ids > 1 && w->ids[1] == d->bos) /* the text has its own */
        memmove(w->ids, w->ids + 1, (size_t)--w->n_ids * sizeof *w->ids);
    if (c == CL_OK && wrap && d->add_eos) c = emit(w, d->eos);
    return c;
}

cl_code cl_tokenizer_encode(const cl_tokenizer *t, const char *text, size_t n, bool specials, bool wrap, int32_t **ids,
                            int *n_ids, cl_err *err)
{
    size_t bad;
    *ids = NULL;
    *n_ids = 0;
    if (n > INT32_MAX) return cl_fail(err, CL_E_INPUT, "text: over 2 GiB");
    if (!cl_utf8_valid(text, n, &bad))
        return cl_fail(err, CL_E_INPUT, "text: byte %zu (0x%02x) is not UTF-8", bad,
                       (unsigned)(unsigned char)text[bad]);
    work w = {.t = t, .specials = specials, .err = err};
    cl_code c = encode(&w, text, n, wrap);
    cl_tok_matcher_free(w.matcher);
    cl_tok_merger_free(&w.merger);
    cl_buf_free(&w.text);
    if (c != CL_OK) {
        free(w.ids);
        return c;
    }
    *ids = w.ids ? w.ids : cl_malloc(0, 1, "token ids", err);
    *n_ids = w.n_ids;
    return *ids ? CL_OK : CL_E_FIT;
}

/* --- single tokens --- */

void cl_tokenizer_piece(const cl_tokenizer *t, int32_t id, bool show_control, const char **bytes, size_t *n)
{
    const cl_tokenizer_data *d = t->d;
    *bytes = "";
    *n = 0;
    if (id < 0 || id >= d->n_tokens) return;
    uint8_t type = d->type[id];
    if ((type == CL_TOK_CONTROL || type == CL_TOK_UNKNOWN || type == CL_TOK_UNUSED) && !show_control) return;
    bool replaced = t->shown && (type == CL_TOK_NORMAL || type == CL_TOK_USER);
    *bytes = replaced ? t->shown + t->shown_offset[id] : cl_tok_bytes(d, id);
    *n = replaced ? t->shown_offset[id + 1] - t->shown_offset[id] : cl_tok_len(d, id);
}

int32_t cl_tokenizer_find(const cl_tokenizer *t, const char *bytes)
{
    size_t n = strlen(bytes);
    int32_t id = cl_tok_added_find(&t->raw, bytes, n);
    if (id < 0) id = cl_tok_added_find(&t->normalized, bytes, n);
    return id < 0 ? cl_tok_vocab_find(&t->vocab, bytes, n) : id;
}
