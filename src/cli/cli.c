/* cli.c: a command from its words to its exit code: options, help, the ranks where it has some, the one message. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "chipline/ranks.h"
#include "chipline_version.h"

enum { MAX_WORDS = 128 };

static bool is_row(const struct argp_option *o) { return o && (o->name || o->key || o->doc); }

static const struct argp_option *find_long(const struct argp *a, const char *name, size_t n)
{
    for (const struct argp_option *o = a->options; is_row(o); o++)
        if (o->name && strlen(o->name) == n && strncmp(o->name, name, n) == 0) return o;
    return NULL;
}

static const struct argp_option *find_short(const struct argp *a, int key)
{
    for (const struct argp_option *o = a->options; is_row(o); o++)
        if (o->key == key && key > ' ' && key < 127) return o;
    return NULL;
}

static cl_code unknown(const struct argp *a, const char *word, size_t n, const char *tool, cl_err *err)
{
    const char *words[MAX_WORDS];
    char name[64];
    int count = 0;
    for (const struct argp_option *o = a->options; is_row(o) && count < MAX_WORDS; o++)
        if (o->name && !(o->flags & OPTION_HIDDEN)) words[count++] = o->name;
    snprintf(name, sizeof name, "%.*s", (int)(n < 63 ? n : 63), word);
    const char *near = n > 1 ? cl_nearest(name, words, count) : NULL;
    if (near)
        return cl_fail(err, CL_E_USAGE, "%s%s: unknown option (did you mean --%s?)", n > 1 ? "--" : "-", name, near);
    return cl_fail(err, CL_E_USAGE, "%s%s: unknown option (%s --help lists them)", n > 1 ? "--" : "-", name, tool);
}

/* The row of an option word, and the value that the word itself holds (NULL: none). */
static cl_code find(const struct argp *a, const char *s, const char *tool, const struct argp_option **row, char **value,
                    cl_err *err)
{
    bool is_long = s[1] == '-';
    size_t n = is_long ? strcspn(s + 2, "=") : 1;
    const char *name = s + 1 + is_long, *rest = name + n;
    *value = *rest ? (char *)rest + is_long : NULL;
    *row = is_long ? find_long(a, name, n) : find_short(a, *name);
    if (!*row) return unknown(a, name, is_long ? n : strlen(name), tool, err);
    if ((*row)->arg || !*value) return CL_OK;
    if (is_long) return cl_fail(err, CL_E_USAGE, "--%s: takes no value", (*row)->name);
    return cl_fail(err, CL_E_USAGE, "%s: -%c takes no value (write options one by one)", s, *name);
}

static bool asks_for_help(const struct argp *a, const char *s)
{
    return strcmp(s, "--help") == 0 || (strcmp(s, "-h") == 0 && !find_short(a, 'h'));
}

/* One word, and its value where that is the next one. */
static cl_code take(const struct argp *a, struct argp_state *st, int *i, bool *only_words, bool *help, cl_err *err)
{
    char *s = st->argv[*i], *value = s;
    const struct argp_option *row = NULL;
    if (!*only_words && strcmp(s, "--") == 0) {
        *only_words = true;
        return CL_OK;
    }
    if (!*only_words && s[0] == '-' && s[1]) {
        if (asks_for_help(a, s)) {
            *help = true;
            return CL_OK;
        }
        cl_code c = find(a, s, st->argv[0], &row, &value, err);
        if (c != CL_OK) return c;
        bool may_lack = row->flags & OPTION_ARG_OPTIONAL, next = *i + 1 < st->argc;
        if (row->arg && !value && next && !(may_lack && st->argv[*i + 1][0] == '-')) value = st->argv[++*i];
        if (row->arg && !value && !may_lack) return cl_fail(err, CL_E_USAGE, "%s: needs a value: %s", s, row->arg);
    }
    if (a->parser(row ? row->key : ARGP_KEY_ARG, value, st) == 0) return CL_OK;
    if (err->code != CL_OK) return err->code;
    return cl_fail(err, CL_E_USAGE, "%s: one argument too many (%s --help shows them)", s, st->argv[0]);
}

/* argp's own parser prints and exits in its own way; its tables and its help are what is used of it. The first mistake
 * is told; what is behind it counts all the same, help among it. */
static cl_code parse(const struct argp *a, int argc, char **argv, void *input, bool *help, cl_err *err)
{
    struct argp_state st = {.root_argp = a, .argc = argc, .argv = argv, .input = input};
    bool only_words = false;
    cl_err first = {.code = CL_OK};
    for (int i = 1; i < argc; i++) {
        err->code = CL_OK;
        cl_code c = take(a, &st, &i, &only_words, help, err);
        if (c == CL_OK || first.code != CL_OK) continue;
        first = *err;
        first.code = c;
    }
    if (*help) return CL_OK;
    *err = first;
    return first.code;
}

/* Rank 0's words count, and what it finds in the files that they name: others need not have these. But where a rank was
 * told something else, its own mistakes count too; and all must have been told the same command. */
static cl_code settle(cl_ranks *ranks, int argc, char **argv, bool *help, cl_code mine, cl_err *err)
{
    struct {
        uint64_t command, words;
        int32_t help, code;
    } first = {.command = XXH3_64bits(argv[0], strlen(argv[0])), .help = *help, .code = mine}, all;
    for (int i = 1; i < argc; i++) first.words = XXH3_64bits_withSeed(argv[i], strlen(argv[i]), first.words);
    all = first;
    cl_ranks_bcast(ranks, &all, sizeof all);
    if (first.command != all.command || first.help != all.help)
        mine = cl_fail(err, CL_E_USAGE, "%s: rank %d was started as another command than rank 0", argv[0],
                       cl_ranks_rank(ranks));
    else if (first.words == all.words && all.code == CL_OK) mine = CL_OK;
    *help = all.help;
    return cl_ranks_agree(ranks, mine, err);
}

static void print_help(const struct argp *a, const char *name)
{
    argp_help(a, stdout, ARGP_HELP_STD_HELP & ~(ARGP_HELP_EXIT_OK | ARGP_HELP_EXIT_ERR), (char *)name);
}

/* The options' struct as it is before the first word; NULL without memory. */
static void *fresh(const cli_command *k, cl_err *err)
{
    void *o = cl_calloc(1, k->size, "options", err);
    if (!o) return NULL;
    if (k->defaults) memcpy(o, k->defaults, k->size);
    *(cl_err **)o = err;
    return o;
}

int cli_main(const cli_command *k, int argc, char **argv)
{
    cl_err err = {.code = CL_OK};
    cl_ranks *ranks = NULL;
    const cl_waiting waiting = {.stall_timeout_s = CLI_STALL_S};
    bool help = false;
    if (k->on_ranks && cl_ranks_start(&ranks, &argc, &argv, &waiting, &err) != CL_OK) return cli_fail(&err);
    bool speaks = !ranks || cl_ranks_rank(ranks) == 0;
    const cli_call call = {argc, argv, ranks};
    void *o = fresh(k, &err);
    cl_code c = o ? parse(&k->argp, argc, argv, o, &help, &err) : CL_E_FIT;
    if (c == CL_OK && !help && k->check) c = k->check(o, &call);
    if (ranks) c = settle(ranks, argc, argv, &help, c, &err);
    if (c == CL_OK && help && speaks) print_help(&k->argp, argv[0]);
    if (c == CL_OK && !help) c = k->run(o, &call);
    if (c != CL_OK && speaks) cli_fail(&err);
    if (o && k->end) k->end(o);
    free(o);
    if (ranks) cl_ranks_end(ranks);
    return (int)c;
}

int cli_fail(const cl_err *err)
{
    /* Under mpirun or srun every rank that never started MPI fails alike: one of them says so. */
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank) rank = getenv("PMIX_RANK");
    fflush(stdout);
    if (!rank || strcmp(rank, "0") == 0) fprintf(stderr, "chipline: %s\n", err->msg);
    return (int)err->code;
}

const char *cli_creator(void) { return "chipline " CL_VERSION " (" CL_REVISION ")"; }
const char *cli_revision(void) { return CL_REVISION; }
const char *cli_build_flags(void) { return CL_BUILD_FLAGS; }
