/* sample.c: one id from one row of logits.
 *
 * The candidates are a heap ordered by (logit descending, id ascending); the best are taken off only as far as top-k,
 * top-p and min-p need, so a vocabulary is never sorted as a whole unless its distribution is flat. Weights come from
 * cl_exp and are added in double in one fixed order: the same id everywhere. */
#include "sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "chipline/kernels.h"

struct cl_sampler {
    int vocab;
    float *logits; /* after the repeat penalty */
    int32_t *ids;  /* candidates */
    double *sum;   /* of the weights up to and including this candidate */
};

cl_code cl_sampler_create(cl_sampler **out, int vocab, cl_err *err)
{
    cl_err local;
    if (!err) err = &local;
    cl_sampler *s = cl_calloc(1, sizeof *s, "the sampler", err);
    if (!s) return err->code;
    s->vocab = vocab;
    size_t n = (size_t)vocab;
    if (!(s->logits = cl_malloc(n, sizeof *s->logits, "the sampler", err)) ||
        !(s->ids = cl_malloc(n, sizeof *s->ids, "the sampler", err)) ||
        !(s->sum = cl_malloc(n, sizeof *s->sum, "the sampler", err))) {
        cl_sampler_free(s);
        return err->code;
    }
    *out = s;
    return CL_OK;
}

size_t cl_sampler_bytes(int vocab)
{
    const cl_sampler *s = NULL;
    return sizeof *s + (size_t)vocab * (sizeof *s->logits + sizeof *s->ids + sizeof *s->sum);
}

void cl_sampler_free(cl_sampler *s)
{
    if (!s) return;
    free(s->logits);
    free(s->ids);
    free(s->sum);
    free(s);
}

/* Takes the logits of ids first .. first + n - 1 over: NaN is the worst; each of the last ids is penalised once,
 * however often it came. */
static void take_logits(cl_sampler *s, const float *logits, int first, int count, float penalty, const int32_t *recent,
                        int n)
{
    for (int i = 0; i < count; i++) s->logits[i] = isnan(logits[i]) ? -INFINITY : logits[i];
    if (penalty == 1) return;
    if (n > CL_REPEAT_WINDOW) {
        recent += n - CL_REPEAT_WINDOW;
        n = CL_REPEAT_WINDOW;
    }
    for (int i = 0; i < n; i++) {
        bool again = recent[i] < first || recent[i] >= first + count;
        for (int j = 0; j < i && !again; j++) again = recent[j] == recent[i];
        if (again) continue;
        float *l = &s->logits[recent[i] - first];
        *l = *l > 0 ? *l / penalty : *l * penalty;
    }
}

/* The first of the largest: lanes find the largest number, then its place is looked up. No number is NaN. */
static int32_t best_of(const float *logits, int n)
{
    enum { LANES = 32 };
    float lane[LANES], most = -INFINITY;
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lane[j] = logits[i + j] > lane[j] ? logits[i + j] : lane[j];
    }
    for (; i < n; i++) most = logits[i] > most ? logits[i] : most;
    for (int j = 0; j < LANES; j++) most = lane[j] > most ? lane[j] : most;
    for (i = 0; logits[i] < most;) i++;
    return i;
}

/* Uniform in [0, 1), from seed and position alone. */
static double uniform(uint64_t seed, int64_t position)
{
    uint64_t key[2] = {seed, (uint64_t)position};
    return (double)(XXH3_64bits(key, sizeof key) >> 11) * 0x1p-53;
}

/* --- the heap: parent at i, children at 2i + 1 and 2i + 2 --- */
static bool before(const cl_sampler *s, int32_t a, int32_t b)
{
    return s->logits[a] > s->logits[b] || (s->logits[a] == s->logits[b] && a < b);
}

static void sink(const cl_sampler *s, int32_t *heap, int n, int i)
{
    int32_t id = heap[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(s, heap[child + 1], heap[child])) child++;
        if (!before(s, heap[child], id)) break;
        heap[i] = heap[child];
    }
    heap[i] = id;
}

/* The best candidate goes to the end of the array, where it stays; the heap shrinks by one. */
static int32_t pop(const cl_sampler *s, int *n)
{
    int32_t id = s->ids[0];
    s->ids[0] = s->ids[--*n];
    sink(s, s->ids, *n, 0);
    s->ids[*n] = id;
    return id;
}

/* e^((logit - max) / T); a weight that float32 cannot hold is none. */
static double weight(float logit, double max, double temperature)
{
    double x = ((double)logit - max) / temperature;
    return x < -87 ? 0 : (double)cl_exp((float)x);
}

static double weight_of(const cl_sampler *s, int32_t id, double max, double temperature)
{
    return weight(s->logits[id], max, temperature);
}

/* The first of n candidates whose running sum exceeds u of the whole; candidates without weight are never it. */
static int pick(const double *sum, int n, double u)
{
    int i = 0;
    while (sum[i] <= u * sum[n - 1] && sum[i] < sum[n - 1]) i++;
    return i;
}

static int32_t draw_any(cl_sampler *s, int n, double max, double temperature, double u)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) s->sum[i] = sum += weight_of(s, i, max, temperature);
    return pick(s->sum, n, u);
}

/* Among the candidates that top-k, top-p and min-p leave, best first. */
static int32_t draw_best(cl_sampler *s, int n, const cl_sampling *o, double max, int top_k, double u)
{
    int left = n, kept = 0;
    double total = 0, sum = 0;
    for (int32_t i = 0; i < n; i++) s->ids[i] = i;
    for (int i = 0; i < n && top_k == n && o->top_p < 1; i++) total += weight_of(s, i, max, o->temperature);
    for (int i = n / 2; i-- > 0;) sink(s, s->ids, n, i);
    if (top_k < n) /* top-p is a share of what top-k leaves */
        while (left > n - top_k) total += weight_of(s, pop(s, &left), max, o->temperature);
    while (kept < top_k) {
        int32_t id = kept < n - left ? s->ids[n - 1 - kept] : pop(s, &left);
        double w = weight_of(s, id, max, o->temperature);
        if (kept && w < o->min_p) break; /* the best one's weight is 1 */
        s->sum[kept++] = sum += w;
        if (o->top_p < 1 && sum >= o->top_p * total) break;
    }
    return s->ids[n - 1 - pick(s->sum, kept, u)];
}

int32_t cl_sample(cl_sampler *s, const float *logits, int allowed, const cl_sampling *opt, const int32_t *recent,
                  int n_recent, int64_t position)
{
    if (allowed < 1 || allowed > s->vocab) CL_BUG("%d ids allowed of %d", allowed, s->vocab);
    take_logits(s, logits, 0, allowed, opt->repeat_penalty, recent, n_recent);
    int32_t best = best_of(s->logits, allowed);
    double max = s->logits[best];
    if (!(opt->temperature > 0) || !isfinite(max)) return best;
    int top_k = opt->top_k > 0 && opt->top_k < allowed ? opt->top_k : allowed;
    double u = uniform(opt->seed, position);
    if (top_k == allowed && !(opt->top_p < 1) && !(opt->min_p > 0))
        return draw_any(s, allowed, max, opt->temperature, u);
    return draw_best(s, allowed, opt, max, top_k, u);
}

/* --- parts of a vocabulary --- */

int cl_sample_candidates_needed(const cl_sampling *opt, int allowed)
{
    if (!(opt->temperature > 0)) return 1;
    return opt->top_k > 0 && opt->top_k < allowed && opt->top_k <= CL_CANDIDATES ? opt->top_k : 0;
}

void cl_sample_candidates(cl_sampler *s, const float *logits, int first, int n, int allowed, const cl_sampling *opt,
                          const int32_t *recent, int n_recent, int k, cl_candidate *out)
{
    if (first < 0 || n < 0 || first > s->vocab - n) CL_BUG("ids %d + %d of %d", first, n, s->vocab);
    if (n > allowed - first) n = allowed > first ? allowed - first : 0;
    take_logits(s, logits, first, n, opt->repeat_penalty, recent, n_recent);
    for (int32_t i = 0; i < n; i++) s->ids[i] = i;
    for (int i = n / 2; i-- > 0 && k > 1;) sink(s, s->ids, n, i);
    for (int i = 0, left = n; i < k; i++) {
        int32_t id = !left ? -1 : k > 1 ? pop(s, &left) : best_of(s->logits, n);
        out[i] = id < 0 ? (cl_candidate){-1, -INFINITY} : (cl_candidate){id + first, s->logits[id]};
    }
}

static int by_rank(const void *a, const void *b)
{
    const cl_candidate *x = a, *y = b;
    if ((x->id < 0) != (y->id < 0)) return x->id < 0 ? 1 : -1;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : (x->id > y->id) - (x->id < y->id);
}

int32_t cl_sample_merged(cl_sampler *s, cl_candidate *c, int n, const cl_sampling *opt, int64_t position)
{
    qsort(c, (size_t)n, sizeof *c, by_rank);
    while (n && c[n - 1].id < 0) n--;
    if (!n) CL_BUG("no candidates");
    double max = c[0].logit, total = 0, sum = 0;
    if (!(opt->temperature > 0) || !isfinite(max)) return c[0].id;
    int kept = 0, top_k = opt->top_k < n ? opt->top_k : n;
    for (int i = 0; i < top_k; i++) total += weight(c[i].logit, max, opt->temperature);
    while (kept < top_k) { /* as in draw_best */
        double w = weight(c[kept].logit, max, opt->temperature);
        if (kept && w < opt->min_p) break;
        s->sum[kept++] = sum += w;
        if (opt->top_p < 1 && sum >= opt->top_p * total) break;
    }
    return c[pick(s->sum, kept, uniform(opt->seed, position))].id;
}
