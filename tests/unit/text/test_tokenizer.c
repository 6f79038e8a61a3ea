/* Text to ids on vocabularies small enough to think through; the families' real pipelines are in
 * import/test_tok_vectors.c. */
#include <stdarg.h>
#include <time.h>

#include "suite.h"
#include "tokenizer_vocab.h"

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

static bool refuses(const cl_tokenizer *t, const char *text, size_t n, const char *message)
{
    int32_t *ids = NULL;
    int k = 0;
    cl_err err = {0};
    cl_code c = cl_tokenizer_encode(t, text, n, true, true, &ids, &k, &err);
    bool ok = c == CL_E_INPUT && !ids && k == 0 && strcmp(err.msg, message) == 0;
    if (!ok) fprintf(stderr, "code %d, message '%s' instead of '%s'\n", (int)c, err.msg, message);
    free(ids);
    return ok;
}

/* --- byte-level BPE --- */

static void test_merge_order(void)
{
    vocab v;
    start_bytes(&v);
    int bc = merge(&v, "b", "c"), ab = merge(&v, "a", "b"), aa = merge(&v, "a", "a"), abc = merge(&v, "a", "bc"),
        aaaa = merge(&v, "aa", "aa");
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "", -1));
    CU_ASSERT(gives(t, "ab", ab));
    CU_ASSERT(gives(t, "abc", abc));     /* b c goes first, a b never happens */
    CU_ASSERT(gives(t, "aaa", aa, 'a')); /* leftmost first */
    CU_ASSERT(gives(t, "aaaa", aaaa));
    CU_ASSERT(gives(t, "aaaaa", aaaa, 'a'));
    CU_ASSERT(gives(t, "aaab", aa, ab)); /* a b before a a */
    CU_ASSERT(gives(t, "aabc", aa, bc)); /* a a before a bc */
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
    int bc = token(&v, "bc"), ab = token(&v, "ab"), abcd = token(&v, "abcd"), cd = token(&v, "cd"),
        no = token(&v, "xyz");
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
    int aa = merge(&v, "a", "a"), d12 = merge(&v, "1", "2"), a1 = merge(&v, "a", "1"), spaces = merge(&v, " ", " "),
        mongol = merge(&v, "\xe1", "\xa0");
    split(&v, "\\p{N}");
    split(&v, " ?a+|\\s+(?!\\S)");
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "aa12", aa, '1', '2'));     /* every number alone */
    CU_ASSERT(gives(t, "a1", 'a', '1'));           /* nothing merges across a cut */
    CU_ASSERT(gives(t, "   aa", spaces, ' ', aa)); /* gaps are pieces too; " aa" is one piece */
    CU_ASSERT(gives(t,
                    "\xc2\xbd"
                    "aa",
                    0xc2, 0xbd, aa)); /* one half is a number as well */
    /* U+180E is no space in today's Unicode: two of them are a gap, and their first two bytes merge */
    CU_ASSERT(gives(t, "\xe1\xa0\x8e\xe1\xa0\x8e", mongol, 0x8e, mongol, 0x8e));
    cl_tokenizer_free(t);
    v.d.n_splits = 0;
    t = compile(&v);
    CU_ASSERT(gives(t, "aa12", aa, d12));
    CU_ASSERT(gives(t, "ba1", 'b', a1));
    cl_tokenizer_free(t);

    start_bytes(&v); /* what is in round brackets is no cut of its own */
    int ab = merge(&v, "a", "b");
    split(&v, "(a)(b)c?");
    t = compile(&v);
    CU_ASSERT(gives(t, "abababc", ab, ab, ab, 'c'));
    cl_tokenizer_free(t);

    start_bytes(&v); /* $ matches at the end of every line */
    merge(&v, "a", "a");
    split(&v, "a$");
    t = compile(&v);
    CU_ASSERT(gives(t, "aa\naa", 'a', 'a', '\n', 'a', 'a'));
    cl_tokenizer_free(t);

    static const char *const words[] = {"[^\\s]+", "\\S+"}; /* spaces are cut off: U+0085, U+00A0, U+2003, U+3000 */
    for (int i = 0; i < 2; i++) {
        start_bytes(&v);
        int a0 = merge(&v, "a", "\xc2"), mongol_a = merge(&v, "a", "\xe1");
        merge(&v, "a", "\xe2");
        merge(&v, "a", "\xe3");
        split(&v, words[i]);
        t = compile(&v);
        CU_ASSERT(gives(t,
                        "a\xc2\x85"
                        "a\xc2\xa0",
                        'a', 0xc2, 0x85, 'a', 0xc2, 0xa0));
        CU_ASSERT(gives(t,
                        "a\xe2\x80\x83"
                        "a\xe3\x80\x80",
                        'a', 0xe2, 0x80, 0x83, 'a', 0xe3, 0x80, 0x80));
        CU_ASSERT(gives(t,
                        "a\xc2\xa9"
                        "a\xe1\xa0\x8e",
                        a0, 0xa9, mongol_a, 0xa0, 0x8e)); /* not U+00A9, nor U+180E */
        cl_tokenizer_free(t);
    }
}

/* What Oniguruma and PCRE2 read differently is refused, and so is what neither reads. */
static void test_regexes_refused(void)
{
    static const struct {
        const char *regex, *part; /* NULL: PCRE2 says what is wrong */
    } bad[] = {{"\\w+", "\\w"},
               {"a\\W", "\\W"},
               {"\\h", "\\h"},
               {"\\b", "\\b"},
               {"\\A", "\\A"},
               {"\\1", "\\1"},
               {"\\x41", "\\x"},
               {"\\u0041", "\\u"},
               {"\\R", "\\R"},
               {"\\", "\\"},
               {"[\\S]", "\\S"},
               {"[\\w]", "\\w"},
               {"[a[b]]", "[b"},
               {"[a&&b]", "&&"},
               {"[]a]", "[]"},
               {"[^]a]", "[^]"},
               {"b[a", "["},
               {"[^a", "["},
               {"[", "["},
               {"(?m:a)", "(?m:"},
               {"(?s)a", "(?s)"},
               {"(?i)a", "(?i)"},
               {"(?<name>a)", "(?<n"},
               {"(?P<n>a)", "(?P<"},
               {"a{1,3}+", "{1,3}+"},
               {"a{x}", "{x}"},
               {"a{1,3", "{"},
               {"\\pL", "\\p"},
               {"\\p{L", "\\p"},
               {"\\p{}", "\\p{}"},
               {"\\p{L1}", "\\p{L1}"},
               {"\\p{Abcdefghijklmnopqrstuvwxyzabc}", "\\p{Abcdefghijklmnopqrstuvwxyzabc}"},
               {"\\x{4e0g}", "\\x{4e0g}"},
               {"[\\p{L}&&a]", "&&"},
               {"[\\p{L}&&[a]]", "&&"},
               {"[a&&[^b]]", "&&"},
               {"[\\p{L}&&[^b]c]", "["},
               {"[\\p{L}&&[^b&&c]]", "&&"},
               {"[\\p{L}&&[^b[c]]]", "[c"},
               {"[\\p{L}&&[^\\w]]", "\\w"},
               {"[\\p{L}&&[^b", "["},
               {"\\p{Alpha}", NULL},
               {"a)", NULL},
               {"(a", NULL},
               {"*", NULL}};
    vocab v;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cl_tokenizer *t = NULL;
        cl_err err = {0};
        char want[200];
        start_bytes(&v);
        split(&v, bad[i].regex);
        int n = snprintf(want, sizeof want, "split regex %s: ", bad[i].regex);
        if (bad[i].part) snprintf(want + n, sizeof want - (size_t)n, "%s is not understood", bad[i].part);
        CU_ASSERT_EQUAL(cl_tokenizer_create(&t, &v.d, &err), CL_E_INPUT);
        CU_ASSERT_PTR_NULL(t);
        bool same = bad[i].part ? strcmp(err.msg, want) == 0 : strncmp(err.msg, want, (size_t)n) == 0 && err.msg[n];
        if (!same) fprintf(stderr, "'%s' instead of '%s'\n", err.msg, want);
        CU_ASSERT(same);
        CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), CL_E_INPUT);
    }
}

/* How long one may be, and which bytes it may have. */
static void test_regex_size(void)
{
    enum { MOST = 1 << 16 };
    static char regex[MOST + 2];
    for (int more = 0; more < 2; more++) {
        vocab v;
        cl_err err = {0};
        start_bytes(&v);
        memset(regex, 'a', MOST + (size_t)more - 1);
        regex[0] = '['; /* one class, for PCRE2 has limits of its own */
        regex[MOST + more - 1] = ']';
        split(&v, regex);
        CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), more ? CL_E_INPUT : CL_OK);
        CU_ASSERT_STRING_EQUAL(err.msg, more ? "split regex: longer than 65536 bytes" : "");
        v.splits[0].regex = (char[]){"ab\xff"};
        CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), CL_E_INPUT);
        CU_ASSERT_STRING_EQUAL(err.msg, "split regex: byte 2 is not UTF-8");
    }
}

/* A long piece takes an expression that has to remember its way more memory than a machine code's first stack. */
static void test_regex_stack(void)
{
    enum { N = 20000 };
    vocab v;
    start_bytes(&v);
    split(&v, "(?:a|bc)+\\p{N}");
    cl_tokenizer *t = compile(&v);
    char *text = malloc(N);
    int32_t *ids = NULL;
    int n = 0;
    cl_err err = {0};
    memset(text, 'a', N);
    text[N - 1] = '1';
    CU_ASSERT_EQUAL_FATAL(cl_tokenizer_encode(t, text, N, true, false, &ids, &n, &err), CL_OK);
    CU_ASSERT(n == N && ids[0] == 'a' && ids[N - 1] == '1');
    free(ids);
    free(text);
    cl_tokenizer_free(t);
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
    CU_ASSERT(refuses(t, text, sizeof text,
                      "text: the split regex gave up near byte 0 of a piece of 80: match limit exceeded"));
    CU_ASSERT(gives(t, "aa1", 'a', 'a', '1'));
    cl_tokenizer_free(t);
}

static void test_bad_text(void)
{
    static const struct {
        const char *text;
        size_t n;
        const char *part;
    } bad[] = {{"abc\xff", 4, "text: byte 3 (0xff) is not UTF-8"},
               {"\xc3", 1, "text: byte 0 (0xc3) is not UTF-8"},
               {"a\xc0\x80", 3, "text: byte 1 (0xc0) is not UTF-8"},
               {"\xed\xa0\x80", 3, "text: byte 0 (0xed) is not UTF-8"},
               {"\xf4\x90\x80\x80", 4, "text: byte 0 (0xf4) is not UTF-8"},
               {"ok \xe2\x82", 5, "text: byte 3 (0xe2) is not UTF-8"},
               {"\x80", 1, "text: byte 0 (0x80) is not UTF-8"}};
    vocab v;
    start_bytes(&v);
    cl_tokenizer *t = compile(&v);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CU_ASSERT(refuses(t, bad[i].text, bad[i].n, bad[i].part));
    cl_tokenizer_free(t);
    v.type[4] = CL_TOK_UNUSED; /* SmolLM2's vocabulary misses some control characters */
    t = compile(&v);
    CU_ASSERT(refuses(t,
                      "a\x04"
                      "b",
                      3, "text: this vocabulary has no token for byte 0x04 (take the character out)"));
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
    int x = control(&v, "<x>", 0), xy = control(&v, "<x>y", 0), l = control(&v, "<l>", CL_TOK_LSTRIP),
        r = control(&v, "<r>", CL_TOK_RSTRIP);
    int w = add(&v, "ab", 2, CL_TOK_USER, CL_TOK_SINGLE_WORD, 0),
        nfd = add(&v, "\xc3\xa9!", 3, CL_TOK_USER, CL_TOK_NORMALIZED, 0);
    v.d.nfc = true;
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "<x>", x));
    CU_ASSERT(gives(t, "<x>y<x><x", xy, x, '<', 'x')); /* the longest */
    CU_ASSERT(gives(t, "a \n<l> b", 'a', l, ' ', 'b'));
    CU_ASSERT(gives(t, "a <r>\xe3\x80\x80 b", 'a', ' ', r, 'b'));
    CU_ASSERT(gives(t, "<r> <l>", r, l)); /* the space is used once */
    CU_ASSERT(gives(t, "ab ab.", w, ' ', w, '.'));
    CU_ASSERT(gives(t, "abc xab a_ab", 'a', 'b', 'c', ' ', 'x', 'a', 'b', ' ', 'a', '_', 'a', 'b'));
    CU_ASSERT(gives(t,
                    "\xc3\xa9"
                    "ab",
                    0xc3, 0xa9, 'a', 'b')); /* a letter before it */
    CU_ASSERT(gives(t, "e\xcc\x81!", nfd)); /* found once the text is normalised */
    /* control tokens only when they are asked for */
    CU_ASSERT(gives_n(t, "<x>ab", 5, false, false, '<', 'x', '>', w, -1));
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<x>"), x);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<x>y"), xy);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "<x"), -1);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, ""), -1);
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "q"), 'q');
    CU_ASSERT_EQUAL(cl_tokenizer_find(t, "\xc3\xa9!"), nfd);
    CU_ASSERT_PTR_EQUAL(cl_tokenizer_get_data(t), &v.d);
    cl_tokenizer_free(t);
    v.type['q'] = CL_TOK_USER; /* a byte that is an added token as well stays a byte inside a word */
    v.flags['q'] = CL_TOK_SINGLE_WORD;
    t = compile(&v);
    CU_ASSERT(gives(t, "xqx q", 'x', 'q', 'x', ' ', 'q'));
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
    char marks[2 * 4097];
    for (int i = 0; i < 4097; i++) memcpy(marks + 2 * i, i % 2 ? "\xcc\x81" : "\xcc\xa7", 2);
    CU_ASSERT(refuses(t, marks, sizeof marks, "text: more than 4096 combining marks in a row"));
    int32_t *ids = NULL;
    int n = 0;
    cl_err err;
    CU_ASSERT_EQUAL(cl_tokenizer_encode(t, marks, sizeof marks - 2, true, false, &ids, &n, &err), CL_OK);
    CU_ASSERT_EQUAL(n, 2 * 4096);
    free(ids);
    char decomposed[3 * 5000]; /* as many, but each on its own letter */
    for (int i = 0; i < 5000; i++) memcpy(decomposed + 3 * i, "e\xcc\x81", 3);
    CU_ASSERT_EQUAL(cl_tokenizer_encode(t, decomposed, sizeof decomposed, true, false, &ids, &n, &err), CL_OK);
    CU_ASSERT(n == 2 * 5000 && ids[0] == 0xc3 && ids[9999] == 0xa9);
    free(ids);
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
    int ab = piece(&v, "ab", -1), sa = piece(&v, SPACE "a", -2), sab = piece(&v, SPACE "ab", -3),
        ss = piece(&v, SPACE SPACE, -4), aba = piece(&v, "aba", -1);
    int byte0 = 3;
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "", -1));
    CU_ASSERT(gives(t, "a", sa));
    CU_ASSERT(gives(t, "ab", sab));
    CU_ASSERT(gives(t, "ab ab", sab, sab));
    CU_ASSERT(gives(t, "  ", ss, space));
    CU_ASSERT(gives(t, " a", space, sa));   /* the prefix comes first */
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

    start_spm(&v, true); /* equal scores: the leftmost, whatever the ids */
    space = piece(&v, SPACE, -9);
    a = piece(&v, "a", -9);
    b = piece(&v, "b", -9);
    int c = piece(&v, "c", -9);
    piece(&v, "bc", -5);
    ab = piece(&v, "ab", -5);
    t = compile(&v);
    CU_ASSERT(gives(t, "abc", space, ab, c));
    cl_tokenizer_free(t);

    start_spm(&v, false); /* unknown characters are one unknown token in a row */
    space = piece(&v, SPACE, -9);
    a = piece(&v, "a", -9);
    t = compile(&v);
    CU_ASSERT(gives(t, "xyaz a", space, v.d.unk, a, v.d.unk, space, a));
    cl_tokenizer_free(t);

    start_spm(&v, false); /* spaces too: the run goes on from word to word */
    a = piece(&v, "a", -9);
    t = compile(&v);
    CU_ASSERT(gives(t, "x y a  x", v.d.unk, a, v.d.unk));
    CU_ASSERT(gives(t, "a", v.d.unk, a));
    cl_tokenizer_free(t);
}

/* A token with a space inside: words cannot be merged one by one, and are not. */
static void test_spm_space_inside(void)
{
    vocab v;
    start_spm(&v, true);
    int space = piece(&v, SPACE, -9), a = piece(&v, "a", -9), as = piece(&v, "a" SPACE, -1),
        asa = piece(&v, "a" SPACE "a", -2);
    cl_tokenizer *t = compile(&v);
    CU_ASSERT(gives(t, "a a", space, asa));
    CU_ASSERT(gives(t, "a  a", space, as, space, a));
    cl_tokenizer_free(t);
}

int main(void)
{
    CU_TestInfo tests[] = {{"merge order", test_merge_order},
                           {"ids as ranks", test_ids_as_ranks},
                           {"splits", test_splits},
                           {"regexes refused", test_regexes_refused},
                           {"regex size", test_regex_size},
                           {"regex stack", test_regex_stack},
                           {"regex limit", test_regex_limit},
                           {"bad text", test_bad_text},
                           {"long piece", test_long_piece},
                           {"added tokens", test_added},
                           {"wrap", test_wrap},
                           {"nfc and prefix", test_nfc_and_prefix},
                           {"spm", test_spm},
                           {"spm, space inside", test_spm_space_inside},
                           CU_TEST_INFO_NULL};
    return run_suite("tokenizer", tests);
}
