/* tok_build.h: what all tokenizer importers share: tokens collected by id, the byte-level alphabet undone, merges
 * looked up. */
#ifndef CHIPLINE_IMPORT_TOK_BUILD_H
#define CHIPLINE_IMPORT_TOK_BUILD_H

#include <jansson.h>

#include "chipline/tokenizer.h"

/* The regexes that byte-level families share; each is a piece of text in one way or another, so that they leave no
 * gaps. */
#define CL_TOK_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define CL_TOK_SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CL_TOK_GPT2_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* numbers: how many numeric characters are one piece */
#define CL_TOK_GPT4_REGEX(numbers) \
    CL_TOK_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" CL_TOK_SPACES
/* Words end where their case does. but: what words must not hold; signs: what may follow punctuation */
#define CL_TOK_CASED_REGEX(but, signs)                                                                        \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" but "]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" but      \
    "]+" CL_TOK_CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" but                \
    "]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" but "]*" CL_TOK_CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+" signs \
    "|" CL_TOK_SPACES
#define CL_TOK_O200K_REGEX CL_TOK_CASED_REGEX("", "[\\r\\n/]*")
#define CL_TOK_HAN_REGEX "[\\p{Han}]+|" CL_TOK_CASED_REGEX("&&[^\\p{Han}]", "[\\r\\n]*")

/* The tokens of a source by id. Texts are borrowed, and as the source writes them: store turns them into bytes. */
typedef struct cl_tok_entry {
    const char *s;
    size_t n;
    float score;
    uint8_t type, flags; /* type 0: no token has this id */
} cl_tok_entry;
typedef struct cl_tok_list {
    cl_tok_entry *v;
    int n, cap;
    bool raw; /* texts are the tokens' bytes, not written in the byte-level alphabet */
} cl_tok_list;
/* Sets token `id`, whatever it was before; CL_E_INPUT for ids below 0 or absurdly high. */
cl_code cl_tok_list_set(cl_tok_list *l, int64_t id, const cl_tok_entry *e, cl_err *err);
/* The id of an added or control token with this text, else of any token; -1 if there is none. */
int cl_tok_list_find(const cl_tok_list *l, const char *s, size_t n);
/* Into d->bytes, offset, type, flags (and score if `scores`): normal tokens of byte-level BPE lose their alphabet,
 * byte tokens "<0x41>" become the byte, ids without a token become unused ones. */
cl_code cl_tok_list_store(const cl_tok_list *l, bool scores, cl_tokenizer_data *d, cl_err *err);
void cl_tok_list_free(cl_tok_list *l);

/* "<0x41>": true and the byte. */
bool cl_tok_byte_name(const char *s, size_t n, unsigned char *byte);

/* Room for n merges; then each with its two halves as the source writes them. ids: text -> id. */
cl_code cl_tok_merges_start(cl_tokenizer_data *d, size_t n, cl_err *err);
cl_code cl_tok_merges_add(cl_tokenizer_data *d, const json_t *ids, const char *left, size_t n_left, const char *right,
                          size_t n_right, cl_err *err);

cl_code cl_tok_add_split(cl_tokenizer_data *d, const char *regex, cl_err *err);
/* Empty data of a kind: ids -1, nothing else. */
cl_tokenizer_data *cl_tok_data_new(cl_tok_kind kind, const char *source, cl_err *err);

#endif
