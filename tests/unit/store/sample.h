/* sample.h: a file with one of everything, written and read back for the tests of the store. */
#ifndef CHIPLINE_TEST_STORE_SAMPLE_H
#define CHIPLINE_TEST_STORE_SAMPLE_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "chipline/store.h"
#include "chipline/util.h"
#include "suite.h"

typedef struct seat {
    int32_t rank;
    uint64_t bytes;
    int64_t offset;
    double speed;
    char host[12];
    float load;
    uint32_t flags;
} seat;
static const cl_store_column seat_columns[] = {
    CL_STORE_COLUMN(seat, rank, "rank", "which rank"),        CL_STORE_COLUMN(seat, bytes, "byte", "memory"),
    CL_STORE_COLUMN(seat, offset, "ns", "of its clock"),      CL_STORE_COLUMN(seat, speed, "byte/s", "of its memory"),
    CL_STORE_COLUMN(seat, host, "text", "where it sits"),     CL_STORE_COLUMN(seat, load, "1", "of its cores"),
    CL_STORE_COLUMN(seat, flags, "bits", "anything special"),
};
static const cl_store_row seat_row = CL_STORE_ROW(seat, seat_columns);

static inline seat numbered_seat(uint64_t i)
{
    seat s;
    memset(&s, 0, sizeof s); /* gaps too: rows are compared as bytes */
    s.rank = (int32_t)i - 3;
    s.bytes = UINT64_MAX - i;
    s.offset = -(int64_t)i * 1000000007;
    s.speed = (double)i / 3;
    s.load = (float)i / 7;
    s.flags = UINT32_MAX - (uint32_t)i;
    snprintf(s.host, sizeof s.host, "n%u\xc3\xa9", (unsigned)(i % 1000));
    return s;
}

enum { ROWS = 10000, PIECE = 777, WIDTH = 37 };

static inline cl_code fail_here(cl_code c, const cl_err *err)
{
    if (c != CL_OK) fprintf(stderr, "%s\n", err->msg);
    return c;
}

/* An array of numbers, one that is written by rows, one by slabs, two tables, attributes of every kind. */
static inline cl_code write_sample(const char *path, cl_err *err)
{
    cl_store *s;
    cl_store_node g = {0}, d = {0};
    cl_code c = cl_store_create(&s, path, 8192, err);
    if (c != CL_OK) return c;
    cl_store_node root = cl_store_root(s);
    c = cl_store_put_text(root, "what", "a sample", err);
    if (c == CL_OK) c = cl_store_put_text(root, "empty", "", err);
    if (c == CL_OK) c = cl_store_put_int(root, "minus", -5, err);
    if (c == CL_OK) c = cl_store_put_ints(root, "three", (int64_t[]){1, -2, INT64_MAX}, 3, err);
    if (c == CL_OK) c = cl_store_put_u64(root, "big", UINT64_MAX, err);
    if (c == CL_OK) c = cl_store_put_double(root, "third", 1.0 / 3, err);
    if (c == CL_OK) c = cl_store_put_bool(root, "yes", true, err);
    if (c == CL_OK) c = cl_store_put_hash(root, "sum", 0, err);
    if (c == CL_OK) c = cl_store_put_document(root, "run", "{\"long\": \"text\"}", "how it went", err);
    if (c == CL_OK) c = cl_store_make_group(root, "box", "things", &g, err);
    else g = (cl_store_node){s, -1};
    float f[6] = {0, -1, 2.5f, 1e-30f, 4, 5};
    cl_store_array a = {CL_STORE_F32, 2, {2, 3}, 0};
    if (c == CL_OK) c = cl_store_put_array(g, "numbers", &a, "six of them", "m", f, err);
    cl_store_array none = {CL_STORE_U8, 1, {0}, 0};
    if (c == CL_OK) c = cl_store_put_array(g, "none", &none, "nothing", NULL, "", err);
    cl_store_array cube = {CL_STORE_U64, 4, {3, 4, 5, 6}, 0};
    uint64_t hash, v[3 * 4 * 5 * 6];
    if (c == CL_OK) c = cl_store_make_array(g, "cube", &cube, "by slabs", &d, err);
    for (uint64_t i = 0; i < 3 && c == CL_OK; i++)
        for (uint64_t k = 0; k < 5 && c == CL_OK; k++) { /* all of one plane, the middle two of the others' edges */
            const uint64_t start[] = {i, 0, k, 0}, count[] = {1, 4, 1, 6};
            for (uint64_t n = 0; n < 24; n++) v[n] = ((i * 4 + n / 6) * 5 + k) * 6 + n % 6;
            c = cl_store_write_slab(s, &cube, start, count, v, err);
        }
    if (c == CL_OK) c = cl_store_hash_array(s, &cube, &hash, err);
    if (c == CL_OK) c = cl_store_put_hash(d, "xxh3", hash, err);
    if (d.store) cl_store_release(&d);
    cl_store_array bytes = {CL_STORE_U8, 2, {50, WIDTH}, 0};
    unsigned char row[WIDTH * 2];
    if (c == CL_OK) c = cl_store_make_array(g, "bytes", &bytes, "by rows", &d, err);
    for (uint64_t r = 48; c == CL_OK && r < 50; r -= 2) { /* backwards */
        for (int i = 0; i < 2 * WIDTH; i++) row[i] = (unsigned char)(r * WIDTH + (uint64_t)i);
        c = cl_store_write_rows(s, &bytes, r, 2, row, err);
    }
    if (c == CL_OK) c = cl_store_hash_array(s, &bytes, &hash, err);
    if (c == CL_OK) c = cl_store_put_hash(d, "xxh3", hash, err);
    if (d.store) cl_store_release(&d);
    cl_store_table t = {{s, -1}, NULL, 0};
    if (c == CL_OK) c = cl_store_make_table(g, "seats", &seat_row, true, 512, &t, err);
    for (uint64_t i = 0; c == CL_OK && i < ROWS; i += PIECE) {
        static seat rows[PIECE];
        uint64_t n = ROWS - i < PIECE ? ROWS - i : PIECE;
        for (uint64_t k = 0; k < n; k++) rows[k] = numbered_seat(i + k);
        c = cl_store_append(&t, rows, n, err);
        if (c == CL_OK && i == PIECE * 3 && (c = cl_store_close_table(&t, err)) == CL_OK) /* closed, and continued */
            c = cl_store_open_table(g, "seats", &seat_row, &t, err);
    }
    if (c == CL_OK) c = cl_store_close_table(&t, err);
    seat one = numbered_seat(7);
    if (c == CL_OK) c = cl_store_put_table(root, "few", &seat_row, &one, 1, err);
    if (c == CL_OK) c = cl_store_put_table(root, "no_rows", &seat_row, NULL, 0, err);
    if (c == CL_OK) c = cl_store_set_hash(root, "sum", 0x0123456789abcdef, err);
    cl_store_release(&g);
    if (c == CL_OK) return cl_store_commit(s, err);
    cl_store_drop(s);
    return c;
}

/* Everything in it, compared; CL_E_RUN where what was read is not what was written. */
static inline cl_code read_sample(const char *path, cl_err *err)
{
    cl_store *s;
    cl_store_node g = {0};
    cl_code c = cl_store_open(&s, path, "a sample (write one)", err);
    if (c != CL_OK) return c;
    cl_store_node root = cl_store_root(s);
    char text[64];
    int64_t three[3], minus;
    uint64_t big, sum, n = 0, hash;
    double third;
    void *data = NULL;
    bool same = true;
    if ((c = cl_store_get_text(root, "what", text, sizeof text, err)) == CL_OK) same &= !strcmp(text, "a sample");
    if (c == CL_OK && (c = cl_store_get_text(root, "empty", text, sizeof text, err)) == CL_OK) same &= !*text;
    if (c == CL_OK && (c = cl_store_get_ints(root, "minus", &minus, 0, err)) == CL_OK) same &= minus == -5;
    if (c == CL_OK && (c = cl_store_get_ints(root, "three", three, 3, err)) == CL_OK)
        same &= three[1] == -2 && three[2] == INT64_MAX;
    if (c == CL_OK && (c = cl_store_get_u64(root, "big", &big, err)) == CL_OK) same &= big == UINT64_MAX;
    if (c == CL_OK && (c = cl_store_get_double(root, "third", &third, err)) == CL_OK) same &= third == 1.0 / 3;
    if (c == CL_OK && (c = cl_store_get_hash(root, "sum", &sum, err)) == CL_OK) same &= sum == 0x0123456789abcdef;
    if (c == CL_OK) c = cl_store_open_group(root, "box", &g, err);
    else g = (cl_store_node){s, -1};
    cl_store_array a = {.type = CL_STORE_F32, .rank = 2};
    if (c == CL_OK && (c = cl_store_get_array(g, "numbers", &a, &data, &hash, err)) == CL_OK) {
        const float f[6] = {0, -1, 2.5f, 1e-30f, 4, 5};
        same &= a.dims[0] == 2 && a.dims[1] == 3 && memcmp(data, f, sizeof f) == 0;
        free(data);
    }
    a = (cl_store_array){.type = CL_STORE_U8, .rank = 1};
    if (c == CL_OK && (c = cl_store_get_array(g, "none", &a, &data, NULL, err)) == CL_OK) {
        same &= a.dims[0] == 0;
        free(data);
    }
    a = (cl_store_array){.type = CL_STORE_U64, .rank = 4};
    if (c == CL_OK && (c = cl_store_get_array(g, "cube", &a, &data, NULL, err)) == CL_OK) {
        for (uint64_t i = 0; i < 360; i++) same &= ((uint64_t *)data)[i] == i;
        free(data);
    }
    a = (cl_store_array){.type = CL_STORE_U8, .rank = 2};
    if (c == CL_OK && (c = cl_store_get_array(g, "bytes", &a, &data, NULL, err)) == CL_OK) {
        for (int i = 0; i < 50 * WIDTH; i++) same &= ((unsigned char *)data)[i] == (unsigned char)i;
        free(data);
    }
    if (c == CL_OK && (c = cl_store_get_table(g, "seats", &seat_row, ROWS, &data, &n, err)) == CL_OK) {
        same &= n == ROWS;
        for (uint64_t i = 0; same && i < n; i++) {
            seat want = numbered_seat(i);
            same &= memcmp((seat *)data + i, &want, sizeof want) == 0;
        }
        free(data);
    }
    if (c == CL_OK && (c = cl_store_get_table(root, "few", &seat_row, 5, &data, &n, err)) == CL_OK) {
        seat want = numbered_seat(7);
        same &= n == 1 && memcmp(data, &want, sizeof want) == 0;
        free(data);
    }
    if (c == CL_OK && (c = cl_store_get_table(root, "no_rows", &seat_row, 5, &data, &n, err)) == CL_OK) {
        same &= n == 0;
        free(data);
    }
    if (c == CL_OK) c = cl_store_verify(root, "box", err);
    cl_store_release(&g);
    cl_store_close(s);
    return c == CL_OK && !same ? cl_fail(err, CL_E_RUN, "other than written") : c;
}

#endif
