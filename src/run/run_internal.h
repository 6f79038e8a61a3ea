/* run_internal.h: what the files of this room share. */
#ifndef CHIPLINE_RUN_INTERNAL_H
#define CHIPLINE_RUN_INTERNAL_H

#include <xxhash.h>

#include "chipline/run.h"
#include "chipline/sample.h"
#include "chipline/schedule.h"

/* What the last stage knows of the sequence in a slot. */
typedef struct output_slot {
    int32_t recent[CL_REPEAT_WINDOW]; /* the last tokens, oldest first */
    int n_recent;
    XXH3_state_t *digest;
} output_slot;

/* The end of the line: logits to samples, digests and the logits file. Only the last stage has one. */
typedef struct cl_output {
    cl_sampler *sampler;
    int vocab, allowed, members;
    int candidates;       /* that each chip passes on for the micro-batch being worked on; 0: logits are read whole */
    cl_candidate *merged; /* [members * CL_CANDIDATES] */
    output_slot *slots;   /* [limits.slots] */
    cl_sampled *sampled;  /* [limits.slots], by part */
    const cl_microbatch *mb; /* the one being worked on */
    cl_newfile logits;       /* .f NULL: not wanted */
    int64_t logits_rows;
} cl_output;

/* members: chips of the last stage; each has an output, the first one samples and writes (logits_path NULL on the
 * others). */
cl_code cl_output_create(cl_output *o, const cl_limits *limits, int allowed, int members, const char *logits_path,
                         cl_err *err);
/* Head and sampling of one micro-batch; o->sampled holds a result for each part. */
void cl_output_step(cl_output *o, cl_chip *chip, const cl_microbatch *mb, const float *x);
cl_code cl_output_finish(cl_output *o, cl_err *err); /* the logits file gets its final name */
void cl_output_free(cl_output *o, int slots);

struct cl_run {
    cl_line *line;
    cl_run_options opt;
    cl_model_file *file;
    cl_model model; /* spec and tensor list, kept when the file is closed */
    uint64_t checksum;
    char *source;
    cl_layout layout;       /* of one line */
    cl_placement placement; /* of one line */
    int replica, stage, member;
    int line_rank0;     /* first rank of this rank's line */
    bool first, last;   /* this rank's stage is the first, the last of its line */
    bool leads;         /* it is the first chip of its stage: it receives and hands over for the others */
    uint64_t *chosen;   /* --routing: [layers][experts], else NULL */
    cl_routing routing; /* the same */
    cl_rates rates;     /* measured, where a layout was to be chosen by them */
    cl_limits limits;
    cl_activations activations;
    cl_kv_format kv;
    cl_chip *chip;
    cl_trace *trace;
    char *part_path;
    cl_output out;
    double probe, load_s;
    int64_t clock_offset, clock_uncertainty;
    cl_trace_rank *rank_rows; /* rank 0: [size] */
    cl_rank_numbers *numbers; /* rank 0: [size] */

    /* while serving */
    uint64_t serve_start, serve_ns, busy_ns;
    int64_t requests, failed, prompt_tokens, generated_tokens;
    uint64_t prompt_ns, decode_ns;
    double *ttft; /* rank 0: [requests], s */
    int64_t ttft_cap;
    cl_trace_request *request_rows; /* rank 0, when tracing */
    int64_t request_cap;
};

/* --- requests that other lines serve (remote.c) --- */

/* Rank 0. capacity: most tokens of the sequence, the prompt's included. drop: without finishing what they have. */
cl_code cl_remote_send(cl_run *r, int to, int64_t number, const cl_request *q, int capacity, cl_err *err);
cl_code cl_remote_cancel(cl_run *r, int to, int64_t number, cl_err *err);
cl_code cl_remote_end(cl_run *r, bool drop, cl_err *err);
/* A token that a line has sampled for one of its requests; last: the line has finished with it. failed: the line has
 * ended. */
typedef struct cl_remote_token {
    int line;
    bool failed, last;
    int64_t number;
    int32_t id;
    uint64_t digest;
} cl_remote_token;
/* The next one if it is there. note: working memory, the caller's. */
bool cl_remote_recv(cl_run *r, cl_buf *note, cl_remote_token *t);
/* First chip of another line: leads it with requests from rank 0. */
cl_code cl_remote_lead(cl_run *r, cl_code (*lead)(cl_run *r, cl_source *source, cl_err *err), cl_err *err);

/* Rank 0: keeps what the numbers and the trace need of an ended request. */
cl_code cl_run_note_request(cl_run *r, const cl_request *q, const cl_result *res, cl_err *err);
/* TRACE.rankNNNN.part, or TRACE.run.part for rank -1; caller frees. */
char *cl_part_path(const char *trace_path, int rank, cl_err *err);
/* Rank 0, before the first token: what a later recovery needs, from rank_rows. */
cl_code cl_run_note_ranks(cl_run *r, cl_err *err);
/* Collective: part files of all ranks to TRACE.h5 on rank 0. */
cl_code cl_run_collect(cl_run *r, cl_err *err);

#endif
