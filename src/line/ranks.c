/* ranks.c: start and end of the ranks. */
#include "ranks_internal.h"

#include <stdlib.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *cl_ranks_library(void)
{
#ifdef OMPI_MAJOR_VERSION
    return "Open MPI " TEXT(OMPI_MAJOR_VERSION) "." TEXT(OMPI_MINOR_VERSION) "." TEXT(OMPI_RELEASE_VERSION);
#else
    return "MPI " TEXT(MPI_VERSION) "." TEXT(MPI_SUBVERSION);
#endif
}

/* Before the seats are known there may be fewer cores than threads. */
void cl_ranks_set_waiting(cl_ranks *r, const cl_waiting *waiting)
{
    r->waiting = *waiting;
    r->blocks |= waiting->how == CL_WAIT_BLOCK;
    bool crowd = !waiting->threads || r->seat.ranks_here * waiting->threads > r->seat.cores_here;
    r->yields = waiting->how == CL_WAIT_YIELD || (waiting->how == CL_WAIT_AUTO && crowd);
}

/* Only the thread that called this ever calls MPI; the chip's other threads never do. */
static cl_code start_mpi(int *argc, char ***argv, cl_err *err)
{
    int provided = MPI_THREAD_SINGLE;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return cl_fail(err, CL_E_RUN, "MPI: cannot start (run it under mpirun or srun, or check the MPI installation)");
    if (provided >= MPI_THREAD_FUNNELED) return CL_OK;
    MPI_Finalize();
    return cl_fail(err, CL_E_RUN, "MPI: %s does not let programs have threads (use an MPI library that does)",
                   cl_ranks_library());
}

cl_code cl_ranks_start(cl_ranks **out, int *argc, char ***argv, const cl_waiting *waiting, cl_err *err)
{
    cl_ranks *r = cl_calloc(1, sizeof *r, "ranks", err);
    if (!r) return CL_E_FIT;
    cl_code c = start_mpi(argc, argv, err);
    if (c != CL_OK) {
        free(r);
        return c;
    }
    r->comm = MPI_COMM_WORLD;
    MPI_Comm_set_errhandler(r->comm, MPI_ERRORS_RETURN);
    MPI_TRY(r, MPI_Comm_rank(r->comm, &r->rank));
    MPI_TRY(r, MPI_Comm_size(r->comm, &r->size));
    life_begin(r);
    cl_ranks_set_waiting(r, waiting);
    seats_find(r);
    cl_ranks_set_waiting(r, waiting);
    r->baseline = cl_rss_bytes();
    *out = r;
    return CL_OK;
}

/* MPI_Finalize waits for all in a way of its own, so all come here first. */
void cl_ranks_end(cl_ranks *r)
{
    if (!r) return;
    cl_ranks_phase(r, "ending");
    cl_ranks_barrier(r);
    MPI_Finalize();
    seats_free(r);
    free(r);
}

cl_code cl_ranks_same(cl_ranks *r, uint64_t hash, const char *what, cl_err *err)
{
    uint64_t first = hash;
    cl_ranks_bcast(r, &first, sizeof first);
    cl_code c = first == hash ? CL_OK
                              : cl_fail(err, CL_E_INPUT,
                                        "%s: rank %d on %s has another one than rank 0 on %s (the same files and the "
                                        "same program must be on all hosts: copy them again)",
                                        what, r->rank, cl_ranks_host(r), cl_ranks_host_of(r, 0));
    return cl_ranks_agree(r, c, err);
}

int cl_ranks_rank(const cl_ranks *r) { return r->rank; }
int cl_ranks_size(const cl_ranks *r) { return r->size; }
cl_seat cl_ranks_seat(const cl_ranks *r) { return r->seat; }
uint64_t cl_ranks_baseline_bytes(const cl_ranks *r) { return r->baseline; }
