/* layout.c: the shape of a line: how many stages, how many chips in each. */
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

char *cl_layout_name(const cl_layout *l, char *text, size_t size)
{
    static const char rest[] = "...";
    bool even = !l->layers;
    size_t at = 0;
    if (!size) return text;
    for (int i = 1; i < l->n_stages; i++) even = even && l->chips[i] == l->chips[0];
    for (int i = 0; i < (even ? 1 : l->n_stages); i++) {
        char one[40];
        if (even) snprintf(one, sizeof one, "%dx%d", l->n_stages, l->chips[0]);
        else if (l->layers) snprintf(one, sizeof one, "%s%d:%d", i ? "+" : "", l->chips[i], l->layers[i]);
        else snprintf(one, sizeof one, "%s%d", i ? "+" : "", l->chips[i]);
        size_t n = strlen(one);
        if (at + n < size) {
            memcpy(text + at, one, n);
            at += n;
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
