/* What a chat template is refused with, word for word, and what it may take: time, depth, memory. */
#include "jinja_render.h"

/* A template says nothing but `why`. */
static bool refused(const char *template, const char *date, const char *want)
{
    json_t *vars = some_variables();
    char why[JINJA_WHY];
    cl_buf out = {0};
    bool same = render(template, vars, date, &out, why) == JINJA_FAILED && strcmp(why, want) == 0;
    if (!same) fprintf(stderr, "%.200s: '%s' instead of '%s'\n", template, why, want);
    cl_buf_free(&out);
    json_decref(vars);
    return same;
}

#define NINES_21 "999999999999999999999"
#define NINES_63 NINES_21 NINES_21 NINES_21

static void test_why(void)
{
    static const struct {
        const char *why, *templates[12];
    } cases[] = {
        /* the text */
        {"a tag does not end", {"{{", "{{ x", "{% if x", "{{ {'a': 1 }}"}},
        {"a string does not end", {"{{ 'a }}", "{{ \"a' }}", "{{ 'a\\' }}"}},
        {"a comment does not end", {"{# a"}},
        {"{% raw %} does not end", {"{% raw %}a", "{%- raw -%}{% endraw"}},
        {"a character that belongs to no expression", {"{{ \xc3\xa9 }}", "{% if \x01 %}"}},
        {"the statement frobnicate is not known", {"{% frobnicate %}", "{% frobnicate x %}{% endfrobnicate %}"}},
        {"the statement 1 is not known", {"{% 1 %}"}},
        {"a block ends that did not begin", {"{% endif %}", "a{% else %}", "{% endfor %}b"}},
        {"leaves a loop outside of one", {"{% break %}", "{% continue %}", "{% for i in l %}{% endfor %}{% break %}"}},
        {"'endfor' where endif is expected", {"{% if x %}{% endfor %}", "{% if x %}{% else %}{% endfor %}"}},
        {"'else' where endif is expected", {"{% if x %}{% else %}{% else %}{% endif %}"}},
        {"'endif' where endfor is expected", {"{% for i in l %}{% endif %}", "{% for i in l %}{% else %}{% endif %}"}},
        {"'endif' where endmacro is expected", {"{% macro a() %}{% endif %}"}},
        {"'endif' where endset is expected", {"{% set a %}{% endif %}"}},
        {"'endif' where endwith is expected", {"{% with %}{% endif %}"}},
        {"'endif' where endfilter is expected", {"{% filter trim %}{% endif %}"}},
        {"'endif' where endgeneration is expected", {"{% generation %}{% endif %}"}},
        {"'' where something else is expected", {"{% if x %}", "{% for i in l %}", "{{ x. }}", "{{ x is }}"}},
        {"'' where = is expected", {"{% set a, b %}x{% endset %}", "{% with a %}{% endwith %}"}},
        {"'l' where in is expected", {"{% for i l %}{% endfor %}"}},
        {"'y' where something else is expected",
         {"{{ x y }}", "{% if x y %}{% endif %}", "{% with a = 1 y = 2 %}{% endwith %}"}},
        {"'1' where something else is expected",
         {"{{ x.1 }}", "{{ x is 1 }}", "{{ x | 1 }}", "{% set 1 = 2 %}", "{% for 1 in l %}", "{% macro 1() %}"}},
        {"',' where something else is expected", {"{{ 1, 2 }}"}},
        {"'2' where ) is expected", {"{{ (1 2) }}", "{{ f(1 2) }}", "{{ x | f(1 2) }}", "{% macro a(b 2) %}"}},
        {"'2' where ] is expected", {"{{ [1 2] }}", "{{ l[1 2] }}"}},
        {"'2' where : is expected", {"{{ {1 2} }}"}},
        {"'2' where } is expected", {"{{ {1: 2 2} }}"}},
        {"'' in an expression", {"{{ }}", "{{ x + }}", "{% if %}", "{{ 'a' if }}", "{{ not }}"}},
        {"'*' in an expression", {"{{ * }}", "{{ x + * and more of it, longer than what is shown of any token }}"}},
        {"'**' in an expression", {"{{ ** }}"}},
        {"'[]' behind a value", {"{{ l[] }}"}},
        {"a slice with more than 3 parts", {"{{ l[1:2:3:4] }}", "{{ l[:::] }}"}},
        {"a string has the escape \\ud800", {"{{ '\\ud800' }}"}},
        {"a string has the escape \\udfff", {"{{ '\\udfff' }}"}},
        {"a string has the escape \\u12", {"{{ '\\u12' }}"}},
        {"a string has the escape \\xg0", {"{{ '\\xg0' }}"}},
        {"a string has the escape \\U00110000", {"{{ '\\U00110000' }}"}},
        {"the number 9223372036854775808", {"{{ 9223372036854775808 }}", "{{ 9_223_372_036_854_775_808 }}"}},
        {"the number 1e309", {"{{ 1e309 }}"}},
        /* 63 letters are read */
        {"the number " NINES_63, {"{{ " NINES_63 " }}", "{{ " NINES_63 "9 }}", "{{ " NINES_63 ".5 }}"}},
        /* names, members, items */
        {"'b' of something undefined", {"{{ q.b }}", "{{ o.q.b }}"}},
        {"an item of something undefined", {"{{ q['b'] }}", "{{ q[0] }}"}},
        {"a slice with step 0", {"{{ l[::0] }}", "{{ s[::0] }}"}},
        {"a slice of something that has no order", {"{{ x[1:] }}", "{{ q[1:] }}", "{{ o[1:] }}"}},
        {"sets a member of something else than a namespace", {"{% set x.y = 1 %}", "{% set o.k %}a{% endset %}"}},
        {"2 names for something else than 2 values",
         {"{% set a, b = [1] %}", "{% set a, b = [1, 2, 3] %}", "{% for a, b in l %}{% endfor %}"}},
        /* operators */
        {"a number out of range",
         {"{{ 2 ** 63 }}", "{{ 2 ** -1 }}", "{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}",
          "{{ 9223372036854775807 * 2 }}", "{{ 1e30 | int }}", "{{ '-1e30' | int }}",
          "{{ (-9223372036854775807 - 1) | abs }}", "{{ -(-9223372036854775807 - 1) }}", "{{ 1e308 * 10 }}",
          "{{ -1e308 - 1e308 }}"}},
        {"a division by 0", {"{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1.5 / 0 }}", "{{ 1.5 // 0 }}"}},
        {"'**' of fractions", {"{{ 1.5 ** 2 }}"}},
        {"'%' of fractions", {"{{ 1.5 % 2 }}"}},
        {"'+' of something undefined", {"{{ q + 1 }}", "{{ 1 + q }}", "{{ l + q }}", "{{ q + l }}"}},
        {"'**' of something undefined", {"{{ 1 ** q }}"}},
        {"'+' of values that it does not fit", {"{{ 'a' + 1 }}", "{{ l + 1 }}", "{{ nothing + 1 }}"}},
        {"'-' of values that it does not fit", {"{{ l - l }}", "{{ 'a' - 'a' }}"}},
        {"minus something that is no number", {"{{ -'a' }}", "{{ -q }}"}},
        {"a comparison of values that have no order",
         {"{{ l < l }}", "{{ s < x }}", "{{ q >= 1 }}", "{{ [1, 'a'] | max }}"}},
        {"'in' something that holds nothing", {"{{ 1 in 1 }}", "{{ 'a' not in none }}"}},
        {"a mapping with keys that are no texts or numbers", {"{{ {l: 1} }}", "{{ {1.5: 1} }}", "{{ {q: 1} }}"}},
        /* calls */
        {"a call with more than 8 arguments", {"{{ 'a'.format(1, 2, 3, 4, 5, 6, 7, 8, 9) }}"}},
        {"a call of something that is no function", {"{{ x() }}", "{{ l[0]() }}", "{{ 'a'() }}"}},
        {"the function frobnicate", {"{{ frobnicate() }}"}},
        {"the function range", {"{{ range() }}", "{{ range(1, 2, 3, 4) }}"}},
        {"range() of something that is no number", {"{{ range('a') }}", "{{ range(1, 2.0) }}", "{{ range(q) }}"}},
        {"range() of more than 100000 numbers",
         {"{{ range(100001) }}", "{{ range(3, 100004) }}", "{{ range(0, 200001, 2) }}", "{{ range(0, -100001, -1) }}"}},
        {"range() with a step of 0", {"{{ range(1, 2, 0) }}", "{{ range(1, 1, 0) }}"}},
        {"the function strftime_now", {"{{ strftime_now() }}", "{{ strftime_now('a', 'b') }}"}},
        {"strftime_now() of something that is no text", {"{{ strftime_now(1) }}", "{{ strftime_now(q) }}"}},
        {"the function namespace", {"{{ namespace(o, o) }}"}},
        {"the function dict", {"{{ dict(o) }}"}},
        {"raise_exception() without a text", {"{{ raise_exception() }}", "{{ raise_exception('a', 'b') }}"}},
        {"the macro m is called with arguments that it does not take",
         {"{% macro m(b) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(b) %}{% endmacro %}{{ m(c=1) }}",
          "{% macro m(b) %}{% endmacro %}{{ m(1, b=1) }}"}},
        {"the method m of something undefined", {"{{ q.m() }}"}},
        {"the method m", {"{{ x.m() }}", "{{ l.m() }}", "{{ nothing.m() }}", "{{ o.items.m() }}"}},
        {"the method frobnicate of a text", {"{{ 'a'.frobnicate() }}"}},
        {"the method pop of a mapping", {"{{ o.pop('k') }}"}},
        {"the method cycle of a mapping", {"{{ {'index0': -1}.cycle('a', 'b') }}", "{{ o.cycle('a') }}"}},
        /* texts */
        {"strip() of characters outside ASCII", {"{{ s.strip('\xc3\xa9') }}", "{{ s | trim('\xc3\xa9') }}"}},
        {"split() with a number of cuts that is none", {"{{ s.split('b', 'c') }}", "{{ s.rsplit('b', none) }}"}},
        {"split() without a separator", {"{{ s.split('') }}", "{{ s.split(1) }}", "{{ s.rsplit(none, 1) }}"}},
        {"replace() of something that is no text",
         {"{{ s.replace('', 'b') }}", "{{ s.replace('a') }}", "{{ s | replace(1, 'b') }}"}},
        {"the beginning or end of a text that is no text",
         {"{{ s.startswith(1) }}", "{{ s.endswith(['a', 1]) }}", "{{ s.removeprefix() }}", "{{ s.removesuffix(1) }}"}},
        {"find() of something that is no text", {"{{ s.find(1) }}", "{{ s.rfind(q) }}"}},
        {"count() of something that is no text", {"{{ s.count('') }}", "{{ s.count(1) }}"}},
        {"join() of something that is no list", {"{{ s.join(1) }}", "{{ s.join('ab') }}", "{{ s.join() }}"}},
        {"join() of values that are no texts", {"{{ s.join([1]) }}", "{{ s.join(['a', none]) }}"}},
        {"format() of fields that are more than a name or number",
         {"{{ '{'.format(1) }}", "{{ '}'.format(1) }}", "{{ '{0:d}'.format(1) }}", "{{ '{1}'.format(1) }}",
          "{{ '{}{}'.format(1) }}", "{{ '{a}'.format(b=1) }}"}},
        /* filters and tests */
        {"the filter frobnicate",
         {"{{ x | frobnicate }}", "{{ l | map('frobnicate') }}", "{% filter frobnicate %}a{% endfilter %}",
          "{% set a | frobnicate %}a{% endset %}"}},
        {"the filter abs of no number", {"{{ s | abs }}", "{{ l | abs }}", "{{ q | abs }}"}},
        {"the filter int of no number", {"{{ q | int }}"}},
        {"the filter float of no number", {"{{ q | float }}"}},
        {"the length of something without one",
         {"{{ x | length }}", "{{ nothing | count }}", "{{ o.items | length }}"}},
        {"a loop over something that is no list",
         {"{% for i in x %}{% endfor %}", "{{ x | list }}", "{{ nothing | sort }}", "{{ o.items | first }}"}},
        {"a selection by something that is no name",
         {"{{ l | select(1) }}", "{{ l | reject(q) }}", "{{ l | selectattr }}", "{{ l | rejectattr(q) }}"}},
        {"map() without a filter or an attribute", {"{{ l | map }}", "{{ l | map(1) }}"}},
        {"map() to something undefined", {"{{ [o] | map(attribute='q') }}", "{{ [[]] | map('first') }}"}},
        {"tojson of something undefined", {"{{ q | tojson }}"}},
        {"tojson with an indent of 17", {"{{ l | tojson(indent=17) }}"}},
        {"tojson with separators that are no texts",
         {"{{ l | tojson(separators=(1, ':')) }}", "{{ l | tojson(separators=(',', 1)) }}"}},
        {"the test frobnicate", {"{{ x is frobnicate }}", "{{ l | select('frobnicate') }}"}},
        {"the test eq", {"{{ x is eq }}", "{{ x is eq(1, 2) }}"}},
        {"the test odd", {"{{ 'a' is odd }}", "{{ q is odd }}"}},
        {"the test divisibleby", {"{{ x is divisibleby 0 }}", "{{ 'a' is divisibleby 2 }}"}},
        {"the case of a letter that becomes several", {"{{ '\xc3\x9f' | upper }}", "{{ '\xc3\x9f'.title() }}"}},
        /* what cannot be printed */
        {"prints a tuple", {"{{ (1, 2) }}", "{{ () }}"}},
        {"prints a method or a namespace",
         {"{{ o.items }}", "{{ [o.items] }}", "{{ namespace() }}", "{{ [namespace()] }}"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int k = 0; k < 12 && cases[i].templates[k]; k++)
            CU_ASSERT(refused(cases[i].templates[k], "2001-02-03", cases[i].why));
    CU_ASSERT(refused("{{ strftime_now('%Y') }}", "today", "strftime_now() of the day today"));
}

/* A template's own words, as much of them as there is room for. */
static void test_raised(void)
{
    static const char *const cases[][2] =
        {{"{{ raise_exception('Only user and assistant!') }}", "Only user and assistant!"},
         {"{{ raise_exception(message='m') }}", "m"},
         {"{{ raise_exception(7) }}", "7"},
         {"{{ raise_exception('') }}", ""},
         {"{{ raise_exception('first') ~ raise_exception('second') }}{{ q.b }}", "first"},
         {"{% macro a() %}{{ raise_exception('deep') }}{% endmacro %}{{ a() }}", "deep"},
         {"{% if raise_exception('if') %}{% endif %}", "if"},
         {"{% for i in raise_exception('for') %}{% endfor %}", "for"},
         {"{% set a = raise_exception('set') %}", "set"},
         {"{% set a %}{{ raise_exception('text') }}{% endset %}", "text"},
         {"{% with a = raise_exception('with') %}{% endwith %}", "with"},
         {"{{ [1, raise_exception('list')] }}", "list"},
         {"{{ {'a': raise_exception('value')} }}", "value"},
         {"{{ l[raise_exception('item')] }}", "item"},
         {"{{ raise_exception('x' * 299 ~ 'yz') }}", NULL}};
    char longest[301];
    snprintf(longest, sizeof longest, "%0299dy", 0);
    for (char *p = longest; *p == '0'; p++) *p = 'x';
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *vars = some_variables();
        char why[JINJA_WHY];
        cl_buf out = {0};
        CU_ASSERT_EQUAL(render(cases[i][0], vars, "", &out, why), JINJA_RAISED);
        CU_ASSERT_STRING_EQUAL(why, cases[i][1] ? cases[i][1] : longest);
        cl_buf_free(&out);
        json_decref(vars);
    }
}

/* Names are shown up to a length. */
static void test_long_names(void)
{
    static const struct {
        const char *before, *after, *why_before, *why_after;
        int most;
    } cases[] = {{"{% ", " %}", "the statement ", " is not known", 40},
                 {"{{ x ", " }}", "'", "' where something else is expected", 40},
                 {"{{ q.", " }}", "'", "' of something undefined", 60},
                 {"{{ x | ", " }}", "the filter ", "", 31},
                 {"{{ x is ", " }}", "the test ", "", 31},
                 {"{{ ", "() }}", "the function ", "", 31},
                 {"{{ s.", "() }}", "the method ", " of a text", 31}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int n = cases[i].most - 1; n <= cases[i].most + 1; n++) {
            char template[120], why[120], name[64] = {0};
            for (int k = 0; k < n; k++) name[k] = (char)('a' + k % 26);
            snprintf(template, sizeof template, "%s%s%s", cases[i].before, name, cases[i].after);
            snprintf(why, sizeof why, "%s%.*s%s", cases[i].why_before, cases[i].most, name, cases[i].why_after);
            CU_ASSERT(refused(template, "", why));
        }
    CU_ASSERT(gives("{{ strftime_now('x' * 255) | length }}", "255"));
    CU_ASSERT(refused("{{ strftime_now('x' * 59 ~ 'yz' * 99) }}", "2001-02-03",
                      "strftime_now('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxy')"));
}

/* What was printed before a template failed stays, and nothing comes behind it. */
static void test_printed_before(void)
{
    static const char *const cases[][2] = {{"a{{ x }}b{{ q.b }}c", "a3b"},
                                           {"a{% for i in l %}{{ i }}{{ l[i].b.c }}{% endfor %}", "a1"},
                                           {"a{{ [1, o.items, 2] }}c", "a[1, "},
                                           {"a{{ {'b': o.items, 'c': 1} }}c", "a{'b': "},
                                           {"a{% macro m() %}b{{ q.b }}{% endmacro %}{{ m() }}", "a"},
                                           {"a{% set t %}b{{ q.b }}{% endset %}{{ t }}", "a"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *vars = some_variables();
        char why[JINJA_WHY];
        cl_buf out = {0};
        CU_ASSERT_EQUAL(render(cases[i][0], vars, "", &out, why), JINJA_FAILED);
        CU_ASSERT_STRING_EQUAL(out.data, cases[i][1]);
        cl_buf_free(&out);
        json_decref(vars);
    }
}

/* 60 letters of a macro's name are told. */
static void test_long_macro_names(void)
{
    static const int lengths[] = {1, 59, 60, 61, 63, 64, 65, 200};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char name[201], template[500], why[200];
        memset(name, 'm', sizeof name);
        name[lengths[i]] = 0;
        snprintf(template, sizeof template, "{%% macro %s() %%}{%% endmacro %%}{{ %s(1) }}", name, name);
        snprintf(why, sizeof why, "the macro %.60s is called with arguments that it does not take", name);
        CU_ASSERT(refused(template, "", why));
    }
}

/* Equal values are compared 64 deep, deeper ones are not looked into. */
static void test_deep_values(void)
{
    for (int depth = 60; depth <= 70; depth++) {
        char template[400];
        snprintf(template, sizeof template,
                 "{%% set n = namespace(a=1, b=1) %%}{%% for i in range(%d) %%}{%% set n.a = [n.a] %%}"
                 "{%% set n.b = [n.b] %%}{%% endfor %%}{{ n.a == n.b }}",
                 depth);
        CU_ASSERT(gives(template, depth <= 64 ? "True" : "False"));
    }
}

/* Letters whose case Python changes into several, or by what stands around them: from, to. */
static void test_special_letters(void)
{
    static const unsigned special[][2] = {{0xdf, 0xdf},     {0x130, 0x130},   {0x149, 0x149},  {0x1f0, 0x1f0},
                                          {0x390, 0x390},   {0x3a3, 0x3a3},   {0x3b0, 0x3b0},  {0x587, 0x587},
                                          {0x1e96, 0x1e9e}, {0x1f50, 0x1fff}, {0xfb00, 0xfb17}};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        for (unsigned c = special[i][0] - 1; c <= special[i][1] + 1; c++) {
            char template[40];
            snprintf(template, sizeof template, "{{ '\\u%04x' | upper | length }}", c);
            bool one = c < special[i][0] || c > special[i][1];
            CU_ASSERT(one ? gives(template, "1") : refused(template, "", "the case of a letter that becomes several"));
        }
}

/* `part` so many times is taken, once more is too much. */
static void test_counts(void)
{
#define RECURSION "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{% set n = namespace(i=0) %}"
    static const struct {
        const char *before, *part, *inner, *end, *after;
        int most;
        const char *why;
    } cases[] = {
        {"{{ ", "(", "1", ")", " }}", 48, "nested too deeply"},
        {"{{ ", "[", "1", "]", " | length }}", 48, "nested too deeply"},
        {"{{ ", "{'a': ", "1", "}", " | length }}", 48, "nested too deeply"},
        {"{{ ", "- ", "1", "", " }}", 97, "nested too deeply"},
        {"{{ ", "not ", "1", "", " }}", 97, "nested too deeply"},
        {"", "{% if x %}", "", "{% endif %}", "", 98, "nested too deeply"},
        {"", "{% for i in l %}{% break %}", "", "{% endfor %}", "", 99, "nested too deeply"},
        {"{{ 1", " + 1", "", "", " }}", 398, "it is nested too deeply"},
        {RECURSION, "{% set n.i = n.i + 1 %}", "", "", "{{ m(n.i) }}", 126, "it is nested too deeply"},
        {"", "{% macro m() %}{% endmacro %}", "", "", "", 64, "more than 64 macros"},
        {"{% set n = namespace(l=1) %}", "{% set n.l = [n.l] %}", "", "", "{{ n.l }}", 64,
         "a value is nested too deeply"},
        {"{{ 'a'.format(", "1,", "", "", ") }}", 8, "a call with more than 8 arguments"},
        {"{{ l | tojson(indent=1", " + 1", "", "", ") }}", 15, "tojson with an indent of 17"},
    };
#undef RECURSION
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int more = 0; more < 2; more++) {
            json_t *vars = some_variables();
            cl_buf t = {0}, out = {0};
            cl_err err;
            char why[JINJA_WHY] = "";
            int n = cases[i].most + more;
            CU_ASSERT_EQUAL(cl_buf_str(&t, cases[i].before, &err), CL_OK);
            for (int k = 0; k < n; k++) CU_ASSERT_EQUAL(cl_buf_str(&t, cases[i].part, &err), CL_OK);
            CU_ASSERT_EQUAL(cl_buf_str(&t, cases[i].inner, &err), CL_OK);
            for (int k = 0; k < n; k++) CU_ASSERT_EQUAL(cl_buf_str(&t, cases[i].end, &err), CL_OK);
            CU_ASSERT_EQUAL(cl_buf_str(&t, cases[i].after, &err), CL_OK);
            jinja_result r = render(t.data, vars, "", &out, why);
            if (r != (more ? JINJA_FAILED : JINJA_OK)) fprintf(stderr, "%d times: %d %s\n%s\n", n, (int)r, why, t.data);
            CU_ASSERT_EQUAL(r, more ? JINJA_FAILED : JINJA_OK);
            CU_ASSERT_STRING_EQUAL(why, more ? cases[i].why : "");
            cl_buf_free(&t);
            cl_buf_free(&out);
            json_decref(vars);
        }
    }
}

/* What work is counted as: so many rounds of a loop fit, give or take a twentieth. */
static void test_costs(void)
{
    static const struct {
        const char *before, *value;
        int rounds;
    } cases[] = {
        {"{% set l = range(1000) %}", "l[::1]", 14300},
        {"{% set l = range(1000) %}", "l + l", 7540},
        {"{% set l = range(1000) %}", "l | reverse", 14400},
        {"{% set l = range(1000) %}", "l | select('odd')", 1970},
        {"{% set l = range(1000) %}", "l | map('string')", 663},
        {"{% set l = range(1000) %}", "l | sort", 1970},
        {"{% set l = range(100) %}", "l | sort(reverse=true)", 319},
        {"{% set l = range(1000) %}", "1000 in l", 1970},
        {"{% set l = range(1000) %}{% set m = range(1000) %}", "l == m", 1970},
        {"{% set l = range(1000) %}", "l | string", 955},
        {"", "range(1000)", 1970},
        {"{% set s = 'x' * 6400 %}", "s[1:]", 3870},
        {"{% set s = 'x' * 640 %}", "s[::-1]", 557},
        {"{% set s = 'x' * 6400 %}", "s * 2", 4780},
        {"{% set s = 'x' * 6400 %}", "s ~ s", 4780},
        {"{% set s = 'x' * 6400 %}", "'y' in s", 17300},
        {"{% set s = 'x' * 640 %}", "s | list", 3060},
        {"{% set s = 'x' * 6400 %}", "s.find('y')", 17300},
        {"{% set s = 'x' * 6400 %}", "s.count('y')", 17300},
        {"{% set s = 'x' * 6400 %}", "s[6399]", 17200},
        {"{% set s = 'x' * 6400 %}", "s | indent", 6290},
        {"{% set s = 'x' * 6400 %}", "s.replace('y', 'z')", 17200},
        {"{% set s = 'xy' * 3200 %}", "s.replace('y', 'z')", 602},
        {"{% set s = 'xy ' * 100 %}", "s.split()", 9390},
        {"{% set s = 'xy,' * 100 %}", "s.split(',')", 9260},
        {"{% set s = 'xy,' * 100 %}", "s.rsplit(',')", 4920},
        {"{% set s = 'xy\n' * 100 %}", "s.splitlines()", 9390},
        {"{% set o = {'a': 1, 'b': 2, 'c': 3, 'd': 4} %}", "[o.items(), o.items(), o.items(), o | list, namespace(o)]",
         23500},
        {"{% macro m(a) %}{{ a }}{% endmacro %}", "m(m(m(m('x'))))", 62500},
        {"", "[x + x - x * x < x, not x in l, o.k, l[1], (x if x else x), x is odd, x | abs, x or x]", 46500},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char template[300];
        for (int more = -1; more <= 1; more += 2) {
            snprintf(template, sizeof template, "%s{%% for i in range(%d) %%}{%% if %s %%}{%% endif %%}{%% endfor %%}",
                     cases[i].before, cases[i].rounds + more * (cases[i].rounds / 20), cases[i].value);
            CU_ASSERT(more < 0 ? gives(template, "") : refused(template, "", "it runs too long"));
        }
    }
}

/* Templates that would go on, or fill the memory: each ends with an error, soon. */
static void test_limits(void)
{
    static const char *const hostile[] = {
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor %}{% endfor %}{% "
        "endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s * 9 %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s | indent(200, true) | indent(200, "
        "true) %}{% endfor %}{{ n.s * 900000000 }}",
        "{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = n.l + n.l %}{% endfor %}",
        "{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
        "{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l | tojson "
        "}}",
        "{% set n = namespace(l=[1]) %}{% set m = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
        "{% set m.l = [m.l, m.l] %}{% endfor %}{{ n.l == m.l }}",
        "{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}",
        "{% for i in range(100000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "{% endfor %}",
        "{{ range(100000) | sort(reverse=true) }}",
        "{% set s = 'ab' * 100000 %}{% for i in range(100000) %}{{ s[::-1] }}{% endfor %}",
        "{% set n = namespace() %}{% set n.n = n %}{% set m = namespace(n=[n]) %}{% set n.m = m %}{{ n }}"};
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        uint64_t t0 = cl_now_ns();
        CU_ASSERT(gives(hostile[i], NULL));
        double seconds = (double)(cl_now_ns() - t0) * 1e-9;
        if (seconds > 5) fprintf(stderr, "%.3f s: %.100s\n", seconds, hostile[i]);
        CU_ASSERT(seconds < 20); /* a moment, on a machine that is not in use */
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"why", test_why},
                           {"raised", test_raised},
                           {"long names", test_long_names},
                           {"printed before", test_printed_before},
                           {"special letters", test_special_letters},
                           {"long names of macros", test_long_macro_names},
                           {"deep values", test_deep_values},
                           {"counts", test_counts},
                           {"costs", test_costs},
                           {"limits", test_limits},
                           CU_TEST_INFO_NULL};
    return run_counted("refused chat templates", tests);
}
