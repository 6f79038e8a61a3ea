/* request.h: what enters the line and what comes out, whatever the source (a terminal, a batch file, later a server).
 *
 * Boundary: rank 0 only; no MPI. A request owns all it points to. */
#ifndef CHIPLINE_REQUEST_H
#define CHIPLINE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/chat.h"
#include "chipline/json.h"
#include "chipline/microbatch.h"
#include "chipline/status.h"
#include "chipline/tokenizer.h"

typedef struct cl_request {
    char *id;        /* UTF-8 */
    int32_t *prompt; /* ids */
    int n_prompt;
    /* ids that it had generated before it was interrupted, to go on from: read like a prompt, already given out */
    int32_t *earlier;
    int n_earlier;
    int max_tokens; /* most tokens to generate, earlier ones included, >= 1 */
    bool ignore_eos;
    bool want_rows;      /* logits of every position are computed, digested (and written, with --logits) */
    bool want_digest;    /* the result row has the digest */
    bool want_reasoning; /* the result row has what the model thought, if it did */
    const cl_chat *chat; /* the prompt is a chat: its reply is taken apart; NULL: all is text. Borrowed */
    cl_sampling sampling;
    int n_stops;
    char **stops; /* texts that end the output; not shown */
    uint64_t arrived_ns;
    cl_err error; /* code CL_OK: runnable; else why this row can't run, or could not go on */
    void *owner;  /* the source's own */
    /* Set by any thread at any moment: nobody wants the rest. It ends with what it has ("cancelled"). */
    _Atomic bool cancelled;
} cl_request;
void cl_request_free(cl_request *r); /* r itself too; NULL is fine */

typedef struct cl_result {
    cl_buf text;           /* the answer */
    cl_buf reasoning;      /* what came before it */
    const int32_t *tokens; /* generated ids, the ending one included; the session's own */
    int n_tokens;
    const char *finish_reason;                        /* "stop", "length", "cancelled", "error" */
    uint64_t started_ns, first_token_ns, finished_ns; /* 0: it did not come to that */
    uint64_t digest;                                  /* XXH3-64 of all output rows, when want_rows */
    int64_t number;                                   /* counts the requests of a session from 0 */
} cl_result;

/* Where requests come from and where what they give goes, while the line runs. Any function but next and done may be
 * NULL. An error of text, reasoning or done means that results cannot be kept: it ends the run. */
typedef struct cl_source {
    void *ctx;
    /* The next request (ownership passes), NULL if none now. wait_ms > 0: may wait that long for one. *ended: none will
     * come. */
    cl_request *(*next)(void *ctx, int wait_ms, bool *ended);
    /* New text of a request (whole UTF-8 characters), as it is generated. */
    cl_code (*text)(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err);
    /* The same for reasoning. */
    cl_code (*reasoning)(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err);
    /* A sampled id (and the digest so far, when rows are wanted), the last one or not, before its text. */
    void (*token)(void *ctx, const cl_request *r, int32_t id, uint64_t digest, bool last);
    /* It ended: the request passes back to the source, which frees it; the result is the caller's. */
    cl_code (*done)(void *ctx, cl_request *r, const cl_result *result, cl_err *err);
    /* Serving has stopped before this request began: it passes back, the one that was given last first, and may be
     * given again. NULL: it is freed. */
    void (*back)(void *ctx, cl_request *r);
} cl_source;

/* What requests without their own options get, and what is needed to read them. */
typedef struct cl_request_defaults {
    const cl_tokenizer *tokenizer; /* NULL: only ids can be given */
    const cl_chat *chat;           /* NULL: messages can't be given */
    const cl_err *no_chat;         /* why not, where there is a reason; or NULL */
    cl_sampling sampling;
    int max_tokens;
    bool ignore_eos, want_rows, want_digest, want_reasoning;
    int n_stops;
    char **stops;       /* borrowed */
    int context, vocab; /* prompts must be shorter than context; ids below vocab */
} cl_request_defaults;

/* From text, from a JSON object (the request row of a batch file), from ids. Errors of the request itself are put
 * into r->error;
 * NULL only when memory ran out. index names a row without an id. */
cl_request *cl_request_from_text(const cl_request_defaults *d, const char *id, const char *text, size_t n);
cl_request *cl_request_from_messages(const cl_request_defaults *d, const char *id, const cl_message *m, int n);
cl_request *cl_request_from_ids(const cl_request_defaults *d, const char *id, const int32_t *ids, int n);
cl_request *cl_request_from_row(const cl_request_defaults *d, const char *line, size_t n, int64_t index);
/* The result row, one line of JSON without newline, appended to *out. */
cl_code cl_result_row(const cl_request *r, const cl_result *result, cl_buf *out, cl_err *err);

#endif
