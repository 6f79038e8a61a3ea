/* rope.c: inverse frequencies and scale of a rotary table (rope.h). */
#include "rope.h"

#include <math.h>
#include <stdlib.h>

static const double pi = 3.14159265358979323846;

/* Wave lengths below original/high keep their frequency, above original/low it is divided by factor, a ramp between. */
static double llama3(const cl_rope_params *p, double f)
{
    double turns = p->original_context * f / (2 * pi); /* original context / wave length */
    if (turns >= p->high_freq) return f;               /* also where both ends are one: no ramp */
    if (turns < p->low_freq) return f / p->factor;
    double s = (turns - p->low_freq) / (p->high_freq - p->low_freq);
    return (1 - s) * f / p->factor + s * f;
}

/* The dimension whose wave turns `turns` times within the original context. */
static double yarn_dim(const cl_rope_params *p, double turns)
{
    return p->dims * log(p->original_context / (turns * 2 * pi)) / (2 * log(p->theta));
}

double cl_rope_mscale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static void yarn(const cl_rope_params *p, cl_rope *r)
{
    double low = yarn_dim(p, p->beta_fast), high = yarn_dim(p, p->beta_slow);
    if (p->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, p->dims - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < p->dims / 2; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        r->inv_freq[i] = (1 - ramp) * r->inv_freq[i] + ramp * r->inv_freq[i] / p->factor;
    }
    if (p->attention_factor != 0) r->scale = p->attention_factor;
    else if (p->mscale != 0 && p->mscale_all != 0)
        r->scale = cl_rope_mscale(p->factor, p->mscale) / cl_rope_mscale(p->factor, p->mscale_all);
    else r->scale = cl_rope_mscale(p->factor, 1);
}

static bool positive(double x) { return isfinite(x) && x > 0; }

cl_code cl_rope_make(const cl_rope_params *p, cl_rope *out, cl_err *err)
{
    if (p->dims < 2 || p->dims % 2)
        return cl_fail(err, CL_E_INPUT, "head_dim is %d: rotary embedding needs an even number", p->dims);
    if (!positive(p->theta) || p->theta <= 1)
        return cl_fail(err, CL_E_INPUT, "rope_theta is %g, must be over 1", p->theta);
    if (p->kind != CL_ROPE_PLAIN && !positive(p->factor))
        return cl_fail(err, CL_E_INPUT, "rope factor is %g, must be over 0", p->factor);
    if ((p->kind == CL_ROPE_LLAMA3 || p->kind == CL_ROPE_YARN) && !positive(p->original_context))
        return cl_fail(err, CL_E_INPUT, "original_max_position_embeddings is %g, must be over 0", p->original_context);
    if (p->kind == CL_ROPE_LLAMA3 && !(positive(p->low_freq) && positive(p->high_freq) && p->high_freq >= p->low_freq))
        return cl_fail(err, CL_E_INPUT,
                       "low_freq_factor %g and high_freq_factor %g: the second must not be smaller, both over 0",
                       p->low_freq, p->high_freq);
    if (p->kind == CL_ROPE_YARN && !(positive(p->beta_fast) && positive(p->beta_slow) && p->beta_fast >= p->beta_slow))
        return cl_fail(err, CL_E_INPUT, "beta_fast %g and beta_slow %g: the first must not be smaller, both over 0",
                       p->beta_fast, p->beta_slow);
    *out = (cl_rope){.dims = p->dims, .pairing = CL_ROPE_HALF, .scale = 1};
    out->inv_freq = cl_malloc((size_t)p->dims / 2, sizeof *out->inv_freq, "rotary table", err);
    if (!out->inv_freq) return CL_E_FIT;
    for (int i = 0; i < p->dims / 2; i++) {
        double f = pow(p->theta, -2.0 * i / p->dims);
        out->inv_freq[i] = p->kind == CL_ROPE_LINEAR ? f / p->factor : p->kind == CL_ROPE_LLAMA3 ? llama3(p, f) : f;
    }
    if (p->kind == CL_ROPE_YARN) yarn(p, out);
    if (positive(out->scale)) return CL_OK;
    free(out->inv_freq);
    out->inv_freq = NULL;
    return cl_fail(err, CL_E_INPUT, "attention_factor is %g, must be over 0", out->scale);
}
