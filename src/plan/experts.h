/* experts.h: inside plan/: whole experts on the chips of a stage. */
#ifndef CHIPLINE_PLAN_EXPERTS_H
#define CHIPLINE_PLAN_EXPERTS_H

#include "chipline/plan.h"

/* A layer's experts given out to the chips of a stage; experts is 0 in a dense layer. */
cl_code expert_map_make(const cl_model *m, const cl_place_options *o, int layer, int members, cl_expert_map *out,
                        cl_err *err);
void expert_map_free(cl_expert_map *map);
/* Copies of the hottest experts where chips have memory left. */
cl_code expert_copies(const cl_model *m, const cl_place_options *o, cl_placement *p, cl_err *err);
/* How many of a layer's experts a chip is expected to read in a step of so many tokens, the holders of an expert taking
 * turns, whole experts. One token: its top_k by their odds of being here. */
double expert_reads(const cl_expert_map *map, const cl_routing *r, int layer, int top_k, int member, double tokens);

#endif
