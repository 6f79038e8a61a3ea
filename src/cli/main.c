/* main.c: chipline COMMAND ...: finds the command; help and version. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "chipline/kernels.h"
#include "chipline/line.h"
#include "chipline/store.h"
#include "cli.h"

static const cli_command *const commands[] = {&command_convert, &command_synth,    &command_inspect,
                                              &command_verify,  &command_tokenize, &command_plan,
                                              &command_run,     &command_bench,    &command_collect};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(void)
{
    printf("Usage: chipline COMMAND ...\n"
           "       mpirun -n N chipline run MODEL.h5 -p TEXT\n\n"
           "An assembly line of chips for language models: every MPI rank holds a fixed slice of the model in its own\n"
           "memory; tokens move from rank to rank, weights do not.\n\nCommands:\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-9s %-21s %s\n", commands[i]->name, commands[i]->args, commands[i]->what);
    printf("\n`chipline COMMAND --help` says more; `chipline --version` names the libraries.\n\n"
           "Exit codes: 0 done, 1 a failure while running, 2 wrong command line, 3 bad input, 4 does not fit,\n"
           "75 stopped on request.\n");
}

static void version(void)
{
    char hdf5[32];
    cl_store_library(hdf5, sizeof hdf5);
    printf("%s\nMPI: %s\nHDF5: %s\nkernels:", cli_creator(), cl_ranks_library(), hdf5);
    for (const char *const *k = cl_kernels_available(); *k; k++) printf(" %s", *k);
    printf("\nbuild: %s\n", cli_build_flags());
}

/* A closed standard descriptor would be given to the next file that is opened, MPI's own among them. */
static void open_missing(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) _exit(CL_E_RUN);
}

static int command_line(int argc, char **argv)
{
    cl_err err;
    const char *word = argc > 1 ? argv[1] : "--help";
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        help();
        return argc > 1 ? CL_OK : CL_E_USAGE;
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        version();
        return CL_OK;
    }
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) {
        names[i] = commands[i]->name;
        if (strcmp(word, names[i])) continue;
        char name[64];
        snprintf(name, sizeof name, "chipline %s", names[i]);
        argv[1] = name;
        return cli_main(commands[i], argc - 1, argv + 1);
    }
    const char *near = cl_nearest(word, names, COMMANDS);
    cl_fail(&err, CL_E_USAGE, "%s: unknown command%s%s%s", word,
            near ? " (did you mean " : " (chipline --help lists them", near ? near : "", near ? "?)" : ")");
    return cli_fail(&err);
}

int main(int argc, char **argv)
{
    open_missing();
    /* a reader that went away is an error like a full disk, so that files are left in order */
    signal(SIGPIPE, SIG_IGN);
    int code = command_line(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == CL_OK) {
        cl_err err;
        cl_fail(&err, CL_E_RUN, "stdout: write failed: %s", strerror(errno));
        return cli_fail(&err);
    }
    return code;
}
