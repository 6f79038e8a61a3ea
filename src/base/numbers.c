/* numbers.c: 16-bit floats, clocks, numbers in text. */
#include "chipline/util.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float cl_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 0x3ffu;
    if (exp == 31) return float_of(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0));
    if (exp) return float_of(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* exact */
    return float_of(sign | bits_of(f));
}

uint16_t cl_f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (a < 0x38800000u) { /* below 2^-14: subnormal; adding 0.5 aligns the mantissa and rounds to nearest even */
        float r = float_of(a) + 0.5f;
        return (uint16_t)(sign | (bits_of(r) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13));
}

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t cl_now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

bool cl_yield(void)
{
    const uint64_t moment = 50000, start = cl_now_ns(), own = cl_thread_cpu_ns();
    sched_yield();
    uint64_t away = cl_now_ns() - start;
    /* the clock goes on where a hypervisor stops the core, both do */
    return away > moment && away > moment + (cl_thread_cpu_ns() - own);
}

uint64_t cl_thread_cpu_ns(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }
uint64_t cl_process_cpu_ns(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

/* proc(5): cpu user nice system idle iowait irq softirq ..., in clock ticks; guests' time is in user and nice. */
uint64_t cl_host_cpu_ns(void)
{
    unsigned long long t[7];
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return 0;
    int n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6]);
    fclose(f);
    return n == 7 ? (t[0] + t[1] + t[2] + t[5] + t[6]) * (1000000000u / (unsigned long long)sysconf(_SC_CLK_TCK)) : 0;
}

bool cl_parse_int(const char *s, int64_t min, int64_t max, int64_t *out)
{
    if (!(isdigit((unsigned char)s[0]) || ((s[0] == '-' || s[0] == '+') && isdigit((unsigned char)s[1])))) return false;
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno || *end || v < min || v > max) return false;
    *out = v;
    return true;
}

bool cl_parse_double(const char *s, double min, double max, double *out)
{
    char c = s[0] == '-' || s[0] == '+' ? s[1] : s[0];
    if (!(isdigit((unsigned char)c) || c == '.')) return false;
    char *end;
    errno = 0;
    double v = strtod(s, &end);
    if (*end || !isfinite(v) || v < min || v > max) return false;
    *out = v;
    return true;
}

bool cl_parse_bytes(const char *s, uint64_t *out)
{
    if (!isdigit((unsigned char)s[0])) return false;
    char *end;
    double v = strtod(s, &end), unit = 1;
    const char *letters = "kMGT", *at = *end ? strchr(letters, *end == 'K' ? 'k' : *end) : NULL;
    if (at) {
        end++;
        unit = pow(*end == 'i' ? 1024 : 1000, (double)(at - letters + 1));
        if (*end == 'i') end++;
    }
    if (*end == 'B') end++;
    if (*end || !(v * unit < 0x1p63)) return false;
    *out = (uint64_t)(v * unit);
    return true;
}

const char *cl_human_bytes(double bytes, char buf[32])
{
    const char *units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int u = 0;
    while (bytes >= 999.5 && u < 5) bytes /= 1000, u++;
    snprintf(buf, 32, u == 0 || bytes >= 99.95 ? "%.0f %s" : bytes >= 9.995 ? "%.1f %s" : "%.2f %s", bytes, units[u]);
    return buf;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double cl_least(const double *values, int n)
{
    double least = values[0];
    for (int i = 1; i < n; i++)
        if (values[i] < least) least = values[i];
    return least;
}

double cl_median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}
