/* routing.c: /routing of TRACE.h5: how often each layer's router chose each expert. Read back for a placement of whole
 * experts. */
#include <stdlib.h>

#include "file.h"

enum { MAX_LAYERS = 1 << 16, MAX_EXPERTS = 1 << 20 };

cl_code cl_trace_file_routing(cl_trace_file *f, const uint64_t *chosen, int layers, int experts, cl_err *err)
{
    cl_store_array a = {CL_STORE_U64, 2, {(uint64_t)layers, (uint64_t)experts}, 0};
    cl_code c = cl_store_put_array(cl_store_root(f->store), "routing", &a,
                                   "tokens that chose an expert, [layer of the model][expert]; dense layers: zeros",
                                   "token", chosen, err);
    return c == CL_OK ? CL_OK : trace_unwritten(f, err);
}

/* Those of schema 1 have no checksum. */
static cl_code read_counts(cl_store *s, cl_store_array *a, uint64_t **chosen, cl_err *err)
{
    bool there = false, summed = false;
    uint64_t want = 0, has = 0;
    cl_store_node root = cl_store_root(s), d;
    cl_code c = cl_store_has(root, "routing", &there, err);
    if (c != CL_OK) return c;
    if (!there) return cl_fail(err, CL_E_INPUT, "has no routing (trace a run of a model with experts)");
    c = cl_store_open_array(root, "routing", a, &d, err);
    if (c != CL_OK) return c;
    uint64_t layers = a->dims[0], experts = a->dims[1];
    if (!layers || !experts || layers > MAX_LAYERS || experts > MAX_EXPERTS)
        c = cl_fail(err, CL_E_INPUT, "its routing is no table of layers and experts");
    if (c == CL_OK) c = cl_store_has_attribute(d, "xxh3", &summed, err);
    if (c == CL_OK && summed) c = cl_store_get_hash(d, "xxh3", &want, err);
    if (c == CL_OK && summed) c = cl_store_hash_array(s, a, &has, err);
    if (c == CL_OK && has != want) c = cl_fail(err, CL_E_INPUT, "its routing is damaged (copy it again)");
    if (c == CL_OK && !(*chosen = cl_malloc(layers * experts, sizeof **chosen, "routing", err))) c = CL_E_FIT;
    if (c == CL_OK) c = cl_store_read_rows(s, a, 0, layers, *chosen, err);
    cl_store_release(&d);
    return c;
}

cl_code cl_trace_routing_read(const char *path, uint64_t **chosen, int *layers, int *experts, cl_err *err)
{
    cl_store *s;
    cl_store_array a = {.type = CL_STORE_U64, .rank = 2};
    *chosen = NULL;
    cl_code c = cl_store_open(&s, path, "a trace (give a TRACE.h5 of a run)", err);
    if (c != CL_OK) return c;
    c = read_counts(s, &a, chosen, err);
    cl_store_close(s);
    if (c != CL_OK) {
        free(*chosen);
        *chosen = NULL;
        return cl_fail_prefix(err, "%s", path);
    }
    *layers = (int)a.dims[0];
    *experts = (int)a.dims[1];
    return CL_OK;
}
