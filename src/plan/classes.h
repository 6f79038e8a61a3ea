/* classes.h: inside plan/: chips of a stage that hold and compute the same amounts: one of them stands for all. */
#ifndef CHIPLINE_PLAN_CLASSES_H
#define CHIPLINE_PLAN_CLASSES_H

#include "chipline/cost.h"

typedef struct chip_classes {
    int n;
    int32_t *member; /* [n] the first chip of each class, ascending */
    int32_t *chips;  /* [n] how many there are of it */
} chip_classes;

/* Of a stage's chips, where experts are sliced; with whole ones (maps) every chip is a class of its own. */
cl_code classes_make(const cl_model *m, const cl_stage *s, const cl_expert_map *experts, chip_classes *out,
                     cl_err *err);
void classes_free(chip_classes *c);

#endif
