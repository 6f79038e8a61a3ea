/* plan_print.c: a plan as a table or as JSON. */
#include <stdlib.h>

#include "chipline/line.h"
#include "columns.h"
#include "plan_cli.h"

enum { MOST_LINES = 64 }; /* of chips; beyond that one for each stage */

static uint64_t touched(const cl_chip_cost *c) { return c->token_bytes + c->token_kv_bytes; }

/* The layout's name in full, or NULL without memory; the caller frees. */
static char *layout_name(const cl_layout *l)
{
    size_t size = 32 * ((size_t)l->n_stages + 1);
    char *text = malloc(size);
    return text ? cl_layout_name(l, text, size) : NULL;
}

/* For a token so many times to the next stage, or the sample back to the first. */
static int hand_overs(const plan_found *f, int stage, int member)
{
    const cl_placement *p = &f->placement;
    const bool shared = f->options.shared_memory;
    if (p->n_stages == 1 || (member && (shared || stage == p->n_stages - 1))) return 0;
    if (shared || stage == p->n_stages - 1) return 1;
    return cl_handovers(member, p->stages[stage].n_ranks, p->stages[stage + 1].n_ranks);
}

static size_t send_bytes(const plan_found *f, int stage)
{
    if (f->placement.n_stages == 1) return 0;
    return stage + 1 < f->placement.n_stages ? cl_line_hop_bytes(&(cl_limits){.hidden = f->model->spec.hidden}, 1, 1)
                                             : cl_line_samples_bytes(1, 1);
}

/* A token's phases added up by kind. */
static void add_phase(void *ctx, const cl_phase *p)
{
    cl_cost_sum *kind = (cl_cost_sum *)ctx + p->kind;
    cl_cost_add(kind, p);
}

static json_t *phases_json(const plan_found *f, int stage, int member)
{
    const cl_cost_chip chip = cl_placed_chip(f->model, &f->options, &f->placement, stage, member);
    const cl_cost_part part = cl_cost_typical(&f->options, 1);
    cl_cost_sum kinds[CL_PHASES] = {{.phases = 0}};
    json_t *all = json_object();
    cl_cost_phases(&chip, &(cl_cost_step){.n_parts = 1, .parts = &part}, add_phase, kinds);
    for (int k = 0; k < CL_PHASES; k++) {
        const cl_phase *p = &kinds[k].all;
        if (kinds[k].phases)
            json_object_set_new(all, cl_phase_name((cl_phase_kind)k),
                                json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:i, s:I, s:I, s:f, s:f}", "weight_bytes",
                                          (json_int_t)p->weight_bytes, "vector_bytes", (json_int_t)p->vector_bytes,
                                          "kv_bytes", (json_int_t)p->kv_bytes, "ops_int8", p->ops_int8, "ops_f32",
                                          p->ops_f32, "ops_attention", p->ops_attention, "gathers", kinds[k].gathers,
                                          "got_bytes", (json_int_t)p->exchange.got_bytes, "sent_bytes",
                                          (json_int_t)p->exchange.sent_bytes, "messages_got", p->exchange.got,
                                          "messages_sent", p->exchange.sent));
    }
    return all;
}

typedef struct chip_row {
    int32_t rank, stage, member, first_layer, layers;
    bool embed, head;
    uint64_t weight_bytes, kv_bytes, buffer_bytes, token_bytes, token_kv_bytes;
    int32_t gathers;
    uint64_t gather_bytes;
    double gather_messages;
    int32_t sends;
    uint64_t send_bytes;
    double share;
} chip_row;

static const cli_column chip_columns[] =
    {COLUMN(chip_row, rank),         COLUMN(chip_row, stage),        COLUMN(chip_row, member),
     COLUMN(chip_row, first_layer),  COLUMN(chip_row, layers),       COLUMN(chip_row, embed),
     COLUMN(chip_row, head),         COLUMN(chip_row, weight_bytes), COLUMN(chip_row, kv_bytes),
     COLUMN(chip_row, buffer_bytes), COLUMN(chip_row, token_bytes),  COLUMN(chip_row, token_kv_bytes),
     COLUMN(chip_row, gathers),      COLUMN(chip_row, gather_bytes), COLUMN(chip_row, gather_messages),
     COLUMN(chip_row, sends),        COLUMN(chip_row, send_bytes),   COLUMN(chip_row, share)};

static json_t *chips_json(const plan_cli *o, const plan_found *f)
{
    json_t *chips = json_array();
    for (int i = 0; i < f->placement.n_stages; i++) {
        const cl_stage *s = &f->placement.stages[i];
        for (int k = 0; k < s->n_ranks; k++) {
            const cl_chip_cost *c = &f->chips[s->first_rank + k];
            const int sends = hand_overs(f, i, k);
            const chip_row row = {.rank = s->first_rank + k,
                                  .stage = i,
                                  .member = k,
                                  .first_layer = s->first_layer,
                                  .layers = s->n_layers,
                                  .embed = s->embed,
                                  .head = s->head,
                                  .weight_bytes = c->weight_bytes,
                                  .kv_bytes = c->kv_bytes,
                                  .buffer_bytes = s->buffer_bytes,
                                  .token_bytes = c->token_bytes,
                                  .token_kv_bytes = c->token_kv_bytes,
                                  .gathers = c->gathers,
                                  .gather_bytes = c->gather_bytes,
                                  .gather_messages = c->gather_messages,
                                  .sends = sends,
                                  .send_bytes = (uint64_t)sends * send_bytes(f, i),
                                  .share = (double)touched(c) / (double)f->touched};
            json_t *chip = CLI_ROW(chip_columns, &row);
            if (o->explain) json_object_set_new(chip, "phases", phases_json(f, i, k));
            json_array_append_new(chips, chip);
        }
    }
    return chips;
}

static json_t *predicted_json(const cl_prediction *p)
{
    static const cli_column columns[] = {COLUMN(cl_prediction, token_s), COLUMN(cl_prediction, step_s),
                                         COLUMN(cl_prediction, tokens_per_s)};
    return CLI_ROW(columns, p);
}

static json_t *rates_json(const cl_rates *r)
{
    static const cli_column columns[] = {COLUMN(cl_rates, read_bytes_per_s), COLUMN(cl_rates, gather_s),
                                         COLUMN(cl_rates, gather_bytes_per_s), COLUMN(cl_rates, hop_s),
                                         COLUMN(cl_rates, hop_bytes_per_s)};
    static const char *const far[CL_FAR_LINKS] = {"between_nodes", "between_racks"};
    json_t *j = CLI_ROW(columns, r);
    for (int i = 0; i < CL_FAR_LINKS; i++)
        if (r->far[i].chips)
            json_object_set_new(j, far[i],
                                json_pack("{s:i, s:f, s:f}", "chips", r->far[i].chips, "hop_s", r->far[i].s,
                                          "bytes_per_s", r->far[i].bytes_per_s));
    return j;
}

static json_t *alternatives_json(const plan_found *f)
{
    json_t *list = json_array();
    for (int i = 0; i < f->n_list; i++) {
        const cl_alternative *a = &f->list[i];
        json_t *j = json_pack("{s:i, s:i, s:i, s:b}", "stages", a->stages, "chips", a->chips, "larger", a->larger,
                              "possible", a->code == CL_OK);
        if (a->code == CL_OK) json_object_set_new(j, "predicted", predicted_json(&a->predicted));
        else json_object_set_new(j, "why", json_string(a->why));
        json_array_append_new(list, j);
    }
    return list;
}

/* In any stage; those of one chip have nothing to share. */
static bool routers_shared(const cl_placement *p)
{
    for (int i = 0; i < p->n_stages; i++)
        if (p->stages[i].split_routers) return true;
    return false;
}

static int left_over(const plan_cli *o, const plan_found *f)
{
    return f->available - f->placement.n_ranks * o->run.replicas;
}

void plan_print_json(const plan_cli *o, const plan_found *f)
{
    const cl_place_options *p = &f->options;
    char *name = layout_name(&f->layout);
    json_t *j = json_pack("{s:i, s:i, s:i, s:s, s:s, s:i, s:i, s:s, s:o, s:o, s:o}", "ranks",
                          f->placement.n_ranks * o->run.replicas, "replicas", o->run.replicas, "stages",
                          f->placement.n_stages, "layout", name ? name : "", "experts",
                          p->experts == CL_EXPERTS_WHOLE ? "whole" : "sliced", "context", p->context, "slots", p->slots,
                          "kv", cl_kv_name(p->kv), "chip_memory_bytes",
                          p->chip_bytes ? json_integer((json_int_t)p->chip_bytes) : json_null(), "chips",
                          chips_json(o, f), "predicted", predicted_json(&f->predicted));
    json_object_set_new(j, "routers", json_string(routers_shared(&f->placement) ? "split" : "copied"));
    json_object_set_new(j, "rates", rates_json(&f->rates));
    json_object_set_new(j, "chips_left_over", f->available ? json_integer(left_over(o, f)) : json_null());
    if (o->explain) json_object_set_new(j, "alternatives", alternatives_json(f));
    json_dumpf(j, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(j);
    free(name);
}

static const char *plural(int n) { return n == 1 ? "" : "s"; }

static void print_head(const plan_cli *o, const plan_found *f, bool grouped)
{
    char a[32];
    const cl_place_options *p = &f->options;
    const cl_placement *pl = &f->placement;
    printf("%s on %d chip%s: ", o->model, pl->n_ranks * o->run.replicas, plural(pl->n_ranks * o->run.replicas));
    if (o->run.replicas > 1) printf("%d lines of ", o->run.replicas);
    if (!grouped) printf("%d stage%s of one chip", pl->n_stages, plural(pl->n_stages));
    else {
        char *name = layout_name(&f->layout);
        printf("%d stage%s, layout %s, experts %s%s", pl->n_stages, plural(pl->n_stages), name ? name : "",
               p->experts == CL_EXPERTS_WHOLE ? "whole" : "sliced", routers_shared(pl) ? ", routers split" : "");
        free(name);
    }
    printf(", %d slot%s of %d positions, KV cache in %s", p->slots, plural(p->slots), p->context, cl_kv_name(p->kv));
    if (p->chip_bytes) printf(", %s per chip", cl_human_bytes((double)p->chip_bytes, a));
    printf("\n\n");
}

static void print_chip(const plan_found *f, int stage, int rank, bool grouped)
{
    const cl_stage *s = &f->placement.stages[stage];
    const cl_chip_cost *c = &f->chips[rank];
    char a[32], b[32], d[32], e[32], g[32], run[24], layers[48], full[16] = "";
    uint64_t chip_bytes = f->options.chip_bytes;
    if (chip_bytes)
        snprintf(full, sizeof full, "%.0f %%",
                 100 * (double)(c->weight_bytes + c->kv_bytes + s->buffer_bytes) / (double)chip_bytes);
    snprintf(run, sizeof run, s->n_layers > 1 ? "%d-%d" : "%d", s->first_layer, s->first_layer + s->n_layers - 1);
    snprintf(layers, sizeof layers, "%s%s%s", s->embed ? "embed, " : "", run, s->head ? ", head" : "");
    printf("%5d  ", rank);
    if (grouped) printf("%5d  ", stage);
    printf("%-22s %10s %10s %6s %12s %12s %5.1f %%", layers, cl_human_bytes((double)c->weight_bytes, a),
           cl_human_bytes((double)c->kv_bytes, b), full, cl_human_bytes((double)c->token_bytes, d),
           cl_human_bytes((double)c->token_kv_bytes, e), 100 * (double)touched(c) / (double)f->touched);
    if (grouped) printf(" %8d %10s", c->gathers, cl_human_bytes((double)c->gather_bytes, g));
    putchar('\n');
}

static void print_chips(const plan_found *f, bool grouped)
{
    const cl_placement *pl = &f->placement;
    bool each = pl->n_ranks <= MOST_LINES;
    printf("%5s  ", "chip");
    if (grouped) printf("%5s  ", "stage");
    printf("%-22s %10s %10s %6s %12s %12s %7s", "layers", "weights", "KV cache", f->options.chip_bytes ? "full" : "",
           "read/token", "KV/token", "share");
    printf(grouped ? " %8s %10s\n" : "\n", "gathers", "got/token");
    for (int i = 0; i < pl->n_stages; i++)
        for (int k = 0; k < (each ? pl->stages[i].n_ranks : 1); k++)
            print_chip(f, i, pl->stages[i].first_rank + k, grouped);
    if (!each) printf("\nOf each stage the first of its chips.\n");
}

static const char *seconds(double s, char buf[32])
{
    if (s < 1e-3) snprintf(buf, 32, "%.3g us", 1e6 * s);
    else if (s < 1) snprintf(buf, 32, "%.3g ms", 1e3 * s);
    else snprintf(buf, 32, "%.3g s", s);
    return buf;
}

static void print_predicted(const plan_cli *o, const plan_found *f)
{
    const cl_rates *r = &f->rates;
    char a[32], b[32], c[32];
    printf("Predicted%s: %s for a token alone, %s for the busiest stage's step, %.4g tokens/s from %d slot%s.\n",
           o->run.replicas > 1 ? " for each line" : "", seconds(f->predicted.token_s, a),
           seconds(f->predicted.step_s, b), f->predicted.tokens_per_s, f->options.slots, plural(f->options.slots));
    printf("Rates: a chip reads %s/s%s; a gather of two chips takes %s", cl_human_bytes(r->read_bytes_per_s, a),
           f->read_assumed ? " (assumed)" : "", seconds(r->gather_s, b));
    printf(", a hop %s%s; ", seconds(r->hop_s, b), f->gather_assumed ? " (assumed)" : "");
    if (f->links_assumed) printf("links without a limit (assumed).\n");
    else printf("links carry %s/s.\n", cl_human_bytes(r->hop_bytes_per_s, c));
    for (int i = 0; i < CL_FAR_LINKS; i++)
        if (r->far[i].chips)
            printf("Between %s of %d chips: %s, %s/s.\n", i == CL_FAR_NODES ? "nodes" : "racks", r->far[i].chips,
                   seconds(r->far[i].s, a), cl_human_bytes(r->far[i].bytes_per_s, b));
}

static void print_alternatives(const plan_cli *o, const plan_found *f)
{
    char a[32], b[32], name[48];
    printf("\nLayouts of %s%d chips, best for %s first:\n%12s %12s %12s %12s\n", f->at_most ? "at most " : "",
           f->at_most ? f->available / o->run.replicas : f->placement.n_ranks,
           f->goal == CL_GOAL_LATENCY ? "latency" : "throughput", "layout", "token", "step", "tokens/s");
    for (int i = 0; i < f->n_list; i++) {
        const cl_alternative *x = &f->list[i];
        if (x->larger)
            snprintf(name, sizeof name, "%dx%d+%dx%d", x->stages - x->larger, x->chips, x->larger, x->chips + 1);
        else snprintf(name, sizeof name, "%dx%d", x->stages, x->chips);
        if (x->code == CL_OK)
            printf("%12s %12s %12s %12.4g\n", name, seconds(x->predicted.token_s, a), seconds(x->predicted.step_s, b),
                   x->predicted.tokens_per_s);
        else printf("%12s  cannot be: %s\n", name, x->why);
    }
}

void plan_print_text(const plan_cli *o, const plan_found *f)
{
    const cl_placement *pl = &f->placement;
    bool grouped = pl->n_ranks > pl->n_stages;
    uint64_t largest = 0;
    char a[32];
    for (int i = 0; i < pl->n_ranks; i++) largest = touched(&f->chips[i]) > largest ? touched(&f->chips[i]) : largest;
    print_head(o, f, grouped);
    print_chips(f, grouped);
    printf(
        "\nA token touches %s; the busiest chip has %.2f times the average (KV/token: at a quarter of the context).\n",
        cl_human_bytes((double)f->touched, a), (double)largest * pl->n_ranks / (double)f->touched);
    print_predicted(o, f);
    if (f->available && left_over(o, f))
        printf("%d of the cluster's %d chips %s left over.\n", left_over(o, f), f->available,
               left_over(o, f) == 1 ? "is" : "are");
    if (o->explain) print_alternatives(o, f);
}
