/* jobs.h: a piece of work done by several threads at once. */
#ifndef CHIPLINE_IMPORT_JOBS_H
#define CHIPLINE_IMPORT_JOBS_H

#include <stddef.h>

enum { CL_JOBS_MAX = 256 };

/* work(share) for each of n <= CL_JOBS_MAX shares of `size` bytes, in threads of their own, the first in the
 * caller's; returns when all are done. A share whose thread cannot be started is done by the caller too. */
void cl_jobs_run(void *shares, size_t size, int n, void *(*work)(void *share));

#endif
