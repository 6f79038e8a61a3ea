/* Small tokenizers of every family (tests/fixtures/tokenizers), imported, against what the reference libraries made
 * of 300 texts. */
#include <jansson.h>

#include "files.h"
#include "suite.h"
#include "tok_import.h"

static json_t *load(const char *name)
{
    char path[600];
    json_error_t e;
    snprintf(path, sizeof path, "%s/tokenizers/%s", CL_FIXTURES, name);
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j) {
        fprintf(stderr, "%s: %s\n", path, e.text);
        abort();
    }
    return j;
}

/* NAME/tokenizer.gguf, or the folder NAME. */
static cl_tokenizer_data *import(const char *name)
{
    char dir[500], path[600];
    cl_tokenizer_data *d = NULL;
    cl_err err = {0};
    snprintf(dir, sizeof dir, "%s/tokenizers/%s", CL_FIXTURES, name);
    snprintf(path, sizeof path, "%s/tokenizer.gguf", dir);
    cl_code c;
    if (access(path, F_OK) == 0) {
        cl_gguf *g = NULL;
        c = cl_gguf_open(&g, path, &err);
        if (c == CL_OK) c = cl_tok_from_gguf(g, &d, &err);
        cl_gguf_close(g);
    } else c = cl_tok_from_hf_folder(dir, &d, &err);
    if (c != CL_OK || !d) {
        fprintf(stderr, "%s: %s\n", name, c ? err.msg : "no tokenizer");
        abort();
    }
    return d;
}

static bool same_ids(const json_t *want, const int32_t *ids, int n)
{
    bool same = json_array_size(want) == (size_t)n;
    for (int i = 0; same && i < n; i++) same = json_integer_value(json_array_get(want, (size_t)i)) == ids[i];
    return same;
}

/* The ids of text; aborts the test on an error. */
static int32_t *encode(const cl_tokenizer *t, const json_t *text, bool specials, bool wrap, int *n)
{
    cl_err err = {0};
    int32_t *ids = NULL;
    if (cl_tokenizer_encode(t, json_string_value(text), json_string_length(text), specials, wrap, &ids, n, &err) !=
        CL_OK)
        fprintf(stderr, "%s\n", err.msg);
    CU_ASSERT_PTR_NOT_NULL_FATAL(ids);
    return ids;
}

static cl_buf decode(const cl_tokenizer *t, const int32_t *ids, int n, bool controls)
{
    cl_buf out = {0};
    cl_detok d;
    cl_err err;
    cl_detok_init(&d, t, true, controls);
    CU_ASSERT_EQUAL(cl_buf_str(&out, "", &err), CL_OK);
    for (int i = 0; i < n; i++) CU_ASSERT_EQUAL(cl_detok_add(&d, ids[i], &out, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_detok_finish(&d, &out, &err), CL_OK);
    return out;
}

static void complain(const char *name, size_t i, const json_t *text, const char *what)
{
    char *s = json_dumps(text, JSON_ENCODE_ANY);
    fprintf(stderr, "%s: text %zu %s: %s\n", name, i, s, what);
    free(s);
    CU_FAIL("a text differs");
}

/* Whole sentences in many scripts. */
static void check_more(const char *name, const cl_tokenizer *t, const json_t *ids)
{
    json_t *texts = load("more.json");
    CU_ASSERT_EQUAL_FATAL(json_array_size(ids), json_array_size(texts));
    CU_ASSERT(json_array_size(texts) >= 20);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        int n;
        int32_t *got = encode(t, text, true, false, &n);
        if (!same_ids(json_array_get(ids, i), got, n)) complain(name, i, text, "ids differ");
        free(got);
    }
    json_decref(texts);
}

/* The tokenizer in folder `name` by the vectors in folder `like`. */
static void check_like(const char *name, const char *like)
{
    char path[64];
    snprintf(path, sizeof path, "%s/vectors.json", like);
    json_t *texts = load("texts.json"), *v = load(path), *ids = json_object_get(v, "ids"),
           *wrapped = json_object_get(v, "wrapped");
    bool specials = json_is_true(json_object_get(v, "specials"));
    cl_tokenizer_data *d = import(name);
    cl_tokenizer *t = NULL;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, d, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(json_array_size(ids), json_array_size(texts));
    CU_ASSERT(json_array_size(texts) >= 300);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i), *other;
        char index[24];
        int n;
        int32_t *got = encode(t, text, specials, false, &n);
        if (!same_ids(json_array_get(ids, i), got, n)) complain(name, i, text, "ids differ");
        cl_buf back = decode(t, got, n, true);
        snprintf(index, sizeof index, "%zu", i);
        other = json_object_get(json_object_get(v, "decoded"), index);
        if (!other) other = text;
        if (back.len != json_string_length(other) || memcmp(back.data, json_string_value(other), back.len) != 0)
            complain(name, i, text, "decodes to something else");
        cl_buf_free(&back);
        free(got);
        if (i >= json_array_size(wrapped) || strcmp(name, like) != 0) continue;
        got = encode(t, text, specials, true, &n);
        const json_t *want = json_array_get(wrapped, i);
        bool doubled = d->add_bos && json_array_size(want) > 1 && json_integer_value(json_array_get(want, 1)) == d->bos;
        json_t *fewer = json_deep_copy(want); /* a BOS that the text has already is not doubled: ours alone */
        if (doubled) json_array_remove(fewer, 0);
        if (!same_ids(fewer, got, n)) complain(name, i, text, "wrapped ids differ");
        json_decref(fewer);
        free(got);
    }
    if (json_object_get(v, "more")) check_more(name, t, json_object_get(v, "more"));
    cl_tokenizer_free(t);
    cl_tokenizer_data_free(d);
    json_decref(texts);
    json_decref(v);
}

static void check_family(const char *name) { check_like(name, name); }

static void test_gpt2(void) { check_family("gpt2"); }
static void test_prefix(void) { check_family("prefix"); }
static void test_splits(void) { check_family("splits"); }
static void test_smollm(void) { check_family("smollm"); }
static void test_smollm_gguf(void) { check_family("smollm_gguf"); }
static void test_llama3(void) { check_family("llama3"); }
static void test_qwen2(void) { check_family("qwen2"); }
static void test_spm(void) { check_family("spm"); }
static void test_llama2(void) { check_family("llama2"); }
static void test_llama2_gguf(void) { check_family("llama2_gguf"); }
static void test_metaspace_first(void) { check_family("metaspace_first"); }
static void test_metaspace_always(void) { check_family("metaspace_always"); }
static void test_deepseek_v2(void) { check_family("deepseek_v2"); }
static void test_deepseek_v3(void) { check_family("deepseek_v3"); }
static void test_o200k(void) { check_family("o200k"); }
static void test_llama4(void) { check_family("llama4"); }
static void test_kimi(void) { check_family("kimi"); }
static void test_later_gguf(void)
{
    check_like("deepseek_v2_gguf", "deepseek_v2");
    check_like("deepseek_v3_gguf", "deepseek_v3");
    check_like("o200k_gguf", "o200k");
    check_like("kimi_gguf", "kimi");
}

/* What the files say besides. */
static void test_settings(void)
{
    cl_tokenizer_data *d = import("llama3");
    cl_tokenizer *t = NULL;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, d, &err), CL_OK);
    CU_ASSERT_EQUAL(d->kind, CL_TOK_BPE_BYTES);
    CU_ASSERT(d->ignore_merges && !d->nfc && d->add_bos && !d->add_eos);
    CU_ASSERT_EQUAL(d->bos, cl_tokenizer_find(t, "<|begin_of_text|>"));
    CU_ASSERT_EQUAL(d->eos, cl_tokenizer_find(t, "<|eot_id|>"));
    CU_ASSERT_EQUAL(d->pad, -1);
    CU_ASSERT_EQUAL(d->type[d->bos], CL_TOK_CONTROL);
    CU_ASSERT_STRING_EQUAL(d->chat_template, "{{ 'the default one' }}");
    CU_ASSERT_STRING_EQUAL(d->source, "tokenizer.json");
    cl_tokenizer_free(t);
    cl_tokenizer_data_free(d);

    d = import("smollm_gguf");
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, d, &err), CL_OK);
    CU_ASSERT_EQUAL(d->bos, cl_tokenizer_find(t, "<|im_start|>"));
    CU_ASSERT_EQUAL(d->eos, cl_tokenizer_find(t, "<|im_end|>"));
    CU_ASSERT(!d->add_bos && !d->ignore_merges);
    CU_ASSERT_EQUAL(d->type[d->n_tokens - 1], CL_TOK_UNUSED);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "[PAD503]"), -1);
    CU_ASSERT_STRING_EQUAL(d->chat_template, "{{ 'not a format' }}");
    CU_ASSERT_STRING_EQUAL(d->source, "gguf: smollm");
    cl_tokenizer_free(t);
    cl_tokenizer_data_free(d);

    d = import("qwen2");
    CU_ASSERT(d->nfc && !d->add_bos);
    CU_ASSERT_EQUAL(d->type[d->n_tokens - 1], CL_TOK_USER);
    CU_ASSERT_EQUAL(d->flags[d->n_tokens - 1], CL_TOK_NORMALIZED);
    cl_tokenizer_data_free(d);

    d = import("spm");
    CU_ASSERT_EQUAL(d->kind, CL_TOK_SPM);
    CU_ASSERT(d->add_bos && d->byte_fallback && d->add_prefix_space && !d->prefix_start_only && d->score &&
              d->n_merges == 0);
    CU_ASSERT(d->unk == 0 && d->bos == 1 && d->eos == 2 && d->pad == -1);
    cl_tokenizer_data_free(d);

    d = import("llama2");
    CU_ASSERT(d->add_bos && d->add_eos && d->bos == 1 && d->eos == 2 && d->unk == 0 && !d->score && d->n_merges > 0);
    cl_tokenizer_data_free(d);
}

/* Control tokens are text unless they are asked for; added tokens that are no control tokens are found anyway. */
static void test_specials(void)
{
    cl_tokenizer_data *d = import("qwen2");
    cl_tokenizer *t = NULL;
    cl_err err;
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, d, &err), CL_OK);
    json_t *text = json_string("<|im_end|><tool>");
    int n;
    int32_t *ids = encode(t, text, true, false, &n);
    CU_ASSERT(n == 2 && ids[0] == cl_tokenizer_find(t, "<|im_end|>") && ids[1] == cl_tokenizer_find(t, "<tool>"));
    cl_buf shown = decode(t, ids, n, false);
    CU_ASSERT_STRING_EQUAL(shown.data, "<tool>");
    cl_buf_free(&shown);
    free(ids);
    ids = encode(t, text, false, false, &n);
    CU_ASSERT(n > 2 && ids[n - 1] == cl_tokenizer_find(t, "<tool>"));
    for (int i = 0; i < n; i++) CU_ASSERT_NOT_EQUAL(ids[i], cl_tokenizer_find(t, "<|im_end|>"));
    shown = decode(t, ids, n, false);
    CU_ASSERT_STRING_EQUAL(shown.data, "<|im_end|><tool>");
    cl_buf_free(&shown);
    free(ids);
    json_decref(text);
    cl_tokenizer_free(t);
    cl_tokenizer_data_free(d);
}

int main(void)
{
    CU_TestInfo tests[] = {{"gpt2", test_gpt2},
                           {"prefix", test_prefix},
                           {"splits", test_splits},
                           {"smollm", test_smollm},
                           {"smollm gguf", test_smollm_gguf},
                           {"llama3", test_llama3},
                           {"qwen2", test_qwen2},
                           {"spm", test_spm},
                           {"llama2", test_llama2},
                           {"llama2 gguf", test_llama2_gguf},
                           {"metaspace first", test_metaspace_first},
                           {"metaspace always", test_metaspace_always},
                           {"deepseek v2", test_deepseek_v2},
                           {"deepseek v3", test_deepseek_v3},
                           {"o200k", test_o200k},
                           {"llama4", test_llama4},
                           {"kimi", test_kimi},
                           {"later families' gguf", test_later_gguf},
                           {"settings", test_settings},
                           {"specials", test_specials},
                           CU_TEST_INFO_NULL};
    return run_suite("tokenizer vectors", tests);
}
