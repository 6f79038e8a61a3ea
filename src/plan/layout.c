/* layout.c: the shape of a line: how many stages, how many chips in each. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "chipline/plan.h"
#include "chipline/util.h"

enum { MAX_CHIPS = 1 << 20 };

cl_code cl_layout_make(int stages, int chips, cl_layout *out, cl_err *err)
{
    if (stages < 1 || chips < 1 || (int64_t)stages * chips > MAX_CHIPS)
        return cl_fail(err, CL_E_USAGE, "layout %dx%d: both must be at least 1, and all chips together at most %d",
                       stages, chips, MAX_CHIPS);
    cl_layout l = {.n_stages = stages, .chips = cl_malloc((size_t)stages, sizeof *l.chips, "layout", err)};
    if (!l.chips) return CL_E_FIT;
    for (int i = 0; i < stages; i++) l.chips[i] = chips;
    *out = l;
    return CL_OK;
}

cl_code cl_layout_share(int stages, int chips, cl_layout *out, cl_err *err)
{
    if (stages < 1 || chips < stages)
        return cl_fail(err, CL_E_USAGE, "layout: %d chips for %d stages (each needs one)", chips, stages);
    cl_code c = cl_layout_make(stages, chips / stages, out, err);
    for (int i = stages - chips % stages; c == CL_OK && i < stages; i++) out->chips[i]++;
    return c;
}

/* One term of a name, "SxG" or "G"; false: it is none. */
static bool read_term(const char **at, int64_t *stages, int64_t *chips)
{
    char *end;
    if (!isdigit((unsigned char)**at)) return false;
    *stages = 1;
    *chips = strtoll(*at, &end, 10);
    if (*end == 'x' && isdigit((unsigned char)end[1])) {
        *stages = *chips;
        *chips = strtoll(end + 1, &end, 10);
    }
    *at = end;
    return !*end || *end == '+';
}

bool cl_layout_is_name(const char *text)
{
    int64_t stages, chips;
    const char *at = text;
    do
        if (!read_term(&at, &stages, &chips)) return false;
    while (*at++);
    return strpbrk(text, "x+") != NULL; /* a number alone may be a file */
}

cl_code cl_layout_from_name(const char *name, cl_layout *out, cl_err *err)
{
    cl_layout l = {.chips = cl_malloc(MAX_CHIPS, sizeof *l.chips, "layout", err)};
    int64_t stages = 0, chips = 0, all = 0;
    const char *at = name;
    if (!l.chips) return CL_E_FIT;
    do {
        bool right = read_term(&at, &stages, &chips) && stages >= 1 && chips >= 1 && stages <= MAX_CHIPS &&
                     chips <= MAX_CHIPS && (all += stages * chips) <= MAX_CHIPS;
        if (!right) {
            cl_layout_free(&l);
            return cl_fail(err, CL_E_USAGE, "layout %s: both must be at least 1, and all chips together at most %d",
                           name, MAX_CHIPS);
        }
        for (int64_t i = 0; i < stages; i++) l.chips[l.n_stages++] = (int)chips;
    } while (*at++);
    int *fewer = realloc(l.chips, (size_t)l.n_stages * sizeof *l.chips);
    if (fewer) l.chips = fewer;
    *out = l;
    return CL_OK;
}

static cl_code known_keys(const json_t *object, const char *const *known, int n, cl_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        bool found = false;
        for (int i = 0; i < n; i++) found = found || strcmp(key, known[i]) == 0;
        if (found) continue;
        const char *near = cl_nearest(key, known, n);
        return cl_fail(err, CL_E_INPUT, "%s: is not known here%s%s%s", key, near ? " (did you mean " : "",
                       near ? near : "", near ? "?)" : "");
    }
    return CL_OK;
}

/* One stage: *chips, and *layers or 0 if it has no number of layers. */
static cl_code read_stage(const json_t *j, int64_t *chips, int64_t *layers, cl_err *err)
{
    static const char *const known[] = {"chips", "layers"};
    *layers = 0;
    if (!json_is_object(j)) return cl_fail(err, CL_E_INPUT, "is not an object like {\"chips\": 2, \"layers\": 8}");
    cl_code c = known_keys(j, known, 2, err);
    if (c == CL_OK) c = cl_json_int(j, "chips", true, 1, MAX_CHIPS, chips, err);
    if (c == CL_OK) c = cl_json_int(j, "layers", false, 1, MAX_CHIPS, layers, err);
    return c;
}

cl_code cl_layout_from_json(const json_t *j, cl_layout *out, cl_err *err)
{
    static const char *const known[] = {"stages"};
    const json_t *stages = NULL;
    if (!json_is_object(j)) return cl_fail(err, CL_E_INPUT, "is not an object like {\"stages\": [{\"chips\": 2}]}");
    cl_code c = known_keys(j, known, 1, err);
    if (c == CL_OK) c = cl_json_array(j, "stages", true, &stages, err);
    if (c != CL_OK) return c;
    size_t n = json_array_size(stages);
    int64_t all = 0;
    if (n < 1 || n > MAX_CHIPS) return cl_fail(err, CL_E_INPUT, "stages: %zu of them (from 1 to %d)", n, MAX_CHIPS);
    cl_layout l = {.n_stages = (int)n};
    l.chips = cl_malloc(n, sizeof *l.chips, "layout", err);
    l.layers = cl_malloc(n, sizeof *l.layers, "layout", err);
    if (!l.chips || !l.layers) c = CL_E_FIT;
    for (size_t i = 0; c == CL_OK && i < n; i++) {
        int64_t chips, layers;
        c = read_stage(json_array_get(stages, i), &chips, &layers, err);
        if (c != CL_OK) {
            cl_fail_prefix(err, "stages[%zu]", i);
            break;
        }
        l.chips[i] = (int)chips;
        l.layers[i] = (int)layers;
        if ((all += chips) > MAX_CHIPS) c = cl_fail(err, CL_E_INPUT, "stages: over %d chips", MAX_CHIPS);
        else if ((layers > 0) != (l.layers[0] > 0))
            c = cl_fail(err, CL_E_INPUT, "stages[%zu] %s layers, stages[0] %s (give them for all stages or for none)",
                        i, layers ? "has" : "has no", layers ? "has none" : "has");
    }
    if (c != CL_OK) {
        cl_layout_free(&l);
        return c;
    }
    if (!l.layers[0]) {
        free(l.layers);
        l.layers = NULL;
    }
    *out = l;
    return CL_OK;
}

cl_code cl_layout_copy(const cl_layout *from, cl_layout *to, cl_err *err)
{
    size_t n = (size_t)from->n_stages;
    cl_layout l = {.n_stages = from->n_stages, .chips = cl_malloc(n, sizeof *l.chips, "layout", err)};
    if (l.chips && from->layers) l.layers = cl_malloc(n, sizeof *l.layers, "layout", err);
    if (!l.chips || (from->layers && !l.layers)) {
        cl_layout_free(&l);
        return CL_E_FIT;
    }
    memcpy(l.chips, from->chips, n * sizeof *l.chips);
    if (l.layers) memcpy(l.layers, from->layers, n * sizeof *l.layers);
    *to = l;
    return CL_OK;
}

void cl_layout_free(cl_layout *l)
{
    free(l->chips);
    free(l->layers);
    *l = (cl_layout){0};
}

int cl_layout_chips(const cl_layout *l)
{
    int n = 0;
    for (int i = 0; i < l->n_stages; i++) n += l->chips[i];
    return n;
}

/* Stages from i on that are alike; with layers none is like another. */
static int alike(const cl_layout *l, int i)
{
    int n = 1;
    while (!l->layers && i + n < l->n_stages && l->chips[i + n] == l->chips[i]) n++;
    return n;
}

char *cl_layout_name(const cl_layout *l, char *text, size_t size)
{
    static const char rest[] = "...";
    size_t at = 0;
    if (!size) return text;
    for (int i = 0, n; i < l->n_stages; i += n) {
        const char *plus = i ? "+" : "";
        char one[40];
        n = alike(l, i);
        if (l->layers) snprintf(one, sizeof one, "%s%d:%d", plus, l->chips[i], l->layers[i]);
        else if (n == 1 && l->n_stages > 1) snprintf(one, sizeof one, "%s%d", plus, l->chips[i]);
        else snprintf(one, sizeof one, "%s%dx%d", plus, n, l->chips[i]);
        const size_t length = strlen(one);
        if (at + length < size) {
            memcpy(text + at, one, length);
            at += length;
            continue;
        }
        size_t dots = size - 1 < sizeof rest - 1 ? size - 1 : sizeof rest - 1; /* cut short: the end says so */
        at = at + dots < size ? at : size - 1 - dots;
        memcpy(text + at, rest, dots);
        at += dots;
        break;
    }
    text[at] = 0;
    return text;
}
