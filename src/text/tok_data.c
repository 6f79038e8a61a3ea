/* tok_data.c: a vocabulary as plain data: freed, and checked before anything trusts it. */
#include "tok_internal.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_TOKEN = 4096 }; /* bytes */

void cl_tokenizer_data_free(cl_tokenizer_data *d)
{
    if (!d) return;
    free(d->bytes);
    free(d->offset);
    free(d->type);
    free(d->flags);
    free(d->score);
    free(d->merge);
    for (int i = 0; d->splits && i < d->n_splits; i++) free(d->splits[i].regex);
    free(d->splits);
    free(d->chat_template);
    free(d->source);
    free(d);
}

static cl_code check_tokens(const cl_tokenizer_data *d, cl_err *err)
{
    size_t bad;
    if (d->offset[0] != 0)
        return cl_fail(err, CL_E_INPUT, "vocabulary: the first token starts at byte %u", (unsigned)d->offset[0]);
    for (int32_t id = 0; id < d->n_tokens; id++)
        if (d->offset[id + 1] < d->offset[id])
            return cl_fail(err, CL_E_INPUT, "vocabulary: token %d ends before it starts", (int)id);
    for (int32_t id = 0; id < d->n_tokens; id++) {
        uint8_t type = d->type[id];
        size_t n = cl_tok_len(d, id);
        if (type < CL_TOK_NORMAL || type > CL_TOK_BYTE)
            return cl_fail(err, CL_E_INPUT, "vocabulary: token %d: type %d is none", (int)id, type);
        if (d->flags[id] >= 2 * CL_TOK_NORMALIZED)
            return cl_fail(err, CL_E_INPUT, "vocabulary: token %d: flags %d", (int)id, d->flags[id]);
        if (d->score && !isfinite(d->score[id]))
            return cl_fail(err, CL_E_INPUT, "vocabulary: token %d: its score is no number", (int)id);
        if (type == CL_TOK_UNUSED) continue;
        if (type == CL_TOK_BYTE ? n != 1 : n == 0 || n > MAX_TOKEN)
            return cl_fail(err, CL_E_INPUT, "vocabulary: token %d is %zu bytes long", (int)id, n);
        bool text = type != CL_TOK_BYTE && !(type == CL_TOK_NORMAL && d->kind == CL_TOK_BPE_BYTES);
        if (text && !cl_utf8_valid(cl_tok_bytes(d, id), n, &bad))
            return cl_fail(err, CL_E_INPUT, "vocabulary: token %d is not UTF-8", (int)id);
    }
    return CL_OK;
}

static cl_code check_merges(const cl_tokenizer_data *d, cl_err *err)
{
    for (int i = 0; i < d->n_merges; i++) {
        const int32_t *m = d->merge + (size_t)3 * i;
        for (int k = 0; k < 3; k++)
            if (m[k] < 0 || m[k] >= d->n_tokens)
                return cl_fail(err, CL_E_INPUT, "merge %d: token %d is none of %d", i, (int)m[k], d->n_tokens);
        size_t a = cl_tok_len(d, m[0]), b = cl_tok_len(d, m[1]);
        const char *s = cl_tok_bytes(d, m[2]);
        if (a + b != cl_tok_len(d, m[2]) || memcmp(s, cl_tok_bytes(d, m[0]), a) != 0 ||
            memcmp(s + a, cl_tok_bytes(d, m[1]), b) != 0)
            return cl_fail(err, CL_E_INPUT, "merge %d: token %d is not %d followed by %d", i, (int)m[2], (int)m[0],
                           (int)m[1]);
    }
    return CL_OK;
}

/* Byte tokens, each once; all 256 where SentencePiece falls back on them. */
static cl_code check_bytes(const cl_tokenizer_data *d, cl_err *err)
{
    bool seen[256] = {false};
    int n = 0;
    for (int32_t id = 0; id < d->n_tokens; id++) {
        if (d->type[id] != CL_TOK_BYTE) continue;
        unsigned char b = (unsigned char)*cl_tok_bytes(d, id);
        if (seen[b]) return cl_fail(err, CL_E_INPUT, "vocabulary: byte 0x%02x has two tokens", b);
        seen[b] = true;
        n++;
    }
    if (d->kind == CL_TOK_SPM && d->byte_fallback && n < 256)
        return cl_fail(err, CL_E_INPUT,
                       "vocabulary: %d of 256 byte tokens, though unknown characters fall back on them", n);
    return CL_OK;
}

static cl_code check_id(const cl_tokenizer_data *d, const char *name, int id, cl_err *err)
{
    if (id >= -1 && id < d->n_tokens) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "vocabulary: %s is token %d of %d", name, id, d->n_tokens);
}

cl_code cl_tok_data_check(const cl_tokenizer_data *d, cl_err *err)
{
    if (d->n_tokens < 1 || d->n_tokens > INT32_MAX / 8)
        return cl_fail(err, CL_E_INPUT, "vocabulary: %d tokens", d->n_tokens);
    if (d->n_merges < 0 || d->n_merges > INT32_MAX / 8)
        return cl_fail(err, CL_E_INPUT, "vocabulary: %d merges", d->n_merges);
    if (d->n_splits < 0 || d->n_splits > 64)
        return cl_fail(err, CL_E_INPUT, "vocabulary: %d split regexes", d->n_splits);
    if (d->kind != CL_TOK_BPE_BYTES && d->kind != CL_TOK_SPM)
        return cl_fail(err, CL_E_INPUT, "vocabulary: kind %d is none", (int)d->kind);
    cl_code c = check_tokens(d, err);
    if (c == CL_OK) c = check_merges(d, err);
    if (c == CL_OK) c = check_bytes(d, err);
    if (c == CL_OK) c = check_id(d, "bos", d->bos, err);
    if (c == CL_OK) c = check_id(d, "eos", d->eos, err);
    if (c == CL_OK) c = check_id(d, "unk", d->unk, err);
    if (c == CL_OK) c = check_id(d, "pad", d->pad, err);
    if (c != CL_OK) return c;
    if ((d->add_bos && d->bos < 0) || (d->add_eos && d->eos < 0))
        return cl_fail(err, CL_E_INPUT, "vocabulary: texts are to be wrapped in tokens that it does not name");
    if (d->kind == CL_TOK_SPM && !d->byte_fallback && d->unk < 0)
        return cl_fail(err, CL_E_INPUT, "vocabulary: neither an unknown token nor byte tokens");
    if (d->kind == CL_TOK_SPM && !d->n_merges && !d->score)
        return cl_fail(err, CL_E_INPUT, "vocabulary: neither merges nor scores");
    return CL_OK;
}
