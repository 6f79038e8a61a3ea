/* tok_spm.c: SentencePiece's tokenizer.model, a protobuf message (sentencepiece_model.proto), read field by field:
 *   ModelProto      1 pieces*, 2 trainer_spec, 3 normalizer_spec, 5 denormalizer_spec
 *   SentencePiece   1 piece (text), 2 score (float), 3 type (as cl_tok_type; normal if missing)
 *   TrainerSpec 3 model_type (2 is BPE), 24 treat_whitespace_as_suffix, 35 byte_fallback, 40 to 43 unk, bos, eos, pad
 *   id NormalizerSpec 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces, 6
 *   rules */
#include "tok_spm.h"

typedef struct wire {
    const unsigned char *p, *end;
} wire;

typedef struct field {
    int number;
    int type;   /* 0 varint, 1 8 bytes, 2 bytes, 5 4 bytes */
    uint64_t v; /* the number */
    wire bytes;
} field;

static bool varint(wire *w, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        unsigned char b = *w->p++;
        *v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) return true;
    }
    return false;
}

static bool fixed(wire *w, int n, uint64_t *v)
{
    *v = 0;
    if (w->end - w->p < n) return false;
    for (int i = 0; i < n; i++) *v |= (uint64_t)w->p[i] << 8 * i;
    w->p += n;
    return true;
}

/* The next field; false at the end, and with *bad set if the bytes are none. */
static bool next_field(wire *w, field *f, bool *bad)
{
    uint64_t key;
    if (w->p == w->end) return false;
    *bad = true;
    if (!varint(w, &key) || key >> 3 == 0 || key >> 3 > 1 << 29) return false;
    f->number = (int)(key >> 3);
    f->type = (int)(key & 7);
    switch (f->type) {
    case 0:
        if (!varint(w, &f->v)) return false;
        break;
    case 1:
        if (!fixed(w, 8, &f->v)) return false;
        break;
    case 2:
        if (!varint(w, &f->v) || f->v > (uint64_t)(w->end - w->p)) return false;
        f->bytes = (wire){w->p, w->p + f->v};
        w->p += f->v;
        break;
    case 5:
        if (!fixed(w, 4, &f->v)) return false;
        break;
    default: return false;
    }
    *bad = false;
    return true;
}

static cl_code read_piece(wire w, cl_tok_list *l, bool *bad, cl_err *err)
{
    cl_tok_entry e = {.type = CL_TOK_NORMAL, .s = ""};
    field f;
    size_t at;
    while (next_field(&w, &f, bad)) {
        if (f.number == 1 && f.type == 2) {
            e.s = (const char *)f.bytes.p;
            e.n = (size_t)(f.bytes.end - f.bytes.p);
        } else if (f.number == 2 && f.type == 5) {
            uint32_t bits = (uint32_t)f.v;
            memcpy(&e.score, &bits, sizeof bits);
        } else if (f.number == 3 && f.type == 0) {
            if (f.v < CL_TOK_NORMAL || f.v > CL_TOK_BYTE)
                return cl_fail(err, CL_E_INPUT, "piece %d: type %llu is none of 1 to 6", l->n, (unsigned long long)f.v);
            e.type = (uint8_t)f.v;
        }
    }
    if (*bad) return CL_OK;
    if (!cl_utf8_valid(e.s, e.n, &at)) return cl_fail(err, CL_E_INPUT, "piece %d is not UTF-8", l->n);
    if (e.type == CL_TOK_UNUSED) return cl_fail(err, CL_E_INPUT, "piece %d: unused pieces are not supported", l->n);
    if (e.type == CL_TOK_USER) e.flags = CL_TOK_NORMALIZED; /* found in the escaped text, without a space in front */
    return cl_tok_list_set(l, l->n, &e, err);
}

static cl_code read_trainer(wire w, cl_tokenizer_data *d, bool *bad, cl_err *err)
{
    field f;
    uint64_t model = 1;
    int *const ids[] = {&d->unk, &d->bos, &d->eos, &d->pad};
    while (next_field(&w, &f, bad)) {
        if (f.type != 0) continue;
        if (f.number == 3) model = f.v;
        if (f.number == 35) d->byte_fallback = f.v != 0;
        if (f.number == 24 && f.v) return cl_fail(err, CL_E_INPUT, "white space as a suffix is not supported");
        /* negative: none */
        if (f.number >= 40 && f.number <= 43) *ids[f.number - 40] = f.v <= INT32_MAX ? (int)f.v : -1;
    }
    if (!*bad && model != 2)
        return cl_fail(err, CL_E_INPUT, "model type %llu is no BPE (2)", (unsigned long long)model);
    return CL_OK;
}

static cl_code read_normalizer(wire w, cl_tokenizer_data *d, bool *bad, cl_err *err)
{
    field f;
    bool rules = false, strips = true, escapes = true;
    while (next_field(&w, &f, bad)) {
        if ((f.number == 2 || f.number == 6) && f.type == 2 && f.v) rules = true;
        if (f.number == 3 && f.type == 0) d->add_prefix_space = f.v != 0;
        if (f.number == 4 && f.type == 0) strips = f.v != 0;
        if (f.number == 5 && f.type == 0) escapes = f.v != 0;
    }
    if (!*bad && (rules || strips || !escapes))
        return cl_fail(err, CL_E_INPUT, "its normaliser %s: not supported",
                       rules    ? "has rules"
                       : strips ? "removes white space"
                                : "leaves spaces alone");
    return CL_OK;
}

cl_code cl_tok_read_spm(const cl_buf *file, cl_tok_list *l, cl_tokenizer_data *d, cl_err *err)
{
    wire w = {(const unsigned char *)file->data, (const unsigned char *)file->data + file->len};
    field f;
    bool bad = false, trained = false, normal = false;
    cl_code c = CL_OK;
    d->unk = 0, d->bos = 1, d->eos = 2, d->pad = -1; /* the message's defaults */
    d->add_prefix_space = true;
    while (c == CL_OK && !bad && next_field(&w, &f, &bad)) {
        if (f.type != 2) continue;
        if (f.number == 1) c = read_piece(f.bytes, l, &bad, err);
        if (f.number == 2) c = read_trainer(f.bytes, d, &bad, err), trained = true;
        if (f.number == 3) c = read_normalizer(f.bytes, d, &bad, err), normal = true;
    }
    if (c != CL_OK) return c;
    if (bad || !trained || !normal || !l->n)
        return cl_fail(err, CL_E_INPUT, "is neither a SentencePiece model nor a tiktoken vocabulary, or it is damaged");
    return CL_OK;
}
