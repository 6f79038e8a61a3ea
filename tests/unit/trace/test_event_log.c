/* Event logs that lie: every one is refused with its name and a reason, or gives whole events. */
#include <errno.h>
#include <sys/stat.h>

#include "folder.h"
#include "event_log.h"

enum { N = 50 };
static char good[LOG_HEADER_BYTES + N * sizeof(cl_event)];

static void record_good(void)
{
    const char *path = in_folder("good");
    cl_trace *t;
    if (cl_trace_open(&t, path, 7, CL_TRACE_KERNEL, NULL)) exit(EXIT_FAILURE);
    for (uint64_t i = 0; i < N; i++) {
        cl_event e = numbered(i);
        cl_trace_add(t, &e);
    }
    cl_trace_close(t);
    FILE *f = fopen(path, "rb");
    if (!f || fread(good, 1, sizeof good, f) != sizeof good || fgetc(f) != EOF) exit(EXIT_FAILURE);
    fclose(f);
    unlink(path);
}

static const char *write_bytes(const char *bytes, size_t n)
{
    const char *path = in_folder("part");
    FILE *f = fopen(path, "wb");
    CU_ASSERT_FATAL(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
    return path;
}

/* Opens and reads everything. True: refused with a proper message. False: it gave `count` whole events. */
static bool refused(const char *path, uint64_t *count)
{
    cl_err err = {0};
    cl_event_log *p;
    int rank;
    uint64_t got = 0;
    cl_event buf[N + 1];
    cl_code code = cl_event_log_open(&p, path, &rank, count, &err);
    if (code == CL_OK) {
        CU_ASSERT_FATAL(*count <= N);
        code = cl_event_log_read(p, 0, N + 1, buf, &got, &err);
        if (code == CL_OK) CU_ASSERT(got == *count);
        cl_event_log_close(p);
    }
    if (code == CL_OK) return false;
    CU_ASSERT(code == CL_E_INPUT && err.code == code && strstr(err.msg, path) && strchr(err.msg, '('));
    return true;
}

static void test_truncated(void)
{
    uint64_t count = 0;
    const size_t cuts[] = {0,
                           1,
                           7,
                           8,
                           20,
                           sizeof(log_header) - 1,
                           sizeof(log_header),
                           4096,
                           LOG_HEADER_BYTES - 1,
                           LOG_HEADER_BYTES,
                           LOG_HEADER_BYTES + 1,
                           sizeof good - sizeof(cl_event),
                           sizeof good - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        CU_ASSERT(refused(write_bytes(good, cuts[i]), &count));
        unlink(in_folder("part"));
    }
    CU_ASSERT(!refused(write_bytes(good, sizeof good), &count) && count == N);
    unlink(in_folder("part"));
}

/* Every header byte may lie: the magic, version, order and sizes are refused; a smaller count gives fewer events. */
static void test_lying_header(void)
{
    char bytes[sizeof good];
    for (size_t at = 0; at < sizeof(log_header); at++)
        for (int flip = 1; flip < 256; flip = flip * 2 + 1) {
            memcpy(bytes, good, sizeof good);
            bytes[at] = (char)(bytes[at] ^ flip);
            uint64_t count = 0;
            bool no = refused(write_bytes(bytes, sizeof bytes), &count);
            /* rank, level, count and dropped may have other values */
            bool free_field = at >= offsetof(log_header, rank);
            CU_ASSERT(no || free_field);
            if (!no) CU_ASSERT(count <= N);
        }
    const uint64_t lies[] = {N + 1, UINT64_MAX, UINT64_MAX / sizeof(cl_event) + 2, (uint64_t)1 << 63};
    for (size_t i = 0; i < 4; i++) {
        uint64_t count;
        memcpy(bytes, good, sizeof good);
        memcpy(bytes + offsetof(log_header, count), &lies[i], 8);
        CU_ASSERT(refused(write_bytes(bytes, sizeof bytes), &count));
    }
    unlink(in_folder("part"));
}

static void test_bad_events(void)
{
    cl_event e = numbered(20);
    const cl_event bad[] = {{.kind = CL_EV_KINDS + 1}, {.kind = -1}, {.start_ns = 2, .end_ns = 1}};
    for (size_t i = 0; i < 3; i++) {
        char bytes[sizeof good];
        memcpy(bytes, good, sizeof good);
        char *at = bytes + LOG_HEADER_BYTES + 20 * sizeof e;
        CU_ASSERT_FATAL(memcmp(at, &e, sizeof e) == 0);
        memcpy(at, &bad[i], sizeof e);
        cl_err err = {0};
        cl_event_log *p;
        int rank;
        uint64_t n, got;
        cl_event buf[N];
        CU_ASSERT_FATAL(cl_event_log_open(&p, write_bytes(bytes, sizeof bytes), &rank, &n, &err) == CL_OK);
        CU_ASSERT(cl_event_log_read(p, 0, 20, buf, &got, &err) == CL_OK && got == 20);
        CU_ASSERT(cl_event_log_read(p, 10, N, buf, &got, &err) == CL_E_INPUT && got == 0 &&
                  strstr(err.msg, "event 20"));
        cl_event_log_close(p);
    }
    unlink(in_folder("part"));
}

static void test_no_file(void)
{
    uint64_t count;
    CU_ASSERT(refused(in_folder("nothing"), &count));
    CU_ASSERT(refused(folder, &count));
    const char *pipe_path = in_folder("pipe"); /* must not wait for a writer */
    CU_ASSERT_FATAL(mkfifo(pipe_path, 0600) == 0);
    CU_ASSERT(refused(pipe_path, &count));
    unlink(pipe_path);
}

/* Cut short after it was opened. */
static void test_shrinks(void)
{
    cl_err err = {0};
    cl_event_log *p;
    int rank;
    uint64_t n, got;
    cl_event buf[N];
    const char *path = write_bytes(good, sizeof good);
    CU_ASSERT_FATAL(cl_event_log_open(&p, path, &rank, &n, &err) == CL_OK && rank == 7 && n == N);
    CU_ASSERT(truncate(path, LOG_HEADER_BYTES + 5 * sizeof(cl_event) + 3) == 0);
    CU_ASSERT(cl_event_log_read(p, 0, 5, buf, &got, &err) == CL_OK && got == 5);
    CU_ASSERT(cl_event_log_read(p, 0, N, buf, &got, &err) == CL_E_INPUT && got == 0 && strstr(err.msg, "truncated"));
    cl_event_log_close(p);
    unlink(path);
}

int main(void)
{
    folder_make();
    record_good();
    CU_TestInfo tests[] = {{"truncated", test_truncated},        {"a lying header", test_lying_header},
                           {"bad events", test_bad_events},      {"no such file", test_no_file},
                           {"shrinks while read", test_shrinks}, CU_TEST_INFO_NULL};
    int rc = run_suite("event logs", tests);
    return folder_remove() || rc;
}
