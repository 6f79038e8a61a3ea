/* aborts.h: does a call end the program? It is made in a child. */
#ifndef CHIPLINE_TEST_ABORTS_H
#define CHIPLINE_TEST_ABORTS_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static inline bool aborts(void (*act)(void *ctx), void *ctx)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        act(ctx);
        _exit(0);
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#endif
