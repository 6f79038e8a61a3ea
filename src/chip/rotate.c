/* rotate.c: what a token's position does to its queries and keys. */
#include <math.h>

#include "attend.h"

/* Angles are computed in double and rounded once, so that late positions are as exact as early ones. */
void attend_angles(const chip_fixed *c, const crew_member *m, token_buffers *tokens, int n)
{
    int64_t a, b;
    crew_range(m, n, &a, &b);
    for (int r = 0; r < c->spec.n_ropes; r++) {
        const cl_rope *rope = &c->spec.ropes[r];
        int half = rope->dims / 2;
        for (int64_t i = a; i < b; i++) {
            float *cs = tokens->cos_sin + ((size_t)r * (size_t)tokens->chunk + (size_t)i) * tokens->rope_stride;
            for (int j = 0; j < half; j++) {
                double angle = (double)tokens->ref[i].pos * rope->inv_freq[j];
                cs[j] = (float)(cos(angle) * rope->scale);
                cs[half + j] = (float)(sin(angle) * rope->scale);
            }
        }
    }
}

void attend_rotate(const pass *p, int tok, float *x)
{
    const int r = p->spec->attn.rope;
    if (r < 0) return;
    const cl_rope *rope = &p->c->spec.ropes[r];
    const token_buffers *t = p->tokens;
    const float *cs = t->cos_sin + ((size_t)r * (size_t)t->chunk + (size_t)tok) * t->rope_stride;
    int half = rope->dims / 2, step = rope->pairing == CL_ROPE_HALF ? 1 : 2,
        other = rope->pairing == CL_ROPE_HALF ? half : 1;
    for (int j = 0; j < half; j++) {
        float a = x[j * step], b = x[j * step + other];
        x[j * step] = a * cs[j] - b * cs[half + j];
        x[j * step + other] = b * cs[j] + a * cs[half + j];
    }
}

void attend_temperature(const pass *p, int tok, float *q, int n)
{
    const cl_attention *a = &p->spec->attn;
    if (a->temperature == 0) return;
    double run = floor(((double)p->tokens->ref[tok].pos + 1) / a->temperature_floor);
    float by = (float)(1 + a->temperature * log(1 + run));
    for (int i = 0; i < n; i++) q[i] *= by;
}
