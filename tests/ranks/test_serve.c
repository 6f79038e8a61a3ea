/* Serving that is stopped between two micro-batches, looked at, and gone on with: every request gives the ids that it
 * gives undisturbed, in one line or in several side by side, with a desk or without, and none is lost or done twice. */
#include <signal.h>
#include <unistd.h>

#include "chipline/import.h"
#include "chipline/run.h"
#include "ranks_suite.h"
#include "../../src/line/ranks_internal.h"
#include "../../src/run/run_internal.h"

enum { REQUESTS = 23, MOST = 24 };

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64, "
    "\"intermediate_size\": 96, \"num_hidden_layers\": 6, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"vocab_size\": 200, \"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "
    "\"hidden_act\": \"silu\", \"torch_dtype\": \"float32\", \"tie_word_embeddings\": false}";
static char dir[32], model[48], config_path[48], trace_path[48];

/* Rank 0 makes it, all know where. */
static void make_model(void)
{
    cl_err err = {0};
    cl_code c = CL_OK;
    strcpy(dir, "/tmp/chipline-serve-XXXXXX");
    if (cl_ranks_rank(the_ranks) == 0) {
        CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
        snprintf(config_path, sizeof config_path, "%s/config.json", dir);
        snprintf(model, sizeof model, "%s/m.h5", dir);
        snprintf(trace_path, sizeof trace_path, "%s/t.h5", dir);
        FILE *f = fopen(config_path, "w");
        CU_ASSERT_FATAL(f && fputs(config, f) > 0 && fclose(f) == 0);
        c = cl_synth(config_path, model, &(cl_synth_options){.keep = true, .seed = 3, .jobs = 1, .quiet = true}, &err);
        if (c != CL_OK) fprintf(stderr, "%s\n", err.msg);
    }
    CU_ASSERT_EQUAL_FATAL(cl_ranks_agree(the_ranks, c, &err), CL_OK);
    cl_ranks_bcast(the_ranks, model, sizeof model);
    cl_ranks_bcast(the_ranks, trace_path, sizeof trace_path);
}

static void remove_model(void)
{
    if (cl_ranks_rank(the_ranks)) return;
    unlink(model);
    unlink(config_path);
    CU_ASSERT_EQUAL(rmdir(dir), 0); /* no event log is left */
}

/* --- rank 0's source --- */

typedef struct source_state {
    int given, heard, n_back;
    cl_request *back[REQUESTS];
    int n[REQUESTS], ends[REQUESTS];
    int32_t ids[REQUESTS][MOST];
} source_state;

static source_state now_state;
static int stop_at; /* ids heard; 0: never */

static cl_request *make(int i)
{
    cl_request *r = calloc(1, sizeof *r);
    r->id = malloc(8);
    snprintf(r->id, 8, "%d", i);
    r->n_prompt = 1 + i % 5;
    r->prompt = calloc((size_t)r->n_prompt, sizeof *r->prompt);
    for (int k = 0; k < r->n_prompt; k++) r->prompt[k] = (7 * i + 13 * k) % 200;
    r->max_tokens = 3 + (5 * i) % (MOST - 2);
    r->sampling = (cl_sampling){.temperature = 0.8f, .top_p = 1, .repeat_penalty = 1.1f, .seed = (uint64_t)i};
    return r;
}

static cl_request *give(void *ctx, int wait_ms, bool *ended)
{
    source_state *s = ctx;
    if (!s->given) CU_ASSERT_STRING_EQUAL(the_ranks->life.phase, "waiting for requests");
    *ended = s->given == REQUESTS && !s->n_back;
    return s->n_back ? s->back[--s->n_back] : *ended ? NULL : make(s->given++);
}

static void hear(void *ctx, const cl_request *r, int32_t id, uint64_t digest, bool last)
{
    source_state *s = ctx;
    int i = atoi(r->id);
    if (s->n[i] < MOST) s->ids[i][s->n[i]++] = id;
    s->heard++;
}

static cl_code take(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    source_state *s = ctx;
    int i = atoi(r->id);
    s->ends[i]++;
    CU_ASSERT(result->n_tokens == r->max_tokens && s->n[i] == result->n_tokens);
    CU_ASSERT(memcmp(s->ids[i], result->tokens, (size_t)result->n_tokens * sizeof(int32_t)) == 0);
    cl_request_free(r);
    return CL_OK;
}

static void take_back(void *ctx, cl_request *r)
{
    source_state *s = ctx;
    s->back[s->n_back++] = r;
}

static bool stops(void) { return stop_at && now_state.heard >= stop_at; }

/* --- a source whose second request comes while the line waits for samples of the first --- */

static const cl_session *busy;
static pid_t last_rank; /* stands still until both are in the line */

static cl_request *give_late(void *ctx, int wait_ms, bool *ended)
{
    source_state *s = ctx;
    if (s->given == 0) kill(last_rank, SIGSTOP);
    else if (cl_session_in_flight(busy) < s->given && s->heard == 0) return NULL;
    if (s->given == 1) usleep(100000); /* the line waits by then */
    if (s->given < 2) return make(s->given++);
    CU_ASSERT_EQUAL(s->heard, 0);
    kill(last_rank, SIGCONT);
    *ended = true;
    return NULL;
}

/* --- one run --- */

typedef struct variant {
    int replicas, slots;
    bool desk;
    int every; /* stopped each time that so many ids have come; 0: never */
    bool late, trace;
} variant;

/* What is in the session is what the source gave and has not got back. */
static void look(const cl_session *s)
{
    int left = now_state.given - now_state.n_back;
    for (int i = 0; i < REQUESTS; i++) left -= now_state.ends[i];
    CU_ASSERT_EQUAL(cl_session_active(s), left);
    CU_ASSERT_EQUAL(cl_session_in_flight(s), 0);
    for (int i = 0; i < cl_session_active(s); i++) {
        cl_session_view v = cl_session_look(s, i);
        int r = atoi(v.request->id), n = v.n_tokens - v.n_prompt;
        CU_ASSERT(n == now_state.n[r] && memcmp(v.tokens + v.n_prompt, now_state.ids[r], (size_t)n * 4) == 0);
    }
}

/* Shares of a time are shares; what a rank waits for is no time that it computes. */
static void look_at_times(const cl_run_stats *n, double passed_s)
{
    CU_ASSERT(n->elapsed_s > 0 && n->elapsed_s <= passed_s);
    CU_ASSERT(n->ttft_s > 0 && n->ttft_s <= n->elapsed_s);
    for (int i = 0; i < n->n_ranks; i++) {
        const cl_rank_stats *k = &n->ranks[i];
        CU_ASSERT(k->busy > 0 && k->busy <= 1 && k->busy + k->wait <= 1.02);
        CU_ASSERT(i ? k->wait > 0 : k->wait >= 0);
        CU_ASSERT_EQUAL(k->rank, i);
    }
}

/* The numbers are those of what the source gave and got. */
static cl_code finish(const variant *v, cl_run *run, cl_session *session, uint64_t begun_ns, cl_err *err)
{
    cl_run_stats n = {0};
    int64_t prompts = 0, ids = 0;
    cl_code c = cl_run_finish(run, session, &n, err);
    CU_ASSERT_STRING_EQUAL(the_ranks->life.phase, v->trace ? "collecting the trace" : "writing the logits");
    if (c != CL_OK || cl_ranks_rank(the_ranks)) return c;
    for (int i = 0; i < now_state.given; i++) prompts += 1 + i % 5, ids += now_state.n[i];
    CU_ASSERT(n.requests == now_state.given && n.failed == 0 && n.prompt_tokens == prompts);
    CU_ASSERT_EQUAL(n.generated_tokens, ids);
    CU_ASSERT(n.replicas == v->replicas && n.slots == v->slots && n.context == 64);
    CU_ASSERT(n.n_ranks == cl_ranks_size(the_ranks) && n.threads_total == n.n_ranks);
    CU_ASSERT_EQUAL(n.stages * n.replicas, n.n_ranks);
    CU_ASSERT(n.rates.read_bytes_per_s == 0 && !strcmp(n.activations, "f32") && !strcmp(n.kv, "f32"));
    if (!v->every && !v->late) look_at_times(&n, (double)(cl_now_ns() - begun_ns) * 1e-9);
    CU_ASSERT_EQUAL(unlink(trace_path), v->trace ? 0 : -1);
    return c;
}

static cl_code serve(const variant *v, cl_run *run, cl_session *session, cl_err *err)
{
    cl_source source = {.ctx = &now_state, .token = hear, .done = take, .back = take_back};
    source.next = v->late ? give_late : give;
    busy = session;
    const cl_serve_options o = {.session = session, .source = &source, .desk = v->desk, .stop = stops};
    const bool root = cl_ranks_rank(the_ranks) == 0;
    stop_at = v->every;
    for (;;) {
        cl_code c = cl_run_serve(run, &o, err);
        if (c != CL_E_STOPPED) return c;
        if (root) look(session);
        stop_at += v->every;
    }
}

static cl_code body(void *ctx, cl_crew *crew, cl_err *err)
{
    const variant *v = ctx;
    const bool root = cl_ranks_rank(the_ranks) == 0;
    cl_run *run = NULL;
    cl_session *session = NULL;
    const cl_run_options o = {.model_path = model,
                              .replicas = v->replicas,
                              .slots = v->slots,
                              .context = 64,
                              .kv_auto = true,
                              .crew = crew,
                              .threads = 1,
                              .stall_timeout_s = 60,
                              .trace_path = v->trace ? trace_path : NULL,
                              .trace_level = CL_TRACE_STAGE};
    cl_code c = cl_run_open(&run, the_ranks, &o, err);
    CU_ASSERT_STRING_EQUAL(the_ranks->life.phase, "comparing placements");
    if (c == CL_OK) c = cl_ranks_agree(the_ranks, root ? cl_run_session(run, &session, err) : CL_OK, err);
    if (c == CL_OK) c = cl_run_load(run, err);
    CU_ASSERT_STRING_EQUAL(the_ranks->life.phase, v->trace ? "starting the trace" : "loading");
    const uint64_t begun_ns = cl_now_ns();
    if (c == CL_OK) c = serve(v, run, session, err);
    if (c == CL_OK) c = finish(v, run, session, begun_ns, err);
    cl_session_free(session);
    cl_run_close(run);
    return c;
}

static void serve_all(const variant *v)
{
    cl_err err = {0};
    now_state = (source_state){0};
    cl_code c = cl_crew_run(1, body, (void *)(uintptr_t)v, &err);
    if (c != CL_OK) fprintf(stderr, "rank %d: %s\n", cl_ranks_rank(the_ranks), err.msg);
    CU_ASSERT_EQUAL_FATAL(c, CL_OK);
}

static void run(const variant *v)
{
    serve_all(v);
    for (int i = 0; i < REQUESTS && cl_ranks_rank(the_ranks) == 0; i++) CU_ASSERT_EQUAL(now_state.ends[i], 1);
}

static void stopped_and_gone_on(void)
{
    static source_state undisturbed;
    make_model();
    run(&(variant){.replicas = 1, .slots = 4});
    undisturbed = now_state;
    const int ranks = cl_ranks_size(the_ranks);
    for (int replicas = 1; replicas <= ranks; replicas++)
        for (int desk = 0; desk < 2 && ranks % replicas == 0; desk++)
            for (int slots = 1; slots <= 4; slots += 3) {
                run(&(variant){replicas, slots, desk, 29, false, false});
                CU_ASSERT(memcmp(now_state.ids, undisturbed.ids, sizeof undisturbed.ids) == 0);
            }
    for (int desk = 0; desk < 2; desk++) { /* a trace listens to what the source hears, and takes nothing from it */
        run(&(variant){.replicas = 1, .slots = 4, .desk = desk, .trace = true});
        CU_ASSERT(memcmp(now_state.ids, undisturbed.ids, sizeof undisturbed.ids) == 0);
    }
    remove_model();
}

static void admitted_while_samples_are_awaited(void)
{
    pid_t pids[64] = {getpid()};
    const int ranks = cl_ranks_size(the_ranks);
    if (ranks < 2) return;
    make_model();
    cl_ranks_gather(the_ranks, &(pid_t){getpid()}, sizeof *pids, pids);
    last_rank = pids[ranks - 1];
    serve_all(&(variant){.replicas = 1, .slots = 4, .desk = true, .late = true});
    for (int i = 0; i < 2 && cl_ranks_rank(the_ranks) == 0; i++) CU_ASSERT_EQUAL(now_state.ends[i], 1);
    remove_model();
}

/* --- phases --- */

static const char *seen[4];
static int n_seen, fails_in; /* fails_in: the so many-th phase that runs; 0: none */

static cl_code note_phase(cl_run *r, cl_err *err)
{
    seen[n_seen++] = r->ranks->life.phase;
    return n_seen == fails_in ? cl_fail(err, CL_E_FIT, "no") : CL_OK;
}

static bool unwanted(const cl_run *r) { return false; }
static bool wanted(const cl_run *r) { return true; }

/* A rank says what it does, leaves out what nobody wants, and goes no further than the first failure. */
static void phases_are_named(void)
{
    static const phase phases[] = {{"first", note_phase, NULL},
                                   {"second", note_phase, unwanted},
                                   {"third", note_phase, wanted},
                                   {"fourth", note_phase, NULL}};
    static const char *const names[] = {"first", "third", "fourth"};
    cl_run r = {.ranks = the_ranks};
    for (fails_in = 0; fails_in <= 3; fails_in++) {
        cl_err err = {0};
        n_seen = 0;
        CU_ASSERT_EQUAL(run_phases(&r, phases, 4, &err), fails_in ? CL_E_FIT : CL_OK);
        CU_ASSERT_EQUAL_FATAL(n_seen, fails_in ? fails_in : 3);
        for (int i = 0; i < n_seen; i++) CU_ASSERT_STRING_EQUAL(seen[i], names[i]);
    }
    CU_ASSERT_EQUAL(run_phases(&r, phases, 0, NULL), CL_OK);
}

static void names_of_phases(void)
{
    static const char *const plan[] = {"reading the model's description",
                                       "comparing models",
                                       "reading the routing",
                                       "measuring links and memory",
                                       "choosing a layout",
                                       "placing the model",
                                       "comparing placements"};
    static const char *const load[] = {"opening the trace", "opening the logits file",
                                       "counting memory",   "opening the line",
                                       "loading",           "starting the trace"};
    for (int i = 0; i < PLAN_PHASES; i++) CU_ASSERT_STRING_EQUAL(plan_phases[i].name, plan[i]);
    for (int i = 0; i < LOAD_PHASES; i++) CU_ASSERT_STRING_EQUAL(load_phases[i].name, load[i]);
}

int main(int argc, char **argv)
{
    CU_TestInfo tests[] = {{"phases are named", phases_are_named},
                           {"names of phases", names_of_phases},
                           {"stopped and gone on", stopped_and_gone_on},
                           {"admitted while samples are awaited", admitted_while_samples_are_awaited},
                           CU_TEST_INFO_NULL};
    return run_on_ranks(argc, argv, "serve", tests);
}
