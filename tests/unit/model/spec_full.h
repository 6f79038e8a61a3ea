/* spec_full.h: a spec in which every field of every kind of layer says something. */
#ifndef CHIPLINE_TEST_SPEC_FULL_H
#define CHIPLINE_TEST_SPEC_FULL_H

#include "specs.h"

static inline void full_grouped(cl_layer *l)
{
    l->attn = (cl_attention){.heads = 6,
                             .kv_heads = 2,
                             .head_dim = 20,
                             .window = 7,
                             .chunked = true,
                             .rope = 1,
                             .qk_norm = CL_QK_NORM_FULL,
                             .clip = 0.5,
                             .scale = 0.25,
                             .qkv_bias = true,
                             .o_bias = true,
                             .sinks = true,
                             .temperature = 0.125,
                             .temperature_floor = 8};
    l->ffn = (cl_ffn){.kind = CL_FFN_DENSE,
                      .width = 75,
                      .bias = true,
                      .glu = CL_GLU_CLAMPED,
                      .glu_limit = 7.5,
                      .glu_alpha = 1.75};
}

static inline void full_latent(cl_layer *l)
{
    l->attn = (cl_attention){.kind = CL_ATTN_LATENT,
                             .heads = 5,
                             .kv_heads = 1,
                             .head_dim = 30,
                             .rope_dim = 12,
                             .q_rank = 40,
                             .kv_rank = 44,
                             .v_dim = 22,
                             .scale = 0.5,
                             .latent_eps = 0.0625};
    l->ffn = (cl_ffn){.kind = CL_FFN_MOE,
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
}

/* Layers: grouped and dense, latent with groups of experts, two more with what those have not. */
static inline cl_spec full_spec(void)
{
    cl_spec s = test_spec_small(2, (cl_rope[]){{.dims = 4, .pairing = CL_ROPE_INTERLEAVED, .scale = 1.5},
                                               {.dims = 6, .pairing = CL_ROPE_HALF, .scale = 1.25}});
    for (int r = 0; r < 2; r++) {
        free(s.ropes[r].inv_freq);
        s.ropes[r].inv_freq = calloc(16, sizeof(double)); /* tests rotate more */
        for (int i = 0; i < s.ropes[r].dims / 2; i++) s.ropes[r].inv_freq[i] = r ? 1.0 / (1 << i) : i * 0.75;
    }
    s.norm_eps = 0.03125;
    s.tied = true;
    s.bos = 5;
    s.n_eos = 3;
    s.eos[0] = 74, s.eos[1] = 0, s.eos[2] = 9;
    for (int i = 0; i < 4; i += 2) full_grouped(&s.layers[i]);
    for (int i = 1; i < 4; i += 2) full_latent(&s.layers[i]);
    s.layers[2].attn.qk_norm = CL_QK_NORM_UNIT;
    s.layers[2].attn.rope = -1;
    s.layers[2].ffn = (cl_ffn){.kind = CL_FFN_MOE,
                               .width = 9,
                               .glu = CL_GLU_CLAMPED,
                               .glu_limit = 1,
                               .glu_alpha = 2,
                               .experts = 5,
                               .top_k = 5,
                               .scoring = CL_SCORE_CHOSEN_SOFTMAX,
                               .router_bias = true,
                               .weight_scale = 1,
                               .weight_input = true};
    s.layers[3].attn.qk_norm = CL_QK_NORM_NONE;
    s.layers[3].ffn = (cl_ffn){.kind = CL_FFN_DENSE, .width = 3};
    return s;
}

#endif
