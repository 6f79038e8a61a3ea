/* life.c: who is dead?
 *
 * Whoever waits for a rank asks it now and then; whoever waits or polls answers. A rank that answers is alive,
 * however long it lets others wait: it waits for somebody itself, whom it asks. One that has not answered for the
 * stall time-out, counted from when the waiting began, stands still, or the link to it is gone. Whoever finds that
 * tells rank 0 (rank 1 if rank 0 is meant), so that one message is written by one rank, which then ends the job; if
 * nothing has happened a second later, it does so itself, lower ranks sooner.
 *
 * Answers carry what a rank does, and for whom it waits. */
#include <stddef.h>
#include <stdio.h>

#include "ranks_internal.h"

enum { ASK = 1, ANSWER, DEAD };
static const uint64_t LOOK_NS = 20000000, ASK_NS = 5000000000, SECOND_NS = 1000000000;

void life_begin(cl_ranks *r)
{
    r->look = life_look;
    r->life.phase = "starting";
    r->life.watch.peer = -1;
    for (int i = 0; i < LIFE_SENDS; i++) r->life.sends[i] = MPI_REQUEST_NULL;
}

void cl_ranks_phase(cl_ranks *r, const char *doing) { r->life.phase = doing; }

/* --- notes of life and death: small, and sent without waiting --- */

/* A buffer that is free; NULL: all are on their way (to ranks that stand still, say). */
static life_note *free_note(cl_ranks *r, MPI_Request **send)
{
    for (int i = 0; i < LIFE_SENDS; i++) {
        if (!wait_is_done(r, &r->life.sends[i])) continue;
        *send = &r->life.sends[i];
        return &r->life.notes[i];
    }
    return NULL;
}

static bool send(cl_ranks *r, int to, int kind, const char *text)
{
    MPI_Request *request;
    life_note *n = free_note(r, &request);
    if (!n) return false;
    n->kind = kind;
    n->waits_for = r->life.watch.peer;
    snprintf(n->text, sizeof n->text, "%s", text);
    int bytes = (int)(offsetof(life_note, text) + strlen(n->text) + 1);
    MPI_TRY(r, MPI_Isend(n, bytes, MPI_BYTE, to, TAG_LIFE, r->comm, request));
    return true;
}

/* --- what comes --- */

static void take(cl_ranks *r, const life_note *n, int from, uint64_t now)
{
    watch *w = &r->life.watch;
    if (n->kind == DEAD) ranks_die(r, CL_E_RUN, n->text);
    if (n->kind == ASK) send(r, from, ANSWER, r->life.phase);
    if (n->kind != ANSWER || from != w->peer) return;
    w->heard = now;
    w->accused = 0;
    snprintf(w->phase, sizeof w->phase, "%.31s", n->text);
}

static void take_all(cl_ranks *r, uint64_t now)
{
    for (;;) {
        life_note n;
        MPI_Status status;
        int there, bytes;
        MPI_TRY(r, MPI_Iprobe(MPI_ANY_SOURCE, TAG_LIFE, r->comm, &there, &status));
        if (!there) return;
        MPI_TRY(r, MPI_Recv(&n, sizeof n, MPI_BYTE, status.MPI_SOURCE, TAG_LIFE, r->comm, &status));
        MPI_TRY(r, MPI_Get_count(&status, MPI_BYTE, &bytes));
        if (bytes <= (int)offsetof(life_note, text)) CL_BUG("line: a note of %d bytes", bytes);
        ((char *)&n)[bytes - 1] = 0;
        take(r, &n, status.MPI_SOURCE, now);
    }
}

/* --- the one that is waited for --- */

static void accuse(cl_ranks *r, uint64_t now)
{
    watch *w = &r->life.watch;
    enum { LAST_TURN = 16 };
    const int speaker = w->peer ? 0 : 1, turn = r->rank < LAST_TURN ? r->rank : LAST_TURN;
    char text[LIFE_TEXT];
    if (w->accused && now - w->accused < SECOND_NS + (uint64_t)turn * SECOND_NS / 20) return;
    snprintf(text, sizeof text,
             "rank %d on %s stands still or its link is gone: rank %d waited %.0f s for %s it while %s (look at that "
             "host; where a step takes longer, raise --stall-timeout)",
             w->peer, cl_ranks_host_of(r, w->peer), r->rank, (double)(now - w->since) * 1e-9, w->what,
             w->phase[0] ? w->phase : r->life.phase);
    if (w->accused || speaker == r->rank) ranks_die(r, CL_E_RUN, text);
    send(r, speaker, DEAD, text);
    w->accused = now;
}

static void watch_peer(cl_ranks *r, uint64_t now)
{
    watch *w = &r->life.watch;
    const double s = r->waiting.stall_timeout_s;
    const uint64_t patience = (uint64_t)(s * 1e9), pause = patience / 4 < ASK_NS ? patience / 4 : ASK_NS;
    if (w->peer < 0 || s <= 0) return;
    if (!w->since) w->since = w->heard = w->asked = now;
    if (now - w->heard > patience) accuse(r, now);
    if (now - w->asked < pause || !send(r, w->peer, ASK, "")) return;
    w->asked = now;
}

void life_look(cl_ranks *r, uint64_t now)
{
    uint64_t away = now - r->life.looked;
    if (away < LOOK_NS) return;
    /* a rank that was stopped itself (a job that is suspended, say) has not listened meanwhile */
    if (away > SECOND_NS && r->life.watch.since) r->life.watch.heard += away;
    r->life.looked = now;
    take_all(r, now);
    watch_peer(r, now);
}

void cl_ranks_poll(void *ranks)
{
    cl_ranks *r = ranks;
    if (!r->blocks) life_look(r, cl_now_ns());
}
