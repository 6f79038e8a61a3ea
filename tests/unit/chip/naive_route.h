/* naive_route.h: the choice of experts in double precision, written from model.h's comments alone: everything is
 * sorted. */
#ifndef CHIPLINE_TEST_NAIVE_ROUTE_H
#define CHIPLINE_TEST_NAIVE_ROUTE_H

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "chipline/model.h"

enum { NAIVE_EXPERTS = 512 };

typedef struct naive_item {
    double score;
    int index;
} naive_item;

static int naive_order(const void *a, const void *b)
{
    const naive_item *x = a, *y = b;
    return x->score != y->score ? (x->score > y->score ? -1 : 1) : x->index - y->index;
}

/* l [experts]: the router's outputs; bias [experts] or NULL. chosen [top_k], best first, and their weights. */
static inline void naive_route(const cl_ffn *f, const double *l, const double *bias, int *chosen, double *weight)
{
    double score[NAIVE_EXPERTS], all = 0, sum = 0;
    naive_item pick[NAIVE_EXPERTS], runs[NAIVE_EXPERTS];
    for (int e = 0; e < f->experts; e++) all += exp(l[e]);
    for (int e = 0; e < f->experts; e++) {
        score[e] = f->scoring == CL_SCORE_SOFTMAX   ? exp(l[e]) / all
                   : f->scoring == CL_SCORE_SIGMOID ? 1 / (1 + exp(-l[e]))
                                                    : l[e];
        pick[e] = (naive_item){score[e] + (bias ? bias[e] : 0), e};
    }
    if (f->groups > 1) {
        int size = f->experts / f->groups;
        for (int g = 0; g < f->groups; g++) {
            naive_item run[NAIVE_EXPERTS];
            for (int i = 0; i < size; i++) run[i] = pick[g * size + i];
            qsort(run, (size_t)size, sizeof *run, naive_order);
            runs[g] = (naive_item){0, g};
            for (int i = 0; i < f->group_best; i++) runs[g].score += run[i].score;
        }
        qsort(runs, (size_t)f->groups, sizeof *runs, naive_order);
        for (int g = f->top_groups; g < f->groups; g++)
            for (int i = 0; i < size; i++) pick[runs[g].index * size + i].score = -INFINITY;
    }
    qsort(pick, (size_t)f->experts, sizeof *pick, naive_order);
    for (int j = 0; j < f->top_k; j++) {
        chosen[j] = pick[j].index;
        weight[j] = f->scoring == CL_SCORE_CHOSEN_SOFTMAX ? exp(score[chosen[j]]) : score[chosen[j]];
        sum += weight[j];
    }
    for (int j = 0; j < f->top_k; j++)
        weight[j] *= f->weight_scale / (f->renormalise || f->scoring == CL_SCORE_CHOSEN_SOFTMAX ? sum : 1);
}

#endif
