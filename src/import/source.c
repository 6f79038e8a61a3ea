/* source.c: the tensor list of a checkpoint and bounded reads from its files (source.h). */
#include "source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chipline/util.h"

cl_code cl_source_add_file(cl_source *s, const char *path, cl_err *err)
{
    if (s->n_files >= CL_SRC_FILES) return cl_fail(err, CL_E_INPUT, "%s: more than %d files", path, CL_SRC_FILES);
    cl_src_file *files = cl_realloc(s->files, (size_t)s->n_files + 1, sizeof *files, "source files", err);
    if (!files) return CL_E_FIT;
    s->files = files;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cl_fail(err, CL_E_INPUT, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return cl_fail(err, CL_E_INPUT, "%s: not a regular file", path);
    }
    char *copy = cl_strdup(path, err);
    if (!copy) {
        close(fd);
        return CL_E_FIT;
    }
    s->files[s->n_files++] = (cl_src_file){.fd = fd, .size = (uint64_t)st.st_size, .path = copy};
    return CL_OK;
}

cl_code cl_source_read(const cl_source *s, int file, uint64_t offset, size_t n, void *dst, cl_err *err)
{
    const cl_src_file *f = &s->files[file];
    unsigned char *p = dst;
    while (n > 0) {
        ssize_t got = pread(f->fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return cl_fail(err, CL_E_RUN, "%s: cannot read at byte %llu: %s", f->path, (unsigned long long)offset,
                           strerror(errno));
        if (got == 0)
            return cl_fail(err, CL_E_INPUT, "%s: ends at byte %llu (the file is truncated: copy it again)", f->path,
                           (unsigned long long)offset);
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return CL_OK;
}

bool cl_readable_name(const char *name, size_t len, size_t max)
{
    size_t bad;
    if (len == 0 || len > max || !cl_utf8_valid(name, len, &bad)) return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 0x21 || name[i] == 0x7f) return false;
    return true;
}

cl_code cl_source_add(cl_source *s, const cl_src_tensor *t, const char *name, size_t len, cl_err *err)
{
    if (!cl_readable_name(name, len, CL_SRC_NAME))
        return cl_fail(err, CL_E_INPUT, "tensor %d has no readable name of 1 to %d bytes (the file is damaged)",
                       s->n_tensors, CL_SRC_NAME);
    if (s->n_tensors == s->cap_tensors) {
        if (s->cap_tensors > INT_MAX / 2) return cl_fail(err, CL_E_INPUT, "too many tensors");
        int cap = s->cap_tensors ? 2 * s->cap_tensors : 64;
        cl_src_tensor *more = cl_realloc(s->tensors, (size_t)cap, sizeof *more, "tensor list", err);
        if (!more) return CL_E_FIT;
        s->tensors = more;
        s->cap_tensors = cap;
    }
    char *copy = cl_malloc(len + 1, 1, "tensor name", err);
    if (!copy) return CL_E_FIT;
    memcpy(copy, name, len);
    copy[len] = 0;
    s->tensors[s->n_tensors] = *t;
    s->tensors[s->n_tensors++].name = copy;
    return CL_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cl_src_tensor *)a)->name, ((const cl_src_tensor *)b)->name);
}

static int by_place(const void *a, const void *b)
{
    const cl_src_tensor *x = a, *y = b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

cl_code cl_source_finish(cl_source *s, cl_err *err)
{
    if (s->n_tensors == 0) return CL_OK;
    qsort(s->tensors, (size_t)s->n_tensors, sizeof *s->tensors, by_place);
    const cl_src_tensor *a = NULL;
    for (int i = 0; i < s->n_tensors; i++) {
        const cl_src_tensor *b = &s->tensors[i];
        if (b->bytes == 0) continue;
        if (a && a->file == b->file && b->offset - a->offset < a->bytes)
            return cl_fail(err, CL_E_INPUT, "tensors %s and %s overlap (the file is damaged)", a->name, b->name);
        a = b;
    }
    qsort(s->tensors, (size_t)s->n_tensors, sizeof *s->tensors, by_name);
    for (int i = 1; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return cl_fail(err, CL_E_INPUT, "tensor %s is there twice", s->tensors[i].name);
    return CL_OK;
}

int cl_source_find(const cl_source *s, const char *name)
{
    int lo = 0, hi = s->n_tensors - 1;
    while (lo <= hi) {
        int mid = lo + (hi - lo) / 2, c = strcmp(name, s->tensors[mid].name);
        if (c == 0) return mid;
        if (c < 0) hi = mid - 1;
        else lo = mid + 1;
    }
    return -1;
}

bool cl_source_has_file(const cl_source *s, const char *path)
{
    struct stat a, b;
    if (stat(path, &a) != 0) return false;
    for (int i = 0; i < s->n_files; i++)
        if (fstat(s->files[i].fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino) return true;
    return false;
}

bool cl_source_path_has(const char *path, const char *out)
{
    struct stat a, b;
    if (stat(out, &a) != 0 || stat(path, &b) != 0) return false;
    DIR *d = S_ISDIR(b.st_mode) ? opendir(path) : NULL;
    bool same = a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    for (struct dirent *e; d && !same && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n > 3 && strcmp(e->d_name + n - 3, ".h5") == 0) continue;
        same = fstatat(dirfd(d), e->d_name, &b, 0) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    }
    if (d) closedir(d);
    return same && S_ISREG(a.st_mode);
}

void cl_source_free(cl_source *s)
{
    for (int i = 0; i < s->n_files; i++) {
        close(s->files[i].fd);
        free(s->files[i].path);
    }
    for (int i = 0; i < s->n_tensors; i++) free(s->tensors[i].name);
    free(s->files);
    free(s->tensors);
    *s = (cl_source){0};
}

const char *cl_shape_text(const int64_t *dims, int n, char buf[CL_SHAPE_TEXT])
{
    size_t at = 0;
    buf[at++] = '[';
    for (int i = 0; i < n && at < CL_SHAPE_TEXT - 24; i++)
        at += (size_t)snprintf(buf + at, CL_SHAPE_TEXT - at, "%s%lld", i ? ", " : "", (long long)dims[i]);
    buf[at++] = ']';
    buf[at] = 0;
    return buf;
}
