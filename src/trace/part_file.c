/* part_file.c: reads a part file back, of this run or of one that died. Nothing in it is trusted. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "part.h"

struct cl_part_file {
    int fd;
    char *path;
    part_header header; /* host terminated */
    uint64_t count, dropped;
};

/* All n bytes at `at`; a short file is an error. */
static cl_code read_at(cl_part_file *p, void *to, size_t n, uint64_t at, cl_err *err)
{
    char *c = to;
    while (n > 0) {
        ssize_t r = pread(p->fd, c, n, (off_t)at);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return cl_fail(err, CL_E_INPUT, "%s: cannot read: %s (check the disk)", p->path, strerror(errno));
        if (r == 0)
            return cl_fail(err, CL_E_INPUT, "%s: ends at byte %llu (the part file is truncated: copy it again)",
                           p->path, (unsigned long long)at);
        c += r, at += (uint64_t)r, n -= (size_t)r;
    }
    return CL_OK;
}

static cl_code check_header(cl_part_file *p, uint64_t file_bytes, cl_err *err)
{
    part_header *h = &p->header;
    const char *s = p->path;
    if (memcmp(h->magic, PART_MAGIC, sizeof h->magic) != 0)
        return cl_fail(err, CL_E_INPUT, "%s: not a part file of a trace (give the file that --trace left)", s);
    if (h->order != PART_ORDER)
        return cl_fail(err, CL_E_INPUT, "%s: recorded on a host of another byte order (read it on a host of that kind)",
                       s);
    if (h->version != CL_TRACE_VERSION)
        return cl_fail(err, CL_E_INPUT, "%s: trace version %u, this chipline reads %d (use the chipline that wrote it)",
                       s, h->version, CL_TRACE_VERSION);
    if (h->header_bytes != PART_HEADER_BYTES || h->event_bytes != sizeof(cl_event) || h->rank < 0 ||
        h->level < CL_TRACE_OFF || h->level > CL_TRACE_KERNEL)
        return cl_fail(err, CL_E_INPUT,
                       "%s: header of %u bytes, events of %u bytes, rank %d, level %d: not possible (the file is "
                       "damaged)",
                       s, h->header_bytes, h->event_bytes, h->rank, h->level);
    p->count = atomic_load_explicit(&h->count, memory_order_relaxed);
    p->dropped = atomic_load_explicit(&h->dropped, memory_order_relaxed);
    uint64_t room = file_bytes < PART_HEADER_BYTES ? 0 : (file_bytes - PART_HEADER_BYTES) / sizeof(cl_event);
    if (p->count > room)
        return cl_fail(err, CL_E_INPUT,
                       "%s: says %llu events, has room for %llu (the file is truncated: copy it again)", s,
                       (unsigned long long)p->count, (unsigned long long)room);
    h->host[sizeof h->host - 1] = '\0';
    return CL_OK;
}

cl_code cl_part_file_open(cl_part_file **out, const char *path, int *rank, uint64_t *n_events, cl_err *err)
{
    *out = NULL;
    cl_part_file *p = cl_calloc(1, sizeof *p, "part file", err);
    if (!p) return CL_E_FIT;
    p->fd = -1;
    cl_code code = CL_E_FIT;
    struct stat st;
    if (!(p->path = cl_strdup(path, err))) goto fail;
    p->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe of that name must not hang us */
    if (p->fd < 0 || fstat(p->fd, &st) != 0) {
        code = cl_fail(err, CL_E_INPUT, "%s: cannot open: %s (check the path)", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        code = cl_fail(err, CL_E_INPUT, "%s: not a regular file (give a part file of a trace)", path);
        goto fail;
    }
    if ((code = read_at(p, &p->header, sizeof p->header, 0, err)) ||
        (code = check_header(p, (uint64_t)st.st_size, err)))
        goto fail;
    *rank = p->header.rank;
    *n_events = p->count;
    *out = p;
    return CL_OK;
fail:
    cl_part_file_close(p);
    return code;
}

cl_code cl_part_file_read(cl_part_file *p, uint64_t first, uint64_t max, cl_event *events, uint64_t *n, cl_err *err)
{
    *n = 0;
    if (first >= p->count) return CL_OK;
    uint64_t take = max < p->count - first ? max : p->count - first;
    cl_code code = read_at(p, events, take * sizeof *events, PART_HEADER_BYTES + first * sizeof *events, err);
    if (code) return code;
    for (uint64_t i = 0; i < take; i++)
        if (events[i].kind < 0 || events[i].kind >= CL_EV_KINDS || events[i].end_ns < events[i].start_ns)
            return cl_fail(err, CL_E_INPUT,
                           "%s: event %llu has kind %d and lasts from %llu to %llu ns (the file is damaged)", p->path,
                           (unsigned long long)(first + i), events[i].kind, (unsigned long long)events[i].start_ns,
                           (unsigned long long)events[i].end_ns);
    *n = take;
    return CL_OK;
}

const char *cl_part_file_host(const cl_part_file *p) { return p->header.host; }
uint64_t cl_part_file_dropped(const cl_part_file *p) { return p->dropped; }

void cl_part_file_close(cl_part_file *p)
{
    if (!p) return;
    if (p->fd >= 0) close(p->fd);
    free(p->path);
    free(p);
}
