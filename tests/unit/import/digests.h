/* digests.h: all of a spec as one number, so that tests notice a change in any of its members. */
#ifndef CHIPLINE_TEST_DIGESTS_H
#define CHIPLINE_TEST_DIGESTS_H

#include <stdio.h>
#include <stdlib.h>

#include "chipline/model.h"
#include "suite.h"

/* A number for all that a spec says, fractions to six digits. */
static inline uint32_t spec_digest(const cl_spec *s, char **text)
{
    cl_err err;
    json_t *j = NULL;
    uint32_t h = 2166136261u;
    if (cl_spec_to_json(s, &j, &err) != CL_OK) abort();
    *text = json_dumps(j, JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(j);
    for (const char *p = *text; p && *p; p++) h = (h ^ (unsigned char)*p) * 16777619u;
    return h;
}

static inline void digest_is(const cl_spec *s, uint32_t want, const char *what)
{
    char *text;
    const uint32_t h = spec_digest(s, &text);
    if (h != want) fprintf(stderr, "%s: 0x%08x\n%s\n", what, h, text);
    CU_ASSERT_EQUAL(h, want);
    free(text);
}

#endif
