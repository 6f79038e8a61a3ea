/* part.h: layout of a part file: one header block, then events of fixed size, in the byte order of the host that
 * recorded.
 *
 * Events are written into a mapped window; `count` is stored (release) only after an event is complete, so that a
 * process that dies at any instruction leaves a file whose first `count` events are whole. */
#ifndef CHIPLINE_TRACE_PART_H
#define CHIPLINE_TRACE_PART_H

#include <stdatomic.h>

#include "chipline/trace.h"

#define PART_MAGIC "CLPART\r\n" /* 8 bytes and a NUL; a copy in text mode breaks it */

enum {
    PART_ORDER = 0x01020304,
    PART_HEADER_BYTES = 65536, /* a multiple of every usual page size (4, 16, 64 KiB), so that windows can be mapped */
    PART_WINDOW_EVENTS = 32768 /* times sizeof(cl_event): again a multiple of 64 KiB, about 3.1 MB */
};

typedef struct part_header {
    char magic[8];
    uint32_t version, order, header_bytes, event_bytes;
    int32_t rank, level;
    char host[64];
    _Atomic uint64_t count, dropped;
} part_header;

_Static_assert(sizeof(cl_event) == 96,
               "the part file holds events of 96 bytes; TRACE.h5 must say what new columns are");
_Static_assert(PART_WINDOW_EVENTS * sizeof(cl_event) % 65536 == 0, "windows start on page boundaries");
_Static_assert(sizeof(_Atomic uint64_t) == 8, "the counters lie in the file as plain 64-bit numbers");

#endif
