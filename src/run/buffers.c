/* buffers.c: what a chip takes of its memory besides slice and cache: its own buffers and those of the line. */
#include <stdlib.h>

#include "run_internal.h"

static cl_line_options line_of(const cl_buffer_count *b, const cl_stage *s, size_t exchange_bytes)
{
    /* one of the middle where it is neither end; which ranks they are does not matter, and neighbours are alike */
    const int n = s->n_ranks;
    return (cl_line_options){.limits = b->limits,
                             .prev = {0, s->embed ? 0 : n},
                             .own = {n, n},
                             .next = {2 * n, s->head ? 0 : n},
                             .first = s->embed ? n : 0,
                             .last = s->head ? n : 2 * n,
                             .exchange_bytes = exchange_bytes,
                             .carrier = b->carrier};
}

/* Of the first chip of a stage of all layers: what is shared out unevenly begins with the larger shares. */
static cl_code size_first(const cl_buffer_count *b, const cl_stage *s, const cl_expert_map *experts,
                          const cl_chip_options *chip, uint64_t *own)
{
    cl_stage stage = *s;
    const cl_placement p = {.n_ranks = s->n_ranks,
                            .n_stages = 1,
                            .stages = &stage,
                            .experts = (cl_expert_map *)(uintptr_t)experts};
    cl_extent *extents = NULL;
    cl_chip_sizes sizes;
    int n = 0;
    cl_code c = cl_placement_slice(b->model, &p, 0, &extents, &n, NULL);
    if (c == CL_OK) c = cl_chip_size(b->model, &stage, extents, n, chip, b->threads, &sizes, NULL);
    if (c == CL_OK) *own = sizes.work_bytes + sizes.other_bytes;
    free(extents);
    return c;
}

static uint64_t count(const cl_buffer_count *b, const cl_stage *s, const cl_expert_map *experts)
{
    const cl_group group = {.members = s->n_ranks};
    const cl_chip_options chip = {.activations = b->activations,
                                  .kv = b->kv,
                                  .limits = b->limits,
                                  .kernels = b->kernels,
                                  .memory_bytes = b->chip_bytes,
                                  .group = &group,
                                  .experts = experts};
    uint64_t own;
    if (size_first(b, s, experts, &chip, &own) != CL_OK) return UINT64_MAX;
    const cl_line_options line = line_of(b, s, cl_chip_exchange_bytes(&b->model->spec, s, &chip));
    return own + cl_line_bytes(NULL, &line, line.own.first) + b->trace_bytes;
}

uint64_t cl_count_buffers(void *ctx, const cl_stage *stage, const cl_expert_map *experts)
{
    cl_buffer_count *b = ctx;
    const int most = sizeof b->known / sizeof *b->known;
    const cl_stage s = {.n_layers = b->model->spec.n_layers,
                        .embed = stage->embed,
                        .head = stage->head,
                        .n_ranks = stage->n_ranks,
                        .split_routers = stage->split_routers};
    const bool whole = experts != NULL;
    int i = 0;
    while (i < b->n_known && (b->known[i].chips != s.n_ranks || b->known[i].embed != s.embed ||
                              b->known[i].head != s.head || b->known[i].whole != whole))
        i++;
    if (i < b->n_known) return b->known[i].bytes;
    if (i == most) i = b->n_known = 0; /* begins anew */
    b->known[i].chips = s.n_ranks;
    b->known[i].embed = s.embed;
    b->known[i].head = s.head;
    b->known[i].whole = whole;
    b->known[i].bytes = count(b, &s, experts);
    b->n_known++;
    return b->known[i].bytes;
}
