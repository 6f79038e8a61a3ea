/* probe.h: what this machine can do at most, by a clock: how fast a slice can be read, how many multiplies and adds
 * its cores do, how fast one product is alone.
 *
 * All local, with all threads of a crew, called by its thread 0 while no chip of the crew is at work. Rates are
 * medians of three runs. */
#ifndef CHIPLINE_PROBE_H
#define CHIPLINE_PROBE_H

#include "chipline/crew.h"
#include "chipline/format.h"

/* Reads `bytes` of fresh memory several times: bytes per second, as a chip's own probe (chip.h) measures its slice.
 * Before there is a chip; 0: there is not so much memory. */
double cl_probe_memory(cl_crew *crew, size_t bytes);

/* The most multiplies and adds per second that the crew does with the instructions of this kernel set (a name of
 * cl_chip_kernels) on registers alone: 8-bit dot products, or float32 multiply-adds. cpu_time: by the CPU time of the
 * slowest thread, as if nobody else used the cores. */
double cl_probe_peak(cl_crew *crew, const char *kernels, bool q8, bool cpu_time);

/* The product of some tokens' activations with one matrix of random weights, to be timed: no model is needed. The
 * matrix takes about `bytes`; kernels NULL: the best set. All threads work on their own panels; times are the CPU
 * time of the slowest, so that other work on the machine costs caches and bandwidth but no turns. The crew is
 * borrowed. */
typedef struct cl_trial cl_trial;
cl_code cl_trial_create(cl_trial **out, cl_crew *crew, const char *kernels, cl_format format, bool q8, int tokens,
                        size_t bytes, cl_err *err);
void cl_trial_free(cl_trial *t);
size_t cl_trial_bytes(const cl_trial *t); /* of the matrix */
double cl_trial_ops(const cl_trial *t);   /* multiplies and adds of the product */
double cl_trial_product(cl_trial *t);     /* seconds */
double cl_trial_read(cl_trial *t);        /* seconds for reading the same bytes once */

#endif
