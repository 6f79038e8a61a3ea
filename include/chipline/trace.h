/* trace.h: the recorder, its event logs, and TRACE.h5.
 *
 * Boundary: the recorder knows neither MPI nor models. A rank's events go into a mapped file, its event log, so that
 * they survive the death of the rank; at the end one rank turns the event logs, its own and those it was sent, into
 * TRACE.h5; of a run that died they are turned into it later. The schema, with units, is written down in
 * analysis/README.md; version CL_TRACE_VERSION. Local. */
#ifndef CHIPLINE_TRACE_H
#define CHIPLINE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/status.h"
#include "chipline/util.h"

enum { CL_TRACE_VERSION = 2 };

typedef enum cl_trace_level { CL_TRACE_OFF, CL_TRACE_STAGE, CL_TRACE_LAYER, CL_TRACE_KERNEL } cl_trace_level;

typedef enum cl_event_kind {
    CL_EV_STEP,     /* stage level: one micro-batch through this chip, first to last instruction */
    CL_EV_RECV,     /* stage: waiting for and taking a message; peer, msg_bytes */
    CL_EV_SEND,     /* stage: handing a message over; peer, msg_bytes */
    CL_EV_SAMPLE,   /* stage: every sampling of a micro-batch */
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
    CL_EV_KINDS,
    CL_EV_PART = CL_EV_KINDS /* in an event log alone: no event but a cl_trace_part */
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
    int32_t tokens;          /* in the micro-batch */
    int32_t parts;           /* sequences in it */
    int32_t peer;            /* rank of the other side of a message */
    int32_t experts;         /* distinct experts read */
    int32_t gathers;         /* exchanges inside the stage that are part of it */
    int32_t gather_messages; /* that came to this chip in them: none where memory is shared */
} cl_event;

/* One part of a micro-batch, as the schedule made it: a row of /parts. A micro-batch's parts are in their order in
 * it. */
typedef struct cl_trace_part {
    int64_t microbatch;  /* cl_microbatch.id, of this rank's line */
    int32_t rank;        /* that scheduled it: the first of its line; filled in when the file is written */
    int32_t request;     /* number of the request, as in /requests */
    int32_t slot;        /* place in the line */
    int32_t position;    /* of its first token */
    int32_t tokens;      /* ids that go through the line */
    int32_t outputs;     /* of them followed by a sample, the last ones */
    int32_t guesses;     /* of them guessed, the last ones */
    int32_t forked_from; /* the slot whose cache it begins with; -1: its own */
    int32_t flags;       /* CL_PART_ of microbatch.h */
    int32_t unused;      /* 0: a part has no gaps; not stored */
} cl_trace_part;

typedef struct cl_trace cl_trace;

/* Creates the event log `path`: a header and room for the first events, mapped, about 3.2 MB on the disk and in memory.
 * Level CL_TRACE_OFF makes, maps and reserves nothing and gives NULL, which is allowed everywhere and records
 * nothing. */
cl_code cl_trace_open(cl_trace **out, const char *path, int rank, cl_trace_level level, cl_err *err);
/* Is an event of this level recorded? */
bool cl_trace_on(const cl_trace *t, cl_trace_level level);
/* Copies *e: no lock, and no system call but once in 32,768 records, when the file grows and the next piece of it is
 * mapped. One thread. Never fails: when the disk is full what comes is counted as dropped. */
void cl_trace_add(cl_trace *t, const cl_event *e);
/* The same for a part, at every level. */
void cl_trace_add_part(cl_trace *t, const cl_trace_part *p);
uint64_t cl_trace_dropped(const cl_trace *t);
uint64_t cl_trace_count(const cl_trace *t); /* events and parts recorded */
/* Bytes of memory that a recorder keeps mapped: any; this one (0: NULL). */
uint64_t cl_trace_bytes(void);
uint64_t cl_trace_mapped(const cl_trace *t);
void cl_trace_close(cl_trace *t); /* the event log stays */

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

/* --- event logs, read back (of this run, or of one that died) --- */
/* The name of a rank's event log beside the trace, TRACE.h5.rank0000.part, or for rank -1 that of what rank 0 notes
 * about the run, TRACE.h5.run.part. Malloced. */
char *cl_event_log_path(const char *trace_path, int rank, cl_err *err);
typedef struct cl_event_log cl_event_log;
cl_code cl_event_log_open(cl_event_log **out, const char *path, int *rank, uint64_t *n_records, cl_err *err);
/* Up to max records from number `first` on, as they were recorded; *n how many. Those of kind CL_EV_PART are parts, to
 * be handed to cl_trace_file_events like the events. A torn last record is not returned. */
cl_code cl_event_log_read(cl_event_log *l, uint64_t first, uint64_t max, cl_event *records, uint64_t *n, cl_err *err);
/* Records that its rank had no room for. */
uint64_t cl_event_log_dropped(const cl_event_log *l);
void cl_event_log_close(cl_event_log *l);

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
    /* arithmetic of this rank's threads on numbers in their caches, a multiplication and an addition are two
     * operations; 0: not measured */
    double peak_int8_ops_per_s, peak_f32_ops_per_s;
    uint64_t events; /* in its table: counted when the file is written */
    uint64_t dropped;
    int32_t host_cores; /* cores of the host that the job may use; 0: unknown */
} cl_trace_rank;

typedef struct cl_trace_request { /* one row of /requests; times on rank 0's clock, ns */
    int32_t request;              /* its number: the one that its parts name */
    char id[64];
    int32_t prompt_tokens, completion_tokens;
    uint64_t arrived_ns, started_ns, first_token_ns, finished_ns;
    char finish_reason[16];
} cl_trace_request;

typedef struct cl_trace_file cl_trace_file;
/* `run` is a JSON object text describing the run (stored verbatim as /run and as attributes of the root where
 * scalar). The final name appears at commit. */
cl_code cl_trace_file_create(cl_trace_file **out, const char *path, const char *run_json, cl_err *err);
/* Rank rows in rank order; records of one rank's event log in as many runs as wanted: its events become a table of its
 * own, its parts rows of /parts. */
cl_code cl_trace_file_rank(cl_trace_file *f, const cl_trace_rank *r, cl_err *err);
cl_code cl_trace_file_events(cl_trace_file *f, int rank, const cl_event *records, uint64_t n, cl_err *err);
cl_code cl_trace_file_requests(cl_trace_file *f, const cl_trace_request *r, uint64_t n, cl_err *err);
/* How often each expert was chosen: [layers of the model][experts]. At most once. */
cl_code cl_trace_file_routing(cl_trace_file *f, const uint64_t *chosen, int layers, int experts, cl_err *err);
cl_code cl_trace_file_commit(cl_trace_file *f, cl_err *err);
void cl_trace_file_drop(cl_trace_file *f);
/* The same read back from a TRACE.h5; *chosen is malloced, the caller frees. */
cl_code cl_trace_routing_read(const char *path, uint64_t **chosen, int *layers, int *experts, cl_err *err);

/* --- a run that dies --- */
/* Rank 0, before the first token: what the event logs don't say, beside them. */
cl_code cl_trace_note_run(const char *trace_path, const char *run_json, const cl_trace_rank *ranks, uint32_t n,
                          cl_err *err);
/* TRACE.h5 from that note and the event logs; a rank whose log is lost has no events. The files stay. */
typedef struct cl_trace_recovered {
    int ranks, logs; /* of the run; found */
    uint64_t events, parts;
} cl_trace_recovered;
cl_code cl_trace_recover(const char *trace_path, cl_trace_recovered *out, cl_err *err);

#endif
