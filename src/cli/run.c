/* run.c: `chipline run`: options, then the line: prompt, batch or conversation in, text out. */
#include <errno.h>
#include <stdlib.h>

#include "options.h"
#include "run_cli.h"

enum {
    BATCH = 256,
    OUT,
    SYSTEM,
    REASONING,
    CHAT,
    TOKENS,
    IGNORE_EOS,
    STOP,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    MIN_P,
    REPEAT,
    SEED,
    TRACE,
    TRACE_LEVEL,
    TRACE_RANKS,
    LOGITS,
    DIGEST,
    SUMMARY
};

static const struct argp_option options[] =
    {ROW_HEADING("What to run:", 1),
     {"prompt", 'p', "TEXT", 0, "the prompt (or -f FILE, --tokens IDS, or standard input)", 1},
     {"file", 'f', "FILE", 0, "the prompt is in FILE", 1},
     {"tokens", TOKENS, "ID,ID,...", 0, "the prompt as token ids; needs no tokenizer in the model file", 1},
     {"chat", CHAT, NULL, 0, "the prompt is a user's message; a terminal without -p gets a conversation", 1},
     {"system", SYSTEM, "TEXT", 0, "system message of the chat", 1},
     ROW_CHAT_FORMAT(1),
     ROW_DATE(1),
     {"reasoning", REASONING, "hide|show", 0,
      "what a chat's model thinks before it answers: left out, or printed between [reasoning] and [answer]; in rows of "
      "JSON under \"reasoning\" (hide)",
      1},
     {"batch", BATCH, "IN.jsonl", 0, "many requests, one JSON object a line (see README)", 1},
     {"out", OUT, "OUT.jsonl", 0, "results of --batch, row by row as they finish", 1},
     ROW_HEADING("Lengths and ends:", 2),
     {"max-tokens", 'n', "N", 0, "most tokens to generate (128; chat: 512)", 2},
     ROW_CONTEXT(2),
     ROW_SLOTS("1; --batch: 4 per stage", 2),
     ROW_CHUNK(2),
     {"ignore-eos", IGNORE_EOS, NULL, 0, "go on after the end-of-text token", 2},
     {"stop", STOP, "TEXT", 0, "end at this text (repeatable)", 2},
     ROW_HEADING("Sampling:", 3),
     {"temperature", TEMPERATURE, "T", 0, "0 is greedy, the default without --chat (chat: 0.7)", 3},
     {"top-k", TOP_K, "K", 0, "keep the K most likely; 0: all (0; chat: 40)", 3},
     {"top-p", TOP_P, "P", 0, "keep the most likely that sum to P (1; chat: 0.95)", 3},
     {"min-p", MIN_P, "P", 0, "drop what is below P times the most likely (0)", 3},
     {"repeat-penalty", REPEAT, "R", 0, "for what stood in the last 64 tokens (1: none)", 3},
     {"seed", SEED, "N", 0, "same seed, same text, in every layout (0)", 3},
     ROW_HEADING("Arithmetic and placement:", 4),
     ROW_THREADS(4),
     ROW_ACTIVATIONS(4),
     ROW_KV(4),
     ROW_LAYOUT(4),
     ROW_EXPERTS(4),
     ROW_ROUTERS(4),
     ROW_ROUTING(4),
     ROW_REPLICAS(4),
     ROW_GATHER(4),
     ROW_WAIT(4),
     ROW_CHIP(4),
     ROW_KERNELS(0, "", 4),
     ROW_HEADING("Outputs:", 5),
     {"trace", TRACE, "FILE.h5", 0, "events of every rank, for the analysis scripts", 5},
     {"trace-level", TRACE_LEVEL, "off|stage|layer|kernel", 0, "how fine (layer)", 5},
     {"trace-ranks", TRACE_RANKS, "heads|all|LIST", 0,
      "of the first chip of each stage, of all (all), or of ranks such as 0,8-11", 5},
     {"logits", LOGITS, "FILE.npy", 0, "float32 [positions, vocabulary] of one request", 5},
     {"digest", DIGEST, NULL, 0, "logits_xxh3 in results: equal digests, equal bits", 5},
     {"summary", SUMMARY, "FILE.json", 0, "numbers of the run as JSON", 5},
     ROW_JSON("one JSON object per finished request on stdout instead of text", 5),
     ROW_QUIET(OPT_QUIET, "no progress and no summary on stderr", 5),
     ROW_HEADING("Safety:", 6),
     ROW_STALL(6),
     {0}};

static error_t parse(int key, char *arg, struct argp_state *st)
{
    run_cli *o = st->input;
    cl_err *err = o->err;
    double d;
    error_t e = 0;
    static const char *const levels[] = {"off", "stage", "layer", "kernel", NULL};
    int word;
    switch (key) {
    case 'p': o->prompt = arg; break;
    case 'f': o->prompt_file = arg; break;
    case TOKENS: o->tokens = arg; break;
    case CHAT: o->chat = true; break;
    case SYSTEM: o->system = arg; break;
    case OPT_CHAT_FORMAT: o->chat_format = arg; break;
    case OPT_DATE: o->date = arg; break;
    case REASONING:
        return cli_word(err, "--reasoning", arg, (const char *const[]){"hide", "show", NULL}, &o->reasoning);
    case BATCH: o->batch = arg; break;
    case OUT: o->out = arg; break;
    case 'n': return cli_int(err, "-n", arg, 1, 1 << 28, &o->max_tokens);
    case IGNORE_EOS: o->ignore_eos = true; break;
    case STOP:
        if (!*arg || o->n_stops == MAX_STOPS) {
            cl_fail(err, CL_E_USAGE,
                    *arg ? "--stop: at most %d" : "--stop: an empty text stops nowhere (at most %d texts)", MAX_STOPS);
            return EINVAL;
        }
        o->stops[o->n_stops++] = arg;
        break;
    case TEMPERATURE: return cli_double(err, "--temperature", arg, 0, 100, &o->temperature);
    case TOP_K: return cli_int(err, "--top-k", arg, 0, INT32_MAX, &o->top_k);
    case TOP_P: return cli_double(err, "--top-p", arg, 0, 1, &o->top_p);
    case MIN_P: e = cli_double(err, "--min-p", arg, 0, 1, &d), o->sampling.min_p = (float)d; return e;
    case REPEAT:
        e = cli_double(err, "--repeat-penalty", arg, 0.01, 100, &d), o->sampling.repeat_penalty = (float)d;
        return e;
    case SEED:
        if (!cl_parse_int(arg, 0, INT64_MAX, &o->seed)) {
            cl_fail(err, CL_E_USAGE, "--seed: '%s' is not a whole number from 0", arg);
            return EINVAL;
        }
        break;
    case TRACE: o->run.trace_path = arg; break;
    case TRACE_LEVEL:
        e = cli_word(err, "--trace-level", arg, levels, &word),
        o->run.trace_level = e ? CL_TRACE_OFF : (cl_trace_level)word;
        return e;
    case TRACE_RANKS: o->run.trace_ranks = arg; return cl_trace_ranks_check(arg, err) == CL_OK ? 0 : EINVAL;
    case LOGITS: o->run.logits_path = arg; break;
    case DIGEST: o->digest = true; break;
    case SUMMARY: o->summary = arg; break;
    case OPT_JSON: o->json = true; break;
    case OPT_QUIET: o->quiet = true; break;
    case ARGP_KEY_ARG: return cli_argument(err, "MODEL", arg, &o->run.model_path);
    default: return cli_run_option(key, arg, &o->run, &o->layout, err);
    }
    return 0;
}

static bool same_file(const char *a, const char *b)
{
    return strcmp(a, b) == 0 || cl_same_file(a, b); /* what is not there yet has only its name */
}

/* No output may be an input or another output, by whatever name. */
static cl_code check_files(const run_cli *o)
{
    const struct {
        const char *option, *path;
        bool output;
    } f[] = {{"MODEL", o->run.model_path, false},
             {"--batch", o->batch, false},
             {"-f", o->prompt_file, false},
             {"--routing", o->run.routing_path, false},
             {"--out", o->out, true},
             {"--trace", o->run.trace_path, true},
             {"--logits", o->run.logits_path, true},
             {"--summary", o->summary, true}};
    for (size_t i = 0; i < sizeof f / sizeof *f; i++)
        for (size_t k = 0; k < i; k++)
            if (f[i].path && f[k].path && f[i].output && same_file(f[i].path, f[k].path))
                return cl_fail(o->err, CL_E_USAGE, "%s: is the same file as %s, %s (name another)", f[i].option,
                               f[k].option, f[k].path);
    return CL_OK;
}

/* What options can't mean together. */
static cl_code check_options(const run_cli *o)
{
    cl_err *err = o->err;
    if (!o->run.model_path) return cl_fail(err, CL_E_USAGE, "run: needs a model file (chipline run MODEL.h5 ...)");
    int prompts = !!o->prompt + !!o->prompt_file + !!o->tokens + !!o->batch;
    if (prompts > 1) return cl_fail(err, CL_E_USAGE, "run: -p, -f, --tokens and --batch exclude each other");
    if (!o->batch != !o->out)
        return cl_fail(err, CL_E_USAGE,
                       o->batch ? "--batch: needs --out OUT.jsonl for the results" : "--out: needs --batch IN.jsonl");
    if (o->batch && o->chat)
        return cl_fail(err, CL_E_USAGE, "--chat: not with --batch (a row has \"messages\" for that)");
    if (o->batch && o->run.logits_path)
        return cl_fail(err, CL_E_USAGE,
                       "--logits: is for one request, not for --batch (--digest tells bits apart there)");
    if (o->tokens && o->chat) return cl_fail(err, CL_E_USAGE, "--chat: not with --tokens");
    if (o->chat_format && !o->chat && !o->batch)
        return cl_fail(err, CL_E_USAGE, "--chat-format: needs --chat, or --batch with messages");
    if (o->date && !o->chat && !o->batch)
        return cl_fail(err, CL_E_USAGE, "--date: needs --chat, or --batch with messages");
    if (o->system && !o->chat) return cl_fail(err, CL_E_USAGE, "--system: needs --chat");
    if (o->reasoning >= 0 && !o->chat && !o->batch)
        return cl_fail(err, CL_E_USAGE, "--reasoning: needs --chat, or --batch with messages");
    if (o->run.context && o->run.chunk > o->run.context)
        return cl_fail(err, CL_E_USAGE, "--chunk: %d is over the context of %d (use at most that)", o->run.chunk,
                       o->run.context);
    if (o->run.trace_ranks && !o->run.trace_path)
        return cl_fail(err, CL_E_USAGE, "--trace-ranks: needs --trace FILE.h5");
    if (o->run.routing_path && o->run.experts != CL_EXPERTS_WHOLE)
        return cl_fail(err, CL_E_USAGE, "--routing: places whole experts (give --experts whole too)");
    return check_files(o);
}

/* The command line as one text, for the trace. */
static cl_code command_text(int argc, char **argv, cl_buf *b, cl_err *err)
{
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < argc; i++) c = cl_buf_printf(b, err, "%s%s", i ? " " : "", argv[i]);
    if (c == CL_OK) cl_utf8_repair(b->data);
    return c;
}

static cl_code check(void *own, const cli_call *call)
{
    run_cli *o = own;
    cl_code c = check_options(o);
    return c == CL_OK ? command_text(call->argc, call->argv, &o->command, o->err) : c;
}

void run_defaults(run_cli *o)
{
    bool chat = o->chat;
    if (!o->max_tokens) o->max_tokens = chat ? 512 : 128;
    o->sampling.temperature = (float)(o->temperature >= 0 ? o->temperature : chat ? 0.7 : 0);
    o->sampling.top_k = o->top_k >= 0 ? o->top_k : chat ? 40 : 0;
    o->sampling.top_p = (float)(o->top_p >= 0 ? o->top_p : chat ? 0.95 : 1);
    o->sampling.seed = (uint64_t)o->seed;
    if (!o->batch && !o->run.slots) o->run.slots = 1;
    if (o->layout.n_stages) o->run.layout = &o->layout;
    o->run.progress = !o->quiet;
    o->run.version = cli_creator();
    o->run.revision = cli_revision();
    o->run.build_flags = cli_build_flags();
    o->run.command = o->command.data;
}

static cl_code serve(void *ctx, cl_ranks *ranks)
{
    run_cli *o = ctx;
    cl_err *err = o->err;
    bool root = cl_ranks_rank(ranks) == 0;
    cl_run *r = NULL;
    cl_run_stats stats;
    cl_code c = root ? cli_open_texts(o) : CL_OK;
    if (c == CL_OK && root && o->chat_format && o->format && o->tokenizer)
        c = cl_chat_check(o->format, o->tokenizer, err);
    if ((c = cl_ranks_agree(ranks, c, err)) != CL_OK) return c;
    if ((c = cl_run_open(&r, ranks, &o->run, err)) != CL_OK) return c;
    cl_source source = {0};
    cl_session *session = NULL;
    if (root) c = cli_open_source(o, cl_run_model(r), cl_run_limits(r), &source);
    if (c == CL_OK && root) c = cl_run_session(r, &session, err);
    if (c == CL_OK && root && o->summary) c = cl_check_new(o->summary, err);
    c = cl_ranks_agree(ranks, c, err); /* before anybody spends time on loading */
    if (c == CL_OK) c = cl_run_load(r, err);
    if (c == CL_OK) {
        c = cl_run_serve(r, &(cl_serve_options){.session = session, .source = &source, .desk = true}, err);
        cl_err later;
        cl_code f = cl_run_finish(r, session, &stats, c == CL_OK ? err : &later);
        if (c == CL_OK) c = f;
        if (f == CL_OK && root) {
            cl_code s = cli_summary(o, &stats, c == CL_OK ? err : &later);
            if (c == CL_OK) c = s;
        }
        if (root && c == CL_OK) c = cli_outcome(o, err);
        c = cl_ranks_agree(ranks, c, err);
    }
    cl_session_free(session);
    cl_run_close(r);
    return c;
}

static cl_code run(void *own, const cli_call *call)
{
    run_cli *o = own;
    run_defaults(o);
    return cli_on_crew(&o->run, call->ranks, serve, o, o->err);
}

static void end(void *own)
{
    run_cli *o = own;
    cli_close_texts(o);
    cl_buf_free(&o->command);
    cl_layout_free(&o->layout);
}

const cli_command command_run = {
    .name = "run",
    .args = "MODEL.h5",
    .what = "generate text; under mpirun, every rank is a chip of the line",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "MODEL.h5",
             .doc = "Generates text. Under mpirun or srun every rank is one chip of the line and holds "
                    "its own slice of the model; alone it is a line of one."
                    "\vExamples:\n"
                    "  mpirun -n 4 chipline run model.h5 -p 'Once upon a time' -n 200\n"
                    "  chipline run model.h5 --chat\n"
                    "  mpirun -n 4 chipline run model.h5 --batch in.jsonl --out out.jsonl\n\n"
                    "Text goes to stdout as it is generated, everything else to stderr."},
    .size = sizeof(run_cli),
    .defaults = &(const run_cli){.temperature = -1,
                                 .top_k = -1,
                                 .top_p = -1,
                                 .reasoning = -1,
                                 .sampling = {.repeat_penalty = 1},
                                 .run = {CLI_RUN_DEFAULTS}},
    .on_ranks = true,
    .check = check,
    .run = run,
    .end = end,
};
