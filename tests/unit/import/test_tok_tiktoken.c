/* tiktoken's vocabulary files: what is read, whose they are, and what is refused. */
#include "files.h"
#include "suite.h"
#include "tok_import.h"

static cl_code import(const folder *f, cl_tokenizer_data **d, cl_err *err)
{
    *d = NULL;
    *err = (cl_err){0};
    return cl_tok_from_hf_folder(f->path, d, err);
}

static const char kimi[] =
    "{\"tokenizer_class\": \"TikTokenTokenizer\", \"added_tokens_decoder\": {\"3\": {\"content\": \"[BOS]\", "
    "\"special\": true}, \"5\": {\"content\": \"<tool>\", \"special\": false}}, \"bos_token\": \"[BOS]\"}";

/* Ranks in any order, reserved names around those that the configuration has. */
static void test_kimi(void)
{
    folder f = folder_new();
    cl_tokenizer_data *d;
    cl_tokenizer *t = NULL;
    cl_err err;
    write_text(in(&f, "tiktoken.model").path, "YWI= 2\r\nYQ== 0\n\nYg== 1"); /* ab, a, b */
    write_text(in(&f, "tokenizer_config.json").path, kimi);
    CU_ASSERT_EQUAL_FATAL(import(&f, &d, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, d, &err), CL_OK);
    CU_ASSERT(d->kind == CL_TOK_BPE_BYTES && d->n_tokens == 3 + 256 && d->n_merges == 0 && !d->score &&
              d->n_splits == 1 && d->ignore_merges);
    CU_ASSERT(!d->add_bos && d->bos == 3 && d->eos == -1);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "ab"), 2);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "[BOS]"), 3);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<|reserved_token_3|>"), -1);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<|reserved_token_4|>"), 4);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<tool>"), 5);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<|reserved_token_258|>"), 258);
    CU_ASSERT(d->type[3] == CL_TOK_CONTROL && d->type[5] == CL_TOK_USER && d->type[258] == CL_TOK_CONTROL);
    CU_ASSERT_STRING_EQUAL(d->source, "tiktoken.model");
    cl_tokenizer_free(t);
    cl_tokenizer_data_free(d);
    folder_remove(&f);
}

/* Three bytes for each rank: all different. */
static void write_ranks(const char *path, int n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    cl_buf b = {0};
    cl_err err;
    for (int i = 0; i < n; i++)
        cl_buf_printf(&b, &err, "%c%c%c%c %d\n", digits[i >> 18 & 63], digits[i >> 12 & 63], digits[i >> 6 & 63],
                      digits[i & 63], i);
    write_file(path, b.data, b.len);
    cl_buf_free(&b);
}

/* Files with nothing beside them are told by their size: special tokens have the ids of the checkpoints. */
static void test_llama(void)
{
    static const struct {
        int ranks, n;
        const char *name[4];
        int id[4];
    } kinds[] = {{128000,
                  128256,
                  {"<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_1|>", "<|reserved_special_token_245|>"},
                  {128009, 128010, 128003, 128255}},
                 {200000,
                  202048,
                  {"<|eot|>", "<|image|>", "<|finetune_right_pad|>", "<|reasoning_thinking_end|>"},
                  {200008, 200090, 200018, 201143}}};
    for (int i = 0; i < 2; i++) {
        folder f = folder_new();
        cl_tokenizer_data *d;
        cl_tokenizer *t = NULL;
        cl_err err;
        write_ranks(in(&f, "tokenizer.model").path, kinds[i].ranks);
        CU_ASSERT_EQUAL_FATAL(import(&f, &d, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(cl_tokenizer_create(&t, d, &err), CL_OK);
        CU_ASSERT(d->n_tokens == kinds[i].n && d->add_bos && d->bos == kinds[i].ranks && d->eos == kinds[i].ranks + 1);
        for (int k = 0; k < 4; k++) CU_ASSERT_EQUAL(cl_tokenizer_find(t, kinds[i].name[k]), kinds[i].id[k]);
        cl_tokenizer_free(t);
        cl_tokenizer_data_free(d);
        folder_remove(&f);
    }
}

static void test_refused(void)
{
    static const struct {
        const char *text, *part;
    } bad[] = {{"YQ== 0\nYg== 0\n", "line 2: rank 0 is there twice"},
               {"YQ== 0\nYg== 2\n", "2 tokens for ranks up to 2"},
               {"YQ== 0\nYg= 1\n", "line 2: is no token"},
               {"YQ== 0\nY=g= 1\n", "line 2: is no token"},
               {"YQ== 0\nYh== 1\n", "line 2: is no token"}, /* bits behind the byte */
               {"YQ== 0\nYg==\n", "line 2: is no token"},
               {"YQ== 0\nYg== x\n", "line 2: is no token"},
               {"YQ== 0\nYg== -1\n", "line 2: is no token"},
               {"YQ== 0\nYg== 1 2\n", "line 2: is no token"},
               {"YQ== 0\nYg== 9999999999\n", "line 2: is no token"},
               {"YQ== 0\nYg== 999999999\n", "token id 999999999"},
               {"YQ== 0\nYQ== 1\n", "are the same text"},
               {"YQ==\t0\n", "neither a SentencePiece model nor a tiktoken vocabulary"},
               {"", "neither a SentencePiece model nor a tiktoken vocabulary"}};
    folder f = folder_new();
    cl_tokenizer_data *d;
    cl_err err;
    write_text(in(&f, "tokenizer_config.json").path, kimi);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(in(&f, "tiktoken.model").path, bad[i].text);
        bool ok = import(&f, &d, &err) == CL_E_INPUT && !d && says(&err, bad[i].part);
        if (!ok) fprintf(stderr, "%s: '%s'\n", bad[i].text, err.msg);
        CU_ASSERT(ok);
    }
    write_text(in(&f, "tokenizer_config.json").path, "{\"tokenizer_class\": \"OtherTokenizer\"}");
    write_text(in(&f, "tiktoken.model").path, "YQ== 0\n");
    CU_ASSERT(import(&f, &d, &err) == CL_E_INPUT && says(&err, "nothing says how to split"));
    folder_remove(&f);
}

/* A wrong byte may go unseen, but must not do harm. */
static void test_damage(void)
{
    folder f = folder_new();
    cl_tokenizer_data *d;
    cl_err err;
    char text[] = "YQ== 0\nYg== 1\nYWI= 2\nYmE= 3\n";
    write_text(in(&f, "tokenizer_config.json").path, kimi);
    for (size_t i = 0; i < sizeof text - 1; i++)
        for (int bit = 0; bit < 8; bit++) {
            text[i] ^= (char)(1 << bit);
            write_file(in(&f, "tiktoken.model").path, text, sizeof text - 1 - i % 2);
            cl_code c = import(&f, &d, &err);
            CU_ASSERT(c == CL_OK ? d != NULL : c == CL_E_INPUT && !d);
            cl_tokenizer_data_free(d);
            text[i] ^= (char)(1 << bit);
        }
    folder_remove(&f);
}

static void test_said(void) { said_is(0xefe628ab); }

int main(void)
{
    CU_TestInfo tests[] = {{"kimi", test_kimi},
                           {"llama", test_llama},
                           {"refused", test_refused},
                           {"damage", test_damage},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("tiktoken", tests);
}
