/* model.h: what a model is. A family is data: the spec says for every layer what happens, and no family name is
 * looked at outside import/.
 *
 * Boundary: callers need not know where a model came from. A cl_spec is plain data; cl_model adds the list of tensors
 * with the format of each. Both can come from a model file, from a checkpoint's config.json, or from a test. */
#ifndef CHIPLINE_MODEL_H
#define CHIPLINE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/format.h"
#include "chipline/json.h"
#include "chipline/status.h"

/* Which two numbers of a head are rotated together; D = dims. */
typedef enum cl_rope_pairing {
    CL_ROPE_HALF,       /* x[i] with x[i + D/2] */
    CL_ROPE_INTERLEAVED /* x[2i] with x[2i + 1] */
} cl_rope_pairing;

/* One rotary table. All scalings (llama3, YaRN, linear) are folded into inv_freq and scale by the importer. */
typedef struct cl_rope {
    int dims; /* rotated numbers per head, even, the first ones of the head */
    cl_rope_pairing pairing;
    double scale;     /* multiplies cos and sin */
    double *inv_freq; /* [dims / 2], radians per position */
} cl_rope;

typedef enum cl_qk_norm {
    CL_QK_NORM_NONE,
    CL_QK_NORM_HEAD, /* RMSNorm over each head, weight [head_dim] */
    CL_QK_NORM_FULL, /* RMSNorm over the whole projection, weight [heads * head_dim] */
    CL_QK_NORM_UNIT  /* RMSNorm over each head without a weight */
} cl_qk_norm;

typedef enum cl_attention_kind { CL_ATTN_GROUPED, CL_ATTN_LATENT } cl_attention_kind;

/* GROUPED: query head j reads kv head j / (heads / kv_heads).
 *   q, k: (bias), norm, clip, rotate (the first dims numbers of a head); p = softmax(scale * q.k) over the visible
 *   keys; o = Wo sum(p v) (+ bias).
 * LATENT (MLA, DeepSeek-V2 section 2.1; absorbed form): with a the normed input,
 *   q = Wq RMSNorm(Wqa a; q_a_norm), or Wq a where q_rank is 0; a head of q is head_dim - rope_dim plain numbers qn,
 *   then rope_dim rotated ones qr; [c, kr] = Wkva a; c = RMSNorm(c; kv_a_norm), kr rotated; cached per token: c
 *   [kv_rank] and kr [rope_dim]; per head: p = softmax(scale * (Wkb qn . c + qr . kr)), o = Wvb sum(p c) [v_dim]; out
 *   = Wo [all heads' o]. kv_heads is 1; the two norms use latent_eps.
 * Sinks: per query head one learned logit, not scaled, that takes part in the softmax's maximum and sum and has no
 * value. Temperature: the queries at position p are multiplied by 1 + temperature * ln(1 + floor((p + 1) /
 * temperature_floor)). */
typedef struct cl_attention {
    cl_attention_kind kind;
    int heads, kv_heads, head_dim;
    int window; /* visible keys, the token's own included; 0: all */
    /* visible are the keys up to the token in its own run of `window` positions: j / window == pos / window */
    bool chunked;
    int rope;           /* index into cl_spec.ropes; -1: positions are not encoded */
    cl_qk_norm qk_norm; /* before the rotation; eps = cl_spec.norm_eps */
    double clip;        /* q, k and v are clamped to [-clip, clip] after the norm; 0: not */
    double scale;       /* of q.k */
    bool qkv_bias, o_bias, sinks;
    double temperature, temperature_floor; /* 0: none */
    int q_rank, kv_rank, rope_dim, v_dim;  /* latent only, else 0; q_rank 0: queries come straight from the input */
    double latent_eps;
} cl_attention;

/* Numbers of one head's result: what o reads per head. */
static inline int cl_attention_v_dim(const cl_attention *a)
{
    return a->kind == CL_ATTN_LATENT ? a->v_dim : a->head_dim;
}
/* What a position has in the cache: so many vectors (keys and values of every kv head; the latent one, whose first
 * kv_rank numbers are the values too) of so many numbers. */
static inline int64_t cl_attention_cached(const cl_attention *a)
{
    return a->kind == CL_ATTN_LATENT ? 1 : 2 * (int64_t)a->kv_heads;
}
static inline int cl_attention_cached_dim(const cl_attention *a)
{
    return a->kind == CL_ATTN_LATENT ? a->kv_rank + a->rope_dim : a->head_dim;
}
/* Positions that a token at `pos` sees, its own included. */
static inline int64_t cl_attention_first(const cl_attention *a, int64_t pos)
{
    if (!a->window) return 0;
    if (a->chunked) return pos - pos % a->window;
    return pos >= a->window ? pos - a->window + 1 : 0;
}

/* --- sizes of the cache of one layer: of one sequence, and of all its kv heads (a->kv_heads; latent: one vector) ---
 * */

/* One row of the cache in its canonical form: what one position has of one kv head (key, then value), or its latent
 * vector; without a block's padding. */
uint64_t cl_kv_row_bytes(const cl_attention *a, cl_kv_format f);
/* Blocks that are there at once for `positions` positions: of windowed and chunked layers what is still seen while a
 * micro-batch of `chunk` tokens goes through. */
int64_t cl_kv_blocks(const cl_attention *a, int64_t positions, int chunk);
/* Their bytes: exactly what chip/ allocates. UINT64_MAX if they are more than that. */
uint64_t cl_kv_layer_bytes(const cl_attention *a, cl_kv_format f, int64_t positions, int chunk);
/* Bytes read by the token at position `positions` - 1: of the positions it sees, its own included. Latent vectors
 * count once, although all heads use them. UINT64_MAX likewise. */
uint64_t cl_kv_read_bytes(const cl_attention *a, cl_kv_format f, int64_t positions);

typedef enum cl_ffn_kind { CL_FFN_DENSE, CL_FFN_MOE } cl_ffn_kind;

typedef enum cl_glu {
    CL_GLU_SILU,   /* silu(g) * u */
    CL_GLU_CLAMPED /* g = min(g, limit), u = clamp(u, -limit, limit): (u + 1) * g * sigmoid(alpha * g)  (gpt-oss) */
} cl_glu;

/* How a router's outputs l become scores (for choosing and as weights). */
typedef enum cl_scoring {
    CL_SCORE_SOFTMAX,       /* softmax(l) over all experts */
    CL_SCORE_SIGMOID,       /* sigmoid(l) */
    CL_SCORE_CHOSEN_SOFTMAX /* chosen by l; weights are the softmax over the chosen ones */
} cl_scoring;

/* down( glu(gate x, up x) ). MoE: the sum over top_k experts, each weighted by its score, plus a shared expert (a
 * dense MLP of shared_width, weight 1, same glu, no biases) where there is one.
 * Choice: by score (+ select_bias), ties to the lower index. With groups > 1 experts are split into equal runs; a
 * run's score is the sum of its group_best largest, and only experts of the top_groups best runs can be chosen (ties
 * to the lower run). Weights: scores without select_bias, divided by their sum if renormalise, times weight_scale.
 * They multiply an expert's output, or with weight_input its input. */
typedef struct cl_ffn {
    cl_ffn_kind kind;
    int width; /* of the dense MLP, or of one expert */
    bool bias; /* gate, up and down (of the dense MLP, or of every expert) have biases */
    cl_glu glu;
    double glu_limit, glu_alpha; /* clamped only, else 0 */
    int experts, top_k;          /* 0 when dense, as all below */
    cl_scoring scoring;
    bool router_bias;                   /* added to the router's outputs */
    bool select_bias;                   /* added to the scores for the choice only */
    int groups, top_groups, group_best; /* groups 0 or 1: no groups, all three then 0 */
    bool renormalise;
    double weight_scale; /* 1: none */
    bool weight_input;
    int shared_width; /* 0: no shared expert */
} cl_ffn;

typedef struct cl_layer {
    cl_attention attn;
    cl_ffn ffn;
} cl_layer;

enum { CL_MAX_EOS = 16 };

typedef struct cl_spec {
    char family[32]; /* for people: what the importer recognised */
    int vocab;       /* rows of embedding and head */
    int hidden;
    int n_layers;
    int context; /* positions the model was made for */
    double norm_eps;
    bool tied; /* the head is the embedding table */
    int n_ropes;
    cl_rope *ropes;   /* [n_ropes] */
    cl_layer *layers; /* [n_layers] */
    int bos;          /* id or -1 */
    int n_eos;
    int eos[CL_MAX_EOS]; /* ids that end a text */
} cl_spec;

void cl_spec_free(cl_spec *s); /* frees what it points to and zeroes it */
cl_code cl_spec_copy(const cl_spec *from, cl_spec *to, cl_err *err);
/* Impossible numbers (heads that don't divide, top_k > experts, dims over head_dim, NaN, ids past the vocabulary, any
 * size over 2^31) are CL_E_INPUT, the message names the field. Everything that reads a spec calls it. */
cl_code cl_spec_check(const cl_spec *s, cl_err *err);
/* JSON with every field, units in key names where there are any; from_json checks. Caller decrefs. */
cl_code cl_spec_to_json(const cl_spec *s, json_t **out, cl_err *err);
cl_code cl_spec_from_json(const json_t *j, cl_spec *out, cl_err *err);

/* What a tensor is for. Canonical name and shape follow from role and layer. */
typedef enum cl_role {
    CL_T_EMBED,     /* embed.weight [vocab, hidden] */
    CL_T_ATTN_NORM, /* layers.N.attn.norm.weight [hidden] */
    CL_T_Q_A,
    CL_T_Q_A_NORM, /* layers.N.attn.q_a.weight [q_rank, hidden], q_a_norm.weight; latent */
    CL_T_Q,
    CL_T_K,
    CL_T_V,
    CL_T_O, /* layers.N.attn.{q,k,v,o}.weight [heads*head_dim | kv_heads*head_dim | .. | hidden, ..];
                                       latent: q's columns are q_rank or hidden, o's heads * v_dim; no k, v */
    /* layers.N.attn.kv_a.weight [kv_rank + rope_dim, hidden], kv_a_norm.weight [kv_rank] */
    CL_T_KV_A,
    CL_T_KV_A_NORM,
    CL_T_K_B,
    CL_T_V_B, /* layers.N.attn.k_b.weight [heads, kv_rank, head_dim - rope_dim]: plain query to latent;
                                       v_b.weight [heads, v_dim, kv_rank]: latent to value */
    CL_T_Q_BIAS,
    CL_T_K_BIAS,
    CL_T_V_BIAS,
    CL_T_O_BIAS, /* layers.N.attn.{q,k,v,o}.bias */
    CL_T_Q_NORM,
    CL_T_K_NORM,   /* layers.N.attn.{q,k}_norm.weight */
    CL_T_SINKS,    /* layers.N.attn.sinks [heads] */
    CL_T_FFN_NORM, /* layers.N.ffn.norm.weight [hidden] */
    CL_T_GATE,
    CL_T_UP,
    CL_T_DOWN, /* layers.N.ffn.{gate,up,down}.weight, dense */
    CL_T_GATE_BIAS,
    CL_T_UP_BIAS,
    CL_T_DOWN_BIAS,
    /* layers.N.ffn.router.{weight [experts, hidden], bias, select_bias [experts]} */
    CL_T_ROUTER,
    CL_T_ROUTER_BIAS,
    CL_T_SELECT_BIAS,
    /* layers.N.ffn.experts.{gate,up,down}.weight [experts, rows, cols] */
    CL_T_EXPERT_GATE,
    CL_T_EXPERT_UP,
    CL_T_EXPERT_DOWN,
    /* layers.N.ffn.experts.{gate,up,down}.bias [experts, rows] */
    CL_T_EXPERT_GATE_BIAS,
    CL_T_EXPERT_UP_BIAS,
    CL_T_EXPERT_DOWN_BIAS,
    CL_T_SHARED_GATE,
    CL_T_SHARED_UP,
    CL_T_SHARED_DOWN, /* layers.N.ffn.shared.{gate,up,down}.weight */
    CL_T_FINAL_NORM,  /* final_norm.weight [hidden] */
    CL_T_HEAD,        /* head.weight [vocab, hidden]; absent when tied */
    CL_ROLES
} cl_role;

/* A matrix [rows, cols] or a stack of equal ones, [experts, rows, cols]: one per expert, or (k_b, v_b) per head. A
 * vector of n numbers is [n, 1], experts' biases are [experts, n, 1]. Rows are outputs. */
typedef struct cl_tensor {
    char name[56];
    cl_role role;
    int layer;       /* -1: none */
    int64_t experts; /* 0: a single matrix */
    int64_t rows, cols;
    cl_format format;
    uint64_t xxh3; /* of all its rows' bytes (format.h) in order; 0 in a model without weights */
} cl_tensor;

static inline int64_t cl_tensor_rows(const cl_tensor *t) { return (t->experts ? t->experts : 1) * t->rows; }
/* Bytes stored: one matrix's times the number of matrices. Scales that rows share (fp8) count once. */
static inline uint64_t cl_tensor_bytes(const cl_tensor *t)
{
    return (uint64_t)(t->experts ? t->experts : 1) * cl_matrix_bytes(t->format, t->rows, t->cols);
}
/* Norms, biases and sinks are float32 in every model file; routers are f32, f16 or bf16; matrices may have any native
 * format. */
const char *cl_role_name(cl_role r); /* the canonical name without its layer: "attn.q.weight" */
/* embedding, head, the linear layers and experts; not routers, norms, biases, sinks */
bool cl_role_is_matrix(cl_role r);
bool cl_role_is_expert(cl_role r); /* expert matrices and biases: a token needs top_k of the stack, not all */
bool cl_role_is_vector(cl_role r); /* float32 numbers, one per row: neither matrix nor router */

typedef struct cl_model {
    cl_spec spec;
    int n_tensors;
    cl_tensor *tensors; /* in canonical order: embed, layer 0, layer 1, ..., final norm, head */
} cl_model;

/* Formats of a model's matrices by what they are for, as checkpoints are quantised. */
typedef struct cl_formats {
    cl_format tables; /* embedding and head */
    cl_format linear; /* attention, dense MLPs, shared experts */
    cl_format experts;
    cl_format routers; /* a float format */
} cl_formats;
/* Everything in f; routers then in f if it is a float format, else in bf16. */
cl_formats cl_formats_all(cl_format f);

/* The tensors this spec must have, in canonical order. *out is malloced, caller frees. */
cl_code cl_spec_tensors(const cl_spec *s, const cl_formats *formats, cl_tensor **out, int *n, cl_err *err);
/* A model without weights: the spec is copied. */
cl_code cl_model_from_spec(const cl_spec *s, const cl_formats *formats, cl_model *out, cl_err *err);
/* NULL if there is none. */
const cl_tensor *cl_model_find(const cl_model *m, cl_role role, int layer);
/* Spec and tensor list; free with cl_model_free, also after a failure. */
cl_code cl_model_copy(const cl_model *from, cl_model *to, cl_err *err);
void cl_model_free(cl_model *m);

/* Rows of tensors, whatever they come from: [row0, row0 + n) of one expert (0 for a plain tensor) of the model's tensor
 * of that index into dst, n * cl_row_bytes bytes. Rows outside the tensor abort; CL_E_RUN if they cannot be had. Any
 * thread may call rows. */
typedef struct cl_tensor_reader {
    void *ctx;
    const char *name; /* for messages: the file's path, say; borrowed */
    cl_code (*rows)(void *ctx, int tensor, int64_t expert, int64_t row0, int64_t n, void *dst, cl_err *err);
} cl_tensor_reader;

typedef struct cl_model_counts {
    uint64_t parameters; /* all */
    /* One token's pass: with the whole embedding table once, as most model cards count; and without it, as gpt-oss's
     * does: the head, which the pass multiplies with, counts in both. A tied table is the head. */
    uint64_t active_parameters, active_without_tables;
    uint64_t kv_values;         /* numbers appended to the KV cache per token */
    uint64_t bytes[CL_FORMATS]; /* stored bytes by format */
} cl_model_counts;
void cl_model_count(const cl_model *m, cl_model_counts *out);
/* Most of its bytes are in block formats: 8-bit activations are then the default. */
bool cl_model_quantised(const cl_model *m);

#endif
