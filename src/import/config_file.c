/* config_file.c: a config.json, and the generation_config.json beside it, from the disk to a spec. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "chipline/import.h"
#include "chipline/util.h"
#include "family.h"

enum { MAX_CONFIG = 64 << 20 };

/* generation_config.json of a folder, NULL where there is none. */
static cl_code load_generation(const char *dir, json_t **out, cl_err *err)
{
    cl_buf path = {0};
    struct stat st;
    cl_code c = cl_buf_printf(&path, err, "%s/generation_config.json", dir);
    if (c == CL_OK && stat(path.data, &st) == 0) c = cl_json_load(path.data, out, err);
    cl_buf_free(&path);
    return c;
}

/* Other files of a model are told by their first bytes: they may be too large to be read as a text. */
static cl_code check_kind(const char *path, cl_err *err)
{
    char head[4];
    struct stat st;
    FILE *f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;
    if (!f) return CL_OK; /* reading it says why */
    bool gguf = false, hdf5 = false;
    if (fread(head, 1, sizeof head, f) == sizeof head) {
        gguf = memcmp(head, "GGUF", sizeof head) == 0;
        hdf5 = memcmp(head, "\x89HDF", sizeof head) == 0;
    }
    fclose(f);
    if (!gguf && !hdf5) return CL_OK;
    return cl_fail(err, CL_E_INPUT, "%s: is %s file, not a config.json", path, gguf ? "a GGUF" : "an HDF5");
}

cl_code cl_config_load(const char *path, char **text, json_t **config, cl_spec *s, const cl_family **f, cl_err *err)
{
    struct stat st;
    cl_buf file = {0}, b = {0};
    json_t *generation = NULL;
    *config = NULL;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    cl_code c = cl_buf_printf(&file, err, folder ? "%s/config.json" : "%s", path);
    if (c == CL_OK && folder && stat(file.data, &st) != 0)
        c = cl_fail(err, CL_E_INPUT, "%s: has no config.json (give a folder as the hub has them)", path);
    if (c == CL_OK) c = check_kind(file.data, err);
    if (c == CL_OK) c = cl_read_file(file.data, MAX_CONFIG, &b, err);
    if (c == CL_OK) c = cl_json_parse(b.data, b.len, file.data, config, err);
    if (c == CL_OK && folder) c = load_generation(path, &generation, err);
    if (c == CL_OK && (c = cl_config_spec(*config, generation, s, f, err)) != CL_OK)
        cl_fail_prefix(err, "%s", file.data);
    json_decref(generation);
    cl_buf_free(&file);
    if (c == CL_OK) {
        *text = b.data;
        return CL_OK;
    }
    cl_buf_free(&b);
    json_decref(*config);
    *config = NULL;
    return c;
}

cl_code cl_config_import(const char *path, char **text, cl_spec *spec, cl_formats *formats, cl_err *err)
{
    const cl_family *f;
    json_t *config = NULL;
    cl_code c = cl_config_load(path, text, &config, spec, &f, err);
    if (c != CL_OK) return c;
    c = cl_spec_settle(spec, err);
    if (c == CL_OK) c = cl_config_formats(config, formats, err);
    if (c != CL_OK) {
        cl_fail_prefix(err, "%s", path);
        cl_spec_free(spec);
        free(*text);
        *text = NULL;
    }
    json_decref(config);
    return c;
}

cl_code cl_import_config(const char *path, cl_spec *spec, cl_formats *formats, cl_err *err)
{
    char *text = NULL;
    cl_code c = cl_config_import(path, &text, spec, formats, err);
    free(text);
    return c;
}
