/* Request rows: what is read, what is refused and how it says so; result rows. */
#include <stdlib.h>

#include "chipline/request.h"
#include "suite.h"

static const cl_request_defaults defaults = {.sampling = {.top_p = 1, .repeat_penalty = 1, .seed = 5},
                                             .max_tokens = 9,
                                             .context = 16,
                                             .vocab = 100};

static cl_request *row(const char *text) { return cl_request_from_row(&defaults, text, strlen(text), 3); }

/* --- a vocabulary of single bytes and special tokens --- */

enum { BYTES = 256, BOS = BYTES, EOS, IM_START, IM_END, VOCAB };

static cl_tokenizer_data data;
static cl_tokenizer *tokenizer;
static cl_chat *chat;

static void make_vocabulary(void)
{
    static const char *const specials[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};
    static char bytes[BYTES + 64];
    static uint32_t offset[VOCAB + 1];
    static uint8_t type[VOCAB], flags[VOCAB];
    cl_err err;
    for (int i = 0; i < VOCAB; i++) {
        if (i < BYTES) bytes[i] = (char)i;
        else strcpy(bytes + offset[i], specials[i - BYTES]);
        offset[i + 1] = offset[i] + (i < BYTES ? 1 : (uint32_t)strlen(specials[i - BYTES]));
        type[i] = i < BYTES ? CL_TOK_NORMAL : CL_TOK_CONTROL;
    }
    data = (cl_tokenizer_data){.kind = CL_TOK_BPE_BYTES,
                               .n_tokens = VOCAB,
                               .bytes = bytes,
                               .offset = offset,
                               .type = type,
                               .flags = flags,
                               .add_bos = true,
                               .add_eos = true,
                               .bos = BOS,
                               .eos = EOS,
                               .unk = -1,
                               .pad = -1};
    if (cl_tokenizer_create(&tokenizer, &data, &err) || cl_chat_by_name("chatml", &chat, &err))
        puts(err.msg), exit(EXIT_FAILURE);
}

/* --- tests --- */

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

/* The last value on either side that is taken. */
static void limits_of_rows(void)
{
    static const char *const good[] = {
        "{\"tokens\": [0, 99]}",
        "{\"tokens\": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}",
        "{\"tokens\": [1], \"max_tokens\": 1}",
        "{\"tokens\": [1], \"max_tokens\": 1073741823}",
        "{\"tokens\": [1], \"temperature\": 0}",
        "{\"tokens\": [1], \"temperature\": 100}",
        "{\"tokens\": [1], \"top_p\": 0}",
        "{\"tokens\": [1], \"top_p\": 1}",
        "{\"tokens\": [1], \"min_p\": 0}",
        "{\"tokens\": [1], \"min_p\": 1}",
        "{\"tokens\": [1], \"repeat_penalty\": 0.01}",
        "{\"tokens\": [1], \"repeat_penalty\": 100}",
        "{\"tokens\": [1], \"top_k\": 0}",
        "{\"tokens\": [1], \"top_k\": 2147483647}",
        "{\"tokens\": [1], \"seed\": 9223372036854775807}",
        "{\"tokens\": [1], \"stop\": []}",
        "{\"tokens\": [1], \"id\": \"\"}",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cl_request *r = row(good[i]);
        if (r->error.code != CL_OK) fprintf(stderr, "row %s said: %s\n", good[i], r->error.msg);
        CU_ASSERT_EQUAL(r->error.code, CL_OK);
        cl_request_free(r);
    }
}

static void bad_rows(void)
{
    const struct {
        const char *row, *says;
        cl_code code;
    } cases[] = {
        {"[1]", "row: is not a JSON object", CL_E_INPUT},
        {"{}", "row: needs exactly one of prompt, messages and tokens", CL_E_INPUT},
        {"{\"tokens\": [1], \"prompt\": \"a\"}", "row: needs exactly one of prompt, messages and tokens", CL_E_INPUT},
        {"{\"tokens\": [1], \"messages\": []}", "row: needs exactly one of prompt, messages and tokens", CL_E_INPUT},
        {"{\"prompt\": \"a\", \"messages\": []}", "row: needs exactly one of prompt, messages and tokens", CL_E_INPUT},
        {"{\"tokens\": []}", "prompt: is empty (give at least one token)", CL_E_INPUT},
        {"{\"tokens\": [1, 99, 100]}", "prompt: token id 100 at index 2 is not in the vocabulary of 100", CL_E_INPUT},
        {"{\"tokens\": [2147483647]}", "prompt: token id 2147483647 at index 0 is not in the vocabulary of 100",
         CL_E_INPUT},
        {"{\"tokens\": [2147483648]}", "tokens: item 0 is not a token id", CL_E_INPUT},
        {"{\"tokens\": [-1]}", "tokens: item 0 is not a token id", CL_E_INPUT},
        {"{\"tokens\": [1, 1.5]}", "tokens: item 1 is not a token id", CL_E_INPUT},
        {"{\"tokens\": \"1\"}", "tokens: must be a list of ids", CL_E_INPUT},
        {"{\"tokens\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}",
         "prompt: 16 tokens leave no room in a context of 16 (shorten it, or raise --context)", CL_E_FIT},
        {"{\"tokens\": [1], \"max_token\": 3}", "row: unknown key max_token (did you mean max_tokens?)", CL_E_INPUT},
        {"{\"tokens\": [1], \"zzzzzzzzzz\": 3}", "row: unknown key zzzzzzzzzz", CL_E_INPUT},
        {"{\"tokens\": [1], \"max_tokens\": 0}", "max_tokens: is 0, must be from 1 to 1073741823", CL_E_INPUT},
        {"{\"tokens\": [1], \"max_tokens\": 1073741824}", "max_tokens: is 1073741824, must be from 1 to 1073741823",
         CL_E_INPUT},
        {"{\"tokens\": [1], \"temperature\": \"hot\"}", "temperature: is a text, must be a number", CL_E_INPUT},
        {"{\"tokens\": [1], \"temperature\": -0.001}", "temperature: is -0.001, must be from 0 to 100", CL_E_INPUT},
        {"{\"tokens\": [1], \"temperature\": 100.1}", "temperature: is 100.1, must be from 0 to 100", CL_E_INPUT},
        {"{\"tokens\": [1], \"top_p\": -0.1}", "top_p: is -0.1, must be from 0 to 1", CL_E_INPUT},
        {"{\"tokens\": [1], \"top_p\": 1.1}", "top_p: is 1.1, must be from 0 to 1", CL_E_INPUT},
        {"{\"tokens\": [1], \"min_p\": -0.1}", "min_p: is -0.1, must be from 0 to 1", CL_E_INPUT},
        {"{\"tokens\": [1], \"min_p\": 1.1}", "min_p: is 1.1, must be from 0 to 1", CL_E_INPUT},
        {"{\"tokens\": [1], \"repeat_penalty\": 0.009}", "repeat_penalty: is 0.009, must be from 0.01 to 100",
         CL_E_INPUT},
        {"{\"tokens\": [1], \"repeat_penalty\": 100.5}", "repeat_penalty: is 100.5, must be from 0.01 to 100",
         CL_E_INPUT},
        {"{\"tokens\": [1], \"top_k\": -1}", "top_k: is -1, must be from 0 to 2147483647", CL_E_INPUT},
        {"{\"tokens\": [1], \"top_k\": 2147483648}", "top_k: is 2147483648, must be from 0 to 2147483647", CL_E_INPUT},
        {"{\"tokens\": [1], \"seed\": -1}", "seed: is -1, must be from 0 to 9223372036854775807", CL_E_INPUT},
        {"{\"tokens\": [1], \"stop\": [\"a\", \"\"]}", "stop: must be a text or a list of texts, none empty",
         CL_E_INPUT},
        {"{\"tokens\": [1], \"stop\": \"\"}", "stop: must be a text or a list of texts, none empty", CL_E_INPUT},
        {"{\"tokens\": [1], \"stop\": 5}", "stop: must be a text or a list of texts, none empty", CL_E_INPUT},
        {"{\"tokens\": [1], \"stop\": [\"x\"]}",
         "stop: the model file has no tokenizer, so there is no text to stop at", CL_E_INPUT},
        {"{\"prompt\": \"hello\"}", "prompt: the model file has no tokenizer (give ids: --tokens)", CL_E_INPUT},
        {"{\"prompt\": 5}", "prompt: must be a text", CL_E_INPUT},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
         "messages: no chat format is known for this model (give one: --chat-format)", CL_E_INPUT},
        {"{\"messages\": [{\"role\": \"user\"}]}", "messages: content: missing", CL_E_INPUT},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"x\": 1}]}",
         "messages: item 0 has an unknown key x (role and content are known)", CL_E_INPUT},
        {"{\"messages\": []}", "messages: is empty", CL_E_INPUT},
        {"{\"id\": [1], \"tokens\": [1]}", "id: must be a text", CL_E_INPUT},
        {"{\"id\": true, \"tokens\": [1]}", "id: must be a text", CL_E_INPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_request *r = row(cases[i].row);
        CU_ASSERT_EQUAL(r->error.code, cases[i].code);
        bool said = strcmp(r->error.msg, cases[i].says) == 0;
        if (!said) fprintf(stderr, "row %s said: %s\n", cases[i].row, r->error.msg);
        CU_ASSERT_TRUE(said);
        cl_request_free(r);
    }
    cl_request *r = row("{"); /* the rest is the JSON library's */
    CU_ASSERT(r->error.code == CL_E_INPUT && strncmp(r->error.msg, "row: not valid JSON: ", 21) == 0);
    cl_request_free(r);
}

static bool same_sampling(const cl_sampling *a, const cl_sampling *b)
{
    return a->temperature == b->temperature && a->top_p == b->top_p && a->min_p == b->min_p &&
           a->repeat_penalty == b->repeat_penalty && a->top_k == b->top_k && a->seed == b->seed;
}

/* Whatever a request is made from, what is not said of it is as the defaults say. */
static void defaults_of_all(void)
{
    static char one[] = "one", two[] = "two", *stops[] = {one, two};
    const cl_request_defaults d = {.tokenizer = tokenizer,
                                   .chat = chat,
                                   .sampling = {.temperature = 0.5f,
                                                .top_p = 0.25f,
                                                .min_p = 0.125f,
                                                .repeat_penalty = 1.5f,
                                                .top_k = 7,
                                                .seed = 11},
                                   .max_tokens = 6,
                                   .ignore_eos = true,
                                   .want_rows = true,
                                   .want_digest = true,
                                   .want_reasoning = true,
                                   .n_stops = 2,
                                   .stops = stops,
                                   .context = 64,
                                   .vocab = VOCAB};
    const cl_request_defaults none = {.tokenizer = tokenizer, .chat = chat, .context = 64, .vocab = VOCAB};
    static const char as_row[] = "{\"tokens\": [1]}";
    const cl_message m = {"user", "a"};
    const uint64_t before = cl_now_ns();
    for (int k = 0; k < 8; k++) {
        const cl_request_defaults *of = k < 4 ? &d : &none;
        cl_request *r = k % 4 == 0   ? cl_request_from_text(of, "x", "a", 1)
                        : k % 4 == 1 ? cl_request_from_messages(of, "x", &m, 1)
                        : k % 4 == 2 ? cl_request_from_ids(of, "x", (int32_t[]){1}, 1)
                                     : cl_request_from_row(of, as_row, strlen(as_row), 0);
        CU_ASSERT(r->error.code == CL_OK && !strcmp(r->id, k % 4 == 3 ? "0" : "x"));
        CU_ASSERT(r->arrived_ns >= before && r->arrived_ns <= cl_now_ns() && r->n_earlier == 0 && !r->cancelled);
        CU_ASSERT(r->max_tokens == of->max_tokens && same_sampling(&r->sampling, &of->sampling));
        CU_ASSERT(r->ignore_eos == of->ignore_eos && r->want_rows == of->want_rows);
        CU_ASSERT(r->want_digest == of->want_digest && r->want_reasoning == of->want_reasoning);
        CU_ASSERT_EQUAL_FATAL(r->n_stops, of->n_stops);
        for (int i = 0; i < r->n_stops; i++) CU_ASSERT_STRING_EQUAL(r->stops[i], stops[i]);
        CU_ASSERT_EQUAL(r->chat, k % 4 == 1 ? chat : NULL);
        cl_request_free(r);
    }
}

static void expect_ids(cl_request *r, const int32_t *ids, int n)
{
    CU_ASSERT_EQUAL_FATAL(r->error.code, CL_OK);
    CU_ASSERT_EQUAL_FATAL(r->n_prompt, n);
    CU_ASSERT(memcmp(r->prompt, ids, (size_t)n * sizeof *ids) == 0);
    cl_request_free(r);
}

/* A prompt gets the vocabulary's BOS and EOS, a rendered chat does not; special tokens that are written out are found
 * in both. */
static void ids_of_texts(void)
{
    const cl_request_defaults d = {.tokenizer = tokenizer,
                                   .chat = chat,
                                   .max_tokens = 1,
                                   .context = 64,
                                   .vocab = VOCAB};
    static const int32_t prompt[] = {BOS, 'h', 'i', IM_END, '!', EOS};
    static const int32_t chatted[] = {IM_START, 'u', 's', 'e', 'r', '\n', 'h', 'i', IM_END, '\n', IM_START,
                                      'a',      's', 's', 'i', 's', 't',  'a', 'n', 't',    '\n'};
    static const char text[] = "hi<|im_end|>!", prompt_row[] = "{\"prompt\": \"hi<|im_end|>!\"}",
                      chat_row[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}";
    enum { N_PROMPT = sizeof prompt / sizeof *prompt, N_CHATTED = sizeof chatted / sizeof *chatted };
    const cl_message m = {"user", "hi"};
    expect_ids(cl_request_from_text(&d, "x", text, strlen(text)), prompt, N_PROMPT);
    expect_ids(cl_request_from_row(&d, prompt_row, strlen(prompt_row), 0), prompt, N_PROMPT);
    expect_ids(cl_request_from_messages(&d, "x", &m, 1), chatted, N_CHATTED);
    expect_ids(cl_request_from_row(&d, chat_row, strlen(chat_row), 0), chatted, N_CHATTED);
    cl_request *r = cl_request_from_text(&d, "x", "a\xff", 2);
    CU_ASSERT(r->error.code == CL_E_INPUT && strncmp(r->error.msg, "prompt: ", 8) == 0);
    cl_request_free(r);
}

/* A row's own stop texts stand in place of the defaults; none: the defaults stay. */
static void stops_of_rows(void)
{
    static char end[] = "end", *stops[] = {end};
    const cl_request_defaults d =
        {.tokenizer = tokenizer, .max_tokens = 1, .context = 16, .vocab = VOCAB, .n_stops = 1, .stops = stops};
    const struct {
        const char *row, *first, *second;
        int n;
    } cases[] = {{"{\"tokens\": [1]}", "end", NULL, 1},
                 {"{\"tokens\": [1], \"stop\": null}", "end", NULL, 1},
                 {"{\"tokens\": [1], \"stop\": []}", NULL, NULL, 0},
                 {"{\"tokens\": [1], \"stop\": \"x\"}", "x", NULL, 1},
                 {"{\"tokens\": [1], \"stop\": [\"y\", \"z\"]}", "y", "z", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_request *r = cl_request_from_row(&d, cases[i].row, strlen(cases[i].row), 0);
        CU_ASSERT_EQUAL(r->error.code, CL_OK);
        CU_ASSERT_EQUAL_FATAL(r->n_stops, cases[i].n);
        if (r->n_stops > 0) CU_ASSERT_STRING_EQUAL(r->stops[0], cases[i].first);
        if (r->n_stops > 1) CU_ASSERT_STRING_EQUAL(r->stops[1], cases[i].second);
        cl_request_free(r);
    }
}

static void says(const cl_request *r, const cl_result *res, const char *want)
{
    cl_err err;
    cl_buf out = {0};
    CU_ASSERT_EQUAL_FATAL(cl_result_row(r, res, &out, &err), CL_OK);
    if (strcmp(out.data, want)) fprintf(stderr, "result: %s\n", out.data);
    CU_ASSERT_STRING_EQUAL(out.data, want);
    cl_buf_free(&out);
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
    CU_ASSERT_EQUAL(cl_buf_str(&res.text, "h\xc3\xa9\n", &err), CL_OK);
    CU_ASSERT_EQUAL(cl_buf_str(&res.reasoning, "hm", &err), CL_OK);
    says(r, &res,
         "{\"id\":\"q\\\"1\",\"text\":\"h\xc3\xa9\\n\",\"tokens\":[5,6,7],\"finish_reason\":\"length\","
         "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3},"
         "\"timing\":{\"ttft_s\":0.5,\"tokens_per_s\":2.0,\"queue_s\":0.1},\"logits_xxh3\":\"0000000000000abc\"}");
    r->n_earlier = 1; /* which was not made in this time */
    r->want_digest = false;
    r->want_reasoning = true;
    says(r, &res,
         "{\"id\":\"q\\\"1\",\"text\":\"h\xc3\xa9\\n\",\"tokens\":[5,6,7],\"finish_reason\":\"length\","
         "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3},"
         "\"timing\":{\"ttft_s\":0.5,\"tokens_per_s\":1.0,\"queue_s\":0.1},\"reasoning\":\"hm\"}");
    cl_buf_free(&res.text);
    cl_buf_free(&res.reasoning);
    r->want_reasoning = false;
    const cl_result late = {.finish_reason = "cancelled", .started_ns = 1100000000, .finished_ns = 2500000000};
    says(r, &late, /* ended before a first token */
         "{\"id\":\"q\\\"1\",\"text\":\"\",\"tokens\":[],\"finish_reason\":\"cancelled\","
         "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":0},"
         "\"timing\":{\"ttft_s\":0.0,\"tokens_per_s\":0.0,\"queue_s\":0.1}}");
    r->want_reasoning = true;
    /* nothing came of it: no times, no digest, and why */
    r->want_digest = true;
    r->n_earlier = 0;
    cl_fail(&r->error, CL_E_INPUT, "no \"luck\"");
    const cl_result nothing = {.finish_reason = "error", .digest = 5};
    says(r, &nothing,
         "{\"id\":\"q\\\"1\",\"text\":\"\",\"tokens\":[],\"finish_reason\":\"error\","
         "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":0},"
         "\"timing\":{\"ttft_s\":0.0,\"tokens_per_s\":0.0,\"queue_s\":0.0},\"error\":{\"message\":\"no "
         "\\\"luck\\\"\"}}");
    cl_request_free(r);
}

/* Text that is none cannot be kept. */
static void result_of_no_text(void)
{
    cl_request *r = row("{\"tokens\": [1], \"id\": \"q\"}");
    cl_err err;
    cl_buf out = {0};
    cl_result res = {.finish_reason = "stop"};
    CU_ASSERT_EQUAL(cl_buf_str(&res.text, "\xff", &err), CL_OK);
    CU_ASSERT_EQUAL(cl_result_row(r, &res, &out, &err), CL_E_RUN);
    CU_ASSERT_STRING_EQUAL(err.msg, "result q: cannot be written as JSON (out of memory, or its text is not UTF-8)");
    CU_ASSERT_EQUAL(out.len, 0);
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
    CU_ASSERT_EQUAL(r->error.code, CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(r->error.msg, "messages: chat template: the filter frobnicate");
    cl_request_free(r);
}

int main(void)
{
    make_vocabulary();
    CU_TestInfo tests[] = {{"good rows", good_rows},       {"limits of rows", limits_of_rows},
                           {"bad rows", bad_rows},         {"defaults of all", defaults_of_all},
                           {"ids of texts", ids_of_texts}, {"stops of rows", stops_of_rows},
                           {"result row", result_row},     {"result of no text", result_of_no_text},
                           {"no chat", no_chat},           CU_TEST_INFO_NULL};
    int failed = run_suite("request", tests);
    cl_chat_free(chat);
    cl_tokenizer_free(tokenizer);
    return failed;
}
