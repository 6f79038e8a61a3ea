/* event_log.h: layout of an event log: one header block, then records of fixed size, in the byte order of the host that
 * recorded. A record is an event, or a part in an event's place with the kind CL_EV_PART.
 *
 * Records are written into a mapped window; `count` is stored (release) only after a record is complete, so that a
 * process that dies at any instruction leaves a file whose first `count` records are whole. */
#ifndef CHIPLINE_TRACE_EVENT_LOG_H
#define CHIPLINE_TRACE_EVENT_LOG_H

#include <stdatomic.h>

#include "chipline/trace.h"

#define LOG_MAGIC "CLPART\r\n" /* 8 bytes and a NUL; a copy in text mode breaks it */

enum {
    LOG_ORDER = 0x01020304,
    LOG_HEADER_BYTES = 65536,  /* a multiple of every usual page size (4, 16, 64 KiB), so that windows can be mapped */
    LOG_WINDOW_RECORDS = 32768 /* times sizeof(cl_event): again a multiple of 64 KiB, about 3.1 MB */
};

typedef struct log_header {
    char magic[8];
    uint32_t version, order, header_bytes, record_bytes;
    int32_t rank, level;
    _Atomic uint64_t count, dropped;
} log_header;

static inline cl_event log_of_part(const cl_trace_part *p)
{
    cl_event e = {.kind = CL_EV_PART};
    memcpy(&e, p, sizeof *p);
    return e;
}
static inline cl_trace_part log_part(const cl_event *e)
{
    cl_trace_part p;
    memcpy(&p, e, sizeof p);
    return p;
}

_Static_assert(sizeof(cl_event) == 96,
               "an event log holds records of 96 bytes; TRACE.h5 must say what new columns are");
_Static_assert(sizeof(cl_trace_part) <= offsetof(cl_event, kind), "a part lies in front of a record's kind");
_Static_assert(LOG_WINDOW_RECORDS * sizeof(cl_event) % 65536 == 0, "windows start on page boundaries");
_Static_assert(sizeof(_Atomic uint64_t) == 8, "the counters lie in the file as plain 64-bit numbers");

#endif
