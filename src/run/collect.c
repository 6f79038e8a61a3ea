/* collect.c: the part files of all ranks become one TRACE.h5: by rank 0 after the last token, or later from what a
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

char *cl_part_path(const char *trace_path, int rank, cl_err *err)
{
    size_t n = strlen(trace_path) + 32;
    char *path = cl_malloc(n, 1, "path", err);
    if (path && rank >= 0) snprintf(path, n, "%s.rank%04d.part", trace_path, rank);
    else if (path) snprintf(path, n, "%s.run.part", trace_path);
    return path;
}

/* The description of the run, as JSON text; caller frees. */
static char *describe(const cl_run *r, bool ended)
{
    char sum[17], when[32];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)r->checksum);
    json_t *stages = json_array();
    for (int i = 0; i < r->placement.n_stages; i++) {
        const cl_stage *s = &r->placement.stages[i];
        json_array_append_new(stages,
                              json_pack("{s:i, s:i, s:b, s:b, s:i, s:i, s:I, s:I, s:I, s:I}", "first_layer",
                                        s->first_layer, "layers", s->n_layers, "embed", s->embed, "head", s->head,
                                        "first_rank", s->first_rank, "ranks", s->n_ranks, "weight_bytes",
                                        (json_int_t)s->weight_bytes, "kv_bytes", (json_int_t)s->kv_bytes, "token_bytes",
                                        (json_int_t)s->token_bytes, "token_kv_bytes", (json_int_t)s->token_kv_bytes));
    }
    cl_model_counts n;
    cl_model_count(&r->model, &n);
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:o, s:i, s:i, s:i, s:i, s:s, s:s, "
                  "s:s, s:i, s:i, s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:f}",
                  "command", r->opt.command ? r->opt.command : "", "version", r->opt.version ? r->opt.version : "",
                  "revision", r->opt.revision ? r->opt.revision : "", "build_flags",
                  r->opt.build_flags ? r->opt.build_flags : "", "finished_utc", when, "model", r->source,
                  "model_checksum", sum, "family", r->model.spec.family, "model_layers", r->model.spec.n_layers,
                  "parameters", (json_int_t)n.parameters, "active_parameters", (json_int_t)n.active_parameters,
                  "model_read_bytes_per_token", (json_int_t)n.read_bytes, "stages", stages, "slots", r->limits.slots,
                  "context", r->limits.context, "chunk", r->limits.chunk, "ranks", cl_line_size(r->line), "activations",
                  cl_activations_name(r->activations), "kv", cl_kv_name(r->kv), "kernels", cl_chip_kernels(r->chip),
                  "trace_level", (int)r->opt.trace_level, "cores_of_rank0_host", cl_line_cores_here(r->line),
                  "elapsed_s", (double)r->serve_ns * 1e-9, "requests", (json_int_t)r->requests, "prompt_tokens",
                  (json_int_t)r->prompt_tokens, "generated_tokens", (json_int_t)r->generated_tokens, "prompt_s",
                  (double)r->prompt_ns * 1e-9, "decode_s", (double)r->decode_ns * 1e-9, "serve_start_s",
                  (double)r->serve_start * 1e-9, "load_s", r->load_s);
    const cl_ffn *moe = NULL;
    for (int i = 0; i < r->model.spec.n_layers && !moe; i++)
        if (r->model.spec.layers[i].ffn.kind == CL_FFN_MOE) moe = &r->model.spec.layers[i].ffn;
    char layout[64];
    cl_layout_name(&r->layout, layout, sizeof layout);
    json_object_set_new(j, "layout", json_string(layout));
    json_object_set_new(j, "replicas", json_integer(r->opt.replicas));
    json_object_set_new(j, "expert_mode", json_string(r->placement.experts ? "whole" : "sliced"));
    json_object_set_new(j, "shared_memory", json_boolean(cl_line_shared(r->line)));
    if (r->rates.read_bytes_per_s > 0)
        json_object_set_new(j, "layout_chosen_by",
                            json_pack("{s:f, s:f, s:f, s:f, s:f}", "read_bytes_per_s", r->rates.read_bytes_per_s,
                                      "gather_s", r->rates.gather_s, "gather_bytes_per_s", r->rates.gather_bytes_per_s,
                                      "hop_s", r->rates.hop_s, "hop_bytes_per_s", r->rates.hop_bytes_per_s));
    json_object_set_new(j, "ended", json_boolean(ended));
    if (j && moe) {
        json_object_set_new(j, "experts", json_integer(moe->experts));
        json_object_set_new(j, "experts_per_token", json_integer(moe->top_k));
    }
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    return text;
}

cl_code cl_run_note_ranks(cl_run *r, cl_err *err)
{
    uint32_t size = (uint32_t)cl_line_size(r->line);
    char *path = cl_part_path(r->opt.trace_path, -1, err), *text = path ? describe(r, false) : NULL;
    run_head h = {.version = CL_TRACE_VERSION,
                  .row_bytes = sizeof(cl_trace_rank),
                  .ranks = size,
                  .text_bytes = text ? (uint32_t)strlen(text) : 0};
    memcpy(h.magic, run_magic, sizeof h.magic);
    FILE *f = text ? fopen(path, "wb") : NULL;
    bool ok = f && fwrite(&h, sizeof h, 1, f) == 1 && fwrite(r->rank_rows, sizeof(cl_trace_rank), size, f) == size &&
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
    char *run_path = cl_part_path(trace_path, -1, err);
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
        char *path = cl_part_path(trace_path, (int)k, err);
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
    const cl_spec *s = &r->model.spec;
    *chosen = NULL;
    *experts = 0;
    for (int i = 0; i < s->n_layers; i++)
        *experts = s->layers[i].ffn.experts > *experts ? s->layers[i].ffn.experts : *experts;
    if (!*experts) return CL_OK;
    size_t n = (size_t)s->n_layers * (size_t)*experts;
    *chosen = cl_calloc(n, sizeof **chosen, "routing", err);
    cl_code c = cl_line_agree(r->line, *chosen ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    const cl_stage *stage = &r->placement.stages[r->stage];
    for (int i = stage->first_layer; r->leads && i < stage->first_layer + stage->n_layers; i++)
        if (s->layers[i].ffn.experts)
            memcpy(*chosen + (size_t)i * (size_t)*experts, cl_chip_routing(r->chip, i),
                   (size_t)s->layers[i].ffn.experts * sizeof **chosen);
    cl_line_sum(r->line, *chosen, (int)n);
    return CL_OK;
}

cl_code cl_run_collect(cl_run *r, cl_err *err)
{
    int size = cl_line_size(r->line), rank = cl_line_rank(r->line), part_rank;
    cl_part_file *own = NULL;
    cl_trace_file *f = NULL;
    uint64_t n = 0, *counts = NULL, *chosen = NULL;
    int experts;
    cl_trace_close(r->trace);
    r->trace = NULL;
    cl_event *piece = cl_malloc(PIECE, sizeof *piece, "events", err);
    cl_code c = sum_routing(r, &chosen, &experts, err);
    if (c == CL_OK) c = piece ? cl_part_file_open(&own, r->part_path, &part_rank, &n, err) : CL_E_FIT;
    if (c == CL_OK && rank == 0) {
        char *run = describe(r, true);
        c = run ? cl_trace_file_create(&f, r->opt.trace_path, run, err)
                : cl_fail(err, CL_E_FIT, "trace: out of memory");
        free(run);
        if (c == CL_OK && !(counts = cl_calloc((size_t)size, sizeof *counts, "event counts", err))) c = CL_E_FIT;
    }
    c = cl_line_agree(r->line, c, err);
    if (c == CL_OK) cl_line_gather(r->line, &n, sizeof n, counts);
    if (c == CL_OK && rank) c = send_events(r, own, n, piece, err);
    for (int k = 0; f && c == CL_OK && k < size; k++) {
        r->rank_rows[k].events = counts[k];
        c = cl_trace_file_rank(f, &r->rank_rows[k], err);
    }
    if (f && counts) {
        cl_code told = c;
        for (int k = 0; k < size; k++) {
            cl_err e;
            cl_code now = take_events(r, f, own, k, counts[k], piece, &e);
            if (told == CL_OK && now != CL_OK) told = now, *err = e;
        }
        c = told;
        if (c == CL_OK) c = cl_trace_file_requests(f, r->request_rows, (uint64_t)r->requests, err);
        if (c == CL_OK && chosen) c = cl_trace_file_routing(f, chosen, r->model.spec.n_layers, experts, err);
    }
    if (f && c == CL_OK) {
        c = cl_trace_file_commit(f, err);
        f = NULL;
    }
    if (f) cl_trace_file_drop(f);
    if (own) cl_part_file_close(own);
    c = cl_line_agree(r->line, c, err);
    if (c == CL_OK) unlink(r->part_path);
    char *run_path = c == CL_OK && rank == 0 ? cl_part_path(r->opt.trace_path, -1, err) : NULL;
    if (run_path) unlink(run_path);
    free(run_path);
    free(piece);
    free(counts);
    free(chosen);
    return c;
}
