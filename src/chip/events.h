/* events.h: what a chip records of a step: thread 0 only; with recording off a branch each.
 *
 * Inside chip/. */
#ifndef CHIPLINE_CHIP_EVENTS_H
#define CHIPLINE_CHIP_EVENTS_H

#include "chipline/microbatch.h"
#include "chipline/trace.h"
#include "crew.h"

/* An event of a whole micro-batch, or of a layer of it. */
static inline cl_event event_of(const cl_microbatch *mb, int layer, int tokens)
{
    return (cl_event){.microbatch = mb->id, .layer = layer, .tokens = tokens, .parts = mb->n_parts, .peer = -1};
}

static inline cl_mark mark(cl_trace *trace, const crew_member *m, cl_trace_level level)
{
    return m->id ? (cl_mark){0} : cl_trace_mark(trace, level);
}

/* Ends an event that has layer, tokens, parts and micro-batch of `e`; the mark is for what follows it at once. */
static inline cl_mark record(cl_trace *trace, cl_mark m, const cl_event *e, cl_event_kind kind, uint64_t weight_bytes,
                             uint64_t kv_bytes, int experts)
{
    if (!m.on) return m;
    cl_event out = *e;
    out.kind = kind;
    /* they are the layer's, and have events of their own */
    if (cl_event_level(kind) == CL_TRACE_KERNEL)
        out.msg_bytes = out.gather_ns = 0, out.gathers = out.gather_messages = 0;
    out.weight_bytes = weight_bytes;
    out.kv_bytes = kv_bytes;
    out.experts = experts;
    return cl_trace_end(trace, m, &out);
}

#endif
