/* file.c: TRACE.h5, written. The schema is written down in analysis/README.md.
 *
 * Rank and request rows are kept until commit (they are few), events and parts go to the file as they come. */
#include "file.h"

#include <stdio.h>
#include <stdlib.h>

#include "chipline/json.h"
#include "event_log.h"
#include "kinds.h"

cl_code trace_unwritten(const cl_trace_file *f, cl_err *err)
{
    if (!err || err->code != CL_E_RUN) return err ? err->code : CL_E_RUN;
    cl_err why = *err;
    return cl_fail(err, CL_E_RUN, "%s: %s (choose a folder that can be written and has room)", cl_store_path(f->store),
                   why.msg);
}

/* --- what stands at the root --- */

static cl_code put_kinds(cl_store_node root, cl_err *err)
{
    kind_row rows[CL_EV_KINDS];
    memset(rows, 0, sizeof rows);
    for (int k = 0; k < CL_EV_KINDS; k++) {
        rows[k].id = k;
        snprintf(rows[k].name, sizeof rows[k].name, "%s", cl_event_name((cl_event_kind)k));
        snprintf(rows[k].level, sizeof rows[k].level, "%s", trace_level_name(cl_event_level((cl_event_kind)k)));
        snprintf(rows[k].description, sizeof rows[k].description, "%s", trace_kind_text((cl_event_kind)k));
    }
    return cl_store_put_table(root, "kinds", &trace_kind_row, rows, CL_EV_KINDS, err);
}

/* A scalar of the run's description as an attribute; anything else, and a name that is taken, stays in /run alone. */
static cl_code put_scalar(cl_store_node root, const char *name, const json_t *v, cl_err *err)
{
    bool taken = *name == '\0';
    cl_code c = taken ? CL_OK : cl_store_has_attribute(root, name, &taken, err);
    if (c != CL_OK || taken) return c;
    if (json_is_integer(v)) return cl_store_put_int(root, name, json_integer_value(v), err);
    if (json_is_real(v)) return cl_store_put_double(root, name, json_real_value(v), err);
    if (json_is_boolean(v)) return cl_store_put_bool(root, name, json_is_true(v), err);
    if (json_is_string(v) && json_string_length(v) <= CL_STORE_TEXT_MAX)
        return cl_store_put_text(root, name, json_string_value(v), err);
    return CL_OK;
}

static cl_code put_root(cl_store_node root, const char *run_json, json_t *run, cl_err *err)
{
    const char *name;
    json_t *v;
    cl_code c = cl_store_put_text(root, "schema", "chipline trace", err);
    if (c == CL_OK) c = cl_store_put_int(root, "schema_version", CL_TRACE_VERSION, err);
    if (c == CL_OK) c = cl_store_put_text(root, "creator", "chipline", err);
    if (c == CL_OK)
        c = cl_store_put_text(root, "units",
                              "times in ns, sizes in byte; NAME.unit and NAME.description explain each column, beside "
                              "the tables, or for events on /events",
                              err);
    if (c == CL_OK)
        c = cl_store_put_document(root, "run", run_json,
                                  "the run, as a JSON object; its scalar members are attributes of the root too", err);
    if (c == CL_OK) c = put_kinds(root, err);
    json_object_foreach(run, name, v) if (c == CL_OK) c = put_scalar(root, name, v, err);
    return c;
}

static cl_code put_tables(cl_trace_file *f, cl_err *err)
{
    cl_store_node root = cl_store_root(f->store);
    cl_code c = cl_store_make_group(root, "events", "one table per rank: its events, in the order in which they ended",
                                    &f->events, err);
    if (c == CL_OK) c = cl_store_describe(f->events, &trace_event_row, err);
    return c == CL_OK ? cl_store_make_table(root, "parts", &trace_part_row, true, TRACE_PIECE, &f->parts, err) : c;
}

/* --- the file --- */

static cl_code parse_run(const char *run_json, json_t **run, cl_err *err)
{
    cl_code c = cl_json_parse(run_json, strlen(run_json), "description of the run", run, err);
    if (c != CL_OK || json_is_object(*run)) return c;
    json_decref(*run);
    return cl_fail(err, CL_E_INPUT, "description of the run: not a JSON object (write {...})");
}

cl_code cl_trace_file_create(cl_trace_file **out, const char *path, const char *run_json, cl_err *err)
{
    *out = NULL;
    json_t *run;
    cl_code c = parse_run(run_json, &run, err);
    if (c != CL_OK) return c;
    cl_trace_file *f = cl_calloc(1, sizeof *f, "trace file", err);
    if (f) f->kept = cl_malloc(TRACE_PIECE, sizeof *f->kept, "events", err);
    if (f) f->kept_parts = cl_malloc(TRACE_PIECE, sizeof *f->kept_parts, "parts", err);
    c = f && f->kept && f->kept_parts ? CL_OK : CL_E_FIT;
    if (c == CL_OK) c = cl_store_create(&f->store, path, 1 << 16, err);
    if (c == CL_OK) {
        f->events = f->table.node = f->parts.node = (cl_store_node){f->store, -1};
        c = put_root(cl_store_root(f->store), run_json, run, err);
        if (c == CL_OK) c = put_tables(f, err);
        if (c != CL_OK) trace_unwritten(f, err);
    }
    json_decref(run);
    if (c == CL_OK) *out = f;
    else cl_trace_file_drop(f);
    return c;
}

/* --- events --- */

static cl_trace_rank *find_rank(cl_trace_file *f, int rank)
{
    for (size_t i = f->n_ranks; i-- > 0;)
        if (f->ranks[i].rank == rank) return &f->ranks[i];
    return NULL;
}

static cl_code close_table(cl_trace_file *f, cl_err *err)
{
    if (f->table.node.id < 0) return CL_OK;
    cl_trace_rank *r = find_rank(f, f->table_rank);
    if (r) r->events = f->table.rows;
    return cl_store_close_table(&f->table, err);
}

/* Makes `rank`'s event table the open one. */
static cl_code select_table(cl_trace_file *f, int rank, cl_err *err)
{
    if (f->table.node.id >= 0 && f->table_rank == rank) return CL_OK;
    char name[32];
    bool there = false;
    snprintf(name, sizeof name, "rank_%04d", rank);
    cl_code c = close_table(f, err);
    if (c == CL_OK) c = cl_store_has(f->events, name, &there, err);
    if (c == CL_OK)
        c = there ? cl_store_open_table(f->events, name, &trace_event_row, &f->table, err)
                  : cl_store_make_table(f->events, name, &trace_event_row, false, TRACE_PIECE, &f->table, err);
    f->table_rank = rank;
    return c;
}

cl_code cl_trace_file_rank(cl_trace_file *f, const cl_trace_rank *r, cl_err *err)
{
    const char *path = cl_store_path(f->store);
    if (r->rank < 0 || (f->n_ranks && r->rank <= f->ranks[f->n_ranks - 1].rank))
        return cl_fail(err, CL_E_INPUT, "%s: rank %d comes out of order (give each rank once, in ascending order)",
                       path, r->rank);
    if (f->n_ranks == f->cap_ranks) {
        size_t cap = f->cap_ranks ? 2 * f->cap_ranks : 16;
        cl_trace_rank *more = cl_realloc(f->ranks, cap, sizeof *more, "rows of the trace", err);
        if (!more) return CL_E_FIT;
        f->ranks = more, f->cap_ranks = cap;
    }
    f->ranks[f->n_ranks++] = *r;
    cl_code c = select_table(f, r->rank, err); /* there even if it stays empty */
    return c == CL_OK ? CL_OK : trace_unwritten(f, err);
}

/* At most TRACE_PIECE records: events and parts apart. */
static cl_code put_piece(cl_trace_file *f, int rank, const cl_event *records, uint64_t n, cl_err *err)
{
    uint64_t events = 0, parts = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (records[i].kind != CL_EV_PART) f->kept[events++] = records[i];
        else {
            f->kept_parts[parts] = log_part(&records[i]);
            f->kept_parts[parts++].rank = rank;
        }
    }
    cl_code c = cl_store_append(&f->table, f->kept, events, err);
    return c == CL_OK ? cl_store_append(&f->parts, f->kept_parts, parts, err) : c;
}

cl_code cl_trace_file_events(cl_trace_file *f, int rank, const cl_event *records, uint64_t n, cl_err *err)
{
    if (rank < 0)
        return cl_fail(err, CL_E_INPUT, "%s: events of rank %d (ranks count from 0)", cl_store_path(f->store), rank);
    cl_code c = select_table(f, rank, err);
    for (uint64_t i = 0; c == CL_OK && i < n; i += TRACE_PIECE)
        c = put_piece(f, rank, records + i, n - i < TRACE_PIECE ? n - i : TRACE_PIECE, err);
    return c == CL_OK ? CL_OK : trace_unwritten(f, err);
}

cl_code cl_trace_file_requests(cl_trace_file *f, const cl_trace_request *r, uint64_t n, cl_err *err)
{
    cl_trace_request *all = cl_realloc(f->requests, f->n_requests + n, sizeof *all, "rows of the trace", err);
    if (!all) return CL_E_FIT;
    if (n) memcpy(all + f->n_requests, r, n * sizeof *r);
    f->requests = all;
    f->n_requests += n;
    return CL_OK;
}

/* --- the end --- */

static void free_file(cl_trace_file *f)
{
    free(f->kept);
    free(f->kept_parts);
    free(f->ranks);
    free(f->requests);
    free(f);
}

cl_code cl_trace_file_commit(cl_trace_file *f, cl_err *err)
{
    cl_store_node root = cl_store_root(f->store);
    cl_code c = close_table(f, err);
    if (c == CL_OK) c = cl_store_close_table(&f->parts, err);
    if (c == CL_OK) c = cl_store_put_table(root, "ranks", &trace_rank_row, f->ranks, f->n_ranks, err);
    if (c == CL_OK) c = cl_store_put_table(root, "requests", &trace_request_row, f->requests, f->n_requests, err);
    cl_store_release(&f->events);
    if (c != CL_OK) {
        trace_unwritten(f, err);
        cl_trace_file_drop(f);
        return c;
    }
    c = cl_store_commit(f->store, err);
    free_file(f);
    return c;
}

void cl_trace_file_drop(cl_trace_file *f)
{
    if (!f) return;
    cl_store_drop(f->store);
    free_file(f);
}
