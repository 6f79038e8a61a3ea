/* plan_cli.h: what `chipline plan` is asked for and what it found; plan.c finds, plan_print.c prints. */
#ifndef CHIPLINE_PLAN_CLI_H
#define CHIPLINE_PLAN_CLI_H

#include "chipline/cost.h"
#include "chipline/run.h"
#include "cli.h"

typedef struct plan_cli {
    cl_err *err;
    const char *model, *chip, *cluster;
    int ranks, goal;    /* 0: not said */
    cl_layout layout;   /* no stages: not said */
    cl_run_options run; /* of the run that this is the placement of: lengths, cache, experts, replicas */
    bool explain, json;
} plan_cli;

typedef struct plan_found {
    cl_place_options options;
    cl_buffer_count buffers; /* for the budget */
    cl_layout layout;
    cl_placement placement;
    bool at_most;       /* the list is of lines that may leave some of them over */
    int available;      /* chips of the cluster; 0: nobody knows */
    cl_routing routing; /* --routing; its table is `chosen` */
    uint64_t *chosen;
    cl_chip_cost *chips; /* [placement.n_ranks] */
    const cl_model *model;
    uint64_t touched; /* by a token, all chips together */
    cl_rates rates;
    bool read_assumed, gather_assumed, links_assumed;
    cl_goal goal;
    cl_prediction predicted;
    cl_alternative *list; /* with --explain */
    int n_list;
} plan_found;

void plan_print_json(const plan_cli *o, const plan_found *f);
void plan_print_text(const plan_cli *o, const plan_found *f);

#endif
