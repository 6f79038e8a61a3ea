/* group.c: groups, and what is in them. */
#include "h5.h"

cl_code cl_store_make_group(cl_store_node in, const char *name, const char *description, cl_store_node *out,
                            cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    *out = (cl_store_node){in.store, -1};
    hid_t p = h5_untimed(H5P_GROUP_CREATE);
    if (p >= 0 && H5Pset_attr_phase_change(p, 64, 32) >= 0)
        out->id = H5Gcreate2(in.id, name, H5P_DEFAULT, p, H5P_DEFAULT);
    cl_code c = out->id >= 0 ? CL_OK : h5_unwritten(&s, in.store, "group ", name, err);
    if (p >= 0) H5Pclose(p);
    if (c == CL_OK && (c = cl_store_put_text(*out, "description", description, err)) != CL_OK) cl_store_release(out);
    h5_leave(&s);
    return c;
}

cl_code cl_store_open_group(cl_store_node in, const char *name, cl_store_node *out, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    *out = (cl_store_node){in.store, h5_is_hard(in.id, name) ? H5Gopen2(in.id, name, H5P_DEFAULT) : -1};
    cl_code c = out->id >= 0 ? CL_OK : h5_fail(&s, err, CL_E_INPUT, "group %s: missing or damaged", name);
    h5_leave(&s);
    return c;
}

void cl_store_release(cl_store_node *n)
{
    h5_scope s;
    h5_enter(&s);
    if (n->id >= 0 && !n->store->failed && H5Oclose(n->id) < 0) n->store->failed = true;
    n->id = -1;
    h5_leave(&s);
}

cl_code cl_store_has(cl_store_node in, const char *name, bool *yes, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    htri_t there = H5Lexists(in.id, name, H5P_DEFAULT);
    *yes = there > 0;
    cl_code c = there < 0 ? h5_fail(&s, err, CL_E_INPUT, "%s: cannot be looked up", name) : CL_OK;
    h5_leave(&s);
    return c;
}

cl_code cl_store_count(cl_store_node group, uint64_t *n, cl_err *err)
{
    h5_scope s;
    H5G_info_t info = {0};
    h5_enter(&s);
    cl_code c = H5Gget_info(group.id, &info) < 0 ? h5_fail(&s, err, CL_E_INPUT, "group: cannot be read") : CL_OK;
    *n = info.nlinks;
    h5_leave(&s);
    return c;
}

cl_code cl_store_name(cl_store_node group, uint64_t i, char *buf, size_t cap, cl_err *err)
{
    h5_scope s;
    h5_enter(&s);
    ssize_t n = H5Lget_name_by_idx(group.id, ".", H5_INDEX_NAME, H5_ITER_INC, i, buf, cap, H5P_DEFAULT);
    cl_code c = CL_OK;
    if (n < 0) c = h5_fail(&s, err, CL_E_INPUT, "group: its names cannot be read");
    else if ((size_t)n >= cap) c = cl_fail(err, CL_E_INPUT, "group: a name has %zd bytes", n);
    h5_leave(&s);
    return c;
}
