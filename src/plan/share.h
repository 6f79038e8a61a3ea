/* share.h: inside plan/: what one chip of a stage holds and reads of a tensor, a layer's cache, an expert. */
#ifndef CHIPLINE_PLAN_SHARE_H
#define CHIPLINE_PLAN_SHARE_H

#include "chipline/plan.h"

/* Sums that stay at UINT64_MAX instead of wrapping. */
static inline uint64_t sum_of(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }
static inline uint64_t product_of(uint64_t a, uint64_t b)
{
    uint64_t r;
    return __builtin_mul_overflow(a, b, &r) ? UINT64_MAX : r;
}

/* One chip of a stage, in a step of so many tokens. */
typedef struct chip_view {
    const cl_model *m;
    const cl_place_options *o;
    const cl_expert_map *maps; /* [layers of the model], whole experts; else NULL */
    int members, member;
    double tokens; /* 1: the cost of a token alone */
} chip_view;

/* Most chips of a stage that find something to compute in this layer: runs of rows, heads or whole experts. */
int layer_chips(const cl_spec *s, int layer, cl_expert_mode mode);
int line_chips(const cl_spec *s, cl_expert_mode mode); /* in every layer */
/* Does a stage hold this tensor? */
bool in_stage(const cl_model *m, const cl_stage *s, const cl_tensor *t);
/* Stored bytes of rows row0 .. row0 + rows - 1 of one matrix; scales that rows share count for every tile that is
 * touched. */
uint64_t rows_bytes(const cl_tensor *t, int64_t row0, int64_t rows);
/* Of any tensor but the embedding table. */
void tensor_share(const chip_view *v, const cl_tensor *t, uint64_t *held, uint64_t *read);
/* Of the embedding table: rows read to embed the step's tokens (expected). All rows held are read when it serves as
 * the head. */
void embed_share(const chip_view *v, const cl_tensor *t, uint64_t *held, uint64_t *read);
/* Of one layer's cache: all slots; and what one token reads. */
void cache_share(const chip_view *v, int layer, uint64_t *held, uint64_t *read);
/* How many of its experts a chip reads in a step. */
double experts_read(const chip_view *v, int layer);

/* A layer's experts given out to the chips of a stage; experts is 0 in a dense layer. */
cl_code expert_map_make(const cl_model *m, const cl_place_options *o, int layer, int members, cl_expert_map *out,
                        cl_err *err);
void expert_map_free(cl_expert_map *map);
/* Copies of the hottest experts where chips have memory left. */
cl_code expert_copies(const cl_model *m, const cl_place_options *o, cl_placement *p, cl_err *err);
/* How often this expert is chosen, beside the layer's others: their sum is *all. Without numbers they are all alike. */
double expert_weight(const cl_place_options *o, int layer, int expert);
double expert_weights(const cl_place_options *o, int layer, int experts);

#endif
