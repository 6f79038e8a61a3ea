/* models.h: random models for placements, and real ones. */
#ifndef CHIPLINE_TESTS_MODELS_H
#define CHIPLINE_TESTS_MODELS_H

#include "chipline/plan.h"
#include "specs.h"
#include "suite.h"

static uint64_t rng_state = 7;

static inline int pick(int from, int to) /* inclusive */
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return from + (int)((rng_state >> 33) % (uint64_t)(to - from + 1));
}

/* Every layer different: widths, heads, windows, dense or MoE. */
static inline cl_model random_model(int layers)
{
    cl_err err = {0};
    cl_spec s = test_spec(
        (test_geometry){pick(1, 400), pick(1, 40), layers, 1, 1, 2, 1, 0, 0, pick(0, 1) == 1, CL_QK_NORM_NONE});
    for (int i = 0; i < layers; i++) {
        cl_layer *l = &s.layers[i];
        l->attn.kv_heads = pick(1, 3);
        l->attn.heads = l->attn.kv_heads * pick(1, 3);
        l->attn.head_dim = pick(2, 20);
        l->attn.window = pick(0, 2) ? 0 : pick(1, 60);
        l->attn.qkv_bias = pick(0, 1);
        l->attn.qk_norm = (cl_qk_norm)pick(0, 2);
        l->ffn.width = pick(1, pick(0, 3) ? 50 : 900);
        if (pick(0, 1)) {
            l->ffn = (cl_ffn){.kind = CL_FFN_MOE,
                              .weight_scale = 1,
                              .width = pick(1, 60),
                              .experts = pick(1, 12),
                              .renormalise = true};
            l->ffn.top_k = pick(1, l->ffn.experts);
        }
    }
    static const cl_format formats[] = {CL_F32, CL_BF16, CL_Q8_0, CL_Q4_0, CL_MXFP4, CL_FP8};
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, formats[pick(0, 5)], &m, &err), CL_OK);
    cl_spec_free(&s);
    return m;
}

static inline cl_model geometry(test_geometry g, cl_format f)
{
    cl_err err = {0};
    cl_spec s = test_spec(g);
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(test_model_of(&s, f, &m, &err), CL_OK);
    cl_spec_free(&s);
    return m;
}

#endif
