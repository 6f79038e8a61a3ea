/* chat.c: chats by template or by name, and prompts made with them. */
#include <stdlib.h>

#include "chat_internal.h"

const char *chat_what(const cl_chat *c, char buf[CHAT_MARK])
{
    snprintf(buf, CHAT_MARK, c->name ? "chat format %s" : "chat template", c->name);
    return buf;
}

void cl_chat_free(cl_chat *c)
{
    if (!c) return;
    for (int i = 0; i < CHAT_ENDS; i++) free(c->ends[i]);
    free(c->turns);
    free(c->bos);
    free(c->eos);
    jinja_free(c->template);
    free(c);
}

/* Compiled, not looked at. */
static cl_code make(const char *name, const char *template, const char *bos, const char *eos, cl_chat **out,
                    cl_err *err)
{
    char why[JINJA_WHY], what[CHAT_MARK];
    cl_chat *c = *out = cl_calloc(1, sizeof *c, "chat", err);
    if (!c) return CL_E_FIT;
    c->name = name;
    if (!(c->bos = cl_strdup(bos, err)) || !(c->eos = cl_strdup(eos, err))) return CL_E_FIT;
    if ((c->template = jinja_compile(template, why))) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: %s", chat_what(c, what), why);
}

/* A chat, or none and the cause. */
static cl_code made(cl_code code, const char *template, cl_chat **out, cl_err *err)
{
    if (code == CL_OK) code = chat_look(*out, template, err);
    if (code == CL_OK) return code;
    cl_chat_free(*out);
    *out = NULL;
    return code;
}

cl_code cl_chat_from_template(const char *template, const char *bos, const char *eos, cl_chat **out, cl_err *err)
{
    cl_code code = made(make(NULL, template, bos, eos, out, err), template, out, err);
    if (code != CL_E_INPUT) return code;
    cl_err cause = *err;
    return cl_fail(err, CL_E_INPUT, "%.400s (name a format with --chat-format)", cause.msg);
}

/* A token's text, malloced; "" if there is none. */
static char *token_text(const cl_tokenizer *t, int id, cl_err *err)
{
    const char *s = "";
    size_t n = 0;
    cl_buf text = {0};
    if (id >= 0) cl_tokenizer_piece(t, id, true, &s, &n);
    return cl_buf_add(&text, s, n, err) == CL_OK ? text.data : NULL;
}

cl_code cl_chat_from_tokenizer(const cl_tokenizer *t, cl_chat **out, cl_err *err)
{
    const cl_tokenizer_data *d = cl_tokenizer_get_data(t);
    *out = NULL;
    if (!d->chat_template) return CL_OK;
    char *bos = token_text(t, d->bos, err), *eos = token_text(t, d->eos, err);
    cl_code code = bos && eos ? cl_chat_from_template(d->chat_template, bos, eos, out, err) : CL_E_FIT;
    free(bos);
    free(eos);
    return code;
}

cl_code cl_chat_by_name(const char *name, cl_chat **out, cl_err *err)
{
    *out = NULL;
    for (int i = 0; i < chat_n_formats; i++) {
        const chat_format *f = &chat_formats[i];
        if (strcmp(name, f->name) == 0)
            return made(make(f->name, f->template, f->bos, f->eos, out, err), f->template, out, err);
    }
    const char *near = cl_nearest(name, cl_chat_names(), chat_n_formats);
    if (near) return cl_fail(err, CL_E_USAGE, "chat format '%s': unknown (did you mean %s?)", name, near);
    cl_buf all = {0};
    cl_code code = CL_OK;
    for (int i = 0; code == CL_OK && i < chat_n_formats; i++)
        code = cl_buf_printf(&all, err, "%s%s", i ? ", " : "", chat_formats[i].name);
    if (code == CL_OK) code = cl_fail(err, CL_E_USAGE, "chat format '%s': unknown (there are %s)", name, all.data);
    cl_buf_free(&all);
    return code;
}

const char *const *cl_chat_ends(const cl_chat *c) { return (const char *const *)c->ends; }

/* --- the date --- */

static bool is_day(int year, int month, int day)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1] + (month == 2 && leap);
}

cl_code cl_chat_set_date(cl_chat *c, const char *date, cl_err *err)
{
    static const char shape[] = "dddd-dd-dd";
    bool ok = strlen(date) == CHAT_DATE;
    for (int i = 0; ok && i < CHAT_DATE; i++) ok = shape[i] == 'd' ? date[i] >= '0' && date[i] <= '9' : date[i] == '-';
    if (!ok) return cl_fail(err, CL_E_USAGE, "'%.40s' is not written YYYY-MM-DD", date);
    if (!is_day(atoi(date), atoi(date + 5), atoi(date + 8)))
        return cl_fail(err, CL_E_USAGE, "%s is no day of the calendar", date);
    memcpy(c->date, date, CHAT_DATE + 1);
    return CL_OK;
}

/* --- rendering --- */

jinja_result chat_run(const cl_chat *c, const json_t *messages, const json_t *tools, const json_t *variables,
                      bool add_generation, cl_buf *out, char why[JINJA_WHY])
{
    json_t *vars = variables ? json_copy((json_t *)(uintptr_t)variables) : json_object();
    jinja_result r = JINJA_FAILED;
    snprintf(why, JINJA_WHY, "no memory");
    if (!json_object_get(vars, "documents")) json_object_set_new(vars, "documents", json_null());
    json_object_set(vars, "messages", (json_t *)(uintptr_t)messages);
    json_object_set_new(vars, "tools", tools ? json_incref((json_t *)(uintptr_t)tools) : json_null());
    json_object_set_new(vars, "add_generation_prompt", json_boolean(add_generation));
    json_object_set_new(vars, "bos_token", json_string(c->bos));
    json_object_set_new(vars, "eos_token", json_string(c->eos));
    if (vars) r = jinja_render(c->template, vars, c->date, out, why);
    json_decref(vars);
    return r;
}

/* What the template would leave out without a word is refused. */
static cl_code check_message(const cl_chat *c, const json_t *m, int i, cl_err *err)
{
    char what[CHAT_MARK];
    const char *role = json_string_value(json_object_get(m, "role"));
    if (!role) return cl_fail(err, CL_E_INPUT, "message %d: is no object with a role", i + 1);
    bool system = strcmp(role, "system") == 0;
    chat_what(c, what);
    if (system && c->leaves_out & CHAT_NO_SYSTEM)
        return cl_fail(err, CL_E_INPUT, "%s: message %d: there are no system messages (put it into the user's)", what,
                       i + 1);
    if ((system || strcmp(role, "developer") == 0) && i > 0 && c->leaves_out & CHAT_NO_LATER_SYSTEM)
        return cl_fail(err, CL_E_INPUT, "%s: message %d: a system message must be the first", what, i + 1);
    if (json_array_size(json_object_get(m, "tool_calls")) && c->leaves_out & CHAT_NO_CALLS)
        return cl_fail(err, CL_E_INPUT, "%s: message %d: calls of tools are not known", what, i + 1);
    if (strcmp(role, "tool") == 0 && c->leaves_out & CHAT_NO_ANSWERS)
        return cl_fail(err, CL_E_INPUT, "%s: message %d: answers of tools are not known", what, i + 1);
    return CL_OK;
}

static cl_code check(const cl_chat *c, const json_t *messages, const json_t *tools, cl_err *err)
{
    char what[CHAT_MARK];
    size_t i;
    json_t *m;
    cl_code code = CL_OK;
    if (!json_is_array(messages) || !json_array_size(messages))
        return cl_fail(err, CL_E_INPUT, "messages: there is none");
    if (json_array_size(tools) && c->leaves_out & CHAT_NO_TOOLS)
        return cl_fail(err, CL_E_INPUT, "%s: tools are not known", chat_what(c, what));
    json_array_foreach(messages, i, m) if (code == CL_OK) code = check_message(c, m, (int)i, err);
    return code;
}

cl_code cl_chat_render(const cl_chat *c, const json_t *messages, const json_t *tools, const json_t *variables,
                       bool add_generation, cl_buf *out, cl_err *err)
{
    char why[JINJA_WHY], what[CHAT_MARK];
    size_t before = out->len;
    cl_code code = check(c, messages, tools, err);
    if (code == CL_OK) code = cl_buf_str(out, "", err); /* never NULL, also where nothing is written */
    if (code != CL_OK) return code;
    jinja_result r = chat_run(c, messages, tools, variables, add_generation, out, why);
    if (r == JINJA_OK) return CL_OK;
    out->len = before;
    out->data[before] = 0;
    if (r == JINJA_RAISED) return cl_fail(err, CL_E_INPUT, "%s: %s", chat_what(c, what), why);
    return cl_fail(err, CL_E_INPUT, "%s: fails on these messages: %s (name a format with --chat-format)",
                   chat_what(c, what), why);
}

cl_code cl_chat_render_messages(const cl_chat *c, const cl_message *messages, int n, bool add_generation, cl_buf *out,
                                cl_err *err)
{
    json_t *list = json_array();
    cl_code code = list ? CL_OK : cl_fail(err, CL_E_FIT, "messages: no memory");
    for (int i = 0; code == CL_OK && i < n; i++) {
        const char *role = messages[i].role;
        if (strcmp(role, "system") != 0 && strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0)
            code = cl_fail(err, CL_E_INPUT,
                           "message %d: role '%.40s' is unknown (system, user and assistant are known)", i + 1, role);
        else if (json_array_append_new(list, json_pack("{s:s,s:s}", "role", role, "content", messages[i].content)) != 0)
            code = cl_fail(err, CL_E_INPUT, "message %d: is no valid UTF-8", i + 1);
    }
    if (code == CL_OK) code = cl_chat_render(c, list, NULL, NULL, add_generation, out, err);
    json_decref(list);
    return code;
}
