/* options.h: options that several commands have: their rows in argp tables, and what the parsers make of them. */
#ifndef CHIPLINE_OPTIONS_H
#define CHIPLINE_OPTIONS_H

#include "chipline/run.h"
#include "cli.h"

enum {
    OPT_CONTEXT = 'c',
    OPT_THREADS = 512,
    OPT_ACTIVATIONS,
    OPT_KV,
    OPT_LAYOUT,
    OPT_EXPERTS,
    OPT_ROUTERS,
    OPT_ROUTING,
    OPT_REPLICAS,
    OPT_CHIP,
    OPT_GATHER,
    OPT_WAIT,
    OPT_CHUNK,
    OPT_SLOTS,
    OPT_KERNELS,
    OPT_STALL,
    OPT_JSON,
    OPT_QUIET,
    OPT_CHAT_FORMAT,
    OPT_DATE
};

/* g: the group of the row in --help; what is written behind a row's text is its default. */
#define ROW_HEADING(text, g)      \
    {                             \
        NULL, 0, NULL, 0, text, g \
    }
#define ROW_THREADS(g)                                                                    \
    {                                                                                     \
        "threads", OPT_THREADS, "T", 0, "per rank (its share of the cores it may use)", g \
    }
#define ROW_ACTIVATIONS(g)                                                                                        \
    {                                                                                                             \
        "activations", OPT_ACTIVATIONS, "KIND", 0,                                                                \
            "auto|f32|q8|mixed|q16: what quantised weights meet: f32, the reference; q8: 8-bit blocks; mixed: a " \
            "second plane "                                                                                       \
            "where a block needs it; q16: two planes; auto: mixed",                                               \
            g                                                                                                     \
    }
#define ROW_KV(g)                                                                                                      \
    {                                                                                                                  \
        "kv", OPT_KV, "auto|f32|bf16|q8", 0,                                                                           \
            "numbers in the KV cache; auto: f32 with f32 activations (auto has them where no weights are quantised), " \
            "else bf16",                                                                                               \
            g                                                                                                          \
    }
#define ROW_LAYOUT(g)                                                                                                \
    {                                                                                                                \
        "layout", OPT_LAYOUT, "SxG|auto|FILE", 0,                                                                    \
            "S stages of G chips that share their layers (stages of one chip; auto where there are more ranks than " \
            "layers); 3+2x4: a stage of 3 chips, then two of 4; auto: whichever is predicted best; FILE: "           \
            "{\"stages\": [{\"chips\": 3, \"layers\": 10}, ...]}, layers in all or none",                            \
            g                                                                                                        \
    }
#define ROW_EXPERTS(g)                                                                           \
    {                                                                                            \
        "experts", OPT_EXPERTS, "sliced|whole", 0,                                               \
            "every chip of a stage holds rows of all experts, or some experts whole (sliced)", g \
    }
#define ROW_ROUTERS(g)                                                                                               \
    {                                                                                                                \
        "routers", OPT_ROUTERS, "copied|split|auto", 0,                                                              \
            "routers on every chip of a stage, or shared out among them, which costs an exchange; auto: shared out " \
            "where a chip would read its copy for longer than that takes (auto)",                                    \
            g                                                                                                        \
    }
#define ROW_ROUTING(g)                                                                                                 \
    {                                                                                                                  \
        "routing", OPT_ROUTING, "TRACE.h5", 0,                                                                         \
            "whole experts are placed by how often they were chosen in that run, and the hottest copied where --chip " \
            "leaves "                                                                                                  \
            "memory (round-robin)",                                                                                    \
            g                                                                                                          \
    }
#define ROW_REPLICAS(g)                                                                                  \
    {                                                                                                    \
        "replicas", OPT_REPLICAS, "R", 0,                                                                \
            "R complete lines side by side, each with its share of the ranks and of the requests (1)", g \
    }
#define ROW_CHIP(g)                                                                                               \
    {                                                                                                             \
        "chip", OPT_CHIP, "FILE|BYTES", 0,                                                                        \
            "memory of one chip: 230MB, 1.5GiB, or a configs/chips/NAME.json, whose rates predictions use; what " \
            "does not fit (slice, cache, buffers) is refused",                                                    \
            g                                                                                                     \
    }
#define ROW_GATHER(g)                                                                                             \
    {                                                                                                             \
        "gather", OPT_GATHER, "auto|shared|messages", 0,                                                          \
            "how the chips of a stage exchange numbers: through memory on a host and by messages between hosts; " \
            "all through memory; all by messages",                                                                \
            g                                                                                                     \
    }
#define ROW_WAIT(g)                                                                                          \
    {                                                                                                        \
        "wait", OPT_WAIT, "auto|spin|yield", 0,                                                              \
            "a waiting rank keeps its core, or lets others have it (spins where every thread has a core)", g \
    }
#define ROW_CONTEXT(g)                                                                          \
    {                                                                                           \
        "context", OPT_CONTEXT, "C", 0, "positions per sequence (the model's, at most 4096)", g \
    }
#define ROW_CHUNK(g)                                                                                  \
    {                                                                                                 \
        "chunk", OPT_CHUNK, "N", 0, "most tokens that travel together (128; fewer on small chips)", g \
    }
#define ROW_SLOTS(usual, g)                                                        \
    {                                                                              \
        "slots", OPT_SLOTS, "B", 0, "sequences in the line at once (" usual ")", g \
    }
/* flags: OPTION_ARG_OPTIONAL where the name may lack. */
#define ROW_KERNELS(flags, more, g)                                                                                \
    {                                                                                                              \
        "kernels", OPT_KERNELS, "NAME", flags,                                                                     \
            "kernel set: reference, generic, neon, avx2, avx512, amx (the best that runs here): same bits, other " \
            "speed" more,                                                                                          \
            g                                                                                                      \
    }
#define ROW_STALL(g)                                                                                                   \
    {                                                                                                                  \
        "stall-timeout", OPT_STALL, "S", 0, "end the job when a rank does not answer for S seconds (120; 0: never)", g \
    }
#define ROW_JSON(text, g)                  \
    {                                      \
        "json", OPT_JSON, NULL, 0, text, g \
    }
#define ROW_QUIET(key, text, g)        \
    {                                  \
        "quiet", key, NULL, 0, text, g \
    }
/* of what writes model files */
#define ROW_OUTPUT                                                            \
    {                                                                         \
        "output", 'o', "MODEL.h5", 0, "the model file to write (required)", 0 \
    }
#define ROW_FORMAT(keep)                                                                                               \
    {                                                                                                                  \
        "format", 'f', "F", 0,                                                                                         \
            "number format of matrices: keep (default" keep "), f32, f16, bf16, q8_0, q4_0, q4_1, mxfp4, int4 or fp8", \
            0                                                                                                          \
    }
#define ROW_JOBS(what)                                                                  \
    {                                                                                   \
        "jobs", 'j', "N", 0, "threads that " what " (default: the cores it may use)", 0 \
    }
/* of what renders chats */
#define ROW_CHAT_FORMAT(g)                                                                         \
    {                                                                                              \
        "chat-format", OPT_CHAT_FORMAT, "NAME", 0, "instead of the one found in the model file", g \
    }
#define ROW_DATE(g)                                                                      \
    {                                                                                    \
        "date", OPT_DATE, "YYYY-MM-DD", 0, "the day in prompts that hold one (today)", g \
    }

/* What options of arithmetic and placement are before they are given. */
#define CLI_RUN_DEFAULTS .kv_auto = true, .trace_level = CL_TRACE_LAYER, .stall_timeout_s = CLI_STALL_S

/* One of arithmetic and placement, OPT_THREADS to OPT_STALL, or the context; ARGP_ERR_UNKNOWN: it is another. *layout
 * is the caller's to free and to point to. */
error_t cli_run_option(int key, const char *arg, cl_run_options *run, cl_layout *layout, cl_err *err);

/* Calls body on every rank with this rank's crew in run->crew: as many threads as rank 0's run->threads says, or as
 * fit this rank's share of the cores. Collective: where a rank cannot have its threads, no rank's body is called, and
 * all return its error. */
cl_code cli_on_crew(cl_run_options *run, cl_ranks *ranks, cl_code (*body)(void *o, cl_ranks *ranks), void *o,
                    cl_err *err);

#endif
