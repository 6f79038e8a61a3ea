/* model_arg.h: commands that take MODEL.h5 | CONFIG.json: a model's spec and tensors, without its weights. */
#ifndef CHIPLINE_MODEL_ARG_H
#define CHIPLINE_MODEL_ARG_H

#include "chipline/model_file.h"

typedef struct model_arg {
    cl_model model;      /* own copy */
    cl_model_file *file; /* NULL: from a config */
} model_arg;
/* A model file, or a config.json (or a folder with one): then the matrices are in the config's own number format. */
cl_code model_arg_open(const char *path, model_arg *out, cl_err *err);
void model_arg_close(model_arg *a);

#endif
