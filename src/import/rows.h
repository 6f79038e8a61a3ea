/* rows.h: the bytes of one tensor, from its source to the model file, in runs of a few MB (of a hundred where the
 * source is transposed). */
#ifndef CHIPLINE_IMPORT_ROWS_H
#define CHIPLINE_IMPORT_ROWS_H

#include "chipline/model_file.h"
#include "chipline/util.h"
#include "match.h"

typedef struct cl_stream {
    const cl_source *source;
    const cl_model *model;
    cl_model_writer *writer;
    int jobs;
    cl_progress *progress; /* or NULL */
    uint64_t done;         /* bytes of rows written so far */
    size_t room;           /* bytes for numbers under way; 0: as much as is sensible */
} cl_stream;

/* Tensor `index` of the model, made of o, in the model's format. NaN and infinity are CL_E_INPUT with the source
 * tensor's name.
 */
cl_code cl_stream_tensor(cl_stream *st, int index, const cl_origin *o, cl_err *err);

#endif
