/* jinja_render.h: a template rendered for a test; what it takes from jansson it gives back, also where it fails. */
#ifndef CHIPLINE_TEST_JINJA_RENDER_H
#define CHIPLINE_TEST_JINJA_RENDER_H

#include "jinja.h"
#include "suite.h"

static long json_blocks; /* in use */

static inline void *counted_malloc(size_t n)
{
    void *p = malloc(n);
    json_blocks += p != NULL;
    return p;
}

static inline void counted_free(void *p)
{
    json_blocks -= p != NULL;
    free(p);
}

static inline int run_counted(const char *name, CU_TestInfo *tests)
{
    json_set_alloc_funcs(counted_malloc, counted_free);
    return run_suite(name, tests);
}

static inline jinja_result render(const char *template, const json_t *vars, const char *date, cl_buf *out,
                                  char why[JINJA_WHY])
{
    long before = json_blocks;
    jinja *t = jinja_compile(template, why);
    jinja_result r = t ? jinja_render(t, vars, date, out, why) : JINJA_FAILED;
    jinja_free(t);
    if (json_blocks != before) fprintf(stderr, "%.200s: %ld blocks are left\n", template, json_blocks - before);
    CU_ASSERT_EQUAL(json_blocks, before);
    return r;
}

/* x = 3, s = " Text ", l = [1, 2, 3], o = {"k": "v"}, nothing = none */
static inline json_t *some_variables(void)
{
    return json_pack("{s:i,s:s,s:[iii],s:{s:s},s:n}", "x", 3, "s", " Text ", "l", 1, 2, 3, "o", "k", "v", "nothing");
}

/* What a template gives for them; NULL: nothing, it is not understood or raises. */
static inline bool gives(const char *template, const char *want)
{
    json_t *vars = some_variables();
    cl_buf out = {0};
    char why[JINJA_WHY];
    jinja_result r = render(template, vars, "2001-02-03", &out, why);
    bool ok = want ? r == JINJA_OK && strcmp(out.data ? out.data : "", want) == 0 : r != JINJA_OK && *why;
    if (!ok)
        fprintf(stderr, "%.200s: '%.200s' (%d %s) instead of '%s'\n", template, out.data ? out.data : "", (int)r, why,
                want ? want : "(nothing)");
    cl_buf_free(&out);
    json_decref(vars);
    return ok;
}

#endif
