/* tokenize.c: `chipline tokenize`: text to ids and back; chat prompts rendered. */
#include <stdlib.h>

#include "chat_arg.h"
#include "chipline/json.h"
#include "chipline/model_file.h"
#include "options.h"

enum { CHAT = 256, DECODE, MAX_TEXT = 1 << 30 };

static const struct argp_option options[] =
    {{"prompt", 'p', "TEXT", 0, "the text (or standard input)", 0},
     {"chat", CHAT, NULL, 0, "the text is a user's message, or a JSON list of messages {\"role\", \"content\"}", 0},
     ROW_CHAT_FORMAT(0),
     ROW_DATE(0),
     {"decode", DECODE, "ID,ID,...", 0, "ids back to text", 0},
     ROW_JSON("{\"tokens\": [ids], \"pieces\": [texts]}, with --chat also \"rendered\"", 0),
     {0}};

typedef struct tokenize_cli {
    cl_err *err;
    const char *model, *prompt, *decode, *chat_format, *date;
    bool chat, json;
} tokenize_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    tokenize_cli *o = st->input;
    switch (key) {
    case 'p': o->prompt = arg; break;
    case CHAT: o->chat = true; break;
    case OPT_CHAT_FORMAT: o->chat_format = arg; break;
    case OPT_DATE: o->date = arg; break;
    case DECODE: o->decode = arg; break;
    case OPT_JSON: o->json = true; break;
    case ARGP_KEY_ARG: return cli_argument(o->err, "MODEL", arg, &o->model);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static cl_code decode(const tokenize_cli *o, const cl_tokenizer *t, cl_err *err)
{
    int vocab = cl_tokenizer_get_data(t)->n_tokens;
    cl_buf text = {0};
    cl_detok d;
    cl_detok_init(&d, t, true, true);
    cl_code c = CL_OK;
    for (const char *p = o->decode; c == CL_OK && *p;) {
        char word[32];
        size_t len = strcspn(p, ", \n");
        int64_t id;
        snprintf(word, sizeof word, "%.*s", (int)(len < 31 ? len : 31), p);
        if (!cl_parse_int(word, 0, vocab - 1, &id))
            c = cl_fail(err, CL_E_INPUT, "--decode: '%s' is not a token id below %d", word, vocab);
        if (c == CL_OK) c = cl_detok_add(&d, (int32_t)id, &text, err);
        p += len;
        p += strspn(p, ", \n");
    }
    if (c == CL_OK) c = cl_detok_finish(&d, &text, err);
    if (c == CL_OK) printf("%s\n", text.data ? text.data : "");
    cl_buf_free(&text);
    return c;
}

/* A JSON list of messages, or the text itself as a user's message. */
static cl_code render(const tokenize_cli *o, const cl_tokenizer *t, const cl_buf *text, cl_buf *rendered, cl_err *err)
{
    cl_chat *format;
    cl_code c = cli_chat(o->chat_format, o->date, t, &format, err);
    if (c != CL_OK) return c;
    if (!format)
        return cl_fail(err, CL_E_INPUT, "--chat: %s has no chat template (name a format: --chat-format)", o->model);
    if (o->chat_format && (c = cl_chat_check(format, t, err)) != CL_OK) {
        cl_chat_free(format);
        return c;
    }
    if (strlen(text->data) != text->len) c = cl_fail(err, CL_E_INPUT, "prompt: holds a zero byte");
    json_t *list = NULL;
    cl_err not_json;
    if (c == CL_OK && text->data[strspn(text->data, " \t\r\n")] == '[' &&
        cl_json_parse(text->data, text->len, "messages", &list, &not_json) == CL_OK && json_array_size(list)) {
        cl_message *m;
        int n;
        c = cl_messages_read(list, &m, &n, err);
        if (c == CL_OK) c = cl_chat_render_messages(format, m, n, true, rendered, err);
        free(m);
    } else if (c == CL_OK) {
        cl_message m = {"user", text->data};
        c = cl_chat_render_messages(format, &m, 1, true, rendered, err);
    }
    json_decref(list);
    cl_chat_free(format);
    return c;
}

static cl_code show(const tokenize_cli *o, const cl_tokenizer *t, const int32_t *ids, int n, const cl_buf *rendered,
                    cl_err *err)
{
    json_t *jids = json_array(), *pieces = json_array();
    for (int i = 0; i < n; i++) {
        const char *bytes;
        size_t len, bad;
        cl_tokenizer_piece(t, ids[i], true, &bytes, &len);
        json_array_append_new(jids, json_integer(ids[i]));
        /* A piece may be part of a character: those bytes are shown as U+FFFD, ids are exact. */
        cl_buf piece = {0};
        for (size_t k = 0; k < len;) {
            bool ok = cl_utf8_valid(bytes + k, len - k, &bad);
            cl_code c = cl_buf_add(&piece, bytes + k, ok ? len - k : bad, err);
            if (c == CL_OK && !ok) c = cl_buf_str(&piece, "\xef\xbf\xbd", err);
            if (c != CL_OK) break;
            k += ok ? len - k : bad + 1;
        }
        json_array_append_new(pieces, json_stringn(piece.data ? piece.data : "", piece.len));
        cl_buf_free(&piece);
    }
    json_t *j = json_pack("{s:o, s:o}", "tokens", jids, "pieces", pieces);
    if (rendered) json_object_set_new(j, "rendered", json_stringn(rendered->data, rendered->len));
    if (o->json) {
        json_dumpf(j, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        if (rendered) printf("%s\n", rendered->data);
        for (int i = 0; i < n; i++) {
            char *text = json_dumps(json_array_get(pieces, (size_t)i), JSON_ENCODE_ANY);
            printf("%8d  %s\n", ids[i], text ? text : "");
            free(text);
        }
    }
    json_decref(j);
    return CL_OK;
}

static cl_code encode(const tokenize_cli *o, const cl_tokenizer *t, cl_err *err)
{
    cl_buf text = {0}, rendered = {0};
    int32_t *ids = NULL;
    int n = 0;
    cl_code c = o->prompt ? cl_buf_str(&text, o->prompt, err) : cl_read_file("-", MAX_TEXT, &text, err);
    if (c == CL_OK && o->chat) c = render(o, t, &text, &rendered, err);
    const cl_buf *source = o->chat ? &rendered : &text;
    /* a rendered prompt is complete */
    if (c == CL_OK)
        c = cl_tokenizer_encode(t, source->data ? source->data : "", source->len, true, !o->chat, &ids, &n, err);
    if (c == CL_OK) c = show(o, t, ids, n, o->chat ? &rendered : NULL, err);
    free(ids);
    cl_buf_free(&text);
    cl_buf_free(&rendered);
    return c;
}

/* What options can't mean together, and ids that are none. */
static cl_code check(void *own, const cli_call *call)
{
    const tokenize_cli *o = own;
    cl_err *err = o->err;
    static const char ids[] = "0123456789, \n";
    if (!o->model) return cl_fail(err, CL_E_USAGE, "tokenize: needs a model file (chipline tokenize MODEL.h5 -p TEXT)");
    if (o->chat_format && !o->chat) return cl_fail(err, CL_E_USAGE, "--chat-format: needs --chat");
    if (o->date && !o->chat) return cl_fail(err, CL_E_USAGE, "--date: needs --chat");
    if (!o->decode) return CL_OK;
    if (o->prompt || o->chat) return cl_fail(err, CL_E_USAGE, "--decode: not with %s", o->prompt ? "-p" : "--chat");
    if (!o->decode[strspn(o->decode, ids)]) return CL_OK;
    return cl_fail(err, CL_E_USAGE, "--decode: '%.60s' is no list of token ids (write them as 5,17,9)", o->decode);
}

static cl_code run(void *own, const cli_call *call)
{
    const tokenize_cli *o = own;
    cl_model_file *f;
    cl_tokenizer_data *data = NULL;
    cl_tokenizer *t = NULL;
    cl_code c = cl_model_file_open(&f, o->model, o->err);
    if (c != CL_OK) return c;
    c = cl_tokenizer_data_read(cl_model_file_store(f), &data, o->err);
    cl_model_file_close(f);
    if (c == CL_OK && !data)
        c = cl_fail(o->err, CL_E_INPUT, "%s: has no tokenizer (convert from a source that has one)", o->model);
    if (c == CL_OK) c = cl_tokenizer_create(&t, data, o->err);
    if (c == CL_OK) c = o->decode ? decode(o, t, o->err) : encode(o, t, o->err);
    cl_tokenizer_free(t);
    cl_tokenizer_data_free(data);
    return c;
}

const cli_command command_tokenize = {
    .name = "tokenize",
    .args = "MODEL.h5",
    .what = "text to ids and back, chat prompts rendered",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "MODEL.h5",
             .doc = "Text to token ids as the model would read it, one per line with its text, and back."
                    "\vExamples:\n"
                    "  chipline tokenize model.h5 -p 'Hello world'\n"
                    "  chipline tokenize model.h5 --chat -p 'What is a chip?'\n"
                    "  chipline tokenize model.h5 --decode 19556,905\n"},
    .size = sizeof(tokenize_cli),
    .check = check,
    .run = run,
};
