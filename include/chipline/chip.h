/* chip.h: one chip's work on a micro-batch: its slice of the weights, its KV cache, its layers; on the last stage the
 * head and sampling too.
 *
 * Boundary: a chip is a table of functions, so that another one (a cost model) can stand behind the same header. No MPI
 * here: with the other chips of its stage it exchanges numbers through a cl_group that it was given. All chips of a
 * stage must be given the same micro-batches in the same order: step and sample are collective over the stage,
 * everything else is local. A chip is made once from a model and a placement, allocates everything then, and after
 * that only computes. Several chips may live in one process, each with a crew of its own. A chip is used by one
 * thread at a time, which works as its crew's thread 0. */
#ifndef CHIPLINE_CHIP_H
#define CHIPLINE_CHIP_H

#include "chipline/crew.h"
#include "chipline/group.h"
#include "chipline/microbatch.h"
#include "chipline/model.h"
#include "chipline/plan.h"
#include "chipline/trace.h"

/* What quantised weights meet: float32; 8-bit blocks; the same with a second plane for the blocks that need it, where
 * a norm made the numbers; two planes (16 bits) of all. auto: mixed where the weights are quantised. */
typedef enum cl_activations { CL_ACT_AUTO, CL_ACT_F32, CL_ACT_Q8, CL_ACT_MIXED, CL_ACT_Q16 } cl_activations;
const char *cl_activations_name(cl_activations a);

/* Who wants to see rows of logits: `row` is called on the last stage's first chip for every token that holds of a part
 * with CL_PART_ROWS, in order; logits [n] are valid during the call. */
typedef struct cl_row_observer {
    void *ctx;
    void (*row)(void *ctx, int32_t slot, int64_t pos, const float *logits, int n); /* NULL: nobody */
} cl_row_observer;

typedef struct cl_chip_options {
    cl_crew *crew; /* loads and works on steps. Borrowed */
    cl_activations activations;
    cl_kv_format kv;
    cl_limits limits;
    int allowed_vocab;   /* ids below it may be sampled; 0: all */
    const char *kernels; /* NULL: the best for this CPU */
    /* of a chip: buffers that may be smaller are, where it has little; 0: no limit. The same on all chips of a stage */
    uint64_t memory_bytes;
    /* the chips of its stage, with exchange memory of cl_chip_exchange_bytes; NULL: it is alone. Borrowed */
    const cl_group *group;
    const cl_expert_map *experts; /* [layers of the model]: it holds whole experts; NULL: rows of all. Borrowed */
    cl_row_observer rows;
    bool progress; /* of loading, on stderr */
    /* called by the calling thread between layers, and while it loads, so that messages move; may be NULL */
    void (*poll)(void *);
    void *poll_ctx;
} cl_chip_options;

/* Bytes of exchange memory that a chip of this stage needs: the same for all of its chips. opt->group and opt->crew
 * are not looked at. */
size_t cl_chip_exchange_bytes(const cl_spec *spec, const cl_stage *stage, const cl_chip_options *opt);

/* Bytes read since creation: weights (experts as touched; once per step, or per tile of tokens where a wide model's
 * chunk goes through in several) and KV cache. */
typedef struct cl_traffic {
    uint64_t weight_bytes, kv_bytes;
} cl_traffic;

/* All that a chip allocates. */
typedef struct cl_chip_sizes {
    uint64_t slice_bytes;    /* weights as kept: in panels, which may be larger than in the file */
    uint64_t kv_bytes;       /* cache at full slots and context */
    uint64_t work_bytes;     /* buffers of a step and of sampling, but what is exchanged */
    uint64_t exchange_bytes; /* cl_chip_exchange_bytes: the group's memory, or a lone chip's own */
    uint64_t
        other_bytes; /* tables, a copy of the spec, and the staging of its threads, which is there while they load */
} cl_chip_sizes;

/* The same before there is a chip, or a crew: what cl_chip_create would make of this with so many threads and, where
 * opt names none, the best kernels for this CPU. Of opt->group only member and members are looked at, crew, rows and
 * poll are not. CL_E_USAGE, CL_E_FIT: kernels that cannot be had; more than an address space. */
cl_code cl_chip_size(const cl_model *model, const cl_stage *stage, const cl_extent *extents, int n_extents,
                     const cl_chip_options *opt, int threads, cl_chip_sizes *out, cl_err *err);

typedef struct cl_chip cl_chip;
typedef struct cl_chip_table {
    cl_chip *ctx;
    /* One micro-batch through this chip's layers. x [n_tokens, hidden] float32, changed in place; a chip that embeds
     * ignores what x holds and starts from mb->ids (the others never look at ids, but for the last stage's). Tokens
     * of a part attend to each other in order, whatever the chunking: same bits. Numbers out of range abort. Events:
     * EMBED and LAYER at layer level (gathers and the bytes that came in them included), the rest at kernel level;
     * kv_bytes counts, for every token, all positions that it sees. A wide model's chunk goes through a layer in tiles:
     * weight_bytes and experts are then sums over the tiles, as each reads them again. */
    void (*step)(cl_chip *c, const cl_microbatch *mb, float *x);
    /* Last stage, after step: final norm, output head and sampling (microbatch.h). out's arrays have room for all parts
     * and tokens; they are filled on the stage's first chip, the others' are scratch. At most 16 rows are computed
     * together; each such batch is a HEAD event, and a SAMPLE event for what is drawn from it. */
    void (*sample)(cl_chip *c, const cl_microbatch *mb, const float *x, cl_samples *out);
    cl_traffic (*traffic)(const cl_chip *c);
    cl_chip_sizes (*sizes)(const cl_chip *c);
    /* How often each expert of a layer of this stage was chosen since creation, [experts]: the same on all chips of the
     * stage. NULL: dense. */
    const uint64_t *(*routing)(const cl_chip *c, int layer);
    /* The cache in one form, whatever the layout, the kernel set and the chunks: a row is what one position of one kv
     * head of one layer has, as it is stored (cl_kv_row_bytes: the key, then the value; latent attention: the one
     * vector, head 0). Heads and layers are the model's, those that this chip holds (cl_split_heads). Between steps.
     *
     * cache_first: the first position that the slot still holds in this layer (0 without a window); it holds all from
     * there to its end. cache_out: rows [n] of held positions pos .. pos + n - 1. cache_expect: the slot begins anew
     * with positions first[i] .. end - 1 of the stage's i-th layer (NULL: from 0), whose rows cache_in brings before
     * the slot is used, for every head that is here, from where cache_first then says; first must be early enough for
     * a token at end, and only as far as it goes can the slot go back. Rows that come in give the bits of those that
     * went out, on any chip with the same format. */
    int (*cache_first)(const cl_chip *c, int layer, int slot);
    void (*cache_out)(const cl_chip *c, int layer, int slot, int head, int pos, int n, void *rows);
    void (*cache_expect)(cl_chip *c, int slot, const int *first, int end);
    void (*cache_in)(cl_chip *c, int layer, int slot, int head, int pos, int n, const void *rows);
    /* Reads the whole slice several times, with all threads, and gives bytes per second (a median): the bandwidth that
     * its weights can be had with. Between steps. 0: it has none, or none that can be measured. */
    double (*probe)(const cl_chip *c);
    const char *kernels; /* the set in use */
    void (*free)(cl_chip *c);
} cl_chip_table;

/* Reads exactly the extents (this rank's slice) in bounded pieces, repacks them, allocates cache and buffers. Tensors
 * read whole are checked against their checksum. The chip keeps no reference to model and reader. trace may be NULL;
 * it is borrowed. On failure *out is left alone. */
cl_code cl_chip_create(cl_chip_table *out, const cl_model *model, const cl_tensor_reader *from, const cl_stage *stage,
                       const cl_extent *extents, int n_extents, const cl_chip_options *opt, cl_trace *trace,
                       cl_err *err);

#endif
