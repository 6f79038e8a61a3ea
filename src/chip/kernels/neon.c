/* neon.c: the shared body on four NEON registers. Compiled with -march=armv8.2-a+dotprod. */
#include "lanes_neon.h"

#define SET_NAME "neon"
#define SET_FUNCTION cl_kernels_neon
#include "body.h"
