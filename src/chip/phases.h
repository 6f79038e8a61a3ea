/* phases.h: the pieces of work that attention, feed-forward and head have in common.
 *
 * Inside chip/. A phase is run by every member of the crew and ends with a wait that is its caller's to make, unless
 * it says so itself. */
#ifndef CHIPLINE_CHIP_PHASES_H
#define CHIPLINE_CHIP_PHASES_H

#include "crew.h"
#include "events.h"
#include "inside.h"

/* One crew member's way through one layer with some tokens: all that it reads there besides the buffers. */
typedef struct pass {
    const chip_fixed *c;
    const crew_member *m;
    const token_buffers *tokens;
    int layer; /* counts over the whole model */
    const cl_layer *spec;
    const layer_cut *cut;
    int first, n; /* tokens: first .. first + n - 1 of the micro-batch, n <= tile */
    cl_event *e;  /* the layer's: bytes and gathers are added up here */
} pass;

static inline const slice_tensor *tensor_of(const pass *p, cl_role role)
{
    return slice_get(&p->c->slice, role, p->layer);
}
static inline const cl_matrix *matrix_of(const pass *p, cl_role role) { return &tensor_of(p, role)->m; }
static inline const float *vector_of(const pass *p, cl_role role) { return tensor_of(p, role)->vec; }

/* --- the other chips of the stage (gather.c) --- */

/* Ends a phase, as crew_wait does, on all chips of the stage: then the regions are complete here. Counted in *e. */
void gather(const chip_fixed *c, const crew_member *m, cl_event *e, const cl_region *regions, int n);
/* The exchange between the chips without a crew that waits: between jobs, by the chip's caller. */
void gather_outside(const chip_fixed *c, cl_event *e, const cl_region *regions, int n);
/* n rows of columns that each chip has its own of. */
static inline cl_region columns(void *data, int rows, size_t stride, const int32_t *cut)
{
    return (cl_region){.data = data, .rows = rows, .stride = stride, .cut = cut, .to = -1};
}

/* --- inputs of products --- */

/* The input of products with the n matrices w: which derived forms they need is in their formats. */
cl_acts phase_acts(const chip_fixed *c, const input_forms *forms, const float *x, size_t stride, int tokens,
                   int64_t cols, const cl_matrix *const *w, int n);
/* The same for what a norm made, whose few large numbers would cost the others their precision: mixed activations are
 * for these. */
cl_acts phase_normed_acts(const chip_fixed *c, const input_forms *forms, const float *x, size_t stride, int tokens,
                          int64_t cols, const cl_matrix *const *w, int n);
/* Pads and prepares tokens a .. b - 1, or this member's range of all. `x` must be the buffer behind acts->f32. */
void phase_prepare_tokens(const cl_kernels *k, cl_acts *acts, float *x, int64_t a, int64_t b);
void phase_prepare(const cl_kernels *k, const crew_member *m, cl_acts *acts, float *x);
/* RMSNorm of this member's range of the pass's tokens into to->norm, prepared as the input of the n matrices w. */
cl_acts phase_norm(const pass *p, common_buffers *to, const float *x, const float *weight, const cl_matrix *const *w,
                   int n);

/* --- products --- */

/* y = W x (+ bias), then to += y where `to` is given, for the rows that are here; y and to begin at the first of
 * them. Rows are shared among the members by panels. */
typedef struct product {
    const cl_matrix *w;
    const float *bias; /* or NULL */
    float *y;
    size_t y_stride;
    float *to; /* or NULL */
    size_t to_stride;
} product;

/* The product of this tensor's rows; bias: of all rows, those that are not here too, or NULL. Into y [tokens][stride]
 * which begins at the first row that is here, or into the columns of all_y, which has all of the stage's. */
static inline product product_to(const slice_tensor *st, const float *bias, float *y, size_t stride)
{
    return (product){&st->m, bias ? bias + st->row0 : NULL, y, stride, NULL, 0};
}
static inline product product_into(const slice_tensor *st, const float *bias, float *all_y, size_t stride)
{
    return product_to(st, bias, all_y + st->row0, stride);
}

void phase_products(const cl_kernels *k, const crew_member *m, const product *p, int n, const cl_acts *acts);
/* The last product of a layer's half: w [hidden rows here] times acts, plus bias, into to->out and onto x; then x is
 * complete on all chips. Ends with a gather. */
void phase_onto_x(const pass *p, common_buffers *to, cl_role role, cl_role bias, const cl_acts *acts, float *x);

#endif
