/* store.h: files that explain themselves: groups, attributes, arrays with checksums and tables, in HDF5, which nothing
 * else has. Model files, traces and checkpoints are made of it.
 *
 * A file is opened for reading, or made: then it has a temporary name beside its own until it is committed, and
 * disappears if it is dropped. What is written is found again bit for bit or not at all: metadata is checksummed,
 * texts have a fixed length (the heaps of others have no checksum), arrays lie in one piece and have the xxh3 of their
 * bytes, tables are in chunks that are deflated, each with its checksum. No times are stored: equal contents, written
 * in the same order, are equal bytes.
 *
 * Boundary: HDF5 stays behind this header; its reason, or the system's, stands at the end of a message. Messages name
 * the thing that failed and not the file: callers put the path, and what they know, in front (cl_fail_prefix). Opening
 * and making name the path themselves.
 * Errors: what is read is not trusted, and anything that is not as it should be is CL_E_INPUT before a byte of it is
 * used; what cannot be written is CL_E_RUN, and the file can then only be dropped; no memory is CL_E_FIT.
 * All local. One thread at a time in the whole process, but for what is marked [any thread]. */
#ifndef CHIPLINE_STORE_H
#define CHIPLINE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "chipline/status.h"

typedef struct cl_store cl_store;

/* What is in a file and can hold other things or attributes: a group, an array. Plain data; `id` is the library's.
 * What gives one says "release it"; those that were not are with the file. */
typedef struct cl_store_node {
    cl_store *store;
    int64_t id; /* -1: none */
} cl_store_node;

/* --- files --- */
/* `what` ends the message about another kind of file: "a model file (chipline convert makes one)". */
cl_code cl_store_open(cl_store **out, const char *path, const char *what, cl_err *err);
void cl_store_close(cl_store *s); /* of one that was opened; NULL is fine */
/* What tells a file from another one under the same path, be it on another host. */
typedef struct cl_store_stamp {
    uint64_t bytes, inode;
    int64_t changed_ns; /* since 1970 */
} cl_store_stamp;
cl_code cl_store_get_stamp(const cl_store *s, cl_store_stamp *out, cl_err *err);
/* For the rows of arrays that another process found in this file: only what is marked [any thread] may be called, and
 * HDF5 is not. *out is NULL if there is another file at path. */
cl_code cl_store_open_rows(cl_store **out, const char *path, const cl_store_stamp *stamp, cl_err *err);
/* A new file. meta_bytes: about what groups, attributes and headers will take (600 for an array with six attributes);
 * they are kept together at the front. */
cl_code cl_store_create(cl_store **out, const char *path, size_t meta_bytes, cl_err *err);
/* CL_E_FIT if the new file's disk is known not to have room for so many bytes; the remedy ends the message. */
cl_code cl_store_room(const cl_store *s, uint64_t bytes, const char *remedy, cl_err *err);
/* All of it on the disk, then under its name. Ends the store either way. */
cl_code cl_store_commit(cl_store *s, cl_err *err);
void cl_store_drop(cl_store *s); /* nothing of it stays; NULL is fine */
const char *cl_store_path(const cl_store *s);
cl_store_node cl_store_root(cl_store *s); /* not to be released */
/* Version of the HDF5 library in use, as text. */
void cl_store_library(char *buf, size_t n);

/* --- groups --- */
cl_code cl_store_make_group(cl_store_node in, const char *name, const char *description, cl_store_node *out,
                            cl_err *err);                                                         /* release it */
cl_code cl_store_open_group(cl_store_node in, const char *name, cl_store_node *out, cl_err *err); /* release it */
void cl_store_release(cl_store_node *n); /* n->id is -1 afterwards; one that is -1 is fine */
cl_code cl_store_has(cl_store_node in, const char *name, bool *yes, cl_err *err);
cl_code cl_store_count(cl_store_node group, uint64_t *n, cl_err *err);
/* The name of the i-th thing in a group, in alphabetical order; longer than cap - 1 bytes is CL_E_INPUT. */
cl_code cl_store_name(cl_store_node group, uint64_t i, char *buf, size_t cap, cl_err *err);

/* --- attributes --- */
enum { CL_STORE_TEXT_MAX = 8191 /* bytes of the longest text */ };
cl_code cl_store_put_text(cl_store_node n, const char *name, const char *text, cl_err *err);
cl_code cl_store_put_ints(cl_store_node n, const char *name, const int64_t *v, int count,
                          cl_err *err); /* 0: a scalar */
cl_code cl_store_put_int(cl_store_node n, const char *name, int64_t v, cl_err *err);
cl_code cl_store_put_u64(cl_store_node n, const char *name, uint64_t v, cl_err *err);
cl_code cl_store_put_double(cl_store_node n, const char *name, double v, cl_err *err);
cl_code cl_store_put_bool(cl_store_node n, const char *name, bool v, cl_err *err); /* as h5py and PyTables do */
/* A checksum: 16 hexadecimal digits, which set_hash replaces. */
cl_code cl_store_put_hash(cl_store_node n, const char *name, uint64_t v, cl_err *err);
cl_code cl_store_set_hash(cl_store_node n, const char *name, uint64_t v, cl_err *err);

cl_code cl_store_has_attribute(cl_store_node n, const char *name, bool *yes, cl_err *err);
cl_code cl_store_get_text(cl_store_node n, const char *name, char *buf, size_t cap, cl_err *err);
cl_code cl_store_get_ints(cl_store_node n, const char *name, int64_t *v, int count, cl_err *err); /* 0: a scalar */
cl_code cl_store_get_u64(cl_store_node n, const char *name, uint64_t *v, cl_err *err);
cl_code cl_store_get_double(cl_store_node n, const char *name, double *v, cl_err *err);
cl_code cl_store_get_hash(cl_store_node n, const char *name, uint64_t *v, cl_err *err);

/* A text of any length as a data set of its own. Read back by whoever reads the file with other tools. */
cl_code cl_store_put_document(cl_store_node in, const char *name, const char *text, const char *description,
                              cl_err *err);

/* --- arrays: numbers in one piece, little-endian, the last dimension fastest --- */
typedef enum cl_store_type {
    CL_STORE_U8,
    CL_STORE_I32,
    CL_STORE_U32,
    CL_STORE_I64,
    CL_STORE_U64,
    CL_STORE_F32,
    CL_STORE_F64,
    CL_STORE_TEXT /* columns only: UTF-8 of fixed length, filled up with zeros */
} cl_store_type;

enum { CL_STORE_DIMS = 4 };
typedef struct cl_store_array {
    cl_store_type type;
    int rank; /* 1 to CL_STORE_DIMS */
    uint64_t dims[CL_STORE_DIMS];
    uint64_t at; /* of one that was made or opened: its first byte in the file (0 where it has none) */
} cl_store_array;
uint64_t cl_store_array_bytes(const cl_store_array *a);

/* All at once, with its checksum. unit may be NULL. */
cl_code cl_store_put_array(cl_store_node in, const char *name, const cl_store_array *a, const char *description,
                           const char *unit, const void *data, cl_err *err);
/* Room for it, written in pieces later; fills a->at. Its attributes are the caller's, a checksum too. */
cl_code cl_store_make_array(cl_store_node in, const char *name, cl_store_array *a, const char *description,
                            cl_store_node *out, cl_err *err); /* release it */
/* One of a->type and a->rank, whose bytes are all in the file; fills dims and at. out may be NULL. */
cl_code cl_store_open_array(cl_store_node in, const char *name, cl_store_array *a, cl_store_node *out,
                            cl_err *err); /* release it */
/* The same, all of it (malloced, one zero byte more than its size), checked against its checksum, which goes to *hash
 * (may be NULL). */
cl_code cl_store_get_array(cl_store_node in, const char *name, cl_store_array *a, void **data, uint64_t *hash,
                           cl_err *err);

/* Rows are what lies along the last dimension (of a list: single numbers), counted through all others. Outside the
 * array aborts; a disk that fails is CL_E_RUN, and no message names the array. [any thread] */
cl_code cl_store_read_rows(const cl_store *s, const cl_store_array *a, uint64_t first, uint64_t n, void *dst,
                           cl_err *err);
cl_code cl_store_write_rows(cl_store *s, const cl_store_array *a, uint64_t first, uint64_t n, const void *rows,
                            cl_err *err);
/* count[i] of each dimension from start[i] on, packed in memory. [any thread] */
cl_code cl_store_read_slab(const cl_store *s, const cl_store_array *a, const uint64_t *start, const uint64_t *count,
                           void *dst, cl_err *err);
cl_code cl_store_write_slab(cl_store *s, const cl_store_array *a, const uint64_t *start, const uint64_t *count,
                            const void *src, cl_err *err);
/* XXH3-64 of its bytes as they are in the file. [any thread] */
cl_code cl_store_hash_array(const cl_store *s, const cl_store_array *a, uint64_t *hash, cl_err *err);

/* Reads `name`, of a group everything in it, and compares the arrays that have a checksum ("xxh3"). */
cl_code cl_store_verify(cl_store_node in, const char *name, cl_err *err);

/* --- tables: rows of a struct, each column with its unit and meaning --- */
typedef struct cl_store_column {
    const char *name, *unit, *description;
    cl_store_type type;
    size_t offset, bytes; /* in the struct */
} cl_store_column;

/* The type follows from the member's own. */
#define CL_STORE_COLUMN(struct_, member, unit, description)                                              \
    {                                                                                                    \
#member, unit, description,                                                                            \
        _Generic(((struct_ *)0)->member, int32_t: CL_STORE_I32, uint32_t: CL_STORE_U32, int64_t: CL_STORE_I64, \
                 uint64_t: CL_STORE_U64, float: CL_STORE_F32, double: CL_STORE_F64, char *: CL_STORE_TEXT),    \
        offsetof(struct_, member), sizeof(((struct_ *)0)->member) \
    }

typedef struct cl_store_row { /* one kind of row; what it points to is kept by the caller as long as it is used */
    const cl_store_column *columns;
    int n;
    size_t bytes; /* of the struct */
} cl_store_row;
#define CL_STORE_ROW(struct_, columns)                                       \
    {                                                                        \
        columns, (int)(sizeof(columns) / sizeof *(columns)), sizeof(struct_) \
    }

/* COLUMN.unit and COLUMN.description as attributes, for a group of equal tables. */
cl_code cl_store_describe(cl_store_node n, const cl_store_row *row, cl_err *err);

typedef struct cl_store_table { /* open for appending */
    cl_store_node node;
    const cl_store_row *row;
    uint64_t rows;
} cl_store_table;
/* described: with the attributes of cl_store_describe. chunk: rows that are deflated together, at least 1. */
cl_code cl_store_make_table(cl_store_node in, const char *name, const cl_store_row *row, bool described, uint64_t chunk,
                            cl_store_table *out, cl_err *err);
/* One that was made and closed, to be continued. */
cl_code cl_store_open_table(cl_store_node in, const char *name, const cl_store_row *row, cl_store_table *out,
                            cl_err *err);
cl_code cl_store_append(cl_store_table *t, const void *rows, uint64_t n, cl_err *err);
cl_code cl_store_close_table(cl_store_table *t, cl_err *err); /* of one whose node.id is -1: nothing */
/* All three at once, for few rows. */
cl_code cl_store_put_table(cl_store_node in, const char *name, const cl_store_row *row, const void *rows, uint64_t n,
                           cl_err *err);
/* All rows as structs (malloced): every column of `row` is there, texts end in a zero byte. More than max rows is
 * CL_E_INPUT. Columns that `row` does not have are left out. */
cl_code cl_store_get_table(cl_store_node in, const char *name, const cl_store_row *row, uint64_t max, void **rows,
                           uint64_t *n, cl_err *err);

#endif
