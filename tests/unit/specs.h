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
    cl_spec s = {.family = "test",
                 .vocab = g.vocab,
                 .hidden = g.hidden,
                 .n_layers = g.layers,
                 .context = 512,
                 .norm_eps = 1e-5,
                 .tied = g.tied,
                 .bos = -1,
                 .n_eos = 1,
                 .eos = {g.vocab - 1}};
    s.n_ropes = 1;
    s.ropes = calloc(1, sizeof *s.ropes);
    s.ropes[0] = (cl_rope){.dims = g.head_dim / 2 * 2, .pairing = CL_ROPE_HALF, .scale = 1};
    s.ropes[0].inv_freq = calloc((size_t)g.head_dim / 2 + 1, sizeof(double));
    for (int i = 0; i < g.head_dim / 2; i++) s.ropes[0].inv_freq[i] = pow(10000, -2.0 * i / s.ropes[0].dims);
    s.layers = calloc((size_t)g.layers, sizeof *s.layers);
    for (int i = 0; i < g.layers; i++) {
        s.layers[i].attn = (cl_attention){.heads = g.heads,
                                          .kv_heads = g.kv_heads,
                                          .head_dim = g.head_dim,
                                          .qk_norm = g.qk_norm,
                                          .scale = 1 / sqrt(g.head_dim)};
        s.layers[i].ffn = (cl_ffn){.kind = g.experts ? CL_FFN_MOE : CL_FFN_DENSE,
                                   .width = g.width,
                                   .experts = g.experts,
                                   .top_k = g.top_k,
                                   .renormalise = g.experts > 0,
                                   .weight_scale = g.experts > 0};
    }
    return s;
}

/* --- small specs that together say everything a spec can: 4 layers, hidden 100, vocabulary 75, 64 positions --- */

static inline cl_spec test_spec_small(int n_ropes, const cl_rope *ropes)
{
    cl_spec s = {.family = "test",
                 .vocab = 75,
                 .hidden = 100,
                 .n_layers = 4,
                 .context = 64,
                 .norm_eps = 1e-5,
                 .n_ropes = n_ropes,
                 .bos = -1};
    s.ropes = calloc((size_t)n_ropes, sizeof *s.ropes);
    for (int r = 0; r < n_ropes; r++) {
        s.ropes[r] = ropes[r];
        s.ropes[r].inv_freq = calloc((size_t)ropes[r].dims / 2, sizeof(double));
        for (int i = 0; i < ropes[r].dims / 2; i++) s.ropes[r].inv_freq[i] = pow(1000, -2.0 * i / ropes[r].dims);
    }
    s.layers = calloc(4, sizeof *s.layers);
    return s;
}

/* Sinks, windows in every other layer, partial rotation; experts with biases, a clamped unit, weights from the chosen
 * alone. */
static inline cl_spec test_spec_sinks(void)
{
    cl_spec s = test_spec_small(1, (cl_rope[]){{.dims = 12, .pairing = CL_ROPE_HALF, .scale = 1.3}});
    for (int i = 0; i < 4; i++) {
        s.layers[i].attn = (cl_attention){.heads = 6,
                                          .kv_heads = 2,
                                          .head_dim = 20,
                                          .window = i % 2 ? 0 : 7,
                                          .scale = 0.25,
                                          .qkv_bias = true,
                                          .o_bias = true,
                                          .sinks = true};
        s.layers[i].ffn = (cl_ffn){.kind = CL_FFN_MOE,
                                   .width = 42,
                                   .bias = true,
                                   .glu = CL_GLU_CLAMPED,
                                   .glu_limit = 0.6,
                                   .glu_alpha = 1.702,
                                   .experts = 6,
                                   .top_k = i == 2 ? 1 : 3,
                                   .scoring = CL_SCORE_CHOSEN_SOFTMAX,
                                   .router_bias = true,
                                   .weight_scale = 1};
    }
    s.layers[3].ffn = (cl_ffn){.kind = CL_FFN_DENSE,
                               .width = 75,
                               .bias = true,
                               .glu = CL_GLU_CLAMPED,
                               .glu_limit = 1,
                               .glu_alpha = 1};
    return s;
}

/* Latent attention, with and without a low-rank query, more heads than look together, also with all that goes with
 * the other kind; experts in groups, chosen with a bias, next to a shared one. */
static inline cl_spec test_spec_latent(void)
{
    cl_spec s = test_spec_small(2, (cl_rope[]){{.dims = 12, .pairing = CL_ROPE_INTERLEAVED, .scale = 1},
                                               {.dims = 6, .pairing = CL_ROPE_HALF, .scale = 1.1}});
    const cl_attention a = {.kind = CL_ATTN_LATENT,
                            .heads = 5,
                            .kv_heads = 1,
                            .head_dim = 30,
                            .rope_dim = 12,
                            .q_rank = 40,
                            .kv_rank = 44,
                            .v_dim = 22,
                            .scale = 0.2,
                            .latent_eps = 1e-6};
    const cl_ffn f = {.kind = CL_FFN_MOE,
                      .width = 42,
                      .experts = 8,
                      .top_k = 3,
                      .scoring = CL_SCORE_SIGMOID,
                      .select_bias = true,
                      .groups = 4,
                      .top_groups = 2,
                      .group_best = 2,
                      .renormalise = true,
                      .weight_scale = 2.5,
                      .shared_width = 50};
    for (int i = 0; i < 4; i++) {
        s.layers[i].attn = a;
        s.layers[i].ffn = f;
    }
    s.layers[0].attn.q_rank = 0;
    s.layers[0].ffn = (cl_ffn){.kind = CL_FFN_DENSE, .width = 130};
    s.layers[1].attn.heads = 19;
    s.layers[1].attn.head_dim = 15;
    s.layers[1].attn.v_dim = 8;
    s.layers[2].attn = (cl_attention){.kind = CL_ATTN_LATENT,
                                      .heads = 3,
                                      .kv_heads = 1,
                                      .head_dim = 40,
                                      .rope_dim = 8,
                                      .kv_rank = 64,
                                      .v_dim = 48,
                                      .scale = 0.2,
                                      .latent_eps = 1e-5,
                                      .window = 9,
                                      .rope = 1,
                                      .sinks = true,
                                      .o_bias = true,
                                      .temperature = 0.2,
                                      .temperature_floor = 5};
    s.layers[2].ffn = (cl_ffn){.kind = CL_FFN_MOE,
                               .width = 33,
                               .experts = 6,
                               .top_k = 3,
                               .scoring = CL_SCORE_SOFTMAX,
                               .groups = 3,
                               .top_groups = 2,
                               .group_best = 1,
                               .weight_scale = 1.5,
                               .shared_width = 20};
    s.layers[3].attn.window = 16;
    s.layers[3].attn.chunked = true;
    s.layers[3].attn.rope = -1;
    return s;
}

/* Chunked windows with unit norms; every fourth layer sees all, is not rotated and has a temperature; weights on the
 * experts' input. */
static inline cl_spec test_spec_chunked(void)
{
    cl_spec s = test_spec_small(1, (cl_rope[]){{.dims = 18, .pairing = CL_ROPE_INTERLEAVED, .scale = 1}});
    for (int i = 0; i < 4; i++) {
        bool all = i == 3;
        s.layers[i].attn = (cl_attention){.heads = 6,
                                          .kv_heads = 3,
                                          .head_dim = 18,
                                          .window = all      ? 0
                                                    : i == 1 ? 16
                                                             : 11,
                                          .chunked = !all,
                                          .rope = all ? -1 : 0,
                                          .qk_norm = all ? CL_QK_NORM_NONE : CL_QK_NORM_UNIT,
                                          .scale = 0.3,
                                          .temperature = all ? 0.1 : 0,
                                          .temperature_floor = all ? 8 : 0};
        s.layers[i].ffn = (cl_ffn){.kind = CL_FFN_MOE,
                                   .width = 42,
                                   .experts = 6,
                                   .top_k = 1,
                                   .scoring = CL_SCORE_SIGMOID,
                                   .weight_scale = 1,
                                   .weight_input = true,
                                   .shared_width = 60};
    }
    s.layers[0].ffn = (cl_ffn){.kind = CL_FFN_DENSE, .width = 90};
    s.layers[2].ffn.top_k = 2;
    s.layers[2].ffn.bias = true;
    s.layers[2].ffn.shared_width = 0;
    return s;
}

/* A model without weights, all in one format. */
static inline cl_code test_model_of(const cl_spec *s, cl_format f, cl_model *m, cl_err *err)
{
    cl_formats all = cl_formats_all(f);
    return cl_model_from_spec(s, &all, m, err);
}

static const test_geometry SMOLLM2_135M = {49152, 576, 30, 9, 3, 64, 1536, 0, 0, true, CL_QK_NORM_NONE};
static const test_geometry QWEN3_30B_A3B = {151936, 2048, 48, 32, 4, 128, 768, 128, 8, false, CL_QK_NORM_HEAD};
static const test_geometry MIXTRAL_8X7B = {32000, 4096, 32, 32, 8, 128, 14336, 8, 2, false, CL_QK_NORM_NONE};
static const test_geometry OLMOE_1B_7B = {50304, 2048, 16, 16, 16, 128, 1024, 64, 8, false, CL_QK_NORM_FULL};

#endif
