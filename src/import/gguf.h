/* gguf.h: a checked reader of GGUF v2 and v3, one file or several (split) files seen as one.
 *
 * Boundary: callers need not know where in which file a thing lies. Everything a file says about itself (counts,
 * lengths, offsets, types, alignment, names) is checked at open against the file's real size; what the getters return
 * afterwards is inside the files. Files are read, not mapped (a file that shrinks while it is read is an error, not a
 * signal). Layout: ggml's own description of GGUF. Local. */
#ifndef CHIPLINE_IMPORT_GGUF_H
#define CHIPLINE_IMPORT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chipline/json.h"
#include "chipline/status.h"
#include "source.h"

typedef struct cl_gguf cl_gguf;

/* Opens path and, when it is one of several files (NAME-00001-of-00003.gguf), the others too. CL_E_INPUT with the
 * file's name. */
cl_code cl_gguf_open(cl_gguf **out, const char *path, cl_err *err);
void cl_gguf_close(cl_gguf *g);                    /* NULL is fine */
const cl_source *cl_gguf_source(const cl_gguf *g); /* tensors of all files; file 0 is the first one */

/* --- metadata of the first file; false when the key is missing or its value is of another kind --- */
bool cl_gguf_has(const cl_gguf *g, const char *key);
bool cl_gguf_u64(const cl_gguf *g, const char *key, uint64_t *out); /* any integer type, not negative */
bool cl_gguf_f64(const cl_gguf *g, const char *key, double *out);   /* f32, f64 and integers */
bool cl_gguf_bool(const cl_gguf *g, const char *key, bool *out);
bool cl_gguf_str(const cl_gguf *g, const char *key, const char **s, size_t *n); /* borrowed, no NUL at the end */
/* An array's element type (enum cl_gguf_type) and length. */
bool cl_gguf_array(const cl_gguf *g, const char *key, uint32_t *elem_type, uint64_t *n);
/* Element i of an array, O(1); false past its end or when the element is of another kind. */
bool cl_gguf_array_str(const cl_gguf *g, const char *key, uint64_t i, const char **s, size_t *n);
bool cl_gguf_array_i64(const cl_gguf *g, const char *key, uint64_t i, int64_t *v); /* integers and bools */
bool cl_gguf_array_f64(const cl_gguf *g, const char *key, uint64_t i, double *v);  /* f32, f64 and integers */
/* All metadata; arrays of more than 64 elements only as a text that says how long they are. Caller decrefs. */
cl_code cl_gguf_metadata_json(const cl_gguf *g, json_t **out, cl_err *err);

enum cl_gguf_type { /* of metadata values, the file's own numbers */
                    CL_GGUF_U8,
                    CL_GGUF_I8,
                    CL_GGUF_U16,
                    CL_GGUF_I16,
                    CL_GGUF_U32,
                    CL_GGUF_I32,
                    CL_GGUF_F32,
                    CL_GGUF_BOOL,
                    CL_GGUF_STR,
                    CL_GGUF_ARRAY,
                    CL_GGUF_U64,
                    CL_GGUF_I64,
                    CL_GGUF_F64,
                    CL_GGUF_TYPES
};

#endif
