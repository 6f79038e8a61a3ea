/* gathers.h: gathers of random regions against what they should bring. */
#ifndef CHIPLINE_RANKS_GATHERS_H
#define CHIPLINE_RANKS_GATHERS_H

#include "ranks_suite.h"

enum { MEMBERS = 128, REGIONS = 5, ROWS = 17, WIDTH = 40, STRIDE = WIDTH + 8 };
enum { HALF = REGIONS * ROWS * STRIDE }; /* numbers of one round; rounds take turns with two halves */

typedef struct plan {
    cl_region regions[REGIONS];
    int32_t cut[REGIONS][MEMBERS + 1], owner[REGIONS][ROWS];
    int n;
} plan;

/* The regions of a round: the same on all members. */
static inline void make_plan(plan *p, uint64_t *seed, float *memory, int members)
{
    float *at = memory;
    p->n = (int)(next(seed) % (REGIONS + 1));
    for (int k = 0; k < p->n; k++) {
        cl_region *r = &p->regions[k];
        unsigned kind = next(seed) % 3;
        *r = (cl_region){.data = at,
                         .rows = (int)(next(seed) % (ROWS + 1)),
                         .width = (int)(next(seed) % (WIDTH + 1)),
                         .to = -1};
        if (next(seed) % 3 == 0) r->to = (int)(next(seed) % (unsigned)members);
        r->stride = (size_t)r->width + next(seed) % 8;
        if (kind != 1) r->cut = p->cut[k];
        if (kind != 0) r->owner = p->owner[k];
        p->cut[k][0] = (int32_t)(next(seed) % 4 == 0 ? next(seed) % (unsigned)(r->width + 1) : 0);
        for (int m = 1; m <= members; m++) {
            int32_t before = p->cut[k][m - 1];
            p->cut[k][m] = before + (int32_t)(next(seed) % (unsigned)(r->width - before + 1));
        }
        for (int i = 0; i < r->rows; i++) p->owner[k][i] = (int32_t)(next(seed) % (unsigned)members);
        at += (size_t)r->rows * r->stride;
    }
}

static inline bool in_cut(const cl_region *r, int from, int to, int col)
{
    return r->cut ? col >= r->cut[from] && col < r->cut[to] : col < r->width;
}

/* Has m made this number? Does m need it? Straight from the words of group.h. */
static inline bool makes(const cl_region *r, int m, int members, int row, int col)
{
    if (r->owner) return r->owner[row] == m && in_cut(r, 0, members, col);
    return in_cut(r, m, m + 1, col);
}

static inline bool needs(const cl_region *r, int m, int members, int row, int col)
{
    if (r->to >= 0 && r->to != m) return false;
    return r->owner && r->cut ? in_cut(r, m, m + 1, col) : in_cut(r, 0, members, col);
}

/* The number that belongs there: its bits are anything but a NaN. */
static inline float number(int round, int k, int row, int col)
{
    uint64_t seed = (uint64_t)round * 1000003 + (uint64_t)(k * 10007 + row * 101 + col);
    (void)next(&seed);
    return (float)(int)next(&seed);
}

/* Writes what m has made of the plan, or what it needs of the others' into a copy; returns how many numbers the
 * others made. */
static inline uint64_t write_numbers(const plan *p, int round, int m, int members, float *memory, float *copy)
{
    uint64_t others = 0;
    for (int k = 0; k < p->n; k++)
        for (int i = 0; i < p->regions[k].rows; i++)
            for (int c = 0; c < p->regions[k].width; c++) {
                const cl_region *r = &p->regions[k];
                bool own = makes(r, m, members, i, c), wanted = copy && !own && needs(r, m, members, i, c);
                size_t at = (size_t)((float *)r->data - memory) + (size_t)i * r->stride + (size_t)c;
                if (copy ? wanted : own) (copy ? copy : memory)[at] = number(round, k, i, c);
                others += wanted;
            }
    return others;
}

/* In shared memory the others' numbers come whether needed or not: the copy keeps them as they are then. */
static inline void see_others(const plan *p, int m, int members, const float *memory, float *copy)
{
    for (int k = 0; k < p->n; k++)
        for (int i = 0; i < p->regions[k].rows; i++)
            for (int c = 0; c < p->regions[k].width; c++) {
                const cl_region *r = &p->regions[k];
                size_t at = (size_t)((float *)r->data - memory) + (size_t)i * r->stride + (size_t)c;
                if (!makes(r, m, members, i, c) && !needs(r, m, members, i, c)) copy[at] = memory[at];
            }
}

static inline void random_gathers(cl_line *l, int rounds, uint64_t seed)
{
    static float want[HALF];
    const cl_group *g = cl_line_group(l);
    uint64_t own_seed = seed + (uint64_t)g->member;
    bool same = true, counted = true, shared = l->shared.block != NULL;
    for (int round = 0; round < rounds; round++) {
        plan p;
        float *memory = g->memory + (round & 1 ? HALF : 0);
        make_plan(&p, &seed, memory, g->members);
        write_numbers(&p, round, g->member, g->members, memory, NULL);
        dawdle(&own_seed);
        if (!shared) memcpy(want, memory, sizeof want);
        uint64_t bytes = 0;
        const cl_gathered got = g->gather(g->ctx, p.regions, p.n);
        if (shared) memcpy(want, memory, sizeof want);
        uint64_t numbers = write_numbers(&p, round, g->member, g->members, memory, want);
        if (shared) see_others(&p, g->member, g->members, memory, want);
        same = same && !memcmp(want, memory, sizeof want);
        for (int k = 0; k < p.n; k++) bytes += cl_region_bytes(&p.regions[k], g->member, g->members);
        counted = counted && got.bytes == bytes && bytes == numbers * sizeof(float);
        dawdle(&own_seed);
    }
    CU_ASSERT_TRUE(same);
    CU_ASSERT_TRUE(counted);
}

#endif
