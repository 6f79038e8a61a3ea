/* The spec: copies and JSON lose nothing; impossible numbers are refused with the field's name. */
#include "chipline/model.h"
#include "specs.h"
#include "suite.h"

/* Two ropes, a window, biases, a dense and an MoE layer, numbers with no short decimal form. */
static cl_spec rich_spec(void)
{
    cl_spec s = test_spec((test_geometry){100, 36, 3, 6, 2, 10, 50, 0, 0, false, CL_QK_NORM_HEAD});
    strcpy(s.family, "r\xc3\xad"
                     "ch \"one\"");
    s.ropes = realloc(s.ropes, 2 * sizeof *s.ropes);
    s.ropes[1] = (cl_rope){.dims = 4,
                           .pairing = CL_ROPE_INTERLEAVED,
                           .scale = 1.3465736,
                           .inv_freq = malloc(2 * sizeof(double))};
    s.ropes[1].inv_freq[0] = 1.0 / 3;
    s.ropes[1].inv_freq[1] = 0;
    s.n_ropes = 2;
    s.norm_eps = 1e-6f;
    s.bos = 0;
    s.n_eos = 2;
    s.eos[0] = 99, s.eos[1] = 3;
    s.layers[0].attn.window = 17;
    s.layers[0].attn.rope = 1;
    s.layers[0].attn.qkv_bias = s.layers[0].attn.o_bias = s.layers[0].ffn.bias = true;
    s.layers[1].attn.rope = -1;
    s.layers[1].attn.clip = 7.5;
    s.layers[1].attn.qk_norm = CL_QK_NORM_FULL;
    s.layers[2].ffn = (cl_ffn){.kind = CL_FFN_MOE, .weight_scale = 1, .width = 9, .experts = 5, .top_k = 5};
    return s;
}

static void assert_equal(const cl_spec *a, const cl_spec *b)
{
    CU_ASSERT_STRING_EQUAL(a->family, b->family);
    CU_ASSERT_EQUAL(a->vocab, b->vocab);
    CU_ASSERT_EQUAL(a->hidden, b->hidden);
    CU_ASSERT_EQUAL(a->context, b->context);
    CU_ASSERT_EQUAL(a->norm_eps, b->norm_eps);
    CU_ASSERT_EQUAL(a->tied, b->tied);
    CU_ASSERT_EQUAL(a->bos, b->bos);
    CU_ASSERT_EQUAL_FATAL(a->n_eos, b->n_eos);
    CU_ASSERT_EQUAL(memcmp(a->eos, b->eos, (size_t)a->n_eos * sizeof *a->eos), 0);
    CU_ASSERT_EQUAL_FATAL(a->n_ropes, b->n_ropes);
    for (int i = 0; i < a->n_ropes; i++) {
        CU_ASSERT_PTR_NOT_EQUAL(a->ropes[i].inv_freq, b->ropes[i].inv_freq);
        CU_ASSERT_EQUAL_FATAL(a->ropes[i].dims, b->ropes[i].dims);
        CU_ASSERT_EQUAL(a->ropes[i].pairing, b->ropes[i].pairing);
        CU_ASSERT_EQUAL(a->ropes[i].scale, b->ropes[i].scale);
        for (int k = 0; k < a->ropes[i].dims / 2; k++)
            CU_ASSERT_EQUAL(a->ropes[i].inv_freq[k], b->ropes[i].inv_freq[k]);
    }
    CU_ASSERT_EQUAL_FATAL(a->n_layers, b->n_layers);
    for (int i = 0; i < a->n_layers; i++) {
        const cl_attention *p = &a->layers[i].attn, *q = &b->layers[i].attn;
        CU_ASSERT_EQUAL(p->heads, q->heads);
        CU_ASSERT_EQUAL(p->kv_heads, q->kv_heads);
        CU_ASSERT_EQUAL(p->head_dim, q->head_dim);
        CU_ASSERT_EQUAL(p->window, q->window);
        CU_ASSERT_EQUAL(p->rope, q->rope);
        CU_ASSERT_EQUAL(p->qk_norm, q->qk_norm);
        CU_ASSERT_EQUAL(p->clip, q->clip);
        CU_ASSERT_EQUAL(p->scale, q->scale);
        CU_ASSERT_EQUAL(p->qkv_bias, q->qkv_bias);
        CU_ASSERT_EQUAL(p->o_bias, q->o_bias);
        const cl_ffn *f = &a->layers[i].ffn, *g = &b->layers[i].ffn;
        CU_ASSERT_EQUAL(f->kind, g->kind);
        CU_ASSERT_EQUAL(f->width, g->width);
        CU_ASSERT_EQUAL(f->experts, g->experts);
        CU_ASSERT_EQUAL(f->top_k, g->top_k);
        CU_ASSERT_EQUAL(f->renormalise, g->renormalise);
        CU_ASSERT_EQUAL(f->bias, g->bias);
    }
}

static void test_copy_and_json(void)
{
    cl_err err = {0};
    cl_spec s = rich_spec(), copy, back;
    CU_ASSERT_EQUAL_FATAL(cl_spec_copy(&s, &copy, &err), CL_OK);
    json_t *j = NULL, *parsed = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_spec_to_json(&s, &j, &err), CL_OK);
    char *text = json_dumps(j, 0);
    CU_ASSERT_EQUAL_FATAL(cl_json_parse(text, strlen(text), "spec", &parsed, &err), CL_OK);
    CU_ASSERT_EQUAL_FATAL(cl_spec_from_json(parsed, &back, &err), CL_OK);
    assert_equal(&s, &copy);
    assert_equal(&s, &back);
    cl_spec_free(&s);
    CU_ASSERT_PTR_NULL(s.layers);
    CU_ASSERT_EQUAL(cl_spec_check(&copy, &err), CL_OK); /* owns what it points to */
    cl_spec_free(&copy);
    cl_spec_free(&back);
    cl_spec_free(&back); /* zeroed: harmless */
    free(text);
    json_decref(j);
    json_decref(parsed);
}

/* One wrong field each; the message must name it. */
#define REFUSED(CHANGE, NAME)                                                   \
    do {                                                                        \
        cl_spec s = rich_spec();                                                \
        cl_err why = {0};                                                       \
        json_t *j = NULL;                                                       \
        CHANGE;                                                                 \
        CU_ASSERT_EQUAL(cl_spec_check(&s, &why), CL_E_INPUT);                   \
        CU_ASSERT_PTR_NOT_NULL(strstr(why.msg, NAME));                          \
        if (!strstr(why.msg, NAME)) fprintf(stderr, "%s: %s\n", NAME, why.msg); \
        CU_ASSERT_EQUAL(cl_spec_to_json(&s, &j, &why), CL_E_INPUT);             \
        CU_ASSERT_PTR_NULL(j);                                                  \
        cl_spec_free(&s);                                                       \
    } while (0)

static void test_refused(void)
{
    cl_err err = {0};
    cl_spec good = rich_spec();
    CU_ASSERT_EQUAL(cl_spec_check(&good, &err), CL_OK);
    cl_spec_free(&good);
    REFUSED(memset(s.family, 'x', sizeof s.family), "family");
    REFUSED(s.family[0] = (char)0xff, "family");
    REFUSED(s.vocab = 0, "vocab");
    REFUSED(s.vocab = -5, "vocab");
    REFUSED(s.hidden = 0, "hidden");
    REFUSED((s.hidden = 1 << 20, s.vocab = 1 << 30), "vocab * hidden");
    REFUSED(s.context = 0, "context");
    REFUSED(s.norm_eps = NAN, "norm_eps");
    REFUSED(s.norm_eps = -1e-5, "norm_eps");
    REFUSED(s.bos = 100, "bos");
    REFUSED(s.bos = -2, "bos");
    REFUSED(s.eos[1] = 100, "eos");
    REFUSED(s.eos[0] = -1, "eos");
    REFUSED(s.n_eos = CL_MAX_EOS + 1, "eos");
    REFUSED(s.ropes[1].dims = 3, "rope 1: dims");
    REFUSED(s.ropes[1].dims = 0, "rope 1: dims");
    REFUSED(s.ropes[1].scale = INFINITY, "rope 1: scale");
    REFUSED(s.ropes[0].inv_freq[4] = NAN, "rope 0: inv_freq");
    REFUSED(s.ropes[0].pairing = (cl_rope_pairing)2, "rope 0: pairing");
    REFUSED(s.layers[1].attn.heads = 0, "layer 1: attention: heads");
    REFUSED(s.layers[1].attn.heads = 5, "layer 1: attention: kv_heads");
    REFUSED(s.layers[1].attn.kv_heads = 12, "layer 1: attention: kv_heads");
    REFUSED(s.layers[1].attn.head_dim = 0, "layer 1: attention: head_dim");
    REFUSED(s.layers[1].attn.head_dim = 0x7fffffff, "heads * head_dim");
    REFUSED((s.layers[1].attn.head_dim = 1 << 28, s.hidden = 1 << 13), "q numbers");
    REFUSED(s.layers[1].attn.window = -1, "window");
    REFUSED(s.layers[1].attn.rope = 2, "rope");
    REFUSED(s.layers[1].attn.rope = -2, "rope");
    REFUSED((s.layers[2].attn.head_dim = 8, s.layers[2].attn.rope = 0), "rope");
    REFUSED(s.layers[1].attn.qk_norm = (cl_qk_norm)4, "qk_norm");
    REFUSED(s.layers[1].attn.clip = -1, "clip");
    REFUSED(s.layers[1].attn.scale = 0, "scale");
    REFUSED(s.layers[1].ffn.width = 0, "layer 1: ffn: width");
    REFUSED(s.layers[1].ffn.experts = 2, "layer 1: ffn: experts");
    REFUSED(s.layers[1].ffn.kind = (cl_ffn_kind)2, "layer 1: ffn: kind");
    REFUSED(s.layers[2].ffn.top_k = 6, "layer 2: ffn: top_k");
    REFUSED(s.layers[2].ffn.top_k = 0, "layer 2: ffn: top_k");
    REFUSED(s.layers[2].ffn.experts = 0, "layer 2: ffn: experts");
    REFUSED(s.layers[1].attn.chunked = true, "layer 1: attention: chunked");
    REFUSED(s.layers[1].attn.temperature = NAN, "temperature");
    REFUSED((s.layers[1].attn.temperature = 0.1, s.layers[1].attn.temperature_floor = 0), "temperature_floor");
    REFUSED(s.layers[1].attn.kv_rank = 8, "layer 1: attention: kv_rank");
    REFUSED(s.layers[1].attn.q_rank = 8, "layer 1: attention: kv_rank");
    REFUSED(s.layers[1].attn.rope_dim = 8, "layer 1: attention: kv_rank");
    REFUSED(s.layers[1].attn.v_dim = 8, "layer 1: attention: kv_rank");
    REFUSED(s.layers[1].attn.latent_eps = 1e-5, "layer 1: attention: kv_rank");
    REFUSED(s.layers[1].attn.kind = CL_ATTN_LATENT, "layer 1: attention: kv_rank");
    REFUSED(s.layers[1].attn.kind = (cl_attention_kind)2, "layer 1: attention: kind");
    REFUSED(s.layers[2].ffn.weight_scale = 0, "layer 2: ffn: weight_scale");
    REFUSED(s.layers[2].ffn.scoring = (cl_scoring)3, "layer 2: ffn: scoring");
    REFUSED((s.layers[2].ffn.groups = 2, s.layers[2].ffn.top_groups = 1, s.layers[2].ffn.group_best = 1),
            "layer 2: ffn: groups");
    REFUSED(s.layers[2].ffn.shared_width = -1, "layer 2: ffn: shared_width");
    REFUSED(s.layers[2].ffn.glu = CL_GLU_CLAMPED, "layer 2: ffn: glu_limit");
    REFUSED(s.layers[1].ffn.shared_width = 4, "layer 1: ffn: experts");
    REFUSED((s.layers[2].ffn.experts = 1 << 20, s.layers[2].ffn.width = 1 << 20), "layer 2: ffn: width");
    cl_spec none = {0};
    CU_ASSERT_EQUAL(cl_spec_check(&none, &err), CL_E_INPUT);
}

/* JSON that lies: changed, missing and unknown keys at every level. */
static void refuse_json(void (*change)(json_t *), const char *name)
{
    cl_err err = {0};
    cl_spec s = rich_spec(), out;
    json_t *j = NULL;
    CU_ASSERT_EQUAL_FATAL(cl_spec_to_json(&s, &j, &err), CL_OK);
    change(j);
    CU_ASSERT_EQUAL(cl_spec_from_json(j, &out, &err), CL_E_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, name));
    if (!strstr(err.msg, name)) fprintf(stderr, "%s: %s\n", name, err.msg);
    json_decref(j);
    cl_spec_free(&s);
}

static json_t *layer(json_t *j, int i, const char *part)
{
    return json_object_get(json_array_get(json_object_get(j, "layers"), (size_t)i), part);
}
static json_t *rope(json_t *j) { return json_array_get(json_object_get(j, "ropes"), 0); }
static void unknown_top(json_t *j) { json_object_set_new(j, "sinks", json_true()); }
static void unknown_attention(json_t *j) { json_object_set_new(layer(j, 1, "attention"), "hyper", json_true()); }
static void unknown_ffn(json_t *j) { json_object_set_new(layer(j, 0, "ffn"), "experts", json_integer(3)); }
static void no_layers(json_t *j) { json_object_del(j, "layers"); }
static void empty_layers(json_t *j) { json_array_clear(json_object_get(j, "layers")); }
static void text_layer(json_t *j) { json_array_set_new(json_object_get(j, "layers"), 2, json_string("x")); }
static void huge_hidden(json_t *j) { json_object_set_new(j, "hidden", json_integer(1LL << 40)); }
static void huge_dims(json_t *j) { json_object_set_new(rope(j), "dims", json_integer(2000000000)); }
static void minus_dims(json_t *j) { json_object_set_new(rope(j), "dims", json_integer(-2)); }
static void few_freqs(json_t *j) { json_array_remove(json_object_get(rope(j), "inv_freq_rad_per_position"), 0); }
static void many_freqs(json_t *j)
{
    json_array_append_new(json_object_get(rope(j), "inv_freq_rad_per_position"), json_real(0.5));
}
static void text_freq(json_t *j)
{
    json_array_set_new(json_object_get(rope(j), "inv_freq_rad_per_position"), 1, json_string("1"));
}
static void wrong_pairing(json_t *j) { json_object_set_new(rope(j), "pairing", json_string("thirds")); }
static void long_family(json_t *j)
{
    json_object_set_new(j, "family", json_string("0123456789012345678901234567890123456789"));
}
static void text_eos(json_t *j) { json_array_set_new(json_object_get(j, "eos_ids"), 0, json_string("2")); }
static void past_eos(json_t *j) { json_array_set_new(json_object_get(j, "eos_ids"), 0, json_integer(1LL << 32)); }
static void bad_top_k(json_t *j) { json_object_set_new(layer(j, 2, "ffn"), "top_k", json_integer(6)); }
static void real_heads(json_t *j) { json_object_set_new(layer(j, 0, "attention"), "heads", json_real(1.5)); }

static void test_json_refused(void)
{
    refuse_json(unknown_top, "sinks");
    refuse_json(unknown_attention, "layer 1: attention: hyper");
    refuse_json(unknown_ffn, "layer 0: ffn: experts");
    refuse_json(no_layers, "layers");
    refuse_json(empty_layers, "layers");
    refuse_json(text_layer, "layer 2");
    refuse_json(huge_hidden, "hidden");
    refuse_json(huge_dims, "rope 0: inv_freq");
    refuse_json(minus_dims, "rope 0: inv_freq");
    refuse_json(few_freqs, "rope 0: inv_freq");
    refuse_json(many_freqs, "rope 0: inv_freq");
    refuse_json(text_freq, "rope 0: inv_freq");
    refuse_json(wrong_pairing, "rope 0: pairing");
    refuse_json(long_family, "family");
    refuse_json(text_eos, "eos");
    refuse_json(past_eos, "eos");
    refuse_json(bad_top_k, "layer 2: ffn: top_k");
    refuse_json(real_heads, "layer 0: attention: heads");
    cl_err err = {0};
    cl_spec out;
    json_t *list = json_array();
    CU_ASSERT_EQUAL(cl_spec_from_json(list, &out, &err), CL_E_INPUT);
    json_decref(list);
}

int main(void)
{
    CU_TestInfo tests[] = {{"copy and JSON", test_copy_and_json},
                           {"impossible numbers", test_refused},
                           {"JSON that lies", test_json_refused},
                           CU_TEST_INFO_NULL};
    return run_suite("spec", tests);
}
