/* ffn.h: the second half of a layer: down( glu(gate x, up x) ), dense or by experts.
 *
 * Inside chip/. */
#ifndef CHIPLINE_CHIP_FFN_H
#define CHIPLINE_CHIP_FFN_H

#include "phases.h"

/* x [p->n][hidden]: read, and the half's result added to it. Experts: router and rows are written, and to chosen
 * [experts] of the layer the tokens are added that chose each; else they are not looked at. */
void ffn_layer(const pass *p, common_buffers *common, ffn_buffers *b, router_buffers *router, expert_rows *rows,
               uint64_t *chosen, float *x);

/* The same, where the layer has experts (experts.c). */
void experts_layer(const pass *p, common_buffers *common, ffn_buffers *b, router_buffers *router, expert_rows *rows,
                   uint64_t *chosen, float *x);

/* gate and up of one MLP, or of a stack of equal ones: the rows that are here; biases [experts][rows] or NULL. */
typedef struct gate_up {
    const cl_matrix *w[2];
    const float *bias[2];
    int64_t row0;
    size_t stride, up_stride; /* of the results: gate's have all columns, up's those of the rows here */
} gate_up;

gate_up gate_up_of(const pass *p, int width, cl_role gate, cl_role up, bool bias, cl_role gate_bias, cl_role up_bias);
/* gate, up and their product, which takes gate's place, for panels p0 .. p1 - 1 of one expert; rows of x: index[0 ..
 * n_index), or all of acts if index is NULL. */
void gated(const pass *p, const gate_up *gu, int64_t expert, int64_t p0, int64_t p1, const cl_acts *in,
           const int32_t *index, int n_index, float *gate, float *up);

/* --- rows of experts (expert_rows.c) --- */

/* Gives every (token, choice) of n tokens its row, rows of one expert together and in order of tokens; counts the
 * choices in chosen. One thread. */
void rows_group(expert_rows *rows, const cl_ffn *f, int n, choice *choices, uint64_t *chosen);
/* Whole experts: who computes which of the touched ones. Only this chip's own stay in `touched`. One thread. */
void rows_deal(expert_rows *rows, const cl_expert_map *map, int member, int members);
/* The next run of panels of one touched expert that is this member's: ranges are equal in estimated time. */
typedef struct expert_run {
    int i;            /* place in touched; begin with -1 */
    int64_t cost;     /* of the touched ones so far; begin with 0 */
    int64_t p0, p1;   /* panels p0 .. p1 - 1 */
    int expert;       /* of the model's layer */
    int32_t first, n; /* its rows: first .. first + n - 1 */
} expert_run;
bool rows_next(const expert_rows *rows, const crew_member *m, int64_t panels, expert_run *run);

#endif
