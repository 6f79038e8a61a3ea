/* Layouts: made, read, named, copied; what is refused. */
#include <string.h>

#include "chipline/plan.h"
#include "suite.h"

static cl_code from_text(const char *text, cl_layout *l, cl_err *err)
{
    json_t *j = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_json_parse(text, strlen(text), "test", &j, err), CL_OK);
    cl_code c = cl_layout_from_json(j, l, err);
    json_decref(j);
    return c;
}

static void test_made(void)
{
    cl_err err = {0};
    cl_layout l, copy;
    char text[32];
    CU_ASSERT_EQUAL_FATAL(cl_layout_make(2, 4, &l, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_layout_chips(&l), 8);
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&l, text, sizeof text), "2x4");
    CU_ASSERT_EQUAL_FATAL(cl_layout_copy(&l, &copy, &err), CL_OK);
    copy.chips[1] = 3;
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&copy, text, sizeof text), "4+3");
    CU_ASSERT_EQUAL(l.chips[1], 4);
    CU_ASSERT_PTR_NULL(copy.layers);
    cl_layout_free(&copy);
    cl_layout_free(&l);
    CU_ASSERT_EQUAL(cl_layout_make(0, 4, &l, &err), CL_E_USAGE);
    CU_ASSERT_EQUAL(cl_layout_make(4, 0, &l, &err), CL_E_USAGE);
    CU_ASSERT_EQUAL(cl_layout_make(1 << 20, 1 << 20, &l, &err), CL_E_USAGE);
}

/* Names, and back; where stages are alike they are one term. */
static void test_names(void)
{
    static const struct {
        const char *name, *again;
        int stages, chips, first, last;
    } good[] = {{"2x4", "2x4", 2, 8, 4, 4},      {"1x1", "1x1", 1, 1, 1, 1},
                {"3+2x4", "3+2x4", 3, 11, 3, 4}, {"4+4", "2x4", 2, 8, 4, 4},
                {"1x3+1x3", "2x3", 2, 6, 3, 3},  {"26x65+35x66", "26x65+35x66", 61, 4000, 65, 66},
                {"2+3+2", "2+3+2", 3, 7, 2, 2},  {"1048576x1", "1048576x1", 1 << 20, 1 << 20, 1, 1}};
    static const char *const none[] = {"4",    "",    "x",    "2x",   "x4",  "2x4x", "2x4+",
                                       "+2x4", "2y4", "2x4 ", "-2x4", "a+b", "2x+3"};
    static const char *const wrong[] =
        {"0x2", "2x0", "1+0", "2000000x1", "1x2000000", "1048576x1+1", "9999999999999x9999999999999"};
    cl_err err = {0};
    cl_layout l;
    char text[64];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CU_ASSERT_TRUE(cl_layout_is_name(good[i].name));
        CU_ASSERT_EQUAL_FATAL(cl_layout_from_name(good[i].name, &l, &err), CL_OK);
        CU_ASSERT_TRUE(l.n_stages == good[i].stages && cl_layout_chips(&l) == good[i].chips && !l.layers);
        CU_ASSERT_TRUE(l.chips[0] == good[i].first && l.chips[l.n_stages - 1] == good[i].last);
        CU_ASSERT_STRING_EQUAL(cl_layout_name(&l, text, sizeof text), good[i].again);
        cl_layout_free(&l);
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) CU_ASSERT_FALSE(cl_layout_is_name(none[i]));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CU_ASSERT_TRUE(cl_layout_is_name(wrong[i]));
        CU_ASSERT_EQUAL(cl_layout_from_name(wrong[i], &l, &err), CL_E_USAGE);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, wrong[i]));
    }
}

static void test_shared_out(void)
{
    cl_err err = {0};
    cl_layout l;
    char text[32];
    CU_ASSERT_EQUAL_FATAL(cl_layout_share(3, 11, &l, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&l, text, sizeof text), "3+2x4");
    cl_layout_free(&l);
    CU_ASSERT_EQUAL_FATAL(cl_layout_share(3, 12, &l, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&l, text, sizeof text), "3x4");
    cl_layout_free(&l);
    CU_ASSERT_EQUAL(cl_layout_share(3, 2, &l, &err), CL_E_USAGE);
    CU_ASSERT_EQUAL(cl_layout_share(0, 2, &l, &err), CL_E_USAGE);
}

static void test_read(void)
{
    cl_err err = {0};
    cl_layout l, copy;
    char text[32];
    CU_ASSERT_EQUAL_FATAL(from_text("{\"stages\": [{\"chips\": 3, \"layers\": 10}, {\"chips\": 2, \"layers\": 6}]}", &l,
                                    &err),
                          CL_OK);
    CU_ASSERT_TRUE(l.n_stages == 2 && l.chips[0] == 3 && l.chips[1] == 2 && l.layers[0] == 10 && l.layers[1] == 6);
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&l, text, sizeof text), "3:10+2:6");
    CU_ASSERT_EQUAL_FATAL(cl_layout_copy(&l, &copy, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&copy, text, sizeof text), "3:10+2:6");
    cl_layout_free(&copy);
    cl_layout_free(&l);
    CU_ASSERT_EQUAL_FATAL(from_text("{\"stages\": [{\"chips\": 2}, {\"chips\": 2}]}", &l, &err), CL_OK);
    CU_ASSERT_PTR_NULL(l.layers);
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&l, text, sizeof text), "2x2");
    cl_layout_free(&l);
}

static void test_refused(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {{"[]", "is not an object"},
                 {"{}", "stages: missing"},
                 {"{\"stages\": []}", "0 of them"},
                 {"{\"stages\": 3}", "must be a list"},
                 {"{\"stages\": [{\"chips\": 1}], \"stagse\": 1}", "did you mean stages?"},
                 {"{\"stages\": [3]}", "stages[0]: is not an object"},
                 {"{\"stages\": [{\"chips\": 1}, {}]}", "stages[1]: chips: missing"},
                 {"{\"stages\": [{\"chips\": 0}]}", "from 1"},
                 {"{\"stages\": [{\"chips\": 1, \"layer\": 3}]}", "did you mean layers?"},
                 {"{\"stages\": [{\"chips\": 1, \"layers\": 0}]}", "from 1"},
                 {"{\"stages\": [{\"chips\": 1, \"layers\": 3}, {\"chips\": 1}]}",
                  "stages[1] has no layers, stages[0] has"},
                 {"{\"stages\": [{\"chips\": 1}, {\"chips\": 1, \"layers\": 3}]}",
                  "stages[1] has layers, stages[0] has none"},
                 {"{\"stages\": [{\"chips\": 1048576}, {\"chips\": 1}]}", "over 1048576 chips"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_err err = {0};
        cl_layout l;
        CU_ASSERT_EQUAL(from_text(cases[i].text, &l, &err), CL_E_INPUT);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, cases[i].says));
    }
}

/* A name that is too long ends in dots and stays within its bytes, whatever their number. */
static void test_long_names(void)
{
    int chips[40];
    char text[200], full[200];
    for (int i = 0; i < 40; i++) chips[i] = i + 1;
    cl_layout l = {40, chips, NULL};
    cl_layout_name(&l, full, sizeof full);
    CU_ASSERT_STRING_EQUAL(full + strlen(full) - 6, "+39+40");
    for (size_t size = 1; size <= strlen(full); size++) {
        memset(text, '#', sizeof text);
        CU_ASSERT_PTR_EQUAL(cl_layout_name(&l, text, size), text);
        size_t n = strlen(text), dots = size - 1 < 3 ? size - 1 : 3;
        CU_ASSERT_TRUE_FATAL(n < size && text[size] == '#');
        CU_ASSERT_EQUAL(memcmp(text + n - dots, "...", dots), 0);
        CU_ASSERT_EQUAL(memcmp(text, full, n - dots), 0);
    }
    CU_ASSERT_STRING_EQUAL(cl_layout_name(&l, text, strlen(full) + 1), full);
}

int main(void)
{
    CU_TestInfo tests[] = {{"made", test_made}, {"names", test_names},     {"shared out", test_shared_out},
                           {"read", test_read}, {"refused", test_refused}, {"long names", test_long_names},
                           CU_TEST_INFO_NULL};
    return run_suite("layout", tests);
}
