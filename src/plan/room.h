/* room.h: what a chip has for slice and cache. Inside plan/. */
#ifndef CHIPLINE_PLAN_ROOM_H
#define CHIPLINE_PLAN_ROOM_H

#include "chipline/plan.h"

/* Of buffers that take `taken`: at least a byte, UINT64_MAX where there is no limit. */
static inline uint64_t room_beside(const cl_place_options *o, uint64_t taken)
{
    if (!o->chip_bytes) return UINT64_MAX;
    return o->chip_bytes > taken ? o->chip_bytes - taken : 1;
}

static inline uint64_t buffers_of(const cl_place_options *o, const cl_stage *s, const cl_expert_map *experts)
{
    return o->buffers ? o->buffers(o->buffers_ctx, s, experts) : 0;
}

/* Before it is known which stage it will be: the least that any of so many chips has. */
static inline uint64_t room_at_least(const cl_model *m, const cl_place_options *o, int chips)
{
    uint64_t most = 0;
    for (int i = 0; o->chip_bytes && i < 4; i++) {
        const cl_stage s = {.n_layers = m->spec.n_layers, .embed = i & 1, .head = i > 1, .n_ranks = chips};
        const uint64_t taken = buffers_of(o, &s, NULL);
        most = taken > most ? taken : most;
    }
    return room_beside(o, most);
}

#endif
