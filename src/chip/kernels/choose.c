/* choose.c: which sets this CPU can run, and the choice of one. */
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "chipline/util.h"
#include "sets.h"

#if defined(__x86_64__)
static bool has_avx2(void)
{
    unsigned a, b, c, d; /* not every compiler's __builtin_cpu_supports knows F16C */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           c & bit_F16C;
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static bool has_amx(void) { return has_avx512() && amx_usable(); }
#elif defined(__aarch64__)
static bool has_neon(void) { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; } /* NEON itself is always there */
#endif

static bool has_always(void) { return true; }

static const struct entry {
    const char *name;
    const cl_kernels *(*set)(void);
    bool (*usable)(void);
} entries[] = {
#if defined(__x86_64__)
    {"neon", NULL, NULL},
    {"amx", cl_kernels_amx, has_amx},
    {"avx512", cl_kernels_avx512, has_avx512},
    {"avx2", cl_kernels_avx2, has_avx2},
#else
    {"amx", NULL, NULL},
    {"avx512", NULL, NULL},
    {"avx2", NULL, NULL},
#if defined(__aarch64__)
    {"neon", cl_kernels_neon, has_neon},
#else
    {"neon", NULL, NULL},
#endif
#endif
    {"generic", cl_kernels_generic, has_always},
    {"reference", cl_kernels_reference, has_always},
};
enum { ENTRIES = sizeof entries / sizeof *entries };

static bool usable(const struct entry *e) { return e->usable && e->usable(); }

cl_code cl_kernels_choose(const char *name, const cl_kernels **out, cl_err *err)
{
    const char *names[ENTRIES];
    for (int i = 0; i < ENTRIES; i++) {
        names[i] = entries[i].name;
        if (name ? strcmp(name, names[i]) != 0 : !usable(&entries[i])) continue;
        if (!usable(&entries[i])) {
            return cl_fail(err, CL_E_FIT, "kernels '%s': this CPU lacks its instructions (best here: %s)", name,
                           cl_kernels_available()[0]);
        }
        *out = entries[i].set();
        return CL_OK;
    }
    const char *near = cl_nearest(name, names, ENTRIES);
    if (near) return cl_fail(err, CL_E_USAGE, "kernels '%s': no such set (did you mean %s?)", name, near);
    return cl_fail(err, CL_E_USAGE, "kernels '%s': no such set (known: amx, avx512, avx2, neon, generic, reference)",
                   name);
}

const char *const *cl_kernels_available(void)
{
    /* The usable names are a tail of the table: each set needs more of the CPU than the one after it, and those of
     * other architectures come first. */
    static const char *const names[] = {
#if defined(__x86_64__)
        "neon",
        "amx",
        "avx512",
        "avx2",
#else
        "amx",
        "avx512",
        "avx2",
        "neon",
#endif
        "generic",
        "reference",
        NULL
    };
    int first = 0;
    while (!usable(&entries[first])) first++;
    return names + first;
}
