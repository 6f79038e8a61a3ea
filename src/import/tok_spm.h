/* tok_spm.h: SentencePiece's tokenizer.model. */
#ifndef CHIPLINE_IMPORT_TOK_SPM_H
#define CHIPLINE_IMPORT_TOK_SPM_H

#include "tok_build.h"

/* Fills l (texts borrowed from file) and d's settings from the bytes of a model file; CL_E_INPUT for damaged ones,
 * and for models that normalise or are no BPE. */
cl_code cl_tok_read_spm(const cl_buf *file, cl_tok_list *l, cl_tokenizer_data *d, cl_err *err);

#endif
