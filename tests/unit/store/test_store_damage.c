/* The store: files cut short and files with flipped bytes are refused with a message, or what is read is what was
 * written; in children, so that a crash, a hang or a wild allocation is a failure of that byte. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "sample.h"

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 }; /* its shadow and quarantine count as memory */
#else
enum { SANITIZED = 0 };
#endif

static char dir[256], path[300];
static int64_t flip_step;
static cl_buf good;

static void spill(size_t n)
{
    FILE *f = fopen(path, "wb");
    CU_ASSERT_FATAL(f && fwrite(good.data, 1, n, f) == n && fclose(f) == 0);
}

static void test_truncated(void)
{
    cl_err err = {0};
    for (size_t k = 1; k < good.len; k += k < 2048 ? 97 : good.len / 40 + 1) {
        spill(k);
        CU_ASSERT(read_sample(path, &err) == CL_E_INPUT && err.msg[0]);
    }
    spill(good.len - 1);
    CU_ASSERT(read_sample(path, &err) == CL_E_INPUT);
    spill(good.len);
    CU_ASSERT(read_sample(path, &err) == CL_OK);
}

typedef struct shared {
    volatile int64_t at, ok, refused;
} shared;

static void try_flip(int fd, int64_t at, shared *s)
{
    cl_err err = {0};
    unsigned char was = (unsigned char)good.data[at];
    unsigned char b = (unsigned char)(was ^ (at % 3 == 0 ? 0xff : 1 << (at * 2654435761u >> 7) % 8));
    if (pwrite(fd, &b, 1, at) != 1) _exit(3);
    alarm(20);
    cl_code c = read_sample(path, &err);
    alarm(0);
    if (pwrite(fd, &was, 1, at) != 1) _exit(3);
    if (c == CL_OK) s->ok++;
    else if (c == CL_E_INPUT && err.msg[0]) s->refused++;
    else {
        fprintf(stderr, "byte %lld: code %d, \"%s\"\n", (long long)at, c, err.msg);
        _exit(4);
    }
    if (!SANITIZED && cl_rss_peak_bytes() > (uint64_t)200 << 20) _exit(5);
}

static void test_flips(void)
{
    shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_NOT_EQUAL_FATAL(s, MAP_FAILED);
    int failures = 0;
    spill(good.len);
    fflush(NULL);
    while (s->at < (int64_t)good.len && failures < 20) {
        pid_t child = fork();
        if (child == 0) {
            int fd = open(path, O_RDWR);
            for (; s->at < (int64_t)good.len; s->at += flip_step) try_flip(fd, s->at, s);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
        failures++;
        fprintf(stderr, "byte %lld of %zu: the child ended with status 0x%x\n", (long long)s->at, good.len, status);
        spill(good.len);
        s->at += flip_step;
    }
    CU_ASSERT_EQUAL(failures, 0);
    CU_ASSERT_TRUE(s->refused > 4 * s->ok); /* gaps between the pieces of metadata have no effect */
    printf("(%lld bytes flipped: %lld refused, %lld without effect) ", (long long)(s->refused + s->ok),
           (long long)s->refused, (long long)s->ok);
    munmap(s, sizeof *s);
}

int main(int argc, char **argv)
{
    /* 61: thousands, spread over every structure */
    flip_step = argc > 1 && strcmp(argv[1], "--every-byte") == 0 ? 1 : 61;
    const char *tmp = getenv("TMPDIR");
    cl_err err = {0};
    snprintf(dir, sizeof dir, "%s/chipline-store-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return EXIT_FAILURE;
    snprintf(path, sizeof path, "%s/a.h5", dir);
    if (write_sample(path, &err) != CL_OK || cl_read_file(path, 1 << 24, &good, &err) != CL_OK) return EXIT_FAILURE;
    CU_TestInfo tests[] = {{"truncated files", test_truncated}, {"flipped bytes", test_flips}, CU_TEST_INFO_NULL};
    int code = run_suite("damaged store", tests);
    cl_buf_free(&good);
    unlink(path);
    return rmdir(dir) || code;
}
