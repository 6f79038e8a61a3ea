/* Serving that is stopped between two micro-batches, looked at, and gone on with: every request gives the ids that it
 * gives undisturbed, in one line or in several side by side, with a desk or without, and none is lost or done twice. */
#include <signal.h>
#include <unistd.h>

#include "chipline/import.h"
#include "chipline/run.h"
#include "ranks_suite.h"

enum { REQUESTS = 23, MOST = 24 };

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64, "
    "\"intermediate_size\": 96, \"num_hidden_layers\": 6, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"vocab_size\": 200, \"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "
    "\"hidden_act\": \"silu\", \"torch_dtype\": \"float32\", \"tie_word_embeddings\": false}";
static char dir[32], model[48], config_path[48];

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
        FILE *f = fopen(config_path, "w");
        CU_ASSERT_FATAL(f && fputs(config, f) > 0 && fclose(f) == 0);
        c = cl_synth(config_path, model, &(cl_synth_options){.keep = true, .seed = 3, .jobs = 1, .quiet = true}, &err);
        if (c != CL_OK) fprintf(stderr, "%s\n", err.msg);
    }
    CU_ASSERT_EQUAL_FATAL(cl_ranks_agree(the_ranks, c, &err), CL_OK);
    cl_ranks_bcast(the_ranks, model, sizeof model);
}

static void remove_model(void)
{
    if (cl_ranks_rank(the_ranks)) return;
    unlink(model);
    unlink(config_path);
    rmdir(dir);
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
    bool late;
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
                              .stall_timeout_s = 60};
    cl_code c = cl_run_open(&run, the_ranks, &o, err);
    if (c == CL_OK) c = cl_ranks_agree(the_ranks, root ? cl_run_session(run, &session, err) : CL_OK, err);
    if (c == CL_OK) c = cl_run_load(run, err);
    if (c == CL_OK) c = serve(v, run, session, err);
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
                run(&(variant){replicas, slots, desk, 29, false});
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

int main(int argc, char **argv)
{
    CU_TestInfo tests[] = {{"stopped and gone on", stopped_and_gone_on},
                           {"admitted while samples are awaited", admitted_while_samples_are_awaited},
                           CU_TEST_INFO_NULL};
    return run_on_ranks(argc, argv, "serve", tests);
}
