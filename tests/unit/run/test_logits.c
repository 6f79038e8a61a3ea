/* The logits file: a NumPy array of as many rows as were seen, whole or not there at all. */
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "run_internal.h"
#include "suite.h"

enum { HEADER = 128, VOCAB = 3 };

static char dir[32], path[48];

static void make_folder(void)
{
    strcpy(dir, "/tmp/chipline-logits-XXXXXX");
    if (!mkdtemp(dir)) exit(EXIT_FAILURE);
    snprintf(path, sizeof path, "%s/l.npy", dir);
}

static logits_file *open_file(void)
{
    logits_file *f = NULL;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(logits_open(&f, path, VOCAB, &err), CL_OK);
    return f;
}

static void see(logits_file *f, int rows)
{
    const cl_row_observer o = logits_observer(f);
    for (int i = 0; i < rows; i++) o.row(o.ctx, 0, i, (const float[VOCAB]){(float)i, 0.5f, -1}, VOCAB);
}

/* Only an empty folder can be removed. */
static void nothing_is_left(void)
{
    CU_ASSERT_EQUAL(rmdir(dir), 0);
    make_folder();
}

/* The header is of the same length whatever the number of rows, and the numbers follow it. */
static void all_rows(void)
{
    static const int counts[] = {0, 1, 1000};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        const int rows = counts[k];
        const size_t bytes = HEADER + (size_t)rows * VOCAB * sizeof(float);
        char want[HEADER + 1], start[96], *got = malloc(bytes + 1);
        cl_err err;
        logits_file *f = open_file();
        see(f, rows);
        CU_ASSERT_EQUAL(access(path, F_OK), -1); /* not before it is complete */
        CU_ASSERT_EQUAL(logits_commit(f, &err), CL_OK);
        logits_free(f);
        FILE *in = fopen(path, "rb");
        CU_ASSERT_PTR_NOT_NULL_FATAL(in);
        CU_ASSERT_EQUAL(fread(got, 1, bytes + 1, in), bytes);
        fclose(in);
        snprintf(start, sizeof start, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", rows, VOCAB);
        snprintf(want, sizeof want, "%.6s%c%c%c%c%-117s\n", "\x93NUMPY", 1, 0, HEADER - 10, 0, start);
        CU_ASSERT(memcmp(got, want, HEADER) == 0);
        for (int i = 0; i < rows; i++) {
            float row[VOCAB];
            memcpy(row, got + HEADER + (size_t)i * sizeof row, sizeof row);
            CU_ASSERT(row[0] == (float)i && row[1] == 0.5f && row[2] == -1);
        }
        free(got);
        unlink(path);
    }
    nothing_is_left();
}

static void not_committed(void)
{
    logits_file *f = open_file();
    see(f, 5);
    logits_free(f);
    nothing_is_left();
    logits_free(NULL);
    CU_ASSERT_PTR_NULL(logits_observer(NULL).row);
}

static void no_folder(void)
{
    logits_file *f = NULL;
    cl_err err;
    CU_ASSERT_EQUAL(logits_open(&f, "/nowhere/at/all/l.npy", VOCAB, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "/nowhere/at/all/l.npy"));
    CU_ASSERT_PTR_NULL(f);
}

/* A disk that is full by the time of the last rows: one message, and no half of a file. */
static void full_disk(void)
{
    static const int counts[] = {0, 5, 5000}; /* the header alone; rows too; more than is kept back */
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){64, old.rlim_max};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        cl_err err;
        char want[96];
        logits_file *f = open_file();
        setrlimit(RLIMIT_FSIZE, &small);
        see(f, counts[k]);
        CU_ASSERT_EQUAL(logits_commit(f, &err), CL_E_RUN);
        setrlimit(RLIMIT_FSIZE, &old);
        snprintf(want, sizeof want, "%s: write failed", path);
        CU_ASSERT_STRING_EQUAL(err.msg, want);
        nothing_is_left();
        logits_free(f);
    }
}

int main(void)
{
    make_folder();
    CU_TestInfo tests[] = {{"all rows", all_rows},
                           {"not committed", not_committed},
                           {"no folder", no_folder},
                           {"full disk", full_disk},
                           CU_TEST_INFO_NULL};
    int failed = run_suite("logits", tests);
    rmdir(dir);
    return failed;
}
