/* described.c: a model file as one process read it, for others that read rows of it: thousands of ranks need not look
 * at every tensor's metadata each. The bytes are the program's own structs, one after the other. */
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"
#include "stored.h"

/* Addresses within mean nothing. */
typedef struct described_head {
    cl_store_stamp stamp;
    uint64_t checksum, bytes; /* of all */
    size_t source_bytes;
    cl_model model;
} described_head;

static size_t bytes_of_freqs(const cl_rope *r) { return (size_t)r->dims / 2 * sizeof *r->inv_freq; }

static void put(unsigned char **at, const void *data, size_t bytes)
{
    if (bytes) memcpy(*at, data, bytes);
    *at += bytes;
}

cl_code cl_model_file_describe(const cl_model_file *f, void **described, size_t *bytes, cl_err *err)
{
    const cl_model *m = &f->model;
    const cl_spec *s = &m->spec;
    const size_t tensors = (size_t)m->n_tensors, layers = (size_t)s->n_layers, ropes = (size_t)s->n_ropes;
    described_head h = {.checksum = f->checksum, .source_bytes = strlen(f->source) + 1, .model = *m};
    cl_code c = cl_store_get_stamp(f->store, &h.stamp, err);
    if (c != CL_OK) return c;
    h.bytes = sizeof h + h.source_bytes + layers * sizeof *s->layers + ropes * sizeof *s->ropes +
              tensors * (sizeof *m->tensors + sizeof *f->places);
    for (size_t i = 0; i < ropes; i++) h.bytes += bytes_of_freqs(&s->ropes[i]);
    unsigned char *at = *described = cl_malloc(h.bytes, 1, "model description", err);
    if (!at) return CL_E_FIT;
    *bytes = h.bytes;
    put(&at, &h, sizeof h);
    put(&at, f->source, h.source_bytes);
    put(&at, s->layers, layers * sizeof *s->layers);
    put(&at, s->ropes, ropes * sizeof *s->ropes);
    for (size_t i = 0; i < ropes; i++) put(&at, s->ropes[i].inv_freq, bytes_of_freqs(&s->ropes[i]));
    put(&at, m->tensors, tensors * sizeof *m->tensors);
    put(&at, f->places, tensors * sizeof *f->places);
    return CL_OK;
}

/* The next bytes, as a block of their own; NULL if there is no memory for it. */
static void *take(const unsigned char **at, size_t bytes, cl_err *err)
{
    void *data = cl_malloc(bytes, 1, "model description", err);
    if (data) memcpy(data, *at, bytes);
    *at += bytes;
    return data;
}

static cl_code take_ropes(const unsigned char **at, cl_spec *s, int n, cl_err *err)
{
    if (!n) return CL_OK;
    if (!(s->ropes = take(at, (size_t)n * sizeof *s->ropes, err))) return CL_E_FIT;
    for (int i = 0; i < n; i++) {
        cl_rope *r = &s->ropes[i];
        s->n_ropes = i + 1;
        if (!(r->inv_freq = take(at, bytes_of_freqs(r), err))) return CL_E_FIT;
    }
    return CL_OK;
}

static cl_code take_file(cl_model_file *f, const described_head *h, const unsigned char *at, cl_err *err)
{
    cl_model *m = &f->model;
    const size_t tensors = (size_t)h->model.n_tensors;
    *m = h->model;
    m->tensors = NULL;
    m->spec.layers = NULL;
    m->spec.ropes = NULL;
    m->spec.n_ropes = 0;
    f->checksum = h->checksum;
    if (!(f->source = take(&at, h->source_bytes, err)) ||
        !(m->spec.layers = take(&at, (size_t)m->spec.n_layers * sizeof *m->spec.layers, err)) ||
        take_ropes(&at, &m->spec, h->model.spec.n_ropes, err) != CL_OK ||
        !(m->tensors = take(&at, tensors * sizeof *m->tensors, err)) ||
        !(f->places = take(&at, tensors * sizeof *f->places, err)))
        return CL_E_FIT;
    return CL_OK;
}

cl_code cl_model_file_open_described(cl_model_file **out, const char *path, const void *described, size_t bytes,
                                     cl_err *err)
{
    described_head h;
    cl_store *store;
    *out = NULL;
    if (bytes < sizeof h) CL_BUG("model description: %zu bytes", bytes);
    memcpy(&h, described, sizeof h);
    if (h.bytes != bytes) CL_BUG("model description: %zu bytes of %zu", bytes, (size_t)h.bytes);
    cl_code c = cl_store_open_rows(&store, path, &h.stamp, err);
    if (c != CL_OK) return c;
    if (!store) return cl_model_file_open(out, path, err);
    cl_model_file *f = cl_calloc(1, sizeof *f, "model file", err);
    if (!f) {
        cl_store_close(store);
        return CL_E_FIT;
    }
    f->store = store;
    c = take_file(f, &h, (const unsigned char *)described + sizeof h, err);
    if (c == CL_OK) *out = f;
    else cl_model_file_close(f);
    return c;
}
