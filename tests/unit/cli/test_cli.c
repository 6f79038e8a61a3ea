/* Command lines: words become options, mistakes become messages; what --help says of defaults is what they are. */
#include <stdio.h>
#include <stdlib.h>

#include "columns.h"
#include "options.h"
#include "run_cli.h"
#include "suite.h"

typedef struct toy {
    cl_err *err;
    const char *name, *model;
    int number, checked, ran;
    bool flag, named;
} toy;

static toy last; /* as it was when the command ran */

static const struct argp_option toy_options[] = {{"number", 'n', "N", 0, "a number", 0},
                                                 {"flag", 256, NULL, 0, "a flag", 0},
                                                 {"name", 257, "NAME", OPTION_ARG_OPTIONAL, "a name, or none", 0},
                                                 {"former", 257, "NAME", OPTION_HIDDEN, "as it was called before", 0},
                                                 {0}};

static error_t toy_parse(int key, char *arg, struct argp_state *st)
{
    toy *o = st->input;
    switch (key) {
    case 'n': return cli_int(o->err, "-n", arg, 1, 9, &o->number);
    case 256: o->flag = true; return 0;
    case 257:
        o->named = true;
        o->name = arg;
        return 0;
    case ARGP_KEY_ARG: return cli_argument(o->err, "MODEL", arg, &o->model);
    default: return ARGP_ERR_UNKNOWN;
    }
}

static cl_code toy_check(void *own, const cli_call *call)
{
    toy *o = own;
    o->checked = call->argc;
    return o->model && strcmp(o->model, "bad") == 0 ? cl_fail(o->err, CL_E_INPUT, "bad: is bad") : CL_OK;
}

static cl_code toy_run(void *own, const cli_call *call)
{
    toy *o = own;
    o->ran = 1;
    last = *o;
    return CL_OK;
}

static const cli_command command_toy = {.name = "toy",
                                        .argp = {.options = toy_options, .parser = toy_parse, .args_doc = "MODEL"},
                                        .size = sizeof(toy),
                                        .defaults = &(const toy){.number = 7},
                                        .check = toy_check,
                                        .run = toy_run};

/* Runs `toy WORDS` (separated by blanks) with stderr in said. */
static int call(const char *words, char said[512])
{
    static char copy[256]; /* `last` points to words of it */
    char *argv[16] = {"toy"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) argv[argc++] = w;
    char *text = NULL;
    size_t n;
    FILE *was = stderr, *now = open_memstream(&text, &n);
    last = (toy){0};
    stderr = now;
    int code = cli_main(&command_toy, argc, argv);
    stderr = was;
    fclose(now);
    snprintf(said, 512, "%s", text);
    free(text);
    return code;
}

static void test_words(void)
{
    char said[512];
    CU_ASSERT(call("m.h5", said) == 0 && last.ran && last.number == 7 && !last.flag && !last.named && !*said);
    CU_ASSERT_STRING_EQUAL(last.model, "m.h5");
    CU_ASSERT(call("-n 3 m.h5 --flag", said) == 0 && last.number == 3 && last.flag && last.checked == 5);
    CU_ASSERT(call("-n3 --number=4 m.h5", said) == 0 && last.number == 4);
    CU_ASSERT(call("--flag -- --flag", said) == 0 && last.flag && strcmp(last.model, "--flag") == 0);
    CU_ASSERT(call("-", said) == 0 && strcmp(last.model, "-") == 0);
    /* a value that may lack is the next word, unless that is an option */
    CU_ASSERT(call("--name x m.h5", said) == 0 && last.named && strcmp(last.name, "x") == 0 && last.model);
    CU_ASSERT(call("m.h5 --name", said) == 0 && last.named && !last.name);
    CU_ASSERT(call("--name --flag", said) == 0 && last.named && !last.name && last.flag && !last.model);
    CU_ASSERT(call("--name=--flag", said) == 0 && strcmp(last.name, "--flag") == 0 && !last.flag);
    CU_ASSERT(call("--former y", said) == 0 && strcmp(last.name, "y") == 0);
}

static void test_mistakes(void)
{
    static const struct {
        const char *words, *says;
        int code;
    } cases[] = {{"--numbr 3", "--numbr: unknown option (did you mean --number?)", CL_E_USAGE},
                 {"--forme 3", "--forme: unknown option (toy --help lists them)", CL_E_USAGE}, /* hidden, not advised */
                 {"-z", "-z: unknown option", CL_E_USAGE},
                 {"--num 3", "--num: unknown option", CL_E_USAGE}, /* no abbreviations */
                 {"-n", "-n: needs a value: N", CL_E_USAGE},
                 {"--former", "--former: needs a value: NAME", CL_E_USAGE},
                 {"-n x", "-n: 'x' is not a whole number", CL_E_USAGE},
                 {"-n 10", "-n: 10 is not from 1 to 9", CL_E_USAGE},
                 {"--flag=1", "--flag: takes no value", CL_E_USAGE},
                 {"a b", "b: one argument too many", CL_E_USAGE},
                 {"-n 10 -n x --numbr", "-n: 10 is not from 1 to 9", CL_E_USAGE}, /* of several the first */
                 {"a b -n 10", "b: one argument too many", CL_E_USAGE},
                 {"bad", "bad: is bad", CL_E_INPUT}};
    char said[512];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CU_ASSERT_EQUAL(call(cases[i].words, said), cases[i].code);
        CU_ASSERT(strncmp(said, "chipline: ", 10) == 0 && strstr(said, cases[i].says));
        if (!strstr(said, cases[i].says)) fprintf(stderr, "%s: %s\n", cases[i].words, said);
        CU_ASSERT(!last.ran && said[strlen(said) - 1] == '\n' && strchr(said, '\n') == said + strlen(said) - 1);
    }
}

/* The row of an option's help. */
static const char *help_of(const cli_command *k, const char *option)
{
    for (const struct argp_option *p = k->argp.options; p->name || p->key || p->doc; p++)
        if (p->name && strcmp(p->name, option) == 0) return p->doc;
    return "";
}

/* The number that stands behind `before` in the last parentheses of an option's help. */
static double said_of(const cli_command *k, const char *option, const char *before)
{
    const char *open = strrchr(help_of(k, option), '('), *at = open ? strstr(open, before) : NULL;
    CU_ASSERT_FATAL(at != NULL);
    return strtod(at + strlen(before), NULL);
}

static run_cli given(bool chat, const char *batch)
{
    run_cli o = *(const run_cli *)command_run.defaults;
    o.chat = chat;
    o.batch = batch;
    run_defaults(&o);
    return o;
}

static void test_defaults_are_those_of_help(void)
{
    const cli_command *k = &command_run;
    run_cli o = given(false, NULL), chat = given(true, NULL), batch = given(false, "in.jsonl");
    CU_ASSERT(o.max_tokens == said_of(k, "max-tokens", "(") && chat.max_tokens == said_of(k, "max-tokens", "chat: "));
    CU_ASSERT(o.sampling.top_k == said_of(k, "top-k", "(") && chat.sampling.top_k == said_of(k, "top-k", "chat: "));
    CU_ASSERT(o.sampling.top_p == (float)said_of(k, "top-p", "(") &&
              chat.sampling.top_p == (float)said_of(k, "top-p", "chat: "));
    CU_ASSERT(o.sampling.temperature == 0 && strstr(help_of(k, "temperature"), "0 is greedy, the default"));
    CU_ASSERT_EQUAL(chat.sampling.temperature, (float)said_of(k, "temperature", "chat: "));
    CU_ASSERT_EQUAL(o.sampling.min_p, said_of(k, "min-p", "("));
    CU_ASSERT_EQUAL(o.sampling.repeat_penalty, said_of(k, "repeat-penalty", "("));
    CU_ASSERT_EQUAL((double)o.sampling.seed, said_of(k, "seed", "("));
    CU_ASSERT(o.run.slots == said_of(k, "slots", "(") && batch.run.slots == 0); /* 0: the run's own choice */
    CU_ASSERT_EQUAL(o.run.stall_timeout_s, said_of(k, "stall-timeout", "("));
    CU_ASSERT_EQUAL(CL_DEFAULT_CHUNK, said_of(k, "chunk", "("));
    CU_ASSERT(strstr(help_of(k, "context"), "at most 4096") && CL_DEFAULT_CONTEXT == 4096);
    CU_ASSERT(o.run.trace_level == CL_TRACE_LAYER && strstr(help_of(k, "trace-level"), "(layer)"));
    CU_ASSERT_EQUAL(said_of(&command_bench, "stall-timeout", "("), o.run.stall_timeout_s);
}

typedef struct things {
    bool yes;
    int32_t small;
    int64_t below;
    uint64_t large;
    double real;
    char chars[8];
    const char *text;
} things;

static void test_columns(void)
{
    static const cli_column columns[] = {
        COLUMN(things, yes),  COLUMN(things, small), COLUMN(things, below),           COLUMN(things, large),
        COLUMN(things, real), COLUMN(things, chars), COLUMN_AS("word", things, text),
    };
    const things t = {true, -3, -5000000000, 5000000000, 0.5, "abc", "d\xc3\xa9"};
    json_t *j = CLI_ROW(columns, &t);
    char *text = json_dumps(j, JSON_COMPACT);
    CU_ASSERT_STRING_EQUAL(text, "{\"yes\":true,\"small\":-3,\"below\":-5000000000,\"large\":5000000000,\"real\":0.5,"
                                 "\"chars\":\"abc\",\"word\":\"d\xc3\xa9\"}");
    free(text);
    json_decref(j);
}

int main(void)
{
    CU_TestInfo tests[] = {{"words", test_words},
                           {"mistakes", test_mistakes},
                           {"defaults are those of --help", test_defaults_are_those_of_help},
                           {"columns", test_columns},
                           CU_TEST_INFO_NULL};
    return run_suite("cli", tests);
}
