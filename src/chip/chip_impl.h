/* chip_impl.h: what a chip is made of, and how its threads work together.
 *
 * Inside chip/. A step is one job of the team: every thread runs the same functions, each does its share of a
 * phase (of panels, heads or tokens), and a barrier ends the phase. Which thread does what never changes a bit. Only
 * thread 0, the caller's own, records events and polls. */
#ifndef CHIPLINE_CHIP_IMPL_H
#define CHIPLINE_CHIP_IMPL_H

#include <stdatomic.h>

#include "chipline/chip.h"
#include "kv.h"
#include "route.h"
#include "sample.h"
#include "slice.h"

enum { HEAD_ROWS = 16 }; /* most tokens whose logits are computed together */

typedef struct token_ref {
    int32_t slot, pos;
} token_ref;

/* Parts of work.logits. */
static inline int logits_turns(int members) { return members > 1 ? 2 : 1; }
/* Most planes of 8-bit numbers. */
static inline int planes_of(cl_activations a) { return a == CL_ACT_Q16 || a == CL_ACT_MIXED ? 2 : 1; }

/* Numbers of a row whose columns are padded to whole blocks of 32. */
static inline size_t padded(int64_t n) { return ((size_t)n + 31) / 32 * 32; }

/* Everything a step writes besides x and the cache; made once. Strides count floats. Tokens go through a layer in
 * tiles of at most `tile`, so that a long chunk through a wide model needs no more memory than a short one. The
 * buffers of a layer's two halves lie in the same memory. Columns count over the whole stage: a chip fills its own
 * ones. Rows of latent attention are one per own head and token, a head's tokens together: row = head * tokens + token.
 *
 * What chips exchange lies in the group's exchange memory, at the same offsets on all of them; it may be the same
 * memory, so a chip writes there only what is its own to make, and works in place on nothing that it got. */
typedef struct work {
    int tile;                               /* tokens */
    int head_rows;                          /* tokens whose logits are computed together, at most HEAD_ROWS */
    size_t hidden, q, seen, kv, q_a, vocab; /* strides: numbers of the widest layer, rounded up to 32 */
    token_ref *tokens;                      /* [chunk] */
    float *cos_sin;                         /* [ropes][chunk][rope_stride]: cos of each pair, then sin of each pair */
    size_t rope_stride;
    float *norm; /* [tile][hidden] input of q, k, v; of gate, up and router; of the head */
    float *out;  /* [tile][hidden] a layer's output before it is added to x */
    int8_t *x8;  /* the 8-bit form of the product's input that is alive, and its scales and sums */
    float *x8_scale, *x_sum;
    int32_t *x8_sum;
    size_t shared_x8; /* where the shared expert's own part of x8 begins, in bytes of all planes */
    /* attention */
    float *qs;      /* [tile][q] queries */
    float *ks, *vs; /* [tile][kv]; latent: ks is the vector to cache */
    float *q_low;   /* [tile][q_a] latent: the queries' low-rank form */
    float *plain;   /* [tile * heads][padded(head_dim - rope_dim)] latent: queries that are not rotated */
    float *lookup;  /* [tile * heads][padded(kv_rank + rope_dim)] latent: queries as the cache is asked */
    float *found;   /* [tile * heads][padded(kv_rank)] latent: what the cache gave */
    float *scratch; /* [threads][scratch_stride] of attend */
    size_t scratch_stride;
    /* feed-forward; rows: tokens, or with experts tokens * top_k */
    float *up;        /* [rows][padded(width)] */
    float *down;      /* [rows][hidden] with experts: their outputs, and before that their weighted inputs */
    float *shared_up; /* [tile][padded(shared_width)] */
    float *router;    /* [tile][router_stride] */
    size_t router_stride;
    float *select;        /* [threads][2][router_stride] route_scratch */
    int32_t *select_list; /* [threads][2][router_stride] the same */
    choice *choices;      /* [tile][most top_k] */
    int32_t *row_token;   /* [rows] token of each grouped row */
    float *row_weight;    /* [rows] weight of each grouped row */
    int32_t *row_self;    /* [rows, or tile * heads] 0, 1, 2, ... */
    int32_t *first_row;   /* [most experts + 1] rows of expert e: first_row[e] .. first_row[e + 1] - 1 */
    int32_t *touched;     /* [most experts] experts with rows that are this chip's to compute, ascending */
    int n_touched;
    int32_t *row_owner; /* [rows] whole experts: the chip that computes it */
    int32_t *own_rows;  /* [rows] whole experts: rows of the touched experts */
    int n_own_rows;
    int64_t *load;          /* [members] whole experts: bytes that each chip reads for the tokens at hand */
    int32_t *token_owner;   /* [chunk] the chip that holds the token's embedding row */
    int32_t *candidate_cut; /* [members + 1] */
    /* exchanged */
    float *att;           /* [tile][seen] what the heads saw */
    float *all_q, *all_k; /* [tile][q], [tile][kv]: before a norm that spans all heads */
    /* [tile][q_a], [tile][kv]: latent: the queries' low-rank form and the vector to cache, before their norms */
    float *all_low, *all_kv;
    float *gate;        /* [rows][padded(width)] gate, then the gated product */
    float *shared_gate; /* [tile][padded(shared_width)] the same of the shared expert */
    float *results;     /* [rows][hidden] whole experts: their outputs */
    float *logits;      /* [turns][head_rows][vocab]: the first chip reads one while the others may be at the next */
    int logits_turn;
    /* [chunk][members][candidates in use] of each output: the best ids of each chip's rows, and their logits */
    int32_t *candidate_id;
    float *candidate_logit;
    unsigned char *data; /* all of the above but what is exchanged */
    size_t bytes, exchange_bytes;
} work;

/* --- the team --- */

/* Words that threads wait for; each on its own line, so that who arrives does not disturb who waits. */
typedef struct barrier {
    _Atomic unsigned arrived;
    char apart[60];
    _Atomic unsigned phase;
    char end[60];
    _Atomic int sleepers;     /* waiting threads that must be woken */
    _Atomic int crowded;      /* so many waits go to sleep soon, since others want the cores */
    _Atomic int crowded_next; /* as many the next time that this is seen */
} barrier;

typedef struct team {
    int id, n;
    barrier *barrier;
} team;

/* The threads of a chip (team.c). team_run: every thread of the team, the caller's among them, runs the job; returns
 * when all have. A job may wait for all (team_wait), or thread by thread for a word of the barrier that somebody
 * changes and then wakes. */
typedef struct crew crew;
typedef void (*team_job)(const team *t, void *ctx);
/* placed: each thread where OpenMP would put it. What was made before a failure is in *out. */
cl_code team_create(crew **out, int n, bool placed, cl_err *err);
/* can so many be had? To be asked before OpenMP is: it ends the process where they cannot */
cl_code team_try(int n, cl_err *err);
void team_free(crew *c);
void team_run(crew *c, team_job job, void *ctx);
/* OpenMP's threads, which spin for milliseconds after a region, end; the next region makes others */
void team_rest_openmp(void);
void team_wait(const team *t);
void team_wait_while(barrier *b, _Atomic unsigned *word, unsigned value);
void team_wake(barrier *b, _Atomic unsigned *word); /* after *word was changed, sequentially consistent */

/* This chip's part of one layer, and the columns that each member of the stage makes: [members + 1] each. */
typedef struct layer_share {
    cl_heads heads;
    cl_attention attn; /* with the kv heads that are cached here */
    int32_t *att, *q, *k, *q_a, *kv_a, *mid, *shared;
    int32_t *local;           /* whole experts: [experts] place of an expert in the slice, -1: not here; else NULL */
    const cl_expert_map *map; /* whole experts, else NULL */
    uint64_t *chosen;         /* [experts] tokens that chose each; NULL: dense */
} layer_share;

typedef struct sampling sampling; /* sampling.c */

struct cl_chip {
    cl_spec spec;
    cl_stage stage;
    cl_chip_options opt;
    const cl_kernels *k;
    cl_trace *trace;
    slice slice;
    kv_cache kv;
    work work;
    crew *crew;
    cl_group group;                  /* a stage of one chip: one whose gather is never called */
    layer_share *shares;             /* [stage.n_layers] */
    int32_t *cut_hidden, *cut_vocab; /* [members + 1] */
    int32_t *cuts;                   /* memory of all cuts and local indices */
    uint64_t *chosen;                /* memory of all layers' */
    sampling *sampling;              /* NULL: the stage has no head */
    uint64_t weight_bytes, kv_bytes; /* read since creation */
};

static inline const layer_share *share_of(const cl_chip *c, int layer)
{
    return &c->shares[layer - c->stage.first_layer];
}

/* This thread's share of n equal things: *a .. *b - 1. */
static inline void team_share(const team *t, int64_t n, int64_t *a, int64_t *b)
{
    *a = n * t->id / t->n;
    *b = n * (t->id + 1) / t->n;
}

/* --- phases shared by attention, feed-forward and head (phases.c) --- */

/* y = W x (+ bias), then to += y where `to` is given, for the rows that are here; y and to begin at the first of
 * them. Rows are shared among the threads by panels. */
typedef struct product {
    const cl_matrix *w;
    const float *bias; /* or NULL */
    float *y;
    size_t y_stride;
    float *to; /* or NULL */
    size_t to_stride;
} product;

/* The product of this tensor's rows into their columns of y [tokens][y_stride]; bias: of the same rows, or of all if
 * whole. */
static inline product product_of(const cl_chip *c, cl_role role, int layer, const float *bias, bool whole, float *y,
                                 size_t y_stride)
{
    const slice_tensor *st = slice_get(&c->slice, role, layer);
    return (product){&st->m, bias && whole ? bias + st->row0 : bias, y + st->row0, y_stride, NULL, 0};
}

/* The input of products with the n matrices w: which derived forms they need is in their formats. */
cl_acts phase_acts(const cl_chip *c, const float *x, size_t stride, int tokens, int64_t cols, const cl_matrix *const *w,
                   int n);
/* The same for what a norm made, whose few large numbers would cost the others their precision: mixed activations are
 * for these. */
cl_acts phase_normed_acts(const cl_chip *c, const float *x, size_t stride, int tokens, int64_t cols,
                          const cl_matrix *const *w, int n);
/* Pads and prepares tokens a .. b - 1, or this thread's share of all. `x` must be the buffer behind acts->f32. */
void phase_prepare_tokens(const cl_chip *c, cl_acts *acts, float *x, int64_t a, int64_t b);
void phase_prepare(const cl_chip *c, const team *t, cl_acts *acts, float *x);
/* RMSNorm of this thread's share of the tokens (hidden numbers each) into work.norm, then prepared. */
void phase_norm(const cl_chip *c, const team *t, cl_acts *acts, const float *x, const float *weight);
void phase_products(const cl_chip *c, const team *t, const product *p, int n, const cl_acts *acts);

/* --- a layer's two halves; x [n][hidden], n <= tile; first: index of x's first token in the micro-batch --- */
void attend_layer(cl_chip *c, const team *t, cl_event *e, int layer, int first, int n, float *x);
void ffn_layer(cl_chip *c, const team *t, cl_event *e, int layer, int n, float *x);
/* cos and sin of this thread's share of the n tokens of the step. */
void attend_angles(cl_chip *c, const team *t, int n);
/* The second product of either half: w [hidden rows here] times acts, plus bias, into work.out and onto x; then x is
 * complete on all chips. */
void finish_half(cl_chip *c, const team *t, cl_event *e, cl_role role, cl_role bias, int layer, const cl_acts *acts,
                 float *x);
/* Rotates one head of token tok of the micro-batch, if this attention rotates at all. */
void attend_rotate(const cl_chip *c, const cl_attention *a, int tok, float *x);
/* Multiplies n numbers of queries of token tok by its temperature, if this attention has one. */
void attend_temper(const cl_chip *c, const cl_attention *a, int tok, float *q, int n);
/* Latent attention: from x to work.lookup and the cache; from there to work.found; and on to work.att. Weight bytes
 * read. Only the first ends with a barrier. */
uint64_t latent_in(cl_chip *c, const team *t, cl_event *e, int layer, int first, int n, const float *x);
void latent_look(cl_chip *c, const team *t, int layer, int first, int n);
uint64_t latent_out(cl_chip *c, const team *t, int layer, int n);

/* --- the other chips of the stage (exchange.c) --- */

cl_code exchange_create(cl_chip *c, cl_err *err); /* shares and cuts */
void exchange_free(cl_chip *c);
/* Ends a phase, as team_wait does, on all chips of the stage: then the regions are complete here. Counted in *e. */
void team_gather(cl_chip *c, const team *t, cl_event *e, const cl_region *regions, int n);
/* The exchange alone, by the chip's own thread. */
void group_gather(cl_chip *c, cl_event *e, const cl_region *regions, int n);
/* n rows of columns that each chip has its own of. */
static inline cl_region columns(void *data, int rows, size_t stride, const int32_t *cut)
{
    return (cl_region){.data = data, .rows = rows, .stride = stride, .cut = cut, .to = -1};
}

/* --- events: thread 0 only; with recording off a branch each --- */
static inline cl_mark mark(const cl_chip *c, const team *t, cl_trace_level level)
{
    return t->id ? (cl_mark){0} : cl_trace_mark(c->trace, level);
}
/* Ends an event that has layer, tokens, parts and micro-batch of `e`; the mark is for what follows it at once. */
static inline cl_mark record(const cl_chip *c, cl_mark m, const cl_event *e, cl_event_kind kind, uint64_t weight_bytes,
                             uint64_t kv_bytes, int experts)
{
    if (!m.on) return m;
    cl_event out = *e;
    out.kind = kind;
    /* they are the layer's, and have events of their own */
    if (cl_event_level(kind) == CL_TRACE_KERNEL) out.msg_bytes = out.gather_ns = 0, out.gathers = 0;
    out.weight_bytes = weight_bytes;
    out.kv_bytes = kv_bytes;
    out.experts = experts;
    return cl_trace_end(c->trace, m, &out);
}

/* --- chip.h's functions --- */
void chip_step(cl_chip *c, const cl_microbatch *mb, float *x);
void chip_sample(cl_chip *c, const cl_microbatch *mb, const float *x, cl_samples *out);

cl_code work_create(cl_chip *c, cl_err *err);
void work_free(work *w);

/* Reads `bytes`, a multiple of 64, `times` times with all threads; seconds. cpu_s, if not NULL: CPU time of the
 * slowest thread. */
double probe_read(const unsigned char *data, size_t bytes, int threads, int64_t times, double *cpu_s);

#endif
