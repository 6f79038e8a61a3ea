/* route.c: a router's scores, its choice of experts, and their weights. */
#include "route.h"

#include <string.h>

#include "chipline/kernels.h"

/* The order of choice. NaN comes before nothing. */
static bool before(const float *v, int i, int j) { return v[i] > v[j] || (v[i] == v[j] && i < j); }

/* Puts a .. b - 1 into the list of the k best, which holds n; returns how many it holds then. */
static int keep_best(const float *v, int a, int b, int k, int n, int32_t *list)
{
    for (int i = a; i < b; i++) {
        if (n == k && !before(v, i, list[k - 1])) continue;
        int at = n < k ? n++ : k - 1;
        for (; at > 0 && before(v, i, list[at - 1]); at--) list[at] = list[at - 1];
        list[at] = i;
    }
    return n;
}

static void softmax(float *score, int n)
{
    float max = score[0], sum = 0;
    for (int i = 1; i < n; i++) max = score[i] > max ? score[i] : max;
    for (int i = 0; i < n; i++) sum += score[i] = cl_exp(score[i] - max);
    for (int i = 0; i < n; i++) score[i] = score[i] / sum;
}

/* The top_groups best runs into s->run_list; a run's score is its group_best largest, added in descending order. */
static void choose_runs(const cl_ffn *f, const route_scratch *s)
{
    int size = f->experts / f->groups;
    for (int g = 0; g < f->groups; g++) {
        keep_best(s->select, g * size, (g + 1) * size, f->group_best, 0, s->list);
        s->runs[g] = 0;
        for (int j = 0; j < f->group_best; j++) s->runs[g] += s->select[s->list[j]];
    }
    keep_best(s->runs, 0, f->groups, f->top_groups, 0, s->run_list);
}

static void choose_experts(const cl_ffn *f, const route_scratch *s)
{
    if (f->groups <= 1) {
        keep_best(s->select, 0, f->experts, f->top_k, 0, s->list);
        return;
    }
    choose_runs(f, s);
    int size = f->experts / f->groups, n = 0;
    for (int j = 0; j < f->top_groups; j++) {
        int first = s->run_list[j] * size;
        n = keep_best(s->select, first, first + size, f->top_k, n, s->list);
    }
}

void route_choose(const cl_ffn *f, const float *outputs, const float *select_bias, const route_scratch *s, choice *out)
{
    float *score = s->score;
    memcpy(score, outputs, (size_t)f->experts * sizeof *score);
    if (f->scoring == CL_SCORE_SOFTMAX) softmax(score, f->experts);
    if (f->scoring == CL_SCORE_SIGMOID)
        for (int i = 0; i < f->experts; i++) score[i] = 1.0f / (1.0f + cl_exp(-score[i]));
    for (int i = 0; i < f->experts; i++) s->select[i] = select_bias ? score[i] + select_bias[i] : score[i];
    choose_experts(f, s);

    float max = 0, sum = 0;
    for (int j = 0; j < f->top_k; j++) {
        out[j].expert = s->list[j];
        out[j].weight = score[s->list[j]];
        max = j == 0 || out[j].weight > max ? out[j].weight : max;
    }
    if (f->scoring == CL_SCORE_CHOSEN_SOFTMAX) {
        for (int j = 0; j < f->top_k; j++) sum += out[j].weight = cl_exp(out[j].weight - max);
        for (int j = 0; j < f->top_k; j++) out[j].weight = out[j].weight / sum;
    }
    sum = 0;
    for (int j = 0; j < f->top_k; j++) sum += out[j].weight;
    for (int j = 0; j < f->top_k; j++) {
        if (f->renormalise) out[j].weight = out[j].weight / sum;
        out[j].weight = out[j].weight * (float)f->weight_scale;
    }
}
