/* lines.h: whole lines from a descriptor, without waiting longer than asked: a batch through a pipe or a terminal
 * must not hold up the line of ranks. */
#ifndef CHIPLINE_LINES_H
#define CHIPLINE_LINES_H

#include "chipline/util.h"

typedef struct cl_lines {
    int fd;
    const char *name; /* borrowed, for messages */
    cl_buf buf;
    size_t at; /* start of what is not given out yet */
    bool ended;
} cl_lines;

typedef enum cl_lines_got { CL_LINES_LINE, CL_LINES_NONE, CL_LINES_END, CL_LINES_FAILED } cl_lines_got;

void cl_lines_open(cl_lines *l, int fd, const char *name);
/* The next line without its end, valid until the next call; waits at most wait_ms for it. A line over max bytes, or a
 * read that fails, is CL_LINES_FAILED with err filled. */
cl_lines_got cl_lines_next(cl_lines *l, int wait_ms, size_t max, const char **line, size_t *n, cl_err *err);
void cl_lines_close(cl_lines *l); /* the descriptor too, but for standard input */

#endif
