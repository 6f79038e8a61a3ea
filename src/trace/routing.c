/* routing.c: /routing of TRACE.h5: how often each layer's router chose each expert. Written for file.c, read back for
 * a placement of whole experts. */
#include "routing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chipline/trace.h"

static const char description[] = "tokens that chose an expert, [layer of the model][expert]; dense layers: zeros";

bool trace_write_routing(hid_t file, const uint64_t *chosen, int layers, int experts)
{
    const hsize_t size[] = {(hsize_t)layers, (hsize_t)experts};
    hid_t space = H5Screate_simple(2, size, NULL), d = -1, text = H5Tcopy(H5T_C_S1), scalar = H5Screate(H5S_SCALAR),
          a = -1;
    if (space >= 0) d = H5Dcreate2(file, "routing", H5T_NATIVE_UINT64, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = d >= 0 && H5Dwrite(d, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, chosen) >= 0 && text >= 0 &&
              scalar >= 0;
    if (ok && H5Tset_size(text, sizeof description) >= 0)
        a = H5Acreate2(d, "description", text, scalar, H5P_DEFAULT, H5P_DEFAULT);
    ok = ok && a >= 0 && H5Awrite(a, text, description) >= 0 && H5Aclose(a) >= 0 && H5Dclose(d) >= 0;
    if (scalar >= 0) H5Sclose(scalar);
    if (text >= 0) H5Tclose(text);
    if (space >= 0) H5Sclose(space);
    return ok;
}

static cl_code read_table(hid_t file, const char *path, uint64_t **chosen, int *layers, int *experts, cl_err *err)
{
    hsize_t size[2] = {0};
    hid_t d = H5Lexists(file, "routing", H5P_DEFAULT) > 0 ? H5Dopen2(file, "routing", H5P_DEFAULT) : -1, space = -1;
    cl_code c = CL_OK;
    if (d < 0) return cl_fail(err, CL_E_INPUT, "%s: has no routing (trace a run of a model with experts)", path);
    if ((space = H5Dget_space(d)) < 0 || H5Sget_simple_extent_ndims(space) != 2 ||
        H5Sget_simple_extent_dims(space, size, NULL) != 2 || !size[0] || !size[1] || size[0] > 1 << 16 ||
        size[1] > 1 << 20)
        c = cl_fail(err, CL_E_INPUT, "%s: its routing is no table of layers and experts", path);
    if (c == CL_OK && !(*chosen = cl_malloc((size_t)(size[0] * size[1]), sizeof **chosen, "routing", err)))
        c = CL_E_FIT;
    if (c == CL_OK && H5Dread(d, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, *chosen) < 0) {
        free(*chosen);
        c = cl_fail(err, CL_E_INPUT, "%s: its routing cannot be read (it is damaged)", path);
    }
    *layers = (int)size[0];
    *experts = (int)size[1];
    if (space >= 0) H5Sclose(space);
    H5Dclose(d);
    return c;
}

cl_code cl_trace_routing_read(const char *path, uint64_t **chosen, int *layers, int *experts, cl_err *err)
{
    H5E_auto2_t print;
    void *data;
    if (access(path, R_OK) != 0) return cl_fail(err, CL_E_INPUT, "%s: %s", path, strerror(errno));
    H5Eget_auto2(H5E_DEFAULT, &print, &data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cl_code c = file >= 0 ? read_table(file, path, chosen, layers, experts, err)
                          : cl_fail(err, CL_E_INPUT, "%s: cannot be read as a trace (give a TRACE.h5 of a run)", path);
    if (file >= 0) H5Fclose(file);
    H5Eset_auto2(H5E_DEFAULT, print, data);
    return c;
}
