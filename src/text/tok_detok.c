/* tok_detok.c: ids back to text, one by one, never half a character. What is not UTF-8 becomes U+FFFD, one for each
 * longest beginning of a character (Unicode's recommended practice, and Python's errors="replace"). */
#include "tok_internal.h"

#define REPLACEMENT "\xef\xbf\xbd"

void cl_detok_init(cl_detok *d, const cl_tokenizer *t, bool strip_prefix, bool show_control)
{
    *d = (cl_detok){.t = t, .show_control = show_control};
    d->at_start = strip_prefix && t->d->kind == CL_TOK_SPM && t->d->add_prefix_space;
}

/* Whether byte c may follow the n >= 1 bytes held, which are the beginning of a character (Unicode, table 3-7). */
static bool may_follow(const unsigned char *held, int n, unsigned char c)
{
    if ((c & 0xc0) != 0x80) return false;
    if (n > 1) return true;
    switch (held[0]) {
    case 0xe0: return c >= 0xa0;
    case 0xed: return c <= 0x9f;
    case 0xf0: return c >= 0x90;
    case 0xf4: return c <= 0x8f;
    default: return true;
    }
}

static cl_code add_byte(cl_detok *d, unsigned char c, cl_buf *out, cl_err *err)
{
    if (d->n_held && !may_follow(d->held, d->n_held, c)) {
        cl_code code = cl_detok_finish(d, out, err);
        if (code != CL_OK) return code;
    }
    if (!d->n_held) {
        if (c < 0x80) return cl_buf_add(out, &c, 1, err);
        if (c < 0xc2 || c > 0xf4) return cl_buf_str(out, REPLACEMENT, err);
    }
    d->held[d->n_held++] = c;
    if (d->n_held < cl_utf8_len(d->held[0])) return CL_OK;
    int n = d->n_held;
    d->n_held = 0;
    return cl_buf_add(out, d->held, (size_t)n, err);
}

cl_code cl_detok_add(cl_detok *d, int32_t id, cl_buf *out, cl_err *err)
{
    const char *s;
    size_t n;
    cl_code c = CL_OK;
    if (id < 0 || id >= d->t->d->n_tokens)
        return cl_fail(err, CL_E_INPUT, "token id %d: the vocabulary has %d tokens", (int)id, d->t->d->n_tokens);
    cl_tokenizer_piece(d->t, id, d->show_control, &s, &n);
    if (d->at_start && n) {
        d->at_start = false;
        if (*s == ' ') s++, n--;
    }
    for (size_t i = 0; c == CL_OK && i < n; i++) c = add_byte(d, (unsigned char)s[i], out, err);
    return c;
}

cl_code cl_detok_finish(cl_detok *d, cl_buf *out, cl_err *err)
{
    if (!d->n_held) return CL_OK;
    d->n_held = 0;
    return cl_buf_str(out, REPLACEMENT, err);
}
