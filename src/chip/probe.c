/* probe.c: how fast memory is read by all threads of a crew. */
#include "chipline/probe.h"

#include <string.h>

#include "chipline/util.h"
#include "inside.h"
#include "timing.h"

/* Sum of the 64-bit words of a block, which is aligned and a multiple of 64 bytes. */
static uint64_t read_words(const unsigned char *p, size_t bytes)
{
    enum { AHEAD = 8192 };
    const uint64_t *w = (const uint64_t *)__builtin_assume_aligned(p, 64);
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < bytes / 8; i += 8) {
        __builtin_prefetch((const void *)((uintptr_t)(w + i) + AHEAD), 0, 2); /* as the products do */
        for (int j = 0; j < 8; j++) sum[j] += w[i + (size_t)j];
    }
    for (int j = 1; j < 8; j++) sum[0] += sum[j];
    return sum[0];
}

typedef struct read_job {
    const unsigned char *data;
    size_t bytes;
    int64_t times;
    _Atomic uint64_t sum, most_ns;
} read_job;

static void read_range(const crew_member *m, void *ctx)
{
    read_job *j = ctx;
    uint64_t begun = cl_thread_cpu_ns(), sum = 0;
    int64_t a, b;
    crew_range(m, (int64_t)(j->bytes / 64), &a, &b);
    for (int64_t i = 0; i < j->times; i++) {
        sum += read_words(j->data + 64 * a, 64 * (size_t)(b - a));
        __asm__ volatile("" ::: "memory"); /* so that every pass reads again */
    }
    atomic_fetch_add_explicit(&j->sum, sum, memory_order_relaxed);
    keep_most(&j->most_ns, cl_thread_cpu_ns() - begun);
}

double probe_read(cl_crew *crew, const unsigned char *data, size_t bytes, int64_t times, double *cpu_s)
{
    read_job j = {.data = data, .bytes = bytes, .times = times};
    uint64_t start = cl_now_ns();
    crew_run(crew, read_range, &j);
    if (cpu_s) *cpu_s = (double)j.most_ns * 1e-9;
    return (double)(cl_now_ns() - start) * 1e-9;
}

/* Median of three. */
static double probe(cl_crew *crew, const unsigned char *data, size_t bytes)
{
    enum { RUNS = 3, LEAST = 64 << 20 };
    if (!bytes) return 0;
    int64_t times = ((int64_t)LEAST + (int64_t)bytes - 1) / (int64_t)bytes;
    double s[RUNS];
    for (int i = 0; i < RUNS; i++) s[i] = probe_read(crew, data, bytes, times, NULL);
    return (double)times * (double)bytes / cl_median(s, RUNS);
}

double chip_probe(const cl_chip *c)
{
    const chip_fixed *f = &c->fixed;
    return probe(f->opt.crew, f->slice.data, f->slice.bytes);
}

double cl_probe_memory(cl_crew *crew, size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    unsigned char *data = cl_malloc_aligned(bytes, "a probe", NULL);
    if (!data) return 0;
    memset(data, 1, bytes);
    double rate = probe(crew, data, bytes);
    cl_free_aligned(data, bytes);
    return rate;
}
