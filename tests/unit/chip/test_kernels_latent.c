/* test_kernels_latent.c: latent attention, where several heads share keys that hold the values too: against double
 * precision, against ordinary attention, and every set of this CPU against the definition, bit by bit. */
#include "kernels_data.h"

enum { MAX_DIM = 576, GAP = 5 };

typedef struct shape {
    int head_dim, v_dim, n;
    int64_t window;
} shape;

typedef struct data {
    float *keys, *q, *scratch, *out, *outr;
    size_t q_stride, out_stride, out_size;
} data;

static data make_data(shape s)
{
    data d = {.q_stride = (size_t)s.head_dim + GAP, .out_stride = (size_t)s.v_dim + GAP};
    d.out_size = (size_t)s.n * d.out_stride * sizeof(float);
    d.keys = random_floats((size_t)(POSITIONS * s.head_dim), 1, 5);
    d.q = random_floats((size_t)s.n * d.q_stride, 2, 7);
    int64_t positions = s.window < POSITIONS ? s.window : POSITIONS;
    size_t latent = cl_latent_scratch(positions, s.v_dim), ordinary = cl_attend_scratch(positions, s.head_dim);
    d.scratch = need(latent > ordinary ? latent : ordinary, sizeof(float));
    d.out = random_floats((size_t)s.n * d.out_stride, 1, 8);
    d.outr = random_floats((size_t)s.n * d.out_stride, 1, 8); /* the same numbers: gaps must survive */
    return d;
}

static void free_data(data *d)
{
    free(d->keys);
    free(d->q);
    free(d->scratch);
    free(d->out);
    free(d->outr);
}

static cl_kv_head make_latent(cl_kv_format f, int head_dim, int64_t blocks)
{
    cl_kv_head h = make_cache(f, head_dim, blocks);
    free(h.values);
    h.values = NULL;
    return h;
}

/* Every head as one of ordinary attention whose values are its keys: the same bits. */
static bool like_ordinary(const cl_kernels *k, const cl_kv_head *both, shape s, const data *d, int64_t lo, int64_t pos,
                          float scale, const float *sinks)
{
    bool equal = true;
    for (int t = 0; t < s.n; t++) {
        float out[MAX_DIM];
        k->attend(both, 1, &(cl_query){d->q + (size_t)t * d->q_stride, out, sinks ? &sinks[t] : NULL, lo, pos}, scale,
                  d->scratch);
        equal &= memcmp(out, d->out + (size_t)t * d->out_stride, (size_t)s.v_dim * sizeof *out) == 0;
    }
    return equal;
}

static bool near_direct(cl_kv_format f, shape s, const data *d, int64_t lo, int64_t pos, float scale,
                        const float *sinks)
{
    bool near = true;
    for (int t = 0; t < s.n; t++) {
        double want[MAX_DIM];
        double size = attend_direct(d->keys, d->keys, s.head_dim, s.v_dim, d->q + (size_t)t * d->q_stride, lo, pos,
                                    scale, sinks ? &sinks[t] : NULL, want);
        for (int i = 0; i < s.v_dim; i++) {
            near &= fabs(d->out[(size_t)t * d->out_stride + (size_t)i] - want[i]) <= cache_tolerance[f] * size;
        }
    }
    return near;
}

/* Stores positions in order into a ring with room for the window; at some of them, attends with the window. */
static void check_shape(const cl_kernels *k, const cl_kernels *ref, cl_kv_format f, shape s, int step)
{
    static const float sinks[CL_LATENT_HEADS] = {0.3f, 80, -1e4f, -2, 1, 0, -0.0f, 5, 3, -60, 2, 20, -1, 4, 0.1f, 6};
    int64_t blocks = s.window >= POSITIONS ? (POSITIONS + 15) / 16 : (s.window + 14) / 16 + 1;
    cl_kv_head h = make_latent(f, s.head_dim, blocks), hr = make_latent(f, s.head_dim, blocks);
    cl_kv_head both = make_cache(f, s.head_dim, blocks);
    data d = make_data(s);
    float scale = 1 / sqrtf((float)s.head_dim);
    bool equal = true, like = true, near = true;
    for (int64_t pos = 0; pos < POSITIONS; pos++) {
        const float *key = d.keys + pos * s.head_dim;
        k->kv_store(&h, pos, key, NULL);
        ref->kv_store(&hr, pos, key, NULL);
        k->kv_store(&both, pos, key, key);
        if (pos % step && pos != POSITIONS - 1) continue;
        int64_t lo = pos - s.window + 1 > 0 ? pos - s.window + 1 : 0;
        const float *some = pos % 2 ? sinks : NULL;
        k->attend_latent(&h, s.n, d.q, d.q_stride, s.v_dim, lo, pos, scale, some, d.out, d.out_stride, d.scratch);
        ref->attend_latent(&hr, s.n, d.q, d.q_stride, s.v_dim, lo, pos, scale, some, d.outr, d.out_stride, d.scratch);
        equal &= memcmp(d.out, d.outr, d.out_size) == 0;
        like &= like_ordinary(k, &both, s, &d, lo, pos, scale, some);
        near &= near_direct(f, s, &d, lo, pos, scale, some);
    }
    CU_ASSERT_TRUE(equal);
    CU_ASSERT_TRUE(like);
    CU_ASSERT_TRUE(near);
    free_cache(&h);
    free_cache(&hr);
    free_cache(&both);
    free_data(&d);
}

static void check_latent(const cl_kernels *k, const cl_kernels *ref)
{
    static const shape shapes[] = {{1, 1, 1, 40},   {20, 5, 3, 1000},  {20, 20, 16, 7},
                                   {33, 16, 8, 16}, {40, 33, 5, 128},  {72, 64, 7, 300},
                                   {96, 96, 16, 1}, {100, 47, 11, 40}, {192, 128, 16, 1000}};
    for (int f = 0; f < 3; f++) {
        for (int i = 0; i < 9; i++)
            check_shape(k, ref, cache_formats[f], shapes[i], shapes[i].head_dim > 64 ? 149 : 97);
        for (int n = 1; n <= CL_LATENT_HEADS; n++) check_shape(k, ref, cache_formats[f], (shape){36, 20, n, 45}, 121);
        check_shape(k, ref, cache_formats[f], (shape){576, 512, CL_LATENT_HEADS, 400}, 293);
    }
}

static void test_latent(void) { each_set(check_latent); }

/* Sums that are -0 stay so, whichever positions of a block are not visible: the products underflow. */
static void check_zero(const cl_kernels *k, const cl_kernels *ref)
{
    float key[3] = {0, -0x1p-149f, -0.0f}, q[3] = {0, 0, 0}, scratch[512], out[3] = {1, 1, 1}, outr[3] = {2, 2, 2},
          sink = 3;
    for (int f = 0; f < 3; f++) {
        cl_kv_head h = make_latent(cache_formats[f], 3, 1);
        for (int64_t pos = 0; pos < 5; pos++) k->kv_store(&h, pos, key, NULL);
        k->attend_latent(&h, 1, q, 3, 3, 2, 3, 1, &sink, out, 3, scratch);
        ref->attend_latent(&h, 1, q, 3, 3, 2, 3, 1, &sink, outr, 3, scratch);
        CU_ASSERT_EQUAL(memcmp(out, outr, sizeof out), 0);
        if (f == CL_KV_F32) CU_ASSERT_TRUE(out[1] == 0 && signbit(out[1]) && !signbit(out[0]));
        free_cache(&h);
    }
}

static void test_zero(void) { each_set(check_zero); }

int main(void)
{
    CU_TestInfo tests[] = {{"formats, windows, rings, sinks, heads", test_latent},
                           {"signs of zero", test_zero},
                           CU_TEST_INFO_NULL};
    return run_suite("kernels: latent attention", tests);
}
