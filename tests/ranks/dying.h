/* dying.h: what a rank says when it ends the job, without ending it: MPI_Abort comes back here. */
#ifndef CHIPLINE_RANKS_DYING_H
#define CHIPLINE_RANKS_DYING_H

#include <setjmp.h>
#include <stdio.h>
#include <unistd.h>

#include "ranks_suite.h"

static jmp_buf alive;
static bool dies;
static int died_with; /* 0: it has not */

int MPI_Abort(MPI_Comm comm, int code)
{
    if (!dies) return PMPI_Abort(comm, code);
    died_with = code;
    longjmp(alive, 1);
}

/* act(ctx) ends the job with this code and these words; CL_OK: it doesn't. */
static void last_words(void (*act)(void *ctx), void *ctx, cl_code code, const char *words)
{
    static char said[1300], want[1300];
    static FILE *f;
    static int kept;
    fflush(stderr);
    kept = dup(2);
    f = tmpfile();
    CU_ASSERT_FATAL(f && kept >= 0 && dup2(fileno(f), 2) == 2);
    dies = true;
    died_with = 0;
    if (!setjmp(alive)) act(ctx);
    dies = false;
    dup2(kept, 2);
    close(kept);
    rewind(f);
    said[fread(said, 1, sizeof said - 1, f)] = 0;
    fclose(f);
    snprintf(want, sizeof want, code == CL_OK ? "" : "chipline: %s\n", words);
    if (died_with != (int)code || strcmp(said, want)) fprintf(stderr, "%d \"%s\", not \"%s\"\n", died_with, said, want);
    CU_ASSERT_EQUAL(died_with, (int)code);
    CU_ASSERT_STRING_EQUAL(said, want);
}

/* A message to that rank; act(ctx) takes one that has come to this rank. */
static void sent(int to, const void *data, size_t bytes, int tag, void (*act)(void *ctx), void *ctx, cl_code code,
                 const char *words)
{
    MPI_Request send;
    MPI_Isend(data, (int)bytes, MPI_BYTE, to, tag, the_ranks->comm, &send);
    last_words(act, ctx, code, words);
    MPI_Wait(&send, MPI_STATUS_IGNORE);
}

/* Every rank sends to the next one and hears the one before. */
static inline int rank_before(void)
{
    const int size = cl_ranks_size(the_ranks);
    return (cl_ranks_rank(the_ranks) + size - 1) % size;
}

static inline void send_round(const void *data, size_t bytes, int tag, void (*act)(void *ctx), void *ctx, cl_code code,
                              const char *words)
{
    sent((cl_ranks_rank(the_ranks) + 1) % cl_ranks_size(the_ranks), data, bytes, tag, act, ctx, code, words);
}

#endif
