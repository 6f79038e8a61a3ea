/* recorder.c: events of one rank, written by one thread into a mapped window of its event log.
 *
 * The kernel owns the pages of a MAP_SHARED mapping: what was stored there is in the file whatever becomes of the
 * process. The window moves forward when it is full (three system calls per LOG_WINDOW_RECORDS records); its disk
 * space is reserved before it is mapped, so that a full disk shows as a failed reservation and not as SIGBUS. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "event_log.h"

enum { WINDOW_BYTES = LOG_WINDOW_RECORDS * sizeof(cl_event) };

struct cl_trace {
    int fd;
    cl_trace_level level;
    log_header *header; /* mapped while the recorder lives */
    cl_event *window;   /* NULL: no room for more */
    uint32_t used;      /* records in the window */
    uint64_t count, dropped;
    off_t window_at; /* offset of the window in the file */
};

/* Reserves [at, at + n) on the disk and makes the file that long; 0 or an errno. */
static int reserve(int fd, off_t at, off_t n)
{
    struct rlimit limit; /* growing past it would raise SIGXFSZ */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && (uint64_t)(at + n) > limit.rlim_cur)
        return EFBIG;
    int rc;
    do rc = fallocate(fd, 0, at, n) == 0 ? 0 : errno;
    while (rc == EINTR);
    if (rc != EOPNOTSUPP && rc != ENOSYS) return rc;
    static const char zeros[65536]; /* file systems without fallocate (NFS 3): written blocks are reserved ones */
    while (n > 0) {
        ssize_t w = pwrite(fd, zeros, n < (off_t)sizeof zeros ? (size_t)n : sizeof zeros, at);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return w < 0 ? errno : ENOSPC;
        at += w, n -= w;
    }
    return 0;
}

static void *map(int fd, off_t at, size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
    return p == MAP_FAILED ? NULL : p;
}

static bool open_window(cl_trace *t, off_t at)
{
    if (t->window) munmap(t->window, WINDOW_BYTES);
    t->window = NULL;
    t->used = 0;
    t->window_at = at;
    int rc = reserve(t->fd, at, WINDOW_BYTES);
    if (rc == 0 && !(t->window = map(t->fd, at, WINDOW_BYTES))) rc = errno;
    errno = rc;
    return rc == 0;
}

cl_code cl_trace_open(cl_trace **out, const char *path, int rank, cl_trace_level level, cl_err *err)
{
    *out = NULL;
    if (level == CL_TRACE_OFF) return CL_OK;
    cl_trace *t = cl_calloc(1, sizeof *t, "trace recorder", err);
    if (!t) return CL_E_FIT;
    t->level = level;
    unlink(path); /* a recorder that may still have it mapped keeps its own file */
    t->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (t->fd < 0) {
        cl_code code = cl_fail(err, CL_E_INPUT,
                               "%s: cannot create the event log of the trace: %s (choose a folder that can be written)",
                               path, strerror(errno));
        free(t);
        return code;
    }
    int rc = reserve(t->fd, 0, LOG_HEADER_BYTES);
    if (rc == 0 && !(t->header = map(t->fd, 0, LOG_HEADER_BYTES))) rc = errno;
    if (rc == 0 && !open_window(t, LOG_HEADER_BYTES)) rc = errno;
    if (rc) {
        cl_trace_close(t);
        unlink(path);
        return cl_fail(err, CL_E_RUN,
                       "%s: no room for the events of the trace: %s (choose another folder, or run without --trace)",
                       path, strerror(rc));
    }
    log_header *h = t->header;
    h->version = CL_TRACE_VERSION;
    h->order = LOG_ORDER;
    h->header_bytes = LOG_HEADER_BYTES;
    h->record_bytes = sizeof(cl_event);
    h->rank = rank;
    h->level = level;
    atomic_thread_fence(memory_order_release);
    memcpy(h->magic, LOG_MAGIC, sizeof h->magic); /* last: a header with a magic is complete */
    *out = t;
    return CL_OK;
}

bool cl_trace_on(const cl_trace *t, cl_trace_level level) { return t && level <= t->level; }

static void add(cl_trace *t, const cl_event *record)
{
    if (t->used == LOG_WINDOW_RECORDS && t->window) open_window(t, t->window_at + WINDOW_BYTES);
    if (!t->window) {
        atomic_store_explicit(&t->header->dropped, ++t->dropped, memory_order_relaxed);
        return;
    }
    t->window[t->used++] = *record;
    atomic_store_explicit(&t->header->count, ++t->count, memory_order_release);
}

void cl_trace_add(cl_trace *t, const cl_event *e)
{
    if (t && cl_event_level(e->kind) <= t->level) add(t, e);
}

void cl_trace_add_part(cl_trace *t, const cl_trace_part *p)
{
    if (!t) return;
    cl_event record = log_of_part(p);
    add(t, &record);
}

uint64_t cl_trace_dropped(const cl_trace *t) { return t ? t->dropped : 0; }
uint64_t cl_trace_count(const cl_trace *t) { return t ? t->count : 0; }
uint64_t cl_trace_bytes(void) { return LOG_HEADER_BYTES + WINDOW_BYTES; }

uint64_t cl_trace_mapped(const cl_trace *t) { return t ? LOG_HEADER_BYTES + (t->window ? WINDOW_BYTES : 0) : 0; }

void cl_trace_close(cl_trace *t)
{
    if (!t) return;
    if (t->window) munmap(t->window, WINDOW_BYTES);
    if (t->header) munmap(t->header, LOG_HEADER_BYTES);
    /* Gives back what was reserved and not used; should it fail, the longer file is read all the same. */
    (void)!ftruncate(t->fd, LOG_HEADER_BYTES + (off_t)(t->count * sizeof(cl_event)));
    close(t->fd);
    free(t);
}

cl_mark cl_trace_mark(const cl_trace *t, cl_trace_level level)
{
    if (!cl_trace_on(t, level)) return (cl_mark){.on = false};
    return (cl_mark){.ns = cl_now_ns(), .cpu = cl_thread_cpu_ns(), .on = true};
}

cl_mark cl_trace_end(cl_trace *t, cl_mark m, cl_event *e)
{
    if (!m.on) return m;
    cl_mark now = {.ns = cl_now_ns(), .cpu = cl_thread_cpu_ns(), .on = true};
    e->start_ns = m.ns;
    e->end_ns = now.ns;
    e->cpu_ns = now.cpu - m.cpu;
    cl_trace_add(t, e);
    return now;
}
