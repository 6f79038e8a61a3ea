/* run.c: `chipline run`: options, then the line: prompt, batch or conversation in, text out. */
#include <errno.h>
#include <stdlib.h>

#include "cli.h"
#include "run_cli.h"
#include "run_options.h"

enum {
    BATCH = 256,
    OUT,
    SYSTEM,
    CHAT_FORMAT,
    DATE,
    REASONING,
    CHAT,
    TOKENS,
    CONTEXT,
    SLOTS,
    IGNORE_EOS,
    STOP,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    MIN_P,
    REPEAT,
    SEED,
    ROUTING,
    REPLICAS,
    CHIP,
    TRACE,
    TRACE_LEVEL,
    LOGITS,
    DIGEST,
    SUMMARY,
    JSON,
    QUIET,
    KERNELS
};

static const struct argp_option options[] =
    {{NULL, 0, NULL, 0, "What to run:", 1},
     {"prompt", 'p', "TEXT", 0, "the prompt (or -f FILE, --tokens IDS, or standard input)", 1},
     {"file", 'f', "FILE", 0, "the prompt is in FILE", 1},
     {"tokens", TOKENS, "ID,ID,...", 0, "the prompt as token ids; needs no tokenizer in the model file", 1},
     {"chat", CHAT, NULL, 0, "the prompt is a user's message; a terminal without -p gets a conversation", 1},
     {"system", SYSTEM, "TEXT", 0, "system message of the chat", 1},
     {"chat-format", CHAT_FORMAT, "NAME", 0, "instead of the one found in the model file", 1},
     {"date", DATE, "YYYY-MM-DD", 0, "the day in prompts that hold one (today)", 1},
     {"reasoning", REASONING, "hide|show", 0,
      "what a chat's model thinks before it answers: left out, or printed between [reasoning] and [answer]; in rows of "
      "JSON under \"reasoning\" (hide)",
      1},
     {"batch", BATCH, "IN.jsonl", 0, "many requests, one JSON object a line (see README)", 1},
     {"out", OUT, "OUT.jsonl", 0, "results of --batch, row by row as they finish", 1},
     {NULL, 0, NULL, 0, "Lengths and ends:", 2},
     {"max-tokens", 'n', "N", 0, "most tokens to generate (128; chat: 512)", 2},
     {"context", CONTEXT, "C", 0, "positions per sequence (the model's, at most 4096)", 2},
     {"slots", SLOTS, "B", 0, "sequences in the line at once (1; --batch: 4 per stage)", 2},
     {"chunk", OPT_CHUNK, "N", 0, "most tokens that travel together (128)", 2},
     {"ignore-eos", IGNORE_EOS, NULL, 0, "go on after the end-of-text token", 2},
     {"stop", STOP, "TEXT", 0, "end at this text (repeatable)", 2},
     {NULL, 0, NULL, 0, "Sampling:", 3},
     {"temperature", TEMPERATURE, "T", 0, "0 is greedy, the default without --chat (chat: 0.7)", 3},
     {"top-k", TOP_K, "K", 0, "keep the K most likely; 0: all (chat: 40)", 3},
     {"top-p", TOP_P, "P", 0, "keep the most likely that sum to P (1; chat: 0.95)", 3},
     {"min-p", MIN_P, "P", 0, "drop what is below P times the most likely (0)", 3},
     {"repeat-penalty", REPEAT, "R", 0, "for what stood in the last 64 tokens (1: none)", 3},
     {"seed", SEED, "N", 0, "same seed, same text, in every layout (0)", 3},
     {NULL, 0, NULL, 0, "Arithmetic and placement:", 4},
     {"threads", OPT_THREADS, "T", 0, "per rank (its share of the cores it may use)", 4},
     {"activations", OPT_ACTIVATIONS, "KIND", 0,
      "auto|f32|q8|mixed|q16: what quantised weights meet: f32, the reference; q8: 8-bit blocks; mixed: a second plane "
      "where a block needs it; q16: two planes; auto: mixed",
      4},
     {"kv", OPT_KV, "auto|f32|bf16|q8", 0, "numbers in the KV cache; auto: f32 with f32 activations, else bf16", 4},
     {"layout", OPT_LAYOUT, "SxG|auto|FILE", 0,
      "S stages of G chips that share their layers (ranks x 1); auto: the best by measured rates; a JSON file: uneven "
      "stages (see README)",
      4},
     {"experts", OPT_EXPERTS, "sliced|whole", 0,
      "every chip of a stage holds rows of all experts, or some experts whole (sliced)", 4},
     {"routing", ROUTING, "TRACE.h5", 0,
      "whole experts are placed by how often they were chosen in that run, and the hottest copied where --chip leaves "
      "memory (round-robin)",
      4},
     {"replicas", REPLICAS, "R", 0,
      "R complete lines side by side, each with its share of the ranks and of the requests (1)", 4},
     {"gather", OPT_GATHER, "auto|shared|messages", 0,
      "how the chips of a stage exchange numbers (shared memory where one host has them all)", 4},
     {"wait", OPT_WAIT, "auto|spin|yield", 0,
      "a waiting rank keeps its core, or lets others have it (spins where every thread has a core)", 4},
     {"chip", CHIP, "FILE|BYTES", 0, "memory of one chip; a slice that does not fit is refused", 4},
     {"kernels", KERNELS, "NAME", 0,
      "reference, generic, neon, avx2, avx512, amx (the best that runs here): same bits, other speed", 4},
     {NULL, 0, NULL, 0, "Outputs:", 5},
     {"trace", TRACE, "FILE.h5", 0, "events of every rank, for the analysis scripts", 5},
     {"trace-level", TRACE_LEVEL, "off|stage|layer|kernel", 0, "how fine (layer)", 5},
     {"logits", LOGITS, "FILE.npy", 0, "float32 [positions, vocabulary] of one request", 5},
     {"digest", DIGEST, NULL, 0, "logits_xxh3 in results: equal digests, equal bits", 5},
     {"summary", SUMMARY, "FILE.json", 0, "numbers of the run as JSON", 5},
     {"json", JSON, NULL, 0, "one JSON object per finished request on stdout instead of text", 5},
     {"quiet", QUIET, NULL, 0, "no progress and no summary on stderr", 5},
     {NULL, 0, NULL, 0, "Safety:", 6},
     {"stall-timeout", OPT_STALL, "S", 0, "end the job when a rank does not answer for S seconds (120; 0: never)", 6},
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
    case CHAT_FORMAT: o->chat_format = arg; break;
    case DATE: o->date = arg; break;
    case REASONING:
        return cl_cli_word(err, "--reasoning", arg, (const char *const[]){"hide", "show", NULL}, &o->reasoning);
    case BATCH: o->batch = arg; break;
    case OUT: o->out = arg; break;
    case 'n': return cl_cli_int(err, "-n", arg, 1, 1 << 28, &o->max_tokens);
    case CONTEXT: return cl_cli_int(err, "--context", arg, 2, 1 << 28, &o->run.context);
    case SLOTS: return cl_cli_int(err, "--slots", arg, 1, 1 << 16, &o->run.slots);
    case IGNORE_EOS: o->ignore_eos = true; break;
    case STOP:
        if (!*arg || o->n_stops == MAX_STOPS) {
            cl_fail(err, CL_E_USAGE,
                    *arg ? "--stop: at most %d" : "--stop: an empty text stops nowhere (at most %d texts)", MAX_STOPS);
            return EINVAL;
        }
        o->stops[o->n_stops++] = arg;
        break;
    case TEMPERATURE: return cl_cli_double(err, "--temperature", arg, 0, 100, &o->temperature);
    case TOP_K: return cl_cli_int(err, "--top-k", arg, 0, INT32_MAX, &o->top_k);
    case TOP_P: return cl_cli_double(err, "--top-p", arg, 0, 1, &o->top_p);
    case MIN_P: e = cl_cli_double(err, "--min-p", arg, 0, 1, &d), o->sampling.min_p = (float)d; return e;
    case REPEAT:
        e = cl_cli_double(err, "--repeat-penalty", arg, 0.01, 100, &d), o->sampling.repeat_penalty = (float)d;
        return e;
    case SEED:
        if (!cl_parse_int(arg, 0, INT64_MAX, &o->seed)) {
            cl_fail(err, CL_E_USAGE, "--seed: '%s' is not a whole number from 0", arg);
            return EINVAL;
        }
        break;
    case ROUTING: o->run.routing_path = arg; break;
    case REPLICAS: return cl_cli_int(err, "--replicas", arg, 1, 1 << 20, &o->run.replicas);
    case CHIP: return cl_cli_chip(arg, &o->run.chip_bytes, NULL, err) == CL_OK ? 0 : EINVAL;
    case KERNELS: o->run.kernels = arg; break;
    case TRACE: o->run.trace_path = arg; break;
    case TRACE_LEVEL:
        e = cl_cli_word(err, "--trace-level", arg, levels, &word),
        o->run.trace_level = e ? CL_TRACE_OFF : (cl_trace_level)word;
        return e;
    case LOGITS: o->run.logits_path = arg; break;
    case DIGEST: o->digest = true; break;
    case SUMMARY: o->summary = arg; break;
    case JSON: o->json = true; break;
    case QUIET: o->quiet = true; break;
    case ARGP_KEY_ARG:
        if (o->run.model_path) return cl_cli_extra(err, arg);
        return cl_cli_path(err, "MODEL", arg, &o->run.model_path);
    default: return cl_cli_run_option(key, arg, &o->run, &o->layout, err);
    }
    return 0;
}

static const struct argp argp = {options,
                                 parse,
                                 "MODEL.h5",
                                 "Generates text. Under mpirun or srun every rank is one chip of the line and holds "
                                 "its own slice of the model; alone it is a line of one."
                                 "\vExamples:\n"
                                 "  mpirun -n 4 chipline run model.h5 -p 'Once upon a time' -n 200\n"
                                 "  chipline run model.h5 --chat\n"
                                 "  mpirun -n 4 chipline run model.h5 --batch in.jsonl --out out.jsonl\n\n"
                                 "Text goes to stdout as it is generated, everything else to stderr.",
                                 NULL,
                                 NULL,
                                 NULL};

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
static cl_code check(run_cli *o)
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
    if (o->run.routing_path && o->run.experts != CL_EXPERTS_WHOLE)
        return cl_fail(err, CL_E_USAGE, "--routing: places whole experts (give --experts whole too)");
    return check_files(o);
}

static void defaults(run_cli *o)
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
    o->run.version = cl_cli_creator();
    o->run.revision = cl_cli_revision();
    o->run.build_flags = cl_cli_build_flags();
}

/* The command line as one text, for the trace. */
static cl_code command_text(int argc, char **argv, cl_buf *b, cl_err *err)
{
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < argc; i++) c = cl_buf_printf(b, err, "%s%s", i ? " " : "", argv[i]);
    if (c == CL_OK) cl_utf8_repair(b->data);
    return c;
}

static cl_code run(void *ctx, cl_ranks *ranks)
{
    run_cli *o = ctx;
    cl_err *err = o->err;
    bool root = cl_ranks_rank(ranks) == 0;
    cl_run *r = NULL;
    cl_run_stats stats;
    cl_code c = root ? cl_cli_open_texts(o) : CL_OK;
    if (c == CL_OK && root && o->chat_format && o->format && o->tokenizer)
        c = cl_chat_check(o->format, o->tokenizer, err);
    if ((c = cl_ranks_agree(ranks, c, err)) != CL_OK) return c;
    if ((c = cl_run_open(&r, ranks, &o->run, err)) != CL_OK) return c;
    cl_source source = {0};
    cl_session *session = NULL;
    if (root) c = cl_cli_open_source(o, cl_run_model(r), cl_run_limits(r), &source);
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
            cl_code s = cl_cli_summary(o, &stats, c == CL_OK ? err : &later);
            if (c == CL_OK) c = s;
        }
        if (root && c == CL_OK) c = cl_cli_outcome(o, err);
        c = cl_ranks_agree(ranks, c, err);
    }
    cl_session_free(session);
    cl_run_close(r);
    return c;
}

int cl_cmd_run(int argc, char **argv)
{
    cl_err err = {.code = CL_OK};
    run_cli o = {.err = &err,
                 .temperature = -1,
                 .top_k = -1,
                 .top_p = -1,
                 .reasoning = -1,
                 .sampling = {.repeat_penalty = 1},
                 .run = {.kv_auto = true, .trace_level = CL_TRACE_LAYER, .stall_timeout_s = 120}};
    cl_ranks *ranks = NULL;
    const cl_waiting waiting = {.stall_timeout_s = o.run.stall_timeout_s};
    if (cl_ranks_start(&ranks, &argc, &argv, &waiting, &err) != CL_OK) return cl_cli_fail(&err);
    bool help, root = cl_ranks_rank(ranks) == 0;
    cl_buf command = {0};
    cl_code c = cl_cli_parse(&argp, argc, argv, &o, &help, &err);
    if (c == CL_OK && help) {
        if (root) cl_cli_help(&argp, argv[0]);
    } else {
        if (c == CL_OK) c = check(&o);
        if (c == CL_OK) c = command_text(argc, argv, &command, &err);
        c = cl_ranks_agree(ranks, c, &err);
        if (c == CL_OK) {
            defaults(&o);
            o.run.command = command.data;
            c = cl_cli_on_crew(&o.run, ranks, run, &o, &err);
        }
        cl_cli_close_texts(&o);
        if (c != CL_OK && root) cl_cli_fail(&err);
    }
    cl_buf_free(&command);
    cl_layout_free(&o.layout);
    cl_ranks_end(ranks);
    return (int)c;
}
