/* chip.h: one chip's work on a micro-batch: its slice of the weights, its KV cache, its layers.
 *
 * Boundary: no MPI here: with the other chips of its stage it exchanges numbers through a cl_group that it was given.
 * All chips of a stage must be given the same micro-batches in the same order: step and head are collective over the
 * stage. A chip is made once from a model file and a placement, allocates everything then, and after that only
 * computes. Another chip behind this header (a cost model) turns the same program into a simulator. Several chips may
 * live in one process. All functions are local; a chip is used by one thread (it has further threads of its own
 * inside). */
#ifndef CHIPLINE_CHIP_H
#define CHIPLINE_CHIP_H

#include "chipline/group.h"
#include "chipline/microbatch.h"
#include "chipline/model_file.h"
#include "chipline/plan.h"
#include "chipline/trace.h"

/* What quantised weights meet: float32; 8-bit blocks; the same with a second plane for the blocks that need it, where
 * a norm made the numbers; two planes (16 bits) of all. auto: mixed where the weights are quantised. */
typedef enum cl_activations { CL_ACT_AUTO, CL_ACT_F32, CL_ACT_Q8, CL_ACT_MIXED, CL_ACT_Q16 } cl_activations;
const char *cl_activations_name(cl_activations a);

typedef struct cl_chip_options {
    int threads; /* that work on a step, the caller's included, >= 1 */
    cl_activations activations;
    cl_kv_format kv;
    cl_limits limits;
    const char *kernels; /* NULL: the best for this CPU */
    /* the chips of its stage, with exchange memory of cl_chip_exchange_bytes; NULL: it is alone. Borrowed */
    const cl_group *group;
    const cl_expert_map *experts; /* [layers of the model]: it holds whole experts; NULL: rows of all. Borrowed */
    bool progress;                /* of loading, on stderr */
    void (*poll)(void *);         /* called by the calling thread between layers so that messages move; may be NULL */
    void *poll_ctx;
} cl_chip_options;

typedef struct cl_chip cl_chip;

/* Bytes of exchange memory that a chip of this stage needs: the same for all of its chips. opt->group is not looked
 * at. */
size_t cl_chip_exchange_bytes(const cl_spec *spec, const cl_stage *stage, const cl_chip_options *opt);

/* Reads exactly the parts (this rank's hyperslabs) in bounded pieces, repacks them, allocates cache and buffers.
 * Tensors read whole are checked against their checksum. The chip keeps no reference to the file. trace may be NULL;
 * it is borrowed. */
cl_code cl_chip_create(cl_chip **out, const cl_model_file *file, const cl_stage *stage, const cl_part *parts,
                       int n_parts, const cl_chip_options *opt, cl_trace *trace, cl_err *err);
void cl_chip_free(cl_chip *c);

uint64_t cl_chip_slice_bytes(const cl_chip *c); /* weights as kept (repacked) */
uint64_t cl_chip_kv_bytes(const cl_chip *c);
const char *cl_chip_kernels(const cl_chip *c);

/* One micro-batch through this chip's layers. x [n_tokens, hidden] float32, changed in place; a chip that embeds
 * ignores what x holds and starts from mb->ids (the others never look at ids). Tokens of a part attend to each other
 * in order, whatever the chunking: same bits. A part's positions must follow the slot's earlier ones without a gap;
 * numbers out of range abort. Events: EMBED and LAYER at layer level (gathers and the bytes that came in them
 * included), the rest at kernel level; kv_bytes counts, for every token, all positions that it sees. A wide model's
 * chunk goes through a layer in tiles: weight_bytes and experts are then sums over the tiles, as each reads them
 * again. */
void cl_chip_step(cl_chip *c, const cl_microbatch *mb, float *x);

/* Final norm and output head for the tokens that need logits (CL_PART_SAMPLE: the last of a part; CL_PART_ROWS: all),
 * in order of parts and tokens. Last stage only. At most 16 rows are computed together, and one HEAD event is
 * recorded for each such group.
 *
 * Each chip has the logits of its own rows of the vocabulary. With whole_rows the stage's first chip gets them all.
 * Without, a chip may pass on a few numbers for each part instead (its best candidates), which the first chip gets
 *   from all. row(ctx, part, token, logits, first, n, numbers): token counts within its part; logits [n] of ids first
 *     .. first + n - 1, valid during the call. whole_rows: called on the first chip only, with all; numbers NULL.
 *     Else on every chip; numbers [CL_HEAD_NUMBERS] are to be filled for the last token of a part.
 *   merged(ctx, part, numbers): on the first chip, after all rows, once for each part with CL_PART_SAMPLE:
 *     [members][CL_HEAD_NUMBERS]. Not called with whole_rows. */
enum { CL_HEAD_NUMBERS = 128 };
typedef struct cl_head_reader {
    bool whole_rows;
    int numbers; /* of CL_HEAD_NUMBERS, how many are in use in this step: the same on all chips */
    void (*row)(void *ctx, int part, int token, const float *logits, int first, int n, float *numbers);
    void (*merged)(void *ctx, int part, const float *numbers);
    void *ctx;
} cl_head_reader;
void cl_chip_head(cl_chip *c, const cl_microbatch *mb, const float *x, const cl_head_reader *reader);

/* Bytes read since creation: weights (experts as touched; once per step, or per tile of tokens where a wide model's
 * chunk goes through in several) and KV cache. */
void cl_chip_traffic(const cl_chip *c, uint64_t *weight_bytes, uint64_t *kv_bytes);

/* How often each expert of a layer of this stage was chosen since creation, [experts]: the same on all chips of the
 * stage. NULL: dense. */
const uint64_t *cl_chip_routing(const cl_chip *c, int layer);

/* Reads this chip's whole slice once with all threads and returns bytes per second: the bandwidth its weights can be
 * had with. */
double cl_chip_probe(cl_chip *c);

/* The same for `bytes` of fresh memory, before there is a chip; 0: there is not so much. */
double cl_chip_probe_memory(size_t bytes, int threads);

/* The most multiplies and adds per second that `threads` threads do with the instructions of this set (a name of
 * cl_chip_kernels) on registers alone: 8-bit dot products, or float32 multiply-adds. cpu_time: by the CPU time of the
 * slowest thread, as if nobody else used the cores. */
double cl_chip_peak(const char *kernels, bool q8, int threads, bool cpu_time);

/* The product of some tokens' activations with one matrix of random weights, to be timed: no model is needed. The
 * matrix takes about `bytes`; kernels NULL: the best set. All threads work on their own panels; times are the CPU
 * time of the slowest, so that other work on the machine costs caches and bandwidth but no turns. */
typedef struct cl_trial cl_trial;
cl_code cl_trial_create(cl_trial **out, const char *kernels, cl_format format, bool q8, int tokens, size_t bytes,
                        int threads, cl_err *err);
void cl_trial_free(cl_trial *t);
size_t cl_trial_bytes(const cl_trial *t); /* of the matrix */
double cl_trial_ops(const cl_trial *t);   /* multiplies and adds of the product */
double cl_trial_product(cl_trial *t);     /* seconds */
double cl_trial_read(cl_trial *t);        /* seconds for reading the same bytes once */

#endif
