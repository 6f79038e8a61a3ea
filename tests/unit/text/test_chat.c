/* Chat formats: found from the templates in fixtures/tokenizers/chat.json, equal to what Jinja makes of them, and not
 * found where none fits. */
#include <jansson.h>

#include "chipline/chat.h"
#include "suite.h"
#include "tokenizer_vocab.h"

enum { MAX_TURNS = 16 };

static json_t *load(void)
{
    json_error_t e;
    json_t *j = json_load_file(CL_FIXTURES "/tokenizers/chat.json", 0, &e);
    if (!j) {
        fprintf(stderr, "chat.json: %s\n", e.text);
        abort();
    }
    return j;
}

static int messages_of(const json_t *talk, cl_message m[MAX_TURNS])
{
    int n = (int)json_array_size(talk);
    for (int i = 0; i < n; i++) {
        const json_t *pair = json_array_get(talk, (size_t)i);
        m[i] = (cl_message){json_string_value(json_array_get(pair, 0)), json_string_value(json_array_get(pair, 1))};
    }
    return n;
}

/* Every conversation of a template, by the format found from it. */
static void check_template(const json_t *entry)
{
    const char *name = json_string_value(json_object_get(entry, "format"));
    const json_t *cases = json_object_get(entry, "cases"), *one;
    size_t i;
    cl_chat *c = NULL;
    cl_err err = {0};
    if (cl_chat_detect(json_string_value(json_object_get(entry, "template")), &c, &err) != CL_OK) {
        fprintf(stderr, "%s: %s\n", name, json_string_value(json_object_get(entry, "template")));
        CU_FAIL("no format found");
        return;
    }
    CU_ASSERT_STRING_EQUAL(cl_chat_name(c), name);
    if (cl_chat_has_date(c)) CU_ASSERT_EQUAL(cl_chat_set_date(c, "2031-12-24", &err), CL_OK);
    CU_ASSERT(json_array_size(cases) >= 20);
    json_array_foreach(cases, i, one)
    {
        cl_message m[MAX_TURNS];
        int n = messages_of(json_object_get(one, "messages"), m);
        const json_t *want = json_object_get(one, "text");
        cl_buf got = {0};
        cl_code code = cl_chat_render(c, m, n, json_is_true(json_object_get(one, "generation")), &got, &err);
        bool same = json_is_null(want) ? code == CL_E_INPUT
                                       : code == CL_OK && strcmp(got.data, json_string_value(want)) == 0;
        if (!same)
            fprintf(stderr, "%s, case %zu:\n%s\ninstead of\n%s\n", name, i, code ? err.msg : got.data,
                    json_string_value(want));
        CU_ASSERT(same);
        cl_buf_free(&got);
    }
    cl_chat_free(c);
}

static void test_templates(void)
{
    json_t *all = load(), *entry;
    size_t i;
    CU_ASSERT(json_array_size(json_object_get(all, "fitting")) >= 27);
    json_array_foreach(json_object_get(all, "fitting"), i, entry) check_template(entry);
    json_decref(all);
}

static void test_unfit(void)
{
    json_t *all = load(), *entry;
    size_t i;
    CU_ASSERT(json_array_size(json_object_get(all, "unfit")) >= 30);
    json_array_foreach(json_object_get(all, "unfit"), i, entry)
    {
        cl_chat *c = NULL;
        cl_err err = {0};
        cl_code code = cl_chat_detect(json_string_value(entry), &c, &err);
        if (code == CL_OK) fprintf(stderr, "taken for %s: %s\n", cl_chat_name(c), json_string_value(entry));
        CU_ASSERT_EQUAL(code, CL_E_INPUT);
        CU_ASSERT_PTR_NULL(c);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "--chat-format"));
        cl_chat_free(c);
    }
    json_decref(all);
}

static void test_names(void)
{
    const char *const *names = cl_chat_names();
    int n = 0;
    for (; names[n]; n++) {
        cl_chat *c = NULL;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(cl_chat_by_name(names[n], &c, &err), CL_OK);
        CU_ASSERT_STRING_EQUAL(cl_chat_name(c), names[n]);
        CU_ASSERT_PTR_NOT_NULL(cl_chat_ends(c)[0]);
        cl_chat_free(c);
    }
    CU_ASSERT(n >= 6);
    cl_chat *c = NULL;
    cl_err err = {0};
    CU_ASSERT_EQUAL(cl_chat_by_name("chatlm", &c, &err), CL_E_USAGE);
    CU_ASSERT_PTR_NULL(c);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "did you mean chatml?"));
    CU_ASSERT_EQUAL(cl_chat_by_name("completely else", &c, &err), CL_E_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "chatml, qwen3, llama3"));
    cl_chat_free(NULL);
}

static bool refuses(const char *format, int n, const cl_message *m, const char *part)
{
    cl_chat *c = NULL;
    cl_buf out = {0};
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(cl_chat_by_name(format, &c, &err), CL_OK);
    bool ok = cl_chat_render(c, m, n, true, &out, &err) == CL_E_INPUT && strstr(err.msg, part) && out.len == 0;
    if (!ok) fprintf(stderr, "%s: message '%s' instead of '%s'\n", format, err.msg, part);
    cl_chat_free(c);
    cl_buf_free(&out);
    return ok;
}

static void test_refusals(void)
{
    CU_ASSERT(refuses("chatml", 0, NULL, "there is none"));
    CU_ASSERT(refuses("chatml", 1, (cl_message[]){{"tool", "x"}}, "message 1: role 'tool' is unknown"));
    CU_ASSERT(refuses("llama3", 2, (cl_message[]){{"user", "x"}, {"User", "x"}}, "message 2: role 'User'"));
    CU_ASSERT(refuses("mistral", 2, (cl_message[]){{"system", "x"}, {"user", "x"}}, "has no system message"));
    CU_ASSERT(refuses("mistral", 2, (cl_message[]){{"user", "x"}, {"user", "y"}}, "message 2: is user"));
    CU_ASSERT(refuses("mistral-v1", 1, (cl_message[]){{"assistant", "x"}}, "take turns after the system message"));
    CU_ASSERT(refuses("mistral-v3", 3, (cl_message[]){{"user", "x"}, {"assistant", "y"}, {"system", "z"}},
                      "message 3: is system"));
    CU_ASSERT(
        refuses("qwen3", 1, (cl_message[]){{"user", "<tool_response>x</tool_response>"}}, "tools are not supported"));
}

static void test_dates(void)
{
    static const char *const good[] = {"2026-01-31", "2024-02-29", "2000-02-29", "2026-12-01"},
                             *const bad[] = {"2026-13-01",  "2026-00-10", "2026-02-29", "2026-02-30",
                                             "1900-02-29",  "2026-04-31", "2026-01-00", "2026-1-01",
                                             "2026-01-011", "",           "yesterday"};
    cl_chat *c = NULL;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_chat_by_name("harmony", &c, &err), CL_OK);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) CU_ASSERT_EQUAL(cl_chat_set_date(c, good[i], &err), CL_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(cl_chat_set_date(c, bad[i], &err), CL_E_USAGE);
    cl_chat_free(c);
}

/* What cl_chat_check says of a format and a vocabulary of bytes and these tokens. */
static cl_code check_marks(const char *format, const char *const *marks, cl_err *err)
{
    static vocab v;
    cl_tokenizer *t = NULL;
    cl_chat *c = NULL;
    start_bytes(&v);
    for (; *marks; marks++) control(&v, *marks, 0);
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, &v.d, err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_chat_by_name(format, &c, err), CL_OK);
    cl_code code = cl_chat_check(c, t, err);
    cl_chat_free(c);
    cl_tokenizer_free(t);
    return code;
}

static void test_marks(void)
{
    static const char *const llama4[] = {"<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>", NULL},
                             *const chatml[] = {"<|im_start|>", "<|im_end|>", NULL},
                             *const half[] = {"<|im_start|>", NULL}, *const none[] = {"<|endoftext|>", "<s>", NULL},
                             *const deepseek[] = {"<\xef\xbd\x9cUser\xef\xbd\x9c>",
                                                  "<\xef\xbd\x9c"
                                                  "Assistant\xef\xbd\x9c>",
                                                  "<\xef\xbd\x9c"
                                                  "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
                                                  NULL};
    cl_err err = {0};
    CU_ASSERT_EQUAL(check_marks("llama4", llama4, &err), CL_OK);
    CU_ASSERT_EQUAL(check_marks("qwen3", chatml, &err), CL_OK);
    CU_ASSERT_EQUAL(check_marks("deepseek-r1", deepseek, &err), CL_OK);
    CU_ASSERT_EQUAL(check_marks("qwen3", none, &err), CL_OK);     /* a model without any turns */
    CU_ASSERT_EQUAL(check_marks("mistral", chatml, &err), CL_OK); /* marks that are text everywhere */
    CU_ASSERT_EQUAL(check_marks("qwen3", llama4, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "chat format qwen3: the vocabulary has no token <|im_start|>"));
    CU_ASSERT_EQUAL(check_marks("chatml", half, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "no token <|im_end|>"));
    CU_ASSERT_EQUAL(check_marks("deepseek-v3", chatml, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "no token <\xef\xbd\x9cUser\xef\xbd\x9c>"));
}

/* Appends: what was there stays. */
static void test_append(void)
{
    cl_chat *c = NULL;
    cl_buf out = {0};
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_chat_by_name("llama3.1", &c, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_buf_str(&out, ">", &err), CL_OK);
    CU_ASSERT_EQUAL(cl_chat_render(c, (cl_message[]){{"user", " hi\n"}}, 1, true, &out, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(
        out.data,
        "><|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n");
    cl_chat_free(c);
    cl_buf_free(&out);
}

int main(void)
{
    CU_TestInfo tests[] = {{"templates", test_templates}, {"unfit", test_unfit},   {"names", test_names},
                           {"refusals", test_refusals},   {"append", test_append}, {"dates", test_dates},
                           {"marks", test_marks},         CU_TEST_INFO_NULL};
    return run_suite("chat", tests);
}
