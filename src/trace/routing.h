/* routing.h: the table of chosen experts in TRACE.h5, for file.c. */
#ifndef CHIPLINE_TRACE_ROUTING_H
#define CHIPLINE_TRACE_ROUTING_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

/* False if HDF5 refuses; what it says is for the caller's handler. */
bool trace_write_routing(hid_t file, const uint64_t *chosen, int layers, int experts);

#endif
