/* slice.c: from the model file into panels, by all threads, in bounded pieces: no more than a few rows are held
 * twice. */
#include "slice.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <xxhash.h>

#include "chipline/util.h"

enum { STAGING = 1 << 20, ALIGN = 64, PAGE = 4096 };

typedef struct loader loader;

/* One thread's own. */
typedef struct reader {
    loader *l;
    bool first; /* the caller's: tells the progress, and polls */
    unsigned char *staging;
    XXH3_state_t *hash; /* of the tensor being read */
    int failed;         /* the first part that it could not read; n_extents: none */
    cl_err err;         /* its error */
} reader;

/* What all threads that load share. */
struct loader {
    slice *s;
    const cl_tensor_reader *from;
    const cl_model *model;
    const cl_kernels *k;
    const cl_extent *extents;
    int n_extents;
    cl_progress progress;
    void (*poll)(void *);
    void *poll_ctx;
    _Atomic uint64_t done;
    _Atomic int next, failed; /* parts given out; one that could not be read, so that later ones need not be */
    reader *readers;          /* [threads] */
};

static int64_t piece_rows(size_t row_bytes)
{
    int64_t rows = (int64_t)(STAGING / row_bytes) / CL_PANEL * CL_PANEL;
    return rows < CL_PANEL ? CL_PANEL : rows;
}

/* How many parts from extents[0] on are of the same tensor, and their experts together. */
static int same_tensor(const cl_extent *extents, int n, int64_t *experts)
{
    int i = 0;
    for (*experts = 0; i < n && extents[i].tensor == extents[0].tensor; i++) {
        if (extents[i].row0 != extents[0].row0 || extents[i].rows != extents[0].rows)
            CL_BUG("tensor %d: parts of other rows", extents[0].tensor);
        *experts += extents[i].experts;
    }
    return i;
}

/* Fills shape and size of one tensor and adds its bytes, rounded up to a cache line, to *total. */
static cl_code size_tensor(slice_tensor *st, const cl_tensor *t, const cl_extent *p, int64_t experts,
                           const cl_kernels *k, size_t *total, cl_err *err)
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
static cl_code lay_out(slice *s, const cl_model *model, const cl_extent *extents, int n_extents, const cl_kernels *k,
                       cl_err *err)
{
    for (int i = 0, run; i < n_extents; i += run) {
        const cl_extent *p = &extents[i];
        const cl_tensor *t = &model->tensors[p->tensor];
        int64_t experts;
        run = same_tensor(p, n_extents - i, &experts);
        if (t->layer >= 0 && (t->layer < s->first_layer || t->layer >= s->first_layer + s->n_layers))
            CL_BUG("tensor %s does not belong to this stage", t->name);
        slice_tensor *st = slice_get(s, t->role, t->layer);
        if (st->m.cols) CL_BUG("tensor %s is in the slice twice", t->name);
        cl_code code = size_tensor(st, t, p, experts, k, &s->bytes, err);
        if (code) return code;
        size_t row_bytes = cl_row_bytes(t->format, t->cols);
        s->file_bytes += (uint64_t)experts * (uint64_t)p->rows * row_bytes;
        size_t want = cl_role_is_vector(t->role) ? 0 : (size_t)piece_rows(row_bytes) * row_bytes;
        if (want > s->staging_bytes) s->staging_bytes = want;
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
    if (!r->first) return;
    cl_progress_at(&r->l->progress, done);
    if (r->l->poll) r->l->poll(r->l->poll_ctx);
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
            cl_code code =
                r->l->from->rows(r->l->from->ctx, p->tensor, p->expert0 + e, p->row0 + row, n, r->staging, err);
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
        cl_code code = r->l->from->rows(r->l->from->ctx, p->tensor, p->expert0 + e, p->row0, p->rows, vec, err);
        if (code) return code;
        XXH3_64bits_update(r->hash, vec, (size_t)p->rows * sizeof(float));
        advance(r, (uint64_t)p->rows * sizeof(float));
    }
    return CL_OK;
}

static cl_code read_extent(reader *r, int i, cl_err *err)
{
    const cl_extent *extents = r->l->extents;
    const cl_tensor *t = &r->l->model->tensors[extents[i].tensor];
    slice_tensor *st = slice_get(r->l->s, t->role, t->layer);
    int64_t done = 0;
    for (int k = i; k > 0 && extents[k - 1].tensor == extents[i].tensor; k--) done += extents[k - 1].experts;
    XXH3_64bits_reset(r->hash);
    cl_code code = st->vec ? read_vector(r, st, &extents[i], done, err) : read_matrix(r, st, &extents[i], done, err);
    if (code) return code;
    if (is_whole(&extents[i], t) && XXH3_64bits_digest(r->hash) != t->xxh3)
        return cl_fail(err, CL_E_INPUT,
                       "%s: tensor %s: its checksum is wrong (the file is damaged: copy or convert it again)",
                       r->l->from->name, t->name);
    return CL_OK;
}

/* Every thread touches its range of each matrix's panels first, the range it will compute with: their memory is then
 * near it. */
static void touch(const slice *s, const crew_member *m)
{
    for (int i = 0; i < (1 + s->n_layers) * CL_ROLES; i++) {
        const cl_matrix *w = &s->tensors[i].m;
        for (int64_t e = 0; w->data && e < w->experts; e++) {
            unsigned char *first = w->data + (size_t)e * slice_expert_bytes(w);
            int64_t a, b;
            crew_range(m, w->panels, &a, &b);
            for (size_t at = (size_t)a * w->panel_bytes; at < (size_t)b * w->panel_bytes; at += PAGE) first[at] = 0;
        }
    }
}

static void point(slice *s, const cl_model *model, const cl_extent *extents, int n_extents)
{
    for (int i = 0; i < n_extents; i++) {
        const cl_tensor *t = &model->tensors[extents[i].tensor];
        slice_tensor *st = slice_get(s, t->role, t->layer);
        if (cl_role_is_vector(t->role)) st->vec = (float *)(s->data + st->at);
        else st->m.data = s->data + st->at;
    }
}

static bool ready(reader *r)
{
    r->hash = XXH3_createState();
    r->staging = cl_malloc_aligned(r->l->s->staging_bytes, "the weights' staging buffer", &r->err);
    if (!r->hash) cl_fail(&r->err, CL_E_FIT, "a checksum: out of memory");
    return r->staging && r->hash;
}

/* Threads take parts one after the other; each reads, checks and packs its own. A part is left out only behind one
 * that failed. */
static void read_extents(const crew_member *m, void *ctx)
{
    loader *l = ctx;
    reader *r = &l->readers[m->id];
    *r = (reader){.l = l, .first = m->id == 0, .failed = l->n_extents};
    touch(l->s, m);
    bool can = ready(r);
    crew_wait(m);
    for (int i; (i = atomic_fetch_add(&l->next, 1)) < l->n_extents && i < atomic_load(&l->failed);) {
        if (can && !read_extent(r, i, &r->err)) continue;
        r->failed = i;
        atomic_store(&l->failed, i);
        break;
    }
    XXH3_freeState(r->hash);
    if (r->staging) cl_free_aligned(r->staging, l->s->staging_bytes);
}

cl_code slice_plan(slice *s, const cl_model *model, const cl_stage *stage, const cl_extent *extents, int n_extents,
                   const cl_kernels *k, cl_err *err)
{
    const size_t n = (size_t)(1 + stage->n_layers) * CL_ROLES;
    *s = (slice){.first_layer = stage->first_layer,
                 .n_layers = stage->n_layers,
                 .tensors = cl_calloc(n, sizeof *s->tensors, "the table of tensors", err),
                 .table_bytes = n * sizeof *s->tensors};
    cl_code code = s->tensors ? lay_out(s, model, extents, n_extents, k, err) : err->code;
    if (code) slice_free(s);
    return code;
}

/* Of several failures the first part's is told. */
static cl_code outcome(const loader *l, int threads, cl_err *err)
{
    const reader *first = &l->readers[0];
    for (int i = 1; i < threads; i++)
        if (l->readers[i].failed < first->failed) first = &l->readers[i];
    if (first->failed == l->n_extents) return CL_OK;
    *err = first->err;
    return err->code;
}

cl_code slice_load(slice *s, const cl_model *model, const cl_tensor_reader *from, const cl_extent *extents,
                   int n_extents, const cl_kernels *k, const cl_chip_options *o, cl_err *err)
{
    const int threads = cl_crew_threads(o->crew);
    loader l = {.s = s,
                .from = from,
                .model = model,
                .k = k,
                .extents = extents,
                .n_extents = n_extents,
                .failed = n_extents,
                .poll = o->poll,
                .poll_ctx = o->poll_ctx};
    if (!(s->data = cl_malloc_aligned(s->bytes, "the weights", err))) return err->code;
    if (!(l.readers = cl_malloc((size_t)threads, sizeof *l.readers, "the weights' readers", err))) return err->code;
    point(s, model, extents, n_extents);
    cl_progress_start(&l.progress, o->progress, "loading", s->file_bytes);
    crew_run(o->crew, read_extents, &l);
    cl_code code = outcome(&l, threads, err);
    if (!code) cl_progress_end(&l.progress, l.done);
    free(l.readers);
    return code;
}

void slice_free(slice *s)
{
    if (s->data) cl_free_aligned(s->data, s->bytes);
    free(s->tensors);
    *s = (slice){0};
}
