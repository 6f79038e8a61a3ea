/* file.h: TRACE.h5 while it is written, for the files of this room that put something into it. */
#ifndef CHIPLINE_TRACE_FILE_H
#define CHIPLINE_TRACE_FILE_H

#include "columns.h"

enum { TRACE_PIECE = 4096 /* rows that are put into the file together, and a chunk of its tables */ };

struct cl_trace_file {
    cl_store *store;
    cl_store_node events; /* the group */
    cl_store_table table; /* the open event table, of table_rank; node.id -1: none */
    cl_store_table parts;
    int table_rank;
    cl_event *kept; /* [TRACE_PIECE] records on their way to the tables, events and parts apart */
    cl_trace_part *kept_parts;
    cl_trace_rank *ranks;
    size_t n_ranks, cap_ranks;
    cl_trace_request *requests;
    size_t n_requests;
};

/* The message of a failed write with path and remedy; CL_E_RUN. */
cl_code trace_unwritten(const cl_trace_file *f, cl_err *err);

#endif
