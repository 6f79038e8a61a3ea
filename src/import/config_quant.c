/* config_quant.c: what a config.json says about the number formats of its weights: dtype, and quantization_config in
 * the three forms that importers read: "mxfp4" (gpt-oss: the experts), "fp8" in tiles of 128 x 128 (DeepSeek-V3:
 * everything linear), and compressed-tensors' "pack-quantized" int4 in groups of 32 (Kimi-K2-Thinking: what its
 * ignore list leaves, the experts). */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "family.h"

static const char key[] = "quantization_config";

/* A multimodal model has it inside text_config or beside. */
static cl_code quant_object(const json_t *config, const json_t **q, cl_err *err)
{
    *q = NULL;
    cl_code c = cl_json_object(cl_config_text(config), key, false, q, err);
    return c == CL_OK && !*q ? cl_json_object(config, key, false, q, err) : c;
}

static cl_code refuse(const char *what, const char *detail, cl_err *err)
{
    return cl_fail(err, CL_E_INPUT, "%s: %.60s%s%.60s is not supported (convert the unquantised checkpoint, or a GGUF)",
                   key, what, *detail ? ", " : "", detail);
}

static bool is_int(const json_t *j, json_int_t n) { return json_is_integer(j) && json_integer_value(j) == n; }
static bool is_text(const json_t *j, const char *s)
{
    return json_is_string(j) && strcmp(json_string_value(j), s) == 0;
}

static bool fp8_tiles(const json_t *q)
{
    const json_t *block = json_object_get(q, "weight_block_size"), *fmt = json_object_get(q, "fmt");
    return json_array_size(block) == 2 && is_int(json_array_get(block, 0), 128) &&
           is_int(json_array_get(block, 1), 128) && (!fmt || is_text(fmt, "e4m3") || is_text(fmt, "float8_e4m3fn"));
}

/* Every group of layers: symmetric int4 weights in groups of 32 along a row, activations as they are, all linear
 * layers. */
static bool packed_int4(const json_t *q)
{
    const char *name;
    json_t *g;
    const json_t *groups = json_object_get(q, "config_groups");
    json_object_foreach((json_t *)groups, name, g)
    {
        const json_t *w = json_object_get(g, "weights"), *in = json_object_get(g, "input_activations"),
                     *type = json_object_get(w, "type"), *strategy = json_object_get(w, "strategy"),
                     *symmetric = json_object_get(w, "symmetric"), *targets = json_object_get(g, "targets");
        if (!is_int(json_object_get(w, "num_bits"), 4) || !is_int(json_object_get(w, "group_size"), 32)) return false;
        if ((type && !is_text(type, "int")) || (strategy && !is_text(strategy, "group"))) return false;
        if (symmetric && !json_is_true(symmetric)) return false;
        if ((in && !json_is_null(in)) || (targets && !is_text(json_array_get(targets, 0), "Linear"))) return false;
    }
    return json_object_size(groups) > 0;
}

typedef enum quant { PLAIN, MXFP4, FP8, INT4 } quant;

static cl_code quant_of(const json_t *q, quant *out, cl_err *err)
{
    const char *method = NULL, *format = "";
    *out = PLAIN;
    if (!q) return CL_OK;
    cl_code c = cl_json_str(q, "quant_method", false, &method, err);
    if (c == CL_OK) c = cl_json_str(q, "format", false, &format, err);
    if (c != CL_OK) return cl_fail_prefix(err, "%s", key);
    if (!method) return refuse("this way of quantising", "", err);
    if (strcmp(method, "mxfp4") == 0) *out = MXFP4;
    else if (strcmp(method, "fp8") == 0 && fp8_tiles(q)) *out = FP8;
    else if (strcmp(method, "fp8") == 0)
        return refuse(method, "other than e4m3 with a weight_block_size of [128, 128]", err);
    else if (strcmp(method, "compressed-tensors") != 0 || strcmp(format, "pack-quantized") != 0)
        return refuse(method, format, err);
    else if (packed_int4(q)) *out = INT4;
    else return refuse("compressed-tensors", "pack-quantized other than symmetric int4 in groups of 32", err);
    return CL_OK;
}

cl_code cl_config_quant_known(const json_t *config, cl_err *err)
{
    const json_t *q;
    quant kind;
    cl_code c = quant_object(config, &q, err);
    return c == CL_OK ? quant_of(q, &kind, err) : c;
}

/* --- compressed-tensors' ignore list: names of modules, or "re:" and an expression that must match from a name's
 * start --- */

static cl_code expression_matches(const char *re, const char *name, bool *yes, cl_err *err)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *p = pcre2_compile((PCRE2_SPTR)re, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_UTF, &code, &at, NULL);
    if (!p) return cl_fail(err, CL_E_INPUT, "%s: ignore: %.60s is not a regular expression", key, re);
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(p, NULL);
    *yes = m && pcre2_match(p, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, 0, m, NULL) >= 0;
    pcre2_match_data_free(m);
    pcre2_code_free(p);
    return m ? CL_OK : cl_fail(err, CL_E_FIT, "%s: no memory for an expression", key);
}

static cl_code ignored(const json_t *list, const char *name, bool *yes, cl_err *err)
{
    *yes = false;
    for (size_t i = 0; i < json_array_size(list) && !*yes; i++) {
        const char *entry = json_string_value(json_array_get(list, i));
        if (!entry) return cl_fail(err, CL_E_INPUT, "%s: ignore: entry %zu is not a text", key, i);
        cl_code c = CL_OK;
        if (strncmp(entry, "re:", 3) == 0) c = expression_matches(entry + 3, name, yes, err);
        else *yes = strcmp(entry, name) == 0;
        if (c != CL_OK) return c;
    }
    return CL_OK;
}

/* One module of each kind stands for its kind; the linear ones must go together, as cl_formats has one format for
 * them. */
static cl_code int4_formats(const json_t *q, cl_formats *f, cl_err *err)
{
    static const char *const linear[] = {"model.layers.1.self_attn.o_proj", "model.layers.1.mlp.shared_experts.up_proj",
                                         "model.layers.0.mlp.up_proj"};
    enum { LINEAR = sizeof linear / sizeof *linear };
    const json_t *list = NULL;
    bool head, experts, plain[LINEAR];
    cl_code c = cl_json_array(q, "ignore", false, &list, err);
    if (c != CL_OK) return cl_fail_prefix(err, "%s", key);
    c = ignored(list, "lm_head", &head, err);
    if (c == CL_OK) c = ignored(list, "model.layers.1.mlp.experts.0.up_proj", &experts, err);
    for (int i = 0; i < LINEAR && c == CL_OK; i++) c = ignored(list, linear[i], &plain[i], err);
    if (c != CL_OK) return c;
    if (!head) return cl_fail(err, CL_E_INPUT, "%s: ignore: a quantised lm_head is not supported", key);
    for (int i = 1; i < LINEAR; i++)
        if (plain[i] != plain[0])
            return cl_fail(err, CL_E_INPUT,
                           "%s: ignore: has %s, but not %s (attention, shared experts and dense layers must be alike)",
                           key, linear[plain[0] ? 0 : i], linear[plain[0] ? i : 0]);
    if (!plain[0]) f->linear = CL_INT4;
    if (!experts) f->experts = CL_INT4;
    return CL_OK;
}

static cl_code dtype_of(const json_t *config, cl_format *out, cl_err *err)
{
    /* "auto" says nothing; of a checkpoint in FP8 it is quantization_config that says which weights are. */
    static const struct {
        const char *name;
        cl_format format;
    } known[] = {{"float32", CL_F32},
                 {"float16", CL_F16},
                 {"bfloat16", CL_BF16},
                 {"float8_e4m3fn", CL_BF16},
                 {"auto", CL_BF16}};
    static const char *const keys[] = {"dtype", "torch_dtype"}; /* the first is transformers 5's */
    const json_t *const places[] = {cl_config_text(config), config};
    const char *name = NULL, *said = "";
    cl_code c = CL_OK;
    for (int i = 0; i < 4 && c == CL_OK && !name; i++)
        c = cl_json_str(places[i / 2], said = keys[i % 2], false, &name, err);
    *out = CL_BF16;
    if (c != CL_OK || !name) return c;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        *out = known[i].format;
        return CL_OK;
    }
    return cl_fail(err, CL_E_INPUT,
                   "%s: %.60s is not supported (known: float32, float16, bfloat16, float8_e4m3fn, auto)", said, name);
}

cl_code cl_config_formats(const json_t *config, cl_formats *out, cl_err *err)
{
    const json_t *q;
    quant kind = PLAIN;
    cl_format dtype;
    cl_code c = dtype_of(config, &dtype, err);
    if (c == CL_OK) c = quant_object(config, &q, err);
    if (c == CL_OK) c = quant_of(q, &kind, err);
    if (c != CL_OK) return c;
    *out = (cl_formats){.tables = dtype, .linear = dtype, .experts = dtype, .routers = dtype};
    if (kind == MXFP4) out->experts = CL_MXFP4;
    if (kind == FP8) out->linear = out->experts = CL_FP8;
    return kind == INT4 ? int4_formats(q, out, err) : CL_OK;
}
