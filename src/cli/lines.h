/* lines.h: whole lines from a descriptor, without waiting longer than asked: a batch through a pipe or a terminal
 * must not hold up the line of ranks. */
#ifndef CHIPLINE_LINES_H
#define CHIPLINE_LINES_H

#include "chipline/util.h"

typedef struct line_reader {
    int fd;
    const char *name; /* borrowed, for messages */
    cl_buf buf;
    size_t at; /* start of what is not given out yet */
    bool ended;
} line_reader;

typedef enum lines_got { LINES_LINE, LINES_NONE, LINES_END, LINES_FAILED } lines_got;

void lines_open(line_reader *l, int fd, const char *name);
/* The next line without its end, valid until the next call; waits at most wait_ms for it. A line over max bytes, or a
 * read that fails, is LINES_FAILED with err filled. */
lines_got lines_next(line_reader *l, int wait_ms, size_t max, const char **line, size_t *n, cl_err *err);
void lines_close(line_reader *l); /* the descriptor too, but for standard input */

#endif
