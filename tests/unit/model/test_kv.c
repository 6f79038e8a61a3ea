/* Cache sizes, worked out by hand. */
#include "chipline/model.h"
#include "suite.h"

static void test_names(void)
{
    CU_ASSERT_STRING_EQUAL(cl_kv_name(CL_KV_F32), "f32");
    CU_ASSERT_STRING_EQUAL(cl_kv_name(CL_KV_BF16), "bf16");
    CU_ASSERT_STRING_EQUAL(cl_kv_name(CL_KV_Q8), "q8");
}

static void test_layer_bytes(void)
{
    cl_attention a = {.heads = 9, .kv_heads = 3, .head_dim = 64};
    /* 100 positions: 7 blocks of 16; a block of keys: 16*64 numbers */
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_F32, 100, 32), 7 * 3 * 2 * 4096);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_BF16, 100, 32), 7 * 3 * 2 * 2048);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_Q8, 100, 32), 7 * 3 * 2 * (1024 + 16 * 2 * 4));
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_BF16, 1, 1), 1 * 3 * 2 * 2048);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_BF16, 16, 1), 1 * 3 * 2 * 2048);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_BF16, 17, 1), 2 * 3 * 2 * 2048);
    /* rounded up to 64: 320, 160 -> 192, 80 + 64 -> 192 */
    a = (cl_attention){.heads = 7, .kv_heads = 1, .head_dim = 5};
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_F32, 16, 1), 2 * 320);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_BF16, 16, 1), 2 * 192);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_Q8, 16, 1), 2 * 192);
    /* 100 + 30 positions: 9 blocks and one more */
    a = (cl_attention){.heads = 8, .kv_heads = 2, .head_dim = 40, .window = 100};
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_F32, 4096, 30), 10 * 2 * 2 * 2560);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_F32, 144, 30), 9 * 2 * 2 * 2560); /* the context is shorter */
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_Q8, 4096, 30), 10 * 2 * 2 * (640 + 16 * 2 * 4));
    a.window = 0;
    a.kv_heads = 1 << 20, a.head_dim = 1 << 10;
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_F32, (int64_t)1 << 40, 1), UINT64_MAX);
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_F32, (int64_t)1 << 40), UINT64_MAX);
}

/* A block is 16 rows of a kv head and its padding; a row has none. */
static void test_rows(void)
{
    const cl_attention a = {.heads = 8, .kv_heads = 2, .head_dim = 40},
                       odd = {.heads = 7, .kv_heads = 1, .head_dim = 5},
                       latent = {.kind = CL_ATTN_LATENT, .heads = 4, .kv_heads = 1, .kv_rank = 40, .rope_dim = 8};
    CU_ASSERT_EQUAL(cl_kv_row_bytes(&a, CL_KV_F32), 2 * 40 * 4);
    CU_ASSERT_EQUAL(cl_kv_row_bytes(&a, CL_KV_BF16), 2 * 40 * 2);
    CU_ASSERT_EQUAL(cl_kv_row_bytes(&a, CL_KV_Q8), 2 * (40 + 2 * 4));
    CU_ASSERT_EQUAL(cl_kv_row_bytes(&odd, CL_KV_Q8), 2 * (5 + 4));
    CU_ASSERT_EQUAL(cl_kv_row_bytes(&latent, CL_KV_BF16), 48 * 2);
    CU_ASSERT_EQUAL(cl_kv_vector_bytes(CL_KV_Q8, 33), 33 + 2 * 4);
    CU_ASSERT_EQUAL(cl_kv_block_bytes(CL_KV_F32, 5), 320);
    CU_ASSERT_EQUAL(cl_kv_block_bytes(CL_KV_BF16, 5), 192);
    CU_ASSERT_EQUAL(cl_kv_block_bytes(CL_KV_Q8, 64), 16 * (64 + 2 * 4));
    CU_ASSERT_EQUAL(cl_kv_blocks(&a, 1, 1), 1);
    CU_ASSERT_EQUAL(cl_kv_blocks(&a, 16, 1), 1);
    CU_ASSERT_EQUAL(cl_kv_blocks(&a, 17, 1), 2);
}

static void test_read_bytes(void)
{
    cl_attention a = {.heads = 32, .kv_heads = 4, .head_dim = 128};
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 1), 2048); /* Qwen3-30B-A3B: 2,048 bytes per position and layer */
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 1000), 2048000);
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_F32, 10), 40960);
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_Q8, 10), 10 * 2 * 4 * (128 + 16));
    a.window = 128;
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 1000), 128 * 2048);
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 127), 127 * 2048);
}

/* DeepSeek-V3: 512 + 64 numbers per position and layer, whatever the number of heads; and chunks: only the token's
 * own one. */
static void test_latent_and_chunks(void)
{
    cl_attention a = {.kind = CL_ATTN_LATENT,
                      .heads = 128,
                      .kv_heads = 1,
                      .head_dim = 192,
                      .kv_rank = 512,
                      .rope_dim = 64,
                      .v_dim = 128};
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 1), 1152);
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_Q8, 10), 10 * (576 + 18 * 4));
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_BF16, 100, 32), 7 * 16 * 1152);
    a = (cl_attention){.heads = 40, .kv_heads = 8, .head_dim = 128, .window = 8192, .chunked = true}; /* Llama 4 */
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 8192), 8192 * (uint64_t)4096);
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 8193), 4096);
    CU_ASSERT_EQUAL(cl_kv_read_bytes(&a, CL_KV_BF16, 8192 + 100), 100 * 4096);
    CU_ASSERT_EQUAL(cl_attention_first(&a, 8191), 0);
    CU_ASSERT_EQUAL(cl_attention_first(&a, 8192), 8192);
    CU_ASSERT_EQUAL(cl_kv_layer_bytes(&a, CL_KV_BF16, 1 << 20, 32), (8192 / 16 + 2 + 1) * 16 * (uint64_t)4096);
    a.chunked = false;
    CU_ASSERT_EQUAL(cl_attention_first(&a, 8191), 0);
    CU_ASSERT_EQUAL(cl_attention_first(&a, 8192), 1);
}

int main(void)
{
    CU_TestInfo tests[] = {{"names", test_names},
                           {"bytes of a layer", test_layer_bytes},
                           {"rows and blocks", test_rows},
                           {"bytes read", test_read_bytes},
                           {"latent vectors and chunks", test_latent_and_chunks},
                           CU_TEST_INFO_NULL};
    return run_suite("kv", tests);
}
