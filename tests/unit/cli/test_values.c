/* What stands behind options: both sides of every limit, whole messages, files of chips. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "cli.h"
#include "suite.h"

static cl_err err;

static bool says(error_t e, cl_code code, const char *message)
{
    bool same = e == EINVAL && err.code == code && strcmp(err.msg, message) == 0;
    if (!same) fprintf(stderr, "%d: %s\n", err.code, err.msg);
    err = (cl_err){.code = CL_OK};
    return same;
}

static void test_numbers(void)
{
    int n = 0;
    double d = 0;
    CU_ASSERT(cli_int(&err, "-n", "-2", -2, 7, &n) == 0 && n == -2);
    CU_ASSERT(cli_int(&err, "-n", "7", -2, 7, &n) == 0 && n == 7);
    CU_ASSERT(says(cli_int(&err, "-n", "8", -2, 7, &n), CL_E_USAGE, "-n: 8 is not from -2 to 7"));
    CU_ASSERT(says(cli_int(&err, "-n", "-3", -2, 7, &n), CL_E_USAGE, "-n: -3 is not from -2 to 7"));
    CU_ASSERT(says(cli_int(&err, "-n", "1.5", -2, 7, &n), CL_E_USAGE, "-n: '1.5' is not a whole number"));
    CU_ASSERT(says(cli_int(&err, "-n", "", -2, 7, &n), CL_E_USAGE, "-n: '' is not a whole number"));
    CU_ASSERT(n == 7);
    CU_ASSERT(cli_double(&err, "-d", "-0.5", -0.5, 1e6, &d) == 0 && d == -0.5);
    CU_ASSERT(cli_double(&err, "-d", "1e6", -0.5, 1e6, &d) == 0 && d == 1e6);
    CU_ASSERT(
        says(cli_double(&err, "-d", "1000001", -0.5, 1e6, &d), CL_E_USAGE, "-d: 1000001 is not from -0.5 to 1e+06"));
    CU_ASSERT(says(cli_double(&err, "-d", "-0.6", -0.5, 1e6, &d), CL_E_USAGE, "-d: -0.6 is not from -0.5 to 1e+06"));
    CU_ASSERT(says(cli_double(&err, "-d", "nan", -0.5, 1e6, &d), CL_E_USAGE, "-d: 'nan' is not a number"));
    CU_ASSERT(says(cli_double(&err, "-d", "1x", -0.5, 1e6, &d), CL_E_USAGE, "-d: '1x' is not a number"));
    CU_ASSERT(d == 1e6);
}

static void test_words(void)
{
    static const char *const words[] = {"hide", "show", NULL};
    int n = -1;
    CU_ASSERT(cli_word(&err, "-w", "hide", words, &n) == 0 && n == 0);
    CU_ASSERT(cli_word(&err, "-w", "show", words, &n) == 0 && n == 1);
    CU_ASSERT(says(cli_word(&err, "-w", "shwo", words, &n), CL_E_USAGE,
                   "-w: 'shwo' is none of hide, show (did you mean show?)"));
    CU_ASSERT(says(cli_word(&err, "-w", "neither", words, &n), CL_E_USAGE, "-w: 'neither' is none of hide, show"));
    CU_ASSERT(n == 1);
}

static void test_names(void)
{
    const char *name = NULL;
    CU_ASSERT(says(cli_argument(&err, "MODEL", "", &name), CL_E_USAGE, "MODEL: is empty (give the name of a file)"));
    name = NULL;
    CU_ASSERT(cli_argument(&err, "MODEL", "m.h5", &name) == 0 && strcmp(name, "m.h5") == 0);
    CU_ASSERT(says(cli_argument(&err, "MODEL", "more", &name), CL_E_USAGE,
                   "more: one argument too many (quote texts that have spaces)"));
    CU_ASSERT(cli_path(&err, "-o", "other.h5", &name) == 0 && strcmp(name, "other.h5") == 0);
}

static void test_formats(void)
{
    bool keep = false;
    cl_format f;
    CU_ASSERT(cli_format(&err, "Keep", &keep, &f) == 0 && keep);
    CU_ASSERT(cli_format(&err, "q8_0", &keep, &f) == 0 && !keep && f == CL_Q8_0);
    CU_ASSERT(says(cli_format(&err, "q5_0", &keep, &f), CL_E_USAGE, /* read, not written */
                   "--format: 'q5_0' is none of keep, f32, f16, bf16, q8_0, q4_0, q4_1, mxfp4, int4, fp8 (did you mean "
                   "q8_0?)"));
}

static const char *file(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "test_values.%d.json", (int)getpid());
    FILE *f = fopen(path, "w");
    CU_ASSERT_FATAL(f && fputs(text, f) >= 0 && fclose(f) == 0);
    return path;
}

static void test_layouts(void)
{
    cl_layout l;
    bool is_auto = false;
    CU_ASSERT(cli_layout(&err, "auto", &l, &is_auto) == 0 && is_auto && l.n_stages == 0);
    CU_ASSERT(cli_layout(&err, "4x2", &l, &is_auto) == 0 && !is_auto && l.n_stages == 4 && cl_layout_chips(&l) == 8);
    cl_layout_free(&l);
    CU_ASSERT(cli_layout(&err, file("{\"stages\": [{\"chips\": 3}, {\"chips\": 1}]}"), &l, &is_auto) == 0 && !is_auto);
    CU_ASSERT(l.n_stages == 2 && cl_layout_chips(&l) == 4);
    cl_layout_free(&l);
    CU_ASSERT(says(cli_layout(&err, "automatic", &l, &is_auto), CL_E_USAGE,
                   "--layout: 'automatic' is neither SxG (stages x chips, for example 4x2) nor auto nor a readable "
                   "file: No such file or directory"));
    CU_ASSERT(cli_layout(&err, "0x2", &l, &is_auto) == EINVAL && strncmp(err.msg, "--layout: ", 10) == 0);
    const char *path = file("{\"stages\": 3}");
    char start[96];
    snprintf(start, sizeof start, "--layout: %s: ", path);
    CU_ASSERT(cli_layout(&err, path, &l, &is_auto) == EINVAL && err.code == CL_E_INPUT);
    CU_ASSERT(strncmp(err.msg, start, strlen(start)) == 0);
    CU_ASSERT(cli_layout(&err, file("{"), &l, &is_auto) == EINVAL && strncmp(err.msg, start, strlen(start)) == 0);
    err = (cl_err){.code = CL_OK};
    remove(path);
}

static bool chip_says(const char *arg, cl_code code, const char *message)
{
    uint64_t bytes;
    char whole[256];
    cl_code c = cli_chip(arg, &bytes, NULL, &err);
    snprintf(whole, sizeof whole, message, arg);
    return says(c == code ? EINVAL : 0, code, whole);
}

static void test_chips(void)
{
    uint64_t bytes = 0;
    cl_rates r = {.read_bytes_per_s = 5, .hop_s = 5};
    CU_ASSERT(cli_chip("1.5kB", &bytes, &r, &err) == CL_OK && bytes == 1500 && r.read_bytes_per_s == 0 && r.hop_s == 0);
    CU_ASSERT(cli_chip("2KiB", &bytes, NULL, &err) == CL_OK && bytes == 2048);
    CU_ASSERT(chip_says("0", CL_E_USAGE, "--chip: a chip of 0 bytes holds nothing"));
    CU_ASSERT(chip_says("none.json", CL_E_USAGE,
                        "--chip: 'none.json' is neither a size (230MB, 1.5GiB) nor a readable file: No such file or "
                        "directory"));
    /* links and hops are of hand-overs and gathers alike */
    const char *whole = file("{\"memory_bytes\": 7, \"read_bytes_per_s\": 2e12, \"hop_s\": 3e-6, "
                             "\"link_bytes_per_s\": 4e11}");
    CU_ASSERT(cli_chip(whole, &bytes, &r, &err) == CL_OK && bytes == 7 && r.read_bytes_per_s == 2e12);
    CU_ASSERT(r.hop_s == 3e-6 && r.gather_s == 3e-6 && r.hop_bytes_per_s == 4e11 && r.gather_bytes_per_s == 4e11);
    CU_ASSERT(cli_chip(file("{\"memory_bytes\": 2}"), &bytes, NULL, &err) == CL_OK && bytes == 2);
    CU_ASSERT(cli_chip(file("{\"memory_bytes\": 1}"), &bytes, &r, &err) == CL_OK && bytes == 1);
    CU_ASSERT(r.read_bytes_per_s == 0 && r.hop_s == 0 && r.gather_s == 0 && r.hop_bytes_per_s == 0 &&
              r.gather_bytes_per_s == 0);
    /* both ends of what each number may be */
    CU_ASSERT(cli_chip(file("{\"memory_bytes\": 9223372036854775807, \"read_bytes_per_s\": 1, \"hop_s\": 0, "
                            "\"link_bytes_per_s\": 1}"),
                       &bytes, &r, &err) == CL_OK &&
              bytes == INT64_MAX && r.read_bytes_per_s == 1 && r.hop_bytes_per_s == 1);
    CU_ASSERT(cli_chip(file("{\"memory_bytes\": 1, \"read_bytes_per_s\": 1e18, \"hop_s\": 1e6, "
                            "\"link_bytes_per_s\": 1e18}"),
                       &bytes, &r, &err) == CL_OK &&
              r.read_bytes_per_s == 1e18 && r.hop_s == 1e6 && r.hop_bytes_per_s == 1e18);
    static const char *const bad[][2] = {{"[]", "is not a JSON object"},
                                         {"{}", "memory_bytes"},
                                         {"{\"memory_bytes\": 0}", "memory_bytes"},
                                         {"{\"memory_bytes\": 1, \"read_bytes_per_s\": 0.9}", "read_bytes_per_s"},
                                         {"{\"memory_bytes\": 1, \"read_bytes_per_s\": 2e18}", "read_bytes_per_s"},
                                         {"{\"memory_bytes\": 1, \"hop_s\": -1}", "hop_s"},
                                         {"{\"memory_bytes\": 1, \"hop_s\": 1000001}", "hop_s"},
                                         {"{\"memory_bytes\": 1, \"hop_s\": 1, \"link_bytes_per_s\": 0.9}",
                                          "link_bytes_per_s"},
                                         {"{\"memory_bytes\": 1, \"link_bytes_per_s\": 2e18}", "link_bytes_per_s"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char start[96];
        const char *path = file(bad[i][0]);
        r.hop_s = 8; /* neither this nor the file's own is left */
        CU_ASSERT(cli_chip(path, &bytes, &r, &err) == CL_E_INPUT && r.hop_s == 0);
        snprintf(start, sizeof start, "--chip: %s: ", path);
        CU_ASSERT(strncmp(err.msg, start, strlen(start)) == 0 && strstr(err.msg, bad[i][1]));
    }
    CU_ASSERT(chip_says(file("{"), CL_E_INPUT,
                        "--chip: %s: not valid JSON: string or '}' expected near end of "
                        "file at line 1, column 1"));
    remove(file(""));
}

static void test_cores(void)
{
    cpu_set_t all, one;
    CU_ASSERT_FATAL(sched_getaffinity(0, sizeof all, &all) == 0);
    int n = CPU_COUNT(&all), first = 0;
    CU_ASSERT_EQUAL(cli_cores(), n > CLI_JOBS ? CLI_JOBS : n);
    while (!CPU_ISSET(first, &all)) first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CU_ASSERT_FATAL(sched_setaffinity(0, sizeof one, &one) == 0);
    CU_ASSERT_EQUAL(cli_cores(), 1);
    sched_setaffinity(0, sizeof all, &all);
}

int main(void)
{
    CU_TestInfo tests[] = {{"numbers", test_numbers}, {"words", test_words},     {"names", test_names},
                           {"formats", test_formats}, {"layouts", test_layouts}, {"chips", test_chips},
                           {"cores", test_cores},     CU_TEST_INFO_NULL};
    return run_suite("values", tests);
}
