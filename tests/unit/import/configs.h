/* configs.h: small configurations for tests: a common base, a family's name, and further members. */
#ifndef CHIPLINE_TEST_CONFIGS_H
#define CHIPLINE_TEST_CONFIGS_H

#include <stdio.h>
#include <stdlib.h>

#include "chipline/util.h"
#include "family.h"
#include "suite.h"

static const char base[] =
    "{\"vocab_size\":100,\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":"
    "2,"
    "\"intermediate_size\":48,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\"";

/* The base with further members ("\"a\":1"); in members of `more`, the last one of a name counts. */
static inline cl_code make(const char *family, const char *more, cl_spec *s, cl_err *err)
{
    cl_buf b = {0};
    json_error_t e;
    if (cl_buf_printf(&b, err, "%s,\"model_type\":\"%s\"%s%s}", base, family, *more ? "," : "", more) != CL_OK) abort();
    json_t *j = json_loads(b.data, 0, &e); /* later members replace earlier ones */
    cl_buf_free(&b);
    if (!j) {
        fprintf(stderr, "%s: %s\n", more, e.text);
        abort();
    }
    const cl_family *f = NULL;
    cl_code c = cl_config_spec(j, NULL, s, &f, err);
    if (c == CL_OK && (c = cl_spec_settle(s, err)) != CL_OK) cl_spec_free(s);
    json_decref(j);
    return c;
}

static inline cl_spec made(const char *family, const char *more)
{
    cl_spec s;
    cl_err err;
    if (make(family, more, &s, &err) != CL_OK) {
        fprintf(stderr, "%s %s: %s\n", family, more, err.msg);
        CU_FAIL_FATAL("no spec");
    }
    return s;
}

typedef struct refused {
    const char *family, *more, *part;
} refused;

/* Every one is CL_E_INPUT with `part` in its message. */
static inline void all_refused(const refused *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        cl_spec s;
        cl_err err = {0};
        cl_code c = make(cases[i].family, cases[i].more, &s, &err);
        CU_ASSERT_EQUAL(c, CL_E_INPUT);
        if (c != CL_E_INPUT || !strstr(err.msg, cases[i].part)) {
            fprintf(stderr, "case %zu: %s %s: %s\n", i, cases[i].family, cases[i].more,
                    c == CL_OK ? "accepted" : err.msg);
            CU_FAIL("wrong answer");
        }
        if (c == CL_OK) cl_spec_free(&s);
    }
}

#endif
