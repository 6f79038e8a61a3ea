/* request.c: text, messages, ids or a batch file's row to a request; a result to its row. */
#include "chipline/request.h"

#include <stdlib.h>

void cl_request_free(cl_request *r)
{
    if (!r) return;
    for (int i = 0; i < r->n_stops; i++) free(r->stops[i]);
    free(r->stops);
    free(r->prompt);
    free(r->earlier);
    free(r->id);
    free(r);
}

static cl_request *new_request(const cl_request_defaults *d, const char *id)
{
    cl_request *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->max_tokens = d->max_tokens;
    r->ignore_eos = d->ignore_eos;
    r->want_rows = d->want_rows;
    r->want_digest = d->want_digest;
    r->want_reasoning = d->want_reasoning;
    r->sampling = d->sampling;
    r->arrived_ns = cl_now_ns();
    if (!(r->id = cl_strdup(id, &r->error))) {
        free(r);
        return NULL;
    }
    return r;
}

static cl_code set_stops(cl_request *r, const char *const *stops, int n)
{
    if (!(r->stops = cl_calloc((size_t)n, sizeof *r->stops, "stop texts", &r->error))) return CL_E_FIT;
    for (; r->n_stops < n; r->n_stops++)
        if (!(r->stops[r->n_stops] = cl_strdup(stops[r->n_stops], &r->error))) return CL_E_FIT;
    return CL_OK;
}

/* Checks that hold for every prompt, once its ids are there. */
static cl_code check(const cl_request_defaults *d, cl_request *r)
{
    cl_err *err = &r->error;
    if (r->n_prompt < 1) return cl_fail(err, CL_E_INPUT, "prompt: is empty (give at least one token)");
    for (int i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= d->vocab)
            return cl_fail(err, CL_E_INPUT, "prompt: token id %d at index %d is not in the vocabulary of %d",
                           r->prompt[i], i, d->vocab);
    if (r->n_prompt >= d->context)
        return cl_fail(err, CL_E_FIT,
                       "prompt: %d tokens leave no room in a context of %d (shorten it, or raise --context)",
                       r->n_prompt, d->context);
    if (r->n_stops && !d->tokenizer)
        return cl_fail(err, CL_E_INPUT, "stop: the model file has no tokenizer, so there is no text to stop at");
    return CL_OK;
}

/* wrap: with the vocabulary's own BOS and EOS; a rendered chat is complete without. */
static cl_code set_text(const cl_request_defaults *d, cl_request *r, const char *text, size_t n, bool wrap)
{
    if (!d->tokenizer)
        return cl_fail(&r->error, CL_E_INPUT, "prompt: the model file has no tokenizer (give ids: --tokens)");
    cl_code c = cl_tokenizer_encode(d->tokenizer, text, n, true, wrap, &r->prompt, &r->n_prompt, &r->error);
    return c == CL_OK ? CL_OK : cl_fail_prefix(&r->error, "prompt");
}

static cl_code set_messages(const cl_request_defaults *d, cl_request *r, const cl_message *m, int n)
{
    if (!d->chat && d->no_chat && d->no_chat->code != CL_OK)
        return cl_fail(&r->error, CL_E_INPUT, "messages: %s", d->no_chat->msg);
    if (!d->chat)
        return cl_fail(&r->error, CL_E_INPUT,
                       "messages: no chat format is known for this model (give one: --chat-format)");
    cl_buf text = {0};
    r->chat = d->chat;
    cl_code c = cl_chat_render_messages(d->chat, m, n, true, &text, &r->error);
    if (c == CL_OK) c = set_text(d, r, text.data, text.len, false);
    cl_buf_free(&text);
    return c;
}

static cl_code set_ids(cl_request *r, const int32_t *ids, int n)
{
    if (!(r->prompt = cl_malloc((size_t)n, sizeof *ids, "prompt", &r->error))) return CL_E_FIT;
    if (n) memcpy(r->prompt, ids, (size_t)n * sizeof *ids);
    r->n_prompt = n;
    return CL_OK;
}

static void finish(const cl_request_defaults *d, cl_request *r, cl_code c)
{
    if (c == CL_OK) c = set_stops(r, (const char *const *)d->stops, d->n_stops);
    if (c == CL_OK) check(d, r);
}

cl_request *cl_request_from_text(const cl_request_defaults *d, const char *id, const char *text, size_t n)
{
    cl_request *r = new_request(d, id);
    if (r) finish(d, r, set_text(d, r, text, n, true));
    return r;
}

cl_request *cl_request_from_messages(const cl_request_defaults *d, const char *id, const cl_message *m, int n)
{
    cl_request *r = new_request(d, id);
    if (r) finish(d, r, set_messages(d, r, m, n));
    return r;
}

cl_request *cl_request_from_ids(const cl_request_defaults *d, const char *id, const int32_t *ids, int n)
{
    cl_request *r = new_request(d, id);
    if (r) finish(d, r, set_ids(r, ids, n));
    return r;
}

/* --- rows --- */

/* null means: not given. */
static const json_t *get(const json_t *row, const char *key)
{
    const json_t *v = json_object_get(row, key);
    return json_is_null(v) ? NULL : v;
}

static cl_code row_ids(cl_request *r, const json_t *list)
{
    size_t n = json_array_size(list);
    if (n > INT32_MAX / 4) return cl_fail(&r->error, CL_E_INPUT, "tokens: %zu are too many", n);
    if (!(r->prompt = cl_malloc(n, sizeof *r->prompt, "prompt", &r->error))) return CL_E_FIT;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return cl_fail(&r->error, CL_E_INPUT, "tokens: item %zu is not a token id", i);
        r->prompt[i] = (int32_t)json_integer_value(v);
    }
    r->n_prompt = (int)n;
    return CL_OK;
}

static cl_code row_messages(const cl_request_defaults *d, cl_request *r, const json_t *list)
{
    cl_message *m;
    int n;
    cl_code c = cl_messages_read(list, &m, &n, &r->error);
    if (c == CL_OK) c = set_messages(d, r, m, n);
    free(m);
    return c;
}

static cl_code row_prompt(const cl_request_defaults *d, cl_request *r, const json_t *row)
{
    const json_t *prompt = get(row, "prompt"), *messages = get(row, "messages"), *tokens = get(row, "tokens");
    if (!!prompt + !!messages + !!tokens != 1)
        return cl_fail(&r->error, CL_E_INPUT, "row: needs exactly one of prompt, messages and tokens");
    if (prompt && !json_is_string(prompt)) return cl_fail(&r->error, CL_E_INPUT, "prompt: must be a text");
    if (tokens && !json_is_array(tokens)) return cl_fail(&r->error, CL_E_INPUT, "tokens: must be a list of ids");
    if (prompt) return set_text(d, r, json_string_value(prompt), json_string_length(prompt), true);
    return messages ? row_messages(d, r, messages) : row_ids(r, tokens);
}

static cl_code row_stops(const cl_request_defaults *d, cl_request *r, const json_t *v)
{
    if (!v) return set_stops(r, (const char *const *)d->stops, d->n_stops);
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    const char **texts = cl_calloc(n, sizeof *texts, "stop texts", &r->error);
    if (!texts) return CL_E_FIT;
    cl_code c = CL_OK;
    for (size_t i = 0; c == CL_OK && i < n; i++) {
        texts[i] = json_string_value(json_is_array(v) ? json_array_get(v, i) : v);
        if (!texts[i] || !*texts[i])
            c = cl_fail(&r->error, CL_E_INPUT, "stop: must be a text or a list of texts, none empty");
    }
    if (c == CL_OK) c = set_stops(r, texts, (int)n);
    free(texts);
    return c;
}

static cl_code row_number(cl_request *r, const json_t *row, const char *key, double min, double max, float *out)
{
    double v = *out;
    cl_code c = cl_json_double(row, key, false, min, max, &v, &r->error);
    *out = (float)v;
    return c;
}

static cl_code read_row(const cl_request_defaults *d, cl_request *r, const json_t *row)
{
    static const char *const known[] = {"id",    "prompt", "messages", "tokens",         "max_tokens", "temperature",
                                        "top_k", "top_p",  "min_p",    "repeat_penalty", "seed",       "stop"};
    enum { N = sizeof known / sizeof *known };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)row, key, value)
    {
        int k = 0;
        while (k < N && strcmp(key, known[k])) k++;
        const char *near = k == N ? cl_nearest(key, known, N) : NULL;
        if (k == N)
            return cl_fail(&r->error, CL_E_INPUT, "row: unknown key %.80s%s%s%s", key, near ? " (did you mean " : "",
                           near ? near : "", near ? "?)" : "");
    }
    int64_t max = r->max_tokens, top_k = r->sampling.top_k, seed = 0;
    cl_sampling *s = &r->sampling;
    cl_code c = row_number(r, row, "temperature", 0, 100, &s->temperature);
    if (c == CL_OK) c = row_number(r, row, "top_p", 0, 1, &s->top_p);
    if (c == CL_OK) c = row_number(r, row, "min_p", 0, 1, &s->min_p);
    if (c == CL_OK) c = row_number(r, row, "repeat_penalty", 0.01, 100, &s->repeat_penalty);
    if (c == CL_OK) c = cl_json_int(row, "max_tokens", false, 1, INT32_MAX / 2, &max, &r->error);
    if (c == CL_OK) c = cl_json_int(row, "top_k", false, 0, INT32_MAX, &top_k, &r->error);
    if (c == CL_OK) c = cl_json_int(row, "seed", false, 0, INT64_MAX, &seed, &r->error);
    if (c != CL_OK) return c;
    if (get(row, "seed")) s->seed = (uint64_t)seed;
    r->max_tokens = (int)max;
    s->top_k = (int32_t)top_k;
    if ((c = row_stops(d, r, get(row, "stop"))) != CL_OK) return c;
    if ((c = row_prompt(d, r, row)) != CL_OK) return c;
    return check(d, r);
}

/* The row's own id if it has a usable one. */
static void set_row_id(cl_request *r, const json_t *row)
{
    const json_t *v = get(row, "id");
    char *id = NULL;
    if (json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v)) id = strdup(json_string_value(v));
    else if (json_is_integer(v) && asprintf(&id, "%lld", (long long)json_integer_value(v)) < 0) id = NULL;
    if (id) {
        free(r->id);
        r->id = id;
    } else if (v) cl_fail(&r->error, CL_E_INPUT, "id: must be a text");
}

cl_request *cl_request_from_row(const cl_request_defaults *d, const char *line, size_t n, int64_t index)
{
    char name[32];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cl_request *r = new_request(d, name);
    if (!r) return NULL;
    json_t *row = NULL;
    if (cl_json_parse(line, n, "row", &row, &r->error) != CL_OK) return r;
    if (!json_is_object(row)) cl_fail(&r->error, CL_E_INPUT, "row: is not a JSON object");
    else {
        set_row_id(r, row);
        if (r->error.code == CL_OK) read_row(d, r, row);
    }
    json_decref(row);
    return r;
}

cl_code cl_result_row(const cl_request *r, const cl_result *result, cl_buf *out, cl_err *err)
{
    json_t *ids = json_array();
    for (int i = 0; i < result->n_tokens; i++) json_array_append_new(ids, json_integer(result->tokens[i]));
    uint64_t first = result->first_token_ns, end = result->finished_ns;
    double decode_s = first && end > first ? (double)(end - first) * 1e-9 : 0;
    int after_first = result->n_tokens - r->n_earlier - 1;
    json_t *row = json_pack("{s:s, s:s%, s:o, s:s, s:{s:i, s:i}, s:{s:f, s:f, s:f}}", "id", r->id, "text",
                            result->text.data ? result->text.data : "", result->text.len, "tokens", ids,
                            "finish_reason", result->finish_reason, "usage", "prompt_tokens", r->n_prompt,
                            "completion_tokens", result->n_tokens, "timing", "ttft_s",
                            first ? (double)(first - r->arrived_ns) * 1e-9 : 0.0, "tokens_per_s",
                            decode_s > 0 ? after_first / decode_s : 0.0, "queue_s",
                            result->started_ns ? (double)(result->started_ns - r->arrived_ns) * 1e-9 : 0.0);
    if (!row)
        return cl_fail(err, CL_E_RUN, "result %s: cannot be written as JSON (out of memory, or its text is not UTF-8)",
                       r->id);
    if (r->want_reasoning && result->reasoning.len)
        json_object_set_new(row, "reasoning", json_stringn(result->reasoning.data, result->reasoning.len));
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)result->digest);
    if (r->want_digest && r->error.code == CL_OK) json_object_set_new(row, "logits_xxh3", json_string(hex));
    if (r->error.code != CL_OK) json_object_set_new(row, "error", json_pack("{s:s}", "message", r->error.msg));
    char *text = json_dumps(row, JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(row);
    cl_code c = text ? cl_buf_str(out, text, err) : cl_fail(err, CL_E_FIT, "result: out of memory");
    free(text);
    return c;
}
