/* tok_gguf.c: the tokenizer in a GGUF file's metadata (tokenizer.ggml.*). The defaults of missing keys are
 * llama.cpp's. */
#include "tok_import.h"

#include <stdlib.h>

#include "gguf.h"
#include "tok_build.h"
#include "tok_letters.h"

enum { MAX_SPLITS = 8 };

/* What a GGUF has no key for: pieces that are tokens; a BOS unless a key says otherwise; text in form C; merges that,
 * where there are none, follow from the ids' order. */
enum { WHOLE = 1, BOS = 2, NFC = 4, BY_RANK = 8 };

/* The split regexes behind each name of tokenizer.ggml.pre. Where llama.cpp's approximate a tokenizer.json, these are
 * the file's own. */
typedef struct pre_kind {
    const char *name;
    const char *regex[MAX_SPLITS];
    unsigned flags;
} pre_kind;

#define CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define PUNCTUATION "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+"
#define WORDS_AND_SIGNS                                                                                   \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| " \
    "?[\\p{P}\\p{S}]+[\\r\\n]*|" CL_TOK_SPACES
#define GPT4 CL_TOK_GPT4_REGEX("\\p{N}{1,3}")
#define QWEN CL_TOK_GPT4_REGEX("\\p{N}")

static const pre_kind kinds[] = {
    {"gpt-2", {CL_TOK_GPT2_REGEX}, 0},
    {"olmo", {CL_TOK_GPT2_REGEX}, 0},
    {"smollm", {"\\p{N}", CL_TOK_GPT2_REGEX}, 0},
    {"llama-bpe", {GPT4}, WHOLE | BOS},
    {"llama3", {GPT4}, WHOLE | BOS},
    {"llama-v3", {GPT4}, WHOLE | BOS},
    {"glm4", {GPT4}, WHOLE},
    {"glm5", {GPT4}, WHOLE},
    {"qwen2", {QWEN}, NFC},
    {"deepseek-r1-qwen", {QWEN}, NFC},
    {"deepseek-coder", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, "\\p{N}"}, BOS},
    {"deepseek-llm", {"[\\r\\n]", "\\s?[" CL_TOK_CASED_LETTERS "]+", PUNCTUATION, "\\s+$", CJK, "\\p{N}"}, BOS},
    {"deepseek-v3",
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", WORDS_AND_SIGNS},
     BOS},
    {"gpt-4o", {CL_TOK_O200K_REGEX}, 0},
    {"llama4", {CL_TOK_O200K_REGEX}, BOS},
    {"minimax-m2", {CL_TOK_O200K_REGEX}, NFC},
    {"kimi-k2", {CL_TOK_HAN_REGEX}, WHOLE | BY_RANK},
    /* the expressions of llama.cpp's own default, which no family was trained with */
    {"default",
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
      "\\p{N}+", "[0-9][0-9][0-9]"},
     0},
};

static cl_code find_kind(const cl_gguf *g, const pre_kind **out, cl_err *err)
{
    const char *s;
    size_t n;
    if (!cl_gguf_str(g, "tokenizer.ggml.pre", &s, &n))
        return cl_fail(err, CL_E_INPUT,
                       "tokenizer.ggml.pre: missing, so that nothing says how text is split (convert the checkpoint's "
                       "folder instead)");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        *out = &kinds[i];
        if (strlen(kinds[i].name) == n && memcmp(kinds[i].name, s, n) == 0) return CL_OK;
    }
    return cl_fail(
        err, CL_E_INPUT,
        "tokenizer.ggml.pre: %.*s is not known (convert the checkpoint's folder with its tokenizer.json instead)",
        (int)(n < 60 ? n : 60), s);
}

/* tokens, token_type and scores; ids: text -> id of normal tokens, for the merges. */
static cl_code read_tokens(const cl_gguf *g, cl_tok_list *l, json_t *ids, cl_err *err)
{
    uint32_t type;
    uint64_t n, n_types = 0, n_scores = 0;
    if (!cl_gguf_array(g, "tokenizer.ggml.tokens", &type, &n) || type != CL_GGUF_STR || n == 0)
        return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.tokens: missing or no list of texts");
    bool typed = cl_gguf_array(g, "tokenizer.ggml.token_type", &type, &n_types),
         scored = cl_gguf_array(g, "tokenizer.ggml.scores", &type, &n_scores);
    if ((typed && n_types != n) || (scored && n_scores != n))
        return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.%s: %llu entries for %llu tokens",
                       typed && n_types != n ? "token_type" : "scores",
                       (unsigned long long)(typed && n_types != n ? n_types : n_scores), (unsigned long long)n);
    cl_code c = CL_OK;
    for (uint64_t i = 0; c == CL_OK && i < n; i++) {
        cl_tok_entry e = {.type = CL_TOK_NORMAL};
        int64_t t = CL_TOK_NORMAL;
        double score = 0;
        size_t bad;
        cl_gguf_array_str(g, "tokenizer.ggml.tokens", i, &e.s, &e.n);
        if ((typed && !cl_gguf_array_i64(g, "tokenizer.ggml.token_type", i, &t)) || t < CL_TOK_NORMAL ||
            t > CL_TOK_BYTE)
            return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.token_type: token %llu: %lld is none of 1 to 6",
                           (unsigned long long)i, (long long)t);
        if (scored && !cl_gguf_array_f64(g, "tokenizer.ggml.scores", i, &score))
            return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.scores: no list of numbers");
        if (!cl_utf8_valid(e.s, e.n, &bad))
            return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.tokens: token %llu is not UTF-8", (unsigned long long)i);
        e.type = (uint8_t)t;
        e.score = (float)score;
        c = cl_tok_list_set(l, (int64_t)i, &e, err);
        if (c == CL_OK && e.type != CL_TOK_UNUSED &&
            json_object_setn_new_nocheck(ids, e.s, e.n, json_integer((json_int_t)i)) != 0)
            c = cl_fail(err, CL_E_FIT, "vocabulary: no memory");
    }
    return c;
}

/* "left right": the space is never the first character, which the alphabet writes otherwise. */
static cl_code read_merges(const cl_gguf *g, const json_t *ids, bool by_rank, cl_tokenizer_data *d, cl_err *err)
{
    uint32_t type;
    uint64_t n;
    if (by_rank && !cl_gguf_has(g, "tokenizer.ggml.merges")) return CL_OK;
    if (!cl_gguf_array(g, "tokenizer.ggml.merges", &type, &n) || type != CL_GGUF_STR || n == 0)
        return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.merges: missing or no list of texts");
    cl_code c = cl_tok_merges_start(d, (size_t)n, err);
    for (uint64_t i = 0; c == CL_OK && i < n; i++) {
        const char *s, *space;
        size_t len;
        cl_gguf_array_str(g, "tokenizer.ggml.merges", i, &s, &len);
        space = len > 2 ? memchr(s + 1, ' ', len - 2) : NULL;
        if (!space)
            return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.merges: entry %llu is no pair", (unsigned long long)i);
        c = cl_tok_merges_add(d, ids, s, (size_t)(space - s), space + 1, len - (size_t)(space - s) - 1, err);
    }
    return c;
}

static cl_code read_id(const cl_gguf *g, const char *key, int *out, cl_err *err)
{
    uint64_t id;
    if (!cl_gguf_has(g, key)) return CL_OK;
    if (!cl_gguf_u64(g, key, &id) || id > INT32_MAX) return cl_fail(err, CL_E_INPUT, "%s: no token id", key);
    *out = (int)id;
    return CL_OK;
}

static cl_code read_rest(const cl_gguf *g, cl_tokenizer_data *d, cl_err *err)
{
    const char *s;
    size_t n;
    cl_gguf_bool(g, "tokenizer.ggml.add_bos_token", &d->add_bos);
    cl_gguf_bool(g, "tokenizer.ggml.add_eos_token", &d->add_eos);
    cl_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &d->add_prefix_space);
    cl_code c = read_id(g, "tokenizer.ggml.bos_token_id", &d->bos, err);
    if (c == CL_OK) c = read_id(g, "tokenizer.ggml.eos_token_id", &d->eos, err);
    if (c == CL_OK) c = read_id(g, "tokenizer.ggml.unknown_token_id", &d->unk, err);
    if (c == CL_OK) c = read_id(g, "tokenizer.ggml.padding_token_id", &d->pad, err);
    if (c == CL_OK && cl_gguf_str(g, "tokenizer.chat_template", &s, &n)) {
        d->chat_template = cl_malloc(n + 1, 1, "chat template", err);
        if (!d->chat_template) return CL_E_FIT;
        memcpy(d->chat_template, s, n);
        d->chat_template[n] = 0;
    }
    return c;
}

static cl_code read_bpe(const cl_gguf *g, cl_tok_list *l, json_t *ids, cl_tokenizer_data *d, cl_err *err)
{
    const pre_kind *k;
    cl_code c = find_kind(g, &k, err);
    for (int i = 0; c == CL_OK && i < MAX_SPLITS && k->regex[i]; i++) c = cl_tok_add_split(d, k->regex[i], err);
    if (c == CL_OK) {
        d->ignore_merges = (k->flags & WHOLE) != 0;
        d->add_bos = (k->flags & BOS) != 0;
        d->prefix_unless_space = true;
        d->nfc = (k->flags & NFC) != 0;
        c = read_tokens(g, l, ids, err);
    }
    if (c == CL_OK) c = cl_tok_list_store(l, false, d, err);
    if (c == CL_OK) c = read_merges(g, ids, (k->flags & BY_RANK) != 0, d, err);
    return c;
}

static cl_code read_spm(const cl_gguf *g, cl_tok_list *l, json_t *ids, cl_tokenizer_data *d, cl_err *err)
{
    bool strip = false;
    cl_gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &strip);
    if (strip || cl_gguf_has(g, "tokenizer.ggml.precompiled_charsmap"))
        return cl_fail(err, CL_E_INPUT,
                       "tokenizer.ggml.%s: text that is normalised before it is encoded is not supported",
                       strip ? "remove_extra_whitespaces" : "precompiled_charsmap");
    if (!cl_gguf_has(g, "tokenizer.ggml.scores")) return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.scores: missing");
    d->add_bos = d->add_prefix_space = true;
    d->unk = 0;
    cl_code c = read_tokens(g, l, ids, err);
    for (int i = 0; i < l->n; i++) d->byte_fallback = d->byte_fallback || l->v[i].type == CL_TOK_BYTE;
    return c == CL_OK ? cl_tok_list_store(l, true, d, err) : c;
}

cl_code cl_tok_from_gguf(const cl_gguf *g, cl_tokenizer_data **out, cl_err *err)
{
    const char *model, *pre;
    size_t n, n_pre = 0;
    *out = NULL;
    if (!cl_gguf_has(g, "tokenizer.ggml.model")) return CL_OK;
    if (!cl_gguf_str(g, "tokenizer.ggml.model", &model, &n))
        return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.model: no text");
    if ((n == 4 && memcmp(model, "none", n) == 0) || (n == 8 && memcmp(model, "no_vocab", n) == 0)) return CL_OK;
    bool bpe = n == 4 && memcmp(model, "gpt2", n) == 0, spm = n == 5 && memcmp(model, "llama", n) == 0;
    if (!bpe && !spm)
        return cl_fail(err, CL_E_INPUT, "tokenizer.ggml.model: %.*s is not supported (gpt2 and llama are)",
                       (int)(n < 60 ? n : 60), model);
    char source[64];
    if (bpe && cl_gguf_str(g, "tokenizer.ggml.pre", &pre, &n_pre))
        snprintf(source, sizeof source, "gguf: %.*s", (int)(n_pre < 40 ? n_pre : 40), pre);
    else snprintf(source, sizeof source, "gguf: %s", bpe ? "gpt2" : "llama");
    cl_tokenizer_data *d = cl_tok_data_new(bpe ? CL_TOK_BPE_BYTES : CL_TOK_SPM, source, err);
    json_t *ids = json_object();
    cl_tok_list l = {0};
    cl_code c = d && ids ? CL_OK : cl_fail(err, CL_E_FIT, "tokenizer: no memory");
    if (c == CL_OK) c = bpe ? read_bpe(g, &l, ids, d, err) : read_spm(g, &l, ids, d, err);
    if (c == CL_OK) c = read_rest(g, d, err);
    if (c == CL_OK) c = cl_tokenizer_data_check(d, err);
    cl_tok_list_free(&l);
    json_decref(ids);
    if (c == CL_OK) *out = d;
    else cl_tokenizer_data_free(d);
    return c;
}
