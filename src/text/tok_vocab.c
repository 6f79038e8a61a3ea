/* tok_vocab.c: bytes to ids and pairs of ids to merges, both hash tables with linear probing. */
#include "tok_internal.h"

#include <stdlib.h>
#include <xxhash.h>

/* A power of two at least 1.5 times n, at least 16. */
static uint32_t slots_for(uint64_t n)
{
    uint64_t size = 16;
    while (size < n + n / 2) size *= 2;
    return (uint32_t)size;
}

static bool same(const cl_tokenizer_data *d, int32_t id, const char *s, size_t n)
{
    return cl_tok_len(d, id) == n && memcmp(cl_tok_bytes(d, id), s, n) == 0;
}

static uint32_t *find_slot(const cl_tok_vocab *v, const char *s, size_t n, uint32_t *at)
{
    uint32_t i = (uint32_t)XXH3_64bits(s, n) & v->mask;
    while (v->slot[i] >= 0 && !same(v->d, v->slot[i], s, n)) i = (i + 1) & v->mask;
    *at = i;
    return at;
}

int32_t cl_tok_vocab_find(const cl_tok_vocab *v, const char *s, size_t n)
{
    uint32_t i;
    return v->slot[*find_slot(v, s, n, &i)];
}

cl_code cl_tok_vocab_build(cl_tok_vocab *v, const cl_tokenizer_data *d, cl_err *err)
{
    uint32_t size = slots_for((uint64_t)d->n_tokens), at;
    v->d = d;
    v->mask = size - 1;
    v->slot = cl_malloc(size, sizeof *v->slot, "vocabulary", err);
    if (!v->slot) return CL_E_FIT;
    for (uint32_t i = 0; i < size; i++) v->slot[i] = -1;
    for (int pass = 0; pass < 2; pass++) { /* normal tokens go first: a user token may be spelt like one */
        for (int32_t id = 0; id < d->n_tokens; id++) {
            if (d->type[id] != (pass ? CL_TOK_USER : CL_TOK_NORMAL)) continue;
            find_slot(v, cl_tok_bytes(d, id), cl_tok_len(d, id), &at);
            if (v->slot[at] < 0) v->slot[at] = id;
            else if (!pass)
                return cl_fail(err, CL_E_INPUT, "vocabulary: tokens %d and %d are the same text", (int)v->slot[at],
                               (int)id);
        }
    }
    return CL_OK;
}

static uint32_t pair_slot(const cl_tok_pairs *p, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    /* 2^64 / golden ratio: Knuth's multiplicative hash */
    uint32_t i = (uint32_t)(key * 0x9e3779b97f4a7c15u >> p->shift);
    while (p->slot[i].left >= 0 && (p->slot[i].left != left || p->slot[i].right != right)) i = (i + 1) & p->mask;
    return i;
}

const cl_tok_pair *cl_tok_pairs_find(const cl_tok_pairs *p, int32_t left, int32_t right)
{
    const cl_tok_pair *q = &p->slot[pair_slot(p, left, right)];
    return q->left >= 0 ? q : NULL;
}

static cl_code alloc_pairs(cl_tok_pairs *p, uint64_t n, cl_err *err)
{
    if (n > (uint64_t)1 << 30) return cl_fail(err, CL_E_INPUT, "vocabulary: over 2^30 merges");
    uint32_t size = slots_for(n);
    p->mask = size - 1;
    p->shift = 64;
    for (uint32_t s = size; s > 1; s /= 2) p->shift--;
    p->slot = cl_malloc(size, sizeof *p->slot, "merges", err);
    if (!p->slot) return CL_E_FIT;
    for (uint32_t i = 0; i < size; i++) p->slot[i].left = -1;
    return CL_OK;
}

static void put(cl_tok_pairs *p, int32_t left, int32_t right, uint32_t rank, int32_t result)
{
    cl_tok_pair *q = &p->slot[pair_slot(p, left, right)];
    if (q->left < 0) *q = (cl_tok_pair){left, right, rank, result}; /* listed twice: the lower rank counts */
}

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : (x->id > y->id) - (x->id < y->id);
}

/* rank[id]: the order of the ids (tiktoken), or that of the scores, highest first; equal scores have equal ranks, so
 * that the leftmost merges first as in SentencePiece. */
static cl_code make_ranks(const cl_tokenizer_data *d, uint32_t *rank, cl_err *err)
{
    if (!d->score) {
        for (int32_t i = 0; i < d->n_tokens; i++) rank[i] = (uint32_t)i;
        return CL_OK;
    }
    scored *s = cl_malloc((size_t)d->n_tokens, sizeof *s, "scores", err);
    if (!s) return CL_E_FIT;
    for (int32_t i = 0; i < d->n_tokens; i++) s[i] = (scored){d->score[i], i};
    qsort(s, (size_t)d->n_tokens, sizeof *s, by_score);
    for (int32_t i = 0, r = 0; i < d->n_tokens; i++) {
        if (i && s[i].score < s[i - 1].score) r = i;
        rank[s[i].id] = (uint32_t)r;
    }
    free(s);
    return CL_OK;
}

/* Every way to cut a normal token into two: with p NULL they are only counted. */
static uint64_t cut_tokens(cl_tok_pairs *p, const cl_tokenizer_data *d, const cl_tok_vocab *v, const uint32_t *rank)
{
    uint64_t count = 0;
    for (int32_t id = 0; id < d->n_tokens; id++) {
        if (d->type[id] != CL_TOK_NORMAL) continue;
        const char *s = cl_tok_bytes(d, id);
        size_t n = cl_tok_len(d, id);
        for (size_t k = 1; k < n; k++) {
            if (d->kind == CL_TOK_SPM && ((unsigned char)s[k] & 0xc0) == 0x80) continue;
            int32_t left = cl_tok_vocab_find(v, s, k), right = cl_tok_vocab_find(v, s + k, n - k);
            if (left < 0 || right < 0 || d->type[left] != CL_TOK_NORMAL || d->type[right] != CL_TOK_NORMAL) continue;
            count++;
            if (p) put(p, left, right, rank[id], id);
        }
    }
    return count;
}

cl_code cl_tok_pairs_build(cl_tok_pairs *p, const cl_tokenizer_data *d, const cl_tok_vocab *v, cl_err *err)
{
    if (d->n_merges) {
        cl_code c = alloc_pairs(p, (uint64_t)d->n_merges, err);
        for (int i = 0; c == CL_OK && i < d->n_merges; i++) {
            const int32_t *m = d->merge + (size_t)3 * i;
            put(p, m[0], m[1], (uint32_t)i, m[2]);
        }
        return c;
    }
    uint32_t *rank = cl_malloc((size_t)d->n_tokens, sizeof *rank, "ranks", err);
    if (!rank) return CL_E_FIT;
    cl_code c = make_ranks(d, rank, err);
    if (c == CL_OK) c = alloc_pairs(p, cut_tokens(NULL, d, v, rank), err);
    if (c == CL_OK) cut_tokens(p, d, v, rank);
    free(rank);
    return c;
}
