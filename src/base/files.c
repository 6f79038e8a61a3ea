/* files.c: whole files in, complete files out; what the machine says of this process and its CPU. */
#include "chipline/util.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

cl_code cl_read_file(const char *path, size_t max, cl_buf *b, cl_err *err)
{
    bool std = strcmp(path, "-") == 0;
    struct stat st;
    FILE *f = std ? stdin : fopen(path, "rb");
    if (!f) return cl_fail(err, CL_E_INPUT, "%s: %s", path, strerror(errno));
    if (!std && fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode)) {
        fclose(f);
        return cl_fail(err, CL_E_INPUT, "%s: is a folder (give a file)", path);
    }
    char part[65536];
    cl_code c = CL_OK;
    size_t n, total = 0;
    while (c == CL_OK && !feof(f) && (n = fread(part, 1, sizeof part, f)) > 0) { /* a terminal's end is said once */
        total += n;
        if (total > max) c = cl_fail(err, CL_E_INPUT, "%s: over %zu bytes", path, max);
        else c = cl_buf_add(b, part, n, err);
    }
    if (c == CL_OK && ferror(f)) c = cl_fail(err, CL_E_INPUT, "%s: %s", path, strerror(errno));
    if (c == CL_OK) c = cl_buf_add(b, "", 0, err);
    if (!std) fclose(f);
    return c;
}

char *cl_tmp_name(const char *path, cl_err *err)
{
    size_t n = strlen(path) + 32;
    char *tmp = cl_malloc(n, 1, "path", err);
    if (tmp) snprintf(tmp, n, "%s.%ld.part", path, (long)getpid());
    return tmp;
}

cl_code cl_rename_new(const char *tmp, const char *path, cl_err *err)
{
    if (rename(tmp, path) == 0) return CL_OK;
    return cl_fail(err, CL_E_RUN, "%s: cannot rename %s to it: %s", path, tmp, strerror(errno));
}

bool cl_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

cl_code cl_check_new(const char *path, cl_err *err)
{
    struct stat st;
    if (!path[0]) return cl_fail(err, CL_E_INPUT, "the name of a file to write is empty (give one)");
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* renaming over a device, a folder or a link would harm */
        bool link = S_ISLNK(st.st_mode);
        const char *kind = link ? "a symbolic link" : S_ISDIR(st.st_mode) ? "a folder" : "not a file";
        return cl_fail(err, CL_E_INPUT, "%s: is %s (give %s)", path, kind,
                       link ? "the name that it points to" : "a file name");
    }
    const char *slash = strrchr(path, '/');
    size_t n = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
    char *folder = n ? strndup(path, n) : strdup(".");
    if (!folder) return cl_fail(err, CL_E_FIT, "%s: out of memory", path);
    int bad = access(folder, W_OK) ? errno : 0;
    free(folder);
    return bad ? cl_fail(err, CL_E_INPUT, "%s: cannot be written: %s", path, strerror(bad)) : CL_OK;
}

cl_code cl_newfile_open(cl_newfile *nf, const char *path, cl_err *err)
{
    *nf = (cl_newfile){0};
    cl_code c = cl_check_new(path, err);
    if (c != CL_OK) return c;
    nf->path = cl_strdup(path, err);
    nf->tmp = nf->path ? cl_tmp_name(path, err) : NULL;
    if (!nf->tmp) {
        cl_newfile_drop(nf);
        return CL_E_FIT;
    }
    nf->f = fopen(nf->tmp, "wb");
    if (nf->f) return CL_OK;
    cl_fail(err, CL_E_INPUT, "%s: cannot be written: %s", path, strerror(errno));
    cl_newfile_drop(nf);
    return CL_E_INPUT;
}

cl_code cl_newfile_commit(cl_newfile *nf, cl_err *err)
{
    bool bad = fflush(nf->f) != 0 || ferror(nf->f) || fsync(fileno(nf->f)) != 0;
    int cause = errno;
    bad = fclose(nf->f) != 0 || bad;
    nf->f = NULL;
    cl_code c = bad ? cl_fail(err, CL_E_RUN, "%s: write failed: %s", nf->path, strerror(cause))
                    : cl_rename_new(nf->tmp, nf->path, err);
    if (c == CL_OK) {
        free(nf->tmp);
        nf->tmp = NULL;
    }
    cl_newfile_drop(nf);
    return c;
}

void cl_newfile_drop(cl_newfile *nf)
{
    if (nf->f) fclose(nf->f);
    if (nf->tmp) unlink(nf->tmp);
    free(nf->tmp);
    free(nf->path);
    *nf = (cl_newfile){0};
}

uint64_t cl_rss_bytes(void)
{
    unsigned long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    int n = fscanf(f, "%lu %lu", &size, &resident);
    fclose(f);
    return n == 2 ? (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

uint64_t cl_rss_peak_bytes(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_maxrss * 1024u : 0;
}

void cl_cpu_name(char *buf, size_t n)
{
    char line[256];
    snprintf(buf, n, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *name = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!name) continue;
        snprintf(buf, n, "%.*s", (int)strcspn(name + 2, "\n"), name + 2);
        break;
    }
    if (f) fclose(f);
}
