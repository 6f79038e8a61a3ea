/* The chips and clusters that come with chipline: only keys that mean something, numbers of a size that can be, and
 * every number has its source. */
#include <ctype.h>
#include <glob.h>
#include <math.h>
#include <string.h>

#include "chipline/json.h"
#include "suite.h"

static const char configs[] = CL_FIXTURES "/../../configs";

typedef enum { TEXT, WHOLE, NUMBER, LINK } kind;
typedef struct key {
    const char *name;
    kind kind;
    bool required;
    double min, max;
    const char *told; /* word of the source that says where the number is from; NULL: none asked for */
} key;

static const key chip_keys[] = {{"name", TEXT, true, 0, 0, NULL},
                                {"memory_bytes", WHOLE, true, 1e8, 1e13, "memory"},
                                {"read_bytes_per_s", NUMBER, true, 1e9, 1e17, "read"},
                                {"flops_f32", NUMBER, false, 1e9, 1e16, "peak"},
                                {"flops_f16", NUMBER, false, 1e12, 1e17, "peak"},
                                {"flops_bf16", NUMBER, false, 1e12, 1e17, "peak"},
                                {"flops_fp8", NUMBER, false, 1e12, 1e17, "peak"},
                                {"flops_fp4", NUMBER, false, 1e12, 1e17, "peak"},
                                {"ops_int8", NUMBER, false, 1e12, 1e17, "peak"},
                                {"link_bytes_per_s", NUMBER, false, 1e9, 1e13, "links:"},
                                {"links", WHOLE, false, 1, 1000, "links:"},
                                {"hop_s", NUMBER, false, 1e-8, 1e-3, "hop:"},
                                {"power_w", NUMBER, false, 1, 5e4, "power:"},
                                {"price_usd", NUMBER, false, 10, 1e7, "price:"},
                                {"rent_usd_per_h", NUMBER, false, 0.01, 1e3, "rent:"},
                                {"source", TEXT, true, 0, 0, NULL},
                                {"as_of", TEXT, true, 0, 0, NULL},
                                {0}};

static const key cluster_keys[] = {{"name", TEXT, true, 0, 0, NULL},
                                   {"nodes", WHOLE, true, 1, 1 << 20, NULL},
                                   {"chips_per_node", WHOLE, true, 1, 1 << 10, NULL},
                                   {"chip", TEXT, true, 0, 0, NULL},
                                   {"links_between_nodes", LINK, false, 0, 0, "links"},
                                   {"nodes_per_rack", WHOLE, false, 1, 1 << 10, "rack"},
                                   {"links_between_racks", LINK, false, 0, 0, "links"},
                                   {"source", TEXT, true, 0, 0, NULL},
                                   {"as_of", TEXT, true, 0, 0, NULL},
                                   {0}};

static const key link_keys[] = {{"hop_s", NUMBER, true, 1e-8, 1e-3, NULL},
                                {"bytes_per_s", NUMBER, true, 1e9, 1e13, NULL},
                                {0}};

static const key *known(const key *keys, const char *name)
{
    for (; keys->name; keys++) {
        if (strcmp(keys->name, name) == 0) return keys;
    }
    return NULL;
}

static bool good(const key *k, const json_t *v)
{
    if (k->kind == LINK)
        return json_is_object(v) && json_object_size(v) == 2 &&
               good(&link_keys[0], json_object_get(v, link_keys[0].name)) &&
               good(&link_keys[1], json_object_get(v, link_keys[1].name));
    if (k->kind == TEXT) return json_is_string(v) && json_string_length(v) > 0;
    if (k->kind == WHOLE ? !json_is_integer(v) : !json_is_number(v)) return false;
    double x = json_number_value(v);
    return isfinite(x) && x >= k->min && x <= k->max;
}

static bool is_month(const char *s)
{
    for (int i = 0; i < 7; i++) {
        if (i == 4 ? s[i] != '-' : !isdigit((unsigned char)s[i])) return false;
    }
    return s[7] == '\0';
}

/* The key that is wrong, or NULL. */
static const char *wrong_key(const json_t *j, const key *keys)
{
    const char *name, *source = json_string_value(json_object_get(j, "source"));
    json_t *v;
    for (const key *k = keys; k->name; k++) {
        if (k->required && !json_object_get(j, k->name)) return k->name;
    }
    json_object_foreach((json_t *)j, name, v)
    {
        const key *k = known(keys, name);
        if (!k || !good(k, v) || (k->told && !(source && strstr(source, k->told)))) return name;
    }
    return is_month(json_string_value(json_object_get(j, "as_of"))) ? NULL : "as_of";
}

static double number(const json_t *j, const char *name) { return json_number_value(json_object_get(j, name)); }

/* What one power of ten too many or too few would break: a chip reads all its memory in microseconds to seconds, does
 * 1 to 10,000 operations (flops, int8 ops) for each byte that it reads, and has a time and a rate for its links or
 * neither. */
static const char *wrong_chip(const json_t *j)
{
    const char *name, *wrong = wrong_key(j, chip_keys);
    json_t *v;
    if (wrong) return wrong;
    double read = number(j, "read_bytes_per_s"), all = number(j, "memory_bytes") / read;
    if (all < 1e-6 || all > 10) return "memory_bytes";
    json_object_foreach((json_t *)j, name, v)
    {
        double per_byte = json_number_value(v) / read;
        if (strstr(name, "ops_") && (per_byte < 1 || per_byte > 1e4)) return name;
    }
    if (!json_object_get(j, "hop_s") != !json_object_get(j, "link_bytes_per_s")) return "hop_s";
    if (json_object_get(j, "links") && !json_object_get(j, "link_bytes_per_s")) return "links";
    return NULL;
}

static json_t *load(const char *path)
{
    cl_err err = {0};
    json_t *j = NULL;
    if (cl_json_load(path, &j, &err) != CL_OK) fprintf(stderr, "%s: %s\n", path, err.msg);
    CU_ASSERT_TRUE_FATAL(json_is_object(j));
    return j;
}

static void pass(const char *path, const char *wrong)
{
    if (wrong) fprintf(stderr, "%s: %s\n", path, wrong);
    CU_ASSERT_PTR_NULL(wrong);
}

static void check_chip(const char *path)
{
    json_t *j = load(path);
    pass(path, wrong_chip(j));
    json_decref(j);
}

static void check_cluster(const char *path)
{
    char file[768];
    json_t *j = load(path);
    const char *wrong = wrong_key(j, cluster_keys);
    pass(path, wrong);
    if (!wrong) {
        const char *chip = json_string_value(json_object_get(j, "chip"));
        snprintf(file, sizeof file, "%.*s%s", (int)(strrchr(path, '/') - path) + 1, path, chip);
        check_chip(file);
    }
    json_decref(j);
}

static void each(const char *folder, size_t at_least, void (*check)(const char *path))
{
    char pattern[512];
    glob_t g;
    snprintf(pattern, sizeof pattern, "%s/%s/*.json", configs, folder);
    CU_ASSERT_EQUAL_FATAL(glob(pattern, 0, NULL, &g), 0);
    CU_ASSERT_TRUE(g.gl_pathc >= at_least);
    for (size_t i = 0; i < g.gl_pathc; i++) check(g.gl_pathv[i]);
    globfree(&g);
}

static void test_chips(void) { each("chips", 4, check_chip); }
static void test_clusters(void) { each("clusters", 2, check_cluster); }

#define SOURCE "\"name\": \"a\", \"source\": \"memory, read, peak, links: hop: power: b\""
#define CHIP SOURCE ", \"memory_bytes\": 80000000000, \"read_bytes_per_s\": 3.35e12"
#define AS_OF ", \"as_of\": \"2026-10\""

/* A wrong file is seen, and its wrong key. */
static void test_wrong(void)
{
    static const struct {
        const char *text, *wrong;
    } cases[] = {
        {"{" CHIP AS_OF "}", NULL},
        {"{" CHIP AS_OF ", \"power_w\": 700, \"flops_fp8\": 1.979e15}", NULL},
        {"{" CHIP AS_OF ", \"links\": 1, \"link_bytes_per_s\": 4.5e11, \"hop_s\": 1e-6}", NULL},
        {"{" CHIP AS_OF ", \"power_W\": 700}", "power_W"},
        {"{" CHIP AS_OF ", \"power_w\": \"700\"}", "power_w"},
        {"{" CHIP AS_OF ", \"power_w\": 0}", "power_w"},
        {"{" CHIP AS_OF ", \"power_w\": -700}", "power_w"},
        {"{" CHIP AS_OF ", \"power_w\": 700000}", "power_w"},
        {"{" CHIP AS_OF ", \"power_w\": null}", "power_w"},
        {"{" CHIP AS_OF ", \"price_usd\": 30000}", "price_usd"}, /* its source does not say whose price */
        {"{" CHIP AS_OF ", \"flops_fp8\": 1.979e12}", "flops_fp8"},
        {"{" CHIP AS_OF ", \"hop_s\": 1e-6}", "hop_s"},
        {"{" CHIP AS_OF ", \"links\": 1}", "links"},
        {"{" CHIP "}", "as_of"},
        {"{" CHIP ", \"as_of\": \"2026\"}", "as_of"},
        {"{" SOURCE AS_OF ", \"memory_bytes\": 230000000, \"read_bytes_per_s\": 8e13}", NULL},
        /* all read too soon */
        {"{" SOURCE AS_OF ", \"memory_bytes\": 230000000, \"read_bytes_per_s\": 8e14}", "memory_bytes"},
        {"{" SOURCE AS_OF ", \"memory_bytes\": 2.3e8, \"read_bytes_per_s\": 8e13}", "memory_bytes"}, /* not whole */
        {"{" SOURCE AS_OF ", \"memory_bytes\": 230000000}", "read_bytes_per_s"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cl_err err = {0};
        json_t *j = NULL;
        CU_ASSERT_EQUAL_FATAL(cl_json_parse(cases[i].text, strlen(cases[i].text), "case", &j, &err), CL_OK);
        const char *wrong = wrong_chip(j);
        bool same = wrong && cases[i].wrong ? strcmp(wrong, cases[i].wrong) == 0 : wrong == cases[i].wrong;
        if (!same) fprintf(stderr, "%s: %s\n", cases[i].text, wrong ? wrong : "nothing wrong");
        CU_ASSERT_TRUE(same);
        json_decref(j);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"chips", test_chips},
                           {"clusters", test_clusters},
                           {"wrong ones", test_wrong},
                           CU_TEST_INFO_NULL};
    return run_suite("configs", tests);
}
