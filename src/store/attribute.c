/* attribute.c: texts and numbers beside groups, arrays and tables, written plainly and read with suspicion. */
#include "h5.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HASH_DIGITS = 16 };

/* --- writing --- */

/* count 0: a scalar. */
static cl_code put(cl_store_node n, const char *name, hid_t file_type, hid_t type, int count, const void *value,
                   cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    hsize_t dim = (hsize_t)count;
    hid_t space = count ? H5Screate_simple(1, &dim, NULL) : H5Screate(H5S_SCALAR), a = -1;
    if (file_type >= 0 && space >= 0) a = H5Acreate2(n.id, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    cl_code c = a >= 0 && H5Awrite(a, type, value) >= 0 ? CL_OK : h5_unwritten(&s, n.store, "attribute ", name, err);
    if (a >= 0) H5Aclose(a);
    if (space >= 0) H5Sclose(space);
    h5_leave(&s);
    return c;
}

cl_code cl_store_put_text(cl_store_node n, const char *name, const char *text, cl_err *err)
{
    if (strlen(text) > CL_STORE_TEXT_MAX)
        return cl_fail(err, CL_E_INPUT, "attribute %s: over %d bytes", name, CL_STORE_TEXT_MAX);
    hid_t type = h5_text_type(strlen(text));
    cl_code c = put(n, name, type, type, 0, text, err);
    if (type >= 0) H5Tclose(type);
    return c;
}

cl_code cl_store_put_ints(cl_store_node n, const char *name, const int64_t *v, int count, cl_err *err)
{
    return put(n, name, H5T_STD_I64LE, H5T_NATIVE_INT64, count, v, err);
}

cl_code cl_store_put_int(cl_store_node n, const char *name, int64_t v, cl_err *err)
{
    return cl_store_put_ints(n, name, &v, 0, err);
}

cl_code cl_store_put_u64(cl_store_node n, const char *name, uint64_t v, cl_err *err)
{
    return put(n, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, 0, &v, err);
}

cl_code cl_store_put_double(cl_store_node n, const char *name, double v, cl_err *err)
{
    return put(n, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 0, &v, err);
}

cl_code cl_store_put_bool(cl_store_node n, const char *name, bool v, cl_err *err)
{
    int8_t b = 0;
    hid_t type = H5Tenum_create(H5T_STD_I8LE);
    bool ok = type >= 0 && H5Tenum_insert(type, "FALSE", &b) >= 0 && (b = 1, H5Tenum_insert(type, "TRUE", &b) >= 0);
    b = v;
    cl_code c = put(n, name, ok ? type : -1, type, 0, &b, err);
    if (type >= 0) H5Tclose(type);
    return c;
}

static void hash_text(uint64_t v, char hex[HASH_DIGITS + 1])
{
    snprintf(hex, HASH_DIGITS + 1, "%016llx", (unsigned long long)v);
}

cl_code cl_store_put_hash(cl_store_node n, const char *name, uint64_t v, cl_err *err)
{
    char hex[HASH_DIGITS + 1];
    hash_text(v, hex);
    return cl_store_put_text(n, name, hex, err);
}

cl_code cl_store_set_hash(cl_store_node n, const char *name, uint64_t v, cl_err *err)
{
    h5_scope s;
    char hex[HASH_DIGITS + 1];
    hash_text(v, hex);
    h5_enter(&s);
    hid_t type = h5_text_type(HASH_DIGITS), a = H5Aopen(n.id, name, H5P_DEFAULT);
    cl_code c = type >= 0 && a >= 0 && H5Awrite(a, type, hex) >= 0 ? CL_OK
                                                                   : h5_unwritten(&s, n.store, "attribute ", name, err);
    if (a >= 0) H5Aclose(a);
    if (type >= 0) H5Tclose(type);
    h5_leave(&s);
    return c;
}

cl_code cl_store_put_document(cl_store_node in, const char *name, const char *text, const char *description,
                              cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    hid_t type = h5_text_type(strlen(text)), space = H5Screate(H5S_SCALAR), p = h5_untimed(H5P_DATASET_CREATE);
    cl_store_node d = {in.store, -1};
    if (type >= 0 && space >= 0 && p >= 0) d.id = H5Dcreate2(in.id, name, type, space, H5P_DEFAULT, p, H5P_DEFAULT);
    cl_code c = d.id >= 0 && H5Dwrite(d.id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0
                    ? CL_OK
                    : h5_unwritten(&s, in.store, "", name, err);
    if (c == CL_OK) c = cl_store_put_text(d, "description", description, err);
    cl_store_release(&d);
    if (p >= 0) H5Pclose(p);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    h5_leave(&s);
    return c;
}

/* --- reading --- */

cl_code cl_store_has_attribute(cl_store_node n, const char *name, bool *yes, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    htri_t there = H5Aexists(n.id, name);
    *yes = there > 0;
    cl_code c = there < 0 ? h5_fail(&s, err, CL_E_INPUT, "attribute %s: cannot be looked up", name) : CL_OK;
    h5_leave(&s);
    return c;
}

cl_code cl_store_get_text(cl_store_node n, const char *name, char *buf, size_t cap, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    hid_t a = H5Aopen(n.id, name, H5P_DEFAULT), type = -1, space = -1;
    cl_code c = a < 0 ? h5_fail(&s, err, CL_E_INPUT, "attribute %s: missing or damaged", name) : CL_OK;
    if (c == CL_OK) type = H5Aget_type(a), space = H5Aget_space(a);
    if (c == CL_OK && (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
                       H5Sget_simple_extent_type(space) != H5S_SCALAR))
        c = cl_fail(err, CL_E_INPUT, "attribute %s: is not a text of fixed length", name);
    size_t bytes = c == CL_OK ? H5Tget_size(type) : 0;
    if (c == CL_OK && bytes >= cap)
        c = cl_fail(err, CL_E_INPUT, "attribute %s: has %zu bytes, at most %zu make sense", name, bytes, cap - 1);
    if (c == CL_OK && H5Aread(a, type, buf) < 0) c = h5_fail(&s, err, CL_E_INPUT, "attribute %s: cannot be read", name);
    if (c == CL_OK) buf[bytes] = 0;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    h5_leave(&s);
    return c;
}

/* `count` numbers, 0: a scalar, of exactly that type. */
static cl_code get(cl_store_node n, const char *name, cl_store_type kind, int count, const char *word, void *v,
                   cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    h5_number k = h5_number_of(kind);
    hsize_t dim = 0;
    hid_t a = H5Aopen(n.id, name, H5P_DEFAULT), type = -1, space = -1;
    cl_code c = a < 0 ? h5_fail(&s, err, CL_E_INPUT, "attribute %s: missing or damaged", name) : CL_OK;
    if (c == CL_OK) type = H5Aget_type(a), space = H5Aget_space(a);
    bool good = type >= 0 && space >= 0 && H5Tequal(type, k.file) > 0;
    if (good && count == 0) good = H5Sget_simple_extent_type(space) == H5S_SCALAR;
    if (good && count > 0)
        good = H5Sget_simple_extent_ndims(space) == 1 && H5Sget_simple_extent_dims(space, &dim, NULL) == 1 &&
               dim == (hsize_t)count;
    if (c == CL_OK && !good) c = cl_fail(err, CL_E_INPUT, "attribute %s: is not %d %s", name, count ? count : 1, word);
    else if (c == CL_OK && H5Aread(a, k.memory, v) < 0)
        c = h5_fail(&s, err, CL_E_INPUT, "attribute %s: cannot be read", name);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    h5_leave(&s);
    return c;
}

cl_code cl_store_get_ints(cl_store_node n, const char *name, int64_t *v, int count, cl_err *err)
{
    return get(n, name, CL_STORE_I64, count, "int64", v, err);
}

cl_code cl_store_get_u64(cl_store_node n, const char *name, uint64_t *v, cl_err *err)
{
    return get(n, name, CL_STORE_U64, 0, "uint64", v, err);
}

cl_code cl_store_get_double(cl_store_node n, const char *name, double *v, cl_err *err)
{
    return get(n, name, CL_STORE_F64, 0, "double", v, err);
}

cl_code cl_store_get_hash(cl_store_node n, const char *name, uint64_t *v, cl_err *err)
{
    char hex[HASH_DIGITS + 2];
    cl_code c = cl_store_get_text(n, name, hex, sizeof hex, err);
    if (c != CL_OK) return c;
    size_t digits = 0;
    while (isxdigit((unsigned char)hex[digits])) digits++;
    if (digits != HASH_DIGITS || hex[digits])
        return cl_fail(err, CL_E_INPUT, "attribute %s: is not %d hexadecimal digits", name, HASH_DIGITS);
    *v = strtoull(hex, NULL, 16);
    return CL_OK;
}
