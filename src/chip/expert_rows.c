/* expert_rows.c: which rows of a layer's experts there are, who computes them, and in what order. */
#include <string.h>

#include "ffn.h"

enum { READ = 3 }; /* reading a panel takes about as long as computing 3 rows with it */

static int rows_of(const expert_rows *rows, int e) { return rows->first[e + 1] - rows->first[e]; }

void rows_group(expert_rows *rows, const cl_ffn *f, int n, choice *choices, uint64_t *chosen)
{
    memset(rows->first, 0, ((size_t)f->experts + 1) * sizeof *rows->first);
    for (int i = 0; i < n * f->top_k; i++) {
        rows->first[choices[i].expert + 1]++;
        chosen[choices[i].expert]++;
    }
    rows->n_touched = 0;
    for (int e = 0; e < f->experts; e++) {
        if (rows->first[e + 1]) rows->touched[rows->n_touched++] = e;
        rows->first[e + 1] += rows->first[e];
    }
    /* first[e] moves to the end of e's rows while they are given out, then one place on gives the beginnings back */
    for (int i = 0; i < n * f->top_k; i++) {
        choice *ch = &choices[i];
        ch->row = rows->first[ch->expert]++;
        rows->token[ch->row] = i / f->top_k;
        rows->weight[ch->row] = ch->weight;
    }
    memmove(rows->first + 1, rows->first, (size_t)f->experts * sizeof *rows->first);
    rows->first[0] = 0;
    rows->n_own = n * f->top_k;
}

/* An expert that several chips hold goes to the one that has least to do so far; all chips see the same choices and
 * come to the same end. */
void rows_deal(expert_rows *rows, const cl_expert_map *map, int member, int members)
{
    int mine = 0;
    memset(rows->load, 0, (size_t)members * sizeof *rows->load);
    rows->n_own = 0;
    for (int i = 0; i < rows->n_touched; i++) {
        int e = rows->touched[i];
        int32_t best = map->member[map->first[e]];
        for (int32_t k = map->first[e] + 1; k < map->first[e + 1]; k++)
            if (rows->load[map->member[k]] < rows->load[best]) best = map->member[k];
        rows->load[best] += READ + rows_of(rows, e);
        for (int32_t row = rows->first[e]; row < rows->first[e + 1]; row++) {
            rows->owner[row] = best;
            if (best == member) rows->own[rows->n_own++] = row;
        }
        if (best == member) rows->touched[mine++] = e;
    }
    rows->n_touched = mine;
}

/* A panel costs its bytes once and some arithmetic per row. */
bool rows_next(const expert_rows *rows, const crew_member *m, int64_t panels, expert_run *run)
{
    int64_t total = panels * ((int64_t)READ * rows->n_touched + rows->n_own), a, b;
    crew_range(m, total, &a, &b);
    while (++run->i < rows->n_touched) {
        int e = rows->touched[run->i];
        int64_t cost = READ + rows_of(rows, e), from = a - run->cost, to = b - run->cost;
        run->cost += cost * panels;
        run->p0 = from <= 0 ? 0 : (from + cost - 1) / cost;
        run->p1 = to <= 0 ? 0 : (to + cost - 1) / cost;
        if (run->p1 > panels) run->p1 = panels;
        run->expert = e;
        run->first = rows->first[e];
        run->n = rows_of(rows, e);
        if (run->p0 < run->p1) return true;
    }
    return false;
}
