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
/* Of `all` numbers this chip has made `own`; all go to the first chip. */
cl_exchange exchange_to_first(const walk *w, double all, double own, int makers);
/* Chips that have some of n rows: the first ones. */
int exchange_makers(const walk *w, int64_t n);

#endif
