/* join.c: quantised checkpoints keep a matrix in several tensors, multimodal ones keep other modalities beside the
 * text; what the importers see afterwards is one tensor per matrix under its plain name (source.h). Formats: gpt-oss's
 * blocks and scales (MXFP4), DeepSeek's FP8 tiles of 128 x 128, compressed-tensors' packed int4. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"
#include "source.h"

enum { GROUP = CL_SRC_GROUP, TILE = CL_SRC_TILE, WORD = 8 /* int4 codes per int32 */ };
static const int64_t max_dim = (int64_t)1 << 40; /* so that products of a few stay numbers */

static bool starts(const char *s, const char *head) { return strncmp(s, head, strlen(head)) == 0; }

/* The length of s without `tail`, or 0 if it has another end. */
static size_t stem(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && strcmp(s + n - m, tail) == 0 ? n - m : 0;
}

static bool is_type(const cl_src_tensor *t, const char *a, const char *b)
{
    return strcmp(t->type, a) == 0 || strcmp(t->type, b) == 0;
}

typedef struct joiner {
    cl_source *s;
    bool *gone; /* per tensor: part of another one */
    cl_err *err;
} joiner;

static cl_code bad_shape(const joiner *j, const cl_src_tensor *t, const cl_src_tensor *beside, const char *must)
{
    char a[CL_SHAPE_TEXT], b[CL_SHAPE_TEXT];
    return cl_fail(j->err, CL_E_INPUT, "tensor %s has the shape %s, which does not fit %s, %s (%s)", t->name,
                   cl_shape_text(t->dims, t->n_dims, a), beside->name, cl_shape_text(beside->dims, beside->n_dims, b),
                   must);
}

static cl_code sane_dims(const joiner *j, const cl_src_tensor *t)
{
    for (int i = 0; i < t->n_dims; i++)
        if (t->dims[i] < 1 || t->dims[i] > max_dim)
            return cl_fail(j->err, CL_E_INPUT, "tensor %s has an impossible shape", t->name);
    return CL_OK;
}

/* The tensor name[0..n) + tail, which `of` needs. */
static cl_code companion(const joiner *j, const cl_src_tensor *of, size_t n, const char *tail, int *out)
{
    char name[CL_SRC_NAME + 32];
    snprintf(name, sizeof name, "%.*s%s", (int)n, of->name, tail);
    *out = cl_source_find(j->s, name);
    if (*out < 0) return cl_fail(j->err, CL_E_INPUT, "tensor %s: %s is missing beside it", of->name, name);
    return sane_dims(j, &j->s->tensors[*out]);
}

static cl_code wrong_type(const joiner *j, const cl_src_tensor *t, const char *must)
{
    return cl_fail(j->err, CL_E_INPUT, "tensor %s is %s, must be %s", t->name, t->type, must);
}

/* t is one tensor of this format now, with the scales of tensor `scale`, which is no tensor of its own any more. Its
 * name ends after n bytes. */
static void become(joiner *j, cl_src_tensor *t, cl_format f, cl_src_layout layout, const char *type, int scale,
                   size_t n)
{
    t->format = (int)f;
    t->layout = layout;
    snprintf(t->type, sizeof t->type, "%s", type);
    t->name[n] = 0;
    const cl_src_tensor *from = &j->s->tensors[scale];
    t->scale_file = from->file;
    t->scale_offset = from->offset;
    t->scale_bytes = from->bytes;
    t->scale_format = from->format;
    j->gone[scale] = true;
}

/* X_blocks [.., rows, cols / 32, 16] and X_scales [.., rows, cols / 32]. */
static cl_code join_blocks(joiner *j, cl_src_tensor *t, size_t n)
{
    int scale;
    cl_code c = sane_dims(j, t);
    if (c == CL_OK) c = companion(j, t, n, "_scales", &scale);
    if (c != CL_OK) return c;
    const cl_src_tensor *e = &j->s->tensors[scale];
    if (!is_type(t, "U8", "U8")) return wrong_type(j, t, "U8 (pairs of 4-bit codes)");
    if (!is_type(e, "U8", "F8_E8M0")) return wrong_type(j, e, "U8 (exponents)");
    if (t->n_dims < 3 || t->dims[t->n_dims - 1] != GROUP / 2 || e->n_dims != t->n_dims - 1 ||
        memcmp(t->dims, e->dims, (size_t)e->n_dims * sizeof *t->dims) != 0)
        return bad_shape(j, t, e, "16 bytes per scale");
    t->n_dims--;
    t->dims[t->n_dims - 1] *= GROUP;
    become(j, t, CL_MXFP4, CL_SRC_MXFP4_PAIRS, "MXFP4", scale, n);
    return CL_OK;
}

/* X [.., rows, cols] and X_scale_inv [.., ceil(rows / 128), ceil(cols / 128)]; the scales multiply despite their
 * name. */
static cl_code join_tiles(joiner *j, cl_src_tensor *t)
{
    int scale;
    cl_code c = sane_dims(j, t);
    if (c == CL_OK) c = companion(j, t, strlen(t->name), "_scale_inv", &scale);
    if (c != CL_OK) return cl_fail_prefix(j->err, "FP8 is read with a scale per tile of 128 x 128");
    const cl_src_tensor *e = &j->s->tensors[scale];
    if (!is_type(e, "F32", "BF16")) return wrong_type(j, e, "F32 or BF16");
    bool fits = t->n_dims >= 2 && t->n_dims <= 3 && e->n_dims == t->n_dims;
    for (int i = 0; fits && i < t->n_dims; i++) {
        bool tiled = i >= t->n_dims - 2;
        fits = e->dims[i] == (tiled ? (t->dims[i] + TILE - 1) / TILE : t->dims[i]);
    }
    if (!fits) return bad_shape(j, e, t, "one scale per tile of 128 x 128");
    become(j, t, CL_FP8, CL_SRC_FP8_TILES, "FP8", scale, strlen(t->name));
    return CL_OK;
}

/* X.weight_shape says what X.weight_packed [out, in / 8] holds. */
static cl_code check_packed_shape(const joiner *j, const cl_src_tensor *t, const cl_src_tensor *shape)
{
    int32_t narrow[2];
    int64_t wide[2];
    bool is64 = strcmp(shape->type, "I64") == 0;
    if (!is_type(shape, "I32", "I64")) return wrong_type(j, shape, "I32 or I64");
    if (shape->n_dims != 1 || shape->dims[0] != 2) return bad_shape(j, shape, t, "two numbers");
    cl_code c = cl_source_read(j->s, shape->file, shape->offset, is64 ? sizeof wide : sizeof narrow,
                               is64 ? (void *)wide : narrow, j->err);
    if (c != CL_OK) return c;
    for (int i = 0; !is64 && i < 2; i++) wide[i] = narrow[i];
    if (wide[0] != t->dims[0] || wide[1] != t->dims[1] * WORD)
        return cl_fail(j->err, CL_E_INPUT, "tensor %s says [%lld, %lld], %s holds [%lld, %lld]", shape->name,
                       (long long)wide[0], (long long)wide[1], t->name, (long long)t->dims[0],
                       (long long)t->dims[1] * WORD);
    return CL_OK;
}

/* X.weight_packed, X.weight_scale [out, in / 32] and X.weight_shape. */
static cl_code join_words(joiner *j, cl_src_tensor *t, size_t n)
{
    int scale, shape;
    cl_code c = sane_dims(j, t);
    if (c == CL_OK) c = companion(j, t, n, "_scale", &scale);
    if (c == CL_OK) c = companion(j, t, n, "_shape", &shape);
    if (c != CL_OK) return c;
    const cl_src_tensor *e = &j->s->tensors[scale];
    if (!is_type(t, "I32", "I32")) return wrong_type(j, t, "I32 (words of eight 4-bit codes)");
    if (e->format < 0) return wrong_type(j, e, "BF16, F16 or F32");
    if (t->n_dims != 2 || e->n_dims != 2 || e->dims[0] != t->dims[0] || t->dims[1] % (GROUP / WORD) != 0 ||
        e->dims[1] != t->dims[1] / (GROUP / WORD))
        return bad_shape(j, e, t, "one scale per 32 columns, 8 columns per word");
    if ((c = check_packed_shape(j, t, &j->s->tensors[shape])) != CL_OK) return c;
    j->gone[shape] = true;
    t->dims[1] *= WORD;
    become(j, t, CL_INT4, CL_SRC_INT4_WORDS, "INT4", scale, n);
    return CL_OK;
}

static cl_code join_one(joiner *j, cl_src_tensor *t)
{
    size_t n;
    if ((n = stem(t->name, "_blocks"))) return join_blocks(j, t, n);
    if (stem(t->name, ".weight_packed")) return join_words(j, t, stem(t->name, "_packed"));
    if (strcmp(t->type, "F8_E4M3") == 0) return join_tiles(j, t);
    return CL_OK;
}

/* Names that joining changes would break the lookup of others: tensors get them, marked ones vanish, all at the end. */
static cl_code join_all(joiner *j)
{
    cl_source *s = j->s;
    char **names = cl_calloc((size_t)s->n_tensors, sizeof *names, "tensor names", j->err);
    cl_code c = names ? CL_OK : CL_E_FIT;
    for (int i = 0; i < s->n_tensors && c == CL_OK; i++) {
        cl_src_tensor t = s->tensors[i];
        if (!(t.name = cl_strdup(t.name, j->err))) c = CL_E_FIT;
        if (c == CL_OK) c = join_one(j, &t);
        names[i] = t.name;
        t.name = s->tensors[i].name;
        s->tensors[i] = t;
    }
    for (int i = 0; names && i < s->n_tensors; i++) {
        if (c != CL_OK) {
            free(names[i]);
            continue;
        }
        free(s->tensors[i].name);
        s->tensors[i].name = names[i];
    }
    free(names);
    return c;
}

static void sweep(cl_source *s, const bool *gone)
{
    int n = 0;
    for (int i = 0; i < s->n_tensors; i++) {
        if (gone[i]) free(s->tensors[i].name);
        else s->tensors[n++] = s->tensors[i];
    }
    s->n_tensors = n;
}

/* Drops other modalities and the prefix of the language model. */
static int keep_text(cl_source *s, bool *gone)
{
    static const char *const others[] = {"vision_model.",          "vision_tower.", "visual.",
                                         "multi_modal_projector.", "mm_projector.", "audio_tower."};
    static const char prefix[] = "language_model.";
    int dropped = 0;
    for (int i = 0; i < s->n_tensors; i++) {
        char *name = s->tensors[i].name;
        for (size_t k = 0; k < sizeof others / sizeof *others; k++) gone[i] = gone[i] || starts(name, others[k]);
        dropped += gone[i];
        size_t n = strlen(prefix);
        if (starts(name, prefix) && name[n]) memmove(name, name + n, strlen(name + n) + 1);
    }
    return dropped;
}

cl_code cl_source_join(cl_source *s, int *dropped, cl_err *err)
{
    *dropped = 0;
    if (s->n_tensors == 0) return CL_OK;
    joiner j = {.s = s, .err = err};
    j.gone = cl_calloc((size_t)s->n_tensors, sizeof *j.gone, "tensor marks", err);
    if (!j.gone) return CL_E_FIT;
    *dropped = keep_text(s, j.gone);
    sweep(s, j.gone);
    cl_code c = cl_source_finish(s, err);
    memset(j.gone, 0, (size_t)s->n_tensors * sizeof *j.gone);
    if (c == CL_OK) c = join_all(&j);
    if (c == CL_OK) {
        sweep(s, j.gone);
        c = cl_source_finish(s, err);
    }
    free(j.gone);
    return c;
}
