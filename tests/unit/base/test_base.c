/* base: numbers, text, files, JSON access. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chipline/json.h"
#include "chipline/util.h"
#include "suite.h"

static void half_floats(void)
{
    /* every f16 value survives the round trip; every midpoint rounds to even */
    for (uint32_t h = 0; h < 65536; h++) {
        float f = cl_f16_to_f32((uint16_t)h);
        CU_ASSERT_TRUE_FATAL(isnan(f) ? isnan(cl_f16_to_f32(cl_f32_to_f16(f))) : cl_f32_to_f16(f) == h);
        if ((h & 0x7fff) < 0x7bff) {
            float mid = (float)(((double)f + (double)cl_f16_to_f32((uint16_t)(h + 1))) / 2);
            CU_ASSERT_EQUAL_FATAL(cl_f32_to_f16(mid), h & 1 ? h + 1 : h);
        }
        float b = cl_bf16_to_f32((uint16_t)h);
        if (!isnan(b)) CU_ASSERT_EQUAL_FATAL(cl_f32_to_bf16(b), h);
    }
    CU_ASSERT_EQUAL(cl_f16_to_f32(0x3555), 0x1.554p-2f);
    CU_ASSERT_EQUAL(cl_f32_to_f16(65519.996f), 0x7bff);
    CU_ASSERT_EQUAL(cl_f32_to_f16(65520.0f), 0x7c00);
    CU_ASSERT_EQUAL(cl_f32_to_f16(0x1p-25f), 0); /* tie to even */
    CU_ASSERT_EQUAL(cl_f32_to_f16(0x1.000002p-25f), 1);
    CU_ASSERT_EQUAL(cl_f32_to_bf16(1.00390625f), 0x3f80); /* tie */
    CU_ASSERT_EQUAL(cl_f32_to_bf16(1.01171875f), 0x3f82); /* tie, upwards to even */
    CU_ASSERT_TRUE(isnan(cl_bf16_to_f32(cl_f32_to_bf16(NAN))));
}

static void numbers_in_text(void)
{
    int64_t i;
    double d;
    uint64_t b;
    CU_ASSERT_TRUE(cl_parse_int("42", 0, 100, &i) && i == 42);
    CU_ASSERT_TRUE(cl_parse_int("-3", -5, 5, &i) && i == -3);
    const char *bad[] = {"", " 1", "1 ", "12x", "0x10", "1e3", "-", "99999999999999999999", "101", "nan"};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) CU_ASSERT_FALSE(cl_parse_int(bad[k], 0, 100, &i));
    CU_ASSERT_TRUE(cl_parse_double("0.75", 0, 1, &d) && d == 0.75);
    const char *badd[] = {"", "nan", "inf", "1.5x", "2", "-0.1", " 0.5", "1e999"};
    for (size_t k = 0; k < sizeof badd / sizeof *badd; k++) CU_ASSERT_FALSE(cl_parse_double(badd[k], 0, 1, &d));
    CU_ASSERT_TRUE(cl_parse_bytes("230MB", &b) && b == 230000000);
    CU_ASSERT_TRUE(cl_parse_bytes("1.5GiB", &b) && b == 1610612736);
    CU_ASSERT_TRUE(cl_parse_bytes("512", &b) && b == 512);
    CU_ASSERT_FALSE(cl_parse_bytes("12 apples", &b));
    CU_ASSERT_FALSE(cl_parse_bytes("-1", &b));
    char h[32];
    CU_ASSERT_STRING_EQUAL(cl_human_bytes(1500, h), "1.50 kB");
    CU_ASSERT_STRING_EQUAL(cl_human_bytes(999.6e6, h), "1.00 GB");
    CU_ASSERT_STRING_EQUAL(cl_human_bytes(12, h), "12 B");
}

static void utf8(void)
{
    size_t at = 99;
    CU_ASSERT_TRUE(cl_utf8_valid("h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82", 12, &at));
    struct {
        const char *s;
        size_t n, at;
    } bad[] = {{"a\xff", 2, 1},      {"\xc0\x80", 2, 0},     {"\xed\xa0\x80", 3, 0}, {"\xf4\x90\x80\x80", 4, 0},
               {"ab\xe2\x82", 4, 2}, {"\xe0\x80\x80", 3, 0}, {"\x80", 1, 0}};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        CU_ASSERT_FALSE(cl_utf8_valid(bad[k].s, bad[k].n, &at));
        CU_ASSERT_EQUAL(at, bad[k].at);
    }
}

static void near_words(void)
{
    const char *const words[] = {"convert", "inspect", "verify", "run"};
    CU_ASSERT_STRING_EQUAL(cl_nearest("covnert", words, 4), "convert");
    CU_ASSERT_STRING_EQUAL(cl_nearest("rum", words, 4), "run");
    CU_ASSERT_PTR_NULL(cl_nearest("elephant", words, 4));
}

/* What is there and no plain file stays as it is. */
static void not_replaced(const char *dir, const char *file)
{
    char pipe[64], link[64];
    cl_err err;
    cl_newfile nf;
    struct stat st;
    snprintf(pipe, sizeof pipe, "%s/pipe", dir);
    snprintf(link, sizeof link, "%s/link", dir);
    CU_ASSERT_EQUAL_FATAL(mkfifo(pipe, 0600), 0);
    CU_ASSERT_EQUAL_FATAL(symlink(file, link), 0);
    CU_ASSERT_EQUAL(cl_check_new(file, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_newfile_open(&nf, pipe, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "not a file"));
    CU_ASSERT_EQUAL(cl_newfile_open(&nf, link, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "symbolic link"));
    CU_ASSERT_TRUE(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    CU_ASSERT_TRUE(lstat(pipe, &st) == 0 && S_ISFIFO(st.st_mode));
    unlink(pipe);
    unlink(link);
}

/* The file may not grow as far as it is written: it never gets its name, though all that is flushed later fits. */
static void file_that_is_cut_off(const char *path)
{
    struct rlimit was, few = {4096, 4096};
    cl_err err;
    cl_newfile nf;
    char block[3000] = {0};
    CU_ASSERT_FATAL(getrlimit(RLIMIT_FSIZE, &was) == 0);
    few.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL_FATAL(cl_newfile_open(&nf, path, &err), CL_OK);
    setvbuf(nf.f, NULL, _IONBF, 0);
    setrlimit(RLIMIT_FSIZE, &few);
    size_t written = fwrite(block, 1, sizeof block, nf.f) + fwrite(block, 1, sizeof block, nf.f);
    cl_code c = cl_newfile_commit(&nf, &err);
    setrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, SIG_DFL);
    CU_ASSERT(written < 2 * sizeof block && c == CL_E_RUN && strstr(err.msg, path));
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
}

static void files(void)
{
    char dir[] = "/tmp/chipline-base-XXXXXX", path[64];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/f", dir);
    cl_err err;
    cl_newfile nf;
    file_that_is_cut_off(path);
    CU_ASSERT_EQUAL_FATAL(cl_newfile_open(&nf, path, &err), CL_OK);
    fputs("hello", nf.f);
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0); /* not under its final name yet */
    CU_ASSERT_EQUAL(cl_newfile_commit(&nf, &err), CL_OK);
    cl_buf b = {0};
    CU_ASSERT_EQUAL(cl_read_file(path, 100, &b, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(b.data, "hello");
    CU_ASSERT_EQUAL(cl_read_file(path, 4, &b, &err), CL_E_INPUT);
    CU_ASSERT_EQUAL(cl_read_file(dir, 100, &b, &err), CL_E_INPUT);
    cl_buf_free(&b);
    CU_ASSERT_EQUAL(cl_newfile_open(&nf, path, &err), CL_OK);
    cl_newfile_drop(&nf);
    CU_ASSERT_EQUAL(access(path, F_OK), 0); /* the old one stays */
    CU_ASSERT_EQUAL(cl_newfile_open(&nf, "/nowhere/at/all", &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "/nowhere/at/all"));
    CU_ASSERT_EQUAL(cl_newfile_open(&nf, "/dev/null", &err), CL_E_INPUT);
    CU_ASSERT_EQUAL(cl_newfile_open(&nf, dir, &err), CL_E_INPUT);
    not_replaced(dir, path);
    unlink(path);
    CU_ASSERT_EQUAL(rmdir(dir), 0);
}

static void json_access(void)
{
    const char *text = "{\"n\": 7, \"x\": 0.5, \"s\": \"t\", \"b\": true, \"z\": null, \"l\": [1], \"big\": 3.5}";
    json_t *j = NULL;
    cl_err err;
    int64_t n = 0;
    double x = 0;
    bool b = false;
    const char *s = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_json_parse(text, strlen(text), "t", &j, &err), CL_OK);
    CU_ASSERT_TRUE(cl_json_int(j, "n", true, 0, 10, &n, &err) == CL_OK && n == 7);
    CU_ASSERT_EQUAL(cl_json_int(j, "n", true, 0, 6, &n, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "n: is 7"));
    CU_ASSERT_EQUAL(cl_json_int(j, "big", true, 0, 10, &n, &err), CL_E_INPUT);
    CU_ASSERT_TRUE(cl_json_double(j, "x", true, 0, 1, &x, &err) == CL_OK && x == 0.5);
    CU_ASSERT_TRUE(cl_json_bool(j, "b", true, &b, &err) == CL_OK && b);
    CU_ASSERT_TRUE(cl_json_str(j, "s", true, &s, &err) == CL_OK && strcmp(s, "t") == 0);
    CU_ASSERT_EQUAL(cl_json_str(j, "z", true, &s, &err), CL_E_INPUT);
    CU_ASSERT_EQUAL(cl_json_str(j, "z", false, &s, &err), CL_OK);
    const json_t *l = NULL;
    CU_ASSERT_TRUE(cl_json_array(j, "l", true, &l, &err) == CL_OK && json_array_size(l) == 1);
    CU_ASSERT_EQUAL(cl_json_object(j, "l", true, &l, &err), CL_E_INPUT);
    json_decref(j);
    const char *bad[] = {"{", "{\"a\":1,\"a\":2}", "{\"a\": NaN}", "[1,]", ""};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        CU_ASSERT_EQUAL(cl_json_parse(bad[k], strlen(bad[k]), "t", &j, &err), CL_E_INPUT);
}

static void bad_numbers(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{\"a\": 1,\n\"rope_theta\": NaN}", "t: rope_theta: line 2: NaN is not a number that JSON has"},
        {"{\"a\": {\"f\": 1, \"factor\": -Infinity}, \"b\": 2}", "t: a.factor: line 1: -Infinity is not a number"},
        {"{\"a\": {\"f\": [2]}, \"l\": [1, {\"x\": 1, \"y\": [3, Infinity]}]}", "t: l.y: line 1: Infinity is not"},
        {"{\"NaN\": \"a \\\" NaN\", \"n\": 99999999999999999999}",
         "t: n: line 1: 99999999999999999999 is beyond 64 bits"},
        {"{\"n\": -99999999999999999999}", "t: n: line 1: -99999999999999999999 is beyond"},
        {"{\"n\": 1e999}", "t: n: line 1: 1e999 is beyond floating point"},
        {"NaN", "t: line 1: NaN is not"},
        {"{\"a\": 1 \"b\": NaN}", "t: not valid JSON"}, /* an earlier fault */
        {"{\"a\": nan}", "t: not valid JSON"},
        {"[[[[[[[[[[[[[[[[[[[[NaN", "t: line 1: NaN is not"},
    };
    json_t *j = NULL;
    cl_err err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CU_ASSERT_EQUAL(cl_json_parse(cases[i].text, strlen(cases[i].text), "t", &j, &err), CL_E_INPUT);
        if (strncmp(err.msg, cases[i].says, strlen(cases[i].says)) != 0) {
            fprintf(stderr, "%s: %s\n", cases[i].text, err.msg);
            CU_FAIL("wrong message");
        }
    }
    const char *large = "{\"n\": 9223372036854775807, \"big\": 1000000000000000019884624838656, \"x\": NaN}";
    CU_ASSERT_EQUAL(cl_json_parse_reals(large, strlen(large), "t", &j, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "x: line 1: NaN"));
    CU_ASSERT_EQUAL(cl_json_parse_reals(large, strlen(large) - 6, "t", &j, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "not valid JSON"));
    CU_ASSERT_EQUAL_FATAL(cl_json_parse_reals("{\"big\": 1000000000000000019884624838656}", 40, "t", &j, &err), CL_OK);
    CU_ASSERT_EQUAL(json_real_value(json_object_get(j, "big")), 1e30);
    json_decref(j);
}

/* user, nice, system, irq, softirq: what waits for a disk uses no core. */
static uint64_t ticks_used(void)
{
    unsigned long long t[7] = {0};
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return 0;
    for (int i = 0; i < 7; i++)
        if (fscanf(f, i ? "%llu" : "cpu %llu", &t[i]) != 1) t[i] = 0;
    fclose(f);
    return t[0] + t[1] + t[2] + t[5] + t[6];
}

static void host_cpu(void)
{
    const uint64_t tick = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK), before = ticks_used() * tick,
                   host = cl_host_cpu_ns(), after = ticks_used() * tick;
    CU_ASSERT(before <= host && host <= after);
    CU_ASSERT(host % tick == 0);
}

static void *work_a_while(void *ctx)
{
    const uint64_t until = cl_thread_cpu_ns() + 20000000;
    while (cl_thread_cpu_ns() < until) {
    }
    return ctx;
}

/* A process has used what all of its threads have, also those that are gone. */
static void process_cpu(void)
{
    const uint64_t process = cl_process_cpu_ns(), thread = cl_thread_cpu_ns();
    pthread_t other;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, work_a_while, NULL), 0);
    CU_ASSERT_EQUAL(pthread_join(other, NULL), 0);
    CU_ASSERT_TRUE(cl_process_cpu_ns() - process >= 20000000);
    CU_ASSERT_TRUE(cl_thread_cpu_ns() - thread < cl_process_cpu_ns() - process);
}

/* Not on a terminal: a line in ten seconds, and one at the end. */
static void progress(void)
{
    char said[512];
    FILE *f = tmpfile();
    int kept = dup(2);
    cl_progress p, off;
    CU_ASSERT_FATAL(f && kept >= 0 && fflush(stderr) == 0 && dup2(fileno(f), 2) == 2);
    cl_progress_start(&p, true, "loading", 2000000);
    cl_progress_start(&off, false, "nothing", 1);
    for (uint64_t i = 0; i < 4; i++) {
        if (i) p.last_ns -= 10100000000u;
        cl_progress_at(&p, 100000 * i);
        cl_progress_at(&p, 100000 * i + 1);
    }
    off.last_ns = 0;
    cl_progress_at(&off, 1);
    cl_progress_end(&off, 1);
    cl_progress_end(&p, 2000000);
    dup2(kept, 2);
    close(kept);
    rewind(f);
    size_t n = fread(said, 1, sizeof said - 1, f);
    said[n] = 0;
    fclose(f);
    int lines = 0;
    for (size_t i = 0; i < n; i++) lines += said[i] == '\n';
    CU_ASSERT_EQUAL(lines, 4);
    CU_ASSERT(strncmp(said, "loading: 100 kB of 2.00 MB, ", 28) == 0 && strstr(said, "loading: 2.00 MB in "));
    if (lines != 4) fputs(said, stderr);
}

static void medians(void)
{
    double v[] = {5, -1, 9, 2}, w[] = {3, 3, 8, 1, 7}, one[] = {4};
    CU_ASSERT_EQUAL(cl_least(v, 4), -1);
    CU_ASSERT_EQUAL(cl_least(v, 1), 5);
    CU_ASSERT_EQUAL(cl_least(w, 5), 1);
    CU_ASSERT_EQUAL(cl_median(v, 4), 3.5);
    CU_ASSERT_EQUAL(cl_median(w, 5), 3);
    CU_ASSERT_EQUAL(cl_median(one, 1), 4);
}

static void errors(void)
{
    cl_err err;
    CU_ASSERT_EQUAL(cl_fail(&err, CL_E_FIT, "a\nb %d", 5), CL_E_FIT);
    CU_ASSERT_STRING_EQUAL(err.msg, "a b 5");
    cl_fail(&err, CL_E_FIT, "\x1b[31m%s\t\x01", "red");
    CU_ASSERT_STRING_EQUAL(err.msg, " [31mred  ");
    cl_fail_prefix(&err, "a\nfile\x1b");
    CU_ASSERT_STRING_EQUAL(err.msg, "a file :  [31mred  ");
    cl_fail(&err, CL_E_INPUT, "bad \xff\xe2\x82 text");
    CU_ASSERT_STRING_EQUAL(err.msg, "bad ??? text");
    cl_fail(&err, CL_E_FIT, "a b %d", 5);
    CU_ASSERT_EQUAL(cl_fail_prefix(&err, "%s", "file"), CL_E_FIT);
    CU_ASSERT_STRING_EQUAL(err.msg, "file: a b 5");
    CU_ASSERT_PTR_NULL(cl_malloc((size_t)1 << 62, 8, "thing", &err));
    CU_ASSERT_EQUAL(err.code, CL_E_FIT);
    size_t big = 3 << 20;
    unsigned char *p = cl_malloc_aligned(big, "x", &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_EQUAL((uintptr_t)p % 64, 0);
    CU_ASSERT_TRUE(p[0] == 0 && p[big - 1] == 0);
    cl_free_aligned(p, big);
}

int main(void)
{
    CU_TestInfo tests[] = {{"half floats", half_floats},
                           {"numbers in text", numbers_in_text},
                           {"medians", medians},
                           {"the host's cores", host_cpu},
                           {"a process' cores", process_cpu},
                           {"progress", progress},
                           {"utf-8", utf8},
                           {"near words", near_words},
                           {"files", files},
                           {"json access", json_access},
                           {"numbers that JSON lacks", bad_numbers},
                           {"errors", errors},
                           CU_TEST_INFO_NULL};
    return run_suite("base", tests);
}
