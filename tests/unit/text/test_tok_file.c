/* A vocabulary in a file: every part under its name, and every lie told by the name of its part. */
#include <unistd.h>

#include "chipline/store.h"
#include "suite.h"
#include "tokenizer_vocab.h"

static char dir[256], path[300];

enum { ARRAYS = 9, NUMBERS = 12 };
typedef struct part {
    const char *name;
    cl_store_type type;
    int rank;
    uint64_t dims[2];
    const void *data; /* NULL: left out */
    const char *description, *unit;
} part;
typedef struct number {
    const char *name;
    int64_t value;
} number;
typedef struct contents { /* of the group */
    vocab v;
    const char *kind;
    number numbers[NUMBERS];
    part arrays[ARRAYS];
    char regexes[8];
    uint32_t regex_offset[4];
} contents;

/* Bytes, one merge, one control token; scores, three regexes and a template, so that nothing is left out. One
 * regex is empty. */
static void fill(contents *c)
{
    static char template[] = "{{ messages }}", source[] = "a test";
    vocab *v = &c->v;
    start_bytes(v);
    merge(v, "a", "b");
    control(v, "<s>", CL_TOK_LSTRIP);
    split(v, "\\d");
    split(v, "");
    split(v, "a+");
    v->d.score = v->score;
    v->score[3] = 0.5f;
    v->d.chat_template = template;
    v->d.source = source;
}

static void describe(contents *c)
{
    const vocab *v = &c->v;
    const cl_tokenizer_data *d = &v->d;
    uint64_t n = (uint64_t)d->n_tokens;
    memcpy(c->regexes, "\\da+", 5);
    memcpy(c->regex_offset, (uint32_t[]){0, 2, 2, 4}, sizeof c->regex_offset);
    c->kind = "bpe_bytes";
    const number numbers[NUMBERS] = {{"ignore_merges", 0},
                                     {"nfc", 0},
                                     {"add_prefix_space", 0},
                                     {"prefix_start_only", 0},
                                     {"prefix_unless_space", 0},
                                     {"byte_fallback", 0},
                                     {"add_bos", 0},
                                     {"add_eos", 0},
                                     {"bos_id", -1},
                                     {"eos_id", -1},
                                     {"unk_id", -1},
                                     {"pad_id", -1}};
    const part arrays[ARRAYS] =
        {{"chat_template", CL_STORE_U8, 1, {14}, d->chat_template, "the checkpoint's Jinja text", NULL},
         {"merges", CL_STORE_I32, 2, {1, 3}, d->merge, "left id, right id, result id; the row is the rank", NULL},
         {"split_offset",
          CL_STORE_U32,
          1,
          {4},
          c->regex_offset,
          "regex i is bytes [i] to [i + 1] of split_regex",
          "bytes"},
         {"split_regex",
          CL_STORE_U8,
          1,
          {4},
          c->regexes,
          "the pre-tokenizer's regexes (PCRE2), one after the other, UTF-8",
          NULL},
         {"token_bytes", CL_STORE_U8, 1, {d->offset[n]}, d->bytes, "all tokens' bytes, one after the other", NULL},
         {"token_flags",
          CL_STORE_U8,
          1,
          {n},
          d->flags,
          "of added tokens: 1 strips left, 2 strips right, 4 single word, 8 normalized",
          NULL},
         {"token_offset",
          CL_STORE_U32,
          1,
          {n + 1},
          d->offset,
          "token i is bytes [i] to [i + 1] of token_bytes",
          "bytes"},
         {"token_score", CL_STORE_F32, 1, {n}, d->score, "higher merges first", NULL},
         {"token_type",
          CL_STORE_U8,
          1,
          {n},
          d->type,
          "1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte",
          NULL}};
    memcpy(c->numbers, numbers, sizeof numbers);
    memcpy(c->arrays, arrays, sizeof arrays);
}

static void write_file(const cl_tokenizer_data *d)
{
    cl_store *s = NULL;
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(cl_store_create(&s, path, 8192, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_tokenizer_data_write(d, s, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_store_commit(s, &err), CL_OK);
}

/* The same by hand, as true or false as `c` is. */
static void write_by_hand(const contents *c)
{
    cl_store *s = NULL;
    cl_store_node g;
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(cl_store_create(&s, path, 8192, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_store_make_group(cl_store_root(s), "tokenizer", "", &g, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_store_put_text(g, "kind", c->kind, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_store_put_text(g, "source", "by hand", &err), CL_OK);
    for (int i = 0; i < NUMBERS; i++)
        CU_ASSERT_EQUAL(cl_store_put_int(g, c->numbers[i].name, c->numbers[i].value, &err), CL_OK);
    for (int i = 0; i < ARRAYS; i++) {
        const part *p = &c->arrays[i];
        const cl_store_array a = {p->type, p->rank, {p->dims[0], p->dims[1]}, 0};
        if (p->data) CU_ASSERT_EQUAL(cl_store_put_array(g, p->name, &a, "", NULL, p->data, &err), CL_OK);
    }
    cl_store_release(&g);
    CU_ASSERT_EQUAL(cl_store_commit(s, &err), CL_OK);
}

static cl_store *open_file(void)
{
    cl_store *s = NULL;
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(cl_store_open(&s, path, "a test's", &err), CL_OK);
    return s;
}

static cl_code read_file(cl_tokenizer_data **d, cl_err *err)
{
    cl_store *s = open_file();
    cl_code c = cl_tokenizer_data_read(s, d, err);
    cl_store_close(s);
    return c;
}

static void check_text(cl_store_node n, const char *name, const char *want)
{
    char text[200] = "";
    bool there = false;
    cl_err err = {0};
    CU_ASSERT_EQUAL(cl_store_has_attribute(n, name, &there, &err), CL_OK);
    CU_ASSERT_EQUAL(there, want != NULL);
    if (!want) return;
    CU_ASSERT_EQUAL(cl_store_get_text(n, name, text, sizeof text, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(text, want);
}

static void check_array(cl_store_node g, uint64_t i, const part *want)
{
    char name[40] = "";
    void *data = NULL;
    cl_store_array a = {.type = want->type, .rank = want->rank};
    cl_store_node n;
    cl_err err = {0};
    CU_ASSERT_EQUAL(cl_store_name(g, i, name, sizeof name, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(name, want->name);
    CU_ASSERT_EQUAL_FATAL(cl_store_open_array(g, want->name, &a, &n, &err), CL_OK);
    check_text(n, "description", want->description);
    check_text(n, "unit", want->unit);
    cl_store_release(&n);
    CU_ASSERT_EQUAL_FATAL(cl_store_get_array(g, want->name, &a, &data, NULL, &err), CL_OK);
    CU_ASSERT(a.dims[0] == want->dims[0] && (want->rank == 1 || a.dims[1] == want->dims[1]));
    CU_ASSERT_EQUAL(memcmp(data, want->data, cl_store_array_bytes(&a)), 0);
    free(data);
}

static void check_numbers(const number want[NUMBERS])
{
    cl_store *s = open_file();
    cl_store_node g;
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(cl_store_open_group(cl_store_root(s), "tokenizer", &g, &err), CL_OK);
    for (int i = 0; i < NUMBERS; i++) {
        int64_t v = -9;
        CU_ASSERT_EQUAL(cl_store_get_ints(g, want[i].name, &v, 0, &err), CL_OK);
        if (v != want[i].value) fprintf(stderr, "%s is %lld\n", want[i].name, (long long)v);
        CU_ASSERT_EQUAL(v, want[i].value);
    }
    cl_store_release(&g);
    cl_store_close(s);
}

static void test_parts(void)
{
    contents c;
    cl_err err = {0};
    uint64_t n = 0;
    fill(&c);
    describe(&c);
    write_file(&c.v.d);
    cl_store *s = open_file();
    cl_store_node g;
    CU_ASSERT_EQUAL_FATAL(cl_store_open_group(cl_store_root(s), "tokenizer", &g, &err), CL_OK);
    check_text(g, "description", "text to ids and back; *_id are ids or -1, other numbers are 0 or 1");
    check_text(g, "kind", "bpe_bytes");
    check_text(g, "source", "a test");
    CU_ASSERT_EQUAL(cl_store_count(g, &n, &err), CL_OK);
    CU_ASSERT_EQUAL(n, ARRAYS);
    for (uint64_t i = 0; i < ARRAYS; i++) check_array(g, i, &c.arrays[i]);
    cl_store_release(&g);
    cl_store_close(s);
    unlink(path);
}

/* Each number under its own name, written and read. */
static void test_numbers(void)
{
    contents c;
    cl_err err = {0};
    fill(&c);
    cl_tokenizer_data *d = &c.v.d, *back = NULL;
    bool *const flags[] = {&d->ignore_merges,       &d->nfc,           &d->add_prefix_space, &d->prefix_start_only,
                           &d->prefix_unless_space, &d->byte_fallback, &d->add_bos,          &d->add_eos};
    int *const ids[] = {&d->bos, &d->eos, &d->unk, &d->pad};
    d->bos = 1, d->eos = 2, d->unk = 3, d->pad = 257;
    for (int i = 0; i < 8; i++) {
        for (int k = 0; k < 8; k++) *flags[k] = k == i;
        describe(&c);
        c.numbers[i].value = 1;
        for (int k = 0; k < 4; k++) c.numbers[8 + k].value = *ids[k];
        write_file(d);
        check_numbers(c.numbers);
        CU_ASSERT_EQUAL_FATAL(read_file(&back, &err), CL_OK);
        const bool got[] =
            {back->ignore_merges,       back->nfc,           back->add_prefix_space, back->prefix_start_only,
             back->prefix_unless_space, back->byte_fallback, back->add_bos,          back->add_eos};
        for (int k = 0; k < 8; k++) CU_ASSERT_EQUAL(got[k], k == i);
        CU_ASSERT(back->bos == 1 && back->eos == 2 && back->unk == 3 && back->pad == 257);
        cl_tokenizer_data_free(back);
        unlink(path);
    }
}

/* What is left out is not there when it is read; and the other kind. */
static void test_optional(void)
{
    contents c;
    cl_err err = {0};
    cl_tokenizer_data *d = NULL;
    fill(&c);
    c.v.d.score = NULL;
    c.v.d.chat_template = c.v.d.source = NULL;
    c.v.d.merge = NULL;
    c.v.d.n_merges = c.v.d.n_splits = 0;
    write_file(&c.v.d);
    CU_ASSERT_EQUAL_FATAL(read_file(&d, &err), CL_OK);
    CU_ASSERT(!d->score && !d->chat_template && !d->merge && d->n_merges == 0 && d->n_splits == 0);
    CU_ASSERT_STRING_EQUAL(d->source, "");
    cl_tokenizer_data_free(d);
    unlink(path);

    start_spm(&c.v, true);
    write_file(&c.v.d);
    cl_store *s = open_file();
    cl_store_node g;
    CU_ASSERT_EQUAL_FATAL(cl_store_open_group(cl_store_root(s), "tokenizer", &g, &err), CL_OK);
    check_text(g, "kind", "spm");
    cl_store_release(&g);
    cl_store_close(s);
    CU_ASSERT_EQUAL_FATAL(read_file(&d, &err), CL_OK);
    CU_ASSERT_EQUAL(d->kind, CL_TOK_SPM);
    cl_tokenizer_data_free(d);
    unlink(path);
}

/* What is not there, and what is not to be written. */
static void test_none(void)
{
    contents c;
    char message[400];
    cl_store *s = NULL;
    cl_err err = {0};
    cl_tokenizer_data *d = &c.v.d;
    fill(&c);
    snprintf(message, sizeof message, "%s: vocabulary: pad is token -2 of 258", path);
    d->pad = -2;
    CU_ASSERT_EQUAL_FATAL(cl_store_create(&s, path, 8192, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_tokenizer_data_write(d, s, &err), CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, message);
    CU_ASSERT_EQUAL(cl_store_commit(s, &err), CL_OK);
    CU_ASSERT_EQUAL(read_file(&d, &err), CL_OK); /* nothing of it is in the file */
    CU_ASSERT_PTR_NULL(d);
    unlink(path);
}

/* What is written by hand is refused with this behind the file's name; where the library adds its reason, that is not
 * looked at. */
static void check_refused(const contents *c, const char *want, bool whole)
{
    char message[600];
    cl_err err = {0};
    cl_tokenizer_data other, *d = &other;
    write_by_hand(c);
    CU_ASSERT_EQUAL(read_file(&d, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NULL(d);
    snprintf(message, sizeof message, "%s: tokenizer: %s", path, want);
    bool same = whole ? strcmp(err.msg, message) == 0 : strncmp(err.msg, message, strlen(message)) == 0;
    if (!same) fprintf(stderr, "%s\ninstead of\n%s\n", err.msg, message);
    CU_ASSERT(same);
    unlink(path);
}

static void test_refused_numbers(void)
{
    static const long long flags[] = {-1, 2}, ids[] = {-2, 1LL << 31};
    contents c;
    fill(&c);
    for (int i = 0; i < NUMBERS; i++)
        for (int k = 0; k < 2; k++) {
            char want[80];
            long long v = i < 8 ? flags[k] : ids[k];
            describe(&c);
            c.numbers[i].value = v;
            snprintf(want, sizeof want, "%s: is %lld", c.numbers[i].name, v);
            check_refused(&c, want, true);
        }
    describe(&c);
    c.numbers[9].value = INT32_MAX; /* an id, but none of these */
    check_refused(&c, "vocabulary: eos is token 2147483647 of 258", true);
    describe(&c);
    c.kind = "bpe";
    check_refused(&c, "kind: \"bpe\" is not known (made by a newer chipline?)", true);
}

static void test_refused_arrays(void)
{
    enum { TEMPLATE, MERGES, SPLIT_OFFSET, SPLIT_REGEX, BYTES, FLAGS, OFFSET, SCORE, TYPE };
    static const int32_t pairs[2][2] = {{'a', 'b'}, {'c', 'd'}}, fours[4] = {'a', 'b', 256, 0};
    static const uint32_t late[] = {1, 2, 4}, falling[] = {0, 4, 2, 4}, low[] = {0, 2, 3}, high[] = {0, 2, 5};
    static const struct {
        int part;
        uint64_t dims[2];
        const void *data;
        const char *why;
    } cases[] = {
        {FLAGS, {257}, NULL, "token_flags: has 257 entries, must have 258"},
        {FLAGS, {259}, NULL, "token_flags: has 259 entries, must have 258"},
        {TYPE, {257}, NULL, "token_type: has 257 entries, must have 258"},
        {SCORE, {259}, NULL, "token_score: has 259 entries, must have 258"},
        {OFFSET, {258}, NULL, "token_offset: does not fit token_bytes"},
        {OFFSET, {1}, NULL, "token_offset: does not fit token_bytes"},
        {OFFSET, {0}, NULL, "token_offset: does not fit token_bytes"},
        {BYTES, {3}, NULL, "token_offset: does not fit token_bytes"},
        {SPLIT_OFFSET, {3}, late, "split_offset: does not fit split_regex"},
        {SPLIT_OFFSET, {4}, falling, "split_offset: does not fit split_regex"},
        {SPLIT_OFFSET, {3}, low, "split_offset: does not fit split_regex"},
        {SPLIT_OFFSET, {3}, high, "split_offset: does not fit split_regex"},
        {SPLIT_REGEX, {3}, NULL, "split_offset: does not fit split_regex"},
        {SPLIT_REGEX, {4}, "a\0b+", "split_regex: regex 0 holds a zero byte"},
        {SPLIT_REGEX, {4}, "\\da\0", "split_regex: regex 2 holds a zero byte"},
        {SPLIT_REGEX, {4}, "\\w\\d", "split regex \\w: \\w is not understood"},
        {MERGES, {2, 2}, pairs, "merges: must be [merges, 3]"},
        {MERGES, {1, 4}, fours, "merges: must be [merges, 3]"},
        {MERGES, {1, 3}, pairs, "merge 0: token 99 is not 97 followed by 98"},
        {TEMPLATE, {3}, "a\0b", "chat_template: is not UTF-8 text"},
        {TEMPLATE, {3}, "ab\xff", "chat_template: is not UTF-8 text"},
    };
    contents c;
    cl_err err = {0};
    cl_tokenizer_data *d = NULL;
    fill(&c);
    describe(&c);
    write_by_hand(&c); /* as it should be */
    CU_ASSERT_EQUAL_FATAL(read_file(&d, &err), CL_OK);
    CU_ASSERT_STRING_EQUAL(d->source, "by hand");
    CU_ASSERT_STRING_EQUAL(d->chat_template, "{{ messages }}");
    CU_ASSERT_EQUAL_FATAL(d->n_splits, 3);
    for (int i = 0; i < 3; i++) CU_ASSERT_STRING_EQUAL(d->splits[i].regex, c.v.splits[i].regex);
    cl_tokenizer_data_free(d);
    unlink(path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        describe(&c);
        part *p = &c.arrays[cases[i].part];
        memcpy(p->dims, cases[i].dims, sizeof p->dims);
        if (cases[i].data) p->data = cases[i].data;
        check_refused(&c, cases[i].why, true);
    }
    for (int i = 0; i < ARRAYS; i++) { /* what has to be there, and of which type it is */
        char want[80];
        describe(&c);
        c.arrays[i].data = NULL;
        snprintf(want, sizeof want, "%s: missing or damaged", c.arrays[i].name);
        if (i != TEMPLATE && i != MERGES && i != SCORE) check_refused(&c, want, false);
        describe(&c);
        c.arrays[i].type = CL_STORE_F64;
        c.arrays[i].data = (double[300]){0};
        c.arrays[i].dims[0] = c.arrays[i].dims[0] < 90 ? c.arrays[i].dims[0] : 90;
        snprintf(want, sizeof want, "%s: ", c.arrays[i].name);
        check_refused(&c, want, false);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"parts", test_parts},
                           {"numbers", test_numbers},
                           {"optional", test_optional},
                           {"none", test_none},
                           {"refused numbers", test_refused_numbers},
                           {"refused arrays", test_refused_arrays},
                           CU_TEST_INFO_NULL};
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/chipline-text-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return EXIT_FAILURE;
    snprintf(path, sizeof path, "%s/vocabulary.h5", dir);
    int code = run_suite("tokenizer, file", tests);
    unlink(path);
    return rmdir(dir) == 0 ? code : EXIT_FAILURE; /* nothing is left there */
}
