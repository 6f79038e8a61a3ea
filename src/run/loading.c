/* loading.c: every buffer, the slices, the beginning of the trace. */
#include <stdlib.h>

#include "run_internal.h"

static cl_code open_logits(cl_run *r, cl_err *err)
{
    /* the first chip of the last stage writes, wherever rank 0 was told of it */
    uint32_t bytes = r->opt.logits_path ? (uint32_t)strlen(r->opt.logits_path) + 1 : 0;
    cl_ranks_bcast(r->ranks, &bytes, sizeof bytes);
    if (!bytes) return CL_OK;
    char *path = cl_calloc(bytes, 1, "path", err);
    cl_code c = cl_ranks_agree(r->ranks, path ? CL_OK : CL_E_FIT, err);
    if (c == CL_OK) {
        if (r->opt.logits_path) strcpy(path, r->opt.logits_path);
        cl_ranks_bcast(r->ranks, path, bytes);
        if (r->seat.last && r->seat.leads && r->seat.replica == 0)
            c = logits_open(&r->logits, path, r->plan.limits.vocab, err);
    }
    free(path);
    return c;
}

static cl_chip_options chip_options(const cl_run *r)
{
    return (cl_chip_options){.crew = r->opt.crew,
                             .activations = r->plan.activations,
                             .kv = r->plan.kv,
                             .limits = r->plan.limits,
                             .allowed_vocab = r->opt.allowed_vocab,
                             .kernels = r->opt.kernels,
                             .memory_bytes = r->opt.chip_bytes,
                             .experts = r->plan.placement.experts,
                             .rows = logits_observer(r->logits),
                             .progress = r->opt.progress && cl_ranks_rank(r->ranks) == 0,
                             .poll = cl_line_poll,
                             .poll_ctx = r->line};
}

/* Ranks of a stage of this line; none before the first and behind the last. */
static cl_line_stage stage_of(const cl_run *r, int stage)
{
    const cl_placement *p = &r->plan.placement;
    if (stage < 0 || stage >= p->n_stages) return (cl_line_stage){0};
    return (cl_line_stage){head_of(r, stage), p->stages[stage].n_ranks};
}

static cl_line_options line_options(const cl_run *r)
{
    const run_seat *s = &r->seat;
    const cl_chip_options chip = chip_options(r);
    return (cl_line_options){.limits = r->plan.limits,
                             .prev = stage_of(r, s->stage - 1),
                             .own = stage_of(r, s->stage),
                             .next = stage_of(r, s->stage + 1),
                             .first = head_of(r, 0),
                             .last = head_of(r, r->plan.placement.n_stages - 1),
                             .exchange_bytes = cl_chip_exchange_bytes(&r->plan.model.spec, s->at, &chip),
                             .carrier = r->opt.carrier,
                             .trace = r->trace.recorder};
}

static cl_code slice_of(cl_run *r, cl_err *err)
{
    return cl_placement_slice(&r->plan.model, &r->plan.placement, cl_ranks_rank(r->ranks) - r->seat.line_rank0,
                              &r->extents, &r->n_extents, err);
}

/* All that this rank is about to allocate: slice, cache and buffers of the chip, buffers of the line (what is exchanged
 * among them), the recorder's window. The budget is for all of it; the plan counted the slice as in the file. */
static cl_code count_memory(cl_run *r, cl_err *err)
{
    char a[32], b[32], d[32];
    cl_chip_options chip = chip_options(r);
    const cl_line_options line = line_options(r);
    const cl_group group = {.member = r->seat.member, .members = r->seat.at->n_ranks};
    cl_chip_sizes s;
    chip.group = &group;
    cl_code c = slice_of(r, err);
    if (c == CL_OK)
        c = cl_chip_size(&r->plan.model, r->seat.at, r->extents, r->n_extents, &chip, r->opt.threads, &s, err);
    if (c != CL_OK) return c;
    const uint64_t buffers = s.work_bytes + s.other_bytes + cl_line_bytes(r->ranks, &line, cl_ranks_rank(r->ranks)) +
                             cl_trace_mapped(r->trace.recorder);
    r->before_bytes = cl_rss_bytes();
    r->counted_bytes = s.slice_bytes + s.kv_bytes + buffers;
    if (!r->opt.chip_bytes || r->counted_bytes <= r->opt.chip_bytes) return CL_OK;
    return cl_fail(
        err, CL_E_FIT,
        "--chip: rank %d keeps weights of %s, a cache of %s and buffers of %s, %llu bytes more than a chip has "
        "(use more ranks, fewer slots, a shorter context or a smaller --chunk)",
        cl_ranks_rank(r->ranks), cl_human_bytes((double)s.slice_bytes, a), cl_human_bytes((double)s.kv_bytes, b),
        cl_human_bytes((double)buffers, d), (unsigned long long)(r->counted_bytes - r->opt.chip_bytes));
}

static cl_code open_line(cl_run *r, cl_err *err)
{
    const cl_limits *l = &r->plan.limits;
    const cl_line_options o = line_options(r);
    cl_code c = cl_notes_open(&r->notes, r->ranks, err);
    if ((c = cl_ranks_agree(r->ranks, c, err)) != CL_OK) return c;
    c = cl_line_open(&r->line, r->ranks, &o, err);
    if (c != CL_OK || !r->seat.last) return c;
    r->samples.parts = cl_calloc((size_t)l->slots, sizeof *r->samples.parts, "samples", err);
    r->samples.ids = cl_malloc((size_t)l->chunk, sizeof *r->samples.ids, "samples", err);
    return r->samples.parts && r->samples.ids ? CL_OK : CL_E_FIT;
}

static cl_code load_slice(cl_run *r, cl_err *err)
{
    cl_chip_options o = chip_options(r);
    o.group = cl_line_group(r->line);
    const cl_tensor_reader from = cl_model_file_reader(r->file);
    uint64_t t0 = cl_now_ns();
    cl_code c = cl_chip_create(&r->chip, &r->plan.model, &from, r->seat.at, r->extents, r->n_extents, &o,
                               r->trace.recorder, err);
    r->load_s = (double)(cl_now_ns() - t0) * 1e-9;
    free(r->extents);
    r->extents = NULL;
    cl_model_file_close(r->file);
    r->file = NULL;
    return c;
}

const phase load_phases[LOAD_PHASES] = {{"opening the trace", trace_open, trace_wanted},
                                        {"opening the logits file", open_logits, NULL},
                                        {"counting memory", count_memory, NULL},
                                        {"opening the line", open_line, NULL},
                                        {"loading", load_slice, NULL},
                                        {"starting the trace", trace_start, trace_wanted}};
