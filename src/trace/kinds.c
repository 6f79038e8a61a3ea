/* kinds.c: the table of event kinds: name, level and meaning of each. */
#include "kinds.h"

static const struct {
    const char *name;
    cl_trace_level level;
    const char *text;
} kinds[CL_EV_KINDS] = {
    [CL_EV_STEP] =
        {"step", CL_TRACE_STAGE,
         "one micro-batch through this chip, first to last instruction; bytes are those of everything in it"},
    [CL_EV_RECV] = {"recv", CL_TRACE_STAGE, "waiting for a message and taking it"},
    [CL_EV_SEND] = {"send", CL_TRACE_STAGE, "handing a message over"},
    [CL_EV_SAMPLE] = {"sample", CL_TRACE_STAGE,
                      "choosing the next ids from the logits, every sampling of a micro-batch"},
    [CL_EV_SCHEDULE] = {"schedule", CL_TRACE_STAGE, "choosing the next micro-batch (rank 0)"},
    [CL_EV_IDLE] = {"idle", CL_TRACE_STAGE, "nothing to do: no request anywhere"},
    [CL_EV_PROBE] = {"probe", CL_TRACE_STAGE, "reading memory to learn its bandwidth; not part of the run"},
    [CL_EV_EMBED] = {"embed", CL_TRACE_LAYER, "looking up the embedding rows"},
    [CL_EV_LAYER] = {"layer", CL_TRACE_LAYER, "one layer"},
    [CL_EV_HEAD] = {"head", CL_TRACE_LAYER, "final norm and output head"},
    [CL_EV_QKV] = {"qkv", CL_TRACE_KERNEL, "within a layer: norm, q, k, v, rotation, cache write"},
    [CL_EV_ATTEND] = {"attend", CL_TRACE_KERNEL, "within a layer: scores and values over the KV cache"},
    [CL_EV_ATTN_OUT] = {"attn_out", CL_TRACE_KERNEL, "within a layer: attention output projection"},
    [CL_EV_ROUTE] = {"route", CL_TRACE_KERNEL, "within a layer: choosing the experts; the shared expert's gate and up"},
    [CL_EV_GATHER] = {"gather", CL_TRACE_KERNEL,
                      "exchanging numbers with the other chips of the stage; lies within another event"},
    [CL_EV_FFN] = {"ffn", CL_TRACE_KERNEL, "within a layer: gate, up, activation, down; dense or experts"},
};

static bool known(cl_event_kind k) { return (int)k >= 0 && k < CL_EV_KINDS; }

const char *cl_event_name(cl_event_kind k) { return known(k) ? kinds[k].name : "unknown"; }
cl_trace_level cl_event_level(cl_event_kind k) { return known(k) ? kinds[k].level : CL_TRACE_KERNEL; }
const char *trace_kind_text(cl_event_kind k) { return known(k) ? kinds[k].text : "unknown"; }

const char *trace_level_name(cl_trace_level level)
{
    static const char *const names[] = {"off", "stage", "layer", "kernel"};
    return (int)level >= 0 && level <= CL_TRACE_KERNEL ? names[level] : "unknown";
}
