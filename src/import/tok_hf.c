/* tok_hf.c: the tokenizer of a Hugging Face folder: tokenizer.json, or tokenizer.model or tiktoken.model, with what
 * tokenizer_config.json adds. */
#include <stdlib.h>
#include <unistd.h>

#include "chipline/json.h"
#include "tok_build.h"
#include "tok_import.h"
#include "tok_pipeline.h"
#include "tok_spm.h"
#include "tok_tiktoken.h"

enum { MAX_FILE = 1 << 29, MAX_PATH = 4096 };

/* Everything that is read while a tokenizer is put together; texts in `list` are borrowed from here. */
typedef struct source {
    const char *dir;
    json_t *tokenizer, *config, *map; /* tokenizer.json, tokenizer_config.json, special_tokens_map.json, or NULL */
    const char *model_name;           /* tokenizer.model or tiktoken.model */
    cl_buf model, names;              /* its bytes; names that it does not hold */
    cl_tok_list list;
    cl_tokenizer_data *d;
} source;

/* dir/name in path; whether there is such a file. */
static bool find(const char *dir, const char *name, char path[MAX_PATH])
{
    int n = snprintf(path, MAX_PATH, "%s/%s", dir, name);
    return n > 0 && n < MAX_PATH && access(path, F_OK) == 0;
}

static cl_code load_json(const char *dir, const char *name, json_t **out, cl_err *err)
{
    char path[MAX_PATH];
    return find(dir, name, path) ? cl_json_load(path, out, err) : CL_OK;
}

/* The same, for files with integers beyond 64 bits (a model_max_length of 1e30 is common): all become fractions. */
static cl_code load_config(const char *dir, const char *name, json_t **out, cl_err *err)
{
    char path[MAX_PATH];
    cl_buf b = {0};
    if (!find(dir, name, path)) return CL_OK;
    cl_code c = cl_read_file(path, MAX_FILE, &b, err);
    if (c == CL_OK) c = cl_json_parse_reals(b.data, b.len, path, out, err);
    cl_buf_free(&b);
    return c;
}

static int flags_of(const json_t *token)
{
    return (json_is_true(json_object_get(token, "lstrip")) ? CL_TOK_LSTRIP : 0) |
           (json_is_true(json_object_get(token, "rstrip")) ? CL_TOK_RSTRIP : 0) |
           (json_is_true(json_object_get(token, "single_word")) ? CL_TOK_SINGLE_WORD : 0) |
           (json_is_true(json_object_get(token, "normalized")) ? CL_TOK_NORMALIZED : 0);
}

/* One added token, from tokenizer.json's list or tokenizer_config.json's added_tokens_decoder. */
static cl_code add_token(source *s, int64_t id, const json_t *token, cl_err *err)
{
    const char *content;
    bool special = false;
    cl_code c = cl_json_str(token, "content", true, &content, err);
    if (c == CL_OK) c = cl_json_bool(token, "special", false, &special, err);
    if (c != CL_OK) return cl_fail_prefix(err, "added token %lld", (long long)id);
    if (!*content) return CL_OK; /* never found */
    const cl_tok_entry *old = id >= 0 && id < s->list.n ? &s->list.v[id] : NULL;
    if (old && old->type && (old->n != strlen(content) || memcmp(old->s, content, old->n) != 0))
        return cl_fail(err, CL_E_INPUT, "added token %lld: is %.40s here and %.*s in the vocabulary", (long long)id,
                       content, (int)(old->n < 40 ? old->n : 40), old->s);
    cl_tok_entry e = {content, strlen(content), old ? old->score : 0, special ? CL_TOK_CONTROL : CL_TOK_USER,
                      (uint8_t)flags_of(token)};
    /* SentencePiece's spaces come from a normaliser that would change the token's text too: these are looked for
     * before it */
    if (s->d->kind == CL_TOK_SPM) e.flags &= ~CL_TOK_NORMALIZED;
    return cl_tok_list_set(&s->list, id, &e, err);
}

static cl_code add_tokens(source *s, cl_err *err)
{
    const json_t *list = NULL, *decoder = NULL;
    json_t *token;
    const char *key;
    char path[MAX_PATH];
    cl_code c = CL_OK;
    if (s->tokenizer) c = cl_json_array(s->tokenizer, "added_tokens", false, &list, err);
    for (size_t i = 0; c == CL_OK && i < json_array_size(list); i++) {
        int64_t id;
        token = json_array_get(list, i);
        c = cl_json_int(token, "id", true, 0, INT32_MAX, &id, err);
        if (c == CL_OK) c = add_token(s, id, token, err);
    }
    if (c == CL_OK && s->config) c = cl_json_object(s->config, "added_tokens_decoder", false, &decoder, err);
    json_object_foreach((json_t *)(uintptr_t)decoder, key, token)
    {
        int64_t id;
        if (c == CL_OK && !cl_parse_int(key, 0, INT32_MAX, &id))
            c = cl_fail(err, CL_E_INPUT, "added_tokens_decoder: %.40s is no token id", key);
        if (c == CL_OK) c = add_token(s, id, token, err);
    }
    if (c == CL_OK && !s->tokenizer && !decoder && find(s->dir, "added_tokens.json", path))
        c = cl_fail(
            err, CL_E_INPUT,
            "added_tokens.json without added_tokens_decoder in tokenizer_config.json is not read (save the tokenizer "
            "anew with transformers)");
    return c;
}

/* --- tokenizer.json --- */

static cl_code read_vocab(source *s, const json_t *vocab, const char *unk, cl_err *err)
{
    const char *key;
    json_t *id;
    cl_code c = CL_OK;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, id)
    {
        cl_tok_entry e = {.s = key, .n = strlen(key), .type = CL_TOK_NORMAL};
        unsigned char byte;
        if (!json_is_integer(id)) return cl_fail(err, CL_E_INPUT, "vocab: %.40s has no id", key);
        int64_t n = json_integer_value(id);
        if (n >= 0 && n < s->list.n && s->list.v[n].type)
            return cl_fail(err, CL_E_INPUT, "vocab: id %lld is used twice", (long long)n);
        if (s->d->kind == CL_TOK_SPM && unk && strcmp(key, unk) == 0) e.type = CL_TOK_UNKNOWN;
        else if (s->d->byte_fallback && cl_tok_byte_name(key, e.n, &byte)) e.type = CL_TOK_BYTE;
        c = cl_tok_list_set(&s->list, n, &e, err);
        if (c != CL_OK) return c;
    }
    return c;
}

static cl_code read_merges(source *s, const json_t *model, const json_t *vocab, cl_err *err)
{
    const json_t *list;
    cl_code c = cl_json_array(model, "merges", true, &list, err);
    if (c == CL_OK && json_array_size(list) == 0) return cl_fail(err, CL_E_INPUT, "merges: there is none");
    if (c == CL_OK) c = cl_tok_merges_start(s->d, json_array_size(list), err);
    for (size_t i = 0; c == CL_OK && i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i), *a = json_array_get(m, 0), *b = json_array_get(m, 1);
        const char *text = json_string_value(m), *space = text ? strchr(text, ' ') : NULL;
        if (space && !strchr(space + 1, ' ')) /* "a b" */
            c = cl_tok_merges_add(s->d, vocab, text, (size_t)(space - text), space + 1, strlen(space + 1), err);
        else if (json_array_size(m) == 2 && json_is_string(a) && json_is_string(b)) /* ["a", "b"] */
            c = cl_tok_merges_add(s->d, vocab, json_string_value(a), json_string_length(a), json_string_value(b),
                                  json_string_length(b), err);
        else c = cl_fail(err, CL_E_INPUT, "merges: entry %zu is no pair", i);
    }
    return c;
}

/* Settings of the model that would change tokens here. */
static cl_code check_model(const json_t *model, cl_err *err)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = "BPE", *affix;
    double dropout = 0;
    cl_code c = cl_json_str(model, "type", false, &type, err);
    if (c == CL_OK && strcmp(type, "BPE") != 0)
        return cl_fail(err, CL_E_INPUT, "type %.40s is not supported (BPE is)", type);
    for (int i = 0; c == CL_OK && i < 2; i++) {
        affix = "";
        c = cl_json_str(model, affixes[i], false, &affix, err);
        if (c == CL_OK && *affix) return cl_fail(err, CL_E_INPUT, "%s '%.40s' is not supported", affixes[i], affix);
    }
    if (c == CL_OK) c = cl_json_double(model, "dropout", false, 0, 1, &dropout, err);
    if (c == CL_OK && dropout > 0) return cl_fail(err, CL_E_INPUT, "dropout %g would make the tokens random", dropout);
    return c;
}

static cl_code read_model(source *s, cl_err *err)
{
    const json_t *model, *vocab;
    const char *unk = NULL;
    bool fuse = false;
    cl_tokenizer_data *d = s->d;
    cl_code c = cl_json_object(s->tokenizer, "model", true, &model, err);
    if (c == CL_OK) c = check_model(model, err);
    if (c == CL_OK) c = cl_json_object(model, "vocab", true, &vocab, err);
    if (c == CL_OK) c = cl_json_str(model, "unk_token", false, &unk, err);
    if (c == CL_OK) c = cl_json_bool(model, "ignore_merges", false, &d->ignore_merges, err);
    if (c == CL_OK) c = cl_json_bool(model, "byte_fallback", false, &d->byte_fallback, err);
    if (c == CL_OK) c = cl_json_bool(model, "fuse_unk", false, &fuse, err);
    if (c == CL_OK && d->kind == CL_TOK_BPE_BYTES && d->byte_fallback)
        c = cl_fail(err, CL_E_INPUT, "byte_fallback together with ByteLevel is not supported");
    if (c == CL_OK && d->kind == CL_TOK_SPM && !d->byte_fallback && !fuse)
        c = cl_fail(err, CL_E_INPUT, "unknown characters that are not fused are not supported");
    if (c == CL_OK) c = read_vocab(s, vocab, unk, err);
    if (c == CL_OK && unk) d->unk = cl_tok_list_find(&s->list, unk, strlen(unk));
    if (c == CL_OK) c = read_merges(s, model, vocab, err);
    return c == CL_OK ? c : cl_fail_prefix(err, "model");
}

static cl_code from_json(source *s, cl_err *err)
{
    cl_code c = cl_tok_read_pipeline(s->tokenizer, s->d, err);
    if (c == CL_OK) c = read_model(s, err);
    if (c == CL_OK) c = add_tokens(s, err);
    if (c == CL_OK) c = cl_tok_list_store(&s->list, false, s->d, err);
    return c == CL_OK ? c : cl_fail_prefix(err, "%s/tokenizer.json", s->dir);
}

/* --- tokenizer.model --- */

static cl_code from_spm(source *s, cl_err *err)
{
    bool legacy = true;
    cl_tokenizer_data *d = s->d;
    cl_code c = cl_tok_read_spm(&s->model, &s->list, d, err);
    if (c == CL_OK) c = add_tokens(s, err);
    if (c == CL_OK) c = cl_tok_list_store(&s->list, true, d, err);
    if (c == CL_OK && s->config) c = cl_json_bool(s->config, "legacy", false, &legacy, err);
    d->prefix_start_only = !legacy; /* as transformers' LlamaTokenizer does; it adds a BOS unless it is told not to */
    d->add_bos = true;
    return c == CL_OK ? c : cl_fail_prefix(err, "%s/tokenizer.model", s->dir);
}

static cl_code from_tiktoken(source *s, cl_err *err)
{
    s->d->kind = CL_TOK_BPE_BYTES;
    cl_code c = cl_tok_read_tiktoken(&s->model, &s->list, err);
    if (c == CL_OK) c = add_tokens(s, err);
    if (c == CL_OK)
        c = cl_tok_tiktoken_family(&s->list, json_string_value(json_object_get(s->config, "tokenizer_class")), s->d,
                                   &s->names, err);
    if (c == CL_OK) c = cl_tok_list_store(&s->list, false, s->d, err);
    return c == CL_OK ? c : cl_fail_prefix(err, "%s/%s", s->dir, s->model_name);
}

/* --- what tokenizer_config.json says --- */

/* "bos_token": "<s>" or {"content": "<s>", ...} -> *id, untouched where nothing is said or no token is meant. */
static void read_id(const source *s, const char *key, int *id)
{
    const json_t *const places[] = {s->config, s->map};
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(places[i], key);
        if (json_is_object(v)) v = json_object_get(v, "content");
        if (!json_is_string(v)) continue;
        int found = cl_tok_list_find(&s->list, json_string_value(v), json_string_length(v));
        if (found >= 0) *id = found;
        return;
    }
}

/* The member chat_template: one text, or a list of named ones. */
static cl_code take_template(source *s, const json_t *object, cl_err *err)
{
    const json_t *v = json_object_get(object, "chat_template"), *e;
    size_t i;
    if (json_is_array(v)) {
        const json_t *list = v;
        v = NULL;
        json_array_foreach(list, i, e) if (json_is_string(json_object_get(e, "name")) &&
                                           strcmp(json_string_value(json_object_get(e, "name")), "default") == 0)
            v = json_object_get(e, "template");
    }
    if (!json_is_string(v)) return CL_OK;
    s->d->chat_template = cl_strdup(json_string_value(v), err);
    return s->d->chat_template ? CL_OK : CL_E_FIT;
}

/* The template: chat_template.jinja, or chat_template.json's, or tokenizer_config.json's. */
static cl_code read_template(source *s, cl_err *err)
{
    char path[MAX_PATH];
    cl_buf b = {0};
    json_t *own = NULL;
    cl_code c = CL_OK;
    if (find(s->dir, "chat_template.jinja", path)) {
        c = cl_read_file(path, MAX_FILE, &b, err);
        if (c == CL_OK && strlen(b.data) != b.len) c = cl_fail(err, CL_E_INPUT, "%s: contains a NUL byte", path);
        if (c == CL_OK) s->d->chat_template = b.data;
        else cl_buf_free(&b);
        return c;
    }
    c = load_json(s->dir, "chat_template.json", &own, err);
    if (c == CL_OK && own) c = take_template(s, own, err);
    json_decref(own);
    return c == CL_OK && !s->d->chat_template ? take_template(s, s->config, err) : c;
}

static cl_code read_config(source *s, cl_err *err)
{
    cl_tokenizer_data *d = s->d;
    int bos = d->bos, eos = d->eos; /* what the post-processor adds counts more than what the config calls them */
    cl_code c = CL_OK;
    read_id(s, "bos_token", &d->bos);
    read_id(s, "eos_token", &d->eos);
    read_id(s, "unk_token", &d->unk);
    read_id(s, "pad_token", &d->pad);
    if (s->tokenizer && d->add_bos) d->bos = bos;
    if (s->tokenizer && d->add_eos) d->eos = eos;
    if (s->config) {
        c = cl_json_bool(s->config, "add_bos_token", false, &d->add_bos, err);
        if (c == CL_OK) c = cl_json_bool(s->config, "add_eos_token", false, &d->add_eos, err);
        if (c != CL_OK) return cl_fail_prefix(err, "%s/tokenizer_config.json", s->dir);
    }
    return read_template(s, err);
}

static cl_code load(source *s, bool *none, cl_err *err)
{
    char path[MAX_PATH];
    cl_code c = load_json(s->dir, "tokenizer.json", &s->tokenizer, err);
    s->model_name = find(s->dir, "tokenizer.model", path) ? "tokenizer.model" : "tiktoken.model";
    if (c == CL_OK && !s->tokenizer) {
        *none = !find(s->dir, s->model_name, path);
        if (*none) return CL_OK;
        c = cl_read_file(path, MAX_FILE, &s->model, err);
    }
    if (c == CL_OK) c = load_config(s->dir, "tokenizer_config.json", &s->config, err);
    if (c == CL_OK) c = load_config(s->dir, "special_tokens_map.json", &s->map, err);
    if (c != CL_OK) return c;
    s->d = cl_tok_data_new(CL_TOK_SPM, s->tokenizer ? "tokenizer.json" : s->model_name, err);
    if (!s->d) return CL_E_FIT;
    c = s->tokenizer ? from_json(s, err) : cl_tok_is_tiktoken(&s->model) ? from_tiktoken(s, err) : from_spm(s, err);
    if (c == CL_OK) c = read_config(s, err);
    if (c != CL_OK) return c;
    c = cl_tokenizer_data_check(s->d, err);
    return c == CL_OK ? c : cl_fail_prefix(err, "%s/%s", s->dir, s->d->source);
}

cl_code cl_tok_from_hf_folder(const char *dir, cl_tokenizer_data **out, cl_err *err)
{
    source s = {.dir = dir};
    bool none = false;
    *out = NULL;
    cl_code c = load(&s, &none, err);
    cl_tok_list_free(&s.list);
    cl_buf_free(&s.model);
    cl_buf_free(&s.names);
    json_decref(s.tokenizer);
    json_decref(s.config);
    json_decref(s.map);
    if (c == CL_OK && !none) *out = s.d;
    else cl_tokenizer_data_free(s.d);
    return c;
}
