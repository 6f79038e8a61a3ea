/* Stops: where the first one begins in a text that grows, and what at its end may yet become one. */
#include "chipline/stops.h"
#include "chipline/util.h"
#include "suite.h"

enum { MANY = 6 };

static cl_stops stops_of(const char *const list[MANY])
{
    cl_stops s = {0};
    cl_err err = {0};
    for (int i = 0; i < MANY && list[i]; i++) CU_ASSERT_EQUAL_FATAL(cl_stops_add(&s, list[i], &err), CL_OK);
    return s;
}

static void test_find(void)
{
    static const struct {
        const char *stops[MANY], *text;
        size_t at;
        int which;
    } cases[] = {{{"\n\n"}, "a\n\nb", 1, 0},
                 {{"\n\n"}, "a\nb\n", SIZE_MAX, -1},
                 {{"ab"}, "ab", 0, 0},
                 {{"ab"}, "", SIZE_MAX, -1},
                 {{"ab"}, "a", SIZE_MAX, -1},
                 {{"b", "a"}, "xab", 1, 1},       /* the earliest, not the first of the list */
                 {{"bc", "abcd"}, "xabcd", 1, 1}, /* one that holds another begins earlier */
                 {{"abcd", "bc"}, "xabce", 2, 1}, /* ... and if it is broken off, the other is there */
                 {{"ab", "abc"}, "xabc", 1, 0},   /* both begin there: the first of the list */
                 {{"abc", "ab"}, "xabc", 1, 0},
                 {{"aab"}, "aaab", 1, 0}, /* overlapping beginnings */
                 {{"abab"}, "aababb", 1, 0},
                 {{"a"}, "aaa", 0, 0},
                 {{"\xe6\x97\xa5"}, "x\xe6\x97\xa5", 1, 0},
                 {{"\xe6\x97\xa5"}, "x\xe6\x97\xa6", SIZE_MAX, -1},
                 {{NULL}, "abc", SIZE_MAX, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_stops s = stops_of(cases[i].stops);
        int which = -1;
        size_t n = strlen(cases[i].text);
        CU_ASSERT_EQUAL(cl_stops_find(&s, cases[i].text, n, 0, &which), cases[i].at);
        CU_ASSERT_EQUAL(which, cases[i].which);
        CU_ASSERT_EQUAL(cl_stops_find(&s, cases[i].text, n, 0, NULL), cases[i].at);
        cl_stops_free(&s);
        CU_ASSERT(!s.n && !s.text);
    }
}

/* Only what ends behind `seen` is looked for. */
static void test_seen(void)
{
    cl_stops s = stops_of((const char *const[MANY]){"abc"});
    for (size_t seen = 0; seen <= 6; seen++)
        CU_ASSERT_EQUAL(cl_stops_find(&s, "xabcxx", 6, seen, NULL), seen < 4 ? 1 : SIZE_MAX);
    CU_ASSERT_EQUAL(cl_stops_find(&s, "abcabc", 6, 3, NULL), 3);
    CU_ASSERT_EQUAL(cl_stops_find(&s, "abcabc", 6, 2, NULL), 0);
    CU_ASSERT_EQUAL(cl_stops_find(&s, "abc", 2, 0, NULL), SIZE_MAX); /* not behind the text */
    CU_ASSERT_EQUAL(cl_stops_find(&s, "abc", 3, 9, NULL), SIZE_MAX);
    CU_ASSERT_EQUAL(cl_stops_find(&s, NULL, 0, 0, NULL), SIZE_MAX);
    cl_stops_free(&s);
}

static void test_unsure(void)
{
    static const struct {
        const char *stops[MANY], *text;
        size_t unsure;
    } cases[] = {{{"abc"}, "xa", 1},
                 {{"abc"}, "xab", 2},
                 {{"abc"}, "xabc", 0}, /* is one: no beginning */
                 {{"abc"}, "ab", 2},
                 {{"abc"}, "b", 0},
                 {{"abc"}, "", 0},
                 {{"a"}, "a", 0},
                 {{"aab"}, "aaa", 2},           /* the longest that may go on */
                 {{"abab"}, "xabab", 2},        /* its own beginning at its end */
                 {{"abac", "bacd"}, "xaba", 3}, /* the most of several, whatever their order */
                 {{"bacd", "abac"}, "xaba", 3},
                 {{"ax", "bx"}, "ab", 1},
                 {{"ax", "abcx"}, "abc", 3},
                 {{"abcx", "cx"}, "abc", 3},
                 {{"\xe6\x97\xa5"}, "x\xe6\x97", 2},
                 {{NULL}, "abc", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_stops s = stops_of(cases[i].stops);
        CU_ASSERT_EQUAL(cl_stops_unsure(&s, cases[i].text, strlen(cases[i].text)), cases[i].unsure);
        cl_stops_free(&s);
    }
    cl_stops s = stops_of((const char *const[MANY]){"abc"});
    CU_ASSERT_EQUAL(cl_stops_unsure(&s, NULL, 0), 0);
    CU_ASSERT_EQUAL(cl_stops_unsure(&s, "abxx", 2), 2);
    cl_stops_free(&s);
}

/* In whatever pieces a text comes, what is given out is the text up to the first stop, nothing of it too early, and
 * all of it as soon as it is sure. */
static void test_pieces(void)
{
    static const struct {
        const char *stops[MANY], *text;
    } cases[] = {{{"<end>"}, "some text<end>more"},
                 {{"<end>"}, "a < b, <en, <<end>"},
                 {{"aab", "ba"}, "aaaaab"},
                 {{"\xe6\x97\xa5\xe6\x9c\xac"}, "\xe6\x97\xa5 \xe6\x97\xa5\xe6\x97\xa5\xe6\x9c\xac."},
                 {{"STOP", "TO"}, "xSTxTOP"},
                 {{"never"}, "neve neve"},
                 {{NULL}, "all of it"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t step = 1; step <= 7; step++) {
            cl_stops s = stops_of(cases[i].stops);
            const char *text = cases[i].text;
            size_t n = strlen(text), whole = cl_stops_find(&s, text, n, 0, NULL), shown = 0, at = SIZE_MAX, len = 0;
            while (len < n && at == SIZE_MAX) {
                size_t seen = len;
                len = n - len < step ? n : len + step;
                at = cl_stops_find(&s, text, len, seen, NULL);
                size_t sure = len - cl_stops_unsure(&s, text, len);
                if (at == SIZE_MAX && sure > shown) shown = sure;
                CU_ASSERT(shown <= (whole == SIZE_MAX ? n : whole));
            }
            CU_ASSERT_EQUAL(at, whole);
            cl_stops_free(&s);
        }
}

static void test_add(void)
{
    cl_stops s = {0};
    cl_err err = {0};
    char text[] = "one";
    CU_ASSERT_EQUAL(cl_stops_add(&s, text, &err), CL_OK);
    text[0] = 'x'; /* a copy is kept */
    CU_ASSERT_STRING_EQUAL(s.text[0], "one");
    CU_ASSERT_EQUAL(cl_stops_add(&s, "", &err), CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, "stop: is empty");
    CU_ASSERT_EQUAL(s.n, 1);
    cl_stops_free(&s);
    cl_stops_free(&s);
}

int main(void)
{
    CU_TestInfo tests[] = {{"find", test_find},     {"seen", test_seen}, {"unsure", test_unsure},
                           {"pieces", test_pieces}, {"add", test_add},   CU_TEST_INFO_NULL};
    return run_suite("stops", tests);
}
