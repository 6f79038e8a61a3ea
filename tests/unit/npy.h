/* npy.h: reads NumPy's .npy files of little-endian float32 in C order, and raw files: what the fixtures are made of. */
#ifndef CHIPLINE_TESTS_NPY_H
#define CHIPLINE_TESTS_NPY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NPY_MAX_DIMS = 4 };

typedef struct npy {
    int dims;
    int64_t shape[NPY_MAX_DIMS]; /* 1 past dims */
    int64_t count;               /* product of shape */
    float *data;                 /* free() */
} npy;

/* A whole file; NULL if it cannot be read. One byte past the end is allocated and zero. Free with free(). */
static inline unsigned char *npy_read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    unsigned char *data = NULL;
    long end;
    if (fseek(f, 0, SEEK_END) == 0 && (end = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0 &&
        (data = malloc((size_t)end + 1))) {
        *size = fread(data, 1, (size_t)end, f);
        data[*size] = 0;
        if (*size != (size_t)end) {
            free(data);
            data = NULL;
        }
    }
    fclose(f);
    return data;
}

/* False, with a line on stderr, if the file is not there or not such a file. */
static inline bool npy_load(const char *path, npy *out)
{
    size_t size = 0;
    unsigned char *file = npy_read_file(path, &size);
    memset(out, 0, sizeof *out);
    const char *why = "cannot be read";
    if (!file) goto bad;
    why = "is not a float32 .npy file in C order";
    if (size < 12 || memcmp(file, "\x93NUMPY", 6) != 0) goto bad;
    size_t at = file[6] == 1 ? 10 : 12;
    size_t header = file[8] | (size_t)file[9] << 8 |
                    (file[6] == 1 ? 0 : (size_t)file[10] << 16 | (size_t)file[11] << 24);
    if (header > size - at) goto bad;
    char text[1024];
    if (header >= sizeof text) goto bad;
    memcpy(text, file + at, header);
    text[header] = 0;
    const char *shape = strstr(text, "'shape': (");
    if (!strstr(text, "'descr': '<f4'") || !strstr(text, "'fortran_order': False") || !shape) goto bad;
    const char *p = shape + 10;
    out->count = 1;
    for (int i = 0; i < NPY_MAX_DIMS; i++) out->shape[i] = 1;
    while (*p && *p != ')') {
        char *end;
        if (out->dims == NPY_MAX_DIMS) goto bad;
        out->shape[out->dims] = strtoll(p, &end, 10);
        if (end == p) goto bad;
        out->count *= out->shape[out->dims++];
        for (p = end; *p == ',' || *p == ' '; p++) {
        }
    }
    if (out->count < 0 || (size_t)out->count != (size - at - header) / sizeof(float)) goto bad;
    out->data = malloc((size_t)out->count * sizeof(float) + 1);
    if (!out->data) goto bad;
    memcpy(out->data, file + at + header, (size_t)out->count * sizeof(float));
    free(file);
    return true;
bad:
    fprintf(stderr, "%s %s\n", path, why);
    free(file);
    return false;
}

static inline void npy_free(npy *a)
{
    free(a->data);
    a->data = NULL;
}

#endif
