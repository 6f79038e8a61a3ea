/* kinds.h: what the rooms' files share about event kinds: the words that TRACE.h5 explains them with. */
#ifndef CHIPLINE_TRACE_KINDS_H
#define CHIPLINE_TRACE_KINDS_H

#include "chipline/trace.h"

const char *trace_level_name(cl_trace_level level);
const char *trace_kind_text(cl_event_kind k);

#endif
