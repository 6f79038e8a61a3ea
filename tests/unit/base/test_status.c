/* base: every message in full, memory that is given back, the end after a bug. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chipline/util.h"
#include "suite.h"

static const char remedy[] = "bytes of memory (use fewer slots, a shorter context or more ranks)";

static void refused(void *p, const cl_err *err, const char *begins)
{
    char want[200];
    snprintf(want, sizeof want, "%s %s", begins, remedy);
    CU_ASSERT_PTR_NULL(p);
    CU_ASSERT_STRING_EQUAL(err->msg, want);
    CU_ASSERT_EQUAL(err->code, CL_E_FIT);
}

static void no_memory(void)
{
    const size_t half = (size_t)PTRDIFF_MAX / 2;
    cl_err err = {0};
    char old[8];
    refused(cl_malloc(half, 3, "rows", &err), &err, "rows: cannot have 4611686018427387903 x 3");
    refused(cl_calloc(half, 4, "more", &err), &err, "more: cannot have 4611686018427387903 x 4");
    refused(cl_realloc(old, half, 5, "again", &err), &err, "again: cannot have 4611686018427387903 x 5");
    /* no overflow, and more than there is */
#ifndef __SANITIZE_ADDRESS__ /* its malloc ends the program instead */
    refused(cl_malloc((size_t)1 << 61, 2, "a", &err), &err, "a: cannot have 2305843009213693952 x 2");
#endif
    refused(cl_malloc_aligned((size_t)PTRDIFF_MAX - 4095, "b", &err), &err, "b: cannot have 1 x 9223372036854771712");
    refused(cl_malloc_aligned((size_t)1 << 60, "c", &err), &err, "c: cannot have 1 x 1152921504606846976");
}

static void nothing_wanted(void)
{
    cl_err err = {0};
    void *p[] = {cl_malloc(0, 8, "a", &err),     cl_malloc(8, 0, "a", &err),        cl_calloc(0, 8, "a", &err),
                 cl_calloc(8, 0, "a", &err),     cl_realloc(NULL, 0, 8, "a", &err), cl_realloc(NULL, 8, 0, "a", &err),
                 cl_malloc_aligned(0, "a", &err)};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) {
        CU_ASSERT_PTR_NOT_NULL(p[i]);
        free(p[i]);
    }
    void *shrunk = cl_realloc(cl_malloc(4, 1, "a", &err), 4, 0, "a", &err); /* realloc to 0 bytes would free it */
    CU_ASSERT_PTR_NOT_NULL(shrunk);
    CU_ASSERT_PTR_NOT_NULL(shrunk = cl_realloc(shrunk, 0, 4, "a", &err));
    free(shrunk);
    unsigned char *z = cl_calloc(1000, 3, "a", &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(z);
    for (int i = 0; i < 3000; i++) CU_ASSERT_EQUAL(z[i], 0);
    free(z);
    char *copy = cl_strdup("abc", &err), *none = cl_strdup("", &err);
    CU_ASSERT_STRING_EQUAL(copy, "abc");
    CU_ASSERT_STRING_EQUAL(none, "");
    free(copy);
    free(none);
}

/* Large blocks are pages of their own, and gone when they are freed; small ones are not. */
static void aligned_memory(void)
{
    static const size_t sizes[] = {1, 63, 64, 4097, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 4095};
    cl_err err;
    unsigned char pages[1024];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i], whole = (n + 4095) & ~(size_t)4095;
        unsigned char *p = cl_malloc_aligned(n, "a", &err), used = 0;
        CU_ASSERT_PTR_NOT_NULL_FATAL(p);
        CU_ASSERT_EQUAL((uintptr_t)p % 64, 0);
        for (size_t k = 0; k < n; k++) used |= p[k];
        CU_ASSERT_EQUAL(used, 0);
        memset(p, 1, n);
        bool large = n >= 1 << 20;
        if (large) CU_ASSERT_EQUAL((uintptr_t)p % 4096, 0);
        if (large) CU_ASSERT_EQUAL(mincore(p, whole, pages), 0);
        cl_free_aligned(p, n);
        if (large) CU_ASSERT_NOT_EQUAL(mincore(p, 4096, pages), 0);
        if (large) CU_ASSERT_NOT_EQUAL(mincore(p + whole - 4096, 4096, pages), 0);
    }
    cl_free_aligned(NULL, 5);
    cl_free_aligned(NULL, 5 << 20);
}

/* What stderr says in a child that ends by itself. */
static int said_by(void (*act)(void), char *said, size_t n)
{
    int ends[2], status = 0;
    size_t len = 0;
    fflush(NULL);
    if (pipe(ends)) return -1;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        act();
        fflush(stderr);
        _exit(7);
    }
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], said + len, n - 1 - len)) > 0;) len += (size_t)got;
    said[len] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    return status;
}

static void meet_a_bug(void) { cl_bug("x.c", 12, "%d of %s", 3, "four"); }
static void note_things(void)
{
    cl_note(false, "not %d", 1);
    cl_note(true, "one %d", 2);
}

static void bug(void)
{
    char said[200];
    int status = said_by(meet_a_bug, said, sizeof said);
    CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CU_ASSERT_STRING_EQUAL(said, "chipline: bug at x.c:12: 3 of four\n");
}

static void notes(void)
{
    char said[200];
    int status = said_by(note_things, said, sizeof said);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    CU_ASSERT_STRING_EQUAL(said, "chipline: note: one 2\n");
}

/* A message never grows: a prefix gets half of it at most, the rest what there is. */
static void prefixes(void)
{
    cl_err err;
    char as[sizeof err.msg + 10];
    const size_t size = sizeof err.msg;
    memset(as, 'a', sizeof as);
    for (size_t n = size / 2 - 2; n <= size / 2 + 2; n++) {
        cl_fail(&err, CL_E_RUN, "%.*s", (int)size, "the end");
        memset(err.msg, 'b', size - 1);
        err.msg[size - 1] = 0;
        as[n] = 0;
        CU_ASSERT_EQUAL(cl_fail_prefix(&err, "%s", as), CL_E_RUN);
        as[n] = 'a';
        size_t first = n < size / 2 ? n : size / 2;
        CU_ASSERT_EQUAL(strspn(err.msg, "a"), first);
        CU_ASSERT(strncmp(err.msg + first, ": b", 3) == 0);
        CU_ASSERT_EQUAL(strlen(err.msg), size - 1);
    }
    CU_ASSERT_EQUAL(cl_fail_prefix(NULL, "x"), CL_E_INPUT);
    CU_ASSERT_EQUAL(cl_fail(NULL, CL_E_RUN, "x"), CL_E_RUN);
    cl_fail(&err, CL_E_RUN, "%s", "\x1f\x20\x7f");
    CU_ASSERT_STRING_EQUAL(err.msg, "  \x7f");
}

int main(void)
{
    CU_TestInfo tests[] = {{"no memory", no_memory},
                           {"nothing wanted", nothing_wanted},
                           {"aligned memory", aligned_memory},
                           {"a bug", bug},
                           {"notes", notes},
                           {"prefixes", prefixes},
                           CU_TEST_INFO_NULL};
    return run_suite("status", tests);
}
