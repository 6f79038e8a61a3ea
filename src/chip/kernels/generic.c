/* generic.c: the shared body on plain C lanes, for any CPU. */
#include "lanes_generic.h"

#define SET_NAME "generic"
#define SET_FUNCTION cl_kernels_generic
#include "body.h"
