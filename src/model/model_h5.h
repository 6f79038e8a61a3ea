/* model_h5.h: the little HDF5 that a model file needs: attributes of text and whole numbers, arrays with a checksum.
 * Private to model/.
 *
 * Only fixed-length texts (global heaps, where HDF5 keeps strings of variable length, carry no checksums) and
 * contiguous datasets. Reading checks class, rank, size and place of everything before a byte of it is used. Local;
 * HDF5's serial library may be used by one thread at a time. */
#ifndef CHIPLINE_MODEL_H5_H
#define CHIPLINE_MODEL_H5_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "chipline/model.h"
#include "chipline/tokenizer.h"

/* HDF5 prints its errors unless told not to: every public function of model_file.h runs between enter and leave,
 * which put the caller's setting back. */
typedef struct h5_scope {
    H5E_auto2_t print;
    void *data;
} h5_scope;
h5_scope h5_enter(void);
void h5_leave(h5_scope s);

/* cl_fail with HDF5's innermost message after ours. Call it right after the HDF5 function that failed. */
cl_code h5_fail(cl_err *err, cl_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Access properties of a model file: checksummed metadata, small caches; meta_bytes: room for all metadata, in one
 * piece. */
hid_t h5_access(size_t meta_bytes);
/* Creation properties of a class, without the times at which objects are made: equal contents are equal bytes. < 0 on
 * failure. */
hid_t h5_untimed(hid_t class);

/* Longest text attribute, bytes. */
enum { H5_TEXT_MAX = 8191 };

/* --- writing: CL_E_RUN on failure --- */
cl_code h5_put_text(hid_t obj, const char *name, const char *text, cl_err *err);
/* n = 0: a scalar. */
cl_code h5_put_ints(hid_t obj, const char *name, const int64_t *v, int n, cl_err *err);
static inline cl_code h5_put_int(hid_t obj, const char *name, int64_t v, cl_err *err)
{
    return h5_put_ints(obj, name, &v, 0, err);
}
hid_t h5_put_group(hid_t loc, const char *name, const char *description, cl_err *err); /* H5Gclose; < 0 on failure */
/* Rewrites a text attribute with one of the same length. */
cl_code h5_set_text(hid_t obj, const char *name, const char *text, cl_err *err);

typedef enum h5_kind { H5_U8, H5_U32, H5_I32, H5_F32 } h5_kind;
/* A dataset with its bytes' xxh3. unit may be NULL. */
typedef struct h5_array {
    const char *name;
    h5_kind kind;
    int rank;
    hsize_t dims[2];
    const char *description, *unit;
} h5_array;
cl_code h5_put_array(hid_t loc, const h5_array *a, const void *data, cl_err *err);

/* --- reading: CL_E_INPUT on anything that is not as it should be --- */
cl_code h5_exists(hid_t loc, const char *name, bool *yes, cl_err *err);
hid_t h5_get_group(hid_t loc, const char *name, cl_err *err); /* H5Gclose; < 0 on failure */
cl_code h5_get_text(hid_t obj, const char *name, char *buf, size_t cap, cl_err *err);
cl_code h5_get_ints(hid_t obj, const char *name, int64_t *v, int n, cl_err *err); /* n = 0: a scalar */
cl_code h5_get_hash(hid_t obj, const char *name, uint64_t *out, cl_err *err);     /* 16 hex digits */
/* Opens a contiguous dataset of this kind and rank whose bytes lie inside the file; *offset from the file's start (0
 * when it has no bytes). H5Dclose; < 0 on failure. */
hid_t h5_open_array(hid_t loc, const char *name, h5_kind kind, int rank, hsize_t *dims, uint64_t *offset, cl_err *err);
/* The whole array (malloced, one zero byte more than its size), checked against its xxh3, which goes to *hash (may be
 * NULL). */
cl_code h5_get_array(hid_t loc, const char *name, h5_kind kind, int rank, hsize_t *dims, void **data, uint64_t *hash,
                     cl_err *err);

/* --- parts of a model file that have a file of their own --- */
/* The checksum of a model: its spec's and its tensors' checksums, in canonical order. */
uint64_t model_checksum(uint64_t spec_xxh3, const cl_tensor *tensors, int n);
/* Tensors whose rows share scales (fp8) rest in two datasets: the rows' codes and, once per tile, the scales. */
static inline bool model_has_scales(const cl_tensor *t) { return cl_format_tile_rows(t->format) > 1; }
/* Bytes of the scales in a complete row, 0 if it has none, and of what the tensor's dataset holds of a row. */
static inline size_t model_scale_bytes(const cl_tensor *t)
{
    return model_has_scales(t) ? cl_row_bytes(t->format, t->cols) - (size_t)t->cols : 0;
}
static inline size_t model_stored_bytes(const cl_tensor *t)
{
    return cl_row_bytes(t->format, t->cols) - model_scale_bytes(t);
}
/* Rows of scales of one matrix. */
static inline int64_t model_tile_rows(const cl_tensor *t)
{
    return (t->rows + cl_format_tile_rows(t->format) - 1) / cl_format_tile_rows(t->format);
}
cl_code model_put_tokenizer(hid_t file, const cl_tokenizer_data *d, cl_err *err);
cl_code model_get_tokenizer(hid_t file, cl_tokenizer_data **out, cl_err *err); /* NULL when there is none */

#endif
