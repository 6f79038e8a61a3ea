/* session.h: the requests in flight: their ids, texts, stops and ends, and the schedule. It lives on rank 0 (and on the
 * first chip of every further line), knows no MPI and no chip, and outlives serving: between two micro-batches it can
 * be put aside, looked at and gone on with.
 *
 * Who runs the line turns around it: add requests while there is room, take the next micro-batch, give back its
 * samples. Lines beside this one (replicas) are further places that a request can be sent to; their tokens come back by
 * cl_session_token. What requests give goes to the source's functions, called from inside add, samples, token, sweep
 * and stop. One request's error ends that request alone; what is returned as an error is that results cannot be kept,
 * or that memory ran out for the session itself. All local; one thread. */
#ifndef CHIPLINE_SESSION_H
#define CHIPLINE_SESSION_H

#include "chipline/request.h"

/* Another line takes a request (ids [n_ids]: its prompt, then what it has generated; `most` further ones at most) or
 * hears that it is no longer wanted. number: the request's. */
typedef struct cl_other_lines {
    void *ctx;
    cl_code (*send)(void *ctx, int line, int64_t number, const cl_request *r, const int32_t *ids, int n_ids, int most,
                    cl_err *err);
    cl_code (*cancel)(void *ctx, int line, int64_t number, cl_err *err);
} cl_other_lines;

typedef struct cl_session_options {
    cl_limits limits;
    int stages;                    /* of the line: as many micro-batches keep it busy */
    int lines;                     /* this one and those beside it, >= 1 */
    cl_other_lines others;         /* where lines > 1 */
    const cl_tokenizer *tokenizer; /* ids to text; NULL: results have ids only. Borrowed */
    int n_eos;
    const int32_t *eos;    /* [n_eos] ids that end a text; copied */
    uint64_t (*now)(void); /* the clock, ns; NULL: cl_now_ns */
    /* A request's number where somebody else counts them; NULL: they are counted from 0 as they come. */
    int64_t (*number)(const cl_request *r);
} cl_session_options;

typedef struct cl_session cl_session;
cl_code cl_session_create(cl_session **out, const cl_session_options *opt, cl_err *err);
void cl_session_free(cl_session *s); /* requests in flight are freed, their source hears nothing */

/* Where results go from now on; its `next` is not looked at. Copied. */
void cl_session_set_source(cl_session *s, const cl_source *source);
/* The moment before which no request counts as having arrived (loading is not waiting), ns. */
void cl_session_set_start(cl_session *s, uint64_t start_ns);

/* --- requests --- */

/* Is there room for one more? This line has room while a slot is free; another one may have one request waiting, so
 * that a slot which becomes free need not wait for rank 0. */
bool cl_session_has_room(const cl_session *s);
/* Takes the request (ownership passes, also on failure) to the line that has fewest. One that carries an error ends at
 * once with it. */
cl_code cl_session_add(cl_session *s, cl_request *r, cl_err *err);
/* Ends the requests that were cancelled since the last call; what is in the line of them comes back to nothing. */
cl_code cl_session_sweep(cl_session *s, cl_err *err);
int cl_session_active(const cl_session *s); /* requests in flight, all lines */
int cl_session_here(const cl_session *s);   /* in this line */

/* --- this line --- */

/* The next micro-batch, false if nothing is ready. mb has room as for cl_schedule_next. */
bool cl_session_next(cl_session *s, cl_microbatch *mb);
/* What the session knows of the parts of the last micro-batch that it gave: numbers of their requests, [n_parts]. */
const int64_t *cl_session_part_requests(const cl_session *s);
/* Samples of the oldest micro-batch that is under way. */
cl_code cl_session_samples(cl_session *s, const cl_samples *samples, cl_err *err);
int cl_session_in_flight(const cl_session *s); /* micro-batches given and not yet come back */

/* --- lines beside this one --- */

/* An id that another line has sampled; last: it is done with the request. failed: why it could not go on, or NULL.
 * What belongs to no request any more is ignored. */
cl_code cl_session_token(cl_session *s, int line, int64_t number, int32_t id, uint64_t digest, bool last,
                         const char *failed, cl_err *err);

/* Lines beside have let go of all they had, since serving was stopped: it is sent to them again, with the ids that it
 * has by now. */
cl_code cl_session_resend(cl_session *s, cl_err *err);

/* --- numbers --- */

/* Sums over the requests that have ended, and times. A request that ended with an error counts as failed and nothing
 * else. prompt_ns: while any request waited for its first id; decode_ns: while any had one and was not yet through. */
typedef struct cl_session_stats {
    int64_t requests, failed, prompt_tokens, generated_tokens;
    int64_t first_tokens; /* of generated_tokens, those that ended a prompt */
    uint64_t prompt_ns, decode_ns;
    double ttft_s; /* median time from arriving to the first id; 0: none had one */
} cl_session_stats;
cl_session_stats cl_session_get_stats(cl_session *s);
/* Tokens per second: of prompts while any was pending; of ids after the first ones while any sequence decoded. */
double cl_prompt_rate(const cl_session_stats *s);
double cl_decode_rate(const cl_session_stats *s);

/* A request in flight, as somebody who looks on, or saves, sees it. Borrowed, until the session goes on. */
typedef struct cl_session_view {
    int64_t number;
    const cl_request *request;
    int line, slot;        /* slot -1: another line's */
    const int32_t *tokens; /* [n_tokens] prompt and all that was generated */
    int n_tokens, n_prompt;
    int n_cached; /* positions that are in the cache, or on their way */
    const cl_result *result;
} cl_session_view;
/* The i-th of cl_session_active. */
cl_session_view cl_session_look(const cl_session *s, int i);

#endif
