/* table.c: rows of a struct. In memory they are the struct; in the file packed, little-endian, in the columns'
 * order. */
#include "h5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"

enum { WHOLE_CHUNK = 4096 /* at most, of a table that is written whole */ };

static size_t packed_bytes(const cl_store_row *row)
{
    size_t n = 0;
    for (int i = 0; i < row->n; i++) n += row->columns[i].bytes;
    return n;
}

/* A column's type alone, which for numbers is the library's own. < 0 on failure. */
static hid_t member_type(const cl_store_column *c, bool packed)
{
    if (c->type == CL_STORE_TEXT) return h5_text_type(c->bytes);
    h5_number k = h5_number_of(c->type);
    return H5Tcopy(packed ? k.file : k.memory);
}

/* The struct's type in memory, or packed in the file. */
static hid_t row_type(const cl_store_row *row, bool packed)
{
    size_t at = 0;
    hid_t t = H5Tcreate(H5T_COMPOUND, packed ? packed_bytes(row) : row->bytes);
    for (int i = 0; t >= 0 && i < row->n; i++) {
        const cl_store_column *c = &row->columns[i];
        hid_t type = member_type(c, packed);
        bool ok = type >= 0 && H5Tinsert(t, c->name, packed ? at : c->offset, type) >= 0;
        if (type >= 0) H5Tclose(type);
        if (!ok) {
            H5Tclose(t);
            return -1;
        }
        at += c->bytes;
    }
    return t;
}

/* --- writing --- */

cl_code cl_store_describe(cl_store_node n, const cl_store_row *row, cl_err *err)
{
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < row->n; i++) {
        char name[80];
        snprintf(name, sizeof name, "%s.unit", row->columns[i].name);
        c = cl_store_put_text(n, name, row->columns[i].unit, err);
        snprintf(name, sizeof name, "%s.description", row->columns[i].name);
        if (c == CL_OK) c = cl_store_put_text(n, name, row->columns[i].description, err);
    }
    return c;
}

cl_code cl_store_make_table(cl_store_node in, const char *name, const cl_store_row *row, bool described, uint64_t chunk,
                            cl_store_table *out, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    const hsize_t none = 0, unlimited = H5S_UNLIMITED, rows = chunk;
    *out = (cl_store_table){{in.store, -1}, row, 0};
    hid_t type = row_type(row, true), space = H5Screate_simple(1, &none, &unlimited),
          how = h5_untimed(H5P_DATASET_CREATE);
    bool ok = type >= 0 && space >= 0 && how >= 0 && H5Pset_chunk(how, 1, &rows) >= 0 &&
              H5Pset_attr_phase_change(how, 64, 32) >= 0;
    if (ok && H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0) ok = H5Pset_shuffle(how) >= 0 && H5Pset_deflate(how, 1) >= 0;
    else if (ok) ok = H5Pset_fletcher32(how) >= 0;
    if (ok) out->node.id = H5Dcreate2(in.id, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    cl_code c = out->node.id >= 0 ? CL_OK : h5_unwritten(&s, in.store, "table ", name, err);
    if (c == CL_OK && described && (c = cl_store_describe(out->node, row, err)) != CL_OK) cl_store_release(&out->node);
    if (how >= 0) H5Pclose(how);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    h5_leave(&s);
    return c;
}

cl_code cl_store_open_table(cl_store_node in, const char *name, const cl_store_row *row, cl_store_table *out,
                            cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    *out = (cl_store_table){{in.store, h5_is_hard(in.id, name) ? H5Dopen2(in.id, name, H5P_DEFAULT) : -1}, row, 0};
    hid_t space = out->node.id >= 0 ? H5Dget_space(out->node.id) : -1;
    hssize_t rows = space >= 0 ? H5Sget_simple_extent_npoints(space) : -1;
    cl_code c = rows >= 0 ? CL_OK : h5_fail(&s, err, CL_E_INPUT, "table %s: missing or damaged", name);
    if (c == CL_OK) out->rows = (uint64_t)rows;
    else cl_store_release(&out->node);
    if (space >= 0) H5Sclose(space);
    h5_leave(&s);
    return c;
}

cl_code cl_store_append(cl_store_table *t, const void *rows, uint64_t n, cl_err *err)
{
    if (n == 0) return CL_OK;
    h5_scope s;
    h5_enter(&s);
    const hsize_t first = t->rows, count = n, total = t->rows + n;
    hid_t type = row_type(t->row, false), from = H5Screate_simple(1, &count, NULL), space = -1;
    bool ok = type >= 0 && from >= 0 && H5Dset_extent(t->node.id, &total) >= 0 &&
              (space = H5Dget_space(t->node.id)) >= 0 &&
              H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, NULL, &count, NULL) >= 0 &&
              H5Dwrite(t->node.id, type, from, space, H5P_DEFAULT, rows) >= 0;
    cl_code c = ok ? CL_OK : h5_unwritten(&s, t->node.store, "", "table", err);
    if (ok) t->rows = total;
    if (space >= 0) H5Sclose(space);
    if (from >= 0) H5Sclose(from);
    if (type >= 0) H5Tclose(type);
    h5_leave(&s);
    return c;
}

cl_code cl_store_close_table(cl_store_table *t, cl_err *err)
{
    if (t->node.id < 0) return CL_OK;
    h5_scope s;
    h5_enter(&s);
    cl_code c = t->node.store->failed || H5Dflush(t->node.id) < 0 ? h5_unwritten(&s, t->node.store, "", "table", err)
                                                                  : CL_OK;
    cl_store_release(&t->node);
    h5_leave(&s);
    return c;
}

cl_code cl_store_put_table(cl_store_node in, const char *name, const cl_store_row *row, const void *rows, uint64_t n,
                           cl_err *err)
{
    cl_store_table t;
    uint64_t chunk = n < 1 ? 1 : n < WHOLE_CHUNK ? n : WHOLE_CHUNK;
    cl_code c = cl_store_make_table(in, name, row, true, chunk, &t, err);
    if (c != CL_OK) return c;
    c = cl_store_append(&t, rows, n, err);
    if (c == CL_OK) return cl_store_close_table(&t, err);
    cl_store_release(&t.node);
    return c;
}

/* --- reading --- */

/* Every column is there with its type; a text may have another length. */
static cl_code check_columns(hid_t type, const char *name, const cl_store_row *row, cl_err *err)
{
    for (int i = 0; i < row->n; i++) {
        const cl_store_column *c = &row->columns[i];
        int at = H5Tget_member_index(type, c->name);
        if (at < 0) return cl_fail(err, CL_E_INPUT, "table %s: has no column %s", name, c->name);
        hid_t member = H5Tget_member_type(type, (unsigned)at);
        bool good = member >= 0 &&
                    (c->type == CL_STORE_TEXT ? H5Tget_class(member) == H5T_STRING && H5Tis_variable_str(member) == 0
                                              : H5Tequal(member, h5_number_of(c->type).file) > 0);
        if (member >= 0) H5Tclose(member);
        if (!good) return cl_fail(err, CL_E_INPUT, "table %s: column %s has another type than expected", name, c->name);
    }
    return CL_OK;
}

/* Rows of d, whose columns are known to be there. */
static cl_code read_rows(const h5_scope *s, hid_t d, const char *name, const cl_store_row *row, uint64_t n, void *rows,
                         cl_err *err)
{
    hid_t memory = row_type(row, false);
    cl_code c = memory >= 0 && H5Dread(d, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows) >= 0
                    ? CL_OK
                    : h5_fail(s, err, CL_E_INPUT, "table %s: cannot be read", name);
    if (memory >= 0) H5Tclose(memory);
    for (int i = 0; c == CL_OK && i < row->n; i++) {
        const cl_store_column *k = &row->columns[i];
        for (uint64_t r = 0; k->type == CL_STORE_TEXT && r < n; r++)
            ((char *)rows)[r * row->bytes + k->offset + k->bytes - 1] = 0;
    }
    return c;
}

cl_code cl_store_get_table(cl_store_node in, const char *name, const cl_store_row *row, uint64_t max, void **rows,
                           uint64_t *n, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    *rows = NULL;
    *n = 0;
    hid_t d = h5_is_hard(in.id, name) ? H5Dopen2(in.id, name, H5P_DEFAULT) : -1, type = -1, space = -1;
    cl_code c = d < 0 ? h5_fail(&s, err, CL_E_INPUT, "table %s: missing or damaged", name) : CL_OK;
    if (c == CL_OK) type = H5Dget_type(d), space = H5Dget_space(d);
    if (c == CL_OK &&
        (type < 0 || space < 0 || H5Tget_class(type) != H5T_COMPOUND || H5Sget_simple_extent_ndims(space) != 1))
        c = cl_fail(err, CL_E_INPUT, "table %s: is no table", name);
    hssize_t count = c == CL_OK ? H5Sget_simple_extent_npoints(space) : 0;
    if (c == CL_OK && (count < 0 || (uint64_t)count > max))
        c = cl_fail(err, CL_E_INPUT, "table %s: has %lld rows, at most %llu make sense", name, (long long)count,
                    (unsigned long long)max);
    if (c == CL_OK) c = check_columns(type, name, row, err);
    if (c == CL_OK && !(*rows = cl_calloc((size_t)count, row->bytes, name, err))) c = CL_E_FIT;
    if (c == CL_OK && count) c = read_rows(&s, d, name, row, (uint64_t)count, *rows, err);
    if (c == CL_OK) *n = (uint64_t)count;
    else {
        free(*rows);
        *rows = NULL;
    }
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (d >= 0) H5Dclose(d);
    h5_leave(&s);
    return c;
}
