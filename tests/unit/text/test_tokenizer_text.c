/* Ids to text, any text back again, and vocabularies that lie. */
#include "suite.h"
#include "tokenizer_vocab.h"

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
#define IDS(...) \
    (int)(sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t)), (int32_t[]) { __VA_ARGS__ }
#define BAD "\xef\xbf\xbd"

static void test_detok(void)
{
    vocab v;
    start_bytes(&v);
    int half = add(&v, "\x9f\xa6", 2, CL_TOK_NORMAL, 0, 0), x = control(&v, "<x>", 0),
        user = add(&v, "<u>", 3, CL_TOK_USER, 0, 0);
    int unused = add(&v, "[PAD]", 5, CL_TOK_UNUSED, 0, 0);
    cl_tokenizer *t = compile(&v);
    int sizes[4];
    cl_buf llama = text_of(t, true, false, (int32_t[]){0xf0, half, 0x99, 'a'}, 4, sizes);
    CU_ASSERT_STRING_EQUAL(llama.data, "\xf0\x9f\xa6\x99"
                                       "a");
    /* whole characters, as soon as they are whole */
    CU_ASSERT(sizes[0] == 0 && sizes[1] == 0 && sizes[2] == 4 && sizes[3] == 1);
    cl_buf_free(&llama);
    CU_ASSERT(shows(t, true, false, "a" BAD, IDS('a', 0xf0, half)));      /* an end that never comes */
    CU_ASSERT(shows(t, true, false, BAD "a", IDS(0xf0, 0x9f, 'a')));      /* one for the longest beginning */
    CU_ASSERT(shows(t, true, false, BAD BAD BAD, IDS(0xff, 0x80, 0xc0))); /* bytes that begin nothing */
    CU_ASSERT(shows(t, true, false, BAD BAD BAD "\xc3\xa9", IDS(0xed, 0xa0, 0x80, 0xc3, 0xa9))); /* a surrogate */
    CU_ASSERT(shows(t, true, false, BAD "\xe2\x82\xac", IDS(0xe2, 0x82, 0xe2, 0x82, 0xac)));
    CU_ASSERT(shows(t, true, false, BAD BAD BAD BAD, IDS(0xf4, 0x90, 0x80, 0x80))); /* over U+10FFFF */
    CU_ASSERT(shows(t, true, false, BAD BAD BAD "a", IDS(0xe0, 0x80, 0x80, 'a')));  /* overlong */
    CU_ASSERT(shows(t, true, false, BAD BAD BAD BAD "a", IDS(0xf0, 0x80, 0x80, 0x80, 'a')));
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
    int sa = piece(&v, SPACE "a", -1), space = piece(&v, SPACE, -1),
        all = add(&v, SPACE "u" SPACE, 7, CL_TOK_USER, 0, 0);
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
    if (c < 0x10000)
        return p[0] = (char)(0xe0 | c >> 12), p[1] = (char)(0x80 | (c >> 6 & 63)), p[2] = (char)(0x80 | (c & 63)), 3;
    return p[0] = (char)(0xf0 | c >> 18), p[1] = (char)(0x80 | (c >> 12 & 63)), p[2] = (char)(0x80 | (c >> 6 & 63)),
           p[3] = (char)(0x80 | (c & 63)), 4;
}

static void check_round_trips(const cl_tokenizer *t, uint64_t seed)
{
    char text[4 * 200];
    static const uint32_t ranges[][2] = {{0, 0x80},       {0x20, 0x7f},      {'a', 'f'},
                                         {' ', '!'},      {'0', '9' + 1},    {0x80, 0x800},
                                         {0x800, 0xd800}, {0xe000, 0x10000}, {0x10000, 0x110000}};
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

static bool bad_data(const vocab *v, const char *message)
{
    cl_err err = {0};
    cl_tokenizer *t = NULL;
    bool ok = cl_tokenizer_data_check(&v->d, &err) == CL_E_INPUT && strcmp(err.msg, message) == 0 &&
              cl_tokenizer_create(&t, &v->d, &err) == CL_E_INPUT && !t;
    if (!ok) fprintf(stderr, "message '%s' instead of '%s'\n", err.msg, message);
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
    CU_ASSERT(BROKEN(v.d.n_tokens = 0, "vocabulary: 0 tokens"));
    CU_ASSERT(BROKEN(v.d.n_tokens = -1, "vocabulary: -1 tokens"));
    CU_ASSERT(BROKEN(v.d.n_merges = -1, "vocabulary: -1 merges"));
    CU_ASSERT(BROKEN(v.d.n_splits = 1000, "vocabulary: 1000 split regexes"));
    CU_ASSERT(BROKEN(v.d.kind = (cl_tok_kind)7, "vocabulary: kind 7 is none"));
    CU_ASSERT(BROKEN(v.offset[0] = 1, "vocabulary: the first token starts at byte 1"));
    CU_ASSERT(BROKEN(v.offset[9] = 1000, "vocabulary: token 9 ends before it starts"));
    CU_ASSERT(BROKEN(v.type[3] = 0, "vocabulary: token 3: type 0 is none"));
    CU_ASSERT(BROKEN(v.type[3] = 7, "vocabulary: token 3: type 7 is none"));
    CU_ASSERT(BROKEN(v.flags[3] = 16, "vocabulary: token 3: flags 16"));
    CU_ASSERT(BROKEN(v.merge[0][0] = 257, "merge 0: token 257 is none of 257"));
    CU_ASSERT(BROKEN(v.merge[0][2] = -1, "merge 0: token -1 is none of 257"));
    CU_ASSERT(BROKEN(v.merge[0][1] = 'c', "merge 0: token 256 is not 97 followed by 99"));
    CU_ASSERT(BROKEN(v.bytes[v.offset[256]] = 'x', "merge 0: token 256 is not 97 followed by 98"));
    CU_ASSERT(BROKEN(v.d.bos = 257, "vocabulary: bos is token 257 of 257"));
    CU_ASSERT(BROKEN(v.d.eos = -2, "vocabulary: eos is token -2 of 257"));
    CU_ASSERT(BROKEN(v.d.unk = 1 << 30, "vocabulary: unk is token 1073741824 of 257"));
    CU_ASSERT(BROKEN(v.d.pad = 257, "vocabulary: pad is token 257 of 257"));
    CU_ASSERT(BROKEN(v.d.add_bos = true, "vocabulary: texts are to be wrapped in tokens that it does not name"));
    CU_ASSERT(BROKEN(v.d.add_eos = true, "vocabulary: texts are to be wrapped in tokens that it does not name"));
    CU_ASSERT(BROKEN(token(&v, "a"), "vocabulary: tokens 97 and 257 are the same text"));
    CU_ASSERT(BROKEN((control(&v, "<x>", 0), control(&v, "<x>", 0)),
                     "vocabulary: added tokens 257 and 258 are the same text"));
    CU_ASSERT(BROKEN(token(&v, ""), "vocabulary: token 257 is 0 bytes long"));
    CU_ASSERT(BROKEN(control(&v, "\xff", 0), "vocabulary: token 257 is not UTF-8"));
    char big[4097];
    memset(big, 'q', sizeof big);
    start_bytes(&v); /* what may just be */
    add(&v, big, sizeof big - 1, CL_TOK_USER, 15, 0);
    char one[] = "a";
    cl_tok_split many[64];
    for (int i = 0; i < 64; i++) many[i].regex = one;
    v.d.splits = many;
    v.d.n_splits = 64;
    v.d.bos = v.d.eos = v.d.unk = v.d.pad = 256;
    CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), CL_OK);
    CU_ASSERT(BROKEN(v.d.n_splits = 65, "vocabulary: 65 split regexes"));
    CU_ASSERT(BROKEN(add(&v, big, sizeof big, CL_TOK_NORMAL, 0, 0), "vocabulary: token 257 is 4097 bytes long"));
    CU_ASSERT(BROKEN(add(&v, "xy", 2, CL_TOK_BYTE, 0, 0), "vocabulary: token 257 is 2 bytes long"));
    CU_ASSERT(
        BROKEN((v.d.score = v.score, v.score[5] = (float)(0.0 / 0.0)), "vocabulary: token 5: its score is no number"));
#undef BROKEN
    start_spm(&v, true);
    piece(&v, SPACE, -1);
    CU_ASSERT_EQUAL(cl_tokenizer_data_check(&v.d, &err), CL_OK);
    v.type[3 + 'q'] = CL_TOK_UNUSED;
    CU_ASSERT(bad_data(&v, "vocabulary: 255 of 256 byte tokens, though unknown characters fall back on them"));
    v.type[3 + 'q'] = CL_TOK_BYTE;
    v.bytes[v.offset[3 + 'q']] = 'p';
    CU_ASSERT(bad_data(&v, "vocabulary: byte 0x70 has two tokens"));
    start_spm(&v, false);
    v.d.unk = -1;
    CU_ASSERT(bad_data(&v, "vocabulary: neither an unknown token nor byte tokens"));
    start_spm(&v, false);
    v.d.score = NULL;
    CU_ASSERT(bad_data(&v, "vocabulary: neither merges nor scores"));
    start_spm(&v, false);
    piece(&v, "\xc3", -1);
    CU_ASSERT(bad_data(&v, "vocabulary: token 3 is not UTF-8"));
    cl_tokenizer_data_free(NULL);
    cl_tokenizer_free(NULL);
}

int main(void)
{
    CU_TestInfo tests[] = {{"detok", test_detok},
                           {"round trip", test_round_trip},
                           {"bad data", test_bad_data},
                           CU_TEST_INFO_NULL};
    return run_suite("tokenizer, text", tests);
}
