/* avx2.c: the shared body on two 8-lane AVX2 registers. Compiled with -mavx2 -mfma -mf16c. */
#include "lanes_avx2.h"

#define SET_NAME "avx2"
#define SET_FUNCTION cl_kernels_avx2
#include "body.h"
