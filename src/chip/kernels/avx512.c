/* avx512.c: the shared body on 16-lane AVX-512 registers. */
#include "lanes_generic.h"

#define SET_NAME "avx512"
#define SET_FUNCTION cl_kernels_avx512
#include "body.h"
