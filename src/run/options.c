/* options.c: what rank 0 was told becomes what all were told: nothing that another rank was told, or reads by itself,
 * decides anything. */
#include <stdlib.h>

#include "run_internal.h"

/* Texts that every rank needs, by the field that points to them. */
enum { TEXTS = 5 };

static void texts_of(cl_run_options *o, const char **fields[TEXTS])
{
    const char **all[TEXTS] = {&o->model_path, &o->trace_path, &o->routing_path, &o->kernels, &o->trace_ranks};
    memcpy(fields, all, sizeof all);
}

/* The texts one after the other, each with its end, "" for none; and room for the layout's numbers. */
typedef struct told {
    uint32_t text_bytes;
    int32_t n_stages, has_layers; /* n_stages 0: no layout */
} told;

static cl_code tell_texts(cl_run *r, uint32_t bytes, cl_err *err)
{
    const char **fields[TEXTS];
    texts_of(&r->opt, fields);
    bool root = cl_ranks_rank(r->ranks) == 0;
    r->strings = cl_calloc(bytes, 1, "options", err);
    cl_code c = cl_ranks_agree(r->ranks, r->strings ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    char *at = r->strings;
    for (int i = 0; root && i < TEXTS; i++, at += strlen(at) + 1)
        if (*fields[i]) strcpy(at, *fields[i]);
    cl_ranks_bcast(r->ranks, r->strings, bytes);
    at = r->strings;
    for (int i = 0; i < TEXTS; i++, at += strlen(at) + 1) *fields[i] = *at ? at : NULL;
    return CL_OK;
}

/* rank 0's layout into plan.layout everywhere. */
static cl_code tell_layout(cl_run *r, const told *t, cl_err *err)
{
    cl_layout *l = &r->plan.layout;
    const cl_layout *given = r->opt.layout;
    cl_code c = CL_OK;
    r->opt.layout = NULL;
    if (!t->n_stages) return CL_OK;
    if (cl_ranks_rank(r->ranks) == 0) c = cl_layout_copy(given, l, err);
    else {
        size_t n = (size_t)t->n_stages;
        l->n_stages = t->n_stages;
        l->chips = cl_malloc(n, sizeof *l->chips, "layout", err);
        l->layers = t->has_layers ? cl_malloc(n, sizeof *l->layers, "layout", err) : NULL;
        if (!l->chips || (t->has_layers && !l->layers)) c = CL_E_FIT;
    }
    if ((c = cl_ranks_agree(r->ranks, c, err)) != CL_OK) return c;
    cl_ranks_bcast(r->ranks, l->chips, (size_t)l->n_stages * sizeof *l->chips);
    if (l->layers) cl_ranks_bcast(r->ranks, l->layers, (size_t)l->n_stages * sizeof *l->layers);
    r->opt.layout = l;
    return CL_OK;
}

cl_code options_share(cl_run *r, const cl_run_options *opt, cl_err *err)
{
    bool root = cl_ranks_rank(r->ranks) == 0;
    told t = {0};
    if (root) {
        const char **fields[TEXTS];
        r->opt = *opt;
        texts_of(&r->opt, fields);
        for (int i = 0; i < TEXTS; i++) t.text_bytes += (uint32_t)(*fields[i] ? strlen(*fields[i]) : 0) + 1;
        if (opt->layout) t.n_stages = opt->layout->n_stages, t.has_layers = opt->layout->layers != NULL;
    }
    cl_run_options all = r->opt;
    cl_ranks_bcast(r->ranks, &t, sizeof t);
    cl_ranks_bcast(r->ranks, &all, sizeof all);
    if (!root) { /* addresses of another process */
        r->opt = all;
        r->opt.layout = NULL;
        r->opt.tokenizer = NULL;
        r->opt.crew = opt->crew;
        r->opt.logits_path = r->opt.command = r->opt.version = r->opt.revision = r->opt.build_flags = NULL;
    }
    if (!r->opt.replicas) r->opt.replicas = 1;
    r->opt.threads = cl_crew_threads(r->opt.crew);
    const cl_waiting waiting = {r->opt.wait, r->opt.threads, r->opt.stall_timeout_s};
    cl_ranks_set_waiting(r->ranks, &waiting);
    const int size = cl_ranks_size(r->ranks), here = cl_ranks_seat(r->ranks).ranks_here;
    double most[2] = {r->opt.threads, size - here};
    cl_ranks_max(r->ranks, most, 2);
    r->plan.most_threads = (int)most[0];
    r->plan.most_ranks_apart = (int)most[1];
    cl_code c = tell_texts(r, t.text_bytes, err);
    return c == CL_OK ? tell_layout(r, &t, err) : c;
}

cl_place_options options_of_place(const cl_run *r)
{
    const run_plan *p = &r->plan;
    return (cl_place_options){.layout = p->layout.n_stages ? &p->layout : NULL,
                              .ranks = cl_ranks_size(r->ranks) / r->opt.replicas,
                              .experts = r->opt.experts,
                              .routers = r->opt.routers,
                              .routing = p->chosen ? &p->routing : NULL,
                              .copies = p->chosen != NULL,
                              .shared_memory = r->opt.carrier != CL_CARRIER_MESSAGES && p->most_ranks_apart == 0,
                              .kv = p->kv,
                              .slots = p->limits.slots,
                              .context = p->limits.context,
                              .chunk = p->limits.chunk,
                              .chip_bytes = r->opt.chip_bytes,
                              .buffers = r->opt.chip_bytes ? cl_count_buffers : NULL, /* else nobody asks */
                              .buffers_ctx = (void *)(uintptr_t)&p->buffers};
}
