/* test_forward.c: a chip's logits against a plain forward pass in double precision, written here from the spec's
 * comments alone. */
#include "naive_route.h"
#include "tiny.h"

typedef double vec[320];

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
    for (int i = 0; i < n; i++) y[i] = x[i] * r * (w ? w[i] : 1);
}

static void rotate(const cl_spec *s, const cl_attention *a, double *v, int pos)
{
    double in[64];
    if (a->rope < 0) return;
    const cl_rope *r = &s->ropes[a->rope];
    memcpy(in, v, (size_t)r->dims * sizeof *v);
    for (int i = 0; i < r->dims / 2; i++) {
        int p = r->pairing == CL_ROPE_HALF ? i : 2 * i, q = r->pairing == CL_ROPE_HALF ? i + r->dims / 2 : 2 * i + 1;
        double co = cos(pos * r->inv_freq[i]) * r->scale, si = sin(pos * r->inv_freq[i]) * r->scale;
        v[p] = in[p] * co - in[q] * si;
        v[q] = in[q] * co + in[p] * si;
    }
}

/* norm, clip and rotation of the heads in x. */
static void heads(const cl_spec *s, const cl_attention *a, double *x, int n, const float *w, int pos)
{
    int d = a->head_dim;
    if (a->qk_norm == CL_QK_NORM_FULL) norm(x, w, n * d, s->norm_eps, x);
    for (int h = 0; h < n; h++) {
        double *v = x + h * d;
        if (a->qk_norm == CL_QK_NORM_HEAD) norm(v, w, d, s->norm_eps, v);
        if (a->qk_norm == CL_QK_NORM_UNIT) norm(v, NULL, d, s->norm_eps, v);
        for (int i = 0; i < d && a->clip > 0; i++) v[i] = fmax(-a->clip, fmin(a->clip, v[i]));
        rotate(s, a, v, pos);
    }
}

/* Keys and values of every kv head for one token; latent: of every head, expanded. */
enum { MOST_HEADS = 19, MOST_DIM = 64 };
typedef struct token {
    double q[MOST_HEADS][MOST_DIM], k[MOST_HEADS][MOST_DIM], v[MOST_HEADS][MOST_DIM];
} token;

static void grouped(const tiny *m, int layer, int pos, const double *in, token *t)
{
    const cl_spec *s = &m->spec;
    const cl_attention *a = &s->layers[layer].attn;
    int d = a->head_dim, nq = a->heads * d, nk = a->kv_heads * d;
    vec q, k, v;
    product(weights(m, CL_T_Q, layer), weights(m, CL_T_Q_BIAS, layer), nq, s->hidden, in, q);
    product(weights(m, CL_T_K, layer), weights(m, CL_T_K_BIAS, layer), nk, s->hidden, in, k);
    product(weights(m, CL_T_V, layer), weights(m, CL_T_V_BIAS, layer), nk, s->hidden, in, v);
    heads(s, a, q, a->heads, weights(m, CL_T_Q_NORM, layer), pos);
    heads(s, a, k, a->kv_heads, weights(m, CL_T_K_NORM, layer), pos);
    for (int i = 0; i < nk && a->clip > 0; i++) v[i] = fmax(-a->clip, fmin(a->clip, v[i]));
    for (int h = 0; h < a->heads; h++)
        for (int i = 0; i < d; i++) {
            int kh = h / (a->heads / a->kv_heads) * d;
            t->q[h][i] = q[h * d + i];
            t->k[h][i] = k[kh + i];
            t->v[h][i] = v[kh + i];
        }
}

/* Not absorbed: every head gets a key and a value of its own. */
static void latent(const tiny *m, int layer, int pos, const double *in, token *t)
{
    const cl_spec *s = &m->spec;
    const cl_attention *a = &s->layers[layer].attn;
    int d = a->head_dim, rank = a->kv_rank, plain = d - a->rope_dim;
    const float *k_b = weights(m, CL_T_K_B, layer), *v_b = weights(m, CL_T_V_B, layer);
    vec low, q, c;
    if (a->q_rank) {
        product(weights(m, CL_T_Q_A, layer), NULL, a->q_rank, s->hidden, in, low);
        norm(low, weights(m, CL_T_Q_A_NORM, layer), a->q_rank, a->latent_eps, low);
    } else {
        memcpy(low, in, sizeof low);
    }
    product(weights(m, CL_T_Q, layer), NULL, a->heads * d, a->q_rank ? a->q_rank : s->hidden, low, q);
    product(weights(m, CL_T_KV_A, layer), NULL, rank + a->rope_dim, s->hidden, in, c);
    norm(c, weights(m, CL_T_KV_A_NORM, layer), rank, a->latent_eps, c);
    rotate(s, a, c + rank, pos);
    for (int h = 0; h < a->heads; h++) {
        for (int i = 0; i < d; i++) t->q[h][i] = q[h * d + i];
        rotate(s, a, t->q[h] + plain, pos);
        for (int i = 0; i < plain; i++) {
            t->k[h][i] = 0;
            for (int r = 0; r < rank; r++) t->k[h][i] += (double)k_b[(h * rank + r) * plain + i] * c[r];
        }
        for (int i = 0; i < a->rope_dim; i++) t->k[h][plain + i] = c[rank + i];
        product(v_b + h * a->v_dim * rank, NULL, a->v_dim, rank, c, t->v[h]);
    }
}

static bool sees(const cl_attention *a, int pos, int j)
{
    if (j > pos) return false;
    if (!a->window) return true;
    return a->chunked ? j / a->window == pos / a->window : pos - j < a->window;
}

static void attention(const tiny *m, int layer, int n, vec *x)
{
    const cl_spec *s = &m->spec;
    const cl_attention *a = &s->layers[layer].attn;
    const float *sinks = weights(m, CL_T_SINKS, layer);
    static token tok[TINY_MAX];
    int vd = a->kind == CL_ATTN_LATENT ? a->v_dim : a->head_dim;
    for (int t = 0; t < n; t++) {
        vec in;
        norm(x[t], weights(m, CL_T_ATTN_NORM, layer), s->hidden, s->norm_eps, in);
        if (a->kind == CL_ATTN_LATENT) latent(m, layer, t, in, &tok[t]);
        else grouped(m, layer, t, in, &tok[t]);
    }
    for (int t = 0; t < n; t++) {
        vec seen = {0}, out;
        double warm = a->temperature > 0 ? 1 + a->temperature * log(1 + floor((t + 1) / a->temperature_floor)) : 1;
        for (int h = 0; h < a->heads; h++) {
            double p[TINY_MAX] = {0}, sum = sinks ? exp(sinks[h]) : 0;
            for (int j = 0; j <= t; j++) {
                for (int i = 0; i < a->head_dim; i++) p[j] += warm * tok[t].q[h][i] * tok[j].k[h][i];
                p[j] = sees(a, t, j) ? exp(a->scale * p[j]) : 0;
                sum += p[j];
            }
            for (int j = 0; j <= t; j++)
                for (int i = 0; i < vd; i++) seen[h * vd + i] += p[j] / sum * tok[j].v[h][i];
        }
        product(weights(m, CL_T_O, layer), weights(m, CL_T_O_BIAS, layer), s->hidden, a->heads * vd, seen, out);
        for (int i = 0; i < s->hidden; i++) x[t][i] += out[i];
    }
}

/* gate, up and down, and their biases or NULL */
typedef struct mlp_weights {
    const float *w[3], *bias[3];
} mlp_weights;

static mlp_weights mlp_of(const tiny *m, int layer, cl_role gate, cl_role gate_bias, int expert, int width)
{
    int64_t hidden = m->spec.hidden, size[] = {width, width, hidden};
    mlp_weights out = {.w = {NULL}};
    for (int i = 0; i < 3; i++) {
        out.w[i] = weights(m, (cl_role)((int)gate + i), layer) + expert * width * hidden;
        const float *bias = gate_bias == CL_ROLES ? NULL : weights(m, (cl_role)((int)gate_bias + i), layer);
        if (bias) out.bias[i] = bias + expert * size[i];
    }
    return out;
}

/* x += scale * down(glu(gate in, up in)) */
static void mlp(const cl_ffn *f, mlp_weights w, int width, int hidden, const double *in, double scale, double *x)
{
    vec g, u, out;
    product(w.w[0], w.bias[0], width, hidden, in, g);
    product(w.w[1], w.bias[1], width, hidden, in, u);
    for (int i = 0; i < width; i++) {
        if (f->glu == CL_GLU_CLAMPED) {
            double a = fmin(g[i], f->glu_limit), b = fmax(-f->glu_limit, fmin(u[i], f->glu_limit));
            g[i] = (b + 1) * a / (1 + exp(-f->glu_alpha * a));
        } else {
            g[i] = g[i] / (1 + exp(-g[i])) * u[i];
        }
    }
    product(w.w[2], w.bias[2], hidden, width, g, out);
    for (int i = 0; i < hidden; i++) x[i] += scale * out[i];
}

static void ffn(const tiny *m, int layer, vec x)
{
    const cl_spec *s = &m->spec;
    const cl_ffn *f = &s->layers[layer].ffn;
    const float *select = weights(m, CL_T_SELECT_BIAS, layer);
    vec in, p, bias;
    int chosen[16];
    double weight[16];
    norm(x, weights(m, CL_T_FFN_NORM, layer), s->hidden, s->norm_eps, in);
    if (f->kind == CL_FFN_DENSE) {
        mlp(f, mlp_of(m, layer, CL_T_GATE, CL_T_GATE_BIAS, 0, f->width), f->width, s->hidden, in, 1, x);
        return;
    }
    product(weights(m, CL_T_ROUTER, layer), weights(m, CL_T_ROUTER_BIAS, layer), f->experts, s->hidden, in, p);
    for (int e = 0; e < f->experts && select; e++) bias[e] = select[e];
    naive_route(f, p, select ? bias : NULL, chosen, weight);
    for (int j = 0; j < f->top_k; j++) {
        vec scaled;
        for (int i = 0; i < s->hidden; i++) scaled[i] = in[i] * (f->weight_input ? weight[j] : 1);
        mlp(f, mlp_of(m, layer, CL_T_EXPERT_GATE, CL_T_EXPERT_GATE_BIAS, chosen[j], f->width), f->width, s->hidden,
            scaled, f->weight_input ? 1 : weight[j], x);
    }
    if (f->shared_width)
        mlp(f, mlp_of(m, layer, CL_T_SHARED_GATE, CL_ROLES, 0, f->shared_width), f->shared_width, s->hidden, in, 1, x);
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

static void check_exact(int which, cl_format format, bool mixed)
{
    tiny m = tiny_make(tiny_any(which), format, mixed);
    double mean, worst;
    cl_chip_options opt = tiny_options(2, 64, NULL);
    CU_ASSERT((worst = difference(&m, &opt, 60, 64, &mean)) < 1e-4);
    if (!(worst < 1e-4)) printf("%s %s: %g\n", tiny_names[which], mixed ? "mixed" : cl_format_get(format)->name, worst);
    CU_ASSERT(difference(&m, &opt, 60, 7, &mean) < 1e-4);
    tiny_free(&m);
}

static void test_dense(void) { check_exact(TINY_DENSE, CL_F32, false); }
static void test_moe(void) { check_exact(TINY_MOE, CL_F32, false); }
static void test_sinks(void) { check_exact(TINY_SINKS, CL_F32, false); }
static void test_latent(void) { check_exact(TINY_LATENT, CL_F32, false); }
static void test_chunked(void) { check_exact(TINY_CHUNKED, CL_F32, false); }

/* A router that cannot decide: the lower experts are taken, each with its share. */
static void test_ties(void)
{
    tiny_router = 0;
    for (int which = TINY_MOE; which < TINY_SPECS; which++) check_exact(which, CL_F32, false);
    tiny_router = 2;
}

static void test_formats(void)
{
    for (int f = 0; f < CL_NATIVE_FORMATS; f++) check_exact(f % TINY_SPECS, (cl_format)f, false);
    for (int which = 0; which < TINY_SPECS; which++) check_exact(which, CL_F32, true);
    check_exact(TINY_LATENT, CL_FP8, false);
    check_exact(TINY_SINKS, CL_MXFP4, false);
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
    m = tiny_make(tiny_any(TINY_LATENT), CL_FP8, false); /* fp8 too */
    CU_ASSERT(difference(&m, &opt, 60, 16, &mean) < 1e-4);
    tiny_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {{"dense", test_dense},     {"moe", test_moe},
                           {"sinks", test_sinks},     {"latent", test_latent},
                           {"chunked", test_chunked}, {"router ties", test_ties},
                           {"formats", test_formats}, {"approximate", test_approximate},
                           CU_TEST_INFO_NULL};
    return run_suite("forward", tests);
}
