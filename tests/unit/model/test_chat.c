/* Chat formats: equal to what Jinja makes of the templates in fixtures/tokenizers/chat.json, found from them, and nothing else found. */
#include <jansson.h>

#include "chat_jinja.h"
#include "chipline/chat.h"
#include "suite.h"

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
    CU_ASSERT(json_array_size(cases) >= 20);
    json_array_foreach(cases, i, one) {
        cl_message m[MAX_TURNS];
        int n = messages_of(json_object_get(one, "messages"), m);
        const json_t *want = json_object_get(one, "text");
        cl_buf got = {0};
        cl_code code = cl_chat_render(c, m, n, json_is_true(json_object_get(one, "generation")), &got, &err);
        bool same = json_is_null(want) ? code == CL_E_INPUT : code == CL_OK && strcmp(got.data, json_string_value(want)) == 0;
        if (!same) fprintf(stderr, "%s, case %zu:\n%s\ninstead of\n%s\n", name, i, code ? err.msg : got.data, json_string_value(want));
        CU_ASSERT(same);
        cl_buf_free(&got);
    }
    cl_chat_free(c);
}

static void test_templates(void)
{
    json_t *all = load(), *entry;
    size_t i;
    CU_ASSERT(json_array_size(json_object_get(all, "fitting")) >= 14);
    json_array_foreach(json_object_get(all, "fitting"), i, entry) check_template(entry);
    json_decref(all);
}

static void test_unfit(void)
{
    json_t *all = load(), *entry;
    size_t i;
    CU_ASSERT(json_array_size(json_object_get(all, "unfit")) >= 20);
    json_array_foreach(json_object_get(all, "unfit"), i, entry) {
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
    CU_ASSERT(refuses("mistral-v3", 3, (cl_message[]){{"user", "x"}, {"assistant", "y"}, {"system", "z"}}, "message 3: is system"));
    CU_ASSERT(refuses("qwen3", 1, (cl_message[]){{"user", "<tool_response>x</tool_response>"}}, "tools are not supported"));
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
    CU_ASSERT_STRING_EQUAL(out.data, "><|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
                                     "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                                     "<|start_header_id|>assistant<|end_header_id|>\n\n");
    cl_chat_free(c);
    cl_buf_free(&out);
}

/* --- the interpreter --- */

/* What a template gives for x = 3, s = " Text ", l = [1, 2, 3], o = {"k": "v"}, nothing = none; NULL: it is not understood or raises. */
static bool jinja_gives(const char *template, const char *want)
{
    json_t *vars = json_pack("{s:i,s:s,s:[iii],s:{s:s},s:n}", "x", 3, "s", " Text ", "l", 1, 2, 3, "o", "k", "v", "nothing");
    cl_buf out = {0};
    char why[JINJA_WHY];
    jinja_result r = jinja_render(template, vars, &out, why);
    bool ok = want ? r == JINJA_OK && strcmp(out.data ? out.data : "", want) == 0 : r != JINJA_OK && *why;
    if (!ok) fprintf(stderr, "%.200s: '%.200s' (%d %s) instead of '%s'\n", template, out.data ? out.data : "", (int)r, why, want ? want : "(nothing)");
    cl_buf_free(&out);
    json_decref(vars);
    return ok;
}

static void test_jinja(void)
{
    static const struct { const char *template, *want; } good[] = {
        {"", ""}, {"text\n", "text"}, {"text\n\n", "text\n"}, {"{{ x }}", "3"}, {"{{x}}{{ s }}{{ missing }}.", "3 Text ."}, {"{{ true }}{{ None }}", "TrueNone"},
        {"a {{- x -}} b", "a3b"}, {"a \n {%- if x %} b {% endif -%} \n c", "a b c"}, {"{% if x %}\nb\n  {% endif %}\nc", "b\nc"}, {"a\n  {# note #}\nb", "a\nb"},
        {"{%+ if x %} y{% endif +%}\nz", " y\nz"}, {"  {% if x %}a{% endif %}", "a"}, {" x  {% if x %}a{% endif %}", " x  a"},
        {"{{ 'a' 'b' + \"c\\n\\'\" }}", "abc\n'"}, {"{{ 1 + 2 * 3 - 4 % 3 }}", "6"}, {"{{ -x + 1 }}", "-2"}, {"{{ x ~ s ~ true }}", "3 Text True"}, {"{{ (1 + 2) * x }}", "9"},
        {"{{ 'y' if x == 3 else 'n' }}{{ 'y' if x > 3 else 'n' }}{{ 'z' if not x }}", "yn"}, {"{{ 'a' if x and nothing else 'b' }}", "b"},
        {"{{ nothing or missing or 'd' }}{{ x and 'e' }}", "de"}, {"{{ missing.a.b if false else 1 }}{{ x or missing.a }}", "13"},
        {"{% if x == 1 %}a{% elif x == 3 %}b{% elif x == 3 %}c{% else %}d{% endif %}", "b"}, {"{% if 0 %}a{% else %}{% if '' %}b{% else %}c{% endif %}{% endif %}", "c"},
        {"{% for i in l %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "1,2,3"}, {"{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{% endfor %}", "10True21False32False"},
        {"{% for i in l if i != 2 %}{{ i }}/{{ loop.length }} {% endfor %}", "1/2 3/2 "}, {"{% for i in [] %}a{% else %}none{% endfor %}{% for i in missing %}a{% endfor %}", "none"}, {"{% for k, v in o.items() %}{{ k }}={{ v }}{% endfor %}", "k=v"},
        {"{% for i in l %}{% for j in l %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}", "11 21 31 "},
        {"{% for i in l %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"}, {"{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}", "012531"},
        {"{% set y = 1 %}{% for i in l %}{% set y = i %}{% endfor %}{{ y }}", "1"}, {"{% set n = namespace(y=1, z='q') %}{% for i in l %}{% set n.y = n.y + i %}{% endfor %}{{ n.y }}{{ n.z }}", "7q"},
        {"{% set b %}in {{ x }}{% endset %}[{{ b }}]", "[in 3]"}, {"{{ l[0] }}{{ l[-1] }}{{ o['k'] }}{{ o.k }}{{ o.no }}", "13vv"}, {"{% for i in l[::-1] %}{{ i }}{% endfor %}{% for i in l[1:] %}{{ i }}{% endfor %}{% for i in l[-2:-1] %}{{ i }}{% endfor %}", "321232"},
        {"{{ s | trim }}{{ s|trim|length }}{{ l | length }}", "Text43"}, {"{{ s.strip() }}{{ 'xxaxx'.strip('x') }}{{ '  b '.lstrip() }}{{ ' c '.rstrip() }}", "Textab  c"},
        {"{{ 'a,b,c'.split(',')[1] }}{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith('ab') }}", "bTrueFalse"}, {"{{ 'b' in 'abc' }}{{ 'k' in o }}{{ 4 in l }}{{ 4 not in l }}", "TrueTrueFalseTrue"},
        {"{{ x is defined }}{{ y is defined }}{{ nothing is none }}{{ s is string }}{{ x is not string }}{{ o is mapping }}", "TrueFalseTrueTrueTrueTrue"},
        {"{% for m in [o, {'k': 'w'}] | selectattr('k', 'equalto', 'w') | list %}{{ m.k }}{% endfor %}", "w"}, {"{{ missing | default('d') }}{{ o.get('k') }}{{ o.get('q', 'r') }}", "dvr"},
        {"{% if false %}{{ unknown(1, a=2) | strange(b=3) }}{% for z in 7 %}{% endfor %}{% endif %}ok", "ok"}, {"{% macro m(a, b=1) %}{{ a }}{% endmacro %}ok", "ok"},
        {"{% generation %}g{% endgeneration %}", "g"}, {"{{ 2 == 2.0 if false else [1, 2] == [1, 2] }}", "True"}};
    static const char *const bad[] = {"{{", "{{ x", "{% if x %}", "{% endif %}", "{% if %}a{% endif %}", "{% for i %}{% endfor %}", "{% for i in x %}{% endfor %}", "{{ 'a }}", "{{ 1.5 }}", "{{ x / 2 }}",
        "{{ l }}", "{{ s + x }}", "{{ s < x }}", "{{ missing.a }}", "{{ missing + 'a' }}", "{{ s[0] }}", "{{ s[:-1] }}", "{{ l[::0] }}", "{{ x | upper }}", "{{ x is even }}", "{{ s.title() }}", "{{ f() }}",
        "{{ raise_exception('no') }}", "{% include 'x' %}", "{% set o.k %}a{% endset %}{% set x.y = 1 %}", "{% break %}", "{{ (1, 2) }}", "{{ 9223372036854775807 + 1 }}", "{# a", "{{ 'a\\q' }}", "{{ x y }}", "a\rb",
        "{% for a in range(9999999) %}{% endfor %}", "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}", "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) CU_ASSERT(jinja_gives(good[i].template, good[i].want));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CU_ASSERT(jinja_gives(bad[i], NULL));
}

/* Depth is bounded, whatever nests. */
static void test_jinja_depth(void)
{
    static const struct { const char *open, *inner, *close; } deep[] = {{"{{ (", "1", ")"}, {"{{ [", "1", "]"}, {"{% if x %}", "", "{% endif %}"}, {"{% for a in l %}", "", "{% endfor %}"}};
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        cl_buf b = {0};
        cl_err err;
        for (int k = 0; k < 3000; k++) CU_ASSERT_EQUAL(cl_buf_str(&b, k && i < 2 ? deep[i].open + 3 : deep[i].open, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_buf_str(&b, deep[i].inner, &err), CL_OK);
        for (int k = 0; k < 3000; k++) CU_ASSERT_EQUAL(cl_buf_str(&b, deep[i].close, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_buf_str(&b, i < 2 ? "}}" : "", &err), CL_OK);
        CU_ASSERT(jinja_gives(b.data, NULL));
        cl_buf_free(&b);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"templates", test_templates}, {"unfit", test_unfit}, {"names", test_names},             {"refusals", test_refusals},
                           {"append", test_append},       {"jinja", test_jinja}, {"jinja, depth", test_jinja_depth}, CU_TEST_INFO_NULL};
    return run_suite("chat", tests);
}
