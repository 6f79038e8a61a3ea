/* array.c: numbers in one piece. HDF5 says where the piece lies; its bytes are then read and written by their place
 * in the file, without HDF5 in between, so that any thread can. The machine is little-endian (so are all that chipline
 * is built for): bytes in memory are bytes in the file. */
#include "h5.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "chipline/util.h"

uint64_t cl_store_array_bytes(const cl_store_array *a)
{
    uint64_t n = h5_number_of(a->type).bytes;
    for (int i = 0; i < a->rank; i++) n *= a->dims[i];
    return n;
}

/* --- making and finding --- */

static hid_t space_of(const cl_store_array *a)
{
    hsize_t dims[CL_STORE_DIMS];
    for (int i = 0; i < a->rank; i++) dims[i] = a->dims[i];
    return H5Screate_simple(a->rank, dims, NULL);
}

cl_code cl_store_put_array(cl_store_node in, const char *name, const cl_store_array *a, const char *description,
                           const char *unit, const void *data, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    h5_number k = h5_number_of(a->type);
    uint64_t bytes = cl_store_array_bytes(a);
    hid_t space = space_of(a), p = h5_untimed(H5P_DATASET_CREATE);
    cl_store_node d = {in.store, -1};
    if (space >= 0 && p >= 0) d.id = H5Dcreate2(in.id, name, k.file, space, H5P_DEFAULT, p, H5P_DEFAULT);
    cl_code c = d.id >= 0 && (!bytes || H5Dwrite(d.id, k.memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0)
                    ? CL_OK
                    : h5_unwritten(&s, in.store, "", name, err);
    if (c == CL_OK) c = cl_store_put_hash(d, "xxh3", XXH3_64bits(data, bytes), err);
    if (c == CL_OK) c = cl_store_put_text(d, "description", description, err);
    if (c == CL_OK && unit) c = cl_store_put_text(d, "unit", unit, err);
    cl_store_release(&d);
    if (p >= 0) H5Pclose(p);
    if (space >= 0) H5Sclose(space);
    h5_leave(&s);
    return c;
}

cl_code cl_store_make_array(cl_store_node in, const char *name, cl_store_array *a, const char *description,
                            cl_store_node *out, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    *out = (cl_store_node){in.store, -1};
    a->at = 0;
    hid_t space = space_of(a), p = h5_untimed(H5P_DATASET_CREATE);
    if (space >= 0 && p >= 0 && H5Pset_layout(p, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(p, H5D_ALLOC_TIME_EARLY) >= 0 && H5Pset_fill_time(p, H5D_FILL_TIME_NEVER) >= 0)
        out->id = H5Dcreate2(in.id, name, h5_number_of(a->type).file, space, H5P_DEFAULT, p, H5P_DEFAULT);
    haddr_t at = out->id >= 0 && cl_store_array_bytes(a) ? H5Dget_offset(out->id) : 0;
    cl_code c = CL_OK;
    if (out->id < 0 || at == HADDR_UNDEF) {
        in.store->failed = true;
        c = h5_fail(&s, err, CL_E_RUN, "cannot be created");
    }
    a->at = at;
    if (c == CL_OK) c = cl_store_put_text(*out, "description", description, err);
    if (c != CL_OK) cl_store_release(out);
    if (p >= 0) H5Pclose(p);
    if (space >= 0) H5Sclose(space);
    h5_leave(&s);
    return c;
}

/* Type, rank and dimensions of d; its bytes (dims times size, no overflow) are stored contiguously inside the file. */
static cl_code check(const h5_scope *s, hid_t d, const char *name, cl_store_array *a, cl_err *err)
{
    h5_number k = h5_number_of(a->type);
    hid_t type = H5Dget_type(d), space = H5Dget_space(d), p = H5Dget_create_plist(d), file = H5Iget_file_id(d);
    hsize_t file_size = 0, dims[CL_STORE_DIMS];
    uint64_t bytes = k.bytes;
    cl_code c = CL_OK;
    a->at = 0;
    if (type < 0 || space < 0 || p < 0 || file < 0 || H5Fget_filesize(file, &file_size) < 0)
        c = h5_fail(s, err, CL_E_INPUT, "%s: cannot be read", name);
    else if (H5Tequal(type, k.file) <= 0)
        c = cl_fail(err, CL_E_INPUT, "%s: has another number type than expected", name);
    else if (H5Sget_simple_extent_ndims(space) != a->rank || H5Sget_simple_extent_dims(space, dims, NULL) != a->rank)
        c = cl_fail(err, CL_E_INPUT, "%s: has not %d dimensions", name, a->rank);
    else if (H5Pget_layout(p) != H5D_CONTIGUOUS || H5Pget_external_count(p) != 0)
        c = cl_fail(err, CL_E_INPUT, "%s: is not stored in one piece", name);
    for (int i = 0; c == CL_OK && i < a->rank; i++)
        if (__builtin_mul_overflow(bytes, a->dims[i] = dims[i], &bytes))
            c = cl_fail(err, CL_E_INPUT, "%s: its size overflows", name);
    if (c == CL_OK && bytes) {
        haddr_t at = H5Dget_offset(d);
        if (at == HADDR_UNDEF || H5Dget_storage_size(d) != bytes || bytes > file_size || at > file_size - bytes)
            c = cl_fail(err, CL_E_INPUT, "%s: its %llu bytes are not all in the file (copy it again)", name,
                        (unsigned long long)bytes);
        a->at = at;
    }
    if (file >= 0) H5Fclose(file);
    if (p >= 0) H5Pclose(p);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return c;
}

cl_code cl_store_open_array(cl_store_node in, const char *name, cl_store_array *a, cl_store_node *out, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    cl_store_node d = {in.store, h5_is_hard(in.id, name) ? H5Dopen2(in.id, name, H5P_DEFAULT) : -1};
    cl_code c = d.id >= 0 ? check(&s, d.id, name, a, err)
                          : h5_fail(&s, err, CL_E_INPUT, "%s: missing or damaged", name);
    if (c != CL_OK || !out) cl_store_release(&d);
    if (out) *out = d;
    h5_leave(&s);
    return c;
}

cl_code cl_store_get_array(cl_store_node in, const char *name, cl_store_array *a, void **data, uint64_t *hash,
                           cl_err *err)
{
    uint64_t want = 0;
    cl_store_node d;
    cl_code c = cl_store_open_array(in, name, a, &d, err);
    if (c != CL_OK) return c;
    uint64_t bytes = cl_store_array_bytes(a), rows[CL_STORE_DIMS] = {0};
    *data = cl_malloc(bytes + 1, 1, name, err);
    c = *data ? cl_store_read_slab(in.store, a, rows, a->dims, *data, err) : CL_E_FIT;
    if (c == CL_E_RUN) {
        cl_fail_prefix(err, "%s", name);
        if (err) err->code = CL_E_INPUT;
        c = CL_E_INPUT;
    }
    if (c == CL_OK && (c = cl_store_get_hash(d, "xxh3", &want, err)) != CL_OK) cl_fail_prefix(err, "%s", name);
    if (c == CL_OK && XXH3_64bits(*data, bytes) != want)
        c = cl_fail(err, CL_E_INPUT, "%s: its checksum does not match (the file is damaged: copy it again)", name);
    cl_store_release(&d);
    if (c != CL_OK) {
        free(*data);
        *data = NULL;
        return c;
    }
    ((char *)*data)[bytes] = 0;
    if (hash) *hash = want;
    return CL_OK;
}

/* --- bytes by their place --- */

typedef struct transfer { /* one of the two */
    unsigned char *to;
    const unsigned char *from;
} transfer;

static cl_code move(const cl_store *s, uint64_t at, uint64_t n, transfer t, cl_err *err)
{
    for (uint64_t done = 0; done < n;) {
        size_t piece = n - done < (1u << 30) ? (size_t)(n - done) : 1u << 30;
        ssize_t got = t.to ? pread(s->fd, t.to + done, piece, (off_t)(at + done))
                           : pwrite(s->fd, t.from + done, piece, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return cl_fail(err, CL_E_RUN, "cannot be %s: %s", t.to ? "read" : "written",
                           got < 0 ? strerror(errno)
                           : t.to  ? "the file has become shorter"
                                   : "the disk takes no more");
        done += (uint64_t)got;
    }
    return CL_OK;
}

static cl_code move_rows(const cl_store *s, const cl_store_array *a, uint64_t first, uint64_t n, transfer t,
                         cl_err *err)
{
    uint64_t rows = 1, bytes = h5_number_of(a->type).bytes;
    if (a->rank == 1) rows = a->dims[0];
    else bytes *= a->dims[a->rank - 1];
    for (int i = 0; i < a->rank - 1; i++) rows *= a->dims[i];
    if (first > rows || n > rows - first)
        CL_BUG("rows %llu + %llu of %llu", (unsigned long long)first, (unsigned long long)n, (unsigned long long)rows);
    return move(s, a->at + first * bytes, n * bytes, t, err);
}

cl_code cl_store_read_rows(const cl_store *s, const cl_store_array *a, uint64_t first, uint64_t n, void *dst,
                           cl_err *err)
{
    return move_rows(s, a, first, n, (transfer){.to = dst}, err);
}

cl_code cl_store_write_rows(cl_store *s, const cl_store_array *a, uint64_t first, uint64_t n, const void *rows,
                            cl_err *err)
{
    return move_rows(s, a, first, n, (transfer){.from = rows}, err);
}

/* The slab as runs of bytes that lie together: dimensions from `inner` on are whole but for the first of them. */
static cl_code move_slab(const cl_store *s, const cl_store_array *a, const uint64_t *start, const uint64_t *count,
                         transfer t, cl_err *err)
{
    uint64_t stride[CL_STORE_DIMS], run = h5_number_of(a->type).bytes, i[CL_STORE_DIMS] = {0}, done = 0, total = 1;
    uint64_t step = run;
    int inner = a->rank - 1;
    for (int d = a->rank - 1; d >= 0; d--) {
        if (start[d] > a->dims[d] || count[d] > a->dims[d] - start[d])
            CL_BUG("%llu + %llu of %llu in dimension %d", (unsigned long long)start[d], (unsigned long long)count[d],
                   (unsigned long long)a->dims[d], d);
        stride[d] = step;
        step *= a->dims[d];
        total *= count[d];
    }
    while (inner > 0 && count[inner] == a->dims[inner]) inner--;
    for (int d = inner; d < a->rank; d++) run *= count[d];
    if (!total) return CL_OK;
    for (;;) {
        uint64_t at = a->at;
        for (int d = 0; d < a->rank; d++) at += (start[d] + (d < inner ? i[d] : 0)) * stride[d];
        cl_code c = move(s, at, run, t.to ? (transfer){.to = t.to + done} : (transfer){.from = t.from + done}, err);
        if (c != CL_OK) return c;
        done += run;
        int d = inner - 1;
        while (d >= 0 && ++i[d] == count[d]) i[d--] = 0;
        if (d < 0) return CL_OK;
    }
}

cl_code cl_store_read_slab(const cl_store *s, const cl_store_array *a, const uint64_t *start, const uint64_t *count,
                           void *dst, cl_err *err)
{
    return move_slab(s, a, start, count, (transfer){.to = dst}, err);
}

cl_code cl_store_write_slab(cl_store *s, const cl_store_array *a, const uint64_t *start, const uint64_t *count,
                            const void *src, cl_err *err)
{
    return move_slab(s, a, start, count, (transfer){.from = src}, err);
}

cl_code cl_store_hash_array(const cl_store *s, const cl_store_array *a, uint64_t *hash, cl_err *err)
{
    enum { PIECE = 1 << 20 };
    uint64_t bytes = cl_store_array_bytes(a);
    XXH3_state_t *h = XXH3_createState();
    unsigned char *buf = cl_malloc(PIECE, 1, "checksum buffer", err);
    cl_code c = !buf ? CL_E_FIT : !h ? cl_fail(err, CL_E_FIT, "checksum: no memory") : CL_OK;
    if (c == CL_OK) XXH3_64bits_reset(h);
    for (uint64_t at = 0, n; c == CL_OK && at < bytes; at += n) {
        n = bytes - at < PIECE ? bytes - at : PIECE;
        c = move(s, a->at + at, n, (transfer){.to = buf}, err);
        if (c == CL_OK) XXH3_64bits_update(h, buf, n);
    }
    if (c == CL_OK) *hash = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    free(buf);
    return c;
}
