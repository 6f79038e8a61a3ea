/* safetensors.c: headers of safetensors files and their index (safetensors.h). */
#include "safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chipline/json.h"
#include "chipline/util.h"

enum { MAX_HEADER = 100000000 }; /* the format's own limit */

static const struct {
    const char *name;
    int bytes, format;
} dtypes[] = {
    {"F32", 4, CL_F32}, {"F16", 2, CL_F16}, {"BF16", 2, CL_BF16}, {"F64", 8, -1},     {"I64", 8, -1}, {"I32", 4, -1},
    {"I16", 2, -1},     {"I8", 1, -1},      {"U64", 8, -1},       {"U32", 4, -1},     {"U16", 2, -1}, {"U8", 1, -1},
    {"BOOL", 1, -1},    {"F8_E4M3", 1, -1}, {"F8_E5M2", 1, -1},   {"F8_E8M0", 1, -1}, {"C64", 8, -1},
};

/* One entry of the header, checked against `room` data bytes that begin at `data` in the file. */
static cl_code read_entry(cl_source *s, const char *name, const json_t *v, uint64_t data, uint64_t room, cl_err *err)
{
    cl_src_tensor t = {.file = s->n_files - 1};
    const char *dtype = NULL;
    const json_t *shape = NULL, *place = NULL;
    if (!json_is_object(v)) return cl_fail(err, CL_E_INPUT, "is not an object");
    cl_code c = cl_json_str(v, "dtype", true, &dtype, err);
    if (c == CL_OK) c = cl_json_array(v, "shape", true, &shape, err);
    if (c == CL_OK) c = cl_json_array(v, "data_offsets", true, &place, err);
    if (c != CL_OK) return c;
    size_t k = 0, kinds = sizeof dtypes / sizeof *dtypes;
    while (k < kinds && strcmp(dtypes[k].name, dtype) != 0) k++;
    if (k == kinds) return cl_fail(err, CL_E_INPUT, "dtype %.40s is unknown", dtype);
    if (json_array_size(shape) > CL_SRC_DIMS)
        return cl_fail(err, CL_E_INPUT, "has more than %d dimensions", CL_SRC_DIMS);
    t.n_dims = (int)json_array_size(shape);
    int64_t bytes = dtypes[k].bytes;
    for (int i = 0; i < t.n_dims; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        t.dims[i] = json_integer_value(d);
        if (!json_is_integer(d) || t.dims[i] < 0 || __builtin_mul_overflow(bytes, t.dims[i], &bytes))
            return cl_fail(err, CL_E_INPUT, "has an impossible shape");
    }
    const json_t *b = json_array_get(place, 0), *e = json_array_get(place, 1);
    json_int_t begin = json_integer_value(b), end = json_integer_value(e);
    if (json_array_size(place) != 2 || !json_is_integer(b) || !json_is_integer(e) || begin < 0 || end < begin ||
        (uint64_t)end > room)
        return cl_fail(err, CL_E_INPUT,
                       "its data_offsets are not inside the file's %llu data bytes (the file is truncated or damaged)",
                       (unsigned long long)room);
    if (end - begin != bytes)
        return cl_fail(err, CL_E_INPUT, "its data_offsets span %lld bytes, its shape and dtype make %lld",
                       (long long)(end - begin), (long long)bytes);
    t.offset = data + (uint64_t)begin;
    t.bytes = (uint64_t)bytes;
    t.format = dtypes[k].format;
    snprintf(t.type, sizeof t.type, "%s", dtype);
    return cl_source_add(s, &t, name, strlen(name), err);
}

/* Reads the header of the file last added to s. */
static cl_code read_header(cl_source *s, cl_err *err)
{
    int file = s->n_files - 1;
    uint64_t size = s->files[file].size, n, used = 0;
    if (size < 8) return cl_fail(err, CL_E_INPUT, "is too short for a safetensors file");
    unsigned char le[8];
    cl_code c = cl_source_read(s, file, 0, 8, le, err);
    if (c != CL_OK) return c;
    n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | le[i];
    if (n > MAX_HEADER || n > size - 8)
        return cl_fail(
            err, CL_E_INPUT,
            "its header of %llu bytes does not fit the file of %llu (it is truncated, or not a safetensors file)",
            (unsigned long long)n, (unsigned long long)size);
    char *text = cl_malloc(n, 1, "safetensors header", err);
    if (!text) return CL_E_FIT;
    json_t *head = NULL;
    c = cl_source_read(s, file, 8, n, text, err);
    if (c == CL_OK) c = cl_json_parse(text, n, "header", &head, err);
    free(text);
    if (c == CL_OK && !json_is_object(head)) c = cl_fail(err, CL_E_INPUT, "its header is not an object");
    const char *name;
    json_t *v;
    int first = s->n_tensors;
    if (c == CL_OK) {
        json_object_foreach(head, name, v)
        {
            if (strcmp(name, "__metadata__") == 0) continue;
            c = read_entry(s, name, v, 8 + n, size - 8 - n, err);
            if (c != CL_OK) {
                cl_fail_prefix(err, "tensor %.200s", name);
                break;
            }
        }
    }
    json_decref(head);
    if (c != CL_OK) return c;
    /* No overlap (cl_source_finish) and a sum that is the whole: so there is no hole either. */
    for (int i = first; i < s->n_tensors; i++)
        if (__builtin_add_overflow(used, s->tensors[i].bytes, &used)) used = UINT64_MAX;
    if (used != size - 8 - n)
        return cl_fail(err, CL_E_INPUT, "its tensors make %llu bytes, its data has %llu (it is truncated or damaged)",
                       (unsigned long long)used, (unsigned long long)(size - 8 - n));
    return CL_OK;
}

static cl_code open_one(cl_source *s, const char *dir, const char *name, cl_err *err)
{
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = cl_malloc(n, 1, "path", err);
    if (!path) return CL_E_FIT;
    snprintf(path, n, "%s/%s", dir, name);
    cl_code c = cl_source_add_file(s, path, err);
    if (c == CL_OK && (c = read_header(s, err)) != CL_OK) cl_fail_prefix(err, "%s", path);
    free(path);
    return c;
}

/* Which of the open files has this name in dir; -1: none yet. */
static int file_by_name(const cl_source *s, const char *dir, const char *name)
{
    for (int i = 0; i < s->n_files; i++)
        if (strcmp(s->files[i].path + strlen(dir) + 1, name) == 0) return i;
    return -1;
}

static cl_code open_shards(cl_source *s, const char *dir, const json_t *index, cl_err *err)
{
    const json_t *map = NULL;
    if (!json_is_object(index)) return cl_fail(err, CL_E_INPUT, "is not an object");
    cl_code c = cl_json_object(index, "weight_map", true, &map, err);
    if (c != CL_OK) return c;
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)map, name, v)
    {
        const char *file = json_string_value(v);
        if (!file || !cl_readable_name(file, json_string_length(v), 255) || strchr(file, '/') || file[0] == '.')
            return cl_fail(err, CL_E_INPUT, "weight_map: %.200s: is not the name of a file in this folder", name);
        if (file_by_name(s, dir, file) < 0 && (c = open_one(s, dir, file, err)) != CL_OK) return c;
    }
    if ((c = cl_source_finish(s, err)) != CL_OK) return c;
    json_object_foreach((json_t *)map, name, v)
    {
        int t = cl_source_find(s, name);
        if (t < 0 || s->tensors[t].file != file_by_name(s, dir, json_string_value(v)))
            return cl_fail(err, CL_E_INPUT, "weight_map: tensor %.200s is not in %s", name, json_string_value(v));
    }
    return CL_OK;
}

cl_code cl_safetensors_open(cl_source *s, const char *dir, cl_err *err)
{
    *s = (cl_source){0};
    cl_buf single = {0}, index = {0};
    json_t *j = NULL;
    cl_code c = cl_buf_printf(&single, err, "%s/model.safetensors", dir);
    if (c == CL_OK) c = cl_buf_printf(&index, err, "%s/model.safetensors.index.json", dir);
    if (c == CL_OK && access(single.data, F_OK) == 0) {
        c = open_one(s, dir, "model.safetensors", err);
        if (c == CL_OK && (c = cl_source_finish(s, err)) != CL_OK) cl_fail_prefix(err, "%s", single.data);
    } else if (c == CL_OK && access(index.data, F_OK) == 0) {
        c = cl_json_load(index.data, &j, err);
        if (c == CL_OK && (c = open_shards(s, dir, j, err)) != CL_OK) cl_fail_prefix(err, "%s", index.data);
        json_decref(j);
    } else if (c == CL_OK) {
        c = cl_fail(err, CL_E_INPUT,
                    "%s: has neither model.safetensors nor model.safetensors.index.json (other weight files are not "
                    "read: save the model as safetensors)",
                    dir);
    }
    cl_buf_free(&single);
    cl_buf_free(&index);
    if (c != CL_OK) cl_source_free(s);
    return c;
}
