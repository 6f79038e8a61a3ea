/* What a conversion says besides: notes, its progress; files of other kinds, paths with signs of formats in them; and
 * the files that `synth` makes. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "chipline/import.h"
#include "chipline/model_file.h"
#include "configs.h"
#include "files.h"
#include "match.h"
#include "rope.h"
#include "suite.h"

/* --- standard error --- */

static int kept_stderr;

static void hear(const folder *f)
{
    fflush(stderr);
    kept_stderr = dup(2);
    int fd = open(in(f, "heard").path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (kept_stderr < 0 || fd < 0 || dup2(fd, 2) < 0) abort();
    close(fd);
}

/* What was written to it; the fixtures' folder is left out. */
static cl_buf heard(const folder *f)
{
    static const char fixtures[] = CL_FIXTURES "/";
    fflush(stderr);
    dup2(kept_stderr, 2);
    close(kept_stderr);
    cl_buf b = read_all(in(f, "heard").path);
    unlink(in(f, "heard").path);
    for (char *at; (at = strstr(b.data, fixtures));) {
        size_t n = sizeof fixtures - 1;
        memmove(at, at + n, strlen(at + n) + 1);
    }
    return b;
}

static void check_notes(const folder *f, const char *src, const cl_convert_options *opt, const char *want)
{
    cl_err err = {0};
    place out = in(f, "m.h5");
    hear(f);
    cl_code c = cl_convert(src, out.path, opt, &err);
    cl_buf b = heard(f);
    CU_ASSERT_EQUAL(c, CL_OK);
    CU_ASSERT_STRING_EQUAL(b.data, want);
    if (c != CL_OK || strcmp(b.data, want) != 0) fprintf(stderr, "%s: %s\n%s", src, err.msg, b.data);
    cl_buf_free(&b);
}

static void test_notes(void)
{
    static const struct {
        const char *src;
        cl_convert_options opt;
        const char *says;
    } cases[] =
        {{"llama_b",
          {.keep = true},
          "chipline: note: llama_b has no tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"llama4_b",
          {.keep = true},
          "chipline: note: 7 vision tensors skipped\nchipline: note: llama4_b has no tokenizer: prompts can only be "
          "given as ids (--tokens)\n"},
         {"deepseek_v3",
          {.keep = true},
          "chipline: note: deepseek_v3 has no tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"deepseek_v3_fp8",
          {.keep = true},
          "chipline: note: 23 tensors of layers past the last one (multi-token prediction) skipped\nchipline: note: 4 "
          "tensors (fp8) became f32: the model needs parts of them that are cut across tiles\nchipline: note: "
          "deepseek_v3_fp8 has no tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"kimi_k2_int4",
          {.keep = true},
          "chipline: note: kimi_k2_int4 has no tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"quant/model_Q4_K.gguf",
          {.keep = true},
          "chipline: note: 8 tensors (q6_k, q4_k, q5_0) re-encoded to q8_0\nchipline: note: quant/model_Q4_K.gguf has "
          "no tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"quant/model_Q6_K.gguf",
          {.keep = true},
          "chipline: note: 6 tensors (q6_k) re-encoded to q8_0\nchipline: note: quant/model_Q6_K.gguf has no "
          "tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"glm4_moe",
          {.keep = true},
          "chipline: note: glm4_moe has no tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"deepseek_v3/model.gguf",
          {.keep = true},
          "chipline: note: deepseek_v3/model.gguf has no tokenizer: prompts can only be given as ids (--tokens)\n"},
         {"kimi_k2_int4",
          {.format = CL_Q8_0},
          "chipline: note: kimi_k2_int4 has no tokenizer: prompts can only be given as ids (--tokens)\n"}};
    folder f = folder_new();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char src[512];
        cl_convert_options opt = cases[i].opt;
        snprintf(src, sizeof src, CL_FIXTURES "/%s", cases[i].src);
        opt.jobs = 1;
        check_notes(&f, src, &opt, cases[i].says);
        opt.quiet = opt.progress = true; /* nothing is said then */
        check_notes(&f, src, &opt, "");
    }
    folder_remove(&f);
}

static void test_progress(void)
{
    folder f = folder_new();
    const cl_convert_options convert = {.keep = true, .jobs = 1, .progress = true};
    const cl_synth_options synth = {.keep = true, .jobs = 1, .progress = true};
    cl_err err;
    place out = in(&f, "m.h5");
    for (int i = 0; i < 2; i++) {
        hear(&f);
        cl_code c = i ? cl_synth(CL_FIXTURES "/llama_b/config.json", out.path, &synth, &err)
                      : cl_convert(CL_FIXTURES "/llama_b", out.path, &convert, &err);
        cl_buf b = heard(&f);
        CU_ASSERT_EQUAL(c, CL_OK);
        const char *said_so = i ? "synth: " : "convert: 353 kB in ", *at = strstr(b.data, said_so);
        CU_ASSERT(at && (at == b.data || at[-1] == '\n'));
        if (!at) fprintf(stderr, "%s", b.data);
        cl_buf_free(&b);
    }
    folder_remove(&f);
}

/* Experts with a router in blocks; a vocabulary and a head that differ from what the configuration says. */
static void test_made_notes(void)
{
    folder f = folder_new();
    place gguf = in(&f, "m.gguf");
    const cl_convert_options keep = {.keep = true, .jobs = 1};
    gguf_file g = {0};
    tiny_metadata(&g, 4);
    g_kv_u32(&g, "llama.vocab_size", TINY_VOCAB + 1);
    tiny_tensors(&g, CL_Q4_1);
    g_made(&g, "blk.0.ffn_gate_inp.weight", CL_Q8_0, 0, 4, TINY_HIDDEN);
    g_made(&g, "blk.0.ffn_gate_exps.weight", CL_Q8_0, 4, TINY_WIDTH, TINY_HIDDEN);
    g_made(&g, "blk.0.ffn_up_exps.weight", CL_Q8_0, 4, TINY_WIDTH, TINY_HIDDEN);
    g_made(&g, "blk.0.ffn_down_exps.weight", CL_Q8_0, 4, TINY_HIDDEN, TINY_WIDTH);
    g_write(&g, gguf.path);
    char want[1024];
    snprintf(want, sizeof want,
             "chipline: note: token_embd.weight has 40 rows, the configuration says 41: the rows count\nchipline: "
             "note: 1 router (q8_0) became f32: routers have float formats\n"
             "chipline: note: %s has no tokenizer: prompts can only be given as ids (--tokens)\n",
             gguf.path);
    check_notes(&f, gguf.path, &keep, want);
    folder_remove(&f);
}

/* --- what is no configuration --- */

static void test_kinds(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {{"GGUF and more", "FOLDER/config.json: is a GGUF file, not a config.json"},
                 {"\x89HDF\r\n", "FOLDER/config.json: is an HDF5 file, not a config.json"},
                 {"GGU", "FOLDER/config.json: not valid JSON"},
                 {"GGUE", "FOLDER/config.json: not valid JSON"},
                 {"", "FOLDER/config.json: not valid JSON"}};
    folder f = folder_new();
    place p = in(&f, "config.json");
    cl_err err;
    const int free_first = dup(0);
    close(free_first);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int whole = 0; whole < 2; whole++) {
            cl_spec s;
            cl_formats formats;
            write_text(p.path, cases[i].text);
            CU_ASSERT_EQUAL(cl_import_config(whole ? f.path : p.path, &s, &formats, &err), CL_E_INPUT);
            CU_ASSERT(says(&err, cases[i].says + strlen("FOLDER")));
        }
    unlink(p.path);
    const int free_now = dup(0);
    CU_ASSERT_EQUAL(free_now, free_first); /* no file stays open */
    close(free_now);
    char *text = NULL;
    json_t *config = json_integer(1), *mine = config; /* whatever was there is not touched */
    const cl_family *family;
    cl_spec s;
    CU_ASSERT_EQUAL(cl_config_load(p.path, &text, &config, &s, &family, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "config.json: ") && !config);
    CU_ASSERT_EQUAL(cl_config_load(f.path, &text, &config, &s, &family, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "has no config.json (give a folder as the hub has them)") && !config);
    CU_ASSERT_EQUAL(json_integer_value(mine), 1);
    json_decref(mine);
    folder_remove(&f);
}

/* Messages name a path as it is. */
static void test_percent(void)
{
    folder f = folder_new();
    place dir = in(&f, "100%s %d%n"), out = in(&f, "m%s.h5");
    const cl_convert_options keep = {.keep = true, .jobs = 1, .quiet = true};
    folder inner = f;
    cl_err err = {0};
    strcat(inner.path, "/100%s %d%n");
    CU_ASSERT_EQUAL_FATAL(mkdir(dir.path, 0700), 0);
    char whole[512];
    snprintf(whole, sizeof whole, "%s,\"model_type\":\"llama\"}", base);
    const char *const files[][2] =
        {{NULL, NULL},           {"config.json", "{"},       {"config.json", "{\"model_type\":\"llama\"}"},
         {"config.json", whole}, {"model.safetensors", "x"}, {"model.safetensors", NULL},
         {"m.gguf", "GGUF"},     {"m.gguf", "GGUF\3\0\0"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *name = files[i][0], *text = files[i][1];
        if (text) write_text(in(&inner, name).path, text);
        else if (name) { /* a matrix without its scales */ st_file st = {0};
            st_tensor(&st, "a", "F8_E4M3", 2, (int64_t[]){2, 2}, "1234", 4);
            st_write(&st, in(&inner, name).path);
        }
        const bool gguf = name && strcmp(name, "m.gguf") == 0;
        CU_ASSERT_EQUAL(cl_convert(gguf ? in(&inner, name).path : dir.path, out.path, &keep, &err), CL_E_INPUT);
        CU_ASSERT_EQUAL(strncmp(err.msg, dir.path, strlen(dir.path)), 0);
        CU_ASSERT(says(&err, "100%s %d%n"));
    }
    folder_remove(&inner);
    folder_remove(&f);
}

/* --- synth --- */

static const char mixture[] =
    "{\"model_type\":\"mixtral\",\"vocab_size\":40,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":"
    "4,"
    "\"num_key_value_heads\":2,\"intermediate_size\":32,\"max_position_embeddings\":64,\"num_local_experts\":3,"
    "\"num_experts_per_tok\":2,\"torch_dtype\":\"float16\"}";

/* Formats, where it says it is from, the configuration's text; what it draws, whatever number of threads. */
static void test_synth(void)
{
    static const struct {
        cl_synth_options opt;
        cl_format matrices, routers;
        uint64_t sum;
    } cases[] =
        {{{.keep = true, .jobs = 1, .quiet = true}, CL_F16, CL_F16, 0x2a21c27723d44005},
         {{.format = CL_Q8_0, .jobs = 3, .quiet = true, .seed = 7}, CL_Q8_0, CL_F16, 0x3f6b00e062d7cb2a},
         {{.format = CL_F32, .jobs = 0, .quiet = true}, CL_F32, CL_F32, 0x784adc0a9a383a9f},
         {{.format = CL_FP8, .jobs = 1000, .quiet = true}, CL_FP8, CL_F16, 0xc0ae9a9b3351e3ad},
         {{.format = CL_BF16, .jobs = 2, .quiet = true, .creator = "me"}, CL_BF16, CL_BF16, 0x1438a8ba173406dc}};
    folder f = folder_new();
    place config = in(&f, "config.json"), out = in(&f, "m.h5");
    write_text(config.path, mixture);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_model_file *m = NULL;
        cl_err err = {0};
        char *text = NULL;
        CU_ASSERT_EQUAL_FATAL(cl_synth(config.path, out.path, &cases[i].opt, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&m, out.path, &err), CL_OK);
        CU_ASSERT_STRING_EQUAL(cl_model_file_source(m), "random weights (chipline synth)");
        CU_ASSERT_EQUAL_FATAL(cl_model_file_source_config(m, &text, &err), CL_OK);
        CU_ASSERT_STRING_EQUAL(text, mixture);
        free(text);
        const cl_model *model = cl_model_file_model(m);
        for (int k = 0; k < model->n_tensors; k++) {
            const cl_tensor *t = &model->tensors[k];
            CU_ASSERT_EQUAL(t->format, t->role == CL_T_ROUTER       ? cases[i].routers
                                       : cl_role_is_matrix(t->role) ? cases[i].matrices
                                                                    : CL_F32);
        }
        CU_ASSERT_EQUAL(cl_model_file_checksum(m), cases[i].sum);
        if (cl_model_file_checksum(m) != cases[i].sum)
            fprintf(stderr, "SUM%zu 0x%016llx\n", i, (unsigned long long)cl_model_file_checksum(m));
        cl_model_file_close(m);
    }
    const cl_synth_options opt = {.keep = true, .jobs = 1, .quiet = true};
    cl_err err = {0};
    CU_ASSERT_EQUAL(cl_synth(config.path, config.path, &opt, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "config.json: is a file of the source (give another name after -o)"));
    CU_ASSERT_EQUAL(cl_synth(f.path, config.path, &opt, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "config.json: is a file of the source (give another name after -o)"));
    CU_ASSERT_EQUAL(cl_synth(config.path, in(&f, "none/m.h5").path, &opt, &err), CL_E_INPUT);
    CU_ASSERT(says(&err, "none/m.h5: cannot be written"));
    CU_ASSERT_EQUAL(folder_entries(&f, false), 2); /* no half a file */
    folder_remove(&f);
}

/* Weights of every kind: one family has sinks, others norms of heads, biases, low-rank queries. */
static void test_synth_families(void)
{
    static const struct {
        const char *name;
        uint64_t sum;
    } cases[] = {{"gpt_oss", 0xc6d79ae623c61104}, {"deepseek_v3", 0x59cb4be305724505}, {"qwen2", 0x8f1d144c3925333d},
                 {"llama4", 0xc3f9a4c5ef9ee707},  {"minimax_m2", 0x3d6793d371bd953a},  {"llama_b", 0x537e9e7c9861c9da}};
    folder f = folder_new();
    place out = in(&f, "m.h5");
    const cl_synth_options opt = {.keep = true, .jobs = 2, .quiet = true, .seed = 11};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char src[512];
        cl_model_file *m = NULL;
        cl_err err = {0};
        snprintf(src, sizeof src, CL_FIXTURES "/%s/config.json", cases[i].name);
        CU_ASSERT_EQUAL_FATAL(cl_synth(src, out.path, &opt, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(cl_model_file_open(&m, out.path, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_model_file_checksum(m), cases[i].sum);
        if (cl_model_file_checksum(m) != cases[i].sum)
            fprintf(stderr, "F%zu 0x%016llx\n", i, (unsigned long long)cl_model_file_checksum(m));
        cl_model_file_close(m);
    }
    folder_remove(&f);
}

/* A file that cannot grow: told so, and nothing of it is left. */
static void test_synth_full(void)
{
    folder f = folder_new();
    const cl_synth_options opt = {.format = CL_F32, .jobs = 1, .quiet = true};
    struct rlimit old, small;
    cl_err err = {0};
    place config = in(&f, "config.json"), out = in(&f, "m.h5");
    write_text(config.path, mixture);
    CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old, small.rlim_cur = 20000;
    signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &small), 0);
    cl_code c = cl_synth(config.path, out.path, &opt, &err);
    CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &old), 0);
    CU_ASSERT_NOT_EQUAL(c, CL_OK);
    CU_ASSERT_EQUAL(strncmp(err.msg, out.path, strlen(out.path)), 0);
    CU_ASSERT_EQUAL(folder_entries(&f, false), 1);
    folder_remove(&f);
}

/* --- names --- */

static void test_names(void)
{
    static const struct {
        const char *pattern, *name;
    } cases[] = {{"a.%L.b", "a.12.b"}, {"%E.%L", "345.12"}, {"a%", "a%"}, {"a%x%", "a%x%"}, {"%%L", "%12"}, {"", ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[32];
        size_t n = strlen(cases[i].name);
        for (size_t room = 1; room < sizeof out; room++) {
            memset(out, '#', sizeof out);
            CU_ASSERT_EQUAL(cl_name_fill(cases[i].pattern, 12, 345, out, room), n < room);
            if (n < room) CU_ASSERT_STRING_EQUAL(out, cases[i].name);
            CU_ASSERT_EQUAL(out[room], '#');
        }
    }
    CU_ASSERT(cl_name_per_expert("a.%E") && !cl_name_per_expert("a.%L"));
    CU_ASSERT(cl_name_ignored("rope_freqs.weight") && cl_name_ignored("x.rope_freqs.weight"));
    CU_ASSERT(cl_name_ignored("rotary_emb.inv_freq") && cl_name_ignored("model.layers.0.rotary_emb.inv_freq"));
    CU_ASSERT(!cl_name_ignored("freqs.weight") && !cl_name_ignored("rope_freqs.weight.x") && !cl_name_ignored(""));
}

/* --- rotary tables that cannot be --- */

static void test_ropes(void)
{
    static const cl_rope_params good = {.kind = CL_ROPE_YARN,
                                        .dims = 4,
                                        .theta = 100,
                                        .factor = 2,
                                        .original_context = 8,
                                        .low_freq = 1,
                                        .high_freq = 2,
                                        .beta_fast = 4,
                                        .beta_slow = 1};
    const double odd[] = {0, -1, NAN, INFINITY};
    cl_err err = {0};
    cl_rope r;
    for (int kind = CL_ROPE_LINEAR; kind <= CL_ROPE_YARN; kind++)
        for (int k = 0; k < 8; k++)
            for (int i = 0; i < 4; i++) {
                cl_rope_params p = good;
                double *const numbers[] = {&p.theta,     &p.factor,    &p.original_context, &p.low_freq,
                                           &p.high_freq, &p.beta_fast, &p.beta_slow,        &p.attention_factor};
                p.kind = (cl_rope_kind)kind;
                *numbers[k] = odd[i];
                cl_code c = cl_rope_make(&p, &r, &err);
                if (c == CL_OK) {
                    char text[128];
                    snprintf(text, sizeof text, "%d %d %d %.6g %.6g %.6g", kind, k, i, r.scale, r.inv_freq[0],
                             r.inv_freq[1]);
                    note_said(text);
                    free(r.inv_freq);
                } else CU_ASSERT(c == CL_E_INPUT && says(&err, ""));
            }
    for (int dims = -2; dims < 6; dims++) {
        cl_rope_params p = good;
        p.dims = dims;
        cl_code c = cl_rope_make(&p, &r, &err);
        CU_ASSERT_EQUAL(c, dims == 2 || dims == 4 ? CL_OK : CL_E_INPUT);
        if (c == CL_OK) free(r.inv_freq);
        else CU_ASSERT(says(&err, "rotary embedding needs an even number"));
    }
}

static void test_said(void) { said_is(0xbc09f43f); }

int main(void)
{
    CU_TestInfo tests[] = {{"notes", test_notes},
                           {"notes on made-up files", test_made_notes},
                           {"progress", test_progress},
                           {"files of other kinds", test_kinds},
                           {"paths with percent signs", test_percent},
                           {"synth", test_synth},
                           {"synth, every kind of weight", test_synth_families},
                           {"synth, a disk that is full", test_synth_full},
                           {"names", test_names},
                           {"rotary tables", test_ropes},
                           {"messages, word by word", test_said},
                           CU_TEST_INFO_NULL};
    return run_suite("notes", tests);
}
