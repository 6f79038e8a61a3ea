/* What plan/ keeps to itself: classes of chips, limits of cuts, things that were freed; its messages, word by word. */
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "classes.h"
#include "cut.h"
#include "experts.h"
#include "plan/models.h"

static cl_model dense(int layers)
{
    return geometry((test_geometry){300, 144, layers, 4, 2, 16, 16, 0, 0, false, CL_QK_NORM_NONE}, CL_BF16);
}

static cl_model mixture(void)
{
    return geometry((test_geometry){300, 144, 2, 4, 2, 16, 16, 5, 2, true, CL_QK_NORM_NONE}, CL_BF16);
}

/* Chips of a stage that are alike are looked at once: how many kinds there are, how many of each. */
static void test_classes(void)
{
    static const struct {
        int chips, n, first[5], of[5];
    } cases[] = {{1, 1, {0}, {1}},
                 {2, 2, {0, 1}, {1, 1}},
                 {4, 3, {0, 1, 3}, {1, 2, 1}}, /* the first has more of hidden, the last less of the vocabulary */
                 {9, 5, {0, 1, 4, 7, 8}, {1, 3, 3, 1, 1}},
                 {16, 5, {0, 3, 4, 9, 15}, {3, 1, 5, 6, 1}}};
    cl_model m = dense(3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const cl_stage s = {.n_layers = 3, .embed = true, .head = true, .n_ranks = cases[i].chips};
        chip_classes c;
        cl_err err = {0};
        CU_ASSERT_EQUAL_FATAL(classes_make(&m, &s, NULL, &c, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(c.n, cases[i].n);
        for (int k = 0; k < c.n; k++) CU_ASSERT_TRUE(c.member[k] == cases[i].first[k] && c.chips[k] == cases[i].of[k]);
        classes_free(&c);
        CU_ASSERT_TRUE(c.n == 0 && !c.member && !c.chips);
        const cl_expert_map maps[3] = {{0}}; /* whole experts: each is one of its own */
        CU_ASSERT_EQUAL_FATAL(classes_make(&m, &s, maps, &c, &err), CL_OK);
        CU_ASSERT_EQUAL_FATAL(c.n, cases[i].chips);
        for (int k = 0; k < c.n; k++) CU_ASSERT_TRUE(c.member[k] == k && c.chips[k] == 1);
        classes_free(&c);
    }
    cl_model_free(&m);
}

/* With the least memory there is a cut, with a byte less there is none. */
static void test_least(void)
{
    cl_model m = dense(5);
    const cl_place_options o = {.slots = 1, .context = 16, .chunk = 8};
    int chips[] = {2, 1, 2};
    const cl_layout l = {3, chips, NULL};
    cut_line line;
    cut_cost limit;
    cl_err err = {0};
    CU_ASSERT_EQUAL_FATAL(cut_line_make(&m, &o, &l, &line, &err), CL_OK);
    CU_ASSERT_TRUE(line.n_tables == 2 && line.table[0] == 0 && line.table[1] == 1 && line.table[2] == 0);
    const uint64_t held = cut_least_held(&line);
    CU_ASSERT_TRUE(cut_least(&line, held, &limit) && limit.held == held);
    CU_ASSERT_FALSE(cut_least(&line, held - 1, &limit));
    cut_line_free(&line);
    CU_ASSERT_TRUE(!line.tables && !line.table && !line.sum && !line.far && !line.from && !line.to && !line.n_tables);
    cut_table t;
    int stages;
    CU_ASSERT_EQUAL_FATAL(cut_table_make(&m, &o, 1, &t, &err), CL_OK);
    for (int i = 0; i < 5; i++) {
        CU_ASSERT_EQUAL(cut_fewest(&t, t.cost[i].held - 1, &stages, &err), CL_OK);
        CU_ASSERT_EQUAL(stages, 6);  /* there is none: more than layers */
        if (i == 0 || i == 4) break; /* the largest ones */
    }
    cut_table_free(&t);
    CU_ASSERT_TRUE(!t.cost && !t.chips && !t.columns && !t.layers);
    cl_model_free(&m);
}

static void test_freed(void)
{
    cl_model m = mixture();
    cl_err err = {0};
    int chips[] = {2};
    cl_layout l = {1, chips, NULL}, own;
    const cl_place_options o = {.layout = &l, .slots = 1, .context = 16, .chunk = 8, .experts = CL_EXPERTS_WHOLE};
    cl_placement p;
    cl_expert_map map;
    CU_ASSERT_EQUAL_FATAL(cl_place(&m, &o, &p, &err), CL_OK);
    cl_placement_free(&p);
    CU_ASSERT_TRUE(!p.stages && !p.experts && !p.n_ranks && !p.n_stages);
    CU_ASSERT_EQUAL_FATAL(cl_layout_make(3, 2, &own, &err), CL_OK);
    cl_layout_free(&own);
    CU_ASSERT_TRUE(!own.chips && !own.layers && !own.n_stages);
    CU_ASSERT_EQUAL_FATAL(expert_map_make(&m, &o, 1, 2, &map, &err), CL_OK);
    expert_map_free(&map);
    CU_ASSERT_TRUE(!map.experts && !map.first && !map.member);
    cl_model_free(&m);
}

static uint64_t most_held(const cl_model *m, int chips)
{
    cl_layout l = {1, &chips, NULL};
    const cl_place_options o = {.layout = &l, .slots = 1, .context = 16, .chunk = 8};
    cl_placement p;
    cl_err err = {0};
    uint64_t most = 0;
    CU_ASSERT_EQUAL_FATAL(cl_place(m, &o, &p, &err), CL_OK);
    for (int k = 0; k < chips; k++) {
        cl_chip_cost c;
        CU_ASSERT_EQUAL_FATAL(cl_placement_cost(m, &o, &p, k, &c, &err), CL_OK);
        most = c.weight_bytes + c.kv_bytes > most ? c.weight_bytes + c.kv_bytes : most;
    }
    cl_placement_free(&p);
    return most;
}

/* One layer on as many chips as there is work for, with as much memory as they need, and with a byte less. */
static void test_most_chips(void)
{
    cl_model m = geometry((test_geometry){2000, 640, 1, 4, 4, 16, 640, 0, 0, false, CL_QK_NORM_NONE}, CL_BF16);
    const uint64_t bytes = most_held(&m, 40);
    cl_place_options o = {.slots = 1, .context = 16, .chunk = 8, .chip_bytes = bytes};
    cl_layout l;
    cl_err err = {0};
    CU_ASSERT_TRUE(bytes < most_held(&m, 39));
    CU_ASSERT_EQUAL_FATAL(cl_fewest_chips(&m, &o, &l, &err), CL_OK);
    CU_ASSERT_TRUE(l.n_stages == 1 && l.chips[0] == 40);
    cl_layout_free(&l);
    o.chip_bytes--;
    CU_ASSERT_EQUAL(cl_fewest_chips(&m, &o, &l, &err), CL_E_FIT);
    char want[256];
    snprintf(want, sizeof want,
             "plan: no number of chips of %llu bytes holds this (use larger chips, fewer slots, a shorter context or a "
             "smaller number format)",
             (unsigned long long)o.chip_bytes);
    CU_ASSERT_STRING_EQUAL(err.msg, want);
    cl_model_free(&m);
}

/* --- messages --- */

static uint64_t some_buffers(void *ctx, const cl_stage *stage, const cl_expert_map *experts) { return 1000; }

typedef struct asked {
    const char *layout; /* NULL: ranks */
    cl_place_options o;
    const char *says;
} asked;

static cl_routing wrong_routing = {2, 3, (const uint64_t[6]){0}};

static const asked refused[] =
    {{NULL, {.slots = 1, .context = 16, .chunk = 8, .ranks = 0}, "plan: 0 ranks (at least 1)"},
     {NULL, {.slots = 1, .context = 16, .chunk = 8, .ranks = -3}, "plan: -3 ranks (at least 1)"},
     {NULL, {.slots = 0, .context = 16, .chunk = 8, .ranks = 1}, "plan: 0 slots (at least 1)"},
     {NULL, {.slots = 1, .context = 0, .chunk = 8, .ranks = 1}, "plan: a context of 0 positions (at least 1)"},
     {NULL, {.slots = 1, .context = 16, .chunk = 0, .ranks = 1}, "plan: micro-batches of 0 tokens (at least 1)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 3},
      "plan: 3 stages for 2 layers, and every stage needs one (use at most 2 stages, for example 1x3)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 4},
      "plan: 4 stages for 2 layers, and every stage needs one (use at most 2 stages, for example 2x2)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 1, .routing = &wrong_routing},
      "plan: routing of 2 layers with 3 experts, the model has 2 with 5 (count it in a run of this model)"},
     {"2x2",
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 3},
      "--layout 2x2 needs 4 ranks, there are 3 (start 4, or use 1x3)"},
     {"2x1",
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 5},
      "--layout 2x1 needs 2 ranks, there are 5 (start 2, or use 1x5)"},
     {"1x17",
      {.slots = 1, .context = 16, .chunk = 8},
      "plan: stage 0 has 17 chips, and there is a layer with work for 16 at most (use for example 1x16)"},
     {"1+145",
      {.slots = 1, .context = 16, .chunk = 8},
      "plan: stage 1 has 145 chips, and there is a layer with work for 16 at most (use for example 2x16)"},
     {"1x10",
      {.slots = 1, .context = 16, .chunk = 8, .experts = CL_EXPERTS_WHOLE},
      "plan: stage 0 has 10 chips, and there is a layer with work for 9 at most (use for example 1x9)"},
     {"3x2",
      {.slots = 1, .context = 16, .chunk = 8},
      "plan: 3 stages for 2 layers, and every stage needs one (use at most 2 stages, for example 2x3)"},
     {"1x1048576",
      {.slots = 1, .context = 16, .chunk = 8},
      "plan: stage 0 has 1048576 chips, and there is a layer with work for 16 at most (use for example 1x16)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 1, .chip_bytes = 150000},
      "plan: chip 0 of 1: weights of 341 kB and a cache of 8.19 kB are 199184 bytes more than a chip's 150000 (use at "
      "least 3 ranks as 1x3, fewer slots or a shorter context)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 2, .chip_bytes = 100000},
      "plan: chip 1 of 2: weights of 214 kB and a cache of 4.10 kB are 118080 bytes more than a chip's 100000 (use at "
      "least 5 ranks as 1x5, fewer slots or a shorter context)"},
     {"1x2",
      {.slots = 1, .context = 16, .chunk = 8, .chip_bytes = 100000},
      "plan: chip 0 of 2: weights of 181 kB and a cache of 4.10 kB are 84960 bytes more than a chip's 100000 (use at "
      "least 5 ranks as 1x5, fewer slots or a shorter context)"},
     {"1x2",
      {.slots = 1, .context = 16, .chunk = 8, .chip_bytes = 100000, .buffers = some_buffers},
      "plan: chip 0 of 2: weights of 181 kB, a cache of 4.10 kB and buffers of 1.00 kB are 85960 bytes more than a "
      "chip's 100000 (use at least 5 ranks as 1x5, fewer slots or a shorter context)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 1, .chip_bytes = 150000, .buffers = some_buffers},
      "plan: chip 0 of 1: weights of 341 kB, a cache of 8.19 kB and buffers of 1.00 kB are 200184 bytes more than a "
      "chip's 150000 (use at least 3 ranks as 1x3, fewer slots or a shorter context)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 1, .chip_bytes = 100},
      "plan: chip 0 of 1: weights of 341 kB and a cache of 8.19 kB are 349084 bytes more than a chip's 100 (use larger "
      "chips, fewer slots, a shorter context or a smaller number format)"},
     {NULL,
      {.slots = 1, .context = 16, .chunk = 8, .ranks = 1, .chip_bytes = 150000, .brief = true},
      "plan: chip 0 of 1: weights of 341 kB and a cache of 8.19 kB are 199184 bytes more than a chip's 150000 (use "
      "larger chips, fewer slots, a shorter context or a smaller number format)"},
     {"1x2",
      {.slots = 1, .context = 16, .chunk = 8, .chip_bytes = 100000, .experts = CL_EXPERTS_WHOLE},
      "plan: chip 0 of 2: weights of 192 kB and a cache of 4.10 kB are 96224 bytes more than a chip's 100000 (use at "
      "least 5 ranks as 1x5, fewer slots or a shorter context)"},
     {NULL,
      {.slots = INT32_MAX, .context = INT32_MAX, .chunk = 8, .ranks = 1},
      "plan: the cache is larger than any address space (use fewer slots or a shorter context)"}};

static void test_messages(void)
{
    cl_model m = mixture();
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        cl_place_options o = refused[i].o;
        cl_layout l = {0};
        cl_placement p;
        cl_err err = {0};
        if (refused[i].layout) {
            CU_ASSERT_EQUAL_FATAL(cl_layout_from_name(refused[i].layout, &l, &err), CL_OK);
            o.layout = &l;
        }
        CU_ASSERT_NOT_EQUAL(cl_place(&m, &o, &p, &err), CL_OK);
        CU_ASSERT_STRING_EQUAL(err.msg, refused[i].says);
        if (strcmp(err.msg, refused[i].says) != 0) fprintf(stderr, "%zu: %s\n", i, err.msg);
        cl_layout_free(&l);
    }
    cl_model_free(&m);
}

/* The best layout, where there is none. */
static void test_no_layout(void)
{
    static const struct {
        cl_place_options o;
        const char *says;
    } cases[] =
        {{{.slots = 1, .context = 16, .chunk = 8, .ranks = 2, .chip_bytes = 100000},
          "plan: no layout of 2 chips is possible; 2x1: chip 1 of 2: weights of 214 kB and a cache of 4.10 kB are "
          "118080 bytes more than a chip's 100000 (use at least 5 ranks as 1x5, fewer slots or a shorter context)"},
         {{.slots = 1, .context = 16, .chunk = 8, .ranks = 5, .chip_bytes = 30000},
          "plan: no layout of 5 chips is possible; 2+3: chip 0 of 5: weights of 113 kB and a cache of 2.05 kB are "
          "85232 bytes more than a chip's 30000 (use larger chips, fewer slots, a shorter context or a smaller number "
          "format)"},
         {{.slots = 1, .context = 16, .chunk = 8, .ranks = 1, .chip_bytes = 150000},
          "plan: no layout of 1 chips is possible; 1x1: chip 0 of 1: weights of 341 kB and a cache of 8.19 kB are "
          "199184 bytes more than a chip's 150000 (use at least 3 ranks as 1x3, fewer slots or a shorter context)"},
         {{.slots = 1, .context = 16, .chunk = 8, .ranks = 0}, "plan: 0 ranks (at least 1)"},
         {{.slots = 0, .context = 16, .chunk = 8, .ranks = 2}, "plan: 0 slots (at least 1)"},
         {{.slots = 1, .context = 16, .chunk = 8, .ranks = 2, .chip_bytes = 30000, .buffers = some_buffers},
          "plan: no layout of 2 chips is possible; 2x1: chip 1 of 2: weights of 214 kB, a cache of 4.10 kB and buffers "
          "of 1.00 kB are 189080 bytes more than a chip's 30000 (use larger chips, fewer slots, a shorter context or a "
          "smaller number format)"}};
    cl_model m = mixture();
    const cl_rates r = {.read_bytes_per_s = 1e9};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_layout l;
        cl_err err = {0};
        CU_ASSERT_NOT_EQUAL(cl_choose_layout(&m, &cases[i].o, &r, CL_GOAL_LATENCY, &l, NULL, NULL, &err), CL_OK);
        CU_ASSERT_STRING_EQUAL(err.msg, cases[i].says);
        if (strcmp(err.msg, cases[i].says) != 0) fprintf(stderr, "%zu: %s\n", i, err.msg);
        CU_ASSERT_NOT_EQUAL(cl_choose_layout(&m, &cases[i].o, &r, CL_GOAL_LATENCY, &l, NULL, NULL, NULL), CL_OK);
    }
    cl_model_free(&m);
}

/* One that cannot be beside one that can: why, without what would do. */
static void test_why(void)
{
    static const char why[] =
        "chip 1 of 2: weights of 214 kB and a cache of 4.10 kB are 18080 bytes more than a chip's 200000 (use larger "
        "chips, fewer slots, a shorter context or a smaller number format)";
    cl_model m = mixture();
    const cl_rates r = {.read_bytes_per_s = 1e9};
    const cl_place_options o = {.ranks = 2, .slots = 1, .context = 16, .chunk = 8, .chip_bytes = 200000};
    cl_layout l;
    cl_alternative *list = NULL;
    cl_err err = {0};
    int n;
    CU_ASSERT_EQUAL_FATAL(cl_choose_layout(&m, &o, &r, CL_GOAL_THROUGHPUT, &l, &list, &n, &err), CL_OK);
    CU_ASSERT_TRUE_FATAL(n == 2 && list[0].code == CL_OK && list[1].code == CL_E_FIT);
    CU_ASSERT_STRING_EQUAL(list[0].why, "");
    CU_ASSERT_STRING_EQUAL(list[1].why, why);
    if (strcmp(list[1].why, why) != 0) fprintf(stderr, "why: %s\n", list[1].why);
    free(list);
    cl_layout_free(&l);
    cl_model_free(&m);
}

/* What cannot be ends the program with these words. */
static void ends_with(void (*act)(void), const char *says)
{
    char text[512];
    size_t got = 0;
    int fd[2], status = 0;
    fflush(NULL);
    CU_ASSERT_EQUAL_FATAL(pipe(fd), 0);
    const pid_t child = fork();
    if (!child) {
        dup2(fd[1], 2);
        act();
        _exit(0);
    }
    close(fd[1]);
    for (ssize_t n = 1; n > 0 && got<sizeof text - 1; got += n> 0 ? (size_t)n : 0)
        n = read(fd[0], text + got, sizeof text - 1 - got);
    text[got] = 0;
    close(fd[0]);
    CU_ASSERT_TRUE(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    const char *at = strstr(text, ": ");
    CU_ASSERT_PTR_NOT_NULL(strstr(at ? at : text, says));
}

static void no_member(void) { cl_split(10, 1, 3, 3); }
static void before_all(void) { cl_split(10, 1, 3, -1); }
static void no_unit(void) { cl_split(10, 0, 3, 1); }
static void no_members(void) { cl_split(10, 1, 0, 0); }
static void no_stage(void)
{
    cl_stage s = {.n_ranks = 2};
    const cl_placement p = {2, 1, &s, NULL};
    cl_placement_stage(&p, 2);
}

static void test_bugs(void)
{
    ends_with(no_member, ": chip 3 of 3 in units of 1\n");
    ends_with(before_all, ": chip -1 of 3 in units of 1\n");
    ends_with(no_unit, ": chip 1 of 3 in units of 0\n");
    ends_with(no_members, ": chip 0 of 0 in units of 1\n");
    ends_with(no_stage, ": rank 2 of 2 has no stage\n");
}

int main(void)
{
    CU_TestInfo tests[] = {{"chips that are alike", test_classes},
                           {"least memory", test_least},
                           {"freed", test_freed},
                           {"most chips", test_most_chips},
                           {"messages", test_messages},
                           {"no layout", test_no_layout},
                           {"why not", test_why},
                           {"bugs", test_bugs},
                           CU_TEST_INFO_NULL};
    return run_suite("inside plan", tests);
}
