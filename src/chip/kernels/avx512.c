/* avx512.c: the shared body on one 16-lane AVX-512 register. Compiled with -mavx512f/bw/vl/dq/vnni -mfma -mf16c. */
#include "lanes_avx512.h"

#define SET_NAME "avx512"
#define SET_FUNCTION cl_kernels_avx512
#include "body.h"
