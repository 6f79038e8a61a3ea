/* TRACE.h5: what was given is in it, with units; its name appears only when it is whole. */
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "event_log.h"
#include "folder.h"

static const char run_json[] =
    "{\"layout\": \"2x1\", \"threads\": 3, \"elapsed_s\": 1.5, \"oversubscribed\": true, \"nothing\": null, "
    "\"schema\": \"not yours\", \"model\": {\"name\": \"m\\u00fc\"}}";

static bool attribute_is_text(hid_t on, const char *name, const char *want)
{
    hid_t a = H5Aexists(on, name) > 0 ? H5Aopen(on, name, H5P_DEFAULT) : -1;
    if (a < 0) return false;
    hid_t t = H5Aget_type(a);
    char *got = calloc(H5Tget_size(t) + 1, 1);
    bool same = H5Aread(a, t, got) >= 0 && strcmp(got, want) == 0 && H5Tis_variable_str(t) == 0;
    free(got);
    H5Tclose(t);
    H5Aclose(a);
    return same;
}

static double attribute_number(hid_t on, const char *name)
{
    double x = -1;
    hid_t a = H5Aopen(on, name, H5P_DEFAULT);
    if (a >= 0) H5Aread(a, H5T_NATIVE_DOUBLE, &x), H5Aclose(a);
    return x;
}

/* One numeric column of a table as doubles; returns the rows. */
static hsize_t column(hid_t file, const char *table, const char *name, double *out, hsize_t max)
{
    hid_t d = H5Dopen2(file, table, H5P_DEFAULT);
    if (d < 0) return 0;
    hid_t space = H5Dget_space(d), t = H5Tcreate(H5T_COMPOUND, sizeof(double));
    hsize_t n = (hsize_t)H5Sget_simple_extent_npoints(space);
    H5Tinsert(t, name, 0, H5T_NATIVE_DOUBLE);
    if (n > max || H5Dread(d, t, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0) n = 0;
    H5Tclose(t);
    H5Sclose(space);
    H5Dclose(d);
    return n;
}

static cl_trace_rank rank_row(int rank)
{
    cl_trace_rank r = {.rank = rank,
                       .stage = rank,
                       .threads = 3,
                       .clock_offset_ns = -77,
                       .clock_uncertainty_ns = 9,
                       .slice_bytes = 1000,
                       .first_layer = 4 * rank,
                       .n_layers = 4,
                       .probe_bytes_per_s = 1.25e10,
                       .events = 5,
                       .dropped = 2,
                       .peak_int8_ops_per_s = 3e11,
                       .peak_f32_ops_per_s = 5e10,
                       .host_cores = 8};
    snprintf(r.host, sizeof r.host, "node%d", rank);
    snprintf(r.cpu, sizeof r.cpu, "chip");
    return r;
}

static void test_round_trip(void)
{
    enum { N = 10000, PIECE = 777 }; /* over several chunks, in pieces */
    const char *path = in_folder("trace.h5");
    cl_err err = {0};
    cl_trace_file *f;
    CU_ASSERT_FATAL(cl_trace_file_create(&f, path, run_json, &err) == CL_OK);
    cl_trace_rank r0 = rank_row(0), r1 = rank_row(1);
    CU_ASSERT(cl_trace_file_rank(f, &r0, &err) == CL_OK);
    for (uint64_t i = 0; i < N; i += PIECE) {
        cl_event e[PIECE];
        uint64_t n = N - i < PIECE ? N - i : PIECE;
        for (uint64_t k = 0; k < n; k++) e[k] = numbered(i + k);
        CU_ASSERT(cl_trace_file_events(f, 0, e, n, &err) == CL_OK);
        cl_trace_part part = numbered_part(i / PIECE);
        cl_event records[3] = {log_of_part(&part), numbered(i), log_of_part(&part)};
        CU_ASSERT(cl_trace_file_events(f, 4, records, 3, &err) == CL_OK);       /* parts among the events */
        if (i == 0) CU_ASSERT(cl_trace_file_events(f, 3, e, 2, &err) == CL_OK); /* ranks may take turns */
    }
    CU_ASSERT(cl_trace_file_rank(f, &r1, &err) == CL_OK);
    cl_trace_request q[2] = {{.request = 6, .id = "a", .prompt_tokens = 10, .finished_ns = 99, .finish_reason = "stop"},
                             {.id = "b", .completion_tokens = 7}};
    CU_ASSERT(cl_trace_file_requests(f, q, 1, &err) == CL_OK && cl_trace_file_requests(f, q + 1, 1, &err) == CL_OK);
    CU_ASSERT(access(path, F_OK) != 0);
    CU_ASSERT_FATAL(cl_trace_file_commit(f, &err) == CL_OK);
    CU_ASSERT(folder_count() == 1);

    hid_t h = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    CU_ASSERT_FATAL(h >= 0);
    CU_ASSERT(attribute_is_text(h, "schema", "chipline trace") &&
              attribute_number(h, "schema_version") == CL_TRACE_VERSION);
    CU_ASSERT(attribute_is_text(h, "layout", "2x1") && attribute_number(h, "threads") == 3 &&
              attribute_number(h, "elapsed_s") == 1.5);
    CU_ASSERT(H5Aexists(h, "oversubscribed") > 0 && H5Aexists(h, "nothing") == 0 && H5Aexists(h, "model") == 0);
    double *v = malloc(N * sizeof *v);
    const struct {
        const char *name;
        size_t at;
    } fields[] = {{"start_ns", offsetof(cl_event, start_ns)}, {"weight_bytes", offsetof(cl_event, weight_bytes)}};
    for (int k = 0; k < 2; k++) {
        uint64_t wrong = 0, want;
        CU_ASSERT(column(h, "/events/rank_0000", fields[k].name, v, N) == N);
        for (uint64_t i = 0; i < N; i++) {
            cl_event e = numbered(i);
            memcpy(&want, (char *)&e + fields[k].at, 8);
            wrong += v[i] != (double)want;
        }
        CU_ASSERT(wrong == 0);
    }
    CU_ASSERT(column(h, "/events/rank_0000", "experts", v, N) == N && v[N - 1] == numbered(N - 1).experts);
    CU_ASSERT(column(h, "/events/rank_0000", "peer", v, N) == N && v[0] == -1);
    CU_ASSERT(column(h, "/events/rank_0003", "kind", v, N) == 2 && v[1] == 1);
    enum { PIECES = (N + PIECE - 1) / PIECE };
    CU_ASSERT(column(h, "/events/rank_0004", "start_ns", v, N) == PIECES && v[2] == 2.0 * PIECE * 1000);
    CU_ASSERT(column(h, "/parts", "position", v, N) == 2 * PIECES && v[3] == 11 && v[4] == 22);
    CU_ASSERT(column(h, "/parts", "rank", v, N) == 2 * PIECES && v[0] == 4 && v[2 * PIECES - 1] == 4);
    CU_ASSERT(column(h, "/parts", "forked_from", v, N) == 2 * PIECES && v[0] == -1 && v[4] == 1);
    hid_t empty = H5Dopen2(h, "/events/rank_0001", H5P_DEFAULT), group = H5Gopen2(h, "/events", H5P_DEFAULT);
    CU_ASSERT(empty >= 0); /* a rank without events has its table all the same */
    CU_ASSERT(attribute_is_text(group, "start_ns.unit", "ns") &&
              attribute_is_text(group, "kv_bytes.description", "KV cache bytes read"));
    H5Dclose(empty);
    H5Gclose(group);
    CU_ASSERT(column(h, "/ranks", "clock_offset_ns", v, N) == 2 && v[0] == -77);
    CU_ASSERT(column(h, "/ranks", "probe_bytes_per_s", v, N) == 2 && v[1] == 1.25e10);
    CU_ASSERT(column(h, "/ranks", "host_cores", v, N) == 2 && v[1] == 8);
    CU_ASSERT(column(h, "/ranks", "peak_int8_ops_per_s", v, N) == 2 && v[1] == 3e11);
    CU_ASSERT(column(h, "/ranks", "events", v, N) == 2 && v[0] == N && v[1] == 0); /* counted, not believed */
    CU_ASSERT(column(h, "/requests", "request", v, N) == 2 && v[0] == 6);
    CU_ASSERT(column(h, "/requests", "completion_tokens", v, N) == 2 && v[1] == 7);
    CU_ASSERT(column(h, "/requests", "finished_ns", v, N) == 2 && v[0] == 99);
    CU_ASSERT(column(h, "/kinds", "id", v, N) == CL_EV_KINDS && v[CL_EV_KINDS - 1] == CL_EV_KINDS - 1);
    free(v);

    hid_t d = H5Dopen2(h, "/run", H5P_DEFAULT), t = H5Dget_type(d);
    char text[sizeof run_json] = "";
    CU_ASSERT(H5Tget_size(t) == sizeof text - 1 && H5Dread(d, t, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0 &&
              strcmp(text, run_json) == 0);
    H5Tclose(t);
    H5Dclose(d);
    H5Fclose(h);
    unlink(path);
}

/* All columns of a table, from its type, against the attributes of `on`. */
static int undescribed(hid_t h, const char *table, const char *on)
{
    hid_t d = H5Dopen2(h, table, H5P_DEFAULT), o = H5Oopen(h, on, H5P_DEFAULT), t = H5Dget_type(d);
    int bad = 0, n = H5Tget_nmembers(t);
    for (int i = 0; i < n; i++) {
        char *column_name = H5Tget_member_name(t, (unsigned)i), name[80];
        static const char *const what[] = {"unit", "description"};
        for (int k = 0; k < 2; k++) {
            snprintf(name, sizeof name, "%s.%s", column_name, what[k]);
            bool good = H5Aexists(o, name) > 0 && !attribute_is_text(o, name, "");
            if (!good) fprintf(stderr, "%s: %s is missing\n", table, name);
            bad += !good;
        }
        H5free_memory(column_name);
    }
    H5Tclose(t);
    H5Oclose(o);
    H5Dclose(d);
    return n > 3 ? bad : -1;
}

static void test_describes_itself(void)
{
    const char *path = in_folder("columns.h5");
    cl_err err = {0};
    cl_trace_file *f;
    cl_trace_rank r = rank_row(0);
    const uint64_t chosen[6] = {1, 2, 3, 4, 5, 6};
    CU_ASSERT_FATAL(cl_trace_file_create(&f, path, run_json, &err) == CL_OK);
    CU_ASSERT(cl_trace_file_rank(f, &r, &err) == CL_OK && cl_trace_file_routing(f, chosen, 2, 3, &err) == CL_OK);
    CU_ASSERT_FATAL(cl_trace_file_commit(f, &err) == CL_OK);
    hid_t h = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    static const char *const tables[] = {"/ranks", "/requests", "/kinds", "/parts"};
    for (int i = 0; i < 4; i++) CU_ASSERT_EQUAL(undescribed(h, tables[i], tables[i]), 0);
    CU_ASSERT_EQUAL(undescribed(h, "/events/rank_0000", "/events"), 0);
    static const char *const things[] = {"/run", "/events", "/routing"};
    for (int i = 0; i < 3; i++) {
        hid_t o = H5Oopen(h, things[i], H5P_DEFAULT);
        CU_ASSERT(H5Aexists(o, "description") > 0);
        H5Oclose(o);
    }
    H5Fclose(h);
    uint64_t *back = NULL;
    int layers = 0, experts = 0;
    CU_ASSERT_FATAL(cl_trace_routing_read(path, &back, &layers, &experts, &err) == CL_OK);
    CU_ASSERT(layers == 2 && experts == 3 && memcmp(back, chosen, sizeof chosen) == 0);
    free(back);
    unlink(path);
}

/* Nothing recorded at all still makes a file that can be read. */
static void test_empty(void)
{
    const char *path = in_folder("empty.h5");
    cl_err err = {0};
    cl_trace_file *f;
    CU_ASSERT_FATAL(cl_trace_file_create(&f, path, "{}", &err) == CL_OK);
    CU_ASSERT(cl_trace_file_requests(f, NULL, 0, &err) == CL_OK && cl_trace_file_events(f, 0, NULL, 0, &err) == CL_OK);
    CU_ASSERT(cl_trace_file_commit(f, &err) == CL_OK);
    hid_t h = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    CU_ASSERT(h >= 0 && H5Lexists(h, "ranks", H5P_DEFAULT) > 0 && H5Lexists(h, "requests", H5P_DEFAULT) > 0);
    H5Fclose(h);
    unlink(path);
}

static void test_drop(void)
{
    cl_err err = {0};
    cl_trace_file *f;
    const char *path = in_folder("dropped.h5");
    FILE *old = fopen(path, "w"); /* an older trace stays until a new one is whole */
    CU_ASSERT_FATAL(old && fputs("old", old) > 0 && fclose(old) == 0);
    CU_ASSERT_FATAL(cl_trace_file_create(&f, path, "{}", &err) == CL_OK);
    cl_event e = numbered(1);
    CU_ASSERT(cl_trace_file_events(f, 0, &e, 1, &err) == CL_OK);
    cl_trace_file_drop(f);
    struct stat st;
    CU_ASSERT(folder_count() == 1 && stat(path, &st) == 0 && st.st_size == 3);
    unlink(path);
    cl_trace_file_drop(NULL);
}

static void test_refused(void)
{
    cl_err err = {0};
    cl_trace_file *f = (cl_trace_file *)&err;
    const char *path = in_folder("bad.h5"), *nowhere = in_folder("no/folder/x.h5");
    CU_ASSERT(cl_trace_file_create(&f, path, "{\"a\":", &err) == CL_E_INPUT && f == NULL && strstr(err.msg, "JSON"));
    CU_ASSERT(cl_trace_file_create(&f, path, "[1]", &err) == CL_E_INPUT && f == NULL);
    CU_ASSERT(cl_trace_file_create(&f, nowhere, "{}", &err) == CL_E_INPUT && f == NULL);
    CU_ASSERT(strstr(err.msg, nowhere) && strstr(err.msg, "No such file or directory"));
    CU_ASSERT(cl_trace_file_create(&f, folder, "{}", &err) == CL_E_INPUT && f == NULL && strstr(err.msg, "folder"));
    /* not replaced */
    CU_ASSERT(cl_trace_file_create(&f, "/dev/null", "{}", &err) == CL_E_INPUT && f == NULL &&
              strstr(err.msg, "not a file"));

    CU_ASSERT_FATAL(cl_trace_file_create(&f, path, "{}", &err) == CL_OK);
    cl_trace_rank r = rank_row(2);
    CU_ASSERT(cl_trace_file_rank(f, &r, &err) == CL_OK);
    CU_ASSERT(cl_trace_file_rank(f, &r, &err) == CL_E_INPUT);
    r.rank = 1;
    CU_ASSERT(cl_trace_file_rank(f, &r, &err) == CL_E_INPUT && strstr(err.msg, "rank 1"));
    r.rank = -1;
    CU_ASSERT(cl_trace_file_rank(f, &r, &err) == CL_E_INPUT);
    CU_ASSERT(cl_trace_file_events(f, -1, NULL, 0, &err) == CL_E_INPUT);
    cl_trace_file_drop(f);
    CU_ASSERT(folder_count() == 0);
}

/* The disk fills at some point of the writing: a message, nothing left, no noise and no crash at exit. */
static void test_full_disk(void)
{
    const char *path = in_folder("full.h5");
    bool done = false;
    int failures = 0;
    for (rlim_t limit = 512; !done && limit < 64000000; limit += limit / 4) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            struct rlimit small = {limit, RLIM_INFINITY};
            setrlimit(RLIMIT_FSIZE, &small);
            cl_err err = {0};
            cl_trace_file *f = NULL;
            cl_code c = cl_trace_file_create(&f, path, run_json, &err);
            cl_trace_rank r = rank_row(0);
            if (!c) c = cl_trace_file_rank(f, &r, &err);
            for (uint64_t i = 0; i < 40 && !c; i++) {
                static cl_event e[1000];
                for (uint64_t k = 0; k < 1000; k++) e[k] = numbered(0x9e3779b97f4a7c15u * (i * 1000 + k) >> 20);
                c = cl_trace_file_events(f, 0, e, 1000, &err);
            }
            if (!c) c = cl_trace_file_commit(f, &err);
            else cl_trace_file_drop(f);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
            /* the library still works */
            hid_t other = H5Fcreate(in_folder("other"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
            if (other < 0 || H5Fclose(other) < 0 || unlink(in_folder("other"))) exit(4);
            if (!c) exit(access(path, R_OK) == 0 && folder_count() == 1 ? 0 : 3);
            exit(c == CL_E_RUN && strstr(err.msg, path) && strstr(err.msg, "File too large") && folder_count() == 0
                     ? 1
                     : 2);
        }
        int status = -1;
        waitpid(child, &status, 0);
        CU_ASSERT_FATAL(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
        done = WEXITSTATUS(status) == 0;
        failures += !done;
    }
    CU_ASSERT(done && failures >= 10);
    unlink(path);
}

int main(void)
{
    folder_make();
    CU_TestInfo tests[] = {{"round trip", test_round_trip},
                           {"describes itself", test_describes_itself},
                           {"empty", test_empty},
                           {"drop", test_drop},
                           {"refused", test_refused},
                           {"a full disk", test_full_disk},
                           CU_TEST_INFO_NULL};
    int rc = run_suite("trace file", tests);
    return folder_remove() || rc;
}
