/* stops.h: texts that end something (an answer, a thought), looked for in a text that grows. Local, pure. */
#ifndef CHIPLINE_STOPS_H
#define CHIPLINE_STOPS_H

#include <stddef.h>

#include "chipline/status.h"

/* {0}: none. Filled by cl_stops_add and ended by cl_stops_free; or by hand, with texts that somebody else keeps. */
typedef struct cl_stops {
    const char *const *text; /* none empty */
    int n;
} cl_stops;

/* A copy of the text is kept. CL_E_INPUT if it is empty. */
cl_code cl_stops_add(cl_stops *s, const char *text, cl_err *err);
void cl_stops_free(cl_stops *s);

/* Where the first stop in text[0..n) begins, SIZE_MAX: there is none; *which (may be NULL) is its index. Of several
 * that begin there, the one that was added first. text[0..seen) is known to hold none, and is not looked at again but
 * for stops that end behind it. */
size_t cl_stops_find(const cl_stops *s, const char *text, size_t n, size_t seen, int *which);
/* Bytes at the end of text[0..n) that may yet become a stop, whatever follows. */
size_t cl_stops_unsure(const cl_stops *s, const char *text, size_t n);

#endif
