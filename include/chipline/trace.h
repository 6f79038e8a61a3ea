/* trace.h: the recorder (no I/O calls and no locks while tokens flow) and TRACE.h5.
 *
 * Boundary: the recorder knows neither MPI nor models. A rank's events go into a mapped part file, so that they
 * survive the death of the rank; at the end one rank turns the part files, its own and those it was sent, into
 * TRACE.h5. The schema, with units, is written down in analysis/README.md; version CL_TRACE_VERSION. Local. */
#ifndef CHIPLINE_TRACE_H
#define CHIPLINE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/status.h"
#include "chipline/util.h"

enum { CL_TRACE_VERSION = 1 };

typedef enum cl_trace_level { CL_TRACE_OFF, CL_TRACE_STAGE, CL_TRACE_LAYER, CL_TRACE_KERNEL } cl_trace_level;

typedef enum cl_event_kind {
    CL_EV_STEP,     /* stage level: one micro-batch through this chip, first to last instruction */
    CL_EV_RECV,     /* stage: waiting for and taking a message; peer, msg_bytes, waits_for */
    CL_EV_SEND,     /* stage: handing a message over; peer, msg_bytes */
    CL_EV_SAMPLE,   /* stage: sampling */
    CL_EV_SCHEDULE, /* stage: choosing the next micro-batch (rank 0) */
    CL_EV_IDLE,     /* stage: nothing to do, no request anywhere */
    CL_EV_PROBE,    /* stage: reading memory to learn its bandwidth; weight_bytes */
    CL_EV_EMBED,    /* layer */
    CL_EV_LAYER,    /* layer: one layer; weight_bytes, kv_bytes, experts */
    CL_EV_HEAD,     /* layer: final norm and output head */
    CL_EV_QKV,      /* kernel level, within a layer: norm, q, k, v, rotation, cache write */
    CL_EV_ATTEND,   /* kernel: scores and values over the cache */
    CL_EV_ATTN_OUT, /* kernel */
    CL_EV_ROUTE,    /* kernel */
    CL_EV_FFN,      /* kernel: gate, up, activation, down; experts or dense */
    CL_EV_GATHER,   /* kernel: exchanging numbers with the other chips of the stage; msg_bytes */
    CL_EV_KINDS
} cl_event_kind;
const char *cl_event_name(cl_event_kind k);
cl_trace_level cl_event_level(cl_event_kind k);

/* One event, as recorded and as stored. Times: nanoseconds of this host's CLOCK_MONOTONIC. -1 or 0 where not
 * applicable. */
typedef struct cl_event {
    uint64_t start_ns, end_ns;
    uint64_t cpu_ns;       /* CPU time of the recording thread between start and end */
    uint64_t weight_bytes; /* weight bytes read, each distinct byte once (by all threads of the rank) */
    uint64_t kv_bytes;     /* KV cache bytes read */
    uint64_t msg_bytes;    /* sent or received; in layers, embedding and head: got in gathers */
    /* of the time between start and end, spent in exchanges inside the stage: waiting for the others, mostly */
    uint64_t gather_ns;
    int64_t microbatch; /* cl_microbatch.id */
    int32_t kind;       /* cl_event_kind */
    int32_t layer;
    int32_t tokens;    /* in the micro-batch */
    int32_t parts;     /* sequences in it */
    int32_t peer;      /* rank of the other side of a message */
    int32_t waits_for; /* RECV: the rank whose message ended the wait; else -1 */
    int32_t experts;   /* distinct experts read */
    int32_t gathers;   /* exchanges inside the stage that are part of it */
} cl_event;

typedef struct cl_trace cl_trace;

/* Creates the part file `path` (sparse; grows in windows). A NULL trace is allowed everywhere and records nothing. */
cl_code cl_trace_open(cl_trace **out, const char *path, int rank, cl_trace_level level, cl_err *err);
/* Is an event of this level recorded? */
bool cl_trace_on(const cl_trace *t, cl_trace_level level);
/* Copies *e. Never fails: when the disk is full events are counted as dropped. */
void cl_trace_add(cl_trace *t, const cl_event *e);
uint64_t cl_trace_dropped(const cl_trace *t);
uint64_t cl_trace_count(const cl_trace *t);
/* Bytes of memory the recorder itself keeps mapped. */
uint64_t cl_trace_mapped(const cl_trace *t);
void cl_trace_close(cl_trace *t); /* the part file stays */

/* Begin and end of an event, for the common case: cl_mark m = cl_trace_mark(t, level); ...; cl_event e = {...};
 * cl_trace_end(t, m, &e) fills the three times and adds it. With recording off both cost one branch. cl_trace_end
 * returns the mark of its own moment: events that follow each other (the layers of a step) begin with it, so that the
 * clocks are read once for both. */
typedef struct cl_mark {
    uint64_t ns, cpu;
    bool on;
} cl_mark;
cl_mark cl_trace_mark(const cl_trace *t, cl_trace_level level);
cl_mark cl_trace_end(cl_trace *t, cl_mark m, cl_event *e);

/* --- part files, read back (of this run, or of one that died) --- */
typedef struct cl_part_file cl_part_file;
cl_code cl_part_file_open(cl_part_file **out, const char *path, int *rank, uint64_t *n_events, cl_err *err);
/* Up to max events from index `first`; *n how many. A torn last event is not returned. */
cl_code cl_part_file_read(cl_part_file *p, uint64_t first, uint64_t max, cl_event *events, uint64_t *n, cl_err *err);
/* Of the rank that recorded: its host (borrowed) and the events it had no room for. */
const char *cl_part_file_host(const cl_part_file *p);
uint64_t cl_part_file_dropped(const cl_part_file *p);
void cl_part_file_close(cl_part_file *p);

/* --- TRACE.h5 --- */
typedef struct cl_trace_rank { /* one row of /ranks */
    int32_t rank, replica, stage, member, threads;
    char host[64], cpu[64];
    int64_t clock_offset_ns;      /* add to this rank's times to get rank 0's clock */
    int64_t clock_uncertainty_ns; /* half of the best round trip */
    uint64_t slice_bytes, kv_bytes, baseline_bytes, peak_rss_bytes;
    uint64_t budget_bytes; /* memory of one chip for slice and cache; 0: no limit was given */
    int32_t first_layer, n_layers;
    /* read bandwidth of this rank's threads, all ranks of the host probing at once; 0: not probed */
    double probe_bytes_per_s;
    uint64_t events, dropped;
    int32_t host_cores; /* cores of the host that the job may use; 0: unknown */
} cl_trace_rank;

typedef struct cl_trace_request { /* one row of /requests; times on rank 0's clock, ns */
    char id[64];
    int32_t prompt_tokens, completion_tokens;
    uint64_t arrived_ns, started_ns, first_token_ns, finished_ns;
    char finish_reason[16];
} cl_trace_request;

typedef struct cl_trace_file cl_trace_file;
/* `run` is a JSON object text describing the run (stored verbatim as /run and as attributes of the root where
 * scalar). The final name appears at commit. */
cl_code cl_trace_file_create(cl_trace_file **out, const char *path, const char *run_json, cl_err *err);
/* Rank rows in rank order; events of one rank in as many runs as wanted. */
cl_code cl_trace_file_rank(cl_trace_file *f, const cl_trace_rank *r, cl_err *err);
cl_code cl_trace_file_events(cl_trace_file *f, int rank, const cl_event *events, uint64_t n, cl_err *err);
cl_code cl_trace_file_requests(cl_trace_file *f, const cl_trace_request *r, uint64_t n, cl_err *err);
/* How often each expert was chosen: [layers of the model][experts]. At most once. */
cl_code cl_trace_file_routing(cl_trace_file *f, const uint64_t *chosen, int layers, int experts, cl_err *err);
cl_code cl_trace_file_commit(cl_trace_file *f, cl_err *err);
void cl_trace_file_drop(cl_trace_file *f);
/* The same read back from a TRACE.h5; *chosen is malloced, the caller frees. */
cl_code cl_trace_routing_read(const char *path, uint64_t **chosen, int *layers, int *experts, cl_err *err);

#endif
