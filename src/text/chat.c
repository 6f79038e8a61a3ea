/* chat.c: chat formats by name, and prompts made with them. */
#include "chat_internal.h"

#include <stdlib.h>

cl_code cl_chat_by_name(const char *name, cl_chat **out, cl_err *err)
{
    *out = NULL;
    for (int i = 0; i < cl_chat_n_formats; i++) {
        if (strcmp(name, cl_chat_formats[i].name) != 0) continue;
        cl_chat *c = cl_calloc(1, sizeof *c, "chat format", err);
        if (!c) return CL_E_FIT;
        c->f = &cl_chat_formats[i];
        c->trim = c->f->trim;
        *out = c;
        return CL_OK;
    }
    const char *near = cl_nearest(name, cl_chat_names(), cl_chat_n_formats);
    cl_buf all = {0};
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < cl_chat_n_formats; i++)
        c = cl_buf_printf(&all, err, "%s%s", i ? ", " : "", cl_chat_names()[i]);
    if (c == CL_OK)
        c = near ? cl_fail(err, CL_E_USAGE, "chat format '%s': unknown (did you mean %s?)", name, near)
                 : cl_fail(err, CL_E_USAGE, "chat format '%s': unknown (there are %s)", name, all.data);
    cl_buf_free(&all);
    return c;
}

void cl_chat_free(cl_chat *c)
{
    if (c) free(c->default_block);
    free(c);
}

const char *cl_chat_name(const cl_chat *c) { return c->f->name; }
const char *const *cl_chat_ends(const cl_chat *c) { return c->f->ends; }
bool cl_chat_has_date(const cl_chat *c) { return c->f->date != NULL; }

static bool is_day(int year, int month, int day)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1] + (month == 2 && leap);
}

cl_code cl_chat_set_date(cl_chat *c, const char *date, cl_err *err)
{
    static const char shape[] = "dddd-dd-dd";
    bool ok = strlen(date) == CL_CHAT_DATE;
    for (int i = 0; ok && i < CL_CHAT_DATE; i++)
        ok = shape[i] == 'd' ? date[i] >= '0' && date[i] <= '9' : date[i] == '-';
    if (!ok) return cl_fail(err, CL_E_USAGE, "'%.40s' is not written YYYY-MM-DD", date);
    if (!is_day(atoi(date), atoi(date + 5), atoi(date + 8)))
        return cl_fail(err, CL_E_USAGE, "%s is no day of the calendar", date);
    memcpy(c->date, date, CL_CHAT_DATE + 1);
    return CL_OK;
}

/* --- white space --- */

/* Bytes of the white-space character that s[0..n) begins with, or 0 (what Python's str.isspace says). */
static size_t space_len(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    if (n >= 1 && ((p[0] >= 9 && p[0] <= 13) || (p[0] >= 28 && p[0] <= 32))) return 1;
    if (n >= 2 && p[0] == 0xc2 && (p[1] == 0x85 || p[1] == 0xa0)) return 2;
    if (n < 3) return 0;
    unsigned c = (unsigned)(p[0] & 15) << 12 | (unsigned)(p[1] & 63) << 6 | (p[2] & 63);
    bool space = c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
                 c == 0x205f || c == 0x3000;
    return p[0] >= 0xe1 && p[0] <= 0xe3 && space ? 3 : 0;
}

void cl_chat_strip(const char **s, size_t *n, bool left, bool right)
{
    size_t k;
    while (left && (k = space_len(*s, *n)) > 0) *s += k, *n -= k;
    for (bool more = right; more;) {
        more = false;
        for (k = 1; k <= 3 && k <= *n && !more; k++)
            if (space_len(*s + *n - k, k) == k) *n -= k, more = true;
    }
}

static void strip_newlines(const char **s, size_t *n, bool left, bool right)
{
    while (left && *n && **s == '\n') (*s)++, (*n)--;
    while (right && *n && (*s)[*n - 1] == '\n') (*n)--;
}

/* --- rendering --- */

static int role_of(const char *role)
{
    return strcmp(role, "system") == 0      ? CL_CHAT_SYSTEM
           : strcmp(role, "user") == 0      ? CL_CHAT_USER
           : strcmp(role, "assistant") == 0 ? CL_CHAT_ASSISTANT
                                            : -1;
}

static cl_code check(const cl_chat_format *f, const cl_message *m, int n, cl_err *err)
{
    if (n < 1) return cl_fail(err, CL_E_INPUT, "messages: there is none");
    int first = n && role_of(m[0].role) == CL_CHAT_SYSTEM ? 1 : 0;
    for (int i = 0; i < n; i++) {
        int role = role_of(m[i].role);
        if (role < 0)
            return cl_fail(err, CL_E_INPUT,
                           "message %d: role '%.40s' is unknown (system, user and assistant are known)", i + 1,
                           m[i].role);
        if (role == CL_CHAT_SYSTEM && f->system == CL_CHAT_REFUSED)
            return cl_fail(err, CL_E_INPUT,
                           "message %d: the chat format %s has no system message (put it into the user's)", i + 1,
                           f->name);
        if (role == CL_CHAT_SYSTEM && i > 0 && f->system == CL_CHAT_FIRST_BLOCK)
            return cl_fail(err, CL_E_INPUT, "message %d: in the chat format %s a system message must be the first",
                           i + 1, f->name);
        if (f->alternate && i >= first && role != ((i - first) % 2 ? CL_CHAT_ASSISTANT : CL_CHAT_USER))
            return cl_fail(err, CL_E_INPUT,
                           "message %d: is %s; in the chat format %s user and assistant must take turns%s", i + 1,
                           m[i].role, f->name, f->system == CL_CHAT_REFUSED ? "" : " after the system message");
        if (f->thoughts == CL_CHAT_CHANNELS && role == CL_CHAT_ASSISTANT && strstr(m[i].content, "<|channel|>"))
            return cl_fail(err, CL_E_INPUT, "message %d: contains <|channel|>; give the final channel's text only",
                           i + 1);
        if (f->thoughts == CL_CHAT_QWEN3 && role == CL_CHAT_USER && strstr(m[i].content, "<tool_response>"))
            return cl_fail(err, CL_E_INPUT, "message %d: contains <tool_response>; answers of tools are not supported",
                           i + 1);
    }
    return CL_OK;
}

static cl_code add_content(const cl_chat *c, int role, const char *content, cl_buf *out, cl_err *err)
{
    if (role == CL_CHAT_ASSISTANT && (c->f->thoughts == CL_CHAT_CUT_LAST || c->f->thoughts == CL_CHAT_CUT_FIRST))
        for (const char *end; (end = strstr(content, THINK_END));) {
            content = end + strlen(THINK_END);
            if (c->f->thoughts == CL_CHAT_CUT_FIRST) break;
        }
    size_t n = strlen(content);
    if (c->trim & 1u << role) cl_chat_strip(&content, &n, true, true);
    return cl_buf_add(out, content, n, err);
}

/* Qwen3: an answer's thoughts are dropped, unless it comes after the last question; then they are written in their
 * full form. */
static cl_code add_thinking(const char *content, bool after_question, bool last, cl_buf *out, cl_err *err)
{
    const char *end = strstr(content, THINK_END), *answer = content, *thought = "";
    size_t n_thought = 0, n_answer;
    if (end) {
        thought = content;
        n_thought = (size_t)(end - content);
        strip_newlines(&thought, &n_thought, false, true);
        const size_t mark = strlen(THINK);
        for (size_t i = 0; i + mark <= n_thought;) { /* what follows the last <think> */
            if (memcmp(thought + i, THINK, mark) != 0) {
                i++;
                continue;
            }
            thought += i + mark;
            n_thought -= i + mark;
            i = 0;
        }
        for (const char *p = end; p; p = strstr(p + 1, THINK_END)) answer = p + strlen(THINK_END);
    }
    n_answer = strlen(answer);
    strip_newlines(&answer, &n_answer, end != NULL, false);
    strip_newlines(&thought, &n_thought, true, true);
    cl_code c = CL_OK;
    if (after_question && (last || n_thought)) {
        strip_newlines(&answer, &n_answer, true, false);
        c = cl_buf_printf(out, err, THINK "\n%.*s\n" THINK_END "\n\n", (int)n_thought, thought);
    }
    return c == CL_OK ? cl_buf_add(out, answer, n_answer, err) : c;
}

/* What comes in front of the messages. */
static cl_code add_head(const cl_chat *c, const cl_message *m, int n, cl_buf *out, cl_err *err)
{
    const cl_chat_format *f = c->f;
    const char *between = "";
    cl_code code = cl_buf_str(out, f->bos, err);
    if (code == CL_OK && f->head) code = cl_buf_str(out, f->head, err);
    if (code == CL_OK && f->date && *c->date) code = cl_buf_printf(out, err, "%s%s\n", f->date, c->date);
    if (code == CL_OK && f->head_rest) code = cl_buf_str(out, f->head_rest, err);
    if (code == CL_OK && c->default_block && role_of(m[0].role) != CL_CHAT_SYSTEM)
        code = cl_buf_str(out, c->default_block, err);
    if (f->system != CL_CHAT_TOP && f->system != CL_CHAT_TOP_LAST) return code;
    int last = n - 1;
    while (last > 0 && role_of(m[last].role) != CL_CHAT_SYSTEM) last--;
    for (int i = f->system == CL_CHAT_TOP ? 0 : last; code == CL_OK && i <= last; i++) {
        if (role_of(m[i].role) != CL_CHAT_SYSTEM) continue;
        code = cl_buf_printf(out, err, "%s%s", between, m[i].content);
        between = "\n\n";
    }
    return code;
}

/* A system message in a block of its own, in front of all others. */
static cl_code add_first_block(const cl_chat *c, const char *system, cl_buf *out, cl_err *err)
{
    const cl_chat_format *f = c->f;
    if (f->system == CL_CHAT_FIRST_BLOCK && !*system) return CL_OK;
    cl_code code = cl_buf_str(out, f->open[CL_CHAT_SYSTEM], err);
    if (code == CL_OK && f->system_lead) code = cl_buf_str(out, f->system_lead, err);
    if (code == CL_OK) code = add_content(c, CL_CHAT_SYSTEM, system, out, err);
    return code == CL_OK ? cl_buf_str(out, f->close[CL_CHAT_SYSTEM], err) : code;
}

static bool is_when(cl_chat_when when, bool after_user)
{
    return when == CL_CHAT_ALWAYS || (when == CL_CHAT_AFTER_USER) == after_user;
}

cl_code cl_chat_render(const cl_chat *c, const cl_message *messages, int n, bool add_generation, cl_buf *out,
                       cl_err *err)
{
    const cl_chat_format *f = c->f;
    cl_code code = check(f, messages, n, err);
    if (code != CL_OK) return code;
    bool has_system = role_of(messages[0].role) == CL_CHAT_SYSTEM, after_user = false,
         opens = add_generation || c->always_opens;
    bool block = f->system == CL_CHAT_OWN_BLOCK || f->system == CL_CHAT_FIRST_BLOCK;
    bool top = f->system == CL_CHAT_TOP || f->system == CL_CHAT_TOP_LAST;
    const char *system = has_system ? messages[0].content : f->system_lead ? "" : NULL;
    int first = has_system ? 1 : 0, last_question = n - 1;
    while (last_question > 0 && role_of(messages[last_question].role) != CL_CHAT_USER) last_question--;
    if (role_of(messages[last_question].role) != CL_CHAT_USER) last_question = n - 1;
    code = add_head(c, messages, n, out, err);
    if (code == CL_OK && system && block) code = add_first_block(c, system, out, err);
    for (int i = first; code == CL_OK && i < n; i++) {
        int role = role_of(messages[i].role);
        if (top && role == CL_CHAT_SYSTEM) continue;
        if (role != CL_CHAT_ASSISTANT || is_when(f->opens, after_user)) code = cl_buf_str(out, f->open[role], err);
        if (code == CL_OK && system &&
            ((f->system == CL_CHAT_FIRST_USER && i == first) ||
             (f->system == CL_CHAT_LAST_USER && i == n - 1 && role == CL_CHAT_USER)))
            code = cl_buf_printf(out, err, "%s\n\n", system);
        if (code == CL_OK && f->thoughts == CL_CHAT_QWEN3 && role == CL_CHAT_ASSISTANT)
            code = add_thinking(messages[i].content, i > last_question, i == n - 1, out, err);
        else if (code == CL_OK) code = add_content(c, role, messages[i].content, out, err);
        bool ends = f->last_close && role == CL_CHAT_ASSISTANT && i == n - 1 && !opens;
        if (code == CL_OK) code = cl_buf_str(out, ends ? f->last_close : f->close[role], err);
        if (role != CL_CHAT_SYSTEM) after_user = role == CL_CHAT_USER;
    }
    if (code == CL_OK && opens && is_when(f->generates, after_user)) code = cl_buf_str(out, f->generation, err);
    return code;
}
