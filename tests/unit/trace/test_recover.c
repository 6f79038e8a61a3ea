/* A run that died: its event logs and rank 0's note become a trace with all that was recorded and what was lost. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "chipline/store.h"
#include "columns.h"
#include "event_log.h"
#include "folder.h"

static const char run_json[] = "{\"model\": \"m\", \"ended\": false}";

/* A child that records n events of rank `rank`, a part before each, and is killed; limit: bytes of its file. */
static void record(const char *trace, int rank, uint64_t n, uint64_t limit)
{
    char *path = cl_event_log_path(trace, rank, NULL);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (limit) setrlimit(RLIMIT_FSIZE, &(struct rlimit){limit, RLIM_INFINITY});
        cl_trace *t;
        if (cl_trace_open(&t, path, rank, CL_TRACE_KERNEL, NULL)) _exit(1);
        for (uint64_t i = 0; i < n; i++) {
            cl_event e = numbered(i);
            cl_trace_part p = numbered_part(i);
            if (rank == 0) cl_trace_add_part(t, &p);
            cl_trace_add(t, &e);
        }
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    CU_ASSERT_FATAL(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    free(path);
}

static void remove_files(const char *trace, int ranks)
{
    for (int k = -1; k < ranks; k++) {
        char *path = cl_event_log_path(trace, k, NULL);
        unlink(path);
        free(path);
    }
    unlink(trace);
}

static void note(const char *trace, uint32_t ranks)
{
    cl_err err = {0};
    cl_trace_rank rows[3] = {{.rank = 0, .host = "a"}, {.rank = 1, .host = "b"}, {.rank = 2, .host = "c"}};
    CU_ASSERT(cl_trace_note_run(trace, run_json, rows, ranks, &err) == CL_OK);
}

static void test_recover(void)
{
    enum { N = 20000, EXTRA = 100 };
    const char *trace = in_folder("t.h5");
    cl_err err = {0};
    cl_trace_recovered r;
    note(trace, 3);
    record(trace, 0, N, 0);
    record(trace, 1, LOG_WINDOW_RECORDS + EXTRA, LOG_HEADER_BYTES + LOG_WINDOW_RECORDS * sizeof(cl_event) + 999);
    CU_ASSERT_FATAL(cl_trace_recover(trace, &r, &err) == CL_OK); /* rank 2 left nothing */
    CU_ASSERT(r.ranks == 3 && r.logs == 2 && r.events == N + LOG_WINDOW_RECORDS && r.parts == N);

    cl_store *s;
    void *rows = NULL;
    uint64_t n = 0, wrong = 0;
    CU_ASSERT_FATAL(cl_store_open(&s, trace, "a trace", &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_get_table(cl_store_root(s), "ranks", &trace_rank_row, 9, &rows, &n, &err) == CL_OK);
    const cl_trace_rank *row = rows;
    CU_ASSERT(n == 3 && row[0].events == N && row[1].events == LOG_WINDOW_RECORDS && row[2].events == 0);
    CU_ASSERT(row[0].dropped == 0 && row[1].dropped == EXTRA &&
              row[2].dropped == 0); /* what the disk had no room for */
    CU_ASSERT_STRING_EQUAL(row[1].host, "b");
    free(rows);
    CU_ASSERT_FATAL(cl_store_get_table(cl_store_root(s), "parts", &trace_part_row, N, &rows, &n, &err) == CL_OK);
    CU_ASSERT(n == N);
    for (uint64_t i = 0; i < n; i++) {
        cl_trace_part want = numbered_part(i);
        wrong += memcmp((cl_trace_part *)rows + i, &want, sizeof want) != 0; /* rank is 0 */
    }
    free(rows);
    cl_store_node events;
    CU_ASSERT_FATAL(cl_store_open_group(cl_store_root(s), "events", &events, &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_get_table(events, "rank_0000", &trace_event_row, N, &rows, &n, &err) == CL_OK && n == N);
    for (uint64_t i = 0; i < n; i++) wrong += !is_numbered((cl_event *)rows + i, i);
    free(rows);
    CU_ASSERT_EQUAL(wrong, 0);
    cl_store_release(&events);
    cl_store_close(s);
    CU_ASSERT(folder_count() == 4); /* what the run left stays */
    remove_files(trace, 3);
}

static void test_nothing_to_recover(void)
{
    const char *trace = in_folder("t.h5");
    cl_err err = {0};
    cl_trace_recovered r;
    CU_ASSERT(cl_trace_recover(trace, &r, &err) == CL_E_INPUT && strstr(err.msg, "t.h5.run.part"));
    note(trace, 2);
    CU_ASSERT(cl_trace_recover(trace, &r, &err) == CL_E_INPUT && strstr(err.msg, "no event log"));
    CU_ASSERT(access(trace, F_OK) != 0 && r.ranks == 2 && r.logs == 0);
    char *path = cl_event_log_path(trace, -1, NULL); /* what is longer than it says is not what was written */
    FILE *f = fopen(path, "ab");
    CU_ASSERT_FATAL(f && fputc('x', f) == 'x' && fclose(f) == 0);
    CU_ASSERT(cl_trace_recover(trace, &r, &err) == CL_E_INPUT && !strstr(err.msg, "no event log"));
    free(path);
    remove_files(trace, 2);
}

/* Every byte of the note's head, and a cut anywhere: a trace or a message. */
static void test_lying_note(void)
{
    const char *trace = in_folder("t.h5");
    char *path = cl_event_log_path(trace, -1, NULL);
    cl_err err = {0};
    cl_trace_recovered r;
    cl_buf good = {0};
    note(trace, 2);
    record(trace, 0, 10, 0);
    CU_ASSERT_FATAL(cl_read_file(path, 1 << 20, &good, &err) == CL_OK && good.len > 100);
    for (size_t k = 0; k < good.len + 24; k++) {
        FILE *f = fopen(path, "wb"); /* k < 24: a flipped byte of the head; then cut after k - 24 */
        if (k < 24) good.data[k] ^= 0x55;
        CU_ASSERT_FATAL(f && fwrite(good.data, 1, k < 24 ? good.len : k - 24, f) == (k < 24 ? good.len : k - 24));
        fclose(f);
        if (k < 24) good.data[k] ^= 0x55;
        CU_ASSERT(cl_trace_recover(trace, &r, &err) == CL_E_INPUT && strstr(err.msg, "not what this version"));
        if (k > 300) k += 50;
    }
    cl_buf_free(&good);
    free(path);
    remove_files(trace, 2);
}

int main(void)
{
    folder_make();
    CU_TestInfo tests[] = {{"recover", test_recover},
                           {"nothing to recover", test_nothing_to_recover},
                           {"a lying note", test_lying_note},
                           CU_TEST_INFO_NULL};
    int rc = run_suite("recovered traces", tests);
    return folder_remove() || rc;
}
