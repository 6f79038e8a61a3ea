/* gather.c: the end of a phase on all chips of a stage. */
#include "phases.h"

static void record_gather(const chip_fixed *c, cl_mark m, const cl_event *e, uint64_t ns, cl_gathered got)
{
    cl_event out = *e;
    out.kind = CL_EV_GATHER;
    out.weight_bytes = out.kv_bytes = 0;
    out.experts = 0;
    out.msg_bytes = got.bytes;
    out.gathers = 1;
    out.gather_messages = (int32_t)got.messages;
    out.gather_ns = ns;
    cl_trace_end(c->trace, m, &out);
}

void gather_outside(const chip_fixed *c, cl_event *e, const cl_region *regions, int n)
{
    cl_mark begun = cl_trace_mark(c->trace, CL_TRACE_KERNEL);
    uint64_t start = c->trace ? cl_now_ns() : 0;
    const cl_gathered got = c->group.gather(c->group.ctx, regions, n);
    e->gather_ns += c->trace ? cl_now_ns() - start : 0;
    if (begun.on) record_gather(c, begun, e, cl_now_ns() - start, got);
    e->msg_bytes += got.bytes;
    e->gathers++;
    e->gather_messages += (int32_t)got.messages;
}

void gather(const chip_fixed *c, const crew_member *m, cl_event *e, const cl_region *regions, int n)
{
    if (c->group.members == 1) {
        crew_wait(m);
        return;
    }
    if (!crew_assemble(m)) return;
    gather_outside(c, e, regions, n);
    crew_release(m);
}
