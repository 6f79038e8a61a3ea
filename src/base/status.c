/* status.c: errors with a message, checked allocation. */
#include "chipline/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "chipline/util.h"

/* Messages go to terminals and into JSON rows: text quoted from bad input, or cut in the middle of a character, must
 * not spoil them. */
static void clean(char *msg)
{
    for (char *p = msg; *p; p++)
        if ((unsigned char)*p < 0x20) *p = ' ';
    cl_utf8_repair(msg);
}

cl_code cl_fail(cl_err *err, cl_code code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        va_end(ap);
        err->code = code;
        clean(err->msg);
    }
    return code;
}

cl_code cl_fail_prefix(cl_err *err, const char *fmt, ...)
{
    if (!err) return CL_E_INPUT;
    char prefix[sizeof err->msg], old[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    memcpy(old, err->msg, sizeof old);
    size_t n = strlen(prefix);
    if (n > sizeof old / 2) n = sizeof old / 2;
    snprintf(err->msg, sizeof err->msg, "%.*s: %.*s", (int)n, prefix, (int)(sizeof old - n - 3), old);
    clean(err->msg);
    return err->code;
}

static bool too_big(size_t n, size_t size) { return size && n > (size_t)PTRDIFF_MAX / size; }

static void *refuse(size_t n, size_t size, const char *what, cl_err *err)
{
    cl_fail(err, CL_E_FIT,
            "%s: cannot have %zu x %zu bytes of memory (use fewer slots, a shorter context or more ranks)", what, n,
            size);
    return NULL;
}

void *cl_malloc(size_t n, size_t size, const char *what, cl_err *err)
{
    void *p = too_big(n, size) ? NULL : malloc(n && size ? n * size : 1);
    return p ? p : refuse(n, size, what, err);
}

void *cl_calloc(size_t n, size_t size, const char *what, cl_err *err)
{
    void *p = too_big(n, size) ? NULL : calloc(n ? n : 1, size ? size : 1);
    return p ? p : refuse(n, size, what, err);
}

void *cl_realloc(void *old, size_t n, size_t size, const char *what, cl_err *err)
{
    void *p = too_big(n, size) ? NULL : realloc(old, n && size ? n * size : 1);
    return p ? p : refuse(n, size, what, err);
}

char *cl_strdup(const char *s, cl_err *err)
{
    size_t n = strlen(s) + 1;
    char *p = cl_malloc(n, 1, "text", err);
    if (p) memcpy(p, s, n);
    return p;
}

enum { BIG = 1 << 20 };

static size_t mapped_size(size_t bytes) { return (bytes + 4095) & ~(size_t)4095; }

void *cl_malloc_aligned(size_t bytes, const char *what, cl_err *err)
{
    if (bytes > (size_t)PTRDIFF_MAX - 4096) return refuse(1, bytes, what, err);
    if (bytes < BIG) {
        void *p = NULL;
        if (posix_memalign(&p, 64, bytes ? bytes : 1)) return refuse(1, bytes, what, err);
        memset(p, 0, bytes);
        return p;
    }
    void *p = mmap(NULL, mapped_size(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return refuse(1, bytes, what, err);
    madvise(p, mapped_size(bytes), MADV_HUGEPAGE); /* a hint: refusal changes nothing */
    return p;
}

void cl_free_aligned(void *p, size_t bytes)
{
    if (!p) return;
    if (bytes < BIG) free(p);
    else munmap(p, mapped_size(bytes));
}

void cl_bug(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "chipline: bug at %s:%d: ", file, line);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}
