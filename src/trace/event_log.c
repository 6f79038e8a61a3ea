/* event_log.c: reads an event log back, of this run or of one that died. Nothing in it is trusted. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "event_log.h"

char *cl_event_log_path(const char *trace_path, int rank, cl_err *err)
{
    size_t n = strlen(trace_path) + 32;
    char *path = cl_malloc(n, 1, "path", err);
    if (path && rank >= 0) snprintf(path, n, "%s.rank%04d.part", trace_path, rank);
    else if (path) snprintf(path, n, "%s.run.part", trace_path);
    return path;
}

struct cl_event_log {
    int fd;
    char *path;
    log_header header;
    uint64_t count, dropped;
};

/* All n bytes at `at`; a short file is an error. */
static cl_code read_at(cl_event_log *l, void *to, size_t n, uint64_t at, cl_err *err)
{
    char *c = to;
    while (n > 0) {
        ssize_t r = pread(l->fd, c, n, (off_t)at);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return cl_fail(err, CL_E_INPUT, "%s: cannot read: %s (check the disk)", l->path, strerror(errno));
        if (r == 0)
            return cl_fail(err, CL_E_INPUT, "%s: ends at byte %llu (the event log is truncated: copy it again)",
                           l->path, (unsigned long long)at);
        c += r, at += (uint64_t)r, n -= (size_t)r;
    }
    return CL_OK;
}

static cl_code check_header(cl_event_log *l, uint64_t file_bytes, cl_err *err)
{
    log_header *h = &l->header;
    const char *s = l->path;
    if (memcmp(h->magic, LOG_MAGIC, sizeof h->magic) != 0)
        return cl_fail(err, CL_E_INPUT, "%s: not an event log of a trace (give the file that --trace left)", s);
    if (h->order != LOG_ORDER)
        return cl_fail(err, CL_E_INPUT, "%s: recorded on a host of another byte order (read it on a host of that kind)",
                       s);
    if (h->version != CL_TRACE_VERSION)
        return cl_fail(err, CL_E_INPUT, "%s: trace version %u, this chipline reads %d (use the chipline that wrote it)",
                       s, h->version, CL_TRACE_VERSION);
    if (h->header_bytes != LOG_HEADER_BYTES || h->record_bytes != sizeof(cl_event) || h->rank < 0 ||
        h->level < CL_TRACE_OFF || h->level > CL_TRACE_KERNEL)
        return cl_fail(err, CL_E_INPUT,
                       "%s: header of %u bytes, records of %u bytes, rank %d, level %d: not possible (the file is "
                       "damaged)",
                       s, h->header_bytes, h->record_bytes, h->rank, h->level);
    l->count = atomic_load_explicit(&h->count, memory_order_relaxed);
    l->dropped = atomic_load_explicit(&h->dropped, memory_order_relaxed);
    uint64_t room = file_bytes < LOG_HEADER_BYTES ? 0 : (file_bytes - LOG_HEADER_BYTES) / sizeof(cl_event);
    if (l->count > room)
        return cl_fail(err, CL_E_INPUT,
                       "%s: says %llu records, has room for %llu (the file is truncated: copy it again)", s,
                       (unsigned long long)l->count, (unsigned long long)room);
    return CL_OK;
}

cl_code cl_event_log_open(cl_event_log **out, const char *path, int *rank, uint64_t *n_records, cl_err *err)
{
    *out = NULL;
    cl_event_log *l = cl_calloc(1, sizeof *l, "event log", err);
    if (!l) return CL_E_FIT;
    l->fd = -1;
    cl_code code = CL_E_FIT;
    struct stat st;
    if (!(l->path = cl_strdup(path, err))) goto fail;
    l->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe of that name must not hang us */
    if (l->fd < 0 || fstat(l->fd, &st) != 0) {
        code = cl_fail(err, CL_E_INPUT, "%s: cannot open: %s (check the path)", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        code = cl_fail(err, CL_E_INPUT, "%s: not a regular file (give an event log of a trace)", path);
        goto fail;
    }
    if ((code = read_at(l, &l->header, sizeof l->header, 0, err)) ||
        (code = check_header(l, (uint64_t)st.st_size, err)))
        goto fail;
    *rank = l->header.rank;
    *n_records = l->count;
    *out = l;
    return CL_OK;
fail:
    cl_event_log_close(l);
    return code;
}

cl_code cl_event_log_read(cl_event_log *l, uint64_t first, uint64_t max, cl_event *records, uint64_t *n, cl_err *err)
{
    *n = 0;
    if (first >= l->count) return CL_OK;
    uint64_t take = max < l->count - first ? max : l->count - first;
    cl_code code = read_at(l, records, take * sizeof *records, LOG_HEADER_BYTES + first * sizeof *records, err);
    if (code) return code;
    for (uint64_t i = 0; i < take; i++) {
        const cl_event *e = &records[i];
        if (e->kind == CL_EV_PART || (e->kind >= 0 && e->kind < CL_EV_KINDS && e->start_ns <= e->end_ns)) continue;
        return cl_fail(err, CL_E_INPUT,
                       "%s: event %llu has kind %d and lasts from %llu to %llu ns (the file is damaged)", l->path,
                       (unsigned long long)(first + i), e->kind, (unsigned long long)e->start_ns,
                       (unsigned long long)e->end_ns);
    }
    *n = take;
    return CL_OK;
}

uint64_t cl_event_log_dropped(const cl_event_log *l) { return l->dropped; }

void cl_event_log_close(cl_event_log *l)
{
    if (!l) return;
    if (l->fd >= 0) close(l->fd);
    free(l->path);
    free(l);
}
