/* file.c: TRACE.h5, written: the only place of this room that knows HDF5. The schema is written down in
 * analysis/README.md.
 *
 * Rank and request rows are kept until commit (they are few), events go to the file as they come. Every failing HDF5
 * call is reported with the library's own innermost reason.
 *
 * A full disk: HDF5 1.10 keeps the id of an object whose close failed, with the object's memory freed, and crashes
 * when it meets that id again. So everything is flushed before it is closed, after a failure nothing is closed any
 * more (the process is about to end), and the library's exit handler, which would close it, is not installed. */
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chipline/json.h"
#include "kinds.h"
#include "routing.h"

enum { CHUNK_ROWS = 4096, MAX_ATTRIBUTE = 32768 /* an object header message holds 64 KiB */ };

/* --- tables: what a column is called, what it means, where it lies in the struct --- */
typedef struct column {
    const char *name, *unit, *text;
    enum { U64, I64, I32, F64, STR } type;
    size_t offset, size; /* size: of a text */
} column;

#define COL(type, struct_, member, unit, text)                                               \
    {                                                                                        \
#member, unit, text, type, offsetof(struct_, member), sizeof(((struct_ *)0)->member) \
    }

static const column event_columns[] = {
    COL(U64, cl_event, start_ns, "ns",
        "start, CLOCK_MONOTONIC of the rank's host; add clock_offset_ns of /ranks for rank 0's clock"),
    COL(U64, cl_event, end_ns, "ns", "end, same clock"),
    COL(U64, cl_event, cpu_ns, "ns", "CPU time of the recording thread between start and end"),
    COL(U64, cl_event, weight_bytes, "byte", "weight bytes read, each distinct byte once, by all threads of the rank"),
    COL(U64, cl_event, kv_bytes, "byte", "KV cache bytes read"),
    COL(U64, cl_event, msg_bytes, "byte",
        "bytes sent or received; of a layer, the embedding and the head: got in gathers inside the stage"),
    COL(U64, cl_event, gather_ns, "ns",
        "of the time between start and end, spent in exchanges inside the stage: waiting for its other chips, mostly"),
    COL(I64, cl_event, microbatch, "", "number of the micro-batch, the same on every rank; -1: none"),
    COL(I32, cl_event, kind, "", "what happened: id of /kinds"),
    COL(I32, cl_event, layer, "", "layer of the model, from 0; -1: none"),
    COL(I32, cl_event, tokens, "token", "tokens in the micro-batch"),
    COL(I32, cl_event, parts, "sequence", "sequences in the micro-batch; fewer than tokens: a prompt is in it"),
    COL(I32, cl_event, peer, "", "rank of the other side of a message; -1: none"),
    COL(I32, cl_event, waits_for, "", "recv: the rank whose message ended the wait; -1: none"),
    COL(I32, cl_event, experts, "expert", "distinct experts read"),
    COL(I32, cl_event, gathers, "gather", "exchanges inside the stage that are part of this event"),
};

static const column rank_columns[] = {
    COL(I32, cl_trace_rank, rank, "", "rank"),
    COL(I32, cl_trace_rank, replica, "", "which of the lines side by side, from 0"),
    COL(I32, cl_trace_rank, stage, "", "stage of the line, from 0"),
    COL(I32, cl_trace_rank, member, "", "place inside the stage, from 0"),
    COL(I32, cl_trace_rank, threads, "thread", "threads that compute"),
    COL(I32, cl_trace_rank, host_cores, "core", "cores of the host that the job may use; 0: unknown"),
    COL(STR, cl_trace_rank, host, "", "host name"),
    COL(STR, cl_trace_rank, cpu, "", "processor"),
    COL(I64, cl_trace_rank, clock_offset_ns, "ns", "add to this rank's times to get rank 0's clock"),
    COL(I64, cl_trace_rank, clock_uncertainty_ns, "ns",
        "half of the best round trip with rank 0: the offset is right within this"),
    COL(U64, cl_trace_rank, slice_bytes, "byte", "weights kept by this rank"),
    COL(U64, cl_trace_rank, kv_bytes, "byte", "KV cache kept by this rank"),
    COL(U64, cl_trace_rank, budget_bytes, "byte",
        "memory that slice and KV cache had to fit into; 0: no limit was given"),
    COL(U64, cl_trace_rank, baseline_bytes, "byte", "resident memory of the process after MPI_Init"),
    COL(U64, cl_trace_rank, peak_rss_bytes, "byte", "largest resident memory of the process"),
    COL(I32, cl_trace_rank, first_layer, "", "first layer of this rank"),
    COL(I32, cl_trace_rank, n_layers, "layer", "layers of this rank"),
    COL(F64, cl_trace_rank, probe_bytes_per_s, "byte/s",
        "read bandwidth of this rank's threads, all ranks of the host probing at once; 0: not probed"),
    COL(U64, cl_trace_rank, events, "event", "events recorded"),
    COL(U64, cl_trace_rank, dropped, "event", "events lost because the disk was full"),
};

static const column request_columns[] = {
    COL(STR, cl_trace_request, id, "", "the request's id"),
    COL(I32, cl_trace_request, prompt_tokens, "token", "tokens of the prompt"),
    COL(I32, cl_trace_request, completion_tokens, "token", "tokens generated"),
    COL(U64, cl_trace_request, arrived_ns, "ns", "when it entered the queue, rank 0's clock"),
    COL(U64, cl_trace_request, started_ns, "ns", "when its first token entered the line"),
    COL(U64, cl_trace_request, first_token_ns, "ns", "when its first generated token was known on rank 0"),
    COL(U64, cl_trace_request, finished_ns, "ns", "when its last token was known on rank 0"),
    COL(STR, cl_trace_request, finish_reason, "", "stop, length or error"),
};

typedef struct kind_row {
    int32_t id;
    char name[16], level[8], description[128];
} kind_row;

static const column kind_columns[] = {
    COL(I32, kind_row, id, "", "value of the column kind of /events"),
    COL(STR, kind_row, name, "", "name"),
    COL(STR, kind_row, level, "", "least --trace-level that records it"),
    COL(STR, kind_row, description, "", "meaning"),
};

#define N_COLUMNS(c) (sizeof(c) / sizeof *(c))

/* must come before any other HDF5 call */
__attribute__((constructor)) static void no_exit_handler(void) { H5dont_atexit(); }

struct cl_trace_file {
    char *path, *tmp;
    bool failed;        /* something could not be written */
    hid_t file, events; /* events: the group */
    hid_t table;        /* the open event table, of table_rank; -1: none */
    int table_rank;
    uint64_t table_rows;
    cl_trace_rank *ranks;
    size_t n_ranks, cap_ranks;
    cl_trace_request *requests;
    size_t n_requests;
};

/* --- errors: HDF5's messages are caught, not printed --- */
typedef struct quiet { /* the handler that was there, and the first reason of a failure since */
    H5E_auto2_t fn;
    void *data;
    char why[400];
} quiet;

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *why)
{
    if (n == 0 && e->desc) snprintf(why, sizeof((quiet *)0)->why, "%s", e->desc);
    return 0;
}

/* Called by the library where a call fails; the next call would clear its stack. */
static herr_t catch (hid_t stack, void *q)
{
    return *((quiet *)q)->why ? 0 : H5Ewalk2(stack, H5E_WALK_UPWARD, innermost, ((quiet *)q)->why);
}

static void hush(quiet *q)
{
    q->why[0] = '\0';
    H5Eget_auto2(H5E_DEFAULT, &q->fn, &q->data);
    H5Eset_auto2(H5E_DEFAULT, catch, q);
}
static void unhush(const quiet *q) { H5Eset_auto2(H5E_DEFAULT, q->fn, q->data); }

/* "TRACE.h5: cannot write WHAT: No space left on device (...)" */
static cl_code h5_fail(cl_trace_file *f, const quiet *q, cl_code code, const char *what, cl_err *err)
{
    f->failed = true;
    char why[sizeof q->why];
    snprintf(why, sizeof why, "%s", *q->why ? q->why : "HDF5 gives no reason");
    char *cause = strstr(why, "error message = '"), *end; /* the system's own words, where it was a system call */
    if (cause && (end = strchr(cause += strlen("error message = '"), '\''))) *end = '\0';
    else cause = why;
    return cl_fail(err, code, "%s: cannot write %s: %s (choose a folder that can be written and has room)", f->path,
                   what, cause);
}

/* --- types and tables --- */
static hid_t text_type(size_t size)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && (H5Tset_size(t, size) < 0 || H5Tset_cset(t, H5T_CSET_UTF8) < 0)) {
        H5Tclose(t);
        return -1;
    }
    return t;
}

/* The struct's type in memory, or (packed) in the file: little-endian, no gaps. */
static hid_t table_type(const column *c, size_t n, size_t struct_size, bool packed)
{
    const hid_t memory[] = {H5T_NATIVE_UINT64, H5T_NATIVE_INT64, H5T_NATIVE_INT32, H5T_NATIVE_DOUBLE};
    const hid_t file[] = {H5T_STD_U64LE, H5T_STD_I64LE, H5T_STD_I32LE, H5T_IEEE_F64LE};
    size_t at = 0, total = 0;
    for (size_t i = 0; i < n; i++) total += c[i].size;
    hid_t t = H5Tcreate(H5T_COMPOUND, packed ? total : struct_size);
    for (size_t i = 0; i < n && t >= 0; i++) {
        hid_t type = c[i].type == STR ? text_type(c[i].size) : packed ? file[c[i].type] : memory[c[i].type];
        bool ok = type >= 0 && H5Tinsert(t, c[i].name, packed ? at : c[i].offset, type) >= 0;
        if (c[i].type == STR && type >= 0) H5Tclose(type);
        if (!ok) {
            H5Tclose(t);
            t = -1;
        }
        at += c[i].size;
    }
    return t;
}

static bool add_attribute(hid_t on, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = space < 0 ? -1 : H5Acreate2(on, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, type, value) >= 0;
    if (a >= 0) H5Aclose(a);
    if (space >= 0) H5Sclose(space);
    return ok;
}

/* Of fixed length: strings of variable length lie in HDF5's global heap, and reading a damaged heap crashes the
 * library. */
static bool add_text(hid_t on, const char *name, const char *text)
{
    hid_t t = text_type(strlen(text) + 1);
    bool ok = t >= 0 && add_attribute(on, name, t, text);
    if (t >= 0) H5Tclose(t);
    return ok;
}

/* What the columns mean and in which units, as attributes of a table or of the group of such tables. */
static bool describe(hid_t on, const column *c, size_t n)
{
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.unit", c[i].name);
        ok = add_text(on, name, c[i].unit);
        snprintf(name, sizeof name, "%s.description", c[i].name);
        ok = ok && add_text(on, name, c[i].text);
    }
    return ok;
}

/* An empty table that grows (chunked, shuffled, deflated where the library can) or, with fixed, one of exactly that
 * many rows. */
static hid_t create_table(hid_t in, const char *name, const column *c, size_t n, const hsize_t *fixed)
{
    const hsize_t zero = 0, unlimited = H5S_UNLIMITED, chunk = CHUNK_ROWS;
    hid_t type = table_type(c, n, 0, true), table = -1;
    hid_t space = fixed ? H5Screate_simple(1, fixed, NULL) : H5Screate_simple(1, &zero, &unlimited);
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    bool ok = type >= 0 && space >= 0 && how >= 0;
    if (ok && !fixed) {
        ok = H5Pset_chunk(how, 1, &chunk) >= 0;
        if (ok && H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0) ok = H5Pset_shuffle(how) >= 0 && H5Pset_deflate(how, 1) >= 0;
    }
    if (ok) table = H5Dcreate2(in, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    if (how >= 0) H5Pclose(how);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return table;
}

/* n rows of the struct from row `first` on; the table is long enough. */
static bool write_rows(hid_t table, const column *c, size_t n_columns, size_t struct_size, const void *rows,
                       hsize_t first, hsize_t n)
{
    if (n == 0) return true;
    hid_t type = table_type(c, n_columns, struct_size, false), space = H5Dget_space(table),
          from = H5Screate_simple(1, &n, NULL);
    bool ok = type >= 0 && space >= 0 && from >= 0 &&
              H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, NULL, &n, NULL) >= 0 &&
              H5Dwrite(table, type, from, space, H5P_DEFAULT, rows) >= 0;
    if (from >= 0) H5Sclose(from);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return ok;
}

static bool whole_table(hid_t in, const char *name, const column *c, size_t n_columns, size_t struct_size,
                        const void *rows, hsize_t n)
{
    hid_t table = create_table(in, name, c, n_columns, &n);
    bool ok = table >= 0 && describe(table, c, n_columns) && write_rows(table, c, n_columns, struct_size, rows, 0, n);
    return ok && H5Dclose(table) >= 0;
}

/* --- what stands at the root --- */
static bool write_kinds(hid_t file)
{
    kind_row rows[CL_EV_KINDS];
    memset(rows, 0, sizeof rows);
    for (int k = 0; k < CL_EV_KINDS; k++) {
        rows[k].id = k;
        snprintf(rows[k].name, sizeof rows[k].name, "%s", cl_event_name((cl_event_kind)k));
        snprintf(rows[k].level, sizeof rows[k].level, "%s", trace_level_name(cl_event_level((cl_event_kind)k)));
        snprintf(rows[k].description, sizeof rows[k].description, "%s", trace_kind_text((cl_event_kind)k));
    }
    return whole_table(file, "kinds", kind_columns, N_COLUMNS(kind_columns), sizeof *rows, rows, CL_EV_KINDS);
}

static bool write_run(hid_t file, const char *json)
{
    hid_t type = text_type(strlen(json) + 1), space = H5Screate(H5S_SCALAR), d = -1;
    if (type >= 0 && space >= 0) d = H5Dcreate2(file, "run", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool ok =
        d >= 0 && H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, json) >= 0 &&
        add_text(d, "description", "the run, as a JSON object; its scalar members are attributes of the root too");
    if (ok) ok = H5Dclose(d) >= 0;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return ok;
}

/* A scalar of the run's description as an attribute; anything else, and a name that is taken, stays in /run alone. */
static bool run_attribute(hid_t file, const char *name, const json_t *v)
{
    if (*name == '\0' || H5Aexists(file, name) != 0) return true;
    int64_t i = json_integer_value(v);
    double d = json_real_value(v);
    if (json_is_integer(v)) return add_attribute(file, name, H5T_NATIVE_INT64, &i);
    if (json_is_real(v)) return add_attribute(file, name, H5T_NATIVE_DOUBLE, &d);
    if (json_is_string(v)) return json_string_length(v) >= MAX_ATTRIBUTE || add_text(file, name, json_string_value(v));
    if (!json_is_boolean(v)) return true;
    int8_t b = 0; /* h5py's and PyTables' boolean */
    hid_t t = H5Tenum_create(H5T_NATIVE_INT8);
    bool ok = t >= 0 && H5Tenum_insert(t, "FALSE", &b) >= 0 && (b = 1, H5Tenum_insert(t, "TRUE", &b) >= 0);
    b = json_is_true(v);
    ok = ok && add_attribute(file, name, t, &b);
    if (t >= 0) H5Tclose(t);
    return ok;
}

static bool write_root(hid_t file, const char *run_json, json_t *run)
{
    int32_t version = CL_TRACE_VERSION;
    if (!add_text(file, "schema", "chipline trace") ||
        !add_attribute(file, "schema_version", H5T_NATIVE_INT32, &version) || !add_text(file, "creator", "chipline") ||
        !add_text(file, "units",
                  "times in ns, sizes in byte; NAME.unit and NAME.description explain each column, beside the tables, "
                  "or for events on /events") ||
        !write_run(file, run_json) || !write_kinds(file))
        return false;
    const char *name;
    json_t *v;
    json_object_foreach(run, name, v) if (!run_attribute(file, name, v)) return false;
    return true;
}

/* --- the file --- */
/* Nobody else knows the temporary name, and parallel file systems often refuse HDF5's lock. */
static bool set_access(hid_t access)
{
    /* tables are written whole, not collected until they are closed */
    if (H5Pset_sieve_buf_size(access, 0) < 0) return false;
#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
    return H5Pset_file_locking(access, false, true) >= 0;
#else
    return true;
#endif
}

cl_code cl_trace_file_create(cl_trace_file **out, const char *path, const char *run_json, cl_err *err)
{
    *out = NULL;
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return cl_fail(err, CL_E_INPUT, "%s: is %s (give a file name)", path,
                       S_ISDIR(st.st_mode) ? "a folder" : "not a regular file");
    json_t *run;
    cl_code code = cl_json_parse(run_json, strlen(run_json), "description of the run", &run, err);
    if (code) return code;
    if (!json_is_object(run)) {
        json_decref(run);
        return cl_fail(err, CL_E_INPUT, "description of the run: not a JSON object (write {...})");
    }
    cl_trace_file *f = cl_calloc(1, sizeof *f, "trace file", err);
    code = CL_E_FIT;
    if (f) {
        f->file = f->events = f->table = -1;
        f->path = cl_strdup(path, err);
        f->tmp = cl_tmp_name(path, err);
    }
    if (!f || !f->path || !f->tmp) goto fail;
    quiet q;
    hush(&q);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0 && set_access(access)) f->file = H5Fcreate(f->tmp, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    if (access >= 0) H5Pclose(access);
    if (f->file < 0) code = h5_fail(f, &q, CL_E_INPUT, "the trace", err);
    else if (!write_root(f->file, run_json, run) ||
             (f->events = H5Gcreate2(f->file, "events", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)) < 0 ||
             !describe(f->events, event_columns, N_COLUMNS(event_columns)))
        code = h5_fail(f, &q, CL_E_RUN, "the description of the run", err);
    else code = CL_OK;
    unhush(&q);
    if (code) goto fail;
    json_decref(run);
    *out = f;
    return CL_OK;
fail:
    json_decref(run);
    cl_trace_file_drop(f);
    return code;
}

static void table_name(char name[32], int rank) { snprintf(name, 32, "rank_%04d", rank); }

/* Makes `rank`'s event table the open one. */
static bool select_table(cl_trace_file *f, int rank)
{
    if (f->table >= 0 && f->table_rank == rank) return true;
    if (f->table >= 0 && (H5Dflush(f->table) < 0 || H5Dclose(f->table) < 0)) return false;
    char name[32];
    table_name(name, rank);
    f->table = H5Lexists(f->events, name, H5P_DEFAULT) > 0
                   ? H5Dopen2(f->events, name, H5P_DEFAULT)
                   : create_table(f->events, name, event_columns, N_COLUMNS(event_columns), NULL);
    if (f->table < 0) return false;
    f->table_rank = rank;
    hid_t space = H5Dget_space(f->table);
    hssize_t rows = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0) H5Sclose(space);
    f->table_rows = rows < 0 ? 0 : (uint64_t)rows;
    return rows >= 0;
}

cl_code cl_trace_file_rank(cl_trace_file *f, const cl_trace_rank *r, cl_err *err)
{
    if (r->rank < 0 || (f->n_ranks && r->rank <= f->ranks[f->n_ranks - 1].rank))
        return cl_fail(err, CL_E_INPUT, "%s: rank %d comes out of order (give each rank once, in ascending order)",
                       f->path, r->rank);
    if (f->n_ranks == f->cap_ranks) {
        size_t cap = f->cap_ranks ? 2 * f->cap_ranks : 16;
        cl_trace_rank *more = cl_realloc(f->ranks, cap, sizeof *more, "rows of the trace", err);
        if (!more) return CL_E_FIT;
        f->ranks = more, f->cap_ranks = cap;
    }
    f->ranks[f->n_ranks++] = *r;
    quiet q;
    hush(&q);
    /* there even if it stays empty */
    cl_code code = select_table(f, r->rank) ? CL_OK : h5_fail(f, &q, CL_E_RUN, "a table of events", err);
    unhush(&q);
    return code;
}

cl_code cl_trace_file_events(cl_trace_file *f, int rank, const cl_event *events, uint64_t n, cl_err *err)
{
    if (rank < 0) return cl_fail(err, CL_E_INPUT, "%s: events of rank %d (ranks count from 0)", f->path, rank);
    quiet q;
    hush(&q);
    bool ok = select_table(f, rank);
    hsize_t rows = f->table_rows + n;
    ok = ok && H5Dset_extent(f->table, &rows) >= 0 &&
         write_rows(f->table, event_columns, N_COLUMNS(event_columns), sizeof *events, events, f->table_rows, n);
    cl_code code = ok ? CL_OK : h5_fail(f, &q, CL_E_RUN, "events", err);
    if (ok) f->table_rows = rows;
    unhush(&q);
    return code;
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

cl_code cl_trace_file_routing(cl_trace_file *f, const uint64_t *chosen, int layers, int experts, cl_err *err)
{
    quiet q = {0};
    hush(&q);
    cl_code c = trace_write_routing(f->file, chosen, layers, experts) ? CL_OK
                                                                      : h5_fail(f, &q, CL_E_RUN, "the routing", err);
    unhush(&q);
    return c;
}

/* Closes everything; false if something that was written did not reach the file. */
static bool close_all(cl_trace_file *f)
{
    bool ok = f->file < 0 || H5Fflush(f->file, H5F_SCOPE_GLOBAL) >= 0;
    ok = ok && (f->table < 0 || H5Dclose(f->table) >= 0) && (f->events < 0 || H5Gclose(f->events) >= 0) &&
         (f->file < 0 || H5Fclose(f->file) >= 0);
    f->file = f->events = f->table = -1;
    return ok;
}

static bool sync_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0) close(fd);
    errno = why;
    return ok;
}

cl_code cl_trace_file_commit(cl_trace_file *f, cl_err *err)
{
    quiet q;
    hush(&q);
    bool ok =
        whole_table(f->file, "ranks", rank_columns, N_COLUMNS(rank_columns), sizeof *f->ranks, f->ranks, f->n_ranks) &&
        whole_table(f->file, "requests", request_columns, N_COLUMNS(request_columns), sizeof *f->requests, f->requests,
                    f->n_requests) &&
        close_all(f);
    cl_code code = ok ? CL_OK : h5_fail(f, &q, CL_E_RUN, "the trace", err);
    unhush(&q);
    if (ok && !sync_file(f->tmp))
        code = cl_fail(err, CL_E_RUN, "%s: cannot write the trace: %s (choose a folder with room)", f->path,
                       strerror(errno));
    if (code == CL_OK) code = cl_rename_new(f->tmp, f->path, err);
    if (code == CL_OK) {
        free(f->tmp);
        f->tmp = NULL;
    }
    cl_trace_file_drop(f);
    return code;
}

void cl_trace_file_drop(cl_trace_file *f)
{
    if (!f) return;
    quiet q;
    hush(&q);
    if (!f->failed) close_all(f);
    unhush(&q);
    if (f->tmp) unlink(f->tmp);
    free(f->tmp);
    free(f->path);
    free(f->ranks);
    free(f->requests);
    free(f);
}
