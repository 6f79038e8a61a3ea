/* microbatch.h: what travels down the line and back: a few sequences' next tokens, and what was sampled after them.
 * Plain data that chip/ computes and line/ carries.
 *
 * A sequence's state is its tokens, its sampling options and its position; nothing in it depends on the layout. */
#ifndef CHIPLINE_MICROBATCH_H
#define CHIPLINE_MICROBATCH_H

#include <stdint.h>

typedef struct cl_sampling {
    float temperature;    /* 0: greedy */
    float top_p, min_p;   /* 1 and 0: off */
    float repeat_penalty; /* 1: off; over the sequence's last CL_REPEAT_WINDOW tokens */
    int32_t top_k;        /* 0: off */
    uint64_t seed;        /* the draw at position p depends on (seed, p) alone */
} cl_sampling;

enum { CL_REPEAT_WINDOW = 64 }; /* tokens */

enum {
    CL_PART_BEGIN = 1, /* what the slot held is forgotten first: another sequence, or the same one taken up elsewhere */
    CL_PART_ROWS = 2   /* logits after every token are wanted (digest, observer), not only where an id is sampled */
};

/* One sequence's part of a micro-batch: n_tokens ids at positions pos .. pos + n_tokens - 1 of the slot's cache.
 *
 * pos: the position after the slot's last one, or an earlier one: what the slot holds from there on is forgotten. It
 * may go back by at most cl_limits.chunk positions behind the furthest one that it has held. With BEGIN pos is 0, or
 * the cache's positions 0 .. pos - 1 are those of the slot `fork`, which keeps them.
 *
 * Samples: after each of the last n_outputs tokens an id is drawn. The last n_guesses tokens are guesses, not yet known
 * to be the sequence's (an id is then drawn after each of them and before the first: n_outputs is n_guesses + 1, or
 * n_tokens where all are guesses): a guess holds if it is the id that was drawn for its position. Of a part whose
 * guess does not hold, that token and all behind it are void: nothing is drawn after them, and no row of theirs is
 * wanted any more. A part of guesses may follow one whose samples are still under way; it is void unless it goes on
 * where that one's last sample stands. The sequence goes on from its last good position, with a token that is no
 * guess. */
typedef struct cl_part {
    int32_t slot;
    int32_t pos;
    int32_t n_tokens;  /* >= 1 */
    int32_t n_outputs; /* 0 .. n_tokens */
    int32_t n_guesses; /* 0 .. n_tokens */
    int32_t fork;      /* -1: none */
    int32_t
        n_before; /* with BEGIN at pos > 0: ids in front of pos that the repeat penalty looks at, at most its window */
    uint32_t flags;
    cl_sampling sampling;
} cl_part;

typedef struct cl_microbatch {
    int64_t id;                /* counts micro-batches from 0; the same on every stage */
    int32_t n_parts, n_tokens; /* n_tokens: sum over parts */
    int32_t n_before;          /* sum over parts */
    cl_part *parts;            /* [n_parts], at most cl_limits.slots; a slot appears once */
    int32_t *ids;              /* [n_tokens], part after part */
    int32_t *before;           /* [n_before], part after part: only the last stage looks at them */
} cl_microbatch;

/* What the last stage says of one part. */
typedef struct cl_sampled {
    int32_t slot;
    int32_t n;       /* ids drawn: as many as asked for, fewer where a guess did not hold, 0 where all is void */
    int32_t first;   /* where they are in cl_samples.ids */
    int32_t is_void; /* not a token of the part has held */
    uint64_t digest; /* XXH3-64 of all rows of this sequence so far that hold, when rows were wanted; else 0 */
} cl_sampled;

/* Of a micro-batch: parts in its order. */
typedef struct cl_samples {
    int64_t microbatch;
    int32_t n_parts, n_ids;
    cl_sampled *parts; /* [n_parts] */
    int32_t *ids;      /* [n_ids], at most as many as tokens */
} cl_samples;

/* Sizes fixed before the first token; every buffer is made from them. */
typedef struct cl_limits {
    int slots;   /* sequences in the line */
    int context; /* positions per slot */
    int chunk;   /* most tokens in one micro-batch */
    int hidden;  /* numbers per activation */
    int vocab;
} cl_limits;

#endif
