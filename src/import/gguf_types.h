/* gguf_types.h: the number types of GGUF tensors (ggml's ids; sizes as in gguf-py's GGML_QUANT_SIZES). */
#ifndef CHIPLINE_IMPORT_GGUF_TYPES_H
#define CHIPLINE_IMPORT_GGUF_TYPES_H

#include <stdint.h>

typedef struct cl_gguf_tensor_type {
    char name[16];
    int block, bytes; /* numbers and bytes per block */
    int format;       /* cl_format, or -1: its bytes can be counted, but not decoded here */
} cl_gguf_tensor_type;

/* NULL for an id that is not known. */
const cl_gguf_tensor_type *cl_gguf_tensor_type_get(uint32_t id);

#endif
