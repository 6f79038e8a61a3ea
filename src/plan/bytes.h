/* bytes.h: inside plan/: what one chip of a stage holds and reads of a tensor and of a layer's cache. */
#ifndef CHIPLINE_PLAN_BYTES_H
#define CHIPLINE_PLAN_BYTES_H

#include "chipline/cost.h"

/* Sums that stay at UINT64_MAX instead of wrapping. */
static inline uint64_t bytes_sum(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }
static inline uint64_t bytes_product(uint64_t a, uint64_t b)
{
    uint64_t r;
    return __builtin_mul_overflow(a, b, &r) ? UINT64_MAX : r;
}
/* The same of a number that need not be whole, to the nearest. */
uint64_t bytes_times(double n, uint64_t bytes);

/* Stored bytes of rows row0 .. row0 + rows - 1 of one matrix; scales that rows share count for every tile that is
 * touched. */
uint64_t bytes_of_rows(const cl_tensor *t, int64_t row0, int64_t rows);
/* Does a stage hold this tensor? */
bool bytes_in_stage(const cl_model *m, const cl_stage *s, const cl_tensor *t);
/* Of a tensor: what the chip holds. */
uint64_t bytes_held(const cl_cost_chip *c, const cl_tensor *t);
/* Of one layer's cache, all slots. */
uint64_t bytes_of_cache(const cl_cost_chip *c, const cl_place_options *o, int layer);

/* Most chips of a stage that find something to compute in this layer: runs of rows, heads or whole experts. */
int layer_most_chips(const cl_spec *s, int layer, cl_expert_mode mode);
/* In every one of n layers. */
int layers_most_chips(const cl_spec *s, cl_expert_mode mode, int first, int n);

#endif
