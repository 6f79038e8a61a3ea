/* run_source.c: where the requests of `chipline run` come from and where their text goes: one prompt, a batch file, a
 * conversation on a terminal. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chat_arg.h"
#include "chipline/model_file.h"
#include "lines.h"
#include "run_cli.h"

enum { MAX_PROMPT = 64 << 20, MAX_LINE = 64 << 20 };

typedef struct source_state {
    run_cli *o;
    cl_request *single; /* one prompt: not handed out yet */
    /* batch */
    int out; /* results, -1: none */
    int64_t row, failed;
    uint64_t opened_ns;
    bool waits;        /* rows may come later: a pipe or a terminal */
    cl_err broken;     /* why reading ended early */
    line_reader lines; /* batch and conversation */
    /* what was printed last of the reply at hand, where reasoning is shown */
    enum { NOTHING, REASONING, ANSWER } shown;
    /* conversation */
    bool asked, waiting; /* the prompt sign is shown; an answer is on its way */
    cl_message *turns;
    int n_turns, cap_turns;
} source_state;

/* --- tokenizer and chat format --- */

static cl_code find_chat(run_cli *o)
{
    cl_err *err = o->err;
    bool asked = o->chat || o->chat_format || o->date;
    cl_code c = cli_chat(o->chat_format, o->date, o->tokenizer, &o->format, asked ? err : &o->no_chat);
    if (!asked) return CL_OK; /* rows with messages will say so */
    if (!o->chat) return c;
    if (c != CL_OK) return c;
    return o->format ? CL_OK
                     : cl_fail(err, CL_E_INPUT, "--chat: %s has no chat template (name a format: --chat-format)",
                               o->run.model_path);
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

cl_code cli_open_texts(run_cli *o)
{
    cl_model_file *f = NULL;
    cl_code c = cl_model_file_open(&f, o->run.model_path, o->err);
    if (c == CL_OK) c = cl_tokenizer_data_read(cl_model_file_store(f), &o->tok_data, o->err);
    cl_model_file_close(f);
    if (c == CL_OK && o->tok_data) c = cl_tokenizer_create(&o->tokenizer, o->tok_data, o->err);
    if (c == CL_OK) c = find_chat(o);
    if (c != CL_OK) return c;
    if (!o->tokenizer && !o->tokens && !o->batch)
        return cl_fail(o->err, CL_E_INPUT, "%s: has no tokenizer, so it can't read text (give ids: --tokens 5,17,9)",
                       o->run.model_path);
    add_chat_ends(o);
    o->run.tokenizer = o->tokenizer;
    o->run.allowed_vocab = o->tok_data ? o->tok_data->n_tokens : 0;
    return CL_OK;
}

void cli_close_texts(run_cli *o)
{
    source_state *s = o->source;
    if (s) {
        for (int i = 0; i < s->n_turns; i++) free((char *)s->turns[i].content);
        free(s->turns);
        cl_request_free(s->single);
        lines_close(&s->lines);
        if (s->out >= 0) close(s->out);
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

/* Ahead of text of another kind than what was printed before it. */
static void put_mark(source_state *s, const cl_request *r, bool reasoning)
{
    if (!r->want_reasoning || (int)s->shown == (reasoning ? REASONING : ANSWER)) return;
    if (reasoning || s->shown == REASONING)
        printf("%s[%s]\n", s->shown == NOTHING ? "" : "\n", reasoning ? "reasoning" : "answer");
    s->shown = reasoning ? REASONING : ANSWER;
}

static cl_code put_text(void *ctx, const cl_request *r, const char *text, size_t n, cl_err *err)
{
    put_mark(ctx, r, false);
    if (fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0) return CL_OK;
    return cl_fail(err, CL_E_RUN, "stdout: write failed: %s", strerror(errno));
}

static cl_code put_reasoning(void *ctx, const cl_request *r, const char *text, size_t n, cl_err *err)
{
    put_mark(ctx, r, true);
    if (fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0) return CL_OK;
    return cl_fail(err, CL_E_RUN, "stdout: write failed: %s", strerror(errno));
}

/* A reply is over. An empty answer has a cause that is not seen where reasoning is hidden. */
static void end_reply(source_state *s, const cl_result *result)
{
    s->shown = NOTHING;
    fflush(stdout); /* errors are noticed by the caller's */
    cl_note(!s->o->quiet && !s->o->json && !result->text.len && result->reasoning.len,
            "all %d tokens went into reasoning, there is no answer yet (raise -n%s)", result->n_tokens,
            s->o->reasoning == 1 ? "" : ", or see it with --reasoning show");
}

/* Writes a row by one call where the system lets it; in a file, a row that can't be whole is taken back. */
static cl_code put_row(int fd, const char *name, const cl_request *r, const cl_result *result, cl_err *err)
{
    cl_buf row = {0};
    cl_code c = cl_result_row(r, result, &row, err);
    if (c == CL_OK) c = cl_buf_str(&row, "\n", err);
    off_t start = lseek(fd, 0, SEEK_CUR);
    for (size_t at = 0; c == CL_OK && at < row.len;) {
        ssize_t n = write(fd, row.data + at, row.len - at);
        if (n > 0) at += (size_t)n;
        else if (n < 0 && errno != EINTR) {
            c = cl_fail(err, CL_E_RUN, "%s: write failed: %s", name, strerror(errno));
            if (start >= 0 && ftruncate(fd, start) == 0) lseek(fd, start, SEEK_SET); /* else there is no way back */
        }
    }
    cl_buf_free(&row);
    return c;
}

/* Without a tokenizer the ids are the text. */
static void put_ids(const cl_result *result)
{
    for (int i = 0; i < result->n_tokens; i++) printf("%s%d", i ? "," : "", result->tokens[i]);
}

static cl_code tell_single(void *ctx, const cl_request *r, const cl_result *result, cl_err *err)
{
    source_state *s = ctx;
    if (s->o->json) return put_row(STDOUT_FILENO, "stdout", r, result, err);
    if (!s->o->tokenizer) put_ids(result);
    putchar('\n');
    end_reply(s, result);
    if (s->o->digest) fprintf(stderr, "logits_xxh3: %016llx\n", (unsigned long long)result->digest);
    return fflush(stdout) == 0 ? CL_OK : cl_fail(err, CL_E_RUN, "stdout: write failed: %s", strerror(errno));
}

static cl_code done_single(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    cl_code c = tell_single(ctx, r, result, err);
    cl_request_free(r);
    return c;
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
        if (len > 31 || !cl_parse_int(word, 0, INT32_MAX, &v))
            return cl_fail(err, CL_E_USAGE, "--tokens: '%s' is not a token id (write them as 5,17,9)", word);
        (*ids)[(*n)++] = (int32_t)v;
        p += len;
        if (*p == ',' && !*++p) return cl_fail(err, CL_E_USAGE, "--tokens: ends with a comma");
    }
    return CL_OK;
}

/* Is there a person at the other end of standard input? mpirun passes a terminal on as a pipe, so its own standard
 * input counts. */
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
    cl_note(!o->quiet && !o->prompt_file && at_terminal(),
            "reading the prompt from the terminal, end it with Ctrl-D (or give -p TEXT)");
    cl_code c = cl_read_file(o->prompt_file ? o->prompt_file : "-", MAX_PROMPT, text, o->err);
    return c == CL_OK ? CL_OK : cl_fail_prefix(o->err, "prompt");
}

static cl_code open_single(run_cli *o, source_state *s)
{
    cl_code c = CL_OK;
    if (o->tokens) {
        int32_t *ids = NULL;
        int n;
        if ((c = parse_ids(o->tokens, &ids, &n, o->err)) == CL_OK)
            s->single = cl_request_from_ids(&o->defaults, "0", ids, n);
        free(ids);
    } else {
        cl_buf text = {0};
        if ((c = read_prompt(o, &text)) == CL_OK && !o->chat)
            s->single = cl_request_from_text(&o->defaults, "0", text.data, text.len);
        else if (c == CL_OK) {
            if (strlen(text.data) != text.len) c = cl_fail(o->err, CL_E_INPUT, "prompt: holds a zero byte");
            cl_message m[2] = {{"system", o->system}, {"user", text.data}};
            if (c == CL_OK)
                s->single = cl_request_from_messages(&o->defaults, "0", o->system ? m : m + 1, o->system ? 2 : 1);
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

static bool is_blank(const char *s, size_t n)
{
    while (n && memchr(" \t\r", s[n - 1], 3)) n--;
    return n == 0;
}

static cl_request *next_row(void *ctx, int wait_ms, bool *ended)
{
    source_state *s = ctx;
    for (;;) {
        const char *line;
        size_t n;
        lines_got got = lines_next(&s->lines, wait_ms, MAX_LINE, &line, &n, &s->broken);
        *ended = got == LINES_END || got == LINES_FAILED;
        if (got != LINES_LINE) return NULL;
        if (is_blank(line, n)) continue;
        cl_request *r = cl_request_from_row(&s->o->defaults, line, n, s->row++);
        if (r && !s->waits) r->arrived_ns = s->opened_ns; /* a file's rows were all there from the start */
        if (r) return r;
        *ended = true;
        cl_fail(&s->broken, CL_E_FIT, "%s: out of memory at row %lld", s->o->batch, (long long)s->row);
        return NULL;
    }
}

static cl_code tell_row(void *ctx, const cl_request *r, const cl_result *result, cl_err *err)
{
    source_state *s = ctx;
    s->failed += r->error.code != CL_OK;
    cl_code c = put_row(s->out, s->o->out, r, result, err);
    return c == CL_OK && s->o->json ? put_row(STDOUT_FILENO, "stdout", r, result, err) : c;
}

static cl_code done_row(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    cl_code c = tell_row(ctx, r, result, err);
    cl_request_free(r);
    return c;
}

static cl_code open_batch(run_cli *o, source_state *s)
{
    struct stat st;
    int in = strcmp(o->batch, "-") ? open(o->batch, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (in < 0 || fstat(in, &st) != 0) return cl_fail(o->err, CL_E_INPUT, "%s: %s", o->batch, strerror(errno));
    lines_open(&s->lines, in, o->batch);
    if (S_ISDIR(st.st_mode)) return cl_fail(o->err, CL_E_INPUT, "%s: is a folder (give a file)", o->batch);
    s->waits = !S_ISREG(st.st_mode);
    s->opened_ns = cl_now_ns();
    s->out = open(o->out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (s->out < 0) return cl_fail(o->err, CL_E_INPUT, "%s: cannot be written: %s", o->out, strerror(errno));
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
    const char *line;
    size_t n;
    lines_got got = lines_next(&s->lines, wait_ms, MAX_LINE, &line, &n, &s->broken);
    *ended = got == LINES_END || got == LINES_FAILED;
    if (got != LINES_LINE) return NULL;
    s->asked = false;
    char *text = n && memchr(line, 0, n) == NULL ? strndup(line, n) : NULL;
    cl_request *r = NULL;
    if (text && strcmp(text, "/reset") == 0) {
        int keep = s->o->system ? 1 : 0;
        while (s->n_turns > keep) free((char *)s->turns[--s->n_turns].content);
    } else if (text && add_turn(s, "user", text, &s->broken) == CL_OK) {
        r = cl_request_from_messages(&s->o->defaults, "chat", s->turns, s->n_turns);
        s->waiting = r != NULL;
    }
    free(text);
    return r;
}

static cl_code tell_turn(void *ctx, const cl_request *r, const cl_result *result, cl_err *err)
{
    source_state *s = ctx;
    s->waiting = false;
    if (r->error.code != CL_OK) { /* the message is taken back, the conversation goes on */
        fprintf(stderr, "chipline: %s\n", r->error.msg);
        free((char *)s->turns[--s->n_turns].content);
        return CL_OK;
    }
    if (!s->o->json && (putchar('\n') == EOF || fflush(stdout) != 0))
        return cl_fail(err, CL_E_RUN, "stdout: write failed: %s", strerror(errno));
    cl_code c = s->o->json ? put_row(STDOUT_FILENO, "stdout", r, result, err) : CL_OK;
    if (c != CL_OK) return c;
    end_reply(s, result);
    if (s->o->digest && !s->o->json) fprintf(stderr, "logits_xxh3: %016llx\n", (unsigned long long)result->digest);
    return add_turn(s, "assistant", result->text.data ? result->text.data : "", err);
}

static cl_code done_turn(void *ctx, cl_request *r, const cl_result *result, cl_err *err)
{
    cl_code c = tell_turn(ctx, r, result, err);
    cl_request_free(r);
    return c;
}

static cl_code open_chat(run_cli *o, source_state *s)
{
    lines_open(&s->lines, STDIN_FILENO, "stdin");
    if (o->run.logits_path)
        return cl_fail(o->err, CL_E_USAGE, "--logits: is for one request, not for a conversation (give -p TEXT)");
    fprintf(stderr, "(a conversation: end it with Ctrl-D, /reset forgets it)\n");
    return o->system ? add_turn(s, "system", o->system, o->err) : CL_OK;
}

/* --- all --- */

cl_code cli_open_source(run_cli *o, const cl_model *m, cl_limits limits, cl_source *source)
{
    source_state *s = o->source = cl_calloc(1, sizeof *s, "source", o->err);
    if (!s) return CL_E_FIT;
    s->o = o;
    s->out = -1;
    o->defaults = (cl_request_defaults){.tokenizer = o->tokenizer,
                                        .no_chat = &o->no_chat,
                                        .chat = o->format,
                                        .sampling = o->sampling,
                                        .max_tokens = o->max_tokens,
                                        .ignore_eos = o->ignore_eos,
                                        .want_rows = o->digest || o->run.logits_path,
                                        .want_digest = o->digest,
                                        .want_reasoning = o->reasoning == 1,
                                        .n_stops = o->n_stops,
                                        .stops = o->stops,
                                        .context = limits.context,
                                        .vocab = limits.vocab};
    if (o->batch) {
        *source = (cl_source){.ctx = s, .next = next_row, .done = done_row};
        return open_batch(o, s);
    }
    cl_code (*thoughts)(void *, const cl_request *, const char *, size_t, cl_err *) =
        o->json || o->reasoning != 1 ? NULL : put_reasoning;
    if (o->chat && !o->prompt && !o->prompt_file && at_terminal()) {
        *source = (cl_source){.ctx = s,
                              .next = next_turn,
                              .text = o->json ? NULL : put_text,
                              .reasoning = thoughts,
                              .done = done_turn};
        return open_chat(o, s);
    }
    *source = (cl_source){.ctx = s,
                          .next = next_single,
                          .text = o->json ? NULL : put_text,
                          .reasoning = thoughts,
                          .done = done_single};
    return open_single(o, s);
}

cl_code cli_outcome(run_cli *o, cl_err *err)
{
    const source_state *s = o->source;
    if (s->broken.code != CL_OK) *err = s->broken;
    if (s->broken.code != CL_OK) return err->code;
    if (!s->failed) return CL_OK;
    return cl_fail(err, CL_E_RUN, "%s: %lld of %lld rows could not run (their result rows in %s say why)", o->batch,
                   (long long)s->failed, (long long)s->row, o->out);
}
