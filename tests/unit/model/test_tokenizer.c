/* The tokenizer on vocabularies small enough to think through; the families' real pipelines are in import/test_tok_vectors.c. */
#include <stdarg.h>
#include <time.h>

#include "chipline/tokenizer.h"
#include "suite.h"

#define SPACE "\xe2\x96\x81"

/* --- making vocabularies --- */

typedef struct vocab {
    cl_tokenizer_data d;
    char bytes[4096];
    uint32_t offset[600];
    uint8_t type[600], flags[600];
    float score[600];
    int32_t merge[64][3];
    cl_tok_split splits[8];
} vocab;

static int add(vocab *v, const char *s, size_t n, cl_tok_type type, int flags, float score)
{
    int id = v->d.n_tokens++;
    memcpy(v->bytes + v->offset[id], s, n);
    v->offset[id + 1] = v->offset[id] + (uint32_t)n;
    v->type[id] = (uint8_t)type;
    v->flags[id] = (uint8_t)flags;
    v->score[id] = score;
    return id;
}

static int token(vocab *v, const char *s) { return add(v, s, strlen(s), CL_TOK_NORMAL, 0, 0); }
static int control(vocab *v, const char *s, int flags) { return add(v, s, strlen(s), CL_TOK_CONTROL, flags, 0); }

static void start(vocab *v, cl_tok_kind kind)
{
    memset(v, 0, sizeof *v);
    v->d = (cl_tokenizer_data){.kind = kind, .bytes = v->bytes, .offset = v->offset, .type = v->type, .flags = v->flags, .splits = v->splits,
                               .merge = v->merge[0], .bos = -1, .eos = -1, .unk = -1, .pad = -1};
}

/* Ids 0 to 255 are the bytes. */
static void start_bytes(vocab *v)
{
    start(v, CL_TOK_BPE_BYTES);
    for (int b = 0; b < 256; b++) add(v, (char[]){(char)b}, 1, CL_TOK_NORMAL, 0, 0);
}

static int find(const vocab *v, const char *s)
{
    for (int id = 0; id < v->d.n_tokens; id++)
        if (v->offset[id + 1] - v->offset[id] == strlen(s) && memcmp(v->bytes + v->offset[id], s, strlen(s)) == 0) return id;
    abort();
}

/* The merge of two tokens; the result becomes a token if it is none. */
static int merge(vocab *v, const char *a, const char *b)
{
    char both[64];
    snprintf(both, sizeof both, "%s%s", a, b);
    int result = -1;
    for (int id = 0; id < v->d.n_tokens; id++)
        if (v->offset[id + 1] - v->offset[id] == strlen(both) && memcmp(v->bytes + v->offset[id], both, strlen(both)) == 0) result = id;
    if (result < 0) result = token(v, both);
    int32_t *m = v->merge[v->d.n_merges++];
    m[0] = find(v, a);
    m[1] = find(v, b);
    m[2] = result;
    return result;
}

static void split(vocab *v, const char *regex) { v->splits[v->d.n_splits++].regex = (char *)(uintptr_t)regex; }

/* SentencePiece's minimum: unknown, BOS, EOS, and byte tokens if wanted. */
static void start_spm(vocab *v, bool bytes)
{
    start(v, CL_TOK_SPM);
    v->d.score = v->score;
    v->d.add_prefix_space = true;
    v->d.unk = add(v, "<unk>", 5, CL_TOK_UNKNOWN, 0, 0);
    v->d.bos = control(v, "<s>", 0);
    v->d.eos = control(v, "</s>", 0);
    v->d.byte_fallback = bytes;
    for (int b = 0; bytes && b < 256; b++) add(v, (char[]){(char)b}, 1, CL_TOK_BYTE, 0, 0);
}
static int piece(vocab *v, const char *s, float score) { return add(v, s, strlen(s), CL_TOK_NORMAL, 0, score); }

static cl_tokenizer *compile(const vocab *v)
{
    cl_tokenizer *t = NULL;
    cl_err err = {0};
    if (cl_tokenizer_create(&t, &v->d, &err) != CL_OK) fprintf(stderr, "%s\n", err.msg);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    return t;
}

/* Whether text becomes these ids (-1 ends them). */
static bool gives_n(const cl_tokenizer *t, const char *text, size_t len, bool specials, bool wrap, ...)
{
    int32_t *ids = NULL;
    int n = 0, i = 0;
    cl_err err = {0};
    if (cl_tokenizer_encode(t, text, len, specials, wrap, &ids, &n, &err) != CL_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return false;
    }
    va_list ap;
    va_start(ap, wrap);
    bool same = true;
    for (int want; (want = va_arg(ap, int)) >= 0; i++) same = same && i < n && ids[i] == want;
    va_end(ap);
    same = same && i == n;
    if (!same) {
        fprintf(stderr, "'%s' gave", text);
        for (i = 0; i < n; i++) fprintf(stderr, " %d", ids[i]);
        fprintf(stderr, "\n");
    }
    free(ids);
    return same;
}
#define gives(t, text, ...) gives_n(t, text, strlen(text), true, false, __VA_ARGS__, -1)
#define gives_wrapped(t, text, ...) gives_n(t, text, strlen(text), true, true, __VA_ARGS__, -1)

static bool refuses(const cl_tokenizer *t, const char *text, size_t n, const char *part)
{
    int32_t *ids = NULL;
    int k = 0;
    cl_err err = {0};
    cl_code c = cl_tokenizer_encode(t, text, n, true, true, &ids, &k, &err);
    bool ok = c == CL_E_INPUT && !ids && k == 0 && strstr(err.msg, part);
    if (!ok) fprintf(stderr, "code %d, message '%s' instead of '%s'\n", (int)c, err.msg, part);
    free(ids);
    return ok;
}

/* --- byte-level BPE --- */

static void test_merge_order(void)
{
    vocab v;
    start_bytes(&v);
    int bc = merge(&v, "b", "c"), ab = merge(&v, "a", "b"), aa = merge(&v, "a", "a"), abc = merge(&v, "a", "bc"), aaaa = merge(&v, "aa", "aa");
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "", -1));
    CU_ASSERT(gives(t, "ab", ab));
    CU_ASSERT(gives(t, "abc", abc));              /* b c goes first, a b never happens */
    CU_ASSERT(gives(t, "aaa", aa, 'a'));          /* leftmost first */
    CU_ASSERT(gives(t, "aaaa", aaaa));
    CU_ASSERT(gives(t, "aaaaa", aaaa, 'a'));
    CU_ASSERT(gives(t, "aaab", aa, ab));          /* a b before a a */
    CU_ASSERT(gives(t, "aabc", aa, bc));            /* a a before a bc */
    CU_ASSERT(gives(t, "abbc", ab, bc));
    CU_ASSERT(gives_n(t, "a\0b", 3, true, false, 'a', 0, 'b', -1));
    CU_ASSERT(gives(t, "\xc3\xa9", 0xc3, 0xa9));
    cl_tokenizer_free(t);
}

/* Without merges the id of the result is its rank (tiktoken). */
static void test_ids_as_ranks(void)
{
    vocab v;
    start_bytes(&v);
    int bc = token(&v, "bc"), ab = token(&v, "ab"), abcd = token(&v, "abcd"), cd = token(&v, "cd"), no = token(&v, "xyz");
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "ab", ab));
    CU_ASSERT(gives(t, "abcd", 'a', bc, 'd')); /* bc has the lowest id; abcd cannot be put together from a, bc and d */
    CU_ASSERT(gives(t, "abxcd", ab, 'x', cd));
    CU_ASSERT(gives(t, "xyz", 'x', 'y', 'z'));
    cl_tokenizer_free(t);
    v.d.ignore_merges = true; /* a whole piece that is a token */
    t = compile(&v);
    CU_ASSERT(gives(t, "abcd", abcd));
    CU_ASSERT(gives(t, "xyz", no));
    CU_ASSERT(gives(t, "xyz ", 'x', 'y', 'z', ' '));
    cl_tokenizer_free(t);
}

static void test_splits(void)
{
    vocab v;
    start_bytes(&v);
    int aa = merge(&v, "a", "a"), d12 = merge(&v, "1", "2"), a1 = merge(&v, "a", "1"), spaces = merge(&v, " ", " "), mongol = merge(&v, "\xe1", "\xa0");
    split(&v, "\\p{N}");
    split(&v, " ?a+|\\s+(?!\\S)");
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "aa12", aa, '1', '2'));                /* every number alone */
    CU_ASSERT(gives(t, "a1", 'a', '1'));                      /* nothing merges across a cut */
    CU_ASSERT(gives(t, "   aa", spaces, ' ', aa));            /* gaps are pieces too; " aa" is one piece */
    CU_ASSERT(gives(t, "\xc2\xbd" "aa", 0xc2, 0xbd, aa));     /* one half is a number as well */
    /* U+180E is no space in today's Unicode: two of them are a gap, and their first two bytes merge */
    CU_ASSERT(gives(t, "\xe1\xa0\x8e\xe1\xa0\x8e", mongol, 0x8e, mongol, 0x8e));
    cl_tokenizer_free(t);
    v.d.n_splits = 0;
    t = compile(&v);
    CU_ASSERT(gives(t, "aa12", aa, d12));
    CU_ASSERT(gives(t, "ba1", 'b', a1));
    cl_tokenizer_free(t);

    start_bytes(&v); /* \s and \S, in a class and outside, agree with White_Space: U+0085, U+00A0, U+2028, U+3000, not U+180E, U+200B */
    split(&v, "\\s");
    split(&v, "[^\\s]+");
    split(&v, "\\S+");
    t = compile(&v);
    CU_ASSERT(gives(t, "a\xc2\x85\xe3\x80\x80", 'a', 0xc2, 0x85, 0xe3, 0x80, 0x80));
    cl_tokenizer_free(t);
}

/* What Oniguruma and PCRE2 read differently is refused, and so is what neither reads. */
static void test_regexes_refused(void)
{
    static const char *const bad[] = {"\\w+", "\\W", "\\h", "\\b", "\\A", "\\1", "\\x41", "\\u0041", "\\R", "[\\S]", "[a[b]]", "[a&&b]", "[]a]", "[a", "(?m:a)", "(?s)a",
                                      "(?<name>a)", "(?P<n>a)", "a{1,3}+", "a{x}", "a{", "\\p{Han}", "\\pL", "\\p{L", "a)", "(a", "*", "\\", "\xff", "(?i)a"};
    vocab v;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cl_tokenizer *t = NULL;
        cl_err err = {0};
        start_bytes(&v);
        split(&v, bad[i]);
        cl_code c = cl_tokenizer_create(&t, &v.d, &err);
        CU_ASSERT_EQUAL(c, CL_E_INPUT);
        CU_ASSERT_PTR_NULL(t);
        if (c != CL_E_INPUT || !strstr(err.msg, "split regex")) fprintf(stderr, "%s: '%s'\n", bad[i], err.msg);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "split regex"));
        CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), CL_E_INPUT);
    }
}

/* An expression that tries everything ends with a message, not with the program. */
static void test_regex_limit(void)
{
    vocab v;
    start_bytes(&v);
    split(&v, "(?:\\p{L}+)+\\d");
    cl_tokenizer *t = compile(&v);
    char text[80];
    memset(text, 'a', sizeof text);
    text[60] = '!';
    CU_ASSERT(refuses(t, text, sizeof text, "gave up"));
    CU_ASSERT(gives(t, "aa1", 'a', 'a', '1'));
    cl_tokenizer_free(t);
}

static void test_bad_text(void)
{
    static const struct { const char *text; size_t n; const char *part; } bad[] = {
        {"abc\xff", 4, "byte 3 (0xff)"}, {"\xc3", 1, "byte 0 (0xc3)"}, {"a\xc0\x80", 3, "byte 1 (0xc0)"}, {"\xed\xa0\x80", 3, "byte 0 (0xed)"},
        {"\xf4\x90\x80\x80", 4, "byte 0 (0xf4)"}, {"ok \xe2\x82", 5, "byte 3 (0xe2)"}, {"\x80", 1, "byte 0 (0x80)"}};
    vocab v;
    start_bytes(&v);
    cl_tokenizer *t = compile(&v);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CU_ASSERT(refuses(t, bad[i].text, bad[i].n, bad[i].part));
    cl_tokenizer_free(t);
    v.type[4] = CL_TOK_UNUSED; /* SmolLM2's vocabulary misses some control characters */
    t = compile(&v);
    CU_ASSERT(refuses(t, "a\x04" "b", 3, "no token for byte 0x04"));
    CU_ASSERT(gives(t, "ab", 'a', 'b'));
    cl_tokenizer_free(t);
}

/* Half a million symbols in one piece: far beyond what anything quadratic would do in the time given. */
static void test_long_piece(void)
{
    enum { N = 500000 };
    vocab v;
    start_bytes(&v);
    merge(&v, "a", "b");
    merge(&v, "ab", "ab");
    merge(&v, "a", "a");
    int a4 = merge(&v, "aa", "aa");
    cl_tokenizer *t = compile(&v);
    char *text = malloc(N);
    int32_t *ids = NULL;
    int n = 0;
    cl_err err;
    clock_t begin = clock();
    memset(text, 'a', N);
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_encode(t, text, N, true, false, &ids, &n, &err), CL_OK);
    CU_ASSERT(n == N / 4 && ids[0] == a4 && ids[n - 1] == a4);
    free(ids);
    for (int i = 1; i < N; i += 2) text[i] = 'b';
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_encode(t, text, N, true, false, &ids, &n, &err), CL_OK);
    CU_ASSERT_EQUAL(n, N / 4);
    free(ids);
    CU_ASSERT((double)(clock() - begin) / CLOCKS_PER_SEC < 20);
    free(text);
    cl_tokenizer_free(t);
}

static void test_added(void)
{
    vocab v;
    start_bytes(&v);
    int x = control(&v, "<x>", 0), xy = control(&v, "<x>y", 0), l = control(&v, "<l>", CL_TOK_LSTRIP), r = control(&v, "<r>", CL_TOK_RSTRIP);
    int w = add(&v, "ab", 2, CL_TOK_USER, CL_TOK_SINGLE_WORD, 0), nfd = add(&v, "\xc3\xa9!", 3, CL_TOK_USER, CL_TOK_NORMALIZED, 0);
    v.d.nfc = true;
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "<x>", x));
    CU_ASSERT(gives(t, "<x>y<x><x", xy, x, '<', 'x')); /* the longest */
    CU_ASSERT(gives(t, "a \n<l> b", 'a', l, ' ', 'b'));
    CU_ASSERT(gives(t, "a <r>\xe3\x80\x80 b", 'a', ' ', r, 'b'));
    CU_ASSERT(gives(t, "<r> <l>", r, l)); /* the space is used once */
    CU_ASSERT(gives(t, "ab ab.", w, ' ', w, '.'));
    CU_ASSERT(gives(t, "abc xab a_ab", 'a', 'b', 'c', ' ', 'x', 'a', 'b', ' ', 'a', '_', 'a', 'b'));
    CU_ASSERT(gives(t, "\xc3\xa9" "ab", 0xc3, 0xa9, 'a', 'b')); /* a letter before it */
    CU_ASSERT(gives(t, "e\xcc\x81!", nfd)); /* found once the text is normalised */
    CU_ASSERT(gives_n(t, "<x>ab", 5, false, false, '<', 'x', '>', w, -1)); /* control tokens only when they are asked for */
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<x>"), x);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<x>y"), xy);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<x"), -1);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, ""), -1);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "q"), 'q');
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "\xc3\xa9!"), nfd);
    CU_ASSERT_PTR_EQUAL(cl_tokenizer_get_data(t), &v.d);
    cl_tokenizer_free(t);
}

static void test_wrap(void)
{
    vocab v;
    start_bytes(&v);
    v.d.bos = control(&v, "<s>", 0);
    v.d.eos = control(&v, "</s>", 0);
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives_wrapped(t, "a", 'a'));
    v.d.add_bos = true;
    CU_ASSERT(gives(t, "a", 'a'));
    CU_ASSERT(gives_wrapped(t, "", v.d.bos));
    CU_ASSERT(gives_wrapped(t, "a", v.d.bos, 'a'));
    CU_ASSERT(gives_wrapped(t, "<s>a", v.d.bos, 'a')); /* not doubled */
    CU_ASSERT(gives_wrapped(t, "<s><s>a", v.d.bos, v.d.bos, 'a'));
    CU_ASSERT(gives_n(t, "<s>", 3, false, true, v.d.bos, '<', 's', '>', -1));
    v.d.add_eos = true;
    CU_ASSERT(gives_wrapped(t, "<s>a", v.d.bos, 'a', v.d.eos));
    cl_tokenizer_free(t);
}

static void test_nfc_and_prefix(void)
{
    vocab v;
    start_bytes(&v);
    int x = control(&v, "<x>", 0);
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "e\xcc\x81", 'e', 0xcc, 0x81));
    cl_tokenizer_free(t);
    v.d.nfc = true;
    t = compile(&v);
    CU_ASSERT(gives(t, "e\xcc\x81", 0xc3, 0xa9));
    CU_ASSERT(gives(t, "e<x>\xcc\x81", 'e', x, 0xcc, 0x81)); /* not across an added token */
    CU_ASSERT(gives_n(t, "\0\xe2\x84\xab", 4, true, false, 0, 0xc3, 0x85, -1));
    cl_tokenizer_free(t);
    v.d.add_prefix_space = v.d.prefix_unless_space = true;
    t = compile(&v);
    CU_ASSERT(gives(t, "", -1));
    CU_ASSERT(gives(t, "a<x>b<x> c", ' ', 'a', x, ' ', 'b', x, ' ', 'c'));
    cl_tokenizer_free(t);
}

/* --- SentencePiece --- */

static void test_spm(void)
{
    vocab v;
    start_spm(&v, true);
    int space = piece(&v, SPACE, -9), a = piece(&v, "a", -9), b = piece(&v, "b", -9), e = piece(&v, "\xc3\xa9", -9);
    int ab = piece(&v, "ab", -1), sa = piece(&v, SPACE "a", -2), sab = piece(&v, SPACE "ab", -3), ss = piece(&v, SPACE SPACE, -4), aba = piece(&v, "aba", -1);
    int byte0 = 3;
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "", -1));
    CU_ASSERT(gives(t, "a", sa));
    CU_ASSERT(gives(t, "ab", sab));
    CU_ASSERT(gives(t, "ab ab", sab, sab));
    CU_ASSERT(gives(t, "  ", ss, space));
    CU_ASSERT(gives(t, " a", space, sa)); /* the prefix comes first */
    CU_ASSERT(gives(t, "aba", space, aba)); /* ab, then aba as good as ab: before the space gets hold of it */
    CU_ASSERT(gives(t, "b\xc3\xa9z", space, b, e, byte0 + 'z'));
    CU_ASSERT(gives(t, "\xf0\x9f\xa6\x99", space, byte0 + 0xf0, byte0 + 0x9f, byte0 + 0xa6, byte0 + 0x99));
    CU_ASSERT(gives(t, "<s>a</s>a", v.d.bos, sa, v.d.eos, sa)); /* a prefix behind every control token */
    CU_ASSERT(gives_n(t, "<s>", 3, false, false, space, byte0 + '<', byte0 + 's', byte0 + '>', -1));
    cl_tokenizer_free(t);
    v.d.prefix_start_only = true;
    t = compile(&v);
    CU_ASSERT(gives(t, "a<s>ab<s>", sa, v.d.bos, ab, v.d.bos));
    CU_ASSERT(gives(t, "<s>a", v.d.bos, a));
    cl_tokenizer_free(t);
    v.d.prefix_start_only = false;
    v.d.prefix_unless_space = true;
    t = compile(&v);
    CU_ASSERT(gives(t, " a", sa));
    CU_ASSERT(gives(t, SPACE "a", sa));
    CU_ASSERT(gives(t, "a<s> a", sa, v.d.bos, sa));
    cl_tokenizer_free(t);

    start_spm(&v, false); /* unknown characters are one unknown token in a row */
    space = piece(&v, SPACE, -9);
    a = piece(&v, "a", -9);
    t = compile(&v);
    CU_ASSERT(gives(t, "xyaz a", space, v.d.unk, a, v.d.unk, space, a));
    cl_tokenizer_free(t);
}

/* A token with a space inside: words cannot be merged one by one, and are not. */
static void test_spm_space_inside(void)
{
    vocab v;
    start_spm(&v, true);
    int space = piece(&v, SPACE, -9), a = piece(&v, "a", -9), as = piece(&v, "a" SPACE, -1), asa = piece(&v, "a" SPACE "a", -2);
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "a a", space, asa));
    CU_ASSERT(gives(t, "a  a", space, as, space, a));
    cl_tokenizer_free(t);
}

/* --- ids to text --- */

static cl_buf text_of(const cl_tokenizer *t, bool strip, bool controls, const int32_t *ids, int n, int *pieces)
{
    cl_buf out = {0};
    cl_detok d;
    cl_err err;
    cl_detok_init(&d, t, strip, controls);
    CU_ASSERT_EQUAL(cl_buf_str(&out, "", &err), CL_OK);
    for (int i = 0; i < n; i++) {
        size_t before = out.len, bad;
        CU_ASSERT_EQUAL(cl_detok_add(&d, ids[i], &out, &err), CL_OK);
        CU_ASSERT(cl_utf8_valid(out.data + before, out.len - before, &bad)); /* never half a character */
        if (pieces) pieces[i] = (int)(out.len - before);
    }
    CU_ASSERT_EQUAL(cl_detok_finish(&d, &out, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_detok_finish(&d, &out, &err), CL_OK); /* nothing is left */
    return out;
}

static bool shows(const cl_tokenizer *t, bool strip, bool controls, const char *want, int n, const int32_t *ids)
{
    cl_buf b = text_of(t, strip, controls, ids, n, NULL);
    bool same = strcmp(b.data, want) == 0;
    if (!same) fprintf(stderr, "'%s' instead of '%s'\n", b.data, want);
    cl_buf_free(&b);
    return same;
}
#define IDS(...) (int)(sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t)), (int32_t[]){__VA_ARGS__}
#define BAD "\xef\xbf\xbd"

static void test_detok(void)
{
    vocab v;
    start_bytes(&v);
    int half = add(&v, "\x9f\xa6", 2, CL_TOK_NORMAL, 0, 0), x = control(&v, "<x>", 0), user = add(&v, "<u>", 3, CL_TOK_USER, 0, 0);
    int unused = add(&v, "[PAD]", 5, CL_TOK_UNUSED, 0, 0);
    cl_tokenizer *t = compile(&v);
    int sizes[4];
    cl_buf llama = text_of(t, true, false, (int32_t[]){0xf0, half, 0x99, 'a'}, 4, sizes);
    CU_ASSERT_STRING_EQUAL(llama.data, "\xf0\x9f\xa6\x99" "a");
    CU_ASSERT(sizes[0] == 0 && sizes[1] == 0 && sizes[2] == 4 && sizes[3] == 1); /* whole characters, as soon as they are whole */
    cl_buf_free(&llama);
    CU_ASSERT(shows(t, true, false, "a" BAD, IDS('a', 0xf0, half)));                /* an end that never comes */
    CU_ASSERT(shows(t, true, false, BAD "a", IDS(0xf0, 0x9f, 'a')));                /* one for the longest beginning */
    CU_ASSERT(shows(t, true, false, BAD BAD BAD, IDS(0xff, 0x80, 0xc0)));           /* bytes that begin nothing */
    CU_ASSERT(shows(t, true, false, BAD BAD BAD "\xc3\xa9", IDS(0xed, 0xa0, 0x80, 0xc3, 0xa9))); /* a surrogate */
    CU_ASSERT(shows(t, true, false, BAD "\xe2\x82\xac", IDS(0xe2, 0x82, 0xe2, 0x82, 0xac)));
    CU_ASSERT(shows(t, true, false, BAD BAD BAD BAD, IDS(0xf4, 0x90, 0x80, 0x80))); /* over U+10FFFF */
    CU_ASSERT(shows(t, true, false, "a<u>b", IDS('a', x, user, unused, 'b')));
    CU_ASSERT(shows(t, true, true, "a<x><u>[PAD]b", IDS('a', x, user, unused, 'b')));
    CU_ASSERT(shows(t, true, false, " a", IDS(' ', 'a'))); /* no dummy space in this kind */
    cl_detok d;
    cl_buf out = {0};
    cl_err err = {0};
    cl_detok_init(&d, t, true, false);
    CU_ASSERT_EQUAL(cl_detok_add(&d, v.d.n_tokens, &out, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "260 tokens"));
    CU_ASSERT_EQUAL(cl_detok_add(&d, -1, &out, &err), CL_E_INPUT);
    CU_ASSERT_EQUAL(out.len, 0);
    cl_buf_free(&out);
    const char *s;
    size_t n;
    cl_tokenizer_piece(t, half, false, &s, &n);
    CU_ASSERT(n == 2 && memcmp(s, "\x9f\xa6", 2) == 0);
    cl_tokenizer_piece(t, 1000, true, &s, &n);
    CU_ASSERT_EQUAL(n, 0);
    cl_tokenizer_free(t);

    start_spm(&v, true);
    int sa = piece(&v, SPACE "a", -1), space = piece(&v, SPACE, -1), all = add(&v, SPACE "u" SPACE, 7, CL_TOK_USER, 0, 0);
    t = compile(&v);
    CU_ASSERT(shows(t, true, false, "a a", IDS(sa, sa)));
    CU_ASSERT(shows(t, false, false, " a a", IDS(sa, sa)));
    CU_ASSERT(shows(t, true, false, "a", IDS(v.d.bos, sa))); /* what is not shown does not count as the start */
    CU_ASSERT(shows(t, true, true, "<s> a", IDS(v.d.bos, sa)));
    CU_ASSERT(shows(t, true, false, " a", IDS(space, sa)));
    CU_ASSERT(shows(t, true, false, "\xc3\xa9 u ", IDS(3 + 0xc3, 3 + 0xa9, all)));
    CU_ASSERT(shows(t, true, false, "", IDS(v.d.unk)));
    cl_tokenizer_free(t);
}

/* --- any text comes back --- */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static size_t put_char(char *p, uint32_t c)
{
    if (c < 0x80) return p[0] = (char)c, 1;
    if (c < 0x800) return p[0] = (char)(0xc0 | c >> 6), p[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000) return p[0] = (char)(0xe0 | c >> 12), p[1] = (char)(0x80 | (c >> 6 & 63)), p[2] = (char)(0x80 | (c & 63)), 3;
    return p[0] = (char)(0xf0 | c >> 18), p[1] = (char)(0x80 | (c >> 12 & 63)), p[2] = (char)(0x80 | (c >> 6 & 63)), p[3] = (char)(0x80 | (c & 63)), 4;
}

static void check_round_trips(const cl_tokenizer *t, uint64_t seed)
{
    char text[4 * 200];
    static const uint32_t ranges[][2] = {{0, 0x80}, {0x20, 0x7f}, {'a', 'f'}, {' ', '!'}, {'0', '9' + 1}, {0x80, 0x800}, {0x800, 0xd800}, {0xe000, 0x10000}, {0x10000, 0x110000}};
    for (int round = 0; round < 3000; round++) {
        size_t n = 0, chars = next_random(&seed) % 100;
        for (size_t i = 0; i < chars; i++) {
            const uint32_t *r = ranges[next_random(&seed) % (sizeof ranges / sizeof *ranges)];
            uint32_t c = r[0] + (uint32_t)(next_random(&seed) % (r[1] - r[0]));
            n += put_char(text + n, c == 0x2581 ? 'x' : c); /* which SentencePiece takes for a space */
        }
        int32_t *ids = NULL;
        int k = 0;
        cl_err err;
        CU_ASSERT_EQUAL_FATAL(cl_tokenizer_encode(t, text, n, false, false, &ids, &k, &err), CL_OK);
        cl_buf back = text_of(t, true, false, ids, k, NULL);
        CU_ASSERT(back.len == n && memcmp(back.data, text, n) == 0);
        cl_buf_free(&back);
        free(ids);
    }
}

static void test_round_trip(void)
{
    vocab v;
    start_bytes(&v);
    merge(&v, "a", "b");
    merge(&v, "ab", "c");
    merge(&v, " ", "a");
    merge(&v, "\xe2", "\x80");
    merge(&v, "0", "1");
    control(&v, "<x>", 0);
    add(&v, "de", 2, CL_TOK_USER, 0, 0);
    split(&v, "\\p{N}{1,3}");
    split(&v, " ?\\p{L}+| ?[^\\s\\p{L}]+|\\s+(?!\\S)|\\s+");
    cl_tokenizer *t = compile(&v);
    check_round_trips(t, 1);
    cl_tokenizer_free(t);
    start_spm(&v, true);
    piece(&v, SPACE, -9);
    piece(&v, "a", -9);
    piece(&v, "b", -9);
    piece(&v, SPACE "a", -1);
    piece(&v, "ab", -2);
    t = compile(&v);
    check_round_trips(t, 2);
    cl_tokenizer_free(t);
}

/* --- data that lies --- */

static bool bad_data(const vocab *v, const char *part)
{
    cl_err err = {0};
    cl_tokenizer *t = NULL;
    bool ok = cl_tokenizer_data_check(&v->d, &err) == CL_E_INPUT && strstr(err.msg, part) && cl_tokenizer_create(&t, &v->d, &err) == CL_E_INPUT && !t;
    if (!ok) fprintf(stderr, "message '%s' instead of '%s'\n", err.msg, part);
    return ok;
}

static void test_bad_data(void)
{
    vocab v;
    cl_err err;
#define BROKEN(change, part) (start_bytes(&v), merge(&v, "a", "b"), (change), bad_data(&v, part))
    start_bytes(&v);
    merge(&v, "a", "b");
    CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), CL_OK);
    CU_ASSERT(BROKEN(v.d.n_tokens = 0, "0 tokens"));
    CU_ASSERT(BROKEN(v.d.n_tokens = -1, "tokens"));
    CU_ASSERT(BROKEN(v.d.n_merges = -1, "merges"));
    CU_ASSERT(BROKEN(v.d.n_splits = 1000, "split"));
    CU_ASSERT(BROKEN(v.d.kind = (cl_tok_kind)7, "kind 7"));
    CU_ASSERT(BROKEN(v.offset[0] = 1, "first token"));
    CU_ASSERT(BROKEN(v.offset[9] = 1000, "ends before it starts"));
    CU_ASSERT(BROKEN(v.type[3] = 0, "type 0"));
    CU_ASSERT(BROKEN(v.type[3] = 7, "type 7"));
    CU_ASSERT(BROKEN(v.flags[3] = 16, "flags 16"));
    CU_ASSERT(BROKEN(v.merge[0][0] = 257, "merge 0: token 257"));
    CU_ASSERT(BROKEN(v.merge[0][2] = -1, "merge 0: token -1"));
    CU_ASSERT(BROKEN(v.merge[0][1] = 'c', "is not 97 followed by 99"));
    CU_ASSERT(BROKEN(v.bytes[v.offset[256]] = 'x', "is not 97 followed by 98"));
    CU_ASSERT(BROKEN(v.d.bos = 257, "bos is token 257"));
    CU_ASSERT(BROKEN(v.d.eos = -2, "eos is token -2"));
    CU_ASSERT(BROKEN(v.d.unk = 1 << 30, "unk"));
    CU_ASSERT(BROKEN(v.d.pad = 257, "pad"));
    CU_ASSERT(BROKEN(v.d.add_bos = true, "does not name"));
    CU_ASSERT(BROKEN(v.d.add_eos = true, "does not name"));
    CU_ASSERT(BROKEN(token(&v, "a"), "tokens 97 and 257 are the same text"));
    CU_ASSERT(BROKEN((control(&v, "<x>", 0), control(&v, "<x>", 0)), "added tokens 257 and 258 are the same text"));
    CU_ASSERT(BROKEN(token(&v, ""), "token 257 is 0 bytes long"));
    CU_ASSERT(BROKEN(control(&v, "\xff", 0), "token 257 is not UTF-8"));
    CU_ASSERT(BROKEN(add(&v, "xy", 2, CL_TOK_BYTE, 0, 0), "2 bytes long"));
    CU_ASSERT(BROKEN((v.d.score = v.score, v.score[5] = (float)(0.0 / 0.0)), "no number"));
#undef BROKEN
    start_spm(&v, true);
    piece(&v, SPACE, -1);
    CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), CL_OK);
    v.type[3 + 'q'] = CL_TOK_UNUSED;
    CU_ASSERT(bad_data(&v, "255 of 256 byte tokens"));
    v.type[3 + 'q'] = CL_TOK_BYTE;
    v.bytes[v.offset[3 + 'q']] = 'p';
    CU_ASSERT(bad_data(&v, "byte 0x70 has two tokens"));
    start_spm(&v, false);
    v.d.unk = -1;
    CU_ASSERT(bad_data(&v, "neither an unknown token nor byte tokens"));
    start_spm(&v, false);
    v.d.score = NULL;
    CU_ASSERT(bad_data(&v, "neither merges nor scores"));
    start_spm(&v, false);
    piece(&v, "\xc3", -1);
    CU_ASSERT(bad_data(&v, "token 3 is not UTF-8"));
    cl_tokenizer_data_free(NULL);
    cl_tokenizer_free(NULL);
}

int main(void)
{
    CU_TestInfo tests[] = {{"merge order", test_merge_order},
                           {"ids as ranks", test_ids_as_ranks},
                           {"splits", test_splits},
                           {"regexes refused", test_regexes_refused},
                           {"regex limit", test_regex_limit},
                           {"bad text", test_bad_text},
                           {"long piece", test_long_piece},
                           {"added tokens", test_added},
                           {"wrap", test_wrap},
                           {"nfc and prefix", test_nfc_and_prefix},
                           {"spm", test_spm},
                           {"spm, space inside", test_spm_space_inside},
                           {"detok", test_detok},
                           {"round trip", test_round_trip},
                           {"bad data", test_bad_data},
                           CU_TEST_INFO_NULL};
    return run_suite("tokenizer", tests);
}
