/* family.h: what a family of checkpoints is to the importers: how it is recognised, what its configuration means, and what its
 * tensors are called. Adding a family is one file fam_NAME.c with its cl_family, and one line in family.c's list.
 *
 * A configuration is read in two steps: the common keys (config.c, metadata.c) give sizes, rotary table and plain layers;
 * the family's own function then says what differs. Local. */
#ifndef CHIPLINE_IMPORT_FAMILY_H
#define CHIPLINE_IMPORT_FAMILY_H

#include "chipline/model.h"
#include "gguf.h"

/* Source names of a role. %L is the layer, %E the expert; an expert role without %E is one stacked tensor. */
typedef struct cl_name {
    cl_role role;
    const char *pattern; /* NULL ends a list */
} cl_name;

/* What config.json's class assumes where a key is absent. */
typedef struct cl_defaults {
    int kv_heads;     /* 0: as many as heads */
    int head_dim;     /* 0: hidden_size / heads */
    double eps, theta;
} cl_defaults;

typedef struct cl_family {
    const char *name;         /* config.json's model_type; becomes cl_spec.family */
    const char *architecture; /* config.json's architectures */
    const char *gguf_arch;    /* general.architecture; NULL: another family reads these files */
    bool experts;             /* a GGUF with the same architecture name, but without experts, is another family */
    bool gguf_pairs;          /* GGUF holds the rows of q and k so that numbers that rotate together are neighbours */
    cl_defaults defaults;
    const cl_name *hf_names, *gguf_names; /* own names, looked at before the common ones; NULL: none */
    /* Change *s, made from the common keys. NULL: nothing differs. */
    cl_code (*config)(const json_t *config, cl_spec *s, cl_err *err);
    cl_code (*metadata)(const cl_gguf *g, const char *arch, cl_spec *s, cl_err *err);
} cl_family;

extern const cl_family cl_fam_llama, cl_fam_mistral, cl_fam_mixtral, cl_fam_olmoe, cl_fam_qwen2, cl_fam_qwen3, cl_fam_qwen3_moe;

/* By config.json's model_type and architectures, or by GGUF's general.architecture; CL_E_INPUT lists the known ones. */
cl_code cl_family_of_config(const json_t *config, const cl_family **out, cl_err *err);
cl_code cl_family_of_gguf(const cl_gguf *g, const cl_family **out, cl_err *err);

/* The nth name (from 0) of a role, NULL past the last one. */
const char *cl_family_name(const cl_family *f, bool gguf, cl_role role, int nth);
/* pattern with layer and expert filled in; false if it does not fit. */
bool cl_name_fill(const char *pattern, int layer, int64_t expert, char *out, size_t room);
bool cl_name_per_expert(const char *pattern);
/* Tensors that some checkpoints carry and nobody needs (their content follows from the configuration). */
bool cl_name_ignored(const char *name);

/* --- config.c --- */
/* The translation of a config.json; generation (generation_config.json) may be NULL. The vocabulary is still the config's:
 * cl_spec_settle follows when its real size is known. On failure *s is empty. */
cl_code cl_config_spec(const json_t *config, const json_t *generation, cl_spec *s, const cl_family **f, cl_err *err);
/* The same from a file config.json, or from a folder that holds one (and maybe a generation_config.json). *text (the file's)
 * and *config are the caller's. */
cl_code cl_config_load(const char *path, char **text, json_t **config, cl_spec *s, const cl_family **f, cl_err *err);
/* Drops the special ids that are no rows of the vocabulary (defaults of a class that nobody changed), then checks the spec. */
cl_code cl_spec_settle(cl_spec *s, cl_err *err);
/* Sizes and the rotary table are set: makes n_layers equal layers of plain attention and dense MLP. */
cl_code cl_spec_layers(cl_spec *s, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t width, cl_err *err);

/* Helpers for families. Windows: `window` keys (0: none) for the layers that layer_types calls sliding_attention or, without
 * that list, for those from `from` on. */
cl_code cl_config_windows(const json_t *config, int64_t window, int64_t from, cl_spec *s, cl_err *err);
/* attention_bias: q, k, v and o. */
cl_code cl_config_attention_bias(const json_t *config, cl_spec *s, cl_err *err);
/* num_experts or num_local_experts, and num_experts_per_tok; *experts and *top_k are kept where a key is absent. */
cl_code cl_config_experts(const json_t *config, int64_t *experts, int64_t *top_k, cl_err *err);

/* --- metadata.c --- */
/* The translation of GGUF metadata, like cl_config_spec. */
cl_code cl_metadata_spec(const cl_gguf *g, cl_spec *s, const cl_family **f, cl_err *err);
/* ARCH.KEY as an integer in [min, max]; an array holds one per layer. *out is left alone when absent and not required. */
cl_code cl_metadata_int(const cl_gguf *g, const char *arch, const char *key, int layer, bool required, int64_t min, int64_t max,
                        int64_t *out, cl_err *err);
cl_code cl_metadata_double(const cl_gguf *g, const char *arch, const char *key, bool required, double min, double max,
                           double *out, cl_err *err);
/* Expert layers (those that have a router); renormalise unless ARCH.expert_weights_norm says otherwise. */
cl_code cl_metadata_experts(const cl_gguf *g, const char *arch, bool renormalise, cl_spec *s, cl_err *err);

/* Layer l becomes a mixture. */
void cl_layer_experts(cl_layer *l, int64_t experts, int64_t top_k, int64_t width, bool renormalise);
void cl_spec_qk_norm(cl_spec *s, cl_qk_norm kind);

#endif
