/* progress.c: one line on stderr that says how far long work is. */
#include "chipline/util.h"

#include <unistd.h>

static void show(cl_progress *p, uint64_t done, bool last)
{
    char a[32], b[32], r[32];
    uint64_t now = cl_now_ns();
    double s = (double)(now - p->start_ns) * 1e-9;
    cl_human_bytes((double)done, a);
    cl_human_bytes((double)p->total, b);
    cl_human_bytes(s > 0 ? (double)done / s : 0, r);
    if (last) fprintf(stderr, "%s%s: %s in %.1f s (%s/s)\n", p->tty ? "\r\033[K" : "", p->what, a, s, r);
    else fprintf(stderr, p->tty ? "\r\033[K%s: %s of %s, %s/s" : "%s: %s of %s, %s/s\n", p->what, a, b, r);
    fflush(stderr);
    p->last_ns = now;
}

void cl_progress_start(cl_progress *p, bool on, const char *what, uint64_t total_bytes)
{
    *p = (cl_progress){.on = on, .tty = isatty(2), .what = what, .total = total_bytes, .start_ns = cl_now_ns()};
    p->last_ns = p->start_ns;
}

void cl_progress_at(cl_progress *p, uint64_t done_bytes)
{
    if (p->on && cl_now_ns() - p->last_ns > (p->tty ? 100000000u : 10000000000u)) show(p, done_bytes, false);
}

void cl_progress_end(cl_progress *p, uint64_t done_bytes)
{
    if (p->on) show(p, done_bytes, true);
}

void cl_note(bool on, const char *fmt, ...)
{
    if (!on) return;
    va_list ap;
    va_start(ap, fmt);
    fputs("chipline: note: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}
