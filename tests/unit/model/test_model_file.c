/* The model file: what is written comes back bit for bit, nothing appears under its name before it is whole, what
 * does not fit is refused, and an open file costs little memory. */
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "chipline/util.h"
#include "model_file_data.h"

static char dir[256], path[300];

static void check_tensors(const cl_model_file *f)
{
    cl_err err = {0};
    cl_model want = small_model();
    const cl_model *m = cl_model_file_model(f);
    CU_ASSERT_EQUAL_FATAL(m->n_tensors, want.n_tensors);
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        CU_ASSERT_STRING_EQUAL(t->name, want.tensors[i].name);
        CU_ASSERT_EQUAL(t->format, want.tensors[i].format);
        CU_ASSERT_EQUAL_FATAL(cl_tensor_bytes(t), cl_tensor_bytes(&want.tensors[i]));
        CU_ASSERT_NOT_EQUAL(t->xxh3, 0);
        size_t row = cl_row_bytes(t->format, t->cols);
        unsigned char *b = tensor_bytes(t, 1), *got = malloc((size_t)t->rows * row + 1);
        for (int64_t e = 0; e < (t->experts ? t->experts : 1); e++) { /* every expert in two unequal runs */
            int64_t cut = t->rows / 3;
            CU_ASSERT_EQUAL(cl_model_file_read(f, i, e, 0, cut, got, &err), CL_OK);
            CU_ASSERT_EQUAL(cl_model_file_read(f, i, e, cut, t->rows - cut, got + (size_t)cut * row, &err), CL_OK);
            CU_ASSERT_EQUAL(memcmp(got, b + (size_t)(e * t->rows) * row, (size_t)t->rows * row), 0);
            for (int64_t r = t->rows - 1; r >= 0; r -= 5) { /* single rows, nothing written past them */
                got[row] = 0xa5;
                CU_ASSERT_EQUAL(cl_model_file_read(f, i, e, r, 1, got, &err), CL_OK);
                CU_ASSERT_EQUAL(memcmp(got, b + (size_t)(e * t->rows + r) * row, row), 0);
                CU_ASSERT_EQUAL(got[row], 0xa5);
            }
        }
        free(b);
        free(got);
    }
    cl_model_free(&want);
}

static void check_tokenizer(const cl_model_file *f)
{
    cl_err err = {0};
    cl_tokenizer_data want = small_tokenizer(), *d = NULL;
    CU_ASSERT_EQUAL(cl_tokenizer_data_read(cl_model_file_store(f), &d, &err), CL_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(d);
    CU_ASSERT_EQUAL(d->kind, want.kind);
    CU_ASSERT_EQUAL_FATAL(d->n_tokens, want.n_tokens);
    CU_ASSERT_EQUAL(memcmp(d->offset, want.offset, 7 * sizeof *d->offset), 0);
    CU_ASSERT_EQUAL(memcmp(d->bytes, want.bytes, 10), 0);
    CU_ASSERT_EQUAL(memcmp(d->type, want.type, 6), 0);
    CU_ASSERT_EQUAL(memcmp(d->flags, want.flags, 6), 0);
    CU_ASSERT_EQUAL(memcmp(d->score, want.score, 6 * sizeof *d->score), 0);
    CU_ASSERT_EQUAL_FATAL(d->n_merges, 1);
    CU_ASSERT_EQUAL(memcmp(d->merge, want.merge, 3 * sizeof *d->merge), 0);
    CU_ASSERT_EQUAL_FATAL(d->n_splits, 3);
    for (int i = 0; i < 3; i++) CU_ASSERT_STRING_EQUAL(d->splits[i].regex, want.splits[i].regex);
    CU_ASSERT_TRUE(d->ignore_merges && d->add_prefix_space && d->add_bos);
    CU_ASSERT_FALSE(d->nfc || d->byte_fallback || d->add_eos);
    CU_ASSERT_TRUE(d->bos == 4 && d->eos == 4 && d->unk == -1 && d->pad == -1);
    CU_ASSERT_STRING_EQUAL(d->chat_template, want.chat_template);
    CU_ASSERT_STRING_EQUAL(d->source, want.source);
    cl_tokenizer_data_free(d);
}

static void test_round_trip(void)
{
    cl_err err = {0};
    cl_model_file *f = NULL, *g = NULL;
    char other[300], *text = NULL;
    snprintf(other, sizeof other, "%s/other.h5", dir);
    write_model(path, true, 1);
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&f, path, &err), CL_OK);
    check_tensors(f);
    check_tokenizer(f);
    CU_ASSERT_EQUAL(cl_model_file_model(f)->spec.layers[1].ffn.experts, 5);
    CU_ASSERT_STRING_EQUAL(cl_model_file_source(f), "a test");
    CU_ASSERT_EQUAL(cl_model_file_source_config(f, &text, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(text, config);
    free(text);
    CU_ASSERT_EQUAL(cl_model_file_verify(f, false, &err), CL_OK);
    write_model(other, false, 1); /* no config, no tokenizer: the same weights */
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&g, other, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_model_file_checksum(f), cl_model_file_checksum(g));
    CU_ASSERT_EQUAL(cl_model_file_source_config(g, &text, &err), CL_OK);
    CU_ASSERT_PTR_NULL(text);
    cl_tokenizer_data *tok = NULL;
    CU_ASSERT_EQUAL(cl_tokenizer_data_read(cl_model_file_store(g), &tok, &err), CL_OK);
    CU_ASSERT_PTR_NULL(tok);
    cl_model_file_close(g);
    unlink(other);
    write_model(other, false, 2); /* other weights, another checksum */
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&g, other, &err), CL_OK);
    CU_ASSERT_NOT_EQUAL(cl_model_file_checksum(f), cl_model_file_checksum(g));
    cl_model_file_close(g);
    cl_model_file_close(f);
    unlink(other);
}

static char *spec_text(const cl_model_file *f)
{
    cl_err err = {0};
    json_t *j = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_spec_to_json(&cl_model_file_model(f)->spec, &j, &err), CL_OK);
    char *text = json_dumps(j, JSON_SORT_KEYS);
    json_decref(j);
    return text;
}

/* It was not taken for the described file: its config can be read. */
static void check_opened_anew(const char *name, const void *described, size_t bytes, uint64_t checksum)
{
    cl_err err = {0};
    cl_model_file *f = NULL;
    char *text = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open_described(&f, name, described, bytes, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_model_file_source_config(f, &text, &err), CL_OK);
    CU_ASSERT_PTR_NOT_NULL(text);
    CU_ASSERT_EQUAL(cl_model_file_checksum(f), checksum);
    check_tensors(f);
    free(text);
    cl_model_file_close(f);
}

static void test_described(void)
{
    cl_err err = {0};
    cl_model_file *f = NULL, *g = NULL;
    void *described;
    size_t bytes;
    char other[300], cmd[700];
    snprintf(other, sizeof other, "%s/other.h5", dir);
    unlink(path);
    write_model(path, true, 1);
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&f, path, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_model_file_describe(f, &described, &bytes, &err), CL_OK);
    const uint64_t checksum = cl_model_file_checksum(f);
    char *was = spec_text(f);
    cl_model_file_close(f);
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open_described(&g, path, described, bytes, &err), CL_OK);
    char *is = spec_text(g);
    CU_ASSERT_STRING_EQUAL(is, was);
    CU_ASSERT_EQUAL(cl_model_file_checksum(g), checksum);
    CU_ASSERT_STRING_EQUAL(cl_model_file_source(g), "a test");
    CU_ASSERT_STRING_EQUAL(cl_model_file_path(g), path);
    check_tensors(g);
    cl_model_file_close(g);
    free(is);
    free(was);

    snprintf(cmd, sizeof cmd, "cp -p %s %s", path, other); /* another inode */
    CU_ASSERT_EQUAL_FATAL(system(cmd), 0);
    check_opened_anew(other, described, bytes, checksum);
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000}};
    CU_ASSERT_EQUAL_FATAL(utimensat(AT_FDCWD, path, times, 0), 0); /* another time */
    check_opened_anew(path, described, bytes, checksum);
    CU_ASSERT_EQUAL_FATAL(truncate(other, 100), 0);
    CU_ASSERT_EQUAL(cl_model_file_open_described(&g, other, described, bytes, &err), CL_E_INPUT);
    unlink(other);
    CU_ASSERT_EQUAL(cl_model_file_open_described(&g, other, described, bytes, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "/other.h5: No such file or directory"));
    CU_ASSERT_PTR_NULL(g);
    free(described);
}

static int files_in_dir(void)
{
    char cmd[400];
    int n = -1;
    snprintf(cmd, sizeof cmd, "ls -A %s | wc -l", dir);
    FILE *p = popen(cmd, "r");
    if (p) {
        if (fscanf(p, "%d", &n) != 1) n = -1;
        pclose(p);
    }
    return n;
}

static void test_writer_refuses(void)
{
    cl_err err = {0};
    cl_model m = small_model();
    cl_model_writer *w = NULL;
    char name[300], deep[320];
    snprintf(name, sizeof name, "%s/new.h5", dir);
    snprintf(deep, sizeof deep, "%s/none/new.h5", dir);
    int before = files_in_dir();
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, dir, &m, NULL, NULL, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "folder"));
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, deep, &m, NULL, NULL, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "No such file"));
    CU_ASSERT_PTR_NULL(w);
    unsigned char row[4096] = {0};
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_model_writer_rows(w, 1, row, 36, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_model_writer_rows(w, 1, row, 1, &err), CL_E_INPUT); /* one row too many */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, m.tensors[1].name));
    CU_ASSERT_EQUAL(cl_model_writer_commit(w, &err), CL_E_INPUT); /* incomplete */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "embed.weight: has 0 of 50 rows"));
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, &err), CL_OK);
    CU_ASSERT_EQUAL(files_in_dir(), before + 1);
    cl_model_writer_drop(w);
    cl_model_writer_drop(NULL);
    cl_tokenizer_data bad = small_tokenizer();
    bad.bos = 99;
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_tokenizer_data_write(&bad, cl_model_writer_store(w), &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, name));
    cl_model_writer_drop(w);
    cl_spec broken = m.spec;
    m.spec.hidden = 0;
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, name, &m, NULL, NULL, &err), CL_E_INPUT);
    m.spec = broken;
    CU_ASSERT_EQUAL(files_in_dir(), before); /* nothing is left behind, under any name */
    cl_model_free(&m);
}

/* Rows of an fp8 tile that do not agree on their scales; a new tile may have others. */
static void test_tiles_disagree(void)
{
    cl_err err = {0};
    cl_model m = small_model();
    char name[300];
    snprintf(name, sizeof name, "%s/new.h5", dir);
    int before = files_in_dir(), tensor = (int)(cl_model_find(&m, CL_T_EXPERT_DOWN, 1) - m.tensors);
    unsigned char *rows = tensor_bytes(&m.tensors[tensor], 1);
    size_t row = cl_row_bytes(CL_FP8, m.tensors[tensor].cols);
    for (int at = 1; at < 36; at += 17) {
        for (int run = 1; run <= 36; run += 35) { /* the run before the wrong row, or one that contains it */
            cl_model_writer *w = NULL;
            CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, &err), CL_OK);
            rows[(size_t)(36 + at) * row + 7] ^= 1; /* in the second expert, the second of its two scales */
            cl_code c = CL_OK;
            int64_t r = 0;
            for (; c == CL_OK && r < 72; r += run)
                c = cl_model_writer_rows(w, tensor, rows + (size_t)r * row, run, &err);
            rows[(size_t)(36 + at) * row + 7] ^= 1;
            CU_ASSERT_EQUAL(c, CL_E_INPUT);
            CU_ASSERT_EQUAL(r, run == 1 ? 36 + at + 1 : 72);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "experts.down.weight: row"));
            cl_model_writer_drop(w);
        }
    }
    CU_ASSERT_EQUAL(files_in_dir(), before);
    free(rows);
    cl_model_free(&m);
}

/* The disk is full after `limit` bytes, wherever the writer is by then: an error that says so, nothing left behind,
 * no hang. */
static void full_disk(rlim_t limit)
{
    cl_err err = {0};
    cl_model m = small_model();
    cl_model_writer *w = NULL;
    char name[300];
    snprintf(name, sizeof name, "%s/full.h5", dir);
    struct rlimit old, small = {limit, RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    cl_code c = cl_model_writer_create(&w, name, &m, NULL, config, &err);
    if (c == CL_OK) c = write_rows(w, &m, 1, &err);
    if (c == CL_OK) c = cl_model_writer_commit(w, &err);
    else cl_model_writer_drop(w);
    setrlimit(RLIMIT_FSIZE, &old);
    CU_ASSERT_EQUAL(c, CL_E_RUN);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, name));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "File too large"));
    cl_model_free(&m);
}

static void test_full_disk(void)
{
    int before = files_in_dir();
    for (rlim_t limit = 1000; limit < 168000; limit += 7000) full_disk(limit);
    CU_ASSERT_EQUAL(files_in_dir(), before);
    write_model(path, true, 1); /* HDF5 still works in this process */
}

static void test_memory(void)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){8, 4, 180, 1, 1, 2, 3, 4, 2, false, CL_QK_NORM_HEAD});
    cl_formats formats = cl_formats_all(CL_F32);
    cl_model m;
    cl_model_writer *w = NULL;
    char name[300];
    snprintf(name, sizeof name, "%s/many.h5", dir);
    CU_ASSERT_EQUAL_FATAL(cl_model_from_spec(&s, &formats, &m, &err), CL_OK);
    cl_spec_free(&s);
    CU_ASSERT_TRUE(m.n_tensors > 2000);
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, &err), CL_OK);
    for (int i = 0; i < m.n_tensors; i++) {
        unsigned char *b = tensor_bytes(&m.tensors[i], 5);
        CU_ASSERT_EQUAL(cl_model_writer_rows(w, i, b, cl_tensor_rows(&m.tensors[i]), &err), CL_OK);
        free(b);
    }
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_commit(w, &err), CL_OK);
    cl_model_free(&m);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        H5E_auto2_t was, now;
        void *data;
        H5Eget_auto2(H5E_DEFAULT, &was, &data);
        uint64_t before = cl_rss_bytes();
        cl_model_file *f = NULL;
        if (cl_model_file_open(&f, name, &err) != CL_OK) _exit(1);
        uint64_t over = cl_rss_bytes() - before;
        H5Eget_auto2(H5E_DEFAULT, &now, &data);
        _exit(was != now ? 2 : !SANITIZED && over > (6u << 20) ? 3 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
    unlink(name);
}

int main(void)
{
    CU_TestInfo tests[] = {{"round trip", test_round_trip},
                           {"described", test_described},
                           {"writer refuses", test_writer_refuses},
                           {"tiles that disagree", test_tiles_disagree},
                           {"full disk", test_full_disk},
                           {"memory of an open file", test_memory},
                           CU_TEST_INFO_NULL};
    return run_in_folder("model file", tests, dir, sizeof dir, path, sizeof path);
}
