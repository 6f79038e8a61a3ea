/* run.h: a model on a line, running: joins chip and line, turns the loop, keeps the trace and the numbers.
 *
 * Boundary: below it nobody sees requests. All functions but those marked local are collective. */
#ifndef CHIPLINE_RUN_H
#define CHIPLINE_RUN_H

#include "chipline/chip.h"
#include "chipline/crew.h"
#include "chipline/line.h"
#include "chipline/session.h"

typedef struct cl_run_options {
    const char *model_path;
    /* of one line; NULL: one stage per rank, or the best layout where there are more ranks than layers */
    const cl_layout *layout;
    /* the best layout by measured rates, with the least time per token for one slot, else the most tokens/s */
    bool layout_auto;
    cl_expert_mode experts;
    cl_routers routers;
    const char *routing_path; /* a trace whose routing says which experts are hot; NULL: round-robin */
    int replicas;             /* complete lines side by side, each with its share of the ranks; 0: 1 */
    cl_carrier carrier;
    cl_wait wait;
    int slots, context, chunk; /* of each line; slots 0: 4 per stage; context 0: up to 4096 */
    int threads;               /* that the crew was asked for; 0: this rank's share of the cores it may use */
    cl_crew *crew;             /* of this rank's chip; borrowed */
    cl_activations activations;
    bool kv_auto;
    cl_kv_format kv;
    uint64_t chip_bytes; /* 0: no budget */
    double stall_timeout_s;
    const char *trace_path; /* NULL: no trace */
    cl_trace_level trace_level;
    /* whose events: "all" (NULL too), "heads" (the first chip of each stage), or a list of ranks, "0,8-11"; those of
     * the first chip of a line are recorded in any case, it says what the micro-batches are */
    const char *trace_ranks;
    const char *logits_path; /* NULL: none */
    bool progress;
    const char *kernels;
    const cl_tokenizer *tokenizer; /* rank 0's own: turns ids into text; NULL: results have ids only */
    int allowed_vocab;             /* ids below it may be sampled; 0: all */
    int n_eos;                     /* further ids that end a text (chat formats) */
    int32_t eos[CL_MAX_EOS];
    const char *command, *version, *revision, *build_flags; /* rank 0's own: for the trace */
} cl_run_options;

/* CL_E_USAGE if a text is no trace_ranks. */
cl_code cl_trace_ranks_check(const char *text, cl_err *err);

typedef struct cl_run cl_run;

typedef struct cl_rank_stats {
    int32_t rank, replica, stage, member, threads, first_layer, n_layers;
    char host[64];
    uint64_t slice_bytes, kv_bytes, rss_bytes, baseline_bytes;
    uint64_t counted_bytes; /* slice, cache and every buffer, as counted before the first was made */
    /* resident memory then: the start, the model's description, on rank 0 the tokenizer */
    uint64_t before_bytes;
    int64_t over_bytes;   /* peak resident memory above slice, cache and baseline; negative if untouched */
    double busy, wait;    /* shares of the run's time */
    double read_gb_per_s; /* weight and cache bytes read per second of computing */
    double probe_gb_per_s;
} cl_rank_stats;

typedef struct cl_run_stats {
    double elapsed_s, load_s;
    int64_t requests, failed, prompt_tokens, generated_tokens;
    double prompt_tokens_per_s, generation_tokens_per_s; /* while prompts were pending; while any sequence decoded */
    double ttft_s;                                       /* median over requests */
    uint64_t model_checksum;
    int stages, replicas, slots, context, threads_total, cores_here;
    char layout[64]; /* of one line: "2x4" */
    cl_rates rates;  /* by which the layout was chosen; all 0: it was not */
    bool shared;     /* rank 0's stage exchanges through shared memory */
    const char *kernels, *activations, *kv;
    int n_ranks;
    const cl_rank_stats *ranks; /* [n_ranks], the run's own */
} cl_run_stats;

/* Positions; tokens, where a chip's memory allows it. */
enum { CL_DEFAULT_CONTEXT = 4096, CL_DEFAULT_CHUNK = 128, CL_LEAST_CHUNK = 16 };

/* What the options leave to the model (auto), and how large a run is: `slots` where they give none, and on small chips
 * (chip_bytes of memory, 0: no limit) shorter chunks, so that buffers of activations take little of it. Local, pure. */
void cl_find_arithmetic(const cl_run_options *opt, const cl_model *model, cl_activations *activations,
                        cl_kv_format *kv);
cl_code cl_find_limits(const cl_run_options *opt, const cl_spec *spec, int slots, uint64_t chip_bytes, cl_limits *out,
                       cl_err *err);

/* What the buffers of a chip take, for cl_place_options.buffers, with a cl_buffer_count as its context. Local, pure. */
typedef struct cl_buffer_count {
    const cl_model *model;
    cl_activations activations;
    cl_kv_format kv;
    cl_limits limits;
    int threads;          /* of a chip */
    const char *kernels;  /* NULL: the best of this CPU */
    cl_carrier carrier;   /* auto: the larger of the two */
    uint64_t trace_bytes; /* of the recorder, where there is one */
    uint64_t chip_bytes;  /* memory of a chip, 0: no limit */
    /* what was counted before: begin with none */
    struct {
        int chips;
        bool embed, head, whole;
        uint64_t bytes;
    } known[64];
    int n_known;
} cl_buffer_count;
/* At most a few hundred kB more than they are: as if the stage had all layers. */
uint64_t cl_count_buffers(void *count, const cl_stage *stage, const cl_expert_map *experts);

/* open: the model's description and the plan, so that requests can be checked; opt is looked at on rank 0 only, which
 * tells the others. load: the slices, every buffer, the trace. */
cl_code cl_run_open(cl_run **out, cl_ranks *ranks, const cl_run_options *opt, cl_err *err);
cl_code cl_run_load(cl_run *r, cl_err *err);
const cl_model *cl_run_model(const cl_run *r); /* local */
cl_limits cl_run_limits(const cl_run *r);      /* local */
/* A session for this run. Local, rank 0; the caller frees it. */
cl_code cl_run_session(cl_run *r, cl_session **out, cl_err *err);

typedef struct cl_serve_options {
    cl_session *session; /* rank 0's; others: not looked at. It may have requests in flight from an earlier serving */
    cl_source *source;   /* the same */
    bool desk;           /* the source has a thread of its own; else its functions are called by the loop */
    bool (*stop)(
        void); /* asked between micro-batches on rank 0, may be NULL: true ends the serving when what is under way
                            has come back */
} cl_serve_options;
/* Rank 0 serves what the source gives until that ends, the others follow; returns the same code everywhere.
 * CL_E_STOPPED: stop said so, and the session still holds what is not finished. */
cl_code cl_run_serve(cl_run *r, const cl_serve_options *opt, cl_err *err);
/* Measures, gathers, writes logits and trace; stats are valid on rank 0 until close. session: rank 0's, for its
 * numbers. */
cl_code cl_run_finish(cl_run *r, cl_session *session, cl_run_stats *stats, cl_err *err);
void cl_run_close(cl_run *r);

/* --- how fast, against what this machine can do at most (bench.c) --- */

typedef enum cl_bench_kind { CL_BENCH_DECODE, CL_BENCH_PROMPT } cl_bench_kind;

/* One measurement. Probe and peak are those of all ranks together, the mean of what was found just before and just
 * after it. */
typedef struct cl_bench_run {
    double tokens_per_s, read_gb_per_s, probe_gb_per_s, gop_per_s, peak_gop_per_s;
} cl_bench_run;

enum { CL_BENCH_LEAST = 3, CL_BENCH_MOST = 15 }; /* runs of a case */

/* DECODE: each of `sequences` sequences generates `tokens` tokens after its first one. PROMPT: each has a prompt of
 * `tokens` tokens and ends with its first token. */
typedef struct cl_bench_case {
    cl_bench_kind kind;
    int sequences, tokens;
    int n_runs;
    cl_bench_run runs[CL_BENCH_MOST];
    /* medians over the runs, shares being taken run by run; spread: interquartile range of tokens_per_s by its median
     * */
    double tokens_per_s, spread, read_gb_per_s, probe_gb_per_s, share_of_probe, gop_per_s, peak_gop_per_s,
        share_of_peak;
    double others_cores; /* cores of rank 0's host that other processes used meanwhile; NaN: not known */
} cl_bench_case;

/* Local. Adds a run and computes the medians anew; true: enough, because the 95 % interval of tokens_per_s' median is
 * within 2 % of it either way, or because there is no room for more. */
bool cl_bench_add(cl_bench_case *c, const cl_bench_run *run);
/* Collective, after cl_run_load, any number of times, before cl_run_finish: runs one case until it is steady or has
 * taken `seconds`, at least CL_BENCH_LEAST times. Slots and context must be enough for it, and there must be no
 * replicas. c holds the result on rank 0. stop (may be NULL) is asked between runs: where it is true on a rank, all
 * return CL_E_STOPPED. */
cl_code cl_run_bench(cl_run *r, cl_bench_case *c, double seconds, bool (*stop)(void), cl_err *err);

/* What other processes use of this host's cores between two moments, those that the job's own processes on it use not
 * counted. */
typedef struct cl_others {
    uint64_t at_ns, host_ns, own_ns;
} cl_others;
/* own_ns: CPU time of the job's processes on this host. */
cl_others cl_others_begin(uint64_t own_ns);
double cl_others_cores(const cl_others *begin, uint64_t own_ns); /* NaN: not known here */

#endif
