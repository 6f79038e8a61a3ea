/* plan.c: `chipline plan`: the placement that `run` would use, without MPI. */
#include <stdlib.h>

#include "chipline/run.h"
#include "chipline/trace.h"
#include "model_arg.h"
#include "plan_cli.h"

enum {
    RANKS = 'n',
    CONTEXT = 'c',
    LAYOUT = 256,
    EXPERTS,
    ROUTING,
    REPLICAS,
    CHIP,
    CLUSTER,
    SLOTS,
    KV,
    GOAL,
    EXPLAIN,
    JSON
};

static const struct argp_option options[] = {
    {"ranks", RANKS, "N", 0,
     "chips in all (1; with --chip the fewest that hold the model; with --cluster all that can have work)", 0},
    {"layout", LAYOUT, "SxG|auto|FILE", 0,
     "S stages of G chips; auto: whichever is predicted best; FILE: {\"stages\": [{\"chips\": 3, \"layers\": 10}, "
     "...]}, layers "
     "in all or none (default: stages of one chip, auto where there are more chips than layers)",
     0},
    {"experts", EXPERTS, "MODE", 0,
     "sliced (every chip of a stage holds rows of every expert) or whole (some experts each)", 0},
    {"routing", ROUTING, "TRACE.h5", 0,
     "whole experts are placed by how often they were chosen in that run, and the hottest copied where --chip leaves "
     "memory (round-robin)",
     0},
    {"replicas", REPLICAS, "R", 0, "lines like this one, each with all of the model (1)", 0},
    {"chip", CHIP, "FILE|BYTES", 0,
     "memory of one chip: 230MB, 1.5GiB, or a configs/chips/NAME.json, whose rates predictions use", 0},
    {"cluster", CLUSTER, "FILE", 0, "a configs/clusters/NAME.json: how many chips there are, and which", 0},
    {"context", CONTEXT, "C", 0, "positions per sequence (the model's, at most 4096)", 0},
    {"slots", SLOTS, "B", 0, "sequences in the line at once (1)", 0},
    {"kv", KV, "FORMAT", 0,
     "auto, f32, bf16 or q8: numbers of the KV cache (auto: bf16 for quantised models, else f32)", 0},
    {"goal", GOAL, "GOAL", 0, "latency or throughput: what auto looks for (latency for one slot, else throughput)", 0},
    {"explain", EXPLAIN, NULL, 0,
     "all layouts of as many chips: what they are predicted to do, or why they cannot be; with --json also each chip's "
     "phases of a token (bytes, operations, exchanges)",
     0},
    {"json", JSON, NULL, 0,
     "{\"ranks\", \"layout\", \"context\", \"slots\", \"kv\", \"chips\": [...], \"predicted\": {...}, ...}", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *st)
{
    static const char *const kv_words[] = {"auto", "f32", "bf16", "q8", NULL},
                             *const expert_words[] = {"sliced", "whole", NULL},
                             *const goal_words[] = {"latency", "throughput", NULL};
    plan_cli *o = st->input;
    error_t e;
    switch (key) {
    case RANKS: return cl_cli_int(o->err, "--ranks", arg, 1, 1 << 20, &o->ranks);
    case LAYOUT: cl_layout_free(&o->layout); return cl_cli_layout(o->err, arg, &o->layout, &o->is_auto);
    case ROUTING: o->routing = arg; break;
    case EXPERTS: return cl_cli_word(o->err, "--experts", arg, expert_words, &o->experts);
    case REPLICAS: return cl_cli_int(o->err, "--replicas", arg, 1, 1 << 20, &o->replicas);
    case CHIP: o->chip = arg; break;
    case CLUSTER: o->cluster = arg; break;
    case CONTEXT: return cl_cli_int(o->err, "--context", arg, 2, 1 << 28, &o->context);
    case SLOTS: return cl_cli_int(o->err, "--slots", arg, 1, 1 << 16, &o->slots);
    case KV: return cl_cli_word(o->err, "--kv", arg, kv_words, &o->kv);
    case GOAL:
        e = cl_cli_word(o->err, "--goal", arg, goal_words, &o->goal);
        o->goal++;
        return e;
    case EXPLAIN: o->explain = true; break;
    case JSON: o->json = true; break;
    case ARGP_KEY_ARG:
        if (o->model) return cl_cli_extra(o->err, arg);
        o->model = arg;
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp argp = {options,
                                 parse,
                                 "MODEL.h5|CONFIG.json",
                                 "Which chip (MPI rank) would hold what: stages of whole layers, each on one chip or "
                                 "shared by a set of chips, balanced by "
                                 "the bytes that a token touches, the output head and the KV cache read included."
                                 "\vExamples:\n"
                                 "  chipline plan model.h5 --ranks 4\n"
                                 "  chipline plan model.h5 --layout 2x3 --experts whole\n"
                                 "  chipline plan model.h5 --ranks 8 --layout auto --explain\n"
                                 "  chipline plan config.json --chip configs/chips/groq-lpu-v1.json\n"
                                 "  chipline plan model.h5 --chip 512MB --context 2048 --slots 8 --json\n",
                                 NULL,
                                 NULL,
                                 NULL};

/* --cluster: number of chips, and their memory unless --chip says otherwise. "chip" is a path beside the cluster's
 * file. */
static cl_code read_cluster(const char *path, bool want_chip, int *chips, uint64_t *chip_bytes, cl_rates *rates,
                            cl_err *err)
{
    json_t *j = NULL;
    int64_t nodes = 0, per_node = 0;
    const char *chip = NULL, *slash = strrchr(path, '/');
    cl_buf file = {0};
    cl_code c = cl_json_load(path, &j, err);
    if (c != CL_OK) return cl_fail_prefix(err, "--cluster");
    c = json_is_object(j) ? cl_json_int(j, "nodes", true, 1, 1 << 20, &nodes, err)
                          : cl_fail(err, CL_E_INPUT, "is not a JSON object");
    if (c == CL_OK) c = cl_json_int(j, "chips_per_node", true, 1, 1 << 10, &per_node, err);
    if (c == CL_OK) c = cl_json_str(j, "chip", want_chip, &chip, err);
    if (c != CL_OK) cl_fail_prefix(err, "--cluster: %s", path);
    if (c == CL_OK && want_chip) {
        int folder = slash && chip[0] != '/' ? (int)(slash - path) + 1 : 0;
        c = cl_buf_printf(&file, err, "%.*s%s", folder, path, chip);
        if (c == CL_OK) c = cl_cli_chip(file.data, chip_bytes, rates, err);
        cl_buf_free(&file);
    }
    *chips = (int)(nodes * per_node);
    json_decref(j);
    return c;
}

/* Chips by their file, or those of one core of a computer and of ranks on it. */
static cl_code read_chips(const plan_cli *o, plan_found *f, int *available, cl_err *err)
{
    cl_code c = CL_OK;
    *available = 0;
    if (o->chip) c = cl_cli_chip(o->chip, &f->options.chip_bytes, &f->rates, err);
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
    *chips = o->ranks / o->replicas;
    if (o->ranks % o->replicas)
        return cl_fail(err, CL_E_USAGE, "--replicas: %d ranks are not %d lines alike (use a multiple of %d ranks)",
                       o->ranks, o->replicas, o->replicas);
    if (*available && (o->ranks ? o->ranks : o->replicas) > *available)
        return cl_fail(err, CL_E_FIT, "plan: %d ranks, and the cluster has %d chips (use at most that)",
                       o->ranks ? o->ranks : o->replicas, *available);
    *available /= o->replicas;
    return CL_OK;
}

static cl_code choose_layout(const plan_cli *o, const cl_model *m, plan_found *f, int ranks, cl_err *err)
{
    cl_place_options p = f->options;
    p.ranks = ranks;
    cl_layout_free(&f->layout);
    return cl_choose_layout(m, &p, &f->rates, f->goal, &f->layout, o->explain ? &f->list : NULL, &f->n_list, err);
}

/* As told, or what the chips call for. */
static cl_code find_layout(const plan_cli *o, const cl_model *m, plan_found *f, cl_err *err)
{
    int available, chips = 0;
    cl_code c = read_chips(o, f, &available, err);
    if (c == CL_OK) c = line_chips(o, &available, &chips, err);
    if (c != CL_OK) return c;
    f->options.ranks = chips;
    if (o->layout.n_stages) {
        if (available && cl_layout_chips(&o->layout) > available)
            return cl_fail(err, CL_E_FIT, "plan: a line of %d chips, and the cluster has %d for it (use at most that)",
                           cl_layout_chips(&o->layout), available);
        return cl_layout_copy(&o->layout, &f->layout, err);
    }
    chips = chips ? chips : available;
    if (!chips && !f->options.chip_bytes) chips = 1;
    if (!chips) {
        c = cl_fewest_chips(m, &f->options, &f->layout, err);
        if (c != CL_OK || !o->is_auto) return c;
        chips = cl_layout_chips(&f->layout);
    }
    if (o->is_auto || chips > m->spec.n_layers) return choose_layout(o, m, f, chips, err);
    return cl_layout_make(chips, 1, &f->layout, err);
}

static cl_code find_limits(const plan_cli *o, const cl_model *m, plan_found *f, cl_err *err)
{
    int longest = m->spec.context;
    cl_place_options *p = &f->options;
    f->model = m;
    if (o->context > longest)
        return cl_fail(err, CL_E_FIT,
                       "--context: %d is over the %d positions the model was made for (use at most that)", o->context,
                       longest);
    p->context = o->context ? o->context : longest < CL_DEFAULT_CONTEXT ? longest : CL_DEFAULT_CONTEXT;
    p->chunk = p->context < CL_DEFAULT_CHUNK ? p->context : CL_DEFAULT_CHUNK;
    p->slots = o->slots ? o->slots : 1;
    p->kv = o->kv ? (cl_kv_format)(o->kv - 1) : cl_model_quantised(m) ? CL_KV_BF16 : CL_KV_F32;
    p->experts = (cl_expert_mode)o->experts;
    if (o->routing) {
        if (p->experts != CL_EXPERTS_WHOLE)
            return cl_fail(err, CL_E_USAGE, "--routing: places whole experts (give --experts whole too)");
        cl_code c = cl_trace_routing_read(o->routing, &f->chosen, &f->routing.n_layers, &f->routing.experts, err);
        if (c != CL_OK) return cl_fail_prefix(err, "--routing");
        f->routing.chosen = f->chosen;
        p->routing = &f->routing;
        p->copies = true;
    }
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
    cl_code c = find_limits(o, m, f, err);
    if (c == CL_OK) c = find_layout(o, m, f, err);
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

static cl_code plan(const plan_cli *o, cl_err *err)
{
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

int cl_cmd_plan(int argc, char **argv)
{
    cl_err err;
    plan_cli o = {.err = &err, .replicas = 1};
    bool help;
    cl_code c = cl_cli_parse(&argp, argc, argv, &o, &help, &err);
    if (c == CL_OK && help) {
        cl_cli_help(&argp, argv[0]);
        return CL_OK;
    }
    if (c == CL_OK && !o.model)
        c = cl_fail(&err, CL_E_USAGE, "plan: needs a model (chipline plan MODEL.h5 --ranks N, or a config.json)");
    if (c == CL_OK) c = plan(&o, &err);
    cl_layout_free(&o.layout);
    return c == CL_OK ? CL_OK : cl_cli_fail(&err);
}
