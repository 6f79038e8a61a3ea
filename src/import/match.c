/* match.c: canonical tensors to source tensors, by the family's names (match.h). */
#include "match.h"

#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"

enum { SHOWN = 6, MANY = 1000 }; /* names in one message; missing tensors after which nobody looks on */

typedef struct matcher {
    const cl_source *s;
    const cl_family *f;
    bool gguf;
    bool *used; /* per source tensor */
    cl_buf missing;
    int n_missing;
    cl_err *err;
} matcher;

static cl_code list_name(cl_buf *b, int n, const char *name, cl_err *err)
{
    return n < SHOWN ? cl_buf_printf(b, err, "%s%s", n ? ", " : "", name) : CL_OK;
}

/* Shapes are compared without leading ones: GGUF writers drop them. */
static bool same_shape(const cl_src_tensor *t, const int64_t *want, int n)
{
    const int64_t *have = t->dims;
    int m = t->n_dims;
    while (m > 1 && *have == 1) have++, m--;
    while (n > 1 && *want == 1) want++, n--;
    return m == n && memcmp(have, want, (size_t)n * sizeof *want) == 0;
}

static cl_code check_part(matcher *m, const cl_tensor *t, int part, bool stacked)
{
    const cl_src_tensor *src = &m->s->tensors[part];
    bool vector = !cl_role_is_matrix(t->role) && t->role != CL_T_ROUTER;
    int64_t want[3];
    int n = 0;
    char a[CL_SHAPE_TEXT], b[CL_SHAPE_TEXT];
    if (stacked) want[n++] = t->experts;
    want[n++] = t->rows;
    if (!vector) want[n++] = t->cols;
    if (!same_shape(src, want, n))
        return cl_fail(m->err, CL_E_INPUT,
                       "tensor %s has the shape %s, the configuration makes it %s (they are of different models)", src->name,
                       cl_shape_text(src->dims, src->n_dims, a), cl_shape_text(want, n, b));
    if (src->format < 0)
        return cl_fail(m->err, CL_E_INPUT,
                       "tensor %s is %s, which cannot be read (use a checkpoint in F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
                       "MXFP4, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K)",
                       src->name, src->type);
    if (vector && cl_format_get((cl_format)src->format)->block != 1)
        return cl_fail(m->err, CL_E_INPUT, "tensor %s is %s; a vector must be F32, F16 or BF16", src->name, src->type);
    m->used[part] = true;
    return CL_OK;
}

static int find(const matcher *m, const char *pattern, int layer, int64_t expert, char *name, size_t room)
{
    if (!cl_name_fill(pattern, layer, expert, name, room)) CL_BUG("name pattern %s is too long", pattern);
    return cl_source_find(m->s, name);
}

static cl_code match_one(matcher *m, const cl_tensor *t, cl_origin *o)
{
    char name[CL_SRC_NAME + 1];
    const char *pattern = NULL, *p;
    for (int i = 0; (p = cl_family_name(m->f, m->gguf, t->role, i)) && !pattern; i++)
        if (find(m, p, t->layer, 0, name, sizeof name) >= 0) pattern = p;
    if (!pattern) pattern = cl_family_name(m->f, m->gguf, t->role, 0);
    if (!pattern) CL_BUG("family %s has no name for %s", m->f->name, t->name);
    bool each = t->experts && cl_name_per_expert(pattern);
    int n = each ? (int)t->experts : 1;
    o->parts = cl_calloc((size_t)n, sizeof *o->parts, "tensor parts", m->err);
    if (!o->parts) return CL_E_FIT;
    for (o->n_parts = 0; o->n_parts < n && m->n_missing < MANY; o->n_parts++) {
        int at = find(m, pattern, t->layer, o->n_parts, name, sizeof name);
        cl_code c = at < 0 ? list_name(&m->missing, m->n_missing++, name, m->err) : check_part(m, t, at, t->experts && !each);
        if (c != CL_OK) return c;
        o->parts[o->n_parts] = at;
        if (at >= 0 && o->parts[0] >= 0 && m->s->tensors[at].format != m->s->tensors[o->parts[0]].format)
            return cl_fail(m->err, CL_E_INPUT, "tensor %s is %s, the first expert is %s (experts of a layer must be alike)", name,
                           m->s->tensors[at].type, m->s->tensors[o->parts[0]].type);
    }
    return CL_OK;
}

/* Missing tensors first; those that nobody expects beside them, as they often are the missing ones under another name. */
static cl_code report(matcher *m, const char *skip)
{
    cl_buf extra = {0};
    int n_extra = 0;
    cl_code c = CL_OK;
    for (int i = 0; i < m->s->n_tensors && c == CL_OK && m->n_missing < MANY; i++) {
        const char *name = m->s->tensors[i].name;
        if (m->used[i] || cl_name_ignored(name) || (skip && strcmp(name, skip) == 0)) continue;
        c = list_name(&extra, n_extra++, name, m->err);
    }
    const char *family = m->f->name;
    if (c == CL_OK && m->n_missing)
        c = cl_fail(m->err, CL_E_INPUT, "%s%d tensor%s missing for a %s model: %s%s%s%s%s", m->n_missing < MANY ? "" : "over ",
                    m->n_missing, m->n_missing == 1 ? " is" : "s are", family, m->missing.data,
                    m->n_missing > SHOWN ? ", ..." : "", n_extra ? "; not expected: " : "", n_extra ? extra.data : "",
                    n_extra > SHOWN ? ", ..." : "");
    else if (c == CL_OK && n_extra)
        c = cl_fail(m->err, CL_E_INPUT, "%d tensor%s no place in a %s model with this configuration: %s%s", n_extra,
                    n_extra == 1 ? " has" : "s have", family, extra.data, n_extra > SHOWN ? ", ..." : "");
    cl_buf_free(&extra);
    return c;
}

cl_code cl_match(const cl_source *s, const cl_family *f, bool gguf, const cl_model *model, const char *skip, cl_origin **out,
                 cl_err *err)
{
    matcher m = {.s = s, .f = f, .gguf = gguf, .err = err};
    cl_origin *o = cl_calloc((size_t)model->n_tensors, sizeof *o, "tensor origins", err);
    m.used = cl_calloc((size_t)s->n_tensors, sizeof *m.used, "tensor marks", err);
    cl_code c = o && m.used ? CL_OK : CL_E_FIT;
    for (int i = 0; i < model->n_tensors && c == CL_OK && m.n_missing < MANY; i++) {
        const cl_tensor *t = &model->tensors[i];
        bool rotated = t->role == CL_T_Q || t->role == CL_T_K || t->role == CL_T_Q_BIAS || t->role == CL_T_K_BIAS;
        if (gguf && f->gguf_pairs && rotated) o[i].head_dim = model->spec.layers[t->layer].attn.head_dim;
        c = match_one(&m, t, &o[i]);
    }
    if (c == CL_OK) c = report(&m, skip);
    free(m.used);
    cl_buf_free(&m.missing);
    if (c == CL_OK) *out = o;
    else cl_origins_free(o, model->n_tensors);
    return c;
}

void cl_origins_free(cl_origin *o, int n)
{
    for (int i = 0; o && i < n; i++) free(o[i].parts);
    free(o);
}
