/* kv.h: the cache of keys and values, in blocks of 16 positions that sequences can share.
 *
 * Inside chip/. Every layer has a pool of blocks for each kv head's keys and each kv head's values (latent attention:
 * one, since what its heads share is key and value at once), allocated whole before the first token.
 * Which blocks are a slot's, a table says: block b of its positions, 16b .. 16b + 15, lies at table[b %
 * blocks] of the pool. One table serves all layers that need equally many blocks (a class): those without a window
 * are one class, windowed and chunked ones, whose tables are rings, mostly another. A pool has as many blocks as all
 * tables together have places, so a free one is always found: a block in use stands in some place, and a place that
 * asks for a block holds none, or one that stands in another place too; so the other places, fewer than there are
 * blocks, hold all that are in use. A slot without shared blocks has neighbours next to each other: a place takes the
 * block of its own number in all tables, or the lowest free one where another slot still has that.
 *
 * All that is decided here depends on the calls alone, so chips that are given the same micro-batches decide alike.
 * The bookkeeping is per part of a micro-batch and class, never per token or head; nothing is allocated after
 * creation. Calls that change a slot are made by one thread, between steps.
 *
 * How far back. A slot may go back, or be forked, at `pos` if all that the token at pos sees before itself is still
 * there. Without windows it always is. A ring is as long as a micro-batch needs: when the last of `chunk` tokens is
 * stored, all that the first of them sees must be left, w - 1 positions before it, wherever in a block it begins:
 * ceil((w - 1 + chunk - 1) / 16) + 1 blocks. After positions up to e - 1 have been written the ring so holds what the
 * token at e - chunk sees, whatever chunks they came in: going back is exact down to `chunk` positions behind the
 * furthest one that the slot, or the one it was forked from, had written. Farther (other than to 0, or to where a
 * chunk of the attention begins) kv_holds says no, and going is a mistake of the program. */
#ifndef CHIPLINE_CHIP_KV_H
#define CHIPLINE_CHIP_KV_H

#include "chipline/kernels.h"
#include "chipline/microbatch.h"
#include "chipline/model.h"

/* Layers whose tables have equally many places. */
typedef struct kv_class {
    int64_t blocks; /* places of a slot */
    int32_t pool;   /* blocks: slots * blocks */
    int32_t *table; /* [slots][blocks] the block there, -1: none */
    int32_t *users; /* [pool] places that hold it, 0: free */
    int32_t *first; /* [slots] the first position that is held */
    int32_t lowest; /* no block before it is free */
} kv_class;

typedef struct kv_layer {
    const cl_attention *attn;
    kv_class *class;     /* NULL: nothing is cached here */
    size_t block;        /* bytes of one */
    unsigned char *data; /* [kv_heads][keys, values][pool][block]; latent: [pool][block] */
    int32_t *from;       /* [slots] rows of earlier positions never came (kv_expect); else 0 */
} kv_layer;

typedef struct kv_cache {
    cl_kv_format format;
    cl_limits limits;
    int n_layers, n_classes;
    kv_layer *layers;  /* [n_layers] */
    kv_class *classes; /* [n_classes] */
    int32_t *end;      /* [slots] positions 0 .. end - 1 have been written or are about to be */
    int32_t *from;     /* memory of all layers' */
    unsigned char *data;
    size_t bytes;       /* of all pools */
    size_t table_bytes; /* of all else */
} kv_cache;

/* Bytes of the pools and of all else that kv_create would make. */
cl_code kv_size(const cl_attention *const *attn, int n, cl_kv_format format, const cl_limits *limits, size_t *bytes,
                size_t *table_bytes, cl_err *err);
/* attn: of the stage's layers, n of them, with the kv heads that are cached here (0: nothing, latent ones too); what
 * they point to must outlive the cache. On failure nothing is left to free. err is not NULL. */
cl_code kv_create(kv_cache *kv, const cl_attention *const *attn, int n, cl_kv_format format, const cl_limits *limits,
                  cl_err *err);
void kv_free(kv_cache *kv);

/* Forgets all that the slot holds. */
void kv_begin(kv_cache *kv, int slot);
/* The slot begins anew; its positions 0 .. pos - 1 are those of slot `from`, whose blocks it shares until one of the
 * two writes into them; or its own, if it is `from`. pos is at most from's end; kv_holds(kv, from, pos). */
void kv_fork(kv_cache *kv, int slot, int from, int pos);
/* Forgets the slot's positions from pos on, at most its end; kv_holds(kv, slot, pos). */
void kv_back(kv_cache *kv, int slot, int pos);
/* Is there all that a token at pos, at most the slot's end, sees before itself? */
bool kv_holds(const kv_cache *kv, int slot, int pos);
/* Positions pos .. pos + n - 1, at most a micro-batch's, get blocks that no other slot has; pos is the slot's end. A
 * shared block that is written into is copied first, in all layers. To be called for every part of a micro-batch,
 * after all of its begins, forks and backs (what they take over or forget is what earlier micro-batches wrote) and
 * before its layers. */
void kv_extend(kv_cache *kv, int slot, int pos, int n);

/* layer counts from the stage's first, head from the first kv head that is here. Good until the slot is changed. */
cl_kv_head kv_head(const kv_cache *kv, int layer, int slot, int head);

/* --- rows: the cache in one form, whatever the layout, the kernel set and the chunks (cache_rows.c) ---
 *
 * A row is what one position of one kv head has, as it is stored: the key, then the value; latent: the one vector. A
 * vector is its numbers, float32 or bfloat16, or the float32 scales of its blocks of 32 and then 8-bit numbers; all
 * in this machine's order of bytes. A row that comes in again gives the same bits as the one that went out, on any
 * chip that holds its layer and head in the same format. */

/* Bytes of a row: the same for all heads of a layer. */
size_t kv_row_bytes(const kv_cache *kv, int layer);
/* The first position that the slot still holds in this layer (0 without a window); it holds all from there to its
 * end. */
int kv_first(const kv_cache *kv, int layer, int slot);
/* rows [n][kv_row_bytes] of positions pos .. pos + n - 1, all held. */
void kv_rows_out(const kv_cache *kv, int layer, int slot, int head, int pos, int n, unsigned char *rows);
/* The slot begins anew with positions first[layer] .. end - 1 (NULL: from 0 in all layers), which kv_rows_in brings
 * for all layers and heads before anything else is done with the slot. A ring takes the last ones: from kv_first
 * on. first must be early enough for a token at end; only as far as that goes can the slot go back. */
void kv_expect(kv_cache *kv, int slot, const int *first, int end);
void kv_rows_in(kv_cache *kv, int layer, int slot, int head, int pos, int n, const unsigned char *rows);

#endif
