/* Traces, value by value: every column and kind, every message in full, routing tables at their limits. */
#include <fcntl.h>
#include <sys/stat.h>

#include "chipline/store.h"
#include "columns.h"
#include "event_log.h"
#include "folder.h"
#include "kinds.h"

/* --- what TRACE.h5 explains itself with --- */

static uint32_t add_text(uint32_t h, const char *s)
{
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return (h ^ '|') * 16777619u;
}

/* Names, units and meanings of all columns as one number. Who changes a column changes analysis/README.md too. */
static void columns_are(const cl_store_row *row, size_t bytes, uint32_t want)
{
    uint32_t h = 2166136261u;
    for (int i = 0; i < row->n; i++) {
        h = add_text(h, row->columns[i].name);
        h = add_text(h, row->columns[i].unit);
        h = add_text(h, row->columns[i].description);
    }
    if (h != want) fprintf(stderr, "columns from %s on: 0x%08x\n", row->columns[0].name, h);
    CU_ASSERT_EQUAL(h, want);
    CU_ASSERT_EQUAL(row->bytes, bytes);
}

static void test_columns(void)
{
    columns_are(&trace_event_row, sizeof(cl_event), 0x59ff538a);
    columns_are(&trace_part_row, sizeof(cl_trace_part), 0x9c37d26e);
    columns_are(&trace_rank_row, sizeof(cl_trace_rank), 0x04b022c7);
    columns_are(&trace_request_row, sizeof(cl_trace_request), 0x529f27d0);
    columns_are(&trace_kind_row, sizeof(kind_row), 0x449af3d2);
}

static void test_kinds(void)
{
    static const char *const names[CL_EV_KINDS] =
        {[CL_EV_STEP] = "step stage",          [CL_EV_RECV] = "recv stage",
         [CL_EV_SEND] = "send stage",          [CL_EV_SAMPLE] = "sample stage",
         [CL_EV_SCHEDULE] = "schedule stage",  [CL_EV_IDLE] = "idle stage",
         [CL_EV_PROBE] = "probe stage",        [CL_EV_EMBED] = "embed layer",
         [CL_EV_LAYER] = "layer layer",        [CL_EV_HEAD] = "head layer",
         [CL_EV_QKV] = "qkv kernel",           [CL_EV_ATTEND] = "attend kernel",
         [CL_EV_ATTN_OUT] = "attn_out kernel", [CL_EV_ROUTE] = "route kernel",
         [CL_EV_GATHER] = "gather kernel",     [CL_EV_FFN] = "ffn kernel"};
    uint32_t h = 2166136261u;
    char is[64];
    for (int k = 0; k < CL_EV_KINDS; k++) {
        cl_event_kind kind = (cl_event_kind)k;
        snprintf(is, sizeof is, "%s %s", cl_event_name(kind), trace_level_name(cl_event_level(kind)));
        CU_ASSERT_STRING_EQUAL(is, names[k]);
        h = add_text(h, trace_kind_text(kind));
    }
    if (h != 0xcd4190df) fprintf(stderr, "kinds: 0x%08x\n", h);
    CU_ASSERT_EQUAL(h, 0xcd4190df);
    for (int k = -1; k <= CL_EV_KINDS; k += CL_EV_KINDS + 1) {
        CU_ASSERT_STRING_EQUAL(cl_event_name((cl_event_kind)k), "unknown");
        CU_ASSERT_STRING_EQUAL(trace_kind_text((cl_event_kind)k), "unknown");
        CU_ASSERT_EQUAL(cl_event_level((cl_event_kind)k), CL_TRACE_KERNEL);
    }
    CU_ASSERT_STRING_EQUAL(trace_level_name(CL_TRACE_OFF), "off");
    CU_ASSERT_STRING_EQUAL(trace_level_name((cl_trace_level)-1), "unknown");
    CU_ASSERT_STRING_EQUAL(trace_level_name((cl_trace_level)(CL_TRACE_KERNEL + 1)), "unknown");
}

/* --- event logs --- */

enum { N = 3 };
static char good[LOG_HEADER_BYTES + N * sizeof(cl_event)];

/* A descriptor of this file, open in this process, that a child would not inherit. */
static bool closes_on_exec(const char *path)
{
    char link[64], to[600];
    for (int fd = 0; fd < 64; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, to, sizeof to - 1);
        if (n <= 0) continue;
        to[n] = 0;
        if (!strcmp(to, path)) return fcntl(fd, F_GETFD) & FD_CLOEXEC;
    }
    return false;
}

static void record_good(const char *path)
{
    cl_trace *t;
    cl_err err;
    CU_ASSERT_FATAL(cl_trace_open(&t, path, 7, CL_TRACE_KERNEL, &err) == CL_OK);
    CU_ASSERT(closes_on_exec(path));
    CU_ASSERT_EQUAL(cl_trace_bytes(), cl_trace_mapped(t));
    CU_ASSERT_EQUAL(cl_trace_bytes(), LOG_HEADER_BYTES + LOG_WINDOW_RECORDS * sizeof(cl_event));
    for (uint64_t i = 0; i < N; i++) {
        cl_event e = numbered(i);
        cl_trace_add(t, &e);
    }
    cl_trace_close(t);
    FILE *f = fopen(path, "rb");
    CU_ASSERT_FATAL(f && fread(good, 1, sizeof good, f) == sizeof good && fgetc(f) == EOF && fclose(f) == 0);
}

static cl_code open_log(const char *path, const char *bytes, size_t n, cl_event_log **log, cl_err *err)
{
    int rank;
    uint64_t count;
    FILE *f = fopen(path, "wb");
    CU_ASSERT_FATAL(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
    cl_code c = cl_event_log_open(log, path, &rank, &count, err);
    if (c == CL_OK) CU_ASSERT(rank >= 0 && count <= N && closes_on_exec(path));
    return c;
}

static void says(const cl_err *err, const char *path, const char *want)
{
    char all[2000];
    snprintf(all, sizeof all, "%s: %s", path, want);
    CU_ASSERT_EQUAL(err->code, CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err->msg, all);
}

/* One member of the header at a time. */
static void test_headers(void)
{
    static const char impossible[] = "header of %u bytes, records of %u bytes, rank %d, level %d: not possible (the "
                                     "file is damaged)";
    const size_t header = offsetof(log_header, header_bytes), record = offsetof(log_header, record_bytes),
                 rank = offsetof(log_header, rank), level = offsetof(log_header, level);
    const struct {
        size_t at;
        int32_t value;
        bool good;
    } cases[] = {{header, 65535, false},
                 {header, 65537, false},
                 {header, 65536, true},
                 {record, 95, false},
                 {record, 97, false},
                 {record, 96, true},
                 {rank, -1, false},
                 {rank, 0, true},
                 {rank, INT32_MIN, false},
                 {level, -1, false},
                 {level, 0, true},
                 {level, CL_TRACE_KERNEL, true},
                 {level, CL_TRACE_KERNEL + 1, false}};
    const char *path = in_folder("log");
    static char bytes[sizeof good];
    record_good(path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_event_log *log;
        cl_err err = {0};
        char want[200];
        memcpy(bytes, good, sizeof good);
        memcpy(bytes + cases[i].at, &cases[i].value, 4);
        log_header h;
        memcpy(&h, bytes, sizeof h);
        CU_ASSERT_EQUAL(open_log(path, bytes, sizeof bytes, &log, &err), cases[i].good ? CL_OK : CL_E_INPUT);
        snprintf(want, sizeof want, impossible, h.header_bytes, h.record_bytes, h.rank, h.level);
        if (!cases[i].good) says(&err, path, want);
        cl_event_log_close(log);
    }
    unlink(path);
}

static void test_log_messages(void)
{
    const char *path = in_folder("log"), *none = in_folder("none");
    static char bytes[sizeof good];
    char want[200];
    cl_event_log *log;
    cl_err err = {0};
    int rank;
    uint64_t n;
    record_good(path);
    const struct {
        size_t at;
        int value; /* of one byte */
        const char *says;
    } cases[] = {{0, 'X', "not an event log of a trace (give the file that --trace left)"},
                 {offsetof(log_header, order), 1,
                  "recorded on a host of another byte order (read it on a host of that kind)"},
                 {offsetof(log_header, version), 99, NULL},
                 {offsetof(log_header, count), 4,
                  "says 4 records, has room for 3 (the file is truncated: copy it again)"}};
    snprintf(want, sizeof want, "trace version 99, this chipline reads %d (use the chipline that wrote it)",
             CL_TRACE_VERSION);
    for (size_t i = 0; i < 4; i++) {
        memcpy(bytes, good, sizeof good);
        if (i == 1) bytes[cases[i].at + 3] = 4;
        bytes[cases[i].at] = (char)cases[i].value;
        CU_ASSERT_EQUAL(open_log(path, bytes, sizeof bytes, &log, &err), CL_E_INPUT);
        says(&err, path, cases[i].says ? cases[i].says : want);
        CU_ASSERT_PTR_NULL(log);
    }
    CU_ASSERT_EQUAL(open_log(path, good, 20, &log, &err), CL_E_INPUT);
    says(&err, path, "ends at byte 20 (the event log is truncated: copy it again)");
    CU_ASSERT_EQUAL(open_log(path, good, LOG_HEADER_BYTES - 1, &log, &err), CL_E_INPUT);
    says(&err, path, "says 3 records, has room for 0 (the file is truncated: copy it again)");
    CU_ASSERT_EQUAL(open_log(path, good, sizeof good - 1, &log, &err), CL_E_INPUT);
    says(&err, path, "says 3 records, has room for 2 (the file is truncated: copy it again)");
    CU_ASSERT_EQUAL(cl_event_log_open(&log, none, &rank, &n, &err), CL_E_INPUT);
    says(&err, none, "cannot open: No such file or directory (check the path)");
    CU_ASSERT_EQUAL(cl_event_log_open(&log, folder, &rank, &n, &err), CL_E_INPUT);
    says(&err, folder, "not a regular file (give an event log of a trace)");
    unlink(path);
}

/* Pieces of every size from every place; an event that cannot be is told with its number. */
static void test_pieces(void)
{
    const char *path = in_folder("log");
    cl_event_log *log;
    cl_err err = {0};
    cl_event got[N + 2];
    uint64_t n;
    record_good(path);
    CU_ASSERT_FATAL(open_log(path, good, sizeof good, &log, &err) == CL_OK);
    CU_ASSERT_EQUAL(cl_event_log_dropped(log), 0);
    for (uint64_t first = 0; first < N + 2; first++)
        for (uint64_t max = 0; max < N + 2; max++) {
            uint64_t left = first < N ? N - first : 0, want = left < max ? left : max;
            CU_ASSERT(cl_event_log_read(log, first, max, got, &n, &err) == CL_OK && n == want);
            for (uint64_t i = 0; i < n; i++) CU_ASSERT(is_numbered(&got[i], first + i));
        }
    cl_event_log_close(log);
    static const cl_event wrong[] = {{.kind = CL_EV_KINDS, .start_ns = 4, .end_ns = 5},
                                     {.kind = -1, .start_ns = 4, .end_ns = 5},
                                     {.kind = 2, .start_ns = 6, .end_ns = 5}};
    for (int i = 0; i < 3; i++) {
        static char bytes[sizeof good];
        char want[200];
        bool part = wrong[i].kind == CL_EV_PART;
        memcpy(bytes, good, sizeof good);
        memcpy(bytes + LOG_HEADER_BYTES + 2 * sizeof *got, &wrong[i], sizeof *got);
        CU_ASSERT_FATAL(open_log(path, bytes, sizeof bytes, &log, &err) == CL_OK);
        CU_ASSERT_EQUAL(cl_event_log_read(log, 1, 9, got, &n, &err), part ? CL_OK : CL_E_INPUT);
        snprintf(want, sizeof want, "event 2 has kind %d and lasts from %d to 5 ns (the file is damaged)",
                 wrong[i].kind, (int)wrong[i].start_ns);
        if (!part) says(&err, path, want);
        cl_event_log_close(log);
    }
    unlink(path);
}

static void test_paths(void)
{
    static const struct {
        int rank;
        const char *path;
    } cases[] = {{-1, "t.h5.run.part"},
                 {0, "t.h5.rank0000.part"},
                 {123, "t.h5.rank0123.part"},
                 {12345, "t.h5.rank12345.part"}};
    for (int i = 0; i < 4; i++) {
        char *path = cl_event_log_path("t.h5", cases[i].rank, NULL);
        CU_ASSERT_STRING_EQUAL(path, cases[i].path);
        free(path);
    }
}

/* Between two looks at both clocks lies what an event says of them. */
static void test_times(void)
{
    const char *path = in_folder("times");
    cl_trace *t;
    cl_err err;
    cl_event e[2] = {{.kind = CL_EV_STEP}, {.kind = CL_EV_STEP}};
    CU_ASSERT_FATAL(cl_trace_open(&t, path, 0, CL_TRACE_STAGE, &err) == CL_OK);
    while (cl_thread_cpu_ns() < 3000000) {
    }
    uint64_t ns = cl_now_ns(), cpu = cl_thread_cpu_ns();
    cl_mark m = cl_trace_mark(t, CL_TRACE_STAGE);
    for (int i = 0; i < 2; i++) {
        m = cl_trace_end(t, m, &e[i]);
        uint64_t now = cl_now_ns();
        CU_ASSERT(e[i].start_ns >= ns && e[i].end_ns >= e[i].start_ns && e[i].end_ns <= now);
        CU_ASSERT(e[i].cpu_ns <= cl_thread_cpu_ns() - cpu);
    }
    CU_ASSERT(e[1].start_ns == e[0].end_ns && m.on && m.ns == e[1].end_ns && m.cpu >= cpu);
    CU_ASSERT(cl_trace_count(t) == 2 && cl_trace_dropped(t) == 0);
    cl_trace_close(t);
    struct stat st;
    CU_ASSERT(stat(path, &st) == 0 && st.st_size == LOG_HEADER_BYTES + 2 * (off_t)sizeof *e);
    unlink(path);
}

/* Names in a note are cut where they have no end; a rank without a log has its row. */
static void test_noted_names(void)
{
    const char *path = in_folder("t.h5");
    cl_err err = {0};
    cl_trace_rank rows[2] = {{.rank = 0}, {.rank = 3}};
    cl_trace_recovered sum;
    cl_store *s;
    void *got;
    uint64_t n;
    memset(rows[1].host, 'h', sizeof rows->host);
    memset(rows[1].cpu, 'c', sizeof rows->cpu);
    char *log = cl_event_log_path(path, 0, NULL), *note = cl_event_log_path(path, -1, NULL);
    record_good(log); /* of rank 7: not this one's */
    CU_ASSERT_EQUAL(cl_trace_note_run(path, "{}", rows, 2, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_trace_recover(path, &sum, &err), CL_E_INPUT);
    const int32_t rank = 0;
    memcpy(good + offsetof(log_header, rank), &rank, 4);
    FILE *f = fopen(log, "wb");
    CU_ASSERT_FATAL(f && fwrite(good, 1, sizeof good, f) == sizeof good && fclose(f) == 0);
    CU_ASSERT_EQUAL_FATAL(cl_trace_recover(path, &sum, &err), CL_OK);
    CU_ASSERT(sum.ranks == 2 && sum.logs == 1 && sum.events == N && sum.parts == 0);
    CU_ASSERT_FATAL(cl_store_open(&s, path, "x", &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_get_table(cl_store_root(s), "ranks", &trace_rank_row, 9, &got, &n, &err) == CL_OK);
    const cl_trace_rank *r = got;
    CU_ASSERT(n == 2 && r[0].rank == 0 && r[0].events == N && r[1].rank == 3 && r[1].events == 0);
    CU_ASSERT(strlen(r[1].host) == sizeof r->host - 1 && strlen(r[1].cpu) == sizeof r->cpu - 1);
    free(got);
    cl_store_close(s);
    unlink(path);
    unlink(log);
    unlink(note);
    free(log);
    free(note);
}

/* --- routing --- */

static cl_code read_routing(const char *path, int *layers, int *experts, cl_err *err)
{
    uint64_t *back = (uint64_t *)(void *)err;
    cl_code c = cl_trace_routing_read(path, &back, layers, experts, err);
    CU_ASSERT_EQUAL(c == CL_OK, back != NULL);
    if (back) CU_ASSERT_EQUAL(back[0], 5);
    free(back);
    return c;
}

static void write_routing(const char *path, uint64_t layers, uint64_t experts, bool summed)
{
    static uint64_t counts[(1 << 20) + 1] = {5};
    cl_store *s;
    cl_store_node d;
    cl_err err;
    cl_store_array a = {CL_STORE_U64, 2, {layers, experts}, 0};
    CU_ASSERT_FATAL(cl_store_create(&s, path, 2048, &err) == CL_OK);
    if (summed) {
        CU_ASSERT(cl_store_put_array(cl_store_root(s), "routing", &a, "d", NULL, counts, &err) == CL_OK);
    } else {
        CU_ASSERT(cl_store_make_array(cl_store_root(s), "routing", &a, "d", &d, &err) == CL_OK);
        CU_ASSERT(cl_store_write_rows(s, &a, 0, layers, counts, &err) == CL_OK);
        cl_store_release(&d);
    }
    CU_ASSERT_FATAL(cl_store_commit(s, &err) == CL_OK);
}

static void test_routing(void)
{
    static const struct {
        uint64_t layers, experts;
        bool good;
    } cases[] = {{0, 3, false},
                 {3, 0, false},
                 {1, 1, true},
                 {1 << 16, 1, true},
                 {(1 << 16) + 1, 1, false},
                 {1, 1 << 20, true},
                 {1, (1 << 20) + 1, false}};
    const char *path = in_folder("routing.h5");
    cl_err err = {0};
    int layers = -1, experts = -1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_routing(path, cases[i].layers, cases[i].experts, true);
        CU_ASSERT_EQUAL(read_routing(path, &layers, &experts, &err), cases[i].good ? CL_OK : CL_E_INPUT);
        if (cases[i].good) CU_ASSERT(layers == (int)cases[i].layers && experts == (int)cases[i].experts);
        if (!cases[i].good) says(&err, path, "its routing is no table of layers and experts");
    }
    write_routing(path, 4, 5, false); /* of an old trace */
    CU_ASSERT(read_routing(path, &layers, &experts, &err) == CL_OK && layers == 4 && experts == 5);
    unlink(path);
}

static void test_no_routing(void)
{
    const char *path = in_folder("routing.h5");
    cl_err err = {0};
    int layers, experts;
    cl_store *s;
    cl_store_array a = {.type = CL_STORE_U64, .rank = 2};
    uint64_t seven = 7;
    write_routing(path, 4, 5, true);
    CU_ASSERT_FATAL(cl_store_open(&s, path, "x", &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_open_array(cl_store_root(s), "routing", &a, NULL, &err) == CL_OK);
    cl_store_close(s);
    int fd = open(path, O_WRONLY);
    CU_ASSERT_FATAL(fd >= 0 && pwrite(fd, &seven, 8, (off_t)a.at + 19 * 8) == 8 && close(fd) == 0);
    CU_ASSERT_EQUAL(read_routing(path, &layers, &experts, &err), CL_E_INPUT);
    says(&err, path, "its routing is damaged (copy it again)");
    CU_ASSERT_FATAL(cl_store_create(&s, path, 2048, &err) == CL_OK && cl_store_commit(s, &err) == CL_OK);
    CU_ASSERT_EQUAL(read_routing(path, &layers, &experts, &err), CL_E_INPUT);
    says(&err, path, "has no routing (trace a run of a model with experts)");
    unlink(path);
    CU_ASSERT_EQUAL(read_routing(path, &layers, &experts, &err), CL_E_INPUT);
    says(&err, path, "No such file or directory");
    CU_ASSERT_EQUAL(read_routing(folder, &layers, &experts, &err), CL_E_INPUT);
    says(&err, folder, "is a folder, not a trace (give a TRACE.h5 of a run)");
}

/* --- the trace file --- */

static void test_file_messages(void)
{
    const char *path = in_folder("t.h5");
    cl_err err = {0};
    cl_trace_file *f;
    cl_trace_rank r = {.rank = 2};
    CU_ASSERT_EQUAL(cl_trace_file_create(&f, path, "[1]", &err), CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, "description of the run: not a JSON object (write {...})");
    CU_ASSERT_FATAL(cl_trace_file_create(&f, path, "{}", &err) == CL_OK);
    CU_ASSERT_EQUAL(cl_trace_file_events(f, -1, NULL, 0, &err), CL_E_INPUT);
    says(&err, path, "events of rank -1 (ranks count from 0)");
    CU_ASSERT_EQUAL(cl_trace_file_rank(f, &r, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_trace_file_rank(f, &r, &err), CL_E_INPUT);
    says(&err, path, "rank 2 comes out of order (give each rank once, in ascending order)");
    cl_trace_file_drop(f);
    cl_trace_recovered sum;
    char want[1300], *note = cl_event_log_path(path, -1, NULL);
    CU_ASSERT_EQUAL(cl_trace_recover(path, &sum, &err), CL_E_INPUT);
    snprintf(want, sizeof want, "no %s is there (a run that ended well leaves only the trace)", note);
    says(&err, path, want);
    CU_ASSERT_EQUAL(cl_trace_note_run(path, "{}", &r, 1, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_trace_recover(path, &sum, &err), CL_E_INPUT);
    says(&err, path, "no event log of a rank is there");
    CU_ASSERT_EQUAL(truncate(note, 10), 0);
    CU_ASSERT_EQUAL(cl_trace_recover(path, &sum, &err), CL_E_INPUT);
    says(&err, note, "not what this version of chipline leaves beside a trace (use the one that ran)");
    unlink(note);
    free(note);
}

/* More ranks than rows there is room for at first, each with its own events. */
static void test_many_ranks(void)
{
    enum { RANKS = 40 };
    const char *path = in_folder("t.h5");
    cl_err err = {0};
    cl_trace_file *f;
    cl_store *s;
    void *rows;
    uint64_t n;
    CU_ASSERT_FATAL(cl_trace_file_create(&f, path, "{\"\": 1, \"a\": false, \"b\": \"c\"}", &err) == CL_OK);
    for (int k = 0; k < RANKS; k++) {
        cl_event e[2] = {numbered((uint64_t)k), numbered((uint64_t)k + 1)};
        CU_ASSERT(cl_trace_file_rank(f, &(cl_trace_rank){.rank = 3 * k, .stage = k}, &err) == CL_OK);
        CU_ASSERT(cl_trace_file_events(f, 3 * k, e, (uint64_t)(k % 3), &err) == CL_OK);
    }
    CU_ASSERT_FATAL(cl_trace_file_commit(f, &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_open(&s, path, "x", &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_get_table(cl_store_root(s), "ranks", &trace_rank_row, RANKS, &rows, &n, &err) == CL_OK);
    CU_ASSERT_EQUAL(n, RANKS);
    const cl_trace_rank *r = rows;
    for (int k = 0; k < RANKS; k++)
        CU_ASSERT(r[k].rank == 3 * k && r[k].stage == k && r[k].events == (uint64_t)(k % 3));
    free(rows);
    cl_store_close(s);
    unlink(path);
}

int main(void)
{
    folder_make();
    CU_TestInfo tests[] = {{"columns", test_columns},
                           {"kinds", test_kinds},
                           {"headers", test_headers},
                           {"messages of event logs", test_log_messages},
                           {"pieces", test_pieces},
                           {"paths", test_paths},
                           {"times", test_times},
                           {"names in a note", test_noted_names},
                           {"routing", test_routing},
                           {"no routing", test_no_routing},
                           {"messages of the trace file", test_file_messages},
                           {"many ranks", test_many_ranks},
                           CU_TEST_INFO_NULL};
    int rc = run_suite("trace values", tests);
    return folder_remove() || rc;
}
