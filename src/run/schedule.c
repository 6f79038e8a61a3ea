/* schedule.c: which sequences' next tokens travel together. Pure. */
#include "chipline/schedule.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"

enum { LEAST_PROMPT = 16 }; /* tokens */

typedef struct seat {
    cl_sequence *seq; /* NULL: free */
    int64_t turn;     /* when it was last served, or admitted: the least waits longest */
} seat;

struct cl_schedule {
    cl_limits limits;
    int most, active; /* micro-batches in the line; occupied slots */
    int prompt_share; /* most prompt tokens in a micro-batch, so that a prompt too is at work in every stage */
    int64_t turn, microbatches;
    seat *slots;
};

cl_code cl_schedule_create(cl_schedule **out, const cl_limits *limits, int stages, cl_err *err)
{
    cl_schedule *s = cl_calloc(1, sizeof *s, "schedule", err);
    if (!s) return CL_E_FIT;
    s->limits = *limits;
    s->most = cl_microbatches_of(stages);
    s->slots = cl_calloc((size_t)limits->slots, sizeof *s->slots, "schedule", err);
    if (!s->slots) {
        free(s);
        return CL_E_FIT;
    }
    *out = s;
    return CL_OK;
}

void cl_schedule_free(cl_schedule *s)
{
    if (!s) return;
    free(s->slots);
    free(s);
}

bool cl_schedule_has_room(const cl_schedule *s) { return s->active < s->limits.slots; }
int cl_schedule_active(const cl_schedule *s) { return s->active; }
cl_sequence *cl_schedule_sequence(const cl_schedule *s, int slot) { return s->slots[slot].seq; }

/* Prompts that wait now, spread over the line; but a few tokens at least, since each micro-batch reads the weights
 * anew. */
static void share_prompts(cl_schedule *s)
{
    int64_t tokens = 0;
    for (int i = 0; i < s->limits.slots; i++) {
        const cl_sequence *q = s->slots[i].seq;
        if (q && q->n_sent < q->n_prompt) tokens += q->n_prompt - q->n_sent;
    }
    int64_t share = (tokens + s->most - 1) / s->most;
    if (share < LEAST_PROMPT) share = LEAST_PROMPT;
    s->prompt_share = share < s->limits.chunk ? (int)share : s->limits.chunk;
}

int cl_schedule_admit(cl_schedule *s, cl_sequence *seq)
{
    int i = 0;
    while (i < s->limits.slots && s->slots[i].seq) i++;
    if (i == s->limits.slots) CL_BUG("schedule: no room");
    if (seq->n_sent >= seq->n_tokens || (seq->n_sent > 0 && seq->fork < 0))
        CL_BUG("schedule: a sequence of %d tokens of which %d are sent", seq->n_tokens, seq->n_sent);
    s->slots[i] = (seat){.seq = seq, .turn = s->turn++};
    seq->begun = seq->awaits = false;
    s->active++;
    share_prompts(s);
    return i;
}

void cl_schedule_leave(cl_schedule *s, int i)
{
    if (!s->slots[i].seq || s->slots[i].seq->awaits) CL_BUG("schedule: slot %d can't leave", i);
    s->slots[i].seq = NULL;
    s->active--;
}

void cl_schedule_sampled(cl_schedule *s, int i, const int32_t *ids, int n)
{
    cl_sequence *q = s->slots[i].seq;
    if (!q || !q->awaits || n < 1 || n - 1 > q->n_guesses || n > q->capacity - q->n_tokens)
        CL_BUG("schedule: slot %d takes no %d samples", i, n);
    memcpy(q->tokens + q->n_tokens, ids, (size_t)n * sizeof *ids);
    q->n_tokens += n;
    q->n_sent = q->n_tokens - 1; /* the cache goes back to what is certain */
    q->n_guesses = 0;
    q->awaits = false;
}

static int pending(const cl_sequence *q) { return q->n_tokens - q->n_sent; }
static bool decodes(const cl_sequence *q) { return q->begun && pending(q) == 1 && q->n_tokens > q->n_prompt; }

/* Of the slots that are ready and were last served in [from, before), those that decode or those with a prompt to
 * send: the one that waits longest; -1: none. */
static int longest_waiting(const cl_schedule *s, bool decoding, int64_t from, int64_t before)
{
    int best = -1;
    for (int i = 0; i < s->limits.slots; i++) {
        const seat *c = &s->slots[i];
        if (!c->seq || c->seq->awaits || pending(c->seq) < 1 || decodes(c->seq) != decoding || c->turn < from ||
            c->turn >= before)
            continue;
        if (best < 0 || c->turn < s->slots[best].turn) best = i;
    }
    return best;
}

/* The next n of a sequence's tokens, and behind its last one as many guesses as have room. */
static void put(cl_schedule *s, cl_microbatch *mb, int i, int n, int room)
{
    cl_sequence *q = s->slots[i].seq;
    bool last = n == pending(q);
    int left = room - n, own = q->capacity - q->n_tokens - 1; /* if all are right, one more follows them */
    left = own < left ? own : left;
    int guesses = !last || left < 0 ? 0 : q->n_guesses < left ? q->n_guesses : left;
    cl_part *p = &mb->parts[mb->n_parts++];
    *p = (cl_part){.slot = i,
                   .pos = q->n_sent,
                   .n_tokens = n + guesses,
                   .n_outputs = last ? guesses + 1 : 0,
                   .n_guesses = guesses,
                   .fork = q->begun ? -1 : q->fork,
                   .flags = (q->rows ? CL_PART_ROWS : 0u) | (q->begun ? 0u : CL_PART_BEGIN),
                   .sampling = q->sampling};
    if (!q->begun) {
        p->n_before = q->n_sent < CL_REPEAT_WINDOW ? q->n_sent : CL_REPEAT_WINDOW;
        for (int t = q->n_sent - p->n_before; t < q->n_sent; t++) mb->before[mb->n_before++] = q->tokens[t];
    }
    memcpy(mb->ids + mb->n_tokens, q->tokens + q->n_sent, (size_t)p->n_tokens * sizeof *mb->ids);
    mb->n_tokens += p->n_tokens;
    q->n_sent += n;
    q->n_guesses = guesses;
    q->begun = true;
    q->awaits = last;
}

/* Sequences that the next micro-batch takes, so that those that follow each other differ by one at most. */
static int share_of_next(const cl_schedule *s)
{
    const int64_t n = s->active < s->most ? s->active : s->most, k = n ? s->microbatches % n : 0;
    return n ? (int)(s->active * (k + 1) / n - s->active * k / n) : 0;
}

bool cl_schedule_next(cl_schedule *s, cl_microbatch *mb)
{
    mb->id = s->microbatches;
    mb->n_parts = mb->n_tokens = mb->n_before = 0;
    int64_t before = s->turn;
    const int share = share_of_next(s);
    int room_to_decode = s->limits.chunk - (longest_waiting(s, false, 0, before) >= 0); /* a prompt never starves */
    for (int i;
         mb->n_parts < share && mb->n_tokens < room_to_decode && (i = longest_waiting(s, true, 0, before)) >= 0;) {
        put(s, mb, i, 1, room_to_decode - mb->n_tokens);
        s->slots[i].turn = s->turn++;
    }
    /* Prompts keep their turn until they are through, so that the oldest gets its first token first. */
    int most = mb->n_tokens + s->prompt_share < s->limits.chunk ? mb->n_tokens + s->prompt_share : s->limits.chunk;
    for (int64_t from = 0; mb->n_tokens < most;) {
        int i = longest_waiting(s, false, from, before);
        if (i < 0) break;
        from = s->slots[i].turn + 1;
        int room = most - mb->n_tokens, n = pending(s->slots[i].seq);
        put(s, mb, i, n < room ? n : room, room);
    }
    if (!mb->n_parts) return false;
    s->microbatches++;
    return true;
}
