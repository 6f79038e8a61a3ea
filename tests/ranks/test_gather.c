/* Stages of several chips: gathers of random regions against what they should bring, and micro-batches through stages
 * of every shape, with chips that add their rank. Both carriers, all ways of waiting, 1 to 4 ranks. */
#include "dying.h"
#include "gathers.h"

enum { RANKS = 4, SLOTS = 5, CHUNK = 7, HIDDEN = 701, STEPS = 100, BEFORE = 9, ROUNDS = 400 };

static cl_line *the_line;

/* --- shapes --- */

static const int shapes[][RANKS] = {{1}, {2},    {1, 1}, {3},    {2, 1},    {1, 2},      {1, 1, 1},
                                    {4}, {2, 2}, {3, 1}, {1, 3}, {1, 2, 1}, {1, 1, 1, 1}};

/* The options of this rank in stages of these sizes; false if they are not for as many ranks as there are. */
static bool options(const int *shape, cl_carrier carrier, cl_line_options *o)
{
    int rank = cl_ranks_rank(the_ranks), first[RANKS + 1] = {0}, n = 0, mine = 0;
    for (; n < RANKS && shape[n]; n++) {
        first[n + 1] = first[n] + shape[n];
        if (first[n] <= rank) mine = n;
    }
    if (first[n] != cl_ranks_size(the_ranks)) return false;
    *o = (cl_line_options){.limits = {.slots = SLOTS, .context = 64, .chunk = CHUNK, .hidden = HIDDEN, .vocab = 1000},
                           .prev = {mine ? first[mine - 1] : 0, mine ? shape[mine - 1] : 0},
                           .own = {first[mine], shape[mine]},
                           .next = {first[mine + 1], mine < n - 1 ? shape[mine + 1] : 0},
                           .first = 0,
                           .last = first[n - 1],
                           .exchange_bytes = 2 * HALF * sizeof(float),
                           .carrier = carrier};
    return true;
}

/* --- micro-batches --- */

static void fill(cl_hop *h, int64_t id)
{
    uint64_t seed = (uint64_t)id;
    int n = 1 + (int)(id % SLOTS), tokens = 0;
    h->mb.id = id;
    h->mb.n_parts = n;
    for (int p = 0; p < n; p++) {
        int k = p == 0 ? 1 + (int)(id % (CHUNK - SLOTS + 1)) : 1;
        h->mb.parts[p] = (cl_part){.slot = p, .pos = (int)(id % 50), .n_tokens = k, .sampling = {.seed = (uint64_t)id}};
        for (int t = 0; t < k; t++) h->mb.ids[tokens++] = (int)(next(&seed) % 1000);
    }
    h->mb.n_tokens = tokens;
    /* ids before the last part's, written before and after the others in turn */
    cl_part *last = &h->mb.parts[n - 1];
    h->mb.n_before = last->n_before = last->pos < BEFORE ? last->pos : BEFORE;
    for (int t = 0; t < h->mb.n_before; t++) h->mb.before[t] = (int)(next(&seed) % 1000);
    seed = (uint64_t)id;
    for (int t = 0; id & 1 && t < tokens; t++) h->mb.ids[t] = (int)(next(&seed) % 1000);
}

static bool numbers_right(const cl_hop *h, int64_t id)
{
    uint64_t seed = (uint64_t)id;
    bool right = h->kind == CL_HOP_WORK && h->mb.id == id && h->mb.n_parts == 1 + id % SLOTS;
    right = right && h->mb.parts[h->mb.n_parts - 1].sampling.seed == (uint64_t)id;
    for (int t = 0; right && t < h->mb.n_tokens; t++) right = h->mb.ids[t] == (int)(next(&seed) % 1000);
    right = right && h->mb.n_before == (id % 50 < BEFORE ? id % 50 : BEFORE);
    for (int t = 0; right && t < h->mb.n_before; t++) right = h->mb.before[t] == (int)(next(&seed) % 1000);
    return right && (uintptr_t)h->x % 64 == 0;
}

static int32_t cut_at(int members, int m) { return (int32_t)(HIDDEN * m / members); }

/* What column c of token t is after all chips of the stages up to this one. */
static float after(const int *shape, int stages, int t, int c)
{
    float sum = (float)(1000 * t + c);
    for (int s = 0, first = 0; s < stages; first += shape[s++])
        for (int m = 0; m < shape[s]; m++)
            if (c >= cut_at(shape[s], m) && c < cut_at(shape[s], m + 1)) sum += (float)(first + m + 1);
    return sum;
}

/* This chip adds its rank to its columns. */
static void add_rank(const int *shape, int stage, const cl_hop *h, int from, int to)
{
    for (int t = 0; t < h->mb.n_tokens; t++)
        for (int c = from; c < to; c++) {
            float *x = &h->x[t * HIDDEN + c];
            *x = stage == 0 ? after(shape, 1, t, c) : *x + (float)(cl_ranks_rank(the_ranks) + 1);
        }
}

static bool columns_right(const int *shape, int stages, const cl_hop *h, int from, int to)
{
    bool right = true;
    for (int t = 0; stages && t < h->mb.n_tokens; t++)
        for (int c = from; c < to; c++) right = right && h->x[t * HIDDEN + c] == after(shape, stages, t, c);
    return right;
}

/* One chip's step: it brings a number that all must have seen before it does its columns, or does them at once. */
static void work(const int *shape, int stage, cl_hop *h, int64_t id)
{
    const cl_group *g = cl_line_group(the_line);
    int32_t cut[RANKS + 1], one_each[RANKS + 1];
    for (int m = 0; m <= g->members; m++) cut[m] = cut_at(g->members, m), one_each[m] = m;
    int from = cut[g->member], to = cut[g->member + 1];
    float *words = g->memory + (id & 1 ? HALF : 0);
    cl_region first = {.data = words, .rows = 1, .stride = RANKS, .cut = one_each, .to = -1};
    cl_region second = {.data = h->x, .rows = h->mb.n_tokens, .stride = HIDDEN, .cut = cut, .to = -1};
    /* then others may be at work in their columns already */
    bool shared = the_line->shared.block != NULL;
    bool right = numbers_right(h, id) && columns_right(shape, stage, h, shared ? from : 0, shared ? to : HIDDEN);
    if (id & 2) add_rank(shape, stage, h, from, to);
    words[g->member] = (float)(id + g->member);
    uint64_t got = g->gather(g->ctx, &first, 1).bytes;
    for (int m = 0; m < g->members; m++) right = right && words[m] == (float)(id + m);
    if (!(id & 2)) add_rank(shape, stage, h, from, to);
    got += g->gather(g->ctx, &second, 1).bytes;
    CU_ASSERT_EQUAL(got,
                    cl_region_bytes(&first, g->member, g->members) + cl_region_bytes(&second, g->member, g->members));
    CU_ASSERT_TRUE(right && columns_right(shape, stage + 1, h, 0, HIDDEN));
}

/* Part p has p % 3 ids. */
static void make_samples(cl_samples *s, int64_t k, int n_parts)
{
    s->microbatch = k;
    s->n_parts = n_parts;
    for (int p = 0; p < n_parts; p++) {
        s->parts[p] = (cl_sampled){.slot = p, .n = p % 3, .first = s->n_ids, .digest = (uint64_t)k};
        for (int i = 0; i < p % 3; i++) s->ids[s->n_ids++] = (int32_t)k + p + i;
    }
}

static bool right_samples(const cl_samples *s)
{
    bool right = s->n_parts == 1 + s->microbatch % SLOTS;
    for (int p = 0; p < s->n_parts; p++) {
        const cl_sampled *of = &s->parts[p];
        right = right && of->slot == p && of->n == p % 3 && of->digest == (uint64_t)s->microbatch;
        for (int i = 0; right && i < of->n; i++) right = s->ids[of->first + i] == (int32_t)s->microbatch + p + i;
    }
    return right;
}

static void lead(const cl_line_options *o, const int *shape)
{
    cl_line *l = the_line;
    int in_flight = 0, depth = 0;
    int64_t done = 0;
    const cl_samples *s;
    while (depth < RANKS && shape[depth]) depth++;
    depth += 2; /* micro-batches: as many as stages, and two more */
    for (int64_t k = 0; k <= STEPS || in_flight;) {
        bool room = k <= STEPS && in_flight < depth;
        if (room) {
            cl_hop *h = cl_line_take(l);
            h->kind = k == STEPS ? CL_HOP_STOP : CL_HOP_WORK;
            if (h->kind == CL_HOP_WORK) fill(h, k);
            cl_line_seal(l, h);
            bool is_work = h->kind == CL_HOP_WORK;
            if (is_work) work(shape, 0, h, k);
            k++;
            if (o->next.members) cl_line_pass(l, h);
            else cl_line_release(l, h);
            if (!is_work) continue;
            if (o->next.members) in_flight++;
            else done++;
        }
        if (in_flight && cl_line_recv_samples(l, !room, &s)) {
            CU_ASSERT_EQUAL(s->microbatch, done);
            CU_ASSERT_TRUE(right_samples(s));
            done++;
            in_flight--;
        }
    }
    CU_ASSERT_EQUAL(done, STEPS);
}

static void follow(const cl_line_options *o, const int *shape)
{
    cl_line *l = the_line;
    const cl_group *g = cl_line_group(l);
    uint64_t seed = (uint64_t)cl_ranks_rank(the_ranks);
    int stage = 0;
    for (int first = 0; first < o->own.first; first += shape[stage++]) {
    }
    for (int64_t k = 0; k <= STEPS; k++) {
        cl_hop *h = cl_line_recv(l);
        CU_ASSERT_EQUAL(h->kind, k == STEPS ? CL_HOP_STOP : CL_HOP_WORK);
        if (h->kind == CL_HOP_WORK) {
            work(shape, stage, h, k);
            cl_line_poll(l);
            dawdle(&seed);
            CU_ASSERT_TRUE(numbers_right(h, k)); /* still: the head chip may be far ahead, but not in this buffer */
        }
        if (o->next.members) {
            cl_line_pass(l, h);
            continue;
        }
        if (h->kind == CL_HOP_WORK && g->member == 0) {
            cl_sampled parts[SLOTS];
            int32_t ids[2 * SLOTS];
            cl_samples s = {.parts = parts, .ids = ids};
            make_samples(&s, k, h->mb.n_parts);
            cl_line_send_samples(l, &s);
        }
        cl_line_release(l, h);
    }
}

/* --- all of it --- */

static void one_shape(const int *shape, const cl_line_options *o, unsigned seed)
{
    cl_err err;
    const uint64_t opened = cl_now_ns();
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, o, &err), CL_OK);
    const cl_group *g = cl_line_group(the_line);
    CU_ASSERT_TRUE(g->members == o->own.members && g->member == cl_ranks_rank(the_ranks) - o->own.first);
    CU_ASSERT_EQUAL((uintptr_t)g->memory % 64, 0);
    CU_ASSERT_TRUE(o->carrier != CL_CARRIER_MESSAGES || !cl_line_shared(the_line));
    CU_ASSERT_TRUE(o->carrier != CL_CARRIER_SHARED || cl_line_shared(the_line) == (o->own.members > 1));
    CU_ASSERT_EQUAL(cl_line_bytes(the_ranks, o, cl_ranks_rank(the_ranks)), the_line->allocated);
    CU_ASSERT_TRUE(cl_line_bytes(NULL, o, cl_ranks_rank(the_ranks)) >= the_line->allocated);
    if (cl_line_shared(the_line)) { /* the window is as large as what lies in it */
        size_t spare = the_line->allocated - results_bytes(o, cl_ranks_rank(the_ranks)) - the_line->shared.bytes -
                       (size_t)(the_line->n_hops * the_line->routes.n) * sizeof(MPI_Request);
        CU_ASSERT_TRUE(spare >= 128 && spare < 256);
    }
    random_gathers(the_line, ROUNDS, seed);
    for (int i = 0; i < 2; i++) { /* the second time after a stop */
        if (cl_ranks_rank(the_ranks) == 0) lead(o, shape);
        else follow(o, shape);
        cl_line_drain(the_line);
        CU_ASSERT(the_line->recv == MPI_REQUEST_NULL && the_line->result_recv == MPI_REQUEST_NULL);
        CU_ASSERT(the_line->posted == -1 && !the_line->expected);
    }
    CU_ASSERT(cl_line_wait_ns(the_line) <= cl_now_ns() - opened);
    cl_line_close(the_line);
    CU_ASSERT(!the_ranks->move && !the_ranks->move_ctx);
}

static void all_shapes(cl_carrier carrier, int together, cl_wait from, cl_wait to)
{
    cl_line_options o;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int w = (int)from; w <= (int)to; w++) {
            const cl_waiting waiting = {(cl_wait)w, 1, 60};
            if (!options(shapes[i], carrier, &o)) continue;
            o.together = together;
            cl_ranks_set_waiting(the_ranks, &waiting);
            one_shape(shapes[i], &o, (unsigned)(w * 100 + o.own.first));
        }
}

/* Where waiting blocks all ways are one. */
static void with_messages(void)
{
    all_shapes(CL_CARRIER_MESSAGES, 0, CL_WAIT_SPIN, blocking ? CL_WAIT_SPIN : CL_WAIT_YIELD);
}
static void with_whatever_there_is(void) { all_shapes(CL_CARRIER_AUTO, 0, CL_WAIT_AUTO, CL_WAIT_AUTO); }
/* As if two chips of a host shared a memory, the next two another one. */
static void with_memory_of_two(void) { all_shapes(CL_CARRIER_AUTO, 2, CL_WAIT_SPIN, CL_WAIT_YIELD); }
static void with_shared_memory(void)
{
    if (!blocking) all_shapes(CL_CARRIER_SHARED, 0, CL_WAIT_SPIN, CL_WAIT_YIELD);
}

/* All ranks hear what is too large for one of them, or in the wrong place. */
static void refusals(void)
{
    cl_line_options o;
    cl_err err = {.code = CL_OK};
    int size = cl_ranks_size(the_ranks), rank = cl_ranks_rank(the_ranks), shape[RANKS] = {size};
    options(shape, CL_CARRIER_MESSAGES, &o);
    o.limits.hidden = rank == size - 1 ? 1 << 28 : HIDDEN;
    CU_ASSERT_EQUAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_E_FIT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "a message at most 2 GB"));
    options(shape, CL_CARRIER_MESSAGES, &o);
    o.exchange_bytes = (size_t)3 << 30;
    CU_ASSERT_EQUAL(cl_line_open(&the_line, the_ranks, &o, &err), size > 1 ? CL_E_FIT : CL_OK);
    bool right = size == 1 || strstr(err.msg, "a message holds at most 2 GB");
    CU_ASSERT_TRUE(right);
    if (size == 1) cl_line_close(the_line);
    options(shape, CL_CARRIER_SHARED, &o);
    cl_code want = size > 1 && blocking ? CL_E_FIT : CL_OK;
    CU_ASSERT_EQUAL(cl_line_open(&the_line, the_ranks, &o, &err), want);
    if (want == CL_OK) cl_line_close(the_line);
    /* another host, as the table of hosts has it */
    uint16_t *of = the_ranks->hosts.of, was = of[size - 1];
    for (int r = 0; size > 1 && r < size; r++) of[r] = r == size - 1;
    if (size > 1) {
        CU_ASSERT_EQUAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_E_FIT);
        char says[200];
        snprintf(says, sizeof says,
                 "line: the stage of ranks 0 to %d is on several hosts, which share no memory (--gather messages, or "
                 "stages that fit a host)",
                 size - 1);
        CU_ASSERT_STRING_EQUAL(err.msg, says);
    }
    o.carrier = CL_CARRIER_AUTO;
    domains d;
    CU_ASSERT_EQUAL_FATAL(domains_make(&o, o.own, of, &d, &err), CL_OK);
    CU_ASSERT_EQUAL(d.n, size > 1 ? 2 : 1);
    domains_free(&d);
    CU_ASSERT(!d.n && !d.members && !d.of && !d.start && !d.member);
    of[size - 1] = was;
}

/* The same message at all its limits. */
static void right_messages(hop_slot *s, int bytes)
{
    cl_part *p = s->hop.mb.parts;
    struct {
        int32_t *where, right;
    } cases[] = {{&p[0].pos, 0},       {&p[0].pos, 62},      {&p[0].slot, SLOTS - 1}, {&p[0].n_outputs, 2},
                 {&p[0].n_guesses, 2}, {&p[0].n_outputs, 0}, {&p[2].fork, -1},        {&p[2].fork, SLOTS - 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t was = *cases[i].where;
        *cases[i].where = cases[i].right;
        CU_ASSERT_TRUE(handover_open(the_line, s, bytes));
        *cases[i].where = was;
    }
    wire_head *w = (wire_head *)(void *)s->data;
    w->kind = CL_HOP_STOP;
    CU_ASSERT_TRUE(handover_open(the_line, s, bytes) && s->hop.kind == CL_HOP_STOP);
}

/* What a message says of its sizes is believed only if all of it fits together. */
static void wrong_messages(void)
{
    cl_line_options o;
    cl_err err;
    int size = cl_ranks_size(the_ranks), shape[RANKS] = {size};
    options(shape, CL_CARRIER_MESSAGES, &o);
    o.prev.members = 1; /* as if there were a stage before */
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_OK);
    hop_slot *s = &the_line->hops[0];
    cl_hop *h = &s->hop;
    wire_head *w = (wire_head *)(void *)s->data;
    h->mb.parts = (cl_part *)(void *)(w + 1);
    for (int p = 0; p < 3; p++) h->mb.parts[p] = (cl_part){.slot = p, .pos = 60 + p, .n_tokens = p == 0 ? 2 : 1};
    *w = (wire_head){.magic = 0x43484f50, .microbatch = 7, .n_parts = 3, .n_tokens = 4};
    int bytes = (int)cl_line_hop_bytes(&o.limits, 3, 4);
    CU_ASSERT_TRUE(handover_open(the_line, s, bytes));
    CU_ASSERT_TRUE(h->mb.id == 7 && h->mb.n_parts == 3 && h->mb.n_tokens == 4 && h->mb.parts[2].pos == 62);
    for (int b = 0; b < bytes + 100; b++) CU_ASSERT_EQUAL(handover_open(the_line, s, b), b == bytes);
    struct {
        int32_t *where, wrong;
    } cases[] = {{(int32_t *)&w->magic, 1},
                 {(int32_t *)&w->kind, CL_HOP_STOP + 1},
                 {&w->n_parts, -1},
                 {&w->n_parts, SLOTS + 1},
                 {&w->n_parts, 2},
                 {&w->n_tokens, -1},
                 {&w->n_tokens, CHUNK + 1},
                 {&w->n_tokens, 3},
                 {&h->mb.parts[1].slot, -1},
                 {&h->mb.parts[1].slot, SLOTS},
                 {&h->mb.parts[0].pos, -1},
                 {&h->mb.parts[0].pos, 63},
                 {&h->mb.parts[0].pos, INT32_MAX},
                 {&h->mb.parts[1].n_tokens, 0},
                 {&h->mb.parts[1].n_tokens, 2},
                 {&h->mb.parts[1].n_tokens, CHUNK + 1},
                 {&h->mb.parts[1].n_tokens, INT32_MIN},
                 {&w->n_before, -1},
                 {&w->n_before, 1},
                 {&w->n_before, SLOTS * CL_REPEAT_WINDOW + 1},
                 {&h->mb.parts[0].n_outputs, -1},
                 {&h->mb.parts[0].n_outputs, 3},
                 {&h->mb.parts[0].n_guesses, -1},
                 {&h->mb.parts[0].n_guesses, 3},
                 {&h->mb.parts[2].fork, -2},
                 {&h->mb.parts[2].fork, SLOTS},
                 {&h->mb.parts[2].n_before, -1},
                 {&h->mb.parts[2].n_before, 1},
                 {&h->mb.parts[2].n_before, 63}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t right = *cases[i].where;
        *cases[i].where = cases[i].wrong;
        CU_ASSERT_FALSE(handover_open(the_line, s, bytes));
        *cases[i].where = right;
    }
    CU_ASSERT_TRUE(handover_open(the_line, s, bytes));
    right_messages(s, bytes);
    cl_line_close(the_line);
}

/* --- what comes from a peer that is wrong --- */

/* A line in which each rank, alone in its memory, hears the rank before it. */
static void open_in_a_round(bool before)
{
    cl_line_options o;
    cl_err err;
    const int shape[RANKS] = {cl_ranks_size(the_ranks)}, rank = cl_ranks_rank(the_ranks);
    options(shape, CL_CARRIER_MESSAGES, &o);
    o.first = rank;
    o.last = rank_before();
    if (before) o.prev = (cl_line_stage){rank_before(), 1};
    else o.next = (cl_line_stage){rank, 1};
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_OK);
}

static void take_samples(void *samples)
{
    if (!cl_line_recv_samples(the_line, true, samples)) abort();
}

typedef struct samples_message {
    int64_t microbatch;
    int32_t n_parts, n_ids;
    cl_sampled parts[SLOTS + 1];
    int32_t ids[CHUNK + 1];
} samples_message;

static void wrong_samples(void)
{
    static samples_message m;
    const int rank = cl_ranks_rank(the_ranks);
    char want[200];
    const cl_samples *got;
    const struct {
        int32_t *where, value;
        bool good;
    } cases[] = {{&m.n_ids, SLOTS, true},
                 {&m.n_parts, -1, false},
                 {&m.n_parts, SLOTS + 1, false},
                 {&m.n_parts, SLOTS - 1, false},
                 {&m.n_ids, -1, false},
                 {&m.n_ids, CHUNK + 1, false},
                 {&m.n_ids, SLOTS - 1, false},
                 {&m.parts[1].slot, -1, false},
                 {&m.parts[1].slot, SLOTS, false},
                 {&m.parts[1].slot, 0, true},
                 {&m.parts[1].n, -1, false},
                 {&m.parts[1].n, 0, true},
                 {&m.parts[1].n, SLOTS, false},
                 {&m.parts[1].n, SLOTS - 1, true},
                 {&m.parts[1].first, -1, false},
                 {&m.parts[1].first, 4, true},
                 {&m.parts[1].first, 5, false},
                 {&m.parts[1].first, INT32_MAX, false}};
    open_in_a_round(false);
    snprintf(want, sizeof want, "rank %d: samples of rank %d make no sense (a bug: please report it)", rank,
             rank_before());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        m = (samples_message){.microbatch = 9, .n_parts = SLOTS, .n_ids = SLOTS};
        for (int p = 0; p < SLOTS; p++) m.parts[p] = (cl_sampled){.slot = p, .n = 1, .first = p};
        m.parts[1].first = 1;
        *cases[i].where = cases[i].value;
        size_t bytes = offsetof(samples_message, parts) + SLOTS * sizeof *m.parts + SLOTS * sizeof *m.ids;
        send_round(&m, bytes, TAG_RESULTS, take_samples, &got, cases[i].good ? CL_OK : CL_E_RUN, want);
        if (cases[i].good) CU_ASSERT(got->microbatch == 9 && got->n_parts == SLOTS && got->n_ids == SLOTS);
    }
    m.n_parts = m.n_ids = 0;
    send_round(&m, 16, TAG_RESULTS, take_samples, &got, CL_OK, "");
    send_round(&m, 15, TAG_RESULTS, take_samples, &got, CL_E_RUN, want);
    send_round(&m, 17, TAG_RESULTS, take_samples, &got, CL_E_RUN, want);
    send_round(&m, 0, TAG_RESULTS, take_samples, &got, CL_E_RUN, want);
    cl_line_close(the_line);
}

static void take_hop(void *hop) { *(cl_hop **)hop = cl_line_recv(the_line); }

static void wrong_hops(void)
{
    const int rank = cl_ranks_rank(the_ranks);
    char want[200];
    cl_hop *got = NULL;
    wire_head w = {.magic = HOP_MAGIC, .kind = CL_HOP_STOP, .microbatch = 3};
    unsigned char message[64] = {0};
    open_in_a_round(true);
    CU_ASSERT_EQUAL(the_line->routes.source, rank_before());
    snprintf(want, sizeof want, "rank %d: a message of rank %d makes no sense (a bug: please report it)", rank,
             rank_before());
    memcpy(message, &w, sizeof w);
    send_round(message, 63, TAG_HOP, take_hop, &got, CL_E_RUN, want);
    send_round(message, 64, TAG_HOP, take_hop, &got, CL_OK, "");
    CU_ASSERT_FATAL(got && got->kind == CL_HOP_STOP && got->mb.id == 3);
    cl_line_release(the_line, got);
    cl_line_close(the_line);
}

/* Receives that are posted when a line is closed take nothing of the next one's. */
static void closed_while_it_waits(void)
{
    static samples_message m = {.microbatch = 5};
    const cl_samples *got = NULL;
    unsigned char message[64] = {0};
    cl_hop *hop = NULL;
    wire_head w = {.magic = HOP_MAGIC, .kind = CL_HOP_STOP, .microbatch = 4};
    open_in_a_round(false);
    CU_ASSERT_FALSE(cl_line_recv_samples(the_line, false, &got));
    cl_line_close(the_line);
    open_in_a_round(false);
    send_round(&m, 16, TAG_RESULTS, take_samples, &got, CL_OK, "");
    CU_ASSERT(got && got->microbatch == 5);
    CU_ASSERT_FALSE(cl_line_recv_samples(the_line, false, &got));
    cl_line_drain(the_line);
    CU_ASSERT(the_line->result_recv == MPI_REQUEST_NULL);
    cl_line_close(the_line);
    open_in_a_round(true);
    the_line->receiving = true;
    hops_post(the_line);
    CU_ASSERT(the_line->posted >= 0 && the_line->recv != MPI_REQUEST_NULL);
    cl_line_close(the_line);
    open_in_a_round(true);
    memcpy(message, &w, sizeof w);
    send_round(message, 64, TAG_HOP, take_hop, &hop, CL_OK, "");
    CU_ASSERT_FATAL(hop && hop->mb.id == 4);
    cl_line_release(the_line, hop);
    cl_line_close(the_line);
}

/* --- who sends to whom, and what it costs --- */

/* Inside one stage whose chips share nothing: a tree of ranks, its larger branches first. */
static void routes_of_a_stage(void)
{
    cl_line_options o;
    cl_err err;
    const int size = cl_ranks_size(the_ranks), rank = cl_ranks_rank(the_ranks), shape[RANKS] = {size};
    static const int to[RANKS][2] = {{2, 1}, {-1, -1}, {3, -1}, {-1, -1}}, from[RANKS] = {-1, 0, 0, 2};
    options(shape, CL_CARRIER_MESSAGES, &o);
    CU_ASSERT_EQUAL_FATAL(cl_line_open(&the_line, the_ranks, &o, &err), CL_OK);
    const hop_routes *r = &the_line->routes;
    int n = 0;
    CU_ASSERT_EQUAL(r->source, from[rank]);
    for (int i = 0; i < 2; i++)
        if (to[rank][i] >= 0 && to[rank][i] < size && n < r->n) CU_ASSERT_EQUAL(r->to[n++], to[rank][i]);
    CU_ASSERT(r->n == n && r->n_within == n);
    cl_line_close(the_line);
}

static void measuring(void)
{
    cl_err err;
    const int size = cl_ranks_size(the_ranks);
    for (int k = 0; k < (blocking ? 1 : 2); k++) {
        cl_rates r = {.read_bytes_per_s = 5};
        const cl_carrier carrier = k ? CL_CARRIER_SHARED : CL_CARRIER_MESSAGES;
        CU_ASSERT_EQUAL_FATAL(cl_line_measure(the_ranks, carrier, &r, &err), CL_OK);
        double all[4] = {r.gather_s, r.gather_bytes_per_s, r.hop_s, r.hop_bytes_per_s}, most[4];
        memcpy(most, all, sizeof most);
        cl_ranks_max(the_ranks, most, 4);
        CU_ASSERT(memcmp(most, all, sizeof all) == 0); /* the same on all ranks */
        CU_ASSERT_EQUAL(r.read_bytes_per_s, 5);
        CU_ASSERT(size == 1 ? !r.gather_s && !r.hop_s : r.gather_s > 0 && r.hop_s > 0);
        CU_ASSERT(size == 1 ? !r.gather_bytes_per_s && !r.hop_bytes_per_s
                            : r.gather_bytes_per_s >= 0 && r.hop_bytes_per_s >= 0);
    }
}

static void sizes(void)
{
    cl_limits m = {.slots = SLOTS, .chunk = CHUNK, .hidden = HIDDEN};
    CU_ASSERT_EQUAL(cl_line_hop_bytes(&m, 0, 0), 64);
    for (int parts = 1; parts <= SLOTS; parts++)
        for (int tokens = parts; tokens <= CHUNK; tokens++) {
            size_t head = 32 + (size_t)parts * sizeof(cl_part) + 4 * (size_t)tokens, x = 4 * HIDDEN * (size_t)tokens;
            CU_ASSERT_EQUAL(cl_line_hop_bytes(&m, parts, tokens), (head + 63) / 64 * 64 + x);
        }
    CU_ASSERT_EQUAL(cl_line_samples_bytes(3, 5), 16 + 3 * sizeof(cl_sampled) + 20);
}

int main(int argc, char **argv)
{
    CU_TestInfo tests[] = {{"sizes", sizes},
                           {"messages", with_messages},
                           {"shared memory", with_shared_memory},
                           {"memory of two", with_memory_of_two},
                           {"either", with_whatever_there_is},
                           {"refusals", refusals},
                           {"wrong messages", wrong_messages},
                           {"wrong samples", wrong_samples},
                           {"wrong hops", wrong_hops},
                           {"closed while it waits", closed_while_it_waits},
                           {"routes of a stage", routes_of_a_stage},
                           {"measuring", measuring},
                           CU_TEST_INFO_NULL};
    return run_on_ranks(argc, argv, "gather", tests);
}
