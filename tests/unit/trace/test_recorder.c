/* The recorder: what is recorded is in the file, whatever becomes of the process and of the disk. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "folder.h"
#include "event_log.h"

static void test_kinds(void)
{
    for (int k = 0; k < CL_EV_KINDS; k++) {
        CU_ASSERT(strcmp(cl_event_name((cl_event_kind)k), "unknown") != 0);
        CU_ASSERT(cl_event_level((cl_event_kind)k) > CL_TRACE_OFF &&
                  cl_event_level((cl_event_kind)k) <= CL_TRACE_KERNEL);
        for (int j = 0; j < k; j++)
            CU_ASSERT(strcmp(cl_event_name((cl_event_kind)k), cl_event_name((cl_event_kind)j)) != 0);
    }
    CU_ASSERT_STRING_EQUAL(cl_event_name(CL_EV_RECV), "recv");
    CU_ASSERT(cl_event_level(CL_EV_PROBE) == CL_TRACE_STAGE && cl_event_level(CL_EV_HEAD) == CL_TRACE_LAYER);
    CU_ASSERT(cl_event_level(CL_EV_FFN) == CL_TRACE_KERNEL);
    CU_ASSERT_STRING_EQUAL(cl_event_name((cl_event_kind)-1), "unknown");
    CU_ASSERT_STRING_EQUAL(cl_event_name(CL_EV_KINDS), "unknown");
}

static void test_null(void)
{
    cl_event e = numbered(3);
    CU_ASSERT(!cl_trace_on(NULL, CL_TRACE_STAGE));
    cl_trace_add(NULL, &e);
    cl_mark m = cl_trace_mark(NULL, CL_TRACE_STAGE);
    CU_ASSERT(!m.on);
    cl_trace_end(NULL, m, &e);
    CU_ASSERT(is_numbered(&e, 3));
    CU_ASSERT(cl_trace_count(NULL) == 0 && cl_trace_dropped(NULL) == 0 && cl_trace_mapped(NULL) == 0);
    cl_trace_part part = numbered_part(1);
    cl_trace_add_part(NULL, &part);
    cl_trace_close(NULL);
    cl_event_log_close(NULL);
    cl_err err = {0};
    cl_trace *t = (cl_trace *)&err; /* switched off: nothing is made */
    CU_ASSERT(cl_trace_open(&t, in_folder("off"), 0, CL_TRACE_OFF, &err) == CL_OK && t == NULL && folder_count() == 0);
}

/* Events [0, n) of the file are the numbered ones, read in pieces; *count is what the file says. */
static void check_part(const char *path, int want_rank, uint64_t n, uint64_t *count)
{
    cl_err err = {0};
    cl_event_log *p;
    int rank = -1;
    CU_ASSERT_FATAL(cl_event_log_open(&p, path, &rank, count, &err) == CL_OK);
    CU_ASSERT(rank == want_rank && *count >= n);
    cl_event buf[1000];
    uint64_t wrong = 0, got, i = 0;
    for (; i < *count; i += got) {
        CU_ASSERT_FATAL(cl_event_log_read(p, i, 1000, buf, &got, &err) == CL_OK && got > 0);
        for (uint64_t k = 0; k < got; k++) wrong += !is_numbered(&buf[k], i + k);
    }
    CU_ASSERT(wrong == 0 && i == *count);
    CU_ASSERT(cl_event_log_read(p, *count, 10, buf, &got, &err) == CL_OK && got == 0);
    cl_event_log_close(p);
}

static void test_windows(void)
{
    const uint64_t n = 3 * LOG_WINDOW_RECORDS + 7;
    const char *path = in_folder("windows");
    cl_err err = {0};
    cl_trace *t;
    CU_ASSERT_FATAL(cl_trace_open(&t, path, 5, CL_TRACE_KERNEL, &err) == CL_OK);
    uint64_t mapped = cl_trace_mapped(t), count;
    CU_ASSERT(mapped > 0 && mapped < 4000000);
    for (uint64_t i = 0; i < n; i++) {
        cl_event e = numbered(i);
        cl_trace_add(t, &e);
        if (i == LOG_WINDOW_RECORDS / 2) check_part(path, 5, i + 1, &count); /* while it is being written, too */
    }
    CU_ASSERT(cl_trace_count(t) == n && cl_trace_dropped(t) == 0 && cl_trace_mapped(t) == mapped);
    cl_trace_close(t);
    check_part(path, 5, n, &count);
    CU_ASSERT(count == n);
    struct stat st;
    CU_ASSERT(stat(path, &st) == 0 && (uint64_t)st.st_size == LOG_HEADER_BYTES + n * sizeof(cl_event));
    unlink(path);
}

static void test_levels_and_marks(void)
{
    const char *path = in_folder("levels");
    cl_err err = {0};
    cl_trace *t;
    CU_ASSERT_FATAL(cl_trace_open(&t, path, 0, CL_TRACE_LAYER, &err) == CL_OK);
    CU_ASSERT(cl_trace_on(t, CL_TRACE_STAGE) && cl_trace_on(t, CL_TRACE_LAYER) && !cl_trace_on(t, CL_TRACE_KERNEL));
    cl_event e = {.kind = CL_EV_FFN};
    cl_trace_add(t, &e);
    cl_mark off = cl_trace_mark(t, CL_TRACE_KERNEL);
    cl_trace_end(t, off, &e);
    CU_ASSERT(!off.on && cl_trace_count(t) == 0 && e.start_ns == 0);

    uint64_t before = cl_now_ns();
    cl_mark m = cl_trace_mark(t, CL_TRACE_LAYER);
    volatile double x = 1;
    while (cl_now_ns() - before < 3000000) x = x * 1.0000001; /* 3 ms of work, then 3 ms of sleep */
    usleep(3000);
    cl_event layer = {.kind = CL_EV_LAYER, .layer = 2, .microbatch = 9};
    m = cl_trace_end(t, m, &layer);
    uint64_t after = cl_now_ns();
    cl_event next = {.kind = CL_EV_HEAD};
    cl_trace_end(t, m, &next); /* begins where the other ended */
    CU_ASSERT(cl_trace_count(t) == 2 && next.start_ns == layer.end_ns && next.end_ns >= after);
    cl_trace_close(t);

    cl_event_log *p;
    int rank;
    uint64_t n, got;
    cl_event back;
    CU_ASSERT_FATAL(cl_event_log_open(&p, path, &rank, &n, &err) == CL_OK);
    CU_ASSERT(cl_event_log_read(p, 0, 1, &back, &got, &err) == CL_OK && got == 1);
    CU_ASSERT(back.kind == CL_EV_LAYER && back.layer == 2 && back.microbatch == 9);
    CU_ASSERT(back.start_ns >= before && back.end_ns <= after && back.end_ns - back.start_ns >= 6000000);
    CU_ASSERT(back.cpu_ns > 0 && back.cpu_ns < back.end_ns - back.start_ns - 2000000); /* sleep is no CPU time */
    cl_event_log_close(p);
    unlink(path);
}

/* Parts are kept among the events, at every level, and survive a recorder that is killed. */
static void test_parts(void)
{
    enum { N = 500 };
    const char *path = in_folder("parts");
    cl_err err = {0};
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        cl_trace *t;
        if (cl_trace_open(&t, path, 0, CL_TRACE_STAGE, NULL)) _exit(1);
        for (uint64_t i = 0; i < N; i++) {
            cl_trace_part p = numbered_part(i);
            cl_event e = {.kind = CL_EV_STEP, .microbatch = (int64_t)i, .layer = -1, .peer = -1};
            cl_trace_add_part(t, &p);
            cl_trace_add(t, &e);
        }
        kill(getpid(), SIGKILL);
    }
    int status = 0, rank;
    CU_ASSERT_FATAL(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    cl_event_log *l;
    uint64_t n, got, wrong = 0;
    static cl_event back[2 * N];
    CU_ASSERT_FATAL(cl_event_log_open(&l, path, &rank, &n, &err) == CL_OK && n == 2 * N);
    CU_ASSERT(cl_event_log_read(l, 0, 2 * N, back, &got, &err) == CL_OK && got == 2 * N);
    for (uint64_t i = 0; i < N; i++) {
        cl_trace_part want = numbered_part(i), is = log_part(&back[2 * i]);
        wrong += back[2 * i].kind != CL_EV_PART || memcmp(&is, &want, sizeof is) != 0;
        wrong += back[2 * i + 1].kind != CL_EV_STEP || back[2 * i + 1].microbatch != (int64_t)i;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    cl_event_log_close(l);
    unlink(path);
}

/* A child records and tells how far it is; it is killed at some moment: what it had told is there, and nothing torn. */
static void test_killed(void)
{
    const char *path = in_folder("killed");
    _Atomic uint64_t *told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL((void *)told != MAP_FAILED);
    for (int round = 0; round < 8; round++) {
        const uint64_t kill_at = round < 2 ? LOG_WINDOW_RECORDS - 5 + (uint64_t)round * 10
                                           : 1 + (uint64_t)round * 11000;
        atomic_store(told, 0);
        pid_t child = fork();
        if (child == 0) {
            cl_trace *t;
            if (cl_trace_open(&t, path, 3, CL_TRACE_KERNEL, NULL)) _exit(1);
            for (uint64_t i = 0;; i++) {
                cl_event e = numbered(i);
                cl_trace_add(t, &e);
                atomic_store(told, i + 1);
                if (round < 2 && i + 1 == kill_at) kill(getpid(), SIGKILL); /* at an exact place, */
            }
        }
        CU_ASSERT_FATAL(child > 0);
        int status = 0;
        if (round >= 2) { /* or wherever it happens to be */
            while (atomic_load(told) < kill_at && waitpid(child, &status, WNOHANG) == 0) usleep(50);
            kill(child, SIGKILL);
        }
        if (!WIFSIGNALED(status)) waitpid(child, &status, 0);
        CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        uint64_t count = 0;
        check_part(path, 3, atomic_load(told), &count);
        CU_ASSERT(count >= kill_at && count <= atomic_load(told) + 1);
        unlink(path);
    }
    munmap((void *)told, sizeof *told);
}

/* The file may not grow past one window: a full disk, as far as the recorder can tell. SIGXFSZ and SIGBUS would kill
 * the child. */
static void test_full_disk(void)
{
    const char *path = in_folder("full");
    const uint64_t n = LOG_WINDOW_RECORDS + 100;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit small = {LOG_HEADER_BYTES + LOG_WINDOW_RECORDS * sizeof(cl_event) + 12345, RLIM_INFINITY};
        setrlimit(RLIMIT_FSIZE, &small);
        cl_trace *t;
        if (cl_trace_open(&t, path, 1, CL_TRACE_KERNEL, NULL)) _exit(1);
        for (uint64_t i = 0; i < n; i++) {
            cl_event e = numbered(i);
            cl_trace_add(t, &e);
        }
        bool ok = cl_trace_count(t) == LOG_WINDOW_RECORDS && cl_trace_dropped(t) == 100 &&
                  cl_trace_mapped(t) == LOG_HEADER_BYTES;
        cl_trace_close(t);
        _exit(ok ? 0 : 2);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    uint64_t count = 0;
    check_part(path, 1, LOG_WINDOW_RECORDS, &count);
    CU_ASSERT(count == LOG_WINDOW_RECORDS);
    cl_event_log *p;
    int rank;
    CU_ASSERT_FATAL(cl_event_log_open(&p, path, &rank, &count, NULL) == CL_OK);
    CU_ASSERT(cl_event_log_dropped(p) == 100);
    cl_event_log_close(p);
    unlink(path);
}

/* Not even the first window fits: said at once, nothing left. */
static void test_no_room(void)
{
    const char *path = in_folder("none");
    pid_t child = fork();
    if (child == 0) {
        struct rlimit small = {LOG_HEADER_BYTES + 4096, RLIM_INFINITY};
        setrlimit(RLIMIT_FSIZE, &small);
        cl_err err = {0};
        cl_trace *t;
        bool ok = cl_trace_open(&t, path, 1, CL_TRACE_KERNEL, &err) == CL_E_RUN && t == NULL && strstr(err.msg, path) &&
                  strstr(err.msg, strerror(EFBIG)) && access(path, F_OK) != 0;
        _exit(ok ? 0 : 2);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_open(void)
{
    cl_err err = {0};
    cl_trace *t = (cl_trace *)&err;
    const char *nowhere = in_folder("no/such/folder");
    CU_ASSERT(cl_trace_open(&t, nowhere, 0, CL_TRACE_STAGE, &err) == CL_E_INPUT && t == NULL);
    CU_ASSERT(err.code == CL_E_INPUT && strstr(err.msg, nowhere) && strstr(err.msg, strerror(ENOENT)));

    /* A second recorder of the same name starts anew and leaves the first one's memory alone. */
    const char *path = in_folder("twice");
    cl_trace *a, *b;
    CU_ASSERT_FATAL(cl_trace_open(&a, path, 1, CL_TRACE_KERNEL, &err) == CL_OK);
    CU_ASSERT_FATAL(cl_trace_open(&b, path, 2, CL_TRACE_KERNEL, &err) == CL_OK);
    cl_event e = numbered(0);
    cl_trace_add(a, &e);
    cl_trace_add(b, &e);
    e = numbered(1);
    cl_trace_add(a, &e);
    cl_trace_close(a);
    cl_trace_close(b);
    uint64_t count = 0;
    check_part(path, 2, 1, &count);
    CU_ASSERT(count == 1);
    unlink(path);
}

int main(void)
{
    folder_make();
    CU_TestInfo tests[] = {{"kinds", test_kinds},
                           {"a NULL trace", test_null},
                           {"windows move on", test_windows},
                           {"levels and marks", test_levels_and_marks},
                           {"parts", test_parts},
                           {"a killed recorder", test_killed},
                           {"a full disk", test_full_disk},
                           {"no room at all", test_no_room},
                           {"opening", test_open},
                           CU_TEST_INFO_NULL};
    int rc = run_suite("recorder", tests);
    return folder_remove() || rc;
}
