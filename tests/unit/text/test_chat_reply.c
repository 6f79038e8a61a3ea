/* Replies taken apart into reasoning and answer: whole, byte by byte, and as the tokens of a vocabulary. And messages
 * in JSON. */
#include "chipline/chat.h"
#include "suite.h"
#include "tokenizer_vocab.h"

typedef struct reply_case {
    const char *format; /* NULL: no chat */
    const char *text, *answer, *reasoning;
} reply_case;

#define END "<|end|><|start|>assistant"
static const reply_case cases[] = {
    {NULL, "<think>a</think>b", "<think>a</think>b", ""},
    {"qwen3", "Plain.", "Plain.", ""},
    {"qwen3", "", "", ""},
    {"qwen3", "<think>\nWell,\n\nso.\n</think>\n\nThe answer.\n", "The answer.\n", "Well,\n\nso."},
    {"qwen3", "\n <think>\n\n</think>\n\nThe answer.", "The answer.", ""},
    {"qwen3", "  Indented", "  Indented", ""},
    {"qwen3", "<thinking> is a tag", "<thinking> is a tag", ""},
    {"qwen3", "<thi", "<thi", ""},
    {"qwen3", "<think>", "", ""},
    {"qwen3", " <think>\n", "", ""},
    {"qwen3", "<think", "<think", ""},
    {"qwen3", "<think>a[THINK]b[/THINK]c</think>d", "d", "a[THINK]b[/THINK]c"}, /* another format's marks are text */
    {"qwen3", "[THINK]a[/THINK]b", "[THINK]a[/THINK]b", ""},
    {"qwen3", "A <think> tag</think>.", "A <think> tag</think>.", ""},
    {"qwen3", "<think>broken off\n</thi", "", "broken off\n</thi"},
    {"qwen3", "<think>a</thin b</think>c<think>d</think>", "c<think>d</think>", "a</thin b"},
    {"chatml", "<think>a</think>b", "b", "a"},
    {"deepseek-r1", "Hm.\n\n</think>\n\nYes.", "Yes.", "Hm."},
    {"deepseek-r1", "Hm. ", "", "Hm."},
    {"deepseek-r1", "</think>Yes.", "Yes.", ""},
    {"deepseek-r1-0528", "<think>\nHm.\n</think>\nYes.", "Yes.", "Hm."},
    {"deepseek-v3.1", "Yes.", "Yes.", ""},
    {"deepseek-v3.1-think", "Hm.</think>Yes.", "Yes.", "Hm."},
    {"kimi-k2-thinking", "<think>Hm. </think>Yes.", "Yes.", "Hm."},
    {"harmony", "<|channel|>analysis<|message|>Hm.\n" END "<|channel|>final<|message|>Yes.\n", "Yes.\n", "Hm."},
    {"harmony", "<|channel|>final<|message|>Yes.<|return|>", "Yes.", ""},
    {"harmony",
     "<|channel|>analysis<|message|>One." END "<|channel|>commentary<|message|>Two." END
     "<|channel|>final<|message|>Yes.",
     "Yes.", "One.\nTwo."},
    {"harmony",
     "<|channel|>analysis<|message|>One." END
     " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
     "", "One.\n{}"},
    {"harmony", " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}<|call|>", "", "{\"a\": 1}"},
    {"harmony", "<|channel|>analysis<|message|>Hm. <|not a mark|> <|en", "", "Hm. <|not a mark|> <|en"},
    {"harmony", "<|channel|>final<|message|>a <|e b<|end|>", "a <|e b", ""},
    {"harmony", "<|channel|>analysis<|message|>Hm." END "<|channel|>fin", "", "Hm."},
    {"harmony", "No channel at all.", "No channel at all.", ""},
    {"harmony", "<b>No channel.</b>", "<b>No channel.</b>", ""},
    {"harmony", "<|channel|>final<|message|>One." END "<|channel|>final<|message|>Two.", "One.Two.", ""},
};

static cl_chat *format(const char *name)
{
    cl_chat *c = NULL;
    cl_err err;
    if (name) CU_ASSERT_EQUAL_FATAL(cl_chat_by_name(name, &c, &err), CL_OK);
    return c;
}

static cl_tokenizer *compiled(const vocab *v)
{
    cl_tokenizer *t = NULL;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, &v->d, &err), CL_OK);
    return t;
}

static bool is(const cl_buf *b, const char *want)
{
    return b->len == strlen(want) && (!b->len || memcmp(b->data, want, b->len) == 0);
}

static void compare(const reply_case *k, size_t step, cl_buf *answer, cl_buf *reasoning)
{
    bool same = is(answer, k->answer) && is(reasoning, k->reasoning);
    if (!same)
        fprintf(stderr, "%s in steps of %zu: %s\n  answer '%s', reasoning '%s'\n", k->format ? k->format : "none", step,
                k->text, answer->data ? answer->data : "", reasoning->data ? reasoning->data : "");
    CU_ASSERT(same);
    cl_buf_free(answer);
    cl_buf_free(reasoning);
}

/* The same whatever pieces a text comes in. */
static void test_text(void)
{
    static const size_t steps[] = {1, 2, 3, 5, 7, 11, 1000};
    for (size_t i = 1; i < sizeof cases / sizeof *cases; i++) /* the first has no chat */
        for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
            cl_chat *c = format(cases[i].format);
            cl_buf answer = {0}, reasoning = {0};
            cl_reply r;
            cl_err err;
            cl_reply_init(&r, c, NULL);
            size_t n = strlen(cases[i].text);
            for (size_t at = 0; at < n; at += steps[k])
                CU_ASSERT_EQUAL(cl_reply_text(&r, cases[i].text + at, n - at < steps[k] ? n - at : steps[k], &answer,
                                              &reasoning, &err),
                                CL_OK);
            CU_ASSERT_EQUAL(cl_reply_finish(&r, false, &answer, &reasoning, &err), CL_OK);
            cl_reply_free(&r);
            compare(&cases[i], steps[k], &answer, &reasoning);
            cl_chat_free(c);
        }
}

/* What is known is given out at once: nothing waits but what may become a mark. */
static void test_stream(void)
{
    cl_chat *c = format("qwen3");
    cl_buf answer = {0}, reasoning = {0};
    cl_reply r;
    cl_err err;
    cl_reply_init(&r, c, NULL);
    CU_ASSERT_EQUAL(cl_reply_text(&r, "<think>ab</", 11, &answer, &reasoning, &err), CL_OK);
    CU_ASSERT(is(&reasoning, "ab") && is(&answer, ""));
    CU_ASSERT_EQUAL(cl_reply_text(&r, "b\n", 2, &answer, &reasoning, &err), CL_OK);
    CU_ASSERT(is(&reasoning, "ab</b"));
    CU_ASSERT_EQUAL(cl_reply_text(&r, "c</think>", 9, &answer, &reasoning, &err), CL_OK);
    CU_ASSERT(is(&reasoning, "ab</b\nc") && is(&answer, ""));
    CU_ASSERT_EQUAL(cl_reply_text(&r, "\nd", 2, &answer, &reasoning, &err), CL_OK);
    CU_ASSERT(is(&answer, "d"));
    cl_reply_free(&r);
    cl_buf_free(&answer);
    cl_buf_free(&reasoning);
    cl_chat_free(c);
}

/* With marks that are control tokens of the vocabulary, and other control tokens, which are no text. */
static void test_tokens(void)
{
    static const char *const controls[] = {"<|channel|>", "<|message|>",   "<|end|>",   "<|start|>", "<|return|>",
                                           "<|call|>",    "<|constrain|>", "<|other|>", NULL};
    vocab v;
    start_bytes(&v);
    for (int i = 0; controls[i]; i++) control(&v, controls[i], 0);
    cl_tokenizer *t = compiled(&v);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_chat *c = format(cases[i].format);
        cl_buf answer = {0}, reasoning = {0};
        cl_reply r;
        cl_err err;
        int32_t *ids;
        int n;
        CU_ASSERT_EQUAL_FATAL(cl_tokenizer_encode(t, cases[i].text, strlen(cases[i].text), true, false, &ids, &n, &err),
                              CL_OK);
        cl_reply_init(&r, c, t);
        for (int k = 0; k < n; k++) {
            CU_ASSERT_EQUAL(cl_reply_add(&r, ids[k], &answer, &reasoning, &err), CL_OK);
            CU_ASSERT_EQUAL(cl_reply_add(&r, cl_tokenizer_find(t, "<|other|>"), &answer, &reasoning, &err), CL_OK);
        }
        CU_ASSERT_EQUAL(cl_reply_finish(&r, true, &answer, &reasoning, &err), CL_OK);
        cl_reply_free(&r);
        compare(&cases[i], 0, &answer, &reasoning);
        free(ids);
        cl_chat_free(c);
    }
    cl_tokenizer_free(t);
}

/* Where a chat has no channels, their marks are control tokens like any other: no text. */
static void test_other_marks(void)
{
    static vocab v;
    start_bytes(&v);
    int32_t end = control(&v, "<|end|>", 0), think = control(&v, "<think>", 0), close = control(&v, "</think>", 0);
    const int32_t ids[] = {think, 'a', end, close, 'b', end, 'c'};
    cl_tokenizer *t = compiled(&v);
    cl_chat *c = format("qwen3");
    cl_buf answer = {0}, reasoning = {0};
    cl_reply r;
    cl_err err;
    cl_reply_init(&r, c, t);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        CU_ASSERT_EQUAL(cl_reply_add(&r, ids[i], &answer, &reasoning, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_reply_finish(&r, false, &answer, &reasoning, &err), CL_OK);
    CU_ASSERT(is(&answer, "bc") && is(&reasoning, "a"));
    cl_reply_free(&r);
    cl_buf_free(&answer);
    cl_buf_free(&reasoning);
    cl_chat_free(c);
    cl_tokenizer_free(t);
}

/* A prompt with variables of its own may open thoughts, or not; other marks than <think>. */
static void test_after(void)
{
    static const struct {
        const char *template, *prompt, *text, *answer, *reasoning;
    } after[] = {{"{{ messages[0].content }}<think>\n", NULL, "a</think>b", "b", "a"},
                 {"{{ messages[0].content }}<think>\n", "x<think></think>", "b</think>c", "b</think>c", ""},
                 {"{{ messages[0].content }}", NULL, "a</think>b", "a</think>b", ""},
                 {"{{ messages[0].content }}", "x<think>", "a</think>b", "b", "a"},
                 {"{{ messages[0].content }}", "x<think> \n\n", "a</think>b", "b", "a"},
                 {"{{ messages[0].content }}", "think>", "a</think>b", "a</think>b", ""},
                 {"{{ messages[0].content }}{% if x %}[/THINK]{% endif %}", NULL, "[THINK]a[/THINK]b", "b", "a"},
                 {"{{ messages[0].content }}{% if x %}[/THINK]{% endif %}", "[THINK]", "a</think>[/THINK]b", "b",
                  "a</think>"},
                 {"{{ messages[0].content }}<|channel|><|message|>", "<think>", "<|channel|>final<|message|>b", "b",
                  ""}};
    for (size_t i = 0; i < sizeof after / sizeof *after; i++) {
        cl_chat *c = NULL;
        cl_buf answer = {0}, reasoning = {0};
        cl_reply r;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(cl_chat_from_template(after[i].template, "", "", &c, &err), CL_OK);
        cl_reply_init(&r, c, NULL);
        if (after[i].prompt) cl_reply_after(&r, after[i].prompt);
        CU_ASSERT_EQUAL(cl_reply_text(&r, after[i].text, strlen(after[i].text), &answer, &reasoning, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_reply_finish(&r, false, &answer, &reasoning, &err), CL_OK);
        if (!is(&answer, after[i].answer) || !is(&reasoning, after[i].reasoning))
            fprintf(stderr, "after, case %zu: '%s' '%s'\n", i, answer.data, reasoning.data);
        CU_ASSERT(is(&answer, after[i].answer) && is(&reasoning, after[i].reasoning));
        cl_reply_free(&r);
        cl_buf_free(&answer);
        cl_buf_free(&reasoning);
        cl_chat_free(c);
    }
}

/* Half a character: shown as U+FFFD where the reply broke off. */
static void test_cut(void)
{
    vocab v;
    start_bytes(&v);
    cl_tokenizer *t = compiled(&v);
    cl_chat *c = format("deepseek-r1");
    for (int cut = 0; cut < 2; cut++) {
        cl_buf answer = {0}, reasoning = {0};
        cl_reply r;
        cl_err err;
        cl_reply_init(&r, c, t);
        CU_ASSERT_EQUAL(cl_reply_add(&r, 'x', &answer, &reasoning, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_reply_add(&r, 0xe6, &answer, &reasoning, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_reply_finish(&r, cut, &answer, &reasoning, &err), CL_OK);
        CU_ASSERT(is(&reasoning, cut ? "x\xef\xbf\xbd" : "x") && is(&answer, ""));
        CU_ASSERT_EQUAL(cl_reply_add(&r, 1000, &answer, &reasoning, &err), CL_E_INPUT);
        cl_reply_free(&r);
        cl_buf_free(&answer);
        cl_buf_free(&reasoning);
    }
    cl_chat_free(c);
    cl_tokenizer_free(t);
}

static void test_date(void)
{
    static const char *const bad[] = {"", "2024", "2024-1-01", "2024-01-011", "2024/01/01", "24-01-2024", "2024-01-0x"};
    cl_chat *c = format("harmony"), *other = format("chatml");
    cl_err err = {0};
    cl_buf out = {0};
    const cl_message m = {"user", "hi"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(cl_chat_set_date(c, bad[i], &err), CL_E_USAGE);
    CU_ASSERT_EQUAL(cl_chat_render_messages(c, &m, 1, true, &out, &err), CL_OK);
    CU_ASSERT_PTR_NULL(strstr(out.data, "date"));
    CU_ASSERT_PTR_NOT_NULL(strstr(out.data, "Knowledge cutoff: 2024-06\n\nReasoning: medium"));
    out.len = 0;
    CU_ASSERT_EQUAL(cl_chat_set_date(c, "2030-12-31", &err), CL_OK);
    CU_ASSERT_EQUAL(cl_chat_render_messages(c, &m, 1, true, &out, &err), CL_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(out.data, "2024-06\nCurrent date: 2030-12-31\n\nReasoning: medium"));
    cl_buf_free(&out);
    cl_chat_free(c);
    cl_chat_free(other);
}

static void test_messages(void)
{
    static const struct {
        const char *json, *part;
    } bad[] = {{"{}", "must be a list"},
               {"[]", "is empty"},
               {"[1]", "item 0 is not an object"},
               {"[{\"role\": \"user\"}]", "content"},
               {"[{\"role\": \"user\", \"content\": 1}]", "content"},
               {"[{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"user\", \"content\": \"x\", \"name\": \"y\"}]",
                "item 1 has an unknown key name"}};
    cl_message *m;
    cl_err err = {0};
    int n;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *j = json_loads(bad[i].json, 0, NULL);
        CU_ASSERT_EQUAL(cl_messages_read(j, &m, &n, &err), CL_E_INPUT);
        CU_ASSERT(!m && n == 0 && strstr(err.msg, "messages: ") == err.msg && strstr(err.msg, bad[i].part));
        json_decref(j);
    }
    json_t *j =
        json_loads("[{\"role\": \"system\", \"content\": \"a\"}, {\"content\": \"b\", \"role\": \"user\"}]", 0, NULL);
    CU_ASSERT_EQUAL_FATAL(cl_messages_read(j, &m, &n, &err), CL_OK);
    CU_ASSERT_EQUAL(n, 2);
    CU_ASSERT_STRING_EQUAL(m[0].role, "system");
    CU_ASSERT_STRING_EQUAL(m[1].content, "b");
    free(m);
    json_decref(j);
}

int main(void)
{
    CU_TestInfo tests[] = {{"text", test_text}, {"stream", test_stream},           {"tokens", test_tokens},
                           {"cut", test_cut},   {"other marks", test_other_marks}, {"after", test_after},
                           {"date", test_date}, {"messages", test_messages},       CU_TEST_INFO_NULL};
    return run_suite("chat replies", tests);
}
