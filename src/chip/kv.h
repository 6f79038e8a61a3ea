/* kv.h: the cache of keys and values: per layer, slot and kv head a ring of blocks of 16 positions. Latent attention
 * has one ring per layer and slot: what its heads share is key and value at once.
 *
 * Inside chip/. Allocated whole before the first token, touched as it fills. A slot needs no clearing between
 * requests: a token sees only positions that its own request has written. */
#ifndef CHIPLINE_CHIP_KV_H
#define CHIPLINE_CHIP_KV_H

#include "chipline/kernels.h"
#include "chipline/microbatch.h"
#include "chipline/model.h"

typedef struct kv_layer {
    const cl_attention *attn;
    int64_t blocks;      /* of one ring */
    size_t ring;         /* bytes of the keys, or of the values, of one kv head in one slot; or of the latent vectors */
    unsigned char *data; /* [slots][kv_heads][keys, values][ring]; latent: [slots][ring] */
} kv_layer;

typedef struct kv_cache {
    cl_kv_format format;
    kv_layer *layers; /* [n_layers] */
    unsigned char *data;
    size_t bytes;
} kv_cache;

/* attn: of the stage's layers, n of them, with the kv heads that are cached here (0: nothing, latent ones too); what
 * they point to must outlive the cache. On failure nothing is left to free. err is not NULL. */
cl_code kv_create(kv_cache *kv, const cl_attention *const *attn, int n, cl_kv_format format, const cl_limits *limits,
                  cl_err *err);
void kv_free(kv_cache *kv);

/* layer counts from the stage's first, head from the first kv head that is here. */
cl_kv_head kv_head(const kv_cache *kv, int layer, int slot, int head);

#endif
