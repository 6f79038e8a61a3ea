/* The session without a line: a toy model answers its micro-batches, here and on toy lines beside it. */
#include <stdlib.h>

#include "chipline/session.h"
#include "suite.h"

enum { SLOTS = 4, CHUNK = 6, CONTEXT = 64, VOCAB = 256, MOST = 64, END_ID = 0 };

/* --- the toy model: what follows depends on the first id and the position alone --- */

static int32_t (*said)(int32_t first, int pos);

static int32_t any(int32_t first, int pos) { return 1 + (int32_t)((uint32_t)(first * 37 + pos * 11 + pos * pos) % 90); }

/* Texts by the first id: the answer begins at position 1. */
static const char *texts[8];
static int32_t spoken(int32_t first, int pos)
{
    return pos - 1 < (int)strlen(texts[first]) ? texts[first][pos - 1] : END_ID;
}

/* --- a tokenizer of single bytes --- */

static cl_tokenizer_data data;
static cl_tokenizer *tokenizer;

static void make_tokenizer(void)
{
    static char bytes[VOCAB];
    static uint32_t offset[VOCAB + 1];
    static uint8_t type[VOCAB], flags[VOCAB];
    cl_err err;
    for (int i = 0; i < VOCAB; i++) {
        bytes[i] = (char)i;
        offset[i + 1] = (uint32_t)i + 1;
        type[i] = CL_TOK_NORMAL;
    }
    data = (cl_tokenizer_data){.kind = CL_TOK_BPE_BYTES,
                               .n_tokens = VOCAB,
                               .bytes = bytes,
                               .offset = offset,
                               .type = type,
                               .flags = flags,
                               .bos = -1,
                               .eos = -1,
                               .unk = -1,
                               .pad = -1};
    if (cl_tokenizer_create(&tokenizer, &data, &err)) puts(err.msg), exit(EXIT_FAILURE);
}

/* --- the toy line --- */

typedef struct toy_slot {
    int32_t ids[CONTEXT];
    int n;
} toy_slot;

typedef struct toy_batch {
    cl_sampled parts[SLOTS];
    int32_t ids[SLOTS];
    cl_samples samples;
} toy_batch;

typedef struct toy {
    cl_session *s;
    int stages;
    toy_slot slots[SLOTS];
    toy_batch line[8];
    int first, flying;
    bool wrong; /* a part that no model could compute */
} toy;

static toy_batch *answer(toy *t, const cl_microbatch *mb)
{
    toy_batch *b = &t->line[(t->first + t->flying++) % 8];
    const int32_t *ids = mb->ids;
    b->samples = (cl_samples){.microbatch = mb->id, .n_parts = mb->n_parts, .parts = b->parts, .ids = b->ids};
    for (int i = 0; i < mb->n_parts; ids += mb->parts[i++].n_tokens) {
        const cl_part *p = &mb->parts[i];
        toy_slot *slot = &t->slots[p->slot];
        if (p->flags & CL_PART_BEGIN) slot->n = 0;
        t->wrong |= p->pos != slot->n || slot->n + p->n_tokens > CONTEXT || p->n_outputs > 1;
        for (int k = 0; k < p->n_tokens; k++) slot->ids[slot->n++] = ids[k];
        b->parts[i] = (cl_sampled){.slot = p->slot, .n = p->n_outputs, .first = b->samples.n_ids};
        if (p->n_outputs) b->ids[b->samples.n_ids++] = said(slot->ids[0], slot->n);
    }
    return b;
}

/* One turn of a line: sends a micro-batch if there is one, and takes one back where the line is full or idle. */
static bool turn(toy *t, cl_err *err)
{
    static cl_part parts[SLOTS];
    static int32_t ids[CHUNK], before[SLOTS * CL_REPEAT_WINDOW];
    cl_microbatch mb = {.parts = parts, .ids = ids, .before = before};
    bool sent = t->flying < t->stages && cl_session_next(t->s, &mb);
    if (sent) answer(t, &mb);
    if (!t->flying || (sent && t->flying < t->stages)) return sent;
    toy_batch *b = &t->line[t->first];
    t->first = (t->first + 1) % 8;
    t->flying--;
    CU_ASSERT_EQUAL(cl_session_samples(t->s, &b->samples, err), CL_OK);
    return true;
}

/* --- the source --- */

typedef struct heard {
    char id[16], reason[16], text[CONTEXT + 1], error[64];
    int n_ids, n_text, last;
    int32_t ids[CONTEXT], tokens[CONTEXT];
    cl_result result;
} heard;

static heard ended[MOST];
static int n_ended;
static heard running[MOST]; /* by the request's owner */

static cl_code hear_text(void *ctx, const cl_request *r, const char *s, size_t n, cl_err *err)
{
    heard *h = r->owner;
    memcpy(h->text + h->n_text, s, n);
    h->n_text += (int)n;
    return CL_OK;
}

static void hear_token(void *ctx, const cl_request *r, int32_t id, uint64_t digest, bool last)
{
    heard *h = r->owner;
    CU_ASSERT_EQUAL(h->last, 0);
    h->tokens[h->n_ids++] = id;
    h->last = last;
}

static cl_code full_disk(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    cl_request_free(r);
    return cl_fail(err, CL_E_RUN, "disk full");
}

static cl_code hear_end(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    heard *h = r->owner;
    ended[n_ended] = *h;
    h = &ended[n_ended++];
    snprintf(h->id, sizeof h->id, "%s", r->id);
    snprintf(h->reason, sizeof h->reason, "%s", result->finish_reason);
    snprintf(h->error, sizeof h->error, "%.60s", r->error.code ? r->error.msg : "");
    if (result->n_tokens) memcpy(h->ids, result->tokens, (size_t)result->n_tokens * sizeof *h->ids);
    h->result = *result;
    if (result->text.len)
        CU_ASSERT(h->n_text == (int)result->text.len && !memcmp(h->text, result->text.data, result->text.len));
    h->result.text = h->result.reasoning = (cl_buf){0};
    cl_request_free(r);
    return CL_OK;
}

static cl_source source = {.text = hear_text, .token = hear_token, .done = hear_end};

static cl_request *ask(int first, int n_prompt, int max_tokens)
{
    cl_request *r = calloc(1, sizeof *r);
    r->id = malloc(16);
    snprintf(r->id, 16, "%d", first);
    r->prompt = malloc((size_t)n_prompt * sizeof *r->prompt);
    for (int i = 0; i < n_prompt; i++) r->prompt[i] = first + i;
    r->n_prompt = n_prompt;
    r->max_tokens = max_tokens;
    r->sampling.repeat_penalty = 1;
    r->owner = &running[first];
    running[first] = (heard){0};
    return r;
}

static const heard *end_of(const char *id)
{
    for (int i = 0; i < n_ended; i++)
        if (!strcmp(ended[i].id, id)) return &ended[i];
    return NULL;
}

static void stop_at(cl_request *r, const char *a, const char *b)
{
    r->stops = calloc(2, sizeof *r->stops);
    r->stops[r->n_stops++] = strdup(a);
    if (b) r->stops[r->n_stops++] = strdup(b);
}

/* --- the clock --- */

static uint64_t clock_ns;
static uint64_t toy_now(void) { return clock_ns; }

static void start(toy *t, int stages, const cl_session_options *more)
{
    static const int32_t eos[] = {END_ID};
    cl_err err;
    cl_session_options o = {.lines = 1};
    if (more) o = *more;
    o.limits = (cl_limits){.slots = SLOTS, .context = CONTEXT, .chunk = CHUNK, .hidden = 8, .vocab = VOCAB};
    o.stages = stages;
    o.n_eos = 1;
    o.eos = eos;
    o.now = toy_now;
    clock_ns = 1000;
    n_ended = 0;
    said = any;
    *t = (toy){.stages = stages};
    CU_ASSERT_EQUAL_FATAL(cl_session_create(&t->s, &o, &err), CL_OK);
    cl_session_set_source(t->s, &source);
}

static void run_all(toy *t)
{
    cl_err err;
    for (int i = 0; i < 10000 && turn(t, &err); i++) {
    }
    CU_ASSERT(cl_session_active(t->s) == 0 && cl_session_in_flight(t->s) == 0 && t->flying == 0 && !t->wrong);
}

static bool right_ids(const heard *h, int first, int n_prompt, int n)
{
    bool right = h && h->result.n_tokens == n && h->n_ids == n;
    for (int i = 0; right && i < n; i++) right = h->ids[i] == any(first, n_prompt + i) && h->tokens[i] == h->ids[i];
    return right;
}

/* --- tests --- */

static void ends(void)
{
    for (int stages = 1; stages <= 4; stages++) {
        toy t;
        cl_err err;
        start(&t, stages, NULL);
        cl_request *broken = ask(9, 2, 3);
        cl_fail(&broken->error, CL_E_INPUT, "no such thing");
        for (int i = 1; i <= SLOTS; i++) CU_ASSERT_EQUAL(cl_session_add(t.s, ask(i, 3 * i, 4 + i), &err), CL_OK);
        CU_ASSERT_FALSE(cl_session_has_room(t.s));
        CU_ASSERT_EQUAL(cl_session_add(t.s, broken, &err), CL_OK); /* ends at once, takes no room */
        CU_ASSERT(n_ended == 1 && !strcmp(ended[0].reason, "error") && !strcmp(ended[0].error, "no such thing"));
        run_all(&t);
        for (int i = 1; i <= SLOTS; i++) {
            char id[4];
            snprintf(id, sizeof id, "%d", i);
            const heard *h = end_of(id);
            CU_ASSERT(right_ids(h, i, 3 * i, 4 + i) && !strcmp(h->reason, "length") && h->last);
            CU_ASSERT_EQUAL(h->result.number, i - 1);
        }
        cl_session_stats s = cl_session_get_stats(t.s);
        CU_ASSERT(s.requests == SLOTS + 1 && s.failed == 1 && s.prompt_tokens == 30 && s.generated_tokens == 26 &&
                  s.first_tokens == SLOTS);
        cl_session_free(t.s);
    }
}

/* Stops of several tokens, beginnings that come to nothing, the end-of-text id; what is streamed is what is kept. */
static void stops(void)
{
    static const struct {
        const char *text, *a, *b, *shown, *reason;
        int n_ids;
    } cases[] = {{"one two. three", "two.", NULL, "one ", "stop", 8},
                 {"ababac!", "abac", NULL, "ab", "stop", 6},
                 {"ab ab ab", "abc", "b abx", "ab ab ab", "stop", 9},
                 {"xxSTO", "STOP", NULL, "xxSTO", "stop", 6},
                 {"begin\nUser: hi", "User:", "\n", "begin", "stop", 6},
                 {"long long long", "zzz", NULL, "long long ", "length", 10},
                 {"long long STO", "STOP", NULL, "long long ST", "length", 12}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        toy t;
        cl_err err;
        start(&t, 1 + (int)i % 3, &(cl_session_options){.lines = 1, .tokenizer = tokenizer});
        said = spoken;
        texts[1] = cases[i].text;
        cl_request *r = ask(1, 1, !strcmp(cases[i].reason, "length") ? cases[i].n_ids : 40);
        stop_at(r, cases[i].a, cases[i].b);
        CU_ASSERT_EQUAL(cl_session_add(t.s, r, &err), CL_OK);
        int held = 0;
        while (cl_session_active(t.s) && turn(&t, &err)) {
            const char *now = running[1].text;
            int n = running[1].n_text;
            held += n < running[1].n_ids;
            if (!n_ended) CU_ASSERT(!strncmp(now, cases[i].shown, (size_t)n)); /* never more than will stay */
        }
        CU_ASSERT_EQUAL_FATAL(n_ended, 1);
        CU_ASSERT_STRING_EQUAL(ended[0].text, cases[i].shown);
        CU_ASSERT_STRING_EQUAL(ended[0].reason, cases[i].reason);
        CU_ASSERT_EQUAL(ended[0].result.n_tokens, cases[i].n_ids);
        CU_ASSERT(held > 0 || cases[i].b || !strcmp(cases[i].a, "zzz"));
        run_all(&t);
        cl_session_free(t.s);
    }
}

/* At any moment, and whatever is under way: it ends at once, its slot is used again, the others notice nothing. */
static void cancels(void)
{
    unsigned seed = 1;
    for (int round = 0; round < 400; round++) {
        toy t;
        cl_err err;
        start(&t, 1 + round % 4, NULL);
        cl_request *asked[20];
        int given = 0, cancelled = 0, before_first = 0;
        for (int steps = 0; n_ended < 20 && steps < 5000; steps++) {
            while (given < 20 && cl_session_has_room(t.s)) {
                asked[given] = ask(given + 1, 1 + (int)(rand_r(&seed) % 20), 1 + (int)(rand_r(&seed) % 9));
                CU_ASSERT_EQUAL(cl_session_add(t.s, asked[given++], &err), CL_OK);
            }
            if (rand_r(&seed) % 6 == 0 && cl_session_active(t.s)) {
                int i = (int)(rand_r(&seed) % (unsigned)cl_session_active(t.s)), had = n_ended;
                cl_session_view v = cl_session_look(t.s, i);
                before_first += v.n_tokens == v.n_prompt;
                ((cl_request *)(uintptr_t)v.request)->cancelled = true;
                CU_ASSERT_EQUAL(cl_session_sweep(t.s, &err), CL_OK);
                CU_ASSERT(n_ended == had + 1 && !strcmp(ended[had].reason, "cancelled"));
                cancelled++;
            }
            turn(&t, &err);
        }
        CU_ASSERT_EQUAL_FATAL(n_ended, 20);
        run_all(&t);
        for (int i = 0; i < 20; i++) {
            int first = atoi(ended[i].id), n = ended[i].result.n_tokens;
            bool right = ended[i].n_ids == n;
            /* the prompt's length shows in the first id alone: look for one that explains all */
            for (int p = 1, fits = 0; right && n && p <= 20; p++) {
                fits = right_ids(&ended[i], first, p, n);
                if (fits) break;
                right = p < 20;
            }
            CU_ASSERT(right);
        }
        CU_ASSERT(round < 10 || cancelled > 0 || before_first >= 0);
        cl_session_free(t.s);
    }
}

/* Put aside between two micro-batches, looked at, taken up by another session from ids alone. */
static void goes_on_elsewhere(void)
{
    toy t, u;
    cl_err err;
    start(&t, 2, &(cl_session_options){.lines = 1, .tokenizer = tokenizer});
    said = spoken;
    texts[1] = "a text of some length";
    texts[2] = "another STOP text";
    cl_request *q = ask(1, 1, 40), *r = ask(2, 1, 40);
    stop_at(q, "soon", NULL);
    stop_at(r, "STOP", NULL);
    CU_ASSERT_EQUAL(cl_session_add(t.s, q, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_session_add(t.s, r, &err), CL_OK);
    /* "a text of s" and "another STO": both held back, the one for nothing */
    while (running[2].n_ids < 11) turn(&t, &err);
    while (t.flying) {
        toy_batch *b = &t.line[t.first];
        t.first = (t.first + 1) % 8;
        t.flying--;
        CU_ASSERT_EQUAL(cl_session_samples(t.s, &b->samples, &err), CL_OK);
    }
    heard part[3];
    memcpy(part, running, sizeof part);
    CU_ASSERT_STRING_EQUAL(part[1].text, "a text of ");
    cl_request *again[2];
    CU_ASSERT_EQUAL_FATAL(cl_session_active(t.s), 2);
    for (int i = 0; i < 2; i++) {
        cl_session_view v = cl_session_look(t.s, i);
        CU_ASSERT(v.number == i && v.line == 0 && v.slot == i && v.n_prompt == 1 && v.n_cached == v.n_tokens - 1);
        again[i] = ask(1 + i, 1, 40);
        again[i]->n_earlier = v.n_tokens - 1;
        again[i]->earlier = malloc((size_t)again[i]->n_earlier * sizeof(int32_t));
        memcpy(again[i]->earlier, v.tokens + 1, (size_t)again[i]->n_earlier * sizeof(int32_t));
    }
    stop_at(again[0], "soon", NULL);
    stop_at(again[1], "STOP", NULL);
    cl_session_free(t.s);
    memcpy(running, part, sizeof part);
    start(&u, 3, &(cl_session_options){.lines = 1, .tokenizer = tokenizer});
    said = spoken;
    for (int i = 0; i < 2; i++) CU_ASSERT_EQUAL(cl_session_add(u.s, again[i], &err), CL_OK);
    run_all(&u);
    CU_ASSERT_STRING_EQUAL(end_of("1")->text, texts[1]);
    CU_ASSERT_STRING_EQUAL(end_of("2")->text, "another ");
    CU_ASSERT(end_of("1")->result.n_tokens == (int)strlen(texts[1]) + 1 && end_of("2")->result.n_tokens == 12);
    cl_session_stats s = cl_session_get_stats(u.s);
    CU_ASSERT_EQUAL(s.generated_tokens, (int64_t)strlen(texts[1]) + 1 + 12 - (part[1].n_ids + part[2].n_ids));
    cl_session_free(u.s);
}

/* --- lines beside --- */

typedef struct toy_order {
    int line, first, n_prompt, most, done;
    int64_t number;
    bool cancelled;
} toy_order;

static toy_order orders[MOST];
static int n_orders;

static cl_code send(void *ctx, int line, int64_t number, const cl_request *r, const int32_t *ids, int n_ids, int most,
                    cl_err *err)
{
    CU_ASSERT(n_ids >= r->n_prompt && memcmp(ids, r->prompt, (size_t)r->n_prompt * sizeof *ids) == 0);
    orders[n_orders++] = (toy_order){line, r->prompt[0], n_ids, most, 0, number, false};
    return CL_OK;
}

static cl_code cancel(void *ctx, int line, int64_t number, cl_err *err)
{
    for (int i = 0; i < n_orders; i++)
        if (orders[i].number == number) {
            CU_ASSERT(orders[i].line == line && !orders[i].cancelled);
            orders[i].cancelled = true;
        }
    return CL_OK;
}

static void lines_beside(void)
{
    unsigned seed = 3;
    for (int round = 0; round < 100; round++) {
        toy t;
        cl_err err;
        n_orders = 0;
        start(&t, 1 + round % 3, &(cl_session_options){.lines = 3, .others = {NULL, send, cancel}});
        int given = 0, at[3] = {0}, failed = -1;
        for (int steps = 0; n_ended < 30 && steps < 5000; steps++) {
            while (given < 30 && cl_session_has_room(t.s)) {
                given++;
                CU_ASSERT_EQUAL(cl_session_add(t.s, ask(given, 1 + given % 7, 1 + given % 5), &err), CL_OK);
            }
            if (n_orders) { /* one of the others says something; it may not have heard of a cancellation yet */
                toy_order *o = &orders[rand_r(&seed) % (unsigned)n_orders];
                if (o->done < o->most && rand_r(&seed) % 40 == 0 && failed < 0 && !o->cancelled) {
                    failed = o->first;
                    o->done = o->most;
                    CU_ASSERT_EQUAL(cl_session_token(t.s, o->line, o->number, 0, 0, false, "broke", &err), CL_OK);
                } else if (o->done < o->most) {
                    int32_t id = any(o->first, o->n_prompt + o->done++);
                    bool last = o->done == o->most;
                    CU_ASSERT_EQUAL(cl_session_token(t.s, o->line, o->number, id, 7, last, NULL, &err), CL_OK);
                }
            }
            if (rand_r(&seed) % 30 == 0 && cl_session_active(t.s)) {
                cl_session_view v = cl_session_look(t.s, 0);
                ((cl_request *)(uintptr_t)v.request)->cancelled = true;
                CU_ASSERT((v.slot < 0) == (v.line > 0) && (v.slot >= 0 || v.n_cached == 0));
                CU_ASSERT_EQUAL(cl_session_sweep(t.s, &err), CL_OK);
            }
            turn(&t, &err);
        }
        CU_ASSERT_EQUAL_FATAL(n_ended, 30);
        for (int i = 0; i < n_orders; i++) at[orders[i].line]++;
        CU_ASSERT(at[1] > 2 && at[2] > 2 && at[0] == 0 && n_orders < 30); /* every line has some */
        for (int i = 0; i < 30; i++) {
            int first = atoi(ended[i].id), n = 1 + first % 5;
            bool whole = first != failed && strcmp(ended[i].reason, "cancelled");
            if (whole) CU_ASSERT(right_ids(&ended[i], first, 1 + first % 7, n));
            if (first == failed) CU_ASSERT(!strcmp(ended[i].reason, "error") && !strcmp(ended[i].error, "broke"));
        }
        cl_session_free(t.s);
    }
}

/* A stop that only rank 0 can see: the other line is told. */
static void stop_elsewhere(void)
{
    toy t;
    cl_err err;
    n_orders = 0;
    start(&t, 1, &(cl_session_options){.lines = 2, .others = {NULL, send, cancel}, .tokenizer = tokenizer});
    texts[1] = texts[2] = "go on. stop. no";
    said = spoken;
    for (int i = 1; i <= 2; i++) {
        cl_request *r = ask(i, 1, 40);
        stop_at(r, "stop.", NULL);
        CU_ASSERT_EQUAL(cl_session_add(t.s, r, &err), CL_OK);
    }
    CU_ASSERT_EQUAL_FATAL(n_orders, 1);
    for (int i = 0; i < 14; i++) /* the line samples on before it hears */
        CU_ASSERT_EQUAL(cl_session_token(t.s, 1, orders[0].number, texts[2][i], 0, false, NULL, &err), CL_OK);
    CU_ASSERT(orders[0].cancelled && n_ended == 1 && !strcmp(ended[0].text, "go on. ") &&
              ended[0].result.n_tokens == 12);
    run_all(&t);
    CU_ASSERT(n_ended == 2 && !strcmp(ended[1].text, "go on. ") && !strcmp(ended[1].reason, "stop"));
    cl_session_free(t.s);
}

/* --- errors and times --- */

/* What cannot be kept ends the run; what is in flight is not lost track of. */
static void results_that_cannot_be_kept(void)
{
    toy t;
    cl_err err = {.code = CL_OK};
    start(&t, 1, NULL);
    cl_source broken = {.done = full_disk};
    cl_session_set_source(t.s, &broken);
    CU_ASSERT_EQUAL(cl_session_add(t.s, ask(1, 1, 1), &err), CL_OK);
    CU_ASSERT_EQUAL(cl_session_add(t.s, ask(2, 1, 5), &err), CL_OK);
    cl_part parts[SLOTS];
    int32_t ids[CHUNK], before[SLOTS * CL_REPEAT_WINDOW];
    cl_microbatch mb = {.parts = parts, .ids = ids, .before = before};
    CU_ASSERT_TRUE(cl_session_next(t.s, &mb));
    CU_ASSERT_EQUAL(cl_session_samples(t.s, &answer(&t, &mb)->samples, &err), CL_E_RUN);
    CU_ASSERT_STRING_EQUAL(err.msg, "disk full");
    CU_ASSERT_EQUAL(cl_session_active(t.s), 1);
    cl_session_free(t.s);
}

/* A clock that is set by hand: arrival, waiting, first ids, ends. */
static void times(void)
{
    toy t;
    cl_err err;
    start(&t, 1, NULL);
    cl_session_set_start(t.s, 1000);
    cl_request *a = ask(1, 1, 3), *b = ask(2, 8, 2);
    a->arrived_ns = 400; /* while loading: counts from 1000 */
    b->arrived_ns = 1100;
    clock_ns = 2000; /* nothing yet */
    CU_ASSERT_EQUAL(cl_session_add(t.s, a, &err), CL_OK);
    clock_ns = 2500; /* a prompt: 500 */
    turn(&t, &err);
    clock_ns = 3500; /* decoding alone: 1000 */
    CU_ASSERT_EQUAL(cl_session_add(t.s, b, &err), CL_OK);
    clock_ns = 3600; /* both: 100 */
    turn(&t, &err);  /* a's second id, 5 tokens of b's prompt */
    clock_ns = 3900; /* both: 300 */
    turn(&t, &err);  /* a ends; b's first id */
    clock_ns = 4900; /* decoding: 1000 */
    turn(&t, &err);
    clock_ns = 9000; /* nothing */
    cl_session_stats s = cl_session_get_stats(t.s);
    CU_ASSERT_EQUAL(s.prompt_ns, 500 + 100 + 300);
    CU_ASSERT_EQUAL(s.decode_ns, 1000 + 100 + 300 + 1000);
    CU_ASSERT(s.requests == 2 && s.prompt_tokens == 9 && s.generated_tokens == 5 && s.first_tokens == 2);
    CU_ASSERT_DOUBLE_EQUAL(s.ttft_s, (1500e-9 + 2800e-9) / 2, 1e-12); /* 2500 - 1000, 3900 - 1100 */
    CU_ASSERT_DOUBLE_EQUAL(cl_prompt_rate(&s), 9 / 900e-9, 1);
    CU_ASSERT_DOUBLE_EQUAL(cl_decode_rate(&s), 3 / 2400e-9, 1);
    const cl_result *r = &end_of("2")->result;
    CU_ASSERT(r->started_ns == 3500 && r->first_token_ns == 3900 && r->finished_ns == 4900);
    r = &end_of("1")->result;
    CU_ASSERT(r->started_ns == 2000 && r->first_token_ns == 2500 && r->finished_ns == 3900);
    cl_session_stats none = {0};
    CU_ASSERT(cl_prompt_rate(&none) == 0 && cl_decode_rate(&none) == 0);
    cl_session_free(t.s);
}

/* A line beside is sent one request more than it has slots: that one waits there until another ends. */
static void waits_elsewhere(void)
{
    toy t;
    cl_err err;
    n_orders = 0;
    start(&t, 1, &(cl_session_options){.lines = 2, .others = {NULL, send, cancel}});
    clock_ns = 2000;
    int given = 0;
    while (cl_session_has_room(t.s)) CU_ASSERT_EQUAL(cl_session_add(t.s, ask(++given, 1, 2), &err), CL_OK);
    CU_ASSERT(given == 2 * SLOTS + 1 && n_orders == SLOTS + 1);
    for (int k = 0; k <= SLOTS; k++) { /* one after the other; the last waits for the first */
        toy_order *o = &orders[k];
        clock_ns = 5000 + 1000 * (uint64_t)k;
        for (; o->done < o->most; o->done++)
            CU_ASSERT_EQUAL(cl_session_token(t.s, 1, o->number, any(o->first, 1 + o->done), 7, o->done + 1 == o->most,
                                             NULL, &err),
                            CL_OK);
    }
    CU_ASSERT_EQUAL_FATAL(n_ended, SLOTS + 1);
    for (int k = 0; k <= SLOTS; k++) CU_ASSERT_EQUAL(ended[k].result.started_ns, k < SLOTS ? 2000 : 5000);
    run_all(&t);
    cl_session_stats s = cl_session_get_stats(t.s);
    CU_ASSERT_EQUAL(s.requests, given);
    CU_ASSERT_EQUAL(s.prompt_ns, 1000 * (uint64_t)SLOTS + 3000); /* from 2000 on there were some, to the last's ids */
    cl_session_free(t.s);
}

int main(void)
{
    make_tokenizer();
    CU_TestInfo tests[] = {{"ends", ends},
                           {"stops", stops},
                           {"cancels", cancels},
                           {"goes on elsewhere", goes_on_elsewhere},
                           {"lines beside", lines_beside},
                           {"stop elsewhere", stop_elsewhere},
                           {"results that cannot be kept", results_that_cannot_be_kept},
                           {"times", times},
                           {"waits elsewhere", waits_elsewhere},
                           CU_TEST_INFO_NULL};
    int failed = run_suite("session", tests);
    cl_tokenizer_free(tokenizer);
    return failed;
}
