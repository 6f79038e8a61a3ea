/* bench_cli.h: what the files of `chipline bench` share: its options, its rows, its tables. */
#ifndef CHIPLINE_BENCH_CLI_H
#define CHIPLINE_BENCH_CLI_H

#include "chipline/kernels.h"
#include "chipline/run.h"
#include "cli.h"

enum { BENCH_LIST = 32 }; /* numbers in --sequences, --tokens */

typedef struct bench_list {
    int n, values[BENCH_LIST]; /* n 0: not given */
} bench_list;

typedef struct bench_cli {
    cl_err *err;
    bool kernels, products; /* --kernels was given; products are measured alone, without a model */
    bool json, quiet;
    int kind; /* a cl_bench_kind, -1: both */
    bench_list sequences, tokens;
    double seconds;  /* for one case */
    int megabytes;   /* products: of one matrix; 0: not given */
    bool one_format; /* products: only `format` */
    cl_format format;
    const char *csv, *in_line; /* in_line: name of an option that was given and needs a model; NULL: none */
    cl_layout layout;          /* --layout SxG or a file */
    cl_run_options run;
} bench_cli;

/* A case of a model, or one of a product: then read_gb_per_s is of weights, and tokens_per_s says
 * little. */
typedef struct bench_row {
    const char *format, *activations; /* NULL: a case of a model */
    cl_bench_case c;
} bench_row;

typedef struct bench_report {
    const bench_cli *o;
    const cl_run_stats *numbers; /* NULL: products */
    const char *kernels;         /* products: name of the set */
    int n_rows;
    const bench_row *rows;
} bench_report;

/* The table or the JSON object on stdout, and the CSV file where one is wanted. */
cl_code bench_print(const bench_report *b, cl_err *err);
/* A case is done: a line on stderr. */
void bench_tell(const bench_cli *o, const bench_row *row);
/* Measures the products of one kernel set. One process. */
cl_code bench_products(bench_cli *o, cl_err *err);

#endif
