/* read.c: a model file, opened with suspicion: the spec says which tensors there must be, and each must be
 * there with exactly that shape before anything is used.*/
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "chipline/util.h"
#include "stored.h"

static cl_code read_root(cl_model_file *f, cl_err *err)
{
    int64_t version = 0;
    char source[CL_STORE_TEXT_MAX + 1];
    bool ours = false;
    cl_store_node root = cl_store_root(f->store);
    cl_code c = cl_store_has_attribute(root, "chipline_model", &ours, err);
    if (c == CL_OK && !ours)
        return cl_fail(err, CL_E_INPUT,
                       "not a model file: it has no attribute chipline_model (chipline convert makes one)");
    if (c == CL_OK) c = cl_store_get_ints(root, "chipline_model", &version, 0, err);
    if (c == CL_OK && version != 1)
        c = cl_fail(err, CL_E_INPUT, "has layout version %lld, this program reads version 1 (convert it again)",
                    (long long)version);
    if (c == CL_OK) c = cl_store_get_text(root, "source", source, sizeof source, err);
    if (c == CL_OK && !(f->source = cl_strdup(source, err))) c = CL_E_FIT;
    return c;
}

static cl_code read_spec(cl_model_file *f, uint64_t *hash, cl_err *err)
{
    cl_store_array a = {.type = CL_STORE_U8, .rank = 1};
    void *text = NULL;
    json_t *j = NULL;
    cl_code c = cl_store_get_array(cl_store_root(f->store), "spec", &a, &text, hash, err);
    if (c == CL_OK) c = cl_json_parse(text, a.dims[0], "spec", &j, err);
    if (c == CL_OK) c = cl_spec_from_json(j, &f->model.spec, err);
    json_decref(j);
    free(text);
    return c;
}

/* Whether the format is one that a tensor of this role can have. */
static cl_code check_format(const cl_tensor *t, cl_err *err)
{
    const char *name = cl_format_get(t->format)->name;
    if (cl_role_is_vector(t->role) && t->format != CL_F32) return cl_fail(err, CL_E_INPUT, "is %s, must be f32", name);
    if (!cl_role_is_matrix(t->role) && t->format > CL_BF16)
        return cl_fail(err, CL_E_INPUT, "is %s, must be f32, f16 or bf16", name);
    return CL_OK;
}

static bool same_shape(const cl_store_array *a, const cl_store_array *b)
{
    return a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims) == 0;
}

/* The attributes of t's array against what t must be; fills format and xxh3. */
static cl_code read_attributes(cl_store_node d, cl_tensor *t, cl_err *err)
{
    char text[64];
    int64_t layer = 0, shape[3] = {0}, want[3] = {t->experts, t->rows, t->cols};
    int skip = t->experts ? 0 : 1;
    cl_code c = cl_store_get_text(d, "format", text, sizeof text, err);
    if (c == CL_OK && (!cl_format_parse(text, &t->format) || !cl_format_native(t->format)))
        c = cl_fail(err, CL_E_INPUT, "format \"%s\" is not known", text);
    if (c == CL_OK) c = check_format(t, err);
    if (c == CL_OK) c = cl_store_get_text(d, "role", text, sizeof text, err);
    if (c == CL_OK && strcmp(text, cl_role_name(t->role)) != 0)
        c = cl_fail(err, CL_E_INPUT, "has the role \"%s\"", text);
    if (c == CL_OK) c = cl_store_get_ints(d, "layer", &layer, 0, err);
    if (c == CL_OK && layer != t->layer) c = cl_fail(err, CL_E_INPUT, "has layer %lld", (long long)layer);
    if (c == CL_OK) c = cl_store_get_ints(d, "shape", shape + skip, 3 - skip, err);
    if (c == CL_OK && memcmp(shape + skip, want + skip, (size_t)(3 - skip) * sizeof *shape) != 0)
        c = cl_fail(err, CL_E_INPUT, "has %lld x %lld numbers (x %lld experts), must have %lld x %lld (x %lld)",
                    (long long)shape[1], (long long)shape[2], (long long)shape[0], (long long)t->rows,
                    (long long)t->cols, (long long)t->experts);
    return c;
}

/* The array of t, opened and compared with what t must be; fills format, xxh3 and the place of its rows. */
static cl_code read_tensor(cl_store_node group, cl_tensor *t, cl_store_array *rows, cl_err *err)
{
    cl_store_node d;
    *rows = (cl_store_array){.type = CL_STORE_U8, .rank = t->experts ? 3 : 2};
    cl_code c = cl_store_open_array(group, t->name, rows, &d, err);
    if (c != CL_OK) return c;
    c = read_attributes(d, t, err);
    if (c == CL_OK) {
        cl_store_array want = stored_rows(t);
        if (!same_shape(rows, &want)) c = cl_fail(err, CL_E_INPUT, "its rows of bytes do not fit its shape and format");
    }
    if (c == CL_OK) c = cl_store_get_hash(d, "xxh3", &t->xxh3, err);
    cl_store_release(&d);
    if (c != CL_OK) cl_fail_prefix(err, "tensor %s", t->name);
    return c;
}

/* The scales of t, which has some: their shape, and the place of them. */
static cl_code read_scales(cl_store_node group, const cl_tensor *t, cl_store_array *scales, cl_err *err)
{
    cl_store_array want = stored_scales(t);
    *scales = (cl_store_array){.type = want.type, .rank = want.rank};
    cl_code c = cl_store_open_array(group, t->name, scales, NULL, err);
    if (c == CL_OK && !same_shape(scales, &want)) {
        const uint64_t *is = scales->dims + want.rank - 2, *must = want.dims + want.rank - 2;
        c = cl_fail(err, CL_E_INPUT, "there are %llu x %llu (x %llu experts), there must be %llu x %llu (x %llu)",
                    (unsigned long long)is[0], (unsigned long long)is[1],
                    (unsigned long long)(t->experts ? scales->dims[0] : 0), (unsigned long long)must[0],
                    (unsigned long long)must[1], (unsigned long long)t->experts);
    }
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "scales of tensor %s", t->name);
}

static cl_code read_all_scales(cl_model_file *f, cl_err *err)
{
    const cl_model *m = &f->model;
    int n = 0;
    for (int i = 0; i < m->n_tensors; i++) n += stored_has_scales(&m->tensors[i]);
    if (n == 0) return CL_OK;
    cl_store_node group;
    cl_code c = cl_store_open_group(cl_store_root(f->store), "scales", &group, err);
    for (int i = 0; c == CL_OK && i < m->n_tensors; i++)
        if (stored_has_scales(&m->tensors[i])) c = read_scales(group, &m->tensors[i], &f->places[i].scales, err);
    cl_store_release(&group);
    return c;
}

static cl_code read_tensors(cl_model_file *f, cl_err *err)
{
    cl_model *m = &f->model;
    cl_formats any = cl_formats_all(CL_F32); /* each tensor says its own */
    cl_code c = cl_spec_tensors(&m->spec, &any, &m->tensors, &m->n_tensors, err);
    if (c == CL_OK && !(f->places = cl_calloc((size_t)m->n_tensors, sizeof *f->places, "tensor list", err)))
        c = CL_E_FIT;
    cl_store_node group = {f->store, -1};
    uint64_t n = 0;
    if (c == CL_OK) c = cl_store_open_group(cl_store_root(f->store), "tensors", &group, err);
    for (int i = 0; c == CL_OK && i < m->n_tensors; i++)
        c = read_tensor(group, &m->tensors[i], &f->places[i].rows, err);
    if (c == CL_OK) c = cl_store_count(group, &n, err);
    if (c == CL_OK && n != (uint64_t)m->n_tensors)
        c = cl_fail(err, CL_E_INPUT, "has %llu tensors, its spec has %d", (unsigned long long)n, m->n_tensors);
    cl_store_release(&group);
    return c == CL_OK ? read_all_scales(f, err) : c;
}

static cl_code read_checksum(cl_model_file *f, uint64_t spec_hash, cl_err *err)
{
    cl_code c = cl_store_get_hash(cl_store_root(f->store), "checksum", &f->checksum, err);
    if (c == CL_OK && f->checksum != stored_checksum(spec_hash, f->model.tensors, f->model.n_tensors))
        c = cl_fail(err, CL_E_INPUT, "its checksum does not match (the file is damaged: copy it again)");
    return c;
}

cl_code cl_model_file_open(cl_model_file **out, const char *path, cl_err *err)
{
    *out = NULL;
    cl_model_file *f = cl_calloc(1, sizeof *f, "model file", err);
    if (!f) return CL_E_FIT;
    cl_code c = cl_store_open(&f->store, path, "a model file (chipline convert makes one)", err);
    if (c == CL_OK) {
        uint64_t spec_hash = 0;
        c = read_root(f, err);
        if (c == CL_OK) c = read_spec(f, &spec_hash, err);
        if (c == CL_OK) c = read_tensors(f, err);
        if (c == CL_OK) c = read_checksum(f, spec_hash, err);
        if (c != CL_OK) cl_fail_prefix(err, "%s", path);
    }
    if (c == CL_OK) *out = f;
    else cl_model_file_close(f);
    return c;
}

void cl_model_file_close(cl_model_file *f)
{
    if (!f) return;
    cl_store_close(f->store);
    cl_model_free(&f->model);
    free(f->places);
    free(f->source);
    free(f);
}

const cl_model *cl_model_file_model(const cl_model_file *f) { return &f->model; }
uint64_t cl_model_file_checksum(const cl_model_file *f) { return f->checksum; }
const char *cl_model_file_source(const cl_model_file *f) { return f->source; }
const char *cl_model_file_path(const cl_model_file *f) { return cl_store_path(f->store); }
cl_store *cl_model_file_store(const cl_model_file *f) { return f->store; }

/* n complete rows of a tensor with scales, all of one matrix, from row `first` of matrix `expert`. The codes are read
 * to the end of dst: from there each moves down to its place, which nothing that is still needed occupies. */
static cl_code read_tiled(const cl_model_file *f, int tensor, int64_t expert, int64_t first, int64_t n,
                          unsigned char *dst, cl_err *err)
{
    const cl_tensor *t = &f->model.tensors[tensor];
    const stored_place *p = &f->places[tensor];
    size_t width = stored_row_bytes(t), bytes = stored_scale_bytes(t), row_bytes = bytes + width;
    int64_t tile = cl_format_tile_rows(t->format), tile0 = expert * stored_tile_rows(t);
    unsigned char *from = dst + (size_t)n * bytes;
    cl_code c = cl_store_read_rows(f->store, &p->rows, (uint64_t)(expert * t->rows + first), (uint64_t)n, from, err);
    for (int64_t r = first; c == CL_OK && r < first + n; r++, dst += row_bytes, from += width) {
        memmove(dst + bytes, from, width);
        if (r == first || r % tile == 0)
            c = cl_store_read_rows(f->store, &p->scales, (uint64_t)(tile0 + r / tile), 1, dst, err);
        else memcpy(dst, dst - row_bytes, bytes);
    }
    return c;
}

cl_code cl_model_file_read(const cl_model_file *f, int tensor, int64_t expert, int64_t row0, int64_t n, void *dst,
                           cl_err *err)
{
    if (tensor < 0 || tensor >= f->model.n_tensors) CL_BUG("tensor %d of %d", tensor, f->model.n_tensors);
    const cl_tensor *t = &f->model.tensors[tensor];
    if (expert < 0 || expert >= (t->experts ? t->experts : 1) || row0 < 0 || n < 0 || row0 > t->rows - n)
        CL_BUG("rows %lld + %lld of expert %lld of tensor %d", (long long)row0, (long long)n, (long long)expert,
               tensor);
    cl_code c = stored_has_scales(t) ? read_tiled(f, tensor, expert, row0, n, dst, err)
                                     : cl_store_read_rows(f->store, &f->places[tensor].rows,
                                                          (uint64_t)(expert * t->rows + row0), (uint64_t)n, dst, err);
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s: tensor %s", cl_model_file_path(f), t->name);
}

static cl_code reader_rows(void *ctx, int tensor, int64_t expert, int64_t row0, int64_t n, void *dst, cl_err *err)
{
    return cl_model_file_read(ctx, tensor, expert, row0, n, dst, err);
}

cl_tensor_reader cl_model_file_reader(const cl_model_file *f)
{
    return (cl_tensor_reader){(void *)(uintptr_t)f, cl_model_file_path(f), reader_rows};
}

cl_code cl_model_file_source_config(const cl_model_file *f, char **out, cl_err *err)
{
    *out = NULL;
    bool there = false;
    cl_store_array a = {.type = CL_STORE_U8, .rank = 1};
    void *text = NULL;
    cl_store_node root = cl_store_root(f->store);
    cl_code c = cl_store_has(root, "source_config", &there, err);
    if (c == CL_OK && there) c = cl_store_get_array(root, "source_config", &a, &text, NULL, err);
    if (c != CL_OK) cl_fail_prefix(err, "%s", cl_model_file_path(f));
    *out = text;
    return c;
}

/* --- checking all of it --- */

typedef struct verifier {
    const cl_model_file *file;
    XXH3_state_t *hash;
    unsigned char *buf;
    size_t cap; /* at least one row of any tensor */
    cl_progress progress;
    uint64_t done;
} verifier;

/* Bytes of all rows, each complete. */
static uint64_t complete_bytes(const cl_tensor *t)
{
    return (uint64_t)cl_tensor_rows(t) * cl_row_bytes(t->format, t->cols);
}

static cl_code verify_tensor(verifier *v, int i, cl_err *err)
{
    const cl_tensor *t = &v->file->model.tensors[i];
    size_t row_bytes = cl_row_bytes(t->format, t->cols);
    int64_t step = (int64_t)(v->cap / row_bytes);
    cl_code c = CL_OK;
    XXH3_64bits_reset(v->hash);
    for (int64_t e = 0; c == CL_OK && e < (t->experts ? t->experts : 1); e++) {
        for (int64_t r = 0, n; c == CL_OK && r < t->rows; r += n) {
            n = step < t->rows - r ? step : t->rows - r;
            c = cl_model_file_read(v->file, i, e, r, n, v->buf, err);
            if (c == CL_OK) XXH3_64bits_update(v->hash, v->buf, (size_t)n * row_bytes);
            cl_progress_at(&v->progress, v->done += (uint64_t)n * row_bytes);
        }
    }
    if (c == CL_OK && XXH3_64bits_digest(v->hash) != t->xxh3)
        c = cl_fail(err, CL_E_INPUT, "%s: tensor %s: its checksum does not match (the file is damaged: copy it again)",
                    cl_model_file_path(v->file), t->name);
    return c;
}

static cl_code verify_tensors(const cl_model_file *f, bool progress, cl_err *err)
{
    verifier v = {.file = f, .cap = 4 << 20, .hash = XXH3_createState()};
    uint64_t total = 0;
    for (int i = 0; i < f->model.n_tensors; i++) {
        const cl_tensor *t = &f->model.tensors[i];
        total += complete_bytes(t);
        if (v.cap < cl_row_bytes(t->format, t->cols)) v.cap = cl_row_bytes(t->format, t->cols);
    }
    cl_code c = v.hash ? CL_OK : cl_fail(err, CL_E_FIT, "checksum: no memory");
    if (c == CL_OK && !(v.buf = cl_malloc(v.cap, 1, "checksum buffer", err))) c = CL_E_FIT;
    cl_progress_start(&v.progress, progress && c == CL_OK, "verify", total);
    for (int i = 0; c == CL_OK && i < f->model.n_tensors; i++) c = verify_tensor(&v, i, err);
    cl_progress_end(&v.progress, v.done);
    XXH3_freeState(v.hash);
    free(v.buf);
    return c;
}

/* Everything that is neither tensors nor their scales: the sections of other rooms. */
static cl_code verify_sections(const cl_model_file *f, cl_err *err)
{
    char name[256];
    uint64_t n = 0;
    cl_store_node root = cl_store_root(f->store);
    cl_code c = cl_store_count(root, &n, err);
    for (uint64_t i = 0; c == CL_OK && i < n; i++) {
        c = cl_store_name(root, i, name, sizeof name, err);
        if (c == CL_OK && strcmp(name, "tensors") != 0 && strcmp(name, "scales") != 0)
            c = cl_store_verify(root, name, err);
    }
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s", cl_model_file_path(f));
}

cl_code cl_model_file_verify(const cl_model_file *f, bool progress, cl_err *err)
{
    cl_code c = verify_sections(f, err);
    return c == CL_OK ? verify_tensors(f, progress, err) : c;
}
