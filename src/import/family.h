/* family.h: what a family of checkpoints is to the importers: how it is recognised, what its configuration means, and
 * what its tensors are called. Adding a family is one file fam_NAME.c with its cl_family, and one line in family.c's
 * list.
 *
 * A configuration is read in two steps: the common keys (config.c, metadata.c) give sizes, rotary table and plain
 * layers; the family's own function then says what differs. Local. */
#ifndef CHIPLINE_IMPORT_FAMILY_H
#define CHIPLINE_IMPORT_FAMILY_H

#include "chipline/model.h"
#include "gguf.h"
#include "rope.h"

/* Which outputs of the source matrix (each of a stack) become the role's rows. */
typedef enum cl_take {
    CL_TAKE_ALL,
    CL_TAKE_EVEN,
    CL_TAKE_ODD, /* gate and up interleaved row by row */
    CL_TAKE_FIRST,
    CL_TAKE_SECOND, /* two halves one after the other */
    /* of kv_b: per head the plain key's rows (transposed on the way), then the value's */
    CL_TAKE_K_UP,
    CL_TAKE_V_UP
} cl_take;

/* Rows of names leave out what is 0. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

/* Source names of a role. %L is the layer, %E the expert; an expert role without %E is one stacked tensor. */
typedef struct cl_name {
    cl_role role;
    const char *pattern; /* NULL ends a list */
    cl_take take;
    bool turned; /* the source is [.., in, out] */
} cl_name;

/* What config.json's class assumes where a key is absent. */
typedef struct cl_defaults {
    int kv_heads; /* 0: as many as heads */
    int head_dim; /* 0: hidden_size / heads */
    double eps, theta;
    /* share of a head that is rotated where partial_rotary_factor and rotary_dim do not say; 0: all */
    double rotary;
    cl_rope_pairing pairing;
    const cl_rope_params
        *rope; /* the scaling where the configuration has none; GGUF, which never says, rounds its yarn the same
                                   way. NULL: none */
} cl_defaults;

enum { CL_FAM_TYPES = 3, CL_FAM_ARCHITECTURES = 4 };

typedef struct cl_family {
    const char *name;                /* config.json's model_type; becomes cl_spec.family */
    const char *types[CL_FAM_TYPES]; /* further model_types: other names, and those of multimodal models around it */
    const char *architectures[CL_FAM_ARCHITECTURES]; /* config.json's architectures, one of them */
    const char *gguf_arch;                           /* general.architecture; NULL: another family reads these files */
    bool experts; /* a GGUF with the same architecture name, but without experts, is another family */
    /* GGUF holds the rows of q and k so that numbers that rotate together are neighbours */
    bool gguf_pairs;
    /* the family's functions fill in heads and rotary tables (cl_config_rope, cl_metadata_rope): of the common keys
     * only the number of heads is read, kv_heads and head_dim are still 1 */
    bool own_attention;
    /* tensors of layers past the last one (they predict further tokens) are ignored with a note */
    bool extra_layers;
    cl_defaults defaults;
    const cl_name *hf_names, *gguf_names; /* own names, looked at before the common ones; NULL: none */
    /* Change *s, made from the common keys. NULL: nothing differs. */
    cl_code (*config)(const json_t *config, cl_spec *s, cl_err *err);
    cl_code (*metadata)(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err);
} cl_family;

extern const cl_family cl_fam_llama, cl_fam_mistral, cl_fam_mixtral, cl_fam_olmoe, cl_fam_qwen2, cl_fam_qwen3,
    cl_fam_qwen3_moe, cl_fam_gpt_oss, cl_fam_llama4, cl_fam_glm4_moe, cl_fam_minimax_m2, cl_fam_deepseek_v2,
    cl_fam_deepseek_v3;

/* By config.json's model_type and architectures, or by GGUF's general.architecture; CL_E_INPUT lists the known ones. */
cl_code cl_family_of_config(const json_t *config, const cl_family **out, cl_err *err);
cl_code cl_family_of_gguf(const cl_gguf *g, const cl_family **out, cl_err *err);

/* The nth name (from 0) of a role, NULL past the last one; cl_family_name is its pattern. */
const cl_name *cl_family_source(const cl_family *f, bool gguf, cl_role role, int nth);
const char *cl_family_name(const cl_family *f, bool gguf, cl_role role, int nth);
/* pattern with layer and expert filled in; false if it does not fit. */
bool cl_name_fill(const char *pattern, int layer, int64_t expert, char *out, size_t room);
bool cl_name_per_expert(const char *pattern);
/* Tensors that some checkpoints carry and nobody needs (their content follows from the configuration). */
bool cl_name_ignored(const char *name);

/* --- config.c --- */
/* The translation of a config.json; generation (generation_config.json) may be NULL. The vocabulary is still the
 * config's: cl_spec_settle follows when its real size is known. On failure *s is empty. */
cl_code cl_config_spec(const json_t *config, const json_t *generation, cl_spec *s, const cl_family **f, cl_err *err);
/* The same from a file config.json, or from a folder that holds one (and maybe a generation_config.json). *text (the
 * file's) and *config are the caller's. */
cl_code cl_config_load(const char *path, char **text, json_t **config, cl_spec *s, const cl_family **f, cl_err *err);
/* cl_import_config, and the file's text, which is the caller's. */
cl_code cl_config_import(const char *path, char **text, cl_spec *spec, cl_formats *formats, cl_err *err);
/* The part that describes the language model: text_config of a multimodal one, else config itself. Families get this
 * one. */
const json_t *cl_config_text(const json_t *config);
/* Drops the special ids that are no rows of the vocabulary (defaults of a class that nobody changed), then checks the
 * spec. */
cl_code cl_spec_settle(cl_spec *s, cl_err *err);
/* n_layers equal layers of plain attention and dense MLP. */
cl_code cl_spec_layers(cl_spec *s, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t width, cl_err *err);

/* Helpers for families. A value other than `only` changes the maths in a way that the engine does not know. */
cl_code cl_config_only(const json_t *config, const char *key, double only, cl_err *err);
cl_code cl_config_only_text(const json_t *config, const char *key, const char *only, cl_err *err);
/* Windows: `window` keys (0: none) for the layers that layer_types calls `kind` ("sliding_attention",
 * "chunked_attention"; the others must be full_attention) or, without that list, for those where slides[i]. */
cl_code cl_config_layer_windows(const json_t *config, const char *kind, int64_t window, const bool *slides, cl_spec *s,
                                cl_err *err);
/* The same for sliding_attention; without layer_types for the layers from `from` on. */
cl_code cl_config_windows(const json_t *config, int64_t window, int64_t from, cl_spec *s, cl_err *err);
/* attention_bias (absent: `bias`): q, k and v, and with `o` also o. */
cl_code cl_config_attention_bias(const json_t *config, bool bias, bool o, cl_spec *s, cl_err *err);
/* num_experts or num_local_experts, and num_experts_per_tok, into f, which is left as it is where a key is absent. */
cl_code cl_config_experts(const json_t *config, cl_ffn *f, cl_err *err);
/* Entry i of the list `key` as one of s's layers. */
cl_code cl_config_layer(const json_t *list, size_t i, const char *key, const cl_spec *s, int *layer, cl_err *err);
/* The keys of DeepSeek's configurations and of those that took them over: n_routed_experts, num_experts_per_tok,
 * moe_intermediate_size, n_shared_experts, n_group, topk_group, routed_scaling_factor, norm_topk_prob (absent: as in
 * ffn, where shared_width counts experts). Then layers from first_k_dense_replace (absent: `dense`) on become this
 * mixture. Without a group_best the keys of groups are not looked at. */
cl_code cl_config_routed(const json_t *config, cl_ffn ffn, int64_t dense, cl_spec *s, cl_err *err);

/* --- config_rope.c --- */
/* Appends the rotary table over `dims` numbers that the configuration's keys describe, with f's defaults; *p, if not
 * NULL, is what they said (kind, factor, mscale_all), for softmax scales that depend on it. */
cl_code cl_config_rope(const json_t *config, const cl_family *f, int64_t dims, cl_spec *s, cl_rope_params *p,
                       cl_err *err);
/* How many numbers of a head are rotated: rotary_dim, partial_rotary_factor, or f's default. */
cl_code cl_config_rotary_dims(const json_t *config, const cl_family *f, int64_t head_dim, int64_t *dims, cl_err *err);

/* Appends the table that p describes. */
cl_code cl_spec_rope(cl_spec *s, const cl_rope_params *p, cl_rope_pairing pairing, cl_err *err);

/* --- config_quant.c --- */
/* Refuses a quantization_config that no importer reads, with a remedy. config: the whole one. */
cl_code cl_config_quant_known(const json_t *config, cl_err *err);
/* The formats of a checkpoint's weights: its dtype (bf16 where it has none), and what quantization_config says. */
cl_code cl_config_formats(const json_t *config, cl_formats *out, cl_err *err);

/* --- metadata.c --- */
/* The translation of GGUF metadata, like cl_config_spec. */
cl_code cl_metadata_spec(const cl_gguf *g, cl_spec *s, const cl_family **f, cl_err *err);
/* ARCH.KEY as an integer in [min, max]; an array holds one per layer. *out is left alone when absent and not
 * required. */
cl_code cl_metadata_int(const cl_gguf *g, const char *arch, const char *key, int layer, bool required, int64_t min,
                        int64_t max, int64_t *out, cl_err *err);
cl_code cl_metadata_double(const cl_gguf *g, const char *arch, const char *key, bool required, double min, double max,
                           double *out, cl_err *err);
/* A tensor by pattern (%L: layer). */
bool cl_metadata_tensor(const cl_gguf *g, const char *pattern, int layer);
/* Like cl_config_rope. yarn_log_multiplier is read as mscale and mscale_all (rope.h), they cancel in the table's
 * scale. */
cl_code cl_metadata_rope(const cl_gguf *g, const cl_family *f, int64_t dims, cl_spec *s, cl_rope_params *p,
                         cl_err *err);
/* attention.sliding_window (absent: `window`, 0: required) for all layers but every `period`-th; newer files say in
 * attention.sliding_window_pattern which: another period, or a list. */
cl_code cl_metadata_windows(const cl_gguf *g, const char *arch, int64_t window, int64_t period, cl_spec *s,
                            cl_err *err);
/* --- metadata_experts.c --- */
/* Expert layers (those that have a router). Where the file does not say, `like` does: scoring, renormalise,
 * weight_scale, weight_input, glu and its numbers, group_best, biases (which are also there when their tensors are).
 * The shared expert follows from keys and tensors. */
cl_code cl_metadata_experts(const cl_gguf *g, const char *arch, const cl_ffn *like, cl_spec *s, cl_err *err);

/* Every layer becomes the mixture f, its experts as wide as its MLP was. */
void cl_spec_experts(cl_spec *s, cl_ffn f);
void cl_spec_qk_norm(cl_spec *s, cl_qk_norm kind);

#endif
