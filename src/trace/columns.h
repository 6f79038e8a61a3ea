/* columns.h: the rows of TRACE.h5: what each column is called, means and is counted in, once for writing and
 * describing. */
#ifndef CHIPLINE_TRACE_COLUMNS_H
#define CHIPLINE_TRACE_COLUMNS_H

#include "chipline/store.h"
#include "chipline/trace.h"

typedef struct kind_row {
    int32_t id;
    char name[16], level[8], description[128];
} kind_row;

extern const cl_store_row trace_event_row, trace_part_row, trace_rank_row, trace_request_row, trace_kind_row;

#endif
