/* logits.c: rows of logits into a NumPy file, as the chip that samples sees them. */
#include <stdlib.h>

#include "run_internal.h"

/* NumPy's .npy, version 1.0: a header of fixed length, so that it can be rewritten when the number of rows is known. */
enum { NPY_HEADER = 128 };

struct logits_file {
    cl_newfile file;
    int vocab;
    int64_t rows;
};

static void npy_header(char h[NPY_HEADER + 1], int64_t rows, int vocab)
{
    memset(h, ' ', NPY_HEADER);
    memcpy(h, "\x93NUMPY\x01\x00", 8);
    h[8] = (char)(NPY_HEADER - 10);
    h[9] = 0;
    int n = snprintf(h + 10, NPY_HEADER - 10, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %d), }",
                     (long long)rows, vocab);
    h[10 + n] = ' ';
    h[NPY_HEADER - 1] = '\n';
}

cl_code logits_open(logits_file **out, const char *path, int vocab, cl_err *err)
{
    char head[NPY_HEADER + 1];
    logits_file *f = cl_calloc(1, sizeof *f, "logits", err);
    if (!f) return CL_E_FIT;
    f->vocab = vocab;
    npy_header(head, 0, vocab);
    cl_code c = cl_newfile_open(&f->file, path, err);
    if (c == CL_OK && fwrite(head, NPY_HEADER, 1, f->file.f) != 1) c = cl_fail(err, CL_E_RUN, "%s: write failed", path);
    if (c == CL_OK) *out = f;
    else logits_free(f);
    return c;
}

static void row(void *ctx, int32_t slot, int64_t pos, const float *logits, int n)
{
    logits_file *f = ctx;
    f->rows += (int64_t)fwrite(logits, (size_t)n * sizeof *logits, 1, f->file.f); /* errors are seen at the end */
}

cl_row_observer logits_observer(logits_file *f) { return (cl_row_observer){f, f ? row : NULL}; }

cl_code logits_commit(logits_file *f, cl_err *err)
{
    char head[NPY_HEADER + 1];
    npy_header(head, f->rows, f->vocab);
    if (fseek(f->file.f, 0, SEEK_SET) == 0 && fwrite(head, NPY_HEADER, 1, f->file.f) == 1)
        return cl_newfile_commit(&f->file, err);
    cl_code c = cl_fail(err, CL_E_RUN, "%s: write failed", f->file.path);
    cl_newfile_drop(&f->file);
    return c;
}

void logits_free(logits_file *f)
{
    if (!f) return;
    cl_newfile_drop(&f->file);
    free(f);
}
