/* crew.h: how the threads of a chip work together.
 *
 * Inside chip/. A job is run by every member of the crew: each does its range of a phase (of panels, heads or tokens),
 * and a wait ends the phase. Which member does what never changes a bit. Member 0 is the caller's own thread. */
#ifndef CHIPLINE_CHIP_CREW_H
#define CHIPLINE_CHIP_CREW_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/crew.h"

/* One of n threads, id 0 .. n - 1. With n 1 there is nobody to wait for, and no barrier is needed. */
typedef struct crew_member {
    int id, n;
    struct crew_barrier *barrier;
} crew_member;

typedef void (*crew_job)(const crew_member *m, void *ctx);

/* Every member runs the job, the calling thread as member 0; returns when all have. The caller is the thread that
 * opened the region, or another one while that one waits; not a job. */
void crew_run(cl_crew *crew, crew_job job, void *ctx);

/* In a job: returns when all members have come here. */
void crew_wait(const crew_member *m);

/* The same with something to do in between that is member 0's alone: true on member 0 when all others have come, who
 * wait until it calls crew_release; false on the others, after that. */
bool crew_assemble(const crew_member *m);
void crew_release(const crew_member *m);

/* This member's range of n equal things: *a .. *b - 1. */
static inline void crew_range(const crew_member *m, int64_t n, int64_t *a, int64_t *b)
{
    *a = n * m->id / m->n;
    *b = n * (m->id + 1) / m->n;
}

#endif
