/* run_internal.h: what the files of this room share. */
#ifndef CHIPLINE_RUN_INTERNAL_H
#define CHIPLINE_RUN_INTERNAL_H

#include "chipline/probe.h"
#include "chipline/model_file.h"
#include "chipline/run.h"

/* What is decided before anything is loaded: the same on every rank. */
typedef struct run_plan {
    cl_model model; /* spec and tensor list */
    uint64_t checksum;
    char *source;
    cl_layout layout;        /* of one line */
    cl_placement placement;  /* of one line */
    uint64_t *chosen;        /* --routing: [layers][experts], else NULL */
    cl_routing routing;      /* the same */
    cl_rates rates;          /* measured, where a layout was to be chosen by them */
    cl_buffer_count buffers; /* for the budget: the same everywhere */
    int most_threads;        /* of a rank */
    int most_ranks_apart;    /* ranks that are not on the host of all: 0, they share one */
    cl_limits limits;
    cl_activations activations;
    cl_kv_format kv;
} run_plan;

/* Where this rank is in it. */
typedef struct run_seat {
    int replica, stage, member;
    int line_rank0;   /* first rank of this rank's line */
    bool first, last; /* its stage is the first, the last of its line */
    bool leads;       /* it is the first chip of its stage: it receives and hands over for the others */
    const cl_stage *at;
} run_seat;

/* The events of this rank, and what is known of all for the trace file. */
typedef struct run_trace {
    cl_trace *recorder; /* NULL: no trace, or not of this rank */
    char *log_path;
    bool started;               /* there is something in it */
    double probe;               /* bytes/s */
    double peak_int8, peak_f32; /* operations/s */
    int64_t clock_offset, clock_uncertainty;
    cl_trace_rank *ranks;       /* rank 0: [size] */
    cl_trace_request *requests; /* rank 0: [n_requests] */
    int64_t n_requests, cap;
} run_trace;

typedef struct logits_file logits_file;

struct cl_run {
    cl_ranks *ranks;
    cl_line *line;
    cl_notes *notes;
    cl_run_options opt;
    char *strings; /* memory of what opt points to on other ranks than 0 */
    cl_model_file *file;
    run_plan plan;
    run_seat seat;
    cl_chip_table chip;
    run_trace trace;
    logits_file *logits; /* NULL: not wanted here */
    cl_samples samples;  /* last stage */
    cl_extent *extents;  /* [n_extents] of this rank's slice, until it is loaded */
    int n_extents;
    uint64_t counted_bytes; /* that this rank allocates for the run, */
    uint64_t before_bytes;  /* and its resident memory before that */
    double load_s;
    uint64_t serve_start, serve_ns, busy_ns; /* of the last serving; of all servings since load */
    cl_session_stats session;                /* rank 0, when serving has ended */
    cl_rank_stats *stats;                    /* rank 0: [size] */
};

/* Rank of the first chip of a stage of this rank's line. */
static inline int head_of(const cl_run *r, int stage)
{
    return r->seat.line_rank0 + r->plan.placement.stages[stage].first_rank;
}

/* What rank 0 was told becomes what all were told (options.c). Collective. */
cl_code options_share(cl_run *r, const cl_run_options *opt, cl_err *err);
cl_place_options options_of_place(const cl_run *r);

/* One step that all ranks take together. `wanted` (NULL: always) must say the same everywhere. Each phase ends with an
 * agreement, and begins only if that was good: so a phase may begin with collective calls. */
typedef struct phase {
    const char *name; /* "loading": for messages about a rank that does not come back from it */
    cl_code (*run)(cl_run *r, cl_err *err);
    bool (*wanted)(const cl_run *r);
} phase;
cl_code run_phases(cl_run *r, const phase *phases, int n, cl_err *err);
enum { PLAN_PHASES = 7, LOAD_PHASES = 6 };
extern const phase plan_phases[PLAN_PHASES]; /* planning.c */
extern const phase load_phases[LOAD_PHASES]; /* loading.c */

/* --- the loop (loop.c) --- */

/* The first chip of a line runs it for a session's requests. */
cl_code loop_lead(cl_run *r, cl_session *s, cl_source *source, cl_err *err);

/* --- requests that other lines serve (lines.c) --- */

/* Rank 0: as cl_other_lines; ctx is the run. */
cl_code lines_send(void *run, int line, int64_t number, const cl_request *r, const int32_t *ids, int n_ids, int most,
                   cl_err *err);
cl_code lines_cancel(void *run, int line, int64_t number, cl_err *err);
/* What came from other lines. */
typedef struct lines_news {
    bool got;    /* something */
    bool failed; /* a line cannot go on; its own error will say why */
    int ended;   /* lines that have let go of everything, since lines_end */
} lines_news;

/* Takes the tokens that are there into the session. note: working memory, the caller's. */
cl_code lines_take(cl_run *r, cl_session *s, cl_buf *note, lines_news *news, cl_err *err);
/* Ends the other lines, and takes what they still say. drop: without finishing what they have. */
cl_code lines_end(cl_run *r, cl_session *s, bool drop, cl_buf *note, cl_err *err);
/* First chip of another line: leads it with requests from rank 0. */
cl_code lines_serve(cl_run *r, cl_err *err);
/* The number that rank 0 gave to a request of another line's session. */
int64_t lines_number(const cl_request *r);

/* --- the logits file (logits.c) --- */
cl_code logits_open(logits_file **out, const char *path, int vocab, cl_err *err);
cl_row_observer logits_observer(logits_file *f);
cl_code logits_commit(logits_file *f, cl_err *err); /* it gets its final name */
void logits_free(logits_file *f);

/* --- numbers and trace --- */
cl_rank_stats stats_of_rank(const cl_run *r);
cl_run_stats run_stats(const cl_run *r); /* rank 0, when the ranks' are there */
cl_trace_rank trace_row(const cl_run *r, const cl_rank_stats *s);
/* Rank 0: keeps what the trace needs of an ended request. */
cl_code trace_note_request(cl_run *r, const cl_request *q, const cl_result *res, cl_err *err);
/* Clocks, the rate that this rank's slice can be read with, and what a later recovery needs. Collective. */
cl_code trace_start(cl_run *r, cl_err *err);
/* The description of the run, as JSON text; caller frees, NULL: no memory. */
char *trace_describe(const cl_run *r, bool ended);
/* Rank 0, before the first token: what a later recovery needs, from trace.ranks. */
cl_code trace_note_ranks(cl_run *r, cl_err *err);
bool trace_wanted(const cl_run *r); /* of the run, as its phases ask */
cl_code trace_open(cl_run *r, cl_err *err);
/* Collective: event logs of all ranks to TRACE.h5 on rank 0. */
cl_code trace_collect(cl_run *r, cl_err *err);

#endif
