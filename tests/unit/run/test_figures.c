/* Figures of bench and the limits that a run has where none are given. */
#include <math.h>

#include "chipline/run.h"
#include "suite.h"

static bool add(cl_bench_case *c, double tokens)
{
    const cl_bench_run run = {.tokens_per_s = tokens,
                              .read_gb_per_s = 2 * tokens,
                              .probe_gb_per_s = 8 * tokens,
                              .gop_per_s = 3 * tokens,
                              .peak_gop_per_s = 4 * tokens};
    return cl_bench_add(c, &run);
}

/* Three runs 100 - off, 100, 100 + off are enough up to a median known to 2 %. */
static void enough_when_steady(void)
{
    for (int steady = 0; steady < 2; steady++) {
        const double off = steady ? 0.951 : 0.952;
        cl_bench_case c = {.n_runs = 0};
        CU_ASSERT_FALSE(add(&c, 100 + off));
        CU_ASSERT_EQUAL(c.spread, 0);
        CU_ASSERT_FALSE(add(&c, 100 - off));
        CU_ASSERT_DOUBLE_EQUAL(c.spread, off / 100, 1e-12);
        CU_ASSERT_EQUAL(add(&c, 100), steady);
        CU_ASSERT_EQUAL(c.n_runs, 3);
        CU_ASSERT_DOUBLE_EQUAL(c.spread, off / 100, 1e-12);
        CU_ASSERT_EQUAL(c.tokens_per_s, 100);
    }
}

static void medians_and_shares(void)
{
    const double tokens[] = {40, 10, 20, 80};
    cl_bench_case c = {.n_runs = 0};
    for (int i = 0; i < 4; i++) CU_ASSERT_FALSE(add(&c, tokens[i]));
    CU_ASSERT_DOUBLE_EQUAL(c.tokens_per_s, 30, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(c.spread, (50 - 17.5) / 30, 1e-9); /* quarters lie between two values */
    CU_ASSERT_DOUBLE_EQUAL(c.read_gb_per_s, 60, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(c.probe_gb_per_s, 240, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(c.gop_per_s, 90, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(c.peak_gop_per_s, 120, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(c.share_of_probe, 0.25, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(c.share_of_peak, 0.75, 1e-12);
    for (int i = 4; i < CL_BENCH_MOST; i++) CU_ASSERT_EQUAL(add(&c, i % 2 ? 1 : 90), i == CL_BENCH_MOST - 1);
}

static void shares_of_nothing(void)
{
    cl_bench_case c = {.n_runs = 0};
    const cl_bench_run run = {.read_gb_per_s = 2, .gop_per_s = 3};
    CU_ASSERT_FALSE(cl_bench_add(&c, &run));
    CU_ASSERT(c.share_of_probe == 0 && c.share_of_peak == 0 && c.spread == 0);
}

static cl_limits found(int context, int chunk, int model_context, uint64_t chip_bytes)
{
    const cl_run_options o = {.context = context, .chunk = chunk};
    const cl_spec s = {.context = model_context, .hidden = 64, .vocab = 77};
    cl_limits l = {0};
    cl_err err;
    CU_ASSERT_EQUAL(cl_find_limits(&o, &s, 5, chip_bytes, &l, &err), CL_OK);
    CU_ASSERT(l.slots == 5 && l.hidden == 64 && l.vocab == 77);
    return l;
}

static void limits(void)
{
    const uint64_t whole = 4 * 128 * 64 * 4 * 32; /* a chip with room for the usual chunk */
    CU_ASSERT_EQUAL(found(0, 0, 100000, 0).context, CL_DEFAULT_CONTEXT);
    CU_ASSERT_EQUAL(found(0, 0, 4095, 0).context, 4095);
    CU_ASSERT_EQUAL(found(512, 0, 512, 0).context, 512);
    CU_ASSERT_EQUAL(found(0, 0, 512, 0).chunk, CL_DEFAULT_CHUNK);
    CU_ASSERT_EQUAL(found(0, 0, 512, whole).chunk, CL_DEFAULT_CHUNK);
    CU_ASSERT_EQUAL(found(0, 0, 512, whole - 1).chunk, CL_DEFAULT_CHUNK / 2);
    CU_ASSERT_EQUAL(found(0, 0, 512, whole / 4).chunk, CL_DEFAULT_CHUNK / 4);
    CU_ASSERT_EQUAL(found(0, 0, 512, 1).chunk, CL_LEAST_CHUNK);
    CU_ASSERT_EQUAL(found(0, 99, 512, 1).chunk, 99);
    CU_ASSERT_EQUAL(found(30, 31, 512, 0).chunk, 30);
    CU_ASSERT_EQUAL(found(30, 29, 512, 0).chunk, 29);
}

static void too_long_a_context(void)
{
    const cl_run_options o = {.context = 513};
    const cl_spec s = {.context = 512, .hidden = 64, .vocab = 77};
    cl_limits l;
    cl_err err;
    CU_ASSERT_EQUAL(cl_find_limits(&o, &s, 5, 0, &l, &err), CL_E_FIT);
    CU_ASSERT_STRING_EQUAL(err.msg, "--context: 513 is over the 512 positions the model was made for "
                                    "(use at most that)");
}

int main(void)
{
    CU_TestInfo tests[] = {{"enough when steady", enough_when_steady}, {"medians and shares", medians_and_shares},
                           {"shares of nothing", shares_of_nothing},   {"limits", limits},
                           {"too long a context", too_long_a_context}, CU_TEST_INFO_NULL};
    return run_suite("figures", tests);
}
