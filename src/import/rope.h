/* rope.h: rotary tables: inv_freq from base and scaling. Formulas: transformers'
 * modeling_rope_utils.py. */
#ifndef CHIPLINE_IMPORT_ROPE_H
#define CHIPLINE_IMPORT_ROPE_H

#include "chipline/model.h"

typedef enum cl_rope_kind { CL_ROPE_PLAIN, CL_ROPE_LINEAR, CL_ROPE_LLAMA3, CL_ROPE_YARN } cl_rope_kind;

typedef struct cl_rope_params {
    cl_rope_kind kind;
    int dims;
    double theta;
    double factor;               /* all but plain */
    double original_context;     /* llama3, yarn */
    double low_freq, high_freq;  /* llama3 */
    double beta_fast, beta_slow; /* yarn */
    double attention_factor;     /* yarn; 0: from factor and mscale */
    double mscale, mscale_all;   /* yarn; 0: absent */
    bool truncate;               /* yarn */
} cl_rope_params;

/* YaRN's factor for amplitudes: 1 + 0.1 m ln(factor), 1 where factor is at most 1. */
double cl_rope_mscale(double factor, double m);

/* Fills *out (half-split pairing); inv_freq is malloced. Numbers out of range are CL_E_INPUT. */
cl_code cl_rope_make(const cl_rope_params *p, cl_rope *out, cl_err *err);

#endif
