/* tokenizer.h: text to ids and back, exactly, for byte-level BPE and SentencePiece BPE vocabularies.
 *
 * Boundary: callers need not know which kind a vocabulary is. Two objects: cl_tokenizer_data is what importers fill
 * and a file stores (plain arrays); cl_tokenizer is the compiled, read-only thing that encodes (safe to share
 * between threads; encoding keeps its scratch on the caller's side).
 *
 * Round trip: decoding the ids of any valid UTF-8 text gives that text back byte for byte (up to the vocabulary's own
 * normaliser, e.g. NFC, where it has one). Local. */
#ifndef CHIPLINE_TOKENIZER_H
#define CHIPLINE_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/status.h"
#include "chipline/util.h"

typedef struct cl_store cl_store; /* store.h */

typedef enum cl_tok_kind {
    CL_TOK_BPE_BYTES, /* GPT-2 style: UTF-8 bytes; pieces cut by regexes; merges by rank */
    CL_TOK_SPM        /* SentencePiece BPE: spaces become U+2581; unknown characters become byte tokens */
} cl_tok_kind;

typedef enum cl_tok_type {
    CL_TOK_NORMAL = 1,
    CL_TOK_UNKNOWN = 2,
    CL_TOK_CONTROL = 3, /* special: matched in text only when specials are parsed; not shown when decoding */
    CL_TOK_USER = 4,    /* added: always matched whole, shown */
    CL_TOK_UNUSED = 5,
    CL_TOK_BYTE = 6
} cl_tok_type;

/* added tokens' flags (tokenizers' meaning) */
enum { CL_TOK_LSTRIP = 1, CL_TOK_RSTRIP = 2, CL_TOK_SINGLE_WORD = 4, CL_TOK_NORMALIZED = 8 };

/* One isolating split: every match is a piece, every gap is a piece. Applied one after the other, each piece alone
 * (it sees nothing of its neighbours). Text with PCRE2 syntax, e.g. "\\p{N}", read as tokenizers' Oniguruma reads it:
 * \s is Unicode's White_Space, ^ and $ match at lines. */
typedef struct cl_tok_split {
    char *regex;
} cl_tok_split;

typedef struct cl_tokenizer_data {
    cl_tok_kind kind;
    int n_tokens; /* ids are 0 .. n_tokens-1 */
    char *bytes;  /* all tokens' bytes, one after the other: real bytes (byte-level alphabets are undone by importers;
                            SPM tokens keep U+2581; byte tokens hold their one byte) */
    uint32_t *offset; /* [n_tokens + 1] into bytes */
    uint8_t *type;    /* [n_tokens], cl_tok_type */
    uint8_t *flags;   /* [n_tokens], CL_TOK_* flags of added tokens */
    float *score;     /* [n_tokens] or NULL (SPM: higher merges first) */
    int n_merges;     /* 0: merges follow from score (SPM) or from the ids' order (tiktoken) */
    int32_t *merge;   /* [n_merges][3]: left id, right id, result id; index is the rank */
    int n_splits;
    cl_tok_split *splits;
    bool ignore_merges;       /* a piece that is a token is that token */
    bool nfc;                 /* text is normalised to NFC first */
    bool add_prefix_space;    /* SPM dummy prefix, or ByteLevel's add_prefix_space */
    bool prefix_start_only;   /* the prefix goes in front of the whole text only, not after every added token */
    bool prefix_unless_space; /* no prefix where the text begins with a space already (ByteLevel, Metaspace) */
    bool byte_fallback;
    bool add_bos, add_eos;  /* what encode does when asked for the usual wrapping */
    int bos, eos, unk, pad; /* ids or -1 */
    char *chat_template;    /* the checkpoint's Jinja text, or NULL */
    char *source;           /* for people: "tokenizer.json", "gguf: smollm", ... */
} cl_tokenizer_data;
void cl_tokenizer_data_free(cl_tokenizer_data *d); /* frees d itself too; NULL is fine */
/* Every index and size within bounds, tokens' bytes unique among normal tokens, regexes compile: else CL_E_INPUT. */
cl_code cl_tokenizer_data_check(const cl_tokenizer_data *d, cl_err *err);
/* As the group /tokenizer of a new file (its arrays, its numbers as attributes), and read back from one: *out NULL
 * where there is none. Messages begin with the file's path. */
cl_code cl_tokenizer_data_write(const cl_tokenizer_data *d, cl_store *into, cl_err *err);
cl_code cl_tokenizer_data_read(cl_store *from, cl_tokenizer_data **out, cl_err *err);

typedef struct cl_tokenizer cl_tokenizer;
/* Keeps a pointer to d, which must outlive it. */
cl_code cl_tokenizer_create(cl_tokenizer **out, const cl_tokenizer_data *d, cl_err *err);
void cl_tokenizer_free(cl_tokenizer *t);
const cl_tokenizer_data *cl_tokenizer_get_data(const cl_tokenizer *t);

/* text[0..n) -> *ids (malloced, caller frees), *n_ids. Invalid UTF-8 is CL_E_INPUT and says at which byte.
 * specials: control tokens written in the text are recognised. wrap: BOS/EOS are added where the vocabulary wants them
 * (a BOS that the text already begins with is not doubled). */
cl_code cl_tokenizer_encode(const cl_tokenizer *t, const char *text, size_t n, bool specials, bool wrap, int32_t **ids,
                            int *n_ids, cl_err *err);
/* Bytes of one token as they appear in text (SPM's U+2581 as a space); control tokens give nothing unless
 * show_control. */
void cl_tokenizer_piece(const cl_tokenizer *t, int32_t id, bool show_control, const char **bytes, size_t *n);
/* id of a token given its exact bytes ("<|im_end|>"), or -1. */
int32_t cl_tokenizer_find(const cl_tokenizer *t, const char *bytes);

/* Streaming decode: feed ids one by one; out gets only whole UTF-8 characters, the rest waits. finish gives what is
 * left (incomplete sequences as U+FFFD). SPM's leading dummy space is dropped once, at the start, if strip_prefix. */
typedef struct cl_detok {
    const cl_tokenizer *t;
    bool show_control, at_start;
    unsigned char held[8];
    int n_held;
} cl_detok;
void cl_detok_init(cl_detok *d, const cl_tokenizer *t, bool strip_prefix, bool show_control);
cl_code cl_detok_add(cl_detok *d, int32_t id, cl_buf *out, cl_err *err);
cl_code cl_detok_finish(cl_detok *d, cl_buf *out, cl_err *err);

#endif
