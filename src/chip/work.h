/* work.h: the buffers of a step: everything that it writes besides x and the cache, made once.
 *
 * Inside chip/. Strides count numbers. Tokens go through a layer in tiles of at most `tile`, so that a long chunk
 * through a wide model needs no more memory than a short one. What is this chip's alone is as wide as what it holds:
 * its first column is the first row of the matrix that makes it. What chips exchange lies in the group's exchange
 * memory, at the same offsets on all of them, and columns count over the whole stage; it may be the same memory, so a
 * chip writes there only what is its own to make, and works in place on nothing that it got. */
#ifndef CHIPLINE_CHIP_WORK_H
#define CHIPLINE_CHIP_WORK_H

#include "chipline/chip.h"
#include "route.h"

enum { HEAD_ROWS = 16 }; /* most tokens whose logits are computed together */

/* Numbers of a row whose columns are padded to whole blocks of 32. */
static inline size_t padded(int64_t n) { return ((size_t)n + 31) / 32 * 32; }

typedef struct token_ref {
    int32_t slot, pos;
} token_ref;

/* All tokens of a micro-batch; written when a step begins. */
typedef struct token_buffers {
    token_ref *ref; /* [chunk] */
    float *cos_sin; /* [ropes][chunk][rope_stride]: cos of each pair, then sin of each pair */
    size_t rope_stride;
    int chunk;
    int32_t *owner; /* [chunk] the chip that holds the token's embedding row */
} token_buffers;

/* The derived forms of a product's input: 8-bit numbers with their scales and sums, or sums of float32 alone. */
typedef struct input_forms {
    int8_t *q;
    float *d, *fsum;
    int32_t *sum;
} input_forms;

/* Alive in both halves of a layer, and in the head. */
typedef struct common_buffers {
    float *norm; /* [tile][norm_stride] input of q, k, v; of gate, up and router; of the head */
    float *out;  /* [tile][out_stride] this chip's columns of a half's output, before they are added to x */
    size_t norm_stride, out_stride;
    input_forms forms; /* of the input that is alive */
} common_buffers;

/* Grouped attention: this chip's heads. */
typedef struct grouped_buffers {
    float *q;             /* [tile][q_stride] */
    float *k, *v;         /* [tile][kv_stride] */
    float *all_q, *all_k; /* exchanged, [tile][all heads]: before a norm that spans all heads */
    float *scratch;       /* [threads][scratch_stride] of attend, or one row of all heads */
    size_t q_stride, kv_stride, all_q_stride, all_k_stride, scratch_stride;
} grouped_buffers;

/* Latent attention. Rows are one per own head and token, a head's tokens together: row = head * tokens + token. */
typedef struct latent_buffers {
    float *q;                /* [tile][q_stride] own heads */
    float *low;              /* [tile][low_stride] the queries' low-rank form, whole */
    float *cached;           /* [tile][cached_stride] the vector to cache, whole */
    float *plain;            /* [tile * heads][padded(head_dim - rope_dim)] queries that are not rotated */
    float *lookup;           /* [tile * heads][padded(kv_rank + rope_dim)] queries as the cache is asked */
    float *found;            /* [tile * heads][padded(kv_rank)] what the cache gave */
    float *all_low, *all_kv; /* exchanged, [tile][low_stride], [tile][cached_stride]: both before their norms */
    float *scratch;          /* [threads][scratch_stride] of attend_latent */
    const int32_t *in_order; /* [tile * heads] 0, 1, 2, ... */
    size_t q_stride, low_stride, cached_stride, scratch_stride;
} latent_buffers;

/* The first half of a layer. */
typedef struct attention_buffers {
    grouped_buffers grouped;
    latent_buffers latent;
    float *seen; /* exchanged, [tile][seen_stride] what the heads saw */
    size_t seen_stride;
} attention_buffers;

/* The multiplications of the second half. rows: tokens, or with experts tokens * top_k. Of one layer of experts, input
 * and down, or up and down, are the same memory: what came before is done with. */
typedef struct ffn_buffers {
    float *up;                /* [rows][padded(width here)] */
    float *shared_up;         /* [tile][padded(shared width here)] */
    float *input;             /* [rows][norm_stride] experts: their inputs, where those are weighted */
    float *down;              /* [rows][out_stride] sliced experts: their outputs */
    float *gate;              /* exchanged, [rows][padded(width)] gate, then the gated product */
    float *shared_gate;       /* exchanged, [tile][padded(shared_width)] the same of the shared expert */
    float *results;           /* exchanged, [rows][norm_stride] whole experts: their outputs */
    input_forms shared_forms; /* of shared_gate: it waits there while the experts' inputs are prepared */
} ffn_buffers;

/* A router's results: which rows of a layer's experts there are. Written by one thread. */
typedef struct expert_rows {
    int32_t *token;   /* [rows] token of each row; rows of an expert are together */
    float *weight;    /* [rows] */
    int32_t *first;   /* [most experts + 1] rows of expert e: first[e] .. first[e + 1] - 1 */
    int32_t *touched; /* [most experts] experts with rows that are this chip's to compute, ascending */
    int n_touched;
    int32_t *owner; /* [rows] whole experts: the chip that computes it */
    int32_t *own;   /* [rows] whole experts: rows of the touched experts */
    int n_own;
    int64_t *load;           /* [members] whole experts: bytes that each chip reads for the tokens at hand */
    const int32_t *in_order; /* [rows] 0, 1, 2, ... */
} expert_rows;

/* A router's own numbers. */
typedef struct router_buffers {
    float *scores;   /* [tile][stride]; exchanged where routers are shared out */
    float *numbers;  /* [threads][ROUTE_NUMBERS][stride] route_scratch */
    int32_t *lists;  /* [threads][ROUTE_LISTS][stride] the same */
    choice *choices; /* [tile][most top_k] */
    size_t stride;
} router_buffers;

/* The head's rows, exchanged: the first chip reads one turn of logits while the others may be at the next. */
typedef struct head_buffers {
    int rows;      /* tokens whose logits are computed together, at most HEAD_ROWS */
    float *logits; /* [turns][rows][stride] */
    size_t stride;
    int turns, turn;
    /* [chunk][members][candidates in use] of each output: the best ids of each chip's rows, and their logits */
    int32_t *candidate_id;
    float *candidate_logit;
    int32_t *candidate_cut; /* [members + 1]; not exchanged */
} head_buffers;

typedef struct work {
    int tile; /* tokens */
    token_buffers tokens;
    common_buffers common;
    /* a layer's two halves, never alive at the same time: they lie in the same memory, all but what routing says */
    attention_buffers attention;
    ffn_buffers ffn;
    router_buffers router;
    expert_rows rows;
    head_buffers head;
    unsigned char *data; /* all of the above; what is exchanged only where the group has no memory for it */
    size_t bytes, own_bytes, exchange_bytes; /* of data; without what is exchanged; of that */
} work;

struct chip_fixed;
/* Sizes alone: own_bytes and exchange_bytes. The slice must have been planned. */
void work_size(work *w, const struct chip_fixed *c, int threads);
/* On failure nothing is left to free. */
cl_code work_create(work *w, const struct chip_fixed *c, int threads, cl_err *err);
void work_free(work *w);

#endif
