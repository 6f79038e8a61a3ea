/* match.c: canonical tensors to source tensors, by the family's names (match.h). */
#include "match.h"

#include <stdlib.h>
#include <string.h>

#include "chipline/util.h"

enum { SHOWN = 6, MANY = 1000 }; /* names in one message; missing tensors after which nobody looks on */

typedef struct matcher {
    const cl_source *s;
    const cl_family *f;
    const cl_model *model;
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

/* Which outputs of a source matrix are the tensor's rows. */
static void set_view(const matcher *m, const cl_tensor *t, const cl_name *name, bool joined, cl_origin *o)
{
    const cl_attention *a = t->layer >= 0 ? &m->model->spec.layers[t->layer].attn : NULL;
    int64_t outputs = t->rows;
    o->step = 1;
    o->turned = name->turned && !joined && !cl_role_is_vector(t->role); /* quantised ones lie as a product reads them */
    switch (name->take) {
    case CL_TAKE_ALL: break;
    case CL_TAKE_ODD: o->first = 1; /* fall through */
    case CL_TAKE_EVEN: o->step = 2, outputs *= 2; break;
    case CL_TAKE_SECOND: o->first = t->rows; /* fall through */
    case CL_TAKE_FIRST: outputs *= 2; break;
    case CL_TAKE_K_UP: o->turned = true; /* fall through */
    case CL_TAKE_V_UP:
        outputs = a->head_dim - a->rope_dim + a->v_dim;
        if (name->take == CL_TAKE_V_UP) o->first = a->head_dim - a->rope_dim;
    }
    bool up = name->take == CL_TAKE_K_UP || name->take == CL_TAKE_V_UP;
    o->stride = o->turned && !up ? t->cols : outputs;
    o->width = cl_role_is_vector(t->role) ? 1 : up ? a->kv_rank : o->turned ? outputs : t->cols;
}

/* The shape that a part must have: of the view's matrices a stack, one of them, or (kv_b, k_b, v_b) heads one below
 * the other. */
static bool part_fits(const cl_tensor *t, const cl_src_tensor *src, const cl_name *name, const cl_origin *o,
                      bool stacked, int64_t want[3], int *n)
{
    bool heads = t->role == CL_T_K_B || t->role == CL_T_V_B;
    bool up = name->take == CL_TAKE_K_UP || name->take == CL_TAKE_V_UP;
    int64_t flat[2] = {(t->experts ? t->experts : 1) * o->stride, o->width};
    *n = 0;
    if (stacked && !up) want[(*n)++] = t->experts;
    want[(*n)++] = stacked && up ? flat[0] : o->stride;
    if (!cl_role_is_vector(t->role)) want[(*n)++] = o->width;
    return same_shape(src, want, *n) || (heads && same_shape(src, flat, 2));
}

static cl_code check_part(matcher *m, const cl_tensor *t, int part, bool stacked, const cl_name *name,
                          const cl_origin *o)
{
    const cl_src_tensor *src = &m->s->tensors[part];
    int64_t want[3];
    int n;
    char a[CL_SHAPE_TEXT], b[CL_SHAPE_TEXT];
    if (!part_fits(t, src, name, o, stacked, want, &n))
        return cl_fail(m->err, CL_E_INPUT,
                       "tensor %s has the shape %s, the configuration makes it %s (they are of different models)",
                       src->name, cl_shape_text(src->dims, src->n_dims, a), cl_shape_text(want, n, b));
    if (src->format < 0)
        return cl_fail(m->err, CL_E_INPUT,
                       "tensor %s is %s, which cannot be read (use a checkpoint in F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
                       "MXFP4, INT4, FP8, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K)",
                       src->name, src->type);
    if (cl_role_is_vector(t->role) && cl_format_get((cl_format)src->format)->block != 1)
        return cl_fail(m->err, CL_E_INPUT, "tensor %s is %s; a vector must be F32, F16 or BF16", src->name, src->type);
    m->used[part] = true;
    return CL_OK;
}

static int find(const matcher *m, const char *pattern, int layer, int64_t expert, char *name, size_t room)
{
    if (!cl_name_fill(pattern, layer, expert, name, room)) CL_BUG("name pattern %s is too long", pattern);
    return cl_source_find(m->s, name);
}

/* The first of the role's names that is there, or the first at all. Files that hold kv_b as a whole beside its two
 * parts repeat themselves: the whole is not looked at. */
static const cl_name *choose_name(matcher *m, const cl_tensor *t)
{
    char name[CL_SRC_NAME + 1];
    const cl_name *found = NULL, *p;
    for (int i = 0; (p = cl_family_source(m->f, m->gguf, t->role, i)); i++) {
        int at = find(m, p->pattern, t->layer, 0, name, sizeof name);
        if (at < 0) continue;
        if (!found) found = p;
        else if (p->take == CL_TAKE_K_UP || p->take == CL_TAKE_V_UP) m->used[at] = true;
    }
    if (!found) found = cl_family_source(m->f, m->gguf, t->role, 0);
    if (!found) CL_BUG("family %s has no name for %s", m->f->name, t->name);
    return found;
}

static cl_code match_one(matcher *m, const cl_tensor *t, cl_origin *o)
{
    char name[CL_SRC_NAME + 1];
    const cl_name *from = choose_name(m, t);
    bool each = t->experts && cl_name_per_expert(from->pattern);
    int n = each ? (int)t->experts : 1;
    o->parts = cl_calloc((size_t)n, sizeof *o->parts, "tensor parts", m->err);
    if (!o->parts) return CL_E_FIT;
    for (o->n_parts = 0; o->n_parts < n && m->n_missing < MANY; o->n_parts++) {
        int at = find(m, from->pattern, t->layer, o->n_parts, name, sizeof name);
        const cl_src_tensor *src = at < 0 ? NULL : &m->s->tensors[at];
        if (src && o->stride == 0) set_view(m, t, from, src->layout != CL_SRC_ROWS, o);
        cl_code c = src ? check_part(m, t, at, t->experts && !each, from, o)
                        : list_name(&m->missing, m->n_missing++, name, m->err);
        if (c != CL_OK) return c;
        o->parts[o->n_parts] = at;
        const cl_src_tensor *first = o->parts[0] < 0 ? NULL : &m->s->tensors[o->parts[0]];
        if (src && first && (src->format != first->format || src->layout != first->layout))
            return cl_fail(m->err, CL_E_INPUT,
                           "tensor %s is %s, the first expert is %s (experts of a layer must be alike)", name,
                           src->type, first->type);
    }
    return CL_OK;
}

/* A tensor of a layer past the last one, by the number after "layers." or "blk.". */
static bool extra_layer(const matcher *m, const char *name)
{
    static const char *const heads[] = {"model.layers.", "blk."};
    for (size_t i = 0; m->f->extra_layers && i < sizeof heads / sizeof *heads; i++) {
        size_t n = strlen(heads[i]);
        if (strncmp(name, heads[i], n) != 0) continue;
        char number[16];
        size_t digits = strspn(name + n, "0123456789");
        int64_t layer;
        if (digits == 0 || digits >= sizeof number || name[n + digits] != '.') return false;
        memcpy(number, name + n, digits);
        number[digits] = 0;
        return cl_parse_int(number, 0, INT32_MAX, &layer) && layer >= m->model->spec.n_layers;
    }
    return false;
}

/* Missing tensors first; those that nobody expects beside them, as they often are the missing ones under another
 * name. */
static cl_code report(matcher *m, const char *skip, int *past)
{
    cl_buf extra = {0};
    int n_extra = 0;
    cl_code c = CL_OK;
    for (int i = 0; i < m->s->n_tensors && c == CL_OK && m->n_missing < MANY; i++) {
        const char *name = m->s->tensors[i].name;
        if (m->used[i] || cl_name_ignored(name) || (skip && strcmp(name, skip) == 0)) continue;
        if (extra_layer(m, name)) ++*past;
        else c = list_name(&extra, n_extra++, name, m->err);
    }
    const char *family = m->f->name;
    if (c == CL_OK && m->n_missing)
        c = cl_fail(m->err, CL_E_INPUT, "%s%d tensor%s missing for a %s model: %s%s%s%s%s",
                    m->n_missing < MANY ? "" : "over ", m->n_missing, m->n_missing == 1 ? " is" : "s are", family,
                    m->missing.data, m->n_missing > SHOWN ? ", ..." : "", n_extra ? "; not expected: " : "",
                    n_extra ? extra.data : "", n_extra > SHOWN ? ", ..." : "");
    else if (c == CL_OK && n_extra)
        c = cl_fail(m->err, CL_E_INPUT, "%d tensor%s no place in a %s model with this configuration: %s%s", n_extra,
                    n_extra == 1 ? " has" : "s have", family, extra.data, n_extra > SHOWN ? ", ..." : "");
    cl_buf_free(&extra);
    return c;
}

cl_code cl_match(const cl_source *s, const cl_family *f, bool gguf, const cl_model *model, const char *skip,
                 cl_origin **out, int *extra, cl_err *err)
{
    matcher m = {.s = s, .f = f, .model = model, .gguf = gguf, .err = err};
    *extra = 0;
    cl_origin *o = cl_calloc((size_t)model->n_tensors, sizeof *o, "tensor origins", err);
    m.used = cl_calloc((size_t)s->n_tensors, sizeof *m.used, "tensor marks", err);
    cl_code c = o && m.used ? CL_OK : CL_E_FIT;
    for (int i = 0; i < model->n_tensors && c == CL_OK && m.n_missing < MANY; i++) {
        const cl_tensor *t = &model->tensors[i];
        bool rotated = t->role == CL_T_Q || t->role == CL_T_K || t->role == CL_T_Q_BIAS || t->role == CL_T_K_BIAS;
        if (gguf && f->gguf_pairs && rotated) o[i].head_dim = model->spec.layers[t->layer].attn.head_dim;
        c = match_one(&m, t, &o[i]);
    }
    if (c == CL_OK) c = report(&m, skip, extra);
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

bool cl_origin_keeps(const cl_source *s, const cl_tensor *t, const cl_origin *o)
{
    const cl_src_tensor *src = &s->tensors[o->parts[0]];
    cl_format f = (cl_format)src->format;
    int64_t tile = cl_format_tile_rows(f);
    if (tile == 1) return !o->turned || cl_format_get(f)->block == 1;
    /* Tiles are as wide as they are high: they may be transposed, but not cut. Those of a stack begin with each
     * matrix. */
    bool begins = o->stride % tile == 0 || src->n_dims == 3 || o->n_parts > 1 || t->experts <= 1;
    return o->head_dim == 0 && o->step == 1 && o->first % tile == 0 && begins;
}
