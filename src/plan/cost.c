/* cost.c: what a token costs one chip of a placement, and how long that takes at given rates. */
#include <math.h>

#include "bytes.h"
#include "chipline/group.h"
#include "classes.h"

cl_cost_chip cl_placed_chip(const cl_model *m, const cl_place_options *o, const cl_placement *p, int stage, int member)
{
    return (cl_cost_chip){.model = m,
                          .stage = &p->stages[stage],
                          .member = member,
                          .experts = p->experts,
                          .shared_memory = o->shared_memory,
                          .routing = o->routing,
                          .kv = o->kv};
}

cl_cost_part cl_cost_typical(const cl_place_options *o, double tokens)
{
    double p = o->read_context > 0 ? o->read_context : o->context / 4.0;
    int64_t seen = p < 1 ? 1 : p > o->context ? o->context : (int64_t)p;
    return (cl_cost_part){.n = tokens, .tokens = 1, .pos = seen - 1, .outputs = 1};
}

cl_code cl_placement_cost(const cl_model *m, const cl_place_options *opt, const cl_placement *p, int rank,
                          cl_chip_cost *out, cl_err *err)
{
    const int stage = cl_placement_stage(p, rank);
    const cl_stage *s = &p->stages[stage];
    const cl_cost_chip chip = cl_placed_chip(m, opt, p, stage, rank - s->first_rank);
    const cl_cost_part part = cl_cost_typical(opt, 1);
    const cl_cost_sum sum = cl_cost_of_step(&chip, &(cl_cost_step){.n_parts = 1, .parts = &part});
    *out = (cl_chip_cost){.token_bytes = sum.all.weight_bytes,
                          .token_kv_bytes = sum.all.kv_bytes,
                          .gathers = sum.gathers,
                          .gather_bytes = sum.all.exchange.got_bytes,
                          .gather_messages = sum.all.exchange.got};
    for (int i = 0; i < m->n_tensors; i++)
        if (bytes_in_stage(m, s, &m->tensors[i]))
            out->weight_bytes = bytes_sum(out->weight_bytes, bytes_held(&chip, &m->tensors[i]));
    for (int layer = s->first_layer; layer < s->first_layer + s->n_layers; layer++)
        out->kv_bytes = bytes_sum(out->kv_bytes, bytes_of_cache(&chip, opt, layer));
    return CL_OK;
}

static double per(double amount, double rate) { return rate > 0 ? amount / rate : 0; }

/* The farthest link that ranks from one to another span; NULL: all are within a node. */
static const cl_far_link *far_link(const cl_rates *r, int first, int last)
{
    for (int i = CL_FAR_LINKS - 1; i >= 0; i--)
        if (r->far[i].chips && first / r->far[i].chips != last / r->far[i].chips) return &r->far[i];
    return NULL;
}

static double chip_seconds(const cl_cost_chip *chip, const cl_cost_part *part, const cl_rates *r)
{
    const cl_cost_sum c = cl_cost_of_step(chip, &(cl_cost_step){.n_parts = 1, .parts = part});
    const cl_stage *s = chip->stage;
    const cl_far_link *far = far_link(r, s->first_rank, s->first_rank + s->n_ranks - 1);
    const double read = (double)c.all.weight_bytes + (double)c.all.kv_bytes;
    return per(read, r->read_bytes_per_s) + c.gathers * (far ? far->s : r->gather_s) * cl_exchange_rounds(s->n_ranks) +
           per((double)c.all.exchange.got_bytes, far ? far->bytes_per_s : r->gather_bytes_per_s);
}

/* A hand-over of so many bytes; the last stage's goes to the first. */
static double hop_seconds(const cl_placement *p, int stage, double bytes, const cl_rates *r)
{
    const cl_stage *from = &p->stages[stage], *to = stage + 1 < p->n_stages ? from + 1 : p->stages;
    const int low = from->first_rank < to->first_rank ? from->first_rank : to->first_rank;
    const int end = from->first_rank + from->n_ranks, end_to = to->first_rank + to->n_ranks;
    const cl_far_link *far = far_link(r, low, (end > end_to ? end : end_to) - 1);
    return far ? far->s + per(bytes, far->bytes_per_s) : r->hop_s + per(bytes, r->hop_bytes_per_s);
}

/* Seconds of one stage's step alone, and with so many tokens; its hand-over included where the line has one. */
static cl_code stage_seconds(const cl_model *m, const cl_place_options *o, const cl_placement *p, int stage,
                             const double tokens[2], const cl_rates *r, double seconds[2], cl_err *err)
{
    chip_classes classes;
    cl_code code = classes_make(m, &p->stages[stage], p->experts, &classes, err);
    if (code != CL_OK) return code;
    const bool last = stage == p->n_stages - 1; /* only ids go back to the first stage */
    for (int i = 0; i < 2; i++) {
        const cl_cost_part part = cl_cost_typical(o, tokens[i]);
        const double x = last ? 0 : tokens[i] * (double)cl_handover_bytes(&m->spec, 1);
        seconds[i] = 0;
        for (int k = 0; k < classes.n; k++) {
            const cl_cost_chip chip = cl_placed_chip(m, o, p, stage, classes.member[k]);
            seconds[i] = fmax(seconds[i], chip_seconds(&chip, &part, r));
        }
        if (p->n_stages > 1) seconds[i] += hop_seconds(p, stage, x, r);
    }
    classes_free(&classes);
    return CL_OK;
}

cl_code cl_predict(const cl_model *m, const cl_place_options *opt, const cl_placement *p, const cl_rates *r,
                   cl_prediction *out, cl_err *err)
{
    const cl_far_link *nodes = &r->far[CL_FAR_NODES], *racks = &r->far[CL_FAR_RACKS];
    const double rates[] = {
        r->read_bytes_per_s, r->gather_s,       r->gather_bytes_per_s, r->hop_s, r->hop_bytes_per_s, nodes->s, racks->s,
        nodes->bytes_per_s,  racks->bytes_per_s};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (!(rates[i] >= 0) || !isfinite(rates[i]))
            return cl_fail(err, CL_E_INPUT, "plan: a rate of %g (finite numbers from 0)", rates[i]);
    if (r->read_bytes_per_s == 0) return cl_fail(err, CL_E_INPUT, "plan: chips that read 0 bytes per second");
    double stages = p->n_stages, slots = opt->slots, batch_s = 0;
    const double tokens[2] = {1, slots > stages ? slots / stages : 1};
    cl_prediction q = {0};
    for (int i = 0; i < p->n_stages; i++) {
        double s[2];
        cl_code c = stage_seconds(m, opt, p, i, tokens, r, s, err);
        if (c != CL_OK) return c;
        q.token_s += s[0];
        batch_s += s[1];
        q.step_s = s[1] > q.step_s ? s[1] : q.step_s;
    }
    /* Micro-batches follow each other; a sequence's next token needs the one before, and each stage takes one
     * micro-batch at a time. */
    double batches = slots < stages ? slots : stages, round = batches * q.step_s;
    q.tokens_per_s = slots / (round > batch_s ? round : batch_s);
    *out = q;
    return CL_OK;
}
