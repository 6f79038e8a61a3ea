/* split.c: how the chips of one stage share a tensor: runs of rows, heads, experts. */
#include "chipline/group.h"
#include "chipline/plan.h"

cl_range cl_split(int64_t n, int64_t unit, int members, int member)
{
    if (unit < 1 || members < 1 || member < 0 || member >= members)
        CL_BUG("chip %d of %d in units of %lld", member, members, (long long)unit);
    int64_t units = (n + unit - 1) / unit, each = units / members, longer = units % members;
    int64_t first = each * member + (member < longer ? member : longer), end = first + each + (member < longer);
    first = first * unit < n ? first * unit : n;
    end = end * unit < n ? end * unit : n;
    return (cl_range){first, end - first};
}

/* Scales are shared by 128 rows: a panel that begins anywhere among the first 128 mixes none. */
cl_range cl_split_rows(int64_t n, int members, int member)
{
    bool narrow = n <= CL_SPLIT_NARROW && n < (int64_t)CL_SPLIT * members;
    return cl_split(n, narrow ? 1 : CL_SPLIT, members, member);
}

static cl_heads by_kv_heads(const cl_attention *a, int members, int member)
{
    int group = a->heads / a->kv_heads;
    cl_range kv = cl_split(a->kv_heads, 1, members, member);
    return (cl_heads){(int)kv.first * group, (int)kv.n * group, (int)kv.first, (int)kv.n};
}

static cl_heads by_query_heads(const cl_attention *a, int members, int member)
{
    int group = a->heads / a->kv_heads;
    cl_range q = cl_split(a->heads, 1, members, member);
    int first = (int)q.first, n = (int)q.n, kv0 = first / group;
    return (cl_heads){first, n, kv0, n ? (first + n - 1) / group - kv0 + 1 : 0};
}

/* Query and kv heads of the chip that has the most when query heads are split. */
static int most_by_query_heads(const cl_attention *a, int members)
{
    int most = 0;
    for (int i = 0; i < members && i < a->heads; i++) {
        cl_heads h = by_query_heads(a, members, i);
        most = h.q + h.kv > most ? h.q + h.kv : most;
    }
    return most;
}

/* Whether the chip that has the most has less of them when query heads are split. The first chip tells nearly always:
 * it has as many query heads as any, and those begin with a kv head; elsewhere they may touch one more. */
static bool query_heads_split(const cl_attention *a, int members)
{
    const int group = a->heads / a->kv_heads;
    const int q = (a->heads + members - 1) / members, by_kv = (a->kv_heads + members - 1) / members * (group + 1);
    if (q + (q + group - 1) / group >= by_kv) return false;
    return q + (q + group - 2) / group + 1 < by_kv || most_by_query_heads(a, members) < by_kv;
}

cl_heads cl_split_heads(const cl_attention *a, int members, int member)
{
    if (a->kind == CL_ATTN_LATENT) {
        cl_range q = cl_split(a->heads, 1, members, member);
        return (cl_heads){(int)q.first, (int)q.n, 0, q.n > 0};
    }
    if (members == 1) return (cl_heads){0, a->heads, 0, a->kv_heads};
    return query_heads_split(a, members) ? by_query_heads(a, members, member) : by_kv_heads(a, members, member);
}

/* Rows of whole heads; where rows share scales, outwards to whole runs of CL_SPLIT. */
static cl_range head_rows(const cl_tensor *t, int first, int n, int dim)
{
    int64_t from = (int64_t)first * dim, end = from + (int64_t)n * dim;
    if (n && cl_format_tile_rows(t->format) > 1) {
        from -= from % CL_SPLIT;
        end = (end + CL_SPLIT - 1) / CL_SPLIT * CL_SPLIT;
        end = end < t->rows ? end : t->rows;
    }
    return n ? (cl_range){from, end - from} : (cl_range){0, 0};
}

/* 30 GB/s times 8 us in memory (most of it waiting for the slowest), 16 us by messages. */
static double gather_reads(const cl_place_options *o)
{
    if (o->gather_reads > 0) return o->gather_reads;
    return o->shared_memory ? 250e3 : 500e3;
}

bool cl_split_routers(const cl_spec *s, const cl_place_options *o, int members)
{
    int64_t most = 0; /* numbers of a router */
    for (int i = 0; i < s->n_layers; i++) {
        const cl_ffn *f = &s->layers[i].ffn;
        if (f->kind == CL_FFN_MOE && f->experts * s->hidden > most) most = f->experts * s->hidden;
    }
    if (!most || members < 2 || o->routers == CL_ROUTERS_COPIED) return false;
    const double spared = 2 * (double)most * (members - 1) / members;
    return o->routers == CL_ROUTERS_SPLIT || spared > cl_exchange_rounds(members) * gather_reads(o);
}

cl_range cl_tensor_rows_of(const cl_spec *s, const cl_tensor *t, const cl_stage *stage, bool whole_experts, int member)
{
    const int members = stage->n_ranks;
    const cl_attention *a = t->layer >= 0 ? &s->layers[t->layer].attn : NULL;
    cl_range all = {0, t->rows};
    cl_heads h;
    if (cl_role_is_expert(t->role) && whole_experts) return all;
    if (t->role == CL_T_ROUTER && stage->split_routers) return cl_split_rows(t->rows, members, member);
    switch (t->role) {
    case CL_T_Q: h = cl_split_heads(a, members, member); return head_rows(t, h.q0, h.q, a->head_dim);
    case CL_T_K:
    case CL_T_V: h = cl_split_heads(a, members, member); return head_rows(t, h.kv0, h.kv, a->head_dim);
    case CL_T_K_B:
    case CL_T_V_B: return cl_split_heads(a, members, member).q ? all : (cl_range){0, 0};
    case CL_T_Q_BIAS:
    case CL_T_K_BIAS:
    case CL_T_V_BIAS:
    case CL_T_ATTN_NORM:
    case CL_T_Q_A_NORM:
    case CL_T_KV_A_NORM:
    case CL_T_Q_NORM:
    case CL_T_K_NORM:
    case CL_T_FFN_NORM:
    case CL_T_FINAL_NORM:
    case CL_T_SINKS:
    case CL_T_ROUTER:
    case CL_T_ROUTER_BIAS:
    case CL_T_SELECT_BIAS: return all;
    default: return cl_split_rows(t->rows, members, member);
    }
}
