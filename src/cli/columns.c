/* columns.c: structs as JSON objects, by tables of their members. */
#include "columns.h"

static json_t *value(cli_kind kind, const char *at)
{
    switch (kind) {
    case CLI_BOOL: return json_boolean(*(const bool *)at);
    case CLI_INT: return json_integer(*(const int32_t *)at);
    case CLI_INT64: return json_integer((json_int_t) * (const int64_t *)at);
    case CLI_UINT64: return json_integer((json_int_t) * (const uint64_t *)at);
    case CLI_DOUBLE: return json_real(*(const double *)at);
    case CLI_CHARS: return json_string(at);
    case CLI_TEXT: return json_string(*(const char *const *)at);
    }
    return NULL;
}

json_t *cli_row(const cli_column *columns, size_t n, const void *row)
{
    json_t *j = json_object();
    for (size_t i = 0; j && i < n; i++) {
        if (json_object_set_new(j, columns[i].name, value(columns[i].kind, (const char *)row + columns[i].at)) == 0)
            continue;
        json_decref(j);
        j = NULL;
    }
    return j;
}
