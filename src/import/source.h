/* source.h: the tensors of a checkpoint, whatever its container: names, shapes, types, and where their bytes lie.
 *
 * Boundary: containers (gguf.c, safetensors.c) fill a cl_source and check it with cl_source_finish; afterwards every
 * tensor's bytes lie inside its file, names are unique and readable, and no two tensors share a byte. Local. */
#ifndef CHIPLINE_IMPORT_SOURCE_H
#define CHIPLINE_IMPORT_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/format.h"
#include "chipline/status.h"

enum { CL_SRC_DIMS = 8, CL_SRC_FILES = 1000, CL_SRC_NAME = 255 };

typedef struct cl_src_file {
    int fd;
    uint64_t size;
    char *path;
} cl_src_file;

/* Columns that share a scale in 4-bit layouts; rows and columns that share one in FP8's. */
enum { CL_SRC_GROUP = 32, CL_SRC_TILE = 128 };

/* How the numbers of a tensor lie in its file. */
typedef enum cl_src_layout {
    CL_SRC_ROWS, /* rows of `format`, as in a model file */
    /* codes [rows, cols / 32, 16], byte b holds elements 2b (low) and 2b + 1; scale bytes [rows, cols / 32] */
    CL_SRC_MXFP4_PAIRS,
    CL_SRC_FP8_TILES, /* codes [rows, cols]; scales float32 (or bf16) [row tiles, column tiles] of 128 x 128 */
    /* int32 words [rows, cols / 8], element c in bits 4 (c % 8), biased by 8; scales [rows, cols / 32] */
    CL_SRC_INT4_WORDS
} cl_src_layout;

typedef struct cl_src_tensor {
    char *name;
    int n_dims;
    int64_t dims[CL_SRC_DIMS]; /* outermost first; numbers along the last one follow each other */
    int format;                /* cl_format, or -1: none of ours */
    cl_src_layout layout;
    char type[16]; /* as the container calls it */
    int file;
    uint64_t offset, bytes; /* in that file */
    int scale_file;         /* where a joined tensor's scales are (cl_source_join) */
    uint64_t scale_offset, scale_bytes;
    int scale_format; /* CL_F32 or CL_BF16; MXFP4's are bytes */
} cl_src_tensor;

typedef struct cl_source {
    int n_files, n_tensors, cap_tensors;
    cl_src_file *files;
    cl_src_tensor *tensors; /* by name */
} cl_source;

/* Names go into messages and lookups: 1 to max bytes of UTF-8 without spaces and control characters. */
bool cl_readable_name(const char *name, size_t len, size_t max);
/* Opens a file read-only and appends it; its index is n_files - 1. */
cl_code cl_source_add_file(cl_source *s, const char *path, cl_err *err);
/* Exactly n bytes at `offset` of file `file`; CL_E_INPUT if it ends before, CL_E_RUN on a read error. */
cl_code cl_source_read(const cl_source *s, int file, uint64_t offset, size_t n, void *dst, cl_err *err);
/* Appends a tensor (t->name is not looked at; name[0..len) is copied) after checking the name. */
cl_code cl_source_add(cl_source *s, const cl_src_tensor *t, const char *name, size_t len, cl_err *err);
/* Sorts by name, rejects duplicate names and tensors that overlap. */
cl_code cl_source_finish(cl_source *s, cl_err *err);
/* Joins what checkpoints store in several tensors (X_blocks + X_scales; X.weight + X.weight_scale_inv;
 * X.weight_packed + _scale + _shape) into one, named as if it were not quantised, with its real shape and one of our
 * formats; drops the prefix "language_model." of multimodal checkpoints and the tensors of other modalities (*dropped
 * counts them). After cl_source_finish; names are unique and sorted again. */
cl_code cl_source_join(cl_source *s, int *dropped, cl_err *err);
/* Index by name, or -1. */
int cl_source_find(const cl_source *s, const char *name);
/* True if path names one of the files (by device and inode). */
bool cl_source_has_file(const cl_source *s, const char *path);
/* True if out is the file path, or one in the folder path that is no earlier output (*.h5). */
bool cl_source_path_has(const char *path, const char *out);
void cl_source_free(cl_source *s);

/* "[3, 4]" into buf; returns buf. */
enum { CL_SHAPE_TEXT = 128 };
const char *cl_shape_text(const int64_t *dims, int n, char buf[CL_SHAPE_TEXT]);

#endif
