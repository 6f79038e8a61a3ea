/* route.h: which experts a token goes to, and with what weights.
 *
 * Inside chip/. A pure function of one token's router output. */
#ifndef CHIPLINE_CHIP_ROUTE_H
#define CHIPLINE_CHIP_ROUTE_H

#include "chipline/model.h"

/* A token's share of one expert's work. */
typedef struct choice {
    int32_t expert;
    int32_t row; /* its row in gate, up and down: rows are grouped by expert */
    float weight;
} choice;

/* What a choice needs besides its result; each array has one place per expert. */
typedef struct route_scratch {
    float *score;  /* weights, before they are made to sum up */
    float *select; /* what experts are chosen by */
    float *runs;   /* what runs of experts are chosen by */
    int32_t *list, *run_list;
} route_scratch;
enum { ROUTE_NUMBERS = 3, ROUTE_LISTS = 2 };

/* outputs [experts]: the router's, bias included. select_bias [experts] or NULL. out [top_k]: different experts, the
 * best first, whatever the numbers are; rows are left alone. */
void route_choose(const cl_ffn *f, const float *outputs, const float *select_bias, const route_scratch *s, choice *out);

#endif
