/* kv.c: bytes of the KV cache, the one formula: what a position has, what a block holds, what a layer keeps and reads.
 */
#include "chipline/model.h"

enum { ALIGN = 64, Q8_GROUP = 32 };

const char *cl_kv_name(cl_kv_format f)
{
    static const char *const names[] = {[CL_KV_F32] = "f32", [CL_KV_BF16] = "bf16", [CL_KV_Q8] = "q8"};
    if ((unsigned)f > CL_KV_Q8) CL_BUG("cache format %d does not exist", (int)f);
    return names[f];
}

static uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

/* heads * head_dim < 2^31 in a checked spec and positions < 2^63 / 16: only the last product can overflow, and says
 * so. */
static uint64_t product(uint64_t a, uint64_t b)
{
    uint64_t r;
    return __builtin_mul_overflow(a, b, &r) ? UINT64_MAX : r;
}

size_t cl_kv_vector_bytes(cl_kv_format f, int64_t dim)
{
    size_t d = (size_t)dim;
    switch (f) {
    case CL_KV_F32: return 4 * d;
    case CL_KV_BF16: return 2 * d;
    case CL_KV_Q8: return d + 4 * ceil_div(d, Q8_GROUP);
    default: CL_BUG("cache format %d does not exist", (int)f);
    }
}

size_t cl_kv_block_bytes(cl_kv_format f, int64_t dim)
{
    return ceil_div(CL_KV_BLOCK * cl_kv_vector_bytes(f, dim), ALIGN) * ALIGN;
}

uint64_t cl_kv_row_bytes(const cl_attention *a, cl_kv_format f)
{
    uint64_t vectors = a->kind == CL_ATTN_LATENT ? 1 : 2;
    return vectors * cl_kv_vector_bytes(f, cl_attention_cached_dim(a));
}

int64_t cl_kv_blocks(const cl_attention *a, int64_t positions, int chunk)
{
    uint64_t blocks = ceil_div((uint64_t)positions, CL_KV_BLOCK);
    if (a->window) {
        /* What a micro-batch's first token still sees may begin anywhere in a block. */
        uint64_t seen = ceil_div((uint64_t)a->window + (uint64_t)chunk, CL_KV_BLOCK) + 1;
        blocks = seen < blocks ? seen : blocks;
    }
    return (int64_t)blocks;
}

/* Kv heads, or latent vectors, that a position has. */
static uint64_t heads(const cl_attention *a) { return a->kind == CL_ATTN_LATENT ? 1 : (uint64_t)a->kv_heads; }

uint64_t cl_kv_layer_bytes(const cl_attention *a, cl_kv_format f, int64_t positions, int chunk)
{
    uint64_t block = cl_kv_block_bytes(f, cl_attention_cached_dim(a));
    return product((uint64_t)cl_kv_blocks(a, positions, chunk), (uint64_t)cl_attention_cached(a) * block);
}

uint64_t cl_kv_read_bytes(const cl_attention *a, cl_kv_format f, int64_t positions)
{
    int64_t seen = positions > 0 ? positions - cl_attention_first(a, positions - 1) : 0;
    return product((uint64_t)seen, heads(a) * cl_kv_row_bytes(a, f));
}
