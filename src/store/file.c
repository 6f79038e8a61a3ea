/* file.c: a file, opened or made, and how HDF5's failures are told.
 *
 * A full disk: HDF5 1.10 keeps the id of an object whose close failed, with the object's memory freed, and crashes
 * when it meets that id again. So everything is flushed before it is closed, after a failure nothing is closed any
 * more (the file is emptied and unlinked; a few kB of memory and a descriptor stay with the process), and the
 * library's exit handler, which would close it, is not installed. */
#include "h5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "chipline/util.h"

/* Only heard before HDF5's first use. */
__attribute__((constructor)) static void no_exit_handler(void) { H5dont_atexit(); }

/* --- failures --- */

/* The first message; of one that quotes the operating system ("..., error message = 'No space left', ...") only the
 * quote. */
static herr_t innermost(unsigned n, const H5E_error2_t *e, void *why)
{
    static const char mark[] = "error message = '";
    if (n > 0 || !e->desc) return 0;
    const char *os = strstr(e->desc, mark);
    const char *text = os ? os + sizeof mark - 1 : e->desc;
    snprintf(why, sizeof((h5_scope *)0)->why, "%.*s", (int)(os ? strcspn(text, "'") : strlen(text)), text);
    return 0;
}

/* Called by the library where a call fails; the next call would clear its stack. */
static herr_t note_reason(hid_t stack, void *scope)
{
    char *why = ((h5_scope *)scope)->why;
    return *why ? 0 : H5Ewalk2(stack, H5E_WALK_UPWARD, innermost, why);
}

void h5_enter(h5_scope *s)
{
    s->why[0] = 0;
    H5Eget_auto2(H5E_DEFAULT, &s->print, &s->data);
    H5Eset_auto2(H5E_DEFAULT, note_reason, s);
}

void h5_leave(const h5_scope *s) { H5Eset_auto2(H5E_DEFAULT, s->print, s->data); }

cl_code h5_fail(const h5_scope *s, cl_err *err, cl_code code, const char *fmt, ...)
{
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return cl_fail(err, code, "%s%s%s", msg, s->why[0] ? ": " : "", s->why);
}

cl_code h5_unwritten(const h5_scope *s, cl_store *store, const char *what, const char *name, cl_err *err)
{
    store->failed = true;
    return h5_fail(s, err, CL_E_RUN, "%s%s: cannot be written", what, name);
}

/* --- what files and their parts are made with --- */

hid_t h5_untimed(hid_t class)
{
    hid_t p = H5Pcreate(class);
    if (p < 0 || H5Pset_obj_track_times(p, false) >= 0) return p;
    H5Pclose(p);
    return -1;
}

hid_t h5_text_type(size_t n)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && H5Tset_size(t, n ? n : 1) >= 0 && H5Tset_strpad(t, H5T_STR_NULLPAD) >= 0 &&
        H5Tset_cset(t, H5T_CSET_UTF8) >= 0)
        return t;
    if (t >= 0) H5Tclose(t);
    return -1;
}

h5_number h5_number_of(cl_store_type t)
{
    switch (t) {
    case CL_STORE_U8: return (h5_number){H5T_STD_U8LE, H5T_NATIVE_UINT8, 1};
    case CL_STORE_I32: return (h5_number){H5T_STD_I32LE, H5T_NATIVE_INT32, 4};
    case CL_STORE_U32: return (h5_number){H5T_STD_U32LE, H5T_NATIVE_UINT32, 4};
    case CL_STORE_I64: return (h5_number){H5T_STD_I64LE, H5T_NATIVE_INT64, 8};
    case CL_STORE_U64: return (h5_number){H5T_STD_U64LE, H5T_NATIVE_UINT64, 8};
    case CL_STORE_F32: return (h5_number){H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 4};
    case CL_STORE_F64: return (h5_number){H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 8};
    case CL_STORE_TEXT: break;
    }
    CL_BUG("type %d is no number", (int)t);
}

bool h5_is_hard(hid_t in, const char *name)
{
    H5L_info_t info;
    return H5Lget_info(in, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

/* Access properties: checksummed metadata in one piece, small caches, no raw bytes held back. */
static hid_t access_of(size_t meta_bytes, bool writing)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    H5AC_cache_config_t cache = {.version = H5AC__CURR_CACHE_CONFIG_VERSION};
    bool ok = p >= 0 && H5Pset_fapl_sec2(p) >= 0 && H5Pset_libver_bounds(p, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
              H5Pset_fclose_degree(p, H5F_CLOSE_STRONG) >= 0 && H5Pset_sieve_buf_size(p, 0) >= 0 &&
              /* one chunk of a table */
              (writing ? H5Pset_cache(p, 0, 13, 1 << 20, 1) : H5Pset_cache(p, 0, 0, 0, 0)) >= 0 &&
              H5Pset_meta_block_size(p, meta_bytes) >= 0 && H5Pget_mdc_config(p, &cache) >= 0;
#if H5_VERSION_GE(1, 10, 7)
    /* No locks, which some file systems refuse: a file is written under a name of its own and never changed later. */
    ok = ok && H5Pset_file_locking(p, 0, 1) >= 0;
#endif
    cache.set_initial_size = 1;
    cache.initial_size = cache.min_size = 256 << 10;
    cache.max_size = 1 << 20;
    if (ok && H5Pset_mdc_config(p, &cache) >= 0) return p;
    if (p >= 0) H5Pclose(p);
    return -1;
}

/* HDF5's descriptor of the open file. */
static bool borrow(cl_store *s)
{
    void *handle = NULL;
    if (H5Fget_vfd_handle(s->file, H5P_DEFAULT, &handle) < 0 || !handle) return false;
    s->fd = *(int *)handle;
    return true;
}

static cl_store *store_of(const char *path, cl_err *err)
{
    cl_store *s = cl_calloc(1, sizeof *s, "file", err);
    if (!s) return NULL;
    s->file = s->fd = -1;
    if ((s->path = cl_strdup(path, err))) return s;
    free(s);
    return NULL;
}

static void free_store(cl_store *s)
{
    free(s->tmp);
    free(s->path);
    free(s);
}

/* --- reading --- */

/* The messages that HDF5 could not give: no such file, a folder, another kind of file. */
static cl_code look(const char *path, const char *what, cl_err *err)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[8];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cl_fail(err, CL_E_INPUT, "%s: %s", path, strerror(errno));
    bool folder = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    ssize_t n = folder ? 0 : read(fd, head, sizeof head);
    close(fd);
    if (!folder && n == (ssize_t)sizeof head && memcmp(head, signature, sizeof head) == 0) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: is %s, not %s", path,
                   folder                                   ? "a folder"
                   : n == 0                                 ? "empty"
                   : n >= 4 && memcmp(head, "GGUF", 4) == 0 ? "a GGUF file"
                                                            : "no HDF5 file",
                   what);
}

cl_code cl_store_open(cl_store **out, const char *path, const char *what, cl_err *err)
{
    *out = NULL;
    cl_code c = look(path, what, err);
    if (c != CL_OK) return c;
    cl_store *s = store_of(path, err);
    if (!s) return CL_E_FIT;
    h5_scope scope;
    h5_enter(&scope);
    hid_t access = access_of(2048, false);
    if (access >= 0) s->file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (s->file < 0)
        c = h5_fail(&scope, err, CL_E_INPUT, "%s: is damaged or incomplete, copy or convert it again", path);
    else if (!borrow(s)) c = h5_fail(&scope, err, CL_E_INPUT, "%s: cannot be read", path);
    if (access >= 0) H5Pclose(access);
    h5_leave(&scope);
    if (c == CL_OK) *out = s;
    else cl_store_close(s);
    return c;
}

static void close_opened(cl_store *s)
{
    h5_scope scope;
    h5_enter(&scope);
    H5Fclose(s->file);
    h5_leave(&scope);
}

void cl_store_close(cl_store *s)
{
    if (!s) return;
    if (s->file >= 0) close_opened(s);
    else if (s->fd >= 0) close(s->fd);
    free_store(s);
}

static bool stamp_of(int fd, cl_store_stamp *out)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return false;
    *out = (cl_store_stamp){.bytes = (uint64_t)st.st_size,
                            .inode = (uint64_t)st.st_ino,
                            .changed_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec};
    return true;
}

cl_code cl_store_get_stamp(const cl_store *s, cl_store_stamp *out, cl_err *err)
{
    return stamp_of(s->fd, out) ? CL_OK : cl_fail(err, CL_E_INPUT, "%s: %s", s->path, strerror(errno));
}

cl_code cl_store_open_rows(cl_store **out, const char *path, const cl_store_stamp *stamp, cl_err *err)
{
    cl_store_stamp here = {0};
    *out = NULL;
    cl_store *s = store_of(path, err);
    if (!s) return CL_E_FIT;
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    cl_code c = s->fd >= 0 && stamp_of(s->fd, &here) ? CL_OK
                                                     : cl_fail(err, CL_E_INPUT, "%s: %s", path, strerror(errno));
    if (c == CL_OK && here.bytes == stamp->bytes && here.inode == stamp->inode && here.changed_ns == stamp->changed_ns)
        *out = s;
    else cl_store_close(s);
    return c;
}

/* --- writing --- */

cl_code cl_store_create(cl_store **out, const char *path, size_t meta_bytes, cl_err *err)
{
    *out = NULL;
    cl_code c = cl_check_new(path, err);
    if (c != CL_OK) return c;
    cl_store *s = store_of(path, err);
    if (!s) return CL_E_FIT;
    char *tmp = cl_tmp_name(path, err);
    int fd = tmp ? open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
    if (fd < 0) {
        c = tmp ? cl_fail(err, CL_E_INPUT, "%s: cannot be written: %s", path, strerror(errno)) : CL_E_FIT;
        free(tmp); /* not ours to remove */
        free_store(s);
        return c;
    }
    close(fd);
    s->tmp = tmp;
    h5_scope scope;
    h5_enter(&scope);
    hid_t access = access_of(meta_bytes, true), root = h5_untimed(H5P_FILE_CREATE);
    if (access >= 0 && root >= 0) s->file = H5Fcreate(tmp, H5F_ACC_TRUNC, root, access);
    if (s->file < 0 || !borrow(s)) c = h5_fail(&scope, err, CL_E_RUN, "%s: cannot be created", path);
    if (access >= 0) H5Pclose(access);
    if (root >= 0) H5Pclose(root);
    h5_leave(&scope);
    if (c == CL_OK) *out = s;
    else cl_store_drop(s);
    return c;
}

cl_code cl_store_room(const cl_store *s, uint64_t bytes, const char *remedy, cl_err *err)
{
    struct statvfs fs;
    char need[32], has[32];
    if (fstatvfs(s->fd, &fs) != 0 || fs.f_blocks == 0 || bytes / fs.f_frsize < fs.f_bavail) return CL_OK;
    return cl_fail(err, CL_E_FIT, "needs %s, and its disk has %s (%s)", cl_human_bytes((double)bytes, need),
                   cl_human_bytes((double)fs.f_bavail * (double)fs.f_frsize, has), remedy);
}

/* HDF5 closed, everything in the file; false with HDF5's reason in the scope. */
static bool close_file(cl_store *s)
{
    if (s->failed || H5Fflush(s->file, H5F_SCOPE_GLOBAL) < 0) return false;
    hid_t file = s->file;
    s->file = s->fd = -1;
    return H5Fclose(file) >= 0;
}

static cl_code sync_file(const char *path, cl_err *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool bad = fd < 0 || fsync(fd) != 0;
    int cause = errno;
    if (fd >= 0) close(fd);
    return bad ? cl_fail(err, CL_E_RUN, "cannot be completed: %s", strerror(cause)) : CL_OK;
}

cl_code cl_store_commit(cl_store *s, cl_err *err)
{
    h5_scope scope;
    h5_enter(&scope);
    cl_code c = close_file(s) ? CL_OK : h5_fail(&scope, err, CL_E_RUN, "cannot be completed");
    h5_leave(&scope);
    if (c == CL_OK) c = sync_file(s->tmp, err);
    if (c != CL_OK) {
        s->failed = true;
        cl_fail_prefix(err, "%s", s->path);
    } else c = cl_rename_new(s->tmp, s->path, err);
    if (c == CL_OK) {
        free(s->tmp); /* it has its final name: nothing to remove */
        s->tmp = NULL;
    }
    cl_store_drop(s);
    return c;
}

void cl_store_drop(cl_store *s)
{
    if (!s) return;
    h5_scope scope;
    h5_enter(&scope);
    if (s->file >= 0) close_file(s);
    h5_leave(&scope);
    if (s->fd >= 0) (void)!ftruncate(s->fd, 0); /* still open: its blocks would stay with the descriptor */
    if (s->tmp) unlink(s->tmp);
    free_store(s);
}

const char *cl_store_path(const cl_store *s) { return s->path; }
cl_store_node cl_store_root(cl_store *s) { return (cl_store_node){s, s->file}; }

void cl_store_library(char *buf, size_t n)
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(buf, n, "%u.%u.%u", major, minor, release);
}
