/* tok_import.h: the tokenizer of a checkpoint. *out is NULL when the source has none (not an error); the caller frees
 * it with cl_tokenizer_data_free. Local. */
#ifndef CHIPLINE_IMPORT_TOK_IMPORT_H
#define CHIPLINE_IMPORT_TOK_IMPORT_H

#include "chipline/tokenizer.h"

struct cl_gguf; /* gguf.h */

/* tokenizer.json, or where there is none tokenizer.model (SentencePiece or tiktoken) or tiktoken.model, with
 * tokenizer_config.json and chat_template.jinja. */
cl_code cl_tok_from_hf_folder(const char *dir, cl_tokenizer_data **out, cl_err *err);
cl_code cl_tok_from_gguf(const struct cl_gguf *g, cl_tokenizer_data **out, cl_err *err);

#endif
