/* base: files at the edge of what is allowed, every message in full, and nothing left behind; numbers in text at their
 * limits. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chipline/util.h"
#include "suite.h"

static char dir[64], path[80], folder[80];

static void make(const char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    CU_ASSERT_FATAL(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

static void says(const cl_err *err, const char *fmt, const char *name)
{
    char want[300];
    snprintf(want, sizeof want, "%s%s", name, fmt);
    CU_ASSERT_STRING_EQUAL(err->msg, want);
}

/* Around the size of a piece, with as much allowed as there is, one less and one more. */
static void reading(void)
{
    static char bytes[131073];
    static const size_t sizes[] = {0, 1, 5, 65535, 65536, 65537, 131072, 131073};
    cl_err err = {0};
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7 >> 3);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i];
        make(bytes, n);
        for (size_t max = n; max < n + 2; max++) {
            cl_buf b = {0};
            CU_ASSERT_EQUAL_FATAL(cl_read_file(path, max, &b, &err), CL_OK);
            CU_ASSERT(b.len == n && memcmp(b.data, bytes, n) == 0 && b.data[n] == 0);
            cl_buf_free(&b);
            CU_ASSERT(b.data == NULL && b.len == 0 && b.cap == 0);
        }
        cl_buf b = {0};
        char want[40];
        if (!n) continue;
        CU_ASSERT_EQUAL(cl_read_file(path, n - 1, &b, &err), CL_E_INPUT);
        snprintf(want, sizeof want, ": over %zu bytes", n - 1);
        says(&err, want, path);
        cl_buf_free(&b);
    }
    unlink(path);
    cl_buf b = {0};
    CU_ASSERT_EQUAL(cl_read_file(path, 5, &b, &err), CL_E_INPUT);
    says(&err, ": No such file or directory", path);
    CU_ASSERT_EQUAL(cl_read_file(folder, 5, &b, &err), CL_E_INPUT);
    says(&err, ": is a folder (give a file)", folder);
    cl_buf_free(&b);
}

static void standard_input(void)
{
    cl_err err;
    cl_buf b = {0};
    int kept = dup(0);
    make("words", 5);
    int fd = open(path, O_RDONLY);
    CU_ASSERT_FATAL(kept >= 0 && fd >= 0 && dup2(fd, 0) == 0);
    CU_ASSERT_EQUAL(cl_read_file("-", 5, &b, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(b.data, "words");
    CU_ASSERT_EQUAL(fcntl(0, F_GETFD), 0); /* still open */
    dup2(kept, 0);
    clearerr(stdin);
    close(kept);
    close(fd);
    cl_buf_free(&b);
    unlink(path);
}

/* A buffer grows by halves, from 256 bytes. */
static void buffers(void)
{
    cl_err err;
    cl_buf b = {0};
    static char text[1000];
    CU_ASSERT(cl_buf_add(&b, "", 0, &err) == CL_OK && b.len == 0 && b.cap == 256 && !*b.data);
    CU_ASSERT(cl_buf_add(&b, text, 255, &err) == CL_OK && b.len == 255 && b.cap == 256);
    CU_ASSERT(cl_buf_add(&b, "x", 1, &err) == CL_OK && b.len == 256 && b.cap == 384);
    CU_ASSERT(b.data[255] == 'x' && b.data[256] == 0);
    CU_ASSERT(cl_buf_add(&b, text, 1000, &err) == CL_OK && b.len == 1256 && b.cap == 1257);
    CU_ASSERT(cl_buf_printf(&b, &err, "%d-%s", 12, "ab") == CL_OK && strcmp(b.data + 1256, "12-ab") == 0);
    CU_ASSERT(cl_buf_str(&b, "cd", &err) == CL_OK && strcmp(b.data + 1256, "12-abcd") == 0 && b.len == 1263);
    CU_ASSERT_EQUAL(cl_buf_add(&b, text, (size_t)PTRDIFF_MAX - b.len, &err), CL_E_FIT);
    CU_ASSERT_STRING_EQUAL(err.msg, "text: over the address space");
    CU_ASSERT_EQUAL(b.len, 1263);
    cl_buf_free(&b);
}

static void new_files(void)
{
    cl_err err;
    cl_newfile nf;
    char pipe[80], link[80], want[200];
    snprintf(pipe, sizeof pipe, "%s/pipe", dir);
    snprintf(link, sizeof link, "%s/link", dir);
    CU_ASSERT_FATAL(mkfifo(pipe, 0600) == 0 && symlink(path, link) == 0);
    CU_ASSERT_EQUAL(cl_check_new("", &err), CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, "the name of a file to write is empty (give one)");
    CU_ASSERT_EQUAL(cl_check_new(pipe, &err), CL_E_INPUT);
    says(&err, ": is not a file (give a file name)", pipe);
    CU_ASSERT_EQUAL(cl_check_new(link, &err), CL_E_INPUT);
    says(&err, ": is a symbolic link (give the name that it points to)", link);
    CU_ASSERT_EQUAL(cl_check_new(folder, &err), CL_E_INPUT);
    says(&err, ": is a folder (give a file name)", folder);
    CU_ASSERT_EQUAL(cl_check_new("/no-such-folder/x", &err), CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, "/no-such-folder/x: cannot be written: No such file or directory");
    CU_ASSERT_EQUAL(cl_newfile_open(&nf, "/no-such-folder/x", &err), CL_E_INPUT);
    CU_ASSERT(!nf.path && !nf.tmp && !nf.f);
    unlink(pipe);
    unlink(link);
    CU_ASSERT_FATAL(cl_newfile_open(&nf, path, &err) == CL_OK);
    snprintf(want, sizeof want, "%s.%ld.part", path, (long)getpid());
    CU_ASSERT_STRING_EQUAL(nf.tmp, want);
    CU_ASSERT_EQUAL(cl_newfile_commit(&nf, &err), CL_OK);
    CU_ASSERT(!nf.path && !nf.tmp && !nf.f);
    CU_ASSERT(cl_same_file(path, path) && !cl_same_file(path, dir) && !cl_same_file(path, want));
    unlink(path);
}

/* What has taken the name meanwhile stays, and the file of ours goes. */
static void name_is_taken(void)
{
    cl_err err;
    cl_newfile nf;
    char tmp[120], want[400];
    CU_ASSERT_FATAL(cl_newfile_open(&nf, path, &err) == CL_OK);
    snprintf(tmp, sizeof tmp, "%s", nf.tmp);
    CU_ASSERT_FATAL(mkdir(path, 0700) == 0);
    CU_ASSERT_EQUAL(cl_newfile_commit(&nf, &err), CL_E_RUN);
    snprintf(want, sizeof want, "%s: cannot rename %s to it: Is a directory", path, tmp);
    CU_ASSERT_STRING_EQUAL(err.msg, want);
    CU_ASSERT(access(tmp, F_OK) != 0 && !nf.path && !nf.tmp);
    CU_ASSERT_EQUAL(rmdir(path), 0);
}

/* --- numbers --- */

static void integers(void)
{
    static const struct {
        const char *s;
        bool good;
        int64_t v;
    } cases[] = {{"-5", true, -5}, {"-6", false, 0}, {"100", true, 100}, {"101", false, 0}, {"+7", true, 7},
                 {"+", false, 0},  {"-", false, 0},  {"00", true, 0},    {"0", true, 0},    {"9", true, 9},
                 {"/", false, 0},  {":", false, 0},  {"+-1", false, 0},  {"1 ", false, 0},  {"", false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t v = 77;
        errno = ERANGE; /* an older failure is no reason */
        CU_ASSERT_EQUAL(cl_parse_int(cases[i].s, -5, 100, &v), cases[i].good);
        CU_ASSERT_EQUAL(v, cases[i].good ? cases[i].v : 77);
    }
    int64_t v = 0;
    CU_ASSERT(cl_parse_int("9223372036854775807", INT64_MIN, INT64_MAX, &v) && v == INT64_MAX);
    CU_ASSERT(cl_parse_int("-9223372036854775808", INT64_MIN, INT64_MAX, &v) && v == INT64_MIN);
    CU_ASSERT(!cl_parse_int("9223372036854775808", INT64_MIN, INT64_MAX, &v) && v == INT64_MIN);
}

static void floats(void)
{
    static const struct {
        const char *s;
        bool good;
        double v;
    } cases[] = {{"-1", true, -1},    {"-1.01", false, 0}, {"2", true, 2},       {"2.01", false, 0}, {".5", true, 0.5},
                 {"+.25", true, .25}, {"-.5", true, -.5},  {"1e-3", true, .001}, {".", false, 0},    {"-", false, 0},
                 {"1x", false, 0},    {"", false, 0},      {"-inf", false, 0},   {"--1", false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double v = 77;
        CU_ASSERT_EQUAL(cl_parse_double(cases[i].s, -1, 2, &v), cases[i].good);
        CU_ASSERT_EQUAL(v, cases[i].good ? cases[i].v : 77);
    }
    double v = 77;
    CU_ASSERT(!cl_parse_double("1e999", 0, INFINITY, &v) && v == 77);
}

static void bytes_in_text(void)
{
    static const struct {
        const char *s;
        bool good;
        uint64_t v;
    } cases[] = {{"7B", true, 7},
                 {"1k", true, 1000},
                 {"1K", true, 1000},
                 {"1kB", true, 1000},
                 {"1Ki", true, 1024},
                 {"2KiB", true, 2048},
                 {"1M", true, 1000000},
                 {"1MiB", true, 1 << 20},
                 {"3G", true, 3000000000},
                 {"1GiB", true, 1 << 30},
                 {"1T", true, 1000000000000},
                 {"1TiB", true, 1ull << 40},
                 {"8388607TiB", true, 8388607ull << 40},
                 {"8388608TiB", false, 0},
                 {"1m", false, 0},
                 {"1P", false, 0},
                 {"1BB", false, 0},
                 {"1Kib", false, 0},
                 {"k", false, 0},
                 {".5k", false, 0},
                 {"0.5k", true, 500},
                 {"", false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t v = 77;
        CU_ASSERT_EQUAL(cl_parse_bytes(cases[i].s, &v), cases[i].good);
        CU_ASSERT_EQUAL(v, cases[i].good ? cases[i].v : 77);
    }
}

static void bytes_for_people(void)
{
    static const struct {
        double v;
        const char *says;
    } cases[] = {{0, "0 B"},         {999, "999 B"},       {999.4, "999 B"},   {999.5, "1.00 kB"},  {1000, "1.00 kB"},
                 {9990, "9.99 kB"},  {9994, "9.99 kB"},    {9995, "10.0 kB"},  {99940, "99.9 kB"},  {99950, "100 kB"},
                 {999499, "999 kB"}, {999500, "1.00 MB"},  {1.5e9, "1.50 GB"}, {2.5e12, "2.50 TB"}, {3e15, "3.00 PB"},
                 {4e18, "4000 PB"},  {12.34e6, "12.3 MB"}, {123.4e6, "123 MB"}};
    char buf[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CU_ASSERT_STRING_EQUAL(cl_human_bytes(cases[i].v, buf), cases[i].says);
}

/* --- words --- */

static void words(void)
{
    const char *const list[] = {"abcdef", "abcxyz", "q"};
    char long_one[80];
    CU_ASSERT_PTR_EQUAL(cl_nearest("abcdez", list, 3), list[0]);
    CU_ASSERT_PTR_EQUAL(cl_nearest("abcdxz", list, 3), list[0]); /* as near as the next: the first */
    CU_ASSERT_PTR_EQUAL(cl_nearest("abcx", list, 3), list[1]);
    CU_ASSERT_PTR_EQUAL(cl_nearest("abc", list, 3), NULL); /* three of three letters */
    CU_ASSERT_PTR_EQUAL(cl_nearest("aabcdef", list, 3), list[0]);
    CU_ASSERT_PTR_EQUAL(cl_nearest("qw", list, 3), list[2]);
    CU_ASSERT_PTR_EQUAL(cl_nearest("", list, 3), list[2]);
    CU_ASSERT_PTR_EQUAL(cl_nearest("q", list, 0), NULL);
    for (int n = 62; n <= 64; n++) {
        memset(long_one, 'a', sizeof long_one);
        long_one[n] = 0;
        const char *const one[] = {long_one};
        CU_ASSERT_PTR_EQUAL(cl_nearest(long_one, one, 1), n <= 63 ? long_one : NULL);
    }
}

static void utf8(void)
{
    static const struct {
        const char *s;
        int bad; /* -1: good */
    } cases[] = {{"\x7f", -1},
                 {"\x80", 0},
                 {"\xc1\xbf", 0},
                 {"\xc2\x80", -1},
                 {"\xc2\x7f", 0},
                 {"\xc2\xc0", 0},
                 {"\xdf\xbf", -1},
                 {"\xe0\x9f\xbf", 0},
                 {"\xe0\xa0\x80", -1},
                 {"\xed\x9f\xbf", -1},
                 {"\xed\xa0\x80", 0},
                 {"\xee\x80\x80", -1},
                 {"\xef\xbf\xbf", -1},
                 {"\xe1\x80", 0},
                 {"\xe1\x80\x40", 0},
                 {"\xf0\x8f\xbf\xbf", 0},
                 {"\xf0\x90\x80\x80", -1},
                 {"\xf4\x8f\xbf\xbf", -1},
                 {"\xf4\x90\x80\x80", 0},
                 {"\xf5\x80\x80\x80", 0},
                 {"\xf1\x80\x80", 0},
                 {"a\xc3\xa9\xff", 3},
                 {"", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bad = 99;
        CU_ASSERT_EQUAL(cl_utf8_valid(cases[i].s, strlen(cases[i].s), &bad), cases[i].bad < 0);
        CU_ASSERT_EQUAL(bad, cases[i].bad < 0 ? 99 : (size_t)cases[i].bad);
        CU_ASSERT_EQUAL(cl_utf8_valid(cases[i].s, strlen(cases[i].s), NULL), cases[i].bad < 0);
    }
    char text[] = "a\xe2\x82z\xc3\xa9\xff";
    cl_utf8_repair(text);
    CU_ASSERT_STRING_EQUAL(text, "a??z\xc3\xa9?");
}

/* As /proc has it. */
static void this_process(void)
{
    char name[128] = "", shorter[8], line[256], *at = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && !at && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0) at = strchr(line, ':');
    if (f) fclose(f);
    if (at) at[strcspn(at, "\n")] = 0;
    cl_cpu_name(name, sizeof name);
    CU_ASSERT_STRING_EQUAL(name, at ? at + 2 : "unknown");
    cl_cpu_name(shorter, sizeof shorter);
    CU_ASSERT(strncmp(shorter, name, 7) == 0 && strlen(shorter) <= 7);
    CU_ASSERT(cl_rss_bytes() > 1 << 20 && cl_rss_bytes() % 4096 == 0 && cl_rss_bytes() < (uint64_t)1 << 32);
    CU_ASSERT(cl_rss_peak_bytes() > 1 << 20 && cl_rss_peak_bytes() % 1024 == 0);
    CU_ASSERT(cl_rss_peak_bytes() < (uint64_t)1 << 32);
}

int main(void)
{
    strcpy(dir, "/tmp/chipline-files-XXXXXX");
    if (!mkdtemp(dir)) return EXIT_FAILURE;
    snprintf(path, sizeof path, "%s/f", dir);
    snprintf(folder, sizeof folder, "%s/d", dir);
    if (mkdir(folder, 0700)) return EXIT_FAILURE;
    CU_TestInfo tests[] = {{"reading", reading},
                           {"standard input", standard_input},
                           {"buffers", buffers},
                           {"new files", new_files},
                           {"a name that is taken", name_is_taken},
                           {"integers", integers},
                           {"floats", floats},
                           {"bytes in text", bytes_in_text},
                           {"bytes for people", bytes_for_people},
                           {"words", words},
                           {"utf-8", utf8},
                           {"this process", this_process},
                           CU_TEST_INFO_NULL};
    int rc = run_suite("files", tests);
    return rmdir(folder) || rmdir(dir) || rc;
}
