/* inside.h: what a chip is made of.
 *
 * Inside chip/. The functions of a step get the fixed half to read, and of the rest only what they write: the cache,
 * or some of the buffers of work.h. */
#ifndef CHIPLINE_CHIP_INSIDE_H
#define CHIPLINE_CHIP_INSIDE_H

#include "chipline/chip.h"
#include "chipline/kernels.h"
#include "cuts.h"
#include "kv.h"
#include "slice.h"
#include "work.h"

/* What does not change while tokens flow. */
typedef struct chip_fixed {
    cl_spec spec;
    cl_stage stage;
    cl_chip_options opt;
    const cl_kernels *k;
    cl_trace *trace;
    cl_group group; /* a stage of one chip: one whose gather is never called */
    slice slice;
    stage_cuts cuts;
} chip_fixed;

typedef struct sampling sampling; /* sampling.c */

struct cl_chip {
    chip_fixed fixed;
    kv_cache kv;
    work work;
    sampling *sampling;              /* NULL: the stage has no head */
    uint64_t *chosen, **chosen_of;   /* memory; [stage.n_layers][experts] tokens that chose each; NULL: dense */
    uint64_t weight_bytes, kv_bytes; /* read since creation */
    cl_chip_sizes sizes;
};

static inline const layer_cut *cut_of(const chip_fixed *c, int layer)
{
    return &c->cuts.layers[layer - c->stage.first_layer];
}

/* A placement gives a chip what its layers need; anything else is a mistake of the program (check_slice.c). */
void check_slice(const chip_fixed *c);

/* --- chip.h's functions --- */
void chip_step(cl_chip *c, const cl_microbatch *mb, float *x);
void chip_sample(cl_chip *c, const cl_microbatch *mb, const float *x, cl_samples *out);
double chip_probe(const cl_chip *c);

#endif
