/* safetensors.h: a checked reader of a Hugging Face folder's weights: model.safetensors, or
 * model.safetensors.index.json and its shards. Layout: the safetensors format's (8 bytes: length of a JSON header, then
 * the header, then all data without holes). Local. */
#ifndef CHIPLINE_IMPORT_SAFETENSORS_H
#define CHIPLINE_IMPORT_SAFETENSORS_H

#include "source.h"

/* Opens the weights of folder dir into *s, which the caller frees (on failure it is empty). All headers are checked
 * against their files: offsets inside, no overlap, no hole, sizes equal to shape times number size; CL_E_INPUT names
 * file and cause. */
cl_code cl_safetensors_open(cl_source *s, const char *dir, cl_err *err);

#endif
