/* import.h: checkpoints to model files. GGUF and safetensors, config.json and GGUF metadata, translated into the one
 * canonical model of model.h; family names live here and nowhere else.
 *
 * Streams tensor by tensor: memory stays near the largest tensor of the source. Local, no rank talks. All offsets and
 * sizes of a source are checked against its files before use (CL_E_INPUT). */
#ifndef CHIPLINE_IMPORT_H
#define CHIPLINE_IMPORT_H

#include "chipline/model.h"

typedef struct cl_convert_options {
    bool keep;        /* keep each matrix's format (formats that are not native become Q8_0); else use `format` */
    cl_format format; /* of matrices */
    int jobs;         /* threads that encode */
    bool progress, quiet;
    const char *creator; /* "chipline 0.1.0 (revision)" */
} cl_convert_options;

/* SRC: a GGUF file (the first of several works) or a Hugging Face folder. Writes out_path (final name only when
 * complete). */
cl_code cl_convert(const char *src, const char *out_path, const cl_convert_options *opt, cl_err *err);

/* The spec of a config.json (file, or a folder that holds one), and the formats its weights have: the config's own
 * dtype (bf16 where it has none) and quantization_config. */
cl_code cl_import_config(const char *path, cl_spec *spec, cl_formats *formats, cl_err *err);

typedef struct cl_synth_options {
    bool keep; /* the config's own formats; else all matrices in `format` */
    cl_format format;
    uint64_t seed;
    int jobs; /* threads that draw and encode; does not change a bit */
    bool progress, quiet;
    const char *creator;
} cl_synth_options;

/* Random weights of the geometry of a config.json: activations keep unit variance through the layers, routers spread
 * their choices. Streamed; same seed, same bytes. Neither tokenizer nor source weights. */
cl_code cl_synth(const char *config_path, const char *out_path, const cl_synth_options *opt, cl_err *err);

#endif
