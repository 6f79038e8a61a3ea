/* The protocol of a whole line: uneven stages of chips that only add their rank, that are late at random, with as
 * many micro-batches in flight as there may be; and waiting for one of several things. Run with a few ranks and with
 * 64. */
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "gathers.h"

enum { MOST = MEMBERS, SLOTS = 4, CHUNK = 6, HIDDEN = 67, STEPS = 120 };

static cl_line *the_line;

static void rest(int us) { nanosleep(&(struct timespec){.tv_nsec = us * 1000L}, NULL); }

/* --- shapes --- */

typedef struct shape {
    int n, stage;        /* stages; this rank's */
    int first[MOST + 1]; /* rank */
} shape;

/* Stages of 1 to 5 chips, drawn. */
static void draw(shape *s, uint64_t seed)
{
    int rank = cl_ranks_rank(the_ranks), size = cl_ranks_size(the_ranks);
    *s = (shape){0};
    for (int r = 0; r < size; r = s->first[++s->n]) {
        int members = 1 + (int)(next(&seed) % 5);
        s->first[s->n + 1] = r + members < size ? r + members : size;
        if (rank >= r) s->stage = s->n;
    }
}

static cl_line_stage stage_at(const shape *s, int k)
{
    return k < 0 || k >= s->n ? (cl_line_stage){0} : (cl_line_stage){s->first[k], s->first[k + 1] - s->first[k]};
}

static cl_line_options options(const shape *s, cl_carrier carrier)
{
    int k = s->stage;
    return (cl_line_options){.limits = {.slots = SLOTS, .context = 64, .chunk = CHUNK, .hidden = HIDDEN, .vocab = 1000},
                             .prev = stage_at(s, k - 1),
                             .own = stage_at(s, k),
                             .next = stage_at(s, k + 1),
                             .first = 0,
                             .last = s->first[s->n - 1],
                             .exchange_bytes = 4096,
                             .carrier = carrier};
}

/* --- work --- */

static void fill(cl_hop *h, int64_t id)
{
    h->mb.id = id;
    h->mb.n_parts = 1 + (int)(id % SLOTS);
    h->mb.n_tokens = 0;
    for (int p = 0; p < h->mb.n_parts; p++) {
        int n = p ? 1 : 1 + (int)(id % (CHUNK - SLOTS + 1));
        h->mb.parts[p] = (cl_part){.slot = p, .pos = (int)(id % 50), .n_tokens = n};
        for (int t = 0; t < n; t++) h->mb.ids[h->mb.n_tokens++] = (int)(id % 1000);
    }
}

static bool as_filled(const cl_hop *h, int64_t id)
{
    bool right = h->kind == CL_HOP_WORK && h->mb.id == id && h->mb.n_parts == 1 + id % SLOTS;
    for (int t = 0; right && t < h->mb.n_tokens; t++) right = h->mb.ids[t] == (int)(id % 1000);
    return right;
}

static int owner(int members, int column)
{
    int m = 0;
    while (HIDDEN * (m + 1) / members <= column) m++;
    return m;
}

static float after(const shape *s, int stages, int64_t id, int t, int c)
{
    float sum = (float)(id + 1000 * t + c);
    for (int k = 0; k < stages; k++) sum += (float)(s->first[k] + owner(s->first[k + 1] - s->first[k], c) + 1);
    return sum;
}

/* This chip's step: late at random, its columns, one gather. */
static void work(const shape *s, cl_hop *h, int64_t id, uint64_t *seed)
{
    const cl_group *g = cl_line_group(the_line);
    int32_t cut[8];
    for (int m = 0; m <= g->members; m++) cut[m] = (int32_t)(HIDDEN * m / g->members);
    bool right = as_filled(h, id);
    if (next(seed) % 64 == 0) rest((int)(next(seed) % 3000));
    else dawdle(seed);
    for (int t = 0; t < h->mb.n_tokens; t++)
        for (int c = cut[g->member]; c < cut[g->member + 1]; c++) {
            float *x = &h->x[t * HIDDEN + c];
            *x = s->stage ? *x + (float)(cl_ranks_rank(the_ranks) + 1) : after(s, 1, id, t, c);
        }
    cl_line_poll(the_line);
    const cl_region all = {.data = h->x, .rows = h->mb.n_tokens, .stride = HIDDEN, .cut = cut, .to = -1};
    g->gather(g->ctx, &all, 1);
    for (int t = 0; t < h->mb.n_tokens; t++)
        for (int c = 0; c < HIDDEN; c += 13) right = right && h->x[t * HIDDEN + c] == after(s, s->stage + 1, id, t, c);
    CU_ASSERT_TRUE(right);
}

static void done_with(const cl_line_options *o, cl_hop *h)
{
    if (o->next.members) cl_line_pass(the_line, h);
    else cl_line_release(the_line, h);
}

static void begin_one(const shape *s, const cl_line_options *o, int64_t id, uint64_t *seed)
{
    cl_hop *h = cl_line_take(the_line);
    fill(h, id);
    cl_line_seal(the_line, h);
    work(s, h, id, seed);
    done_with(o, h);
}

static void take_one(int64_t want)
{
    const cl_samples *got;
    CU_ASSERT_TRUE_FATAL(cl_line_recv_samples(the_line, false, &got));
    CU_ASSERT_TRUE(got->microbatch == want && got->n_parts == 1 + want % SLOTS && got->n_ids == 1);
    CU_ASSERT_TRUE(got->parts[got->n_parts - 1].slot == got->n_parts - 1 && got->ids[0] == (int32_t)want);
}

static void lead(const shape *s, const cl_line_options *o, uint64_t *seed)
{
    const int most = s->n + 2;
    int64_t done = 0;
    for (int64_t k = 0; done < STEPS;) {
        if (k < STEPS && k - done < most) {
            begin_one(s, o, k++, seed);
            if (!o->next.members) done++;
            if (!o->next.members || (k < STEPS && k - done < most)) continue;
        }
        CU_ASSERT_EQUAL_FATAL(cl_line_await(the_line, NULL, NULL, NULL, HUGE_VAL), CL_AWAITED_SAMPLES);
        take_one(done++);
    }
    cl_hop *h = cl_line_take(the_line);
    h->kind = CL_HOP_STOP;
    cl_line_seal(the_line, h);
    done_with(o, h);
}

static void follow(const shape *s, const cl_line_options *o, uint64_t *seed)
{
    const cl_group *g = cl_line_group(the_line);
    for (int64_t k = 0;; k++) {
        cl_hop *h = cl_line_recv(the_line);
        bool stop = h->kind == CL_HOP_STOP;
        if (!stop) work(s, h, k, seed);
        cl_sampled parts[SLOTS] = {{.slot = 0}, {.slot = 1}, {.slot = 2}, {.slot = 3}};
        int32_t drawn = (int32_t)k;
        const cl_samples samples = {.microbatch = k,
                                    .n_parts = h->mb.n_parts,
                                    .n_ids = 1,
                                    .parts = parts,
                                    .ids = &drawn};
        if (!stop && !o->next.members && g->member == 0 && s->n > 1) cl_line_send_samples(the_line, &samples);
        done_with(o, h);
        CU_ASSERT_TRUE(k <= STEPS);
        if (stop) break;
    }
}

/* --- what the trace says of it --- */

static size_t handed(const cl_line_options *o, int64_t id)
{
    const int parts = 1 + (int)(id % SLOTS);
    return cl_line_hop_bytes(&o->limits, parts, parts + (int)(id % (CHUNK - SLOTS + 1)));
}

/* Every micro-batch once, in order, from the right rank and with all its bytes. */
static void right_recv(const cl_line_options *o, const cl_event *e, int64_t id)
{
    const bool first = cl_ranks_rank(the_ranks) == 0, leads = line_leads(the_line);
    const int parts = 1 + (int)(id % SLOTS), from = leads ? the_line->routes.source : line_rank_here(the_line, 0);
    size_t bytes = first ? cl_line_samples_bytes(parts, 1) : leads && o->prev.members ? handed(o, id) : 0;
    CU_ASSERT(e->microbatch == id && e->parts == parts && e->layer == -1 && e->start_ns <= e->end_ns);
    CU_ASSERT(e->peer == (first ? o->last : from) && e->msg_bytes == bytes);
    CU_ASSERT_EQUAL(e->tokens, first ? 0 : parts + id % (CHUNK - SLOTS + 1));
}

static void right_send(const cl_line_options *o, const cl_event *e, int64_t number)
{
    const hop_routes *r = &the_line->routes;
    const int parts = 1 + (int)(e->microbatch % SLOTS), to = r->n - r->n_within;
    const bool samples = !o->next.members;
    CU_ASSERT_EQUAL(e->microbatch, samples ? number : number / to);
    CU_ASSERT_EQUAL(e->peer, samples ? o->first : r->to[r->n_within + number % to]);
    CU_ASSERT_EQUAL(e->msg_bytes, samples ? cl_line_samples_bytes(parts, 1) : handed(o, e->microbatch));
    CU_ASSERT(e->parts == parts && e->layer == -1 && e->start_ns <= e->end_ns);
}

static void check_events(const shape *s, const cl_line_options *o, const char *path)
{
    static cl_event e[STEPS * 16];
    const int to = the_line->routes.n - the_line->routes.n_within, rank = cl_ranks_rank(the_ranks);
    cl_event_log *log;
    cl_err err;
    int of;
    uint64_t n, got;
    int64_t recvs = 0, sends = 0;
    CU_ASSERT_FATAL(cl_event_log_open(&log, path, &of, &n, &err) == CL_OK && n <= STEPS * 16);
    CU_ASSERT_FATAL(cl_event_log_read(log, 0, n, e, &got, &err) == CL_OK && got == n);
    for (uint64_t i = 0; i < n; i++) {
        if (e[i].kind == CL_EV_RECV) right_recv(o, &e[i], recvs++);
        else right_send(o, &e[i], sends++);
    }
    const bool samples = !o->next.members && cl_line_group(the_line)->member == 0 && s->n > 1;
    CU_ASSERT_EQUAL(recvs, rank == 0 && s->n == 1 ? 0 : STEPS);
    CU_ASSERT_EQUAL(sends, o->next.members ? STEPS * to : samples ? STEPS : 0);
    cl_event_log_close(log);
}

static void run_line(const shape *s, const cl_line_options *untraced, uint64_t seed)
{
    cl_err err;
    cl_line_options o = *untraced;
    char path[64];
    const uint64_t opened = cl_now_ns();
    uint64_t own = seed * 1000 + (uint64_t)cl_ranks_rank(the_ranks);
    snprintf(path, sizeof path, "/tmp/chipline-line-%ld.part", (long)getpid());
    /* a trace reserves megabytes of disk: some ranks will do */
    const cl_trace_level level = cl_ranks_size(the_ranks) <= 16 ? CL_TRACE_STAGE : CL_TRACE_OFF;
    CU_ASSERT_EQUAL_FATAL(cl_trace_open(&o.trace, path, 0, level, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_OK);
    if (cl_ranks_rank(the_ranks) == 0) lead(s, &o, &own);
    else follow(s, &o, &own);
    cl_line_drain(the_line);
    CU_ASSERT(the_line->recv == MPI_REQUEST_NULL && the_line->result_recv == MPI_REQUEST_NULL);
    CU_ASSERT(cl_line_wait_ns(the_line) <= cl_now_ns() - opened);
    if (o.trace) check_events(s, &o, path);
    cl_line_close(the_line);
    cl_trace_close(o.trace);
    unlink(path);
}

static void whole_line(cl_carrier carrier, uint64_t seed)
{
    shape s;
    draw(&s, seed);
    const cl_line_options o = options(&s, carrier);
    run_line(&s, &o, seed);
}

static void by_messages(void) { whole_line(CL_CARRIER_MESSAGES, 11); }
static void by_shared_memory(void) { whole_line(blocking ? CL_CARRIER_MESSAGES : CL_CARRIER_SHARED, 12); }

/* As if three chips of a host shared a memory. */
static void by_memories_of_three(void)
{
    shape s;
    draw(&s, 13);
    cl_line_options o = options(&s, CL_CARRIER_AUTO);
    o.together = 3;
    run_line(&s, &o, 13);
}

/* --- exchanges of one stage --- */

/* So many numbers of each chip, to all; of each chip's rows to one, and of each chip's rows every one its columns: what
 * comes, and how many messages. */
static void count_messages(int rows, bool in_rounds)
{
    enum { AHEAD = 300 }; /* columns of nobody: they do not count */
    static int32_t cut[MEMBERS + 1], owner[MEMBERS * 8];
    const cl_group *g = cl_line_group(the_line);
    const int n = g->members, sets = the_line->domains.n, rounds = cl_exchange_rounds(sets);
    const size_t stride = (size_t)n + AHEAD;
    uint64_t sums[3] = {0};
    for (int m = 0; m <= n; m++) cut[m] = AHEAD + m;
    for (int i = 0; i < rows * n; i++) owner[i] = i % n;
    const cl_region all = {.data = g->memory, .rows = rows, .stride = stride, .cut = cut, .to = -1};
    const cl_region one = {.data = g->memory, .rows = rows, .stride = stride, .cut = cut, .to = n / 2};
    const cl_region own = {.data = g->memory, .rows = rows * n, .stride = stride, .cut = cut, .owner = owner, .to = -1};
    const cl_region *const regions[] = {&all, &one, &own};
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < regions[k]->rows; i++)
            for (int c = AHEAD; c < AHEAD + n; c++)
                if (makes(regions[k], g->member, n, i, c))
                    g->memory[(size_t)i * stride + (size_t)c] = number(k, 0, i, c);
        sums[k] = g->gather(g->ctx, regions[k], 1).messages;
        bool right = true;
        for (int i = 0; i < regions[k]->rows; i++)
            for (int c = AHEAD; c < AHEAD + n; c++)
                if (needs(regions[k], g->member, n, i, c))
                    right = right && g->memory[(size_t)i * stride + (size_t)c] == number(k, 0, i, c);
        CU_ASSERT_TRUE(right);
        const cl_region barrier = {.rows = 0, .cut = cut, .to = -1, .data = g->memory};
        g->gather(g->ctx, &barrier, 1); /* others may still look */
    }
    cl_ranks_sum(the_ranks, sums, 3);
    if (cl_ranks_rank(the_ranks)) return;
    CU_ASSERT_EQUAL(sums[0], (uint64_t)(sets * rounds));
    CU_ASSERT_EQUAL(sums[1], (uint64_t)(sets - 1));
    CU_ASSERT_EQUAL(sums[2], (uint64_t)(sets * (in_rounds ? rounds : sets - 1)));
}

static void one_stage(cl_carrier carrier, int together)
{
    cl_err err;
    const int size = cl_ranks_size(the_ranks);
    const cl_line_options o = {.limits = {.slots = 1, .context = 64, .chunk = 1, .hidden = HIDDEN, .vocab = 1000},
                               .own = {0, size},
                               .exchange_bytes = (size_t)(8 * size * size + 64) * 16 * sizeof(float) +
                                                 2 * HALF * sizeof(float),
                               .carrier = carrier,
                               .together = together};
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_OK);
    const int sets = the_line->domains.n;
    CU_ASSERT_EQUAL(sets, carrier == CL_CARRIER_MESSAGES || blocking ? size : (size + together - 1) / together);
    random_gathers(the_line, size > 8 ? 30 : 200, 7);
    count_messages(1, cl_exchange_in_rounds(sets, 4 * (uint64_t)(size * size)));
    count_messages(8, cl_exchange_in_rounds(sets, 4 * (uint64_t)(8 * size * size)));
    cl_line_close(the_line);
}

static void exchanges(void)
{
    one_stage(CL_CARRIER_MESSAGES, 0);
    one_stage(CL_CARRIER_AUTO, 3);
    one_stage(CL_CARRIER_AUTO, 1);
}

/* --- waiting for one of several things --- */

static bool is_late(void *ctx)
{
    const uint64_t *until = ctx;
    return cl_now_ns() >= *until;
}

static void await_something(cl_notes *notes)
{
    cl_buf note = {0};
    int from;
    uint64_t t0 = cl_now_ns(), until = t0 + 30000000;
    if (!blocking) {
        CU_ASSERT_EQUAL(cl_line_await(the_line, NULL, NULL, NULL, 0), CL_AWAITED_TIME);
        CU_ASSERT_EQUAL(cl_line_await(the_line, NULL, NULL, NULL, 0.02), CL_AWAITED_TIME);
        CU_ASSERT_TRUE(cl_now_ns() - t0 >= 20000000);
        CU_ASSERT_EQUAL(cl_line_await(the_line, NULL, is_late, &until, 100), CL_AWAITED_CALL);
        CU_ASSERT_TRUE(cl_now_ns() >= until && cl_now_ns() < until + 500000000);
    }
    cl_ranks_barrier(the_ranks); /* now the others write */
    for (int n = 1; n < cl_ranks_size(the_ranks); n++) {
        CU_ASSERT_EQUAL(cl_line_await(the_line, notes, NULL, NULL, HUGE_VAL), CL_AWAITED_NOTE);
        CU_ASSERT_EQUAL(cl_line_await(the_line, notes, NULL, NULL, HUGE_VAL), CL_AWAITED_NOTE); /* it is still there */
        CU_ASSERT_TRUE_FATAL(cl_notes_recv(notes, &from, &note));
        CU_ASSERT_EQUAL(note.len, from * 300);
    }
    cl_buf_free(&note);
}

static void awaiting(void)
{
    cl_err err;
    shape s;
    cl_notes *notes;
    draw(&s, 5);
    const cl_line_options o = options(&s, CL_CARRIER_AUTO);
    static char text[300 * MOST];
    int rank = cl_ranks_rank(the_ranks);
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_notes_open(&notes, the_ranks, &err), CL_OK);
    if (rank == 0) await_something(notes);
    else cl_ranks_barrier(the_ranks);
    if (rank) {
        rest(1000 * (rank % 8));
        CU_ASSERT_EQUAL(cl_notes_send(notes, 0, text, (size_t)rank * 300, &err), CL_OK);
    }
    cl_notes_close(notes);
    cl_line_close(the_line);
}

/* Nothing to do costs next to nothing, for who looks again and again and for who waits. */
static void idling(void)
{
    if (blocking || cl_ranks_size(the_ranks) != 2) return; /* two ranks will do */
    cl_err err;
    shape s;
    draw(&s, 5);
    const cl_line_options o = options(&s, CL_CARRIER_AUTO);
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_OK);
    /* the least of several: a busy machine charges more now and then */
    double in_wait = 1, in_barrier = 1;
    for (int round = 0; round < 3; round++) {
        const uint64_t from = cl_now_ns();
        while (cl_ranks_rank(the_ranks) == 0 && cl_now_ns() < from + 900000000) {
            const uint64_t t = cl_now_ns(), cpu = cl_process_cpu_ns();
            CU_ASSERT_EQUAL(cl_line_await(the_line, NULL, NULL, NULL, 0.1), CL_AWAITED_TIME);
            in_wait = fmin(in_wait, (double)(cl_process_cpu_ns() - cpu) / (double)(cl_now_ns() - t));
        }
        const uint64_t t = cl_now_ns(), cpu = cl_process_cpu_ns();
        cl_ranks_barrier(the_ranks); /* the others are here since the round began */
        in_barrier = fmin(in_barrier, (double)(cl_process_cpu_ns() - cpu) / (double)(cl_now_ns() - t));
    }
    if (cl_ranks_rank(the_ranks) == 0) CU_ASSERT_TRUE(in_wait < 0.03)
    if (cl_ranks_rank(the_ranks) == 1) CU_ASSERT_TRUE(in_barrier < 0.25)
    cl_line_close(the_line);
}

int main(int argc, char **argv)
{
    CU_TestInfo tests[] = {{"messages", by_messages},
                           {"shared memory", by_shared_memory},
                           {"memories of three", by_memories_of_three},
                           {"exchanges", exchanges},
                           {"awaiting", awaiting},
                           {"idling", idling},
                           CU_TEST_INFO_NULL};
    return run_on_ranks(argc, argv, "line", tests);
}
