/* family.c: the list of families, and the names that most of them share. */
#include "family.h"

#include <stdio.h>
#include <string.h>

#include "chipline/util.h"

static const cl_family *const families[] = {
    &cl_fam_llama,      &cl_fam_mistral,     &cl_fam_mixtral,     &cl_fam_olmoe,  &cl_fam_qwen2,
    &cl_fam_qwen3,      &cl_fam_qwen3_moe,   &cl_fam_gpt_oss,     &cl_fam_llama4, &cl_fam_glm4_moe,
    &cl_fam_minimax_m2, &cl_fam_deepseek_v2, &cl_fam_deepseek_v3,
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* The hub's names of Llama; what transformers' classes derived from it use too. */
static const cl_name hf_common[] = {
    {CL_T_EMBED, "model.embed_tokens.weight"},
    {CL_T_ATTN_NORM, "model.layers.%L.input_layernorm.weight"},
    {CL_T_Q, "model.layers.%L.self_attn.q_proj.weight"},
    {CL_T_K, "model.layers.%L.self_attn.k_proj.weight"},
    {CL_T_V, "model.layers.%L.self_attn.v_proj.weight"},
    {CL_T_O, "model.layers.%L.self_attn.o_proj.weight"},
    {CL_T_Q_BIAS, "model.layers.%L.self_attn.q_proj.bias"},
    {CL_T_K_BIAS, "model.layers.%L.self_attn.k_proj.bias"},
    {CL_T_V_BIAS, "model.layers.%L.self_attn.v_proj.bias"},
    {CL_T_O_BIAS, "model.layers.%L.self_attn.o_proj.bias"},
    {CL_T_Q_NORM, "model.layers.%L.self_attn.q_norm.weight"},
    {CL_T_K_NORM, "model.layers.%L.self_attn.k_norm.weight"},
    {CL_T_FFN_NORM, "model.layers.%L.post_attention_layernorm.weight"},
    {CL_T_GATE, "model.layers.%L.mlp.gate_proj.weight"},
    {CL_T_UP, "model.layers.%L.mlp.up_proj.weight"},
    {CL_T_DOWN, "model.layers.%L.mlp.down_proj.weight"},
    {CL_T_GATE_BIAS, "model.layers.%L.mlp.gate_proj.bias"},
    {CL_T_UP_BIAS, "model.layers.%L.mlp.up_proj.bias"},
    {CL_T_DOWN_BIAS, "model.layers.%L.mlp.down_proj.bias"},
    {CL_T_ROUTER, "model.layers.%L.mlp.gate.weight"},
    {CL_T_SELECT_BIAS, "model.layers.%L.mlp.gate.e_score_correction_bias"},
    {CL_T_EXPERT_GATE, "model.layers.%L.mlp.experts.%E.gate_proj.weight"},
    {CL_T_EXPERT_UP, "model.layers.%L.mlp.experts.%E.up_proj.weight"},
    {CL_T_EXPERT_DOWN, "model.layers.%L.mlp.experts.%E.down_proj.weight"},
    {CL_T_SHARED_GATE, "model.layers.%L.mlp.shared_experts.gate_proj.weight"},
    {CL_T_SHARED_UP, "model.layers.%L.mlp.shared_experts.up_proj.weight"},
    {CL_T_SHARED_DOWN, "model.layers.%L.mlp.shared_experts.down_proj.weight"},
    {CL_T_FINAL_NORM, "model.norm.weight"},
    {CL_T_HEAD, "lm_head.weight"},
    {CL_ROLES, NULL},
};

/* GGUF's names; experts one by one in files older than stacked experts, gate and up in one tensor in newer ones. */
static const cl_name gguf_common[] = {
    {CL_T_EMBED, "token_embd.weight"},
    {CL_T_ATTN_NORM, "blk.%L.attn_norm.weight"},
    {CL_T_Q, "blk.%L.attn_q.weight"},
    {CL_T_K, "blk.%L.attn_k.weight"},
    {CL_T_V, "blk.%L.attn_v.weight"},
    {CL_T_O, "blk.%L.attn_output.weight"},
    {CL_T_Q_BIAS, "blk.%L.attn_q.bias"},
    {CL_T_K_BIAS, "blk.%L.attn_k.bias"},
    {CL_T_V_BIAS, "blk.%L.attn_v.bias"},
    {CL_T_O_BIAS, "blk.%L.attn_output.bias"},
    {CL_T_Q_NORM, "blk.%L.attn_q_norm.weight"},
    {CL_T_K_NORM, "blk.%L.attn_k_norm.weight"},
    {CL_T_SINKS, "blk.%L.attn_sinks.weight"},
    {CL_T_FFN_NORM, "blk.%L.ffn_norm.weight"},
    {CL_T_GATE, "blk.%L.ffn_gate.weight"},
    {CL_T_UP, "blk.%L.ffn_up.weight"},
    {CL_T_DOWN, "blk.%L.ffn_down.weight"},
    {CL_T_GATE_BIAS, "blk.%L.ffn_gate.bias"},
    {CL_T_UP_BIAS, "blk.%L.ffn_up.bias"},
    {CL_T_DOWN_BIAS, "blk.%L.ffn_down.bias"},
    {CL_T_ROUTER, "blk.%L.ffn_gate_inp.weight"},
    {CL_T_ROUTER_BIAS, "blk.%L.ffn_gate_inp.bias"},
    {CL_T_SELECT_BIAS, "blk.%L.exp_probs_b.bias"},
    {CL_T_EXPERT_GATE, "blk.%L.ffn_gate_exps.weight"},
    {CL_T_EXPERT_GATE, "blk.%L.ffn_gate.%E.weight"},
    {CL_T_EXPERT_GATE, "blk.%L.ffn_gate_up_exps.weight", CL_TAKE_FIRST, false},
    {CL_T_EXPERT_UP, "blk.%L.ffn_up_exps.weight"},
    {CL_T_EXPERT_UP, "blk.%L.ffn_up.%E.weight"},
    {CL_T_EXPERT_UP, "blk.%L.ffn_gate_up_exps.weight", CL_TAKE_SECOND, false},
    {CL_T_EXPERT_DOWN, "blk.%L.ffn_down_exps.weight"},
    {CL_T_EXPERT_DOWN, "blk.%L.ffn_down.%E.weight"},
    {CL_T_EXPERT_GATE_BIAS, "blk.%L.ffn_gate_exps.bias"},
    {CL_T_EXPERT_GATE_BIAS, "blk.%L.ffn_gate_up_exps.bias", CL_TAKE_FIRST, false},
    {CL_T_EXPERT_UP_BIAS, "blk.%L.ffn_up_exps.bias"},
    {CL_T_EXPERT_UP_BIAS, "blk.%L.ffn_gate_up_exps.bias", CL_TAKE_SECOND, false},
    {CL_T_EXPERT_DOWN_BIAS, "blk.%L.ffn_down_exps.bias"},
    {CL_T_SHARED_GATE, "blk.%L.ffn_gate_shexp.weight"},
    {CL_T_SHARED_UP, "blk.%L.ffn_up_shexp.weight"},
    {CL_T_SHARED_DOWN, "blk.%L.ffn_down_shexp.weight"},
    {CL_T_FINAL_NORM, "output_norm.weight"},
    {CL_T_HEAD, "output.weight"},
    {CL_ROLES, NULL},
};

static void append(char *out, size_t room, const char *name)
{
    size_t at = strlen(out);
    snprintf(out + at, room - at, "%s%s", at ? ", " : "", name);
}

static void known(bool gguf, char *out, size_t room)
{
    out[0] = 0;
    for (int i = 0; i < N_FAMILIES; i++) {
        const cl_family *f = families[i];
        const char *name = gguf ? f->gguf_arch : f->name;
        bool again = !name;
        for (int j = 0; j < i && !again; j++)
            again = gguf && families[j]->gguf_arch && strcmp(families[j]->gguf_arch, name) == 0;
        if (!again) append(out, room, name);
        for (int k = 0; !gguf && k < CL_FAM_TYPES && f->types[k]; k++) append(out, room, f->types[k]);
    }
}

static bool is_type(const cl_family *f, const char *type)
{
    bool yes = strcmp(f->name, type) == 0;
    for (int i = 0; i < CL_FAM_TYPES && f->types[i]; i++) yes = yes || strcmp(f->types[i], type) == 0;
    return yes;
}

/* Of the configuration's architectures, where it has any, the family must have one. */
static cl_code check_architecture(const json_t *config, const cl_family *f, cl_err *err)
{
    const json_t *list = NULL;
    cl_code c = cl_json_array(config, "architectures", false, &list, err);
    if (c != CL_OK || json_array_size(list) == 0) return c;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *a = json_string_value(json_array_get(list, i));
        for (int k = 0; a && k < CL_FAM_ARCHITECTURES && f->architectures[k]; k++)
            if (strcmp(a, f->architectures[k]) == 0) return CL_OK;
    }
    const char *a = json_string_value(json_array_get(list, 0));
    return cl_fail(err, CL_E_INPUT, "architectures: is %.100s, must be %s", a ? a : "not a text", f->architectures[0]);
}

/* A multimodal configuration names the whole model's class; its text_config may name the language model's. */
cl_code cl_family_of_config(const json_t *config, const cl_family **out, cl_err *err)
{
    char list[512];
    const char *type = NULL, *inner = NULL;
    const json_t *text = cl_config_text(config);
    cl_code c = cl_json_str(config, "model_type", true, &type, err);
    if (c == CL_OK) c = cl_json_str(text, "model_type", false, &inner, err);
    if (c != CL_OK) return c;
    const cl_family *f = NULL;
    for (int i = 0; i < N_FAMILIES; i++)
        if (is_type(families[i], type) && is_type(families[i], inner ? inner : type)) f = families[i];
    if (!f) {
        known(false, list, sizeof list);
        return cl_fail(err, CL_E_INPUT, "model_type: %.100s is not a known family (known: %s)", type, list);
    }
    c = check_architecture(config, f, err);
    if (c == CL_OK && text != config) c = check_architecture(text, f, err);
    if (c == CL_OK) *out = f;
    return c;
}

cl_code cl_family_of_gguf(const cl_gguf *g, const cl_family **out, cl_err *err)
{
    char list[512], key[128];
    const char *arch;
    size_t n;
    if (!cl_gguf_str(g, "general.architecture", &arch, &n))
        return cl_fail(err, CL_E_INPUT, "general.architecture: missing, or not a text");
    for (int i = 0; i < N_FAMILIES; i++) {
        const cl_family *f = families[i];
        if (!f->gguf_arch || strlen(f->gguf_arch) != n || memcmp(f->gguf_arch, arch, n) != 0) continue;
        uint64_t experts = 0;
        snprintf(key, sizeof key, "%s.expert_count", f->gguf_arch);
        cl_gguf_u64(g, key, &experts);
        if (f->experts != (experts > 0)) continue;
        *out = f;
        return CL_OK;
    }
    known(true, list, sizeof list);
    if (!cl_readable_name(arch, n, 100))
        return cl_fail(err, CL_E_INPUT, "general.architecture: is not a name (known: %s)", list);
    return cl_fail(err, CL_E_INPUT, "general.architecture: %.*s is not a known family (known: %s)", (int)n, arch, list);
}

const cl_name *cl_family_source(const cl_family *f, bool gguf, cl_role role, int nth)
{
    const cl_name *lists[] = {gguf ? f->gguf_names : f->hf_names, gguf ? gguf_common : hf_common};
    for (int l = 0; l < 2; l++) {
        bool own = false;
        for (const cl_name *n = lists[l]; n && n->pattern; n++) {
            if (n->role != role) continue;
            if (nth-- == 0) return n;
            own = true;
        }
        if (own) return NULL; /* own names replace the common ones */
    }
    return NULL;
}

const char *cl_family_name(const cl_family *f, bool gguf, cl_role role, int nth)
{
    const cl_name *n = cl_family_source(f, gguf, role, nth);
    return n ? n->pattern : NULL;
}

bool cl_name_per_expert(const char *pattern) { return strstr(pattern, "%E") != NULL; }

bool cl_name_fill(const char *pattern, int layer, int64_t expert, char *out, size_t room)
{
    size_t at = 0;
    for (const char *p = pattern; *p && at < room; p++) {
        if (p[0] == '%' && (p[1] == 'L' || p[1] == 'E')) {
            at += (size_t)snprintf(out + at, room - at, "%lld", p[1] == 'L' ? (long long)layer : (long long)expert);
            p++;
        } else {
            out[at++] = *p;
        }
    }
    if (at >= room) return false;
    out[at] = 0;
    return true;
}

bool cl_name_ignored(const char *name)
{
    static const char *const tails[] = {"rotary_emb.inv_freq", "rope_freqs.weight"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t m = strlen(tails[i]);
        if (n >= m && strcmp(name + n - m, tails[i]) == 0) return true;
    }
    return false;
}

void cl_spec_experts(cl_spec *s, cl_ffn f)
{
    for (int i = 0; i < s->n_layers; i++) {
        f.width = s->layers[i].ffn.width;
        s->layers[i].ffn = f;
    }
}

void cl_spec_qk_norm(cl_spec *s, cl_qk_norm kind)
{
    for (int i = 0; i < s->n_layers; i++) s->layers[i].attn.qk_norm = kind;
}
