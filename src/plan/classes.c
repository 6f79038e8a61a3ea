/* classes.c: which chips of a stage are alike. Two are if they have as many rows of every tensor, as many bytes of it,
 * and as many heads; of the layers' tensors only those are looked at that differ. */
#include "classes.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"

/* What a chip has of one tensor. */
typedef struct amount {
    int64_t rows;
    uint64_t bytes;
    int64_t q, kv; /* heads of its layer */
} amount;

static bool alike(const cl_model *m, const cl_tensor *a, const cl_tensor *b)
{
    if (a->role != b->role || a->rows != b->rows || a->cols != b->cols || a->experts != b->experts ||
        a->format != b->format || (a->layer < 0) != (b->layer < 0))
        return false;
    if (a->layer < 0) return true;
    const cl_attention *x = &m->spec.layers[a->layer].attn, *y = &m->spec.layers[b->layer].attn;
    return x->kind == y->kind && x->heads == y->heads && x->kv_heads == y->kv_heads && x->head_dim == y->head_dim;
}

/* Indices of the stage's tensors, one of each kind; returns how many. */
static int different(const cl_model *m, const cl_stage *s, int *list)
{
    int n = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        bool known = !bytes_in_stage(m, s, t);
        for (int k = n - 1; !known && k >= 0; k--) known = alike(m, t, &m->tensors[list[k]]);
        if (!known) list[n++] = i;
    }
    return n;
}

static void measure(const cl_cost_chip *c, const int *list, int n, amount *out)
{
    const cl_spec *spec = &c->model->spec;
    for (int i = 0; i < n; i++) {
        const cl_tensor *t = &c->model->tensors[list[i]];
        out[i] = (amount){.rows = cl_tensor_rows_of(spec, t, c->stage, false, c->member).n, .bytes = bytes_held(c, t)};
        if (t->layer < 0) continue;
        cl_heads h = cl_split_heads(&spec->layers[t->layer].attn, c->stage->n_ranks, c->member);
        out[i].q = h.q, out[i].kv = h.kv;
    }
}

static void sort_out(const cl_model *m, const cl_stage *s, const int *list, int n, amount *known, amount *now,
                     chip_classes *out)
{
    for (int k = 0; k < s->n_ranks; k++) {
        const cl_cost_chip c = {.model = m, .stage = s, .member = k};
        int at = out->n - 1; /* most are like the one before */
        measure(&c, list, n, now);
        while (at >= 0 && memcmp(known + (size_t)at * (size_t)n, now, (size_t)n * sizeof *now)) at--;
        if (at < 0) {
            at = out->n++;
            out->member[at] = k;
            memcpy(known + (size_t)at * (size_t)n, now, (size_t)n * sizeof *now);
        }
        out->chips[at]++;
    }
}

cl_code classes_make(const cl_model *m, const cl_stage *s, const cl_expert_map *experts, chip_classes *out, cl_err *err)
{
    const size_t most = (size_t)s->n_ranks;
    chip_classes c = {.member = cl_malloc(most, sizeof *c.member, "chips that are alike", err),
                      .chips = cl_calloc(most, sizeof *c.chips, "chips that are alike", err)};
    int *list = cl_malloc((size_t)m->n_tensors, sizeof *list, "chips that are alike", err);
    const int n = list && !experts ? different(m, s, list) : 0;
    amount *known = n ? cl_malloc(most + 1, (size_t)n * sizeof *known, "chips that are alike", err) : NULL;
    cl_code code = c.member && c.chips && list && (known || !n) ? CL_OK : CL_E_FIT;
    if (code == CL_OK && n) sort_out(m, s, list, n, known, known + most * (size_t)n, &c);
    for (int k = 0; code == CL_OK && !n && k < s->n_ranks; k++) {
        c.member[c.n] = k;
        c.chips[c.n++] = 1;
    }
    free(list);
    free(known);
    if (code == CL_OK) *out = c;
    else classes_free(&c);
    return code;
}

void classes_free(chip_classes *c)
{
    free(c->member);
    free(c->chips);
    *c = (chip_classes){0};
}
