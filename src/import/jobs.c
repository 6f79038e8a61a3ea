/* jobs.c: threads for a piece of work (jobs.h). */
#include "jobs.h"

#include <pthread.h>
#include <stdbool.h>

void cl_jobs_run(void *shares, size_t size, int n, void *(*work)(void *share))
{
    pthread_t threads[CL_JOBS_MAX];
    bool started[CL_JOBS_MAX] = {false};
    char *share = shares;
    for (int i = 1; i < n; i++) started[i] = pthread_create(&threads[i], NULL, work, share + (size_t)i * size) == 0;
    for (int i = 0; i < n; i++)
        if (!started[i]) work(share + (size_t)i * size);
    for (int i = 1; i < n; i++)
        if (started[i]) pthread_join(threads[i], NULL);
}
