/* chip.c: a chip is sized, made and freed. */
#include <stdlib.h>

#include "chipline/util.h"
#include "crew.h"
#include "head.h"
#include "inside.h"

const char *cl_activations_name(cl_activations a)
{
    static const char *const names[] = {"auto", "f32", "q8", "mixed", "q16"};
    if ((unsigned)a > CL_ACT_Q16) CL_BUG("activations %d", (int)a);
    return names[a];
}

/* --- sizes --- */

/* All that is fixed, but for the weights themselves; the spec is borrowed. What was made before a failure is left to
 * free. */
static cl_code plan(chip_fixed *c, const cl_model *model, const cl_stage *stage, const cl_extent *extents,
                    int n_extents, const cl_chip_options *o, cl_err *err)
{
    cl_code code;
    *c = (chip_fixed){.spec = model->spec, .stage = *stage, .opt = *o};
    c->group = o->group ? *o->group : (cl_group){.members = 1};
    if (c->group.members != stage->n_ranks)
        CL_BUG("%d chips in the group, %d in the stage", c->group.members, stage->n_ranks);
    if (o->limits.slots < 1 || o->limits.context < 1 || o->limits.chunk < 1)
        CL_BUG("slots %d, context %d, chunk %d", o->limits.slots, o->limits.context, o->limits.chunk);
    if ((code = cl_kernels_choose(o->kernels, &c->k, err))) return code;
    if ((code = cuts_create(&c->cuts, &c->spec, stage, o->experts, c->group.member, c->group.members, err)))
        return code;
    return slice_plan(&c->slice, model, stage, extents, n_extents, c->k, err);
}

static void fixed_free(chip_fixed *c)
{
    slice_free(&c->slice);
    cuts_free(&c->cuts);
}

static uint64_t spec_bytes(const cl_spec *s)
{
    uint64_t bytes = (uint64_t)s->n_layers * sizeof *s->layers + (uint64_t)s->n_ropes * sizeof *s->ropes;
    for (int i = 0; i < s->n_ropes; i++) bytes += (uint64_t)s->ropes[i].dims / 2 * sizeof *s->ropes[i].inv_freq;
    return bytes;
}

/* Experts of all layers of the stage. */
static size_t count_experts(const chip_fixed *c)
{
    size_t n = 0;
    for (int i = 0; i < c->stage.n_layers; i++) n += (size_t)c->spec.layers[c->stage.first_layer + i].ffn.experts;
    return n;
}

static cl_code size_chip(const chip_fixed *c, int threads, cl_chip_sizes *out, cl_err *err)
{
    const uint64_t layers = (uint64_t)c->stage.n_layers;
    work w;
    size_t cache, tables;
    cl_code code = kv_size(c->cuts.attn, c->stage.n_layers, c->opt.kv, &c->opt.limits, &cache, &tables, err);
    if (code) return code;
    work_size(&w, c, threads);
    *out = (cl_chip_sizes){.slice_bytes = c->slice.bytes,
                           .kv_bytes = cache,
                           .work_bytes = w.own_bytes,
                           .exchange_bytes = w.exchange_bytes,
                           .other_bytes = sizeof(cl_chip) + spec_bytes(&c->spec) + c->cuts.bytes +
                                          c->slice.table_bytes + tables + layers * sizeof(uint64_t *) +
                                          count_experts(c) * sizeof(uint64_t) + sampling_bytes(c) +
                                          (uint64_t)threads * c->slice.staging_bytes};
    return CL_OK;
}

cl_code cl_chip_size(const cl_model *model, const cl_stage *stage, const cl_extent *extents, int n_extents,
                     const cl_chip_options *opt, int threads, cl_chip_sizes *out, cl_err *err)
{
    cl_err local;
    chip_fixed c;
    if (!err) err = &local;
    cl_code code = plan(&c, model, stage, extents, n_extents, opt, err);
    if (!code) code = size_chip(&c, threads, out, err);
    fixed_free(&c);
    return code;
}

/* --- making --- */

/* Counters of the experts that each layer chooses. */
static cl_code count_choices(cl_chip *c, cl_err *err)
{
    const cl_stage *s = &c->fixed.stage;
    const cl_layer *layers = c->fixed.spec.layers + s->first_layer;
    const size_t n = count_experts(&c->fixed);
    if (!(c->chosen = cl_calloc(n + 1, sizeof *c->chosen, "counts of experts", err)) ||
        !(c->chosen_of = cl_calloc((size_t)s->n_layers, sizeof *c->chosen_of, "counts of experts", err)))
        return err->code;
    uint64_t *at = c->chosen;
    for (int i = 0; i < s->n_layers; i++) {
        if (layers[i].ffn.kind == CL_FFN_MOE) c->chosen_of[i] = at;
        at += layers[i].ffn.experts;
    }
    return CL_OK;
}

/* The pages come into being now, not while tokens flow. */
static void touch(const crew_member *m, unsigned char *p, size_t bytes)
{
    enum { PAGE = 4096 };
    int64_t a, b;
    crew_range(m, (int64_t)((bytes + PAGE - 1) / PAGE), &a, &b);
    for (; a < b; a++) {
        volatile unsigned char *at = p + (size_t)a * PAGE;
        *at = *at;
    }
}

static void touch_buffers(const crew_member *m, void *ctx)
{
    cl_chip *c = ctx;
    touch(m, c->kv.data, c->kv.bytes);
    touch(m, c->work.data, c->work.bytes);
}

static cl_code create(cl_chip *c, const cl_model *model, const cl_tensor_reader *from, const cl_stage *stage,
                      const cl_extent *extents, int n_extents, const cl_chip_options *o, cl_err *err)
{
    const int threads = cl_crew_threads(o->crew);
    chip_fixed *f = &c->fixed;
    cl_spec own;
    cl_code code;
    if ((code = plan(f, model, stage, extents, n_extents, o, err))) goto borrowed;
    check_slice(f);
    if ((code = size_chip(f, threads, &c->sizes, err)) || (code = cl_spec_copy(&model->spec, &own, err))) goto borrowed;
    f->spec = own;
    if ((code = count_choices(c, err))) return code;
    if ((code = kv_create(&c->kv, f->cuts.attn, stage->n_layers, o->kv, &o->limits, err))) return code;
    if ((code = work_create(&c->work, f, threads, err))) return code;
    if ((code = sampling_create(&c->sampling, f, err))) return code;
    if (c->kv.bytes != c->sizes.kv_bytes || c->work.own_bytes != c->sizes.work_bytes)
        CL_BUG("%zu bytes of cache and %zu of buffers, not as sized", c->kv.bytes, c->work.own_bytes);
    if ((code = slice_load(&f->slice, model, from, extents, n_extents, f->k, o, err))) return code;
    crew_run(o->crew, touch_buffers, c);
    return CL_OK;
borrowed:
    f->spec = (cl_spec){0};
    return code;
}

static void chip_free(cl_chip *c)
{
    if (!c) return;
    sampling_free(c->sampling);
    fixed_free(&c->fixed);
    work_free(&c->work);
    kv_free(&c->kv);
    cl_spec_free(&c->fixed.spec);
    free(c->chosen);
    free(c->chosen_of);
    free(c);
}

/* --- the table --- */

static cl_traffic chip_traffic(const cl_chip *c) { return (cl_traffic){c->weight_bytes, c->kv_bytes}; }

static cl_chip_sizes chip_sizes(const cl_chip *c) { return c->sizes; }

static const uint64_t *chip_routing(const cl_chip *c, int layer)
{
    return c->chosen_of[layer - c->fixed.stage.first_layer];
}

static int cache_first(const cl_chip *c, int layer, int slot)
{
    return kv_first(&c->kv, layer - c->fixed.stage.first_layer, slot);
}

/* The model's kv head among those that are here. */
static int head_here(const cl_chip *c, int layer, int head)
{
    const cl_heads h = c->fixed.cuts.layers[layer - c->fixed.stage.first_layer].heads;
    if (head < h.kv0 || head >= h.kv0 + h.kv) CL_BUG("layer %d: kv head %d is not here", layer, head);
    return head - h.kv0;
}

static void cache_out(const cl_chip *c, int layer, int slot, int head, int pos, int n, void *rows)
{
    kv_rows_out(&c->kv, layer - c->fixed.stage.first_layer, slot, head_here(c, layer, head), pos, n, rows);
}

static void cache_expect(cl_chip *c, int slot, const int *first, int end) { kv_expect(&c->kv, slot, first, end); }

static void cache_in(cl_chip *c, int layer, int slot, int head, int pos, int n, const void *rows)
{
    kv_rows_in(&c->kv, layer - c->fixed.stage.first_layer, slot, head_here(c, layer, head), pos, n, rows);
}

cl_code cl_chip_create(cl_chip_table *out, const cl_model *model, const cl_tensor_reader *from, const cl_stage *stage,
                       const cl_extent *extents, int n_extents, const cl_chip_options *opt, cl_trace *trace,
                       cl_err *err)
{
    cl_err local;
    if (!err) err = &local;
    cl_chip *c = cl_calloc(1, sizeof *c, "the chip", err);
    if (!c) return err->code;
    cl_code code = create(c, model, from, stage, extents, n_extents, opt, err);
    c->fixed.trace = trace;
    if (code) {
        chip_free(c);
        return code;
    }
    *out = (cl_chip_table){.ctx = c,
                           .step = chip_step,
                           .sample = chip_sample,
                           .traffic = chip_traffic,
                           .sizes = chip_sizes,
                           .routing = chip_routing,
                           .cache_first = cache_first,
                           .cache_out = cache_out,
                           .cache_expect = cache_expect,
                           .cache_in = cache_in,
                           .probe = chip_probe,
                           .kernels = c->fixed.k->name,
                           .free = chip_free};
    return CL_OK;
}
