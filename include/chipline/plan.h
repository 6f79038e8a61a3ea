/* plan.h: which chip holds which slice, and what a token costs there: pure functions of model, chips and options.
 *
 * Boundary: no MPI, no files, no weights. Same inputs give the same placement on every rank, so nobody has to send it. */
#ifndef CHIPLINE_PLAN_H
#define CHIPLINE_PLAN_H

#include "chipline/model.h"

/* Bytes one number of the KV cache takes, by format of the cache. */
typedef enum cl_kv_format { CL_KV_F32, CL_KV_BF16, CL_KV_Q8 } cl_kv_format;
const char *cl_kv_name(cl_kv_format f);
/* Cache bytes of `positions` positions of one layer for one sequence (key and value, or the latent vector alone; windowed and
 * chunked layers hold at most what they can still see while a micro-batch of `chunk` tokens goes through). Exactly what chip/ allocates. */
uint64_t cl_kv_layer_bytes(const cl_attention *a, cl_kv_format f, int64_t positions, int chunk);
/* Cache bytes read by the token at position `positions` - 1 in this layer: of the positions it sees, its own included. Latent
 * vectors count once, although all heads use them. */
uint64_t cl_kv_read_bytes(const cl_attention *a, cl_kv_format f, int64_t positions);

typedef struct cl_place_options {
    int ranks;
    cl_kv_format kv;
    int slots;            /* sequences that can be in the line at once */
    int context;          /* positions per slot */
    int chunk;            /* most tokens in a micro-batch */
    double read_context;  /* positions that a typical token sees, for balancing; 0: a quarter of context */
    uint64_t chip_bytes;  /* memory of one chip; 0: no limit */
} cl_place_options;

typedef struct cl_stage {
    int first_layer, n_layers;
    bool embed, head;       /* holds the embedding table (first stage), the final norm and head (last stage) */
    int first_rank, n_ranks; /* its chips: ranks first_rank .. first_rank + n_ranks - 1 */
    uint64_t weight_bytes;  /* held by the whole stage */
    uint64_t kv_bytes;      /* cache at full slots and context */
    uint64_t token_bytes;   /* weights read by one token, experts by top_k */
    uint64_t token_kv_bytes; /* cache read by one token at read_context */
} cl_stage;

typedef struct cl_placement {
    int n_ranks, n_stages;
    cl_stage *stages;
} cl_placement;

/* Contiguous layers, one chip per stage, each stage an equal share of the bytes a token touches (head and cache included):
 * minimises the largest share among the cuts whose slices fit chip_bytes, then the sum of the shares' squares; ties go to the
 * earlier cut. More ranks than layers is CL_E_FIT; if no cut fits chip_bytes that is CL_E_FIT too and says which chip is over, by how many bytes, and what would do. */
cl_code cl_place(const cl_model *m, const cl_place_options *opt, cl_placement *out, cl_err *err);
void cl_placement_free(cl_placement *p);

/* A run of rows of one tensor (of every expert, where it has experts). */
typedef struct cl_part {
    int tensor;           /* index in cl_model.tensors */
    int64_t expert0, experts; /* experts is 1 for a plain matrix */
    int64_t row0, rows;
} cl_part;
/* What a rank holds, in canonical order: *parts malloced, caller frees. */
cl_code cl_placement_slice(const cl_model *m, const cl_placement *p, int rank, cl_part **parts, int *n, cl_err *err);

#endif
