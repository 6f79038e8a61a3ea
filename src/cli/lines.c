/* lines.c: whole lines from a descriptor, without waiting longer than asked. */
#include "lines.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

enum { PIECE = 65536 };

void lines_open(line_reader *l, int fd, const char *name) { *l = (line_reader){.fd = fd, .name = name}; }

void lines_close(line_reader *l)
{
    if (l->fd > 0) close(l->fd);
    cl_buf_free(&l->buf);
}

/* The line that ends before `end`; what follows starts at `next`. */
static lines_got give(line_reader *l, size_t end, size_t next, const char **line, size_t *n)
{
    *line = l->buf.data + l->at;
    *n = end - l->at;
    if (*n && (*line)[*n - 1] == '\r') --*n;
    l->at = next;
    return LINES_LINE;
}

lines_got lines_next(line_reader *l, int wait_ms, size_t max, const char **line, size_t *n, cl_err *err)
{
    for (size_t seen = l->at;;) {
        char piece[PIECE];
        const char *end = l->buf.len > seen ? memchr(l->buf.data + seen, '\n', l->buf.len - seen) : NULL;
        if (end) return give(l, (size_t)(end - l->buf.data), (size_t)(end - l->buf.data) + 1, line, n);
        seen = l->buf.len;
        if (l->ended) return l->buf.len > l->at ? give(l, l->buf.len, l->buf.len, line, n) : LINES_END;
        if (l->buf.len - l->at > max) {
            cl_fail(err, CL_E_INPUT, "%s: a line is over %zu bytes", l->name, max);
            return LINES_FAILED;
        }
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        int ready = poll(&p, 1, wait_ms);
        if (ready == 0 || (ready < 0 && errno == EINTR)) return LINES_NONE;
        ssize_t got = read(l->fd, piece, sizeof piece);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) return LINES_NONE;
        if (got < 0) {
            cl_fail(err, CL_E_INPUT, "%s: cannot be read: %s", l->name, strerror(errno));
            return LINES_FAILED;
        }
        l->ended = got == 0;
        if (l->at) { /* what was given out goes */
            memmove(l->buf.data, l->buf.data + l->at, l->buf.len - l->at);
            l->buf.len -= l->at;
            seen -= l->at;
            l->at = 0;
        }
        if (cl_buf_add(&l->buf, piece, (size_t)got, err) != CL_OK) return LINES_FAILED;
    }
}
