/* The model file: what is written comes back bit for bit, nothing appears under its name before it is whole, and a file that lies
 * (wrong shapes, missing parts, flipped bytes, truncation) is refused with a message, whatever byte it lies in. */
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chipline/model_file.h"
#include "chipline/tokenizer.h"
#include "chipline/util.h"
#include "npy.h"
#include "specs.h"
#include "suite.h"

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 }; /* its shadow and quarantine count as memory */
#else
enum { SANITIZED = 0 };
#endif

static char dir[256], path[300];
static const char config[] = "{\"hidden_size\": 36, \"note\": \"verbatim \xc3\xa9\"}\n";

/* --- a small model of every kind of tensor, its bytes and a tokenizer --- */

static cl_model small_model(void)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){50, 36, 2, 6, 2, 10, 40, 0, 0, false, CL_QK_NORM_HEAD});
    s.layers[0].attn.qkv_bias = s.layers[0].attn.o_bias = s.layers[0].ffn.bias = true;
    s.layers[1].ffn = (cl_ffn){.kind = CL_FFN_MOE, .width = 9, .experts = 5, .top_k = 2, .renormalise = true};
    cl_model m;
    CU_ASSERT_EQUAL_FATAL(cl_model_from_spec(&s, CL_BF16, &m, &err), CL_OK);
    cl_spec_free(&s);
    static const cl_format cycle[] = {CL_Q8_0, CL_Q4_0, CL_MXFP4, CL_F16, CL_Q4_1, CL_F32, CL_BF16};
    for (int i = 0, k = 0; i < m.n_tensors; i++)
        if (cl_role_is_matrix(m.tensors[i].role)) m.tensors[i].format = cycle[k++ % 7];
    return m;
}

static unsigned char *tensor_bytes(const cl_tensor *t, uint64_t seed)
{
    uint64_t n = cl_tensor_bytes(t), z = seed * 0x9e3779b97f4a7c15u + (uint64_t)t->role * 77 + (uint64_t)(t->layer + 1) * 1009;
    unsigned char *b = malloc(n);
    for (uint64_t i = 0; i < n; i++) {
        z = z * 6364136223846793005u + 1442695040888963407u;
        b[i] = (unsigned char)(z >> 56);
    }
    return b;
}

static cl_tokenizer_data small_tokenizer(void)
{
    static char bytes[] = "ab ab<s>\xc3\xa9", template[] = "{{ messages }} \xe2\x82\xac", source[] = "a test";
    static uint32_t offset[] = {0, 1, 2, 3, 5, 8, 10};
    static uint8_t type[] = {1, 1, 1, 1, 3, 1}, flags[] = {0, 0, 0, 0, CL_TOK_LSTRIP, 0};
    static float score[] = {0, -1, -2.5f, -3, 0, -1e-9f};
    static int32_t merge[] = {0, 1, 3};
    static char digit[] = "\\p{N}", none[] = "", word[] = " ?\\p{L}+";
    static cl_tok_split splits[] = {{digit}, {none}, {word}};
    return (cl_tokenizer_data){.kind = CL_TOK_BPE_BYTES, .n_tokens = 6, .bytes = bytes, .offset = offset, .type = type,
                               .flags = flags, .score = score, .n_merges = 1, .merge = merge, .n_splits = 3, .splits = splits,
                               .ignore_merges = true, .add_prefix_space = true, .add_bos = true, .bos = 4, .eos = 4, .unk = -1,
                               .pad = -1, .chat_template = template, .source = source};
}

/* Rows in runs of odd lengths, tensors in two interleaved passes. */
static cl_code write_rows(cl_model_writer *w, const cl_model *m, uint64_t seed, cl_err *err)
{
    cl_code c = CL_OK;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = m->n_tensors - 1; c == CL_OK && i >= 0; i--) {
            const cl_tensor *t = &m->tensors[i];
            unsigned char *b = tensor_bytes(t, seed);
            int64_t half = cl_tensor_rows(t) / 2, from = pass ? half : 0, to = pass ? cl_tensor_rows(t) : half;
            size_t row = cl_row_bytes(t->format, t->cols);
            for (int64_t r = from, n; c == CL_OK && r < to; r += n) {
                n = 7 < to - r ? 7 : to - r;
                c = cl_model_writer_rows(w, i, b + (size_t)r * row, n, err);
            }
            free(b);
        }
    }
    return c;
}

static void write_model(const char *name, bool full, uint64_t seed)
{
    cl_err err = {0};
    cl_model m = small_model();
    cl_tokenizer_data tok = small_tokenizer();
    cl_model_writer *w = NULL;
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, name, &m, "a test", full ? config : NULL, full ? &tok : NULL, &err), CL_OK);
    if (!w) fprintf(stderr, "%s\n", err.msg);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    bool fresh = access(name, F_OK) != 0;
    CU_ASSERT_EQUAL(cl_model_writer_creator(w, "test 1", &err), CL_OK);
    CU_ASSERT_EQUAL(write_rows(w, &m, seed, &err), CL_OK);
    if (fresh) CU_ASSERT_NOT_EQUAL(access(name, F_OK), 0); /* not before it is whole */
    CU_ASSERT_EQUAL(cl_model_writer_commit(w, &err), CL_OK);
    CU_ASSERT_EQUAL(access(name, F_OK), 0);
    cl_model_free(&m);
}

/* --- round trip --- */

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
        unsigned char *b = tensor_bytes(t, 1), *got = malloc(cl_tensor_bytes(t));
        size_t row = cl_row_bytes(t->format, t->cols);
        for (int64_t e = 0; e < (t->experts ? t->experts : 1); e++) { /* every expert in two unequal runs */
            int64_t cut = t->rows / 3;
            CU_ASSERT_EQUAL(cl_model_file_read(f, i, e, 0, cut, got, &err), CL_OK);
            CU_ASSERT_EQUAL(cl_model_file_read(f, i, e, cut, t->rows - cut, got + (size_t)cut * row, &err), CL_OK);
            CU_ASSERT_EQUAL(memcmp(got, b + (size_t)(e * t->rows) * row, (size_t)t->rows * row), 0);
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
    CU_ASSERT_EQUAL(cl_model_file_tokenizer(f, &d, &err), CL_OK);
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
    CU_ASSERT_EQUAL(cl_model_file_tokenizer(g, &tok, &err), CL_OK);
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
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, dir, &m, NULL, NULL, NULL, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "folder"));
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, deep, &m, NULL, NULL, NULL, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "No such file"));
    CU_ASSERT_PTR_NULL(w);
    unsigned char row[4096] = {0};
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, NULL, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_model_writer_rows(w, 1, row, 36, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_model_writer_rows(w, 1, row, 1, &err), CL_E_INPUT); /* one row too many */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, m.tensors[1].name));
    CU_ASSERT_EQUAL(cl_model_writer_commit(w, &err), CL_E_INPUT);          /* incomplete */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "embed.weight: has 0 of 50 rows"));
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, NULL, &err), CL_OK);
    CU_ASSERT_EQUAL(files_in_dir(), before + 1);
    cl_model_writer_drop(w);
    cl_model_writer_drop(NULL);
    cl_tokenizer_data bad = small_tokenizer();
    bad.bos = 99;
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, name, &m, NULL, NULL, &bad, &err), CL_E_INPUT);
    cl_spec broken = m.spec;
    m.spec.hidden = 0;
    CU_ASSERT_EQUAL(cl_model_writer_create(&w, name, &m, NULL, NULL, NULL, &err), CL_E_INPUT);
    m.spec = broken;
    CU_ASSERT_EQUAL(files_in_dir(), before); /* nothing is left behind, under any name */
    cl_model_free(&m);
}

/* The disk is full after `limit` bytes, wherever the writer is by then: an error that says so, nothing left behind, no hang. */
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
    cl_code c = cl_model_writer_create(&w, name, &m, NULL, config, NULL, &err);
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
    for (rlim_t limit = 1000; limit < 72000; limit += 7000) full_disk(limit);
    CU_ASSERT_EQUAL(files_in_dir(), before);
    write_model(path, true, 1); /* HDF5 still works in this process */
}

/* --- files that lie --- */

static cl_code open_and_verify(const char *name, uint64_t *checksum, cl_err *err)
{
    cl_model_file *f = NULL;
    cl_code c = cl_model_file_open(&f, name, err);
    if (c == CL_OK) {
        *checksum = cl_model_file_checksum(f);
        c = cl_model_file_verify(f, false, err);
    }
    cl_model_file_close(f);
    return c;
}

static void refuse(const char *name, const char *word)
{
    cl_err err = {0};
    uint64_t sum;
    CU_ASSERT_EQUAL(open_and_verify(name, &sum, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, name));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, word));
    if (!strstr(err.msg, word)) fprintf(stderr, "wanted \"%s\": %s\n", word, err.msg);
}

static void spill(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(name, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void test_other_files(void)
{
    char name[300];
    snprintf(name, sizeof name, "%s/wrong.h5", dir);
    refuse(name, "No such file");
    refuse(dir, "folder");
    spill(name, "", 0);
    refuse(name, "empty");
    spill(name, "GGUF\3\0\0\0and more", 16);
    refuse(name, "no HDF5 file");
    spill(name, "\x89HDF\r\n\x1a\n", 8);
    refuse(name, "damaged or incomplete");
    hid_t h = H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(h);
    refuse(name, "chipline_model");
    unlink(name);
}

/* The file changed through HDF5 itself, so that HDF5's own checksums are right. */
static void set_int(hid_t o, const char *name, int64_t v)
{
    hid_t a = H5Aopen(o, name, H5P_DEFAULT);
    CU_ASSERT_TRUE(H5Awrite(a, H5T_NATIVE_INT64, (int64_t[3]){v, v, v}) >= 0);
    H5Aclose(a);
}

static void set_text(hid_t o, const char *name, const char *text)
{
    hid_t a = H5Aopen(o, name, H5P_DEFAULT), t = H5Aget_type(a);
    char buf[8192];
    memset(buf, 0, sizeof buf);
    strcpy(buf, text);
    CU_ASSERT_TRUE(H5Awrite(a, t, buf) >= 0);
    H5Tclose(t);
    H5Aclose(a);
}

static void replace(hid_t f, const char *name, hid_t type, int rank, const hsize_t *dims)
{
    hid_t s = H5Screate_simple(rank, dims, NULL);
    CU_ASSERT_TRUE(H5Ldelete(f, name, H5P_DEFAULT) >= 0);
    hid_t d = H5Dcreate2(f, name, type, s, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    CU_ASSERT_TRUE(d >= 0);
    H5Dclose(d);
    H5Sclose(s);
}

static void change(int which, hid_t f, hid_t t)
{
    hid_t s;
    switch (which) {
    case 0: set_int(f, "chipline_model", 2); break;
    case 1: H5Adelete(f, "source"); break;
    case 2: H5Adelete(f, "checksum"); break;
    case 3: set_text(f, "checksum", "0123456789abcdef"); break;
    case 4: H5Ldelete(f, "spec", H5P_DEFAULT); break;
    case 5: replace(f, "spec", H5T_STD_U8LE, 1, (hsize_t[]){0}); break;
    case 6: H5Ldelete(f, "tensors/layers.1.attn.k.weight", H5P_DEFAULT); break;
    case 7: H5Lmove(f, "tensors/layers.1.attn.k.weight", H5L_SAME_LOC, "tensors/x", H5P_DEFAULT, H5P_DEFAULT); break;
    case 8:
        s = H5Gcreate2(f, "tensors/extra", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Gclose(s);
        break;
    case 9: set_int(t, "layer", 0); break;
    case 10: set_int(t, "shape", 7); break;
    case 11: set_text(t, "format", "q9"); break;
    case 12: set_text(t, "xxh3", "0"); break;
    case 13: set_text(t, "role", "attn.q.weight"); break;
    case 14: replace(f, "tensors/layers.1.attn.v.weight", H5T_STD_U8LE, 1, (hsize_t[]){20 * 36}); break;
    case 15: replace(f, "tensors/layers.1.attn.v.weight", H5T_STD_U16LE, 2, (hsize_t[]){20, 72}); break;
    case 16:
        replace(f, "tensors/layers.1.attn.v.weight", H5T_STD_U8LE, 2, (hsize_t[]){(hsize_t)1 << 31, (hsize_t)1 << 31});
        break;
    case 17:
        replace(f, "tensors/layers.1.attn.v.weight", H5T_STD_U8LE, 2, (hsize_t[]){20, 72}); /* never written: no bytes */
        break;
    case 18: replace(f, "tokenizer/token_type", H5T_STD_U8LE, 1, (hsize_t[]){5}); break;
    case 19: H5Ldelete(f, "tokenizer/token_offset", H5P_DEFAULT); break;
    case 20:
        H5Ldelete(f, "tokenizer/merges", H5P_DEFAULT);
        H5Lcreate_external("other.h5", "/merges", f, "tokenizer/merges", H5P_DEFAULT, H5P_DEFAULT);
        break;
    case 21:
        s = H5Gopen2(f, "tokenizer", H5P_DEFAULT);
        set_int(s, "bos_id", 1000);
        H5Gclose(s);
        break;
    default: CU_FAIL("no such change");
    }
}

static void test_lies(void)
{
    static const char *const words[] = {
        "version 2",   "attribute source", "attribute checksum", "checksum does not match", "spec: missing", "spec",
        "layers.1.attn.k.weight: missing", "layers.1.attn.k.weight: missing", "has 34 tensors, its spec has 33",
        "layers.1.attn.v.weight: has layer 0", "7 x 7 numbers", "format \"q9", "16 hexadecimal digits", "role", "dimensions",
        "number type", "not all in the file", "not all in the file", "token_type", "token_offset", "merges", "bos"};
    char name[300];
    size_t n = 0;
    unsigned char *good = npy_read_file(path, &n);
    snprintf(name, sizeof name, "%s/lie.h5", dir);
    for (int i = 0; i < (int)(sizeof words / sizeof *words); i++) {
        spill(name, good, n);
        hid_t f = H5Fopen(name, H5F_ACC_RDWR, H5P_DEFAULT), t = H5Dopen2(f, "tensors/layers.1.attn.v.weight", H5P_DEFAULT);
        change(i, f, t);
        H5Dclose(t);
        H5Fclose(f);
        refuse(name, words[i]);
    }
    unlink(name);
    free(good);
}

/* --- flipped bytes and truncation, in children: a crash, a hang or a wild allocation is a failure of that byte --- */

typedef struct shared { volatile int64_t at, ok, refused; } shared;

static int64_t flip_step;

/* Flips bits of byte `at` of the file, tries it, puts the byte back. */
static void try_flip(int fd, const unsigned char *good, int64_t at, uint64_t sum, shared *s)
{
    cl_err err = {0};
    uint64_t got = 0;
    unsigned char b = (unsigned char)(good[at] ^ (at % 3 == 0 ? 0xff : 1 << (at * 2654435761u >> 7) % 8));
    if (pwrite(fd, &b, 1, at) != 1) _exit(3);
    alarm(20);
    cl_code c = open_and_verify(path, &got, &err);
    alarm(0);
    if (pwrite(fd, &good[at], 1, at) != 1) _exit(3);
    if (c == CL_OK && got == sum) s->ok++;
    else if (c == CL_E_INPUT && err.msg[0]) s->refused++;
    else {
        fprintf(stderr, "byte %lld: code %d, \"%s\"\n", (long long)at, c, err.msg);
        _exit(4);
    }
    if (!SANITIZED && cl_rss_peak_bytes() > (uint64_t)400 << 20) {
        fprintf(stderr, "byte %lld: %llu bytes of memory\n", (long long)at, (unsigned long long)cl_rss_peak_bytes());
        _exit(5);
    }
}

static void test_flips(void)
{
    size_t n = 0;
    unsigned char *good = npy_read_file(path, &n);
    CU_ASSERT_PTR_NOT_NULL_FATAL(good);
    cl_err err = {0};
    uint64_t sum = 0;
    CU_ASSERT_EQUAL(open_and_verify(path, &sum, &err), CL_OK);
    shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_NOT_EQUAL_FATAL(s, MAP_FAILED);
    int failures = 0;
    fflush(NULL);
    while (s->at < (int64_t)n && failures < 20) {
        pid_t child = fork();
        if (child == 0) {
            int fd = open(path, O_RDWR);
            for (; s->at < (int64_t)n; s->at += flip_step) try_flip(fd, good, s->at, sum, s);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
        failures++;
        fprintf(stderr, "byte %lld of %zu: the child ended with status 0x%x\n", (long long)s->at, n, status);
        spill(path, good, n);
        s->at += flip_step;
    }
    CU_ASSERT_EQUAL(failures, 0);
    CU_ASSERT_TRUE(s->refused > 9 * s->ok); /* nearly every byte counts */
    printf("(%lld of %zu bytes flipped: %lld refused, %lld without effect) ", (long long)(s->refused + s->ok), n,
           (long long)s->refused, (long long)s->ok);
    munmap(s, sizeof *s);
    free(good);
}

static void test_truncated(void)
{
    size_t n = 0;
    unsigned char *good = npy_read_file(path, &n);
    char name[300];
    snprintf(name, sizeof name, "%s/short.h5", dir);
    for (size_t k = 1; k < n; k += k < 2048 ? 97 : n / 50 + 1) {
        spill(name, good, k);
        refuse(name, "");
    }
    spill(name, good, n - 1);
    refuse(name, "");
    spill(name, good, n);
    int fd = open(name, O_RDWR);
    cl_err err = {0};
    cl_model_file *f = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&f, name, &err), CL_OK);
    CU_ASSERT_EQUAL(ftruncate(fd, 3000), 0); /* shortened while it is open */
    CU_ASSERT_NOT_EQUAL(cl_model_file_verify(f, false, &err), CL_OK);
    cl_model_file_close(f);
    close(fd);
    unlink(name);
    free(good);
}

/* A model of 2,000 tensors: opening it costs little memory, and HDF5's error printing is as it was. */
static void test_memory(void)
{
    cl_err err = {0};
    cl_spec s = test_spec((test_geometry){8, 4, 180, 1, 1, 2, 3, 4, 2, false, CL_QK_NORM_HEAD});
    cl_model m;
    cl_model_writer *w = NULL;
    char name[300];
    snprintf(name, sizeof name, "%s/many.h5", dir);
    CU_ASSERT_EQUAL_FATAL(cl_model_from_spec(&s, CL_F32, &m, &err), CL_OK);
    cl_spec_free(&s);
    CU_ASSERT_TRUE(m.n_tensors > 2000);
    CU_ASSERT_EQUAL_FATAL(cl_model_writer_create(&w, name, &m, NULL, NULL, NULL, &err), CL_OK);
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

int main(int argc, char **argv)
{
    flip_step = argc > 1 && strcmp(argv[1], "--every-byte") == 0 ? 1 : 23; /* 23: thousands, spread over every structure */
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/chipline-model-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return EXIT_FAILURE;
    snprintf(path, sizeof path, "%s/model.h5", dir);
    CU_TestInfo tests[] = {
        {"round trip", test_round_trip},     {"writer refuses", test_writer_refuses}, {"full disk", test_full_disk},
        {"other files", test_other_files},   {"files that lie", test_lies},           {"flipped bytes", test_flips},
        {"truncated files", test_truncated}, {"memory of an open file", test_memory}, CU_TEST_INFO_NULL};
    int code = run_suite("model file", tests);
    unlink(path);
    rmdir(dir);
    return code;
}
