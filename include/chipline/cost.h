/* cost.h: what one micro-batch costs one chip: the phases it goes through in their order, each with the bytes read,
 * the operations, and the exchange that ends it. The one cost of a step: placements, predictions, `bench`, the checks
 * of the trace, simulation and replay all take their numbers from here.
 *
 * Boundary: pure functions of a model, a stage and the shape of a micro-batch; no memory is allocated, so that they may
 * be asked while tokens flow. Local.
 *
 * Phases of a layer, and what of group.h's exchanges each ends with. These are the fewest gathers that whole dot
 * products allow, because each product needs all of the one before it:
 *   PROJECT   norm; queries, keys, values. A norm over all heads together: their numbers, heads * head_dim +
 *             kv_heads * head_dim, before the rotation (keys of a kv head that several chips hold count as made by the
 *             first of them). Latent: the queries' low-rank form (or the queries) and the vector to cache: q_rank +
 *             kv_rank + rope_dim, without q_rank kv_rank + rope_dim
 *   QUERY     only after one of those: that norm; latent: both norms, queries, K_B
 *   ATTEND    the cache. Grouped: attention results, heads * v_dim
 *   VALUE     latent: V_B; attention results, heads * v_dim
 *   ATTN_OUT  o; the layer's activations, hidden
 *   ROUTE     norm, router, the shared expert's gate and up (not in dense layers). Routers that are shared out: every
 *             token's scores, experts; else nothing, every chip has them all
 *   GATE_UP   (dense: norm;) gate and up; the gated products, width. Experts: top_k * width, and a shared expert's
 *             width in the same gather; whole experts: the shared expert's alone
 *   DOWN      down, biases, the shared expert's down; the layer's activations, hidden. Whole experts: their results,
 *             top_k * hidden, to the chips that add up their columns
 *   COMBINE   whole experts: what a token's experts gave is added up; the layer's activations, hidden
 * EMBED ends with the rows from who holds them (hidden), HEAD with its rows to the stage's first chip where all of a
 * row are wanted, else SAMPLE with each chip's best candidates. A stage of one chip exchanges nothing.
 *
 * In the trace (trace.h) PROJECT and QUERY are a QKV event, VALUE and ATTN_OUT an ATTN_OUT event, GATE_UP, DOWN and
 * COMBINE an FFN event, the others have the event of their name. */
#ifndef CHIPLINE_COST_H
#define CHIPLINE_COST_H

#include "chipline/plan.h"

/* One chip of a stage. */
typedef struct cl_cost_chip {
    const cl_model *model;
    const cl_stage *stage;        /* its layers, ends and number of chips */
    int member;                   /* 0 .. stage->n_ranks - 1 */
    const cl_expert_map *experts; /* [layers of the model]: whole experts; NULL: sliced */
    const cl_routing *routing;    /* whole experts: how often each was chosen; NULL: all alike */
    cl_kv_format kv;
    bool shared_memory;     /* with the other chips of the stage: nothing is sent to them */
    bool float_activations; /* all products are float32; else those with integer weights are 8-bit */
} cl_cost_chip;

/* So many parts alike: sequences with as many tokens at the same positions. */
typedef struct cl_cost_part {
    double n;    /* a fraction where an average is wanted */
    int tokens;  /* of each */
    int64_t pos; /* of the first of them: it sees positions up to its own */
    int outputs; /* the last of them that need logits */
} cl_cost_part;

/* What the router chose, where it is known. */
typedef struct cl_cost_routed {
    double experts; /* different ones that this chip reads */
    double rows;    /* (token, choice) pairs that this chip computes: sliced experts all, tokens * top_k */
} cl_cost_routed;

/* A micro-batch. */
typedef struct cl_cost_step {
    int n_parts;
    const cl_cost_part *parts;
    int tile;       /* most tokens that go through a layer together, each run of them reading its weights; 0: all */
    int head_rows;  /* most logits rows computed together, likewise; 0: 16 */
    bool rows;      /* whole logits rows go to the stage's first chip, not candidates */
    int candidates; /* that each chip passes on for an output; 0: 1, as greedy sampling needs */
    /* [layers of the model]; NULL: expected, choices being independent. Not with tiles */
    const cl_cost_routed *routed;
} cl_cost_step;

typedef enum cl_phase_kind {
    CL_PHASE_EMBED,
    CL_PHASE_PROJECT,
    CL_PHASE_QUERY,
    CL_PHASE_ATTEND,
    CL_PHASE_VALUE,
    CL_PHASE_ATTN_OUT,
    CL_PHASE_ROUTE,
    CL_PHASE_GATE_UP,
    CL_PHASE_DOWN,
    CL_PHASE_COMBINE,
    CL_PHASE_HEAD,
    CL_PHASE_SAMPLE,
    CL_PHASES
} cl_phase_kind;
const char *cl_phase_name(cl_phase_kind k); /* "gate_up" */

typedef enum cl_exchange_kind {
    CL_EXCHANGE_NONE,
    CL_EXCHANGE_ALL,   /* every chip gets all that the others made */
    CL_EXCHANGE_OWNER, /* rows that one chip each has made: all of them, or a chip's own columns, to every chip */
    CL_EXCHANGE_ONE    /* to the stage's first chip */
} cl_exchange_kind;

/* What a chip needs is the same whatever carries it; chips that share no memory send messages for it (group.h says how
 * they go). Expected values where it depends on ids or on routing who has something. */
typedef struct cl_exchange {
    cl_exchange_kind kind;
    uint64_t got_bytes;  /* of the others' numbers, that this chip needs */
    uint64_t sent_bytes; /* in messages, with what is passed on */
    double got, sent;    /* messages */
} cl_exchange;

typedef struct cl_phase {
    cl_phase_kind kind;
    int layer;                  /* of the model; -1: none */
    double tokens;              /* HEAD, SAMPLE: logits rows */
    uint64_t weight_bytes;      /* read: matrices, routers, norms, biases, sinks; experts once each */
    uint64_t vector_bytes;      /* of them norms, biases and sinks */
    uint64_t kv_bytes;          /* cache read, counted by tokens: for each all positions that it sees */
    uint64_t kv_distinct_bytes; /* the same, each position of a sequence once */
    double experts;             /* different ones read */
    /* operations, 2 for each number that a token is multiplied with: products with 8-bit activations, with float32,
     * scores and values of attention */
    double ops_int8, ops_f32, ops_attention;
    cl_exchange exchange;
} cl_phase;

/* Calls phase() for one after the other. Layers in order; a layer's phases for each tile in turn. */
void cl_cost_phases(const cl_cost_chip *c, const cl_cost_step *s, void (*phase)(void *ctx, const cl_phase *p),
                    void *ctx);

/* A chip of a placement, with weights that meet 8-bit activations where they can. */
cl_cost_chip cl_placed_chip(const cl_model *m, const cl_place_options *o, const cl_placement *p, int stage, int member);
/* So many tokens, each of another sequence at the options' read_context, each with an output. */
cl_cost_part cl_cost_typical(const cl_place_options *o, double tokens);

/* All of them together: kind and layer mean nothing, tokens are the step's. */
typedef struct cl_cost_sum {
    cl_phase all;
    int phases, gathers; /* gathers: phases that end with an exchange */
} cl_cost_sum;
void cl_cost_add(cl_cost_sum *sum, const cl_phase *p);
cl_cost_sum cl_cost_of_step(const cl_cost_chip *c, const cl_cost_step *s);

/* Bytes of activations that a stage hands over to the next for so many tokens, without what the line puts in front. */
static inline uint64_t cl_handover_bytes(const cl_spec *s, int64_t tokens)
{
    return 4 * (uint64_t)s->hidden * (uint64_t)tokens;
}

/* The model on one chip, of all its layers: what nothing is split or held twice in. */
static inline cl_stage cl_whole_stage(const cl_model *m)
{
    return (cl_stage){.n_layers = m->spec.n_layers, .embed = true, .head = true, .n_ranks = 1};
}
/* Weight bytes that one token alone reads in such a chip: head, norms, attention, router, its experts, one row of the
 * embedding. layers: [n_layers] those of each layer, or NULL. */
uint64_t cl_model_token_bytes(const cl_model *m, uint64_t *layers);

#endif
