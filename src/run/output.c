/* output.c: the end of the line: logits become samples, digests and rows of the logits file. */
#include <stdlib.h>

#include "run_internal.h"

/* NumPy's .npy, version 1.0: a header of fixed length, so that it can be rewritten when the number of rows is known. */
enum { NPY_HEADER = 128 };

static void npy_header(char h[NPY_HEADER + 1], int64_t rows, int vocab)
{
    memset(h, ' ', NPY_HEADER);
    memcpy(h, "\x93NUMPY\x01\x00", 8);
    h[8] = (char)(NPY_HEADER - 10);
    h[9] = 0;
    int n = snprintf(h + 10, NPY_HEADER - 10, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %d), }",
                     (long long)rows, vocab);
    h[10 + n] = ' ';
    h[NPY_HEADER - 1] = '\n';
}

cl_code cl_output_create(cl_output *o, const cl_limits *limits, int allowed, int members, const char *logits_path,
                         cl_err *err)
{
    o->members = members;
    o->vocab = limits->vocab;
    o->allowed = allowed > 0 && allowed < limits->vocab ? allowed : limits->vocab;
    cl_code c = cl_sampler_create(&o->sampler, limits->vocab, err);
    if (c != CL_OK) return c;
    if (!(o->slots = cl_calloc((size_t)limits->slots, sizeof *o->slots, "output slots", err))) return CL_E_FIT;
    if (!(o->merged = cl_calloc((size_t)members * CL_CANDIDATES, sizeof *o->merged, "candidates", err)))
        return CL_E_FIT;
    if (!(o->sampled = cl_calloc((size_t)limits->slots, sizeof *o->sampled, "samples", err))) return CL_E_FIT;
    for (int i = 0; i < limits->slots; i++)
        if (!(o->slots[i].digest = XXH3_createState())) return cl_fail(err, CL_E_FIT, "digest: out of memory");
    if (!logits_path) return CL_OK;
    char head[NPY_HEADER + 1];
    npy_header(head, 0, o->vocab);
    if ((c = cl_newfile_open(&o->logits, logits_path, err)) != CL_OK) return c;
    return fwrite(head, NPY_HEADER, 1, o->logits.f) == 1 ? CL_OK
                                                         : cl_fail(err, CL_E_RUN, "%s: write failed", logits_path);
}

cl_code cl_output_finish(cl_output *o, cl_err *err)
{
    if (!o->logits.f) return CL_OK;
    char head[NPY_HEADER + 1];
    npy_header(head, o->logits_rows, o->vocab);
    if (fseek(o->logits.f, 0, SEEK_SET) == 0 && fwrite(head, NPY_HEADER, 1, o->logits.f) == 1)
        return cl_newfile_commit(&o->logits, err);
    cl_code c = cl_fail(err, CL_E_RUN, "%s: write failed", o->logits.path);
    cl_newfile_drop(&o->logits);
    return c;
}

void cl_output_free(cl_output *o, int slots)
{
    cl_newfile_drop(&o->logits);
    for (int i = 0; o->slots && i < slots; i++) XXH3_freeState(o->slots[i].digest);
    free(o->slots);
    free(o->sampled);
    free(o->merged);
    cl_sampler_free(o->sampler);
}

static void remember(output_slot *s, const int32_t *ids, int n)
{
    if (n > CL_REPEAT_WINDOW) ids += n - CL_REPEAT_WINDOW, n = CL_REPEAT_WINDOW;
    int keep = s->n_recent + n > CL_REPEAT_WINDOW ? CL_REPEAT_WINDOW - n : s->n_recent;
    memmove(s->recent, s->recent + s->n_recent - keep, (size_t)keep * sizeof *ids);
    memcpy(s->recent + keep, ids, (size_t)n * sizeof *ids);
    s->n_recent = keep + n;
}

/* Logits of the ids that are here: all of them, or this chip's, whose best candidates are passed on. */
static void take_logits(void *ctx, int part, int token, const float *logits, int first, int n, float *numbers)
{
    cl_output *o = ctx;
    const cl_seq_part *p = &o->mb->parts[part];
    output_slot *s = &o->slots[p->slot];
    if (numbers) {
        cl_candidate best[CL_CANDIDATES];
        cl_sample_candidates(o->sampler, logits, first, n, o->allowed, &p->sampling, s->recent, s->n_recent,
                             o->candidates, best);
        memcpy(numbers, best, (size_t)o->candidates * sizeof *best);
        return;
    }
    if (p->flags & CL_PART_ROWS) {
        size_t bytes = (size_t)o->vocab * sizeof *logits;
        XXH3_64bits_update(s->digest, logits, bytes);
        if (o->logits.f) o->logits_rows += (int64_t)fwrite(logits, bytes, 1, o->logits.f);
        o->sampled[part].digest = XXH3_64bits_digest(s->digest);
    }
    if ((p->flags & CL_PART_SAMPLE) && token == p->n_tokens - 1)
        o->sampled[part].id =
            cl_sample(o->sampler, logits, o->allowed, &p->sampling, s->recent, s->n_recent, p->pos + p->n_tokens);
}

/* The candidates of all chips of the stage. */
static void take_candidates(void *ctx, int part, const float *numbers)
{
    cl_output *o = ctx;
    const cl_seq_part *p = &o->mb->parts[part];
    int n = o->members * o->candidates;
    memcpy(o->merged, numbers, (size_t)n * sizeof *o->merged);
    o->sampled[part].id = cl_sample_merged(o->sampler, o->merged, n, &p->sampling, p->pos + p->n_tokens);
}

/* How many candidates each chip must pass on for this micro-batch; 0: all logits are needed. The same on every chip. */
static int candidates_needed(const cl_output *o, const cl_microbatch *mb)
{
    int most = 0;
    for (int i = 0; i < mb->n_parts; i++) {
        const cl_seq_part *p = &mb->parts[i];
        int n = p->flags & CL_PART_SAMPLE ? cl_sample_candidates_needed(&p->sampling, o->allowed) : most;
        if ((p->flags & CL_PART_ROWS) || ((p->flags & CL_PART_SAMPLE) && !n)) return 0;
        most = n > most ? n : most;
    }
    return most;
}

void cl_output_step(cl_output *o, cl_chip *chip, const cl_microbatch *mb, const float *x)
{
    const int32_t *ids = mb->ids;
    for (int i = 0; i < mb->n_parts; ids += mb->parts[i++].n_tokens) {
        const cl_seq_part *p = &mb->parts[i];
        output_slot *s = &o->slots[p->slot];
        if (p->flags & CL_PART_FIRST) {
            s->n_recent = 0;
            XXH3_64bits_reset(s->digest);
        }
        remember(s, ids, p->n_tokens);
        o->sampled[i] = (cl_sampled){.slot = p->slot, .id = -1};
    }
    o->mb = mb;
    o->candidates = o->members > 1 ? candidates_needed(o, mb) : 0;
    const cl_head_reader reader = {.whole_rows = !o->candidates,
                                   .numbers = 2 * o->candidates,
                                   .row = take_logits,
                                   .merged = take_candidates,
                                   .ctx = o};
    cl_chip_head(chip, mb, x, &reader);
}
