/* run_cli.h: what the files of `chipline run` share: its options, its sources of requests, its summary. */
#ifndef CHIPLINE_RUN_CLI_H
#define CHIPLINE_RUN_CLI_H

#include "chipline/run.h"
#include "cli.h"

enum { MAX_STOPS = 16 };

typedef struct run_cli {
    cl_err *err;
    const char *prompt, *prompt_file, *tokens, *system, *chat_format, *date, *batch, *out, *summary;
    bool chat, ignore_eos, digest, json, quiet;
    int reasoning; /* --reasoning: 0 hide, 1 show, -1 not given */
    int max_tokens, top_k, n_stops;
    double temperature, top_p;
    int64_t seed;
    char *stops[MAX_STOPS];
    cl_sampling sampling;
    cl_layout layout; /* --layout SxG or a file */
    cl_run_options run;
    cl_buf command; /* the words of the call, for the trace */

    /* rank 0, made by cli_open_texts */
    cl_tokenizer_data *tok_data;
    cl_tokenizer *tokenizer;
    cl_chat *format;
    cl_err no_chat; /* why there is no format, though nobody asked for one */
    cl_request_defaults defaults;
    struct source_state *source;
} run_cli;

/* What was not given, once all words are read. */
void run_defaults(run_cli *o);
/* Rank 0: tokenizer and chat format of the model file, before anything is loaded. */
cl_code cli_open_texts(run_cli *o);
void cli_close_texts(run_cli *o);
/* Rank 0: prompt, batch file or terminal as a source. Errors of a single prompt are found here, before weights are
 * read. */
cl_code cli_open_source(run_cli *o, const cl_model *m, cl_limits limits, cl_source *source);
/* Rank 0, at the end: requests that failed, as an error. */
cl_code cli_outcome(run_cli *o, cl_err *err);
/* Rank 0: --summary and the lines on stderr. */
cl_code cli_summary(run_cli *o, const cl_run_stats *n, cl_err *err);

#endif
