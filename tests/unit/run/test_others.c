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

int main(void)
{
    CU_TestInfo tests[] = {{"shares of the cores", shares_of_the_cores}, CU_TEST_INFO_NULL};
    return run_suite("others", tests);
}
