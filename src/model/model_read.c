/* model_read.c: a model file, opened with suspicion: the spec says which tensors there must be, and each must be
 * there with exactly that shape before anything is used. Rows are then read by their place in the file, without HDF5
 * in between. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "chipline/model_file.h"
#include "chipline/util.h"
#include "model_h5.h"

/* Bytes from the file's start; scales is 0 where there are none. */
typedef struct place {
    uint64_t rows, scales;
} place;

struct cl_model_file {
    char *path, *source;
    hid_t file;
    int fd; /* HDF5's own, borrowed: the same file, whatever the path means by now */
    cl_model model;
    place *places; /* [n_tensors] */
    uint64_t checksum;
};

/* The messages that HDF5 could not give: no such file, a folder, another kind of file. */
static cl_code look(const char *path, cl_err *err)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[8];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cl_fail(err, CL_E_INPUT, "%s: %s", path, strerror(errno));
    bool folder = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    ssize_t n = folder ? 0 : read(fd, head, sizeof head);
    close(fd);
    if (!folder && n == (ssize_t)sizeof head && memcmp(head, signature, sizeof head) == 0) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: is %s, not a model file (chipline convert makes one)", path,
                   folder                                   ? "a folder"
                   : n == 0                                 ? "empty"
                   : n >= 4 && memcmp(head, "GGUF", 4) == 0 ? "a GGUF file"
                                                            : "no HDF5 file");
}

static cl_code open_file(cl_model_file *f, cl_err *err)
{
    hid_t access = h5_access(2048);
    void *handle = NULL;
    if (access >= 0) f->file = H5Fopen(f->path, H5F_ACC_RDONLY, access);
    cl_code c = f->file >= 0 ? CL_OK : h5_fail(err, CL_E_INPUT, "is damaged or incomplete, copy or convert it again");
    if (access >= 0) H5Pclose(access);
    if (c != CL_OK) return c;
    if (H5Fget_vfd_handle(f->file, H5P_DEFAULT, &handle) < 0 || !handle)
        return h5_fail(err, CL_E_INPUT, "cannot be read");
    f->fd = *(int *)handle;
    return CL_OK;
}

static cl_code read_root(cl_model_file *f, cl_err *err)
{
    int64_t version = 0;
    char source[H5_TEXT_MAX + 1];
    htri_t ours = H5Aexists(f->file, "chipline_model");
    if (ours == 0)
        return cl_fail(err, CL_E_INPUT,
                       "not a model file: it has no attribute chipline_model (chipline convert makes one)");
    cl_code c = h5_get_ints(f->file, "chipline_model", &version, 0, err);
    if (c == CL_OK && version != 1)
        c = cl_fail(err, CL_E_INPUT, "has layout version %lld, this program reads version 1 (convert it again)",
                    (long long)version);
    if (c == CL_OK) c = h5_get_text(f->file, "source", source, sizeof source, err);
    if (c == CL_OK && !(f->source = cl_strdup(source, err))) c = CL_E_FIT;
    return c;
}

static cl_code read_spec(cl_model_file *f, uint64_t *hash, cl_err *err)
{
    hsize_t n = 0;
    void *text = NULL;
    json_t *j = NULL;
    cl_code c = h5_get_array(f->file, "spec", H5_U8, 1, &n, &text, hash, err);
    if (c == CL_OK) c = cl_json_parse(text, n, "spec", &j, err);
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

/* The dataset of t, opened and compared with what t must be; fills format, xxh3 and the place of its rows. */
static cl_code read_tensor(hid_t group, cl_tensor *t, place *at, cl_err *err)
{
    char text[64];
    hsize_t dims[3] = {0};
    int64_t layer = 0, shape[3] = {0}, want[3] = {t->experts, t->rows, t->cols};
    int skip = t->experts ? 0 : 1, rank = 3 - skip;
    hid_t d = h5_open_array(group, t->name, H5_U8, rank, dims + skip, &at->rows, err);
    if (d < 0) return CL_E_INPUT;
    cl_code c = h5_get_text(d, "format", text, sizeof text, err);
    if (c == CL_OK && (!cl_format_parse(text, &t->format) || !cl_format_native(t->format)))
        c = cl_fail(err, CL_E_INPUT, "format \"%s\" is not known", text);
    if (c == CL_OK) c = check_format(t, err);
    if (c == CL_OK) c = h5_get_text(d, "role", text, sizeof text, err);
    if (c == CL_OK && strcmp(text, cl_role_name(t->role)) != 0)
        c = cl_fail(err, CL_E_INPUT, "has the role \"%s\"", text);
    if (c == CL_OK) c = h5_get_ints(d, "layer", &layer, 0, err);
    if (c == CL_OK && layer != t->layer) c = cl_fail(err, CL_E_INPUT, "has layer %lld", (long long)layer);
    if (c == CL_OK) c = h5_get_ints(d, "shape", shape + skip, rank, err);
    if (c == CL_OK && memcmp(shape + skip, want + skip, (size_t)rank * sizeof *shape) != 0)
        c = cl_fail(err, CL_E_INPUT, "has %lld x %lld numbers (x %lld experts), must have %lld x %lld (x %lld)",
                    (long long)shape[1], (long long)shape[2], (long long)shape[0], (long long)t->rows,
                    (long long)t->cols, (long long)t->experts);
    hsize_t held[3] = {(hsize_t)t->experts, (hsize_t)t->rows, c == CL_OK ? model_stored_bytes(t) : 0};
    if (c == CL_OK && memcmp(dims + skip, held + skip, (size_t)rank * sizeof *dims) != 0)
        c = cl_fail(err, CL_E_INPUT, "its rows of bytes do not fit its shape and format");
    if (c == CL_OK) c = h5_get_hash(d, "xxh3", &t->xxh3, err);
    H5Dclose(d);
    if (c != CL_OK) cl_fail_prefix(err, "tensor %s", t->name);
    return c;
}

/* The scales of t, which has some: their shape, and the place of them. */
static cl_code read_scales(hid_t group, const cl_tensor *t, place *at, cl_err *err)
{
    hsize_t dims[3] = {0},
            want[3] = {(hsize_t)t->experts, (hsize_t)model_tile_rows(t), model_scale_bytes(t) / sizeof(float)};
    int skip = t->experts ? 0 : 1, rank = 3 - skip;
    hid_t d = h5_open_array(group, t->name, H5_F32, rank, dims + skip, &at->scales, err);
    cl_code c = d < 0 ? CL_E_INPUT : CL_OK;
    if (c == CL_OK && memcmp(dims + skip, want + skip, (size_t)rank * sizeof *dims) != 0)
        c = cl_fail(err, CL_E_INPUT, "there are %llu x %llu (x %llu experts), there must be %llu x %llu (x %llu)",
                    (unsigned long long)dims[1], (unsigned long long)dims[2], (unsigned long long)dims[0],
                    (unsigned long long)want[1], (unsigned long long)want[2], (unsigned long long)want[0]);
    if (d >= 0) H5Dclose(d);
    if (c != CL_OK) cl_fail_prefix(err, "scales of tensor %s", t->name);
    return c;
}

static cl_code read_all_scales(cl_model_file *f, cl_err *err)
{
    const cl_model *m = &f->model;
    int n = 0;
    for (int i = 0; i < m->n_tensors; i++) n += model_has_scales(&m->tensors[i]);
    if (n == 0) return CL_OK;
    hid_t group = h5_get_group(f->file, "scales", err);
    cl_code c = group < 0 ? CL_E_INPUT : CL_OK;
    for (int i = 0; c == CL_OK && i < m->n_tensors; i++)
        if (model_has_scales(&m->tensors[i])) c = read_scales(group, &m->tensors[i], &f->places[i], err);
    if (group >= 0) H5Gclose(group);
    return c;
}

static cl_code read_tensors(cl_model_file *f, cl_err *err)
{
    cl_model *m = &f->model;
    cl_formats any = cl_formats_all(CL_F32); /* each tensor says its own */
    cl_code c = cl_spec_tensors(&m->spec, &any, &m->tensors, &m->n_tensors, err);
    if (c == CL_OK && !(f->places = cl_calloc((size_t)m->n_tensors, sizeof *f->places, "tensor list", err)))
        c = CL_E_FIT;
    hid_t group = c == CL_OK ? h5_get_group(f->file, "tensors", err) : -1;
    if (c == CL_OK && group < 0) c = CL_E_INPUT;
    for (int i = 0; c == CL_OK && i < m->n_tensors; i++) c = read_tensor(group, &m->tensors[i], &f->places[i], err);
    H5G_info_t info;
    if (c == CL_OK && H5Gget_info(group, &info) < 0) c = h5_fail(err, CL_E_INPUT, "group tensors: cannot be read");
    if (c == CL_OK && info.nlinks != (hsize_t)m->n_tensors)
        c = cl_fail(err, CL_E_INPUT, "has %llu tensors, its spec has %d", (unsigned long long)info.nlinks,
                    m->n_tensors);
    if (group >= 0) H5Gclose(group);
    return c == CL_OK ? read_all_scales(f, err) : c;
}

static cl_code read_checksum(cl_model_file *f, uint64_t spec_hash, cl_err *err)
{
    cl_code c = h5_get_hash(f->file, "checksum", &f->checksum, err);
    if (c == CL_OK && f->checksum != model_checksum(spec_hash, f->model.tensors, f->model.n_tensors))
        c = cl_fail(err, CL_E_INPUT, "its checksum does not match (the file is damaged: copy it again)");
    return c;
}

cl_code cl_model_file_open(cl_model_file **out, const char *path, cl_err *err)
{
    *out = NULL;
    cl_code c = look(path, err);
    if (c != CL_OK) return c;
    cl_model_file *f = cl_calloc(1, sizeof *f, "model file", err);
    if (!f) return CL_E_FIT;
    f->file = -1;
    if (!(f->path = cl_strdup(path, err))) c = CL_E_FIT;
    uint64_t spec_hash = 0;
    h5_scope s = h5_enter();
    if (c == CL_OK) c = open_file(f, err);
    if (c == CL_OK) c = read_root(f, err);
    if (c == CL_OK) c = read_spec(f, &spec_hash, err);
    if (c == CL_OK) c = read_tensors(f, err);
    if (c == CL_OK) c = read_checksum(f, spec_hash, err);
    h5_leave(s);
    if (c == CL_OK) {
        *out = f;
        return CL_OK;
    }
    cl_fail_prefix(err, "%s", path);
    cl_model_file_close(f);
    return c;
}

void cl_model_file_close(cl_model_file *f)
{
    if (!f) return;
    h5_scope s = h5_enter();
    if (f->file >= 0) H5Fclose(f->file);
    h5_leave(s);
    cl_model_free(&f->model);
    free(f->places);
    free(f->source);
    free(f->path);
    free(f);
}

const cl_model *cl_model_file_model(const cl_model_file *f) { return &f->model; }
uint64_t cl_model_file_checksum(const cl_model_file *f) { return f->checksum; }
const char *cl_model_file_source(const cl_model_file *f) { return f->source; }
const char *cl_model_file_path(const cl_model_file *f) { return f->path; }

static cl_code read_bytes(const cl_model_file *f, const cl_tensor *t, uint64_t at, void *dst, uint64_t n, cl_err *err)
{
    unsigned char *p = dst;
    while (n > 0) {
        ssize_t got = pread(f->fd, p, n < (1u << 30) ? n : 1u << 30, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return cl_fail(err, CL_E_RUN, "%s: tensor %s: cannot be read: %s", f->path, t->name,
                           got < 0 ? strerror(errno) : "the file has become shorter");
        p += got;
        at += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return CL_OK;
}

/* n complete rows from row `first` of one matrix, whose codes begin at `codes` and whose scales at `scales`. The
 * codes are read to the end of dst: from there each moves down to its place, which nothing that is still needed
 * occupies. */
static cl_code read_tiled(const cl_model_file *f, const cl_tensor *t, uint64_t codes, uint64_t scales, int64_t first,
                          int64_t n, unsigned char *dst, cl_err *err)
{
    size_t width = model_stored_bytes(t), bytes = model_scale_bytes(t), row_bytes = bytes + width;
    int64_t tile = cl_format_tile_rows(t->format);
    unsigned char *from = dst + (size_t)n * bytes;
    cl_code c = read_bytes(f, t, codes + (uint64_t)first * width, from, (uint64_t)n * width, err);
    for (int64_t r = first; c == CL_OK && r < first + n; r++, dst += row_bytes, from += width) {
        memmove(dst + bytes, from, width);
        if (r == first || r % tile == 0) c = read_bytes(f, t, scales + (uint64_t)(r / tile) * bytes, dst, bytes, err);
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
    uint64_t matrix = f->places[tensor].rows + (uint64_t)(expert * t->rows) * model_stored_bytes(t);
    if (model_has_scales(t))
        return read_tiled(f, t, matrix,
                          f->places[tensor].scales + (uint64_t)(expert * model_tile_rows(t)) * model_scale_bytes(t),
                          row0, n, dst, err);
    size_t row_bytes = cl_row_bytes(t->format, t->cols);
    return read_bytes(f, t, matrix + (uint64_t)row0 * row_bytes, dst, (uint64_t)n * row_bytes, err);
}

cl_code cl_model_file_source_config(const cl_model_file *f, char **out, cl_err *err)
{
    *out = NULL;
    bool there = false;
    hsize_t n = 0;
    void *text = NULL;
    h5_scope s = h5_enter();
    cl_code c = h5_exists(f->file, "source_config", &there, err);
    if (c == CL_OK && there) c = h5_get_array(f->file, "source_config", H5_U8, 1, &n, &text, NULL, err);
    h5_leave(s);
    if (c != CL_OK) cl_fail_prefix(err, "%s", f->path);
    *out = text;
    return c;
}

cl_code cl_model_file_tokenizer(const cl_model_file *f, cl_tokenizer_data **out, cl_err *err)
{
    h5_scope s = h5_enter();
    cl_code c = model_get_tokenizer(f->file, out, err);
    h5_leave(s);
    if (c != CL_OK) cl_fail_prefix(err, "%s", f->path);
    return c;
}

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
                    v->file->path, t->name);
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

cl_code cl_model_file_verify(const cl_model_file *f, bool progress, cl_err *err)
{
    char *config = NULL;
    cl_tokenizer_data *tok = NULL;
    cl_code c = cl_model_file_source_config(f, &config, err);
    if (c == CL_OK) c = cl_model_file_tokenizer(f, &tok, err);
    free(config);
    cl_tokenizer_data_free(tok);
    return c == CL_OK ? verify_tensors(f, progress, err) : c;
}

void cl_model_file_library(char *buf, size_t n)
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(buf, n, "%u.%u.%u", major, minor, release);
}
