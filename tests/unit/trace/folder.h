/* folder.h: a temporary folder for one test program, and events that say which they are. */
#ifndef CHIPLINE_TEST_TRACE_FOLDER_H
#define CHIPLINE_TEST_TRACE_FOLDER_H

#include <dirent.h>
#include <unistd.h>

#include "chipline/trace.h"
#include "suite.h"

static char folder[256];

static inline void folder_make(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/chipline-trace-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(EXIT_FAILURE);
    }
}

/* The path of `name` in the folder; one buffer per call site's slot. */
static inline const char *in_folder(const char *name)
{
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, 512, "%s/%s", folder, name);
    return p;
}

/* Files in the folder. */
static inline int folder_count(void)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

/* Removes the folder and what a failed test left in it; 1 if it was not empty. */
static inline int folder_remove(void)
{
    int left = folder_count();
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            fprintf(stderr, "left behind: %s\n", e->d_name);
            unlink(in_folder(e->d_name));
        }
    if (d) closedir(d);
    return rmdir(folder) != 0 || left != 0;
}

/* Event number i: every field depends on i. */
static inline cl_event numbered(uint64_t i)
{
    return (cl_event){.start_ns = 1000 * i,
                      .end_ns = 1000 * i + i % 997,
                      .cpu_ns = i + 1,
                      .weight_bytes = 3 * i,
                      .kv_bytes = 5 * i,
                      .msg_bytes = 7 * i,
                      .microbatch = (int64_t)(i / 4),
                      .kind = (int32_t)(i % CL_EV_KINDS),
                      .layer = (int32_t)(i % 61),
                      .tokens = (int32_t)(i % 512),
                      .parts = (int32_t)(i % 17),
                      .peer = (int32_t)(i % 5) - 1,
                      .experts = (int32_t)(i % 8),
                      .gathers = (int32_t)(i % 3)};
}
static inline bool is_numbered(const cl_event *e, uint64_t i)
{
    cl_event want = numbered(i);
    return memcmp(e, &want, sizeof want) == 0;
}

/* Part number i, as recorded: the rank is not known yet. */
static inline cl_trace_part numbered_part(uint64_t i)
{
    return (cl_trace_part){.microbatch = (int64_t)(i / 3),
                           .request = (int32_t)(i % 7),
                           .slot = (int32_t)(i % 4),
                           .position = (int32_t)(11 * i),
                           .tokens = (int32_t)(i % 64) + 1,
                           .outputs = (int32_t)(i % 2),
                           .guesses = (int32_t)(i % 5),
                           .forked_from = (int32_t)(i % 3) - 1,
                           .flags = (int32_t)(i % 4)};
}

#endif
