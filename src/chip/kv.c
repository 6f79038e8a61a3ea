/* kv.c: sizes and addresses of the cache. */
#include "kv.h"

#include <stdlib.h>

/* Blocks that must be there at once: all that the oldest token of a micro-batch still sees up to the newest token. */
static int64_t blocks_needed(const cl_attention *a, const cl_limits *limits)
{
    int64_t all = ((int64_t)limits->context + CL_KV_BLOCK - 1) / CL_KV_BLOCK;
    if (!a->window) return all;
    int64_t span = (int64_t)a->window - 1 + limits->chunk;
    int64_t touched = (span - 1 + CL_KV_BLOCK - 1) / CL_KV_BLOCK + 1; /* the span may begin anywhere in a block */
    return touched < all ? touched : all;
}

cl_code kv_create(kv_cache *kv, const cl_attention *const *attn, int n, cl_kv_format format, const cl_limits *limits,
                  cl_err *err)
{
    *kv = (kv_cache){.format = format};
    if (!(kv->layers = cl_calloc((size_t)n, sizeof *kv->layers, "the table of caches", err))) return err->code;
    for (int i = 0; i < n; i++) {
        kv_layer *l = &kv->layers[i];
        l->attn = attn[i];
        if (!l->attn->kv_heads) continue;
        uint64_t bytes = cl_kv_layer_bytes(l->attn, format, limits->context, limits->chunk), all;
        if (bytes == UINT64_MAX || __builtin_mul_overflow(bytes, (uint64_t)limits->slots, &all) ||
            __builtin_add_overflow(kv->bytes, all, &kv->bytes)) {
            kv_free(kv);
            return cl_fail(err, CL_E_FIT,
                           "the KV cache: larger than any memory (use fewer slots or a shorter context)");
        }
        size_t block = cl_kv_block_bytes(format, cl_attention_cached_dim(l->attn));
        size_t per_block = (size_t)cl_attention_cached(l->attn) * block;
        l->blocks = (int64_t)(bytes / per_block);
        l->ring = (size_t)l->blocks * block;
        if (bytes % per_block || l->blocks < blocks_needed(l->attn, limits))
            CL_BUG("the plan gives %llu bytes of cache: no whole number of blocks, or too few",
                   (unsigned long long)bytes);
    }
    if (!(kv->data = cl_malloc_aligned(kv->bytes, "the KV cache", err))) {
        kv_free(kv);
        return err->code;
    }
    unsigned char *at = kv->data;
    for (int i = 0; i < n; i++) {
        kv->layers[i].data = at;
        if (!attn[i]->kv_heads) continue;
        at += (size_t)limits->slots * (size_t)cl_attention_cached(kv->layers[i].attn) * kv->layers[i].ring;
    }
    return CL_OK;
}

void kv_free(kv_cache *kv)
{
    if (kv->data) cl_free_aligned(kv->data, kv->bytes);
    free(kv->layers);
    *kv = (kv_cache){0};
}

cl_kv_head kv_head(const kv_cache *kv, int layer, int slot, int head)
{
    const kv_layer *l = &kv->layers[layer];
    const bool latent = l->attn->kind == CL_ATTN_LATENT;
    unsigned char *keys = l->data + ((size_t)slot * (size_t)cl_attention_cached(l->attn) + 2 * (size_t)head) * l->ring;
    return (cl_kv_head){.format = kv->format,
                        .head_dim = cl_attention_cached_dim(l->attn),
                        .blocks = l->blocks,
                        .keys = keys,
                        .values = latent ? NULL : keys + l->ring};
}
