/* slice.c: from the model file into panels, by all threads, in bounded pieces: no more than a few rows are held
 * twice. */
#include "slice.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <xxhash.h>

#include "chipline/util.h"

enum { STAGING = 1 << 20, ALIGN = 64, PAGE = 4096 };

/* What all threads that load share. */
typedef struct loader {
    const cl_model_file *file;
    const cl_kernels *k;
    int threads;
    size_t staging_bytes; /* of each thread */
    cl_progress progress;
    _Atomic uint64_t done;
    int failed; /* the first part that could not be read; n_parts: none */
    cl_err err; /* its error */
} loader;

/* One thread's own. */
typedef struct reader {
    loader *l;
    unsigned char *staging;
    XXH3_state_t *hash; /* of the tensor being read */
} reader;

static int64_t piece_rows(size_t row_bytes)
{
    int64_t rows = (int64_t)(STAGING / row_bytes) / CL_PANEL * CL_PANEL;
    return rows < CL_PANEL ? CL_PANEL : rows;
}

/* How many parts from parts[0] on are of the same tensor, and their experts together. */
static int same_tensor(const cl_extent *parts, int n, int64_t *experts)
{
    int i = 0;
    for (*experts = 0; i < n && parts[i].tensor == parts[0].tensor; i++) {
        if (parts[i].row0 != parts[0].row0 || parts[i].rows != parts[0].rows)
            CL_BUG("tensor %d: parts of other rows", parts[0].tensor);
        *experts += parts[i].experts;
    }
    return i;
}

/* Fills shape and size of one tensor and adds its bytes, rounded up to a cache line, to *total. */
static cl_code measure(slice_tensor *st, const cl_tensor *t, const cl_extent *p, int64_t experts, const cl_kernels *k,
                       size_t *total, cl_err *err)
{
    st->at = *total;
    st->row0 = p->row0;
    st->m = (cl_matrix){.format = t->format, .experts = experts, .rows = p->rows, .cols = t->cols};
    size_t bytes;
    bool ok;
    if (cl_role_is_vector(t->role)) {
        if (t->format != CL_F32)
            return cl_fail(err, CL_E_INPUT, "tensor %s: it must be f32 (convert the model again)", t->name);
        ok = !__builtin_mul_overflow((size_t)p->rows, sizeof(float), &bytes) &&
             !__builtin_mul_overflow(bytes, (size_t)experts, &bytes);
    } else {
        int64_t tile = cl_format_tile_rows(t->format), last = p->row0 + p->rows - 1;
        if (tile > 1 && p->row0 % CL_PANEL && p->row0 / tile != last / tile)
            CL_BUG("tensor %s: a panel from row %lld would mix scales", t->name, (long long)p->row0);
        st->m.panels = (p->rows + CL_PANEL - 1) / CL_PANEL;
        st->m.panel_bytes = k->panel_bytes(t->format, t->cols);
        ok = !__builtin_mul_overflow((size_t)st->m.panels, st->m.panel_bytes, &bytes) &&
             !__builtin_mul_overflow(bytes, (size_t)experts, &bytes);
    }
    ok = ok && !__builtin_add_overflow(bytes, ALIGN - 1, &bytes);
    bytes -= bytes % ALIGN;
    if (!ok || __builtin_add_overflow(*total, bytes, total))
        return cl_fail(err, CL_E_FIT, "tensor %s: larger than the address space (use more ranks)", t->name);
    return CL_OK;
}

/* Finds every part its place: the table, the offsets in the block, and how much staging the largest row needs. */
static cl_code lay_out(slice *s, loader *l, const cl_extent *parts, int n_parts, uint64_t *file_bytes, cl_err *err)
{
    const cl_model *model = cl_model_file_model(l->file);
    for (int i = 0, run; i < n_parts; i += run) {
        const cl_extent *p = &parts[i];
        const cl_tensor *t = &model->tensors[p->tensor];
        int64_t experts;
        run = same_tensor(p, n_parts - i, &experts);
        if (t->layer >= 0 && (t->layer < s->first_layer || t->layer >= s->first_layer + s->n_layers))
            CL_BUG("tensor %s does not belong to this stage", t->name);
        slice_tensor *st = slice_get(s, t->role, t->layer);
        if (st->m.cols) CL_BUG("tensor %s is in the slice twice", t->name);
        cl_code code = measure(st, t, p, experts, l->k, &s->bytes, err);
        if (code) return code;
        size_t row_bytes = cl_row_bytes(t->format, t->cols);
        *file_bytes += (uint64_t)experts * (uint64_t)p->rows * row_bytes;
        size_t want = cl_role_is_vector(t->role) ? 0 : (size_t)piece_rows(row_bytes) * row_bytes;
        if (want > l->staging_bytes) l->staging_bytes = want;
    }
    return CL_OK;
}

static bool is_whole(const cl_extent *p, const cl_tensor *t)
{
    return p->expert0 == 0 && p->experts == (t->experts ? t->experts : 1) && p->row0 == 0 && p->rows == t->rows;
}

static void advance(reader *r, uint64_t bytes)
{
    uint64_t done = atomic_fetch_add_explicit(&r->l->done, bytes, memory_order_relaxed) + bytes;
    if (!omp_get_thread_num()) cl_progress_at(&r->l->progress, done);
}

/* done: experts of this tensor that earlier parts have brought. */
static cl_code read_matrix(reader *r, slice_tensor *st, const cl_extent *p, int64_t done, cl_err *err)
{
    const cl_matrix *m = &st->m;
    size_t row_bytes = cl_row_bytes(m->format, m->cols);
    int64_t step = piece_rows(row_bytes);
    for (int64_t e = 0; e < p->experts; e++) {
        unsigned char *out = m->data + (size_t)(done + e) * slice_expert_bytes(m);
        for (int64_t row = 0; row < p->rows; row += step) {
            int64_t n = p->rows - row < step ? p->rows - row : step;
            cl_code code = cl_model_file_read(r->l->file, p->tensor, p->expert0 + e, p->row0 + row, n, r->staging, err);
            if (code) return code;
            XXH3_64bits_update(r->hash, r->staging, (size_t)n * row_bytes);
            r->l->k->pack(m->format, m->cols, r->staging, n, out + (size_t)(row / CL_PANEL) * m->panel_bytes);
            advance(r, (uint64_t)n * row_bytes);
        }
    }
    return CL_OK;
}

static cl_code read_vector(reader *r, slice_tensor *st, const cl_extent *p, int64_t done, cl_err *err)
{
    for (int64_t e = 0; e < p->experts; e++) {
        float *vec = st->vec + (done + e) * p->rows;
        cl_code code = cl_model_file_read(r->l->file, p->tensor, p->expert0 + e, p->row0, p->rows, vec, err);
        if (code) return code;
        XXH3_64bits_update(r->hash, vec, (size_t)p->rows * sizeof(float));
        advance(r, (uint64_t)p->rows * sizeof(float));
    }
    return CL_OK;
}

static cl_code read_part(const slice *s, reader *r, const cl_extent *parts, int i, cl_err *err)
{
    const cl_tensor *t = &cl_model_file_model(r->l->file)->tensors[parts[i].tensor];
    slice_tensor *st = slice_get(s, t->role, t->layer);
    int64_t done = 0;
    for (int k = i; k > 0 && parts[k - 1].tensor == parts[i].tensor; k--) done += parts[k - 1].experts;
    XXH3_64bits_reset(r->hash);
    cl_code code = st->vec ? read_vector(r, st, &parts[i], done, err) : read_matrix(r, st, &parts[i], done, err);
    if (code) return code;
    if (is_whole(&parts[i], t) && XXH3_64bits_digest(r->hash) != t->xxh3)
        return cl_fail(err, CL_E_INPUT,
                       "%s: tensor %s: its checksum is wrong (the file is damaged: copy or convert it again)",
                       cl_model_file_path(r->l->file), t->name);
    return CL_OK;
}

/* Every thread touches its share of each matrix's panels first, the share it will compute with: their memory is then
 * near it. */
static void touch(const slice *s)
{
    int id = omp_get_thread_num(), n = omp_get_num_threads();
    for (int i = 0; i < (1 + s->n_layers) * CL_ROLES; i++) {
        const cl_matrix *m = &s->tensors[i].m;
        for (int64_t e = 0; m->data && e < m->experts; e++) {
            unsigned char *first = m->data + (size_t)e * slice_expert_bytes(m);
            size_t from = (size_t)(m->panels * id / n) * m->panel_bytes,
                   to = (size_t)(m->panels * (id + 1) / n) * m->panel_bytes;
            for (; from < to; from += PAGE) first[from] = 0;
        }
    }
}

static void point(slice *s, const cl_model *model, const cl_extent *parts, int n_parts)
{
    for (int i = 0; i < n_parts; i++) {
        const cl_tensor *t = &model->tensors[parts[i].tensor];
        slice_tensor *st = slice_get(s, t->role, t->layer);
        if (cl_role_is_vector(t->role)) st->vec = (float *)(s->data + st->at);
        else st->m.data = s->data + st->at;
    }
}

/* Threads take parts one after the other; each reads, checks and packs its own. Of several failures the first part's
 * is told. */
static void read_parts(slice *s, loader *l, const cl_extent *parts, int n_parts)
{
#pragma omp parallel num_threads(l->threads)
    {
        reader r = {.l = l, .hash = XXH3_createState()};
        cl_err err;
        touch(s);
        r.staging = cl_malloc_aligned(l->staging_bytes, "the weights' staging buffer", &err);
        if (!r.hash) cl_fail(&err, CL_E_FIT, "a checksum: out of memory");
        bool ready = r.staging && r.hash;
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < n_parts; i++) {
            bool stop;
#pragma omp critical(slice_failed)
            stop = l->failed < i;
            if (stop || (ready && !read_part(s, &r, parts, i, &err))) continue;
#pragma omp critical(slice_failed)
            if (i < l->failed) l->failed = i, l->err = err;
        }
        XXH3_freeState(r.hash);
        if (r.staging) cl_free_aligned(r.staging, l->staging_bytes);
    }
}

static cl_code load(slice *s, loader *l, const cl_extent *parts, int n_parts, bool progress, cl_err *err)
{
    uint64_t file_bytes = 0;
    cl_code code;
    s->tensors = cl_calloc((size_t)(1 + s->n_layers) * CL_ROLES, sizeof *s->tensors, "the table of tensors", err);
    if (!s->tensors) return err->code;
    if ((code = lay_out(s, l, parts, n_parts, &file_bytes, err))) return code;
    if (!(s->data = cl_malloc_aligned(s->bytes, "the weights", err))) return err->code;
    point(s, cl_model_file_model(l->file), parts, n_parts);
    l->failed = n_parts;
    cl_progress_start(&l->progress, progress, "loading", file_bytes);
    read_parts(s, l, parts, n_parts);
    if (l->failed < n_parts) {
        *err = l->err;
        return err->code;
    }
    cl_progress_end(&l->progress, l->done);
    return CL_OK;
}

cl_code slice_load(slice *s, const cl_model_file *file, const cl_stage *stage, const cl_extent *parts, int n_parts,
                   const cl_kernels *k, int threads, bool progress, cl_err *err)
{
    *s = (slice){.first_layer = stage->first_layer, .n_layers = stage->n_layers};
    loader l = {.file = file, .k = k, .threads = threads};
    cl_code code = load(s, &l, parts, n_parts, progress, err);
    if (code) slice_free(s);
    return code;
}

void slice_free(slice *s)
{
    if (s->data) cl_free_aligned(s->data, s->bytes);
    free(s->tensors);
    *s = (slice){0};
}
