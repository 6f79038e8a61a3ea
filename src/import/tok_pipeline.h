/* tok_pipeline.h: normaliser, pre-tokenizer, decoder and post-processor of a tokenizer.json. */
#ifndef CHIPLINE_IMPORT_TOK_PIPELINE_H
#define CHIPLINE_IMPORT_TOK_PIPELINE_H

#include <jansson.h>

#include "chipline/tokenizer.h"

/* root: the whole tokenizer.json. Sets d's kind, splits, nfc, prefix and wrapping (bos, eos where the post-processor
 * names them). What is not understood is CL_E_INPUT and named: nothing is left out silently. */
cl_code cl_tok_read_pipeline(const json_t *root, cl_tokenizer_data *d, cl_err *err);

#endif
