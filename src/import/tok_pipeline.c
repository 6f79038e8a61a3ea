/* tok_pipeline.c: the steps of a tokenizer.json, one function for each kind of step. */
#include "tok_pipeline.h"

#include "chipline/json.h"
#include "tok_build.h"

#define SPACE "\xe2\x96\x81" /* U+2581 */

typedef struct pipeline {
    cl_tokenizer_data *d;
    bool escapes;    /* a normaliser writes U+2581 for spaces */
    bool prepends;   /* a normaliser puts one in front */
    bool byte_level; /* the byte-level alphabet: nothing may follow it */
    bool metaspace;
} pipeline;

typedef cl_code step_fn(pipeline *p, const json_t *step, cl_err *err);

static cl_code not_understood(const char *what, const char *type, cl_err *err)
{
    return cl_fail(err, CL_E_INPUT, "%s: %s is not understood, and to leave it out would change the tokens", what,
                   type);
}

static bool is_text(const json_t *v, const char *s)
{
    return json_is_string(v) && strcmp(json_string_value(v), s) == 0;
}

/* "type" of a step. */
static cl_code type_of(const json_t *step, const char *what, const char **type, cl_err *err)
{
    cl_code c = cl_json_str(step, "type", true, type, err);
    return c == CL_OK ? c : cl_fail_prefix(err, "%s", what);
}

/* A Sequence: every step of the list under `key`. */
static cl_code each(pipeline *p, const json_t *step, const char *key, step_fn *fn, cl_err *err)
{
    const json_t *list;
    cl_code c = cl_json_array(step, key, true, &list, err);
    for (size_t i = 0; c == CL_OK && i < json_array_size(list); i++) c = fn(p, json_array_get(list, i), err);
    return c;
}

static cl_code normalizer(pipeline *p, const json_t *step, cl_err *err)
{
    const char *type;
    cl_code c = type_of(step, "normalizer", &type, err);
    if (c != CL_OK) return c;
    if (strcmp(type, "Sequence") == 0) return each(p, step, "normalizers", normalizer, err);
    if (strcmp(type, "NFC") == 0 && !p->escapes) {
        p->d->nfc = true;
        return CL_OK;
    }
    if (strcmp(type, "Prepend") == 0 && is_text(json_object_get(step, "prepend"), SPACE) && !p->prepends) {
        p->prepends = true;
        return CL_OK;
    }
    if (strcmp(type, "Replace") == 0 && is_text(json_object_get(json_object_get(step, "pattern"), "String"), " ") &&
        is_text(json_object_get(step, "content"), SPACE)) {
        p->escapes = true;
        return CL_OK;
    }
    return not_understood("normalizer", type, err);
}

static cl_code byte_level(pipeline *p, const json_t *step, cl_err *err)
{
    bool regex = true, prefix = false;
    cl_code c = cl_json_bool(step, "use_regex", false, &regex, err);
    if (c == CL_OK) c = cl_json_bool(step, "add_prefix_space", false, &prefix, err);
    if (c != CL_OK) return c;
    if (prefix && p->d->n_splits)
        return not_understood("pre_tokenizer", "ByteLevel with add_prefix_space behind another split", err);
    p->byte_level = true;
    p->d->add_prefix_space = prefix;
    p->d->prefix_unless_space = true;
    return regex ? cl_tok_add_split(p->d, CL_TOK_GPT2_REGEX, err) : CL_OK;
}

/* A literal pattern as a regex. */
static cl_code add_literal(pipeline *p, const char *text, cl_err *err)
{
    cl_buf b = {0};
    cl_code c = CL_OK;
    for (; c == CL_OK && *text; text++) {
        if (strchr("\\^$.[]|()?*+{}", *text)) c = cl_buf_str(&b, "\\", err);
        if (c == CL_OK) c = cl_buf_add(&b, text, 1, err);
    }
    if (c == CL_OK) c = cl_tok_add_split(p->d, b.data ? b.data : "", err);
    cl_buf_free(&b);
    return c;
}

/* Whether a regex of the usual kind has a match for whatever a text may hold, so that there are no gaps between
 * matches. */
static bool leaves_no_gaps(const char *regex)
{
    size_t n = strlen(regex);
    return n > 4 && strcmp(regex + n - 4, "|\\s+") == 0 && strstr(regex, "[^\\s\\p{L}\\p{N}]+") &&
           strstr(regex, "|\\p{N}");
}

/* Isolated keeps matches and gaps, so that `invert` changes nothing. Removed and inverted keeps the matches only. */
static cl_code split(pipeline *p, const json_t *step, cl_err *err)
{
    const char *behavior;
    const json_t *pattern = json_object_get(step, "pattern"), *regex = json_object_get(pattern, "Regex"),
                 *text = json_object_get(pattern, "String");
    cl_code c = cl_json_str(step, "behavior", true, &behavior, err);
    if (c != CL_OK) return c;
    bool matches = strcmp(behavior, "Removed") == 0 && json_is_true(json_object_get(step, "invert")) &&
                   json_is_string(regex) && leaves_no_gaps(json_string_value(regex));
    if (strcmp(behavior, "Isolated") != 0 && !matches) {
        char what[64];
        snprintf(what, sizeof what, "Split with behavior %.32s", behavior);
        return not_understood("pre_tokenizer", what, err);
    }
    if (json_is_string(regex)) return cl_tok_add_split(p->d, json_string_value(regex), err);
    if (json_is_string(text) && json_string_length(text)) return add_literal(p, json_string_value(text), err);
    return not_understood("pre_tokenizer", "Split without a pattern", err);
}

static cl_code metaspace(pipeline *p, const json_t *step, cl_err *err)
{
    const json_t *scheme = json_object_get(step, "prepend_scheme");
    bool prefix = true, cuts = true;
    if (p->d->n_splits || p->escapes || !is_text(json_object_get(step, "replacement"), SPACE))
        return not_understood("pre_tokenizer", "this Metaspace", err);
    cl_code c = cl_json_bool(step, "add_prefix_space", false, &prefix, err); /* files older than prepend_scheme */
    if (c == CL_OK) c = cl_json_bool(step, "split", false, &cuts, err);
    if (c != CL_OK) return c;
    if (scheme && !is_text(scheme, "always") && !is_text(scheme, "first") && !is_text(scheme, "never"))
        return not_understood("pre_tokenizer", "Metaspace with this prepend_scheme", err);
    p->metaspace = true;
    p->d->add_prefix_space = scheme ? !is_text(scheme, "never") : prefix;
    p->d->prefix_start_only = is_text(scheme, "first");
    p->d->prefix_unless_space = true;
    return cuts ? cl_tok_add_split(p->d, "\\x{2581}[^\\x{2581}]*", err) : CL_OK;
}

static cl_code pre_tokenizer(pipeline *p, const json_t *step, cl_err *err)
{
    const char *type;
    cl_code c = type_of(step, "pre_tokenizer", &type, err);
    if (c != CL_OK) return c;
    if (strcmp(type, "Sequence") == 0) return each(p, step, "pretokenizers", pre_tokenizer, err);
    if (p->byte_level || p->metaspace)
        return not_understood("pre_tokenizer", "a step behind ByteLevel or Metaspace", err);
    if (strcmp(type, "ByteLevel") == 0) return byte_level(p, step, err);
    if (strcmp(type, "Metaspace") == 0) return metaspace(p, step, err);
    if (strcmp(type, "Split") == 0) return split(p, step, err);
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        c = cl_json_bool(step, "individual_digits", false, &individual, err);
        return c == CL_OK ? cl_tok_add_split(p->d, individual ? "\\p{N}" : "\\p{N}+", err) : c;
    }
    return not_understood("pre_tokenizer", type, err);
}

/* Decoders say again what the other steps said; one that says something else must not be missed. */
static cl_code decoder(pipeline *p, const json_t *step, cl_err *err)
{
    const char *type;
    cl_code c = type_of(step, "decoder", &type, err);
    if (c != CL_OK) return c;
    if (strcmp(type, "Sequence") == 0) return each(p, step, "decoders", decoder, err);
    bool known = p->d->kind == CL_TOK_BPE_BYTES
                     ? strcmp(type, "ByteLevel") == 0
                     : strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0 ||
                           strcmp(type, "Metaspace") == 0 ||
                           (strcmp(type, "Strip") == 0 && is_text(json_object_get(step, "content"), " ")) ||
                           (strcmp(type, "Replace") == 0 &&
                            is_text(json_object_get(json_object_get(step, "pattern"), "String"), SPACE) &&
                            is_text(json_object_get(step, "content"), " "));
    return known ? CL_OK : not_understood("decoder", type, err);
}

/* The id of {"SpecialToken": {"id": NAME}}, or -1 for the text's own place. */
static cl_code template_item(const json_t *step, const json_t *item, int *id, cl_err *err)
{
    const char *name;
    const json_t *special = json_object_get(item, "SpecialToken"), *ids, *entry;
    int64_t v;
    *id = -1;
    if (!special)
        return is_text(json_object_get(json_object_get(item, "Sequence"), "id"), "A")
                   ? CL_OK
                   : not_understood("post_processor", "a template item", err);
    cl_code c = cl_json_str(special, "id", true, &name, err);
    if (c != CL_OK) return c;
    entry = json_object_get(json_object_get(step, "special_tokens"), name);
    ids = json_object_get(entry, "ids");
    if (json_array_size(ids) != 1 || !json_is_integer(json_array_get(ids, 0)) ||
        (v = json_integer_value(json_array_get(ids, 0))) < 0 || v > INT32_MAX)
        return cl_fail(err, CL_E_INPUT, "post_processor: special token %.60s has no single id", name);
    *id = (int)v;
    return CL_OK;
}

static cl_code post_processor(pipeline *p, const json_t *step, cl_err *err)
{
    const char *type;
    const json_t *list;
    cl_code c = type_of(step, "post_processor", &type, err);
    if (c != CL_OK) return c;
    if (strcmp(type, "Sequence") == 0) return each(p, step, "processors", post_processor, err);
    if (strcmp(type, "ByteLevel") == 0) return CL_OK; /* offsets only */
    if (strcmp(type, "TemplateProcessing") != 0) return not_understood("post_processor", type, err);
    c = cl_json_array(step, "single", true, &list, err);
    bool behind = false;
    for (size_t i = 0; c == CL_OK && i < json_array_size(list); i++) {
        int id;
        c = template_item(step, json_array_get(list, i), &id, err);
        if (c != CL_OK) break;
        bool *adds = behind ? &p->d->add_eos : &p->d->add_bos;
        if (id < 0 && !behind) behind = true;
        else if (id < 0 || *adds)
            return not_understood("post_processor", "a template of more than one token before and one behind the text",
                                  err);
        else {
            *adds = true;
            *(behind ? &p->d->eos : &p->d->bos) = id;
        }
    }
    return c == CL_OK && !behind ? not_understood("post_processor", "a template without the text", err) : c;
}

/* root[key] with fn, where it is there. */
static cl_code section(pipeline *p, const json_t *root, const char *key, step_fn *fn, cl_err *err)
{
    const json_t *step;
    cl_code c = cl_json_object(root, key, false, &step, err);
    return c == CL_OK && step ? fn(p, step, err) : c;
}

cl_code cl_tok_read_pipeline(const json_t *root, cl_tokenizer_data *d, cl_err *err)
{
    pipeline p = {.d = d};
    cl_code c = section(&p, root, "normalizer", normalizer, err);
    if (c == CL_OK) c = section(&p, root, "pre_tokenizer", pre_tokenizer, err);
    if (c != CL_OK) return c;
    if (p.byte_level && (p.escapes || p.prepends))
        return not_understood("normalizer", "U+2581 in front of ByteLevel", err);
    if (!p.byte_level && !p.metaspace && !p.escapes)
        return cl_fail(err, CL_E_INPUT, "pre_tokenizer: neither ByteLevel nor SentencePiece's spaces (U+2581)");
    d->kind = p.byte_level ? CL_TOK_BPE_BYTES : CL_TOK_SPM;
    if (p.prepends) d->add_prefix_space = true;
    c = section(&p, root, "decoder", decoder, err);
    return c == CL_OK ? section(&p, root, "post_processor", post_processor, err) : c;
}
