/* cuts.h: what this chip makes of each layer of its stage, and what the others make.
 *
 * Inside chip/. Computed once from spec and stage, only read afterwards. */
#ifndef CHIPLINE_CHIP_CUTS_H
#define CHIPLINE_CHIP_CUTS_H

#include "chipline/plan.h"

/* This chip's part of one layer, and the columns that each member of the stage makes: [members + 1] each. */
typedef struct layer_cut {
    cl_heads heads;
    cl_attention attn; /* with the kv heads that are cached here */
    int32_t *seen, *q, *k, *q_a, *kv_a, *mid, *shared;
    int32_t *router;          /* NULL: every chip has all of it */
    int32_t *local;           /* whole experts: [experts] place of an expert in the slice, -1: not here; else NULL */
    int n_local;              /* experts that are here, at least in part */
    const cl_expert_map *map; /* whole experts, else NULL */
} layer_cut;

typedef struct stage_cuts {
    layer_cut *layers;         /* [stage.n_layers] */
    const cl_attention **attn; /* [stage.n_layers] of the layers: what is cached */
    int32_t *hidden, *vocab;   /* [members + 1] */
    int32_t *memory;           /* of all cuts and local indices */
    size_t bytes;              /* of all */
} stage_cuts;

/* experts: [layers of the model], or NULL; borrowed. On failure nothing is left to free. err is not NULL. */
cl_code cuts_create(stage_cuts *cuts, const cl_spec *spec, const cl_stage *stage, const cl_expert_map *experts,
                    int member, int members, cl_err *err);
void cuts_free(stage_cuts *cuts);

#endif
