/* chip.c: a chip is made, measured and freed. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "chip_impl.h"
#include "head.h"
#include "chipline/util.h"

/* A placement gives a chip what its layers need; anything else is a mistake of the program. */
static void check_tensor(const cl_chip *c, cl_role role, int layer, int64_t experts, cl_range rows, int64_t cols)
{
    const slice_tensor *st = slice_get(&c->slice, role, layer);
    if (!experts || !rows.n) return; /* nothing of it belongs here; a row too many does no harm */
    bool all = st->row0 <= rows.first && st->row0 + st->m.rows >= rows.first + rows.n;
    if (st->m.experts != experts || !all || st->m.cols != cols || (!st->m.data && !st->vec))
        CL_BUG("role %d of layer %d: not in the slice, or not all that should be", (int)role, layer);
}

static void check_whole(const cl_chip *c, cl_role role, int layer, int64_t rows, int64_t cols)
{
    check_tensor(c, role, layer, 1, (cl_range){0, rows}, cols);
}

/* Rows of a matrix that all chips share. */
static void check_rows(const cl_chip *c, cl_role role, int layer, int64_t rows, int64_t cols)
{
    check_tensor(c, role, layer, 1, cl_split_rows(rows, c->group.members, c->group.member), cols);
}

static void check_latent(const cl_chip *c, int layer)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_heads h = share_of(c, layer)->heads;
    int64_t hidden = c->spec.hidden;
    if (a->q_rank) check_rows(c, CL_T_Q_A, layer, a->q_rank, hidden);
    if (a->q_rank) check_whole(c, CL_T_Q_A_NORM, layer, a->q_rank, 1);
    check_tensor(c, CL_T_Q, layer, 1, (cl_range){(int64_t)h.q0 * a->head_dim, (int64_t)h.q * a->head_dim},
                 a->q_rank ? a->q_rank : hidden);
    check_rows(c, CL_T_KV_A, layer, (int64_t)a->kv_rank + a->rope_dim, hidden);
    check_whole(c, CL_T_KV_A_NORM, layer, a->kv_rank, 1);
    check_tensor(c, CL_T_K_B, layer, h.q, (cl_range){0, a->kv_rank}, a->head_dim - a->rope_dim);
    check_tensor(c, CL_T_V_B, layer, h.q, (cl_range){0, a->v_dim}, a->kv_rank);
}

static void check_grouped(const cl_chip *c, int layer)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    const cl_heads h = share_of(c, layer)->heads;
    int64_t hidden = c->spec.hidden, d = a->head_dim, q = a->heads * d, kv = a->kv_heads * d;
    check_tensor(c, CL_T_Q, layer, 1, (cl_range){h.q0 * d, h.q * d}, hidden);
    check_tensor(c, CL_T_K, layer, 1, (cl_range){h.kv0 * d, h.kv * d}, hidden);
    check_tensor(c, CL_T_V, layer, 1, (cl_range){h.kv0 * d, h.kv * d}, hidden);
    if (a->qkv_bias) {
        check_whole(c, CL_T_Q_BIAS, layer, q, 1);
        check_whole(c, CL_T_K_BIAS, layer, kv, 1);
        check_whole(c, CL_T_V_BIAS, layer, kv, 1);
    }
    if (a->qk_norm == CL_QK_NORM_HEAD || a->qk_norm == CL_QK_NORM_FULL) {
        bool head = a->qk_norm == CL_QK_NORM_HEAD;
        check_whole(c, CL_T_Q_NORM, layer, head ? d : q, 1);
        check_whole(c, CL_T_K_NORM, layer, head ? d : kv, 1);
    }
}

static void check_attention(const cl_chip *c, int layer)
{
    const cl_attention *a = &c->spec.layers[layer].attn;
    int64_t hidden = c->spec.hidden;
    check_whole(c, CL_T_ATTN_NORM, layer, hidden, 1);
    if (a->kind == CL_ATTN_LATENT) check_latent(c, layer);
    else check_grouped(c, layer);
    check_rows(c, CL_T_O, layer, hidden, (int64_t)a->heads * cl_attention_v_dim(a));
    if (a->o_bias) check_rows(c, CL_T_O_BIAS, layer, hidden, 1);
    if (a->sinks) check_whole(c, CL_T_SINKS, layer, a->heads, 1);
}

/* Gate, up and down of the dense MLP, of the experts that are here, or of the shared expert: their roles follow each
 * other, biases too. */
static void check_mlp(const cl_chip *c, int layer, cl_role gate, cl_role gate_bias, bool bias, int64_t experts,
                      bool whole, int64_t width)
{
    int64_t hidden = c->spec.hidden, rows[] = {width, width, hidden}, cols[] = {hidden, hidden, width};
    for (int i = 0; i < 3; i++) {
        cl_range here = whole ? (cl_range){0, rows[i]} : cl_split_rows(rows[i], c->group.members, c->group.member);
        check_tensor(c, (cl_role)((int)gate + i), layer, experts, here, cols[i]);
        if (bias) check_tensor(c, (cl_role)((int)gate_bias + i), layer, experts, here, 1);
    }
}

static void check_ffn(const cl_chip *c, int layer)
{
    const cl_ffn *f = &c->spec.layers[layer].ffn;
    const layer_share *share = share_of(c, layer);
    int64_t here = f->experts;
    check_whole(c, CL_T_FFN_NORM, layer, c->spec.hidden, 1);
    if (f->kind == CL_FFN_DENSE) {
        check_mlp(c, layer, CL_T_GATE, CL_T_GATE_BIAS, f->bias, 1, false, f->width);
        return;
    }
    for (int e = 0; share->local && e < f->experts; e++) here -= share->local[e] < 0;
    check_whole(c, CL_T_ROUTER, layer, f->experts, c->spec.hidden);
    if (f->router_bias) check_whole(c, CL_T_ROUTER_BIAS, layer, f->experts, 1);
    if (f->select_bias) check_whole(c, CL_T_SELECT_BIAS, layer, f->experts, 1);
    check_mlp(c, layer, CL_T_EXPERT_GATE, CL_T_EXPERT_GATE_BIAS, f->bias, here, share->map != NULL, f->width);
    if (f->shared_width) check_mlp(c, layer, CL_T_SHARED_GATE, CL_ROLES, false, 1, false, f->shared_width);
}

static void check_slice(const cl_chip *c)
{
    int64_t hidden = c->spec.hidden, vocab = c->spec.vocab;
    if (c->stage.embed) check_rows(c, CL_T_EMBED, -1, vocab, hidden);
    if (c->stage.head) check_whole(c, CL_T_FINAL_NORM, -1, hidden, 1);
    if (c->stage.head) check_rows(c, c->spec.tied ? CL_T_EMBED : CL_T_HEAD, -1, vocab, hidden);
    for (int i = 0; i < c->stage.n_layers; i++) {
        check_attention(c, c->stage.first_layer + i);
        check_ffn(c, c->stage.first_layer + i);
    }
}

/* The cache of the heads that are here. */
static cl_code cache_create(cl_chip *c, cl_err *err)
{
    const cl_attention **attn = cl_malloc((size_t)c->stage.n_layers, sizeof *attn, "the table of caches", err);
    if (!attn) return err->code;
    for (int i = 0; i < c->stage.n_layers; i++) attn[i] = &c->shares[i].attn;
    cl_code code = kv_create(&c->kv, attn, c->stage.n_layers, c->opt.kv, &c->opt.limits, err);
    free(attn);
    return code;
}

const char *cl_activations_name(cl_activations a)
{
    static const char *const names[] = {"auto", "f32", "q8", "mixed", "q16"};
    if ((unsigned)a > CL_ACT_Q16) CL_BUG("activations %d", (int)a);
    return names[a];
}

/* The pages come into being now, not while tokens flow. */
static void touch(unsigned char *p, size_t bytes, int threads)
{
    enum { PAGE = 4096 };
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t i = 0; i < bytes; i += PAGE) {
        volatile unsigned char *at = p + i;
        *at = *at;
    }
}

static cl_code create(cl_chip *c, const cl_model_file *file, const cl_extent *parts, int n_parts, cl_err *err)
{
    const cl_chip_options *o = &c->opt;
    const cl_stage *s = &c->stage;
    cl_code code;
    c->group = o->group ? *o->group : (cl_group){.members = 1};
    if (c->group.members != s->n_ranks) CL_BUG("%d chips in the group, %d in the stage", c->group.members, s->n_ranks);
    if ((code = cl_kernels_choose(o->kernels, &c->k, err))) return code;
    if ((code = cl_spec_copy(&cl_model_file_model(file)->spec, &c->spec, err))) return code;
    if ((code = exchange_create(c, err))) return code;
    if ((code = cache_create(c, err))) return code;
    if ((code = work_create(c, err))) return code;
    if ((code = sampling_create(c, err))) return code;
    if ((code = team_try(o->threads, err))) return code;
    if ((code = slice_load(&c->slice, file, s, parts, n_parts, c->k, o->threads, o->progress, err))) return code;
    check_slice(c);
    touch(c->kv.data, c->kv.bytes, o->threads);
    touch(c->work.data, c->work.bytes, o->threads);
    code = team_create(&c->crew, o->threads, true, err);
    team_rest_openmp();
    return code;
}

static void chip_free(cl_chip *c)
{
    if (!c) return;
    team_free(c->crew);
    sampling_free(c);
    slice_free(&c->slice);
    work_free(&c->work);
    kv_free(&c->kv);
    exchange_free(c);
    cl_spec_free(&c->spec);
    free(c);
}

static cl_traffic chip_traffic(const cl_chip *c) { return (cl_traffic){c->weight_bytes, c->kv_bytes}; }

static cl_chip_sizes chip_sizes(const cl_chip *c) { return (cl_chip_sizes){c->slice.bytes, c->kv.bytes}; }

static const uint64_t *chip_routing(const cl_chip *c, int layer) { return share_of(c, layer)->chosen; }

static int cache_first(const cl_chip *c, int layer, int slot)
{
    return kv_first(&c->kv, layer - c->stage.first_layer, slot);
}

/* The model's kv head among those that are here. */
static int head_here(const cl_chip *c, int layer, int head)
{
    const cl_heads h = share_of(c, layer)->heads;
    if (head < h.kv0 || head >= h.kv0 + h.kv) CL_BUG("layer %d: kv head %d is not here", layer, head);
    return head - h.kv0;
}

static void cache_out(const cl_chip *c, int layer, int slot, int head, int pos, int n, void *rows)
{
    kv_rows_out(&c->kv, layer - c->stage.first_layer, slot, head_here(c, layer, head), pos, n, rows);
}

static void cache_expect(cl_chip *c, int slot, const int *first, int end) { kv_expect(&c->kv, slot, first, end); }

static void cache_in(cl_chip *c, int layer, int slot, int head, int pos, int n, const void *rows)
{
    kv_rows_in(&c->kv, layer - c->stage.first_layer, slot, head_here(c, layer, head), pos, n, rows);
}

cl_code cl_chip_create(cl_chip_table *out, const cl_model_file *file, const cl_stage *stage, const cl_extent *parts,
                       int n_parts, const cl_chip_options *opt, cl_trace *trace, cl_err *err)
{
    cl_err local;
    if (!err) err = &local;
    if (opt->threads < 1 || opt->limits.slots < 1 || opt->limits.context < 1 || opt->limits.chunk < 1)
        CL_BUG("threads %d, slots %d, context %d, chunk %d", opt->threads, opt->limits.slots, opt->limits.context,
               opt->limits.chunk);
    cl_chip *c = cl_calloc(1, sizeof *c, "the chip", err);
    if (!c) return err->code;
    c->stage = *stage;
    c->opt = *opt;
    c->trace = trace;
    cl_code code = create(c, file, parts, n_parts, err);
    if (code) {
        chip_free(c);
        return code;
    }
    *out = (cl_chip_table){.ctx = c,
                           .step = chip_step,
                           .sample = chip_sample,
                           .traffic = chip_traffic,
                           .sizes = chip_sizes,
                           .routing = chip_routing,
                           .cache_first = cache_first,
                           .cache_out = cache_out,
                           .cache_expect = cache_expect,
                           .cache_in = cache_in,
                           .kernels = c->k->name,
                           .free = chip_free};
    return CL_OK;
}

/* --- probe --- */

/* Sum of the 64-bit words of a block, which is aligned and a multiple of 64 bytes. */
static uint64_t read_words(const unsigned char *p, size_t bytes)
{
    enum { AHEAD = 8192 };
    const uint64_t *w = (const uint64_t *)__builtin_assume_aligned(p, 64);
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < bytes / 8; i += 8) {
        __builtin_prefetch((const void *)((uintptr_t)(w + i) + AHEAD), 0, 2); /* as the products do */
        for (int j = 0; j < 8; j++) sum[j] += w[i + (size_t)j];
    }
    for (int j = 1; j < 8; j++) sum[0] += sum[j];
    return sum[0];
}

double probe_read(const unsigned char *data, size_t bytes, int threads, int64_t times, double *cpu_s)
{
    volatile uint64_t sink = 0;
    uint64_t sum = 0, most = 0, start = cl_now_ns();
#pragma omp parallel num_threads(threads) reduction(+ : sum) reduction(max : most)
    {
        uint64_t begun = cl_thread_cpu_ns();
        team t = {.id = omp_get_thread_num(), .n = omp_get_num_threads()};
        int64_t a, b;
        team_share(&t, (int64_t)(bytes / 64), &a, &b);
        for (int64_t i = 0; i < times; i++) {
            sum += read_words(data + 64 * a, 64 * (size_t)(b - a));
            __asm__ volatile("" ::: "memory"); /* so that every pass reads again */
        }
        most = cl_thread_cpu_ns() - begun;
    }
    sink = sum;
    (void)sink;
    if (cpu_s) *cpu_s = (double)most * 1e-9;
    return (double)(cl_now_ns() - start) * 1e-9;
}

/* Median of three. */
static double probe(const unsigned char *data, size_t bytes, int threads)
{
    enum { RUNS = 3, LEAST = 64 << 20 };
    if (!bytes) return 0;
    int64_t times = ((int64_t)LEAST + (int64_t)bytes - 1) / (int64_t)bytes;
    double s[RUNS];
    for (int i = 0; i < RUNS; i++) s[i] = probe_read(data, bytes, threads, times, NULL);
    team_rest_openmp();
    return (double)times * (double)bytes / cl_median(s, RUNS);
}

double cl_chip_probe(cl_chip *c) { return probe(c->slice.data, c->slice.bytes, c->opt.threads); }

double cl_chip_probe_memory(size_t bytes, int threads)
{
    bytes = (bytes + 63) / 64 * 64;
    unsigned char *data = cl_malloc_aligned(bytes, "a probe", NULL);
    if (!data) return 0;
    memset(data, 1, bytes);
    double rate = probe(data, bytes, threads);
    cl_free_aligned(data, bytes);
    return rate;
}
