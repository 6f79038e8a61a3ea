/* notes.c: a note is one message of up to FIRST bytes, its length in front; what is longer follows in a second one.
 * So the receive of the next note can be posted before anybody knows how long it is. */
#include "line_internal.h"

#include <stdlib.h>

enum { FIRST = 248, MANY = 64 };

typedef struct first_message {
    uint64_t bytes; /* of the whole note */
    unsigned char data[FIRST];
} first_message;

typedef struct note {
    struct note *next;
    MPI_Request first, rest;
    int to;
    first_message message;
    unsigned char data[]; /* what is behind its first bytes */
} note;

struct cl_notes {
    cl_ranks *ranks;
    note *sent; /* perhaps not yet on their way */
    int n_sent;
    first_message came;
    MPI_Request recv;
    int from; /* of the note that has come, -1: none has */
};

cl_code cl_notes_open(cl_notes **out, cl_ranks *ranks, cl_err *err)
{
    cl_notes *n = cl_calloc(1, sizeof *n, "notes", err);
    if (!n) return CL_E_FIT;
    n->ranks = ranks;
    n->recv = MPI_REQUEST_NULL;
    n->from = -1;
    *out = n;
    return CL_OK;
}

/* --- sending --- */

/* Frees what is on its way; wait: all of it. */
static void settle(cl_notes *n, bool wait)
{
    for (note **at = &n->sent; *at;) {
        note *one = *at;
        if (wait) {
            wait_one(n->ranks, &one->first, MPI_STATUS_IGNORE, "a note to reach", one->to);
            wait_one(n->ranks, &one->rest, MPI_STATUS_IGNORE, "a note to reach", one->to);
        } else if (!wait_is_done(n->ranks, &one->first) || !wait_is_done(n->ranks, &one->rest)) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        n->n_sent--;
        free(one);
    }
}

cl_code cl_notes_send(cl_notes *n, int to, const void *data, size_t bytes, cl_err *err)
{
    settle(n, n->ranks->blocks && n->n_sent >= MANY);
    if (bytes > INT32_MAX) return cl_fail(err, CL_E_FIT, "notes: one of %zu bytes (at most 2 GB)", bytes);
    size_t first = bytes < FIRST ? bytes : FIRST, rest = bytes - first;
    note *one = cl_malloc(1, sizeof *one + rest, "a note", err);
    if (!one) return CL_E_FIT;
    one->message.bytes = bytes;
    one->to = to;
    one->rest = MPI_REQUEST_NULL;
    memcpy(one->message.data, data, first);
    memcpy(one->data, (const char *)data + first, rest);
    MPI_Comm comm = n->ranks->comm;
    MPI_TRY(n->ranks, MPI_Isend(&one->message, (int)(offsetof(first_message, data) + first), MPI_BYTE, to, TAG_NOTE,
                                comm, &one->first));
    if (rest) MPI_TRY(n->ranks, MPI_Isend(one->data, (int)rest, MPI_BYTE, to, TAG_NOTE_REST, comm, &one->rest));
    one->next = n->sent;
    n->sent = one;
    n->n_sent++;
    return CL_OK;
}

void cl_notes_drain(cl_notes *n) { settle(n, true); }

/* --- receiving --- */

MPI_Request *notes_post(cl_notes *n)
{
    if (n->recv == MPI_REQUEST_NULL && n->from < 0)
        MPI_TRY(n->ranks,
                MPI_Irecv(&n->came, sizeof n->came, MPI_BYTE, MPI_ANY_SOURCE, TAG_NOTE, n->ranks->comm, &n->recv));
    MPI_Status status;
    if (n->from < 0 && wait_look(n->ranks, &n->recv, &status)) notes_came(n, &status);
    return &n->recv;
}

void notes_came(cl_notes *n, const MPI_Status *status)
{
    int bytes;
    MPI_TRY(n->ranks, MPI_Get_count(status, MPI_BYTE, &bytes));
    size_t first = n->came.bytes < FIRST ? n->came.bytes : FIRST;
    n->from = status->MPI_SOURCE;
    if (n->came.bytes > INT32_MAX || (size_t)bytes != offsetof(first_message, data) + first)
        cl_ranks_abort(n->ranks, CL_E_RUN, "rank %d: a note of rank %d makes no sense (a bug: please report it)",
                       n->ranks->rank, n->from);
}

static void make_room(cl_notes *n, cl_buf *b, size_t bytes)
{
    cl_err err;
    if (bytes + 1 <= b->cap) return;
    char *data = cl_realloc(b->data, bytes + 1, 1, "a note", &err);
    if (!data) cl_ranks_abort(n->ranks, CL_E_FIT, "rank %d: %s", n->ranks->rank, err.msg);
    b->data = data;
    b->cap = bytes + 1;
}

bool cl_notes_recv(cl_notes *n, int *from, cl_buf *b)
{
    settle(n, false);
    notes_post(n);
    if (n->from < 0) return false;
    size_t bytes = n->came.bytes, first = bytes < FIRST ? bytes : FIRST;
    make_room(n, b, bytes);
    memcpy(b->data, n->came.data, first);
    if (bytes > first) { /* in one piece, as it was sent */
        size_t got = wait_recv_most(n->ranks, b->data + first, bytes - first, n->from, TAG_NOTE_REST, "a note of");
        if (got != bytes - first) CL_BUG("line: a note of rank %d has %zu bytes, not %zu", n->from, got, bytes - first);
    }
    b->len = bytes;
    b->data[bytes] = 0;
    *from = n->from;
    n->from = -1;
    return true;
}

void cl_notes_close(cl_notes *n)
{
    if (!n) return;
    cl_notes_drain(n);
    if (n->recv != MPI_REQUEST_NULL) {
        MPI_TRY(n->ranks, MPI_Cancel(&n->recv));
        MPI_TRY(n->ranks, MPI_Wait(&n->recv, MPI_STATUS_IGNORE));
    }
    free(n);
}
