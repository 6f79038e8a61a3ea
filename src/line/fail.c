/* fail.c: the end of all ranks, after failures that they can't agree about any more. */
#include <stdarg.h>
#include <unistd.h>

#include "ranks_internal.h"

/* Written at once and by hand: a buffer of stdio may be locked, or lead to a pipe that nobody reads. */
_Noreturn void ranks_die(cl_ranks *r, cl_code code, const char *message)
{
    char text[1100];
    int n = snprintf(text, sizeof text, "chipline: %s\n", message);
    ssize_t written = write(STDERR_FILENO, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
    (void)written;
    MPI_Abort(r->comm, (int)code);
    _exit((int)code);
}

_Noreturn void ranks_mpi_failed(cl_ranks *r, int code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS) snprintf(text, sizeof text, "error %d", code);
    cl_ranks_abort(r, CL_E_RUN, "rank %d: %.40s failed: %s (a rank or a link is gone)", r->rank, call, text);
}

_Noreturn void cl_ranks_abort(cl_ranks *r, cl_code code, const char *fmt, ...)
{
    va_list ap;
    char msg[1024];
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    ranks_die(r, code, msg);
}
