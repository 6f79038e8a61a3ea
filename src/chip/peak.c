/* peak.c: the most arithmetic that this CPU does with the instructions of a kernel set: multiply-adds on
 * registers, nothing read. */
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <string.h>

#include "chipline/probe.h"
#include "chipline/util.h"
#include "timing.h"

/* One call does `rounds` rounds of the loop and returns a number that depends on all of them; ops: multiplies and
 * adds in a round. */
typedef struct peak_loop {
    const char *set;
    double int8_ops, float_ops;
    int32_t (*int8)(int64_t rounds);
    int32_t (*floats)(int64_t rounds);
} peak_loop;

/* The value is what it was, but the compiler can't know: nothing is folded or moved out of a loop. */
#define OPAQUE(reg, x) __asm__ volatile("" : "+" reg(x))

/* --- plain C, as wide as the compiler makes it --- */

enum { PLAIN = 256 };

static int32_t plain_int8(int64_t rounds)
{
    int8_t a[PLAIN], b[PLAIN];
    int32_t sum = 0;
    for (int i = 0; i < PLAIN; i++) a[i] = (int8_t)(i % 127), b[i] = (int8_t)(i % 113);
    for (int64_t r = 0; r < rounds; r++) {
        int32_t s = 0;
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
        for (int i = 0; i < PLAIN; i++) s += (int32_t)a[i] * b[i];
        sum ^= s;
    }
    return sum;
}

static int32_t plain_float(int64_t rounds)
{
    float acc[32], a = 0.5f;
    for (int i = 0; i < 32; i++) acc[i] = (float)i;
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+m"(a));
        for (int k = 0; k < 8; k++)
            for (int i = 0; i < 32; i++) acc[i] = acc[i] * a + 1.0f;
    }
    for (int i = 1; i < 32; i++) acc[0] += acc[i];
    return (int32_t)acc[0];
}

/* --- vectors; enough chains to hide what an instruction takes --- */

#if defined(__x86_64__)
enum { CHAINS_512 = 16, CHAINS_INT8 = 6, CHAINS_256 = 12 };

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static int32_t avx512_int8(int64_t rounds)
{
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5), acc[CHAINS_512], sum = _mm512_setzero_si512();
    for (int i = 0; i < CHAINS_512; i++) acc[i] = _mm512_set1_epi32(i);
    for (int64_t r = 0; r < rounds; r++) {
        OPAQUE("v", a);
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS_512; i++) acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
    }
    for (int i = 0; i < CHAINS_512; i++) sum = _mm512_xor_si512(sum, acc[i]);
    return _mm512_reduce_add_epi32(sum);
}

__attribute__((target("avx512f"))) static int32_t avx512_float(int64_t rounds)
{
    __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1), acc[CHAINS_512], sum = _mm512_setzero_ps();
    for (int i = 0; i < CHAINS_512; i++) acc[i] = _mm512_set1_ps((float)i);
    for (int64_t r = 0; r < rounds; r++) {
        OPAQUE("v", a);
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS_512; i++) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
    }
    for (int i = 0; i < CHAINS_512; i++) sum = _mm512_add_ps(sum, acc[i]);
    return (int32_t)_mm512_reduce_add_ps(sum);
}

/* Tiles, blocks of 32 bytes: 16 tokens by 16 rows with four sums under way, as many as the products of the amx set
 * have. */
enum { TILES = 4 };

static int32_t amx_int8(int64_t rounds)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1, .bytes = {64, 64, 64, 64, 32, 64}, .rows = {16, 16, 16, 16, 16, 8}};
    int8_t tile[16 * 64];
    for (int i = 0; i < (int)sizeof tile; i++) tile[i] = (int8_t)(i % 127);
    __asm__ volatile("ldtilecfg %0\n\ttileloadd (%1,%2,1), %%tmm4\n\ttileloadd (%1,%2,1), %%tmm5"
                     :
                     : "m"(config), "r"(tile), "r"((size_t)64)
                     : "memory");
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("tdpbssd %%tmm5, %%tmm4, %%tmm0\n\ttdpbssd %%tmm5, %%tmm4, %%tmm1\n\t"
                         "tdpbssd %%tmm5, %%tmm4, %%tmm2\n\ttdpbssd %%tmm5, %%tmm4, %%tmm3"
                         :);
    }
    int32_t sums[16 * 16];
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n\ttilerelease" : : "r"(sums), "r"((size_t)64) : "memory");
    return sums[0];
}

__attribute__((target("avx2"))) static int32_t first_of(__m256i v)
{
    return _mm_cvtsi128_si32(_mm256_castsi256_si128(v));
}

__attribute__((target("avx2"))) static int32_t avx2_int8(int64_t rounds)
{
    __m256i a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1), b[CHAINS_INT8], acc[CHAINS_INT8],
            sum = _mm256_setzero_si256();
    for (int i = 0; i < CHAINS_INT8; i++) {
        b[i] = _mm256_set1_epi8((char)(i + 1));
        OPAQUE("x", b[i]);
        acc[i] = _mm256_set1_epi32(i);
    }
    for (int64_t r = 0; r < rounds; r++) {
        OPAQUE("x", a);
#pragma GCC unroll 6
        for (int i = 0; i < CHAINS_INT8; i++)
            acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b[i]), ones));
    }
    for (int i = 0; i < CHAINS_INT8; i++) sum = _mm256_xor_si256(sum, acc[i]);
    return first_of(sum);
}

__attribute__((target("avx2,fma"))) static int32_t avx2_float(int64_t rounds)
{
    __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1), acc[CHAINS_256], sum = _mm256_setzero_ps();
    for (int i = 0; i < CHAINS_256; i++) acc[i] = _mm256_set1_ps((float)i);
    for (int64_t r = 0; r < rounds; r++) {
        OPAQUE("x", a);
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS_256; i++) acc[i] = _mm256_fmadd_ps(acc[i], a, b);
    }
    for (int i = 0; i < CHAINS_256; i++) sum = _mm256_add_ps(sum, acc[i]);
    return first_of(_mm256_cvttps_epi32(sum));
}
#endif

static const peak_loop loops[] = {
#if defined(__x86_64__)
    {"amx", 2.0 * 16 * 16 * 32 * TILES, 2.0 * 16 * CHAINS_512, amx_int8, avx512_float},
    {"avx512", 2.0 * 64 * CHAINS_512, 2.0 * 16 * CHAINS_512, avx512_int8, avx512_float},
    {"avx2", 2.0 * 32 * CHAINS_INT8, 2.0 * 8 * CHAINS_256, avx2_int8, avx2_float},
#endif
    {NULL, 2.0 * PLAIN, 2.0 * 32 * 8, plain_int8, plain_float}, /* every other set */
};

typedef struct loop_job {
    int32_t (*loop)(int64_t rounds);
    int64_t rounds;
    _Atomic int32_t all;
    _Atomic uint64_t most_ns;
} loop_job;

static void run_loop(const crew_member *m, void *ctx)
{
    loop_job *j = ctx;
    uint64_t begun = cl_thread_cpu_ns();
    atomic_fetch_xor_explicit(&j->all, j->loop(j->rounds + m->id), memory_order_relaxed);
    keep_most(&j->most_ns, cl_thread_cpu_ns() - begun);
}

/* Seconds that all threads together take for as many rounds each, or CPU time of the slowest. */
static double time_loop(cl_crew *crew, int32_t (*loop)(int64_t), int64_t rounds, bool cpu_time)
{
    loop_job j = {.loop = loop, .rounds = rounds};
    uint64_t start = cl_now_ns();
    crew_run(crew, run_loop, &j);
    return (double)(cpu_time ? j.most_ns : cl_now_ns() - start) * 1e-9;
}

double cl_probe_peak(cl_crew *crew, const char *kernels, bool q8, bool cpu_time)
{
    enum { RUNS = 3 };
    static const double LEAST_S = 0.02; /* several turns of the scheduler, where ranks share cores */
    const peak_loop *l = loops;
    while (l->set && strcmp(l->set, kernels) != 0) l++;
    int32_t (*loop)(int64_t) = q8 ? l->int8 : l->floats;
    int64_t rounds = 1 << 14;
    while (time_loop(crew, loop, rounds, cpu_time) < LEAST_S / 2 && rounds < INT64_C(1) << 40) rounds *= 2;
    double s[RUNS];
    for (int i = 0; i < RUNS; i++) s[i] = time_loop(crew, loop, 2 * rounds, cpu_time);
    return (q8 ? l->int8_ops : l->float_ops) * 2 * (double)rounds * cl_crew_threads(crew) / cl_median(s, RUNS);
}
