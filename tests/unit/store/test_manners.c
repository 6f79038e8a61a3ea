/* The store's manners: every call leaves HDF5's setting and its open objects as they were, says what is wrong in full,
 * notices every damaged array, and never reaches outside one. */
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/wait.h>

#include "sample.h"

static char dir[256], path[300];

/* --- what HDF5 holds and prints --- */

static herr_t printer(hid_t stack, void *calls)
{
    ++*(int *)calls;
    return 0;
}
static int printed;

/* Dataspaces, types and property lists have ids that count up: those made since the last look that are still there. */
static int left_open(void)
{
    static hid_t last[3];
    const hid_t now[] = {H5Screate(H5S_SCALAR), H5Tcopy(H5T_NATIVE_INT), H5Pcreate(H5P_FILE_ACCESS)};
    int n = 0;
    for (int k = 0; k < 3; k++) {
        for (hid_t id = last[k] + 1; last[k] && id < now[k]; id++) n += H5Iis_valid(id) > 0;
        last[k] = now[k];
    }
    H5Sclose(now[0]);
    H5Tclose(now[1]);
    H5Pclose(now[2]);
    return n;
}

static ssize_t objects_before;

static ssize_t open_objects(void) { return H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL); }

static void watch(void)
{
    H5open();
    H5Eset_auto2(H5E_DEFAULT, printer, &printed);
    printed = 0;
    objects_before = open_objects();
    (void)left_open();
}

/* The setting is ours again, nothing was printed, `more` objects are open than before, and nothing else. */
static void as_before(int line, int more)
{
    H5E_auto2_t now;
    void *data;
    H5Eget_auto2(H5E_DEFAULT, &now, &data);
    H5Eset_auto2(H5E_DEFAULT, printer, &printed);
    bool ours = now == printer && data == &printed;
    int open = (int)(open_objects() - objects_before), left = left_open();
    if (!ours || printed || open != more || left)
        fprintf(stderr, "line %d: ours %d, printed %d, %d more, not %d, %d left\n", line, ours, printed, open, more,
                left);
    CU_ASSERT(ours && !printed && open == more && !left);
}

static void does(int line, cl_code want, int more, cl_code got)
{
    if (got != want) fprintf(stderr, "line %d: code %d, not %d\n", line, got, want);
    CU_ASSERT_EQUAL(got, want);
    as_before(line, more);
}
#define DOES(code, more, ...) does(__LINE__, code, more, __VA_ARGS__)

/* Of everything one, well made. */
static void well_written(cl_store *s)
{
    cl_err err = {0};
    cl_store_node root = cl_store_root(s), g, d;
    cl_store_array a = {CL_STORE_U8, 1, {3}, 77}, empty = {CL_STORE_U8, 1, {0}, 77};
    cl_store_table t;
    seat one = numbered_seat(1);
    DOES(CL_OK, 1, cl_store_put_text(root, "t", "x", &err));
    DOES(CL_OK, 1, cl_store_put_int(root, "i", 1, &err));
    DOES(CL_OK, 1, cl_store_put_ints(root, "is", (int64_t[]){1, 2}, 2, &err));
    DOES(CL_OK, 1, cl_store_put_u64(root, "u", 1, &err));
    DOES(CL_OK, 1, cl_store_put_double(root, "d", 1, &err));
    DOES(CL_OK, 1, cl_store_put_bool(root, "b", true, &err));
    DOES(CL_OK, 1, cl_store_put_hash(root, "h", 1, &err));
    DOES(CL_OK, 1, cl_store_set_hash(root, "h", 2, &err));
    DOES(CL_OK, 1, cl_store_put_document(root, "doc", "{}", "text", &err));
    DOES(CL_OK, 2, cl_store_make_group(root, "g", "group", &g, &err));
    DOES(CL_OK, 2, cl_store_put_array(g, "a", &a, "array", "u", "abc", &err));
    DOES(CL_OK, 3, cl_store_make_array(g, "m", &a, "made", &d, &err));
    CU_ASSERT(a.at != 77 && a.at != 0);
    DOES(CL_OK, 3, cl_store_write_rows(s, &a, 0, 3, "xyz", &err));
    cl_store_release(&d);
    as_before(__LINE__, 2);
    DOES(CL_OK, 3, cl_store_make_array(g, "e", &empty, "nothing", &d, &err));
    CU_ASSERT_EQUAL(empty.at, 0);
    cl_store_release(&d);
    DOES(CL_OK, 2, cl_store_put_table(g, "t", &seat_row, &one, 1, &err));
    DOES(CL_OK, 3, cl_store_make_table(g, "open", &seat_row, true, 4, &t, &err));
    DOES(CL_OK, 3, cl_store_append(&t, &one, 1, &err));
    DOES(CL_OK, 3, cl_store_append(&t, NULL, 0, &err));
    DOES(CL_OK, 2, cl_store_close_table(&t, &err));
    DOES(CL_OK, 2, cl_store_close_table(&t, &err)); /* once more: nothing */
    DOES(CL_OK, 2, cl_store_room(s, 1, "x", &err));
    cl_store_release(&g);
    as_before(__LINE__, 1);
}

static void test_writing(void)
{
    cl_err err = {0};
    cl_store *s;
    char name[320];
    snprintf(name, sizeof name, "%s/w.h5", dir);
    watch();
    DOES(CL_OK, 1, cl_store_create(&s, name, 2048, &err));
    well_written(s);
    DOES(CL_OK, 0, cl_store_commit(s, &err));
    DOES(CL_OK, 1, cl_store_create(&s, name, 2048, &err));
    cl_store_drop(s);
    as_before(__LINE__, 0);
    DOES(CL_OK, 0, write_sample(name, &err));
    DOES(CL_OK, 0, read_sample(name, &err));
    unlink(name);
}

/* A name that is taken: every way of making something says so, and the file does not come to be. */
static void taken(cl_store *s, int which)
{
    cl_err err = {0};
    cl_store_node root = cl_store_root(s), d = {s, -1};
    cl_store_array a = {CL_STORE_U8, 1, {3}, 0};
    cl_store_table t;
    cl_code c = CL_OK;
    const char *begins = "";
    switch (which) {
    case 0: c = cl_store_put_text(root, "t", "x", &err), begins = "attribute t: cannot be written: "; break;
    case 1: c = cl_store_put_int(root, "t", 1, &err), begins = "attribute t: cannot be written: "; break;
    case 2: c = cl_store_set_hash(root, "none", 1, &err), begins = "attribute none: cannot be written: "; break;
    case 3: c = cl_store_put_document(root, "g", "{}", "d", &err), begins = "g: cannot be written: "; break;
    case 4: c = cl_store_make_group(root, "g", "d", &d, &err), begins = "group g: cannot be written: "; break;
    case 5: c = cl_store_put_array(root, "g", &a, "d", NULL, "abc", &err), begins = "g: cannot be written: "; break;
    case 6: c = cl_store_make_array(root, "g", &a, "d", &d, &err), begins = "cannot be created: "; break;
    case 7:
        c = cl_store_make_table(root, "g", &seat_row, true, 4, &t, &err), begins = "table g: cannot be written: ";
        d = t.node;
        break;
    }
    CU_ASSERT_EQUAL(c, CL_E_RUN);
    CU_ASSERT_EQUAL(err.code, CL_E_RUN);
    CU_ASSERT_EQUAL(d.id, -1);
    if (strncmp(err.msg, begins, strlen(begins)) || !err.msg[strlen(begins)])
        fprintf(stderr, "%d: %s\n", which, err.msg);
    CU_ASSERT(strncmp(err.msg, begins, strlen(begins)) == 0 && err.msg[strlen(begins)]);
}

static void test_taken(void)
{
    char name[320], want[400];
    snprintf(name, sizeof name, "%s/taken.h5", dir);
    for (int which = 0; which < 8; which++) {
        cl_err err = {0};
        cl_store *s;
        cl_store_node g;
        CU_ASSERT_FATAL(cl_store_create(&s, name, 2048, &err) == CL_OK);
        CU_ASSERT(cl_store_put_text(cl_store_root(s), "t", "x", &err) == CL_OK);
        CU_ASSERT(cl_store_make_group(cl_store_root(s), "g", "d", &g, &err) == CL_OK);
        watch();
        taken(s, which);
        as_before(__LINE__, 0);
        cl_store_release(&g); /* not closed any more, but forgotten */
        CU_ASSERT_EQUAL(g.id, -1);
        CU_ASSERT_EQUAL(cl_store_commit(s, &err), CL_E_RUN);
        snprintf(want, sizeof want, "%s: cannot be completed", name);
        CU_ASSERT(strncmp(err.msg, want, strlen(want)) == 0);
        CU_ASSERT(access(name, F_OK) != 0);
    }
}

/* A text may have so many bytes. */
static void test_long_text(void)
{
    cl_err err = {0};
    cl_store *s;
    char name[320], want[80], *text = calloc(CL_STORE_TEXT_MAX + 2, 1), *back = calloc(CL_STORE_TEXT_MAX + 2, 1);
    snprintf(name, sizeof name, "%s/long.h5", dir);
    CU_ASSERT_FATAL(text && back && cl_store_create(&s, name, 2048, &err) == CL_OK);
    memset(text, 'a', CL_STORE_TEXT_MAX + 1);
    CU_ASSERT_EQUAL(cl_store_put_text(cl_store_root(s), "t", text, &err), CL_E_INPUT);
    snprintf(want, sizeof want, "attribute t: over %d bytes", CL_STORE_TEXT_MAX);
    CU_ASSERT_STRING_EQUAL(err.msg, want);
    text[CL_STORE_TEXT_MAX] = 0;
    CU_ASSERT_EQUAL(cl_store_put_text(cl_store_root(s), "t", text, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_store_commit(s, &err), CL_OK);
    CU_ASSERT_FATAL(cl_store_open(&s, name, "x", &err) == CL_OK);
    size_t n = CL_STORE_TEXT_MAX;
    CU_ASSERT_EQUAL(cl_store_get_text(cl_store_root(s), "t", back, n, &err), CL_E_INPUT);
    snprintf(want, sizeof want, "attribute t: has %zu bytes, at most %zu make sense", n, n - 1);
    CU_ASSERT_STRING_EQUAL(err.msg, want);
    CU_ASSERT(cl_store_get_text(cl_store_root(s), "t", back, n + 1, &err) == CL_OK && strcmp(back, text) == 0);
    cl_store_close(s);
    unlink(name);
    free(text);
    free(back);
}

/* --- reading what is not there --- */

/* All but the reason of HDF5's, which is its own affair, where there is one. */
static void says(const cl_err *err, const char *want, bool reason)
{
    size_t n = strlen(want);
    bool right = strncmp(err->msg, want, n) == 0 && (reason ? !strncmp(err->msg + n, ": ", 2) : !err->msg[n]);
    if (!right) fprintf(stderr, "\"%s\", not \"%s\"\n", err->msg, want);
    CU_ASSERT(right);
    CU_ASSERT_EQUAL(err->code, CL_E_INPUT);
}
#define REFUSES(want, reason, ...) (DOES(CL_E_INPUT, 2, __VA_ARGS__), says(&err, want, reason))

static void attributes(cl_store_node root)
{
    cl_err err = {0};
    char text[64];
    int64_t v[4];
    uint64_t u;
    double d;
    bool yes;
    REFUSES("attribute no: missing or damaged", true, cl_store_get_text(root, "no", text, 64, &err));
    REFUSES("attribute minus: is not a text of fixed length", false, cl_store_get_text(root, "minus", text, 64, &err));
    REFUSES("attribute three: is not a text of fixed length", false, cl_store_get_text(root, "three", text, 64, &err));
    REFUSES("attribute what: has 8 bytes, at most 7 make sense", false, cl_store_get_text(root, "what", text, 8, &err));
    DOES(CL_OK, 2, cl_store_get_text(root, "what", text, 9, &err));
    REFUSES("attribute no: missing or damaged", true, cl_store_get_ints(root, "no", v, 0, &err));
    REFUSES("attribute three: is not 1 int64", false, cl_store_get_ints(root, "three", v, 0, &err));
    REFUSES("attribute three: is not 1 int64", false, cl_store_get_ints(root, "three", v, 1, &err));
    REFUSES("attribute three: is not 2 int64", false, cl_store_get_ints(root, "three", v, 2, &err));
    REFUSES("attribute three: is not 4 int64", false, cl_store_get_ints(root, "three", v, 4, &err));
    REFUSES("attribute minus: is not 1 int64", false, cl_store_get_ints(root, "minus", v, 1, &err));
    DOES(CL_OK, 2, cl_store_get_ints(root, "three", v, 3, &err));
    REFUSES("attribute minus: is not 1 uint64", false, cl_store_get_u64(root, "minus", &u, &err));
    REFUSES("attribute big: is not 1 double", false, cl_store_get_double(root, "big", &d, &err));
    REFUSES("attribute what: is not 16 hexadecimal digits", false, cl_store_get_hash(root, "what", &u, &err));
    REFUSES("attribute empty: is not 16 hexadecimal digits", false, cl_store_get_hash(root, "empty", &u, &err));
    DOES(CL_OK, 2, cl_store_get_hash(root, "sum", &u, &err));
    DOES(CL_OK, 2, cl_store_has_attribute(root, "no", &yes, &err));
    DOES(CL_OK, 2, cl_store_has(root, "no", &yes, &err));
}

static void arrays(cl_store_node g)
{
    cl_err err = {0};
    cl_store_array a = {.type = CL_STORE_U64, .rank = 4};
    void *data = NULL;
    REFUSES("cubes: missing or damaged", true, cl_store_open_array(g, "cubes", &a, NULL, &err));
    REFUSES("seats: has another number type than expected", false, cl_store_open_array(g, "seats", &a, NULL, &err));
    a.rank = 3;
    REFUSES("cube: has not 3 dimensions", false, cl_store_open_array(g, "cube", &a, NULL, &err));
    a = (cl_store_array){.type = CL_STORE_U8, .rank = 1, .at = 77};
    DOES(CL_OK, 2, cl_store_get_array(g, "none", &a, &data, NULL, &err));
    CU_ASSERT(a.at == 0 && *(char *)data == 0);
    free(data);
    a = (cl_store_array){.type = CL_STORE_F32, .rank = 2};
    DOES(CL_OK, 2, cl_store_get_array(g, "numbers", &a, &data, NULL, &err));
    CU_ASSERT_EQUAL(((char *)data)[24], 0); /* ends like a text */
    free(data);
}

static void groups_and_tables(cl_store_node root, cl_store_node g)
{
    static const cl_store_column more[] = {{"colour", "", "", CL_STORE_I32, 0, 4}},
                                 wrong[] = {{"rank", "", "", CL_STORE_I64, 0, 8}},
                                 number[] = {{"host", "", "", CL_STORE_I32, 0, 4}};
    const cl_store_row more_row = {more, 1, 4}, wrong_row = {wrong, 1, 8}, number_row = {number, 1, 4};
    cl_err err = {0};
    char text[64];
    void *data = &err;
    uint64_t n = 5;
    cl_store_node out;
    cl_store_table t;
    REFUSES("group bag: missing or damaged", true, cl_store_open_group(root, "bag", &out, &err));
    REFUSES("group: a name has 5 bytes", false, cl_store_name(g, 0, text, 5, &err));
    DOES(CL_OK, 2, cl_store_name(g, 0, text, 6, &err));
    REFUSES("group: its names cannot be read", true, cl_store_name(g, 5, text, 64, &err));
    DOES(CL_OK, 2, cl_store_count(g, &n, &err));
    REFUSES("table no: missing or damaged", true, cl_store_open_table(g, "no", &seat_row, &t, &err));
    REFUSES("table box: missing or damaged", true, cl_store_open_table(root, "box", &seat_row, &t, &err));
    REFUSES("table no: missing or damaged", true, cl_store_get_table(g, "no", &seat_row, 9, &data, &n, &err));
    CU_ASSERT(data == NULL && n == 0);
    REFUSES("table cube: is no table", false, cl_store_get_table(g, "cube", &seat_row, ROWS, &data, &n, &err));
    REFUSES("table seats: has 10000 rows, at most 9999 make sense", false,
            cl_store_get_table(g, "seats", &seat_row, ROWS - 1, &data, &n, &err));
    REFUSES("table seats: has no column colour", false,
            cl_store_get_table(g, "seats", &more_row, ROWS, &data, &n, &err));
    REFUSES("table seats: column rank has another type than expected", false,
            cl_store_get_table(g, "seats", &wrong_row, ROWS, &data, &n, &err));
    REFUSES("table seats: column host has another type than expected", false,
            cl_store_get_table(g, "seats", &number_row, ROWS, &data, &n, &err));
    REFUSES("no: missing or damaged", true, cl_store_verify(g, "no", &err));
    DOES(CL_OK, 2, cl_store_verify(root, "box", &err));
    DOES(CL_OK, 2, cl_store_get_table(g, "seats", &seat_row, ROWS, &data, &n, &err));
    free(data);
}

/* What is no object, and what each object says of itself. */
static void descriptions(cl_store *s, cl_store_node root, cl_store_node g)
{
    cl_err err = {0};
    cl_store_node none = {s, -1}, d = {s, -1};
    cl_store_array a = {.type = CL_STORE_F32, .rank = 2}, cube = {.type = CL_STORE_U64, .rank = 4};
    char text[64];
    uint64_t n;
    bool yes;
    REFUSES("group: cannot be read", true, cl_store_count(none, &n, &err));
    REFUSES("x: cannot be looked up", true, cl_store_has(none, "x", &yes, &err));
    REFUSES("attribute x: cannot be looked up", true, cl_store_has_attribute(none, "x", &yes, &err));
    CU_ASSERT(cl_store_get_text(g, "description", text, 64, &err) == CL_OK && !strcmp(text, "things"));
    DOES(CL_OK, 3, cl_store_open_array(g, "numbers", &a, &d, &err));
    CU_ASSERT(cl_store_get_text(d, "description", text, 64, &err) == CL_OK && !strcmp(text, "six of them"));
    CU_ASSERT(cl_store_get_text(d, "unit", text, 64, &err) == CL_OK && !strcmp(text, "m"));
    cl_store_release(&d);
    DOES(CL_OK, 3, cl_store_open_array(g, "cube", &cube, &d, &err));
    CU_ASSERT(cl_store_get_text(d, "description", text, 64, &err) == CL_OK && !strcmp(text, "by slabs"));
    CU_ASSERT(cl_store_has_attribute(d, "unit", &yes, &err) == CL_OK && !yes);
    cl_store_release(&d);
    d.id = H5Dopen2(root.id, "run", H5P_DEFAULT);
    CU_ASSERT(cl_store_get_text(d, "description", text, 64, &err) == CL_OK && !strcmp(text, "how it went"));
    cl_store_release(&d);
    d.id = H5Dopen2(root.id, "few", H5P_DEFAULT);
    CU_ASSERT(cl_store_get_text(d, "speed.unit", text, 64, &err) == CL_OK && !strcmp(text, "byte/s"));
    CU_ASSERT(cl_store_get_text(d, "flags.description", text, 64, &err) == CL_OK && !strcmp(text, "anything special"));
    cl_store_release(&d);
    as_before(__LINE__, 2);
}

static void test_reading(void)
{
    cl_err err = {0};
    cl_store *s;
    cl_store_node g;
    watch();
    DOES(CL_OK, 1, cl_store_open(&s, path, "a sample", &err));
    cl_store_node root = cl_store_root(s);
    DOES(CL_OK, 2, cl_store_open_group(root, "box", &g, &err));
    attributes(root);
    arrays(g);
    groups_and_tables(root, g);
    descriptions(s, root, g);
    cl_store_release(&g);
    as_before(__LINE__, 1);
    cl_store_close(s);
    as_before(__LINE__, 0);
}

/* --- damage --- */

static void flip(uint64_t at)
{
    unsigned char b;
    int fd = open(path, O_RDWR);
    CU_ASSERT_FATAL(fd >= 0 && pread(fd, &b, 1, (off_t)at) == 1);
    b ^= 1;
    CU_ASSERT_FATAL(pwrite(fd, &b, 1, (off_t)at) == 1 && close(fd) == 0);
}

/* The first, a middle and the last byte of each array. */
static void test_damaged_arrays(void)
{
    static const struct {
        const char *name;
        cl_store_array a;
    } list[] = {{"numbers", {.type = CL_STORE_F32, .rank = 2}},
                {"cube", {.type = CL_STORE_U64, .rank = 4}},
                {"bytes", {.type = CL_STORE_U8, .rank = 2}}};
    for (int i = 0; i < 9; i++) {
        cl_err err = {0};
        cl_store *s;
        cl_store_node g;
        cl_store_array a = list[i / 3].a;
        char want[200];
        void *data = &err;
        CU_ASSERT_FATAL(cl_store_open(&s, path, "x", &err) == CL_OK);
        CU_ASSERT_FATAL(cl_store_open_group(cl_store_root(s), "box", &g, &err) == CL_OK);
        CU_ASSERT_EQUAL(cl_store_verify(cl_store_root(s), "box", &err), CL_OK);
        CU_ASSERT_FATAL(cl_store_open_array(g, list[i / 3].name, &a, NULL, &err) == CL_OK);
        uint64_t bytes = cl_store_array_bytes(&a), at = a.at + (i % 3 == 0 ? 0 : i % 3 == 1 ? bytes / 2 : bytes - 1);
        flip(at);
        snprintf(want, sizeof want, "box: %s: its checksum does not match (the file is damaged: copy it again)",
                 list[i / 3].name);
        CU_ASSERT_EQUAL(cl_store_verify(cl_store_root(s), "box", &err), CL_E_INPUT);
        CU_ASSERT_STRING_EQUAL(err.msg, want);
        CU_ASSERT_EQUAL(cl_store_get_array(g, list[i / 3].name, &a, &data, NULL, &err), CL_E_INPUT);
        CU_ASSERT_STRING_EQUAL(err.msg, want + 5);
        CU_ASSERT_PTR_NULL(data);
        flip(at);
        cl_store_release(&g);
        cl_store_close(s);
    }
}

/* An old file has no checksums of its own: where an array says it lies, and how large it is, is not believed. */
static void test_elsewhere(void)
{
    enum { N = 3001 };
    static unsigned char bytes[N];
    char name[320];
    snprintf(name, sizeof name, "%s/old.h5", dir);
    hsize_t n = N;
    hid_t f = H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), space = H5Screate_simple(1, &n, NULL);
    hid_t d = H5Dcreate2(f, "a", H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    CU_ASSERT_FATAL(d >= 0 && H5Dwrite(d, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0);
    uint64_t place[2] = {H5Dget_offset(d), N}, size = 0;
    CU_ASSERT_FATAL(H5Dclose(d) >= 0 && H5Sclose(space) >= 0 && H5Fclose(f) >= 0);
    cl_buf good = {0};
    cl_err err = {0};
    CU_ASSERT_FATAL(cl_read_file(name, 1 << 20, &good, &err) == CL_OK);
    size = good.len;
    char *said = memmem(good.data, good.len, place, sizeof place);
    CU_ASSERT_PTR_NOT_NULL_FATAL(said);
    const struct {
        uint64_t at, bytes;
        bool good;
    } cases[] = {{place[0], N, true},    {size - N, N, true},      {size - N + 1, N, false},     {size, N, false},
                 {UINT64_MAX, N, false}, {place[0], N - 1, false}, {(uint64_t)1 << 62, N, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_store *s;
        cl_store_array a = {.type = CL_STORE_U8, .rank = 1};
        memcpy(said, &cases[i].at, 8);
        memcpy(said + 8, &cases[i].bytes, 8);
        FILE *out = fopen(name, "wb");
        CU_ASSERT_FATAL(out && fwrite(good.data, 1, good.len, out) == good.len && fclose(out) == 0);
        CU_ASSERT_FATAL(cl_store_open(&s, name, "x", &err) == CL_OK);
        cl_code c = cl_store_open_array(cl_store_root(s), "a", &a, NULL, &err);
        if ((c == CL_OK) != cases[i].good) fprintf(stderr, "case %zu: %d %s\n", i, c, err.msg);
        CU_ASSERT_EQUAL(c, cases[i].good ? CL_OK : CL_E_INPUT);
        if (cases[i].good) CU_ASSERT_EQUAL(a.at, cases[i].at);
        cl_store_close(s);
    }
    cl_buf_free(&good);
    unlink(name);
}

/* --- outside an array --- */

/* Reads so much of an array in a child, which is to meet a bug if that is too much. */
static bool is_a_bug(cl_store *s, const cl_store_array *a, uint64_t first, uint64_t n, bool slab)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        static unsigned char to[1 << 16];
        cl_err err = {0};
        uint64_t start[CL_STORE_DIMS] = {first}, count[CL_STORE_DIMS] = {n, 1, 1, 1};
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        cl_code c = slab ? cl_store_read_slab(s, a, start, count, to, &err)
                         : cl_store_read_rows(s, a, first, n, to, &err);
        _exit(c == CL_OK ? 0 : 2);
    }
    waitpid(child, &status, 0);
    CU_ASSERT(WIFSIGNALED(status) ? WTERMSIG(status) == SIGABRT : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void test_outside(void)
{
    cl_err err = {0};
    cl_store *s;
    cl_store_node g;
    cl_store_array cube = {.type = CL_STORE_U64, .rank = 4}, one = {.type = CL_STORE_F32, .rank = 1};
    CU_ASSERT_FATAL(cl_store_open(&s, path, "x", &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_open_group(cl_store_root(s), "box", &g, &err) == CL_OK);
    CU_ASSERT_FATAL(cl_store_open_array(g, "cube", &cube, NULL, &err) == CL_OK);
    one.at = cube.at, one.dims[0] = 5;
    CU_ASSERT(!is_a_bug(s, &cube, 0, 60, false) && !is_a_bug(s, &cube, 59, 1, false));
    CU_ASSERT(!is_a_bug(s, &cube, 60, 0, false) && is_a_bug(s, &cube, 61, 0, false));
    CU_ASSERT(is_a_bug(s, &cube, 0, 61, false) && is_a_bug(s, &cube, 60, 1, false) && is_a_bug(s, &cube, 59, 2, false));
    CU_ASSERT(!is_a_bug(s, &one, 0, 5, false) && is_a_bug(s, &one, 0, 6, false) && is_a_bug(s, &one, 5, 1, false));
    CU_ASSERT(!is_a_bug(s, &cube, 0, 3, true) && !is_a_bug(s, &cube, 2, 1, true) && !is_a_bug(s, &cube, 3, 0, true));
    CU_ASSERT(is_a_bug(s, &cube, 0, 4, true) && is_a_bug(s, &cube, 3, 1, true) && is_a_bug(s, &cube, 4, 0, true));
    cl_store_release(&g);
    cl_store_close(s);
}

/* Where standard input is closed a file has its number. */
static void test_descriptor_0(void)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char name[320];
        cl_err err = {0};
        snprintf(name, sizeof name, "%s/zero.h5", dir);
        close(0);
        if (write_sample(name, &err) || read_sample(name, &err)) _exit(1);
        unlink(name);
        _exit(fcntl(0, F_GETFD) == -1 ? 0 : 2); /* free again */
    }
    waitpid(child, &status, 0);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    cl_err err = {0};
    snprintf(dir, sizeof dir, "%s/chipline-store-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return EXIT_FAILURE;
    snprintf(path, sizeof path, "%s/a.h5", dir);
    if (write_sample(path, &err) != CL_OK) return EXIT_FAILURE;
    CU_TestInfo tests[] = {{"writing", test_writing},
                           {"long texts", test_long_text},
                           {"reading", test_reading},
                           {"damaged arrays", test_damaged_arrays},
                           {"arrays that lie elsewhere", test_elsewhere},
                           {"outside an array", test_outside},
                           {"descriptor 0", test_descriptor_0},
                           {"names that are taken", test_taken},
                           CU_TEST_INFO_NULL};
    int code = run_suite("manners", tests);
    unlink(path);
    return rmdir(dir) || code;
}
