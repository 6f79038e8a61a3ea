/* pack.c: numbers of a gather's regions into messages, and out of them. */
#include "pack.h"

#include <string.h>

static bool belongs(const packing *p, const cl_region *r)
{
    if (r->to >= 0) return p->sort == PACK_ONE && r->to == p->to;
    return p->sort == (r->owner && r->cut ? PACK_OWN : PACK_ALL);
}

/* Columns first .. end - 1 of each row that are meant, one run after the other: *i, 0 at first, says which. */
static bool next_run(const packing *p, const cl_region *r, int from, int dest, int *i, int *first, int *end)
{
    const domains *d = p->domains;
    if (!r->cut || (r->owner && p->sort == PACK_ONE)) { /* the same columns of every row */
        *first = r->cut ? r->cut[p->to] : 0;
        *end = r->cut ? r->cut[p->to + 1] : r->width;
        return (*i)++ == 0;
    }
    const int domain = r->owner ? dest : from;
    const int32_t *member = d->member + d->start[domain], n = domains_size(d, domain);
    if (*i == n) return false;
    *first = r->cut[member[*i]];
    while (*i + 1 < n && member[*i + 1] == member[*i] + 1) ++*i;
    *end = r->cut[member[(*i)++] + 1];
    return true;
}

void pack_count_rows(const packing *p, int32_t *rows)
{
    const int n = p->domains->n;
    for (int k = 0; k < p->n; k++) {
        const cl_region *r = &p->regions[k];
        for (int d = 0; d < n; d++) rows[k * n + d] = r->owner ? 0 : r->rows;
        for (int i = 0; r->owner && i < r->rows; i++) rows[k * n + p->domains->of[r->owner[i]]]++;
    }
}

size_t pack_count(const packing *p, int from, int dest)
{
    size_t sum = 0;
    for (int k = 0; k < p->n; k++) {
        const cl_region *r = &p->regions[k];
        size_t width = 0;
        int i = 0, first, end;
        if (!belongs(p, r)) continue;
        while (next_run(p, r, from, dest, &i, &first, &end)) width += (size_t)(end - first);
        sum += width * (size_t)p->rows[k * p->domains->n + from];
    }
    return sum;
}

/* A row of a region, or of a run of it: from packed numbers or to them. */
typedef size_t (*mover)(float *row, float *packed, size_t n);

static size_t pack_row(float *row, float *packed, size_t n)
{
    memcpy(packed, row, n * sizeof *row);
    return n;
}

static size_t unpack_row(float *row, float *packed, size_t n)
{
    memcpy(row, packed, n * sizeof *row);
    return n;
}

static size_t move(const packing *p, int from, int dest, float *packed, mover one)
{
    float *at = packed;
    for (int k = 0; k < p->n; k++) {
        const cl_region *r = &p->regions[k];
        for (int row = 0; belongs(p, r) && row < r->rows; row++) {
            int i = 0, first, end;
            if (r->owner && p->domains->of[r->owner[row]] != from) continue;
            while (next_run(p, r, from, dest, &i, &first, &end))
                at += one((float *)r->data + (size_t)row * r->stride + first, at, (size_t)(end - first));
        }
    }
    return (size_t)(at - packed);
}

size_t pack(const packing *p, int from, int dest, float *packed) { return move(p, from, dest, packed, pack_row); }

size_t unpack(const packing *p, int from, int dest, const float *packed)
{
    return move(p, from, dest, (float *)(uintptr_t)packed, unpack_row);
}
