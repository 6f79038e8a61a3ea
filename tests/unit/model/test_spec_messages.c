/* What cl_spec_check says of every impossible number, in full: the field, what it is, and what it may be. */
#include "spec_full.h"
#include "suite.h"

static void refused(cl_spec *s, const char *want)
{
    cl_err err = {0};
    CU_ASSERT_EQUAL(cl_spec_check(s, &err), CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, want);
    if (strcmp(err.msg, want) != 0) fprintf(stderr, "said: %s\nwant: %s\n", err.msg, want);
    s->n_layers = 4, s->n_ropes = 2;
    cl_spec_free(s);
}

/* One change of a spec in which all is possible. */
#define SPEC(CHANGE, WANT)       \
    do {                         \
        cl_spec s = full_spec(); \
        CHANGE;                  \
        refused(&s, WANT);       \
    } while (0)
#define ATTENTION(CHANGE, LAYER, WANT) SPEC(cl_attention *a = &s.layers[LAYER].attn; (void)a; CHANGE, WANT)
#define FFN(CHANGE, LAYER, WANT) SPEC(cl_ffn *f = &s.layers[LAYER].ffn; CHANGE, WANT)

static void test_whole(void)
{
    SPEC(s.family[0] = (char)0xff, "family: not a short UTF-8 text");
    SPEC(memset(s.family, 'x', sizeof s.family), "family: not a short UTF-8 text");
    SPEC(s.vocab = 0, "vocab: is 0, must be from 1 to 2147483647");
    SPEC(s.hidden = 0, "hidden: is 0, must be from 1 to 2147483647");
    SPEC((s.hidden = 1 << 20, s.vocab = (1 << 20) + 1),
         "vocab * hidden: is 1099512676352, must be from 1 to 1099511627776");
    SPEC(s.context = 0, "context: is 0, must be from 1 to 2147483647");
    SPEC(s.norm_eps = NAN, "norm_eps: is nan, must be a finite number >= 0");
    SPEC(s.norm_eps = -0.5, "norm_eps: is -0.5, must be a finite number >= 0");
    SPEC(s.n_layers = 0, "layers: is 0, must be from 1 to 4096");
    SPEC(s.n_layers = 4097, "layers: is 4097, must be from 1 to 4096");
    SPEC(s.n_ropes = -1, "ropes: is -1, must be from 0 to 1024");
    SPEC(s.n_ropes = 1025, "ropes: is 1025, must be from 0 to 1024");
    SPEC(s.bos = -2, "bos: is -2, must be from -1 to 74");
    SPEC(s.bos = 75, "bos: is 75, must be from -1 to 74");
    SPEC(s.n_eos = -1, "n_eos: is -1, must be from 0 to 16");
    SPEC(s.n_eos = 17, "n_eos: is 17, must be from 0 to 16");
    SPEC(s.eos[2] = -1, "eos: is -1, must be from 0 to 74");
    SPEC(s.eos[2] = 75, "eos: is 75, must be from 0 to 74");
    SPEC(s.ropes[1].dims = 0, "rope 1: dims: is 0, must be from 2 to 1048576");
    SPEC(s.ropes[1].dims = 1, "rope 1: dims: is 1, must be from 2 to 1048576");
    SPEC(s.ropes[1].dims = 3, "rope 1: dims: is 3, must be even");
    SPEC(s.ropes[1].dims = (1 << 20) + 2, "rope 1: dims: is 1048578, must be from 2 to 1048576");
    SPEC(s.ropes[1].pairing = (cl_rope_pairing)2, "rope 1: pairing: is 2");
    SPEC(s.ropes[1].scale = 0, "rope 1: scale: is 0, must be a finite number > 0");
    SPEC(s.ropes[0].scale = INFINITY, "rope 0: scale: is inf, must be a finite number > 0");
    SPEC(s.ropes[1].inv_freq[2] = -1, "rope 1: inv_freq: is -1, must be a finite number >= 0");
    SPEC(s.ropes[1].inv_freq[0] = NAN, "rope 1: inv_freq: is nan, must be a finite number >= 0");
}

static void test_grouped(void)
{
    ATTENTION(a->heads = 0, 0, "layer 0: attention: heads: is 0, must be from 1 to 2147483647");
    ATTENTION(a->kv_heads = 0, 0, "layer 0: attention: kv_heads: is 0, must be from 1 to 2147483647");
    ATTENTION(a->head_dim = 0, 0, "layer 0: attention: head_dim: is 0, must be from 1 to 2147483647");
    ATTENTION((a->heads = a->kv_heads = 2, a->head_dim = 1 << 30), 0,
              "layer 0: attention: heads * head_dim: is 2147483648, must be from 1 to 2147483647");
    ATTENTION(a->kv_heads = 4, 0, "layer 0: attention: kv_heads: 4 does not divide heads (6)");
    ATTENTION((a->heads = a->kv_heads = 1 << 20, a->head_dim = 1 << 10, s.hidden = 1 << 11), 0,
              "layer 0: attention: q numbers: is 2199023255552, must be from 1 to 1099511627776");
    ATTENTION(a->kind = (cl_attention_kind)2, 0, "layer 0: attention: kind: is 2");
    ATTENTION(a->q_rank = 1, 0, "layer 0: attention: kv_rank: grouped attention has no latent sizes");
    ATTENTION(a->kv_rank = 1, 0, "layer 0: attention: kv_rank: grouped attention has no latent sizes");
    ATTENTION(a->rope_dim = 1, 0, "layer 0: attention: kv_rank: grouped attention has no latent sizes");
    ATTENTION(a->v_dim = 1, 0, "layer 0: attention: kv_rank: grouped attention has no latent sizes");
    ATTENTION(a->latent_eps = 1, 0, "layer 0: attention: kv_rank: grouped attention has no latent sizes");
    ATTENTION(a->window = -1, 0, "layer 0: attention: window: is -1, must be from 0 to 2147483647");
    ATTENTION(a->window = 0, 0, "layer 0: attention: chunked: needs a window: the length of a chunk");
    ATTENTION(a->rope = -2, 0, "layer 0: attention: rope: is -2, must be from -1 to 1");
    ATTENTION(a->rope = 2, 0, "layer 0: attention: rope: is 2, must be from -1 to 1");
    ATTENTION(s.ropes[1].dims = 22, 0, "layer 0: attention: rope: rotates 22 numbers of heads with 20");
    ATTENTION(a->qk_norm = (cl_qk_norm)4, 0, "layer 0: attention: qk_norm: is 4");
    ATTENTION(a->clip = -1, 0, "layer 0: attention: clip: is -1, must be a finite number >= 0");
    ATTENTION(a->scale = 0, 0, "layer 0: attention: scale: is 0, must be a finite number > 0");
    ATTENTION(a->temperature = -1, 0, "layer 0: attention: temperature: is -1, must be a finite number >= 0");
    ATTENTION(a->temperature_floor = 0, 0, "layer 0: attention: temperature_floor: is 0, must be a finite number > 0");
    ATTENTION((a->temperature = 0, a->temperature_floor = -1), 0,
              "layer 0: attention: temperature_floor: is -1, must be a finite number >= 0");
}

static void test_latent(void)
{
    ATTENTION(a->q_rank = -1, 1, "layer 1: attention: q_rank: is -1, must be from 0 to 2147483647");
    ATTENTION(a->kv_rank = 0, 1, "layer 1: attention: kv_rank: is 0, must be from 1 to 2147483647");
    ATTENTION(a->head_dim = 1, 1, "layer 1: attention: head_dim: is 1, must be from 2 to 2147483647");
    ATTENTION(a->rope_dim = 0, 1, "layer 1: attention: rope_dim: is 0, must be from 1 to 29");
    ATTENTION(a->rope_dim = 30, 1, "layer 1: attention: rope_dim: is 30, must be from 1 to 29");
    ATTENTION(a->v_dim = 0, 1, "layer 1: attention: v_dim: is 0, must be from 1 to 2147483647");
    ATTENTION((a->heads = 6, a->kv_heads = 2), 1, "layer 1: attention: kv_heads: is 2, must be from 1 to 1");
    ATTENTION((a->kv_rank = INT32_MAX, a->rope_dim = 1), 1,
              "layer 1: attention: kv_rank + rope_dim: is 2147483648, must be from 1 to 2147483647");
    ATTENTION((a->heads = 4, a->head_dim = 2, a->rope_dim = 1, a->v_dim = 1 << 29), 1,
              "layer 1: attention: heads * v_dim: is 2147483648, must be from 1 to 2147483647");
    ATTENTION((a->heads = 1, a->head_dim = 1 << 20, a->kv_rank = (1 << 20) + 1), 1,
              "layer 1: attention: k_b numbers: is 1048576, must be from 1 to 1048575");
    ATTENTION((a->heads = 1, a->v_dim = 1 << 20, a->kv_rank = (1 << 20) + 1), 1,
              "layer 1: attention: v_b numbers: is 1048576, must be from 1 to 1048575");
    ATTENTION((s.hidden = 1 << 20, a->heads = 1, a->v_dim = (1 << 20) + 1, a->kv_rank = 1), 1,
              "layer 1: attention: o numbers: is 1099512676352, must be from 1 to 1099511627776");
    ATTENTION((s.hidden = 1 << 20, a->kv_rank = 1 << 20), 1,
              "layer 1: attention: kv_a numbers: is 1099524210688, must be from 1 to 1099511627776");
    ATTENTION((s.hidden = 1 << 20, a->q_rank = (1 << 20) + 1), 1,
              "layer 1: attention: q_a numbers: is 1099512676352, must be from 1 to 1099511627776");
    ATTENTION((a->q_rank = 1 << 30, s.hidden = 1, a->heads = 1, a->head_dim = 1025), 1,
              "layer 1: attention: q numbers: is 1100585369600, must be from 1 to 1099511627776");
    ATTENTION(a->latent_eps = -1, 1, "layer 1: attention: latent_eps: is -1, must be a finite number >= 0");
    ATTENTION(a->qk_norm = CL_QK_NORM_UNIT, 1,
              "layer 1: attention: qk_norm: latent attention has no q and k norm, clip or biases");
    ATTENTION(a->clip = 1, 1, "layer 1: attention: qk_norm: latent attention has no q and k norm, clip or biases");
    ATTENTION(a->qkv_bias = true, 1,
              "layer 1: attention: qk_norm: latent attention has no q and k norm, clip or biases");
    ATTENTION((a->rope = 1, s.ropes[1].dims = 14), 1, "layer 1: attention: rope: rotates 14 numbers of heads with 12");
}

static void test_dense(void)
{
    FFN(f->kind = (cl_ffn_kind)2, 0, "layer 0: ffn: kind: is 2");
    FFN(f->width = 0, 0, "layer 0: ffn: width: is 0, must be from 1 to 2147483647");
    FFN(f->glu = (cl_glu)2, 0, "layer 0: ffn: glu: is 2");
    FFN(f->glu_limit = 0, 0, "layer 0: ffn: glu_limit: is 0, must be a finite number > 0");
    FFN(f->glu_alpha = 0, 0, "layer 0: ffn: glu_alpha: is 0, must be a finite number > 0");
    FFN(f->glu = CL_GLU_SILU, 0, "layer 0: ffn: glu_limit: silu has none");
    FFN((f->glu = CL_GLU_SILU, f->glu_limit = 0), 0, "layer 0: ffn: glu_limit: silu has none");
    FFN((f->glu = CL_GLU_SILU, f->glu_alpha = 0), 0, "layer 0: ffn: glu_limit: silu has none");
    FFN(f->experts = 1, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->top_k = 1, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->scoring = CL_SCORE_SIGMOID, 0,
        "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->router_bias = true, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->select_bias = true, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->groups = 1, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->top_groups = 1, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->group_best = 1, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->renormalise = true, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->weight_scale = 1, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->weight_input = true, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN(f->shared_width = 1, 0, "layer 0: ffn: experts: a dense layer has none, and nothing that goes with them");
    FFN((s.hidden = 1 << 13, f->width = (1 << 27) + 1), 0,
        "layer 0: ffn: width * hidden: is 1099511635968, must be from 1 to 1099511627776");
}

static void test_experts(void)
{
    FFN(f->experts = 0, 1, "layer 1: ffn: experts: is 0, must be from 1 to 1048576");
    FFN(f->experts = (1 << 20) + 1, 1, "layer 1: ffn: experts: is 1048577, must be from 1 to 1048576");
    FFN(f->top_k = 0, 1, "layer 1: ffn: top_k: is 0, must be from 1 to the number of experts, 8");
    FFN(f->top_k = 9, 1, "layer 1: ffn: top_k: is 9, must be from 1 to the number of experts, 8");
    FFN(f->scoring = (cl_scoring)3, 1, "layer 1: ffn: scoring: is 3");
    FFN(f->groups = 0, 1, "layer 1: ffn: groups: there are none to choose from");
    FFN((f->groups = 0, f->top_groups = 0), 1, "layer 1: ffn: groups: there are none to choose from");
    FFN((f->groups = 0, f->group_best = 0), 1, "layer 1: ffn: groups: there are none to choose from");
    FFN(f->groups = 1, 1, "layer 1: ffn: groups: is 1, must be from 2 to 8");
    FFN(f->groups = 9, 1, "layer 1: ffn: groups: is 9, must be from 2 to 8");
    FFN(f->groups = 3, 1, "layer 1: ffn: groups: 3 does not divide experts (8)");
    FFN(f->top_groups = 0, 1, "layer 1: ffn: top_groups: is 0, must be from 1 to 4");
    FFN(f->top_groups = 5, 1, "layer 1: ffn: top_groups: is 5, must be from 1 to 4");
    FFN(f->group_best = 0, 1, "layer 1: ffn: group_best: is 0, must be from 1 to 2");
    FFN(f->group_best = 3, 1, "layer 1: ffn: group_best: is 3, must be from 1 to 2");
    FFN(f->top_groups = 1, 1, "layer 1: ffn: top_k: 3 is more than the experts of 1 groups");
    FFN(f->weight_scale = 0, 1, "layer 1: ffn: weight_scale: is 0, must be a finite number > 0");
    FFN(f->shared_width = -1, 1, "layer 1: ffn: shared_width: is -1, must be from 0 to 2147483647");
    FFN((s.hidden = 1 << 13, f->shared_width = (1 << 27) + 1), 1,
        "layer 1: ffn: shared_width * hidden: is 1099511635968, must be from 1 to 1099511627776");
    FFN((s.hidden = 1 << 13, f->width = (1 << 24) + 1), 1,
        "layer 1: ffn: width * hidden: is 137438961664, must be from 1 to 137438953472");
}

/* The largest and smallest numbers there may be. */
#define ACCEPTED(CHANGE)                                               \
    do {                                                               \
        cl_spec s = full_spec();                                       \
        cl_err err = {0};                                              \
        cl_attention *a = &s.layers[1].attn;                           \
        cl_ffn *f = &s.layers[1].ffn;                                  \
        (void)a, (void)f;                                              \
        CHANGE;                                                        \
        CU_ASSERT_EQUAL(cl_spec_check(&s, &err), CL_OK);               \
        if (err.msg[0]) fprintf(stderr, "%s: %s\n", #CHANGE, err.msg); \
        cl_spec_free(&s);                                              \
    } while (0)

static void test_accepted(void)
{
    ACCEPTED((void)0);
    ACCEPTED(memset(s.family, 'x', sizeof s.family - 1));
    ACCEPTED(s.family[0] = 0);
    ACCEPTED((s.hidden = 1 << 20, s.vocab = 1 << 20, s.n_layers = 1));
    ACCEPTED((s.vocab = 1, s.hidden = 1, s.bos = 0, s.n_eos = 0));
    ACCEPTED(s.context = INT32_MAX);
    ACCEPTED(s.norm_eps = 0);
    ACCEPTED(s.bos = -1);
    ACCEPTED((s.bos = 74, s.eos[1] = 74));
    ACCEPTED(s.ropes[1].dims = 2);
    ACCEPTED((s.ropes[0].dims = 4, s.layers[0].attn.rope = 0));
    ACCEPTED((s.ropes[1].inv_freq[0] = 0, s.layers[0].attn.window = INT32_MAX));
    ACCEPTED((s.layers[0].attn.window = 0, s.layers[0].attn.chunked = false));
    ACCEPTED((s.layers[0].attn.heads = 2, s.layers[0].attn.head_dim = INT32_MAX / 2, s.hidden = 1));
    ACCEPTED((s.layers[0].attn.temperature = 0, s.layers[0].attn.temperature_floor = 0, s.layers[0].attn.clip = 0));
    ACCEPTED((a->head_dim = 13, a->latent_eps = 0));
    ACCEPTED((a->head_dim = 2, a->rope_dim = 1, a->rope = -1, a->v_dim = 1, a->kv_rank = 1, a->q_rank = 1));
    ACCEPTED((a->kv_rank = INT32_MAX - 12, s.hidden = 1, s.bos = 0, s.n_layers = 2));
    ACCEPTED((a->heads = 1, a->head_dim = 1 << 20, a->v_dim = 1 << 20, a->kv_rank = 1 << 20));
    ACCEPTED((f->top_k = 4, f->group_best = 1, f->shared_width = 0));
    ACCEPTED((f->top_k = 8, f->top_groups = 4));
    ACCEPTED((f->groups = 8, f->group_best = 1, f->top_k = 1, f->top_groups = 1));
    ACCEPTED((f->experts = 1, f->groups = f->top_groups = f->group_best = 0, f->top_k = 1));
    ACCEPTED((f->experts = 1 << 20, f->width = 1 << 13, s.hidden = 1 << 7));
    ACCEPTED((f->shared_width = 1 << 30, s.hidden = 1 << 10));
}

/* Copies for which there is no memory. */
static void test_no_memory(void)
{
    cl_spec s = full_spec(), copy = {0};
    cl_err err[3] = {0};
    s.n_layers = -1;
    CU_ASSERT_EQUAL(cl_spec_copy(&s, &copy, &err[0]), CL_E_FIT);
    s.n_layers = 4;
    s.n_ropes = -1;
    CU_ASSERT_EQUAL(cl_spec_copy(&s, &copy, &err[1]), CL_E_FIT);
    s.n_ropes = 2;
    s.ropes[1].dims = -2;
    CU_ASSERT_EQUAL(cl_spec_copy(&s, &copy, &err[2]), CL_E_FIT);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(strncmp(err[i].msg, "spec: ", 6), 0);
        if (strncmp(err[i].msg, "spec: ", 6) != 0) fprintf(stderr, "%d: %s\n", i, err[i].msg);
    }
    CU_ASSERT_PTR_NULL(copy.layers);
    cl_spec_free(&s);
}

int main(void)
{
    CU_TestInfo tests[] = {{"of the whole", test_whole},         {"of grouped attention", test_grouped},
                           {"of latent attention", test_latent}, {"of a dense layer", test_dense},
                           {"of experts", test_experts},         {"accepted", test_accepted},
                           {"no memory", test_no_memory},        CU_TEST_INFO_NULL};
    return run_suite("spec messages", tests);
}
