/* plan.h: which chip holds which slice, and what a token costs there: pure functions of model, chips and options.
 *
 * Boundary: no MPI, no files, no weights. Same inputs give the same placement on every rank, so nobody has to send
 * it. */
#ifndef CHIPLINE_PLAN_H
#define CHIPLINE_PLAN_H

#include "chipline/json.h"
#include "chipline/model.h"

/* --- shape of the line --- */

/* Stages in order, each a set of chips. */
typedef struct cl_layout {
    int n_stages;
    int *chips;  /* [n_stages], each >= 1; owned */
    int *layers; /* [n_stages], each >= 1, owned; or NULL: balanced by bytes */
} cl_layout;
/* S stages of G chips. */
cl_code cl_layout_make(int stages, int chips, cl_layout *out, cl_err *err);
/* All of `chips` over so many stages, as evenly as can be: the last chips % stages of them have one more. */
cl_code cl_layout_share(int stages, int chips, cl_layout *out, cl_err *err);
/* Is it the name of a layout without layers ("2x4", "3+2x4")? */
bool cl_layout_is_name(const char *text);
/* That layout; CL_E_USAGE where there can be none. */
cl_code cl_layout_from_name(const char *name, cl_layout *out, cl_err *err);
/* {"stages": [{"chips": 3, "layers": 10}, {"chips": 2, "layers": 6}]}: layers in all stages or in none. Unknown keys
 * are errors. */
cl_code cl_layout_from_json(const json_t *j, cl_layout *out, cl_err *err);
cl_code cl_layout_copy(const cl_layout *from, cl_layout *to, cl_err *err);
void cl_layout_free(cl_layout *l);
int cl_layout_chips(const cl_layout *l); /* of all stages */
/* "2x4", or "3+2x4" where stages differ (a stage of 3 chips, then two of 4), "3:10+2:6" with layers; at most size - 1
 * bytes, "..." if longer. Returns text. */
char *cl_layout_name(const cl_layout *l, char *text, size_t size);

typedef enum cl_expert_mode {
    CL_EXPERTS_SLICED, /* every chip of a stage holds a row range of every expert */
    CL_EXPERTS_WHOLE   /* every chip of a stage holds some experts whole */
} cl_expert_mode;

/* A router's rows: on every chip of a stage, or shared out among them, which costs a gather of each token's scores;
 * auto: whichever takes less time (cl_split_routers). */
typedef enum cl_routers { CL_ROUTERS_AUTO, CL_ROUTERS_COPIED, CL_ROUTERS_SPLIT } cl_routers;

/* How often each expert was chosen, counted in a run (the trace keeps it). */
typedef struct cl_routing {
    int n_layers, experts;  /* of the model; experts: the most that a layer has */
    const uint64_t *chosen; /* [n_layers][experts]; dense layers: zeros */
} cl_routing;

typedef struct cl_stage cl_stage;
typedef struct cl_expert_map cl_expert_map;

typedef struct cl_place_options {
    const cl_layout *layout; /* NULL: `ranks` stages of one chip */
    int ranks;               /* chips of the line; a layout must have as many, or ranks is 0 */
    bool at_most;            /* cl_choose_layout: some of them may be left over */
    cl_expert_mode experts;
    cl_routers routers;
    /* whole experts: spread by it, heaviest first to the chip with the least; NULL: round-robin */
    const cl_routing *routing;
    /* whole experts, with routing and chip_bytes: memory left over takes copies of the hottest */
    bool copies;
    cl_kv_format kv;
    int slots;           /* sequences that can be in the line at once */
    int context;         /* positions per slot */
    int chunk;           /* most tokens in a micro-batch */
    double read_context; /* positions that a typical token sees, for balancing; 0: a quarter of context */
    uint64_t chip_bytes; /* memory of one chip; 0: no limit */
    /* what a chip's buffers take of it, by embed, head and n_ranks of its stage and by maps of whole experts or NULL;
     * NULL: not counted */
    uint64_t (*buffers)(void *ctx, const cl_stage *stage, const cl_expert_map *experts);
    void *buffers_ctx;
    bool shared_memory; /* the chips of a stage share one: none of what they exchange is sent */
    /* bytes that a chip reads in the time of a gather of two chips; 0: as CPUs do, about */
    double gather_reads;
    bool brief; /* one of many tries: what does not fit is not told how many chips would do, which takes long to find */
} cl_place_options;

/* --- how a stage's chips share it: pure arithmetic, the same for plan/ and chip/ --- */

/* Rows are given out in runs of 16, as many as the kernels take together; those of a narrow matrix one by one, where
 * there would not be a run for every chip. */
enum { CL_SPLIT = 16, CL_SPLIT_NARROW = 128 };

/* Run `member` of n things in `members` consecutive runs, in units (the last may be short); the first runs are the
 * longer ones. A run may be empty. */
typedef struct cl_range {
    int64_t first, n;
} cl_range;
cl_range cl_split(int64_t n, int64_t unit, int members, int member);
cl_range cl_split_rows(int64_t n, int members, int member);

/* Query heads q0 .. q0 + q - 1, and the kv heads they read. */
typedef struct cl_heads {
    int q0, q, kv0, kv;
} cl_heads;
/* By kv heads, each with all its query heads, or by query heads with the kv heads they need (held by several chips
 * then): whichever gives the busiest chip fewer heads to compute and read, kv heads first when equal. Latent: by
 * heads, kv is 1 where q is not 0. */
cl_heads cl_split_heads(const cl_attention *a, int members, int member);

/* Do so many chips share the rows of the model's routers? Not where there is one chip, or no router; auto: where each
 * is spared more bytes than it would read while they exchange scores (16 bits a number, the widest router). */
bool cl_split_routers(const cl_spec *s, const cl_place_options *o, int members);

/* Holders of each expert of one layer, ascending; every expert has at least one. */
struct cl_expert_map {
    int experts;     /* 0: a dense layer */
    int32_t *first;  /* [experts + 1] */
    int32_t *member; /* [first[experts]]: holders of e are member[first[e] .. first[e + 1] - 1] */
};
static inline bool cl_expert_held(const cl_expert_map *map, int expert, int member)
{
    for (int32_t i = map->first[expert]; i < map->first[expert + 1]; i++)
        if (map->member[i] == member) return true;
    return false;
}

/* Rows of one tensor that a member holds (of every expert or head that it holds of it), and which of the experts:
 *   embedding, head: vocabulary rows;  q, k, v: whole heads;  k_b, v_b: whole heads of the stack;
 *   q_a, kv_a, o, gate, up, down, shared ..., experts when sliced, and their biases: cl_split_rows;
 *   experts when whole: all rows of those in the map; routers when split: cl_split_rows; routers when not, their
 *   biases, norms, sinks, biases of q, k and v: all of it, on every chip.
 * Where a format's scales are shared by rows (fp8), q, k and v rows begin and end at multiples of CL_SPLIT: a few
 * rows more. */
cl_range cl_tensor_rows_of(const cl_spec *s, const cl_tensor *t, const cl_stage *stage, bool whole_experts, int member);

struct cl_stage {
    int first_layer, n_layers;
    bool embed, head;        /* holds the embedding table (first stage), the final norm and head (last stage) */
    int first_rank, n_ranks; /* its chips: ranks first_rank .. first_rank + n_ranks - 1 */
    bool split_routers;      /* each of its chips holds a part of the routers' rows; else all of them */
    uint64_t weight_bytes;   /* sums over its chips, what several hold counted each time: held by the stage */
    uint64_t kv_bytes;       /* cache at full slots and context */
    uint64_t token_bytes;    /* weights read by one token, experts by top_k */
    uint64_t token_kv_bytes; /* cache read by one token at read_context */
    uint64_t buffer_bytes;   /* of one chip, where they are counted */
};

typedef struct cl_placement {
    int n_ranks, n_stages; /* of one line; replicas are further lines like it */
    cl_stage *stages;
    cl_expert_map *experts; /* [layers of the model] where experts are whole; NULL: sliced */
} cl_placement;

/* Contiguous layers; a layout's own numbers of layers, or balanced: the busiest chip's bytes per token (head and
 * cache included) as few as they can be among the cuts whose slices fit chip_bytes, then the sum of the stages'
 * squares; ties go to the earlier cut. CL_E_FIT, with the nearest possible layout in the message: more stages than
 * layers, more chips in a stage than its layers have rows or heads to give out (some chip would compute nothing),
 * ranks that are not the layout's, a layout whose layers are not the model's; a chip over chip_bytes (which chip, by
 * how many bytes, what would do). */
cl_code cl_place(const cl_model *m, const cl_place_options *opt, cl_placement *out, cl_err *err);
void cl_placement_free(cl_placement *p);
/* The S x G with the fewest chips that hold the model within opt->chip_bytes (not 0; layout and ranks are not looked
 * at), of those the one with the smallest G. CL_E_FIT if there is none. */
cl_code cl_fewest_chips(const cl_model *m, const cl_place_options *opt, cl_layout *out, cl_err *err);
int cl_placement_stage(const cl_placement *p, int rank); /* the stage of this chip */
/* Of stages, layers, ranks and the holders of experts: the same on every machine. Ranks whose numbers differ would not
 * work together. */
uint64_t cl_placement_hash(const cl_placement *p);

/* A run of rows of one tensor (of every expert, where it has experts). */
typedef struct cl_extent {
    int tensor;               /* index in cl_model.tensors */
    int64_t expert0, experts; /* experts is 1 for a plain matrix */
    int64_t row0, rows;       /* at least 1: a tensor of which nothing is here has no extent */
} cl_extent;
/* What a rank holds, in canonical order: *extents malloced, caller frees. A tensor has several, one after the
 * other and their experts ascending, where a chip holds experts that do not follow each other. */
cl_code cl_placement_slice(const cl_model *m, const cl_placement *p, int rank, cl_extent **extents, int *n,
                           cl_err *err);

/* --- what it costs --- */

/* One chip: what it holds, and what one decoded token alone in its step (its context at read_context) costs it: sums of
 * the phases of cost.h. */
typedef struct cl_chip_cost {
    uint64_t weight_bytes, kv_bytes; /* held */
    /* read; whole experts: of the top_k the expected share, by routing or evenly */
    uint64_t token_bytes, token_kv_bytes;
    int gathers;            /* exchanges inside the stage that it takes part in */
    uint64_t gather_bytes;  /* bytes it gets from the others in them; whole experts: expected */
    double gather_messages; /* messages it gets in them, expected likewise */
} cl_chip_cost;
cl_code cl_placement_cost(const cl_model *m, const cl_place_options *opt, const cl_placement *p, int rank,
                          cl_chip_cost *out, cl_err *err);

/* Links between groups of `chips` chips, in the order of their ranks; chips 0: there are none. */
typedef struct cl_far_link {
    int chips;
    double s, bytes_per_s; /* of one message: fixed part, bytes; 0 bytes/s: no limit */
} cl_far_link;

enum { CL_FAR_NODES, CL_FAR_RACKS, CL_FAR_LINKS };

/* Rates of chips and links, measured or from a chip file. */
typedef struct cl_rates {
    double read_bytes_per_s; /* one chip */
    /* one gather of 2 chips: fixed part, and bytes that a chip gets; 0 bytes/s: no limit */
    double gather_s, gather_bytes_per_s;
    double hop_s, hop_bytes_per_s; /* a hand-over to the next stage */
    cl_far_link far[CL_FAR_LINKS]; /* in place of both: between nodes, between racks, which have more chips */
} cl_rates;

typedef struct cl_prediction {
    double token_s;      /* one token of one sequence alone through the line */
    double step_s;       /* the busiest stage with its share of `slots` sequences */
    double tokens_per_s; /* of all `slots` sequences together, the line full */
} cl_prediction;
/* token_s: over the stages, the busiest chip's bytes / rate + gathers * (gather_s * ceil(log2(chips)) + bytes / rate),
 * plus a hop per stage (none where there is one stage; the last one carries ids only). A gather goes at the pace of the
 * farthest links that its stage spans, a hand-over at that of those which both stages span. step_s likewise with
 * slots / stages tokens (at least one) in the step: weights once, the head's for each 16 of them, experts as many as
 * are expected to differ. */
cl_code cl_predict(const cl_model *m, const cl_place_options *opt, const cl_placement *p, const cl_rates *r,
                   cl_prediction *out, cl_err *err);

typedef enum cl_goal { CL_GOAL_LATENCY, CL_GOAL_THROUGHPUT } cl_goal;
typedef struct cl_alternative {
    int stages, chips; /* per stage */
    int larger;        /* of the stages, the last ones, have one chip more */
    cl_prediction predicted;
    cl_code code; /* not CL_OK: it cannot be, why says why */
    char why[256];
} cl_alternative;
/* The best line of opt->ranks chips, all of them used, in stages that are as even as can be (cl_layout_share), one for
 * each number of stages that there are layers for: the least token_s, or the most tokens_per_s; fewer stages when
 * equal. With opt->at_most each stage has as many as there is work for, or half, a quarter and so on of those: the
 * best of them. *list (may be NULL: not wanted): one for each number of stages, best first, then those that cannot
 * be; malloced, caller frees. Fails only if none can be. */
cl_code cl_choose_layout(const cl_model *m, const cl_place_options *opt, const cl_rates *r, cl_goal goal,
                         cl_layout *out, cl_alternative **list, int *n, cl_err *err);

#endif
