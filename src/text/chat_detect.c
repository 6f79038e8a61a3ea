/* chat_detect.c: the format of a checkpoint's template. The template is run on a few conversations; the format whose
 * prompts are the same, byte for byte, is the one. */
#include "chat_internal.h"

#include <stdlib.h>

#include "chat_jinja.h"

enum { MAX_TURNS = 6 };

/* What tells formats apart: who is allowed where, white space, thoughts, the end of the last turn. */
typedef struct probe {
    cl_message m[MAX_TURNS];
    int n;
} probe;
#define S(text)        \
    {                  \
        "system", text \
    }
#define U(text)      \
    {                \
        "user", text \
    }
#define A(text)           \
    {                     \
        "assistant", text \
    }
static const probe probes[] = {
    {{U("Hello there")}, 1},
    {{S("Be brief."), U("Hello there")}, 2},
    {{U("One"), A("Two"), U("Three")}, 3},
    {{S("Be brief."), U("One"), A("Two"), U("Three"), A("Four"), U("Five")}, 6},
    {{S(" \n Be brief.\n\n"), U("\n One \n"), A(" Two\n"), U("\tThree ")}, 4},
    {{U("One"), A("\n Two \n")}, 2},
    {{S("Be brief."), U("One"), A("Two")}, 3},
    {{U("One"), A("<think>\nHm.\n</think>\n\nTwo"), U("Three"), A("<think>\nWell.\n</think>\n\nFour")}, 4},
    {{U("One"), A("<think>Hm.</think>Two</think>\nthree"), U("Three")}, 3},
    {{U("One"), A("Two"), S("Be loud."), U("Three")}, 4},
    {{S("Be"), S("brief."), U("One"), A("Two"), A("Three")}, 5},
    {{U("One"), A("a</think>b</think>c"), A("d"), U("Two"), S("Be loud.")}, 5},
    {{U("na\xc3\xafve \xe6\x97\xa5\xe6\x9c\xac {{ x }} <|x|>")}, 1},
};
#undef S
#undef U
#undef A

/* The template on these messages. Texts that a format does not depend on are given values that would show. */
static cl_jinja_result run(const char *template, const cl_chat_format *f, const cl_message *m, int n, bool generation,
                           cl_buf *out, char why[CL_JINJA_WHY])
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s,s:s}", "role", m[i].role, "content", m[i].content));
    json_t *vars = json_pack("{s:o,s:b,s:n,s:n,s:s,s:s}", "messages", list, "add_generation_prompt", generation,
                             "tools", "documents", "bos_token", *f->bos ? f->bos : "(bos)", "eos_token",
                             f->eos ? f->eos : "(eos)");
    cl_jinja_result r = CL_JINJA_UNKNOWN;
    if (vars) r = cl_jinja_render(template, vars, out, why);
    else snprintf(why, CL_JINJA_WHY, "no memory");
    json_decref(vars);
    return r;
}

/* Whether both write the same for this probe, or both refuse it. */
static bool agree(const char *template, const cl_chat *c, const probe *p, bool generation, char why[CL_JINJA_WHY])
{
    cl_buf ours = {0}, theirs = {0};
    cl_err err;
    cl_code code = cl_chat_render(c, p->m, p->n, generation, &ours, &err);
    cl_jinja_result r = run(template, c->f, p->m, p->n, generation, &theirs, why);
    bool stricter = c->f->system == CL_CHAT_FIRST_BLOCK && r == CL_JINJA_OK;
    bool same = code == CL_OK
                    ? r == CL_JINJA_OK && ours.len == theirs.len && memcmp(ours.data, theirs.data, ours.len) == 0
                    : r == CL_JINJA_RAISED || stricter;
    cl_buf_free(&ours);
    cl_buf_free(&theirs);
    return same;
}

/* What the template puts in front of a lone question, if that is more than what the format writes. */
static cl_code find_default(const char *template, cl_chat *c, cl_err *err)
{
    const cl_message m = {"user", "Hello there"};
    char why[CL_JINJA_WHY];
    size_t n_bos = strlen(c->f->bos);
    cl_buf plain = {0}, theirs = {0};
    cl_code code = cl_chat_render(c, &m, 1, false, &plain, err);
    if (code == CL_OK && run(template, c->f, &m, 1, false, &theirs, why) == CL_JINJA_OK && theirs.len > plain.len &&
        memcmp(theirs.data, plain.data, n_bos) == 0) {
        size_t n = theirs.len - plain.len;
        c->default_block = cl_malloc(n + 1, 1, "chat format", err);
        if (!c->default_block) code = CL_E_FIT;
        else {
            memcpy(c->default_block, theirs.data + n_bos, n);
            c->default_block[n] = 0;
        }
    }
    cl_buf_free(&plain);
    cl_buf_free(&theirs);
    return code;
}

static bool fits(const char *template, const cl_chat *c, char why[CL_JINJA_WHY])
{
    for (size_t k = 0; k < sizeof probes / sizeof *probes; k++)
        if (!agree(template, c, &probes[k], true, why) || !agree(template, c, &probes[k], false, why)) return false;
    return true;
}

/* Tries what templates of one format differ in. */
static bool fits_somehow(const char *template, cl_chat *c)
{
    const unsigned trims[] = {c->f->trim, 7, 0};
    char why[CL_JINJA_WHY];
    memcpy(c->date, CL_CHAT_PROBE_DATE, sizeof c->date);
    for (int k = 0; k < (c->f->any_trim ? 3 : 1); k++)
        for (int opens = 0; opens < 2; opens++) { /* Llama 3's first template does not look at add_generation_prompt */
            c->trim = trims[k];
            c->always_opens = opens;
            if (fits(template, c, why)) return true;
        }
    return false;
}

cl_code cl_chat_detect(const char *template, cl_chat **out, cl_err *err)
{
    *out = NULL;
    for (int i = 0; i < cl_chat_n_formats; i++) {
        cl_chat *c;
        cl_code code = cl_chat_by_name(cl_chat_formats[i].name, &c, err);
        if (code == CL_OK && c->f->may_have_default) code = find_default(template, c, err);
        if (code != CL_OK) {
            cl_chat_free(c);
            return code;
        }
        if (fits_somehow(template, c)) {
            *c->date = 0;
            *out = c;
            return CL_OK;
        }
        cl_chat_free(c);
    }
    cl_buf names = {0};
    cl_code code = CL_OK;
    for (int i = 0; code == CL_OK && i < cl_chat_n_formats; i++)
        code = cl_buf_printf(&names, err, "%s%s", i ? ", " : "", cl_chat_formats[i].name);
    if (code == CL_OK)
        code = cl_fail(err, CL_E_INPUT,
                       "chat template: no format writes what it writes (name one with --chat-format: %s)", names.data);
    cl_buf_free(&names);
    return code;
}
