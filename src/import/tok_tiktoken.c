/* tok_tiktoken.c: tiktoken's vocabulary files, and the families whose checkpoints have one without a tokenizer.json. */
#include "tok_tiktoken.h"

#include <ctype.h>

enum { MAX_RANK_DIGITS = 9 };

/* The six bits of a base64 digit, or -1. */
static int bits_of(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* s[0..n) decoded into out (which may be s): the number of bytes, or -1 if it is no base64 (RFC 4648, padded). */
static int64_t decode(const char *s, size_t n, char *out)
{
    if (n == 0 || n % 4) return -1;
    size_t pad = s[n - 1] == '=' ? s[n - 2] == '=' ? 2 : 1 : 0, at = 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int v = i < n - pad ? bits_of((unsigned char)s[i]) : 0;
        if (v < 0) return -1;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 != 3) continue;
        for (int k = 16; k >= 0; k -= 8) out[at++] = (char)(bits >> k & 0xff);
        bits = 0;
    }
    for (size_t i = at - pad; i < at; i++)
        if (out[i]) return -1; /* bits that belong to no byte */
    return (int64_t)(at - pad);
}

/* The line at s: where its base64 ends, its rank, and the next line; false if it is none. */
static bool parse_line(const char *s, const char *end, size_t *n, int64_t *rank, const char **next)
{
    const char *p = s, *digits;
    while (p < end && (bits_of((unsigned char)*p) >= 0 || *p == '=')) p++;
    *n = (size_t)(p - s);
    if (!*n || p >= end || *p != ' ') return false;
    digits = ++p;
    for (*rank = 0; p < end && isdigit((unsigned char)*p) && p - digits < MAX_RANK_DIGITS; p++)
        *rank = *rank * 10 + (*p - '0');
    if (p == digits) return false;
    if (p < end && *p == '\r') p++;
    if (p < end && *p != '\n') return false;
    *next = p + (p < end);
    return true;
}

bool cl_tok_is_tiktoken(const cl_buf *file)
{
    size_t n;
    int64_t rank;
    const char *next;
    return file->len && parse_line(file->data, file->data + file->len, &n, &rank, &next) && n % 4 == 0;
}

cl_code cl_tok_read_tiktoken(cl_buf *file, cl_tok_list *l, cl_err *err)
{
    char *s = file->data, *end = s + file->len;
    cl_code c = CL_OK;
    int count = 0;
    l->raw = true;
    for (int64_t line = 1; c == CL_OK && s < end; line++) {
        size_t n;
        int64_t rank, bytes;
        const char *next;
        if (*s == '\n') {
            s++;
            continue;
        }
        if (!parse_line(s, end, &n, &rank, &next) || (bytes = decode(s, n, s)) < 1)
            return cl_fail(err, CL_E_INPUT, "line %lld: is no token in base64 with its rank", (long long)line);
        if (rank < l->n && l->v[rank].type)
            return cl_fail(err, CL_E_INPUT, "line %lld: rank %lld is there twice", (long long)line, (long long)rank);
        cl_tok_entry e = {.s = s, .n = (size_t)bytes, .type = CL_TOK_NORMAL};
        c = cl_tok_list_set(l, rank, &e, err);
        count++;
        s += next - s;
    }
    if (c == CL_OK && count != l->n)
        c = cl_fail(err, CL_E_INPUT, "%d tokens for ranks up to %d (the file is damaged)", count, l->n - 1);
    return c;
}

/* --- families --- */

/* A run of special tokens: one name, or one with a number in it that counts. */
typedef struct run {
    const char *name; /* with %d where the number goes */
    int n, first;
} run;

/* Vocabularies by what tells them: the tokenizer's class, or the number of tokens with a rank, or a special token's
 * name. */
typedef struct family {
    const char *class;
    int ranks;        /* 0: any */
    const char *mark; /* NULL: none */
    const char *regex;
    const run *runs; /* special tokens behind the ranks, where nothing else names them */
    int reserved;    /* special tokens in all */
    bool add_bos;
    const char *bos, *eos, *pad;
} family;

/* Sources: llama3/tokenizer.py and llama4/tokenizer.py of the llama-models package, tokenization_kimi.py of the
 * checkpoints. */
static const run llama3[] = {{"<|begin_of_text|>", 1, 0},
                             {"<|end_of_text|>", 1, 0},
                             {"<|reserved_special_token_%d|>", 2, 0},
                             {"<|finetune_right_pad_id|>", 1, 0},
                             {"<|step_id|>", 1, 0},
                             {"<|start_header_id|>", 1, 0},
                             {"<|end_header_id|>", 1, 0},
                             {"<|eom_id|>", 1, 0},
                             {"<|eot_id|>", 1, 0},
                             {"<|python_tag|>", 1, 0},
                             {"<|image|>", 1, 0},
                             {"<|reserved_special_token_%d|>", 244, 2},
                             {NULL, 0, 0}};
static const run llama4[] = {{"<|begin_of_text|>", 1, 0},
                             {"<|end_of_text|>", 1, 0},
                             {"<|fim_prefix|>", 1, 0},
                             {"<|fim_middle|>", 1, 0},
                             {"<|fim_suffix|>", 1, 0},
                             {"<|header_start|>", 1, 0},
                             {"<|header_end|>", 1, 0},
                             {"<|eom|>", 1, 0},
                             {"<|eot|>", 1, 0},
                             {"<|step|>", 1, 0},
                             {"<|text_post_train_reserved_special_token_%d|>", 6, 0},
                             {"<|python_start|>", 1, 0},
                             {"<|python_end|>", 1, 0},
                             {"<|finetune_right_pad|>", 1, 0},
                             {"<|text_post_train_reserved_special_token_%d|>", 61, 8},
                             {"<|image_start|>", 1, 0},
                             {"<|image_end|>", 1, 0},
                             {"<|vision_reserved_special_token_%d|>", 2, 0},
                             {"<|tile_x_separator|>", 1, 0},
                             {"<|tile_y_separator|>", 1, 0},
                             {"<|vision_reserved_special_token_%d|>", 4, 2},
                             {"<|image|>", 1, 0},
                             {"<|vision_reserved_special_token_%d|>", 1, 6},
                             {"<|patch|>", 1, 0},
                             {"<|vision_reserved_special_token_%d|>", 1041, 7},
                             {"<|reasoning_reserved_special_token_%d|>", 8, 0},
                             {"<|reasoning_thinking_start|>", 1, 0},
                             {"<|reasoning_thinking_end|>", 1, 0},
                             {"<|reserved_special_token_%d|>", 2048, 0},
                             {NULL, 0, 0}};
/* The number in these names is the token's id. */
static const run kimi[] = {{"<|reserved_token_%d|>", 256, -1}, {NULL, 0, 0}};

static const family families[] = {
    {"TikTokenTokenizer", 0, NULL, CL_TOK_HAN_REGEX, kimi, 256, false, "[BOS]", "[EOS]", "[PAD]"},
    {NULL, 128000, "<|start_header_id|>", CL_TOK_GPT4_REGEX("\\p{N}{1,3}"), llama3, 256, true, "<|begin_of_text|>",
     "<|end_of_text|>", "<|finetune_right_pad_id|>"},
    {NULL, 200000, "<|header_start|>", CL_TOK_O200K_REGEX, llama4, 2048, true, "<|begin_of_text|>", "<|end_of_text|>",
     "<|finetune_right_pad|>"},
};

/* ranks: tokens that have one. */
static const family *find_family(const cl_tok_list *l, int ranks, const char *class)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const family *f = &families[i];
        if (f->class ? class && strcmp(class, f->class) == 0
                     : ranks == f->ranks || cl_tok_list_find(l, f->mark, strlen(f->mark)) >= ranks)
            return f;
    }
    return NULL;
}

/* Appends the name of special token k of the family, which has id `id`, with its zero byte. */
static cl_code add_name(const family *f, int k, int id, cl_buf *names, cl_err *err)
{
    const run *r = f->runs;
    while (r->name && k >= r->n) k -= r++->n;
    const char *number = r->name ? strstr(r->name, "%d") : NULL;
    if (!r->name) return cl_fail(err, CL_E_INPUT, "special token %d: has no name", id);
    cl_code c = number ? cl_buf_printf(names, err, "%.*s%d%s", (int)(number - r->name), r->name,
                                       r->first < 0 ? id : r->first + k, number + 2)
                       : cl_buf_str(names, r->name, err);
    return c == CL_OK ? cl_buf_add(names, "", 1, err) : c;
}

/* The ids behind the ranks that no list of added tokens has named. */
static cl_code add_reserved(cl_tok_list *l, const family *f, int ranks, cl_buf *names, cl_err *err)
{
    cl_code c = CL_OK;
    for (int k = 0; c == CL_OK && k < f->reserved; k++) c = add_name(f, k, ranks + k, names, err);
    const char *s = names->data;
    for (int k = 0; c == CL_OK && k < f->reserved; k++, s += strlen(s) + 1) {
        int id = ranks + k;
        if (id < l->n && l->v[id].type) continue;
        if (cl_tok_list_find(l, s, strlen(s)) >= ranks) continue; /* named elsewhere */
        cl_tok_entry e = {.s = s, .n = strlen(s), .type = CL_TOK_CONTROL};
        c = cl_tok_list_set(l, id, &e, err);
    }
    return c;
}

cl_code cl_tok_tiktoken_family(cl_tok_list *l, const char *class, cl_tokenizer_data *d, cl_buf *names, cl_err *err)
{
    int ranks = 0;
    while (ranks < l->n && l->v[ranks].type == CL_TOK_NORMAL) ranks++;
    const family *f = find_family(l, ranks, class);
    if (!f)
        return cl_fail(err, CL_E_INPUT,
                       "a tiktoken vocabulary that nothing says how to split text for (use a tokenizer.json)");
    cl_code c = add_reserved(l, f, ranks, names, err);
    if (c == CL_OK) c = cl_tok_add_split(d, f->regex, err);
    if (c != CL_OK) return c;
    d->ignore_merges = true;
    d->add_bos = f->add_bos;
    d->bos = cl_tok_list_find(l, f->bos, strlen(f->bos));
    d->eos = cl_tok_list_find(l, f->eos, strlen(f->eos));
    d->pad = cl_tok_list_find(l, f->pad, strlen(f->pad));
    return CL_OK;
}
