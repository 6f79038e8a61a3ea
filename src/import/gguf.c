/* gguf.c: GGUF v2 and v3 files: the list of tensors, and split files seen as one (gguf.h). */
#include "gguf.h"

#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"
#include "gguf_head.h"
#include "gguf_types.h"

enum { MAX_ALIGNMENT = 1 << 20 };

/* --- tensors --- */

static cl_code read_tensor(cl_head_reader *r, cl_source *s, uint64_t alignment)
{
    cl_src_tensor t = {.file = r->file};
    size_t at, len;
    uint32_t n_dims, type;
    uint64_t ne[4];
    cl_code c = cl_head_get_str(r, "a tensor's name", CL_SRC_NAME, &at, &len);
    if (c == CL_OK && !cl_readable_name((char *)r->h->bytes + at, len, CL_SRC_NAME))
        c = cl_fail(r->err, CL_E_INPUT, "the tensor name at byte %zu is not a text (the file is damaged)", at);
    if (c == CL_OK) c = cl_head_get(r, &n_dims, 4, "a tensor's dimensions");
    if (c != CL_OK) return c;
    int shown = (int)len;
    if (n_dims < 1 || n_dims > 4)
        return cl_fail(r->err, CL_E_INPUT, "tensor %.*s has %u dimensions, 1 to 4 are allowed", shown,
                       (char *)r->h->bytes + at, n_dims);
    if ((c = cl_head_get(r, ne, 8 * n_dims, "a tensor's shape")) != CL_OK ||
        (c = cl_head_get(r, &type, 4, "a tensor's type")) != CL_OK ||
        (c = cl_head_get(r, &t.offset, 8, "a tensor's offset")) != CL_OK)
        return c;
    const char *name = (const char *)r->h->bytes + at;
    const cl_gguf_tensor_type *k = cl_gguf_tensor_type_get(type);
    if (!k) return cl_fail(r->err, CL_E_INPUT, "tensor %.*s has the unknown type %u", shown, name, type);
    int64_t numbers = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (ne[i] == 0 || ne[i] > INT64_MAX || __builtin_mul_overflow(numbers, (int64_t)ne[i], &numbers))
            return cl_fail(r->err, CL_E_INPUT, "tensor %.*s has an impossible shape", shown, name);
        t.dims[n_dims - 1 - i] = (int64_t)ne[i];
    }
    if (ne[0] % k->block)
        return cl_fail(r->err, CL_E_INPUT,
                       "tensor %.*s has rows of %llu numbers, no multiple of the %d that a block of %s holds", shown,
                       name, (unsigned long long)ne[0], k->block, k->name);
    if (__builtin_mul_overflow((uint64_t)numbers / k->block, k->bytes, &t.bytes)) t.bytes = UINT64_MAX;
    if (t.offset % alignment)
        return cl_fail(r->err, CL_E_INPUT, "tensor %.*s begins at byte %llu of the data, no multiple of %llu", shown,
                       name, (unsigned long long)t.offset, (unsigned long long)alignment);
    t.n_dims = (int)n_dims;
    t.format = k->format;
    memcpy(t.type, k->name, sizeof t.type);
    return cl_source_add(s, &t, name, len, r->err);
}

/* Reads the header of the file last added to s. */
static cl_code read_head(cl_source *s, cl_head *h, cl_err *err)
{
    cl_head_reader r = {.h = h, .s = s, .file = s->n_files - 1, .err = err};
    uint64_t size = s->files[r.file].size, n_tensors, n_kv, alignment = 32;
    unsigned char magic[4];
    uint32_t version;
    cl_code c = cl_head_get(&r, magic, 4, "the magic number");
    if (c == CL_OK && memcmp(magic, "GGUF", 4) != 0) c = cl_fail(err, CL_E_INPUT, "is not a GGUF file");
    if (c == CL_OK) c = cl_head_get(&r, &version, 4, "the version");
    if (c == CL_OK && version != 2 && version != 3)
        c = cl_fail(err, CL_E_INPUT, "is GGUF version %u; 2 and 3 are known%s", version,
                    version == 0x02000000u || version == 0x03000000u
                        ? " (it is big-endian: only little-endian files are read)"
                        : "");
    if (c == CL_OK) c = cl_head_get(&r, &n_tensors, 8, "the number of tensors");
    if (c == CL_OK) c = cl_head_get(&r, &n_kv, 8, "the number of metadata values");
    if (c == CL_OK) c = cl_head_get_metadata(&r, n_kv);
    if (c != CL_OK) return c;
    if (cl_head_find(h, "general.alignment") && (!cl_head_u64(h, "general.alignment", &alignment) || alignment == 0 ||
                                                 alignment > MAX_ALIGNMENT || (alignment & (alignment - 1))))
        return cl_fail(err, CL_E_INPUT, "general.alignment is not a power of two up to %d", MAX_ALIGNMENT);
    /* A tensor's entry takes 32 bytes or more. */
    if (n_tensors > (size - h->pos) / 32)
        return cl_fail(err, CL_E_INPUT, "the file is too short for %llu tensors (it is damaged)",
                       (unsigned long long)n_tensors);
    int first = s->n_tensors;
    for (uint64_t i = 0; i < n_tensors; i++)
        if ((c = read_tensor(&r, s, alignment)) != CL_OK) return c;
    uint64_t data = (h->pos + alignment - 1) & ~(alignment - 1), room = data < size ? size - data : 0;
    for (int i = first; i < s->n_tensors; i++) {
        cl_src_tensor *t = &s->tensors[i];
        if (t->bytes > room || t->offset > room - t->bytes)
            return cl_fail(err, CL_E_INPUT,
                           "tensor %s ends after the file's %llu bytes (the file is truncated: copy it again)", t->name,
                           (unsigned long long)size);
        t->offset += data;
    }
    return CL_OK;
}

/* --- split files --- */

/* NAME-00002-of-00005.gguf: where "-00002" begins, or NULL. */
static const char *split_suffix(const char *path)
{
    size_t n = strlen(path), m = strlen("-00001-of-00001.gguf");
    if (n < m) return NULL;
    const char *s = path + n - m, *shape = "-ddddd-of-ddddd.gguf";
    for (size_t i = 0; i < m; i++)
        if (shape[i] == 'd' ? s[i] < '0' || s[i] > '9' : s[i] != shape[i]) return NULL;
    return s;
}

/* Reads file `no` of `count`; *h gets its header. */
static cl_code read_part(cl_source *s, const char *path, cl_head *h, uint64_t no, uint64_t count, cl_err *err)
{
    cl_code c = cl_source_add_file(s, path, err);
    if (c != CL_OK) return c;
    c = read_head(s, h, err);
    uint64_t is_no = 0, is_count = 1;
    if (c == CL_OK && count > 1) {
        if (!cl_head_u64(h, "split.no", &is_no) || !cl_head_u64(h, "split.count", &is_count) || is_no != no ||
            is_count != count)
            c = cl_fail(err, CL_E_INPUT, "split.no and split.count do not say that it is file %llu of %llu",
                        (unsigned long long)no + 1, (unsigned long long)count);
    }
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s", path);
}

static cl_code read_others(cl_gguf *g, const char *path, uint64_t count, cl_err *err)
{
    const char *suffix = split_suffix(path);
    if (!suffix)
        return cl_fail(
            err, CL_E_INPUT,
            "%s: is one of %llu files, but its name does not end in -00001-of-%05llu.gguf (restore the name)", path,
            (unsigned long long)count, (unsigned long long)count);
    size_t stem = (size_t)(suffix - path), room = strlen(path) + 64;
    char *other = cl_malloc(room, 1, "path", err);
    if (!other) return CL_E_FIT;
    cl_code c = CL_OK;
    for (uint64_t no = 1; no < count && c == CL_OK; no++) {
        cl_head h = {0};
        snprintf(other, room, "%.*s-%05llu-of-%05llu.gguf", (int)stem, path, (unsigned long long)no + 1,
                 (unsigned long long)count);
        c = read_part(&g->source, other, &h, no, count, err);
        cl_head_free(&h);
    }
    free(other);
    uint64_t total;
    if (c == CL_OK && cl_head_u64(&g->head, "split.tensors.count", &total) && total != (uint64_t)g->source.n_tensors)
        c = cl_fail(err, CL_E_INPUT, "%s: split.tensors.count is %llu, the %llu files hold %d tensors", path,
                    (unsigned long long)total, (unsigned long long)count, g->source.n_tensors);
    return c;
}

cl_code cl_gguf_open(cl_gguf **out, const char *path, cl_err *err)
{
    cl_gguf *g = cl_calloc(1, sizeof *g, "GGUF reader", err);
    if (!g) return CL_E_FIT;
    cl_code c = read_part(&g->source, path, &g->head, 0, 1, err);
    uint64_t no = 0, count = 1;
    if (c == CL_OK && cl_head_u64(&g->head, "split.count", &count) && count > 1) {
        if (count > CL_SRC_FILES)
            c = cl_fail(err, CL_E_INPUT, "%s: split.count is %llu, at most %d files are read", path,
                        (unsigned long long)count, CL_SRC_FILES);
        else if (!cl_head_u64(&g->head, "split.no", &no) || no != 0)
            c = cl_fail(err, CL_E_INPUT,
                        "%s: is not the first of %llu files (give the one that ends in -00001-of-%05llu.gguf)", path,
                        (unsigned long long)count, (unsigned long long)count);
        else c = read_others(g, path, count, err);
    }
    if (c == CL_OK && (c = cl_source_finish(&g->source, err)) != CL_OK) cl_fail_prefix(err, "%s", path);
    if (c != CL_OK) {
        cl_gguf_close(g);
        return c;
    }
    *out = g;
    return CL_OK;
}

void cl_gguf_close(cl_gguf *g)
{
    if (!g) return;
    cl_source_free(&g->source);
    cl_head_free(&g->head);
    free(g);
}

const cl_source *cl_gguf_source(const cl_gguf *g) { return &g->source; }
