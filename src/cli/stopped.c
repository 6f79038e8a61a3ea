/* stopped.c: a signal while a large file is written: the part that is there goes. A signal between measurements: what
 * is there stays. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"

/* The only variables of the program that are not of a function: the system calls a handler with the signal's number and
 * nothing else, so what it shall do has to lie where it finds it. Set before a handler is installed; then only `came`
 * changes, from a handler. A process has one set of handlers, whatever threads its libraries start. */
static struct {
    char *tmp, *text; /* a file that is being written; what is said when it goes */
    size_t len;
    volatile sig_atomic_t came; /* a signal that was only noted */
} stopped;

static void on_signal(int sig)
{
    unlink(stopped.tmp); /* it may not be there yet */
    ssize_t n = write(STDERR_FILENO, stopped.text, stopped.len);
    (void)n;
    (void)sig;
    _exit(CL_E_RUN);
}

cl_code cli_drop_when_stopped(const char *path, cl_err *err)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    cl_buf text = {0};
    const char *line = isatty(STDERR_FILENO) ? "\n" : ""; /* progress is on it */
    cl_code c = cl_buf_printf(&text, err, "%schipline: %s: stopped by a signal, nothing was written\n", line, path);
    if (c == CL_OK && !(stopped.tmp = cl_tmp_name(path, err))) c = CL_E_FIT;
    if (c != CL_OK) {
        cl_buf_free(&text);
        return c;
    }
    stopped.text = text.data;
    stopped.len = text.len;
    struct sigaction now = {.sa_handler = on_signal}, was;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (sigaction(signals[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN) sigaction(signals[i], &now, NULL);
    return CL_OK;
}

static void on_stop(int sig) { stopped.came = 1; }

void cli_hold_stop(void)
{
    static const int signals[] = {SIGINT, SIGTERM};
    struct sigaction now = {.sa_handler = on_stop, .sa_flags = SA_RESTART | (int)SA_RESETHAND}, was;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (sigaction(signals[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN) sigaction(signals[i], &now, NULL);
}

bool cli_stop_came(void) { return stopped.came; }
