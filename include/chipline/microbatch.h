/* microbatch.h: what travels down the line: a few sequences' next tokens. Plain data that chip/ computes and line/
 * carries.
 *
 * A sequence's state is its tokens, its sampling options and its position; nothing in it depends on the layout. */
#ifndef CHIPLINE_MICROBATCH_H
#define CHIPLINE_MICROBATCH_H

#include <stdint.h>

typedef struct cl_sampling {
    float temperature;    /* 0: greedy */
    float top_p, min_p;   /* 1 and 0: off */
    float repeat_penalty; /* 1: off; over the sequence's last 64 tokens */
    int32_t top_k;        /* 0: off */
    uint64_t seed;        /* the draw at position p depends on (seed, p) alone */
} cl_sampling;

enum {
    CL_PART_SAMPLE = 1, /* the last token's logits give the next id */
    CL_PART_ROWS = 2,   /* logits of every token are wanted (digest, --logits) */
    CL_PART_FIRST = 4   /* first part of a new request in this slot: forget what the slot held */
};

/* One sequence's part of a micro-batch: tokens at positions pos .. pos+n_tokens-1. */
typedef struct cl_seq_part {
    int32_t slot;
    int32_t pos;
    int32_t n_tokens;
    uint32_t flags;
    cl_sampling sampling;
} cl_seq_part;

typedef struct cl_microbatch {
    int64_t id;                /* counts micro-batches from 0; the same on every stage */
    int32_t n_parts, n_tokens; /* n_tokens: sum over parts */
    cl_seq_part *parts;        /* [n_parts], at most cl_limits.slots; a slot appears once */
    int32_t *ids;              /* [n_tokens], part after part */
} cl_microbatch;

/* What the last stage says of a micro-batch, part by part. */
typedef struct cl_sampled {
    int32_t slot;
    int32_t id;      /* -1: nothing sampled for this part */
    uint64_t digest; /* XXH3-64 of all rows of this request so far, when rows were wanted */
} cl_sampled;

/* Sizes fixed before the first token; every buffer is made from them. */
typedef struct cl_limits {
    int slots;   /* sequences in the line */
    int context; /* positions per slot */
    int chunk;   /* most tokens in one micro-batch */
    int hidden;  /* numbers per activation */
    int vocab;
} cl_limits;

#endif
