/* The interpreter of chat templates: what it gives is what Jinja gives; what it does not know, it says; and it ends,
 * whatever a template does. */
#include "jinja_render.h"

static void test_jinja(void)
{
    static const struct {
        const char *template, *want;
    } good[] = {
        {"", ""},
        {"text\n", "text"},
        {"text\n\n", "text\n"},
        {"{{ x }}", "3"},
        {"{{x}}{{ s }}{{ missing }}.", "3 Text ."},
        {"{{ true }}{{ None }}", "TrueNone"},
        {"a {{- x -}} b", "a3b"},
        {"a \n {%- if x %} b {% endif -%} \n c", "a b c"},
        {"{% if x %}\nb\n  {% endif %}\nc", "b\nc"},
        {"a\n  {# note #}\nb", "a\nb"},
        {"{%+ if x %} y{% endif +%}\nz", " y\nz"},
        {"  {% if x %}a{% endif %}", "a"},
        {" x  {% if x %}a{% endif %}", " x  a"},
        {"{{ 'a' 'b' + \"c\\n\\'\" }}", "abc\n'"},
        {"{{ 1 + 2 * 3 - 4 % 3 }}", "6"},
        {"{{ -x + 1 }}", "-2"},
        {"{{ 2 ** 10 }} {{ 3 ** 1 }} {{ 0 ** 0 }} {{ 0 ** 4 }} {{ (-1) ** 4 }} {{ (-2) ** 63 }}",
         "1024 3 1 0 1 -9223372036854775808"},
        {"{{ (-1) ** 9000000000000000001 }} {{ 1 ** 9000000000000000000 }}", "-1 1"}, /* soon */
        {"{{ ({'b': 1, 'a': 2} | dictsort(by=3))[0][0] }}{{ '-2.7' | int }}{{ 9007199254740993 | int }}",
         "a-29007199254740993"},
        {"{{ {'a\\x00b': 1, 'c': 2} | tojson }}", "{\"a\\u0000b\": 1, \"c\": 2}"},
        {"{% set l = [{'k': 1, 'v': 'a'}, {'k': 2, 'v': 'b'}, {'k': 1, 'v': 'c'}, {'k': 2, 'v': 'd'}] %}"
         "{% for i in l | sort(attribute='k') %}{{ i.v }}{% endfor %} "
         "{% for i in l | sort(true, attribute='k') %}{{ i.v }}{% endfor %} "
         "{{ (l | min(attribute='k')).v }}{{ (l | max(attribute='k')).v }}",
         "acbd bdac ab"}, /* equal ones keep their order, the first of them is the one */
        {"{{ x ~ s ~ true }}", "3 Text True"},
        {"{% set n = namespace({'a': 1, 'b': 2}, a=3) %}{{ n.a }}{{ n.b }}", "32"}, /* names come last, as in dict() */
        {"{{ 'a' < 'ab' }} {{ 'ab' < 'a' }} {{ 'a' <= 'a' }} {{ 'b' > 'ab' }} {{ '' < 'a' }} {{ 'ab' == 'a' }}",
         "True False True True True False"},
        {"{{ ['ab', 'a', 'b', ''] | sort | join(',') }}", ",a,ab,b"},
        {"{{ (1 + 2) * x }}", "9"},
        {"{{ 'y' if x == 3 else 'n' }}{{ 'y' if x > 3 else 'n' }}{{ 'z' if not x }}", "yn"},
        {"{{ 'a' if x and nothing else 'b' }}", "b"},
        {"{{ nothing or missing or 'd' }}{{ x and 'e' }}", "de"},
        {"{{ missing.a.b if false else 1 }}{{ x or missing.a }}", "13"},
        {"{% if x == 1 %}a{% elif x == 3 %}b{% elif x == 3 %}c{% else %}d{% endif %}", "b"},
        {"{% if 0 %}a{% else %}{% if '' %}b{% else %}c{% endif %}{% endif %}", "c"},
        {"{% for i in l %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "1,2,3"},
        {"{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{% endfor %}", "10True21False32False"},
        {"{% for i in l if i != 2 %}{{ i }}/{{ loop.length }} {% endfor %}", "1/2 3/2 "},
        {"{% for i in [] %}a{% else %}none{% endfor %}{% for i in missing %}a{% endfor %}", "none"},
        {"{% for k, v in o.items() %}{{ k }}={{ v }}{% endfor %}", "k=v"},
        {"{% for i in l %}{% for j in l %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
         "11 21 31 "},
        {"{% for i in l %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"},
        {"{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}", "012531"},
        {"{% set y = 1 %}{% for i in l %}{% set y = i %}{% endfor %}{{ y }}", "1"},
        {"{% set n = namespace(y=1, z='q') %}{% for i in l %}{% set n.y = n.y + i %}{% endfor %}{{ n.y }}{{ n.z }}",
         "7q"},
        {"{% set b %}in {{ x }}{% endset %}[{{ b }}]", "[in 3]"},
        {"{{ l[0] }}{{ l[-1] }}{{ o['k'] }}{{ o.k }}{{ o.no }}", "13vv"},
        {"{% for i in l[::-1] %}{{ i }}{% endfor %}{% for i in l[1:] %}{{ i }}{% endfor %}{% for i in l[-2:-1] %}{{ i "
         "}}{% "
         "endfor %}",
         "321232"},
        {"{{ s | trim }}{{ s|trim|length }}{{ l | length }}", "Text43"},
        {"{{ s.strip() }}{{ 'xxaxx'.strip('x') }}{{ '  b '.lstrip() }}{{ ' c '.rstrip() }}", "Textab  c"},
        {"{{ 'a,b,c'.split(',')[1] }}{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith('ab') }}", "bTrueFalse"},
        {"{{ 'b' in 'abc' }}{{ 'k' in o }}{{ 4 in l }}{{ 4 not in l }}", "TrueTrueFalseTrue"},
        {"{{ x is defined }}{{ y is defined }}{{ nothing is none }}{{ s is string }}{{ x is not string }}{{ o is "
         "mapping }}",
         "TrueFalseTrueTrueTrueTrue"},
        {"{% for m in [o, {'k': 'w'}] | selectattr('k', 'equalto', 'w') | list %}{{ m.k }}{% endfor %}", "w"},
        {"{{ missing | default('d') }}{{ o.get('k') }}{{ o.get('q', 'r') }}", "dvr"},
        {"{% if false %}{{ unknown(1, a=2) | strange(b=3) }}{% for z in 7 %}{% endfor %}{% endif %}ok", "ok"},
        {"{% macro m(a, b=1) %}{{ a }}{% endmacro %}ok", "ok"},
        {"{% macro m(a, b=x) -%} <{{ a }}{{ b }}> {%- endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=4, a='q') }}{{ m() ~ "
         "'.' }}",
         "<13><12><q4><3>."},
        {"{% macro m() %}{{ i is defined }}{{ x }}{% set x = 9 %}{{ x }}{% endmacro %}{% for i in [1] %}{{ m() }}{% "
         "endfor %}{{ x }}",
         "False393"},
        {"{% macro a(n) %}{{ n }}{% if n %}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(3) }}{{ a(1) | length }}",
         "32102"},
        {"{% macro a() %}1{% endmacro %}{% macro a() %}2{% endmacro %}{{ a() }}{% if false %}{% macro a() %}3{% "
         "endmacro %}{% endif %}{{ a() }}",
         "22"},
        {"{% macro a(l) %}{% for i in l %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{{ "
         "a(l) }}",
         "1"},
        {"{{ 'a-b-c'.split('-', 1)[1] }}{{ 'a-b-c'.split('-', 0)[0] }}{{ 'ab'.split('-', 1)[0] }}", "b-ca-b-cab"},
        {"{% if false %}{{ x | tojson(separators=(',', ':')) }}{% endif %}{{ strftime_now is defined }}{{ "
         "strftime_now('%Y-%m-%d') | length }}",
         "False10"},
        {"{% generation %}g{% endgeneration %}", "g"},
        {"{{ 2 == 2.0 if false else [1, 2] == [1, 2] }}", "True"},
        {"{{ False }}{{ True }}{{ None }}{{ false }}{{ true }}{{ none }}", "FalseTrueNoneFalseTrueNone"},
        {"{{ 8 // 2 * 3 }} {{ 5 - 2 + 1 }} {{ 7 % 4 * 2 }} {{ 2 ~ 3 ~ 4 }} {{ 2 * 9 // 4 * 3 % 5 / 2 }}",
         "12 4 6 234 1.0"}, /* operators of one rank follow each other in any order */
        {"{{ '\\x7f\\x80\\u07ff\\u0800\\ud7ff\\ue000\\uffff\\U00010000\\U0010ffff' }}",
         "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        {"{{ ['\\u007e\\u007f\\u0080\\u009f\\u00a0\\u00a1'] }}", "['~\\x7f\\x80\\x9f\\xa0\xc2\xa1']"},
        {"{{ '\\u007e\\u007f\\u0080\\u009f\\u00a0\\u00a1' | tojson }}",
         "\"~\x7f\xc2\x80\xc2\x9f\xc2\xa0\xc2\xa1\""}, /* JSON has no need to escape them */
        {"{{ {'ab': 1, 'a': 2, '': 3, 'b': 4} | tojson(sort_keys=true) }}", "{\"\": 3, \"a\": 2, \"ab\": 1, \"b\": 4}"},
        {"{{ range(0, 60000, 3) | length }} {{ range(0, 200000, 2) | length }} {{ range(0, -100000, -1) | length }}",
         "20000 100000 100000"}, /* the limit is one of numbers, not of how far they go */
        {"{{ range(0, 6, 3) }}{{ range(0, 7, 3) }}{{ range(7, 0, -3) }}{{ range(6, 0, -3) }}{{ range(5, 5) }}"
         "{{ range(5, 4) }}{{ range(4, 5, -1) }}{{ range(5, 4, -1) }}",
         "[0, 3][0, 3, 6][7, 4, 1][6, 3][][][][5]"},
        {"{{ [{'k': 'a'}, {'k': 'b'}] | join(',', 'k') }}", "a,b"},
        {"{{ ['a', 'B'] | min }}{{ ['a', 'B'] | min(true) }}{{ ['a', 'B'] | max }}{{ ['a', 'B'] | max(true) }}",
         "aBBa"},
        {"{{ [{'k': 'a'}, {'k': 'B'}] | min(true, 'k') }}", "{'k': 'B'}"},
        {"{{ missing | default }}.{{ missing | default(default_value='d') }}{{ '' | default('e', true) }}"
         "{{ '' | default('f') }}",
         ".de"},
        {"{{ 'ab'.rsplit('ab') }}{{ 'ab'.rfind('ab') }}{{ 'ab'.rfind('abc') }}{{ 'ab'.rfind('b') }}{{ 'ab'.rfind('') "
         "}}",
         "['', '']0-112"},
        {"{{ range(10000) | sort | length }}", "10000"}, /* what is in order already costs little */
        {"{{ 'a'.format(1, 2, 3, 4, 5, 6, 7, 8) }}", "a"}};
    static const char *const bad[] =
        {"{{",
         "{{ x",
         "{% if x %}",
         "{% endif %}",
         "{% if %}a{% endif %}",
         "{% for i %}{% endfor %}",
         "{% for i in x %}{% endfor %}",
         "{{ 'a }}",
         "{{ s + x }}",
         "{{ s < x }}",
         "{{ missing.a }}",
         "{{ missing + 'a' }}",
         "{{ l[::0] }}",
         "{{ f() }}",
         "{{ raise_exception('no') }}",
         "{% include 'x' %}",
         "{% set o.k %}a{% endset %}{% set x.y = 1 %}",
         "{% break %}",
         "{{ (1, 2) }}",
         "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
         "{% macro a(b) %}{% endmacro %}{{ a(1, 2) }}",
         "{% macro a(b) %}{% endmacro %}{{ a(c=1) }}",
         "{% macro a(b) %}{% endmacro %}{{ a(1, b=1) }}",
         "{% macro a %}{% endmacro %}{{ a() }}",
         "{% macro a() %}{% break %}{% endmacro %}{% for i in l %}{{ a() }}{% endfor %}",
         "{% macro a() %}{{ raise_exception('no') }}{% endmacro %}{{ a() }}",
         "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(20) }}",
         "{{ strftime_now() }}",
         "{{ 'a'.split('b', 'c') }}",
         "{{ 9223372036854775807 + 1 }}",
         "{# a",
         "{{ x y }}",
         "{% for a in range(9999999) %}{% endfor %}",
         "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
         "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) CU_ASSERT(gives(good[i].template, good[i].want));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CU_ASSERT(gives(bad[i], NULL));
}

/* Depth is bounded, whatever nests. */
static void test_jinja_depth(void)
{
    static const struct {
        const char *open, *inner, *close;
    } deep[] = {{"{{ (", "1", ")"},
                {"{{ [", "1", "]"},
                {"{% if x %}", "", "{% endif %}"},
                {"{% for a in l %}", "", "{% endfor %}"}};
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        cl_buf b = {0};
        cl_err err;
        for (int k = 0; k < 3000; k++)
            CU_ASSERT_EQUAL(cl_buf_str(&b, k && i < 2 ? deep[i].open + 3 : deep[i].open, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_buf_str(&b, deep[i].inner, &err), CL_OK);
        for (int k = 0; k < 3000; k++) CU_ASSERT_EQUAL(cl_buf_str(&b, deep[i].close, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_buf_str(&b, i < 2 ? "}}" : "", &err), CL_OK);
        CU_ASSERT(gives(b.data, NULL));
        cl_buf_free(&b);
    }
}

/* Templates in fixtures/tokenizers/jinja.json. */
static void test_cases(void)
{
    json_error_t e;
    json_t *all = json_load_file(CL_FIXTURES "/tokenizers/jinja.json", 0, &e), *one;
    CU_ASSERT_PTR_NOT_NULL_FATAL(all);
    const char *date = json_string_value(json_object_get(all, "date"));
    json_t *vars = json_object_get(all, "variables"), *before = json_deep_copy(vars);
    size_t i;
    CU_ASSERT(json_array_size(json_object_get(all, "cases")) >= 170);
    json_array_foreach(json_object_get(all, "cases"), i, one)
    {
        const char *template = json_string_value(json_array_get(one, 0)),
                   *want = json_string_value(json_array_get(one, 1));
        char why[JINJA_WHY];
        cl_buf out = {0};
        jinja_result r = render(template, vars, date, &out, why);
        bool same = want ? r == JINJA_OK && strcmp(out.data ? out.data : "", want) == 0 : r != JINJA_OK && *why;
        if (!same)
            fprintf(stderr, "%s:\n%s\ninstead of\n%s\n", template, r ? why : out.data, want ? want : "(an error)");
        CU_ASSERT(same);
        cl_buf_free(&out);
    }
    CU_ASSERT(json_equal(vars, before)); /* a template changes nothing of what it is given */
    json_decref(before);
    json_decref(all);
}

int main(void)
{
    CU_TestInfo tests[] = {{"jinja", test_jinja},
                           {"depth", test_jinja_depth},
                           {"cases", test_cases},
                           CU_TEST_INFO_NULL};
    return run_counted("chat templates", tests);
}
