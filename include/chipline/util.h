/* util.h: small things every room needs: half-precision numbers, clocks, text, whole files. All local (no rank talks
 * here). */
#ifndef CHIPLINE_UTIL_H
#define CHIPLINE_UTIL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "chipline/status.h"

/* --- 16-bit floats, bit exact; encoding rounds to nearest even, NaN stays a (quiet) NaN --- */
static inline float cl_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline uint16_t cl_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    return (uint16_t)(nan ? (u >> 16) | 0x40 : (u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
float cl_f16_to_f32(uint16_t h);
uint16_t cl_f32_to_f16(float f);

/* --- clocks, nanoseconds --- */
uint64_t cl_now_ns(void);         /* CLOCK_MONOTONIC */
uint64_t cl_thread_cpu_ns(void);  /* CPU time of the calling thread */
uint64_t cl_process_cpu_ns(void); /* of this process */
/* of all processes of this host and its kernel since it started, to 1/100 s; 0: not known here */
uint64_t cl_host_cpu_ns(void);

/* One turn of a loop that waits without letting the core go. */
static inline void cl_spin(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
/* Lets other threads run on this core; true if some did for longer than a moment: then they want it. */
bool cl_yield(void);

/* --- numbers --- */
/* Of n >= 1 values, which are sorted; between the two in the middle where n is even. */
double cl_median(double *values, int n);
double cl_least(const double *values, int n); /* n >= 1 */

/* --- text --- */
/* True if s[0..n) is valid UTF-8 (no surrogates, no overlong forms); else *bad is the offset of the first wrong byte.
 * */
bool cl_utf8_valid(const char *s, size_t n, size_t *bad);
/* Replaces every byte that makes s invalid UTF-8 by '?'. */
void cl_utf8_repair(char *s);
/* The nearest of words[0..n) by edit distance, or NULL if none is near: for "did you mean". */
const char *cl_nearest(const char *word, const char *const *words, int n);
/* "1.50 GB" (decimal units, 3 significant digits) into buf[32]; returns buf. */
const char *cl_human_bytes(double bytes, char buf[32]);
/* Whole decimal number in [min, max]; false if s is anything else ("12x", "", " 1"). */
bool cl_parse_int(const char *s, int64_t min, int64_t max, int64_t *out);
/* Finite decimal number in [min, max]. */
bool cl_parse_double(const char *s, double min, double max, double *out);
/* "512", "230MB", "1.5GiB", "64k": bytes (k, M, G, T decimal; Ki, Mi, Gi, Ti binary; a trailing B may follow). */
bool cl_parse_bytes(const char *s, uint64_t *out);

/* --- growing byte string --- */
typedef struct cl_buf {
    char *data; /* NUL-terminated when non-NULL; free with cl_buf_free */
    size_t len, cap;
} cl_buf;
cl_code cl_buf_add(cl_buf *b, const void *data, size_t n, cl_err *err);
cl_code cl_buf_str(cl_buf *b, const char *s, cl_err *err);
cl_code cl_buf_printf(cl_buf *b, cl_err *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void cl_buf_free(cl_buf *b);

/* --- files --- */
/* Reads a whole file of at most max bytes into *b (appended); CL_E_INPUT names the path and the cause. "-" is stdin. */
cl_code cl_read_file(const char *path, size_t max, cl_buf *b, cl_err *err);
/* A file that appears under its final name only when complete: open gives a FILE on a temporary name in the same
 * folder, commit flushes, syncs and renames (CL_E_RUN on failure), drop closes and removes. Either ends the object. */
typedef struct cl_newfile {
    FILE *f;
    char *path, *tmp;
} cl_newfile;
cl_code cl_newfile_open(cl_newfile *nf, const char *path, cl_err *err);
cl_code cl_newfile_commit(cl_newfile *nf, cl_err *err);
void cl_newfile_drop(cl_newfile *nf);
/* The temporary name that cl_newfile_open would use, for libraries that open by name: malloced. cl_rename_new moves
 * it. */
char *cl_tmp_name(const char *path, cl_err *err);
cl_code cl_rename_new(const char *tmp, const char *path, cl_err *err);

/* Resident memory of this process now and its peak, bytes (0 where /proc is missing). */
uint64_t cl_rss_bytes(void);
uint64_t cl_rss_peak_bytes(void);

/* "AMD EPYC 7763", or "unknown". */
void cl_cpu_name(char *buf, size_t n);

/* --- progress on stderr: one line, rewritten on a terminal, every 10 s otherwise; silent when off --- */
typedef struct cl_progress {
    bool on, tty;
    const char *what; /* borrowed */
    uint64_t total, start_ns, last_ns;
} cl_progress;
void cl_progress_start(cl_progress *p, bool on, const char *what, uint64_t total_bytes);
void cl_progress_at(cl_progress *p, uint64_t done_bytes);
void cl_progress_end(cl_progress *p, uint64_t done_bytes); /* prints the total and bytes/s */

/* Do both names lead to one file that is there? */
bool cl_same_file(const char *a, const char *b);
/* Can a new file of this name be written (folder there and writable, nothing but a file in its place,
 * which would be replaced)? CL_E_INPUT says why not. */
cl_code cl_check_new(const char *path, cl_err *err);

/* Exit-safe note on stderr: "chipline: note: ..." */
void cl_note(bool on, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
