/* chat_reply.c: a reply as it comes, taken apart into what the model thinks and what it answers.
 *
 * Two kinds of marks. <think> ... </think> at the start, in most formats; the opening mark may be in the prompt
 * already. Or messages with channels: a header up to <|message|>, which names the channel, and a body up to <|end|>.
 * Marks are looked for in the text, so that it does not matter whether a vocabulary has them as tokens; text that may
 * yet become one is held back. */
#include "chat_internal.h"
#include "chipline/stops.h"

enum { START, THINKING, BEFORE_ANSWER, ANSWER, HEADER, BODY_THINKING, BODY_ANSWER };
enum { MAX_HEADER = 4096 };

#define CHANNEL "<|channel|>"
#define MESSAGE "<|message|>"
#define CONSTRAIN "<|constrain|>"
/* What ends a message's body, or names a part of its header: these may be control tokens. */
static const char *const channel_marks[] = {"<|end|>", "<|start|>", "<|return|>",   "<|call|>",
                                            MESSAGE,   CHANNEL,     "<|constrain|>"};
static const cl_stops body_ends = {channel_marks, 4}, header_ends = {channel_marks + 4, 1};
enum { CHANNEL_MARKS = sizeof channel_marks / sizeof *channel_marks };

static bool has_channels(const cl_reply *r) { return r->chat && r->chat->channels; }

void cl_reply_init(cl_reply *r, const cl_chat *chat, const cl_tokenizer *t)
{
    *r = (cl_reply){.chat = chat, .state = ANSWER};
    if (t) cl_detok_init(&r->detok, t, false, false);
    if (!chat) return;
    r->state = chat->channels ? HEADER : chat->thinking ? THINKING : START;
}

void cl_reply_after(cl_reply *r, const char *prompt)
{
    if (r->chat && !r->chat->channels) r->state = cl_chat_opens_thoughts(r->chat, prompt) ? THINKING : START;
}

void cl_reply_free(cl_reply *r) { cl_buf_free(&r->held); }

/* Takes n bytes off the front of what is held. */
static void drop(cl_reply *r, size_t n)
{
    if (!n) return;
    memmove(r->held.data, r->held.data + n, r->held.len - n);
    r->held.len -= n;
    r->held.data[r->held.len] = 0;
}

static cl_code move(cl_reply *r, size_t n, cl_buf *to, cl_err *err)
{
    cl_code c = n ? cl_buf_add(to, r->held.data, n, err) : CL_OK;
    if (c == CL_OK) drop(r, n);
    return c;
}

static size_t spaces(const cl_buf *b) { return b->len ? strspn(b->data, " \t\r\n") : 0; }

/* The first n bytes held are thoughts: without line ends before the first word and, if they end there, behind the
 * last. */
static cl_code add_thoughts(cl_reply *r, size_t n, bool end, cl_buf *reasoning, cl_err *err)
{
    size_t skip = 0, keep = n;
    while (!r->began && skip < n && strchr(" \t\r\n", r->held.data[skip])) skip++;
    while (keep > skip && (r->held.data[keep - 1] == '\n' || r->held.data[keep - 1] == ' ')) keep--;
    drop(r, skip);
    n -= skip, keep -= skip;
    if (keep && r->apart && reasoning->len) {
        cl_code c = cl_buf_str(reasoning, "\n", err); /* an earlier message was one of thoughts too */
        if (c != CL_OK) return c;
    }
    if (keep) r->began = true, r->apart = false;
    cl_code c = move(r, keep, reasoning, err);
    if (c == CL_OK && end) drop(r, n - keep);
    return c;
}

/* A header is complete with <|message|>; a reply that does not begin with one is an answer. */
static bool read_header(cl_reply *r)
{
    static const char *const beginnings[] = {"<|", " to=", NULL};
    size_t at = cl_stops_find(&header_ends, r->held.data, r->held.len, 0, NULL);
    if (at == SIZE_MAX) {
        bool plain = !r->headers && r->held.len;
        for (int i = 0; plain && beginnings[i]; i++) {
            size_t k = strlen(beginnings[i]);
            plain = memcmp(r->held.data, beginnings[i], r->held.len < k ? r->held.len : k) != 0;
        }
        if (plain) r->state = BODY_ANSWER;
        else if (r->held.len > MAX_HEADER) drop(r, r->held.len);
        return plain;
    }
    const char *channel = memmem(r->held.data, at, CHANNEL, strlen(CHANNEL));
    bool final = channel && strncmp(channel + strlen(CHANNEL), "final", 5) == 0;
    r->headers++;
    r->state = final ? BODY_ANSWER : BODY_THINKING;
    r->apart = !final;
    r->began = false;
    drop(r, at + strlen(MESSAGE));
    return true;
}

/* Thoughts or an answer up to one of `ends`; true if it was there. */
static cl_code read_body(cl_reply *r, const cl_stops *ends, bool thoughts, cl_buf *out, bool *ended, cl_err *err)
{
    int which = 0;
    size_t at = cl_stops_find(ends, r->held.data, r->held.len, 0, &which);
    *ended = at != SIZE_MAX;
    size_t n = *ended ? at : r->held.len - cl_stops_unsure(ends, r->held.data, r->held.len);
    cl_code c = thoughts ? add_thoughts(r, n, *ended, out, err) : move(r, n, out, err);
    if (c == CL_OK && *ended) drop(r, strlen(ends->text[which]));
    return c;
}

/* The start of a reply: thoughts if it begins with their mark, white space in front of it or not. */
static bool read_start(cl_reply *r)
{
    const char *mark = r->chat->think->open;
    size_t len = strlen(mark), n = spaces(&r->held), left = r->held.len - n;
    if (left < len && memcmp(mark, r->held.data + n, left) == 0) return false;
    r->state = memcmp(r->held.data + n, mark, left < len ? left : len) == 0 ? THINKING : ANSWER;
    if (r->state == THINKING) drop(r, n + len);
    return true;
}

/* One step; *more if there may be another. */
static cl_code step(cl_reply *r, cl_buf *answer, cl_buf *reasoning, bool *more, cl_err *err)
{
    cl_code c = CL_OK;
    *more = false;
    switch (r->state) {
    case START: *more = read_start(r); return CL_OK;
    case THINKING:
        c = read_body(r, &(cl_stops){&r->chat->think->close, 1}, true, reasoning, more, err);
        if (*more) r->state = BEFORE_ANSWER;
        return c;
    case BEFORE_ANSWER:
        drop(r, spaces(&r->held));
        *more = r->held.len > 0;
        if (*more) r->state = ANSWER;
        return CL_OK;
    case ANSWER: return move(r, r->held.len, answer, err);
    case HEADER: *more = read_header(r); return CL_OK;
    default:
        c = read_body(r, &body_ends, r->state == BODY_THINKING, r->state == BODY_THINKING ? reasoning : answer, more,
                      err);
        if (*more) r->state = HEADER, r->headers += !r->headers;
        return c;
    }
}

cl_code cl_reply_text(cl_reply *r, const char *s, size_t n, cl_buf *answer, cl_buf *reasoning, cl_err *err)
{
    cl_code c = n ? cl_buf_add(&r->held, s, n, err) : CL_OK;
    for (bool more = r->held.len > 0; c == CL_OK && more && r->held.len;) c = step(r, answer, reasoning, &more, err);
    return c;
}

/* Is this control token a mark? Others are no text. */
static bool is_mark(const cl_reply *r, const char *s, size_t n)
{
    const char *const think[] = {r->chat->think->open, r->chat->think->close}, *const *marks = has_channels(r)
                                                                                                   ? channel_marks
                                                                                                   : think;
    for (int i = has_channels(r) ? CHANNEL_MARKS : 2; i-- > 0;)
        if (strlen(marks[i]) == n && memcmp(marks[i], s, n) == 0) return true;
    return false;
}

cl_code cl_reply_add(cl_reply *r, int32_t id, cl_buf *answer, cl_buf *reasoning, cl_err *err)
{
    if (!r->chat) return cl_detok_add(&r->detok, id, answer, err);
    const char *s;
    size_t n;
    cl_tokenizer_piece(r->detok.t, id, true, &s, &n);
    r->detok.show_control = is_mark(r, s, n);
    cl_buf text = {0};
    cl_code c = cl_detok_add(&r->detok, id, &text, err);
    if (c == CL_OK) c = cl_reply_text(r, text.data, text.len, answer, reasoning, err);
    cl_buf_free(&text);
    return c;
}

cl_code cl_reply_finish(cl_reply *r, bool cut, cl_buf *answer, cl_buf *reasoning, cl_err *err)
{
    cl_buf text = {0};
    cl_code c = cut ? cl_detok_finish(&r->detok, r->chat ? &text : answer, err) : CL_OK;
    if (c == CL_OK && r->chat) c = cl_reply_text(r, text.data, text.len, answer, reasoning, err);
    cl_buf_free(&text);
    if (c != CL_OK || !r->held.len) return c;
    switch (r->state) {
    case THINKING:
    case BODY_THINKING: return add_thoughts(r, r->held.len, true, reasoning, err);
    case START:
    case BODY_ANSWER: return move(r, r->held.len, answer, err);
    default: return CL_OK; /* a header that nothing follows */
    }
}
