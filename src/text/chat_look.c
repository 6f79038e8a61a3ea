/* chat_look.c: what replies need to be read, and what a template has no place for: found by looking at what it
 * writes. */
#include <stdlib.h>

#include "chat_internal.h"

#define QUESTION "Question-1"
#define ANSWER "Answer-1"
#define WORD "probe_word"
#define U "{\"role\":\"user\",\"content\":\"" QUESTION "\"}"
#define A "{\"role\":\"assistant\",\"content\":\"" ANSWER "\"}"
#define S "{\"role\":\"system\",\"content\":\"" WORD "\"}"
#define TOOL                                                                                            \
    "[{\"type\":\"function\",\"function\":{\"name\":\"" WORD "\",\"description\":\"d\",\"parameters\":" \
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"description\":\"d\"}},\"required\":[\"a\"]}}}]"
#define CALL(name)                                                                                          \
    "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\"," \
    "\"function\":{\"name\":\"" name "\",\"arguments\":{\"a\":\"b\"}}}]}"
#define RESULT "{\"role\":\"tool\",\"content\":\"" WORD "\",\"tool_call_id\":\"abcdefghi\",\"name\":\"f\"}"

/* A conversation with WORD in it, and what is left out if it is rendered without. */
static const struct {
    unsigned left_out;
    const char *messages, *tools;
} probes[] = {{CHAT_NO_SYSTEM, "[" S "," U "]", NULL},
              {CHAT_NO_SYSTEM, "[" S "," U "," A "," U "]", NULL},
              {CHAT_NO_LATER_SYSTEM, "[" U "," A "," S "," U "]", NULL},
              {CHAT_NO_TOOLS, "[" U "]", TOOL},
              {CHAT_NO_CALLS, "[" U "," CALL(WORD) "," RESULT "]", NULL},
              {CHAT_NO_ANSWERS, "[" U "," CALL("f") "," RESULT "]", NULL}};

static const chat_think thinks[] = {{"<think>", "</think>"},
                                    {"[THINK]", "[/THINK]"},
                                    {"<seed:think>", "</seed:think>"}};

/* A model that writes one mark may end its turn with the other. */
static const struct {
    const char *seen, *end;
} further_ends[] = {{"<|eot_id|>", "<|eom_id|>"},
                    {"<|eot|>", "<|eom|>"},
                    {"<|channel|>", "<|call|>"},
                    {"<|im_middle|>", "[EOS]"}};

static jinja_result render(const cl_chat *c, const char *messages, const char *tools, bool add_generation, cl_buf *out,
                           char why[JINJA_WHY])
{
    json_t *m = json_loads(messages, 0, NULL), *t = tools ? json_loads(tools, 0, NULL) : NULL;
    out->len = 0;
    cl_buf_str(out, "", NULL);
    jinja_result r = chat_run(c, m, t, NULL, add_generation, out, why);
    json_decref(m);
    json_decref(t);
    return r;
}

/* What follows the last place of `word` in the text, NULL: it is not there. */
static const char *behind(const cl_buf *text, const char *word)
{
    const char *found = NULL;
    for (const char *p = text->data; p && (p = strstr(p, word)); found = p) p += strlen(word);
    return found;
}

static cl_code add_end(cl_chat *c, const char *s, size_t n, cl_err *err)
{
    cl_buf end = {0};
    int k = 0;
    while (k < CHAT_ENDS && c->ends[k]) k++;
    if (k == CHAT_ENDS) return CL_OK;
    cl_code code = cl_buf_add(&end, s, n, err);
    if (code == CL_OK) c->ends[k] = end.data;
    return code;
}

/* Bytes of the mark that s begins with: <...> or [...], without white space; 0: none. */
static size_t mark_len(const char *s)
{
    const char *end = *s == '<' ? strchr(s, '>') : *s == '[' ? strchr(s, ']') : NULL;
    size_t n = end ? (size_t)(end + 1 - s) : 0;
    return n < 3 || n > CHAT_MARK || strcspn(s, " \t\n") < n ? 0 : n;
}

/* The mark behind an answer ends it: at the end of the conversation, or, where none is written there, in front of the
 * next question. */
static cl_code find_ends(cl_chat *c, cl_buf *text, cl_err *err)
{
    static const char *const talks[] = {"[" U "," A "]", "[" U "," A "," U "]"};
    char why[JINJA_WHY];
    cl_code code = CL_OK;
    for (int i = 0; i < 2 && code == CL_OK && !c->ends[0]; i++) {
        const char *s = render(c, talks[i], NULL, false, text, why) == JINJA_OK ? behind(text, ANSWER) : NULL;
        if (!s) continue;
        s += strspn(s, " \t\n");
        size_t n = *c->eos && strncmp(s, c->eos, strlen(c->eos)) == 0 ? strlen(c->eos) : mark_len(s);
        if (n) code = add_end(c, s, n, err);
    }
    for (size_t i = 0; i < sizeof further_ends / sizeof *further_ends; i++)
        if (code == CL_OK && strstr(c->turns, further_ends[i].seen))
            code = add_end(c, further_ends[i].end, strlen(further_ends[i].end), err);
    return code;
}

/* A conversation without BOS. */
static cl_code find_turns(cl_chat *c, cl_err *err)
{
    static const char *const talks[] = {"[" S "," U "," A "," U "]", "[" U "," A "," U "]", "[" U "]"};
    char why[JINJA_WHY], *bos = c->bos, none[] = "";
    cl_buf text = {0};
    cl_code code = cl_buf_str(&text, "", err);
    c->bos = none;
    for (int i = 0; i < 3; i++)
        if (render(c, talks[i], NULL, true, &text, why) == JINJA_OK) break;
    c->bos = bos;
    c->turns = text.data;
    return code;
}

bool cl_chat_opens_thoughts(const cl_chat *c, const char *prompt)
{
    size_t n = strlen(prompt), len = strlen(c->think->open);
    while (n && strchr(" \t\r\n", prompt[n - 1])) n--;
    return !c->channels && n >= len && memcmp(prompt + n - len, c->think->open, len) == 0;
}

/* What was rendered, but never written. */
static void find_left_out(cl_chat *c, cl_buf *text)
{
    unsigned rendered = 0, written = 0;
    char why[JINJA_WHY];
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++) {
        if (render(c, probes[i].messages, probes[i].tools, false, text, why) != JINJA_OK) continue;
        rendered |= probes[i].left_out;
        if (behind(text, WORD)) written |= probes[i].left_out;
    }
    c->leaves_out = rendered & ~written;
}

cl_code chat_look(cl_chat *c, const char *template, cl_err *err)
{
    char why[JINJA_WHY], what[CHAT_MARK];
    cl_buf text = {0};
    cl_code code = find_turns(c, err);
    jinja_result r = render(c, "[" U "]", NULL, true, &text, why);
    if (code == CL_OK && (r != JINJA_OK || !behind(&text, QUESTION)))
        code = cl_fail(err, CL_E_INPUT, "%s: %s", chat_what(c, what),
                       r == JINJA_OK ? "it does not write what a user says" : why);
    if (code == CL_OK) {
        c->think = &thinks[0];
        for (size_t i = 1; i < sizeof thinks / sizeof *thinks; i++)
            if (strstr(template, thinks[i].close)) c->think = &thinks[i];
        c->channels = strstr(c->turns, "<|channel|>") && strstr(c->turns, "<|message|>");
        c->thinking = cl_chat_opens_thoughts(c, text.data);
        code = find_ends(c, &text, err);
    }
    if (code == CL_OK) find_left_out(c, &text);
    cl_buf_free(&text);
    return code;
}
