/* stands_still.c: a job in which one rank stands still (SIGSTOP) or dies (SIGKILL) at a certain moment; test_dead.py
 * runs it. Stages of 2, 1 and 2 chips, whose steps take a few milliseconds.
 *   stands_still PHASE RANK SIGNAL CARRIER TIMEOUT
 * SIGNAL 0: nothing happens, but the rank is late by three time-outs, polling: it is alive. */
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <mpi.h>

#include "chipline/line.h"

enum { SIZE = 5, STAGES = 3, HIDDEN = 4096, CHUNK = 64 };

typedef struct job {
    cl_ranks *ranks;
    cl_line *line;
    const char *phase;
    int victim, signal;
    double timeout_s;
} job;

static void rest(double s) { nanosleep(&(struct timespec){(time_t)s, (long)((s - (double)(time_t)s) * 1e9)}, NULL); }

/* The moment has come, if it is this one. */
static void reach(job *j, const char *phase)
{
    if (j->ranks) cl_ranks_phase(j->ranks, phase);
    if (strcmp(j->phase, phase)) return;
    if (j->ranks && cl_ranks_rank(j->ranks) != j->victim) return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    dprintf(STDERR_FILENO, "at %.3f\n", (double)now.tv_sec + (double)now.tv_nsec * 1e-9);
    j->phase = "";
    if (j->signal) raise(j->signal);
    for (double s = 0; s < 3 * j->timeout_s; s += 0.01) {
        rest(0.01);
        if (j->ranks) cl_ranks_poll(j->ranks);
    }
}

static cl_line_options options(int rank, cl_carrier carrier)
{
    static const int first[STAGES + 1] = {0, 2, 3, SIZE};
    int k = 0;
    while (first[k + 1] <= rank) k++;
    return (cl_line_options){.limits = {.slots = 2, .context = 4096, .chunk = CHUNK, .hidden = HIDDEN, .vocab = 1000},
                             .prev = {k ? first[k - 1] : 0, k ? first[k] - first[k - 1] : 0},
                             .own = {first[k], first[k + 1] - first[k]},
                             .next = {first[k + 1], k + 1 < STAGES ? first[k + 2] - first[k + 1] : 0},
                             .first = 0,
                             .last = first[STAGES - 1],
                             .exchange_bytes = 64,
                             .carrier = carrier};
}

static void work(job *j, cl_hop *h)
{
    const cl_group *g = cl_line_group(j->line);
    const int32_t cut[] = {0, HIDDEN / 2, HIDDEN};
    const cl_region all = {.data = h->x, .rows = h->mb.n_tokens, .stride = HIDDEN, .cut = cut, .to = -1};
    reach(j, h->mb.n_tokens > 1 ? "reading a prompt" : "decoding");
    rest(0.002);
    cl_line_poll(j->line);
    if (g->members > 1) g->gather(g->ctx, &all, 1);
}

static void lead(job *j)
{
    enum { STEPS = 20 };
    const cl_samples *got;
    int64_t done = 0;
    for (int64_t k = 0; done < STEPS;) {
        if (k < STEPS && k - done < STAGES) {
            cl_hop *h = cl_line_take(j->line);
            h->mb.id = k;
            h->mb.n_parts = 1;
            h->mb.n_tokens = k++ < STEPS / 2 ? CHUNK : 1;
            h->mb.parts[0] = (cl_part){.n_tokens = h->mb.n_tokens};
            cl_line_seal(j->line, h);
            work(j, h);
            cl_line_pass(j->line, h);
        } else if (cl_line_recv_samples(j->line, true, &got)) {
            done++;
        }
    }
    cl_hop *h = cl_line_take(j->line);
    h->kind = CL_HOP_STOP;
    cl_line_seal(j->line, h);
    cl_line_pass(j->line, h);
}

static void follow(job *j, const cl_line_options *o)
{
    cl_sampled part = {0};
    int32_t drawn = 1;
    cl_samples samples = {.n_parts = 1, .n_ids = 1, .parts = &part, .ids = &drawn};
    for (bool stop = false; !stop;) {
        cl_hop *h = cl_line_recv(j->line);
        stop = h->kind == CL_HOP_STOP;
        if (!stop) work(j, h);
        if (!stop && !o->next.members && cl_ranks_rank(j->ranks) == o->last)
            samples.microbatch = h->mb.id, cl_line_send_samples(j->line, &samples);
        if (o->next.members) cl_line_pass(j->line, h);
        else cl_line_release(j->line, h);
    }
}

/* The ranks are not there yet, but for the MPI library: this rank starts that alone. */
static void begin(job *j, int *argc, char ***argv)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    int provided;
    if (strcmp(j->phase, "starting") || !rank || atoi(rank) != j->victim) return;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    reach(j, "starting");
}

int main(int argc, char **argv)
{
    cl_err err;
    if (argc != 6) return 2;
    job j = {.phase = argv[1], .victim = atoi(argv[2]), .signal = atoi(argv[3]), .timeout_s = atof(argv[5])};
    const cl_carrier carrier = !strcmp(argv[4], "shared") ? CL_CARRIER_SHARED : CL_CARRIER_MESSAGES;
    begin(&j, &argc, &argv);
    const cl_waiting waiting = {.stall_timeout_s = j.timeout_s};
    if (cl_ranks_start(&j.ranks, &argc, &argv, &waiting, &err) != CL_OK) return 1;
    if (cl_ranks_size(j.ranks) != SIZE) return 2;
    const cl_line_options o = options(cl_ranks_rank(j.ranks), carrier);
    reach(&j, "agreeing");
    if (cl_ranks_agree(j.ranks, CL_OK, &err) != CL_OK) return 1;
    if (cl_line_open(&j.line, j.ranks, &o, &err) != CL_OK) return 1;
    reach(&j, "loading");
    if (cl_ranks_agree(j.ranks, CL_OK, &err) != CL_OK) return 1;
    cl_ranks_phase(j.ranks, "reading a prompt");
    if (cl_ranks_rank(j.ranks) == 0) lead(&j);
    else follow(&j, &o);
    cl_line_drain(j.line);
    reach(&j, "collecting");
    int mine = 1, all[SIZE];
    cl_ranks_gather(j.ranks, &mine, sizeof mine, all);
    cl_line_close(j.line);
    reach(&j, "ending");
    cl_ranks_end(j.ranks);
    return 0;
}
