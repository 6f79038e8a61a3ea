/* convert.c: a checkpoint to a model file (import.h): opens the source, settles what the tensors know better than the
 * configuration, then streams tensor after tensor. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "chipline/import.h"
#include "chipline/model_file.h"
#include "chipline/tokenizer.h"
#include "chipline/util.h"
#include "family.h"
#include "gguf.h"
#include "match.h"
#include "rows.h"
#include "safetensors.h"
#include "tok_import.h"

typedef struct conversion {
    const char *path;
    bool quiet;
    cl_gguf *gguf;    /* or NULL: a folder */
    cl_source folder; /* its weights */
    const cl_source *source;
    char *config_text; /* for the model file */
    json_t *config;    /* NULL for GGUF */
    const cl_family *family;
    cl_spec spec;
    const char *skip; /* a source tensor that is a copy of another one */
    int dropped;      /* tensors of other modalities */
    int extra;        /* tensors of layers past the last one */
    cl_model model;
    cl_origin *origins; /* [model.n_tensors] */
    cl_tokenizer_data *tokenizer;
} conversion;

static void conversion_free(conversion *v)
{
    cl_tokenizer_data_free(v->tokenizer);
    cl_origins_free(v->origins, v->model.n_tensors);
    cl_model_free(&v->model);
    cl_spec_free(&v->spec);
    json_decref(v->config);
    free(v->config_text);
    cl_source_free(&v->folder);
    cl_gguf_close(v->gguf);
}

/* --- opening --- */

static cl_code open_folder(conversion *v, cl_err *err)
{
    cl_code c = cl_config_load(v->path, &v->config_text, &v->config, &v->spec, &v->family, err);
    if (c == CL_OK) c = cl_safetensors_open(&v->folder, v->path, err);
    v->source = &v->folder;
    if (c == CL_OK && (c = cl_source_join(&v->folder, &v->dropped, err)) != CL_OK) cl_fail_prefix(err, "%s", v->path);
    return c;
}

static cl_code open_gguf(conversion *v, cl_err *err)
{
    json_t *all = NULL;
    cl_code c = cl_gguf_open(&v->gguf, v->path, err);
    if (c != CL_OK) return c;
    v->source = cl_gguf_source(v->gguf);
    c = cl_metadata_spec(v->gguf, &v->spec, &v->family, err);
    if (c == CL_OK) c = cl_gguf_metadata_json(v->gguf, &all, err);
    if (c == CL_OK && !(v->config_text = json_dumps(all, JSON_INDENT(1))))
        c = cl_fail(err, CL_E_FIT, "no memory for the metadata");
    json_decref(all);
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s", v->path);
}

static cl_code open_source(conversion *v, cl_err *err)
{
    struct stat st;
    if (stat(v->path, &st) != 0) return cl_fail(err, CL_E_INPUT, "%s: %s", v->path, strerror(errno));
    return S_ISDIR(st.st_mode) ? open_folder(v, err) : open_gguf(v, err);
}

/* --- what the tensors know better --- */

static const cl_src_tensor *tensor_of(const conversion *v, cl_role role)
{
    int i = cl_source_find(v->source, cl_family_name(v->family, v->gguf != NULL, role, 0));
    return i < 0 ? NULL : &v->source->tensors[i];
}

/* Vocabularies grow and are padded without the configuration being told: the table's rows count, within reason. */
static cl_code settle_vocab(conversion *v, cl_err *err)
{
    const cl_src_tensor *t = tensor_of(v, CL_T_EMBED);
    int64_t rows = t && t->n_dims == 2 ? t->dims[0] : 0, said = v->spec.vocab, reason = said / 4 + 1024;
    if (rows == said || rows == 0 || rows > INT32_MAX || (said && llabs(rows - said) > reason)) {
        if (said) return CL_OK; /* the shape check tells */
        return cl_fail(err, CL_E_INPUT, "no vocabulary: neither its size nor an embedding table are there");
    }
    if (said)
        cl_note(!v->quiet, "%s has %lld rows, the configuration says %lld: the rows count", t->name, (long long)rows,
                (long long)said);
    v->spec.vocab = (int)rows;
    return CL_OK;
}

static cl_code same_bytes(const conversion *v, const cl_src_tensor *a, const cl_src_tensor *b, bool *same, cl_err *err)
{
    enum { PART = 1 << 20 };
    *same = a->format == b->format && a->bytes == b->bytes && a->layout == CL_SRC_ROWS && b->layout == CL_SRC_ROWS;
    if (!*same) return CL_OK;
    unsigned char *x = cl_malloc(2, PART, "comparison", err);
    if (!x) return CL_E_FIT;
    cl_code c = CL_OK;
    for (uint64_t at = 0; at < a->bytes && c == CL_OK && *same; at += PART) {
        size_t n = a->bytes - at < PART ? (size_t)(a->bytes - at) : PART;
        c = cl_source_read(v->source, a->file, a->offset + at, n, x, err);
        if (c == CL_OK) c = cl_source_read(v->source, b->file, b->offset + at, n, x + PART, err);
        *same = c == CL_OK && memcmp(x, x + PART, n) == 0;
    }
    free(x);
    return c;
}

/* As transformers does: tied tensors that are both there and differ are not tied. And a configuration that says
 * nothing is tied when there is no head. (For GGUF the head's presence is all there is to know.) */
static cl_code settle_tied(conversion *v, cl_err *err)
{
    const cl_src_tensor *head = tensor_of(v, CL_T_HEAD), *embed = tensor_of(v, CL_T_EMBED);
    bool same = true;
    if (v->gguf) return CL_OK;
    if (!head && !json_is_boolean(json_object_get(cl_config_text(v->config), "tie_word_embeddings")))
        v->spec.tied = true;
    if (!v->spec.tied || !head || !embed) return CL_OK;
    cl_code c = same_bytes(v, head, embed, &same, err);
    if (same) v->skip = head->name;
    else
        cl_note(!v->quiet, "%s differs from %s although tie_word_embeddings is true: both are kept", head->name,
                embed->name);
    v->spec.tied = same;
    return c;
}

/* --- formats --- */

typedef struct tally {
    int n;
    char names[128]; /* of formats */
    bool seen[CL_FORMATS];
} tally;

static void count(tally *t, cl_format f)
{
    t->n++;
    if (!t->seen[f])
        snprintf(t->names + strlen(t->names), sizeof t->names - strlen(t->names), "%s%s", t->names[0] ? ", " : "",
                 cl_format_get(f)->name);
    t->seen[f] = true;
}

static const char *plural(int n) { return n == 1 ? "" : "s"; }

/* A matrix that is kept, in its own format where that can be. Blocks that are to be transposed become bf16: exact for
 * MXFP4, and finer than their own steps for the others. FP8 that is cut across its tiles becomes f32, the only format
 * that holds it exactly; released models have heads and experts of whole tiles. */
static cl_format keep_format(const conversion *v, int i, tally *recoded, tally *turned, tally *cut)
{
    const cl_src_tensor *src = &v->source->tensors[v->origins[i].parts[0]];
    cl_format from = (cl_format)src->format;
    if (!cl_format_native(from)) {
        count(recoded, from);
        return CL_Q8_0;
    }
    if (cl_origin_keeps(v->source, &v->model.tensors[i], &v->origins[i])) return from;
    count(from == CL_FP8 ? cut : turned, from);
    return from == CL_FP8 ? CL_F32 : CL_BF16;
}

/* Routers keep a float format, or take the one that is asked for; vectors are float32. */
static cl_format router_format(const conversion *v, int i, const cl_convert_options *opt, tally *routers)
{
    cl_format from = (cl_format)v->source->tensors[v->origins[i].parts[0]].format;
    if (!opt->keep && cl_format_get(opt->format)->block == 1) return opt->format;
    if (cl_format_get(from)->block == 1) return from;
    count(routers, from);
    return CL_F32;
}

/* Matrices keep their format or become opt->format; one line tells what could not keep its own. */
static void choose_formats(conversion *v, const cl_convert_options *opt)
{
    tally recoded = {0}, turned = {0}, cut = {0}, routers = {0};
    for (int i = 0; i < v->model.n_tensors; i++) {
        cl_tensor *t = &v->model.tensors[i];
        if (t->role == CL_T_ROUTER) t->format = router_format(v, i, opt, &routers);
        else if (cl_role_is_matrix(t->role))
            t->format = opt->keep ? keep_format(v, i, &recoded, &turned, &cut) : opt->format;
    }
    bool say = !v->quiet;
    if (recoded.n) cl_note(say, "%d tensor%s (%s) re-encoded to q8_0", recoded.n, plural(recoded.n), recoded.names);
    if (turned.n)
        cl_note(say, "%d tensor%s (%s) became bf16: the model needs them transposed, which their blocks do not allow",
                turned.n, plural(turned.n), turned.names);
    if (cut.n)
        cl_note(say, "%d tensor%s (%s) became f32: the model needs parts of them that are cut across tiles", cut.n,
                plural(cut.n), cut.names);
    if (routers.n)
        cl_note(say, "%d router%s (%s) became f32: routers have float formats", routers.n, plural(routers.n),
                routers.names);
}

/* --- all of it --- */

static cl_code prepare(conversion *v, const char *out_path, const cl_convert_options *opt, cl_err *err)
{
    cl_code c = open_source(v, err);
    if (c != CL_OK) return c;
    if (cl_source_has_file(v->source, out_path) || cl_source_path_has(v->path, out_path))
        return cl_fail(err, CL_E_INPUT, "%s: is a file of the source (give another name after -o)", out_path);
    c = settle_vocab(v, err);
    if (c == CL_OK) c = settle_tied(v, err);
    if (c == CL_OK) c = cl_spec_settle(&v->spec, err);
    cl_formats unknown = cl_formats_all(CL_F32);
    if (c == CL_OK) c = cl_model_from_spec(&v->spec, &unknown, &v->model, err);
    if (c == CL_OK)
        c = cl_match(v->source, v->family, v->gguf != NULL, &v->model, v->skip, &v->origins, &v->extra, err);
    if (c != CL_OK) return cl_fail_prefix(err, "%s", v->path);
    int dropped = v->dropped, extra = v->extra;
    if (dropped) cl_note(!v->quiet, "%d vision tensor%s skipped", dropped, plural(dropped));
    if (extra)
        cl_note(!v->quiet, "%d tensor%s of layers past the last one (multi-token prediction) skipped", extra,
                plural(extra));
    choose_formats(v, opt);
    c = v->gguf ? cl_tok_from_gguf(v->gguf, &v->tokenizer, err) : cl_tok_from_hf_folder(v->path, &v->tokenizer, err);
    if (c == CL_OK && !v->tokenizer)
        cl_note(!v->quiet, "%s has no tokenizer: prompts can only be given as ids (--tokens)", v->path);
    return c;
}

static cl_code write_tensors(conversion *v, cl_model_writer *w, const cl_convert_options *opt, cl_err *err)
{
    cl_progress progress;
    cl_stream st = {.source = v->source, .model = &v->model, .writer = w, .jobs = opt->jobs, .progress = &progress};
    uint64_t total = 0;
    for (int i = 0; i < v->model.n_tensors; i++) {
        const cl_tensor *t = &v->model.tensors[i];
        total += (uint64_t)cl_tensor_rows(t) * cl_row_bytes(t->format, t->cols);
    }
    cl_progress_start(&progress, opt->progress && !opt->quiet, "convert", total);
    cl_code c = CL_OK;
    for (int i = 0; i < v->model.n_tensors && c == CL_OK; i++) c = cl_stream_tensor(&st, i, &v->origins[i], err);
    if (c == CL_OK) cl_progress_end(&progress, st.done);
    else cl_fail_prefix(err, "%s", v->path);
    return c;
}

/* The last part of a path, for the model file's "source". */
static char *base_name(const char *path, cl_err *err)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t at = n;
    while (at > 0 && path[at - 1] != '/') at--;
    char *s = cl_strdup(path + at, err);
    if (s) s[n - at] = 0;
    return s;
}

cl_code cl_convert(const char *src, const char *out_path, const cl_convert_options *opt, cl_err *err)
{
    if (!opt->keep && !cl_format_native(opt->format))
        return cl_fail(err, CL_E_USAGE, "%s cannot be written", cl_format_get(opt->format)->name);
    conversion v = {.path = src, .quiet = opt->quiet};
    cl_model_writer *w = NULL;
    char *name = base_name(src, err);
    cl_code c = name ? prepare(&v, out_path, opt, err) : CL_E_FIT;
    if (c == CL_OK) c = cl_model_writer_create(&w, out_path, &v.model, name, v.config_text, err);
    if (c == CL_OK && v.tokenizer) c = cl_tokenizer_data_write(v.tokenizer, cl_model_writer_store(w), err);
    if (c == CL_OK && opt->creator) c = cl_model_writer_creator(w, opt->creator, err);
    if (c == CL_OK) c = write_tensors(&v, w, opt, err);
    if (c == CL_OK) c = cl_model_writer_commit(w, err);
    else cl_model_writer_drop(w);
    free(name);
    conversion_free(&v);
    return c;
}
