/* The spec as JSON: every key, in full; what is said of each that is missing, unknown or of another type; every name of
 * a choice, and no other. */
#include "heap.h"
#include "spec_full.h"
#include "suite.h"

static const char *const head = "{\"family\":\"test\",\"vocab\":75,\"hidden\":100,\"context_positions\":64,"
                                "\"norm_eps\":0.03125,\"tied_head\":true,\"bos_id\":5,\"eos_ids\":[74,0,9],";
static const char *const ropes =
    "\"ropes\":[{\"dims\":4,\"pairing\":\"interleaved\",\"scale\":1.5,\"inv_freq_rad_per_position\":[0.0,0.75]},"
    "{\"dims\":6,\"pairing\":\"half\",\"scale\":1.25,\"inv_freq_rad_per_position\":[1.0,0.5,0.25]}],";
static const char *const layers[] =
    {"\"layers\":[{\"attention\":{\"heads\":6,\"kv_heads\":2,\"head_dim\":20,\"rope\":1,\"scale\":0.25,"
     "\"window_positions\":7,\"chunked\":true,\"qk_norm\":\"full\",\"clip\":0.5,\"qkv_bias\":true,\"o_bias\":true,"
     "\"sinks\":true,\"temperature\":0.125,\"temperature_floor_positions\":8.0},"
     "\"ffn\":{\"kind\":\"dense\",\"width\":75,\"bias\":true,\"glu\":\"clamped\",\"glu_limit\":7.5,\"glu_alpha\":1.75}}"
     ",",
     "{\"attention\":{\"heads\":5,\"kv_heads\":1,\"head_dim\":30,\"rope\":0,\"scale\":0.5,\"kind\":\"latent\","
     "\"q_rank\":40,\"kv_rank\":44,\"rope_dim\":12,\"v_dim\":22,\"latent_eps\":0.0625},"
     "\"ffn\":{\"kind\":\"moe\",\"width\":42,\"experts\":8,\"top_k\":3,\"scoring\":\"sigmoid\",\"select_bias\":true,"
     "\"groups\":4,\"top_groups\":2,\"group_best\":2,\"renormalise\":true,\"weight_scale\":2.5,\"shared_width\":50}},",
     "{\"attention\":{\"heads\":6,\"kv_heads\":2,\"head_dim\":20,\"rope\":-1,\"scale\":0.25,\"window_positions\":7,"
     "\"chunked\":true,\"qk_norm\":\"unit\",\"clip\":0.5,\"qkv_bias\":true,\"o_bias\":true,\"sinks\":true,"
     "\"temperature\":0.125,\"temperature_floor_positions\":8.0},"
     "\"ffn\":{\"kind\":\"moe\",\"width\":9,\"glu\":\"clamped\",\"glu_limit\":1.0,\"glu_alpha\":2.0,\"experts\":5,"
     "\"top_k\":5,\"scoring\":\"chosen_softmax\",\"router_bias\":true,\"weight_scale\":1.0,\"weight_input\":true}},",
     "{\"attention\":{\"heads\":5,\"kv_heads\":1,\"head_dim\":30,\"rope\":0,\"scale\":0.5,\"kind\":\"latent\","
     "\"q_rank\":40,\"kv_rank\":44,\"rope_dim\":12,\"v_dim\":22,\"latent_eps\":0.0625},"
     "\"ffn\":{\"kind\":\"dense\",\"width\":3}}]}"};

static void join(char out[4096])
{
    snprintf(out, 4096, "%s%s%s%s%s%s", head, ropes, layers[0], layers[1], layers[2], layers[3]);
}

static json_t *full_json(void)
{
    char text[4096];
    json_t *j = NULL;
    cl_err err = {0};
    join(text);
    CU_ASSERT_EQUAL_FATAL(cl_json_parse(text, strlen(text), "spec", &j, &err), CL_OK);
    return j;
}

static void check_text(const cl_spec *s)
{
    char want[4096];
    json_t *j = NULL;
    cl_err err = {0};
    join(want);
    CU_ASSERT_EQUAL_FATAL(cl_spec_to_json(s, &j, &err), CL_OK);
    char *text = json_dumps(j, JSON_COMPACT);
    CU_ASSERT_STRING_EQUAL(text, want);
    if (strcmp(text, want) != 0) fprintf(stderr, "%s\n", text);
    free(text);
    json_decref(j);
}

static void test_every_key(void)
{
    cl_err err = {0};
    cl_spec s = full_spec(), back, copy;
    json_t *j = full_json();
    check_text(&s);
    CU_ASSERT_EQUAL_FATAL(cl_spec_from_json(j, &back, &err), CL_OK);
    check_text(&back);
    CU_ASSERT_EQUAL_FATAL(cl_spec_copy(&back, &copy, &err), CL_OK);
    cl_spec_free(&back);
    check_text(&copy);
    cl_spec_free(&copy);
    cl_spec_free(&s);
    json_decref(j);
}

/* --- refused --- */

/* What cl_spec_from_json says of it, which goes. */
static const char *said(json_t *j)
{
    static cl_err err;
    cl_spec s = {.vocab = -7};
    err = (cl_err){0};
    cl_code c = cl_spec_from_json(j, &s, &err);
    if (c == CL_OK) cl_spec_free(&s);
    else CU_ASSERT(c == CL_E_INPUT && s.vocab == -7);
    json_decref(j);
    return c == CL_OK ? "" : err.msg;
}

static void expect(json_t *j, const char *want)
{
    const char *got = said(j);
    CU_ASSERT_STRING_EQUAL(got, want);
    if (strcmp(got, want) != 0) fprintf(stderr, "said: %s\nwant: %s\n", got, want);
}

typedef enum place { WHOLE, ROPE, ATTENTION, FFN, LATENT, EXPERTS, LAYER } place;

static json_t *at(json_t *j, place p)
{
    json_t *list = json_object_get(j, "layers"), *l = json_array_get(list, p == LATENT || p == EXPERTS ? 1 : 0);
    if (p == WHOLE) return j;
    if (p == ROPE) return json_array_get(json_object_get(j, "ropes"), 1);
    return p == LAYER ? l : json_object_get(l, p == ATTENTION || p == LATENT ? "attention" : "ffn");
}

static const char *const prefixes[] =
    {"", "rope 1: ", "layer 0: attention: ", "layer 0: ffn: ", "layer 1: attention: ", "layer 1: ffn: ", "layer 0: "};

/* A key, what it should be, and whether it must be there. */
static const struct {
    place in;
    const char *key, *type;
    bool must;
} keys[] = {
    {WHOLE, "family", "is a list, must be a text", true},
    {WHOLE, "vocab", "is a list, must be an integer", true},
    {WHOLE, "hidden", "is a list, must be an integer", true},
    {WHOLE, "context_positions", "is a list, must be an integer", true},
    {WHOLE, "norm_eps", "is a list, must be a number", true},
    {WHOLE, "tied_head", "is a list, must be true or false", true},
    {WHOLE, "bos_id", "is a list, must be an integer", true},
    {WHOLE, "eos_ids", "is an object, must be a list", true},
    {WHOLE, "ropes", "is an object, must be a list", true},
    {WHOLE, "layers", "is an object, must be a list", true},
    {ROPE, "dims", "is a list, must be an integer", true},
    {ROPE, "pairing", "is a list, must be a text", true},
    {ROPE, "scale", "is a list, must be a number", true},
    {ROPE, "inv_freq_rad_per_position", "is an object, must be a list", true},
    {LAYER, "attention", "is a list, must be an object", true},
    {LAYER, "ffn", "is a list, must be an object", true},
    {ATTENTION, "kind", "is a list, must be a text", false},
    {ATTENTION, "heads", "is a list, must be an integer", true},
    {ATTENTION, "kv_heads", "is a list, must be an integer", true},
    {ATTENTION, "head_dim", "is a list, must be an integer", true},
    {ATTENTION, "window_positions", "is a list, must be an integer", false},
    {ATTENTION, "chunked", "is a list, must be true or false", false},
    {ATTENTION, "rope", "is a list, must be an integer", true},
    {ATTENTION, "qk_norm", "is a list, must be a text", false},
    {ATTENTION, "clip", "is a list, must be a number", false},
    {ATTENTION, "scale", "is a list, must be a number", true},
    {ATTENTION, "qkv_bias", "is a list, must be true or false", false},
    {ATTENTION, "o_bias", "is a list, must be true or false", false},
    {ATTENTION, "sinks", "is a list, must be true or false", false},
    {ATTENTION, "temperature", "is a list, must be a number", false},
    {ATTENTION, "temperature_floor_positions", "is a list, must be a number", false},
    {LATENT, "q_rank", "is a list, must be an integer", false},
    {LATENT, "kv_rank", "is a list, must be an integer", false},
    {LATENT, "rope_dim", "is a list, must be an integer", false},
    {LATENT, "v_dim", "is a list, must be an integer", false},
    {LATENT, "latent_eps", "is a list, must be a number", false},
    {FFN, "kind", "is a list, must be a text", true},
    {FFN, "width", "is a list, must be an integer", true},
    {FFN, "bias", "is a list, must be true or false", false},
    {FFN, "glu", "is a list, must be a text", false},
    {FFN, "glu_limit", "is a list, must be a number", false},
    {FFN, "glu_alpha", "is a list, must be a number", false},
    {EXPERTS, "experts", "is a list, must be an integer", false},
    {EXPERTS, "top_k", "is a list, must be an integer", false},
    {EXPERTS, "scoring", "is a list, must be a text", false},
    {EXPERTS, "router_bias", "is a list, must be true or false", false},
    {EXPERTS, "select_bias", "is a list, must be true or false", false},
    {EXPERTS, "groups", "is a list, must be an integer", false},
    {EXPERTS, "top_groups", "is a list, must be an integer", false},
    {EXPERTS, "group_best", "is a list, must be an integer", false},
    {EXPERTS, "renormalise", "is a list, must be true or false", false},
    {EXPERTS, "weight_scale", "is a list, must be a number", false},
    {EXPERTS, "weight_input", "is a list, must be true or false", false},
    {EXPERTS, "shared_width", "is a list, must be an integer", false},
};

/* Each key of every part of the spec: away, of another type, and one that nobody knows. */
static void test_each_key(void)
{
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char want[256];
        json_t *j = full_json();
        bool list = strstr(keys[i].type, "must be a list") != NULL;
        json_object_set_new(at(j, keys[i].in), keys[i].key, list ? json_object() : json_array());
        snprintf(want, sizeof want, "%s%s: %s", prefixes[keys[i].in], keys[i].key, keys[i].type);
        expect(j, want);
        j = full_json();
        json_object_del(at(j, keys[i].in), keys[i].key);
        const char *got = said(j);
        snprintf(want, sizeof want, "%s%s: missing", prefixes[keys[i].in], keys[i].key);
        CU_ASSERT_EQUAL(strcmp(got, want) == 0, keys[i].must);
        if ((strcmp(got, want) == 0) != keys[i].must) fprintf(stderr, "without %s: %s\n", keys[i].key, got);
    }
    for (place p = WHOLE; p <= LAYER; p++) {
        char want[256];
        json_t *j = full_json();
        json_object_set_new(at(j, p), "hyper", json_true());
        snprintf(want, sizeof want, "%shyper: unknown key (made by a newer chipline?)", prefixes[p]);
        expect(j, want);
    }
}

/* Names of one choice are not names of another, and nothing lies behind the last. */
static void test_names(void)
{
    static const struct {
        place in;
        const char *key, *names[5];
    } choices[] = {{ROPE, "pairing", {"half", "interleaved"}},
                   {ATTENTION, "kind", {"grouped", "latent"}},
                   {ATTENTION, "qk_norm", {"none", "head", "full", "unit"}},
                   {FFN, "kind", {"dense", "moe"}},
                   {FFN, "glu", {"silu", "clamped"}},
                   {EXPERTS, "scoring", {"softmax", "sigmoid", "chosen_softmax"}}};
    enum { CHOICES = sizeof choices / sizeof *choices };
    for (int i = 0; i < CHOICES; i++) {
        for (int k = 0; k < CHOICES; k++) {
            for (int n = 0; choices[k].names[n]; n++) {
                char not_known[128];
                json_t *j = full_json();
                json_object_set_new(at(j, choices[i].in), choices[i].key, json_string(choices[k].names[n]));
                snprintf(not_known, sizeof not_known, "%s%s: \"%s\" is not known", prefixes[choices[i].in],
                         choices[i].key, choices[k].names[n]);
                CU_ASSERT_EQUAL(strcmp(said(j), not_known) == 0, i != k);
            }
        }
    }
}

static void with_ids(const char *list, const char *want)
{
    json_t *j = full_json();
    json_object_set_new(j, "eos_ids", json_loads(list, 0, NULL));
    expect(j, want);
}

static void with_freqs(const char *list, const char *want)
{
    json_t *j = full_json();
    json_object_set_new(at(j, ROPE), "inv_freq_rad_per_position", json_loads(list, 0, NULL));
    expect(j, want);
}

static void test_lists(void)
{
    with_ids("[]", "");
    with_ids("[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,74]", "");
    with_ids("[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "eos_ids: more than 16");
    with_ids("[3,75]", "eos_ids: entry 1 is not an id of the vocabulary");
    with_ids("[-1,3]", "eos_ids: entry 0 is not an id of the vocabulary");
    with_ids("[3,4,\"5\"]", "eos_ids: entry 2 is not an id of the vocabulary");
    with_freqs("[1,2,3]", "");
    with_freqs("[1,2]", "rope 1: inv_freq_rad_per_position: has 2 numbers, must have dims / 2 (dims: 6)");
    with_freqs("[1,2,3,4]", "rope 1: inv_freq_rad_per_position: has 4 numbers, must have dims / 2 (dims: 6)");
    with_freqs("[1,2,\"3\"]", "rope 1: inv_freq_rad_per_position: entry 2 is not a number");
    with_freqs("[null,2,3]", "rope 1: inv_freq_rad_per_position: entry 0 is not a number");
    with_freqs("[1,2,-3]", "rope 1: inv_freq: is -3, must be a finite number >= 0");
    json_t *j = full_json();
    json_object_set_new(at(j, ROPE), "dims", json_integer(7));
    expect(j, "rope 1: inv_freq_rad_per_position: has 3 numbers, must have dims / 2 (dims: 7)");
    j = full_json();
    json_object_set_new(j, "family", json_string("0123456789012345678901234567890"));
    expect(j, "");
    j = full_json();
    json_object_set_new(j, "family", json_string("01234567890123456789012345678901"));
    expect(j, "family: over 31 bytes");
    expect(json_array(), "spec: not a JSON object");
}

/* A router in a file older than the key: its weights are not scaled; a dense layer has no scale. */
static void test_no_weight_scale(void)
{
    cl_err err = {0};
    cl_spec s;
    json_t *j = full_json();
    json_object_del(at(j, EXPERTS), "weight_scale");
    CU_ASSERT_EQUAL_FATAL(cl_spec_from_json(j, &s, &err), CL_OK);
    CU_ASSERT_EQUAL(s.layers[1].ffn.weight_scale, 1);
    CU_ASSERT_EQUAL(s.layers[3].ffn.weight_scale, 0);
    cl_spec_free(&s);
    json_decref(j);
}

/* --- memory --- */

static int allocations, fail_at, held; /* jansson's: made, the one that fails, not given back */

static void *counted(size_t n)
{
    if (allocations++ == fail_at) return NULL;
    held++;
    return malloc(n);
}

static void given_back(void *p)
{
    if (p) held--;
    free(p);
}

/* Whichever allocation fails, that is said, and nothing is kept. */
static void test_no_memory(void)
{
    cl_spec s = full_spec();
    json_t *j = NULL;
    cl_code c = CL_E_FIT;
    json_set_alloc_funcs(counted, given_back);
    for (fail_at = 0; c != CL_OK && fail_at < 10000; fail_at++) {
        cl_err err = {0};
        allocations = held = 0;
        j = (json_t *)&s;
        c = cl_spec_to_json(&s, &j, &err);
        if (c == CL_OK) break;
        bool as_it_should = c == CL_E_FIT && !j && held == 0 && !strcmp(err.msg, "spec: no memory for its JSON");
        CU_ASSERT_TRUE(as_it_should);
        if (!as_it_should) fprintf(stderr, "allocation %d: %d held, %s\n", fail_at, held, err.msg);
    }
    CU_ASSERT(fail_at > 100 && fail_at == allocations);
    json_decref(j);
    CU_ASSERT_EQUAL(held, 0);
    json_set_alloc_funcs(malloc, free);
    cl_spec_free(&s);
}

/* Specs that were made, copied, read and refused leave nothing. */
static void test_given_back(void)
{
    cl_err err = {0};
    cl_spec s, copy;
    json_t *good = full_json(), *bad = full_json();
    json_object_set_new(at(bad, EXPERTS), "width", json_integer(0));
    size_t before = 0;
    for (int i = 0; i < 3; i++) {
        if (i == 1) before = heap_in_use();
        CU_ASSERT_EQUAL(cl_spec_from_json(good, &s, &err), CL_OK);
        CU_ASSERT_EQUAL(cl_spec_copy(&s, &copy, &err), CL_OK);
        cl_spec_free(&s);
        cl_spec_free(&copy);
        CU_ASSERT(!copy.ropes && !copy.layers && !copy.vocab);
        CU_ASSERT_EQUAL(cl_spec_from_json(bad, &s, &err), CL_E_INPUT);
    }
    CU_ASSERT_EQUAL(heap_in_use(), before);
    json_decref(good);
    json_decref(bad);
}

int main(void)
{
    CU_TestInfo tests[] = {{"every key", test_every_key},
                           {"each key", test_each_key},
                           {"names", test_names},
                           {"lists", test_lists},
                           {"no weight scale", test_no_weight_scale},
                           {"no memory", test_no_memory},
                           {"given back", test_given_back},
                           CU_TEST_INFO_NULL};
    return run_suite("spec JSON", tests);
}
