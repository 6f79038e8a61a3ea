/* model_h5.c: attributes and arrays, written plainly and read with suspicion. */
#include "model_h5.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { HASH_DIGITS = 16 };

h5_scope h5_enter(void)
{
    h5_scope s = {0};
    /* A file whose last flush fails (disk full) stays in HDF5's tables, and its exit handler then crashes on it.
     * Everything here is closed by hand, so the handler is not needed. Only heard before HDF5's first use; later it
     * does nothing. */
    H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &s.print, &s.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return s;
}

void h5_leave(h5_scope s) { H5Eset_auto2(H5E_DEFAULT, s.print, s.data); }

/* The first message; of one that quotes the operating system ("..., error message = 'No space left', ...") only the
 * quote. */
static herr_t innermost(unsigned n, const H5E_error2_t *e, void *out)
{
    static const char mark[] = "error message = '";
    if (n > 0 || !e->desc) return 0;
    const char *os = strstr(e->desc, mark);
    const char *text = os ? os + sizeof mark - 1 : e->desc;
    snprintf(out, 256, "%.*s", (int)(os ? strcspn(text, "'") : strlen(text)), text);
    return 0;
}

cl_code h5_fail(cl_err *err, cl_code code, const char *fmt, ...)
{
    char why[256] = "", msg[512];
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, why);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return cl_fail(err, code, "%s%s%s", msg, why[0] ? ": " : "", why);
}

hid_t h5_access(size_t meta_bytes)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    H5AC_cache_config_t cache = {.version = H5AC__CURR_CACHE_CONFIG_VERSION};
    bool ok = p >= 0 && H5Pset_fapl_sec2(p) >= 0 && H5Pset_libver_bounds(p, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
              H5Pset_fclose_degree(p, H5F_CLOSE_STRONG) >= 0 && H5Pset_sieve_buf_size(p, 0) >= 0 &&
              H5Pset_cache(p, 0, 0, 0, 0) >= 0 && H5Pset_meta_block_size(p, meta_bytes) >= 0 &&
              H5Pget_mdc_config(p, &cache) >= 0;
#if H5_VERSION_GE(1, 10, 7)
    /* No locks, which some file systems refuse: a file is written under a name of its own and never changed later. */
    ok = ok && H5Pset_file_locking(p, 0, 1) >= 0;
#endif
    cache.set_initial_size = 1;
    cache.initial_size = cache.min_size = 256 << 10;
    cache.max_size = 1 << 20;
    if (ok && H5Pset_mdc_config(p, &cache) >= 0) return p;
    if (p >= 0) H5Pclose(p);
    return -1;
}

static hid_t text_type(size_t n)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && H5Tset_size(t, n ? n : 1) >= 0 && H5Tset_strpad(t, H5T_STR_NULLPAD) >= 0 &&
        H5Tset_cset(t, H5T_CSET_UTF8) >= 0)
        return t;
    if (t >= 0) H5Tclose(t);
    return -1;
}

/* --- writing --- */

hid_t h5_untimed(hid_t class)
{
    hid_t p = H5Pcreate(class);
    if (p < 0 || H5Pset_obj_track_times(p, false) >= 0) return p;
    H5Pclose(p);
    return -1;
}

cl_code h5_put_text(hid_t obj, const char *name, const char *text, cl_err *err)
{
    if (strlen(text) > H5_TEXT_MAX) return cl_fail(err, CL_E_INPUT, "attribute %s: over %d bytes", name, H5_TEXT_MAX);
    hid_t type = text_type(strlen(text)), space = H5Screate(H5S_SCALAR), a = -1;
    if (type >= 0 && space >= 0) a = H5Acreate2(obj, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    cl_code c = a >= 0 && H5Awrite(a, type, text) >= 0
                    ? CL_OK
                    : h5_fail(err, CL_E_RUN, "attribute %s: cannot be written", name);
    if (a >= 0) H5Aclose(a);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return c;
}

cl_code h5_set_text(hid_t obj, const char *name, const char *text, cl_err *err)
{
    hid_t type = text_type(strlen(text)), a = H5Aopen(obj, name, H5P_DEFAULT);
    cl_code c = type >= 0 && a >= 0 && H5Awrite(a, type, text) >= 0
                    ? CL_OK
                    : h5_fail(err, CL_E_RUN, "attribute %s: cannot be written", name);
    if (a >= 0) H5Aclose(a);
    if (type >= 0) H5Tclose(type);
    return c;
}

cl_code h5_put_ints(hid_t obj, const char *name, const int64_t *v, int n, cl_err *err)
{
    hsize_t dim = (hsize_t)n;
    hid_t space = n ? H5Screate_simple(1, &dim, NULL) : H5Screate(H5S_SCALAR), a = -1;
    if (space >= 0) a = H5Acreate2(obj, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    cl_code c = a >= 0 && H5Awrite(a, H5T_NATIVE_INT64, v) >= 0
                    ? CL_OK
                    : h5_fail(err, CL_E_RUN, "attribute %s: cannot be written", name);
    if (a >= 0) H5Aclose(a);
    if (space >= 0) H5Sclose(space);
    return c;
}

hid_t h5_put_group(hid_t loc, const char *name, const char *description, cl_err *err)
{
    hid_t p = h5_untimed(H5P_GROUP_CREATE), g = -1;
    if (p >= 0 && H5Pset_attr_phase_change(p, 64, 32) >= 0) g = H5Gcreate2(loc, name, H5P_DEFAULT, p, H5P_DEFAULT);
    if (g < 0) h5_fail(err, CL_E_RUN, "group %s: cannot be written", name);
    if (p >= 0) H5Pclose(p);
    if (g >= 0 && h5_put_text(g, "description", description, err) != CL_OK) {
        H5Gclose(g);
        return -1;
    }
    return g;
}

typedef struct kind_info {
    hid_t file, memory;
    size_t size;
} kind_info;

static kind_info kind_of(h5_kind k)
{
    switch (k) {
    case H5_U8: return (kind_info){H5T_STD_U8LE, H5T_NATIVE_UINT8, 1};
    case H5_U32: return (kind_info){H5T_STD_U32LE, H5T_NATIVE_UINT32, 4};
    case H5_I32: return (kind_info){H5T_STD_I32LE, H5T_NATIVE_INT32, 4};
    default: return (kind_info){H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 4};
    }
}

/* The machine is little-endian (so are all that chipline is built for): bytes in memory are bytes in the file. */
static uint64_t hash_bytes(const void *data, uint64_t n) { return XXH3_64bits(data, n); }

cl_code h5_put_array(hid_t loc, const h5_array *a, const void *data, cl_err *err)
{
    kind_info k = kind_of(a->kind);
    hsize_t n = a->dims[0] * (a->rank > 1 ? a->dims[1] : 1);
    hid_t space = H5Screate_simple(a->rank, a->dims, NULL), p = h5_untimed(H5P_DATASET_CREATE), d = -1;
    if (space >= 0 && p >= 0) d = H5Dcreate2(loc, a->name, k.file, space, H5P_DEFAULT, p, H5P_DEFAULT);
    cl_code c = d >= 0 && (!n || H5Dwrite(d, k.memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0)
                    ? CL_OK
                    : h5_fail(err, CL_E_RUN, "%s: cannot be written", a->name);
    char hex[HASH_DIGITS + 1];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash_bytes(data, n * k.size));
    if (c == CL_OK) c = h5_put_text(d, "xxh3", hex, err);
    if (c == CL_OK) c = h5_put_text(d, "description", a->description, err);
    if (c == CL_OK && a->unit) c = h5_put_text(d, "unit", a->unit, err);
    if (d >= 0) H5Dclose(d);
    if (p >= 0) H5Pclose(p);
    if (space >= 0) H5Sclose(space);
    return c;
}

/* --- reading --- */

/* A hard link: the object is in this file. */
static bool is_hard(hid_t loc, const char *name)
{
    H5L_info_t info;
    return H5Lget_info(loc, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

cl_code h5_exists(hid_t loc, const char *name, bool *yes, cl_err *err)
{
    htri_t there = H5Lexists(loc, name, H5P_DEFAULT);
    *yes = there > 0;
    return there < 0 ? h5_fail(err, CL_E_INPUT, "%s: cannot be looked up", name) : CL_OK;
}

hid_t h5_get_group(hid_t loc, const char *name, cl_err *err)
{
    hid_t g = is_hard(loc, name) ? H5Gopen2(loc, name, H5P_DEFAULT) : -1;
    if (g < 0) h5_fail(err, CL_E_INPUT, "group %s: missing or damaged", name);
    return g;
}

cl_code h5_get_text(hid_t obj, const char *name, char *buf, size_t cap, cl_err *err)
{
    hid_t a = H5Aopen(obj, name, H5P_DEFAULT);
    if (a < 0) return h5_fail(err, CL_E_INPUT, "attribute %s: missing or damaged", name);
    cl_code c = CL_OK;
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    if (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
        H5Sget_simple_extent_type(space) != H5S_SCALAR)
        c = cl_fail(err, CL_E_INPUT, "attribute %s: is not a text of fixed length", name);
    size_t n = c == CL_OK ? H5Tget_size(type) : 0;
    if (c == CL_OK && n >= cap)
        c = cl_fail(err, CL_E_INPUT, "attribute %s: has %zu bytes, at most %zu make sense", name, n, cap - 1);
    if (c == CL_OK && H5Aread(a, type, buf) < 0) c = h5_fail(err, CL_E_INPUT, "attribute %s: cannot be read", name);
    if (c == CL_OK) buf[n] = 0;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    H5Aclose(a);
    return c;
}

cl_code h5_get_ints(hid_t obj, const char *name, int64_t *v, int n, cl_err *err)
{
    hid_t a = H5Aopen(obj, name, H5P_DEFAULT);
    if (a < 0) return h5_fail(err, CL_E_INPUT, "attribute %s: missing or damaged", name);
    cl_code c = CL_OK;
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    hsize_t dim = 0;
    bool good = type >= 0 && space >= 0 && H5Tequal(type, H5T_STD_I64LE) > 0;
    if (good && n == 0) good = H5Sget_simple_extent_type(space) == H5S_SCALAR;
    if (good && n > 0)
        good = H5Sget_simple_extent_ndims(space) == 1 && H5Sget_simple_extent_dims(space, &dim, NULL) == 1 &&
               dim == (hsize_t)n;
    if (!good) c = cl_fail(err, CL_E_INPUT, "attribute %s: is not %d int64", name, n ? n : 1);
    else if (H5Aread(a, H5T_NATIVE_INT64, v) < 0) c = h5_fail(err, CL_E_INPUT, "attribute %s: cannot be read", name);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    H5Aclose(a);
    return c;
}

cl_code h5_get_hash(hid_t obj, const char *name, uint64_t *out, cl_err *err)
{
    char hex[HASH_DIGITS + 2];
    cl_code c = h5_get_text(obj, name, hex, sizeof hex, err);
    if (c != CL_OK) return c;
    size_t n = 0;
    while (isxdigit((unsigned char)hex[n])) n++;
    if (n != HASH_DIGITS || hex[n])
        return cl_fail(err, CL_E_INPUT, "attribute %s: is not %d hexadecimal digits", name, HASH_DIGITS);
    *out = strtoull(hex, NULL, 16);
    return CL_OK;
}

/* Rank and dimensions; the bytes (dims times size, no overflow) are stored contiguously inside the file. */
static cl_code check_array(hid_t d, const char *name, kind_info k, int rank, hsize_t *dims, uint64_t *offset,
                           cl_err *err)
{
    hid_t type = H5Dget_type(d), space = H5Dget_space(d), p = H5Dget_create_plist(d), file = H5Iget_file_id(d);
    hsize_t file_size = 0;
    uint64_t bytes = k.size;
    cl_code c = CL_OK;
    *offset = 0;
    if (type < 0 || space < 0 || p < 0 || file < 0 || H5Fget_filesize(file, &file_size) < 0)
        c = h5_fail(err, CL_E_INPUT, "%s: cannot be read", name);
    else if (H5Tequal(type, k.file) <= 0)
        c = cl_fail(err, CL_E_INPUT, "%s: has another number type than expected", name);
    else if (H5Sget_simple_extent_ndims(space) != rank || H5Sget_simple_extent_dims(space, dims, NULL) != rank)
        c = cl_fail(err, CL_E_INPUT, "%s: has not %d dimensions", name, rank);
    else if (H5Pget_layout(p) != H5D_CONTIGUOUS || H5Pget_external_count(p) != 0)
        c = cl_fail(err, CL_E_INPUT, "%s: is not stored in one piece", name);
    for (int i = 0; c == CL_OK && i < rank; i++)
        if (__builtin_mul_overflow(bytes, (uint64_t)dims[i], &bytes))
            c = cl_fail(err, CL_E_INPUT, "%s: its size overflows", name);
    if (c == CL_OK && bytes) {
        haddr_t at = H5Dget_offset(d);
        if (at == HADDR_UNDEF || H5Dget_storage_size(d) != bytes || bytes > file_size || at > file_size - bytes)
            c = cl_fail(err, CL_E_INPUT, "%s: its %llu bytes are not all in the file (copy it again)", name,
                        (unsigned long long)bytes);
        *offset = at;
    }
    if (file >= 0) H5Fclose(file);
    if (p >= 0) H5Pclose(p);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return c;
}

hid_t h5_open_array(hid_t loc, const char *name, h5_kind kind, int rank, hsize_t *dims, uint64_t *offset, cl_err *err)
{
    hid_t d = is_hard(loc, name) ? H5Dopen2(loc, name, H5P_DEFAULT) : -1;
    if (d < 0) {
        h5_fail(err, CL_E_INPUT, "%s: missing or damaged", name);
        return -1;
    }
    if (check_array(d, name, kind_of(kind), rank, dims, offset, err) == CL_OK) return d;
    H5Dclose(d);
    return -1;
}

cl_code h5_get_array(hid_t loc, const char *name, h5_kind kind, int rank, hsize_t *dims, void **data, uint64_t *hash,
                     cl_err *err)
{
    kind_info k = kind_of(kind);
    uint64_t offset, want = 0;
    hid_t d = h5_open_array(loc, name, kind, rank, dims, &offset, err);
    if (d < 0) return CL_E_INPUT;
    hsize_t bytes = k.size;
    for (int i = 0; i < rank; i++) bytes *= dims[i];
    *data = cl_malloc(bytes + 1, 1, name, err);
    cl_code c = *data ? CL_OK : CL_E_FIT;
    if (c == CL_OK && bytes && H5Dread(d, k.memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, *data) < 0)
        c = h5_fail(err, CL_E_INPUT, "%s: cannot be read", name);
    if (c == CL_OK && (c = h5_get_hash(d, "xxh3", &want, err)) != CL_OK) cl_fail_prefix(err, "%s", name);
    if (c == CL_OK && hash_bytes(*data, bytes) != want)
        c = cl_fail(err, CL_E_INPUT, "%s: its checksum does not match (the file is damaged: copy it again)", name);
    H5Dclose(d);
    if (c != CL_OK) {
        free(*data);
        *data = NULL;
        return c;
    }
    ((char *)*data)[bytes] = 0;
    if (hash) *hash = want;
    return CL_OK;
}
