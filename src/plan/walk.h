/* walk.h: inside plan/: one walk through the phases of a chip; phases.c walks, exchanges.c ends the phases. */
#ifndef CHIPLINE_PLAN_WALK_H
#define CHIPLINE_PLAN_WALK_H

#include "chipline/cost.h"

typedef struct walk {
    const cl_cost_chip *c;
    const cl_cost_step *s;
    const cl_spec *spec;
    int members;
    void (*phase)(void *ctx, const cl_phase *p);
    void *ctx;
    /* the tokens at hand: all, or a tile */
    double tokens;
    bool all;
    int64_t from, to; /* a tile's: which of the micro-batch's */
    /* the layer at hand */
    double experts, rows; /* read, computed: of cl_cost_routed */
} walk;

/* This chip's part of n rows. */
static inline cl_range walk_rows(const walk *w, int64_t n) { return cl_split_rows(n, w->members, w->c->member); }

/* Stages of several chips; for the tokens at hand. */
void exchange_attention(const walk *w, const cl_attention *a, cl_phase p[CL_PHASES]);
void exchange_ffn(const walk *w, int layer, cl_phase p[CL_PHASES]);
cl_exchange exchange_embedded(const walk *w);
/* To the first chip: the chips' parts of n rows, for so many tokens; so many numbers of each chip. */
cl_exchange exchange_rows_to_first(const walk *w, int64_t n, double tokens);
cl_exchange exchange_numbers_to_first(const walk *w, double numbers);

#endif
