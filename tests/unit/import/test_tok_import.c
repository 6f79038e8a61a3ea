/* Tokenizer importers on files written here: what each setting does, and what is refused with which words. */
#include "files.h"
#include "suite.h"
#include "tok_import.h"

#define LONG "a 012345678901234567890123456789012345678901234567890123456789"
#define SPACE "\xe2\x96\x81"

static uint32_t sum_of(const void *data, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; data && i < n; i++) h = (h ^ ((const unsigned char *)data)[i]) * 16777619u;
    return h;
}

/* All of it, for the digest at the end. */
static void note_data(const cl_tokenizer_data *d)
{
    cl_buf b = {0};
    cl_err err;
    const size_t n = (size_t)d->n_tokens;
    cl_buf_printf(&b, &err, "%d %d %08x %08x %08x %08x %08x", d->kind, d->n_tokens, sum_of(d->bytes, d->offset[n]),
                  sum_of(d->offset, (n + 1) * sizeof *d->offset), sum_of(d->type, n), sum_of(d->flags, n),
                  sum_of(d->score, n * sizeof *d->score));
    cl_buf_printf(&b, &err, " %d %08x %d", d->n_merges, sum_of(d->merge, (size_t)d->n_merges * 3 * sizeof *d->merge),
                  d->n_splits);
    for (int i = 0; i < d->n_splits; i++) cl_buf_printf(&b, &err, " %s", d->splits[i].regex);
    cl_buf_printf(&b, &err, " %d%d%d%d%d%d%d%d", d->ignore_merges, d->nfc, d->add_prefix_space, d->prefix_start_only,
                  d->prefix_unless_space, d->byte_fallback, d->add_bos, d->add_eos);
    cl_buf_printf(&b, &err, " %d %d %d %d %s %s", d->bos, d->eos, d->unk, d->pad,
                  d->chat_template ? d->chat_template : "-", d->source);
    note_said(b.data);
    cl_buf_free(&b);
}

/* --- tokenizer.json --- */

/* A byte-level tokenizer of 256 bytes, "ab" and two added tokens, with parts that a test may replace. */
typedef struct parts {
    /* NULL: the usual */
    const char *normalizer, *pre_tokenizer, *decoder, *post_processor, *model, *merges, *added, *vocab;
} parts;

static void write_json(const char *path, const parts *p)
{
    cl_buf b = {0};
    cl_err err;
    cl_buf_printf(&b, &err,
                  "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":%s,\"normalizer\":%s,"
                  "\"pre_tokenizer\":%s,",
                  p->added ? p->added
                           : "[{\"id\":257,\"content\":\"<s>\",\"special\":true},{\"id\":258,\"content\":\"<u>\"}]",
                  p->normalizer ? p->normalizer : "null",
                  p->pre_tokenizer ? p->pre_tokenizer : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}");
    cl_buf_printf(&b, &err,
                  "\"decoder\":%s,\"post_processor\":%s,\"model\":{\"type\":\"BPE\",%s\"merges\":%s,\"vocab\":{",
                  p->decoder ? p->decoder : "{\"type\":\"ByteLevel\"}", p->post_processor ? p->post_processor : "null",
                  p->model ? p->model : "", p->merges ? p->merges : "[\"a b\"]");
    if (p->vocab) cl_buf_str(&b, p->vocab, &err);
    for (int i = 0, other = 0x100; i < 256 && !p->vocab; i++) { /* the byte-level alphabet */
        int c = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i <= 0xac) || i >= 0xae ? i : other++;
        cl_buf_printf(&b, &err, "\"\\u%04x\":%d,", c, i);
    }
    if (!p->vocab) cl_buf_str(&b, "\"ab\":256", &err);
    cl_buf_str(&b, "}}}", &err);
    write_file(path, b.data, b.len);
    cl_buf_free(&b);
}

static cl_code import_parts(const folder *f, const parts *p, cl_tokenizer_data **d, cl_err *err)
{
    place path = in(f, "tokenizer.json");
    write_json(path.path, p);
    *d = NULL;
    *err = (cl_err){0};
    return cl_tok_from_hf_folder(f->path, d, err);
}

static cl_tokenizer_data *imported(const folder *f, const parts *p)
{
    cl_tokenizer_data *d;
    cl_err err;
    if (import_parts(f, p, &d, &err) != CL_OK) fprintf(stderr, "%s\n", err.msg);
    CU_ASSERT_PTR_NOT_NULL_FATAL(d);
    note_data(d);
    return d;
}

static void test_json(void)
{
    folder f = folder_new();
    cl_tokenizer_data *d = NULL;
    cl_err err;
    CU_ASSERT_EQUAL(cl_tok_from_hf_folder(f.path, &d, &err), CL_OK); /* no tokenizer is no error */
    CU_ASSERT_PTR_NULL(d);
    d = imported(&f, &(parts){0});
    CU_ASSERT(d->kind == CL_TOK_BPE_BYTES && d->n_tokens == 259 && d->n_merges == 1 && d->n_splits == 1 &&
              !d->add_bos && !d->add_eos && d->bos == -1);
    CU_ASSERT(memcmp(d->bytes + d->offset[' '], " ", 1) == 0 && memcmp(d->bytes + d->offset[0xff], "\xff", 1) == 0);
    CU_ASSERT(d->type[257] == CL_TOK_CONTROL && d->type[258] == CL_TOK_USER && d->type[256] == CL_TOK_NORMAL &&
              !d->chat_template);
    cl_tokenizer_data_free(d);
    d = imported(&f, &(parts){.merges = "[[\"a\",\"b\"]]",
                              .added = "[{\"id\":300,\"content\":\"<s>\",\"lstrip\":true,\"rstrip\":true,\"single_"
                                       "word\":true,\"normalized\":true}]"});
    CU_ASSERT(d->n_merges == 1 && d->merge[0] == 'a' && d->merge[1] == 'b' && d->merge[2] == 256);
    CU_ASSERT(d->n_tokens == 301 && d->flags[300] == 15 && d->type[300] == CL_TOK_USER &&
              d->type[299] == CL_TOK_UNUSED && d->offset[299] == d->offset[300]);
    cl_tokenizer_data_free(d);
    d = imported(&f, &(parts){.pre_tokenizer =
                                  "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"
                                  "\"String\":\"a.b\"},\"behavior\":\"Isolated\",\"invert\":true},"
                                  "{\"type\":\"Digits\"},{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":"
                                  "\"ByteLevel\",\"use_regex\":false}]}",
                              .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}",
                              .model = "\"ignore_merges\":true,\"dropout\":0.0,\"end_of_word_suffix\":\"\","});
    CU_ASSERT(d->n_splits == 3 && d->nfc && d->ignore_merges);
    CU_ASSERT_STRING_EQUAL(d->splits[0].regex, "a\\.b");
    CU_ASSERT_STRING_EQUAL(d->splits[1].regex, "\\p{N}+");
    CU_ASSERT_STRING_EQUAL(d->splits[2].regex, "\\p{N}");
    cl_tokenizer_data_free(d);
    d = imported(&f,
                 &(parts){.post_processor = "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
                                            "\"TemplateProcessing\",\"single\":"
                                            "[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}},{"
                                            "\"SpecialToken\":{\"id\":\"<u>\"}}],"
                                            "\"special_tokens\":{\"<s>\":{\"ids\":[257]},\"<u>\":{\"ids\":[258]}}}]}"});
    CU_ASSERT(d->add_bos && d->bos == 257 && d->add_eos && d->eos == 258);
    cl_tokenizer_data_free(d);
    folder_remove(&f);
}

/* Members of an added token one at a time; ids of tokens that are named in other files, or are no name at all. */
static void test_json_members(void)
{
    static const char *const flags[] = {"lstrip", "rstrip", "single_word", "normalized", "special", "other"};
    static const char *const configs[] =
        {"{\"bos_token\":\"\",\"eos_token\":\"a\",\"unk_token\":\"ab\",\"pad_token\":\"b\"}",
         "{\"bos_token\":\"ab\",\"unk_token\":{\"content\":\"\"},\"eos_token\":7}",
         "{\"pad_token\":{\"content\":\"<s>\"},\"unk_token\":\"none\",\"add_bos_token\":false}",
         "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"no\"},{\"name\":\"default\",\"template\":\"yes\"},{"
         "}]}",
         "{\"chat_template\":[{\"name\":\"other\",\"template\":\"no\"}]}",
         "{\"chat_template\":7}"};
    folder f = folder_new();
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        char added[128];
        snprintf(added, sizeof added, "[{\"id\":300,\"content\":\"<s>\",\"%s\":true}]", flags[i]);
        cl_tokenizer_data *d = imported(&f, &(parts){.added = added});
        CU_ASSERT(d->flags[300] == (i < 4 ? 1 << i : 0) && d->type[300] == (i == 4 ? CL_TOK_CONTROL : CL_TOK_USER));
        cl_tokenizer_data_free(d);
    }
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        write_text(in(&f, "tokenizer_config.json").path, configs[i]);
        cl_tokenizer_data *d =
            imported(&f, &(parts){.added = "[{\"id\":300,\"content\":\"<s>\"},{\"id\":299,\"content\":\"\"}]"});
        if (i == 0) CU_ASSERT(d->bos == -1 && d->eos == 'a' && d->unk == 256 && d->pad == 'b');
        if (i == 1) CU_ASSERT(d->bos == 256 && d->eos == -1 && d->unk == -1 && d->pad == -1);
        if (i == 2) CU_ASSERT(d->pad == 300 && d->unk == -1);
        cl_tokenizer_data_free(d);
    }
    folder_remove(&f);
}

static void test_json_refused(void)
{
    static const struct {
        parts p;
        const char *part;
    } bad[] = {
        {{.normalizer = "{\"type\":\"NFKC\"}"}, "normalizer: NFKC is not understood"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"}, "Lowercase"},
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"b\"}"}, "Replace"},
        {{.normalizer = "{\"type\":\"Prepend\",\"prepend\":\"x\"}"}, "Prepend"},
        {{.normalizer = "{\"type\":\"Prepend\",\"prepend\":\"" SPACE "\"}"}, "in front of ByteLevel"},
        {{.normalizer = "{}"}, "normalizer: type: missing"},
        {{.pre_tokenizer = "null"}, "neither ByteLevel nor"},
        {{.pre_tokenizer = "{\"type\":\"Whitespace\"}"}, "pre_tokenizer: Whitespace"},
        {{.pre_tokenizer =
              "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\",\"invert\":true}"},
         "Split with behavior Removed"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"MergedWithPrevious\"}"},
         "MergedWithPrevious"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\"}"}, "Split without a pattern"},
        {{.pre_tokenizer =
              "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}"},
         "behind ByteLevel"},
        {{.pre_tokenizer =
              "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":\"ByteLevel\",\"add_prefix_"
              "space\":true}]}"},
         "add_prefix_space behind"},
        {{.pre_tokenizer =
              "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+\"},"
              "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\"}]}"},
         "split regex \\w+"},
        {{.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"_\"}"}, "this Metaspace"},
        {{.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"" SPACE "\",\"prepend_scheme\":\"often\"}"},
         "prepend_scheme"},
        {{.decoder = "{\"type\":\"WordPiece\"}"}, "decoder: WordPiece"},
        {{.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}]}"}, "decoder: Fuse"},
        {{.post_processor = "{\"type\":\"BertProcessing\"}"}, "post_processor: BertProcessing"},
        {{.post_processor =
              "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"SpecialToken\":{"
              "\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
              "\"special_tokens\":{\"<s>\":{\"ids\":[257]}}}"},
         "more than one token"},
        {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<q>\"}}],"
                            "\"special_tokens\":{}}"},
         "<q> has no single id"},
        {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}"},
         "without the text"},
        {{.post_processor =
              "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{"
              "\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[999]}}}"},
         "bos is token 999"},
        {{.model = "\"dropout\":0.1,"}, "model: dropout"},
        {{.model = "\"end_of_word_suffix\":\"</w>\","}, "end_of_word_suffix '</w>'"},
        {{.model = "\"continuing_subword_prefix\":\"##\","}, "continuing_subword_prefix"},
        {{.model = "\"byte_fallback\":true,"}, "byte_fallback together with ByteLevel"},
        {{.model = "\"ignore_merges\":1,"}, "ignore_merges"},
        {{.model = "\"byte_fallback\":1,"}, "byte_fallback"},
        {{.model = "\"fuse_unk\":1,"}, "fuse_unk"},
        {{.model = "\"unk_token\":1,"}, "unk_token"},
        {{.model = "\"dropout\":\"x\","}, "dropout"},
        {{.model = "\"dropout\":1.5,"}, "dropout"},
        {{.model = "\"end_of_word_suffix\":7,"}, "end_of_word_suffix"},
        {{.merges = "[\"a "
                    "\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff"
                    "\u00ff\u00ff"
                    "\u00ff\u00ff\u00ff\"]"},
         "the second is no token"},
        {{.merges = "[\"qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq b\"]"}, "the first is no token"},
        {{.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"" SPACE "\",\"split\":7}"}, "split"},
        {{.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"" SPACE "\",\"add_prefix_space\":7}"},
         "add_prefix_space"},
        {{.pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":7}"}, "add_prefix_space"},
        {{.pre_tokenizer = "{\"type\":\"ByteLevel\",\"use_regex\":7}"}, "use_regex"},
        {{.pre_tokenizer = "{\"type\":\"Digits\",\"individual_digits\":7}"}, "individual_digits"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"}}"}, "behavior"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"Isolated\"}"},
         "Split without a pattern"},
        {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":7}"}, "pretokenizers"},
        {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[7]}"}, "pre_tokenizer"},
        {{.pre_tokenizer = "7"}, "pre_tokenizer"},
        {{.normalizer = "7"}, "normalizer"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":7}"}, "normalizers"},
        {{.decoder = "7"}, "decoder"},
        {{.post_processor = "7"}, "post_processor"},
        {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":7}"}, "single"},
        {{.added = "[7]"}, "id"},
        {{.added = "[{\"id\":-1,\"content\":\"<s>\"}]"}, "id"},
        {{.added = "[{\"id\":257,\"content\":\"<s>\",\"special\":7}]"}, "special"},
        {{.added = "[{\"id\":97,\"content\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}]"},
         "added token 97: is aaaa"},
        {{.vocab = "\"" LONG "\":7,\"a\":0,\"b\":1,\"ab\":2"},
         "token 7: a 01234567890123456789012345678901234567 is not"},
        {{.vocab = "\"" LONG "\":\"x\""}, "has no id"},
        {{.vocab = "\"" LONG "\":0,\"a\":0"}, "vocab: id 0 is used twice"},
        {{.merges = "[]"}, "merges: there is none"},
        {{.merges = "[\"ab\"]"}, "merges: entry 0 is no pair"},
        {{.merges = "[\"a b c\"]"}, "merges: entry 0 is no pair"},
        {{.merges = "[[\"a\"]]"}, "merges: entry 0 is no pair"},
        {{.merges = "[\"a b\",\"a c\"]"}, "merge 1: a and c: both together is no token"},
        {{.merges = "[\"a \\u00ff\\u00ff\"]"}, "the second is no token"},
        {{.merges = "{}"}, "merges"},
        {{.vocab = "\"a\":0,\"b\":0,\"ab\":2"}, "vocab: id 0 is used twice"},
        {{.vocab = "\"a\":\"x\""}, "vocab: a has no id"},
        {{.vocab = "\"a\":-1"}, "token id -1"},
        {{.vocab = "\"a\":99999999"}, "token id 99999999"},
        {{.vocab = "\"a\":0,\"b\":1,\"ab\":2,\"\xe6\x97\xa5\":3"},
         "token 3: \xe6\x97\xa5 is not written in the byte-level alphabet"},
        {{.added = "[{\"id\":97,\"content\":\"<s>\"}]"}, "added token 97: is <s> here and a in the vocabulary"},
        {{.added = "[{\"content\":\"<s>\"}]"}, "id: missing"},
        {{.added = "[{\"id\":257}]"}, "content: missing"},
        {{.added = "[{\"id\":257,\"content\":\"<s>\"},{\"id\":258,\"content\":\"<s>\"}]"},
         "added tokens 257 and 258 are the same text"},
        {{.added = "{}"}, "added_tokens"},
    };
    folder f = folder_new();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cl_tokenizer_data *d;
        cl_err err;
        CU_ASSERT_EQUAL(import_parts(&f, &bad[i].p, &d, &err), CL_E_INPUT);
        CU_ASSERT_PTR_NULL(d);
        CU_ASSERT(says(&err, bad[i].part));
        CU_ASSERT(says(&err, "tokenizer.json"));
        cl_tokenizer_data_free(d);
    }
    cl_tokenizer_data *d = NULL;
    cl_err err;
    write_text(in(&f, "tokenizer.json").path,
               "{\"model\":{\"type\":\"Unigram\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}");
    CU_ASSERT(cl_tok_from_hf_folder(f.path, &d, &err) == CL_E_INPUT && says(&err, "type Unigram is not supported"));
    write_text(in(&f, "tokenizer.json").path, "{");
    CU_ASSERT(cl_tok_from_hf_folder(f.path, &d, &err) == CL_E_INPUT && says(&err, "not valid JSON"));
    folder_remove(&f);
}

static void test_metaspace(void)
{
    static const struct {
        const char *pre;
        bool prefix, start_only;
        int splits;
    } good[] = {{"{\"type\":\"Metaspace\",\"replacement\":\"" SPACE "\",\"prepend_scheme\":\"first\",\"split\":false}",
                 true, true, 0},
                {"{\"type\":\"Metaspace\",\"replacement\":\"" SPACE "\",\"prepend_scheme\":\"always\",\"split\":true}",
                 true, false, 1},
                {"{\"type\":\"Metaspace\",\"replacement\":\"" SPACE "\",\"prepend_scheme\":\"never\",\"split\":false}",
                 false, false, 0},
                {"{\"type\":\"Metaspace\",\"replacement\":\"" SPACE "\",\"add_prefix_space\":false}", false, false, 1}};
    folder f = folder_new();
    parts p = {.decoder = "{\"type\":\"Metaspace\"}",
               .vocab = "\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\"<0x41>\":4",
               .added = "[]",
               .model = "\"unk_token\":\"<unk>\",\"fuse_unk\":true,"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        p.pre_tokenizer = good[i].pre;
        cl_tokenizer_data *d = imported(&f, &p);
        CU_ASSERT(d->kind == CL_TOK_SPM && d->unk == 0 && d->type[0] == CL_TOK_UNKNOWN && d->prefix_unless_space &&
                  d->type[4] == CL_TOK_NORMAL);
        CU_ASSERT(d->add_prefix_space == good[i].prefix && d->prefix_start_only == good[i].start_only &&
                  d->n_splits == good[i].splits);
        cl_tokenizer_data_free(d);
    }
    p.added = "[{\"id\":5,\"content\":\"<q>\",\"normalized\":true,\"lstrip\":true}]";
    cl_tokenizer_data *d = imported(&f, &p);
    CU_ASSERT(d->n_tokens == 6 && d->flags[5] == CL_TOK_LSTRIP); /* looked for in the text as it is */
    cl_tokenizer_data_free(d);
    cl_err err;
    p.model = "\"unk_token\":\"<unk>\",";
    CU_ASSERT(import_parts(&f, &p, &d, &err) == CL_E_INPUT && says(&err, "unknown characters that are not fused"));
    p.model = "\"byte_fallback\":true,";
    CU_ASSERT(import_parts(&f, &p, &d, &err) == CL_E_INPUT && says(&err, "1 of 256 byte tokens"));
    folder_remove(&f);
}

static void test_config(void)
{
    folder f = folder_new();
    place config = in(&f, "tokenizer_config.json");
    write_text(config.path,
               "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"<u>\"},\"pad_token\":null,\"unk_token\":\"<none>"
               "\",\"add_bos_token\":true,"
               "\"model_max_length\":1000000000000000019884624838656,\"chat_template\":\"from config\","
               "\"added_tokens_decoder\":{\"257\":{\"content\":\"<s>\",\"special\":true},\"259\":{\"content\":\"<"
               "new>\",\"special\":false,\"rstrip\":true}}}");
    cl_tokenizer_data *d = imported(&f, &(parts){0});
    CU_ASSERT(d->bos == 257 && d->eos == 258 && d->pad == -1 && d->unk == -1 && d->add_bos && !d->add_eos);
    CU_ASSERT(d->n_tokens == 260 && d->type[259] == CL_TOK_USER && d->flags[259] == CL_TOK_RSTRIP);
    CU_ASSERT_STRING_EQUAL(d->chat_template, "from config");
    cl_tokenizer_data_free(d);
    write_text(in(&f, "chat_template.json").path, "{\"chat_template\":\"from JSON\"}");
    d = imported(&f, &(parts){0});
    CU_ASSERT_STRING_EQUAL(d->chat_template, "from JSON");
    cl_tokenizer_data_free(d);
    write_text(in(&f, "chat_template.json").path, "{}");
    d = imported(&f, &(parts){0});
    CU_ASSERT_STRING_EQUAL(d->chat_template, "from config");
    cl_tokenizer_data_free(d);
    write_text(in(&f, "chat_template.jinja").path, "from its own file\n");
    write_text(in(&f, "special_tokens_map.json").path, "{\"bos_token\":\"<u>\",\"pad_token\":{\"content\":\"<u>\"}}");
    d = imported(&f, &(parts){0});
    CU_ASSERT_STRING_EQUAL(d->chat_template, "from its own file\n");
    CU_ASSERT(d->bos == 257 && d->pad == 258);
    cl_tokenizer_data_free(d);

    static const struct {
        const char *text, *part;
    } bad[] = {{"{\"add_bos_token\":true}", "texts are to be wrapped"},
               {"{\"add_eos_token\":3}", "add_eos_token"},
               {"{\"added_tokens_decoder\":[]}", "added_tokens_decoder"},
               {"{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}", "x is no token id"},
               {"{\"added_tokens_decoder\":{\"97\":{\"content\":\"zz\"}}}", "added token 97"},
               {"[", "not valid JSON"}};
    unlink(in(&f, "special_tokens_map.json").path);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cl_err err;
        write_text(config.path, bad[i].text);
        CU_ASSERT(import_parts(&f, &(parts){0}, &d, &err) == CL_E_INPUT && !d && says(&err, bad[i].part));
    }
    folder_remove(&f);
}

/* --- tokenizer.model --- */

static void test_spm(void)
{
    folder f = folder_new();
    place model = in(&f, "tokenizer.model"), config = in(&f, "tokenizer_config.json");
    cl_buf whole = read_all(CL_FIXTURES "/tokenizers/spm/tokenizer.model");
    cl_tokenizer_data *d = NULL;
    cl_err err = {0};
    write_file(model.path, whole.data, whole.len);
    write_text(config.path,
               "{\"legacy\":false,\"add_bos_token\":false,\"add_eos_token\":true,\"added_tokens_decoder\":{\"600\":{"
               "\"content\":\"<|x|>\",\"special\":true}}}");
    CU_ASSERT_EQUAL_FATAL(cl_tok_from_hf_folder(f.path, &d, &err), CL_OK);
    note_data(d);
    CU_ASSERT(d->prefix_start_only && !d->add_bos && d->add_eos && d->n_tokens == 601 &&
              d->type[600] == CL_TOK_CONTROL);
    cl_tokenizer_data_free(d);
    unlink(config.path);
    write_text(in(&f, "added_tokens.json").path, "{\"<|x|>\":600}");
    CU_ASSERT(cl_tok_from_hf_folder(f.path, &d, &err) == CL_E_INPUT && says(&err, "added_tokens.json"));
    unlink(in(&f, "added_tokens.json").path);

    /* fields that nobody knows, of every type: numbers, 8 bytes, some bytes, 4 bytes */
    static const char unknown[] = "\xb8\x3e\x96\x01\xb9\x3e"
                                  "12345678\xba\x3e\x03"
                                  "abc\xbd\x3e"
                                  "1234";
    cl_buf more = {0};
    CU_ASSERT(cl_buf_add(&more, unknown, sizeof unknown - 1, &err) == CL_OK &&
              cl_buf_add(&more, whole.data, whole.len, &err) == CL_OK &&
              cl_buf_add(&more, unknown, sizeof unknown - 1, &err) == CL_OK);
    write_file(model.path, more.data, more.len);
    CU_ASSERT_EQUAL_FATAL(cl_tok_from_hf_folder(f.path, &d, &err), CL_OK);
    CU_ASSERT_EQUAL(d->n_tokens, 600);
    note_data(d);
    cl_tokenizer_data_free(d);
    cl_buf_free(&more);

    for (size_t n = 0; n < whole.len; n += whole.len - n < 400 ? 1 : 29) { /* the settings come last */
        write_file(model.path, whole.data, n);
        d = NULL;
        cl_code c = cl_tok_from_hf_folder(f.path, &d, &err);
        if (c == CL_OK) fprintf(stderr, "the first %zu of %zu bytes pass\n", n, whole.len);
        CU_ASSERT(c == CL_E_INPUT && !d);
    }
    for (size_t i = 0; i < whole.len; i += 13) { /* a wrong byte may go unseen, but must not do harm */
        char right = whole.data[i];
        whole.data[i] = (char)(right ^ (1 << i % 8));
        write_file(model.path, whole.data, whole.len);
        d = NULL;
        cl_code c = cl_tok_from_hf_folder(f.path, &d, &err);
        CU_ASSERT(c == CL_OK ? d != NULL : c == CL_E_INPUT && !d);
        cl_tokenizer_data_free(d);
        whole.data[i] = right;
    }
    cl_buf_free(&whole);
    write_text(model.path, "IQ== 0\nIg== 1\nIw== 2\n");
    CU_ASSERT(cl_tok_from_hf_folder(f.path, &d, &err) == CL_E_INPUT && says(&err, "tiktoken"));
    folder_remove(&f);
}

/* Settings of the message that would change tokens. */
static void test_spm_refused(void)
{
    static const struct {
        const char *tail;
        size_t n;
        const char *part;
    } bad[] = {/* behind one piece "a" */
               {"\x12\x02\x18\x01\x1a\x02\x20\x00", 8, "model type 1 is no BPE"},
               {"\x12\x02\x18\x02\x1a\x00", 6, "removes white space"},
               {"\x12\x02\x18\x02\x1a\x04\x20\x00\x28\x00", 10, "leaves spaces alone"},
               {"\x12\x02\x18\x02\x1a\x05\x20\x00\x12\x01x", 11, "has rules"},
               {"\x12\x05\x18\x02\xc0\x01\x01\x1a\x02\x20\x00", 11, "white space as a suffix"},
               {"\x0a\x05\x0a\x01"
                "b\x18\x09",
                7, "type 9"},
               {"\x0a\x05\x0a\x01"
                "b\x18\x00",
                7, "type 0 is none of 1 to 6"},
               {"\x0a\x05\x0a\x01"
                "b\x18\x07",
                7, "type 7 is none of 1 to 6"},
               {"\x0a\x05\x0a\x01"
                "b\x18\x05",
                7, "unused pieces"},
               {"\x0a\x03\x0a\x01\xff", 5, "piece 1 is not UTF-8"},
               {"\x12\x02\x18\x02", 4, "neither a SentencePiece model"},
               {"\x1a\x02\x20\x00", 4, "neither a SentencePiece model"}};
    folder f = folder_new();
    place model = in(&f, "tokenizer.model");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cl_buf b = {0};
        cl_tokenizer_data *d = NULL;
        cl_err err = {0};
        put(&b,
            "\x0a\x03\x0a\x01"
            "a",
            5);
        put(&b, bad[i].tail, bad[i].n);
        write_file(model.path, b.data, b.len);
        cl_buf_free(&b);
        CU_ASSERT(cl_tok_from_hf_folder(f.path, &d, &err) == CL_E_INPUT && !d && says(&err, bad[i].part));
    }
    folder_remove(&f);
}

/* --- GGUF --- */

typedef struct gguf_parts {
    const char *model, *pre, *merge, *token, *chat; /* NULL: left out; token: the text of token 0 */
    int types, scores, type0;                       /* how many of each; type0: of token 0 */
    int bos;                                        /* -1: left out */
    bool no_tokens;
    const char *odd; /* a key that is a list of truths, one per token */
    const char *key; /* a further key of tokenizer.ggml, with this number; one that begins with add_ or remove_: true */
    uint32_t number;
} gguf_parts;

static cl_code import_gguf(const gguf_parts *p, cl_tokenizer_data **d, cl_err *err)
{
    folder f = folder_new();
    place path = in(&f, "t.gguf");
    gguf_file g = {0};
    const char *tokens[] = {p->token ? p->token : "a", "b", "ab", "\xc4\xa0", "<s>"};
    int32_t types[8] = {p->type0, 1, 1, 1, 3, 1, 1, 1};
    const float scores[8] = {0};
    if (p->model) g_kv_str(&g, "tokenizer.ggml.model", p->model);
    if (p->pre) g_kv_str(&g, "tokenizer.ggml.pre", p->pre);
    if (!p->no_tokens) g_kv_strings(&g, "tokenizer.ggml.tokens", 5, tokens);
    if (p->types)
        g_kv_array(&g, "tokenizer.ggml.token_type", CL_GGUF_I32, (uint64_t)p->types, types,
                   (size_t)p->types * sizeof *types);
    if (p->scores)
        g_kv_array(&g, "tokenizer.ggml.scores", CL_GGUF_F32, (uint64_t)p->scores, scores,
                   (size_t)p->scores * sizeof *scores);
    if (p->merge) g_kv_strings(&g, "tokenizer.ggml.merges", 1, &p->merge);
    const uint8_t truths[5] = {1, 0, 1, 1, 1};
    char key[64];
    if (p->odd) g_kv_array(&g, p->odd, CL_GGUF_BOOL, 5, truths, sizeof truths);
    if (p->key) snprintf(key, sizeof key, "tokenizer.ggml.%s", p->key);
    if (p->key && (strncmp(p->key, "add_", 4) == 0 || strncmp(p->key, "remove_", 7) == 0))
        g_kv_bool(&g, key, p->number != 0);
    else if (p->key) g_kv_u32(&g, key, p->number);
    if (p->bos >= 0) g_kv_u32(&g, "tokenizer.ggml.bos_token_id", (uint32_t)p->bos);
    if (p->chat) g_kv_str(&g, "tokenizer.chat_template", p->chat);
    g_write(&g, path.path);
    cl_gguf *r = NULL;
    *d = NULL;
    *err = (cl_err){0};
    cl_code c = cl_gguf_open(&r, path.path, err);
    if (c == CL_OK) c = cl_tok_from_gguf(r, d, err);
    cl_gguf_close(r);
    folder_remove(&f);
    return c;
}

static void test_gguf(void)
{
    static const struct {
        const char *pre;
        int splits;
        bool ignore, add_bos, nfc;
    } kinds[] = {{"gpt-2", 1, false, false, false},       {"olmo", 1, false, false, false},
                 {"smollm", 2, false, false, false},      {"llama-bpe", 1, true, true, false},
                 {"qwen2", 1, false, false, true},        {"default", 4, false, false, false},
                 {"llama3", 1, true, true, false},        {"llama-v3", 1, true, true, false},
                 {"glm4", 1, true, false, false},         {"glm5", 1, true, false, false},
                 {"gpt-4o", 1, false, false, false},      {"deepseek-r1-qwen", 1, false, false, true},
                 {"deepseek-v3", 3, false, true, false},  {"deepseek-coder", 5, false, true, false},
                 {"deepseek-llm", 6, false, true, false}, {"llama4", 1, false, true, false},
                 {"minimax-m2", 1, false, false, true},   {"kimi-k2", 1, true, false, false}};
    cl_tokenizer_data *d;
    cl_err err;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        CU_ASSERT_EQUAL_FATAL(import_gguf(&(gguf_parts){.model = "gpt2",
                                                        .pre = kinds[i].pre,
                                                        .merge = "a b",
                                                        .types = 5,
                                                        .type0 = 1,
                                                        .bos = 4,
                                                        .chat = "c"},
                                          &d, &err),
                              CL_OK);
        CU_ASSERT_PTR_NOT_NULL_FATAL(d);
        CU_ASSERT(d->n_splits == kinds[i].splits && d->ignore_merges == kinds[i].ignore &&
                  d->add_bos == kinds[i].add_bos && d->nfc == kinds[i].nfc);
        CU_ASSERT(d->bos == 4 && d->eos == -1 && d->n_merges == 1 && d->bytes[d->offset[3]] == ' ' &&
                  d->type[4] == CL_TOK_CONTROL);
        CU_ASSERT_STRING_EQUAL(d->chat_template, "c");
        note_data(d);
        cl_tokenizer_data_free(d);
    }
    CU_ASSERT(import_gguf(&(gguf_parts){.bos = -1}, &d, &err) == CL_OK && !d);
    CU_ASSERT(import_gguf(&(gguf_parts){.model = "none", .bos = -1, .no_tokens = true}, &d, &err) == CL_OK && !d);
    CU_ASSERT(import_gguf(&(gguf_parts){.model = "llama", .types = 5, .type0 = 2, .scores = 5, .bos = 4}, &d, &err) ==
                  CL_OK &&
              d);
    CU_ASSERT(d->kind == CL_TOK_SPM && d->add_bos && d->add_prefix_space && !d->byte_fallback && d->unk == 0);
    cl_tokenizer_data_free(d);
}

/* Keys one at a time. */
static void test_gguf_keys(void)
{
    static const struct {
        const char *key;
        uint32_t number;
    } keys[] = {{"eos_token_id", 1},
                {"unknown_token_id", 2},
                {"padding_token_id", 3},
                {"add_bos_token", 1},
                {"add_bos_token", 0},
                {"add_eos_token", 1},
                {"add_space_prefix", 0},
                {"add_space_prefix", 1},
                {"eos_token_id", 4},
                {"remove_extra_whitespaces", 0},
                {"other", 1},
                {"padding_token_id", 0},
                {"unknown_token_id", 0},
                {"unknown_token_id", 5},
                {"unknown_token_id", UINT32_MAX},
                {"eos_token_id", INT32_MAX},
                {"eos_token_id", (uint32_t)INT32_MAX + 1},
                {"padding_token_id", 5},
                {"padding_token_id", UINT32_MAX},
                {"remove_extra_whitespaces", 1},
                {"precompiled_charsmap", 1}};
    int good = 0;
    for (int spm = 0; spm < 2; spm++)
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            cl_tokenizer_data *d;
            cl_err err;
            gguf_parts p = {.model = spm ? "llama" : "gpt2",
                            .pre = spm ? NULL : "gpt-2",
                            .merge = spm ? NULL : "a b",
                            .types = 5,
                            .type0 = spm ? 2 : 1,
                            .scores = spm ? 5 : 0,
                            .bos = 4,
                            .key = keys[i].key,
                            .number = keys[i].number};
            if (import_gguf(&p, &d, &err) == CL_OK) note_data(d), good++;
            else CU_ASSERT(says(&err, ""));
            cl_tokenizer_data_free(d);
        }
    CU_ASSERT(good > 20 && good < 40);
}

static void test_gguf_refused(void)
{
    static const struct {
        gguf_parts p;
        const char *part;
    } bad[] = {
        {{.model = "gpt2", .pre = "gpt-5x", .merge = "a b", .types = 5, .type0 = 1, .bos = -1},
         "tokenizer.ggml.pre: gpt-5x is not known"},
        {{.model = "gpt2", .merge = "a b", .types = 5, .type0 = 1, .bos = -1}, "tokenizer.ggml.pre: missing"},
        {{.model = "bert", .bos = -1}, "tokenizer.ggml.model: bert is not supported"},
        {{.model = "gpt2", .pre = "qwen2", .types = 5, .type0 = 1, .bos = -1}, "tokenizer.ggml.merges: missing"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "a b", .no_tokens = true, .bos = -1},
         "tokenizer.ggml.tokens: missing"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "ab", .types = 5, .type0 = 1, .bos = -1}, "entry 0 is no pair"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "b a", .types = 5, .type0 = 1, .bos = -1},
         "both together is no token"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "a b", .types = 4, .type0 = 1, .bos = -1},
         "token_type: 4 entries for 5 tokens"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "a b", .types = 5, .type0 = 7, .bos = -1}, "7 is none of 1 to 6"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "a b", .types = 5, .type0 = 1, .bos = 5}, "bos is token 5 of 5"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "a b", .types = 5, .type0 = 1, .token = "\xe6\x97\xa5", .bos = -1},
         "not written in the byte-level alphabet"},
        {{.model = "gpt2", .pre = "llama-bpe", .merge = "a b", .types = 5, .type0 = 1, .bos = -1},
         "wrapped in tokens that it does not name"},
        {{.model = "llama", .types = 5, .type0 = 2, .bos = 4}, "tokenizer.ggml.scores: missing"},
        {{.model = "llama", .types = 5, .type0 = 2, .scores = 3, .bos = 4}, "scores: 3 entries for 5 tokens"},
        {{.model = "llama", .types = 5, .type0 = 2, .odd = "tokenizer.ggml.scores", .bos = 4},
         "tokenizer.ggml.scores: no list of numbers"},
        {{.model = "llama", .types = 5, .type0 = 2, .scores = 6, .bos = 4}, "scores: 6 entries for 5 tokens"},
        {{.model = "llama", .scores = 5, .odd = "tokenizer.ggml.token_type", .bos = 4}, "token 1: 0 is none of 1 to 6"},
        {{.model = "llama", .types = 5, .type0 = 0, .scores = 5, .bos = 4}, "token 0: 0 is none of 1 to 6"},
        {{.model = "llama", .types = 5, .type0 = 6, .scores = 5, .token = LONG, .bos = 4}, "is no byte"},
        {{.model = "llama", .types = 5, .type0 = 1, .scores = 5, .token = "\xff", .bos = 4}, "token 0 is not UTF-8"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "a b", .types = 5, .type0 = 1, .token = LONG, .bos = -1},
         "not written in the byte-level alphabet"},
        {{.model = LONG LONG, .bos = -1}, "is not supported (gpt2 and llama are)"},
        {{.model = "gpt2", .pre = LONG LONG, .merge = "a b", .types = 5, .type0 = 1, .bos = -1}, "is not known"},
        {{.model = "gpt2", .pre = "qwen2", .merge = "a ", .types = 5, .type0 = 1, .bos = -1}, "entry 0 is no pair"},
        {{.model = "gpt2", .pre = "qwen2", .merge = " b", .types = 5, .type0 = 1, .bos = -1}, "entry 0 is no pair"},
        {{.model = "llama", .types = 5, .type0 = 6, .scores = 5, .bos = 4}, "token 0: a is no byte"},
        {{.model = "llama", .types = 5, .type0 = 6, .scores = 5, .token = "<0x41>", .bos = 4}, "1 of 256 byte tokens"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cl_tokenizer_data *d;
        cl_err err;
        CU_ASSERT_EQUAL(import_gguf(&bad[i].p, &d, &err), CL_E_INPUT);
        CU_ASSERT_PTR_NULL(d);
        CU_ASSERT(says(&err, bad[i].part));
        cl_tokenizer_data_free(d);
    }
}

static void test_said(void) { said_is(0x1ce2fdfa); }

int main(void)
{
    CU_TestInfo tests[] = {{"tokenizer.json", test_json},
                           {"tokenizer.json, member by member", test_json_members},
                           {"tokenizer.json refused", test_json_refused},
                           {"metaspace", test_metaspace},
                           {"config", test_config},
                           {"tokenizer.model", test_spm},
                           {"tokenizer.model refused", test_spm_refused},
                           {"gguf", test_gguf},
                           {"gguf, key by key", test_gguf_keys},
                           {"gguf refused", test_gguf_refused},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("tokenizer import", tests);
}
