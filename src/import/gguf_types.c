/* gguf_types.c: table of ggml's tensor types. */
#include "gguf_types.h"

#include <stddef.h>

#include "chipline/format.h"

static const cl_gguf_tensor_type types[] = {
    [0] = {"F32", 1, 4, CL_F32},
    [1] = {"F16", 1, 2, CL_F16},
    [2] = {"Q4_0", 32, 18, CL_Q4_0},
    [3] = {"Q4_1", 32, 20, CL_Q4_1},
    [6] = {"Q5_0", 32, 22, CL_Q5_0},
    [7] = {"Q5_1", 32, 24, CL_Q5_1},
    [8] = {"Q8_0", 32, 34, CL_Q8_0},
    [9] = {"Q8_1", 32, 40, -1},
    [10] = {"Q2_K", 256, 84, -1},
    [11] = {"Q3_K", 256, 110, -1},
    [12] = {"Q4_K", 256, 144, CL_Q4_K},
    [13] = {"Q5_K", 256, 176, CL_Q5_K},
    [14] = {"Q6_K", 256, 210, CL_Q6_K},
    [15] = {"Q8_K", 256, 292, -1},
    [16] = {"IQ2_XXS", 256, 66, -1},
    [17] = {"IQ2_XS", 256, 74, -1},
    [18] = {"IQ3_XXS", 256, 98, -1},
    [19] = {"IQ1_S", 256, 50, -1},
    [20] = {"IQ4_NL", 32, 18, -1},
    [21] = {"IQ3_S", 256, 110, -1},
    [22] = {"IQ2_S", 256, 82, -1},
    [23] = {"IQ4_XS", 256, 136, -1},
    [24] = {"I8", 1, 1, -1},
    [25] = {"I16", 1, 2, -1},
    [26] = {"I32", 1, 4, -1},
    [27] = {"I64", 1, 8, -1},
    [28] = {"F64", 1, 8, -1},
    [29] = {"IQ1_M", 256, 56, -1},
    [30] = {"BF16", 1, 2, CL_BF16},
    [34] = {"TQ1_0", 256, 54, -1},
    [35] = {"TQ2_0", 256, 66, -1},
    [39] = {"MXFP4", 32, 17, CL_MXFP4},
    [40] = {"NVFP4", 64, 36, -1},
};

const cl_gguf_tensor_type *cl_gguf_tensor_type_get(uint32_t id)
{
    return id < sizeof types / sizeof *types && types[id].block ? &types[id] : NULL;
}
