/* tokenizer_vocab.h: what the tokenizer tests build: vocabularies small enough to think through. */
#ifndef CHIPLINE_TEST_TOKENIZER_VOCAB_H
#define CHIPLINE_TEST_TOKENIZER_VOCAB_H

#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>

#include "chipline/tokenizer.h"

#define SPACE "\xe2\x96\x81"

typedef struct vocab {
    cl_tokenizer_data d;
    char bytes[8192];
    uint32_t offset[600];
    uint8_t type[600], flags[600];
    float score[600];
    int32_t merge[64][3];
    cl_tok_split splits[8];
} vocab;

static inline int add(vocab *v, const char *s, size_t n, cl_tok_type type, int flags, float score)
{
    int id = v->d.n_tokens++;
    memcpy(v->bytes + v->offset[id], s, n);
    v->offset[id + 1] = v->offset[id] + (uint32_t)n;
    v->type[id] = (uint8_t)type;
    v->flags[id] = (uint8_t)flags;
    v->score[id] = score;
    return id;
}

static inline int token(vocab *v, const char *s) { return add(v, s, strlen(s), CL_TOK_NORMAL, 0, 0); }
static inline int control(vocab *v, const char *s, int flags) { return add(v, s, strlen(s), CL_TOK_CONTROL, flags, 0); }

static inline void start(vocab *v, cl_tok_kind kind)
{
    memset(v, 0, sizeof *v);
    v->d = (cl_tokenizer_data){.kind = kind,
                               .bytes = v->bytes,
                               .offset = v->offset,
                               .type = v->type,
                               .flags = v->flags,
                               .splits = v->splits,
                               .merge = v->merge[0],
                               .bos = -1,
                               .eos = -1,
                               .unk = -1,
                               .pad = -1};
}

/* Ids 0 to 255 are the bytes. */
static inline void start_bytes(vocab *v)
{
    start(v, CL_TOK_BPE_BYTES);
    for (int b = 0; b < 256; b++) add(v, (char[]){(char)b}, 1, CL_TOK_NORMAL, 0, 0);
}

static inline int find(const vocab *v, const char *s)
{
    for (int id = 0; id < v->d.n_tokens; id++)
        if (v->offset[id + 1] - v->offset[id] == strlen(s) && memcmp(v->bytes + v->offset[id], s, strlen(s)) == 0)
            return id;
    abort();
}

/* The merge of two tokens; the result becomes a token if it is none. */
static inline int merge(vocab *v, const char *a, const char *b)
{
    char both[64];
    snprintf(both, sizeof both, "%s%s", a, b);
    int result = -1;
    for (int id = 0; id < v->d.n_tokens; id++)
        if (v->offset[id + 1] - v->offset[id] == strlen(both) &&
            memcmp(v->bytes + v->offset[id], both, strlen(both)) == 0)
            result = id;
    if (result < 0) result = token(v, both);
    int32_t *m = v->merge[v->d.n_merges++];
    m[0] = find(v, a);
    m[1] = find(v, b);
    m[2] = result;
    return result;
}

static inline void split(vocab *v, const char *regex) { v->splits[v->d.n_splits++].regex = (char *)(uintptr_t)regex; }

/* SentencePiece's minimum: unknown, BOS, EOS, and byte tokens if wanted. */
static inline void start_spm(vocab *v, bool bytes)
{
    start(v, CL_TOK_SPM);
    v->d.score = v->score;
    v->d.add_prefix_space = true;
    v->d.unk = add(v, "<unk>", 5, CL_TOK_UNKNOWN, 0, 0);
    v->d.bos = control(v, "<s>", 0);
    v->d.eos = control(v, "</s>", 0);
    v->d.byte_fallback = bytes;
    for (int b = 0; bytes && b < 256; b++) add(v, (char[]){(char)b}, 1, CL_TOK_BYTE, 0, 0);
}
static inline int piece(vocab *v, const char *s, float score) { return add(v, s, strlen(s), CL_TOK_NORMAL, 0, score); }

static inline cl_tokenizer *compile(const vocab *v)
{
    cl_tokenizer *t = NULL;
    cl_err err = {0};
    if (cl_tokenizer_create(&t, &v->d, &err) != CL_OK) fprintf(stderr, "%s\n", err.msg);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    return t;
}

#endif
