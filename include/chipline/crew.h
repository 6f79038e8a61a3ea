/* crew.h: the threads of a chip: one OpenMP region that holds them for as long as they are needed.
 *
 * The caller goes on with its own work (messages, the loop) inside the region, as thread 0; the others wait for the
 * jobs that chips and probes give them: they spin for a moment, then let the core go, then sleep. Where each of them
 * runs is OpenMP's to say (OMP_PLACES, OMP_PROC_BIND). A process may have several crews, each of its own thread, but
 * none inside another. Local: no rank talks here. */
#ifndef CHIPLINE_CREW_H
#define CHIPLINE_CREW_H

#include "chipline/status.h"

typedef struct cl_crew cl_crew;

/* Opens the region with `threads` >= 1 threads, the caller's included; the caller runs body(ctx, crew, err) and its
 * code is returned. The crew ends with it: what was made with it must have been freed. Signals stay with the caller's
 * thread. CL_E_FIT, and the body is not run: so many threads cannot be had. (OpenMP would end the process without a
 * word of ours, so they are made and joined once before it is asked; what another process takes in between is not
 * seen.) */
cl_code cl_crew_run(int threads, cl_code (*body)(void *ctx, cl_crew *crew, cl_err *err), void *ctx, cl_err *err);
int cl_crew_threads(const cl_crew *crew); /* the caller's included */

#endif
