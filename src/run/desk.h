/* desk.h: a source of requests behind a thread of its own: reading, tokenizing and writing never hold up the thread
 * that runs the line. Inside run/.
 *
 * All of the source's functions are called on the desk's thread, and nowhere else (but for back, when that thread has
 * ended); the functions of desk_source, which pass things across, on the line's. Requests are read ahead, as many as
 * may be in the line at once: what becomes free in a step is full again in the next. */
#ifndef CHIPLINE_RUN_DESK_H
#define CHIPLINE_RUN_DESK_H

#include "chipline/request.h"

typedef struct desk desk;
cl_code desk_open(desk **out, const cl_source *source, int most_ahead, cl_err *err);
/* What the session gets instead of the source. Its next never waits. */
cl_source desk_source(desk *d);
/* Is there something for the line's thread: a request, the end of all requests, or a failure? Cheap; `d` is a desk *.
 * */
bool desk_calls(void *d);
/* So much is not delivered yet that the line had better wait. */
bool desk_is_full(const desk *d);
/* The first error of the source's functions, CL_OK: none. */
cl_code desk_outcome(desk *d, cl_err *err);
/* Delivers what is left, ends the thread, gives back what was read ahead, frees; the outcome. NULL is fine. A source
 * that waits in next is waited for, as long as it was told to wait. */
cl_code desk_close(desk *d, cl_err *err);

#endif
