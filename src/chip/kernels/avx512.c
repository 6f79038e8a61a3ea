/* avx512.c: the shared body on one 16-lane AVX-512 register; with the products of amx.c it is a second set. Compiled
 * with -mavx512f/bw/vl/dq/vnni -mfma -mf16c. */
#include "lanes_avx512.h"

#define SET_NAME "avx512"
#define SET_FUNCTION cl_kernels_avx512
#include "body.h"

const cl_kernels *cl_kernels_amx(void)
{
    static const cl_kernels set = SET("amx", amx_matmul);
    return &set;
}
