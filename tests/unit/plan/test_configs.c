/* The chips and clusters that come with chipline: what `plan` reads of them is there, and every number has a source. */
#include <glob.h>
#include <string.h>
#include <sys/stat.h>

#include "chipline/json.h"
#include "suite.h"

static const char configs[] = CL_FIXTURES "/../../configs";

static json_t *load(const char *path)
{
    cl_err err = {0};
    json_t *j = NULL;
    const char *text = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_json_load(path, &j, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_json_str(j, "name", true, &text, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_json_str(j, "source", true, &text, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_json_str(j, "as_of", true, &text, &err), CL_OK);
    return j;
}

static void each(const char *folder, void (*check)(const char *path, const json_t *j))
{
    char pattern[512];
    glob_t g;
    snprintf(pattern, sizeof pattern, "%s/%s/*.json", configs, folder);
    CU_ASSERT_EQUAL_FATAL(glob(pattern, 0, NULL, &g), 0);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        json_t *j = load(g.gl_pathv[i]);
        check(g.gl_pathv[i], j);
        json_decref(j);
    }
    globfree(&g);
}

static void check_chip(const char *path, const json_t *j)
{
    cl_err err = {0};
    int64_t memory = 0;
    double rate = 0;
    CU_ASSERT_EQUAL(cl_json_int(j, "memory_bytes", true, 1000000, INT64_MAX, &memory, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_json_double(j, "read_bytes_per_s", true, 1e9, 1e16, &rate, &err), CL_OK);
}

static void check_cluster(const char *path, const json_t *j)
{
    cl_err err = {0};
    int64_t n = 0;
    const char *chip = NULL;
    char file[768];
    struct stat st;
    CU_ASSERT_EQUAL(cl_json_int(j, "nodes", true, 1, 1 << 20, &n, &err), CL_OK);
    CU_ASSERT_EQUAL(cl_json_int(j, "chips_per_node", true, 1, 1 << 10, &n, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_json_str(j, "chip", true, &chip, &err), CL_OK);
    snprintf(file, sizeof file, "%.*s%s", (int)(strrchr(path, '/') - path) + 1, path, chip);
    CU_ASSERT_EQUAL(stat(file, &st), 0);
}

static void test_chips(void) { each("chips", check_chip); }
static void test_clusters(void) { each("clusters", check_cluster); }

int main(void)
{
    CU_TestInfo tests[] = {{"chips", test_chips}, {"clusters", test_clusters}, CU_TEST_INFO_NULL};
    return run_suite("configs", tests);
}
