/* columns.h: the members of a struct as pairs of a JSON object, by a table of them. */
#ifndef CHIPLINE_COLUMNS_H
#define CHIPLINE_COLUMNS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cli_kind { CLI_BOOL, CLI_INT, CLI_INT64, CLI_UINT64, CLI_DOUBLE, CLI_CHARS, CLI_TEXT } cli_kind;

typedef struct cli_column {
    const char *name;
    cli_kind kind;
    size_t at; /* of the member in the struct */
} cli_column;

/* Texts are UTF-8; a member that is an array of char is one of them. */
#define COLUMN_AS(name, type, member) \
    {                                 \
        name, \
     _Generic(((type *)0)->member, bool: CLI_BOOL, int32_t: CLI_INT, int64_t: CLI_INT64, uint64_t: CLI_UINT64, \
              double: CLI_DOUBLE, char *: CLI_CHARS, const char *: CLI_TEXT), \
     offsetof(type, member)                       \
    }
#define COLUMN(type, member) COLUMN_AS(#member, type, member)

/* A new object with all of them, in this order. n: a table's columns. NULL without memory. */
json_t *cli_row(const cli_column *columns, size_t n, const void *row);
#define CLI_ROW(columns, row) cli_row(columns, sizeof(columns) / sizeof *(columns), row)

#endif
