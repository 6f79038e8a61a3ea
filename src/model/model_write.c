/* model_write.c: a model file, written as a stream: all datasets are laid out first, rows are put into place as they
 * come, the checksums follow at the end and the name last. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "chipline/model_file.h"
#include "chipline/util.h"
#include "model_h5.h"

static const char zero_hash[] = "0000000000000000";

struct cl_model_writer {
    char *path, *tmp;
    hid_t file, group, scale_group; /* /tensors; /scales, < 0 if no tensor has any */
    int n;
    cl_tensor *tensors;     /* [n], own copy */
    int64_t *rows;          /* [n], rows written so far */
    XXH3_state_t **hash;    /* [n], NULL until the first row and after the last */
    unsigned char **scales; /* [n], of the tile that is being written; NULL as hash, and where there are none */
    unsigned char *codes;   /* a tile's rows without their scales, grown as needed */
    size_t codes_bytes;
    uint64_t spec_xxh3;
};

static const char *describe(cl_role r)
{
    static const char *const texts[CL_ROLES] = {
        [CL_T_EMBED] = "embedding table: row i is token i",
        [CL_T_ATTN_NORM] = "RMSNorm before attention",
        [CL_T_Q_A] = "queries' first half: down to their latent",
        [CL_T_Q_A_NORM] = "RMSNorm of the queries' latent",
        [CL_T_Q] = "queries; rows are head-major, a head's rotated part last if it has two",
        [CL_T_K] = "keys; rows are head-major",
        [CL_T_V] = "values; rows are head-major",
        [CL_T_O] = "attention's output",
        [CL_T_KV_A] = "the latent of keys and values, then the rotated part that all heads' keys share",
        [CL_T_KV_A_NORM] = "RMSNorm of the latent of keys and values",
        [CL_T_K_B] = "per head: the plain part of its query to the latent of keys and values",
        [CL_T_V_B] = "per head: the latent to its value",
        [CL_T_Q_BIAS] = "bias of the queries",
        [CL_T_K_BIAS] = "bias of the keys",
        [CL_T_V_BIAS] = "bias of the values",
        [CL_T_O_BIAS] = "bias of attention's output",
        [CL_T_Q_NORM] = "RMSNorm of the queries",
        [CL_T_K_NORM] = "RMSNorm of the keys",
        [CL_T_SINKS] = "per query head: the logit of a key without a value",
        [CL_T_FFN_NORM] = "RMSNorm before the feed-forward part",
        [CL_T_GATE] = "gate: goes through the activation",
        [CL_T_UP] = "up: multiplied by the gate",
        [CL_T_DOWN] = "down: back to the hidden width",
        [CL_T_GATE_BIAS] = "bias of gate",
        [CL_T_UP_BIAS] = "bias of up",
        [CL_T_DOWN_BIAS] = "bias of down",
        [CL_T_ROUTER] = "router: one row per expert",
        [CL_T_ROUTER_BIAS] = "bias of the router's outputs",
        [CL_T_SELECT_BIAS] = "per expert: added to its score for the choice, not for its weight",
        [CL_T_EXPERT_GATE] = "gate of every expert",
        [CL_T_EXPERT_UP] = "up of every expert",
        [CL_T_EXPERT_DOWN] = "down of every expert",
        [CL_T_EXPERT_GATE_BIAS] = "bias of every expert's gate",
        [CL_T_EXPERT_UP_BIAS] = "bias of every expert's up",
        [CL_T_EXPERT_DOWN_BIAS] = "bias of every expert's down",
        [CL_T_SHARED_GATE] = "gate of the expert that all tokens share",
        [CL_T_SHARED_UP] = "up of the shared expert",
        [CL_T_SHARED_DOWN] = "down of the shared expert",
        [CL_T_FINAL_NORM] = "RMSNorm before the head",
        [CL_T_HEAD] = "output head: row i gives the logit of token i",
    };
    return texts[r];
}

/* One tensor's dataset with its attributes, room allocated. */
static cl_code declare(cl_model_writer *w, const cl_tensor *t, hid_t props, cl_err *err)
{
    hsize_t dims[3] = {(hsize_t)t->experts, (hsize_t)t->rows, model_stored_bytes(t)};
    int skip = t->experts ? 0 : 1, rank = 3 - skip;
    int64_t shape[3] = {t->experts, t->rows, t->cols};
    hid_t space = H5Screate_simple(rank, dims + skip, NULL), d = -1;
    if (space >= 0) d = H5Dcreate2(w->group, t->name, H5T_STD_U8LE, space, H5P_DEFAULT, props, H5P_DEFAULT);
    cl_code c = d >= 0 ? CL_OK : h5_fail(err, CL_E_RUN, "tensor %s: cannot be created", t->name);
    if (c == CL_OK) c = h5_put_text(d, "description", describe(t->role), err);
    if (c == CL_OK) c = h5_put_text(d, "role", cl_role_name(t->role), err);
    if (c == CL_OK) c = h5_put_int(d, "layer", t->layer, err);
    if (c == CL_OK) c = h5_put_text(d, "format", cl_format_get(t->format)->name, err);
    if (c == CL_OK) c = h5_put_ints(d, "shape", shape + skip, rank, err);
    if (c == CL_OK) c = h5_put_text(d, "xxh3", zero_hash, err);
    if (d >= 0) H5Dclose(d);
    if (space >= 0) H5Sclose(space);
    return c;
}

/* The dataset of one tensor's scales. */
static cl_code declare_scales(cl_model_writer *w, const cl_tensor *t, hid_t props, cl_err *err)
{
    hsize_t dims[3] = {(hsize_t)t->experts, (hsize_t)model_tile_rows(t), model_scale_bytes(t) / sizeof(float)};
    int skip = t->experts ? 0 : 1;
    hid_t space = H5Screate_simple(3 - skip, dims + skip, NULL), d = -1;
    if (space >= 0) d = H5Dcreate2(w->scale_group, t->name, H5T_IEEE_F32LE, space, H5P_DEFAULT, props, H5P_DEFAULT);
    cl_code c = d >= 0 ? CL_OK : h5_fail(err, CL_E_RUN, "scales of tensor %s: cannot be created", t->name);
    if (c == CL_OK) c = h5_put_text(d, "description", "factors of the tensor of this name, one per tile", err);
    if (d >= 0) H5Dclose(d);
    if (space >= 0) H5Sclose(space);
    return c;
}

static cl_code put_groups(cl_model_writer *w, cl_err *err)
{
    bool scales = false;
    for (int i = 0; i < w->n; i++) scales |= model_has_scales(&w->tensors[i]);
    w->group = h5_put_group(w->file, "tensors",
                            "one dataset per tensor: rows of bytes, [rows, bytes per row] or [experts, rows, bytes per "
                            "row]. Attributes: shape "
                            "in numbers, the number format of each row (little-endian, GGUF's block layouts; fp8: E4M3 "
                            "codes, see /scales), xxh3: "
                            "XXH3-64 of all bytes (fp8: of all rows, each with its tiles' scales before its codes), "
                            "layer: -1 outside the layers",
                            err);
    if (w->group < 0) return CL_E_RUN;
    if (scales)
        w->scale_group =
            h5_put_group(w->file, "scales",
                         "scales of the fp8 tensors: one dataset for each, [row tiles, column tiles] or [experts, "
                         "row tiles, column tiles]: the factors of tiles of 128 x 128 numbers of one matrix",
                         err);
    return scales && w->scale_group < 0 ? CL_E_RUN : CL_OK;
}

static cl_code declare_all(cl_model_writer *w, cl_err *err)
{
    if (put_groups(w, err) != CL_OK) return CL_E_RUN;
    hid_t props = h5_untimed(H5P_DATASET_CREATE);
    if (props < 0 || H5Pset_layout(props, H5D_CONTIGUOUS) < 0 || H5Pset_alloc_time(props, H5D_ALLOC_TIME_EARLY) < 0 ||
        H5Pset_fill_time(props, H5D_FILL_TIME_NEVER) < 0) {
        h5_fail(err, CL_E_RUN, "tensors: cannot be created");
        if (props >= 0) H5Pclose(props);
        return CL_E_RUN;
    }
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < w->n; i++) {
        c = declare(w, &w->tensors[i], props, err);
        if (c == CL_OK && model_has_scales(&w->tensors[i])) c = declare_scales(w, &w->tensors[i], props, err);
    }
    H5Pclose(props);
    return c;
}

static cl_code put_spec(cl_model_writer *w, const cl_spec *s, cl_err *err)
{
    json_t *j = NULL;
    cl_code c = cl_spec_to_json(s, &j, err);
    if (c != CL_OK) return c;
    char *text = json_dumps(j, JSON_INDENT(1));
    json_decref(j);
    if (!text) return cl_fail(err, CL_E_FIT, "spec: no memory for its JSON");
    h5_array a = {"spec",
                  H5_U8,
                  1,
                  {strlen(text)},
                  "what happens in every layer: JSON text, UTF-8; units are in the keys",
                  NULL};
    c = h5_put_array(w->file, &a, text, err);
    w->spec_xxh3 = XXH3_64bits(text, strlen(text));
    free(text);
    return c;
}

static cl_code put_root(cl_model_writer *w, const char *source, const char *config, cl_err *err)
{
    hid_t root = H5Gopen2(w->file, "/", H5P_DEFAULT);
    if (root < 0) return h5_fail(err, CL_E_RUN, "root group: cannot be opened");
    cl_code c = h5_put_int(root, "chipline_model", 1, err);
    if (c == CL_OK)
        c = h5_put_text(
            root, "description",
            "a language model for chipline. chipline_model: version of this layout; creator: the program that wrote "
            "it; source: what it was made from; checksum: XXH3-64 over the checksums (8 bytes, little-endian) of "
            "/spec and of all tensors in canonical order",
            err);
    if (c == CL_OK) c = h5_put_text(root, "source", source ? source : "", err);
    if (c == CL_OK) c = h5_put_text(root, "checksum", zero_hash, err);
    H5Gclose(root);
    h5_array a = {"source_config",
                  H5_U8,
                  1,
                  {config ? strlen(config) : 0},
                  "the checkpoint's own configuration, verbatim",
                  NULL};
    if (c == CL_OK && config) c = h5_put_array(w->file, &a, config, err);
    return c;
}

/* Room for all tensors, where the file system says how much it has. Asked of the temporary file, which is there. */
static cl_code check_room(const cl_model_writer *w, int fd, cl_err *err)
{
    struct statvfs fs;
    char need[32], has[32];
    uint64_t bytes = 0;
    for (int i = 0; i < w->n; i++) bytes += cl_tensor_bytes(&w->tensors[i]);
    if (fstatvfs(fd, &fs) != 0 || fs.f_blocks == 0 || bytes / fs.f_frsize < fs.f_bavail) return CL_OK;
    return cl_fail(err, CL_E_FIT,
                   "needs %s, and its disk has %s (free some, write elsewhere, or choose a smaller --format)",
                   cl_human_bytes((double)bytes, need), cl_human_bytes((double)fs.f_bavail * (double)fs.f_frsize, has));
}

/* A path that can be written, found out before hours of work: the temporary file is made here. */
static cl_code make_file(cl_model_writer *w, const char *path, cl_err *err)
{
    if (!(w->path = cl_strdup(path, err)) || !(w->tmp = cl_tmp_name(path, err))) return CL_E_FIT;
    int fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        cl_fail(err, CL_E_INPUT, "cannot be written: %s", strerror(errno));
        free(w->tmp); /* not ours to remove */
        w->tmp = NULL;
        return CL_E_INPUT;
    }
    cl_code c = check_room(w, fd, err);
    close(fd);
    if (c != CL_OK) return c;
    /* A tensor's object header and its place in the group's index take some 540 bytes, its scales' fewer, the rest a
     * few kB. */
    size_t datasets = (size_t)w->n;
    for (int i = 0; i < w->n; i++) datasets += model_has_scales(&w->tensors[i]);
    hid_t access = h5_access(8192 + datasets * 600);
    hid_t root = h5_untimed(H5P_FILE_CREATE);
    if (access >= 0 && root >= 0) w->file = H5Fcreate(w->tmp, H5F_ACC_TRUNC, root, access);
    if (w->file < 0) h5_fail(err, CL_E_RUN, "cannot be created");
    if (access >= 0) H5Pclose(access);
    if (root >= 0) H5Pclose(root);
    return w->file < 0 ? CL_E_RUN : CL_OK;
}

static void end(cl_model_writer *w)
{
    if (w->scale_group >= 0) H5Gclose(w->scale_group);
    if (w->group >= 0) H5Gclose(w->group);
    if (w->file >= 0) H5Fclose(w->file);
    if (w->tmp) unlink(w->tmp);
    for (int i = 0; w->hash && i < w->n; i++) XXH3_freeState(w->hash[i]);
    for (int i = 0; w->scales && i < w->n; i++) free(w->scales[i]);
    free(w->hash);
    free(w->scales);
    free(w->codes);
    free(w->rows);
    free(w->tensors);
    free(w->tmp);
    free(w->path);
    free(w);
}

cl_code cl_model_writer_create(cl_model_writer **out, const char *path, const cl_model *m, const char *source,
                               const char *source_config, const cl_tokenizer_data *tok, cl_err *err)
{
    *out = NULL;
    cl_code c = cl_check_new(path, err);
    if (c != CL_OK) return c;
    cl_model_writer *w = cl_calloc(1, sizeof *w, "model writer", err);
    if (!w) return CL_E_FIT;
    w->file = w->group = w->scale_group = -1;
    w->n = m->n_tensors;
    w->tensors = cl_malloc((size_t)w->n, sizeof *w->tensors, "model writer", err);
    w->rows = cl_calloc((size_t)w->n, sizeof *w->rows, "model writer", err);
    w->hash = cl_calloc((size_t)w->n, sizeof *w->hash, "model writer", err);
    w->scales = cl_calloc((size_t)w->n, sizeof *w->scales, "model writer", err);
    c = w->tensors && w->rows && w->hash && w->scales ? CL_OK : CL_E_FIT;
    h5_scope s = h5_enter();
    if (c == CL_OK) {
        memcpy(w->tensors, m->tensors, (size_t)w->n * sizeof *w->tensors);
        c = make_file(w, path, err);
    }
    if (c == CL_OK) c = put_root(w, source, source_config, err);
    if (c == CL_OK) c = put_spec(w, &m->spec, err);
    if (c == CL_OK && tok) c = model_put_tokenizer(w->file, tok, err);
    if (c == CL_OK) c = declare_all(w, err);
    if (c == CL_OK) *out = w;
    else {
        cl_fail_prefix(err, "%s", path);
        end(w);
    }
    h5_leave(s);
    return c;
}

cl_code cl_model_writer_creator(cl_model_writer *w, const char *creator, cl_err *err)
{
    h5_scope s = h5_enter();
    cl_code c = h5_put_text(w->file, "creator", creator, err);
    if (c != CL_OK) cl_fail_prefix(err, "%s", w->path);
    h5_leave(s);
    return c;
}

/* n rows of `width` elements from row `first` of one matrix or expert. */
static cl_code put_rows(hid_t d, hid_t type, const cl_tensor *t, int64_t expert, int64_t first, int64_t n, size_t width,
                        const void *rows, cl_err *err)
{
    hsize_t start[3] = {(hsize_t)expert, (hsize_t)first, 0}, count[3] = {1, (hsize_t)n, width};
    int skip = t->experts ? 0 : 1;
    hid_t file = H5Dget_space(d), memory = H5Screate_simple(3 - skip, count + skip, NULL);
    cl_code c = file >= 0 && memory >= 0 &&
                        H5Sselect_hyperslab(file, H5S_SELECT_SET, start + skip, NULL, count + skip, NULL) >= 0 &&
                        H5Dwrite(d, type, memory, file, H5P_DEFAULT, rows) >= 0
                    ? CL_OK
                    : h5_fail(err, CL_E_RUN, "tensor %s: cannot be written", t->name);
    if (memory >= 0) H5Sclose(memory);
    if (file >= 0) H5Sclose(file);
    return c;
}

/* The scales of the tile that starts at row `first`: kept for the comparison with its other rows, and written. */
static cl_code put_scales(cl_model_writer *w, int i, int64_t expert, int64_t first, const unsigned char *row,
                          cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    size_t bytes = model_scale_bytes(t);
    if (!w->scales[i] && !(w->scales[i] = cl_malloc(bytes, 1, t->name, err))) return CL_E_FIT;
    memcpy(w->scales[i], row, bytes);
    hid_t d = H5Dopen2(w->scale_group, t->name, H5P_DEFAULT);
    if (d < 0) return h5_fail(err, CL_E_RUN, "scales of tensor %s: cannot be opened", t->name);
    cl_code c = put_rows(d, H5T_NATIVE_FLOAT, t, expert, first / cl_format_tile_rows(t->format), 1,
                         bytes / sizeof(float), w->scales[i], err);
    H5Dclose(d);
    return c;
}

/* n rows of one tile, from row `first`: their scales go to a dataset of their own, the codes into d. */
static cl_code put_tile(cl_model_writer *w, int i, hid_t d, int64_t expert, int64_t first, int64_t n,
                        const unsigned char *rows, cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    size_t row_bytes = cl_row_bytes(t->format, t->cols), bytes = model_scale_bytes(t), width = model_stored_bytes(t);
    if (first % cl_format_tile_rows(t->format) == 0) {
        cl_code c = put_scales(w, i, expert, first, rows, err);
        if (c != CL_OK) return c;
    }
    if (w->codes_bytes < (size_t)n * width) {
        free(w->codes);
        w->codes_bytes = 0;
        if (!(w->codes = cl_malloc((size_t)n, width, t->name, err))) return CL_E_FIT;
        w->codes_bytes = (size_t)n * width;
    }
    for (int64_t r = 0; r < n; r++) {
        const unsigned char *row = rows + (size_t)r * row_bytes;
        if (memcmp(row, w->scales[i], bytes) != 0)
            return cl_fail(err, CL_E_INPUT, "tensor %s: row %lld has other scales than the first row of its tile",
                           t->name, (long long)(first + r));
        memcpy(w->codes + (size_t)r * width, row + bytes, width);
    }
    return put_rows(d, H5T_NATIVE_UINT8, t, expert, first, n, width, w->codes, err);
}

/* The next n rows, all of one matrix and, where rows share scales, of one tile. */
static cl_code put_piece(cl_model_writer *w, int i, hid_t d, const unsigned char *rows, int64_t n, cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    size_t row_bytes = cl_row_bytes(t->format, t->cols);
    int64_t expert = w->rows[i] / t->rows, first = w->rows[i] % t->rows;
    cl_code c = model_has_scales(t) ? put_tile(w, i, d, expert, first, n, rows, err)
                                    : put_rows(d, H5T_NATIVE_UINT8, t, expert, first, n, row_bytes, rows, err);
    if (c != CL_OK) return c;
    XXH3_64bits_update(w->hash[i], rows, (size_t)n * row_bytes);
    w->rows[i] += n;
    return CL_OK;
}

static cl_code complete(cl_model_writer *w, int i, hid_t d, cl_err *err)
{
    char hex[sizeof zero_hash];
    w->tensors[i].xxh3 = XXH3_64bits_digest(w->hash[i]);
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)w->tensors[i].xxh3);
    XXH3_freeState(w->hash[i]);
    w->hash[i] = NULL;
    free(w->scales[i]);
    w->scales[i] = NULL;
    return h5_set_text(d, "xxh3", hex, err);
}

static cl_code write_rows(cl_model_writer *w, int i, const unsigned char *rows, int64_t n, cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    size_t row_bytes = cl_row_bytes(t->format, t->cols);
    int64_t tile = cl_format_tile_rows(t->format);
    if (!w->hash[i]) {
        w->hash[i] = XXH3_createState();
        if (!w->hash[i] || XXH3_64bits_reset(w->hash[i]) != XXH_OK)
            return cl_fail(err, CL_E_FIT, "tensor %s: no memory", t->name);
    }
    hid_t d = H5Dopen2(w->group, t->name, H5P_DEFAULT);
    cl_code c = d >= 0 ? CL_OK : h5_fail(err, CL_E_RUN, "tensor %s: cannot be opened", t->name);
    for (int64_t part; c == CL_OK && n > 0; n -= part, rows += (size_t)part * row_bytes) {
        int64_t first = w->rows[i] % t->rows, left = t->rows - first;
        if (tile > 1 && left > tile - first % tile) left = tile - first % tile;
        part = n < left ? n : left;
        c = put_piece(w, i, d, rows, part, err);
    }
    if (c == CL_OK && w->rows[i] == cl_tensor_rows(t)) c = complete(w, i, d, err);
    if (d >= 0) H5Dclose(d);
    return c;
}

cl_code cl_model_writer_rows(cl_model_writer *w, int tensor, const void *rows, int64_t n_rows, cl_err *err)
{
    if (tensor < 0 || tensor >= w->n) CL_BUG("tensor %d of %d", tensor, w->n);
    if (n_rows < 0 || n_rows > cl_tensor_rows(&w->tensors[tensor]) - w->rows[tensor])
        return cl_fail(err, CL_E_INPUT, "tensor %s: more rows than it has", w->tensors[tensor].name);
    if (n_rows == 0) return CL_OK;
    h5_scope s = h5_enter();
    cl_code c = write_rows(w, tensor, rows, n_rows, err);
    if (c != CL_OK) cl_fail_prefix(err, "%s", w->path);
    h5_leave(s);
    return c;
}

uint64_t model_checksum(uint64_t spec_xxh3, const cl_tensor *tensors, int n)
{
    XXH3_state_t *h = XXH3_createState();
    if (!h) CL_BUG("no memory for a checksum");
    XXH3_64bits_reset(h);
    XXH3_64bits_update(h, &spec_xxh3, sizeof spec_xxh3);
    for (int i = 0; i < n; i++) XXH3_64bits_update(h, &tensors[i].xxh3, sizeof tensors[i].xxh3);
    uint64_t sum = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return sum;
}

/* HDF5 closed, everything on the disk. */
static cl_code finish(cl_model_writer *w, cl_err *err)
{
    if (w->scale_group >= 0) H5Gclose(w->scale_group);
    H5Gclose(w->group);
    cl_code c = H5Fflush(w->file, H5F_SCOPE_GLOBAL) >= 0 ? CL_OK : h5_fail(err, CL_E_RUN, "cannot be completed");
    if (H5Fclose(w->file) < 0 && c == CL_OK) c = h5_fail(err, CL_E_RUN, "cannot be completed");
    w->scale_group = w->group = w->file = -1;
    if (c != CL_OK) return c;
    int fd = open(w->tmp, O_RDWR | O_CLOEXEC);
    bool bad = fd < 0 || fsync(fd) != 0;
    int cause = errno;
    if (fd >= 0) close(fd);
    if (bad) return cl_fail(err, CL_E_RUN, "cannot be completed: %s", strerror(cause));
    return CL_OK;
}

cl_code cl_model_writer_commit(cl_model_writer *w, cl_err *err)
{
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < w->n; i++) {
        int64_t all = cl_tensor_rows(&w->tensors[i]);
        if (w->rows[i] != all)
            c = cl_fail(err, CL_E_INPUT, "tensor %s: has %lld of %lld rows", w->tensors[i].name, (long long)w->rows[i],
                        (long long)all);
    }
    h5_scope s = h5_enter();
    char hex[sizeof zero_hash];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)model_checksum(w->spec_xxh3, w->tensors, w->n));
    if (c == CL_OK) c = h5_set_text(w->file, "checksum", hex, err);
    if (c == CL_OK) c = finish(w, err);
    if (c != CL_OK) cl_fail_prefix(err, "%s", w->path);
    else c = cl_rename_new(w->tmp, w->path, err);
    if (c == CL_OK) {
        free(w->tmp); /* it has its final name: nothing to remove */
        w->tmp = NULL;
    }
    end(w);
    h5_leave(s);
    return c;
}

void cl_model_writer_drop(cl_model_writer *w)
{
    if (!w) return;
    h5_scope s = h5_enter();
    end(w);
    h5_leave(s);
}
