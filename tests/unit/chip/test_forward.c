/* test_forward.c: a chip's logits against a plain forward pass in double precision, written here from the spec's comments alone. */
#include "tiny.h"

typedef double vec[160];

static const float *weights(const tiny *m, cl_role role, int layer)
{
    for (int i = 0; i < m->model->n_tensors; i++)
        if (m->model->tensors[i].role == role && m->model->tensors[i].layer == layer) return m->w[i];
    return NULL;
}

static void product(const float *w, const float *bias, int rows, int cols, const double *x, double *y)
{
    for (int r = 0; r < rows; r++) {
        y[r] = bias ? bias[r] : 0;
        for (int c = 0; c < cols; c++) y[r] += (double)w[r * cols + c] * x[c];
    }
}

static void norm(const double *x, const float *w, int n, double eps, double *y)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    double r = 1 / sqrt(sum / n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * r * w[i];
}

/* norm, clip and rotation of the heads in x. */
static void heads(const cl_spec *s, const cl_attention *a, double *x, int n, const float *w, int pos)
{
    int d = a->head_dim;
    if (a->qk_norm == CL_QK_NORM_FULL) norm(x, w, n * d, s->norm_eps, x);
    for (int h = 0; h < n; h++) {
        double *v = x + h * d, in[64];
        if (a->qk_norm == CL_QK_NORM_HEAD) norm(v, w, d, s->norm_eps, v);
        for (int i = 0; i < d && a->clip > 0; i++) v[i] = fmax(-a->clip, fmin(a->clip, v[i]));
        if (a->rope < 0) continue;
        const cl_rope *r = &s->ropes[a->rope];
        memcpy(in, v, (size_t)d * sizeof *v);
        for (int i = 0; i < r->dims / 2; i++) {
            int p = r->pairing == CL_ROPE_HALF ? i : 2 * i, q = r->pairing == CL_ROPE_HALF ? i + r->dims / 2 : 2 * i + 1;
            double co = cos(pos * r->inv_freq[i]) * r->scale, si = sin(pos * r->inv_freq[i]) * r->scale;
            v[p] = in[p] * co - in[q] * si;
            v[q] = in[q] * co + in[p] * si;
        }
    }
}

static void attention(const tiny *m, int layer, int n, vec *x)
{
    const cl_spec *s = &m->spec;
    const cl_attention *a = &s->layers[layer].attn;
    int d = a->head_dim, nq = a->heads * d, nk = a->kv_heads * d;
    static vec q[TINY_MAX], k[TINY_MAX], v[TINY_MAX];
    for (int t = 0; t < n; t++) {
        vec in;
        norm(x[t], weights(m, CL_T_ATTN_NORM, layer), s->hidden, s->norm_eps, in);
        product(weights(m, CL_T_Q, layer), weights(m, CL_T_Q_BIAS, layer), nq, s->hidden, in, q[t]);
        product(weights(m, CL_T_K, layer), weights(m, CL_T_K_BIAS, layer), nk, s->hidden, in, k[t]);
        product(weights(m, CL_T_V, layer), weights(m, CL_T_V_BIAS, layer), nk, s->hidden, in, v[t]);
        heads(s, a, q[t], a->heads, weights(m, CL_T_Q_NORM, layer), t);
        heads(s, a, k[t], a->kv_heads, weights(m, CL_T_K_NORM, layer), t);
        for (int i = 0; i < nk && a->clip > 0; i++) v[t][i] = fmax(-a->clip, fmin(a->clip, v[t][i]));
    }
    for (int t = 0; t < n; t++) {
        vec seen = {0}, out;
        for (int h = 0; h < a->heads; h++) {
            double p[TINY_MAX], sum = 0;
            int kh = h / (a->heads / a->kv_heads) * d;
            for (int j = 0; j <= t; j++) {
                p[j] = 0;
                for (int i = 0; i < d; i++) p[j] += q[t][h * d + i] * k[j][kh + i];
                p[j] = a->window && t - j >= a->window ? 0 : exp(a->scale * p[j]);
                sum += p[j];
            }
            for (int j = 0; j <= t; j++)
                for (int i = 0; i < d; i++) seen[h * d + i] += p[j] / sum * v[j][kh + i];
        }
        product(weights(m, CL_T_O, layer), weights(m, CL_T_O_BIAS, layer), s->hidden, nq, seen, out);
        for (int i = 0; i < s->hidden; i++) x[t][i] += out[i];
    }
}

static void mlp(const float *gate, const float *up, const float *down, const float *bg, const float *bu, const float *bd, int width,
                int hidden, const double *in, double scale, double *x)
{
    vec g, u, out;
    product(gate, bg, width, hidden, in, g);
    product(up, bu, width, hidden, in, u);
    for (int i = 0; i < width; i++) g[i] = g[i] / (1 + exp(-g[i])) * u[i];
    product(down, bd, hidden, width, g, out);
    for (int i = 0; i < hidden; i++) x[i] += scale * out[i];
}

static void ffn(const tiny *m, int layer, vec x)
{
    const cl_spec *s = &m->spec;
    const cl_ffn *f = &s->layers[layer].ffn;
    vec in, p;
    norm(x, weights(m, CL_T_FFN_NORM, layer), s->hidden, s->norm_eps, in);
    if (f->kind == CL_FFN_DENSE) {
        mlp(weights(m, CL_T_GATE, layer), weights(m, CL_T_UP, layer), weights(m, CL_T_DOWN, layer), weights(m, CL_T_GATE_BIAS, layer),
            weights(m, CL_T_UP_BIAS, layer), weights(m, CL_T_DOWN_BIAS, layer), f->width, s->hidden, in, 1, x);
        return;
    }
    product(weights(m, CL_T_ROUTER, layer), NULL, f->experts, s->hidden, in, p);
    double sum = 0, chosen = 0;
    for (int e = 0; e < f->experts; e++) sum += p[e] = exp(p[e]);
    bool in_top[16] = {false};
    for (int j = 0; j < f->top_k; j++) {
        int best = -1;
        for (int e = 0; e < f->experts; e++)
            if (!in_top[e] && (best < 0 || p[e] > p[best])) best = e;
        in_top[best] = true;
        chosen += p[best] / sum;
    }
    size_t size = (size_t)f->width * (size_t)s->hidden;
    for (int e = 0; e < f->experts; e++)
        if (in_top[e])
            mlp(weights(m, CL_T_EXPERT_GATE, layer) + (size_t)e * size, weights(m, CL_T_EXPERT_UP, layer) + (size_t)e * size,
                weights(m, CL_T_EXPERT_DOWN, layer) + (size_t)e * size, NULL, NULL, NULL, f->width, s->hidden, in,
                p[e] / sum / (f->renormalise ? chosen : 1), x);
}

static double want[TINY_MAX][TINY_VOCAB];

/* Logits of n tokens of slot 0 into want; returns their standard deviation. */
static double forward(const tiny *m, int n)
{
    static vec x[TINY_MAX];
    const cl_spec *s = &m->spec;
    double sum = 0, squares = 0;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < s->hidden; i++) x[t][i] = weights(m, CL_T_EMBED, -1)[tiny_id(0, t) * s->hidden + i];
    for (int l = 0; l < s->n_layers; l++) {
        attention(m, l, n, x);
        for (int t = 0; t < n; t++) ffn(m, l, x[t]);
    }
    for (int t = 0; t < n; t++) {
        vec in;
        norm(x[t], weights(m, CL_T_FINAL_NORM, -1), s->hidden, s->norm_eps, in);
        product(weights(m, s->tied ? CL_T_EMBED : CL_T_HEAD, -1), NULL, s->vocab, s->hidden, in, want[t]);
        for (int i = 0; i < s->vocab; i++) sum += want[t][i], squares += want[t][i] * want[t][i];
    }
    sum /= n * s->vocab;
    return sqrt(squares / (n * s->vocab) - sum * sum);
}

static tiny_rows got;

/* Largest difference over the standard deviation; and the mean one, through *mean. */
static double difference(const tiny *m, const cl_chip_options *opt, int n, int chunk, double *mean)
{
    double std = forward(m, n), worst = 0;
    tiny_line line = tiny_chips(m, 1, opt, NULL);
    memset(&got, 0xff, sizeof got);
    tiny_run(&line, n, chunk, &got);
    tiny_line_free(&line);
    *mean = 0;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < TINY_VOCAB; i++) {
            double d = fabs((double)got.row[0][t][i] - want[t][i]) / std;
            worst = d > worst || isnan(d) ? d : worst;
            *mean += d / (n * TINY_VOCAB);
        }
    CU_ASSERT(std > 0.1 && std < 1000);
    return worst;
}

static void check_exact(bool moe, cl_format format, bool mixed)
{
    tiny m = tiny_make(tiny_spec(moe), format, mixed);
    double mean, worst;
    cl_chip_options opt = tiny_options(2, 64, NULL);
    CU_ASSERT((worst = difference(&m, &opt, 60, 64, &mean)) < 1e-4);
    if (!(worst < 1e-4)) printf("%s %s: %g\n", moe ? "moe" : "dense", mixed ? "mixed" : cl_format_get(format)->name, worst);
    CU_ASSERT(difference(&m, &opt, 60, 7, &mean) < 1e-4);
    tiny_free(&m);
}

static void test_dense(void) { check_exact(false, CL_F32, false); }
static void test_moe(void) { check_exact(true, CL_F32, false); }

/* A router that cannot decide: the lower experts are taken, each with its share. */
static void test_ties(void)
{
    tiny_router = 0;
    check_exact(true, CL_F32, false);
    tiny_router = 2;
}

static void test_formats(void)
{
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) check_exact(f % 2, (cl_format)f, false);
    check_exact(false, CL_F32, true);
    check_exact(true, CL_F32, true);
}

/* 8-bit activations and small caches: near, and not the float32 result. */
static void test_approximate(void)
{
    tiny m = tiny_make(tiny_spec(false), CL_Q8_0, false);
    cl_chip_options opt = tiny_options(1, 16, NULL);
    double mean, worst;
    opt.kv = CL_KV_BF16;
    worst = difference(&m, &opt, 60, 16, &mean);
    CU_ASSERT(worst > 1e-4 && worst < 0.1 && mean < 0.01);
    opt.kv = CL_KV_Q8;
    worst = difference(&m, &opt, 60, 16, &mean);
    CU_ASSERT(worst > 1e-4 && worst < 0.2 && mean < 0.02);
    opt.kv = CL_KV_F32;
    opt.activations = CL_ACT_AUTO;
    worst = difference(&m, &opt, 60, 16, &mean);
    CU_ASSERT(worst > 1e-4 && worst < 0.2 && mean < 0.03);
    tiny_free(&m);
    /* float weights keep float activations whatever is asked for */
    m = tiny_make(tiny_spec(true), CL_BF16, false);
    CU_ASSERT(difference(&m, &opt, 60, 16, &mean) < 1e-4);
    opt.activations = CL_ACT_Q8;
    CU_ASSERT(difference(&m, &opt, 60, 16, &mean) < 1e-4);
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"dense", test_dense}, {"moe", test_moe}, {"router ties", test_ties}, {"formats", test_formats},
                           {"approximate", test_approximate}, CU_TEST_INFO_NULL};
    return run_suite("forward", tests);
}
