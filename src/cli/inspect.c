/* inspect.c: `chipline inspect`: what a model is, and what a token costs in it. */
#include <stdarg.h>
#include <stdlib.h>

#include "chipline/cost.h"
#include "model_arg.h"
#include "options.h"

static const struct argp_option options[] =
    {ROW_JSON("{\"parameters\": {\"total\", \"active\", \"active_without_tables\"}, \"bytes\": {FORMAT: n}, "
              "\"read_bytes_per_token\", "
              "\"kv_bytes_per_token\", \"layers\": [...], ...}",
              0),
     {0}};

typedef struct inspect_cli {
    cl_err *err;
    const char *model;
    bool json;
} inspect_cli;

static error_t parse(int key, char *arg, struct argp_state *st)
{
    inspect_cli *o = st->input;
    switch (key) {
    case OPT_JSON: o->json = true; break;
    case ARGP_KEY_ARG: return cli_argument(o->err, "MODEL", arg, &o->model);
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

enum { KV_BYTES = 2 }; /* per number of the cache, as published figures count: bf16 */

typedef struct layer_numbers {
    uint64_t parameters, bytes, read, kv;
} layer_numbers;

/* One layer's numbers; malloced. *read: of a token, the whole model. */
static layer_numbers *count_layers(const cl_model *m, uint64_t *read, cl_err *err)
{
    layer_numbers *n = cl_calloc((size_t)m->spec.n_layers, sizeof *n, "layers", err);
    uint64_t *reads = cl_malloc((size_t)m->spec.n_layers, sizeof *reads, "layers", err);
    if (!n || !reads) {
        free(n);
        free(reads);
        return NULL;
    }
    *read = cl_model_token_bytes(m, reads);
    for (int i = 0; i < m->spec.n_layers; i++) n[i].read = reads[i];
    free(reads);
    for (int i = 0; i < m->n_tensors; i++) {
        const cl_tensor *t = &m->tensors[i];
        if (t->layer < 0) continue;
        n[t->layer].parameters += (uint64_t)cl_tensor_rows(t) * (uint64_t)t->cols;
        n[t->layer].bytes += cl_tensor_bytes(t);
    }
    for (int i = 0; i < m->spec.n_layers; i++) {
        const cl_attention *a = &m->spec.layers[i].attn;
        n[i].kv = KV_BYTES * (uint64_t)cl_attention_cached(a) * (uint64_t)cl_attention_cached_dim(a);
    }
    return n;
}

/* --- JSON: the spec's own keys, and the numbers beside them --- */

static void set_int(json_t *j, const char *key, uint64_t n)
{
    json_object_set_new(j, key, json_integer((json_int_t)n));
}

static cl_code to_json(const model_arg *a, const cl_model_counts *n, uint64_t read, const layer_numbers *layers,
                       json_t **out, cl_err *err)
{
    const cl_model *m = &a->model;
    cl_code c = cl_spec_to_json(&m->spec, out, err);
    if (c != CL_OK) return c;
    json_t *j = *out, *parameters = json_object(), *bytes = json_object();
    set_int(parameters, "total", n->parameters);
    set_int(parameters, "active", n->active_parameters);
    set_int(parameters, "active_without_tables", n->active_without_tables);
    for (int f = 0; f < CL_FORMATS; f++)
        if (n->bytes[f]) set_int(bytes, cl_format_get((cl_format)f)->name, n->bytes[f]);
    json_object_set_new(j, "parameters", parameters);
    json_object_set_new(j, "bytes", bytes);
    set_int(j, "read_bytes_per_token", read);
    set_int(j, "kv_bytes_per_token", n->kv_values * KV_BYTES);
    set_int(j, "tensors", (uint64_t)m->n_tensors);
    for (int i = 0; i < m->spec.n_layers; i++) {
        json_t *l = json_array_get(json_object_get(j, "layers"), (size_t)i);
        set_int(l, "parameters", layers[i].parameters);
        set_int(l, "bytes", layers[i].bytes);
        set_int(l, "read_bytes_per_token", layers[i].read);
        set_int(l, "kv_bytes_per_token", layers[i].kv);
    }
    if (!a->file) return CL_OK;
    char sum[17];
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)cl_model_file_checksum(a->file));
    json_object_set_new(j, "source", json_string(cl_model_file_source(a->file)));
    json_object_set_new(j, "checksum", json_string(sum));
    return CL_OK;
}

/* --- for people --- */

static const char *human_count(double n, char buf[32])
{
    static const char *const units[] = {"", " k", " M", " B", " T"};
    int u = 0;
    for (; n >= 999.5 && u < 4; u++) n /= 1000;
    snprintf(buf, 32, u == 0 ? "%.0f%s" : n < 9.995 ? "%.2f%s" : n < 99.95 ? "%.1f%s" : "%.0f%s", n, units[u]);
    return buf;
}

enum { TEXT = 200 }; /* of one layer's attention, or of its feed-forward */

static void append(char buf[TEXT], const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void append(char buf[TEXT], const char *fmt, ...)
{
    size_t at = strlen(buf);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf + at, TEXT - at, fmt, ap);
    va_end(ap);
}

static void describe_attention(const cl_spec *s, const cl_attention *a, char buf[TEXT])
{
    static const char *const norms[] = {"", ", q/k norm", ", q/k norm (whole)", ", q/k norm (no weights)"};
    buf[0] = 0;
    if (a->kind == CL_ATTN_LATENT)
        append(buf, "%d heads x %d on latent %d + %d", a->heads, a->head_dim, a->kv_rank, a->rope_dim);
    else append(buf, "%d heads on %d kv x %d", a->heads, a->kv_heads, a->head_dim);
    if (a->window) append(buf, ", %s %d", a->chunked ? "chunk" : "window", a->window);
    append(buf, "%s%s%s", norms[a->qk_norm], a->qkv_bias || a->o_bias ? ", bias" : "", a->sinks ? ", sinks" : "");
    if (a->clip > 0) append(buf, ", clip %g", a->clip);
    if (a->rope < 0) append(buf, ", no positions");
    else if (a->kind != CL_ATTN_LATENT && s->ropes[a->rope].dims != a->head_dim)
        append(buf, ", %d rotated", s->ropes[a->rope].dims);
    if (a->temperature > 0) append(buf, ", temperature %g per %g", a->temperature, a->temperature_floor);
}

static void describe_ffn(const cl_ffn *f, char buf[TEXT])
{
    static const char *const scores[] = {"", ", sigmoid", ", softmax of the chosen"};
    buf[0] = 0;
    if (f->kind == CL_FFN_DENSE) append(buf, "dense %d", f->width);
    else append(buf, "%d of %d experts x %d", f->top_k, f->experts, f->width);
    if (f->shared_width) append(buf, ", shared %d", f->shared_width);
    if (f->groups > 1) append(buf, ", in %d of %d groups", f->top_groups, f->groups);
    append(buf, "%s%s%s", scores[f->scoring], f->glu == CL_GLU_CLAMPED ? ", clamped" : "", f->bias ? ", bias" : "");
}

enum { LINE = 2 * TEXT + 80, RANGES = 64 };

/* The layers that read like layer i, as runs: "0-2, 4-6, .., 44-46"; marks them. */
static void like(int i, int n, char (*lines)[LINE], bool *done, char out[RANGES])
{
    char run[32], last[32] = "";
    int runs = 0;
    out[0] = 0;
    for (int a = i, b; a < n; a = b + 1) {
        for (b = a; b < n && strcmp(lines[b], lines[i]) == 0; b++) done[b] = true;
        if (b == a) continue;
        snprintf(run, sizeof run, b == a + 1 ? "%d" : "%d-%d", a, b - 1);
        if (++runs > 2) memcpy(last, run, sizeof last);
        else snprintf(out + strlen(out), RANGES - strlen(out), "%s%s", runs > 1 ? ", " : "", run);
    }
    if (runs > 2) snprintf(out + strlen(out), RANGES - strlen(out), "%s, %s", runs > 3 ? ", .." : "", last);
}

/* Layers that read the same are one line. */
static cl_code print_layers(const cl_model *m, const layer_numbers *n, cl_err *err)
{
    int count = m->spec.n_layers, wide_a = 9, wide_f = 12;
    char attention[TEXT], ffn[TEXT], ranges[RANGES], a[32], b[32], c[32], d[32];
    char(*lines)[LINE] = cl_calloc((size_t)count, sizeof *lines, "layers", err);
    bool *done = cl_calloc((size_t)count, sizeof *done, "layers", err);
    if (!lines || !done) {
        free(lines);
        free(done);
        return CL_E_FIT;
    }
    for (int i = 0; i < count; i++) {
        describe_attention(&m->spec, &m->spec.layers[i].attn, attention);
        describe_ffn(&m->spec.layers[i].ffn, ffn);
        wide_a = (int)strlen(attention) > wide_a ? (int)strlen(attention) : wide_a;
        wide_f = (int)strlen(ffn) > wide_f ? (int)strlen(ffn) : wide_f;
    }
    for (int i = 0; i < count; i++) {
        describe_attention(&m->spec, &m->spec.layers[i].attn, attention);
        describe_ffn(&m->spec.layers[i].ffn, ffn);
        snprintf(lines[i], LINE, "%-*s  %-*s  %10s %9s %11s %9s", wide_a, attention, wide_f, ffn,
                 human_count((double)n[i].parameters, a), cl_human_bytes((double)n[i].bytes, b),
                 cl_human_bytes((double)n[i].read, c), cl_human_bytes((double)n[i].kv, d));
    }
    printf("\n%-20s %-*s  %-*s  %10s %9s %11s %9s\n", "layers", wide_a, "attention", wide_f, "feed-forward",
           "parameters", "bytes", "read/token", "kv/token");
    for (int i = 0; i < count; i++) {
        if (done[i]) continue;
        like(i, count, lines, done, ranges);
        printf("%-20s %s\n", ranges, lines[i]);
    }
    free(lines);
    free(done);
    return CL_OK;
}

static cl_code print_model(const char *path, const model_arg *a, const cl_model_counts *n, uint64_t read,
                           const layer_numbers *layers, cl_err *err)
{
    const cl_spec *s = &a->model.spec;
    char x[32], y[32];
    uint64_t all = 0;
    for (int f = 0; f < CL_FORMATS; f++) all += n->bytes[f];
    printf("%s: %s, %d layers, hidden width %d, vocabulary of %d%s, %d positions\n", path, s->family, s->n_layers,
           s->hidden, s->vocab, s->tied ? " (head and embedding are one table)" : "", s->context);
    if (a->file)
        printf("  from          %s\n  checksum      %016llx\n", cl_model_file_source(a->file),
               (unsigned long long)cl_model_file_checksum(a->file));
    printf("  parameters    %s, active in one token's pass %s", human_count((double)n->parameters, x),
           human_count((double)n->active_parameters, y));
    if (n->active_without_tables == n->active_parameters) printf("\n");
    else printf(" (%s without the embedding table)\n", human_count((double)n->active_without_tables, x));
    printf("  weights       %s in %d tensors:", cl_human_bytes((double)all, x), a->model.n_tensors);
    for (int f = 0, k = 0; f < CL_FORMATS; f++)
        if (n->bytes[f])
            printf("%s %s %s", k++ ? "," : "", cl_format_get((cl_format)f)->name,
                   cl_human_bytes((double)n->bytes[f], y));
    printf("\n  each token    reads %s of weights, adds %s to the KV cache (bf16)\n", cl_human_bytes((double)read, x),
           cl_human_bytes((double)n->kv_values * KV_BYTES, y));
    return print_layers(&a->model, layers, err);
}

static cl_code check(void *own, const cli_call *call)
{
    const inspect_cli *o = own;
    if (o->model) return CL_OK;
    return cl_fail(o->err, CL_E_USAGE, "inspect: needs a model (chipline inspect MODEL.h5, or a config.json)");
}

static cl_code run(void *own, const cli_call *call)
{
    const inspect_cli *o = own;
    cl_err *err = o->err;
    model_arg a;
    cl_code c = model_arg_open(o->model, &a, err);
    if (c != CL_OK) return c;
    cl_model_counts n;
    cl_model_count(&a.model, &n);
    uint64_t read;
    layer_numbers *layers = count_layers(&a.model, &read, err);
    json_t *j = NULL;
    if (!layers) c = CL_E_FIT;
    else if (!o->json) c = print_model(o->model, &a, &n, read, layers, err);
    else if ((c = to_json(&a, &n, read, layers, &j, err)) == CL_OK) {
        json_dumpf(j, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(j);
    free(layers);
    model_arg_close(&a);
    return c;
}

const cli_command command_inspect = {
    .name = "inspect",
    .args = "MODEL.h5|CONFIG.json",
    .what = "what a model is: layers, parameters, bytes a token touches",
    .argp = {.options = options,
             .parser = parse,
             .args_doc = "MODEL.h5|CONFIG.json",
             .doc = "What a model is: its layers, parameters (total, and active in one token's pass: with the whole "
                    "embedding table, "
                    "as most model cards count, and without it, as gpt-oss's does; the head counts in both), stored "
                    "bytes by number "
                    "format, weight bytes that a token reads, bytes it adds to the KV cache (bf16)."
                    "\vA config.json (or a folder with one) is taken in its own number formats (dtype, bf16 where it "
                    "names none, and "
                    "quantization_config).\n"},
    .size = sizeof(inspect_cli),
    .check = check,
    .run = run,
};
