/* tok_tiktoken.h: tiktoken's vocabulary files: a line for each token, its bytes in base64 and its rank, which is its
 * id. */
#ifndef CHIPLINE_IMPORT_TOK_TIKTOKEN_H
#define CHIPLINE_IMPORT_TOK_TIKTOKEN_H

#include "tok_build.h"

/* Whether the file's first line is one of tiktoken's. */
bool cl_tok_is_tiktoken(const cl_buf *file);
/* Fills l with the tokens of the file, which are decoded in place and borrowed from there: file is no longer what it
 * was. Ranks are 0 to n-1, each once, in any order: else CL_E_INPUT. Merges follow from the ranks. */
cl_code cl_tok_read_tiktoken(cl_buf *file, cl_tok_list *l, cl_err *err);

/* What the files do not say: how text is split, and the names of the tokens behind the last rank. class:
 * tokenizer_class of tokenizer_config.json, or NULL. Sets d's splits, bos, eos, pad and wrapping, and puts special
 * tokens into ids that l leaves free; *names holds their texts (freed by the caller when l is done with). CL_E_INPUT
 * for vocabularies of no known family. */
cl_code cl_tok_tiktoken_family(cl_tok_list *l, const char *class, cl_tokenizer_data *d, cl_buf *names, cl_err *err);

#endif
