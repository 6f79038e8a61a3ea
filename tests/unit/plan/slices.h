/* slices.h: what all chips of a placement hold, counted row by row. */
#ifndef CHIPLINE_TESTS_SLICES_H
#define CHIPLINE_TESTS_SLICES_H

#include <string.h>

#include "chipline/plan.h"
#include "suite.h"

/* Bytes of a run of rows, scales of fp8 by the tile. */
static inline uint64_t test_rows_bytes(const cl_tensor *t, int64_t row0, int64_t rows)
{
    if (!rows) return 0;
    if (t->format != CL_FP8) return (uint64_t)rows * cl_row_bytes(t->format, t->cols);
    return (uint64_t)(rows * t->cols + 4 * ((t->cols + 127) / 128) * ((row0 + rows - 1) / 128 - row0 / 128 + 1));
}

static inline bool test_in_stage(const cl_model *m, const cl_stage *s, const cl_tensor *t)
{
    if (t->role == CL_T_EMBED) return s->embed || (s->head && m->spec.tied);
    if (t->layer < 0) return s->head;
    return t->layer >= s->first_layer && t->layer < s->first_layer + s->n_layers;
}

/* How many chips of its stage may hold a row. */
static inline void test_times(const cl_tensor *t, int chips, int *least, int *most)
{
    bool vector = cl_role_is_vector(t->role) || t->role == CL_T_ROUTER;
    bool split_bias = t->role == CL_T_O_BIAS || t->role == CL_T_GATE_BIAS || t->role == CL_T_UP_BIAS ||
                      t->role == CL_T_DOWN_BIAS;
    bool keys = t->role == CL_T_K || t->role == CL_T_V, heads = keys || t->role == CL_T_Q;
    *least = *most = 1;
    if (vector && !split_bias && !cl_role_is_expert(t->role)) *least = *most = chips;
    if (keys || (heads && t->format == CL_FP8)) *most = chips;
}

/* The slices of all chips: canonical order, in range, and together all of the model, each row as often as it should
 * be; bytes as the placement and the costs say. Placements without copies. */
static inline void test_slices(const cl_model *m, const cl_place_options *o, const cl_placement *p)
{
    cl_err err = {0};
    int **times = calloc((size_t)m->n_tensors, sizeof *times);
    for (int stage = 0; stage < p->n_stages; stage++) {
        const cl_stage *s = &p->stages[stage];
        cl_chip_cost all = {0};
        for (int i = 0; i < m->n_tensors; i++)
            times[i] = calloc((size_t)cl_tensor_rows(&m->tensors[i]), sizeof **times);
        for (int rank = s->first_rank; rank < s->first_rank + s->n_ranks; rank++) {
            cl_extent *parts = NULL;
            cl_chip_cost cost;
            int n = 0, wrong = 0;
            uint64_t bytes = 0;
            CU_ASSERT_EQUAL(cl_placement_stage(p, rank), stage);
            CU_ASSERT_EQUAL_FATAL(cl_placement_slice(m, p, rank, &parts, &n, &err), CL_OK);
            CU_ASSERT_EQUAL_FATAL(cl_placement_cost(m, o, p, rank, &cost, &err), CL_OK);
            for (int i = 0; i < n; i++) {
                const cl_extent *x = &parts[i];
                const cl_tensor *t = &m->tensors[x->tensor];
                int64_t stack = t->experts ? t->experts : 1;
                bool same = i && x->tensor == parts[i - 1].tensor;
                if (i && !same && x->tensor < parts[i - 1].tensor) wrong++;
                /* else they were one part */
                if (same && x->expert0 <= parts[i - 1].expert0 + parts[i - 1].experts) wrong++;
                if (!test_in_stage(m, s, t) || x->rows < 1 || x->experts < 1 || x->expert0 < 0 || x->row0 < 0) wrong++;
                if (x->expert0 + x->experts > stack || x->row0 + x->rows > t->rows) wrong++;
                for (int64_t e = x->expert0; !wrong && e < x->expert0 + x->experts; e++)
                    for (int64_t r = x->row0; r < x->row0 + x->rows; r++) times[x->tensor][e * t->rows + r]++;
                bytes += (uint64_t)x->experts * test_rows_bytes(t, x->row0, x->rows);
            }
            CU_ASSERT_EQUAL_FATAL(wrong, 0);
            CU_ASSERT_EQUAL(bytes, cost.weight_bytes);
            all.weight_bytes += cost.weight_bytes, all.kv_bytes += cost.kv_bytes;
            all.token_bytes += cost.token_bytes, all.token_kv_bytes += cost.token_kv_bytes;
            free(parts);
        }
        CU_ASSERT_EQUAL(all.weight_bytes, s->weight_bytes);
        CU_ASSERT_EQUAL(all.kv_bytes, s->kv_bytes);
        CU_ASSERT_EQUAL(all.token_bytes, s->token_bytes);
        CU_ASSERT_EQUAL(all.token_kv_bytes, s->token_kv_bytes);
        for (int i = 0; i < m->n_tensors; i++) {
            int least = 0, most = 0, bad = 0;
            if (test_in_stage(m, s, &m->tensors[i])) test_times(&m->tensors[i], s->n_ranks, &least, &most);
            for (int64_t r = 0; r < cl_tensor_rows(&m->tensors[i]); r++)
                bad += times[i][r] < least || times[i][r] > most;
            CU_ASSERT_EQUAL(bad, 0);
            free(times[i]);
        }
    }
    free(times);
}

#endif
