/* model_arg.c: MODEL.h5 | CONFIG.json, told apart by what they hold. */
#include "model_arg.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "chipline/import.h"
#include "chipline/util.h"

/* A folder, or a text that begins like a JSON object. */
static bool is_config(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return true;
    FILE *f = fopen(path, "rb");
    if (!f) return false; /* opening it as a model file says why */
    char head[64];
    size_t n = fread(head, 1, sizeof head - 1, f);
    fclose(f);
    head[n] = 0;
    return head[strspn(head, " \t\r\n")] == '{';
}

cl_code model_arg_open(const char *path, model_arg *out, cl_err *err)
{
    *out = (model_arg){0};
    cl_code c;
    if (!*path) return cl_fail(err, CL_E_USAGE, "MODEL: is empty (give the name of a file)");
    if (is_config(path)) {
        cl_spec spec = {0};
        cl_formats formats;
        c = cl_import_config(path, &spec, &formats, err);
        if (c == CL_OK) c = cl_model_from_spec(&spec, &formats, &out->model, err);
        cl_spec_free(&spec);
    } else {
        c = cl_model_file_open(&out->file, path, err);
        if (c == CL_OK) c = cl_model_copy(cl_model_file_model(out->file), &out->model, err);
    }
    if (c != CL_OK) model_arg_close(out);
    return c;
}

void model_arg_close(model_arg *a)
{
    cl_model_file_close(a->file);
    cl_model_free(&a->model);
    a->file = NULL;
}
