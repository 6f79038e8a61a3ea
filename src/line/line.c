/* line.c: start and end of the ranks, agreement, clocks. */
#include "line_internal.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void cl_line_mpi_failed(cl_line *l, int code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS) snprintf(text, sizeof text, "error %d", code);
    cl_line_abort(l, CL_E_RUN, "rank %d: %.40s failed: %s (a rank or a link is gone)", l->rank, call, text);
}

_Noreturn void cl_line_abort(cl_line *l, cl_code code, const char *fmt, ...)
{
    va_list ap;
    char msg[1024];
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    fprintf(stderr, "chipline: %s\n", msg);
    fflush(NULL);
    MPI_Abort(l->comm, (int)code);
    _exit((int)code);
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *cl_line_library(void)
{
#ifdef OMPI_MAJOR_VERSION
    return "Open MPI " TEXT(OMPI_MAJOR_VERSION) "." TEXT(OMPI_MINOR_VERSION) "." TEXT(OMPI_RELEASE_VERSION);
#else
    return "MPI " TEXT(MPI_VERSION) "." TEXT(MPI_SUBVERSION);
#endif
}

/* What ranks tell each other of where they are. */
typedef struct place {
    char host[64];
    cpu_set_t cores; /* that this rank may run on */
} place;

static place own_place(void)
{
    place p;
    memset(&p, 0, sizeof p);
    if (gethostname(p.host, sizeof p.host - 1)) strcpy(p.host, "unknown");
    if (sched_getaffinity(0, sizeof p.cores, &p.cores) != 0)
        for (long i = 0; i < sysconf(_SC_NPROCESSORS_ONLN) && i < CPU_SETSIZE; i++) CPU_SET((size_t)i, &p.cores);
    return p;
}

static void compare_places(cl_line *l, const place *all)
{
    const place *mine = &all[l->rank];
    cpu_set_t together;
    CPU_ZERO(&together);
    for (int r = 0; r < l->size; r++) {
        if (strcmp(all[r].host, mine->host)) continue;
        l->ranks_here++;
        l->sharers += CPU_EQUAL(&all[r].cores, &mine->cores) != 0;
        CPU_OR(&together, &together, &all[r].cores);
    }
    l->cores_here = CPU_COUNT(&together);
    l->cores_mine = CPU_COUNT(&mine->cores);
}

cl_code cl_line_start(cl_line **out, int *argc, char ***argv, cl_err *err)
{
    cl_line *l = cl_calloc(1, sizeof *l, "line", err);
    if (!l) return CL_E_FIT;
    /* Only the thread that called MPI_Init ever calls MPI; the chip's other threads never do. */
    if (MPI_Init(argc, argv) != MPI_SUCCESS) {
        free(l);
        return cl_fail(err, CL_E_RUN, "MPI: cannot start (run it under mpirun or srun, or check the MPI installation)");
    }
    l->comm = MPI_COMM_WORLD;
    MPI_Comm_set_errhandler(l->comm, MPI_ERRORS_RETURN);
    MPI_TRY(l, MPI_Comm_rank(l->comm, &l->rank));
    MPI_TRY(l, MPI_Comm_size(l->comm, &l->size));
    place mine = own_place(), *all = cl_calloc((size_t)l->size, sizeof *all, "host names", err);
    if (!all) cl_line_abort(l, CL_E_FIT, "%s", err->msg);
    strcpy(l->host, mine.host);
    MPI_TRY(l, MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, l->comm));
    compare_places(l, all);
    free(all);
    l->stage = MPI_COMM_NULL;
    l->baseline = cl_rss_bytes();
    *out = l;
    return CL_OK;
}

void cl_line_end(cl_line *l)
{
    if (!l) return;
    cl_line_close(l);
    MPI_Finalize();
    free(l);
}

int cl_line_rank(const cl_line *l) { return l->rank; }
int cl_line_size(const cl_line *l) { return l->size; }
const char *cl_line_host(const cl_line *l) { return l->host; }
int cl_line_ranks_here(const cl_line *l) { return l->ranks_here; }
int cl_line_cores_here(const cl_line *l) { return l->cores_here; }
uint64_t cl_line_baseline_bytes(const cl_line *l) { return l->baseline; }
uint64_t cl_line_wait_ns(const cl_line *l) { return l->wait_ns; }

int cl_line_threads_fit(const cl_line *l)
{
    int share = l->cores_mine / l->sharers;
    return share > 1 ? share : 1;
}

/* --- agreement --- */

cl_code cl_line_agree(cl_line *l, cl_code mine, cl_err *err)
{
    int failing = mine == CL_OK ? l->size : l->rank, first = l->size;
    MPI_TRY(l, MPI_Allreduce(&failing, &first, 1, MPI_INT, MPI_MIN, l->comm));
    if (first == l->size) return CL_OK;
    cl_err told = {.code = mine};
    if (first == l->rank) told = *err, told.code = mine;
    MPI_TRY(l, MPI_Bcast(&told, sizeof told, MPI_BYTE, first, l->comm));
    told.msg[sizeof told.msg - 1] = 0;
    *err = told;
    return told.code;
}

void cl_line_bcast(cl_line *l, void *data, size_t bytes)
{
    MPI_TRY(l, MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, l->comm));
}

void cl_line_gather(cl_line *l, const void *mine, size_t bytes, void *all)
{
    MPI_TRY(l, MPI_Gather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, 0, l->comm));
}

void cl_line_sum(cl_line *l, uint64_t *values, int n)
{
    MPI_TRY(l, MPI_Reduce(l->rank ? values : MPI_IN_PLACE, values, n, MPI_UINT64_T, MPI_SUM, 0, l->comm));
}

void cl_line_barrier(cl_line *l) { MPI_TRY(l, MPI_Barrier(l->comm)); }

/* --- clocks --- */

enum { PINGS = 64 };

void cl_line_clock(cl_line *l, int64_t *offset_ns, int64_t *uncertainty_ns)
{
    *offset_ns = *uncertainty_ns = 0;
    uint64_t there = 0;
    if (l->rank == 0) {
        for (int r = 1; r < l->size; r++)
            for (int i = 0; i < PINGS; i++) {
                MPI_TRY(l, MPI_Recv(NULL, 0, MPI_BYTE, r, TAG_CLOCK, l->comm, MPI_STATUS_IGNORE));
                there = cl_now_ns();
                MPI_TRY(l, MPI_Send(&there, sizeof there, MPI_BYTE, r, TAG_CLOCK, l->comm));
            }
        return;
    }
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < PINGS; i++) {
        uint64_t t0 = cl_now_ns();
        MPI_TRY(l, MPI_Send(NULL, 0, MPI_BYTE, 0, TAG_CLOCK, l->comm));
        MPI_TRY(l, MPI_Recv(&there, sizeof there, MPI_BYTE, 0, TAG_CLOCK, l->comm, MPI_STATUS_IGNORE));
        uint64_t t1 = cl_now_ns(), trip = t1 - t0;
        if (trip >= best) continue;
        best = trip;
        *offset_ns = (int64_t)there - (int64_t)(t0 + trip / 2);
        *uncertainty_ns = (int64_t)(trip + 1) / 2;
    }
}

/* --- bulk, after the run --- */

enum { BULK_PIECE = 1 << 26 };

void cl_line_send_bulk(cl_line *l, const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += BULK_PIECE) {
        size_t n = bytes - at < BULK_PIECE ? bytes - at : BULK_PIECE;
        MPI_TRY(l, MPI_Send((const char *)data + at, (int)n, MPI_BYTE, 0, TAG_BULK, l->comm));
    }
}

void cl_line_recv_bulk(cl_line *l, int from, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += BULK_PIECE) {
        size_t n = bytes - at < BULK_PIECE ? bytes - at : BULK_PIECE;
        MPI_TRY(l, MPI_Recv((char *)data + at, (int)n, MPI_BYTE, from, TAG_BULK, l->comm, MPI_STATUS_IGNORE));
    }
}
