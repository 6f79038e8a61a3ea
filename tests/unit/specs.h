/* specs.h: specs of real and tiny geometries for tests. The caller frees with cl_spec_free. */
#ifndef CHIPLINE_TESTS_SPECS_H
#define CHIPLINE_TESTS_SPECS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/model.h"

typedef struct test_geometry {
    int vocab, hidden, layers, heads, kv_heads, head_dim, width, experts, top_k; /* experts 0: dense */
    bool tied;
    cl_qk_norm qk_norm;
} test_geometry;

/* Every layer alike, one rotary table over the whole head (rounded down to even). */
static inline cl_spec test_spec(test_geometry g)
{
    cl_spec s = {.family = "test", .vocab = g.vocab, .hidden = g.hidden, .n_layers = g.layers, .context = 512, .norm_eps = 1e-5,
                 .tied = g.tied, .bos = -1, .n_eos = 1, .eos = {g.vocab - 1}};
    s.n_ropes = 1;
    s.ropes = calloc(1, sizeof *s.ropes);
    s.ropes[0] = (cl_rope){.dims = g.head_dim / 2 * 2, .pairing = CL_ROPE_HALF, .scale = 1};
    s.ropes[0].inv_freq = calloc((size_t)g.head_dim / 2 + 1, sizeof(double));
    for (int i = 0; i < g.head_dim / 2; i++) s.ropes[0].inv_freq[i] = pow(10000, -2.0 * i / s.ropes[0].dims);
    s.layers = calloc((size_t)g.layers, sizeof *s.layers);
    for (int i = 0; i < g.layers; i++) {
        s.layers[i].attn = (cl_attention){.heads = g.heads, .kv_heads = g.kv_heads, .head_dim = g.head_dim, .qk_norm = g.qk_norm,
                                          .scale = 1 / sqrt(g.head_dim)};
        s.layers[i].ffn = (cl_ffn){.kind = g.experts ? CL_FFN_MOE : CL_FFN_DENSE, .width = g.width, .experts = g.experts,
                                   .top_k = g.top_k, .renormalise = g.experts > 0};
    }
    return s;
}

static const test_geometry SMOLLM2_135M = {49152, 576, 30, 9, 3, 64, 1536, 0, 0, true, CL_QK_NORM_NONE};
static const test_geometry QWEN3_30B_A3B = {151936, 2048, 48, 32, 4, 128, 768, 128, 8, false, CL_QK_NORM_HEAD};
static const test_geometry MIXTRAL_8X7B = {32000, 4096, 32, 32, 8, 128, 14336, 8, 2, false, CL_QK_NORM_NONE};
static const test_geometry OLMOE_1B_7B = {50304, 2048, 16, 16, 16, 128, 1024, 64, 8, false, CL_QK_NORM_FULL};

#endif
