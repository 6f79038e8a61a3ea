/* notes.c: a few bytes between any two ranks, as they come up: requests to the lines side by side, and the tokens
 * they answer with. Not part of a token's way through a line, so a note's buffer is made when it is sent. */
#include "line_internal.h"

#include <stdlib.h>

struct note {
    struct note *next;
    MPI_Request request;
    unsigned char data[];
};

/* Frees what has arrived; wait: all of it. */
static void settle(cl_line *l, bool wait)
{
    for (struct note **at = &l->notes; *at;) {
        struct note *n = *at;
        int done = 1;
        if (wait) cl_line_wait(l, &n->request, MPI_STATUS_IGNORE, "a note to reach another", l->rank);
        else MPI_TRY(l, MPI_Test(&n->request, &done, MPI_STATUS_IGNORE));
        if (!done) {
            at = &n->next;
            continue;
        }
        *at = n->next;
        free(n);
    }
}

cl_code cl_line_send_note(cl_line *l, int to, const void *data, size_t bytes, cl_err *err)
{
    settle(l, false);
    if (bytes > INT32_MAX) return cl_fail(err, CL_E_FIT, "line: a note of %zu bytes (at most 2 GB)", bytes);
    struct note *n = cl_malloc(1, sizeof *n + bytes, "a note", err);
    if (!n) return CL_E_FIT;
    memcpy(n->data, data, bytes);
    MPI_TRY(l, MPI_Isend(n->data, (int)bytes, MPI_BYTE, to, TAG_NOTE, l->comm, &n->request));
    n->next = l->notes;
    l->notes = n;
    return CL_OK;
}

bool cl_line_recv_note(cl_line *l, int *from, cl_buf *note)
{
    MPI_Status status;
    int there, bytes;
    settle(l, false);
    MPI_TRY(l, MPI_Iprobe(MPI_ANY_SOURCE, TAG_NOTE, l->comm, &there, &status));
    if (!there) return false;
    MPI_TRY(l, MPI_Get_count(&status, MPI_BYTE, &bytes));
    note->len = 0;
    if ((size_t)bytes + 1 > note->cap) {
        char *data = realloc(note->data, (size_t)bytes + 1);
        if (!data) cl_line_abort(l, CL_E_FIT, "rank %d: a note of %d bytes: out of memory", l->rank, bytes);
        note->data = data;
        note->cap = (size_t)bytes + 1;
    }
    MPI_TRY(l, MPI_Recv(note->data, bytes, MPI_BYTE, status.MPI_SOURCE, TAG_NOTE, l->comm, MPI_STATUS_IGNORE));
    note->len = (size_t)bytes;
    note->data[bytes] = 0;
    *from = status.MPI_SOURCE;
    return true;
}

void cl_line_drain_notes(cl_line *l) { settle(l, true); }
