/* notes.h: a few bytes between any two ranks, as they come up: requests to the lines side by side, and the tokens
 * that they answer with. Not part of a token's way through a line, so a note's buffer is made when it is sent.
 *
 * All local but where it says otherwise; notes between the same two ranks keep their order. */
#ifndef CHIPLINE_NOTES_H
#define CHIPLINE_NOTES_H

#include "chipline/ranks.h"
#include "chipline/util.h"

typedef struct cl_notes cl_notes;

cl_code cl_notes_open(cl_notes **out, cl_ranks *ranks, cl_err *err);
/* The bytes are copied; returns at once. CL_E_FIT: over 2 GB, or no memory. */
cl_code cl_notes_send(cl_notes *n, int to, const void *data, size_t bytes, cl_err *err);
/* The next note if there is one: its bytes become *note (reused), which starts as {0} and is the caller's. To wait
 * for one: cl_line_await, which also is the only one to see that it is there where waiting blocks. */
bool cl_notes_recv(cl_notes *n, int *from, cl_buf *note);
/* Waits until all that were sent are on their way: their buffers are free. */
void cl_notes_drain(cl_notes *n);
/* Drains and frees. Notes that nobody has received are lost. NULL is allowed. */
void cl_notes_close(cl_notes *n);

#endif
