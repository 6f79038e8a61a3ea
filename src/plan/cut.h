/* cut.h: inside plan/: a line of uneven stages cut into runs of layers. */
#ifndef CHIPLINE_PLAN_CUT_H
#define CHIPLINE_PLAN_CUT_H

#include "chipline/plan.h"

/* What a layer adds to one chip; embedding and head are added to the first and last layer. */
typedef struct cut_cost {
    uint64_t held;    /* weights and cache */
    uint64_t touched; /* by one token */
} cut_cost;

/* The costs on a stage of so many chips, for one of those that are alike each. A tied table is in them twice: first and
 * last stage hold it. */
typedef struct cut_table {
    int chips, columns, layers;
    cut_cost *cost; /* [layers][columns] */
} cut_table;
/* CL_E_FIT too if the sums are larger than any address space. */
cl_code cut_table_make(const cl_model *m, const cl_place_options *o, int chips, cut_table *out, cl_err *err);
void cut_table_free(cut_table *t);
/* Fewest stages like this one that hold everything, each chip at most `held` bytes; over the number of layers:
 * impossible. */
cl_code cut_fewest(const cut_table *t, uint64_t held, int *stages, cl_err *err);

/* Tables of stages of equal size are one. */
typedef struct cut_line {
    int n_layers, n_stages, n_tables;
    cut_table *tables;
    int *table; /* [n_stages] */
    /* workspace */
    cut_cost *sum;   /* [columns of the widest table] */
    int *far;        /* [n_tables][n_layers] */
    bool *from, *to; /* [n_layers + 1] */
} cut_line;
cl_code cut_line_make(const cl_model *m, const cl_place_options *o, const cl_layout *l, cut_line *out, cl_err *err);
void cut_line_free(cut_line *c);
/* The smallest limit on the bytes that a token touches on any chip; false if memory alone forbids every cut. */
bool cut_least(const cut_line *c, uint64_t held, cut_cost *limit);
/* The smallest number of bytes per chip with which there is a cut. */
uint64_t cut_least_held(const cut_line *c);
/* Among the cuts within the limits the one with the smallest sum of squares of the stages' busiest chips: end[s] is
 * the layer after stage s. There must be one. */
cl_code cut_even(const cut_line *c, cut_cost limit, int *end, cl_err *err);

#endif
