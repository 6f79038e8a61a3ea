/* verify.c: every array that has a checksum, wherever it lies. */
#include "h5.h"

#include "chipline/util.h"

/* Type, rank and dimensions as the array itself says them; false if it is none of ours. */
static bool shape_of(hid_t d, cl_store_array *a)
{
    hid_t type = H5Dget_type(d), space = H5Dget_space(d);
    a->rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    bool known = false;
    for (int t = 0; type >= 0 && !known && t < CL_STORE_TEXT; t++) {
        a->type = (cl_store_type)t;
        known = H5Tequal(type, h5_number_of(a->type).file) > 0;
    }
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return known && a->rank >= 1 && a->rank <= CL_STORE_DIMS;
}

static cl_code verify_array(cl_store_node in, cl_store_node d, const char *name, cl_err *err)
{
    cl_store_array a = {0};
    bool has = false;
    uint64_t want = 0, got = 0;
    cl_code c = cl_store_has_attribute(d, "xxh3", &has, err);
    if (c == CL_OK && !has) return CL_OK;
    if (c == CL_OK && !shape_of(d.id, &a)) c = cl_fail(err, CL_E_INPUT, "has a checksum and is no array");
    if (c == CL_OK) c = cl_store_get_hash(d, "xxh3", &want, err);
    if (c != CL_OK) return cl_fail_prefix(err, "%s", name);
    c = cl_store_open_array(in, name, &a, NULL, err);
    if (c == CL_OK && (c = cl_store_hash_array(in.store, &a, &got, err)) != CL_OK) cl_fail_prefix(err, "%s", name);
    if (c == CL_OK && got != want)
        c = cl_fail(err, CL_E_INPUT, "%s: its checksum does not match (the file is damaged: copy it again)", name);
    return c;
}

static cl_code verify_group(cl_store_node g, const char *name, cl_err *err)
{
    char member[256];
    uint64_t n = 0;
    cl_code c = cl_store_count(g, &n, err);
    for (uint64_t i = 0; c == CL_OK && i < n; i++) {
        c = cl_store_name(g, i, member, sizeof member, err);
        if (c == CL_OK) c = cl_store_verify(g, member, err);
    }
    if (c != CL_OK) cl_fail_prefix(err, "%s", name);
    return c;
}

cl_code cl_store_verify(cl_store_node in, const char *name, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    cl_store_node n = {in.store, h5_is_hard(in.id, name) ? H5Oopen(in.id, name, H5P_DEFAULT) : -1};
    cl_code c = CL_OK;
    if (n.id < 0) c = h5_fail(&s, err, CL_E_INPUT, "%s: missing or damaged", name);
    else if (H5Iget_type(n.id) == H5I_GROUP) c = verify_group(n, name, err);
    else if (H5Iget_type(n.id) == H5I_DATASET) c = verify_array(in, n, name, err);
    cl_store_release(&n);
    h5_leave(&s);
    return c;
}
