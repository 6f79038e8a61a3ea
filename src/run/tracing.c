/* tracing.c: the trace of a run. The part files of all ranks become one TRACE.h5: by rank 0 after the last token, or later from what a
 * run left that died. For that, rank 0 writes beforehand what the part files don't say (TRACE.run.part: description
 * and ranks). */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "run_internal.h"

enum { PIECE = 8192, /* events per message */ MAX_RUN = 1 << 26, MAX_RANKS = 1 << 20 };

/* Head of TRACE.run.part; the rank rows and the description's text follow. Read by the build that wrote it. */
typedef struct run_head {
    char magic[8];
    uint32_t version, row_bytes, ranks, text_bytes;
} run_head;

static const char run_magic[8] = "CLRUN\0\0";

char *trace_part_path(const char *trace_path, int rank, cl_err *err)
{
    size_t n = strlen(trace_path) + 32;
    char *path = cl_malloc(n, 1, "path", err);
    if (path && rank >= 0) snprintf(path, n, "%s.rank%04d.part", trace_path, rank);
    else if (path) snprintf(path, n, "%s.run.part", trace_path);
    return path;
}

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
    *row = (cl_trace_request){.prompt_tokens = q->n_prompt,
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
    cl_line_clock(r->line, &t->clock_offset, &t->clock_uncertainty);
    cl_line_barrier(r->line); /* all ranks of a host probe at once, as they compute at once */
    cl_mark m = cl_trace_mark(t->recorder, CL_TRACE_STAGE);
    t->probe = cl_probe_slice(r->chip.ctx);
    cl_event e = {.kind = CL_EV_PROBE, .layer = -1, .microbatch = -1, .peer = -1, .waits_for = -1};
    cl_trace_end(t->recorder, m, &e);
    cl_rank_stats mine = stats_of_rank(r);
    cl_trace_rank row = trace_row(r, &mine);
    bool root = cl_line_rank(r->line) == 0;
    t->ranks = cl_calloc(root ? (size_t)cl_line_size(r->line) : 1, sizeof row, "rows of the ranks", err);
    cl_code c = cl_line_agree(r->line, t->ranks ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    cl_line_gather(r->line, &row, sizeof row, t->ranks);
    return root ? trace_note_ranks(r, err) : CL_OK;
}

cl_code trace_note_ranks(cl_run *r, cl_err *err)
{
    uint32_t size = (uint32_t)cl_line_size(r->line);
    char *path = trace_part_path(r->opt.trace_path, -1, err), *text = path ? trace_describe(r, false) : NULL;
    run_head h = {.version = CL_TRACE_VERSION,
                  .row_bytes = sizeof(cl_trace_rank),
                  .ranks = size,
                  .text_bytes = text ? (uint32_t)strlen(text) : 0};
    memcpy(h.magic, run_magic, sizeof h.magic);
    FILE *f = text ? fopen(path, "wb") : NULL;
    bool ok = f && fwrite(&h, sizeof h, 1, f) == 1 && fwrite(r->trace.ranks, sizeof(cl_trace_rank), size, f) == size &&
              fwrite(text, 1, h.text_bytes, f) == h.text_bytes;
    if (f && fclose(f) != 0) ok = false;
    if (!ok && text) cl_fail(err, CL_E_RUN, "%s: write failed: %s", path, strerror(errno));
    free(text);
    free(path);
    return ok ? CL_OK : text ? err->code : cl_fail(err, CL_E_FIT, "trace: cannot describe the run (out of memory)");
}

static cl_code read_run(const char *path, cl_buf *file, const cl_trace_rank **rows, uint32_t *ranks, const char **text,
                        cl_err *err)
{
    cl_code c = cl_read_file(path, MAX_RUN, file, err);
    if (c != CL_OK) return c;
    run_head h;
    memcpy(&h, file->data, file->len < sizeof h ? file->len : sizeof h);
    if (file->len < sizeof h || memcmp(h.magic, run_magic, sizeof h.magic) || h.version != CL_TRACE_VERSION ||
        h.row_bytes != sizeof **rows || h.ranks > MAX_RANKS ||
        file->len != sizeof h + (size_t)h.ranks * h.row_bytes + h.text_bytes)
        return cl_fail(err, CL_E_INPUT,
                       "%s: not what this version of chipline leaves beside a trace (use the one that ran)", path);
    *rows = (const cl_trace_rank *)(const void *)(file->data + sizeof h);
    *ranks = h.ranks;
    *text = file->data + sizeof h + (size_t)h.ranks * h.row_bytes;
    return CL_OK;
}

static cl_code add_part(cl_trace_file *f, cl_part_file *p, int rank, uint64_t n, cl_event *piece, cl_err *err)
{
    cl_code c = CL_OK;
    for (uint64_t at = 0, got; c == CL_OK && at < n; at += got) {
        c = cl_part_file_read(p, at, PIECE, piece, &got, err);
        if (c == CL_OK && !got) break;
        if (c == CL_OK) c = cl_trace_file_events(f, rank, piece, got, err);
    }
    return c;
}

cl_code cl_run_recover(const char *trace_path, int *found, int *expected, uint64_t *events, cl_err *err)
{
    char *run_path = trace_part_path(trace_path, -1, err);
    cl_buf file = {0};
    const cl_trace_rank *rows = NULL;
    const char *text = NULL;
    uint32_t ranks = 0;
    cl_trace_file *f = NULL;
    cl_event *piece = cl_malloc(PIECE, sizeof *piece, "events", err);
    *found = 0;
    *events = 0;
    if (run_path && access(run_path, R_OK) != 0) {
        cl_fail(err, CL_E_INPUT, "%s: no %s is there (a run that ended well leaves only the trace)", trace_path,
                run_path);
        free(piece);
        piece = NULL;
    }
    cl_code c = run_path && piece ? read_run(run_path, &file, &rows, &ranks, &text, err) : err->code;
    cl_part_file **parts = c == CL_OK ? cl_calloc(ranks, sizeof *parts, "part files", err) : NULL;
    uint64_t *counts = c == CL_OK ? cl_calloc(ranks, sizeof *counts, "event counts", err) : NULL;
    if (c == CL_OK && (!parts || !counts)) c = CL_E_FIT;
    if (c == CL_OK) c = cl_trace_file_create(&f, trace_path, text, err);
    for (uint32_t k = 0; c == CL_OK && k < ranks; k++) {
        cl_trace_rank row = rows[k];
        char *path = trace_part_path(trace_path, (int)k, err);
        int rank;
        cl_err gone; /* a rank whose file is lost has no events */
        if (!path) c = CL_E_FIT;
        else if (cl_part_file_open(&parts[k], path, &rank, &counts[k], &gone) == CL_OK && rank == (int)k) {
            row.dropped = cl_part_file_dropped(parts[k]);
            ++*found;
        } else counts[k] = 0;
        row.events = counts[k];
        *events += counts[k];
        if (c == CL_OK) c = cl_trace_file_rank(f, &row, err);
        free(path);
    }
    for (uint32_t k = 0; c == CL_OK && k < ranks; k++)
        if (counts[k]) c = add_part(f, parts[k], (int)k, counts[k], piece, err);
    if (c == CL_OK && !*found) c = cl_fail(err, CL_E_INPUT, "%s: no part file of a rank is there", trace_path);
    if (c == CL_OK) {
        c = cl_trace_file_commit(f, err);
        f = NULL;
    }
    if (f) cl_trace_file_drop(f);
    for (uint32_t k = 0; parts && k < ranks; k++)
        if (parts[k]) cl_part_file_close(parts[k]);
    *expected = (int)ranks;
    free(parts);
    free(counts);
    free(piece);
    free(run_path);
    cl_buf_free(&file);
    return c;
}

/* Rank 0: the events of one rank, from its own part file or from the rank itself, into the file. */
static cl_code take_events(cl_run *r, cl_trace_file *f, cl_part_file *own, int rank, uint64_t n, cl_event *piece,
                           cl_err *err)
{
    cl_code c = CL_OK;
    for (uint64_t at = 0; at < n; at += PIECE) {
        uint64_t got = n - at < PIECE ? n - at : PIECE;
        /* also after a failure: the sender sends */
        if (rank) cl_line_recv_bulk(r->line, rank, piece, (size_t)got * sizeof *piece);
        else if (c == CL_OK) c = cl_part_file_read(own, at, got, piece, &got, err);
        if (c == CL_OK) c = cl_trace_file_events(f, rank, piece, got, err);
    }
    return c;
}

static cl_code send_events(cl_run *r, cl_part_file *own, uint64_t n, cl_event *piece, cl_err *err)
{
    cl_code c = CL_OK;
    for (uint64_t at = 0; at < n; at += PIECE) {
        uint64_t want = n - at < PIECE ? n - at : PIECE, got = want;
        if (c == CL_OK) c = cl_part_file_read(own, at, want, piece, &got, err);
        cl_line_send_bulk(r->line, piece, (size_t)want * sizeof *piece);
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
    cl_code c = cl_line_agree(r->line, *chosen ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    const cl_stage *stage = r->seat.at;
    for (int i = stage->first_layer; r->seat.leads && i < stage->first_layer + stage->n_layers; i++)
        if (s->layers[i].ffn.experts)
            memcpy(*chosen + (size_t)i * (size_t)*experts, r->chip.routing(r->chip.ctx, i),
                   (size_t)s->layers[i].ffn.experts * sizeof **chosen);
    cl_line_sum(r->line, *chosen, (int)n);
    return CL_OK;
}

cl_code trace_collect(cl_run *r, cl_err *err)
{
    int size = cl_line_size(r->line), rank = cl_line_rank(r->line), part_rank;
    cl_part_file *own = NULL;
    cl_trace_file *f = NULL;
    uint64_t n = 0, *counts = NULL, *chosen = NULL;
    int experts;
    cl_trace_close(r->trace.recorder);
    r->trace.recorder = NULL;
    cl_event *piece = cl_malloc(PIECE, sizeof *piece, "events", err);
    cl_code c = sum_routing(r, &chosen, &experts, err);
    if (c == CL_OK) c = piece ? cl_part_file_open(&own, r->trace.part_path, &part_rank, &n, err) : CL_E_FIT;
    if (c == CL_OK && rank == 0) {
        char *run = trace_describe(r, true);
        c = run ? cl_trace_file_create(&f, r->opt.trace_path, run, err)
                : cl_fail(err, CL_E_FIT, "trace: out of memory");
        free(run);
        if (c == CL_OK && !(counts = cl_calloc((size_t)size, sizeof *counts, "event counts", err))) c = CL_E_FIT;
    }
    c = cl_line_agree(r->line, c, err);
    if (c == CL_OK) cl_line_gather(r->line, &n, sizeof n, counts);
    if (c == CL_OK && rank) c = send_events(r, own, n, piece, err);
    for (int k = 0; f && c == CL_OK && k < size; k++) {
        r->trace.ranks[k].events = counts[k];
        c = cl_trace_file_rank(f, &r->trace.ranks[k], err);
    }
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
    if (own) cl_part_file_close(own);
    c = cl_line_agree(r->line, c, err);
    if (c == CL_OK) unlink(r->trace.part_path);
    char *run_path = c == CL_OK && rank == 0 ? trace_part_path(r->opt.trace_path, -1, err) : NULL;
    if (run_path) unlink(run_path);
    free(run_path);
    free(piece);
    free(counts);
    free(chosen);
    return c;
}
