/* h5.h: what the files of this room share: an open file, and how HDF5's failures become messages. */
#ifndef CHIPLINE_STORE_H5_H
#define CHIPLINE_STORE_H5_H

#include <hdf5.h>

#include "chipline/store.h"

struct cl_store {
    char *path, *tmp; /* tmp: the name while it is written; NULL when reading */
    hid_t file;       /* -1: only rows are read */
    /* HDF5's own, borrowed: the same file, whatever the path means by now; -1 once HDF5 may have closed it. Ours where
     * only rows are read. */
    int fd;
    bool failed; /* something could not be written: nothing of it is closed any more */
};

/* HDF5 prints its errors unless told not to: every public function that calls it runs between enter and leave, which
 * put the caller's setting back. `why` is the first reason of a failure since. */
typedef struct h5_scope {
    H5E_auto2_t print;
    void *data;
    char why[256];
} h5_scope;
void h5_enter(h5_scope *s);
void h5_leave(const h5_scope *s);
/* cl_fail with HDF5's reason after ours. */
cl_code h5_fail(const h5_scope *s, cl_err *err, cl_code code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* "WHAT NAME: cannot be written: reason"; the store has failed. */
cl_code h5_unwritten(const h5_scope *s, cl_store *store, const char *what, const char *name, cl_err *err);

/* Creation properties of a class, without the times at which objects are made. < 0 on failure. */
hid_t h5_untimed(hid_t class);
/* Texts of n bytes (at least 1), UTF-8, filled up with zeros. < 0 on failure. */
hid_t h5_text_type(size_t n);
/* A number's type in the file and in memory, and its bytes. */
typedef struct h5_number {
    hid_t file, memory;
    size_t bytes;
} h5_number;
h5_number h5_number_of(cl_store_type t);
/* A hard link: the object is in this file. */
bool h5_is_hard(hid_t in, const char *name);

#endif
