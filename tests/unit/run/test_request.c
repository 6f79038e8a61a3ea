/* Request rows: what is read, what is refused and how it says so; result rows. */
#include <stdlib.h>

#include "chipline/request.h"
#include "suite.h"

static const cl_request_defaults defaults = {.sampling = {.top_p = 1, .repeat_penalty = 1, .seed = 5},
                                             .max_tokens = 9,
                                             .context = 16,
                                             .vocab = 100};

static cl_request *row(const char *text) { return cl_request_from_row(&defaults, text, strlen(text), 3); }

static void good_rows(void)
{
    cl_request *r = row("{\"tokens\": [1, 2, 3]}");
    CU_ASSERT_EQUAL_FATAL(r->error.code, CL_OK);
    CU_ASSERT_STRING_EQUAL(r->id, "3");
    CU_ASSERT_TRUE(r->n_prompt == 3 && r->prompt[2] == 3 && r->max_tokens == 9 && r->sampling.seed == 5 &&
                   r->sampling.temperature == 0);
    cl_request_free(r);
    r = row("{\"id\": \"x\", \"tokens\": [0], \"max_tokens\": 2, \"temperature\": 0.5, \"top_k\": 3, \"top_p\": 0.9, "
            "\"min_p\": 0.1, "
            "\"repeat_penalty\": 1.2, \"seed\": 0}");
    CU_ASSERT_EQUAL(r->error.code, CL_OK);
    CU_ASSERT_STRING_EQUAL(r->id, "x");
    CU_ASSERT_TRUE(r->max_tokens == 2 && r->sampling.temperature == 0.5f && r->sampling.top_k == 3 &&
                   r->sampling.top_p == 0.9f && r->sampling.min_p == 0.1f && r->sampling.repeat_penalty == 1.2f &&
                   r->sampling.seed == 0);
    cl_request_free(r);
    /* null: not given */
    r = row("{\"tokens\": [0], \"prompt\": null, \"seed\": null, \"stop\": null, \"id\": null, \"top_k\": null}");
    CU_ASSERT_TRUE(r->error.code == CL_OK && r->sampling.seed == 5 && r->n_stops == 0);
    cl_request_free(r);
}

static void bad_rows(void)
{
    const struct {
        const char *row, *says;
        cl_code code;
    } cases[] = {
        {"{", "not valid JSON", CL_E_INPUT},
        {"[1]", "not a JSON object", CL_E_INPUT},
        {"{}", "needs exactly one of", CL_E_INPUT},
        {"{\"tokens\": [1], \"prompt\": \"a\"}", "needs exactly one of", CL_E_INPUT},
        {"{\"tokens\": []}", "empty", CL_E_INPUT},
        {"{\"tokens\": [100]}", "not in the vocabulary", CL_E_INPUT},
        {"{\"tokens\": [-1]}", "not a token id", CL_E_INPUT},
        {"{\"tokens\": [1.5]}", "not a token id", CL_E_INPUT},
        {"{\"tokens\": \"1\"}", "list of ids", CL_E_INPUT},
        {"{\"tokens\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", "--context", CL_E_FIT},
        {"{\"tokens\": [1], \"max_token\": 3}", "max_tokens", CL_E_INPUT},
        {"{\"tokens\": [1], \"max_tokens\": 0}", "max_tokens", CL_E_INPUT},
        {"{\"tokens\": [1], \"temperature\": \"hot\"}", "temperature", CL_E_INPUT},
        {"{\"tokens\": [1], \"temperature\": -1}", "temperature", CL_E_INPUT},
        {"{\"tokens\": [1], \"stop\": [\"\"]}", "stop", CL_E_INPUT},
        {"{\"tokens\": [1], \"stop\": [\"x\"]}", "tokenizer", CL_E_INPUT},
        {"{\"prompt\": \"hello\"}", "no tokenizer", CL_E_INPUT},
        {"{\"prompt\": 5}", "must be a text", CL_E_INPUT},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "chat format", CL_E_INPUT},
        {"{\"messages\": [{\"role\": \"user\"}]}", "content", CL_E_INPUT},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"x\": 1}]}", "unknown key", CL_E_INPUT},
        {"{\"messages\": []}", "empty", CL_E_INPUT},
        {"{\"id\": [1], \"tokens\": [1]}", "id", CL_E_INPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_request *r = row(cases[i].row);
        CU_ASSERT_EQUAL(r->error.code, cases[i].code);
        bool said = strstr(r->error.msg, cases[i].says) != NULL;
        if (!said) fprintf(stderr, "row %s said: %s\n", cases[i].row, r->error.msg);
        CU_ASSERT_TRUE(said);
        cl_buf out = {0};
        cl_err err;
        cl_result res = {.finish_reason = "error"};
        CU_ASSERT_EQUAL(cl_result_row(r, &res, &out, &err), CL_OK);
        CU_ASSERT_PTR_NOT_NULL(strstr(out.data, "\"error\":{\"message\":"));
        cl_buf_free(&out);
        cl_request_free(r);
    }
}

static void result_row(void)
{
    cl_request *r = row("{\"tokens\": [1, 2], \"id\": \"q\\\"1\"}");
    r->want_digest = true;
    r->arrived_ns = 1000000000;
    int32_t ids[] = {5, 6, 7};
    cl_result res = {.tokens = ids,
                     .n_tokens = 3,
                     .finish_reason = "length",
                     .started_ns = 1100000000,
                     .first_token_ns = 1500000000,
                     .finished_ns = 2500000000,
                     .digest = 0xabc};
    cl_err err;
    cl_buf out = {0};
    CU_ASSERT_EQUAL(cl_buf_str(&res.text, "h\xc3\xa9\n", &err), CL_OK);
    CU_ASSERT_EQUAL(cl_result_row(r, &res, &out, &err), CL_OK);
    json_t *j = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_json_parse(out.data, out.len, "row", &j, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(j, "id")), "q\"1");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(j, "text")), "h\xc3\xa9\n");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(j, "logits_xxh3")), "0000000000000abc");
    const json_t *t = json_object_get(j, "timing");
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(t, "ttft_s")), 0.5, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(t, "queue_s")), 0.1, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(t, "tokens_per_s")), 2.0, 1e-9);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_object_get(j, "usage"), "completion_tokens")), 3);
    json_decref(j);
    r->n_earlier = 1; /* which was not made in this time */
    out.len = 0;
    CU_ASSERT_EQUAL(cl_result_row(r, &res, &out, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_json_parse(out.data, out.len, "row", &j, &err), CL_OK);
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(json_object_get(j, "timing"), "tokens_per_s")), 1.0, 1e-9);
    json_decref(j);
    cl_buf_free(&out);
    cl_buf_free(&res.text);
    cl_request_free(r);
}

/* Why messages cannot be rendered, where there is a reason. */
static void no_chat(void)
{
    static const char text[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    const cl_err why = {.code = CL_E_INPUT, .msg = "chat template: the filter frobnicate"};
    cl_request_defaults d = {.context = 16, .vocab = 100, .max_tokens = 4, .no_chat = &why};
    cl_request *r = cl_request_from_row(&d, text, strlen(text), 0);
    CU_ASSERT(r->error.code == CL_E_INPUT && strstr(r->error.msg, "messages: chat template: the filter frobnicate"));
    cl_request_free(r);
}

int main(void)
{
    CU_TestInfo tests[] = {{"good rows", good_rows},
                           {"bad rows", bad_rows},
                           {"result row", result_row},
                           {"no chat", no_chat},
                           CU_TEST_INFO_NULL};
    return run_suite("request", tests);
}
