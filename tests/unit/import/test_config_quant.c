/* The formats that a configuration's dtype and quantization_config stand for, and which of them are refused. */
#include "configs.h"
#include "family.h"
#include "files.h"
#include "suite.h"

#define INT4                                                                                                        \
    "\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"group_0\":{"        \
    "\"targets\":["                                                                                                 \
    "\"Linear\"],"                                                                                                  \
    "\"input_activations\":null,\"weights\":{\"num_bits\":4,\"group_size\":32,\"symmetric\":true,\"type\":\"int\"," \
    "\"strategy\":\"group\"}}}"
#define KIMI "\"re:.*self_attn.*\",\"re:.*shared_experts.*\",\"re:.*mlp\\\\.(gate|up|gate_up|down)_proj.*\""

static cl_code formats(const char *text, cl_formats *f, cl_err *err)
{
    json_error_t e;
    json_t *j = json_loads(text, 0, &e);
    if (!j) {
        fprintf(stderr, "%s: %s\n", text, e.text);
        abort();
    }
    cl_code c = cl_config_formats(j, f, err);
    json_decref(j);
    return c;
}

static void test_known(void)
{
    static const struct {
        const char *text;
        cl_format tables, linear, experts;
    } cases[] = {
        {"{}", CL_BF16, CL_BF16, CL_BF16},
        {"{\"dtype\":\"float32\",\"torch_dtype\":\"float16\",\"quantization_config\":null}", CL_F32, CL_F32, CL_F32},
        {"{\"torch_dtype\":\"float16\"}", CL_F16, CL_F16, CL_F16},
        {"{\"torch_dtype\":\"auto\"}", CL_BF16, CL_BF16, CL_BF16},
        {"{\"dtype\":\"float8_e4m3fn\"}", CL_BF16, CL_BF16, CL_BF16},
        {"{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"float8_e4m3fn\",\"weight_block_size\":[128,128]}"
         "}",
         CL_BF16, CL_FP8, CL_FP8},
        {"{\"torch_dtype\":\"float32\",\"text_config\":{\"torch_dtype\":\"float16\"}}", CL_F16, CL_F16, CL_F16},
        {"{\"torch_dtype\":\"float32\",\"text_config\":{}}", CL_F32, CL_F32, CL_F32},
        {"{\"quantization_config\":{\"quant_method\":\"mxfp4\",\"modules_to_not_convert\":[\"lm_head\"]}}", CL_BF16,
         CL_BF16, CL_MXFP4},
        {"{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}}",
         CL_BF16, CL_FP8, CL_FP8},
        {"{\"quantization_config\":{" INT4 ",\"ignore\":[\"lm_head\"," KIMI "]}}", CL_BF16, CL_BF16, CL_INT4},
        {"{\"text_config\":{\"quantization_config\":{" INT4 ",\"ignore\":[\"lm_head\"," KIMI "]}}}", CL_BF16, CL_BF16,
         CL_INT4},
        {"{\"quantization_config\":{" INT4 ",\"ignore\":[\"lm_head\",\"model.layers.1.mlp.experts.0.up_proj\"," KIMI
         "]}}",
         CL_BF16, CL_BF16, CL_BF16},
        {"{\"quantization_config\":{" INT4
         ",\"ignore\":[\"lm_head\",\"model.layers.1.self_attn.o_proj\",\"model.layers.1.mlp.shared_experts.up_proj\","
         "\"model.layers.0.mlp.up_proj\",\"re:experts\",\"re:odel\"]}}",
         CL_BF16, CL_BF16, CL_INT4},
        {"{\"quantization_config\":{" INT4 ",\"ignore\":[\"re:.*lm_head\"]}}", CL_BF16, CL_INT4, CL_INT4},
        {"{\"quantization_config\":{" INT4 ",\"ignore\":[\"lm_head\"," KIMI ",\"re:.*experts.*\"]}}", CL_BF16, CL_BF16,
         CL_BF16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_formats f;
        cl_err err = {0};
        cl_code c = formats(cases[i].text, &f, &err);
        if (c != CL_OK) fprintf(stderr, "%s: %s\n", cases[i].text, err.msg);
        CU_ASSERT_EQUAL_FATAL(c, CL_OK);
        CU_ASSERT(f.tables == cases[i].tables && f.linear == cases[i].linear && f.experts == cases[i].experts &&
                  f.routers == f.tables);
    }
}

static void test_refused(void)
{
    static const struct {
        const char *quant, *part;
    } cases[] = {
        {"5", "quantization_config: is an integer"},
        {"{}", "quantization_config: this way of quantising is not supported (convert the unquantised checkpoint, or a "
               "GGUF)"},
        {"{\"quant_method\":7}", "quantization_config: quant_method"},
        {"{\"quant_method\":\"gptq\"}", "quantization_config: gptq is not supported (convert"},
        {"{\"quant_method\":\"fp8\"}", "fp8, other than e4m3"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]}", "weight_block_size of [128, 128]"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128],\"fmt\":\"e5m2\"}", "fp8, other than e4m3"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\"}",
         "compressed-tensors, float-quantized is not supported (convert the unquantised checkpoint, or a GGUF)"},
        {"{\"quant_method\":\"compressed-tensors\"}", "compressed-tensors is not supported"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}",
         "other than symmetric int4 in groups of 32"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"a\":{\"weights\":"
         "{\"num_"
         "bits\":8,"
         "\"group_size\":32}}}}",
         "other than symmetric int4"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"a\":{\"weights\":"
         "{\"num_"
         "bits\":4,"
         "\"group_size\":32,\"symmetric\":false}}}}",
         "other than symmetric int4"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"a\":{\"weights\":"
         "{\"num_"
         "bits\":4,"
         "\"group_size\":128}}}}",
         "other than symmetric int4"},
        {"{" INT4 ",\"ignore\":[" KIMI "]}", "ignore: a quantised lm_head"},
        {"{" INT4 ",\"ignore\":[\"lm_head\",\"re:.*self_attn.*\"]}", "must be alike"},
        {"{" INT4 ",\"ignore\":[\"lm_head\",\"re:(\"]}", "ignore: ( is not a regular expression"},
        {"{" INT4 ",\"ignore\":[\"lm_head\",\"model.layers.0.mlp.up_proj\"]}", "must be alike"},
        {"{" INT4 ",\"ignore\":[\"lm_head\",\"model.layers.1.self_attn.o_proj\",\"model.layers.0.mlp.up_proj\"]}",
         "must be alike"},
        {"{" INT4 ",\"ignore\":[3]}", "ignore: entry 0 is not a text"},
        {"{" INT4 ",\"ignore\":3}", "ignore: is an integer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        cl_formats f;
        cl_err err = {0};
        snprintf(text, sizeof text, "{\"quantization_config\":%s}", cases[i].quant);
        CU_ASSERT_EQUAL(formats(text, &f, &err), CL_E_INPUT);
        const bool right = says(&err, cases[i].part);
        if (!right) fprintf(stderr, "case %zu: %s\n", i, text);
        CU_ASSERT(right);
    }
}

/* Every member of a group of layers that may be something else. */
static void test_groups(void)
{
    static const struct {
        const char *more, *weights;
        bool known;
    } cases[] = {{"", "", true},
                 {"", ",\"symmetric\":true,\"type\":\"int\",\"strategy\":\"group\"", true},
                 {"", ",\"symmetric\":false", false},
                 {"", ",\"symmetric\":null", false},
                 {"", ",\"type\":\"float\"", false},
                 {"", ",\"strategy\":\"channel\"", false},
                 {",\"input_activations\":null", "", true},
                 {",\"input_activations\":{}", "", false},
                 {",\"targets\":[\"Linear\"]", "", true},
                 {",\"targets\":[\"Conv\"]", "", false},
                 {",\"targets\":[]", "", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int second = 0; second < 2; second++) {
            char text[1024];
            cl_formats f;
            cl_err err = {0};
            snprintf(text, sizeof text,
                     "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
                     "\"ignore\":[\"lm_head\"],\"config_groups\":{%s\"b\":{\"weights\":{\"num_bits\":4,\"group_size\":"
                     "32%s}%s}}}}",
                     second ? "\"a\":{\"weights\":{\"num_bits\":4,\"group_size\":32}}," : "", cases[i].weights,
                     cases[i].more);
            cl_code c = formats(text, &f, &err);
            CU_ASSERT_EQUAL(c, cases[i].known ? CL_OK : CL_E_INPUT);
            if (c != CL_OK) CU_ASSERT(says(&err, "other than symmetric int4 in groups of 32"));
        }
}

static void test_dtypes(void)
{
    static const char *const bad[][2] = {{"{\"torch_dtype\":\"abc\"}",
                                          "torch_dtype: abc is not supported (known: float32, float16, "},
                                         {"{\"dtype\":\"int8\",\"torch_dtype\":\"float16\"}", "dtype: int8 is not"},
                                         {"{\"text_config\":{\"dtype\":\"float64\"}}", "dtype: float64 is not"},
                                         {"{\"dtype\":16}", "dtype: is an integer"},
                                         {"{\"text_config\":{\"quantization_config\":5}}",
                                          "quantization_config: is an integer"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cl_formats f;
        cl_err err = {0};
        CU_ASSERT_EQUAL(formats(bad[i][0], &f, &err), CL_E_INPUT);
        CU_ASSERT(says(&err, bad[i][1]) && strncmp(err.msg, bad[i][1], strlen(bad[i][1])) == 0);
    }
}

/* The same answer where a checkpoint is translated, before any format is asked for. */
static void test_translation(void)
{
    static const refused cases[] = {
        {"llama4",
         "\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\"},\"text_"
         "config\":{}",
         "quantization_config: compressed-tensors, float-quantized is not supported"},
        {"gpt_oss", "\"quantization_config\":{\"quant_method\":\"bitsandbytes\"}", "quantization_config: bitsandbytes"},
    };
    all_refused(cases, sizeof cases / sizeof *cases);
    cl_spec s = made("gpt_oss", "\"quantization_config\":{\"quant_method\":\"mxfp4\"}");
    cl_spec_free(&s);
}

static void test_said(void) { said_is(0x57ff27ca); }

int main(void)
{
    CU_TestInfo tests[] = {{"known ones", test_known},
                           {"refused ones", test_refused},
                           {"groups of packed weights", test_groups},
                           {"types of numbers that are refused", test_dtypes},
                           {"a translation refuses them too", test_translation},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("config_quant", tests);
}
