/* Tensors that checkpoints store in several parts, and those of other modalities: what becomes of them, and what is
 * refused. */
#include "chipline/import.h"
#include "chipline/model_file.h"
#include "files.h"
#include "safetensors.h"
#include "suite.h"

/* One tensor of a made-up file; its bytes are zeros, or `numbers`. */
typedef struct part {
    const char *name, *dtype;
    int n_dims;
    int64_t dims[4];
    size_t size; /* of one element */
    const void *numbers;
} part;

enum { PARTS = 8 };

static cl_code open_parts(const part *p, cl_source *s, int *dropped, cl_err *err)
{
    folder f = folder_new();
    place weights = in(&f, "model.safetensors");
    st_file st = {0};
    for (int i = 0; i < PARTS && p[i].name; i++) {
        size_t n = p[i].size;
        for (int k = 0; k < p[i].n_dims; k++) n *= (size_t)p[i].dims[k];
        void *zeros = calloc(n ? n : 1, 1);
        if (!zeros) abort();
        st_tensor(&st, p[i].name, p[i].dtype, p[i].n_dims, p[i].dims, p[i].numbers ? p[i].numbers : zeros, n);
        free(zeros);
    }
    st_write(&st, weights.path);
    cl_code c = cl_safetensors_open(s, f.path, err);
    if (c != CL_OK) abort();
    c = cl_source_join(s, dropped, err);
    folder_remove(&f);
    return c;
}

static void refused(const part *p, const char *says_)
{
    cl_source s;
    cl_err err = {0};
    int dropped;
    CU_ASSERT_EQUAL(open_parts(p, &s, &dropped, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, says_));
    cl_source_free(&s);
}

/* The one tensor that is left. */
static void joined(const part *p, const char *name, cl_format f, cl_src_layout layout, int n_dims, const int64_t *dims)
{
    cl_source s;
    cl_err err = {0};
    int dropped;
    if (open_parts(p, &s, &dropped, &err) != CL_OK) fprintf(stderr, "%s\n", err.msg);
    CU_ASSERT_EQUAL_FATAL(s.n_tensors, 1);
    const cl_src_tensor *t = &s.tensors[0];
    CU_ASSERT_STRING_EQUAL(t->name, name);
    CU_ASSERT(t->format == (int)f && t->layout == layout && t->n_dims == n_dims && dropped == 0);
    CU_ASSERT(memcmp(t->dims, dims, (size_t)n_dims * sizeof *dims) == 0);
    CU_ASSERT(t->scale_bytes > 0 && t->scale_offset + t->scale_bytes <= s.files[t->scale_file].size);
    cl_source_free(&s);
}

static void test_blocks(void)
{
    part p[PARTS] = {{"a.w_blocks", "U8", 4, {2, 3, 5, 16}, 1, NULL}, {"a.w_scales", "U8", 3, {2, 3, 5}, 1, NULL}};
    joined(p, "a.w", CL_MXFP4, CL_SRC_MXFP4_PAIRS, 3, (int64_t[]){2, 3, 160});
    p[1].dims[2] = 4;
    refused(p, "tensor a.w_blocks has the shape [2, 3, 5, 16], which does not fit a.w_scales, [2, 3, 4]");
    p[1].dims[2] = 5;
    p[0].dims[3] = 8;
    refused(p, "tensor a.w_blocks has the shape [2, 3, 5, 8]");
    p[0].dims[3] = 16;
    p[1].dtype = "I8";
    refused(p, "tensor a.w_scales is I8, must be U8");
    p[1].name = "a.scales";
    refused(p, "tensor a.w_blocks: a.w_scales is missing beside it");
    refused((part[PARTS]){{"a_blocks", "U8", 1, {16}, 1, NULL}, {"a_scales", "U8", 0, {0}, 1, NULL}},
            "tensor a_blocks has the shape [16]");
    refused((part[PARTS]){{"a_blocks", "U8", 3, {4, 0, 16}, 1, NULL}, {"a_scales", "U8", 2, {4, 0}, 1, NULL}},
            "tensor a_blocks has an impossible shape");
    refused((part[PARTS]){{"a_blocks", "U8", 3, {4, 1, 16}, 1, NULL},
                          {"a_scales", "U8", 2, {4, 1}, 1, NULL},
                          {"a", "U8", 1, {1}, 1, NULL}},
            "tensor a is there twice");
}

static void test_tiles(void)
{
    part p[PARTS] = {{"a.weight", "F8_E4M3", 2, {129, 128}, 1, NULL},
                     {"a.weight_scale_inv", "F32", 2, {2, 1}, 4, NULL}};
    joined(p, "a.weight", CL_FP8, CL_SRC_FP8_TILES, 2, (int64_t[]){129, 128});
    part stack[PARTS] = {{"a.w", "F8_E4M3", 3, {3, 5, 257}, 1, NULL}, {"a.w_scale_inv", "BF16", 3, {3, 1, 3}, 2, NULL}};
    joined(stack, "a.w", CL_FP8, CL_SRC_FP8_TILES, 3, (int64_t[]){3, 5, 257});
    p[1].dims[0] = 1;
    refused(p, "tensor a.weight_scale_inv has the shape [1, 1], which does not fit a.weight, [129, 128]");
    p[1].dims[0] = 2;
    p[1].dtype = "F16", p[1].size = 2;
    refused(p, "tensor a.weight_scale_inv is F16, must be F32 or BF16");
    p[1].name = "a.weight_scale";
    refused(p, "tensor a.weight: a.weight_scale_inv is missing beside it");
    stack[1].dims[0] = 2;
    refused(stack, "does not fit a.w");
    stack[1].dims[0] = 3;
    stack[1].dims[1] = 2;
    refused(stack, "does not fit a.w");
    stack[1].dims[1] = 1;
    stack[1].dims[2] = 2;
    refused(stack, "does not fit a.w");
    stack[1].n_dims = 2, stack[1].dims[1] = 1;
    refused(stack, "does not fit a.w");
    refused((part[PARTS]){{"a", "F8_E4M3", 1, {128}, 1, NULL}, {"a_scale_inv", "F32", 1, {1}, 4, NULL}},
            "does not fit a");
    refused((part[PARTS]){{"a", "F8_E4M3", 4, {1, 1, 2, 2}, 1, NULL}, {"a_scale_inv", "F32", 4, {1, 1, 1, 1}, 4, NULL}},
            "does not fit a");
    refused((part[PARTS]){{"a", "F8_E4M3", 2, {0, 2}, 1, NULL}, {"a_scale_inv", "F32", 2, {0, 1}, 4, NULL}},
            "tensor a has an impossible shape");
    refused((part[PARTS]){{"a", "F8_E4M3", 2, {2, 2}, 1, NULL}, {"a_scale_inv", "F32", 2, {1, 0}, 4, NULL}},
            "tensor a_scale_inv has an impossible shape");
    for (int64_t n = 127; n <= 257; n += n == 129 ? 126 : 1) { /* a tile more from 129 and from 257 on */
        part tiles[PARTS] = {{"a", "F8_E4M3", 2, {n, 300 - n}, 1, NULL},
                             {"a_scale_inv", "BF16", 2, {(n + 127) / 128, (427 - n) / 128}, 2, NULL}};
        joined(tiles, "a", CL_FP8, CL_SRC_FP8_TILES, 2, (int64_t[]){n, 300 - n});
    }
}

static void test_words(void)
{
    int64_t shape[2] = {3, 64};
    int32_t narrow[2] = {3, 64};
    part p[PARTS] = {{"a.weight_packed", "I32", 2, {3, 8}, 4, NULL},
                     {"a.weight_scale", "BF16", 2, {3, 2}, 2, NULL},
                     {"a.weight_shape", "I64", 1, {2}, 8, shape}};
    joined(p, "a.weight", CL_INT4, CL_SRC_INT4_WORDS, 2, (int64_t[]){3, 64});
    p[1].dtype = "F32", p[1].size = 4;
    p[2].dtype = "I32", p[2].size = 4, p[2].numbers = narrow;
    joined(p, "a.weight", CL_INT4, CL_SRC_INT4_WORDS, 2, (int64_t[]){3, 64});
    narrow[1] = 63;
    refused(p, "tensor a.weight_shape says [3, 63], a.weight_packed holds [3, 64]");
    narrow[1] = 64;
    p[2].dims[0] = 1;
    refused(p, "tensor a.weight_shape has the shape [1]");
    p[2].dims[0] = 2;
    p[1].dims[1] = 1; /* groups of 64 */
    refused(p, "tensor a.weight_scale has the shape [3, 1], which does not fit a.weight_packed, [3, 8] "
               "(one scale per 32 columns");
    p[1].dims[1] = 2;
    const part flat = p[0], scales = p[1];
    p[0] = (part){"a.weight_packed", "I32", 3, {3, 8, 1}, 4, NULL};
    refused(p, "tensor a.weight_scale has the shape [3, 2], which does not fit a.weight_packed, [3, 8, 1]");
    p[1].n_dims = 3, p[1].dims[2] = 1;
    refused(p, "tensor a.weight_scale has the shape [3, 2, 1]");
    p[0] = flat;
    refused(p, "tensor a.weight_scale has the shape [3, 2, 1]");
    p[1] = scales;
    p[1].dims[0] = 2;
    refused(p, "tensor a.weight_scale has the shape [2, 2]");
    p[1] = scales;
    p[0].dims[1] = 9; /* no whole groups */
    refused(p, "tensor a.weight_scale has the shape [3, 2], which does not fit a.weight_packed, [3, 9]");
    p[0] = flat;
    p[2].n_dims = 2, p[2].dims[1] = 1;
    refused(p, "tensor a.weight_shape has the shape [2, 1]");
    p[2].n_dims = 1;
    p[2].dtype = "U32";
    refused(p, "tensor a.weight_shape is U32, must be I32 or I64");
    p[2].dtype = "I32";
    narrow[0] = 4;
    refused(p, "tensor a.weight_shape says [4, 64], a.weight_packed holds [3, 64]");
    narrow[0] = 3;
    p[1].dtype = "U32";
    refused(p, "tensor a.weight_scale is U32, must be BF16, F16 or F32");
    p[1].dtype = "F32";
    p[0].dtype = "U32";
    refused(p, "tensor a.weight_packed is U32, must be I32");
    p[0].dtype = "I32";
    p[2].name = "b.weight_shape";
    refused(p, "tensor a.weight_packed: a.weight_shape is missing beside it");
}

static void test_modalities(void)
{
    part p[PARTS] = {{"language_model.model.norm.weight", "F32", 1, {2}, 4, NULL},
                     {"vision_model.a", "F32", 1, {2}, 4, NULL},
                     {"multi_modal_projector.linear_1.weight", "F32", 1, {2}, 4, NULL},
                     {"vision_tower.b", "F8_E4M3", 1, {2}, 1, NULL},
                     {"language_model.a.weight", "F8_E4M3", 2, {2, 2}, 1, NULL},
                     {"language_model.a.weight_scale_inv", "F32", 2, {1, 1}, 4, NULL}};
    cl_source s;
    cl_err err;
    int dropped;
    CU_ASSERT_EQUAL_FATAL(open_parts(p, &s, &dropped, &err), CL_OK);
    CU_ASSERT(dropped == 3 && s.n_tensors == 2);
    CU_ASSERT(cl_source_find(&s, "model.norm.weight") >= 0 && cl_source_find(&s, "a.weight") >= 0);
    cl_source_free(&s);
    refused((part[PARTS]){{"language_model.a", "F32", 1, {2}, 4, NULL}, {"a", "F32", 1, {2}, 4, NULL}},
            "tensor a is there twice");
}

/* Quantised folders keep their formats; what cannot is what cuts through tiles (deepseek_v3_fp8's kv_b). */
static void test_quantised_folders(void)
{
    static const struct {
        const char *folder;
        cl_formats f;
        cl_format up;
        uint64_t sum;
    } cases[] = {{"gpt_oss_mxfp4", {CL_BF16, CL_BF16, CL_MXFP4, CL_BF16}, CL_BF16, 0x21771a5b619b58a1},
                 {"kimi_k2_int4", {CL_BF16, CL_BF16, CL_INT4, CL_BF16}, CL_BF16, 0x5a2257a88baada5e},
                 {"deepseek_v3_fp8", {CL_BF16, CL_FP8, CL_FP8, CL_BF16}, CL_F32, 0x6c60e7757bf54cfd}};
    folder f = folder_new();
    place out = in(&f, "m.h5");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char src[512];
        snprintf(src, sizeof src, CL_FIXTURES "/%s", cases[i].folder);
        const cl_convert_options keep = {.keep = true, .jobs = 2, .quiet = true};
        cl_model_file *file = NULL;
        cl_model plain;
        cl_err err;
        CU_ASSERT_FATAL(cl_convert(src, out.path, &keep, &err) == CL_OK &&
                        cl_model_file_open(&file, out.path, &err) == CL_OK);
        CU_ASSERT_EQUAL(cl_model_file_verify(file, false, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_model_file_checksum(file), cases[i].sum); /* every code and scale where it was */
        if (cl_model_file_checksum(file) != cases[i].sum)
            fprintf(stderr, "J%zu 0x%016llx\n", i, (unsigned long long)cl_model_file_checksum(file));
        const cl_model *m = cl_model_file_model(file);
        CU_ASSERT_EQUAL_FATAL(cl_model_from_spec(&m->spec, &cases[i].f, &plain, &err), CL_OK);
        for (int k = 0; k < m->n_tensors; k++) {
            bool up = m->tensors[k].role == CL_T_K_B || m->tensors[k].role == CL_T_V_B;
            CU_ASSERT_EQUAL(m->tensors[k].format, up ? cases[i].up : plain.tensors[k].format);
        }
        cl_model_free(&plain);
        cl_model_file_close(file);
    }
    folder_remove(&f);
}

static void test_said(void) { said_is(0xc549088b); }

int main(void)
{
    CU_TestInfo tests[] = {{"mxfp4 blocks and scales", test_blocks},
                           {"fp8 tiles", test_tiles},
                           {"int4 words", test_words},
                           {"other modalities", test_modalities},
                           {"quantised folders", test_quantised_folders},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("join", tests);
}
