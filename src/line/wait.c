/* wait.c: the only place where a rank waits: for messages, for other chips of the stage, for something of its own.
 *
 * While it waits, messages move, ranks that ask are answered, and the rank that is waited for is watched. A wait that
 * takes long gives the core away, in steps: spinning, yielding, short sleeps, sleeps that cost next to nothing. */
#include <time.h>

#include "ranks_internal.h"

static const double SPIN_S = 50e-6; /* a spinning rank yields after this: what it waits for may need the core */
static const double DOZE_S = 0.05, IDLE_S = 0.5; /* long waits cost no core: then each turn is a sleep */
enum { CROWDED_TURNS = 500, SLEEP_NS = 20000, DOZE_NS = 200000, IDLE_NS = 1800000 };
enum { TURNS_A_LOOK = 64, IDLE_TURNS_A_LOOK = 16 };

/* One wait. */
typedef struct waited {
    uint64_t tries, start;
    double s;      /* how long, when the clock was last looked at */
    double before; /* it goes on where one of that many seconds has stopped */
} waited;

static void rest(long ns) { nanosleep(&(struct timespec){.tv_nsec = ns}, NULL); }

/* Where yielding shows that others want the core, a short sleep gets it back sooner than another yield: who yields
 * goes to the end of the queue, who wakes up to its head. */
static void give_way(cl_ranks *r)
{
    if (r->crowded > 0) {
        r->crowded--;
        rest(SLEEP_NS);
    } else if (cl_yield()) {
        r->crowded = CROWDED_TURNS;
    }
}

/* Not there yet. */
static void turn(cl_ranks *r, waited *t)
{
    const double s = t->before + t->s;
    const bool dozes = s > DOZE_S, idles = s > IDLE_S;
    if (dozes) rest(idles ? IDLE_NS : DOZE_NS);
    else if (r->yields || s > SPIN_S) give_way(r);
    else cl_spin();
    if (++t->tries % TURNS_A_LOOK && !dozes) return;
    uint64_t now = cl_now_ns();
    if (!t->start) t->start = now;
    t->s = (double)(now - t->start) * 1e-9;
    if (idles && ++r->idle_turns % IDLE_TURNS_A_LOOK) return;
    if (r->move) r->move(r->move_ctx);
    r->look(r, now);
}

static int block(cl_ranks *r, const wait_set *w, MPI_Status *status)
{
    if (w->there || w->seconds > 0) CL_BUG("line: where waiting blocks only messages can be waited for");
    MPI_Request all[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    int which;
    for (int i = 0; i < 2; i++) {
        if (!w->requests[i]) continue;
        if (*w->requests[i] == MPI_REQUEST_NULL) return i;
        all[i] = *w->requests[i];
    }
    MPI_TRY(r, MPI_Waitany(2, all, &which, status));
    if (which == MPI_UNDEFINED) CL_BUG("line: a wait for nothing");
    *w->requests[which] = all[which];
    return which;
}

static bool test(cl_ranks *r, MPI_Request *request, MPI_Status *status)
{
    int done = 0;
    if (request) MPI_TRY(r, MPI_Test(request, &done, status));
    return done;
}

static int spin(cl_ranks *r, const wait_set *w, MPI_Status *status)
{
    waited t = {.before = r->idled};
    r->idled = 0;
    for (;; turn(r, &t)) {
        for (int i = 0; i < 2; i++)
            if (test(r, w->requests[i], status)) return i;
        if (w->there && w->there(w->ctx)) return WAIT_THERE;
        if (w->seconds <= 0 || t.s < w->seconds) continue;
        r->idled = t.before + t.s;
        return WAIT_TIME;
    }
}

bool wait_look(cl_ranks *r, MPI_Request *request, MPI_Status *status) { return !r->blocks && test(r, request, status); }

bool wait_is_done(cl_ranks *r, MPI_Request *request)
{
    return *request == MPI_REQUEST_NULL || wait_look(r, request, MPI_STATUS_IGNORE);
}

int wait_any(cl_ranks *r, const wait_set *w, MPI_Status *status)
{
    if (r->blocks) return block(r, w, status);
    r->life.watch = (watch){.peer = w->peer, .what = w->what};
    int which = spin(r, w, status);
    r->life.watch.peer = -1;
    return which;
}

void wait_one(cl_ranks *r, MPI_Request *request, MPI_Status *status, const char *what, int peer)
{
    if (*request == MPI_REQUEST_NULL) return;
    const wait_set w = {.requests = {request}, .what = what, .peer = peer};
    wait_any(r, &w, status);
}

void wait_until(cl_ranks *r, bool (*there)(void *ctx), void *ctx, const char *what, int peer)
{
    const wait_set w = {.there = there, .ctx = ctx, .what = what, .peer = peer};
    if (there(ctx)) return;
    wait_any(r, &w, MPI_STATUS_IGNORE);
}

/* --- messages of any size --- */

enum { PIECE = 1 << 26 };

void wait_send(cl_ranks *r, const void *data, size_t bytes, int to, int tag, const char *what)
{
    size_t at = 0;
    do {
        MPI_Request send;
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        MPI_TRY(r, MPI_Isend((const char *)data + at, (int)n, MPI_BYTE, to, tag, r->comm, &send));
        wait_one(r, &send, MPI_STATUS_IGNORE, what, to);
        at += n;
    } while (at < bytes);
}

size_t wait_recv_most(cl_ranks *r, void *data, size_t most, int from, int tag, const char *what)
{
    MPI_Request recv;
    MPI_Status status;
    int n = 0;
    MPI_TRY(r, MPI_Irecv(data, (int)most, MPI_BYTE, from, tag, r->comm, &recv));
    wait_one(r, &recv, &status, what, from);
    MPI_TRY(r, MPI_Get_count(&status, MPI_BYTE, &n));
    return (size_t)n;
}

void wait_recv(cl_ranks *r, void *data, size_t bytes, int from, int tag, const char *what)
{
    size_t at = 0;
    do {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        size_t got = wait_recv_most(r, (char *)data + at, n, from, tag, what);
        if (got != n)
            cl_ranks_abort(r, CL_E_RUN, "rank %d: %zu bytes of rank %d, not %zu (a bug: please report it)", r->rank,
                           got, from, n);
        at += n;
    } while (at < bytes);
}
