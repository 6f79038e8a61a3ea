/* recover.c: TRACE.h5 of a run that died, from its ranks' event logs and what rank 0 had noted about the run. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "event_log.h"

enum { PIECE = 8192 /* records at a time */, MAX_NOTE = 1 << 28, MAX_RANKS = 1 << 20 };

/* Head of TRACE.h5.run.part; the rank rows and the description's text follow. Read by the build that wrote it. */
typedef struct note_head {
    char magic[8];
    uint32_t version, row_bytes, ranks, text_bytes;
} note_head;

static const char note_magic[8] = "CLRUN\0\0";

cl_code cl_trace_note_run(const char *trace_path, const char *run_json, const cl_trace_rank *ranks, uint32_t n,
                          cl_err *err)
{
    char *path = cl_event_log_path(trace_path, -1, err);
    if (!path) return CL_E_FIT;
    note_head h = {.version = CL_TRACE_VERSION,
                   .row_bytes = sizeof *ranks,
                   .ranks = n,
                   .text_bytes = (uint32_t)strlen(run_json)};
    memcpy(h.magic, note_magic, sizeof h.magic);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(&h, sizeof h, 1, f) == 1 && fwrite(ranks, sizeof *ranks, n, f) == n &&
              fwrite(run_json, 1, h.text_bytes, f) == h.text_bytes;
    if (f && fclose(f) != 0) ok = false;
    cl_code c = ok ? CL_OK : cl_fail(err, CL_E_RUN, "%s: write failed: %s", path, strerror(errno));
    free(path);
    return c;
}

typedef struct note {
    cl_buf file;
    const cl_trace_rank *ranks; /* [n], in the file's bytes as text is */
    uint32_t n;
    const char *text;
} note;

static cl_code read_note(const char *trace_path, note *out, cl_err *err)
{
    char *path = cl_event_log_path(trace_path, -1, err);
    if (!path) return CL_E_FIT;
    note_head h = {.version = 0};
    cl_code c = CL_OK;
    if (access(path, R_OK) != 0)
        c = cl_fail(err, CL_E_INPUT, "%s: no %s is there (a run that ended well leaves only the trace)", trace_path,
                    path);
    if (c == CL_OK) c = cl_read_file(path, MAX_NOTE, &out->file, err);
    if (c == CL_OK && out->file.len >= sizeof h) memcpy(&h, out->file.data, sizeof h);
    size_t rows = (size_t)h.ranks * sizeof *out->ranks;
    if (c == CL_OK && (memcmp(h.magic, note_magic, sizeof h.magic) || h.version != CL_TRACE_VERSION ||
                       h.row_bytes != sizeof *out->ranks || !h.ranks || h.ranks > MAX_RANKS ||
                       out->file.len != sizeof h + rows + h.text_bytes))
        c = cl_fail(err, CL_E_INPUT,
                    "%s: not what this version of chipline leaves beside a trace (use the one that ran)", path);
    free(path);
    if (c != CL_OK) return c;
    out->ranks = (const cl_trace_rank *)(const void *)(out->file.data + sizeof h);
    out->n = h.ranks;
    out->text = out->file.data + sizeof h + rows;
    return CL_OK;
}

static cl_code copy_records(cl_trace_file *f, cl_event_log *log, int rank, uint64_t n, cl_event *piece,
                            cl_trace_recovered *sum, cl_err *err)
{
    cl_code c = CL_OK;
    for (uint64_t at = 0, got = 1; c == CL_OK && at < n && got; at += got) {
        c = cl_event_log_read(log, at, PIECE, piece, &got, err);
        if (c == CL_OK) c = cl_trace_file_events(f, rank, piece, got, err);
        for (uint64_t i = 0; c == CL_OK && i < got; i++) {
            sum->parts += piece[i].kind == CL_EV_PART;
            sum->events += piece[i].kind != CL_EV_PART;
        }
    }
    return c;
}

/* One rank's row and what its event log holds; without a log of that rank, the row alone. */
static cl_code recover_rank(cl_trace_file *f, const char *trace_path, const cl_trace_rank *noted, cl_event *piece,
                            cl_trace_recovered *sum, cl_err *err)
{
    cl_trace_rank row = *noted;
    char *path = cl_event_log_path(trace_path, row.rank, err);
    if (!path) return CL_E_FIT;
    cl_event_log *log = NULL;
    cl_err gone;
    int rank = -1;
    uint64_t n = 0;
    bool found = cl_event_log_open(&log, path, &rank, &n, &gone) == CL_OK && rank == row.rank;
    free(path);
    row.host[sizeof row.host - 1] = row.cpu[sizeof row.cpu - 1] = 0;
    if (found) row.dropped = cl_event_log_dropped(log);
    sum->logs += found;
    cl_code c = cl_trace_file_rank(f, &row, err);
    if (c == CL_OK && found) c = copy_records(f, log, row.rank, n, piece, sum, err);
    cl_event_log_close(log);
    return c;
}

cl_code cl_trace_recover(const char *trace_path, cl_trace_recovered *out, cl_err *err)
{
    note noted = {.n = 0};
    cl_trace_file *f = NULL;
    *out = (cl_trace_recovered){0};
    cl_event *piece = cl_malloc(PIECE, sizeof *piece, "events", err);
    cl_code c = piece ? read_note(trace_path, &noted, err) : CL_E_FIT;
    if (c == CL_OK) c = cl_trace_file_create(&f, trace_path, noted.text, err);
    out->ranks = (int)noted.n;
    for (uint32_t k = 0; c == CL_OK && k < noted.n; k++)
        c = recover_rank(f, trace_path, &noted.ranks[k], piece, out, err);
    if (c == CL_OK && !out->logs) c = cl_fail(err, CL_E_INPUT, "%s: no event log of a rank is there", trace_path);
    if (c == CL_OK) c = cl_trace_file_commit(f, err);
    else cl_trace_file_drop(f);
    free(piece);
    cl_buf_free(&noted.file);
    return c;
}
