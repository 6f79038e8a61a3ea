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
    int vocab, allowed;
    output_slot *slots;     /* [limits.slots] */
    cl_sampled *sampled;    /* [limits.slots], by part */
    const cl_microbatch *mb; /* the one being worked on */
    cl_newfile logits;      /* .f NULL: not wanted */
    int64_t logits_rows;
} cl_output;

cl_code cl_output_create(cl_output *o, const cl_limits *limits, int allowed, const char *logits_path, cl_err *err);
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
    cl_placement placement;
    int stage;
    bool first, last;
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
    double *ttft;             /* rank 0: [requests], s */
    int64_t ttft_cap;
    cl_trace_request *request_rows; /* rank 0, when tracing */
    int64_t request_cap;
};

/* Rank 0: keeps what the numbers and the trace need of an ended request. */
cl_code cl_run_note_request(cl_run *r, const cl_request *q, const cl_result *res, cl_err *err);
/* TRACE.rankNNNN.part, or TRACE.run.part for rank -1; caller frees. */
char *cl_part_path(const char *trace_path, int rank, cl_err *err);
/* Rank 0, before the first token: what a later recovery needs, from rank_rows. */
cl_code cl_run_note_ranks(cl_run *r, cl_err *err);
/* Collective: part files of all ranks to TRACE.h5 on rank 0. */
cl_code cl_run_collect(cl_run *r, cl_err *err);

#endif
