/* flight.h: one request while it is in a session: its sequence, its result as far as it is, its text. Inside run/. */
#ifndef CHIPLINE_RUN_FLIGHT_H
#define CHIPLINE_RUN_FLIGHT_H

#include "chipline/request.h"
#include "chipline/schedule.h"

typedef struct flight {
    struct flight *next; /* of the session's, in the order of their coming */
    int64_t number;
    int line, slot; /* line 0: this one; slot -1: not in this line */
    cl_request *request;
    cl_sequence seq; /* its ids, the only copy */
    cl_result result;
    cl_reply reply;
    size_t shown, thought; /* bytes of text and reasoning given out */
    bool over;             /* it has ended, but its last samples are still under way */
} flight;

/* Takes the request over. NULL and the request freed where memory ran out. */
flight *flight_create(cl_request *r, int context, const cl_tokenizer *t, cl_err *err);
void flight_free(flight *f);

/* New text and reasoning of an id (tokenizer needed), given to the source. *stop: a stop text ends it here; what comes
 * behind it is no text any more. What goes wrong with the text itself goes to f->request->error; what is returned ends
 * the run. */
cl_code flight_add_text(flight *f, int32_t id, const cl_source *to, bool *stop, cl_err *err);
/* The rest of it; cut: it broke off. */
cl_code flight_finish_text(flight *f, bool cut, const cl_source *to, cl_err *err);

#endif
