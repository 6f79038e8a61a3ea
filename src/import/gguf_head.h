/* gguf_head.h: one GGUF file's header: reading it forward, and looking at its metadata. Inside gguf*.c only. */
#ifndef CHIPLINE_IMPORT_GGUF_HEAD_H
#define CHIPLINE_IMPORT_GGUF_HEAD_H

#include "gguf.h"

typedef struct cl_kv {
    size_t key, key_len; /* in bytes */
    uint32_t type, elem; /* elem: of arrays */
    uint64_t n;          /* elements, or bytes of a string */
    size_t at;           /* value's first byte; for arrays of strings: first entry of `strings` */
} cl_kv;

/* The header is one growing block of bytes: nothing in it is copied. */
typedef struct cl_head {
    unsigned char *bytes;
    size_t have, pos; /* bytes read from the file, bytes understood */
    cl_kv *kv;        /* by key */
    size_t n_kv;
    size_t *strings; /* where each string of the string arrays begins (its length, then its bytes) */
    size_t n_strings, cap_strings;
} cl_head;

struct cl_gguf {
    cl_source source;
    cl_head head; /* of the first file */
};

typedef struct cl_head_reader {
    cl_head *h;
    const cl_source *s;
    int file;
    cl_err *err;
} cl_head_reader;

/* The next n bytes; CL_E_INPUT says that `what` does not fit in the file. */
cl_code cl_head_get(cl_head_reader *r, void *dst, size_t n, const char *what);
/* A string of at most max bytes: *at and *n are its place. */
cl_code cl_head_get_str(cl_head_reader *r, const char *what, uint64_t max, size_t *at, size_t *n);
/* n pairs of key and value. */
cl_code cl_head_get_metadata(cl_head_reader *r, uint64_t n);
const cl_kv *cl_head_find(const cl_head *h, const char *key);
bool cl_head_u64(const cl_head *h, const char *key, uint64_t *out);
void cl_head_free(cl_head *h);

extern const uint8_t cl_gguf_value_size[CL_GGUF_TYPES]; /* bytes; 0 for strings and arrays */

#endif
