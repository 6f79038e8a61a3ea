/* timing.h: what probes, peaks and trials have in common.
 *
 * Inside chip/. */
#ifndef CHIPLINE_CHIP_TIMING_H
#define CHIPLINE_CHIP_TIMING_H

#include <stdatomic.h>
#include <stddef.h>

#include "crew.h"

/* *most = the larger of the two, whoever else does the same. */
static inline void keep_most(_Atomic uint64_t *most, uint64_t v)
{
    uint64_t was = atomic_load_explicit(most, memory_order_relaxed);
    while (was < v && !atomic_compare_exchange_weak(most, &was, v)) {
    }
}

/* Reads `bytes`, a multiple of 64, `times` times with the whole crew; seconds. cpu_s, if not NULL: CPU time of the
 * slowest thread. */
double probe_read(cl_crew *crew, const unsigned char *data, size_t bytes, int64_t times, double *cpu_s);

#endif
