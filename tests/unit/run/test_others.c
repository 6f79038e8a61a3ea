/* What other processes used of the cores, seen from one that uses all it can get. */
#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "chipline/run.h"
#include "chipline/util.h"
#include "suite.h"

enum { MOST = 64 };

static void *spin(void *until)
{
    while (cl_now_ns() < *(const uint64_t *)until) {
    }
    return NULL;
}

/* There are only so many cores: what this process had and what others had is at most all of them. */
static void shares_of_the_cores(void)
{
    pthread_t threads[MOST];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int n = cores < MOST ? (int)cores : MOST;
    const uint64_t begun = cl_now_ns(), own = cl_process_cpu_ns(), until = begun + 700000000;
    const cl_others others = cl_others_begin(own);
    for (int i = 0; i < n; i++) CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, spin, (void *)&until), 0);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    const uint64_t used = cl_process_cpu_ns();
    const double their = cl_others_cores(&others, used), mine = (double)(used - own) / (double)(cl_now_ns() - begun);
    if (isnan(their)) return; /* not known here */
    CU_ASSERT(their >= 0 && their + mine < (double)cores + 0.3);
    if (their + mine >= (double)cores + 0.3) fprintf(stderr, "%g and %g of %ld cores\n", their, mine, cores);
}

/* Nothing is known where the beginning is not, or no time has passed; and nobody else is not less than nobody. */
static void not_known(void)
{
    const uint64_t now = cl_now_ns(), host = cl_host_cpu_ns(), hour = UINT64_C(3600000000000);
    const cl_others no_host = {now - 1000, 0, 0}, no_time = {now + hour, 1, 0}, all_own = {now - 1000, host, 0};
    CU_ASSERT(isnan(cl_others_cores(&no_host, 0)));
    CU_ASSERT(isnan(cl_others_cores(&no_time, 0)));
    if (host) CU_ASSERT_EQUAL(cl_others_cores(&all_own, hour), 0);
}

/* What the host had since some moment, without what this run had, by the time since: within what passes meanwhile. */
static void by_the_time(void)
{
    const uint64_t second = 1000000000, now = cl_now_ns(), host = cl_host_cpu_ns();
    if (host < 4 * second || now < 2 * second) return;
    const cl_others begin = {now - second, host - 3 * second, 5 * second};
    const double cores = (double)sysconf(_SC_NPROCESSORS_ONLN), their = cl_others_cores(&begin, 6 * second),
                 passed = (double)(cl_now_ns() - now) / (double)second;
    CU_ASSERT(their <= 2 + cores * (passed + 0.2) && their >= 2 / (1 + passed)); /* a core is counted late */
}

int main(void)
{
    CU_TestInfo tests[] = {{"shares of the cores", shares_of_the_cores},
                           {"not known", not_known},
                           {"by the time", by_the_time},
                           CU_TEST_INFO_NULL};
    return run_suite("others", tests);
}
