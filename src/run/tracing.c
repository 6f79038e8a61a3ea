/* tracing.c: the trace of a run. The event logs of all ranks become one TRACE.h5, by rank 0 after the last token. For a
 * run that dies, it notes beforehand what the event logs don't say: the description and the ranks. */
#include <stdlib.h>
#include <unistd.h>

#include "run_internal.h"

enum { PIECE = 8192 /* records per message */ };

/* --- whose events --- */

static bool read_rank(const char **at, int *rank)
{
    enum { DIGITS = 8 };
    size_t n = strspn(*at, "0123456789");
    if (!n || n > DIGITS) return false;
    *rank = atoi(*at);
    *at += n;
    return true;
}

typedef struct rank_list {
    int most; /* the largest rank in it */
    bool has; /* the one that was looked for */
} rank_list;

/* False: the text is no list. */
static bool read_list(const char *at, int rank, rank_list *out)
{
    *out = (rank_list){0};
    for (;; at++) {
        int first, last;
        if (!read_rank(&at, &first)) return false;
        last = first;
        if (*at == '-' && (at++, !read_rank(&at, &last) || last < first)) return false;
        if (last > out->most) out->most = last;
        if (rank >= first && rank <= last) out->has = true;
        if (*at != ',') return !*at;
    }
}

static bool is_word(const char *text) { return !text || !strcmp(text, "all") || !strcmp(text, "heads"); }

cl_code cl_trace_ranks_check(const char *text, cl_err *err)
{
    rank_list l;
    if (is_word(text) || read_list(text, 0, &l)) return CL_OK;
    return cl_fail(err, CL_E_USAGE, "--trace-ranks: '%s' is none of all, heads, or a list of ranks such as 0,8-11",
                   text);
}

bool trace_wanted(const cl_run *r) { return r->opt.trace_path && r->opt.trace_level != CL_TRACE_OFF; }

cl_code trace_open(cl_run *r, cl_err *err)
{
    const int rank = cl_ranks_rank(r->ranks), size = cl_ranks_size(r->ranks);
    const char *which = r->opt.trace_ranks ? r->opt.trace_ranks : "all";
    rank_list l = {.has = *which == 'a' || (*which == 'h' && r->seat.leads)};
    cl_code c = rank == 0 ? cl_check_new(r->opt.trace_path, err) : CL_OK;
    if (!is_word(which)) read_list(which, rank, &l);
    if (c == CL_OK && l.most >= size)
        c = cl_fail(err, CL_E_FIT, "--trace-ranks: rank %d of %d (ranks count from 0)", l.most, size);
    if ((c = cl_ranks_agree(r->ranks, c, err)) != CL_OK) return c; /* before an event log stands beside it */
    if (!l.has && !(r->seat.first && r->seat.leads)) return CL_OK;
    if (!(r->trace.log_path = cl_event_log_path(r->opt.trace_path, rank, err))) return CL_E_FIT;
    return cl_trace_open(&r->trace.recorder, r->trace.log_path, rank, r->opt.trace_level, err);
}

/* --- the trace of a run --- */

cl_code trace_note_request(cl_run *r, const cl_request *q, const cl_result *res, cl_err *err)
{
    run_trace *t = &r->trace;
    if (t->n_requests == t->cap) {
        int64_t cap = t->cap ? 2 * t->cap : 64;
        cl_trace_request *p = cl_realloc(t->requests, (size_t)cap, sizeof *p, "requests of the trace", err);
        if (!p) return CL_E_FIT;
        t->requests = p;
        t->cap = cap;
    }
    cl_trace_request *row = &t->requests[t->n_requests++];
    *row = (cl_trace_request){.request = (int32_t)res->number,
                              .prompt_tokens = q->n_prompt,
                              .completion_tokens = res->n_tokens,
                              .arrived_ns = q->arrived_ns,
                              .started_ns = res->started_ns,
                              .first_token_ns = res->first_token_ns,
                              .finished_ns = res->finished_ns};
    snprintf(row->id, sizeof row->id, "%.60s", q->id);
    cl_utf8_repair(row->id);
    snprintf(row->finish_reason, sizeof row->finish_reason, "%s", res->finish_reason);
    return CL_OK;
}

cl_code trace_start(cl_run *r, cl_err *err)
{
    run_trace *t = &r->trace;
    cl_ranks_clock(r->ranks, &t->clock_offset, &t->clock_uncertainty);
    cl_ranks_barrier(r->ranks); /* all ranks of a host probe at once, as they compute at once */
    cl_mark m = cl_trace_mark(t->recorder, CL_TRACE_STAGE);
    t->probe = r->chip.probe(r->chip.ctx);
    cl_event e = {.kind = CL_EV_PROBE, .layer = -1, .microbatch = -1, .peer = -1};
    cl_trace_end(t->recorder, m, &e);
    cl_ranks_barrier(r->ranks);
    t->peak_int8 = cl_probe_peak(r->opt.crew, r->chip.kernels, true, false);
    t->peak_f32 = cl_probe_peak(r->opt.crew, r->chip.kernels, false, false);
    cl_rank_stats mine = stats_of_rank(r);
    cl_trace_rank row = trace_row(r, &mine);
    bool root = cl_ranks_rank(r->ranks) == 0;
    t->ranks = cl_calloc(root ? (size_t)cl_ranks_size(r->ranks) : 1, sizeof row, "rows of the ranks", err);
    cl_code c = cl_ranks_agree(r->ranks, t->ranks ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    cl_ranks_gather(r->ranks, &row, sizeof row, t->ranks);
    return root ? trace_note_ranks(r, err) : CL_OK;
}

cl_code trace_note_ranks(cl_run *r, cl_err *err)
{
    char *text = trace_describe(r, false);
    if (!text) return cl_fail(err, CL_E_FIT, "trace: cannot describe the run (out of memory)");
    cl_code c = cl_trace_note_run(r->opt.trace_path, text, r->trace.ranks, (uint32_t)cl_ranks_size(r->ranks), err);
    free(text);
    return c;
}

/* Rank 0: the records of one rank, from its own event log or from the rank itself, into the file. */
static cl_code take_events(cl_run *r, cl_trace_file *f, cl_event_log *own, int rank, uint64_t n, cl_event *piece,
                           cl_err *err)
{
    cl_code c = CL_OK;
    for (uint64_t at = 0; at < n; at += PIECE) {
        uint64_t got = n - at < PIECE ? n - at : PIECE;
        /* also after a failure: the sender sends */
        if (rank) cl_ranks_recv_bulk(r->ranks, rank, piece, (size_t)got * sizeof *piece);
        else if (c == CL_OK) c = cl_event_log_read(own, at, got, piece, &got, err);
        if (c == CL_OK) c = cl_trace_file_events(f, rank, piece, got, err);
    }
    return c;
}

static cl_code send_events(cl_run *r, cl_event_log *own, uint64_t n, cl_event *piece, cl_err *err)
{
    cl_code c = CL_OK;
    for (uint64_t at = 0; at < n; at += PIECE) {
        uint64_t want = n - at < PIECE ? n - at : PIECE, got = want;
        if (c == CL_OK) c = cl_event_log_read(own, at, want, piece, &got, err);
        cl_ranks_send_bulk(r->ranks, piece, (size_t)want * sizeof *piece);
    }
    return c;
}

/* Collective: the choices of all layers, summed over the lines, at rank 0. *chosen is NULL where there are no
 * experts. */
static cl_code sum_routing(cl_run *r, uint64_t **chosen, int *experts, cl_err *err)
{
    const cl_spec *s = &r->plan.model.spec;
    *chosen = NULL;
    *experts = 0;
    for (int i = 0; i < s->n_layers; i++)
        *experts = s->layers[i].ffn.experts > *experts ? s->layers[i].ffn.experts : *experts;
    if (!*experts) return CL_OK;
    size_t n = (size_t)s->n_layers * (size_t)*experts;
    *chosen = cl_calloc(n, sizeof **chosen, "routing", err);
    cl_code c = cl_ranks_agree(r->ranks, *chosen ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    const cl_stage *stage = r->seat.at;
    for (int i = stage->first_layer; r->seat.leads && i < stage->first_layer + stage->n_layers; i++)
        if (s->layers[i].ffn.experts)
            memcpy(*chosen + (size_t)i * (size_t)*experts, r->chip.routing(r->chip.ctx, i),
                   (size_t)s->layers[i].ffn.experts * sizeof **chosen);
    cl_ranks_sum(r->ranks, *chosen, (int)n);
    return CL_OK;
}

cl_code trace_collect(cl_run *r, cl_err *err)
{
    int size = cl_ranks_size(r->ranks), rank = cl_ranks_rank(r->ranks), log_rank;
    cl_event_log *own = NULL;
    cl_trace_file *f = NULL;
    uint64_t n = 0, *counts = NULL, *chosen = NULL;
    int experts;
    cl_trace_close(r->trace.recorder);
    r->trace.recorder = NULL;
    cl_event *piece = cl_malloc(PIECE, sizeof *piece, "events", err);
    cl_code c = sum_routing(r, &chosen, &experts, err);
    if (c == CL_OK && !piece) c = CL_E_FIT;
    if (c == CL_OK && r->trace.log_path) c = cl_event_log_open(&own, r->trace.log_path, &log_rank, &n, err);
    if (c == CL_OK && rank == 0) {
        char *run = trace_describe(r, true);
        c = run ? cl_trace_file_create(&f, r->opt.trace_path, run, err)
                : cl_fail(err, CL_E_FIT, "trace: out of memory");
        free(run);
        if (c == CL_OK && !(counts = cl_calloc((size_t)size, sizeof *counts, "event counts", err))) c = CL_E_FIT;
    }
    c = cl_ranks_agree(r->ranks, c, err);
    if (c == CL_OK) cl_ranks_gather(r->ranks, &n, sizeof n, counts);
    if (c == CL_OK && rank) c = send_events(r, own, n, piece, err);
    for (int k = 0; f && c == CL_OK && k < size; k++) c = cl_trace_file_rank(f, &r->trace.ranks[k], err);
    if (f && counts) {
        cl_code told = c;
        for (int k = 0; k < size; k++) {
            cl_err e;
            cl_code now = take_events(r, f, own, k, counts[k], piece, &e);
            if (told == CL_OK && now != CL_OK) told = now, *err = e;
        }
        c = told;
        if (c == CL_OK) c = cl_trace_file_requests(f, r->trace.requests, (uint64_t)r->trace.n_requests, err);
        if (c == CL_OK && chosen) c = cl_trace_file_routing(f, chosen, r->plan.model.spec.n_layers, experts, err);
    }
    if (f && c == CL_OK) {
        c = cl_trace_file_commit(f, err);
        f = NULL;
    }
    if (f) cl_trace_file_drop(f);
    if (own) cl_event_log_close(own);
    c = cl_ranks_agree(r->ranks, c, err);
    if (c == CL_OK && r->trace.log_path) unlink(r->trace.log_path);
    char *run_path = c == CL_OK && rank == 0 ? cl_event_log_path(r->opt.trace_path, -1, err) : NULL;
    if (run_path) unlink(run_path);
    free(run_path);
    free(piece);
    free(counts);
    free(chosen);
    return c;
}
