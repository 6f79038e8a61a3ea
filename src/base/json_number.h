/* json_number.h: which number of a text is none of JSON's. Local. */
#ifndef CHIPLINE_BASE_JSON_NUMBER_H
#define CHIPLINE_BASE_JSON_NUMBER_H

#include <stdbool.h>

#include "chipline/status.h"

/* Parsing text[0..n) failed with `position` bytes read. True if that was for NaN, Infinity or a number out of range:
 * *err then names its key. reals: integers may be of any length. */
bool cl_json_bad_number(const char *text, size_t n, size_t position, bool reals, cl_err *err);

#endif
