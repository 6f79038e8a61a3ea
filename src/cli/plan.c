/* plan.c: `chipline plan`: the placement that `run` would use, without MPI. */
#include <stdlib.h>

#include "chipline/plan.h"
#include "cli.h"
#include "model_arg.h"
#include "chipline/run.h"

enum { RANKS = 'n', CONTEXT = 'c', LAYOUT = 256, CHIP, CLUSTER, SLOTS, KV, JSON };

static const struct argp_option options[] = {
    {"ranks", RANKS, "N", 0,
     "chips in the line (1; with --chip the fewest that hold the model; with --cluster all that can have work)", 0},
    {"layout", LAYOUT, "SxG", 0, "S stages of G chips; this version: G = 1", 0},
    {"chip", CHIP, "FILE|BYTES", 0, "memory of one chip: 230MB, 1.5GiB, or a configs/chips/NAME.json", 0},
    {"cluster", CLUSTER, "FILE", 0, "a configs/clusters/NAME.json: how many chips there are, and which", 0},
    {"context", CONTEXT, "C", 0, "positions per sequence (the model's, at most 4096)", 0},
    {"slots", SLOTS, "B", 0, "sequences in the line at once (1)", 0},
    {"kv", KV, "FORMAT", 0, "auto, f32, bf16 or q8: numbers of the KV cache (auto: bf16 for quantised models, else f32)", 0},
    {"json", JSON, NULL, 0, "{\"ranks\", \"layout\", \"context\", \"slots\", \"kv\", \"chips\": [...], ...}", 0},
    {0}};

typedef struct plan_cli {
    cl_err *err;
    const char *model, *chip, *cluster;
    int ranks, stages, context, slots, kv;
    bool json;
} plan_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    static const char *const kv_words[] = {"auto", "f32", "bf16", "q8", NULL};
    plan_cli *o = st->input;
    switch (key) {
    case RANKS: return cl_cli_int(o->err, "--ranks", arg, 1, 1 << 20, &o->ranks);
    case LAYOUT: return cl_cli_layout(o->err, arg, &o->stages);
    case CHIP: o->chip = arg; break;
    case CLUSTER: o->cluster = arg; break;
    case CONTEXT: return cl_cli_int(o->err, "--context", arg, 2, 1 << 28, &o->context);
    case SLOTS: return cl_cli_int(o->err, "--slots", arg, 1, 1 << 16, &o->slots);
    case KV: return cl_cli_word(o->err, "--kv", arg, kv_words, &o->kv);
    case JSON: o->json = true; break;
    case ARGP_KEY_ARG:
        if (o->model) return cl_cli_extra(o->err, arg);
        o->model = arg;
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp argp = {options, parse, "MODEL.h5|CONFIG.json",
    "Which chip (MPI rank) would hold which layers: stages of whole layers, balanced by the bytes that a token touches, the "
    "output head and the KV cache read included."
    "\vExamples:\n"
    "  chipline plan model.h5 --ranks 4\n"
    "  chipline plan config.json --chip configs/chips/groq-lpu-v1.json\n"
    "  chipline plan model.h5 --chip 512MB --context 2048 --slots 8 --json\n", NULL, NULL, NULL};

/* --cluster: number of chips, and their memory unless --chip says otherwise. "chip" is a path beside the cluster's file. */
static cl_code read_cluster(const char *path, bool want_chip, int *chips, uint64_t *chip_bytes, cl_err *err)
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
        if (c == CL_OK) c = cl_cli_chip(file.data, chip_bytes, err);
        cl_buf_free(&file);
    }
    *chips = (int)(nodes * per_node);
    json_decref(j);
    return c;
}

/* How many ranks: as told, or what the chips call for. */
static cl_code place(const plan_cli *o, const cl_model *m, cl_place_options *p, cl_placement *out, cl_err *err)
{
    int available = 0, layers = m->spec.n_layers;
    cl_code c = CL_OK;
    if (o->chip) c = cl_cli_chip(o->chip, &p->chip_bytes, err);
    if (c == CL_OK && o->cluster) c = read_cluster(o->cluster, !o->chip, &available, &p->chip_bytes, err);
    if (c != CL_OK) return c;
    p->ranks = o->ranks ? o->ranks : o->stages ? o->stages : !available ? 1 : available < layers ? available : layers;
    if (available && p->ranks > available)
        return cl_fail(err, CL_E_FIT, "plan: %d ranks, and the cluster has %d chips (use at most that)", p->ranks, available);
    bool fewest = p->chip_bytes && !o->ranks && !o->stages && !available;
    while ((c = cl_place(m, p, out, err)) == CL_E_FIT && fewest && p->ranks < layers) p->ranks++;
    return c;
}

static cl_code choose(const plan_cli *o, const cl_model *m, cl_place_options *p, cl_err *err)
{
    int longest = m->spec.context;
    if (o->ranks && o->stages && o->ranks != o->stages)
        return cl_fail(err, CL_E_USAGE, "--layout: %d stages of one chip are %d ranks, not %d (leave one of the two out)",
                       o->stages, o->stages, o->ranks);
    if (o->context > longest)
        return cl_fail(err, CL_E_FIT, "--context: %d is over the %d positions the model was made for (use at most that)",
                       o->context, longest);
    p->context = o->context ? o->context : longest < CL_DEFAULT_CONTEXT ? longest : CL_DEFAULT_CONTEXT;
    p->chunk = p->context < CL_DEFAULT_CHUNK ? p->context : CL_DEFAULT_CHUNK;
    p->slots = o->slots ? o->slots : 1;
    p->kv = o->kv ? (cl_kv_format)(o->kv - 1) : cl_model_quantised(m) ? CL_KV_BF16 : CL_KV_F32;
    return CL_OK;
}

static uint64_t touched(const cl_stage *s) { return s->token_bytes + s->token_kv_bytes; }

static void print_json(const cl_place_options *p, const cl_placement *pl, uint64_t all)
{
    char layout[32];
    snprintf(layout, sizeof layout, "%dx1", pl->n_stages);
    json_t *chips = json_array();
    for (int i = 0; i < pl->n_stages; i++) {
        const cl_stage *s = &pl->stages[i];
        json_array_append_new(chips, json_pack("{s:i, s:i, s:i, s:i, s:i, s:b, s:b, s:I, s:I, s:I, s:I, s:f}", "rank",
                                               s->first_rank, "stage", i, "member", 0, "first_layer", s->first_layer, "layers",
                                               s->n_layers, "embed", (int)s->embed, "head", (int)s->head, "weight_bytes",
                                               (json_int_t)s->weight_bytes, "kv_bytes", (json_int_t)s->kv_bytes, "token_bytes",
                                               (json_int_t)s->token_bytes, "token_kv_bytes", (json_int_t)s->token_kv_bytes,
                                               "share", (double)touched(s) / (double)all));
    }
    json_t *j = json_pack("{s:i, s:i, s:s, s:i, s:i, s:s, s:o, s:o}", "ranks", pl->n_ranks, "stages", pl->n_stages, "layout",
                          layout, "context", p->context, "slots", p->slots, "kv", cl_kv_name(p->kv), "chip_memory_bytes",
                          p->chip_bytes ? json_integer((json_int_t)p->chip_bytes) : json_null(), "chips", chips);
    json_dumpf(j, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(j);
}

static void print_table(const char *path, const cl_place_options *p, const cl_placement *pl, uint64_t all)
{
    char a[32], b[32], c[32], d[32], run[24], layers[48];
    uint64_t largest = 0;
    printf("%s on %d chip%s: %d stage%s of one chip, %d slot%s of %d positions, KV cache in %s", path, pl->n_ranks,
           pl->n_ranks == 1 ? "" : "s", pl->n_stages, pl->n_stages == 1 ? "" : "s", p->slots, p->slots == 1 ? "" : "s",
           p->context, cl_kv_name(p->kv));
    if (p->chip_bytes) printf(", %s per chip", cl_human_bytes((double)p->chip_bytes, a));
    printf("\n\n%5s  %-22s %10s %10s %6s %12s %12s %7s\n", "chip", "layers", "weights", "KV cache", p->chip_bytes ? "full" : "",
           "read/token", "KV/token", "share");
    for (int i = 0; i < pl->n_stages; i++) {
        const cl_stage *s = &pl->stages[i];
        int last = s->first_layer + s->n_layers - 1;
        char full[16] = "";
        if (p->chip_bytes)
            snprintf(full, sizeof full, "%.0f %%", 100 * (double)(s->weight_bytes + s->kv_bytes) / (double)p->chip_bytes);
        snprintf(run, sizeof run, s->n_layers > 1 ? "%d-%d" : "%d", s->first_layer, last);
        snprintf(layers, sizeof layers, "%s%s%s", s->embed ? "embed, " : "", run, s->head ? ", head" : "");
        printf("%5d  %-22s %10s %10s %6s %12s %12s %5.1f %%\n", s->first_rank, layers, cl_human_bytes((double)s->weight_bytes, a),
               cl_human_bytes((double)s->kv_bytes, b), full, cl_human_bytes((double)s->token_bytes, c),
               cl_human_bytes((double)s->token_kv_bytes, d), 100 * (double)touched(s) / (double)all);
        largest = touched(s) > largest ? touched(s) : largest;
    }
    printf("\nA token touches %s; the busiest chip has %.2f times the average (KV/token: at a quarter of the context).\n",
           cl_human_bytes((double)all, a), (double)largest * pl->n_stages / (double)all);
}

static cl_code plan(const plan_cli *o, cl_err *err)
{
    model_arg a;
    cl_place_options p = {0};
    cl_placement placement = {0};
    cl_code c = model_arg_open(o->model, &a, err);
    if (c != CL_OK) return c;
    c = choose(o, &a.model, &p, err);
    if (c == CL_OK) c = place(o, &a.model, &p, &placement, err);
    if (c == CL_OK) {
        uint64_t all = 0;
        for (int i = 0; i < placement.n_stages; i++) all += touched(&placement.stages[i]);
        if (o->json) print_json(&p, &placement, all);
        else print_table(o->model, &p, &placement, all);
    }
    cl_placement_free(&placement);
    model_arg_close(&a);
    return c;
}

int cl_cmd_plan(int argc, char **argv)
{
    cl_err err;
    plan_cli o = {.err = &err};
    bool help;
    cl_code c = cl_cli_parse(&argp, argc, argv, &o, &help, &err);
    if (c == CL_OK && help) {
        cl_cli_help(&argp, argv[0]);
        return CL_OK;
    }
    if (c == CL_OK && !o.model)
        c = cl_fail(&err, CL_E_USAGE, "plan: needs a model (chipline plan MODEL.h5 --ranks N, or a config.json)");
    if (c == CL_OK) c = plan(&o, &err);
    return c == CL_OK ? CL_OK : cl_cli_fail(&err);
}
