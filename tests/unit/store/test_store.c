/* The store: what is written comes back bit for bit, nothing appears under its name before it is whole, what is not as
 * expected is refused, a full disk is told. */
#include <dirent.h>
#include <errno.h>
#include <hdf5.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "sample.h"

static char dir[256], path[300], other[300];

static int files_in_dir(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static void test_round_trip(void)
{
    cl_err err = {0};
    CU_ASSERT_EQUAL(fail_here(write_sample(path, &err), &err), CL_OK);
    CU_ASSERT_EQUAL(files_in_dir(), 1);
    CU_ASSERT_EQUAL(fail_here(read_sample(path, &err), &err), CL_OK);
    CU_ASSERT_EQUAL(write_sample(other, &err), CL_OK);
    cl_buf a = {0}, b = {0}; /* equal contents are equal bytes */
    CU_ASSERT(cl_read_file(path, 1 << 24, &a, &err) == CL_OK && cl_read_file(other, 1 << 24, &b, &err) == CL_OK);
    CU_ASSERT(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    cl_buf_free(&a);
    cl_buf_free(&b);
    unlink(other);
}

/* Its name stands for the old file until the new one is whole. */
static void test_names(void)
{
    cl_err err = {0};
    cl_store *s = NULL;
    struct stat st;
    char deep[320];
    snprintf(deep, sizeof deep, "%s/none/x.h5", dir);
    CU_ASSERT(cl_store_create(&s, dir, 0, &err) == CL_E_INPUT && strstr(err.msg, "folder") && s == NULL);
    CU_ASSERT(cl_store_create(&s, deep, 0, &err) == CL_E_INPUT && strstr(err.msg, strerror(ENOENT)) && s == NULL);
    CU_ASSERT(cl_store_create(&s, "/dev/full", 0, &err) == CL_E_INPUT && strstr(err.msg, "/dev/full") && s == NULL);
    FILE *old = fopen(other, "w");
    CU_ASSERT_FATAL(old && fputs("old", old) > 0 && fclose(old) == 0);
    CU_ASSERT_FATAL(cl_store_create(&s, other, 2048, &err) == CL_OK);
    CU_ASSERT_STRING_EQUAL(cl_store_path(s), other);
    CU_ASSERT(files_in_dir() == 3 && stat(other, &st) == 0 && st.st_size == 3);
    CU_ASSERT(cl_store_room(s, 1, "x", &err) == CL_OK);
    CU_ASSERT(cl_store_room(s, UINT64_MAX, "buy a disk", &err) == CL_E_FIT && strstr(err.msg, "(buy a disk)"));
    struct statvfs fs; /* what is in use, by others too, is no room */
    CU_ASSERT_FATAL(statvfs(dir, &fs) == 0);
    uint64_t more = ((uint64_t)fs.f_bavail + (fs.f_blocks - fs.f_bavail) / 2) * fs.f_frsize;
    CU_ASSERT(fs.f_blocks == fs.f_bavail || cl_store_room(s, more, "x", &err) == CL_E_FIT);
    cl_store_drop(s);
    CU_ASSERT(files_in_dir() == 2 && stat(other, &st) == 0 && st.st_size == 3);
    CU_ASSERT(write_sample(other, &err) == CL_OK && read_sample(other, &err) == CL_OK); /* replaces it */
    CU_ASSERT_EQUAL(files_in_dir(), 2);
    unlink(other);
    cl_store_drop(NULL);
    cl_store_close(NULL);
}

/* A link to somewhere else, or in a circle, is no part of the file that is verified. */
static void test_links(void)
{
    cl_err err = {0};
    cl_store *s = NULL;
    CU_ASSERT_EQUAL_FATAL(write_sample(other, &err), CL_OK);
    hid_t f = H5Fopen(other, H5F_ACC_RDWR, H5P_DEFAULT);
    CU_ASSERT_FATAL(f >= 0 && H5Lcreate_soft("/", f, "around", H5P_DEFAULT, H5P_DEFAULT) >= 0 &&
                    H5Lcreate_external(path, "/", f, "elsewhere", H5P_DEFAULT, H5P_DEFAULT) >= 0 && H5Fclose(f) >= 0);
    CU_ASSERT_EQUAL_FATAL(cl_store_open(&s, other, "sample", &err), CL_OK);
    CU_ASSERT(cl_store_verify(cl_store_root(s), "around", &err) == CL_E_INPUT && strstr(err.msg, "around"));
    CU_ASSERT(cl_store_verify(cl_store_root(s), "elsewhere", &err) == CL_E_INPUT && strstr(err.msg, "elsewhere"));
    cl_store_close(s);
    unlink(other);
}

static void test_other_files(void)
{
    cl_err err = {0};
    cl_store *s = NULL;
    const struct {
        const char *bytes, *word;
        size_t n;
    } list[] = {{"", "empty", 0},
                {"GGUF\3\0\0\0", "a GGUF file", 8},
                {"anything at all", "no HDF5 file", 15},
                {"\x89HDF\r\n\x1a\n", "damaged", 8}};
    CU_ASSERT(cl_store_open(&s, other, "a sample", &err) == CL_E_INPUT && strstr(err.msg, "No such file"));
    CU_ASSERT(cl_store_open(&s, dir, "a sample (x)", &err) == CL_E_INPUT &&
              strstr(err.msg, "a folder, not a sample (x)"));
    for (int i = 0; i < 4; i++) {
        FILE *f = fopen(other, "wb");
        CU_ASSERT_FATAL(f && fwrite(list[i].bytes, 1, list[i].n, f) == list[i].n && fclose(f) == 0);
        CU_ASSERT(cl_store_open(&s, other, "a sample", &err) == CL_E_INPUT && strstr(err.msg, list[i].word));
        CU_ASSERT(strstr(err.msg, other) != NULL && s == NULL);
    }
    unlink(other);
}

/* Asked for what is not there, or is something else. */
static void test_not_as_expected(void)
{
    cl_err err = {0};
    cl_store *s;
    cl_store_node g, n;
    CU_ASSERT_FATAL(cl_store_open(&s, path, "a sample", &err) == CL_OK);
    cl_store_node root = cl_store_root(s);
    CU_ASSERT_FATAL(cl_store_open_group(root, "box", &g, &err) == CL_OK);
    char text[64];
    int64_t v[4];
    uint64_t u, count = 0;
    double d;
    bool yes;
    void *data = NULL;
    CU_ASSERT(cl_store_get_text(root, "nothing", text, 64, &err) == CL_E_INPUT && strstr(err.msg, "nothing: missing"));
    CU_ASSERT(cl_store_get_text(root, "minus", text, 64, &err) == CL_E_INPUT && strstr(err.msg, "is not a text"));
    CU_ASSERT(cl_store_get_text(root, "what", text, 8, &err) == CL_E_INPUT && strstr(err.msg, "has 8 bytes"));
    CU_ASSERT(cl_store_get_ints(root, "three", v, 0, &err) == CL_E_INPUT && strstr(err.msg, "is not 1 int64"));
    CU_ASSERT(cl_store_get_ints(root, "three", v, 4, &err) == CL_E_INPUT && strstr(err.msg, "is not 4 int64"));
    CU_ASSERT(cl_store_get_ints(root, "big", v, 0, &err) == CL_E_INPUT);
    CU_ASSERT(cl_store_get_u64(root, "minus", &u, &err) == CL_E_INPUT);
    CU_ASSERT(cl_store_get_double(root, "minus", &d, &err) == CL_E_INPUT);
    CU_ASSERT(cl_store_get_hash(root, "what", &u, &err) == CL_E_INPUT && strstr(err.msg, "hexadecimal"));
    CU_ASSERT(cl_store_has_attribute(root, "yes", &yes, &err) == CL_OK && yes);
    CU_ASSERT(cl_store_has_attribute(root, "no", &yes, &err) == CL_OK && !yes);
    CU_ASSERT(cl_store_has(root, "box", &yes, &err) == CL_OK && yes);
    CU_ASSERT(cl_store_has(root, "bag", &yes, &err) == CL_OK && !yes);
    CU_ASSERT(cl_store_open_group(root, "bag", &n, &err) == CL_E_INPUT && n.id == -1);
    CU_ASSERT(cl_store_open_group(g, "numbers", &n, &err) == CL_E_INPUT && n.id == -1);
    CU_ASSERT(cl_store_count(g, &count, &err) == CL_OK && count == 5);
    CU_ASSERT(cl_store_name(g, 0, text, 64, &err) == CL_OK && strcmp(text, "bytes") == 0);
    CU_ASSERT(cl_store_name(g, 4, text, 5, &err) == CL_E_INPUT && cl_store_name(g, 5, text, 64, &err) == CL_E_INPUT);

    const struct {
        const char *name, *word;
        cl_store_array a;
    } arrays[] = {{"cubes", "missing", {.type = CL_STORE_U64, .rank = 4}},
                  {"cube", "number type", {.type = CL_STORE_I64, .rank = 4}},
                  {"cube", "not 3 dimensions", {.type = CL_STORE_U64, .rank = 3}},
                  {"seats", "number type", {.type = CL_STORE_U8, .rank = 1}}};
    for (int i = 0; i < 4; i++) {
        cl_store_array a = arrays[i].a;
        CU_ASSERT(cl_store_open_array(g, arrays[i].name, &a, NULL, &err) == CL_E_INPUT);
        CU_ASSERT(strstr(err.msg, arrays[i].name) && strstr(err.msg, arrays[i].word));
        CU_ASSERT(cl_store_get_array(g, arrays[i].name, &a, &data, NULL, &err) == CL_E_INPUT && data == NULL);
    }
    const cl_store_column more[] = {{"colour", "", "", CL_STORE_I32, 0, 4}},
                          wrong[] = {{"rank", "", "", CL_STORE_I64, 0, 8}},
                          words[] = {{"rank", "", "", CL_STORE_TEXT, 0, 8}},
                          part[] = {{"host", "", "", CL_STORE_TEXT, 2, 3}};
    const cl_store_row more_row = {more, 1, 4}, wrong_row = {wrong, 1, 8}, words_row = {words, 1, 8},
                       part_row = {part, 1, 5};
    CU_ASSERT(cl_store_get_table(g, "seats", &seat_row, ROWS - 1, &data, &count, &err) == CL_E_INPUT);
    CU_ASSERT(strstr(err.msg, "has 10000 rows, at most 9999") && data == NULL && count == 0);
    CU_ASSERT(cl_store_get_table(g, "seats", &more_row, ROWS, &data, &count, &err) == CL_E_INPUT &&
              strstr(err.msg, "no column colour"));
    CU_ASSERT(cl_store_get_table(g, "seats", &wrong_row, ROWS, &data, &count, &err) == CL_E_INPUT &&
              strstr(err.msg, "another type"));
    CU_ASSERT(cl_store_get_table(g, "seats", &words_row, ROWS, &data, &count, &err) == CL_E_INPUT);
    CU_ASSERT(cl_store_get_table(g, "cube", &seat_row, ROWS, &data, &count, &err) == CL_E_INPUT &&
              strstr(err.msg, "no table"));
    CU_ASSERT_FATAL(cl_store_get_table(g, "seats", &part_row, ROWS, &data, &count, &err) == CL_OK && count == ROWS);
    CU_ASSERT_STRING_EQUAL((char *)data + 5 * 11 + 2, "n1"); /* cut where there is no room for more */
    free(data);
    cl_store_release(&g);
    cl_store_close(s);
}

/* Slabs and rows of every shape, from several threads, against the whole. */
typedef struct reader {
    const cl_store *store;
    const cl_store_array *a;
    uint64_t seed, wrong;
} reader;

static void *read_slabs(void *arg)
{
    reader *r = arg;
    cl_err err = {0};
    for (int round = 0; round < 300; round++) {
        uint64_t start[4], count[4], got[360], n = 1, k = 0;
        for (int d = 0; d < 4; d++) {
            r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
            start[d] = (r->seed >> 33) % r->a->dims[d];
            count[d] = (r->seed >> 45) % 5 == 0 ? r->a->dims[d] - (start[d] = 0)
                                                : (r->seed >> 50) % (r->a->dims[d] - start[d] + 1);
            n *= count[d];
        }
        r->wrong += cl_store_read_slab(r->store, r->a, start, count, got, &err) != CL_OK;
        for (uint64_t i = 0; n && i < count[0]; i++)
            for (uint64_t j = 0; j < count[1]; j++)
                for (uint64_t l = 0; l < count[2]; l++)
                    for (uint64_t m = 0; m < count[3]; m++)
                        r->wrong += got[k++] !=
                                    (((start[0] + i) * 4 + start[1] + j) * 5 + start[2] + l) * 6 + start[3] + m;
        r->wrong += cl_store_read_rows(r->store, r->a, r->seed % 50, 10, got, &err) != CL_OK;
        for (uint64_t i = 0; i < 60; i++) r->wrong += got[i] != r->seed % 50 * 6 + i;
    }
    return NULL;
}

static void test_slabs(void)
{
    enum { THREADS = 4 };
    cl_err err = {0};
    cl_store *s;
    cl_store_node g;
    cl_store_array a = {.type = CL_STORE_U64, .rank = 4};
    CU_ASSERT_FATAL(cl_store_open(&s, path, "a sample", &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_open_group(cl_store_root(s), "box", &g, &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_open_array(g, "cube", &a, NULL, &err) == CL_OK);
    CU_ASSERT(cl_store_array_bytes(&a) == 360 * 8);
    pthread_t threads[THREADS];
    reader readers[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        readers[i] = (reader){s, &a, i + 1, 0};
        CU_ASSERT(pthread_create(&threads[i], NULL, read_slabs, &readers[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL(readers[i].wrong, 0);
    }
    CU_ASSERT(truncate(path, (off_t)a.at + 100) == 0); /* shortened while it is open */
    uint64_t got[360];
    CU_ASSERT(cl_store_read_rows(s, &a, 0, 60, got, &err) == CL_E_RUN && strstr(err.msg, "shorter"));
    cl_store_release(&g);
    cl_store_close(s);
    CU_ASSERT(write_sample(path, &err) == CL_OK);
}

/* Every column of a table has a unit and a meaning; HDF5 prints what it printed before. */
static void test_describes_itself(void)
{
    H5E_auto2_t was, now;
    void *data;
    cl_err err = {0};
    H5Eget_auto2(H5E_DEFAULT, &was, &data);
    CU_ASSERT(read_sample(other, &err) == CL_E_INPUT && read_sample(path, &err) == CL_OK);
    H5Eget_auto2(H5E_DEFAULT, &now, &data);
    CU_ASSERT(was == now);
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), t = H5Dopen2(f, "few", H5P_DEFAULT);
    for (int i = 0; i < seat_row.n; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.unit", seat_columns[i].name);
        CU_ASSERT(H5Aexists(t, name) > 0);
        snprintf(name, sizeof name, "%s.description", seat_columns[i].name);
        CU_ASSERT(H5Aexists(t, name) > 0);
    }
    H5Dclose(t);
    H5Fclose(f);
    char version[32];
    cl_store_library(version, sizeof version);
    CU_ASSERT(version[0] >= '1' && strchr(version, '.'));
}

/* The disk is full after `limit` bytes, wherever the writer is by then: an error that says so, nothing left behind,
 * no crash at exit, and the library still works. */
static void test_full_disk(void)
{
    bool done = false;
    int failures = 0, before = files_in_dir();
    fflush(NULL);
    for (rlim_t limit = 512; !done && limit < 8000000; limit += limit / 6) {
        pid_t child = fork();
        if (child == 0) {
            cl_err err = {0};
            struct rlimit old, small = {limit, RLIM_INFINITY};
            getrlimit(RLIMIT_FSIZE, &old);
            small.rlim_max = old.rlim_max;
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &small);
            cl_code c = write_sample(other, &err);
            setrlimit(RLIMIT_FSIZE, &old);
            if (c == CL_OK) exit(read_sample(other, &err) == CL_OK && unlink(other) == 0 ? 0 : 3);
            if (c != CL_E_RUN || !strstr(err.msg, strerror(EFBIG)) || files_in_dir() != before) {
                fprintf(stderr, "%llu bytes: code %d, \"%s\"\n", (unsigned long long)limit, c, err.msg);
                exit(2);
            }
            exit(write_sample(other, &err) == CL_OK && read_sample(other, &err) == CL_OK && unlink(other) == 0 ? 1 : 4);
        }
        int status = -1;
        waitpid(child, &status, 0);
        CU_ASSERT_FATAL(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
        done = WEXITSTATUS(status) == 0;
        failures += !done;
    }
    CU_ASSERT(done && failures >= 10);
    CU_ASSERT_EQUAL(files_in_dir(), before);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/chipline-store-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return EXIT_FAILURE;
    snprintf(path, sizeof path, "%s/a.h5", dir);
    snprintf(other, sizeof other, "%s/b.h5", dir);
    CU_TestInfo tests[] = {{"round trip", test_round_trip},
                           {"names", test_names},
                           {"other files", test_other_files},
                           {"links", test_links},
                           {"not as expected", test_not_as_expected},
                           {"slabs", test_slabs},
                           {"describes itself", test_describes_itself},
                           {"a full disk", test_full_disk},
                           CU_TEST_INFO_NULL};
    int code = run_suite("store", tests);
    unlink(path);
    return rmdir(dir) || code;
}
