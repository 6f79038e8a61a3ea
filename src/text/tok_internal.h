/* tok_internal.h: the steps of encoding, one file each. Nothing here is known outside the tokenizer.
 *
 *   text -> tok_added.c: added tokens are cut out -> tokenizer.c: normaliser, prefix -> tok_split.c: regexes cut pieces
 *        -> tok_merge.c: symbols of a piece are merged, with the tables of tok_vocab.c -> ids
 *
 * Everything compiled is read-only after cl_tokenizer_create; an encode keeps its scratch in a cl_tok_work of its
 * own. */
#ifndef CHIPLINE_MODEL_TOK_INTERNAL_H
#define CHIPLINE_MODEL_TOK_INTERNAL_H

#include "chipline/tokenizer.h"

static inline const char *cl_tok_bytes(const cl_tokenizer_data *d, int32_t id) { return d->bytes + d->offset[id]; }
static inline size_t cl_tok_len(const cl_tokenizer_data *d, int32_t id) { return d->offset[id + 1] - d->offset[id]; }

/* Length of the UTF-8 character that starts with byte c (of valid text). */
static inline int cl_utf8_len(unsigned char c) { return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4; }

#define CL_TOK_SPACE "\xe2\x96\x81" /* U+2581, what SentencePiece writes for a space */
enum { CL_TOK_SPACE_LEN = 3 };

/* --- tok_data.c --- */
/* Everything about d that can be told without compiling it. */
cl_code cl_tok_data_check(const cl_tokenizer_data *d, cl_err *err);

/* --- tok_vocab.c: lookups --- */

/* Bytes -> id of normal and user tokens: open addressing, -1 is an empty slot. */
typedef struct cl_tok_vocab {
    const cl_tokenizer_data *d;
    int32_t *slot;
    uint32_t mask;
} cl_tok_vocab;
/* two normal tokens alike: CL_E_INPUT */
cl_code cl_tok_vocab_build(cl_tok_vocab *v, const cl_tokenizer_data *d, cl_err *err);
int32_t cl_tok_vocab_find(const cl_tok_vocab *v, const char *s, size_t n); /* or -1 */

/* A merge: lower ranks come first. left < 0 is an empty slot. */
typedef struct cl_tok_pair {
    int32_t left, right;
    uint32_t rank;
    int32_t result;
} cl_tok_pair;
typedef struct cl_tok_pairs {
    cl_tok_pair *slot;
    int shift; /* 64 - log2(slots) */
    uint32_t mask;
} cl_tok_pairs;
/* From the merges, or (none given) from the scores or the order of the ids. */
cl_code cl_tok_pairs_build(cl_tok_pairs *p, const cl_tokenizer_data *d, const cl_tok_vocab *v, cl_err *err);
const cl_tok_pair *cl_tok_pairs_find(const cl_tok_pairs *p, int32_t left, int32_t right); /* or NULL */

/* --- tok_added.c: added tokens in text --- */

/* Token ids sorted by bytes; those that begin with byte b are id[first[b] .. first[b + 1]). */
typedef struct cl_tok_added {
    const cl_tokenizer_data *d;
    int32_t *id;
    int n;
    int first[257];
} cl_tok_added;
/* The added tokens whose NORMALIZED flag is `normalized`: those are looked for after the normaliser, the others
 * before. */
cl_code cl_tok_added_build(cl_tok_added *a, const cl_tokenizer_data *d, bool normalized, cl_err *err);
typedef struct cl_tok_match {
    int32_t id;
    size_t start, end;
} cl_tok_match;
/* The next added token at or after *from (longest at the leftmost place; spaces that it swallows included), false if
 * none. done: up to where the text is used already. *from moves behind what was looked at. */
bool cl_tok_added_next(const cl_tok_added *a, const char *s, size_t n, size_t *from, size_t done, bool specials,
                       cl_tok_match *m);
/* the token with exactly these bytes, or -1 */
int32_t cl_tok_added_find(const cl_tok_added *a, const char *s, size_t n);

/* --- tok_split.c: regular expressions --- */

typedef struct cl_tok_regex cl_tok_regex;
cl_code cl_tok_regex_compile(cl_tok_regex **out, const char *regex, cl_err *err);
void cl_tok_regex_free(cl_tok_regex *r);
typedef struct cl_tok_matcher cl_tok_matcher; /* scratch of PCRE2 */
cl_code cl_tok_matcher_create(cl_tok_matcher **out, cl_err *err);
void cl_tok_matcher_free(cl_tok_matcher *m);
typedef cl_code cl_tok_piece_fn(void *ctx, const char *s, size_t n);
/* Calls fn for every piece of s[0..n) in order; stops at the first error. */
cl_code cl_tok_split_text(cl_tok_regex *const *r, int n_regex, cl_tok_matcher *m, const char *s, size_t n,
                          cl_tok_piece_fn *fn, void *ctx, cl_err *err);

/* --- tok_merge.c: one piece --- */

/* A symbol of the piece being merged: `len` bytes of it, 0 once it is part of its left neighbour. id -1: no token. */
typedef struct cl_tok_sym {
    int32_t id, len, prev, next;
} cl_tok_sym;
typedef struct cl_tok_candidate { /* in a heap, least key first */
    uint64_t key;                 /* rank << 32 | place of the left symbol */
    int32_t len, result;
} cl_tok_candidate;
typedef struct cl_tok_merger {
    cl_tok_sym *sym;
    int n_sym, cap_sym;
    cl_tok_candidate *heap;
    int n_heap, cap_heap;
} cl_tok_merger;
cl_code cl_tok_merger_add(cl_tok_merger *m, int32_t id, int32_t len, cl_err *err);
/* Merges until nothing merges; the result starts at sym[0] and follows `next` (-1 at the end). */
cl_code cl_tok_merger_run(cl_tok_merger *m, const cl_tok_pairs *p, cl_err *err);
void cl_tok_merger_free(cl_tok_merger *m);

/* --- the tokenizer --- */
struct cl_tokenizer {
    const cl_tokenizer_data *d;
    cl_tok_vocab vocab;
    cl_tok_pairs pairs;
    cl_tok_added raw, normalized;
    cl_tok_regex **splits; /* [d->n_splits] */
    int32_t byte_id[256];  /* the token of one byte, or -1 */
    /* SPM: no token has a space behind something else, so nothing merges across a word's start */
    bool cut_at_spaces;
    char *shown; /* SPM: d->bytes with spaces for U+2581 */
    uint32_t *shown_offset;
};

#endif
