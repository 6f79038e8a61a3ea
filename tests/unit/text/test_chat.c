/* Chats: the templates in fixtures/tokenizers/chat.json render what Jinja makes of them, the formats that have names
 * the same; and what is found by looking at templates. */
#include <jansson.h>

#include "chipline/chat.h"
#include "suite.h"
#include "tokenizer_vocab.h"

enum { MAX_TURNS = 16 };

#define DEEPSEEK(word) "<\xef\xbd\x9c" word "\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"

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

/* Whether a chat renders a plain conversation as wanted, or refuses it if that is null. */
static bool renders(const cl_chat *c, const char *name, const json_t *one)
{
    cl_message m[MAX_TURNS];
    int n = messages_of(json_object_get(one, "messages"), m);
    const json_t *want = json_object_get(one, "text");
    cl_buf got = {0};
    cl_err err = {0};
    cl_code code = cl_chat_render_messages(c, m, n, json_is_true(json_object_get(one, "generation")), &got, &err);
    bool same = json_is_null(want) ? code == CL_E_INPUT && *err.msg && !got.len
                                   : code == CL_OK && strcmp(got.data, json_string_value(want)) == 0;
    if (!same) fprintf(stderr, "%s:\n%s\ninstead of\n%s\n", name, code ? err.msg : got.data, json_string_value(want));
    cl_buf_free(&got);
    return same;
}

static cl_chat *by_template(const json_t *entry, const char *name)
{
    bool llama = strncmp(name, "llama", 5) == 0, deepseek = strncmp(name, "deepseek", 8) == 0;
    cl_chat *c = NULL;
    cl_err err = {0};
    const char *template = json_string_value(json_object_get(entry, "template"));
    if (cl_chat_from_template(template,
                              llama      ? "<|begin_of_text|>"
                              : deepseek ? DEEPSEEK("begin")
                                         : "<s>",
                              llama      ? "<|eot_id|>"
                              : deepseek ? DEEPSEEK("end")
                                         : "</s>",
                              &c, &err) != CL_OK)
        fprintf(stderr, "%s: %s\n", template, err.msg);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_EQUAL(cl_chat_set_date(c, "2031-12-24", &err), CL_OK);
    return c;
}

/* Every conversation of every template, rendered by the template. */
static void test_templates(void)
{
    static const char *const parts[] = {"fitting", "other"};
    static const size_t least[] = {27, 19}, least_cases[] = {20, 12};
    json_t *all = load(), *entry, *one;
    size_t i, k;
    for (int p = 0; p < 2; p++) {
        CU_ASSERT(json_array_size(json_object_get(all, parts[p])) >= least[p]);
        json_array_foreach(json_object_get(all, parts[p]), i, entry)
        {
            const char *name = json_string_value(json_object_get(entry, "format"));
            cl_chat *c = by_template(entry, name);
            CU_ASSERT(json_array_size(json_object_get(entry, "cases")) >= least_cases[p]);
            json_array_foreach(json_object_get(entry, "cases"), k, one) CU_ASSERT(renders(c, name, one));
            cl_chat_free(c);
        }
    }
    json_decref(all);
}

/* A named format renders what the first template of its kind does; that of Kimi has a system message of its own where
 * there is none. */
static void test_formats(void)
{
    json_t *all = load(), *entry, *one;
    size_t i, k;
    const char *last = "";
    int n = 0;
    json_array_foreach(json_object_get(all, "fitting"), i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "format"));
        cl_chat *c = NULL;
        cl_err err;
        if (strcmp(name, last) == 0) continue;
        last = name;
        n++;
        CU_ASSERT_EQUAL_FATAL(cl_chat_by_name(name, &c, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_chat_set_date(c, "2031-12-24", &err), CL_OK);
        json_array_foreach(json_object_get(entry, "cases"), k, one)
        {
            const char *first =
                json_string_value(json_array_get(json_array_get(json_object_get(one, "messages"), 0), 0));
            if (strncmp(name, "kimi", 4) != 0 || strcmp(first, "system") == 0) CU_ASSERT(renders(c, name, one));
        }
        cl_chat_free(c);
    }
    const char *const *names = cl_chat_names();
    while (n > 0 && *names) names++, n--;
    CU_ASSERT(n == 0 && !*names); /* each name was there */
    json_decref(all);
}

/* Conversations with tools, and variables of their own. */
static void test_calls(void)
{
    json_t *all = load(), *tools = json_object_get(all, "tools"), *entry, *one;
    size_t i, k;
    int done = 0;
    json_array_foreach(json_object_get(all, "calls"), i, entry)
    {
        cl_chat *c = by_template(entry, "");
        json_array_foreach(json_object_get(entry, "cases"), k, one)
        {
            const json_t *want = json_object_get(one, "text");
            cl_buf got = {0};
            cl_err err = {0};
            cl_code code = cl_chat_render(c, json_object_get(one, "messages"),
                                          json_is_true(json_object_get(one, "tools")) ? tools : NULL,
                                          json_object_get(one, "variables"),
                                          json_is_true(json_object_get(one, "generation")), &got, &err);
            bool same = json_is_null(want) ? code == CL_E_INPUT && !got.len
                                           : code == CL_OK && strcmp(got.data, json_string_value(want)) == 0;
            if (!same)
                fprintf(stderr, "calls %zu, case %zu:\n%s\ninstead of\n%s\n", i, k, code ? err.msg : got.data,
                        json_string_value(want));
            CU_ASSERT(same);
            cl_buf_free(&got);
            done++;
        }
        cl_chat_free(c);
    }
    CU_ASSERT(done >= 100);
    json_decref(all);
}

/* Why a text is no chat template. */
static void test_unfit_why(void)
{
    static const char *const cases[][2] =
        {{"Hello", "chat template: it does not write what a user says (name a format with --chat-format)"},
         {"{{ messages.no.more }}", "chat template: 'more' of something undefined (name a format with --chat-format)"},
         {"{{ raise_exception('Not so.') }}", "chat template: Not so. (name a format with --chat-format)"},
         {"{% for", "chat template: a tag does not end (name a format with --chat-format)"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_chat *c = NULL;
        cl_err err = {0};
        CU_ASSERT_EQUAL(cl_chat_from_template(cases[i][0], "", "", &c, &err), CL_E_INPUT);
        CU_ASSERT_STRING_EQUAL(err.msg, cases[i][1]);
    }
}

/* However many marks a template writes, there is room for four ends. */
static void test_many_ends(void)
{
    cl_chat *c = NULL;
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(
        cl_chat_from_template("<|eot_id|><|eot|><|channel|><|im_middle|>{% for m in messages %}{{ m.content "
                              "}}<|x|>{% endfor %}",
                              "", "", &c, &err),
        CL_OK);
    const char *const *ends = cl_chat_ends(c);
    CU_ASSERT_STRING_EQUAL(ends[0], "<|x|>");
    CU_ASSERT_STRING_EQUAL(ends[3], "<|call|>");
    CU_ASSERT_PTR_NULL(ends[4]);
    cl_chat_free(c);
}

static void test_unfit(void)
{
    json_t *all = load(), *entry;
    size_t i;
    CU_ASSERT(json_array_size(json_object_get(all, "unfit")) >= 11);
    json_array_foreach(json_object_get(all, "unfit"), i, entry)
    {
        cl_chat *c = NULL;
        cl_err err = {0};
        cl_code code = cl_chat_from_template(json_string_value(entry), "", "", &c, &err);
        if (code == CL_OK) fprintf(stderr, "taken for a template: %s\n", json_string_value(entry));
        CU_ASSERT_EQUAL(code, CL_E_INPUT);
        CU_ASSERT_PTR_NULL(c);
        CU_ASSERT(strncmp(err.msg, "chat template: ", 15) == 0 && strstr(err.msg, "--chat-format"));
        cl_chat_free(c);
    }
    json_decref(all);
}

/* What is found by looking: the texts that end a turn. */
static void test_ends(void)
{
#define TURN "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
#define OPEN "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    static const struct {
        const char *template, *ends[3];
    } cases[] =
        {{TURN "<|end|>\n" OPEN, {"<|end|>"}},
         {TURN OPEN, {"<|user|>"}},
         {TURN "\n{{ eos_token }}" OPEN, {"(eos)"}},
         {TURN "[/END]" OPEN, {"[/END]"}},
         {TURN "< no mark >" OPEN, {NULL}},
         {TURN " [no mark" OPEN, {NULL}},
         {TURN "\n\n### next" OPEN, {NULL}},
         {TURN "<>" OPEN, {NULL}},
         {TURN "<|eot_id|>" OPEN, {"<|eot_id|>", "<|eom_id|>"}},
         {TURN "<|eot|>" OPEN, {"<|eot|>", "<|eom|>"}},
         {"{% for m in messages %}<|im_middle|>{{ m.content }}<|im_end|>" OPEN, {"<|im_end|>", "[EOS]"}},
         {"{% for m in messages %}{% if loop.index % 2 == 0 and loop.last %}{{ raise_exception('x') }}{% endif %}"
          "{{ m.content }}<|x|>{% endfor %}",
          {"<|x|>"}},
         {"{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}<|x|>",
          {NULL}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_chat *c = NULL;
        cl_err err = {0};
        CU_ASSERT_EQUAL_FATAL(cl_chat_from_template(cases[i].template, "(bos)", "(eos)", &c, &err), CL_OK);
        const char *const *ends = cl_chat_ends(c);
        for (int k = 0; k < 3; k++) {
            bool same = ends[k] && cases[i].ends[k] ? strcmp(ends[k], cases[i].ends[k]) == 0
                                                    : ends[k] == cases[i].ends[k];
            if (!same) fprintf(stderr, "%s: end %d is %s\n", cases[i].template, k, ends[k] ? ends[k] : "none");
            CU_ASSERT(same);
            if (!ends[k]) break;
        }
        cl_chat_free(c);
    }
}

/* The ends of named formats, as they always were. */
static void test_named_ends(void)
{
    static const struct {
        const char *name, *ends[3];
    } cases[] = {{"chatml", {"<|im_end|>"}},
                 {"qwen3", {"<|im_end|>"}},
                 {"llama3", {"<|eot_id|>", "<|eom_id|>"}},
                 {"llama3.1", {"<|eot_id|>", "<|eom_id|>"}},
                 {"mistral", {"</s>"}},
                 {"mistral-v0", {"</s>"}},
                 {"mistral-v1", {"</s>"}},
                 {"mistral-v3", {"</s>"}},
                 {"mistral-nemo", {"</s>"}},
                 {"llama4", {"<|eot|>", "<|eom|>"}},
                 {"deepseek-v2", {DEEPSEEK("end")}},
                 {"deepseek-r1-0528", {DEEPSEEK("end")}},
                 {"deepseek-v3.1-think", {DEEPSEEK("end")}},
                 {"kimi-k2", {"<|im_end|>", "[EOS]"}},
                 {"kimi-k2-thinking", {"<|im_end|>", "[EOS]"}},
                 {"harmony", {"<|return|>", "<|call|>"}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_chat *c = NULL;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(cl_chat_by_name(cases[i].name, &c, &err), CL_OK);
        const char *const *ends = cl_chat_ends(c);
        int k = 0;
        for (; ends[k] && cases[i].ends[k]; k++) CU_ASSERT_STRING_EQUAL(ends[k], cases[i].ends[k]);
        CU_ASSERT(!ends[k] && !cases[i].ends[k]);
        cl_chat_free(c);
    }
}

/* What a template would leave out without a word is refused. */
static void test_left_out(void)
{
    static const char user
        [] = "{\"role\":\"user\",\"content\":\"x\"}",
    system[] = "{\"role\":\"system\",\"content\":\"y\"}", developer[] = "{\"role\":\"developer\",\"content\":\"y\"}",
    calling[] =
        "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]}",
    tool[] = "{\"role\":\"tool\",\"content\":\"z\"}";
    static const char template[] = "{% for m in messages %}{% if m.role == 'user' or m.role == 'assistant' or (m.role "
                                   "== 'system' and loop.first and"
                                   " here) %}{{ m.content }}{% endif %}{% endfor %}";
    static const struct {
        bool here; /* the system message is written where it is the first */
        const char *messages[3], *tools, *part;
    } cases[] = {{true, {user}, NULL, NULL},
                 {true, {system, user}, NULL, NULL},
                 {false, {system, user}, NULL, "chat template: message 1: there are no system messages"},
                 {true, {user, system}, NULL, "chat template: message 2: a system message must be the first"},
                 {true, {user, developer}, NULL, "message 2: a system message must be the first"},
                 {true, {developer, user}, NULL, NULL},
                 {true, {user, calling}, NULL, "message 2: calls of tools are not known"},
                 {true, {user, user, tool}, NULL, "message 3: answers of tools are not known"},
                 {true, {user}, "[{}]", "chat template: tools are not known"},
                 {true, {user}, "[]", NULL},
                 {true, {"{}"}, NULL, "message 1: is no object with a role"},
                 {true, {user, "{\"role\": 1}"}, NULL, "message 2: is no object with a role"},
                 {true, {user, "1"}, NULL, "message 2: is no object with a role"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        cl_chat *c = NULL;
        cl_buf out = {0};
        cl_err err = {0};
        snprintf(text, sizeof text, "{%% set here = %s %%}%s", cases[i].here ? "true" : "false", template);
        CU_ASSERT_EQUAL_FATAL(cl_chat_from_template(text, "", "", &c, &err), CL_OK);
        json_t *messages = json_array(), *tools = cases[i].tools ? json_loads(cases[i].tools, 0, NULL) : NULL;
        for (int k = 0; k < 3 && cases[i].messages[k]; k++)
            json_array_append_new(messages, json_loads(cases[i].messages[k], JSON_DECODE_ANY, NULL));
        cl_code code = cl_chat_render(c, messages, tools, NULL, true, &out, &err);
        bool ok = cases[i].part ? code == CL_E_INPUT && strstr(err.msg, cases[i].part) && !out.len : code == CL_OK;
        if (!ok) fprintf(stderr, "left out, case %zu: '%s'\n", i, err.msg);
        CU_ASSERT(ok);
        json_decref(messages);
        json_decref(tools);
        cl_buf_free(&out);
        cl_chat_free(c);
    }
}

/* What a template says when it refuses reaches the user; what was in *out stays. */
static void test_errors(void)
{
    static const struct {
        const char *template, *message;
    } cases[] =
        {{"{% if messages[0].content == 'x' %}{{ raise_exception('Say more, please.') }}{% endif %}{{ "
          "messages[0].content }}",
          "chat template: Say more, please."},
         {"{{ messages[0].content }}{% if messages[0].content == 'x' %}{{ messages.no.more }}{% endif %}",
          "chat template: fails on these messages: 'more' of something undefined (name a format with --chat-format)"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_chat *c = NULL;
        cl_buf out = {0};
        cl_err err = {0};
        CU_ASSERT_EQUAL_FATAL(cl_chat_from_template(cases[i].template, "", "", &c, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_buf_str(&out, "kept", &err), CL_OK);
        CU_ASSERT_EQUAL(cl_chat_render_messages(c, (cl_message[]){{"user", "x"}}, 1, true, &out, &err), CL_E_INPUT);
        CU_ASSERT_STRING_EQUAL(err.msg, cases[i].message);
        CU_ASSERT_STRING_EQUAL(out.data, "kept");
        CU_ASSERT_EQUAL(cl_chat_render_messages(c, (cl_message[]){{"user", "y"}}, 1, true, &out, &err), CL_OK);
        CU_ASSERT_STRING_EQUAL(out.data, "kepty");
        cl_buf_free(&out);
        cl_chat_free(c);
    }
}

/* Variables of a caller's own reach the template, but can't take the place of the conversation. */
static void test_variables(void)
{
    cl_chat *c = NULL;
    cl_buf out = {0};
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(
        cl_chat_from_template(
            "{{ bos_token }}{{ messages[0].content }}{{ add_generation_prompt }}{{ tools }}{{ documents }}"
            "{{ mine }}{{ eos_token }}",
            "<s>", "</s>", &c, &err),
        CL_OK);
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "user", "content", "x"),
           *variables = json_pack("{s:s,s:s,s:s,s:s,s:s,s:i}", "mine", "yes", "messages", "no", "tools", "no",
                                  "bos_token", "no", "documents", "d", "add_generation_prompt", 1);
    CU_ASSERT_EQUAL(cl_chat_render(c, messages, NULL, variables, false, &out, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(out.data, "<s>xFalseNonedyes</s>");
    CU_ASSERT_EQUAL(json_object_size(variables), 6);
    out.len = 0;
    CU_ASSERT_EQUAL(cl_chat_render(c, messages, NULL, NULL, true, &out, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(out.data, "<s>xTrueNoneNone</s>");
    json_decref(messages);
    json_decref(variables);
    cl_buf_free(&out);
    cl_chat_free(c);
}

/* A vocabulary's own template, with its tokens. */
static void test_tokenizer(void)
{
    static vocab v;
    cl_tokenizer *t = NULL;
    cl_chat *c = NULL;
    cl_buf out = {0};
    cl_err err = {0};
    start_bytes(&v);
    v.d.bos = control(&v, "<bos>", 0);
    v.d.eos = control(&v, "<eos>", 0);
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, &v.d, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_chat_from_tokenizer(t, &c, &err), CL_OK);
    CU_ASSERT_PTR_NULL(c);
    v.d.chat_template =
        (char *)(uintptr_t) "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    CU_ASSERT_EQUAL_FATAL(cl_chat_from_tokenizer(t, &c, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_chat_render_messages(c, (cl_message[]){{"user", "x"}}, 1, true, &out, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(out.data, "<bos>x<eos>");
    CU_ASSERT_STRING_EQUAL(cl_chat_ends(c)[0], "<eos>");
    CU_ASSERT_PTR_NULL(cl_chat_ends(c)[1]);
    cl_chat_free(c);
    v.d.bos = -1;
    CU_ASSERT_EQUAL_FATAL(cl_chat_from_tokenizer(t, &c, &err), CL_OK);
    out.len = 0;
    CU_ASSERT_EQUAL(cl_chat_render_messages(c, (cl_message[]){{"user", "x"}}, 1, true, &out, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(out.data, "x<eos>");
    cl_chat_free(c);
    cl_buf_free(&out);
    cl_tokenizer_free(t);
}

/* 200 messages take milliseconds. */
static void test_long(void)
{
    json_t *all = load(), *tools = json_object_get(all, "tools"), *messages = json_array();
    cl_chat *c = by_template(json_array_get(json_object_get(all, "calls"), 2), "");
    cl_buf out = {0};
    cl_err err = {0};
    for (int i = 0; i < 200; i++)
        json_array_append_new(messages, json_pack("{s:s,s:s}", "role", i % 2 ? "assistant" : "user", "content",
                                                  "What is it that the line carries, and where does it go?"));
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        uint64_t t0 = cl_thread_cpu_ns(), t;
        out.len = 0;
        CU_ASSERT_EQUAL(cl_chat_render(c, messages, tools, NULL, true, &out, &err), CL_OK);
        t = cl_thread_cpu_ns() - t0;
        if (t < best) best = t;
    }
    CU_ASSERT(out.len > 200 * 55);
    CU_ASSERT(best < 50 * 1000000); /* 2 ms; more with sanitizers */
    if (best >= 50 * 1000000) fprintf(stderr, "200 messages take %.1f ms\n", (double)best * 1e-6);
    json_decref(messages);
    json_decref(all);
    cl_buf_free(&out);
    cl_chat_free(c);
}

static void test_names(void)
{
    const char *const *names = cl_chat_names();
    int n = 0;
    for (; names[n]; n++) {
        cl_chat *c = NULL;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(cl_chat_by_name(names[n], &c, &err), CL_OK);
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
    bool ok = cl_chat_render_messages(c, m, n, true, &out, &err) == CL_E_INPUT && strstr(err.msg, part) && out.len == 0;
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
    CU_ASSERT(refuses("harmony", 2, (cl_message[]){{"user", "x"}, {"assistant", "<|channel|>final<|message|>y"}},
                      "message 2: contains <|channel|>"));
    CU_ASSERT(refuses("harmony", 2, (cl_message[]){{"user", "x"}, {"system", "y"}},
                      "chat format harmony: message 2: a system message must be the first"));
}

static void test_dates(void)
{
    static const char *const good[] = {"2026-01-31", "2024-02-29", "2000-02-29", "2026-12-01"},
                             *const bad[] = {"2026-13-01", "2026-00-10",  "2026-02-29", "2026-02-30",
                                             "1900-02-29", "2100-02-29",  "2026-04-31", "2026-01-00",
                                             "2026-1-01",  "2026-01-011", "",           "yesterday"};
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
    CU_ASSERT_EQUAL(cl_chat_render_messages(c, (cl_message[]){{"user", " hi\n"}}, 1, true, &out, &err), CL_OK);
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
    CU_TestInfo tests[] = {{"templates", test_templates},
                           {"formats", test_formats},
                           {"calls", test_calls},
                           {"unfit", test_unfit},
                           {"unfit why", test_unfit_why},
                           {"many ends", test_many_ends},
                           {"ends", test_ends},
                           {"named ends", test_named_ends},
                           {"left out", test_left_out},
                           {"errors", test_errors},
                           {"variables", test_variables},
                           {"tokenizer", test_tokenizer},
                           {"long", test_long},
                           {"names", test_names},
                           {"refusals", test_refusals},
                           {"append", test_append},
                           {"dates", test_dates},
                           {"marks", test_marks},
                           CU_TEST_INFO_NULL};
    return run_suite("chat", tests);
}
