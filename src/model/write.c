/* write.c: a model file, written as a stream: all datasets are laid out first, rows are put into place as they
 * come, the checksums follow at the end and the name last. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "chipline/util.h"
#include "stored.h"

/* Where the tensor's rows and its scales go. */
typedef struct place {
    cl_store_array rows, scales;
} place;

struct cl_model_writer {
    cl_store *store;
    bool declared; /* the tensors have their places */
    int n;
    cl_tensor *tensors;     /* [n], own copy */
    place *places;          /* [n] */
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

/* One tensor's array with its attributes. */
static cl_code declare(cl_store_node group, const cl_tensor *t, cl_store_array *rows, cl_err *err)
{
    int64_t shape[3] = {t->experts, t->rows, t->cols};
    int skip = t->experts ? 0 : 1;
    cl_store_node d;
    *rows = stored_rows(t);
    cl_code c = cl_store_make_array(group, t->name, rows, describe(t->role), &d, err);
    if (c == CL_OK) {
        c = cl_store_put_text(d, "role", cl_role_name(t->role), err);
        if (c == CL_OK) c = cl_store_put_int(d, "layer", t->layer, err);
        if (c == CL_OK) c = cl_store_put_text(d, "format", cl_format_get(t->format)->name, err);
        if (c == CL_OK) c = cl_store_put_ints(d, "shape", shape + skip, 3 - skip, err);
        if (c == CL_OK) c = cl_store_put_hash(d, "xxh3", 0, err);
        cl_store_release(&d);
    }
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "tensor %s", t->name);
}

/* The array of one tensor's scales. */
static cl_code declare_scales(cl_store_node group, const cl_tensor *t, cl_store_array *scales, cl_err *err)
{
    cl_store_node d;
    *scales = stored_scales(t);
    cl_code c =
        cl_store_make_array(group, t->name, scales, "factors of the tensor of this name, one per tile", &d, err);
    if (c != CL_OK) return cl_fail_prefix(err, "scales of tensor %s", t->name);
    cl_store_release(&d);
    return CL_OK;
}

static cl_code put_groups(cl_model_writer *w, cl_store_node *group, cl_store_node *scale_group, cl_err *err)
{
    bool scales = false;
    cl_store_node root = cl_store_root(w->store);
    for (int i = 0; i < w->n; i++) scales |= stored_has_scales(&w->tensors[i]);
    cl_code c = cl_store_make_group(
        root, "tensors",
        "one dataset per tensor: rows of bytes, [rows, bytes per row] or [experts, rows, bytes per row]. Attributes: "
        "shape in numbers, the number format of each row (little-endian, GGUF's block layouts; fp8: E4M3 codes, see "
        "/scales), xxh3: XXH3-64 of all bytes (fp8: of all rows, each with its tiles' scales before its codes), layer: "
        "-1 outside the layers",
        group, err);
    if (c != CL_OK || !scales) return c;
    return cl_store_make_group(
        root, "scales",
        "scales of the fp8 tensors: one dataset for each, [row tiles, column tiles] or [experts, row tiles, column "
        "tiles]: the factors of tiles of 128 x 128 numbers of one matrix",
        scale_group, err);
}

/* Room for all tensors; once, before the first row. */
static cl_code declare_all(cl_model_writer *w, cl_err *err)
{
    cl_store_node group = {w->store, -1}, scale_group = group;
    if (w->declared) return CL_OK;
    w->declared = true;
    cl_code c = put_groups(w, &group, &scale_group, err);
    for (int i = 0; c == CL_OK && i < w->n; i++) {
        const cl_tensor *t = &w->tensors[i];
        c = declare(group, t, &w->places[i].rows, err);
        if (c == CL_OK && stored_has_scales(t)) c = declare_scales(scale_group, t, &w->places[i].scales, err);
    }
    cl_store_release(&scale_group);
    cl_store_release(&group);
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
    cl_store_array a = {CL_STORE_U8, 1, {strlen(text)}, 0};
    c = cl_store_put_array(cl_store_root(w->store), "spec", &a,
                           "what happens in every layer: JSON text, UTF-8; units are in the keys", NULL, text, err);
    w->spec_xxh3 = XXH3_64bits(text, strlen(text));
    free(text);
    return c;
}

static cl_code put_root(cl_model_writer *w, const char *source, const char *config, cl_err *err)
{
    cl_store_node root = cl_store_root(w->store);
    cl_code c = cl_store_put_int(root, "chipline_model", 1, err);
    if (c == CL_OK)
        c = cl_store_put_text(
            root, "description",
            "a language model for chipline. chipline_model: version of this layout; creator: the program that wrote "
            "it; source: what it was made from; checksum: XXH3-64 over the checksums (8 bytes, little-endian) of "
            "/spec and of all tensors in canonical order",
            err);
    if (c == CL_OK) c = cl_store_put_text(root, "source", source ? source : "", err);
    if (c == CL_OK) c = cl_store_put_hash(root, "checksum", 0, err);
    if (c != CL_OK || !config) return c;
    cl_store_array a = {CL_STORE_U8, 1, {strlen(config)}, 0};
    return cl_store_put_array(root, "source_config", &a, "the checkpoint's own configuration, verbatim", NULL, config,
                              err);
}

/* The file, with room for what is known to come: found out before hours of work. */
static cl_code make_file(cl_model_writer *w, const char *path, cl_err *err)
{
    /* A tensor's object header and its place in the group's index take some 540 bytes, its scales' fewer, the rest a
     * few kB. */
    size_t arrays = (size_t)w->n;
    uint64_t bytes = 0;
    for (int i = 0; i < w->n; i++) {
        arrays += stored_has_scales(&w->tensors[i]);
        bytes += cl_tensor_bytes(&w->tensors[i]);
    }
    cl_code c = cl_store_create(&w->store, path, 8192 + arrays * 600, err);
    if (c != CL_OK) return c;
    c = cl_store_room(w->store, bytes, "free some, write elsewhere, or choose a smaller --format", err);
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s", path);
}

/* All but the store. */
static void end(cl_model_writer *w)
{
    for (int i = 0; w->hash && i < w->n; i++) XXH3_freeState(w->hash[i]);
    for (int i = 0; w->scales && i < w->n; i++) free(w->scales[i]);
    free(w->hash);
    free(w->scales);
    free(w->codes);
    free(w->rows);
    free(w->places);
    free(w->tensors);
    free(w);
}

cl_code cl_model_writer_create(cl_model_writer **out, const char *path, const cl_model *m, const char *source,
                               const char *source_config, cl_err *err)
{
    *out = NULL;
    cl_model_writer *w = cl_calloc(1, sizeof *w, "model writer", err);
    if (!w) return CL_E_FIT;
    w->n = m->n_tensors;
    w->tensors = cl_malloc((size_t)w->n, sizeof *w->tensors, "model writer", err);
    w->places = cl_calloc((size_t)w->n, sizeof *w->places, "model writer", err);
    w->rows = cl_calloc((size_t)w->n, sizeof *w->rows, "model writer", err);
    w->hash = cl_calloc((size_t)w->n, sizeof *w->hash, "model writer", err);
    w->scales = cl_calloc((size_t)w->n, sizeof *w->scales, "model writer", err);
    cl_code c = w->tensors && w->places && w->rows && w->hash && w->scales ? CL_OK : CL_E_FIT;
    if (c == CL_OK) {
        memcpy(w->tensors, m->tensors, (size_t)w->n * sizeof *w->tensors);
        c = make_file(w, path, err);
    }
    if (c == CL_OK) {
        c = put_root(w, source, source_config, err);
        if (c == CL_OK) c = put_spec(w, &m->spec, err);
        if (c != CL_OK) cl_fail_prefix(err, "%s", path);
    }
    if (c == CL_OK) *out = w;
    else cl_model_writer_drop(w);
    return c;
}

cl_store *cl_model_writer_store(cl_model_writer *w) { return w->store; }

cl_code cl_model_writer_creator(cl_model_writer *w, const char *creator, cl_err *err)
{
    cl_code c = declare_all(w, err);
    if (c == CL_OK) c = cl_store_put_text(cl_store_root(w->store), "creator", creator, err);
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s", cl_store_path(w->store));
}

/* The scales of the tile that starts at row `first`: kept for the comparison with its other rows, and written. */
static cl_code put_scales(cl_model_writer *w, int i, int64_t expert, int64_t first, const unsigned char *row,
                          cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    size_t bytes = stored_scale_bytes(t);
    if (!w->scales[i] && !(w->scales[i] = cl_malloc(bytes, 1, t->name, err))) return CL_E_FIT;
    memcpy(w->scales[i], row, bytes);
    int64_t tile = expert * stored_tile_rows(t) + first / cl_format_tile_rows(t->format);
    return cl_store_write_rows(w->store, &w->places[i].scales, (uint64_t)tile, 1, w->scales[i], err);
}

/* n rows of one tile, from row `first`: their scales go to an array of their own. */
static cl_code put_tile(cl_model_writer *w, int i, int64_t expert, int64_t first, int64_t n, const unsigned char *rows,
                        cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    size_t row_bytes = cl_row_bytes(t->format, t->cols), bytes = stored_scale_bytes(t), width = stored_row_bytes(t);
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
            return cl_fail(err, CL_E_INPUT, "row %lld has other scales than the first row of its tile",
                           (long long)(first + r));
        memcpy(w->codes + (size_t)r * width, row + bytes, width);
    }
    return cl_store_write_rows(w->store, &w->places[i].rows, (uint64_t)(expert * t->rows + first), (uint64_t)n,
                               w->codes, err);
}

/* The next n rows, all of one matrix and, where rows share scales, of one tile. */
static cl_code put_piece(cl_model_writer *w, int i, const unsigned char *rows, int64_t n, cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    int64_t at = w->rows[i];
    cl_code c = stored_has_scales(t)
                    ? put_tile(w, i, at / t->rows, at % t->rows, n, rows, err)
                    : cl_store_write_rows(w->store, &w->places[i].rows, (uint64_t)at, (uint64_t)n, rows, err);
    if (c != CL_OK) return c;
    XXH3_64bits_update(w->hash[i], rows, (size_t)n * cl_row_bytes(t->format, t->cols));
    w->rows[i] += n;
    return CL_OK;
}

static cl_code complete(cl_model_writer *w, int i, cl_err *err)
{
    w->tensors[i].xxh3 = XXH3_64bits_digest(w->hash[i]);
    XXH3_freeState(w->hash[i]);
    w->hash[i] = NULL;
    free(w->scales[i]);
    w->scales[i] = NULL;
    cl_store_node group, d = {w->store, -1};
    cl_store_array a = w->places[i].rows;
    cl_code c = cl_store_open_group(cl_store_root(w->store), "tensors", &group, err);
    if (c != CL_OK) return c;
    c = cl_store_open_array(group, w->tensors[i].name, &a, &d, err);
    if (c == CL_OK) c = cl_store_set_hash(d, "xxh3", w->tensors[i].xxh3, err);
    cl_store_release(&d);
    cl_store_release(&group);
    return c;
}

static cl_code write_rows(cl_model_writer *w, int i, const unsigned char *rows, int64_t n, cl_err *err)
{
    const cl_tensor *t = &w->tensors[i];
    size_t row_bytes = cl_row_bytes(t->format, t->cols);
    int64_t tile = cl_format_tile_rows(t->format);
    if (!w->hash[i]) {
        w->hash[i] = XXH3_createState();
        if (!w->hash[i] || XXH3_64bits_reset(w->hash[i]) != XXH_OK) return cl_fail(err, CL_E_FIT, "no memory");
    }
    cl_code c = CL_OK;
    for (int64_t part; c == CL_OK && n > 0; n -= part, rows += (size_t)part * row_bytes) {
        int64_t first = w->rows[i] % t->rows, left = t->rows - first;
        if (tile > 1 && left > tile - first % tile) left = tile - first % tile;
        part = n < left ? n : left;
        c = put_piece(w, i, rows, part, err);
    }
    return c == CL_OK && w->rows[i] == cl_tensor_rows(t) ? complete(w, i, err) : c;
}

cl_code cl_model_writer_rows(cl_model_writer *w, int tensor, const void *rows, int64_t n_rows, cl_err *err)
{
    if (tensor < 0 || tensor >= w->n) CL_BUG("tensor %d of %d", tensor, w->n);
    if (n_rows < 0 || n_rows > cl_tensor_rows(&w->tensors[tensor]) - w->rows[tensor])
        return cl_fail(err, CL_E_INPUT, "tensor %s: more rows than it has", w->tensors[tensor].name);
    if (n_rows == 0) return CL_OK;
    cl_code c = declare_all(w, err);
    if (c == CL_OK && (c = write_rows(w, tensor, rows, n_rows, err)) != CL_OK)
        cl_fail_prefix(err, "tensor %s", w->tensors[tensor].name);
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s", cl_store_path(w->store));
}

uint64_t stored_checksum(uint64_t spec_xxh3, const cl_tensor *tensors, int n)
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

cl_code cl_model_writer_commit(cl_model_writer *w, cl_err *err)
{
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < w->n; i++) {
        int64_t all = cl_tensor_rows(&w->tensors[i]);
        if (w->rows[i] != all)
            c = cl_fail(err, CL_E_INPUT, "tensor %s: has %lld of %lld rows", w->tensors[i].name, (long long)w->rows[i],
                        (long long)all);
    }
    if (c == CL_OK)
        c = cl_store_set_hash(cl_store_root(w->store), "checksum", stored_checksum(w->spec_xxh3, w->tensors, w->n),
                              err);
    if (c == CL_OK) c = cl_store_commit(w->store, err);
    else {
        cl_fail_prefix(err, "%s", cl_store_path(w->store));
        cl_store_drop(w->store);
    }
    end(w);
    return c;
}

void cl_model_writer_drop(cl_model_writer *w)
{
    if (!w) return;
    cl_store_drop(w->store);
    end(w);
}
