/* plan.c: `chipline plan`: the placement that `run` would use, without MPI. */
#include <stdlib.h>

#include "chipline/trace.h"
#include "model_arg.h"
#include "options.h"
#include "plan_cli.h"

enum { RANKS = 'n', CLUSTER = 256, GOAL, EXPLAIN };

static const struct argp_option options[] = {
    {"ranks", RANKS, "N", 0,
     "chips in all (1; with --chip the fewest that hold the model; with --cluster all that can have work)", 0},
    ROW_LAYOUT(0),
    ROW_EXPERTS(0),
    ROW_ROUTERS(0),
    ROW_ROUTING(0),
    ROW_REPLICAS(0),
    ROW_CHIP(0),
    {"cluster", CLUSTER, "FILE", 0, "a configs/clusters/NAME.json: how many chips there are, and which", 0},
    ROW_CONTEXT(0),
    ROW_SLOTS("1", 0),
    ROW_KV(0),
    ROW_CHUNK(0),
    ROW_GATHER(0),
    {"goal", GOAL, "GOAL", 0, "latency or throughput: what auto looks for (latency for one slot, else throughput)", 0},
    {"explain", EXPLAIN, NULL, 0,
     "all layouts of as many chips: what they are predicted to do, or why they cannot be; with --json also each chip's "
     "phases of a token (bytes, operations, exchanges)",
     0},
    ROW_JSON("{\"ranks\", \"layout\", \"context\", \"slots\", \"kv\", \"chips\": [...], \"predicted\": {...}, ...}", 0),
    {0}};

static error_t parse(int key, char *arg, struct argp_state *st)
{
    static const char *const goal_words[] = {"latency", "throughput", NULL};
    plan_cli *o = st->input;
    error_t e;
    switch (key) {
    case RANKS: return cli_int(o->err, "--ranks", arg, 1, 1 << 20, &o->ranks);
    case OPT_CHIP: o->chip = arg; break;
    case CLUSTER: o->cluster = arg; break;
    case GOAL:
        e = cli_word(o->err, "--goal", arg, goal_words, &o->goal);
        o->goal++;
        return e;
    case EXPLAIN: o->explain = true; break;
    case OPT_JSON: o->json = true; break;
    case ARGP_KEY_ARG: return cli_argument(o->err, "MODEL", arg, &o->model);
    default: return cli_run_option(key, arg, &o->run, &o->layout, o->err);
    }
    return 0;
}

/* "links_between_NODES": {"hop_s", "bytes_per_s"}, where there are some: those between groups of so many chips. */
static cl_code read_far_link(const json_t *j, const char *key, int64_t chips, cl_far_link *out, cl_err *err)
{
    const json_t *link = json_object_get(j, key);
    if (!link) return CL_OK;
    cl_code c = json_is_object(link) ? cl_json_double(link, "hop_s", true, 0, 1e6, &out->s, err)
                                     : cl_fail(err, CL_E_INPUT, "is not a JSON object");
    if (c == CL_OK) c = cl_json_double(link, "bytes_per_s", true, 1, 1e18, &out->bytes_per_s, err);
    out->chips = (int)chips;
    return c == CL_OK ? CL_OK : cl_fail_prefix(err, "%s", key);
}

/* Those of a chip are inside a node. */
static cl_code read_links(const json_t *j, int64_t nodes, int64_t per_node, cl_far_link far[CL_FAR_LINKS], cl_err *err)
{
    const bool racks = json_object_get(j, "links_between_racks") != NULL;
    int64_t per_rack = nodes;
    cl_code c = cl_json_int(j, "nodes_per_rack", racks, 1, nodes, &per_rack, err);
    if (c == CL_OK) c = read_far_link(j, "links_between_nodes", per_node, &far[CL_FAR_NODES], err);
    if (c == CL_OK) c = read_far_link(j, "links_between_racks", per_rack * per_node, &far[CL_FAR_RACKS], err);
    return c;
}

/* --cluster: number of chips, and their memory unless --chip says otherwise. "chip" is a path beside the cluster's
 * file. */
static cl_code read_cluster(const char *path, bool want_chip, int *chips, uint64_t *chip_bytes, cl_rates *rates,
                            cl_err *err)
{
    json_t *j = NULL;
    int64_t nodes = 0, per_node = 0;
    const char *chip = NULL, *slash = strrchr(path, '/');
    cl_buf file = {0};
    cl_far_link far[CL_FAR_LINKS] = {{0}};
    cl_code c = cl_json_load(path, &j, err);
    if (c != CL_OK) return cl_fail_prefix(err, "--cluster");
    c = json_is_object(j) ? cl_json_int(j, "nodes", true, 1, 1 << 20, &nodes, err)
                          : cl_fail(err, CL_E_INPUT, "is not a JSON object");
    if (c == CL_OK) c = cl_json_int(j, "chips_per_node", true, 1, 1 << 10, &per_node, err);
    if (c == CL_OK) c = cl_json_str(j, "chip", want_chip, &chip, err);
    if (c == CL_OK) c = read_links(j, nodes, per_node, far, err);
    if (c != CL_OK) cl_fail_prefix(err, "--cluster: %s", path);
    if (c == CL_OK && want_chip) {
        int folder = slash && chip[0] != '/' ? (int)(slash - path) + 1 : 0;
        c = cl_buf_printf(&file, err, "%.*s%s", folder, path, chip);
        if (c == CL_OK) c = cli_chip(file.data, chip_bytes, rates, err);
        cl_buf_free(&file);
    }
    if (c == CL_OK) memcpy(rates->far, far, sizeof far); /* of the cluster, whosever chips they are */
    *chips = (int)(nodes * per_node);
    json_decref(j);
    return c;
}

/* Chips by their file, or those of one core of a computer and of ranks on it. */
static cl_code read_chips(const plan_cli *o, plan_found *f, int *available, cl_err *err)
{
    cl_code c = CL_OK;
    *available = 0;
    if (o->chip) c = cli_chip(o->chip, &f->options.chip_bytes, &f->rates, err);
    if (c == CL_OK && o->cluster)
        c = read_cluster(o->cluster, !o->chip, available, &f->options.chip_bytes, &f->rates, err);
    f->read_assumed = f->rates.read_bytes_per_s == 0;
    f->gather_assumed = f->rates.gather_s == 0;
    f->links_assumed = f->rates.hop_bytes_per_s == 0;
    if (f->read_assumed) f->rates.read_bytes_per_s = 30e9;
    if (f->gather_assumed) {
        f->rates.gather_s = 2e-6;
        f->rates.hop_s = 5e-6;
    }
    return c;
}

/* Chips of one line if they are told, 0 if not: then *available says how many there are, 0 if nobody knows. */
static cl_code line_chips(const plan_cli *o, int *available, int *chips, cl_err *err)
{
    *chips = o->ranks / o->run.replicas;
    if (o->ranks % o->run.replicas)
        return cl_fail(err, CL_E_USAGE, "--replicas: %d ranks are not %d lines alike (use a multiple of %d ranks)",
                       o->ranks, o->run.replicas, o->run.replicas);
    if (*available && (o->ranks ? o->ranks : o->run.replicas) > *available)
        return cl_fail(err, CL_E_FIT, "plan: %d ranks, and the cluster has %d chips (use at most that)",
                       o->ranks ? o->ranks : o->run.replicas, *available);
    *available /= o->run.replicas;
    return CL_OK;
}

static cl_code choose_layout(const plan_cli *o, const cl_model *m, plan_found *f, int ranks, bool at_most, cl_err *err)
{
    cl_place_options p = f->options;
    p.ranks = ranks;
    p.at_most = f->at_most = at_most;
    cl_layout_free(&f->layout);
    return cl_choose_layout(m, &p, &f->rates, f->goal, &f->layout, o->explain ? &f->list : NULL, &f->n_list, err);
}

/* As told, or what the chips call for. */
static cl_code find_layout(const plan_cli *o, const cl_model *m, plan_found *f, int available, cl_err *err)
{
    int chips = 0;
    cl_code c = line_chips(o, &available, &chips, err);
    if (c != CL_OK) return c;
    f->options.ranks = chips;
    if (o->layout.n_stages) {
        if (available && cl_layout_chips(&o->layout) > available)
            return cl_fail(err, CL_E_FIT, "plan: a line of %d chips, and the cluster has %d for it (use at most that)",
                           cl_layout_chips(&o->layout), available);
        return cl_layout_copy(&o->layout, &f->layout, err);
    }
    const bool at_most = !chips && available;
    chips = chips ? chips : available;
    if (!chips && !f->options.chip_bytes) chips = 1;
    if (!chips) {
        c = cl_fewest_chips(m, &f->options, &f->layout, err);
        if (c != CL_OK || !o->run.layout_auto) return c;
        chips = cl_layout_chips(&f->layout);
    }
    if (o->run.layout_auto || chips > m->spec.n_layers) return choose_layout(o, m, f, chips, at_most, err);
    return cl_layout_make(chips, 1, &f->layout, err);
}

static cl_code find_limits(const plan_cli *o, const cl_model *m, plan_found *f, cl_err *err)
{
    cl_place_options *p = &f->options;
    f->model = m;
    /* chips of a cluster have a memory each, ranks of one machine share its own */
    p->shared_memory = o->run.carrier != CL_CARRIER_MESSAGES && !o->cluster;
    f->buffers = (cl_buffer_count){.model = m,
                                   .threads = 1,
                                   .carrier = p->shared_memory ? CL_CARRIER_SHARED : CL_CARRIER_MESSAGES,
                                   .chip_bytes = p->chip_bytes};
    cl_code c = cl_find_limits(&o->run, &m->spec, 1, p->chip_bytes, &f->buffers.limits, err);
    if (c != CL_OK) return c;
    cl_find_arithmetic(&o->run, m, &f->buffers.activations, &f->buffers.kv);
    p->context = f->buffers.limits.context;
    p->chunk = f->buffers.limits.chunk;
    p->slots = f->buffers.limits.slots;
    p->kv = f->buffers.kv;
    p->experts = o->run.experts;
    p->routers = o->run.routers;
    if (o->cluster) p->gather_reads = f->rates.read_bytes_per_s * f->rates.gather_s;
    if (o->run.routing_path) {
        if (p->experts != CL_EXPERTS_WHOLE)
            return cl_fail(err, CL_E_USAGE, "--routing: places whole experts (give --experts whole too)");
        c = cl_trace_routing_read(o->run.routing_path, &f->chosen, &f->routing.n_layers, &f->routing.experts, err);
        if (c != CL_OK) return cl_fail_prefix(err, "--routing");
        f->routing.chosen = f->chosen;
        p->routing = &f->routing;
        p->copies = true;
    }
    p->buffers = cl_count_buffers;
    p->buffers_ctx = &f->buffers;
    f->goal = o->goal ? (cl_goal)(o->goal - 1) : p->slots == 1 ? CL_GOAL_LATENCY : CL_GOAL_THROUGHPUT;
    return CL_OK;
}

/* The other layouts of as many chips, where choosing has not listed them. */
static void find_alternatives(const cl_model *m, plan_found *f)
{
    cl_place_options p = f->options;
    cl_layout best;
    p.ranks = f->placement.n_ranks;
    if (cl_choose_layout(m, &p, &f->rates, f->goal, &best, &f->list, &f->n_list, NULL) == CL_OK) cl_layout_free(&best);
}

static cl_code find(const plan_cli *o, const cl_model *m, plan_found *f, cl_err *err)
{
    int available;
    cl_code c = read_chips(o, f, &available, err);
    f->available = available;
    if (c == CL_OK) c = find_limits(o, m, f, err);
    if (c == CL_OK) c = find_layout(o, m, f, available, err);
    if (c != CL_OK) return c;
    f->options.layout = &f->layout;
    c = cl_place(m, &f->options, &f->placement, err);
    if (c == CL_OK) c = cl_predict(m, &f->options, &f->placement, &f->rates, &f->predicted, err);
    if (c != CL_OK) return c;
    f->chips = cl_malloc((size_t)f->placement.n_ranks, sizeof *f->chips, "plan", err);
    if (!f->chips) return CL_E_FIT;
    for (int i = 0; c == CL_OK && i < f->placement.n_ranks; i++) {
        c = cl_placement_cost(m, &f->options, &f->placement, i, &f->chips[i], err);
        f->touched += f->chips[i].token_bytes + f->chips[i].token_kv_bytes;
    }
    if (c == CL_OK && o->explain && !f->list) find_alternatives(m, f);
    return c;
}

static cl_code check(void *own, const cli_call *call)
{
    const plan_cli *o = own;
    if (o->model) return CL_OK;
    return cl_fail(o->err, CL_E_USAGE, "plan: needs a model (chipline plan MODEL.h5 --ranks N, or a config.json)");
}

static cl_code run(void *own, const cli_call *call)
{
    const plan_cli *o = own;
    cl_err *err = o->err;
    model_arg a;
    plan_found f = {0};
    cl_code c = model_arg_open(o->model, &a, err);
    if (c != CL_OK) return c;
    c = find(o, &a.model, &f, err);
    if (c == CL_OK) {
        if (o->json) plan_print_json(o, &f);
        else plan_print_text(o, &f);
    }
    free(f.chosen);
    free(f.list);
    free(f.chips);
    cl_placement_free(&f.placement);
    cl_layout_free(&f.layout);
    model_arg_close(&a);
    return c;
}

static void end(void *own) { cl_layout_free(&((plan_cli *)own)->layout); }

const cli_command command_plan = {
    .name = "plan",
    .args = "MODEL.h5|CONFIG.json",
    .what = "which rank would hold what, without MPI",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "MODEL.h5|CONFIG.json",
             .doc = "Which chip (MPI rank) would hold what: stages of whole layers, each on one chip or "
                    "shared by a set of chips, balanced by "
                    "the bytes that a token touches, the output head and the KV cache read included."
                    "\vExamples:\n"
                    "  chipline plan model.h5 --ranks 4\n"
                    "  chipline plan model.h5 --layout 2x3 --experts whole\n"
                    "  chipline plan model.h5 --ranks 8 --layout auto --explain\n"
                    "  chipline plan config.json --chip configs/chips/groq-lpu-v1.json\n"
                    "  chipline plan model.h5 --chip 512MB --context 2048 --slots 8 --json\n"},
    .size = sizeof(plan_cli),
    .defaults = &(const plan_cli){.run = {.replicas = 1, CLI_RUN_DEFAULTS}},
    .check = check,
    .run = run,
    .end = end,
};
