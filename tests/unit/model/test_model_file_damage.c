/* The model file: one that lies (wrong shapes, missing parts, flipped bytes, truncation) is refused with a message,
 * whatever byte it lies in. */
#include <fcntl.h>
#include <hdf5.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "chipline/util.h"
#include "model_file_data.h"
#include "npy.h"

static char dir[256], path[300];

static cl_code open_and_verify(const char *name, uint64_t *checksum, cl_err *err)
{
    cl_model_file *f = NULL;
    cl_code c = cl_model_file_open(&f, name, err);
    if (c == CL_OK) {
        *checksum = cl_model_file_checksum(f);
        cl_tokenizer_data *tok = NULL;
        c = cl_tokenizer_data_read(cl_model_file_store(f), &tok, err);
        cl_tokenizer_data_free(tok);
        if (c == CL_OK) c = cl_model_file_verify(f, false, err);
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
    refuse(name, "a GGUF file");
    spill(name, "another kind of file", 20);
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

/* The same, its bytes allocated. */
static void other(hid_t f, const char *name, hid_t type, int rank, const hsize_t *dims)
{
    hid_t s = H5Screate_simple(rank, dims, NULL), p = H5Pcreate(H5P_DATASET_CREATE);
    CU_ASSERT_TRUE(H5Ldelete(f, name, H5P_DEFAULT) >= 0);
    H5Pset_alloc_time(p, H5D_ALLOC_TIME_EARLY);
    hid_t d = H5Dcreate2(f, name, type, s, H5P_DEFAULT, p, H5P_DEFAULT);
    CU_ASSERT_TRUE(d >= 0);
    H5Dclose(d);
    H5Pclose(p);
    H5Sclose(s);
}

static void set_format(hid_t f, const char *name, const char *format)
{
    hid_t d = H5Dopen2(f, name, H5P_DEFAULT);
    set_text(d, "format", format);
    H5Dclose(d);
}

#define SCALED "layers.1.ffn.experts.down.weight"
#define SCALES "scales/" SCALED

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
        /* never written: no bytes */
        replace(f, "tensors/layers.1.attn.v.weight", H5T_STD_U8LE, 2, (hsize_t[]){20, 72});
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
    case 22: H5Ldelete(f, "scales", H5P_DEFAULT); break;
    case 23: H5Ldelete(f, SCALES, H5P_DEFAULT); break;
    case 24: replace(f, SCALES, H5T_IEEE_F32LE, 3, (hsize_t[]){5, 1, 1}); break;
    case 25: replace(f, SCALES, H5T_STD_U32LE, 3, (hsize_t[]){5, 1, 2}); break;
    case 26: replace(f, SCALES, H5T_IEEE_F32LE, 2, (hsize_t[]){5, 2}); break;
    case 27: replace(f, SCALES, H5T_IEEE_F32LE, 3, (hsize_t[]){(hsize_t)1 << 40, 1 << 20, 1 << 20}); break;
    case 28: other(f, SCALES, H5T_IEEE_F32LE, 3, (hsize_t[]){5, 2, 1}); break;
    case 29: /* formats that these tensors cannot have; the names have the right length */
        set_format(f, "tensors/layers.1.ffn.router.weight", "q8_0");
        break;
    case 30: set_format(f, "tensors/layers.1.attn.sinks", "f16"); break;
    case 31: set_format(f, "tensors/layers.1.ffn.experts.down.weight", "f16"); break;
    case 32: set_format(f, "tensors/layers.1.attn.v.weight", "fp8"); break;
    case 33: other(f, SCALES, H5T_IEEE_F32LE, 3, (hsize_t[]){5, 1, 1}); break;
    default: CU_FAIL("no such change");
    }
}

static void test_lies(void)
{
    static const char *const words[] = {"version 2",
                                        "attribute source",
                                        "attribute checksum",
                                        "checksum does not match",
                                        "spec: missing",
                                        "spec",
                                        "layers.1.attn.k.weight: missing",
                                        "layers.1.attn.k.weight: missing",
                                        "has 56 tensors, its spec has 55",
                                        "layers.1.attn.v.weight: has layer 0",
                                        "7 x 7 numbers",
                                        "format \"q9",
                                        "16 hexadecimal digits",
                                        "role",
                                        "dimensions",
                                        "number type",
                                        "not all in the file",
                                        "not all in the file",
                                        "token_type",
                                        "token_offset",
                                        "merges",
                                        "bos",
                                        "group scales: missing",
                                        "experts.down.weight: missing",
                                        "not all in the file",
                                        "number type",
                                        "not 3 dimensions",
                                        "overflows",
                                        "there are 2 x 1 (x 5 experts), there must be 1 x 2 (x 5)",
                                        "must be f32, f16 or bf16",
                                        "is f16, must be f32",
                                        "rows of bytes",
                                        "rows of bytes",
                                        "there are 1 x 1 (x 5 experts), there must be 1 x 2 (x 5)"};
    char name[300];
    size_t n = 0;
    unsigned char *good = npy_read_file(path, &n);
    snprintf(name, sizeof name, "%s/lie.h5", dir);
    for (int i = 0; i < (int)(sizeof words / sizeof *words); i++) {
        spill(name, good, n);
        hid_t f = H5Fopen(name, H5F_ACC_RDWR, H5P_DEFAULT),
              t = H5Dopen2(f, "tensors/layers.1.attn.v.weight", H5P_DEFAULT);
        change(i, f, t);
        H5Dclose(t);
        H5Fclose(f);
        refuse(name, words[i]);
    }
    unlink(name);
    free(good);
}

/* --- flipped bytes and truncation, in children: a crash, a hang or a wild allocation is a failure of that byte --- */

typedef struct shared {
    volatile int64_t at, ok, refused;
} shared;

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

/* Every byte of every scale, each in turn. */
static void test_scale_flips(void)
{
    static const char *const names[] = {"layers.0.ffn.gate.weight", "layers.1.ffn.experts.gate.weight", SCALED,
                                        "layers.2.attn.v_b.weight"};
    static const int scales[] = {2, 5 * 2, 5 * 2, 3};
    cl_err err = {0};
    uint64_t sum;
    int fd = open(path, O_RDWR);
    for (int i = 0; i < 4; i++) {
        char name[96];
        snprintf(name, sizeof name, "scales/%s", names[i]);
        hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), d = H5Dopen2(f, name, H5P_DEFAULT);
        CU_ASSERT_TRUE_FATAL(d >= 0);
        haddr_t at = H5Dget_offset(d);
        CU_ASSERT_EQUAL(H5Dget_storage_size(d), (hsize_t)scales[i] * 4);
        H5Dclose(d);
        H5Fclose(f);
        for (int b = 0; b < scales[i] * 4; b++) {
            unsigned char was, now;
            CU_ASSERT_EQUAL(pread(fd, &was, 1, (off_t)at + b), 1);
            now = (unsigned char)(was ^ 1 << b % 8);
            CU_ASSERT_EQUAL(pwrite(fd, &now, 1, (off_t)at + b), 1);
            CU_ASSERT_EQUAL(open_and_verify(path, &sum, &err), CL_E_INPUT);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, names[i]));
            CU_ASSERT_EQUAL(pwrite(fd, &was, 1, (off_t)at + b), 1);
        }
    }
    close(fd);
    CU_ASSERT_EQUAL(open_and_verify(path, &sum, &err), CL_OK);
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

/* What the others damage copies of. */
static void test_good(void)
{
    cl_err err = {0};
    uint64_t sum;
    write_model(path, true, 1);
    CU_ASSERT_EQUAL_FATAL(open_and_verify(path, &sum, &err), CL_OK);
}

int main(int argc, char **argv)
{
    /* 53: thousands, spread over every structure */
    flip_step = argc > 1 && strcmp(argv[1], "--every-byte") == 0 ? 1 : 53;
    CU_TestInfo tests[] = {{"good file", test_good},
                           {"other files", test_other_files},
                           {"files that lie", test_lies},
                           {"flipped bytes", test_flips},
                           {"flipped scales", test_scale_flips},
                           {"truncated files", test_truncated},
                           CU_TEST_INFO_NULL};
    return run_in_folder("damaged model file", tests, dir, sizeof dir, path, sizeof path);
}
