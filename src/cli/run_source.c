/* run_source.c: where the requests of `chipline run` come from and where their text goes: one prompt, a batch file, a
 * conversation on a terminal. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "run_cli.h"

enum { MAX_PROMPT = 64 << 20, MAX_LINE = 64 << 20 };

typedef struct source_state {
    run_cli *o;
    cl_request *single;      /* one prompt: not handed out yet */
    /* batch */
    FILE *in, *out;
    char *line;
    size_t line_cap;
    int64_t row, failed;
    /* conversation */
    bool asked, waiting;     /* the prompt sign is shown; an answer is on its way */
    cl_message *turns;
    int n_turns, cap_turns;
} source_state;

error_t cl_cli_layout(cl_err *err, const char *arg, int *stages)
{
    if (strcmp(arg, "auto") == 0) {
        *stages = 0;
        return 0;
    }
    int s, g, end = 0;
    if (sscanf(arg, "%4dx%4d%n", &s, &g, &end) != 2 || arg[end] || s < 1 || g < 1)
        cl_fail(err, CL_E_USAGE, "--layout: '%s' is neither SxG (stages x chips, for example 4x1) nor auto", arg);
    else if (g != 1) cl_fail(err, CL_E_USAGE, "--layout: %s: this version has one chip per stage (use %dx1)", arg, s * g);
    else {
        *stages = s;
        return 0;
    }
    return EINVAL;
}

/* --- tokenizer and chat format --- */

static cl_code find_chat(run_cli *o)
{
    cl_err *err = o->err;
    if (o->chat_format) return cl_chat_by_name(o->chat_format, &o->format, err);
    const char *jinja = o->tok_data ? o->tok_data->chat_template : NULL;
    cl_err quiet;
    cl_code c = jinja ? cl_chat_detect(jinja, &o->format, o->chat ? err : &quiet) : CL_OK;
    if (!o->chat) return CL_OK; /* rows with messages will say so */
    if (c != CL_OK) return c;
    return o->format ? CL_OK : cl_fail(err, CL_E_INPUT, "--chat: %s has no chat template (name a format: --chat-format)", o->run.model_path);
}

/* Texts that end a turn are ends as good as the model's own. */
static void add_chat_ends(run_cli *o)
{
    if (!o->format || !o->tokenizer) return;
    for (const char *const *e = cl_chat_ends(o->format); *e && o->run.n_eos < CL_MAX_EOS; e++) {
        int32_t id = cl_tokenizer_find(o->tokenizer, *e);
        if (id >= 0) o->run.eos[o->run.n_eos++] = id;
    }
}

cl_code cl_cli_open_texts(run_cli *o)
{
    cl_model_file *f = NULL;
    cl_code c = cl_model_file_open(&f, o->run.model_path, o->err);
    if (c == CL_OK) c = cl_model_file_tokenizer(f, &o->tok_data, o->err);
    cl_model_file_close(f);
    if (c == CL_OK && o->tok_data) c = cl_tokenizer_create(&o->tokenizer, o->tok_data, o->err);
    if (c == CL_OK) c = find_chat(o);
    if (c != CL_OK) return c;
    if (!o->tokenizer && !o->tokens && !o->batch)
        return cl_fail(o->err, CL_E_INPUT, "%s: has no tokenizer, so it can't read text (give ids: --tokens 5,17,9)", o->run.model_path);
    add_chat_ends(o);
    o->run.tokenizer = o->tokenizer;
    o->run.allowed_vocab = o->tok_data ? o->tok_data->n_tokens : 0;
    return CL_OK;
}

void cl_cli_close_texts(run_cli *o)
{
    source_state *s = o->source;
    if (s) {
        for (int i = 0; i < s->n_turns; i++) free((char *)s->turns[i].content);
        free(s->turns);
        cl_request_free(s->single);
        free(s->line);
        if (s->in && s->in != stdin) fclose(s->in);
        if (s->out) fclose(s->out);
        free(s);
    }
    cl_chat_free(o->format);
    cl_tokenizer_free(o->tokenizer);
    cl_tokenizer_data_free(o->tok_data);
}

/* --- one prompt --- */

static cl_request *next_single(void *ctx, int wait_ms, bool *ended)
{
    source_state *s = ctx;
    cl_request *r = s->single;
    s->single = NULL;
    *ended = true;
    return r;
}

static void put_text(void *ctx, const cl_request *r, const char *text, size_t n)
{
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

static cl_code put_row(FILE *f, const char *name, const cl_request *r, const cl_result *result, cl_err *err)
{
    cl_buf row = {0};
    cl_code c = cl_result_row(r, result, &row, err);
    if (c == CL_OK) c = cl_buf_str(&row, "\n", err);
    if (c == CL_OK && (fwrite(row.data, 1, row.len, f) != row.len || fflush(f) != 0)) /* a row is whole or not there */
        c = cl_fail(err, CL_E_RUN, "%s: write failed: %s", name, strerror(errno));
    cl_buf_free(&row);
    return c;
}

/* Without a tokenizer the ids are the text. */
static void put_ids(const cl_result *result)
{
    for (int i = 0; i < result->n_tokens; i++) printf("%s%d", i ? "," : "", result->tokens[i]);
}

static cl_code done_single(void *ctx, const cl_request *r, const cl_result *result, cl_err *err)
{
    source_state *s = ctx;
    if (s->o->json) return put_row(stdout, "stdout", r, result, err);
    if (!s->o->tokenizer) put_ids(result);
    putchar('\n');
    if (s->o->digest) fprintf(stderr, "logits_xxh3: %016llx\n", (unsigned long long)result->digest);
    return fflush(stdout) == 0 ? CL_OK : cl_fail(err, CL_E_RUN, "stdout: write failed: %s", strerror(errno));
}

static cl_code parse_ids(const char *text, int32_t **ids, int *n, cl_err *err)
{
    size_t room = 1;
    for (const char *p = text; *p; p++) room += *p == ',';
    if (!(*ids = cl_malloc(room, sizeof **ids, "prompt", err))) return CL_E_FIT;
    *n = 0;
    for (const char *p = text; *p;) {
        char word[32];
        size_t len = strcspn(p, ",");
        int64_t v;
        snprintf(word, sizeof word, "%.*s", (int)(len < 31 ? len : 31), p);
        if (!cl_parse_int(word, 0, INT32_MAX, &v)) return cl_fail(err, CL_E_INPUT, "--tokens: '%s' is not a token id (write them as 5,17,9)", word);
        (*ids)[(*n)++] = (int32_t)v;
        p += len;
        if (*p == ',' && !*++p) return cl_fail(err, CL_E_INPUT, "--tokens: ends with a comma");
    }
    return CL_OK;
}

/* Is there a person at the other end of standard input? mpirun passes a terminal on as a pipe, so its own standard input counts. */
static bool at_terminal(void)
{
    if (isatty(0)) return true;
    if (!getenv("OMPI_COMM_WORLD_SIZE")) return false;
    char path[64], target[128];
    snprintf(path, sizeof path, "/proc/%ld/fd/0", (long)getppid());
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = 0;
    return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0;
}

static cl_code read_prompt(run_cli *o, cl_buf *text)
{
    if (o->prompt) return cl_buf_str(text, o->prompt, o->err);
    if (!o->prompt_file && at_terminal()) fprintf(stderr, "chipline: reading the prompt from the terminal, end with Ctrl-D (or give -p TEXT)\n");
    cl_code c = cl_read_file(o->prompt_file ? o->prompt_file : "-", MAX_PROMPT, text, o->err);
    return c == CL_OK ? CL_OK : cl_fail_prefix(o->err, "prompt");
}

static cl_code open_single(run_cli *o, source_state *s)
{
    cl_code c = CL_OK;
    if (o->tokens) {
        int32_t *ids = NULL;
        int n;
        if ((c = parse_ids(o->tokens, &ids, &n, o->err)) == CL_OK) s->single = cl_request_from_ids(&o->defaults, "0", ids, n);
        free(ids);
    } else {
        cl_buf text = {0};
        if ((c = read_prompt(o, &text)) == CL_OK && !o->chat) s->single = cl_request_from_text(&o->defaults, "0", text.data, text.len);
        else if (c == CL_OK) {
            if (strlen(text.data) != text.len) c = cl_fail(o->err, CL_E_INPUT, "prompt: holds a zero byte");
            cl_message m[2] = {{"system", o->system}, {"user", text.data}};
            if (c == CL_OK) s->single = cl_request_from_messages(&o->defaults, "0", o->system ? m : m + 1, o->system ? 2 : 1);
        }
        cl_buf_free(&text);
    }
    if (c != CL_OK) return c;
    if (!s->single) return cl_fail(o->err, CL_E_FIT, "prompt: out of memory");
    if (s->single->error.code == CL_OK) return CL_OK;
    *o->err = s->single->error;
    return o->err->code;
}

/* --- batch file --- */

static cl_request *next_row(void *ctx, int wait_ms, bool *ended)
{
    source_state *s = ctx;
    for (;;) {
        ssize_t n = getline(&s->line, &s->line_cap, s->in);
        if (n < 0) {
            *ended = true;
            return NULL;
        }
        while (n > 0 && (s->line[n - 1] == '\n' || s->line[n - 1] == '\r')) n--;
        s->row++;
        if (n == 0) continue;
        cl_request *r = cl_request_from_row(&s->o->defaults, s->line, (size_t)n, s->row - 1);
        if (r) return r;
        *ended = true;
        return NULL;
    }
}

static cl_code done_row(void *ctx, const cl_request *r, const cl_result *result, cl_err *err)
{
    source_state *s = ctx;
    s->failed += r->error.code != CL_OK;
    cl_code c = put_row(s->out, s->o->out, r, result, err);
    return c == CL_OK && s->o->json ? put_row(stdout, "stdout", r, result, err) : c;
}

static cl_code open_batch(run_cli *o, source_state *s)
{
    s->in = strcmp(o->batch, "-") ? fopen(o->batch, "r") : stdin;
    if (!s->in) return cl_fail(o->err, CL_E_INPUT, "%s: %s", o->batch, strerror(errno));
    if (strcmp(o->batch, o->out) == 0) return cl_fail(o->err, CL_E_USAGE, "--out: would overwrite the requests of --batch (name another file)");
    s->out = fopen(o->out, "w");
    if (!s->out) return cl_fail(o->err, CL_E_INPUT, "%s: cannot be written: %s", o->out, strerror(errno));
    return CL_OK;
}

/* --- conversation --- */

static cl_code add_turn(source_state *s, const char *role, const char *content, cl_err *err)
{
    if (s->n_turns == s->cap_turns) {
        int cap = s->cap_turns ? 2 * s->cap_turns : 16;
        cl_message *p = cl_realloc(s->turns, (size_t)cap, sizeof *p, "conversation", err);
        if (!p) return CL_E_FIT;
        s->turns = p;
        s->cap_turns = cap;
    }
    char *copy = cl_strdup(content, err);
    if (!copy) return CL_E_FIT;
    s->turns[s->n_turns++] = (cl_message){role, copy};
    return CL_OK;
}

static cl_request *next_turn(void *ctx, int wait_ms, bool *ended)
{
    source_state *s = ctx;
    if (s->waiting) return NULL;
    if (!s->asked) fprintf(stderr, "> ");
    s->asked = true;
    struct pollfd p = {.fd = 0, .events = POLLIN};
    if (poll(&p, 1, wait_ms) <= 0) return NULL;
    ssize_t n = getline(&s->line, &s->line_cap, stdin);
    s->asked = false;
    if (n < 0) {
        *ended = true;
        return NULL;
    }
    while (n > 0 && s->line[n - 1] == '\n') s->line[--n] = 0;
    if (n == 0) return NULL;
    if (strcmp(s->line, "/reset") == 0) {
        int keep = s->o->system ? 1 : 0;
        while (s->n_turns > keep) free((char *)s->turns[--s->n_turns].content);
        return NULL;
    }
    cl_err err;
    if (add_turn(s, "user", s->line, &err) != CL_OK) {
        *ended = true;
        return NULL;
    }
    s->waiting = true;
    return cl_request_from_messages(&s->o->defaults, "chat", s->turns, s->n_turns);
}

static cl_code done_turn(void *ctx, const cl_request *r, const cl_result *result, cl_err *err)
{
    source_state *s = ctx;
    s->waiting = false;
    if (r->error.code != CL_OK) { /* the message is taken back, the conversation goes on */
        fprintf(stderr, "chipline: %s\n", r->error.msg);
        free((char *)s->turns[--s->n_turns].content);
        return CL_OK;
    }
    printf("\n");
    fflush(stdout);
    return add_turn(s, "assistant", result->text.data ? result->text.data : "", err);
}

static cl_code open_chat(run_cli *o, source_state *s)
{
    fprintf(stderr, "(a conversation: end it with Ctrl-D, /reset forgets it)\n");
    return o->system ? add_turn(s, "system", o->system, o->err) : CL_OK;
}

/* --- all --- */

cl_code cl_cli_open_source(run_cli *o, const cl_model *m, cl_limits limits, cl_source *source)
{
    source_state *s = o->source = cl_calloc(1, sizeof *s, "source", o->err);
    if (!s) return CL_E_FIT;
    s->o = o;
    o->defaults = (cl_request_defaults){.tokenizer = o->tokenizer, .chat = o->format, .sampling = o->sampling, .max_tokens = o->max_tokens,
        .ignore_eos = o->ignore_eos, .want_rows = o->digest || o->run.logits_path, .n_stops = o->n_stops, .stops = o->stops, .context = limits.context,
        .vocab = limits.vocab};
    if (o->batch) {
        *source = (cl_source){s, next_row, NULL, done_row};
        return open_batch(o, s);
    }
    if (o->chat && !o->prompt && !o->prompt_file && at_terminal()) {
        *source = (cl_source){s, next_turn, put_text, done_turn};
        return open_chat(o, s);
    }
    *source = (cl_source){s, next_single, o->json ? NULL : put_text, done_single};
    return open_single(o, s);
}

cl_code cl_cli_outcome(run_cli *o, cl_err *err)
{
    const source_state *s = o->source;
    if (!s->failed) return CL_OK;
    return cl_fail(err, CL_E_RUN, "%s: %lld of %lld rows could not run (their result rows in %s say why)", o->batch, (long long)s->failed,
                   (long long)s->row, o->out);
}
