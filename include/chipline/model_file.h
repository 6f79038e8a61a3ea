/* model_file.h: MODEL.h5, the one place where weights rest (HDF5, serial flavour: every rank opens the file read-only
 * and reads its own hyperslabs; nothing is collective, so MPI-IO would add a dependency and no speed).
 *
 * Layout, format version 1 (root attribute "chipline_model" = 1):
 *   /spec            JSON text, uint8 [n]        /source_config   the checkpoint's own config, verbatim, uint8 [n]
 *   /tensors/NAME    uint8 [rows, bytes_per_row] or [experts, rows, bytes_per_row], contiguous;
 *                    (fp8: codes only, [.., rows, cols]; its scales are /scales/NAME, float32 [.., row tiles, column
 *                    tiles]); attributes format ("q8_0"), shape (int64, numbers not bytes), xxh3 (16 hex digits),
 *                    role, layer
 *   /tokenizer       tokenizer.h's section: arrays, its numbers as attributes; absent when the source had none
 *   root attributes  creator, source, checksum (xxh3 over the checksums of /spec and of all tensors in canonical order)
 * Everything has a description attribute, every array an xxh3 of its bytes; with the store's checksummed metadata a
 * flipped byte anywhere is found.
 *
 * Boundary: callers need not know how tensors rest in the file; sections of other rooms are read and written through
 * its store. All local, no rank talks. Every size is checked before use: a lying file is CL_E_INPUT. */
#ifndef CHIPLINE_MODEL_FILE_H
#define CHIPLINE_MODEL_FILE_H

#include "chipline/model.h"

typedef struct cl_store cl_store; /* store.h */

/* --- writing: create, tensors in any order, each in one or more row runs, then commit --- */
typedef struct cl_model_writer cl_model_writer;
/* For all tensors of m (shapes, formats). The final name appears only at commit. source_config may be NULL. */
cl_code cl_model_writer_create(cl_model_writer **out, const char *path, const cl_model *m, const char *source,
                               const char *source_config, cl_err *err);
/* Where other rooms put their sections: before the creator and the first rows, so that they lie in front of the
 * tensors. */
cl_store *cl_model_writer_store(cl_model_writer *w);
/* Optional: the program and revision that writes, as the root attribute "creator". */
cl_code cl_model_writer_creator(cl_model_writer *w, const char *creator, cl_err *err);
/* Appends the next `rows` rows of tensor index `tensor` (rows of experts follow each other: expert-major), in
 * format.h's row layout; rows of one fp8 tile must repeat its scales (CL_E_INPUT). */
cl_code cl_model_writer_rows(cl_model_writer *w, int tensor, const void *rows, int64_t n_rows, cl_err *err);
/* CL_E_INPUT if a tensor is incomplete. Ends the writer either way. */
cl_code cl_model_writer_commit(cl_model_writer *w, cl_err *err);
void cl_model_writer_drop(cl_model_writer *w);

/* --- reading --- */
typedef struct cl_model_file cl_model_file;
/* Opens, reads spec and tensor list into a model owned by the file, checks all of it (names, shapes, sizes). */
cl_code cl_model_file_open(cl_model_file **out, const char *path, cl_err *err);
/* What was read so (malloced): with it another process of the same program opens the file without reading it again,
 * for its rows only (no store, no config, no verify). Where there is another file at its path, it opens that one as
 * usual. */
cl_code cl_model_file_describe(const cl_model_file *f, void **described, size_t *bytes, cl_err *err);
cl_code cl_model_file_open_described(cl_model_file **out, const char *path, const void *described, size_t bytes,
                                     cl_err *err);
void cl_model_file_close(cl_model_file *f);
const cl_model *cl_model_file_model(const cl_model_file *f);
uint64_t cl_model_file_checksum(const cl_model_file *f); /* identifies weights and layout */
const char *cl_model_file_source(const cl_model_file *f);
const char *cl_model_file_path(const cl_model_file *f); /* as it was opened */
/* Rows [row0, row0+n) of one expert (0 for a plain tensor) into dst, n * row_bytes bytes. Rows outside the tensor
 * abort; CL_E_RUN if the disk fails. May be called by several threads at once, unlike everything else here. */
cl_code cl_model_file_read(const cl_model_file *f, int tensor, int64_t expert, int64_t row0, int64_t n, void *dst,
                           cl_err *err);
/* The verbatim config into a malloced string, NULL if there is none. */
cl_code cl_model_file_source_config(const cl_model_file *f, char **out, cl_err *err);
/* Borrowed: where other rooms find their sections. */
cl_store *cl_model_file_store(const cl_model_file *f);
/* The file as a reader of tensors; f outlives it. */
cl_tensor_reader cl_model_file_reader(const cl_model_file *f);
/* Reads everything, compares every checksum; CL_E_INPUT names the first wrong tensor. What a section means is for its
 * room to check. */
cl_code cl_model_file_verify(const cl_model_file *f, bool progress, cl_err *err);

#endif
