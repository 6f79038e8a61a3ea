/* status.h: how chipline says that something went wrong.
 *
 * Every function that can fail for a reason outside the program (a file, an option, a size, a peer) returns a cl_code
 * and takes a `cl_err *err` as its last argument. On failure it fills err once and releases whatever it had acquired;
 * on success err is untouched. Callers pass the code up; nobody but the command line prints it, once, as `chipline:
 * MESSAGE`.
 *
 * A message reads `WHAT: CAUSE (REMEDY)`, e.g. "model.gguf: tensor blk.0.attn_q.weight ends at byte 900 of 512 (the
 * file is truncated: copy it again)". Broken invariants of the program itself are not errors: they abort (CL_BUG). */
#ifndef CHIPLINE_STATUS_H
#define CHIPLINE_STATUS_H

#include <stdarg.h>
#include <stddef.h>

/* The exit codes of the command line. */
typedef enum cl_code {
    CL_OK = 0,
    CL_E_RUN = 1,     /* a rank, a link, a disk or a sequence failed while running */
    CL_E_USAGE = 2,   /* the command line is wrong */
    CL_E_INPUT = 3,   /* an input is bad: model, config, prompt, plan, trace */
    CL_E_FIT = 4,     /* it does not fit: memory, context, ranks */
    CL_E_STOPPED = 75 /* stopped on request */
} cl_code;

typedef struct cl_err {
    cl_code code;
    char msg[1024]; /* UTF-8, no newline, always terminated */
} cl_err;

/* Fills *err (when err is not NULL) and returns code, so that one can write `return cl_fail(err, CL_E_INPUT, ...)`. */
cl_code cl_fail(cl_err *err, cl_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the message of *err (an outer function that knows the file's name, say); returns
 * err->code. */
cl_code cl_fail_prefix(cl_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* malloc, calloc and realloc of n elements, overflow checked. NULL and a filled err (CL_E_FIT) on failure; n = 0
 * gives a valid pointer. The caller frees with free(). cl_realloc leaves the old block alone on failure. */
void *cl_malloc(size_t n, size_t size, const char *what, cl_err *err);
void *cl_calloc(size_t n, size_t size, const char *what, cl_err *err);
void *cl_realloc(void *p, size_t n, size_t size, const char *what, cl_err *err);
char *cl_strdup(const char *s, cl_err *err);
/* 64-byte aligned, zeroed when the kernel gives it (large blocks come from mmap with a huge-page hint). Free:
 * cl_free_aligned. */
void *cl_malloc_aligned(size_t bytes, const char *what, cl_err *err);
void cl_free_aligned(void *p, size_t bytes);

/* A broken invariant: prints file, line and message, aborts. */
_Noreturn void cl_bug(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define CL_BUG(...) cl_bug(__FILE__, __LINE__, __VA_ARGS__)

#endif
