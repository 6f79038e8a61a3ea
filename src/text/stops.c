/* stops.c: the stops in a text, and the beginnings of stops at its end. */
#include <stdint.h>
#include <stdlib.h>

#include "chipline/stops.h"
#include "chipline/util.h"

cl_code cl_stops_add(cl_stops *s, const char *text, cl_err *err)
{
    if (!*text) return cl_fail(err, CL_E_INPUT, "stop: is empty");
    const char **more = cl_realloc((void *)(uintptr_t)s->text, (size_t)s->n + 1, sizeof *more, "stop texts", err);
    if (!more) return CL_E_FIT;
    s->text = more;
    if (!(more[s->n] = cl_strdup(text, err))) return CL_E_FIT;
    s->n++;
    return CL_OK;
}

void cl_stops_free(cl_stops *s)
{
    for (int i = 0; i < s->n; i++) free((void *)(uintptr_t)s->text[i]);
    free((void *)(uintptr_t)s->text);
    *s = (cl_stops){0};
}

size_t cl_stops_find(const cl_stops *s, const char *text, size_t n, size_t seen, int *which)
{
    size_t best = SIZE_MAX;
    for (int i = 0; i < s->n; i++) {
        size_t len = strlen(s->text[i]), start = seen >= len ? seen - len + 1 : 0;
        const char *at = n > start ? memmem(text + start, n - start, s->text[i], len) : NULL;
        if (!at || (size_t)(at - text) >= best) continue;
        best = (size_t)(at - text);
        if (which) *which = i;
    }
    return best;
}

size_t cl_stops_unsure(const cl_stops *s, const char *text, size_t n)
{
    size_t most = 0;
    for (int i = 0; i < s->n; i++) {
        size_t k = strlen(s->text[i]) - 1; /* a whole one is no beginning */
        if (k > n) k = n;
        while (k > most && memcmp(text + n - k, s->text[i], k) != 0) k--;
        if (k > most) most = k;
    }
    return most;
}
