/* kv.c: bytes of the KV cache. chip/ allocates exactly this, in blocks of 16 positions, each block 64-byte aligned. */
#include "chipline/plan.h"

enum { BLOCK = 16, ALIGN = 64, Q8_GROUP = 32 };

const char *cl_kv_name(cl_kv_format f)
{
    static const char *const names[] = {[CL_KV_F32] = "f32", [CL_KV_BF16] = "bf16", [CL_KV_Q8] = "q8"};
    if ((unsigned)f > CL_KV_Q8) CL_BUG("cache format %d does not exist", (int)f);
    return names[f];
}

static uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

/* One cached vector: 8-bit numbers have a float32 scale per 32 of them. */
static uint64_t vector_bytes(cl_kv_format f, const cl_attention *a)
{
    uint64_t d = (uint64_t)cl_attention_cached_dim(a);
    switch (f) {
    case CL_KV_F32: return 4 * d;
    case CL_KV_BF16: return 2 * d;
    case CL_KV_Q8: return d + 4 * ceil_div(d, Q8_GROUP);
    default: CL_BUG("cache format %d does not exist", (int)f);
    }
}

/* heads * head_dim < 2^31 in a checked spec and positions < 2^63 / 16: only the last product can overflow, and says
 * so. */
uint64_t cl_kv_layer_bytes(const cl_attention *a, cl_kv_format f, int64_t positions, int chunk)
{
    uint64_t blocks = ceil_div((uint64_t)positions, BLOCK), bytes;
    if (a->window) {
        /* What a micro-batch's first token still sees may begin anywhere in a block. */
        uint64_t seen = ceil_div((uint64_t)a->window + (uint64_t)chunk, BLOCK) + 1;
        blocks = seen < blocks ? seen : blocks;
    }
    uint64_t block = ceil_div(BLOCK * vector_bytes(f, a), ALIGN) * ALIGN;
    return __builtin_mul_overflow(blocks, (uint64_t)cl_attention_cached(a) * block, &bytes) ? UINT64_MAX : bytes;
}

uint64_t cl_kv_read_bytes(const cl_attention *a, cl_kv_format f, int64_t positions)
{
    int64_t seen = positions > 0 ? positions - cl_attention_first(a, positions - 1) : 0;
    uint64_t bytes;
    return __builtin_mul_overflow((uint64_t)seen, (uint64_t)cl_attention_cached(a) * vector_bytes(f, a), &bytes)
               ? UINT64_MAX
               : bytes;
}
